//! What there is to know about a volume: one shape for all that show it.

use super::common::{Common, Detail};
use super::containers::Container;
use super::health::{ShownReason, ShownScrub, VolumeHealth, down, health_by};
use super::look::Look;
use super::record::{Place, Record};
use super::remote::ShownRemote;
use crate::health::Level;
use crate::mount::{MountEntry, path_from_bytes};
use crate::root::Root;
use crate::server::{Logged, Status, Takeover};
use crate::volume::{
    KeyEpochs, ReencryptionInfo, Result, SnapshotInfo, VolumeError, is_encrypted, key_epochs,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// A volume, as `ls`, `df`, `inspect` and the container engines show it. What is not known is null: what an encrypted volume holds, say,
/// while nobody has opened it. Sizes are in bytes, times as RFC 3339 has them. What a [`Detail`] leaves out is as in a volume of which
/// nothing is known, and not to be shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// "larder", or "tmpfs" for one that lives in memory only.
    pub r#type: &'static str,
    /// When it was made.
    pub created: Option<String>,
    /// Size limit; null: none.
    pub size: Option<u64>,
    /// What its files take.
    pub used: Option<u64>,
    /// What can still be written to it, as far as its limit and the host allow.
    pub available: Option<u64>,
    /// Inode limit; null: none.
    pub inodes: Option<u64>,
    /// Inodes in use.
    pub inodes_used: Option<u64>,
    /// Limit of metadata; null: none.
    pub metadata: Option<u64>,
    /// What the metadata take.
    pub metadata_used: Option<u64>,
    /// What its family occupies on the disk: with its snapshots, its clones, and what it is a clone of.
    pub disk_used: Option<u64>,
    /// The volumes of its family, itself among them.
    pub family: Vec<String>,
    /// The owner of its root directory.
    pub uid: Option<u32>,
    /// The group of its root directory.
    pub gid: Option<u32>,
    /// The permissions of its root directory, in octal.
    pub mode: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What was said of it: how it is mounted, where its secret is, whether it is sticky.
    pub options: BTreeMap<String, String>,
    /// Whether it is refused to be removed.
    pub sticky: bool,
    /// Its snapshots, the oldest first.
    pub snapshots: Option<Vec<Snapshot>>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether it is encrypted, nobody has it open, and what opens it is not known.
    pub locked: bool,
    /// Null if it is not encrypted.
    pub keys: Option<KeyEpochs>,
    /// Of a server that seals everything again.
    pub reencryption: Option<ReencryptionInfo>,
    /// Where its store is kept, too; null: nowhere.
    pub remote: Option<ShownRemote>,
    /// Number of the store's last commit.
    pub commit: Option<u64>,
    /// Null for a volume in memory.
    pub store: Option<PathBuf>,
    /// Null for a volume in memory.
    pub log: Option<String>,
    /// "mounted"; "unmounted"; "read-only" after a failure; "down" when containers use it and it is not mounted; "unknown".
    pub state: &'static str,
    /// "ok"; "degraded": something is lost, or not as it should be; "failed": it cannot be used, or takes no changes.
    pub health: Level,
    /// Why it is not well.
    pub reasons: Vec<ShownReason>,
    /// When everything in its store was read.
    pub scrub: Option<ShownScrub>,
    /// Why it is as it is, if it is not as it should be.
    pub failure: Option<String>,
    /// Where `larder mount` mounts it if nobody says where; null: nothing is recorded.
    pub mountpoint: Option<PathBuf>,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
    /// Mounts of it on this host whose server is gone: whoever has one gets errors.
    pub dead_mounts: Vec<String>,
    /// Where it is mounted, with how.
    pub mounts: Vec<Mount>,
    /// How often each mount ID of a container engine is mounted.
    pub mount_ids: BTreeMap<String, u64>,
    /// The containers that have it mounted, by name.
    pub used_by: Vec<Container>,
    /// Null: none runs.
    pub server: Option<ServerInfo>,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its number, which no other volume or snapshot of the store ever has; null from a server of an earlier version.
    pub id: Option<u64>,
    /// When it was made.
    pub created: String,
    /// Bytes that the volume used then.
    pub referenced: u64,
    /// Bytes that only it holds, and that would come back if it were removed; null where it takes too long to find out, as for `inspect`.
    pub used: Option<u64>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// As long as there are any, nobody removes it.
    pub holds: Vec<String>,
}

impl From<SnapshotInfo> for Snapshot {
    fn from(snapshot: SnapshotInfo) -> Self {
        Self {
            name: snapshot.name,
            id: snapshot.id,
            created: time(snapshot.created),
            referenced: snapshot.referenced,
            used: snapshot.used,
            labels: snapshot.labels,
            holds: snapshot.holds,
        }
    }
}

/// A mount of a volume.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    /// Where.
    pub dir: String,
    /// How, as `-o` would have it.
    pub options: String,
    /// Why it dies if its server does; null: it does not.
    pub dies_with_server: Option<String>,
}

/// The server of a volume's store.
#[derive(Clone, Debug, Serialize)]
pub struct ServerInfo {
    pid: u32,
    holder: u32,
    takeovers: u32,
    version: String,
    uptime_s: u64,
    damaged_blocks: u64,
    /// What its caches have, may have at the moment, and may have together with those of all other servers, in bytes.
    cache_bytes: u64,
    cache_limit_bytes: u64,
    cache_total_bytes: u64,
    /// The longest that anybody has kept all others from its metadata, a commit or whoever it was, in microseconds.
    longest_hold_us: u64,
}

/// What is known of a volume beside what its store says of it.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// What is remembered of it.
    pub record: Option<Record>,
    /// How often each mount ID of a container engine is mounted.
    pub users: BTreeMap<String, u64>,
    /// The containers that have it mounted.
    pub used_by: Vec<Container>,
    /// The volumes of its family.
    pub family: Vec<String>,
    /// What the family occupies on the disk.
    pub disk_used: Option<u64>,
    /// What the host has room for.
    pub host_available: Option<u64>,
    /// Mounts of it on this host whose server is gone.
    pub dead_mounts: Vec<PathBuf>,
}

impl Inspection {
    /// A volume in a store, from a look at it.
    ///
    /// # Errors
    /// As the store's header.
    pub fn of_look(
        (root, place): (&Root, Place),
        look: Look,
        around: Around,
        common: &Common,
    ) -> Result<Self> {
        let Place::Store(id) = place else { return Err(VolumeError::no_volume(&look.info.name)) };
        let is_shown = common.detail == Detail::All;
        let health = if is_shown {
            health_by(root, &look.info.name, Ok(&look), common)
        } else {
            VolumeHealth::default()
        };
        let (info, status) = (look.info, look.status.as_deref());
        let failure = status.and_then(|status| status.failure.clone());
        let is_served = status.is_some_and(|status| status.serves(&info.name));
        let is_mounted =
            status.is_some_and(|status| status.mounts.iter().any(|mount| mount.volume == info.name));
        let state = match &failure {
            _ if !is_served && !around.users.is_empty() => "down",
            Some(_) => "read-only",
            None if is_mounted => "mounted",
            None => "unmounted",
        };
        let keys = if is_shown { key_epochs(root, id)? } else { None };
        let limited = info.size.map(|size| size.saturating_sub(info.used));
        let snapshots = info.snapshots.into_iter().map(Snapshot::from);
        Ok(Self {
            created: Some(time(info.created)),
            size: info.size,
            used: Some(info.used),
            available: limited.into_iter().chain(around.host_available).min(),
            inodes: info.inodes,
            inodes_used: Some(info.inodes_used),
            metadata: info.metadata,
            metadata_used: info.metadata_used,
            uid: info.root.map(|dir| dir.uid),
            gid: info.root.map(|dir| dir.gid),
            mode: info.root.map(|dir| format!("{:o}", dir.mode)),
            labels: info.labels,
            snapshots: Some(snapshots.collect()),
            commit: Some(info.commit),
            encrypted: keys.is_some(),
            keys,
            reencryption: status.and_then(|status| status.reencryption.clone()),
            remote: ShownRemote::of(root, id, status.and_then(|status| status.remote.as_ref())),
            state,
            health: health.level,
            reasons: health.shown(),
            scrub: Some(health.shown_scrub()),
            failure,
            mountpoints: info.mountpoints,
            mounts: status.map_or_else(Vec::new, |status| mounts_of(status, &info.name)),
            server: status.map(|status| ServerInfo {
                pid: status.pid,
                holder: status.holder,
                takeovers: status.takeovers,
                version: status.version.clone(),
                uptime_s: status.uptime_s,
                damaged_blocks: status.damaged_blocks,
                cache_bytes: status.cache_bytes,
                cache_limit_bytes: status.cache_limit_bytes,
                cache_total_bytes: status.cache_total_bytes,
                longest_hold_us: status.longest_hold_us,
            }),
            ..Self::of_store(root, &info.name, id, around, common)
        })
    }

    /// A volume in a store that cannot be looked into, because of `e`.
    pub fn unseen(
        (root, name, place): (&Root, &str, Place),
        e: &VolumeError,
        around: Around,
        common: &Common,
    ) -> Self {
        let is_locked = e.exit == crate::exit_code::Exit::Secret;
        let is_used = !around.users.is_empty();
        let known = match place {
            Place::Store(id) => is_encrypted(root, id).ok().map(|encrypted| Self {
                encrypted,
                remote: ShownRemote::of(root, id, None),
                ..Self::of_store(root, name, id, around, common)
            }),
            Place::Memory => None,
        };
        let known = known.unwrap_or_else(|| Self { name: name.to_owned(), ..Self::default() });
        let health = health_by(root, name, Err(e), common);
        Self {
            health: health.level,
            reasons: health.shown(),
            scrub: Some(health.shown_scrub()),
            state: match (is_locked, is_used) {
                (true, false) => "unmounted",
                (true, true) => "down",
                (false, _) => "unknown",
            },
            failure: (!is_locked || !known.encrypted).then(|| e.message.clone()),
            locked: is_locked && known.encrypted,
            ..known
        }
    }

    /// What is known of a volume without a look at its store.
    fn of_store(root: &Root, name: &str, id: crate::store::StoreId, around: Around, common: &Common) -> Self {
        let record = around.record;
        Self {
            name: name.to_owned(),
            r#type: "larder",
            store: Some(root.store(id)),
            log: (common.detail == Detail::All).then(|| Logged::of(root, id).to_string()),
            sticky: record.as_ref().is_some_and(Record::is_sticky),
            mountpoint: record.as_ref().and_then(|record| record.mountpoint.clone()),
            options: record.map(|record| record.options).unwrap_or_default(),
            mount_ids: around.users,
            used_by: around.used_by,
            family: around.family,
            disk_used: around.disk_used,
            dead_mounts: around.dead_mounts.iter().map(|dir| dir.display().to_string()).collect(),
            ..Self::default()
        }
    }

    /// A volume in memory, from what is remembered of it, and where it is mounted.
    ///
    /// # Errors
    /// When a later version wrote what is remembered.
    pub fn of_memory(
        name: &str,
        record: Record,
        mounted: Option<&MountEntry>,
        around: Around,
    ) -> Result<Self> {
        let options = record.options()?;
        let is_down = mounted.is_none() && !around.users.is_empty();
        let usage = mounted.and_then(|entry| nix::sys::statvfs::statvfs(&entry.dir).ok());
        let bytes = |blocks: u64| usage.map(|fs| blocks * fs.fragment_size());
        // What it is now, or what it is made with at the next mount.
        let dir = mounted.and_then(|entry| entry.dir.metadata().ok());
        let mode = dir.as_ref().map_or(options.mode.unwrap_or(0o1777), |dir| dir.mode() & 0o7777);
        let used = usage.and_then(|fs| bytes(fs.blocks().saturating_sub(fs.blocks_free())));
        Ok(Self {
            name: name.to_owned(),
            r#type: "tmpfs",
            created: Some(time(record.created)),
            size: options.size_limit(),
            used: used.or(Some(0)),
            available: usage.and_then(|fs| bytes(fs.blocks_available())).or(options.size_limit()),
            inodes: options.inode_limit(),
            inodes_used: Some(usage.map_or(0, |fs| fs.files().saturating_sub(fs.files_free()))),
            family: vec![name.to_owned()],
            uid: dir.as_ref().map(MetadataExt::uid).or(options.uid).or(Some(0)),
            gid: dir.as_ref().map(MetadataExt::gid).or(options.gid).or(Some(0)),
            mode: Some(format!("{mode:o}")),
            sticky: options.sticky,
            labels: options.labels,
            options: record.options,
            snapshots: Some(Vec::new()),
            state: if mounted.is_some() { "mounted" } else { "unmounted" },
            health: if is_down { Level::Failed } else { Level::Ok },
            reasons: is_down.then(|| ShownReason::new(&down(name))).into_iter().collect(),
            mountpoints: mounted.map(|entry| entry.dir.display().to_string()).into_iter().collect(),
            mount_ids: around.users,
            used_by: around.used_by,
            ..Self::default()
        })
    }
}

fn mounts_of(status: &Status, name: &str) -> Vec<Mount> {
    let mine = status.mounts.iter().filter(|mount| mount.volume == name);
    let mount = mine.map(|mount| Mount {
        dir: path_from_bytes(mount.dir.clone()).display().to_string(),
        options: mount.options.to_list(),
        dies_with_server: match &mount.takeover {
            Takeover::Impossible(why) => Some(why.clone()),
            Takeover::Possible | Takeover::Unknown => None,
        },
    });
    mount.collect()
}

/// A time as people and container engines read it.
pub fn time(since: u64) -> String {
    // What a damaged file says can be later than there is a way to write it.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since.min(LAST))).to_string()
}
