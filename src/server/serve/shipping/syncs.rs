//! Syncs that wait for the remote: each until a round of shipping that began after it has come to its end. So one round is under way, and
//! all that come meanwhile share the next.

use super::State;
use super::lag::Lag;
use crate::meta::VolumeId;
use crate::open_store::{OpenStore, Ships, Slowing, SyncDone, SyncError};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

/// A sync of a volume.
pub(super) type Sync = (VolumeId, SyncDone);

/// Those that wait, by the number of the round that is for them, or of a later one.
#[derive(Default)]
pub(super) struct Syncs(Vec<(u64, Sync)>);

impl fmt::Debug for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Syncs").field(&self.0.len()).finish()
    }
}

impl Syncs {
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn add(&mut self, round: u64, sync: Sync) {
        self.0.push((round, sync));
    }

    /// Those that a round serves that came to its end.
    pub(super) fn take(&mut self, round: u64) -> Vec<Sync> {
        self.0.extract_if(.., |(first, _)| *first <= round).map(|(_, sync)| sync).collect()
    }

    /// Those that nobody serves any more. A server that ends leaves them to the kernel, which says to whoever asked that nobody is there.
    pub(super) fn at_the_end(&mut self, ends: bool) -> Vec<Sync> {
        let all = self.take(u64::MAX);
        if ends { Vec::new() } else { all }
    }
}

/// Tells each of them what has come of the syncs of its volume. One that panics keeps the others from nothing.
pub(super) fn answer(syncs: Vec<Sync>, result: impl Fn(VolumeId) -> Result<(), SyncError>) {
    for (volume, done) in syncs {
        let result = result(volume);
        let _ = catch_unwind(AssertUnwindSafe(|| done(result)));
    }
}

/// The way of an open store to who ships it.
#[derive(Debug)]
pub(super) struct Shipped {
    state: Arc<(Mutex<State>, Condvar)>,
    lag: Arc<Lag>,
    /// The store itself, which has this.
    store: Weak<OpenStore>,
}

impl Shipped {
    pub(super) fn new(state: &Arc<(Mutex<State>, Condvar)>, store: Weak<OpenStore>) -> Self {
        let lag = Arc::clone(&state.0.lock().lag);
        Self { state: Arc::clone(state), lag, store }
    }
}

impl Ships for Shipped {
    fn slow_by(&self) -> Slowing {
        let store = self.store.upgrade();
        let written = store.as_ref().map_or(0, |store| store.segments().appended_bytes());
        let lacks = || store.and_then(|store| Some(store.lacking_bytes()? + store.uncommitted_bytes()));
        let (slowing, is_late) = self.lag.slowing(written, lacks);
        if is_late {
            // It need not be longer than it takes.
            self.state.0.lock().late = true;
            self.state.1.notify_all();
        }
        slowing
    }

    fn ask_sync(&self, volume: VolumeId, done: SyncDone) {
        {
            let (state, wake) = &*self.state;
            let mut state = state.lock();
            if !state.over {
                let round = state.rounds + 1;
                state.syncs.add(round, (volume, done));
                wake.notify_all();
                return;
            }
            if state.ends {
                return;
            }
        }
        done(Err(SyncError::Failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn counting(count: &Arc<AtomicU32>) -> SyncDone {
        let count = Arc::clone(count);
        Box::new(move |result| {
            count.fetch_add(if result.is_ok() { 1 } else { 100 }, Ordering::SeqCst);
        })
    }

    /// The others waited for ever.
    #[test]
    fn all_are_answered_although_one_panics() {
        let count = Arc::<AtomicU32>::default();
        let panics: SyncDone = Box::new(|_| panic!("it is a test"));
        answer([counting(&count), panics, counting(&count)].map(|done| (1, done)).into(), |_| Ok(()));
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_round_serves_those_that_came_before_it() {
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let (shipped, count) = (Shipped::new(&state, Weak::new()), Arc::<AtomicU32>::default());
        shipped.ask_sync(1, counting(&count));
        shipped.ask_sync(1, counting(&count));
        state.0.lock().rounds += 1;
        shipped.ask_sync(1, counting(&count));
        let served = state.0.lock().syncs.take(1);
        answer(served, |_| Ok(()));
        assert_eq!((count.load(Ordering::SeqCst), state.0.lock().syncs.len()), (2, 1));
        // Where nothing is shipped any more, no sync waits for it; and one that a server leaves is left to the kernel.
        drop(super::super::Over(Arc::clone(&state)));
        shipped.ask_sync(1, counting(&count));
        assert_eq!(count.load(Ordering::SeqCst), 202);
        state.0.lock().ends = true;
        shipped.ask_sync(1, counting(&count));
        assert_eq!(count.load(Ordering::SeqCst), 202);
    }
}
