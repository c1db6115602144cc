//! What a commit changed.

use super::super::bytes::{Malformed, Reader, Writer};
use super::image::PieceRef;
use super::part::{PART_REF_BYTES, PartRef, check_run};
use crate::store::{BLOCK_BYTES, BlockAddr, Run, SEAL_BYTES, SEGMENT_BLOCKS, Seal};
use bytes::Bytes;

/// Pages have one of two sizes: what SQLite sees of a page, in a plain and in an encrypted store.
const PAGE_BYTES: [u16; 2] = [4080, 4048];

/// A page of `meta.db`, as SQLite sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its number, from 1 on.
    pub number: u32,
    /// Its contents: [`Commit::page_bytes`].
    pub contents: Bytes,
}

/// How far a segment has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentState {
    /// Its id.
    pub segment: u64,
    /// Index behind the last block; 0: the segment is gone.
    pub tail: u32,
    /// Key epoch of its blocks; 0 in a plain store.
    pub key_epoch: u32,
}

/// Blocks of one segment that follow each other, in the record itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Where the first one lies.
    pub start: BlockAddr,
    /// A seal for each, as in the segment.
    pub seals: Vec<Seal>,
    /// 4096 bytes for each, as in the segment.
    pub stored: Bytes,
}

/// Bytes of the redo log, as they lie in the file, from records that are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedoTail {
    /// The epoch of the log.
    pub epoch: u64,
    /// Where they begin in the file of that epoch.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// What is new since the record before. What it names (parts, pieces) is in the remote before the record is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Length of `meta.db` in pages, afterwards; 0: it has not changed.
    pub pages: u32,
    /// Bytes of each page: 4080, or 4048 in an encrypted store.
    pub page_bytes: u16,
    /// The first epoch of the store's redo log that is not in the state; 0: there is no new state, only parts, blocks, or runs
    /// that are free. It grows with each commit and each opening of the store.
    pub redo_epoch: u64,
    /// Pages that changed.
    pub changed: Vec<Page>,
    /// Pieces that hold more of them: where very many have changed. The pages of `changed` come after them.
    pub pieces: Vec<PieceRef>,
    /// Segments that have grown, are new, or gone.
    pub segments: Vec<SegmentState>,
    /// New blocks.
    pub blocks: Vec<Blocks>,
    /// Parts with more of them.
    pub parts: Vec<PartRef>,
    /// Blocks that nothing refers to any more, also where [`Commit::parts`] or [`Commit::blocks`] have them; and those that nobody has the
    /// keys of any more as they were sealed before.
    pub freed: Vec<Run>,
    /// What was added to the redo log since the last record.
    pub redo: Vec<RedoTail>,
}

impl SegmentState {
    pub(super) const BYTES: usize = 16;

    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.segment).u32(self.tail).u32(self.key_epoch);
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let state = Self { segment: from.u64()?, tail: from.u32()?, key_epoch: from.u32()? };
        if state.segment == 0 || state.tail > SEGMENT_BLOCKS {
            return Err(Malformed("it names an invalid segment"));
        }
        Ok(state)
    }
}

impl Blocks {
    /// Which they are.
    pub fn run(&self) -> Run {
        Run::new(self.start, self.seals.len() as u32)
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.start.segment).u32(self.start.index).u32(self.seals.len() as u32);
        for seal in &self.seals {
            out.bytes(seal);
        }
        out.bytes(&self.stored);
    }

    fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let start = BlockAddr { segment: from.u64()?, index: from.u32()? };
        let count = from.u32()?;
        check_run(start.segment, start.index, count)?;
        let count = count as usize;
        if from.left() / (SEAL_BYTES + BLOCK_BYTES) < count {
            return Err(Malformed("it ends too early"));
        }
        let seals = (0..count).map(|_| from.array()).collect::<Result<_, _>>()?;
        Ok(Self { start, seals, stored: from.bytes(count * BLOCK_BYTES)? })
    }
}

impl RedoTail {
    fn write(&self, out: &mut Writer) {
        out.u64(self.epoch).u64(self.offset).u32(self.bytes.len() as u32).bytes(&self.bytes);
    }

    fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let (epoch, offset, len) = (from.u64()?, from.u64()?, from.u32()? as usize);
        Ok(Self { epoch, offset, bytes: from.bytes(len)? })
    }
}

impl Commit {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u32(self.pages).u16(self.page_bytes).u16(0).u64(self.redo_epoch);
        out.list(&self.changed, |out, page| {
            out.u32(page.number).bytes(&page.contents);
        });
        out.list(&self.pieces, |out, piece| piece.write(out));
        out.list(&self.segments, |out, state| state.write(out));
        out.list(&self.blocks, |out, blocks| blocks.write(out));
        out.list(&self.parts, |out, part| part.write(out));
        out.list(&self.freed, |out, run| {
            out.u64(run.start.segment).u32(run.start.index).u32(run.count);
        });
        out.list(&self.redo, |out, tail| tail.write(out));
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let (pages, page_bytes) = (from.u32()?, from.u16()?);
        from.u16()?;
        let redo_epoch = from.u64()?;
        if pages > 0 && !PAGE_BYTES.contains(&page_bytes) {
            return Err(Malformed("its pages have an unknown size"));
        }
        let page = usize::from(page_bytes);
        let changed = from.list(4 + page, |from| {
            let number = from.u32()?;
            if number == 0 || number > pages {
                return Err(Malformed("it has a page that is not in the database"));
            }
            Ok(Page { number, contents: from.bytes(page)? })
        })?;
        Ok(Self {
            pages,
            page_bytes,
            redo_epoch,
            changed,
            pieces: from.list(PieceRef::BYTES, PieceRef::read)?,
            segments: from.list(SegmentState::BYTES, SegmentState::read)?,
            blocks: from.list(16, Blocks::read)?,
            parts: from.list(PART_REF_BYTES, PartRef::read)?,
            freed: from.list(16, |from| {
                let run = Run::new(BlockAddr { segment: from.u64()?, index: from.u32()? }, from.u32()?);
                check_run(run.start.segment, run.start.index, run.count).map(|()| run)
            })?,
            redo: from.list(20, RedoTail::read)?,
        })
    }
}
