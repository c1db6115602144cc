//! What a mount shows of snapshots: who looks at one, how, and for how long.

use crate::support::{Host, errno, run, shell, state};
use crate::takeover::lose_server;
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A directory in which a listing takes several requests, and others.
fn fill(dir: &Path) {
    shell(
        dir,
        "mkdir -p many d/deep; echo one > d/f1; echo two > d/f2; echo three > d/deep/f3; echo top > top",
    );
    shell(dir, "cd many; seq -f 'a-file-with-quite-a-long-name-%.0f' 3000 | xargs touch");
    fs::write(dir.join("big"), vec![7; 3 << 20]).unwrap();
}

#[test]
fn a_snapshot_that_is_seen_twice_stays_for_whoever_still_looks() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir);
    let before = state(&dir);
    host.ok(&["snapshot", "create", "v@a"]);
    let hidden = dir.join(".snapshots/a");
    // The mount of its own goes.
    assert_eq!(shell(&hidden, "ls d; cat top"), "deep\nf1\nf2\ntop\n");
    let mounted = host.mount("v@a", &[]);
    assert_eq!(fs::read_to_string(mounted.join("d/f1")).unwrap(), "one\n");
    host.umount("v@a");
    assert_eq!(state(&hidden), before);
    // The volume's goes.
    let dir = host.remount("v");
    let mounted = host.mount("v@a", &[]);
    assert_eq!(shell(&dir, "ls .snapshots/a/d/deep"), "f3\n");
    assert_eq!(fs::read_to_string(mounted.join("d/f1")).unwrap(), "one\n");
    host.umount("v");
    assert_eq!(state(&mounted), before);
    host.umount("v@a");
    host.check("v");
}

#[test]
fn a_removed_snapshot_is_stale_and_never_an_empty_directory() {
    for taken_over in [false, true] {
        let host = Host::new();
        let dir = host.volume("v", &[]);
        fill(&dir);
        host.ok(&["snapshot", "create", "v@a"]);
        let hidden = dir.join(".snapshots/a");
        let root = File::open(&hidden).unwrap();
        let sub = File::open(hidden.join("d")).unwrap();
        let big = File::open(hidden.join("big")).unwrap();
        let listing = Dir::open(&hidden.join("many"), OFlag::O_RDONLY, Mode::empty()).unwrap();
        let mut entries = listing.into_iter();
        assert!(entries.by_ref().take(10).all(|entry| entry.is_ok()));
        host.ok(&["snapshot", "rm", "v@a"]);
        if taken_over {
            lose_server(&host, "v");
        }
        let at = |file: &File, name: &str| format!("/proc/self/fd/{}/{name}", file.as_raw_fd());
        for (file, name) in [(&root, "top"), (&sub, "f1"), (&sub, "no such name")] {
            assert_eq!(errno(fs::symlink_metadata(at(file, name))), libc::ESTALE, "{name}");
        }
        assert_eq!(errno(File::open(at(&sub, "f2"))), libc::ESTALE);
        assert_eq!(errno(big.read_at(&mut [0; 10], 2 << 20)), libc::ESTALE);
        assert_eq!(
            errno(fs::read_dir(at(&sub, ".")).and_then(|mut list| list.next().unwrap())),
            libc::ESTALE
        );
        // A listing that had begun does not end as if it had come to its end.
        let end = entries.find_map(Result::err);
        assert_eq!(end, Some(nix::errno::Errno::ESTALE));
        // By name, it is not there.
        assert_eq!(errno(fs::symlink_metadata(&hidden)), libc::ENOENT);
        assert_eq!(fs::read_dir(dir.join(".snapshots")).unwrap().count(), 0);
        drop((root, sub, big, entries));
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn a_copy_of_a_snapshot_that_is_removed_meanwhile_fails() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir);
    host.ok(&["snapshot", "create", "v@a"]);
    let copy = host.dir("copy");
    let inside = format!(
        "ls d >/dev/null; {} --root {} snapshot rm v@a; cp -a . {}",
        crate::support::larder(),
        host.root().display(),
        copy.display()
    );
    let output = run(Command::new("bash").args(["-c", &inside]).current_dir(dir.join(".snapshots/a")));
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Stale file handle"), "{output:?}");
    host.umount("v");
}
