//! `larder remote`: what is in object stores.

use super::accept_older::{self, OlderArgs};
use super::history::{self, HistoryArgs};
use super::remote_rm::{self, RemoteRmArgs};
use super::secret::SecretArgs;
use super::shipping::{self, AddArgs, DetachArgs, SyncArgs};
use super::{CommandResult, Context, output};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::host::{Place, Secrets, place, remote_status};
use crate::remote::{
    Address, CheckOptions, Checked, Life, Log, Objects, RemoteError, RemoteSealer, RemoteUrl, Scheme, Seen,
    StoreObject, Survey, check, read_store, survey,
};
use crate::root::check_name;
use crate::size;
use crate::volume::{Result, VolumeError, objects_at, open_log};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Stores below one URL that are looked at.
const STORES_MAX: usize = 1000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum RemoteCommand {
    /// Keep everything in a volume's store in an object store, too, from now on
    Add(AddArgs),
    /// Show how far behind its remote is
    Status {
        /// Name of the volume
        name: String,
    },
    /// Wait until everything up to now is in the volume's remote
    Sync(SyncArgs),
    /// Let a volume be without a remote again; what is there stays there
    Detach(DetachArgs),
    /// Go on from a remote that has gone back in time, as when it was restored from an older copy: what is here is shipped there anew
    AcceptOlder(OlderArgs),
    /// List the moments of a store that can be attached (`larder attach --at`): its records, and when they were written
    History(HistoryArgs),
    /// Remove a store that nobody has from a remote, with all that was shipped
    Rm(RemoteRmArgs),
    /// List the stores at a URL, or right below it: what they are, who has them, and how much there is
    Ls {
        /// URL (s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY), or a name from /etc/larder/remotes.toml
        remote: String,
    },
    /// Read the store at a URL, or the remote of a volume, as an attach would, and say what is missing or damaged; changes nothing
    Check {
        /// Name of a volume of this host, whose remote is read; URL of a store; or NAME/VOLUME with a name from /etc/larder/remotes.toml
        #[arg(value_name = "NAME|REMOTE")]
        remote: String,
        /// Read every block and verify it
        #[arg(long)]
        read_data: bool,
        #[command(flatten)]
        secret: SecretArgs,
    },
}

pub(super) fn run(context: &Context, command: &RemoteCommand) -> CommandResult {
    match command {
        RemoteCommand::Add(args) => shipping::add(context, args),
        RemoteCommand::Status { name } => shipping::status(context, name),
        RemoteCommand::Sync(args) => shipping::sync(context, args),
        RemoteCommand::Detach(args) => shipping::detach(context, args),
        RemoteCommand::AcceptOlder(args) => accept_older::run(context, args),
        RemoteCommand::Rm(args) => remote_rm::run(context, args),
        RemoteCommand::History(args) => history::run(context, args),
        RemoteCommand::Ls { remote } => ls(context, remote),
        RemoteCommand::Check { remote, read_data, secret } => {
            check_one(context, remote, CheckOptions { read_data: *read_data }, &secret.named())
        }
    }
}

pub(super) fn address(text: &str) -> Result<Address> {
    let address = Address::of(text, None).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    must_be_there(&address)?;
    Ok(address)
}

/// Refuses a directory that is not there: there would just be nothing in it.
fn must_be_there(address: &Address) -> Result<()> {
    let directory = address.url.directory();
    if address.url.scheme() == Scheme::File && !directory.exists() {
        return Err(VolumeError::new(
            Exit::NoVolume,
            format!("{}: there is no such directory", directory.display()),
        ));
    }
    Ok(())
}

fn ls(context: &Context, remote: &str) -> CommandResult {
    let top = address(remote)?;
    let here = objects_at(&top)?;
    let mut found = Vec::new();
    let mut exit = Exit::Ok;
    match survey(&here).map_err(VolumeError::from)? {
        Some(one) => found.push((top.url.to_string(), one)),
        None => {
            let mut names =
                here.list_dirs("", STORES_MAX + 1).map_err(|e| VolumeError::from(RemoteError::from(e)))?;
            if names.len() > STORES_MAX {
                names.truncate(STORES_MAX);
                exit = Exit::Failure;
                output::warning(format!(
                    "{}: there are more than {STORES_MAX} places below it, and the others are not listed; give the URL of a part of it",
                    top.url
                ));
            }
            for name in names {
                let Ok(url) = top.url.join(&name) else { continue };
                let below = Address { url, settings: top.settings.clone() };
                match survey(&objects_at(&below)?) {
                    Ok(Some(one)) => found.push((below.url.to_string(), one)),
                    Ok(None) => {}
                    Err(e) => {
                        let e = VolumeError::from(e);
                        exit = e.exit;
                        output::error(&e);
                    }
                }
            }
        }
    }
    if context.json {
        output::json(&found.iter().map(|(url, one)| described(url, one)).collect::<Vec<_>>())?;
    } else {
        let rows: Vec<_> = found.iter().map(|(url, one)| row(url, one)).collect();
        output::table(
            &["URL", "STORE", "NEWEST", "WRITTEN", "OWNER", "LAST SIGN OF LIFE", "OBJECTS", "SIZE"],
            &rows,
        )?;
    }
    Ok(exit)
}

/// A time by the clock of the object store.
pub(super) fn time(seconds: i64) -> String {
    let since = u64::try_from(seconds).unwrap_or(0).min(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string()
}

/// When an owner last showed life, if one does.
fn last_life(one: &Survey) -> Option<String> {
    let alive = one.alive.iter().filter(|sign| {
        sign.life != Some(Life::Over) && one.held.as_ref().is_none_or(|held| held.by.id == sign.owner)
    });
    alive.map(|sign| sign.written).max().map(time)
}

fn row(url: &str, one: &Survey) -> Vec<String> {
    let owner = match &one.held {
        Some(held) => format!("{} (lease={})", held.by.host, held.by.lease),
        None if one.store.encrypted => "(encrypted)".into(),
        None => "-".into(),
    };
    vec![
        url.into(),
        one.store.store.to_string(),
        one.newest.to_string(),
        if one.newest > 0 { time(one.written) } else { "-".into() },
        owner,
        last_life(one).unwrap_or_else(|| "-".into()),
        one.objects.to_string(),
        size::format(one.bytes),
    ]
}

fn described(url: &str, one: &Survey) -> Value {
    json!({
        "url": url,
        "store": one.store.store.to_string(),
        "encrypted": one.store.encrypted,
        "created": time(i64::try_from(one.store.created).unwrap_or(0)),
        "newest": one.newest,
        "written": (one.newest > 0).then(|| time(one.written)),
        "owner": one.held.as_ref().map(|held| json!({
            "id": held.by.id.to_string(),
            "host": held.by.host,
            "lease": held.by.lease.to_string(),
            "record": held.record,
        })),
        "last_life": last_life(one),
        "objects": one.objects,
        "bytes": one.bytes,
    })
}

/// The log of the store in a remote.
pub(super) fn open(
    objects: &Arc<dyn Objects>,
    store: &StoreObject,
    url: &RemoteUrl,
    secret: &Secrets,
) -> Result<Log> {
    if !store.encrypted {
        if secret.is_given() {
            return Err(RemoteError::Secret { place: url.to_string(), encrypted: false }.into());
        }
        let sealer = RemoteSealer::new(store.store, &Keys::Plain, objects.place());
        return Ok(Log::open(Arc::clone(objects), sealer, Seen::Nothing)?);
    }
    let mut secret = || secret.secret(url.prefix().rsplit('/').next().unwrap_or_default());
    Ok(open_log(objects, store.store, &mut secret)?.0)
}

/// Where the remote of a volume is, if there is one of this name here.
fn of_volume(context: &Context, name: &str) -> Result<Option<Address>> {
    if check_name(name).is_err() || !matches!(place(&context.root, name)?, Some(Place::Store(_))) {
        return Ok(None);
    }
    let local = remote_status(&context.root, name)?.local;
    let address =
        local.address().map_err(|why| VolumeError::new(Exit::Usage, format!("volume {name:?}: {why}")))?;
    must_be_there(&address)?;
    Ok(Some(address))
}

fn check_one(context: &Context, remote: &str, options: CheckOptions, secret: &Secrets) -> CommandResult {
    let address = match of_volume(context, remote)? {
        Some(address) => address,
        None => address(remote)?,
    };
    let objects = objects_at(&address)?;
    let place = address.url.to_string();
    let Some(store) = read_store(&*objects).map_err(VolumeError::from)? else {
        return Err(VolumeError::from(RemoteError::NoStore { place })
            .hint(&format!("`larder remote ls {remote}` lists what is there")));
    };
    let log = open(&objects, &store, &address.url, secret)?;
    let found = check(&log, options).map_err(VolumeError::from)?;
    if context.json {
        output::json(&json!({
            "url": place,
            "store": store.store.to_string(),
            "clean": found.fault_count == 0,
            "contents_read": options.read_data,
            "newest": log.state().newest.number,
            "records": found.records,
            "parts": found.parts,
            "pieces": found.pieces,
            "blocks_read": found.blocks,
            "faults": found.faults,
            "more_faults": found.fault_count - found.faults.len() as u64,
        }))?;
    } else {
        print(&place, &found, options)?;
    }
    Ok(if found.fault_count == 0 { Exit::Ok } else { Exit::Damaged })
}

fn print(place: &str, found: &Checked, options: CheckOptions) -> Result<()> {
    for fault in &found.faults {
        output::line(&format!("fault: {fault}"))?;
    }
    let more = found.fault_count - found.faults.len() as u64;
    if more > 0 {
        output::line(&format!("and {}", output::counted(more, "more fault")))?;
    }
    let verdict = match found.fault_count {
        0 if options.read_data => "clean".to_owned(),
        0 => "complete".to_owned(),
        n => output::counted(n, "fault"),
    };
    let contents = match options.read_data {
        true => format!("{} read", output::counted(found.blocks, "block")),
        false => "contents not read (--read-data reads them)".to_owned(),
    };
    let (records, pieces, parts) = (
        output::counted(found.records, "record"),
        output::counted(found.pieces, "piece"),
        output::counted(found.parts, "part"),
    );
    output::line(&format!("{place}: {verdict}; {records}, {pieces}, {parts}; {contents}"))
}
