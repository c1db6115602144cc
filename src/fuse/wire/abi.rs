//! The structures of `<linux/fuse.h>`, byte for byte, of protocol version 7 as of Linux 6.18 (7.45). All numbers are in the
//! machine's own order. Only what is used is here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version that is spoken.
pub(super) const MAJOR: u32 = 7;
/// The newest minor version that is known.
pub(super) const MINOR: u32 = 45;
/// The oldest that will do: from here on, INIT and everything else have the size they have here (Linux 3.15).
pub(super) const OLDEST_MINOR: u32 = 23;

/// Kinds of requests.
pub(in crate::fuse) mod opcode {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const FLUSH: u32 = 25;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
    pub(in crate::fuse) const STATX: u32 = 52;
}

/// Bits of `SetAttrIn::valid`.
pub(super) mod fattr {
    pub(in crate::fuse) const MODE: u32 = 1 << 0;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    /// The kernel does it to an open file.
    pub(in crate::fuse) const FH: u32 = 1 << 6;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse) const CTIME: u32 = 1 << 10;
}

/// The request is made through an open file.
pub(super) const GETATTR_FH: u32 = 1 << 0;

/// The pages come from the kernel's cache.
pub(super) const WRITE_CACHE: u32 = 1 << 0;
/// The write names an owner of locks.
pub(super) const WRITE_LOCKOWNER: u32 = 1 << 1;
/// The write takes set-user-ID and set-group-ID away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// The read names an owner of locks.
pub(super) const READ_LOCKOWNER: u32 = 1 << 1;

/// Bits of `OpenOut::open_flags`.
pub(super) const OPEN_KEEP_CACHE: u32 = 1 << 1;
pub(super) const OPEN_CACHE_DIR: u32 = 1 << 3;

/// Codes of notifications, which stand where an answer has its error.
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
pub(super) const NOTIFY_INVAL_ENTRY: i32 = 3;
pub(super) const NOTIFY_RESEND: i32 = 7;
/// Bit of a request's number: it was given to a server before.
pub(in crate::fuse) const UNIQUE_RESEND: u64 = 1 << 63;

/// What statx(2) calls the basic fields, and the time of birth.
pub(super) const STATX_BASIC_AND_BIRTH: u32 = 0xfff;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub(in crate::fuse) struct $name { $($(#[$note])* pub(in crate::fuse) $field: $type),* })*
    };
}

requests! {
    /// Before every request.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        /// Extensions, in units of 8 bytes; none are asked for.
        extensions: u16, padding: u16,
    }
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11] }
    ForgetIn { nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    GetAttrIn { flags: u32, dummy: u32, fh: u64 }
    StatxIn { flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    SetAttrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32, mode: u32, unused4: u32, uid: u32, gid: u32,
        unused5: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { new_dir: u64 }
    Rename2In { new_dir: u64, flags: u32, padding: u32 }
    LinkIn { old_node: u64 }
    OpenIn { flags: u32, open_flags: u32 }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: i32, padding: u32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    FsyncIn { fh: u64, flags: u32, padding: u32 }
    SetXattrIn { size: u32, flags: i32 }
    GetXattrIn { size: u32, padding: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: i32, padding: u32 }
    LseekIn { fh: u64, offset: i64, whence: i32, padding: u32 }
    CopyFileRangeIn {
        fh_in: u64, offset_in: u64, node_out: u64, fh_out: u64, offset_out: u64, len: u64, flags: u64,
    }
    /// Behind the headers of an entry of a ring (`struct fuse_uring_ent_in_out`); the same with a request and with its answer.
    RingInOut { flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64 }
    /// What a command of a ring says (`struct fuse_uring_cmd_req`).
    RingCommand { flags: u64, commit_id: u64, queue: u16, padding: [u8; 6] }
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable, KnownLayout)]
        pub(in crate::fuse) struct $name { $($(#[$note])* pub(in crate::fuse) $field: $type),* })*
    };
}

answers! {
    /// Before every answer and notification. `error` is 0 or a negative errno; `unique` is the request's.
    OutHeader { len: u32, error: i32, unique: u64 }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32,
        /// Granularity of times, in nanoseconds.
        time_gran: u32,
        max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32, request_timeout: u16,
        unused: [u16; 11],
    }
    AttrWire {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atime_nsec: u32,
        mtime_nsec: u32, ctime_nsec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32,
        flags: u32,
    }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: AttrWire,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: AttrWire }
    SxTime { sec: i64, nsec: u32, reserved: i32 }
    StatxOut {
        attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], mask: u32, blksize: u32,
        attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64, size: u64,
        blocks: u64, attributes_mask: u64, atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    CreateOut { entry: EntryOut, open: OpenOut }
    WriteOut { size: u32, padding: u32 }
    GetXattrOut { size: u32, padding: u32 }
    LseekOut { offset: u64 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    StatFsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    /// The name follows, and zeros up to a multiple of 8 bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    InvalInodeOut { ino: u64, off: i64, len: i64 }
    /// The name follows, and a NUL.
    InvalEntryOut { parent: u64, namelen: u32, flags: u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernels_header() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!((size_of::<InitIn>(), size_of::<InitOut>()), (64, 64));
        assert_eq!((size_of::<AttrWire>(), size_of::<EntryOut>(), size_of::<AttrOut>()), (88, 128, 104));
        assert_eq!((size_of::<SetAttrIn>(), size_of::<WriteIn>(), size_of::<ReadIn>()), (88, 40, 40));
        assert_eq!((size_of::<StatxIn>(), size_of::<StatxOut>()), (24, 288));
        assert_eq!((size_of::<CreateOut>(), size_of::<StatFsOut>()), (144, 80));
        assert_eq!((size_of::<RingInOut>(), size_of::<RingCommand>()), (32, 24));
        assert_eq!((size_of::<Dirent>(), size_of::<CopyFileRangeIn>()), (24, 56));
    }
}
