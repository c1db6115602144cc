//! What is attached, and from whom; and remotes that answer wrongly for a while.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, succeed, wait_until};
use std::fs;
use std::path::PathBuf;

const SECRET: i32 = 13;

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
