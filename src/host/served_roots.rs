//! The roots of the servers that run on this host.

use crate::root::Root;
use nix::unistd::geteuid;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The roots of the servers that this user has started, as these were told on their command lines. What processes of others say of
/// themselves is not believed.
pub(super) fn served_roots() -> Vec<Root> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_own = |dir: &PathBuf| dir.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw());
    let lines = processes.filter(is_own).filter_map(|dir| fs::read(dir.join("cmdline")).ok());
    let roots: BTreeSet<PathBuf> = lines.filter_map(|line| root_of(&line)).collect();
    roots.into_iter().map(Root::new).collect()
}

/// The root on the command line of a process, if it is that of a server or of its holder: see `server/daemon.rs`.
fn root_of(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|b| *b == 0);
    let is_larder = words.next()?.starts_with(b"larder");
    if !is_larder || words.next()? != b"--root" {
        return None;
    }
    let root = PathBuf::from(OsStr::from_bytes(words.next()?));
    (root.is_absolute() && words.any(|word| word == b"serve")).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_their_command_lines() {
        let root = |line: &str| root_of(line.replace(' ', "\0").as_bytes());
        assert_eq!(
            root("larder:v --root /srv/larder -v serve 12 --cache-size 1"),
            Some("/srv/larder".into())
        );
        for other in [
            "",
            "larder",
            "larder --root",
            "larder --root /srv/larder ls",
            "larder --root srv serve 12",
            "bash --root /srv/larder serve 12",
        ] {
            assert_eq!(root(other), None, "{other}");
        }
        // Kernel threads have none, and nobody else can be read at times.
        assert!(served_roots().iter().all(|root| root.path().is_absolute()));
    }
}
