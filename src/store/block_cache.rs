//! The LRU cache of opened blocks, limited in bytes.

use super::address::BlockAddr;
use super::layout::BLOCK_BYTES;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 16;
/// What an entry costs beside its block: the node, the hash table's slot and the allocator's share.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Blocks that memory is asked for at a time: one by one, the allocator would go to the kernel for each.
const SLAB_BLOCKS: usize = 64;

type Block = [u8; BLOCK_BYTES];

/// Some of the blocks, in memory that is given back to the shard itself, and to others only when its limit is lowered.
#[derive(Debug)]
struct Shard {
    /// Where the block of an address is, by number.
    places: LruCache<BlockAddr, usize, FxBuildHasher>,
    /// Block `n` is number `n % SLAB_BLOCKS` of slab `n / SLAB_BLOCKS`.
    slabs: Vec<Box<[Block]>>,
    /// Numbers below this have been used.
    used: usize,
    /// Numbers that were given back.
    free: Vec<usize>,
}

impl Shard {
    fn new() -> Self {
        Self {
            places: LruCache::unbounded_with_hasher(FxBuildHasher),
            slabs: Vec::new(),
            used: 0,
            free: Vec::new(),
        }
    }

    fn block(&mut self, place: usize) -> &mut Block {
        &mut self.slabs[place / SLAB_BLOCKS][place % SLAB_BLOCKS]
    }

    /// A place for one more block, at most `limit` of them, at the cost of the block that was used longest ago.
    fn room(&mut self, limit: usize) -> usize {
        if self.places.len() >= limit
            && let Some((_, place)) = self.places.pop_lru()
        {
            return place;
        }
        if let Some(place) = self.free.pop() {
            return place;
        }
        let place = self.used;
        self.hold(place + 1, limit);
        self.used += 1;
        place
    }

    /// Has memory for `count` blocks, and in the last slab for no more than `limit` of them.
    fn hold(&mut self, count: usize, limit: usize) {
        let (full, slab) = (limit / SLAB_BLOCKS, (count - 1) / SLAB_BLOCKS);
        let len = if slab < full { SLAB_BLOCKS } else { limit - full * SLAB_BLOCKS };
        match self.slabs.get_mut(slab) {
            None => self.slabs.push(vec![[0; BLOCK_BYTES]; len].into()),
            // The last one, from when the limit was another.
            Some(last) if last.len() < len => *last = resized(last, len),
            Some(_) => {}
        }
    }

    /// Gives up all but the `limit` blocks that were used last, and the memory of the others.
    fn shrink(&mut self, limit: usize) {
        while self.places.len() > limit {
            self.free.extend(self.places.pop_lru().map(|(_, place)| place));
        }
        if self.used > limit {
            // Of the places that stay, so many are free as are in use of those that go.
            self.free.retain(|place| *place < limit);
            for (addr, place) in self.used_last_comes_last() {
                let Some(to) = (if place < limit { Some(place) } else { self.free.pop() }) else { continue };
                if to != place {
                    let block = *self.block(place);
                    *self.block(to) = block;
                }
                self.places.put(addr, to);
            }
            self.used = limit;
        }
        self.slabs.truncate(self.used.div_ceil(SLAB_BLOCKS));
        self.slabs.shrink_to_fit();
        let rest = self.used % SLAB_BLOCKS;
        if let Some(last) = self.slabs.last_mut().filter(|last| rest > 0 && last.len() > rest) {
            *last = resized(last, rest);
        }
    }

    /// Takes all entries out of the table, which then has no memory any more.
    fn used_last_comes_last(&mut self) -> Vec<(BlockAddr, usize)> {
        let places = std::mem::replace(&mut self.places, LruCache::unbounded_with_hasher(FxBuildHasher));
        places.iter().rev().map(|(addr, place)| (*addr, *place)).collect()
    }
}

fn resized(slab: &[Block], len: usize) -> Box<[Block]> {
    let mut new = vec![[0; BLOCK_BYTES]; len];
    let kept = len.min(slab.len());
    new[..kept].copy_from_slice(&slab[..kept]);
    new.into()
}

/// Blocks whose seals have opened, by address. An address is written once, so an entry never goes stale.
#[derive(Debug)]
pub struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    /// A shard that is locked has no more blocks than this, or is about to lose some.
    blocks_per_shard: AtomicUsize,
}

fn blocks_per_shard(limit_bytes: usize) -> usize {
    limit_bytes / (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES) / SHARDS
}

impl BlockCache {
    /// A cache that takes at most `limit_bytes` of memory, bookkeeping included; 0 turns it off.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            blocks_per_shard: AtomicUsize::new(blocks_per_shard(limit_bytes)),
        }
    }

    /// Takes at most `limit_bytes` of memory from now on. What is too much, the blocks that were used longest ago, is given back when this
    /// returns.
    pub fn set_limit(&self, limit_bytes: usize) {
        let limit = blocks_per_shard(limit_bytes);
        let before = self.blocks_per_shard.swap(limit, Ordering::Relaxed);
        if limit < before {
            // Whoever locks one of them after this knows of the limit.
            self.shards.iter().for_each(|shard| shard.lock().shrink(limit));
        }
    }

    /// Takes no more memory from now on than now; returns how much that is.
    pub fn keep(&self) -> usize {
        let blocks = self.shards.iter().map(|shard| shard.lock().places.len()).max().unwrap_or(0);
        let bytes = blocks * SHARDS * (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES);
        self.set_limit(bytes);
        bytes
    }

    fn limit(&self) -> usize {
        self.blocks_per_shard.load(Ordering::Relaxed)
    }

    fn shard(&self, addr: BlockAddr) -> &Mutex<Shard> {
        // Neighbouring blocks go to one shard in runs of 8, so that a large read takes few locks.
        let mixed = (addr.segment ^ u64::from(addr.index >> 3)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[mixed as usize % SHARDS]
    }

    /// Copies the block into `out` (4096 bytes) if it is here.
    pub fn get(&self, addr: BlockAddr, out: &mut [u8]) -> bool {
        if self.limit() == 0 {
            return false;
        }
        let mut shard = self.shard(addr).lock();
        match shard.places.get(&addr).copied() {
            Some(place) => {
                out.copy_from_slice(shard.block(place));
                true
            }
            None => false,
        }
    }

    /// Keeps a copy of `block` (4096 bytes), at the cost of the block that was used longest ago.
    pub fn put(&self, addr: BlockAddr, block: &[u8]) {
        if self.limit() == 0 || block.len() != BLOCK_BYTES {
            return;
        }
        let mut shard = self.shard(addr).lock();
        let limit = self.limit();
        let place = match shard.places.get(&addr) {
            Some(place) => *place,
            None if limit == 0 => return,
            None => shard.room(limit),
        };
        shard.block(place).copy_from_slice(block);
        shard.places.put(addr, place);
    }

    /// Forgets a block that was freed.
    pub fn remove(&self, addr: BlockAddr) {
        let mut shard = self.shard(addr).lock();
        if let Some(place) = shard.places.pop(&addr) {
            shard.free.push(place);
        }
    }

    /// Forgets everything, and gives the memory back.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::new();
        }
    }

    /// Bytes of block contents held now.
    pub fn len_bytes(&self) -> usize {
        self.len() * BLOCK_BYTES
    }

    /// Bytes of memory that the blocks held now take, bookkeeping included.
    pub fn memory_bytes(&self) -> usize {
        self.len() * (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES)
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().places.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(index: u32) -> BlockAddr {
        BlockAddr { segment: 1, index }
    }

    #[test]
    fn the_byte_limit_holds_and_the_oldest_goes_first() {
        let limit = 64 * (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES);
        let cache = BlockCache::new(limit);
        for i in 0..10_000 {
            cache.put(addr(i), &[i as u8; BLOCK_BYTES]);
            assert!(cache.len_bytes() <= limit);
        }
        let mut out = [0; BLOCK_BYTES];
        assert!(cache.get(addr(9_999), &mut out) && out[0] == 9_999u32 as u8);
        assert!(!cache.get(addr(0), &mut out));
        cache.remove(addr(9_999));
        assert!(!cache.get(addr(9_999), &mut out));
    }

    #[test]
    fn blocks_that_come_and_go_keep_their_contents_and_take_no_more_memory() {
        let cache = BlockCache::new(SHARDS * 100 * (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES));
        let mut out = [0; BLOCK_BYTES];
        for round in 0..5u32 {
            for i in 0..10_000 {
                cache.put(addr(i), &[(i + round) as u8; BLOCK_BYTES]);
                cache.put(addr(i), &[(i ^ round) as u8; BLOCK_BYTES]);
                assert!(cache.get(addr(i), &mut out) && out == [(i ^ round) as u8; BLOCK_BYTES]);
                if i % 3 == 0 {
                    cache.remove(addr(i));
                    cache.remove(addr(i));
                }
                if i > 4 && cache.get(addr(i - 4), &mut out) {
                    assert_eq!(out, [((i - 4) ^ round) as u8; BLOCK_BYTES]);
                }
            }
        }
        for shard in &cache.shards {
            let shard = shard.lock();
            assert!(shard.slabs.iter().map(|slab| slab.len()).sum::<usize>() <= 100);
        }
    }

    /// Bytes for so many blocks in each shard.
    fn limit(blocks: usize) -> usize {
        SHARDS * blocks * (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES)
    }

    fn held(cache: &BlockCache) -> Vec<usize> {
        cache.shards.iter().map(|shard| shard.lock().slabs.iter().map(|slab| slab.len()).sum()).collect()
    }

    #[test]
    fn a_limit_that_is_lowered_leaves_what_was_used_last_and_gives_back_the_rest() {
        let cache = BlockCache::new(limit(200));
        let mut out = [0; BLOCK_BYTES];
        let contents = |i: u32| [(i % 251) as u8; BLOCK_BYTES];
        for i in 0..20_000 {
            cache.put(addr(i), &contents(i));
            if i % 7 == 0 {
                cache.remove(addr(i));
            }
        }
        let kept = |cache: &BlockCache| {
            let here = |i: &u32| cache.get(addr(*i), &mut [0; BLOCK_BYTES]);
            (0..20_000).filter(here).collect::<Vec<u32>>()
        };
        for blocks in [150, 131, 64, 63, 200, 1, 3] {
            let before = kept(&cache);
            cache.set_limit(limit(blocks));
            assert!(cache.memory_bytes() <= limit(blocks));
            assert!(held(&cache).iter().all(|held| *held <= blocks), "{:?}", held(&cache));
            let after = kept(&cache);
            // The latest of each shard, for they were looked at in order; and each with what was put there.
            for shard in &cache.shards {
                let of_it = |all: &[u32]| {
                    let of_it = all.iter().filter(|i| std::ptr::eq(cache.shard(addr(**i)), shard));
                    of_it.copied().collect::<Vec<u32>>()
                };
                let (before, after) = (of_it(&before), of_it(&after));
                assert!(before.ends_with(&after) && after.len() == before.len().min(blocks));
            }
            for i in after {
                assert!(cache.get(addr(i), &mut out) && out == contents(i), "{i}");
            }
        }
        // It grows again, also in the middle of a slab.
        for blocks in [50, 70, 200] {
            cache.set_limit(limit(blocks));
            for i in 0..20_000 {
                cache.put(addr(i), &contents(i));
            }
            assert_eq!(cache.memory_bytes(), limit(blocks));
            for i in kept(&cache) {
                assert!(cache.get(addr(i), &mut out) && out == contents(i), "{i}");
            }
        }
        let before = kept(&cache);
        cache.set_limit(limit(500));
        assert_eq!(cache.keep(), limit(200));
        assert_eq!(kept(&cache), before);
        cache.set_limit(0);
        assert_eq!((cache.memory_bytes(), held(&cache).iter().sum::<usize>()), (0, 0));
        cache.put(addr(1), &contents(1));
        assert!(!cache.get(addr(1), &mut out));
    }

    /// Whoever puts blocks in while the limit changes finds what was put in, and the limit holds in the end.
    #[test]
    fn a_limit_changes_while_the_cache_is_used() {
        let cache = BlockCache::new(limit(100));
        std::thread::scope(|scope| {
            for thread in 0..2u32 {
                let cache = &cache;
                scope.spawn(move || {
                    for i in 0..30_000u32 {
                        let block = thread * 100_000 + i % 5000;
                        cache.put(addr(block), &[(block % 251) as u8; BLOCK_BYTES]);
                        let mut out = [0; BLOCK_BYTES];
                        let other = thread * 100_000 + i * 31 % 5000;
                        if cache.get(addr(other), &mut out) {
                            assert_eq!(out, [(other % 251) as u8; BLOCK_BYTES]);
                        }
                    }
                });
            }
            for round in 0..200 {
                cache.set_limit(limit([100, 3, 65, 0, 30][round % 5]));
            }
            cache.set_limit(limit(7));
        });
        assert!(cache.memory_bytes() <= limit(7));
        assert!(held(&cache).iter().all(|held| *held <= 7));
    }

    #[test]
    fn a_limit_of_zero_turns_it_off() {
        let cache = BlockCache::new(0);
        cache.put(addr(1), &[1; BLOCK_BYTES]);
        assert!(!cache.get(addr(1), &mut [0; BLOCK_BYTES]));
        assert_eq!(cache.len_bytes(), 0);
    }
}
