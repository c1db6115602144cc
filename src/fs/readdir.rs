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

/// Entries with their hashes, and where to go on behind them.
type Batch = (Vec<(u64, EntryWithAttr)>, Option<u64>);

impl Fs {
    /// Calls `take` with the entries of a directory behind `cookie` (0: from the start) until it returns false.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale` if it is not there any more, `Io`. Never `NotFound`, which readdir(3) takes for the end.
    pub fn readdir(&self, ino: Ino, cookie: u64, mut take: impl FnMut(&Entry) -> bool) -> Result<()> {
        self.list(ino, cookie, false, |group| group.iter().take_while(|(entry, _)| take(entry)).count())
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
        self.list(ino, cookie, true, |group| group.iter().take_while(|entry| take(entry)).count())
    }

    /// Calls `take` with the entries of a directory behind `cookie` in groups, until it says that it took fewer than it was given.
    /// Entries of a group have equal cookies but for those that are followed by another: whoever goes on behind one of
    /// these begins with the group again. So a group had better be taken as a whole. With attributes, the kernel counts
    /// every entry that was taken but `.` and `..`.
    ///
    /// # Errors
    /// As [`Fs::readdir`].
    pub fn list(
        &self,
        ino: Ino,
        cookie: u64,
        with_attr: bool,
        mut take: impl FnMut(&[EntryWithAttr]) -> usize,
    ) -> Result<()> {
        let cookies = Cookies { narrow: self.options().compat32 };
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
            if cookie < cookie_of && take(&[(entry, None)]) == 0 {
                return Ok(());
            }
        }
        let mut after = cookies.resume(cookie);
        let mut batches = 0;
        let mut given = cookie < DOT_DOT;
        // The last group of a batch may go on in the next, if cookies are narrow.
        let mut group: Vec<EntryWithAttr> = Vec::new();
        while !given || batches < BATCHES || cookies.narrow {
            batches += 1;
            let (batch, next) = self.batch(ino, after, with_attr)?;
            given |= !batch.is_empty();
            for (hash, mut entry) in batch {
                entry.0.cookie = cookies.of(hash);
                if group.last().is_some_and(|last| last.0.cookie != entry.0.cookie)
                    && !self.give(&mut group, &mut take)
                {
                    return Ok(());
                }
                group.push(entry);
            }
            let Some(next) = next else { break };
            after = next;
        }
        self.give(&mut group, &mut take);
        Ok(())
    }

    /// Moves the cookie of a listing over names that are gone, and that only snapshots still have: there can be millions. True when
    /// something comes next, or the end; until then each call passes as many as are work for one hold of the metadata. (Not with
    /// narrow cookies, which do not lead to any place: the listing passes them itself.)
    ///
    /// # Errors
    /// As [`Fs::readdir`].
    pub fn pass_gone(&self, ino: Ino, cookie: &mut u64) -> Result<bool> {
        let is_narrow = self.options().compat32;
        let mut meta = self.store.meta();
        if is_narrow || *cookie < DOT_DOT || !meta.has_hidden(self.volume)? {
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

    /// Gives a group to `take` and empties it; true if all of it was taken.
    fn give(&self, group: &mut Vec<EntryWithAttr>, take: &mut impl FnMut(&[EntryWithAttr]) -> usize) -> bool {
        let count = group.len();
        for (entry, _) in group.iter_mut().rev().skip(1) {
            entry.cookie -= 1;
        }
        for (_, attr) in &*group {
            if let Some(attr) = attr {
                // Before the kernel can see it.
                self.learn(attr.ino);
            }
        }
        let taken = if count == 0 { 0 } else { take(group) };
        for (_, attr) in group.drain(..).skip(taken) {
            if let Some(attr) = attr {
                self.nodes.forget(attr.ino, 1);
            }
        }
        taken == count
    }

    /// The next entries by hash, and where to go on behind them.
    fn batch(&self, ino: Ino, after: u64, with_attr: bool) -> Result<Batch> {
        let mut meta = self.store.meta();
        let Entries { entries: dentries, next } = meta.entries(self.volume, ino, after, BATCH)?;
        let mut out: Vec<(u64, EntryWithAttr)> = Vec::with_capacity(dentries.len());
        for dentry in dentries {
            // The rows of inodes may have to be read one by one.
            if let Some((last, _)) = out.last()
                && *last != dentry.hash
                && meta.is_long()
            {
                let next = Some(*last);
                return Ok((out, next));
            }
            let attr = match with_attr {
                true => Some(self.attr(&self.named(&mut meta, ino, dentry.ino)?)),
                false => None,
            };
            let entry = Entry { name: dentry.name, ino: dentry.ino, kind: dentry.kind, cookie: dentry.hash };
            out.push((dentry.hash, (entry, attr)));
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

/// Where in a directory a listing goes on, as a number for programs: the hash of a name, or the 31 bits of it that fit a signed
/// number of 32. Both are in the same order.
#[derive(Clone, Copy, Debug)]
struct Cookies {
    narrow: bool,
}

impl Cookies {
    /// The cookie of a hash.
    fn of(self, hash: u64) -> u64 {
        if self.narrow { (hash >> 32).max(DOT_DOT + 1) } else { hash }
    }

    /// The last hash that has this cookie, or a lower one.
    fn resume(self, cookie: u64) -> u64 {
        match self.narrow && cookie > DOT_DOT {
            true => cookie.min(i32::MAX as u64) << 32 | u64::from(u32::MAX),
            false => cookie.clamp(DOT_DOT, i64::MAX as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_cookies_fit_31_bits_and_lead_on_behind_all_that_have_them() {
        let (narrow, wide) = (Cookies { narrow: true }, Cookies { narrow: false });
        let hashes = [3, 1 << 32, (4 << 32) - 1, 4 << 32, (4 << 32) + 1, 1 << 60, i64::MAX as u64];
        for hash in hashes {
            let cookie = narrow.of(hash);
            assert!((3..1 << 31).contains(&cookie), "{hash}");
            assert!(narrow.resume(cookie) >= hash, "{hash}");
            assert!(narrow.resume(cookie - 1) < hash, "{hash}");
            assert_eq!((wide.of(hash), wide.resume(hash)), (hash, hash));
        }
        for start in 0..=2 {
            assert_eq!((narrow.resume(start), wide.resume(start)), (2, 2));
        }
        // Any number may come.
        assert_eq!((narrow.resume(u64::MAX), wide.resume(u64::MAX)), (i64::MAX as u64, i64::MAX as u64));
    }
}
