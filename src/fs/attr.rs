//! getattr and setattr.

use super::acl::Acl;
use super::types::{Attr, Caller, TimeChange};
use super::{Fs, FsError, Ino, Kind, Result, Timestamp};
use crate::meta::{AttrChange, Inode, Meta, Mutation, XattrBits};

/// A request to change attributes. `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last change of contents.
    pub mtime: Option<TimeChange>,
    /// Last change of anything, which only a kernel that keeps times itself sets.
    pub ctime: Option<Timestamp>,
    /// These are times that the kernel has kept of writes to a file, and nothing else.
    pub is_kept_times: bool,
}

/// The permissions without what a change of contents or owner by `caller` takes away: set-user-ID, and set-group-ID
/// unless the file's group may not execute it (the bit then means mandatory locking) and the caller is privileged or in
/// that group. See chown(2), write(2), and `setattr_should_drop_sgid` in the kernel.
pub(super) fn without_privileges(inode: &Inode, caller: Caller) -> u32 {
    let mut permissions = inode.mode & 0o7777 & !libc::S_ISUID;
    let keeps_group = inode.mode & libc::S_IXGRP == 0;
    if permissions & libc::S_ISGID != 0 && !(keeps_group && caller.is_in_group(inode.gid)) {
        permissions &= !libc::S_ISGID;
    }
    permissions
}

/// The change that takes privileges away when the contents of a file change. `killer` is who changes them, if it is
/// somebody whose writes take set-user-ID and set-group-ID away. A file capability always goes.
pub(super) fn kill_privileges(inode: &Inode, killer: Option<Caller>) -> AttrChange {
    let stripped = killer.map(|caller| without_privileges(inode, caller));
    AttrChange {
        permissions: stripped.filter(|stripped| *stripped != inode.mode & 0o7777),
        drop_capability: inode.xattrs.has(XattrBits::CAPABILITY),
        ..AttrChange::default()
    }
}

/// The same for a change by `caller`, whose rights are looked up only where something depends on them.
pub(super) fn kill_privileges_of(inode: &Inode, caller: Caller) -> AttrChange {
    let any = inode.mode & (libc::S_ISUID | libc::S_ISGID) != 0;
    kill_privileges(inode, if any { caller.unprivileged() } else { None })
}

impl Fs {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let attr = self.attr(&self.store.meta().inode(self.volume, ino)?);
        self.nodes.told(ino);
        Ok(attr)
    }

    /// Inodes whose allocated blocks have changed since the kernel was last told of their attributes. It keeps
    /// attributes for good, and does not notice this change by itself while a file stays open.
    pub fn take_changed(&self) -> Vec<Ino> {
        self.nodes.take_changed()
    }

    /// Changes attributes and returns the new ones.
    ///
    /// # Errors
    /// As chmod(2), chown(2), truncate(2), utimensat(2).
    pub fn setattr(&self, ino: Ino, set: &SetAttr, caller: Caller) -> Result<Attr> {
        if let Some(mut resizing) = Self::resizing(ino, set, caller) {
            loop {
                if let Some(attr) = self.resize_some(&mut resizing)? {
                    return Ok(attr);
                }
            }
        }
        self.begin_change()?;
        let mut meta = self.store.meta();
        let inode = meta.inode(self.volume, ino)?;
        self.may_set_attr(&inode, set)?;
        let change = self.attr_change(&mut meta, &inode, set, caller)?;
        self.change(&mut meta, &Mutation::SetAttr { ino, change })?;
        // Not counted as telling the kernel: when it only brings its own times here, it does not look at the reply.
        Ok(self.attr(&meta.inode(self.volume, ino)?))
    }

    /// The change of everything in `set` but the size.
    pub(super) fn attr_change(
        &self,
        meta: &mut Meta,
        inode: &Inode,
        set: &SetAttr,
        caller: Caller,
    ) -> Result<AttrChange> {
        let now = Timestamp::now();
        let time = |change: TimeChange| match change {
            TimeChange::Now => now,
            TimeChange::To(time) => time,
        };
        let mut change = AttrChange {
            permissions: set.permissions.map(|p| p & 0o7777),
            uid: set.uid,
            gid: set.gid,
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
            ctime: Some(set.ctime.unwrap_or(now)),
            ..AttrChange::default()
        };
        // A request without any field (a kernel that keeps times itself adds the time) is how the kernel says that
        // privileges go.
        let kill = SetAttr { ctime: None, ..*set } == SetAttr::default();
        if (set.uid.is_some() || set.gid.is_some() || kill) && inode.kind() != Kind::Directory {
            change.drop_capability = inode.xattrs.has(XattrBits::CAPABILITY);
            if change.permissions.is_none() && inode.kind() == Kind::Regular {
                let stripped = without_privileges(inode, caller);
                change.permissions = (stripped != inode.mode & 0o7777).then_some(stripped);
            }
        }
        if let Some(permissions) = change.permissions
            && inode.xattrs.has(XattrBits::ACCESS_ACL)
        {
            let bytes = meta.xattr(self.volume, inode.ino, super::acl::ACCESS)?;
            let mut acl = Acl::decode(&bytes).ok_or(FsError::Io)?;
            acl.chmod(permissions);
            change.access_acl = Some(acl.encode());
        }
        Ok(change)
    }
}
