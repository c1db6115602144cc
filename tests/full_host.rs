//! A host whose disk others have filled: nothing is lost, what is there can be deleted, and the store can be opened again.

use crate::bad_input::SmallDisk;
use crate::disk::{Disk, Survives};
use crate::model::harness::{await_reclaim, check_disk, new_disk, new_encrypted_disk, open_quietly};
use crate::support::{Host, pattern, shell, succeed};
use larder::backing::OsDir;
use larder::fs::{Caller, Fs, FsError, FsOptions, Kind, NewNode, ROOT_INO, WriteMode, XattrFlags};
use larder::meta::{Limits, NewClone, NewSnapshot, Timestamp, VolumeId};
use larder::open_store::{AlterError, OpenStore, SyncError};
use larder::store::{Feature, Header};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const FILE: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
const FILES: usize = 400;

fn fs_of(store: &Arc<OpenStore>, volume: VolumeId) -> Fs {
    Fs::new(Arc::clone(store), volume, FsOptions::default())
}

fn name(number: usize) -> Vec<u8> {
    format!("{number:0>100}").into_bytes()
}

/// Makes a file with contents and an attribute.
fn make(fs: &Fs, name: &[u8]) -> Result<(), FsError> {
    let ino = fs.make(ROOT_INO, name, &FILE, Caller::ROOT)?.ino;
    let written = fs.write(ino, 0, &pattern(5000, 1), WriteMode::default());
    let set = fs.setxattr(ino, b"user.a", &pattern(3000, 2), XattrFlags::default(), Caller::ROOT);
    fs.forget(ino, 1);
    written.and(set)
}

fn names(fs: &Fs) -> usize {
    let mut count = 0;
    fs.readdir(ROOT_INO, 0, |entry| {
        count += usize::from(!entry.name.starts_with(b"."));
        true
    })
    .unwrap();
    count
}

fn sync(fs: &Fs) -> Result<(), larder::fs::SyncError> {
    let (send, receive) = std::sync::mpsc::channel();
    fs.sync(Box::new(move |result| send.send(result).unwrap()));
    receive.recv().unwrap()
}

/// How many files the next process finds, on the same full disk.
fn found(disk: &Disk) -> usize {
    let (store, fs) = open_quietly(disk);
    let count = names(&fs);
    await_reclaim(&store);
    fs.forget_all();
    store.close().unwrap();
    check_disk(disk);
    count
}

fn deletes_everything_on_a_full_disk(disk: &Disk, with_snapshot: bool) {
    let mut rng = StdRng::seed_from_u64(1);
    let (store, fs) = open_quietly(disk);
    for number in 0..FILES {
        make(&fs, &name(number)).unwrap();
    }
    sync(&fs).unwrap();
    if with_snapshot {
        store.alter(move |meta| meta.create_snapshot(1, &snapshot("s", 0))).unwrap();
    }
    disk.fill(true);
    // What takes room is refused before so much waits for the disk that nothing goes any more.
    let empty = |number: usize| {
        let made = fs.make(ROOT_INO, &name(FILES + number), &FILE, Caller::ROOT);
        made.map(|attr| fs.forget(attr.ino, 1))
    };
    let mut refused = 0;
    while empty(refused).is_ok() {
        refused += 1;
        assert!(refused < 50_000, "a full disk takes files without end");
    }
    sync(&fs).unwrap();
    assert_eq!(make(&fs, b"another"), Err(FsError::NoSpace));
    let there = names(&fs);
    assert!(there >= FILES + refused, "{there} {refused}");
    // Not all of them one by one: that takes its time.
    for number in 100..refused {
        fs.unlink(ROOT_INO, &name(FILES + number)).unwrap();
    }
    let there = names(&fs);
    for number in 0..there {
        let mut first = None;
        fs.readdir(ROOT_INO, 0, |entry| {
            if !entry.name.starts_with(b".") && first.is_none() {
                first = Some(entry.name.to_vec());
            }
            true
        })
        .unwrap();
        fs.unlink(ROOT_INO, &first.unwrap()).unwrap_or_else(|e| panic!("file {number} of {there}: {e:?}"));
        if number % 97 == 50 {
            assert_eq!(found(&disk.after_kill()), there - number - 1);
            sync(&fs).unwrap();
            assert_eq!(found(&disk.after_power_loss(Survives::Nothing, &mut rng)), there - number - 1);
        }
    }
    sync(&fs).unwrap();
    assert!(store.health().is_good());
    fs.forget_all();
    store.close().unwrap();
    check_disk(disk);
    assert_eq!(found(disk), 0);
    // It goes on as soon as there is room.
    disk.fill(false);
    let (store, fs) = open_quietly(disk);
    make(&fs, b"again").unwrap();
    sync(&fs).unwrap();
    fs.forget_all();
    store.close().unwrap();
    check_disk(disk);
}

#[test]
fn what_is_there_can_be_deleted() {
    deletes_everything_on_a_full_disk(&new_disk(None, None), false);
}

#[test]
fn what_a_snapshot_has_can_be_deleted() {
    deletes_everything_on_a_full_disk(&new_disk(None, None), true);
}

#[test]
fn what_is_encrypted_can_be_deleted() {
    deletes_everything_on_a_full_disk(&new_encrypted_disk(None, None), false);
}

/// A snapshot with a label of so many bytes.
fn snapshot(name: &str, label: usize) -> NewSnapshot {
    let labels = [("label".to_owned(), "x".repeat(label))].into();
    NewSnapshot { name: name.into(), labels, created: 1 }
}

/// Files in the tests of what is reclaimed.
const MANY: usize = 4000;

/// Sets an attribute of every file that the store knows under a name.
fn set_all(fs: &Fs, seed: u64) {
    for number in 0..MANY {
        let ino = fs.lookup(ROOT_INO, &name(number)).unwrap().ino;
        let value = pattern(700, seed + number as u64);
        fs.setxattr(ino, b"user.b", &value, XattrFlags::default(), Caller::ROOT).unwrap();
        fs.forget(ino, 1);
    }
}

/// `change` leads to rows that only what `remove` takes away sees, scattered among others; that happens in a store that was just
/// opened, and has no more room than such a one.
fn gives_back_on_a_full_disk(change: impl FnOnce(&Arc<OpenStore>, &Fs), remove: impl Fn(&OpenStore)) {
    let disk = new_disk(None, None);
    let (store, fs) = open_quietly(&disk);
    for number in 0..MANY {
        fs.make(ROOT_INO, &name(number), &FILE, Caller::ROOT).map(|attr| fs.forget(attr.ino, 1)).unwrap();
    }
    set_all(&fs, 0);
    change(&store, &fs);
    sync(&fs).unwrap();
    fs.forget_all();
    store.close().unwrap();
    let (store, fs) = open_quietly(&disk);
    disk.fill(true);
    remove(&store);
    // Others go on meanwhile.
    for number in 0..50 {
        fs.unlink(ROOT_INO, &name(number)).unwrap();
    }
    let left = MANY - 50;
    await_reclaim(&store);
    sync(&fs).unwrap();
    assert!(store.health().is_good());
    let after_power_loss = disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(2));
    assert_eq!(found(&after_power_loss), left);
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
    let (store, fs) = open_quietly(&disk);
    assert_eq!(names(&fs), left);
    assert!(!store.meta().inspector().unwrap().has_leftovers(), "the next open finds nothing left to do");
    fs.forget_all();
    store.close().unwrap();
}

#[test]
fn what_a_snapshot_held_is_given_back_while_the_disk_is_full() {
    let change = |store: &Arc<OpenStore>, fs: &Fs| {
        store.alter(move |meta| meta.create_snapshot(1, &snapshot("s", 0))).unwrap();
        set_all(fs, 10_000);
    };
    gives_back_on_a_full_disk(change, |store| {
        let id = store.meta().snapshot(1, "s").unwrap().unwrap().id;
        store.alter_in_place(move |meta| meta.remove_snapshot(id)).unwrap();
    });
}

#[test]
fn what_a_volume_held_is_given_back_while_the_disk_is_full() {
    let change = |store: &Arc<OpenStore>, _: &Fs| {
        let new = NewClone {
            name: "clone".into(),
            limits: Limits::default(),
            labels: Default::default(),
            created: Timestamp::now(),
            uid: None,
            gid: None,
            permissions: None,
        };
        let clone = store.alter(move |meta| meta.create_clone(1, &new)).unwrap();
        let clone = fs_of(store, clone);
        set_all(&clone, 10_000);
        clone.forget_all();
    };
    gives_back_on_a_full_disk(change, |store| {
        let volumes = store.meta().volumes().unwrap();
        let id = volumes.iter().find(|row| row.name == "clone").unwrap().id;
        store.alter_in_place(move |meta| meta.remove_volume(id)).unwrap();
    });
}

#[test]
fn snapshots_leave_the_room_that_deleting_needs() {
    let disk = new_disk(None, None);
    let (store, fs) = open_quietly(&disk);
    for number in 0..FILES {
        make(&fs, &name(number)).unwrap();
    }
    sync(&fs).unwrap();
    disk.fill(true);
    let refused = (0..2000).find_map(|number| {
        let new = snapshot(&format!("s{number}"), 20_000);
        store.alter(move |meta| meta.create_snapshot(1, &new)).err()
    });
    assert!(matches!(refused, Some(AlterError::Sync(SyncError::NoSpace))), "{refused:?}");
    for number in 0..FILES {
        fs.unlink(ROOT_INO, &name(number)).unwrap_or_else(|e| panic!("file {number}: {e:?}"));
    }
    sync(&fs).unwrap();
    let snapshots = store.meta().snapshots().unwrap();
    for snapshot in snapshots {
        store.alter_in_place(move |meta| meta.remove_snapshot(snapshot.id)).unwrap();
    }
    await_reclaim(&store);
    sync(&fs).unwrap();
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
    assert_eq!(found(&disk), 0);
}

/// Somebody else takes all there is, to the last byte.
fn fill(disk: &Path, name: &str) {
    let script = format!(
        "for size in 1M 4k 1k; do dd if=/dev/zero of={name}.$size bs=$size 2>/dev/null || true; done"
    );
    shell(disk, &script);
}

/// A volume whose metadata nobody has limited takes the disk, and somebody else the rest.
#[test]
fn volumes_of_a_full_disk_can_be_emptied_and_mounted_again() {
    let disk = SmallDisk::new(96);
    let host = Host::with_root(disk.path().join("root"));
    let greedy = host.volume("greedy", &["--size", "10M", "--inodes", "none", "--metadata", "none"]);
    let other = host.volume("other", &["--size", "20M"]);
    for i in 0..50 {
        fs::write(other.join(i.to_string()), pattern(100_000, i)).unwrap();
    }
    shell(&other, "sync .");
    shell(
        &greedy,
        "python3 -c \"import os
try:
    for i in map(str, range(100000)):
        os.close(os.open(i, os.O_CREAT))
        os.setxattr(i, 'user.a', os.urandom(60000))
except OSError as e: assert e.errno == 28, e
else: assert False\"",
    );
    fill(disk.path(), "one");
    // Some room is kept already.
    let refused = (0..100_000).find_map(|i| fs::create_dir(greedy.join(format!("d{i}"))).err());
    assert_eq!(refused.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    shell(&other, "rm 1 2 3; sync .");
    shell(&greedy, "rm 1 2 3; sync .");
    host.umount("greedy");
    host.umount("other");
    fill(disk.path(), "two");
    let (greedy, other) = (host.mount("greedy", &[]), host.mount("other", &[]));
    shell(&greedy, "find . -mindepth 1 -delete; sync .");
    assert_eq!(shell(&greedy, "ls"), "");
    shell(&other, "find . -type f -delete; sync .");
    host.umount("greedy");
    host.umount("other");
    fill(disk.path(), "three");
    let other = host.mount("other", &[]);
    host.ok(&["rm", "greedy", "--force"]);
    fs::remove_file(disk.path().join("one.1M")).unwrap();
    fs::write(other.join("new"), "data").unwrap();
    succeed(Command::new("sync").arg(other.join("new")));
    host.umount("other");
    host.check("other");
}

/// The new header takes a block, and has it from what the store keeps for itself.
#[test]
fn a_store_of_an_earlier_version_can_be_mounted_on_a_full_disk() {
    let disk = SmallDisk::new(96);
    let host = Host::with_root(disk.path().join("root"));
    let dir = host.volume("v", &[]);
    for i in 0..20 {
        fs::write(dir.join(i.to_string()), pattern(100_000, i)).unwrap();
    }
    host.umount("v");
    let store = OsDir::new(host.store("v"));
    let mut header = Header::read(&store).unwrap();
    header.features.remove(&Feature::UnnamedFiles);
    header.replace(&store).unwrap();
    fill(disk.path(), "one");
    assert!(fs::write(disk.path().join("more"), "x").is_err(), "the disk is full");
    let dir = host.mount("v", &[]);
    assert!(!Header::read(&store).unwrap().is_older());
    shell(&dir, "find . -type f -delete; sync .");
    host.umount("v");
    host.check("v");
}

/// It could not be claimed, and left a sign of life each time that it was tried.
#[test]
fn a_volume_with_a_remote_is_mounted_on_a_full_disk() {
    let disk = SmallDisk::new(96);
    let (host, other) = (Host::with_root(disk.path().join("root")), Host::plain());
    let objects = other.dir("objects").join("db");
    let url = format!("file://{}", objects.display());
    let here = host.volume("db", &["--size", "20M", "--remote", &url]);
    fs::write(here.join("f"), pattern(100_000, 1)).unwrap();
    host.ok(&["remote", "sync", "db"]);
    host.umount("db");
    for keeps_room in [true, false] {
        if !keeps_room {
            fs::remove_file(host.store("db").join(".remote.json.new")).unwrap();
        }
        fill(disk.path(), if keeps_room { "one" } else { "two" });
        let here = host.mount("db", &[]);
        assert!(fs::read(here.join("f")).unwrap() == pattern(100_000, 1));
        if keeps_room {
            host.ok(&["remote", "sync", "db"]);
        }
        host.umount("db");
        let signs = fs::read_dir(objects.join("alive")).map_or(0, Iterator::count);
        assert_eq!(signs, 0, "it has said goodbye, or claimed nothing");
        other.ok(&["attach", &url, "elsewhere"]);
        assert!(fs::read(other.mount("elsewhere", &[]).join("f")).unwrap() == pattern(100_000, 1));
        other.umount("elsewhere");
        other.ok(&["rm", "--now", "--force", "--keep-remote", "elsewhere"]);
        if keeps_room {
            // The other one had it since.
            host.ok(&["rm", "--now", "--force", "--keep-remote", "db"]);
            for size in ["1M", "4k", "1k"] {
                fs::remove_file(disk.path().join(format!("one.{size}"))).unwrap();
            }
            host.ok(&["attach", &url, "db"]);
            host.mount("db", &[]);
            host.ok(&["remote", "sync", "db"]);
            assert!(fs::read(host.mountpoint("db").join("f")).unwrap() == pattern(100_000, 1));
            host.umount("db");
        }
    }
}
