//! Between the values of `fuser` and those of the file system.

use crate::fs::{Attr, Kind, Timestamp};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn file_type(kind: Kind) -> fuser::FileType {
    match kind {
        Kind::Fifo => fuser::FileType::NamedPipe,
        Kind::CharDevice => fuser::FileType::CharDevice,
        Kind::Directory => fuser::FileType::Directory,
        Kind::BlockDevice => fuser::FileType::BlockDevice,
        Kind::Regular => fuser::FileType::RegularFile,
        Kind::Symlink => fuser::FileType::Symlink,
        Kind::Socket => fuser::FileType::Socket,
    }
}

/// A time of the file system for a reply.
pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let base = if time.sec >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(time.nsec)))).unwrap_or(UNIX_EPOCH)
}

/// A time of a request. For times before 1970, fuser 0.18 subtracts the nanoseconds that it should add
/// (`system_time_from_time`); this turns its value back into what the kernel sent.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let signed = |secs: u64| i64::try_from(secs).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { sec: signed(since.as_secs()), nsec: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { sec: -signed(before.as_secs()), nsec: before.subsec_nanos() }
        }
    }
}

pub(super) fn file_attr(attr: &Attr) -> fuser::FileAttr {
    fuser::FileAttr {
        ino: fuser::INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.permissions,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The reply to a lookup of a name that is not there: the kernel may remember that too.
pub(super) fn negative_attr() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: fuser::INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_carry_times_before_1970() {
        let time = Timestamp { sec: -2, nsec: 800_000_000 };
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::from_millis(1200));
        assert_eq!(system_time(Timestamp { sec: 5, nsec: 7 }), UNIX_EPOCH + Duration::new(5, 7));
    }

    #[test]
    fn requests_undo_what_fuser_does_to_times_before_1970() {
        // The kernel sends (-2, 200_000_000) for 1.8 s before 1970; fuser makes 2.2 s of it.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 200_000_000);
        assert_eq!(timestamp(from_fuser), Timestamp { sec: -2, nsec: 200_000_000 });
        assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(3)), Timestamp { sec: -3, nsec: 0 });
        assert_eq!(timestamp(UNIX_EPOCH + Duration::new(9, 1)), Timestamp { sec: 9, nsec: 1 });
    }
}
