//! What files hold, looked at in parts that are each little enough work for one hold of the metadata.

use super::chunk::{File, Look};
use super::error::Result;
use super::head::Head;
use super::types::{CHUNK_BLOCKS, Ino, VolumeId, XattrBits};
use super::{Meta, Side, xattr};
use crate::meta::db::Db;
use crate::store::Run;
use std::ops::Range;

const CHUNK: u64 = CHUNK_BLOCKS as u64;

/// Work for one hold of the metadata, in rows: some milliseconds.
pub(super) const WORK_AT_ONCE: u64 = 1024;
/// Extended attributes that are removed under one hold.
const XATTRS_AT_ONCE: usize = 256;
/// Chunks up to which each is looked at in the cache, and the table is not asked which there are.
const FEW_CHUNKS: u64 = 64;
/// The same where the answer may be about a part of the range.
const FEWEST_CHUNKS: u64 = 4;

/// A piece of a file's extent map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First block of the file.
    pub first: u64,
    /// Number of blocks.
    pub count: u32,
    /// Where they are; `None` for reserved blocks, which read as zeros.
    pub run: Option<Run>,
}

/// A part of a range of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which blocks.
    pub blocks: Range<u64>,
    /// Certainly nothing is there.
    pub is_hole: bool,
}

/// What there is to do about an orphan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reapable {
    /// [`super::Mutation::Reap`], with so many chunks.
    Chunks(u32),
    /// Extended attributes are to be removed first, each with [`super::Mutation::DropXattr`]: there are more than go with the inode.
    Xattrs(Vec<Box<[u8]>>),
    /// Look again: there is more to be passed over than is work for one hold.
    Later,
}

/// The chunks that a range of blocks touches.
fn chunks_of(blocks: &Range<u64>) -> Range<u64> {
    blocks.start / CHUNK..blocks.end.div_ceil(CHUNK)
}

/// The file; one that is not there has nothing.
fn file(db: &Db, head: &mut Head, ino: Ino) -> Result<File> {
    let inode = head.inodes.get(db, &head.lineage, ino)?;
    Ok(inode.map_or(File { ino, has_groups: false }, |inode| File::of(&inode)))
}

/// Adds the pieces of a chunk that lie in `blocks`.
fn add_chunk(
    db: &Db,
    head: &mut Head,
    at: (File, u64),
    blocks: &Range<u64>,
    out: &mut Vec<Piece>,
) -> Result<()> {
    let base = at.1 * CHUNK;
    let (from, to) =
        (blocks.start.saturating_sub(base).min(CHUNK), blocks.end.saturating_sub(base).min(CHUNK));
    head.chunks.with(db, &head.lineage, at, |map| {
        out.extend(map.within(from as u32, to as u32).map(|extent| Piece {
            first: base + u64::from(extent.first),
            count: extent.count,
            run: extent.run(),
        }));
    })
}

impl Meta {
    /// What is allocated of `count` blocks of a file from block `first` on, in order; the rest are holes. Not for ranges without
    /// a bound: the metadata are held for all of it.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn pieces(&mut self, volume: VolumeId, ino: Ino, first: u64, count: u64) -> Result<Vec<Piece>> {
        let blocks = first..first.saturating_add(count);
        let mut out = Vec::new();
        let chunks = chunks_of(&blocks);
        if chunks.end - chunks.start <= FEW_CHUNKS {
            let (db, head) = self.head(volume)?;
            let file = file(db, head, ino)?;
            chunks.into_iter().try_for_each(|idx| add_chunk(db, head, (file, idx), &blocks, &mut out))?;
            return Ok(out);
        }
        let mut at = blocks.start;
        while at < blocks.end {
            let (mut some, end) = self.some_pieces(volume, ino, at..blocks.end)?;
            out.append(&mut some);
            at = end;
        }
        Ok(out)
    }

    /// What is allocated at the start of a range of blocks, in order, and where that part of the range ends: as much as is work
    /// for one hold of the metadata. Never nothing of a range that is not empty.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn some_pieces(
        &mut self,
        volume: VolumeId,
        ino: Ino,
        blocks: Range<u64>,
    ) -> Result<(Vec<Piece>, u64)> {
        let (db, head) = self.head(volume)?;
        let file = file(db, head, ino)?;
        let mut out = Vec::new();
        let chunks = chunks_of(&blocks);
        if chunks.end - chunks.start <= FEWEST_CHUNKS {
            chunks.into_iter().try_for_each(|idx| add_chunk(db, head, (file, idx), &blocks, &mut out))?;
            return Ok((out, blocks.end));
        }
        let Look { chunks, reserved, seen } =
            head.chunks.look(db, &head.lineage, file, chunks, (Side::Start, WORK_AT_ONCE))?;
        let mut reserved = reserved.into_iter().peekable();
        let add_reserved = |run: Range<u64>, out: &mut Vec<Piece>| {
            let (first, end) = ((run.start * CHUNK).max(blocks.start), (run.end * CHUNK).min(blocks.end));
            // A run lies in one group: its blocks fit the count.
            out.push(Piece { first, count: (end - first) as u32, run: None });
        };
        for idx in chunks {
            while let Some(run) = reserved.next_if(|run| run.start < idx) {
                add_reserved(run, &mut out);
            }
            add_chunk(db, head, (file, idx), &blocks, &mut out)?;
        }
        reserved.for_each(|run| add_reserved(run, &mut out));
        Ok((out, (seen.end * CHUNK).min(blocks.end)))
    }

    /// How much of a range of blocks can be changed under one hold of the metadata, from one side of it on. Never nothing of a
    /// range that is not empty. Where it is not all of it, it is cut at the border of a chunk.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn part(&mut self, volume: VolumeId, ino: Ino, blocks: Range<u64>, side: Side) -> Result<Part> {
        let (db, head) = self.head(volume)?;
        let few = head.inodes.get(db, &head.lineage, ino)?.is_none_or(|inode| inode.blocks <= CHUNK);
        if few && head.lineage.is_single() {
            // There cannot be much, also of rows that hide others.
            return Ok(Part { blocks, is_hole: false });
        }
        let file = file(db, head, ino)?;
        let look = head.chunks.look(db, &head.lineage, file, chunks_of(&blocks), (side, WORK_AT_ONCE))?;
        let seen = (look.seen.start * CHUNK).max(blocks.start)..(look.seen.end * CHUNK).min(blocks.end);
        Ok(Part { blocks: seen, is_hole: look.chunks.is_empty() && look.reserved.is_empty() })
    }

    /// What to do about an orphan next.
    ///
    /// # Errors
    /// [`super::Refusal::NotFound`], damage, or as the database.
    pub fn reapable(&mut self, volume: VolumeId, ino: Ino) -> Result<Reapable> {
        let (db, head) = self.head(volume)?;
        let inode = head.inode(db, ino)?;
        if inode.xattrs.has(XattrBits::ANY) {
            let before = head.reaping_xattrs.get(&ino).map(|name| &name[..]);
            let (names, more) = xattr::last(db, &head.lineage, ino, before, XATTRS_AT_ONCE)?;
            if let Some(first) = names.last()
                && (more || before.is_some())
            {
                let first = first.clone();
                head.reaping_xattrs.insert(ino, first);
                return Ok(Reapable::Xattrs(names));
            }
        }
        if inode.blocks == 0 {
            return Ok(Reapable::Chunks(1));
        }
        // Most files have only the first chunk, and the table need not be asked.
        if head.chunks.own_blocks(db, &head.lineage, (ino, 0))? == inode.blocks {
            return Ok(Reapable::Chunks(1));
        }
        let from = head.reaping.get(&ino).copied().unwrap_or(0);
        let (rows, next) = head.chunks.rows(db, &head.lineage, ino, from, WORK_AT_ONCE)?;
        if rows.is_empty() && next != u64::MAX {
            head.reaping.insert(ino, next);
            return Ok(Reapable::Later);
        }
        Ok(Reapable::Chunks(rows.len().max(1) as u32))
    }
}
