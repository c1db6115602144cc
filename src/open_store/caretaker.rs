//! Giving space back in the background.

mod freed;

use super::commit::{self, StartHelper};
use super::helpers::Helper;
use super::{OpenStore, reencrypt};
use crate::meta::{AttrChange, Comes, GiveBack, Ino, Meta, MetaError, Mutation, Reapable, Refusal, VolumeId};
use crate::store::{Run, SEGMENT_BLOCKS, segment_len};
use freed::{Calm, Freed};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long to wait for room for a step of reclaiming, before the next attempt.
/// It grows with each attempt, so many times.
const PATIENCE: Duration = Duration::from_millis(200);
const PATIENCE_GROWS: u32 = 25;
/// After so many attempts, room does not come by letting the WAL start over.
const ATTEMPTS: u32 = 5;
/// Nothing waits to be given back if the host has less than so many times as much left.
const SCARCE: u64 = 16;
/// What a copy of the store elsewhere still wants to read is given back if the host has less than so many times as much left.
const NEED: u64 = 2;
/// How long the thread lives without anything to do.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    empty_segments: VecDeque<u64>,
    freed: Freed,
    calm: Calm,
    reap: VecDeque<(VolumeId, Ino)>,
    /// When to look whether generations that nobody needs any more have to be reclaimed, if that is to be done.
    reclaim: Option<Instant>,
    /// So many steps of reclaiming could not be made in turn, for lack of room on the host.
    without_room: u32,
    /// When to go on with sealing everything again, if that is under way.
    reencrypt: Option<Instant>,
    /// Readers of older commits that freed blocks must wait for.
    holds: u32,
    copy: Copying,
    /// The thread runs.
    runs: bool,
    stopping: bool,
    /// No thread is started any more.
    ended: bool,
}

/// Whether somebody copies the store as it was at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copying {
    #[default]
    No,
    /// Freed blocks wait for it.
    Waits,
    /// They could not wait any longer.
    Spoilt,
}

/// The queue of the caretaker's thread, which is there while there is something to do.
#[derive(Default)]
pub(super) struct Caretaker {
    state: Mutex<State>,
    wake: Condvar,
    helpers: OnceLock<StartHelper>,
}

impl std::fmt::Debug for Caretaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caretaker").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Keeps freed blocks from being punched while it lives.
#[derive(Debug)]
pub struct HoldFreed<'a> {
    caretaker: &'a Caretaker,
}

impl Drop for HoldFreed<'_> {
    fn drop(&mut self) {
        self.caretaker.let_go();
    }
}

enum Job {
    Punch(Freed),
    Remove(u64),
    Reap(VolumeId, Ino),
    Reclaim,
    Reencrypt,
}

impl Caretaker {
    /// From now on, the thread is started with `start` when there is something to do; what there is already is done then.
    pub(super) fn start_with(&self, start: StartHelper) {
        let _ = self.helpers.set(start);
        self.wake(&mut self.state.lock());
    }

    /// Lets the thread look at what there is. If it cannot be started, the next who has something for it tries again.
    fn wake(&self, state: &mut State) {
        if state.runs {
            self.wake.notify_all();
        } else if !state.is_idle() && !state.ended {
            state.runs = self.helpers.get().is_some_and(|start| start(Helper::Care));
        }
    }

    /// The thread has broken off without a word: another one is started when there is something to do.
    pub(super) fn broke_off(&self) {
        self.state.lock().runs = false;
    }

    /// The thread is taken to run, or not.
    #[cfg(test)]
    pub(super) fn seems_to_run(&self, runs: bool) {
        self.state.lock().runs = runs;
    }

    /// Whether there is nothing to do, nor will be without somebody else.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = self.state.lock();
        !state.runs && state.is_idle()
    }

    /// Space that durable commits freed.
    pub(super) fn give_back(&self, jobs: impl IntoIterator<Item = GiveBack>) {
        let mut state = self.state.lock();
        let State { empty_segments, freed, .. } = &mut *state;
        freed.add(jobs.into_iter().flat_map(|job| {
            empty_segments.extend(job.empty_segments);
            job.freed
        }));
        self.wake(&mut state);
    }

    /// Orphans that nobody has open.
    pub(super) fn reap(&self, orphans: impl IntoIterator<Item = (VolumeId, Ino)>) {
        let mut state = self.state.lock();
        state.reap.extend(orphans);
        self.wake(&mut state);
    }

    /// Something may have to be reclaimed.
    pub(super) fn reclaim(&self) {
        let mut state = self.state.lock();
        if state.without_room == 0 {
            state.reclaim = Some(Instant::now());
            self.wake(&mut state);
        }
    }

    /// There was room for reclaiming.
    fn found_room(&self) {
        self.state.lock().without_room = 0;
    }

    /// Whether reclaiming cannot go on for lack of room on the host.
    fn waits_for_room(&self) -> bool {
        self.state.lock().without_room >= ATTEMPTS
    }

    /// Something has to be reclaimed, when there is room for it.
    fn reclaim_later(&self) {
        let mut state = self.state.lock();
        state.without_room = state.without_room.saturating_add(1);
        state.reclaim = Some(Instant::now() + PATIENCE * state.without_room.min(PATIENCE_GROWS));
    }

    /// There is something to seal again, from `when` on.
    pub(super) fn reencrypt(&self, when: Instant) {
        let mut state = self.state.lock();
        state.reencrypt = Some(when);
        self.wake(&mut state);
    }

    pub(super) fn hold(&self) -> HoldFreed<'_> {
        self.state.lock().holds += 1;
        HoldFreed { caretaker: self }
    }

    /// From now on, freed blocks stay where they are, for who copies the store; but not if the host needs their space.
    pub(super) fn hold_for_copy(&self) {
        self.state.lock().copy = Copying::Waits;
    }

    /// Whether they are all still there.
    pub(super) fn is_copy_sound(&self) -> bool {
        self.state.lock().copy == Copying::Waits
    }

    pub(super) fn end_of_copy(&self) {
        let mut state = self.state.lock();
        state.copy = Copying::No;
        self.wake(&mut state);
    }

    fn let_go(&self) {
        let mut state = self.state.lock();
        state.holds -= 1;
        self.wake(&mut state);
    }

    /// The store is closed: whatever is to be done is found again at the next open.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
    }

    /// Lets the thread finish the job it is at. The rest is found again at the next open.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        self.wake(&mut state);
    }

    /// What is to be done next; `None` when the store closes, or there has been nothing to do for a while: the thread is to end.
    fn next(&self, store: &OpenStore) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            // What is left of this at a clean close is done before.
            let mut calm_in = None;
            if state.copy == Copying::Waits && state.is_needed(store) {
                log::info!(
                    "the host needs the space of what was freed: a state of the store that is being copied is given up"
                );
                state.copy = Copying::Spoilt;
            }
            if state.holds == 0 && state.copy != Copying::Waits {
                if let Some(id) = state.empty_segments.pop_front() {
                    return Some(Job::Remove(id));
                }
                calm_in = state.until_punch(store);
                if calm_in == Some(Duration::ZERO) {
                    return Some(Job::Punch(std::mem::take(&mut state.freed)));
                }
            }
            if state.stopping {
                state.runs = false;
                return None;
            }
            if let Some((volume, ino)) = state.reap.pop_front() {
                return Some(Job::Reap(volume, ino));
            }
            let now = Instant::now();
            if state.reclaim.is_some_and(|when| when <= now) {
                state.reclaim = None;
                return Some(Job::Reclaim);
            }
            if state.reencrypt.is_some_and(|when| when <= now) {
                state.reencrypt = None;
                return Some(Job::Reencrypt);
            }
            let look = calm_in.map(|calm_in| now + calm_in).into_iter();
            let look = look.chain(state.reencrypt).chain(state.reclaim).min();
            match look {
                Some(when) => drop(self.wake.wait_until(&mut state, when)),
                None => {
                    // What waits for readers of older commits is looked at when they are done.
                    if self.wake.wait_for(&mut state, LINGER).timed_out() && state.is_idle() {
                        state.runs = false;
                        return None;
                    }
                }
            }
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        let State { empty_segments, freed, reap, reclaim, reencrypt, .. } = self;
        let has_freed = !empty_segments.is_empty() || !freed.is_empty();
        !has_freed && reap.is_empty() && reclaim.is_none() && reencrypt.is_none()
    }

    /// Whether the host needs the space that could be given back.
    fn is_needed(&self, store: &OpenStore) -> bool {
        let bytes = self.freed.bytes() + self.empty_segments.len() as u64 * segment_len(SEGMENT_BLOCKS);
        bytes > 0 && store.host_space().is_ok_and(|host| host.available_bytes < NEED.saturating_mul(bytes))
    }

    /// How long to wait with punching what was freed, if anything was.
    fn until_punch(&mut self, store: &OpenStore) -> Option<Duration> {
        if self.freed.is_empty() {
            return None;
        }
        let calm_in = self.calm.note(store.segments.appended_bytes(), Instant::now());
        let in_need =
            || store.host_space().is_ok_and(|host| host.available_bytes < SCARCE * self.freed.bytes());
        let at_once = self.stopping || self.freed.is_worth_it() || calm_in.is_zero() || in_need();
        Some(if at_once { Duration::ZERO } else { calm_in })
    }
}

/// The caretaker's thread.
pub(super) fn run(store: &OpenStore) {
    while let Some(job) = store.caretaker.next(store) {
        // Where the host is short of room, the WAL starts over with nearly each commit, and what gives room back is not put off.
        if matches!(job, Job::Reap(..) | Job::Reclaim | Job::Reencrypt) && !store.room.is_short() {
            store.committer.let_restart();
        }
        match job {
            Job::Punch(freed) => punch_all(store, &freed),
            Job::Remove(id) => remove(store, id),
            Job::Reap(volume, ino) => reap(store, volume, ino),
            Job::Reclaim => reclaim(store),
            Job::Reencrypt => reencrypt::step(store),
        }
    }
}

fn punch_all(store: &OpenStore, freed: &Freed) {
    // What could not be punched stays in the table and is tried again at the next open.
    if freed.runs.iter().all(|run| punch(store, *run)) {
        let mut meta = store.meta();
        freed.rows.iter().for_each(|row| meta.punched(*row));
    }
}

fn remove(store: &OpenStore, id: u64) {
    if store.segments.active() == Some(id) {
        return;
    }
    match store.segments.remove(id) {
        Ok(()) => store.meta().removed(id),
        Err(e) => log::warn!("cannot give back an empty segment: {e}"),
    }
}

fn punch(store: &OpenStore, run: Run) -> bool {
    for block in 0..run.count {
        store.cache.remove(run.start.plus(block));
    }
    match store.segments.punch(run) {
        Ok(()) => true,
        Err(e) => {
            log::warn!("cannot give back freed blocks: {e}");
            false
        }
    }
}

/// Frees a part of an orphan, and queues what is left of it.
fn reap(store: &OpenStore, volume: VolumeId, ino: Ino) {
    let result = {
        let _turn = store.long_turn();
        store.reap_some(&mut store.meta(), volume, ino)
    };
    match result {
        Ok(false) => store.caretaker.reap([(volume, ino)]),
        // Someone else was quicker.
        Ok(true) | Err(MetaError::Refused(Refusal::NotFound | Refusal::Gone | Refusal::Invalid)) => {}
        Err(e) => log::warn!("cannot free inode {ino}: {e}"),
    }
    let _ = store.throttle();
}

impl OpenStore {
    /// Frees as much of an orphan as is work for one hold of the metadata; true if that was all of it.
    ///
    /// # Errors
    /// See [`Meta::apply`].
    pub fn reap_some(&self, meta: &mut Meta, volume: VolumeId, ino: Ino) -> Result<bool, MetaError> {
        match meta.reapable(volume, ino)? {
            Reapable::Later => Ok(false),
            Reapable::Xattrs(names) => {
                for name in names {
                    let drop = Mutation::DropXattr { ino, name: name.clone(), attr: AttrChange::default() };
                    self.apply(meta, volume, &drop)?;
                    meta.reaped_xattr(volume, ino, &name);
                    if meta.is_late() {
                        break;
                    }
                }
                Ok(false)
            }
            Reapable::Chunks(chunks) => {
                Ok(!self.apply(meta, volume, &Mutation::Reap { ino, chunks })?.unfinished)
            }
        }
    }
}

/// One step of giving back what removed snapshots and volumes held. After a crash it is begun again.
fn reclaim(store: &OpenStore) {
    if !store.health.is_good() {
        return;
    }
    // A step writes what is left of changed rows itself.
    commit::write_back(store, Comes::Reclaiming);
    let result = {
        let _turn = store.long_turn();
        store.reclaim_some(&mut store.meta())
    };
    match result {
        Ok(Reclaimed::Some) => store.caretaker.reclaim(),
        Ok(Reclaimed::Nothing) => {}
        Ok(Reclaimed::NoRoom) => store.caretaker.reclaim_later(),
        Err(e) => store.health.fail(&format!("giving back what a removed snapshot held failed: {e}")),
    }
    let _ = store.throttle();
}

/// What a step of reclaiming came to.
enum Reclaimed {
    Some,
    /// There was nothing to do.
    Nothing,
    /// The host has no room for what has to be written for it.
    NoRoom,
}

impl OpenStore {
    fn reclaim_some(&self, meta: &mut Meta) -> Result<Reclaimed, MetaError> {
        meta.relax(Comes::Reclaiming);
        if !meta.has_dead() {
            self.caretaker.found_room();
            return Ok(Reclaimed::Nothing);
        }
        let Some(work) = self.reclaimable(meta) else { return Ok(Reclaimed::NoRoom) };
        self.caretaker.found_room();
        let before = meta.rows_touched();
        let done = meta.reclaim_step(work)?;
        self.reclaimed(meta.rows_touched() - before);
        Ok(if done { Reclaimed::Some } else { Reclaimed::Nothing })
    }

    /// Whether what removed snapshots and volumes held is being given back. False also if that has to wait until the host has
    /// room: it goes on then, or when the store is opened again.
    pub fn is_reclaiming(&self) -> bool {
        self.health.is_good() && !self.caretaker.waits_for_room() && self.meta().has_dead()
    }
}
