//! fallocate(2): reserving space, punching holes, zeroing ranges.

use super::attr::kill_privileges_of;
use super::content::{BLOCK, Block, ContentChange};
use super::flags::{must_take_any_contents, must_take_contents};
use super::types::Caller;
use super::{Fs, FsError, Ino, Result};
use crate::meta::{FILE_MAX, Inode, MapRun, MapTo, Side, Timestamp};
use crate::store::BLOCK_BYTES;
use std::ops::Range;

/// Most blocks of one step: 2 TiB. To reserve so much where nothing is takes some milliseconds.
const STEP_BLOCKS: u64 = 2 << (40 - 12);

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

impl AllocateMode {
    /// Whether the flags of the inode allow it.
    fn must_be_allowed(self, inode: &Inode) -> Result<()> {
        match self {
            Self::Reserve { .. } => must_take_contents(inode),
            Self::PunchHole | Self::ZeroRange { .. } => must_take_any_contents(inode),
        }
    }

    fn keeps_size(self) -> bool {
        match self {
            Self::PunchHole => true,
            Self::Reserve { keep_size } | Self::ZeroRange { keep_size } => keep_size,
        }
    }
}

/// An allocation under way: see [`Fs::allocate_some`].
#[derive(Clone, Debug)]
pub struct Allocation {
    ino: Ino,
    bytes: Range<u64>,
    mode: AllocateMode,
    caller: Caller,
    /// Blocks before this one are done; 0: nothing is.
    done: u64,
    /// So are the blocks that the range covers only in part.
    has_edges: bool,
    /// Before anything is done: of the blocks before this one it is known how many are missing.
    counted: u64,
    missing: u64,
}

impl Allocation {
    /// The blocks that it is about as a whole, in a file of `size` bytes: the last block of the file counts as a whole if the range
    /// reaches its end. Reserving takes those in that it is about in part.
    fn whole(&self, size: u64) -> Range<u64> {
        let Range { start, end } = self.bytes;
        match self.mode {
            AllocateMode::Reserve { .. } => start / BLOCK..end.div_ceil(BLOCK),
            _ => {
                let last = if end >= size { end.div_ceil(BLOCK) } else { end / BLOCK };
                let first = start.div_ceil(BLOCK);
                first..last.max(first)
            }
        }
    }

    fn to(&self) -> MapTo {
        match self.mode {
            AllocateMode::Reserve { .. } => MapTo::Reserved,
            AllocateMode::PunchHole => MapTo::Hole,
            AllocateMode::ZeroRange { .. } => MapTo::Zero,
        }
    }

    /// Blocks that the range covers in part and that are to be allocated as well, in a file of `size` bytes.
    fn partly_reserved(&self, size: u64) -> Vec<MapRun> {
        if !matches!(self.mode, AllocateMode::ZeroRange { .. }) {
            return Vec::new();
        }
        let covered = self.whole(size);
        let mut partial = vec![self.bytes.start / BLOCK, (self.bytes.end - 1) / BLOCK];
        partial.dedup();
        partial.retain(|block| !covered.contains(block));
        partial.iter().map(|block| map_run(*block..block + 1, MapTo::Reserved)).collect()
    }
}

fn map_run(blocks: Range<u64>, to: MapTo) -> MapRun {
    MapRun { first: blocks.start, count: blocks.end - blocks.start, to }
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
        let mut allocation = Self::allocation(ino, offset, len, mode, caller)?;
        while !self.allocate_some(&mut allocation)? {}
        Ok(())
    }

    /// An allocation that is to be carried out by [`Fs::allocate_some`].
    ///
    /// # Errors
    /// As fallocate(2), for what no file can have.
    pub fn allocation(
        ino: Ino,
        offset: u64,
        len: u64,
        mode: AllocateMode,
        caller: Caller,
    ) -> Result<Allocation> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = match (mode, Self::check_range(offset, len)) {
            // Beyond the largest file there is nothing to free.
            (AllocateMode::PunchHole, Err(FsError::TooLarge)) => FILE_MAX.max(offset),
            (_, end) => end?,
        };
        Ok(Allocation {
            ino,
            bytes: offset..end,
            mode,
            caller,
            done: 0,
            has_edges: false,
            counted: 0,
            missing: 0,
        })
    }

    /// Carries on with an allocation, as far as little enough work for one hold of the metadata goes; true when all of it is done.
    /// From the start of the range to its end, each step is an operation of its own. The first one is also about blocks of which the
    /// range covers a part, so that damage to them and a full disk refuse the whole; the last one about the size.
    ///
    /// # Errors
    /// As fallocate(2). What was done before stays.
    pub fn allocate_some(&self, allocation: &mut Allocation) -> Result<bool> {
        self.begin_change()?;
        let (ino, mode) = (allocation.ino, allocation.mode);
        if allocation.bytes.is_empty() {
            return Ok(true);
        }
        if allocation.done == 0 && !self.has_room(allocation)? {
            return Ok(false);
        }
        let _order = self.locks.alone(ino);
        self.losses.settle(ino);
        let inode = self.regular(&mut self.store.meta(), ino)?;
        mode.must_be_allowed(&inode)?;
        let whole = allocation.whole(inode.size);
        let from = allocation.done.max(whole.start).min(whole.end);
        let (most, end) = (from..whole.end.min(from + STEP_BLOCKS), whole.end);
        self.prepare_part(ino, most.clone(), Side::Start)?;
        let part = self.store.meta().part(self.volume, ino, most, Side::Start)?;
        let (size, rights) = (inode.size, allocation.caller.rights(&inode));
        let is_last = part.blocks.end == end;
        let mut edges: Vec<(u64, Block)> = Vec::new();
        let mut change = ContentChange::default();
        if !part.blocks.is_empty() {
            change.ranges.push(map_run(part.blocks.clone(), allocation.to()));
        }
        // The last one looks again: others may have written there since.
        if is_last || !allocation.has_edges {
            change.ranges.extend(allocation.partly_reserved(size));
            if !matches!(mode, AllocateMode::Reserve { .. }) {
                edges = self.zeroed_edges(ino, allocation.bytes.start, allocation.bytes.end, size)?;
            }
            change.data = edges.iter().map(|(block, bytes)| (*block, &bytes[..])).collect();
        }
        let does_nothing = part.is_hole && mode == AllocateMode::PunchHole && change.data.is_empty();
        if is_last || !does_nothing {
            let _turn = self.store.long_turn();
            self.change_content(ino, &change, |_, inode| {
                let now = Timestamp::now();
                let mut attr = kill_privileges_of(inode, rights);
                attr.ctime = Some(now);
                let end = allocation.bytes.end;
                let new_size = (is_last && !mode.keeps_size() && end > inode.size).then_some(end);
                if new_size.is_some() || !matches!(mode, AllocateMode::Reserve { .. }) {
                    attr.mtime = Some(now);
                }
                Ok((new_size, attr))
            })?;
        }
        (allocation.done, allocation.has_edges) = (part.blocks.end, true);
        Ok(is_last)
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

    /// Refuses, before anything is changed, what will not fit when all steps are done. False: it is not known yet, and to be asked
    /// again; each time it looks at as much as is work for one hold of the metadata.
    fn has_room(&self, allocation: &mut Allocation) -> Result<bool> {
        if allocation.mode == AllocateMode::PunchHole {
            return Ok(true);
        }
        allocation.mode.must_be_allowed(&self.regular(&mut self.store.meta(), allocation.ino)?)?;
        let Range { start, end } = allocation.bytes;
        let blocks = start / BLOCK..end.div_ceil(BLOCK);
        if matches!(allocation.mode, AllocateMode::Reserve { .. }) {
            self.check_host_space(blocks.end - blocks.start)?;
        }
        let mut meta = self.store.meta();
        let (usage, limits) = meta.usage(self.volume)?;
        let Some(limit) = limits.blocks else { return Ok(true) };
        let room = limit.saturating_sub(usage.blocks);
        let at = allocation.counted.max(blocks.start);
        if at >= blocks.end || allocation.missing + (blocks.end - at) <= room {
            return Ok(true);
        }
        let (pieces, end) = meta.some_pieces(self.volume, allocation.ino, at..blocks.end)?;
        let there: u64 = pieces.iter().map(|piece| u64::from(piece.count)).sum();
        allocation.missing += (end - at).saturating_sub(there);
        allocation.counted = end;
        if allocation.missing > room { Err(FsError::NoSpace) } else { Ok(end >= blocks.end) }
    }
}
