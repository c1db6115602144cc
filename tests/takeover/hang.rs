//! Servers that do not die by themselves.

use super::lose_server;
use crate::support::{Background, Host, is_running, pattern, shell, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_server_that_is_stopped_is_replaced() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "before").unwrap();
    let stopped = host.server("v");
    stop(stopped);
    // It waits, and succeeds.
    fs::write(dir.join("g"), "after").unwrap();
    assert!(!is_running(stopped));
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("the server hangs: no sign of life"), "{log}");
    assert!(log.contains("larder-fuse-0: state T"), "{log}");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "before");
    host.umount("v");
    host.check("v");
}

/// A frozen host, or a machine that slept: what the holder did not see, it does not hold against its server.
#[test]
fn a_server_that_stood_still_together_with_its_holder_goes_on() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let both = [host.holder("v"), host.server("v")];
    both.iter().for_each(|pid| stop(*pid));
    // Longer than any silence that is borne.
    std::thread::sleep(std::time::Duration::from_secs(20));
    both.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGCONT).unwrap());
    fs::write(dir.join("f"), "data").unwrap();
    // It looks twice, with two seconds between.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let inspected = host.json(&["inspect", "v"]);
    assert_eq!(inspected["server"]["pid"], both[1]);
    assert_eq!(inspected["server"]["takeovers"], 0);
    host.umount("v");
    host.check("v");
}

#[test]
fn without_its_holder_a_server_goes_on_and_says_so() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let holder = host.holder("v");
    kill(Pid::from_raw(holder), Signal::SIGKILL).unwrap();
    wait_until("it is gone", || !is_running(holder));
    fs::write(dir.join("f"), pattern(100_000, 1)).unwrap();
    wait_until("the server notices", || host.holder("v") == 0);
    let refused = host.fails(1, &["upgrade", "v"]);
    assert!(refused.contains("holder is gone"), "{refused}");
    host.umount("v");
    host.check("v");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read(dir.join("f")).unwrap(), pattern(100_000, 1));
}

#[test]
fn a_server_that_runs_out_of_memory_is_replaced() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let group = Group::new();
    fs::write(dir.join("f"), pattern(64 << 20, 1)).unwrap();
    let expected = shell(&dir, "sha256sum < f");
    for _ in 0..3 {
        // A new one has nothing in its cache.
        lose_server(&host, "v");
        let poor = host.server("v");
        group.take(poor);
        assert_eq!(shell(&dir, "dd if=f bs=1M iflag=direct status=none | sha256sum"), expected);
        assert!(!is_running(poor));
        let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
        assert!(log.contains("the server ended (signal: 9 (SIGKILL))"), "{log}");
    }
    host.umount("v");
    host.check("v");
}

#[test]
fn a_mount_that_nobody_can_take_over_is_given_up_and_can_be_made_again() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "before").unwrap();
    let header = host.store("v").join("header.json");
    let good = fs::read(&header).unwrap();
    let server = host.server("v");
    fs::write(&header, "nonsense").unwrap();
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    // It waits for as long as there is hope.
    assert_given_up(&dir);
    wait_until("the holder ends", || host.servers().is_empty());
    fs::write(&header, good).unwrap();
    assert_works_again(&host);
}

#[test]
fn servers_that_die_by_themselves_at_once_are_given_up_in_the_end() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "before").unwrap();
    let holder = host.holder("v");
    let abort_all = || {
        for server in host.servers().into_iter().filter(|server| *server != holder) {
            let _ = kill(Pid::from_raw(server), Signal::SIGABRT);
        }
        host.servers().is_empty()
    };
    wait_until("it is given up", abort_all);
    assert_given_up(&dir);
    assert_works_again(&host);
}

/// Nobody serves the mount any more, and nobody waits for it.
#[track_caller]
fn assert_given_up(dir: &Path) {
    let error = fs::write(dir.join("g"), "after").unwrap_err().raw_os_error();
    assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error:?}");
}

/// What was given up can be mounted, and has lost nothing.
#[track_caller]
fn assert_works_again(host: &Host) {
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "before");
    host.umount("v");
    host.check("v");
}

/// A host so busy that a server does not come to say that it lives.
#[test]
fn a_server_that_gets_no_cpu_is_not_taken_for_one_that_hangs() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let server = host.server("v");
    // They all want the thousandth of a CPU that the group has, and so cost others nothing.
    let spin =
        || Background::start(std::process::Command::new("bash").args(["-c", "sleep 1; while :; do :; done"]));
    let hogs: Vec<Background> = (0..150).map(|_| spin()).collect();
    let group = Group::with(
        "cpu",
        &[("cpu.cfs_period_us", "1000000"), ("cpu.cfs_quota_us", "1000")],
        &[("cpu.max", "1000 1000000")],
    );
    hogs.iter().for_each(|hog| group.take(hog.0.id().cast_signed()));
    group.take(server);
    let log = host.root().join("log");
    let noticed = || shell(&log, "cat *.log").contains("it gets no CPU");
    wait_until("it is starved, and excused", noticed);
    // What has to end needs a CPU for that.
    drop(group);
    drop(hogs);
    fs::write(dir.join("f"), "data").unwrap();
    assert_eq!(host.server("v"), server);
    host.umount("v");
    host.check("v");
}

/// A control group that has very little of something.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let (limit, swap) = ("1048576", ("memory.swap.max", "0"));
        Self::with("memory", &[("memory.limit_in_bytes", limit)], &[swap, ("memory.max", limit)])
    }

    /// By the files of the first version of control groups, or of the second.
    fn with(controller: &str, first: &[(&str, &str)], second: &[(&str, &str)]) -> Self {
        let of_type = |kind: &str, option: &str| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[2] == kind && fields[3].split(',').any(|o| o == option))
                    .then(|| PathBuf::from(fields[1]))
            })
        };
        let (root, files) = match of_type("cgroup", controller) {
            Some(root) => (root, first),
            None => (of_type("cgroup2", "rw").expect("control groups"), second),
        };
        let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        let dir = root.join(format!("larder-test-{controller}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let group = Self(dir);
        for (file, value) in files {
            // Not every kernel has swap.
            if let Err(e) = fs::write(group.0.join(file), value) {
                assert_eq!(*file, "memory.swap.max", "{e}");
            }
        }
        group
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let procs = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write(self.0.parent().unwrap().join("cgroup.procs"), pid);
        }
        wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}
