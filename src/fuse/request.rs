//! Requests of the kernel as values, whatever brought them.

use crate::fs::{Caller, Node, SetAttr};

/// A request that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// What it is about: for operations on names, the directory.
    pub(super) node: Node,
    pub(super) caller: Caller,
    pub(super) op: Op<'a>,
}

/// What is asked for. Numbers that come from system calls (modes, flags) are as there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op<'a> {
    Lookup {
        name: &'a [u8],
    },
    GetAttr {
        /// Through an open file: the kernel does that before it takes a write, and nowhere else as long as it may keep
        /// attributes for good.
        by_writer: bool,
    },
    /// Attributes with the time of birth.
    Statx,
    SetAttr {
        set: SetAttr,
    },
    ReadLink,
    MakeNode {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    MakeDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Create {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    /// Make a file without a name, and open it.
    CreateUnnamed {
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RemoveDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: Node,
        new_name: &'a [u8],
        flags: u32,
    },
    /// `target` gets the name in the request's node.
    Link {
        target: Node,
        name: &'a [u8],
    },
    Open {
        flags: i32,
    },
    OpenDir,
    Read {
        offset: u64,
        size: u32,
        /// What is read does not get into the kernel's page cache.
        past_cache: bool,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        mode: WriteFlags,
    },
    Flush,
    Release,
    Sync,
    List {
        offset: u64,
        size: u32,
        plus: bool,
    },
    StatFs,
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Ioctl {
        cmd: u32,
        arg: u64,
        data: &'a [u8],
        out_size: u32,
    },
    Allocate {
        offset: u64,
        len: u64,
        mode: i32,
    },
    Seek {
        offset: i64,
        whence: i32,
    },
    CopyRange {
        offset: u64,
        target: Node,
        target_offset: u64,
        len: u64,
    },
}

impl Op<'_> {
    /// Whether it gives a name or takes one.
    pub(super) fn changes_names(&self) -> bool {
        matches!(
            self,
            Self::MakeNode { .. }
                | Self::MakeDir { .. }
                | Self::Symlink { .. }
                | Self::Create { .. }
                | Self::Unlink { .. }
                | Self::RemoveDir { .. }
                | Self::Rename { .. }
                | Self::Link { .. }
        )
    }

    /// Whether the kernel writes back what it has gathered.
    pub(super) fn is_write_back(&self) -> bool {
        matches!(self, Self::Write { mode: WriteFlags { from_cache: true, .. }, .. })
    }
}

/// How a write came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WriteFlags {
    /// The kernel writes back what it has gathered.
    pub(super) from_cache: bool,
    /// It takes set-user-ID and set-group-ID away.
    pub(super) kills_privileges: bool,
    /// The file was opened with `O_DIRECT`.
    pub(super) direct: bool,
    /// The kernel writes from the caller's memory, and has no page of its own locked for it.
    pub(super) past_cache: bool,
}
