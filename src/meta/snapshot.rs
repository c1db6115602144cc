//! The `snapshot` table, and what makes, keeps and unmakes points in time: snapshot, clone, rollback, resize, remove.
//!
//! Each is a handful of rows, whatever the volume holds. None is recorded in the redo log: [`Meta::alter`] makes each durable
//! before anything else happens.

use super::charge;
use super::db::Db;
use super::error::{MetaError, Refusal, Result};
use super::head::Head;
use super::types::{Gen, Limits, ROOT_INO, Usage, VolumeId};
use super::volume::{self, VolumeRow};
use super::{Meta, Timestamp};
use crate::store::BLOCK_BYTES;
use rusqlite::{Row, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row of the `snapshot` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its number, from the same sequence as those of volumes.
    pub id: VolumeId,
    /// The volume.
    pub volume: VolumeId,
    /// Its name, unique within the volume.
    pub name: String,
    /// The generation it keeps.
    pub generation: Gen,
    /// What the volume used then.
    pub usage: Usage,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// Keeps a snapshot open for reading as long as it lives. It keeps nobody from removing the snapshot: what is asked of it
/// then is [`Refusal::Gone`].
#[derive(Clone, Debug)]
pub struct SnapshotHold {
    _user: Arc<()>,
}

/// A new snapshot.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// What the root directory of a volume is to be like; where nothing is said, it stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootChange {
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its permissions (07777).
    pub permissions: Option<u32>,
}

/// A new clone.
#[derive(Clone, Debug)]
pub struct NewClone {
    /// Its name.
    pub name: String,
    /// Its limits.
    pub limits: Limits,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When.
    pub created: Timestamp,
    /// Owner of the root directory, if it is to be another.
    pub uid: Option<u32>,
    /// Group of the root directory, likewise.
    pub gid: Option<u32>,
    /// Permissions of the root directory, likewise.
    pub permissions: Option<u32>,
}

const COLUMNS: &str = "id, volume, name, gen, used_blocks, used_inodes, created, used_meta";

fn decode(row: &Row<'_>) -> Result<SnapshotRow> {
    let unsigned =
        |value: i64| u64::try_from(value).map_err(|_| MetaError::damaged("a snapshot has a negative count"));
    Ok(SnapshotRow {
        id: unsigned(row.get(0)?)?,
        volume: unsigned(row.get(1)?)?,
        name: row.get(2)?,
        generation: unsigned(row.get(3)?)?,
        usage: Usage {
            blocks: unsigned(row.get(4)?)?,
            inodes: unsigned(row.get(5)?)?,
            metadata: unsigned(row.get(7)?)?,
        },
        created: unsigned(row.get(6)?)?,
    })
}

/// All snapshots of the store, by volume and age.
pub(super) fn list(db: &Db) -> Result<Vec<SnapshotRow>> {
    let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM snapshot ORDER BY volume, id"))?;
    decode_all(db, statement.query([]))
}

/// The snapshots of a volume, the oldest first.
pub(super) fn list_of(db: &Db, volume: VolumeId) -> Result<Vec<SnapshotRow>> {
    let mut statement =
        db.prepare(&format!("SELECT {COLUMNS} FROM snapshot WHERE volume = ?1 ORDER BY id"))?;
    decode_all(db, statement.query([volume as i64]))
}

fn decode_all(db: &Db, rows: rusqlite::Result<Rows<'_>>) -> Result<Vec<SnapshotRow>> {
    let mut rows = rows.map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        out.push(decode(row)?);
    }
    Ok(out)
}

/// The snapshot of a volume by its name.
fn find(db: &Db, volume: VolumeId, name: &str) -> Result<Option<SnapshotRow>> {
    let mut statement =
        db.prepare(&format!("SELECT {COLUMNS} FROM snapshot WHERE volume = ?1 AND name = ?2"))?;
    let mut rows = statement.query((volume as i64, name)).map_err(|e| db.explain(e))?;
    rows.next().map_err(|e| db.explain(e))?.map(decode).transpose()
}

fn next_id(db: &Db) -> Result<i64> {
    db.value("UPDATE store SET next_volume = next_volume + 1 RETURNING next_volume - 1")
}

fn put_labels(db: &Db, id: i64, labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        db.execute("INSERT INTO label VALUES (?1, ?2, ?3)", (id, key, value))?;
    }
    Ok(())
}

fn copy_orphans(db: &Db, from: VolumeId, to: i64) -> Result<()> {
    let sql = "INSERT INTO orphan SELECT ?2, ino FROM orphan WHERE volume = ?1";
    db.execute(sql, (from as i64, to)).map(|_| ())
}

fn delete_of(db: &Db, id: VolumeId) -> Result<()> {
    db.execute("DELETE FROM label WHERE volume = ?1", [id as i64])?;
    db.execute("DELETE FROM orphan WHERE volume = ?1", [id as i64])?;
    Ok(())
}

impl Meta {
    /// The snapshots of all volumes.
    ///
    /// # Errors
    /// As the database.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>> {
        list(&self.db)
    }

    /// The snapshots of a volume, the oldest first.
    ///
    /// # Errors
    /// As the database.
    pub fn snapshots_of(&self, volume: VolumeId) -> Result<Vec<SnapshotRow>> {
        list_of(&self.db, volume)
    }

    /// The snapshot of a volume by its name.
    ///
    /// # Errors
    /// As the database.
    pub fn snapshot(&self, volume: VolumeId, name: &str) -> Result<Option<SnapshotRow>> {
        find(&self.db, volume, name)
    }

    fn volume_row(&self, volume: VolumeId) -> Result<VolumeRow> {
        let row = self.volumes()?.into_iter().find(|row| row.id == volume);
        row.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    pub(super) fn snapshot_row(&self, id: VolumeId) -> Result<SnapshotRow> {
        let mut statement = self.db.prepare(&format!("SELECT {COLUMNS} FROM snapshot WHERE id = ?1"))?;
        let mut rows = statement.query([id as i64]).map_err(|e| self.db.explain(e))?;
        let row = rows.next().map_err(|e| self.db.explain(e))?.map(decode).transpose()?;
        row.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    /// Keeps what the metadata of a snapshot counts, of one that a program of an earlier version made: it did not count.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], or as the database.
    pub fn keep_count(&mut self, id: VolumeId, metadata: u64) -> Result<()> {
        self.snapshot_row(id)?;
        self.writing(|meta| {
            let sql = "UPDATE snapshot SET used_meta = ?2 WHERE id = ?1";
            meta.db.execute(sql, (id as i64, metadata as i64)).map(drop)
        })
    }

    /// The row of a snapshot with its metadata counted. Whoever has let [`Meta::keep_count`] keep the count before does not hold
    /// the metadata for as long as counting takes.
    fn counted(&self, mut row: SnapshotRow) -> Result<SnapshotRow> {
        if row.usage.metadata == 0 {
            row.usage.metadata = charge::all(&self.db, &self.generations.lineage(row.generation)?)?;
        }
        Ok(row)
    }

    /// A new generation below `parent`, held once.
    pub(super) fn new_generation(&mut self, parent: Gen, created: u64) -> Result<Gen> {
        let generation: i64 =
            self.db.value("UPDATE store SET next_gen = next_gen + 1 RETURNING next_gen - 1")?;
        self.db.execute(
            "INSERT INTO generation VALUES (?1, ?2, ?3, 0)",
            (generation, parent as i64, created as i64),
        )?;
        self.generations.born(generation as Gen, parent);
        Ok(generation as Gen)
    }

    /// Gives a volume a new head, so that nothing is written to its old one any more; returns the old one, which the
    /// caller holds for whoever it is for.
    fn freeze(&mut self, volume: VolumeId, created: u64) -> Result<Gen> {
        let db = &self.db;
        let head = self.heads.get_mut(&volume).ok_or(MetaError::Refused(Refusal::Gone))?;
        head.flush(db)?;
        let old = head.lineage.head();
        let new = self.new_generation(old, created)?;
        self.generations.release(old);
        self.db.execute("UPDATE volume SET head = ?2 WHERE id = ?1", (volume as i64, new as i64))?;
        if let Some(head) = self.heads.get_mut(&volume) {
            head.lineage.freeze(new);
        }
        Ok(old)
    }

    /// Makes a snapshot of a volume as it is now.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a name in use, or as the database.
    pub fn create_snapshot(&mut self, volume: VolumeId, new: &NewSnapshot) -> Result<SnapshotRow> {
        if find(&self.db, volume, &new.name)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        let (usage, _) = self.usage(volume)?;
        self.writing(|meta| {
            let generation = meta.freeze(volume, new.created)?;
            meta.insert_snapshot(volume, new, generation, usage)
        })
    }

    /// Makes several snapshots, of one moment. None of them is there twice.
    ///
    /// # Errors
    /// As [`Meta::create_snapshot`]; then none is made.
    pub fn create_snapshots(&mut self, new: &[(VolumeId, NewSnapshot)]) -> Result<()> {
        for (volume, new) in new {
            if find(&self.db, *volume, &new.name)?.is_some() {
                return Err(Refusal::Exists.into());
            }
            self.usage(*volume)?;
        }
        new.iter().try_for_each(|(volume, new)| self.create_snapshot(*volume, new).map(drop))
    }

    /// Gives a snapshot another name. Who looks at it goes on doing so.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a name in use, [`Refusal::NotFound`], or as the database.
    pub fn rename_snapshot(&mut self, id: VolumeId, name: &str) -> Result<()> {
        let row = self.snapshot_row(id)?;
        if find(&self.db, row.volume, name)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        self.writing(|meta| {
            meta.db.execute("UPDATE snapshot SET name = ?2 WHERE id = ?1", (id as i64, name)).map(drop)
        })
    }

    fn insert_snapshot(
        &mut self,
        volume: VolumeId,
        new: &NewSnapshot,
        generation: Gen,
        usage: Usage,
    ) -> Result<SnapshotRow> {
        let id = next_id(&self.db)?;
        self.db.execute(
            "INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                id,
                volume as i64,
                &new.name,
                generation as i64,
                usage.blocks as i64,
                usage.inodes as i64,
                new.created as i64,
                usage.metadata as i64,
            ),
        )?;
        put_labels(&self.db, id, &new.labels)?;
        copy_orphans(&self.db, volume, id)?;
        self.generations.hold(generation);
        Ok(SnapshotRow {
            id: id as u64,
            volume,
            name: new.name.clone(),
            generation,
            usage,
            created: new.created,
        })
    }

    /// Removes a snapshot. What only it held is given back in the background.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Held`], or as the database.
    pub fn remove_snapshot(&mut self, id: VolumeId) -> Result<()> {
        let row = self.snapshot_row(id)?;
        self.must_not_be_held(id)?;
        self.writing(|meta| {
            meta.heads.remove(&id);
            meta.db.execute("DELETE FROM snapshot WHERE id = ?1", [id as i64])?;
            delete_of(&meta.db, id)?;
            meta.generations.release(row.generation);
            Ok(())
        })
    }

    /// Makes a volume that begins as another one (`source` is a volume) or as a snapshot.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a name in use, [`Refusal::NotFound`], [`Refusal::NoSpace`], [`Refusal::NoInodes`] or
    /// [`Refusal::NoMetadata`] for limits below what the source uses, or as the database.
    pub fn create_clone(&mut self, source: VolumeId, new: &NewClone) -> Result<VolumeId> {
        let volumes = self.volumes()?;
        if volumes.iter().any(|row| row.name == new.name) {
            return Err(Refusal::Exists.into());
        }
        let (generation, usage) = match volumes.iter().find(|row| row.id == source) {
            Some(row) => (None, row.usage),
            None => {
                let row = self.counted(self.snapshot_row(source)?)?;
                (Some(row.generation), row.usage)
            }
        };
        must_hold(new.limits, usage)?;
        self.writing(|meta| {
            let since = new.created.sec as u64;
            let generation = match generation {
                Some(generation) => generation,
                None => meta.freeze(source, since)?,
            };
            let head = meta.new_generation(generation, since)?;
            let id = next_id(&meta.db)?;
            let row = VolumeRow {
                id: id as u64,
                name: new.name.clone(),
                head,
                limits: new.limits,
                usage,
                created: since,
            };
            volume::insert_row(&meta.db, &row, &new.labels)?;
            copy_orphans(&meta.db, source, id)?;
            meta.open_head(&row)?;
            let root = RootChange { uid: new.uid, gid: new.gid, permissions: new.permissions };
            meta.set_root(row.id, root, new.created)?;
            Ok(row.id)
        })
    }

    /// Changes owner, group and permissions of a volume's root directory. (An access control list there stays as it is: whose has one, its
    /// permissions are not for here.)
    ///
    /// # Errors
    /// [`Refusal::Gone`] if the volume is not there, or as the database.
    pub fn change_root(&mut self, volume: VolumeId, change: RootChange, time: Timestamp) -> Result<()> {
        self.inode(volume, ROOT_INO)?;
        self.writing(|meta| meta.set_root(volume, change, time))
    }

    fn set_root(&mut self, volume: VolumeId, new: RootChange, time: Timestamp) -> Result<()> {
        if new == RootChange::default() {
            return Ok(());
        }
        let mut root = self.inode(volume, ROOT_INO)?;
        root.uid = new.uid.unwrap_or(root.uid);
        root.gid = new.gid.unwrap_or(root.gid);
        root.mode = new.permissions.map_or(root.mode, |bits| (root.mode & !0o7777) | (bits & 0o7777));
        root.ctime = time;
        let (db, head) = self.head(volume)?;
        head.put_inode(db, root)
    }

    /// Makes a volume what it was at one of its snapshots. What it was before is kept as the snapshot `before`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Exists`] for the name in `before`, [`Refusal::NoSpace`], [`Refusal::NoInodes`] or
    /// [`Refusal::NoMetadata`] if the volume's limits are below what the snapshot holds, or as the database.
    pub fn rollback(&mut self, snapshot: VolumeId, before: &NewSnapshot) -> Result<SnapshotRow> {
        let target = self.counted(self.snapshot_row(snapshot)?)?;
        let volume = self.volume_row(target.volume)?;
        must_hold(volume.limits, target.usage)?;
        if find(&self.db, volume.id, &before.name)?.is_some() {
            return Err(Refusal::Exists.into());
        }
        self.writing(|meta| {
            let (db, head) = meta.head(volume.id)?;
            head.flush(db)?;
            let old = head.lineage.head();
            let kept = meta.insert_snapshot(volume.id, before, old, volume.usage)?;
            meta.generations.release(old);
            let head = meta.new_generation(target.generation, before.created)?;
            meta.db.execute(
                "UPDATE volume SET head = ?2, used_blocks = ?3, used_inodes = ?4, used_meta = ?5 WHERE id = ?1",
                (
                    volume.id as i64,
                    head as i64,
                    target.usage.blocks as i64,
                    target.usage.inodes as i64,
                    target.usage.metadata as i64,
                ),
            )?;
            meta.db.execute("DELETE FROM orphan WHERE volume = ?1", [volume.id as i64])?;
            copy_orphans(&meta.db, target.id, volume.id as i64)?;
            let row = VolumeRow { head, usage: target.usage, ..volume };
            meta.open_head(&row)?;
            Ok(kept)
        })
    }

    /// Changes the limits of a volume.
    ///
    /// # Errors
    /// [`Refusal::NoSpace`], [`Refusal::NoInodes`] or [`Refusal::NoMetadata`] for limits below what is used,
    /// [`Refusal::NotFound`], or as the database.
    pub fn resize(&mut self, volume: VolumeId, limits: Limits) -> Result<()> {
        let (usage, _) = self.usage(volume)?;
        must_hold(limits, usage)?;
        self.writing(|meta| {
            let (size, inodes, metadata) = limits.columns();
            meta.db.execute(
                "UPDATE volume SET size_limit = ?2, inode_limit = ?3, meta_limit = ?4 WHERE id = ?1",
                (volume as i64, size, inodes, metadata),
            )?;
            if let Some(head) = meta.heads.get_mut(&volume) {
                head.limits = limits;
            }
            Ok(())
        })
    }

    /// Gives a volume labels, and takes those away of which there is no value.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], or as the database.
    pub fn relabel(&mut self, volume: VolumeId, labels: &BTreeMap<String, Option<String>>) -> Result<()> {
        self.volume_row(volume)?;
        self.writing(|meta| {
            for (key, value) in labels {
                let id = volume as i64;
                match value {
                    Some(value) => meta
                        .db
                        .execute("INSERT OR REPLACE INTO label VALUES (?1, ?2, ?3)", (id, key, value))?,
                    None => meta.db.execute("DELETE FROM label WHERE volume = ?1 AND key = ?2", (id, key))?,
                };
            }
            Ok(())
        })
    }

    /// Removes a volume and its snapshots. Clones keep what they need; the rest is given back in the background.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Held`] if one of them is, or as the database.
    pub fn remove_volume(&mut self, volume: VolumeId) -> Result<()> {
        let row = self.volume_row(volume)?;
        let snapshots = list_of(&self.db, volume)?;
        snapshots.iter().try_for_each(|snapshot| self.must_not_be_held(snapshot.id))?;
        for snapshot in snapshots {
            self.remove_snapshot(snapshot.id)?;
        }
        self.writing(|meta| {
            meta.heads.remove(&volume);
            meta.db.execute("DELETE FROM volume WHERE id = ?1", [volume as i64])?;
            delete_of(&meta.db, volume)?;
            meta.generations.release(row.head);
            Ok(())
        })
    }

    /// Opens a snapshot for reading, under its own id, for as long as the hold lives. When the last hold is gone, its memory
    /// is freed, in a while or by [`Meta::close_unused`].
    ///
    /// # Errors
    /// [`Refusal::Gone`], or as the database.
    pub fn open_snapshot(&mut self, id: VolumeId) -> Result<SnapshotHold> {
        self.close_unused();
        if let Some(users) = self.heads.get(&id).and_then(Head::users) {
            return Ok(SnapshotHold { _user: Arc::clone(users) });
        }
        let row = match self.snapshot_row(id) {
            Err(MetaError::Refused(_)) => return Err(Refusal::Gone.into()),
            other => other?,
        };
        let users = Arc::new(());
        let lineage = self.generations.lineage(row.generation)?;
        self.heads.insert(id, Head::frozen(&row, lineage, Arc::clone(&users)));
        Ok(SnapshotHold { _user: users })
    }

    /// Frees the memory of snapshots that nobody has open any more.
    pub fn close_unused(&mut self) {
        self.heads.retain(|_, head| !head.is_unused());
    }
}

/// Refuses limits below what is used.
fn must_hold(limits: Limits, usage: Usage) -> Result<()> {
    if limits.blocks.is_some_and(|limit| limit < usage.blocks) {
        return Err(Refusal::NoSpace.into());
    }
    if limits.inodes.is_some_and(|limit| limit < usage.inodes) {
        return Err(Refusal::NoInodes.into());
    }
    if limits.metadata.is_some_and(|limit| limit < usage.metadata) {
        return Err(Refusal::NoMetadata.into());
    }
    Ok(())
}

impl Limits {
    /// The columns of the `volume` table: bytes, inodes, and bytes of metadata.
    pub(super) fn columns(self) -> (Option<i64>, Option<i64>, Option<i64>) {
        let bytes = self.blocks.map(|blocks| (blocks * BLOCK_BYTES as u64) as i64);
        (bytes, self.inodes.map(|inodes| inodes as i64), self.metadata.map(|bytes| bytes as i64))
    }
}
