//! Where on this host a volume is named: by containers, also those that are stopped, and by what mounts volumes at boot.

use crate::host::{Asking, Restarting};
use crate::mount::{FstabLine, fstab_lines};
use serde_json::Value;
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
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    lines.extend(mountpoints_in(&fstab, volume).map(|dir| format!("/etc/fstab, on {}", dir.display())));
    if is_enabled(Path::new("/etc/systemd/system"), volume) {
        lines.push(format!("larder@{volume}.service, which is enabled"));
    }
    lines
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
            Silence::Absent => "containers are in the storage of Podman, and there is no `podman` that says which volumes they have (install \
                 it; those of CRI-O and Buildah, which have theirs there, too, need none of the driver's)"
                .to_owned(),
            Silence::Failed => {
                let command = args.join(" ");
                format!("`podman {command}` does not say which volumes its containers have (run it to see why, and fix that)")
            }
        })
    };
    if is_elsewhere(&said(&["info", "--format", "json"])?.join("\n")) {
        return Err("`podman` does not speak for this host, so that it does not say which volumes its containers here have (set `remote = false` \
             below `[engine]` in containers.conf)"
            .to_owned());
    }
    said(&["volume", "ls", "--filter", "dangling=false", "--format", "{{.Name}}"])
}

/// The containers of Podman that are started at boot, and the directories of the host that they have; none if it does not say so.
pub(super) fn restarting_of_podman() -> Vec<Restarting> {
    let said = |args: &[&str]| lines_of("podman", args, Asking::Patiently.patience()).unwrap_or_default();
    let ids = said(&["ps", "--all", "--quiet", "--no-trunc"]);
    if ids.is_empty() {
        return Vec::new();
    }
    let mut args = vec!["container", "inspect"];
    args.extend(ids.iter().map(String::as_str));
    restarting_in(&said(&args).join("\n"))
}

/// Those of what `podman container inspect` prints.
fn restarting_in(inspected: &str) -> Vec<Restarting> {
    let all: Vec<Value> = serde_json::from_str(inspected).unwrap_or_default();
    let policy = |of: &Value| of["HostConfig"]["RestartPolicy"]["Name"].as_str().map(str::to_owned);
    let restarts = |of: &Value| matches!(policy(of).as_deref(), Some("always" | "unless-stopped"));
    let found = all.iter().filter(|of| restarts(of)).map(|of| Restarting {
        name: of["Name"].as_str().unwrap_or_default().to_owned(),
        binds: of["Mounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|mount| mount["Source"].as_str().map(PathBuf::from))
            .collect(),
    });
    found.collect()
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
            Ok(Some(status)) => break status.success(),
            Ok(None) if text.is_some() && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    let text = text.filter(|_| ended).ok_or(Silence::Failed)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
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

    /// Its pipe was read to its end, however long that took.
    #[test]
    fn a_program_that_leaves_others_behind_or_says_too_much_has_no_answer() {
        let of = |script: &str| lines_of("sh", &["-c", script], Duration::from_secs(2)).ok();
        assert_eq!(of("echo a; echo ' b '; echo"), Some(vec!["a".to_owned(), "b".to_owned()]));
        let begun = Instant::now();
        assert_eq!(of("sleep 20 & echo a"), None);
        assert_eq!(of("echo a; exec sleep 20"), None);
        assert_eq!(of("echo a; exit 1"), None);
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
    fn containers_that_podman_starts_at_boot_are_found() {
        let inspected = r#"[{"Name": "a", "Mounts": [{"Type": "bind", "Source": "/mnt/a"}, {"Type": "tmpfs"}],
              "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}},
             {"Name": "b", "Mounts": [{"Source": "/mnt/b"}], "HostConfig": {"RestartPolicy": {"Name": "on-failure"}}},
             {"Name": "c", "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}}, {}]"#;
        let of = |name: &str, binds: &[&str]| Restarting {
            name: name.to_owned(),
            binds: binds.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(restarting_in(inspected), [of("a", &["/mnt/a"]), of("c", &[])]);
        assert_eq!(restarting_in("nonsense"), []);
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
