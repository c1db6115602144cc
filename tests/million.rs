//! A directory of a million files, and the memory of the server that holds it.

use crate::support::Host;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::{self, File};
use std::path::Path;

const FILES: usize = 1_000_000;
const THREADS: usize = 2;

/// The most memory the process ever had, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn name(i: usize) -> String {
    format!("file-{i:07}")
}

/// Does something with every number, on several threads.
fn for_all(each: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let each = &each;
            scope.spawn(move || (thread..FILES).step_by(THREADS).for_each(each));
        }
    });
}

fn list(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().len() == 12).count()
}

#[test]
fn a_million_files_are_made_listed_looked_up_and_removed() {
    const LIMIT_KIB: u64 = 300 << 10;
    let host = Host::new();
    let dir = host.volume("v", &[]).join("million");
    fs::create_dir(&dir).unwrap();
    let open = File::open(&dir).unwrap();
    for_all(|i| {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
        drop(openat(&open, name(i).as_str(), flags, Mode::from_bits_truncate(0o644)).unwrap());
    });
    assert_eq!(list(&dir), FILES);
    assert!(peak_kib(host.server("v")) < LIMIT_KIB, "{} KiB", peak_kib(host.server("v")));
    // With nothing remembered, by the kernel or the server.
    drop(open);
    host.remount("v");
    let open = File::open(&dir).unwrap();
    for_all(|i| {
        if i.is_multiple_of(50) {
            assert!(fs::symlink_metadata(dir.join(name(i))).unwrap().is_file());
            assert!(!dir.join(format!("{}x", name(i))).exists());
        }
    });
    assert_eq!(list(&dir), FILES);
    host.ok(&["check", "v"]);
    for_all(|i| unlinkat(&open, name(i).as_str(), UnlinkatFlags::NoRemoveDir).unwrap());
    assert_eq!(list(&dir), 0);
    fs::remove_dir(&dir).unwrap();
    drop(open);
    let peak = peak_kib(host.server("v"));
    assert!(peak < LIMIT_KIB, "{peak} KiB");
    host.umount("v");
    host.check("v");
}
