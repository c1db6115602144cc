//! Answers that are given later than they could be: those to writes, while the store's remote lacks more than it may.
//!
//! What was written is written; only whoever wrote it is kept from going on, and not if it is being killed. That takes no thread of those that
//! take requests. What the kernel writes back is nobody's, and others wait for it who cannot be killed: it waits for a time.

use super::long::{LOOK, is_dying};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;
/// Whether it is waited for no more.
type IsOver = Box<dyn Fn() -> bool + Send>;

/// An answer that is given when something is over.
struct Held {
    is_over: IsOver,
    /// Who made the request; 0: nobody who is seen from here.
    pid: u32,
    /// When an answer to nobody is given all the same.
    until: Instant,
    job: Job,
}

impl Held {
    fn may_go(&self) -> bool {
        (self.is_over)() || is_dying(self.pid) || (self.pid == 0 && Instant::now() >= self.until)
    }
}

#[derive(Default)]
struct State {
    /// By when they are given, and in which order they came.
    waiting: BTreeMap<(Instant, u64), Job>,
    next: u64,
    /// In the order in which they came.
    held: VecDeque<Held>,
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
        self.run(starts);
    }

    /// Does `job`, which the process `pid` waits for, when something is over, which is asked again and again, or when that process is being
    /// killed; if it is nobody who is seen from here (0), after the time `most` at the latest.
    pub(super) fn until(&self, is_over: IsOver, (pid, most): (u32, Duration), job: Job) {
        let starts = {
            let mut state = self.shared.state.lock();
            let is_over = if state.ends { Box::new(|| true) } else { is_over };
            state.held.push_back(Held { is_over, pid, until: Instant::now() + most, job });
            !std::mem::replace(&mut state.runs, true)
        };
        self.run(starts);
    }

    fn run(&self, starts: bool) {
        if !starts {
            self.shared.wake.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("larder-slow".into()).spawn(move || shared.work());
        if let Err(e) = thread {
            log::debug!("cannot start a thread that keeps writers waiting: {e}");
            self.shared.state.lock().runs = false;
            self.shared.end_wait();
        }
    }

    /// The mount is gone.
    pub(super) fn end(&self) {
        self.shared.state.lock().ends = true;
        self.shared.end_wait();
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// Nobody waits any more.
    fn end_wait(&self) {
        let (waiting, held) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.held))
        };
        waiting.into_values().chain(held.into_iter().map(|held| held.job)).for_each(done);
    }

    fn work(&self) {
        let mut looked: Option<Instant> = None;
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            if let Some(entry) = state.waiting.first_entry()
                && entry.key().0 <= now
            {
                let job = entry.remove();
                drop(state);
                done(job);
                state = self.state.lock();
                continue;
            }
            if !state.held.is_empty() && looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                // Whether they may go is asked without the lock.
                let all = std::mem::take(&mut state.held);
                drop(state);
                let (go, stay): (VecDeque<Held>, VecDeque<Held>) = all.into_iter().partition(Held::may_go);
                go.into_iter().for_each(|held| done(held.job));
                looked = Some(Instant::now());
                state = self.state.lock();
                let came = std::mem::replace(&mut state.held, stay);
                state.held.extend(came);
                if state.ends {
                    // Those that were looked at meanwhile, too.
                    drop(state);
                    self.end_wait();
                    state = self.state.lock();
                }
                continue;
            }
            let until = match (state.waiting.first_key_value().map(|((at, _), _)| *at), state.held.is_empty())
            {
                (None, true) => {
                    state.runs = false;
                    return;
                }
                (Some(at), true) => at,
                (at, false) => at.unwrap_or(now + LOOK).min(now + LOOK),
            };
            self.wake.wait_until(&mut state, until);
        }
    }
}

/// One that panics has answered, or what answers goes with it.
fn done(job: Job) {
    let _ = catch_unwind(AssertUnwindSafe(job));
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
    fn who_is_held_goes_on_when_it_is_over_or_is_killed() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (slowed, over) = (Slowed::default(), Arc::<AtomicBool>::default());
        let (done, are_done) = channel();
        let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for pid in [std::process::id(), sleeper.id()] {
            let (done, over) = (done.clone(), Arc::clone(&over));
            let is_over = Box::new(move || over.load(Ordering::SeqCst));
            slowed.until(is_over, (pid, Duration::ZERO), Box::new(move || done.send(pid).unwrap()));
        }
        // Others are not held up by that.
        let other = done.clone();
        slowed.after(Duration::from_millis(1), Box::new(move || other.send(0).unwrap()));
        assert_eq!(are_done.recv().unwrap(), 0);
        std::thread::sleep(3 * LOOK);
        assert!(are_done.try_recv().is_err(), "both wait");
        let killed = sleeper.id();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(are_done.recv().unwrap(), killed);
        assert!(are_done.try_recv().is_err(), "the other one waits");
        over.store(true, Ordering::SeqCst);
        assert_eq!(are_done.recv().unwrap(), std::process::id());
        // What the kernel writes back is not held for good.
        let most = Duration::from_millis(50);
        slowed.until(Box::new(|| false), (0, most), Box::new(move || done.send(1).unwrap()));
        assert_eq!(are_done.recv().unwrap(), 1);
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
        for _ in 0..2 {
            let done = done.clone();
            slowed.until(
                Box::new(|| false),
                (std::process::id(), Duration::ZERO),
                Box::new(move || done.send(()).unwrap()),
            );
        }
        slowed.end();
        let late = done.clone();
        slowed.after(Duration::from_secs(3600), Box::new(move || late.send(()).unwrap()));
        let late = done.clone();
        slowed.until(
            Box::new(|| false),
            (std::process::id(), Duration::ZERO),
            Box::new(move || late.send(()).unwrap()),
        );
        drop(done);
        assert_eq!(are_done.iter().count(), 7);
    }
}
