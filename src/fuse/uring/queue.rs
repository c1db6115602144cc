//! One queue: its entries, and the thread that has its ring.
//!
//! Only that thread submits. What it submits is finished on its behalf, and is lost when it ends: a thread that comes and goes would
//! take requests with it. Others leave their answers, and wake it.
//!
//! An entry that the kernel does not take back is one that a caller waits for: the mount is given up then.

use super::flow::Flow;
use crate::fuse::device::Device;
use crate::fuse::wire::{self, HEADER_BYTES, Malformed, Parts};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use parking_lot::Mutex;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

/// An entry is registered, and is free (`FUSE_IO_URING_CMD_REGISTER`).
const REGISTER: u32 = 1;
/// An entry has an answer, and is free after that (`FUSE_IO_URING_CMD_COMMIT_AND_FETCH`).
const COMMIT_AND_FETCH: u32 = 2;
/// What [`Queue::wake`] is known by among entries.
const WAKE: u64 = u64::MAX;
/// Before what the kernel could not take is submitted again.
const PAUSE: Duration = Duration::from_millis(1);
const PAGE: usize = 4096;

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

/// A ring whose entries the kernel has.
pub(super) struct Running {
    ring: Ring,
    /// What has come already: what it belongs to, and how it went.
    come: Vec<(u64, i32)>,
    /// Where the entries are. The kernel may look here for as long as the ring is there.
    _parts: Vec<[libc::iovec; 2]>,
}

/// Memory of an entry with so much payload.
pub(super) fn entry_bytes(payload: usize) -> usize {
    PAGE + payload
}

/// Memory that the kernel writes to. Where nothing was yet, there is none.
struct Memory {
    start: NonNull<c_void>,
    len: usize,
}

#[expect(unsafe_code, reason = "raw pointers are not sent by themselves")]
// SAFETY: it is memory of the process, and accessed by who has the entry.
unsafe impl Send for Memory {}
#[expect(unsafe_code, reason = "raw pointers are not sent by themselves")]
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(len: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        #[expect(unsafe_code, reason = "nix maps memory that is whoever's")]
        // SAFETY: the mapping is new.
        let start = unsafe { mmap_anonymous(None, length, protection, flags)? };
        Ok(Self { start, len })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "nix takes a pointer")]
        // SAFETY: nobody has an entry any more, and the kernel forgets them with the ring: what it still copied would fail.
        let unmapped = unsafe { munmap(self.start, self.len) };
        if let Err(e) = unmapped {
            log::debug!("cannot give back the memory of a ring: {e}");
        }
    }
}

/// An entry that has an answer.
struct Answered {
    index: usize,
    commit_id: u64,
}

/// A queue of the kernel's.
pub(super) struct Queue {
    number: u16,
    memory: Memory,
    /// Entries.
    count: usize,
    /// Bytes of payload of each.
    payload: usize,
    answered: Mutex<Vec<Answered>>,
    /// Wakes the thread that has the ring.
    wake: EventFd,
    thread: OnceLock<ThreadId>,
    has_ended: AtomicBool,
    /// Entries that wait for the kernel.
    waiting: AtomicUsize,
    flow: Arc<Flow>,
}

impl Queue {
    pub(super) fn new(number: u16, count: usize, payload: usize) -> io::Result<Self> {
        Ok(Self {
            number,
            memory: Memory::new(count * entry_bytes(payload))?,
            count,
            payload,
            answered: Mutex::default(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            thread: OnceLock::new(),
            has_ended: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            flow: Arc::new(Flow::new(count)),
        })
    }

    /// What comes and goes.
    pub(super) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// Of its CPU.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Ends its thread. Nothing comes any more.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Err(e) = self.wake.write(1) {
            log::error!("cannot wake the thread of a ring: {e}");
        }
    }

    /// Where an entry is: its headers, and a page behind them its payload.
    fn at(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.count);
        #[expect(unsafe_code, reason = "where an entry is")]
        // SAFETY: the memory has `count` entries of this size.
        unsafe {
            self.memory.start.cast::<u8>().add(index * entry_bytes(self.payload))
        }
    }

    fn payload_at(&self, index: usize) -> NonNull<u8> {
        #[expect(unsafe_code, reason = "where an entry's payload is")]
        // SAFETY: an entry is larger than that.
        unsafe {
            self.at(index).add(PAGE)
        }
    }

    /// Makes its ring, on the thread that is to have it, and gives the kernel all entries.
    ///
    /// # Errors
    /// When the kernel does not take them.
    pub(super) fn set_up(&self, device: &Device) -> io::Result<Running> {
        let _ = self.thread.set(std::thread::current().id());
        self.flow.is_of_this_thread();
        let mut builder = Ring::builder();
        // Requests are copied here when this thread asks for them, and do not interrupt it.
        builder.setup_single_issuer().setup_defer_taskrun();
        let mut ring = builder.build(self.count as u32 + 1)?;
        let parts: Vec<[libc::iovec; 2]> = (0..self.count)
            .map(|index| {
                let part =
                    |start: NonNull<u8>, len| libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len };
                [part(self.at(index), HEADER_BYTES), part(self.payload_at(index), self.payload)]
            })
            .collect();
        for (index, parts) in parts.iter().enumerate() {
            let command = opcode::UringCmd80::new(types::Fd(device.fd().as_raw_fd()), REGISTER)
                .cmd(wire::command(self.number, 0))
                .addr(Some(parts.as_ptr() as u64))
                .build();
            push(&mut ring, &with_len(command, 2).user_data(index as u64))?;
        }
        self.await_wake(&mut ring)?;
        // It takes an entry silently, and may take less than all at once.
        let mut left = self.count + 1;
        while left > 0 {
            match ring.submit() {
                Ok(0) => return Err(io::Error::other("the kernel does not take the entries of a ring")),
                Ok(taken) => left = left.saturating_sub(taken),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // There can be requests: as soon as each queue has an entry, the kernel uses them.
        let come: Vec<(u64, i32)> = ring.completion().map(|done| (done.user_data(), done.result())).collect();
        match come.iter().find(|(_, result)| *result < 0) {
            Some((_, errno)) => Err(io::Error::from_raw_os_error(-errno)),
            None => Ok(Running { ring, come, _parts: parts }),
        }
    }

    fn await_wake(&self, ring: &mut Ring) -> io::Result<()> {
        let poll =
            opcode::PollAdd::new(types::Fd(self.wake.as_fd().as_raw_fd()), libc::POLLIN as u32).build();
        push(ring, &squeue::Entry128::from(poll).user_data(WAKE))
    }

    /// Gives requests to `take`, and their answers to the kernel, until the mount is gone. `give_up` ends it.
    pub(super) fn run(
        self: &Arc<Self>,
        running: Running,
        device: &Device,
        take: &mut dyn FnMut(Entry),
        give_up: &dyn Fn(&str),
    ) {
        let Running { mut ring, come: mut done, _parts } = running;
        let mut is_given_up = false;
        let mut lose = |why: &str| {
            if !std::mem::replace(&mut is_given_up, true) {
                give_up(&format!("ring {}: {why}", self.number));
            }
        };
        loop {
            for (i, (what, result)) in done.iter().enumerate() {
                match (*what, *result) {
                    (WAKE, _) => {
                        let _ = self.wake.read();
                        if let Err(e) = self.await_wake(&mut ring) {
                            lose(&format!("cannot wait for answers of other threads: {e}"));
                        }
                    }
                    (index, 0) => self.deliver(index as usize, take),
                    (_, errno) if [libc::ENOTCONN, libc::ECONNABORTED].contains(&-errno) => {
                        // The mount is gone.
                        self.has_ended.store(true, Ordering::SeqCst);
                    }
                    (index, errno) => {
                        let e = io::Error::from_raw_os_error(-errno);
                        lose(&format!("entry {index} is lost: {e}"));
                    }
                }
                // Who has an answer does not wait until the others of the same moment have theirs.
                if i + 1 < done.len() && self.push_answered(&mut ring, device, &mut lose) {
                    // What is not taken now is taken before the thread waits.
                    let _ = ring.submit();
                }
            }
            self.push_answered(&mut ring, device, &mut lose);
            if self.has_ended.load(Ordering::SeqCst) {
                return;
            }
            if let Err(e) = self.flow.ask(|| ring.submit_and_wait(1))
                && e.kind() != io::ErrorKind::Interrupted
            {
                log::warn!("cannot wait for requests on a ring: {e}");
                std::thread::sleep(PAUSE);
            }
            done.clear();
            done.extend(ring.completion().map(|done| (done.user_data(), done.result())));
        }
    }

    /// Whether there was anything to give to the kernel.
    fn push_answered(&self, ring: &mut Ring, device: &Device, lose: &mut dyn FnMut(&str)) -> bool {
        let answered = std::mem::take(&mut *self.answered.lock());
        for Answered { index, commit_id } in &answered {
            self.flow.goes(*index);
            let command = opcode::UringCmd80::new(types::Fd(device.fd().as_raw_fd()), COMMIT_AND_FETCH)
                .cmd(wire::command(self.number, *commit_id))
                .build()
                .user_data(*index as u64);
            if let Err(e) = push(ring, &command) {
                lose(&format!("cannot answer a request: {e}"));
            }
        }
        !answered.is_empty()
    }

    fn deliver(self: &Arc<Self>, index: usize, take: &mut dyn FnMut(Entry)) {
        if index >= self.count {
            return log::error!("the kernel names an entry {index} of {}", self.count);
        }
        match Entry::received(self, index) {
            Ok(entry) => {
                self.flow.comes(index, entry.is_write_back());
                take(entry);
            }
            Err(Malformed) => {
                log::error!(
                    "the kernel sent something on ring {} that is not a request; it is answered EIO",
                    self.number
                );
            }
        }
    }

    /// An entry that has an answer.
    fn give_back(&self, index: usize, commit_id: u64) {
        let is_first = {
            let mut answered = self.answered.lock();
            answered.push(Answered { index, commit_id });
            answered.len() == 1
        };
        // The thread itself looks before it waits. Whoever came first has woken it.
        if is_first && self.thread.get() != Some(&std::thread::current().id()) {
            self.wake();
        }
    }
}

/// Submits, some time. There is room for a command of each entry.
fn push(ring: &mut Ring, command: &squeue::Entry128) -> io::Result<()> {
    #[expect(unsafe_code, reason = "the kernel follows pointers of commands")]
    // SAFETY: those of a registration are kept with the ring; entries live until the ring is gone.
    let pushed = unsafe { ring.submission().push(command) };
    pushed.map_err(|_| io::Error::other("the ring is full"))
}

/// A command with a length, for which `io-uring` has no way. `len` of `struct io_uring_sqe` is at 24.
fn with_len(mut command: squeue::Entry128, len: u32) -> squeue::Entry128 {
    const { assert!(size_of::<squeue::Entry128>() == 128) };
    #[expect(unsafe_code, reason = "io-uring has no way to say it")]
    // SAFETY: an entry is a `struct io_uring_sqe`, with 64 bytes behind it.
    unsafe {
        std::ptr::from_mut(&mut command).cast::<u8>().add(24).cast::<u32>().write(len);
    }
    command
}

/// A request, from when it came until it is answered. One that is dropped is answered EIO.
pub(in crate::fuse) struct Entry {
    queue: Arc<Queue>,
    index: usize,
    /// The kernel's number of the request, by which its answer is committed, too.
    number: u64,
    /// It is counted among those that wait for the kernel.
    waits: bool,
    is_answered: bool,
}

#[expect(unsafe_code, reason = "the memory of an entry is that of who has it")]
impl Entry {
    /// What the kernel has just put there.
    ///
    /// # Errors
    /// When it makes no sense: it has been answered EIO.
    fn received(queue: &Arc<Queue>, index: usize) -> Result<Self, Malformed> {
        let mut entry = Self { queue: Arc::clone(queue), index, number: 0, waits: false, is_answered: true };
        entry.number = wire::commit_id(entry.headers());
        entry.is_answered = false;
        wire::of_ring(entry.headers(), entry.payload_ref())?;
        Ok(entry)
    }

    fn headers(&self) -> &[u8; HEADER_BYTES] {
        // SAFETY: as long as the request is not answered, the kernel leaves the entry alone, and it is nobody else's.
        unsafe { self.queue.at(self.index).cast().as_ref() }
    }

    fn headers_mut(&mut self) -> &mut [u8; HEADER_BYTES] {
        // SAFETY: as above.
        unsafe { self.queue.at(self.index).cast().as_mut() }
    }

    fn payload_ref(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.queue.payload_at(self.index).as_ptr(), self.queue.payload) }
    }

    /// Where the answer's contents go.
    pub(in crate::fuse) fn payload(&mut self) -> &mut [u8] {
        let start = self.queue.payload_at(self.index).as_ptr();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, self.queue.payload) }
    }

    /// Lets `serve` have the request and the way back, which lie in the same memory: the bytes of the request must not be looked at
    /// once there is an answer.
    pub(super) fn with_request(self, serve: impl FnOnce(&Parts<'_>, Self)) {
        let (queue, index, payload) = (Arc::clone(&self.queue), self.index, self.queue.payload);
        // SAFETY: the memory lives as long as the queue, which is held here. It is written to by who answers, and after that by the
        // kernel, and nobody who is lent it looks at it then.
        let (headers, bytes) = unsafe {
            let bytes = std::slice::from_raw_parts(queue.payload_at(index).as_ptr(), payload);
            (queue.at(index).cast::<[u8; HEADER_BYTES]>().as_ref(), bytes)
        };
        if let Ok(parts) = wire::of_ring(headers, bytes) {
            serve(&parts, self);
        }
    }
}

impl Entry {
    /// Bytes that an answer can have.
    pub(in crate::fuse) fn room(&self) -> usize {
        self.queue.payload
    }

    /// The kernel's number for what is asked, and [`Parts::bytes`].
    pub(super) fn size(&self) -> (u32, usize) {
        let parts = wire::of_ring(self.headers(), self.payload_ref());
        parts.map_or((0, 0), |parts| (parts.header.opcode, parts.bytes()))
    }

    /// Whether the kernel writes back what it had in its cache.
    fn is_write_back(&self) -> bool {
        let parts = wire::of_ring(self.headers(), self.payload_ref());
        parts.is_ok_and(|parts| parts.is_write_back())
    }

    /// Whether the request may wait for the kernel: half of the entries stay for what that waits for.
    pub(in crate::fuse) fn may_wait(&mut self) -> bool {
        if !self.waits {
            let most = self.queue.count / 2;
            let more = |waiting| (waiting < most).then_some(waiting + 1);
            self.waits = self.queue.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok();
        }
        self.waits
    }

    /// Answers with bytes.
    pub(in crate::fuse) fn answer(&mut self, error: i32, body: &[u8]) {
        match self.payload().get_mut(..body.len()) {
            Some(room) => {
                room.copy_from_slice(body);
                self.commit(error, body.len());
            }
            None => {
                log::error!("an answer of {} bytes is too long", body.len());
                self.commit(-libc::EIO, 0);
            }
        }
    }

    /// Answers with bytes that are at the start of the payload already.
    pub(in crate::fuse) fn answer_in_place(&mut self, len: usize) {
        self.commit(0, len);
    }

    fn commit(&mut self, error: i32, len: usize) {
        if std::mem::replace(&mut self.is_answered, true) {
            return;
        }
        let number = self.number;
        wire::put_answer(self.headers_mut(), number, error, len);
        if std::mem::take(&mut self.waits) {
            self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        self.queue.give_back(self.index, number);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.commit(-libc::EIO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(queue: &Arc<Queue>, index: usize) -> Entry {
        let number = index as u64 * 2 + 2;
        Entry { queue: Arc::clone(queue), index, number, waits: false, is_answered: false }
    }

    /// Takes what was answered: the entry, and the kernel's number, of each.
    fn take_answered(queue: &Queue) -> Vec<(usize, u64)> {
        queue.answered.lock().drain(..).map(|one| (one.index, one.commit_id)).collect()
    }

    #[test]
    fn half_of_the_entries_are_never_held_by_what_waits_for_the_kernel() {
        let queue = Arc::new(Queue::new(0, 8, PAGE).unwrap());
        let mut held: Vec<Entry> = (0..8).map(|index| entry(&queue, index)).collect();
        let may: Vec<bool> = held.iter_mut().map(Entry::may_wait).collect();
        assert_eq!(may, [true, true, true, true, false, false, false, false]);
        // It is asked once more by one that waits already.
        assert!(held[0].may_wait());
        held[0].answer(0, b"x");
        assert!(held[7].may_wait());
        assert!(!held[6].may_wait());
        drop(held);
        assert_eq!(queue.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn each_request_is_answered_once_and_one_that_nobody_answers_eio() {
        let queue = Arc::new(Queue::new(0, 2, PAGE).unwrap());
        let mut one = entry(&queue, 0);
        one.answer(0, b"bytes");
        one.answer(-libc::ENOENT, &[]);
        drop(one);
        drop(entry(&queue, 1));
        assert_eq!(take_answered(&queue), [(0, 2), (1, 4)]);
        let mut seen = entry(&queue, 0);
        assert_eq!((&seen.headers()[4..8], &seen.payload_ref()[..5]), (&[0u8; 4][..], &b"bytes"[..]));
        seen.is_answered = true;
        let mut seen = entry(&queue, 1);
        assert_eq!(seen.headers()[4..8], (-libc::EIO).to_ne_bytes());
        seen.is_answered = true;
    }

    /// What cannot be read has a caller, too.
    #[test]
    fn what_makes_no_sense_is_answered() {
        let queue = Arc::new(Queue::new(0, 1, PAGE).unwrap());
        let mut one = entry(&queue, 0);
        let headers = one.headers_mut();
        headers[264..272].copy_from_slice(&77u64.to_ne_bytes());
        headers[272..276].copy_from_slice(&(PAGE as u32 + 1).to_ne_bytes());
        one.is_answered = true;
        drop(one);
        assert!(Entry::received(&queue, 0).is_err());
        assert_eq!(take_answered(&queue), [(0, 77)]);
        let mut seen = entry(&queue, 0);
        assert_eq!(seen.headers()[4..8], (-libc::EIO).to_ne_bytes());
        seen.is_answered = true;
    }

    #[test]
    fn an_answer_that_is_too_long_is_an_error() {
        let queue = Arc::new(Queue::new(0, 1, PAGE).unwrap());
        let mut one = entry(&queue, 0);
        one.answer(0, &[1; PAGE + 1]);
        assert_eq!(one.headers()[4..8], (-libc::EIO).to_ne_bytes());
    }
}
