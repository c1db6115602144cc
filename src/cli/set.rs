//! `larder set`

use super::args::parse_cache_size;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{
    Place, Record, Secrets, VolumeOptions, alter, alter_durability, alter_remote, look, may_alter_remote,
    may_have_size, must_have_remote, options_of, parse_heartbeat, parse_history, parse_lag, parse_local,
    parse_ship, place, trash,
};
use crate::mount::{Durability, MountOptions, truth};
use crate::nearest::nearest;
use crate::remote::{HEARTBEAT, HISTORY, LeaseKind, SHIP};
use crate::root::Root;
use crate::volume::{Alteration, LimitChange, Result, Tuning, VolumeError, is_encrypted};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// Name of the volume
    name: String,
    /// Options as engines take them: size=SIZE, uid=USER, label.KEY=VALUE, noatime=true, cache-size=SIZE, ship=SECONDS, key-file=FILE, sticky=false, ...;
    /// and mountpoint=DIR (or `none`), where `larder mount NAME` and `larder mount --all` mount it
    #[arg(value_name = "OPTION=VALUE", required_unless_present = "unset")]
    options: Vec<String>,
    /// Let an option be what is usual on this host, whether it was or not, or take away a label, which has to be there; can be given more
    /// than once
    #[arg(short, long, value_name = "OPTION")]
    unset: Vec<String>,
    #[command(flatten)]
    secret: SecretArgs,
}

/// What a volume is from its making on, and how else it is changed.
const MADE: &[(&str, &str)] = &[
    ("from", "create another volume"),
    ("encrypt", "create another volume"),
    ("type", "create another volume"),
    ("device", "create another volume"),
    ("encrypted", "create another volume"),
    ("parent", "create another volume"),
    ("snapshot", "create another volume"),
    ("remote", "`larder remote add` and `larder remote detach` change it"),
    ("o", "give each option by itself"),
];
/// What the store knows. Of a volume in memory, it is remembered like everything else.
const LIMITS: &[&str] = &["size", "inodes", "metadata"];
/// What the store knows of its root directory; of a volume in memory, likewise.
const ROOT: &[&str] = &["uid", "gid", "mode"];
/// What is kept beside the store.
const SHIPPING: &[&str] = &["ship", "max-lag", "history", "local-size", "lease", "heartbeat"];
/// Of what is remembered, what does not wait for the next mount.
const AT_ONCE: &[&str] = &["sticky", "trash", "durability"];

fn usage(what: impl Into<String>) -> VolumeError {
    VolumeError::new(Exit::Usage, what)
}

/// What is to be changed, by whom it is known.
#[derive(Debug, Default)]
struct Changes {
    /// By the store: limits.
    limits: BTreeMap<String, String>,
    /// By the store: owner, group and permissions of its root directory.
    root: BTreeMap<String, String>,
    /// By the store: labels; none for those that go.
    labels: BTreeMap<String, Option<String>>,
    /// By the record: how it is mounted, and what becomes of it.
    options: BTreeMap<String, Option<String>>,
    /// By the store: how its remote is kept up to date; as usual, where nothing is said.
    shipping: BTreeMap<String, Option<String>>,
    /// By the record, too: where `larder mount` mounts it; nowhere, if that goes.
    mountpoint: Option<Option<PathBuf>>,
}

impl Changes {
    fn of(args: &SetArgs, place: Place) -> Result<Self> {
        let mut given = Vec::new();
        for option in &args.options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            must_be_understood(key, value)?;
            if value.is_empty() && option.contains('=') && is_flag(key) {
                return Err(usage(format!(
                    "option {option:?}: write true or false after it, or leave out the \"=\""
                )));
            }
            if key == "cache-size" {
                parse_cache_size(value).map_err(|e| usage(format!("option {option:?}: {e}")))?;
            }
            given.push((key, Some(value)));
        }
        for key in &args.unset {
            must_be_known(key)?;
        }
        let mut changes = Self::default();
        for (key, value) in given.into_iter().chain(args.unset.iter().map(|key| (key.as_str(), None))) {
            if let Some((_, instead)) = MADE.iter().find(|(made, _)| *made == key) {
                return Err(usage(format!("option {key:?} cannot be changed; {instead}")));
            }
            if key == "mountpoint" {
                if changes.mountpoint.replace(parse_mountpoint(value.unwrap_or("none"), place)?).is_some() {
                    return Err(usage("option \"mountpoint\" is given twice"));
                }
                continue;
            }
            let value = value.map(str::to_owned);
            let label = key.strip_prefix("label.").filter(|label| !label.is_empty());
            let before = match (label, place) {
                (Some(label), Place::Store(_)) => changes.labels.insert(label.to_owned(), value),
                _ if LIMITS.contains(&key) && matches!(place, Place::Store(_)) => {
                    let value = value.unwrap_or_else(|| "none".to_owned());
                    changes.limits.insert(key.to_owned(), value).map(Some)
                }
                _ if ROOT.contains(&key) && matches!(place, Place::Store(_)) => {
                    let Some(value) = value.filter(|value| !value.is_empty()) else {
                        return Err(usage(format!(
                            "option {key:?} needs a value, as each directory has one; write {key}=VALUE"
                        )));
                    };
                    changes.root.insert(key.to_owned(), value).map(Some)
                }
                _ if SHIPPING.contains(&key) && matches!(place, Place::Store(_)) => {
                    changes.shipping.insert(key.to_owned(), written(key, value)?)
                }
                _ => changes.options.insert(key.to_owned(), written(key, value)?),
            };
            if before.is_some() {
                return Err(usage(format!("option {key:?} is given twice")));
            }
        }
        Ok(changes)
    }
}

impl Changes {
    /// How far syncs are to reach, if that is to be changed.
    fn durability(&self) -> Result<Option<Durability>> {
        let Some(value) = self.options.get("durability") else { return Ok(None) };
        let Some(value) = value else { return Ok(Some(Durability::default())) };
        let option = MountOptions::of_setting("durability", value).map_err(usage)?;
        let options = MountOptions::parse(&[option], false).map_err(|e| usage(e.0))?;
        Ok(Some(options.durability))
    }
}

/// How the store is to be shipped, if that is to be changed.
fn tuning(shipping: &BTreeMap<String, Option<String>>) -> Result<Option<Tuning>> {
    let read = |key: &str, usual: u64, parse: fn(&str) -> Result<u64, String>| {
        let given = shipping.get(key).map(|value| match value {
            Some(value) => parse(value).map_err(|e| usage(format!("option \"{key}={value}\": {e}"))),
            None => Ok(usual),
        });
        given.transpose()
    };
    let lease = shipping.get("lease").map(|value| match value {
        Some(value) => value.parse().map_err(|e: String| usage(format!("option \"lease={value}\": {e}"))),
        None => Ok(LeaseKind::default()),
    });
    let lease = lease.transpose()?;
    let tuning = Tuning {
        ship: read("ship", SHIP, parse_ship)?,
        max_lag: read("max-lag", 0, parse_lag)?,
        history: read("history", HISTORY, parse_history)?,
        local_size: read("local-size", 0, parse_local)?,
        lease,
        heartbeat: read("heartbeat", HEARTBEAT.as_secs(), parse_heartbeat)?,
    };
    Ok((tuning != Tuning::default()).then_some(tuning))
}

fn is_flag(key: &str) -> bool {
    key == "sticky" || MountOptions::is_flag(key)
}

/// Refuses an option that there is not, or that says nothing.
fn must_be_understood(key: &str, value: &str) -> Result<()> {
    if key == "label." {
        return Err(usage("option \"label.\" needs the key of a label; write label.KEY=VALUE"));
    }
    if LIMITS.contains(&key) && value.is_empty() {
        return Err(usage(format!(
            "option {key:?} needs a value; write {key}=VALUE, or {key}=none for no limit"
        )));
    }
    if key == "size" && value.starts_with(['+', '-']) {
        let what = "write the size that it is to have; `larder resize` takes what it is to grow or shrink by";
        return Err(usage(format!("option \"{key}={value}\": {what}")));
    }
    // Some are known that need not be shown.
    let given = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    match must_be_known(key) {
        Err(e) if VolumeOptions::parse(&given).is_err() => Err(e),
        _ => Ok(()),
    }
}

/// Refuses what no option is called: it would be no change, and whoever has mistyped it would not know.
fn must_be_known(key: &str) -> Result<()> {
    let known = ["mountpoint", "sticky", "trash", "key-file", "passphrase-file"];
    let known: Vec<&str> = MountOptions::shown()
        .chain(known)
        .chain(LIMITS.iter().chain(ROOT).chain(SHIPPING).copied())
        .collect();
    let is_said_otherwise = key.starts_with("label.")
        || !MountOptions::settings_with(key).is_empty()
        || MADE.iter().any(|(made, _)| *made == key);
    if is_said_otherwise || known.contains(&key) {
        return Ok(());
    }
    let meant = nearest(key, known.iter().copied())
        .map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
    Err(usage(format!("option {key:?} is unknown{meant}; `larder get VOLUME` lists the options")))
}

/// A flag without a value is set.
fn written(key: &str, value: Option<String>) -> Result<Option<String>> {
    match value {
        Some(value) if is_flag(key) => match truth(&value) {
            Some(is) => Ok(Some(is.to_string())),
            None => Err(usage(format!("option \"{key}={value}\": write true or false"))),
        },
        Some(value) if value.is_empty() && !key.starts_with("label.") => {
            Err(usage(format!("option {key:?} needs a value; `--unset {key}` resets it to its default")))
        }
        value => Ok(value),
    }
}

pub(super) fn run(context: &Context, args: &SetArgs) -> CommandResult {
    let changes = apply(context, args)?;
    say(context, &args.name, &changes)
}

/// Sets one option of a volume, and says nothing of it.
pub(super) fn set_one(context: &Context, name: &str, option: String) -> Result<()> {
    let args = SetArgs {
        name: name.to_owned(),
        options: vec![option],
        unset: Vec::new(),
        secret: SecretArgs::default(),
    };
    apply(context, &args).map(drop)
}

fn apply(context: &Context, args: &SetArgs) -> Result<Changes> {
    let root = &context.root;
    let name = &args.name;
    let found = place(root, name)?.ok_or_else(|| trash::no_volume(root, name))?;
    let mut changes = Changes::of(args, found)?;
    // All that is asked for makes sense, before anything is changed.
    let resized = resized(name, &changes.limits)?;
    let root_changed = root_changed(name, &mut changes.root)?;
    for label in changes.labels.keys() {
        if label.contains(char::is_control) {
            return Err(usage("the key of a label must not have control characters"));
        }
    }
    record_with(root, name, found, &changes)?;
    let secret = args.secret.named();
    must_have(root, name, found, &changes, &secret)?;
    if found == Place::Memory && changes.options.contains_key("size") {
        let (old, new) =
            (options_of(root, name, found)?.size, record_with(root, name, found, &changes)?.options()?.size);
        // What is made smaller may be, as on a disk.
        let is_smaller = match (old, new) {
            (LimitChange::Set(old), LimitChange::Set(new)) => new <= old,
            (_, LimitChange::Set(_)) => true,
            _ => false,
        };
        if !is_smaller {
            may_have_size(name, new)?;
        }
    }
    let tuning = tuning(&changes.shipping)?;
    let durability = changes.durability()?;
    if tuning.is_some() || durability == Some(Durability::Remote) {
        must_have_remote(root, name, found)?;
    }
    if let Some(tuning) = &tuning {
        may_alter_remote(root, name, tuning)?;
    }
    if let Some(resize) = resized {
        alter(root, name, &secret, &resize)?;
    }
    if let Some(change) = root_changed {
        alter(root, name, &secret, &change)?;
    }
    if !changes.labels.is_empty() {
        let change = Alteration::Label { volume: name.clone(), labels: changes.labels.clone() };
        alter(root, name, &secret, &change)?;
    }
    if let Some(tuning) = tuning {
        alter_remote(root, name, tuning)?;
    }
    if let (Some(durability), Place::Store(_)) = (durability, found) {
        alter_durability(root, name, durability)?;
    }
    if !changes.options.is_empty() || changes.mountpoint.is_some() {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        if place(root, name)? != Some(found) {
            let what = format!(
                "volume {name:?} was removed or renamed just now; look at what has its name now before you try again"
            );
            return Err(VolumeError::new(Exit::NoVolume, what));
        }
        record_with(root, name, found, &changes)?.keep(root, name)?;
    }
    Ok(changes)
}

/// Refuses to take away labels that are not there: whoever has mistyped one would not know.
fn must_have(root: &Root, name: &str, place: Place, changes: &Changes, secret: &Secrets) -> Result<()> {
    let of_store = changes.labels.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.as_str());
    let of_record = changes.options.iter().filter(|(_, value)| value.is_none());
    let of_record = of_record.filter_map(|(key, _)| key.strip_prefix("label."));
    let mut gone = of_store.chain(of_record).peekable();
    if gone.peek().is_none() {
        return Ok(());
    }
    let labels = match place {
        Place::Store(_) => look(root, name, Some(secret))?.info.labels,
        Place::Memory => options_of(root, name, place)?.labels,
    };
    let Some(missing) = gone.find(|key| !labels.contains_key(*key)) else { return Ok(()) };
    let known: Vec<&str> = labels.keys().map(String::as_str).collect();
    let meant = match (nearest(missing, known.iter().copied()), known.as_slice()) {
        (Some(meant), _) => format!("did you mean {meant:?}?"),
        (None, []) => "it has no labels".to_owned(),
        (None, known) => format!("its labels are {}", known.join(", ")),
    };
    Err(usage(format!("volume {name:?} has no label {missing:?} to remove; {meant}")))
}

fn resized(name: &str, limits: &BTreeMap<String, String>) -> Result<Option<Alteration>> {
    if limits.is_empty() {
        return Ok(None);
    }
    let asked = VolumeOptions::parse(limits).map_err(usage)?;
    let of = |key: &str, limit: LimitChange| if limits.contains_key(key) { limit } else { LimitChange::Keep };
    Ok(Some(Alteration::Resize {
        volume: name.to_owned(),
        size: of("size", asked.size),
        inodes: of("inodes", asked.inodes),
        metadata: of("metadata", asked.metadata),
        size_max: None,
    }))
}

/// What becomes of the root directory, if that is to be changed; `given` is then as numbers what it was by name.
fn root_changed(name: &str, given: &mut BTreeMap<String, String>) -> Result<Option<Alteration>> {
    if given.is_empty() {
        return Ok(None);
    }
    let VolumeOptions { uid, gid, mode, .. } = VolumeOptions::parse(given).map_err(usage)?;
    for (key, value) in given {
        let number = match key.as_str() {
            "uid" => uid.map(|uid| uid.to_string()),
            "gid" => gid.map(|gid| gid.to_string()),
            _ => mode.map(|mode| format!("{mode:o}")),
        };
        *value = number.unwrap_or_default();
    }
    Ok(Some(Alteration::Root { volume: name.to_owned(), uid, gid, mode }))
}

/// What is remembered of the volume, with what is to be changed of it.
fn record_with(root: &Root, name: &str, place: Place, changes: &Changes) -> Result<Record> {
    let before = Record::of(root, name, place)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let store = match place {
        Place::Store(id) => Some(id.to_string()),
        Place::Memory => None,
    };
    let mut record =
        before.unwrap_or(Record { store, created: now, by_driver: Some(false), ..Record::default() });
    if let Some(mountpoint) = &changes.mountpoint {
        record.mountpoint.clone_from(mountpoint);
    }
    for (key, value) in &changes.options {
        if key.ends_with("-file") && value.is_some() {
            if !matches!(place, Place::Store(id) if is_encrypted(root, id)?) {
                return Err(usage(format!("volume {name:?} is not encrypted, so it needs no {key}")));
            }
            // There is one secret; the new takes the place of the old.
            record.options.retain(|old, _| !old.ends_with("-file"));
            record.inherited.retain(|old, _| !old.ends_with("-file"));
            record.options.insert("encrypt".into(), "true".into());
        }
        record.inherited.remove(key);
        // Those that go together are one.
        let same = MountOptions::settings_with(key);
        record.options.retain(|old, _| old != key && !same.contains(&old.as_str()));
        if let Some(value) = value {
            record.options.insert(key.clone(), value.clone());
        }
    }
    record.options = VolumeOptions::parse(&record.options).map_err(usage)?.to_record();
    Ok(record)
}

fn say(context: &Context, name: &str, changes: &Changes) -> CommandResult {
    let labels = changes.labels.iter().map(|(key, value)| (format!("label.{key}"), value.clone()));
    let limits = changes.limits.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
    let dir = changes.root.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
    let now: BTreeMap<String, Option<String>> = limits.chain(dir).chain(labels).collect();
    let (at_mount, at_once): (BTreeMap<_, _>, BTreeMap<_, _>) = changes
        .options
        .clone()
        .into_iter()
        .partition(|(key, _)| !AT_ONCE.contains(&key.as_str()) && !key.starts_with("label."));
    let mountpoint = changes
        .mountpoint
        .as_ref()
        .map(|dir| ("mountpoint".to_owned(), dir.as_ref().map(|dir| dir.display().to_string())));
    let shipping = changes.shipping.clone();
    let now: BTreeMap<_, _> = now.into_iter().chain(at_once).chain(shipping).chain(mountpoint).collect();
    if context.json {
        output::json(&json!({ "name": name, "now": now, "at_next_mount": at_mount }))?;
        return Ok(Exit::Ok);
    }
    let list = |changes: &BTreeMap<String, Option<String>>| {
        let each = changes.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => format!("{key} was unset"),
        });
        each.collect::<Vec<_>>().join(", ")
    };
    if !now.is_empty() {
        output::line(&format!("{name}: {}", list(&now)))?;
    }
    if !at_mount.is_empty() {
        output::line(&format!("{name}: {}; takes effect at the next mount", list(&at_mount)))?;
    }
    Ok(Exit::Ok)
}

/// Where a volume is to be mounted by `larder mount` from now on; nowhere for `none`.
fn parse_mountpoint(text: &str, place: Place) -> Result<Option<PathBuf>> {
    if matches!(text, "none" | "") {
        return Ok(None);
    }
    if place == Place::Memory {
        return Err(usage("a volume in memory is mounted for containers only"));
    }
    let dir = Path::new(text);
    let is_plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match dir.is_absolute() && is_plain && dir != Path::new("/") {
        true => Ok(Some(dir.to_owned())),
        false => {
            Err(usage(format!("{text:?} is not a mountpoint: give the whole path, without `..`, or `none`")))
        }
    }
}
