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

use super::OpenStore;
use crate::meta::{Checkpointer, Committed, GiveBack, Meta, MetaFiles, ReleaseError};
use crate::store::Unsynced;
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Mutations after which a commit is begun without waiting for the interval.
const MUTATIONS_SOFT: u64 = 64 * 1024;
/// Bytes of the WAL in memory after which a commit is begun; a large transaction spills there what its pages take.
const HELD_SOFT: u64 = 32 << 20;
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

#[derive(Default)]
struct State {
    waiters: Vec<SyncDone>,
    /// A commit is wanted before the interval is over.
    kicked: bool,
    /// A commit is under way.
    running: bool,
    /// The last release failed for lack of space: some commit is still not durable.
    behind: bool,
    stopping: bool,
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
    /// What commits freed whose release has to be tried again.
    kept: Mutex<Vec<GiveBack>>,
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
            state: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            interval: Mutex::new(interval),
            files,
            kept: Mutex::default(),
            crowded: AtomicBool::new(false),
        }
    }

    pub(super) fn set_interval(&self, interval: Duration) {
        *self.interval.lock() = interval;
        self.wake.notify_one();
    }

    /// `clean` says that no change was uncommitted a moment ago.
    pub(super) fn sync(&self, clean: bool, done: SyncDone) {
        let mut state = self.state.lock();
        if clean && !state.running && !state.behind && state.waiters.is_empty() {
            drop(state);
            done(Ok(()));
            return;
        }
        state.waiters.push(done);
        drop(state);
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
    pub(super) fn note(&self, mutations: u64) {
        if !mutations.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let held = self.files.held_bytes();
        if mutations >= MUTATIONS_SOFT || held >= HELD_SOFT {
            self.kick();
        }
        if mutations >= HARD * MUTATIONS_SOFT || held >= HARD * HELD_SOFT {
            self.crowded.store(true, Ordering::Relaxed);
        }
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

    /// Waits for a reason to commit; `None` when the store closes.
    fn next(&self) -> Option<Vec<SyncDone>> {
        let began = Instant::now();
        let mut state = self.state.lock();
        loop {
            // Looked up each time: a remount may just have changed it.
            let until = began + *self.interval.lock();
            if state.stopping && state.waiters.is_empty() {
                return None;
            }
            let timed_out = Instant::now() >= until;
            if !state.waiters.is_empty() || state.kicked || timed_out {
                state.kicked = false;
                state.running = true;
                return Some(std::mem::take(&mut state.waiters));
            }
            self.wake.wait_until(&mut state, until);
        }
    }

    fn ended(&self, behind: bool) {
        let mut state = self.state.lock();
        state.running = false;
        state.behind = behind;
        if !behind {
            self.crowded.store(false, Ordering::Relaxed);
        }
        self.ended.notify_all();
    }
}

/// The committer's thread.
pub(super) fn run(store: &OpenStore, checkpointer: &Checkpointer) {
    while let Some(mut waiters) = store.committer.next() {
        // Whoever asked since is covered as well: the commit has not begun.
        waiters.append(&mut store.committer.state.lock().waiters);
        let result = catch_unwind(AssertUnwindSafe(|| commit(store))).unwrap_or_else(|_| {
            store.health.fail("a commit panicked; please report the message above");
            Err(SyncError::Failed)
        });
        store.committer.ended(result == Err(SyncError::NoSpace));
        for done in waiters {
            done(result);
        }
        if result.is_ok() {
            copy_back(store, checkpointer);
        }
    }
}

/// One commit, durable when this returns.
fn commit(store: &OpenStore) -> Result<(), SyncError> {
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

fn begin_locked(store: &OpenStore, meta: &mut Meta) -> Result<Option<(Committed, Unsynced)>, SyncError> {
    if !store.health.is_good() {
        return Err(SyncError::Failed);
    }
    let held = store.committer.files.held_bytes() > 0;
    if !meta.has_work() && !store.segments.has_unsynced() && !held {
        return Ok(None);
    }
    let unsynced = store.segments.take_unsynced();
    match meta.commit(&unsynced.states) {
        Ok(committed) => Ok(Some((committed, unsynced))),
        Err(e) => {
            store.health.fail(&format!("a commit of the metadata failed: {e}"));
            Err(SyncError::Failed)
        }
    }
}

/// Steps 2 to 4.
fn make_durable(store: &OpenStore, committed: Committed, unsynced: &Unsynced) -> Result<(), SyncError> {
    if let Err((path, e)) = unsynced.sync() {
        store.health.fail(&format!("{}: sync failed: {e}", path.display()));
        return Err(SyncError::Failed);
    }
    let path = || store.committer.files.database_path().display().to_string();
    match store.committer.files.release(committed.mark) {
        Ok(()) => {}
        Err(ReleaseError::Write(e)) if e.kind() == std::io::ErrorKind::StorageFull => {
            log::error!("{}: {e}: changes stay in memory until there is room", path());
            store.committer.kept.lock().push(committed.give_back);
            return Err(SyncError::NoSpace);
        }
        Err(ReleaseError::Write(e) | ReleaseError::Sync(e)) => {
            store.health.fail(&format!("{}: sync failed: {e}", path()));
            return Err(SyncError::Failed);
        }
    }
    store.segments.reserve_ids(committed.reserved_segments);
    let mut give_back = std::mem::take(&mut *store.committer.kept.lock());
    give_back.push(committed.give_back);
    store.caretaker.give_back(give_back);
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
        let result = make_durable(store, committed, &unsynced);
        if result == Err(SyncError::NoSpace) {
            store.committer.fall_behind();
        }
        result.map_err(|e| e.to_string())?;
    }
    checkpointer.run().map(|_| ()).map_err(|e| e.to_string())
}
