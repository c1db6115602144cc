//! Open files that come with messages of a socket.

use nix::sys::socket::{CmsgIterator, ControlMessageOwned};
use std::os::fd::{FromRawFd, OwnedFd};

/// The files that came with a message.
#[expect(unsafe_code, reason = "received descriptors come as bare numbers")]
pub(super) fn passed_files(messages: CmsgIterator<'_>) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    for message in messages {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    files
}
