//! Requests that take long, in steps, on threads of their own: those that take requests go on with others.
//!
//! After each step the next request has its turn, so that a short one does not wait for a long one. Threads are started when there is
//! something to do, and end when there is nothing.
//!
//! A request whose contents are elsewhere, where they cannot be had at present, is put aside until they can. It takes no thread, and the
//! process that made it can be killed.

use super::task::Task;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// What is asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// To do a step.
    Step,
    /// To answer that it was interrupted.
    GiveUp,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// That was the last one.
    Done,
    /// There are more.
    More,
    /// It could not be done, because contents are elsewhere.
    Away,
}

type Job = Box<dyn FnMut(Turn) -> Step + Send>;
/// Whether contents that are elsewhere cannot be had.
type IsAway = Box<dyn Fn() -> bool + Send + Sync>;

/// Threads of one mount. More would not be faster: steps take turns anyway.
const THREADS: usize = 2;
/// How often it is looked whether what was put aside can be gone on with, or nobody waits for it any more.
pub(super) const LOOK: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    jobs: VecDeque<(Option<Task>, Job)>,
    /// Put aside.
    aside: Vec<(Option<Task>, Job)>,
    threads: usize,
    /// One of them waits for what is aside.
    is_watched: bool,
    ends: bool,
}

struct Shared {
    state: Mutex<State>,
    ended: Condvar,
    is_away: IsAway,
}

/// The requests of a mount that take long. Clones are the same.
#[derive(Clone)]
pub(super) struct Long {
    shared: Arc<Shared>,
}

impl Long {
    pub(super) fn new(is_away: IsAway) -> Self {
        let shared = Shared { state: Mutex::default(), ended: Condvar::new(), is_away };
        Self { shared: Arc::new(shared) }
    }

    /// Does `job` to its end, for a request. Between its steps it is not worked on.
    pub(super) fn run(&self, task: Option<Task>, job: Job) {
        self.add(|state| state.jobs.push_back((task, job)));
    }

    /// The same, for a request of which a step could not be done, because contents are elsewhere.
    pub(super) fn put_aside(&self, task: Option<Task>, job: Job) {
        self.add(|state| state.aside.push((task, job)));
    }

    fn add(&self, add: impl FnOnce(&mut State)) {
        let starts = {
            let mut state = self.shared.state.lock();
            add(&mut state);
            let starts = state.threads < THREADS;
            state.threads += usize::from(starts);
            starts
        };
        if !starts {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("larder-long".into()).spawn(move || work(&shared));
        if let Err(e) = thread {
            log::warn!("cannot start a thread for a request that takes long: {e}");
            work(&self.shared);
        }
    }

    /// Drops what was put aside: nobody gets an answer any more.
    pub(super) fn end(&self) {
        let aside = {
            let mut state = self.shared.state.lock();
            state.ends = true;
            std::mem::take(&mut state.aside)
        };
        drop(aside);
        self.shared.ended.notify_all();
    }
}

/// Whether a process is being killed, or is gone.
pub(super) fn is_dying(pid: u32) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    // Somebody of the kernel's own, or in another namespace.
    if pid == 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => status.lines().any(|line| {
            let pending = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
            let pending = pending.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
            pending.is_some_and(|pending| pending & SIGKILL != 0)
        }),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Waits until what is aside can be gone on with. Those whose processes are being killed are answered.
fn watch(shared: &Shared) {
    loop {
        {
            let mut state = shared.state.lock();
            shared.ended.wait_for(&mut state, LOOK);
            if state.aside.is_empty() || state.ends || !state.jobs.is_empty() {
                return;
            }
        }
        let is_away = (shared.is_away)();
        let given_up: Vec<_> = {
            let mut state = shared.state.lock();
            let dying =
                |(task, _): &mut (Option<Task>, Job)| task.as_ref().is_some_and(|it| is_dying(it.pid));
            let given_up = state.aside.extract_if(.., dying).collect();
            if !is_away {
                let back = std::mem::take(&mut state.aside);
                state.jobs.extend(back);
            }
            given_up
        };
        for (_, mut job) in given_up {
            let _ = catch_unwind(AssertUnwindSafe(|| job(Turn::GiveUp)));
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let (task, mut job) = {
            let mut state = shared.state.lock();
            match state.jobs.pop_front() {
                Some(job) => job,
                None if !state.aside.is_empty() && !state.is_watched && !state.ends => {
                    state.is_watched = true;
                    drop(state);
                    watch(shared);
                    shared.state.lock().is_watched = false;
                    continue;
                }
                None => {
                    state.threads -= 1;
                    return;
                }
            }
        };
        // One that panics is done: whoever waits for it is told when what it held goes, which is here.
        let left = catch_unwind(AssertUnwindSafe(move || {
            let step = {
                let _at_work = task.as_ref().map(Task::begin);
                job(Turn::Step)
            };
            (step != Step::Done).then_some((step, task, job))
        }));
        match left {
            Ok(None) => {}
            Ok(Some((Step::Away, task, job))) => {
                let mut state = shared.state.lock();
                if !state.ends {
                    state.aside.push((task, job));
                }
            }
            Ok(Some((_, task, job))) => shared.state.lock().jobs.push_back((task, job)),
            Err(_) => log::error!("a request that takes long made its thread panic, which goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::mpsc;

    fn long() -> Long {
        Long::new(Box::new(|| false))
    }

    #[test]
    fn each_job_has_its_turn_and_is_done_to_its_end() {
        let long = long();
        let (send, receive) = mpsc::channel();
        for (name, steps) in [("long", 1000), ("longer", 2000), ("short", 3)] {
            let (send, mut left) = (send.clone(), steps);
            let job = Box::new(move |_| {
                left -= 1;
                if left == 0 {
                    send.send(name).unwrap();
                    return Step::Done;
                }
                Step::More
            });
            long.run(None, job);
        }
        let ended: Vec<&str> = receive.iter().take(3).collect();
        assert!(["long", "longer", "short"].iter().all(|name| ended.contains(name)));
        // The longest cannot overtake all of the others where each has its turn.
        assert_ne!(ended[0], "longer");
    }

    #[test]
    fn one_that_panics_keeps_no_other_from_its_end() {
        let long = long();
        let (send, receive) = mpsc::channel();
        for round in 0..6 * THREADS {
            let send = send.clone();
            let mut step = 0;
            let job = Box::new(move |_| {
                step += 1;
                assert!(round % 2 != 0 || step < 2, "as a bug would");
                if step == 3 {
                    send.send(round).unwrap();
                    return Step::Done;
                }
                Step::More
            });
            long.run(None, job);
        }
        drop(send);
        assert_eq!(receive.iter().count(), 3 * THREADS);
    }

    #[test]
    fn what_is_put_aside_is_gone_on_with_when_it_can_be_and_keeps_nobody_from_his_turn() {
        let (away, tried) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let is_away = Arc::clone(&away);
        let long = Long::new(Box::new(move || is_away.load(Ordering::SeqCst)));
        let (send, receive) = mpsc::channel();
        for _ in 0..4 * THREADS {
            let (send, away, tried) = (send.clone(), Arc::clone(&away), Arc::clone(&tried));
            let job = Box::new(move |_| {
                tried.fetch_add(1, Ordering::SeqCst);
                if away.load(Ordering::SeqCst) {
                    return Step::Away;
                }
                send.send("back").unwrap();
                Step::Done
            });
            long.run(None, job);
        }
        std::thread::sleep(3 * LOOK);
        assert_eq!(tried.load(Ordering::SeqCst), 4 * THREADS as u32, "it is not tried in vain");
        let other = send.clone();
        long.run(
            None,
            Box::new(move |_| {
                other.send("other").unwrap();
                Step::Done
            }),
        );
        assert_eq!(receive.recv().unwrap(), "other");
        away.store(false, Ordering::SeqCst);
        drop(send);
        assert_eq!(receive.iter().count(), 4 * THREADS);
    }

    #[test]
    fn a_process_that_is_killed_is_told_from_one_that_lives() {
        assert!(!is_dying(0) && !is_dying(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(is_dying(pid));
    }
}
