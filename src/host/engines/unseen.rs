//! Whether a directory in which nothing is seen may have its contents on a disk that is not mounted.

use crate::mount;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why there may be something in a directory of an engine's in which nothing of it is seen, on the host whose files are below `host`, and
/// what to do about it; none if nothing says so. Nobody need have named the directory.
pub(super) fn why_unseen(host: &Path, path: &Path) -> Option<(String, &'static str)> {
    if let Some(link) = link_to_nothing(path) {
        let to = fs::read_link(link).unwrap_or_default();
        let what = format!("{} is a link to {}", link.display(), to.display());
        return Some((what, "mount the disk that it leads to; if there is none any more, remove the link"));
    }
    let mounted = mount::entries_of(Path::new("/proc/self")).unwrap_or_default();
    let dir = wanted_mounts(host, path).into_iter().find(|dir| {
        let real = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        !mounted.iter().any(|entry| entry.dir == real)
    })?;
    let what = format!("nothing is mounted on {}, where fstab or a unit mounts a disk", dir.display());
    Some((what, "mount it; if there is none any more, remove that line, or unit"))
}

/// The link on the way to a directory that leads nowhere, or to where nothing is; or that of the engine's own directory, wherever it leads.
fn link_to_nothing(path: &Path) -> Option<&Path> {
    // `/var/lib` may be a link of the host's, which says nothing of an engine.
    let own = match path.parent() {
        Some(parent) if parent.file_name().is_some_and(|name| name == "containers") => parent,
        _ => path,
    };
    let mut on_the_way: Vec<&Path> = path.ancestors().collect();
    on_the_way.reverse();
    for at in on_the_way {
        let is_link = at.symlink_metadata().ok()?.is_symlink();
        if is_link && (at.starts_with(own) || has_nothing(at)) {
            return Some(at);
        }
    }
    None
}

fn has_nothing(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// The directories on the way to one that fstab(5) or units of systemd mount something on.
fn wanted_mounts(host: &Path, path: &Path) -> Vec<PathBuf> {
    let fstab = fs::read_to_string(host.join("etc/fstab")).unwrap_or_default();
    let named: Vec<PathBuf> = mount::fstab_lines(&fstab).map(|line| line.dir).collect();
    let units = ["etc", "run", "usr/lib", "lib"].map(|dir| host.join(dir).join("systemd/system"));
    let is_wanted = |dir: &&Path| {
        let Some(below) = dir.strip_prefix(host).ok().filter(|below| !below.as_os_str().is_empty()) else {
            return false;
        };
        let unit = below.to_string_lossy().replace('-', "\\x2d").replace('/', "-") + ".mount";
        named.iter().any(|named| named.strip_prefix("/").unwrap_or(named) == below)
            || units.iter().any(|units| units.join(&unit).is_file())
    };
    path.ancestors().filter(is_wanted).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// It counted as never installed.
    #[test]
    fn what_a_link_leads_to_that_is_not_there_may_be_on_a_disk() {
        let tmp = tempfile::tempdir().unwrap();
        let host = tmp.path();
        fs::create_dir_all(host.join("var/lib")).unwrap();
        fs::create_dir(host.join("mnt")).unwrap();
        let docker = host.join("var/lib/docker");
        assert_eq!(why_unseen(host, &docker), None, "never installed");
        symlink(host.join("mnt/docker"), &docker).unwrap();
        let (what, advice) = why_unseen(host, &docker).unwrap();
        assert!(what.contains("var/lib/docker is a link to") && what.ends_with("mnt/docker"), "{what}");
        assert!(advice.contains("mount"), "{advice}");
        // Where the disk would be mounted.
        fs::create_dir(host.join("mnt/docker")).unwrap();
        assert!(why_unseen(host, &docker).is_some());

        // One of a parent, too.
        let podman = host.join("var/lib/containers/storage");
        assert_eq!(why_unseen(host, &podman), None);
        symlink("../../mnt/podman", host.join("var/lib/containers")).unwrap();
        assert!(why_unseen(host, &podman).unwrap().0.contains("var/lib/containers is a link"));
        fs::create_dir_all(host.join("mnt/podman/storage/tmp")).unwrap();
        assert!(why_unseen(host, &podman).is_some(), "its link says that it is elsewhere");

        // `/var` is elsewhere on some hosts, and that says nothing as long as something is there.
        let other = tempfile::tempdir().unwrap();
        symlink(host.join("var"), other.path().join("var")).unwrap();
        assert_eq!(why_unseen(other.path(), &other.path().join("var/lib/none")), None);
        fs::remove_file(other.path().join("var")).unwrap();
        symlink("/nonexistent/var", other.path().join("var")).unwrap();
        assert!(why_unseen(other.path(), &other.path().join("var/lib/none")).is_some());
    }

    #[test]
    fn what_is_to_be_mounted_and_is_not_may_be_where_containers_are() {
        let tmp = tempfile::tempdir().unwrap();
        let host = tmp.path();
        let docker = host.join("var/lib/docker");
        fs::create_dir_all(&docker).unwrap();
        fs::create_dir_all(host.join("etc/systemd/system")).unwrap();
        let fstab = |text: &str| fs::write(host.join("etc/fstab"), text).unwrap();
        fstab(
            "# /dev/sdb1 /var/lib/docker ext4\nUUID=1 / ext4\n/dev/sdb2 none swap\n/dev/sdb3 /var/lib/doc ext4\n",
        );
        assert_eq!(why_unseen(host, &docker), None);
        fstab("/dev/sdb1\t/var/lib/docker\text4 nofail 0 2\n");
        assert!(why_unseen(host, &docker).unwrap().0.contains("nothing is mounted on"));
        fstab("/dev/sdb1 /var ext4\n");
        assert!(why_unseen(host, &docker).is_some());
        fstab("");
        fs::write(host.join("etc/systemd/system/var-lib-docker.mount"), "[Mount]\n").unwrap();
        assert!(why_unseen(host, &docker).is_some());
        fs::remove_file(host.join("etc/systemd/system/var-lib-docker.mount")).unwrap();
        assert_eq!(why_unseen(host, &docker), None);
        // What is mounted is seen: `/proc` is, on every host.
        assert!(wanted_mounts(Path::new("/"), Path::new("/proc/none")).len() < 2);
        assert_eq!(why_unseen(Path::new("/"), Path::new("/proc/none")), None);
    }
}
