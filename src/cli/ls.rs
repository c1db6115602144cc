//! `larder ls`

use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::look;
use crate::size;
use crate::volume::VolumeError;
use serde_json::json;

pub(super) fn run(context: &Context) -> CommandResult {
    let names = context.root.names().map_err(|e| VolumeError::io(&context.root.volumes(), &e))?;
    let mut infos = Vec::new();
    let mut exit = Exit::Ok;
    let mut rows = Vec::new();
    for name in names {
        match look(&context.root, &name, None) {
            Ok(look) => {
                let info = look.info;
                rows.push(vec![
                    info.name.clone(),
                    info.size.map_or("-".into(), size::format),
                    size::format(info.used),
                    info.inodes_used.to_string(),
                    if info.mountpoints.is_empty() { "-".into() } else { info.mountpoints.join(", ") },
                ]);
                infos.push(serde_json::to_value(info).unwrap_or_default());
            }
            Err(e) if e.exit == Exit::Secret => {
                infos.push(json!({ "name": name, "encrypted": true, "mountpoints": [] }));
                let unknown = || "encrypted".to_owned();
                rows.push(vec![name, unknown(), unknown(), unknown(), "-".into()]);
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if e.exit == Exit::NoVolume => {}
            // The others are listed all the same.
            Err(e) => {
                eprintln!("larder: volume {name:?}: {e}");
                rows.push(vec![name, "?".into(), "?".into(), "?".into(), "?".into()]);
                exit = e.exit;
            }
        }
    }
    if context.json {
        output::json(&infos)?;
    } else {
        output::table(&["NAME", "SIZE", "USED", "INODES", "MOUNTED ON"], &rows)?;
    }
    Ok(exit)
}
