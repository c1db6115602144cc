//! Where a request is carried out: in the thread of its queue, which nobody has to wake, or elsewhere.
//!
//! All callers on a CPU wait for the thread of its queue. So what may take long, or waits for a disk by what it is, goes to threads
//! that only those wait for.

use crate::fuse::wire::opcode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Requests that move so many bytes go to threads of their own: a queue is served on the CPU of its callers, which want it to go on.
const LARGE_BYTES: usize = 128 << 10;
/// What took so long has waited for something.
const LONG: Duration = Duration::from_millis(10);

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the thread of the queue.
    Here,
    /// With those that move much.
    Large,
    /// With those that wait.
    Waiting,
    /// There as well, because others had to wait a moment ago.
    Behind,
}

/// What those who make changes wait for at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    /// Whoever changes names waits until that is on the disk (`sync`, `dirsync`).
    pub(super) names: bool,
    /// Whoever changes anything waits for a commit.
    pub(super) changes: bool,
}

fn changes_names(kind: u32) -> bool {
    use opcode::{CREATE, LINK, MKDIR, MKNOD, RENAME, RENAME2, RMDIR, SYMLINK, UNLINK};
    [CREATE, LINK, MKDIR, MKNOD, RENAME, RENAME2, RMDIR, SYMLINK, UNLINK].contains(&kind)
}

fn changes(kind: u32) -> bool {
    use opcode::{FALLOCATE, IOCTL, REMOVEXATTR, SETATTR, SETXATTR, TMPFILE, WRITE};
    changes_names(kind) || [FALLOCATE, IOCTL, REMOVEXATTR, SETATTR, SETXATTR, TMPFILE, WRITE].contains(&kind)
}

/// Where a request of a kind is carried out that moves so many bytes; `is_slow`: see [`Tempo`].
pub(super) fn place(kind: u32, bytes: usize, waits: Waits, is_slow: bool) -> Place {
    if bytes >= LARGE_BYTES {
        return Place::Large;
    }
    // Its contents are up to 4 GiB.
    let is_long = kind == opcode::COPY_FILE_RANGE;
    if is_long || (waits.names && changes_names(kind)) || (waits.changes && changes(kind)) {
        return Place::Waiting;
    }
    if is_slow { Place::Behind } else { Place::Here }
}

/// Whether what is usually quick is quick at the moment. When the disk under the metadata stands still, nobody can say so before: the
/// first who finds out waits in the thread of its queue; who comes after it does not, until things are quick again.
#[derive(Debug, Default)]
pub(super) struct Tempo(AtomicBool);

impl Tempo {
    pub(super) fn is_slow(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Something that is usually quick took so long.
    pub(super) fn note(&self, took: Duration) {
        let is_slow = took >= LONG;
        if is_slow != self.is_slow() {
            self.0.store(is_slow, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Waits = Waits { names: true, changes: false };
    const CHANGES: Waits = Waits { names: false, changes: true };

    #[test]
    fn what_is_small_and_waits_for_nothing_is_carried_out_where_it_came() {
        for kind in [opcode::LOOKUP, opcode::MKDIR, opcode::UNLINK, opcode::WRITE, opcode::SETATTR] {
            assert_eq!(place(kind, 4096, Waits::default(), false), Place::Here, "{kind}");
        }
        for waits in [NAMES, CHANGES] {
            for kind in [opcode::LOOKUP, opcode::GETATTR, opcode::READ, opcode::READDIR, opcode::FSYNC] {
                assert_eq!(place(kind, 4096, waits, false), Place::Here, "{kind}");
            }
        }
    }

    #[test]
    fn what_moves_much_keeps_nobody_waiting() {
        assert_eq!(place(opcode::WRITE, LARGE_BYTES, Waits::default(), false), Place::Large);
        assert_eq!(place(opcode::READ, LARGE_BYTES, CHANGES, true), Place::Large);
        assert_eq!(place(opcode::COPY_FILE_RANGE, 0, Waits::default(), false), Place::Waiting);
    }

    #[test]
    fn what_waits_for_a_disk_waits_elsewhere() {
        for kind in [opcode::MKDIR, opcode::CREATE, opcode::RENAME, opcode::RENAME2, opcode::UNLINK] {
            assert_eq!(place(kind, 10, NAMES, false), Place::Waiting, "{kind}");
            assert_eq!(place(kind, 10, CHANGES, false), Place::Waiting, "{kind}");
        }
        for kind in [opcode::WRITE, opcode::SETATTR, opcode::FALLOCATE, opcode::TMPFILE, opcode::SETXATTR] {
            assert_eq!(place(kind, 10, NAMES, false), Place::Here, "{kind}");
            assert_eq!(place(kind, 10, CHANGES, false), Place::Waiting, "{kind}");
        }
    }

    #[test]
    fn who_comes_after_one_that_had_to_wait_does_not_until_things_are_quick_again() {
        let tempo = Tempo::default();
        let lookup = || place(opcode::LOOKUP, 10, Waits::default(), tempo.is_slow());
        tempo.note(LONG / 2);
        assert_eq!(lookup(), Place::Here);
        tempo.note(LONG);
        assert_eq!(lookup(), Place::Behind);
        tempo.note(LONG / 2);
        assert_eq!(lookup(), Place::Here);
    }
}
