//! Seals: the 16 bytes that tell whether a block is what was written at its address.

use super::address::BlockAddr;
use super::layout::SEAL_BYTES;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A block's seal as it is stored.
pub type Seal = [u8; SEAL_BYTES];

/// Makes and checks seals.
///
/// A plain store has a keyless checksum: XXH3-128 (<https://github.com/Cyan4973/xxHash>, specification 0.2.0) of the
/// 4096 bytes, seeded with the address, little-endian. It finds damage and misplaced blocks, not malice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealer {
    /// The keyless checksum of a plain store.
    Checksum,
}

/// The 64-bit seed of an address; distinct for all segment ids below 2^32, which is 256 PiB written.
fn seed(addr: BlockAddr) -> u64 {
    (addr.segment << 32) | u64::from(addr.index)
}

impl Sealer {
    /// The seal of `block` (4096 bytes) at `addr`.
    pub fn seal(self, addr: BlockAddr, block: &[u8]) -> Seal {
        match self {
            Self::Checksum => xxh3_128_with_seed(block, seed(addr)).to_le_bytes(),
        }
    }

    /// Whether `block` (4096 bytes), read at `addr`, is what `seal` was made for.
    #[must_use]
    pub fn open(self, addr: BlockAddr, block: &[u8], seal: &[u8]) -> bool {
        self.seal(addr, block) == seal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BLOCK_BYTES;

    #[test]
    fn a_seal_opens_only_its_own_bytes_at_its_own_place() {
        let sealer = Sealer::Checksum;
        let addr = BlockAddr { segment: 7, index: 300 };
        let mut block = vec![0xa5u8; BLOCK_BYTES];
        let seal = sealer.seal(addr, &block);
        assert!(sealer.open(addr, &block, &seal));
        assert!(!sealer.open(addr.plus(1), &block, &seal));
        assert!(!sealer.open(BlockAddr { segment: 8, index: 300 }, &block, &seal));
        block[4095] ^= 1;
        assert!(!sealer.open(addr, &block, &seal));
    }

    #[test]
    fn a_punched_block_does_not_open() {
        let zeros = vec![0u8; BLOCK_BYTES];
        for segment in 1..200 {
            assert!(!Sealer::Checksum.open(BlockAddr { segment, index: 0 }, &zeros, &[0; SEAL_BYTES]));
        }
    }

    #[test]
    fn the_checksum_is_the_documented_one() {
        // Changing this value changes the format.
        let seal = Sealer::Checksum.seal(BlockAddr { segment: 1, index: 2 }, &[0u8; BLOCK_BYTES]);
        assert_eq!(u128::from_le_bytes(seal), xxh3_128_with_seed(&[0; 4096], 0x1_0000_0002));
    }
}
