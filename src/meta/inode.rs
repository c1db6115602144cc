//! The `inode` table and its write-back cache.

use super::cache::{LEAVE_MAX, WRITTEN_AT_LEAST, WRITTEN_AT_ONCE, limit_of};
use super::charge;
use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
use super::rows;
use super::shadow::{self, Key};
use super::types::{FILE_MAX, Gen, Ino, Inode, Kind, Timestamp, Usage, XattrBits};
use crate::store::BLOCK_BYTES;
use lru::LruCache;
use rusqlite::Row;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::collections::VecDeque;
use std::sync::Arc;

/// Memory for cached inodes.
pub(super) const CACHED_BYTES: usize = 8 << 20;
/// What an entry costs beside its target.
const ENTRY_BYTES: usize = 256;
/// Changed inodes that are not in the table yet, at most.
const DIRTY_MAX: usize = 1024;

const COLUMNS: &str = "gen, mode, nlink, uid, gid, rdev, size, blocks, atime, atime_ns, mtime, mtime_ns, \
                       ctime, ctime_ns, btime, btime_ns, parent, xattrs, target";

#[derive(Debug)]
struct Slot {
    inode: Inode,
    dirty: bool,
    /// The generation of the row in the table; `None` while there is none.
    stored: Option<Gen>,
}

impl Slot {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.inode.target.as_ref().map_or(0, |target| target.len())
    }
}

/// The inodes of one volume: the newest row of each on the volume's lineage.
///
/// Invariant: what is dirty or removed here is newer than the table, and is written to it before it leaves the cache and
/// before the transaction commits.
#[derive(Debug)]
pub(super) struct InodeTable {
    cache: LruCache<Ino, Slot, FxBuildHasher>,
    /// Memory of what is cached.
    bytes: usize,
    /// In the order in which they were changed.
    dirty: VecDeque<Ino>,
    /// Inodes that are gone, with the generations of their rows, which are still there.
    removed: FxHashMap<Ino, Gen>,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self {
            cache: LruCache::unbounded_with_hasher(FxBuildHasher),
            bytes: 0,
            dirty: VecDeque::new(),
            removed: FxHashMap::default(),
        }
    }
}

impl InodeTable {
    /// The newest row of `ino` that was not removed since, with its generation.
    fn stored(&self, db: &Db, lineage: &Lineage, ino: Ino) -> Result<Option<(Inode, Gen)>> {
        if self.removed.contains_key(&ino) { Ok(None) } else { read(db, lineage, ino) }
    }

    /// Keeps what is not in the table yet within its limit.
    fn flush_many(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        if self.unwritten() < DIRTY_MAX {
            return Ok(());
        }
        for written in 1..=WRITTEN_AT_ONCE {
            self.write_one(db, lineage)?;
            if written >= WRITTEN_AT_LEAST && db.is_late() {
                break;
            }
        }
        Ok(())
    }

    /// How many rows are not as they are in the table.
    pub(super) fn unwritten(&self) -> usize {
        self.dirty.len() + self.removed.len()
    }

    /// Writes what was changed first to the table.
    pub(super) fn write_one(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        if let Some(ino) = self.dirty.pop_front() {
            // One that was removed meanwhile is gone from the cache.
            if let Some(slot) = self.cache.peek_mut(&ino).filter(|slot| slot.dirty) {
                db.keep_row(write(db, lineage, slot))?;
            }
        } else if let Some(ino) = self.removed.keys().next().copied()
            && let Some(generation) = self.removed.remove(&ino)
        {
            db.keep_row(delete(db, lineage, ino, generation))?;
        }
        Ok(())
    }

    /// The inode, if it exists; nothing is kept of it that was not before.
    pub(super) fn peek(&self, db: &Db, lineage: &Lineage, ino: Ino) -> Result<Option<Inode>> {
        match self.cache.peek(&ino) {
            Some(slot) => Ok(Some(slot.inode.clone())),
            None => Ok(self.stored(db, lineage, ino)?.map(|(inode, _)| inode)),
        }
    }

    /// The inode, if it exists.
    pub(super) fn get(&mut self, db: &Db, lineage: &Lineage, ino: Ino) -> Result<Option<Inode>> {
        if let Some(slot) = self.cache.get(&ino) {
            return Ok(Some(slot.inode.clone()));
        }
        let Some((inode, stored)) = self.stored(db, lineage, ino)? else {
            return Ok(None);
        };
        self.insert(db, lineage, Slot { inode: inode.clone(), dirty: false, stored: Some(stored) })?;
        Ok(Some(inode))
    }

    /// Takes a new or changed inode.
    pub(super) fn put(&mut self, db: &Db, lineage: &Lineage, inode: Inode) -> Result<()> {
        let ino = inode.ino;
        if let Some(slot) = self.cache.get_mut(&ino) {
            let before = slot.bytes();
            slot.inode = inode;
            self.bytes = self.bytes + slot.bytes() - before;
            if !slot.dirty {
                slot.dirty = true;
                self.dirty.push_back(ino);
            }
        } else {
            // Only an inode that was just read or is new gets here without being cached.
            let stored = self.stored(db, lineage, ino)?.map(|(_, generation)| generation);
            self.insert_dirty(db, lineage, inode, stored)?;
        }
        self.flush_many(db, lineage)
    }

    /// Takes an inode whose number was never used before.
    pub(super) fn put_new(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        usage: &mut Usage,
        inode: Inode,
    ) -> Result<()> {
        usage.metadata += charge::inode(&inode);
        self.insert_dirty(db, lineage, inode, None)?;
        self.flush_many(db, lineage)
    }

    fn insert_dirty(&mut self, db: &Db, lineage: &Lineage, inode: Inode, stored: Option<Gen>) -> Result<()> {
        self.dirty.push_back(inode.ino);
        self.insert(db, lineage, Slot { inode, dirty: true, stored })
    }

    fn insert(&mut self, db: &Db, lineage: &Lineage, slot: Slot) -> Result<()> {
        let bytes = slot.bytes();
        self.make_room(db, lineage, bytes)?;
        self.bytes += bytes;
        self.cache.put(slot.inode.ino, slot);
        Ok(())
    }

    /// Takes an inode out of the cache.
    fn take(&mut self, ino: Ino) -> Option<Slot> {
        let slot = self.cache.pop(&ino)?;
        self.bytes -= slot.bytes();
        Some(slot)
    }

    /// Removes the row of an inode. Its number is never used again.
    pub(super) fn remove(
        &mut self,
        db: &Db,
        lineage: &Lineage,
        usage: &mut Usage,
        inode: &Inode,
    ) -> Result<()> {
        let ino = inode.ino;
        usage.less_metadata(charge::inode(inode))?;
        let stored = match self.take(ino) {
            Some(slot) => slot.stored,
            None => self.stored(db, lineage, ino)?.map(|(_, generation)| generation),
        };
        let Some(generation) = stored else { return Ok(()) };
        if !lineage.is_exclusive(generation) {
            shadow::note(db, &Key::Inode(ino), generation)?;
            return put_whiteout(db, ino, lineage.head());
        }
        self.removed.insert(ino, generation);
        self.flush_many(db, lineage)
    }

    /// Memory of what is cached.
    pub(super) fn cached_bytes(&self) -> usize {
        self.bytes
    }

    /// Drops the inode from the cache, whose row in the table has changed. It must not be dirty.
    pub(super) fn evict(&mut self, ino: Ino) {
        self.take(ino);
    }

    /// Writes everything that changed to the table.
    #[cfg(test)]
    pub(super) fn flush(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        while self.unwritten() > 0 {
            self.write_one(db, lineage)?;
        }
        Ok(())
    }

    /// Lets go of what is too much since the limit was lowered, a part of it.
    pub(super) fn trim(&mut self, db: &Db, lineage: &Lineage) -> Result<()> {
        self.make_room(db, lineage, 0)
    }

    fn make_room(&mut self, db: &Db, lineage: &Lineage, wanted: usize) -> Result<()> {
        let limit = limit_of(db, CACHED_BYTES);
        for left in 1..=LEAVE_MAX {
            if self.bytes + wanted <= limit {
                break;
            }
            let Some((_, mut slot)) = self.cache.pop_lru() else { break };
            self.bytes -= slot.bytes();
            if slot.dirty {
                db.keep_row(write(db, lineage, &mut slot))?;
                if left >= WRITTEN_AT_LEAST && db.is_late() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Deletes a row that only this lineage sees.
fn delete(db: &Db, lineage: &Lineage, ino: Ino, generation: Gen) -> Result<()> {
    db.execute("DELETE FROM inode WHERE ino = ?1 AND gen = ?2", (ino as i64, generation as i64))?;
    if rows::is_beneath(db, lineage, || Key::Inode(ino))? {
        put_whiteout(db, ino, generation)?;
    }
    Ok(())
}

/// Says that an inode is not there, above an older row that says that it is.
fn put_whiteout(db: &Db, ino: Ino, generation: Gen) -> Result<()> {
    db.execute(
        "INSERT INTO inode VALUES (?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)",
        (ino as i64, generation as i64),
    )?;
    Ok(())
}

fn write(db: &Db, lineage: &Lineage, slot: &mut Slot) -> Result<()> {
    let i = &slot.inode;
    // A row that only this lineage sees is changed in place; one that others see too is hidden.
    let exclusive = slot.stored.filter(|generation| lineage.is_exclusive(*generation));
    let generation = exclusive.unwrap_or(lineage.head());
    let sql = if exclusive.is_some() {
        "UPDATE inode SET mode = ?3, nlink = ?4, uid = ?5, gid = ?6, rdev = ?7, size = ?8, blocks = ?9, \
         atime = ?10, atime_ns = ?11, mtime = ?12, mtime_ns = ?13, ctime = ?14, ctime_ns = ?15, \
         btime = ?16, btime_ns = ?17, parent = ?18, xattrs = ?19, target = ?20 WHERE ino = ?1 AND gen = ?2"
    } else {
        "INSERT INTO inode VALUES \
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
    };
    let changed = db.execute(
        sql,
        rusqlite::params![
            i.ino as i64,
            generation as i64,
            i.mode,
            i.nlink,
            i.uid,
            i.gid,
            i.rdev,
            i.size as i64,
            i.blocks as i64,
            i.atime.sec,
            i.atime.nsec,
            i.mtime.sec,
            i.mtime.nsec,
            i.ctime.sec,
            i.ctime.nsec,
            i.btime.sec,
            i.btime.nsec,
            i.parent as i64,
            i.xattrs.0,
            i.target.as_deref(),
        ],
    )?;
    if changed != 1 {
        return Err(MetaError::damaged(format!("the row of inode {} is gone", i.ino)));
    }
    if let Some(old) = slot.stored.filter(|old| *old != generation) {
        shadow::note(db, &Key::Inode(slot.inode.ino), old)?;
    }
    slot.stored = Some(generation);
    slot.dirty = false;
    Ok(())
}

/// The inode as a lineage sees it, past any cache, which must be flushed.
pub(super) fn look(db: &Db, lineage: &Lineage, ino: Ino) -> Result<Option<Inode>> {
    Ok(read(db, lineage, ino)?.map(|(inode, _)| inode))
}

/// The newest row of `ino` on the lineage, with its generation.
fn read(db: &Db, lineage: &Lineage, ino: Ino) -> Result<Option<(Inode, Gen)>> {
    let mut statement = db.prepare(
        "SELECT gen, mode, nlink, uid, gid, rdev, size, blocks, atime, atime_ns, mtime, mtime_ns, \
         ctime, ctime_ns, btime, btime_ns, parent, xattrs, target \
         FROM inode WHERE ino = ?1 AND gen <= ?2 ORDER BY gen DESC",
    )?;
    let mut rows = statement.query((ino as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let generation: i64 = row.get(0)?;
        if lineage.contains(generation as Gen) {
            return Ok(decode(ino, row)?.map(|inode| (inode, generation as Gen)));
        }
    }
    Ok(None)
}

/// An inode from a row of [`COLUMNS`]; `None` for a whiteout.
fn decode(ino: Ino, row: &Row<'_>) -> Result<Option<Inode>> {
    let damaged = |what: &str| MetaError::damaged(format!("inode {ino} has {what}"));
    let mode: u32 = row.get(1)?;
    if mode == 0 {
        return Ok(None);
    }
    if Kind::of_mode(mode).is_none() {
        return Err(damaged("an unknown file type"));
    }
    let unsigned = |at: usize| -> Result<u64> {
        u64::try_from(row.get::<_, i64>(at)?).map_err(|_| damaged("a negative size, count or parent"))
    };
    let blocks = unsigned(7)?;
    if blocks > FILE_MAX / BLOCK_BYTES as u64 {
        return Err(damaged("more blocks than a file can have"));
    }
    let time = |at: usize| -> Result<Timestamp> {
        let nsec: u32 = row.get(at + 1)?;
        if nsec >= 1_000_000_000 {
            return Err(damaged("a time with too many nanoseconds"));
        }
        Ok(Timestamp { sec: row.get(at)?, nsec })
    };
    Ok(Some(Inode {
        ino,
        mode,
        nlink: row.get(2)?,
        uid: row.get(3)?,
        gid: row.get(4)?,
        rdev: row.get(5)?,
        size: unsigned(6)?,
        blocks,
        atime: time(8)?,
        mtime: time(10)?,
        ctime: time(12)?,
        btime: time(14)?,
        parent: unsigned(16)?,
        xattrs: XattrBits(row.get(17)?),
        target: row.get::<_, Option<Vec<u8>>>(18)?.map(Arc::from),
    }))
}

/// Calls `each` with every inode of the lineage, in the order of their numbers. The caches must be flushed.
pub(super) fn scan(db: &Db, lineage: &Lineage, mut each: impl FnMut(Inode) -> Result<()>) -> Result<()> {
    let mut statement =
        db.prepare(&format!("SELECT {COLUMNS}, ino FROM inode WHERE gen <= ?1 ORDER BY ino, gen DESC"))?;
    let mut rows = statement.query([lineage.head() as i64]).map_err(|e| db.explain(e))?;
    let mut last = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let (generation, ino): (i64, i64) = (row.get(0)?, row.get(19)?);
        if last == Some(ino) || !lineage.contains(generation as Gen) {
            continue;
        }
        last = Some(ino);
        if let Some(inode) = decode(ino as Ino, row)? {
            each(inode)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::meta::generation::Generations;
    use crate::meta::types::TARGET_MAX;
    use crate::meta::vfs::MetaFiles;
    use crate::store::StoreId;

    /// A new database with a transaction open, and what its first generation sees.
    fn database() -> (tempfile::TempDir, Db, Lineage) {
        let tmp = tempfile::tempdir().unwrap();
        let files = MetaFiles::new(Arc::new(OsDir::new(tmp.path())), false).unwrap();
        let db = Db::create(files, StoreId(1), [0; 16]).unwrap();
        db.run("BEGIN").unwrap();
        let mut generations = Generations::default();
        generations.born(1, 0);
        (tmp, db, generations.lineage(1).unwrap())
    }

    #[test]
    fn what_is_cached_is_limited_in_bytes() {
        let (_tmp, db, lineage) = database();
        let (mut table, mut usage) = (InodeTable::default(), Usage::default());
        let symlink = |ino: Ino, len: usize| Inode {
            ino,
            mode: Kind::Symlink.mode_bits() | 0o777,
            size: len as u64,
            target: Some(vec![b'x'; len].into()),
            ..Inode::root(0, Timestamp::default())
        };
        let held = |table: &InodeTable| table.cache.iter().map(|(_, slot)| slot.bytes()).sum::<usize>();
        let count = 2 * (CACHED_BYTES / TARGET_MAX) as Ino;
        for ino in 1..=count {
            table.put_new(&db, &lineage, &mut usage, symlink(ino, TARGET_MAX)).unwrap();
            assert!(table.bytes <= CACHED_BYTES);
        }
        assert_eq!(table.bytes, held(&table));
        // What left the cache is read again, whatever is changed or removed in between.
        for ino in 1..=count {
            let mut inode = table.get(&db, &lineage, ino).unwrap().unwrap();
            assert_eq!(inode.size, TARGET_MAX as u64);
            if ino % 3 == 0 {
                inode.uid += 1;
                table.put(&db, &lineage, inode).unwrap();
            } else if ino % 3 == 1 {
                table.remove(&db, &lineage, &mut usage, &inode).unwrap();
            }
            assert!(table.bytes <= CACHED_BYTES);
        }
        assert_eq!(table.bytes, held(&table));
        table.flush(&db, &lineage).unwrap();
        assert_eq!(
            db.value::<i64>("SELECT count(*) FROM inode").unwrap(),
            (count - count.div_ceil(3)) as i64
        );
    }

    #[test]
    fn changed_rows_are_written_in_parts_the_oldest_first() {
        let (_tmp, db, lineage) = database();
        let (mut table, mut usage) = (InodeTable::default(), Usage::default());
        let count = || db.value::<i64>("SELECT count(*) FROM inode").unwrap() as usize;
        for ino in 1..=3 * DIRTY_MAX as Ino {
            let before = count();
            let inode = Inode { ino, ..Inode::root(0, Timestamp::default()) };
            table.put_new(&db, &lineage, &mut usage, inode).unwrap();
            assert!(table.unwritten() < DIRTY_MAX && count() - before <= WRITTEN_AT_ONCE);
            assert_eq!(table.unwritten() + count(), ino as usize);
        }
        assert_eq!(db.value::<i64>("SELECT max(ino) FROM inode").unwrap() as usize, count());
        // What was removed comes last, whether its row was written or not.
        for ino in [1, 3 * DIRTY_MAX as Ino] {
            let inode = table.get(&db, &lineage, ino).unwrap().unwrap();
            table.remove(&db, &lineage, &mut usage, &inode).unwrap();
        }
        while table.unwritten() > 0 {
            table.write_one(&db, &lineage).unwrap();
        }
        assert_eq!(count(), 3 * DIRTY_MAX - 2);
    }

    /// Such an error may be told to somebody who only looks; a commit would make durable what was never applied.
    #[test]
    fn a_row_that_could_not_be_written_is_not_forgotten() {
        let (_tmp, db, lineage) = database();
        let (mut table, mut usage) = (InodeTable::default(), Usage::default());
        let inode = Inode { ino: 7, ..Inode::root(0, Timestamp::default()) };
        table.put_new(&db, &lineage, &mut usage, inode).unwrap();
        db.run("PRAGMA query_only = ON").unwrap();
        assert!(table.flush(&db, &lineage).is_err());
        db.run("PRAGMA query_only = OFF").unwrap();
        assert!(db.has_lost_rows());
    }
}
