//! How long readers have been at the request that they work on.

use super::clock::now_ms;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When a reader took the request that it works on; 0: it waits for one.
#[derive(Debug, Default)]
pub(super) struct Since(AtomicU64);

impl Since {
    /// A request was taken. It is done with when the guard goes.
    pub(super) fn work(&self) -> Working<'_> {
        self.0.store(now_ms(), Ordering::Relaxed);
        Working(self)
    }
}

/// A request is being worked on.
pub(super) struct Working<'a>(&'a Since);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

/// The readers of a mount.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers(Arc<Mutex<Vec<Arc<Since>>>>);

impl Readers {
    /// Another one.
    pub(super) fn add(&self) -> Arc<Since> {
        let since = Arc::new(Since::default());
        self.0.lock().push(Arc::clone(&since));
        since
    }

    /// How long the request takes that has taken longest so far.
    pub(super) fn longest(&self) -> Duration {
        let readers = self.0.lock();
        let begun = readers.iter().map(|since| since.0.load(Ordering::Relaxed)).filter(|at| *at > 0).min();
        begun.map_or(Duration::ZERO, |at| Duration::from_millis(now_ms().saturating_sub(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_being_worked_on_counts() {
        let readers = Readers::default();
        let (one, other) = (readers.add(), readers.add());
        assert_eq!(readers.longest(), Duration::ZERO);
        let working = one.work();
        std::thread::sleep(Duration::from_millis(20));
        let _other = other.work();
        assert!(readers.longest() >= Duration::from_millis(19));
        drop(working);
        assert!(readers.longest() < Duration::from_secs(10));
    }
}
