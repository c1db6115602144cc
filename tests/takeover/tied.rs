//! Mounts that nothing can take over: by `transport=fuser` or `transport=uring`, or because the kernel is older than Linux 6.9. Whatever asks for
//! another server leaves theirs alone.

use crate::support::{Host, is_running, run, shell, stop, wait_until};
use crate::uring::is_on;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts `v` with a server that takes the kernel for one that cannot give requests again.
fn on_an_older_kernel(host: &Host) -> PathBuf {
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let args = ["mount".as_ref(), "v".as_ref(), dir.as_os_str()];
    let mounted = run(host.command(&args).env("LARDER_KERNEL_WITHOUT", "resend"));
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    dir
}

fn by_fuser(host: &Host) -> PathBuf {
    host.ok(&["create", "v"]);
    host.mount("v", &["-o", "transport=fuser"])
}

fn by_rings(host: &Host) -> PathBuf {
    host.ok(&["create", "v"]);
    host.mount("v", &["-o", "transport=uring"])
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap()
}

#[test]
fn an_upgrade_leaves_them_alone_and_says_so() {
    let rings = is_on().then_some((by_rings as fn(&Host) -> PathBuf, "transport=uring"));
    let others = [
        (on_an_older_kernel as fn(&Host) -> PathBuf, "a kernel older than Linux 6.9"),
        (by_fuser, "transport=fuser"),
    ];
    for (mount, why) in others.into_iter().chain(rings) {
        let host = Host::new();
        let dir = mount(&host);
        let mut open = fs::File::options().read(true).append(true).create(true).open(dir.join("f")).unwrap();
        open.write_all(b"before ").unwrap();
        let server = host.server("v");
        let inspected = host.json(&["inspect", "v"]);
        assert_eq!(inspected["mounts"][0]["dies_with_server"], why);
        let refused = host.fails(1, &["upgrade"]);
        assert!(refused.contains("\"v\"") && refused.contains(why), "{refused}");
        assert!(refused.contains("unmount it when convenient"), "{refused}");
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
    let server = host.server("v");
    stop(server);
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

/// Nobody waits for ever for a server that is left alone: whatever asks it says which process does not answer, and what to do.
#[test]
fn commands_say_which_server_does_not_answer() {
    let rings = is_on().then_some(by_rings as fn(&Host) -> PathBuf);
    for mount in [on_an_older_kernel as fn(&Host) -> PathBuf, by_fuser].into_iter().chain(rings) {
        let host = Host::new();
        let dir = mount(&host);
        host.ok(&["clone", "v", "w"]);
        host.ok(&["create", "other"]);
        host.ok(&["snapshot", "create", "v@old"]);
        fs::write(dir.join("f"), "data").unwrap();
        let server = host.server("v");
        let stopped = Stopped(server);
        stop(server);
        let program = host.dir("program").join("larder");
        fs::copy(crate::support::larder(), &program).unwrap();
        let elsewhere: Vec<PathBuf> = (0..3).map(|i| host.public_dir(&format!("elsewhere-{i}"))).collect();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let [one, two, three] = [0, 1, 2].map(|i| path(&elsewhere[i]));
        let (dir_text, program) = (path(&dir), path(&program));
        let asked: [&[&str]; 17] = [
            &["ls"],
            &["df"],
            &["df", "w"],
            &["inspect", "v"],
            &["mount", "v", &one],
            &["mount", "w", &two],
            &["mount", "--foreground", "w", &three],
            &["mount", "-o", "remount,ro", "v", &dir_text],
            &["umount", "v"],
            &["umount", &dir_text],
            &["upgrade", "--program", &program],
            &["snapshot", "create", "v@s"],
            &["snapshot", "ls", "v"],
            &["clone", "v", "x"],
            &["diff", "v@old", "w"],
            &["check", "v"],
            &["rm", "v"],
        ];
        let who = format!("process {server}, which serves ");
        std::thread::scope(|scope| {
            for args in asked {
                let mut command = host.command(args);
                let who = &who;
                scope.spawn(move || {
                    let output = run(&mut command);
                    let said = String::from_utf8(output.stderr).unwrap();
                    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
                    assert!(said.contains(who) && said.contains("\"v\", \"w\""), "{args:?}: {said}");
                    assert!(said.contains("does not answer"), "{args:?}: {said}");
                    assert!(said.contains(&format!("kill -9 {server}")), "{args:?}: {said}");
                    // The others are listed all the same.
                    let listed = String::from_utf8(output.stdout).unwrap();
                    let lists = args == ["ls"] || args == ["df"];
                    assert_eq!(listed.contains("other"), lists, "{args:?}: {listed}");
                });
            }
        });
        // Where so many wait that it takes no more, too.
        let queue = fill_queue(&host);
        let refused = host.fails(1, &["inspect", "v"]);
        assert!(refused.contains("does not answer"), "{refused}");
        drop(queue);
        drop(stopped);
        wait_until("it answers again", || run(&mut host.command(&["inspect", "v"])).status.success());
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
        assert_eq!(host.server("v"), server);
        host.umount("v");
        host.check("v");
    }
}

/// A process that goes on at the end of this, also when the test fails.
struct Stopped(i32);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGCONT);
    }
}

/// Connections to the control socket of `v` that its server does not take, as many as there can be.
fn fill_queue(host: &Host) -> Vec<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let store = fs::File::open(host.store("v")).unwrap();
    let address = PathBuf::from(format!("/proc/self/fd/{}/control", store.as_raw_fd()));
    let address = UnixAddr::new(&address).unwrap();
    let mut queue = Vec::new();
    loop {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => queue.push(socket),
            Err(e) => {
                assert_eq!(e, nix::errno::Errno::EAGAIN);
                return queue;
            }
        }
    }
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
