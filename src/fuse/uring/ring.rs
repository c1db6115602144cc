//! The ring of one queue, and which entries the kernel has.

#![expect(unsafe_code, reason = "io_uring takes addresses, and trusts us that they stay good")]

use super::entry::Entry;
use crate::fuse::device::Device;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// Commands of FUSE, of `<linux/fuse.h>`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Submissions that fit before the kernel must be told.
const SUBMISSIONS: u32 = 64;
/// What stands for the bell among the numbers of entries.
const BELL: u64 = u64::MAX;
/// Where a submission has the number of its areas (`len` of `struct io_uring_sqe`), for which the crate has no setter.
const LEN_OFFSET: usize = 24;

/// What the kernel says.
pub(super) enum Completion {
    /// An entry is ours again: with a request, or with a negative errno and for good.
    Entry(Entry, Result<(), Errno>),
    /// The bell was rung.
    Bell,
}

/// An io_uring that speaks to one queue of a FUSE connection.
///
/// Invariant: an entry is in `with_kernel` from the moment its submission is pushed until its completion is taken, and
/// nothing looks at it there. Only then the kernel reads or writes its memory, which does not move.
pub(super) struct Ring {
    ring: IoUring<Entry128, cqueue::Entry>,
    device: Arc<Device>,
    queue: u16,
    with_kernel: Vec<Option<Entry>>,
    in_kernel: usize,
    bell: Arc<EventFd>,
}

impl Ring {
    /// A ring for queue `queue` of a connection. Only the calling thread may use it.
    ///
    /// # Errors
    /// When the kernel has no io_uring, or forbids it.
    pub(super) fn new(device: Arc<Device>, queue: u16) -> io::Result<Self> {
        let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.setup_cqsize(SUBMISSIONS * 16);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let mut ring = Self {
            ring: builder.build(SUBMISSIONS)?,
            device,
            queue,
            with_kernel: Vec::new(),
            in_kernel: 0,
            bell: Arc::new(EventFd::from_flags(flags)?),
        };
        ring.await_bell()?;
        Ok(ring)
    }

    /// Number of the queue, and so of its CPU.
    pub(super) fn queue(&self) -> u16 {
        self.queue
    }

    /// Written to, it wakes the ring's thread.
    pub(super) fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.bell)
    }

    /// Entries that the kernel can put requests into.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// Gives the kernel one more entry.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let mut entry = Entry::new(self.with_kernel.len());
        self.with_kernel.push(None);
        let areas = entry.areas();
        let mut submission = self.command(REGISTER, 0, Some(areas.as_ptr() as u64), entry.index());
        // SAFETY: it is as long as the kernel's structure, and plain numbers.
        unsafe { (&raw mut submission).cast::<u8>().add(LEN_OFFSET).cast::<u32>().write(areas.len() as u32) };
        self.give(entry, &submission)?;
        // Until it returns, the areas are read.
        self.ring.submit().map(|_| ())
    }

    /// Gives the kernel an entry with an answer, and room for the next request.
    pub(super) fn commit(&mut self, entry: Entry) -> io::Result<()> {
        let submission = self.command(COMMIT_AND_FETCH, entry.commit_id(), None, entry.index());
        self.give(entry, &submission)
    }

    /// A command to FUSE, with `struct fuse_uring_cmd_req`.
    fn command(&self, command: u32, commit_id: u64, areas: Option<u64>, index: usize) -> Entry128 {
        let mut request = [0; 80];
        request[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        request[16..18].copy_from_slice(&self.queue.to_ne_bytes());
        let fd = types::Fd(self.device.as_fd().as_raw_fd());
        opcode::UringCmd80::new(fd, command).cmd(request).addr(areas).build().user_data(index as u64)
    }

    fn give(&mut self, entry: Entry, submission: &Entry128) -> io::Result<()> {
        let index = entry.index();
        self.with_kernel[index] = Some(entry);
        self.in_kernel += 1;
        self.push(submission)
    }

    fn await_bell(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.bell.as_fd().as_raw_fd());
        let submission = opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(BELL);
        self.push(&submission.into())
    }

    fn push(&mut self, submission: &Entry128) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the memory it speaks of belongs to an entry in `with_kernel`, or is read before `register` returns; the
        // descriptors are open as long as the ring.
        unsafe { self.ring.submission().push(submission) }.map_err(io::Error::other)
    }

    /// Hands over what was committed.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        if !self.ring.submission().is_empty() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Hands over what was committed, waits until something has come, and puts it into `completed`.
    pub(super) fn exchange(&mut self, completed: &mut Vec<Completion>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            // EBUSY: completions have to be taken first.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(e) => return Err(e),
        }
        let mut rung = false;
        for completion in self.ring.completion() {
            if completion.user_data() == BELL {
                rung = true;
                completed.push(Completion::Bell);
                continue;
            }
            let slot = self.with_kernel.get_mut(completion.user_data() as usize);
            let Some(entry) = slot.and_then(Option::take) else { continue };
            self.in_kernel -= 1;
            let result = match completion.result() {
                0.. => Ok(()),
                error => Err(Errno::from_raw(-error)),
            };
            completed.push(Completion::Entry(entry, result));
        }
        if rung {
            // Stops ringing.
            let _ = self.bell.read();
            self.await_bell()?;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // After a failure, the kernel may still have some; their memory must stay.
        for entry in self.with_kernel.drain(..).flatten() {
            std::mem::forget(entry);
        }
    }
}
