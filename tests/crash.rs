//! The server killed at any moment: after the next mount, everything that an fsync covered is there, nothing is half
//! done, and no tool has to repair anything.

use crate::support::{Background, Host, errno, pattern, shell, wait_until};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn what_was_synced_survives_and_the_rest_is_whole() {
    what_was_synced_survives(&Host::new());
}

#[test]
fn what_was_synced_survives_on_an_encrypted_volume() {
    what_was_synced_survives(&Host::encrypted());
}

fn what_was_synced_survives(host: &Host) {
    let mut dir = host.volume("v", &[]);
    for round in 0..6u64 {
        // Files that are synced, one by one, until the server dies.
        let (dying, any) = (AtomicBool::new(false), AtomicBool::new(false));
        let synced = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut synced = Vec::new();
                for i in 0.. {
                    let name = format!("r{round}-{i}");
                    let data = pattern(1000 + (i as usize * 37) % 60_000, round * 1000 + i);
                    let result = File::create(dir.join(&name)).and_then(|mut f| {
                        f.write_all(&data)?;
                        f.sync_all()
                    });
                    match result {
                        Ok(()) => {
                            synced.push((name, data));
                            any.store(true, Ordering::SeqCst);
                        }
                        Err(_) if dying.load(Ordering::SeqCst) => return synced,
                        Err(e) => panic!("{e}"),
                    }
                }
                synced
            });
            // And some noise beside them that is not.
            let noise = Background::start(
                Command::new("bash")
                    .args([
                        "-c",
                        "mkdir -p noise; for i in {1..100000}; do echo $i > noise/$i; mv noise/$i noise/m$i; \
                           ln noise/m$i noise/l$i; rm noise/m$i; done",
                    ])
                    .current_dir(&dir),
            );
            std::thread::sleep(Duration::from_millis(150 + 130 * round));
            // However busy the machine is.
            wait_until("something is synced", || any.load(Ordering::SeqCst));
            dying.store(true, Ordering::SeqCst);
            host.kill_server("v");
            drop(noise);
            writer.join().unwrap()
        });
        assert!(!synced.is_empty());
        host.check("v");
        dir = host.mount("v", &[]);
        for (name, data) in &synced {
            assert!(fs::read(dir.join(name)).unwrap() == *data, "{name} was synced and is not what it was");
        }
        host.check("v");
    }
}

/// Works in a directory until an operation fails; returns the files that must be there, and the one that was under way.
fn work_until_the_server_dies(dir: &Path, salt: u64) -> (BTreeMap<String, Vec<u8>>, String) {
    let mut files = BTreeMap::new();
    for i in 0u64.. {
        let (new, name) = (format!("new{i}"), format!("f{i}"));
        let data = pattern((i as usize * 997) % 30_000, salt + i);
        // Written, closed and renamed, and never synced.
        let made = fs::write(dir.join(&new), &data);
        if made.is_err() || fs::rename(dir.join(&new), dir.join(&name)).is_err() {
            return (files, name);
        }
        files.insert(name, data);
        let old = format!("f{}", i / 2);
        if i % 3 == 0 && files.contains_key(&old) {
            if fs::remove_file(dir.join(&old)).is_err() {
                return (files, old);
            }
            files.remove(&old);
        }
    }
    unreachable!()
}

#[test]
fn every_operation_that_returned_before_the_server_died_is_there() {
    for (host, rounds) in Host::each_kind().iter().zip([0..4, 4..8]) {
        everything_that_returned_is_there(host, rounds);
    }
}

fn everything_that_returned_is_there(host: &Host, rounds: std::ops::Range<u64>) {
    host.ok(&["create", "v"]);
    let options = |round: u64| if round.is_multiple_of(2) { "writeback=on" } else { "writeback=off" };
    let mut dir = host.mount("v", &["-o", options(0)]);
    for round in rounds {
        let work: Vec<_> = (0..3).map(|i| dir.join(format!("r{round}-{i}"))).collect();
        let results: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = work
                .iter()
                .zip(0..)
                .map(|(dir, i)| {
                    fs::create_dir(dir).unwrap();
                    scope.spawn(move || work_until_the_server_dies(dir, round * 1000 + i))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100 + 170 * round));
            host.kill_server("v");
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        dir = host.mount("v", &["-o", options(round + 1)]);
        for (work, (files, under_way)) in work.iter().zip(&results) {
            assert!(!files.is_empty());
            for (name, data) in files.iter().filter(|(name, _)| *name != under_way) {
                let found = fs::read(work.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(found == *data, "{name} is not what it was");
            }
            let there = fs::read_dir(work).unwrap().count();
            assert!(there.abs_diff(files.len()) <= 1, "{there} files instead of {}", files.len());
        }
        host.check("v");
    }
}

#[test]
fn a_rename_after_a_sync_is_never_an_empty_file() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    fs::write(dir.join("config"), "version 0").unwrap();
    File::open(dir.join("config")).unwrap().sync_all().unwrap();
    for round in 0..4 {
        // Without a sync even: what is written is written before what is done after it.
        let writer = Background::start(
            Command::new("bash")
                .args(["-c", "for i in {1..100000}; do echo version $i > new; mv new config; done"])
                .current_dir(&dir),
        );
        std::thread::sleep(Duration::from_millis(700 + 300 * round));
        host.kill_server("v");
        drop(writer);
        dir = host.mount("v", &["-o", "commit=1"]);
        let text = fs::read_to_string(dir.join("config")).unwrap();
        assert!(text.starts_with("version "), "{text:?}");
        host.check("v");
    }
}

#[test]
fn a_dead_mount_is_said_to_be_one_and_can_be_mounted_over() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    File::open(dir.join("f")).unwrap().sync_all().unwrap();
    host.kill_server("v");
    // A request that meets the dying server itself is ECONNABORTED.
    wait_until("the mount is dead", || errno(fs::read_dir(&dir)) == libc::ENOTCONN);
    assert_eq!(host.json(&["inspect", "v"])["state"], "unmounted");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    host.kill_server("v");
    host.umount("v");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    host.ok(&["rm", "v"]);
}

#[test]
fn a_killed_store_can_be_looked_at_without_being_changed() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    for i in 0..200 {
        fs::write(dir.join(format!("f{i}")), pattern(10_000, i)).unwrap();
    }
    File::open(dir.join("f0")).unwrap().sync_all().unwrap();
    host.kill_server("v");
    let state = |dir: &Path| {
        shell(dir, "find . -type f | sort | xargs sha256sum; stat -c '%n %s' segments/* meta.db*")
    };
    let before = state(&host.store("v"));
    host.check("v");
    assert_eq!(host.json(&["inspect", "v"])["inodes_used"], 201);
    host.ok(&["ls"]);
    assert_eq!(state(&host.store("v")), before);
}

#[test]
fn a_killed_server_has_lost_nothing_that_it_acknowledged() {
    a_killed_server_has_lost_nothing(&Host::new());
}

#[test]
fn a_killed_server_of_an_encrypted_volume_has_lost_nothing_either() {
    a_killed_server_has_lost_nothing(&Host::encrypted());
}

fn a_killed_server_has_lost_nothing(host: &Host) {
    host.ok(&["create", "v"]);
    let options = ["-o", "writeback=off,commit=3600"];
    let mut dir = host.mount("v", &options);
    for round in 0..4u64 {
        let work = dir.join(format!("round{round}"));
        fs::create_dir(&work).unwrap();
        for i in 0..300 {
            fs::write(work.join(format!("f{i}")), pattern(i * 50, i as u64)).unwrap();
        }
        for i in (0..300).step_by(3) {
            fs::rename(work.join(format!("f{i}")), work.join(format!("moved{i}"))).unwrap();
            fs::remove_file(work.join(format!("f{}", i + 1))).unwrap();
        }
        // More than a replay verifies at once, and some of it written over.
        let mut file = OpenOptions::new().create_new(true).write(true).open(work.join("large")).unwrap();
        file.write_all(&pattern(40 << 20, round)).unwrap();
        file.write_all_at(&pattern(1 << 20, 99), 5000).unwrap();
        // With and without a sync in the middle of it.
        if round % 2 == 0 {
            file.sync_all().unwrap();
            fs::write(work.join("after"), "the sync").unwrap();
        }
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
        drop(file);
        host.kill_server("v");
        dir = host.mount("v", &options);
        let work = dir.join(format!("round{round}"));
        for i in 0..300usize {
            let (name, there) = match i % 3 {
                0 => (format!("moved{i}"), true),
                1 => (format!("f{i}"), false),
                _ => (format!("f{i}"), true),
            };
            match fs::read(work.join(&name)) {
                Ok(bytes) => assert!(there && bytes == pattern(i * 50, i as u64), "{name}"),
                Err(e) => assert!(!there, "{name}: {e}"),
            }
        }
        let mut expected = pattern(40 << 20, round);
        expected[5000..5000 + (1 << 20)].copy_from_slice(&pattern(1 << 20, 99));
        assert!(fs::read(work.join("large")).unwrap() == expected);
        assert_eq!(fs::metadata(work.join("large")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(work.join("after").exists(), round % 2 == 0);
        host.check("v");
    }
    host.umount("v");
    let left: Vec<_> = fs::read_dir(host.store("v")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("redo")), "{left:?}");
    host.check("v");
}

#[test]
fn what_no_commit_knows_is_removed_at_the_next_mount() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "writeback=off,commit=3600"]);
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("f")).unwrap();
    file.write_all(&pattern(1 << 20, 1)).unwrap();
    file.sync_all().unwrap();
    // 150 MiB that reach the segments, and no commit.
    for i in 0..150 {
        file.write_all(&pattern(1 << 20, i)).unwrap();
    }
    let host_space = || shell(&host.store("v"), "du -sm segments | cut -f1").trim().parse::<u64>().unwrap();
    assert!(host_space() > 150);
    host.kill_server("v");
    drop(file);
    // As after a power cut that the redo log did not survive.
    for log in ["redo.0", "redo.1"] {
        let _ = fs::remove_file(host.store("v").join(log));
    }
    host.check("v");
    let dir = host.mount("v", &[]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(1 << 20, 1));
    wait_until("the host has its space back", || host_space() < 10);
    host.check("v");
}

#[test]
fn freed_space_comes_back_also_when_the_server_dies_before_it_was_given_back() {
    Host::each_kind().iter().for_each(freed_space_comes_back);
}

fn freed_space_comes_back(host: &Host) {
    let mut dir = host.volume("v", &[]);
    let host_space = || shell(&host.store("v"), "du -sm segments | cut -f1").trim().parse::<u64>().unwrap();
    for round in 0..3 {
        for i in 0..40 {
            fs::write(dir.join(format!("f{i}")), pattern(1 << 20, i)).unwrap();
        }
        shell(&dir, "sync f0; rm -f f?*; touch x; sync x");
        if round < 2 {
            host.kill_server("v");
            dir = host.mount("v", &[]);
        }
    }
    wait_until("everything is given back", || host_space() < 5);
    host.umount("v");
    host.check("v");
}

/// Freeing a file is recorded together with what comes next. What used the room of it must find that room in a replay, too.
#[test]
fn what_took_the_room_of_removed_files_survives() {
    let host = Host::new();
    let mut dir = host.volume("v", &["--size", "4M", "--inodes", "12"]);
    for round in 0..4u64 {
        for i in 0..10 {
            let name = dir.join(format!("f{i}"));
            let _ = fs::remove_file(&name);
            let data = pattern(400 << 10, round * 100 + i);
            let mut file = File::create(&name).unwrap();
            file.write_all(&data).unwrap();
            // The server has it when the file is closed, and nobody syncs anything.
            drop(file);
        }
        fs::remove_file(dir.join("f9")).unwrap();
        host.kill_server("v");
        dir = host.mount("v", &[]);
        for i in 0..9 {
            let data = fs::read(dir.join(format!("f{i}"))).unwrap();
            assert!(data == pattern(400 << 10, round * 100 + i), "file {i} of round {round}");
        }
        wait_until("orphans are gone", || host.json(&["inspect", "v"])["used"] == 9 * (400 << 10));
    }
    host.umount("v");
    host.check("v");
}
