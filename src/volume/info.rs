//! What there is to know about a volume.

use super::error::{Result, VolumeError};
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::meta::{self, Inode, Inspector, Meta, SnapshotRow, VolumeId, VolumeRow};
use crate::root::Root;
use crate::store::{BLOCK_BYTES, Header, LockMode, StoreId, StoreLock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A volume, as `ls`, `df` and `inspect` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its number, which no other volume or snapshot of the store ever has; none from a server of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Its store.
    pub store: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Size limit in bytes.
    pub size: Option<u64>,
    /// Bytes in use.
    pub used: u64,
    /// Inode limit.
    pub inodes: Option<u64>,
    /// Inodes in use.
    pub inodes_used: u64,
    /// Limit of metadata in bytes.
    #[serde(default)]
    pub metadata: Option<u64>,
    /// Bytes of metadata; none while nobody has counted, in a store of an earlier version.
    #[serde(default)]
    pub metadata_used: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its snapshots, the oldest first.
    #[serde(default)]
    pub snapshots: Vec<SnapshotInfo>,
    /// Number of the store's last commit. It only grows: a smaller one than before shows that an older state of the store
    /// was put in its place.
    #[serde(default)]
    pub commit: u64,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
    /// Its root directory; none if that is damaged, or from a server of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootDir>,
}

/// The root directory of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDir {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
}

impl RootDir {
    fn of(inode: meta::Result<Inode>) -> Option<Self> {
        // That it is damaged, `check` says.
        let inode = inode.ok()?;
        Some(Self { uid: inode.uid, gid: inode.gid, mode: inode.mode & 0o7777 })
    }
}

/// A snapshot, as `snapshot ls` and `inspect` show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Its number, which no other volume or snapshot of the store ever has; none from a server of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Bytes that the volume used then.
    pub referenced: u64,
    /// Bytes that only it holds, and that would come back if it were removed; known where it was asked for.
    pub used: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The tags of its holds: as long as there are any, nobody removes it.
    #[serde(default)]
    pub holds: Vec<String>,
}

/// The first snapshot of a volume that is held, and the tags of its holds. None of a volume that is not there.
///
/// # Errors
/// As the metadata.
pub fn held_snapshot(inspector: &Inspector, volume: &str) -> Result<Option<(String, Vec<String>)>> {
    let rows = inspector.volumes()?;
    let Some(row) = rows.iter().find(|row| row.name == volume) else { return Ok(None) };
    for snapshot in inspector.snapshots_of(row.id)? {
        let holds = inspector.holds(snapshot.id)?;
        if !holds.is_empty() {
            return Ok(Some((snapshot.name, holds)));
        }
    }
    Ok(None)
}

/// The snapshots of a volume, with what each of them alone holds.
///
/// # Errors
/// As the metadata.
pub fn snapshots_of(inspector: &Inspector, volume: &str) -> Result<Vec<SnapshotInfo>> {
    let rows = inspector.volumes()?;
    let id = rows.iter().find(|row| row.name == volume).ok_or_else(|| VolumeError::no_volume(volume))?.id;
    let mut out = Vec::new();
    for row in &inspector.snapshots_of(id)? {
        let used = inspector.unique_blocks(row)? * BLOCK_BYTES as u64;
        let (labels, holds) = (inspector.labels(row.id)?, inspector.holds(row.id)?);
        out.push(SnapshotInfo { used: Some(used), ..SnapshotInfo::new(row, labels, holds) });
    }
    Ok(out)
}

impl SnapshotInfo {
    fn new(row: &SnapshotRow, labels: BTreeMap<String, String>, holds: Vec<String>) -> Self {
        Self {
            name: row.name.clone(),
            id: Some(row.id),
            created: row.created,
            referenced: row.usage.blocks * BLOCK_BYTES as u64,
            used: None,
            labels,
            holds,
        }
    }
}

impl VolumeInfo {
    /// `labels` reads those of a volume or a snapshot, `holds` the tags of a snapshot's.
    fn new(
        (store, commit): (StoreId, u64),
        (row, root): (&VolumeRow, Option<RootDir>),
        snapshots: &[SnapshotRow],
        labels: impl Fn(VolumeId) -> meta::Result<BTreeMap<String, String>>,
        holds: impl Fn(VolumeId) -> meta::Result<Vec<String>>,
    ) -> Result<Self> {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        let snapshots =
            snapshots.iter().map(|row| Ok(SnapshotInfo::new(row, labels(row.id)?, holds(row.id)?)));
        Ok(Self {
            name: row.name.clone(),
            id: Some(row.id),
            store: store.to_string(),
            created: row.created,
            size: row.limits.blocks.map(bytes),
            used: bytes(row.usage.blocks),
            inodes: row.limits.inodes,
            inodes_used: row.usage.inodes,
            metadata: row.limits.metadata,
            metadata_used: Some(row.usage.metadata).filter(|bytes| *bytes > 0),
            labels: labels(row.id)?,
            snapshots: snapshots.collect::<Result<_>>()?,
            commit,
            mountpoints: Vec::new(),
            root,
        })
    }
}

/// When a store was made, in seconds since 1970.
///
/// # Errors
/// As the store's header.
pub fn made_at(root: &Root, id: StoreId) -> Result<u64> {
    Ok(Header::read(&OsDir::new(root.store(id)))?.created)
}

/// The volumes of an open store.
///
/// # Errors
/// As the metadata.
pub fn info_from_meta(store: StoreId, meta: &Meta) -> Result<Vec<VolumeInfo>> {
    let rows = meta.volumes()?;
    let info = |row: &VolumeRow| {
        let snapshots = meta.snapshots_of(row.id)?;
        let of = (row, RootDir::of(meta.root_of(row)));
        VolumeInfo::new((store, meta.epoch()), of, &snapshots, |id| meta.labels(id), |id| meta.holds(id))
    };
    rows.iter().map(info).collect()
}

/// Reads the metadata of a store that no process has open, without changing anything.
///
/// # Errors
/// `Secret` when it is encrypted and there are no keys, `Busy` when a process has it open, damage, the host's, or as
/// `read`.
pub fn inspect_offline<T>(
    root: &Root,
    id: StoreId,
    name: &str,
    keys: &Keys,
    read: impl FnOnce(&Inspector) -> Result<T>,
) -> Result<T> {
    read_offline((root, id, name), keys, |_, inspector| read(inspector))
}

/// As [`inspect_offline`], with the files.
pub(super) fn read_offline<T>(
    (root, id, name): (&Root, StoreId, &str),
    keys: &Keys,
    read: impl FnOnce(Arc<dyn Dir>, &mut Inspector) -> Result<T>,
) -> Result<T> {
    let path = root.store(id);
    let in_use = || VolumeError::new(Exit::Busy, format!("volume {name:?} is in use by another process"));
    let lock = StoreLock::try_acquire(&path, LockMode::Shared).map_err(|e| VolumeError::io(&path, &e))?;
    read_locked(root, id, keys, &lock.ok_or_else(in_use)?, read)
}

/// As [`inspect_offline`], for whoever has the store's lock.
///
/// # Errors
/// As [`inspect_offline`], but for `Busy`.
pub fn inspect_locked<T>(
    root: &Root,
    id: StoreId,
    keys: &Keys,
    lock: &StoreLock,
    read: impl FnOnce(&Inspector) -> Result<T>,
) -> Result<T> {
    read_locked(root, id, keys, lock, |_, inspector| read(inspector))
}

fn read_locked<T>(
    root: &Root,
    id: StoreId,
    keys: &Keys,
    _lock: &StoreLock,
    read: impl FnOnce(Arc<dyn Dir>, &mut Inspector) -> Result<T>,
) -> Result<T> {
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(root.store(id)));
    let header = Header::read(&*dir)?;
    header.check_keys(&*dir, keys)?;
    let mut inspector = Inspector::open_with(Arc::clone(&dir), header.store, keys)?;
    read(dir, &mut inspector)
}

/// A volume of a store that no process has open.
///
/// # Errors
/// See [`inspect_offline`]; `NoVolume` if the name is all that an interrupted command left.
pub fn read_info(root: &Root, id: StoreId, name: &str, keys: &Keys) -> Result<VolumeInfo> {
    inspect_offline(root, id, name, keys, |inspector| {
        let rows = inspector.volumes()?;
        let row = rows.iter().find(|row| row.name == name).ok_or_else(|| VolumeError::no_volume(name))?;
        let snapshots = inspector.snapshots_of(row.id)?;
        let (labels, holds) = (|id| inspector.labels(id), |id| inspector.holds(id));
        let of = (row, RootDir::of(inspector.root_of(row)));
        VolumeInfo::new((id, inspector.epoch()?), of, &snapshots, labels, holds)
    })
}
