//! The commands, as a person or a script uses them.

use crate::support::{Host, run, shell, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

#[test]
fn a_volume_from_its_making_to_its_end() {
    let host = Host::new();
    assert_eq!(host.ok(&["create", "db", "--size", "1G", "--inodes", "1000", "--label", "app=x"]), "db\n");
    let dir = host.mount("db", &[]);
    fs::write(dir.join("file"), [7u8; 10_000]).unwrap();
    let listed = host.json(&["ls", "--json"]);
    assert_eq!(listed[0]["name"], "db");
    assert_eq!(listed[0]["size"], json!(1u64 << 30));
    assert_eq!((&listed[0]["used"], &listed[0]["inodes_used"]), (&json!(12288), &json!(2)));
    assert_eq!(listed[0]["mountpoints"], json!([dir.to_str().unwrap()]));
    host.umount("db");
    let inspected = host.json(&["inspect", "db"]);
    assert_eq!((&inspected["labels"], &inspected["state"]), (&json!({"app": "x"}), &json!("unmounted")));
    assert_eq!((&inspected["used"], &inspected["inodes"]), (&json!(12288), &json!(1000)));
    let dir = host.mount("db", &[]);
    assert_eq!(fs::read(dir.join("file")).unwrap(), [7u8; 10_000]);
    assert!(host.fails(5, &["rm", "db"]).contains("larder umount db"));
    host.umount("db");
    assert_eq!(host.ok(&["rm", "--now", "db"]), "db\n");
    assert_eq!(host.json(&["ls", "--json"]), json!([]));
    let left: Vec<_> = fs::read_dir(host.root().join("stores")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn removing_a_volume_is_not_disturbed_by_others_that_sweep_up() {
    let host = Host::new();
    host.ok(&["create", "big"]);
    // So many files that it takes a while.
    let segments = host.store("big").join("segments");
    for i in 0..20_000 {
        fs::write(segments.join(format!("{i:016x}.seg")), "").unwrap();
    }
    std::thread::scope(|scope| {
        let mut command = host.command(&["rm", "--now", "big"]);
        let removal = scope.spawn(move || run(&mut command));
        let mut i = 0;
        while !removal.is_finished() || i < 3 {
            host.ok(&["create", &format!("v{i}")]);
            i += 1;
        }
        let output = removal.join().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    let left = fs::read_dir(host.root().join("stores")).unwrap().count();
    assert_eq!(left, host.json(&["ls", "--json"]).as_array().unwrap().len());
}

#[test]
fn the_root_directory_of_a_volume_is_as_asked_for() {
    let host = Host::new();
    let dir = host.volume("v", &["--uid", "1000", "--gid", "2000", "--mode", "1770"]);
    let meta = fs::metadata(&dir).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (1000, 2000, 0o1770));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "container engines look whether a volume is empty");
}

#[test]
fn tables_are_for_people_and_json_for_programs() {
    // (Sizes of encrypted volumes need their secrets.)
    let host = Host::plain();
    host.ok(&["create", "a", "--size", "512MiB"]);
    host.ok(&["create", "b"]);
    let table = host.ok(&["ls"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..7], ["NAME", "SIZE", "USED", "USED", "ON", "DISK", "INODES"]);
    for (line, (name, size)) in lines[1..].iter().zip([("a", "512M"), ("b", "-")]) {
        // What it occupies on the disk, and how many seconds ago it was made, depend on the host.
        assert_eq!((&line[..3], &line[4..6]), (&[name, size, "0"][..], &["1", "0"][..]), "{table}");
        assert_eq!(line[8..], ["ago", "-", "-"], "{table}");
    }
    let df = host.ok(&["df", "a"]);
    assert_eq!(
        df.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>()[..5],
        ["a", "512M", "0", "512M", "0%"]
    );
    let df: Value = serde_json::from_str(&host.ok(&["df", "--json"])).unwrap();
    assert_eq!(df.as_array().unwrap().len(), 2);
}

#[test]
fn a_root_is_its_owners_whatever_the_umask() {
    for umask in ["000", "077"] {
        let host = Host::new();
        let script = format!(
            "umask {umask}; {} --root '{}' create v",
            crate::support::larder(),
            host.root().display()
        );
        shell(&host.dir("x"), &script);
        for dir in [host.root().to_owned(), host.root().join("stores"), host.root().join("volumes")] {
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700, "umask {umask}");
        }
    }
}

#[test]
fn df_inside_the_mount_shows_the_limit() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "100M", "--inodes", "500"]);
    let df = shell(
        &dir,
        "dd if=/dev/zero of=f bs=1M count=25 status=none; df --output=size,used,avail -B1M . | tail -1",
    );
    assert_eq!(df.split_whitespace().collect::<Vec<_>>(), ["100", "25", "75"]);
    let df = shell(&dir, "df --output=itotal,iused,iavail . | tail -1");
    assert_eq!(df.split_whitespace().collect::<Vec<_>>(), ["500", "2", "498"]);
}

#[test]
fn umount_takes_a_directory_or_a_name_and_waits_for_the_disk() {
    let host = Host::new();
    for by_name in [true, false] {
        host.ok(&["create", "v"]);
        let dir = host.mount("v", &[]);
        fs::write(dir.join("f"), "data").unwrap();
        if by_name {
            host.umount("v");
        } else {
            host.ok(&["umount", dir.to_str().unwrap()]);
        }
        // The server is gone: removing works at once.
        host.ok(&["rm", "v"]);
    }
}

#[test]
fn a_mount_in_the_foreground_lives_as_long_as_its_process() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let mut child = host
        .command(&["mount", "v", dir.to_str().unwrap(), "--foreground"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || host.json(&["inspect", "v"])["state"] == "mounted");
    fs::write(dir.join("f"), "data").unwrap();
    assert!(host.fails(5, &["mount", "v", host.dir("other").to_str().unwrap()]).contains("already mounted"));
    // As Ctrl-C does.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "unmounted");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
}

#[test]
fn options_of_a_mount_take_effect() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "ro,nosuid,noexec"]);
    assert_eq!(crate::support::errno(fs::write(dir.join("f"), "")), libc::EROFS);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(dir.to_str().unwrap())).unwrap();
    for option in ["fuse.larder", "ro,", "nosuid", "noexec"] {
        assert!(line.contains(option), "{line}");
    }
    host.ok(&["mount", "v", dir.to_str().unwrap(), "-o", "remount,rw"]);
    fs::write(dir.join("f"), "data").unwrap();
    host.ok(&["mount", "v", dir.to_str().unwrap(), "-o", "remount,ro"]);
    assert_eq!(crate::support::errno(fs::write(dir.join("f"), "")), libc::EROFS);
}

#[test]
fn the_commit_interval_bounds_what_a_killed_server_loses() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "commit=1,writeback=off"]);
    fs::write(dir.join("f"), "not synced").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    host.kill_server("v");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "not synced");
}

#[test]
fn several_volumes_are_mounted_side_by_side() {
    let host = Host::new();
    let dirs: Vec<_> = (0..4).map(|i| host.volume(&format!("v{i}"), &[])).collect();
    for (i, dir) in dirs.iter().enumerate() {
        fs::write(dir.join("f"), i.to_string()).unwrap();
    }
    host.kill_server("v1");
    for i in [0, 2, 3] {
        assert_eq!(
            fs::read_to_string(dirs[i].join("f")).unwrap(),
            i.to_string(),
            "a crash of one touches no other"
        );
    }
}

#[test]
fn inspect_tells_of_the_server() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let inspected = host.json(&["inspect", "v"]);
    assert_eq!((&inspected["state"], &inspected["health"]), (&json!("mounted"), &json!("ok")));
    assert_eq!(inspected["reasons"], json!([]));
    assert_eq!(inspected["mounts"][0]["dir"], dir.to_str().unwrap());
    assert!(inspected["server"]["pid"].as_i64().unwrap() > 1);
    let log = fs::read_to_string(inspected["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("is mounted on"), "{log}");
}

#[test]
fn check_works_on_a_volume_in_use() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let writer = crate::support::Background::start(
        Command::new("bash")
            .arg("-c")
            .arg("while :; do dd if=/dev/urandom of=f bs=64k count=20 2>/dev/null; done")
            .current_dir(&dir),
    );
    for _ in 0..10 {
        host.check("v");
    }
    drop(writer);
}

#[test]
fn completions_and_man_pages_are_made() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(host.ok(&["completions", shell]).contains("larder"));
    }
    let dir = host.dir("man");
    host.ok(&["man", dir.to_str().unwrap()]);
    assert!(fs::read_to_string(dir.join("larder.1")).unwrap().contains("larder"));
    assert!(dir.join("larder-mount.1").exists());
}

#[test]
fn help_and_version_succeed_and_nonsense_is_a_usage_error() {
    let host = Host::new();
    assert!(host.ok(&["--help"]).contains("umount"));
    assert!(host.ok(&["--version"]).starts_with("larder "));
    for args in
        [&["nonsense"][..], &["mount"], &["create", "v", "--size", "10X"], &["create", "v", "--label", "x"]]
    {
        assert_eq!(run(&mut host.command(args)).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_an_interrupted_create_or_rm_left_is_swept_away() {
    let host = Host::new();
    host.ok(&["create", "keep"]);
    host.ok(&["create", "lost"]);
    let store = host.store("lost");
    // As if `rm` had been interrupted after it took the name.
    fs::write(store.join("unnamed"), "").unwrap();
    fs::remove_file(host.root().join("volumes/lost")).unwrap();
    // And a store that lost its name in some other way is nobody's to remove.
    host.ok(&["create", "precious"]);
    let precious = host.store("precious");
    fs::remove_file(host.root().join("volumes/precious")).unwrap();
    host.ok(&["create", "next"]);
    assert!(!store.exists() && precious.exists());
    host.check("keep");
}

/// The root that the environment names was shown as if it had to be given as well.
#[test]
fn what_the_environment_says_is_not_shown_as_missing() {
    let host = Host::plain();
    for (words, usage) in [
        (&["create"][..], "Usage: larder create [OPTIONS] <NAME>"),
        (&["snapshot", "ls"], "Usage: larder snapshot ls [OPTIONS] <VOLUME>"),
    ] {
        let mut command = std::process::Command::new(crate::support::larder());
        let output = run(command.args(words).env("LARDER_ROOT", host.root()));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(usage), "{said}");
    }
}

/// The words were those for engines, or of a library, or there were none.
#[test]
fn what_means_nothing_is_refused_in_words_of_its_own() {
    let host = Host::plain();
    host.ok(&["create", "v", "--size", "1G"]);
    for (args, code, says) in [
        (&["set", "v", "foo=1"][..], 2, "option \"foo\" is unknown; `larder get VOLUME` lists the options"),
        (&["set", "v", "stickyy=true"], 2, "option \"stickyy\" is unknown; did you mean sticky?"),
        (&["set", "v", "label.=x"], 2, "write label.KEY=VALUE"),
        (&["set", "v", "size"], 2, "option \"size\" needs a value"),
        (&["set", "v", "size=+1G"], 2, "`larder resize` takes what it is to grow or shrink by"),
        (&["logs", "v", "-n", "x"], 2, "\"x\" is not a number of messages"),
        (&["snapshot", "create", "--filter", "label=nosuch", "@x"], 3, "no volume has such labels"),
    ] {
        let output = run(&mut host.command(args));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && said.contains(says), "{args:?}: {said}");
    }
    for option in ["rw", "noatime", "cache-size=8M", "label.app=x", "size=2G", "inodes=none"] {
        host.ok(&["set", "v", option]);
    }
    assert_eq!(host.json(&["inspect", "v"])["size"], json!(2u64 << 30));
}
