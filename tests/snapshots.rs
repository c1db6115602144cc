//! Snapshots, clones, rollback and limits on real mounts.

use crate::support::{Background, Host, Writer, errno, pattern, run, shell, state, succeed, wait_until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Bytes that the segments of a volume's store take on the host.
fn host_bytes(host: &Host, volume: &str) -> u64 {
    shell(&host.store(volume), "du -sk segments | cut -f1").trim().parse::<u64>().unwrap() * 1024
}

fn fill(dir: &Path, salt: u64) {
    for i in 0..40u64 {
        let sub = dir.join(format!("d{}", i % 5));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("f{i}")), pattern((i * 3000) as usize, salt + i)).unwrap();
    }
    shell(dir, "ln -sf d0/f0 link; ln -f d1/f1 hard; setfattr -n user.a -v 1 d2/f2");
}

#[test]
fn a_snapshot_stays_what_the_volume_was() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir, 0);
    // Not synced, not closed: it is part of the snapshot all the same.
    let mut open = fs::File::create(dir.join("open")).unwrap();
    std::io::Write::write_all(&mut open, &pattern(100_000, 9)).unwrap();
    let before = state(&dir);
    assert_eq!(host.ok(&["snapshot", "create", "v@one", "--label", "why=test"]), "v@one\n");
    shell(
        &dir,
        "rm -r d0; echo new > d1/new; truncate -s 10 d1/f6; mv d2 moved; chmod 600 hard; rm open; setfattr -x user.a moved/f2",
    );
    fill(&dir, 1000);
    let after = state(&dir);
    let snapshot = host.mount("v@one", &[]);
    assert_eq!(state(&snapshot), before);
    assert_eq!(errno(fs::write(snapshot.join("x"), "")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(snapshot.join("hard"))), libc::EROFS);
    assert_eq!(state(&dir), after);
    // A mounted snapshot is not removed.
    assert!(host.fails(5, &["snapshot", "rm", "v@one"]).contains("mounted on"));
    host.umount("v@one");
    drop(open);
    host.umount("v");
    host.check("v");
    let snapshot = host.mount("v@one", &["-o", "ro"]);
    assert_eq!(state(&snapshot), before);
    host.umount("v@one");
    let listed: Value = serde_json::from_str(&host.ok(&["snapshot", "ls", "v", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "one");
    assert_eq!(listed[0]["labels"]["why"], "test");
    assert!(listed[0]["used"].as_u64().unwrap() > 0);
}

/// Where the volume was mounted, something else lies on it, or nothing: programs that have it open go on.
#[test]
fn what_was_written_out_of_sight_is_part_of_a_snapshot_too() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mut open = Writer::open(dir.join("open"));
    open.write("covered");
    shell(dir.parent().unwrap(), "mount -t tmpfs larder-test v");
    host.ok(&["snapshot", "create", "v@covered"]);
    shell(dir.parent().unwrap(), "umount v");
    open.write(" and away");
    shell(dir.parent().unwrap(), "umount -l v");
    host.ok(&["snapshot", "create", "v@away"]);
    for (snapshot, text) in [("v@covered", "covered"), ("v@away", "covered and away")] {
        let dir = host.mount(snapshot, &[]);
        assert_eq!(fs::read_to_string(dir.join("open")).unwrap(), text);
        host.umount(snapshot);
    }
    drop(open);
    wait_until("it is unmounted", || host.json(&["ls", "--json"])[0]["mountpoints"] == serde_json::json!([]));
    host.check("v");
}

/// The kernel does not wait itself for what it writes back.
#[test]
fn what_the_server_has_not_been_given_yet_is_part_of_a_snapshot_too() {
    let rings = crate::uring::is_on().then_some(&["-o", "transport=uring"][..]);
    for options in [&[][..], &["-o", "transport=fuser"]].into_iter().chain(rings) {
        let host = Host::new();
        let dir = host.faulty_volume("slow-write-back=10", &[], options);
        let mut file = Writer::open(dir.join("f"));
        let text = "much ".repeat(40 << 20);
        file.write(&text);
        host.ok(&["snapshot", "create", "v@a"]);
        let kept = fs::read_to_string(host.mount("v@a", &[]).join("f")).unwrap();
        let holes = kept.bytes().filter(|byte| *byte == 0).count();
        assert!(kept == text, "{} bytes, {holes} of them missing, {options:?}", kept.len());
        drop(file);
        host.umount("v@a");
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn the_space_of_a_snapshot_is_exact_and_comes_back() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("a"), pattern(20 << 20, 1)).unwrap();
    fs::write(dir.join("b"), pattern(8 << 20, 2)).unwrap();
    host.ok(&["snapshot", "create", "v@s"]);
    let used = |name: &str| {
        let listed: Value = serde_json::from_str(&host.ok(&["snapshot", "ls", "v", "--json"])).unwrap();
        let row = listed.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
        (row["used"].as_u64().unwrap(), row["referenced"].as_u64().unwrap())
    };
    assert_eq!(used("s"), (0, 28 << 20));
    fs::remove_file(dir.join("a")).unwrap();
    // Part of a file written over: what was there before is the snapshot's alone.
    let file = fs::OpenOptions::new().write(true).open(dir.join("b")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &pattern(1 << 20, 3), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(used("s"), (21 << 20, 28 << 20));
    host.ok(&["snapshot", "create", "v@t"]);
    assert_eq!(used("s").0, 21 << 20);
    assert!(host_bytes(&host, "v") >= 29 << 20);
    host.ok(&["snapshot", "rm", "v@s"]);
    wait_until("the space is back", || {
        fs::File::open(&dir).unwrap().sync_all().unwrap();
        host_bytes(&host, "v") < 10 << 20
    });
    host.check("v");
    host.umount("v");
    host.ok(&["snapshot", "rm", "v@t"]);
    host.check("v");
}

#[test]
fn clones_live_on_their_own_and_outlive_everybody() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1G"]);
    fill(&dir, 0);
    let original = state(&dir);
    host.ok(&["snapshot", "create", "v@s"]);
    shell(&dir, "rm -r d0; echo more > more");
    let changed = state(&dir);
    // Of a snapshot, of the mounted volume, of a clone; online and offline.
    assert_eq!(host.ok(&["clone", "v@s", "one"]), "one\n");
    host.ok(&["create", "two", "--from", "v", "--size", "2G", "--uid", "1000", "--mode", "711"]);
    host.umount("v");
    host.ok(&["clone", "one", "three", "--size", "none"]);
    let one = host.mount("one", &[]);
    let two = host.mount("two", &[]);
    assert_eq!(state(&one), original);
    let root = fs::metadata(&two).unwrap();
    assert_eq!((root.uid(), root.mode() & 0o7777), (1000, 0o711));
    shell(&two, "chown 0 .; chmod 755 .");
    assert_eq!(state(&two).lines().skip(1).collect::<Vec<_>>(), changed.lines().skip(1).collect::<Vec<_>>());
    assert_eq!(host.json(&["inspect", "one"])["size"], 1u64 << 30);
    assert_eq!(host.json(&["inspect", "two"])["size"], 2u64 << 30);
    assert_eq!(host.json(&["inspect", "three"])["size"], Value::Null);
    shell(&one, "echo one > only-here");
    assert!(!two.join("only-here").exists());
    host.check("two");
    // The original goes, while clones are mounted and one is not.
    host.ok(&["rm", "--now", "v"]);
    host.fails(3, &["inspect", "v"]);
    assert!(host.fails(5, &["rm", "one"]).contains("mounted"));
    host.umount("one");
    host.umount("two");
    host.ok(&["rm", "--now", "one"]);
    let three = host.mount("three", &[]);
    assert_eq!(state(&three), original);
    host.umount("three");
    host.check("three");
    host.check("two");
    host.ok(&["rm", "--now", "two", "three"]);
    assert_eq!(fs::read_dir(host.root().join("stores")).unwrap().count(), 0);
}

#[test]
fn rollback_keeps_what_there_was() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir, 0);
    let before = state(&dir);
    host.ok(&["snapshot", "create", "v@good"]);
    shell(&dir, "rm -rf d*; echo broken > broken");
    let broken = state(&dir);
    assert!(host.fails(5, &["rollback", "v@good"]).contains("mounted"));
    host.umount("v");
    let said = host.ok(&["rollback", "v@good"]);
    let kept = said.split_whitespace().find(|word| word.starts_with("v@before-rollback-")).unwrap();
    let kept = kept.trim_end_matches([',', ';', '.']).to_owned();
    let dir = host.mount("v", &[]);
    assert_eq!(state(&dir), before);
    let kept = host.mount(&kept, &[]);
    assert_eq!(state(&kept), broken);
    shell(&dir, "echo on > on");
    host.check("v");
}

#[test]
fn limits_change_while_the_volume_is_mounted() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "8M", "--inodes", "10"]);
    let total = || shell(&dir, "df --output=size -B1 . | tail -1").trim().parse::<u64>().unwrap();
    assert_eq!(total(), 8 << 20);
    host.ok(&["resize", "v", "--size", "32M"]);
    assert_eq!(total(), 32 << 20);
    fs::write(dir.join("f"), pattern(20 << 20, 1)).unwrap();
    assert!(host.fails(2, &["resize", "v", "--size", "16M"]).contains("uses"));
    host.ok(&["resize", "v", "--size", "20M"]);
    let file = fs::File::create(dir.join("g")).unwrap();
    let written = std::io::Write::write_all(&mut &file, b"x").and_then(|()| file.sync_all());
    assert_eq!(errno(written), libc::ENOSPC);
    drop(file);
    fs::remove_file(dir.join("g")).unwrap();
    assert!(host.fails(2, &["resize", "v", "--inodes", "1"]).contains("inodes"));
    host.ok(&["resize", "v", "--inodes", "none", "--size", "none"]);
    for i in 0..20 {
        fs::write(dir.join(format!("n{i}")), "x").unwrap();
    }
    assert_eq!(host.json(&["inspect", "v"])["size"], Value::Null);
    host.umount("v");
    host.ok(&["resize", "v", "--inodes", "100"]);
    assert_eq!(host.json(&["inspect", "v"])["inodes"], 100);
    host.check("v");
}

#[test]
fn limits_change_by_so_much_also_by_two_at_once() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "10M", "--inodes", "100"]);
    let more = || host.command(&["resize", "v", "--size", "+1M"]).spawn().unwrap();
    let mut children: Vec<_> = (0..8).map(|_| more()).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(host.json(&["inspect", "v"])["size"], 18 << 20);
    host.ok(&["resize", "v", "--size", "-2MiB", "--inodes", "+50"]);
    let shown = host.json(&["inspect", "v"]);
    assert_eq!((&shown["size"], &shown["inodes"]), (&(16 << 20).into(), &150.into()));
    let df = shell(&dir, "df --output=itotal . | tail -1");
    assert_eq!(df.trim(), "150");
    fs::write(dir.join("f"), pattern(8 << 20, 1)).unwrap();
    fs::File::open(&dir).unwrap().sync_all().unwrap();
    assert!(host.fails(2, &["resize", "v", "--size", "-10M"]).contains("uses"));
    assert!(host.fails(2, &["resize", "v", "--size", "-16M"]).contains("it cannot be lowered by"));
    // Without the option before it, too.
    let size = || host.json(&["inspect", "v"])["size"].as_u64().unwrap();
    host.ok(&["resize", "v", "+1M"]);
    assert_eq!(size(), 17 << 20);
    host.ok(&["resize", "v", "-2M", "--inodes", "+1"]);
    assert_eq!(size(), 15 << 20);
    host.ok(&["resize", "--inodes", "-1", "v", "16M"]);
    assert_eq!(size(), 16 << 20);
    for (by, says) in [
        ("-10M", "uses"),
        ("-16M", "it cannot be lowered by"),
        ("-15.5M", "the smallest is 1 MiB"),
        ("+8192P", "less than 8192P"),
        ("+18446744073709551615", "it cannot be raised by"),
        ("+99999999P", "too large"),
        ("+", "not a size"),
        ("-x", "there is no option"),
        ("--siz", "there is no option"),
    ] {
        let output = run(&mut host.command(&["resize", "v", by]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(says), "{by}: {said}");
    }
    assert_eq!(run(&mut host.command(&["resize", "v", "+1M", "--size", "1G"])).status.code(), Some(2));
    assert_eq!(size(), 16 << 20);
    host.umount("v");
    host.ok(&["resize", "v", "--size=-1M", "--metadata", "+1M"]);
    assert_eq!(host.json(&["inspect", "v"])["size"], 15 << 20);
    host.ok(&["resize", "v", "--size", "none"]);
    assert!(
        host.fails(2, &["resize", "v", "--size", "+1G"]).contains("the volume has no size limit to add to")
    );
    host.check("v");
    // Inodes as df shows them.
    let table = host.ok(&["df", "-i", "v"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..5], ["VOLUME", "INODES", "IUSED", "IFREE", "IUSE%"]);
    assert_eq!(lines[1], ["v", "150", "2", "148", "2%", "-"]);
}

#[test]
fn a_database_under_load_is_snapshotted_whole() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    // Whoever looks for rows is not to be in the way of this.
    shell(&dir, "sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, s)'");
    let load = Background::start(
        Command::new("bash")
            .args([
                "-c",
                "while :; do sqlite3 -cmd '.timeout 5000' db \"INSERT INTO t(s) VALUES(hex(randomblob(500)))\"; done",
            ])
            .current_dir(&dir),
    );
    let rows = |dir: &Path| {
        let count = succeed(
            Command::new("sqlite3")
                .args(["-cmd", ".timeout 5000", "db", "SELECT count(*) FROM t"])
                .current_dir(dir),
        );
        count.trim().parse::<u64>().unwrap()
    };
    wait_until("there are rows", || dir.join("db").exists() && rows_or_none(&dir) > 20);
    let mut last = 0;
    for round in 0..5 {
        let before = rows(&dir);
        let name = format!("c{round}");
        host.ok(&["clone", "v", &name]);
        let clone = host.mount(&name, &[]);
        let check =
            succeed(Command::new("sqlite3").args(["db", "PRAGMA integrity_check"]).current_dir(&clone));
        assert_eq!(check, "ok\n");
        let found = rows(&clone);
        assert!(found >= before && found >= last, "{found} rows after {before}");
        last = found;
        host.umount(&name);
    }
    drop(load);
    host.check("v");
}

/// Rows of the table, or none while it is not there yet.
fn rows_or_none(dir: &Path) -> u64 {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 5000", "db", "SELECT count(*) FROM t"])
        .current_dir(dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
}

#[test]
fn names_and_targets_that_cannot_be() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    host.ok(&["create", "w"]);
    host.ok(&["snapshot", "create", "v@s"]);
    assert!(host.fails(4, &["snapshot", "create", "v@s"]).contains("exists"));
    assert!(host.fails(2, &["snapshot", "create", "v"]).contains("v@SNAPSHOT"));
    assert!(
        host.fails(2, &["snapshot", "create", "v@s@t"])
            .contains("a snapshot cannot have snapshots of its own")
    );
    assert!(host.fails(2, &["snapshot", "create", "v@../x"]).contains("snapshot name"));
    assert!(host.fails(3, &["snapshot", "create", "x@s"]).contains("no volume"));
    assert!(host.fails(3, &["rollback", "v@x"]).contains("no snapshot v@x"));
    assert!(host.fails(3, &["clone", "v@x", "c"]).contains("no snapshot"));
    assert!(host.fails(4, &["clone", "v", "w"]).contains("exists"));
    assert!(host.fails(2, &["clone", "v", "../c"]).contains("not a valid volume name"));
    let small = run(&mut host.command(&["clone", "v", "c", "--size", "1"]));
    assert_eq!(small.status.code(), Some(2));
    assert!(String::from_utf8(small.stderr).unwrap().contains("the smallest size limit is 1 MiB"));
    assert!(host.fails(3, &["mount", "v@x", host.dir("d").to_str().unwrap()]).contains("no snapshot"));
    assert!(host.fails(2, &["resize", "v"]).contains("give a size (20G; +5G or -5G"));
    // Nothing is left of the clone that was refused.
    assert_eq!(host.ok(&["ls"]).lines().count(), 3);
    host.ok(&["clone", "v@s", "c"]);
    host.check("c");
}

#[test]
fn a_clone_that_was_interrupted_leaves_nothing_but_a_name_that_can_be_taken() {
    Host::each_kind().iter().for_each(an_interrupted_clone_leaves_only_a_name);
}

fn an_interrupted_clone_leaves_only_a_name(host: &Host) {
    host.ok(&["create", "v"]);
    // What is there when the command dies between making the name and making the volume.
    let target = fs::read_link(host.root().join("volumes/v")).unwrap();
    std::os::unix::fs::symlink(target, host.root().join("volumes/c")).unwrap();
    // (What an encrypted name stands for cannot be told without its secret.)
    if host.key_file().is_none() {
        assert_eq!(host.ok(&["ls"]).lines().count(), 2);
    }
    host.fails(3, &["inspect", "c"]);
    host.ok(&["clone", "v", "c"]);
    host.ok(&["rm", "--now", "c"]);
    let target = fs::read_link(host.root().join("volumes/v")).unwrap();
    std::os::unix::fs::symlink(target, host.root().join("volumes/d")).unwrap();
    host.ok(&["rm", "--now", "d"]);
    host.ok(&["rm", "--now", "v"]);
    assert_eq!(fs::read_dir(host.root().join("stores")).unwrap().count(), 0);
}

#[test]
fn chains_of_clones_and_many_snapshots() {
    let host = Host::new();
    let dir = host.volume("c0", &[]);
    fs::write(dir.join("f"), pattern(1 << 20, 0)).unwrap();
    host.umount("c0");
    for i in 1..=100 {
        host.ok(&["clone", &format!("c{}", i - 1), &format!("c{i}")]);
    }
    let dir = host.mount("c100", &[]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(1 << 20, 0));
    for i in 0..200 {
        fs::write(dir.join("f"), pattern(4096, i)).unwrap();
        host.ok(&["snapshot", "create", &format!("c100@s{i}")]);
    }
    for i in (0..100).rev() {
        host.ok(&["rm", "--now", &format!("c{i}")]);
    }
    let names: Vec<String> = (0..200).filter(|i| i % 7 != 0).map(|i| format!("c100@s{i}")).collect();
    let mut args = vec!["snapshot".to_owned(), "rm".to_owned()];
    args.extend(names);
    host.ok(&args);
    let old = host.mount("c100@s7", &[]);
    assert!(fs::read(old.join("f")).unwrap() == pattern(4096, 7));
    host.umount("c100@s7");
    host.umount("c100");
    host.check("c100");
}

#[test]
fn a_server_killed_while_it_gives_back_a_snapshot_goes_on_with_it() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    for round in 0..3u64 {
        shell(&dir, "rm -rf t; mkdir t; cd t; for i in {1..1500}; do echo $i > f$i; done");
        host.ok(&["snapshot", "create", &format!("v@s{round}")]);
        shell(&dir, "rm -rf t");
        fs::write(dir.join("big"), pattern(10 << 20, round)).unwrap();
        host.ok(&["snapshot", "rm", &format!("v@s{round}")]);
        host.kill_server("v");
        dir = host.mount("v", &[]);
        assert!(fs::read(dir.join("big")).unwrap() == pattern(10 << 20, round));
    }
    fs::remove_file(dir.join("big")).unwrap();
    wait_until("the space is back", || {
        fs::File::open(&dir).unwrap().sync_all().unwrap();
        host_bytes(&host, "v") < 1 << 20
    });
    host.check("v");
}

#[test]
fn files_are_taken_out_of_snapshots_without_mounting_them() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.join(".snapshots")).unwrap().count(), 0);
    fill(&dir, 0);
    fs::write(dir.join("big"), pattern(30 << 20, 1)).unwrap();
    let before = state(&dir);
    host.ok(&["snapshot", "create", "v@one"]);
    let hidden = dir.join(".snapshots");
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&hidden), ["one"]);
    assert!(!names(&dir).contains(&".snapshots".to_owned()));
    assert_eq!(state(&hidden.join("one")), before);
    shell(&dir, "rm -r d* big");
    host.ok(&["snapshot", "create", "v@two"]);
    assert_eq!(names(&hidden), ["one", "two"]);
    // What was removed is fetched back. Within a volume no data is copied.
    let blocks = || host_bytes(&host, "v");
    fs::File::open(&dir).unwrap().sync_all().unwrap();
    let bytes = blocks();
    shell(
        &dir,
        "cp -a --reflink=auto .snapshots/one/big .; cp -a .snapshots/one/d* .; ls -lR .snapshots > /dev/null; sync big",
    );
    assert!(fs::read(dir.join("big")).unwrap() == pattern(30 << 20, 1));
    assert!(blocks() < bytes + (8 << 20), "{} bytes, before {bytes}", blocks());
    // Nothing can be done to a snapshot, nor to the directory itself.
    assert_eq!(errno(fs::write(hidden.join("one/x"), "")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(hidden.join("one/link"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(hidden.join("x"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(&hidden)), libc::EEXIST);
    assert_eq!(errno(fs::rename(dir.join("big"), hidden.join("one/big2"))), libc::EROFS);
    assert_eq!(errno(fs::hard_link(hidden.join("one/link"), dir.join("l"))), libc::EROFS);
    // A snapshot that is removed is gone, also for those who look at it.
    host.ok(&["snapshot", "rm", "v@one"]);
    assert_eq!(names(&hidden), ["two"]);
    assert!(fs::metadata(hidden.join("one")).is_err());
    assert!(fs::read(dir.join("big")).unwrap() == pattern(30 << 20, 1));
    host.umount("v");
    host.check("v");
    let dir = host.mount("v", &["-o", "snapshots=off"]);
    assert!(!dir.join(".snapshots").exists());
    fs::create_dir(dir.join(".snapshots")).unwrap();
}

#[test]
fn what_changed_is_told_by_path() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(
        &dir,
        "mkdir -p a/b c; echo 1 > a/one; echo 2 > a/b/two; echo 3 > c/three; echo 4 > same; ln c/three hard; ln -s x sym",
    );
    host.ok(&["snapshot", "create", "v@1"]);
    assert_eq!(host.ok(&["diff", "v@1"]), "");
    shell(
        &dir,
        "echo more >> a/b/two; mv a/one moved; rm sym; mkdir new; echo 5 > new/five; chmod 700 c; echo x >> hard; touch -a same",
    );
    let expected =
        "M\t/a/b/two\nM\t/c\nM\t/c/three\nM\t/hard\nR\t/a/one -> /moved\n+\t/new\n+\t/new/five\n-\t/sym\n";
    assert_eq!(host.ok(&["diff", "v@1"]), expected);
    host.ok(&["snapshot", "create", "v@2"]);
    shell(&dir, "rm -r new; mv c d");
    assert_eq!(host.ok(&["diff", "v@1", "v@2"]), expected);
    host.umount("v");
    assert_eq!(host.ok(&["diff", "v@2"]), "R\t/c -> /d\n-\t/new\n-\t/new/five\n");
    let json: Value = serde_json::from_str(&host.ok(&["diff", "v@2", "v@1", "--json"])).unwrap();
    assert!(
        json.as_array().unwrap().iter().any(|d| d["change"] == "renamed" && d["from"] == "/moved"),
        "{json}"
    );
    host.ok(&["clone", "v@1", "w"]);
    let dir = host.mount("w", &[]);
    fs::write(dir.join("only-w"), "").unwrap();
    host.umount("w");
    assert_eq!(host.ok(&["diff", "v@1", "w"]), "+\t/only-w\n");
    assert!(host.fails(3, &["diff", "v@9"]).contains("no"));
    host.ok(&["create", "x"]);
    assert!(host.fails(2, &["diff", "v@1", "x"]).contains("cannot be compared"));
}

#[test]
fn a_mounted_volume_is_rolled_back_under_its_programs() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir, 0);
    shell(&dir, "mkdir -p deep/er; echo old > deep/er/file; echo gone > only-before");
    let before = state(&dir);
    host.ok(&["snapshot", "create", "v@good"]);
    for round in 0..3 {
        shell(
            &dir,
            "echo new > deep/er/file; rm -r d0 only-before; mv d1 moved; echo x > added; mkdir d0; echo y > d0/f0",
        );
        // Names that the kernel knows to be missing.
        assert!(!dir.join("only-before").exists() && !dir.join("d1").exists());
        let mut open = fs::OpenOptions::new().read(true).write(true).open(dir.join("deep/er/file")).unwrap();
        let mut dirty = fs::File::create(dir.join("dirty")).unwrap();
        std::io::Write::write_all(&mut dirty, b"never synced").unwrap();
        let handle = fs::File::open(dir.join("deep/er")).unwrap();
        host.ok(&["rollback", "v@good", "--live"]);
        assert_eq!(state(&dir), before, "round {round}");
        let inside = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        assert_eq!(errno(fs::write(format!("{inside}/x"), "")), libc::ESTALE);
        std::io::Write::write_all(&mut open, b"into nothing").ok();
        assert_eq!(errno(open.sync_all().and_then(|()| open.set_len(3))), libc::ESTALE);
        assert_eq!(fs::read_to_string(dir.join("deep/er/file")).unwrap(), "old\n");
        drop((open, dirty, handle));
        assert_eq!(state(&dir), before, "round {round}");
    }
    // Nothing was lost, not even what had not been synced.
    let listed: Value = serde_json::from_str(&host.ok(&["snapshot", "ls", "v", "--json"])).unwrap();
    let kept = listed[1]["name"].as_str().unwrap();
    let kept = dir.join(".snapshots").join(kept);
    assert_eq!(fs::read_to_string(kept.join("dirty")).unwrap(), "never synced");
    assert_eq!(fs::read_to_string(kept.join("deep/er/file")).unwrap(), "new\n");
    shell(&dir, "echo on > deep/er/on; mkdir fresh; mv d0 fresh; ln hard fresh/hard; sync fresh");
    let now = state(&dir);
    let dir = host.remount("v");
    assert_eq!(state(&dir), now);
    host.umount("v");
    host.check("v");
}
