//! The `volume`, `label` and `generation` tables.

use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
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

/// All volumes of the store, by id.
pub(super) fn list(db: &Db) -> Result<Vec<VolumeRow>> {
    let mut statement = db.prepare(
        "SELECT id, name, head, size_limit, inode_limit, used_blocks, used_inodes, created FROM volume ORDER BY id",
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
            },
            usage: Usage { blocks: unsigned(row.get(5)?)?, inodes: unsigned(row.get(6)?)? },
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
        out.insert(row.get(0)?, row.get(1)?);
    }
    Ok(out)
}

/// The path from `head` to the root of the tree of generations.
pub(super) fn lineage(db: &Db, head: Gen) -> Result<Lineage> {
    let mut path = Vec::new();
    let mut at = head;
    while at != 0 {
        if path.last().is_some_and(|child| *child <= at) {
            return Err(MetaError::damaged(format!("generation {at} is its own ancestor")));
        }
        path.push(at);
        let mut statement = db.prepare("SELECT parent FROM generation WHERE gen = ?1")?;
        let mut rows = statement.query([at as i64]).map_err(|e| db.explain(e))?;
        let row = rows.next().map_err(|e| db.explain(e))?;
        let parent: i64 =
            row.ok_or_else(|| MetaError::damaged(format!("generation {at} is missing")))?.get(0)?;
        at = u64::try_from(parent).map_err(|_| MetaError::damaged("a generation has a negative parent"))?;
    }
    if path.is_empty() {
        return Err(MetaError::damaged("a volume has no generation"));
    }
    Ok(Lineage::new(path))
}

/// Adds a volume with an empty root directory, in a generation of its own.
pub(super) fn insert(db: &Db, new: &NewVolume) -> Result<(VolumeRow, Lineage)> {
    let (id, head): (i64, i64) = (
        db.value("UPDATE store SET next_volume = next_volume + 1 RETURNING next_volume - 1")?,
        db.value("UPDATE store SET next_gen = next_gen + 1 RETURNING next_gen - 1")?,
    );
    let row = VolumeRow {
        id: id as u64,
        name: new.name.clone(),
        head: head as u64,
        limits: new.limits,
        usage: Usage { blocks: 0, inodes: 1 },
        created: new.created,
    };
    db.execute("INSERT INTO generation VALUES (?1, 0, ?2)", (head, new.created as i64))?;
    db.execute(
        "INSERT INTO volume VALUES (?1, ?2, ?3, ?4, ?5, 0, 1, ?6)",
        (
            id,
            &new.name,
            head,
            new.limits.blocks.map(|blocks| (blocks * BLOCK_BYTES as u64) as i64),
            new.limits.inodes.map(|inodes| inodes as i64),
            new.created as i64,
        ),
    )?;
    for (key, value) in &new.labels {
        db.execute("INSERT INTO label VALUES (?1, ?2, ?3)", (id, key, value))?;
    }
    Ok((row, Lineage::new(vec![head as u64])))
}
