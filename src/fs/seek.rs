//! lseek(2) with SEEK_DATA and SEEK_HOLE.

use super::content::BLOCK;
use super::{Fs, FsError, Ino, Result};
use std::ops::Range;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    /// Bytes that were written.
    Data,
    /// Bytes that were not: holes, reserved space, the end of the file.
    Hole,
}

/// Parts of a file that one seek looks at. Each takes a moment in which nobody else has the metadata; all together, a second or so.
const PARTS_MAX: usize = 256;

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

    /// The first offset at or behind `offset` that is `target`. Of a file that takes too long to look through, what was not looked
    /// at counts as data, which lseek(2) allows: no file system has to know of each hole.
    ///
    /// # Errors
    /// `NoData` behind the end of the file, or when no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> Result<u64> {
        let size = self.regular(&mut self.store.meta(), ino)?.size;
        if offset >= size {
            return Err(FsError::NoData);
        }
        let blocks = offset / BLOCK..size.div_ceil(BLOCK);
        let found = match target {
            SeekTarget::Data => self.next_data(ino, blocks)?.ok_or(FsError::NoData)?,
            SeekTarget::Hole => self.next_hole(ino, blocks)?,
        };
        Ok((found * BLOCK).clamp(offset, size))
    }

    fn next_data(&self, ino: Ino, blocks: Range<u64>) -> Result<Option<u64>> {
        let mut at = blocks.start;
        for _ in 0..PARTS_MAX {
            if at >= blocks.end {
                return Ok(None);
            }
            let (pieces, end) = self.store.meta().some_pieces(self.volume, ino, at..blocks.end)?;
            if let Some(piece) = pieces.iter().find(|piece| piece.run.is_some()) {
                return Ok(Some(piece.first));
            }
            at = end;
        }
        Ok((at < blocks.end).then_some(at))
    }

    fn next_hole(&self, ino: Ino, blocks: Range<u64>) -> Result<u64> {
        let mut at = blocks.start;
        for _ in 0..PARTS_MAX {
            if at >= blocks.end {
                break;
            }
            let (pieces, end) = self.store.meta().some_pieces(self.volume, ino, at..blocks.end)?;
            for piece in pieces {
                if piece.first > at || piece.run.is_none() {
                    return Ok(at);
                }
                at = piece.first + u64::from(piece.count);
            }
            if at < end {
                return Ok(at);
            }
        }
        Ok(blocks.end)
    }
}
