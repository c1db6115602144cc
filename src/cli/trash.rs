//! `larder trash`

use super::confirm::confirm;
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::time;
use crate::host::trash::{self, Trashed, empty, list, restore, space_of, tidy};
use crate::size;
use crate::volume::{Result, VolumeError};
use clap::Subcommand;
use serde_json::json;
use std::cell::RefCell;

#[derive(Debug, clap::Args)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    command: TrashCommand,
}

#[derive(Debug, Subcommand)]
enum TrashCommand {
    /// List the volumes in the trash
    #[command(alias = "list")]
    Ls,
    /// Bring a volume back, with its snapshots, labels and options
    Restore(RestoreArgs),
    /// Remove for good what is in the trash, or what is named; asks before
    Empty(EmptyArgs),
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// Its name, or its ID in the trash; of those that had the same name, the one that was removed last
    #[arg(value_name = "NAME|ID")]
    what: String,
    /// Another name for it
    #[arg(value_name = "NEW-NAME")]
    name: Option<String>,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
struct EmptyArgs {
    /// Names (all in the trash that had them) or IDs [default: everything]
    #[arg(value_name = "NAME|ID", conflicts_with = "expired")]
    what: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what has been there for long enough, and what the host needs the room of; does not ask
    #[arg(long)]
    expired: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &TrashArgs) -> CommandResult {
    match &args.command {
        TrashCommand::Ls => ls(context),
        TrashCommand::Restore(args) => bring_back(context, args),
        TrashCommand::Empty(args) if args.expired => empty_expired(context),
        TrashCommand::Empty(args) => empty_named(context, args),
    }
}

fn ls(context: &Context) -> CommandResult {
    let root = &context.root;
    let all = list(root)?;
    if context.json {
        let rows: Vec<_> = all
            .iter()
            .map(|of| {
                json!({
                    "id": of.key,
                    "name": of.entry.name,
                    "removed": time(of.entry.removed),
                    "until": time(of.entry.until),
                    "used": of.entry.used,
                    "on_disk": space_of(root, of),
                    "snapshots": of.entry.snapshots,
                    "labels": of.entry.labels,
                    "store": root.store(of.store),
                })
            })
            .collect();
        output::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let unknown = || "-".to_owned();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|of| {
            vec![
                of.entry.name.clone(),
                time(of.entry.removed),
                time(of.entry.until),
                of.entry.used.map_or_else(unknown, size::format),
                space_of(root, of).map_or_else(unknown, size::format),
                of.entry.snapshots.map_or_else(unknown, |count| count.to_string()),
                of.key.clone(),
            ]
        })
        .collect();
    output::table(&["NAME", "REMOVED", "UNTIL", "USED", "ON DISK", "SNAPSHOTS", "ID"], &rows)?;
    Ok(Exit::Ok)
}

fn bring_back(context: &Context, args: &RestoreArgs) -> CommandResult {
    let of = restore(&context.root, &args.what, args.name.as_deref(), &args.secret.named())?;
    output::line(&of.entry.name)?;
    Ok(Exit::Ok)
}

fn empty_expired(context: &Context) -> CommandResult {
    for gone in tidy(&context.root) {
        let why = if gone.for_room { " (the host is short of room)" } else { "" };
        output::line(&format!("{}{why}", gone.of.key))?;
    }
    Ok(Exit::Ok)
}

/// What is meant, of all there is.
fn meant(context: &Context, what: &[String]) -> Result<Vec<Trashed>> {
    let all = list(&context.root)?;
    let is = |of: &Trashed, what: &String| of.key == *what || of.entry.name == *what;
    for name in what {
        if !all.iter().any(|of| is(of, name)) {
            trash::find(&context.root, name)?;
        }
    }
    Ok(all.into_iter().filter(|of| what.is_empty() || what.iter().any(|name| is(of, name))).collect())
}

fn empty_named(context: &Context, args: &EmptyArgs) -> CommandResult {
    trash::sweep(&context.root)?;
    let meant = meant(context, &args.what)?;
    if meant.is_empty() {
        return Ok(Exit::Ok);
    }
    if !args.force {
        for of in &meant {
            let used = of.entry.used.map_or_else(String::new, |used| format!(", {}", size::format(used)));
            eprintln!("{} (removed {}{used})", of.entry.name, time(of.entry.removed));
        }
        if !confirm("Remove for good, with all data and snapshots?")? {
            return Err(VolumeError::new(Exit::Failure, "nothing was removed"));
        }
    }
    let mut exit = Exit::Ok;
    for of in meant {
        let progress = RefCell::new(Progress::new());
        let update = |done, total| progress.borrow_mut().update("removing", done, total);
        let gone = empty(&context.root, &of, &args.secret.named(), update);
        drop(progress);
        match gone {
            Ok(()) => output::line(&of.key)?,
            // The others are removed all the same.
            Err(e) => {
                output::error(format!("cannot remove {}: {e}", of.key));
                exit = e.exit;
            }
        }
    }
    Ok(exit)
}
