//! Changes of the family on a disk that fails: each has happened and is said to have, or nothing of it has.

use crate::disk::{Access, Disk, Fault, Survives};
use crate::model::harness::{await_reclaim, check_disk, keys_of, new_disk, new_encrypted_disk, recover};
use crate::model::view::{self, View};
use crate::support::pattern;
use larder::fs::{
    Caller, Fs, FsError, FsOptions, Ino, Kind, NewNode, Node, Place, ROOT_INO, ViewChange, Views, Wait,
    WriteMode,
};
use larder::meta::{Limits, NewClone, NewSnapshot, Timestamp, VolumeId};
use larder::open_store::{AlterError, OpenStore, StoreOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FILE: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };

/// A change of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Snapshot,
    RemoveSnapshot,
    Clone,
    Rollback,
    Resize,
    RemoveVolume,
    SnapshotAll,
    RenameSnapshot,
    RenameVolume,
    Hold,
    Release,
}

const CHANGES: [Change; 11] = [
    Change::Snapshot,
    Change::RemoveSnapshot,
    Change::Clone,
    Change::Rollback,
    Change::Resize,
    Change::RemoveVolume,
    Change::SnapshotAll,
    Change::RenameSnapshot,
    Change::RenameVolume,
    Change::Hold,
    Change::Release,
];

/// A store in use: the volume, a file of it and one of its snapshot, as the kernel knows them.
struct Ground {
    disk: Disk,
    store: Arc<OpenStore>,
    fs: Arc<Fs>,
    views: Views,
    file: Node,
    in_snapshot: Node,
    /// What is said of the views to whoever takes over.
    said: Arc<Mutex<Vec<ViewChange>>>,
    snapshot: VolumeId,
    held: VolumeId,
    clone: VolumeId,
}

fn snapshot(name: &str) -> NewSnapshot {
    NewSnapshot { name: name.to_owned(), labels: Default::default(), created: 1 }
}

fn clone(name: &str) -> NewClone {
    NewClone {
        name: name.to_owned(),
        limits: Limits::default(),
        labels: Default::default(),
        created: Timestamp { sec: 1, nsec: 0 },
        uid: Some(7),
        gid: None,
        permissions: None,
    }
}

fn open(disk: &Disk) -> Arc<OpenStore> {
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_secs(3600),
        ..StoreOptions::default()
    };
    OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(disk).unwrap(), options).unwrap()
}

/// A store with a volume, a snapshot of it and a clone.
fn prepared(disk: Disk) -> Disk {
    let store = open(&disk);
    let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
    for i in 0..10 {
        let ino = fs.make(ROOT_INO, format!("f{i}").as_bytes(), &FILE, Caller::ROOT).unwrap().ino;
        fs.write(ino, 0, &pattern(5000, i), WriteMode::default()).unwrap();
    }
    store.alter(|meta| meta.create_snapshot(1, &snapshot("old"))).unwrap();
    store.alter(|meta| meta.create_clone(1, &clone("c"))).unwrap();
    let held = store.alter(|meta| meta.create_snapshot(1, &snapshot("held"))).unwrap().id;
    store.begin_holds().unwrap();
    store.alter(move |meta| meta.hold(held, "old", 1)).unwrap();
    let ino = fs.lookup(ROOT_INO, b"f0").unwrap().ino;
    fs.write(ino, 0, &pattern(9000, 100), WriteMode::default()).unwrap();
    fs.unlink(ROOT_INO, b"f1").unwrap();
    fs.forget_all();
    await_reclaim(&store);
    store.close().unwrap();
    disk
}

impl Ground {
    fn new(base: &Disk) -> Self {
        let disk = base.after_kill();
        let store = open(&disk);
        let fs = Arc::new(Fs::new(Arc::clone(&store), 1, FsOptions::default()));
        let said: Arc<Mutex<Vec<ViewChange>>> = Arc::default();
        let keep = Arc::clone(&said);
        let keep = Box::new(move |change| keep.lock().unwrap().push(change));
        let views = Views::new(Arc::clone(&fs), true, (&[], 0), keep);
        // Something that is not committed yet.
        let file = fs.lookup(ROOT_INO, b"f0").unwrap().ino;
        fs.write(file, 4096, &pattern(5000, 200), WriteMode::default()).unwrap();
        let root = views.lookup_snapshot(b"old").unwrap().ino;
        let Place::Inode(at) = views.place(root).unwrap() else { panic!() };
        let in_snapshot = at.node(at.fs.lookup(ROOT_INO, b"f0").unwrap().ino);
        let by_name = |name: &str| store.meta().snapshot(1, name).unwrap().unwrap().id;
        let (snapshot, held) = (by_name("old"), by_name("held"));
        let clone = store.meta().volumes().unwrap().iter().find(|row| row.name == "c").unwrap().id;
        Self { disk, store, fs, views, file, in_snapshot, said, snapshot, held, clone }
    }

    fn change(&self, change: Change) -> Result<(), String> {
        let (snapshot_id, held_id, clone_id) = (self.snapshot, self.held, self.clone);
        let store = &self.store;
        let done = match change {
            Change::Snapshot => store.alter(|meta| meta.create_snapshot(1, &snapshot("new"))).map(drop),
            Change::RemoveSnapshot => store.alter(move |meta| meta.remove_snapshot(snapshot_id)),
            Change::Clone => store.alter(|meta| meta.create_clone(1, &clone("d"))).map(drop),
            Change::Rollback => {
                let roll_back = || store.alter(move |meta| meta.rollback(snapshot_id, &snapshot("before")));
                self.views.replace(roll_back).map(drop)
            }
            Change::Resize => store.alter(|meta| {
                meta.resize(1, Limits { blocks: Some(1000), inodes: Some(500), ..Limits::default() })
            }),
            Change::RemoveVolume => store.alter(move |meta| meta.remove_volume(clone_id)),
            Change::SnapshotAll => store.alter(move |meta| {
                meta.create_snapshots(&[(1, snapshot("new")), (clone_id, snapshot("new"))])
            }),
            Change::RenameSnapshot => store.alter(move |meta| meta.rename_snapshot(snapshot_id, "new")),
            Change::RenameVolume => store.alter(move |meta| meta.rename_volume(clone_id, "new")),
            // The header says before that there are some.
            Change::Hold => match store.begin_holds() {
                Ok(()) => store.alter(move |meta| meta.hold(snapshot_id, "new", 1)),
                Err(e) => return Err(e.to_string()),
            },
            Change::Release => store.alter(move |meta| meta.release(held_id, "old")),
        };
        done.map_err(|e| e.to_string())
    }

    fn head(&self) -> u64 {
        self.store.meta().volumes().unwrap().iter().find(|row| row.id == 1).unwrap().head
    }

    /// What was said of rollbacks.
    fn said(&self) -> Vec<ViewChange> {
        let said = self.said.lock().unwrap().clone();
        said.into_iter().filter(|change| matches!(change, ViewChange::Live | ViewChange::Undone)).collect()
    }

    fn read(&self, node: Node) -> Result<Vec<u8>, FsError> {
        let Place::Inode(at) = self.views.place(node)? else { panic!() };
        let mut bytes = vec![0; at.fs.getattr(at.ino)?.size as usize];
        at.fs.read(at.ino, 0, &mut bytes, Wait::Yes)?;
        Ok(bytes)
    }

    fn seen(&self) -> View {
        view::of_store(&self.store)
    }

    /// The contents of the files that the kernel knows.
    fn known(&self) -> [Result<Vec<u8>, FsError>; 2] {
        [self.read(self.file), self.read(self.in_snapshot)]
    }

    /// It goes on taking changes, once there is room.
    fn goes_on(&self) -> Ino {
        let made = self.fs.make(ROOT_INO, b"later", &FILE, Caller::ROOT).unwrap();
        self.fs.write(made.ino, 0, b"later", WriteMode::default()).unwrap();
        made.ino
    }
}

/// What a change leads to where nothing fails.
fn expected(base: &Disk, change: Change) -> View {
    let ground = Ground::new(base);
    ground.change(change).unwrap();
    let seen = ground.seen();
    ground.store.close().unwrap();
    seen
}

/// Makes a change on a disk that fails; false if the fault never struck.
fn fails(base: &Disk, change: Change, fault: Fault, expected: &View) -> bool {
    let what = format!("{change:?}, {fault:?}");
    let is_lasting = fault.is_lasting();
    let ground = Ground::new(base);
    let (before, known, head) = (ground.seen(), ground.known(), ground.head());
    ground.disk.inject(fault);
    let result = ground.change(change);
    let is_good = ground.store.health().is_good();
    let struck = ground.disk.has_failed();
    assert!(result.is_ok() || struck, "{what}: {result:?}");
    let now = ground.seen();
    let killed = recover(&ground.disk.after_kill());
    let mut rng = StdRng::seed_from_u64(1);
    let dark = recover(&ground.disk.after_power_loss(Survives::Nothing, &mut rng));
    match &result {
        Ok(()) => {
            assert!(now == *expected, "{what}: it is said to have happened");
            assert!(killed == *expected && dark == *expected, "{what}: it was not durable");
            if change == Change::Rollback {
                assert_eq!(ground.said(), [ViewChange::Live], "{what}");
                assert_eq!(ground.read(ground.file), Err(FsError::Stale), "{what}");
            }
        }
        Err(e) if is_good => {
            assert!(now == before && ground.known() == known, "{what}: {e}, and half of it has happened");
            assert!(killed == before, "{what}: {e}, and it has happened for the next process");
            assert!(dark != *expected, "{what}: {e}, and it has happened after a power cut");
            if change == Change::Rollback {
                assert_eq!(ground.said(), [ViewChange::Live, ViewChange::Undone], "{what}");
            }
            if !is_lasting {
                ground.change(change).unwrap();
                assert!(ground.seen() == *expected, "{what}: a second try leads to something else");
                ground.goes_on();
                let disk = ground.disk.after_kill();
                assert!(recover(&disk) == ground.seen(), "{what}: what came after it is lost");
            }
        }
        Err(e) => {
            let is_one = |found: &View| *found == before || found == expected;
            assert!(is_one(&killed), "{what}: half of it has happened for the next process");
            assert!(killed == before || e.contains("not known"), "{what}: {e}, and it has happened");
            if change == Change::Rollback {
                assert_eq!(ground.said(), [ViewChange::Live], "{what}: more is said than is known");
                let next = open(&ground.disk.after_kill());
                let goes_on = next.meta().goes_on_from(1, head).unwrap();
                assert_eq!(goes_on, killed == before, "{what}: the next process does not find out");
                let _ = next.close();
                // Nothing comes in between, for which the next process would have another number.
                assert!(ground.change(change).is_err() && ground.said() == [ViewChange::Live], "{what}");
            }
        }
    }
    ground.views.forget_all();
    if struck && is_good && !is_lasting {
        await_reclaim(&ground.store);
    }
    let closed = ground.store.close();
    if struck && is_good && !is_lasting {
        closed.unwrap();
        check_disk(&ground.disk);
    }
    struck
}

fn every(base: &Disk, access: Access, errno: i32) {
    for change in CHANGES {
        let expected = expected(base, change);
        let mut struck = 0;
        for spared in 0.. {
            let once = Fault::once(access, |_| true, errno, spared);
            let lasting = Fault::from(access, |_| true, errno, spared);
            if !fails(base, change, once, &expected) && !fails(base, change, lasting, &expected) {
                break;
            }
            struck += 1;
        }
        assert!(
            struck > 0 || !matches!(access, Access::Write | Access::Sync),
            "{change:?} needs no {access:?}"
        );
    }
}

#[test]
fn a_change_of_the_family_on_a_full_disk_has_happened_or_has_not() {
    let base = prepared(new_disk(None, None));
    for access in [Access::Write, Access::Reserve, Access::Create] {
        every(&base, access, libc::ENOSPC);
    }
}

#[test]
fn a_change_of_the_family_of_an_encrypted_store_on_a_full_disk_has_happened_or_has_not() {
    every(&prepared(new_encrypted_disk(None, None)), Access::Write, libc::ENOSPC);
}

#[test]
fn a_change_of_the_family_on_a_failing_disk_has_happened_or_has_not() {
    let base = prepared(new_disk(None, None));
    for access in [Access::Write, Access::Sync, Access::SyncDir] {
        every(&base, access, libc::EIO);
    }
    every(&base, Access::Sync, libc::ENOSPC);
}

#[test]
fn a_change_that_comes_when_the_store_is_closed_has_not_happened_and_says_so() {
    let disk = prepared(new_disk(None, None));
    let store = open(&disk);
    store.close().unwrap();
    let made = store.alter(|meta| meta.create_snapshot(1, &snapshot("late")));
    // Whoever asked opens the store itself then, rather than to be told that nobody knows.
    assert!(matches!(made, Err(AlterError::Closing)), "{made:?}");
}
