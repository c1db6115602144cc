//! The `volume` and `label` tables.

use super::Meta;
use super::db::Db;
use super::error::{MetaError, Refusal, Result};
use super::hold::is_label;
use super::types::{Gen, Inode, Limits, Usage, VolumeId};
use crate::store::BLOCK_BYTES;
use std::collections::BTreeMap;

/// A row of the `volume` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    /// Its number.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its head generation.
    pub head: Gen,
    /// Its limits.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// What a new volume is made of.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its limits.
    pub limits: Limits,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its root directory.
    pub root: Inode,
    /// When, in seconds since 1970.
    pub created: u64,
}

impl Meta {
    /// Whether a volume still is what became of `generation`, which was its head: it was not rolled back since. Snapshots and clones
    /// of it give it new heads, too.
    ///
    /// # Errors
    /// [`super::Refusal::Gone`] without such a volume, damage, or as the database.
    pub fn goes_on_from(&mut self, volume: VolumeId, generation: Gen) -> Result<bool> {
        let (_, head) = self.head(volume)?;
        Ok(head.lineage.contains(generation))
    }

    /// Gives a volume another name.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a name in use, [`Refusal::NotFound`], or as the database.
    pub fn rename_volume(&mut self, volume: VolumeId, name: &str) -> Result<()> {
        let volumes = self.volumes()?;
        if volumes.iter().any(|row| row.name == name) {
            return Err(Refusal::Exists.into());
        }
        if volumes.iter().all(|row| row.id != volume) {
            return Err(Refusal::NotFound.into());
        }
        self.writing(|meta| {
            meta.db.execute("UPDATE volume SET name = ?2 WHERE id = ?1", (volume as i64, name)).map(drop)
        })
    }
}

/// All volumes of the store, by id.
pub(super) fn list(db: &Db) -> Result<Vec<VolumeRow>> {
    let mut statement = db.prepare(
        "SELECT id, name, head, size_limit, inode_limit, used_blocks, used_inodes, created, meta_limit, \
         used_meta FROM volume ORDER BY id",
    )?;
    let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    let unsigned =
        |value: i64| u64::try_from(value).map_err(|_| MetaError::damaged("a volume has a negative count"));
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let size_limit = row.get::<_, Option<i64>>(3)?.map(unsigned).transpose()?;
        out.push(VolumeRow {
            id: unsigned(row.get(0)?)?,
            name: row.get(1)?,
            head: unsigned(row.get(2)?)?,
            limits: Limits {
                blocks: size_limit.map(|bytes| bytes / BLOCK_BYTES as u64),
                inodes: row.get::<_, Option<i64>>(4)?.map(unsigned).transpose()?,
                metadata: row.get::<_, Option<i64>>(8)?.map(unsigned).transpose()?,
            },
            usage: Usage {
                blocks: unsigned(row.get(5)?)?,
                inodes: unsigned(row.get(6)?)?,
                metadata: unsigned(row.get(9)?)?,
            },
            created: unsigned(row.get(7)?)?,
        });
    }
    Ok(out)
}

/// The labels of a volume.
pub(super) fn labels(db: &Db, volume: VolumeId) -> Result<BTreeMap<String, String>> {
    let mut statement = db.prepare("SELECT key, value FROM label WHERE volume = ?1")?;
    let mut rows = statement.query([volume as i64]).map_err(|e| db.explain(e))?;
    let mut out = BTreeMap::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let key: String = row.get(0)?;
        if is_label(&key) {
            out.insert(key, row.get(1)?);
        }
    }
    Ok(out)
}

/// Adds the row and the labels of a volume.
pub(super) fn insert_row(db: &Db, row: &VolumeRow, labels: &BTreeMap<String, String>) -> Result<()> {
    let (size, inodes, metadata) = row.limits.columns();
    db.execute(
        "INSERT INTO volume VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            row.id as i64,
            &row.name,
            row.head as i64,
            size,
            inodes,
            row.usage.blocks as i64,
            row.usage.inodes as i64,
            row.created as i64,
            metadata,
            row.usage.metadata as i64,
        ),
    )?;
    for (key, value) in labels {
        db.execute("INSERT INTO label VALUES (?1, ?2, ?3)", (row.id as i64, key, value))?;
    }
    Ok(())
}
