//! `larder create`

use super::args::CreateArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::volume::{VolumeSpec, create};

pub(super) fn run(context: &Context, args: &CreateArgs) -> CommandResult {
    let spec = VolumeSpec {
        name: args.name.clone(),
        size: args.size,
        inodes: args.inodes,
        uid: args.uid,
        gid: args.gid,
        mode: args.mode,
        labels: args.labels.iter().cloned().collect(),
    };
    create(&context.root, &spec)?;
    output::line(&args.name)?;
    Ok(Exit::Ok)
}
