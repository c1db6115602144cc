//! Who waits for what to become durable, and whose turn it is.

use super::super::alter::Alteration;
use super::super::health::Health;
use super::super::helpers::Helper;
use super::super::redo::{LOG_SOFT, RedoLog};
use super::habit::Habit;
use super::{Begun, SyncDone};
use crate::meta::MetaFiles;
use crate::store::Segments;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Mutations after which a commit is begun without waiting for the interval.
const MUTATIONS_SOFT: u64 = 64 * 1024;
/// Bytes of the WAL in memory that a transaction has when a commit of it is begun: SQLite reckons the checksums of all of them anew then,
/// under the hold of the metadata, because some were written more than once.
const HELD_SOFT: u64 = 8 << 20;
/// Bytes of the WAL in memory, of all commits that are not durable yet, at which callers wait.
const HELD_HARD: u64 = 128 << 20;
/// Bytes written to segments after which a commit is begun: a replay has to verify them.
const DATA_SOFT: u64 = 256 << 20;
/// At so many times the soft limits callers wait for the commit.
const HARD: u64 = 4;
/// Mutations between two looks at the limits.
const LOOK_EVERY: u64 = 64;
/// Length of the WAL at which everyone waits a moment, so that it can start over; and by how much more, when it could not.
const RESTART_BYTES: u64 = 64 << 20;
const RESTART_LATER: u64 = 16 << 20;
/// How long work in the background waits for that.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// How long the threads that sync and copy live without anything to do.
const LINGER: Duration = Duration::from_secs(5);

struct State {
    /// Whom a sync of the log serves as well as a commit.
    syncs: Vec<SyncDone>,
    /// Whom the sync of the log serves that is under way.
    joined: Vec<SyncDone>,
    /// Somebody is likely to ask for a sync next.
    foreseen: bool,
    /// Whom only a commit serves.
    commits: Vec<SyncDone>,
    alterations: Vec<Alteration>,
    /// A commit is wanted before the interval is over.
    kicked: bool,
    /// Since when there is something that is in no commit.
    changed: Option<Instant>,
    turn: Turn,
    /// A commit is becoming durable, beside which the log can be synced: nobody but the thread that does takes the turn.
    open: bool,
    /// The committer's thread waits for the turn: nobody else takes it.
    due: bool,
    /// The last release failed for lack of space: some commit is still not durable.
    behind: bool,
    /// The WAL is to be copied back.
    copy: bool,
    /// The threads that sync the log and that copy the WAL back run.
    syncer_runs: bool,
    copier_runs: bool,
    /// The WAL is to start over.
    restart: bool,
    /// It is being seen to: what can wait would only make it longer.
    restarting: bool,
    /// How often that came to an end.
    restarts: u64,
    stopping: bool,
}

/// Who has the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Free,
    /// The committer's thread.
    Commit,
    /// The thread that syncs the log. It has not looked yet at what there is: whatever was done before is covered.
    SyncBegun,
    /// It has. What it covers, the log knows.
    SyncPlanned,
}

/// Whether everything that was done before is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Durability {
    /// It is.
    Already,
    /// It will be when the sync of the log that is under way ends well.
    Soon,
    /// There is more than that.
    No,
}

/// What there is to do in a turn of the committer's thread.
pub(super) struct Work {
    /// Everyone who waits for a commit, if there has to be one.
    pub(super) commit: Option<Vec<SyncDone>>,
    pub(super) alterations: Vec<Alteration>,
    pub(super) restart: bool,
}

/// Starts a thread that is not always there.
pub(in super::super) type StartHelper = Box<dyn Fn(Helper) -> bool + Send + Sync>;

/// The queue of all who wait for durability.
pub(in super::super) struct Committer {
    state: Mutex<State>,
    /// The committer's thread waits here.
    wake: Condvar,
    /// The thread that syncs the log waits here.
    wake_syncer: Condvar,
    /// The thread that copies the WAL back waits here.
    wake_copier: Condvar,
    /// Throttled callers wait here for a commit to end, and background work for the WAL to have started over.
    ended: Condvar,
    interval: Mutex<Duration>,
    files: Arc<MetaFiles>,
    /// Starts the threads beside the committer's.
    helpers: OnceLock<StartHelper>,
    /// There is something that is in no commit.
    is_changed: AtomicBool,
    /// A commit that has to be tried again before there can be another.
    kept: Mutex<Option<Begun>>,
    /// What had been appended to segments when the last commit began.
    appended: AtomicU64,
    /// And when the last durable one did.
    durable: AtomicU64,
    /// Callers must wait: the open transaction is too large.
    crowded: AtomicBool,
    /// The next commit is to be copied back at once.
    copy_wanted: AtomicBool,
    /// Length of the WAL from which on it is to start over.
    restart_from: AtomicU64,
    habit: Habit,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl State {
    /// When a commit is to begin that nobody has asked for; `None` while there is nothing for one.
    fn until(&self, interval: Duration) -> Option<Instant> {
        self.changed.map(|changed| changed + interval)
    }

    fn wants_commit(&self, until: Option<Instant>) -> bool {
        let is_time = until.is_some_and(|until| Instant::now() >= until);
        self.kicked || !self.commits.is_empty() || is_time
    }

    /// Whether there is something for which the committer's thread needs the turn.
    fn is_due(&self, until: Option<Instant>) -> bool {
        self.wants_commit(until) || self.restart || !self.alterations.is_empty()
    }
}

impl Committer {
    pub(in super::super) fn new(files: Arc<MetaFiles>, interval: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                syncs: Vec::new(),
                joined: Vec::new(),
                foreseen: false,
                commits: Vec::new(),
                alterations: Vec::new(),
                kicked: false,
                changed: None,
                turn: Turn::Free,
                open: false,
                due: false,
                behind: false,
                copy: false,
                syncer_runs: false,
                copier_runs: false,
                restart: false,
                restarting: false,
                restarts: 0,
                stopping: false,
            }),
            wake: Condvar::new(),
            wake_syncer: Condvar::new(),
            wake_copier: Condvar::new(),
            ended: Condvar::new(),
            interval: Mutex::new(interval),
            files,
            helpers: OnceLock::new(),
            is_changed: AtomicBool::new(false),
            kept: Mutex::new(None),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            copy_wanted: AtomicBool::new(false),
            restart_from: AtomicU64::new(RESTART_BYTES),
            habit: Habit::default(),
        }
    }

    pub(in super::super) fn files(&self) -> &Arc<MetaFiles> {
        &self.files
    }

    /// From now on, threads are started with `start` when there is something for them to do; false where that cannot be.
    pub(in super::super) fn start_with(&self, start: StartHelper) {
        let _ = self.helpers.set(start);
    }

    fn start(&self, helper: Helper) -> bool {
        self.helpers.get().is_some_and(|start| start(helper))
    }

    /// Lets the log be synced: by its thread, or else by a commit, which serves everybody.
    fn wake_syncer(&self, state: &mut State) {
        if state.syncer_runs {
            self.wake_syncer.notify_one();
            return;
        }
        state.syncer_runs = self.start(Helper::Sync);
        if !state.syncer_runs {
            state.foreseen = false;
            let State { syncs, commits, .. } = state;
            if !syncs.is_empty() {
                commits.append(syncs);
                self.wake.notify_one();
            }
        }
    }

    /// Something is in no commit: one begins when the interval is over. Called under a hold of the metadata, as is
    /// [`Committer::all_is_committed`].
    pub(in super::super) fn note_change(&self) {
        if !self.is_changed.load(Ordering::Relaxed) {
            self.is_changed.store(true, Ordering::Relaxed);
            self.state.lock().changed = Some(Instant::now());
            self.wake.notify_one();
        }
    }

    /// A commit begins that all is in, or there is nothing to commit.
    pub(super) fn all_is_committed(&self) {
        self.is_changed.store(false, Ordering::Relaxed);
        self.state.lock().changed = None;
    }

    /// Whether everything is in a commit, the last one is durable, and nobody waits for anything.
    pub(in super::super) fn is_at_rest(&self) -> bool {
        let state = self.state.lock();
        let is_free =
            state.turn == Turn::Free && !state.open && !state.due && !state.behind && !state.copier_runs;
        let is_asked = !state.syncs.is_empty() || state.foreseen || state.is_due(None);
        is_free && !is_asked && state.changed.is_none() && !state.syncer_runs
    }

    /// Whether everything that was changed is in a commit that is durable, as far as is known.
    pub(in super::super) fn is_all_committed(&self) -> bool {
        let state = self.state.lock();
        state.turn != Turn::Commit && !state.open && !state.behind && state.changed.is_none()
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Begun>> {
        self.kept.lock()
    }

    pub(in super::super) fn set_interval(&self, interval: Duration) {
        *self.interval.lock() = interval;
        self.wake.notify_one();
    }

    /// Queues a sync of what was done before. `durable` says how that was a moment ago.
    pub(in super::super) fn ask_sync(&self, health: &Health, durable: Durability, done: SyncDone) {
        self.habit.synced();
        let mut state = self.state.lock();
        match (state.turn, durable) {
            // A commit that is under way or kept may not be durable yet.
            (Turn::Free, Durability::Already) if !state.open && !state.behind && state.syncs.is_empty() => {
                drop(state);
                // One that has failed never will be; that is known since before the turn was free.
                done(health.checked());
            }
            (Turn::SyncBegun, _) | (Turn::SyncPlanned, Durability::Already | Durability::Soon) => {
                state.joined.push(done);
            }
            (turn, _) => {
                state.syncs.push(done);
                // With the turn taken, whoever has it looks again.
                if turn == Turn::Free {
                    self.wake_syncer(&mut state);
                }
            }
        }
    }

    /// Something small was written. If a sync usually follows, the log is synced at once: by the time it is asked for, the disk
    /// has been at it for a while.
    pub(in super::super) fn wrote(&self) {
        if !self.habit.wrote() {
            return;
        }
        let mut state = self.state.lock();
        if state.turn == Turn::Free && !state.due && state.syncs.is_empty() && !state.behind {
            state.foreseen = true;
            self.wake_syncer(&mut state);
        }
    }

    /// Whether something small that is to be written is likely to be synced soon.
    pub(in super::super) fn is_sync_near(&self) -> bool {
        self.habit.is_sync_near()
    }

    /// Queues somebody whom only a commit serves.
    pub(in super::super) fn ask_commit(&self, done: SyncDone) {
        self.state.lock().commits.push(done);
        self.wake.notify_one();
    }

    /// Those whom one sync of the log is to serve, and the turn for it, on the thread that does; `None` when the store
    /// closes, or there has been nothing to do for a while: the thread is to end, and another one is started when there is.
    pub(super) fn next_syncs(&self) -> Option<Vec<SyncDone>> {
        let mut state = self.state.lock();
        loop {
            if state.turn == Turn::Free && !state.due && (state.foreseen || !state.syncs.is_empty()) {
                (state.turn, state.foreseen) = (Turn::SyncBegun, false);
                return Some(std::mem::take(&mut state.syncs));
            }
            if state.stopping && state.syncs.is_empty() {
                state.syncer_runs = false;
                return None;
            }
            let is_late = self.wake_syncer.wait_for(&mut state, LINGER).timed_out();
            // With the turn taken, whoever has it wakes this thread if there is something.
            if is_late && state.syncs.is_empty() && !state.foreseen {
                state.syncer_runs = false;
                return None;
            }
        }
    }

    /// The sync under way looks at what there is to do: it does not cover what comes later.
    pub(super) fn plans_sync(&self) {
        self.state.lock().turn = Turn::SyncPlanned;
    }

    /// Ends the turn of a sync: nobody joins it any more. Those who did.
    pub(super) fn end_sync(&self) -> Vec<SyncDone> {
        let mut state = self.state.lock();
        self.free_turn(&mut state);
        std::mem::take(&mut state.joined)
    }

    /// Leaves to the committer's thread whom a sync of the log does not serve.
    pub(super) fn pass_on(&self, waiters: Vec<SyncDone>) {
        self.state.lock().commits.extend(waiters);
        self.wake.notify_one();
    }

    /// A thread has broken off without a word, with the turn or not: another one is started when there is something to do. Whom it had
    /// itself has noticed that when it let go of them; who had joined them is returned, to be told.
    #[must_use]
    pub(in super::super) fn broke_off(&self, helper: Helper) -> Vec<SyncDone> {
        let mut state = self.state.lock();
        match helper {
            Helper::Sync => {
                state.syncer_runs = false;
                if matches!(state.turn, Turn::SyncBegun | Turn::SyncPlanned) {
                    self.free_turn(&mut state);
                }
                return std::mem::take(&mut state.joined);
            }
            Helper::Copy => state.copier_runs = false,
            Helper::Care => {}
        }
        Vec::new()
    }

    /// The committer's thread goes on after it broke off: whoever waits for what it was at is not to wait any longer.
    pub(super) fn goes_on(&self) {
        self.close();
        let mut state = self.state.lock();
        if state.turn == Turn::Commit {
            self.free_turn(&mut state);
        }
        drop(state);
        self.ended(false);
    }

    /// Ends the turn of the committer's thread.
    pub(super) fn end_turn(&self) {
        self.free_turn(&mut self.state.lock());
    }

    fn free_turn(&self, state: &mut State) {
        state.turn = Turn::Free;
        if !state.open && std::mem::take(&mut state.restarting) {
            state.restarts += 1;
            self.ended.notify_all();
        }
        if state.due {
            self.wake.notify_one();
        } else if !state.syncs.is_empty() {
            self.wake_syncer(state);
        }
    }

    /// Lets the committer's thread change the family; whether it does. It takes nothing more once the store is closing.
    #[must_use]
    pub(in super::super) fn alter(&self, alteration: Alteration) -> bool {
        let mut state = self.state.lock();
        if state.stopping {
            return false;
        }
        state.alterations.push(alteration);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Asks for a commit soon.
    pub(in super::super) fn kick(&self) {
        let mut state = self.state.lock();
        if !state.kicked {
            state.kicked = true;
            self.wake.notify_one();
        }
    }

    /// Some commit is not durable, for lack of space: no sync succeeds before it is. Whether that is so only now.
    pub(super) fn fall_behind(&self, kept: Begun) -> bool {
        *self.kept.lock() = Some(kept);
        let mut state = self.state.lock();
        // It is tried again, whoever began it, and also if nothing is changed any more.
        state.changed = Some(Instant::now());
        !std::mem::replace(&mut state.behind, true)
    }

    /// Whether some commit is not durable, for lack of space.
    pub(in super::super) fn is_behind(&self) -> bool {
        self.kept.lock().is_some()
    }

    /// Takes note of a transaction that has grown to `mutations`.
    pub(in super::super) fn note(&self, mutations: u64, redo: &RedoLog, segments: &Segments) {
        if mutations.is_multiple_of(LOOK_EVERY) {
            self.look(mutations, redo, segments);
        }
    }

    /// Asks for a commit soon of a transaction that has become large.
    pub(in super::super) fn look(&self, mutations: u64, redo: &RedoLog, segments: &Segments) {
        let (held, open) = (self.files.held_bytes(), self.files.uncommitted_bytes());
        let logged = redo.len();
        let data = self.appended_since(segments);
        if mutations >= MUTATIONS_SOFT || open >= HELD_SOFT || logged >= LOG_SOFT || data >= DATA_SOFT {
            self.kick();
        }
        if mutations >= HARD * MUTATIONS_SOFT || held >= HELD_HARD || logged >= HARD * LOG_SOFT {
            self.crowded.store(true, Ordering::Relaxed);
        }
    }

    /// Bytes appended to segments since the last commit began.
    pub(super) fn appended_since(&self, segments: &Segments) -> u64 {
        segments.appended_bytes().saturating_sub(self.appended.load(Ordering::Relaxed))
    }

    /// All that was appended to segments until now is in the commit that begins.
    pub(super) fn appended_until_now(&self, segments: &Segments) -> u64 {
        let appended = segments.appended_bytes();
        self.appended.store(appended, Ordering::Relaxed);
        appended
    }

    /// A commit is durable that has so many of the bytes that were appended.
    pub(super) fn is_durable(&self, appended: u64) {
        self.durable.fetch_max(appended, Ordering::Relaxed);
    }

    /// Bytes appended to segments that are in no durable commit.
    pub(in super::super) fn undurable(&self, segments: &Segments) -> u64 {
        segments.appended_bytes().saturating_sub(self.durable.load(Ordering::Relaxed))
    }

    /// Lets all who come now wait for a commit, which begins at once.
    pub(in super::super) fn crowd(&self) {
        self.crowded.store(true, Ordering::Relaxed);
        self.kick();
    }

    /// Whether the open transaction is too large.
    pub(in super::super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Waits for a commit if the open transaction is too large; false if the host's disk is full and so much waits in
    /// memory for it that nothing can be taken on.
    pub(in super::super) fn throttle(&self) -> bool {
        if !self.is_crowded() {
            return true;
        }
        self.kick();
        let mut state = self.state.lock();
        // The commit may have ended since the first look, and nobody would wake us.
        if !state.behind && self.crowded.load(Ordering::Relaxed) {
            // One commit takes them all; a store that fails meanwhile must not hang its callers.
            self.ended.wait_for(&mut state, Duration::from_secs(10));
        }
        !state.behind || self.files.held_bytes() < HELD_HARD
    }

    pub(in super::super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_one();
        self.wake_copier.notify_one();
        self.wake_syncer.notify_one();
    }

    /// Waits for something for which the committer's thread needs the turn; false when the store closes.
    pub(super) fn next(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            // Looked up each time: a remount may just have changed it.
            let until = state.until(*self.interval.lock());
            if state.stopping && state.commits.is_empty() && state.alterations.is_empty() {
                return false;
            }
            if state.is_due(until) {
                return true;
            }
            match until {
                Some(until) => drop(self.wake.wait_until(&mut state, until)),
                None => self.wake.wait(&mut state),
            }
        }
    }

    /// Takes the turn, on the committer's thread, once it is free, and everything there is to do.
    pub(super) fn take_turn(&self) -> Work {
        let mut state = self.state.lock();
        while state.turn != Turn::Free {
            state.due = true;
            self.wake.wait(&mut state);
        }
        (state.turn, state.due) = (Turn::Commit, false);
        let wanted = state.wants_commit(state.until(*self.interval.lock()));
        let restart = std::mem::take(&mut state.restart);
        state.restarting = restart;
        Work {
            commit: wanted.then(|| std::mem::take(&mut state.commits)),
            alterations: std::mem::take(&mut state.alterations),
            restart,
        }
    }

    /// A commit begins: it covers everyone who has asked until now. Those whom a sync of the log serves as well are returned.
    pub(super) fn begins(&self, waiters: &mut Vec<SyncDone>) -> Vec<SyncDone> {
        let mut state = self.state.lock();
        // If it does not come to a commit because the store has failed, nothing will.
        (state.kicked, state.changed) = (false, None);
        waiters.append(&mut state.commits);
        state.foreseen = false;
        std::mem::take(&mut state.syncs)
    }

    /// Lets the log be synced beside the commit that is becoming durable, until [`Committer::close`]. `syncs` are served first.
    pub(super) fn open(&self, mut syncs: Vec<SyncDone>) {
        let mut state = self.state.lock();
        debug_assert_eq!(state.turn, Turn::Commit);
        syncs.append(&mut state.syncs);
        (state.syncs, state.turn, state.open) = (syncs, Turn::Free, true);
        if !state.syncs.is_empty() {
            self.wake_syncer(&mut state);
        }
    }

    /// Takes the turn back on the committer's thread, if it had let the log be synced.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if !state.open {
            return;
        }
        while state.turn != Turn::Free {
            state.due = true;
            self.wake.wait(&mut state);
        }
        (state.turn, state.open, state.due) = (Turn::Commit, false, false);
    }

    /// A commit ended.
    pub(super) fn ended(&self, behind: bool) {
        let mut state = self.state.lock();
        state.behind = behind;
        if behind {
            // It is tried again.
            state.changed = Some(Instant::now());
        } else {
            self.crowded.store(false, Ordering::Relaxed);
        }
        self.ended.notify_all();
    }

    /// Lets the WAL be copied back after the commit that is under way.
    pub(super) fn copy_after_commit(&self) {
        self.copy_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether the WAL is to be copied back after this commit.
    pub(super) fn is_copy_wanted(&self) -> bool {
        self.copy_wanted.swap(false, Ordering::Relaxed)
    }

    /// Lets the WAL be copied back.
    pub(super) fn copy(&self) {
        let mut state = self.state.lock();
        state.copy = true;
        if state.copier_runs {
            self.wake_copier.notify_one();
        } else {
            // If it cannot be started, the WAL grows until the next commit.
            state.copier_runs = self.start(Helper::Copy);
        }
    }

    /// Whether the WAL has become so long that it is to start over.
    pub(super) fn is_wal_long(&self) -> bool {
        self.files.wal_bytes() >= self.restart_from.load(Ordering::Relaxed)
    }

    /// The WAL starts over; or it does not, because somebody reads what is in it, or waits: that is tried again when it has grown.
    pub(super) fn restarted(&self, has_started_over: bool) {
        let from = if has_started_over { RESTART_BYTES } else { self.files.wal_bytes() + RESTART_LATER };
        self.restart_from.store(from, Ordering::Relaxed);
    }

    /// Whether somebody waits for the turn, or for what is done in it.
    pub(super) fn is_waited_for(&self) -> bool {
        let state = self.state.lock();
        !state.syncs.is_empty() || !state.commits.is_empty() || !state.alterations.is_empty()
    }

    /// For work in the background that writes to the WAL, with nothing held: waits while the WAL is about to start over, which it can only once
    /// it does not grow faster than it is copied back. It is waited for one of them, and not for long: others may follow at once.
    pub(in super::super) fn let_restart(&self) {
        let mut state = self.state.lock();
        let (restarts, until) = (state.restarts, Instant::now() + RESTART_PATIENCE);
        while state.restarting && state.restarts == restarts {
            if self.ended.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Lets the WAL start over.
    pub(in super::super) fn restart(&self) {
        self.state.lock().restart = true;
        self.wake.notify_one();
    }

    /// Waits until the WAL is to be copied back, on the thread that does; false when the store closes, or there has been nothing to
    /// do for a while: the thread is to end, and another one is started when there is.
    pub(super) fn next_copy(&self) -> bool {
        let mut state = self.state.lock();
        while !state.copy && !state.stopping {
            if self.wake_copier.wait_for(&mut state, LINGER).timed_out() && !state.copy {
                state.copier_runs = false;
                return false;
            }
        }
        state.copy = false;
        state.copier_runs = !state.stopping;
        state.copier_runs
    }
}

#[cfg(test)]
impl Committer {
    /// A helper is taken to run.
    pub(in super::super) fn seems_to_run(&self, helper: Helper) {
        let mut state = self.state.lock();
        match helper {
            Helper::Sync => (state.syncer_runs, state.turn) = (true, Turn::SyncPlanned),
            Helper::Copy => state.copier_runs = true,
            Helper::Care => {}
        }
    }
}

#[cfg(test)]
mod tests;
