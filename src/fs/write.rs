//! Writing files.

use super::attr::kill_privileges;
use super::content::{BLOCK, Block, ContentChange};
use super::flags::must_take_contents;
use super::types::Caller;
use super::{Fs, FsError, Ino, Result};
use crate::meta::{FILE_MAX, Inode, Meta, Piece, Timestamp};
use crate::store::BLOCK_BYTES;
use std::ops::Range;
use std::time::Instant;

/// A write up to this size may be a record of a log, of which each is synced.
const FORESEEN_BYTES: usize = 64 << 10;

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteMode {
    /// Whose write takes set-user-ID and set-group-ID away, as one by an unprivileged process does.
    pub killer: Option<Caller>,
    /// A volume that fills up takes as much as fits, as write(2) says. Not for pages that the kernel writes back: it
    /// has no use for half of them.
    pub may_be_short: bool,
    /// The times stay. For pages that the kernel writes back: it knows when they were changed, and says so in a request of
    /// its own, which these writes can overtake.
    pub keeps_times: bool,
    /// Programs have gone on long ago: the kernel writes back what it had taken from them.
    pub is_write_back: bool,
}

impl Fs {
    /// Writes `data` at `offset`; returns the bytes written.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        let begun = Instant::now();
        let written = self.write_now(ino, offset, data, mode);
        if let Err(e) = written
            && e != FsError::Away
            && mode.is_write_back
            && (is_loss(e) || self.losses.has(ino))
        {
            self.lose(ino, &(offset..offset.saturating_add(data.len() as u64)), e, begun);
        }
        written
    }

    fn write_now(&self, ino: Ino, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        self.begin_change()?;
        let mut data = data;
        let limit = FILE_MAX.saturating_sub(offset);
        if data.len() as u64 > limit {
            if limit == 0 || !mode.may_be_short {
                return Err(FsError::TooLarge);
            }
            data = &data[..limit as usize];
        }
        if data.is_empty() {
            return Ok(0);
        }
        let aligned = offset.is_multiple_of(BLOCK) && data.len().is_multiple_of(BLOCK_BYTES);
        let shared = aligned && !self.is_append_only(ino);
        let _order = if shared { self.locks.shared(ino) } else { self.locks.alone(ino) };
        // As long as it is held, flags stay.
        if self.is_append_only(ino) {
            self.must_only_append(ino, offset, data)?;
        }
        self.write_locked(ino, offset, data, mode)
    }

    /// As [`Fs::write`], for a caller that holds the content lock: alone, unless everything is aligned.
    pub(super) fn write_locked(&self, ino: Ino, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        let mut data = data;
        let is_lossy = mode.is_write_back && self.losses.has(ino);
        let (inode, fitting, new) = {
            let mut meta = self.store.meta();
            let inode = self.regular(&mut meta, ino)?;
            must_take_contents(&inode)?;
            let new = match is_lossy {
                true => {
                    let parts = self.not_there(&mut meta, &inode, offset..offset + data.len() as u64)?;
                    Some((parts, self.room(&mut meta)?))
                }
                false => None,
            };
            if !mode.is_write_back {
                self.losses.settle(ino);
            }
            (inode, self.fitting(&mut meta, ino, offset, data.len())?, new)
        };
        // Behind something that could not be kept, only what was there before is replaced.
        if let Some((parts, room)) = new
            && let Some(e) = parts.iter().find_map(|part| self.losses.refuse_behind(ino, part, room))
        {
            return Err(e);
        }
        if fitting < data.len() {
            if fitting == 0 || !mode.may_be_short {
                return Err(FsError::NoSpace);
            }
            data = &data[..fitting];
        }
        let (size, killer) = (inode.size, mode.killer.map(|caller| caller.rights(&inode)));
        let (head, middle, tail) = self.to_blocks(ino, offset, data, size)?;
        let mut change = ContentChange::default();
        let mut block = offset / BLOCK;
        for part in [head.as_deref().map(|b| &b[..]), Some(middle), tail.as_deref().map(|b| &b[..])] {
            if let Some(bytes) = part.filter(|bytes| !bytes.is_empty()) {
                change.data.push((block, bytes));
                block += (bytes.len() / BLOCK_BYTES) as u64;
            }
        }
        let end = offset + data.len() as u64;
        let mut old_size = 0;
        let gained = self.change_content(ino, &change, |_, inode| {
            old_size = inode.size;
            if mode.is_write_back && end > inode.size {
                self.losses.overtaking.note_growth(ino, inode.size);
            }
            let mut attr = kill_privileges(inode, killer);
            if !mode.keeps_times {
                let now = Timestamp::now();
                (attr.mtime, attr.ctime) = (Some(now), Some(now));
            }
            Ok(((end > inode.size).then_some(end), attr))
        })?;
        // Under the content lock: whoever takes this away again comes after it.
        let blocks = end.div_ceil(BLOCK) - offset / BLOCK;
        if mode.is_write_back && offset < old_size && u64::try_from(gained) == Ok(blocks) {
            self.losses.overtaking.note_filled(ino, offset..end);
        }
        self.losses.note_written(ino, &(offset..end));
        if data.len() <= FORESEEN_BYTES {
            self.store.wrote();
        }
        Ok(data.len())
    }

    /// The parts of a range that a file does not have.
    pub(super) fn not_there(
        &self,
        meta: &mut Meta,
        inode: &Inode,
        range: Range<u64>,
    ) -> Result<Vec<Range<u64>>> {
        let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        Ok(not_there(&meta.pieces(self.volume, inode.ino, first, end - first)?, inode.size, &range))
    }

    /// Cuts a write into whole blocks: the first with what was before it, the whole ones as they are, the last with
    /// what is behind it. The caller has the content lock to itself if there is a first or a last.
    fn to_blocks<'a>(
        &self,
        ino: Ino,
        offset: u64,
        data: &'a [u8],
        size: u64,
    ) -> Result<(Option<Block>, &'a [u8], Option<Block>)> {
        let (first, within) = (offset / BLOCK, (offset % BLOCK) as usize);
        let end = offset + data.len() as u64;
        let mut rest = data;
        let mut head = None;
        if within != 0 || (rest.len() < BLOCK_BYTES) {
            let count = rest.len().min(BLOCK_BYTES - within);
            // A block of which nothing else is part of the file starts out as zeros.
            let keeps_something = (within != 0 && first * BLOCK < size) || offset + (count as u64) < size;
            let mut block: Block =
                if keeps_something { self.block(ino, first)? } else { Box::new([0; BLOCK_BYTES]) };
            block[within..within + count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            head = Some(block);
        }
        let (middle, left) = rest.split_at(rest.len() / BLOCK_BYTES * BLOCK_BYTES);
        let mut tail = None;
        if !left.is_empty() {
            let mut block: Block =
                if end < size { self.block(ino, end / BLOCK)? } else { Box::new([0; BLOCK_BYTES]) };
            block[..left.len()].copy_from_slice(left);
            tail = Some(block);
        }
        Ok((head, middle, tail))
    }

    /// How many of `len` bytes at `offset` fit the volume's size limit. Only a first look, so that a full volume
    /// refuses before anything is written; the mutation decides.
    fn fitting(&self, meta: &mut Meta, ino: Ino, offset: u64, len: usize) -> Result<usize> {
        let (usage, limits) = meta.usage(self.volume)?;
        let Some(limit) = limits.blocks else { return Ok(len) };
        let (first, end) = (offset / BLOCK, (offset + len as u64).div_ceil(BLOCK));
        let mut room = limit.saturating_sub(usage.blocks);
        if end - first <= room {
            return Ok(len);
        }
        // Blocks that are allocated already cost nothing.
        let mut at = first;
        for piece in meta.pieces(self.volume, ino, first, end - first)? {
            let hole = piece.first - at;
            if hole > room {
                break;
            }
            room -= hole;
            at = piece.first + u64::from(piece.count);
        }
        let stop = (at + room).min(end) * BLOCK;
        Ok((stop.saturating_sub(offset)).min(len as u64) as usize)
    }
}

/// Whether what could not be written because of this was to be kept. (Behind what is missing, it is also what is refused for the reason
/// for which that is.)
fn is_loss(e: FsError) -> bool {
    matches!(e, FsError::NoSpace | FsError::TooLarge | FsError::ReadOnly | FsError::Io)
}

/// The parts of `range` that a file of `size` bytes does not have, which has `pieces` there.
fn not_there(pieces: &[Piece], size: u64, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut at = range.start;
    let mut parts = Vec::new();
    for piece in pieces.iter().take_while(|piece| piece.first * BLOCK < size) {
        let (from, count) = (piece.first * BLOCK, u64::from(piece.count) * BLOCK);
        if from > at {
            parts.push(at..from.min(range.end));
        }
        at = at.max((from + count).min(size));
    }
    if at < range.end {
        parts.push(at..range.end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_does_not_have_is_what_lies_between_its_pieces_and_behind_its_end() {
        let piece = |first, count| Piece { first, count, run: None };
        let parts = |pieces: &[Piece], size, range| not_there(pieces, size, &range);
        assert!(parts(&[], 0, 0..BLOCK).iter().eq([&(0..BLOCK)]));
        assert!(parts(&[piece(0, 4)], 4 * BLOCK, 10..4 * BLOCK).is_empty());
        let pieces = [piece(1, 1), piece(3, 2)];
        assert_eq!(
            parts(&pieces, 9 * BLOCK, 0..6 * BLOCK),
            [0..BLOCK, 2 * BLOCK..3 * BLOCK, 5 * BLOCK..6 * BLOCK]
        );
        assert!(parts(&[piece(0, 2)], BLOCK + 7, 0..2 * BLOCK).iter().eq([&(BLOCK + 7..2 * BLOCK)]));
        assert!(
            parts(&[piece(1, 1)], 7, 0..BLOCK).iter().eq([&(0..BLOCK)]),
            "what is reserved behind the end"
        );
    }
}
