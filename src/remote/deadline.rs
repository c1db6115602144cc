//! An end to patience: requests that nobody waits for any more.

use super::clock::Clock;
use super::names::is_part;
use super::objects::ObjectError;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often whoever waits looks whether it is to go on waiting.
const LOOK: Duration = Duration::from_millis(100);

/// How long the remote cannot be reached before that is more than an answer that failed and succeeds the next time.
const FAILING: Duration = Duration::from_secs(2);

/// When requests are to be given up, by [`Clock::now`]. Clones are the same one; there is none at first.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    at: AtomicU64,
    /// Since when the remote could not be reached, as often as that was tried, and why, the last time.
    failing: Mutex<Option<(Duration, String)>>,
}

impl Default for Deadline {
    fn default() -> Self {
        Self(Arc::new(Shared { at: AtomicU64::new(u64::MAX), failing: Mutex::default() }))
    }
}

impl Deadline {
    /// From now on, it is at this time, or earlier if it was before.
    pub fn set(&self, at: Duration) {
        self.0.at.fetch_min(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// From now on, there is none.
    pub fn lift(&self) {
        self.0.at.store(u64::MAX, Ordering::Release);
    }

    /// Whether it has passed.
    pub fn is_past(&self, now: Duration) -> bool {
        now.as_nanos() >= u128::from(self.0.at.load(Ordering::Acquire))
    }

    /// Whether the last attempt of a request that there was has failed, because the remote could not be reached.
    pub fn is_failing(&self) -> bool {
        self.0.failing.lock().is_some()
    }

    /// Why the remote cannot be reached, if that is so for a while already: requests are still being tried then.
    pub fn failing(&self, now: Duration) -> Option<String> {
        let failing = self.0.failing.lock();
        failing
            .as_ref()
            .filter(|(since, _)| now.saturating_sub(*since) >= FAILING)
            .map(|(_, why)| why.clone())
    }

    /// What became of an attempt: why the remote could not be reached, if so.
    pub(super) fn note(&self, now: Duration, away: Option<&ObjectError>) {
        let mut failing = self.0.failing.lock();
        *failing = away.map(|e| (failing.as_ref().map_or(now, |(since, _)| *since), e.to_string()));
    }

    /// Waits for `time`; false if it passed before that.
    pub(super) fn sleep(&self, clock: &dyn Clock, time: Duration) -> bool {
        let until = clock.now().saturating_add(time);
        loop {
            let now = clock.now();
            if self.is_past(now) {
                return false;
            }
            if now >= until {
                return true;
            }
            clock.sleep((until - now).min(LOOK));
        }
    }
}

/// When requests are to be given up, of two kinds.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    /// Parts that are written; before the other one, so that a record can still name those that are there.
    pub parts: Deadline,
    /// Everything.
    pub all: Deadline,
}

impl Deadlines {
    /// That of a request.
    pub(super) fn of(&self, doing: &str, name: &str) -> &Deadline {
        if doing == "write" && is_part(name) { &self.parts } else { &self.all }
    }
}

#[cfg(test)]
mod tests {
    use super::super::BootClock;
    use super::*;

    #[test]
    fn who_waits_is_woken_by_the_earliest_deadline_there_is() {
        let (deadline, clock) = (Deadline::default(), BootClock);
        assert!(deadline.sleep(&clock, Duration::from_millis(1)));
        deadline.set(clock.now() + Duration::from_millis(150));
        deadline.set(Duration::MAX);
        let since = clock.now();
        assert!(!deadline.sleep(&clock, Duration::from_secs(60)));
        assert!(clock.now() - since < Duration::from_secs(10));
        assert!(deadline.is_past(clock.now()));
    }
}
