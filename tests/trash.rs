//! The trash: what was removed, and is there for a while.

mod by_hand;
mod crash;
mod families;
mod lost;
mod overtaken;
mod replaced;
mod room;
mod storm;

use crate::support::{Host, run, succeed};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host with a configuration of its own, on which room is never short: other tests may fill the disk.
pub struct Kept {
    host: Host,
    config: PathBuf,
}

impl std::ops::Deref for Kept {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Kept {
    pub fn new(host: Host) -> Self {
        let config = host.dir("etc").join("larder.toml");
        let kept = Self { host, config };
        kept.configure("");
        kept
    }

    pub fn each_kind() -> [Self; 2] {
        Host::each_kind().map(Self::new)
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) {
        fs::write(&self.config, format!("trash-reserve = 0\n{text}\n")).unwrap();
    }

    /// A command; without the key, whatever it does.
    pub fn larder(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::support::larder());
        command.arg("--root").arg(self.root()).args(args).env("LARDER_CONFIG", &self.config);
        command
    }

    /// A command that must succeed.
    #[track_caller]
    pub fn does(&self, args: &[&str]) -> String {
        succeed(&mut self.larder(args))
    }

    /// The same, with the key of an encrypted host.
    #[track_caller]
    pub fn does_with_key(&self, args: &[&str]) -> String {
        let key = self.key_file().map(|key| key.to_str().unwrap().to_owned());
        let key = key.iter().flat_map(|key| ["--key-file", key]);
        self.does(&[args, &key.collect::<Vec<_>>()].concat())
    }

    /// A command that must fail with `code`; what it said.
    #[track_caller]
    pub fn refuses(&self, code: i32, args: &[&str]) -> String {
        let output = run(&mut self.larder(args));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    /// What is in the trash; what was removed first comes first.
    #[track_caller]
    pub fn trash(&self) -> Vec<Value> {
        serde_json::from_str(&self.does(&["trash", "ls", "--json"])).unwrap()
    }

    #[track_caller]
    pub fn trashed_names(&self) -> Vec<String> {
        self.trash().iter().map(|of| of["name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("volumes")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn stores(&self) -> usize {
        fs::read_dir(self.root().join("stores")).unwrap().count()
    }

    /// Makes a volume with a file that says what it is, and a snapshot of it.
    pub fn precious(&self, name: &str, contents: &str) {
        self.host.ok(&["create", name, "--size", "1G", "--label", "app=shop"]);
        let dir = self.mount(name, &[]);
        fs::write(dir.join("file"), contents).unwrap();
        self.host.ok(&["snapshot", "create", &format!("{name}@one")]);
        self.host.umount(name);
    }

    /// What the file in it says.
    #[track_caller]
    pub fn says(&self, name: &str) -> String {
        let dir = self.mount(name, &[]);
        let says = fs::read_to_string(dir.join("file")).unwrap();
        assert_eq!(fs::read_to_string(dir.join(".snapshots/one/file")).unwrap(), says);
        self.host.umount(name);
        says
    }
}

fn record(host: &Host, name: &str) -> PathBuf {
    host.root().join("plugin/volumes").join(format!("{name}.json"))
}

#[test]
fn a_removed_volume_comes_back_as_it_was() {
    for host in Kept::each_kind() {
        host.precious("db", "precious");
        host.does(&["set", "db", "noatime=true"]);
        let before = host.host.json(&["inspect", "db"]);
        let remembered = fs::read(record(&host, "db")).unwrap();
        assert_eq!(host.does(&["rm", "db"]), "db\n");
        assert_eq!(host.does(&["ls", "--json"]).trim(), "[]");
        // Whoever still calls it by its name hears where it is.
        let dir = host.make_mountpoint("db");
        for args in [
            &["mount", "db", dir.to_str().unwrap()][..],
            &["mount", "db"],
            &["inspect", "db"],
            &["ls", "db"],
            &["check", "db"],
            &["status", "db"],
            &["get", "db"],
            &["set", "db", "noatime=true"],
            &["rename", "db", "other"],
            &["snapshot", "ls", "db"],
            &["clone", "db", "other"],
            &["logs", "db"],
            &["umount", "db"],
            &["rm", "db"],
        ] {
            let why = host.refuses(3, args);
            assert!(
                why.contains("in the trash: `larder trash restore db` brings it back"),
                "{args:?}: {why}"
            );
        }
        let why = host.refuses(3, &["mount", "nothing", dir.to_str().unwrap()]);
        assert!(!why.contains("trash"), "{why}");
        assert!(!record(&host, "db").exists());
        let trash = host.trash();
        assert_eq!(trash.len(), 1);
        assert_eq!(trash[0]["name"], "db");
        assert!(trash[0]["on_disk"].as_u64().unwrap() > 4096);
        if host.key_file().is_none() {
            // (Nobody was asked for the key.)
            assert_eq!((&trash[0]["snapshots"], &trash[0]["used"]), (&json!(1), &before["used"]));
            assert_eq!(trash[0]["labels"], json!({ "app": "shop" }));
        }
        let shown = host.does(&["df"]);
        assert!(shown.lines().last().unwrap().starts_with("(trash) "), "{shown}");
        // Another of that name can be made at once.
        host.host.ok(&["create", "db"]);
        let why = host.refuses(4, &["trash", "restore", "db"]);
        assert!(why.contains("\"db\" exists") && why.contains("larder trash restore db~"), "{why}");
        host.host.ok(&["rm", "--now", "db"]);
        // Without the key.
        assert_eq!(host.does(&["trash", "restore", "db"]), "db\n");
        assert_eq!(host.host.json(&["inspect", "db"]), before);
        assert_eq!(fs::read(record(&host, "db")).unwrap(), remembered);
        assert!(host.trash().is_empty());
        assert_eq!(fs::read_dir(host.root().join("trash")).unwrap().count(), 0);
        assert_eq!(host.says("db"), "precious");
        host.check("db");
    }
}

#[test]
fn a_volume_comes_back_under_another_name_and_each_of_those_that_had_the_same() {
    for host in Kept::each_kind() {
        for contents in ["first", "second", "third"] {
            host.precious("db", contents);
            host.does(&["rm", "db"]);
        }
        let ids: Vec<String> = host.trash().iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(host.trashed_names(), ["db", "db", "db"]);
        // The last one, if nothing else is said.
        host.does(&["trash", "restore", "db"]);
        assert_eq!(host.says("db"), "third");
        if host.key_file().is_some() {
            // A name is in the store, which has to be opened.
            assert!(host.refuses(13, &["trash", "restore", &ids[0], "old"]).contains("--key-file"));
        }
        assert_eq!(host.does_with_key(&["trash", "restore", &ids[0], "old"]), "old\n");
        assert_eq!(host.says("old"), "first");
        assert_eq!(host.host.json(&["inspect", "old"])["name"], "old");
        for bad in ["a/b", "", "db@x", ".."] {
            host.refuses(2, &["trash", "restore", &ids[1], bad]);
        }
        host.refuses(4, &["trash", "restore", "db", "old"]);
        assert!(host.refuses(3, &["trash", "restore", "nope"]).contains("larder trash ls"));
        assert!(host.refuses(3, &["trash", "restore", "../volumes/db"]).contains("in the trash"));
        host.does_with_key(&["trash", "restore", "db", "middle"]);
        assert_eq!(host.says("middle"), "second");
        // What has another name now keeps it when it goes and comes again.
        host.does(&["rm", "old", "middle", "db"]);
        for (name, contents) in [("old", "first"), ("middle", "second"), ("db", "third")] {
            host.does(&["trash", "restore", name]);
            assert_eq!(host.says(name), contents);
        }
        assert_eq!(host.names(), ["db", "middle", "old"]);
    }
}

#[test]
fn what_is_in_use_or_sticky_stays() {
    let host = Kept::new(Host::new());
    let dir = host.volume("db", &[]);
    host.host.ok(&["snapshot", "create", "db@one"]);
    let why = host.refuses(5, &["rm", "db"]);
    assert!(why.contains("larder umount db") && why.contains(dir.to_str().unwrap()), "{why}");
    host.umount("db");
    host.mount("db@one", &[]);
    assert!(host.refuses(5, &["rm", "db"]).contains("larder umount db@one"));
    host.umount("db@one");
    host.does(&["set", "db", "sticky=true"]);
    assert!(host.refuses(5, &["rm", "db"]).contains("sticky"));
    assert!(host.refuses(5, &["rm", "--now", "db"]).contains("sticky"));
    assert!(host.trash().is_empty());
    host.does(&["rm", "--force", "db"]);
    // It is still so when it comes back.
    host.does(&["trash", "restore", "db"]);
    assert!(host.refuses(5, &["rm", "db"]).contains("sticky"));
}

#[test]
fn how_long_it_stays_is_configured_and_said_of_each_volume() {
    let host = Kept::new(Host::plain());
    let days = |of: &Value| {
        let at = |field: &str| {
            let time = humantime::parse_rfc3339(of[field].as_str().unwrap()).unwrap();
            time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        };
        (at("until") - at("removed")) / 3600
    };
    let hours = |name: &str| {
        host.does(&["rm", name]);
        let of = host.trash().pop();
        let hours = of.as_ref().map(days);
        host.does(&["trash", "empty", "--force"]);
        hours
    };
    host.does(&["create", "usual"]);
    assert_eq!(hours("usual"), Some(24));
    host.configure("trash = \"7d\"");
    host.does(&["create", "week"]);
    host.does(&["create", "own", "--trash", "2h"]);
    host.does(&["create", "none", "--trash", "0"]);
    host.does(&["create", "set"]);
    host.does(&["set", "set", "trash=3h"]);
    host.does(&["create", "source"]);
    host.does(&["clone", "source", "clone", "--trash", "4h"]);
    host.does(&["create", "--from", "source", "made", "--trash", "5h"]);
    assert_eq!(hours("week"), Some(168));
    assert_eq!(hours("own"), Some(2));
    assert_eq!(hours("none"), None);
    assert_eq!(hours("set"), Some(3));
    assert_eq!(hours("clone"), Some(4));
    assert_eq!(hours("made"), Some(5));
    host.configure("trash = 0");
    host.does(&["create", "gone"]);
    assert_eq!(hours("gone"), None);
    host.does(&["rm", "source"]);
    assert_eq!(host.stores(), 0);
    for bad in ["soon", "-1h", "24", ""] {
        host.refuses(2, &["create", "bad", "--trash", bad]);
    }
    host.does(&["create", "bad"]);
    assert!(host.refuses(2, &["set", "bad", "trash=soon"]).contains("write it like 24h"));
    // What cannot be understood removes nothing for good.
    host.configure("trash = \"soon\"");
    assert!(host.refuses(2, &["rm", "bad"]).contains("write it like 24h"));
    host.configure("");
    host.does(&["rm", "bad", "--now"]);
    assert!(host.trash().is_empty() && host.names().is_empty());
}

#[test]
fn the_trash_is_emptied_of_what_is_named() {
    for host in Kept::each_kind() {
        for _ in 0..2 {
            for name in ["a", "b"] {
                host.host.ok(&["create", name]);
                host.does(&["rm", name]);
            }
        }
        let id = host.trash()[0]["id"].as_str().unwrap().to_owned();
        assert!(host.refuses(1, &["trash", "empty"]).contains("--force"));
        assert!(host.refuses(3, &["trash", "empty", "--force", "a", "c"]).contains("\"c\""));
        assert_eq!(host.trashed_names(), ["a", "b", "a", "b"]);
        assert_eq!(host.does(&["trash", "empty", "--force", &id]), format!("{id}\n"));
        assert_eq!(host.trashed_names(), ["b", "a", "b"]);
        host.does(&["trash", "empty", "--force", "b"]);
        assert_eq!(host.trashed_names(), ["a"]);
        host.does(&["trash", "empty", "--force"]);
        assert_eq!(host.does(&["trash", "empty", "--force"]), "");
        assert_eq!((host.trash().len(), host.stores()), (0, 0));
        assert_eq!(fs::read_dir(host.root().join("trash")).unwrap().count(), 0);
    }
}

#[test]
fn what_only_has_its_name_left_or_is_damaged_can_be_removed() {
    let host = Kept::new(Host::plain());
    // Somebody took the store away by hand.
    host.does(&["create", "bare"]);
    fs::remove_dir_all(host.store("bare")).unwrap();
    assert!(host.refuses(9, &["rm", "bare"]).contains("larder rm --force bare"));
    host.does(&["rm", "--force", "bare"]);
    assert!(host.names().is_empty() && host.trash().is_empty());
    // A store that cannot be read goes like any other, and comes back as it is.
    host.does(&["create", "broken"]);
    let meta = host.store("broken").join("meta.db");
    fs::write(&meta, "nonsense").unwrap();
    host.does(&["rm", "broken"]);
    host.does(&["trash", "restore", "broken"]);
    assert_eq!(fs::read(host.store("broken").join("meta.db")).unwrap(), b"nonsense");
    host.does(&["rm", "broken"]);
    // The file beside the link is lost, or somebody's joke.
    let id = host.trash()[0]["id"].as_str().unwrap().to_owned();
    let file = host.root().join("trash").join(format!("{id}.json"));
    for contents in [None, Some("{"), Some("[1]"), Some("{\"name\": 7}")] {
        match contents {
            Some(contents) => fs::write(&file, contents).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        assert_eq!(host.trashed_names(), ["broken"]);
    }
    host.does(&["trash", "empty", "--force"]);
    assert_eq!(host.stores(), 0);
    // What is no link of ours is left alone.
    let alien = host.root().join("trash/db~1");
    std::os::unix::fs::symlink("/etc", &alien).unwrap();
    fs::write(host.root().join("trash/notes"), "x").unwrap();
    assert!(host.trash().is_empty());
    host.does(&["trash", "empty", "--force"]);
    assert!(Path::new("/etc/passwd").exists() && alien.symlink_metadata().is_ok());
    host.does(&["trash", "empty", "--expired"]);
}

#[test]
fn a_root_that_does_not_exist_has_no_trash() {
    let host = Kept::new(Host::plain());
    for command in [
        &["trash", "ls"][..],
        &["trash", "restore", "db"],
        &["trash", "empty", "--force"],
        &["trash", "empty", "--expired"],
        &["umount", "--all"],
        &["upgrade"],
        &["hold", "t", "db@one"],
        &["rename", "db", "other"],
        &["logs", "db"],
    ] {
        assert!(host.refuses(3, command).contains("does not exist"), "{command:?}");
    }
    assert!(!host.root().exists());
    host.does(&["create", "db"]);
    host.refuses(3, &["mount", "--all", "-o", "root=/nonexistent"]);
}

/// It was removed for good, with snapshots that were held, and its store was nobody's when the disk was back.
#[test]
fn a_store_that_is_out_of_sight_for_a_moment_is_still_its_volumes() {
    let host = Kept::new(Host::plain());
    host.precious("db", "precious");
    host.does(&["create", "held"]);
    host.does(&["snapshot", "create", "held@one"]);
    host.does(&["hold", "audit", "held@one"]);
    for name in ["gone", "old"] {
        host.does(&["create", name]);
    }
    host.does(&["rm", "gone"]);
    host.does(&["set", "old", "trash=1s"]);
    host.does(&["rm", "old"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // As recovery.md says: `stores` is a link to where the space is, and the disk is not mounted.
    let (stores, disk) = (host.root().join("stores"), host.root().with_extension("disk"));
    fs::create_dir(&disk).unwrap();
    fs::rename(&stores, disk.join("stores")).unwrap();
    std::os::unix::fs::symlink(disk.join("stores"), &stores).unwrap();
    host.does(&["status"]);
    let away = disk.with_extension("away");
    fs::rename(&disk, &away).unwrap();
    for name in ["db", "held"] {
        let said = host.refuses(9, &["rm", name]);
        assert!(said.contains("mount the disk") && said.contains("larder rm --force"), "{said}");
        host.refuses(9, &["rm", "--now", name]);
    }
    let said = host.refuses(12, &["create", "new"]);
    assert!(said.contains("a link to a directory that is not there"), "{said}");
    host.does(&["trash", "empty", "--expired"]);
    let said = host.refuses(9, &["trash", "empty", "--force", "gone"]);
    assert!(said.contains("mount the disk"), "{said}");
    fs::rename(&away, &disk).unwrap();
    assert_eq!(host.names(), ["db", "held"]);
    host.refuses(5, &["rm", "held"]);
    host.does(&["trash", "restore", "gone"]);
    host.does(&["rm", "db"]);
    host.does(&["trash", "restore", "db"]);
    // Given up all the same, and back: it is said to be there.
    fs::rename(&disk, &away).unwrap();
    host.does(&["rm", "--force", "db"]);
    fs::rename(&away, &disk).unwrap();
    let output = crate::support::run(&mut host.host.command(&["status"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is a store without a volume") && output.status.success(), "{said}");
    host.does(&["trash", "empty", "--expired"]);
}
