//! Answers that are given later than they could be: those to writes, while the store's remote lacks more than it may.
//!
//! What was written is written; only whoever wrote it is kept from going on. That takes no thread of those that take requests.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    /// By when they are given, and in which order they came.
    waiting: BTreeMap<(Instant, u64), Job>,
    next: u64,
    /// There is a thread.
    runs: bool,
    ends: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// The answers of a mount that are given later.
#[derive(Default)]
pub(super) struct Slowed {
    shared: Arc<Shared>,
}

impl Slowed {
    /// Does `job` after a time; at once where there can be no thread for that.
    pub(super) fn after(&self, delay: Duration, job: Job) {
        let starts = {
            let mut state = self.shared.state.lock();
            let number = state.next;
            state.next += 1;
            let at = Instant::now() + if state.ends { Duration::ZERO } else { delay };
            state.waiting.insert((at, number), job);
            !std::mem::replace(&mut state.runs, true)
        };
        if !starts {
            self.shared.wake.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("larder-slow".into()).spawn(move || shared.work());
        if let Err(e) = thread {
            log::debug!("cannot start a thread that keeps writers waiting: {e}");
            self.shared.state.lock().runs = false;
            self.end_wait();
        }
    }

    /// Nobody waits any more.
    fn end_wait(&self) {
        let waiting = std::mem::take(&mut self.shared.state.lock().waiting);
        waiting.into_values().for_each(|job| job());
    }

    /// The mount is gone.
    pub(super) fn end(&self) {
        self.shared.state.lock().ends = true;
        self.end_wait();
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(entry) = state.waiting.first_entry() else {
                state.runs = false;
                return;
            };
            let (at, _) = *entry.key();
            if at > Instant::now() {
                self.wake.wait_until(&mut state, at);
                continue;
            }
            let job = entry.remove();
            drop(state);
            // One that panics has answered, or what answers goes with it.
            let _ = catch_unwind(AssertUnwindSafe(job));
            state = self.state.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn each_is_done_once_in_the_order_of_their_times_and_not_too_early() {
        let slowed = Slowed::default();
        let (done, are_done) = channel();
        let since = Instant::now();
        for delay in [60, 20, 40, 0] {
            let (done, delay) = (done.clone(), Duration::from_millis(delay));
            slowed.after(delay, Box::new(move || done.send((delay, since.elapsed())).unwrap()));
        }
        drop(done);
        let all: Vec<_> = are_done.iter().collect();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|(delay, took)| took >= delay));
        assert!(all[1..].is_sorted_by_key(|(delay, _)| *delay) || all.is_sorted_by_key(|(delay, _)| *delay));
        while slowed.shared.state.lock().runs {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_mount_that_is_gone_keeps_nobody() {
        let slowed = Slowed::default();
        let (done, are_done) = channel();
        for _ in 0..3 {
            let done = done.clone();
            slowed.after(Duration::from_secs(3600), Box::new(move || done.send(()).unwrap()));
        }
        slowed.end();
        let late = done.clone();
        slowed.after(Duration::from_secs(3600), Box::new(move || late.send(()).unwrap()));
        drop(done);
        assert_eq!(are_done.iter().count(), 4);
    }
}
