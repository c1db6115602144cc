//! A lock for each volume: what changes one volume happens one after the other, and keeps nobody from another volume.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The locks that somebody holds or waits for.
#[derive(Default)]
pub(super) struct Locks {
    by_name: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Locks {
    fn of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut by_name = self.by_name.lock();
        // Those that only this table knows belong to nobody.
        if by_name.len() > 1024 {
            by_name.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(by_name.entry(name.to_owned()).or_default())
    }

    /// Waits for a volume, without keeping a thread.
    pub(super) async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        self.of(name).lock_owned().await
    }

    /// Waits for a volume, outside of the runtime.
    pub(super) fn hold_blocking(&self, name: &str) -> OwnedMutexGuard<()> {
        self.of(name).blocking_lock_owned()
    }

    /// Takes a volume if nobody has it.
    pub(super) fn try_hold(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(name).try_lock_owned().ok()
    }
}
