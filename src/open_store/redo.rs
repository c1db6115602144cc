//! The redo log: every mutation since the last commit, as a value, in a file.
//!
//! It is written with every change and synced only on demand, and serves two ends:
//! - **a killed server loses nothing.** What was written is in the host's page cache; the next open replays it on top of
//!   the last durable commit;
//! - **a small fsync costs one flush.** Instead of the segments, then the WAL, only the log is synced: the mutations are in
//!   it already. So are the blocks that they name where a sync was to be expected ([`RedoLog::record_blocks`]); others, if
//!   they are few, are copied into it first.
//!
//! Mutations between two commits are an *epoch*. There are two files, used in turn, because an epoch is still needed
//! while its commit becomes durable and the next one is already being recorded. The metadata know the number of the
//! first epoch that they do not contain. A file is written over from the start each time: its old records belong to
//! another epoch, and space that was written before is synced faster than new space.
//!
//! Invariants:
//! - a record is appended under the hold of the metadata under which its mutation was applied: the log has their order.
//!   Those of mutations that nobody is told of may wait in memory for the next one;
//! - an epoch number is used by one process once: an open that replays two epochs goes on behind both;
//! - the place of a record is given out once ([`Numbers`]), because it is a nonce. If the record does not get there whole,
//!   nothing follows it in the epoch.

mod reader;
mod record;
mod replay;

pub(super) use replay::{Replayed, replay};

use super::commit::Durability;
use super::requests::{self, Executed, Latest};
use crate::backing::{Dir, File, OpenMode, is_full, read_padded};
use crate::crypto::Keys;
use crate::meta::{Mutation, VolumeId};
use crate::store::{ReadError, Run, SealedRun, Segments, StoreId, coalesce};
use parking_lot::Mutex;
use record::{BLOCKS_MAX, Numbers};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Names of the two logs in a store.
const LOG_NAMES: [&str; 2] = ["redo.0", "redo.1"];
/// Length of a log after which a commit is begun: bounds the disk space and the time to replay.
pub(super) const LOG_SOFT: u64 = 16 << 20;
/// Blocks that are copied into the log for a sync; with more, a commit is cheaper. (What is written to the log at once need not be
/// read again, and does not count.)
const COPIED_BLOCKS_MAX: u32 = 64;
/// Host space that each log keeps from the first change on, and has left behind blocks that it takes: for mutations, above all
/// those that give room back.
const KEPT: u64 = 128 << 10;
/// Space is prepared by writing so many zeros at a time.
const ZEROS: usize = 1 << 20;

/// Bytes of a page of the host's cache, at most; larger ones are padded in part, and read.
const PAGE: usize = 4096;
/// Bytes of records that wait for the next one to be written.
const UNWRITTEN_MAX: usize = 64 << 10;

/// Whether the record of a mutation may wait for the next one's. What frees an orphan is done again at the next open if
/// the log does not have it; what comes later, and may need the room, comes later in the log, too.
fn can_wait(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Reap { .. })
}

/// How far a sync of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syncing {
    No,
    /// It copies blocks: what is recorded meanwhile is covered, blocks named meanwhile are not.
    Copying,
    /// Everything before this is on its way to the disk.
    Until(u64),
}

/// What it takes for the mutations of the epoch before to be durable. They are in a commit that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing: they are.
    Durable,
    /// A sync of their log, which is whole: what it names is durable.
    Logged,
    /// Their log is whole. What it names is not durable yet.
    Whole,
    /// Their commit.
    Committed,
}

/// Which of the two logs an epoch is in.
fn log_of(epoch: u64) -> usize {
    (epoch % 2) as usize
}

#[derive(Debug)]
struct LogFile {
    file: Arc<dyn File>,
    /// Bytes that were written at some time: the disk has a place for them.
    prepared: u64,
    /// Up to here the host keeps room, if that is more.
    reserved: u64,
}

impl LogFile {
    fn new(file: Arc<dyn File>) -> io::Result<Self> {
        Ok(Self { prepared: file.len()?, reserved: 0, file })
    }

    /// Lets the host keep room up to `end`.
    fn reserve(&mut self, end: u64) -> io::Result<()> {
        let kept = self.prepared.max(self.reserved);
        if kept < end {
            self.file.reserve(kept, end - kept)?;
            self.reserved = end;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct State {
    files: [Option<LogFile>; 2],
    /// A log was created since the directory was last synced.
    new_names: bool,
    numbers: Numbers,
    /// Where the next record goes.
    end: u64,
    /// Everything before this is durable.
    synced: u64,
    syncing: Syncing,
    before: Before,
    /// Blocks named since the last sync; `None`: too many to copy.
    named: Option<Vec<Run>>,
    /// A record is missing: what follows it must not be recorded either.
    gap: bool,
    /// The last requests that changed something.
    latest: Latest,
    /// Records that are written together with the next one: nobody was told of them.
    unwritten: Vec<u8>,
    buf: Vec<u8>,
}

/// The redo log of an open store. Lock order: the metadata before this.
#[derive(Debug)]
pub(super) struct RedoLog {
    dir: Arc<dyn Dir>,
    keys: Keys,
    state: Mutex<State>,
    /// See [`RedoLog::takes_blocks`].
    takes_blocks: AtomicBool,
}

/// What a sync of the log has to do.
#[derive(Debug)]
pub(super) struct SyncPlan {
    named: Vec<Run>,
    /// The log of the epoch before has to be synced as well.
    with_before: bool,
}

impl RedoLog {
    /// The log of a store whose next mutation belongs to `epoch`, which no process may have used before. `executed` are the last
    /// requests that changed something before.
    pub(super) fn new(
        dir: Arc<dyn Dir>,
        store: StoreId,
        keys: Keys,
        epoch: u64,
        executed: Vec<Executed>,
    ) -> Self {
        let state = State {
            files: [None, None],
            new_names: false,
            numbers: Numbers::new(store, epoch),
            end: 0,
            synced: 0,
            syncing: Syncing::No,
            before: Before::Durable,
            named: Some(Vec::new()),
            gap: false,
            latest: Latest::new(executed),
            unwritten: Vec::new(),
            buf: Vec::new(),
        };
        Self { dir, keys, state: Mutex::new(state), takes_blocks: AtomicBool::new(true) }
    }

    /// Bytes recorded in this epoch.
    pub(super) fn len(&self) -> u64 {
        self.state.lock().end
    }

    /// Whether everything recorded in this epoch is durable.
    pub(super) fn durability(&self) -> Durability {
        let state = self.state.lock();
        let copied = state.named.as_ref().is_some_and(Vec::is_empty);
        let is_before_safe = match state.before {
            Before::Durable => true,
            // What syncs this log now, syncs that one first.
            Before::Logged => state.syncing != Syncing::No,
            Before::Whole | Before::Committed => false,
        };
        if state.gap || !copied || !is_before_safe {
            return Durability::No;
        }
        match state.syncing {
            Syncing::No if state.synced == state.end => Durability::Already,
            Syncing::Until(end) if end == state.end => Durability::Soon,
            Syncing::Copying => Durability::Soon,
            _ => Durability::No,
        }
    }

    /// Records a mutation that was applied. False: it is not in the log, and only a commit keeps it.
    ///
    /// # Errors
    /// As the backing files; a full disk is none.
    pub(super) fn record(&self, volume: VolumeId, mutation: &Mutation) -> io::Result<bool> {
        let mut state = self.state.lock();
        let origin = requests::current();
        if let Some(origin) = origin {
            state.latest.note(Executed::new(origin, volume, mutation));
        }
        if state.gap {
            return Ok(false);
        }
        let mut buf = std::mem::take(&mut state.buf);
        let written = if record::draft_mutation(&mut buf, &self.keys, (volume, mutation), origin) {
            self.put(&mut state, &mut buf, can_wait(mutation))
        } else {
            Ok(false)
        };
        state.buf = buf;
        if !matches!(written, Ok(true)) {
            state.gap = true;
        }
        written
    }

    /// The mount of a volume is gone, and its requests with it.
    pub(super) fn forget_requests(&self, volume: VolumeId) {
        self.state.lock().latest.forget(volume);
    }

    /// See [`Latest::forget_before`].
    pub(super) fn forget_requests_before(&self, volume: VolumeId, first_reader: u64) {
        self.state.lock().latest.forget_before(volume, first_reader);
    }

    /// Notes blocks that the mutation just recorded names.
    pub(super) fn note_blocks(&self, runs: &[Run]) {
        let mut state = self.state.lock();
        let Some(named) = &mut state.named else { return };
        named.extend_from_slice(runs);
        if named.iter().map(|run| run.count).sum::<u32>() > COPIED_BLOCKS_MAX {
            state.named = None;
        }
    }

    /// False once the log has not taken blocks: it takes no more of them in this epoch.
    pub(super) fn takes_blocks(&self) -> bool {
        self.takes_blocks.load(Ordering::Relaxed)
    }

    /// Records blocks that the mutation recorded next is going to name: they reach the file with it. False: the log does not
    /// take them.
    ///
    /// # Errors
    /// As the backing files; a full disk is none.
    pub(super) fn record_blocks(&self, sealed: &SealedRun) -> io::Result<bool> {
        let mut state = self.state.lock();
        if state.gap {
            self.takes_blocks.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        let mut buf = std::mem::take(&mut state.buf);
        let drafted = record::draft_blocks(&mut buf, &self.keys, sealed.run(), |seals, contents| {
            seals.copy_from_slice(sealed.seals());
            contents.copy_from_slice(sealed.contents());
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = drafted;
        let taken = match self.has_room(&mut state, buf.len()) {
            Ok(true) => self.put(&mut state, &mut buf, true),
            other => other,
        };
        state.buf = buf;
        if matches!(taken, Ok(false)) {
            self.takes_blocks.store(false, Ordering::Relaxed);
        }
        taken
    }

    /// Makes a draft the next record, which may wait for the one after it. False: it is not in the log, and nothing that
    /// follows will be.
    fn put(&self, state: &mut State, draft: &mut [u8], can_wait: bool) -> io::Result<bool> {
        if state.gap {
            return Ok(false);
        }
        // What is given out now is used up, whatever goes wrong.
        state.gap = true;
        let Some(vacant) = state.numbers.take() else { return Ok(false) };
        if !record::seal(draft, &self.keys, vacant) {
            return Ok(false);
        }
        if can_wait && state.unwritten.len() < UNWRITTEN_MAX {
            state.unwritten.extend_from_slice(draft);
        } else {
            match self.append(state, draft) {
                Err(e) if is_full(&e) => return Ok(false),
                other => other?,
            }
        }
        state.gap = false;
        Ok(true)
    }

    /// The log of the epoch, made if it is not there.
    fn log<'a>(&self, state: &'a mut State) -> io::Result<&'a mut LogFile> {
        let log = log_of(state.numbers.epoch());
        self.log_file(state, log)
    }

    fn log_file<'a>(&self, state: &'a mut State, log: usize) -> io::Result<&'a mut LogFile> {
        match &mut state.files[log] {
            Some(slot) => Ok(slot),
            empty => {
                let file = self.dir.open(LOG_NAMES[log], OpenMode::Create)?;
                state.new_names = true;
                Ok(empty.insert(LogFile::new(file)?))
            }
        }
    }

    /// Lets the host keep room for some records in both logs: what is deleted on a full disk is recorded.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn keep_room(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        for log in 0..LOG_NAMES.len() {
            self.log_file(&mut state, log)?.reserve(KEPT)?;
        }
        Ok(())
    }

    fn append(&self, state: &mut State, bytes: &[u8]) -> io::Result<()> {
        let start = state.end;
        // If this fails, they are as lost as what follows.
        let unwritten = std::mem::take(&mut state.unwritten);
        let end = start + (unwritten.len() + bytes.len()) as u64;
        let padding = &[0; PAGE][..padding(start, end)];
        let slot = self.log(state)?;
        let parts = [IoSlice::new(&unwritten), IoSlice::new(bytes), IoSlice::new(padding)];
        slot.file.write_at(&parts, start)?;
        slot.prepared = slot.prepared.max(end + padding.len() as u64);
        state.end = end;
        state.unwritten = unwritten;
        state.unwritten.clear();
        Ok(())
    }

    /// Whether there is room on the disk for blocks of so many bytes, beside what is kept for mutations; it is there from then
    /// on. Where the host cannot tell, the write will.
    fn has_room(&self, state: &mut State, bytes: usize) -> io::Result<bool> {
        let end = state.end + (state.unwritten.len() + bytes + PAGE) as u64 + KEPT;
        let slot = match self.log(state) {
            Err(e) if is_full(&e) => return Ok(false),
            other => other?,
        };
        if end <= slot.prepared.max(slot.reserved) {
            return Ok(true);
        }
        // Not for each of many small ones.
        Ok(slot.reserve(end + KEPT).err().is_none_or(|e| !is_full(&e)))
    }

    /// Ends the epoch, whose mutations are all in the commit that has just begun. The caller has the metadata.
    ///
    /// # Errors
    /// As the backing files; a full disk is none.
    pub(super) fn next_epoch(&self, epoch: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut buf = std::mem::take(&mut state.buf);
        // Without its end, an epoch is not continued by the next one in a replay.
        let written = if record::draft_end(&mut buf, &self.keys, state.latest.all()) {
            self.put(&mut state, &mut buf, false)
        } else {
            Ok(false)
        };
        state.buf = buf;
        // A replay looks for the next number, which is in the other log.
        let follows = epoch.checked_sub(1) == Some(state.numbers.epoch());
        state.before = if follows && matches!(written, Ok(true)) { Before::Whole } else { Before::Committed };
        if !state.numbers.next_epoch(epoch) {
            return Err(io::Error::other(format!("epoch {epoch} of the redo log does not follow")));
        }
        state.unwritten.clear();
        (state.end, state.synced) = (0, 0);
        state.named = Some(Vec::new());
        state.gap = false;
        self.takes_blocks.store(true, Ordering::Relaxed);
        written.map(|_| ())
    }

    /// All blocks that the epoch before named are durable. True: its log, once it is synced, is as good as its commit, and the log of this
    /// epoch can be synced behind it.
    pub(super) fn has_blocks_before(&self) -> bool {
        let mut state = self.state.lock();
        if state.before == Before::Whole {
            state.before = Before::Logged;
        }
        state.before != Before::Committed
    }

    /// The commit of the epoch before is durable.
    pub(super) fn before_is_durable(&self) {
        self.state.lock().before = Before::Durable;
    }

    /// What has to be done to make everything recorded durable through the log; `None` if only a commit can do it. The
    /// caller has the metadata: each mutation is either recorded and its blocks noted, or not begun.
    pub(super) fn plan_sync(&self) -> Option<SyncPlan> {
        let mut state = self.state.lock();
        if state.gap || matches!(state.before, Before::Whole | Before::Committed) {
            return None;
        }
        let mut named = std::mem::take(state.named.as_mut()?);
        // One record for what several writes appended one behind the other.
        coalesce(&mut named);
        state.syncing = Syncing::Copying;
        Some(SyncPlan { named, with_before: state.before == Before::Logged })
    }

    /// Carries out a plan: everything recorded before it was made is durable then. False: only a commit can do it.
    /// Calls must not overlap, nor with [`RedoLog::next_epoch`].
    ///
    /// # Errors
    /// As the backing files. What is durable is then in doubt for good.
    pub(super) fn sync(&self, plan: SyncPlan, segments: &Segments) -> io::Result<bool> {
        let synced = self.sync_inner(plan, segments);
        self.state.lock().syncing = Syncing::No;
        synced
    }

    fn sync_inner(&self, plan: SyncPlan, segments: &Segments) -> io::Result<bool> {
        let mut draft = Vec::new();
        for run in &plan.named {
            let mut skip = 0;
            while skip < run.count {
                let count = (run.count - skip).min(BLOCKS_MAX);
                if !self.copy_blocks(&mut draft, run.part(skip, count), segments)? {
                    self.state.lock().named = None;
                    return Ok(false);
                }
                skip += count;
            }
        }
        let (before, file, end, new_names) = {
            let mut state = self.state.lock();
            let new_names = std::mem::take(&mut state.new_names);
            let end = state.end;
            let epoch = state.numbers.epoch();
            state.syncing = Syncing::Until(end);
            let before = state.files[log_of(epoch + 1)].as_ref().map(|slot| Arc::clone(&slot.file));
            let file = state.files[log_of(epoch)].as_mut().map(|slot| {
                prepare(slot, end);
                Arc::clone(&slot.file)
            });
            (before.filter(|_| plan.with_before), file, end, new_names)
        };
        for file in before.iter().chain(&file) {
            file.sync()?;
        }
        if new_names {
            self.dir.sync("")?;
        }
        let mut state = self.state.lock();
        if plan.with_before {
            state.before = Before::Durable;
        }
        state.synced = state.synced.max(end);
        Ok(true)
    }

    /// Copies blocks into the log; false if only a commit makes them durable.
    fn copy_blocks(&self, draft: &mut Vec<u8>, run: Run, segments: &Segments) -> io::Result<bool> {
        // Before the lock: who changes something waits for it.
        let drafted = record::draft_blocks(draft, &self.keys, run, |seals, contents| {
            segments.read_sealed(run, seals, contents)
        });
        match drafted {
            Ok(()) => {}
            // What the host has lost of it already must not count as synced.
            Err(e @ (ReadError::Unsealed { .. } | ReadError::Foreign { .. })) => {
                log::error!("{e}, as it was written a moment ago");
                return Ok(false);
            }
            Err(e) => return Err(io::Error::other(e.to_string())),
        }
        let mut state = self.state.lock();
        if !self.has_room(&mut state, draft.len())? {
            return Ok(false);
        }
        self.put(&mut state, draft, false)
    }

    /// Removes the logs for good. Everything must be durable, and nothing recorded in this epoch.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn erase(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        debug_assert!(state.end == 0);
        state.files = [None, None];
        for name in LOG_NAMES {
            match self.dir.remove(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.dir.sync("")
    }

    /// Removes the logs of a store whose last commit is durable.
    pub(super) fn remove(&self) {
        let mut state = self.state.lock();
        for (name, file) in LOG_NAMES.iter().zip(&mut state.files) {
            if file.take().is_some()
                && let Err(e) = self.dir.remove(name)
            {
                log::debug!("{}: {e}", self.dir.path(name).display());
            }
        }
    }
}

/// How many zeros to write behind what is written from `start` to `end`. A page of which only the first part is written would
/// have to be read from the disk first, if the host does not have it in memory any more from the last time the log passed. What
/// was there belongs to another epoch; the rest of the page that `start` is in has been written when that was begun.
fn padding(start: u64, end: u64) -> usize {
    let page = PAGE as u64;
    if start.next_multiple_of(page) < end { (end.next_multiple_of(page) - end) as usize } else { 0 }
}

/// Gives the disk a place for what comes behind `end`, so that later syncs only write and change no metadata of the
/// host's. A full disk is no error.
fn prepare(slot: &mut LogFile, end: u64) {
    if slot.prepared >= end + ZEROS as u64 / 4 || slot.prepared >= LOG_SOFT {
        return;
    }
    let zeros = vec![0u8; ZEROS];
    if slot.file.write_at(&[IoSlice::new(&zeros)], slot.prepared).is_ok() {
        slot.prepared += ZEROS as u64;
    }
}

/// Removes logs that a killed process left, once a commit holds what was in them.
pub(super) fn remove_leftovers(dir: &dyn Dir) {
    for name in LOG_NAMES {
        match dir.remove(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::debug!("{}: {e}", dir.path(name).display());
            }
            _ => {}
        }
    }
}

/// The newest key epoch in which a log of an encrypted store begins; 0 if there is none. Needs no keys.
pub(super) fn key_epoch(dir: &dyn Dir) -> io::Result<u32> {
    let mut newest = 0;
    for name in LOG_NAMES {
        match dir.open(name, OpenMode::Read) {
            Ok(file) => {
                let mut header = [0; record::CIPHER_HEADER_BYTES];
                read_padded(&*file, &mut header, 0)?;
                newest = newest.max(record::cipher_epoch(&header).unwrap_or(0));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_written_whole_when_it_is_begun() {
        let mut whole = 0;
        let mut start = 0u64;
        for len in [60u64, 4000, 36, 4096, 100, 9000, 1, 4161, 58].into_iter().cycle().take(900) {
            let end = start + len;
            let written = end + padding(start, end) as u64;
            if end > whole {
                assert!(
                    start <= whole && written.is_multiple_of(PAGE as u64),
                    "{start} {end} {written} {whole}"
                );
                whole = written;
            } else {
                assert_eq!(written, end, "nothing that was written is written over");
            }
            start = end;
        }
    }
}
