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
    ended: Condvar,
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
            log::warn!("cannot start another thread of {}: {e}", self.name);
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

fn work(shared: &Shared) {
    let _end = End(shared);
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
