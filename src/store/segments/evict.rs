//! Letting blocks go from this host that are elsewhere as well.
//!
//! A block that is not here has no seal here: zeros, as where nothing ever was. First the seals go, durably, and then the contents. So whatever
//! a crash leaves, a block whose contents are gone is known not to be here; one whose seal has gone is fetched, also if its contents are still
//! here. Whoever reads a block meanwhile finds that it does not open, and fetches it.
//!
//! Invariants:
//! - the store is known to be partial, durably, before the first block goes ([`Segments::set_partial`]);
//! - what is fetched is not put where blocks are just going: who wants it is given it.

use super::super::address::{BlockAddr, Run, coalesce};
use super::super::layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_BLOCKS, data_offset, in_group, seal_offset,
};
use super::super::segment::HeaderState;
use super::resident::Piece;
use super::{Opened, ReadError, Segments};
use crate::backing::{File, OpenMode, read_padded};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Blocks of a piece that are here, or whose seals are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedHere {
    /// The key epoch of the segment; 0 in a plain store.
    pub key_epoch: u64,
    /// The blocks, ascending. Some may have been freed.
    pub runs: Vec<Run>,
    /// The host keeps something for blocks that have no seals: it can be given back ([`Segments::give_back_absent`]).
    pub keeps_absent: bool,
}

/// What has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Blocks.
    pub blocks: u64,
    /// What the host has got back, in bytes, as far as that can be seen.
    pub bytes: u64,
}

/// A segment file, and the key epoch that it is sealed in.
type Sealed = (Arc<dyn File>, u64);

/// Nothing is put where blocks are going, as long as it is there.
struct Going<'a>(&'a Segments);

impl<'a> Going<'a> {
    /// When this returns, nobody is just putting something there.
    fn begin(segments: &'a Segments, runs: impl Iterator<Item = Run>) -> Self {
        segments.gone.write().are_going(runs);
        Self(segments)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.gone.write().have_gone();
    }
}

impl Segments {
    /// The blocks of a piece that have seals here; `None` if its segment is not here.
    ///
    /// # Errors
    /// As the backing files; [`ReadError::Foreign`].
    pub fn sealed_here(&self, piece: &Piece) -> Result<Option<SealedHere>, ReadError> {
        let Some((file, key_epoch)) = self.open_to_evict(piece.segment, OpenMode::Read)? else {
            return Ok(None);
        };
        let first = piece.number * GROUP_BLOCKS;
        let mut page = [0; GROUP_BLOCKS as usize * SEAL_BYTES];
        let io = |source| ReadError::Io { path: self.path(piece.segment), source };
        read_padded(&*file, &mut page, seal_offset(first)).map_err(io)?;
        let (runs, absent) = by_seals(piece, &page);
        let (mut keeps_absent, len) = (false, file.len().map_err(io)?);
        for run in absent.into_iter().filter(|run| data_offset(run.start.index) < len) {
            keeps_absent |= file.has_data(data_offset(run.start.index), bytes_of(run)).map_err(io)?;
        }
        Ok(Some(SealedHere { key_epoch, runs, keeps_absent }))
    }

    /// Gives back to the host what it keeps for blocks of a piece that are not here, and how many bytes that were, as far as that can be seen:
    /// when the power goes, seals that went stay gone, and contents may be there again. Nothing of what is being written goes, nor while the
    /// segment is sealed again.
    ///
    /// # Errors
    /// As the backing files; [`ReadError::Foreign`].
    pub fn give_back_absent(&self, piece: &Piece) -> Result<u64, ReadError> {
        let id = piece.segment;
        let resealing = self.resealing.lock();
        if !self.is_partial() || resealing.as_ref().is_some_and(|copy| copy.id() == id) {
            return Ok(0);
        }
        let Some((file, _)) = self.open_to_evict(id, OpenMode::ReadWrite)? else { return Ok(0) };
        // While this is held, nothing that was fetched is put there.
        let gone = self.gone.write();
        if self.is_filled(id) {
            return Ok(0);
        }
        let give_back = || {
            let mut page = [0; GROUP_BLOCKS as usize * SEAL_BYTES];
            read_padded(&*file, &mut page, seal_offset(piece.number * GROUP_BLOCKS))?;
            let (mut back, mut is_synced) = (0, false);
            for run in by_seals(piece, &page).1 {
                let (offset, len) = (data_offset(run.start.index), bytes_of(run));
                if file.has_data(offset, len)? {
                    // Seals may have gone without that being durable, where a sync has failed.
                    if !std::mem::replace(&mut is_synced, true) {
                        file.sync()?;
                    }
                    back += punched(&*file, run)?;
                }
            }
            Ok(back)
        };
        let back = give_back().map_err(|source| ReadError::Io { path: self.path(id), source })?;
        drop(gone);
        self.note_went(id);
        Ok(back)
    }

    /// Whether something may be written to blocks of a segment that have no seals yet.
    fn is_filled(&self, id: u64) -> bool {
        let all = Run::new(BlockAddr { segment: id, index: 0 }, SEGMENT_BLOCKS);
        self.active() == Some(id)
            || self.pending.lock().states.contains_key(&id)
            || self.deferred.first_of(all).is_some()
    }

    /// The file of a segment, opened anew, so that whoever syncs its blocks hears of what goes wrong with them, and the key epoch that it is
    /// sealed in; `None` if it is not there, or not to be trusted.
    fn open_to_evict(&self, id: u64, mode: OpenMode) -> Result<Option<Sealed>, ReadError> {
        match self.look_at_file(id, mode) {
            Ok(Opened { file, state: HeaderState::Good, sealer }) => {
                Ok(sealer.key_epoch().map(|key_epoch| (file, key_epoch)))
            }
            Ok(Opened { state: HeaderState::Foreign(what), .. }) => {
                Err(ReadError::Foreign { path: self.path(id), what })
            }
            Ok(_) => Ok(None),
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether blocks were given back to the host: their file is there, and has holes where they were. Else they were damaged if they do not open.
    pub fn are_given_back(&self, run: Run) -> bool {
        let Ok(segment) = self.file(run.start.segment) else { return false };
        let Ok(len) = segment.file.len() else { return false };
        let is_hole = |index: u32, count: u32| {
            let (offset, bytes) = (data_offset(index), u64::from(count) * BLOCK_BYTES as u64);
            offset + bytes <= len && segment.file.has_data(offset, bytes).is_ok_and(|has| !has)
        };
        by_group(run).all(|(index, count)| is_hole(index, count))
    }

    /// Lets blocks go: each run with the key epoch that it is known to be sealed in. They are elsewhere, for certain, and it is known, durably,
    /// that the store is partial. Those of segments that are sealed otherwise, or are just being sealed again, stay.
    ///
    /// # Errors
    /// As the backing files: what was not yet gone then is here, or is fetched when it is read. [`ReadError::Foreign`], also where the store
    /// is not partial.
    pub fn evict(&self, runs: &[(Run, u64)]) -> Result<Evicted, ReadError> {
        let mut runs = runs.to_vec();
        runs.sort_unstable();
        let mut done = Evicted::default();
        let Some((first, _)) = runs.first() else { return Ok(done) };
        if !self.is_partial() {
            let what = "its blocks cannot go, because it is not known that some may not be here".to_owned();
            return Err(ReadError::Foreign { path: self.path(first.start.segment), what });
        }
        let _going = Going::begin(self, runs.iter().map(|(run, _)| *run));
        for some in runs.chunk_by(|(one, _), (next, _)| one.start.segment == next.start.segment) {
            let gone = self.evict_in(some)?;
            done.blocks += gone.blocks;
            done.bytes += gone.bytes;
        }
        Ok(done)
    }

    /// The same for blocks of one segment.
    fn evict_in(&self, runs: &[(Run, u64)]) -> Result<Evicted, ReadError> {
        let Some(id) = runs.first().map(|(run, _)| run.start.segment) else { return Ok(Evicted::default()) };
        let resealing = self.resealing.lock();
        if resealing.as_ref().is_some_and(|copy| copy.id() == id) {
            return Ok(Evicted::default());
        }
        let Some((file, sealed_in)) = self.open_to_evict(id, OpenMode::ReadWrite)? else {
            return Ok(Evicted::default());
        };
        let groups: Vec<(u32, u32)> = runs
            .iter()
            .filter(|(_, key_epoch)| *key_epoch == sealed_in)
            .flat_map(|(run, _)| by_group(*run))
            .collect();
        let gone = || {
            let no_seals = [0; GROUP_BLOCKS as usize * SEAL_BYTES];
            for (index, count) in &groups {
                let seals = &no_seals[..*count as usize * SEAL_BYTES];
                file.write_at(&[IoSlice::new(seals)], seal_offset(*index))?;
            }
            // Nothing goes that is not known to have gone.
            file.sync()?;
            let before = file.allocated()?;
            let mut back = 0;
            for (index, count) in &groups {
                back += punched(&*file, Run::new(BlockAddr { segment: id, index: *index }, *count))?;
            }
            // (As much may have come into the file meanwhile; and not each host says what of a file it keeps.)
            Ok(back.max(before.saturating_sub(file.allocated()?)))
        };
        let io = |source| ReadError::Io { path: self.path(id), source };
        let bytes = gone().map_err(io)?;
        drop(resealing);
        let mut firsts: Vec<u32> =
            groups.iter().map(|(index, _)| index / GROUP_BLOCKS * GROUP_BLOCKS).collect();
        firsts.dedup();
        for first in firsts {
            self.give_back_seals(id, &*file, first).map_err(io)?;
        }
        self.note_went(id);
        Ok(Evicted { blocks: groups.iter().map(|(_, count)| u64::from(*count)).sum(), bytes })
    }

    /// Gives the page of a group's seals back to the host, if no block of the group is here: without it, what is not here would take the more room
    /// the more it is.
    fn give_back_seals(&self, id: u64, file: &dyn File, first: u32) -> io::Result<()> {
        // While this is held, nothing that was fetched is put there.
        let _gone = self.gone.write();
        if self.is_filled(id) {
            return Ok(());
        }
        let mut page = [0; BLOCK_BYTES];
        read_padded(file, &mut page, seal_offset(first))?;
        if page.iter().any(|byte| *byte != 0) {
            return Ok(());
        }
        file.punch(seal_offset(first), BLOCK_BYTES as u64)
    }
}

fn bytes_of(run: Run) -> u64 {
    u64::from(run.count) * BLOCK_BYTES as u64
}

/// Gives blocks back to the host: how many bytes it has back, as far as it says what of a file it keeps.
fn punched(file: &dyn File, run: Run) -> io::Result<u64> {
    let (offset, len) = (data_offset(run.start.index), bytes_of(run));
    file.punch(offset, len)?;
    Ok(if file.has_data(offset, len)? { 0 } else { len })
}

/// The blocks of a piece that have seals in the page of its seals, and those that have none.
fn by_seals(piece: &Piece, page: &[u8]) -> (Vec<Run>, Vec<Run>) {
    let each = (piece.number * GROUP_BLOCKS..).zip(page.chunks_exact(SEAL_BYTES));
    let (mut sealed, mut absent) = (Vec::new(), Vec::new());
    for (index, seal) in each {
        let block = Run::new(BlockAddr { segment: piece.segment, index }, 1);
        if seal.iter().any(|byte| *byte != 0) { sealed.push(block) } else { absent.push(block) }
    }
    coalesce(&mut sealed);
    coalesce(&mut absent);
    (sealed, absent)
}

/// Index and count of the blocks of a run in each of its groups.
fn by_group(run: Run) -> impl Iterator<Item = (u32, u32)> {
    let mut index = run.start.index;
    std::iter::from_fn(move || {
        let count = in_group(index, run.end_index().checked_sub(index).filter(|count| *count > 0)?);
        index += count;
        Some((index - count, count))
    })
}
