//! `larder trash`

use super::confirm::{confirm, refused, say};
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::time;
use crate::host::trash::{self, Fate, Item, Replaced, Trashed, empty, items, restore, space_of, tidy};
use crate::host::{Record, clone, place, rollback};
use crate::root::Root;
use crate::size;
use crate::volume::{Alteration, LimitChange, Result, VolumeError};
use clap::Subcommand;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Debug, clap::Args)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    command: TrashCommand,
}

#[derive(Debug, Subcommand)]
enum TrashCommand {
    /// List the volumes in the trash, and what rollbacks replaced
    #[command(alias = "list")]
    Ls,
    /// Bring a volume back, with its snapshots, labels and options; or what it was before a rollback
    Restore(RestoreArgs),
    /// Remove for good what is in the trash, or what is named; asks before
    Empty(EmptyArgs),
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// Its name, or its ID in the trash; of those that had the same name, the one that was removed last. Of what a rollback replaced, the ID,
    /// VOLUME@SNAPSHOT: the volume, which must not be mounted, returns to that
    #[arg(value_name = "NAME|ID")]
    what: String,
    /// Another name for it. What a rollback replaced becomes a new volume of that name then, a clone
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
    /// Also where no store at all is to be seen, because the disk that they were on is lost: what is named is given up, whatever is still in its store
    #[arg(long, requires = "what")]
    lost: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

impl TrashArgs {
    /// Whether it is for what has been there for long enough, as a timer has it.
    pub(super) fn is_for_what_is_due(&self) -> bool {
        matches!(&self.command, TrashCommand::Empty(args) if args.expired)
    }
}

pub(super) fn run(context: &Context, args: &TrashArgs) -> CommandResult {
    match &args.command {
        TrashCommand::Ls => ls(context),
        TrashCommand::Restore(args) => bring_back(context, args),
        TrashCommand::Empty(args) if args.expired => empty_expired(context),
        TrashCommand::Empty(args) => empty_named(context, args),
    }
}

/// What is shown of something in the trash.
struct Row {
    removed: u64,
    until: u64,
    /// Bytes that it used.
    used: Option<u64>,
    /// Bytes that come back when it goes.
    on_disk: Option<u64>,
    snapshots: Option<usize>,
    /// The tags of what keeps it.
    holds: Vec<String>,
    labels: BTreeMap<String, String>,
}

fn ls(context: &Context) -> CommandResult {
    let root = &context.root;
    let all: Vec<(Item, Row)> =
        items(root)?.into_iter().filter_map(|of| row(root, &of).map(|row| (of, row))).collect();
    if context.json {
        let rows: Vec<Value> = all
            .iter()
            .map(|(of, row)| {
                let (kind, store) = match of {
                    Item::Volume(of) => ("volume", json!(root.store(of.store))),
                    Item::State(of) => ("state", json!(root.stores().join(&of.store))),
                };
                json!({
                    "id": of.id(),
                    "kind": kind,
                    "name": of.name(),
                    "removed": time(row.removed),
                    "until": time(row.until),
                    "used": row.used,
                    "on_disk": row.on_disk,
                    "snapshots": row.snapshots,
                    "holds": row.holds,
                    "labels": row.labels,
                    "store": store,
                })
            })
            .collect();
        output::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let unknown = || "-".to_owned();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(of, row)| {
            let until = match row.holds.as_slice() {
                [] => time(row.until),
                holds => format!("held ({})", holds.join(", ")),
            };
            vec![
                of.name().to_owned(),
                time(row.removed),
                until,
                row.used.map_or_else(unknown, size::format),
                row.on_disk.map_or_else(unknown, size::format),
                row.snapshots.map_or_else(unknown, |count| count.to_string()),
                of.id(),
            ]
        })
        .collect();
    output::table(&["NAME", "REMOVED", "UNTIL", "USED", "ON DISK", "SNAPSHOTS", "ID"], &rows)?;
    Ok(Exit::Ok)
}

/// None if it is not there any more.
fn row(root: &Root, of: &Item) -> Option<Row> {
    let (removed, until) = (of.since().0, of.until());
    Some(match of {
        Item::Volume(of) => Row {
            removed,
            until,
            used: of.entry.used,
            on_disk: space_of(root, of),
            snapshots: of.entry.snapshots,
            holds: Vec::new(),
            labels: of.entry.labels.clone(),
        },
        Item::State(of) => {
            let seen = of.look(root)?;
            Row {
                removed,
                until,
                used: seen.snapshot.as_ref().map(|snapshot| snapshot.referenced),
                on_disk: seen.used,
                snapshots: None,
                holds: seen.snapshot.map(|snapshot| snapshot.holds).unwrap_or_default(),
                labels: BTreeMap::new(),
            }
        }
    })
}

fn bring_back(context: &Context, args: &RestoreArgs) -> CommandResult {
    if args.what.contains('@') {
        return bring_back_state(context, args);
    }
    let secret = args.secret.named();
    let of = restore(&context.root, &args.what, args.name.as_deref(), &secret).map_err(|e| match e.exit {
        Exit::NoVolume => with_states(&context.root, &args.what, e),
        _ => e,
    })?;
    output::done(context, &of.entry.name, &json!({ "name": of.entry.name }))?;
    remind_of_options(&context.root, &of.entry.name);
    Ok(Exit::Ok)
}

/// Says what a container engine has forgotten of a volume, and Compose compares.
fn remind_of_options(root: &Root, name: &str) {
    let record =
        place(root, name).ok().flatten().and_then(|place| Record::of(root, name, place).ok().flatten());
    let Some(record) = record.filter(|of| of.by_driver == Some(true) && !of.options.is_empty()) else {
        return;
    };
    let options: Vec<String> = record.options.keys().map(|key| format!("-o {key}=...")).collect();
    output::warning(format!(
        "volume {name:?} was made through a container engine, which has forgotten its options. If Compose declares it, say them before \
         `docker compose up`, as its file has them: docker volume create -d larder {} --label com.docker.compose.project=PROJECT --label \
         com.docker.compose.volume=VOLUME {name}",
        options.join(" ")
    ));
}

/// Says how a volume that was not removed, but rolled back, returns to what it was.
fn with_states(root: &Root, name: &str, e: VolumeError) -> VolumeError {
    let is_of_it = |of: &Item| matches!(of, Item::State(of) if of.volume == name) && of.is_there(root);
    match items(root).unwrap_or_default().iter().rev().find(|of| is_of_it(of)) {
        Some(of) => e.hint(&format!(
            "`larder trash restore {}` brings back what it was before the last rollback",
            of.id()
        )),
        None => e,
    }
}

/// What a rollback replaced: as it was, or as a volume of its own.
fn bring_back_state(context: &Context, args: &RestoreArgs) -> CommandResult {
    let (root, secret) = (&context.root, args.secret.named());
    let of = trash::find_replaced(root, &args.what)?;
    let name = match &args.name {
        None => {
            let done = rollback(root, (&of.volume, &of.snapshot), false, &secret);
            done.map_err(|mut e| {
                let live = format!("or use `larder rollback --live {}`", of.name());
                e.message = e.message.replace("or use --live", &live);
                e
            })?;
            &of.volume
        }
        Some(name) => {
            let change = Alteration::Clone {
                source: of.name(),
                name: name.clone(),
                size: LimitChange::Keep,
                inodes: LimitChange::Keep,
                metadata: LimitChange::Keep,
                labels: BTreeMap::new(),
                uid: None,
                gid: None,
                mode: None,
            };
            clone(root, &change, &secret)?;
            name
        }
    };
    output::done(context, name, &json!({ "name": name }))?;
    Ok(Exit::Ok)
}

fn empty_expired(context: &Context) -> CommandResult {
    let gone = tidy(&context.root);
    if context.json {
        output::json(&gone.iter().map(|gone| gone.of.id()).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    for gone in gone {
        let why = if gone.for_room { " (the host is short of room)" } else { "" };
        output::line(&format!("{}{why}", gone.of.id()))?;
    }
    Ok(Exit::Ok)
}

/// What is meant, of all that [`ls`] shows.
fn meant(context: &Context, what: &[String]) -> Result<Vec<Item>> {
    let root = &context.root;
    let is = |of: &Item, what: &String| of.id() == *what || of.name() == what;
    let is_named = |of: &Item| what.is_empty() || what.iter().any(|name| is(of, name));
    let mut all = items(root)?;
    all.retain(|of| is_named(of) && of.is_there(root));
    for name in what {
        if !all.iter().any(|of| is(of, name)) {
            if name.contains('@') {
                trash::find_replaced(root, name)?;
            }
            trash::find(root, name)?;
        }
    }
    Ok(all)
}

fn empty_named(context: &Context, args: &EmptyArgs) -> CommandResult {
    trash::sweep(&context.root)?;
    let meant = meant(context, &args.what)?;
    if !args.force && !meant.is_empty() {
        meant.iter().for_each(|of| say(&described(of)));
        if !confirm("Remove for good, with all data and snapshots?")? {
            return Err(refused());
        }
    }
    let mut exit = Exit::Ok;
    let mut removed = Vec::new();
    for of in meant {
        let gone = match &of {
            Item::Volume(of) => empty_volume(context, args, of).map(|()| true),
            Item::State(of) => empty_state(context, args, of),
        };
        match gone {
            Ok(true) if context.json => removed.push(of.id()),
            Ok(true) => output::line(&of.id())?,
            // Somebody was quicker.
            Ok(false) => {}
            // The others are removed all the same.
            Err(e) => {
                exit = e.exit;
                output::error(e.context(&format!("cannot remove {}", of.id())));
            }
        }
    }
    if context.json {
        output::json(&removed)?;
    }
    Ok(exit)
}

fn described(of: &Item) -> String {
    let since = time(of.since().0);
    match of {
        Item::Volume(of) => {
            let used = of.entry.used.map_or_else(String::new, |used| format!(", {}", size::format(used)));
            format!("{} (removed {since}{used})", of.entry.name)
        }
        Item::State(of) => format!("{} (what {} was before the rollback of {since})", of.name(), of.volume),
    }
}

fn empty_volume(context: &Context, args: &EmptyArgs, of: &Trashed) -> Result<()> {
    let progress = RefCell::new(Progress::new());
    let update = |done, total| progress.borrow_mut().update("removing", done, total);
    empty(&context.root, of, args.lost, &args.secret.named(), update)
}

/// False: it was not there any more.
fn empty_state(context: &Context, args: &EmptyArgs, of: &Replaced) -> Result<bool> {
    match of.remove(&context.root, &args.secret.named())? {
        Fate::Removed => Ok(true),
        Fate::Unknown => Ok(false),
        Fate::Kept => Err(VolumeError::new(
            Exit::Busy,
            format!(
                "it is held or mounted; `larder snapshot ls {}` shows by whom it is held, and `larder umount {}` unmounts it",
                of.volume,
                of.name()
            ),
        )),
    }
}
