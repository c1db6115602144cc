//! Other names for volumes and snapshots.

use crate::support::{Host, errno, pattern, run, shell, wait_until};
use larder::health::{Level, Reason, code, update};
use larder::root::Root;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn names(host: &Host) -> Vec<String> {
    let listed = host.json(&["ls", "--json"]);
    let mut names: Vec<String> =
        listed.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn record(host: &Host, name: &str) -> PathBuf {
    host.root().join("plugin/volumes").join(format!("{name}.json"))
}

#[test]
fn a_volume_has_another_name_and_nothing_else_changes() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &["--label", "app=shop", "--size", "100M"]);
        fs::write(dir.join("f"), pattern(100_000, 1)).unwrap();
        host.ok(&["snapshot", "create", "v@s"]);
        host.ok(&["set", "v", "sticky=true", "noatime=true"]);
        // What is mounted is known by its name.
        let why = host.fails(5, &["rename", "v", "w"]);
        assert!(why.contains("v is mounted on") && why.contains("larder umount v"), "{why}");
        host.umount("v");
        host.mount("v@s", &[]);
        assert!(host.fails(5, &["rename", "v", "w"]).contains("v@s is mounted on"));
        assert_eq!(names(&host), ["v"]);
        host.umount("v@s");
        assert_eq!(host.ok(&["rename", "v", "w"]), "w\n");
        assert_eq!(names(&host), ["w"]);
        host.fails(3, &["inspect", "v"]);
        let shown = host.json(&["inspect", "w"]);
        assert_eq!(shown["labels"], json!({ "app": "shop" }));
        assert_eq!(shown["size"], 100 << 20);
        assert_eq!(shown["snapshots"][0]["name"], "s");
        // What is remembered of it goes with it.
        assert!(record(&host, "w").exists() && !record(&host, "v").exists());
        assert!(host.fails(5, &["rm", "w"]).contains("sticky"));
        let dir = host.mount("w", &[]);
        assert_eq!(fs::read(dir.join("f")).unwrap(), pattern(100_000, 1));
        assert_eq!(fs::read(dir.join(".snapshots/s/f")).unwrap(), pattern(100_000, 1));
        host.umount("w");
        // A server runs for another volume of the family.
        host.ok(&["clone", "w@s", "c"]);
        host.mount("c", &[]);
        host.ok(&["rename", "w", "x"]);
        assert_eq!(names(&host), ["c", "x"]);
        assert!(host.fails(5, &["rename", "c", "y"]).contains("mounted"));
        host.umount("c");
        // The old name is free, for one that is not the old one.
        host.ok(&["create", "v"]);
        assert!(!record(&host, "v").exists());
        assert!(host.fails(4, &["rename", "x", "v"]).contains("exists"));
        assert!(host.fails(4, &["rename", "x", "c"]).contains("exists"));
        assert!(host.fails(4, &["rename", "x", "x"]).contains("already has this name"));
        assert!(host.fails(3, &["rename", "nobody", "z"]).contains("no volume"));
        assert!(host.fails(2, &["rename", "x", "../z"]).contains("name"));
        assert!(host.fails(2, &["rename", "x", "x@y"]).contains("snapshot"));
        assert_eq!(names(&host), ["c", "v", "x"]);
        for name in ["c", "v", "x"] {
            host.check(name);
        }
        host.ok(&["rm", "x", "--force"]);
        host.ok(&["rm", "c"]);
        host.ok(&["rm", "v"]);
        assert!(names(&host).is_empty());
    }
}

/// What a power cut leaves before the store has the new name, and after.
#[test]
fn a_rename_that_was_interrupted_has_happened_or_has_not() {
    for is_served in [false, true] {
        let host = Host::plain();
        host.ok(&["create", "v"]);
        host.ok(&["clone", "v", "relative"]);
        if is_served {
            host.mount("relative", &[]);
        }
        host.ok(&["set", "v", "sticky=true"]);
        let link = |name: &str| host.root().join("volumes").join(name);
        let target = fs::read_link(link("v")).unwrap();
        // Before: the new name, and what is remembered of the volume, are there too soon.
        symlink(&target, link("w")).unwrap();
        fs::copy(record(&host, "v"), record(&host, "w")).unwrap();
        assert_eq!(names(&host), ["relative", "v"]);
        host.fails(3, &["inspect", "w"]);
        assert!(!link("w").exists() && !record(&host, "w").exists());
        assert!(record(&host, "v").exists());
        // Once more, and then a clone gets that name: what is remembered is not of it.
        symlink(&target, link("w")).unwrap();
        fs::copy(record(&host, "v"), record(&host, "w")).unwrap();
        host.ok(&["clone", "v", "w"]);
        assert!(!record(&host, "w").exists());
        host.ok(&["rm", "w"]);
        // After: the old ones are still there.
        host.ok(&["rename", "v", "w"]);
        symlink(&target, link("v")).unwrap();
        fs::copy(record(&host, "w"), record(&host, "v")).unwrap();
        assert_eq!(names(&host), ["relative", "w"]);
        host.fails(3, &["inspect", "v"]);
        assert!(!link("v").exists() && !record(&host, "v").exists());
        assert!(host.fails(5, &["rm", "w"]).contains("sticky"));
        host.ok(&["rename", "w", "v"]);
        assert_eq!(names(&host), ["relative", "v"]);
        host.check("v");
    }
}

#[test]
fn a_rename_that_is_killed_leaves_one_volume_with_one_name() {
    let host = Host::plain();
    host.ok(&["create", "a"]);
    host.ok(&["snapshot", "create", "a@kept"]);
    let mut name = "a".to_owned();
    for round in 0..24u64 {
        let other = if name == "a" { "b" } else { "a" };
        let mut child = host.command(&["rename", &name, other]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 2500));
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        child.wait().unwrap();
        let left = names(&host);
        assert!(left == ["a"] || left == ["b"], "{left:?}");
        name = left[0].clone();
        assert_eq!(host.json(&["inspect", &name])["snapshots"][0]["name"], "kept");
    }
    host.check(&name);
}

/// What makes, takes away and exchanges files.
const CALLS: [&str; 3] = ["symlink,symlinkat", "rename,renameat,renameat2", "unlink,unlinkat"];

/// What is noted of a volume: its health, and what a rollback replaced.
fn noted(host: &Host, name: &str) -> (Vec<String>, Vec<String>) {
    let health = host.json(&["inspect", name])["reasons"].clone();
    let codes = health.as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap().to_owned());
    let trash = host.json(&["trash", "ls", "--json"]);
    let states = trash.as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap().to_owned());
    (codes.collect(), states.collect())
}

/// A volume with something noted of it, of a store that it shares or not, and that has a server or not.
fn with_notes(host: &Host, has_relative: bool, is_served: bool) {
    host.ok(&["create", "a"]);
    host.ok(&["snapshot", "create", "a@kept"]);
    host.ok(&["rollback", "a@kept"]);
    if has_relative {
        host.ok(&["clone", "a", "relative"]);
    }
    if is_served {
        host.mount("relative", &[]);
    }
    let id = host.store("a").file_name().unwrap().to_str().unwrap().parse().unwrap();
    let reason = Reason::new(code::LOST_WRITES, Level::Degraded, "something was lost", "look").of_volume("a");
    update(&Root::new(host.root()), id, |notes| notes.note(reason)).unwrap();
    host.ok(&["set", "a", "noatime=true"]);
}

/// It was found under the old name, and never again.
#[test]
fn a_rename_that_is_killed_at_any_step_takes_along_what_is_noted() {
    for (has_relative, is_served) in [(false, false), (true, false), (true, true)] {
        let host = Host::plain();
        with_notes(&host, has_relative, is_served);
        let (mut name, mut killed) = ("a".to_owned(), 0);
        for call in CALLS {
            // Right before it does that for the so many-th time, until it does not any more.
            for step in 1..100 {
                let other = if name == "a" { "b" } else { "a" };
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
                command.arg(format!("--inject={call}:signal=KILL:when={step}"));
                let rename = host.command(&["rename", &name, other]);
                command.arg(rename.get_program()).args(rename.get_args());
                let is_done = run(command.env("LARDER_LOG_TO", "file")).status.success();
                let left: Vec<String> = names(&host).into_iter().filter(|name| name != "relative").collect();
                assert!(left == ["a"] || left == ["b"], "{call} {step}: {left:?}");
                name = left[0].clone();
                let expected = (vec!["lost-writes".to_owned()], vec![name.clone()]);
                assert_eq!(noted(&host, &name), expected, "{call} {step}");
                assert!(record(&host, &name).exists());
                // Nothing is left of the other name, for a volume that gets it.
                let other = if name == "a" { "b" } else { "a" };
                if has_relative {
                    host.ok(&["clone", "relative", other]);
                    assert_eq!(noted(&host, other).0, Vec::<String>::new(), "{call} {step}");
                    assert!(!record(&host, other).exists(), "{call} {step}");
                    host.ok(&["rm", "--now", other]);
                }
                if is_done {
                    break;
                }
                killed += 1;
            }
        }
        assert!((8..99).contains(&killed), "{killed}");
        host.check(&name);
    }
}

#[test]
fn of_two_that_want_a_name_one_gets_it() {
    let host = Host::plain();
    for round in 0..5 {
        host.ok(&["create", "v"]);
        host.ok(&["create", "w"]);
        // One volume gets one of two names; and one name goes to one of two volumes.
        let commands = match round % 2 {
            0 => [["rename", "v", "x"], ["rename", "v", "y"]],
            _ => [["rename", "v", "x"], ["rename", "w", "x"]],
        };
        let mut children = commands.map(|command| host.command(&command).spawn().unwrap());
        let codes: Vec<i32> =
            children.iter_mut().map(|child| child.wait().unwrap().code().unwrap()).collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
        let left = names(&host);
        assert_eq!(left.len(), 2, "{left:?}");
        for name in left {
            host.check(&name);
            host.ok(&["rm", &name]);
        }
    }
}

#[test]
fn a_snapshot_has_another_name_under_those_who_look_at_it() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &[]);
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/f"), pattern(300_000, 1)).unwrap();
        host.ok(&["snapshot", "create", "v@a", "--label", "why=test"]);
        host.ok(&["snapshot", "create", "v@other"]);
        let hidden = dir.join(".snapshots");
        assert_eq!(shell(&hidden, "ls"), "a\nother\n");
        assert!(!hidden.join("b").exists());
        let mut open = fs::File::open(hidden.join("a/d/f")).unwrap();
        let mut bytes = vec![0; 100_000];
        open.read_exact(&mut bytes).unwrap();
        assert_eq!(host.ok(&["rename", "v@a", "v@b"]), "v@b\n");
        assert_eq!(shell(&hidden, "ls"), "b\nother\n");
        assert_eq!(errno(fs::metadata(hidden.join("a"))), libc::ENOENT);
        assert_eq!(fs::read(hidden.join("b/d/f")).unwrap(), pattern(300_000, 1));
        open.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, pattern(300_000, 1));
        // Back, and on: in all ways of saying it.
        host.ok(&["snapshot", "rename", "v@b", "a"]);
        host.ok(&["rename", "v@a", "@c"]);
        assert_eq!(shell(&hidden, "ls"), "c\nother\n");
        assert!(host.fails(4, &["rename", "v@c", "other"]).contains("exists"));
        assert!(host.fails(3, &["rename", "v@a", "z"]).contains("no snapshot v@a"));
        assert!(host.fails(2, &["rename", "v@c", "w@c"]).contains("cannot move to another volume"));
        assert!(host.fails(2, &["rename", "v@c", "../c"]).contains("name"));
        assert!(host.fails(2, &["snapshot", "rename", "v", "w"]).contains("v@SNAPSHOT"));
        host.mount("v@c", &[]);
        assert!(host.fails(5, &["rename", "v@c", "d"]).contains("mounted on"));
        host.umount("v@c");
        drop(open);
        host.umount("v");
        wait_until("its server ends", || host.servers().is_empty());
        host.ok(&["rename", "v@c", "d"]);
        let listed = host.json(&["snapshot", "ls", "v", "--json"]);
        assert_eq!((&listed[0]["name"], &listed[0]["labels"]["why"]), (&json!("d"), &json!("test")));
        host.ok(&["rollback", "v@d"]);
        host.check("v");
    }
}

/// Who calls a volume by its name is said, so that nobody is surprised at the next boot.
#[test]
fn who_may_still_use_the_old_name_is_said() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    host.ok(&["set", "v", "noatime=true"]);
    let etc = host.dir("etc");
    fs::write(etc.join("fstab"), "# none\nv /mnt/v larder noatime 0 0\nv /mnt/other ext4 ro 0 0\n").unwrap();
    let script = format!(
        "mount --bind {}/fstab /etc/fstab; exec {} --root {} rename v w",
        etc.display(),
        crate::support::larder(),
        host.root().display()
    );
    let output = run(std::process::Command::new("unshare").args(["-m", "bash", "-euc", &script]));
    assert!(output.status.success());
    let notes = String::from_utf8(output.stderr).unwrap();
    // It was not made for containers.
    assert!(notes.contains("/etc/fstab mounts \"v\" on /mnt/v"), "{notes}");
    assert_eq!(notes.lines().count(), 1, "{notes}");
}
