//! `larder completions` and the man pages.

use super::CommandResult;
use super::args::{Args, CompletionsArgs, ManArgs};
use crate::exit_code::Exit;
use crate::volume::VolumeError;
use clap::CommandFactory;

pub(super) fn run(args: &CompletionsArgs) -> CommandResult {
    clap_complete::generate(args.shell, &mut Args::command(), "larder", &mut std::io::stdout());
    Ok(Exit::Ok)
}

pub(super) fn man(args: &ManArgs) -> CommandResult {
    clap_mangen::generate_to(Args::command(), &args.dir).map_err(|e| VolumeError::io(&args.dir, &e))?;
    Ok(Exit::Ok)
}
