//! `larder umount`

use super::args::UmountArgs;
use super::{CommandResult, Context};
use crate::exit_code::Exit;
use crate::host::{Unmounted, find, unmount};
use std::time::Duration;

/// How long the last changes may take to get to disk before the command stops waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(context: &Context, args: &UmountArgs) -> CommandResult {
    let entry = find(&context.root, &args.target)?;
    note(&unmount(&context.root, &entry, args.lazy, PATIENCE)?);
    Ok(Exit::Ok)
}

/// Says so if the volume lives on somewhere else.
pub(super) fn note(unmounted: &Unmounted) {
    if let Unmounted::StillUsed(name) = unmounted {
        eprintln!("larder: volume {name:?} is still in use in another mount namespace");
    }
}
