//! The server killed at any moment: after the next mount, everything that an fsync covered is there, nothing is half
//! done, and no tool has to repair anything.

use crate::support::{Background, Host, errno, pattern, shell, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn what_was_synced_survives_and_the_rest_is_whole() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    for round in 0..6u64 {
        // Files that are synced, one by one, until the server dies.
        let dying = AtomicBool::new(false);
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
                        Ok(()) => synced.push((name, data)),
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
    assert_eq!(errno(fs::read_dir(&dir)), libc::ENOTCONN);
    assert_eq!(host.json(&["inspect", "v"])["health"], "unmounted");
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
    host.check("v");
    let dir = host.mount("v", &[]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(1 << 20, 1));
    wait_until("the host has its space back", || host_space() < 10);
    host.check("v");
}

#[test]
fn freed_space_comes_back_also_when_the_server_dies_before_it_was_given_back() {
    let host = Host::new();
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
