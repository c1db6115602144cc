//! Flags of inodes (`chattr +i`, `+a`, `+d`, `+A`), and what they forbid: what ext4 and the kernel's checks for it forbid.
//!
//! The kernel looks at flags only where it has them, and FUSE has no way to give it any. So everything that they forbid is
//! refused here; what the kernel does without asking (it writes to its cache) is refused when it comes here. That the
//! caller may change the two that forbid something, the kernel has checked (`fileattr_set_prepare`: `CAP_LINUX_IMMUTABLE`).

use super::attr::SetAttr;
use super::types::TimeChange;
use super::{Fs, FsError, Ino, Kind, Result, Wait};
use crate::meta::{Inode, Meta, Mutation, Timestamp, XattrBits};

/// Flags of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeFlags(u8);

impl InodeFlags {
    /// Nothing of it can be changed.
    pub const IMMUTABLE: Self = Self(XattrBits::IMMUTABLE);
    /// Its contents can only grow.
    pub const APPEND_ONLY: Self = Self(XattrBits::APPEND_ONLY);
    /// Not to be backed up.
    pub const NO_DUMP: Self = Self(XattrBits::NO_DUMP);
    /// Reading it changes no time of access.
    pub const NO_ATIME: Self = Self(XattrBits::NO_ATIME);

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether they forbid anything.
    pub fn forbid(self) -> bool {
        self.0 & (XattrBits::IMMUTABLE | XattrBits::APPEND_ONLY) != 0
    }
}

fn allow(forbidden: bool) -> Result<()> {
    if forbidden { Err(FsError::NotPermitted) } else { Ok(()) }
}

/// Whether an inode's attributes may be changed, or the names that it has.
pub(super) fn must_be_free(inode: &Inode) -> Result<()> {
    allow(inode.xattrs.has(XattrBits::IMMUTABLE | XattrBits::APPEND_ONLY))
}

/// Whether a directory may get a name.
pub(super) fn must_take_names(directory: &Inode) -> Result<()> {
    allow(directory.is_dir() && directory.xattrs.has(XattrBits::IMMUTABLE))
}

/// Whether contents may be changed at all.
pub(super) fn must_take_contents(inode: &Inode) -> Result<()> {
    allow(inode.xattrs.has(XattrBits::IMMUTABLE))
}

/// Whether contents that are there may be changed.
pub(super) fn must_take_any_contents(inode: &Inode) -> Result<()> {
    must_be_free(inode)
}

impl Fs {
    /// The flags of an inode.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn flags(&self, ino: Ino) -> Result<InodeFlags> {
        Ok(InodeFlags(self.store.meta().inode(self.volume, ino)?.xattrs.flags()))
    }

    /// Changes the flags of a regular file or a directory. Whether the caller may is not asked.
    ///
    /// # Errors
    /// `NotSupported` for anything else, `ReadOnly`, `NotFound`, `Io`.
    pub fn set_flags(&self, ino: Ino, flags: InodeFlags) -> Result<()> {
        if self.flags(ino)? == flags {
            return Ok(());
        }
        self.begin_change()?;
        if !matches!(self.store.meta().inode(self.volume, ino)?.kind(), Kind::Regular | Kind::Directory) {
            return Err(FsError::NotSupported);
        }
        if flags != InodeFlags::default() && !self.store.may_have_flags() {
            self.store.begin_flags().map_err(|e| {
                log::error!("cannot note that there are flags of inodes: {e}");
                FsError::Io
            })?;
        }
        // Nobody is in the middle of a change that was allowed before.
        let _order = self.locks.alone(ino);
        let mutation = Mutation::SetFlags { ino, flags: flags.0, time: Timestamp::now() };
        self.change(&mut self.store.meta(), &mutation).map(|_| ())
    }

    /// Whether any inode of the family may have flags. Most families have none, and need not look for them.
    pub fn may_have_flags(&self) -> bool {
        self.store.may_have_flags()
    }

    /// Whether a file may be opened for writing, by `append` at its end only.
    ///
    /// # Errors
    /// `NotPermitted` if not; as the metadata.
    pub fn may_open_for_writing(&self, ino: Ino, append: bool) -> Result<()> {
        let inode = self.store.meta().inode(self.volume, ino)?;
        must_take_contents(&inode)?;
        allow(!append && inode.xattrs.has(XattrBits::APPEND_ONLY))
    }

    /// Whether `set` may be done to an inode. What the kernel brings to a file of which it keeps the times was done before.
    pub(super) fn may_set_attr(&self, inode: &Inode, set: &SetAttr) -> Result<()> {
        if set.is_kept_times || !inode.xattrs.has(XattrBits::FLAGS) {
            return Ok(());
        }
        must_take_contents(inode)?;
        // A kernel that keeps times brings the present one as if somebody had chosen it; then it is that of the change, too.
        let is_chosen = |time: Option<TimeChange>| match time {
            Some(TimeChange::To(time)) => set.ctime != Some(time),
            Some(TimeChange::Now) | None => false,
        };
        let changes =
            set.permissions.is_some() || set.uid.is_some() || set.gid.is_some() || set.size.is_some();
        let sets_times = matches!(set.atime, Some(TimeChange::To(_))) || is_chosen(set.mtime);
        allow(inode.xattrs.has(XattrBits::APPEND_ONLY) && (changes || sets_times))
    }

    /// Whether names may go from one directory to another, or away: `to` is where the first goes, or nowhere.
    pub(super) fn may_move(
        &self,
        meta: &mut Meta,
        from: (Ino, &[u8]),
        to: Option<(Ino, &[u8])>,
    ) -> Result<()> {
        if !self.store.may_have_flags() {
            return Ok(());
        }
        // What is not there is found out by who moves it.
        let Ok(moved) = meta.lookup(self.volume, from.0, from.1) else { return Ok(()) };
        let replaced = to.and_then(|(parent, name)| meta.lookup(self.volume, parent, name).ok());
        if replaced.as_ref().is_some_and(|replaced| replaced.ino == moved.ino) {
            return Ok(());
        }
        must_be_free(&meta.inode(self.volume, from.0)?)?;
        must_be_free(&moved)?;
        let Some((parent, _)) = to else { return Ok(()) };
        let parent = meta.inode(self.volume, parent)?;
        match replaced {
            Some(replaced) => must_be_free(&parent).and_then(|()| must_be_free(&replaced)),
            None => must_take_names(&parent),
        }
    }

    /// Whether `data` may be written at `offset` to a file that only grows: where it has bytes already, if they are these, or
    /// zero. The kernel writes whole pages, and not in the order in which a program did: when the end of a long piece comes
    /// first, what is before it reads as zeros until it comes.
    pub(super) fn must_only_append(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        let mut present = vec![0; data.len()];
        let count = self.read(ino, offset, &mut present, Wait::Yes)?;
        allow(present[..count].iter().zip(data).any(|(present, new)| *present != 0 && present != new))
    }

    /// Whether a write to the file has to look at what is there.
    pub(super) fn is_append_only(&self, ino: Ino) -> bool {
        self.store.may_have_flags() && self.flags(ino).is_ok_and(|flags| flags.has(InodeFlags::APPEND_ONLY))
    }
}
