//! The extents of one chunk, and their bytes in the `chunk` table.

use super::error::{MetaError, Result};
use super::types::{CHUNK_BLOCKS, Gen};
use crate::store::{BlockAddr, Run, SEGMENT_BLOCKS};
use integer_encoding::VarInt;

/// First byte of a map: a list of extents. Other values are for other ways to hold contents.
const KIND_EXTENTS: u8 = 1;

/// What the blocks of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Sealed blocks from this address on. `born` is the generation that this reference to them was made in.
    Data {
        /// First block.
        addr: BlockAddr,
        /// The generation of the reference.
        born: Gen,
    },
    /// Allocated, but never written: reads as zeros.
    Reserved,
}

impl Place {
    fn plus(self, blocks: u32) -> Self {
        match self {
            Self::Data { addr, born } => Self::Data { addr: addr.plus(blocks), born },
            Self::Reserved => Self::Reserved,
        }
    }
}

/// A run of blocks of a chunk that lies contiguously in one segment, or is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block, within the chunk (0 to 255).
    pub first: u32,
    /// Number of blocks (1 to 256).
    pub count: u32,
    /// Where they are.
    pub place: Place,
}

impl Extent {
    /// Block behind the last, within the chunk.
    pub fn end(&self) -> u32 {
        self.first + self.count
    }

    /// The part of the extent inside `first..end`, if any.
    pub fn clip(&self, first: u32, end: u32) -> Option<Self> {
        let (from, to) = (self.first.max(first), self.end().min(end));
        (from < to).then(|| Self { first: from, count: to - from, place: self.place.plus(from - self.first) })
    }

    /// The blocks in their segment; `None` when reserved.
    pub fn run(&self) -> Option<Run> {
        match self.place {
            Place::Data { addr, .. } => Some(Run::new(addr, self.count)),
            Place::Reserved => None,
        }
    }

    fn continues(&self, next: &Self) -> bool {
        self.end() == next.first && self.place.plus(self.count) == next.place
    }
}

/// The extents of a chunk: sorted, not overlapping, not touching where they could be one. What none covers is a
/// hole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkMap {
    extents: Vec<Extent>,
}

impl ChunkMap {
    /// The map of a chunk that is reserved as a whole.
    pub(super) fn reserved() -> Self {
        Self { extents: vec![Extent { first: 0, count: CHUNK_BLOCKS, place: Place::Reserved }] }
    }

    /// All extents.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Whether the whole chunk is a hole.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Allocated blocks.
    pub fn blocks(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.count)).sum()
    }

    /// The extents within `first..end`, cut to it.
    pub fn within(&self, first: u32, end: u32) -> impl Iterator<Item = Extent> + '_ {
        let from = self.extents.partition_point(|e| e.end() <= first);
        self.extents[from..].iter().map_while(move |e| e.clip(first, end))
    }

    /// Puts `place` (`None`: a hole) at blocks `first..end` and returns what was there.
    pub fn replace(&mut self, first: u32, end: u32, place: Option<Place>) -> Vec<Extent> {
        debug_assert!(first < end && end <= CHUNK_BLOCKS);
        let from = self.extents.partition_point(|e| e.end() <= first);
        let to = self.extents.partition_point(|e| e.first < end);
        let dropped: Vec<Extent> = self.extents[from..to].iter().filter_map(|e| e.clip(first, end)).collect();
        let before = self.extents[from..to].first().and_then(|e| e.clip(0, first));
        let after = self.extents[from..to].last().and_then(|e| e.clip(end, CHUNK_BLOCKS));
        let new = place.map(|place| Extent { first, count: end - first, place });
        self.extents.splice(from..to, [before, new, after].into_iter().flatten());
        // Only the neighbours of what was put in can have become one with it.
        let start = from.saturating_sub(1);
        let mut at = start;
        while at + 1 < self.extents.len() && at < start + 4 {
            let next = self.extents[at + 1];
            if self.extents[at].continues(&next) {
                self.extents[at].count += next.count;
                self.extents.remove(at + 1);
            } else {
                at += 1;
            }
        }
        dropped
    }

    /// The bytes of the map, as `docs/format.md` describes them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.extents.len() * 10);
        out.push(KIND_EXTENTS);
        let mut put = |value: u64| {
            let mut buf = [0u8; 10];
            let len = value.encode_var(&mut buf);
            out.extend_from_slice(&buf[..len]);
        };
        let (mut end, mut last_segment, mut last_born) = (0u32, 0u64, 0u64);
        for extent in &self.extents {
            put(u64::from(extent.first - end));
            end = extent.end();
            let head = u64::from(extent.count - 1) << 1;
            match extent.place {
                Place::Reserved => put(head | 1),
                Place::Data { addr, born } => {
                    put(head);
                    put(zigzag(addr.segment, last_segment));
                    put(u64::from(addr.index));
                    put(zigzag(born, last_born));
                    (last_segment, last_born) = (addr.segment, born);
                }
            }
        }
        out
    }

    /// Reads the bytes of a map.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] for anything that [`ChunkMap::encode`] cannot have written.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| MetaError::damaged(format!("a chunk map {what}"));
        let Some((&KIND_EXTENTS, mut rest)) = bytes.split_first() else {
            return Err(damaged("has an unknown kind"));
        };
        let mut extents: Vec<Extent> = Vec::new();
        let take = |rest: &mut &[u8]| -> Result<u64> {
            let (value, used) = u64::decode_var(rest).ok_or_else(|| damaged("is cut off"))?;
            *rest = &rest[used..];
            Ok(value)
        };
        let (mut end, mut last_segment, mut last_born) = (0u64, 0u64, 0u64);
        while !rest.is_empty() {
            let first = end.saturating_add(take(&mut rest)?);
            let head = take(&mut rest)?;
            let count = (head >> 1) + 1;
            end = first.saturating_add(count);
            if end > u64::from(CHUNK_BLOCKS) {
                return Err(damaged("reaches past its chunk"));
            }
            let place = if head & 1 == 1 {
                Place::Reserved
            } else {
                let segment = unzigzag(take(&mut rest)?, last_segment);
                let index = take(&mut rest)?;
                let born = unzigzag(take(&mut rest)?, last_born);
                if segment == 0 || born == 0 || index.saturating_add(count) > u64::from(SEGMENT_BLOCKS) {
                    return Err(damaged("names an impossible block"));
                }
                (last_segment, last_born) = (segment, born);
                Place::Data { addr: BlockAddr { segment, index: index as u32 }, born }
            };
            extents.push(Extent { first: first as u32, count: count as u32, place });
        }
        Ok(Self { extents })
    }
}

/// The difference of two numbers, small in absolute value when they are near.
fn zigzag(value: u64, base: u64) -> u64 {
    let delta = value.wrapping_sub(base) as i64;
    ((delta << 1) ^ (delta >> 63)) as u64
}

fn unzigzag(coded: u64, base: u64) -> u64 {
    let delta = (coded >> 1) as i64 ^ -((coded & 1) as i64);
    base.wrapping_add(delta as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(segment: u64, index: u32) -> Place {
        Place::Data { addr: BlockAddr { segment, index }, born: 1 }
    }

    /// What each block of the chunk is, one by one: the plain model of a map.
    fn spelled(map: &ChunkMap) -> Vec<Option<Place>> {
        let mut out = vec![None; CHUNK_BLOCKS as usize];
        for extent in map.extents() {
            for i in 0..extent.count {
                assert!(out[(extent.first + i) as usize].is_none(), "extents overlap");
                out[(extent.first + i) as usize] = Some(extent.place.plus(i));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn replacing_does_what_it_does_block_by_block(
            steps in prop::collection::vec((0u32..256, 1u32..=256, 0u8..4, 1u64..5, 0u32..16000, 1u64..4), 1..60)
        ) {
            let mut map = ChunkMap::default();
            let mut model = vec![None; CHUNK_BLOCKS as usize];
            for (first, len, what, segment, index, born) in steps {
                let end = (first + len).min(CHUNK_BLOCKS);
                let place = match what {
                    0 => None,
                    1 => Some(Place::Reserved),
                    _ => Some(Place::Data { addr: BlockAddr { segment, index }, born }),
                };
                let mut dropped = ChunkMap { extents: map.replace(first, end, place) };
                dropped.extents.sort_by_key(|e| e.first);
                let dropped = spelled(&dropped);
                for block in 0..CHUNK_BLOCKS {
                    let i = block as usize;
                    if (first..end).contains(&block) {
                        prop_assert_eq!(dropped[i], model[i]);
                        model[i] = place.map(|p| p.plus(block - first));
                    } else {
                        prop_assert_eq!(dropped[i], None);
                    }
                }
                prop_assert_eq!(&spelled(&map), &model);
                prop_assert!(map.extents.windows(2).all(|w| !w[0].continues(&w[1])));
                prop_assert_eq!(ChunkMap::decode(&map.encode()).unwrap(), map.clone());
                let cut: Vec<_> = map.within(first, end).collect();
                prop_assert_eq!(cut.iter().map(|e| e.count).sum::<u32>() as usize,
                    model[first as usize..end as usize].iter().flatten().count());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(map) = ChunkMap::decode(&bytes) {
                spelled(&map);
            }
            let mut tagged = vec![KIND_EXTENTS];
            tagged.extend(bytes);
            if let Ok(map) = ChunkMap::decode(&tagged) {
                spelled(&map);
            }
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        // Changing these bytes changes the format.
        let mut map = ChunkMap::default();
        map.replace(0, 3, Some(data(5, 300)));
        map.replace(10, 12, Some(Place::Reserved));
        map.replace(12, 13, Some(data(4, 7)));
        assert_eq!(map.encode(), [1, 0, 4, 10, 0xac, 2, 2, 7, 3, 0, 0, 1, 7, 0]);
        assert_eq!(ChunkMap::default().encode(), [1]);
    }

    #[test]
    fn a_sequential_chunk_is_one_extent_however_it_was_written() {
        let mut map = ChunkMap::default();
        for block in [3, 1, 0, 2, 4] {
            map.replace(block, block + 1, Some(data(1, 100 + block)));
        }
        assert_eq!(map.extents(), [Extent { first: 0, count: 5, place: data(1, 100) }]);
    }
}
