//! Where on this host a volume is named: by containers, also those that are stopped, and by what mounts volumes at boot.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An engine that does not answer in this time is not asked any more.
const PATIENCE: Duration = Duration::from_secs(3);
/// Nobody reads more.
const BYTES_MAX: u64 = 64 << 10;
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
    lines.extend(mountpoints_in(&fstab, volume).map(|dir| format!("/etc/fstab, on {dir}")));
    if is_enabled(Path::new("/etc/systemd/system"), volume) {
        lines.push(format!("larder@{volume}.service, which is enabled"));
    }
    lines
}

/// The containers that an engine of this host knows with the volume.
fn containers(program: &str, volume: &str) -> Vec<String> {
    let filter = format!("volume={volume}");
    lines_of(program, &["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]).unwrap_or_default()
}

/// The containers that Podman knows with the volume.
pub(super) fn containers_of_podman(volume: &str) -> Vec<String> {
    containers("podman", volume)
}

/// The volumes that containers of Podman have, those that do not run too; none if it does not say so.
pub(super) fn used_by_podman() -> Option<Vec<String>> {
    lines_of("podman", &["volume", "ls", "--filter", "dangling=false", "--format", "{{.Name}}"])
}

/// The lines that a program prints; none if it fails, or takes too long.
fn lines_of(program: &str, args: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new(program);
    let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.ok()?;
    let reader = child.stdout.take().map(|out| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = out.take(BYTES_MAX).read_to_string(&mut text);
            text
        })
    });
    let until = Instant::now() + PATIENCE;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    // What it has started may keep the pipe open for longer than it lives.
    let text = reader.filter(|_| ended).and_then(|reader| reader.join().ok())?;
    Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Where lines of fstab(5) mount the volume, or one of its snapshots.
pub(super) fn mountpoints_in<'a>(fstab: &'a str, volume: &str) -> impl Iterator<Item = &'a str> {
    let lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let (source, dir, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = source.split('@').next() == Some(volume);
        (is_it && matches!(kind, "larder" | "fuse.larder")).then_some(dir)
    })
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

    #[test]
    fn lines_of_fstab_that_mount_a_volume_are_found() {
        let fstab = "# db /old larder\n\nUUID=1 / ext4 defaults 0 1\ndb\t/mnt/db larder noatime,_netdev 0 0\ndb@one /mnt/one \
                     fuse.larder ro\ndb2 /mnt/db2 larder\ndb /mnt/ext ext4\nbroken\n";
        assert_eq!(mountpoints_in(fstab, "db").collect::<Vec<_>>(), ["/mnt/db", "/mnt/one"]);
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
