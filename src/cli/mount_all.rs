//! `larder mount --all` and `larder umount --all`

use super::args::{MountArgs, UmountArgs};
use super::mount::{mount_quietly, recorded};
use super::umount::{note, refuse_used};
use super::{CommandResult, Context, find_root, output};
use crate::exit_code::Exit;
use crate::host::{Place, Unmounted, end_servers, place, server_of, unmount};
use crate::mount::{self as mounts, MountOptions};
use crate::root::Root;
use crate::server::Status;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long servers may take to write back what programs have written. The disk can have much to write.
const LONGEST_END: Duration = Duration::from_secs(900);

fn names(root: &Root) -> Result<Vec<String>> {
    root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))
}

/// How the server of a volume's store is, if one runs.
fn status_of(root: &Root, id: StoreId) -> Result<Option<Status>> {
    server_of(root, id)?.map(|mut client| client.status()).transpose()
}

/// Where a volume is mounted, if it is.
fn mounted_on(root: &Root, name: &str) -> Result<Option<PathBuf>> {
    let Some(Place::Store(id)) = place(root, name)? else { return Ok(None) };
    let status = status_of(root, id)?;
    let mut all = status.into_iter().flat_map(|status| status.mounts);
    Ok(all.find(|mount| mount.volume == name).map(|mount| mounts::path_from_bytes(mount.dir)))
}

pub(super) fn mount_all(context: &Context, args: &MountArgs) -> CommandResult {
    let asked = MountOptions::parse(&args.options, false).map_err(|e| VolumeError::new(Exit::Usage, e.0))?;
    let other = asked.root.as_ref().map(|dir| find_root(Some(Path::new(dir)))).transpose()?;
    let root = other.as_ref().map_or(&context.root, |(root, _)| root);
    if other.is_some() {
        root.demand().map_err(|what| VolumeError::new(Exit::NoVolume, what))?;
    }
    let (mut exit, mut done) = (Exit::Ok, Vec::new());
    let mut failed = |name: &str, e: VolumeError| {
        exit = e.exit;
        output::error(e.context(&format!("volume {name:?} is not mounted")));
    };
    let mut all = Vec::new();
    for name in names(root)? {
        match recorded(root, &name) {
            Ok(found) => all.extend(found.map(|dir| (dir, name))),
            Err(e) => failed(&name, e),
        }
    }
    // One that lies below another comes after it.
    all.sort_by(|one, two| one.0.cmp(&two.0));
    let mut missing: Vec<PathBuf> = Vec::new();
    for (dir, name) in all {
        let mounted = match missing.iter().find(|above| dir.starts_with(above)) {
            Some(above) => Err(VolumeError::new(
                Exit::MountPoint,
                format!("{} lies below {}, which is not mounted", dir.display(), above.display()),
            )),
            None => match mounted_on(root, &name) {
                Ok(Some(found)) if found == mounts::resolve(&dir).unwrap_or_else(|_| dir.clone()) => {
                    Ok(Exit::Ok)
                }
                // For containers, say. But what lies below would not lie on it.
                Ok(Some(elsewhere)) => {
                    output::warning(format!(
                        "volume {name:?} stays mounted on {}, rather than on {}",
                        elsewhere.display(),
                        dir.display()
                    ));
                    missing.push(dir);
                    continue;
                }
                Ok(None) => mount_quietly(context, args, &name, &dir).and_then(|exit| {
                    let text = format!("{name} is mounted on {}", dir.display());
                    done.push(json!({ "name": name, "dir": dir }));
                    if context.json { Ok(exit) } else { output::line(&text).map(|()| exit) }
                }),
                Err(e) => Err(e),
            },
        };
        if let Err(e) = mounted {
            failed(&name, e);
            missing.push(dir);
        }
    }
    if context.json {
        output::json(&done)?;
    }
    Ok(exit)
}

/// Unmounts all that is mounted of the root's volumes and snapshots, what lies below others first. What containers use stays.
pub(super) fn unmount_all(context: &Context, args: &UmountArgs) -> CommandResult {
    let root = &context.root;
    let mut exit = Exit::Ok;
    let mut done: Vec<Value> = Vec::new();
    let mut failed = |what: String, e: VolumeError| {
        exit = e.exit;
        // Once is enough.
        output::error(if e.message.starts_with(&what) { e } else { e.context(&what) });
    };
    let mut stores = BTreeSet::new();
    for name in names(root)? {
        match root.resolve(&name) {
            Ok(id) => stores.extend(id),
            Err(e) => failed(format!("volume {name:?}"), VolumeError::io(&root.link(&name), &e)),
        }
    }
    if args.force {
        for (id, e) in end_servers(root, stores, LONGEST_END) {
            failed(format!("store {id}"), e);
        }
        if context.json {
            output::json(&done)?;
        }
        return Ok(exit);
    }
    let mut entries = Vec::new();
    for id in stores {
        let status = match status_of(root, id) {
            Ok(status) => status,
            Err(e) => {
                failed(format!("store {id}"), e);
                continue;
            }
        };
        for mount in status.into_iter().flat_map(|status| status.mounts) {
            let entry = mounts::entry_at(&mount.path()).ok().flatten();
            entries.extend(entry.filter(|entry| mount.is_at(entry)));
        }
    }
    entries.sort_by(|one, two| two.dir.cmp(&one.dir));
    for entry in entries {
        if let Err(e) = refuse_used(root, &entry, args.lazy) {
            output::warning(format!("{} stays mounted: {e}", entry.dir.display()));
            continue;
        }
        match unmount(root, &entry, args.lazy, None) {
            Ok(unmounted) => {
                note(&unmounted);
                let is_used = matches!(unmounted, Unmounted::StillUsed(_));
                done.push(
                    json!({ "name": entry.volume(), "dir": entry.dir, "still_used_elsewhere": is_used }),
                );
            }
            Err(e) => failed(entry.dir.display().to_string(), e),
        }
    }
    if context.json {
        output::json(&done)?;
    }
    Ok(exit)
}
