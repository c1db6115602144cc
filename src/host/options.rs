//! The options that container engines give for a volume (`-o`, `driver_opts`), and what they mean.

use super::{foreign, owner};
use crate::mount::{Durability, MemoryOptions, MountOptions, split, truth};
use crate::nearest::nearest;
use crate::period;
use crate::remote::{Address, HISTORY_MIN, LeaseKind};
use crate::size;
use crate::volume::{LimitChange, NewRemote, Target};
use nix::unistd::{getegid, geteuid};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can be asked for.
const KNOWN: &str = "size=10G, inodes=N, metadata=SIZE, from=VOLUME[@SNAPSHOT], encrypt, key-file=FILE, passphrase-file=FILE, uid=USER, gid=GROUP, \
                     mode=755, cache-size=256M, commit=SECONDS, ro, noatime, nosuid, dev, noexec, context=LABEL, sticky, trash=24h, \
                     remote=URL|NAME, ship=SECONDS, max-lag=SIZE, history=24h, local-size=SIZE, durability=local|remote, lease=none|strict, heartbeat=SECONDS, label.KEY=VALUE, type=tmpfs, and o=LIST of these";
/// Those that are passed on to the mount as they are: with a value, and without.
const MOUNT_VALUES: &[&str] = &[
    "cache-size",
    "commit",
    "durability",
    "writeback",
    "snapshots",
    "idmap",
    "compat32",
    "awake",
    "context",
];
const MOUNT_FLAGS: &[&str] = &[
    "ro",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "lazytime",
    "nosuid",
    "noexec",
    "nosymfollow",
    "sync",
    "dirsync",
];
/// Values of `type=`; the last two are volumes in memory.
const TYPES: &[&str] = &["", "larder", "tmpfs", "memory"];
/// What goes without saying.
const IDLE_FLAGS: &[&str] = &["defaults"];
/// How far behind a remote may be, in seconds.
const SHIP: std::ops::RangeInclusive<u64> = 1..=86_400;
/// Longest value.
const VALUE_MAX: usize = 4096;

/// A volume as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOptions {
    /// It lives in memory only.
    pub in_memory: bool,
    /// Size limit in bytes; what is to be kept has none.
    pub size: LimitChange,
    /// Inode limit; what is to be kept is as usual.
    pub inodes: LimitChange,
    /// Limit of metadata in bytes, likewise.
    pub metadata: LimitChange,
    /// What it begins as: a volume or a snapshot.
    pub from: Option<String>,
    /// It is encrypted.
    pub encrypt: bool,
    /// The key file that opens it.
    pub key_file: Option<PathBuf>,
    /// The file with the passphrase that opens it.
    pub passphrase_file: Option<PathBuf>,
    /// Owner of its root directory.
    pub uid: Option<u32>,
    /// Group of its root directory.
    pub gid: Option<u32>,
    /// Permissions of its root directory.
    pub mode: Option<u32>,
    /// How it is mounted, where the host has no other way.
    pub mount: MountOptions,
    /// What was said of that, also where it is so anyway: settings as [`MountOptions::of_setting`] takes them.
    pub said: BTreeMap<String, String>,
    /// It is not removed without being asked twice.
    pub sticky: bool,
    /// How long it is kept in the trash after its removal, if not for as long as others; zero: not at all.
    pub trash: Option<Duration>,
    /// Its remote: a URL, or a name.
    pub remote: Option<String>,
    /// How far behind that may be, in seconds.
    pub ship: Option<u64>,
    /// How many bytes it may lack before writers are slowed; 0: any number.
    pub max_lag: Option<u64>,
    /// For how long what was needed stays in its remote, in seconds; none: as usual.
    pub history: Option<u64>,
    /// How many bytes of its contents stay here that are there as well; 0: all of them.
    pub local_size: Option<u64>,
    /// What keeps two hosts from serving it at once.
    pub lease: Option<LeaseKind>,
    /// How often its owner shows life there, in seconds.
    pub heartbeat: Option<u64>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it was said not to be, or not to have, `encrypt`, `sticky` or `remote`, although others may be so on this host.
    pub refused: BTreeSet<&'static str>,
}

impl Default for VolumeOptions {
    /// Devices on it are not opened. A container that may make them has no use for them, and whoever else gets to them has the
    /// host's disks.
    fn default() -> Self {
        Self {
            in_memory: false,
            size: LimitChange::default(),
            inodes: LimitChange::default(),
            metadata: LimitChange::default(),
            from: None,
            encrypt: false,
            key_file: None,
            passphrase_file: None,
            uid: None,
            gid: None,
            mode: None,
            mount: MountOptions { nodev: true, ..MountOptions::default() },
            said: BTreeMap::new(),
            sticky: false,
            trash: None,
            remote: None,
            ship: None,
            max_lag: None,
            history: None,
            local_size: None,
            lease: None,
            heartbeat: None,
            labels: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }
}

fn bad(key: &str, value: &str, why: impl std::fmt::Display) -> String {
    let shown = if value.is_empty() { key.to_owned() } else { format!("{key}={value}") };
    format!("option {shown:?}: {why}")
}

/// An option that is there or not.
fn flag(key: &str, value: &str) -> Result<bool, String> {
    truth(value).ok_or_else(|| bad(key, value, "write true or false"))
}

/// A limit as it is written.
fn limit_text(limit: LimitChange) -> Option<String> {
    match limit {
        // No option changes a limit by so much.
        LimitChange::Keep | LimitChange::Raise(_) | LimitChange::Lower(_) => None,
        LimitChange::Lift => Some("none".to_owned()),
        LimitChange::Set(limit) => Some(limit.to_string()),
    }
}

/// A reference to a secret.
fn file(key: &str, value: &str) -> Result<PathBuf, String> {
    match Path::new(value) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(bad(key, value, "write the absolute path of a file (never the secret itself)")),
    }
}

/// How far behind a remote may be, in seconds.
///
/// # Errors
/// What can be written.
pub fn parse_ship(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if SHIP.contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds, from 1 to 86400".into()),
    }
}

/// How many bytes a remote may lack before writers are slowed; 0: any number.
///
/// # Errors
/// What can be written.
pub fn parse_lag(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { size::parse(text) }
}

/// For how long what was needed stays in a remote, in seconds.
///
/// # Errors
/// What can be written.
pub fn parse_history(text: &str) -> Result<u64, String> {
    match period::parse(text).map(|period| period.as_secs()) {
        Ok(seconds) if seconds >= HISTORY_MIN => Ok(seconds),
        Ok(_) => {
            Err("write 1h or more: a host that has just begun to attach the store needs what was there then"
                .into())
        }
        Err(_) => Err(format!("{text:?} is not a length of time; write it like 24h or 7d, and at least 1h")),
    }
}

/// The same as it is written.
pub fn format_history(seconds: u64) -> String {
    period::format(Duration::from_secs(seconds))
}

/// How often an owner shows life, in seconds.
///
/// # Errors
/// What can be written.
pub fn parse_heartbeat(text: &str) -> Result<u64, String> {
    // Others look for half a minute whether somebody shows life, and a strict lease lasts 20 s.
    let seconds = text.parse().ok().filter(|seconds| (1..=10).contains(seconds));
    seconds.ok_or_else(|| "write a number of seconds from 1 to 10".to_owned())
}

/// The least that may stay here: a piece of each stream that is read, and what is being written.
const LOCAL_MIN: u64 = 16 << 20;

/// How many bytes of the contents stay here that are in a remote as well; 0: all of them.
///
/// # Errors
/// What can be written.
pub fn parse_local(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => match size::parse(text)? {
            bytes if bytes < LOCAL_MIN => Err("that is too little: write at least 16M, or none".to_owned()),
            bytes => Ok(bytes),
        },
    }
}

impl VolumeOptions {
    /// Reads options as they come from an engine.
    ///
    /// # Errors
    /// An unknown option, with those there are; a bad value; options that do not go together.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut flat: BTreeMap<&str, &str> = BTreeMap::new();
        let one_by_one = given.iter().flat_map(|(key, value)| {
            let list = key == "o";
            let options = if list { split(value).collect() } else { vec![value.as_str()] };
            options.into_iter().filter(move |option| !list || !option.is_empty()).map(move |option| {
                if list { option.split_once('=').unwrap_or((option, "")) } else { (key.as_str(), option) }
            })
        });
        for (key, value) in one_by_one {
            let key = match key {
                "encrypted" => "encrypt",
                "parent" => "from",
                other => other,
            };
            if value.len() > VALUE_MAX || value.chars().any(char::is_control) {
                return Err(format!("option {key:?}: its value is too long, or has control characters"));
            }
            match flat.insert(key, value) {
                Some(other) if other != value => {
                    return Err(format!("option {key:?} is given twice: as {other:?} and as {value:?}"));
                }
                _ => {}
            }
        }
        if let Some(kind) = flat.get("type").filter(|kind| !TYPES.contains(kind)) {
            return Err(foreign::by_local_driver(kind, given));
        }
        let mut options = Self::default();
        for (&key, &value) in &flat {
            options.take(key, value)?;
        }
        options.mount = options.mount_over(&[])?;
        // In one way of writing it.
        let written = options.to_map();
        for (name, value) in &mut options.said {
            if let Some(written) = written.get(name) {
                value.clone_from(written);
            }
        }
        let wants_snapshot = flat.get("snapshot").is_some_and(|value| flag("snapshot", value) == Ok(true));
        options.check(wants_snapshot)?;
        if flat.contains_key("device") && !options.in_memory {
            return Err("option \"device=tmpfs\" goes with type=tmpfs".into());
        }
        Ok(options)
    }

    /// How it is mounted on a host where `usual` options are those of every volume that says nothing else.
    ///
    /// # Errors
    /// Options that do not go together.
    pub fn mount_over(&self, usual: &[String]) -> Result<MountOptions, String> {
        let mut list = vec!["nodev".to_owned()];
        list.extend_from_slice(usual);
        list.extend(self.mount_list()?);
        MountOptions::parse(&list, false).map_err(|e| e.0)
    }

    /// What was said of how it is mounted, as options of `-o`.
    ///
    /// # Errors
    /// A value that an option cannot have.
    pub fn mount_list(&self) -> Result<Vec<String>, String> {
        self.said.iter().map(|(name, value)| MountOptions::of_setting(name, value)).collect()
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "size" if value == "none" => self.size = LimitChange::Lift,
            "size" => self.size = LimitChange::Set(size::parse_limit(value).map_err(|e| bad(key, value, e))?),
            "inodes" => match value.parse() {
                _ if value == "none" => self.inodes = LimitChange::Lift,
                // (Rust's numbers may have a sign.)
                Ok(inodes) if inodes > 0 && !value.starts_with('+') => self.inodes = LimitChange::Set(inodes),
                _ => return Err(bad(key, value, "write a number of inodes, not 0, or none")),
            },
            "metadata" if value == "none" => self.metadata = LimitChange::Lift,
            "metadata" => {
                self.metadata = LimitChange::Set(size::parse(value).map_err(|e| bad(key, value, e))?);
            }
            "from" => {
                Target::parse(value).map_err(|e| bad(key, value, e))?;
                self.from = Some(value.to_owned());
            }
            "snapshot" => {
                flag(key, value)?;
            }
            "encrypt" => self.encrypt = self.flag_or_refused("encrypt", value)?,
            "key-file" => self.key_file = Some(file(key, value)?),
            "passphrase-file" => self.passphrase_file = Some(file(key, value)?),
            "uid" => self.uid = Some(owner::user(value).map_err(|e| bad(key, value, e))?),
            "gid" => self.gid = Some(owner::group(value).map_err(|e| bad(key, value, e))?),
            "mode" => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => self.mode = Some(mode),
                _ => return Err(bad(key, value, "write a mode in octal, like 755 or 1777")),
            },
            "sticky" => self.sticky = self.flag_or_refused("sticky", value)?,
            "trash" => self.trash = Some(period::parse(value).map_err(|e| bad(key, value, e))?),
            "remote" if value == "none" => {
                self.refused.insert("remote");
            }
            "remote" => {
                Address::check(value).map_err(|e| bad(key, value, e))?;
                self.remote = Some(value.to_owned());
            }
            "ship" => self.ship = Some(parse_ship(value).map_err(|e| bad(key, value, e))?),
            "max-lag" => self.max_lag = Some(parse_lag(value).map_err(|e| bad(key, value, e))?),
            "history" => self.history = Some(parse_history(value).map_err(|e| bad(key, value, e))?),
            "local-size" => self.local_size = Some(parse_local(value).map_err(|e| bad(key, value, e))?),
            "lease" => self.lease = Some(value.parse().map_err(|e: String| bad(key, value, e))?),
            "heartbeat" => self.heartbeat = Some(parse_heartbeat(value).map_err(|e| bad(key, value, e))?),
            "type" => self.in_memory = matches!(value, "tmpfs" | "memory"),
            // Docker's own driver wants it said like this.
            "device" if value == "tmpfs" => {}
            "device" => return Err(bad(key, value, "larder's volumes have no device; leave it out")),
            "dev" | "nodev" | "rw" => {
                let (name, yes) = if key == "rw" { ("ro", false) } else { ("dev", key == "dev") };
                self.said.insert(name.to_owned(), (flag(key, value)? == yes).to_string());
            }
            _ if MOUNT_VALUES.contains(&key) => {
                self.said.insert(key.to_owned(), value.to_owned());
            }
            _ if MOUNT_FLAGS.contains(&key) => {
                self.said.insert(key.to_owned(), flag(key, value)?.to_string());
            }
            _ if IDLE_FLAGS.contains(&key) && value.is_empty() => {}
            _ => match key.strip_prefix("label.") {
                Some(label) if !label.is_empty() && !label.contains(char::is_control) => {
                    self.labels.insert(label.to_owned(), value.to_owned());
                }
                Some(label) if !label.is_empty() => {
                    return Err(bad(key, value, "the key of a label must not have control characters"));
                }
                _ => {
                    // The first word of each is what it is called.
                    let names = KNOWN.split(", ").filter_map(|known| known.trim().split(['=', ' ']).next());
                    let advice = foreign::advice(key).map_or_else(
                        || match nearest(key, names) {
                            Some(meant) => format!("did you mean {meant}?"),
                            None => "leave it out".to_owned(),
                        },
                        str::to_owned,
                    );
                    let why = format!("larder has no such option; {advice}; the options are {KNOWN}");
                    return Err(bad(key, value, why));
                }
            },
        }
        Ok(())
    }

    /// A flag that others may have without asking.
    fn flag_or_refused(&mut self, key: &'static str, value: &str) -> Result<bool, String> {
        let is = flag(key, value)?;
        if !is {
            self.refused.insert(key);
        }
        Ok(is)
    }

    /// Whether everything goes together.
    fn check(&self, wants_snapshot: bool) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        if wants_snapshot && self.from.is_none() {
            return refuse(
                "option \"snapshot\": name the source, with from=VOLUME[@SNAPSHOT] or parent=VOLUME",
            );
        }
        if self.key_file.is_some() && self.passphrase_file.is_some() {
            return refuse("give key-file or passphrase-file, not both");
        }
        let has_secret = self.key_file.is_some() || self.passphrase_file.is_some();
        if has_secret && !self.encrypt && self.from.is_none() {
            return refuse("a secret is given for a volume that is not encrypted; add the option encrypt");
        }
        if self.remote.is_some() && self.from.is_some() {
            return refuse(
                "option \"remote\": a clone is in the store of its source, and has the remote of that",
            );
        }
        if self.ship.is_some() && self.remote.is_none() && self.from.is_none() {
            return refuse("option \"ship\" is for volumes with a remote; add remote=URL or remote=NAME");
        }
        if self.max_lag.is_some() && self.remote.is_none() && self.from.is_none() {
            return refuse("option \"max-lag\" is for volumes with a remote; add remote=URL or remote=NAME");
        }
        if self.history.is_some() && self.remote.is_none() && self.from.is_none() {
            return refuse("option \"history\" is for volumes with a remote; add remote=URL or remote=NAME");
        }
        if self.local_size.is_some() && self.remote.is_none() && self.from.is_none() {
            return refuse(
                "option \"local-size\" is for volumes with a remote; add remote=URL or remote=NAME",
            );
        }
        for (key, is_given) in [("lease", self.lease.is_some()), ("heartbeat", self.heartbeat.is_some())] {
            if is_given && self.remote.is_none() && self.from.is_none() {
                let what =
                    format!("option {key:?} is for volumes with a remote; add remote=URL or remote=NAME");
                return refuse(&what);
            }
        }
        let disk_only = [
            ("from", self.from.is_some()),
            ("remote", self.remote.is_some()),
            ("durability", self.mount.durability == Durability::Remote),
            ("metadata", self.metadata != LimitChange::Keep),
            ("encrypt", self.encrypt),
            ("trash", self.trash.is_some()),
            ("key-file", has_secret),
            ("cache-size", self.mount.cache_bytes.is_some()),
            ("commit", self.mount.commit_ms.is_some()),
        ];
        match disk_only.iter().find(|(_, given)| *given && self.in_memory) {
            Some((key, _)) => Err(format!(
                "option {key:?} is not for type=tmpfs, which never reaches a disk; leave one of the two out"
            )),
            None => Ok(()),
        }
    }

    /// Whether all of it goes together in a volume that is made anew, with what is usual on this host.
    ///
    /// # Errors
    /// What does not.
    pub fn must_fit_anew(&self) -> Result<(), String> {
        if self.mount.durability == Durability::Remote && self.remote.is_none() {
            let what =
                "option \"durability=remote\" is for volumes with a remote; add remote=URL or remote=NAME";
            return Err(what.to_owned());
        }
        Ok(())
    }

    /// The same options in one way of writing them, of the many there are: without what is so anyway.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: Option<String>| {
            map.extend(value.map(|value| (key.to_owned(), value)));
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let yes = |is: bool| is.then(|| "true".to_owned());
        put("type", self.in_memory.then(|| "tmpfs".to_owned()));
        // Without a limit is what one is that says nothing of it.
        put("size", limit_text(self.size).filter(|text| text != "none"));
        put("inodes", limit_text(self.inodes));
        put("metadata", limit_text(self.metadata));
        put("from", self.from.clone());
        put("encrypt", yes(self.encrypt));
        put("key-file", path(&self.key_file));
        put("passphrase-file", path(&self.passphrase_file));
        let usual = |n: u32, usual: u32| n != usual || self.from.is_some();
        put("uid", self.uid.filter(|n| usual(*n, geteuid().as_raw())).map(|n| n.to_string()));
        put("gid", self.gid.filter(|n| usual(*n, getegid().as_raw())).map(|n| n.to_string()));
        let mode = if self.in_memory { 0o1777 } else { 0o755 };
        put("mode", self.mode.filter(|n| usual(*n, mode)).map(|n| format!("{n:o}")));
        put("sticky", yes(self.sticky));
        put("trash", self.trash.map(period::format));
        put("remote", self.remote.clone());
        put("ship", self.ship.map(|seconds| seconds.to_string()));
        put("max-lag", self.max_lag.map(|bytes| bytes.to_string()));
        put("history", self.history.map(format_history));
        put("local-size", self.local_size.map(|bytes| bytes.to_string()));
        put("lease", self.lease.map(|lease| lease.to_string()));
        put("heartbeat", self.heartbeat.map(|seconds| seconds.to_string()));
        let mount = &self.mount;
        put("ro", yes(mount.read_only));
        put("noatime", yes(mount.noatime));
        put("nodiratime", yes(mount.nodiratime));
        put("strictatime", yes(mount.strictatime));
        put("nosuid", yes(mount.nosuid));
        put("dev", yes(!mount.nodev));
        put("noexec", yes(mount.noexec));
        put("sync", yes(mount.sync));
        put("dirsync", yes(mount.dirsync));
        put("lazytime", yes(mount.lazytime));
        put("nosymfollow", yes(mount.nosymfollow));
        put("commit", mount.commit_ms.map(|ms| (ms / 1000).to_string()));
        put(
            "durability",
            (mount.durability == Durability::Remote).then(|| mount.durability_name().to_owned()),
        );
        put("cache-size", mount.cache_bytes.map(|n| n.to_string()));
        put("context", mount.context.clone());
        put("writeback", (!mount.writeback).then(|| "off".to_owned()));
        put("snapshots", (!mount.snapshots).then(|| "off".to_owned()));
        put("idmap", mount.idmap.then(|| "on".to_owned()));
        put("compat32", mount.compat32.then(|| "on".to_owned()));
        put("awake", (!mount.awake).then(|| "off".to_owned()));
        for (key, value) in &self.labels {
            map.insert(format!("label.{key}"), value.clone());
        }
        map
    }

    /// The same, with what was said although it is so anyway: the configuration of the host may say otherwise of other volumes.
    pub fn to_record(&self) -> BTreeMap<String, String> {
        let mut map = self.to_map();
        for (name, value) in &self.said {
            map.entry(name.clone()).or_insert_with(|| value.clone());
        }
        map
    }

    /// The size limit, if one is asked for.
    pub fn size_limit(&self) -> Option<u64> {
        if let LimitChange::Set(size) = self.size { Some(size) } else { None }
    }

    /// The inode limit, if one is asked for.
    pub fn inode_limit(&self) -> Option<u64> {
        if let LimitChange::Set(inodes) = self.inodes { Some(inodes) } else { None }
    }

    /// The remote that its store is to have.
    pub fn new_remote(&self) -> Option<NewRemote> {
        let Self { ship, max_lag, history, local_size, lease, heartbeat, .. } = *self;
        let new = |remote| NewRemote { remote, ship, max_lag, history, local_size, lease, heartbeat };
        self.remote.clone().map(new)
    }

    /// What a volume in memory is to be.
    pub fn memory(&self) -> MemoryOptions {
        MemoryOptions {
            size: self.size_limit(),
            inodes: self.inode_limit(),
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
        }
    }
}

/// What is different between what a volume was made with and what is asked for now, for people; empty if nothing is.
pub fn differences(made: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> Vec<String> {
    let mut keys: Vec<&String> = made.keys().chain(asked.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let shown = |key: &str, value: &str| match value.parse() {
        Ok(bytes) if matches!(key, "size" | "metadata" | "cache-size" | "max-lag" | "local-size") => {
            let short = size::format(bytes);
            if size::parse(&short) == Ok(bytes) { short } else { value.to_owned() }
        }
        _ => value.to_owned(),
    };
    keys.into_iter()
        .filter_map(|key| match (made.get(key), asked.get(key)) {
            (Some(made), Some(asked)) if made == asked => None,
            (Some(made), Some(asked)) => {
                Some(format!("its {key} is {}, not {}", shown(key, made), shown(key, asked)))
            }
            (Some(made), None) => Some(format!("it has {key}={}", shown(key, made))),
            (None, Some(asked)) => Some(format!("it has no {key}={}", shown(key, asked))),
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(options: &[(&str, &str)]) -> BTreeMap<String, String> {
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn parse(options: &[(&str, &str)]) -> Result<VolumeOptions, String> {
        VolumeOptions::parse(&map(options))
    }

    #[test]
    fn all_ways_to_say_the_same_are_the_same() {
        let plain =
            parse(&[("size", "10G"), ("uid", "1000"), ("ro", "true"), ("encrypt", ""), ("key-file", "/k")]);
        let list = parse(&[("o", "size=10240M,uid=1000,ro"), ("encrypted", "true"), ("key-file", "/k")]);
        assert_eq!(plain, list);
        let plain = plain.unwrap();
        assert_eq!(
            (plain.size, plain.uid, plain.mount.read_only, plain.encrypt),
            (LimitChange::Set(10 << 30), Some(1000), true, true)
        );
        assert_eq!(VolumeOptions::parse(&plain.to_map()), Ok(plain));
        assert_eq!(parse(&[("snapshot", "true"), ("parent", "db")]), parse(&[("from", "db")]));
        assert_eq!(
            parse(&[("o", "defaults,rw"), ("encrypt", "false"), ("mode", "0755"), ("uid", "0")])
                .unwrap()
                .to_map(),
            map(&[])
        );
        let memory = parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=100m,uid=1000")]).unwrap();
        assert!(memory.in_memory && memory.size_limit() == Some(100 << 20));
        assert_eq!(parse(&[("size", "10GB")]).unwrap().size_limit(), Some(10_000_003_072));
        assert_eq!(
            (parse(&[("uid", "root")]).unwrap().uid, parse(&[("gid", "root")]).unwrap().gid),
            (Some(0), Some(0))
        );
    }

    #[test]
    fn devices_are_opened_only_where_that_is_asked_for() {
        for no in
            [&[][..], &[("nodev", "")], &[("dev", "false")], &[("o", "nodev")], &[("dev", ""), ("nodev", "")]]
        {
            let options = parse(no).unwrap();
            assert!(options.mount.nodev && options.to_map().is_empty(), "{no:?}");
        }
        for yes in [&[("dev", "")][..], &[("nodev", "false")], &[("o", "dev")]] {
            let options = parse(yes).unwrap();
            assert!(!options.mount.nodev, "{yes:?}");
            assert_eq!(VolumeOptions::parse(&options.to_record()), Ok(options));
        }
        assert!(VolumeOptions::default() == parse(&[]).unwrap());
    }

    #[test]
    fn everything_comes_back_from_what_is_remembered() {
        let options = parse(&[
            ("size", "1G"),
            ("inodes", "100"),
            ("metadata", "16M"),
            ("from", "db@monday"),
            ("key-file", "/k"),
            ("uid", "0"),
            ("gid", "7"),
            ("mode", "1777"),
            ("cache-size", "1.5G"),
            ("commit", "9"),
            ("durability", "remote"),
            ("ro", ""),
            ("noatime", ""),
            ("nosuid", ""),
            ("nodev", ""),
            ("noexec", ""),
            ("sync", ""),
            ("nodiratime", ""),
            ("sticky", "yes"),
            ("label.a", "x=y"),
            ("context", "a:b:c:s0:c1,c2"),
            ("writeback", "off"),
            ("snapshots", "off"),
            ("idmap", "on"),
            ("awake", "off"),
        ])
        .unwrap();
        assert_eq!(VolumeOptions::parse(&options.to_record()), Ok(options));
    }

    #[test]
    fn a_volume_says_otherwise_than_its_host_also_where_that_is_usual() {
        let usual: Vec<String> = ["noatime", "dev", "snapshots=off", "commit=9"].map(String::from).to_vec();
        let silent = parse(&[]).unwrap().mount_over(&usual).unwrap();
        assert!(silent.noatime && !silent.nodev && !silent.snapshots && silent.commit_ms == Some(9000));
        let said =
            parse(&[("relatime", ""), ("dev", "false"), ("snapshots", "on"), ("commit", "1"), ("rw", "")])
                .unwrap();
        // Nothing of it is worth a difference to a volume that says nothing.
        assert_eq!(said.to_map(), map(&[("commit", "1")]));
        let again = VolumeOptions::parse(&said.to_record()).unwrap();
        let mount = again.mount_over(&usual).unwrap();
        assert!(!mount.noatime && mount.nodev && mount.snapshots && mount.commit_ms == Some(1000));
        assert!(!again.mount_over(&["ro".into()]).unwrap().read_only);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        for (options, says) in [
            (&[("nonsense", "1")][..], "label.KEY=VALUE"),
            (&[("Size", "1G")], "size=10G"),
            (&[("label.", "x")], "label.KEY"),
            (&[("size", "big")], "10G"),
            (&[("size", "1G"), ("o", "size=2G")], "twice"),
            (&[("inodes", "0")], "not 0"),
            (&[("uid", "no-such-user")], "no user"),
            (&[("nodatime", "")], "did you mean noatime?"),
            (&[("mode", "999")], "755"),
            (&[("ro", "perhaps")], "true or false"),
            (&[("from", "../x")], "not a valid volume name"),
            (&[("snapshot", "true")], "from="),
            (&[("encrypt", ""), ("key-file", "secret")], "absolute path"),
            (&[("key-file", "/k")], "encrypt"),
            (&[("encrypt", ""), ("key-file", "/k"), ("passphrase-file", "/p")], "not both"),
            (
                &[("type", "nfs"), ("device", ":/x")],
                "docker volume create --driver local --opt device=:/x --opt type=nfs",
            ),
            (&[("o", "type=nfs")], "--driver local"),
            (&[("device", "/dev/sda")], "no device"),
            (&[("device", "tmpfs")], "type=tmpfs"),
            (&[("size", "10")], "the smallest size limit is 1 MiB; write it like 10G"),
            (&[("type", "tmpfs"), ("from", "db")], "tmpfs"),
            (&[("type", "tmpfs"), ("encrypt", "")], "tmpfs"),
            (&[("commit", "0")], "3600"),
            (&[("durability", "both")], "local, remote"),
            (&[("type", "tmpfs"), ("durability", "remote")], "tmpfs"),
            (&[("max-lag", "1G")], "remote=URL"),
            (&[("local-size", "1G")], "remote=URL"),
            (&[("remote", "x"), ("local-size", "1M")], "at least 16M"),
            (&[("remote", "x"), ("max-lag", "much")], "max-lag"),
            (&[("history", "7d")], "remote=URL"),
            (&[("remote", "x"), ("history", "59min")], "1h or more"),
            (&[("context", "a\"b")], "SELinux"),
            (&[("label.a", "x\ny")], "control"),
        ] {
            let error = parse(options).unwrap_err();
            assert!(error.contains(says), "{options:?}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_understood_is_understood_again(
            picked in proptest::collection::btree_map(
                proptest::sample::select(vec![
                    "size", "inodes", "metadata", "from", "encrypt", "key-file", "uid", "gid", "mode", "ro", "noatime", "strictatime", "relatime",
                    "commit", "cache-size", "context", "sticky", "label.x", "type", "o", "snapshot", "writeback", "snapshots", "device",
                ]),
                proptest::sample::select(vec![
                    "", "true", "no", "none", "1", "0", "10G", "1.5G", "7", "db@x", "/k", "0755", "tmpfs", "off", "a:b,c", "ro,uid=5", "\"", "=",
                ]),
                0..6,
            )
        ) {
            let given: BTreeMap<String, String> = picked.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            if let Ok(options) = VolumeOptions::parse(&given) {
                // What is so anyway, such as uid=0, is left out once and for all.
                let map = options.to_map();
                proptest::prop_assert_eq!(VolumeOptions::parse(&map).map(|again| again.to_map()), Ok(map));
            }
        }
    }

    #[test]
    fn differences_are_named() {
        let made = map(&[("size", "10737418240"), ("uid", "5")]);
        assert_eq!(differences(&made, &made), Vec::<String>::new());
        let asked = map(&[("size", "21474836480"), ("ro", "true")]);
        assert_eq!(
            differences(&made, &asked),
            ["it has no ro=true", "its size is 10G, not 20G", "it has uid=5"]
        );
    }
}
