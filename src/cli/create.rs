//! `larder create`

use super::args::{CloneArgs, CreateArgs};
use super::{CommandResult, Context, family, output};
use crate::exit_code::Exit;
use crate::volume::{LimitChange, VolumeSpec, create};

pub(super) fn run(context: &Context, args: &CreateArgs) -> CommandResult {
    if let Some(source) = &args.from {
        return family::clone(
            context,
            &CloneArgs {
                source: source.clone(),
                name: args.name.clone(),
                size: args.size.map(LimitChange::Set),
                inodes: args.inodes.map(LimitChange::Set),
                uid: args.uid,
                gid: args.gid,
                mode: args.mode,
                labels: args.labels.clone(),
            },
        );
    }
    let spec = VolumeSpec {
        name: args.name.clone(),
        size: args.size,
        inodes: args.inodes,
        uid: args.uid.unwrap_or(0),
        gid: args.gid.unwrap_or(0),
        mode: args.mode.unwrap_or(0o755),
        labels: args.labels.iter().cloned().collect(),
    };
    create(&context.root, &spec)?;
    output::line(&args.name)?;
    Ok(Exit::Ok)
}
