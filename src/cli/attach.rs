//! `larder attach`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::crypto::Secret;
use crate::exit_code::Exit;
use crate::host::{Secrets, parse_local};
use crate::remote::{OwnerId, Waiting};
use crate::volume::{AttachSpec, Attaching, Result, attach};
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
    /// How much of its contents stays on the disk here, such as 20G: what was not used for longest goes when it is more; `none`: all that
    /// comes stays [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_local, default_value = "none", hide_default_value = true)]
    local_size: u64,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Whoever gives the command.
struct AtTerminal<'a> {
    secrets: Secrets,
    /// What the volume is called when its secret is asked for.
    called: &'a str,
    /// For whom it is waited.
    awaited: Option<OwnerId>,
}

impl Attaching for AtTerminal<'_> {
    fn secret(&mut self) -> Result<Secret> {
        self.secrets.secret(self.called)
    }

    fn accept_plain(&mut self, place: &str, names: &[String]) -> Result<()> {
        self.secrets.must_fit_plain(place, names)
    }

    fn waits(&mut self, waiting: &Waiting) -> bool {
        // Once for each owner.
        if self.awaited.replace(waiting.owner.id) != Some(waiting.owner.id) {
            let left = waiting.left.as_secs();
            output::warning(format!(
                "waiting up to {left} s to be sure that host {:?} has stopped",
                waiting.owner.host
            ));
        }
        true
    }
}

pub(super) fn run(context: &Context, args: &AttachArgs) -> CommandResult {
    let AttachArgs { remote, name, steal, local_size, .. } = args;
    let spec = AttachSpec { remote, name: name.as_deref(), steal: *steal, local_size: *local_size };
    let called = args.name.as_deref().unwrap_or(&args.remote);
    let mut terminal = AtTerminal { secrets: args.secret.named(), called, awaited: None };
    let attached = attach(&context.root, &spec, &mut terminal).map_err(|e| match e.exit {
        Exit::NoVolume => e.hint(&format!("`larder remote ls {}` lists what is there", args.remote)),
        _ => e,
    });
    let (names, claimed) = attached?;
    if let Some(from) = claimed.from.filter(|_| claimed.may_still_serve) {
        output::warning(format!(
            "host {:?} may still be serving what it had when the store was taken from it (record {}); what is written there from now on \
             stays there",
            from.host, claimed.record
        ));
    }
    output::done(context, &names.join("\n"), &json!({ "names": names, "remote": args.remote }))?;
    Ok(Exit::Ok)
}
