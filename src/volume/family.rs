//! Changes of a family of volumes: snapshots, clones, rollback, limits, removal. They are values, so that they can be sent to
//! the server that has the store open.

use super::error::{Result, VolumeError};
use super::limits::{LimitChange, LimitChanges};
use super::target::{Target, check_snapshot, check_tag, no_snapshot};
use crate::exit_code::Exit;
use crate::meta::{
    Limits, MetaError, NewClone, NewSnapshot, ROOT_INO, Refusal, RootChange, SnapshotRow, Timestamp, Usage,
    VolumeId, VolumeRow, XattrBits,
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
        /// Only if this is its number: somebody has chosen it, and another one may have got the name since. (Servers of earlier versions,
        /// which show no numbers, look at the name alone.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<VolumeId>,
    },
    /// Make several snapshots, of one moment: all of them, or none.
    Snapshots {
        /// Of which volume, and its name.
        snapshots: Vec<(String, String)>,
        /// The labels of each.
        labels: BTreeMap<String, String>,
    },
    /// Give a snapshot another name.
    RenameSnapshot {
        /// Of this volume.
        volume: String,
        /// Its name.
        name: String,
        /// Its new name.
        to: String,
    },
    /// Keep a snapshot from being removed.
    Hold {
        /// Of this volume.
        volume: String,
        /// Its name.
        snapshot: String,
        /// The name of the hold.
        tag: String,
    },
    /// Take a hold away.
    Release {
        /// Of this volume.
        volume: String,
        /// The name of the snapshot.
        snapshot: String,
        /// The name of the hold.
        tag: String,
    },
    /// Give a volume another name.
    Rename {
        /// The volume.
        volume: String,
        /// Its new name, which no other volume of the store has.
        to: String,
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
        /// What a size limit that is raised by so much must not exceed, in bytes: several may raise it at once, and each knows what it was
        /// before the others did. (Servers of earlier versions do not look at it.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_max: Option<u64>,
    },
    /// Change labels.
    Label {
        /// Of this volume.
        volume: String,
        /// What they become; those without a value go.
        labels: BTreeMap<String, Option<String>>,
    },
    /// Change owner, group or permissions of a root directory.
    Root {
        /// Of this volume.
        volume: String,
        /// Its owner, if that is to be another.
        uid: Option<u32>,
        /// Its group, likewise.
        gid: Option<u32>,
        /// Its permissions, likewise.
        mode: Option<u32>,
    },
    /// Remove a volume and its snapshots.
    Remove {
        /// The volume.
        volume: String,
    },
}

impl Alteration {
    /// Whether it is about which volumes there are and what they are called, and not about what is in them.
    pub fn is_about_names(&self) -> bool {
        matches!(self, Self::Rename { .. } | Self::Remove { .. })
    }

    /// A volume that it is about, or a snapshot.
    pub fn volume(&self) -> &str {
        match self {
            Self::Snapshot { volume, .. }
            | Self::RemoveSnapshot { volume, .. }
            | Self::RenameSnapshot { volume, .. }
            | Self::Hold { volume, .. }
            | Self::Release { volume, .. }
            | Self::Rename { volume, .. }
            | Self::Rollback { volume, .. }
            | Self::Resize { volume, .. }
            | Self::Label { volume, .. }
            | Self::Root { volume, .. }
            | Self::Remove { volume }
            | Self::Clone { source: volume, .. } => volume,
            Self::Snapshots { snapshots, .. } => snapshots.first().map_or("", |(volume, _)| volume),
        }
    }

    /// The kinds of changes that servers of the first version did not know.
    pub const LATER: [&'static str; 5] = ["rename", "holds", "snapshots", "relative-limits", "root"];

    /// Which of those it is, if it is one.
    pub fn later_kind(&self) -> Option<&'static str> {
        match self {
            Self::Rename { .. } | Self::RenameSnapshot { .. } => Some("rename"),
            Self::Hold { .. } | Self::Release { .. } => Some("holds"),
            Self::Snapshots { .. } => Some("snapshots"),
            Self::Root { .. } => Some("root"),
            Self::Resize { size, inodes, metadata, .. } => [size, inodes, metadata]
                .iter()
                .any(|change| change.is_relative())
                .then_some("relative-limits"),
            _ => None,
        }
    }
}

/// What a change led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The snapshot that keeps what a volume was before a rollback.
    pub kept: Option<String>,
    /// Its number; none from a server of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_id: Option<VolumeId>,
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
        Alteration::RemoveSnapshot { volume, name, id: chosen } => {
            let id = snapshot_row(store, &volume, &name)?.id;
            if chosen.is_some_and(|chosen| chosen != id) {
                let what = format!(
                    "snapshot {volume}@{name} has been replaced by another one of that name meanwhile, which was not removed"
                );
                return Err(VolumeError::new(Exit::NoVolume, what));
            }
            must_not_be_held(store, id, &volume, &name)?;
            store
                .alter_in_place(move |meta| meta.remove_snapshot(id))
                .map_err(|e| explain_held(e, &volume, || no_snapshot(&volume, &name)))?;
            Ok(Altered::default())
        }
        Alteration::Snapshots { snapshots, labels } => create_snapshots(store, &snapshots, &labels),
        Alteration::RenameSnapshot { volume, name, to } => {
            check_snapshot(&to)?;
            let id = snapshot_row(store, &volume, &name)?.id;
            let of = volume_row(store, &volume)?.id;
            if store.meta().snapshot(of, &to)?.is_some() {
                return Err(in_use(&format!("snapshot {volume}@{to}")));
            }
            let renamed = store.alter(move |meta| meta.rename_snapshot(id, &to));
            // Somebody was quicker: the name is taken now, or the snapshot gone.
            renamed.map_err(|e| explain(e, || in_use("a snapshot of that name")))?;
            Ok(Altered::default())
        }
        Alteration::Hold { volume, snapshot, tag } => {
            check_tag(&tag)?;
            let id = snapshot_row(store, &volume, &snapshot)?.id;
            store.begin_holds()?;
            let (held, since) = (tag.clone(), Timestamp::now().seconds());
            store.alter(move |meta| meta.hold(id, &held, since)).map_err(|e| {
                explain(e, || {
                    VolumeError::new(
                        Exit::Exists,
                        format!("{volume}@{snapshot} already has a hold {tag:?}; choose another tag"),
                    )
                })
            })?;
            Ok(Altered::default())
        }
        Alteration::Release { volume, snapshot, tag } => {
            let id = snapshot_row(store, &volume, &snapshot)?.id;
            let held = tag.clone();
            store.alter_in_place(move |meta| meta.release(id, &held)).map_err(|e| {
                explain(e, || {
                    let what = format!("{volume}@{snapshot} has no hold {tag:?}; `larder snapshot ls {volume}` shows those it has");
                    VolumeError::new(Exit::NoVolume, what)
                })
            })?;
            Ok(Altered::default())
        }
        // What is in the trash may be called there what no volume can be called.
        Alteration::Rename { volume, to } => {
            let id = volume_row(store, &volume)?.id;
            let name = to.clone();
            let renamed = store.alter_in_place(move |meta| meta.rename_volume(id, &name));
            renamed.map_err(|e| explain(e, || in_use(&format!("volume {to:?}"))))?;
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
            let before = done.map_err(|e| {
                explain_limits(e, &name, row.usage, limits, || in_use(&format!("snapshot {volume}@{kept}")))
            })?;
            reap_orphans(store, row.volume);
            Ok(Altered { kept: Some(kept), kept_id: Some(before.id) })
        }
        Alteration::Resize { volume, size, inodes, metadata, size_max } => {
            let VolumeRow { id, limits, usage, .. } = volume_row(store, &volume)?;
            let changes = LimitChanges { size, inodes, metadata };
            let limits = changes.apply(limits, usage)?;
            let name = volume.clone();
            let done = store.alter_in_place(move |meta| {
                // By how much they change may have been said by two at once.
                let row = meta.volumes()?.into_iter().find(|row| row.id == id);
                let row = row.ok_or(MetaError::Refused(Refusal::NotFound))?;
                let within = |limits| within(&name, limits, row.limits, size_max);
                match changes.apply(row.limits, row.usage).and_then(within) {
                    Ok(limits) => meta.resize(id, limits).map(Ok),
                    Err(e) => Ok(Err(e)),
                }
            });
            done.map_err(|e| explain_limits(e, &volume, usage, limits, || VolumeError::no_volume(&volume)))??;
            Ok(Altered::default())
        }
        Alteration::Label { volume, labels } => {
            let id = volume_row(store, &volume)?.id;
            let done = store.alter_in_place(move |meta| meta.relabel(id, &labels));
            done.map_err(|e| explain(e, || VolumeError::no_volume(&volume)))?;
            Ok(Altered::default())
        }
        Alteration::Root { volume, uid, gid, mode } => {
            let id = volume_row(store, &volume)?.id;
            let change = RootChange { uid, gid, permissions: mode };
            let done = store.alter(move |meta| {
                let root = meta.inode(id, ROOT_INO)?;
                if mode.is_some() && root.xattrs.has(XattrBits::ACCESS_ACL) {
                    return Ok(Err(()));
                }
                meta.change_root(id, change, Timestamp::now()).map(Ok)
            });
            done.map_err(|e| explain(e, || VolumeError::no_volume(&volume)))?.map_err(|()| {
                let what = format!(
                    "the root directory of {volume:?} has an access control list, which its permissions are a part of; mount the volume, and use chmod or setfacl there"
                );
                VolumeError::new(Exit::Usage, what)
            })?;
            Ok(Altered::default())
        }
        Alteration::Remove { volume } => {
            let id = volume_row(store, &volume)?.id;
            let snapshots = store.meta().snapshots_of(id)?;
            snapshots.iter().try_for_each(|row| must_not_be_held(store, row.id, &volume, &row.name))?;
            let done = store.alter_in_place(move |meta| meta.remove_volume(id));
            done.map_err(|e| explain_held(e, &volume, || VolumeError::no_volume(&volume)))?;
            Ok(Altered::default())
        }
    }
}

/// Makes snapshots of one moment.
fn create_snapshots(
    store: &OpenStore,
    snapshots: &[(String, String)],
    labels: &BTreeMap<String, String>,
) -> Result<Altered> {
    let created = Timestamp::now().seconds();
    let mut new: Vec<(VolumeId, NewSnapshot)> = Vec::new();
    for (volume, name) in snapshots {
        check_snapshot(name)?;
        let id = volume_row(store, volume)?.id;
        let twice = new.iter().any(|(other, new)| *other == id && new.name == *name);
        if twice || store.meta().snapshot(id, name)?.is_some() {
            return Err(in_use(&format!("snapshot {volume}@{name}")));
        }
        new.push((id, NewSnapshot { name: name.clone(), labels: labels.clone(), created }));
    }
    let made = store.alter(move |meta| meta.create_snapshots(&new));
    made.map_err(|e| explain(e, || in_use("one of these snapshots")))?;
    Ok(Altered::default())
}

/// Refuses the removal of a snapshot that is held.
fn must_not_be_held(store: &OpenStore, id: VolumeId, volume: &str, name: &str) -> Result<()> {
    match store.meta().holds(id)?.as_slice() {
        [] => Ok(()),
        tags => Err(held(volume, name, tags)),
    }
}

/// A snapshot has holds, so that neither it nor its volume is removed.
pub fn held(volume: &str, name: &str, tags: &[String]) -> VolumeError {
    let what = format!(
        "snapshot {volume}@{name} is held ({}); `larder release {} {volume}@{name}` releases it",
        tags.join(", "),
        tags.first().map_or("TAG", String::as_str)
    );
    VolumeError::new(Exit::Busy, what)
}

/// As [`explain`], where it may have been held a moment ago.
fn explain_held(e: AlterError, volume: &str, refused: impl FnOnce() -> VolumeError) -> VolumeError {
    match e {
        AlterError::Meta(MetaError::Refused(Refusal::Held)) => VolumeError::new(
            Exit::Busy,
            format!("a snapshot is held; `larder snapshot ls {volume}` shows by whom"),
        ),
        e => explain(e, refused),
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
            "the store accepts no changes after a failure; `larder inspect` says why; unmount the volume and mount it again to recover",
        ),
        // Who asks again finds nobody who has it open.
        AlterError::Closing => {
            VolumeError::new(Exit::Failure, "the volume was being unmounted, and nothing was done; try again")
        }
        AlterError::InDoubt => VolumeError::new(
            Exit::HostIo,
            "writing it failed half way, and it is not known whether it happened; unmount what is mounted of this volume and its \
             clones, and then look: `larder ls`, `larder snapshot ls` (a rollback makes a snapshot, too) or `larder inspect`",
        ),
    }
}

/// Limits of a volume that come of `old` ones, if the size limit is not raised beyond `max`, in bytes.
fn within(volume: &str, limits: Limits, old: Limits, max: Option<u64>) -> Result<Limits> {
    let Some(max) = max else { return Ok(limits) };
    let max_blocks = max / BLOCK_BYTES as u64;
    match limits.blocks {
        Some(blocks) if blocks > max_blocks && old.blocks.is_some_and(|old| blocks > old) => {
            let [size, max] = [blocks * BLOCK_BYTES as u64, max].map(size::format_exact);
            let what = format!(
                "volume {volume:?} would have a size limit of {size}, and max-size in [policies] of this host's larder.toml allows {max} at \
                 most; give another size"
            );
            Err(VolumeError::new(Exit::Usage, what))
        }
        _ => Ok(limits),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// It was rounded, so that `10G` was too much where `10G` was allowed.
    #[test]
    fn a_size_limit_that_is_raised_too_far_is_said_exactly_with_the_volume_and_the_key_that_forbids_it() {
        let of = |bytes: u64| Limits { blocks: Some(bytes / BLOCK_BYTES as u64), ..Limits::default() };
        let max = Some(10 << 30);
        let raised = |bytes: u64, old: u64| within("db", of(bytes), of(old), max);
        assert_eq!(raised(10 << 30, 9 << 30).unwrap(), of(10 << 30));
        assert_eq!(raised(11 << 30, 12 << 30).unwrap(), of(11 << 30), "it was larger before");
        let said = raised((10 << 30) + (40 << 20), 9 << 30).unwrap_err().to_string();
        let wanted = "volume \"db\" would have a size limit of 10779361280, and max-size in [policies] of ";
        assert!(said.starts_with(wanted) && said.contains(" allows 10G at most"), "{said}");
    }
}
