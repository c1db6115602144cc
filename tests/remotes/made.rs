//! Volumes that are made with a remote.

use crate::plugin::client::{Plugin, command};
use crate::support::{Host, run, state, succeed};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What is said by a command that must fail with this code.
#[track_caller]
fn fail(command: &mut Command, code: i32) -> String {
    let output = run(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// A remote with a name, and the file that says so.
fn offsite(host: &Host) -> (PathBuf, PathBuf) {
    let (objects, file) = (host.dir("objects"), host.dir("etc").join("remotes.toml"));
    fs::write(&file, format!("[offsite]\nurl = \"file://{}\"\n", objects.display())).unwrap();
    (objects, file)
}

#[test]
fn a_volume_has_its_remote_from_the_start() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let url = format!("file://{}/db", a.dir("objects").display());
        let here = a.volume("db", &["--remote", &url, "--ship", "1"]);
        fs::write(here.join("file"), "data").unwrap();
        a.ok(&["remote", "sync", "db"]);
        let then = state(&here);
        a.umount("db");
        b.ok(&["attach", &url]);
        assert_eq!(state(&b.mount("db", &[])), then);
        // A place has one store.
        assert!(a.fails(4, &["create", "other", "--remote", &url]).contains("choose another URL"));
        let clone = a.fails(2, &["create", "copy", "--from", "db", "--remote", &url]);
        assert!(clone.contains("leave out --remote"), "{clone}");
        assert_eq!(a.ok(&["ls", "-q"]), "db\n", "nothing is left of what could not be made");
    }
}

#[test]
fn nothing_is_made_where_the_remote_cannot_be_had() {
    let host = Host::new();
    let said = host.fails(2, &["create", "v", "--remote", "s3:/bucket"]);
    assert!(said.contains("write a URL"), "{said}");
    let mut create = host.command(&["create", "v", "--remote", "s3://bucket/v"]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"] {
        create.env_remove(name);
    }
    let said = fail(create.env("HOME", host.dir("home")), 1);
    assert!(said.contains("cannot create volume \"v\"") && said.contains("no credentials"), "{said}");
    let mut create = host.command(&["create", "v", "--remote", "s3://bucket/v"]);
    create.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "hunter2");
    let said = fail(create.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "x"), 12);
    assert!(said.contains("cannot create volume \"v\"") && !said.contains("hunter2"), "{said}");
    assert!(fs::read_dir(host.root().join("stores")).map_or(0, Iterator::count) == 0);
}

#[test]
fn engines_and_the_configuration_ask_for_a_remote_by_its_name() {
    let host = Host::new();
    let (objects, remotes) = offsite(&host);
    let config = host.dir("etc").join("larder.toml");
    fs::write(&config, "").unwrap();
    let mut plugin = command(&host);
    plugin.env("LARDER_REMOTES", &remotes).env("LARDER_CONFIG", &config).env("LARDER_UNFINISHED", "remotes");
    let plugin = Plugin::launch(&host, &mut plugin);
    plugin.await_ready();
    let options = json!({
        "remote": "offsite", "ship": "86400", "max-lag": "1G", "history": "7d", "durability": "remote", "size": "100M"
    });
    plugin.create("db", &options);
    // As often as a Compose file is brought up.
    plugin.create("db", &options);
    let create = |name: &str, options: serde_json::Value| json!({ "Name": name, "Opts": options });
    let other = json!({ "remote": format!("file://{}/x", objects.display()), "size": "100M" });
    let said = plugin.fails("VolumeDriver.Create", &create("db", other));
    assert!(said.contains("its remote is"), "{said}");
    let said = plugin.fails("VolumeDriver.Create", &create("x", json!({ "remote": "ofsite" })));
    assert!(said.contains("did you mean \"offsite\"?"), "{said}");
    let said = plugin.fails("VolumeDriver.Create", &create("x", json!({ "durability": "remote" })));
    assert!(said.contains("remote=NAME"), "{said}");
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "data").unwrap();
    let records = || fs::read_dir(objects.join("db/log")).map_or(0, Iterator::count);
    let before = records();
    fs::File::open(dir.join("file")).unwrap().sync_all().unwrap();
    assert!(records() > before, "a sync in a container waits for the remote, too");
    let with = |args: &[&str]| {
        let mut command = host.command(args);
        command.env("LARDER_REMOTES", &remotes).env("LARDER_CONFIG", &config);
        command
    };
    succeed(&mut with(&["remote", "sync", "db"]));
    assert!(objects.join("db/log").exists());
    plugin.unmount("db", "a");
    assert_eq!(succeed(&mut with(&["get", "db", "history"])), "7d\n");
    // What it was at some moment, containers only read.
    let listed = succeed(&mut with(&["remote", "history", "offsite/db", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let newest = listed["moments"].as_array().unwrap().last().unwrap()["record"].to_string();
    succeed(&mut with(&["attach", "offsite/db", "then", "--at", &newest]));
    let dir = plugin.mount("then", "b");
    assert_eq!(fs::write(dir.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    plugin.unmount("then", "b");
    // Where every volume has one.
    fs::write(&config, "[create]\nremote = \"offsite\"\nship = 9\nhistory = \"2d\"\n").unwrap();
    succeed(&mut with(&["create", "usual"]));
    let said = succeed(&mut with(&["remote", "status", "usual"]));
    assert!(said.contains("9 s") && said.contains("history:  2d"), "{said}");
    succeed(&mut with(&["create", "own", "--remote", "none"]));
    assert!(fail(&mut with(&["remote", "status", "own"]), 2).contains("has no remote"));
    fs::write(&config, "[create]\nremote = \"s3://bucket/one\"\n").unwrap();
    assert!(fail(&mut with(&["config", "check"]), 2).contains("line 2"));
}
