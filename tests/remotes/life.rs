//! The life of a mounted volume with a remote: outages, fences, ends.

use super::mounted::{remote, url};
use crate::support::{Background, Host, pattern, run, shell, state, wait_for, wait_until};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BUSY: i32 = 5;

/// A way of one host to an object store that others reach by other ways.
pub(super) struct Way {
    link: PathBuf,
    to: PathBuf,
}

impl Way {
    pub(super) fn new(host: &Host, objects: &Path) -> Self {
        let way = Self { link: host.dir("ways").join("way"), to: objects.into() };
        way.mend();
        way
    }

    pub(super) fn url(&self) -> String {
        url(&self.link)
    }

    pub(super) fn cut(&self) {
        fs::remove_file(&self.link).unwrap();
    }

    pub(super) fn mend(&self) {
        symlink(&self.to, &self.link).unwrap();
    }
}

/// A volume that host `a` has shipped and let go of.
fn shipped(a: &Host, files: u64) -> PathBuf {
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    for i in 0..files {
        fs::write(here.join(format!("f{i}")), pattern(400_000, i)).unwrap();
    }
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    store
}

fn read(dir: &Path, i: u64) -> bool {
    fs::read(dir.join(format!("f{i}"))).unwrap() == pattern(400_000, i)
}

/// As [`Host::ok`], for commands that need the key here.
fn with_key(host: &Host, args: &[&str]) {
    let mut command = host.command(args);
    host.key_file().into_iter().for_each(|key| {
        command.arg("--key-file").arg(key);
    });
    crate::support::succeed(&mut command);
}

fn cat(dir: &Path, i: u64) -> Background {
    let mut command = Command::new("cat");
    command.arg(dir.join(format!("f{i}")));
    Background::start(&mut command)
}

pub(super) fn runs(child: &mut Background) -> bool {
    child.0.try_wait().unwrap().is_none()
}

/// Mounts and successors of dead servers failed when the remote could not be reached, and after a while live mounts died.
#[test]
fn no_mount_needs_the_remote() {
    let (a, b) = (Host::plain(), Host::plain());
    let way = Way::new(&b, &shipped(&a, 10));
    b.ok(&["attach", &way.url()]);
    let there = b.mount("db", &[]);
    assert!(read(&there, 0));
    b.umount("db");
    way.cut();
    let there = b.mount("db", &[]);
    assert!(read(&there, 0));
    fs::write(there.join("new"), pattern(200_000, 9)).unwrap();
    let mut reader = cat(&there, 8);
    for _ in 0..2 {
        let dead = b.server("db");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(dead), nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_until("another one is there", || b.server("db") != dead);
        assert!(read(&there, 0));
    }
    assert!(runs(&mut reader));
    way.mend();
    wait_until("it is read", || !runs(&mut reader));
    assert!((0..10).all(|i| read(&there, i)));
    b.ok(&["remote", "sync", "db"]);
    assert_eq!(remote(&b, "db")["trouble"], serde_json::Value::Null);
}

/// They were EIO, and what was written over a part of a block was lost.
#[test]
fn what_is_only_there_is_waited_for_and_nothing_else_is() {
    let (a, b) = (Host::plain(), Host::plain());
    let way = Way::new(&b, &shipped(&a, 40));
    b.ok(&["attach", &way.url()]);
    let there = b.mount("db", &["-o", "writeback=off"]);
    assert!(read(&there, 0));
    way.cut();
    // More than there are threads for requests.
    let mut readers: Vec<Background> = (5..20).chain(24..40).map(|i| cat(&there, i)).collect();
    std::thread::sleep(Duration::from_secs(1));
    assert!(readers.iter_mut().all(runs));
    assert!(read(&there, 0));
    fs::write(there.join("new"), "new").unwrap();
    File::open(there.join("new")).unwrap().sync_all().unwrap();
    // A part of a block that is not here.
    let file = OpenOptions::new().write(true).open(there.join("f21")).unwrap();
    let writer = std::thread::spawn(move || {
        file.write_all_at(b"written over", 100_001).unwrap();
        file.sync_all().unwrap();
    });
    let (short, cut) = (there.join("f22"), there.join("f23"));
    let truncater = std::thread::spawn(move || {
        OpenOptions::new().write(true).open(short).unwrap().set_len(100_001).unwrap();
    });
    let puncher = std::thread::spawn(move || {
        shell(cut.parent().unwrap(), "fallocate -p -o 1000 -l 100000 f23");
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(!writer.is_finished() && !truncater.is_finished() && !puncher.is_finished());
    // Whoever does not want to wait is not made to.
    let mut killed = readers.pop().unwrap();
    killed.0.kill().unwrap();
    assert!(wait_for(|| !runs(&mut killed)), "it is killed");
    let status = run(&mut b.command(&["status", "db"]));
    assert!(String::from_utf8_lossy(&status.stdout).contains("cannot be read"), "{status:?}");
    way.mend();
    for reader in &mut readers {
        wait_until("it is read", || !runs(reader));
        assert!(reader.0.wait().unwrap().success());
    }
    writer.join().unwrap();
    truncater.join().unwrap();
    puncher.join().unwrap();
    let mut expected = pattern(400_000, 21);
    expected[100_001..100_013].copy_from_slice(b"written over");
    assert!(fs::read(there.join("f21")).unwrap() == expected);
    assert!(fs::read(there.join("f22")).unwrap() == pattern(400_000, 22)[..100_001]);
    let mut expected = pattern(400_000, 23);
    expected[1000..101_000].fill(0);
    assert!(fs::read(there.join("f23")).unwrap() == expected);
    assert!((0..20).chain(24..40).all(|i| read(&there, i)));
    b.ok(&["check", "db", "--read-data"]);
}

/// A direct read that waits is answered when its process is killed, which would otherwise stay for good.
#[test]
fn who_waits_for_what_is_only_there_can_be_killed() {
    let (a, b) = (Host::plain(), Host::plain());
    let way = Way::new(&b, &shipped(&a, 4));
    b.ok(&["attach", &way.url()]);
    let there = b.mount("db", &[]);
    way.cut();
    let file = there.join("f1");
    let mut all: Vec<Background> = ["iflag=direct bs=64K of=/dev/null", "bs=1000 of=/dev/null"]
        .iter()
        .map(|how| {
            let script = format!("exec dd if={} {how}", file.display());
            Background::start(Command::new("sh").arg("-c").arg(script))
        })
        .collect();
    // Another file: for the lock of one that is written to, the kernel lets direct reads wait, and lets nobody kill them there.
    let other = there.join("f3");
    let over = format!("exec dd if=/dev/zero of={} bs=100 seek=7 count=1 conv=notrunc", other.display());
    all.push(Background::start(Command::new("sh").arg("-c").arg(over)));
    std::thread::sleep(Duration::from_millis(1500));
    for child in &mut all {
        assert!(runs(child));
        child.0.kill().unwrap();
        assert!(wait_for(|| !runs(child)), "it is killed");
    }
    way.mend();
    assert!(read(&there, 2));
}

/// It could not be mounted at all, and what it had not shipped was locked away.
#[test]
fn what_was_taken_from_who_attached_it_is_read_and_becomes_a_volume_of_its_own() {
    for [a, b, c] in
        [[Host::plain(), Host::plain(), Host::plain()], std::array::from_fn(|_| Host::encrypted())]
    {
        let store = shipped(&a, 4);
        let way = Way::new(&b, &store);
        b.ok(&["attach", &way.url()]);
        let there = b.mount("db", &[]);
        assert!(read(&there, 0));
        way.cut();
        fs::write(there.join("unshipped"), "unshipped").unwrap();
        File::open(there.join("unshipped")).unwrap().sync_all().unwrap();
        c.ok(&["attach", "--steal", &url(&store)]);
        let taken = c.mount("db", &[]);
        fs::remove_file(taken.join("f3")).unwrap();
        fs::write(taken.join("other"), pattern(500_000, 7)).unwrap();
        c.ok(&["remote", "sync", "db"]);

        b.umount("db");
        way.mend();
        let there = b.mount("db", &[]);
        wait_until("it is known", || remote(&b, "db")["fenced"] == true);
        assert!(fs::write(there.join("new"), "new").is_err());
        assert_eq!(fs::read_to_string(there.join("unshipped")).unwrap(), "unshipped");
        assert!((0..3).all(|i| read(&there, i)));
        let status = run(&mut b.command(&["status", "db"]));
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(said.contains("another host goes on with it") && said.contains("remote detach"), "{said}");
        assert_eq!(b.json(&["inspect", "db"])["remote"]["fenced"], true);
        assert!(b.fails(BUSY, &["remote", "detach", "db"]).contains("unmount it first"));
        b.umount("db");
        with_key(&b, &["remote", "detach", "db"]);
        way.cut();
        let there = b.mount("db", &[]);
        assert!((0..4).all(|i| read(&there, i)), "all of it is here");
        fs::write(there.join("new"), "new").unwrap();
        assert!(b.ok(&["check", "db", "--read-data"]).contains("all of them read"));
        b.umount("db");
        let header = fs::read_to_string(b.store("db").join("header.json")).unwrap();
        assert!(!header.contains("remote"), "older programs may have it again: {header}");
        assert!(taken.join("other").exists() && !taken.join("unshipped").exists());
    }
}

/// Who has nothing to ship did not learn of it, and served what it had.
#[test]
fn an_owner_that_does_nothing_learns_that_the_volume_was_taken() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), "f").unwrap();
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["remote", "sync", "db"]);
    let alive = || {
        let signs = walk(&store.join("db/alive"));
        signs.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let first = alive();
    assert_eq!(first.len(), 1);
    wait_until("it shows life", || alive() != first);
    b.ok(&["attach", "--steal", &url(&store)]);
    wait_until("it finds out", || remote(&a, "db")["fenced"] == true);
    assert!(fs::write(here.join("g"), "g").is_err());
    assert_eq!(fs::read_to_string(here.join("f")).unwrap(), "f");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { pending.push(path) } else { out.push(path) }
        }
    }
    out
}

/// A remote with a name whose uploads are slow.
fn slow(host: &Host, objects: &Path, upload: &str) -> PathBuf {
    let file = host.dir("conf").join("remotes.toml");
    fs::write(&file, format!("[slow]\nurl = \"file://{}\"\nupload = \"{upload}\"\n", objects.display()))
        .unwrap();
    file
}

/// It waited until all was uploaded; and what was shipped on the way counts for the next mount.
#[test]
fn an_unmount_waits_for_no_long_upload() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let conf = slow(&a, &objects, "200K");
    let with = |args: &[&str]| {
        let mut command = a.command(args);
        command.env("LARDER_REMOTES", &conf);
        crate::support::succeed(&mut command)
    };
    let here = a.volume("db", &[]);
    fs::write(here.join("big"), pattern(60_000_000, 1)).unwrap();
    shell(&here, "sync -f .");
    a.umount("db");
    with(&["remote", "add", "db", "slow"]);
    with(&["mount", "db", here.to_str().unwrap()]);
    wait_until("it is claimed", || objects.join("db/log").exists());
    a.umount("db");
    let shipped: u64 = walk(&objects).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(shipped < 60_000_000, "{shipped}");
}

/// It had the store to itself for as long as that took.
#[test]
fn a_sync_of_an_unmounted_volume_lets_it_be_mounted() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let conf = slow(&a, &objects, "2M");
    let here = a.volume("db", &[]);
    fs::write(here.join("big"), pattern(40_000_000, 1)).unwrap();
    shell(&here, "sync -f .");
    a.umount("db");
    let with = |args: &[&str]| {
        let mut command = a.command(args);
        command.env("LARDER_REMOTES", &conf);
        command
    };
    crate::support::succeed(&mut with(&["remote", "add", "db", "slow"]));
    let mut sync = Background::start(&mut with(&["remote", "sync", "db"]));
    wait_until("it is at it", || objects.join("db/log").exists());
    assert!(runs(&mut sync));
    let there = a.mount("db", &[]);
    assert!(runs(&mut sync), "it goes on beside the mount");
    assert!(fs::read(there.join("big")).unwrap() == pattern(40_000_000, 1));
    fs::write(there.join("more"), "more").unwrap();
    assert!(sync.0.wait().unwrap().success());
    assert!(there.join("big").exists(), "the mount stays");
    a.umount("db");
}

/// A server that was started for it tried for ever, also when the remote and whoever had asked were gone.
#[test]
fn a_sync_that_nobody_waits_for_any_more_ends_and_its_server_too() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), "f").unwrap();
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    fs::write(here.join("g"), "g").unwrap();
    a.umount("db");
    wait_until("nobody serves it", || a.servers().is_empty());
    fs::rename(&objects, objects.with_file_name("away")).unwrap();
    let mut sync = Background::start(&mut a.command(&["remote", "sync", "db"]));
    wait_until("it tries", || remote(&a, "db")["trouble"].is_string());
    assert!(runs(&mut sync));
    sync.0.kill().unwrap();
    sync.0.wait().unwrap();
    wait_until("its server has ended", || a.servers().is_empty());
}

/// It tried nothing any more after one round that had failed, and others had to take the volume by force.
#[test]
fn an_unmount_after_an_outage_says_goodbye() {
    let (a, b) = (Host::plain(), Host::plain());
    let objects = a.dir("objects");
    let here = a.volume("db", &[]);
    a.ok(&["remote", "add", "db", &url(&objects)]);
    a.ok(&["remote", "sync", "db"]);
    let away = objects.with_file_name("away");
    fs::rename(&objects, &away).unwrap();
    fs::write(here.join("f"), "f").unwrap();
    shell(&here, "sync -f .");
    wait_until("it is noticed", || remote(&a, "db")["trouble"].is_string());
    fs::rename(&away, &objects).unwrap();
    let then = state(&here);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// What is not here was damage, and the segments that it is in were missing.
#[test]
fn what_is_not_here_is_no_damage() {
    for [a, b] in [[Host::plain(), Host::plain()], std::array::from_fn(|_| Host::encrypted())] {
        let store = shipped(&a, 30);
        b.ok(&["attach", &url(&store), "elsewhere"]);
        let bytes = || walk(&b.store("elsewhere").join("segments")).iter().map(|f| size_of(f)).sum::<u64>();
        let log = |host: &Host| {
            let logs = walk(&host.root().join("log"));
            logs.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect::<String>()
        };
        let look = || {
            let checked = b.ok(&["check", "elsewhere", "--read-data"]);
            assert!(checked.contains("clean") && checked.contains("not on this host"), "{checked}");
            assert!(b.ok(&["scrub", "elsewhere"]).contains("clean"), "nothing is wrong");
            b.ok(&["status", "elsewhere"]);
        };
        look();
        b.ok(&["snapshot", "create", "elsewhere@offline"]);
        b.ok(&["rename", "elsewhere", "db"]);
        b.ok(&["rename", "db", "elsewhere"]);
        assert_eq!(bytes(), 0);
        let there = b.mount("elsewhere", &[]);
        assert!(read(&there, 7));
        let before = bytes();
        look();
        assert!(bytes() < before + (1 << 20), "what is only there is not fetched: {before} {}", bytes());
        b.umount("elsewhere");
        look();
        assert!(!log(&b).contains("is missing"), "{}", log(&b));
        let there = b.mount("elsewhere", &[]);
        assert!((0..30).all(|i| read(&there, i)));
        assert!(b.ok(&["check", "elsewhere", "--read-data"]).contains("all of them read"));
    }
}

fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Volumes in the trash of one host were volumes on the host that attached the store.
#[test]
fn what_was_removed_does_not_come_back_elsewhere() {
    let (a, b) = (Host::plain(), Host::plain());
    let store = a.dir("objects");
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), "f").unwrap();
    a.ok(&["clone", "db", "before"]);
    a.ok(&["clone", "db", "after"]);
    a.ok(&["rm", "before"]);
    a.ok(&["remote", "add", "db", &url(&store)]);
    a.ok(&["rm", "after"]);
    a.ok(&["remote", "sync", "db"]);
    assert_eq!(a.ok(&["ls", "-q"]), "db\n");
    a.umount("db");

    assert_eq!(b.ok(&["attach", &url(&store), "mine"]), "mine\n");
    assert_eq!(b.ok(&["ls", "-q"]), "mine\n");
    let trash = b.ok(&["trash", "ls"]);
    assert!(trash.contains("before") && trash.contains("after"), "{trash}");
    b.ok(&["trash", "restore", "after"]);
    assert_eq!(fs::read_to_string(b.mount("after", &[]).join("f")).unwrap(), "f");
    b.umount("after");
}

/// A remote directory that is not mounted is not begun anew, neither by who has been there nor by who is there.
#[test]
fn what_is_shipped_goes_where_it_went_before() {
    let a = Host::plain();
    let way = Way::new(&a, &a.dir("objects"));
    let here = a.volume("db", &[]);
    fs::write(here.join("f"), "f").unwrap();
    a.ok(&["remote", "add", "db", &way.url()]);
    a.ok(&["remote", "sync", "db"]);
    // An empty directory is what is left of a file system that is not mounted.
    way.cut();
    fs::create_dir(&way.link).unwrap();
    fs::write(here.join("g"), "g").unwrap();
    shell(&here, "sync -f .");
    wait_until("it is noticed", || remote(&a, "db")["trouble"].is_string());
    a.umount("db");
    let here = a.mount("db", &[]);
    fs::write(here.join("h"), "h").unwrap();
    wait_until("it is noticed", || remote(&a, "db")["trouble"].is_string());
    assert!(walk(&way.link).is_empty(), "{:?}", walk(&way.link));
    fs::remove_dir_all(&way.link).unwrap();
    way.mend();
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    let b = Host::plain();
    b.ok(&["attach", &url(&way.to)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// They had SIGBUS.
#[test]
fn mapped_files_wait_too() {
    let (a, b) = (Host::plain(), Host::plain());
    let way = Way::new(&b, &shipped(&a, 2));
    b.ok(&["attach", &way.url()]);
    let there = b.mount("db", &[]);
    way.cut();
    let script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nopen(sys.argv[2],'w').write(str(sum(m[::4096])))";
    let mut mapped = Command::new("python3");
    let said = b.dir("said").join("sum");
    mapped.arg("-c").arg(script).arg(there.join("f1")).arg(&said);
    let mut mapped = Background::start(&mut mapped);
    std::thread::sleep(Duration::from_secs(1));
    assert!(runs(&mut mapped));
    way.mend();
    assert!(mapped.0.wait().unwrap().success());
    let sum: u64 = pattern(400_000, 1).iter().step_by(4096).map(|b| u64::from(*b)).sum();
    assert_eq!(fs::read_to_string(said).unwrap(), sum.to_string());
}

/// After a day, what a host last knew to be there is not: nothing that it had not read could be had any more, nor the volume be made whole.
#[test]
fn what_the_next_owner_still_has_is_read_when_what_was_known_is_gone() {
    let (a, b, c) = (Host::plain(), Host::plain(), Host::plain());
    let store = shipped(&a, 6);
    b.ok(&["attach", &url(&store)]);
    let there = b.mount("db", &[]);
    assert!(read(&there, 0));
    fs::write(there.join("new"), "new").unwrap();
    b.ok(&["remote", "sync", "db"]);
    b.kill_server("db");
    c.ok(&["attach", "--steal", &url(&store)]);
    fs::write(c.mount("db", &[]).join("other"), "other").unwrap();
    c.ok(&["remote", "sync", "db"]);
    let seen = larder::remote::Local::read(&b.store("db")).unwrap().unwrap().seen;
    fs::remove_file(store.join("db").join(larder::remote::names::record(seen))).unwrap();
    b.umount("db");
    let there = b.mount("db", &[]);
    wait_until("it is known", || remote(&b, "db")["fenced"] == true);
    assert!((0..6).all(|i| read(&there, i)));
    b.umount("db");
    with_key(&b, &["remote", "detach", "db"]);
    let there = b.mount("db", &[]);
    assert!((0..6).all(|i| read(&there, i)));
}
