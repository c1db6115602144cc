//! lseek(2) with SEEK_DATA and SEEK_HOLE.

use super::content::BLOCK;
use super::{Fs, FsError, Ino, Result};
use crate::meta::{CHUNK_BLOCKS, Meta};
use std::ops::Range;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    /// Bytes that were written.
    Data,
    /// Bytes that were not: holes, reserved space, the end of the file.
    Hole,
}

const CHUNK: u64 = CHUNK_BLOCKS as u64;

/// What a seek found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The offset; `None`: there is none.
    pub found: Option<u64>,
    /// The bytes that had to be a hole, or behind the end, for this to be found. Where something may have been written that
    /// has not come here yet, it is only found if there is nothing of that in here. `u64::MAX`: to the end of all.
    pub hole: Range<u64>,
}

impl Fs {
    /// As [`Fs::seek`], and says what that rests on.
    ///
    /// # Errors
    /// As [`Fs::seek`], but for `NoData`.
    pub fn seek_with_hole(&self, ino: Ino, offset: u64, target: SeekTarget) -> Result<Sought> {
        let seek = |offset, target| match self.seek(ino, offset, target) {
            Ok(found) => Ok(Some(found)),
            Err(FsError::NoData) => Ok(None),
            Err(e) => Err(e),
        };
        let found = seek(offset, target)?;
        let hole = match (target, found) {
            (_, None) => offset..u64::MAX,
            (SeekTarget::Data, Some(found)) => offset..found,
            (SeekTarget::Hole, Some(found)) => found..seek(found, SeekTarget::Data)?.unwrap_or(u64::MAX),
        };
        Ok(Sought { found, hole })
    }

    /// The first offset at or behind `offset` that is `target`.
    ///
    /// # Errors
    /// `NoData` behind the end of the file, or when no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> Result<u64> {
        let mut meta = self.store.meta();
        let size = self.regular(&mut meta, ino)?.size;
        if offset >= size {
            return Err(FsError::NoData);
        }
        let end = size.div_ceil(BLOCK);
        let found = match target {
            SeekTarget::Data => {
                self.next_data(&mut meta, ino, offset / BLOCK, end)?.ok_or(FsError::NoData)?
            }
            SeekTarget::Hole => self.next_hole(&mut meta, ino, offset / BLOCK, end)?,
        };
        Ok((found * BLOCK).clamp(offset, size))
    }

    fn next_data(&self, meta: &mut Meta, ino: Ino, first: u64, end: u64) -> Result<Option<u64>> {
        let mut at = first;
        while let Some(idx) = meta.next_chunk(self.volume, ino, at / CHUNK..end.div_ceil(CHUNK))? {
            at = at.max(idx * CHUNK);
            let stop = end.min((idx + 1) * CHUNK);
            let pieces = meta.pieces(self.volume, ino, at, stop - at)?;
            if let Some(piece) = pieces.iter().find(|piece| piece.run.is_some()) {
                return Ok(Some(piece.first));
            }
            at = stop;
            if at >= end {
                break;
            }
        }
        Ok(None)
    }

    fn next_hole(&self, meta: &mut Meta, ino: Ino, first: u64, end: u64) -> Result<u64> {
        let mut at = first;
        while at < end {
            let stop = end.min((at / CHUNK + 1) * CHUNK);
            for piece in meta.pieces(self.volume, ino, at, stop - at)? {
                if piece.first > at || piece.run.is_none() {
                    return Ok(at);
                }
                at = piece.first + u64::from(piece.count);
            }
            if at < stop {
                return Ok(at);
            }
        }
        Ok(end)
    }
}
