//! A plain store in the place of an encrypted one: whoever can write to the disk would read what is written to it.

use super::host_with_key;
use crate::plugin::client::Plugin;
use crate::support::{Host, run, succeed};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

/// Exit code for everything about secrets.
const SECRET: i32 = 13;

/// Puts a plain store that somebody else has made in the place of the volume's.
fn exchange(host: &Host, volume: &str) {
    let other = Host::plain();
    other.ok(&["create", volume]);
    let store = other.store(volume);
    let id = store.file_name().unwrap();
    succeed(Command::new("cp").arg("-a").arg(&store).arg(host.root().join("stores")));
    let link = host.root().join("volumes").join(volume);
    fs::remove_file(&link).unwrap();
    symlink(Path::new("../stores").join(id), link).unwrap();
}

fn refused(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(SECRET), "{error}");
    error
}

#[test]
fn a_secret_that_is_configured_demands_encryption() {
    let (host, key) = host_with_key();
    host.ok(&["create", "db", "--encrypt", "--key-file", &key]);
    let credentials = host.dir("credentials");
    fs::copy(&key, credentials.join("larder.db.key")).unwrap();
    let dir = host.dir("mountpoint").to_str().unwrap().to_owned();
    exchange(&host, "db");
    let refuse_db = |commands: &[&[&str]]| {
        for &args in commands {
            let output = run(host.command(args).env("CREDENTIALS_DIRECTORY", &credentials));
            assert!(refused(&output).contains("not encrypted"), "{args:?}");
            let output = run(host.command(args).args(["-o", &format!("key-file={key}")]));
            assert!(refused(&output).contains("not encrypted"), "{args:?}");
        }
    };
    refuse_db(&[&["mount", "db", &dir], &["mount", "--foreground", "db", &dir]]);
    // Nor where a server has the store open for another volume.
    host.ok(&["snapshot", "create", "db@a"]);
    host.ok(&["clone", "db@a", "twin"]);
    host.mount("twin", &[]);
    refuse_db(&[&["mount", "db", &dir]]);
    // Where nothing says that it was encrypted, it is a volume like any other.
    host.umount("twin");
    host.mount("db", &[]);
}

#[test]
fn the_configuration_of_a_host_demands_encryption() {
    let (host, key) = host_with_key();
    let config = host.dir("etc").join("larder.toml");
    let dir = host.dir("mountpoint").to_str().unwrap().to_owned();
    host.ok(&["create", "plain"]);
    let configured = |text: &str, args: &[&str]| {
        fs::write(&config, text).unwrap();
        run(host.command(args).env("LARDER_CONFIG", &config))
    };
    let says = format!("require-encryption in {}", config.display());
    for demand in ["require-encryption = true", "require-encryption = [\"a\", \"plain\", \"new\"]"] {
        assert!(refused(&configured(demand, &["mount", "plain", &dir])).contains(&says));
        assert!(refused(&configured(demand, &["create", "new"])).contains(&says));
        // A clone is no more encrypted than what it begins as.
        assert!(refused(&configured(demand, &["clone", "plain", "new"])).contains(&says));
        // To look at what is there is not refused.
        assert!(configured(demand, &["check", "plain"]).status.success());
    }
    let demand = "require-encryption = true";
    assert!(configured(demand, &["create", "new", "--encrypt", "--key-file", &key]).status.success());
    assert!(configured(demand, &["rm", "new"]).status.success());
    // What is not understood is not passed over.
    for bad in ["require-encrytion = true", "require-encryption = yes"] {
        let output = configured(bad, &["mount", "plain", &dir]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("larder.toml: line 1"));
    }
    let missing = host.dir("etc").join("missing");
    assert_eq!(
        run(host.command(&["mount", "plain", &dir]).env("LARDER_CONFIG", missing)).status.code(),
        Some(2)
    );
    host.mount("plain", &[]);
    host.umount("plain");
}

#[test]
fn who_says_with_what_to_open_a_volume_is_told_that_it_is_plain() {
    let (host, key) = host_with_key();
    host.ok(&["create", "plain"]);
    for mounted in [false, true] {
        if mounted {
            host.mount("plain", &[]);
        }
        for args in [
            &["clone", "plain", "twin"][..],
            &["snapshot", "create", "plain@s"],
            &["resize", "plain", "--size", "1G"],
        ] {
            let args = [args, &["--key-file", &key]].concat();
            let error = refused(&run(&mut host.command(&args)));
            assert!(error.contains("not encrypted"), "{args:?}: {error}");
        }
    }
    host.umount("plain");
    assert_eq!(host.json(&["ls", "--json"]).as_array().unwrap().len(), 1);
}

#[test]
fn who_cannot_open_what_a_clone_begins_as_makes_none() {
    let (host, key) = host_with_key();
    let other = host.dir("etc").join("other");
    fs::write(&other, [7; 32]).unwrap();
    host.ok(&["create", "db", "--encrypt", "--key-file", &key]);
    let clone = |key: &str| run(&mut host.command(&["clone", "db", "twin", "--key-file", key]));
    refused(&clone(other.to_str().unwrap()));
    assert_eq!(host.json(&["ls", "--json"]).as_array().unwrap().len(), 1);
    assert!(clone(&key).status.success());
}

#[test]
fn what_was_made_for_containers_is_not_exchanged_under_them() {
    let (host, key) = host_with_key();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "encrypt": "true", "key-file": key }));
    plugin.create("plain", &json!({ "noexec": "true" }));
    for volume in ["db", "plain"] {
        exchange(&host, volume);
        let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": volume, "ID": "x" }));
        assert!(why.contains("was made for containers in store"), "{why}");
        plugin.fails("VolumeDriver.Create", &json!({ "Name": volume, "Opts": { "size": "1G" } }));
        // It is still listed, so that engines do not forget it.
        assert_eq!(plugin.get(volume)["Name"], *volume);
        assert_eq!(run(&mut host.command(&["set", volume, "ro=true"])).status.code(), Some(1));
    }
    let dir = host.dir("mountpoint").to_str().unwrap().to_owned();
    assert!(refused(&run(&mut host.command(&["mount", "db", &dir]))).contains("not encrypted"));
    // Who means it says so.
    fs::remove_file(host.root().join("plugin/volumes/plain.json")).unwrap();
    plugin.mount("plain", "x");
    plugin.unmount("plain", "x");
    plugin.await_unmounted("plain");
    host.ok(&["rm", "db", "--force"]);
    // A record that an interruption left does not haunt who makes a volume of that name.
    let left = json!({ "store": "0".repeat(32), "created": 1, "options": { "encrypt": "true" } });
    fs::write(host.root().join("plugin/volumes/new.json"), left.to_string()).unwrap();
    host.ok(&["create", "new"]);
    plugin.mount("new", "x");
    plugin.unmount("new", "x");
    plugin.await_unmounted("new");
}
