//! `larder inspect`

use super::args::InspectArgs;
use super::look::{look, store_of};
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::server::Status;
use crate::volume::{KeyEpochs, ReencryptionInfo, is_encrypted, key_epochs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// What `inspect` prints.
#[derive(Serialize)]
struct Inspection {
    name: String,
    created: String,
    /// Bytes; null: no limit.
    size: Option<u64>,
    used: u64,
    inodes: Option<u64>,
    inodes_used: u64,
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
    /// "unmounted", "good", or "read-only" after a failure.
    health: &'static str,
    failure: Option<String>,
    mounts: Vec<Mount>,
    server: Option<ServerInfo>,
}

#[derive(Serialize)]
struct Snapshot {
    name: String,
    created: String,
    referenced: u64,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Mount {
    dir: String,
    options: String,
}

#[derive(Serialize)]
struct ServerInfo {
    pid: u32,
    uptime_s: u64,
    damaged_blocks: u64,
    cache_bytes: u64,
}

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    let look = look(&context.root, &args.name, Some(&args.secret))?;
    let id = store_of(&context.root, &args.name)?;
    let info = look.info;
    let mounts = |status: &Status| {
        let mine = status.mounts.iter().filter(|mount| mount.volume == args.name);
        mine.map(|mount| Mount {
            dir: String::from_utf8_lossy(&mount.dir).into_owned(),
            options: mount.options.to_list(),
        })
        .collect()
    };
    let status = look.status.as_ref();
    let failure = status.and_then(|status| status.failure.clone());
    output::json(&Inspection {
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
        labels: info.labels,
        commit: info.commit,
        encrypted: is_encrypted(&context.root, id)?,
        keys: key_epochs(&context.root, id)?,
        reencryption: status.and_then(|status| status.reencryption.clone()),
        store: context.root.store(id),
        log: context.root.log(id),
        health: match (status, &failure) {
            (None, _) => "unmounted",
            (Some(_), None) => "good",
            (Some(_), Some(_)) => "read-only",
        },
        failure,
        mounts: status.map_or(Vec::new(), mounts),
        server: status.map(|status| ServerInfo {
            pid: status.pid,
            uptime_s: status.uptime_s,
            damaged_blocks: status.damaged_blocks,
            cache_bytes: status.cache_bytes,
        }),
    })?;
    Ok(Exit::Ok)
}

fn time(since: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string()
}
