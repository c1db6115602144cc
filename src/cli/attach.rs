//! `larder attach`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::volume::{AttachSpec, attach};
use serde_json::json;

/// What `larder attach` takes.
#[derive(Debug, clap::Args)]
pub(super) struct AttachArgs {
    /// URL of what another host has shipped (s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY), or a name from /etc/larder/remotes.toml,
    /// with the name that the volume has there
    remote: String,
    /// What to call the volume here [default: as there]
    name: Option<String>,
    /// Take it from a host that has not let go of it. That host may go on serving what it had; what it has not shipped stays there
    #[arg(long)]
    steal: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &AttachArgs) -> CommandResult {
    let spec = AttachSpec { remote: &args.remote, name: args.name.as_deref(), steal: args.steal };
    let called = args.name.as_deref().unwrap_or(&args.remote);
    let mut secret = || args.secret.named().secret(called);
    let mut last = None;
    let mut told = |waiting: &crate::remote::Waiting| {
        // Once for each owner.
        if last.replace(waiting.owner.id) != Some(waiting.owner.id) {
            let left = waiting.left.as_secs();
            output::warning(format!(
                "waiting up to {left} s to be sure that host {:?} has stopped",
                waiting.owner.host
            ));
        }
        true
    };
    let names = attach(&context.root, &spec, &mut secret, &mut told).map_err(|e| match e.exit {
        Exit::NoVolume => e.hint(&format!("`larder remote ls {}` lists what is there", args.remote)),
        _ => e,
    })?;
    output::done(context, &names.join("\n"), &json!({ "names": names, "remote": args.remote }))?;
    Ok(Exit::Ok)
}
