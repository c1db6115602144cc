//! Reading the metadata of a store without changing it: for `ls`, `inspect` and `check`.

use super::charge;
use super::chunk::{ChunkRow, scan as scan_chunks};
use super::db::Db;
use super::dentry::{self, NameHash};
use super::error::{MetaError, Refusal, Result};
use super::generation::{Generations, Sight};
use super::inode::{look, scan as scan_inodes};
use super::types::{Dentry, Gen, Ino, Inode, Limits, ROOT_INO, VolumeId};
use super::volume::{self, VolumeRow};
use super::{
    Change, ChunkMap, Extent, MetaFiles, SegmentRow, Shared, SnapshotRow, Xattr, diff, hold, new_files,
    reclaim, share, snapshot, space, xattr,
};
use crate::backing::Dir;
use crate::crypto::Keys;
use crate::store::{BlockAddr, Run, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A consistent view of the metadata at one commit.
#[derive(Debug)]
pub struct Inspector {
    db: Db,
    hash: NameHash,
    generations: Generations,
}

impl Inspector {
    /// Opens a store that no process has open, without writing anything.
    ///
    /// # Errors
    /// Damage, or as the backing files.
    pub fn open(dir: Arc<dyn Dir>, store: StoreId) -> Result<Self> {
        Self::open_with(dir, store, &Keys::Plain)
    }

    /// As [`Inspector::open`], with the keys of the store.
    ///
    /// # Errors
    /// As [`Inspector::open`].
    pub fn open_with(dir: Arc<dyn Dir>, store: StoreId, keys: &Keys) -> Result<Self> {
        let files: Arc<MetaFiles> = new_files(dir, true, keys)?;
        let db = Db::open(files, store, true)?;
        db.run("BEGIN")?;
        Self::new(db)
    }

    fn new(db: Db) -> Result<Self> {
        // The view begins with this first read.
        let hash = NameHash::read(&db)?;
        let generations = Generations::read(&db)?;
        Ok(Self { db, hash, generations })
    }

    pub(super) fn beside(db: &Db) -> Result<Self> {
        let db = db.second()?;
        db.run("BEGIN")?;
        Self::new(db)
    }

    /// Lets go of the commit that was looked at, beside a store that is in use: as long as there is a reader, the WAL cannot
    /// start over. Nothing may be asked then before [`Inspector::look_again`].
    ///
    /// # Errors
    /// As the database.
    pub fn let_go(&self) -> Result<()> {
        self.db.run("ROLLBACK")
    }

    /// Looks at the last commit from now on.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn look_again(&mut self) -> Result<()> {
        self.db.run("BEGIN")?;
        self.hash = NameHash::read(&self.db)?;
        self.generations = Generations::read(&self.db)?;
        Ok(())
    }

    /// The readdir cookie that belongs to a name.
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        self.hash.of(name)
    }

    /// The volumes.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn volumes(&self) -> Result<Vec<VolumeRow>> {
        volume::list(&self.db)
    }

    /// The snapshots of all volumes, by volume and age.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>> {
        snapshot::list(&self.db)
    }

    /// The snapshots of a volume, the oldest first.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn snapshots_of(&self, volume: VolumeId) -> Result<Vec<SnapshotRow>> {
        snapshot::list_of(&self.db, volume)
    }

    /// Everything that can be mounted: volumes, and snapshots under the names `VOLUME@SNAPSHOT`.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn views(&self) -> Result<Vec<VolumeRow>> {
        let mut views = self.volumes()?;
        let names: BTreeMap<VolumeId, String> = views.iter().map(|row| (row.id, row.name.clone())).collect();
        for snapshot in self.snapshots()? {
            let volume = names.get(&snapshot.volume).map_or("?", String::as_str);
            views.push(VolumeRow {
                id: snapshot.id,
                name: format!("{volume}@{}", snapshot.name),
                head: snapshot.generation,
                limits: Limits::default(),
                usage: snapshot.usage,
                created: snapshot.created,
            });
        }
        Ok(views)
    }

    /// Blocks that would be freed if a snapshot were removed.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn unique_blocks(&self, snapshot: &SnapshotRow) -> Result<u64> {
        reclaim::unique_blocks(&self.db, &self.generations, snapshot.generation)
    }

    /// What is different between two of the [`Inspector::views`].
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn diff(&self, one: &VolumeRow, two: &VolumeRow) -> Result<Vec<Change>> {
        diff::diff(&self.db, &self.generations, one.head, two.head)
    }

    /// Whether space of removed snapshots or volumes waits to be reclaimed.
    pub fn has_dead(&self) -> bool {
        self.generations.has_deaths()
    }

    /// Whether rows may be left that nobody sees any more: of removed snapshots or volumes, until they are reclaimed.
    pub fn has_leftovers(&self) -> bool {
        self.generations.deaths().next().is_some()
    }

    /// Rows that no volume and no snapshot sees, by table: a count each.
    ///
    /// # Errors
    /// As the database.
    pub fn unseen_rows(&self) -> Result<Vec<(&'static str, u64)>> {
        let sight = Sight::new(&self.generations, self.views()?.iter().map(|row| row.head));
        let mut out = Vec::new();
        for (table, key) in [
            ("inode", "ino"),
            ("dentry", "parent, hash, name"),
            ("xattr", "ino, name"),
            ("chunk", "ino, idx"),
        ] {
            let sql = format!("SELECT {key}, gen FROM {table} ORDER BY {key}, gen");
            let mut statement = self.db.prepare(&sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query([]).map_err(|e| self.db.explain(e))?;
            let (mut unseen, mut last, mut generations) = (0, Vec::new(), Vec::new());
            while let Some(row) = rows.next().map_err(|e| self.db.explain(e))? {
                let mut key = Vec::with_capacity(columns);
                for at in 0..columns - 1 {
                    key.push(row.get::<_, rusqlite::types::Value>(at)?);
                }
                if key != last {
                    unseen += sight.unseen(&generations);
                    generations.clear();
                    last = key;
                }
                generations.push(row.get::<_, i64>(columns - 1)? as Gen);
            }
            unseen += sight.unseen(&generations);
            if unseen > 0 {
                out.push((table, unseen));
            }
        }
        Ok(out)
    }

    /// Calls `each` with every row of `chunk` that holds extents, of whatever generation, by inode and index.
    ///
    /// # Errors
    /// What `each` returns, or as the database.
    pub fn chunk_rows(&self, mut each: impl FnMut(Ino, u64, Result<ChunkMap>) -> Result<()>) -> Result<()> {
        let mut statement = self.db.prepare("SELECT ino, idx, map FROM chunk ORDER BY ino, idx, gen")?;
        let mut rows = statement.query([]).map_err(|e| self.db.explain(e))?;
        while let Some(row) = rows.next().map_err(|e| self.db.explain(e))? {
            let (ino, idx): (i64, i64) = (row.get(0)?, row.get(1)?);
            let blob = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
            if let ChunkRow::Extents(idx, map) = ChunkRow::of_columns(idx as u64, blob) {
                each(ino as Ino, idx, map)?;
            }
        }
        Ok(())
    }

    /// Whether anything refers to one of these blocks, which are in ascending order.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn refers_to_any(&self, blocks: &[BlockAddr]) -> Result<bool> {
        let mut found = false;
        self.chunk_rows(|_, _, map| {
            let map = map?;
            let mut runs = map.extents().iter().filter_map(Extent::run);
            found |= runs.any(|run| {
                let next = blocks.get(blocks.partition_point(|addr| *addr < run.start));
                next.is_some_and(|addr| addr.segment == run.start.segment && addr.index < run.end_index())
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// Those of `runs`, which are in ascending order and do not overlap, that anything refers to a block of.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn referred_of(&self, runs: &[Run]) -> Result<Vec<Run>> {
        let mut found = vec![false; runs.len()];
        self.chunk_rows(|_, _, map| {
            for run in map?.extents().iter().filter_map(Extent::run) {
                let end = (run.start.segment, run.end_index());
                let first = runs.partition_point(|other| {
                    (other.start.segment, other.end_index()) <= (run.start.segment, run.start.index)
                });
                let mut at = first;
                while runs.get(at).is_some_and(|other| (other.start.segment, other.start.index) < end) {
                    found[at] = true;
                    at += 1;
                }
            }
            Ok(())
        })?;
        Ok(runs.iter().zip(found).filter(|(_, found)| *found).map(|(run, _)| *run).collect())
    }

    /// The labels of a volume.
    ///
    /// # Errors
    /// As the database.
    pub fn labels(&self, volume: VolumeId) -> Result<BTreeMap<String, String>> {
        volume::labels(&self.db, volume)
    }

    /// The tags of the holds that a snapshot has, sorted.
    ///
    /// # Errors
    /// As the database.
    pub fn holds(&self, snapshot: VolumeId) -> Result<Vec<String>> {
        hold::tags(&self.db, snapshot)
    }

    /// What SQLite itself finds wrong with the database, a line each.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub fn database_faults(&self) -> Result<Vec<String>> {
        let mut statement = self.db.prepare("PRAGMA integrity_check(100)")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|e| self.db.explain(e))?;
        let mut out = Vec::new();
        for row in rows {
            let line = row.map_err(|e| self.db.explain(e))?;
            if line != "ok" {
                out.push(line);
            }
        }
        Ok(out)
    }

    /// Calls `each` with every inode of the volume, in the order of their numbers.
    ///
    /// # Errors
    /// Damage, what `each` returns, or as the database.
    pub fn inodes(&self, row: &VolumeRow, each: impl FnMut(Inode) -> Result<()>) -> Result<()> {
        scan_inodes(&self.db, &self.generations.lineage(row.head)?, each)
    }

    /// The root directory of a volume; see [`super::Meta::root_of`].
    ///
    /// # Errors
    /// As there.
    pub fn root_of(&self, row: &VolumeRow) -> Result<Inode> {
        let found = look(&self.db, &self.generations.lineage(row.head)?, ROOT_INO)?;
        found.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    /// Entries of a directory; see [`super::Meta::entries`].
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn entries(&self, row: &VolumeRow, parent: Ino, after: u64, limit: usize) -> Result<Vec<Dentry>> {
        dentry::list(&self.db, &self.generations.lineage(row.head)?, parent, after, limit)
    }

    /// Calls `each` with every name of the volume and the directory it is in.
    ///
    /// # Errors
    /// What `each` returns, damage, or as the database.
    pub fn names(&self, row: &VolumeRow, each: impl FnMut(Ino, Dentry) -> Result<()>) -> Result<()> {
        dentry::scan(&self.db, &self.generations.lineage(row.head)?, each)
    }

    /// Calls `each` with everything that says what chunks of the volume are, of one inode after the other.
    ///
    /// # Errors
    /// What `each` returns, or as the database.
    pub fn chunks(&self, row: &VolumeRow, each: impl FnMut(Ino, ChunkRow) -> Result<()>) -> Result<()> {
        scan_chunks(&self.db, &self.generations.lineage(row.head)?, each)
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    /// As the database.
    pub fn xattrs(&self, row: &VolumeRow, ino: Ino) -> Result<Vec<Xattr>> {
        xattr::list(&self.db, &self.generations.lineage(row.head)?, ino)
    }

    /// What the metadata of a volume or a snapshot counts, recounted.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn metadata_of(&self, row: &VolumeRow) -> Result<u64> {
        charge::all(&self.db, &self.generations.lineage(row.head)?)
    }

    /// What the metadata of a snapshot counts, recounted.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn metadata_of_snapshot(&self, row: &SnapshotRow) -> Result<u64> {
        charge::all(&self.db, &self.generations.lineage(row.generation)?)
    }

    /// The segments.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn segments(&self) -> Result<Vec<SegmentRow>> {
        space::segment_rows(&self.db)
    }

    /// Blocks with more than one reference.
    ///
    /// # Errors
    /// As the database.
    pub fn shares(&self) -> Result<Vec<Shared>> {
        share::list(&self.db)
    }

    /// Freed blocks that may not have been given back.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn freed(&self) -> Result<Vec<Run>> {
        Ok(space::freed_rows(&self.db)?.into_iter().flat_map(|(_, runs)| runs).collect())
    }

    /// Orphans of a volume.
    ///
    /// # Errors
    /// As the database.
    pub fn orphans(&self, volume: VolumeId) -> Result<Vec<Ino>> {
        let mut statement = self.db.prepare("SELECT ino FROM orphan WHERE volume = ?1")?;
        let rows = statement
            .query_map([volume as i64], |row| row.get::<_, i64>(0))
            .map_err(|e| self.db.explain(e))?;
        rows.map(|row| row.map(|ino| ino as Ino).map_err(|e| self.db.explain(e))).collect()
    }

    /// The epoch that the next commit will contain: the number of commits and openings so far.
    ///
    /// # Errors
    /// As the database.
    pub fn epoch(&self) -> Result<u64> {
        Ok(self.db.value::<i64>("SELECT epoch FROM store")? as u64)
    }

    /// The lowest inode number never used.
    ///
    /// # Errors
    /// As the database.
    pub fn next_ino(&self) -> Result<Ino> {
        Ok(self.db.value::<i64>("SELECT next_ino FROM store")? as Ino)
    }

    /// Rows of `dentry`, `xattr`, `chunk` and `orphan` whose inode does not exist: a count and an example each.
    ///
    /// # Errors
    /// As the database.
    pub fn strays(&self) -> Result<Vec<(&'static str, u64, Ino)>> {
        let mut out = Vec::new();
        for (table, column) in [("dentry", "parent"), ("xattr", "ino"), ("chunk", "ino"), ("orphan", "ino")] {
            let sql = format!(
                "SELECT count(*), coalesce(min({column}), 0) FROM {table} \
                 WHERE NOT EXISTS (SELECT 1 FROM inode WHERE inode.ino = {table}.{column})"
            );
            let found: (i64, i64) = self
                .db
                .conn()
                .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
                .map_err(|e| self.db.explain(e))?;
            if found.0 > 0 {
                out.push((table, found.0 as u64, found.1 as Ino));
            }
        }
        Ok(out)
    }

    /// Some inodes that have extended attributes and whose rows say that they have none.
    ///
    /// # Errors
    /// As the database.
    pub fn unmarked_xattrs(&self) -> Result<Vec<Ino>> {
        let mut statement = self.db.prepare(
            "SELECT DISTINCT x.ino FROM xattr x JOIN inode i ON i.ino = x.ino AND i.gen = x.gen \
             WHERE x.value IS NOT NULL AND i.xattrs & 1 = 0 LIMIT 100",
        )?;
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).map_err(|e| self.db.explain(e))?;
        rows.map(|row| row.map(|ino| ino as Ino).map_err(|e| self.db.explain(e))).collect()
    }
}
