//! Volumes with a remote whose directories are copied or brought back, and whose keys change.

use crate::support::{Host, pattern, run, shell, state, succeed, wait_until};
use larder::remote::Local;
use larder::store::Header;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn url(dir: &Path) -> String {
    format!("file://{}/db", dir.display())
}

fn remote(host: &Host, name: &str) -> Value {
    let output = run(&mut host.command(&["remote", "status", name, "--json"]));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fill(dir: &Path) {
    (0..30).for_each(|i| fs::write(dir.join(format!("f{i}")), pattern(20_000, i)).unwrap());
    fs::write(dir.join("big"), pattern(6_000_000, 77)).unwrap();
}

fn epochs(host: &Host, name: &str) -> Vec<u32> {
    Header::read(&larder::backing::OsDir::new(host.store(name))).unwrap().epochs()
}

/// A command that takes the key file.
fn with_key(host: &Host, args: &[&str]) -> std::process::Output {
    let mut command = host.command(args);
    command.arg("--key-file").arg(host.key_file().unwrap());
    run(&mut command)
}

fn is_clean(host: &Host, url: &str) {
    let mut check = host.command(&["remote", "check", url, "--read-data"]);
    host.key_file().into_iter().for_each(|key| {
        check.arg("--key-file").arg(key);
    });
    assert!(succeed(&mut check).contains("clean"));
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    shell(from.parent().unwrap(), &format!("cp -a --sparse=always '{}' '{}'", from.display(), to.display()));
}

#[test]
fn a_store_that_was_brought_back_from_a_copy_ships_nothing_over_what_is_newer() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    fill(&here);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    let (store, backup) = (a.store("db"), a.dir("backups").join("db"));
    copy(&store, &backup);
    let here = a.mount("db", &[]);
    fs::write(here.join("newer"), pattern(300_000, 5)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    let newest = state(&here);
    a.umount("db");
    copy(&backup, &store);
    let here = a.mount("db", &[]);
    wait_until("it is known", || remote(&a, "db")["trouble"].is_string());
    wait_until("it takes no changes", || fs::write(here.join("new"), pattern(300_000, 6)).is_err());
    a.umount("db");
    let trouble = a.fails(1, &["remote", "sync", "db"]);
    assert!(trouble.contains("was taken by host") || trouble.contains("older copy"), "{trouble}");
    b.ok(&["attach", "--steal", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), newest);
    b.umount("db");
    is_clean(&b, &url(&objects));
}

/// Each mount is an owner of its own.
#[test]
fn each_opening_is_another_owner() {
    let a = Host::plain();
    let objects = a.dir("objects");
    a.volume("db", &[]);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    let mut owners = Vec::new();
    for _ in 0..3 {
        a.ok(&["remote", "sync", "db"]);
        owners.push(Local::read(&a.store("db")).unwrap().unwrap().owner);
        a.umount("db");
        a.mount("db", &[]);
    }
    owners.sort();
    owners.dedup();
    assert_eq!(owners.len(), 3);
}

#[test]
fn a_volume_that_is_partly_here_is_sealed_again_there_too() {
    let (a, b, c) = (Host::encrypted(), Host::encrypted(), Host::encrypted());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    fill(&here);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    // Nothing was read yet; mounted, and not mounted.
    b.ok(&["attach", &url(&objects)]);
    let done = with_key(&b, &["key", "reencrypt", "db"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(epochs(&b, "db"), [2]);
    is_clean(&b, &url(&objects));
    c.ok(&["attach", &url(&objects)]);
    let there = c.mount("db", &[]);
    assert!(fs::read(there.join("f3")).unwrap() == pattern(20_000, 3));
    let done = with_key(&c, &["key", "reencrypt", "db"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(epochs(&c, "db"), [3]);
    assert_eq!(state(&there), then);
    c.umount("db");
    is_clean(&c, &url(&objects));
    let d = Host::encrypted();
    d.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&d.mount("db", &[])), then);
}

#[test]
fn a_volume_that_is_not_mounted_is_shipped_on_after_it_was_sealed_again() {
    let (a, b) = (Host::encrypted(), Host::encrypted());
    let objects = a.dir("objects");
    fill(&a.volume("db", &[]));
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    // Without the remote, the older keys stay.
    without_the_remote(&a, &objects, || {
        let refused = with_key(&a, &["key", "reencrypt", "db"]);
        assert!(!refused.status.success() && epochs(&a, "db") == [1, 2], "{refused:?}");
    });
    let done = with_key(&a, &["key", "reencrypt", "db"]);
    assert!(done.status.success() && epochs(&a, "db") == [2], "{done:?}");
    let here = a.mount("db", &[]);
    fs::write(here.join("more"), "more").unwrap();
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// Does something while something else is where the remote was.
fn without_the_remote(host: &Host, objects: &Path, work: impl FnOnce()) {
    let (there, away) = (objects.join("db"), host.dir("elsewhere").join("db"));
    fs::rename(&there, &away).unwrap();
    fs::create_dir(&there).unwrap();
    fs::write(there.join("store"), "something else").unwrap();
    work();
    fs::remove_dir_all(&there).unwrap();
    fs::rename(&away, &there).unwrap();
}

fn headers(objects: &Path) -> usize {
    fs::read_dir(objects.join("db/header")).unwrap().count()
}

#[test]
fn key_slots_reach_the_remote_before_they_are_said_to_be_changed() {
    let (a, b) = (Host::encrypted(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), "f").unwrap();
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    let new = |name: &str, salt| -> PathBuf {
        let file = a.dir("keys").join(name);
        fs::write(&file, pattern(64, salt)).unwrap();
        file
    };
    // While it is mounted, and nothing else changes.
    let (second, third) = (new("second", 2), new("third", 3));
    let rotated = with_key(&a, &["key", "rotate", "db", "--new-key-file", second.to_str().unwrap()]);
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!(headers(&objects), 1, "the slots of before are gone");
    a.umount("db");
    let key = |args: &[&str], file: &Path| {
        let mut command = a.command(args);
        run(command.arg("--key-file").arg(file))
    };
    // While it is not.
    let rotated = key(&["key", "rotate", "db", "--new-key-file", third.to_str().unwrap()], &second);
    assert!(rotated.status.success(), "{rotated:?}");
    // If that cannot be, it is said.
    without_the_remote(&a, &objects, || {
        let added = key(&["key", "add", "db", "--new-key-file", second.to_str().unwrap()], &third);
        let said = String::from_utf8_lossy(&added.stderr).into_owned();
        assert!(!added.status.success(), "{said}");
        assert!(said.contains("the key slots were changed here, and not yet in"), "{said}");
    });
    // The old secret opens nothing any more, the new one does.
    for (file, opens) in [(a.key_file().unwrap().to_path_buf(), false), (second, false), (third, true)] {
        let mut attach = b.command(&["attach", &url(&objects)]);
        let attached = run(attach.arg("--key-file").arg(&file));
        assert_eq!(attached.status.success(), opens, "{file:?} {attached:?}");
    }
}

/// The store was claimed before it was known that it cannot be put down, and its owner was fenced for good.
#[test]
fn an_attach_that_is_refused_takes_the_store_from_nobody() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    fill(&here);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    let records = || fs::read_dir(objects.join("db/log")).unwrap().count();
    b.ok(&["create", "db"]);
    // While it is mounted, and while it is not.
    let before = records();
    b.fails(4, &["attach", "--steal", &url(&objects)]);
    assert_eq!(records(), before);
    fs::write(here.join("more"), "more").unwrap();
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    let before = records();
    b.fails(4, &["attach", &url(&objects)]);
    assert_eq!((records(), b.ok(&["ls", "-q"]).as_str()), (before, "db\n"));
    // Who attaches it and mounts nothing does not keep it from others.
    b.ok(&["attach", &url(&objects), "there"]);
    c.ok(&["attach", &url(&objects)]);
    let here = a.mount("db", &[]);
    fs::write(here.join("last"), "last").unwrap();
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    // Who went on first has it.
    let there = c.mount("db", &[]);
    wait_until("it is known", || remote(&c, "db")["trouble"].is_string());
    assert!(fs::write(there.join("new"), pattern(300_000, 6)).is_err());
    a.umount("db");
    let d = Host::plain();
    d.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&d.mount("db", &[])), then);
    is_clean(&d, &url(&objects));
}
