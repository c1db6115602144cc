//! An entry of a queue: the memory through which one request comes and its answer goes.

use super::super::negotiation::MAX_WRITE_BYTES;
use super::super::wire::{InHeader, OutHeader, Parts};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Room for what a request carries, or its answer: the kernel wants the largest write to fit.
const PAYLOAD_BYTES: usize = MAX_WRITE_BYTES as usize;

/// `struct fuse_uring_req_header` of `<linux/fuse.h>`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Header {
    /// The header of the request, and then of the answer.
    in_out: [u8; 128],
    /// The structure that belongs to the kind of request.
    op_in: [u8; 128],
    flags: u64,
    commit_id: u64,
    payload_bytes: u32,
    padding: u32,
    reserved: u64,
}

/// The memory of an entry. Whoever has the value may look at it and change it; while the kernel has the entry, nobody
/// else has (see `Ring`).
pub(super) struct Entry {
    /// Its place in its queue.
    index: usize,
    header: Box<Header>,
    payload: Vec<u8>,
}

impl Entry {
    pub(super) fn new(index: usize) -> Self {
        // Pages of the payload come into being when they are first used.
        Self { index, header: Box::new(Header::new_zeroed()), payload: vec![0; PAYLOAD_BYTES] }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Where the kernel is to put things.
    pub(super) fn areas(&mut self) -> [libc::iovec; 2] {
        let header: *mut Header = &raw mut *self.header;
        [
            libc::iovec { iov_base: header.cast(), iov_len: size_of::<Header>() },
            libc::iovec { iov_base: self.payload.as_mut_ptr().cast(), iov_len: self.payload.len() },
        ]
    }

    /// By what the kernel knows the request.
    pub(super) fn commit_id(&self) -> u64 {
        self.header.commit_id
    }

    /// The request.
    pub(super) fn parts(&self) -> Parts<'_> {
        let header = InHeader::read_from_prefix(&self.header.in_out);
        let len = (self.header.payload_bytes as usize).min(self.payload.len());
        Parts {
            // 40 of 128 bytes: there is always enough.
            header: header.map_or_else(|_| InHeader::new_zeroed(), |(header, _)| header),
            args: &self.header.op_in,
            rest: &self.payload[..len],
        }
    }

    /// Room for the answer.
    pub(super) fn payload(&mut self) -> &mut [u8] {
        &mut self.payload
    }

    /// Completes an answer of which `len` bytes are in the payload already.
    pub(super) fn answer(&mut self, unique: u64, error: i32, len: usize) {
        let out = OutHeader { len: (size_of::<OutHeader>() + len) as u32, error, unique };
        self.header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        self.header.payload_bytes = len as u32;
    }
}
