//! What files hold, looked at in parts that are each little enough work for one hold of the metadata.

use super::chunk::{Effort, File, Look, is_group};
use super::error::Result;
use super::head::Head;
use super::space::Space;
use super::types::{CHUNK_BLOCKS, Ino, VolumeId, XattrBits};
use super::{Meta, Side, share, xattr};
use crate::meta::db::Db;
use crate::store::Run;
use std::ops::Range;

const CHUNK: u64 = CHUNK_BLOCKS as u64;

/// Work for one hold of the metadata, in rows: some milliseconds.
pub(super) const WORK_AT_ONCE: u64 = 1024;
/// So much is done however long it takes: what a small file had is free when it is gone, and not a moment later.
pub(super) const ROWS_AT_LEAST: usize = 16;
/// Extended attributes that are removed under one hold, if that does not take long.
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

/// Looks who else refers to the blocks of a chunk, which whoever takes it away has to know, until it is late: it is in rows that lie anywhere in
/// their table. False: it is to be gone on with, and how far it got is remembered.
/// `spared` looks are made however late it is.
fn warm(db: &Db, head: &mut Head, space: &Space, at: (Ino, u64), spared: &mut usize) -> Result<bool> {
    if !space.may_have_shares() {
        return Ok(true);
    }
    let runs = head.chunks.own_runs(db, &head.lineage, at)?;
    let from = if head.warmed.0 == at { head.warmed.1 } else { 0 };
    for (n, run) in runs.iter().enumerate().skip(from) {
        if *spared == 0 && n > from && db.is_late() {
            head.warmed = (at, n);
            return Ok(false);
        }
        *spared = spared.saturating_sub(1);
        share::references(db, *run)?;
    }
    head.warmed = (at, runs.len());
    Ok(true)
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
            head.chunks.look(db, &head.lineage, file, chunks, (Side::Start, Effort::A_STEP))?;
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

    /// To be called, under a hold of its own, before [`Meta::part`] until it is true: there is much to be looked at where blocks have several
    /// references, however small the part is.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn prepare_part(
        &mut self,
        volume: VolumeId,
        ino: Ino,
        blocks: Range<u64>,
        side: Side,
    ) -> Result<bool> {
        if !self.space.may_have_shares() {
            return Ok(true);
        }
        self.head(volume)?;
        let Self { db, heads, space, .. } = self;
        let Some(head) = heads.get_mut(&volume) else { return Ok(true) };
        let file = file(db, head, ino)?;
        let Look { chunks, .. } =
            head.chunks.look(db, &head.lineage, file, chunks_of(&blocks), (side, Effort::A_SMALL_STEP))?;
        let first = match side {
            Side::Start => chunks.first(),
            Side::End => chunks.last(),
        };
        first.map_or(Ok(true), |idx| warm(db, head, space, (ino, *idx), &mut 0))
    }

    /// How much of a range of blocks can be changed under one hold of the metadata, from one side of it on. Never nothing of a
    /// range that is not empty. Where it is not all of it, it is cut at the border of a chunk.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn part(&mut self, volume: VolumeId, ino: Ino, blocks: Range<u64>, side: Side) -> Result<Part> {
        let has_shares = self.space.may_have_shares();
        let (db, head) = self.head(volume)?;
        let few = head.inodes.get(db, &head.lineage, ino)?.is_none_or(|inode| inode.blocks <= CHUNK);
        if few && head.lineage.is_single() && !has_shares {
            // There cannot be much, also of rows that hide others.
            return Ok(Part { blocks, is_hole: false });
        }
        let file = file(db, head, ino)?;
        let effort = if has_shares { Effort::A_SMALL_STEP } else { Effort::A_STEP };
        let look = head.chunks.look(db, &head.lineage, file, chunks_of(&blocks), (side, effort))?;
        let mut seen = (look.seen.start * CHUNK).max(blocks.start)..(look.seen.end * CHUNK).min(blocks.end);
        let is_hole = look.chunks.is_empty() && look.reserved.is_empty();
        let Self { db, heads, space, .. } = self;
        if let Some(head) = heads.get_mut(&volume).filter(|_| space.may_have_shares()) {
            let mut chunks = look.chunks;
            if side == Side::End {
                chunks.reverse();
            }
            let mut spared = ROWS_AT_LEAST;
            for (n, idx) in chunks.into_iter().enumerate() {
                let is_late = spared == 0 && db.is_late();
                if n > 0 && (is_late || !warm(db, head, space, (ino, idx), &mut spared)?) {
                    match side {
                        Side::Start => seen.end = (idx * CHUNK).max(seen.start),
                        Side::End => seen.start = ((idx + 1) * CHUNK).min(seen.end),
                    }
                    break;
                }
            }
        }
        Ok(Part { blocks: seen, is_hole })
    }

    /// What to do about an orphan next.
    ///
    /// # Errors
    /// [`super::Refusal::NotFound`], damage, or as the database.
    pub fn reapable(&mut self, volume: VolumeId, ino: Ino) -> Result<Reapable> {
        let has_shares = self.space.may_have_shares();
        let (db, head) = self.head(volume)?;
        let inode = head.inode(db, ino)?;
        if inode.xattrs.has(XattrBits::ANY) {
            let before = head.reaping_xattrs.get(&ino).map(|name| &name[..]);
            let (names, more) = xattr::last(db, &head.lineage, ino, before, XATTRS_AT_ONCE)?;
            if let Some(last) = names.first()
                && (more || before.is_some())
            {
                let behind = || [last, &b"\0"[..]].concat().into();
                head.reaping_xattrs.entry(ino).or_insert_with(behind);
                return Ok(Reapable::Xattrs(names));
            }
        }
        if inode.blocks == 0 {
            return Ok(Reapable::Chunks(1));
        }
        // Most files have only the first chunk, and the table need not be asked.
        if head.chunks.own_blocks(db, &head.lineage, (ino, 0))? == inode.blocks {
            return self.warm_chunks(volume, ino, &[0]);
        }
        let from = head.reaping.get(&ino).copied().unwrap_or(0);
        let effort = if has_shares { Effort::A_SMALL_STEP } else { Effort::A_STEP };
        let (rows, next) = head.chunks.rows(db, &head.lineage, ino, from, effort)?;
        if rows.is_empty() && next != u64::MAX {
            head.reaping.insert(ino, next);
            return Ok(Reapable::Later);
        }
        self.warm_chunks(volume, ino, &rows)
    }

    /// How many of the first rows of chunks of an orphan can be freed under one hold.
    fn warm_chunks(&mut self, volume: VolumeId, ino: Ino, rows: &[u64]) -> Result<Reapable> {
        let Self { db, heads, space, .. } = self;
        let head = heads.get_mut(&volume).filter(|_| space.may_have_shares());
        let Some(head) = head else { return Ok(Reapable::Chunks(rows.len().max(1) as u32)) };
        let mut spared = ROWS_AT_LEAST;
        for (n, row) in rows.iter().enumerate() {
            let is_late = n > 0 && spared == 0 && db.is_late();
            if is_late || !is_group(*row) && !warm(db, head, space, (ino, *row), &mut spared)? {
                return Ok(if n == 0 { Reapable::Later } else { Reapable::Chunks(n as u32) });
            }
        }
        Ok(Reapable::Chunks(rows.len().max(1) as u32))
    }

    /// The extended attribute `name` of an orphan is removed, and all behind it.
    pub fn reaped_xattr(&mut self, volume: VolumeId, ino: Ino, name: &[u8]) {
        if let Some(head) = self.heads.get_mut(&volume) {
            head.reaping_xattrs.insert(ino, name.into());
        }
    }
}
