//! The protocol, byte for byte. Nothing here reads or writes anything but memory.

mod abi;
mod decode;
mod encode;
mod init;
mod notify;
mod ring;

pub(super) use abi::{InHeader, OutHeader, UNIQUE_RESEND, opcode};
pub(super) use decode::{Decoded, Malformed, Parts, decode, parts};
pub(super) use encode::{Listing, with_bytes};
pub(super) use init::Offer;
pub(super) use notify::{inval_entry, inval_inode, resend};
pub(super) use ring::{HEADER_BYTES, command, commit_id, of_ring, put_answer};

#[cfg(feature = "fuzzing")]
pub(crate) use decode::fuzzed;
