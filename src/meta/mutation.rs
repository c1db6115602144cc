//! Every change of a volume, as a value.
//!
//! [`super::Meta::apply`] is the one function that carries them out. A mutation holds all that the change needs (new
//! inode numbers, addresses, times), so that applying the same values to the same state gives the same state: that is
//! what a redo log replays, and what the tests compare. What one request asks for is one mutation: a server can be killed between
//! any two.

use super::types::{Ino, Timestamp};
use super::xattr::Xattr;
use crate::store::BlockAddr;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRef {
    /// The directory.
    pub parent: Ino,
    /// The name, valid by [`super::valid_name`].
    pub name: Box<[u8]>,
}

impl NameRef {
    /// `name` in `parent`.
    pub fn new(parent: Ino, name: &[u8]) -> Self {
        Self { parent, name: name.into() }
    }
}

/// A new inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInode {
    /// Its number, from [`super::Meta::next_ino`].
    pub ino: Ino,
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Where a symbolic link points.
    pub target: Option<Arc<[u8]>>,
    /// Extended attributes it is born with (inherited ACLs).
    pub xattrs: Vec<Xattr>,
}

/// What a rename does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it, as rename(2).
    Replace,
    /// Fail: `RENAME_NOREPLACE`.
    NoReplace,
    /// Swap the two: `RENAME_EXCHANGE`.
    Exchange,
}

/// New attributes; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits (07777); the file type never changes.
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of contents.
    pub mtime: Option<Timestamp>,
    /// Last change of anything.
    pub ctime: Option<Timestamp>,
    /// Remove `security.capability`, as a change of owner or contents must.
    pub drop_capability: bool,
    /// A new access ACL, when the permissions change one.
    pub access_acl: Option<Vec<u8>>,
}

/// What blocks of a file become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapTo {
    /// Blocks that were just written, from this address on.
    Data(BlockAddr),
    /// Live blocks from this address on, with a reference more.
    Shared(BlockAddr),
    /// A hole.
    Hole,
    /// Reserved where they are holes, else unchanged.
    Reserved,
    /// Reserved, whatever they are.
    Zero,
}

/// A run of file blocks and what they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRun {
    /// First block of the file.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
    /// What they become.
    pub to: MapTo,
}

/// A change of a file's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    /// What happens to its blocks, in this order.
    pub runs: Vec<MapRun>,
    /// Its new size in bytes.
    pub size: Option<u64>,
    /// Attributes that change with the contents.
    pub attr: AttrChange,
}

/// A change of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// Make an inode with one name.
    Make {
        /// Where.
        at: NameRef,
        /// What.
        inode: NewInode,
        /// When.
        time: Timestamp,
    },
    /// Give an inode another name.
    Link {
        /// The inode, which is no directory.
        ino: Ino,
        /// The new name.
        at: NameRef,
        /// When.
        time: Timestamp,
    },
    /// Remove the name of anything but a directory. Without links left, the inode becomes an orphan.
    Unlink {
        /// The name.
        at: NameRef,
        /// When.
        time: Timestamp,
    },
    /// Remove an empty directory; it becomes an orphan.
    Rmdir {
        /// The name.
        at: NameRef,
        /// When.
        time: Timestamp,
    },
    /// Rename.
    Rename {
        /// The old name.
        from: NameRef,
        /// The new name.
        to: NameRef,
        /// What happens to the new name if it exists.
        mode: RenameMode,
        /// When.
        time: Timestamp,
    },
    /// Change attributes.
    SetAttr {
        /// The inode.
        ino: Ino,
        /// The new attributes.
        change: AttrChange,
    },
    /// Change the contents of a regular file.
    Remap {
        /// The inode.
        ino: Ino,
        /// What changes.
        remap: Remap,
    },
    /// Set an extended attribute.
    SetXattr {
        /// The inode.
        ino: Ino,
        /// Name of the attribute.
        name: Box<[u8]>,
        /// Its value.
        value: Vec<u8>,
        /// Other attributes that change with it.
        attr: AttrChange,
    },
    /// Remove an extended attribute.
    RemoveXattr {
        /// The inode.
        ino: Ino,
        /// Name of the attribute.
        name: Box<[u8]>,
        /// When.
        time: Timestamp,
    },
    /// Free up to `chunks` chunks of an orphan, and the orphan itself after the last one.
    Reap {
        /// The orphan.
        ino: Ino,
        /// How much to free at once.
        chunks: u32,
    },
    /// Remove an extended attribute, if it is there, and change others with it.
    DropXattr {
        /// The inode.
        ino: Ino,
        /// Name of the attribute.
        name: Box<[u8]>,
        /// What else changes.
        attr: AttrChange,
    },
    /// Make a file without a name, an orphan from its birth: `O_TMPFILE`.
    MakeUnnamed {
        /// The directory that it is made in, and takes its group and ACLs from.
        parent: Ino,
        /// What; a regular file.
        inode: NewInode,
        /// When.
        time: Timestamp,
    },
    /// Give an orphan a name: linkat(2) of an open file that was made without one.
    LinkUnnamed {
        /// The inode, of which nothing was freed yet.
        ino: Ino,
        /// The name.
        at: NameRef,
        /// When.
        time: Timestamp,
    },
    /// Rename, and leave a whiteout where the old name was: `RENAME_WHITEOUT`.
    RenameWhiteout {
        /// The old name.
        from: NameRef,
        /// The new name.
        to: NameRef,
        /// Fail if the new name exists.
        no_replace: bool,
        /// What gets the old name.
        whiteout: NewInode,
        /// When.
        time: Timestamp,
    },
    /// Change the flags of an inode.
    SetFlags {
        /// The inode.
        ino: Ino,
        /// All of them, as in [`super::XattrBits::FLAGS`].
        flags: u8,
        /// When.
        time: Timestamp,
    },
}

impl Mutation {
    /// Whether it may make what is stored grow without end, if it is done again and again. What removes something does not,
    /// nor what changes something that is there: also on a full disk, there is room kept for it.
    pub fn takes_room(&self) -> bool {
        match self {
            Self::Make { .. }
            | Self::MakeUnnamed { .. }
            | Self::Link { .. }
            | Self::LinkUnnamed { .. }
            | Self::RenameWhiteout { .. }
            | Self::SetXattr { .. } => true,
            Self::Remap { remap, .. } => remap.takes_room(),
            Self::Unlink { .. }
            | Self::Rmdir { .. }
            | Self::Rename { .. }
            | Self::SetAttr { .. }
            | Self::SetFlags { .. }
            | Self::RemoveXattr { .. }
            | Self::DropXattr { .. }
            | Self::Reap { .. } => false,
        }
    }
}

impl Remap {
    /// Making a hole does not take room, also if blocks at its ends are written anew.
    fn takes_room(&self) -> bool {
        const ENDS: u64 = 2;
        let is_hole = |run: &&MapRun| run.to == MapTo::Hole;
        let holes: u64 = self.runs.iter().filter(is_hole).map(|run| run.count).sum();
        let others: u64 = self.runs.iter().filter(|run| !is_hole(run)).map(|run| run.count).sum();
        others > if holes > 0 { ENDS } else { 0 }
    }
}

/// What a mutation led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// An inode that lost its last name.
    pub orphan: Option<Ino>,
    /// Of [`Mutation::Reap`]: the inode still has chunks.
    pub unfinished: bool,
    /// Of [`Mutation::Remap`]: by how many blocks the file has grown, or shrunk.
    pub gained: i64,
}
