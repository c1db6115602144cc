//! Commands and the plugin see the same volumes.

use super::client::{Plugin, command, mounts};
use crate::support::{Host, run, succeed, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::Stdio;

#[test]
fn volumes_made_by_hand_are_there_for_containers() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    host.ok(&["create", "db", "--size", "1G", "--label", "app=shop"]);
    let found = plugin.get("db");
    assert_eq!((&found["Name"], &found["Status"]["size"]), (&json!("db"), &json!(1u64 << 30)));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    let by_hand = host.mount("db", &[]);
    assert_eq!(fs::read_to_string(by_hand.join("file")).unwrap(), "x");
    host.umount("db");
    // Made again with what it is, with more to remember, and with what it is not.
    plugin.create("db", &json!({ "size": "1G" }));
    let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "db", "Opts": { "size": "2G" } }));
    assert!(why.contains("its size is 1G, not 2G"), "{why}");
    host.ok(&["create", "other"]);
    plugin.fails(
        "VolumeDriver.Create",
        &json!({ "Name": "other", "Opts": { "encrypt": "true", "key-file": "/k" } }),
    );
    plugin.fails("VolumeDriver.Create", &json!({ "Name": "other", "Opts": { "from": "db" } }));
    host.ok(&["rm", "db"]);
    plugin.fails("VolumeDriver.Get", &json!({ "Name": "db" }));
    host.ok(&["rm", "other"]);
    assert_eq!(host.json(&["ls", "--json"]), json!([]));
}

#[test]
fn the_driver_removes_what_was_made_through_it_only() {
    let host = Host::plain();
    let plugin = Plugin::start(&host);
    let refuses = |name: &str| {
        let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": name }));
        assert!(why.contains(&format!("`larder rm {name}`")), "{why}");
        host.ok(&["inspect", name]);
    };
    host.ok(&["create", "hand", "--size", "1G"]);
    refuses("hand");
    // Whatever is said of it later does not make it the engine's.
    host.ok(&["set", "hand", "noatime=true"]);
    refuses("hand");
    host.ok(&["create", "adopted"]);
    plugin.create("adopted", &json!({ "noatime": "true" }));
    let dir = plugin.mount("adopted", "a");
    assert!(dir.exists());
    plugin.unmount("adopted", "a");
    plugin.await_unmounted("adopted");
    refuses("adopted");
    plugin.create("ours", &json!({}));
    plugin.create("copy", &json!({ "from": "hand" }));
    plugin.create("mem", &json!({ "type": "tmpfs" }));
    host.ok(&["set", "ours", "noatime=true"]);
    for name in ["ours", "copy", "mem"] {
        plugin.remove(name);
        host.fails(3, &["inspect", name]);
    }
    // Who asks again is told the same.
    plugin.remove("ours");
    host.ok(&["rm", "hand", "adopted"]);
}

/// What is remembered of it is not all that there is to know of it.
#[test]
fn a_volume_made_by_hand_is_the_same_whatever_was_set_of_it_since() {
    let host = Host::plain();
    let plugin = Plugin::start(&host);
    host.ok(&["create", "v", "--size", "1G", "--trash", "7d"]);
    host.ok(&["set", "v", "noatime=true"]);
    for _ in 0..2 {
        plugin.create("v", &json!({ "size": "1G", "label.app": "shop" }));
        plugin.create("v", &json!({ "size": "1G", "noatime": "true" }));
        plugin.create("v", &json!({}));
    }
    let fails =
        |options: &Value| plugin.fails("VolumeDriver.Create", &json!({ "Name": "v", "Opts": options }));
    assert!(fails(&json!({ "size": "2G" })).contains("its size is 1G, not 2G"));
    assert!(
        fails(&json!({ "size": "1G", "encrypt": "true", "key-file": "/k" })).contains("it has no encrypt")
    );
    assert!(fails(&json!({ "size": "1G", "trash": "1h" })).contains("its trash is 7d, not 1h"));
    // What was set stays, and what was asked for is remembered.
    let dir = plugin.mount("v", "a");
    assert!(host.json(&["inspect", "v"])["mounts"][0]["options"].as_str().unwrap().contains("noatime"));
    assert!(dir.exists());
    plugin.unmount("v", "a");
    plugin.await_unmounted("v");
    let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "v" }));
    assert!(why.contains("larder rm v"), "{why}");
}

#[test]
fn what_is_usual_on_the_host_is_so_of_volumes_for_containers() {
    let host = Host::plain();
    let config = host.dir("etc").join("larder.toml");
    let key = host.dir("etc").join("key");
    fs::write(&key, [3; 64]).unwrap();
    let usual = format!("[create]\nencrypt = true\nsticky = true\nkey-file = \"{}\"\n", key.display());
    host.ok(&["create", "earlier"]);
    fs::write(&config, &usual).unwrap();
    let plugin = Plugin::launch(&host, command(&host).env("LARDER_CONFIG", &config));
    plugin.await_ready();
    plugin.create("db", &json!({}));
    plugin.create("no", &json!({ "encrypt": "false", "sticky": "false" }));
    // Whoever asks again, for what it is or for nothing in particular, is told the same; also for what was there before.
    for options in [json!({}), json!({ "encrypt": "true" }), json!({ "sticky": "true" })] {
        plugin.create("db", &options);
    }
    plugin.create("earlier", &json!({ "noatime": "true" }));
    let is = |name: &str| {
        let shown = host.json(&["inspect", name]);
        (shown["encrypted"].clone(), shown["sticky"].clone())
    };
    assert_eq!([is("db"), is("no")], [(json!(true), json!(true)), (json!(false), json!(false))]);
    assert_eq!(is("earlier"), (json!(false), json!(false)));
    fs::write(&config, "").unwrap();
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" }));
    assert!(why.contains("sticky"), "{why}");
    plugin.remove("no");
}

#[test]
fn sizes_of_volumes_for_containers_are_as_the_host_demands() {
    let host = Host::plain();
    let config = host.dir("etc").join("larder.toml");
    fs::write(&config, "[policies]\nrequire-size = true\nmax-size = \"1G\"\n").unwrap();
    host.ok(&["create", "large", "--size", "2G"]);
    let plugin = Plugin::launch(&host, command(&host).env("LARDER_CONFIG", &config));
    plugin.await_ready();
    for (options, key) in [
        (json!({}), "require-size"),
        (json!({ "type": "tmpfs" }), "require-size"),
        (json!({ "size": "2G" }), "max-size"),
        (json!({ "type": "tmpfs", "size": "2G" }), "max-size"),
        (json!({ "from": "large" }), "max-size"),
    ] {
        let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "v", "Opts": options }));
        assert!(why.contains(&format!("{key} in [policies] of {}", config.display())), "{options}: {why}");
    }
    plugin.create("v", &json!({ "size": "1G" }));
    plugin.create("mem", &json!({ "type": "tmpfs", "size": "16M" }));
    plugin.create("small", &json!({ "from": "large", "size": "1G" }));
    let set = |option: &str| run(host.command(&["set", "mem", option]).env("LARDER_CONFIG", &config));
    let refused = set("size=2G");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(set("size=32M").status.success());
}

#[test]
fn who_made_a_volume_of_an_earlier_version_is_told_by_what_is_remembered_of_it() {
    let host = Host::plain();
    let plugin = Plugin::start(&host);
    let record = |name: &str| host.root().join("plugin/volumes").join(format!("{name}.json"));
    let made = |name: &str| {
        let id = fs::read_link(host.root().join("volumes").join(name)).unwrap();
        let id = id.file_name().unwrap().to_str().unwrap().to_owned();
        larder::volume::made_at(&larder::root::Root::new(host.root()), id.parse().unwrap()).unwrap()
    };
    // As earlier versions have written it.
    let age = |name: &str, later: u64| {
        let mut of: Value = serde_json::from_slice(&fs::read(record(name)).unwrap()).unwrap();
        assert!(of.as_object_mut().unwrap().remove("by_driver").is_some());
        of["created"] = json!(made(name) + later);
        fs::write(record(name), of.to_string()).unwrap();
    };
    host.ok(&["create", "hand"]);
    host.ok(&["set", "hand", "noatime=true"]);
    age("hand", 1);
    plugin.create("ours", &json!({}));
    age("ours", 0);
    plugin.create("copy", &json!({ "from": "hand" }));
    age("copy", 100);
    for _ in 0..2 {
        let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "hand" }));
        assert!(why.contains("not made through the driver"), "{why}");
        // That leaves it as unsaid as it was.
        host.ok(&["set", "hand", "ro=true"]);
    }
    plugin.remove("ours");
    plugin.remove("copy");
    host.ok(&["rm", "hand"]);
}

#[test]
fn an_encrypted_volume_made_by_hand_is_mounted_once_it_is_known_how() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let key = host.dir("keys").join("key");
    fs::write(&key, [5; 64]).unwrap();
    let key = key.to_str().unwrap();
    host.ok(&["create", "db", "--encrypt", "--key-file", key]);
    assert_eq!(plugin.get("db")["Status"]["encrypted"], true);
    let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": "a" }));
    assert!(why.contains("encrypted") && why.contains("key-file"), "{why}");
    host.ok(&["set", "db", &format!("key-file={key}")]);
    plugin.mount("db", "a");
    plugin.unmount("db", "a");
}

#[test]
fn a_volume_that_is_mounted_by_hand_is_shared_with_containers() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let by_hand = host.volume("db", &[]);
    fs::write(by_hand.join("file"), "x").unwrap();
    let dir = plugin.mount("db", "a");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "x");
    fs::write(dir.join("file"), "y").unwrap();
    assert_eq!(fs::read_to_string(by_hand.join("file")).unwrap(), "y");
    // Each of the two goes without the other.
    plugin.unmount("db", "a");
    wait_until("it is unmounted", || mounts(&host).is_empty());
    assert_eq!(fs::read_to_string(by_hand.join("file")).unwrap(), "y");
    plugin.mount("db", "a");
    succeed(std::process::Command::new("umount").arg(&by_hand));
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "y");
    assert_eq!(plugin.mount("db", "b"), dir);
    plugin.unmount("db", "a");
    plugin.unmount("db", "b");
    wait_until("the server ends", || host.json(&["inspect", "db"])["server"].is_null());
    host.check("db");
}

#[test]
fn commands_show_which_containers_use_a_volume() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "size": "1G" }));
    let id = "0123456789abcdef0123456789abcdef";
    let dir = plugin.mount("db", id);
    plugin.mount("db", id);
    let used = json!({ id: 2 });
    for command in [&["ls", "--json"][..], &["df", "--json"]] {
        let row = host.json(command)[0].clone();
        assert_eq!((&row["mount_ids"], &row["mountpoints"]), (&used, &json!([dir])), "{row}");
    }
    assert_eq!(host.json(&["inspect", "db"])["mount_ids"], used);
    // No process is in such a container; that an engine has it mounted is all there is to say.
    for command in ["ls", "df"] {
        let table = host.ok(&[command]);
        assert!(table.lines().nth(1).unwrap().ends_with("(an engine)"), "{table}");
    }
    let status = plugin.get("db")["Status"].clone();
    let inspected = host.json(&["inspect", "db"]);
    for field in [
        "size",
        "used",
        "inodes",
        "inodes_used",
        "snapshots",
        "encrypted",
        "health",
        "mounts",
        "mount_ids",
        "used_by",
        "disk_used",
        "family",
        "labels",
        "options",
    ] {
        assert_eq!(status[field], inspected[field], "{field}");
    }
    assert!(status["server"]["uptime_s"].is_u64());
    assert!(host.fails(5, &["rm", "db"]).contains("db"));
    let why = host.fails(5, &["umount", "db"]);
    assert!(why.contains("in use by containers"), "{why}");
}

#[test]
fn prune_removes_what_nobody_uses_and_asks_before() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for (name, options) in [
        ("free", json!({})),
        ("used", json!({})),
        ("sticky", json!({ "sticky": "true" })),
        ("shop", json!({ "label.app": "shop" })),
        ("blog", json!({ "label.app": "blog" })),
        ("mem", json!({ "type": "tmpfs" })),
    ] {
        plugin.create(name, &options);
    }
    plugin.mount("used", "a");
    let mounted = host.volume("mounted", &[]);
    let names = || {
        let listed = host.json(&["ls", "--json"]);
        let mut names: Vec<String> =
            listed.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    let all = ["blog", "free", "mem", "mounted", "shop", "sticky", "used"];
    // Nobody says yes.
    let output = run(&mut host.command(&["prune"]));
    let asked = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(asked.contains("free") && asked.contains("mem") && !asked.contains("used "), "{asked}");
    assert_eq!(names(), all);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("no terminal to ask on") && why.contains("--force"), "{why}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(run(&mut host.command(&["prune", "--filter", "nonsense"])).status.code(), Some(2));
    // Somebody does.
    let mut child = host
        .command(&["prune"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(names(), ["blog", "mounted", "shop", "sticky", "used"]);
    host.ok(&["prune", "--force", "--filter", "label=app=shop"]);
    assert_eq!(names(), ["blog", "mounted", "sticky", "used"]);
    host.ok(&["prune", "--force", "--filter", "label!=app"]);
    assert_eq!(names(), ["blog", "mounted", "sticky", "used"]);
    assert_eq!(host.json(&["prune", "--force", "--json", "--filter", "label=app"]), json!(["blog"]));
    plugin.unmount("used", "a");
    plugin.await_unmounted("used");
    host.umount("mounted");
    assert!(fs::read_dir(mounted).unwrap().next().is_none());
    host.ok(&["prune", "--force"]);
    assert_eq!(names(), ["sticky"]);
}

#[test]
fn a_snapshot_of_a_volume_in_a_container_has_everything() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "size": "1G" }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "not synced").unwrap();
    host.ok(&["snapshot", "create", "db@one"]);
    assert_eq!(fs::read_to_string(dir.join(".snapshots/one/file")).unwrap(), "not synced");
    fs::write(dir.join("file"), "later").unwrap();
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    host.ok(&["rollback", "db@one"]);
    let dir = plugin.mount("db", "a");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "not synced");
    plugin.unmount("db", "a");
}

#[test]
fn a_volume_with_another_name_is_another_volume_to_engines() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "size": "10M", "sticky": "true", "noatime": "true" }));
    plugin.create("mem", &json!({ "type": "tmpfs", "size": "1M" }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("f"), "kept").unwrap();
    plugin.mount("mem", "a");
    for name in ["db", "mem"] {
        let why = host.fails(5, &["rename", name, "new"]);
        assert!(why.contains("in use by containers"), "{why}");
        plugin.unmount(name, "a");
        plugin.await_unmounted(name);
    }
    host.ok(&["rename", "db", "new"]);
    host.ok(&["rename", "mem", "new-mem"]);
    assert!(host.fails(4, &["rename", "new", "new-mem"]).contains("exists"));
    assert!(host.fails(4, &["rename", "new-mem", "new"]).contains("exists"));
    assert!(plugin.fails("VolumeDriver.Get", &json!({ "Name": "db" })).contains("db"));
    assert!(plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": "b" })).contains("db"));
    // It is what it was asked for to be.
    plugin.create("new", &json!({ "size": "10M", "sticky": "true", "noatime": "true" }));
    let dir = plugin.mount("new", "b");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "kept");
    assert_eq!(plugin.get("new")["Status"]["mount_ids"], json!({ "b": 1 }));
    let memory = plugin.mount("new-mem", "b");
    fs::write(memory.join("f"), "x").unwrap();
    for name in ["new", "new-mem"] {
        plugin.unmount(name, "b");
        plugin.await_unmounted(name);
    }
    // A snapshot that is held keeps the engine from removing the volume.
    host.ok(&["set", "new", "sticky=false"]);
    host.ok(&["snapshot", "create", "new@s"]);
    host.ok(&["hold", "backup", "new@s"]);
    assert!(plugin.fails("VolumeDriver.Remove", &json!({ "Name": "new" })).contains("new@s is held"));
    assert_eq!(plugin.get("new")["Status"]["snapshots"][0]["holds"], json!(["backup"]));
    host.ok(&["release", "backup", "new@s"]);
    plugin.remove("new");
    plugin.remove("new-mem");
}
