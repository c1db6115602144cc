//! `larder plugin`

use super::args::PluginArgs;
use super::{CommandResult, Context};
use crate::exit_code::Exit;
use crate::plugin::{PluginOptions, default_socket, run as serve};

pub(super) fn run(context: &Context, args: &PluginArgs) -> CommandResult {
    serve(&PluginOptions {
        root: context.root.clone(),
        socket: args.socket.clone().map_or_else(default_socket, Ok)?,
        mount_dir: args.mount_dir.clone(),
    })?;
    Ok(Exit::Ok)
}
