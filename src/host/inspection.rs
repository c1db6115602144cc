//! What there is to know about a volume.

use super::look::{Look, store_of};
use super::users::users;
use crate::root::Root;
use crate::server::{Status, Takeover};
use crate::volume::{KeyEpochs, ReencryptionInfo, Result, is_encrypted, key_epochs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// What there is to know about a volume, as `inspect` and the container engines show it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    name: String,
    created: String,
    /// Bytes; null: no limit.
    size: Option<u64>,
    used: u64,
    inodes: Option<u64>,
    inodes_used: u64,
    /// Bytes; null: no limit.
    metadata: Option<u64>,
    metadata_used: Option<u64>,
    labels: BTreeMap<String, String>,
    snapshots: Vec<Snapshot>,
    encrypted: bool,
    /// Null if it is not encrypted.
    keys: Option<KeyEpochs>,
    /// Of a server that seals everything again.
    reencryption: Option<ReencryptionInfo>,
    commit: u64,
    store: PathBuf,
    log: PathBuf,
    /// "unmounted"; "good"; "read-only" after a failure; "down" when containers use it and it has no server.
    health: &'static str,
    failure: Option<String>,
    mounts: Vec<Mount>,
    /// How often each mount ID of a container engine is mounted.
    containers: BTreeMap<String, u64>,
    server: Option<ServerInfo>,
}

#[derive(Clone, Debug, Serialize)]
struct Snapshot {
    name: String,
    created: String,
    referenced: u64,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize)]
struct Mount {
    dir: String,
    options: String,
    /// Why it dies if its server does; null: it does not.
    dies_with_server: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ServerInfo {
    pid: u32,
    holder: u32,
    takeovers: u32,
    version: String,
    uptime_s: u64,
    damaged_blocks: u64,
    cache_bytes: u64,
}

impl Inspection {
    /// All of it, from a look at the volume.
    ///
    /// # Errors
    /// As the store's header.
    pub fn new(root: &Root, look: Look) -> Result<Self> {
        let info = look.info;
        let name = info.name.clone();
        let id = store_of(root, &info.name)?;
        let mounts = |status: &Status| {
            let mine = status.mounts.iter().filter(|mount| mount.volume == name);
            mine.map(|mount| Mount {
                dir: String::from_utf8_lossy(&mount.dir).into_owned(),
                options: mount.options.to_list(),
                dies_with_server: match &mount.takeover {
                    Takeover::Impossible(why) => Some(why.clone()),
                    Takeover::Possible | Takeover::Unknown => None,
                },
            })
            .collect()
        };
        let status = look.status.as_ref();
        let failure = status.and_then(|status| status.failure.clone());
        let containers = users(root, &info.name);
        Ok(Self {
            created: time(info.created),
            snapshots: info
                .snapshots
                .into_iter()
                .map(|snapshot| Snapshot {
                    name: snapshot.name,
                    created: time(snapshot.created),
                    referenced: snapshot.referenced,
                    labels: snapshot.labels,
                })
                .collect(),
            name: info.name,
            size: info.size,
            used: info.used,
            inodes: info.inodes,
            inodes_used: info.inodes_used,
            metadata: info.metadata,
            metadata_used: info.metadata_used,
            labels: info.labels,
            commit: info.commit,
            encrypted: is_encrypted(root, id)?,
            keys: key_epochs(root, id)?,
            reencryption: status.and_then(|status| status.reencryption.clone()),
            store: root.store(id),
            log: root.log(id),
            health: match (status, &failure) {
                (None, _) if !containers.is_empty() => "down",
                (None, _) => "unmounted",
                (Some(_), None) => "good",
                (Some(_), Some(_)) => "read-only",
            },
            failure,
            containers,
            mounts: status.map_or(Vec::new(), mounts),
            server: status.map(|status| ServerInfo {
                pid: status.pid,
                holder: status.holder,
                takeovers: status.takeovers,
                version: status.version.clone(),
                uptime_s: status.uptime_s,
                damaged_blocks: status.damaged_blocks,
                cache_bytes: status.cache_bytes,
            }),
        })
    }
}

/// A time as people and container engines read it.
pub fn time(since: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string()
}
