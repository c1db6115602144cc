//! Giving pages of the database back that hold nothing any more.
//!
//! SQLite does so page by page where a database keeps for each page who refers to it (`auto_vacuum`). That is decided when the
//! first table is made; later, only VACUUM can change it, which writes the whole database anew.

use super::db::Db;
use super::error::Result;
use super::vfs::PAGE_BYTES;
use super::{Meta, MetaError};
use rusqlite::CachedStatement;

/// Pages given back with one commit, if that does not take long.
const PAGES_AT_ONCE: u32 = 128;
/// Fewer free pages than this are kept for what comes next.
const FREE_MIN: u64 = (2 << 20) / PAGE_BYTES as u64;
/// Of all pages, so many may be free: one in ...
const FREE_PART: u64 = 4;
/// And so many are left free: one in ...
const LEFT_PART: u64 = 16;
/// `PRAGMA auto_vacuum` of a database that gives pages back when it is asked to.
const INCREMENTAL: i64 = 2;
/// A larger database of an earlier version is not written anew when it is opened.
const REWRITTEN_MAX: u64 = 32 << 20;

impl Db {
    /// Makes a new database one that can shrink. It must not have a table yet.
    pub(super) fn let_shrink(&self) -> Result<()> {
        self.run("PRAGMA auto_vacuum = INCREMENTAL")
    }

    /// Whether the database can shrink.
    pub(super) fn can_shrink(&self) -> Result<bool> {
        Ok(self.value::<i64>("PRAGMA auto_vacuum")? == INCREMENTAL)
    }

    /// Makes a database of an earlier version one that can shrink, if it is small and the host has room to write it anew. No
    /// transaction may be open; the change is durable when the WAL is released up to here.
    pub(super) fn make_shrinkable(&self) -> Result<()> {
        let bytes = self.page_count()? * PAGE_BYTES as u64;
        // The WAL takes it whole, and then the database may be longer for a while.
        let has_room = |space: crate::backing::HostSpace| space.available_bytes / 4 >= bytes;
        if bytes > REWRITTEN_MAX || !self.files().dir().host_space().is_ok_and(has_room) {
            return Ok(());
        }
        self.run("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
    }

    /// The number that a statement gives.
    fn count(&self, statement: &mut CachedStatement<'_>) -> Result<u64> {
        let count: i64 = statement.query_row([], |row| row.get(0)).map_err(|e| self.explain(e))?;
        u64::try_from(count).map_err(|_| MetaError::damaged("the database has a negative number of pages"))
    }

    /// Pages of the database, and those of them that hold nothing, as of the open transaction.
    fn pages(&self) -> Result<(u64, u64)> {
        let all = self.page_count()?;
        Ok((all, self.count(&mut self.prepare("PRAGMA freelist_count")?)?))
    }

    /// Gives up to so many pages back, until it is late: each may be another one that has to be read, and what refers to it.
    fn move_pages(&self, pages: u32) -> Result<()> {
        let mut statement = self.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([]).map_err(|e| self.explain(e))?;
        // A page each.
        while rows.next().map_err(|e| self.explain(e))?.is_some() {
            if self.is_late() {
                break;
            }
        }
        Ok(())
    }

    /// Pages of the database.
    pub(super) fn page_count(&self) -> Result<u64> {
        self.count(&mut self.prepare("PRAGMA page_count")?)
    }
}

/// What a step of shrinking did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrunk {
    /// Nothing.
    No,
    /// Pages were given back, and more can be.
    ByAStep,
    /// The step before was the last.
    Done,
}

impl Meta {
    /// Takes note of whether the database should shrink. Asked before a transaction ends: one that has read something keeps the
    /// WAL from starting over.
    pub(super) fn look_at_pages(&mut self) -> Result<()> {
        if self.shrinks {
            let (all, free) = self.db.pages()?;
            self.loose = match self.loose {
                true => free > (FREE_MIN / 2).max(all / LEFT_PART),
                false => free >= FREE_MIN.max(all / FREE_PART),
            };
        }
        Ok(())
    }

    /// One step of shrinking the database, if it should. The open transaction must have nothing in it: all of it is given up if
    /// this fails. The file is cut when the WAL is copied back. `small`: a smaller step.
    pub fn shrink_step(&mut self, small: bool) -> Shrunk {
        let was_at_it = std::mem::replace(&mut self.shrinking, self.loose);
        if self.poisoned || !self.loose {
            return if was_at_it { Shrunk::Done } else { Shrunk::No };
        }
        debug_assert!(!self.has_work());
        let pages = if small { PAGES_AT_ONCE / 4 } else { PAGES_AT_ONCE };
        match self.db.move_pages(pages) {
            Ok(()) => {
                self.touched = true;
                Shrunk::ByAStep
            }
            Err(e) => {
                // A damaged page, perhaps: whoever asks for what is in it is told.
                log::warn!("{}: cannot shrink the database: {e}", self.db.files().database_path().display());
                (self.shrinks, self.loose, self.shrinking) = (false, false, false);
                // SQLite may have given the transaction up by itself.
                let _ = self.db.run("ROLLBACK");
                self.poisoned |= self.db.run("BEGIN").is_err();
                Shrunk::No
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vfs::MetaFiles;
    use super::*;
    use crate::backing::OsDir;
    use crate::store::StoreId;
    use std::sync::Arc;

    #[test]
    fn a_database_of_an_earlier_version_can_shrink_when_it_was_opened() {
        let tmp = tempfile::tempdir().unwrap();
        let files = || MetaFiles::new(Arc::new(OsDir::new(tmp.path())), false).unwrap();
        let db = Db::create(files(), StoreId(1), [0; 16]).unwrap();
        assert!(db.can_shrink().unwrap());
        // As it was made earlier.
        db.run("PRAGMA auto_vacuum = NONE; VACUUM").unwrap();
        assert!(!db.can_shrink().unwrap());
        let mark = db.files().wal_mark();
        db.files().release(mark).unwrap();
        db.run("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(db);
        let meta = Meta::open(files(), StoreId(1)).unwrap();
        assert!(meta.db.can_shrink().unwrap() && meta.shrinks);
    }
}
