//! `larder remote add`, `status` and `sync`: the remote of a volume of this host.

use super::progress::Progress;
use super::secret::SecretArgs;
use super::set::set_one;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{
    RemoteLook, ShownUpload, begin_remote, end_remote, format_history, parse_heartbeat, parse_history,
    parse_lag, parse_local, remote_status, sync_remote, time,
};
use crate::mount::{Durability, MountOptions};
use crate::remote::{LeaseKind, Local, Requests};
use crate::server::RemoteStatus;
use crate::size;
use crate::volume::{NewRemote, VolumeError};
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// How closely a remote is followed.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct CloselyArgs {
    /// What fsync waits for: `local`, the disk here, or `remote`, which waits until the remote has it, too [default: local]
    #[arg(long, value_name = "WHERE", value_parser = parse_durability)]
    pub(super) durability: Option<Durability>,
    /// How much the remote may lack before those who write are slowed, such as 1G, or `none` [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_lag)]
    pub(super) max_lag: Option<u64>,
    /// For how long each state that it had can still be attached, such as 24h or 7d, and at least 1h [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = parse_history)]
    pub(super) history: Option<u64>,
    /// How much of its contents stays on the disk here, such as 20G: beyond that, contents that are in the remote as well are removed here,
    /// the least recently used first; `none`: all of them stay [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_local)]
    pub(super) local_size: Option<u64>,
    /// Whether the host that has it stops answering when it cannot show life there (`strict`), so that another one can take it by itself
    /// and the two never serve at once; or works on through any outage (`none`) [default: none]
    #[arg(long, value_name = "KIND", value_parser = parse_lease)]
    pub(super) lease: Option<LeaseKind>,
    /// How often the host that has it shows life there, in seconds, from 1 to 10 [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = parse_heartbeat)]
    pub(super) heartbeat: Option<u64>,
}

/// Reads a lease.
pub(super) fn parse_lease(text: &str) -> Result<LeaseKind, String> {
    text.parse().map_err(|_| format!("{text:?} is neither none nor strict"))
}

impl CloselyArgs {
    /// Whether something was said.
    pub(super) fn is_given(&self) -> bool {
        self.durability.is_some()
            || self.max_lag.is_some()
            || self.history.is_some()
            || self.local_size.is_some()
            || self.lease.is_some()
            || self.heartbeat.is_some()
    }
}

/// What options call it.
pub(super) fn name_of(durability: Durability) -> &'static str {
    MountOptions { durability, ..MountOptions::default() }.durability_name()
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    let options = MountOptions::parse(&[format!("durability={text}")], false);
    options.map(|options| options.durability).map_err(|_| format!("{text:?} is neither local nor remote"))
}

/// What `larder remote add` takes.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Name of the volume. Its snapshots, and the clones made from them, are in the same store and get the same remote
    name: String,
    /// URL of its own (s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY), or a name from /etc/larder/remotes.toml, below which it gets a
    /// place under its name
    remote: String,
    /// How far behind the remote may be, in seconds, as long as it can be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ship: u64,
    #[command(flatten)]
    closely: CloselyArgs,
}

/// What `larder remote sync` takes.
#[derive(Debug, clap::Args)]
pub(super) struct SyncArgs {
    /// Name of the volume
    name: String,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn add(context: &Context, args: &AddArgs) -> CommandResult {
    let AddArgs { name, remote, ship, closely } = args;
    let CloselyArgs { max_lag, history, local_size, lease, heartbeat, .. } = *closely;
    let (remote, ship) = (remote.clone(), Some(*ship));
    let new = NewRemote { remote, ship, max_lag, history, local_size, lease, heartbeat };
    let is_shipping = begin_remote(&context.root, name, &new, &program()?)?;
    if let Some(durability) = closely.durability {
        set_one(context, name, format!("durability={}", name_of(durability)))?;
    }
    let text = match is_shipping {
        true => {
            format!("{name} is being shipped; `larder remote sync {name}` waits until all of it is there")
        }
        false => {
            format!("{name} is shipped once it is mounted; `larder remote sync {name}` ships it now")
        }
    };
    output::done(context, &text, &json!({ "name": name, "shipping": is_shipping }))?;
    Ok(Exit::Ok)
}

fn program() -> Result<PathBuf, VolumeError> {
    std::env::current_exe()
        .map_err(|e| VolumeError::new(Exit::Failure, format!("cannot find out where this program is: {e}")))
}

/// What `larder remote detach` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DetachArgs {
    /// Name of the volume
    name: String,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn detach(context: &Context, args: &DetachArgs) -> CommandResult {
    let name = &args.name;
    let mut bar = Progress::new();
    let mut fetched = |done, total| bar.update("fetching", done, total);
    let url = end_remote(&context.root, name, &args.secret.named(), &program()?, &mut fetched)?;
    drop(bar);
    let text = format!("{name} has no remote any more; what was shipped is still in {url}");
    output::done(context, &text, &json!({ "name": name, "remote": url }))?;
    Ok(Exit::Ok)
}

pub(super) fn status(context: &Context, name: &str) -> CommandResult {
    let RemoteLook { local, status, durability } = remote_status(&context.root, name)?;
    let (record, trouble) = match &status {
        Some(status) => (status.record, status.trouble.as_deref()),
        None => (local.seen, None),
    };
    let requests = status.as_ref().and_then(|status| status.requests).unwrap_or(local.requests);
    if context.json {
        output::json(&json!({
            "name": name,
            "remote": local.remote,
            "owner": local.owner,
            "lease": local.lease,
            "heartbeat_s": local.heartbeat,
            "paused_s": status.as_ref().and_then(|status| status.paused_s),
            "ship_s": local.ship,
            "max_lag_bytes": (local.max_lag > 0).then_some(local.max_lag),
            "history_s": local.history,
            "at": local.at,
            "local_size_bytes": (local.local_size > 0).then_some(local.local_size),
            "here_bytes": status.as_ref().and_then(|status| status.here_bytes),
            "contents_bytes": status.as_ref().and_then(|status| status.contents_bytes),
            "stays": status.as_ref().and_then(|status| status.stays.as_deref()),
            "healed_blocks": status.as_ref().map(|status| status.healed_blocks),
            "healed_pages": status.as_ref().map(|status| status.healed_pages),
            "rewritten_bytes": status.as_ref().map(|status| status.rewritten_bytes),
            "slowed_ms": status.as_ref().map(|status| status.slowed_ms),
            "held": status.as_ref().map(|status| status.held),
            "durability": durability,
            "syncs": status.as_ref().and_then(|status| status.syncs),
            "mounted": status.is_some(),
            "record": record,
            "shipped": status.as_ref().and_then(|status| status.shipped_at).map(time),
            "owner_host": status.as_ref().and_then(|status| status.held_by.as_deref()),
            "uploading": status.as_ref().and_then(ShownUpload::of),
            "objects": status.as_ref().and_then(|status| status.there).map(|(objects, _)| objects),
            "bytes": status.as_ref().and_then(|status| status.there).map(|(_, bytes)| bytes),
            "lag_s": status.as_ref().and_then(RemoteStatus::lag),
            "lag_bytes": status.as_ref().and_then(|status| status.lag_bytes),
            "partial": local.partial,
            "fenced": status.as_ref().is_some_and(|status| status.fenced),
            "trouble": trouble,
            "away": status.as_ref().and_then(|status| status.away.as_deref()),
            "requests": requests,
        }))?;
    } else if let Some(at) = &local.at {
        output::line(&format!("remote:   {}", local.remote))?;
        output::line(&format!(
            "state:    as of {at}; it is read-only, and nothing is shipped; `larder remote detach {name}` makes it a volume of its own"
        ))?;
        print_here(&local, status.as_ref())?;
    } else {
        let lag = match status.as_ref().map(|status| (status.lag(), status.lag_bytes)) {
            None => "not mounted: what was done since it was shipped last, if anything, goes there when it is mounted, or with `larder remote sync`".to_owned(),
            Some((Some(0), _)) => "everything that is on the disk is there".to_owned(),
            Some((None, _)) => "it is not known whether everything that was done here was shipped before that ended".to_owned(),
            Some((Some(lag), bytes)) => {
                let bytes = bytes.map(|bytes| format!(", {}", size::format(bytes))).unwrap_or_default();
                format!("{lag} s behind{bytes}")
            }
        };
        output::line(&format!("remote:   {}", local.remote))?;
        let when = status.as_ref().and_then(|status| status.shipped_at);
        let when = when.map(|when| format!(", {}", time(when))).unwrap_or_default();
        output::line(&format!("shipped:  record {record}{when}; {lag}"))?;
        if let Some(ShownUpload { done_bytes, total_bytes }) = status.as_ref().and_then(ShownUpload::of) {
            let (done, total) = (size::format(done_bytes), size::format(total_bytes));
            output::line(&format!("upload:   {done} of {total}"))?;
        }
        let host = status.as_ref().and_then(|status| status.held_by.as_deref());
        let host = host.map(|host| format!(" on host {host}")).unwrap_or_default();
        output::line(&format!("every:    {} s, as owner {}{host}", local.ship, local.owner))?;
        let lease = match status.as_ref().and_then(|status| status.paused_s) {
            Some(seconds) => {
                format!("strict; nothing is answered: no sign of life was acknowledged for {seconds} s")
            }
            None => local.lease.clone(),
        };
        output::line(&format!("lease:    {lease}; a sign of life every {} s", local.heartbeat))?;
        if let Some((objects, bytes)) = status.as_ref().and_then(|status| status.there) {
            let (bytes, objects) = (size::format(bytes), output::counted(objects, "object"));
            output::line(&format!("stored:   {bytes} in {objects} with contents of the newest state"))?;
        }
        if durability == Durability::Remote {
            let waiting = match status.as_ref().and_then(|status| status.syncs).unwrap_or(0) {
                0 => String::new(),
                1 => "; 1 waits now".to_owned(),
                n => format!("; {n} wait now"),
            };
            output::line(&format!("syncs:    return when the remote has their data, too{waiting}"))?;
        }
        if local.max_lag > 0 {
            let most = size::format(local.max_lag);
            let slowed = match status.as_ref().map(|status| (status.held, status.slowed_ms)) {
                Some((true, _)) => {
                    "it lacks more, and programs that write wait until it lacks less".to_owned()
                }
                None | Some((_, 0)) => {
                    "programs that write are slowed as that comes near, and wait once it lacks more"
                        .to_owned()
                }
                Some((false, ms)) => format!("it lacks nearly as much, and each write waits {ms} ms"),
            };
            output::line(&format!("max-lag:  {most}; {slowed}"))?;
        }
        let history = format_history(local.history);
        output::line(&format!(
            "history:  {history}; `larder remote history {name}` lists what can be attached"
        ))?;
        let Requests { writes, reads, lists, removals, sent, received } = requests;
        output::line(&format!(
            "requests: {writes} to write, {reads} to read, {lists} to list, {removals} to remove; {} sent, {} received",
            size::format(sent),
            size::format(received)
        ))?;
        if let Some(bytes) = status.as_ref().map(|status| status.rewritten_bytes).filter(|bytes| *bytes > 0) {
            let bytes = size::format(bytes);
            output::line(&format!(
                "repacked: {bytes} since it was mounted, from objects of which little else was in use"
            ))?;
        }
        if let Some(RemoteStatus { healed_blocks, healed_pages, .. }) = &status
            && healed_blocks + healed_pages > 0
        {
            let (blocks, pages) =
                (output::counted(*healed_blocks, "block"), output::counted(*healed_pages, "page"));
            output::line(&format!(
                "healed:   {blocks} and {pages} of the metadata since it was mounted: the disk here had damaged them"
            ))?;
        }
        if let Some(trouble) = trouble {
            output::line(&format!("trouble:  {trouble}"))?;
        }
        print_here(&local, status.as_ref())?;
    }
    Ok(if trouble.is_some() { Exit::Failure } else { Exit::Ok })
}

/// What of a store is here, and whether the rest can be had.
fn print_here(local: &Local, status: Option<&RemoteStatus>) -> Result<(), VolumeError> {
    if local.local_size > 0 {
        output::line(&format!("here:     {}", here(local.local_size, status)))?;
    } else if local.partial {
        output::line(
            "here:     what was read or written since it was attached; the rest comes when it is read",
        )?;
    }
    match status.and_then(|status| status.away.as_ref()) {
        Some(away) => output::line(&format!("reading:  what is not here cannot be fetched: {away}")),
        None => Ok(()),
    }
}

/// How much of the contents is on the disk here.
fn here(most: u64, status: Option<&RemoteStatus>) -> String {
    let most = format!("at most {} of what the remote has as well", size::format(most));
    let Some(status) = status else { return most };
    match (status.here_bytes, status.contents_bytes, &status.stays) {
        (Some(here), _, Some(why)) => {
            format!("{}, {most}; nothing is removed here now: {why}", size::format(here))
        }
        (Some(here), Some(all), None) => {
            format!("{} of {}; {most}", size::format(here), size::format(all))
        }
        _ => most,
    }
}

pub(super) fn sync(context: &Context, args: &SyncArgs) -> CommandResult {
    let timeout = Duration::from_secs(args.timeout);
    let mut bar = (!context.json && std::io::stderr().is_terminal()).then(Progress::new);
    let is_watched = bar.is_some();
    let mut uploaded = |upload: ShownUpload| {
        if let Some(bar) = &mut bar {
            bar.update("uploading", upload.done_bytes >> 20, upload.total_bytes.div_ceil(1 << 20));
        }
    };
    sync_remote(
        &context.root,
        &args.name,
        &args.secret.named(),
        timeout,
        is_watched.then_some(&mut uploaded),
    )?;
    drop(bar);
    output::done(context, &args.name, &json!({ "name": args.name, "synced": true }))?;
    Ok(Exit::Ok)
}
