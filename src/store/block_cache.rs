//! The LRU cache of opened blocks, limited in bytes.

use super::address::BlockAddr;
use super::layout::BLOCK_BYTES;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

const SHARDS: usize = 16;
/// What an entry costs beside its block: the node, the hash table's slot and the allocator's share.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Blocks that memory is asked for at a time: one by one, the allocator would go to the kernel for each.
const SLAB_BLOCKS: usize = 64;

type Block = [u8; BLOCK_BYTES];

/// Some of the blocks, in memory that is never given back but to the shard itself.
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
        if place.is_multiple_of(SLAB_BLOCKS) {
            self.slabs.push(vec![[0; BLOCK_BYTES]; SLAB_BLOCKS.min(limit - place)].into());
        }
        self.used += 1;
        place
    }
}

/// Blocks whose seals have opened, by address. An address is written once, so an entry never goes stale.
#[derive(Debug)]
pub struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    blocks_per_shard: usize,
}

impl BlockCache {
    /// A cache that takes at most `limit_bytes` of memory, bookkeeping included; 0 turns it off.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            blocks_per_shard: limit_bytes / (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES) / SHARDS,
        }
    }

    fn shard(&self, addr: BlockAddr) -> &Mutex<Shard> {
        // Neighbouring blocks go to one shard in runs of 8, so that a large read takes few locks.
        let mixed = (addr.segment ^ u64::from(addr.index >> 3)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[mixed as usize % SHARDS]
    }

    /// Copies the block into `out` (4096 bytes) if it is here.
    pub fn get(&self, addr: BlockAddr, out: &mut [u8]) -> bool {
        if self.blocks_per_shard == 0 {
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
        if self.blocks_per_shard == 0 || block.len() != BLOCK_BYTES {
            return;
        }
        let mut shard = self.shard(addr).lock();
        let place = match shard.places.get(&addr) {
            Some(place) => *place,
            None => shard.room(self.blocks_per_shard),
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
        self.shards.iter().map(|s| s.lock().places.len()).sum::<usize>() * BLOCK_BYTES
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

    #[test]
    fn a_limit_of_zero_turns_it_off() {
        let cache = BlockCache::new(0);
        cache.put(addr(1), &[1; BLOCK_BYTES]);
        assert!(!cache.get(addr(1), &mut [0; BLOCK_BYTES]));
        assert_eq!(cache.len_bytes(), 0);
    }
}
