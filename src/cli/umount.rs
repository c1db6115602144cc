//! `larder umount`

use super::args::UmountArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Container, Containers, Unmounted, find, unmount, users};
use crate::mount::MountEntry;
use crate::root::Root;
use crate::volume::{Result, VolumeError};
use serde_json::json;
use std::path::Path;

pub(super) fn run(context: &Context, args: &UmountArgs) -> CommandResult {
    let entry = find(&context.root, args.target.as_deref().unwrap_or(Path::new("")))?;
    if !args.lazy {
        refuse_used(&context.root, &entry)?;
    }
    let unmounted = unmount(&context.root, &entry, args.lazy, None)?;
    note(&unmounted);
    if context.json {
        let is_used = matches!(unmounted, Unmounted::StillUsed(_));
        output::json(&json!({ "name": entry.volume(), "dir": entry.dir, "still_used_elsewhere": is_used }))?;
    }
    Ok(Exit::Ok)
}

/// Refuses to unmount what the plugin mounted for containers: it would mount it again.
pub(super) fn refuse_used(root: &Root, entry: &MountEntry) -> Result<()> {
    let Some(name) = entry.volume() else { return Ok(()) };
    let is_theirs = root.mountpoints().canonicalize().is_ok_and(|all| entry.dir == all.join(name));
    if !is_theirs || users(root, name).is_empty() {
        return Ok(());
    }
    let containers = Containers::now(true).with(name, std::slice::from_ref(&entry.device));
    let labels: Vec<String> = containers.iter().map(Container::label).collect();
    let by = match labels.as_slice() {
        [] => format!("containers, as their engine says (`docker ps -a --filter volume={name}` shows them)"),
        labels => format!("the containers {}", labels.join(", ")),
    };
    Err(VolumeError::new(Exit::Busy, format!("volume {name:?} is in use by {by}; stop them first")))
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
