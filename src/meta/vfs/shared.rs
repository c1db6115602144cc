//! One backing file as all connections of this process share it.

use super::ReleaseError;
use super::changed::Changed;
use super::frames;
use super::page;
use super::read_around::ReadAround;
use super::reseal::Copying;
use super::shm::Shm;
use super::wal::{HeldWal, WAL_HEADER_BYTES};
use crate::backing::{File, read_padded};
use crate::crypto::Keys;
use parking_lot::{Mutex, RwLock};
use rusqlite::ffi;
use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Host space kept behind the end of the WAL.
const WAL_AHEAD_BYTES: u64 = 1 << 20;
/// Host space is asked for in steps of this, where there is so much.
const STEP_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Database,
    Wal,
    Other,
}

#[derive(Debug)]
pub(super) struct SharedFile {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// The file of that name. When all of the database was sealed again, it is another.
    file: RwLock<Arc<dyn File>>,
    /// Where the database is being sealed again. Locked while a page is written.
    pub(super) copy: Mutex<Option<Copying>>,
    around: ReadAround,
    pub(super) keys: Keys,
    pub(super) wal: Mutex<HeldWal>,
    /// Host space is reserved up to here.
    reserved: AtomicU64,
    /// See [`super::MetaFiles::write_through`].
    pub(super) through: AtomicBool,
    /// See [`super::MetaFiles::is_in_doubt`].
    pub(super) in_doubt: AtomicBool,
    /// What has changed, where that is asked for.
    changed: Option<Arc<Changed>>,
    pub(super) locks: Mutex<Locks>,
    pub(super) shm: Mutex<Shm>,
}

/// Why a read failed.
pub(super) enum Fault {
    Io(io::Error),
    /// A seal did not open: of what.
    Unsealed(String),
}

impl SharedFile {
    pub(super) fn new(
        name: &str,
        file: Arc<dyn File>,
        keys: Keys,
        changed: Option<Arc<Changed>>,
    ) -> io::Result<Self> {
        let kind = match name {
            super::DATABASE_NAME => Kind::Database,
            super::WAL_NAME => Kind::Wal,
            _ => Kind::Other,
        };
        let wal = HeldWal::new(match kind {
            Kind::Wal if keys.is_encrypted() => frames::len_for_sqlite(file.len()?),
            Kind::Wal => file.len()?,
            _ => 0,
        });
        Ok(Self {
            kind,
            name: name.to_owned(),
            file: RwLock::new(file),
            copy: Mutex::new(None),
            around: ReadAround::default(),
            keys,
            wal: Mutex::new(wal),
            reserved: AtomicU64::new(0),
            through: AtomicBool::new(false),
            in_doubt: AtomicBool::new(false),
            changed,
            locks: Mutex::default(),
            shm: Mutex::default(),
        })
    }

    pub(super) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file.read())
    }

    /// From here on, another file has the name.
    pub(super) fn replace(&self, file: Arc<dyn File>) {
        *self.file.write() = file;
        self.reserved.store(0, Ordering::Relaxed);
    }

    /// Reads, and says how many bytes there were; the rest of `buf` is zero.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize, Fault> {
        if self.kind == Kind::Wal {
            // Locked while reading: a release moves bytes from the buffer to the file.
            let wal = self.wal.lock();
            if wal.read(buf, offset) {
                return Ok(buf.len());
            }
            let got = if self.keys.is_encrypted() {
                frames::read(&self.keys, &*self.file(), buf, offset)
                    .map_err(Fault::Io)?
                    .ok_or_else(|| Fault::Unsealed("a frame".into()))?
            } else {
                read_padded(&*self.file(), buf, offset).map_err(Fault::Io)?
            };
            return Ok(wal.overlay(buf, offset, got));
        }
        if self.kind == Kind::Database && page::is_page(buf.len(), offset) {
            return self.read_page(buf, offset);
        }
        if self.keys.is_encrypted() {
            // Some bytes of the first page, before SQLite knows how long a page is.
            let mut whole = [0; page::PAGE_BYTES];
            let start = offset / page::PAGE_BYTES as u64 * page::PAGE_BYTES as u64;
            let got = match self.read_page(&mut whole, start) {
                // A power cut can tear a page that was being copied back. The WAL has it whole, and SQLite will look there
                // once it knows that the file is a database; if not, it reads the page and finds the damage.
                Err(Fault::Unsealed(_)) if start == 0 => {
                    page::fill_header(&self.keys, &mut whole);
                    whole.len()
                }
                other => other?,
            };
            let from = (offset - start) as usize;
            let count = buf.len().min(got.saturating_sub(from));
            buf.fill(0);
            buf[..count].copy_from_slice(&whole[from..from + count]);
            return Ok(count);
        }
        read_padded(&*self.file(), buf, offset).map_err(Fault::Io)
    }

    fn read_page(&self, buf: &mut [u8], offset: u64) -> Result<usize, Fault> {
        loop {
            let file = self.file();
            let got = self.around.read(&*file, buf, offset).map_err(Fault::Io)?;
            if got < buf.len() {
                if self.keys.is_encrypted() {
                    // A part of a page says nothing.
                    buf.fill(0);
                    return Ok(0);
                }
                return Ok(got);
            }
            if page::open(&self.keys, buf, offset) {
                return Ok(got);
            }
            // Sealed again meanwhile: another file has the page, and the keys of this one may be gone already.
            if Arc::ptr_eq(&file, &self.file()) {
                return Err(Fault::Unsealed(format!("page {}", offset / page::PAGE_BYTES as u64 + 1)));
            }
        }
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.kind {
            Kind::Wal => self.wal.lock().write(data, offset),
            Kind::Database if page::is_page(data.len(), offset) => {
                let sealed = page::sealed(&self.keys, data, offset)?;
                let mut copy = self.copy.lock();
                self.file().write_at(&[IoSlice::new(&sealed)], offset)?;
                Copying::write_too(&mut copy, &sealed, offset);
                Ok(())
            }
            _ if self.keys.is_encrypted() => Err(io::Error::other("only whole pages can be encrypted")),
            Kind::Database | Kind::Other => self.file().write_at(&[IoSlice::new(data)], offset),
        }
    }

    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        let mut wal = self.wal.lock();
        if self.kind == Kind::Wal {
            wal.truncate(len);
            if let Some(changed) = self.changed.as_ref().filter(|_| len == 0) {
                changed.cut();
            }
            self.reserved.store(self.len_on_disk(len), Ordering::Relaxed);
        }
        let len = self.len_on_disk(len);
        self.reserved.fetch_min(len, Ordering::Relaxed);
        let mut copy = self.copy.lock();
        let file = self.file();
        if file.len()? > len {
            file.set_len(len)?;
        }
        Copying::cut_too(&mut copy, len);
        Ok(())
    }

    /// The length on disk of what SQLite sees as `len` bytes.
    fn len_on_disk(&self, len: u64) -> u64 {
        if self.kind == Kind::Wal && self.keys.is_encrypted() { frames::len_on_disk(len) } else { len }
    }

    /// Writes released bytes of the WAL.
    fn write_wal(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.keys.is_encrypted() {
            let (bytes, at) = frames::sealed(&self.keys, bytes, offset)?;
            return self.file().write_at(&[IoSlice::new(&bytes)], at);
        }
        self.file().write_at(&[IoSlice::new(bytes)], offset)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self.kind {
            Kind::Wal if self.through.load(Ordering::Relaxed) => {
                let end = self.wal.lock().end();
                self.release(end).map_err(|e| match e {
                    ReleaseError::Write(e) => e,
                    ReleaseError::Sync(e) => {
                        self.in_doubt.store(true, Ordering::Relaxed);
                        e
                    }
                })
            }
            // The commit protocol does this, at the right moment.
            Kind::Wal => Ok(()),
            Kind::Database | Kind::Other => self.file().sync(),
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match self.kind {
            Kind::Wal => Ok(self.wal.lock().len()),
            Kind::Database | Kind::Other => self.file().len(),
        }
    }

    /// See [`super::MetaFiles::release`].
    pub(super) fn release(&self, mark: u64) -> Result<(), ReleaseError> {
        let (offset, bytes) = self.wal.lock().copy_until(mark);
        if bytes.is_empty() {
            return Ok(());
        }
        let mut rest = (&bytes[..], offset);
        if offset == 0 {
            // A WAL that starts over. Its header goes first and alone, because old frames behind an old header
            // would be taken for new ones.
            let (header, frames) = bytes.split_at(bytes.len().min(WAL_HEADER_BYTES as usize));
            self.write_wal(header, 0).map_err(ReleaseError::Write)?;
            self.file().sync().map_err(ReleaseError::Sync)?;
            rest = (frames, WAL_HEADER_BYTES);
        }
        self.write_wal(rest.0, rest.1).map_err(ReleaseError::Write)?;
        self.file().sync().map_err(ReleaseError::Sync)?;
        if let Some(changed) = &self.changed {
            changed.note(offset, &bytes);
        }
        self.wal.lock().released(bytes.len());
        self.reserve_ahead(offset + bytes.len() as u64);
        Ok(())
    }

    /// Keeps host space up to what SQLite sees as `end`.
    ///
    /// # Errors
    /// As fallocate(2).
    pub(super) fn keep_until(&self, end: u64) -> io::Result<()> {
        let (kept, end) = (self.reserved.load(Ordering::Relaxed), self.len_on_disk(end));
        if end <= kept {
            return Ok(());
        }
        let file = self.file();
        // What was written once has its place.
        let kept = kept.max(file.len()?);
        if end <= kept {
            self.reserved.fetch_max(kept, Ordering::Relaxed);
            return Ok(());
        }
        // What is large grows in larger steps.
        let mut wanted = end + STEP_BYTES.max(kept / 8);
        if file.reserve(kept, wanted - kept).is_err() {
            wanted = end;
            file.reserve(kept, wanted - kept)?;
        }
        self.reserved.fetch_max(wanted, Ordering::Relaxed);
        Ok(())
    }

    /// See [`super::MetaFiles::lend_room`].
    pub(super) fn lend_room(&self, bytes: u64) -> io::Result<u64> {
        let file = self.file();
        let (before, len) = (file.allocated()?, file.len()?);
        // To cut a file where it ends frees what lies behind: there is no way to free a part of it.
        file.set_len(len)?;
        self.reserved.store(0, Ordering::Relaxed);
        let kept = before.saturating_sub(file.allocated()?);
        let rest = kept.saturating_sub(bytes);
        if rest == 0 {
            return Ok(kept);
        }
        if let Err(e) = file.reserve(len, rest) {
            log::warn!("{}: others took the host space that was kept: {e}", self.name);
            return Ok(kept);
        }
        self.reserved.store(len + rest, Ordering::Relaxed);
        Ok(kept - rest)
    }

    /// See [`super::MetaFiles::keep_again`].
    pub(super) fn keep_more(&self, bytes: u64) -> io::Result<()> {
        let file = self.file();
        let from = self.reserved.load(Ordering::Relaxed).max(file.len()?);
        file.reserve(from, bytes)?;
        self.reserved.fetch_max(from + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps host space for what comes behind `end`: on a full disk there must be room for the deletions that make
    /// room.
    pub(super) fn reserve_ahead(&self, end: u64) {
        let end = self.len_on_disk(end);
        if end + WAL_AHEAD_BYTES / 2 <= self.reserved.load(Ordering::Relaxed) {
            return;
        }
        match self.file().reserve(end, WAL_AHEAD_BYTES) {
            Ok(()) => self.reserved.store(end + WAL_AHEAD_BYTES, Ordering::Relaxed),
            // The disk is full now; what was reserved before is what there is.
            Err(e) => log::debug!("{}: cannot reserve host space: {e}", self.name),
        }
    }
}

/// SQLite's database lock, among the connections of this process (<https://www.sqlite.org/lockingv3.html>).
#[derive(Debug, Default)]
pub(super) struct Locks {
    shared: u32,
    /// Whether some connection holds RESERVED or more.
    reserved: bool,
    /// Whether some connection waits for the readers to go (PENDING) or has the file alone (EXCLUSIVE).
    pending: bool,
}

impl Locks {
    /// Raises a connection's lock from `held` to `wanted`; returns the lock it holds then, which is less than `wanted`
    /// when others are in the way.
    pub(super) fn raise(&mut self, held: c_int, wanted: c_int) -> c_int {
        if held == ffi::SQLITE_LOCK_NONE {
            if self.pending {
                return held;
            }
            self.shared += 1;
            return ffi::SQLITE_LOCK_SHARED;
        }
        if held < ffi::SQLITE_LOCK_RESERVED {
            if self.reserved {
                return held;
            }
            self.reserved = true;
        }
        if wanted < ffi::SQLITE_LOCK_EXCLUSIVE {
            return wanted;
        }
        // No new readers; those there are must go by themselves.
        self.pending = true;
        if self.shared > 1 { ffi::SQLITE_LOCK_PENDING } else { ffi::SQLITE_LOCK_EXCLUSIVE }
    }

    /// Lowers a connection's lock from `held` to `wanted`.
    pub(super) fn lower(&mut self, held: c_int, wanted: c_int) {
        if held > ffi::SQLITE_LOCK_SHARED && wanted <= ffi::SQLITE_LOCK_SHARED {
            self.reserved = false;
            self.pending = false;
        }
        if held >= ffi::SQLITE_LOCK_SHARED && wanted == ffi::SQLITE_LOCK_NONE {
            self.shared = self.shared.saturating_sub(1);
        }
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

/// Stands for a WAL that is not there, for a reader that may not make one.
#[derive(Debug)]
pub(super) struct NoFile;

impl File for NoFile {
    fn read_at(&self, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn read_at_nowait(&self, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<Option<usize>> {
        Ok(Some(0))
    }
    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn start_writeback(&self, _: u64, _: u64) {}
    fn prefetch(&self, _: u64, _: u64) {}
    fn allocated(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn has_data(&self, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffi::{
        SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE, SQLITE_LOCK_PENDING, SQLITE_LOCK_RESERVED,
        SQLITE_LOCK_SHARED,
    };

    #[test]
    fn one_writer_and_no_reader_under_an_exclusive_lock() {
        let mut locks = Locks::default();
        assert_eq!(locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED), SQLITE_LOCK_SHARED);
        assert_eq!(locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED), SQLITE_LOCK_SHARED);
        assert_eq!(locks.raise(SQLITE_LOCK_SHARED, SQLITE_LOCK_RESERVED), SQLITE_LOCK_RESERVED);
        assert_eq!(locks.raise(SQLITE_LOCK_SHARED, SQLITE_LOCK_RESERVED), SQLITE_LOCK_SHARED);
        assert_eq!(locks.raise(SQLITE_LOCK_RESERVED, SQLITE_LOCK_EXCLUSIVE), SQLITE_LOCK_PENDING);
        assert_eq!(locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED), SQLITE_LOCK_NONE);
        locks.lower(SQLITE_LOCK_SHARED, SQLITE_LOCK_NONE);
        assert_eq!(locks.raise(SQLITE_LOCK_PENDING, SQLITE_LOCK_EXCLUSIVE), SQLITE_LOCK_EXCLUSIVE);
        locks.lower(SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE);
        assert!(!locks.is_reserved());
        assert_eq!(locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED), SQLITE_LOCK_SHARED);
    }

    #[test]
    fn a_lock_that_was_not_granted_leaves_nothing_behind() {
        let mut locks = Locks::default();
        for _ in 0..2 {
            locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED);
        }
        // What SQLite does when a connection is closed while another is open.
        let held = locks.raise(SQLITE_LOCK_SHARED, SQLITE_LOCK_EXCLUSIVE);
        locks.lower(held, SQLITE_LOCK_NONE);
        assert_eq!(locks.raise(SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED), SQLITE_LOCK_SHARED);
    }
}
