//! Requests that take long, in steps, on threads of their own: those that take requests go on with others.
//!
//! After each step the next request has its turn, so that a short one does not wait for a long one. Threads are started when there is
//! something to do, and end when there is nothing.

use super::task::Task;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Does a step; true when that was the last one.
type Job = Box<dyn FnMut() -> bool + Send>;

/// Threads of one mount. More would not be faster: steps take turns anyway.
const THREADS: usize = 2;

#[derive(Default)]
struct State {
    jobs: VecDeque<(Option<Task>, Job)>,
    threads: usize,
}

/// The requests of a mount that take long.
#[derive(Default)]
pub(super) struct Long {
    state: Arc<Mutex<State>>,
}

impl Long {
    /// Does `job` to its end, for a request. Between its steps it is not worked on.
    pub(super) fn run(&self, task: Option<Task>, job: Job) {
        let starts = {
            let mut state = self.state.lock();
            state.jobs.push_back((task, job));
            let starts = state.threads < THREADS;
            state.threads += usize::from(starts);
            starts
        };
        if !starts {
            return;
        }
        let state = Arc::clone(&self.state);
        let thread = std::thread::Builder::new().name("larder-long".into()).spawn(move || work(&state));
        if let Err(e) = thread {
            log::warn!("cannot start a thread for a request that takes long: {e}");
            work(&self.state);
        }
    }
}

fn work(state: &Mutex<State>) {
    loop {
        let (task, mut job) = {
            let mut state = state.lock();
            match state.jobs.pop_front() {
                Some(job) => job,
                None => {
                    state.threads -= 1;
                    return;
                }
            }
        };
        // One that panics is done: whoever waits for it is told when what it held goes, which is here.
        let left = catch_unwind(AssertUnwindSafe(move || {
            let is_done = {
                let _at_work = task.as_ref().map(Task::begin);
                job()
            };
            (!is_done).then_some((task, job))
        }));
        match left {
            Ok(left) => state.lock().jobs.extend(left),
            Err(_) => log::error!("a request that takes long made its thread panic, which goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn each_job_has_its_turn_and_is_done_to_its_end() {
        let long = Long::default();
        let (send, receive) = mpsc::channel();
        for (name, steps) in [("long", 1000), ("longer", 2000), ("short", 3)] {
            let (send, mut left) = (send.clone(), steps);
            let job = Box::new(move || {
                left -= 1;
                if left == 0 {
                    send.send(name).unwrap();
                }
                left == 0
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
        let long = Long::default();
        let (send, receive) = mpsc::channel();
        for round in 0..6 * THREADS {
            let send = send.clone();
            let mut step = 0;
            let job = Box::new(move || {
                step += 1;
                assert!(round % 2 != 0 || step < 2, "as a bug would");
                if step == 3 {
                    send.send(round).unwrap();
                }
                step == 3
            });
            long.run(None, job);
        }
        drop(send);
        assert_eq!(receive.iter().count(), 3 * THREADS);
    }
}
