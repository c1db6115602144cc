//! What a rollback replaced: it is in the trash as well, and goes by itself unless somebody keeps it.

use super::Kept;
use crate::bad_input::SmallDisk;
use crate::support::{Host, pattern, run, wait_until};
use serde_json::{Value, json};
use std::fs;

/// Makes the time of all of it come.
fn expire(host: &Host) {
    for entry in fs::read_dir(host.root().join("replaced")).unwrap() {
        let path = entry.unwrap().path();
        let mut of: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        of["until"] = of["replaced"].clone();
        fs::write(path, of.to_string()).unwrap();
    }
}

fn write(host: &Kept, text: &str) {
    let dir = host.mount("v", &[]);
    fs::write(dir.join("file"), text).unwrap();
    host.umount("v");
}

#[track_caller]
fn reads(host: &Kept, name: &str) -> String {
    let dir = host.mount(name, &[]);
    let text = fs::read_to_string(dir.join("file")).unwrap();
    host.umount(name);
    text
}

/// Rolls `v` back to its snapshot `one`; what it was before.
fn roll_back(host: &Kept) -> String {
    let rolled: Value = serde_json::from_str(&host.does_with_key(&["rollback", "v@one", "--json"])).unwrap();
    assert!(rolled["until"].is_string(), "{rolled}");
    rolled["kept"].as_str().unwrap().to_owned()
}

/// A volume that was rolled back from "new" to "old"; what it was before.
fn rolled_back(host: &Kept) -> String {
    host.precious("v", "old");
    write(host, "new");
    roll_back(host)
}

fn snapshots(host: &Kept, volume: &str) -> Vec<String> {
    let listed: Value =
        serde_json::from_str(&host.does_with_key(&["snapshot", "ls", volume, "--json"])).unwrap();
    listed.as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap().to_owned()).collect()
}

fn ids(host: &Kept) -> Vec<String> {
    host.trash().iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_rollback_replaced_comes_back_as_it_was_or_as_another_volume() {
    for host in Kept::each_kind() {
        let before = rolled_back(&host);
        assert_eq!(reads(&host, "v"), "old");
        let trash = host.trash();
        assert_eq!(trash.len(), 1);
        assert_eq!(
            (&trash[0]["id"], &trash[0]["name"], &trash[0]["kind"]),
            (&json!(before), &json!("v"), &json!("state"))
        );
        assert!(trash[0]["until"].as_str() > trash[0]["removed"].as_str());
        if host.key_file().is_none() {
            assert!(trash[0]["used"].as_u64().unwrap() > 0, "{trash:?}");
        }
        let why = host.refuses(3, &["trash", "restore", "v"]);
        assert!(why.contains(&format!("larder trash restore {before}")), "{why}");
        host.refuses(3, &["trash", "restore", "v@before-rollback-never"]);
        assert_eq!(host.does_with_key(&["trash", "restore", &before, "copy"]), "copy\n");
        assert_eq!((reads(&host, "copy"), reads(&host, "v")), ("new".to_owned(), "old".to_owned()));
        // While it is mounted, what programs see does not change under them.
        host.mount("v", &[]);
        let why = host.refuses(5, &["trash", "restore", &before]);
        assert!(why.contains(&format!("larder rollback --live {before}")), "{why}");
        host.umount("v");
        assert_eq!(host.does_with_key(&["trash", "restore", &before]), "v\n");
        assert_eq!(reads(&host, "v"), "new");
        // That was a rollback as well.
        assert_eq!(ids(&host).len(), 2);
        host.does_with_key(&["trash", "empty", "--force"]);
        assert_eq!((ids(&host).len(), snapshots(&host, "v")), (0, vec!["one".to_owned()]));
        assert_eq!((reads(&host, "copy"), reads(&host, "v")), ("new".to_owned(), "new".to_owned()));
        host.check("v");
    }
}

#[test]
fn what_a_rollback_replaced_goes_when_its_time_has_come() {
    for is_served in [false, true] {
        for host in Kept::each_kind() {
            rolled_back(&host);
            let dir = is_served.then(|| host.mount("v", &[]));
            host.does(&["trash", "empty", "--expired"]);
            assert_eq!((ids(&host).len(), snapshots(&host, "v").len()), (1, 2));
            expire(&host);
            let needs_key = host.key_file().is_some() && !is_served;
            host.does(&["trash", "empty", "--expired"]);
            if needs_key {
                // Nobody was asked, and nothing is lost.
                assert_eq!((ids(&host).len(), snapshots(&host, "v").len()), (1, 2));
                let key = format!("key-file={}", host.key_file().unwrap().display());
                host.does(&["set", "v", &key]);
                host.does(&["trash", "empty", "--expired"]);
            }
            assert_eq!((ids(&host).len(), snapshots(&host, "v")), (0, vec!["one".to_owned()]));
            assert_eq!(fs::read_dir(host.root().join("replaced")).unwrap().count(), 0);
            if let Some(dir) = dir {
                assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "old");
                host.umount("v");
            }
            assert_eq!(reads(&host, "v"), "old");
            host.check("v");
        }
    }
}

/// Its ID was printed by whoever emptied the trash, and shown by nobody.
#[test]
fn what_somebody_has_removed_by_hand_is_not_in_the_trash() {
    let host = Kept::new(Host::plain());
    let id = rolled_back(&host);
    host.host.ok(&["snapshot", "rm", &id]);
    assert!(host.trash().is_empty());
    assert_eq!(host.does(&["trash", "empty", "--force"]), "");
    for args in [&["trash", "empty", "--force", &id][..], &["trash", "restore", &id]] {
        let why = host.refuses(3, args);
        assert!(why.contains("is not in the trash"), "{why}");
    }
    host.check("v");
}

#[test]
fn what_is_held_or_renamed_stays() {
    for host in Kept::each_kind() {
        let first = rolled_back(&host);
        host.host.ok(&["hold", "mine", &first]);
        write(&host, "newer");
        let second = roll_back(&host);
        host.host.ok(&["rename", &second, "before"]);
        write(&host, "newest");
        let third = roll_back(&host);
        assert_eq!(ids(&host), [first.clone(), third.clone()]);
        expire(&host);
        // In passing, as for anybody who has a server running.
        host.mount("v", &[]);
        host.mount(&third, &[]);
        host.does(&["trash", "empty", "--expired"]);
        let left = snapshots(&host, "v");
        assert_eq!(left.len(), 4, "{left:?}");
        assert_eq!(host.trash()[0]["holds"], json!(["mine"]));
        assert!(host.does(&["trash", "ls"]).contains("held (mine)"));
        let why = host.refuses(5, &["trash", "empty", "--force", &first]);
        assert!(why.contains("held or mounted"), "{why}");
        host.umount(&third);
        host.host.ok(&["release", "mine", &first]);
        host.does(&["trash", "empty", "--expired"]);
        assert_eq!(snapshots(&host, "v"), ["one", "before"]);
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn what_a_rollback_replaced_goes_with_its_volume_and_follows_its_name() {
    let host = Kept::new(Host::plain());
    rolled_back(&host);
    host.does(&["rename", "v", "w"]);
    assert!(ids(&host)[0].starts_with("w@before-rollback-"));
    // A removed volume has it among its snapshots, and brings it back.
    host.does(&["rm", "w"]);
    assert_eq!((ids(&host).len(), host.trashed_names()), (1, vec!["w".to_owned()]));
    assert_eq!(host.trash()[0]["snapshots"], 2);
    host.does(&["create", "w"]);
    host.does(&["trash", "restore", "w", "x"]);
    assert_eq!(snapshots(&host, "x").len(), 2);
    expire(&host);
    host.does(&["trash", "empty", "--expired"]);
    assert_eq!(snapshots(&host, "x"), ["one"]);
    // With the store, its notes go.
    rolled_back(&host);
    host.does(&["rm", "--now", "v", "w", "x"]);
    host.does(&["trash", "empty", "--force"]);
    assert_eq!(fs::read_dir(host.root().join("replaced")).unwrap().count(), 0);
}

#[test]
fn nothing_that_a_rollback_replaced_stays_where_nothing_stays_in_the_trash() {
    for host in Kept::each_kind() {
        host.precious("v", "old");
        write(&host, "new");
        host.does(&["set", "v", "trash=0"]);
        let rolled: Value =
            serde_json::from_str(&host.does_with_key(&["rollback", "v@one", "--json"])).unwrap();
        assert_eq!((&rolled["kept"], &rolled["until"]), (&Value::Null, &Value::Null));
        assert_eq!((snapshots(&host, "v"), ids(&host).len()), (vec!["one".to_owned()], 0));
        let dir = host.mount("v", &[]);
        fs::write(dir.join("file"), "newer").unwrap();
        let said = host.does(&["rollback", "--live", "v@one"]);
        assert!(said.contains("trash=0"), "{said}");
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "old");
        assert_eq!(snapshots(&host, "v"), ["one"]);
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn what_a_rollback_replaced_gives_its_room_back_when_the_host_is_short_of_it() {
    const MIB: u64 = 1 << 20;
    let disk = SmallDisk::new(400);
    let host = Host::with_root(disk.path().join("root"));
    let config = host.dir("etc").join("larder.toml");
    fs::write(&config, "trash-reserve = 0\n").unwrap();
    let larder = |args: &[&str]| {
        let output = run(host.command(args).env("LARDER_CONFIG", &config));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let free = || {
        let stat = nix::sys::statvfs::statvfs(disk.path()).unwrap();
        stat.blocks_available() * stat.fragment_size()
    };
    larder(&["create", "v"]);
    larder(&["snapshot", "create", "v@one"]);
    let dir = host.mount("v", &[]);
    fs::write(dir.join("large"), pattern(64 << 20, 1)).unwrap();
    host.umount("v");
    larder(&["rollback", "v@one"]);
    let in_trash = host.json(&["trash", "ls", "--json"]);
    assert!(in_trash[0]["on_disk"].as_u64().unwrap() >= 64 * MIB, "{in_trash}");
    let shown = larder(&["df"]);
    assert!(shown.lines().last().unwrap().starts_with("(trash) "), "{shown}");
    let before = free();
    fs::write(&config, format!("trash-reserve = \"{}\"", before + 10 * MIB)).unwrap();
    let said = larder(&["trash", "empty", "--expired"]);
    assert!(said.starts_with("v@before-rollback-") && said.contains("short of room"), "{said}");
    wait_until("its room is free", || free() >= before + 60 * MIB);
    assert_eq!(host.json(&["trash", "ls", "--json"]), json!([]));
}
