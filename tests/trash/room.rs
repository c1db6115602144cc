//! The trash goes by itself: when its time has come, and when the host is short of room.

use super::Kept;
use crate::bad_input::SmallDisk;
use crate::plugin::client::{Plugin, command};
use crate::support::{Host, pattern, run, wait_until};
use serde_json::{Value, json};
use std::fs;

/// Makes the time of what is in the trash come.
fn expire(host: &Host) {
    for entry in fs::read_dir(host.root().join("trash")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let mut of: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            of["until"] = json!(of["removed"].as_u64().unwrap());
            fs::write(path, of.to_string()).unwrap();
        }
    }
}

#[test]
fn what_has_expired_goes_in_passing_and_with_the_timer() {
    let host = Kept::new(Host::plain());
    for command in
        [&["create", "other"][..], &["rm", "other"], &["prune", "--force"], &["trash", "empty", "--expired"]]
    {
        host.does(&["create", "v"]);
        host.does(&["rm", "v"]);
        expire(&host);
        // Whoever only looks removes nothing, and what is there still comes back.
        assert!(host.trashed_names().contains(&"v".to_owned()));
        host.does(&["trash", "restore", "v"]);
        host.does(&["rm", "v"]);
        expire(&host);
        host.does(command);
        assert!(!host.trashed_names().contains(&"v".to_owned()), "{command:?}");
    }
    host.does(&["trash", "empty", "--force"]);
    assert_eq!(host.stores(), 0);
}

#[test]
fn the_driver_puts_into_the_trash_and_empties_it() {
    let host = Host::new();
    let plugin = Plugin::launch(
        &host,
        command(&host).env("LARDER_CONFIG", {
            let config = host.dir("etc").join("larder.toml");
            fs::write(&config, "trash-reserve = 0\n").unwrap();
            config
        }),
    );
    plugin.await_ready();
    let trashed = || {
        let listed = host.json(&["trash", "ls", "--json"]);
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|of| of["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    plugin.create("db", &json!({ "label.app": "shop" }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "precious").unwrap();
    plugin.unmount("db", "a");
    plugin.remove("db");
    assert_eq!(trashed(), ["db"]);
    // A name is free, and other options can be asked for.
    plugin.create("db", &json!({ "size": "1G", "trash": "0" }));
    plugin.remove("db");
    assert_eq!(trashed(), ["db"]);
    host.ok(&["trash", "restore", "db"]);
    assert_eq!(plugin.get("db")["Status"]["labels"], json!({ "app": "shop" }));
    let dir = plugin.mount("db", "b");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "precious");
    plugin.unmount("db", "b");
    // How long it stays can be changed, and whoever asks for the volume again need not know.
    host.ok(&["set", "db", "trash=7d"]);
    plugin.create("db", &json!({ "label.app": "shop" }));
    let why = plugin.fails("VolumeDriver.Create", &json!({ "Name": "x", "Opts": { "trash": "soon" } }));
    assert!(why.contains("write it like 24h"), "{why}");
    // It is still one that the driver has made.
    plugin.remove("db");
    assert_eq!(trashed(), ["db"]);
    expire(&host);
    wait_until("the trash is emptied", || trashed().is_empty());
    wait_until("its store is gone", || fs::read_dir(host.root().join("stores")).unwrap().count() == 0);
    // In memory, there is nothing to keep.
    plugin.create("mem", &json!({ "type": "tmpfs" }));
    plugin.remove("mem");
    assert!(trashed().is_empty());
    plugin.fails("VolumeDriver.Create", &json!({ "Name": "m", "Opts": { "type": "tmpfs", "trash": "1h" } }));
}

/// Makes a volume of so many MiB, and removes it.
fn remove_large(host: &Host, name: &str, mib: usize) {
    let dir = host.volume(name, &[]);
    fs::write(dir.join("file"), pattern(mib << 20, 1)).unwrap();
    host.umount(name);
    host.ok(&["rm", name]);
}

fn trashed(host: &Host) -> Vec<String> {
    let listed = host.json(&["trash", "ls", "--json"]);
    listed.as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_was_removed_first_goes_first_when_the_host_is_short_of_room() {
    let disk = SmallDisk::new(400);
    let host = Host::with_root(disk.path().join("root"));
    let config = host.dir("etc").join("larder.toml");
    for name in ["one", "two", "three"] {
        remove_large(&host, name, 64);
    }
    assert_eq!(trashed(&host), ["one", "two", "three"]);
    let tidy = |reserve: u64| {
        fs::write(&config, format!("trash-reserve = \"{reserve}\"")).unwrap();
        let output = run(host.command(&["trash", "empty", "--expired"]).env("LARDER_CONFIG", &config));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let free =
        nix::sys::statvfs::statvfs(disk.path()).map(|fs| fs.blocks_available() * fs.fragment_size()).unwrap();
    assert_eq!(tidy(free / 2), "");
    let said = tidy(free + (10 << 20));
    assert!(
        said.starts_with("one~") && said.contains("short of room") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(trashed(&host), ["two", "three"]);
    tidy(1 << 50);
    assert!(trashed(&host).is_empty());
}

#[test]
fn a_server_that_runs_out_of_room_gets_that_of_the_trash() {
    let disk = SmallDisk::new(300);
    let host = Host::with_root(disk.path().join("root"));
    remove_large(&host, "old", 120);
    let dir = host.volume("v", &[]);
    // More than is free, and less than there would be.
    let mut refused = 0;
    for i in 0..200u64 {
        let write = || {
            fs::write(dir.join(i.to_string()), pattern(1 << 20, i))
                .and_then(|()| fs::File::open(dir.join(i.to_string()))?.sync_all())
        };
        wait_until("there is room", || {
            let written = write();
            refused += usize::from(written.is_err());
            written.is_ok()
        });
    }
    assert!(trashed(&host).is_empty());
    assert!(fs::read(dir.join("199")).unwrap() == pattern(1 << 20, 199));
    println!("refused {refused} times");
    host.umount("v");
    host.check("v");
}
