//! One segment file: its name and its header.

use super::SEGMENT_DIR;
use super::id::StoreId;
use super::layout::{BLOCK_BYTES, SEGMENT_HEADER_BYTES, data_offset, seal_offset};
use super::seal::SegmentSealer;
use super::segments::{Used, Wait};
use crate::backing::{File, is_unreadable, read_padded};
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: [u8; 8] = *b"LARDSEG\0";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 64;

/// The name of segment `id` in its store.
pub fn segment_name(id: u64) -> String {
    format!("{SEGMENT_DIR}/{id:016x}.seg")
}

/// The segment id in a file name as [`crate::backing::Dir::list`] gives it, if it is one.
pub fn segment_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let ours = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ours { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// The identity in the first 4 KiB of a segment file.
///
/// ```text
/// 0  magic "LARDSEG\0"   8  version u32   12  zero u32   16  store id (16 bytes, big-endian)
/// 32 segment id u64      40 key epoch u64 48  zeros to 64
/// 64 XXH3-128 of bytes 0..64              80  zeros to 4096      integers little-endian
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its id.
    pub segment: u64,
    /// Which keys seal its blocks; 0 in a plain store.
    pub key_epoch: u64,
}

/// What a segment's header says about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// The file is the segment it is named for.
    Good,
    /// The header's bytes are damaged. The blocks may be whole: their seals tell.
    Damaged(&'static str),
    /// The header is whole and names another segment, store or format: nothing in the file may be used.
    Foreign(String),
}

impl SegmentHeader {
    /// The bytes of the header.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0u8; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.store.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.segment.to_le_bytes());
        out[40..48].copy_from_slice(&self.key_epoch.to_le_bytes());
        let sum = xxh3_128(&out[..CHECKSUM_AT]).to_le_bytes();
        out[CHECKSUM_AT..CHECKSUM_AT + 16].copy_from_slice(&sum);
        out
    }

    /// The key epoch in the bytes of a header, if they are whole.
    pub fn key_epoch_of(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<u64> {
        let sum = xxh3_128(&bytes[..CHECKSUM_AT]).to_le_bytes();
        let whole = bytes[0..8] == MAGIC && bytes[CHECKSUM_AT..CHECKSUM_AT + 16] == sum;
        bytes[40..48].first_chunk().filter(|_| whole).map(|epoch| u64::from_le_bytes(*epoch))
    }

    /// The store in the bytes of a header, if they are whole.
    pub fn store_of(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<StoreId> {
        Self::key_epoch_of(bytes)?;
        bytes[16..32].first_chunk().map(|id| StoreId(u128::from_be_bytes(*id)))
    }

    /// Compares the bytes of a header with what they should be.
    pub fn verify(&self, bytes: &[u8; SEGMENT_HEADER_BYTES]) -> HeaderState {
        if *bytes == self.encode() {
            return HeaderState::Good;
        }
        let sum = xxh3_128(&bytes[..CHECKSUM_AT]).to_le_bytes();
        if bytes[0..8] != MAGIC || bytes[CHECKSUM_AT..CHECKSUM_AT + 16] != sum {
            return HeaderState::Damaged("the segment header is damaged");
        }
        if bytes[8..12] != VERSION.to_le_bytes() {
            return HeaderState::Foreign("the segment has an unknown format version".into());
        }
        if bytes[16..32] != self.store.0.to_be_bytes() {
            return HeaderState::Foreign("the segment belongs to another store".into());
        }
        if bytes[32..40] != self.segment.to_le_bytes() {
            return HeaderState::Foreign("the segment has another id than its file name".into());
        }
        if bytes[40..48] != self.key_epoch.to_le_bytes() {
            return HeaderState::Foreign(
                "the segment is sealed with keys that this store does not have".into(),
            );
        }
        HeaderState::Damaged("the segment header holds bytes that should be zero")
    }
}

/// An open segment file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) id: u64,
    /// What seals its blocks.
    pub(super) sealer: SegmentSealer,
    pub(super) file: Arc<dyn File>,
    /// Set while the file has bytes that no sync has covered.
    pub(super) unsynced: AtomicBool,
    /// When its pieces were used, where that is noted.
    pub(super) used: OnceLock<Arc<Used>>,
}

impl SegmentFile {
    pub(super) fn new(id: u64, sealer: SegmentSealer, file: Arc<dyn File>) -> Self {
        Self { id, sealer, file, unsynced: AtomicBool::new(false), used: OnceLock::new() }
    }

    /// The block at `index`, and those behind it in its group, are used.
    pub(super) fn touch(&self, index: u32) {
        if let Some(used) = self.used.get() {
            used.touch(index);
        }
    }

    /// Reads from the file and returns the number of bytes, short only at its end; `None`: not without waiting.
    pub(super) fn read(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        match wait {
            Wait::Yes => self.file.read_at(bufs, offset).map(Some),
            Wait::Passing | Wait::Here => self.file.read_at_uncached(bufs, offset).map(Some),
            Wait::No => self.file.read_at_nowait(bufs, offset),
        }
    }

    /// Reads the contents of blocks of one group from block `first` on and their seals, which lie apart. Returns the bytes of
    /// contents; `None`: not without waiting.
    pub(super) fn read_apart(
        &self,
        seals: &mut [u8],
        contents: &mut [u8],
        first: u32,
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        let seals = &mut [IoSliceMut::new(seals)];
        let contents = &mut [IoSliceMut::new(contents)];
        if wait == Wait::No {
            // The contents first: of the two, they are less likely to be in memory.
            let got = self.file.read_at_nowait(contents, data_offset(first))?;
            return match got {
                Some(_) => Ok(self.file.read_at_nowait(seals, seal_offset(first))?.and(got)),
                None => Ok(None),
            };
        }
        // If the disk has to be waited for twice, then for both at once.
        let have_seals = self.file.read_at_nowait(seals, seal_offset(first))?.is_some();
        if !have_seals {
            self.file.prefetch(seal_offset(first), seals[0].len() as u64);
        }
        let got = match wait {
            Wait::Passing | Wait::Here => self.file.read_at_uncached(contents, data_offset(first))?,
            Wait::Yes | Wait::No => self.file.read_at(contents, data_offset(first))?,
        };
        if !have_seals {
            self.file.read_at(seals, seal_offset(first))?;
        }
        Ok(Some(got))
    }

    /// Reads the same piece by piece, where the host cannot read all of it: what it cannot read is zeros, which no seal of anything else
    /// opens. False: that are the seals, and nothing of the contents was read.
    ///
    /// # Errors
    /// As pread(2), but where the disk cannot read what is there.
    pub(super) fn read_each(&self, seals: &mut [u8], contents: &mut [u8], first: u32) -> io::Result<bool> {
        let read = |bytes: &mut [u8], offset| match read_padded(&*self.file, bytes, offset) {
            Ok(_) => Ok(true),
            Err(e) if is_unreadable(&e) => {
                bytes.fill(0);
                Ok(false)
            }
            Err(e) => Err(e),
        };
        contents.fill(0);
        if !read(seals, seal_offset(first))? {
            return Ok(false);
        }
        for (index, block) in (first..).zip(contents.chunks_exact_mut(BLOCK_BYTES)) {
            read(block, data_offset(index))?;
        }
        Ok(true)
    }

    /// Lets the file end at `end`, and the host have back what it keeps behind that.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub(super) fn end_at(&self, end: u64) -> io::Result<()> {
        if self.file.len()? < end {
            self.file.set_len(end)?;
        }
        // Cut to the length that it has, a file loses what was reserved behind that.
        self.file.set_len(end)
    }

    /// Marks the file as written to; true when it was not marked yet.
    pub(super) fn mark_unsynced(&self) -> bool {
        !self.unsynced.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { store: StoreId(9), segment: 3, key_epoch: 0 };

    #[test]
    fn names_are_exact() {
        assert_eq!(segment_name(0x1f), "segments/000000000000001f.seg");
        assert_eq!(segment_of_name("000000000000001f.seg"), Some(0x1f));
        for bad in ["1f.seg", "000000000000001F.seg", "000000000000001f.tmp", "+00000000000001f.seg"] {
            assert_eq!(segment_of_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn damage_and_foreign_files_are_told_apart() {
        let bytes = HEADER.encode();
        assert_eq!(HEADER.verify(&bytes), HeaderState::Good);
        for at in 0..SEGMENT_HEADER_BYTES {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert!(matches!(HEADER.verify(&bad), HeaderState::Damaged(_)), "byte {at}");
        }
        let other_store = SegmentHeader { store: StoreId(8), ..HEADER };
        let other_id = SegmentHeader { segment: 4, ..HEADER };
        assert!(matches!(HEADER.verify(&other_store.encode()), HeaderState::Foreign(_)));
        let other_keys = SegmentHeader { key_epoch: 1, ..HEADER };
        assert!(matches!(HEADER.verify(&other_id.encode()), HeaderState::Foreign(_)));
        assert!(matches!(HEADER.verify(&other_keys.encode()), HeaderState::Foreign(_)));
        assert_eq!(SegmentHeader::key_epoch_of(&other_keys.encode()), Some(1));
        assert_eq!(SegmentHeader::key_epoch_of(&[0; SEGMENT_HEADER_BYTES]), None);
        assert_eq!(SegmentHeader::store_of(&other_store.encode()), Some(StoreId(8)));
        assert_eq!(SegmentHeader::store_of(&[0; SEGMENT_HEADER_BYTES]), None);
    }
}
