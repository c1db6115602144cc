//! Asynchronous writes as io_submit(2) makes them, for which no crate at hand has a wrapper.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes at an address that direct I/O takes.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, len }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// `struct iocb` of `<linux/aio_abi.h>` on little-endian machines.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A queue of writes.
pub struct Queue(libc::c_ulong);

impl Queue {
    /// A queue of at most `depth` writes at a time.
    pub fn new(depth: u32) -> Self {
        let mut context: libc::c_ulong = 0;
        #[expect(unsafe_code, reason = "glibc has no io_setup")]
        // SAFETY: it fills in the context.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        Self(context)
    }

    /// Begins to write. The file and the bytes have to stay until [`Queue::wait`] has returned for it.
    pub fn write(&self, file: &File, bytes: &mut Aligned, offset: usize) {
        const PWRITE: u16 = 1;
        let bytes = bytes.bytes();
        let request = Request {
            opcode: PWRITE,
            fd: file.as_raw_fd() as u32,
            buffer: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
            offset: offset as i64,
            ..Request::default()
        };
        let list = [&raw const request];
        #[expect(unsafe_code, reason = "glibc has no io_submit")]
        // SAFETY: the kernel copies the request; the bytes stay, as said above.
        let begun = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_ptr()) };
        assert_eq!(begun, 1, "{}", io::Error::last_os_error());
    }

    /// Waits until one write is done; returns what it would have returned.
    #[track_caller]
    pub fn wait(&self) -> i64 {
        let mut event = Event::default();
        let patience = libc::timespec { tv_sec: 60, tv_nsec: 0 };
        #[expect(unsafe_code, reason = "glibc has no io_getevents")]
        // SAFETY: there is room for the one event that it fills in at most.
        let found = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, &raw mut event, &raw const patience)
        };
        assert_eq!(found, 1, "a write hangs");
        event.result
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "glibc has no io_destroy")]
        // SAFETY: the context is this queue's.
        unsafe {
            libc::syscall(libc::SYS_io_destroy, self.0)
        };
    }
}
