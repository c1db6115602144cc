//! Syncs that reach as far as the store's remote, by way of whoever ships it.

use super::OpenStore;
use super::commit::SyncDone;
use std::fmt;
use std::sync::Arc;

/// Who ships the store.
pub trait Ships: Send + Sync + fmt::Debug {
    /// Calls `done` when everything that is durable here by now is in the remote, from any thread, and from this one only if that is
    /// known. It is called on threads that others wait for, and waits for nothing.
    fn ask_sync(&self, done: SyncDone);
}

impl OpenStore {
    /// From now on, the store is shipped by this. There can be one.
    pub fn ship_with(&self, ships: Arc<dyn Ships>) {
        let _ = self.ships.set(ships);
    }

    /// Calls `done`, from any thread, when everything that is durable here by now is in the remote as well: at once where there is none,
    /// and not before it can be reached. It fails where the store takes no changes any more.
    pub fn sync_remotely(&self, done: SyncDone) {
        match self.ships.get() {
            Some(ships) => ships.ask_sync(done),
            None => done(self.health.checked()),
        }
    }

    /// Whether the next moment would have something that the last one that came to something does not: something that a commit has
    /// changed, or that is in no durable commit yet. Where that is not known, it would.
    pub fn has_changes(&self) -> bool {
        // (In this order: what is committed in between is news.)
        !self.committer.is_all_committed() || self.has_news()
    }
}
