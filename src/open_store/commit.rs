//! The commit protocol.
//!
//! One commit, on the committer's thread:
//!
//! 1. With the gate and the metadata to itself: SQLite's COMMIT, whose frames stay in memory, and the list of segments
//!    appended to. Everything applied before is in this commit, nothing after it.
//! 2. With no lock: sync those segments.
//! 3. With no lock: write the frames to the WAL and sync it. The commit is durable.
//! 4. Answer everyone who asked before step 1; hand what was freed to the caretaker.
//!
//! Metadata so never becomes durable before the data it names. Callers that ask while a commit is under way share the
//! next one.
//!
//! A sync that covers little does without a commit: it syncs the redo log, once all commits before are durable.

use super::OpenStore;
use super::alter::Alteration;
use super::redo::{LOG_SOFT, RedoLog};
use crate::meta::{Checkpointer, Committed, Meta, MetaFiles, ReleaseError};
use crate::store::{Segments, Unsynced};
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Mutations after which a commit is begun without waiting for the interval.
const MUTATIONS_SOFT: u64 = 64 * 1024;
/// Bytes of the WAL in memory after which a commit is begun; a large transaction spills there what its pages take.
const HELD_SOFT: u64 = 32 << 20;
/// Bytes written to segments after which a commit is begun: a replay has to verify them.
const DATA_SOFT: u64 = 256 << 20;
/// At so many times the soft limits callers wait for the commit.
const HARD: u64 = 4;
/// Mutations between two looks at the limits.
const LOOK_EVERY: u64 = 64;
/// Length of the WAL at which it is copied back.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// Length of the WAL at which everyone waits a moment, so that it can start over.
const RESTART_BYTES: u64 = 64 << 20;

/// Why something could not be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SyncError {
    /// The host file system is full. Nothing is lost; it can be tried again.
    #[error("no space is left on the host file system")]
    NoSpace,
    /// A disk failed, or had failed before.
    #[error("the store could not be synced")]
    Failed,
}

/// What is called when a sync is done.
pub type SyncDone = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

/// Somebody who waits for durability.
pub(super) struct Wanted {
    pub(super) done: SyncDone,
    /// Only a commit will do.
    pub(super) commit: bool,
}

struct State {
    waiters: Vec<Wanted>,
    alterations: Vec<Alteration>,
    /// A commit is wanted before the interval is over.
    kicked: bool,
    /// When the last commit began.
    committed: Instant,
    /// A commit or a sync is under way.
    running: bool,
    /// The last release failed for lack of space: some commit is still not durable.
    behind: bool,
    stopping: bool,
}

/// What the committer is woken for.
struct Work {
    waiters: Vec<Wanted>,
    commit: bool,
    alterations: Vec<Alteration>,
}

/// The queue of the committer's thread.
pub(super) struct Committer {
    state: Mutex<State>,
    /// The thread waits here for work.
    wake: Condvar,
    /// Throttled callers wait here for a commit to end.
    ended: Condvar,
    interval: Mutex<Duration>,
    files: Arc<MetaFiles>,
    /// A commit whose release has to be tried again before there can be another.
    kept: Mutex<Option<Committed>>,
    /// What had been appended to segments when the last commit began.
    appended: AtomicU64,
    /// Callers must wait: the open transaction is too large.
    crowded: AtomicBool,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl Committer {
    pub(super) fn new(files: Arc<MetaFiles>, interval: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                waiters: Vec::new(),
                alterations: Vec::new(),
                kicked: false,
                committed: Instant::now(),
                running: false,
                behind: false,
                stopping: false,
            }),
            wake: Condvar::new(),
            ended: Condvar::new(),
            interval: Mutex::new(interval),
            files,
            kept: Mutex::new(None),
            appended: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
        }
    }

    pub(super) fn files(&self) -> &MetaFiles {
        &self.files
    }

    pub(super) fn set_interval(&self, interval: Duration) {
        *self.interval.lock() = interval;
        self.wake.notify_one();
    }

    /// `clean` says that no change was uncommitted a moment ago.
    pub(super) fn sync(&self, clean: bool, wanted: Wanted) {
        let mut state = self.state.lock();
        if clean && !state.running && !state.behind && state.waiters.is_empty() {
            drop(state);
            (wanted.done)(Ok(()));
            return;
        }
        state.waiters.push(wanted);
        drop(state);
        self.wake.notify_one();
    }

    /// Lets the committer's thread change the family.
    pub(super) fn alter(&self, alteration: Alteration) {
        self.state.lock().alterations.push(alteration);
        self.wake.notify_one();
    }

    /// Asks for a commit soon.
    pub(super) fn kick(&self) {
        let mut state = self.state.lock();
        if !state.kicked {
            state.kicked = true;
            self.wake.notify_one();
        }
    }

    /// Some commit is not durable, for lack of space: no sync succeeds before it is.
    fn fall_behind(&self) {
        self.state.lock().behind = true;
    }

    /// Takes note of a transaction that has grown to `mutations`.
    pub(super) fn note(&self, mutations: u64, redo: &RedoLog, segments: &Segments) {
        if !mutations.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let held = self.files.held_bytes();
        let logged = redo.len();
        let data = segments.appended_bytes().saturating_sub(self.appended.load(Ordering::Relaxed));
        if mutations >= MUTATIONS_SOFT || held >= HELD_SOFT || logged >= LOG_SOFT || data >= DATA_SOFT {
            self.kick();
        }
        if mutations >= HARD * MUTATIONS_SOFT || held >= HARD * HELD_SOFT || logged >= HARD * LOG_SOFT {
            self.crowded.store(true, Ordering::Relaxed);
        }
    }

    /// Lets all who come now wait for a commit, which begins at once.
    pub(super) fn crowd(&self) {
        self.crowded.store(true, Ordering::Relaxed);
        self.kick();
    }

    /// Waits for a commit if the open transaction is too large; false if the host's disk is full and so much waits in
    /// memory for it that nothing can be taken on.
    pub(super) fn throttle(&self) -> bool {
        if !self.crowded.load(Ordering::Relaxed) {
            return true;
        }
        self.kick();
        let mut state = self.state.lock();
        // The commit may have ended since the first look, and nobody would wake us.
        if !state.behind && self.crowded.load(Ordering::Relaxed) {
            // One commit takes them all; a store that fails meanwhile must not hang its callers.
            self.ended.wait_for(&mut state, Duration::from_secs(10));
        }
        !state.behind || self.files.held_bytes() < HARD * HELD_SOFT
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_one();
    }

    /// Waits for something to do; `None` when the store closes.
    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            // Looked up each time: a remount may just have changed it.
            let until = state.committed + *self.interval.lock();
            if state.stopping && state.waiters.is_empty() && state.alterations.is_empty() {
                return None;
            }
            let commit = state.kicked || state.behind && !state.waiters.is_empty() || Instant::now() >= until;
            if commit || !state.waiters.is_empty() || !state.alterations.is_empty() {
                state.running = true;
                let waiters = std::mem::take(&mut state.waiters);
                return Some(Work { waiters, commit, alterations: std::mem::take(&mut state.alterations) });
            }
            self.wake.wait_until(&mut state, until);
        }
    }

    /// A commit begins: it covers everyone who has asked until now.
    fn begins(&self, waiters: &mut Vec<Wanted>) {
        let mut state = self.state.lock();
        state.kicked = false;
        state.committed = Instant::now();
        waiters.append(&mut state.waiters);
    }

    fn ended(&self, committed: bool, behind: bool) {
        let mut state = self.state.lock();
        state.running = false;
        state.behind = behind;
        if committed && !behind {
            self.crowded.store(false, Ordering::Relaxed);
        }
        self.ended.notify_all();
    }
}

/// The committer's thread.
pub(super) fn run(store: &OpenStore, checkpointer: &Checkpointer) {
    while let Some(Work { mut waiters, commit, alterations }) = store.committer.next() {
        let commit = commit || waiters.iter().any(|wanted| wanted.commit);
        let work = AssertUnwindSafe(|| {
            let synced = if commit { None } else { sync_redo(store) };
            match synced {
                Some(result) => (result, false),
                None => {
                    store.committer.begins(&mut waiters);
                    (self::commit(store), true)
                }
            }
        });
        let (result, committed) = catch_unwind(work).unwrap_or_else(|_| {
            store.health.fail("a commit panicked; please report the message above");
            (Err(SyncError::Failed), true)
        });
        store.committer.ended(committed, result == Err(SyncError::NoSpace));
        for wanted in waiters {
            (wanted.done)(result);
        }
        for alteration in alterations {
            if catch_unwind(AssertUnwindSafe(|| alteration(store))).is_err() {
                store.health.fail("a change of the family panicked; please report the message above");
            }
        }
        if committed && result.is_ok() {
            copy_back(store, checkpointer);
        }
    }
}

/// Makes everything durable that was changed before, through the redo log; `None` if that takes a commit.
fn sync_redo(store: &OpenStore) -> Option<Result<(), SyncError>> {
    if !store.health.is_good() {
        return Some(Err(SyncError::Failed));
    }
    // The log of this epoch continues a commit that is not durable.
    if store.committer.kept.lock().is_some() {
        return None;
    }
    let plan = {
        let _meta = store.meta.lock();
        store.redo.plan_sync()?
    };
    match store.redo.sync(plan, &store.segments) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(e) => {
            store.health.fail(&format!("the redo log could not be synced: {e}"));
            Some(Err(SyncError::Failed))
        }
    }
}

/// One commit, durable when this returns.
pub(super) fn commit(store: &OpenStore) -> Result<(), SyncError> {
    let kept = store.committer.kept.lock().take();
    if let Some(kept) = kept {
        release(store, kept)?;
    }
    let Some((committed, unsynced)) = begin(store)? else {
        return if store.health.is_good() { Ok(()) } else { Err(SyncError::Failed) };
    };
    make_durable(store, committed, &unsynced)
}

/// Step 1. `None` when there is nothing to commit.
fn begin(store: &OpenStore) -> Result<Option<(Committed, Unsynced)>, SyncError> {
    let _alone = store.gate.write();
    let mut meta = store.meta.lock();
    begin_locked(store, &mut meta)
}

pub(super) fn begin_locked(
    store: &OpenStore,
    meta: &mut Meta,
) -> Result<Option<(Committed, Unsynced)>, SyncError> {
    if !store.health.is_good() {
        return Err(SyncError::Failed);
    }
    if !meta.has_work() && !store.segments.has_unsynced() {
        return Ok(None);
    }
    let unsynced = store.segments.take_unsynced();
    store.committer.appended.store(store.segments.appended_bytes(), Ordering::Relaxed);
    let committed = meta.commit(&unsynced.states).map_err(|e| {
        store.health.fail(&format!("a commit of the metadata failed: {e}"));
        SyncError::Failed
    })?;
    if meta.has_dead() {
        store.caretaker.reclaim();
    }
    store.redo.next_epoch(meta.epoch()).map_err(|e| {
        store.health.fail(&format!("writing the redo log failed: {e}"));
        SyncError::Failed
    })?;
    Ok(Some((committed, unsynced)))
}

/// Steps 2 to 4.
pub(super) fn make_durable(
    store: &OpenStore,
    committed: Committed,
    unsynced: &Unsynced,
) -> Result<(), SyncError> {
    if let Err((path, e)) = unsynced.sync() {
        store.health.fail(&format!("{}: sync failed: {e}", path.display()));
        return Err(SyncError::Failed);
    }
    release(store, committed)
}

/// Steps 3 and 4.
fn release(store: &OpenStore, committed: Committed) -> Result<(), SyncError> {
    let path = || store.committer.files.database_path().display().to_string();
    match store.committer.files.release(committed.mark) {
        Ok(()) => {}
        Err(ReleaseError::Write(e)) if e.kind() == std::io::ErrorKind::StorageFull => {
            log::error!("{}: {e}: changes stay in memory until there is room", path());
            *store.committer.kept.lock() = Some(committed);
            store.committer.fall_behind();
            return Err(SyncError::NoSpace);
        }
        Err(ReleaseError::Write(e) | ReleaseError::Sync(e)) => {
            store.health.fail(&format!("{}: sync failed: {e}", path()));
            return Err(SyncError::Failed);
        }
    }
    store.segments.reserve_ids(committed.reserved_segments);
    store.caretaker.give_back([committed.give_back]);
    Ok(())
}

/// Copies the WAL back when it has grown, mostly without anyone waiting.
fn copy_back(store: &OpenStore, checkpointer: &Checkpointer) {
    let files = &store.committer.files;
    if files.wal_bytes() < CHECKPOINT_BYTES {
        return;
    }
    let copied = checkpointer.run();
    let result = match copied {
        Ok(_) if files.wal_bytes() >= RESTART_BYTES => restart_wal(store, checkpointer),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(e) = result {
        // The WAL holds everything; it only grows.
        log::warn!("{}: copying the WAL back: {e}", files.database_path().display());
    }
}

/// Lets the WAL start over: SQLite does so by itself when a transaction begins after all of it was copied back, which
/// never happens while transactions follow each other without a gap. This is the gap, kept short by having copied
/// nearly everything before.
fn restart_wal(store: &OpenStore, checkpointer: &Checkpointer) -> Result<(), String> {
    let _alone = store.gate.write();
    let mut meta = store.meta.lock();
    if let Some((committed, unsynced)) = begin_locked(store, &mut meta).map_err(|e| e.to_string())? {
        make_durable(store, committed, &unsynced).map_err(|e| e.to_string())?;
    }
    checkpointer.run().map(|_| ()).map_err(|e| e.to_string())
}
