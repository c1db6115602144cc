//! The threads of an open store: the committer's is always there, its helpers while there is something for them to do.
//!
//! An idle store so has one thread. What cannot be left undone does not depend on whether a helper can be started: a commit serves those
//! who wait for a sync, and whoever has something for the others next tries again.

use super::{OpenStore, caretaker, commit};
use crate::meta::Checkpointer;
use crate::scheduling::run_anywhere;
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};

/// A thread beside the committer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    /// Syncs the log.
    Sync,
    /// Copies the WAL back.
    Copy,
    /// Gives space back.
    Care,
}

impl OpenStore {
    /// From now on, helpers are started when they are needed.
    pub(super) fn start_helpers_with(self: &Arc<Self>, checkpointer: &Arc<Mutex<Checkpointer>>) {
        let starter = || {
            // Not the last to let go of it: it is closed before the metadata are.
            let (store, checkpointer) = (Arc::downgrade(self), Arc::downgrade(checkpointer));
            Box::new(move |helper| start(&store, &checkpointer, helper))
        };
        self.committer.start_with(starter());
        self.caretaker.start_with(starter());
    }

    /// Starts a thread that works for the store until [`OpenStore::close`], or until it has nothing to do.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(Arc<Self>) + Send + 'static,
    ) -> io::Result<()> {
        let store = Arc::clone(self);
        let work = move || {
            run_anywhere();
            work(store);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Waits for the threads with a name, or for all, which are to end; also for those that they start meanwhile.
    pub(super) fn join(&self, name: Option<&str>) {
        loop {
            let ending = {
                let mut threads = self.threads.lock();
                let (ending, others) = std::mem::take(&mut *threads)
                    .into_iter()
                    .partition::<Vec<_>, _>(|thread| name.is_none() || thread.thread().name() == name);
                *threads = others;
                ending
            };
            if ending.is_empty() {
                return;
            }
            for thread in ending {
                let _ = thread.join();
            }
        }
    }

    /// Whether everything is durable and no thread but the committer's runs: nothing happens before something is asked for.
    pub fn is_at_rest(&self) -> bool {
        self.committer.is_at_rest() && self.caretaker.is_at_rest()
    }
}

/// Starts a helper; false if that cannot be.
fn start(store: &Weak<OpenStore>, checkpointer: &Weak<Mutex<Checkpointer>>, helper: Helper) -> bool {
    let (Some(store), Some(checkpointer)) = (store.upgrade(), checkpointer.upgrade()) else { return false };
    let started = match helper {
        Helper::Sync => store.spawn("larder-sync", |store| commit::sync_logs(&store)),
        Helper::Copy => store.spawn("larder-copy", move |store| commit::copy_back(&store, &checkpointer)),
        Helper::Care => store.spawn("larder-care", |store| caretaker::run(&store)),
    };
    if let Err(e) = &started {
        log::warn!("cannot start a thread of the store: {e}");
    }
    started.is_ok()
}
