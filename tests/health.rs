//! What is wrong with a volume is said, kept, and over when it is over.

use crate::bad_input::SmallDisk;
use crate::damage::{address, fill, flip};
use crate::support::{Background, Host, errno, pattern, run, shell, succeed, wait_until};
use larder::store::data_offset;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNHEALTHY: i32 = 14;
const DAMAGED: i32 = 9;

/// What `status` says of a volume: how it is, and the codes of why.
fn status(host: &Host, name: &str) -> (String, Vec<String>) {
    let output = run(&mut host.command(&["status", "--json", name]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let health = found[0]["health"].as_str().unwrap().to_owned();
    let expected = if health == "ok" { 0 } else { UNHEALTHY };
    assert_eq!(output.status.code(), Some(expected), "{found}");
    let codes = found[0]["reasons"].as_array().unwrap().iter();
    let codes = codes.map(|reason| reason["code"].as_str().unwrap().to_owned()).collect();
    (health, codes)
}

#[track_caller]
fn is(host: &Host, name: &str, health: &str, codes: &[&str]) {
    let codes: Vec<String> = codes.iter().map(|code| (*code).to_owned()).collect();
    let expected = (health.to_owned(), codes);
    let mut last = None;
    let so = crate::support::wait_for(|| {
        last = Some(status(host, name));
        last.as_ref() == Some(&expected)
    });
    assert!(so, "{last:?}, not {expected:?}");
    // The same everywhere.
    if let Ok(inspected) = serde_json::from_slice::<Value>(&run(&mut host.command(&["inspect", name])).stdout)
    {
        assert_eq!(inspected["health"], health, "{inspected}");
    }
}

/// Damages the second block of a file of a volume that is not mounted.
fn damage(host: &Host, name: &str) {
    let addr = address(host, name, 1);
    let segment = host.store("v").join("segments").join(format!("{:016x}.seg", addr.segment));
    flip(&segment, data_offset(addr.index) + 77);
}

#[test]
fn damage_that_was_met_with_is_kept_until_all_can_be_read_or_somebody_knows() {
    for host in Host::each_kind().map(fill) {
        host.ok(&["create", "other"]);
        assert_eq!(host.ok(&["status", "-x"]), "all volumes are healthy\n");
        damage(&host, "f3");
        let dir = host.mount("v", &[]);
        assert_eq!(errno(fs::read(dir.join("dir/f3"))), libc::EIO);
        is(&host, "v", "degraded", &["unreadable-blocks"]);
        let output = run(&mut host.command(&["status", "-x"]));
        let line = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(UNHEALTHY), 1), "{line}");
        // The names of an encrypted volume's files are not noted.
        let file = if host.key_file().is_some() { "inode " } else { "/dir/f3, at byte 4096" };
        assert!(line.starts_with("v: degraded since 20") && line.contains(file), "{line}");
        assert_eq!(line.contains("/f3"), host.key_file().is_none(), "{line}");
        // Over the end of the server, and its next life.
        host.umount("v");
        is(&host, "v", "degraded", &["unreadable-blocks"]);
        let dir = host.mount("v", &[]);
        is(&host, "v", "degraded", &["unreadable-blocks"]);
        is(&host, "other", "ok", &[]);
        // Somebody knows, and it is met with again.
        let said = host.ok(&["status", "--acknowledge", "v"]);
        assert!(said.starts_with("v: acknowledged: unreadable-blocks: "), "{said}");
        is(&host, "v", "ok", &[]);
        host.remount("v");
        assert_eq!(errno(fs::read(dir.join("dir/f3"))), libc::EIO);
        is(&host, "v", "degraded", &["unreadable-blocks"]);
        // The metadata say nothing about it, and reading everything does.
        assert!(host.ok(&["check", "v"]).contains("contents not read"));
        is(&host, "v", "degraded", &["unreadable-blocks"]);
        fs::remove_file(dir.join("dir/f3")).unwrap();
        host.ok(&["scrub", "v"]);
        is(&host, "v", "ok", &[]);
    }
}

#[test]
fn what_is_damaged_in_one_volume_is_no_matter_of_its_clones() {
    let host = fill(Host::plain());
    host.ok(&["clone", "v", "twin"]);
    let dir = host.mount("v", &[]);
    fs::write(dir.join("new"), pattern(100_000, 9)).unwrap();
    host.umount("v");
    damage(&host, "new");
    let output = run(&mut host.command(&["scrub", "v"]));
    assert_eq!(output.status.code(), Some(DAMAGED));
    is(&host, "v", "degraded", &["unreadable-blocks"]);
    is(&host, "twin", "ok", &[]);
    // What both have.
    damage(&host, "f3");
    let _ = run(&mut host.command(&["scrub", "twin"]));
    is(&host, "twin", "degraded", &["unreadable-blocks"]);
    let message = host.json(&["inspect", "twin"])["reasons"][0]["message"].clone();
    assert!(
        message.as_str().unwrap().contains("/dir/f3") && !message.as_str().unwrap().contains("/new"),
        "{message}"
    );
}

/// How `inspect` says of a volume what is wrong first.
fn message(host: &Host, name: &str) -> String {
    host.json(&["inspect", name])["reasons"][0]["message"].as_str().unwrap().to_owned()
}

#[test]
fn damage_that_volumes_share_is_said_of_each_and_known_of_each() {
    for host in Host::each_kind().map(fill) {
        host.ok(&["clone", "v", "twin"]);
        host.ok(&["snapshot", "create", "v@s"]);
        damage(&host, "f3");
        // Whoever meets with it.
        for name in ["v", "twin"] {
            is(&host, name, "ok", &[]);
            let dir = host.mount(name, &[]);
            assert_eq!(errno(fs::read(dir.join("dir/f3"))), libc::EIO);
            is(&host, name, "degraded", &["unreadable-blocks"]);
        }
        host.umount("v");
        host.umount("twin");
        // To know of one is not to know of the other.
        host.ok(&["status", "--acknowledge", "v"]);
        is(&host, "v", "ok", &[]);
        is(&host, "twin", "degraded", &["unreadable-blocks"]);
        host.ok(&["status", "--acknowledge", "twin"]);
        for looked in [&["check", "v", "--read-data"][..], &["scrub", "twin"]] {
            let output = run(&mut host.command(looked));
            assert_eq!(output.status.code(), Some(DAMAGED));
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(
                said.contains("volume \"twin\", /dir/f3, at byte 4096, volume \"v\", /dir/f3, at byte 4096, and a snapshot of it)"),
                "{said}"
            );
            is(&host, "v", "degraded", &["unreadable-blocks"]);
            is(&host, "twin", "degraded", &["unreadable-blocks"]);
            host.ok(&["status", "--acknowledge", "v"]);
            host.ok(&["status", "--acknowledge", "twin"]);
        }
    }
}

#[test]
fn what_is_known_of_a_volume_goes_with_its_name() {
    let host = fill(Host::plain());
    host.ok(&["clone", "v", "twin"]);
    host.ok(&["snapshot", "create", "v@s"]);
    let dir = host.mount("v", &[]);
    fs::remove_file(dir.join("dir/f3")).unwrap();
    host.umount("v");
    host.ok(&["snapshot", "rename", "v@s", "t"]);
    let twin = address(&host, "f4", 1);
    flip(
        &host.store("v").join("segments").join(format!("{:016x}.seg", twin.segment)),
        data_offset(twin.index) + 77,
    );
    let _ = run(&mut host.command(&["scrub", "v"]));
    host.ok(&["rename", "v", "w"]);
    is(&host, "w", "degraded", &["unreadable-blocks"]);
    is(&host, "twin", "degraded", &["unreadable-blocks"]);
    // The name is another volume's, of which nothing is known.
    host.ok(&["clone", "twin", "v"]);
    is(&host, "v", "ok", &[]);
    // Through the trash, where another one takes its name, and back under a new one.
    host.ok(&["rm", "w"]);
    host.ok(&["clone", "twin", "w"]);
    is(&host, "w", "ok", &[]);
    host.ok(&["trash", "restore", "w", "x"]);
    is(&host, "x", "degraded", &["unreadable-blocks"]);
    is(&host, "w", "ok", &[]);
    // One that is gone leaves nothing to the next of its name.
    host.ok(&["rm", "--now", "x"]);
    host.ok(&["clone", "twin", "x"]);
    is(&host, "x", "ok", &[]);
    is(&host, "twin", "degraded", &["unreadable-blocks"]);
}

#[test]
fn a_snapshot_that_is_damaged_is_called_by_the_name_that_it_has() {
    let host = fill(Host::plain());
    host.ok(&["snapshot", "create", "v@s"]);
    damage(&host, "f3");
    let dir = host.mount("v", &[]);
    fs::remove_file(dir.join("dir/f3")).unwrap();
    assert_eq!(errno(fs::read(dir.join(".snapshots/s/dir/f3"))), libc::EIO);
    is(&host, "v", "degraded", &["unreadable-blocks"]);
    assert!(message(&host, "v").contains("snapshot \"s\", /dir/f3, at byte 4096"), "{}", message(&host, "v"));
    host.umount("v");
    host.ok(&["snapshot", "rename", "v@s", "t"]);
    assert!(message(&host, "v").contains("snapshot \"t\", /dir/f3, at byte 4096"), "{}", message(&host, "v"));
    host.ok(&["snapshot", "rm", "v@t"]);
    assert!(host.ok(&["scrub", "v"]).starts_with("v: clean; "));
    is(&host, "v", "ok", &[]);
}

#[test]
fn what_was_not_looked_at_is_not_said_to_be_over() {
    let host = fill(Host::plain());
    damage(&host, "f3");
    let _ = run(&mut host.command(&["scrub", "v"]));
    is(&host, "v", "degraded", &["unreadable-blocks"]);
    let finished = host.json(&["inspect", "v"])["scrub"]["finished"].clone();
    // A page of the database that nothing needs to be opened.
    let database = host.store("v").join("meta.db");
    let offset = fs::metadata(&database).unwrap().len() - 4096 + 100;
    let is_found = |offset: u64| {
        flip(&database, offset);
        let output = run(&mut host.command(&["check", "v", "--json"]));
        let found = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let is_found = found["faults"][0]["kind"] == "database";
        if !is_found {
            flip(&database, offset);
        }
        is_found
    };
    let offset = (0..20).map(|page| offset - 4096 * page).find(|offset| is_found(*offset)).unwrap();
    for (looked, said) in [
        (&["scrub", "v"][..], "contents not read, because the metadata are damaged"),
        (&["check", "v", "--read-data"], "nothing else could be checked, because the metadata are damaged"),
        (
            &["check", "--all", "--read-data"],
            "nothing else could be checked, because the metadata are damaged",
        ),
        (&["check", "v", "--read-data", "--json"], "\"contents_read\": false"),
    ] {
        let output = run(&mut host.command(looked));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(DAMAGED) && stdout.contains(said), "{stdout}");
        assert!(!stdout.contains("all of them read"), "{stdout}");
        is(&host, "v", "failed", &["faults", "unreadable-blocks"]);
        let scrub = host.json(&["inspect", "v"])["scrub"].clone();
        assert_eq!((&scrub["finished"], &scrub["under_way"]), (&finished, &Value::Null));
    }
    flip(&database, offset);
    let dir = host.mount("v", &[]);
    fs::remove_file(dir.join("dir/f3")).unwrap();
    host.ok(&["scrub", "v"]);
    is(&host, "v", "ok", &[]);
}

#[test]
fn a_volume_that_containers_use_is_down_also_while_another_one_of_its_store_is_served() {
    let host = Host::new();
    host.volume("v", &[]);
    host.ok(&["clone", "v", "twin"]);
    let users = host.root().join("plugin/mounts");
    fs::create_dir_all(&users).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let used = json!({ "boot": boot.trim(), "ids": { "0123": { "count": 1, "epoch": 0 } } });
    for name in ["v", "twin"] {
        fs::write(users.join(format!("{name}.json")), used.to_string()).unwrap();
    }
    is(&host, "v", "ok", &[]);
    is(&host, "twin", "failed", &["down"]);
    assert_eq!(host.json(&["inspect", "twin"])["state"], "down");
    host.mount("twin", &[]);
    is(&host, "twin", "ok", &[]);
    assert_eq!(host.json(&["inspect", "twin"])["state"], "mounted");
    host.umount("v");
    is(&host, "v", "failed", &["down"]);
    fs::remove_dir_all(users).unwrap();
}

#[test]
fn check_says_what_it_has_not_looked_at() {
    let host = fill(Host::new());
    damage(&host, "f3");
    for mounted in [false, true] {
        if mounted {
            host.mount("v", &[]);
        }
        let said = host.ok(&["check", "v"]);
        assert!(said.starts_with("v: metadata clean; "), "{said}");
        assert!(said.contains("contents not read (--read-data reads them)"), "{said}");
        // What is known already is not passed over.
        assert_eq!(said.contains("contents are damaged"), mounted, "{said}");
        let found = host.json(&["check", "v", "--json"]);
        assert_eq!((&found["clean"], &found["contents_read"]), (&Value::Null, &json!(false)));
        assert_eq!(
            (&found["no_faults"], found["noted"].as_array().unwrap().len()),
            (&json!(true), usize::from(mounted))
        );
        let output = run(&mut host.command(&["check", "v", "--read-data"]));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(DAMAGED));
        assert!(
            said.contains("v: 1 fault; ") && said.contains("/dir/f3") && said.contains("all of them read"),
            "{said}"
        );
    }
    is(&host, "v", "degraded", &["unreadable-blocks"]);
}

#[test]
fn all_volumes_are_checked_a_line_each_and_the_worst_counts() {
    let host = fill(Host::plain());
    host.ok(&["create", "a"]);
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    let said = host.ok(&["check", "--all"]);
    assert_eq!(
        said.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(),
        ["a", "v"],
        "{said}"
    );
    host.ok(&["create", "locked", "--encrypt", "--key-file", key.to_str().unwrap()]);
    let output = run(&mut host.command(&["check", "--all"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(13), "{stderr}");
    assert!(stderr.contains("\"locked\" is not checked") && stderr.lines().count() == 1, "{stderr}");
    host.ok(&["set", "locked", &format!("key-file={}", key.display())]);
    host.ok(&["check", "--all"]);
    // What only a key file opens is not asked a passphrase of: what is missing is said.
    let elsewhere = key.with_extension("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    let dir = host.make_mountpoint("locked");
    for command in
        [&["inspect", "locked"][..], &["df", "locked"], &["mount", "locked", dir.to_str().unwrap()]]
    {
        let said = host.fails(13, command);
        assert!(said.contains(key.to_str().unwrap()) && said.contains("is missing"), "{said}");
    }
    fs::rename(&elsewhere, &key).unwrap();
    host.ok(&["clone", "v", "twin"]);
    damage(&host, "f3");
    let output = run(&mut host.command(&["check", "--all", "--read-data"]));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), stdout.lines().count()), (Some(DAMAGED), 4), "{stdout}");
    for name in ["v: 1 fault; ", "twin: 1 fault; ", "a: clean; ", "locked: clean; "] {
        assert!(stdout.lines().any(|line| line.starts_with(name)), "{stdout}");
    }
    let output = run(&mut host.command(&["check", "--all", "--read-data", "--json"]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 4);
}

/// A process in a mount namespace of its own, as a container is, with the mounts there are.
struct Elsewhere(Background);

impl Elsewhere {
    fn enter(dir: &Path) -> Self {
        let mark = dir.with_extension("in");
        let script = format!("touch {}; exec sleep 1000", mark.display());
        let it = Background::start(Command::new("unshare").args([
            "-m",
            "--propagation",
            "private",
            "bash",
            "-c",
            &script,
        ]));
        wait_until("it is there", || mark.exists());
        Self(it)
    }
}

#[test]
fn a_mount_without_a_server_is_said_to_be_dead_wherever_it_is() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    host.kill_server("v");
    is(&host, "v", "failed", &["dead-mount"]);
    // One on another host directory with the same name is no matter of it.
    let other = Host::new();
    other.ok(&["create", "v"]);
    is(&other, "v", "ok", &[]);
    host.mount("v", &[]);
    is(&host, "v", "ok", &[]);
    // A container has it, and it is mounted again where the container does not see it.
    let container = Elsewhere::enter(&dir);
    host.kill_server("v");
    let dir = host.mount("v", &[]);
    fs::write(dir.join("f"), "works").unwrap();
    is(&host, "v", "failed", &["dead-mount"]);
    let message = host.json(&["inspect", "v"])["reasons"][0]["message"].clone();
    let process = format!("for process {}", container.0.0.id());
    assert!(message.as_str().unwrap().contains(&process), "{message}");
    drop(container);
    is(&host, "v", "ok", &[]);
}

/// What a container is called, its engine knows; what was said was a part of its ID.
#[test]
fn a_container_on_a_dead_mount_is_named_with_what_restarts_it() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let id = "0123456789abcdef".repeat(4);
    let group = Group::named(&format!("docker-{id}.scope"));
    let container = Elsewhere::enter(&dir);
    fs::write(group.0.join("cgroup.procs"), container.0.0.id().to_string()).unwrap();
    host.kill_server("v");
    let socket = host.dir("run").join("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let id = "0123456789abcdef".repeat(4);
            let body = format!(r#"[{{"Id": "{id}", "Names": ["/web"], "State": "running", "Mounts": []}}]"#);
            let _ =
                std::io::Write::write_all(&mut stream, format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes());
        }
    });
    let status = |socket: &Path| {
        let command = &mut host.command(&["status", "v", "--json"]);
        let output = run(command.env("DOCKER_HOST", format!("unix://{}", socket.display())));
        assert_eq!(output.status.code(), Some(14), "{output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown[0]["health"], "failed", "{shown}");
        let reason = shown[0]["reasons"][0].clone();
        assert_eq!(reason["code"], "dead-mount", "{shown}");
        (reason["message"].as_str().unwrap().to_owned(), reason["advice"].as_str().unwrap().to_owned())
    };
    let (message, advice) = status(&socket);
    assert!(message.contains("in container web"), "{message}");
    assert!(
        advice.contains("umount -l")
            && advice.contains("; then restart the containers named (`docker restart web`)"),
        "{advice}"
    );
    // Nobody says what it is called.
    let (message, _) = status(&socket.with_extension("missing"));
    assert!(message.contains("in container 0123456789ab"), "{message}");
    host.mount("v", &[]);
    let (_, advice) = status(&socket);
    assert_eq!(advice, "restart the containers named (`docker restart web`)");
    drop(container);
    drop(group);
    is(&host, "v", "ok", &[]);
}

/// A control group of a test's.
struct Group(PathBuf);

impl Group {
    fn named(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let groups = fields.filter(|fields| {
            let is_writable = fields[3].split(',').any(|option| option == "rw");
            is_writable && (fields[2] == "cgroup2" || fields[2] == "cgroup" && fields[1].ends_with("/pids"))
        });
        let root = groups.max_by_key(|fields| fields[2] == "cgroup2").map(|fields| fields[1].to_owned());
        let group = Self(Path::new(&root.expect("control groups")).join(name));
        fs::create_dir(&group.0).unwrap();
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_mount_whose_connection_was_aborted_is_dead_until_it_is_unmounted() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(&dir).unwrap());
    larder::mount::abort(nix::sys::stat::minor(device) as u32).unwrap();
    is(&host, "v", "failed", &["dead-mount"]);
    // Also once another one is there.
    succeed(Command::new("umount").arg("-l").arg(&dir));
    is(&host, "v", "ok", &[]);
    host.mount("v", &[]);
    is(&host, "v", "ok", &[]);
}

#[test]
fn a_mount_that_died_with_its_server_is_remembered() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    host.mount("v", &["-o", "transport=fuser"]);
    let (holder, server) = (host.holder("v"), host.server("v"));
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    wait_until("the holder has gone", || !crate::support::is_running(holder));
    is(&host, "v", "failed", &["takeover-failed", "dead-mount"]);
    host.mount("v", &[]);
    is(&host, "v", "degraded", &["takeover-failed"]);
    host.ok(&["status", "v", "--acknowledge"]);
    is(&host, "v", "ok", &[]);
}

#[test]
fn what_is_missing_is_said() {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    host.ok(&["create", "locked", "--encrypt", "--key-file", key.to_str().unwrap()]);
    host.ok(&["set", "locked", &format!("key-file={}", key.display())]);
    is(&host, "locked", "ok", &[]);
    fs::rename(&key, key.with_extension("away")).unwrap();
    is(&host, "locked", "failed", &["key-missing"]);
    fs::rename(key.with_extension("away"), &key).unwrap();
    is(&host, "locked", "ok", &[]);
    host.ok(&["create", "gone"]);
    let store = host.store("gone");
    fs::rename(&store, store.with_extension("away")).unwrap();
    is(&host, "gone", "failed", &["store-missing"]);
    fs::rename(store.with_extension("away"), &store).unwrap();
    is(&host, "gone", "ok", &[]);
    fs::write(store.join("meta.db"), "nonsense").unwrap();
    is(&host, "gone", "failed", &["unusable"]);
    let line = host.fails(3, &["status", "nothing"]);
    assert!(line.contains("there is no volume \"nothing\""), "{line}");
    let nowhere = Host::with_root(host.dir("x").join("nowhere"));
    assert!(nowhere.fails(3, &["status"]).contains("nowhere"), "a typing error is not health");
}

#[test]
fn notes_that_are_damaged_are_said_and_hide_nothing() {
    let host = fill(Host::new());
    let id = host.store("v").file_name().unwrap().to_str().unwrap().to_owned();
    let notes = host.root().join("health").join(format!("{id}.json"));
    damage(&host, "f3");
    let _ = run(&mut host.command(&["check", "v", "--read-data"]));
    is(&host, "v", "degraded", &["unreadable-blocks"]);
    for damage in ["", "{", "\0\0\0", "[1]"] {
        fs::write(&notes, damage).unwrap();
        is(&host, "v", "degraded", &["notes-lost"]);
        host.mount("v", &[]);
        host.umount("v");
    }
    let _ = run(&mut host.command(&["check", "v", "--read-data"]));
    is(&host, "v", "degraded", &["notes-lost", "unreadable-blocks"]);
    host.ok(&["status", "--acknowledge", "v"]);
    is(&host, "v", "ok", &[]);
    // A volume that is gone leaves nothing, and the next of its name begins anew.
    let _ = run(&mut host.command(&["check", "v", "--read-data"]));
    host.ok(&["rm", "--now", "v"]);
    assert_eq!(fs::read_dir(host.root().join("health")).unwrap().count(), 0);
    host.ok(&["create", "v"]);
    is(&host, "v", "ok", &[]);
}

#[test]
fn a_store_that_takes_no_changes_is_said_to_also_when_nothing_can_be_noted() {
    let disk = SmallDisk::new(64);
    let host = Host::with_root(disk.path().join("root"));
    let dir = host.volume("v", &["--size", "16M"]);
    fs::write(dir.join("kept"), "kept").unwrap();
    succeed(Command::new("sync").arg(dir.join("kept")));
    // The disk turns read-only, as ext4 does when it meets with errors.
    disk.remount("errors=remount-ro");
    shell(
        disk.path(),
        "echo 1 > /sys/fs/ext4/$(basename $(findmnt -no SOURCE .))/trigger_fs_error; sync . || true",
    );
    let _ = fs::write(dir.join("lost"), pattern(100_000, 1));
    let _ = run(Command::new("sync").arg(dir.join("lost")));
    let failed = || status(&host, "v").1.contains(&"writes-failed".to_owned());
    if !crate::support::wait_for(failed) {
        panic!("{:?}", status(&host, "v"));
    }
    assert_eq!(status(&host, "v").0, "failed");
}

#[test]
fn what_was_lost_is_said_until_it_is_written_again_or_removed() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1M"]);
    for removed in [false, true] {
        let full = shell(&dir, "dd if=/dev/zero of=big bs=64k count=64 conv=notrunc,fsync 2>&1 || true");
        assert!(full.contains("No space left"), "{full}");
        is(&host, "v", "degraded", &["lost-writes"]);
        let message = host.json(&["inspect", "v"])["reasons"][0]["message"].clone();
        assert!(
            message.as_str().unwrap().contains("there was no room for it: /big, from byte "),
            "{message}"
        );
        if removed {
            fs::remove_file(dir.join("big")).unwrap();
            is(&host, "v", "ok", &[]);
        } else {
            host.ok(&["status", "--acknowledge", "v"]);
            is(&host, "v", "ok", &[]);
            fs::write(dir.join("big"), "").unwrap();
        }
    }
}

/// It was the moment of asking, another one each time.
#[test]
fn what_is_looked_at_is_wrong_since_it_was_first_seen() {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    host.ok(&["create", "locked", "--encrypt", "--key-file", key.to_str().unwrap()]);
    host.ok(&["set", "locked", &format!("key-file={}", key.display())]);
    let text = |args: &[&str]| String::from_utf8(run(&mut host.command(args)).stdout).unwrap();
    let since = |volume: &str| {
        let said: Value = serde_json::from_str(&text(&["status", "--json", volume])).unwrap();
        said[0]["reasons"][0]["since"].clone()
    };
    assert_eq!(since("locked"), Value::Null, "nothing is wrong");
    fs::rename(&key, key.with_extension("away")).unwrap();
    let first = since("locked");
    assert!(first.is_string(), "{first}");
    // Times are said in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(since("locked"), first);
    // What is over, and then so again, is so since then.
    fs::rename(key.with_extension("away"), &key).unwrap();
    assert_eq!(since("locked"), Value::Null);
    fs::rename(&key, key.with_extension("away")).unwrap();
    assert_ne!(since("locked"), first);
    // Of a store that is not there nothing is noted, and so nobody knows.
    host.ok(&["create", "gone"]);
    let store = host.store("gone");
    fs::rename(&store, store.with_extension("away")).unwrap();
    assert_eq!(since("gone"), Value::Null);
    let line = text(&["status", "-x", "gone"]);
    assert!(line.starts_with("gone: failed: "), "{line}");
    fs::rename(store.with_extension("away"), &store).unwrap();
}

/// There were tables and questions among the lines of JSON.
#[test]
fn what_cannot_be_asked_is_said_to_programs_in_json() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    host.ok(&["create", "other"]);
    host.ok(&["snapshot", "create", "v@one"]);
    host.ok(&["rm", "other"]);
    for args in [
        &["prune", "--json", "--ignore-silent-engines"][..],
        &["trash", "empty", "--json"],
        &["snapshot", "rm", "v@*", "--json"],
    ] {
        let output = run(&mut host.command(args));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        let lines: Vec<Value> = stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {e}: {stderr}")))
            .collect();
        assert!(
            lines.last().unwrap()["error"]["message"].as_str().unwrap().contains("no terminal"),
            "{stderr}"
        );
    }
    // What is passed over is no error where the command does not fail.
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    host.ok(&["create", "locked", "--encrypt", "--key-file", key.to_str().unwrap()]);
    let output = run(&mut host.command(&["prune", "--json", "--force", "--ignore-silent-engines"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let passed_over = stderr.lines().find(|line| line.contains("locked")).expect("it is named");
    assert!(passed_over.starts_with("{\"warning\":"), "{stderr}");
}

#[test]
fn errors_are_objects_for_programs() {
    let host = Host::new();
    host.volume("v", &[]);
    let other = host.dir("other");
    let error = |args: &[&str]| {
        let output = run(&mut host.command(args));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let said: Value = serde_json::from_str(&stderr).unwrap_or_else(|e| panic!("{e}: {stderr}"));
        assert_eq!(said["error"]["status"], output.status.code().unwrap(), "{said}");
        assert!(output.stdout.is_empty() || serde_json::from_slice::<Value>(&output.stdout).is_ok());
        let text = |field: &str| said["error"][field].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    };
    let no_volume = "there is no volume \"x\"; `larder ls` lists the volumes";
    for command in ["inspect", "check", "status", "df", "scrub", "resize", "rm"] {
        let args: &[&str] = if command == "resize" { &["--size", "1G"] } else { &[] };
        let (code, message) = error(&[&["--json", command, "x"], args].concat());
        assert!(code == "no-volume" && message.ends_with(no_volume), "{command}: {code}: {message}");
    }
    assert_eq!(error(&["mount", "v", other.to_str().unwrap(), "--json"]).0, "busy");
    assert_eq!(error(&["create", "v", "--json"]).0, "exists");
    assert_eq!(error(&["mount", "x", "/nowhere", "--json"]).0, "no-volume");
    for args in [
        &["nonsense", "--json"][..],
        &["--json"],
        &["mount", "--json"],
        &["--json", "create", "w", "--size", "10X"],
        &["find", "v", "--json"],
        &["find", "v", "--block", "x", "--json"],
        &["check", "--json"],
        &["status", "--acknowledge", "--json"],
    ] {
        let (code, message) = error(args);
        assert_eq!(code, "usage", "{args:?}: {message}");
        assert!(
            !message.is_empty() && !message.contains("Usage:") && !message.starts_with("error"),
            "{message}"
        );
    }
    let (_, message) = error(&["mount", "--json"]);
    assert!(message.contains("required arguments") && message.contains("<NAME>"), "{message}");
    // What is asked for is no error.
    assert!(host.ok(&["--json", "--help"]).contains("Usage:"));
    // Names that terminals act on are written as JSON has them.
    let output = run(&mut host.command(&["inspect", "\u{9b}31m", "--json"]));
    assert!(!output.stderr.contains(&0x9b) || String::from_utf8(output.stderr).unwrap().contains("\\u"));
}
