//! Requests and replies of the file system, independent of any transport.

use crate::meta::{Inode, Kind, ROOT_INO, Timestamp, XattrBits};
use crate::open_store::nothing_is_held;
use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// Attributes as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// File type.
    pub kind: Kind,
    /// Permission bits (07777).
    pub permissions: u16,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Size in bytes; of a directory, the number of its entries.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Tells inodes apart that have one number, one after the other. 0 where the kernel has no use for it.
    pub generation: u32,
}

impl Attr {
    pub(super) fn of(inode: &Inode) -> Self {
        Self {
            ino: inode.ino,
            kind: inode.kind(),
            permissions: (inode.mode & 0o7777) as u16,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: inode.size,
            blocks: inode.blocks * 8,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            generation: 0,
        }
    }

    /// The generation of a node of a view with this `salt`, which a file handle holds for as long as somebody keeps it: never
    /// to be computed in another way.
    ///
    /// A power cut takes back inode numbers that were given out, and so does a new mount those of views. The time of birth is
    /// another one then, or the salt. The root is there as long as the volume, and the kernel wants a 0 for it.
    pub(super) fn generation_in(&self, salt: u64) -> u32 {
        let born =
            (self.btime.sec as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(self.btime.nsec));
        let born = if self.ino == ROOT_INO { 0 } else { born };
        // Fibonacci hashing: the upper half depends on all bits.
        ((born ^ salt.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Thread id, 0 if the kernel itself asks.
    pub pid: u32,
}

/// What decides whether a caller's changes leave an inode its set-user-ID and set-group-ID. By default they do not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rights {
    /// The caller is privileged. The protocol does not tell capabilities; root is taken to have them all.
    pub(super) is_root: bool,
    /// A group that the caller is in, which is that of the inode.
    group: Option<u32>,
}

impl Rights {
    /// Of the superuser.
    pub(super) const ROOT: Self = Self { is_root: true, group: None };

    /// Whether the caller is in `group`, or privileged.
    pub(super) fn is_in_group(self, group: u32) -> bool {
        self.is_root || self.group == Some(group)
    }
}

thread_local! {
    static LOOKUPS: Cell<u64> = const { Cell::new(0) };
}

impl Caller {
    /// The superuser.
    pub const ROOT: Self = Self { uid: 0, gid: 0, pid: 0 };

    /// What the ids are in requests of a kernel that allows id-mapped mounts, unless they make something.
    const UNTOLD: u32 = u32::MAX;

    /// The caller with its ids, from /proc where the request does not tell them. Somebody in a process namespace that
    /// cannot be looked into keeps ids that nobody has, and so no privileges.
    fn told(self) -> Self {
        if self.uid != Self::UNTOLD {
            return self;
        }
        let status = self.status();
        // Real, effective, saved and file-system id.
        let id = |field: &str| {
            let ids = status.lines().find_map(|line| line.strip_prefix(field))?;
            ids.split_whitespace().nth(3)?.parse().ok()
        };
        Self {
            uid: id("Uid:").unwrap_or(Self::UNTOLD),
            gid: id("Gid:").unwrap_or(Self::UNTOLD),
            pid: self.pid,
        }
    }

    /// What the kernel says of the caller's process. That can take long: on a busy machine, or because the process is just being
    /// looked at by others.
    fn status(self) -> String {
        nothing_is_held();
        LOOKUPS.set(LOOKUPS.get() + 1);
        std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default()
    }

    /// How often this thread has looked into /proc for a caller.
    pub fn lookups() -> u64 {
        LOOKUPS.get()
    }

    /// Whether the caller is root. Not to be asked while the metadata are held.
    pub(super) fn is_root(self) -> bool {
        self.told().uid == 0
    }

    /// The caller's rights to an inode, where they decide about something. The protocol tells only the first group of a caller; the
    /// others are in /proc. So this is not to be asked while the metadata are held.
    pub(super) fn rights(self, inode: &Inode) -> Rights {
        if privileges(inode) == 0 {
            return Rights::default();
        }
        let told = self.told();
        if told.uid == 0 {
            return Rights::ROOT;
        }
        let is_in_group = || {
            let status = self.status();
            let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
            groups.split_whitespace().any(|id| id.parse() == Ok(inode.gid))
        };
        let has_group = inode.mode & libc::S_ISGID != 0 && (told.gid == inode.gid || is_in_group());
        Rights { is_root: false, group: has_group.then_some(inode.gid) }
    }
}

/// Set-user-ID and set-group-ID, as far as an inode has them.
pub(super) fn privileges(inode: &Inode) -> u32 {
    inode.mode & (libc::S_ISUID | libc::S_ISGID)
}

/// A new time of access or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// The time of the request.
    Now,
    /// This time.
    To(Timestamp),
}

/// When reading changes the time of last access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtimeMode {
    /// When it is not newer than the last change, or a day old (mount(8), `relatime`).
    #[default]
    Relative,
    /// Always.
    Strict,
    /// Never.
    Off,
}

/// How far what was synced is to have come when the sync returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// To the disk of this host.
    #[default]
    Local,
    /// To the store's remote as well, if it has one.
    Remote,
}

/// How a volume is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsOptions {
    /// When reading changes the time of last access.
    pub atime: AtimeMode,
    /// Whether listing a directory never does.
    pub no_dir_atime: bool,
    /// Refuse all changes.
    pub read_only: bool,
    /// A change of names is durable before it is answered.
    pub sync_names: bool,
    /// Cookies of listings fit 31 bits, and counts of blocks 32, as programs of 32 bits want them.
    pub compat32: bool,
    /// How far syncs reach.
    pub durability: Durability,
}

impl FsOptions {
    /// The new time of last access of an inode that is read now, if it changes.
    pub(super) fn new_atime(&self, inode: &Inode) -> Option<Timestamp> {
        const DAY: i64 = 24 * 60 * 60;
        let never = self.read_only || inode.xattrs.has(XattrBits::NO_ATIME);
        if never || self.atime == AtimeMode::Off || (self.no_dir_atime && inode.is_dir()) {
            return None;
        }
        // What is stamped with is asked for only where something is: that takes two system calls, and most reads stamp nothing.
        let is_stale = || {
            inode.atime <= inode.mtime
                || inode.atime <= inode.ctime
                || Timestamp::last_tick().sec.saturating_sub(inode.atime.sec) >= DAY
        };
        (self.atime == AtimeMode::Strict || is_stale()).then(Timestamp::now)
    }
}
