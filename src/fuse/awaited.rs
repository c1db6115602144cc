//! Requests that wait for something far away, however long that takes: until the store's remote has what is synced.
//!
//! None of them takes a thread, and the process that made one can be killed. Nobody works on them meanwhile, and nobody has to remember
//! them: whoever takes over the mount is given them again.

use super::adapter::Answered;
use super::long::{LOOK, is_dying};
use super::reply::Reply;
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

type Answer = Box<dyn FnOnce(Answered) + Send>;

#[derive(Default)]
struct State {
    /// By the order in which they came, with the processes that made them; 0: none that is seen from here.
    waiting: BTreeMap<u64, (u32, Answer)>,
    next: u64,
    /// A thread looks after them.
    is_watched: bool,
    ends: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

/// The requests of a mount that wait so. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Awaited {
    shared: Arc<Shared>,
}

impl Awaited {
    /// Puts a request aside, until what this returns is called with its answer. If it was answered before, that is for nothing.
    pub(super) fn put_aside(&self, mut reply: impl Reply) -> impl FnOnce(Answered) + Send + 'static {
        let pid = reply.put_aside().map_or(0, |task| task.pid);
        let answer: Answer = Box::new(move |answer| reply.send(answer));
        let (number, starts) = {
            let mut state = self.shared.state.lock();
            if state.ends {
                drop(state);
                answer(Err(Errno::EIO));
                return self.answering(u64::MAX);
            }
            let number = state.next;
            state.next += 1;
            state.waiting.insert(number, (pid, answer));
            (number, !std::mem::replace(&mut state.is_watched, true))
        };
        if starts {
            let shared = Arc::clone(&self.shared);
            let thread =
                std::thread::Builder::new().name("larder-await".into()).spawn(move || shared.watch());
            if let Err(e) = thread {
                log::warn!("cannot start a thread: who waits for the remote cannot be killed meanwhile: {e}");
                self.shared.state.lock().is_watched = false;
            }
        }
        self.answering(number)
    }

    fn answering(&self, number: u64) -> impl FnOnce(Answered) + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move |answer| shared.answer(number, answer)
    }

    /// Lets go of all of them: the mount is gone, and nobody hears an answer.
    pub(super) fn end(&self) {
        let waiting = {
            let mut state = self.shared.state.lock();
            state.ends = true;
            std::mem::take(&mut state.waiting)
        };
        self.shared.ended.notify_all();
        waiting.into_values().for_each(|(_, answer)| answer(Err(Errno::EIO)));
    }
}

impl Shared {
    fn answer(&self, number: u64, with: Answered) {
        let waiting = self.state.lock().waiting.remove(&number);
        if let Some((_, answer)) = waiting {
            answer(with);
        }
    }

    /// Answers those whose processes are being killed, as long as there are any.
    fn watch(&self) {
        // Most of them do not wait for so long that anybody has to look at them.
        let mut seen = 0;
        loop {
            let old: Vec<(u64, u32)> = {
                let mut state = self.state.lock();
                self.ended.wait_for(&mut state, LOOK);
                if state.waiting.is_empty() || state.ends {
                    state.is_watched = false;
                    return;
                }
                let old = state.waiting.range(..seen).map(|(number, (pid, _))| (*number, *pid)).collect();
                seen = state.next;
                old
            };
            for (number, _) in old.into_iter().filter(|(_, pid)| is_dying(*pid)) {
                let _ = catch_unwind(AssertUnwindSafe(|| self.answer(number, Err(Errno::EINTR))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::{Answer, List};
    use super::super::task::Task;
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    struct Told(Sender<Answered>);

    impl Reply for Told {
        fn send(self, answer: Answered) {
            let _ = self.0.send(answer);
        }

        fn send_bytes(self, _: &[u8]) {}

        fn put_aside(&mut self) -> Option<Task> {
            None
        }

        fn list(self, _: usize, _: bool, _: List<'_>) {}
    }

    #[test]
    fn each_is_answered_once_and_with_its_own_answer() {
        let awaited = Awaited::default();
        let all: Vec<_> = (0..4)
            .map(|_| {
                let (told, answers) = channel();
                (awaited.put_aside(Told(told)), answers)
            })
            .collect();
        std::thread::sleep(3 * LOOK);
        for (i, (done, answers)) in all.into_iter().enumerate() {
            assert!(answers.try_recv().is_err());
            let answer = if i % 2 == 0 { Ok(Answer::Done) } else { Err(Errno::ENOSPC) };
            done(answer.clone());
            assert_eq!(answers.recv(), Ok(answer));
            assert!(answers.recv().is_err(), "its way back is gone");
        }
        until(|| !awaited.shared.state.lock().is_watched);
    }

    #[test]
    fn those_of_a_mount_that_is_gone_are_let_go_of() {
        let awaited = Awaited::default();
        let (told, answers) = channel();
        let done = awaited.put_aside(Told(told));
        awaited.end();
        assert_eq!(answers.recv(), Ok(Err(Errno::EIO)));
        done(Ok(Answer::Done));
        assert!(answers.recv().is_err());
        // One that comes late.
        let (told, answers) = channel();
        awaited.put_aside(Told(told))(Ok(Answer::Done));
        assert_eq!(answers.recv(), Ok(Err(Errno::EIO)));
        until(|| !awaited.shared.state.lock().is_watched);
    }

    fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
