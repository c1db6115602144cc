//! The `chunk` table and its write-back cache.

use super::chunk_map::ChunkMap;
use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
use super::rows;
use super::shadow::{self, Key as RowKey};
use super::types::{CHUNK_BLOCKS, FILE_MAX, Gen, Ino};
use crate::store::BLOCK_BYTES;
use lru::LruCache;
use rustc_hash::FxBuildHasher;

/// Memory for cached maps.
const CACHED_BYTES: usize = 16 << 20;
/// Changed maps that are written together; few enough for a short pause.
const DIRTY_MAX: usize = 1024;
/// What an entry costs beside its extents.
const ENTRY_BYTES: usize = 160;

/// Chunks of the largest file.
const FILE_CHUNKS: u64 = FILE_MAX / (CHUNK_BLOCKS as u64 * BLOCK_BYTES as u64);

type Key = (Ino, u64);

#[derive(Debug)]
struct Slot {
    map: ChunkMap,
    dirty: bool,
    /// The generation of the row in the table; `None` while there is none.
    stored: Option<Gen>,
}

impl Slot {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + std::mem::size_of_val(self.map.extents())
    }
}

/// The chunk maps of one volume: the newest row of each on the volume's lineage.
///
/// Invariant: as of [`super::inode::InodeTable`]: dirty maps are written before they leave the cache and before the
/// transaction commits. A chunk that is a hole has no row.
#[derive(Debug)]
pub(super) struct ChunkTable {
    cache: LruCache<Key, Slot, FxBuildHasher>,
    bytes: usize,
    dirty: Vec<Key>,
}

impl Default for ChunkTable {
    fn default() -> Self {
        Self { cache: LruCache::unbounded_with_hasher(FxBuildHasher), bytes: 0, dirty: Vec::new() }
    }
}

impl ChunkTable {
    /// Calls `look` with the map of chunk `idx` of `ino`: empty where there is none.
    pub(super) fn with<T>(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        key: Key,
        look: impl FnOnce(&ChunkMap) -> T,
    ) -> Result<T> {
        Ok(look(&self.load(db, lineage, key)?.map))
    }

    /// Calls `change` with the map of chunk `idx` of `ino` and keeps what it makes of it.
    pub(super) fn change<T>(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        key: Key,
        change: impl FnOnce(&mut ChunkMap) -> T,
    ) -> Result<T> {
        let slot = self.load(db, lineage, key)?;
        let before = slot.bytes();
        let result = change(&mut slot.map);
        let (after, was_dirty) = (slot.bytes(), slot.dirty);
        slot.dirty = true;
        self.bytes = self.bytes + after - before;
        if !was_dirty {
            self.dirty.push(key);
            if self.dirty.len() >= DIRTY_MAX {
                self.flush(db, lineage)?;
            }
        }
        Ok(result)
    }

    fn load(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<&mut Slot> {
        if !self.cache.contains(&key) {
            let (map, stored) = read(db, lineage, key)?;
            let slot = Slot { map, dirty: false, stored };
            self.make_room(db, lineage, slot.bytes())?;
            self.bytes += slot.bytes();
            self.cache.put(key, slot);
        }
        self.cache.get_mut(&key).ok_or_else(|| MetaError::damaged("the chunk cache lost an entry"))
    }

    /// Memory of what is cached.
    pub(super) fn cached_bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self, db: &Db, lineage: &Lineage, wanted: usize) -> Result<()> {
        while self.bytes + wanted > CACHED_BYTES {
            let Some((key, mut slot)) = self.cache.pop_lru() else { break };
            self.bytes -= slot.bytes();
            if slot.dirty {
                write(db, lineage, key, &mut slot)?;
            }
        }
        Ok(())
    }

    /// Writes everything that changed to the table.
    pub(super) fn flush(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.cache.peek_mut(&key).filter(|slot| slot.dirty) {
                write(db, lineage, key, slot)?;
                if slot.map.is_empty() {
                    self.evict(key);
                }
            }
        }
        Ok(())
    }

    /// Makes the chunk a hole for good and returns what its map was.
    pub(super) fn remove(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<ChunkMap> {
        let map = self.change(db, lineage, key, std::mem::take)?;
        if self.cache.peek(&key).is_some_and(|slot| slot.stored.is_none()) {
            // No row, and nothing to say: the table is as it should be.
            self.evict(key);
        }
        Ok(map)
    }

    /// Blocks of the chunk, as of now.
    pub(super) fn blocks(&mut self, db: &Db, lineage: &Lineage, key: Key) -> Result<u64> {
        self.with(db, lineage, key, ChunkMap::blocks)
    }

    /// Drops a map from the cache, whose row in the table has changed. It must not be dirty.
    pub(super) fn evict(&mut self, key: Key) {
        if let Some(slot) = self.cache.pop(&key) {
            self.bytes -= slot.bytes();
        }
    }

    /// The indices of `ino`'s chunks in `from..to` that are not holes, ascending, at most `limit`.
    pub(super) fn indices(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        ino: Ino,
        range: std::ops::Range<u64>,
        limit: usize,
    ) -> Result<Vec<u64>> {
        self.flush(db, lineage)?;
        let mut statement = db.prepare(
            "SELECT idx, gen, length(map) FROM chunk \
             WHERE ino = ?1 AND idx >= ?2 AND idx < ?3 AND gen <= ?4 ORDER BY idx, gen DESC",
        )?;
        let bound = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let params = (bound(ino), bound(range.start), bound(range.end), bound(lineage.head()));
        let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
        let mut out: Vec<u64> = Vec::new();
        let mut last = None;
        while out.len() < limit {
            let Some(row) = rows.next().map_err(|e| db.explain(e))? else { break };
            let (idx, generation, len): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if last == Some(idx) || !lineage.contains(generation as Gen) {
                continue;
            }
            // In a tree that is out of order, a caller that goes on behind the last one might never arrive.
            if !range.contains(&(idx as u64)) || last.is_some_and(|last| idx < last) {
                return Err(MetaError::damaged(format!("the chunks of inode {ino} are out of order")));
            }
            last = Some(idx);
            if len > 1 {
                out.push(idx as u64);
            }
        }
        Ok(out)
    }
}

fn read(db: &Db, lineage: &Lineage, key: Key) -> Result<(ChunkMap, Option<Gen>)> {
    let mut statement =
        db.prepare("SELECT gen, map FROM chunk WHERE ino = ?1 AND idx = ?2 AND gen <= ?3 ORDER BY gen DESC")?;
    let mut rows =
        statement.query((key.0 as i64, key.1 as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let generation = row.get::<_, i64>(0)? as Gen;
        if lineage.contains(generation) {
            let blob = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            return Ok((ChunkMap::decode(blob)?, Some(generation)));
        }
    }
    Ok((ChunkMap::default(), None))
}

fn write(db: &Db, lineage: &Lineage, key: Key, slot: &mut Slot) -> Result<()> {
    let (ino, idx) = (key.0 as i64, key.1 as i64);
    let row = RowKey::Chunk(key.0, key.1);
    let exclusive = slot.stored.filter(|generation| lineage.is_exclusive(*generation));
    // A hole needs a row only above an older one that is none.
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

/// The map in the row of one generation.
pub(super) fn read_row(db: &Db, key: (Ino, u64), generation: Gen) -> Result<ChunkMap> {
    let mut statement = db.prepare("SELECT map FROM chunk WHERE ino = ?1 AND idx = ?2 AND gen = ?3")?;
    let params = (key.0 as i64, key.1 as i64, generation as i64);
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

/// Changes the map in the row of one generation.
pub(super) fn write_row(db: &Db, key: (Ino, u64), generation: Gen, map: &ChunkMap) -> Result<()> {
    db.execute(
        "UPDATE chunk SET map = ?4 WHERE ino = ?1 AND idx = ?2 AND gen = ?3",
        (key.0 as i64, key.1 as i64, generation as i64, map.encode()),
    )?;
    Ok(())
}

/// Calls `each` with every chunk of the lineage. The caches must be flushed.
pub(super) fn scan(
    db: &Db,
    lineage: &Lineage,
    mut each: impl FnMut(Ino, u64, Result<ChunkMap>) -> Result<()>,
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
        let blob = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
        let map = match u64::try_from(idx) {
            Ok(idx) if idx < FILE_CHUNKS => ChunkMap::decode(blob),
            _ => Err(MetaError::damaged("a chunk lies where no file reaches")),
        };
        each(ino as Ino, idx as u64, map)?;
    }
    Ok(())
}
