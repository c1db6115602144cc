//! Threads that stay on their CPU.
//!
//! A request wakes a reader of the FUSE device; where that reader must first be moved, or another CPU woken, it costs
//! more than the request. One reader pinned to each CPU halves the time of small requests (see `docs/benchmarks.md`).

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The CPUs this process may run on, dealt out to threads by their numbers, or in turn.
#[derive(Debug)]
pub(super) struct Pinner {
    cpus: Vec<usize>,
    next: AtomicUsize,
}

thread_local! {
    static PINNED: Cell<bool> = const { Cell::new(false) };
}

impl Pinner {
    pub(super) fn new() -> Self {
        // Of the main thread, which is kept nowhere.
        let allowed = sched_getaffinity(Pid::this()).unwrap_or_default();
        let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
        Self { cpus, next: AtomicUsize::new(0) }
    }

    /// How many threads read requests: one for each CPU, at least 2.
    pub(super) fn readers(&self) -> usize {
        self.cpus.len().max(2)
    }

    /// Pins the calling thread to the CPU of the reader with this number.
    pub(super) fn pin(&self, number: usize) {
        if !self.cpus.is_empty() {
            pin_to(self.cpus[number % self.cpus.len()]);
        }
    }

    /// Pins the calling thread to the next CPU, once.
    pub(super) fn pin_next(&self) {
        if !PINNED.replace(true) {
            self.pin(self.next.fetch_add(1, Ordering::Relaxed));
        }
    }
}

/// Pins the calling thread to a CPU, if it may run there.
pub(super) fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    if let Err(e) = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        log::debug!("cannot pin a thread to CPU {cpu}: {e}");
    }
}
