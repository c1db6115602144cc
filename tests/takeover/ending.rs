//! Servers that are told to end while programs use what they serve.

use crate::support::{Host, Writer, is_running, pattern, shell, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `v` is mounted in the foreground, by a process that systemd seems to have started. A server that was told to end may do
/// nothing for so many seconds.
fn in_the_foreground(host: &Host, idle: u32) -> (PathBuf, Child, UnixDatagram) {
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let socket = host.public_dir("systemd").join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let child = host
        .command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str(), "--foreground".as_ref()])
        .env("LARDER_WATCHDOG", idle.to_string())
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::null())
        .stderr(Stdio::from(File::create(host.dir("log").join("log")).unwrap()))
        .spawn()
        .unwrap();
    let mut said = [0; 1024];
    let count = systemd.recv(&mut said).unwrap();
    assert!(said[..count].starts_with(b"READY=1"));
    (dir, child, systemd)
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.dir("log").join("log")).unwrap()
}

/// What systemd is told next.
fn hears(systemd: &UnixDatagram) -> String {
    let mut said = [0; 1024];
    let count = systemd.recv(&mut said).unwrap();
    String::from_utf8_lossy(&said[..count]).into_owned()
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
}

#[test]
fn what_works_is_waited_for_and_systemd_is_asked_to_wait_too() {
    let host = Host::new();
    let (dir, mut child, systemd) = in_the_foreground(&host, 4);
    let file = File::create(dir.join("f")).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // It has something to do for longer than it may do nothing.
        scope.spawn(|| {
            let bytes = pattern(1 << 20, 1);
            while !ended.load(Ordering::Relaxed) {
                let _ = file.write_all_at(&bytes, 0).and_then(|()| file.sync_data());
            }
        });
        terminate(&child);
        let status = child.wait().unwrap();
        ended.store(true, Ordering::Relaxed);
        assert!(status.success(), "{status}: {}", log(&host));
    });
    drop(file);
    systemd.set_nonblocking(true).unwrap();
    let said = hears(&systemd);
    assert!(said.starts_with("EXTEND_TIMEOUT_USEC="), "{said}");
    host.check("v");
}

#[test]
fn what_does_nothing_is_killed_in_the_end() {
    let host = Host::new();
    // One look that shows nothing is enough: it does not end by itself before that, for lack of patience with who uses it.
    let (dir, mut child, _systemd) = in_the_foreground(&host, 1);
    // The kernel does not write back by itself before the server has ended.
    let file = written(&dir);
    // It waits for whoever has the file open.
    terminate(&child);
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert!(log(&host).contains("has done nothing for"), "{}", log(&host));
    drop(file);
    // What programs have written to what they still use, is written back first.
    has_data(&host, "v");
}

/// Starts a process that mounts `v` in the foreground, and waits until it says so to a systemd that does not listen yet. Returns that
/// systemd, which has to hear so much before.
fn says_that_it_is_ready(host: &Host, dir: &Path) -> (Child, UnixDatagram, usize) {
    let socket = host.public_dir("systemd").join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // As many as it can keep. No sender can have all of them under way.
    let (mut senders, mut before) = (Vec::new(), 0);
    loop {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&socket).unwrap();
        sender.set_nonblocking(true).unwrap();
        let count = (0..).find(|_| sender.send(b"x").is_err()).unwrap();
        if count == 0 {
            break;
        }
        before += count;
        senders.push(sender);
    }
    let child = host
        .command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str(), "--foreground".as_ref()])
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::null())
        .stderr(Stdio::from(File::create(host.dir("log").join("log")).unwrap()))
        .spawn()
        .unwrap();
    let wchan = format!("/proc/{}/wchan", child.id());
    wait_until("it says that it is ready", || {
        fs::read_to_string(&wchan).is_ok_and(|wchan| wchan == "unix_wait_for_peer")
    });
    (child, systemd, before)
}

fn listen(systemd: &UnixDatagram, before: usize) {
    let mut said = [0; 1024];
    for _ in 0..before {
        assert_eq!(systemd.recv(&mut said).unwrap(), 1);
    }
    let count = systemd.recv(&mut said).unwrap();
    assert!(said[..count].starts_with(b"READY=1"), "{}", String::from_utf8_lossy(&said[..count]));
}

#[test]
fn an_order_to_end_is_obeyed_from_the_moment_that_the_volume_is_mounted() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let (mut child, systemd, before) = says_that_it_is_ready(&host, &dir);
    fs::write(dir.join("f"), "data").unwrap();
    terminate(&child);
    listen(&systemd, before);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", log(&host));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "unmounted");
    host.check("v");
}

/// The same, where a server goes on that has lost its holder.
#[test]
fn who_looks_after_a_server_without_a_holder_passes_an_early_order_on() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    let server = host.server("v");
    kill(Pid::from_raw(host.holder("v")), Signal::SIGKILL).unwrap();
    wait_until("the server notices", || host.holder("v") == 0);
    let (mut child, systemd, before) = says_that_it_is_ready(&host, &dir);
    terminate(&child);
    listen(&systemd, before);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", log(&host));
    wait_until("the server ends", || !is_running(server));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "unmounted");
    // It was to wait for as long as the server does.
    systemd.set_nonblocking(true).unwrap();
    assert!(hears(&systemd).starts_with("EXTEND_TIMEOUT_USEC="));
    host.check("v");
}

/// Otherwise it went on as if nothing had been said, with a mount that nobody could see.
#[test]
fn an_order_to_a_server_itself_outlives_it() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let (server, holder) = (host.server("v"), host.holder("v"));
    // As long as this is open, only an order ends a server.
    let file = written(&dir);
    kill(Pid::from_raw(server), Signal::SIGTERM).unwrap();
    wait_until("it is unmounted", || fs::read_dir(&dir).is_ok_and(|entries| entries.count() == 0));
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    wait_until("the one that took over ends", || !is_running(holder));
    drop(file);
    has_data(&host, "v");
}

/// What programs had written to `f` of a volume that was told to end is there when it is mounted again.
#[track_caller]
fn has_data(host: &Host, volume: &str) {
    let dir = host.mount(volume, &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data", "{volume}");
    host.umount(volume);
    host.check(volume);
}

/// Opens `f` in `dir`, and writes what the kernel keeps.
fn written(dir: &Path) -> Writer {
    let mut file = Writer::open(dir.join("f"));
    file.write("data");
    file
}

/// As a container has it, whose engine's mount nobody uses.
fn bound(host: &Host, dir: &Path) -> Writer {
    let elsewhere = host.public_dir("elsewhere");
    host.adopt(&elsewhere);
    shell(dir.parent().unwrap(), &format!("mount --bind {} {}", dir.display(), elsewhere.display()));
    written(&elsewhere)
}

fn covered(_: &Host, dir: &Path) -> Writer {
    let file = written(dir);
    shell(dir.parent().unwrap(), &format!("mount -t tmpfs larder-test {}", dir.display()));
    file
}

fn taken_away(_: &Host, dir: &Path) -> Writer {
    let file = written(dir);
    shell(dir.parent().unwrap(), &format!("umount -l {}", dir.display()));
    file
}

/// A server that had begun to end died.
fn taken_away_and_taken_over(host: &Host, dir: &Path) -> Writer {
    let file = taken_away(host, dir);
    super::lose_server(host, "v");
    file
}

#[test]
fn what_programs_have_written_is_written_back_wherever_they_have_it() {
    let ends = |leave: fn(&Host, &Path) -> Writer| {
        let host = Host::new();
        let dir = host.volume("v", &[]);
        let elsewhere = host.public_dir("elsewhere");
        let file = leave(&host, &dir);
        let (server, holder) = (host.server("v"), host.holder("v"));
        kill(Pid::from_raw(holder), Signal::SIGTERM).unwrap();
        wait_until("the server ends", || !is_running(server) && !is_running(holder));
        drop(file);
        let unmount = "for i in 1 2; do umount -l \"$1\" \"$2\" 2>/dev/null || true; done";
        shell(host.root(), &format!("set -- {} {}; {unmount}", dir.display(), elsewhere.display()));
        has_data(&host, "v");
    };
    std::thread::scope(|scope| {
        for leave in [bound, covered, taken_away, taken_away_and_taken_over] {
            scope.spawn(move || ends(leave));
        }
    });
}

/// Whoever mounted something else on its directory keeps it.
#[test]
fn what_else_lies_on_its_directory_is_not_unmounted() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let (server, holder) = (host.server("v"), host.holder("v"));
    shell(&dir, "mount -t tmpfs larder-test . && echo kept > \"$PWD/f\"");
    kill(Pid::from_raw(holder), Signal::SIGTERM).unwrap();
    wait_until("the server ends", || !is_running(server) && !is_running(holder));
    let kept = fs::read_to_string(dir.join("f"));
    shell(dir.parent().unwrap(), &format!("umount -l {0}; umount -l {0} || true", dir.display()));
    assert_eq!(kept.unwrap(), "kept\n");
    host.check("v");
}

/// A full disk behind its output, say, ended the process that holds the mount.
#[test]
fn a_mount_is_held_whether_or_not_that_can_be_said() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let mut child = host
        .command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str(), "--foreground".as_ref()])
        .stdout(Stdio::from(File::options().write(true).open("/dev/full").unwrap()))
        .stderr(Stdio::from(File::create(host.dir("log").join("log")).unwrap()))
        .spawn()
        .unwrap();
    wait_until("it says what it can", || {
        log(&host).contains("cannot say that the volume is mounted") || child.try_wait().unwrap().is_some()
    });
    assert!(child.try_wait().unwrap().is_none(), "{}", log(&host));
    assert_eq!(host.holder("v"), child.id() as i32);
    super::lose_server(&host, "v");
    fs::write(dir.join("f"), "data").unwrap();
    terminate(&child);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", log(&host));
    host.check("v");
}
