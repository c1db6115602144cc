//! `larder umount`

use super::args::UmountArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Unmounted, find, unmount, users};
use crate::mount::MountEntry;
use crate::root::Root;
use crate::volume::{Result, VolumeError};

pub(super) fn run(context: &Context, args: &UmountArgs) -> CommandResult {
    let entry = find(&context.root, &args.target)?;
    if !args.lazy {
        refuse_used(&context.root, &entry)?;
    }
    note(&unmount(&context.root, &entry, args.lazy, None)?);
    Ok(Exit::Ok)
}

/// Refuses to unmount what the plugin mounted for containers: it would mount it again.
fn refuse_used(root: &Root, entry: &MountEntry) -> Result<()> {
    let Some(name) = entry.volume() else { return Ok(()) };
    let is_theirs = root.mountpoints().canonicalize().is_ok_and(|all| entry.dir == all.join(name));
    let ids: Vec<String> = users(root, name).into_keys().collect();
    if !is_theirs || ids.is_empty() {
        return Ok(());
    }
    Err(VolumeError::new(
        Exit::Busy,
        format!("volume {name:?} is in use by containers (mount IDs {}); stop them first", ids.join(", ")),
    ))
}

/// Says so if the volume lives on somewhere else.
pub(super) fn note(unmounted: &Unmounted) {
    if let Unmounted::StillUsed(name) = unmounted {
        output::error(format!("volume {name:?} is still in use in another mount namespace"));
    }
}
