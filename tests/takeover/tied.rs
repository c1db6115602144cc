//! Mounts that nothing can take over: by `transport=fuser`, or because the kernel is older than Linux 6.9. Whatever asks for
//! another server leaves theirs alone.

use super::signal_server;
use crate::support::{Host, is_running, run, shell, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

/// Mounts `v` with a server that takes the kernel for one that cannot give requests again.
fn on_an_older_kernel(host: &Host) -> PathBuf {
    host.ok(&["create", "v"]);
    let dir = host.mountpoint("v");
    fs::create_dir_all(&dir).unwrap();
    host.adopt(&dir);
    let args = ["mount".as_ref(), "v".as_ref(), dir.as_os_str()];
    let mounted = run(host.command(&args).env("LARDER_KERNEL_WITHOUT", "resend"));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    dir
}

fn by_fuser(host: &Host) -> PathBuf {
    host.ok(&["create", "v"]);
    host.mount("v", &["-o", "transport=fuser"])
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap()
}

#[test]
fn an_upgrade_leaves_them_alone_and_says_so() {
    for (mount, why) in [
        (on_an_older_kernel as fn(&Host) -> PathBuf, "a kernel older than Linux 6.9"),
        (by_fuser, "transport=fuser"),
    ] {
        let host = Host::new();
        let dir = mount(&host);
        let mut open = fs::File::options().read(true).append(true).create(true).open(dir.join("f")).unwrap();
        open.write_all(b"before ").unwrap();
        let server = host.server("v");
        let inspected = host.json(&["inspect", "v"]);
        assert_eq!(inspected["mounts"][0]["dies_with_server"], why);
        let refused = host.fails(1, &["upgrade"]);
        assert!(refused.contains("\"v\"") && refused.contains(why), "{refused}");
        assert!(refused.contains("unmount it at a good moment"), "{refused}");
        assert_eq!(host.server("v"), server);
        open.write_all(b"after").unwrap();
        open.sync_all().unwrap();
        open.rewind().unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
        drop(open);
        host.umount("v");
        host.check("v");
    }
}

/// One mount that can be taken over does not help another one of the same store that cannot.
#[test]
fn a_server_with_one_of_them_is_left_alone() {
    let host = Host::new();
    host.volume("v", &[]);
    host.ok(&["clone", "v", "w"]);
    let other = host.mount("w", &["-o", "transport=fuser"]);
    let server = host.server("v");
    assert!(host.fails(1, &["upgrade", "v"]).contains("\"w\" (transport=fuser)"));
    assert_eq!(host.server("v"), server);
    fs::write(other.join("f"), "data").unwrap();
    host.umount("w");
    // The other one is not in the way any more.
    host.ok(&["upgrade", "v"]);
    assert_ne!(host.server("v"), server);
    host.umount("v");
    host.check("v");
}

#[test]
fn a_server_that_stands_still_goes_on() {
    let host = Host::new();
    let dir = on_an_older_kernel(&host);
    fs::write(dir.join("f"), "data").unwrap();
    let server = signal_server(&host, "v", Signal::SIGSTOP);
    let file = host.store("v").join("../../log");
    let logs = || shell(&file, "cat *.log");
    wait_until("it is noticed", || logs().contains("the server is left alone"));
    assert!(logs().contains("the server hangs: no sign of life"));
    kill(Pid::from_raw(server), Signal::SIGCONT).unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    fs::write(dir.join("g"), "more").unwrap();
    assert_eq!(host.server("v"), server);
    host.umount("v");
    host.check("v");
}

/// When the server dies all the same, nobody takes what the kernel still has for the volume.
#[test]
fn a_dead_one_is_not_written_to() {
    let host = Host::new();
    let dir = on_an_older_kernel(&host);
    fs::write(dir.join("f"), "data").unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    let pids = [host.server("v"), host.holder("v")];
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    wait_until("the holder has noticed and ends", || !pids.iter().any(|pid| is_running(*pid)));
    let written = fs::File::options().append(true).open(dir.join("f")).unwrap_err().raw_os_error();
    assert!(matches!(written, Some(libc::EROFS | libc::ENOTCONN | libc::ECONNABORTED)), "{written:?}");
    assert!(host.ok(&["ls"]).contains("(dead)"));
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    assert!(log(&host).contains("has died with the server (a kernel older than Linux 6.9)"));
    host.umount("v");
    host.check("v");
}

/// Of mounts whose holder died as well, whoever looks next makes known what they are.
#[test]
fn what_nobody_serves_any_more_is_made_known_by_who_looks() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "nosuid,nodev,noexec"]);
    fs::write(dir.join("f"), "data").unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    host.kill_server("v");
    assert!(host.ok(&["ls"]).contains("(dead)"));
    let written = fs::File::options().append(true).open(dir.join("f")).unwrap_err().raw_os_error();
    assert!(matches!(written, Some(libc::EROFS | libc::ENOTCONN)), "{written:?}");
    // What it forbade before, it still does: what is in the kernel's cache can be run and opened without a server.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(dir.to_str().unwrap())).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec,"), "{line}");
    let dir = host.mount("v", &[]);
    fs::write(dir.join("f"), "again").unwrap();
    host.umount("v");
    host.check("v");
}
