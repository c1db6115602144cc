//! SQLite on the store's backing files.
//!
//! SQLite reaches `meta.db` and its WAL through this VFS (<https://www.sqlite.org/vfs.html>), for three reasons:
//! - the files go through [`crate::backing`], so that tests can fail them and cut their power like any other;
//! - **the WAL is held back**. SQLite's COMMIT appends to a buffer here, and [`MetaFiles::release`] writes and syncs
//!   it once the data that the commit names is durable. No lock is held meanwhile: the next transaction is already
//!   being filled while the disks flush;
//! - **pages are sealed**. The last bytes of every page of `meta.db` are its checksum, because SQLite itself has
//!   none outside the WAL: damage is an error and never a wrong name, size or time. In an encrypted store, pages and
//!   frames of the WAL are encrypted on their way to the disk.
//!
//! These two are the only files there are. A rollback journal is neither written nor believed: it would hold pages of an
//! encrypted store as they are, and in a store of somebody else's, name any file of the host for SQLite to open and remove.
//!
//! Only one process has a store open (the store's lock sees to that), so SQLite's file locks and its shared memory
//! live in this process's memory and serve its own connections.

#![expect(unsafe_code, reason = "SQLite's VFS interface is C")]

mod changed;
mod frames;
mod heal;
mod lay;
mod methods;
mod page;
mod pages;
mod read_around;
mod reseal;
mod shared;
mod shm;
mod spool;
mod wal;

pub(super) use changed::Wanted;
pub use heal::HealedPageWatcher;
pub use lay::Laying;
pub(super) use page::PAGE_BYTES;
pub use reseal::Fault as ResealFault;
pub use spool::PageSpool;

use crate::backing::{Dir, File};
use crate::crypto::Keys;
use changed::Changed;
use heal::Heals;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, ffi};
use shared::SharedFile;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

/// Name of the database in its store.
pub const DATABASE_NAME: &str = "meta.db";
/// Name of its write-ahead log.
pub const WAL_NAME: &str = "meta.db-wal";

/// Directories by the number that stands in the "path" which SQLite is given: `<number>/meta.db`.
static DIRECTORIES: LazyLock<Mutex<HashMap<u64, Weak<MetaFiles>>>> = LazyLock::new(Mutex::default);
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// A position in the WAL: everything before it can be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalMark(u64);

/// The backing files of one store's metadata, as SQLite and the commit protocol see them.
#[derive(Debug)]
pub struct MetaFiles {
    number: u64,
    dir: Arc<dyn Dir>,
    files: Mutex<HashMap<String, Arc<SharedFile>>>,
    /// The last error of a backing file: SQLite only passes on "disk I/O error".
    last_error: Mutex<Option<String>>,
    read_only: bool,
    keys: Keys,
    /// Where somebody keeps a copy of the database: see [`MetaFiles::note_changes`].
    changed: OnceLock<Arc<Changed>>,
    /// Where a copy of the database is.
    heals: Heals,
}

impl MetaFiles {
    /// The metadata files in `dir`. With `read_only`, nothing in the directory is ever changed.
    ///
    /// # Errors
    /// When SQLite does not take the VFS.
    pub fn new(dir: Arc<dyn Dir>, read_only: bool) -> io::Result<Arc<Self>> {
        Self::with_keys(dir, read_only, Keys::Plain)
    }

    /// As [`MetaFiles::new`], for a store with these keys.
    ///
    /// # Errors
    /// As [`MetaFiles::new`].
    pub fn with_keys(dir: Arc<dyn Dir>, read_only: bool, keys: Keys) -> io::Result<Arc<Self>> {
        methods::register()?;
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let files = Arc::new(Self {
            number,
            dir,
            files: Mutex::default(),
            last_error: Mutex::new(None),
            read_only,
            keys,
            changed: OnceLock::new(),
            heals: Heals::default(),
        });
        DIRECTORIES.lock().insert(number, Arc::downgrade(&files));
        Ok(files)
    }

    /// Opens a connection to the database, creating it if `create` is set.
    ///
    /// # Errors
    /// As SQLite.
    pub fn connect(&self, create: bool) -> rusqlite::Result<Connection> {
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags |=
            if self.read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        if create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let path = format!("{}/{DATABASE_NAME}", self.number);
        Connection::open_with_flags_and_vfs(path, flags, methods::VFS_NAME)
    }

    /// Bytes at the end of a page that SQLite leaves to us.
    pub(super) fn reserved_bytes(&self) -> usize {
        page::reserved_bytes(&self.keys)
    }

    /// Whether the database is there without its first page. SQLite takes such a file for a new database, and removes
    /// the WAL beside it, which may be all that is left.
    pub(super) fn is_cut_to_nothing(&self) -> bool {
        let file = self.dir.open(DATABASE_NAME, crate::backing::OpenMode::Read);
        file.and_then(|file| file.len()).is_ok_and(|len| len < PAGE_BYTES as u64)
    }

    /// The directory the files are in.
    pub fn dir(&self) -> &dyn Dir {
        &*self.dir
    }

    /// The path of the database, for messages.
    pub fn database_path(&self) -> PathBuf {
        self.dir.path(DATABASE_NAME)
    }

    /// The last error of a backing file, taken.
    pub fn take_error(&self) -> Option<String> {
        self.last_error.lock().take()
    }

    fn note_error(&self, name: &str, what: &str) {
        let text = format!("{}: {what}", self.dir.path(name).display());
        log::error!("{text}");
        *self.last_error.lock() = Some(text);
    }

    fn database(&self) -> Option<Arc<SharedFile>> {
        self.files.lock().get(DATABASE_NAME).cloned()
    }

    fn wal(&self) -> Option<Arc<SharedFile>> {
        self.files.lock().get(WAL_NAME).cloned()
    }

    /// Where the WAL ends now. To be called after a COMMIT, before anything else is written.
    pub fn wal_mark(&self) -> WalMark {
        WalMark(self.wal().map_or(0, |wal| wal.wal.lock().commit()))
    }

    /// Bytes of the WAL that wait to be released.
    pub fn held_bytes(&self) -> u64 {
        self.wal().map_or(0, |wal| wal.wal.lock().held())
    }

    /// Of these, bytes of the open transaction.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.wal().map_or(0, |wal| wal.wal.lock().uncommitted())
    }

    /// Length of the WAL in bytes, without what waits.
    pub fn durable_bytes(&self) -> u64 {
        self.wal().map_or(0, |wal| {
            let wal = wal.wal.lock();
            wal.end() - wal.held()
        })
    }

    /// Length of the WAL in bytes, with what waits.
    pub fn wal_bytes(&self) -> u64 {
        self.wal().map_or(0, |wal| wal.wal.lock().end())
    }

    /// Writes the WAL up to `mark` and makes it durable. Everything that the commits before the mark name must be
    /// durable already. Calls must not overlap.
    ///
    /// # Errors
    /// A failed write (a full disk, say) leaves everything held, and the call can be made again. After a failed
    /// sync the store must not go on: see [`ReleaseError`].
    pub fn release(&self, mark: WalMark) -> Result<(), ReleaseError> {
        match self.wal() {
            Some(wal) => wal.release(mark.0),
            None => Ok(()),
        }
    }

    /// From now on, or no longer: a commit is written and synced before it takes effect. Nothing may be held before it, and
    /// if that fails, SQLite takes the commit back.
    pub(super) fn write_through(&self, through: bool) {
        if let Some(wal) = self.wal() {
            wal.through.store(through, Ordering::Relaxed);
        }
    }

    /// Forgets what is held: SQLite has taken it back.
    pub(super) fn forget_held(&self) {
        if let Some(wal) = self.wal() {
            wal.wal.lock().forget();
        }
    }

    /// Whether a sync of a commit that was written through failed: nobody knows whether it is on the disk.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.wal().is_some_and(|wal| wal.in_doubt.load(Ordering::Relaxed))
    }

    /// Makes durable what a killed process left of the WAL, before it is built upon.
    ///
    /// # Errors
    /// As the backing files.
    pub fn sync_leftover_wal(&self) -> io::Result<()> {
        if self.read_only || !self.dir.exists(WAL_NAME)? {
            return Ok(());
        }
        self.dir.open(WAL_NAME, crate::backing::OpenMode::ReadWrite)?.sync()?;
        self.dir.sync("")
    }

    /// Keeps host space for so many bytes more in the WAL, and for a database that ends there.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn keep_room(&self, wal: u64, database_end: u64) -> io::Result<()> {
        if let Some(file) = self.wal() {
            file.keep_until(self.wal_bytes() + wal)?;
        }
        match self.database() {
            Some(file) => file.keep_until(database_end),
            None => Ok(()),
        }
    }

    /// Gives back up to `bytes` of the host space that is kept behind the end of one of the files: something else of the store
    /// needs it. Returns how much less is kept now; that is more where others took what was to be kept.
    ///
    /// # Errors
    /// As fstat(2) and ftruncate(2).
    pub fn lend_room(&self, name: &str, bytes: u64) -> io::Result<u64> {
        let file = self.files.lock().get(name).cloned();
        file.map_or(Ok(0), |file| file.lend_room(bytes))
    }

    /// Keeps so many bytes more behind the end of one of the files, if there is room for them.
    pub fn keep_again(&self, name: &str, bytes: u64) {
        let file = self.files.lock().get(name).cloned();
        if let Some(Err(e)) = file.map(|file| file.keep_more(bytes)) {
            log::debug!("{name}: cannot keep host space again: {e}");
        }
    }

    /// Keeps host space for what comes next in the WAL, as far as there is some.
    pub fn reserve_wal(&self) {
        if let Some(wal) = self.wal() {
            wal.reserve_ahead(self.wal_bytes());
        }
    }
}

impl Drop for MetaFiles {
    fn drop(&mut self) {
        DIRECTORIES.lock().remove(&self.number);
    }
}

/// The newest key epoch in which something in the WAL of an encrypted store is sealed; 0 if there is nothing. Needs no keys.
///
/// # Errors
/// As the backing files.
pub fn wal_key_epoch(dir: &dyn Dir) -> io::Result<u32> {
    match dir.open(WAL_NAME, crate::backing::OpenMode::Read) {
        Ok(file) => frames::newest_epoch(&*file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

/// Why the WAL could not be made durable.
#[derive(Debug)]
pub enum ReleaseError {
    /// Writing failed; nothing is lost and it can be tried again.
    Write(io::Error),
    /// Syncing failed: what is on disk is unknown from here on.
    Sync(io::Error),
}

/// Whether SQLite has a file of this name.
fn is_ours(name: &str) -> bool {
    matches!(name, DATABASE_NAME | WAL_NAME)
}

fn open_shared(
    files: &Arc<MetaFiles>,
    name: &str,
    flags: std::ffi::c_int,
) -> io::Result<(Arc<SharedFile>, bool)> {
    use crate::backing::OpenMode;
    if !is_ours(name) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "SQLite has no such file in a store"));
    }
    let mut open = files.files.lock();
    if let Some(file) = open.get(name) {
        return Ok((Arc::clone(file), files.read_only));
    }
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let mode = match (files.read_only, create) {
        (true, _) => OpenMode::Read,
        (false, true) => OpenMode::Create,
        (false, false) => OpenMode::ReadWrite,
    };
    let file: Arc<dyn File> = match files.dir.open(name, mode) {
        Ok(file) => file,
        // A reader of a store that was closed cleanly finds no WAL and must not make one.
        Err(e) if files.read_only && name == WAL_NAME && e.kind() == io::ErrorKind::NotFound => {
            Arc::new(shared::NoFile)
        }
        Err(e) => return Err(e),
    };
    let shared = Arc::new(SharedFile::new(name, file, files.keys.clone(), files.changed.get().cloned())?);
    open.insert(name.to_owned(), Arc::clone(&shared));
    Ok((shared, files.read_only))
}

#[cfg(test)]
mod tests {
    use crate::crypto::{Keyring, Keys, Secret};

    /// Keys of some encrypted store.
    pub(super) fn keys() -> Keys {
        let secret = Secret::KeyFile(vec![1; 32].into());
        let keyring = Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
        let unlocked = keyring.unlock(&[1; 16], &secret).unwrap();
        Keys::new(keyring.subkeys(&[1; 16], &unlocked).unwrap()).unwrap()
    }
}
