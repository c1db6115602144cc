//! What reading and changing contents have in common: locks, blocks, the change of a range.

use super::{Fs, FsError, Ino, Result};
use crate::meta::{
    AttrChange, FILE_MAX, Inode, Kind, MapRun, MapTo, Meta, MetaError, Mutation, Piece, Remap,
};
use crate::store::{BLOCK_BYTES, Run};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
const STRIPES: usize = 256;

/// A zeroed or filled block.
pub(super) type Block = Box<[u8; BLOCK_BYTES]>;

/// Orders changes of contents. A change that only puts whole blocks in place takes a shared lock; one that reads
/// before it writes (part of a block, a tail to be zeroed) takes the lock alone.
#[derive(Debug)]
pub(super) struct ContentLocks {
    stripes: Vec<RwLock<()>>,
}

impl Default for ContentLocks {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| RwLock::new(())).collect() }
    }
}

/// A held content lock.
pub(super) enum ContentGuard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl ContentLocks {
    fn stripe(ino: Ino) -> usize {
        ino as usize % STRIPES
    }

    pub(super) fn shared(&self, ino: Ino) -> ContentGuard<'_> {
        ContentGuard::Shared { _guard: self.stripes[Self::stripe(ino)].read() }
    }

    pub(super) fn alone(&self, ino: Ino) -> ContentGuard<'_> {
        ContentGuard::Alone { _guard: self.stripes[Self::stripe(ino)].write() }
    }

    /// Two inodes at once, in an order that cannot deadlock.
    pub(super) fn both(&self, one: Ino, two: Ino) -> Vec<ContentGuard<'_>> {
        let mut stripes = [Self::stripe(one), Self::stripe(two)];
        stripes.sort_unstable();
        let mut guards = vec![ContentGuard::Alone { _guard: self.stripes[stripes[0]].write() }];
        if stripes[0] != stripes[1] {
            guards.push(ContentGuard::Alone { _guard: self.stripes[stripes[1]].write() });
        }
        guards
    }
}

/// A change of contents in the making: new blocks and what becomes of ranges.
#[derive(Default)]
pub(super) struct ContentChange<'a> {
    /// New blocks with the file blocks they become, in the order they are written.
    pub(super) data: Vec<(u64, &'a [u8])>,
    /// What else changes, before the new blocks are put in place.
    pub(super) ranges: Vec<MapRun>,
}

impl Fs {
    /// An inode that must be a regular file.
    pub(super) fn regular(&self, meta: &mut Meta, ino: Ino) -> Result<Inode> {
        let inode = meta.inode(self.volume, ino)?;
        match inode.kind() {
            Kind::Regular => Ok(inode),
            Kind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    /// The contents of one block of a file as they are now: zeros where nothing is.
    pub(super) fn block(&self, ino: Ino, block: u64) -> Result<Block> {
        let mut out: Block = Box::new([0; BLOCK_BYTES]);
        loop {
            let pieces = self.store.meta().pieces(self.volume, ino, block, 1)?;
            let Some(run) = pieces.first().and_then(|piece| piece.run) else {
                out.fill(0);
                return Ok(out);
            };
            match self.read_run(run, &mut out[..], super::Wait::Yes) {
                Ok(()) => return Ok(out),
                Err(e) => self.explain_read(ino, &[(block, 1)], e)?,
            }
        }
    }

    /// Writes new blocks and puts them, and the other ranges, in place as one mutation. `finish` sees the inode as it
    /// is then, and gives its new size and attributes. Returns by how many blocks the file has grown, or shrunk.
    pub(super) fn change_content(
        &self,
        ino: Ino,
        change: &ContentChange<'_>,
        finish: impl FnOnce(&mut Meta, &Inode) -> Result<(Option<u64>, AttrChange)>,
    ) -> Result<i64> {
        let parts: Vec<&[u8]> = change.data.iter().map(|(_, bytes)| *bytes).collect();
        let (mut failed, mut gained) = (None, 0);
        let result = self.store.append(&parts, |meta, runs| {
            let mut remap = Remap { runs: change.ranges.clone(), ..Remap::default() };
            remap.runs.extend(place(&change.data, runs));
            let inode = meta.inode(self.volume, ino)?;
            match finish(meta, &inode) {
                Ok((size, attr)) => (remap.size, remap.attr) = (size, attr),
                Err(e) => {
                    failed = Some(e);
                    return Err(MetaError::Refused(crate::meta::Refusal::Invalid));
                }
            }
            gained = self.store.apply(meta, self.volume, &Mutation::Remap { ino, remap })?.gained;
            Ok(())
        });
        self.nodes.note_changed(ino);
        match failed {
            Some(e) => Err(e),
            None => Ok(result.map(|()| gained)?),
        }
    }

    /// Refuses offsets that no file can have.
    pub(super) fn check_range(offset: u64, len: u64) -> Result<u64> {
        offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(FsError::TooLarge)
    }
}

/// Matches the blocks that were written, in order, with the places in the file they are for.
fn place(data: &[(u64, &[u8])], runs: &[Run]) -> Vec<MapRun> {
    let mut out: Vec<MapRun> = Vec::with_capacity(data.len() + runs.len());
    let mut runs = runs.iter().copied();
    let mut run: Option<Run> = runs.next();
    for (first, bytes) in data {
        let mut first = *first;
        let mut left = (bytes.len() / BLOCK_BYTES) as u32;
        while left > 0 {
            let Some(now) = run else { return out };
            let count = left.min(now.count);
            let to = MapTo::Data(now.start);
            match out.last_mut() {
                // Parts of one write that follow each other in the file and in the segment are one run.
                Some(MapRun { first: f, count: c, to: MapTo::Data(addr) })
                    if *f + *c == first && addr.plus(*c as u32) == now.start =>
                {
                    *c += u64::from(count);
                }
                _ => out.push(MapRun { first, count: u64::from(count), to }),
            }
            first += u64::from(count);
            left -= count;
            run = if count == now.count { runs.next() } else { Some(now.part(count, now.count - count)) };
        }
    }
    out
}

/// Which block of the file is `block`, if one of the pieces of its map still refers to it.
pub(super) fn block_of(pieces: &[Piece], block: Run) -> Option<u64> {
    pieces.iter().find_map(|piece| {
        let run = piece.run.filter(|run| run.start.segment == block.start.segment)?;
        let has = run.start.index <= block.start.index && block.start.index < run.end_index();
        has.then(|| piece.first + u64::from(block.start.index - run.start.index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BlockAddr;

    #[test]
    fn blocks_are_matched_with_their_places_in_order() {
        let bytes = vec![0u8; 10 * BLOCK_BYTES];
        let run = |segment, index, count| Run::new(BlockAddr { segment, index }, count);
        let parts: Vec<(u64, &[u8])> =
            vec![(7, &bytes[..BLOCK_BYTES]), (8, &bytes[..4 * BLOCK_BYTES]), (20, &bytes[..BLOCK_BYTES])];
        let placed = place(&parts, &[run(1, 100, 3), run(2, 0, 3)]);
        let data = |segment, index| MapTo::Data(BlockAddr { segment, index });
        assert_eq!(
            placed,
            [
                MapRun { first: 7, count: 3, to: data(1, 100) },
                MapRun { first: 10, count: 2, to: data(2, 0) },
                MapRun { first: 20, count: 1, to: data(2, 2) },
            ]
        );
    }

    #[test]
    fn a_block_is_found_where_the_map_has_it() {
        let run = |segment, index, count| Run::new(BlockAddr { segment, index }, count);
        let piece = |first, run: Option<Run>| Piece { first, count: run.map_or(3, |run| run.count), run };
        let pieces = [piece(4, Some(run(1, 10, 2))), piece(6, None), piece(9, Some(run(2, 10, 5)))];
        assert_eq!(block_of(&pieces, run(1, 11, 1)), Some(5));
        assert_eq!(block_of(&pieces, run(2, 14, 1)), Some(13));
        for other in [run(1, 12, 1), run(1, 9, 1), run(3, 10, 1)] {
            assert_eq!(block_of(&pieces, other), None, "{other:?}");
        }
    }
}
