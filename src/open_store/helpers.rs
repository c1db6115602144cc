//! The threads of an open store: the committer's is always there, its helpers while there is something for them to do.
//!
//! An idle store so has one thread. What cannot be left undone does not depend on whether a helper can be started: a commit serves those
//! who wait for a sync, and whoever has something for the others next tries again.
//!
//! A thread that panics leaves nobody waiting: half a change may have been made, so the store takes no more of them, which is said; and what
//! is to be done next has a thread again.

use super::{MEANWHILE, Meanwhile, OpenStore, caretaker, commit};
use crate::meta::Checkpointer;
use crate::scheduling::run_anywhere;
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::sleep;
use std::time::Duration;

/// What a helper does.
type Work = Box<dyn FnOnce(&Arc<OpenStore>) + Send>;

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

    /// Waits for the threads with a name, or for all, which are to end; also for those that they start meanwhile. `meanwhile`, if there is
    /// something, is called again and again.
    pub(super) fn join(&self, name: Option<&str>, mut meanwhile: Meanwhile<'_, '_>) {
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
                if let Some(meanwhile) = &mut meanwhile {
                    let mut pause = Duration::from_millis(1);
                    while !thread.is_finished() {
                        sleep(pause);
                        pause = (2 * pause).min(MEANWHILE);
                        meanwhile();
                    }
                }
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
    let (name, work): (&str, Work) = match helper {
        Helper::Sync => ("larder-sync", Box::new(|store| commit::sync_logs(store))),
        Helper::Copy => ("larder-copy", Box::new(move |store| commit::copy_back(store, &checkpointer))),
        Helper::Care => ("larder-care", Box::new(|store| caretaker::run(store))),
    };
    let started = store.spawn(name, move |store| watched(&store, helper, || work(&store)));
    if let Err(e) = &started {
        log::warn!("cannot start a thread of the store: {e}");
    }
    started.is_ok()
}

/// Does the work of a helper, and takes note of its end if that is a panic.
fn watched(store: &OpenStore, helper: Helper, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_ok() {
        return;
    }
    let what = match helper {
        Helper::Sync => "syncs the log",
        Helper::Copy => "copies the WAL back",
        Helper::Care => "gives space back",
    };
    store.health.fail(&format!("the thread that {what} panicked; please report the message above"));
    match helper {
        Helper::Care => store.caretaker.broke_off(),
        Helper::Sync | Helper::Copy => {
            commit::answer(store.committer.broke_off(helper), Err(commit::SyncError::Failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::{Dir, OsDir};
    use crate::crypto::Keys;
    use crate::meta::{Inode, Limits, Meta, NewVolume, Timestamp};
    use crate::open_store::StoreOptions;
    use crate::open_store::commit::Durability;
    use crate::store::{Header, SEGMENT_DIR, StoreId};
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn store() -> (tempfile::TempDir, Arc<OpenStore>) {
        let tmp = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        std::fs::create_dir(tmp.path().join(SEGMENT_DIR)).unwrap();
        Header::new(StoreId(7), 1, None).create(&*dir).unwrap();
        let volume = NewVolume {
            name: "v".into(),
            limits: Limits::default(),
            labels: BTreeMap::new(),
            created: 1,
            root: Inode::root(0o755, Timestamp::now()),
        };
        Meta::create_with(Arc::clone(&dir), StoreId(7), &Keys::Plain, &volume).unwrap();
        let store = OpenStore::open(dir, None, StoreOptions::default()).unwrap();
        (tmp, store)
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Who has no other thread for what it has to do besides does it while it waits.
    #[test]
    fn a_store_is_closed_by_who_has_something_else_to_do() {
        for is_slow in [false, true] {
            let (_tmp, store) = store();
            let mut times = 0;
            let slow = |_: Arc<OpenStore>| sleep(10 * MEANWHILE);
            if is_slow {
                store.spawn("larder-care", slow).unwrap();
            }
            store.close_while(Some(&mut || times += 1)).unwrap();
            assert!(!is_slow || times >= 5, "{times}");
        }
    }

    /// It was believed to run for ever: nothing was done any more, and nobody said so.
    #[test]
    fn a_helper_that_panics_is_said_and_keeps_nobody_waiting() {
        for helper in [Helper::Sync, Helper::Copy, Helper::Care] {
            let (_tmp, store) = store();
            wait_until("it comes to rest", || store.is_at_rest());
            store.caretaker.seems_to_run(helper == Helper::Care);
            store.committer.seems_to_run(helper);
            let (send, joined) = std::sync::mpsc::channel();
            if helper == Helper::Sync {
                let done = Box::new(move |result| send.send(result).unwrap());
                store.committer.ask_sync(&store.health, Durability::Soon, done);
            }
            watched(&store, helper, || panic!("as a bug would"));
            if helper == Helper::Sync {
                assert_eq!(joined.try_recv(), Ok(Err(commit::SyncError::Failed)), "who had joined is told");
            }
            let why = store.health.reason().unwrap();
            assert!(why.contains("panicked"), "{why}");
            assert!(store.is_at_rest(), "{helper:?}");
            // Neither do those wait who come now, nor does the end.
            assert!(store.commit_now().is_err());
            assert!(store.close().is_err());
        }
    }
}
