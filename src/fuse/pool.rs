//! Threads that do what takes long, so that those that take requests do not.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Jobs that wait for a thread or have one.
    jobs: AtomicUsize,
    wake: Condvar,
}

/// A fixed number of threads and their queue. Threads end when the pool is dropped and the queue is empty.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// How many more of those who take requests may wait for something.
    leaves: AtomicUsize,
}

impl Pool {
    /// Starts `threads` threads, which are named after `name`, to help `takers` threads that take requests.
    pub(super) fn new(name: &str, threads: usize, takers: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for i in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("{name}-{i}")).spawn(move || work(&shared))?;
        }
        Ok(Self { shared, leaves: AtomicUsize::new(takers / 2) })
    }

    /// Whether a thread that takes requests may itself wait for a disk: to hand the request over takes longer than many a
    /// disk. Half of them must be left to take the next, and where several wait already, the pool gets more done. (One that is
    /// counted may have been answered just now.)
    pub(super) fn leave(&self) -> Option<Leave<'_>> {
        if self.shared.jobs.load(Ordering::Relaxed) > 1 {
            return None;
        }
        let take = |left: usize| left.checked_sub(1);
        let taken = self.leaves.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take);
        taken.ok().map(|_| Leave::Taker { _held: TakersLeave(&self.leaves) })
    }

    pub(super) fn run(&self, job: Job) {
        self.shared.jobs.fetch_add(1, Ordering::Relaxed);
        self.shared.queue.lock().jobs.push_back(job);
        self.shared.wake.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

/// Leave to wait, until it is dropped.
pub(super) enum Leave<'a> {
    /// Of a thread that does nothing else.
    Always,
    /// Of one that takes requests.
    Taker {
        /// Comes back to the pool when it is dropped.
        _held: TakersLeave<'a>,
    },
}

/// One of those that a pool gives.
pub(super) struct TakersLeave<'a>(&'a AtomicUsize);

impl Drop for TakersLeave<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared.queue.lock();
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                shared.wake.wait(&mut queue);
            }
        };
        job();
        shared.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_takers_of_requests_never_wait() {
        assert!(Pool::new("test", 0, 1).unwrap().leave().is_none());
        let pool = Pool::new("test", 0, 5).unwrap();
        let held = (pool.leave(), pool.leave());
        assert!(held.0.is_some() && held.1.is_some() && pool.leave().is_none());
        drop(held);
        assert!(pool.leave().is_some());
        pool.run(Box::new(|| {}));
        assert!(pool.leave().is_some());
        pool.run(Box::new(|| {}));
        assert!(pool.leave().is_none(), "two wait already");
    }
}
