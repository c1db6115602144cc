//! Answers as values, and the way back that each transport gives them.

use super::task::Task;
use crate::fs::{Attr, Entry, FsError, Node, SpaceStat};
use nix::errno::Errno;
use std::cell::RefCell;
use std::time::Duration;

/// How long the kernel may keep names and attributes: for good. All changes of a volume pass through its one mount.
pub(super) const TTL: Duration = Duration::from_secs(u32::MAX as u64);

/// How long the kernel may keep what it knows of the directory with the snapshots: they come and go by other ways.
pub(super) const SNAPSHOTS_TTL: Duration = Duration::ZERO;

thread_local! {
    /// Where contents are read to. Kept, because fresh memory costs more than the request that asks for it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// A node that the kernel learns of, and has to forget.
    Entry {
        attr: Attr,
        ttl: Duration,
    },
    /// There is no such name, and the kernel may remember that.
    NoEntry {
        ttl: Duration,
    },
    Attr {
        attr: Attr,
        ttl: Duration,
    },
    /// As `Attr`, for statx(2).
    Statx {
        attr: Attr,
        ttl: Duration,
    },
    /// A new file, and open.
    Created {
        attr: Attr,
    },
    /// An open file whose pages the kernel keeps.
    Opened,
    /// An open directory whose entries the kernel keeps.
    OpenedDir,
    Bytes(Vec<u8>),
    /// Bytes there would be.
    Size(u32),
    /// Bytes that were written.
    Written(u32),
    Space(SpaceStat),
    Offset(u64),
    /// What an ioctl gives.
    Ioctl(Vec<u8>),
}

/// An entry of a directory as the kernel is told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed<'a> {
    pub(super) node: Node,
    pub(super) entry: &'a Entry,
    /// Of the node. Of `.` and `..`, the kernel only looks at number and type.
    pub(super) attr: Option<Attr>,
    pub(super) ttl: Duration,
}

/// Gives entries to `add`, in groups that go together, until that has no room for all of a group. It says how many it took.
pub(super) type List<'a> = &'a mut dyn FnMut(&mut dyn FnMut(&[Listed<'_>]) -> usize) -> Result<(), FsError>;

/// Fills a buffer and says how far.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<usize, FsError>;

/// The way back to one caller. It is used once; one that is dropped leaves the caller waiting.
pub(super) trait Reply: Sized + Send + 'static {
    /// Sends the answer.
    fn send(self, answer: Result<Answer, Errno>);

    /// Sends some of the bytes at the start of a buffer.
    fn send_bytes(self, bytes: &[u8]);

    /// Lets `fill` fill a buffer of `size` bytes and sends what it has filled. If it says [`FsError::WouldWait`]
    /// or [`FsError::Away`], nothing is sent, and the reply comes back.
    fn fill(self, size: usize, fill: Fill<'_>) -> Option<Self> {
        with_buffer(size, |buffer| {
            match fill(buffer) {
                Ok(count) => self.send_bytes(&buffer[..count]),
                Err(FsError::WouldWait | FsError::Away) => return Some(self),
                Err(e) => self.send(Err(errno(e))),
            }
            None
        })
    }

    /// Another thread goes on with the request: what that one is to begin. Until it does, nobody works on it.
    fn hand_on(&mut self) -> Option<Task> {
        None
    }

    /// Somebody works on the request until it is answered, while the thread that took it takes others.
    fn leave_in_hand(&mut self) {}

    /// Nobody works on the request any more until it is answered, and it does no harm when it comes again: nothing has to be remembered for
    /// that. What is known of who made it.
    fn put_aside(&mut self) -> Option<Task> {
        self.hand_on()
    }

    /// Whether the request may wait for something that the kernel does first. Otherwise it is to be answered without: too many do,
    /// and what they wait for could not get here.
    fn may_wait_for_kernel(&mut self) -> bool {
        true
    }

    /// Whether the answer may be kept back for a while. One that others would have to wait for is not.
    fn may_be_slowed(&mut self) -> bool {
        self.may_wait_for_kernel()
    }

    /// Sends a listing of at most `size` bytes.
    fn list(self, size: usize, plus: bool, list: List<'_>);
}

/// Lends this thread's buffer of `size` bytes.
pub(super) fn with_buffer<T>(size: usize, borrow: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        borrow(&mut buffer[..size])
    })
}

/// Gives back the memory of this thread's buffer, until it is next lent.
pub(super) fn give_back_buffer() {
    BUFFER.take();
}

pub(super) fn errno(e: FsError) -> Errno {
    Errno::from_raw(e.errno())
}
