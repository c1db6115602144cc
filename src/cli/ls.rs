//! `larder ls`

use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Looker, MemoryInspection, memory_names, users};
use crate::mount;
use crate::size;
use crate::volume::VolumeError;
use serde_json::json;
use std::path::PathBuf;

/// Where a volume that has no server was mounted when its server died. That is made known to whoever still uses it.
fn dead(name: &str) -> Vec<PathBuf> {
    let entries = mount::entries().unwrap_or_default();
    let dead = entries.into_iter().filter(|entry| entry.volume() == Some(name) && entry.is_dead());
    dead.map(|entry| {
        mount::mark_dead(&entry.dir, name);
        entry.dir
    })
    .collect()
}

pub(super) fn run(context: &Context) -> CommandResult {
    let names = context.root.names().map_err(|e| VolumeError::io(&context.root.volumes(), &e))?;
    let root = &context.root;
    let mut looker = Looker::new(root);
    let mut infos = Vec::new();
    let mut exit = Exit::Ok;
    let mut rows = Vec::new();
    for name in names {
        match looker.look(&name, None) {
            Ok(look) => {
                let info = look.info;
                let mut mountpoints = info.mountpoints.clone();
                if look.status.is_none() {
                    mountpoints.extend(dead(&name).iter().map(|dir| format!("{} (dead)", dir.display())));
                }
                rows.push(vec![
                    info.name.clone(),
                    info.size.map_or("-".into(), size::format),
                    size::format(info.used),
                    info.inodes_used.to_string(),
                    output::list(&mountpoints),
                    output::containers(&users(root, &name)),
                ]);
                let mut info = serde_json::to_value(info).unwrap_or_default();
                info["containers"] = json!(users(root, &name));
                infos.push(info);
            }
            Err(e) if e.exit == Exit::Secret => {
                infos.push(json!({ "name": name, "encrypted": true, "mountpoints": [], "containers": {} }));
                let unknown = || "encrypted".to_owned();
                rows.push(vec![name, unknown(), unknown(), unknown(), "-".into(), "-".into()]);
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if e.exit == Exit::NoVolume => {}
            // The others are listed all the same.
            Err(e) => {
                output::error(format!("volume {name:?}: {e}"));
                rows.push([vec![name], vec!["?".into(); 5]].concat());
                exit = e.exit;
            }
        }
    }
    for name in memory_names(root)? {
        let info = MemoryInspection::new(root, &name)?;
        rows.push(vec![
            name,
            info.size.map_or("-".into(), size::format),
            size::format(info.used),
            info.inodes_used.to_string(),
            output::list(&info.mountpoints),
            output::containers(&info.containers),
        ]);
        infos.push(serde_json::to_value(info).unwrap_or_default());
    }
    if context.json {
        output::json(&infos)?;
    } else {
        output::table(&["NAME", "SIZE", "USED", "INODES", "MOUNTED ON", "CONTAINERS"], &rows)?;
    }
    Ok(exit)
}
