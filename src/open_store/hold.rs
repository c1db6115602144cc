//! Holds of the metadata, and what bounds them.
//!
//! Nothing slow happens under a hold: neither does it wait for a disk, nor does its work grow with what a file or a directory
//! holds. The second is measured in rows, so that tests can look at it: time depends on the machine.

use super::commit::Committer;
use super::{OpenStore, requests};
use crate::meta::Meta;
use parking_lot::MutexGuard;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What can be cut into steps holds the metadata for so long at a time: rows that are not in memory are read from the disk, each on its
/// own, and nobody knows before how long that takes.
const STEP: Duration = Duration::from_millis(4);

thread_local! {
    /// Holds of the metadata that this thread has.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// When a step that begins now had better end.
pub(super) fn end_of_step() -> Instant {
    Instant::now() + STEP
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
    most: &'a AtomicU64,
    committer: &'a Committer,
    before: u64,
    since: Instant,
}

impl MetaHold<'_> {
    /// Whether this has been held for so long that others should come in between, if what is left can be done later.
    pub fn is_long(&self) -> bool {
        self.since.elapsed() >= STEP
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
        // Half a change may be in the tables: whoever commits next must not make it durable, however soon that is.
        if std::thread::panicking() {
            self.meta.poison();
        }
        if self.meta.has_work() {
            self.committer.note_change();
        }
        let rows = self.meta.rows_touched() - self.before;
        if rows > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(rows, Ordering::Relaxed);
        }
    }
}

impl OpenStore {
    /// The metadata, for reading and for mutations without new blocks. Do not hold it across anything slow.
    pub fn meta(&self) -> MetaHold<'_> {
        self.hold(self.meta.lock())
    }

    /// As [`OpenStore::meta`], for who must not wait: whoever holds the metadata may be waiting for a disk that stalls. `None` if
    /// somebody does.
    pub(super) fn meta_now(&self) -> Option<MetaHold<'_>> {
        Some(self.hold(self.meta.try_lock()?))
    }

    fn hold<'a>(&'a self, meta: MutexGuard<'a, Meta>) -> MetaHold<'a> {
        requests::step();
        HELD.set(HELD.get() + 1);
        let before = meta.rows_touched();
        MetaHold { meta, most: &self.most_rows, committer: &self.committer, before, since: Instant::now() }
    }

    /// The turn of those who have much to do, to be taken before each step of it and given back after it: who has little to do
    /// waits for one such step, and not for one of each.
    pub fn long_turn(&self) -> MutexGuard<'_, ()> {
        self.long_turn.lock()
    }

    /// The most rows that were looked at or written under one hold of the metadata, since the last call. Commits and changes of the
    /// family do not count.
    pub fn take_most_rows(&self) -> u64 {
        self.most_rows.swap(0, Ordering::Relaxed)
    }
}
