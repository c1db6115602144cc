//! Sealing the database again, under newer keys.
//!
//! All of its pages are copied into a new file, which takes the database's name when it is durable. What checkpoints write
//! meanwhile, they write to both. The pages are in their places whatever happens, and the WAL beside them fits to both.

use super::page::{self, PAGE_BYTES};
use super::shared::SharedFile;
use super::{DATABASE_NAME, MetaFiles};
use crate::backing::{File, OpenMode, read_padded};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Where the pages go before the new file has the database's name.
pub(super) const NEW_NAME: &str = "meta.db.new";
/// Pages copied while no page can be written: 256 KiB.
const PAGES_AT_ONCE: usize = 64;

/// A database that is being sealed again.
#[derive(Debug)]
pub(in crate::meta) struct Copying {
    file: Arc<dyn File>,
    /// Where the next page lies.
    next: u64,
    /// A page could not be written to it: it is worth nothing.
    failed: Option<io::Error>,
}

impl Copying {
    /// Writes a page that is written to the database.
    pub(super) fn write_too(copy: &mut Option<Self>, sealed: &[u8], offset: u64) {
        if let Some(copy) = copy
            && let Err(e) = copy.file.write_at(&[IoSlice::new(sealed)], offset)
        {
            copy.failed = Some(e);
        }
    }

    /// Cuts it as the database is cut.
    pub(super) fn cut_too(copy: &mut Option<Self>, len: u64) {
        let Some(copy) = copy else { return };
        let cut = copy.file.len().and_then(|there| if there > len { copy.file.set_len(len) } else { Ok(()) });
        copy.failed = cut.err().or(copy.failed.take());
    }

    fn copy_some(&mut self, from: &SharedFile) -> Result<(), Fault> {
        let mut pages = vec![0; PAGES_AT_ONCE * PAGE_BYTES];
        let got = read_padded(&*from.file(), &mut pages, self.next)?;
        pages.truncate(got / PAGE_BYTES * PAGE_BYTES);
        for (offset, page) in (self.next..).step_by(PAGE_BYTES).zip(pages.chunks_exact_mut(PAGE_BYTES)) {
            if !page::reseal(&from.keys, page, offset)? {
                return Err(Fault::Damaged(offset));
            }
        }
        self.file.write_at(&[IoSlice::new(&pages)], self.next)?;
        self.next += pages.len() as u64;
        Ok(())
    }

    fn is_at_end(&self, of: &SharedFile) -> io::Result<bool> {
        Ok(of.file().len()? < self.next + PAGE_BYTES as u64)
    }
}

/// Why the database could not be sealed again.
#[derive(Debug)]
pub enum Fault {
    /// The host failed; the database is what it was.
    Io(io::Error),
    /// The page at this offset is damaged; the database is what it was.
    Damaged(u64),
    /// The new file has its name, and may lose it with the power: the disk is not to be trusted any more.
    Sync(io::Error),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl MetaFiles {
    /// Whether a page of the database is sealed with other than the newest keys.
    ///
    /// # Errors
    /// As the backing files.
    pub fn has_older_pages(&self) -> io::Result<bool> {
        let Some(database) = self.database().filter(|_| self.keys.is_encrypted()) else { return Ok(false) };
        let file = database.file();
        let mut pages = vec![0; PAGES_AT_ONCE * PAGE_BYTES];
        let mut offset = 0;
        loop {
            let got = read_padded(&*file, &mut pages, offset)?;
            let whole = pages[..got].chunks_exact(PAGE_BYTES);
            if whole.clone().any(|page| !page::is_newest(&database.keys, page)) {
                return Ok(true);
            }
            if got < pages.len() {
                return Ok(false);
            }
            offset += got as u64;
        }
    }

    /// Length of the database in bytes.
    pub fn database_bytes(&self) -> u64 {
        self.database().and_then(|database| database.file().len().ok()).unwrap_or(0)
    }

    /// Seals some more pages of the database again; so many bytes are done, `None` says that all are, and are durable.
    ///
    /// # Errors
    /// See [`Fault`]. Pages that were done before are to be done again.
    pub fn reseal_some(&self) -> Result<Option<u64>, Fault> {
        let Some(database) = self.database() else { return Ok(None) };
        let result = self.reseal_step(&database);
        if result.is_err() {
            self.abandon_reseal();
        }
        result
    }

    fn reseal_step(&self, database: &SharedFile) -> Result<Option<u64>, Fault> {
        let mut copy = database.copy.lock();
        let copying = match copy.as_mut() {
            Some(copying) => copying,
            None => {
                let file = self.dir.open(NEW_NAME, OpenMode::Create)?;
                file.set_len(0)?;
                copy.insert(Copying { file, next: 0, failed: None })
            }
        };
        if let Some(e) = copying.failed.take() {
            return Err(e.into());
        }
        if !copying.is_at_end(database)? {
            copying.copy_some(database)?;
            return Ok(Some(copying.next));
        }
        let file = Arc::clone(&copying.file);
        drop(copy);
        // Most of it goes to the disk while checkpoints go on.
        file.sync()?;
        let mut copy = database.copy.lock();
        let Some(copying) = copy.as_mut() else { return Ok(None) };
        if let Some(e) = copying.failed.take() {
            return Err(e.into());
        }
        let len = database.file().len()?;
        if file.len()? != len {
            file.set_len(len)?;
        }
        file.sync()?;
        self.dir.rename(NEW_NAME, DATABASE_NAME)?;
        database.replace(file);
        *copy = None;
        self.dir.sync("").map_err(Fault::Sync)?;
        Ok(None)
    }

    /// Throws away what was begun, if something was.
    pub fn abandon_reseal(&self) {
        let Some(database) = self.database() else { return };
        if database.copy.lock().take().is_some() {
            self.remove_unfinished();
        }
    }

    /// Removes what an interruption left.
    pub fn remove_unfinished(&self) {
        match self.dir.remove(NEW_NAME) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::warn!("{}: {e}", self.dir.path(NEW_NAME).display());
            }
            _ => {}
        }
    }

    /// Makes durable how long the WAL is.
    ///
    /// # Errors
    /// As the backing files.
    pub fn sync_wal(&self) -> io::Result<()> {
        self.wal().map_or(Ok(()), |wal| wal.file().sync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::{Dir, OsDir};
    use crate::crypto::{Keyring, Keys, Secret, Subkeys};
    use crate::meta::db::Db;
    use crate::store::StoreId;

    const STORE: [u8; 16] = [1; 16];

    /// The keys of epoch 1, and of 1 and 2.
    fn subkeys() -> (Vec<Subkeys>, Vec<Subkeys>) {
        let secret = Secret::KeyFile(vec![1; 32].into());
        let mut keyring = Keyring::create(&STORE, std::slice::from_ref(&secret), None).unwrap();
        let unlocked = keyring.unlock(&STORE, &secret).unwrap();
        let first = keyring.subkeys(&STORE, &unlocked).unwrap();
        keyring.begin_epoch(&STORE, &unlocked).unwrap();
        (first, keyring.subkeys(&STORE, &unlocked).unwrap())
    }

    fn rows(db: &Db) -> Vec<(i64, Vec<u8>)> {
        let mut statement = db.prepare("SELECT id, runs FROM freed ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Makes everything durable and copies it back.
    fn copy_back(db: &Db) {
        db.files().release(db.files().wal_mark()).unwrap();
        assert!(db.checkpoint().unwrap());
    }

    #[test]
    fn pages_that_are_written_meanwhile_are_in_the_new_file_too() {
        let (first, both) = subkeys();
        let keys = Keys::new(first).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        let files = MetaFiles::with_keys(Arc::clone(&dir), false, keys.clone()).unwrap();
        let db = Db::create(files, StoreId(1), [0; 16]).unwrap();
        db.run(
            "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 1500)
             INSERT INTO freed SELECT k, randomblob(3000) FROM n",
        )
        .unwrap();
        copy_back(&db);
        assert!(!db.files().has_older_pages().unwrap());
        keys.add(both.clone()).unwrap();
        assert!(db.files().has_older_pages().unwrap());
        // Begun, and thrown away.
        assert!(db.files().reseal_some().unwrap().is_some() && dir.exists(NEW_NAME).unwrap());
        db.files().abandon_reseal();
        assert!(!dir.exists(NEW_NAME).unwrap());
        let mut round = 0;
        while db.files().reseal_some().unwrap().is_some() {
            round += 1;
            // Before the place where the copy is, and behind it, and behind the end.
            db.run(&format!(
                "UPDATE freed SET runs = randomblob(3000) WHERE id % 97 = {round};
                 INSERT INTO freed SELECT id + 10000 * {round}, randomblob(3000) FROM freed WHERE id < 10"
            ))
            .unwrap();
            if round % 3 != 0 {
                copy_back(&db);
            }
        }
        assert!(round > 10, "{round}");
        db.run("UPDATE freed SET runs = randomblob(3000) WHERE id % 5 = 0").unwrap();
        copy_back(&db);
        assert!(!db.files().has_older_pages().unwrap() && !dir.exists(NEW_NAME).unwrap());
        assert!(db.cut_wal().unwrap());
        let expected = rows(&db);
        drop(db);
        let newest: Vec<Subkeys> = both.into_iter().filter(|keys| keys.epoch() == 2).collect();
        let files = MetaFiles::with_keys(dir, false, Keys::new(newest).unwrap()).unwrap();
        let db = Db::open(files, StoreId(1), false).unwrap();
        assert!(rows(&db) == expected);
        assert_eq!(db.value::<String>("PRAGMA integrity_check").unwrap(), "ok");
    }

    #[test]
    fn a_damaged_page_stays_where_it_is() {
        let (first, both) = subkeys();
        let keys = Keys::new(first).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        let files = MetaFiles::with_keys(Arc::clone(&dir), false, keys.clone()).unwrap();
        let db = Db::create(files, StoreId(1), [0; 16]).unwrap();
        copy_back(&db);
        keys.add(both).unwrap();
        let file = dir.open(DATABASE_NAME, OpenMode::ReadWrite).unwrap();
        file.write_at(&[IoSlice::new(&[7; 10])], 3 * 4096 + 50).unwrap();
        assert!(matches!(db.files().reseal_some(), Err(Fault::Damaged(12288))));
        assert!(!dir.exists(NEW_NAME).unwrap());
    }
}
