//! Sealing a segment again, under newer keys.
//!
//! A new file beside the old one gets the same blocks at the same addresses, sealed with the newest keys, and takes its
//! name when it is durable. Nothing that refers to the blocks changes, whatever they are shared by. As each address is a
//! nonce once under a key: a block keeps its bytes for good, so that one who is interrupted and begins again seals the
//! same message. Segments that are being filled are none of this: what could still be appended would be another message.

use super::super::SEGMENT_DIR;
use super::super::address::BlockAddr;
use super::super::layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_BLOCKS, SEGMENT_HEADER_BYTES, data_offset, in_group,
    seal_offset, segment_len,
};
use super::super::segment::{SegmentFile, SegmentHeader, segment_name, segment_of_name};
use super::{ReadError, Segments};
use crate::backing::{Dir, File, OpenMode, is_unreadable, read_padded};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// What the name of a file that is not whole yet ends with.
const NEW_SUFFIX: &str = ".new";

/// How many segments there are, and how many of them are sealed with older keys than those of epoch `newest`. Only their
/// headers are looked at.
///
/// # Errors
/// When the directory or a file cannot be read.
pub fn count_by_epoch(dir: &dyn Dir, newest: u32) -> io::Result<(u64, u64)> {
    let epochs = key_epochs(dir)?;
    let older = epochs.iter().filter(|epoch| epoch.is_none_or(|epoch| epoch < newest.into()));
    Ok((epochs.len() as u64, older.count() as u64))
}

/// The newest key epoch that any segment is sealed in; 0 if there is none. Only their headers are looked at.
///
/// # Errors
/// As [`count_by_epoch`].
pub fn newest_key_epoch(dir: &dyn Dir) -> io::Result<u64> {
    Ok(key_epochs(dir)?.into_iter().flatten().max().unwrap_or(0))
}

/// The key epoch in the header of each segment, if that is whole.
fn key_epochs(dir: &dyn Dir) -> io::Result<Vec<Option<u64>>> {
    let mut epochs = Vec::new();
    for id in dir.list(SEGMENT_DIR)?.iter().filter_map(|name| segment_of_name(name)) {
        let file = match dir.open(&segment_name(id), OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut header = [0; SEGMENT_HEADER_BYTES];
        match read_padded(&*file, &mut header, 0) {
            Ok(_) => epochs.push(SegmentHeader::key_epoch_of(&header)),
            // As where it is damaged.
            Err(e) if is_unreadable(&e) => epochs.push(None),
            Err(e) => return Err(e),
        }
    }
    Ok(epochs)
}

/// How far a segment has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// So many bytes of the file are done, and some are left.
    More(u64),
    /// All blocks are in the new file but these, whose seals do not open. If something refers to them, they are damaged and
    /// the segment must stay as it is.
    Copied(Vec<BlockAddr>),
}

/// Why a segment could not be sealed again. It is what it was.
#[derive(Debug, Error)]
pub enum ResealError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new file could not be written; `StorageFull` when the host file system is full.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The new file has its name, and may lose it with the power.
    #[error("{}: {source}", path.display())]
    Sync {
        /// The directory.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// A segment that is being sealed again.
#[derive(Debug)]
pub(super) struct Resealing {
    old: Arc<SegmentFile>,
    new: SegmentFile,
    /// Length of the old file.
    len: u64,
    /// The next block.
    next: u32,
    /// Blocks that did not open.
    unopened: Vec<BlockAddr>,
    /// Blocks without a seal: they are elsewhere, or did not open.
    unsealed: Vec<BlockAddr>,
}

fn new_name(id: u64) -> String {
    segment_name(id) + NEW_SUFFIX
}

impl Resealing {
    pub(super) fn id(&self) -> u64 {
        self.old.id
    }

    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        // Behind its end there is nothing yet.
        if offset < self.new.file.len()? { self.new.file.punch(offset, len) } else { Ok(()) }
    }

    fn is_copied(&self) -> bool {
        self.next >= SEGMENT_BLOCKS || segment_len(self.next) >= self.len
    }

    /// Copies the next group of blocks.
    fn copy_group(&mut self, path: impl Fn(u64) -> PathBuf) -> Result<(), ResealError> {
        let id = self.id();
        let read = |source| ResealError::Read(ReadError::Io { path: path(id), source });
        let count = in_group(self.next, GROUP_BLOCKS);
        let mut stored = vec![0; count as usize * BLOCK_BYTES];
        let mut seals = vec![0; count as usize * SEAL_BYTES];
        let whole = read_padded(&*self.old.file, &mut stored, data_offset(self.next))
            .and_then(|_| read_padded(&*self.old.file, &mut seals, seal_offset(self.next)));
        let unreadable = match whole {
            Ok(_) => Vec::new(),
            Err(e) if is_unreadable(&e) => self.read_each(&mut stored, &mut seals).map_err(read)?,
            Err(e) => return Err(read(e)),
        };
        self.unopened.extend(unreadable);
        self.seal_group(&mut stored, &mut seals)
            .and_then(|out| self.write_group(&out, &seals))
            .map_err(|source| ResealError::Write { path: path(id), source })?;
        self.next += count;
        Ok(())
    }

    /// Reads the blocks of the next group one by one, and which of them the disk cannot read: all of them where it cannot read their seals.
    /// There are zeros for these.
    fn read_each(&self, stored: &mut [u8], seals: &mut [u8]) -> io::Result<Vec<BlockAddr>> {
        let has_seals = self.old.read_each(seals, stored, self.next)?;
        let mut unreadable = Vec::new();
        let mut block = [0; BLOCK_BYTES];
        for index in self.next..self.next + (stored.len() / BLOCK_BYTES) as u32 {
            let addr = BlockAddr { segment: self.id(), index };
            match read_padded(&*self.old.file, &mut block, data_offset(index)) {
                // What was given back needs no seal.
                Ok(_) if has_seals || block == [0; BLOCK_BYTES] => {}
                Ok(_) => unreadable.push(addr),
                Err(e) if is_unreadable(&e) => unreadable.push(addr),
                Err(e) => return Err(e),
            }
        }
        Ok(unreadable)
    }

    /// Opens blocks and seals them again: contents to be written, with `None` for what is none. `seals` becomes theirs.
    fn seal_group(&mut self, stored: &mut [u8], seals: &mut [u8]) -> io::Result<Vec<Option<Vec<u8>>>> {
        let mut out = Vec::with_capacity(stored.len() / BLOCK_BYTES);
        let blocks = stored.chunks_exact_mut(BLOCK_BYTES).zip(seals.chunks_exact_mut(SEAL_BYTES));
        for (index, (block, seal)) in (self.next..).zip(blocks) {
            let addr = BlockAddr { segment: self.old.id, index };
            let punched = block.iter().all(|byte| *byte == 0);
            if punched || !self.old.sealer.open(addr, block, seal) {
                if !punched {
                    // A crash may have come between the end of its seal and that of its contents.
                    let has_none = seal.iter().all(|byte| *byte == 0);
                    let list = if has_none { &mut self.unsealed } else { &mut self.unopened };
                    list.push(addr);
                }
                seal.fill(0);
                out.push(None);
                continue;
            }
            let mut sealed = vec![0; BLOCK_BYTES];
            seal.copy_from_slice(&self.new.sealer.seal(addr, block, &mut sealed)?);
            out.push(Some(sealed));
        }
        Ok(out)
    }

    fn write_group(&self, out: &[Option<Vec<u8>>], seals: &[u8]) -> io::Result<()> {
        if out.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut index = self.next;
        for run in out.chunk_by(|one, next| one.is_some() == next.is_some()) {
            let slices: Vec<IoSlice<'_>> = run.iter().flatten().map(|block| IoSlice::new(block)).collect();
            if !slices.is_empty() {
                self.new.file.write_at(&slices, data_offset(index))?;
            }
            index += run.len() as u32;
        }
        self.new.file.write_at(&[IoSlice::new(seals)], seal_offset(self.next))?;
        let from = seal_offset(self.next);
        self.new.file.start_writeback(from, segment_len(index) - from);
        Ok(())
    }
}

impl Segments {
    /// Ids of the segments that are not sealed with the newest keys, as far as they can be read at all, and the lengths of
    /// their files.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn sealed_with_older_keys(&self) -> io::Result<Vec<(u64, u64)>> {
        let newest = self.sealer.newest().key_epoch();
        let mut out = Vec::new();
        // What is made from here on is sealed with the newest; its header may not be written yet.
        let next = self.tail.lock().ids.start;
        for id in self.list()?.into_iter().filter(|id| *id < next) {
            match self.open_file(id) {
                Ok(segment) if segment.sealer.key_epoch() != newest => out.push((id, segment.file.len()?)),
                Ok(_) | Err(ReadError::Foreign { .. }) => {}
                // It was empty, and is gone.
                Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(ReadError::Io { source, .. }) => return Err(source),
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(out)
    }

    /// Begins to seal a segment again. False: there is nothing to be done, because it is gone, is being filled, or is sealed
    /// with the newest keys.
    ///
    /// # Errors
    /// See [`ResealError`].
    pub fn begin_reseal(&self, id: u64) -> Result<bool, ResealError> {
        self.abandon_reseal();
        let old = match self.file(id) {
            Ok(old) => old,
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        };
        let sealer = self.sealer.newest();
        let Some(key_epoch) = sealer.key_epoch().filter(|epoch| old.sealer.key_epoch() != Some(*epoch))
        else {
            return Ok(false);
        };
        if self.active() == Some(id) {
            return Ok(false);
        }
        let len = old.file.len().map_err(|source| ReadError::Io { path: self.path(id), source })?;
        let header = SegmentHeader { store: self.store, segment: id, key_epoch }.encode();
        let file = self.create_new(id, &header).map_err(|source| self.not_written(id, source))?;
        let new = SegmentFile::new(id, sealer, file);
        *self.resealing.lock() =
            Some(Resealing { old, new, len, next: 0, unopened: Vec::new(), unsealed: Vec::new() });
        Ok(true)
    }

    fn create_new(&self, id: u64, header: &[u8; SEGMENT_HEADER_BYTES]) -> io::Result<Arc<dyn File>> {
        let file = self.dir.open(&new_name(id), OpenMode::Create)?;
        file.set_len(0).and_then(|()| file.write_at(&[IoSlice::new(header)], 0)).inspect_err(|_| {
            let _ = self.dir.remove(&new_name(id));
        })?;
        Ok(file)
    }

    fn not_written(&self, id: u64, source: io::Error) -> ResealError {
        ResealError::Write { path: self.dir.path(&new_name(id)), source }
    }

    /// Seals the next group of blocks of the segment that was begun; `None` if it is gone meanwhile.
    ///
    /// # Errors
    /// See [`ResealError`].
    pub fn reseal_some(&self) -> Result<Option<Resealed>, ResealError> {
        let mut resealing = self.resealing.lock();
        let Some(copy) = resealing.as_mut() else { return Ok(None) };
        if !copy.is_copied() {
            copy.copy_group(|id| self.dir.path(&new_name(id)))?;
        }
        let done = segment_len(copy.next).min(copy.len);
        Ok(Some(match copy.is_copied() {
            true => {
                let elsewhere = self.elsewhere().filter(|_| self.is_partial());
                let mut unopened = copy.unopened.clone();
                let is_lost = |addr: &&BlockAddr| elsewhere.is_none_or(|elsewhere| !elsewhere.has(**addr));
                unopened.extend(copy.unsealed.iter().filter(is_lost));
                Resealed::Copied(unopened)
            }
            false => Resealed::More(done),
        }))
    }

    /// Puts the new file in the place of the old one.
    ///
    /// # Errors
    /// See [`ResealError`]. After [`ResealError::Sync`], the disk is not to be trusted any more.
    pub fn finish_reseal(&self) -> Result<(), ResealError> {
        let mut resealing = self.resealing.lock();
        let Some(copy) = resealing.take() else { return Ok(()) };
        let id = copy.id();
        let name = new_name(id);
        let written = || {
            if copy.new.file.len()? < copy.len {
                copy.new.file.set_len(copy.len)?;
            }
            copy.new.file.sync()?;
            self.dir.rename(&name, &segment_name(id))
        };
        if let Err(source) = written() {
            let _ = self.dir.remove(&name);
            return Err(self.not_written(id, source));
        }
        {
            let mut open = self.open.lock();
            self.resealed.fetch_add(1, Ordering::AcqRel);
            self.note_use_of(&copy.new);
            open.put(id, Arc::new(copy.new));
        }
        self.note_went(id);
        self.dir
            .sync(SEGMENT_DIR)
            .map_err(|source| ResealError::Sync { path: self.dir.path(SEGMENT_DIR), source })
    }

    /// Throws away what was begun, if something was.
    pub fn abandon_reseal(&self) {
        let Some(copy) = self.resealing.lock().take() else { return };
        let name = new_name(copy.id());
        if let Err(e) = self.dir.remove(&name) {
            log::debug!("{}: {e}", self.dir.path(&name).display());
        }
    }

    /// Removes what an interruption left.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn remove_unfinished(&self) -> io::Result<()> {
        for name in self.dir.list(SEGMENT_DIR)?.iter().filter(|name| name.ends_with(NEW_SUFFIX)) {
            if let Err(e) = self.remove_ours(&format!("{SEGMENT_DIR}/{name}")) {
                log::warn!("{e}");
            }
        }
        Ok(())
    }
}
