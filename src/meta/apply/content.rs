//! Mutations of file contents: which blocks a file refers to.

use super::super::chunk_map::{ChunkMap, Extent, Place};
use super::super::error::{MetaError, Refusal, Result};
use super::super::mutation::{MapRun, MapTo, Outcome, Remap};
use super::super::types::{CHUNK_BLOCKS, FILE_MAX, Ino, Kind};
use super::Applier;
use crate::store::{BLOCK_BYTES, Run};

const CHUNK: u64 = CHUNK_BLOCKS as u64;
/// Blocks of the largest file.
const FILE_BLOCKS: u64 = FILE_MAX / BLOCK_BYTES as u64;
/// Chunks handled between two looks at the table, when a long range becomes a hole.
const HOLE_BATCH: usize = 4096;

/// The part of a run that lies in one chunk.
struct Slice {
    idx: u64,
    /// Blocks of the chunk.
    first: u32,
    end: u32,
    /// Blocks of the run before this part.
    skip: u64,
}

/// Cuts `count` blocks from `first` on at the chunks' borders.
fn slices(first: u64, count: u64) -> impl Iterator<Item = Slice> {
    let end = first + count;
    let mut at = first;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let idx = at / CHUNK;
        let stop = end.min((idx + 1) * CHUNK);
        let slice =
            Slice { idx, first: (at % CHUNK) as u32, end: (stop - idx * CHUNK) as u32, skip: at - first };
        at = stop;
        Some(slice)
    })
}

/// Which blocks of a chunk lie in a range of the file that touches it.
fn part_of_chunk(idx: u64, first: u64, end: u64) -> (u32, u32) {
    let start = first.saturating_sub(idx * CHUNK).min(CHUNK) as u32;
    (start, (end - idx * CHUNK).min(CHUNK) as u32)
}

impl Applier<'_> {
    pub(super) fn remap(&mut self, ino: Ino, remap: &Remap) -> Result<Outcome> {
        let inode = self.inode(ino)?;
        if inode.kind() != Kind::Regular {
            return Err(if inode.is_dir() { Refusal::IsDirectory } else { Refusal::Invalid }.into());
        }
        if remap.size.is_some_and(|size| size > FILE_MAX) {
            return Err(Refusal::TooLarge.into());
        }
        for run in &remap.runs {
            let bounded = run.first.checked_add(run.count).is_some_and(|end| end <= FILE_BLOCKS);
            if run.count == 0 || !bounded {
                return Err(Refusal::TooLarge.into());
            }
        }
        self.must_fit(ino, &remap.runs)?;

        self.begin_writing();
        let mut delta = 0i64;
        for run in &remap.runs {
            delta += match run.to {
                MapTo::Hole => self.make_hole(ino, run.first, run.count)?,
                MapTo::Reserved => self.reserve_holes(ino, run.first, run.count)?,
                MapTo::Zero | MapTo::Data(_) | MapTo::Shared(_) => self.map_run(ino, run)?,
            };
        }
        let mut inode = self.inode(ino)?;
        let wrong = || MetaError::damaged(format!("inode {ino} has a wrong count of blocks"));
        inode.blocks = inode.blocks.checked_add_signed(delta).ok_or_else(wrong)?;
        self.head.usage.blocks = self.head.usage.blocks.checked_add_signed(delta).ok_or_else(wrong)?;
        inode.size = remap.size.unwrap_or(inode.size);
        self.change_attr(&mut inode, &remap.attr)?;
        self.put(inode)?;
        Ok(Outcome::default())
    }

    /// Refuses what would exceed the size limit.
    fn must_fit(&mut self, ino: Ino, runs: &[MapRun]) -> Result<()> {
        let most: u64 = runs.iter().filter(|run| run.to != MapTo::Hole).map(|run| run.count).sum();
        if most == 0 || self.head.blocks_fit(most) {
            return Ok(());
        }
        let growth = self.growth(ino, runs)?;
        if growth <= 0 || self.head.blocks_fit(growth as u64) { Ok(()) } else { Err(Refusal::NoSpace.into()) }
    }

    /// By how many blocks the file would grow.
    fn growth(&mut self, ino: Ino, runs: &[MapRun]) -> Result<i64> {
        let mut growth = 0i64;
        for run in runs {
            let mapped = self.mapped(ino, run.first, run.count)?;
            growth -= mapped as i64;
            if run.to != MapTo::Hole {
                growth += run.count as i64;
            }
        }
        Ok(growth)
    }

    /// How many blocks of the range the file has, in time that depends on what is there and not on its length: to cut a file
    /// is to make a hole up to the end of the largest there can be.
    fn mapped(&mut self, ino: Ino, first: u64, count: u64) -> Result<u64> {
        let end = first + count;
        let mut from = first / CHUNK;
        let mut mapped = 0;
        loop {
            let range = from..end.div_ceil(CHUNK);
            let indices = self.head.chunks.indices(self.db, &self.head.lineage, ino, range, HOLE_BATCH)?;
            let Some(last) = indices.last() else { return Ok(mapped) };
            from = last + 1;
            for idx in indices {
                let (start, stop) = part_of_chunk(idx, first, end);
                mapped += self.with_chunk(ino, idx, |map| {
                    map.within(start, stop).map(|e| u64::from(e.count)).sum::<u64>()
                })?;
            }
        }
    }

    fn with_chunk<T>(&mut self, ino: Ino, idx: u64, look: impl FnOnce(&ChunkMap) -> T) -> Result<T> {
        self.head.chunks.with(self.db, &self.head.lineage, (ino, idx), look)
    }

    fn change_chunk<T>(&mut self, ino: Ino, idx: u64, change: impl FnOnce(&mut ChunkMap) -> T) -> Result<T> {
        self.head.chunks.change(self.db, &self.head.lineage, (ino, idx), change)
    }

    /// Puts new, shared or reserved blocks where the run says; returns by how many blocks the file grew.
    fn map_run(&mut self, ino: Ino, run: &MapRun) -> Result<i64> {
        let born = self.head.lineage.head();
        let place_at = |skip: u64| match run.to {
            MapTo::Data(addr) | MapTo::Shared(addr) => Place::Data { addr: addr.plus(skip as u32), born },
            MapTo::Zero | MapTo::Hole | MapTo::Reserved => Place::Reserved,
        };
        match run.to {
            MapTo::Data(addr) => self.space.born(Run::new(addr, run.count as u32)),
            // Before anything is dropped: the range may hold the only other references to these very blocks.
            MapTo::Shared(addr) => self.space.share(self.db, Run::new(addr, run.count as u32))?,
            MapTo::Zero | MapTo::Hole | MapTo::Reserved => {}
        }
        let mut delta = run.count as i64;
        for slice in slices(run.first, run.count) {
            let place = place_at(slice.skip);
            let dropped =
                self.change_chunk(ino, slice.idx, |map| map.replace(slice.first, slice.end, Some(place)))?;
            delta -= self.drop_extents(&dropped)?;
        }
        Ok(delta)
    }

    /// Reserves the holes of the range; returns by how many blocks the file grew.
    fn reserve_holes(&mut self, ino: Ino, first: u64, count: u64) -> Result<i64> {
        let mut delta = 0;
        for slice in slices(first, count) {
            delta += self.change_chunk(ino, slice.idx, |map| {
                let taken: Vec<Extent> = map.within(slice.first, slice.end).collect();
                let mut grown = 0i64;
                let mut at = slice.first;
                for (hole_end, next) in
                    taken.iter().map(|e| (e.first, e.end())).chain([(slice.end, slice.end)])
                {
                    if at < hole_end {
                        map.replace(at, hole_end, Some(Place::Reserved));
                        grown += i64::from(hole_end - at);
                    }
                    at = next;
                }
                grown
            })?;
        }
        Ok(delta)
    }

    /// Makes the range a hole, in time that depends on what is there and not on its length; returns by how many
    /// blocks the file grew (never more than 0).
    fn make_hole(&mut self, ino: Ino, first: u64, count: u64) -> Result<i64> {
        let end = first + count;
        let mut from = first / CHUNK;
        let mut delta = 0;
        loop {
            let range = from..end.div_ceil(CHUNK);
            let indices = self.head.chunks.indices(self.db, &self.head.lineage, ino, range, HOLE_BATCH)?;
            let Some(last) = indices.last() else { return Ok(delta) };
            from = last + 1;
            for idx in indices {
                let (start, stop) = part_of_chunk(idx, first, end);
                let dropped = if (start, stop) == (0, CHUNK_BLOCKS) {
                    self.head.chunks.remove(self.db, &self.head.lineage, (ino, idx))?.extents().to_vec()
                } else {
                    self.change_chunk(ino, idx, |map| map.replace(start, stop, None))?
                };
                delta -= self.drop_extents(&dropped)?;
            }
        }
    }

    /// Gives up the references of extents that left a map; returns how many blocks they had.
    pub(super) fn drop_extents(&mut self, extents: &[Extent]) -> Result<i64> {
        let mut blocks = 0;
        for extent in extents {
            blocks += i64::from(extent.count);
            if let (Place::Data { born, .. }, Some(run)) = (extent.place, extent.run()) {
                // A reference from an older generation is still held by the row of that generation.
                if self.head.lineage.is_exclusive(born) {
                    self.space.drop_reference(self.db, run)?;
                }
            }
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_a_range_without_gaps() {
        for (first, count) in [(0, 1), (255, 1), (255, 2), (0, 256), (100, 1000), (256, 256)] {
            let mut at = first;
            for slice in slices(first, count) {
                assert_eq!(slice.idx * CHUNK + u64::from(slice.first), at);
                assert_eq!(slice.skip, at - first);
                assert!(slice.first < slice.end && slice.end <= CHUNK_BLOCKS);
                at += u64::from(slice.end - slice.first);
            }
            assert_eq!(at, first + count);
        }
    }
}
