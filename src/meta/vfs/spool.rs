//! Pages that were read and wait to be used, in memory or, where they are many, in a file without a name.
//!
//! What is in the file is sealed like the database is, under the number of each page. Where the disk has no room for the file, more waits in
//! memory: what is to be copied elsewhere is nowhere else yet, and must not wait until somebody makes room here.

use super::page::{self, PAGE_BYTES};
use crate::backing::{Dir, File, OpenMode, is_full, read_padded};
use crate::crypto::Keys;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The name that the file has until it is opened. What an interruption leaves is removed by the next that needs one.
const NAME: &str = "meta.db.pages.new";
/// Pages in memory.
const IN_MEMORY: usize = (4 << 20) / PAGE_BYTES;
/// Pages that are written at once.
const AT_ONCE: usize = 64;
/// Pages in memory beside those where the disk is full: 128 MiB, all there is to know of a million files.
const UNWRITTEN: usize = (128 << 20) / PAGE_BYTES;

/// Pages of the database, each with its number, in the order in which they were put in.
#[derive(Debug)]
pub struct PageSpool {
    keys: Keys,
    numbers: Vec<u32>,
    /// Contents of the first pages.
    memory: Vec<u8>,
    /// The others, sealed.
    file: Option<Arc<dyn File>>,
    /// The last of them, which are not written yet.
    unwritten: Vec<u8>,
    /// The disk had no room for what was not written when it had so many bytes.
    full_at: usize,
}

impl PageSpool {
    pub(super) fn new(keys: &Keys) -> Self {
        let (numbers, memory, unwritten) = (Vec::new(), Vec::new(), Vec::new());
        Self { keys: keys.clone(), numbers, memory, file: None, unwritten, full_at: 0 }
    }

    /// Bytes of a page that SQLite uses.
    pub fn page_bytes(&self) -> usize {
        PAGE_BYTES - page::reserved_bytes(&self.keys)
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The numbers of the pages, ascending, the first of a database being 1.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Puts a page behind the others; of `page`, what SQLite uses.
    pub(super) fn push(&mut self, dir: &dyn Dir, number: u32, page: &[u8]) -> io::Result<()> {
        let content = &page[..self.page_bytes()];
        if self.numbers.len() < IN_MEMORY {
            self.memory.extend_from_slice(content);
        } else {
            self.unwritten.extend_from_slice(&page::sealed(&self.keys, content, page::offset(number))?);
            if self.unwritten.len() >= self.full_at + AT_ONCE * PAGE_BYTES {
                self.numbers.push(number);
                return self.write(dir);
            }
        }
        self.numbers.push(number);
        Ok(())
    }

    /// Writes what waits, as far as the disk has room for it.
    pub(super) fn flush(&mut self, dir: &dyn Dir) -> io::Result<()> {
        if self.unwritten.len() > self.full_at { self.write(dir) } else { Ok(()) }
    }

    fn write(&mut self, dir: &dyn Dir) -> io::Result<()> {
        match self.try_write(dir) {
            Ok(()) => (self.unwritten, self.full_at) = (Vec::new(), 0),
            Err(e) if is_full(&e) && self.unwritten.len() < UNWRITTEN * PAGE_BYTES => {
                self.full_at = self.unwritten.len();
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn try_write(&mut self, dir: &dyn Dir) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = dir.open(NAME, OpenMode::Create)?;
                dir.remove(NAME)?;
                file.set_len(0)?;
                &*self.file.insert(file)
            }
        };
        let end = self.numbers.len().saturating_sub(IN_MEMORY) * PAGE_BYTES;
        let start = end - self.unwritten.len();
        file.write_at_uncached(&[IoSlice::new(&self.unwritten)], start as u64)
    }

    /// Reads the page at a place in the order into `out`, of [`PageSpool::page_bytes`] bytes, and gives its number.
    ///
    /// # Errors
    /// As pread(2); `InvalidData` if it is not what was put there, and `InvalidInput` if there is none.
    pub fn read(&self, place: usize, out: &mut [u8]) -> io::Result<u32> {
        let none = || io::Error::from(io::ErrorKind::InvalidInput);
        let bytes = self.page_bytes();
        let number = *self.numbers.get(place).filter(|_| out.len() == bytes).ok_or_else(none)?;
        let Some(behind) = place.checked_sub(IN_MEMORY) else {
            out.copy_from_slice(&self.memory[place * bytes..(place + 1) * bytes]);
            return Ok(number);
        };
        let (mut sealed, at) = ([0; PAGE_BYTES], behind * PAGE_BYTES);
        let written = (self.numbers.len().saturating_sub(IN_MEMORY) * PAGE_BYTES) - self.unwritten.len();
        if let Some(at) = at.checked_sub(written) {
            sealed.copy_from_slice(self.unwritten.get(at..at + PAGE_BYTES).ok_or_else(none)?);
        } else {
            read_padded(&**self.file.as_ref().ok_or_else(none)?, &mut sealed, at as u64)?;
        }
        if !page::open(&self.keys, &mut sealed, page::offset(number)) {
            let what = format!("page {number} of the metadata is damaged where it was put for a while");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        out.copy_from_slice(&sealed[..bytes]);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::keys;
    use super::*;
    use crate::backing::OsDir;

    #[test]
    fn many_pages_come_back_as_they_were_and_leave_no_file() {
        for keys in [Keys::Plain, keys()] {
            let tmp = tempfile::tempdir().unwrap();
            let dir = OsDir::new(tmp.path());
            let mut spool = PageSpool::new(&keys);
            let number = |i: usize| (i * 3 + 1) as u32;
            for i in 0..IN_MEMORY + 3 * AT_ONCE + 5 {
                spool.push(&dir, number(i), &[i as u8; PAGE_BYTES]).unwrap();
            }
            spool.flush(&dir).unwrap();
            assert!(dir.list("").unwrap().is_empty());
            let mut out = vec![0; spool.page_bytes()];
            for i in (0..spool.len()).rev() {
                assert_eq!(spool.read(i, &mut out).unwrap(), number(i));
                assert!(out.iter().all(|byte| *byte == i as u8), "{i}");
            }
            assert!(spool.read(spool.len(), &mut out).is_err() && spool.read(0, &mut out[1..]).is_err());
        }
    }

    /// A directory on a disk that has no room for more than so many bytes of a file.
    #[derive(Debug)]
    struct Full(OsDir, u64);

    #[derive(Debug)]
    struct FullFile(Arc<dyn File>, u64);

    impl Dir for Full {
        fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
            if self.1 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(Arc::new(FullFile(self.0.open(name, mode)?, self.1)))
        }
        fn exists(&self, name: &str) -> io::Result<bool> {
            self.0.exists(name)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn list(&self, subdir: &str) -> io::Result<Vec<String>> {
            self.0.list(subdir)
        }
        fn sync(&self, subdir: &str) -> io::Result<()> {
            self.0.sync(subdir)
        }
        fn host_space(&self) -> io::Result<crate::backing::HostSpace> {
            self.0.host_space()
        }
        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path(name)
        }
    }

    impl File for FullFile {
        fn read_at(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
            self.0.read_at(bufs, offset)
        }
        fn read_at_nowait(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
            self.0.read_at_nowait(bufs, offset)
        }
        fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
            let end = offset + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
            if end > self.1 { Err(io::ErrorKind::StorageFull.into()) } else { self.0.write_at(bufs, offset) }
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }
        fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
            self.0.punch(offset, len)
        }
        fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
            self.0.reserve(offset, len)
        }
        fn start_writeback(&self, offset: u64, len: u64) {
            self.0.start_writeback(offset, len);
        }
        fn prefetch(&self, offset: u64, len: u64) {
            self.0.prefetch(offset, len);
        }
        fn allocated(&self) -> io::Result<u64> {
            self.0.allocated()
        }
        fn has_data(&self, offset: u64, len: u64) -> io::Result<bool> {
            self.0.has_data(offset, len)
        }
    }

    /// Nothing of a store with more metadata than fit into memory was shipped while others had filled the disk.
    #[test]
    fn pages_that_a_full_disk_has_no_room_for_wait_in_memory() {
        for room in [0, 100 * PAGE_BYTES as u64] {
            for keys in [Keys::Plain, keys()] {
                let tmp = tempfile::tempdir().unwrap();
                let dir = Full(OsDir::new(tmp.path()), room);
                let mut spool = PageSpool::new(&keys);
                for i in 0..IN_MEMORY + 5 * AT_ONCE + 5 {
                    spool.push(&dir, i as u32 + 1, &[i as u8; PAGE_BYTES]).unwrap();
                }
                spool.flush(&dir).unwrap();
                let mut out = vec![0; spool.page_bytes()];
                for i in (0..spool.len()).rev() {
                    assert_eq!(spool.read(i, &mut out).unwrap(), i as u32 + 1);
                    assert!(out.iter().all(|byte| *byte == i as u8), "{i}");
                }
            }
        }
    }

    #[test]
    fn no_more_waits_in_memory_than_there_is_room_for() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Full(OsDir::new(tmp.path()), 0);
        let mut spool = PageSpool::new(&Keys::Plain);
        let all = IN_MEMORY + UNWRITTEN + AT_ONCE;
        let full = (0..all).find_map(|i| spool.push(&dir, i as u32 + 1, &[1; PAGE_BYTES]).err());
        assert!(full.is_some_and(|e| is_full(&e)) && spool.len() > UNWRITTEN);
    }
}
