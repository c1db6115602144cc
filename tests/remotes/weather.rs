//! Mounted volumes on an object store that has bad times: errors, lost answers, keys that are exchanged, outages, late lists.

use super::bucket::{Asked, Bucket, Rule, Site, Trick};
use super::life::runs;
use crate::support::{Background, pattern, run, state, stop, succeed, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const DAMAGED: i32 = 9;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many steps are left out between two at which something is cut off: none in `scripts/soak`.
fn step() -> usize {
    if std::env::var_os("LARDER_WEATHER_ALL").is_some() { 1 } else { 5 }
}

/// Something that writes as a database does: each change goes to a log, which is synced, and then to a page of a table.
pub(super) struct Database {
    thread: JoinHandle<io::Error>,
    synced: Arc<AtomicU64>,
}

const RECORD: usize = 8192;

impl Database {
    pub(super) fn start(dir: &Path) -> Self {
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(dir.join(name))
                .unwrap()
        };
        let (log, table) = (open("wal"), open("table"));
        let synced = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&synced);
        let write = move || -> io::Result<()> {
            for number in 0.. {
                let record = pattern(RECORD, number);
                log.write_all_at(&record, number * RECORD as u64)?;
                log.sync_data()?;
                count.store(number + 1, Ordering::Relaxed);
                table.write_all_at(&record, number * 7 % 64 * RECORD as u64)?;
                if number % 8 == 7 {
                    table.sync_data()?;
                }
            }
            Ok(())
        };
        let thread = std::thread::spawn(move || write().err().unwrap_or_else(|| io::Error::other("the end")));
        Self { thread, synced }
    }

    /// How many changes were synced.
    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }

    /// How many were when it has ended by itself, and what has ended it.
    pub(super) fn ended(self) -> (u64, io::Error) {
        let e = self.thread.join().unwrap();
        (self.synced.load(Ordering::Relaxed), e)
    }

    /// Whether all is there that was synced.
    pub(super) fn is_in(dir: &Path, synced: u64) -> bool {
        let log = File::open(dir.join("wal")).unwrap();
        let mut bytes = vec![0; RECORD];
        (0..synced).all(|number| {
            log.read_exact_at(&mut bytes, number * RECORD as u64).unwrap();
            bytes == pattern(RECORD, number)
        })
    }
}

fn write(dir: &Path, files: std::ops::Range<u64>) {
    files.for_each(|i| fs::write(dir.join(format!("f{i}")), pattern(400_000, i)).unwrap());
}

fn is_right(dir: &Path, i: u64) -> bool {
    fs::read(dir.join(format!("f{i}"))).unwrap() == pattern(400_000, i)
}

fn cat(file: &Path) -> Background {
    Background::start(Command::new("cat").arg(file))
}

/// A program that writes so many times 100 KiB, and syncs.
fn dd(file: &Path, count: u32) -> Background {
    let script = format!("exec dd if=/dev/urandom of={} bs=100K count={count} conv=fsync", file.display());
    Background::start(Command::new("sh").arg("-c").arg(script))
}

/// The names of volumes on a host, which may have none yet, nor a place for them.
fn volumes(site: &Site) -> Vec<String> {
    let names = fs::read_dir(site.host.root().join("volumes")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Host `b` takes what the dead host `a` has shipped.
fn stolen(b: &Site) -> PathBuf {
    b.ok(&["attach", "--steal", "cloud/db"]);
    b.mount("db", &[])
}

/// What was synced is there, whatever the store answered meanwhile, and no sync fails.
#[test]
fn storms_of_errors_cost_a_database_nothing_but_time() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&["--durability", "remote"]);
    let database = Database::start(&here);
    wait_until("it has begun", || database.synced() > 3);
    let tricks = [
        (Trick::Answer(503, "SlowDown"), 7),
        (Trick::Answer(500, "InternalError"), 9),
        (Trick::LoseAnswer, 8),
        (Trick::Late(Duration::from_millis(300)), 10),
    ];
    for (trick, one_of) in tricks {
        bucket.add(Rule { one_of, ..Rule::all("", "", trick) });
    }
    // A record that is there, and of which nobody says so.
    bucket.add(Rule { most: 3, ..Rule::all("PUT", "/log/", Trick::LoseAnswer) });
    let before = database.synced();
    wait_until("it has met with much", || bucket.met() > 20 && database.synced() > before + 5);
    a.host.kill_server("db");
    let (synced, _) = database.ended();
    bucket.clear_rules();
    let there = stolen(&b);
    assert!(Database::is_in(&there, synced), "{synced}");
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
}

/// With another key, all goes on as if nothing had been, and nobody who waited has an error.
#[test]
fn a_key_that_was_exchanged_costs_nothing_once_the_new_one_is_there() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "old"), Site::new(&bucket, "b"));
    let here = a.volume(&["--ship", "1"]);
    write(&here, 0..8);
    a.ok(&["remote", "sync", "db"]);
    bucket.revoke("old");
    fs::write(here.join("new"), "new").unwrap();
    File::open(here.join("new")).unwrap().sync_all().unwrap();
    wait_until("it is said", || a.trouble().contains("credentials"));
    a.ok(&["set", "db", "durability=remote"]);
    let mut writer = dd(&here.join("synced"), 3);
    std::thread::sleep(Duration::from_secs(1));
    assert!(runs(&mut writer), "it waits");
    assert!((0..8).all(|i| is_right(&here, i)));
    let refused = b.ok(&["remote", "ls", "cloud"]);
    assert!(refused.contains("/db"), "another key is let in: {refused}");
    bucket.let_in("new");
    a.set_key("new");
    assert!(writer.0.wait().unwrap().success());
    wait_until("nothing is wrong any more", || a.trouble().is_empty());
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");

    // Who needs what is only there waits, too.
    b.ok(&["attach", "cloud/db"]);
    let there = b.mount("db", &[]);
    bucket.revoke("b");
    let mut reader = cat(&there.join("f5"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(runs(&mut reader));
    bucket.let_in("b again");
    b.set_key("b again");
    assert!(reader.0.wait().unwrap().success());
    assert_eq!(state(&there), then);
}

/// By the clock of the store, days have passed when it can be reached again.
#[test]
fn an_outage_that_outlasts_the_history_and_the_lag_loses_nothing() {
    let bucket = Bucket::new();
    let [a, b, c] = ["a", "b", "c"].map(|key| Site::new(&bucket, key));
    let here = a.volume(&["--history", "1h"]);
    write(&here, 0..8);
    a.ok(&["remote", "sync", "db"]);
    write(&here, 8..10);
    fs::remove_file(here.join("f1")).unwrap();
    a.umount("db");
    b.ok(&["attach", "cloud/db", "--max-lag", "1M", "--ship", "1", "--history", "1h"]);
    let there = b.mount("db", &["-o", "writeback=off"]);
    fs::write(there.join("before"), pattern(50_000, 50)).unwrap();
    b.ok(&["remote", "sync", "db"]);

    bucket.go_away();
    bucket.set_ahead(2 * DAY);
    fs::write(there.join("meanwhile"), "meanwhile").unwrap();
    fs::remove_file(there.join("f2")).unwrap();
    let mut writer = dd(&there.join("large"), 40);
    wait_until("it lacks too much", || b.remote()["held"] == true);
    assert!(runs(&mut writer));
    let mut reader = cat(&there.join("f9"));
    assert!(runs(&mut reader));
    bucket.come_back();
    assert!(writer.0.wait().unwrap().success() && reader.0.wait().unwrap().success());
    b.ok(&["remote", "sync", "db"]);
    assert!([0, 3, 4, 5, 6, 7, 8, 9].into_iter().all(|i| is_right(&there, i)));
    assert_eq!(fs::metadata(there.join("large")).unwrap().len(), 40 * 100 * 1024);
    let then = state(&there);
    b.umount("db");
    // A clock that goes back again says nothing of what is old.
    bucket.set_ahead(Duration::ZERO);
    assert!(c.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
    c.ok(&["attach", "cloud/db"]);
    assert_eq!(state(&c.mount("db", &[])), then);
}

/// An attach that begins while the store cannot be reached is done when it can be; each that is refused on its way leaves nothing behind
/// which another one would have to be told of.
#[test]
fn an_attach_that_is_cut_off_anywhere_is_given_again() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&[]);
    write(&here, 0..3);
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.host.kill_server("db");
    let args = ["attach", "--steal", "cloud/db"];
    let mut refused = 0;
    for spares in (0..).step_by(step()) {
        bucket.clear_rules();
        bucket.add(Rule { key: "b", spares, ..Rule::all("", "", Trick::Answer(403, "AccessDenied")) });
        let output = run(&mut b.command(&args));
        if output.status.success() {
            break;
        }
        refused += 1;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("403") && said.trim_end().lines().count() == 1, "{spares}: {said}");
        assert!(volumes(&b).is_empty(), "{spares}");
        bucket.clear_rules();
        // Nor is anything in the remote that keeps it from being complete.
        assert!(b.ok(&["remote", "check", "cloud/db"]).contains("complete"), "{spares}");
    }
    assert!(refused > 20 / step(), "{refused}");
    bucket.clear_rules();
    assert_eq!(state(&b.mount("db", &[])), then);
    b.umount("db");

    let c = Site::new(&bucket, "c");
    bucket.go_away();
    let mut attach = Background::start(&mut c.command(&["attach", "cloud/db"]));
    std::thread::sleep(Duration::from_secs(1));
    assert!(runs(&mut attach));
    bucket.come_back();
    assert!(attach.0.wait().unwrap().success());
    assert_eq!(state(&c.mount("db", &[])), then);
}

/// Killed before a request is done, or after that, and what was on its way arrives when others have gone on.
#[test]
fn an_attach_that_is_killed_anywhere_is_given_again() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&[]);
    write(&here, 0..3);
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.host.kill_server("db");
    let args = ["attach", "--steal", "cloud/db"];
    let mut killed = 0;
    // (Each that was killed after its claim is looked at by the next one, which asks for more because of that.)
    'all: for spares in (0..30).step_by(step()) {
        for trick in [Trick::Late(Duration::from_secs(3)), Trick::HoldAnswer(Duration::from_secs(3))] {
            bucket.clear_rules();
            bucket.add(Rule { key: "b", spares, most: 1, ..Rule::all("", "", trick) });
            let mut attach = Background::start(&mut b.command(&args));
            wait_until("it is there", || bucket.met() == 1 || !runs(&mut attach));
            if bucket.met() == 0 {
                assert!(attach.0.wait().unwrap().success());
                break 'all;
            }
            attach.0.kill().unwrap();
            attach.0.wait().unwrap();
            killed += 1;
            assert!(volumes(&b).is_empty(), "{spares} {trick:?}");
        }
    }
    assert!(killed > 20 / step(), "{killed}");
    bucket.clear_rules();
    if volumes(&b).is_empty() {
        b.ok(&args);
    }
    let there = b.mount("db", &[]);
    assert_eq!(state(&there), then);
    fs::write(there.join("more"), "more").unwrap();
    b.ok(&["remote", "sync", "db"]);
    b.umount("db");
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
    // Nothing is left of those that were killed.
    assert_eq!(fs::read_dir(b.host.root().join("stores")).unwrap().count(), 1);
}

/// The server of a mount, killed at a request, is followed by one that goes on.
#[test]
fn a_server_that_is_killed_at_any_request_is_replaced_and_ships_on() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&["--ship", "1"]);
    let mut killed = 0;
    for (round, spares) in (0..6).step_by(step().min(2)).enumerate() {
        for (at, trick) in [Trick::Late(Duration::from_secs(2)), Trick::HoldAnswer(Duration::from_secs(2))]
            .into_iter()
            .enumerate()
        {
            let i = 2 * round + at;
            bucket.clear_rules();
            bucket.add(Rule { spares, most: 1, ..Rule::all("", "", trick) });
            fs::write(here.join(format!("f{i}")), pattern(400_000, i as u64)).unwrap();
            let mut sync = Background::start(&mut a.command(&["remote", "sync", "db"]));
            wait_until("it is there", || bucket.met() == 1);
            let dead = a.host.server("db");
            kill(Pid::from_raw(dead), Signal::SIGKILL).unwrap();
            killed += 1;
            wait_until("another one is there", || a.host.server("db") != dead);
            let _ = sync.0.wait().unwrap();
            assert!(is_right(&here, i as u64));
        }
    }
    bucket.clear_rules();
    assert!(killed >= 6);
    a.ok(&["remote", "sync", "db"]);
    assert_eq!(a.trouble(), "");
    let then = state(&here);
    a.host.kill_server("db");
    assert_eq!(state(&stolen(&b)), then);
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
}

/// Those that are not volumes, and those whose names are nearly its own.
#[test]
fn objects_beside_a_volume_are_neither_looked_at_nor_touched() {
    const EACH: usize = 4000;
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let others = ["place/d", "place/db-", "place/db0", "place/dc", "other"];
    for other in others {
        for i in 0..EACH {
            bucket.put(&format!("{other}{}/log/{i:016x}", i % 5), b"other");
        }
    }
    let here = a.volume(&["--ship", "1"]);
    write(&here, 0..4);
    a.ok(&["remote", "sync", "db"]);
    a.ok(&["snapshot", "create", "db@s"]);
    fs::remove_file(here.join("f0")).unwrap();
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", "cloud/db"]);
    assert_eq!(state(&b.mount("db", &[])), then);
    b.ok(&["remote", "history", "db"]);
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
    b.umount("db");
    b.ok(&["rm", "--now", "db", "--remove-remote"]);
    let asked = bucket.take_asked();
    let strays: Vec<&Asked> = asked.iter().filter(|asked| !asked.name.starts_with("place/db/")).collect();
    assert!(strays.is_empty(), "{strays:?}");
    let lists = asked.iter().filter(|asked| asked.method == "GET" && asked.name.ends_with('/'));
    let listed: Vec<usize> = lists.map(|list| list.listed).collect();
    assert!(!listed.is_empty() && listed.iter().all(|listed| *listed < 100), "{listed:?}");
    assert_eq!(bucket.names("").len(), others.len() * EACH, "what there is beside it, and nothing else");
    // To look for volumes below a prefix is another matter, and has an end.
    a.ok(&["remote", "ls", "cloud"]);
    let asked = bucket.take_asked();
    assert!(
        asked.len() < 500 && asked.iter().all(|asked| asked.name.starts_with("place")),
        "{}",
        asked.len()
    );
}

/// The server has given it up, and tries again: it is there twice, and counts once.
#[test]
fn a_write_that_takes_longer_than_is_waited_for_it_is_done_once() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&[]);
    a.ok(&["remote", "sync", "db"]);
    let by = Duration::from_secs(if step() == 1 { 60 } else { 17 });
    bucket.add(Rule::once("PUT", "/log/", Trick::Late(by)));
    fs::write(here.join("small"), "small").unwrap();
    let mut sync = Background::start(&mut a.command(&["remote", "sync", "db"]));
    wait_until("it is on its way", || bucket.met() == 1);
    fs::write(here.join("large"), pattern(3_000_000, 1)).unwrap();
    File::open(here.join("large")).unwrap().sync_all().unwrap();
    assert!(runs(&mut sync));
    assert!(sync.0.wait().unwrap().success());
    if step() == 1 {
        bucket.add(Rule::once("PUT", "/data/", Trick::Late(by)));
    }
    a.ok(&["remote", "sync", "db"]);
    assert_eq!(a.trouble(), "");
    let then = state(&here);
    a.host.kill_server("db");
    assert_eq!(state(&stolen(&b)), then);
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
}

#[test]
fn a_store_that_lists_late_has_one_history_all_the_same() {
    let bucket = Bucket::new();
    let [a, b, c] = ["a", "b", "c"].map(|key| Site::new(&bucket, key));
    bucket.list_late(Duration::from_secs(5));
    let mut here = a.volume(&["--ship", "1"]);
    let mut last = &a;
    for (i, next) in [(0, &b), (1, &c), (2, &a)] {
        write(&here, 3 * i..3 * i + 3);
        last.ok(&["remote", "sync", "db"]);
        let then = state(&here);
        if i == 1 {
            last.umount("db");
            next.ok(&["attach", "cloud/db"]);
        } else {
            last.host.kill_server("db");
            if i == 2 {
                // What was stolen from it is a volume of its own.
                succeed(&mut next.command(&["rm", "--now", "--force", "--keep-remote", "db"]));
            }
            next.ok(&["attach", "--steal", "cloud/db"]);
        }
        here = next.mount("db", &[]);
        assert_eq!(state(&here), then, "{i}");
        last = next;
    }
    assert!(last.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
}

/// Both may attach it, as nobody has it; who mounts it first has it.
#[test]
fn of_two_hosts_that_attach_at_once_one_goes_on() {
    let bucket = Bucket::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|key| Site::new(&bucket, key));
    let here = a.volume(&[]);
    write(&here, 0..3);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    let both = |args: [Vec<PathBuf>; 2]| {
        let started = [&b, &c].into_iter().zip(args);
        let mut started: Vec<_> =
            started.map(|(site, args)| (site, Background::start(&mut site.command(&args)))).collect();
        started.iter_mut().map(|(site, child)| (*site, child.0.wait().unwrap().success())).collect::<Vec<_>>()
    };
    let words = |words: &[&str]| words.iter().map(PathBuf::from).collect::<Vec<_>>();
    let attached = both([words(&["attach", "cloud/db"]), words(&["attach", "cloud/db"])]);
    // One that came upon the other one's claim says so, and is given again.
    for (site, has) in &attached {
        if !has {
            site.ok(&["attach", "cloud/db"]);
        }
    }
    let there = [&b, &c].map(|site| site.host.make_mountpoint("db"));
    let mount = |dir: &PathBuf| vec!["mount".into(), "db".into(), dir.clone()];
    assert!(both([mount(&there[0]), mount(&there[1])]).iter().all(|(_, mounted)| *mounted));
    for (i, dir) in there.iter().enumerate() {
        // (Who is not the first takes no changes, once it knows.)
        let _ = fs::write(dir.join("of"), i.to_string());
    }
    let synced = both([words(&["remote", "sync", "db"]), words(&["remote", "sync", "db"])]);
    let winners: Vec<usize> = (0..2).filter(|i| synced[*i].1).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    let (winner, loser) = (winners[0], 1 - winners[0]);
    wait_until("the other one knows", || synced[loser].0.remote()["fenced"] == true);
    let then = state(&there[winner]);
    assert_eq!(fs::read_to_string(there[winner].join("of")).unwrap(), winner.to_string());
    synced[winner].0.umount("db");
    d.ok(&["attach", "cloud/db"]);
    assert_eq!(state(&d.mount("db", &[])), then);
}

/// It is an error, because what is there has no hole; and none any more when it is there again.
#[test]
fn an_object_that_is_missing_is_named_and_keeps_nothing_else_from_being_done() {
    let bucket = Bucket::new();
    let (a, b) = (Site::new(&bucket, "a"), Site::new(&bucket, "b"));
    let here = a.volume(&[]);
    fs::write(here.join("large"), pattern(6_000_000, 1)).unwrap();
    fs::write(here.join("small"), "small").unwrap();
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    b.ok(&["attach", "cloud/db"]);
    let there = b.mount("db", &[]);
    let part = bucket.names("place/db/data/").pop().unwrap();
    bucket.add(Rule::all("", &part, Trick::Answer(404, "NoSuchKey")));
    let e = fs::read(there.join("large")).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EIO));
    let name = part.strip_prefix("place/db/").unwrap();
    assert!(b.log().contains(name), "{}", b.log());
    fs::write(there.join("more"), "more").unwrap();
    b.ok(&["remote", "sync", "db"]);
    let checked = run(&mut b.command(&["remote", "check", "cloud/db"]));
    assert_eq!(checked.status.code(), Some(DAMAGED));
    assert!(String::from_utf8_lossy(&checked.stdout).contains(name), "{checked:?}");
    bucket.clear_rules();
    wait_until("it is read", || {
        fs::read(there.join("large")).is_ok_and(|read| read == pattern(6_000_000, 1))
    });
    assert_eq!(fs::read_to_string(there.join("small")).unwrap(), "small");
    assert!(b.ok(&["remote", "check", "cloud/db", "--read-data"]).contains("clean"));
}

/// Stopped in the middle of what it does, robbed, and continued.
#[test]
fn a_strict_owner_that_stood_still_while_it_was_robbed_answers_and_ships_nothing() {
    let bucket = Bucket::new();
    let [a, b] = ["a", "b"].map(|key| Site::new(&bucket, key).with_lease("4:7"));
    let here = a.volume(&["--lease", "strict", "--heartbeat", "1", "--ship", "1", "--durability", "remote"]);
    fs::write(here.join("f"), "of a").unwrap();
    let database = Database::start(&here);
    wait_until("it has begun", || database.synced() > 10);
    // Somebody who reads all the time, and keeps what was read last.
    let (seen, file) = (Arc::new(parking_lot::Mutex::new((0_u64, String::new()))), here.join("f"));
    let keeps = Arc::clone(&seen);
    let reader = std::thread::spawn(move || {
        loop {
            let Ok(read) = fs::read_to_string(&file) else { return };
            let mut keeps = keeps.lock();
            *keeps = (keeps.0 + 1, read);
        }
    });
    wait_until("it reads", || seen.lock().0 > 3);
    let stopped = [a.host.holder("db"), a.host.server("db")];
    stopped.iter().for_each(|pid| stop(*pid));
    b.ok(&["attach", "--steal", "cloud/db"]);
    let there = b.mount("db", &[]);
    fs::write(there.join("f"), "of b").unwrap();
    let synced = database.synced();
    assert!(Database::is_in(&there, synced), "{synced}");
    b.ok(&["remote", "sync", "db"]);
    let (before, then) = (seen.lock().0, state(&there));
    bucket.take_asked();
    for pid in stopped {
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    }
    reader.join().unwrap();
    // (What it was just writing to the kernel when it was stopped gets there.)
    let after = seen.lock().0;
    assert!(after <= before + 1, "{before} {after}");
    let (acknowledged, e) = database.ended();
    assert!(acknowledged <= synced + 1 && e.raw_os_error() == Some(libc::EIO), "{acknowledged} {synced} {e}");
    assert!(Database::is_in(&there, acknowledged));
    wait_until("it is known", || a.remote()["fenced"] == true);
    assert!(fs::read(here.join("f")).is_err() && fs::write(here.join("g"), "g").is_err());
    let asked = bucket.take_asked();
    let written: Vec<&Asked> = asked
        .iter()
        .filter(|asked| asked.key == "a" && asked.method == "PUT" && asked.status == 200)
        .filter(|asked| !asked.name.contains("/alive/"))
        .collect();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(state(&there), then);
}
