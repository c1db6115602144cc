//! What is attached, and from whom; and remotes that answer wrongly for a while.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, succeed, wait_until};
use larder::remote::Local;
use std::fs;
use std::path::PathBuf;

const SECRET: i32 = 13;

/// As [`Host::ok`], for commands that need the key here.
fn with_key(host: &Host, args: &[&str]) {
    let mut command = host.command(args);
    host.key_file().into_iter().for_each(|key| {
        command.arg("--key-file").arg(key);
    });
    succeed(&mut command);
}

/// A volume that a host has shipped.
fn shipped(a: &Host) -> PathBuf {
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), pattern(400_000, 1)).unwrap();
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    store
}

/// Nobody was told, as the documentation said that they would be.
#[test]
fn who_takes_a_store_is_told_that_its_host_may_still_be_serving() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let store = shipped(&a);
    let output = run(&mut b.command(&["attach", "--steal", &url(&store)]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("may still be serving what it had"), "{said}");
    let host = nix::unistd::gethostname().unwrap();
    assert!(said.contains(&format!("{host:?}")) && said.contains("(record "), "{said}");
    // That one has let go of it.
    let output = run(&mut c.command(&["attach", "--steal", &url(&store)]));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Who can write to a remote puts a plain store there, and would read what is written to it.
#[test]
fn a_plain_store_is_not_attached_where_an_encrypted_one_is_to_be() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = shipped(&a);
    a.umount("db");
    let records = || fs::read_dir(store.join("db/log")).unwrap().count();
    let before = records();
    let key = b.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    let said = b.fails(SECRET, &["attach", &url(&store), "--key-file", key.to_str().unwrap()]);
    assert!(said.contains("not encrypted") && said.contains("a secret was given"), "{said}");
    let config = b.dir("conf").join("larder.toml");
    let attach = |name| {
        let mut command = b.command(&["attach", &url(&store), name]);
        command.env("LARDER_CONFIG", &config);
        command
    };
    for demand in ["require-encryption = true", "require-encryption = [\"safe\"]"] {
        fs::write(&config, demand).unwrap();
        let output = run(&mut attach("safe"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(SECRET) && said.contains("demands"), "{said}");
    }
    assert_eq!((records(), b.ok(&["ls", "-q"]).as_str()), (before, ""));
    assert_eq!(fs::read_dir(b.root().join("stores")).unwrap().count(), 0);
    succeed(&mut attach("other"));
}

/// A page that says that the object store is being maintained ended shipping until the volume was mounted again.
#[test]
fn a_wrong_answer_does_not_end_shipping() {
    let a = Host::plain();
    let object = shipped(&a).join("db/store");
    a.umount("db");
    let good = fs::read(&object).unwrap();
    fs::write(&object, "<html>back soon</html>").unwrap();
    let here = a.mount("db", &[]);
    wait_until("it is known", || remote(&a, "db")["trouble"].is_string());
    let said = remote(&a, "db")["trouble"].to_string();
    assert!(said.contains("db/store"), "{said}");
    fs::write(&object, good).unwrap();
    fs::write(here.join("g"), "g").unwrap();
    a.ok(&["remote", "sync", "db"]);
    assert_eq!(remote(&a, "db")["trouble"], serde_json::Value::Null);
    a.umount("db");
}

/// The end of the line between them was shown as `\n`.
#[test]
fn volumes_that_were_attached_have_a_line_each() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = shipped(&a);
    a.ok(&["clone", "db", "copy"]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    assert_eq!(b.ok(&["attach", &url(&store)]).lines().collect::<Vec<_>>(), ["db", "copy"]);
}

/// Encrypted or not, with the processes and commands that do so.
#[test]
fn a_volume_that_was_stolen_and_given_back_goes_on() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let store = shipped(&a);
        b.ok(&["attach", "--steal", &url(&store)]);
        wait_until("it is known", || remote(&a, "db")["fenced"] == true);
        a.umount("db");
        wait_until("nobody serves it", || a.servers().is_empty());
        let here = a.mount("db", &[]);
        fs::write(here.join("g"), "g").unwrap();
        a.ok(&["remote", "sync", "db"]);
        assert_eq!(remote(&a, "db")["fenced"], false);
        a.umount("db");
    }
}

/// It was as usual, and what had been kept for longer went from the remote.
#[test]
fn an_attach_goes_on_with_the_history_of_the_host_before() {
    const DAY: u64 = 86_400;
    let header = |host: &Host| fs::read_to_string(host.store("db").join("header.json")).unwrap();
    for hosts in [[(); 4].map(|()| Host::plain()), [(); 4].map(|()| Host::encrypted())] {
        let [a, b, c, d] = hosts;
        let store = a.dir("objects");
        a.volume("db", &["--remote", &url(&store), "--history", "7d"]);
        assert!(header(&a).contains("\"history\": 604800"));
        a.ok(&["remote", "sync", "db"]);
        // While it is shipped, and nothing else changes.
        a.ok(&["set", "db", "history=30d"]);
        a.umount("db");
        b.ok(&["attach", &url(&store), "--ship", "60", "--max-lag", "1G", "--local-size", "20G"]);
        let about = remote(&b, "db");
        assert_eq!(about["history_s"], 30 * DAY);
        assert_eq!((&about["ship_s"], &about["max_lag_bytes"]), (&60.into(), &(1u64 << 30).into()));
        assert_eq!(about["local_size_bytes"], 20u64 << 30);
        // Somebody wants something else; it is not mounted yet, and then it is.
        b.mount("db", &[]);
        b.ok(&["remote", "sync", "db"]);
        b.umount("db");
        c.ok(&["attach", &url(&store), "--history", "2d"]);
        assert_eq!(remote(&c, "db")["history_s"], 2 * DAY);
        c.mount("db", &[]);
        c.ok(&["remote", "sync", "db"]);
        c.umount("db");
        d.ok(&["attach", &url(&store)]);
        assert_eq!(remote(&d, "db")["history_s"], 2 * DAY);
        assert!(header(&d).contains("remote-history"));
        // As usual: what does not know of it may have the store again.
        d.ok(&["set", "db", "history=1d"]);
        assert!(!header(&d).contains("history"), "{}", header(&d));
        d.ok(&["set", "db", "history=2d"]);
        with_key(&d, &["remote", "detach", "db"]);
        assert!(!header(&d).contains("history"), "{}", header(&d));
    }
}

/// What a program of an earlier version kept beside the header only, or who was interrupted.
#[test]
fn a_history_that_only_a_host_knows_gets_into_the_remote_when_the_volume_is_next_mounted() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = shipped(&a);
    a.umount("db");
    wait_until("nobody serves it", || a.servers().is_empty());
    let mut local = Local::read(&a.store("db")).unwrap().unwrap();
    local.history = 7200;
    local.write(&a.store("db")).unwrap();
    a.mount("db", &[]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    b.ok(&["attach", &url(&store)]);
    assert_eq!(remote(&b, "db")["history_s"], 7200);
}

/// It was heeded by nobody.
#[test]
fn a_moment_is_not_attached_with_options_that_do_nothing_for_it() {
    let a = Host::plain();
    let store = shipped(&a);
    for option in [["--local-size", "20G"], ["--history", "2d"], ["--ship", "60"], ["--max-lag", "1G"]] {
        let output = run(&mut a.command(
            &[&["attach", &url(&store), "x", "--at", "2999-01-01T00:00:00Z"][..], &option].concat(),
        ));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("cannot be used with"), "{said}");
    }
}

/// Nobody could attach it any more, and each attempt left a claim behind.
#[test]
fn a_damaged_sign_of_life_keeps_nobody_from_the_store() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let store = shipped(&a);
        a.kill_server("db");
        let signs = || fs::read_dir(store.join("db/alive")).unwrap().map(|sign| sign.unwrap().path());
        signs().for_each(|sign| fs::write(sign, "it does not open").unwrap());
        b.fails(5, &["attach", &url(&store)]);
        b.ok(&["attach", "--steal", &url(&store)]);
        let there = b.mount("db", &[]);
        assert!(fs::read(there.join("f")).unwrap() == pattern(400_000, 1));
        b.ok(&["remote", "sync", "db"]);
        assert_eq!(signs().count(), 1, "that of the new owner");
    }
}
