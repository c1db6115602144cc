//! Volumes with a strict lease: while their owner cannot show life, programs wait; and two hosts never serve one at once.

use super::life::{Way, runs};
use super::mounted::{remote, url};
use crate::support::{Background, Host, pattern, run, state, succeed, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BUSY: i32 = 5;

/// A command whose leases are shorter than usual.
fn command<A: AsRef<OsStr>>(host: &Host, args: &[A]) -> Command {
    let mut command = host.command(args);
    command.env("LARDER_LEASE", "4:7");
    command
}

fn mount(host: &Host, name: &str, options: &[&str]) -> PathBuf {
    let dir = host.make_mountpoint(name);
    let mut args: Vec<&OsStr> = vec!["mount".as_ref(), name.as_ref(), dir.as_os_str()];
    args.extend(options.iter().map(OsStr::new));
    succeed(&mut command(host, &args));
    dir
}

/// A volume with a strict lease, mounted, with a file.
fn leased(host: &Host, url: &str) -> PathBuf {
    host.ok(&["create", "db", "--remote", url, "--lease", "strict", "--heartbeat", "1"]);
    let here = mount(host, "db", &[]);
    fs::write(here.join("f"), pattern(300_000, 1)).unwrap();
    assert!(fs::read(here.join("f")).unwrap() == pattern(300_000, 1));
    host.ok(&["remote", "sync", "db"]);
    here
}

fn is_paused(host: &Host) -> bool {
    !remote(host, "db")["paused_s"].is_null()
}

fn cat(file: &Path) -> Background {
    Background::start(Command::new("cat").arg(file))
}

/// Sends a signal to whoever serves the volumes of a host.
fn signal(host: &Host, signal: Signal) {
    host.servers().into_iter().for_each(|pid| kill(Pid::from_raw(pid), signal).unwrap());
}

#[test]
fn an_outage_pauses_a_volume_with_a_strict_lease_and_nothing_else() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = leased(&a, &way.url());
    let open = File::open(here.join("f")).unwrap();
    let mut bytes = [0; 4096];
    open.read_exact_at(&mut bytes, 0).unwrap();
    // A program that has mapped it, and reads once more when it is told to.
    let (told, seen) = (a.dir("told").join("told"), a.dir("told").join("seen"));
    let script = "import mmap,sys,time,os\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nb=m[0]\n\
                  open(sys.argv[3],'wb').close()\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.05)\nopen(sys.argv[3],'wb').write(m[0:4096])";
    let mut mapping = Command::new("python3");
    let mapping = Background::start(mapping.args(["-c", script]).arg(here.join("f")).args([&told, &seen]));
    wait_until("it is mapped", || seen.exists());
    way.cut();
    wait_until("it is paused", || is_paused(&a));
    std::thread::sleep(std::time::Duration::from_secs(1));
    fs::write(&told, "").unwrap();
    // What the kernel has in its cache as well, and whatever was opened before.
    let reader = std::thread::spawn(move || {
        open.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    });
    let new = here.join("new");
    let writer = std::thread::spawn(move || fs::write(new, "new").unwrap());
    let mut all = [cat(&here.join("f")), cat(&here.join("f")), cat(&here.join("not there"))];
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(all.iter_mut().all(runs) && !reader.is_finished() && !writer.is_finished());
    assert!(fs::read(&seen).unwrap().is_empty(), "it has read what was in memory");
    let said = run(&mut a.command(&["status", "db"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("paused: no sign of life was acknowledged by"), "{said}");
    assert!(run(&mut a.command(&["remote", "status", "db"])).stdout.starts_with(b"remote:"));
    // What the server itself has the kernel write back is no program's.
    a.ok(&["snapshot", "create", "db@paused"]);
    // Whoever does not want to wait is not made to.
    all[0].0.kill().unwrap();
    wait_until("it is killed", || !runs(&mut all[0]));
    way.mend();
    wait_until("the others go on", || !all.iter_mut().any(runs));
    assert!(all[1].0.wait().unwrap().success() && !all[2].0.wait().unwrap().success());
    assert_eq!(reader.join().unwrap(), pattern(300_000, 1)[..4096]);
    writer.join().unwrap();
    wait_until("the mapped one goes on", || fs::read(&seen).unwrap() == pattern(300_000, 1)[..4096]);
    drop(mapping);
    assert_eq!(fs::read_to_string(here.join("new")).unwrap(), "new");
    wait_until("it goes on", || !is_paused(&a));
}

/// A paused process that goes on when another host has the volume.
#[test]
fn a_host_that_stood_still_shows_nothing_of_what_it_had_once_another_one_has_it() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = leased(&a, &url(&objects));
    let open = File::open(here.join("f")).unwrap();
    let mut bytes = [0; 4096];
    open.read_exact_at(&mut bytes, 0).unwrap();
    // It lives: nobody takes it.
    let refused = run(&mut command(&b, &["attach", &url(&objects)]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(BUSY) && said.contains("in use by host"), "{said}");
    signal(&a, Signal::SIGSTOP);
    let output = run(&mut command(&b, &["attach", &url(&objects)]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("to be sure that host"), "{said}");
    assert_eq!(remote(&b, "db")["lease"], "strict");
    let there = mount(&b, "db", &[]);
    assert!(fs::read(there.join("f")).unwrap() == pattern(300_000, 1));
    fs::write(there.join("f"), pattern(300_000, 2)).unwrap();
    // Asked while it stands still, and after.
    let (file, asked) = (here.join("f"), std::sync::mpsc::channel());
    let early = std::thread::spawn(move || {
        asked.0.send(()).unwrap();
        fs::read(file)
    });
    asked.1.recv().unwrap();
    signal(&a, Signal::SIGCONT);
    assert!(early.join().unwrap().is_err());
    assert!(open.read_exact_at(&mut bytes, 0).is_err(), "the kernel had it in its cache");
    assert!(fs::read(here.join("f")).is_err() && fs::read_dir(&here).is_err());
    assert!(fs::write(here.join("g"), "g").is_err());
    wait_until("it is known", || remote(&a, "db")["fenced"] == true);
    let then = state(&there);
    drop(open);
    a.umount("db");
    assert_eq!(state(&there), then);
    // What was taken is not shown after the next mount either, but as a volume of its own.
    let here = mount(&a, "db", &[]);
    assert!(fs::read_dir(&here).is_err());
    a.umount("db");
    a.ok(&["remote", "detach", "db"]);
    assert!(fs::read(a.mount("db", &[]).join("f")).unwrap() == pattern(300_000, 1));
}

/// It had claimed the volume, and nobody ever mounted it there: the host that had it had to attach it anew.
#[test]
fn a_volume_goes_on_when_who_stole_it_was_killed_before_it_was_attached() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = leased(&a, &url(&objects));
    fs::write(here.join("g"), "g").unwrap();
    let records = || fs::read_dir(objects.join("db/log")).unwrap().count();
    signal(&a, Signal::SIGSTOP);
    let before = records();
    let mut thief = command(&b, &["attach", "--steal", &url(&objects)]);
    let mut thief = thief.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it has claimed the volume", || records() > before);
    // It waits to be sure that the other one has stopped.
    assert!(thief.try_wait().unwrap().is_none());
    thief.kill().unwrap();
    thief.wait().unwrap();
    signal(&a, Signal::SIGCONT);
    wait_until("it is known", || remote(&a, "db")["fenced"] == true);
    assert!(fs::read(here.join("f")).is_err());
    a.umount("db");
    wait_until("nobody serves it", || a.servers().is_empty());
    let here = mount(&a, "db", &[]);
    assert!(fs::read(here.join("f")).unwrap() == pattern(300_000, 1));
    fs::write(here.join("h"), "h").unwrap();
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    // Nothing is left of it on the host of who was killed, which can have the volume as any other.
    for host in [&b, &c] {
        succeed(&mut command(host, &["attach", &url(&objects)]));
        assert_eq!(state(&mount(host, "db", &[])), then);
        host.umount("db");
    }
}

#[test]
fn who_takes_over_a_mount_answers_once_life_was_shown() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = leased(&a, &way.url());
    let next = || {
        let dead = a.server("db");
        kill(Pid::from_raw(dead), Signal::SIGKILL).unwrap();
        wait_until("another one is there", || a.server("db") != dead);
    };
    next();
    assert!(fs::read(here.join("f")).unwrap() == pattern(300_000, 1));
    way.cut();
    wait_until("it is paused", || is_paused(&a));
    let mut children = [cat(&here.join("f")), cat(&here.join("f"))];
    let made = here.join("made");
    let maker = std::thread::spawn(move || fs::create_dir(made).unwrap());
    next();
    assert!(is_paused(&a) && children.iter_mut().all(runs) && !maker.is_finished());
    way.mend();
    wait_until("it goes on", || !children.iter_mut().any(runs));
    assert!(children.iter_mut().all(|child| child.0.wait().unwrap().success()));
    maker.join().unwrap();
    assert!(here.join("made").is_dir());
}

/// What a program had mapped that was opened before the server was replaced stayed readable, also once another host had the volume.
#[test]
fn what_was_mapped_before_a_server_was_replaced_is_not_read_in_a_pause() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = leased(&a, &way.url());
    let seen = a.dir("told").join("seen");
    // It reads again and again, and counts.
    let script = "import mmap,sys,time\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nn=0\n\
                  s=open(sys.argv[2],'w')\nwhile True:\n m[0]; n+=1; s.seek(0); s.write(str(n)); s.flush(); time.sleep(0.02)";
    let mut mapping = Command::new("python3");
    let mut mapping = Background::start(mapping.args(["-c", script]).arg(here.join("f")).arg(&seen));
    let count = || fs::read_to_string(&seen).ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let goes_on = || {
        let before = count();
        wait_until("it reads", || count() > before + 10);
    };
    goes_on();
    // Twice: what a server inherits, the next one inherits of it.
    for _ in 0..2 {
        let dead = a.server("db");
        kill(Pid::from_raw(dead), Signal::SIGKILL).unwrap();
        wait_until("another one is there", || a.server("db") != dead);
        goes_on();
    }
    way.cut();
    wait_until("it is paused", || is_paused(&a));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let before = count();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(count(), before, "it has read what was in memory");
    assert!(runs(&mut mapping));
    way.mend();
    goes_on();
    assert!(fs::read(here.join("f")).unwrap() == pattern(300_000, 1));
}

/// Whoever looked something up beside it kept all other changes and mounts of the family waiting, too.
#[test]
fn a_snapshot_is_removed_in_a_pause_and_nothing_waits_for_programs_that_wait() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = leased(&a, &way.url());
    for name in ["db@one", "db@two"] {
        a.ok(&["snapshot", "create", name]);
    }
    a.ok(&["clone", "db", "copy"]);
    let in_one = here.join(".snapshots/one/f");
    assert!(fs::read(&in_one).unwrap() == pattern(300_000, 1));
    way.cut();
    wait_until("it is paused", || is_paused(&a));
    // It waits in the directory of snapshots.
    let mut waits = cat(&here.join(".snapshots/two/f"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(runs(&mut waits));
    let ends = |args: &[&str]| {
        let mut child = Background::start(&mut command(&a, args));
        wait_until("the command ends", || !runs(&mut child));
        child.0.wait().unwrap().code()
    };
    assert_eq!(ends(&["snapshot", "rm", "db@one"]), Some(0));
    let rollback = ["rollback", "--live", "db@two"];
    assert_eq!(ends(&rollback), Some(BUSY));
    let said = run(&mut command(&a, &rollback));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("is paused") && said.contains("try again"), "{said}");
    assert_eq!(ends(&["snapshot", "create", "db@three"]), Some(0));
    let there = mount(&a, "copy", &[]);
    assert!(runs(&mut waits));
    way.mend();
    wait_until("it goes on", || !runs(&mut waits));
    assert!(waits.0.wait().unwrap().success());
    assert!(!in_one.exists());
    assert!(fs::read(there.join("f")).unwrap() == pattern(300_000, 1));
    wait_until("nothing is paused", || !is_paused(&a));
    fs::write(here.join("f"), "new").unwrap();
    a.ok(&rollback);
    assert!(fs::read(here.join("f")).unwrap() == pattern(300_000, 1));
}

#[test]
fn a_volume_that_is_paused_is_unmounted_and_goes_on_later() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let way = Way::new(&a, &objects);
    let here = leased(&a, &way.url());
    way.cut();
    wait_until("it is paused", || is_paused(&a));
    a.umount("db");
    // Mounted without its remote, it waits.
    let here_again = mount(&a, "db", &[]);
    assert_eq!(here, here_again);
    let mut reader = cat(&here.join("f"));
    wait_until("it is paused", || is_paused(&a));
    assert!(runs(&mut reader));
    way.mend();
    wait_until("it goes on", || !runs(&mut reader));
    a.umount("db");
    // A lease goes with the volume.
    succeed(&mut command(&b, &["attach", &url(&objects)]));
    assert_eq!(remote(&b, "db")["lease"], "strict");
}

#[test]
fn a_lease_is_an_option_that_is_set_while_nothing_is_mounted() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    let said = a.fails(BUSY, &["remote", "add", "db", &url(&objects), "--lease", "strict"]);
    assert!(said.contains("unmount its volumes"), "{said}");
    a.ok(&["remote", "add", "db", &url(&objects)]);
    for option in ["lease=strict", "heartbeat=3"] {
        let said = a.fails(BUSY, &["set", "db", option]);
        assert!(said.contains("unmount the volumes of its family"), "{said}");
    }
    a.ok(&["set", "db", "lease=none", "heartbeat=10"]);
    a.umount("db");
    for option in ["lease=some", "heartbeat=0", "heartbeat=11"] {
        a.fails(2, &["set", "db", option]);
    }
    a.ok(&["set", "db", "lease=strict", "heartbeat=3"]);
    let is = |name: &str| a.ok(&["get", "db", name]);
    assert!(is("lease").contains("strict") && is("heartbeat").contains('3'));
    assert_eq!((&remote(&a, "db")["lease"], &remote(&a, "db")["heartbeat_s"]), (&"strict".into(), &3.into()));
    for transport in ["fuser", "uring"] {
        let mut command = a.command(&["mount", "db"]);
        let output = run(command.arg(&here).args(["-o", &format!("transport={transport}")]));
        assert!(!output.status.success(), "{transport}");
    }
    a.mount("db", &["-o", "writeback=on"]);
    fs::write(here.join("f"), "f").unwrap();
    assert_eq!(fs::read_to_string(here.join("f")).unwrap(), "f");
    a.umount("db");
    a.ok(&["set", "db", "--unset", "lease", "--unset", "heartbeat"]);
    assert_eq!(remote(&a, "db")["lease"], "none");
}
