//! Extended attributes; see xattr(7).

use super::acl::{self, Acl};
use super::flags::must_be_free;
use super::types::{Caller, Rights};
use super::{Fs, FsError, Ino, Kind, Privileges, Result};
use crate::meta::{
    AttrChange, Inode, Meta, Mutation, NAME_MAX, Timestamp, XATTR_SPACE_MAX, XattrBits, XattrLook,
};
use crate::open_store::OpenStore;
use std::sync::atomic::{AtomicU8, Ordering};

/// The capabilities of a file.
const CAPABILITY: &[u8] = b"security.capability";
/// The label of SELinux.
const SELINUX: &[u8] = b"security.selinux";

/// Whether a volume has labels of SELinux.
///
/// `ls -l` asks each file for its label, and FUSE keeps no answers. Told that the file system does not support labels, it
/// asks once. That is what is said as long as nobody has set one. (Where SELinux is in force, the kernel answers itself.)
#[derive(Debug, Default)]
pub(super) struct Labels {
    state: AtomicU8,
}

impl Labels {
    const UNKNOWN: u8 = 0;
    const NONE: u8 = 1;
    const SOME: u8 = 2;

    /// Nothing may be held: it can take several looks.
    fn are_there(&self, store: &OpenStore) -> Result<bool> {
        let mut look = XattrLook::default();
        while self.state.load(Ordering::Acquire) == Self::UNKNOWN {
            let Some(found) = store.meta().may_have_xattr(SELINUX, &mut look)? else { continue };
            let found = if found { Self::SOME } else { Self::NONE };
            let _ = self.state.compare_exchange(Self::UNKNOWN, found, Ordering::AcqRel, Ordering::Acquire);
        }
        Ok(self.state.load(Ordering::Acquire) == Self::SOME)
    }

    fn come(&self) {
        self.state.store(Self::SOME, Ordering::Release);
    }
}

/// What setxattr does with an attribute that exists, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrFlags {
    /// Fail if it exists: `XATTR_CREATE`.
    pub create: bool,
    /// Fail unless it exists: `XATTR_REPLACE`.
    pub replace: bool,
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::Range);
    }
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    match [b"user.".as_slice(), b"trusted.", b"security."]
        .iter()
        .find(|namespace| name.starts_with(namespace))
    {
        Some(namespace) if name.len() > namespace.len() => Ok(()),
        Some(_) => Err(FsError::Invalid),
        None => Err(FsError::NotSupported),
    }
}

impl Fs {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoXattr`, `NotSupported` for an unknown namespace and for a label of SELinux if the volume has none, `NotFound`,
    /// `Io`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        if self.hides(name) {
            return Err(FsError::NoXattr);
        }
        if name == SELINUX && !self.labels.are_there(&self.store)? {
            return Err(FsError::NotSupported);
        }
        let mut meta = self.store.meta();
        if !meta.inode(self.volume, ino)?.xattrs.has(XattrBits::ANY) {
            return Err(FsError::NoXattr);
        }
        Ok(meta.xattr(self.volume, ino, name)?)
    }

    fn hides(&self, name: &[u8]) -> bool {
        self.privileges == Privileges::Hidden && name == CAPABILITY
    }

    /// The names of all extended attributes, each with a NUL behind it. `trusted` ones are shown to root only.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn listxattr(&self, ino: Ino, caller: Caller) -> Result<Vec<u8>> {
        let mut names = {
            let mut meta = self.store.meta();
            if !meta.inode(self.volume, ino)?.xattrs.has(XattrBits::ANY) {
                return Ok(Vec::new());
            }
            meta.xattr_names(self.volume, ino)?
        };
        let is_trusted = |name: &[u8]| name.starts_with(b"trusted.");
        let hides_trusted = names.iter().any(|name| is_trusted(name)) && !caller.is_root();
        names.retain(|name| !(self.hides(name) || hides_trusted && is_trusted(name)));
        Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Sets an extended attribute. An ACL changes the permissions with it.
    ///
    /// # Errors
    /// As setxattr(2).
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
        caller: Caller,
    ) -> Result<()> {
        check_name(name)?;
        if value.len() > XATTR_SPACE_MAX {
            return Err(FsError::TooBig);
        }
        self.begin_change()?;
        let (mut meta, inode, rights) = self.hold_for(ino, caller, |_| name == acl::ACCESS)?;
        must_be_free(&inode)?;
        let exists = match meta.xattr(self.volume, ino, name).map_err(FsError::from) {
            Ok(_) => true,
            Err(FsError::NoXattr) => false,
            Err(e) => return Err(e),
        };
        if flags.create && exists {
            return Err(FsError::Exists);
        }
        if flags.replace && !exists {
            return Err(FsError::NoXattr);
        }
        let mut attr = AttrChange { ctime: Some(Timestamp::now()), ..AttrChange::default() };
        if name == acl::ACCESS || name == acl::DEFAULT {
            let Some(list) = checked_acl(&inode, name, value)? else {
                return if exists { self.remove_locked(&mut meta, ino, name) } else { Ok(()) };
            };
            if name == acl::ACCESS {
                attr.permissions = Some(acl_permissions(&inode, &list, rights));
                if list.is_minimal() {
                    // Permission bits say it all.
                    let mutation = Mutation::DropXattr { ino, name: name.into(), attr };
                    return self.change(&mut meta, &mutation).map(|_| ());
                }
            }
        }
        if name == SELINUX {
            self.labels.come();
        }
        let mutation = Mutation::SetXattr { ino, name: name.into(), value: value.to_vec(), attr };
        self.change(&mut meta, &mutation).map(|_| ())
    }

    /// Removes an extended attribute. An ACL need not be there.
    ///
    /// # Errors
    /// As removexattr(2).
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.begin_change()?;
        let mut meta = self.store.meta();
        if self.store.may_have_flags() {
            must_be_free(&meta.inode(self.volume, ino)?)?;
        }
        match self.remove_locked(&mut meta, ino, name) {
            // To take away an ACL that is not there is how one says that there is to be none.
            Err(FsError::NoXattr) if name == acl::ACCESS || name == acl::DEFAULT => Ok(()),
            other => other,
        }
    }

    fn remove_locked(&self, meta: &mut Meta, ino: Ino, name: &[u8]) -> Result<()> {
        let mutation = Mutation::RemoveXattr { ino, name: name.into(), time: Timestamp::now() };
        self.change(meta, &mutation).map(|_| ())
    }
}

/// The ACL in `value`; `None` for an empty one, which means to remove what is there.
fn checked_acl(inode: &Inode, name: &[u8], value: &[u8]) -> Result<Option<Acl>> {
    if inode.kind() == Kind::Symlink {
        return Err(FsError::NotSupported);
    }
    if name == acl::DEFAULT && inode.kind() != Kind::Directory {
        return Err(FsError::NotPermitted);
    }
    // A header without entries is an ACL that says nothing.
    if value.len() <= 4 {
        return Ok(None);
    }
    Acl::decode(value).map(Some).ok_or(FsError::Invalid)
}

/// The permissions of an inode that gets an access ACL. Set-group-ID goes if the caller is neither root nor in the
/// file's group.
fn acl_permissions(inode: &Inode, list: &Acl, rights: Rights) -> u32 {
    let mut permissions = (inode.mode & 0o7000) | list.permissions();
    if permissions & libc::S_ISGID != 0 && !rights.is_in_group(inode.gid) {
        permissions &= !libc::S_ISGID;
    }
    permissions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_namespaces_of_linux_are_taken() {
        for good in ["user.a", "trusted.overlay.opaque", "security.capability", "system.posix_acl_access"] {
            assert_eq!(check_name(good.as_bytes()), Ok(()), "{good}");
        }
        assert_eq!(check_name(b"user."), Err(FsError::Invalid));
        for bad in ["a", "system.nfs4_acl", "larder.x", ""] {
            assert_eq!(check_name(bad.as_bytes()), Err(FsError::NotSupported), "{bad}");
        }
        assert_eq!(check_name(&[b"user.".as_slice(), &[b'a'; 251]].concat()), Err(FsError::Range));
    }
}
