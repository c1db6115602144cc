//! Making a database of pages that were read elsewhere.

use super::DATABASE_NAME;
use super::page::{self, PAGE_BYTES};
use super::reseal::NEW_NAME;
use crate::backing::{Dir, File, OpenMode};
use crate::crypto::Keys;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// A database that is being put together from pages. It takes its name when it is whole and durable; what is left of one that
/// does not come to that, the next open removes.
#[derive(Debug)]
pub struct Laying {
    dir: Arc<dyn Dir>,
    keys: Keys,
    file: Arc<dyn File>,
}

impl Laying {
    /// Begins a database in `dir`, whose pages are sealed with the newest of `keys`.
    ///
    /// # Errors
    /// As the backing files.
    pub fn begin(dir: Arc<dyn Dir>, keys: &Keys) -> io::Result<Self> {
        let file = dir.open(NEW_NAME, OpenMode::Create)?;
        file.set_len(0)?;
        Ok(Self { dir, keys: keys.clone(), file })
    }

    /// Puts a page in its place; the first has the number 1. `content` is what SQLite uses of it.
    ///
    /// # Errors
    /// As the backing files; `InvalidData` where a page of this store cannot be so long, or have this number.
    pub fn put(&self, number: u32, content: &[u8]) -> io::Result<()> {
        if content.len() != PAGE_BYTES - page::reserved_bytes(&self.keys) || number == 0 {
            let what =
                format!("page {number} with {} bytes is not a page of this store's metadata", content.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let sealed = page::sealed(&self.keys, content, page::offset(number))?;
        self.file.write_at(&[IoSlice::new(&sealed)], page::offset(number))
    }

    /// Ends the database behind page `count`, and gives it its name, durably.
    ///
    /// # Errors
    /// As the backing files.
    pub fn finish(self, count: u32) -> io::Result<()> {
        self.file.set_len(u64::from(count) * PAGE_BYTES as u64)?;
        self.file.sync()?;
        self.dir.rename(NEW_NAME, DATABASE_NAME)?;
        self.dir.sync("")
    }
}
