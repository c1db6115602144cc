//! Pages that were read and wait to be used, in memory or, where they are many, in a file without a name.
//!
//! What is in the file is sealed like the database is, under the number of each page.

use super::page::{self, PAGE_BYTES};
use crate::backing::{Dir, File, OpenMode, read_padded};
use crate::crypto::Keys;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The name that the file has until it is opened. What an interruption leaves is removed by the next that needs one.
const NAME: &str = "meta.db.pages.new";
/// Pages in memory.
const IN_MEMORY: usize = (4 << 20) / PAGE_BYTES;
/// Pages that are written at once.
const AT_ONCE: usize = 64;

/// Pages of the database, each with its number, in the order in which they were put in.
#[derive(Debug)]
pub struct PageSpool {
    keys: Keys,
    numbers: Vec<u32>,
    /// Contents of the first pages.
    memory: Vec<u8>,
    /// The others, sealed.
    file: Option<Arc<dyn File>>,
    /// Those of them that are not written yet.
    unwritten: Vec<u8>,
}

impl PageSpool {
    pub(super) fn new(keys: &Keys) -> Self {
        let (numbers, memory, unwritten) = (Vec::new(), Vec::new(), Vec::new());
        Self { keys: keys.clone(), numbers, memory, file: None, unwritten }
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
            if self.file.is_none() {
                let file = dir.open(NAME, OpenMode::Create)?;
                dir.remove(NAME)?;
                file.set_len(0)?;
                self.file = Some(file);
            }
            self.unwritten.extend_from_slice(&page::sealed(&self.keys, content, page::offset(number))?);
            if self.unwritten.len() >= AT_ONCE * PAGE_BYTES {
                self.numbers.push(number);
                return self.flush();
            }
        }
        self.numbers.push(number);
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let (Some(file), false) = (&self.file, self.unwritten.is_empty()) else { return Ok(()) };
        let end = self.numbers.len().saturating_sub(IN_MEMORY) * PAGE_BYTES;
        file.write_at_uncached(&[IoSlice::new(&self.unwritten)], (end - self.unwritten.len()) as u64)?;
        self.unwritten.clear();
        Ok(())
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
        let mut sealed = [0; PAGE_BYTES];
        read_padded(&**self.file.as_ref().ok_or_else(none)?, &mut sealed, (behind * PAGE_BYTES) as u64)?;
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
            spool.flush().unwrap();
            assert!(dir.list("").unwrap().is_empty());
            let mut out = vec![0; spool.page_bytes()];
            for i in (0..spool.len()).rev() {
                assert_eq!(spool.read(i, &mut out).unwrap(), number(i));
                assert!(out.iter().all(|byte| *byte == i as u8), "{i}");
            }
            assert!(spool.read(spool.len(), &mut out).is_err() && spool.read(0, &mut out[1..]).is_err());
        }
    }
}
