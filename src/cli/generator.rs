//! `larder-generator`: tells systemd where the enabled instances of `larder@.service` mount their volumes, as systemd.generator(7)
//! has it.
//!
//! `RequiresMountsFor=` is about units of type mount, and a service that mounts is none: whoever names a directory on a volume would not
//! wait for it. So each enabled instance gets a mount unit, which waits for the service and then finds the volume mounted. It mounts
//! nothing itself: where the service has failed, so does the mount unit, and what needs it is not started.
//!
//! The service is only wanted, not required: a restart of it would otherwise be one of the mount as well, under the programs that use it.
//! An order to end it is passed on, so that what needs the volume ends before it is taken away.

use super::mount_helper::BY_UNIT;
use crate::root::check_name;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where `larder@.service` mounts volumes.
const MOUNTS: &str = "/mnt/larder";
/// Where systemd looks for what is enabled, the first before the others.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// `larder-generator NORMAL EARLY LATE`
pub(super) fn main(args: &[OsString]) -> ExitCode {
    // The last one: a line of fstab, or a unit of the administrator's, comes before what is made here.
    let Some(dir) = args.get(3) else {
        eprintln!("larder-generator: systemd runs this, with three directories; see systemd.generator(7)");
        return ExitCode::FAILURE;
    };
    match generate(&UNITS.map(PathBuf::from), Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("larder-generator: {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes the mount units of all that is enabled below `units` into `out`.
fn generate(units: &[PathBuf], out: &Path) -> io::Result<()> {
    // One that cannot be written keeps none of the others from being there.
    let mut result = Ok(());
    for (name, link) in enabled(units) {
        let path = out.join(unit_name(&format!("{MOUNTS}/{name}")));
        let written = OpenOptions::new().write(true).create_new(true).open(path);
        let written = written.and_then(|mut file| file.write_all(unit(&name, &link).as_bytes()));
        result = result.and(written);
    }
    result
}

/// The names of the volumes whose instances something wants or requires, and the link that says so. What cannot be read is nothing.
fn enabled(units: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for dir in units.iter().flat_map(|dir| entries(dir)) {
        let kind = dir.file_name();
        if !kind.to_str().is_some_and(|kind| kind.ends_with(".wants") || kind.ends_with(".requires")) {
            continue;
        }
        for link in entries(&dir.path()) {
            let file = link.file_name();
            let instance =
                file.to_str().and_then(|file| file.strip_prefix("larder@")?.strip_suffix(".service"));
            if let Some(name) = instance.filter(|name| check_name(name).is_ok()) {
                found.entry(name.to_owned()).or_insert_with(|| link.path());
            }
        }
    }
    found
}

/// The name of the mount unit of a directory, as `systemd-escape --path --suffix=mount` has it.
fn unit_name(dir: &str) -> String {
    let mut name = String::new();
    for (at, byte) in dir.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at > 0 => name.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b':' => name.push(char::from(byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name + ".mount"
}

fn unit(name: &str, link: &Path) -> String {
    let link = link.display();
    format!(
        "# Written by larder-generator, because larder@{name}.service is enabled: RequiresMountsFor={MOUNTS}/{name} waits for it.

[Unit]
Description=Larder volume {name}, mounted by larder@{name}.service
Documentation=man:larder-mount(1)
SourcePath={link}
DefaultDependencies=no
Wants=larder@{name}.service
After=larder@{name}.service
StopPropagatedFrom=larder@{name}.service
Before=docker.service podman.service umount.target
Conflicts=umount.target

[Mount]
What={name}
Where={MOUNTS}/{name}
Type=fuse.larder
Options={BY_UNIT}
TimeoutSec=120
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_have_the_units_that_systemd_looks_for() {
        // What systemd-escape says.
        for (dir, unit) in [
            ("/mnt/larder/db", "mnt-larder-db.mount"),
            ("/mnt/larder/my-db", "mnt-larder-my\\x2ddb.mount"),
            ("/mnt/larder/a_b.c", "mnt-larder-a_b.c.mount"),
            ("/.x", "\\x2ex.mount"),
        ] {
            assert_eq!(unit_name(dir), unit);
        }
    }

    #[test]
    fn a_name_that_is_too_long_for_a_unit_keeps_no_other_from_having_one() {
        let tmp = tempfile::tempdir().unwrap();
        let (wants, out) = (tmp.path().join("units/multi-user.target.wants"), tmp.path().join("out"));
        std::fs::create_dir_all(&wants).unwrap();
        std::fs::create_dir(&out).unwrap();
        let long = format!("a{}", "-".repeat(100));
        for name in [long.as_str(), "b"] {
            let link = wants.join(format!("larder@{name}.service"));
            std::os::unix::fs::symlink("/x", link).unwrap();
        }
        assert!(generate(&[tmp.path().join("units")], &out).is_err());
        assert!(out.join(unit_name(&format!("{MOUNTS}/b"))).exists());
    }

    #[test]
    fn what_is_enabled_gets_a_unit_and_nothing_else_does() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = |path: &str| {
            let path = tmp.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (etc, lib, out) = (dir("etc"), dir("lib"), dir("out"));
        let enable = |dir: &Path, unit: &str| symlink("/x/larder@.service", dir.join(unit)).unwrap();
        let wants = dir("etc/multi-user.target.wants");
        for unit in ["larder@my-db.service", "larder@a..b\\x2f.service", "larder@.service", "larder@x.socket"]
        {
            enable(&wants, unit);
        }
        enable(&dir("lib/docker.service.requires"), "larder@other.service");
        // The same one again, and one that nothing wants.
        enable(&dir("lib/multi-user.target.wants"), "larder@my-db.service");
        enable(&etc, "larder@alias.service");
        generate(&[etc, lib, tmp.path().join("missing")], &out).unwrap();
        let mut made: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        made.sort();
        assert_eq!(made, ["mnt-larder-my\\x2ddb.mount", "mnt-larder-other.mount"]);
        let unit = fs::read_to_string(out.join(&made[0])).unwrap();
        let source = format!("\nSourcePath={}/larder@my-db.service\n", wants.display());
        assert!(unit.contains(&source) && unit.contains("\nWhere=/mnt/larder/my-db\n"), "{unit}");
    }
}
