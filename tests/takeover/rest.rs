//! Volumes that nobody uses, and what becomes of them when somebody does.

use crate::support::{Host, is_running, pattern, shell, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_else(|| panic!("{field} in {text}")).trim().to_owned()
}

fn threads(pid: i32) -> u32 {
    status(pid, "Threads:").parse().unwrap()
}

/// A mounted volume, its server and its holder, when they rest.
struct Resting {
    host: Host,
    dir: PathBuf,
    server: i32,
    holder: i32,
}

impl Resting {
    fn new() -> Self {
        let host = Host::new();
        let dir = host.volume("v", &[]);
        fs::write(dir.join("f"), pattern(100_000, 1)).unwrap();
        let (server, holder) = (host.server("v"), host.holder("v"));
        let resting = Self { host, dir, server, holder };
        resting.await_rest();
        resting
    }

    fn rests(&self) -> bool {
        threads(self.server) + threads(self.holder) <= 6 && status(self.server, "VmLck:") == "0 kB"
    }

    fn await_rest(&self) {
        wait_until("the volume rests", || self.rests());
    }
}

#[test]
fn a_volume_that_nobody_uses_rests_and_is_all_there_when_somebody_does() {
    let resting = Resting::new();
    let Resting { host, dir, server, .. } = &resting;
    for round in 0..3 {
        // More than one reader has to do, and larger than what is read into at rest.
        let write = |i: u64| fs::write(dir.join(format!("g{i}")), pattern(3_000_000, i)).unwrap();
        std::thread::scope(|scope| {
            (0..8).for_each(|i| {
                scope.spawn(move || write(i + round));
            });
        });
        let data = fs::File::open(dir.join("g3")).unwrap();
        data.sync_all().unwrap();
        assert!(fs::read(dir.join("g3")).unwrap() == pattern(3_000_000, 3));
        resting.await_rest();
    }
    assert_eq!(
        (host.server("v"), &host.json(&["inspect", "v"])["server"]["takeovers"]),
        (*server, &0.into())
    );
    host.umount("v");
    host.check("v");
}

/// Someone who looks now and then does not keep all of it awake.
#[test]
fn a_look_at_a_file_now_and_then_is_answered_at_rest() {
    let resting = Resting::new();
    let mut looks = 0u32..;
    // Where CPUs are busy, one that takes long may wake it.
    wait_until("some looks one after the other are answered at rest", || {
        resting.await_rest();
        looks.by_ref().take(4).all(|i| {
            assert!(!resting.dir.join(format!("nothing-{i}")).exists());
            std::thread::sleep(std::time::Duration::from_millis(300));
            resting.rests()
        })
    });
    resting.host.umount("v");
}

/// Nothing wakes what nobody uses.
#[test]
fn at_rest_nothing_runs() {
    let resting = Resting::new();
    let wakes = || {
        let of = |pid: i32| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let wakes = threads.map(|thread| {
                let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                line.unwrap().trim().parse::<u64>().unwrap()
            });
            wakes.sum::<u64>()
        };
        of(resting.server) + of(resting.holder)
    };
    // The last of what came to rest.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let before = wakes();
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert!(wakes() - before <= 2, "{} wake-ups", wakes() - before);
    resting.host.umount("v");
}

#[test]
fn a_server_that_is_stopped_at_rest_is_replaced_when_it_is_asked_for_something() {
    let resting = Resting::new();
    let Resting { host, dir, server, .. } = &resting;
    stop(*server);
    assert_eq!(fs::read(dir.join("f")).unwrap().len(), 100_000, "the kernel has that");
    fs::write(dir.join("g"), "after").unwrap();
    assert!(!is_running(*server));
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("no sign of life"), "{log}");
    assert!(fs::read(dir.join("f")).unwrap() == pattern(100_000, 1));
    host.umount("v");
    host.check("v");
}

/// Also what takes over comes to rest, before anybody has asked it for anything.
#[test]
fn a_server_that_is_killed_at_rest_is_replaced_by_one_that_comes_to_rest() {
    let mut resting = Resting::new();
    for _ in 0..2 {
        super::lose_server(&resting.host, "v");
        resting.server = resting.host.server("v");
        resting.await_rest();
    }
    assert!(fs::read(resting.dir.join("f")).unwrap() == pattern(100_000, 1));
    resting.host.ok(&["upgrade", "v"]);
    resting.server = resting.host.server("v");
    resting.await_rest();
    resting.host.umount("v");
    resting.host.check("v");
}

#[test]
fn orders_unmounts_and_commands_reach_what_rests() {
    let resting = Resting::new();
    let Resting { host, dir, server, holder } = &resting;
    host.ok(&["snapshot", "create", "v@one"]);
    assert!(shell(dir, "ls .snapshots").contains("one"));
    resting.await_rest();
    kill(Pid::from_raw(*holder), Signal::SIGTERM).unwrap();
    wait_until("both have ended", || !is_running(*server) && !is_running(*holder));
    assert!(!dir.join("f").exists(), "it is unmounted");
    let dir = host.mount("v", &[]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(100_000, 1));
    host.umount("v");
    host.check("v");
}

/// What is written at rest is not lost with a server that is killed right then.
#[test]
fn what_wakes_a_server_that_is_killed_then_is_carried_out() {
    let resting = Resting::new();
    let Resting { host, dir, .. } = &resting;
    let file = fs::File::options().write(true).open(dir.join("f")).unwrap();
    let mut server = resting.server;
    for round in 0..5u64 {
        let bytes = pattern(1 << 20, 100 + round);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                file.write_all_at(&bytes, 0).unwrap();
                file.sync_all().unwrap();
            });
            kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
            writer.join().unwrap();
        });
        assert!(fs::read(dir.join("f")).unwrap() == bytes);
        wait_until("another server takes over", || host.server("v") != server);
        server = host.server("v");
        let rests = || threads(server) + threads(resting.holder) <= 6 && status(server, "VmLck:") == "0 kB";
        wait_until("it rests", rests);
    }
    drop(file);
    host.umount("v");
    host.check("v");
}
