//! Pages of the database that are damaged here, from where they are once more.
//!
//! What is there is the page as it was shipped last, and what was here may be newer. So it is put here only where it is known to be the page
//! that was here:
//! - the seal that is here is that of the page there, or, in a plain store, all but the seal is here, and the same there;
//! - or it is known that the page has not changed since it was shipped ([`MetaFiles::is_as_taken`]), which a process knows that has shipped the
//!   whole state once. Zeros are not taken for it then: they are also what a page is there that nobody could read when it was shipped.

use super::MetaFiles;
use super::page::{self, PAGE_BYTES};
use super::reseal::Copying;
use super::shared::{Fault, Kind, SharedFile};
use crate::backing::{is_unreadable, read_padded};
use crate::store::{ElsewhereError, PagesElsewhere};
use parking_lot::Mutex;
use std::fmt;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

/// Told of the number of a page that was damaged here and came back. It waits for nothing.
pub type HealedPageWatcher = Box<dyn Fn(u32) + Send + Sync>;

/// Where pages are once more, and which came back from there.
#[derive(Default)]
pub(super) struct Heals {
    pages: OnceLock<Arc<dyn PagesElsewhere>>,
    watcher: OnceLock<HealedPageWatcher>,
    healed: Mutex<Healed>,
}

#[derive(Default)]
struct Healed {
    count: u64,
    /// Those that nobody was told of.
    untold: Vec<u32>,
}

impl fmt::Debug for Heals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heals").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Heals {
    fn note(&self, number: u32) {
        let mut healed = self.healed.lock();
        healed.count += 1;
        match self.watcher.get() {
            Some(watcher) => {
                drop(healed);
                watcher(number);
            }
            None => healed.untold.push(number),
        }
    }
}

impl MetaFiles {
    /// From now on, pages that do not open here are looked for there. There can be one such place.
    pub fn heal_from(&self, pages: Arc<dyn PagesElsewhere>) {
        let _ = self.heals.pages.set(pages);
    }

    /// Pages that were damaged here and came back since this was made.
    pub fn healed_pages(&self) -> u64 {
        self.heals.healed.lock().count
    }

    /// From now on, each of those is told to this; those that have come back already at once. There can be one.
    pub fn tell_healed(&self, watcher: HealedPageWatcher) {
        let _ = self.heals.watcher.set(watcher);
        let untold = std::mem::take(&mut self.heals.healed.lock().untold);
        if let Some(watcher) = self.heals.watcher.get() {
            untold.into_iter().for_each(watcher);
        }
    }

    /// Whether there is a place where pages are once more.
    pub(super) fn can_heal(&self) -> bool {
        self.heals.pages.get().is_some()
    }

    /// Restores a page that could not be read here because of `fault`, and puts its content into `page`. Where that cannot be, why; nothing
    /// where nobody has it.
    pub(super) fn heal(
        &self,
        database: &SharedFile,
        page: &mut [u8],
        offset: u64,
        fault: &Fault,
    ) -> Result<(), Option<String>> {
        let is_damage = match fault {
            Fault::Unsealed(_) => true,
            Fault::Io(e) => is_unreadable(e),
        };
        let is_page = database.kind == Kind::Database && page::is_page(page.len(), offset);
        let pages = self.heals.pages.get().filter(|_| is_damage && is_page).ok_or(None)?;
        let number = u32::try_from(offset / PAGE_BYTES as u64 + 1).map_err(|_| None)?;
        let was_as_taken = self.is_as_taken(number);
        let there = pages.page(number).map_err(|e| match e {
            ElsewhereError::Away(why) | ElsewhereError::Failed(why) => {
                Some(format!("what {} has of it cannot be had: {why}", pages.place()))
            }
        })?;
        let is_as_taken = was_as_taken && self.is_as_taken(number);
        // While this is locked, nobody writes pages.
        let mut copy = database.copy.lock();
        let file = database.file();
        let mut stored = [0; PAGE_BYTES];
        let is_read = matches!(read_padded(&*file, &mut stored, offset), Ok(PAGE_BYTES));
        let mut opened = stored;
        if is_read && page::open(&self.keys, &mut opened, offset) {
            // Somebody else was here.
            page.copy_from_slice(&opened);
            return Ok(());
        }
        let refused = |e: std::io::Error| Some(e.to_string());
        let by_seal = if is_read {
            page::restored(&self.keys, &stored, &there, offset).map_err(refused)?
        } else {
            None
        };
        let sealed = match by_seal {
            Some(sealed) => sealed,
            None if is_as_taken && there.len() == PAGE_BYTES - page::reserved_bytes(&self.keys) => {
                if page::is_zero(&there) {
                    return Err(Some(format!("{} has nothing but zeros of it", pages.place())));
                }
                page::sealed(&self.keys, &there, offset).map_err(refused)?
            }
            None => {
                let place = pages.place();
                return Err(Some(format!(
                    "{place} has it as it was shipped last, and what was here may be newer: see \"What is damaged here\" in the chapter on remotes"
                )));
            }
        };
        if !self.read_only {
            match file.write_at(&[IoSlice::new(&sealed)], offset) {
                Ok(()) => Copying::write_too(&mut copy, &sealed, offset),
                Err(e) => log::warn!("page {number} cannot be put back where it was damaged: {e}"),
            }
        }
        drop(copy);
        page.copy_from_slice(&sealed);
        if !page::open(&self.keys, page, offset) {
            return Err(None);
        }
        self.heals.note(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::DATABASE_NAME;
    use super::super::tests::keys;
    use super::*;
    use crate::backing::{Dir, OpenMode, OsDir};
    use crate::crypto::Keys;
    use crate::meta::db::Db;
    use crate::store::StoreId;
    use std::collections::HashMap;

    /// A copy of a database, as SQLite sees it.
    #[derive(Debug, Default)]
    struct Copy(Mutex<HashMap<u32, Vec<u8>>>);

    impl PagesElsewhere for Copy {
        fn place(&self) -> &str {
            "the copy"
        }

        fn page(&self, number: u32) -> Result<Vec<u8>, ElsewhereError> {
            self.0.lock().get(&number).cloned().ok_or_else(|| ElsewhereError::Failed("it is lost".into()))
        }
    }

    struct Made {
        _tmp: tempfile::TempDir,
        dir: Arc<dyn Dir>,
        files: Arc<MetaFiles>,
        db: Db,
        copy: Arc<Copy>,
        keys: Keys,
    }

    /// A database that is all in its file, a copy of it, and which pages are in that.
    fn made(keys: Keys) -> (Made, Vec<u32>) {
        let tmp = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        let files = MetaFiles::with_keys(Arc::clone(&dir), false, keys.clone()).unwrap();
        files.note_changes();
        let copy = Arc::new(Copy::default());
        files.heal_from(Arc::clone(&copy) as Arc<dyn PagesElsewhere>);
        let db = Db::create(Arc::clone(&files), StoreId(1), [0; 16]).unwrap();
        let made = Made { _tmp: tmp, dir, files, db, copy, keys };
        made.change(1);
        let pages = made.database().len().unwrap() / PAGE_BYTES as u64;
        let pages: Vec<u32> = (1..=pages as u32).filter(|number| made.read(*number).is_ok()).collect();
        for number in &pages {
            let page = made.read(*number).unwrap();
            let used = PAGE_BYTES - page::reserved_bytes(&made.keys);
            made.copy.0.lock().insert(*number, page[..used].to_vec());
        }
        assert!(pages.len() > 50);
        (made, pages)
    }

    impl Made {
        fn database(&self) -> Arc<SharedFile> {
            self.files.database().unwrap()
        }

        /// Changes most pages, all of it in the file in the end.
        fn change(&self, salt: u32) {
            self.db
                .run(&format!(
                    "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 100)
                     REPLACE INTO freed SELECT k, randomblob(2000 + {salt}) FROM n"
                ))
                .unwrap();
            self.files.release(self.files.wal_mark()).unwrap();
            assert!(self.db.checkpoint().unwrap());
            assert!(self.db.cut_wal().unwrap());
        }

        fn read(&self, number: u32) -> Result<Vec<u8>, Option<String>> {
            let (mut page, at) = (vec![0; PAGE_BYTES], page::offset(number));
            match self.database().read(&mut page, at) {
                Ok(_) => Ok(page),
                Err(fault) => self.files.heal(&self.database(), &mut page, at, &fault).map(|()| page),
            }
        }

        fn damage(&self, number: u32, at: usize, bytes: &[u8]) {
            let file = self.dir.open(DATABASE_NAME, OpenMode::ReadWrite).unwrap();
            file.write_at(&[IoSlice::new(bytes)], page::offset(number) + at as u64).unwrap();
        }
    }

    #[test]
    fn a_page_comes_back_whose_seal_says_that_it_is_the_one() {
        for keys in [Keys::Plain, keys()] {
            let (made, pages) = made(keys);
            let before: Vec<Vec<u8>> = pages.iter().map(|number| made.read(*number).unwrap()).collect();
            let told = Arc::new(Mutex::new(Vec::new()));
            for number in &pages[..3] {
                made.damage(*number, 1000, &[0x5a; 100]);
                assert!(made.read(*number).is_ok());
            }
            let telling = Arc::clone(&told);
            made.files.tell_healed(Box::new(move |number| telling.lock().push(number)));
            for number in &pages[3..] {
                made.damage(*number, 1000, &[0x5a; 100]);
                assert!(made.read(*number).is_ok());
            }
            assert_eq!(*told.lock(), pages, "also those of before somebody listened");
            assert_eq!(made.files.healed_pages(), pages.len() as u64);
            // It is in the file again, and nobody is asked.
            made.copy.0.lock().clear();
            let after: Vec<Vec<u8>> = pages.iter().map(|number| made.read(*number).unwrap()).collect();
            assert!(before == after);
            assert_eq!(made.db.value::<String>("PRAGMA integrity_check").unwrap(), "ok");
        }
    }

    /// An earlier state of a page must never come back.
    #[test]
    fn what_may_be_older_stays_away() {
        for keys in [Keys::Plain, keys()] {
            let (made, pages) = made(keys);
            made.change(2);
            let changed = |number: &&u32| {
                let used = made.copy.0.lock()[*number].clone();
                made.read(**number).unwrap()[..used.len()] != used
            };
            let changed: Vec<u32> = pages.iter().filter(changed).copied().collect();
            assert!(changed.len() > 40);
            for number in &changed {
                made.damage(*number, 1000, &[0x5a; 100]);
                assert!(made.read(*number).unwrap_err().unwrap().contains("may be newer"));
            }
            assert_eq!(made.files.healed_pages(), 0);
        }
    }

    #[test]
    fn without_its_seal_a_page_comes_back_that_has_not_changed_since_it_was_taken() {
        for keys in [Keys::Plain, keys()] {
            let (made, pages) = made(keys);
            let number = pages[pages.len() / 2];
            let before = made.read(number).unwrap();
            made.damage(number, 0, &[0x5a; PAGE_BYTES]);
            assert!(made.read(number).is_err(), "nobody knows whether it has changed");
            // It was taken, and it is not known whether that has come to anything.
            drop(made.files.take_changed(true));
            assert!(made.read(number).is_err());
            made.files.end_changed(false);
            assert!(made.read(number).is_err());
            drop(made.files.take_changed(true));
            made.files.end_changed(true);
            let used = PAGE_BYTES - page::reserved_bytes(&made.keys);
            assert!(made.read(number).unwrap()[..used] == before[..used]);
            made.change(2);
            made.damage(number, 0, &[0x5a; PAGE_BYTES]);
            assert!(made.read(number).is_err(), "it is another one now");
            made.files.forget_changes();
            assert!(made.read(number).is_err());
        }
    }

    #[test]
    fn the_first_page_comes_back_when_a_database_is_opened() {
        for keys in [Keys::Plain, keys()] {
            let (made, pages) = made(keys.clone());
            assert_eq!(pages[0], 1);
            let (dir, copy) = (Arc::clone(&made.dir), Arc::clone(&made.copy));
            let rows: i64 = made.db.value("SELECT count(*) FROM freed").unwrap();
            made.damage(1, 10, &[0xff; 12]);
            let Made { _tmp, db, files, .. } = made;
            drop((db, files));
            let open = |heals: bool| {
                let files = MetaFiles::with_keys(Arc::clone(&dir), false, keys.clone()).unwrap();
                if heals {
                    files.heal_from(Arc::clone(&copy) as Arc<dyn PagesElsewhere>);
                }
                Db::open(files, StoreId(1), false)
            };
            assert!(open(false).is_err());
            let db = open(true).unwrap();
            assert_eq!(db.value::<i64>("SELECT count(*) FROM freed").unwrap(), rows);
            drop(db);
            assert!(open(false).is_ok());
        }
    }

    /// All pages as they would be copied: the numbers and contents of those that are not left out, or why there are none.
    fn copied(made: &Made) -> Result<Vec<(u32, Vec<u8>)>, String> {
        let count = (made.database().len().unwrap() / PAGE_BYTES as u64) as u32;
        let wanted = made.files.take_changed(true);
        let spool = made.files.read_pages(&wanted, count, u32::MAX);
        made.files.end_changed(spool.is_ok());
        let spool = spool.map_err(|e| e.to_string())?;
        let mut page = vec![0; spool.page_bytes()];
        Ok((0..spool.len()).map(|place| (spool.read(place, &mut page).unwrap(), page.clone())).collect())
    }

    /// They were taken for a page that never was written, and copied: whoever had the copy, and then this host, had zeros for it that were sealed.
    #[test]
    fn zeros_that_damage_has_left_are_not_copied() {
        for keys in [Keys::Plain, keys()] {
            let (made, pages) = made(keys);
            made.db.run("DELETE FROM freed WHERE id <= 80").unwrap();
            made.files.release(made.files.wal_mark()).unwrap();
            assert!(made.db.checkpoint().unwrap() && made.db.cut_wal().unwrap());
            made.copy.0.lock().clear();
            let whole = copied(&made).unwrap();
            assert_eq!(whole.len(), pages.len());
            // All but one of the free pages are in the list that this one has.
            let free: i64 = made.db.value("PRAGMA freelist_count").unwrap();
            assert!(free > 20);
            let mut left_out = 0;
            for (number, content) in &whole {
                let stored = {
                    let file = made.dir.open(DATABASE_NAME, OpenMode::Read).unwrap();
                    let mut stored = [0; PAGE_BYTES];
                    read_padded(&*file, &mut stored, page::offset(*number)).unwrap();
                    stored
                };
                made.damage(*number, 0, &[0; PAGE_BYTES]);
                match copied(&made) {
                    Ok(some) => {
                        assert!(some.len() == whole.len() - 1 && some.iter().all(|(it, _)| it != number));
                        left_out += 1;
                    }
                    Err(why) => {
                        assert!(why.contains(&format!("page {number}")), "{why}");
                        // What is elsewhere is taken where it has not changed since, unless that is zeros, too.
                        made.damage(*number, 0, &stored);
                        copied(&made).unwrap();
                        made.damage(*number, 0, &[0; PAGE_BYTES]);
                        made.copy.0.lock().insert(*number, vec![0; content.len()]);
                        assert!(made.read(*number).is_err() && copied(&made).is_err());
                        made.damage(*number, 0, &stored);
                        copied(&made).unwrap();
                        made.damage(*number, 0, &[0; PAGE_BYTES]);
                        made.copy.0.lock().insert(*number, content.clone());
                        assert!(copied(&made).unwrap() == whole);
                        made.copy.0.lock().clear();
                    }
                }
                made.damage(*number, 0, &stored);
            }
            assert_eq!(left_out, free - 1);
        }
    }
}
