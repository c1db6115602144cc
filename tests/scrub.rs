//! Scrubs read everything, in nobody's way, and go on where they were interrupted.

use crate::damage::{address, fill, flip, segment};
use crate::support::{Background, Host, pattern, run, wait_until};
use larder::store::data_offset;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The scrub of a volume, as `inspect` shows it.
fn scrubbed(host: &Host, name: &str) -> Value {
    host.json(&["inspect", name])["scrub"].clone()
}

/// The server leaves out steps for some time, and what the last one of them said was taken for all.
#[test]
fn a_scrub_of_what_is_mounted_says_how_many_blocks_it_read() {
    let host = Host::new();
    large(&host);
    host.ok(&["scrub", "v"]);
    let all = scrubbed(&host, "v")["blocks"].clone();
    assert!(all.as_u64().unwrap() >= 20_480, "{all}");
    host.mount("v", &[]);
    for _ in 0..3 {
        let said = host.ok(&["scrub", "v"]);
        assert!(said.contains(&format!("{all} blocks")), "{said}");
        assert_eq!(scrubbed(&host, "v")["blocks"], all);
    }
}

/// What is kept of the volume's store.
fn notes(host: &Host, name: &str) -> PathBuf {
    let id = host.store(name).file_name().unwrap().to_str().unwrap().to_owned();
    host.root().join("health").join(format!("{id}.json"))
}

/// A volume of some segments, unmounted: contents in two of them.
fn large(host: &Host) {
    let dir = host.volume("v", &[]);
    for i in 0..2 {
        fs::write(dir.join(format!("f{i}")), pattern(40 << 20, i)).unwrap();
    }
    host.umount("v");
}

/// A scrub in the background, so slow that it is still under way when it is looked at.
fn slow(host: &Host) -> Scrub {
    let mut command = host.command(&["scrub", "v", "--rate", "512K"]);
    Scrub(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

struct Scrub(Child);

impl Drop for Scrub {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn everything_is_read_and_what_is_damaged_is_noted() {
    for host in Host::each_kind().map(fill) {
        assert_eq!(scrubbed(&host, "v")["finished"], Value::Null);
        assert!(host.ok(&["scrub", "v"]).starts_with("v: clean; "));
        let first = scrubbed(&host, "v");
        assert_eq!((&first["faults"], &first["under_way"]), (&json!(0), &Value::Null), "{first}");
        assert!(
            first["blocks"].as_u64().unwrap() > 200 && first["finished"].as_str().unwrap().ends_with('Z')
        );
        let addr = address(&host, "f3", 1);
        flip(&segment(&host), data_offset(addr.index));
        for mounted in [false, true] {
            if mounted {
                host.mount("v", &[]);
            }
            let output = run(&mut host.command(&["scrub", "v", "--json"]));
            assert_eq!(output.status.code(), Some(9));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            let message = found[0]["found"][0]["message"].as_str().unwrap();
            assert!(message.contains("/dir/f3, at byte 4096"), "{found}");
            assert_eq!(found[0]["found"][0]["block"], addr.to_string(), "{found}");
            assert_eq!((&scrubbed(&host, "v")["faults"], &found[0]["faults"]), (&json!(1), &json!(1)));
            let inspected = host.json(&["inspect", "v"]);
            assert_eq!(
                (&inspected["health"], &inspected["reasons"][0]["code"]),
                (&json!("degraded"), &json!("unreadable-blocks"))
            );
        }
        // Which file it is, whoever asks.
        let found = host.ok(&["find", "v", "--block", &addr.to_string()]);
        assert!(found.contains("v\t/dir/f3, at byte 4096"), "{found}");
    }
}

#[test]
fn what_is_freed_while_it_is_read_is_no_damage() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let script = "while :; do dd if=/dev/urandom of=f bs=64k count=40 conv=fsync 2>/dev/null; rm f; done";
    let writer = Background::start(Command::new("bash").arg("-c").arg(script).current_dir(&dir));
    for _ in 0..8 {
        assert!(host.ok(&["scrub", "v", "--rate", "0"]).contains(": clean; "));
    }
    drop(writer);
    assert_eq!(host.json(&["inspect", "v"])["health"], "ok");
}

#[test]
fn an_interrupted_scrub_goes_on() {
    let host = Host::plain();
    large(&host);
    host.ok(&["scrub", "v", "--rate", "0"]);
    let all = scrubbed(&host, "v")["blocks"].as_u64().unwrap();
    // As one leaves it that was killed behind the first segment.
    let mut kept: Value = serde_json::from_slice(&fs::read(notes(&host, "v")).unwrap()).unwrap();
    let mut segments: Vec<String> = fs::read_dir(host.store("v").join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    segments.sort();
    let first = u64::from_str_radix(&segments[0], 16).unwrap();
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
        as u64
        - 60_000;
    kept["scrub"]["under_way"] = json!({ "started": started, "at": started, "after": first, "faults": 1 });
    fs::write(notes(&host, "v"), kept.to_string()).unwrap();
    // Damage where it has been is found by the next one, and damage where it has not been by this.
    flip(&host.store("v").join("segments").join(format!("{}.seg", segments[0])), data_offset(3));
    let output = run(&mut host.command(&["scrub", "v", "--rate", "0"]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(9), "what was found before the interruption counts");
    assert!(said.contains("v: 1 fault; ") && said.contains(&format!("{all} blocks")), "{said}");
    let scrub = scrubbed(&host, "v");
    assert_eq!((&scrub["under_way"], &scrub["blocks"]), (&Value::Null, &json!(all)));
    let output = run(&mut host.command(&["scrub", "v", "--rate", "0"]));
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8(output.stdout).unwrap().contains("/f"), "the next one begins at the beginning");
}

#[test]
fn what_a_scrub_finds_is_kept_when_the_clock_is_set_back() {
    let host = Host::plain();
    large(&host);
    host.ok(&["scrub", "v", "--rate", "0"]);
    let mut kept: Value = serde_json::from_slice(&fs::read(notes(&host, "v")).unwrap()).unwrap();
    let later = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
        as u64
        + 3_600_000;
    kept["scrub"]["under_way"] = json!({ "started": later, "at": later });
    fs::write(notes(&host, "v"), kept.to_string()).unwrap();
    let addr = address(&host, "f0", 1);
    flip(
        &host.store("v").join("segments").join(format!("{:016x}.seg", addr.segment)),
        data_offset(addr.index),
    );
    assert_eq!(run(&mut host.command(&["scrub", "v", "--rate", "0"])).status.code(), Some(9));
    assert_eq!(host.json(&["inspect", "v"])["health"], "degraded");
}

/// A segment that is gone has more damaged blocks than are listed: all of them are counted, each time anew.
#[test]
fn as_much_as_is_lost_is_said_and_no_more() {
    let host = Host::plain();
    large(&host);
    host.ok(&["clone", "v", "twin"]);
    let mut segments: Vec<PathBuf> =
        fs::read_dir(host.store("v").join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let blocks = fs::metadata(&segments[0]).unwrap().len() / 4096;
    fs::remove_file(&segments[0]).unwrap();
    for round in 0..3 {
        let looked: &[&str] =
            if round == 1 { &["check", "v", "--read-data"] } else { &["scrub", "v", "--rate", "0"] };
        let output = run(&mut host.command(looked));
        assert_eq!(output.status.code(), Some(9));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.lines().count() < 1010 && said.contains(" more faults\n"), "{}", said.lines().count());
        for name in ["v", "twin"] {
            let reasons = host.json(&["inspect", name])["reasons"].clone();
            let own = reasons.as_array().unwrap().iter().find(|reason| reason["more"] != 0).unwrap();
            let count = own["items"].as_array().unwrap().len() as u64 + own["more"].as_u64().unwrap();
            // A segment begins with its header and its seals.
            assert!(count > blocks * 9 / 10 && count <= blocks, "round {round}: {count} of {blocks}");
            assert!(own["message"].as_str().unwrap().contains("/f0, at byte "), "{own}");
        }
    }
}

#[test]
fn no_more_servers_die_of_a_scrub_than_it_takes_to_know() {
    let host = Host::plain();
    large(&host);
    host.mount("v", &[]);
    let mut command = host.command(&["scrub", "v", "--rate", "64K"]);
    let scrub = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut scrub = Scrub(scrub);
    let is_read_by = |pid: i32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name == "larder-scrub\n")
    };
    let mut killed = Vec::new();
    wait_until("it is given up", || {
        let servers = host.servers();
        for pid in servers.into_iter().filter(|pid| is_read_by(*pid)) {
            assert!(!killed.contains(&pid));
            killed.push(pid);
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            wait_until("it is gone", || !is_read_by(pid));
        }
        scrub.0.try_wait().unwrap().is_some()
    });
    assert_eq!((scrub.0.wait().unwrap().code(), killed.len()), (Some(1), 3));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut scrub.0.stderr.take().unwrap(), &mut said).unwrap();
    assert!(
        said.contains("the scrub is given up: 3 servers have died") && said.contains("larder logs v"),
        "{said}"
    );
    host.umount("v");
    assert!(host.ok(&["scrub", "v", "--rate", "0"]).starts_with("v: clean; "));
}

/// A scrub of a volume that is not mounted is in nobody's way, and goes on when it is mounted, unmounted, and served by another process.
#[test]
fn volumes_are_mounted_and_unmounted_while_they_are_scrubbed() {
    for host in Host::each_kind() {
        large(&host);
        let mut scrub = slow(&host);
        wait_until("it is under way", || scrubbed_offline(&host));
        let busy = host.fails(5, &["scrub", "v"]);
        assert!(busy.contains("is under way"), "{busy}");
        for round in 0..2 {
            let dir = host.mount("v", &[]);
            fs::write(dir.join("more"), round.to_string()).unwrap();
            host.umount("v");
        }
        let dir = host.mount("v", &[]);
        kill(Pid::from_raw(host.server("v")), Signal::SIGKILL).unwrap();
        assert_eq!(fs::read_to_string(dir.join("more")).unwrap(), "1");
        assert!(scrub.0.try_wait().unwrap().is_none(), "it is still at it");
        drop(scrub);
        // Also when whoever wanted it is gone.
        assert!(host.ok(&["scrub", "v", "--rate", "0"]).contains(": clean; "));
        host.umount("v");
        host.check("v");
    }
}

/// The lock is held for a scrub, and given back again and again.
fn scrubbed_offline(host: &Host) -> bool {
    let scrub = host.root().join("health");
    scrub.exists()
        && fs::read_dir(scrub)
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_str().unwrap().ends_with(".scrub"))
}

#[test]
fn all_that_are_due_are_scrubbed_and_what_is_locked_is_left_out() {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    for name in ["a", "b"] {
        host.ok(&["create", name]);
    }
    host.ok(&["clone", "a", "twin"]);
    host.ok(&["create", "locked", "--encrypt", "--key-file", key.to_str().unwrap()]);
    host.ok(&["create", "known", "--encrypt", "--key-file", key.to_str().unwrap()]);
    host.ok(&["set", "known", &format!("key-file={}", key.display())]);
    let output = run(&mut host.command(&["scrub", "--all", "--due", "30d"]));
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    let mut lines: Vec<&str> = stdout.lines().map(|line| line.split(':').next().unwrap()).collect();
    lines.sort();
    assert_eq!(lines, ["a, twin", "b", "known"]);
    assert!(stderr.contains("\"locked\" is not read") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(host.ok(&["scrub", "--all", "--due", "30d"]), "", "nothing is due");
    assert_eq!(host.ok(&["scrub", "--all", "--due", "0s"]).lines().count(), 3);
    // A month later.
    let kept: Value = serde_json::from_slice(&fs::read(notes(&host, "b")).unwrap()).unwrap();
    let finished = kept["scrub"]["last"]["finished"].as_u64().unwrap();
    let text = kept.to_string().replace(&finished.to_string(), &(finished - 31 * 24 * 3600).to_string());
    fs::write(notes(&host, "b"), text).unwrap();
    assert!(host.ok(&["scrub", "--all", "--due", "30d"]).starts_with("b: clean; "));
}

#[test]
fn a_server_stops_when_nobody_wants_to_know() {
    let host = Host::plain();
    large(&host);
    host.mount("v", &[]);
    let stream = UnixStream::connect(host.store("v").join("control")).unwrap();
    (&stream).write_all(b"{\"ask\":\"scrub\",\"after\":0,\"rate\":1000000}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("scrubbing"), "{answer}");
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", host.server("v"))).unwrap();
        tasks
            .filter(|task| {
                fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default()
                    == "larder-scrub\n"
            })
            .count()
    };
    assert_eq!(threads(), 1);
    drop(stream);
    wait_until("it stops", || threads() == 0);
}

#[test]
fn a_file_may_have_more_names_than_anybody_reads_and_longer_ones() {
    let host = Host::plain();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), pattern(5000, 1)).unwrap();
    for i in 0..1100 {
        fs::hard_link(dir.join("f"), dir.join(format!("link{i:04}"))).unwrap();
    }
    // One that no path leads to at once.
    let name = "d".repeat(250);
    crate::support::shell(
        &dir,
        &format!("for i in $(seq 20); do mkdir {name}; cd {name}; done; echo deep > deep"),
    );
    let inode = |script: &str| crate::support::shell(&dir, script).trim().to_owned();
    let many = inode("stat -c %i f");
    let deep = inode(&format!("for i in $(seq 20); do cd {name}; done; stat -c %i deep"));
    let output = run(&mut host.command(&["find", "v", "--inode", &many, "--json"]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((found[0]["paths"].as_array().unwrap().len(), &found[0]["more_paths"]), (1000, &json!(101)));
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("101 more names"), "{warning}");
    let said = host.ok(&["find", "v", "--inode", &deep]);
    assert!(said.starts_with(&format!("v\t…/{name}/")) && said.trim_end().ends_with("/deep"), "{said}");
    assert!(said.len() > 4000 && said.len() < 4100, "{}", said.len());
}

#[test]
fn files_are_found_by_their_numbers_and_blocks() {
    for host in Host::each_kind().map(fill) {
        host.ok(&["snapshot", "create", "v@s"]);
        host.ok(&["clone", "v@s", "twin"]);
        let addr = address(&host, "f0", 2).to_string();
        for mounted in [false, true] {
            let dir = host.mount("v", &[]);
            let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.join("link")).unwrap());
            if !mounted {
                host.umount("v");
            }
            let found = host.json(&["find", "v", "--inode", &ino.to_string(), "--json"]);
            let expected = |volume: &str| json!({ "volume": volume, "inode": ino, "paths": ["/dir/f0", "/link"], "offset": null });
            assert_eq!(found, json!([expected("v"), expected("v@s")]));
            let found = host.json(&["find", "v", "--block", &addr, "--json"]);
            let mut volumes: Vec<&str> =
                found.as_array().unwrap().iter().map(|found| found["volume"].as_str().unwrap()).collect();
            volumes.sort_unstable();
            assert_eq!(volumes, ["twin", "v", "v@s"]);
            assert!(
                found
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|found| found["offset"] == 8192 && found["paths"][1] == "/link"),
                "{found}"
            );
            let said = host.ok(&["find", "v", "--block", &addr]);
            assert_eq!(said.lines().count(), 6, "{said}");
            for what in [["--inode", "123456789"], ["--block", "00000000000000ff:1"]] {
                let why = host.fails(1, &["find", "v", what[0], what[1]]);
                assert!(why.contains(what[1]) && why.contains("may have been"), "{why}");
            }
            if mounted {
                // Removed, and still open.
                let open = fs::File::open(dir.join("dir/f1")).unwrap();
                fs::remove_file(dir.join("dir/f1")).unwrap();
                let ino = std::os::unix::fs::MetadataExt::ino(&open.metadata().unwrap()).to_string();
                let said = host.ok(&["find", "v", "--inode", &ino]);
                assert!(said.contains("removed and still open") && said.contains("v@s\t/dir/f1"), "{said}");
            }
        }
    }
}
