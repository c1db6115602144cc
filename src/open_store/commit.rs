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
//! A sync that covers little does without a commit: it syncs the redo log, on a thread of its own, with one sync for all who
//! asked while the one before was under way. Who asks for what a sync under way covers joins it. Where each small write is
//! followed by a sync, the sync is begun with the write ([`habit`]).
//!
//! Whoever begins a commit or syncs the log has the *turn*. The committer's thread lets the log be synced during step 3 of a commit, and
//! takes the turn back before it does anything else: what the commit has is in the log of the epoch before, whose blocks are durable
//! by then, so that syncing that log and the one of the new epoch makes everything durable before the commit is. At all other times, whoever
//! has the turn finds that each commit before is durable, or is kept. Copying the WAL back needs no turn, but there is no commit meanwhile,
//! because SQLite would copy what is not durable yet. Lock order: the checkpointer, the turn, the gate.

mod habit;
mod queue;

pub(super) use queue::{Committer, Durability, StartHelper};

use super::OpenStore;
use super::hold::MetaHold;
use crate::meta::{Checkpointer, Comes, Committed, Meta, ReleaseError, Shrunk};
use crate::scheduling::Urgency;
use crate::store::{SegmentState, Unsynced};
use parking_lot::{Mutex, RwLockWriteGuard};
use queue::Work;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use thiserror::Error;

/// Bytes written to segments of which most are synced before a commit takes the turn.
const PRESYNCED_BYTES: u64 = 1 << 20;
/// Length of the WAL at which it is copied back.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// Before the WAL starts over, it is copied back so often at most, until no more than this has come meanwhile.
const RESTART_ROUNDS: usize = 3;
const RESTART_LEFT: u64 = 1 << 20;
/// Length of the WAL at which it starts over whoever waits.
const RESTART_LATEST: u64 = 256 << 20;

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

/// A commit that was begun.
pub(super) struct Begun {
    committed: Committed,
    /// What it names that is not durable yet; `None` once it is.
    unsynced: Option<Unsynced>,
    /// How far it fills segments, if anybody wants to know.
    states: Vec<SegmentState>,
    /// What had been appended to segments when it began, in bytes.
    appended: u64,
}

/// What is called when a sync is done.
pub type SyncDone = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

/// The thread that syncs the log.
pub(super) fn sync_logs(store: &OpenStore) {
    let mut urgency = Urgency::new(*store.scheduling.lock());
    urgency.set(true);
    while let Some(mut waiters) = store.committer.next_syncs() {
        urgency.reschedule(*store.scheduling.lock());
        urgency.set(true);
        let synced = catch_unwind(AssertUnwindSafe(|| sync_redo(store)));
        // What failed is known before anybody else has the turn.
        let synced = synced.unwrap_or_else(|_| Some(panicked(store)));
        waiters.append(&mut store.committer.end_sync());
        match synced {
            Some(result) => answer(waiters, result),
            None => store.committer.pass_on(waiters),
        }
    }
}

fn panicked(store: &OpenStore) -> Result<(), SyncError> {
    store.health.fail("a commit panicked; please report the message above");
    Err(SyncError::Failed)
}

/// Tells all of them.
pub(super) fn answer(waiters: Vec<SyncDone>, result: Result<(), SyncError>) {
    for done in waiters {
        done(result);
    }
}

/// The committer's thread.
pub(super) fn run(store: &OpenStore, checkpointer: &Mutex<Checkpointer>) {
    // Those who open the store do not wait for this.
    store.committer.files().prefetch();
    while store.committer.next() {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let checkpointer = checkpointer.lock();
            if store.health.is_good() {
                presync(store);
                // As long as one is kept for lack of room, no other commit comes.
                if store.committer.kept().is_none() {
                    write_back(store, Comes::Commit);
                }
            }
            work(store, &checkpointer);
        }));
        if worked.is_err() {
            // Whoever waits for a commit waits for this thread.
            let _ = panicked(store);
            store.committer.goes_on();
        }
    }
}

/// One turn of the committer's thread.
fn work(store: &OpenStore, checkpointer: &Checkpointer) {
    let Work { commit, alterations, restart } = store.committer.take_turn();
    if let Some(mut waiters) = commit {
        let mut syncs = store.committer.begins(&mut waiters);
        let committed = catch_unwind(AssertUnwindSafe(|| {
            commit_beside(store, || {
                if store.redo.has_blocks_before() {
                    store.committer.open(std::mem::take(&mut syncs));
                }
            })
        }));
        let result = committed.unwrap_or_else(|_| panicked(store));
        store.committer.close();
        waiters.append(&mut syncs);
        store.committer.ended(result == Err(SyncError::NoSpace));
        answer(waiters, result);
        let wal_bytes = store.committer.files().wal_bytes();
        if result.is_ok() && (wal_bytes >= CHECKPOINT_BYTES || store.committer.is_copy_wanted()) {
            store.committer.copy();
        }
        if result.is_ok() {
            restart_if_short(store);
        }
    }
    let has_altered = !alterations.is_empty();
    for alteration in alterations {
        if catch_unwind(AssertUnwindSafe(|| alteration(store))).is_err() {
            store.health.fail("a change of the family panicked; please report the message above");
        }
    }
    if has_altered {
        restart_if_short(store);
    }
    if restart && let Err(e) = restart_wal(store, checkpointer) {
        warn_of_copying(store, &e);
    }
    store.committer.end_turn();
}

/// Lets the WAL start over in the room that it has, if it gets no more.
fn restart_if_short(store: &OpenStore) {
    if store.room.wants_restart(store.committer.files().wal_bytes()) {
        store.committer.restart();
    }
}

/// Syncs most of what a commit will have to sync, while others may still sync the log.
fn presync(store: &OpenStore) {
    if store.committer.appended_since(&store.segments) < PRESYNCED_BYTES {
        return;
    }
    match store.segments.sync_so_far() {
        Ok(()) => {}
        // What waits in memory has to be written by the commit.
        Err(e) if e.is_full() => log::debug!("{e}"),
        Err(e) => store.health.fail(&e.to_string()),
    }
}

/// Makes everything durable that was changed before, through the redo log; `None` if that takes a commit.
fn sync_redo(store: &OpenStore) -> Option<Result<(), SyncError>> {
    if !store.health.is_good() {
        return Some(Err(SyncError::Failed));
    }
    // The log of this epoch continues a commit that is not durable.
    if store.committer.kept().is_some() {
        return None;
    }
    store.committer.plans_sync();
    let plan = {
        let _meta = store.meta();
        store.redo.plan_sync()?
    };
    match store.redo.sync(plan, &store.segments) {
        // Segments are synced beside this: once something has failed, nobody is told that all is well.
        Ok(true) => Some(store.health.checked()),
        Ok(false) => None,
        Err(e) => {
            store.health.fail(&format!("the redo log could not be synced: {e}"));
            Some(Err(SyncError::Failed))
        }
    }
}

/// Writes most of the changed rows to the tables, step by step, which what comes would otherwise do under one hold. From then on until it
/// does, there are few.
pub(super) fn write_back(store: &OpenStore, comes: Comes) {
    let mut meta = store.meta();
    // Far more than there will be, if whoever changes rows keeps pace: but there has to be a commit at some time.
    let mut most = 2 * meta.unwritten();
    // Who commits finds out why it failed.
    while !meta.is_poisoned() && meta.write_back(&mut most, comes).unwrap_or(false) {
        meta.pass();
    }
}

/// The gate and the metadata, with few rows to be written to the tables.
pub(super) fn alone(store: &OpenStore) -> (RwLockWriteGuard<'_, ()>, MetaHold<'_>) {
    // What has come while this thread waited, for its turn or a disk.
    if store.health.is_good() {
        write_back(store, Comes::Commit);
    }
    let gate = store.gate.write();
    (gate, store.meta())
}

/// One commit that somebody asks for who has the turn.
pub(super) fn commit_here(store: &OpenStore) -> Result<(), SyncError> {
    let result = commit(store);
    store.committer.ended(result == Err(SyncError::NoSpace));
    result
}

/// One commit, durable when this returns.
pub(super) fn commit(store: &OpenStore) -> Result<(), SyncError> {
    commit_beside(store, || {})
}

/// The same. `data_is_durable` is called, with nothing held, after its second step.
fn commit_beside(store: &OpenStore, data_is_durable: impl FnOnce()) -> Result<(), SyncError> {
    let kept = store.committer.kept().take();
    if let Some(kept) = kept {
        make_durable(store, kept)?;
    }
    let Some(begun) = begin(store)? else {
        return store.health.checked();
    };
    make_durable_beside(store, begun, data_is_durable)
}

/// Step 1. `None` when there is nothing to commit.
fn begin(store: &OpenStore) -> Result<Option<Begun>, SyncError> {
    let (_gate, mut meta) = alone(store);
    let begun = begin_locked(store, &mut meta)?;
    if begun.is_some() {
        shrink(store, &mut meta);
    }
    Ok(begun)
}

/// The first thing in a transaction can be a step of shrinking the database: if it fails, nothing else is lost.
fn shrink(store: &OpenStore, meta: &mut MetaHold<'_>) {
    meta.prolong();
    match meta.shrink_step(store.room.is_short()) {
        Shrunk::ByAStep => {
            store.room.moved_pages();
            store.committer.kick();
        }
        // What was moved is in the WAL: the file is cut when that is copied back.
        Shrunk::Done => store.committer.copy_after_commit(),
        Shrunk::No => {}
    }
}

pub(super) fn begin_locked(store: &OpenStore, meta: &mut Meta) -> Result<Option<Begun>, SyncError> {
    store.committer.all_is_committed();
    if !store.health.is_good() {
        return Err(SyncError::Failed);
    }
    if !meta.has_work() && !store.segments.has_unsynced() {
        meta.relax(Comes::Commit);
        return Ok(None);
    }
    let unsynced = store.segments.take_unsynced();
    let appended = store.committer.appended_until_now(&store.segments);
    let before = store.committer.files().wal_bytes();
    let committed = meta.commit(&unsynced.states).map_err(|e| {
        store.health.fail(&format!("a commit of the metadata failed: {e}"));
        SyncError::Failed
    })?;
    let written = store.committer.files().wal_bytes().saturating_sub(before);
    store.most_committed.fetch_max(written, Ordering::Relaxed);
    let states = store.moments.fresh().map_or_else(Vec::new, |_| unsynced.states.clone());
    store.room.begin();
    if meta.has_dead() {
        store.caretaker.reclaim();
    }

    store.redo.next_epoch(meta.epoch()).map_err(|e| {
        store.health.fail(&format!("writing the redo log failed: {e}"));
        SyncError::Failed
    })?;
    Ok(Some(Begun { committed, unsynced: Some(unsynced), states, appended }))
}

/// Steps 2 to 4. What the host has no room for is kept, and tried again by the next commit: nothing is lost, and nothing in
/// doubt.
pub(super) fn make_durable(store: &OpenStore, begun: Begun) -> Result<(), SyncError> {
    make_durable_beside(store, begun, || {})
}

fn make_durable_beside(
    store: &OpenStore,
    mut begun: Begun,
    data_is_durable: impl FnOnce(),
) -> Result<(), SyncError> {
    if let Some(unsynced) = &begun.unsynced {
        match unsynced.sync() {
            Ok(()) => {}
            Err(e) if e.is_full() => return Err(keep(store, begun, &e.to_string())),
            Err(e) => {
                store.health.fail(&e.to_string());
                return Err(SyncError::Failed);
            }
        }
    }
    begun.unsynced = None;
    data_is_durable();
    let path = || store.committer.files().database_path().display().to_string();
    match store.committer.files().release(begun.committed.mark) {
        Ok(()) => {}
        Err(ReleaseError::Write(e)) if crate::backing::is_full(&e) => {
            return Err(keep(store, begun, &format!("{}: {e}", path())));
        }
        Err(ReleaseError::Write(e) | ReleaseError::Sync(e)) => {
            store.health.fail(&format!("{}: sync failed: {e}", path()));
            return Err(SyncError::Failed);
        }
    }
    store.redo.before_is_durable();
    let Begun { committed, states, appended, .. } = begun;
    // Not under the hold: it can free very many runs.
    if let Some(fresh) = store.moments.fresh() {
        fresh.note(&states, &committed.give_back);
    }
    store.committer.is_durable(appended);
    store.segments.reserve_ids(committed.reserved_segments);
    store.caretaker.give_back([committed.give_back]);
    Ok(())
}

/// Keeps a commit until there is room for it. That is said when it begins, and not for each sync that finds it still so.
fn keep(store: &OpenStore, begun: Begun, why: &str) -> SyncError {
    if store.committer.fall_behind(begun) {
        log::error!("{why}: changes stay in memory until there is room");
    }
    SyncError::NoSpace
}

/// The thread that copies the WAL back when it has grown. Only commits wait for it.
pub(super) fn copy_back(store: &OpenStore, checkpointer: &Mutex<Checkpointer>) {
    while store.committer.next_copy() {
        // A commit that is kept is in the WAL for SQLite, but not durable.
        let copied = {
            let checkpointer = checkpointer.lock();
            if store.committer.kept().is_some() { Ok(false) } else { checkpointer.run() }
        };
        match copied {
            Ok(_) if store.committer.is_wal_long() => store.committer.restart(),
            Ok(_) => {}
            Err(e) => warn_of_copying(store, &e.to_string()),
        }
    }
}

fn warn_of_copying(store: &OpenStore, e: &str) {
    // The WAL holds everything; it only grows.
    log::warn!("{}: cannot copy the WAL back: {e}", store.committer.files().database_path().display());
}

/// Lets the WAL start over: SQLite does so by itself when a transaction begins after all of it was copied back, which
/// never happens while transactions follow each other without a gap. This is the gap, kept short by having copied
/// nearly everything before.
fn restart_wal(store: &OpenStore, checkpointer: &Checkpointer) -> Result<(), String> {
    // It may have started over since that was asked for.
    let is_wanted = store.room.is_short() || store.committer.is_wal_long();
    if store.committer.kept().is_some() || !is_wanted {
        return Ok(());
    }
    // Most of what has to go to the disk goes while nobody waits. Where the host is short of room, there is none for one commit more before
    // the WAL starts over ([`super::room`]).
    if !store.room.is_short() && !copy_most(store, checkpointer)? {
        store.committer.restarted(false);
        return Ok(());
    }
    let (_gate, mut meta) = alone(store);
    if let Some(begun) = begin_locked(store, &mut meta).map_err(|e| e.to_string())? {
        make_durable(store, begun).map_err(|e| e.to_string())?;
    }
    let copied = checkpointer.run().map_err(|e| e.to_string())?;
    store.committer.restarted(copied);
    Ok(())
}

/// Commits and copies back, until little is left to be copied back. False: not now, because somebody still reads what is in the WAL, and
/// everybody would wait for nothing; or because somebody waits for the turn while much is left. The latter is not heeded for ever.
fn copy_most(store: &OpenStore, checkpointer: &Checkpointer) -> Result<bool, String> {
    let files = store.committer.files();
    let is_late = files.wal_bytes() >= RESTART_LATEST;
    for _ in 0..RESTART_ROUNDS {
        let begun = {
            let (_gate, mut meta) = alone(store);
            begin_locked(store, &mut meta).map_err(|e| e.to_string())?
        };
        if let Some(begun) = begun {
            make_durable(store, begun).map_err(|e| e.to_string())?;
        }
        let durable = files.durable_bytes();
        if !checkpointer.run().map_err(|e| e.to_string())? {
            return Ok(false);
        }
        // Changed rows are as much a part of what is left as the pages that they are on.
        write_back(store, Comes::Commit);
        if files.wal_bytes().saturating_sub(durable) <= RESTART_LEFT {
            break;
        }
        if store.committer.is_waited_for() && !is_late {
            return Ok(false);
        }
    }
    presync(store);
    Ok(true)
}
