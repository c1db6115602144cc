//! `larder-generator`: tells systemd where the enabled instances of `larder@.service` mount their volumes, as systemd.generator(7)
//! has it.
//!
//! `RequiresMountsFor=` is about units of type mount, and a service that mounts is none: whoever names a directory on a volume would not
//! wait for it. So each enabled instance gets a mount unit, which waits for the service and then finds the volume mounted. It mounts
//! nothing itself: where the service has failed, so does the mount unit, and what needs it is not started.
//!
//! The service is only wanted, not required: a restart of it would otherwise be one of the mount as well, under the programs that use it. So
//! would the death of its main process. An order to end it is another thing: `ExecStop=` of the service stops the mount unit first, and with
//! that what needs the volume.
//!
//! Volumes that a line of fstab mounts have a mount unit already. It learns that container engines come after it: one with `nofail` is ordered
//! before nothing. One that waits for a service is left alone, as that may come after engines itself.
//!
//! Where `larder.toml` or a link has the root elsewhere, Larder's own units learn to wait for what is mounted there.

use super::guard::AtBoot;
use super::mount_helper::BY_UNIT;
use crate::host::configuration;
use crate::mount::{FstabLine, fstab_lines};
use crate::root::{check_name, default_root};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Where `larder@.service` mounts volumes.
const MOUNTS: &str = "/mnt/larder";
/// Where systemd looks for what is enabled, the first before the others.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// What starts containers.
const ENGINES: &str = "docker.service podman.service podman-restart.service";
/// Where lines are that mount something at boot.
const FSTAB: &str = "/etc/fstab";

/// How long a look at the root may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Larder's units that need what is in the root.
const USERS_OF_ROOT: [&str; 4] =
    ["larder@.service", "larder-plugin.service", "larder-scrub.service", "larder-trash.service"];

/// `larder-generator NORMAL EARLY LATE`
pub(super) fn main(args: &[OsString]) -> ExitCode {
    // The last one: a line of fstab, or a unit of the administrator's, comes before what is made here.
    let Some(dir) = args.get(3) else {
        eprintln!("larder-generator: systemd runs this, with three directories; see systemd.generator(7)");
        return ExitCode::FAILURE;
    };
    let root = match configuration() {
        Ok(config) => config.root().map_or_else(default_root, Path::to_owned),
        Err(e) => {
            eprintln!("larder-generator: {e}");
            default_root()
        }
    };
    let out = Path::new(dir);
    let done = generate(&UNITS.map(PathBuf::from), out);
    let ordered = order_fstab(&fs::read_to_string(FSTAB).unwrap_or_default(), out);
    match done.and(place_root(&default_root(), &root, out)).and(ordered) {
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

/// The volumes that are to be mounted before container engines start: by enabled instances, and by fstab.
pub(super) fn at_boot() -> Vec<AtBoot> {
    let instances = enabled(&UNITS.map(PathBuf::from)).into_keys().map(|volume| AtBoot {
        dir: Path::new(MOUNTS).join(&volume),
        unit: format!("larder@{volume}.service"),
        volume,
    });
    let fstab = fs::read_to_string(FSTAB).unwrap_or_default();
    let lines = fstab_lines(&fstab).filter(is_before_engines).map(|line| AtBoot {
        volume: line.source.to_string_lossy().into_owned(),
        unit: unit_name(&line.dir.to_string_lossy()),
        dir: line.dir,
    });
    instances.chain(lines).collect()
}

/// Orders the mount units of those lines of fstab that mount a volume at boot before container engines.
fn order_fstab(fstab: &str, out: &Path) -> io::Result<()> {
    let text = format!(
        "# Written by larder-generator, because {FSTAB} mounts a volume there.\n\n[Unit]\nBefore={ENGINES}\n"
    );
    // As with `generate`: one that cannot be written keeps none of the others from being there.
    let mut result = Ok(());
    for line in fstab_lines(fstab).filter(is_before_engines) {
        let Some(place) = line.dir.to_str().filter(|place| place.starts_with('/')) else { continue };
        let dir = out.join(format!("{}.d", unit_name(place)));
        let written = fs::create_dir_all(&dir);
        result = result.and(written.and_then(|()| fs::write(dir.join("50-larder-engines.conf"), &text)));
    }
    result
}

/// Whether a line of fstab mounts a volume that is there before container engines start. Whoever has said something of engines in it knows
/// better, and a service that it waits for may itself wait for engines.
fn is_before_engines(line: &FstabLine) -> bool {
    let named = |keys: &[&str], is_it: fn(&str) -> bool| {
        let settings = line.options.split(',').filter_map(|option| option.strip_prefix("x-systemd."));
        let mut settings = settings.filter_map(|setting| setting.split_once('='));
        settings.any(|(key, unit)| keys.contains(&key) && is_it(unit))
    };
    let is_of_engine =
        |unit: &str| ["docker.", "podman.", "podman-restart."].iter().any(|name| unit.starts_with(name));
    line.is_larder()
        && line.is_at_boot()
        && !named(&["before", "after", "requires", "wanted-by", "required-by"], is_of_engine)
        && !named(&["after", "requires"], |unit| unit.ends_with(".service"))
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

/// Lets Larder's units wait for what is mounted where the root is, if that is not where they look for it anyway.
fn place_root(usual: &Path, root: &Path, out: &Path) -> io::Result<()> {
    let mut places: Vec<PathBuf> = Vec::from_iter((root != usual).then(|| root.to_owned()));
    // As far as can be seen before anything is mounted. systemd follows no links.
    for link in [root.to_owned(), root.join("stores")] {
        places.extend(target_of(link));
    }
    let places: Vec<String> = places.iter().filter_map(|place| quoted(place)).collect();
    if places.is_empty() {
        return Ok(());
    }
    let text = format!(
        "# Written by larder-generator: what there is of Larder is not below {}.\n\n[Unit]\nRequiresMountsFor={}\n",
        usual.display(),
        places.join(" ")
    );
    for unit in USERS_OF_ROOT {
        let dir = out.join(format!("{unit}.d"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("50-larder-root.conf"), &text)?;
    }
    Ok(())
}

/// What a link leads to. systemd waits for this program: a disk that does not answer is no reason to do so.
fn target_of(link: PathBuf) -> Option<PathBuf> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let target = fs::read_link(&link).ok();
        send.send(target.map(|target| cleaned(&link.parent().unwrap_or(Path::new("/")).join(target))))
    });
    receive.recv_timeout(PATIENCE).ok()?
}

/// A path without `..`.
fn cleaned(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path
    })
}

/// A path as a word of a unit. systemd takes only such as are clean and text.
fn quoted(path: &Path) -> Option<String> {
    let text = path.to_str().filter(|text| text.starts_with('/') && !text.contains(char::is_control))?;
    if path.components().any(|part| part.as_os_str() == "..") {
        return None;
    }
    Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")))
}

/// The name of the mount unit of a directory, as `systemd-escape --path --suffix=mount` has it.
fn unit_name(dir: &str) -> String {
    let parts: Vec<&str> = dir.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() {
        return "-.mount".to_owned();
    }
    let mut name = String::new();
    for (at, byte) in parts.join("/").bytes().enumerate() {
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
Before={ENGINES} umount.target
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
            ("//srv//./db/", "srv-db.mount"),
            ("/a/.b/..c", "a-.b-..c.mount"),
            ("/", "-.mount"),
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
    fn units_wait_for_what_is_mounted_where_the_root_is() {
        let tmp = tempfile::tempdir().unwrap();
        let (usual, elsewhere) = (tmp.path().join("var"), tmp.path().join("a \"b\"%n"));
        let made = |root: &Path| {
            let out = tempfile::tempdir().unwrap();
            place_root(&usual, root, out.path()).unwrap();
            let drop_in =
                |unit: &&str| fs::read_to_string(out.path().join(format!("{unit}.d/50-larder-root.conf")));
            let texts: Vec<String> = USERS_OF_ROOT.iter().filter_map(|unit| drop_in(unit).ok()).collect();
            assert!(texts.is_empty() || texts.len() == USERS_OF_ROOT.len());
            texts.into_iter().next()
        };
        assert_eq!(made(&usual), None);
        fs::create_dir(&usual).unwrap();
        assert_eq!(made(&usual), None);
        let named = format!("\nRequiresMountsFor=\"{}/a \\\"b\\\"%%n\"\n", tmp.path().display());
        let text = made(&elsewhere).unwrap();
        assert!(text.ends_with(&named), "{text}");
        // Links that are there before anything is mounted.
        symlink("../../../../../../../../mnt/ssd/stores", usual.join("stores")).unwrap();
        assert!(made(&usual).unwrap().ends_with("\nRequiresMountsFor=\"/mnt/ssd/stores\"\n"));
        symlink("var", tmp.path().join("link")).unwrap();
        let text = made(&tmp.path().join("link")).unwrap();
        let all = ["link", "var"].map(|name| format!("\"{}\"", tmp.path().join(name).display()));
        assert!(
            text.ends_with(&format!("\nRequiresMountsFor={} \"/mnt/ssd/stores\"\n", all.join(" "))),
            "{text}"
        );
        // What systemd would refuse, or take for something else.
        assert_eq!(made(Path::new("/a/../b")), None);
        assert_eq!(made(Path::new("/a\nb")), None);
    }

    #[test]
    fn what_fstab_mounts_at_boot_comes_before_engines() {
        let out = tempfile::tempdir().unwrap();
        let fstab = "UUID=1 / ext4 defaults 0 1\ndb /srv/my-db larder nofail\na /a fuse.larder\nb /b larder noauto\nc /c larder x-systemd.automount\n\
                     d /d larder x-systemd.after=docker.service\ne e larder\nf /f larder nofail,x-systemd.requires=net.service\n\
                     g //srv//g/ larder root=/srv/docker-ssd,x-systemd.requires=/srv/docker,x-systemd.after=network-online.target\n\
                     h /h larder x-systemd.before=podman-restart.service\ni /i larder x-systemd.before=other.service\n";
        // One that cannot be written keeps none of the others from being there.
        fs::write(out.path().join("srv-my\\x2ddb.mount.d"), "").unwrap();
        assert!(order_fstab(fstab, out.path()).is_err());
        fs::remove_file(out.path().join("srv-my\\x2ddb.mount.d")).unwrap();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 3);
        order_fstab(fstab, out.path()).unwrap();
        let mut made: Vec<_> =
            fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        made.sort();
        assert_eq!(made, ["a.mount.d", "i.mount.d", "srv-g.mount.d", "srv-my\\x2ddb.mount.d"]);
        let text = fs::read_to_string(out.path().join("a.mount.d/50-larder-engines.conf")).unwrap();
        assert!(text.contains("\n[Unit]\nBefore=docker.service "), "{text}");
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
