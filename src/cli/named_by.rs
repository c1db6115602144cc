//! Where on this host a volume is named: by containers, also those that are stopped, and by what mounts volumes at boot.

use crate::host::{Asking, Restarting};
use crate::mount::{FstabLine, fstab_lines};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// An engine that does not answer in this time is not asked any more, unless what it does not say is removed.
const PATIENCE: Duration = Duration::from_secs(3);
/// Nobody reads more. What is longer is no answer: volumes that are not in it any more would count as nobody's.
const BYTES_MAX: u64 = 32 << 20;
/// With these, Podman speaks for another host, or another user.
const ELSEWHERE: [&str; 2] = ["CONTAINER_HOST", "CONTAINER_CONNECTION"];
const ENGINES: [(&str, &str); 2] = [("docker", "Docker"), ("podman", "Podman")];

/// What names a volume, a line each.
pub(super) fn named_by(volume: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (program, engine) in ENGINES {
        let containers = containers(program, volume);
        if !containers.is_empty() {
            lines.push(format!("containers of {engine}: {}", containers.join(", ")));
        }
    }
    lines.extend(mounted_by(volume));
    lines
}

/// What of this host mounts a volume at boot, each with the directory or the state that says how.
pub(super) fn mounted_by(volume: &str) -> Vec<String> {
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    let dirs = mountpoints_in(&fstab, volume);
    let mut found: Vec<String> = dirs.map(|dir| format!("/etc/fstab, on {}", dir.display())).collect();
    if is_enabled(Path::new("/etc/systemd/system"), volume) {
        found.push(format!("larder@{volume}.service, which is enabled"));
    }
    found
}

/// The containers that an engine of this host knows with the volume.
fn containers(program: &str, volume: &str) -> Vec<String> {
    let filter = format!("volume={volume}");
    lines_of(program, &["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"], PATIENCE)
        .unwrap_or_default()
}

/// The containers that Podman knows with the volume.
pub(super) fn containers_of_podman(volume: &str) -> Vec<String> {
    containers("podman", volume)
}

/// The volumes that containers of Podman have, those that do not run too.
///
/// # Errors
/// Why it does not say so, and what to do about that.
pub(super) fn used_by_podman(asking: Asking) -> Result<Vec<String>, String> {
    let patience = asking.patience().max(PATIENCE);
    let said = |args: &[&str]| {
        lines_of("podman", args, patience).map_err(|why| match why {
            Silence::Absent => "there are containers in the storage of Podman, but no `podman` to ask which volumes they have (install it; CRI-O and Buildah keep \
                 their containers there, too, but these do not use volumes of the driver)"
                .to_owned(),
            Silence::Failed => {
                let command = args.join(" ");
                format!("`podman {command}` does not say which volumes its containers have (run it to see why, and fix that)")
            }
        })
    };
    if is_elsewhere(&said(&["info", "--format", "json"])?.join("\n")) {
        return Err("`podman` is set up to talk to another host, and so does not say which volumes containers on this one have (set `remote = false` \
             below `[engine]` in containers.conf)"
            .to_owned());
    }
    said(&["volume", "ls", "--filter", "dangling=false", "--format", "{{.Name}}"])
}

/// The containers that `podman-restart.service` starts, and the directories of the host that they have.
///
/// # Errors
/// Why that is not known, and what to do about it.
pub(super) fn restarting_of_podman() -> Result<Vec<Restarting>, String> {
    let until = Instant::now() + Asking::Patiently.patience();
    let unknown =
        |why: &str| format!("it is not known which containers podman-restart.service starts: {why}");
    let said = |program: &str, args: &[&str]| {
        // A container that is removed meanwhile is no reason to know nothing of the others.
        match text_of(program, args, until.saturating_duration_since(Instant::now())) {
            Ok((text, is_success)) if is_success || !text.is_empty() => Ok(text),
            _ => {
                let command = [program].iter().chain(args).take(3).copied().collect::<Vec<_>>().join(" ");
                Err(unknown(&format!("`{command}` does not say it (run it to see why, and fix that)")))
            }
        }
    };
    let filters = filters_of(&said("systemctl", &["cat", "podman-restart.service"])?);
    if filters.is_empty() {
        return Err(unknown("its ExecStart= is not `podman start` with `--filter`"));
    }
    if is_elsewhere(&said("podman", &["info", "--format", "json"])?) {
        return Err(unknown("`podman` speaks for another host (`remote = true` in containers.conf)"));
    }
    let mut args = vec!["ps", "--all", "--quiet", "--no-trunc"];
    args.extend(filters.iter().map(String::as_str));
    let ids = said("podman", &args)?;
    if ids.trim().is_empty() {
        return Ok(Vec::new());
    }
    let inspect = |kind: &str, names: &[&str]| {
        let mut args = vec![kind, "inspect"];
        args.extend(names);
        let text = said("podman", &args)?;
        let cannot = |e: serde_json::Error| {
            unknown(&format!("what `podman {kind} inspect` says is not understood: {e}"))
        };
        serde_json::from_str::<Vec<Value>>(&text).map_err(cannot)
    };
    let containers = inspect("container", &ids.split_whitespace().collect::<Vec<_>>())?;
    let names: Vec<&str> = containers.iter().flat_map(mounts_of).filter_map(local_volume).collect();
    let volumes = if names.is_empty() { Vec::new() } else { inspect("volume", &names)? };
    Ok(restarting_in(&containers, &volumes))
}

/// With what a unit selects the containers that it starts, as `podman ps` takes it; nothing if it does something else.
fn filters_of(unit: &str) -> Vec<String> {
    let lines: Vec<&str> =
        unit.lines().map(str::trim).filter(|line| line.starts_with("ExecStart=")).collect();
    // An empty one takes back those before it.
    let Some([line]) = lines.rsplit(|line| *line == "ExecStart=").next() else { return Vec::new() };
    let mut words = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    let mut filters = Vec::new();
    while let Some(word) = words.next() {
        let filter =
            if matches!(word, "--filter" | "-f") { words.next() } else { word.strip_prefix("--filter=") };
        filters.extend(filter.map(|filter| format!("--filter={filter}")));
    }
    filters
}

/// What a container has, of what `podman container inspect` prints.
fn mounts_of(container: &Value) -> impl Iterator<Item = &Value> {
    container["Mounts"].as_array().into_iter().flatten()
}

/// The volume of Podman's own driver that a mount of a container is, if it is one.
fn local_volume(mount: &Value) -> Option<&str> {
    mount["Name"].as_str().filter(|_| mount["Type"] == "volume" && mount["Driver"] == "local")
}

/// What containers and volumes are to a guard, of what Podman prints of each.
fn restarting_in(containers: &[Value], volumes: &[Value]) -> Vec<Restarting> {
    // A volume may be a bind as well.
    let device = |of: &Value| {
        let options = &of["Options"];
        let is_bind = |text: &str| text.split(',').any(|option| matches!(option, "bind" | "rbind"));
        let device = options["device"].as_str().filter(|_| options["o"].as_str().is_some_and(is_bind));
        Some((of["Name"].as_str()?.to_owned(), PathBuf::from(device?)))
    };
    let devices: BTreeMap<String, PathBuf> = volumes.iter().filter_map(device).collect();
    let dir = |mount: &Value| {
        let device = local_volume(mount).and_then(|name| devices.get(name).cloned());
        device.or_else(|| mount["Source"].as_str().map(PathBuf::from))
    };
    let restarting = |of: &Value| Restarting {
        name: of["Name"].as_str().unwrap_or_default().to_owned(),
        binds: mounts_of(of).filter_map(dir).collect(),
    };
    // (What runs is not started.)
    containers.iter().filter(|of| of["State"]["Running"] != true).map(restarting).collect()
}

/// Whether Podman asks a service, of this host or another, for what it says. Versions that do not say it ask none without being told to on
/// their command line, or by a variable.
fn is_elsewhere(info: &str) -> bool {
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    !info.is_object() || info["host"]["serviceIsRemote"] == true
}

/// Why a program has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// There is none.
    Absent,
    /// It failed, said too much, or took too long.
    Failed,
}

/// The lines that a program prints of this host; none if it fails, or takes too long.
fn lines_of(program: &str, args: &[&str], patience: Duration) -> Result<Vec<String>, Silence> {
    match text_of(program, args, patience)? {
        (text, true) => {
            Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
        }
        (_, false) => Err(Silence::Failed),
    }
}

/// What a program prints of this host before it ends, and whether it ends well.
fn text_of(program: &str, args: &[&str], patience: Duration) -> Result<(String, bool), Silence> {
    let mut command = Command::new(program);
    ELSEWHERE.iter().for_each(|variable| {
        command.env_remove(variable);
    });
    let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let is_absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let mut child = child.map_err(|e| if is_absent(&e) { Silence::Absent } else { Silence::Failed })?;
    let out = child.stdout.take().ok_or(Silence::Failed)?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = out.take(BYTES_MAX).read_to_string(&mut text);
        let is_whole = read.is_ok_and(|length| (length as u64) < BYTES_MAX);
        let _ = send.send(is_whole.then_some(text));
    });
    let until = Instant::now() + patience;
    // What it has started may keep the pipe open for longer than it lives.
    let text = receive.recv_timeout(patience).ok().flatten();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status.success()),
            Ok(None) if text.is_some() && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    text.zip(ended).ok_or(Silence::Failed)
}

/// Where lines of fstab(5) mount the volume, or one of its snapshots.
pub(super) fn mountpoints_in(fstab: &str, volume: &str) -> impl Iterator<Item = PathBuf> {
    let is_it = move |line: &FstabLine| {
        let name = line.source.to_str().and_then(|source| source.split('@').next());
        name == Some(volume) && line.is_larder()
    };
    fstab_lines(fstab).filter(is_it).map(|line| line.dir)
}

/// Whether something at boot wants the unit of the volume.
pub(super) fn is_enabled(units: &Path, volume: &str) -> bool {
    let unit = format!("larder@{volume}.service");
    fs::read_dir(units).into_iter().flatten().flatten().any(|dir| {
        let name = dir.file_name();
        let wants = name.to_str().is_some_and(|name| name.ends_with(".wants") || name.ends_with(".requires"));
        wants && dir.path().join(&unit).symlink_metadata().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Its pipe was read to its end, however long that took.
    #[test]
    fn a_program_that_leaves_others_behind_or_says_too_much_has_no_answer() {
        let of = |script: &str| lines_of("sh", &["-c", script], Duration::from_secs(2)).ok();
        assert_eq!(of("echo a; echo ' b '; echo"), Some(vec!["a".to_owned(), "b".to_owned()]));
        let begun = Instant::now();
        assert_eq!(of("sleep 20 & echo a"), None);
        assert_eq!(of("echo a; exec sleep 20"), None);
        assert_eq!(of("echo a; exit 1"), None);
        let text = text_of("sh", &["-c", "echo a; exit 1"], PATIENCE);
        assert_eq!(text, Ok(("a\n".to_owned(), false)));
        assert_eq!(of("yes | head -c 40000000"), None);
        assert_eq!(lines_of("no-such-program", &[], PATIENCE), Err(Silence::Absent));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    /// What it said counted as what is so here.
    #[test]
    fn podman_that_speaks_for_another_host_is_not_believed() {
        for (info, is_here) in [
            (r#"{"host": {"serviceIsRemote": false}}"#, true),
            ("{\n  \"host\": {}\n}", true),
            (r#"{"host": {"serviceIsRemote": true}}"#, false),
            ("", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_elsewhere(info), !is_here, "{info}");
        }
        let script = "echo \"${CONTAINER_HOST-none} ${CONTAINER_CONNECTION-none}\"";
        // Whatever this process was started with.
        let said = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::named_by::tests::what_programs_see", "--include-ignored", "--nocapture"])
            .envs(ELSEWHERE.map(|name| (name, "ssh://elsewhere")))
            .env("LARDER_TEST_SCRIPT", script)
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("seen: none none"), "{said:?}");
    }

    #[test]
    fn what_containers_of_podman_bind_is_found_also_where_a_volume_does() {
        let containers = json!([
            { "Name": "a", "Mounts": [{ "Type": "bind", "Source": "/mnt/a" }, { "Type": "tmpfs" }] },
            { "Name": "b", "Mounts": [
                { "Type": "volume", "Driver": "local", "Name": "bound", "Source": "/storage/bound" },
                { "Type": "volume", "Driver": "local", "Name": "own", "Source": "/storage/own" },
                { "Type": "volume", "Driver": "larder", "Name": "ours", "Source": "/mnt/ours" }] },
            { "Name": "c", "State": { "Running": true }, "Mounts": [{ "Type": "bind", "Source": "/mnt/c" }] },
            {}
        ]);
        let volumes = json!([
            { "Name": "bound", "Options": { "type": "none", "o": "ro,bind", "device": "/mnt/b" } },
            { "Name": "own", "Options": { "o": "uid=1" } },
            { "Name": "ours", "Options": { "o": "bind", "device": "/no" } }, {}
        ]);
        let of = |name: &str, binds: &[&str]| Restarting {
            name: name.to_owned(),
            binds: binds.iter().map(PathBuf::from).collect(),
        };
        let found = restarting_in(containers.as_array().unwrap(), volumes.as_array().unwrap());
        let wanted = [of("a", &["/mnt/a"]), of("b", &["/mnt/b", "/storage/own", "/mnt/ours"]), of("", &[])];
        assert_eq!(found, wanted);
    }

    /// What is started differs between versions of Podman.
    #[test]
    fn what_a_unit_starts_is_what_it_says() {
        let of = |start: &str| {
            filters_of(&format!("# --filter no\n[Service]\n{start}\nExecStop=podman stop --filter no\n"))
        };
        let podman = "ExecStart=/usr/bin/podman $LOGGING start --all";
        assert_eq!(
            of(&format!("{podman} --filter restart-policy=always")),
            ["--filter=restart-policy=always"]
        );
        let both = format!("ExecStart=a --filter b\nExecStart=\n{podman} -f a=b '--filter=c=d'");
        assert_eq!(of(&both), ["--filter=a=b", "--filter=c=d"]);
        assert_eq!(of(podman), [""; 0]);
        assert_eq!(of(&format!("{podman} --filter a\n{podman} --filter b")), [""; 0], "either");
        assert_eq!(of(""), [""; 0]);
    }

    /// For the test above, which gives it an environment of its own.
    #[test]
    fn what_programs_see() {
        let Ok(script) = std::env::var("LARDER_TEST_SCRIPT") else { return };
        println!("seen: {}", lines_of("sh", &["-c", &script], PATIENCE).unwrap()[0]);
    }

    #[test]
    fn lines_of_fstab_that_mount_a_volume_are_found() {
        let fstab = "# db /old larder\n\nUUID=1 / ext4 defaults 0 1\ndb\t/mnt/db larder noatime,_netdev 0 0\ndb@one /mnt/one \
                     fuse.larder ro\ndb2 /mnt/db2 larder\ndb /mnt/ext ext4\nbroken\n";
        assert_eq!(
            mountpoints_in(fstab, "db").collect::<Vec<_>>(),
            ["/mnt/db", "/mnt/one"].map(PathBuf::from)
        );
        assert_eq!(mountpoints_in(fstab, "d").count(), 0);
    }

    #[test]
    fn an_enabled_unit_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let wants = tmp.path().join("multi-user.target.wants");
        fs::create_dir(&wants).unwrap();
        std::os::unix::fs::symlink("/nowhere", wants.join("larder@db.service")).unwrap();
        assert!(is_enabled(tmp.path(), "db") && !is_enabled(tmp.path(), "d"));
        assert!(!is_enabled(&tmp.path().join("none"), "db"));
    }
}
