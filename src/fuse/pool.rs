//! Threads that do what takes long, so that those that take requests do not.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

type Job = Box<dyn FnOnce() + Send>;

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
}

/// Threads and their queue. Threads end when the pool is dropped and the queue is empty.
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: String,
    /// Threads at most.
    most: usize,
}

impl Pool {
    /// A pool of one thread, and up to `most` when they are wanted. They are named after `name`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(name: &str, most: usize) -> io::Result<Self> {
        let pool = Self { shared: Arc::default(), name: name.to_owned(), most };
        pool.start(&mut pool.shared.queue.lock())?;
        Ok(pool)
    }

    fn start(&self, queue: &mut Queue) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let name = format!("{}-{}", self.name, queue.threads);
        std::thread::Builder::new().name(name).spawn(move || work(&shared))?;
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
            log::warn!("starting another thread of {}: {e}", self.name);
        }
        drop(queue);
        self.shared.wake.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            job();
            queue = shared.queue.lock();
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            shared.wake.wait(&mut queue);
            queue.idle -= 1;
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
}
