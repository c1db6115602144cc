//! Earlier moments of volumes, through the commands and with real mounts.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, shell, state, succeed, wait_until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const USAGE: i32 = 2;
const NO_VOLUME: i32 = 3;
const EXISTS: i32 = 4;
const BUSY: i32 = 5;
const SECRET: i32 = 13;

/// As [`Host::ok`], for commands that need the key here.
fn with_key(host: &Host, args: &[&str]) -> String {
    let mut command = host.command(args);
    host.key_file().into_iter().for_each(|key| {
        command.arg("--key-file").arg(key);
    });
    succeed(&mut command)
}

fn history(host: &Host, of: &str) -> Vec<Value> {
    let found: Value = serde_json::from_str(&with_key(host, &["remote", "history", of, "--json"])).unwrap();
    found["moments"].as_array().unwrap().clone()
}

/// What is said of a command line that makes no sense, in some lines.
fn refused(host: &Host, args: &[&str]) -> String {
    let output = run(&mut host.command(args));
    assert_eq!(output.status.code(), Some(USAGE));
    String::from_utf8(output.stderr).unwrap()
}

/// Ships what there is, and says which record is the newest then.
fn synced(host: &Host, name: &str) -> String {
    host.ok(&["remote", "sync", name]);
    remote(host, name)["record"].to_string()
}

#[test]
fn a_moment_is_read_beside_its_owner_and_becomes_a_volume_of_its_own() {
    for a in Host::each_kind() {
        let objects = a.dir("objects");
        let here = a.volume("db", &["--remote", &url(&objects)]);
        fs::write(here.join("big"), pattern(3_000_000, 1)).unwrap();
        shell(&here, "mkdir d; echo one > d/one; ln -s d/one soft");
        a.ok(&["snapshot", "create", "db@early"]);
        fs::write(here.join("d/two"), "two").unwrap();
        let record = synced(&a, "db");
        let (then, early) = (state(&here), state(&here.join(".snapshots/early")));
        shell(&here, "rm -r d; echo encrypted by somebody > big");
        a.ok(&["snapshot", "rm", "db@early"]);
        synced(&a, "db");
        let now = state(&here);

        // Its name is taken here.
        assert!(a.fails(EXISTS, &["attach", &url(&objects), "--at", &record]).contains("\"db\""));
        let said = a.ok(&["attach", &url(&objects), "before", "--at", &record]);
        assert!(said.contains(&format!("before: the state of record {record} of ")), "{said}");
        let there = a.mount("before", &[]);
        assert_eq!(state(&there), then);
        assert_eq!(state(&there.join(".snapshots/early")), early);
        let refused = fs::write(there.join("new"), "new").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        // It says what it is.
        let about = a.json(&["inspect", "before"])["remote"]["at"].clone();
        assert_eq!(about["record"].to_string(), record);
        assert_eq!(remote(&a, "before")["at"], about);
        assert!(a.ok(&["remote", "status", "before"]).contains(&format!("as of record {record} of")));
        let listed = a.ok(&["ls"]);
        assert!(listed.contains("STATE OF") && listed.contains(&format!("record {record} of ")), "{listed}");
        a.ok(&["status", "before"]);
        // What would change it says what to do.
        for args in [
            &["snapshot", "create", "before@x"][..],
            &["clone", "before@early", "copy"],
            &["rollback", "before@early"],
            &["set", "before", "size=1G"],
            &["set", "before", "ship=3"],
            &["remote", "sync", "before"],
        ] {
            let said = a.fails(USAGE, args);
            assert!(said.contains("larder remote detach before"), "{said}");
        }
        assert!(a.fails(USAGE, &["detach", "before"]).contains("larder rm --now before"));
        // Nobody takes it for the owner, and the owner goes on.
        fs::write(here.join("more"), "more").unwrap();
        synced(&a, "db");
        assert_eq!(remote(&a, "db")["fenced"], false);
        // It lives as long as it is wanted.
        let dead = a.server("before");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(dead), nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_until("another one serves it", || a.server("before") != dead);
        assert_eq!(state(&there), then);
        assert!(a.fails(BUSY, &["remote", "detach", "before"]).contains("unmount it first"));
        a.umount("before");
        wait_until("nobody serves it", || a.servers().len() <= 2);
        let said = a.fails(USAGE, &["snapshot", "create", "before@x"]);
        assert!(said.contains("larder remote detach before"), "{said}");
        a.check("before");
        a.ok(&["scrub", "before"]);
        assert_eq!(state(&a.mount("before", &[])), then);
        a.umount("before");

        with_key(&a, &["remote", "detach", "before"]);
        fs::rename(objects.join("db/data"), objects.join("db/elsewhere")).unwrap();
        let there = a.mount("before", &[]);
        assert_eq!(state(&there), then);
        fs::write(there.join("new"), "new").unwrap();
        a.ok(&["snapshot", "create", "before@x"]);
        a.umount("before");
        a.check("before");
        fs::rename(objects.join("db/elsewhere"), objects.join("db/data")).unwrap();
        // It can be shipped, and goes in the place of the other one.
        a.umount("db");
        a.ok(&["rm", "--now", "db", "--keep-remote"]);
        a.ok(&["rename", "before", "db"]);
        let again = a.dir("again");
        a.ok(&["remote", "add", "db", &url(&again)]);
        let here = a.mount("db", &[]);
        synced(&a, "db");
        assert!(fs::read(here.join("big")).unwrap() == pattern(3_000_000, 1) && here.join("d/two").exists());
        assert_ne!(now, then);
        a.umount("db");
    }
}

#[test]
fn what_was_removed_by_mistake_is_found_in_the_remote() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), pattern(500_000, 1)).unwrap();
    let first = synced(&a, "db");
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    let there = b.mount("db", &[]);
    fs::remove_file(there.join("f")).unwrap();
    fs::write(there.join("g"), "g").unwrap();
    synced(&b, "db");
    let later = state(&there);
    b.umount("db");
    b.ok(&["rm", "--now", "db", "--keep-remote"]);
    a.ok(&["rm", "--now", "db", "--keep-remote"]);

    // The remote alone is enough.
    let moments = history(&c, &url(&objects));
    let kinds: Vec<&str> = moments.iter().map(|moment| moment["kind"].as_str().unwrap()).collect();
    for kind in ["commit", "image", "claim", "goodbye"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let claim = moments.iter().find(|moment| moment["kind"] == "claim").unwrap();
    assert_eq!(claim["host"], *host);
    let text = c.ok(&["remote", "history", &url(&objects)]);
    assert!(text.contains(&format!("claim by host {host}")), "{text}");
    assert!(text.lines().count() > moments.len(), "{text}");
    // All of them, also claims and goodbyes; and times.
    let mut states = Vec::new();
    for (i, moment) in moments.iter().enumerate() {
        let (record, time) = (moment["record"].to_string(), moment["time"].as_str().unwrap());
        let name = format!("m{i}");
        c.ok(&["attach", &url(&objects), &name, "--at", &record]);
        states.push(state(&c.mount(&name, &[])));
        c.umount(&name);
        // The last one that was written by then.
        let by_time = c.ok(&["attach", &url(&objects), "timed", "--at", time]);
        let last = moments.iter().rev().find(|other| other["time"].as_str().unwrap() <= time).unwrap();
        assert!(by_time.contains(&format!("record {} of", last["record"])), "{by_time}");
        c.ok(&["rm", "--now", "timed"]);
    }
    let at = |record: &str| {
        moments.iter().position(|moment| moment["record"] == record.parse::<u64>().unwrap()).unwrap()
    };
    assert_eq!(states[at(&first)], then);
    assert_eq!(states.last(), Some(&later));
    // Claims and goodbyes change nothing.
    let last_claim = kinds.iter().rposition(|kind| *kind == "claim").unwrap();
    assert!(
        last_claim > at(&first) + 2 && states[at(&first)..=last_claim].iter().all(|state| *state == then)
    );
    // Nobody was disturbed: whoever wants it has it.
    c.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&c.mount("db", &[])), later);
    c.umount("db");
    // What is no moment.
    let newest = moments.last().unwrap()["record"].as_u64().unwrap() + 1000;
    let said = c.fails(NO_VOLUME, &["attach", &url(&objects), "x", "--at", &newest.to_string()]);
    assert!(said.contains("newest record there is") && said.contains("larder remote history"), "{said}");
    let said = c.fails(NO_VOLUME, &["attach", &url(&objects), "x", "--at", "2001-01-01T00:00:00Z"]);
    assert!(said.contains("begins with record"), "{said}");
    assert!(refused(&c, &["attach", &url(&objects), "x", "--at", "noon"]).contains("not a moment"));
    refused(&c, &["attach", &url(&objects), "x", "--at", "5", "--steal"]);
    c.ok(&["attach", &url(&objects), "x", "--at", "1s"]);
    assert!(fs::read_dir(c.root().join("stores")).unwrap().count() == moments.len() + 2);
}

/// A family with volumes beside each other, one of which is in the trash.
#[test]
fn a_family_is_attached_under_names_of_its_own() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), "f").unwrap();
    for name in ["copy", "gone"] {
        a.ok(&["clone", "db", name]);
    }
    a.ok(&["rm", "gone"]);
    let record = synced(&a, "db");
    let said = a.ok(&["attach", &url(&objects), "old", "--at", &record]);
    assert!(said.contains("old-copy: ") && said.contains("old-db: ") && !said.contains("gone"), "{said}");
    for name in ["old-copy", "old-db"] {
        assert_eq!(fs::read_to_string(a.mount(name, &[]).join("f")).unwrap(), "f");
        a.umount(name);
    }
    assert_eq!(a.json(&["trash", "ls", "--json"]).as_array().unwrap().len(), 1);
    a.ok(&["rm", "old-copy"]);
    a.ok(&["trash", "restore", "old-copy"]);
    a.ok(&["rm", "--now", "old-copy"]);
    a.ok(&["rename", "old-db", "older"]);
    a.ok(&["remote", "detach", "older"]);
    a.check("older");
    a.ok(&["trash", "restore", "gone"]);
}

fn remove_parts(objects: &Path) {
    for segment in fs::read_dir(objects.join("db/data")).unwrap() {
        for part in fs::read_dir(segment.unwrap().path()).unwrap() {
            fs::remove_file(part.unwrap().path()).unwrap();
        }
    }
}

/// The owner keeps nothing for who reads an earlier moment.
#[test]
fn what_has_left_the_history_is_said_and_not_made_up() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("big"), pattern(5_000_000, 1)).unwrap();
    fs::write(here.join("small"), "small").unwrap();
    let record = synced(&a, "db");
    a.ok(&["attach", &url(&objects), "before", "--at", &record]);
    let there = a.mount("before", &[]);
    assert_eq!(fs::read_to_string(there.join("small")).unwrap(), "small");
    remove_parts(&objects);
    assert!(fs::read(there.join("big")).is_err());
    assert_eq!(fs::read_to_string(there.join("small")).unwrap(), "small");
    wait_until("it is known", || !run(&mut a.command(&["status", "before"])).status.success());
    let output = run(&mut a.command(&["status", "before"]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("big"), "{said}");
    let log = a.ok(&["logs", "before"]);
    assert!(log.contains("larder remote history") && log.contains("as long as its history"), "{log}");
    a.umount("before");
    let said = a.fails(NO_VOLUME, &["attach", &url(&objects), "x", "--at", &record]);
    assert!(said.contains("does not go back so far any more"), "{said}");
    assert_eq!(a.ok(&["ls", "-q"]), "before\ndb\n");
    a.umount("db");
}

#[test]
fn new_secrets_open_what_is_older_and_new_keys_do_not() {
    let (a, b) = (Host::encrypted(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), "one").unwrap();
    let record = synced(&a, "db");
    fs::write(here.join("f"), "two").unwrap();
    synced(&a, "db");
    let new = a.dir("keys").join("new");
    fs::write(&new, pattern(64, 77)).unwrap();
    let new = new.to_str().unwrap();
    with_key(&a, &["key", "rotate", "db", "--new-key-file", new]);
    let old = a.key_file().unwrap().to_str().unwrap();
    b.fails(SECRET, &["attach", &url(&objects), "old", "--at", &record, "--key-file", old]);
    b.fails(SECRET, &["remote", "history", &url(&objects)]);
    let listed = b.ok(&["remote", "history", &url(&objects), "--key-file", new]);
    assert!(!listed.contains("encrypted anew"), "{listed}");
    b.ok(&["attach", &url(&objects), "old", "--at", &record, "--key-file", new]);
    let mounted = |name: &str| {
        let there = b.mount(name, &["-o", &format!("key-file={new}")]);
        let text = fs::read_to_string(there.join("f")).unwrap();
        b.umount(name);
        text
    };
    assert_eq!(mounted("old"), "one");
    a.ok(&["key", "reencrypt", "db", "--key-file", new]);
    a.ok(&["remote", "sync", "db"]);
    let said = b.fails(NO_VOLUME, &["attach", &url(&objects), "older", "--at", &record, "--key-file", new]);
    assert!(said.contains("encrypted anew"), "{said}");
    let listed = b.ok(&["remote", "history", &url(&objects), "--key-file", new]);
    assert!(listed.contains("encrypted anew"), "{listed}");
    let newest = remote(&a, "db")["record"].to_string();
    b.ok(&["attach", &url(&objects), "newest", "--at", &newest, "--key-file", new]);
    assert_eq!(mounted("newest"), "two");
    a.kill_server("db");
}

#[test]
fn how_long_the_history_is_can_be_said_and_changed() {
    let a = Host::plain();
    let objects = a.dir("objects");
    assert!(a.fails(USAGE, &["create", "db", "--history", "7d"]).contains("--remote"));
    let said = refused(&a, &["create", "db", "--remote", &url(&objects), "--history", "30min"]);
    assert!(said.contains("1h or more"), "{said}");
    a.volume("db", &["--remote", &url(&objects), "--history", "7d"]);
    let now = || (a.ok(&["get", "db", "history"]), remote(&a, "db")["history_s"].clone());
    assert_eq!(now(), ("7d\n".into(), 604_800.into()));
    assert_eq!(a.ok(&["set", "db", "history=2h"]), "db: history=2h\n");
    assert_eq!(now(), ("2h\n".into(), 7200.into()));
    assert_eq!(a.json(&["inspect", "db"])["remote"]["history_s"], 7200);
    assert!(a.ok(&["remote", "status", "db"]).contains("history:  2h"));
    for bad in ["history=0", "history=59min", "history=long"] {
        assert!(a.fails(USAGE, &["set", "db", bad]).contains("1h"), "{bad}");
    }
    a.umount("db");
    a.ok(&["set", "db", "--unset", "history"]);
    assert_eq!(now(), ("1d\n".into(), 86_400.into()));
    a.ok(&["create", "other"]);
    assert!(a.fails(USAGE, &["set", "other", "history=3d"]).contains("larder remote add other"));
    a.ok(&["remote", "add", "other", &format!("file://{}/other", objects.display()), "--history", "3d"]);
    assert_eq!(a.ok(&["get", "other", "history"]), "3d\n");
}

fn objects_of(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(objects_of(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Whatever a remote has lost or changed: what is read of a moment is right, or is not read, and nothing is left of what was refused.
#[test]
fn a_moment_of_a_remote_that_lies_is_refused_or_is_read_right() {
    let a = Host::plain();
    let (objects, copy) = (a.dir("objects"), a.dir("copy"));
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), pattern(1_500_000, 1)).unwrap();
    let record = synced(&a, "db");
    fs::write(here.join("f"), pattern(1_000_000, 2)).unwrap();
    synced(&a, "db");
    a.umount("db");
    let b = Host::plain();
    let (mut refused, mut right) = (0, 0);
    for object in objects_of(&objects.join("db")) {
        let bytes = fs::read(&object).unwrap();
        let name = object.strip_prefix(&objects).unwrap().to_owned();
        for damage in ["gone", "cut", "changed", "another"] {
            shell(&copy, &format!("rm -rf db; cp -r {}/db .", objects.display()));
            let there = copy.join(&name);
            let mut changed = bytes.clone();
            match damage {
                "cut" => changed.truncate(bytes.len() / 2),
                "changed" => changed[bytes.len() / 2] ^= 1,
                _ => changed = fs::read(objects.join("db/log/0000000000000001")).unwrap(),
            }
            if damage == "gone" {
                fs::remove_file(there).unwrap();
            } else {
                fs::write(there, changed).unwrap();
            }
            let output = run(&mut b.command(&["attach", &url(&copy), "x", "--at", &record]));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!said.contains("panicked"), "{name:?} {damage}: {said}");
            if !output.status.success() {
                assert!(
                    said.starts_with("larder: ") && said.lines().count() == 1,
                    "{name:?} {damage}: {said}"
                );
                assert_eq!(fs::read_dir(b.root().join("stores")).map_or(0, Iterator::count), 0);
                refused += 1;
                continue;
            }
            let dir = b.mount("x", &[]);
            if let Ok(found) = fs::read(dir.join("f")) {
                assert!(found == pattern(1_500_000, 1), "{name:?} {damage}");
                right += 1;
            }
            b.umount("x");
            b.ok(&["rm", "--now", "x"]);
        }
    }
    assert!(refused > 10 && right > 5, "{refused} {right}");
}
