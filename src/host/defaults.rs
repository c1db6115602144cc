//! What `larder.toml` says of new volumes and of mounts, where nothing else does.

use super::options::VolumeOptions;
use crate::config::{Config, Remotes, Setting};
use crate::exit_code::Exit;
use crate::mount::MountOptions;
use crate::nearest::nearest;
use crate::remote::Address;
use crate::size::format_exact;
use crate::volume::{LimitChange, Result, VolumeError};
use std::collections::BTreeMap;

/// What `[create]` can have; labels beside them. A clone begins as its source, and a volume in memory as the kernel's.
const CREATE: &[&str] = &[
    "size",
    "inodes",
    "metadata",
    "uid",
    "gid",
    "mode",
    "encrypt",
    "key-file",
    "passphrase-file",
    "sticky",
    "trash",
    "remote",
    "ship",
    "max-lag",
    "history",
    "local-size",
    "lease",
    "heartbeat",
];
/// Those that are not a property of the store: they are remembered of each volume when it is made.
const REMEMBERED: &[&str] = &["encrypt", "key-file", "passphrase-file", "sticky", "trash"];

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
        format!("the configuration cannot be used: {why}; `larder config check` checks it"),
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
    let usual = create_options(config)?;
    if let (LimitChange::Set(size), Some(max)) = (usual.size, config.max_size())
        && size > max
    {
        let line = config.create()?.iter().find(|setting| setting.name == "size").map_or(1, |of| of.line);
        return Err(format!(
            "line {line}: the size of [create] is {}, and max-size in [policies] allows {} at most",
            format_exact(size),
            format_exact(max)
        ));
    }
    mount_options(config).map(|_| ())
}

fn create_options(config: &Config) -> Result<VolumeOptions, String> {
    let mut all = BTreeMap::new();
    let mut options = VolumeOptions::default();
    let mut settings = config.create()?;
    // What else is said of it needs it, wherever it stands.
    settings.sort_by_key(|setting| setting.name != "remote");
    for setting in settings {
        let Setting { name, value, line } = setting;
        if !CREATE.contains(&name.as_str()) && !name.starts_with("label.") {
            let is_elsewhere = MountOptions::settings().any(|known| known == name);
            return Err(match is_elsewhere {
                true => format!("line {line}: {name:?} says how volumes are mounted; write it below [mount]"),
                false => unknown("create", &name, line, CREATE.iter().copied().chain(["label.KEY"])),
            });
        }
        all.insert(name, value);
        options = together(&all).map_err(|e| format!("line {line}: {e}"))?;
        // Each needs a place of its own.
        if let Some(url) = options
            .remote
            .as_deref()
            .filter(|remote| Address::name_in(remote).is_none_or(|name| name != *remote))
        {
            return Err(format!(
                "line {line}: {url:?} would be the place of all volumes; write the name of a remote of {}, below which each has its own",
                Remotes::path().0.display()
            ));
        }
    }
    Ok(options)
}

/// What `[create]` says, as far as it was read. It can say where the secrets of volumes are without saying that all of them are encrypted.
fn together(all: &BTreeMap<String, String>) -> Result<VolumeOptions, String> {
    let mut given = all.clone();
    let is_about_secrets = given.keys().any(|key| key.ends_with("-file"));
    if is_about_secrets {
        given.insert("encrypt".into(), "true".into());
    }
    let mut options = VolumeOptions::parse(&given)?;
    if is_about_secrets {
        let said = all.get("encrypt").map(|value| BTreeMap::from([("encrypt".to_owned(), value.clone())]));
        options.encrypt = VolumeOptions::parse(&said.unwrap_or_default())?.encrypt;
    }
    Ok(options)
}

fn mount_options(config: &Config) -> Result<Vec<String>, String> {
    let settings = config.mount()?.into_iter();
    let options = settings.map(|Setting { name, value, line }| {
        if CREATE.contains(&name.as_str()) || name.starts_with("label.") {
            return Err(format!(
                "line {line}: {name:?} says what new volumes are like; write it below [create]"
            ));
        }
        if name == "durability" {
            return Err(format!(
                "line {line}: {name:?} is for volumes that have a remote; say it of each, with `larder set VOLUME durability=remote`"
            ));
        }
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
        None => format!("the keys are {}", known.collect::<Vec<_>>().join(", ")),
    };
    format!("line {line}: the key {name:?} of [{table}] is unknown; {what}")
}

/// What is asked for, with what is usual on this host where nothing is asked for.
#[must_use]
pub fn or_usual(asked: VolumeOptions, usual: VolumeOptions) -> VolumeOptions {
    let or = |asked: LimitChange, usual| if asked == LimitChange::Keep { usual } else { asked };
    let mut labels = usual.labels;
    labels.extend(asked.labels);
    let encrypt = asked.encrypt || usual.encrypt && !asked.refused.contains("encrypt");
    // Of what is not encrypted, and of what has its own, the secret is nowhere else.
    let needs_secret = encrypt && asked.key_file.is_none() && asked.passphrase_file.is_none();
    let is_refused = asked.refused.contains("remote") || asked.from.is_some();
    let remote = asked.remote.clone().or(usual.remote.filter(|_| !is_refused));
    VolumeOptions {
        size: or(asked.size, usual.size),
        inodes: or(asked.inodes, usual.inodes),
        metadata: or(asked.metadata, usual.metadata),
        uid: asked.uid.or(usual.uid),
        gid: asked.gid.or(usual.gid),
        mode: asked.mode.or(usual.mode),
        encrypt,
        key_file: if needs_secret { usual.key_file } else { asked.key_file },
        passphrase_file: if needs_secret { usual.passphrase_file } else { asked.passphrase_file },
        sticky: asked.sticky || usual.sticky && !asked.refused.contains("sticky"),
        trash: asked.trash.or(usual.trash),
        ship: asked.ship.or(if remote.is_some() { usual.ship } else { None }),
        max_lag: asked.max_lag.or(if remote.is_some() { usual.max_lag } else { None }),
        history: asked.history.or(if remote.is_some() { usual.history } else { None }),
        local_size: asked.local_size.or(if remote.is_some() { usual.local_size } else { None }),
        lease: asked.lease.or(if remote.is_some() { usual.lease } else { None }),
        heartbeat: asked.heartbeat.or(if remote.is_some() { usual.heartbeat } else { None }),
        remote,
        labels,
        ..asked
    }
}

/// What is to be remembered of a new volume beside what was asked for: what it is because that is usual on this host now, but need not be
/// for ever.
#[must_use]
pub fn usual_to_remember(asked: &VolumeOptions, with_usual: &VolumeOptions) -> BTreeMap<String, String> {
    let asked = asked.to_map();
    let mut usual = with_usual.to_map();
    usual.retain(|key, _| REMEMBERED.contains(&key.as_str()) && !asked.contains_key(key));
    usual
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn create(text: &str) -> Result<VolumeOptions, String> {
        create_options(&Config::parse(text)?)
    }

    /// They come in the order of the alphabet, and `max-lag` was refused for want of a remote.
    #[test]
    fn what_is_said_of_a_remote_may_come_before_it() {
        let text = "[create]\nmax-lag = \"1G\"\nhistory = \"7d\"\nremote = \"offsite\"\nship = 9\n";
        let options = create(text).unwrap();
        assert_eq!((options.max_lag, options.ship), (Some(1 << 30), Some(9)));
        assert_eq!((options.history, options.remote.as_deref()), (Some(7 * 86_400), Some("offsite")));
        assert!(create("[create]\nmax-lag = \"1G\"\n").unwrap_err().contains("line 2"));
    }

    fn asked(options: &[(&str, &str)]) -> VolumeOptions {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        VolumeOptions::parse(&options).unwrap()
    }

    #[test]
    fn what_is_usual_is_so_unless_it_was_refused() {
        let usual = || {
            create("[create]\nencrypt = true\nsticky = true\ntrash = \"7d\"\nkey-file = \"/k\"\n").unwrap()
        };
        let plain = or_usual(asked(&[]), usual());
        assert!(plain.encrypt && plain.sticky && plain.trash.is_some());
        assert_eq!(plain.key_file.as_deref(), Some(Path::new("/k")));
        assert_eq!(
            usual_to_remember(&asked(&[]), &plain).into_keys().collect::<Vec<_>>(),
            ["encrypt", "key-file", "sticky", "trash"]
        );
        let no = asked(&[("encrypt", "false"), ("sticky", "false"), ("trash", "1h")]);
        let refused = or_usual(no.clone(), usual());
        assert!(!refused.encrypt && !refused.sticky && refused.key_file.is_none());
        assert!(usual_to_remember(&no, &refused).is_empty());
        let own = or_usual(asked(&[("encrypt", "true"), ("passphrase-file", "/p")]), usual());
        assert_eq!((own.key_file, own.passphrase_file.as_deref()), (None, Some(Path::new("/p"))));
        // Where the secrets are does not say that there are any.
        let usual = create("[create]\nkey-file = \"/k\"\n").unwrap();
        assert!(!or_usual(asked(&[]), usual.clone()).encrypt);
        let encrypted = or_usual(asked(&[("encrypt", "true")]), usual);
        assert_eq!(encrypted.key_file.as_deref(), Some(Path::new("/k")));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_line() {
        for (text, line, why) in [
            ("[create]\n\nencrypt = \"maybe\"\n", 3, "true or false"),
            ("[create]\nsticky = 2\n", 2, "true or false"),
            ("[create]\nkey-file = \"relative\"\n", 2, "absolute path"),
            ("[create]\nkey-file = \"/k\"\nsize = \"1G\"\npassphrase-file = \"/p\"\n", 4, "not both"),
            ("[create]\ntrash = \"soon\"\n", 2, "24h"),
            ("[create]\nnoatime = true\n", 2, "[mount]"),
            ("[create]\nfrom = \"db\"\n", 2, "unknown"),
        ] {
            let error = create(text).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(why), "{error}");
        }
        let error = mount_options(&Config::parse("[mount]\ndurability = \"remote\"\n").unwrap()).unwrap_err();
        assert!(error.starts_with("line 2: ") && error.contains("larder set VOLUME"), "{error}");
        let error = mount_options(&Config::parse("[mount]\nnoatime = true\nsize = \"1G\"\n").unwrap());
        let error = error.unwrap_err();
        assert!(error.starts_with("line 3: ") && error.contains("[create]"), "{error}");
    }
}
