//! Threads that do what takes long, so that those that take requests do not. They are started when there is something to do, and end when
//! there has been nothing for a while.

use crate::scheduling::run_anywhere;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// How long a thread lives without anything to do.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    ended: Condvar,
}

/// Threads and their queue. Threads end when the pool is dropped and the queue is empty.
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: String,
    /// Threads that are always there.
    least: usize,
    /// Threads at most.
    most: usize,
}

impl Pool {
    /// A pool of one thread, which is always there, and up to `most` when they are wanted. They are named after `name`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(name: &str, most: usize) -> io::Result<Self> {
        let pool = Self { shared: Arc::default(), name: name.to_owned(), least: 1, most };
        pool.start(&mut pool.shared.queue.lock())?;
        Ok(pool)
    }

    /// A pool of up to `most` threads when they are wanted, and none as long as they are not. Where not one can be started, whoever gives
    /// it something to do does it: only for what the one who gives it can do as well.
    pub(super) fn of_none(name: &str, most: usize) -> Self {
        Self { shared: Arc::default(), name: name.to_owned(), least: 0, most }
    }

    fn start(&self, queue: &mut Queue) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (name, least) = (format!("{}-{}", self.name, queue.threads), self.least);
        std::thread::Builder::new().name(name).spawn(move || {
            run_anywhere();
            work(&shared, least);
        })?;
        queue.threads += 1;
        Ok(())
    }

    pub(super) fn run(&self, job: Job) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(job);
        if queue.jobs.len() > queue.idle
            && queue.threads < self.most
            && let Err(e) = self.start(&mut queue)
        {
            // Those there are do it later.
            log::warn!("cannot start another thread of {}: {e}", self.name);
            if queue.threads == 0 {
                let jobs = std::mem::take(&mut queue.jobs);
                drop(queue);
                return jobs.into_iter().for_each(|job| job());
            }
        }
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Drops what nobody has begun with, and waits for what somebody has. Nothing may be given to the pool any more. Not to be called
    /// by one of its jobs.
    pub(super) fn end(&self) {
        let jobs = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(jobs);
        self.shared.wake.notify_all();
        let mut queue = self.shared.queue.lock();
        while queue.threads > 0 {
            self.shared.ended.wait(&mut queue);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

/// The end of a thread, however it ends.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().threads -= 1;
        self.0.ended.notify_all();
    }
}

fn work(shared: &Shared, least: usize) {
    let end = End(shared);
    let mut queue = shared.queue.lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            // Others wait for their turn. Whoever waits for this one is told when what the job held goes.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a job of a mount panicked; its thread goes on");
            }
            queue = shared.queue.lock();
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            let is_late = if queue.threads > least {
                shared.wake.wait_for(&mut queue, LINGER).timed_out()
            } else {
                shared.wake.wait(&mut queue);
                false
            };
            queue.idle -= 1;
            if is_late && queue.threads > least && queue.jobs.is_empty() {
                queue.threads -= 1;
                shared.ended.notify_all();
                drop(queue);
                // It is counted out already.
                std::mem::forget(end);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn as_many_jobs_as_there_may_be_threads_can_wait_for_each_other() {
        const MOST: usize = 8;
        let pool = Pool::new("test", MOST).unwrap();
        for _ in 0..3 {
            let all = Arc::new(Barrier::new(MOST + 1));
            for _ in 0..MOST {
                let all = Arc::clone(&all);
                pool.run(Box::new(move || {
                    all.wait();
                }));
            }
            all.wait();
        }
        assert_eq!(pool.shared.queue.lock().threads, MOST);
    }

    /// The only thread was gone, with those who waited behind it.
    #[test]
    fn a_job_that_panics_keeps_nobody_from_being_done() {
        let pool = Pool::new("test", 1).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        for round in 0..10 {
            let done = done.clone();
            pool.run(Box::new(move || {
                assert!(round % 2 != 0, "as a bug would");
                done.send(round).unwrap();
            }));
        }
        drop(done);
        assert_eq!(is_done.iter().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        assert_eq!(pool.shared.queue.lock().threads, 1);
        pool.end();
    }

    #[test]
    fn threads_end_that_have_nothing_to_do_and_come_back() {
        let threads = |pool: &Pool| pool.shared.queue.lock().threads;
        let run = |pool: &Pool| {
            let all = Arc::new(Barrier::new(3));
            for _ in 0..2 {
                let all = Arc::clone(&all);
                pool.run(Box::new(move || {
                    all.wait();
                }));
            }
            all.wait();
            assert_eq!(threads(pool), 2);
        };
        for (pool, least) in [(Pool::new("test", 2).unwrap(), 1), (Pool::of_none("test", 2), 0)] {
            assert_eq!(threads(&pool), least);
            for _ in 0..2 {
                run(&pool);
                while threads(&pool) > least {
                    std::thread::sleep(LINGER / 50);
                }
            }
            pool.end();
        }
    }

    #[test]
    fn at_the_end_what_has_begun_is_done_and_nothing_else() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let (pool, done) = (Pool::new("test", 1).unwrap(), Arc::new(AtomicU32::new(0)));
        let (begun, begins) = std::sync::mpsc::channel();
        for _ in 0..2 {
            let (done, begun) = (Arc::clone(&done), begun.clone());
            pool.run(Box::new(move || {
                begun.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        begins.recv().unwrap();
        pool.end();
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }
}
