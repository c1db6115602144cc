//! `larder umount`

use super::args::UmountArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Container, Containers, Unmounted, find, unmount, users};
use crate::mount::{MountEntry, entries, holders};
use crate::root::Root;
use crate::volume::{Result, VolumeError};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn run(context: &Context, args: &UmountArgs) -> CommandResult {
    let entry = find(&context.root, args.target.as_deref().unwrap_or(Path::new("")))?;
    if !args.lazy {
        refuse_used(&context.root, &entry, false)?;
    }
    let unmounted = unmount(&context.root, &entry, args.lazy, None)?;
    note(&unmounted);
    if context.json {
        let is_used = matches!(unmounted, Unmounted::StillUsed(_));
        output::json(&json!({ "name": entry.volume(), "dir": entry.dir, "still_used_elsewhere": is_used }))?;
    }
    Ok(Exit::Ok)
}

/// Refuses to unmount what containers have: what the plugin mounted for them, it would mount again; and of what was mounted by hand and is
/// bound in them, only the last mount on this host would go, which is not refused to who is content with that (`lazy`).
pub(super) fn refuse_used(root: &Root, entry: &MountEntry, lazy: bool) -> Result<()> {
    let Some(name) = entry.volume() else { return Ok(()) };
    let is_theirs = root.mountpoints().canonicalize().is_ok_and(|all| entry.dir == all.join(name));
    let containers = match is_theirs {
        true if users(root, name).is_empty() => return Ok(()),
        true => Containers::now(true).with(name, std::slice::from_ref(&entry.device)),
        false if lazy || is_elsewhere(entry) => return Ok(()),
        false => keepers(name, entry),
    };
    let labels: Vec<String> = containers.iter().map(Container::label).collect();
    let by = match labels.as_slice() {
        [] if !is_theirs => return Ok(()),
        [] => format!("containers, as their engine says (`docker ps -a --filter volume={name}` shows them)"),
        labels => format!("the containers {}", labels.join(", ")),
    };
    Err(VolumeError::new(Exit::Busy, format!("volume {name:?} is in use by {by}; stop them first")))
}

/// Whether the same file system is mounted at another place of this host, too: it goes on being served there.
fn is_elsewhere(entry: &MountEntry) -> bool {
    let all = entries().unwrap_or_default();
    all.iter().any(|other| other.device == entry.device && other.dir != entry.dir)
}

/// The containers that have the mount bound, in which it does not go when it goes on this host.
fn keepers(name: &str, entry: &MountEntry) -> Vec<Container> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let keep: Vec<PathBuf> = holders(entry).unwrap_or_default().into_iter().filter_map(namespace).collect();
    // Mostly there are none, and no engine has to be asked. A dead mount is of use to nobody.
    if keep.is_empty() || entry.is_dead() {
        return Vec::new();
    }
    let volume = name.split('@').next().unwrap_or(name);
    let mut containers = Containers::now(true).with(volume, std::slice::from_ref(&entry.device));
    containers.retain(|of| of.process.and_then(namespace).is_some_and(|namespace| keep.contains(&namespace)));
    containers
}

/// Says so if the volume lives on somewhere else.
pub(super) fn note(unmounted: &Unmounted) {
    if let Unmounted::StillUsed(name) = unmounted {
        output::warning(format!(
            "volume {name:?} is still mounted in another mount namespace, as containers have them, and stays in use until that one ends \
             (`grep -l larder /proc/[0-9]*/mountinfo` finds processes in it)"
        ));
    }
}
