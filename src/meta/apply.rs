//! Carrying out mutations. One file per family; each checks first and changes after, so that a refusal changes
//! nothing.

mod attr;
mod content;
mod name;
mod reap;

use super::db::Db;
use super::dentry::NameHash;
use super::error::{Refusal, Result};
use super::head::Head;
use super::mutation::{Mutation, Outcome, RenameMode};
use super::space::Space;
use super::types::{Ino, Inode, Timestamp};

/// What a mutation works on: one volume in the open transaction.
pub(super) struct Applier<'a> {
    pub(super) db: &'a Db,
    pub(super) hash: &'a NameHash,
    pub(super) head: &'a mut Head,
    pub(super) space: &'a mut Space,
    pub(super) next_ino: &'a mut Ino,
    /// Set before the first change. An error after that leaves the transaction half done.
    pub(super) writing: &'a mut bool,
}

impl Applier<'_> {
    /// The one way to change a volume.
    pub(super) fn apply(&mut self, mutation: &Mutation) -> Result<Outcome> {
        match mutation {
            Mutation::Make { at, inode, time } => self.make(at, inode, *time),
            Mutation::Link { ino, at, time } => self.link(*ino, at, *time),
            Mutation::Unlink { at, time } => self.unlink(at, *time),
            Mutation::Rmdir { at, time } => self.rmdir(at, *time),
            Mutation::Rename { from, to, mode, time } => self.rename((from, to), *mode, None, *time),
            Mutation::SetAttr { ino, change } => self.set_attr(*ino, change),
            Mutation::Remap { ino, remap } => self.remap(*ino, remap),
            Mutation::SetXattr { ino, name, value, attr } => self.set_xattr(*ino, name, value, attr),
            Mutation::RemoveXattr { ino, name, time } => self.remove_xattr(*ino, name, *time),
            Mutation::Reap { ino, chunks } => self.reap(*ino, *chunks),
            Mutation::DropXattr { ino, name, attr } => self.drop_xattr_and(*ino, name, attr),
            Mutation::MakeUnnamed { parent, inode, time } => self.make_unnamed(*parent, inode, *time),
            Mutation::SetFlags { ino, flags, time } => self.set_flags(*ino, *flags, *time),
            Mutation::LinkUnnamed { ino, at, time } => self.link_unnamed(*ino, at, *time),
            Mutation::RenameWhiteout { from, to, no_replace, whiteout, time } => {
                let mode = if *no_replace { RenameMode::NoReplace } else { RenameMode::Replace };
                self.rename((from, to), mode, Some(whiteout), *time)
            }
        }
    }

    /// From here on, an error is more than a refusal.
    fn begin_writing(&mut self) {
        *self.writing = true;
    }

    fn inode(&mut self, ino: Ino) -> Result<Inode> {
        self.head.inode(self.db, ino)
    }

    /// A directory that still has a name.
    fn directory(&mut self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if !inode.is_dir() {
            return Err(Refusal::NotDirectory.into());
        }
        if inode.nlink == 0 {
            return Err(Refusal::NotFound.into());
        }
        Ok(inode)
    }

    /// Refuses what would exceed the limit of metadata: `more` takes the place of `less`.
    fn metadata_must_fit(&self, more: u64, less: u64) -> Result<()> {
        let growth = more.saturating_sub(less);
        if growth == 0 || self.head.metadata_fits(growth) { Ok(()) } else { Err(Refusal::NoMetadata.into()) }
    }

    fn put(&mut self, inode: Inode) -> Result<()> {
        self.head.put_inode(self.db, inode)
    }
}

/// Sets the times of a directory in which a name changed.
fn touch(directory: &mut Inode, time: Timestamp) {
    directory.mtime = time;
    directory.ctime = time;
}
