//! Volumes of which only a part stays on the disk here (`local-size`).

use super::life::Way;
use super::mounted::{remote, url};
use crate::bad_input::SmallDisk;
use crate::support::{Host, pattern, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const USAGE: i32 = 2;
const M: u64 = 1 << 20;
const FILE: usize = 4 << 20;

fn file(dir: &Path, i: u64) -> PathBuf {
    dir.join(format!("f{i}"))
}

fn write(dir: &Path, files: std::ops::Range<u64>) {
    files.for_each(|i| fs::write(file(dir, i), pattern(FILE, i)).unwrap());
}

fn is_right(dir: &Path, i: u64) -> bool {
    fs::read(file(dir, i)).unwrap() == pattern(FILE, i)
}

/// What the segments of a volume's store take on the disk.
fn on_disk(host: &Host, name: &str) -> u64 {
    let segments = fs::read_dir(host.store(name).join("segments")).unwrap();
    segments.map(|segment| segment.unwrap().metadata().unwrap().blocks() * 512).sum()
}

/// Waits until no more than that is here.
#[track_caller]
fn wait_until_below(host: &Host, name: &str, most: u64) {
    let is_below = || {
        let here = remote(host, name)["here_bytes"].as_u64();
        here.is_some_and(|here| here <= most) && on_disk(host, name) <= most
    };
    let status = || format!("{} bytes on the disk, {}", on_disk(host, name), remote(host, name));
    assert!(wait_for(is_below), "more than {most} bytes stay here: {}", status());
}

/// Lets the kernel forget what it has of a mount.
fn forget(host: &Host, name: &str) -> PathBuf {
    host.umount(name);
    host.mount(name, &[])
}

#[test]
fn what_is_more_than_is_to_be_here_is_only_there_and_comes_when_it_is_read() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let store = a.dir("objects");
        let way = Way::new(&a, &store);
        let here = a.volume("db", &[]);
        write(&here, 0..12);
        a.ok(&["remote", "add", "db", &way.url(), "--ship", "1"]);
        a.ok(&["remote", "sync", "db"]);
        assert!(on_disk(&a, "db") >= 48 * M && remote(&a, "db")["partial"] == false);
        a.ok(&["set", "db", "local-size=20M"]);
        wait_until_below(&a, "db", 20 * M);
        let status = remote(&a, "db");
        assert_eq!((&status["local_size_bytes"], &status["partial"]), (&(20 * M).into(), &true.into()));
        assert!(status["contents_bytes"].as_u64().unwrap() >= 48 * M && status["stays"] == Value::Null);
        // All of it is there, also for the next server, and goes again.
        kill(Pid::from_raw(a.server("db")), Signal::SIGKILL).unwrap();
        assert!((0..12).all(|i| is_right(&here, i)), "another one is there");
        wait_until_below(&a, "db", 20 * M);
        assert!(a.ok(&["check", "db", "--read-data"]).contains("clean"));
        let here = forget(&a, "db");
        assert!((0..12).all(|i| is_right(&here, i)));

        // What was written while it cannot be reached stays here, however much that is.
        way.cut();
        write(&here, 20..28);
        let here = forget(&a, "db");
        assert!((20..28).all(|i| is_right(&here, i)));
        assert!(on_disk(&a, "db") >= 32 * M);
        way.mend();
        a.ok(&["remote", "sync", "db"]);
        wait_until_below(&a, "db", 20 * M);

        // On another host, it is so from the beginning.
        a.umount("db");
        b.ok(&["attach", &url(&store), "--local-size", "16M"]);
        let there = b.mount("db", &[]);
        assert!((0..12).chain(20..28).all(|i| is_right(&there, i)));
        wait_until_below(&b, "db", 16 * M);
        b.umount("db");

        // Without its remote, it is whole.
        let mut detach = a.command(&["remote", "detach", "db"]);
        a.key_file().into_iter().for_each(|key| {
            detach.arg("--key-file").arg(key);
        });
        crate::support::succeed(&mut detach);
        way.cut();
        let here = a.mount("db", &[]);
        assert!((0..12).chain(20..28).all(|i| is_right(&here, i)));
        a.umount("db");
    }
}

/// It was an error to read, for good: nobody had noted that the newest record was there.
#[test]
fn what_had_gone_before_a_crash_is_read_also_where_another_host_has_the_volume() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&store), "--ship", "3600", "--local-size", "16M"]);
    a.ok(&["remote", "sync", "db"]);
    write(&here, 0..10);
    a.ok(&["remote", "sync", "db"]);
    wait_until_below(&a, "db", 16 * M);
    a.kill_server("db");
    b.ok(&["attach", "--steal", &url(&store)]);
    let there = b.mount("db", &[]);
    fs::write(there.join("new"), "new").unwrap();
    b.ok(&["remote", "sync", "db"]);
    let here = a.mount("db", &[]);
    wait_until("it is known", || remote(&a, "db")["trouble"].is_string());
    assert!((0..10).all(|i| is_right(&here, i)));
    a.umount("db");
    b.umount("db");
}

/// Snapshots and clones have the same blocks as what they were made of.
#[test]
fn snapshots_clones_and_rollbacks_are_what_they_were() {
    let a = Host::plain();
    let store = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&store), "--ship", "1", "--local-size", "16M"]);
    write(&here, 0..8);
    a.ok(&["snapshot", "create", "db@one"]);
    (0..4).for_each(|i| fs::write(file(&here, i), pattern(FILE, 100 + i)).unwrap());
    a.ok(&["clone", "db@one", "copy"]);
    let copy = a.mount("copy", &[]);
    fs::remove_file(file(&copy, 7)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    wait_until_below(&a, "db", 16 * M);
    assert!((0..7).all(|i| is_right(&copy, i)) && (4..8).all(|i| is_right(&here, i)));
    a.ok(&["rollback", "--live", "db@one"]);
    assert!((0..8).all(|i| is_right(&here, i)));
    a.ok(&["remote", "sync", "db"]);
    wait_until_below(&a, "db", 16 * M);
    assert!(a.ok(&["check", "db", "--read-data"]).contains("clean"));
    a.umount("copy");
    let here = forget(&a, "db");
    assert!((0..8).all(|i| is_right(&here, i)));
    a.umount("db");
}

#[test]
fn nothing_goes_where_the_remote_lacks_something_and_that_is_said() {
    let a = Host::plain();
    let store = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&store), "--ship", "1"]);
    write(&here, 0..8);
    a.ok(&["remote", "sync", "db"]);
    // Somebody has removed all parts.
    let (data, away) = (store.join("db/data"), store.join("away"));
    fs::rename(&data, &away).unwrap();
    a.ok(&["set", "db", "local-size=16M"]);
    wait_until("it is said", || remote(&a, "db")["stays"].is_string());
    let said = remote(&a, "db")["stays"].to_string();
    assert!(said.contains("is missing"), "{said}");
    assert!(a.ok(&["remote", "status", "db"]).contains("nothing is removed here now"));
    assert!(on_disk(&a, "db") >= 32 * M);
    let here = forget(&a, "db");
    assert!((0..8).all(|i| is_right(&here, i)));
    fs::rename(&away, &data).unwrap();
    a.umount("db");
}

#[test]
fn what_is_left_of_objects_is_written_anew_while_it_is_mounted() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&store), "--ship", "1"]);
    let mut contents = pattern(2 * FILE, 1);
    fs::write(here.join("f"), &contents).unwrap();
    let file = fs::OpenOptions::new().write(true).open(here.join("f")).unwrap();
    for round in 0..4 {
        for block in (0..2 * FILE / 16384).filter(|block| (block * 7 + round) % 5 < 3) {
            let (at, new) = (block * 16384, pattern(16384, (block + 1000 * round) as u64));
            file.write_all_at(&new, at as u64).unwrap();
            contents[at..at + new.len()].copy_from_slice(&new);
        }
        file.sync_all().unwrap();
        a.ok(&["remote", "sync", "db"]);
    }
    drop(file);
    // The next mount makes an image.
    let here = forget(&a, "db");
    wait_until("it is written anew", || remote(&a, "db")["rewritten_bytes"].as_u64() > Some(0));
    assert!(a.ok(&["remote", "status", "db"]).contains("repacked:"));
    assert!(fs::read(here.join("f")).unwrap() == contents);
    a.umount("db");
    let found = a.ok(&["remote", "check", &url(&store), "--read-data"]);
    assert!(found.contains("clean"), "{found}");
    b.ok(&["attach", &url(&store)]);
    assert!(fs::read(b.mount("db", &[]).join("f")).unwrap() == contents);
    b.umount("db");
}

/// A disk that is nearly full gets something back, also where less is here than might be.
#[test]
fn a_volume_that_is_larger_than_the_disk_is_read_and_written() {
    let a = Host::plain();
    let store = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&store)]);
    write(&here, 0..40);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    let disk = SmallDisk::new(120);
    let b = Host::with_root(disk.path().join("root"));
    b.ok(&["attach", &url(&store), "--local-size", "1G"]);
    let there = b.mount("db", &[]);
    for _ in 0..2 {
        assert!((0..40).all(|i| is_right(&there, i)));
    }
    let has_room = || {
        let space = nix::sys::statvfs::statvfs(disk.path()).unwrap();
        space.blocks_available() * space.fragment_size() >= 3 * M
    };
    wait_until("something has gone", has_room);
    assert!(on_disk(&b, "db") > 40 * M, "not all of it");
    fs::write(there.join("new"), pattern(2 << 20, 50)).unwrap();
    fs::File::open(there.join("new")).unwrap().sync_all().unwrap();
    b.ok(&["remote", "sync", "db"]);
    assert_eq!(remote(&b, "db")["stays"], Value::Null);
    b.umount("db");
    b.end_servers(std::time::Duration::from_secs(10));
}

#[test]
fn it_is_set_and_shown_as_all_else_of_a_remote() {
    let a = Host::plain();
    let store = a.dir("objects");
    a.ok(&["create", "db"]);
    assert!(a.fails(USAGE, &["set", "db", "local-size=1G"]).contains("no remote"));
    assert!(a.fails(USAGE, &["create", "other", "--local-size", "1G"]).contains("--remote"));
    a.ok(&["remote", "add", "db", &url(&store), "--local-size", "2G"]);
    let small = a.fails(USAGE, &["set", "db", "local-size=1M"]);
    assert!(small.contains("at least 16M"), "{small}");
    assert_eq!(a.ok(&["get", "db", "local-size"]), "2G\n");
    assert_eq!(a.ok(&["set", "db", "local-size=20G"]), "db: local-size=20G\n");
    assert_eq!(a.json(&["inspect", "db"])["remote"]["local_size_bytes"], 20_u64 << 30);
    assert!(a.ok(&["remote", "status", "db"]).contains("here:     at most 20G"));
    a.ok(&["set", "db", "--unset", "local-size"]);
    assert_eq!(a.ok(&["get", "db", "local-size"]), "none\n");
}
