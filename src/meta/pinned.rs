//! The last commit, kept readable page by page beside the open transaction.
//!
//! A reader of it keeps the WAL from starting over and checkpoints from copying back what is newer, as any reader of SQLite does.
//! Its pages are read past SQLite: from the frame in which the page was written last, or from the database.

use super::db::Db;
use super::error::{MetaError, Result};
use super::space::{self, SegmentRow};
use super::vfs::{MetaFiles, PAGE_BYTES, PageSpool, Wanted};
use crate::store::Run;
use std::sync::Arc;

/// SQLite locks bytes of this page, and never writes it.
const LOCK_PAGE: u32 = (0x4000_0000 / PAGE_BYTES + 1) as u32;

/// A commit that is kept readable as long as this lives.
#[derive(Debug)]
pub struct Pinned {
    db: Db,
    wanted: Wanted,
    pages: u32,
    epoch: u64,
}

impl Pinned {
    /// Keeps the last commit readable, and takes what changed since the last time, or everything with `whole`: see
    /// [`MetaFiles::note_changes`]. Until this returns, nothing may be committed or copied back, and something of the last
    /// commit must not have been copied back yet.
    ///
    /// # Errors
    /// As the database; nothing is taken then.
    pub fn new(files: &Arc<MetaFiles>, whole: bool) -> Result<Self> {
        let db = Db::beside(Arc::clone(files))?;
        db.run("BEGIN")?;
        // The first read is what it begins with.
        let epoch = super::next_number(&db, "SELECT epoch FROM store")?;
        let pages = u32::try_from(db.page_count()?)
            .map_err(|_| MetaError::damaged("the database has more pages than it can have"))?;
        Ok(Self { wanted: files.take_changed(whole), db, pages, epoch })
    }

    /// The number of pages that the database has.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The first epoch of the redo log that is not in it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it is all pages that [`Pinned::read`] reads.
    pub fn is_whole(&self) -> bool {
        self.wanted.whole
    }

    /// The segments that it knows, by id.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn segments(&self) -> Result<Vec<SegmentRow>> {
        space::segment_rows(&self.db)
    }

    /// Blocks that were freed and may not have been punched.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn freed(&self) -> Result<Vec<Run>> {
        Ok(space::freed_rows(&self.db)?.into_iter().flat_map(|(_, runs)| runs).collect())
    }

    /// Reads the pages that were taken. Free pages that do not open are left out: nobody reads what is in them.
    ///
    /// # Errors
    /// As the backing files, and where a page is damaged.
    pub fn read(&self) -> Result<PageSpool> {
        let files = self.db.files();
        files
            .read_pages(&self.wanted, self.pages, LOCK_PAGE)
            .map_err(|source| MetaError::Host { path: files.database_path(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::super::vfs::Laying;
    use super::*;
    use crate::backing::{Dir, OsDir};
    use crate::crypto::{Keyring, Keys, Secret};
    use crate::store::StoreId;

    fn keys() -> Keys {
        let secret = Secret::KeyFile(vec![1; 32].into());
        let keyring = Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
        let unlocked = keyring.unlock(&[1; 16], &secret).unwrap();
        Keys::new(keyring.subkeys(&[1; 16], &unlocked).unwrap()).unwrap()
    }

    fn rows(db: &Db) -> Vec<(i64, Vec<u8>)> {
        let mut statement = db.prepare("SELECT id, runs FROM freed ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Changes the database, durably.
    fn change(db: &Db, sql: &str) {
        db.run(sql).unwrap();
        db.files().release(db.files().wal_mark()).unwrap();
    }

    /// Adds pages to a copy, and looks at it.
    fn copied(
        pages: &mut std::collections::BTreeMap<u32, Vec<u8>>,
        pinned: &Pinned,
        keys: &Keys,
    ) -> Vec<(i64, Vec<u8>)> {
        let spool = pinned.read().unwrap();
        let mut page = vec![0; spool.page_bytes()];
        for place in 0..spool.len() {
            pages.insert(spool.read(place, &mut page).unwrap(), page.clone());
        }
        let tmp = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        let laying = Laying::begin(Arc::clone(&dir), keys).unwrap();
        pages.iter().for_each(|(number, page)| laying.put(*number, page).unwrap());
        assert!(laying.put(0, &page).is_err() && laying.put(1, &page[1..]).is_err());
        laying.finish(pinned.pages()).unwrap();
        let db =
            Db::open(MetaFiles::with_keys(dir, false, keys.clone()).unwrap(), StoreId(1), false).unwrap();
        assert_eq!(db.value::<String>("PRAGMA integrity_check").unwrap(), "ok");
        rows(&db)
    }

    #[test]
    fn a_commit_stays_readable_whatever_is_committed_and_copied_back_meanwhile() {
        for keys in [Keys::Plain, keys()] {
            let tmp = tempfile::tempdir().unwrap();
            let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
            let files = MetaFiles::with_keys(Arc::clone(&dir), false, keys.clone()).unwrap();
            files.note_changes();
            let db = Db::create(Arc::clone(&files), StoreId(1), [0; 16]).unwrap();
            change(
                &db,
                "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 400)
                 INSERT INTO freed SELECT k, randomblob(3000) FROM n",
            );
            let mut pages = std::collections::BTreeMap::new();
            let mut partial = 0;
            for round in 0..20 {
                change(
                    &db,
                    &format!("UPDATE freed SET runs = randomblob(3000) WHERE id % 7 = {}", round % 7),
                );
                let pinned = Pinned::new(&files, false).unwrap();
                let expected = rows(&db);
                partial += u32::from(!pinned.is_whole());
                // Some of it goes into the database, and no more than the commit.
                if round % 3 != 0 {
                    let _ = db.checkpoint().unwrap();
                }
                change(&db, &format!("UPDATE freed SET runs = randomblob(2000 + {round}) WHERE id % 3 = 1"));
                change(
                    &db,
                    &format!("DELETE FROM freed WHERE id % 50 = {round}; DELETE FROM freed WHERE id > 380"),
                );
                assert!(!db.checkpoint().unwrap(), "the reader is in the way");
                assert!(!db.cut_wal().unwrap());
                assert!(copied(&mut pages, &pinned, &keys) == expected, "round {round}");
                drop(pinned);
                if round % 5 == 4 {
                    files.end_changed(false);
                    // What nothing came of is in the next one.
                    pages.clear();
                    files.forget_changes();
                } else {
                    files.end_changed(true);
                }
                match round % 4 {
                    0 => assert!(db.checkpoint().unwrap()),
                    1 => assert!(db.cut_wal().unwrap()),
                    _ => {}
                }
                if round % 6 == 5 {
                    change(
                        &db,
                        "INSERT INTO freed SELECT id + 1000, randomblob(3000) FROM freed WHERE id < 100",
                    );
                    change(&db, "DELETE FROM freed WHERE id > 1000; PRAGMA incremental_vacuum(50)");
                }
            }
            assert!(partial > 10);
        }
    }

    #[test]
    fn a_damaged_page_or_frame_is_an_error_that_names_it() {
        use std::os::unix::fs::FileExt;
        for (name, at, what) in
            [("meta.db-wal", 32 + 50 * 4120 + 100, "in meta.db-wal"), ("meta.db", 59 * 4096 + 100, "page 60")]
        {
            let tmp = tempfile::tempdir().unwrap();
            let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
            let files = MetaFiles::new(Arc::clone(&dir), false).unwrap();
            files.note_changes();
            let db = Db::create(Arc::clone(&files), StoreId(1), [0; 16]).unwrap();
            change(
                &db,
                "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 100)
                 INSERT INTO freed SELECT k, randomblob(3000) FROM n",
            );
            if name == "meta.db" {
                assert!(db.checkpoint().unwrap());
                // The WAL starts over: it is not there that the page is looked for.
                change(&db, "DELETE FROM freed WHERE id = 1");
            }
            let file = std::fs::OpenOptions::new().write(true).open(tmp.path().join(name)).unwrap();
            file.write_all_at(&[0xa5; 8], at).unwrap();
            let pinned = Pinned::new(&files, true).unwrap();
            let error = pinned.read().unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains(what), "{error}");
        }
    }
}
