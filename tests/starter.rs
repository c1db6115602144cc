//! What the process that mounts brings with it does not matter to those that serve: limits, open files, signals.

use crate::support::{Host, larder, pattern, run};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Mounts `v` by a script, in which `$@` is the command that does it.
fn try_mount_by(host: &Host, script: &str) -> (PathBuf, Output) {
    host.ok(&["create", "v", "--size", "1G"]);
    let dir = host.make_mountpoint("v");
    let mount = host.command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str()]);
    let mut command = Command::new("bash");
    command.args(["-ec", script, "bash"]).arg(larder()).args(mount.get_args());
    let mounted = run(&mut command);
    (dir, mounted)
}

#[track_caller]
fn mount_by(host: &Host, script: &str) -> PathBuf {
    let (dir, mounted) = try_mount_by(host, script);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    dir
}

fn status(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// More than a small limit on files allows, in more segments than can be open.
fn work(host: &Host, dir: &Path) {
    for i in 0..60 {
        let mut file = File::create(dir.join(format!("f{i}"))).unwrap();
        file.write_all(&pattern(8 << 20, i)).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(fs::read(dir.join("f7")).unwrap(), pattern(8 << 20, 7));
    host.umount("v");
    host.check("v");
}

#[test]
fn limits_of_whoever_mounts_do_not_limit() {
    let host = Host::new();
    let dir = mount_by(&host, "ulimit -S -n 40 -f 1024 -t 60 -v 4000000; \"$@\"");
    for pid in [host.server("v"), host.holder("v")] {
        let limits = status(pid, "limits");
        for name in ["Max file size", "Max cpu time", "Max address space", "Max data size", "Max open files"]
        {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            let mut values = line[26..].split_whitespace();
            assert_eq!(values.next(), values.next(), "{line}");
        }
    }
    work(&host, &dir);
}

/// As in a container that may not raise limits.
#[test]
fn a_limit_on_open_files_that_cannot_be_raised_is_kept_within() {
    let host = Host::new();
    let dir = mount_by(&host, "ulimit -n 40; \"$@\"");
    work(&host, &dir);
}

#[test]
fn a_limit_on_the_size_of_files_that_cannot_be_raised_is_an_error_at_once() {
    let host = Host::new();
    let (dir, mounted) = try_mount_by(&host, "ulimit -f 1024; \"$@\"");
    if mounted.status.success() {
        // Who has CAP_SYS_RESOURCE raises it.
        return work(&host, &dir);
    }
    let said = String::from_utf8(mounted.stderr).unwrap();
    assert!(said.contains("larger than 1048576 bytes") && said.contains("`ulimit -f`"), "{said}");
    let dir = host.mount("v", &[]);
    work(&host, &dir);
}

#[test]
fn files_that_are_open_where_it_is_mounted_are_not_kept_open() {
    let host = Host::new();
    let locked = host.dir("lock").join("file");
    let script = format!("exec 9> {}; flock 9; \"$@\"", locked.display());
    mount_by(&host, &script);
    let file = File::options().write(true).open(&locked).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok(), "the lock is still held");
    for pid in [host.server("v"), host.holder("v")] {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            assert_ne!(fs::read_link(entry.path()).unwrap_or_default(), locked);
        }
    }
    host.umount("v");
    host.check("v");
}

#[test]
fn signals_that_are_ignored_or_blocked_where_it_is_mounted_work() {
    let host = Host::new();
    let script = "python3 -c 'import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
os.execvp(sys.argv[1], sys.argv[1:])' \"$@\"";
    let dir = mount_by(&host, script);
    fs::write(dir.join("f"), "data").unwrap();
    let holder = host.holder("v");
    for pid in [host.server("v"), holder] {
        let blocked = status(pid, "status");
        assert!(blocked.contains("SigBlk:\t0000000000000000"), "{blocked}");
    }
    // How a server ended is found out, which is why another one takes over.
    super::takeover::lose_server(&host, "v");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    assert_eq!(host.holder("v"), holder);
    host.umount("v");
    host.check("v");
}
