//! One backing file as all connections of this process share it.

use super::ReleaseError;
use super::page;
use super::shm::Shm;
use super::wal::{HeldWal, WAL_HEADER_BYTES};
use crate::backing::{File, read_padded};
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Host space kept behind the end of the WAL.
const WAL_AHEAD_BYTES: u64 = 1 << 20;

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
    pub(super) file: Arc<dyn File>,
    pub(super) wal: Mutex<HeldWal>,
    /// Host space is reserved up to here.
    reserved: AtomicU64,
    pub(super) locks: Mutex<Locks>,
    pub(super) shm: Mutex<Shm>,
}

/// Why a read failed.
pub(super) enum Fault {
    Io(io::Error),
    /// The seal of the page did not open.
    Unsealed(u64),
}

impl SharedFile {
    pub(super) fn new(name: &str, file: Arc<dyn File>) -> io::Result<Self> {
        let kind = match name {
            super::DATABASE_NAME => Kind::Database,
            super::WAL_NAME => Kind::Wal,
            _ => Kind::Other,
        };
        let wal = HeldWal::new(if kind == Kind::Wal { file.len()? } else { 0 });
        Ok(Self {
            kind,
            name: name.to_owned(),
            file,
            wal: Mutex::new(wal),
            reserved: AtomicU64::new(0),
            locks: Mutex::default(),
            shm: Mutex::default(),
        })
    }

    /// Reads, and says how many bytes there were; the rest of `buf` is zero.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize, Fault> {
        if self.kind == Kind::Wal {
            // Locked while reading: a release moves bytes from the buffer to the file.
            let wal = self.wal.lock();
            let got = read_padded(&*self.file, buf, offset).map_err(Fault::Io)?;
            return Ok(wal.overlay(buf, offset, got));
        }
        let got = read_padded(&*self.file, buf, offset).map_err(Fault::Io)?;
        let whole_page = self.kind == Kind::Database && got == buf.len() && page::is_page(got, offset);
        if whole_page && !page::opens(buf, offset) {
            return Err(Fault::Unsealed(offset / page::PAGE_BYTES as u64 + 1));
        }
        Ok(got)
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.kind {
            Kind::Wal => self.wal.lock().write(data, offset),
            Kind::Database if page::is_page(data.len(), offset) => {
                self.file.write_at(&[IoSlice::new(&page::sealed(data, offset))], offset)
            }
            Kind::Database | Kind::Other => self.file.write_at(&[IoSlice::new(data)], offset),
        }
    }

    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        let mut wal = self.wal.lock();
        if self.kind == Kind::Wal {
            wal.truncate(len);
            self.reserved.store(len, Ordering::Relaxed);
        }
        if self.file.len()? > len {
            self.file.set_len(len)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self.kind {
            // The commit protocol does this, at the right moment.
            Kind::Wal => Ok(()),
            Kind::Database | Kind::Other => self.file.sync(),
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match self.kind {
            Kind::Wal => Ok(self.wal.lock().len()),
            Kind::Database | Kind::Other => self.file.len(),
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
            self.file.write_at(&[IoSlice::new(header)], 0).map_err(ReleaseError::Write)?;
            self.file.sync().map_err(ReleaseError::Sync)?;
            rest = (frames, WAL_HEADER_BYTES);
        }
        self.file.write_at(&[IoSlice::new(rest.0)], rest.1).map_err(ReleaseError::Write)?;
        self.file.sync().map_err(ReleaseError::Sync)?;
        self.wal.lock().released(bytes.len());
        self.reserve_ahead(offset + bytes.len() as u64);
        Ok(())
    }

    /// Keeps host space for what comes behind `end`: on a full disk there must be room for the deletions that make
    /// room.
    pub(super) fn reserve_ahead(&self, end: u64) {
        if end + WAL_AHEAD_BYTES / 2 <= self.reserved.load(Ordering::Relaxed) {
            return;
        }
        match self.file.reserve(end, WAL_AHEAD_BYTES) {
            Ok(()) => self.reserved.store(end + WAL_AHEAD_BYTES, Ordering::Relaxed),
            // The disk is full now; what was reserved before is what there is.
            Err(e) => log::debug!("{}: reserving host space: {e}", self.name),
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
