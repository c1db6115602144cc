//! `larder detach`

use super::confirm::{confirm, is_attended, refused, say};
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{leave, leaving};
use serde_json::json;
use std::cell::RefCell;
use std::time::Duration;

/// What `larder detach` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DetachArgs {
    /// Name of the volume. Its snapshots, and the clones made from them, are in the same store and go with it
    name: String,
    /// Do not ask. (Without a terminal, nobody is asked anyway)
    #[arg(short, long)]
    force: bool,
    /// How long to wait until everything is in the remote, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &DetachArgs) -> CommandResult {
    let root = &context.root;
    let going = leaving(root, &args.name)?;
    if going.names.len() > 1 && !args.force && is_attended() {
        say(&format!(
            "These volumes share one store, and leave this host together: {}",
            going.names.join(", ")
        ));
        if !confirm(&format!("Move them to {}?", going.called))? {
            return Err(refused());
        }
    }
    let progress = RefCell::new(Progress::new());
    let update = |done, total| progress.borrow_mut().update("removing", done, total);
    let timeout = Duration::from_secs(args.timeout);
    let names = leave(root, &args.name, &going, &args.secret.named(), timeout, update)?;
    let text = format!(
        "{} left this host; `larder attach {}` brings {} back, here or elsewhere",
        names.join(", "),
        going.called,
        if names.len() == 1 { "it" } else { "them" }
    );
    output::done(context, &text, &json!({ "names": names, "remote": going.remote }))?;
    Ok(Exit::Ok)
}
