//! What a mount shows of snapshots: who looks at one, how, and for how long.

use crate::model::harness::new_disk;
use crate::support::{Host, errno, run, shell, state};
use crate::takeover::lose_server;
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, Node, Place, ROOT_INO, ViewChange, Views};
use larder::meta::NewSnapshot;
use larder::open_store::{OpenStore, StoreOptions};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// A directory in which a listing takes several requests, and others.
fn fill(dir: &Path) {
    shell(
        dir,
        "mkdir -p many d/deep; echo one > d/f1; echo two > d/f2; echo three > d/deep/f3; echo top > top",
    );
    shell(dir, "cd many; seq -f 'a-file-with-quite-a-long-name-%.0f' 3000 | xargs touch");
    fs::write(dir.join("big"), vec![7; 3 << 20]).unwrap();
}

#[test]
fn a_snapshot_that_is_seen_twice_stays_for_whoever_still_looks() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir);
    let before = state(&dir);
    host.ok(&["snapshot", "create", "v@a"]);
    let hidden = dir.join(".snapshots/a");
    // The mount of its own goes.
    assert_eq!(shell(&hidden, "ls d; cat top"), "deep\nf1\nf2\ntop\n");
    let mounted = host.mount("v@a", &[]);
    assert_eq!(fs::read_to_string(mounted.join("d/f1")).unwrap(), "one\n");
    host.umount("v@a");
    assert_eq!(state(&hidden), before);
    // The volume's goes.
    let dir = host.remount("v");
    let mounted = host.mount("v@a", &[]);
    assert_eq!(shell(&dir, "ls .snapshots/a/d/deep"), "f3\n");
    assert_eq!(fs::read_to_string(mounted.join("d/f1")).unwrap(), "one\n");
    host.umount("v");
    assert_eq!(state(&mounted), before);
    host.umount("v@a");
    host.check("v");
}

#[test]
fn a_removed_snapshot_is_stale_and_never_an_empty_directory() {
    for taken_over in [false, true] {
        let host = Host::new();
        let dir = host.volume("v", &[]);
        fill(&dir);
        host.ok(&["snapshot", "create", "v@a"]);
        let hidden = dir.join(".snapshots/a");
        let root = File::open(&hidden).unwrap();
        let sub = File::open(hidden.join("d")).unwrap();
        let big = File::open(hidden.join("big")).unwrap();
        let listing = Dir::open(&hidden.join("many"), OFlag::O_RDONLY, Mode::empty()).unwrap();
        let mut entries = listing.into_iter();
        assert!(entries.by_ref().take(10).all(|entry| entry.is_ok()));
        host.ok(&["snapshot", "rm", "v@a"]);
        if taken_over {
            lose_server(&host, "v");
        }
        let at = |file: &File, name: &str| format!("/proc/self/fd/{}/{name}", file.as_raw_fd());
        for (file, name) in [(&root, "top"), (&sub, "f1"), (&sub, "no such name")] {
            assert_eq!(errno(fs::symlink_metadata(at(file, name))), libc::ESTALE, "{name}");
        }
        assert_eq!(errno(File::open(at(&sub, "f2"))), libc::ESTALE);
        assert_eq!(errno(big.read_at(&mut [0; 10], 2 << 20)), libc::ESTALE);
        assert_eq!(
            errno(fs::read_dir(at(&sub, ".")).and_then(|mut list| list.next().unwrap())),
            libc::ESTALE
        );
        // A listing that had begun does not end as if it had come to its end.
        let end = entries.find_map(Result::err);
        assert_eq!(end, Some(nix::errno::Errno::ESTALE));
        // By name, it is not there.
        assert_eq!(errno(fs::symlink_metadata(&hidden)), libc::ENOENT);
        assert_eq!(fs::read_dir(dir.join(".snapshots")).unwrap().count(), 0);
        drop((root, sub, big, entries));
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn a_copy_of_a_snapshot_that_is_removed_meanwhile_fails() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fill(&dir);
    host.ok(&["snapshot", "create", "v@a"]);
    let copy = host.dir("copy");
    let inside = format!(
        "ls d >/dev/null; {} --root {} snapshot rm v@a; cp -a . {}",
        crate::support::larder(),
        host.root().display(),
        copy.display()
    );
    let output = run(Command::new("bash").args(["-c", &inside]).current_dir(dir.join(".snapshots/a")));
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Stale file handle"), "{output:?}");
    host.umount("v");
}

#[test]
fn what_runs_with_the_rights_of_another_is_not_shown_below_snapshots() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(
        &dir,
        "mkdir d; cp /bin/true user; cp /bin/true group; cp /bin/true able; chmod 4755 user; chmod 2755 group; chmod 2775 d; setcap cap_net_raw+ep able; setfattr -n user.a -v 1 able",
    );
    host.ok(&["snapshot", "create", "v@s"]);
    let modes = "stat -c '%n %a' d user group able; ls -l | cut -c1-10; getcap able; getfattr -m - able";
    let before = shell(&dir, modes);
    let hidden = shell(&dir.join(".snapshots/s"), modes);
    assert!(before.contains("user 4755") && before.contains("cap_net_raw") && before.contains("capability"));
    assert!(hidden.contains("user 755\ngroup 755\nable 755\n") && hidden.contains("d 2775\n"), "{hidden}");
    assert!(!hidden.contains("cap_net_raw") && !hidden.contains("capability"), "{hidden}");
    assert!(!hidden.contains("-rws") && !hidden.contains("r-s") && hidden.contains("user.a"), "{hidden}");
    // Whoever mounts a snapshot decides for all of it.
    let mounted = host.mount("v@s", &[]);
    assert_eq!(shell(&mounted, modes), before);
    host.umount("v@s");
    // Nothing of the snapshot itself has changed.
    shell(&dir, "chmod 755 user group; setcap -r able");
    host.ok(&["rollback", "v@s", "--live"]);
    assert_eq!(shell(&dir, modes), before);
    host.umount("v");
}

fn on_disk() -> (Arc<OpenStore>, Arc<Fs>) {
    let options = StoreOptions { commit_interval: Duration::from_secs(3600), ..StoreOptions::default() };
    let store = OpenStore::open(Arc::new(new_disk(None, None)), None, options).unwrap();
    let fs = Arc::new(Fs::new(Arc::clone(&store), 1, FsOptions::default()));
    (store, fs)
}

fn make_snapshot(store: &OpenStore, name: &str) {
    let new = NewSnapshot { name: name.to_owned(), labels: Default::default(), created: 1 };
    store.alter(move |meta| meta.create_snapshot(1, &new)).unwrap();
}

#[test]
fn a_rollback_gets_its_turn_among_operations_that_never_pause() {
    const ROUNDS: usize = 3000;
    let (store, fs) = on_disk();
    let views = Views::new(fs, true, (&[], 0), Box::new(|_| {}));
    let (waits, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            waits.store(true, Ordering::SeqCst);
            views.replace(|| Ok::<(), ()>(())).unwrap();
            done.store(true, Ordering::SeqCst);
        });
        // Each operation ends only when the next one has begun, if it can.
        let operation = || {
            let ((began, has_begun), (end, ends)) = (channel(), channel::<()>());
            let views = &views;
            let thread = scope.spawn(move || {
                let _busy = views.busy();
                let _ = began.send(());
                let _ = ends.recv();
            });
            (has_begun, end, thread)
        };
        let mut current = operation();
        let mut rounds = 0;
        while !done.load(Ordering::SeqCst) {
            let next = operation();
            let _ = next.0.recv_timeout(Duration::from_millis(20));
            drop(current.1);
            current.2.join().unwrap();
            current = next;
            rounds += usize::from(waits.load(Ordering::SeqCst));
            assert!(rounds < ROUNDS, "the rollback still waits after {rounds} operations");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(current.1);
    });
    store.close().unwrap();
}

#[test]
fn what_the_kernel_was_told_of_a_rollback_is_not_told_again() {
    let (store, fs) = on_disk();
    let node = NewNode { kind: Kind::Directory, permissions: 0o755, umask: 0, rdev: 0, target: None };
    fs.make(ROOT_INO, b"top", &node, Caller::ROOT).unwrap();
    let (live, undone) = (ViewChange::Live, ViewChange::Undone);
    let cases: [(&[ViewChange], usize, bool); 6] = [
        (&[], 0, false),
        (&[live], 0, true),
        (&[live], 1, false),
        (&[live, undone], 0, false),
        (&[live, ViewChange::Snapshot(5), live], 2, true),
        (&[live, ViewChange::Snapshot(5), live, undone], 1, false),
    ];
    for (changes, told, in_doubt) in cases {
        let views = Views::new(Arc::clone(&fs), true, (changes, told), Box::new(|_| {}));
        assert_eq!(
            views.names_in_doubt().iter().any(|name| **name == *b"top"),
            in_doubt,
            "{changes:?} {told}"
        );
    }
    store.close().unwrap();
}

#[test]
fn memory_for_snapshots_that_are_looked_at_is_limited() {
    const SNAPSHOTS: usize = 60;
    // What one call lists.
    const FILES: usize = 8_000;
    let (store, fs) = on_disk();
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    for i in 0..FILES {
        let ino = fs.make(ROOT_INO, format!("f{i}").as_bytes(), &node, Caller::ROOT).unwrap().ino;
        fs.forget(ino, 1);
    }
    (0..SNAPSHOTS).for_each(|i| make_snapshot(&store, &format!("s{i}")));
    let views = Views::new(Arc::clone(&fs), true, (&[], 0), Box::new(|_| {}));
    let count = |root: Node| {
        let Place::Inode(at) = views.place(root).unwrap() else { panic!() };
        // On a busy machine, a call ends before it has given all of them.
        let (mut count, mut cookie) = (0, 0);
        loop {
            let before = cookie;
            at.fs
                .readdir_plus(at.ino, before, |(entry, _)| {
                    count += 1;
                    cookie = entry.cookie;
                    true
                })
                .unwrap();
            if cookie == before {
                return count;
            }
        }
    };
    let roots: Vec<Node> =
        (0..SNAPSHOTS).map(|i| views.lookup_snapshot(format!("s{i}").as_bytes()).unwrap().ino).collect();
    let mut most = 0;
    for root in roots.iter().chain(&roots) {
        assert_eq!(count(*root), FILES + 2);
        let meta = store.meta();
        most = most.max(meta.cached_bytes());
        assert!(meta.heads_open() <= SNAPSHOTS / 2 + 5, "{} are open", meta.heads_open());
    }
    // More than one, and far from all of them.
    assert!(most > 4 << 20 && most < 110 << 20, "{most} bytes");
    views.forget_all();
    assert_eq!(store.meta().heads_open(), 1);
    assert_eq!(fs.getattr(ROOT_INO).unwrap().size, FILES as u64);
    store.close().unwrap();
}
