//! getattr and setattr.

use super::acl::Acl;
use super::types::{Attr, Caller, Rights, TimeChange, privileges};
use super::{Fs, FsError, Ino, Kind, Result, Timestamp};
use crate::meta::{AttrChange, Inode, Meta, Mutation, XattrBits};
use crate::open_store::MetaHold;

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
fn without_privileges(inode: &Inode, rights: Rights) -> u32 {
    let mut permissions = inode.mode & 0o7777 & !libc::S_ISUID;
    let keeps_group = inode.mode & libc::S_IXGRP == 0;
    if permissions & libc::S_ISGID != 0 && !(keeps_group && rights.is_in_group(inode.gid)) {
        permissions &= !libc::S_ISGID;
    }
    permissions
}

/// The change that takes privileges away when the contents of a file change. `killer` is who changes them, if it is
/// somebody whose writes take set-user-ID and set-group-ID away. A file capability always goes.
pub(super) fn kill_privileges(inode: &Inode, killer: Option<Rights>) -> AttrChange {
    let stripped = killer.map(|rights| without_privileges(inode, rights));
    AttrChange {
        permissions: stripped.filter(|stripped| *stripped != inode.mode & 0o7777),
        drop_capability: inode.xattrs.has(XattrBits::CAPABILITY),
        ..AttrChange::default()
    }
}

/// The same for a change by whoever has these rights.
pub(super) fn kill_privileges_of(inode: &Inode, rights: Rights) -> AttrChange {
    kill_privileges(inode, (!rights.is_root).then_some(rights))
}

/// Whether, by a change of attributes that is `set`, an inode loses privileges.
fn strips(inode: &Inode, set: &SetAttr) -> bool {
    // A request without any field (a kernel that keeps times itself adds the time) is how the kernel says that
    // privileges go.
    let kill = SetAttr { ctime: None, ..*set } == SetAttr::default();
    (set.uid.is_some() || set.gid.is_some() || kill) && inode.kind() != Kind::Directory
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

    /// Whether there is anything to tell the kernel: inodes whose blocks have changed, or files from which something is missing.
    pub fn has_news(&self) -> bool {
        self.nodes.has_changed() || !self.lossy_files().is_empty()
    }

    /// Calls `on_news` when there is, each time that there is more, from any thread.
    pub fn on_news(&self, on_news: Box<dyn Fn() + Send + Sync>) {
        self.nodes.on_change(on_news);
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
        let decides = |inode: &Inode| strips(inode, set) && set.permissions.is_none();
        let (mut meta, inode, rights) = self.hold_for(ino, caller, decides)?;
        self.may_set_attr(&inode, set)?;
        let change = self.attr_change(&mut meta, &inode, set, rights)?;
        self.change(&mut meta, &Mutation::SetAttr { ino, change })?;
        // Not counted as telling the kernel: when it only brings its own times here, it does not look at the reply.
        Ok(self.attr(&meta.inode(self.volume, ino)?))
    }

    /// A hold of the metadata, an inode, and a caller's rights to it where they decide about something: found out before.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub(super) fn hold_for(
        &self,
        ino: Ino,
        caller: Caller,
        decides: impl Fn(&Inode) -> bool,
    ) -> Result<(MetaHold<'_>, Inode, Rights)> {
        let mut known = None;
        loop {
            let mut meta = self.store.meta();
            let inode = meta.inode(self.volume, ino)?;
            // Others may change it before it is held again.
            let depends_on = (privileges(&inode), inode.gid);
            match known {
                Some((of, rights)) if of == depends_on => return Ok((meta, inode, rights)),
                _ if depends_on.0 == 0 || !decides(&inode) => return Ok((meta, inode, Rights::default())),
                _ => {}
            }
            drop(meta);
            known = Some((depends_on, caller.rights(&inode)));
        }
    }

    /// The change of everything in `set` but the size.
    pub(super) fn attr_change(
        &self,
        meta: &mut Meta,
        inode: &Inode,
        set: &SetAttr,
        rights: Rights,
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
        if strips(inode, set) {
            change.drop_capability = inode.xattrs.has(XattrBits::CAPABILITY);
            if change.permissions.is_none() && inode.kind() == Kind::Regular {
                let stripped = without_privileges(inode, rights);
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
