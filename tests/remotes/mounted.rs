//! Volumes that are mounted and shipped, and hosts that attach them.

use crate::support::{Background, Host, pattern, shell, state, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

const BUSY: i32 = 5;

pub(super) fn url(dir: &Path) -> String {
    format!("file://{}/db", dir.display())
}

/// Something of each kind.
fn fill(dir: &Path) {
    shell(
        dir,
        "mkdir -p d/e; for i in $(seq 40); do echo $i > d/e/$i; done; ln d/e/1 link; ln -s d/e/2 soft; mkfifo fifo
         setfattr -n user.color -v blue d; truncate -s 100M sparse; chmod 600 d/e/3",
    );
    fs::write(dir.join("big"), pattern(5_000_000, 3)).unwrap();
}

pub(super) fn remote(host: &Host, name: &str) -> Value {
    let output = crate::support::run(&mut host.command(&["remote", "status", name, "--json"]));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_volume_goes_on_on_the_host_that_attaches_it() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let store = a.dir("objects");
        let here = a.volume("db", &["--size", "1G"]);
        fill(&here);
        a.ok(&["snapshot", "create", "db@before"]);
        fs::write(here.join("after"), "after").unwrap();
        // While it is used.
        let file = fs::File::create(here.join("open")).unwrap();
        assert!(a.ok(&["remote", "add", "db", &url(&store)]).contains("is being shipped"));
        assert!(a.fails(4, &["remote", "add", "db", &url(&store)]).contains("has a remote already"));
        drop(file);
        a.ok(&["remote", "sync", "db"]);
        assert_eq!(remote(&a, "db")["lag_s"], 0);
        let (before, then) = (state(&here.join(".snapshots/before")), state(&here));
        // It has an owner, who is at it.
        assert!(b.fails(BUSY, &["attach", &url(&store)]).contains("in use by host"));
        assert!(b.ok(&["ls", "-q"]).is_empty(), "nothing is left of an attach that was refused");
        a.umount("db");

        assert_eq!(b.ok(&["attach", &url(&store), "db2"]), "db2\n");
        let there = b.mount("db2", &[]);
        assert_eq!(state(&there), then);
        assert_eq!(state(&there.join(".snapshots/before")), before);
        assert_eq!(remote(&b, "db2")["partial"], true);
        fs::write(there.join("more"), pattern(300_000, 4)).unwrap();
        fs::remove_file(there.join("big")).unwrap();
        b.ok(&["rollback", "--live", "db2@before"]);
        fs::write(there.join("last"), pattern(300_000, 5)).unwrap();
        b.ok(&["remote", "sync", "db2"]);
        assert!(b.ok(&["check", "db2", "--read-data"]).contains("clean"));
        let last = state(&there);
        b.umount("db2");
        let mut check = b.command(&["remote", "check", &url(&store), "--read-data"]);
        b.key_file().into_iter().for_each(|key| {
            check.arg("--key-file").arg(key);
        });
        assert!(crate::support::succeed(&mut check).contains("clean"));

        // The first host has not gone on, and must not from what it has.
        let here = a.mount("db", &[]);
        wait_until("it is known", || remote(&a, "db")["trouble"].is_string());
        assert_eq!(state(&here), then, "what was here stays readable");
        wait_until("it takes no changes", || fs::write(here.join("new"), "").is_err());
        assert!(remote(&a, "db")["trouble"].as_str().unwrap().contains("was taken by host"));
        let status = crate::support::run(&mut a.command(&["status", "db"]));
        assert!(String::from_utf8_lossy(&status.stdout).contains("was taken by host"), "{status:?}");
        a.umount("db");
        // As a volume of its own, it does.
        a.ok(&["remote", "detach", "db"]);
        fs::write(a.mount("db", &[]).join("new"), "new").unwrap();
        a.umount("db");

        // Nothing of that came to the remote.
        let c = if a.key_file().is_some() { Host::encrypted() } else { Host::plain() };
        c.ok(&["attach", &url(&store)]);
        assert_eq!(state(&c.mount("db2", &[])), last);
    }
}

#[test]
fn nobody_gets_what_is_not_finished_without_knowing() {
    let a = Host::plain();
    a.ok(&["create", "db"]);
    for args in [&["remote", "add", "db", "file:///nowhere"][..], &["attach", "file:///nowhere"]] {
        let mut command = a.command(args);
        let output = crate::support::run(command.env_remove("LARDER_UNFINISHED"));
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("not finished in this version"));
    }
}

#[test]
fn what_a_dead_host_had_shipped_is_taken_from_it() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    a.ok(&["remote", "add", "db", &url(&store)]);
    fill(&here);
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.kill_server("db");
    b.fails(BUSY, &["attach", &url(&store)]);
    b.ok(&["attach", "--steal", &url(&store)]);
    let there = b.mount("db", &[]);
    assert_eq!(state(&there), then);
    fs::write(there.join("more"), "more").unwrap();
    b.ok(&["remote", "sync", "db"]);
    // A volume that nobody has mounted is shipped as well.
    b.umount("db");
    b.ok(&["snapshot", "create", "db@offline"]);
    b.ok(&["remote", "sync", "db"]);
    let c = Host::plain();
    c.ok(&["attach", &url(&store)]);
    assert_eq!(fs::read_to_string(c.mount("db", &[]).join(".snapshots/offline/more")).unwrap(), "more");
}

#[test]
fn a_server_that_dies_is_replaced_and_ships_on() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    a.ok(&["remote", "add", "db", &url(&store)]);
    for round in 0..5 {
        fs::write(here.join(round.to_string()), pattern(200_000, round)).unwrap();
        a.ok(&["remote", "sync", "db"]);
        fs::write(here.join("not yet"), pattern(200_000, round)).unwrap();
        let dead = a.server("db");
        kill(Pid::from_raw(dead), Signal::SIGKILL).unwrap();
        wait_until("another one is there", || a.server("db") != dead);
    }
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&store)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// What had not come to this host was zeros in the parts that its next mount shipped, in the place of what was there.
#[test]
fn what_is_only_there_survives_mounts_of_what_is_partly_here() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    let file = |i: u64| format!("f{i}");
    for i in 0..600 {
        fs::write(here.join(file(i)), pattern(8192, i)).unwrap();
    }
    shell(&here, "sync -f .");
    // Holes everywhere.
    (0..600).filter(|i| i % 3 == 1).for_each(|i| fs::remove_file(here.join(file(i))).unwrap());
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");

    b.ok(&["attach", &url(&store)]);
    for round in 0..3 {
        let there = b.mount("db", &[]);
        for i in [0, 299 + round, 599] {
            if i % 3 != 1 {
                assert!(fs::read(there.join(file(i))).unwrap() == pattern(8192, i), "{i}");
            }
        }
        fs::write(there.join("round"), round.to_string()).unwrap();
        fs::remove_file(there.join("round")).unwrap();
        b.ok(&["remote", "sync", "db"]);
        b.umount("db");
    }
    c.ok(&["attach", &url(&store)]);
    let there = c.mount("db", &[]);
    let files = fs::read_dir(&there).unwrap().filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"f"))
    });
    assert_eq!(files.count(), 400);
    for i in (0..600).filter(|i| i % 3 != 1) {
        assert!(fs::read(there.join(file(i))).unwrap() == pattern(8192, i), "{i}");
    }
}

#[test]
fn what_is_asked_of_a_remote_is_counted() {
    let host = Host::plain();
    let here = host.volume("db", &["--remote", &url(&host.dir("objects"))]);
    let of = |key: &str| remote(&host, "db")["requests"][key].as_u64().unwrap();
    fs::write(here.join("f"), pattern(3_000_000, 1)).unwrap();
    host.ok(&["remote", "sync", "db"]);
    // Parts and a record; nothing is asked twice for that.
    let (writes, sent) = (of("writes"), of("sent"));
    assert!(writes >= 3 && (3_000_000..6_000_000).contains(&sent), "{writes} {sent}");
    let inspected = host.json(&["inspect", "db"]);
    assert!(inspected["remote"]["requests"]["writes"].as_u64().unwrap() >= writes, "{inspected}");
    let said = host.ok(&["remote", "status", "db"]);
    assert!(said.contains(" to write, ") && said.contains(" received"), "{said}");
    // Over servers that are killed and those that end.
    kill(Pid::from_raw(host.server("db")), Signal::SIGKILL).unwrap();
    fs::write(here.join("g"), pattern(3_000_000, 2)).unwrap();
    host.ok(&["remote", "sync", "db"]);
    assert!(of("sent") >= sent + 3_000_000);
    host.umount("db");
    let before = of("writes");
    assert!(before > writes);
    host.mount("db", &[]);
    assert!(of("writes") >= before);
}

/// It was not there: the kernel writes it back later, or when the file is closed.
#[test]
fn a_sync_has_what_programs_have_written_to_open_files() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("mapped"), pattern(10_000, 1)).unwrap();
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    let mut file = fs::File::create(here.join("open")).unwrap();
    std::io::Write::write_all(&mut file, &pattern(10_000, 2)).unwrap();
    let script = "import mmap,sys,time\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[0:5]=b'later'\nopen(sys.argv[2],'w').close()\ntime.sleep(600)";
    let said = a.dir("said").join("said");
    let mut mapping = Command::new("python3");
    mapping.arg("-c").arg(script).arg(here.join("mapped")).arg(&said);
    let mapping = Background::start(&mut mapping);
    wait_until("it has written", || said.exists());
    a.ok(&["remote", "sync", "db"]);
    b.ok(&["attach", "--steal", &url(&store)]);
    let there = b.mount("db", &[]);
    assert!(fs::read(there.join("open")).unwrap() == pattern(10_000, 2));
    assert_eq!(fs::read(there.join("mapped")).unwrap()[..5], *b"later");
    drop((file, mapping));
}

/// What is shipped made something new to ship, and nothing that waited for one or the other ever ended.
#[test]
fn a_volume_is_not_shipped_into_itself() {
    let a = Host::plain();
    let here = a.volume("db", &[]);
    fs::create_dir(here.join("d")).unwrap();
    let link = a.dir("links").join("link");
    std::os::unix::fs::symlink(here.join("d"), &link).unwrap();
    for dir in [here.join("d"), here.join("d/not/there"), link] {
        let said = a.fails(2, &["remote", "add", "db", &url(&dir)]);
        assert!(said.contains("lies in volume \"db\""), "{said}");
        assert!(a.fails(2, &["remote", "status", "db"]).contains("has no remote"));
    }
    // It may come to be there later.
    let objects = a.dir("objects");
    let way = a.dir("ways").join("way");
    std::os::unix::fs::symlink(&objects, &way).unwrap();
    a.ok(&["remote", "add", "db", &url(&way)]);
    a.umount("db");
    fs::remove_file(&way).unwrap();
    std::os::unix::fs::symlink(here.join("d"), &way).unwrap();
    let here = a.mount("db", &[]);
    wait_until("it is said", || {
        remote(&a, "db")["trouble"].as_str().is_some_and(|said| said.contains("lies in volume"))
    });
    fs::write(here.join("f"), "f").unwrap();
    assert_eq!(fs::read_dir(here.join("d")).unwrap().count(), 0);
}
