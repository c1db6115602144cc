//! fallocate(2): reserving space, punching holes, zeroing ranges.

use super::attr::kill_privileges_of;
use super::content::{BLOCK, Block, ContentChange};
use super::types::Caller;
use super::{Fs, FsError, Ino, Result};
use crate::meta::{MapRun, MapTo, Timestamp};
use crate::store::BLOCK_BYTES;

/// What fallocate does with the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Reserve space, so that later writes to the range do not exceed the size limit.
    Reserve {
        /// Leave the size as it is.
        keep_size: bool,
    },
    /// Give space back: the range becomes a hole. The size stays.
    PunchHole,
    /// Make the range read as zeros, with its space reserved.
    ZeroRange {
        /// Leave the size as it is.
        keep_size: bool,
    },
}

impl Fs {
    /// Reserves, frees or zeroes the range; see fallocate(2).
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn allocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        mode: AllocateMode,
        caller: Caller,
    ) -> Result<()> {
        self.begin_change()?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = match (mode, Self::check_range(offset, len)) {
            // Beyond the largest file there is nothing to free.
            (AllocateMode::PunchHole, Err(FsError::TooLarge)) => crate::meta::FILE_MAX.max(offset),
            (_, end) => end?,
        };
        if offset >= end {
            return Ok(());
        }
        let _order = self.locks.alone(ino);
        let size = self.regular(&mut self.store.meta(), ino)?.size;
        let mut change = ContentChange::default();
        let mut edges: Vec<(u64, Block)> = Vec::new();
        let keep_size = match mode {
            AllocateMode::Reserve { keep_size } => {
                let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK));
                self.check_host_space(last - first)?;
                change.ranges.push(MapRun { first, count: last - first, to: MapTo::Reserved });
                keep_size
            }
            AllocateMode::PunchHole => {
                edges = self.zeroed_edges(ino, offset, end, size)?;
                push_whole(&mut change, offset, end, size, MapTo::Hole);
                true
            }
            AllocateMode::ZeroRange { keep_size } => {
                edges = self.zeroed_edges(ino, offset, end, size)?;
                push_whole(&mut change, offset, end, size, MapTo::Zero);
                // Blocks that the range covers in part are to be allocated as well.
                let whole = change.ranges.first().map_or(0..0, |run| run.first..run.first + run.count);
                let mut partial = vec![offset / BLOCK, (end - 1) / BLOCK];
                partial.dedup();
                partial.retain(|block| !whole.contains(block));
                change.ranges.extend(partial.iter().map(|block| MapRun {
                    first: *block,
                    count: 1,
                    to: MapTo::Reserved,
                }));
                keep_size
            }
        };
        change.data = edges.iter().map(|(block, bytes)| (*block, &bytes[..])).collect();
        self.change_content(ino, &change, |_, inode| {
            let now = Timestamp::now();
            let mut attr = kill_privileges_of(inode, caller);
            attr.ctime = Some(now);
            let new_size = (!keep_size && end > inode.size).then_some(end);
            if new_size.is_some() || !matches!(mode, AllocateMode::Reserve { .. }) {
                attr.mtime = Some(now);
            }
            Ok((new_size, attr))
        })
    }

    /// The blocks that the range covers only in part, with their part zeroed; without those that are zero there
    /// already.
    fn zeroed_edges(&self, ino: Ino, offset: u64, end: u64, size: u64) -> Result<Vec<(u64, Block)>> {
        let mut out: Vec<(u64, Block)> = Vec::new();
        let (first, last) = (offset / BLOCK, end / BLOCK);
        let mut edges = Vec::new();
        if first == last {
            // From the start of the last block to the end of the file or further: all of the block.
            if !offset.is_multiple_of(BLOCK) || end < size {
                edges.push((first, offset % BLOCK, end % BLOCK));
            }
        } else {
            if !offset.is_multiple_of(BLOCK) {
                edges.push((first, offset % BLOCK, BLOCK));
            }
            // Behind the end of the file everything is zero.
            if !end.is_multiple_of(BLOCK) && end < size {
                edges.push((last, 0, end % BLOCK));
            }
        }
        for (block, from, to) in edges {
            let (from, to) = (from as usize, to as usize);
            let mut bytes = self.block(ino, block)?;
            if bytes[from..to].iter().any(|byte| *byte != 0) {
                bytes[from..to].fill(0);
                out.push((block, bytes));
            }
        }
        Ok(out)
    }

    /// Without a limit of its own, a volume can have no more than the host has.
    fn check_host_space(&self, blocks: u64) -> Result<()> {
        let limited = self.store.meta().usage(self.volume)?.1.blocks.is_some();
        match self.store.host_space() {
            Ok(space) if !limited && blocks.saturating_mul(BLOCK_BYTES as u64) > space.available_bytes => {
                Err(FsError::NoSpace)
            }
            _ => Ok(()),
        }
    }
}

/// Adds the blocks that the range covers as a whole; the last block of the file counts as a whole if the range reaches
/// its end.
fn push_whole(change: &mut ContentChange<'_>, offset: u64, end: u64, size: u64, to: MapTo) {
    let first = offset.div_ceil(BLOCK);
    let last = if end >= size { end.div_ceil(BLOCK) } else { end / BLOCK };
    if first < last {
        change.ranges.push(MapRun { first, count: last - first, to });
    }
}
