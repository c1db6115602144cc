//! Reading pages of a commit past SQLite, while a reader keeps that commit where it is.

use super::MetaFiles;
use super::changed::{self, FRAME_BYTES, FRAME_HEADER_BYTES, Frame, Wanted};
use super::frames;
use super::page::{self, PAGE_BYTES};
use super::shared::{Fault, SharedFile};
use super::spool::PageSpool;
use crate::backing::read_padded;
use std::io;
use std::sync::Arc;

/// Pages of the database that are read at once: 256 KiB.
const AT_ONCE: usize = 64;

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl MetaFiles {
    /// Reads those of the first `count` pages that are wanted, but for `left_out`, which is none. Nothing is locked while a disk is
    /// read.
    ///
    /// # Errors
    /// As the backing files; `InvalidData` where a page or a frame is not what was written.
    pub(in crate::meta) fn read_pages(
        &self,
        wanted: &Wanted,
        count: u32,
        left_out: u32,
    ) -> io::Result<PageSpool> {
        let gone = || io::Error::other("the database is not open");
        let (database, wal) = (self.database().ok_or_else(gone)?, self.wal().ok_or_else(gone)?);
        let mut spool = PageSpool::new(&self.keys);
        // Consecutive pages of the database that are not read yet.
        let mut stretch = (0u32, 0usize);
        let mut page = [0; PAGE_BYTES];
        for (number, frame) in wanted.of(count).filter(|(number, _)| *number != left_out) {
            let follows = frame.is_none() && stretch.1 < AT_ONCE && number == stretch.0 + stretch.1 as u32;
            if follows && stretch.1 > 0 {
                stretch.1 += 1;
                continue;
            }
            self.read_stretch(&database, std::mem::take(&mut stretch), &mut spool)?;
            match frame {
                None => stretch = (number, 1),
                Some(frame) => {
                    wal.read_frame(number, frame, &mut page)?;
                    spool.push(&*self.dir, number, &page)?;
                }
            }
        }
        self.read_stretch(&database, stretch, &mut spool)?;
        spool.flush()?;
        Ok(spool)
    }

    fn read_stretch(
        &self,
        database: &SharedFile,
        (first, count): (u32, usize),
        spool: &mut PageSpool,
    ) -> io::Result<()> {
        let mut pages = vec![0; count * PAGE_BYTES];
        let file = database.file();
        read_padded(&*file, &mut pages, page::offset(first))?;
        for (number, page) in (first..).zip(pages.chunks_exact_mut(PAGE_BYTES)) {
            let stored = page.to_vec();
            let mut opened = page::open(&self.keys, page, page::offset(number));
            // All of it was sealed again meanwhile, and the keys of this file may be gone already.
            if !opened && !Arc::ptr_eq(&file, &database.file()) {
                read_padded(&*database.file(), page, page::offset(number))?;
                opened = page::open(&self.keys, page, page::offset(number));
            }
            if opened {
                spool.push(&*self.dir, number, page)?;
            } else if stored.iter().any(|byte| *byte != 0) {
                let fault = Fault::Unsealed(format!("page {number}"));
                if let Err(why) = self.heal(database, page, page::offset(number), &fault) {
                    let why = why.map(|why| format!("; {why}")).unwrap_or_default();
                    return Err(damaged(format!("page {number} is damaged: its seal does not open{why}")));
                }
                spool.push(&*self.dir, number, page)?;
            }
        }
        Ok(())
    }
}

impl SharedFile {
    /// Reads a page from the frame in which it was written to the WAL.
    fn read_frame(&self, number: u32, at: Frame, out: &mut [u8; PAGE_BYTES]) -> io::Result<()> {
        let mut frame = [0; FRAME_BYTES];
        if self.keys.is_encrypted() {
            frames::read(&self.keys, &*self.file(), &mut frame, at.offset)?;
        } else {
            read_padded(&*self.file(), &mut frame, at.offset)?;
        }
        let (header, page) = frame.split_at(FRAME_HEADER_BYTES);
        if header[..4] != number.to_be_bytes() || changed::sum(page) != at.sum {
            let what = format!("page {number} is damaged in {}, at offset {}", self.name, at.offset);
            return Err(damaged(what));
        }
        out.copy_from_slice(page);
        Ok(())
    }
}
