//! Seals: the 16 bytes that tell whether a block is what was written at its address.

use super::address::BlockAddr;
use super::layout::SEAL_BYTES;
use crate::crypto::{CipherError, EpochKeys, Keys};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A block's seal as it is stored.
pub type Seal = [u8; SEAL_BYTES];

/// Makes and checks seals.
///
/// A plain store has a keyless checksum: XXH3-128 (<https://github.com/Cyan4973/xxHash>, specification 0.2.0) of the
/// 4096 bytes, seeded with the address, little-endian. It finds damage and misplaced blocks, not malice.
///
/// An encrypted store has the tag of AES-256-GCM, whose nonce is the address.
#[derive(Clone, Debug)]
pub enum Sealer {
    /// The keyless checksum of a plain store.
    Checksum,
    /// Encryption under the keys of a store.
    Cipher(Keys),
}

/// The 64-bit seed of an address; distinct for all segment ids below 2^32, which is 256 PiB written.
fn seed(addr: BlockAddr) -> u64 {
    (addr.segment << 32) | u64::from(addr.index)
}

fn checksum(addr: BlockAddr, block: &[u8]) -> Seal {
    xxh3_128_with_seed(block, seed(addr)).to_le_bytes()
}

impl Sealer {
    /// The sealer of a store with these keys.
    pub fn new(keys: &Keys) -> Self {
        if keys.is_encrypted() { Self::Cipher(keys.clone()) } else { Self::Checksum }
    }

    /// The checksum of `block` (4096 bytes) at `addr`, with which it is stored as it is; `None` if it must not be.
    pub fn checksum(&self, addr: BlockAddr, block: &[u8]) -> Option<Seal> {
        match self {
            Self::Checksum => Some(checksum(addr, block)),
            Self::Cipher(_) => None,
        }
    }

    /// Whether what is stored at `addr` (4096 bytes), in a segment of this key epoch, is what `seal` was made for.
    #[must_use]
    pub fn is_whole(&self, key_epoch: u64, addr: BlockAddr, stored: &[u8], seal: &[u8]) -> bool {
        self.of_epoch(key_epoch).is_some_and(|sealer| sealer.is_whole(addr, stored, seal))
    }

    /// What new segments are sealed with.
    pub(super) fn newest(&self) -> SegmentSealer {
        match self {
            Self::Checksum => SegmentSealer::Checksum,
            Self::Cipher(keys) => {
                keys.newest().map_or(SegmentSealer::AnyOf(Vec::new()), SegmentSealer::Cipher)
            }
        }
    }

    /// What seals the blocks of a segment of this key epoch; `None` if this store has no such segments.
    pub(super) fn of_epoch(&self, epoch: u64) -> Option<SegmentSealer> {
        match self {
            Self::Checksum => (epoch == 0).then_some(SegmentSealer::Checksum),
            Self::Cipher(keys) => keys.of_epoch(epoch).map(SegmentSealer::Cipher),
        }
    }

    /// What opens the blocks of a segment whose key epoch is not known.
    pub(super) fn of_any_epoch(&self) -> SegmentSealer {
        match self {
            Self::Checksum => SegmentSealer::Checksum,
            Self::Cipher(keys) => SegmentSealer::AnyOf(keys.all()),
        }
    }
}

/// Makes and checks the seals of one segment, all of whose blocks are sealed with the same keys.
#[derive(Clone, Debug)]
pub(super) enum SegmentSealer {
    /// The keyless checksum.
    Checksum,
    /// Encryption with the keys of one epoch.
    Cipher(Arc<EpochKeys>),
    /// Which of these it is, is not known: the header of the segment is damaged.
    AnyOf(Vec<Arc<EpochKeys>>),
}

impl SegmentSealer {
    /// The key epoch, 0 in a plain store; `None` if it is not known.
    pub(super) fn key_epoch(&self) -> Option<u64> {
        match self {
            Self::Checksum => Some(0),
            Self::Cipher(keys) => Some(keys.epoch().into()),
            Self::AnyOf(_) => None,
        }
    }

    /// Whether what is stored is not the block itself.
    pub(super) fn is_cipher(&self) -> bool {
        !matches!(self, Self::Checksum)
    }

    /// Puts what is stored of `block` (4096 bytes) at `addr` into `out`, and returns its seal.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub(super) fn seal(&self, addr: BlockAddr, block: &[u8], out: &mut [u8]) -> Result<Seal, CipherError> {
        match self {
            Self::Checksum => {
                out.copy_from_slice(block);
                Ok(checksum(addr, block))
            }
            Self::Cipher(keys) => keys.seal_block(addr.segment, addr.index, block, out),
            Self::AnyOf(_) => Err(CipherError),
        }
    }

    /// Whether what is stored at `addr` (4096 bytes) is what `seal` was made for.
    #[must_use]
    pub(super) fn is_whole(&self, addr: BlockAddr, stored: &[u8], seal: &[u8]) -> bool {
        match self {
            Self::Checksum => checksum(addr, stored) == seal,
            Self::Cipher(_) | Self::AnyOf(_) => self.open(addr, &mut stored.to_vec(), seal),
        }
    }

    /// The key epoch in which what is stored at `addr` (4096 bytes) was sealed, 0 in a plain store; `None` if it is not what `seal`
    /// was made for.
    pub(super) fn epoch_of(&self, addr: BlockAddr, stored: &[u8], seal: &[u8]) -> Option<u64> {
        match self {
            Self::Checksum => (checksum(addr, stored) == seal).then_some(0),
            Self::Cipher(keys) => {
                let opens = keys.open_block(addr.segment, addr.index, &mut stored.to_vec(), seal);
                opens.then_some(keys.epoch().into())
            }
            Self::AnyOf(all) => {
                all.iter().find_map(|keys| Self::Cipher(Arc::clone(keys)).epoch_of(addr, stored, seal))
            }
        }
    }

    /// Turns what was read at `addr` (4096 bytes) into the block; false if it is not what `seal` was made for.
    #[must_use]
    pub(super) fn open(&self, addr: BlockAddr, block: &mut [u8], seal: &[u8]) -> bool {
        match self {
            Self::Checksum => checksum(addr, block) == seal,
            Self::Cipher(keys) => keys.open_block(addr.segment, addr.index, block, seal),
            Self::AnyOf(all) => {
                let stored = block.to_vec();
                all.iter().any(|keys| {
                    block.copy_from_slice(&stored);
                    keys.open_block(addr.segment, addr.index, block, seal)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Keyring, Secret};
    use crate::store::BLOCK_BYTES;

    fn cipher() -> Sealer {
        let secret = Secret::KeyFile(vec![1; 32].into());
        let keyring = Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
        let unlocked = keyring.unlock(&[1; 16], &secret).unwrap();
        Sealer::new(&Keys::new(keyring.subkeys(&[1; 16], &unlocked).unwrap()).unwrap())
    }

    #[test]
    fn a_seal_opens_only_its_own_bytes_at_its_own_place() {
        for store in [Sealer::Checksum, cipher()] {
            let sealer = store.newest();
            let addr = BlockAddr { segment: 7, index: 300 };
            let block = vec![0xa5u8; BLOCK_BYTES];
            let mut stored = vec![0; BLOCK_BYTES];
            let seal = sealer.seal(addr, &block, &mut stored).unwrap();
            let opens = |addr, stored: &[u8]| {
                let mut buf = stored.to_vec();
                let opened = sealer.open(addr, &mut buf, &seal);
                // It need not be known whose segment it is.
                let mut again = stored.to_vec();
                assert_eq!(store.of_any_epoch().open(addr, &mut again, &seal), opened);
                assert_eq!(sealer.is_whole(addr, stored, &seal), opened);
                opened.then_some(buf).inspect(|block| assert_eq!(*block, again))
            };
            assert!(opens(addr, &stored).unwrap() == block);
            assert!(store.of_epoch(7).is_none());
            assert_eq!(store.of_epoch(sealer.key_epoch().unwrap()).unwrap().is_cipher(), sealer.is_cipher());
            assert!(opens(addr.plus(1), &stored).is_none());
            assert!(opens(BlockAddr { segment: 8, index: 300 }, &stored).is_none());
            stored[4095] ^= 1;
            assert!(opens(addr, &stored).is_none());
        }
    }

    #[test]
    fn a_punched_block_does_not_open() {
        for sealer in [Sealer::Checksum.newest(), cipher().newest(), cipher().of_any_epoch()] {
            for segment in 1..200 {
                let addr = BlockAddr { segment, index: 0 };
                let mut zeros = vec![0u8; BLOCK_BYTES];
                assert!(!sealer.open(addr, &mut zeros, &[0; SEAL_BYTES]));
            }
        }
    }

    #[test]
    fn the_checksum_is_the_documented_one() {
        // Changing this value changes the format.
        let seal = Sealer::Checksum.checksum(BlockAddr { segment: 1, index: 2 }, &[0u8; BLOCK_BYTES]);
        assert_eq!(seal.map(u128::from_le_bytes), Some(xxh3_128_with_seed(&[0; 4096], 0x1_0000_0002)));
        assert!(cipher().checksum(BlockAddr { segment: 1, index: 2 }, &[0u8; BLOCK_BYTES]).is_none());
    }
}
