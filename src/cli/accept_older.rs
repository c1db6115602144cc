//! `larder remote accept-older`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::store_of;
use crate::volume::{OfOthers, Older, accept_older};
use serde_json::json;
use std::time::Duration;

/// What `larder remote accept-older` takes.
#[derive(Debug, clap::Args)]
pub(super) struct OlderArgs {
    /// Name of the volume, which must not be mounted
    name: String,
    /// Also if another host has written there since the remote went back, and let go of it. What it wrote is given up: the volume is what is here
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &OlderArgs) -> CommandResult {
    let (name, root) = (args.name.as_str(), &context.root);
    let id = store_of(root, name)?;
    let keys = args.secret.named().keys(root, id, name)?;
    let of_others = if args.discard { OfOthers::Goes } else { OfOthers::Stays };
    let mut is_told = false;
    let mut told = |left: Duration| {
        if !std::mem::replace(&mut is_told, true) {
            output::warning(format!("waiting {} s to be sure that no other host has it", left.as_secs()));
        }
        true
    };
    let Older { remote, seen, newest } = accept_older(root, (id, name), &keys, of_others, &mut told)?;
    let text = format!(
        "{name}: {remote} has gone back from record {seen} to {newest}; what it lacks of what is here is shipped when the volume is mounted, \
         or with `larder remote sync {name}`"
    );
    let done = json!({ "name": name, "remote": remote, "seen": seen, "newest": newest });
    output::done(context, &text, &done)?;
    Ok(Exit::Ok)
}
