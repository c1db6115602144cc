//! Reading pages of a commit past SQLite, while a reader keeps that commit where it is.

use super::MetaFiles;
use super::changed::{self, FRAME_BYTES, FRAME_HEADER_BYTES, Frame, Wanted};
use super::frames;
use super::page::{self, PAGE_BYTES};
use super::shared::{Fault, SharedFile};
use super::spool::PageSpool;
use crate::backing::{File, is_unreadable, read_padded};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// Pages of the database that are read at once: 256 KiB.
const AT_ONCE: usize = 64;
/// Where the first page says which is the first that lists free pages.
const FREE_LIST_AT: usize = 32;

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl MetaFiles {
    /// Reads those of the first `count` pages that are wanted, but for `left_out`, which is none. Nothing is locked while a disk is
    /// read. What does not open is left out where nothing can be in it: where it is one of the commit's free pages.
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
        let spool = PageSpool::new(&self.keys);
        let mut reading = Reading { files: self, database, wal, wanted, count, free: None, spool };
        // Consecutive pages of the database that are not read yet.
        let mut stretch = (0u32, 0usize);
        let mut page = [0; PAGE_BYTES];
        for (number, frame) in wanted.of(count).filter(|(number, _)| *number != left_out) {
            let follows = frame.is_none() && stretch.1 < AT_ONCE && number == stretch.0 + stretch.1 as u32;
            if follows && stretch.1 > 0 {
                stretch.1 += 1;
                continue;
            }
            reading.read_stretch(std::mem::take(&mut stretch))?;
            match frame {
                None => stretch = (number, 1),
                Some(frame) => {
                    reading.wal.read_frame(number, frame, &mut page)?;
                    reading.spool.push(&*self.dir, number, &page)?;
                }
            }
        }
        reading.read_stretch(stretch)?;
        reading.spool.flush(&*self.dir)?;
        Ok(reading.spool)
    }
}

/// Why a page of the database is not there as it was written.
struct Damage {
    fault: Fault,
    /// There are zeros: what a page is that never was written, and what most disks leave of one.
    is_zero: bool,
}

impl Damage {
    fn error(self, number: u32, why: Option<String>) -> io::Error {
        let why = why.map(|why| format!("; {why}")).unwrap_or_default();
        match self.fault {
            Fault::Unsealed(page) => damaged(format!("{page} is damaged: its seal does not open{why}")),
            Fault::Io(e) => io::Error::new(e.kind(), format!("page {number} cannot be read: {e}{why}")),
        }
    }
}

/// The pages of a commit as they are being read.
struct Reading<'a> {
    files: &'a MetaFiles,
    database: Arc<SharedFile>,
    wal: Arc<SharedFile>,
    wanted: &'a Wanted,
    count: u32,
    /// The commit's free pages, as soon as somebody asked for them.
    free: Option<HashSet<u32>>,
    spool: PageSpool,
}

impl Reading<'_> {
    fn read_stretch(&mut self, (first, count): (u32, usize)) -> io::Result<()> {
        let mut pages = vec![0; count * PAGE_BYTES];
        let file = self.database.file();
        match read_padded(&*file, &mut pages, page::offset(first)) {
            Ok(_) => {}
            // What lies around the page that the disk cannot read is as good as ever.
            Err(e) if is_unreadable(&e) && count > 1 => {
                return (first..).take(count).try_for_each(|number| self.read_stretch((number, 1)));
            }
            Err(e) if is_unreadable(&e) && count == 1 => {
                let damage = Damage { fault: Fault::Io(e), is_zero: false };
                return self.push_mended(first, &mut pages, damage);
            }
            Err(e) => return Err(e),
        }
        for (number, page) in (first..).zip(pages.chunks_exact_mut(PAGE_BYTES)) {
            match self.open(&file, number, page)? {
                None => self.spool.push(&*self.files.dir, number, page)?,
                Some(damage) => self.push_mended(number, page, damage)?,
            }
        }
        Ok(())
    }

    /// Opens a page that was read from `file`; what is wrong with it, if something is.
    fn open(&self, file: &Arc<dyn File>, number: u32, page: &mut [u8]) -> io::Result<Option<Damage>> {
        let (keys, offset) = (&self.files.keys, page::offset(number));
        let mut is_zero = page::is_zero(page);
        if page::open(keys, page, offset) {
            return Ok(None);
        }
        // All of it was sealed again meanwhile, and the keys of this file may be gone already.
        let now = self.database.file();
        if !Arc::ptr_eq(file, &now) {
            read_padded(&*now, page, offset)?;
            is_zero = page::is_zero(page);
            if page::open(keys, page, offset) {
                return Ok(None);
            }
        }
        Ok(Some(Damage { fault: Fault::Unsealed(format!("page {number}")), is_zero }))
    }

    /// Adds a page that is damaged here, if it can be had elsewhere, and is none of those that nobody reads.
    fn push_mended(&mut self, number: u32, page: &mut [u8], damage: Damage) -> io::Result<()> {
        if damage.is_zero && self.is_free(number)? {
            return Ok(());
        }
        match self.files.heal(&self.database, page, page::offset(number), &damage.fault) {
            Ok(()) => self.spool.push(&*self.files.dir, number, page),
            Err(_) if !damage.is_zero && self.is_free(number)? => Ok(()),
            Err(why) => Err(damage.error(number, why)),
        }
    }

    /// Whether a page is free in this commit: SQLite does not read what is in it before it writes it.
    fn is_free(&mut self, number: u32) -> io::Result<bool> {
        let free = match self.free.take() {
            Some(free) => free,
            None => self.read_free()?,
        };
        Ok(self.free.insert(free).contains(&number))
    }

    /// Reads the commit's free pages, but for those that list the others
    /// (<https://www.sqlite.org/fileformat2.html#the_freelist>).
    fn read_free(&self) -> io::Result<HashSet<u32>> {
        let wrong = || damaged("the list of free pages is damaged".into());
        let number_at = |page: &[u8; PAGE_BYTES], at: usize| {
            page.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes))
        };
        let mut page = [0; PAGE_BYTES];
        self.read_page(1, &mut page)?;
        let mut next = number_at(&page, FREE_LIST_AT).ok_or_else(wrong)?;
        let (mut free, mut lists) = (HashSet::new(), 0);
        while next > 0 {
            lists += 1;
            if next > self.count || lists > self.count {
                return Err(wrong());
            }
            self.read_page(next, &mut page)?;
            next = number_at(&page, 0).ok_or_else(wrong)?;
            for i in 0..number_at(&page, 4).ok_or_else(wrong)? as usize {
                let at = i.checked_mul(4).and_then(|at| at.checked_add(8)).ok_or_else(wrong)?;
                free.insert(number_at(&page, at).ok_or_else(wrong)?);
            }
        }
        Ok(free)
    }

    /// Reads a page of the commit, wanted or not.
    fn read_page(&self, number: u32, page: &mut [u8; PAGE_BYTES]) -> io::Result<()> {
        if let Some(frame) = self.wanted.frame(number) {
            return self.wal.read_frame(number, frame, page);
        }
        let file = self.database.file();
        let damage = match read_padded(&*file, page, page::offset(number)) {
            Ok(_) => self.open(&file, number, page)?,
            Err(e) => Some(Damage { fault: Fault::Io(e), is_zero: false }),
        };
        let Some(damage) = damage else { return Ok(()) };
        let healed = self.files.heal(&self.database, page, page::offset(number), &damage.fault);
        healed.map_err(|why| damage.error(number, why))
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
