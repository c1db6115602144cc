//! A write-back cache of rows of the `chunk` table.

use super::cache::{LEAVE_MAX, WRITTEN_AT_LEAST, WRITTEN_AT_ONCE, limit_of};
use super::chunk::{Effort, Side};
use super::contents::ROWS_AT_LEAST;
use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
use super::rows;
use super::shadow::{self, Key as RowKey};
use super::types::{Gen, Ino};
use lru::LruCache;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeSet;
use std::ops::Range;

/// Changed maps that are not in the table yet, at most.
const DIRTY_MAX: usize = 1024;
/// What an entry costs beside its map.
const ENTRY_BYTES: usize = 160;

/// An inode, and the column `idx`.
pub(super) type Key = (Ino, u64);

/// What is in the column `map`.
pub(super) trait RowMap: Default {
    fn decode(bytes: &[u8]) -> Result<Self>;
    fn encode(&self) -> Vec<u8>;
    /// Whether it says nothing: no row says the same.
    fn is_empty(&self) -> bool;
    /// Memory that it takes.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Slot<M> {
    map: M,
    dirty: bool,
    /// The generation of the row in the table; `None` while there is none.
    stored: Option<Gen>,
}

impl<M: RowMap> Slot<M> {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.map.bytes()
    }
}

/// Rows of one volume: the newest of each key on the volume's lineage.
///
/// Invariant: as of [`super::inode::InodeTable`]: dirty maps are written before they leave the cache and before the
/// transaction commits. What is empty has no row, but for one that hides an older one that is not.
#[derive(Debug)]
pub(super) struct RowCache<M> {
    cache: LruCache<Key, Slot<M>, FxBuildHasher>,
    bytes: usize,
    limit: usize,
    dirty: BTreeSet<Key>,
    /// Those from here on are written next, so that one that changes all the time is not written each time.
    next: Key,
}

impl<M: RowMap> RowCache<M> {
    /// A cache of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            cache: LruCache::unbounded_with_hasher(FxBuildHasher),
            bytes: 0,
            limit,
            dirty: BTreeSet::new(),
            next: (0, 0),
        }
    }

    /// Memory of what is cached.
    pub(super) fn cached_bytes(&self) -> usize {
        self.bytes
    }

    /// The map of a key: empty where there is no row.
    pub(super) fn get(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<&M> {
        Ok(&self.load(db, lineage, key)?.map)
    }

    /// Calls `change` with the map of a key and keeps what it makes of it.
    pub(super) fn change<T>(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        key: Key,
        change: impl FnOnce(&mut M) -> T,
    ) -> Result<T> {
        let slot = self.load(db, lineage, key)?;
        let before = slot.bytes();
        let result = change(&mut slot.map);
        let (after, was_dirty) = (slot.bytes(), slot.dirty);
        slot.dirty = true;
        self.bytes = self.bytes + after - before;
        if !was_dirty {
            self.dirty.insert(key);
            if self.dirty.len() >= DIRTY_MAX {
                for written in 1..=WRITTEN_AT_ONCE {
                    self.write_one(db, lineage)?;
                    if written >= WRITTEN_AT_LEAST && db.is_late() {
                        break;
                    }
                }
            }
        }
        Ok(result)
    }

    fn load(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<&mut Slot<M>> {
        if !self.cache.contains(&key) {
            let (map, stored) = read(db, lineage, key)?;
            let slot = Slot { map, dirty: false, stored };
            self.make_room(db, lineage, slot.bytes())?;
            self.bytes += slot.bytes();
            self.cache.put(key, slot);
        }
        self.cache.get_mut(&key).ok_or_else(|| MetaError::damaged("the chunk cache lost an entry"))
    }

    /// Lets go of what is too much since the limit was lowered, a part of it.
    pub(super) fn trim(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        self.make_room(db, lineage, 0)
    }

    fn make_room(&mut self, db: &Db, lineage: &Lineage, wanted: usize) -> Result<()> {
        let limit = limit_of(db, self.limit);
        for left in 1..=LEAVE_MAX {
            if self.bytes + wanted <= limit {
                break;
            }
            let Some((key, mut slot)) = self.cache.pop_lru() else { break };
            self.bytes -= slot.bytes();
            if slot.dirty {
                db.keep_row(write(db, lineage, key, &mut slot))?;
                self.dirty.remove(&key);
                if left >= WRITTEN_AT_LEAST && db.is_late() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// How many rows are not as they are in the table.
    pub(super) fn unwritten(&self) -> usize {
        self.dirty.len()
    }

    /// Writes one of those that changed to the table.
    pub(super) fn write_one(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        let next = self.dirty.range(self.next..).next().or_else(|| self.dirty.first()).copied();
        let Some(key) = next else { return Ok(()) };
        self.next = (key.0, key.1.saturating_add(1));
        self.dirty.remove(&key);
        self.write_back(db, lineage, key)
    }

    /// Writes what changed of some rows of one inode to the table, from one side of the range on; returns the part of it that is as in
    /// the table then, which is never nothing.
    pub(super) fn flush_some(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        ino: Ino,
        range: Range<u64>,
        (side, effort): (Side, Effort),
    ) -> Result<Range<u64>> {
        if range.is_empty() {
            return Ok(range);
        }
        let mut keys: Vec<Key> = self.dirty.range((ino, range.start)..(ino, range.end)).copied().collect();
        if side == Side::End {
            keys.reverse();
        }
        for (written, key) in keys.into_iter().enumerate() {
            if written >= ROWS_AT_LEAST && effort.is_done(db) {
                return Ok(match side {
                    Side::Start => range.start..key.1,
                    Side::End => key.1 + 1..range.end,
                });
            }
            self.dirty.remove(&key);
            self.write_back(db, lineage, key)?;
        }
        Ok(range)
    }

    fn write_back(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<()> {
        if let Some(slot) = self.cache.peek_mut(&key).filter(|slot| slot.dirty) {
            db.keep_row(write(db, lineage, key, slot))?;
            if slot.map.is_empty() {
                self.evict(key);
            }
        }
        Ok(())
    }

    /// Makes a map empty for good and returns what it was.
    pub(super) fn take(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<M> {
        let map = self.change(db, lineage, key, std::mem::take)?;
        if self.cache.peek(&key).is_some_and(|slot| slot.stored.is_none()) {
            // No row, and nothing to say: the table is as it should be.
            self.evict(key);
            self.dirty.remove(&key);
        }
        Ok(map)
    }

    /// Drops a map from the cache, whose row in the table has changed. It must not be dirty.
    pub(super) fn evict(&mut self, key: Key) {
        if let Some(slot) = self.cache.pop(&key) {
            self.bytes -= slot.bytes();
        }
    }
}

fn read<M: RowMap>(db: &Db, lineage: &Lineage, key: Key) -> Result<(M, Option<Gen>)> {
    db.count_rows(1);
    let mut statement =
        db.prepare("SELECT gen, map FROM chunk WHERE ino = ?1 AND idx = ?2 AND gen <= ?3 ORDER BY gen DESC")?;
    let mut rows =
        statement.query((key.0 as i64, key.1 as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let generation = row.get::<_, i64>(0)? as Gen;
        if lineage.contains(generation) {
            let blob = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            return Ok((M::decode(blob)?, Some(generation)));
        }
    }
    Ok((M::default(), None))
}

fn write<M: RowMap>(db: &Db, lineage: &Lineage, key: Key, slot: &mut Slot<M>) -> Result<()> {
    let (ino, idx) = (key.0 as i64, key.1 as i64);
    let row = RowKey::Chunk(key.0, key.1);
    let exclusive = slot.stored.filter(|generation| lineage.is_exclusive(*generation));
    // An empty map needs a row only above an older one that is not.
    let is_nothing = slot.map.is_empty()
        && match (exclusive, slot.stored) {
            (None, stored) => stored.is_none(),
            (Some(_), _) => !rows::is_beneath(db, lineage, || row.clone())?,
        };
    match (exclusive, is_nothing) {
        (Some(generation), true) => {
            rows::delete(db, &row, generation)?;
            slot.stored = None;
        }
        (None, true) => {}
        (Some(generation), false) => {
            let sql = "UPDATE chunk SET map = ?4 WHERE ino = ?1 AND idx = ?2 AND gen = ?3";
            db.execute(sql, (ino, idx, generation as i64, slot.map.encode()))?;
        }
        (None, false) => {
            if let Some(old) = slot.stored {
                shadow::note(db, &row, old)?;
            }
            let sql = "INSERT INTO chunk VALUES (?1, ?2, ?3, ?4)";
            db.execute(sql, (ino, idx, lineage.head() as i64, slot.map.encode()))?;
            slot.stored = Some(lineage.head());
        }
    }
    slot.dirty = false;
    Ok(())
}
