//! `larder umount`

use super::args::UmountArgs;
use super::{CommandResult, Context};
use crate::exit_code::Exit;
use crate::host::{Unmounted, find, unmount};

pub(super) fn run(context: &Context, args: &UmountArgs) -> CommandResult {
    let entry = find(&context.root, &args.target)?;
    note(&unmount(&context.root, &entry, args.lazy, None)?);
    Ok(Exit::Ok)
}

/// Says so if the volume lives on somewhere else.
pub(super) fn note(unmounted: &Unmounted) {
    if let Unmounted::StillUsed(name) = unmounted {
        eprintln!("larder: volume {name:?} is still in use in another mount namespace");
    }
}
