//! Who may answer: what keeps two hosts from serving at once.
//!
//! With `lease=strict` an owner answers only while it has shown life lately: a [`Permit`] is good for [`LEASE_VALID`] from the *beginning*
//! of a round in which the sign of life was acknowledged, and after that the number behind the newest record was seen to be free. A
//! claimer lets [`LEASE_CLAIM`] pass by its own clock in which the sign of life has not changed; then it claims, and then it looks at the
//! sign of life once more. If that has not changed, every later round of the old owner finds the claim. If it has, the claimer waits
//! until the old owner says that it has stopped, or for [`LEASE_CLAIM`] from its claim on.
//!
//! An answer is given while a guard is held ([`Answering`]), right after the clock was read: what a process was just writing to the kernel
//! when it was stopped gets there when it goes on, and nothing else does.
//!
//! Both count on clocks that run equally fast within a third, and that go on while a process is stopped. The clock of a virtual machine
//! that its host has frozen may not: such a machine can answer for up to [`LEASE_VALID`] after it has woken up.

use super::clock::Clock;
use super::error::Fenced;
use super::format::LeaseKind;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long an owner with a strict lease answers after it began to show life.
pub const LEASE_VALID: Duration = Duration::from_secs(20);
/// How long the sign of life of such an owner must have stood still before another host takes the store.
pub const LEASE_CLAIM: Duration = Duration::from_secs(30);

/// [`LEASE_VALID`] and [`LEASE_CLAIM`]; in builds for tests, what `LARDER_LEASE=VALID:CLAIM` in the environment says instead, in seconds.
fn periods() -> (Duration, Duration) {
    static PERIODS: OnceLock<(Duration, Duration)> = OnceLock::new();
    *PERIODS.get_or_init(|| {
        let said = std::env::var("LARDER_LEASE").ok().filter(|_| cfg!(debug_assertions));
        let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
        let said = said.and_then(|said| {
            let (valid, claim) = said.split_once(':')?;
            Some((seconds(valid)?, seconds(claim)?))
        });
        said.unwrap_or((LEASE_VALID, LEASE_CLAIM))
    })
}

/// [`LEASE_CLAIM`].
pub(super) fn claim_after() -> Duration {
    periods().1
}

/// Why nothing may be answered any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Another owner has the store.
    Fenced(Fenced),
    /// The remote has gone back in time: the record of this number was there.
    Older(u64),
    /// The store is not there any more: what is there instead.
    Gone(String),
    /// This owner has given it up.
    Ended,
}

/// What the owner of a store asks before it answers anything.
#[derive(Debug)]
pub struct Permit {
    kind: LeaseKind,
    clock: Arc<dyn Clock>,
    /// When it was made, by [`Clock::now`].
    made: Duration,
    /// Nanoseconds of [`Clock::now`] until which it is good.
    until: AtomicU64,
    /// Held (shared) by those who are answering, and (alone) by who stops them.
    stopped: RwLock<Option<Stopped>>,
    /// For those who wait; counts the times that something has changed.
    changes: Mutex<u64>,
    changed: Condvar,
    /// Whether somebody waits for the heartbeat.
    wanted: Mutex<bool>,
    woken: Condvar,
}

/// Held while something is answered: until it is dropped, this owner is not said to have stopped.
#[derive(Debug)]
pub struct Answering<'a> {
    _held: RwLockReadGuard<'a, Option<Stopped>>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Permit {
    /// A permit, which with a strict lease is not good before it is renewed.
    pub fn new(kind: LeaseKind, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            kind,
            made: clock.now(),
            clock,
            until: AtomicU64::new(0),
            stopped: RwLock::default(),
            changes: Mutex::default(),
            changed: Condvar::new(),
            wanted: Mutex::default(),
            woken: Condvar::new(),
        })
    }

    /// The kind of lease.
    pub fn kind(&self) -> LeaseKind {
        self.kind
    }

    /// How long it is good still; zero when it is not. Without a strict lease it always is.
    pub fn left(&self) -> Duration {
        match self.kind {
            LeaseKind::None => Duration::MAX,
            LeaseKind::Strict => Duration::from_nanos(
                self.until.load(Ordering::Acquire).saturating_sub(nanos(self.clock.now())),
            ),
        }
    }

    /// For how long no sign of life was acknowledged, if that is why nothing is answered now.
    pub fn paused(&self) -> Option<Duration> {
        if self.stopped().is_some() || !self.left().is_zero() {
            return None;
        }
        let until = Duration::from_nanos(self.until.load(Ordering::Acquire));
        let acknowledged = until.saturating_sub(periods().0).max(self.made);
        Some(self.clock.now().saturating_sub(acknowledged))
    }

    /// To answer something now, if that is allowed right now. The answer is to be given while what this returns is held, and at once.
    pub fn try_answer(&self) -> Option<Answering<'_>> {
        let held = self.stopped.read();
        (held.is_none() && !self.left().is_zero()).then_some(Answering { _held: held })
    }

    /// Waits until it may be answered.
    ///
    /// # Errors
    /// Why it never may be again.
    pub fn answer(&self) -> Result<Answering<'_>, Stopped> {
        loop {
            let before = *self.changes.lock();
            {
                let held = self.stopped.read();
                if let Some(stopped) = &*held {
                    return Err(stopped.clone());
                }
                if !self.left().is_zero() {
                    return Ok(Answering { _held: held });
                }
            }
            self.want();
            let mut changes = self.changes.lock();
            while *changes == before {
                self.changed.wait(&mut changes);
            }
        }
    }

    /// Waits until it is good or never will be again, for `time` at most; whoever shows life does so at once.
    pub fn wait(&self, time: Duration) {
        let is_over = || self.stopped.read().is_some() || !self.left().is_zero();
        let before = *self.changes.lock();
        if is_over() {
            return;
        }
        self.want();
        let mut changes = self.changes.lock();
        if *changes == before {
            self.changed.wait_for(&mut changes, time);
        }
    }

    /// Waits as long as it is good, for `time` at most.
    pub fn wait_while_good(&self, time: Duration) {
        let before = *self.changes.lock();
        let left = self.left();
        if left.is_zero() || self.stopped.read().is_some() {
            return;
        }
        let mut changes = self.changes.lock();
        if *changes == before {
            self.changed.wait_for(&mut changes, left.min(time));
        }
    }

    /// Why nothing is answered any more; `None` if that is not so.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.read().clone()
    }

    /// Nothing is answered from now on. When this returns, nothing is being answered any more. The first reason stays.
    pub fn stop(&self, why: Stopped) {
        {
            let mut stopped = self.stopped.write();
            stopped.get_or_insert(why);
        }
        self.tell();
        self.want();
    }

    /// It is good for [`LEASE_VALID`] from `since` on, when what has renewed it began.
    pub(super) fn renew(&self, since: Duration) {
        self.until.fetch_max(nanos(since.saturating_add(periods().0)), Ordering::AcqRel);
        self.tell();
    }

    fn tell(&self) {
        *self.changes.lock() += 1;
        self.changed.notify_all();
    }

    /// Wakes the heartbeat: a process that was stopped or slept finds out at once.
    fn want(&self) {
        *self.wanted.lock() = true;
        self.woken.notify_all();
    }

    /// Waits until somebody wants to know, for `time` at most.
    pub(super) fn wait_wanted(&self, time: Duration) {
        let mut wanted = self.wanted.lock();
        if !*wanted {
            self.woken.wait_for(&mut wanted, time);
        }
        *wanted = false;
    }

    /// Wakes who waits in [`Permit::wait_wanted`].
    pub(super) fn wake(&self) {
        self.want();
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::When;
    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn at(&self, seconds: u64) {
            self.0.store(seconds, Ordering::SeqCst);
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }

        fn sleep(&self, _: Duration) {}

        fn wall(&self) -> When {
            When::default()
        }
    }

    #[test]
    fn how_long_nothing_was_acknowledged_counts_from_when_it_was_sent() {
        let clock = Arc::new(Hand::default());
        clock.at(100);
        let permit = Permit::new(LeaseKind::Strict, Arc::clone(&clock) as Arc<dyn Clock>);
        clock.at(103);
        assert_eq!((permit.paused(), permit.try_answer().is_some()), (Some(Duration::from_secs(3)), false));
        // Sent at 101, and acknowledged now.
        permit.renew(Duration::from_secs(101));
        assert!(permit.try_answer().is_some() && permit.paused().is_none());
        clock.at(101 + LEASE_VALID.as_secs() - 1);
        assert!(permit.try_answer().is_some());
        clock.at(101 + LEASE_VALID.as_secs());
        assert_eq!((permit.paused(), permit.try_answer().is_some()), (Some(LEASE_VALID), false));
        permit.wait(Duration::ZERO);
        permit.stop(Stopped::Ended);
        permit.renew(clock.now());
        assert_eq!((permit.paused(), permit.try_answer().is_some()), (None, false));
        permit.wait(Duration::from_secs(3600));
        // Without a strict lease, nothing of that matters.
        let permit = Permit::new(LeaseKind::None, clock);
        assert!(permit.try_answer().is_some() && permit.paused().is_none());
    }
}
