//! Syncs that wait for the remote (`durability=remote`), and how a volume is shipped while it is mounted.

use super::life::{Way, runs};
use super::mounted::{remote, url};
use crate::support::{Background, Host, pattern, run, shell, state, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BUSY: i32 = 5;
const USAGE: i32 = 2;

/// A volume of which nothing reaches its remote by itself for a day.
fn volume(host: &Host, url: &str, durability: &str) -> PathBuf {
    host.volume("db", &["--remote", url, "--ship", "86400", "--durability", durability])
}

fn synced(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    File::open(path).unwrap().sync_all().unwrap();
}

/// A program that writes a file and syncs it.
fn writer(path: &Path) -> Background {
    let script = format!("exec dd if=/dev/zero of={} bs=5000 count=1 conv=fsync", path.display());
    Background::start(Command::new("sh").arg("-c").arg(script))
}

fn records(objects: &Path) -> usize {
    fs::read_dir(objects.join("db/log")).map_or(0, Iterator::count)
}

fn waiting(host: &Host) -> u64 {
    remote(host, "db")["syncs"].as_u64().unwrap()
}

#[test]
fn what_was_synced_is_found_elsewhere_when_its_host_dies_right_after_that() {
    for round in 0..4 {
        for [a, b] in [[Host::plain(), Host::plain()], std::array::from_fn(|_| Host::encrypted())] {
            let objects = a.dir("objects");
            let here = volume(&a, &url(&objects), "remote");
            synced(&here.join("f"), &pattern(100, 1));
            match round {
                0 => synced(&here.join("f"), &pattern(3_000_000, 2)),
                1 => {
                    shell(
                        &here,
                        "mkdir d; for i in $(seq 200); do echo $i > d/$i; done; rm d/7; mv f d/g; ln d/g h",
                    );
                    File::open(here.join("d")).unwrap().sync_all().unwrap();
                }
                2 => drop(shell(&here, "dd if=/dev/urandom of=o bs=20000 count=7 oflag=sync 2>&1")),
                _ => {
                    let file = File::options().append(true).open(here.join("f")).unwrap();
                    for i in 0..20 {
                        std::io::Write::write_all(&mut &file, &pattern(1000 * i, i as u64)).unwrap();
                        file.sync_data().unwrap();
                    }
                }
            }
            a.kill_server("db");
            b.ok(&["attach", "--steal", &url(&objects)]);
            let there = state(&b.mount("db", &[]));
            // (It has nothing that was not synced.)
            let here = state(&a.mount("db", &[]));
            assert_eq!(there, here, "round {round}");
        }
    }
}

#[test]
fn those_who_sync_at_once_share_a_record() {
    const JOBS: u64 = 16;
    let a = Host::plain();
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = volume(&a, &way.url(), "remote");
    synced(&here.join("first"), b"first");
    way.cut();
    let mut all: Vec<Background> = (0..JOBS).map(|i| writer(&here.join(i.to_string()))).collect();
    wait_until("all of them wait", || waiting(&a) == JOBS);
    let before = records(&objects);
    way.mend();
    for child in &mut all {
        assert!(child.0.wait().unwrap().success());
    }
    let made = records(&objects) - before;
    assert!(made <= 2, "{made} records for {JOBS} syncs");
    assert_eq!(waiting(&a), 0);
    // Also where nothing keeps them waiting: most of those of a round share the second record that is made in it.
    let (before, rounds) = (records(&objects), 10);
    for round in 0..rounds {
        std::thread::scope(|scope| {
            for i in 0..JOBS {
                let file = here.join(i.to_string());
                scope.spawn(move || synced(&file, &pattern(3000, round)));
            }
        });
    }
    let made = (records(&objects) - before) as u64;
    assert!(made * 2 <= JOBS * rounds, "{made} records for {} syncs", JOBS * rounds);
    // One that has nothing new needs none.
    let before = records(&objects);
    for _ in 0..5 {
        File::open(here.join("1")).unwrap().sync_all().unwrap();
    }
    assert!(records(&objects) <= before + 1);
}

#[test]
fn an_outage_of_the_remote_lets_syncs_wait_and_nothing_else() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = volume(&a, &way.url(), "remote");
    synced(&here.join("f"), &pattern(100_000, 1));
    way.cut();
    let mut writers: Vec<Background> = (0..12).map(|i| writer(&here.join(format!("w{i}")))).collect();
    wait_until("they wait", || waiting(&a) == 12);
    // More than there are threads that read requests.
    for i in 0..30 {
        fs::write(here.join(i.to_string()), pattern(50_000, i)).unwrap();
        assert!(fs::read(here.join(i.to_string())).unwrap() == pattern(50_000, i));
        fs::rename(here.join(i.to_string()), here.join(format!("r{i}"))).unwrap();
    }
    a.ok(&["snapshot", "create", "db@meanwhile"]);
    assert!(fs::read(here.join("f")).unwrap() == pattern(100_000, 1));
    assert!(writers.iter_mut().all(runs));
    // Whoever is killed does not wait for it.
    for child in &mut writers[..4] {
        child.0.kill().unwrap();
        assert!(wait_for(|| !runs(child)), "it is killed");
    }
    // Nor is the volume unmounted under those who use it, nor do they keep others from being told so.
    a.fails(BUSY, &["umount", "db"]);
    wait_until("it is said why", || remote(&a, "db")["trouble"].is_string());
    way.mend();
    for child in &mut writers[4..] {
        assert!(child.0.wait().unwrap().success(), "it comes through");
    }
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// The next server is asked again, and may be killed in its turn.
#[test]
fn syncs_outlive_the_server_that_they_asked() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = volume(&a, &way.url(), "remote");
    synced(&here.join("f"), b"f");
    way.cut();
    let mut writers: Vec<Background> = (0..3).map(|i| writer(&here.join(format!("w{i}")))).collect();
    for _ in 0..2 {
        wait_until("they wait", || waiting(&a) == 3);
        let dead = a.server("db");
        kill(Pid::from_raw(dead), Signal::SIGKILL).unwrap();
        wait_until("another one is there", || a.server("db") != dead);
        assert_eq!(fs::read(here.join("f")).unwrap(), b"f");
    }
    wait_until("they wait again", || waiting(&a) == 3);
    assert!(writers.iter_mut().all(runs));
    way.mend();
    for child in &mut writers {
        assert!(child.0.wait().unwrap().success());
    }
    assert_eq!(remote(&a, "db")["lag_s"], 0);
}

#[test]
fn a_server_that_is_told_to_end_does_not_wait_for_the_remote_for_ever() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = volume(&a, &way.url(), "remote");
    synced(&here.join("f"), b"f");
    way.cut();
    let mut child = writer(&here.join("g"));
    wait_until("it waits", || waiting(&a) == 1);
    kill(Pid::from_raw(a.holder("db")), Signal::SIGTERM).unwrap();
    wait_until("its server has ended", || a.servers().is_empty());
    assert!(!child.0.wait().unwrap().success());
    // What was synced is here.
    way.mend();
    assert_eq!(fs::read(a.mount("db", &[]).join("g")).unwrap().len(), 5000);
}

#[test]
fn a_sync_of_a_volume_that_was_taken_meanwhile_fails() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = volume(&a, &way.url(), "remote");
    synced(&here.join("f"), b"f");
    way.cut();
    let mut child = writer(&here.join("g"));
    wait_until("it waits", || waiting(&a) == 1);
    b.ok(&["attach", "--steal", &url(&objects)]);
    fs::write(b.mount("db", &[]).join("h"), "h").unwrap();
    b.ok(&["remote", "sync", "db"]);
    assert!(runs(&mut child));
    way.mend();
    assert!(!child.0.wait().unwrap().success());
    wait_until("it takes no changes", || fs::write(here.join("new"), "").is_err());
    assert_eq!(File::open(here.join("f")).unwrap().sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read(here.join("f")).unwrap(), b"f");
}

#[test]
fn how_a_volume_is_shipped_changes_while_it_is_mounted() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = volume(&a, &way.url(), "local");
    a.ok(&["remote", "sync", "db"]);
    let before = records(&objects);
    synced(&here.join("f"), b"f");
    assert_eq!(records(&objects), before, "a sync is one of this host");

    assert_eq!(a.ok(&["set", "db", "durability=remote"]), "db: durability=remote\n");
    assert_eq!(a.ok(&["get", "db", "durability"]), "remote\n");
    assert_eq!(remote(&a, "db")["durability"], "remote");
    synced(&here.join("g"), b"g");
    assert!(records(&objects) > before);
    let server = a.server("db");
    a.umount("db");
    a.mount("db", &[]);
    assert_ne!(a.server("db"), server);
    let before = records(&objects);
    synced(&here.join("h"), b"h");
    assert!(records(&objects) > before, "the next mount has it, too");

    // Without it, nobody waits for a remote that is away.
    a.ok(&["set", "db", "--unset", "durability"]);
    assert_eq!(remote(&a, "db")["durability"], "local");
    way.cut();
    synced(&here.join("i"), b"i");
    way.mend();

    assert_eq!(a.ok(&["set", "db", "ship=1", "max-lag=1G"]), "db: max-lag=1G, ship=1\n");
    assert_eq!(a.ok(&["get", "db", "ship"]), "1\n");
    assert_eq!(a.ok(&["get", "db", "max-lag"]), "1G\n");
    let now = || a.json(&["inspect", "db"])["remote"].clone();
    assert_eq!((&now()["ship_s"], &now()["max_lag_bytes"]), (&1.into(), &(1_u64 << 30).into()));
    a.ok(&["remote", "sync", "db"]);
    let before = records(&objects);
    fs::write(here.join("j"), "j").unwrap();
    wait_until("it is there by itself", || records(&objects) > before);
    a.ok(&["set", "db", "--unset", "ship", "--unset", "max-lag"]);
    assert_eq!((&now()["ship_s"], &now()["max_lag_bytes"]), (&5.into(), &serde_json::Value::Null));
    a.kill_server("db");
    let b = Host::plain();
    b.ok(&["attach", "--steal", &url(&objects)]);
    assert_eq!(fs::read(b.mount("db", &[]).join("j")).unwrap(), b"j");
}

#[test]
fn what_makes_no_sense_without_a_remote_is_refused() {
    let a = Host::plain();
    let objects = a.dir("objects");
    assert!(a.fails(USAGE, &["create", "db", "--durability", "remote"]).contains("--remote"));
    a.ok(&["create", "db"]);
    for option in ["durability=remote", "ship=3", "max-lag=1G"] {
        assert!(a.fails(USAGE, &["set", "db", option]).contains("larder remote add db"), "{option}");
    }
    let dir = a.make_mountpoint("db");
    let dir = dir.to_str().unwrap();
    assert!(a.fails(USAGE, &["mount", "db", dir, "-o", "durability=remote"]).contains("has no remote"));
    a.mount("db", &[]);
    assert!(
        a.fails(USAGE, &["mount", "db", dir, "-o", "remount,durability=remote"]).contains("has no remote")
    );
    a.ok(&["remote", "add", "db", &url(&objects), "--durability", "remote", "--max-lag", "1G"]);
    assert_eq!(remote(&a, "db")["durability"], "remote");
    let text = a.ok(&["remote", "status", "db"]);
    assert!(text.contains("syncs:    return") && text.contains("max-lag:  1G"), "{text}");
    for option in ["ship=0", "ship=soon", "max-lag=much", "durability=both"] {
        assert!(
            a.fails(USAGE, &["set", "db", option]).contains(option.split('=').next().unwrap()),
            "{option}"
        );
    }
    let refused = a.fails(USAGE, &["remote", "detach", "db"]);
    assert!(refused.contains("larder set db durability=local"), "{refused}");
    a.ok(&["set", "db", "durability=local"]);
    a.ok(&["remote", "detach", "db"]);
    assert_eq!(run(&mut a.command(&["remote", "status", "db"])).status.code(), Some(USAGE));
}

#[test]
fn a_remote_that_lacks_too_much_keeps_who_writes_waiting_and_fails_nobody() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    a.ok(&["create", "db", "--remote", &way.url(), "--ship", "86400", "--max-lag", "1M"]);
    let here = a.mount("db", &["-o", "writeback=off"]);
    let now = |key: &str| remote(&a, "db")[key].clone();
    synced(&here.join("f"), b"f");
    a.ok(&["remote", "sync", "db"]);
    synced(&here.join("g"), b"g");
    assert_eq!((now("slowed_ms"), now("held")), (0.into(), false.into()));
    way.cut();
    let writing = |name: &str, count: u32| {
        let to = here.join(name);
        let script = format!("exec dd if=/dev/urandom of={} bs=100K count={count} 2>&1", to.display());
        Background::start(Command::new("sh").arg("-c").arg(script))
    };
    let mut writers = [writing("one", 40), writing("two", 40)];
    wait_until("it lacks too much", || now("held") == true);
    wait_until("both wait", || {
        let before = written(&here);
        std::thread::sleep(Duration::from_millis(1500));
        written(&here) == before
    });
    // It is what it may be, and what each of them has written once, and was on its way when it was looked.
    assert!(written(&here) < (2 << 20), "{}", written(&here));
    let text = run(&mut a.command(&["remote", "status", "db"]));
    assert!(String::from_utf8(text.stdout).unwrap().contains("wait until it lacks less"));
    // Whoever does not write goes on, and whoever is killed does not wait.
    assert_eq!(fs::read(here.join("f")).unwrap(), b"f");
    fs::rename(here.join("f"), here.join("h")).unwrap();
    a.ok(&["snapshot", "create", "db@meanwhile"]);
    let [one, two] = &mut writers;
    one.0.kill().unwrap();
    wait_until("it is gone", || one.0.try_wait().unwrap().is_some());
    assert!(two.0.try_wait().unwrap().is_none());
    way.mend();
    wait_until("the other one is done", || two.0.try_wait().unwrap().is_some());
    assert!(two.0.wait().unwrap().success());
    assert_eq!(fs::metadata(here.join("two")).unwrap().len(), 40 * 100 * 1024);
    // It is shipped for that, and not only once a day.
    wait_until("it is not behind any more", || {
        synced(&here.join("g"), b"again");
        now("held") == false
    });
    // Nothing waits any more where that is not wanted any more, either.
    way.cut();
    let mut writer = writing("three", 40);
    wait_until("it lacks too much again", || now("held") == true);
    assert!(writer.0.try_wait().unwrap().is_none());
    a.ok(&["set", "db", "max-lag=none"]);
    wait_until("it is written", || writer.0.try_wait().unwrap().is_some());
    assert!(writer.0.wait().unwrap().success());
    assert_eq!((now("slowed_ms"), now("held")), (0.into(), false.into()));
    way.mend();
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// How much is in files there.
fn written(dir: &Path) -> u64 {
    let len = |name: &str| fs::metadata(dir.join(name)).map_or(0, |about| about.len());
    len("one") + len("two")
}
