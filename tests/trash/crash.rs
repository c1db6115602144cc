//! Killed between two steps.

use super::{Kept, record};
use crate::support::{Host, run, wait_until};
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Runs a command and kills it after a while. Whether it was done before that.
fn kill_after(host: &Kept, args: &[&str], delay: Duration) -> bool {
    let mut command = host.larder(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let _ = child.kill();
    child.wait().unwrap().success()
}

#[test]
fn a_volume_is_in_one_place_whenever_a_removal_or_a_return_is_killed() {
    for host in Kept::each_kind() {
        host.precious("p", "precious");
        host.host.ok(&["clone", "p", "q"]);
        host.does(&["set", "p", "noatime=true"]);
        let options = fs::read(record(&host, "p")).unwrap();
        for round in 0..60u64 {
            let is_removal = round % 2 == 0;
            let args = if is_removal { &["rm", "p"][..] } else { &["trash", "restore", "p"] };
            kill_after(&host, args, Duration::from_micros(500 + round * 250));
            let (names, trashed) = (host.names(), host.trashed_names());
            let is_there = names.contains(&"p".to_owned());
            assert_eq!(trashed.len(), usize::from(!is_there), "{names:?}, {trashed:?}");
            // Done again, to the end, from wherever it was.
            if is_removal == is_there {
                host.does(args);
            }
            if !is_removal {
                assert_eq!(fs::read(record(&host, "p")).unwrap(), options, "round {round}");
            }
        }
        assert_eq!(host.says("p"), "precious");
        host.check("q");
    }
}

#[test]
fn a_return_under_another_name_is_finished_after_a_kill() {
    for host in Kept::each_kind() {
        host.precious("p", "precious");
        host.host.ok(&["clone", "p", "q"]);
        host.does(&["rm", "p"]);
        let key = host.key_file().map(|key| key.to_str().unwrap().to_owned());
        for round in 0..30u64 {
            let name = format!("p{round}");
            let id = host.trash()[0]["id"].as_str().unwrap().to_owned();
            let mut args = vec!["trash", "restore", &id, &name];
            args.extend(key.iter().flat_map(|key| ["--key-file", key.as_str()]));
            kill_after(&host, &args, Duration::from_millis(2 + round));
            match host.names().contains(&name) {
                true => assert!(host.trash().is_empty()),
                false => {
                    assert_eq!(host.trash().len(), 1);
                    host.does(&args);
                }
            }
            assert_eq!(host.says(&name), "precious", "round {round}");
            host.does(&["rm", &name]);
        }
        // Whatever names it has had, they are free.
        host.host.ok(&["clone", "q", "p"]);
        host.host.ok(&["clone", "q", "p3"]);
        host.check("q");
    }
}

#[test]
fn what_is_emptied_is_gone_whole_after_a_kill() {
    for host in Kept::each_kind() {
        for round in 0..20u64 {
            host.host.ok(&["create", "alone"]);
            host.host.ok(&["create", "p"]);
            host.host.ok(&["clone", "p", "q"]);
            host.does(&["rm", "alone", "p"]);
            let key = host.key_file().map(|key| key.to_str().unwrap().to_owned());
            let mut args = vec!["trash", "empty", "--force"];
            args.extend(key.iter().flat_map(|key| ["--key-file", key.as_str()]));
            kill_after(&host, &args, Duration::from_millis(1 + round * 2));
            host.does(&args);
            // Whoever makes a volume sweeps up.
            host.host.ok(&["create", "new"]);
            assert_eq!((host.trash().len(), host.stores()), (0, 2), "round {round}");
            assert_eq!(fs::read_dir(host.root().join("trash")).unwrap().count(), 0);
            host.check("q");
            host.host.ok(&["rm", "--now", "q"]);
            host.host.ok(&["rm", "--now", "new"]);
        }
    }
}

#[test]
fn each_step_alone_is_put_right() {
    let host = Kept::new(Host::plain());
    host.precious("p", "precious");
    host.does(&["clone", "p", "q"]);
    host.does(&["set", "p", "noatime=true"]);
    let remembered = fs::read(record(&host, "p")).unwrap();
    host.does(&["rm", "p"]);
    let id = host.trash()[0]["id"].as_str().unwrap().to_owned();
    let file = host.root().join("trash").join(format!("{id}.json"));
    let noted = fs::read(&file).unwrap();
    // The name was moved, and what was remembered of it not forgotten yet: no other volume gets that.
    fs::write(record(&host, "p"), &remembered).unwrap();
    host.does(&["clone", "q", "p"]);
    assert!(!record(&host, "p").exists());
    host.does(&["rm", "--now", "p"]);
    // The file was written, and the name not moved.
    host.does(&["trash", "restore", "p"]);
    fs::write(&file, &noted).unwrap();
    assert!(host.trash().is_empty());
    host.does(&["rm", "q"]);
    assert!(!file.exists());
    assert_eq!(host.trashed_names(), ["q"]);
    assert_eq!(fs::read(record(&host, "p")).unwrap(), remembered);
    assert_eq!(host.says("p"), "precious");
}

#[test]
fn nobody_has_a_volume_mounted_that_is_in_the_trash() {
    let host = Kept::new(Host::plain());
    for is_family in [false, true] {
        host.does(&["create", "v"]);
        if is_family {
            host.does(&["clone", "v", "w"]);
            host.mount("w", &[]);
        }
        let dir = host.make_mountpoint("v");
        for _ in 0..15 {
            std::thread::scope(|scope| {
                let mut mount = host.larder(&["mount", "v", dir.to_str().unwrap()]);
                let mount = scope.spawn(move || run(&mut mount).status.success());
                let removed = run(&mut host.larder(&["rm", "v"])).status.success();
                let mounted = mount.join().unwrap();
                assert!(!(removed && mounted), "it was removed and mounted");
                if removed {
                    assert_eq!(host.trashed_names(), ["v"]);
                    let is_mounted =
                        || larder::mount::entry_at(&dir).unwrap().is_some_and(|entry| !entry.is_dead());
                    wait_until("nothing is mounted", || !is_mounted());
                    host.does(&["trash", "restore", "v"]);
                } else if mounted {
                    host.umount("v");
                }
            });
        }
        if is_family {
            host.umount("w");
        }
        host.check("v");
        wait_until("it is removed", || run(&mut host.larder(&["rm", "--now", "v"])).status.success());
    }
}

/// What a power cut leaves of a removal that has not seen yet whether a snapshot is held.
#[test]
fn an_interrupted_removal_of_what_is_held_lets_nothing_go() {
    for host in Kept::each_kind() {
        host.precious("v", "precious");
        host.host.ok(&["hold", "backup", "v@one"]);
        let key = "v~20260101T000000Z";
        let entry =
            serde_json::json!({ "name": "v", "removed": 0, "until": 0, "names": ["v"], "unchecked": true });
        fs::create_dir_all(host.root().join("trash")).unwrap();
        fs::write(host.root().join("trash").join(format!("{key}.json")), entry.to_string()).unwrap();
        fs::rename(host.root().join("volumes/v"), host.root().join("trash").join(key)).unwrap();
        // Its time has come long since.
        host.does(&["trash", "empty", "--expired"]);
        let code = if host.key_file().is_some() { 13 } else { 5 };
        host.refuses(code, &["trash", "empty", "--force"]);
        host.does(&["trash", "restore", "v"]);
        assert_eq!(host.says("v"), "precious");
        assert!(host.host.fails(5, &["rm", "v"]).contains("held"));
        assert_eq!(host.names(), ["v"]);
    }
}
