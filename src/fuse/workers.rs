//! The threads of a mount beside its readers, by what they wait for.
//!
//! Some requests make the kernel do something before they can be answered: write pages back, drop them. It then waits for
//! locks of pages, which are held until requests are answered that it may not even have been able to send yet. So whoever
//! waits for the kernel must not be in the way of any request that the kernel can be waiting for: neither by being one of
//! the readers, nor by taking the threads that cold reads need.

use super::kernel_cache::MayWait;
use super::pool::Pool;
use super::task::Task;
use std::io;

/// Reads that wait for a disk at the same time. A disk with a queue wants several; each costs a thread and a buffer.
const READERS: usize = 8;
/// Requests that wait for the kernel at the same time. All of them may wait for the same; more only wait in the queue.
const ASKERS: usize = 8;
/// The same for writes past the cache, which must not wait behind those: what those wait for may wait for the writes.
const DROPPERS: usize = 8;

/// The threads.
pub(super) struct Workers {
    disk: Pool,
    kernel: Pool,
    direct: Pool,
}

impl Workers {
    /// # Errors
    /// When threads cannot be started.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            // Whoever takes a request may wait for the disk, at the cost of others.
            disk: Pool::of_none("larder-read", READERS),
            // But not for the kernel: whatever may wait for each other has a thread, also where no other can be started.
            kernel: Pool::new("larder-ask", ASKERS)?,
            direct: Pool::new("larder-direct", DROPPERS)?,
        })
    }

    /// Does something for a request that waits for the disk, and for nothing else.
    pub(super) fn read(&self, task: Option<Task>, job: impl FnOnce() + Send + 'static) {
        self.disk.run(Box::new(move || {
            let _at_work = task.as_ref().map(Task::begin);
            job();
        }));
    }

    /// Does something that waits for the kernel, for a request if it is for one.
    pub(super) fn ask(&self, task: Option<Task>, job: impl FnOnce(&MayWait) + Send + 'static) {
        self.kernel.run(Box::new(move || job(&MayWait::working_on(task))));
    }

    /// Lets the kernel drop pages that a write past its cache has made wrong.
    pub(super) fn drop_pages(&self, task: Option<Task>, job: impl FnOnce(&MayWait) + Send + 'static) {
        self.direct.run(Box::new(move || job(&MayWait::working_on(task))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    /// What the kernel does for those who ask it may need reads to be answered first.
    #[test]
    fn reads_are_served_while_any_number_of_requests_wait_for_the_kernel() {
        let workers = Workers::new().unwrap();
        let kernel = Arc::new(Mutex::new(()));
        let busy = kernel.lock();
        for _ in 0..4 * (READERS + ASKERS) {
            let (one, other) = (Arc::clone(&kernel), Arc::clone(&kernel));
            workers.ask(None, move |_| drop(one.lock()));
            workers.drop_pages(None, move |_| drop(other.lock()));
        }
        let (answered, reads) = channel();
        for i in 0..READERS {
            let answered = answered.clone();
            workers.read(None, move || answered.send(i).unwrap());
        }
        drop(answered);
        assert_eq!(reads.iter().count(), READERS);
        drop(busy);
    }

    /// A seek waits for a page, which waits for its turn, which a direct write has until pages were dropped for it.
    #[test]
    fn direct_writes_do_not_wait_behind_others_that_wait_for_the_kernel() {
        let workers = Workers::new().unwrap();
        let kernel = Arc::new(Mutex::new(()));
        let busy = kernel.lock();
        for _ in 0..4 * ASKERS {
            let kernel = Arc::clone(&kernel);
            workers.ask(None, move |_| drop(kernel.lock()));
        }
        let (answered, writes) = channel();
        workers.drop_pages(None, move |_| answered.send(()).unwrap());
        assert_eq!(writes.recv(), Ok(()));
        drop(busy);
    }
}
