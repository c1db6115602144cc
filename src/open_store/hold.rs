//! Holds of the metadata, and what bounds them.
//!
//! Under a hold, work does not grow with what a file or a directory holds. That is measured in rows, so that tests can look at it. But a
//! row may have to be read from the disk, on its own, and nobody knows before how long that takes. So each hold has a time by which
//! it is to end: whoever can leave something for later asks [`Meta`] whether it is late. What a mutation or a commit consists of is done
//! whole, and is little: changed rows are written to the tables before, in steps, and each hold hands the pages that it has changed on to
//! the WAL, in memory.
//!
//! Nothing else that is slow happens under a hold, with these exceptions: whoever makes room on the host (fallocate), or adds to
//! the redo log, may wait for the host's journal; and changes of the family, and a WAL that starts over, are made durable under
//! one, after nearly everything else was.

use super::{OpenStore, requests};
use crate::meta::Meta;
use parking_lot::MutexGuard;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What can be cut into steps holds the metadata for so long at a time.
const STEP: Duration = Duration::from_millis(4);
/// A hold of this length is worth a word in the log.
const LONG: Duration = Duration::from_millis(50);

thread_local! {
    /// Holds of the metadata that this thread has.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// To be said before what may take long: under a hold of the metadata, that is a mistake.
#[track_caller]
pub fn nothing_is_held() {
    debug_assert_eq!(HELD.get(), 0, "something slow happens while the metadata are held");
}

/// The metadata, for as long as this lives.
#[derive(Debug)]
pub struct MetaHold<'a> {
    meta: MutexGuard<'a, Meta>,
    store: &'a OpenStore,
    before: u64,
    since: Instant,
}

impl MetaHold<'_> {
    /// Whether this has been held for so long that others should come in between, if what is left can be done later.
    pub fn is_long(&self) -> bool {
        self.meta.is_late()
    }

    /// Lets those have the metadata who wait for them. What follows is another hold.
    pub(super) fn pass(&mut self) {
        self.end();
        MutexGuard::bump(&mut self.meta);
        self.begin();
    }

    /// Lets this last for a step more.
    pub(super) fn prolong(&mut self) {
        let until = self.meta.now() + STEP;
        self.meta.end_by(until);
    }

    fn begin(&mut self) {
        requests::step();
        (self.before, self.since) = (self.meta.rows_touched(), self.meta.now());
        self.meta.end_by(self.since + STEP);
    }

    fn end(&mut self) {
        // Half a change may be in the tables: whoever commits next must not make it durable, however soon that is.
        if std::thread::panicking() {
            self.meta.poison();
        }
        self.meta.spill();
        if self.meta.has_work() {
            self.store.committer.note_change();
        }
        let rows = self.meta.rows_touched() - self.before;
        if rows > self.store.most_rows.load(Ordering::Relaxed) {
            self.store.most_rows.fetch_max(rows, Ordering::Relaxed);
        }
        let held = self.meta.now().saturating_duration_since(self.since);
        let nanos = held.as_nanos() as u64;
        if nanos > self.store.longest_hold.load(Ordering::Relaxed) {
            self.store.longest_hold.fetch_max(nanos, Ordering::Relaxed);
        }
        if held >= LONG {
            log::debug!("the metadata were locked for {} ms; rows: {rows}", held.as_millis());
        }
    }
}

impl Deref for MetaHold<'_> {
    type Target = Meta;

    fn deref(&self) -> &Meta {
        &self.meta
    }
}

impl DerefMut for MetaHold<'_> {
    fn deref_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

impl Drop for MetaHold<'_> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        self.end();
    }
}

impl OpenStore {
    /// The metadata, for reading and for mutations without new blocks. Do not hold it across anything slow.
    pub fn meta(&self) -> MetaHold<'_> {
        self.hold(self.meta.lock())
    }

    /// As [`OpenStore::meta`], for who must not wait: whoever holds the metadata may be waiting for a disk that stalls. `None` if
    /// somebody does.
    pub fn meta_now(&self) -> Option<MetaHold<'_>> {
        Some(self.hold(self.meta.try_lock()?))
    }

    fn hold<'a>(&'a self, meta: MutexGuard<'a, Meta>) -> MetaHold<'a> {
        HELD.set(HELD.get() + 1);
        let since = meta.now();
        let mut hold = MetaHold { meta, store: self, before: 0, since };
        hold.begin();
        hold
    }

    /// The turn of those who have much to do, to be taken before each step of it and given back after it: who has little to do
    /// waits for one such step, and not for one of each.
    pub fn long_turn(&self) -> MutexGuard<'_, ()> {
        self.long_turn.lock()
    }

    /// The most rows that were looked at or written under one hold of the metadata since the last call, commits and changes of the
    /// family included.
    pub fn take_most_rows(&self) -> u64 {
        self.most_rows.swap(0, Ordering::Relaxed)
    }

    /// The most that a commit had to add to the WAL in memory since the last call, in bytes, under its hold.
    pub fn take_most_committed(&self) -> u64 {
        self.most_committed.swap(0, Ordering::Relaxed)
    }

    /// The longest that the metadata were held, for whatever it was.
    pub fn longest_hold(&self) -> Duration {
        Duration::from_nanos(self.longest_hold.load(Ordering::Relaxed))
    }

    /// The longest that the metadata were held since the last call, for whatever it was, by the time of the store's directory.
    pub fn take_longest_hold(&self) -> Duration {
        Duration::from_nanos(self.longest_hold.swap(0, Ordering::Relaxed))
    }
}
