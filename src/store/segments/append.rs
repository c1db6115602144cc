//! Writing blocks to new addresses.

use super::super::address::{BlockAddr, Run};
use super::super::layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_BLOCKS, data_offset, in_group, seal_offset, segment_len,
};
use super::super::segment::{SegmentFile, SegmentHeader, segment_name};
use super::{Active, AppendError, SegmentState, Segments, Tail};
use crate::backing::{OpenMode, is_full};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blocks after which the disk is told to begin: 8 MiB, a multiple of a group.
const STRETCH_BLOCKS: u32 = 8 * GROUP_BLOCKS;
/// Blocks of a run that is written without staying in the host's cache, from which nobody is going to read it soon: what
/// writes so much at once either has its own cache or wants none. 128 KiB: for less, the disk works in pieces too small.
const UNCACHED_BLOCKS: u32 = 32;
/// Blocks that are encrypted before they are written: 256 KiB.
const PIECE_BLOCKS: usize = 64;

thread_local! {
    /// Where blocks are encrypted: fresh memory costs more than the cipher.
    static ENCRYPTED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Segments {
    /// Seals and writes whole blocks (each part is a multiple of 4096 bytes) to new addresses, in order. They are
    /// in the host's page cache when this returns, durable after the next sync.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&self, parts: &[&[u8]]) -> Result<Vec<Run>, AppendError> {
        debug_assert!(parts.iter().all(|p| p.len().is_multiple_of(BLOCK_BYTES)));
        let blocks: usize = parts.iter().map(|p| p.len() / BLOCK_BYTES).sum();
        let mut left = blocks as u32;
        let mut runs: Vec<Run> = Vec::with_capacity(2);
        let mut cursor = PartCursor::new(parts);
        let fail = |runs: &Vec<Run>, id: u64, source| AppendError {
            path: self.dir.path(&segment_name(id)),
            source,
            wasted: runs.clone(),
        };
        while left > 0 {
            let (segment, run) = match self.allocate(left) {
                Ok(allocated) => allocated,
                Err((id, source)) => return Err(fail(&runs, id, source)),
            };
            runs.push(run);
            if let Err(source) = self.write_run(&segment, run, &mut cursor) {
                if is_full(&source) {
                    self.note_full();
                }
                return Err(fail(&runs, segment.id, source));
            }
            self.note_came(segment.id, run.count.into());
            self.start_writeback(&segment, run);
            left -= run.count;
        }
        self.appended_bytes.fetch_add((blocks * BLOCK_BYTES) as u64, Ordering::Relaxed);
        Ok(runs)
    }

    /// Lets the disk begin with a stretch of the segment when it is filled, so that the sync that follows finds most of
    /// its work done. What is in a segment never changes: nothing is written twice because of this.
    fn start_writeback(&self, segment: &SegmentFile, run: Run) {
        let (before, now) = (run.start.index / STRETCH_BLOCKS, run.end_index() / STRETCH_BLOCKS);
        if before < now {
            let from = data_offset(before * STRETCH_BLOCKS) - BLOCK_BYTES as u64;
            segment.file.start_writeback(from, segment_len(now * STRETCH_BLOCKS) - from);
        }
    }

    /// Takes up to `wanted` addresses at the tail.
    fn allocate(&self, wanted: u32) -> Result<(Arc<SegmentFile>, Run), (u64, io::Error)> {
        self.allocate_in(&mut self.tail.lock(), wanted)
    }

    pub(super) fn allocate_in(
        &self,
        tail: &mut Tail,
        wanted: u32,
    ) -> Result<(Arc<SegmentFile>, Run), (u64, io::Error)> {
        if tail.active.is_none() {
            let id = tail.ids.start;
            tail.active = Some(Active {
                segment: self.create(&tail.ids).map_err(|e| (id, e))?,
                next_index: 0,
                reserved: 0,
            });
            tail.ids.start = id + 1;
        }
        let Some(active) = tail.active.as_mut() else {
            return Err((0, io::ErrorKind::Other.into()));
        };
        let segment = Arc::clone(&active.segment);
        let index = active.next_index;
        let count = wanted.min(SEGMENT_BLOCKS - index);
        active.next_index += count;
        let full = active.next_index == SEGMENT_BLOCKS;
        let state = SegmentState { id: segment.id, tail: active.next_index, full };
        if full {
            tail.active = None;
        }
        let mut pending = self.pending.lock();
        pending.states.insert(segment.id, state);
        if segment.mark_unsynced() {
            pending.files.push(Arc::clone(&segment));
        }
        Ok((Arc::clone(&segment), Run::new(BlockAddr { segment: segment.id, index }, count)))
    }

    fn create(&self, ids: &Range<u64>) -> io::Result<Arc<SegmentFile>> {
        if ids.is_empty() {
            return Err(io::Error::other("no segment id is reserved"));
        }
        let id = ids.start;
        let file = self.dir.open(&segment_name(id), OpenMode::CreateNew)?;
        let sealer = self.sealer.newest();
        let key_epoch = sealer.key_epoch().ok_or_else(|| io::Error::other("there are no keys"))?;
        let header = SegmentHeader { store: self.store, segment: id, key_epoch }.encode();
        if let Err(e) = file.write_at(&[IoSlice::new(&header)], 0) {
            // Without its header the file is nothing; the id is still free.
            let _ = self.dir.remove(&segment_name(id));
            return Err(e);
        }
        let segment = Arc::new(SegmentFile::new(id, sealer, file));
        self.note_use_of(&segment);
        self.pending.lock().new_names = true;
        self.open.lock().put(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// Appends nothing more to the segment that is being filled. The caller makes sure that no append is under way.
    pub fn retire(&self) {
        let Some(mut active) = self.tail.lock().active.take() else { return };
        active.release_reserved();
        let id = active.segment.id;
        let state = SegmentState { id, tail: active.next_index, full: true };
        self.pending.lock().states.insert(id, state);
    }

    fn write_run(&self, segment: &SegmentFile, run: Run, cursor: &mut PartCursor<'_>) -> io::Result<()> {
        let mut index = run.start.index;
        while index < run.end_index() {
            let count = in_group(index, run.end_index() - index);
            let slices = cursor.take(count as usize * BLOCK_BYTES);
            let mut seals = [0u8; BLOCK_BYTES];
            let seals = &mut seals[..count as usize * SEAL_BYTES];
            let first = BlockAddr { segment: segment.id, index };
            let blocks = slices.iter().flat_map(|s| s.chunks_exact(BLOCK_BYTES));
            if segment.sealer.is_cipher() {
                self.write_encrypted(segment, run, first, blocks, seals)?;
            } else {
                for (i, (block, seal)) in blocks.zip(seals.chunks_exact_mut(SEAL_BYTES)).enumerate() {
                    let sum = self.sealer.checksum(first.plus(i as u32), block);
                    seal.copy_from_slice(&sum.unwrap_or_default());
                }
                let slices: Vec<IoSlice<'_>> = slices.into_iter().map(IoSlice::new).collect();
                write_contents(segment, run, &slices, data_offset(index))?;
            }
            segment.file.write_at(&[IoSlice::new(seals)], seal_offset(index))?;
            // Now it is seen that the piece has something: see `least_used`.
            segment.touch(index);
            index += count;
        }
        Ok(())
    }

    /// Encrypts blocks of one group and writes them, a piece at a time, so that what was encrypted is still in the CPU's
    /// cache when it is written.
    fn write_encrypted<'a>(
        &self,
        segment: &SegmentFile,
        run: Run,
        first: BlockAddr,
        mut blocks: impl Iterator<Item = &'a [u8]>,
        seals: &mut [u8],
    ) -> io::Result<()> {
        ENCRYPTED.with_borrow_mut(|buf| {
            buf.resize(PIECE_BLOCKS * BLOCK_BYTES, 0);
            let mut addr = first;
            for seals in seals.chunks_mut(PIECE_BLOCKS * SEAL_BYTES) {
                let start = addr;
                let pairs = buf.chunks_exact_mut(BLOCK_BYTES).zip(seals.chunks_exact_mut(SEAL_BYTES));
                // The blocks last: a piece must not take one more than it has room for.
                for ((out, seal), block) in pairs.zip(&mut blocks) {
                    seal.copy_from_slice(&segment.sealer.seal(addr, block, out)?);
                    addr = addr.plus(1);
                }
                let bytes = (addr.index - start.index) as usize * BLOCK_BYTES;
                write_contents(segment, run, &[IoSlice::new(&buf[..bytes])], data_offset(start.index))?;
            }
            Ok(())
        })
    }
}

/// Writes contents of some of the blocks of `run`.
fn write_contents(segment: &SegmentFile, run: Run, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    if run.count >= UNCACHED_BLOCKS {
        segment.file.write_at_uncached(bufs, offset)
    } else {
        segment.file.write_at(bufs, offset)
    }
}

/// Walks the parts of an append in step with the runs they are written to.
pub(super) struct PartCursor<'a> {
    parts: &'a [&'a [u8]],
    part: usize,
    offset: usize,
}

impl<'a> PartCursor<'a> {
    pub(super) fn new(parts: &'a [&'a [u8]]) -> Self {
        Self { parts, part: 0, offset: 0 }
    }

    /// The next `bytes` bytes, as slices of the parts.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<&'a [u8]> {
        let mut left = bytes;
        let mut slices = Vec::with_capacity(self.parts.len());
        while left > 0 && self.part < self.parts.len() {
            let part = &self.parts[self.part][self.offset..];
            let count = part.len().min(left);
            slices.push(&part[..count]);
            left -= count;
            self.offset += count;
            if count == part.len() {
                self.part += 1;
                self.offset = 0;
            }
        }
        slices
    }
}
