//! What has come by a queue, and what of that is answered: for who has to know that all is done that the kernel asked for up to a
//! moment.
//!
//! In the kernel, a request waits in two lists of its queue (fs/fuse/dev_uring.c): if nobody waits for it, in the one that gives the
//! other at least one at a time, and more as the limit of the connection allows; and in the other until an entry is free, or one that
//! is answered takes the next. Both are in order, each queue for itself. So nothing of a moment is left in a queue
//! - once as many write-backs came by it since as requests waited then, of all kinds and in all queues; or
//! - if nothing of it is in hand here, and its thread sleeps in the kernel: what is answered last would have taken the next along.
//!
//! Who reads or changes without a pause can keep a queue from both for good, if nothing is written back there any more. It is past as
//! well when it has gone on like that for [`STILL`] without a single write-back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// See above.
const STILL: Duration = Duration::from_secs(10);
/// How long is waited until the next look, at first and later.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// How much came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Came {
    requests: u64,
    /// Those in which the kernel writes back what it had in its cache.
    write_backs: u64,
}

/// What comes and goes by a queue.
#[derive(Debug)]
pub struct Flow {
    requests: AtomicU64,
    write_backs: AtomicU64,
    /// For each entry, the number among all that came of the request that it has; 0: the kernel has it.
    held: Box<[AtomicU64]>,
    /// Odd while the thread asks the kernel for more; each time one more by two.
    rounds: AtomicU64,
    /// The kernel's number of that thread.
    thread: AtomicI32,
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
            thread: AtomicI32::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The calling thread is that of the queue.
    pub(super) fn is_of_this_thread(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
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
        self.held[entry].store(number, Ordering::SeqCst);
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

    fn came(&self) -> Came {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Came { requests: of(&self.requests), write_backs: of(&self.write_backs) }
    }

    /// Whether there is nothing to do.
    fn is_idle(&self) -> bool {
        if self.has_ended.load(Ordering::SeqCst) {
            return true;
        }
        let then = self.rounds.load(Ordering::SeqCst);
        then % 2 == 1
            && self.held.iter().all(|held| held.load(Ordering::SeqCst) == 0)
            && is_asleep(self.thread.load(Ordering::SeqCst))
            && self.rounds.load(Ordering::SeqCst) == then
    }

    /// Whether all is answered of the first so many that came.
    fn is_answered(&self, first: u64) -> bool {
        self.has_ended.load(Ordering::SeqCst)
            || self.held.iter().all(|held| {
                let number = held.load(Ordering::SeqCst);
                number == 0 || number > first
            })
    }
}

/// Waits until all is done that was in these queues, those of a connection, when this was called; `waiting` of its requests, or fewer,
/// were not answered then. Not to be called by who has to serve any of them.
pub fn await_done(flows: &[Arc<Flow>], waiting: u64) {
    let now = Instant::now();
    let mut pause = INTERVALS.0;
    let mut sleep = || {
        std::thread::sleep(pause);
        pause = (2 * pause).min(INTERVALS.1);
    };
    let passing =
        flows.iter().map(|flow| Passing { flow, begun: flow.came(), last: flow.came(), since: now });
    let mut left: Vec<Passing<'_>> = passing.collect();
    loop {
        left.retain_mut(|passing| !passing.is_past(waiting));
        if left.is_empty() {
            break;
        }
        sleep();
    }
    let in_hand: Vec<(&Flow, u64)> = flows.iter().map(|flow| (&**flow, flow.came().requests)).collect();
    while !in_hand.iter().all(|(flow, first)| flow.is_answered(*first)) {
        sleep();
    }
}

/// A queue of which it is not known yet that nothing is left of what was there.
struct Passing<'a> {
    flow: &'a Flow,
    begun: Came,
    /// When something was last written back, and what had come then.
    last: Came,
    since: Instant,
}

impl Passing<'_> {
    fn is_past(&mut self, waiting: u64) -> bool {
        let now = self.flow.came();
        if now.write_backs != self.last.write_backs {
            (self.last, self.since) = (now, Instant::now());
        }
        is_past([self.begun, self.last, now], waiting, self.since.elapsed()) || self.flow.is_idle()
    }
}

/// Whether nothing is left of what was there when so much had come as `begun` says: `now` is what came by now, `last` what had come
/// with the last write-back, which was `still` ago; there were `waiting` requests at most.
fn is_past([begun, last, now]: [Came; 3], waiting: u64, still: Duration) -> bool {
    now.write_backs - begun.write_backs >= waiting
        || (still >= STILL && now.requests - last.requests >= waiting)
}

/// Whether a thread of this process sleeps, and has nothing to do.
fn is_asleep(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn came(requests: u64, write_backs: u64) -> Came {
        Came { requests, write_backs }
    }

    #[test]
    fn a_queue_is_past_when_as_much_was_written_back_as_waited() {
        let begun = came(100, 10);
        let soon = Duration::ZERO;
        assert!(!is_past([begun, begun, begun], 5, soon));
        assert!(!is_past([begun, came(104, 14), came(1000, 14)], 5, soon));
        assert!(is_past([begun, came(105, 15), came(105, 15)], 5, soon));
        // Others go on, and nothing is written back.
        assert!(!is_past([begun, came(101, 11), came(1000, 11)], 5, STILL / 2));
        assert!(is_past([begun, came(101, 11), came(106, 11)], 5, STILL));
        // Nothing moves at all: it may be waiting for a disk.
        assert!(!is_past([begun, came(101, 11), came(105, 11)], 5, 100 * STILL));
    }

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
        while !flow.is_idle() {
            std::thread::yield_now();
        }
        await_done(&[Arc::clone(&flow)], 7);
        flow.comes(0, true);
        assert!(!flow.is_idle() && !flow.is_answered(1));
        flow.comes(1, false);
        flow.goes(0);
        assert!(flow.is_answered(1) && !flow.is_answered(2) && !flow.is_idle());
        flow.goes(1);
        await_done(&[Arc::clone(&flow)], 7);
        // It was woken, and asks again.
        give.send(()).unwrap();
        is_ready.recv().unwrap();
        await_done(&[Arc::clone(&flow)], 7);
        // A mount that is gone is waited for by nobody.
        flow.comes(0, true);
        flow.ends();
        await_done(&[Arc::clone(&flow)], 7);
        drop(give);
        thread.join().unwrap();
    }
}
