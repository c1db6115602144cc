//! Mount options, as `-o` and fstab(5) give them.

use crate::fs::{AtimeMode, Durability, FsOptions};
use crate::fuse::{FuseOptions, Transport};
use crate::scheduling::Scheduling;
use crate::size;
use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Options that mount(8), systemd or the container engines pass to everyone, and that mean nothing to a helper.
const IGNORED: &[&str] = &[
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "norelatime",
    // FUSE takes it away from every mount: its files have no count of changes (`fuse_sb_defaults`).
    "iversion",
    "noiversion",
    // Linux has had no mandatory locks since 5.15, and FUSE refuses the flag.
    "mand",
    "nomand",
    "default_permissions",
];
/// Among them what a remount repeats from the table of mounts.
const IGNORED_PREFIXES: &[&str] = &[
    "x-",
    "X-",
    "helper=",
    "uhelper=",
    "comment=",
    "user_id=",
    "group_id=",
    "max_read=",
    "fd=",
    "rootmode=",
];
/// What can be asked for.
const KNOWN: &str = "ro, rw, noatime, nodiratime, relatime, strictatime, lazytime, nosuid, nodev, noexec, \
                     nosymfollow, sync, dirsync, silent, allow_other, \
                     commit=SECONDS, durability=local|remote, ship=SECONDS, max-lag=SIZE, history=TIME, local-size=SIZE, lease=none|strict, heartbeat=SECONDS, cache-size=SIZE, writeback=on|off, snapshots=on|off, idmap=on|off, \
                     compat32=on|off, awake=on|off, sched=auto|normal|fifo, transport=auto|dev|uring|fuser, root=DIR, context=LABEL, key-file=FILE, passphrase-file=FILE";

/// How the family of a volume is shipped: whoever mounts changes that, and it is no option of the mount itself.
const SHIPPING: [&str; 6] = ["ship", "max-lag", "history", "local-size", "lease", "heartbeat"];

/// Values of `sched=`.
const SCHEDULINGS: [(&str, Scheduling); 3] =
    [("auto", Scheduling::Auto), ("normal", Scheduling::Normal), ("fifo", Scheduling::Fifo)];
/// Values of `transport=`.
const TRANSPORTS: [(&str, Transport); 4] = [
    ("auto", Transport::Auto),
    ("dev", Transport::Dev),
    ("uring", Transport::Uring),
    ("fuser", Transport::Fuser),
];

/// Values of `durability=`.
const DURABILITIES: [(&str, Durability); 2] = [("local", Durability::Local), ("remote", Durability::Remote)];

/// The value of that name; else which there are.
fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| {
        format!("choose one of {}", all.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "))
    })
}

fn name_of<T: PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    all.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// How a volume is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// Refuse changes.
    pub read_only: bool,
    /// Reading never changes the time of last access.
    pub noatime: bool,
    /// Listing a directory never does.
    pub nodiratime: bool,
    /// Reading always does.
    pub strictatime: bool,
    /// Ignore set-user-ID and set-group-ID.
    pub nosuid: bool,
    /// Do not open devices.
    pub nodev: bool,
    /// Do not execute programs.
    pub noexec: bool,
    /// Every write is synchronous, and every change of a name.
    pub sync: bool,
    /// Every change of a name is synchronous.
    #[serde(default)]
    pub dirsync: bool,
    /// Do not follow symbolic links (Linux 5.10).
    #[serde(default)]
    pub nosymfollow: bool,
    /// Times that changed alone are written later.
    #[serde(default)]
    pub lazytime: bool,
    /// The kernel is to say less of it in its log.
    #[serde(default)]
    pub silent: bool,
    /// Longest time a change stays uncommitted, in milliseconds.
    pub commit_ms: Option<u64>,
    /// How far what was synced is to have come when the sync returns.
    #[serde(default)]
    pub durability: Durability,
    /// Limit of the block cache, in bytes.
    pub cache_bytes: Option<u64>,
    /// Let the kernel gather writes.
    pub writeback: bool,
    /// Show the volume's snapshots in `.snapshots`.
    #[serde(default = "yes")]
    pub snapshots: bool,
    /// Allow id-mapped mounts of it.
    #[serde(default)]
    pub idmap: bool,
    /// Keep to numbers that programs of 32 bits can take.
    #[serde(default)]
    pub compat32: bool,
    /// Keep idle CPUs awake while requests follow one another.
    #[serde(default = "yes")]
    pub awake: bool,
    /// How threads are scheduled that carry out small requests.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// See [`MountOptions::transport`].
    #[serde(default)]
    pub transport: Transport,
    /// By io_uring. `transport` is `Fuser` then, which versions know that do not know this: also a mount that dies with its server.
    #[serde(default)]
    pub rings: bool,
    /// Let all users in, as far as permissions do. Mounts of root do so anyway.
    #[serde(default)]
    pub allow_other: bool,
    /// Set-user-ID programs are asked for, and not only left as they are.
    #[serde(skip)]
    pub wants_suid: bool,
    /// Devices are.
    #[serde(skip)]
    pub wants_dev: bool,
    /// Change a mount that is there.
    pub remount: bool,
    /// The root directory, for fstab(5), where there is no other way to say it.
    pub root: Option<String>,
    /// The SELinux label that all files have. Means nothing where there is no SELinux.
    #[serde(default)]
    pub context: Option<String>,
    /// What was said of how its family is shipped, by name, as it was written. Only whoever mounts needs it.
    #[serde(skip)]
    pub shipping: BTreeMap<&'static str, String>,
    /// The key file of an encrypted volume. Only whoever mounts needs it.
    #[serde(skip)]
    pub key_file: Option<String>,
    /// The file with its passphrase.
    #[serde(skip)]
    pub passphrase_file: Option<String>,
}

/// Splits a list at its commas, except those between double quotes, as SELinux labels have them.
pub fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// A SELinux label, without the quotes that may be around it.
fn label(value: &str) -> Result<String, String> {
    let label = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.:,".contains(c);
    if !label.is_empty() && label.chars().all(fine) {
        return Ok(label.to_owned());
    }
    Err("it is not an SELinux label, such as system_u:object_r:container_file_t:s0".into())
}

fn yes() -> bool {
    true
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            noatime: false,
            nodiratime: false,
            strictatime: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            sync: false,
            dirsync: false,
            nosymfollow: false,
            lazytime: false,
            silent: false,
            commit_ms: None,
            durability: Durability::default(),
            cache_bytes: None,
            writeback: FuseOptions::default().writeback_cache,
            snapshots: FuseOptions::default().snapshots,
            idmap: FuseOptions::default().idmap,
            compat32: false,
            awake: FuseOptions::default().awake,
            scheduling: FuseOptions::default().scheduling,
            transport: FuseOptions::default().transport,
            rings: false,
            allow_other: false,
            wants_suid: false,
            wants_dev: false,
            remount: false,
            root: None,
            context: None,
            shipping: BTreeMap::new(),
            key_file: None,
            passphrase_file: None,
        }
    }
}

/// An option that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError(pub String);

impl std::fmt::Display for OptionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `MS_NOSYMFOLLOW` of `<linux/mount.h>`, which nix does not name.
pub(super) const NO_SYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

impl MountOptions {
    /// Reads comma-separated options. `sloppy` passes over unknown ones.
    ///
    /// # Errors
    /// An unknown option or a bad value, with what there is.
    pub fn parse(lists: &[String], sloppy: bool) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| split(list)).filter(|option| !option.is_empty()) {
            options.take(option, sloppy)?;
        }
        Ok(options)
    }

    fn take(&mut self, option: &str, sloppy: bool) -> Result<(), OptionError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let bad = |why: String| Err(OptionError(format!("mount option {option:?}: {why}")));
        match (name, value) {
            ("rw", None) => self.read_only = false,
            ("ro", None) => self.read_only = true,
            ("noatime", None) => (self.noatime, self.strictatime) = (true, false),
            ("atime" | "relatime", None) => (self.noatime, self.strictatime) = (false, false),
            ("strictatime", None) => (self.noatime, self.strictatime) = (false, true),
            ("nostrictatime", None) => self.strictatime = false,
            ("nodiratime", None) => self.nodiratime = true,
            ("diratime", None) => self.nodiratime = false,
            ("lazytime", None) => self.lazytime = true,
            ("nolazytime", None) => self.lazytime = false,
            ("dirsync", None) => self.dirsync = true,
            ("nodirsync", None) => self.dirsync = false,
            ("nosymfollow", None) => self.nosymfollow = true,
            ("symfollow", None) => self.nosymfollow = false,
            ("silent", None) => self.silent = true,
            ("loud", None) => self.silent = false,
            ("nosuid", None) => (self.nosuid, self.wants_suid) = (true, false),
            ("nodev", None) => (self.nodev, self.wants_dev) = (true, false),
            ("noexec", None) => self.noexec = true,
            ("suid", None) => (self.nosuid, self.wants_suid) = (false, true),
            ("dev", None) => (self.nodev, self.wants_dev) = (false, true),
            ("allow_other", None) => self.allow_other = true,
            ("exec", None) => self.noexec = false,
            ("sync", None) => self.sync = true,
            ("async", None) => self.sync = false,
            ("remount", None) => self.remount = true,
            ("commit", Some(value)) => match value.parse::<u32>() {
                Ok(seconds) if (1..=3600).contains(&seconds) => {
                    self.commit_ms = Some(u64::from(seconds) * 1000);
                }
                _ => return bad("write whole seconds, from 1 to 3600".into()),
            },
            ("durability", Some(value)) => match named(&DURABILITIES, value) {
                Ok(durability) => self.durability = durability,
                Err(e) => return bad(e),
            },
            ("cache-size", Some(value)) => match size::parse(value) {
                Ok(bytes) => self.cache_bytes = Some(bytes),
                Err(e) => return bad(e),
            },
            ("writeback", Some("on")) => self.writeback = true,
            ("writeback", Some("off")) => self.writeback = false,
            ("snapshots", Some("on")) => self.snapshots = true,
            ("snapshots", Some("off")) => self.snapshots = false,
            ("idmap", Some("on")) => self.idmap = true,
            ("idmap", Some("off")) => self.idmap = false,
            ("compat32", None | Some("on")) => self.compat32 = true,
            ("compat32", Some("off")) => self.compat32 = false,
            ("awake", Some("on")) => self.awake = true,
            ("awake", Some("off")) => self.awake = false,
            ("sched", Some(value)) => match named(&SCHEDULINGS, value) {
                Ok(scheduling) => self.scheduling = scheduling,
                Err(e) => return bad(e),
            },
            ("transport", Some(value)) => match named(&TRANSPORTS, value) {
                Ok(transport) => {
                    self.rings = transport == Transport::Uring;
                    self.transport = if self.rings { Transport::Fuser } else { transport };
                }
                Err(e) => return bad(e),
            },
            (name, Some(value)) if SHIPPING.contains(&name) => {
                let known = SHIPPING.iter().find(|known| **known == name);
                self.shipping.extend(known.map(|known| (*known, value.to_owned())));
            }
            ("key-file", Some(value)) => self.key_file = Some(value.to_owned()),
            ("passphrase-file", Some(value)) => self.passphrase_file = Some(value.to_owned()),
            ("context", Some(value)) => match label(value) {
                Ok(label) => self.context = Some(label),
                Err(e) => return bad(e),
            },
            ("root", Some(value)) => self.root = Some(value.to_owned()),
            _ if IGNORED.contains(&option) || IGNORED_PREFIXES.iter().any(|p| option.starts_with(p)) => {}
            _ if sloppy => log::debug!("ignoring the mount option {option:?}"),
            _ => return bad(format!("there is no such option; the options are {KNOWN}")),
        }
        Ok(())
    }

    /// What mount(2) is told beside the flags: empty, or `,context="..."`.
    pub(super) fn data(&self) -> String {
        let selinux = std::path::Path::new("/sys/fs/selinux/enforce").exists();
        // Where there is no SELinux, the kernel would take it for an option of FUSE.
        self.context
            .as_ref()
            .filter(|_| selinux)
            .map_or_else(String::new, |label| format!(",context=\"{label}\""))
    }

    /// The options as a list, as one would give them.
    pub fn to_list(&self) -> String {
        let mut list: Vec<String> = vec![if self.read_only { "ro" } else { "rw" }.into()];
        for (set, name) in [
            (self.nosuid, "nosuid"),
            (self.nodev, "nodev"),
            (self.noexec, "noexec"),
            (self.sync, "sync"),
            (self.noatime, "noatime"),
            (!self.noatime && !self.strictatime, "relatime"),
            (self.strictatime, "strictatime"),
            (self.nodiratime, "nodiratime"),
            (self.dirsync, "dirsync"),
            (self.nosymfollow, "nosymfollow"),
            (self.lazytime, "lazytime"),
            (self.silent, "silent"),
            (self.allow_other, "allow_other"),
        ] {
            if set {
                list.push(name.into());
            }
        }
        list.extend(self.commit_ms.map(|ms| format!("commit={}", ms / 1000)));
        if self.durability != Durability::default() {
            list.push(format!("durability={}", self.durability_name()));
        }
        list.extend(self.cache_bytes.map(|bytes| format!("cache-size={}", size::format(bytes))));
        list.push(format!("writeback={}", if self.writeback { "on" } else { "off" }));
        if !self.snapshots {
            list.push("snapshots=off".into());
        }
        if self.idmap {
            list.push("idmap=on".into());
        }
        if self.compat32 {
            list.push("compat32=on".into());
        }
        if !self.awake {
            list.push("awake=off".into());
        }
        if self.scheduling != Scheduling::default() {
            list.push(format!("sched={}", name_of(&SCHEDULINGS, self.scheduling)));
        }
        if self.transport() != Transport::default() {
            list.push(format!("transport={}", name_of(&TRANSPORTS, self.transport())));
        }
        list.extend(self.context.as_ref().map(|label| format!("context=\"{label}\"")));
        list.join(",")
    }

    /// The flags of mount(2) for these options.
    pub fn flags(&self) -> MsFlags {
        let mut flags = MsFlags::empty();
        for (set, flag) in [
            (self.read_only, MsFlags::MS_RDONLY),
            (self.nosuid, MsFlags::MS_NOSUID),
            (self.nodev, MsFlags::MS_NODEV),
            (self.noexec, MsFlags::MS_NOEXEC),
            (self.sync, MsFlags::MS_SYNCHRONOUS),
            (self.noatime, MsFlags::MS_NOATIME),
            (self.nodiratime, MsFlags::MS_NODIRATIME),
            (self.strictatime, MsFlags::MS_STRICTATIME),
            (self.dirsync, MsFlags::MS_DIRSYNC),
            (self.nosymfollow, NO_SYMFOLLOW),
            (self.lazytime, MsFlags::MS_LAZYTIME),
            (self.silent, MsFlags::MS_SILENT),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// An option among them that an ordinary user may not have.
    pub(super) fn needs_root(&self) -> Option<&'static str> {
        if self.wants_suid {
            Some("suid")
        } else if self.wants_dev {
            Some("dev")
        } else if self.idmap {
            Some("idmap=on")
        } else {
            None
        }
    }

    /// What the file system is told of them.
    pub fn fs_options(&self) -> FsOptions {
        let atime = match (self.noatime, self.strictatime) {
            (true, _) => AtimeMode::Off,
            (false, true) => AtimeMode::Strict,
            (false, false) => AtimeMode::Relative,
        };
        FsOptions {
            atime,
            no_dir_atime: self.nodiratime,
            read_only: self.read_only,
            sync_names: self.sync || self.dirsync,
            compat32: self.compat32,
            durability: self.durability,
        }
    }

    /// What the kernel is asked for because of them.
    pub fn fuse_options(&self) -> FuseOptions {
        FuseOptions {
            writeback_cache: self.writeback,
            snapshots: self.snapshots,
            idmap: self.idmap,
            awake: self.awake,
            scheduling: self.scheduling,
            transport: self.transport(),
            leased: false,
        }
    }

    /// How requests of the kernel get to the server.
    pub fn transport(&self) -> Transport {
        if self.rings { Transport::Uring } else { self.transport }
    }

    /// The same on a mount that is there: requests go on to come as they do.
    pub fn served_as(mut self, mounted: &Self) -> Self {
        (self.transport, self.rings) = (mounted.transport, mounted.rings);
        self
    }

    /// What [`MountOptions::transport`] is called.
    pub(super) fn transport_name(&self) -> &'static str {
        name_of(&TRANSPORTS, self.transport())
    }

    /// What `durability` is.
    pub fn durability_name(&self) -> &'static str {
        name_of(&DURABILITIES, self.durability)
    }

    /// What `sched` is.
    pub(super) fn scheduling_name(&self) -> &'static str {
        name_of(&SCHEDULINGS, self.scheduling)
    }

    /// The commit interval, if one was given.
    pub fn commit_interval(&self) -> Option<Duration> {
        self.commit_ms.map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, OptionError> {
        MountOptions::parse(&[text.to_owned()], false)
    }

    #[test]
    fn options_mean_what_they_say() {
        let options =
            parse("ro,noatime,nosuid,commit=1,cache-size=64M,writeback=off,sched=fifo,transport=dev")
                .unwrap();
        assert_eq!(options.fuse_options().transport, Transport::Dev);
        assert!(options.read_only && options.noatime && options.nosuid && !options.writeback);
        assert_eq!((options.commit_ms, options.cache_bytes), (Some(1000), Some(64 << 20)));
        assert_eq!(options.flags(), MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_NOSUID);
        assert_eq!(options.fs_options().atime, AtimeMode::Off);
        assert_eq!(
            options.to_list(),
            "ro,nosuid,noatime,commit=1,cache-size=64M,writeback=off,sched=fifo,transport=dev"
        );
        let last_wins = parse("ro,rw,noatime,relatime,nodiratime,diratime,lazytime,nolazytime,sync,async,nosymfollow,symfollow,silent,loud,suid,nosuid").unwrap();
        assert_eq!(last_wins, parse("nosuid").unwrap());
        assert!(!parse("nosuid,suid").unwrap().nosuid);
    }

    #[test]
    fn versions_that_know_no_rings_see_a_transport_that_they_know() {
        let options = parse("transport=uring").unwrap();
        assert_eq!(options.transport(), Transport::Uring);
        assert!(options.to_list().ends_with(",transport=uring"));
        let mut json = serde_json::to_value(&options).unwrap();
        assert_eq!(json["transport"], "fuser");
        assert_eq!(serde_json::from_value::<MountOptions>(json.clone()).unwrap(), options);
        json.as_object_mut().unwrap().remove("rings");
        let earlier: MountOptions = serde_json::from_value(json).unwrap();
        assert_eq!(earlier.transport(), Transport::Fuser);
        assert_eq!(parse("transport=uring,transport=dev").unwrap().transport(), Transport::Dev);
    }

    #[test]
    fn a_remount_does_not_change_how_requests_come() {
        for (mounted, asked) in
            [("transport=uring", "ro"), ("", "ro,transport=uring"), ("transport=dev", "ro,transport=fuser")]
        {
            let mounted = parse(mounted).unwrap();
            let changed = parse(asked).unwrap().served_as(&mounted);
            assert!(changed.read_only);
            assert_eq!(changed.transport(), mounted.transport(), "{asked}");
        }
    }

    #[test]
    fn labels_may_have_commas_in_quotes() {
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let options = parse(&format!("ro,context=\"{label}\",commit=1")).unwrap();
        assert_eq!(options.context.as_deref(), Some(label));
        assert!(options.read_only && options.commit_ms == Some(1000));
        assert_eq!(parse(&options.to_list()), Ok(options));
    }

    #[test]
    fn what_mount_passes_to_everyone_is_ignored() {
        let passed =
            "defaults,nofail,_netdev,user,users,owner,group,helper=x,uhelper=y,rw,x-systemd.automount,noauto";
        assert_eq!(parse(passed), Ok(MountOptions::default()));
    }

    #[test]
    fn bad_options_are_refused_with_those_there_are() {
        for bad in [
            "nonsense",
            "commit=0",
            "commit=x",
            "cache-size=big",
            "transport=pigeon",
            "transport=uring=2",
            "writeback=maybe",
            "ro=1",
        ] {
            let error = parse(bad).unwrap_err().0;
            assert!(error.contains(bad), "{error}");
        }
        assert!(parse("nonsense").unwrap_err().0.contains("commit=SECONDS"));
        assert!(parse("context=a b").is_err() && parse("context=").is_err());
        assert_eq!(MountOptions::parse(&["nonsense,ro".into()], true).map(|o| o.read_only), Ok(true));
    }
}
