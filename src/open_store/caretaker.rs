//! Giving space back in the background.

use super::{OpenStore, reencrypt};
use crate::meta::{GiveBack, Ino, MetaError, Mutation, Refusal, VolumeId};
use crate::store::Run;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Instant;

/// Chunks freed under one hold of the metadata: some milliseconds.
const REAP_CHUNKS: u32 = 256;

#[derive(Debug, Default)]
struct State {
    give_back: VecDeque<GiveBack>,
    reap: VecDeque<(VolumeId, Ino)>,
    /// Generations that nobody needs any more may have to be reclaimed.
    reclaim: bool,
    /// When to go on with sealing everything again, if that is under way.
    reencrypt: Option<Instant>,
    /// Readers of older commits that freed blocks must wait for.
    holds: u32,
    stopping: bool,
}

/// The queue of the caretaker's thread.
#[derive(Debug, Default)]
pub(super) struct Caretaker {
    state: Mutex<State>,
    wake: Condvar,
}

/// Keeps freed blocks from being punched while it lives.
#[derive(Debug)]
pub struct HoldFreed<'a> {
    caretaker: &'a Caretaker,
}

impl Drop for HoldFreed<'_> {
    fn drop(&mut self) {
        self.caretaker.state.lock().holds -= 1;
        self.caretaker.wake.notify_all();
    }
}

enum Job {
    GiveBack(GiveBack),
    Reap(VolumeId, Ino),
    Reclaim,
    Reencrypt,
}

impl Caretaker {
    /// Space that durable commits freed.
    pub(super) fn give_back(&self, jobs: impl IntoIterator<Item = GiveBack>) {
        self.state.lock().give_back.extend(jobs);
        self.wake.notify_all();
    }

    /// Orphans that nobody has open.
    pub(super) fn reap(&self, orphans: impl IntoIterator<Item = (VolumeId, Ino)>) {
        self.state.lock().reap.extend(orphans);
        self.wake.notify_all();
    }

    /// Something may have to be reclaimed.
    pub(super) fn reclaim(&self) {
        self.state.lock().reclaim = true;
        self.wake.notify_all();
    }

    /// There is something to seal again, from `when` on.
    pub(super) fn reencrypt(&self, when: Instant) {
        self.state.lock().reencrypt = Some(when);
        self.wake.notify_all();
    }

    pub(super) fn hold(&self) -> HoldFreed<'_> {
        self.state.lock().holds += 1;
        HoldFreed { caretaker: self }
    }

    /// Lets the thread finish the job it is at. The rest is found again at the next open.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            // Punching is cheap and quick; what is left of it at a clean close is done before.
            if state.holds == 0
                && let Some(job) = state.give_back.pop_front()
            {
                return Some(Job::GiveBack(job));
            }
            if state.stopping {
                return None;
            }
            if let Some((volume, ino)) = state.reap.pop_front() {
                return Some(Job::Reap(volume, ino));
            }
            if std::mem::take(&mut state.reclaim) {
                return Some(Job::Reclaim);
            }
            let Some(when) = state.reencrypt else {
                self.wake.wait(&mut state);
                continue;
            };
            if when <= Instant::now() {
                state.reencrypt = None;
                return Some(Job::Reencrypt);
            }
            self.wake.wait_until(&mut state, when);
        }
    }
}

/// The caretaker's thread.
pub(super) fn run(store: &OpenStore) {
    while let Some(job) = store.caretaker.next() {
        match job {
            Job::GiveBack(job) => give_back(store, &job),
            Job::Reap(volume, ino) => reap(store, volume, ino),
            Job::Reclaim => reclaim(store),
            Job::Reencrypt => reencrypt::step(store),
        }
    }
    reencrypt::interrupt(store);
}

fn give_back(store: &OpenStore, job: &GiveBack) {
    if let Some((id, runs)) = &job.freed {
        // What could not be punched stays in the table and is tried again at the next open.
        if runs.iter().all(|run| punch(store, *run)) {
            store.meta().punched(*id);
        }
    }
    for id in &job.empty_segments {
        if store.segments.active() == Some(*id) {
            continue;
        }
        match store.segments.remove(*id) {
            Ok(()) => store.meta().removed(*id),
            Err(e) => log::warn!("giving back an empty segment: {e}"),
        }
    }
}

fn punch(store: &OpenStore, run: Run) -> bool {
    for block in 0..run.count {
        store.cache.remove(run.start.plus(block));
    }
    match store.segments.punch(run) {
        Ok(()) => true,
        Err(e) => {
            log::warn!("giving back freed blocks: {e}");
            false
        }
    }
}

/// Frees a batch of an orphan's chunks, and queues what is left of it.
fn reap(store: &OpenStore, volume: VolumeId, ino: Ino) {
    let result = store.apply(&mut store.meta(), volume, &Mutation::Reap { ino, chunks: REAP_CHUNKS });
    match result {
        Ok(outcome) if outcome.unfinished => store.caretaker.reap([(volume, ino)]),
        // Someone else was quicker.
        Ok(_) | Err(MetaError::Refused(Refusal::NotFound | Refusal::Invalid)) => {}
        Err(e) => log::warn!("freeing inode {ino}: {e}"),
    }
    let _ = store.throttle();
}

/// One step of giving back what removed snapshots and volumes held. After a crash it is begun again.
fn reclaim(store: &OpenStore) {
    if !store.health.is_good() {
        return;
    }
    let result = store.meta().reclaim_step();
    match result {
        Ok(true) => store.caretaker.reclaim(),
        Ok(false) => {}
        Err(e) => store.health.fail(&format!("giving back what a removed snapshot held failed: {e}")),
    }
    let _ = store.throttle();
}
