//! The `chunk` table: what the chunks of files are.
//!
//! A chunk has a row of its own with its extents, or it is one of those that a row for 4 GiB of the file says are reserved as a
//! whole ([`Reserved`]), or it is a hole. So work on a long range is in proportion to what was written there, and not to its
//! length. A look at a range is bounded, and says how far it got.

use super::chunk_map::{ChunkMap, Extent, Place};
use super::contents::{ROWS_AT_LEAST, WORK_AT_ONCE};
use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
use super::reserved::{GROUP_CHUNKS, Reserved};
use super::row_cache::{RowCache, RowMap};
use super::types::{CHUNK_BLOCKS, FILE_MAX, Gen, Ino, Inode};
use crate::store::{BLOCK_BYTES, Run};
use std::ops::Range;

/// Memory for cached maps.
pub(super) const CACHED_BYTES: usize = 16 << 20;
/// Memory for cached maps of reserved chunks.
pub(super) const CACHED_GROUP_BYTES: usize = 2 << 20;

/// Chunks of the largest file.
const FILE_CHUNKS: u64 = FILE_MAX / (CHUNK_BLOCKS as u64 * BLOCK_BYTES as u64);
/// Where in the column `idx` the rows of reserved chunks begin, of which the first is about the first 4096 chunks.
const GROUPS_AT: u64 = 1 << 32;
/// Runs of reserved chunks that one look returns, about.
const RUNS_MAX: usize = 1024;
/// Bytes of a map that are as much work as a row: an extent, about.
const BYTES_LIKE_A_ROW: u64 = 8;

/// Whether a row is about reserved chunks.
pub(super) fn is_group(idx: u64) -> bool {
    idx >= GROUPS_AT
}

impl RowMap for ChunkMap {
    fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        self.encode()
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn bytes(&self) -> usize {
        std::mem::size_of_val(self.extents())
    }
}

impl RowMap for Reserved {
    fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        self.encode()
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn bytes(&self) -> usize {
        GROUP_CHUNKS as usize / 8
    }
}

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// In rows.
    rows: u64,
    /// It ends when it is late, too.
    by_time: bool,
}

impl Effort {
    /// As much as is work for one hold of the metadata.
    pub(super) const A_STEP: Self = Self { rows: WORK_AT_ONCE, by_time: true };
    /// The same, where more has to be looked at for each row that is found.
    pub(super) const A_SMALL_STEP: Self = Self { rows: WORK_AT_ONCE / 32, by_time: true };
    /// A part of what is done whole.
    pub(super) const A_PART: Self = Self { rows: WORK_AT_ONCE, by_time: false };

    /// As many rows of what is done whole.
    pub(super) fn rows(rows: u64) -> Self {
        Self { rows, by_time: false }
    }

    /// Whether it has taken long enough.
    pub(super) fn is_done(self, db: &Db) -> bool {
        self.by_time && db.is_late()
    }
}

/// A file whose chunks are looked at or changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) ino: Ino,
    /// It has enough blocks that a chunk can be reserved as a whole.
    pub(super) has_groups: bool,
}

impl File {
    pub(super) fn of(inode: &Inode) -> Self {
        Self { ino: inode.ino, has_groups: inode.blocks >= u64::from(CHUNK_BLOCKS) }
    }
}

/// From which end of a range a look begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Forwards from the start.
    Start,
    /// Backwards from the end.
    End,
}

/// What a look at a range of chunks found.
#[derive(Debug)]
pub(super) struct Look {
    /// Chunks with extents of their own, ascending.
    pub(super) chunks: Vec<u64>,
    /// Chunks that are reserved as a whole, ascending, each run within one group.
    pub(super) reserved: Vec<Range<u64>>,
    /// What was looked at: all of the range, or as much of it, from the side that was asked for, as is work for one hold of the
    /// metadata. Never nothing of a range that is not empty.
    pub(super) seen: Range<u64>,
}

/// What was in a row that is gone.
pub(super) enum Taken {
    Extents(ChunkMap),
    /// So many reserved chunks.
    Reserved(u64),
}

/// Cuts a range of chunks at the borders of groups: the index of each group's row, and the chunks within the group.
fn by_group(range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let groups = range.start / GROUP_CHUNKS..range.end.div_ceil(GROUP_CHUNKS);
    groups.map(move |group| {
        let base = group * GROUP_CHUNKS;
        let within = range.start.max(base) - base..range.end.min(base + GROUP_CHUNKS) - base;
        (GROUPS_AT + group, within)
    })
}

/// The chunk maps of one volume: the newest row of each on the volume's lineage.
///
/// Invariant: a chunk that is reserved as a whole has no extents of its own.
#[derive(Debug)]
pub(super) struct ChunkTable {
    chunks: RowCache<ChunkMap>,
    groups: RowCache<Reserved>,
}

impl Default for ChunkTable {
    fn default() -> Self {
        Self { chunks: RowCache::new(CACHED_BYTES), groups: RowCache::new(CACHED_GROUP_BYTES) }
    }
}

impl ChunkTable {
    fn is_reserved(&mut self, db: &Db, lineage: &Lineage, file: File, idx: u64) -> Result<bool> {
        if !file.has_groups {
            return Ok(false);
        }
        let row = GROUPS_AT + idx / GROUP_CHUNKS;
        Ok(self.groups.get(db, lineage, (file.ino, row))?.contains(idx % GROUP_CHUNKS))
    }

    /// Calls `look` with the map of a chunk: empty where there is none.
    pub(super) fn with<T>(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        (file, idx): (File, u64),
        look: impl FnOnce(&ChunkMap) -> T,
    ) -> Result<T> {
        let map = self.chunks.get(db, lineage, (file.ino, idx))?;
        if !map.is_empty() || !file.has_groups {
            return Ok(look(map));
        }
        let reserved = self.is_reserved(db, lineage, file, idx)?;
        Ok(look(&if reserved { ChunkMap::reserved() } else { ChunkMap::default() }))
    }

    /// Calls `change` with the map of a chunk and keeps what it makes of it, as extents.
    pub(super) fn change<T>(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        (file, idx): (File, u64),
        change: impl FnOnce(&mut ChunkMap) -> T,
    ) -> Result<T> {
        let key = (file.ino, idx);
        let may_be = file.has_groups && self.chunks.get(db, lineage, key)?.is_empty();
        let reserved = may_be && self.is_reserved(db, lineage, file, idx)?;
        if reserved {
            self.release(db, lineage, file.ino, idx..idx + 1)?;
        }
        self.chunks.change(db, lineage, key, |map| {
            if reserved {
                *map = ChunkMap::reserved();
            }
            change(map)
        })
    }

    /// Makes a chunk with extents of its own a hole, and returns what its map was.
    pub(super) fn take(&mut self, db: &Db, lineage: &Lineage, ino: Ino, idx: u64) -> Result<ChunkMap> {
        self.chunks.take(db, lineage, (ino, idx))
    }

    /// Memory of what is cached.
    pub(super) fn cached_bytes(&self) -> usize {
        self.chunks.cached_bytes() + self.groups.cached_bytes()
    }

    /// Lets go of what is too much since the limit was lowered, a part of it.
    pub(super) fn trim(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        self.chunks.trim(db, lineage)?;
        self.groups.trim(db, lineage)
    }

    /// Reserves chunks as a whole, which have no extents; returns how many were not reserved before.
    pub(super) fn reserve(&mut self, db: &Db, lineage: &Lineage, ino: Ino, range: Range<u64>) -> Result<u64> {
        let mut new = 0;
        for (row, within) in by_group(range) {
            new += self.groups.change(db, lineage, (ino, row), |map| map.set(within))?;
        }
        Ok(new)
    }

    /// Makes chunks holes that are reserved as a whole; returns how many there were.
    pub(super) fn release(&mut self, db: &Db, lineage: &Lineage, ino: Ino, range: Range<u64>) -> Result<u64> {
        let mut gone = 0;
        for (row, within) in by_group(range) {
            gone += self.groups.change(db, lineage, (ino, row), |map| map.clear(within))?;
        }
        Ok(gone)
    }

    /// How many rows are not as they are in the table.
    pub(super) fn unwritten(&self) -> usize {
        self.chunks.unwritten() + self.groups.unwritten()
    }

    /// Writes one of those that changed to the table.
    pub(super) fn write_one(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        if self.chunks.unwritten() > 0 {
            self.chunks.write_one(db, lineage)
        } else {
            self.groups.write_one(db, lineage)
        }
    }

    /// Drops a map from the cache, whose row in the table has changed. It must not be dirty.
    pub(super) fn evict(&mut self, key: (Ino, u64)) {
        if is_group(key.1) { self.groups.evict(key) } else { self.chunks.evict(key) }
    }

    /// Finds what is not a hole in a range of chunks, from one side of it on.
    pub(super) fn look(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        file: File,
        range: Range<u64>,
        (side, effort): (Side, Effort),
    ) -> Result<Look> {
        let mut look = Look { chunks: Vec::new(), reserved: Vec::new(), seen: range.clone() };
        if range.is_empty() {
            return Ok(look);
        }
        let range = self.chunks.flush_some(db, lineage, file.ino, range, (side, effort))?;
        (look.chunks, look.seen) = newest_rows(db, lineage, file.ino, range, (side, effort))?;
        if file.has_groups {
            self.look_at_groups(db, lineage, file.ino, &mut look, (side, effort))?;
        }
        if side == Side::End {
            look.chunks.reverse();
            look.reserved.reverse();
        }
        Ok(look)
    }

    /// Adds reserved chunks to a look, in its order, and shortens it if there are too many.
    fn look_at_groups(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        ino: Ino,
        look: &mut Look,
        (side, effort): (Side, Effort),
    ) -> Result<()> {
        let seen = look.seen.clone();
        let rows = GROUPS_AT + seen.start / GROUP_CHUNKS..GROUPS_AT + seen.end.div_ceil(GROUP_CHUNKS);
        let rows = self.groups.flush_some(db, lineage, ino, rows, (side, effort))?;
        let (rows, mut covered) = newest_rows(db, lineage, ino, rows, (side, effort))?;
        for row in rows {
            let base = (row - GROUPS_AT) * GROUP_CHUNKS;
            let map = self.groups.get(db, lineage, (ino, row))?;
            let clipped =
                map.runs().map(|run| (base + run.start).max(seen.start)..(base + run.end).min(seen.end));
            let mut runs: Vec<Range<u64>> = clipped.filter(|run| !run.is_empty()).collect();
            if side == Side::End {
                runs.reverse();
            }
            look.reserved.append(&mut runs);
            if look.reserved.len() >= RUNS_MAX || effort.is_done(db) {
                covered = match side {
                    Side::Start => covered.start..row + 1,
                    Side::End => row..covered.end,
                };
                break;
            }
        }
        let border = |row: u64| (row - GROUPS_AT) * GROUP_CHUNKS;
        look.seen = seen.start.max(border(covered.start))..seen.end.min(border(covered.end));
        let seen = look.seen.clone();
        look.chunks.retain(|chunk| seen.contains(chunk));
        Ok(())
    }

    /// Rows of a file that say that it has something, from column `idx` `from` on, ascending. Also, where to go on.
    pub(super) fn rows(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        ino: Ino,
        from: u64,
        effort: Effort,
    ) -> Result<(Vec<u64>, u64)> {
        let range = from..GROUPS_AT + FILE_CHUNKS / GROUP_CHUNKS;
        if range.is_empty() {
            return Ok((Vec::new(), from));
        }
        let (end, how) = (range.end, (Side::Start, effort));
        let range = self.chunks.flush_some(db, lineage, ino, range, how)?;
        let range = self.groups.flush_some(db, lineage, ino, range, how)?;
        let (rows, seen) = newest_rows(db, lineage, ino, range, how)?;
        Ok((rows, if seen.end == end { u64::MAX } else { seen.end }))
    }

    /// Takes what one of the [`ChunkTable::rows`] says.
    pub(super) fn take_row(&mut self, db: &Db, lineage: &Lineage, ino: Ino, row: u64) -> Result<Taken> {
        Ok(match is_group(row) {
            true => Taken::Reserved(self.groups.take(db, lineage, (ino, row))?.count()),
            false => Taken::Extents(self.chunks.take(db, lineage, (ino, row))?),
        })
    }

    /// Blocks that a chunk refers to by references of its own lineage.
    pub(super) fn own_runs(&mut self, db: &Db, lineage: &Lineage, key: (Ino, u64)) -> Result<Vec<Run>> {
        let extents = self.chunks.get(db, lineage, key)?.extents().iter();
        let own = |extent: &&Extent| match extent.place {
            Place::Data { born, .. } => lineage.is_exclusive(born),
            Place::Reserved => false,
        };
        Ok(extents.filter(own).filter_map(Extent::run).collect())
    }

    /// Blocks of extents of a chunk.
    pub(super) fn own_blocks(&mut self, db: &Db, lineage: &Lineage, key: (Ino, u64)) -> Result<u64> {
        Ok(self.chunks.get(db, lineage, key)?.blocks())
    }
}

/// Rows of an inode with `idx` in `range` that say something, in the order of a look from `side`, past any cache, which must be
/// flushed. Also, which part of the range was looked at: rows of other generations and long maps count, too.
fn newest_rows(
    db: &Db,
    lineage: &Lineage,
    ino: Ino,
    range: Range<u64>,
    (side, effort): (Side, Effort),
) -> Result<(Vec<u64>, Range<u64>)> {
    let mut statement = db.prepare(match side {
        Side::Start => {
            "SELECT idx, gen, length(map) FROM chunk \
             WHERE ino = ?1 AND idx >= ?2 AND idx < ?3 AND gen <= ?4 ORDER BY idx, gen DESC"
        }
        Side::End => {
            "SELECT idx, gen, length(map) FROM chunk \
             WHERE ino = ?1 AND idx >= ?2 AND idx < ?3 AND gen <= ?4 ORDER BY idx DESC, gen DESC"
        }
    })?;
    let bound = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let params = (bound(ino), bound(range.start), bound(range.end), bound(lineage.head()));
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    let mut out: Vec<u64> = Vec::new();
    let (mut at, mut found, mut left) = (None, false, effort.rows);
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let idx = row.get::<_, i64>(0)? as u64;
        if at != Some(idx) {
            let in_order = at.is_none_or(|at| match side {
                Side::Start => at < idx,
                Side::End => at > idx,
            });
            // In a tree that is out of order, a caller that goes on behind the last one might never arrive.
            if !range.contains(&idx) || !in_order {
                return Err(MetaError::damaged(format!("the chunks of inode {ino} are out of order")));
            }
            let is_little = effort.rows.saturating_sub(left) < ROWS_AT_LEAST as u64;
            if at.is_some() && (left == 0 || !is_little && effort.is_done(db)) {
                let seen = match side {
                    Side::Start => range.start..idx,
                    Side::End => idx + 1..range.end,
                };
                return Ok((out, seen));
            }
            (at, found) = (Some(idx), false);
        }
        db.count_rows(1);
        left = left.saturating_sub(1);
        if found || !lineage.contains(row.get::<_, i64>(1)? as Gen) {
            continue;
        }
        found = true;
        let len = row.get::<_, i64>(2)? as u64;
        if len > 1 {
            left = left.saturating_sub(len / BYTES_LIKE_A_ROW);
            out.push(idx);
        }
    }
    Ok((out, range))
}

/// The extents in the row of one generation; none in one about reserved chunks.
pub(super) fn read_row(db: &Db, key: (Ino, u64), generation: Gen) -> Result<ChunkMap> {
    if is_group(key.1) {
        return Ok(ChunkMap::default());
    }
    let mut statement = db.prepare("SELECT map FROM chunk WHERE ino = ?1 AND idx = ?2 AND gen = ?3")?;
    let params = (key.0 as i64, key.1 as i64, generation as i64);
    db.count_rows(1);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    match rows.next().map_err(|e| db.explain(e))? {
        Some(row) => ChunkMap::decode(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?),
        None => Ok(ChunkMap::default()),
    }
}

/// The generations that have a row for a chunk, ascending.
pub(super) fn generations_of(db: &Db, key: (Ino, u64)) -> Result<Vec<Gen>> {
    let mut statement = db.prepare("SELECT gen FROM chunk WHERE ino = ?1 AND idx = ?2 ORDER BY gen")?;
    let params = (key.0 as i64, key.1 as i64);
    let rows = statement.query_map(params, |row| row.get::<_, i64>(0)).map_err(|e| db.explain(e))?;
    rows.map(|row| row.map(|generation| generation as Gen).map_err(|e| db.explain(e))).collect()
}

/// Reads rows of a chunk of generations below `below`, descending, until it is late; the last of which it did, or 0 if none is left.
pub(super) fn read_some(db: &Db, key: (Ino, u64), below: Gen) -> Result<Gen> {
    let mut statement =
        db.prepare("SELECT gen, map FROM chunk WHERE ino = ?1 AND idx = ?2 AND gen < ?3 ORDER BY gen DESC")?;
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    let mut rows = statement.query((key.0 as i64, key.1 as i64, below)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        row.get_ref(1)?;
        if db.is_late() {
            return Ok(row.get::<_, i64>(0)? as Gen);
        }
    }
    Ok(0)
}

/// Changes the map in the row of one generation.
pub(super) fn write_row(db: &Db, key: (Ino, u64), generation: Gen, map: &ChunkMap) -> Result<()> {
    db.execute(
        "UPDATE chunk SET map = ?4 WHERE ino = ?1 AND idx = ?2 AND gen = ?3",
        (key.0 as i64, key.1 as i64, generation as i64, map.encode()),
    )?;
    Ok(())
}

/// What a row of the table says.
#[derive(Debug)]
pub enum ChunkRow {
    /// The extents of a chunk.
    Extents(u64, Result<ChunkMap>),
    /// Which chunks are reserved as a whole, from this one on.
    Reserved(u64, Result<Reserved>),
}

impl ChunkRow {
    /// From its columns `idx` and `map`.
    pub(super) fn of_columns(idx: u64, map: &[u8]) -> Self {
        let nowhere = || MetaError::damaged("a chunk lies where no file reaches");
        match idx.checked_sub(GROUPS_AT) {
            Some(group) => {
                let is_somewhere = group < FILE_CHUNKS / GROUP_CHUNKS;
                let map = if is_somewhere { Reserved::decode(map) } else { Err(nowhere()) };
                Self::Reserved(group.saturating_mul(GROUP_CHUNKS), map)
            }
            None => {
                Self::Extents(idx, if idx < FILE_CHUNKS { ChunkMap::decode(map) } else { Err(nowhere()) })
            }
        }
    }
}

/// Calls `each` with every row that the lineage sees, of one inode after the other, extents before reserved chunks. The caches
/// must be flushed.
pub(super) fn scan(
    db: &Db,
    lineage: &Lineage,
    mut each: impl FnMut(Ino, ChunkRow) -> Result<()>,
) -> Result<()> {
    let mut statement =
        db.prepare("SELECT ino, idx, gen, map FROM chunk WHERE gen <= ?1 ORDER BY ino, idx, gen DESC")?;
    let mut rows = statement.query([lineage.head() as i64]).map_err(|e| db.explain(e))?;
    let mut last = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let (ino, idx, generation): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if last == Some((ino, idx)) || !lineage.contains(generation as Gen) {
            continue;
        }
        last = Some((ino, idx));
        let map = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
        each(ino as Ino, ChunkRow::of_columns(idx as u64, map))?;
    }
    Ok(())
}
