//! What `larder.toml` says of new volumes and of mounts, where nothing else does.

use super::options::VolumeOptions;
use crate::config::{Config, Setting};
use crate::exit_code::Exit;
use crate::mount::MountOptions;
use crate::nearest::nearest;
use crate::volume::{LimitChange, Result, VolumeError};
use std::collections::BTreeMap;

/// What `[create]` can have; labels beside them. A clone begins as its source, and a volume in memory as the kernel's.
const CREATE: &[&str] = &["size", "inodes", "metadata", "uid", "gid", "mode"];

/// The configuration of this host.
///
/// # Errors
/// `Usage`, with the file, the line, and what was meant.
pub fn configuration() -> Result<Config> {
    let in_file = |e: String| format!("{}: {e}", Config::path().0.display());
    let config = Config::load().and_then(|config| checked(&config).map(|()| config).map_err(in_file));
    config.map_err(unusable)
}

fn unusable(why: String) -> VolumeError {
    VolumeError::new(
        Exit::Usage,
        format!("the configuration cannot be used: {why}; `larder config check` reads it"),
    )
}

/// What new volumes are like where nothing else is said.
///
/// # Errors
/// As [`configuration`].
pub fn usual_volume() -> Result<VolumeOptions> {
    create_options(&configuration()?).map_err(unusable)
}

/// How volumes are mounted where nothing else is said: options of `-o`.
///
/// # Errors
/// As [`configuration`].
pub fn usual_mount() -> Result<Vec<String>> {
    mount_options(&configuration()?).map_err(unusable)
}

/// Whether all that a configuration says makes sense.
///
/// # Errors
/// The first thing that does not, with its line.
pub fn checked(config: &Config) -> Result<(), String> {
    create_options(config)?;
    mount_options(config).map(|_| ())
}

fn create_options(config: &Config) -> Result<VolumeOptions, String> {
    let read = |options: BTreeMap<String, String>| VolumeOptions::parse(&options);
    let mut all = BTreeMap::new();
    for setting in config.create()? {
        let Setting { name, value, line } = setting;
        if !CREATE.contains(&name.as_str()) && !name.starts_with("label.") {
            return Err(unknown("create", &name, line, CREATE.iter().copied().chain(["label.KEY"])));
        }
        read(BTreeMap::from([(name.clone(), value.clone())])).map_err(|e| format!("line {line}: {e}"))?;
        all.insert(name, value);
    }
    read(all)
}

fn mount_options(config: &Config) -> Result<Vec<String>, String> {
    let settings = config.mount()?.into_iter();
    let options = settings.map(|Setting { name, value, line }| {
        if !MountOptions::settings().any(|known| known == name) {
            return Err(unknown("mount", &name, line, MountOptions::settings()));
        }
        MountOptions::of_setting(&name, &value).map_err(|e| format!("line {line}: {e}"))
    });
    options.collect()
}

fn unknown<'a>(table: &str, name: &str, line: usize, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let what = match nearest(name, known.clone()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
    };
    format!("line {line}: the key {name:?} of [{table}] is unknown; {what}")
}

/// What is asked for, with what is usual on this host where nothing is asked for.
#[must_use]
pub fn or_usual(asked: VolumeOptions, usual: VolumeOptions) -> VolumeOptions {
    let or = |asked: LimitChange, usual| if asked == LimitChange::Keep { usual } else { asked };
    let mut labels = usual.labels;
    labels.extend(asked.labels);
    VolumeOptions {
        size: or(asked.size, usual.size),
        inodes: or(asked.inodes, usual.inodes),
        metadata: or(asked.metadata, usual.metadata),
        uid: asked.uid.or(usual.uid),
        gid: asked.gid.or(usual.gid),
        mode: asked.mode.or(usual.mode),
        labels,
        ..asked
    }
}
