//! `larder rm`

use super::confirm::{confirm, is_attended, refused, say};
use super::engines::Engines;
use super::mount::recorded;
use super::named_by::named_by;
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::trash::{Trashed, kept_for};
use crate::host::{
    Asking, Containers, Place, RemoteOf, Removal, Secrets, look_for, must_own_remote, needs_objects,
    needs_remote, options_of, place, refuse_sticky, remote_of_volume, remove, remove_remote, secrets_of,
    time,
};
use crate::remote::{Activity, Local};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError, VolumeInfo, objects_at};
use crate::{period, size};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// How long a look at a volume may take: what is seen is only shown.
const LOOK: Duration = Duration::from_secs(2);
/// So many snapshots are named.
const NAMED: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Names of the volumes
    #[arg(required = true)]
    names: Vec<String>,
    /// Do not ask, and remove also those that were made sticky. (Without a terminal, nobody is asked anyway)
    #[arg(short, long)]
    force: bool,
    /// Remove them for good, rather than to the trash
    #[arg(long)]
    now: bool,
    /// Keep what was shipped to the remote of a store whose last volume goes, and do not ask
    #[arg(long)]
    keep_remote: bool,
    /// Remove that, too, if the volume goes for good. (Of one in the trash, the remote stays as well)
    #[arg(long, conflicts_with = "keep_remote")]
    remove_remote: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &RmArgs) -> CommandResult {
    let mut shown = HashMap::new();
    if !args.force && is_attended() {
        // Whoever is refused afterwards was asked for nothing.
        args.names.iter().try_for_each(|name| refuse_sticky(&context.root, name))?;
        match agreed(context, args)? {
            Some(stores) => shown = stores,
            None => return Err(refused()),
        }
    }
    let mut exit = Exit::Ok;
    let mut gone = Vec::new();
    let secret = args.secret.named();
    for name in &args.names {
        let of_remote = match remote_fate(context, args, name, &secret) {
            Ok(of_remote) => of_remote,
            Err(e) => {
                output::error(e.clone().context("not removed"));
                exit = e.exit;
                continue;
            }
        };
        let how = Removal { force: args.force, now: args.now, store: shown.get(name).copied() };
        let progress = RefCell::new(Progress::new());
        let update = |done, total| progress.borrow_mut().update("removing", done, total);
        let removed = remove(&context.root, name, &secret, how, update);
        drop(progress);
        match removed {
            Ok(kept) => {
                match context.json {
                    true => gone.push(name),
                    false => output::line(name)?,
                }
                if let Some(of) = kept.as_ref().filter(|_| !context.json && io::stderr().is_terminal()) {
                    eprintln!("{}", fate(of));
                }
                if let Err(e) = end_remote(&context.root, name, of_remote, kept.is_some()) {
                    output::error(output::about(name, e.clone()));
                    exit = e.exit;
                }
            }
            // The others are removed all the same.
            Err(e) => {
                output::error(e.clone().context("not removed"));
                exit = e.exit;
            }
        }
    }
    if context.json {
        output::json(&gone)?;
    }
    Ok(exit)
}

/// What becomes of the remote that the last volume of a store leaves.
enum RemoteFate {
    /// There is none, or somebody has said that it stays.
    Nothing,
    /// It stays, and that is said.
    Stays(Local),
    /// It goes, if nobody has come to have it since this was to be seen there.
    Goes(Local, Activity),
}

/// What is to become of the remote of a volume that is to go.
fn remote_fate(context: &Context, args: &RmArgs, name: &str, secret: &Secrets) -> Result<RemoteFate> {
    let root = &context.root;
    let Some(Place::Store(id)) = place(root, name)? else { return Ok(RemoteFate::Nothing) };
    let before = args.remove_remote.then(|| must_own_remote(root, name, secret)).transpose()?;
    let shared = match remote_of_volume(root, name) {
        // What is damaged can be removed all the same.
        Err(_) if !args.remove_remote => None,
        shared => shared?,
    };
    let Some(RemoteOf { local, others }) = shared else { return Ok(RemoteFate::Nothing) };
    if !others.is_empty() {
        // The last one of them that is named here takes it along.
        let stay: Vec<&String> = others.iter().filter(|other| !args.names.contains(other)).collect();
        if args.remove_remote && !stay.is_empty() {
            let shown = stay.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let what = format!(
                "others are in the same store, and need its remote {}: {shown}; leave out --remove-remote",
                local.remote
            );
            return Err(VolumeError::new(Exit::Busy, what));
        }
        return Ok(RemoteFate::Nothing);
    }
    // Moments of it, and what was attached here by other names.
    let needed = match &before {
        Some(_) => {
            let address = local.address().map_err(|e| VolumeError::new(Exit::Usage, e))?;
            needs_objects(root, (&*objects_at(&address)?, &local.remote), Some(id))?
        }
        None => needs_remote(root, &local.remote, Some(id))?,
    };
    if let Some(before) = before {
        return match needed {
            Some(what) => {
                let what = format!("{} is not removed, and so the volume is not: {what}", local.called());
                Err(VolumeError::new(Exit::Busy, what))
            }
            None => Ok(RemoteFate::Goes(local, before)),
        };
    }
    if args.keep_remote {
        return Ok(RemoteFate::Nothing);
    }
    let goes_for_good =
        args.now || kept_for(root, name, Place::Store(id)).is_ok_and(|period| period.is_zero());
    if goes_for_good && needed.is_none() && !args.force && is_attended() {
        let question = format!("Remove what was shipped of it to {}, too?", local.called());
        if confirm(&question)? {
            let before = must_own_remote(root, name, secret)?;
            return Ok(RemoteFate::Goes(local, before));
        }
        return Ok(RemoteFate::Nothing);
    }
    Ok(RemoteFate::Stays(local))
}

/// Does with the remote of a volume that was removed what is to become of it.
fn end_remote(root: &Root, name: &str, fate: RemoteFate, is_in_trash: bool) -> Result<()> {
    match fate {
        RemoteFate::Nothing => Ok(()),
        RemoteFate::Stays(local) => {
            let remote = local.called();
            output::warning(format!(
                "what was shipped of {name} stays in {remote}; `larder remote rm {remote}` removes it"
            ));
            Ok(())
        }
        RemoteFate::Goes(local, _) if is_in_trash => {
            let remote = local.called();
            output::warning(format!(
                "what was shipped of {name} stays in {remote} as long as it can be restored; when it is gone for good, `larder remote rm \
                 {remote}` removes that"
            ));
            Ok(())
        }
        RemoteFate::Goes(local, before) => {
            let mut bar = Progress::new();
            remove_remote(root, &local, &before, &mut |done| bar.update("removing", done, done)).map(drop)
        }
    }
}

/// What becomes of a volume in the trash.
fn fate(of: &Trashed) -> String {
    let (name, until) = (&of.entry.name, time(of.entry.until));
    format!("{name} is in the trash until {until}; `larder trash restore {name}` brings it back")
}

/// Shows what would be removed, and asks. Of those that may go, the stores are returned: what gets one of the names meanwhile was not shown.
fn agreed(context: &Context, args: &RmArgs) -> Result<Option<HashMap<String, StoreId>>> {
    let mut shortest = None;
    let mut stores = HashMap::new();
    for name in &args.names {
        // That it is not there, it is told when it is to be removed.
        let Some(place) = place(&context.root, name)? else { continue };
        if let Place::Store(id) = place {
            stores.insert(name.clone(), id);
        }
        let period = if args.now { Duration::ZERO } else { kept_for(&context.root, name, place)? };
        shortest = Some(shortest.map_or(period, |other: Duration| other.min(period)));
        shown(&context.root, name, place, args).iter().for_each(|line| say(line));
    }
    if shortest.is_some() {
        let containers = Containers::of_engines(&context.root, Asking::Widely);
        let engines = Engines::ask(&containers, Asking::Widely);
        let unknown = |why: &String| say(&format!("It is not known which containers name it: {why}"));
        engines.doubts().iter().for_each(unknown);
    }
    let what = if args.names.len() == 1 { "it" } else { "them" };
    let is_agreed = match shortest {
        None => true,
        Some(period) if period.is_zero() => {
            confirm(&format!("Remove {what} for good, with all data and snapshots?"))?
        }
        Some(period) => {
            let period = period::in_words(period);
            confirm(&format!("Remove {what}? `larder trash restore` can bring {what} back for {period}."))?
        }
    };
    Ok(is_agreed.then_some(stores))
}

/// A volume, as whoever is to remove it should know it, in some lines.
fn shown(root: &Root, name: &str, place: Place, args: &RmArgs) -> Vec<String> {
    let seen = match place {
        Place::Memory => "lives in memory".to_owned(),
        Place::Store(_) => match look_for(root, name, secret(root, name, place, args).as_ref(), LOOK) {
            Ok(look) => described(&look.info),
            Err(e) if e.exit == Exit::Secret => "encrypted".to_owned(),
            Err(e) => format!("cannot be looked at: {e}"),
        },
    };
    let mut lines = vec![format!("{name}: {seen}")];
    let recorded =
        recorded(root, name).ok().flatten().map(|dir| format!("its mountpoint, {}", dir.display()));
    lines.extend(named_by(name).into_iter().chain(recorded).map(|line| format!("    named by {line}")));
    lines
}

/// What opens the volume to look at it: what was given, or its key file, if it is known where that is. (A passphrase takes its time.)
fn secret(root: &Root, name: &str, place: Place, args: &RmArgs) -> Option<Secrets> {
    let given = Some(args.secret.named()).filter(Secrets::is_given);
    let remembered = || options_of(root, name, place).ok().map(|options| secrets_of(&options));
    given.or_else(|| remembered().filter(|secret| secret.key_file.is_some()))
}

fn described(info: &VolumeInfo) -> String {
    let mut parts = vec![match info.size {
        Some(size) => format!("{} of {} in use", size::format(info.used), size::format(size)),
        None => format!("{} in use", size::format(info.used)),
    }];
    let snapshots: Vec<&str> = info.snapshots.iter().rev().map(|snapshot| snapshot.name.as_str()).collect();
    if !snapshots.is_empty() {
        let more = if snapshots.len() > NAMED { ", ..." } else { "" };
        let named = snapshots[..snapshots.len().min(NAMED)].join(", ");
        let s = if snapshots.len() == 1 { "" } else { "s" };
        parts.push(format!("{} snapshot{s} ({named}{more})", snapshots.len()));
    }
    if !info.labels.is_empty() {
        let labels: Vec<String> = info.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        parts.push(format!("labels {}", labels.join(", ")));
    }
    if !info.mountpoints.is_empty() {
        parts.push(format!("mounted on {}", info.mountpoints.join(", ")));
    }
    parts.join("; ")
}
