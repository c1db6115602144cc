//! What has come by a queue, and what of that is answered: for who has to know that all is done that the kernel asked for up to a
//! moment.
//!
//! Each queue is in order for itself ([`super::super::passing`]), and gives at least one at a time of the requests that nobody waits
//! for. Nothing of a moment is left in it either if nothing of it is in hand here, and its thread sleeps in the kernel: what is answered
//! last would have taken the next along.

use crate::fuse::passing::{Came, Passing, Pause, state_of, this_thread};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What comes and goes by a queue.
#[derive(Debug)]
pub struct Flow {
    requests: AtomicU64,
    write_backs: AtomicU64,
    /// For each entry, twice the number among all that came of the request that it has, and one more if that is a write-back; 0: the
    /// kernel has it.
    held: Box<[AtomicU64]>,
    /// Odd while the thread asks the kernel for more; each time one more by two.
    rounds: AtomicU64,
    /// The kernel's number of that thread.
    thread: AtomicU64,
    has_ended: AtomicBool,
}

impl Flow {
    /// Of a queue with so many entries.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            requests: AtomicU64::new(0),
            write_backs: AtomicU64::new(0),
            held: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            rounds: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The calling thread is that of the queue.
    pub(super) fn is_of_this_thread(&self) {
        self.thread.store(this_thread(), Ordering::SeqCst);
    }

    /// Asks the kernel for more, which is given all that was [gone](Flow::goes).
    pub(super) fn ask<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let result = ask();
        self.rounds.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// A request came.
    pub(super) fn comes(&self, entry: usize, is_write_back: bool) {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.held[entry].store(2 * number + u64::from(is_write_back), Ordering::SeqCst);
        if is_write_back {
            self.write_backs.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Its answer is about to be given to the kernel.
    pub(super) fn goes(&self, entry: usize) {
        self.held[entry].store(0, Ordering::SeqCst);
    }

    /// The mount is gone: nothing comes any more, and nothing is answered.
    pub(super) fn ends(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
    }

    /// Whether the mount is gone.
    pub(in crate::fuse) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    fn came(&self) -> Came {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Came { requests: of(&self.requests), write_backs: of(&self.write_backs) }
    }

    /// Whether there is nothing to do.
    fn is_idle(&self) -> io::Result<bool> {
        if self.has_ended() {
            return Ok(true);
        }
        let then = self.rounds.load(Ordering::SeqCst);
        Ok(then % 2 == 1
            && self.held.iter().all(|held| held.load(Ordering::SeqCst) == 0)
            && state_of(self.thread.load(Ordering::SeqCst))? == b'S'
            && self.rounds.load(Ordering::SeqCst) == then)
    }

    /// Whether all write-backs are answered among the first so many requests that came.
    fn is_answered(&self, first: u64) -> bool {
        self.has_ended()
            || self.held.iter().all(|held| {
                let held = held.load(Ordering::SeqCst);
                held % 2 == 0 || held / 2 > first
            })
    }
}

/// Waits until all is done that was written back by these queues, those of a connection, when this was called; `waiting` of its
/// requests, or fewer, were not answered then. Not to be called by who has to serve any of them.
///
/// # Errors
/// If that cannot be told. What has come is done then.
pub fn await_done(flows: &[Arc<Flow>], waiting: u64) -> io::Result<()> {
    let mut pause = Pause::default();
    let passing = flows.iter().map(|flow| (flow, Passing::begin(flow.came(), waiting)));
    let mut left: Vec<_> = passing.collect();
    let mut told = Ok(());
    loop {
        left.retain_mut(|(flow, passing)| {
            let is_done = flow.is_idle().and_then(|is_idle| Ok(is_idle || passing.is_past(flow.came())?));
            !is_done.unwrap_or_else(|e| {
                told = Err(e);
                true
            })
        });
        if left.is_empty() {
            break;
        }
        pause.sleep();
    }
    let in_hand: Vec<(&Flow, u64)> = flows.iter().map(|flow| (&**flow, flow.came().requests)).collect();
    while !in_hand.iter().all(|(flow, first)| flow.is_answered(*first)) {
        pause.sleep();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn what_is_in_hand_is_waited_for_and_what_comes_later_is_not() {
        let flow = Arc::new(Flow::new(2));
        let (give, given) = channel::<()>();
        let (for_thread, (ready, is_ready)) = (Arc::clone(&flow), channel());
        let thread = std::thread::spawn(move || {
            for_thread.is_of_this_thread();
            while for_thread.ask(|| given.recv()).is_ok() {
                ready.send(()).unwrap();
            }
        });
        while !flow.is_idle().unwrap() {
            std::thread::yield_now();
        }
        await_done(&[Arc::clone(&flow)], 7).unwrap();
        flow.comes(0, true);
        assert!(!flow.is_idle().unwrap() && !flow.is_answered(1));
        flow.comes(1, true);
        flow.goes(0);
        assert!(flow.is_answered(1) && !flow.is_answered(2) && !flow.is_idle().unwrap());
        flow.goes(1);
        // Whatever else comes no further is not waited for.
        flow.comes(1, false);
        assert!(flow.is_answered(3) && !flow.is_idle().unwrap());
        flow.goes(1);
        await_done(&[Arc::clone(&flow)], 7).unwrap();
        // It was woken, and asks again.
        give.send(()).unwrap();
        is_ready.recv().unwrap();
        await_done(&[Arc::clone(&flow)], 7).unwrap();
        // A mount that is gone is waited for by nobody.
        flow.comes(0, true);
        flow.ends();
        await_done(&[Arc::clone(&flow)], 7).unwrap();
        drop(give);
        thread.join().unwrap();
    }
}
