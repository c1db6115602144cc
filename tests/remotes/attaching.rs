//! Remotes that answer wrongly for a while.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, wait_until};
use std::fs;
use std::path::PathBuf;

/// A volume that a host has shipped.
fn shipped(a: &Host) -> PathBuf {
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), pattern(400_000, 1)).unwrap();
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    store
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
