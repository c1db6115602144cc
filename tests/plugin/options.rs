//! What can be asked for when a volume is made, and what comes of it.

use super::client::{Plugin, mounts};
use crate::support::{Host, shell, wait_until};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is mounted on a directory: the type.
fn mounted_type(dir: &Path) -> String {
    larder::mount::entry_at(dir).unwrap().unwrap().fs_type
}

fn key(host: &Host, name: &str) -> String {
    let path = host.dir("keys").join(name);
    fs::write(&path, [name.len() as u8; 64]).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn limits_owner_and_mode_are_those_asked_for() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let options = json!({ "size": "100M", "inodes": "500", "uid": "1000", "gid": "1001", "mode": "1770" });
    plugin.create("db", &options);
    // All in one, as Docker's own driver takes it.
    plugin.create("list", &json!({ "o": "size=100M,inodes=500,uid=1000,gid=1001,mode=1770" }));
    for name in ["db", "list"] {
        let dir = plugin.mount(name, "a");
        let (meta, fs) = (dir.metadata().unwrap(), statvfs(&dir).unwrap());
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, 0o1770));
        assert_eq!((fs.blocks() * fs.fragment_size(), fs.files()), (100 << 20, 500));
        plugin.unmount(name, "a");
    }
    // fact 9: the plugin is told of labels by options only.
    plugin.create("labelled", &json!({ "label.app": "shop", "label.com.example/x": "a=b" }));
    let labels = json!({ "app": "shop", "com.example/x": "a=b" });
    assert_eq!(plugin.get("labelled")["Status"]["labels"], labels);
    assert_eq!(host.json(&["inspect", "labelled"])["labels"], labels);
}

#[test]
fn how_a_volume_is_mounted_is_remembered_over_everything() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let options = json!({ "ro": "true", "noatime": "", "nosuid": "1", "cache-size": "64M", "commit": "7", "context": "system_u:object_r:container_file_t:s0:c1,c2" });
    plugin.create("db", &options);
    let check = |plugin: &Plugin<'_>| {
        let dir = plugin.mount("db", "a");
        let flags = statvfs(&dir).unwrap().flags();
        assert!(flags.contains(FsFlags::ST_RDONLY | FsFlags::ST_NOATIME | FsFlags::ST_NOSUID), "{flags:?}");
        let list = plugin.get("db")["Status"]["mounts"][0]["options"].as_str().unwrap().to_owned();
        for option in ["ro", "noatime", "nosuid", "cache-size=64M", "commit=7", "s0:c1,c2"] {
            assert!(list.contains(option), "{list}");
        }
        assert!(fs::write(dir.join("file"), "x").is_err());
    };
    check(&plugin);
    host.kill_server("db");
    let plugin = plugin.crash();
    check(&plugin);
    plugin.unmount("db", "a");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    // It can be changed.
    host.ok(&["set", "db", "ro=false", "commit=9"]);
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    let list = plugin.get("db")["Status"]["mounts"][0]["options"].as_str().unwrap().to_owned();
    assert!(list.contains("commit=9") && list.contains("noatime"), "{list}");
    plugin.unmount("db", "a");
    for bad in [
        "size=10",
        "encrypt=true",
        "from=x",
        "uid=no-such-user",
        "label.=b",
        "nonsense=1",
        "commit=x",
        "o=size=1G",
        "key-file=/k",
    ] {
        host.fails(2, &["set", "db", bad]);
    }
    host.fails(3, &["set", "nothing", "ro=true"]);
}

#[test]
fn a_clone_begins_as_its_source() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "size": "1G" }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "monday").unwrap();
    host.ok(&["snapshot", "create", "db@monday"]);
    fs::write(dir.join("file"), "tuesday").unwrap();
    for (name, options, holds) in [
        ("now", json!({ "from": "db" }), "tuesday"),
        ("then", json!({ "from": "db@monday", "size": "2G", "label.a": "b" }), "monday"),
        ("like", json!({ "snapshot": "true", "parent": "db" }), "tuesday"),
    ] {
        plugin.create(name, &options);
        plugin.create(name, &options);
        let dir = plugin.mount(name, "a");
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), holds);
        fs::write(dir.join("file"), name).unwrap();
    }
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "tuesday");
    assert_eq!(plugin.get("then")["Status"]["size"], json!(2u64 << 30));
    let snapshots = plugin.get("db")["Status"]["snapshots"].clone();
    assert_eq!(snapshots[0]["name"], "monday");
    assert!(snapshots[0]["created"].as_str().unwrap().ends_with('Z'));
    for (options, says) in [
        (json!({ "from": "nothing" }), "no volume"),
        (json!({ "from": "db@never" }), "no snapshot"),
        (json!({ "from": "db", "encrypt": "true" }), "not encrypted"),
        (json!({ "from": "db", "inodes": "1" }), "below"),
    ] {
        let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "bad", "Opts": options }));
        assert!(why.contains(says), "{why}");
    }
    for name in ["now", "then", "like"] {
        plugin.unmount(name, "a");
        plugin.remove(name);
    }
    plugin.unmount("db", "a");
    plugin.remove("db");
    assert_eq!(host.json(&["ls", "--json"]), json!([]));
}

#[test]
fn an_encrypted_volume_needs_no_more_than_where_its_secret_is() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let key_file = key(&host, "key");
    let passphrase = host.dir("keys").join("passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    plugin.create("db", &json!({ "encrypt": "true", "key-file": key_file }));
    plugin.create("words", &json!({ "encrypted": "true", "passphrase-file": passphrase }));
    for name in ["db", "words"] {
        let dir = plugin.mount(name, "a");
        fs::write(dir.join("a-secret-name"), "secret contents").unwrap();
        assert_eq!(plugin.get(name)["Status"]["encrypted"], true);
        plugin.unmount(name, "a");
        let found = shell(&host.store(name), "grep -rl 'secret' . || true");
        assert_eq!(found, "", "in clear");
    }
    // A clone is opened by what opens its source.
    plugin.create("copy", &json!({ "from": "db" }));
    let dir = plugin.mount("copy", "a");
    assert_eq!(fs::read_to_string(dir.join("a-secret-name")).unwrap(), "secret contents");
    plugin.unmount("copy", "a");
    // Also by hand, without having to say where the secret is.
    assert_eq!(host.json(&["inspect", "db"])["encrypted"], true);
    // The key itself is nowhere.
    let remembered = shell(host.root(), "cat plugin/volumes/*.json");
    assert!(remembered.contains(&key_file) && !remembered.contains("horse"), "{remembered}");
    for (options, says) in [
        (json!({ "encrypt": "true" }), "key-file"),
        (json!({ "encrypt": "true", "key-file": "/nowhere" }), "head -c 64 /dev/urandom"),
        (json!({ "encrypt": "true", "key-file": "correct horse" }), "never the secret itself"),
        (json!({ "encrypt": "true", "key-file": "/etc" }), "not a file"),
        (json!({ "key-file": key_file }), "encrypt"),
    ] {
        let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "bad", "Opts": options }));
        assert!(why.contains(says), "{why}");
    }
    // The wrong key.
    fs::write(&key_file, [9; 64]).unwrap();
    let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": "a" }));
    assert!(why.contains("does not open any of its key slots"), "{why}");
    wait_until("nothing is mounted", || mounts(&host).is_empty());
}

#[test]
fn a_sticky_volume_goes_only_when_asked_twice() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "sticky": "true" }));
    let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" }));
    assert!(why.contains("sticky") && why.contains("larder rm --force db"), "{why}");
    assert!(host.fails(5, &["rm", "db"]).contains("--force"));
    host.ok(&["prune", "--force"]);
    assert_eq!(plugin.get("db")["Status"]["sticky"], true);
    host.ok(&["set", "db", "sticky=false"]);
    plugin.remove("db");
    plugin.create("db", &json!({ "sticky": "" }));
    host.ok(&["rm", "--force", "db"]);
    // What is made under that name later is not sticky.
    plugin.create("db", &json!({}));
    assert_eq!(plugin.get("db")["Status"]["sticky"], false);
    plugin.remove("db");
}

#[test]
fn a_volume_in_memory_never_touches_a_disk() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("mem", &json!({ "type": "tmpfs", "device": "tmpfs", "o": "size=16M,mode=0750,uid=1000,gid=1001", "inodes": "50" }));
    assert_eq!(plugin.get("mem")["Status"]["state"], "unmounted");
    let dir = plugin.mount("mem", "a");
    plugin.mount("mem", "b");
    let (meta, space) = (dir.metadata().unwrap(), statvfs(&dir).unwrap());
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, 0o750));
    assert_eq!((space.blocks() * space.fragment_size(), space.files()), (16 << 20, 50));
    assert_eq!(mounted_type(&dir), "tmpfs");
    let options = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = options.lines().find(|line| line.contains(dir.to_str().unwrap())).unwrap().to_owned();
    assert!(
        line.contains("noswap") || fs::read_to_string("/proc/swaps").unwrap().lines().count() == 1,
        "{line}"
    );
    fs::write(dir.join("file"), vec![1; 1 << 20]).unwrap();
    assert!(fs::write(dir.join("more"), vec![1; 17 << 20]).is_err());
    let status = plugin.get("mem")["Status"].clone();
    assert!(status["used"].as_u64().unwrap() > 1 << 20, "{status}");
    assert_eq!((&status["type"], &status["size"]), (&json!("tmpfs"), &json!(16 << 20)));
    // It is among all the others.
    let listed = host.json(&["ls", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["mount_ids"]), (&json!("mem"), &json!({ "a": 1, "b": 1 })));
    assert_eq!(host.json(&["inspect", "mem"])["type"], "tmpfs");
    assert_eq!(host.json(&["df", "mem", "--json"])[0]["size"], json!(16 << 20));
    assert_eq!(host.json(&["df", "--json"])[0]["name"], "mem");
    assert_eq!(host.ok(&["get", "mem", "size"]), "16M\n");
    // It is there, and is not what most commands are about.
    let elsewhere = host.dir("elsewhere");
    for args in [
        &["mount", "mem", elsewhere.to_str().unwrap()][..],
        &["check", "mem"],
        &["snapshot", "create", "mem@x"],
        &["key", "list", "mem"],
    ] {
        let line = host.fails(2, args);
        assert!(line.contains("lives in memory only") && line.contains("mount --bind"), "{line}");
    }
    assert!(host.fails(4, &["create", "mem"]).contains("exists"));
    assert!(host.fails(5, &["rm", "mem"]).contains("in use"));
    // The plugin can go meanwhile; what is in it stays as long as somebody has it mounted.
    let plugin = plugin.crash();
    plugin.unmount("mem", "a");
    assert_eq!(fs::read(dir.join("file")).unwrap().len(), 1 << 20);
    plugin.unmount("mem", "b");
    plugin.await_unmounted("mem");
    assert_eq!(fs::read_dir(plugin.mount("mem", "c")).unwrap().count(), 0);
    plugin.unmount("mem", "c");
    assert!(!host.root().join("stores").read_dir().unwrap().any(|entry| entry.is_ok()));
    plugin.create("mem", &json!({ "type": "tmpfs", "o": "size=16M,mode=750,uid=1000,gid=1001,inodes=50" }));
    plugin.fails("VolumeDriver.Create", &json!({ "Name": "mem", "Opts": { "size": "16M" } }));
    plugin.fails("VolumeDriver.Create", &json!({ "Name": "copy", "Opts": { "from": "mem" } }));
    plugin.remove("mem");
    host.ok(&["create", "mem"]);
    plugin.fails("VolumeDriver.Create", &json!({ "Name": "mem", "Opts": { "type": "tmpfs" } }));
}

#[test]
fn unknown_options_are_refused_with_those_there_are() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for options in [
        json!({ "volume-opt": "x" }),
        json!({ "o": "size=1G,nonsense" }),
        json!({ "SIZE": "1G" }),
        json!({ "": "" }),
    ] {
        let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "db", "Opts": options }));
        for option in
            ["size=", "inodes=", "from=", "encrypt", "key-file=", "uid=", "sticky", "label.", "type=tmpfs"]
        {
            assert!(why.contains(option), "{why}");
        }
    }
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
}

#[test]
fn an_existing_volume_is_not_taken_for_another() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let create = |name: &str, options: &Value| {
        plugin.call("VolumeDriver.Create", &json!({ "Name": name, "Opts": options }))
    };
    plugin.create("db", &json!({ "size": "10G", "uid": "5", "label.a": "b" }));
    // The same in other words.
    plugin.create("db", &json!({ "o": "size=10240M,uid=5", "label.a": "b" }));
    // Nothing in particular.
    plugin.create("db", &json!({}));
    plugin.create("db", &Value::Null);
    for (options, says) in [
        (json!({ "size": "20G", "uid": "5", "label.a": "b" }), "its size is 10G, not 20G"),
        (json!({ "size": "10G", "uid": "5", "label.a": "b", "ro": "true" }), "it has no ro=true"),
        (json!({ "size": "10G", "label.a": "b" }), "it has uid=5"),
        (json!({ "size": "10G", "uid": "5", "label.a": "c" }), "its label.a is b, not c"),
        (json!({ "type": "tmpfs" }), "it has no type=tmpfs"),
    ] {
        let answer = create("db", &options);
        let why = answer.body["Err"].as_str().unwrap();
        assert!(answer.status == 500 && why.contains("exists") && why.contains(says), "{why}");
    }
    // What it was made with, and what it has become since.
    host.ok(&["resize", "db", "--size", "20G"]);
    plugin.create("db", &json!({ "size": "10G", "uid": "5", "label.a": "b" }));
    plugin.create("db", &json!({ "size": "20G", "uid": "5", "label.a": "b" }));
    assert_eq!(create("db", &json!({ "size": "30G", "uid": "5", "label.a": "b" })).status, 500);
    host.ok(&["set", "db", "uid=6", "mode=700"]);
    plugin.create("db", &json!({ "size": "10G", "uid": "5", "label.a": "b" }));
    plugin.create("db", &json!({ "size": "10G", "uid": "6", "mode": "700", "label.a": "b" }));
    assert_eq!(create("db", &json!({ "size": "10G", "uid": "7", "label.a": "b" })).status, 500);
}
