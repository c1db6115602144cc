//! Mutations of names: make, link, unlink, rmdir, rename.

use super::super::charge;
use super::super::dentry;
use super::super::error::{MetaError, Refusal, Result};
use super::super::mutation::{NameRef, NewInode, Outcome, RenameMode};
use super::super::types::{Ino, Inode, Kind, LINK_MAX, ROOT_INO, Timestamp, XattrBits};
use super::{Applier, touch};

impl Applier<'_> {
    fn find(&self, at: &NameRef) -> Result<Option<(Ino, Kind)>> {
        dentry::get(self.db, &self.head.lineage, at.parent, self.hash.of(&at.name), &at.name)
    }

    fn find_existing(&self, at: &NameRef) -> Result<(Ino, Kind)> {
        self.find(at)?.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    /// Adds a name that is not there.
    fn add_name(&mut self, at: &NameRef, to: (Ino, Kind)) -> Result<()> {
        let key = (at.parent, self.hash.of(&at.name), &at.name[..]);
        dentry::add(self.db, &self.head.lineage, &mut self.head.usage, key, to)
    }

    /// Changes what a name stands for that is there.
    fn change_name(&self, at: &NameRef, to: (Ino, Kind)) -> Result<()> {
        dentry::change(self.db, &self.head.lineage, at.parent, self.hash.of(&at.name), &at.name, to)
    }

    fn remove_name(&mut self, at: &NameRef) -> Result<()> {
        let key = (at.parent, self.hash.of(&at.name), &at.name[..]);
        dentry::remove(self.db, &self.head.lineage, &mut self.head.usage, key)
    }

    pub(super) fn make(&mut self, at: &NameRef, new: &NewInode, time: Timestamp) -> Result<Outcome> {
        let mut parent = self.directory(at.parent)?;
        let kind = Kind::of_mode(new.mode).ok_or(Refusal::Invalid)?;
        if self.find(at)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        if kind == Kind::Directory && parent.nlink >= LINK_MAX {
            return Err(Refusal::TooManyLinks.into());
        }
        if !self.head.inode_fits() {
            return Err(Refusal::NoInodes.into());
        }
        let is_dir = kind == Kind::Directory;
        let inode = new_inode(new, if is_dir { 2 } else { 1 }, at.parent, time);
        self.metadata_must_fit(charge_of(new, &inode) + charge::name(&at.name), 0)?;

        self.begin_writing();
        self.add_name(at, (new.ino, kind))?;
        self.insert(new, inode)?;
        parent.size += 1;
        parent.nlink += u32::from(is_dir);
        touch(&mut parent, time);
        self.put(parent)?;
        Ok(Outcome::default())
    }

    /// Adds a new inode. That it fits the limits was checked.
    fn insert(&mut self, new: &NewInode, inode: Inode) -> Result<()> {
        *self.next_ino = (*self.next_ino).max(new.ino + 1);
        for (name, value) in &new.xattrs {
            self.put_xattr(new.ino, name, value)?;
        }
        self.head.inodes.put_new(self.db, &self.head.lineage, &mut self.head.usage, inode)?;
        self.head.usage.inodes += 1;
        Ok(())
    }

    pub(super) fn make_unnamed(&mut self, parent: Ino, new: &NewInode, time: Timestamp) -> Result<Outcome> {
        self.directory(parent)?;
        if Kind::of_mode(new.mode) != Some(Kind::Regular) {
            return Err(Refusal::Invalid.into());
        }
        if !self.head.inode_fits() {
            return Err(Refusal::NoInodes.into());
        }
        let inode = new_inode(new, 0, parent, time);
        self.metadata_must_fit(charge_of(new, &inode), 0)?;

        self.begin_writing();
        self.insert(new, inode)?;
        self.head.orphans.insert(new.ino);
        Ok(Outcome::default())
    }

    pub(super) fn link(&mut self, ino: Ino, at: &NameRef, time: Timestamp) -> Result<Outcome> {
        self.directory(at.parent)?;
        let inode = self.inode(ino)?;
        // An orphan may be half reaped. Whoever knows that it is not says so.
        if inode.nlink == 0 && !inode.is_dir() {
            return Err(Refusal::NotFound.into());
        }
        self.add_link(inode, at, time)
    }

    pub(super) fn link_unnamed(&mut self, ino: Ino, at: &NameRef, time: Timestamp) -> Result<Outcome> {
        self.directory(at.parent)?;
        let mut inode = self.inode(ino)?;
        if inode.nlink != 0 || !self.head.orphans.contains(ino) {
            return Err(Refusal::Invalid.into());
        }
        inode.parent = at.parent;
        let outcome = self.add_link(inode, at, time)?;
        self.head.orphans.remove(ino);
        Ok(outcome)
    }

    fn add_link(&mut self, mut inode: Inode, at: &NameRef, time: Timestamp) -> Result<Outcome> {
        let ino = inode.ino;
        let mut parent = self.directory(at.parent)?;
        if inode.is_dir() {
            return Err(Refusal::IsDirectory.into());
        }
        if self.find(at)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        if inode.nlink >= LINK_MAX {
            return Err(Refusal::TooManyLinks.into());
        }
        self.metadata_must_fit(charge::name(&at.name), 0)?;

        self.begin_writing();
        self.add_name(at, (ino, inode.kind()))?;
        inode.nlink += 1;
        inode.ctime = time;
        self.put(inode)?;
        parent.size += 1;
        touch(&mut parent, time);
        self.put(parent)?;
        Ok(Outcome::default())
    }

    pub(super) fn unlink(&mut self, at: &NameRef, time: Timestamp) -> Result<Outcome> {
        let mut parent = self.directory(at.parent)?;
        let (ino, kind) = self.find_existing(at)?;
        if kind == Kind::Directory {
            return Err(Refusal::IsDirectory.into());
        }
        let inode = self.inode(ino)?;

        self.begin_writing();
        self.remove_name(at)?;
        shrink(&mut parent, false)?;
        touch(&mut parent, time);
        self.put(parent)?;
        let orphan = self.lose_link(inode, time)?;
        Ok(Outcome { orphan, ..Outcome::default() })
    }

    pub(super) fn rmdir(&mut self, at: &NameRef, time: Timestamp) -> Result<Outcome> {
        let mut parent = self.directory(at.parent)?;
        let (ino, kind) = self.find_existing(at)?;
        if kind != Kind::Directory {
            return Err(Refusal::NotDirectory.into());
        }
        self.must_be_empty(ino)?;
        let inode = self.inode(ino)?;

        self.begin_writing();
        self.remove_name(at)?;
        shrink(&mut parent, true)?;
        touch(&mut parent, time);
        self.put(parent)?;
        let orphan = self.lose_link(inode, time)?;
        Ok(Outcome { orphan, ..Outcome::default() })
    }

    /// A directory is empty if it counts no entries. What it counts is looked at only as far as is no work: the rows of names
    /// that snapshots still have stay, and there can be millions.
    fn must_be_empty(&mut self, ino: Ino) -> Result<()> {
        const LOOKED_AT: u64 = 64;
        if self.inode(ino)?.size > 0 {
            return Err(Refusal::NotEmpty.into());
        }
        let found = dentry::list_some(self.db, &self.head.lineage, ino, 0, (1, LOOKED_AT))?;
        if found.entries.is_empty() { Ok(()) } else { Err(Refusal::NotEmpty.into()) }
    }

    /// Takes a link from `inode`, a directory's only one included; returns its number if none is left.
    fn lose_link(&mut self, mut inode: Inode, time: Timestamp) -> Result<Option<Ino>> {
        inode.ctime = time;
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        let orphan = (inode.nlink == 0).then_some(inode.ino);
        if let Some(ino) = orphan {
            self.head.orphans.insert(ino);
        }
        self.put(inode)?;
        Ok(orphan)
    }

    /// Renames; with a `whiteout`, that gets the old name.
    pub(super) fn rename(
        &mut self,
        (from, to): (&NameRef, &NameRef),
        mode: RenameMode,
        whiteout: Option<&NewInode>,
        time: Timestamp,
    ) -> Result<Outcome> {
        self.directory(from.parent)?;
        self.directory(to.parent)?;
        let source = self.find_existing(from)?;
        let target = self.find(to)?;
        if from == to && mode != RenameMode::NoReplace {
            return Ok(Outcome::default());
        }
        self.must_not_enclose(source, from.parent, to.parent)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Err(Refusal::Exists.into()),
            (RenameMode::Exchange, None) => Err(Refusal::NotFound.into()),
            (RenameMode::Exchange, Some(target)) => {
                self.must_not_enclose(target, to.parent, from.parent)?;
                self.exchange((from, source), (to, target), time)
            }
            // Two names of one inode: POSIX says to do nothing.
            (RenameMode::Replace, Some(target)) if target.0 == source.0 => Ok(Outcome::default()),
            (RenameMode::Replace | RenameMode::NoReplace, target) => {
                self.replace((from, source), (to, target), whiteout, time)
            }
        }
    }

    /// Refuses to move a directory below itself.
    fn must_not_enclose(&mut self, moved: (Ino, Kind), old_parent: Ino, new_parent: Ino) -> Result<()> {
        if moved.1 != Kind::Directory || old_parent == new_parent {
            return Ok(());
        }
        let mut at = new_parent;
        // Directories that are each other's parents would go round for ever.
        let mut left = self.head.usage.inodes;
        while at != ROOT_INO {
            if at == moved.0 {
                return Err(Refusal::Invalid.into());
            }
            let parent = self.inode(at)?.parent;
            left = left.saturating_sub(1);
            if parent == at || parent == 0 || left == 0 {
                return Err(MetaError::damaged(format!("directory {at} has no way to the root")));
            }
            at = parent;
        }
        Ok(())
    }

    fn replace(
        &mut self,
        (from, source): (&NameRef, (Ino, Kind)),
        (to, target): (&NameRef, Option<(Ino, Kind)>),
        whiteout: Option<&NewInode>,
        time: Timestamp,
    ) -> Result<Outcome> {
        let is_dir = source.1 == Kind::Directory;
        let mut replaced = None;
        if let Some((ino, kind)) = target {
            match (is_dir, kind == Kind::Directory) {
                (true, false) => return Err(Refusal::NotDirectory.into()),
                (false, true) => return Err(Refusal::IsDirectory.into()),
                (true, true) => self.must_be_empty(ino)?,
                (false, false) => {}
            }
            replaced = Some(self.inode(ino)?);
        }
        let mut moved = self.inode(source.0)?;
        let mut old_parent = self.directory(from.parent)?;
        let crosses = from.parent != to.parent;
        if crosses && is_dir && replaced.is_none() && self.directory(to.parent)?.nlink >= LINK_MAX {
            return Err(Refusal::TooManyLinks.into());
        }
        let left = match whiteout {
            Some(new) => {
                let kind = Kind::of_mode(new.mode).ok_or(Refusal::Invalid)?;
                if !self.head.inode_fits() {
                    return Err(Refusal::NoInodes.into());
                }
                Some((new, kind, new_inode(new, 1, from.parent, time)))
            }
            None => None,
        };
        let name = if replaced.is_none() { charge::name(&to.name) } else { 0 };
        match &left {
            Some((new, _, inode)) => self.metadata_must_fit(name + charge_of(new, inode), 0)?,
            None => self.metadata_must_fit(name, charge::name(&from.name))?,
        }
        old_parent.size += u64::from(left.is_some());

        self.begin_writing();
        match left {
            Some((new, kind, inode)) => {
                self.change_name(from, (new.ino, kind))?;
                self.insert(new, inode)?;
            }
            None => self.remove_name(from)?,
        }
        if replaced.is_some() {
            self.change_name(to, source)?;
        } else {
            self.add_name(to, source)?;
        }
        shrink(&mut old_parent, is_dir)?;
        touch(&mut old_parent, time);
        self.put(old_parent)?;
        // Read after the old parent was stored: they can be one.
        let mut new_parent = self.directory(to.parent)?;
        if replaced.is_some() {
            shrink(&mut new_parent, is_dir)?;
        }
        new_parent.size += 1;
        new_parent.nlink += u32::from(is_dir);
        touch(&mut new_parent, time);
        self.put(new_parent)?;
        moved.ctime = time;
        moved.parent = to.parent;
        self.put(moved)?;
        let orphan = match replaced {
            Some(inode) => self.lose_link(inode, time)?,
            None => None,
        };
        Ok(Outcome { orphan, ..Outcome::default() })
    }

    fn exchange(
        &mut self,
        (from, source): (&NameRef, (Ino, Kind)),
        (to, target): (&NameRef, (Ino, Kind)),
        time: Timestamp,
    ) -> Result<Outcome> {
        if source.0 == target.0 {
            return Ok(Outcome::default());
        }
        let (mut one, mut two) = (self.inode(source.0)?, self.inode(target.0)?);

        self.begin_writing();
        self.change_name(from, target)?;
        self.change_name(to, source)?;
        for (inode, parent) in [(&mut one, to.parent), (&mut two, from.parent)] {
            inode.ctime = time;
            inode.parent = parent;
        }
        let moved_dirs = i64::from(one.is_dir()) - i64::from(two.is_dir());
        self.put(one)?;
        self.put(two)?;
        for (parent, dirs) in [(from.parent, -moved_dirs), (to.parent, moved_dirs)] {
            let mut parent = self.directory(parent)?;
            parent.nlink = u32::try_from(i64::from(parent.nlink) + dirs)
                .map_err(|_| MetaError::damaged("a directory has a wrong number of links"))?;
            touch(&mut parent, time);
            self.put(parent)?;
        }
        Ok(Outcome::default())
    }
}

/// A new inode with these links, made in directory `parent`.
fn new_inode(new: &NewInode, nlink: u32, parent: Ino, time: Timestamp) -> Inode {
    let bits = new.xattrs.iter().fold(0, |bits, (name, _)| bits | XattrBits::ANY | XattrBits::of_name(name));
    Inode {
        ino: new.ino,
        mode: new.mode,
        nlink,
        uid: new.uid,
        gid: new.gid,
        rdev: new.rdev,
        size: new.target.as_ref().map_or(0, |target| target.len() as u64),
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        parent,
        xattrs: XattrBits(bits),
        target: new.target.clone(),
    }
}

/// What a new inode takes of the metadata, with its attributes.
fn charge_of(new: &NewInode, inode: &Inode) -> u64 {
    let xattrs = new.xattrs.iter().map(|(name, value)| charge::xattr(name.len(), value.len()));
    charge::inode(inode) + xattrs.sum::<u64>()
}

/// Takes an entry from a directory's counts.
fn shrink(directory: &mut Inode, entry_is_dir: bool) -> Result<()> {
    let counts = (directory.size.checked_sub(1), directory.nlink.checked_sub(u32::from(entry_is_dir)));
    let (Some(size), Some(nlink)) = counts else {
        return Err(MetaError::damaged(format!("directory {} has wrong counts", directory.ino)));
    };
    (directory.size, directory.nlink) = (size, nlink);
    Ok(())
}
