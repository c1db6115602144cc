//! The values of the metadata model.

use super::error::{MetaError, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An inode number. Never used twice within a store, unless a power cut takes back the first time.
pub type Ino = u64;
/// A generation number.
pub type Gen = u64;
/// A volume's number within its store.
pub type VolumeId = u64;

/// The root directory of every volume.
pub const ROOT_INO: Ino = 1;
/// Longest name in a directory, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (PATH_MAX without its NUL).
pub const TARGET_MAX: usize = 4095;
/// Most links an inode can have.
pub const LINK_MAX: u32 = i32::MAX as u32;
/// Largest file, in bytes: 16 TiB.
pub const FILE_MAX: u64 = 1 << 44;
/// Blocks in a chunk.
pub const CHUNK_BLOCKS: u32 = 256;
/// What the extended attributes of an inode may take, in bytes of names and values: the most listxattr(2) can say.
pub const XATTR_SPACE_MAX: usize = 64 * 1024;

/// A point in time, to the nanosecond, as far back and forth as the kernel can name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999, counted forwards also before 1970.
    pub nsec: u32,
}

impl Timestamp {
    /// The time that the kernel stamps files with now, which is up to a tick of its clock earlier than the time of day.
    pub fn now() -> Self {
        let (sec, nsec) = super::clock::now();
        Self { sec, nsec }
    }

    /// The time of the last tick of the kernel's clock, which is never later than [`Timestamp::now`], and cheaper.
    pub fn last_tick() -> Self {
        let (sec, nsec) = super::clock::coarse();
        Self { sec, nsec }
    }

    /// Seconds since 1970; 0 for earlier times.
    pub fn seconds(self) -> u64 {
        u64::try_from(self.sec).unwrap_or(0)
    }
}

/// File types, with the values of `st_mode >> 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl Kind {
    /// The type in the upper bits of a `st_mode`, if it is one.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Self::of_number(i64::from(mode >> 12))
    }

    pub(super) fn of_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The bits it has in a `st_mode`.
    pub fn mode_bits(self) -> u32 {
        u32::from(self as u8) << 12
    }
}

/// Which kinds of extended attributes an inode has, kept so that most questions need no look; and its flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrBits(pub u8);

impl XattrBits {
    /// Any at all.
    pub const ANY: u8 = 1;
    /// `security.capability`.
    pub const CAPABILITY: u8 = 2;
    /// `system.posix_acl_access`.
    pub const ACCESS_ACL: u8 = 4;
    /// `system.posix_acl_default`.
    pub const DEFAULT_ACL: u8 = 8;
    /// Nothing of it can be changed (`chattr +i`).
    pub const IMMUTABLE: u8 = 16;
    /// Its contents can only grow; of a directory: no name can be taken away (`chattr +a`).
    pub const APPEND_ONLY: u8 = 32;
    /// Programs that make backups are to pass it over (`chattr +d`).
    pub const NO_DUMP: u8 = 64;
    /// Reading it changes no time of access (`chattr +A`).
    pub const NO_ATIME: u8 = 128;
    /// Those that are no attributes.
    pub const FLAGS: u8 = Self::IMMUTABLE | Self::APPEND_ONLY | Self::NO_DUMP | Self::NO_ATIME;

    /// The bit that belongs to the attribute `name`, beside [`Self::ANY`].
    pub fn of_name(name: &[u8]) -> u8 {
        match name {
            b"security.capability" => Self::CAPABILITY,
            b"system.posix_acl_access" => Self::ACCESS_ACL,
            b"system.posix_acl_default" => Self::DEFAULT_ACL,
            _ => 0,
        }
    }

    /// Whether any of `bits` is set.
    pub fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// The flags alone.
    pub fn flags(self) -> u8 {
        self.0 & Self::FLAGS
    }

    /// What says which attributes there are, alone.
    pub fn attributes(self) -> u8 {
        self.0 & !Self::FLAGS
    }
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// File type and permissions, as `st_mode`.
    pub mode: u32,
    /// Links; 0 makes it an orphan.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Size in bytes; entries, of a directory.
    pub size: u64,
    /// Allocated blocks of 4 KiB.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// The directory a directory is in; 0 for all else.
    pub parent: Ino,
    /// Its extended attributes, in short, and its flags.
    pub xattrs: XattrBits,
    /// Where a symbolic link points.
    pub target: Option<Arc<[u8]>>,
}

impl Inode {
    /// The root directory of a new volume, with these permissions, owned by root.
    pub fn root(permissions: u32, created: Timestamp) -> Self {
        Self {
            ino: ROOT_INO,
            mode: Kind::Directory.mode_bits() | permissions,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: created,
            mtime: created,
            ctime: created,
            btime: created,
            parent: ROOT_INO,
            xattrs: XattrBits(0),
            target: None,
        }
    }

    /// The file type. Rows with none are refused when they are read.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode).unwrap_or(Kind::Regular)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == Kind::Directory
    }
}

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dentry {
    /// Its place in the directory: where readdir goes on behind it.
    pub hash: u64,
    /// Its name.
    pub name: Box<[u8]>,
    /// What it names.
    pub ino: Ino,
    /// The type of that.
    pub kind: Kind,
}

/// What a volume uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks of 4 KiB in use.
    pub blocks: u64,
    /// Inodes in use, the root included.
    pub inodes: u64,
    /// Bytes of metadata (`docs/format.md` says what counts). 0: of a volume or snapshot of an earlier version, not counted yet.
    pub metadata: u64,
}

impl Usage {
    /// Takes away from the metadata.
    pub(super) fn less_metadata(&mut self, bytes: u64) -> Result<()> {
        let wrong = || MetaError::damaged("a volume counts less metadata than it has");
        self.metadata = self.metadata.checked_sub(bytes).ok_or_else(wrong)?;
        Ok(())
    }
}

/// Limits of a volume; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Blocks of 4 KiB.
    pub blocks: Option<u64>,
    /// Inodes, the root included.
    pub inodes: Option<u64>,
    /// Bytes of metadata.
    pub metadata: Option<u64>,
}
