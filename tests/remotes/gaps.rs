//! Remotes that go back in time while a host ships there, and that host is killed before it finds out.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, shell, state, succeed, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DAMAGED: i32 = 9;

fn with_key(host: &Host, words: &[&str]) -> Command {
    let mut command = host.command(words);
    host.key_file().into_iter().for_each(|key| {
        command.arg("--key-file").arg(key);
    });
    command
}

/// A remote that has lost what came between `old`, the state that a volume had there, and the last record that its host wrote before it was killed.
struct Torn {
    objects: PathBuf,
    old: String,
    new: String,
    last: PathBuf,
}

fn records(objects: &Path) -> Vec<PathBuf> {
    let log = fs::read_dir(objects.join("db/log")).unwrap();
    let mut names: Vec<PathBuf> = log.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

impl Torn {
    fn of(host: &Host) -> Self {
        let objects = host.dir("objects");
        let here = host.volume("db", &[]);
        fs::write(here.join("f"), pattern(400_000, 1)).unwrap();
        host.ok(&["remote", "add", "db", &url(&objects)]);
        host.ok(&["remote", "sync", "db"]);
        let (copy, old) = (host.dir("copies").join("copy"), state(&here));
        shell(&objects, &format!("cp -a . {}", copy.display()));
        for i in 0..4 {
            fs::write(here.join(format!("g{i}")), pattern(20_000, i)).unwrap();
            host.ok(&["remote", "sync", "db"]);
        }
        let new = state(&here);
        host.kill_server("db");
        let last = records(&objects).pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        fs::remove_dir_all(&objects).unwrap();
        fs::rename(&copy, &objects).unwrap();
        fs::write(&last, bytes).unwrap();
        Self { objects, old, new, last }
    }
}

fn is_clean(host: &Host) {
    assert!(succeed(&mut with_key(host, &["remote", "check", "db", "--read-data"])).contains("clean"));
}

/// Nobody could attach it any more, whatever was said.
#[test]
fn a_remote_that_breaks_off_is_attached_from_before_the_gap() {
    for [a, b, c] in
        [[Host::plain(), Host::plain(), Host::plain()], std::array::from_fn(|_| Host::encrypted())]
    {
        let torn = Torn::of(&a);
        let said = b.fails(DAMAGED, &["attach", "--steal", &url(&torn.objects)]);
        assert!(said.contains("breaks off behind record") && said.contains("--accept-older"), "{said}");
        let said = b.fails(DAMAGED, &["attach", "--read-only", &url(&torn.objects)]);
        assert!(said.contains("breaks off behind record"), "{said}");
        assert!(torn.last.exists(), "nothing was said to go");
        b.ok(&["attach", "--steal", "--accept-older", &url(&torn.objects)]);
        assert!(!torn.last.exists());
        let there = b.mount("db", &[]);
        assert_eq!(state(&there), torn.old);
        // More records than there were.
        for i in 0..8 {
            fs::write(there.join(format!("h{i}")), pattern(20_000, 9 + i)).unwrap();
            b.ok(&["remote", "sync", "db"]);
        }
        let then = state(&there);
        b.umount("db");
        is_clean(&b);
        c.ok(&["attach", &url(&torn.objects)]);
        assert_eq!(state(&c.mount("db", &[])), then);
        // Who had it before ships nothing over that.
        let here = a.mount("db", &[]);
        wait_until("it is found out", || remote(&a, "db")["trouble"].is_string());
        assert_eq!(state(&here), torn.new);
        c.umount("db");
        a.umount("db");
        is_clean(&c);
    }
}

/// It looked for what was missing for ever, and could not be told to go on either.
#[test]
fn who_was_killed_when_its_remote_went_back_removes_what_it_left_behind_the_gap() {
    for (mounted_first, [a, b]) in [
        (true, [Host::plain(), Host::plain()]),
        (false, [Host::plain(), Host::plain()]),
        (true, std::array::from_fn(|_| Host::encrypted())),
    ] {
        let torn = Torn::of(&a);
        if mounted_first {
            a.mount("db", &[]);
            wait_until("it is found out", || remote(&a, "db")["trouble"].is_string());
            let said = remote(&a, "db")["trouble"].to_string();
            assert!(said.contains("has gone back") && said.contains("accept-older"), "{said}");
            a.umount("db");
            assert!(!torn.last.exists());
        }
        succeed(&mut with_key(&a, &["remote", "accept-older", "db"]));
        assert!(!torn.last.exists());
        let here = a.mount("db", &[]);
        a.ok(&["remote", "sync", "db"]);
        assert_eq!(state(&here), torn.new);
        a.umount("db");
        is_clean(&a);
        b.ok(&["attach", &url(&torn.objects)]);
        assert_eq!(state(&b.mount("db", &[])), torn.new);
    }
}

/// Somebody has removed one of them: it can be brought back.
#[test]
fn nothing_goes_where_a_record_was_removed_that_others_follow() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    for i in 0..4 {
        fs::write(here.join(format!("g{i}")), pattern(20_000, i)).unwrap();
        a.ok(&["remote", "sync", "db"]);
    }
    let then = state(&here);
    a.umount("db");
    let all = records(&objects);
    let gone = &all[all.len() - 3];
    let bytes = fs::read(gone).unwrap();
    fs::remove_file(gone).unwrap();
    b.fails(DAMAGED, &["attach", &url(&objects)]);
    assert!(
        !run(&mut b.command(&["attach", &url(&objects), "--at", "10m", "--accept-older"])).status.success()
    );
    a.mount("db", &[]);
    wait_until("it is found out", || remote(&a, "db")["trouble"].is_string());
    a.umount("db");
    assert_eq!(records(&objects).len(), all.len() - 1);
    fs::write(gone, bytes).unwrap();
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}
