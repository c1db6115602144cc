//! `larder df`

use super::args::DfArgs;
use super::{CommandResult, Context, output};
use crate::backing::{Dir, OsDir};
use crate::exit_code::Exit;
use crate::host::{Looker, users};
use crate::size;
use crate::volume::VolumeError;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Row {
    name: String,
    size: u64,
    limited: bool,
    used: u64,
    available: u64,
    inodes: Option<u64>,
    inodes_used: u64,
    metadata: Option<u64>,
    metadata_used: Option<u64>,
    mountpoints: Vec<String>,
    containers: BTreeMap<String, u64>,
}

pub(super) fn run(context: &Context, args: &DfArgs) -> CommandResult {
    let root = &context.root;
    let mut looker = Looker::new(root);
    let all = args.names.is_empty();
    let names = match all {
        true => root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?,
        false => args.names.clone(),
    };
    let mut rows = Vec::new();
    let mut exit = Exit::Ok;
    for name in names {
        let secret = if all { None } else { Some(args.secret.named()) };
        let info = match looker.look(&name, secret.as_ref()) {
            Ok(look) => look.info,
            // What an encrypted volume holds is not known until it is mounted.
            Err(e) if all && e.exit == Exit::Secret => continue,
            // All that an interrupted command left of a volume is its name.
            Err(e) if all && e.exit == Exit::NoVolume => continue,
            Err(e) if all => {
                output::error(format!("volume {name:?}: {e}"));
                exit = e.exit;
                continue;
            }
            Err(e) => return Err(e),
        };
        let host = root.path().canonicalize().and_then(|path| OsDir::new(path).host_space());
        let host = host.map_err(|e| VolumeError::io(root.path(), &e))?;
        let size = info.size.unwrap_or(info.used + host.available_bytes);
        rows.push(Row {
            name: info.name,
            size,
            limited: info.size.is_some(),
            used: info.used,
            available: size.saturating_sub(info.used).min(host.available_bytes),
            inodes: info.inodes,
            inodes_used: info.inodes_used,
            metadata: info.metadata,
            metadata_used: info.metadata_used,
            mountpoints: info.mountpoints,
            containers: users(root, &name),
        });
    }
    if context.json {
        output::json(&rows)?;
        return Ok(exit);
    }
    let percent = |row: &Row| match row.size {
        0 => "-".into(),
        size => format!("{}%", (u128::from(row.used) * 100).div_ceil(u128::from(size))),
    };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                size::format(row.size),
                size::format(row.used),
                size::format(row.available),
                percent(row),
                row.inodes.map_or("-".into(), |inodes| inodes.to_string()),
                row.inodes_used.to_string(),
                row.metadata.map_or("-".into(), size::format),
                row.metadata_used.map_or("-".into(), size::format),
                output::list(&row.mountpoints),
                output::containers(&row.containers),
            ]
        })
        .collect();
    output::table(
        &[
            "VOLUME",
            "SIZE",
            "USED",
            "AVAIL",
            "USE%",
            "INODES",
            "IUSED",
            "META",
            "MUSED",
            "MOUNTED ON",
            "CONTAINERS",
        ],
        &lines,
    )?;
    Ok(exit)
}
