//! Parts: objects with blocks of one segment, each with its seal before it, so that any range of them can be read and checked by itself.

use super::super::bytes::{Malformed, Reader, Writer};
use super::ObjectSeal;
use crate::store::{BLOCK_BYTES, BlockAddr, Run, SEAL_BYTES, SEGMENT_BLOCKS, Seal};
use bytes::Bytes;
use std::ops::Range;

/// Where the first block of a part begins: behind its head.
pub const PART_BLOCKS_AT: u64 = 128;
/// What a block takes in a part: its seal, and its contents as they lie in the segment.
pub const PART_BLOCK_BYTES: u64 = (SEAL_BYTES + BLOCK_BYTES) as u64;
/// Bytes of a [`PartRef`].
pub(super) const PART_REF_BYTES: usize = 8 + 4 + 4 + 8 + 4 + 16;

/// What is to be known of a part in order to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartRef {
    /// The segment.
    pub segment: u64,
    /// Index of its first block.
    pub first: u32,
    /// Number of blocks, at least 1.
    pub count: u32,
    /// Makes its name its own, also when the same blocks are written again.
    pub random: u64,
    /// Key epoch of the blocks; 0 in a plain store.
    pub key_epoch: u32,
    /// Seal of its head.
    pub seal: ObjectSeal,
}

/// Blocks of a part that are still worth something: others have come in the place of the rest, or nothing needs it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveBlocks {
    /// The part.
    pub part: PartRef,
    /// Index in the segment of the first of them.
    pub from: u32,
    /// How many there are, at least 1.
    pub count: u32,
}

/// A block as it lies in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBlock {
    /// Its address.
    pub addr: BlockAddr,
    /// Its seal.
    pub seal: Seal,
    /// 4096 bytes.
    pub stored: Bytes,
}

impl PartRef {
    /// Its blocks.
    pub fn run(&self) -> Run {
        Run::new(BlockAddr { segment: self.segment, index: self.first }, self.count)
    }

    /// Index behind the last block.
    pub fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.segment)
            .u32(self.first)
            .u32(self.count)
            .u64(self.random)
            .u32(self.key_epoch)
            .bytes(&self.seal);
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let part = Self {
            segment: from.u64()?,
            first: from.u32()?,
            count: from.u32()?,
            random: from.u64()?,
            key_epoch: from.u32()?,
            seal: from.array()?,
        };
        check_run(part.segment, part.first, part.count)?;
        Ok(part)
    }

    /// The body of the head of this part; the seal is not in it.
    pub(in super::super) fn to_body(self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.first).u32(self.count).u64(self.random).u32(self.key_epoch).u32(0).u64(0);
        out.take()
    }

    pub(in super::super) fn from_body(
        segment: u64,
        seal: ObjectSeal,
        body: Bytes,
    ) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let (first, count, random, key_epoch) = (from.u32()?, from.u32()?, from.u64()?, from.u32()?);
        from.only_zeros_left()?;
        check_run(segment, first, count)?;
        Ok(Self { segment, first, count, random, key_epoch, seal })
    }
}

impl LiveBlocks {
    pub(super) const BYTES: usize = PART_REF_BYTES + 4 + 4;

    pub(super) fn write(&self, out: &mut Writer) {
        self.part.write(out);
        out.u32(self.from).u32(self.count);
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let live = Self { part: PartRef::read(from)?, from: from.u32()?, count: from.u32()? };
        check_run(live.part.segment, live.from, live.count)?;
        if live.from < live.part.first || live.from + live.count > live.part.end() {
            return Err(Malformed("it names blocks that a part does not have"));
        }
        Ok(live)
    }
}

/// That blocks can be where they are said to be.
pub(super) fn check_run(segment: u64, first: u32, count: u32) -> Result<(), Malformed> {
    let fine = segment > 0 && count > 0 && first < SEGMENT_BLOCKS && count <= SEGMENT_BLOCKS - first;
    if fine { Ok(()) } else { Err(Malformed("it names blocks that no segment has")) }
}

/// The length of a part with so many blocks.
pub fn part_bytes(count: u32) -> u64 {
    PART_BLOCKS_AT + u64::from(count) * PART_BLOCK_BYTES
}

/// Where `count` blocks from index `first` of the segment on lie in the part. The part must hold them.
pub fn part_range(part: &PartRef, first: u32, count: u32) -> Range<u64> {
    let skip = u64::from(first.saturating_sub(part.first));
    let at = PART_BLOCKS_AT + skip * PART_BLOCK_BYTES;
    at..at + u64::from(count) * PART_BLOCK_BYTES
}

/// Bytes that hold the head of a part.
pub fn part_head() -> Range<u64> {
    0..PART_BLOCKS_AT
}

/// Takes a range of a part apart ([`part_range`]), whose first block is `start`. Each block is still to be opened. What is cut off is not
/// there.
pub fn split_blocks(start: BlockAddr, bytes: &Bytes) -> Vec<SealedBlock> {
    let one = PART_BLOCK_BYTES as usize;
    (0..bytes.len() / one)
        .filter_map(|i| {
            let block = bytes.slice(i * one..(i + 1) * one);
            let index = start.index.checked_add(u32::try_from(i).ok()?)?;
            let addr = BlockAddr { segment: start.segment, index };
            Some(SealedBlock { addr, seal: *block.first_chunk()?, stored: block.slice(SEAL_BYTES..) })
        })
        .collect()
}
