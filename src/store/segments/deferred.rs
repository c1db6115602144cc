//! Blocks that have an address and are sealed, and whose way to their segment is left for later.
//!
//! A small write that is likely to be synced goes to the redo log, whole, so that one write and one flush are all that its
//! sync takes. Its blocks are kept here until they are written to their segments, many at a time: they are read from here,
//! and a process that is killed finds them in the log.
//!
//! Invariants:
//! - the segment has room for what is here (it was reserved), and is among the unsynced ones;
//! - a block is in its segment before it goes from here: who does not find it here finds it there;
//! - [`super::Unsynced::sync`] writes what is here before it syncs;
//! - what is freed before that need not get to its segment, if it came since the last commit began: a replay has it from the log, and no commit
//!   names it. What a commit names that has begun is written, whoever frees it meanwhile. Where little was freed between blocks that are
//!   not, all of it is written with one call, as what one call more takes longer than a few blocks.

use super::super::address::{BlockAddr, Run};
use super::super::layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_BLOCKS, data_offset, in_group, seal_offset, segment_len,
};
use super::super::segment::{SegmentFile, segment_name};
use super::append::PartCursor;
use super::{Active, AppendError, ReadError, Segments};
use crate::backing::Dir;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Blocks that wait until they are written together.
const WAITING_MANY: usize = 256;
/// Blocks that wait at most, however many writers there are, and also while they cannot be written.
const WAITING_MAX: usize = 2 * WAITING_MANY;
/// Freed blocks that follow each other between others are left out from so many on; fewer are written with those around them.
const LEFT_OUT_BLOCKS: u32 = 8;
/// Bytes that the host must have left for anything to wait.
const HOST_ROOM_BYTES: u64 = 1 << 30;
/// Bytes of a segment that the host is asked to keep at a time.
const RESERVED_BYTES: u64 = 1 << 20;

/// Blocks of a run as they are stored.
#[derive(Debug)]
pub struct SealedRun {
    segment: Arc<SegmentFile>,
    run: Run,
    /// The commits that had begun when it came.
    commits: u64,
    seals: Vec<u8>,
    contents: Vec<u8>,
}

impl SealedRun {
    /// Where the blocks belong.
    pub fn run(&self) -> Run {
        self.run
    }

    /// 16 bytes for each block.
    pub fn seals(&self) -> &[u8] {
        &self.seals
    }

    /// 4096 bytes for each block.
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Seal and contents of the block at `index` of the segment, which is one of these.
    fn block(&self, index: u32) -> (&[u8], &[u8]) {
        let at = (index - self.run.start.index) as usize;
        (
            &self.seals[at * SEAL_BYTES..(at + 1) * SEAL_BYTES],
            &self.contents[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES],
        )
    }
}

/// A run that waits.
#[derive(Clone, Debug)]
struct Waiting {
    sealed: Arc<SealedRun>,
    /// It was freed, and no commit names it.
    is_freed: bool,
}

/// The blocks that wait.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    runs: Mutex<BTreeMap<BlockAddr, Waiting>>,
    /// Blocks in `runs`.
    blocks: AtomicUsize,
    /// Held by whoever writes them.
    writing: Mutex<()>,
    /// The host keeps no room for files: nothing may wait.
    without_room: AtomicBool,
    /// Blocks that were left here since the store was opened.
    total: AtomicU64,
    /// And those of them that were freed before they were written.
    superseded: AtomicU64,
    /// Commits that have begun.
    commits: AtomicU64,
}

impl Deferred {
    fn put(&self, sealed: Arc<SealedRun>) {
        let mut runs = self.runs.lock();
        self.blocks.fetch_add(sealed.run.count as usize, Ordering::Release);
        self.total.fetch_add(sealed.run.count.into(), Ordering::Relaxed);
        runs.insert(sealed.run.start, Waiting { sealed, is_freed: false });
    }

    /// The first that has blocks of `run`.
    pub(super) fn first_of(&self, run: Run) -> Option<Arc<SealedRun>> {
        let runs = self.runs.lock();
        let before = runs.range(..=run.start).next_back().map(|(_, waiting)| &waiting.sealed);
        let has_start = |sealed: &&Arc<SealedRun>| {
            sealed.run.start.segment == run.start.segment && run.start.index < sealed.run.end_index()
        };
        let behind =
            || runs.range(run.start..run.start.plus(run.count)).next().map(|(_, waiting)| &waiting.sealed);
        before.filter(has_start).or_else(behind).cloned()
    }

    /// Takes out runs, all of which are as they were put in.
    fn remove(&self, starts: impl IntoIterator<Item = BlockAddr>) {
        let mut runs = self.runs.lock();
        let gone = starts.into_iter().filter_map(|start| runs.remove(&start));
        let count = gone.map(|waiting| waiting.sealed.run.count as usize).sum();
        self.blocks.fetch_sub(count, Ordering::Release);
    }

    /// A commit begins.
    pub(super) fn commit_begins(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocks that nothing refers to any more.
    fn forget_freed(&self, freed: impl Iterator<Item = Run>) {
        let commits = self.commits.load(Ordering::Relaxed);
        let mut runs = self.runs.lock();
        for freed in freed {
            for (_, waiting) in runs.range_mut(freed.start..freed.start.plus(freed.count)) {
                let sealed = &waiting.sealed;
                let is_inside = sealed.commits == commits && sealed.run.end_index() <= freed.end_index();
                if is_inside && !std::mem::replace(&mut waiting.is_freed, true) {
                    self.superseded.fetch_add(sealed.run.count.into(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Writes all that wait to their segments.
    ///
    /// # Errors
    /// The path and the error of the first file that could not be written; what was not stays here.
    pub(super) fn write(&self, dir: &dyn Dir) -> Result<(), (PathBuf, io::Error)> {
        // Who is at it may be writing what is not here any more: room that is given back after this is not written to.
        let _writing = self.writing.lock();
        if self.blocks.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let all: Vec<Waiting> = self.runs.lock().values().cloned().collect();
        for together in all.chunk_by(|one, next| follows(one.sealed.run, next.sealed.run)) {
            for stretch in without_freed(together) {
                let Some(first) = stretch.first() else { continue };
                write_stretch(stretch).map_err(|e| (dir.path(&segment_name(first.sealed.segment.id)), e))?;
            }
            self.remove(together.iter().map(|waiting| waiting.sealed.run.start));
        }
        Ok(())
    }
}

impl Active {
    /// Lets the host have back the room behind the last block.
    pub(super) fn release_reserved(&mut self) {
        if std::mem::take(&mut self.reserved) == 0 {
            return;
        }
        if let Err(e) = self.segment.end_at(segment_len(self.next_index)) {
            log::debug!("segment {}: cannot give back reserved room: {e}", self.segment.id);
        }
    }
}

/// Whether one run lies behind the other, in its group.
fn follows(one: Run, next: Run) -> bool {
    one.start.segment == next.start.segment
        && one.end_index() == next.start.index
        && in_group(one.start.index, u32::MAX) >= one.count + next.count
}

fn blocks(waiting: &[Waiting]) -> u32 {
    waiting.iter().map(|waiting| waiting.sealed.run.count).sum()
}

/// What is to be written of runs that follow each other: all but what was freed at either end, and much of it between others.
fn without_freed(together: &[Waiting]) -> Vec<&[Waiting]> {
    let (mut stretches, mut from, mut at) = (Vec::new(), 0, 0);
    for alike in together.chunk_by(|one, next| one.is_freed == next.is_freed) {
        let (start, count) = (at, blocks(alike));
        at += alike.len();
        if alike.iter().all(|waiting| !waiting.is_freed) {
            continue;
        }
        if start == 0 || at == together.len() || count >= LEFT_OUT_BLOCKS {
            stretches.extend(together.get(from..start));
            from = at;
        }
    }
    stretches.extend(together.get(from..));
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}

/// Writes runs that follow each other in one group.
fn write_stretch(stretch: &[Waiting]) -> io::Result<()> {
    let Some(Waiting { sealed: first, .. }) = stretch.first() else { return Ok(()) };
    let index = first.run.start.index;
    let contents: Vec<IoSlice<'_>> =
        stretch.iter().map(|waiting| IoSlice::new(&waiting.sealed.contents)).collect();
    first.segment.file.write_at(&contents, data_offset(index))?;
    let seals: Vec<IoSlice<'_>> = stretch.iter().map(|waiting| IoSlice::new(&waiting.sealed.seals)).collect();
    first.segment.file.write_at(&seals, seal_offset(index))?;
    // Now it is seen that the piece has something: see `least_used`.
    first.segment.touch(index);
    Ok(())
}

impl Segments {
    /// Seals whole blocks (each part is a multiple of 4096 bytes) for new addresses, in order, and leaves them in memory.
    /// They are read like any others. The caller sees to it that they outlive the process, or calls
    /// [`Segments::write_deferred`]. `None`: that cannot be done now, and nothing has happened.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_deferred(&self, parts: &[&[u8]]) -> Result<Option<Vec<Arc<SealedRun>>>, AppendError> {
        let blocks = parts.iter().map(|part| part.len() / BLOCK_BYTES).sum::<usize>() as u32;
        if self.deferred.blocks.load(Ordering::Relaxed) + blocks as usize > WAITING_MAX {
            return Ok(None);
        }
        let Some((segment, run)) = self.allocate_reserved(blocks) else { return Ok(None) };
        self.note_came(segment.id, blocks.into());
        let commits = self.deferred.commits.load(Ordering::Relaxed);
        let mut out = Vec::with_capacity(1);
        let mut cursor = PartCursor::new(parts);
        let mut skip = 0;
        while skip < run.count {
            let count = in_group(run.start.index + skip, run.count - skip);
            let slices = cursor.take(count as usize * BLOCK_BYTES);
            match seal(&segment, run.part(skip, count), &slices, commits) {
                Ok(sealed) => out.push(Arc::new(sealed)),
                Err(source) => {
                    return Err(AppendError {
                        path: self.path(run.start.segment),
                        source,
                        wasted: vec![run],
                    });
                }
            }
            skip += count;
        }
        self.appended_bytes.fetch_add(u64::from(blocks) * BLOCK_BYTES as u64, Ordering::Relaxed);
        out.iter().for_each(|sealed| self.deferred.put(Arc::clone(sealed)));
        Ok(Some(out))
    }

    /// Takes addresses in the segment that is being filled, if the host keeps room for them.
    fn allocate_reserved(&self, blocks: u32) -> Option<(Arc<SegmentFile>, Run)> {
        if self.deferred.without_room.load(Ordering::Relaxed) {
            return None;
        }
        let mut tail = self.tail.lock();
        let active = tail.active.as_mut()?;
        let end = active.next_index.checked_add(blocks).filter(|end| *end <= SEGMENT_BLOCKS)?;
        if segment_len(end) > active.reserved {
            // From the seals of the group on: an append that failed may have left them out.
            let from = active.reserved.max(seal_offset(active.next_index / GROUP_BLOCKS * GROUP_BLOCKS));
            let to = segment_len(end).max(from + RESERVED_BYTES).min(segment_len(SEGMENT_BLOCKS));
            // What waits must find its place. Where others may fill the host, blocks are written at once: some file systems
            // have to find new room for what they keep it for.
            let space = self.dir.host_space().ok()?;
            if space.available_bytes < HOST_ROOM_BYTES {
                return None;
            }
            active.reserved = to;
            if let Err(e) = active.segment.file.reserve(from, to - from) {
                if e.kind() == io::ErrorKind::Unsupported {
                    active.reserved = 0;
                    self.deferred.without_room.store(true, Ordering::Relaxed);
                }
                active.release_reserved();
                return None;
            }
        }
        self.allocate_in(&mut tail, blocks).ok()
    }

    /// Writes to their segments what [`Segments::append_deferred`] left in memory.
    ///
    /// # Errors
    /// The path and the error of the first file that could not be written; what was not written stays in memory.
    pub fn write_deferred(&self) -> Result<(), (PathBuf, io::Error)> {
        self.deferred.write(&*self.dir)
    }

    /// Whether so much waits in memory that it is to be written.
    pub fn has_many_deferred(&self) -> bool {
        self.deferred.blocks.load(Ordering::Relaxed) >= WAITING_MANY
    }

    /// Blocks that were left in memory since the store was opened.
    pub fn deferred_blocks(&self) -> u64 {
        self.deferred.total.load(Ordering::Relaxed)
    }

    /// And those of them that were freed before they were written.
    pub fn superseded_blocks(&self) -> u64 {
        self.deferred.superseded.load(Ordering::Relaxed)
    }

    /// Blocks were freed for good: what of them waits in memory need not be written, unless a commit that has begun names it. The caller has
    /// the metadata, whose open transaction freed them.
    pub fn forget_freed(&self, freed: impl Iterator<Item = Run>) {
        if self.deferred.blocks.load(Ordering::Relaxed) > 0 {
            self.deferred.forget_freed(freed);
        }
    }

    /// Forgets blocks that nothing is going to name.
    pub fn forget_deferred(&self, runs: &[Arc<SealedRun>]) {
        self.deferred.remove(runs.iter().map(|sealed| sealed.run.start));
    }

    /// Lets the host have back the room that it keeps for the segment that is being filled. The caller makes sure that no
    /// append is under way.
    pub fn release_reserved(&self) {
        if let Some(active) = &mut self.tail.lock().active {
            active.release_reserved();
        }
    }

    /// Reads the first blocks of `run` if they wait in memory, as many as one write left there. The number of them, and of
    /// those that follow and do not wait.
    pub(super) fn read_deferred(&self, run: Run, out: &mut [u8]) -> Result<(u32, u32), ReadError> {
        if self.deferred.blocks.load(Ordering::Acquire) == 0 {
            return Ok((0, run.count));
        }
        let Some(sealed) = self.deferred.first_of(run) else { return Ok((0, run.count)) };
        let waiting = sealed.run;
        if waiting.start.index > run.start.index {
            return Ok((0, waiting.start.index - run.start.index));
        }
        let count = (waiting.end_index() - run.start.index).min(run.count);
        let mut addr = run.start;
        for block in out.chunks_exact_mut(BLOCK_BYTES).take(count as usize) {
            let (seal, contents) = sealed.block(addr.index);
            block.copy_from_slice(contents);
            if !sealed.segment.sealer.open(addr, block, seal) {
                return Err(self.unsealed(addr));
            }
            addr = addr.plus(1);
        }
        Ok((count, 0))
    }
}

fn seal(segment: &Arc<SegmentFile>, run: Run, slices: &[&[u8]], commits: u64) -> io::Result<SealedRun> {
    let blocks = run.count as usize;
    let (mut seals, mut contents) = (vec![0; blocks * SEAL_BYTES], vec![0; blocks * BLOCK_BYTES]);
    let places = seals.chunks_exact_mut(SEAL_BYTES).zip(contents.chunks_exact_mut(BLOCK_BYTES));
    let given = slices.iter().flat_map(|slice| slice.chunks_exact(BLOCK_BYTES));
    for (i, ((seal, out), block)) in places.zip(given).enumerate() {
        seal.copy_from_slice(&segment.sealer.seal(run.start.plus(i as u32), block, out)?);
    }
    Ok(SealedRun { segment: Arc::clone(segment), run, commits, seals, contents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::{OpenMode, OsDir};
    use crate::store::seal::SegmentSealer;

    #[test]
    fn little_that_was_freed_between_others_is_written_with_them_in_one_stretch() {
        let tmp = tempfile::tempdir().unwrap();
        let file = OsDir::new(tmp.path()).open("segment", OpenMode::Create).unwrap();
        let segment = Arc::new(SegmentFile::new(1, SegmentSealer::Checksum, file));
        // Of runs of so many blocks, those below 0 were freed.
        let stretches = |runs: &[i32]| {
            let mut index = 0;
            let waiting = |blocks: &i32| {
                let run = Run::new(BlockAddr { segment: 1, index }, blocks.unsigned_abs());
                index += run.count;
                let segment = Arc::clone(&segment);
                let sealed = SealedRun { segment, run, commits: 0, seals: vec![], contents: vec![] };
                Waiting { sealed: Arc::new(sealed), is_freed: *blocks < 0 }
            };
            let waiting: Vec<Waiting> = runs.iter().map(waiting).collect();
            let found = without_freed(&waiting);
            found.iter().map(|of| (of[0].sealed.run.start.index, blocks(of))).collect::<Vec<_>>()
        };
        assert_eq!(stretches(&[2, -7, 3]), [(0, 12)]);
        assert_eq!(stretches(&[2, -8, 3]), [(0, 2), (10, 3)]);
        assert_eq!(stretches(&[2, -4, -3, 3]), [(0, 12)]);
        assert_eq!(stretches(&[2, -4, -4, 3]), [(0, 2), (10, 3)]);
        assert_eq!(stretches(&[1, -7, 1, -8, 1, -1]), [(0, 9), (17, 1)]);
        // At either end, however little.
        assert_eq!(stretches(&[-1, 2, -7, 3, -1]), [(1, 12)]);
        assert_eq!(stretches(&[-1, -20]), []);
    }
}
