//! What there is to know about a volume.

use super::error::{Result, VolumeError};
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::meta::{Inspector, Meta, VolumeRow};
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
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of the store's last commit. It only grows: a smaller one than before shows that an older state of the store
    /// was put in its place.
    #[serde(default)]
    pub commit: u64,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
}

impl VolumeInfo {
    fn new(store: StoreId, commit: u64, row: &VolumeRow, labels: BTreeMap<String, String>) -> Self {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        Self {
            name: row.name.clone(),
            store: store.to_string(),
            created: row.created,
            size: row.limits.blocks.map(bytes),
            used: bytes(row.usage.blocks),
            inodes: row.limits.inodes,
            inodes_used: row.usage.inodes,
            labels,
            commit,
            mountpoints: Vec::new(),
        }
    }
}

/// The volumes of an open store.
///
/// # Errors
/// As the metadata.
pub fn info_from_meta(store: StoreId, meta: &Meta) -> Result<Vec<VolumeInfo>> {
    let mut out = Vec::new();
    for row in meta.volumes()? {
        out.push(VolumeInfo::new(store, meta.epoch(), &row, meta.labels(row.id)?));
    }
    Ok(out)
}

/// A volume of a store that no process has open, read without changing anything.
///
/// # Errors
/// `Secret` when it is encrypted and there are no keys, `Busy` when a process has it open, damage, or the host's.
pub fn read_info(root: &Root, id: StoreId, name: &str, keys: &Keys) -> Result<VolumeInfo> {
    let path = root.store(id);
    let _lock =
        StoreLock::try_acquire(&path, LockMode::Shared).map_err(|e| VolumeError::io(&path, &e))?.ok_or_else(
            || VolumeError::new(Exit::Busy, format!("volume {name:?} is in use by another process")),
        )?;
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let header = Header::read(&*dir)?;
    header.check_keys(&*dir, keys)?;
    let inspector = Inspector::open_with(dir, header.store, keys)?;
    let rows = inspector.volumes()?;
    let row = rows.iter().find(|row| row.name == name).ok_or_else(|| {
        VolumeError::new(Exit::Damaged, format!("{}: the store has no volume {name:?}", path.display()))
    })?;
    Ok(VolumeInfo::new(id, inspector.epoch()?, row, inspector.labels(row.id)?))
}
