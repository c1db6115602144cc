//! `larder remote history`

use super::remote::{address, open};
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Place, Secrets, options_of, secrets_of, store_of};
use crate::remote::{Address, History, Moment, RemoteError, RemoteUrl, What, read_store};
use crate::root::Root;
use crate::volume::{Result, VolumeError, objects_at, remote_of};
use serde_json::{Value, json};

/// So many moments are shown where nobody asks for all.
const SHOWN: u64 = 50;

/// What `larder remote history` takes.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// Name of a volume of this host, URL of a store, or NAME/VOLUME with a name from /etc/larder/remotes.toml
    #[arg(value_name = "NAME|URL")]
    remote: String,
    /// Show all moments, and not only the newest 50 (--json shows all, too)
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Where what is meant is, and what opens it.
fn located(root: &Root, args: &HistoryArgs) -> Result<(Address, Secrets)> {
    let (text, secret) = (args.remote.as_str(), args.secret.named());
    if RemoteUrl::is_meant(text) || text.contains('/') {
        return Ok((address(text)?, secret));
    }
    let id = match store_of(root, text) {
        Ok(id) => id,
        // It may be the name of a remote.
        Err(e) if e.exit == Exit::NoVolume => return address(text).map(|at| (at, secret)).map_err(|_| e),
        Err(e) => return Err(e),
    };
    let Some(local) = remote_of(root, id)? else {
        let what = format!("volume {text:?} has no remote; give it one with `larder remote add {text} URL`");
        return Err(VolumeError::new(Exit::Usage, what));
    };
    let address = local.address().map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let remembered = || options_of(root, text, Place::Store(id)).ok().map(|options| secrets_of(&options));
    let secret = match secret.is_given() {
        true => secret,
        false => remembered().filter(Secrets::is_given).unwrap_or(secret),
    };
    Ok((address, secret))
}

pub(super) fn run(context: &Context, args: &HistoryArgs) -> CommandResult {
    let (address, secret) = located(&context.root, args)?;
    let objects = objects_at(&address)?;
    let place = address.url.to_string();
    let Some(store) = read_store(&*objects).map_err(VolumeError::from)? else {
        return Err(VolumeError::from(RemoteError::NoStore { place }));
    };
    let log = open(&objects, &store, &address.url, &secret)?;
    let history = History::of(&log).map_err(VolumeError::from)?;
    let most = if args.all || context.json { u64::MAX } else { SHOWN };
    let moments = history.newest_moments(most).collect::<std::result::Result<Vec<Moment>, _>>();
    let moments = moments.map_err(VolumeError::from)?;
    if context.json {
        output::json(&json!({
            "url": place,
            "store": store.store.to_string(),
            "sealed_before": history.is_sealed_before(),
            "moments": moments.iter().map(described).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Ok);
    }
    output::table(&["RECORD", "TIME", "WHAT"], &moments.iter().map(row).collect::<Vec<_>>())?;
    let (count, oldest) = (history.count(), history.oldest());
    if count > moments.len() as u64 {
        output::line(&format!(
            "the newest {} of {count} moments, from record {} of {} on; --all shows them",
            moments.len(),
            oldest.position.number,
            oldest.time
        ))?;
    }
    if history.is_sealed_before() {
        output::line(
            "what is older cannot be opened with the keys that the store has now: it was encrypted anew since, or is damaged",
        )?;
    }
    Ok(Exit::Ok)
}

fn row(moment: &Moment) -> Vec<String> {
    vec![moment.position.number.to_string(), moment.time.to_string(), moment.what.to_string()]
}

fn described(moment: &Moment) -> Value {
    let host = if let What::Claim { host } = &moment.what { Some(host) } else { None };
    json!({
        "record": moment.position.number,
        "time": moment.time.to_string(),
        "kind": moment.what.kind(),
        "host": host,
    })
}
