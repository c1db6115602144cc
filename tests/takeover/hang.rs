//! Servers that do not die by themselves.

use super::{lose_server, signal_server};
use crate::support::{Host, is_running, pattern, shell, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_server_that_is_stopped_is_replaced() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "before").unwrap();
    let stopped = signal_server(&host, "v", Signal::SIGSTOP);
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

/// A control group that has very little memory.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        const LIMIT: &str = "1048576";
        let of_type = |kind: &str, option: &str| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[2] == kind && fields[3].split(',').any(|o| o == option))
                    .then(|| PathBuf::from(fields[1]))
            })
        };
        let (root, limit) = match of_type("cgroup", "memory") {
            Some(root) => (root, "memory.limit_in_bytes"),
            None => (of_type("cgroup2", "rw").expect("control groups"), "memory.max"),
        };
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let dir = root.join(format!("larder-test-oom-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let group = Self(dir);
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        fs::write(group.0.join(limit), LIMIT).unwrap();
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
