//! A host disk that fails: every write, sync, truncation, hole, creation and removal in turn, with EIO and with ENOSPC.
//!
//! Whatever fails: the caller who was owed the error gets it; a sync that says it succeeded did; a store that cannot keep its
//! promises any more takes no changes and says why; and the next open finds a state that once was.

mod waiting;

use crate::disk::{Access, Disk, Fault, Survives};
use crate::model::harness::{await_reclaim, check_disk, keys_of, new_disk, new_encrypted_disk};
use crate::support::pattern;
use larder::fs::{
    Caller, Fs, FsError, FsOptions, Kind, NewNode, ROOT_INO, SetAttr, SyncError, Wait, WriteMode,
};
use larder::meta::{Limits, NewClone, NewSnapshot, Timestamp};
use larder::open_store::{OpenStore, StoreOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Files by name.
type Tree = BTreeMap<String, Vec<u8>>;

const FILE: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
/// Steps of a workload.
const STEPS: u64 = 60;

fn open(disk: &Disk) -> Result<(Arc<OpenStore>, Fs), String> {
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_secs(3600),
        ..StoreOptions::default()
    };
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(disk)?, options)
        .map_err(|e| e.to_string())?;
    let volume = store.meta().volumes().map_err(|e| e.to_string())?[0].id;
    Ok((Arc::clone(&store), Fs::new(store, volume, FsOptions::default())))
}

fn tree(fs: &Fs) -> Tree {
    let mut names = Vec::new();
    fs.readdir(ROOT_INO, 0, |entry| {
        names.push(entry.name.to_vec());
        true
    })
    .unwrap();
    names.retain(|name| !name.starts_with(b"."));
    let read = |name: &[u8]| {
        let attr = fs.lookup(ROOT_INO, name).unwrap();
        let mut bytes = vec![0; attr.size as usize];
        assert_eq!(fs.read(attr.ino, 0, &mut bytes, Wait::Yes).unwrap(), bytes.len());
        fs.forget(attr.ino, 1);
        bytes
    };
    names.iter().map(|name| (String::from_utf8(name.clone()).unwrap(), read(name))).collect()
}

/// What is found on a disk by the next process; the store is sound then.
fn found(disk: &Disk) -> Tree {
    let (store, fs) = open(disk).unwrap();
    let found = tree(&fs);
    fs.forget_all();
    await_reclaim(&store);
    store.close().unwrap();
    check_disk(disk);
    found
}

fn sync(fs: &Fs) -> Result<(), SyncError> {
    let (send, receive) = std::sync::mpsc::channel();
    fs.sync(Box::new(move |result| send.send(result).unwrap()));
    receive.recv().unwrap()
}

/// One change, and what the tree is after it.
fn step(fs: &Fs, before: &Tree, number: u64, rng: &mut StdRng) -> (Result<(), FsError>, Tree) {
    let name = format!("f{}", rng.random_range(0..6));
    let mut after = before.clone();
    let Some(old) = before.get(&name) else {
        after.insert(name.clone(), Vec::new());
        let made = fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT);
        return (made.map(|attr| fs.forget(attr.ino, 1)), after);
    };
    let ino = match fs.lookup(ROOT_INO, name.as_bytes()) {
        Ok(attr) => attr.ino,
        Err(e) => return (Err(e), after),
    };
    let result = match rng.random_range(0..6) {
        0 => {
            after.remove(&name);
            fs.unlink(ROOT_INO, name.as_bytes())
        }
        1 => {
            let bytes = after.remove(&name).unwrap();
            after.insert("moved".into(), bytes);
            fs.rename((ROOT_INO, name.as_bytes()), (ROOT_INO, b"moved"), larder::fs::RenameMode::Replace)
        }
        2 => {
            let size = rng.random_range(0..30_000);
            after.get_mut(&name).unwrap().resize(size, 0);
            let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
            fs.setattr(ino, &set, Caller::ROOT).map(|_| ())
        }
        _ => {
            let offset = rng.random_range(0..40_000);
            // Now and then more than a sync copies into the redo log.
            let len = if number.is_multiple_of(11) { 400_000 } else { rng.random_range(1..9_000) };
            let data = pattern(len, number);
            let mut bytes = old.clone();
            bytes.resize(bytes.len().max(offset + data.len()), 0);
            bytes[offset..offset + data.len()].copy_from_slice(&data);
            after.insert(name.clone(), bytes);
            fs.write(ino, offset as u64, &data, WriteMode::default()).map(|_| ())
        }
    };
    fs.forget(ino, 1);
    (result, after)
}

/// Makes a snapshot or a clone, or removes the oldest snapshot; whether that succeeded.
fn change_family(store: &OpenStore, number: u64) -> bool {
    let created = Timestamp { sec: number as i64, nsec: 0 };
    let labels = Default::default;
    if number % 11 == 6 {
        let oldest = store.meta().snapshots().unwrap().first().map(|row| row.id);
        return oldest.is_none_or(|id| store.alter(move |meta| meta.remove_snapshot(id)).is_ok());
    }
    if number.is_multiple_of(2) {
        let new = NewSnapshot { name: format!("s{number}"), labels: labels(), created: number };
        return store.alter(move |meta| meta.create_snapshot(1, &new)).is_ok();
    }
    let new = NewClone {
        name: format!("c{number}"),
        limits: Limits::default(),
        labels: labels(),
        created,
        uid: None,
        gid: None,
        permissions: None,
    };
    store.alter(move |meta| meta.create_clone(1, &new)).is_ok()
}

/// The states of a run and the last that must not be lost.
struct States {
    all: Vec<Tree>,
    synced: usize,
}

impl States {
    #[track_caller]
    fn must_hold(&self, what: &str, found: &Tree, also: Option<&Tree>) {
        let known = self.all[self.synced..].contains(found) || also == Some(found);
        let lens = |tree: &Tree| tree.iter().map(|(n, b)| format!("{n}: {}", b.len())).collect::<Vec<_>>();
        assert!(
            known,
            "{what}: {:?} is no state since the last sync: {:?} ... {:?}",
            lens(found),
            lens(&self.all[self.synced]),
            lens(self.all.last().unwrap())
        );
    }
}

/// What became of a run.
struct Ran {
    /// The fault struck.
    struck: bool,
    /// Blocks that waited in memory before they went to their segment.
    waited: u64,
}

/// Runs a workload on a disk that fails.
fn run(base: &Disk, fault: Fault, seed: u64) -> Ran {
    let disk = base.after_kill();
    disk.inject(fault.clone());
    let what = format!("{fault:?}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut states = States { all: vec![Tree::new()], synced: 0 };
    let Ok((store, fs)) = open(&disk) else {
        // A store that cannot be opened is opened when the disk has recovered.
        assert!(disk.has_failed(), "{what}");
        states.must_hold(&what, &found(&disk.after_kill()), None);
        return Ran { struck: true, waited: 0 };
    };
    let mut refused = None;
    for number in 0..STEPS {
        let before = states.all.last().unwrap().clone();
        if number % 5 == 4 {
            let point = states.all.len() - 1;
            match sync(&fs) {
                Ok(()) => {
                    states.synced = point;
                    let left = disk.after_power_loss(Survives::Nothing, &mut rng);
                    states.must_hold(&what, &found(&left), None);
                }
                Err(_) => assert!(disk.has_failed(), "{what}"),
            }
            continue;
        }
        if number % 7 == 3 || number % 11 == 6 {
            // Neither what succeeds nor what fails changes what is in the volume.
            let changed = change_family(&store, number);
            assert!(changed || disk.has_failed(), "{what}");
            if !store.health().is_good() {
                break;
            }
            assert!(tree(&fs) == before, "{what}: a change of the family changed the volume");
            continue;
        }
        let (result, after) = step(&fs, &before, number, &mut rng);
        match result {
            Ok(()) => {
                assert!(store.health().is_good() || disk.has_failed(), "{what}");
                states.all.push(after);
            }
            Err(e) => {
                assert!(disk.has_failed(), "{what}: {e:?}");
                assert!(matches!(e, FsError::Io | FsError::NoSpace | FsError::ReadOnly), "{what}: {e:?}");
                if !store.health().is_good() {
                    refused = Some(after);
                    break;
                }
                assert!(tree(&fs) == before, "{what}: a refused change changed something");
            }
        }
    }
    finish(&what, &disk, &store, &fs, &mut states, refused.as_ref(), &mut rng);
    Ran { struck: disk.has_failed(), waited: store.segments().deferred_blocks() }
}

/// What holds at the end of a run, whatever failed in it.
fn finish(
    what: &str,
    disk: &Disk,
    store: &OpenStore,
    fs: &Fs,
    states: &mut States,
    refused: Option<&Tree>,
    rng: &mut StdRng,
) {
    let point = states.all.len() - 1;
    let last = sync(fs);
    if !store.health().is_good() {
        assert!(store.health().reason().is_some(), "{what}");
        assert!(last.is_err() && sync(fs).is_err(), "{what}: a sync succeeded after one had failed");
        let made = fs.make(ROOT_INO, b"late", &FILE, Caller::ROOT);
        assert_eq!(made.unwrap_err(), FsError::ReadOnly, "{what}");
    } else if last.is_ok() {
        states.synced = point;
    }
    let killed = disk.after_kill();
    let dark = disk.after_power_loss(Survives::Some, rng);
    fs.forget_all();
    let _ = store.close();
    states.must_hold(what, &found(&killed), refused);
    states.must_hold(what, &found(&dark), refused);
    states.must_hold(what, &found(&disk.after_kill()), refused);
}

fn everything(_: &str) -> bool {
    true
}

/// Lets the first, second, ... access of a kind fail, until a run has fewer of them.
fn every(access: Access, errno: i32, step: u32) {
    every_on(&new_disk(None, None), access, errno, step);
}

fn every_on(base: &Disk, access: Access, errno: i32, step: u32) {
    let (mut struck, mut waited) = (0, 0);
    for spared in (0..).step_by(step as usize) {
        let one = run(base, Fault::once(access, everything, errno, spared), u64::from(spared));
        let all = run(base, Fault::from(access, everything, errno, spared), u64::from(spared));
        waited += one.waited;
        if !one.struck && !all.struck {
            break;
        }
        struck += 1;
    }
    assert!(waited > 0, "no block waited for its segment in any run");
    assert!(struck > 0, "no access of that kind was made");
}

#[test]
fn writes_fail() {
    every(Access::Write, libc::EIO, 3);
}

#[test]
fn writes_find_the_disk_full() {
    every(Access::Write, libc::ENOSPC, 3);
}

#[test]
fn syncs_fail() {
    every(Access::Sync, libc::EIO, 1);
}

#[test]
fn syncs_find_the_disk_full() {
    every(Access::Sync, libc::ENOSPC, 1);
}

#[test]
fn directory_syncs_fail() {
    every(Access::SyncDir, libc::EIO, 1);
}

#[test]
fn truncations_fail() {
    every(Access::SetLen, libc::EIO, 1);
}

#[test]
fn holes_cannot_be_punched() {
    every(Access::Punch, libc::EIO, 1);
}

#[test]
fn space_cannot_be_reserved() {
    every(Access::Reserve, libc::ENOSPC, 1);
    every(Access::Reserve, libc::EIO, 1);
}

#[test]
fn files_cannot_be_made() {
    every(Access::Create, libc::EIO, 1);
    every(Access::Create, libc::ENOSPC, 1);
}

#[test]
fn files_cannot_be_removed() {
    every(Access::Remove, libc::EIO, 1);
}

#[test]
fn an_encrypted_store_on_a_disk_that_fails() {
    let base = new_encrypted_disk(None, None);
    every_on(&base, Access::Write, libc::EIO, 8);
    every_on(&base, Access::Write, libc::ENOSPC, 8);
    every_on(&base, Access::Sync, libc::EIO, 3);
    every_on(&base, Access::SetLen, libc::EIO, 1);
}

fn is_log(name: &str) -> bool {
    name.starts_with("redo")
}

fn is_segment(name: &str) -> bool {
    name.starts_with("segments/")
}

#[test]
fn on_a_full_disk_the_redo_log_goes_on_without_the_blocks_it_has_no_room_for() {
    // A quota that is used up is as a full disk.
    for (base, errno) in
        [(new_disk(None, None), libc::EDQUOT), (new_encrypted_disk(None, None), libc::ENOSPC)]
    {
        let disk = base.after_kill();
        let (store, fs) = open(&disk).unwrap();
        let mut tree = Tree::new();
        let mut make = |name: String| {
            fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT).unwrap();
            tree.insert(name, Vec::new());
        };
        (0..3).for_each(|i| make(format!("before{i}")));
        // There is no room for more than the log has already, nor for a commit.
        disk.inject(Fault::from(Access::Reserve, is_log, errno, 0));
        disk.inject(Fault::from(Access::Write, |name| name == "meta.db-wal", errno, 0));
        let ino = fs.lookup(ROOT_INO, b"before0").unwrap().ino;
        fs.write(ino, 0, &pattern(9000, 1), WriteMode::default()).unwrap();
        assert_eq!(sync(&fs), Err(SyncError::NoSpace));
        (0..3).for_each(|i| make(format!("after{i}")));
        tree.insert("before0".into(), pattern(9000, 1));
        assert!(store.health().is_good());
        assert!(found(&disk.after_kill()) == tree, "something is lost that was done");
        drop(fs);
        let _ = store.close();
    }
}

#[test]
fn who_asks_for_a_sync_while_a_commit_fails_is_not_told_that_it_succeeded() {
    let disk = new_disk(None, None).after_kill();
    let (store, fs) = open(&disk).unwrap();
    let ino = fs.make(ROOT_INO, b"f", &FILE, Caller::ROOT).unwrap().ino;
    sync(&fs).unwrap();
    // More than a sync copies into the redo log.
    fs.write(ino, 0, &pattern(400_000, 1), WriteMode::default()).unwrap();
    disk.inject(Fault::from(Access::Sync, is_segment, libc::EIO, 0));
    let (at_disk, commit) = std::sync::mpsc::channel();
    let (fail, may_fail) = std::sync::mpsc::channel::<()>();
    let may_fail = std::sync::Mutex::new(may_fail);
    disk.watch(move |_, access, name| {
        if access == Access::Sync && is_segment(name) {
            let _ = at_disk.send(());
            let _ = may_fail.lock().unwrap().recv();
        }
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sync(&fs));
        commit.recv().unwrap();
        // The second finds the store in good health, and is held up until the first has failed.
        let meta = store.meta();
        let second = scope.spawn(|| sync(&fs));
        std::thread::sleep(Duration::from_millis(200));
        drop(fail);
        assert_eq!(first.join().unwrap(), Err(SyncError::Failed));
        std::thread::sleep(Duration::from_millis(50));
        drop(meta);
        assert_eq!(second.join().unwrap(), Err(SyncError::Failed));
    });
    let _ = store.close();
}

#[test]
fn what_concurrent_syncs_covered_is_there_however_the_disk_fails() {
    const WRITERS: u64 = 6;
    let faults = [
        (Access::Sync, is_segment as fn(&str) -> bool),
        (Access::Sync, is_log),
        (Access::Sync, |name| name == "meta.db-wal"),
        (Access::Write, is_log),
    ];
    for (round, (access, of)) in faults.into_iter().cycle().take(32).enumerate() {
        let disk = new_disk(None, None).after_kill().uneven();
        let (store, fs) = open(&disk).unwrap();
        disk.inject(Fault::from(access, of, libc::EIO, round as u32));
        let work = &|writer: u64| {
            let mut synced = Vec::new();
            for step in 0..60 {
                let name = format!("{writer}-{step}");
                let Ok(attr) = fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT) else { break };
                // Some of them through the log, some by a commit.
                let len = if (writer + step).is_multiple_of(4) { 300_000 } else { 3000 };
                let data = pattern(len, writer * 1000 + step);
                if fs.write(attr.ino, 0, &data, WriteMode::default()).is_err() {
                    break;
                }
                match sync(&fs) {
                    Ok(()) => synced.push((name, data)),
                    Err(_) => break,
                }
            }
            synced
        };
        let synced: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || work(writer))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(store.health().is_good(), !disk.has_failed());
        let left = disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(round as u64));
        let _ = store.close();
        let found = found(&left);
        for (name, data) in synced {
            assert!(found.get(&name) == Some(&data), "round {round}: {name} was synced and is not there");
        }
    }
}
