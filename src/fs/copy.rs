//! copy_file_range(2): whole blocks are shared, not copied.

use super::attr::kill_privileges_of;
use super::content::{BLOCK, ContentChange};
use super::flags::must_take_any_contents;
use super::types::{Caller, Rights};
use super::write::WriteMode;
use super::{Fs, FsError, Ino, Result, Wait};
use crate::meta::{MapRun, MapTo, Side, Timestamp};

/// Most blocks shared by one call: 1 GiB. The caller asks again for the rest, as copy_file_range(2) says.
const SHARED_BLOCKS: u64 = 256 * 1024;
/// Most extents shared by one call, to keep it short in a fragmented file.
const SHARED_PIECES: usize = 512;
/// Most bytes really copied by one call.
const COPIED_BYTES: u64 = 1 << 20;

impl Fs {
    /// Copies up to `len` bytes and returns how many; 0 only at the end of the source.
    ///
    /// # Errors
    /// As copy_file_range(2).
    pub fn copy_range(
        &self,
        source: (Ino, u64),
        target: (Ino, u64),
        len: u64,
        caller: Caller,
    ) -> Result<u64> {
        self.copy_range_from(self, source, target, len, caller)
    }

    /// As [`Fs::copy_range`], from a file of the same volume or of one of its snapshots.
    ///
    /// # Errors
    /// As copy_file_range(2).
    pub fn copy_range_from(
        &self,
        other: &Self,
        (source, from): (Ino, u64),
        (target, to): (Ino, u64),
        len: u64,
        caller: Caller,
    ) -> Result<u64> {
        self.begin_change()?;
        Self::check_range(to, len)?;
        let is_own = other.volume == self.volume;
        // A snapshot's files need no lock: they do not change.
        let _order = self.locks.both(if is_own { source } else { target }, target);
        self.losses.settle(target);
        let (source_size, inode) = {
            let mut meta = self.store.meta();
            let (source, target) = (other.regular(&mut meta, source)?, self.regular(&mut meta, target)?);
            must_take_any_contents(&target)?;
            (source.size, target)
        };
        let (target_size, rights) = (inode.size, caller.rights(&inode));
        let killer = (!rights.is_root).then_some(caller);
        let len = len.min(source_size.saturating_sub(from));
        if len == 0 {
            return Ok(0);
        }
        if is_own && source == target && from < to + len && to < from + len {
            return Err(FsError::Invalid);
        }
        if from % BLOCK != to % BLOCK {
            return self.copy_bytes(other, (source, from), (target, to), len.min(COPIED_BYTES), killer);
        }
        // Up to the first border of a block the bytes are copied; the next call starts on it.
        let to_border = from.next_multiple_of(BLOCK) - from;
        if to_border > 0 {
            return self.copy_bytes(other, (source, from), (target, to), len.min(to_border), killer);
        }
        // The last block of the source has zeros behind its end, so it may become the last block of the target.
        let whole_tail = from + len == source_size && to + len >= target_size;
        let blocks = if whole_tail { len.div_ceil(BLOCK) } else { len / BLOCK };
        if blocks == 0 {
            return self.copy_bytes(other, (source, from), (target, to), len, killer);
        }
        let shared =
            self.share_blocks(other, (source, from), (target, to), blocks.min(SHARED_BLOCKS), len, rights)?;
        Ok((shared * BLOCK).min(len))
    }

    /// Lets blocks of the target refer to those of the source; returns how many blocks that were.
    fn share_blocks(
        &self,
        other: &Self,
        (source, from): (Ino, u64),
        (target, to): (Ino, u64),
        blocks: u64,
        len: u64,
        rights: Rights,
    ) -> Result<u64> {
        let (first, target_first) = (from / BLOCK, to / BLOCK);
        self.prepare_part(target, target_first..target_first + blocks, Side::Start)?;
        let (pieces, blocks) = {
            let mut meta = self.store.meta();
            // As much as is little enough work for one hold of the metadata, in the source and in the target.
            let (mut some, end) = meta.some_pieces(other.volume, source, first..first + blocks)?;
            let mut blocks = end - first;
            if some.len() > SHARED_PIECES {
                some.truncate(SHARED_PIECES);
                blocks = some.last().map_or(blocks, |piece| piece.first + u64::from(piece.count) - first);
            }
            let part = meta.part(self.volume, target, target_first..target_first + blocks, Side::Start)?;
            blocks = blocks.min(part.blocks.end - target_first);
            (meta.pieces(other.volume, source, first, blocks)?, blocks)
        };
        let mut change = ContentChange::default();
        let hole = |from: u64, until: u64, ranges: &mut Vec<MapRun>| {
            if from < until {
                ranges.push(MapRun {
                    first: from - first + target_first,
                    count: until - from,
                    to: MapTo::Hole,
                });
            }
        };
        let mut at = first;
        for piece in &pieces {
            // Reserved blocks read as zeros, as a hole does.
            let Some(run) = piece.run else { continue };
            hole(at, piece.first, &mut change.ranges);
            at = piece.first + u64::from(piece.count);
            change.ranges.push(MapRun {
                first: piece.first - first + target_first,
                count: u64::from(piece.count),
                to: MapTo::Shared(run.start),
            });
        }
        hole(at, first + blocks, &mut change.ranges);
        let end = to + (blocks * BLOCK).min(len);
        let _turn = self.store.long_turn();
        self.change_content(target, &change, |meta, inode| {
            // A snapshot can have been removed meanwhile, and its blocks with it.
            if meta.pieces(other.volume, source, first, blocks)? != pieces {
                return Err(FsError::NotFound);
            }
            let now = Timestamp::now();
            let mut attr = kill_privileges_of(inode, rights);
            (attr.mtime, attr.ctime) = (Some(now), Some(now));
            Ok(((end > inode.size).then_some(end), attr))
        })?;
        Ok(blocks)
    }

    /// Copies bytes where blocks cannot be shared. The caller holds both content locks.
    fn copy_bytes(
        &self,
        other: &Self,
        source: (Ino, u64),
        target: (Ino, u64),
        len: u64,
        killer: Option<Caller>,
    ) -> Result<u64> {
        let mut buf = vec![0u8; len as usize];
        let got = other.read(source.0, source.1, &mut buf, Wait::Yes)?;
        let mode = WriteMode { killer, may_be_short: true, ..WriteMode::default() };
        Ok(self.write_locked(target.0, target.1, &buf[..got], mode)? as u64)
    }
}
