//! What is damaged on a host, and sound in its remote.

use super::mounted::{remote, url};
use crate::damage::{address, fill, flip};
use crate::support::{Host, pattern, run, state, succeed, wait_until};
use larder::store::data_offset;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How well it is, and the codes of why not.
fn is(host: &Host, level: &str, codes: &[&str]) {
    let mut said = String::new();
    wait_until("its health is known", || {
        let output = run(&mut host.command(&["status", "v", "--json"]));
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let health = &all[0];
        let found: Vec<String> = health["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["code"].as_str().unwrap().into())
            .collect();
        said = format!("{health}");
        health["health"] == level && found == codes
    });
    assert!(!said.is_empty());
}

/// Such a volume, shipped, and not mounted any more.
fn shipped(host: Host) -> Host {
    let host = fill(host);
    host.mount("v", &[]);
    host.ok(&["remote", "add", "v", &url(&host.dir("objects"))]);
    host.ok(&["remote", "sync", "v"]);
    host.umount("v");
    host
}

fn check(host: &Host) {
    assert!(host.ok(&["check", "v", "--read-data"]).contains("clean"));
}

/// What came for the first time was counted as damaged, and what was damaged was not told of.
#[test]
fn a_block_that_is_damaged_comes_back_and_is_told_of() {
    for (host, other) in Host::each_kind().map(shipped).into_iter().zip(Host::each_kind()) {
        let addr = address(&host, "f3", 1);
        let segment = host.store("v").join("segments").join(format!("{:016x}.seg", addr.segment));
        flip(&segment, data_offset(addr.index) + 77);
        let here = host.mount("v", &[]);
        assert_eq!(remote(&host, "v")["healed_blocks"], 0);
        is(&host, "ok", &[]);
        assert!(fs::read(here.join("dir/f3")).unwrap() == pattern(200_000, 3));
        is(&host, "degraded", &["healed-blocks"]);
        let said = host.json(&["inspect", "v"]);
        assert_eq!(said["remote"]["healed_blocks"], 1);
        let output = run(&mut host.command(&["status", "v"]));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("block {addr}")) && text.contains("file:///"), "{text}");
        let about = remote(&host, "v");
        assert_eq!((&about["healed_blocks"], &about["healed_pages"]), (&1.into(), &0.into()));
        assert!(host.ok(&["remote", "status", "v"]).contains("1 block and 0 pages"));
        // It is whole here.
        host.umount("v");
        check(&host);
        host.ok(&["status", "--acknowledge", "v"]);
        is(&host, "ok", &[]);
        // What was never here is not damaged.
        other.ok(&["attach", &url(&host.dir("objects"))]);
        let there = other.mount("v", &[]);
        for i in 0..5 {
            assert!(fs::read(there.join(format!("dir/f{i}"))).unwrap() == pattern(200_000, i));
        }
        assert_eq!(remote(&other, "v")["healed_blocks"], 0);
        is(&other, "ok", &[]);
    }
}

/// Nobody knew of it until somebody asked for a sync.
#[test]
fn a_block_that_is_damaged_before_it_is_shipped_is_told_of() {
    for host in Host::each_kind().map(fill) {
        let addr = address(&host, "f3", 1);
        let segment = host.store("v").join("segments").join(format!("{:016x}.seg", addr.segment));
        flip(&segment, data_offset(addr.index) + 77);
        let here = host.mount("v", &[]);
        is(&host, "ok", &[]);
        host.ok(&["remote", "add", "v", &url(&host.dir("objects"))]);
        is(&host, "degraded", &["remote-behind"]);
        assert!(remote(&host, "v")["trouble"].to_string().contains("lacks 1 block of files"));
        let output = run(&mut host.command(&["remote", "status", "v"]));
        assert!(String::from_utf8(output.stdout).unwrap().contains("lacks 1 block of files"));
        host.fails(1, &["remote", "sync", "v"]);
        // Nothing refers to it any more.
        fs::remove_file(here.join("dir/f3")).unwrap();
        wait_until("it is complete", || run(&mut host.command(&["remote", "sync", "v"])).status.success());
        is(&host, "ok", &[]);
    }
}

/// Changes some bytes in the middle of a page.
fn damage_page(meta: &Path, number: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(meta).unwrap();
    let (mut bytes, at) = ([0; 64], number * 4096 - 2048);
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    file.write_all_at(&bytes, at).unwrap();
}

/// It could not be mounted any more.
#[test]
fn pages_of_the_metadata_that_are_damaged_come_back() {
    for host in Host::each_kind().map(shipped) {
        let meta = host.store("v").join("meta.db");
        let whole = fs::read(&meta).unwrap();
        let then = state(&host.mount("v", &[]));
        host.umount("v");
        let pages = whole.len() as u64 / 4096;
        assert!(pages > 10, "{pages}");
        let mut healed = 0;
        for number in 1..=pages {
            damage_page(&meta, number);
            let here = host.mount("v", &[]);
            assert_eq!(state(&here), then, "page {number}");
            healed += remote(&host, "v")["healed_pages"].as_u64().unwrap();
            host.ok(&["remote", "sync", "v"]);
            host.umount("v");
            check(&host);
        }
        assert!(healed >= pages / 2, "{healed} of {pages}");
        is(&host, "degraded", &["healed-blocks"]);
    }
}

#[test]
fn where_the_remote_is_away_a_damaged_page_is_an_error_that_says_so() {
    let host = shipped(Host::plain());
    let meta = host.store("v").join("meta.db");
    let objects = host.dir("objects");
    let away = objects.with_file_name("away");
    fs::rename(&objects, &away).unwrap();
    damage_page(&meta, 1);
    let said = host.fails(9, &["mount", "v", host.make_mountpoint("v").to_str().unwrap()]);
    assert!(said.contains("meta.db"), "{said}");
    fs::rename(&away, &objects).unwrap();
    host.mount("v", &[]);
    assert_eq!(remote(&host, "v")["healed_pages"], 1);
}

#[test]
fn what_cannot_be_mended_is_attached_anew() {
    let host = shipped(Host::plain());
    let then = state(&host.mount("v", &[]));
    host.umount("v");
    let file = fs::OpenOptions::new().write(true).open(host.store("v").join("meta.db")).unwrap();
    // With its seal, so that nobody knows whether it had changed since it was shipped.
    file.write_all_at(&[0x5a; 3 * 4096], 0).unwrap();
    let said = host.fails(9, &["mount", "v", host.mountpoint("v").to_str().unwrap()]);
    assert!(said.contains("may be newer") || said.contains("meta.db"), "{said}");
    host.ok(&["rm", "--now", "--force", "--keep-remote", "v"]);
    host.ok(&["attach", "--steal", &url(&host.dir("objects"))]);
    assert_eq!(state(&host.mount("v", &[])), then);
}

/// It was refused for good.
#[test]
fn a_remote_that_was_restored_from_a_copy_is_gone_on_with_if_somebody_says_so() {
    for (host, other) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let (objects, copy) = (host.dir("objects"), host.dir("copies").join("copy"));
        let here = host.volume("v", &[]);
        fs::write(here.join("first"), pattern(300_000, 1)).unwrap();
        host.ok(&["remote", "add", "v", &url(&objects)]);
        host.ok(&["remote", "sync", "v"]);
        crate::support::shell(&objects, &format!("cp -a . {}", copy.display()));
        for i in 0..3 {
            fs::write(here.join(format!("later{i}")), pattern(3_000_000, 2 + i)).unwrap();
            host.ok(&["remote", "sync", "v"]);
        }
        fs::remove_file(here.join("first")).unwrap();
        host.ok(&["remote", "sync", "v"]);
        let then = state(&here);
        let with_key = |words: &[&str]| {
            let mut command = host.command(words);
            host.key_file().into_iter().for_each(|key| {
                command.arg("--key-file").arg(key);
            });
            command
        };
        let accept = || run(&mut with_key(&["remote", "accept-older", "v"]));
        assert_eq!(accept().status.code(), Some(5), "it is mounted");
        host.umount("v");
        let refused = accept();
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("has not gone back"));
        fs::remove_dir_all(&objects).unwrap();
        fs::rename(&copy, &objects).unwrap();
        let here = host.mount("v", &[]);
        wait_until("it is found out", || remote(&host, "v")["trouble"].is_string());
        let trouble = remote(&host, "v")["trouble"].to_string();
        assert!(trouble.contains("has gone back") && trouble.contains("accept-older"), "{trouble}");
        fs::write(here.join("meanwhile"), pattern(100_000, 9)).unwrap();
        let now = state(&here);
        assert_ne!(now, then);
        host.umount("v");
        let accepted = accept();
        assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
        assert!(String::from_utf8(accepted.stdout).unwrap().contains("has gone back from record"));
        let here = host.mount("v", &[]);
        host.ok(&["remote", "sync", "v"]);
        assert_eq!(remote(&host, "v")["trouble"], serde_json::Value::Null);
        assert_eq!(state(&here), now);
        host.umount("v");
        assert!(succeed(&mut with_key(&["remote", "check", "v", "--read-data"])).contains("clean"));
        other.ok(&["attach", &url(&objects)]);
        assert_eq!(state(&other.mount("v", &[])), now);
    }
}
