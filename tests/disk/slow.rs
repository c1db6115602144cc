//! What accesses would take on a slow disk. Nobody waits for that: each thread has a clock of its own, which goes on with what it does.

use super::Access;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// To read a page of the database that the host does not have in memory: a disk that turns, or one that is busy.
const READ: Duration = Duration::from_millis(1);
/// To make what was written durable.
const SYNC: Duration = Duration::from_millis(2);
/// Work between two looks at the clock.
const WORK: Duration = Duration::from_micros(10);
const PAGE_BYTES: u64 = 4096;

thread_local! {
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn spend(time: Duration) {
    SPENT.set(SPENT.get() + time);
}

/// The pages of the database that the host has in memory.
#[derive(Debug, Default)]
pub(super) struct Slow(BTreeSet<u64>);

impl Slow {
    /// The time of the thread that asks.
    pub(super) fn now() -> Instant {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        spend(WORK);
        *BEGAN.get_or_init(Instant::now) + SPENT.get()
    }

    /// A file is accessed somewhere. What is written is in the host's memory at once, and what is read stays there.
    pub(super) fn access(&mut self, access: Access, name: &str, offset: u64) {
        match access {
            Access::Read | Access::Write if name == "meta.db" => {
                let is_new = self.0.insert(offset / PAGE_BYTES);
                let cost = if is_new && access == Access::Read { READ } else { Duration::ZERO };
                spend(cost);
            }
            Access::Sync | Access::SyncDir => spend(SYNC),
            _ => {}
        }
    }
}
