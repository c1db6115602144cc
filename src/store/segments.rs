//! All segments of an open store: reading, syncing, giving back.

mod append;
mod deferred;
mod evict;
mod fetch;
mod read_error;
mod reseal;
mod resident;
mod restore;
mod stored;
mod unsynced;

pub use deferred::SealedRun;
pub use evict::{Evicted, SealedHere};
pub use fetch::{Elsewhere, ElsewhereError, Fetched, HealedWatcher};
pub use read_error::ReadError;
pub use reseal::{ResealError, Resealed, count_by_epoch, newest_key_epoch};
pub use resident::Piece;
pub(super) use resident::Used;
pub use stored::StoredBlocks;
pub use unsynced::{Unsynced, UnsyncedError};

use super::SEGMENT_DIR;
use super::address::{BlockAddr, Run};
use super::id::StoreId;
use super::layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_HEADER_BYTES, data_offset, in_group, seal_offset,
    segment_len,
};
use super::seal::{Sealer, SegmentSealer};
use super::segment::{HeaderState, SegmentFile, SegmentHeader, segment_name, segment_of_name};
use crate::backing::{Dir, File, OpenMode, is_unreadable, read_padded};
use deferred::Deferred;
use fetch::{Gone, Healed};
use lru::LruCache;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::{Mutex, RwLock};
use reseal::Resealing;
use resident::Resident;
use rustc_hash::{FxHashMap, FxHashSet};
use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// Segment files kept open for reading, where so many may be.
const OPEN_FILES: u64 = 512;
/// At least so many are.
const OPEN_FILES_MIN: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// Files that a process which serves a store has open besides.
const OTHER_FILES: u64 = 32;
/// Damaged blocks that are named in the log one by one.
const NAMED_DAMAGE: usize = 1000;

/// Whether a read may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait as long as it takes.
    Yes,
    /// The same, for what nobody will read again soon: it need not stay in memory.
    Passing,
    /// The same, of what is on this host: give [`ReadError::Absent`] for a block that was never here because it is elsewhere.
    Here,
    /// Give [`ReadError::WouldWait`] instead.
    No,
}

/// Why blocks could not be appended. Addresses in `wasted` are used up and hold nothing: the caller frees them.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct AppendError {
    /// The segment file.
    pub path: PathBuf,
    /// What the host said; `StorageFull` when the host file system is full.
    pub source: io::Error,
    /// Runs that were allocated for the append.
    pub wasted: Vec<Run>,
}

/// How far a segment is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Segment id.
    pub id: u64,
    /// Index behind the last block that was ever allocated in it.
    pub tail: u32,
    /// No block will be added any more.
    pub full: bool,
}

/// A segment file that was looked at.
struct Opened {
    file: Arc<dyn File>,
    state: HeaderState,
    sealer: SegmentSealer,
}

#[derive(Debug)]
struct Active {
    segment: Arc<SegmentFile>,
    next_index: u32,
    /// Up to here the host keeps room for the file.
    reserved: u64,
}

#[derive(Debug, Default)]
struct Pending {
    files: Vec<Arc<SegmentFile>>,
    new_names: bool,
    states: FxHashMap<u64, SegmentState>,
}

/// Where the next block goes. Lock order: `tail` before `pending` before `open`.
#[derive(Debug)]
struct Tail {
    active: Option<Active>,
    ids: Range<u64>,
}

/// The segments of one open store.
#[derive(Debug)]
pub struct Segments {
    dir: Arc<dyn Dir>,
    store: StoreId,
    sealer: Sealer,
    tail: Mutex<Tail>,
    pending: Mutex<Pending>,
    deferred: Arc<Deferred>,
    open: Mutex<LruCache<u64, Arc<SegmentFile>>>,
    /// The segment that is being sealed again. Lock order: this before `open`.
    resealing: Mutex<Option<Resealing>>,
    /// Segments that were sealed again: their files are others now.
    resealed: AtomicU64,
    damaged: Mutex<FxHashSet<BlockAddr>>,
    damaged_blocks: AtomicU64,
    appended_bytes: AtomicU64,
    /// See [`Segments::fetch_from`].
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// See [`Segments::set_partial`].
    is_partial: AtomicBool,
    /// Lock order: before `resealing`.
    gone: RwLock<Gone>,
    /// What was fetched could not be kept, and that was said.
    cannot_keep: AtomicBool,
    fetched_blocks: AtomicU64,
    healed: Healed,
    /// See [`Segments::note_use`].
    resident: OnceLock<Resident>,
    /// All files that were there were counted.
    has_listed: AtomicBool,
}

/// Segment files to keep open, by the limit on files of this process: most of that is for mounts and clients.
fn open_files() -> NonZeroUsize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES, |(soft, _)| soft);
    let files = (limit.saturating_sub(OTHER_FILES) / 4).min(OPEN_FILES);
    NonZeroUsize::new(files as usize).map_or(OPEN_FILES_MIN, |files| files.max(OPEN_FILES_MIN))
}

impl Segments {
    /// The segments in `dir`. New ones take their ids from `ids`, which must be durably reserved and never used
    /// before; nothing can be appended when it is empty.
    pub fn new(dir: Arc<dyn Dir>, store: StoreId, sealer: Sealer, ids: Range<u64>) -> Self {
        // Without room in advance: most stores have few.
        let mut open = LruCache::unbounded();
        open.resize(open_files());
        Self {
            dir,
            store,
            sealer,
            tail: Mutex::new(Tail { active: None, ids }),
            pending: Mutex::new(Pending::default()),
            deferred: Arc::default(),
            open: Mutex::new(open),
            resealing: Mutex::new(None),
            resealed: AtomicU64::new(0),
            damaged: Mutex::new(FxHashSet::default()),
            damaged_blocks: AtomicU64::new(0),
            appended_bytes: AtomicU64::new(0),
            elsewhere: OnceLock::new(),
            is_partial: AtomicBool::new(false),
            gone: RwLock::default(),
            cannot_keep: AtomicBool::new(false),
            fetched_blocks: AtomicU64::new(0),
            healed: Healed::default(),
            resident: OnceLock::new(),
            has_listed: AtomicBool::new(false),
        }
    }

    /// Segment ids that are reserved and not used yet.
    pub fn ids_left(&self) -> u64 {
        let tail = self.tail.lock();
        tail.ids.end.saturating_sub(tail.ids.start)
    }

    /// Extends the reserved ids to below `end`, after that was made durable.
    pub fn reserve_ids(&self, end: u64) {
        let mut tail = self.tail.lock();
        tail.ids.end = tail.ids.end.max(end);
    }

    /// Bytes of blocks appended since the store was opened.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Damaged blocks met since the store was opened.
    pub fn damaged_blocks(&self) -> u64 {
        self.damaged_blocks.load(Ordering::Relaxed)
    }

    /// Takes what was appended since the last call. The caller makes sure that no append is under way.
    pub fn take_unsynced(&self) -> Unsynced {
        self.deferred.commit_begins();
        let mut pending = self.pending.lock();
        let pending = std::mem::take(&mut *pending);
        for segment in &pending.files {
            segment.unsynced.store(false, Ordering::Release);
        }
        Unsynced {
            dir: Arc::clone(&self.dir),
            deferred: Arc::clone(&self.deferred),
            files: pending.files,
            new_names: pending.new_names,
            states: pending.states.into_values().collect(),
        }
    }

    /// Syncs the segments that were appended to since the last [`Segments::take_unsynced`], which stay unsynced: so that
    /// little is left to be done when it counts.
    ///
    /// # Errors
    /// As [`Unsynced::sync`].
    pub fn sync_so_far(&self) -> Result<(), UnsyncedError> {
        let files = self.pending.lock().files.clone();
        let (dir, deferred) = (Arc::clone(&self.dir), Arc::clone(&self.deferred));
        Unsynced { dir, deferred, files, new_names: false, states: Vec::new() }.sync()
    }

    /// Whether something was appended since the last [`Segments::take_unsynced`].
    pub fn has_unsynced(&self) -> bool {
        let pending = self.pending.lock();
        !pending.files.is_empty() || !pending.states.is_empty()
    }

    fn file(&self, id: u64) -> Result<Arc<SegmentFile>, ReadError> {
        loop {
            if let Some(segment) = self.open.lock().get(&id) {
                return Ok(Arc::clone(segment));
            }
            let resealed = self.resealed.load(Ordering::Acquire);
            let segment = Arc::new(self.open_file(id)?);
            let mut open = self.open.lock();
            // The name may have come to stand for another file while we looked.
            if self.resealed.load(Ordering::Acquire) == resealed {
                self.note_use_of(&segment);
                return Ok(Arc::clone(open.get_or_insert(id, || segment)));
            }
        }
    }

    fn open_file(&self, id: u64) -> Result<SegmentFile, ReadError> {
        let path = || self.dir.path(&segment_name(id));
        let Opened { file, state, sealer } = self.look_at_file(id, OpenMode::ReadWrite)?;
        match state {
            HeaderState::Good => {}
            // The seals still tell good blocks from bad ones, and the rest of the volume stays usable.
            HeaderState::Damaged(what) => log::error!("{}: {what}", path().display()),
            HeaderState::Foreign(what) => return Err(ReadError::Foreign { path: path(), what }),
        }
        Ok(SegmentFile::new(id, sealer, file))
    }

    /// Opens the file of segment `id` and looks at its header.
    fn look_at_file(&self, id: u64, mode: OpenMode) -> Result<Opened, ReadError> {
        let io = |source| ReadError::Io { path: self.dir.path(&segment_name(id)), source };
        loop {
            let resealed = self.resealed.load(Ordering::Acquire);
            let file = self
                .dir
                .open(&segment_name(id), mode)
                .or_else(|e| match e.kind() {
                    io::ErrorKind::ReadOnlyFilesystem => self.dir.open(&segment_name(id), OpenMode::Read),
                    _ => Err(e),
                })
                .map_err(io)?;
            let (state, sealer) = self.header_state(id, &*file).map_err(io)?;
            // What was sealed again while we looked has another file, and the keys of this one may be gone already.
            if state == HeaderState::Good || self.resealed.load(Ordering::Acquire) == resealed {
                return Ok(Opened { file, state, sealer });
            }
        }
    }

    /// What the header in `file` says, and what opens the blocks.
    fn header_state(&self, id: u64, file: &dyn File) -> io::Result<(HeaderState, SegmentSealer)> {
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        match read_padded(file, &mut bytes, 0) {
            Ok(_) => {}
            Err(e) if is_unreadable(&e) => {
                let what = HeaderState::Damaged("the disk cannot read the segment header");
                return Ok((what, self.sealer.of_any_epoch()));
            }
            Err(e) => return Err(e),
        }
        let sealer = SegmentHeader::key_epoch_of(&bytes).and_then(|epoch| self.sealer.of_epoch(epoch));
        // A header that names keys which this store does not have differs from any that could be expected.
        let expected = sealer.as_ref().and_then(SegmentSealer::key_epoch);
        let key_epoch = expected.or(self.sealer.newest().key_epoch()).unwrap_or(0);
        let state = SegmentHeader { store: self.store, segment: id, key_epoch }.verify(&bytes);
        Ok((state, sealer.unwrap_or_else(|| self.sealer.of_any_epoch())))
    }

    /// Reads the header of segment `id` again, for `check`, and the length of its file.
    ///
    /// # Errors
    /// When the file is missing or cannot be read.
    pub fn check_file(&self, id: u64) -> Result<(HeaderState, u64), ReadError> {
        let Opened { file, state, .. } = self.look_at_file(id, OpenMode::Read)?;
        let len = file.len().map_err(|source| ReadError::Io { path: self.path(id), source })?;
        Ok((state, len))
    }

    /// Reads the blocks of `run` into `out` (4096 bytes each) and opens their seals.
    ///
    /// # Errors
    /// See [`ReadError`]. `out` then holds nothing that may be used.
    pub fn read(&self, run: Run, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        debug_assert_eq!(out.len(), run.count as usize * BLOCK_BYTES);
        let (mut run, mut out) = (run, out);
        loop {
            let (from_memory, from_disk) = self.read_deferred(run, out)?;
            let rest = &mut out[from_memory as usize * BLOCK_BYTES..];
            let (part, rest) = rest.split_at_mut(from_disk as usize * BLOCK_BYTES);
            if from_disk > 0 {
                self.read_files(run.part(from_memory, from_disk), part, wait)?;
            }
            let done = from_memory + from_disk;
            if done == run.count {
                return Ok(());
            }
            (run, out) = (run.part(done, run.count - done), rest);
        }
    }

    /// As [`Segments::read`], for blocks that are in their segment, without fetching.
    fn read_here(&self, run: Run, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        let segment = self.file(run.start.segment)?;
        let mut out = out;
        let mut addr = run.start;
        while addr.index < run.end_index() {
            let count = in_group(addr.index, run.end_index() - addr.index);
            let (part, rest) = out.split_at_mut(count as usize * BLOCK_BYTES);
            self.read_group(&segment, addr, part, wait)?;
            out = rest;
            addr = addr.plus(count);
        }
        Ok(())
    }

    /// Reads blocks of one group and their seals, in one read where they lie side by side.
    fn read_group(
        &self,
        segment: &SegmentFile,
        first: BlockAddr,
        out: &mut [u8],
        wait: Wait,
    ) -> Result<(), ReadError> {
        let io = |source| ReadError::Io { path: self.dir.path(&segment_name(segment.id)), source };
        segment.touch(first.index);
        let mut page = [0u8; BLOCK_BYTES];
        let got = if first.index.is_multiple_of(GROUP_BLOCKS) {
            let both = &mut [IoSliceMut::new(&mut page), IoSliceMut::new(out)];
            let got = segment.read(both, seal_offset(first.index), wait).map_err(io)?;
            got.map(|got| got.saturating_sub(BLOCK_BYTES))
        } else {
            let seals = &mut page[..out.len() / BLOCK_BYTES * SEAL_BYTES];
            segment.read_apart(seals, out, first.index, wait).map_err(io)?
        };
        // What lies past the end of a cut file becomes zeros, which no seal opens.
        out[got.ok_or(ReadError::WouldWait)?..].fill(0);
        let seals = &page[..out.len() / BLOCK_BYTES * SEAL_BYTES];
        let mut addr = first;
        for (block, seal) in out.chunks_exact_mut(BLOCK_BYTES).zip(seals.chunks_exact(SEAL_BYTES)) {
            if !segment.sealer.open(addr, block, seal) {
                return Err(self.unsealed(addr));
            }
            addr = addr.plus(1);
        }
        Ok(())
    }

    fn unsealed(&self, addr: BlockAddr) -> ReadError {
        ReadError::Unsealed { addr, path: self.path(addr.segment), offset: data_offset(addr.index) }
    }

    /// Reads the blocks of `run` and their seals as they are in the file.
    ///
    /// # Errors
    /// See [`ReadError`]: as the backing files, and where a seal would not open.
    pub fn read_sealed(&self, run: Run, seals: &mut [u8], contents: &mut [u8]) -> Result<(), ReadError> {
        let segment = self.file(run.start.segment)?;
        let io = |source| ReadError::Io { path: self.dir.path(&segment_name(segment.id)), source };
        let (mut seals, mut contents) = (seals, contents);
        let mut index = run.start.index;
        while index < run.end_index() {
            let count = in_group(index, run.end_index() - index);
            let (seal, more_seals) = seals.split_at_mut(count as usize * SEAL_BYTES);
            let (content, more_contents) = contents.split_at_mut(count as usize * BLOCK_BYTES);
            read_padded(&*segment.file, seal, seal_offset(index)).map_err(io)?;
            read_padded(&*segment.file, content, data_offset(index)).map_err(io)?;
            for (i, (seal, content)) in
                seal.chunks_exact(SEAL_BYTES).zip(content.chunks_exact(BLOCK_BYTES)).enumerate()
            {
                let addr = BlockAddr { segment: segment.id, index: index + i as u32 };
                if !segment.sealer.is_whole(addr, content, seal) {
                    return Err(self.unsealed(addr));
                }
            }
            (seals, contents) = (more_seals, more_contents);
            index += count;
        }
        Ok(())
    }

    /// Counts and logs a read that failed for good. A block is named once.
    pub fn report(&self, error: &ReadError) {
        let fresh = match error {
            ReadError::WouldWait | ReadError::Absent { .. } | ReadError::Away { .. } => false,
            ReadError::Unsealed { addr, .. } | ReadError::Unfetched { addr, .. } => {
                let mut damaged = self.damaged.lock();
                let fresh = damaged.len() < NAMED_DAMAGE && damaged.insert(*addr);
                if fresh {
                    self.damaged_blocks.fetch_add(1, Ordering::Relaxed);
                }
                fresh
            }
            ReadError::Io { .. } | ReadError::Foreign { .. } => true,
        };
        if fresh {
            log::error!("{error}");
        }
    }

    /// Tells the host that the runs will be read soon, with their seals. Runs that follow each other are one request.
    pub fn prefetch(&self, runs: impl IntoIterator<Item = Run>) {
        let mut next: Option<(u64, Range<u64>)> = None;
        for run in runs {
            let id = run.start.segment;
            let range = prefetched(run);
            match &mut next {
                Some((at, before)) if *at == id && before.end == range.start => before.end = range.end,
                _ => {
                    if let Some((at, before)) = next.replace((id, range)) {
                        self.prefetch_range(at, &before);
                    }
                }
            }
        }
        if let Some((at, range)) = next {
            self.prefetch_range(at, &range);
        }
    }

    fn prefetch_range(&self, id: u64, range: &Range<u64>) {
        if let Ok(segment) = self.file(id) {
            segment.file.prefetch(range.start, range.end - range.start);
        }
    }

    /// Gives the blocks of `run` back to the host. Doing it twice is harmless.
    ///
    /// # Errors
    /// When the host refuses; a segment that is gone already is no error.
    pub fn punch(&self, run: Run) -> Result<(), ReadError> {
        self.note_gone(run);
        let resealing = self.resealing.lock();
        let segment = match self.file(run.start.segment) {
            Ok(segment) => segment,
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut index = run.start.index;
        while index < run.end_index() {
            let count = in_group(index, run.end_index() - index);
            let (offset, len) = (data_offset(index), u64::from(count) * BLOCK_BYTES as u64);
            let copy = resealing.as_ref().filter(|copy| copy.id() == segment.id);
            segment
                .file
                .punch(offset, len)
                .and_then(|()| copy.map_or(Ok(()), |copy| copy.punch(offset, len)))
                .map_err(|source| ReadError::Io { path: self.dir.path(&segment_name(segment.id)), source })?;
            index += count;
        }
        self.note_went(run.start.segment);
        Ok(())
    }

    /// Removes the file of a segment in which nothing lives. Doing it twice is harmless.
    ///
    /// # Errors
    /// When the host refuses, and [`ReadError::Foreign`] for a segment of another store: whatever brought it here, it may be
    /// all there is of what lives in it.
    pub fn remove(&self, id: u64) -> Result<(), ReadError> {
        self.note_segment_gone(id);
        if self.resealing.lock().as_ref().is_some_and(|copy| copy.id() == id) {
            self.abandon_reseal();
        }
        let known = self.open.lock().pop(&id);
        let removed = match known {
            // Its header was looked at when it was opened.
            Some(_) => self.remove_file(&segment_name(id)),
            None => self.remove_ours(&segment_name(id)),
        };
        self.note_went(id);
        removed
    }

    /// Removes a file of the directory of segments, unless its header is another store's.
    fn remove_ours(&self, name: &str) -> Result<(), ReadError> {
        let path = || self.dir.path(name);
        let file = match self.dir.open(name, OpenMode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ReadError::Io { path: path(), source }),
        };
        let mut header = [0u8; SEGMENT_HEADER_BYTES];
        // What cannot be read is nobody's.
        let read = read_padded(&*file, &mut header, 0);
        if read.is_ok() && SegmentHeader::store_of(&header).is_some_and(|store| store != self.store) {
            return Err(ReadError::Foreign {
                path: path(),
                what: "the segment belongs to another store, and is left where it is".into(),
            });
        }
        self.remove_file(name)
    }

    fn remove_file(&self, name: &str) -> Result<(), ReadError> {
        match self.dir.remove(name) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ReadError::Io { path: self.dir.path(name), source })
            }
            _ => Ok(()),
        }
    }

    /// Ids of the segment files that are there, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<u64>> {
        let mut ids: Vec<u64> =
            self.dir.list(SEGMENT_DIR)?.iter().filter_map(|name| segment_of_name(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The id of the segment that is being filled, which must not be removed.
    pub fn active(&self) -> Option<u64> {
        self.tail.lock().active.as_ref().map(|a| a.segment.id)
    }

    /// The path of a segment file, for messages.
    pub fn path(&self, id: u64) -> PathBuf {
        self.dir.path(&segment_name(id))
    }
}

/// The bytes of a segment file that hold the contents of `run`, with the seal page in front of them if the run begins its
/// group. Without it, each group would wait for its seals behind everything that is being read ahead.
fn prefetched(run: Run) -> Range<u64> {
    let first = run.start.index;
    let from = if first.is_multiple_of(GROUP_BLOCKS) { seal_offset(first) } else { data_offset(first) };
    from..segment_len(run.end_index())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::store::SEGMENT_BLOCKS;
    use std::fs;

    fn segments(tmp: &tempfile::TempDir, ids: Range<u64>) -> Segments {
        fs::create_dir_all(tmp.path().join(SEGMENT_DIR)).unwrap();
        Segments::new(Arc::new(OsDir::new(tmp.path())), StoreId(5), Sealer::Checksum, ids)
    }

    fn pattern(blocks: u32, salt: u8) -> Vec<u8> {
        (0..blocks as usize * BLOCK_BYTES).map(|i| (i / 7) as u8 ^ (i / BLOCK_BYTES) as u8 ^ salt).collect()
    }

    #[test]
    fn appended_runs_read_back_across_groups_and_segments() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..10);
        let head = pattern(SEGMENT_BLOCKS - 10, 1);
        assert_eq!(segments.append(&[&head]).unwrap().len(), 1);
        let (a, b) = (pattern(30, 2), pattern(300, 3));
        let runs = segments.append(&[&a, &b]).unwrap();
        assert_eq!(runs.iter().map(|r| (r.start.segment, r.count)).collect::<Vec<_>>(), [(1, 10), (2, 320)]);
        let mut out = vec![0; 330 * BLOCK_BYTES];
        let mut at = 0;
        for run in runs {
            let len = run.count as usize * BLOCK_BYTES;
            segments.read(run, &mut out[at..at + len], Wait::Yes).unwrap();
            at += len;
        }
        assert!(out[..a.len()] == a && out[a.len()..] == b);
        let states = segments.take_unsynced().states;
        assert!(states.contains(&SegmentState { id: 1, tail: SEGMENT_BLOCKS, full: true }));
        assert!(states.contains(&SegmentState { id: 2, tail: 320, full: false }));
        assert!(!segments.has_unsynced());
    }

    #[test]
    fn what_waits_in_memory_is_read_like_what_is_in_its_segment_and_gets_there_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..10);
        assert!(segments.append_deferred(&[&pattern(1, 0)]).unwrap().is_none(), "there is no segment yet");
        // Some in memory, some not, across groups.
        let contents = pattern(GROUP_BLOCKS + 50, 7);
        let (a, rest) = contents.split_at(250 * BLOCK_BYTES);
        let (b, rest) = rest.split_at(20 * BLOCK_BYTES);
        let (c, d) = rest.split_at(10 * BLOCK_BYTES);
        let run = segments.append(&[a]).unwrap()[0];
        let waiting = segments.append_deferred(&[b]).unwrap().unwrap();
        assert_eq!(waiting.iter().map(|sealed| sealed.run().count).collect::<Vec<_>>(), [6, 14]);
        segments.append(&[c]).unwrap();
        segments.append_deferred(&[d]).unwrap().unwrap();
        let whole = Run::new(run.start, GROUP_BLOCKS + 50);
        let path = tmp.path().join(segment_name(1));
        let in_file = |block: u32| {
            let at = data_offset(block) as usize;
            fs::read(&path)
                .unwrap()
                .get(at..at + BLOCK_BYTES)
                .is_some_and(|bytes| bytes.iter().any(|b| *b != 0))
        };
        let reads_well = || {
            let mut out = vec![0; contents.len()];
            segments.read(whole, &mut out, Wait::Yes).unwrap();
            out == contents
        };
        assert!(reads_well() && in_file(249) && !in_file(255) && !in_file(300));
        segments.take_unsynced().sync().unwrap();
        assert!(reads_well() && (0..GROUP_BLOCKS + 50).all(in_file));
        // The host has back what it kept.
        let allocated = || segments.file(1).unwrap().file.allocated().unwrap();
        assert!(allocated() > 1 << 20, "{}", allocated());
        let gone = segments.append_deferred(&[&pattern(1, 1)]).unwrap().unwrap();
        segments.forget_deferred(&gone);
        segments.release_reserved();
        assert!(allocated() < 258 * 4096 + 64 * 4096 + MAP_SLACK, "{}", allocated());
        assert!(reads_well());
    }

    #[test]
    fn what_is_freed_while_it_waits_is_not_written_unless_a_commit_has_begun_that_names_it() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..10);
        segments.append(&[&pattern(1, 0)]).unwrap();
        let contents: Vec<_> = [2, 8, 2, 2].into_iter().zip(1..).map(|(n, salt)| pattern(n, salt)).collect();
        let wait = |contents: &[u8]| segments.append_deferred(&[contents]).unwrap().unwrap()[0].run();
        let (committed, gone) = (wait(&contents[0]), wait(&contents[1]));
        segments.forget_freed([gone].into_iter());
        let unsynced = segments.take_unsynced();
        let (half, later) = (wait(&contents[2]), wait(&contents[3]));
        segments.forget_freed([committed, half.part(0, 1), later].into_iter());
        unsynced.sync().unwrap();
        let reads = |run, contents: &[u8]| {
            let mut out = vec![0; contents.len()];
            segments.read(run, &mut out, Wait::Yes).is_ok() && out == contents
        };
        let found: Vec<_> =
            [committed, gone, half, later].into_iter().zip(&contents).map(|(run, c)| reads(run, c)).collect();
        assert_eq!(found, [true, false, true, false]);
        assert_eq!(segments.superseded_blocks(), 10);
    }

    /// What the host may count for the map of a file.
    const MAP_SLACK: u64 = 64 << 10;

    #[test]
    fn what_a_killed_process_reserved_is_given_back_also_where_the_segment_has_holes() {
        let tmp = tempfile::tempdir().unwrap();
        let killed = segments(&tmp, 1..10);
        let run = killed.append(&[&pattern(600, 3)]).unwrap()[0];
        let sealed = killed.append_deferred(&[&pattern(1, 4)]).unwrap().unwrap();
        killed.write_deferred().unwrap();
        killed.punch(run.part(10, 500)).unwrap();
        let allocated = || killed.file(1).unwrap().file.allocated().unwrap();
        let before = allocated();
        let tail = sealed[0].run().end_index();
        let next = segments(&tmp, 2..10);
        next.cut(1, tail).unwrap();
        assert!(allocated() < before - (512 << 10), "{before} {}", allocated());
        let mut out = vec![0; BLOCK_BYTES];
        next.read(sealed[0].run(), &mut out, Wait::Yes).unwrap();
        assert!(out == pattern(1, 4));
    }

    #[test]
    fn a_flipped_bit_is_found_and_only_that_block_is_lost() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..10);
        let run = segments.append(&[&pattern(GROUP_BLOCKS * 2, 0)]).unwrap()[0];
        let path = tmp.path().join(segment_name(1));
        for (offset, bad) in [(data_offset(300) + 17, 300), (seal_offset(4) + 3, 4)] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[offset as usize] ^= 4;
            fs::write(&path, &bytes).unwrap();
            let mut out = vec![0; BLOCK_BYTES];
            for index in 0..run.count {
                let result = segments.read(run.part(index, 1), &mut out, Wait::Yes);
                match result {
                    Err(ReadError::Unsealed { addr, offset, .. }) => {
                        assert_eq!((addr.index, offset), (bad, data_offset(bad)));
                    }
                    other => assert!(other.is_ok() && index != bad, "{index}: {other:?}"),
                }
            }
            bytes[offset as usize] ^= 4;
            fs::write(&path, &bytes).unwrap();
        }
    }

    #[test]
    fn a_segment_of_another_store_is_refused_even_where_its_seals_open() {
        let tmp = tempfile::tempdir().unwrap();
        let run = segments(&tmp, 1..10).append(&[&pattern(1, 0)]).unwrap()[0];
        let other = Segments::new(Arc::new(OsDir::new(tmp.path())), StoreId(6), Sealer::Checksum, 0..0);
        let mut out = vec![0; BLOCK_BYTES];
        assert!(matches!(other.read(run, &mut out, Wait::Yes), Err(ReadError::Foreign { .. })));
        // Nor is it written to, cut or removed, also under a name that only leftovers have.
        let path = tmp.path().join(segment_name(1));
        let before = fs::read(&path).unwrap();
        let seal = [1; SEAL_BYTES];
        assert!(other.restore(run.start, 0, &seal, &[1; BLOCK_BYTES]).is_err());
        assert!(other.sync_recovered([(1, 100)]).is_err());
        assert!(other.cut(1, 0).is_err());
        assert!(matches!(other.remove(1), Err(ReadError::Foreign { .. })));
        let leftover = tmp.path().join(SEGMENT_DIR).join("0000000000000009.seg.new");
        fs::copy(&path, &leftover).unwrap();
        other.remove_unfinished().unwrap();
        assert!(fs::read(&path).unwrap() == before && fs::read(&leftover).unwrap() == before);
        // Its own store may.
        let own = segments(&tmp, 1..10);
        own.remove_unfinished().unwrap();
        own.remove(1).unwrap();
        assert!(!path.exists() && !leftover.exists());
    }

    #[test]
    fn punched_blocks_no_longer_open_and_removed_segments_are_not_found() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..10);
        let run = segments.append(&[&pattern(600, 0)]).unwrap()[0];
        segments.punch(run.part(100, 300)).unwrap();
        let mut out = vec![0; BLOCK_BYTES];
        assert!(segments.read(run.part(99, 1), &mut out, Wait::Yes).is_ok());
        assert!(segments.read(run.part(100, 1), &mut out, Wait::Yes).is_err());
        assert!(segments.read(run.part(399, 1), &mut out, Wait::Yes).is_err());
        assert!(segments.read(run.part(400, 1), &mut out, Wait::Yes).is_ok());
        segments.remove(1).unwrap();
        segments.remove(1).unwrap();
        segments.punch(run).unwrap();
        assert!(segments.list().unwrap().is_empty());
    }

    #[test]
    fn what_is_read_ahead_has_its_seals_with_it() {
        let run = |index, count| prefetched(Run::new(BlockAddr { segment: 1, index }, count));
        assert_eq!(run(0, 256), 4096..4096 * (1 + 257));
        assert_eq!(run(256, 300).start, run(0, 256).end, "groups that follow each other leave no gap");
        assert_eq!(run(10, 2), data_offset(10)..data_offset(12));
    }

    #[test]
    fn ids_that_are_not_reserved_are_not_used() {
        let tmp = tempfile::tempdir().unwrap();
        let segments = segments(&tmp, 1..1);
        assert!(segments.append(&[&pattern(1, 0)]).unwrap_err().wasted.is_empty());
        segments.reserve_ids(2);
        assert_eq!(segments.append(&[&pattern(1, 0)]).unwrap()[0].start.segment, 1);
        assert_eq!(segments.ids_left(), 0);
    }
}
