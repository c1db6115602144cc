//! Notifications: what the server tells the kernel unasked.

use super::abi::{
    InvalEntryOut, InvalInodeOut, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NOTIFY_RESEND, OutHeader,
};
use zerocopy::IntoBytes;

fn message(code: i32, parts: &[&[u8]]) -> Vec<u8> {
    let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = OutHeader { len: len as u32, error: code, unique: 0 };
    [&[header.as_bytes()], parts].concat().concat()
}

/// The kernel is to drop what it keeps of a node: attributes, and pages from `offset` on, after writing them back. A
/// negative offset: attributes only.
pub(in crate::fuse) fn inval_inode(node: u64, offset: i64, len: i64) -> Vec<u8> {
    message(NOTIFY_INVAL_INODE, &[InvalInodeOut { ino: node, off: offset, len }.as_bytes()])
}

/// The kernel is to forget a name.
pub(in crate::fuse) fn inval_entry(parent: u64, name: &[u8]) -> Vec<u8> {
    let entry = InvalEntryOut { parent, namelen: name.len() as u32, flags: 0 };
    message(NOTIFY_INVAL_ENTRY, &[entry.as_bytes(), name, &[0]])
}

/// The kernel is to give all requests again that were taken and not answered. Linux 6.9 and later.
pub(in crate::fuse) fn resend() -> Vec<u8> {
    message(NOTIFY_RESEND, &[])
}
