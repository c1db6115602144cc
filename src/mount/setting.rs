//! Mount options as settings, with a name and a value, as a container engine or a file of configuration has them.

use super::options::MountOptions;
use crate::size;

/// Options that are there or not, and what takes each back.
const FLAGS: &[(&str, &str)] = &[
    ("ro", "rw"),
    ("noatime", "atime"),
    ("nodiratime", "diratime"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
    ("lazytime", "nolazytime"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("noexec", "exec"),
    ("nosymfollow", "symfollow"),
    ("sync", "async"),
    ("dirsync", "nodirsync"),
    ("silent", "loud"),
];
/// Those that are on or off.
const SWITCHES: &[&str] = &["writeback", "snapshots", "idmap", "compat32", "awake"];
/// Those with another value.
const VALUES: &[&str] = &["commit", "durability", "cache-size", "sched", "transport", "context"];

/// Whether a word says yes or no. Engines pass an option without a value on as an empty one.
pub fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl MountOptions {
    /// The names of all settings.
    pub fn settings() -> impl Iterator<Item = &'static str> + Clone {
        let flags = FLAGS.iter().flat_map(|(flag, back)| [*flag, *back]);
        flags.chain(SWITCHES.iter().chain(VALUES).copied())
    }

    /// Whether a setting is there or not, rather than having another value.
    pub fn is_flag(name: &str) -> bool {
        FLAGS.iter().any(|(flag, back)| *flag == name || *back == name)
    }

    /// The settings that are another way to say the same, or the opposite: of two, the last one counts.
    pub fn settings_with(name: &str) -> &'static [&'static str] {
        const TIMES: &[&str] =
            &["noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime"];
        const PAIRS: &[&[&str]] = &[
            TIMES,
            &["ro", "rw"],
            &["nodiratime", "diratime"],
            &["lazytime", "nolazytime"],
            &["nosuid", "suid"],
            &["nodev", "dev"],
            &["noexec", "exec"],
            &["nosymfollow", "symfollow"],
            &["sync", "async"],
            &["dirsync", "nodirsync"],
            &["silent", "loud"],
        ];
        PAIRS.iter().copied().find(|names| names.contains(&name)).unwrap_or(&[])
    }

    /// The settings of which [`MountOptions::value_of`] tells the value.
    pub fn shown() -> impl Iterator<Item = &'static str> {
        let flags = FLAGS.iter().map(|(flag, _)| *flag);
        // Of the three that tell when the time of access changes, two are left when the third is.
        flags.filter(|flag| *flag != "relatime").chain(SWITCHES.iter().chain(VALUES).copied())
    }

    /// The value of a setting, as [`MountOptions::of_setting`] takes it; `None` where there is none.
    pub fn value_of(&self, name: &str) -> Option<String> {
        let switch = |on: bool| Some(if on { "on" } else { "off" }.to_owned());
        let is = match name {
            "writeback" => return switch(self.writeback),
            "snapshots" => return switch(self.snapshots),
            "idmap" => return switch(self.idmap),
            "compat32" => return switch(self.compat32),
            "awake" => return switch(self.awake),
            "commit" => return self.commit_ms.map(|ms| (ms / 1000).to_string()),
            "durability" => return Some(self.durability_name().to_owned()),
            "cache-size" => return self.cache_bytes.map(size::format),
            "sched" => return Some(self.scheduling_name().to_owned()),
            "transport" => return Some(self.transport_name().to_owned()),
            "context" => return self.context.clone(),
            "ro" => self.read_only,
            "noatime" => self.noatime,
            "nodiratime" => self.nodiratime,
            "strictatime" => self.strictatime,
            "lazytime" => self.lazytime,
            "nosuid" => self.nosuid,
            "nodev" => self.nodev,
            "noexec" => self.noexec,
            "nosymfollow" => self.nosymfollow,
            "sync" => self.sync,
            "dirsync" => self.dirsync,
            "silent" => self.silent,
            _ => return None,
        };
        Some(is.to_string())
    }

    /// The option, as `-o` takes it, that a setting stands for.
    ///
    /// # Errors
    /// An unknown name, or a value that it cannot have.
    pub fn of_setting(name: &str, value: &str) -> Result<String, String> {
        let bad = |why: &str| format!("option \"{name}={value}\": {why}");
        let flag = FLAGS.iter().find(|(flag, back)| *flag == name || *back == name);
        let option = if let Some((flag, back)) = flag {
            let other = if *flag == name { back } else { flag };
            match truth(value) {
                Some(true) => name.to_owned(),
                Some(false) => (*other).to_owned(),
                None => return Err(bad("write true or false")),
            }
        } else if SWITCHES.contains(&name) {
            match truth(value) {
                Some(true) => format!("{name}=on"),
                Some(false) => format!("{name}=off"),
                None => return Err(bad("write on or off")),
            }
        } else if name == "context" {
            // It may have commas.
            format!("context=\"{}\"", value.trim_matches('"'))
        } else {
            format!("{name}={value}")
        };
        match Self::parse(std::slice::from_ref(&option), false) {
            Ok(_) => Ok(option),
            Err(e) => Err(e.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options, whoever has asked for what.
    fn settled(options: MountOptions) -> MountOptions {
        MountOptions { wants_suid: false, wants_dev: false, ..options }
    }

    #[test]
    fn each_setting_can_be_given_and_taken_back() {
        for (flag, back) in FLAGS {
            let with = MountOptions::of_setting(flag, "true").unwrap();
            let without = MountOptions::of_setting(flag, "false").unwrap();
            assert_eq!(MountOptions::of_setting(back, "no").unwrap(), with);
            let of = |list: &[&String]| {
                let list: Vec<String> = list.iter().map(|option| (*option).clone()).collect();
                settled(MountOptions::parse(&list, false).unwrap())
            };
            assert_eq!(of(&[&with, &without]), MountOptions::default(), "{flag}");
            assert!(*flag == "relatime" || of(&[&without, &with]) != MountOptions::default(), "{flag}");
        }
        for (name, value, option) in [
            ("writeback", "false", "writeback=off"),
            ("snapshots", "on", "snapshots=on"),
            ("cache-size", "64M", "cache-size=64M"),
            ("commit", "7", "commit=7"),
            ("context", "a:b:c:s0:c1,c2", "context=\"a:b:c:s0:c1,c2\""),
        ] {
            assert_eq!(MountOptions::of_setting(name, value).as_deref(), Ok(option));
        }
        for (name, value) in
            [("ro", "perhaps"), ("commit", "0"), ("writeback", "x"), ("nonsense", "1"), ("sched", "")]
        {
            let error = MountOptions::of_setting(name, value).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_set() {
        let options = MountOptions::parse(
            &["noexec,strictatime,snapshots=off,commit=9,durability=remote,cache-size=64M,sched=fifo".into()],
            false,
        )
        .unwrap();
        let shown = MountOptions::shown().filter_map(|name| {
            let value = options.value_of(name)?;
            Some(MountOptions::of_setting(name, &value).unwrap())
        });
        let again = MountOptions::parse(&shown.collect::<Vec<_>>(), false).unwrap();
        assert_eq!(settled(again), options);
        for (flag, back) in FLAGS {
            let same = MountOptions::settings_with(flag);
            assert!(same.contains(flag) && same.contains(back), "{flag}");
        }
        assert!(MountOptions::settings_with("commit").is_empty());
    }

    #[test]
    fn every_option_but_those_of_one_mount_is_a_setting() {
        let refusal = MountOptions::parse(&["nonsense".into()], false).unwrap_err().0;
        let known = refusal.rsplit_once("the options are ").unwrap().1.split(", ");
        for option in known {
            let name = option.split('=').next().unwrap();
            // (How its family is shipped is said otherwise, and not of a mount.)
            let of_one = ["root", "key-file", "passphrase-file", "allow_other"].contains(&name)
                || ["ship", "max-lag", "history", "local-size", "lease", "heartbeat"].contains(&name);
            assert_eq!(MountOptions::settings().any(|known| known == name), !of_one, "{name}");
        }
    }
}
