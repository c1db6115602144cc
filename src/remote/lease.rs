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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long an owner with a strict lease answers after it began to show life.
pub const LEASE_VALID: Duration = Duration::from_secs(20);
/// How long the sign of life of such an owner must have stood still before another host takes the store.
pub const LEASE_CLAIM: Duration = Duration::from_secs(30);

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
        self.until.fetch_max(nanos(since.saturating_add(LEASE_VALID)), Ordering::AcqRel);
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
