//! Mutations of attributes and extended attributes.

use super::super::charge;
use super::super::error::{Refusal, Result};
use super::super::mutation::{AttrChange, Outcome};
use super::super::types::{Ino, Inode, Timestamp, XATTR_SPACE_MAX, XattrBits};
use super::super::xattr;
use super::Applier;

const CAPABILITY: &[u8] = b"security.capability";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

impl Applier<'_> {
    pub(super) fn set_attr(&mut self, ino: Ino, change: &AttrChange) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        self.begin_writing();
        self.change_attr(&mut inode, change)?;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    /// Changes `inode`, which the caller stores.
    pub(super) fn change_attr(&mut self, inode: &mut Inode, change: &AttrChange) -> Result<()> {
        if let Some(permissions) = change.permissions {
            inode.mode = (inode.mode & !0o7777) | (permissions & 0o7777);
        }
        inode.uid = change.uid.unwrap_or(inode.uid);
        inode.gid = change.gid.unwrap_or(inode.gid);
        inode.atime = change.atime.unwrap_or(inode.atime);
        inode.mtime = change.mtime.unwrap_or(inode.mtime);
        inode.ctime = change.ctime.unwrap_or(inode.ctime);
        if change.drop_capability && inode.xattrs.has(XattrBits::CAPABILITY) {
            self.drop_xattr(inode.ino, CAPABILITY)?;
            self.count_xattrs(inode)?;
        }
        if let Some(acl) = &change.access_acl {
            self.put_xattr(inode.ino, ACCESS_ACL, acl)?;
            self.count_xattrs(inode)?;
        }
        Ok(())
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        attr: &AttrChange,
    ) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        let others = xattr::lengths(self.db, &self.head.lineage, ino)?;
        let taken: usize =
            others.iter().filter(|(n, _)| n != name).map(|(n, value)| n.len() + 1 + value).sum();
        if taken + name.len() + 1 + value.len() > XATTR_SPACE_MAX {
            return Err(Refusal::XattrSpace.into());
        }
        let before = xattr::counted(self.db, &self.head.lineage, ino, name)?;
        self.metadata_must_fit(charge::xattr(name.len(), value.len()), before)?;

        self.begin_writing();
        self.put_xattr(ino, name, value)?;
        inode.xattrs.0 |= XattrBits::ANY | XattrBits::of_name(name);
        self.change_attr(&mut inode, attr)?;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &[u8], time: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        if xattr::get(self.db, &self.head.lineage, ino, name)?.is_none() {
            return Err(Refusal::NoXattr.into());
        }

        self.begin_writing();
        self.drop_xattr(ino, name)?;
        self.uncount_xattr(&mut inode, name)?;
        inode.ctime = time;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    pub(super) fn drop_xattr_and(&mut self, ino: Ino, name: &[u8], attr: &AttrChange) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        let exists = xattr::get(self.db, &self.head.lineage, ino, name)?.is_some();

        self.begin_writing();
        if exists {
            self.drop_xattr(ino, name)?;
            // Of one of which nothing will be left, nobody asks. Whiteouts can be many.
            if !self.head.reaping_xattrs.contains_key(&ino) {
                self.uncount_xattr(&mut inode, name)?;
            }
        }
        self.change_attr(&mut inode, attr)?;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    pub(super) fn set_flags(&mut self, ino: Ino, flags: u8, time: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        self.begin_writing();
        inode.xattrs = XattrBits(inode.xattrs.attributes() | (flags & XattrBits::FLAGS));
        inode.ctime = time;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    pub(super) fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        xattr::put(self.db, &self.head.lineage, &mut self.head.usage, ino, (name, value))
    }

    fn drop_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        xattr::remove(self.db, &self.head.lineage, &mut self.head.usage, ino, name)
    }

    /// What an inode says of its attributes, after one of them is gone. Not all of them are looked at.
    fn uncount_xattr(&mut self, inode: &mut Inode, name: &[u8]) -> Result<()> {
        inode.xattrs.0 &= !XattrBits::of_name(name);
        if !xattr::has_any(self.db, &self.head.lineage, inode.ino)? {
            inode.xattrs = XattrBits(inode.xattrs.flags());
        }
        Ok(())
    }

    fn count_xattrs(&mut self, inode: &mut Inode) -> Result<()> {
        inode.xattrs = XattrBits(inode.xattrs.flags());
        for (name, _) in xattr::lengths(self.db, &self.head.lineage, inode.ino)? {
            inode.xattrs.0 |= XattrBits::ANY | XattrBits::of_name(&name);
        }
        Ok(())
    }
}
