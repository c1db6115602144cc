//! The LRU cache of opened blocks, limited in bytes.

use super::address::BlockAddr;
use super::layout::BLOCK_BYTES;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

const SHARDS: usize = 16;
/// What an entry costs beside its block: the node, the hash table's slot and the allocator's share.
const ENTRY_OVERHEAD_BYTES: usize = 128;

type Block = Box<[u8; BLOCK_BYTES]>;
type Shard = Mutex<LruCache<BlockAddr, Block, FxBuildHasher>>;

/// Blocks whose seals have opened, by address. An address is written once, so an entry never goes stale.
#[derive(Debug)]
pub struct BlockCache {
    shards: Vec<Shard>,
    blocks_per_shard: usize,
}

impl BlockCache {
    /// A cache that takes at most `limit_bytes` of memory, bookkeeping included; 0 turns it off.
    pub fn new(limit_bytes: usize) -> Self {
        let shard = || Mutex::new(LruCache::unbounded_with_hasher(FxBuildHasher));
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            blocks_per_shard: limit_bytes / (BLOCK_BYTES + ENTRY_OVERHEAD_BYTES) / SHARDS,
        }
    }

    fn shard(&self, addr: BlockAddr) -> &Shard {
        // Neighbouring blocks go to one shard in runs of 8, so that a large read takes few locks.
        let mixed = (addr.segment ^ u64::from(addr.index >> 3)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[mixed as usize % SHARDS]
    }

    /// Copies the block into `out` (4096 bytes) if it is here.
    pub fn get(&self, addr: BlockAddr, out: &mut [u8]) -> bool {
        if self.blocks_per_shard == 0 {
            return false;
        }
        match self.shard(addr).lock().get(&addr) {
            Some(block) => {
                out.copy_from_slice(&block[..]);
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
        let mut room =
            if shard.len() >= self.blocks_per_shard { shard.pop_lru().map(|(_, b)| b) } else { None }
                .unwrap_or_else(|| Box::new([0; BLOCK_BYTES]));
        room.copy_from_slice(block);
        shard.put(addr, room);
    }

    /// Forgets a block that was freed.
    pub fn remove(&self, addr: BlockAddr) {
        self.shard(addr).lock().pop(&addr);
    }

    /// Bytes of block contents held now.
    pub fn len_bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum::<usize>() * BLOCK_BYTES
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
    fn a_limit_of_zero_turns_it_off() {
        let cache = BlockCache::new(0);
        cache.put(addr(1), &[1; BLOCK_BYTES]);
        assert!(!cache.get(addr(1), &mut [0; BLOCK_BYTES]));
        assert_eq!(cache.len_bytes(), 0);
    }
}
