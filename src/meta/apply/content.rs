//! Mutations of file contents: which blocks a file refers to.

use super::super::chunk::{Effort, File, Look, Side};
use super::super::chunk_map::{ChunkMap, Extent, Place};
use super::super::error::{MetaError, Refusal, Result};
use super::super::mutation::{MapRun, MapTo, Outcome, Remap};
use super::super::types::{CHUNK_BLOCKS, FILE_MAX, Ino, Kind};
use super::Applier;
use crate::store::{BLOCK_BYTES, BlockAddr, Run};
use std::ops::Range;

const CHUNK: u64 = CHUNK_BLOCKS as u64;
/// Blocks of the largest file.
const FILE_BLOCKS: u64 = FILE_MAX / BLOCK_BYTES as u64;
/// Chunks up to which each is looked at in the cache, and the table is not asked which there are.
const FEW_CHUNKS: u64 = 4;

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

/// The chunks that lie in a range of blocks as a whole, and the blocks before and behind them.
fn whole_chunks(first: u64, end: u64) -> (Range<u64>, [Range<u64>; 2]) {
    let chunks = first.div_ceil(CHUNK)..end / CHUNK;
    if chunks.is_empty() {
        return (0..0, [first..end, end..end]);
    }
    let edges = [first..chunks.start * CHUNK, chunks.end * CHUNK..end];
    (chunks, edges)
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
        let makes_groups =
            |run: &MapRun| matches!(run.to, MapTo::Zero | MapTo::Reserved) && run.count >= CHUNK;
        let mut file = File::of(&inode);
        file.has_groups |= remap.runs.iter().any(makes_groups);
        self.must_fit(file, &remap.runs)?;

        self.begin_writing();
        // Even an orphan can get something while a request ends whose mount is gone.
        self.head.reaping.remove(&ino);
        let mut delta = 0i64;
        for run in &remap.runs {
            delta += match run.to {
                MapTo::Hole => self.make_hole(file, run.first, run.first + run.count)?,
                MapTo::Reserved => self.reserve_holes(file, run.first, run.first + run.count)?,
                MapTo::Zero => self.make_zeros(file, run.first, run.first + run.count)?,
                MapTo::Data(addr) | MapTo::Shared(addr) => self.map_run(file, run, addr)?,
            };
        }
        let mut inode = self.inode(ino)?;
        let wrong = || MetaError::damaged(format!("inode {ino} has a wrong count of blocks"));
        inode.blocks = inode.blocks.checked_add_signed(delta).ok_or_else(wrong)?;
        self.head.usage.blocks = self.head.usage.blocks.checked_add_signed(delta).ok_or_else(wrong)?;
        inode.size = remap.size.unwrap_or(inode.size);
        self.change_attr(&mut inode, &remap.attr)?;
        self.put(inode)?;
        Ok(Outcome { gained: delta, ..Outcome::default() })
    }

    /// Refuses what would exceed the size limit.
    fn must_fit(&mut self, file: File, runs: &[MapRun]) -> Result<()> {
        let most: u64 = runs.iter().filter(|run| run.to != MapTo::Hole).map(|run| run.count).sum();
        if most == 0 || self.head.blocks_fit(most) {
            return Ok(());
        }
        let growth = self.growth(file, runs)?;
        if growth <= 0 || self.head.blocks_fit(growth as u64) { Ok(()) } else { Err(Refusal::NoSpace.into()) }
    }

    /// By how many blocks the file would grow.
    fn growth(&mut self, file: File, runs: &[MapRun]) -> Result<i64> {
        let mut growth = 0i64;
        for run in runs {
            let mapped = self.mapped(file, run.first, run.first + run.count)?;
            growth -= mapped as i64;
            if run.to != MapTo::Hole {
                growth += run.count as i64;
            }
        }
        Ok(growth)
    }

    /// Calls `each` with what is not a hole in a range of chunks, in time that depends on what is there and not on its length: to
    /// cut a file is to make a hole up to the end of the largest there can be.
    fn for_each_look(
        &mut self,
        file: File,
        chunks: Range<u64>,
        mut each: impl FnMut(&mut Self, Look) -> Result<()>,
    ) -> Result<()> {
        let mut from = chunks.start;
        while from < chunks.end {
            let side = (Side::Start, Effort::A_PART);
            let look = self.head.chunks.look(self.db, &self.head.lineage, file, from..chunks.end, side)?;
            from = look.seen.end;
            each(self, look)?;
        }
        Ok(())
    }

    /// How many blocks of the range the file has.
    fn mapped(&mut self, file: File, first: u64, end: u64) -> Result<u64> {
        let chunks = first / CHUNK..end.div_ceil(CHUNK);
        let mut mapped = 0;
        let mut add = |applier: &mut Self, idx: u64| -> Result<()> {
            let (start, stop) = part_of_chunk(idx, first, end);
            let blocks = |map: &ChunkMap| map.within(start, stop).map(|e| u64::from(e.count)).sum::<u64>();
            mapped += applier.with_chunk(file, idx, blocks)?;
            Ok(())
        };
        if chunks.end - chunks.start <= FEW_CHUNKS {
            chunks.into_iter().try_for_each(|idx| add(self, idx))?;
            return Ok(mapped);
        }
        let mut reserved = 0;
        self.for_each_look(file, chunks, |applier, look| {
            look.chunks.into_iter().try_for_each(|idx| add(applier, idx))?;
            let blocks = |run: &Range<u64>| (run.end * CHUNK).min(end) - (run.start * CHUNK).max(first);
            reserved += look.reserved.iter().map(blocks).sum::<u64>();
            Ok(())
        })?;
        Ok(mapped + reserved)
    }

    fn with_chunk<T>(&mut self, file: File, idx: u64, look: impl FnOnce(&ChunkMap) -> T) -> Result<T> {
        self.head.chunks.with(self.db, &self.head.lineage, (file, idx), look)
    }

    fn change_chunk<T>(
        &mut self,
        file: File,
        idx: u64,
        change: impl FnOnce(&mut ChunkMap) -> T,
    ) -> Result<T> {
        self.head.chunks.change(self.db, &self.head.lineage, (file, idx), change)
    }

    /// Puts `place` (`None`: a hole) at blocks of a chunk; returns by how many blocks the file grew.
    fn put_place(&mut self, file: File, slice: &Slice, place: Option<Place>) -> Result<i64> {
        let dropped = self.change_chunk(file, slice.idx, |map| map.replace(slice.first, slice.end, place))?;
        let new = if place.is_some() { i64::from(slice.end - slice.first) } else { 0 };
        Ok(new - self.drop_extents(&dropped)?)
    }

    /// Puts new or shared blocks where the run says; returns by how many blocks the file grew.
    fn map_run(&mut self, file: File, run: &MapRun, addr: BlockAddr) -> Result<i64> {
        let born = self.head.lineage.head();
        let blocks = Run::new(addr, run.count as u32);
        match run.to {
            // Before anything is dropped: the range may hold the only other references to these very blocks.
            MapTo::Shared(_) => self.space.share(self.db, blocks)?,
            _ => self.space.born(blocks),
        }
        let mut delta = 0;
        for slice in slices(run.first, run.count) {
            let place = Place::Data { addr: addr.plus(slice.skip as u32), born };
            delta += self.put_place(file, &slice, Some(place))?;
        }
        Ok(delta)
    }

    /// Reserves the range, whatever is there; returns by how many blocks the file grew.
    fn make_zeros(&mut self, file: File, first: u64, end: u64) -> Result<i64> {
        let (chunks, edges) = whole_chunks(first, end);
        let mut delta = 0;
        for slice in edges.into_iter().flat_map(|edge| slices(edge.start, edge.end - edge.start)) {
            delta += self.put_place(file, &slice, Some(Place::Reserved))?;
        }
        self.for_each_look(file, chunks, |applier, look| {
            for idx in &look.chunks {
                delta -= applier.empty_chunk(file, *idx)?;
            }
            delta += applier.reserve_chunks(file, look.seen)?;
            Ok(())
        })?;
        Ok(delta)
    }

    /// Reserves the holes of the range; returns by how many blocks the file grew.
    fn reserve_holes(&mut self, file: File, first: u64, end: u64) -> Result<i64> {
        let (chunks, edges) = whole_chunks(first, end);
        let mut delta = 0;
        for slice in edges.into_iter().flat_map(|edge| slices(edge.start, edge.end - edge.start)) {
            delta += self.fill_holes(file, &slice)?;
        }
        self.for_each_look(file, chunks, |applier, look| {
            let mut from = look.seen.start;
            for idx in look.chunks {
                delta += applier.reserve_chunks(file, from..idx)?;
                let whole = Slice { idx, first: 0, end: CHUNK_BLOCKS, skip: 0 };
                delta += applier.fill_holes(file, &whole)?;
                from = idx + 1;
            }
            delta += applier.reserve_chunks(file, from..look.seen.end)?;
            Ok(())
        })?;
        Ok(delta)
    }

    /// Reserves the holes of a part of a chunk; returns by how many blocks the file grew.
    fn fill_holes(&mut self, file: File, slice: &Slice) -> Result<i64> {
        let taken: Vec<Extent> =
            self.with_chunk(file, slice.idx, |map| map.within(slice.first, slice.end).collect())?;
        let mut grown = 0i64;
        let mut at = slice.first;
        for (hole_end, next) in taken.iter().map(|e| (e.first, e.end())).chain([(slice.end, slice.end)]) {
            if at < hole_end {
                self.change_chunk(file, slice.idx, |map| {
                    map.replace(at, hole_end, Some(Place::Reserved));
                })?;
                grown += i64::from(hole_end - at);
            }
            at = next;
        }
        Ok(grown)
    }

    /// Reserves chunks without extents as a whole; returns by how many blocks the file grew.
    fn reserve_chunks(&mut self, file: File, chunks: Range<u64>) -> Result<i64> {
        if chunks.is_empty() {
            return Ok(0);
        }
        let new = self.head.chunks.reserve(self.db, &self.head.lineage, file.ino, chunks)?;
        Ok((new * CHUNK) as i64)
    }

    /// Makes a chunk with extents a hole; returns how many blocks it had.
    fn empty_chunk(&mut self, file: File, idx: u64) -> Result<i64> {
        let map = self.head.chunks.take(self.db, &self.head.lineage, file.ino, idx)?;
        self.drop_extents(map.extents())
    }

    /// Makes the range a hole; returns by how many blocks the file grew (never more than 0).
    fn make_hole(&mut self, file: File, first: u64, end: u64) -> Result<i64> {
        let mut delta = 0;
        let (whole, _) = whole_chunks(first, end);
        self.for_each_look(file, first / CHUNK..end.div_ceil(CHUNK), |applier, look| {
            for idx in look.chunks {
                if whole.contains(&idx) {
                    delta -= applier.empty_chunk(file, idx)?;
                } else {
                    delta += applier.cut_chunk(file, idx, first, end)?;
                }
            }
            for run in look.reserved {
                let inside = run.start.max(whole.start)..run.end.min(whole.end);
                for idx in run.filter(|idx| !whole.contains(idx)) {
                    delta += applier.cut_chunk(file, idx, first, end)?;
                }
                if !inside.is_empty() {
                    let (db, lineage) = (applier.db, &applier.head.lineage);
                    let gone = applier.head.chunks.release(db, lineage, file.ino, inside)?;
                    delta -= (gone * CHUNK) as i64;
                }
            }
            Ok(())
        })?;
        Ok(delta)
    }

    /// Makes the part of a chunk that lies in the range a hole.
    fn cut_chunk(&mut self, file: File, idx: u64, first: u64, end: u64) -> Result<i64> {
        let (first, end) = part_of_chunk(idx, first, end);
        self.put_place(file, &Slice { idx, first, end, skip: 0 }, None)
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
    fn a_range_is_its_whole_chunks_and_what_is_beside_them() {
        for (first, end) in
            [(0, 1), (0, 256), (1, 256), (1, 512), (255, 257), (300, 400), (0, 2560), (5, 2570)]
        {
            let (chunks, edges) = whole_chunks(first, end);
            let mut blocks: Vec<u64> = (chunks.start * CHUNK..chunks.end * CHUNK).collect();
            blocks.extend(edges.into_iter().flatten());
            blocks.sort_unstable();
            assert!(blocks.into_iter().eq(first..end), "{first} {end}");
        }
    }

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
