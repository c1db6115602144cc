//! Whether an open store still takes changes.

use super::commit::SyncError;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A latch: it falls once, with a reason, and only opening the store again lifts it.
#[derive(Debug, Default)]
pub struct Health {
    failed: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Health {
    /// Takes no more changes from here on. The first reason stays.
    pub fn fail(&self, reason: &str) {
        let mut slot = self.reason.lock();
        if slot.is_none() {
            log::error!(
                "the store is read-only from now on: {reason}. Unmount and mount it again to recover"
            );
            *slot = Some(reason.to_owned());
        }
        self.failed.store(true, Ordering::Release);
    }

    /// Whether changes are taken.
    pub fn is_good(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// What to answer somebody who waits for something to be durable: nothing is, for sure, once the store has failed.
    pub(super) fn checked(&self) -> Result<(), SyncError> {
        if self.is_good() { Ok(()) } else { Err(SyncError::Failed) }
    }

    /// Why they are not.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}
