//! Operations on names: lookup, make, link, unlink, rmdir, rename, readlink.

use super::acl::Acl;
use super::flags::{must_be_free, must_take_names};
use super::types::{Attr, Caller};
use super::{Fs, FsError, Ino, Kind, RenameMode, Result};
use crate::meta::{
    AttrChange, Inode, Meta, Mutation, NAME_MAX, NameRef, NewInode, TARGET_MAX, Timestamp, Xattr, XattrBits,
    valid_name,
};
use std::sync::Arc;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// File type.
    pub kind: Kind,
    /// Permission bits (07777) as asked for, before the umask.
    pub permissions: u32,
    /// The caller's umask; ignored where the directory has a default ACL.
    pub umask: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Where a symbolic link points.
    pub target: Option<&'a [u8]>,
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if valid_name(name) { Ok(()) } else { Err(FsError::Invalid) }
}

impl Fs {
    /// What `name` in `parent` stands for. The kernel counts the reply; see [`Fs::forget`].
    ///
    /// # Errors
    /// `NotFound`, `NameTooLong`, `Io`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        let mut meta = self.store.meta();
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        let inode = match name {
            // For file handles; the kernel resolves all others itself.
            b"." => {
                let inode = meta.inode(self.volume, parent)?;
                // What is being freed is not there any more.
                if inode.nlink == 0 && !self.nodes.is_orphan(parent) {
                    return Err(FsError::NotFound);
                }
                inode
            }
            b".." => {
                let up = meta.inode(self.volume, parent)?.parent;
                meta.inode(self.volume, up)?
            }
            _ => meta.lookup(self.volume, parent, name)?,
        };
        Ok(self.known(&inode))
    }

    /// Makes an inode with the name `name` in `parent`. The kernel counts the reply; see [`Fs::forget`].
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the directory is gone), `NotDirectory`, `NoSpace`, `NameTooLong`, `Invalid`,
    /// `TooManyLinks`, `ReadOnly`, `Io`.
    pub fn make(&self, parent: Ino, name: &[u8], node: &NewNode<'_>, caller: Caller) -> Result<Attr> {
        check_name(name)?;
        if node.target.is_some_and(|target| target.len() > TARGET_MAX) {
            return Err(FsError::NameTooLong);
        }
        self.begin_change()?;
        let mut meta = self.store.meta();
        let directory = self.taking_names(&mut meta, parent)?;
        let inode = self.new_inode(&mut meta, &directory, node, caller)?;
        let (at, ino) = (NameRef::new(parent, name), inode.ino);
        self.change(&mut meta, &Mutation::Make { at, inode, time: Timestamp::now() })?;
        let inode = meta.inode(self.volume, ino)?;
        Ok(self.known(&inode))
    }

    /// Makes a regular file that has no name (`O_TMPFILE`). It lives as long as the kernel knows it, or gets a name by
    /// [`Fs::link`]. The kernel counts the reply; see [`Fs::forget`].
    ///
    /// # Errors
    /// As [`Fs::make`].
    pub fn make_unnamed(&self, parent: Ino, permissions: u32, umask: u32, caller: Caller) -> Result<Attr> {
        self.begin_change()?;
        let mut meta = self.store.meta();
        let node = NewNode { kind: Kind::Regular, permissions, umask, rdev: 0, target: None };
        let directory = self.taking_names(&mut meta, parent)?;
        let inode = self.new_inode(&mut meta, &directory, &node, caller)?;
        let ino = inode.ino;
        self.change(&mut meta, &Mutation::MakeUnnamed { parent, inode, time: Timestamp::now() })?;
        // The reply counts first: an orphan that nobody knows is freed.
        let attr = self.known(&meta.inode(self.volume, ino)?);
        self.nodes.add_orphan(ino);
        Ok(attr)
    }

    /// A directory that takes new names.
    fn taking_names(&self, meta: &mut Meta, ino: Ino) -> Result<Inode> {
        let directory = meta.inode(self.volume, ino)?;
        if !directory.is_dir() {
            return Err(FsError::NotDirectory);
        }
        must_take_names(&directory)?;
        Ok(directory)
    }

    /// A new inode for a directory. Group, permissions and ACLs partly come from the directory: see inode(7) on set-group-ID
    /// directories and acl(5) on object creation.
    fn new_inode(
        &self,
        meta: &mut Meta,
        directory: &Inode,
        node: &NewNode<'_>,
        caller: Caller,
    ) -> Result<NewInode> {
        let ino = meta.next_ino();
        let mut permissions = node.permissions & 0o7777;
        let mut gid = caller.gid;
        if directory.mode & libc::S_ISGID != 0 {
            gid = directory.gid;
            if node.kind == Kind::Directory {
                permissions |= libc::S_ISGID;
            }
        }
        let mut xattrs: Vec<Xattr> = Vec::new();
        let inherits = node.kind != Kind::Symlink && directory.xattrs.has(XattrBits::DEFAULT_ACL);
        if inherits {
            let bytes = meta.xattr(self.volume, directory.ino, super::acl::DEFAULT)?;
            let mut acl = Acl::decode(&bytes).ok_or(FsError::Io)?;
            if node.kind == Kind::Directory {
                xattrs.push((super::acl::DEFAULT.to_vec(), bytes));
            }
            permissions = acl.inherit(permissions);
            if !acl.is_minimal() {
                xattrs.push((super::acl::ACCESS.to_vec(), acl.encode()));
            }
        } else if node.kind != Kind::Symlink {
            permissions &= !node.umask;
        }
        Ok(NewInode {
            ino,
            mode: node.kind.mode_bits() | permissions,
            uid: caller.uid,
            gid,
            rdev: if matches!(node.kind, Kind::CharDevice | Kind::BlockDevice) { node.rdev } else { 0 },
            target: node.target.map(Arc::from),
            xattrs,
        })
    }

    /// Gives an inode another name, or its first one to an orphan that the kernel knows (which knows those that may have
    /// one). The kernel counts the reply; see [`Fs::forget`].
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        self.begin_change()?;
        let mut meta = self.store.meta();
        if self.store.may_have_flags() {
            must_take_names(&meta.inode(self.volume, parent)?)?;
            must_be_free(&meta.inode(self.volume, ino)?)?;
        }
        let at = NameRef::new(parent, name);
        let time = Timestamp::now();
        // What is an orphan here is not being freed: that begins under this hold of the metadata.
        let is_unnamed = self.nodes.is_orphan(ino);
        let mutation = match is_unnamed {
            true => Mutation::LinkUnnamed { ino, at, time },
            false => Mutation::Link { ino, at, time },
        };
        match self.change(&mut meta, &mutation) {
            Err(FsError::IsDirectory) => return Err(FsError::NotPermitted),
            other => other?,
        };
        if is_unnamed {
            self.nodes.take_orphan(ino);
        }
        let inode = meta.inode(self.volume, ino)?;
        Ok(self.known(&inode))
    }

    /// Removes the name of anything but a directory.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |at, time| Mutation::Unlink { at, time })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |at, time| Mutation::Rmdir { at, time })
    }

    fn remove(
        &self,
        parent: Ino,
        name: &[u8],
        mutation: impl FnOnce(NameRef, super::Timestamp) -> Mutation,
    ) -> Result<()> {
        check_name(name)?;
        self.begin_change()?;
        let mut meta = self.store.meta();
        self.may_move(&mut meta, (parent, name), None)?;
        self.change(&mut meta, &mutation(NameRef::new(parent, name), Timestamp::now())).map(|_| ())
    }

    /// Renames; see rename(2) and renameat2(2).
    ///
    /// # Errors
    /// As renameat2(2).
    pub fn rename(
        &self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        self.begin_change()?;
        let mut meta = self.store.meta();
        self.may_move(&mut meta, (parent, name), Some((new_parent, new_name)))?;
        let mutation = Mutation::Rename {
            from: NameRef::new(parent, name),
            to: NameRef::new(new_parent, new_name),
            mode,
            time: Timestamp::now(),
        };
        self.change(&mut meta, &mutation).map(|_| ())
    }

    /// Renames, and leaves a whiteout in the place of the old name: a character device 0:0 without permissions, which belongs
    /// to `caller` (`RENAME_WHITEOUT`). What overlayfs does with it, its documentation says.
    ///
    /// # Errors
    /// As renameat2(2); `NoSpace` if there is no room for another inode.
    pub fn rename_leaving_whiteout(
        &self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        no_replace: bool,
        caller: Caller,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        self.begin_change()?;
        let mut meta = self.store.meta();
        self.may_move(&mut meta, (parent, name), Some((new_parent, new_name)))?;
        let node = NewNode { kind: Kind::CharDevice, permissions: 0, umask: 0, rdev: 0, target: None };
        // Whether it takes names is asked once there is one to be renamed.
        let directory = meta.inode(self.volume, parent)?;
        let whiteout = self.new_inode(&mut meta, &directory, &node, caller)?;
        let (from, to) = (NameRef::new(parent, name), NameRef::new(new_parent, new_name));
        let time = Timestamp::now();
        let mutation = Mutation::RenameWhiteout { from, to, no_replace, whiteout, time };
        self.change(&mut meta, &mutation).map(|_| ())
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// `Invalid` if it is none, `NotFound`, `Io`.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut meta = self.store.meta();
        let inode = meta.inode(self.volume, ino)?;
        self.accessed(&mut meta, &inode);
        inode.target.map(|target| target.to_vec()).ok_or(FsError::Invalid)
    }

    /// Notes that an inode was read, where the mount wants it. Reading goes on if that fails.
    pub(super) fn accessed(&self, meta: &mut Meta, inode: &Inode) {
        let atime = self.options.read().new_atime(inode);
        if let Some(atime) = atime {
            let change = AttrChange { atime: Some(atime), ..AttrChange::default() };
            let _ = self.change(meta, &Mutation::SetAttr { ino: inode.ino, change });
        }
    }
}
