//! Listing directories.

use super::types::Attr;
use super::{Fs, FsError, Ino, Kind, Result};
use crate::meta::{Entries, Inode, Meta};

/// Cookies of the two entries every directory has; those of names are larger.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries fetched under one hold of the metadata.
const BATCH: usize = 128;
/// Batches after which a listing that has given something ends; the caller asks again for the rest.
const BATCHES: usize = 64;

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Box<[u8]>,
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub kind: Kind,
    /// Where a listing goes on behind this entry.
    pub cookie: u64,
}

/// An entry with attributes; `None` for `.` and `..`.
pub type EntryWithAttr = (Entry, Option<Attr>);

impl Fs {
    /// Calls `take` with the entries of a directory behind `cookie` (0: from the start) until it returns false.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale` if it is not there any more, `Io`. Never `NotFound`, which readdir(3) takes for the end.
    pub fn readdir(&self, ino: Ino, cookie: u64, mut take: impl FnMut(&Entry) -> bool) -> Result<()> {
        self.list(ino, cookie, false, |(entry, _)| take(entry))
    }

    /// As [`Fs::readdir`], with attributes. The kernel counts every entry it is given but `.` and `..`; see
    /// [`Fs::forget`].
    ///
    /// # Errors
    /// As [`Fs::readdir`].
    pub fn readdir_plus(
        &self,
        ino: Ino,
        cookie: u64,
        mut take: impl FnMut(&EntryWithAttr) -> bool,
    ) -> Result<()> {
        self.list(ino, cookie, true, |entry| {
            if let Some(attr) = &entry.1 {
                // Before the kernel can see it.
                self.learn(attr.ino);
                if !take(entry) {
                    self.nodes.forget(attr.ino, 1);
                    return false;
                }
                return true;
            }
            take(entry)
        })
    }

    fn list(
        &self,
        ino: Ino,
        cookie: u64,
        with_attr: bool,
        mut take: impl FnMut(&EntryWithAttr) -> bool,
    ) -> Result<()> {
        let directory = {
            let mut meta = self.store.meta();
            let inode = match meta.inode(self.volume, ino).map_err(FsError::from) {
                Err(FsError::NotFound) => return Err(FsError::Stale),
                other => other?,
            };
            if !inode.is_dir() {
                return Err(FsError::NotDirectory);
            }
            if cookie == 0 {
                self.accessed(&mut meta, &inode);
            }
            inode
        };
        // A directory that was removed has not even its dots.
        if directory.nlink == 0 {
            return Ok(());
        }
        for (name, cookie_of, ino) in [(b".".as_slice(), DOT, ino), (b"..", DOT_DOT, directory.parent)] {
            let entry = Entry { name: name.into(), ino, kind: Kind::Directory, cookie: cookie_of };
            if cookie < cookie_of && !take(&(entry, None)) {
                return Ok(());
            }
        }
        let mut after = cookie.max(DOT_DOT);
        let mut batches = 0;
        let mut given = cookie < DOT_DOT;
        while !given || batches < BATCHES {
            batches += 1;
            let (batch, next) = self.batch(ino, after, with_attr)?;
            if !batch.iter().all(&mut take) {
                return Ok(());
            }
            let Some(next) = next else { return Ok(()) };
            after = next;
            given |= !batch.is_empty();
        }
        Ok(())
    }

    /// Moves the cookie of a listing over names that are gone, and that only snapshots still have: there can be millions. True when
    /// something comes next, or the end; until then each call passes as many as are work for one hold of the metadata.
    ///
    /// # Errors
    /// As [`Fs::readdir`].
    pub fn pass_gone(&self, ino: Ino, cookie: &mut u64) -> Result<bool> {
        let mut meta = self.store.meta();
        if *cookie < DOT_DOT || !meta.has_hidden(self.volume)? {
            return Ok(true);
        }
        let Entries { entries, next } = meta.entries(self.volume, ino, *cookie, 1)?;
        match next {
            Some(next) if entries.is_empty() => {
                *cookie = next;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Some entries, and where to go on behind them.
    fn batch(&self, ino: Ino, after: u64, with_attr: bool) -> Result<(Vec<EntryWithAttr>, Option<u64>)> {
        let mut meta = self.store.meta();
        let Entries { entries: dentries, next } = meta.entries(self.volume, ino, after, BATCH)?;
        let mut out = Vec::with_capacity(dentries.len());
        for (at, dentry) in dentries.iter().enumerate() {
            let attr = match with_attr {
                true => Some(self.attr(&self.named(&mut meta, ino, dentry.ino)?)),
                false => None,
            };
            // Should two names have one hash, a listing that breaks off between them repeats the first rather than
            // losing the second.
            let twin = dentries.get(at + 1).is_some_and(|next| next.hash == dentry.hash);
            let cookie = if twin { dentry.hash - 1 } else { dentry.hash };
            out.push((Entry { name: dentry.name.clone(), ino: dentry.ino, kind: dentry.kind, cookie }, attr));
        }
        Ok((out, next))
    }

    /// The inode that an entry of directory `parent` names.
    fn named(&self, meta: &mut Meta, parent: Ino, ino: Ino) -> Result<Inode> {
        match meta.inode(self.volume, ino).map_err(FsError::from) {
            Err(FsError::NotFound) => {
                log::error!("an entry of directory {parent} names inode {ino}, which is missing");
                Err(FsError::Io)
            }
            other => other,
        }
    }
}
