//! Changes of a family of volumes: snapshots, clones, rollback, limits, removal. They are values, so that they can be sent to
//! the server that has the store open.

use super::error::{Result, VolumeError};
use super::limits::{LimitChange, LimitChanges};
use super::target::{Target, no_snapshot};
use crate::exit_code::Exit;
use crate::meta::{
    Limits, MetaError, NewClone, NewSnapshot, Refusal, SnapshotRow, Timestamp, Usage, VolumeId, VolumeRow,
};
use crate::open_store::{AlterError, OpenStore, SyncError};
use crate::size;
use crate::store::BLOCK_BYTES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A change of the family.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Alteration {
    /// Make a snapshot.
    Snapshot {
        /// Of this volume.
        volume: String,
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Remove a snapshot.
    RemoveSnapshot {
        /// Of this volume.
        volume: String,
        /// Its name.
        name: String,
    },
    /// Make a clone.
    Clone {
        /// Of this volume, or of one of its snapshots: `VOLUME` or `VOLUME@SNAPSHOT`.
        source: String,
        /// Its name.
        name: String,
        /// Its size limit, where it is not the source's.
        size: LimitChange,
        /// Its inode limit, likewise.
        inodes: LimitChange,
        /// Its limit of metadata, likewise.
        #[serde(default)]
        metadata: LimitChange,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// Owner of its root directory, if it is to be another.
        uid: Option<u32>,
        /// Group of its root directory, likewise.
        gid: Option<u32>,
        /// Permissions of its root directory, likewise.
        mode: Option<u32>,
    },
    /// Make a volume what it was at a snapshot.
    Rollback {
        /// The volume.
        volume: String,
        /// The snapshot's name.
        snapshot: String,
        /// Also while it is mounted.
        live: bool,
    },
    /// Change limits.
    Resize {
        /// The volume.
        volume: String,
        /// Its size limit.
        size: LimitChange,
        /// Its inode limit.
        inodes: LimitChange,
        /// Its limit of metadata.
        #[serde(default)]
        metadata: LimitChange,
    },
    /// Change labels.
    Label {
        /// Of this volume.
        volume: String,
        /// What they become; those without a value go.
        labels: BTreeMap<String, Option<String>>,
    },
    /// Give a volume another name.
    Rename {
        /// The volume.
        volume: String,
        /// Its new name, which no other volume of the store has.
        to: String,
    },
    /// Remove a volume and its snapshots.
    Remove {
        /// The volume.
        volume: String,
    },
}

/// What a change led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The snapshot that keeps what a volume was before a rollback.
    pub kept: Option<String>,
}

fn volume_row(store: &OpenStore, name: &str) -> Result<VolumeRow> {
    let rows = store.meta().volumes()?;
    rows.into_iter().find(|row| row.name == name).ok_or_else(|| VolumeError::no_volume(name))
}

/// The row of a snapshot.
///
/// # Errors
/// `NoVolume` if there is none of that name.
pub fn snapshot_row(store: &OpenStore, volume: &str, name: &str) -> Result<SnapshotRow> {
    let id = volume_row(store, volume)?.id;
    let row = store.meta().snapshot(id, name)?;
    row.ok_or_else(|| no_snapshot(volume, name))
}

/// The row of a snapshot whose metadata are counted. Those of a snapshot that a program of an earlier version made are counted
/// beside everything else that goes on, and the count is kept.
fn counted_row(store: &OpenStore, volume: &str, name: &str) -> Result<SnapshotRow> {
    let mut row = snapshot_row(store, volume, name)?;
    if row.usage.metadata == 0 {
        let inspector = store.meta().inspector()?;
        let metadata = inspector.metadata_of_snapshot(&row)?;
        drop(inspector);
        row.usage.metadata = metadata;
        store
            .alter_in_place(move |meta| meta.keep_count(row.id, metadata))
            .map_err(|e| explain(e, || no_snapshot(volume, name)))?;
    }
    Ok(row)
}

/// Changes the family in an open store; durable when this returns.
///
/// # Errors
/// Names that are unknown or in use, limits below what is used, or the host's.
pub fn alter(store: &OpenStore, what: &Alteration) -> Result<Altered> {
    match what.clone() {
        Alteration::Snapshot { volume, name, labels } => {
            let id = volume_row(store, &volume)?.id;
            let new = NewSnapshot { name: name.clone(), labels, created: Timestamp::now().seconds() };
            let made = store.alter(move |meta| meta.create_snapshot(id, &new));
            made.map_err(|e| explain(e, || in_use(&format!("snapshot {volume}@{name}"))))?;
            Ok(Altered::default())
        }
        Alteration::RemoveSnapshot { volume, name } => {
            let id = snapshot_row(store, &volume, &name)?.id;
            store
                .alter_in_place(move |meta| meta.remove_snapshot(id))
                .map_err(|e| explain(e, || no_snapshot(&volume, &name)))?;
            Ok(Altered::default())
        }
        Alteration::Clone { source, name, size, inodes, metadata, labels, uid, gid, mode } => {
            let target = Target::parse(&source)?;
            let row = volume_row(store, &target.volume)?;
            let (id, usage) = match &target.snapshot {
                Some(snapshot) => {
                    let row = counted_row(store, &target.volume, snapshot)?;
                    (row.id, row.usage)
                }
                None => (row.id, row.usage),
            };
            let limits = LimitChanges { size, inodes, metadata }.apply(row.limits, usage)?;
            let (clone_name, created) = (name.clone(), Timestamp::now());
            let new = NewClone { name: clone_name, limits, labels, created, uid, gid, permissions: mode };
            let made = store.alter(move |meta| meta.create_clone(id, &new));
            let made = made.map_err(|e| {
                explain_limits(e, &source, usage, limits, || in_use(&format!("volume {name:?}")))
            })?;
            reap_orphans(store, made);
            Ok(Altered::default())
        }
        Alteration::Rollback { volume, snapshot, live: _ } => {
            let row = counted_row(store, &volume, &snapshot)?;
            let limits = volume_row(store, &volume)?.limits;
            let stamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let kept = format!("before-rollback-{}", stamp.replace(':', ".").trim_end_matches('Z'));
            let created = Timestamp::now().seconds();
            let before = NewSnapshot { name: kept.clone(), labels: BTreeMap::new(), created };
            let (id, name) = (row.id, format!("{volume}@{snapshot}"));
            let done = store.alter(move |meta| meta.rollback(id, &before));
            done.map_err(|e| {
                explain_limits(e, &name, row.usage, limits, || in_use(&format!("snapshot {volume}@{kept}")))
            })?;
            reap_orphans(store, row.volume);
            Ok(Altered { kept: Some(kept) })
        }
        Alteration::Resize { volume, size, inodes, metadata } => {
            let row = volume_row(store, &volume)?;
            let limits = LimitChanges { size, inodes, metadata }.apply(row.limits, row.usage)?;
            let done = store.alter_in_place(move |meta| meta.resize(row.id, limits));
            done.map_err(|e| {
                explain_limits(e, &volume, row.usage, limits, || VolumeError::no_volume(&volume))
            })?;
            Ok(Altered::default())
        }
        Alteration::Label { volume, labels } => {
            let id = volume_row(store, &volume)?.id;
            let done = store.alter_in_place(move |meta| meta.relabel(id, &labels));
            done.map_err(|e| explain(e, || VolumeError::no_volume(&volume)))?;
            Ok(Altered::default())
        }
        Alteration::Rename { volume, to } => {
            let id = volume_row(store, &volume)?.id;
            let new = to.clone();
            let done = store.alter_in_place(move |meta| meta.rename_volume(id, &new));
            done.map_err(|e| explain(e, || in_use(&format!("volume {to:?}"))))?;
            Ok(Altered::default())
        }
        Alteration::Remove { volume } => {
            let id = volume_row(store, &volume)?.id;
            let done = store.alter_in_place(move |meta| meta.remove_volume(id));
            done.map_err(|e| explain(e, || VolumeError::no_volume(&volume)))?;
            Ok(Altered::default())
        }
    }
}

/// Frees what is left of unlinked files in a volume that has just begun as a copy. It is there, whatever becomes of this.
fn reap_orphans(store: &OpenStore, volume: VolumeId) {
    if let Err(e) = store.reap_orphans(volume) {
        log::warn!("cannot free unlinked files of a copy: {e}");
    }
}

fn in_use(what: &str) -> VolumeError {
    VolumeError::new(Exit::Exists, format!("{what} already exists; choose another name"))
}

/// An error, where a refusal can only mean `refused`.
fn explain(e: AlterError, refused: impl FnOnce() -> VolumeError) -> VolumeError {
    match e {
        AlterError::Meta(MetaError::Refused(_)) => refused(),
        AlterError::Meta(e) => e.into(),
        AlterError::Sync(SyncError::NoSpace) => VolumeError::new(
            Exit::NoSpace,
            "no space is left on the host file system; free some on that disk and try again",
        ),
        AlterError::Sync(SyncError::Failed) => VolumeError::new(
            Exit::HostIo,
            "the store takes no changes after a failure; `larder inspect` says why; unmount the volume and mount it again to recover",
        ),
        AlterError::InDoubt => VolumeError::new(
            Exit::HostIo,
            "writing it failed half way, and it is not known whether it happened; unmount what is mounted of this volume and its \
             clones, and then look: `larder ls`, `larder snapshot ls` (a rollback makes a snapshot, too) or `larder inspect`",
        ),
    }
}

/// As [`explain`], where limits can be too small.
fn explain_limits(
    e: AlterError,
    what: &str,
    usage: Usage,
    limits: Limits,
    refused: impl FnOnce() -> VolumeError,
) -> VolumeError {
    let bytes = |blocks: u64| size::format(blocks * BLOCK_BYTES as u64);
    match e {
        AlterError::Meta(MetaError::Refused(Refusal::NoSpace)) => VolumeError::new(
            Exit::Usage,
            format!(
                "{what} uses {} ({} bytes): a size limit of {} is below that",
                bytes(usage.blocks),
                usage.blocks * BLOCK_BYTES as u64,
                bytes(limits.blocks.unwrap_or(0))
            ),
        ),
        AlterError::Meta(MetaError::Refused(Refusal::NoInodes)) => VolumeError::new(
            Exit::Usage,
            format!(
                "{what} uses {} inodes: an inode limit of {} is below that",
                usage.inodes,
                limits.inodes.unwrap_or(0)
            ),
        ),
        AlterError::Meta(MetaError::Refused(Refusal::NoMetadata)) => VolumeError::new(
            Exit::Usage,
            format!(
                "{what} has more metadata ({} bytes) than a metadata limit of {} bytes allows",
                usage.metadata,
                limits.metadata.unwrap_or(0)
            ),
        ),
        e => explain(e, refused),
    }
}
