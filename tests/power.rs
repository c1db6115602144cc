//! Power cut at every sync and at random writes: what is found afterwards is a state that once was, with everything that
//! a completed fsync covered, sound, and without anybody repairing anything.
//!
//! A workload runs on a simulated disk (`disk`), which is looked at before each sync takes effect: what would survive if
//! the power went now? Each such image is opened and compared with the states the model went through. What one request did is
//! looked at more closely: after a kill at any write, it was done or it was not.

use crate::disk::{Access, Disk, Fault, Survives};
use crate::model::harness::{Harness, new_disk, new_encrypted_disk, open_quietly, recover};
use crate::model::history::{Allowed, History};
use crate::model::operation::{Operation, workload};
use crate::model::reference::{ACCESS_ACL, acl};
use crate::model::view;
use crate::support::pattern;
use larder::fs::{
    AllocateMode, Caller, Fs, Ino, Kind, NewNode, ROOT_INO, RenameMode, SetAttr, WriteMode, XattrFlags,
};
use larder::open_store::OpenStore;
use parking_lot::Mutex;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Workloads a run; `LARDER_POWER_CASES` makes it more.
fn cases() -> u64 {
    std::env::var("LARDER_POWER_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// What the power left at some moment, and the states that may be found in it.
struct Cut {
    disk: Disk,
    allowed: Allowed,
}

/// Where the power is cut, besides at every sync.
const WRITES_CUT: f64 = 0.02;

/// Looks at the disk before each access, and keeps what would survive.
fn watch(disk: &Disk, history: &History, seed: u64) -> Arc<Mutex<Vec<Cut>>> {
    let cuts: Arc<Mutex<Vec<Cut>>> = Arc::default();
    let (kept, history) = (Arc::clone(&cuts), history.clone());
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    disk.watch(move |disk, access, _| {
        let mut rng = rng.lock();
        let wanted = match access {
            Access::Sync | Access::SyncDir => true,
            Access::Write => rng.random_bool(WRITES_CUT),
            _ => false,
        };
        if !wanted {
            return;
        }
        // Read in this order, the states allowed are never fewer than they are when the power goes.
        let first = history.allowed().first;
        let survives = match rng.random_range(0..6) {
            0 => Survives::Nothing,
            1 => Survives::Everything,
            _ => Survives::Some,
        };
        let disk = disk.after_power_loss(survives, &mut rng);
        let last = history.allowed().last;
        kept.lock().push(Cut { disk, allowed: Allowed { first, last } });
    });
    cuts
}

/// A sequence of operations for `seed`.
fn operations(seed: u64) -> Vec<Operation> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(proptest::test_runner::Config::default(), rng);
    workload(60..140).new_tree(&mut runner).unwrap().current()
}

/// The same, with a sync after each write, as a database does it: the store comes to begin syncs by itself.
fn synced_writes(seed: u64) -> Vec<Operation> {
    let with_sync = |operation| match operation {
        Operation::Write { .. } => vec![operation, Operation::Sync],
        _ => vec![operation],
    };
    operations(seed).into_iter().flat_map(with_sync).collect()
}

/// What a run had of what it is for.
#[derive(Default)]
struct Ran {
    cuts: usize,
    /// Blocks that waited in memory before they went to their segment.
    waited: u64,
}

impl Ran {
    fn and(self, other: Self) -> Self {
        Self { cuts: self.cuts + other.cuts, waited: self.waited + other.waited }
    }
}

/// Runs a workload and looks at every cut.
fn run(disk: Disk, seed: u64, limits: (Option<u64>, Option<u64>)) -> Ran {
    run_operations(disk, &operations(seed), seed, limits)
}

fn run_operations(
    disk: Disk,
    operations: &[Operation],
    seed: u64,
    limits: (Option<u64>, Option<u64>),
) -> Ran {
    let mut harness = Harness::on(disk.clone(), limits.0, limits.1);
    let history = harness.history();
    let cuts = watch(&disk, &history, seed);
    harness.steps(operations);
    let cuts = std::mem::take(&mut *cuts.lock());
    let ran = Ran { cuts: cuts.len(), waited: harness.waited_blocks() };
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    for cut in cuts {
        verify(cut, &history, &mut rng);
    }
    harness.finish();
    ran
}

/// Opens what a power cut left. Now and then the power goes again while the store recovers.
fn verify(mut cut: Cut, history: &History, rng: &mut StdRng) {
    while rng.random_bool(0.1) {
        let again: Arc<Mutex<Option<Disk>>> = Arc::default();
        let (kept, at) = (Arc::clone(&again), rng.random_range(0..12u32));
        let seed = rng.random();
        let left = Mutex::new((at, StdRng::seed_from_u64(seed)));
        cut.disk.watch(move |disk, access, _| {
            let mut left = left.lock();
            if matches!(access, Access::Sync | Access::SyncDir | Access::Write | Access::SetLen) {
                if left.0 == 0 {
                    kept.lock().get_or_insert(disk.after_power_loss(Survives::Some, &mut left.1));
                }
                left.0 = left.0.saturating_sub(1);
            }
        });
        history.find(cut.allowed, &recover(&cut.disk));
        let Some(disk) = again.lock().take() else { return };
        cut.disk = disk;
    }
    history.find(cut.allowed, &recover(&cut.disk));
}

#[test]
fn power_is_cut_at_every_sync() {
    let ran = (0..cases()).map(|seed| run(new_disk(None, None), seed, (None, None)));
    let Ran { cuts, waited } = ran.fold(Ran::default(), Ran::and);
    // How many commits fall into a run depends on the machine.
    assert!(cuts as u64 > cases() * 10, "only {cuts} cuts");
    assert!(waited > 0, "no block waited for its segment");
}

#[test]
fn power_is_cut_where_each_write_is_synced() {
    for base in [new_disk, new_encrypted_disk] {
        let ran = (3000..3000 + cases() / 2 + 1)
            .map(|seed| run_operations(base(None, None), &synced_writes(seed), seed, (None, None)));
        let waited = ran.fold(Ran::default(), Ran::and).waited;
        // As many as did not get there before somebody asked for them, which is a matter of time.
        assert!(waited > 0, "no block waited for its segment");
    }
}

#[test]
fn power_is_cut_at_every_sync_of_a_full_volume() {
    let limits = (Some(96), Some(12));
    for seed in 1000..1000 + cases() / 2 {
        run(new_disk(limits.0, limits.1), seed, limits);
    }
}

#[test]
fn power_is_cut_at_every_sync_of_an_encrypted_volume() {
    for seed in 2000..2000 + cases() / 2 {
        run(new_encrypted_disk(None, None), seed, (None, None));
    }
}

/// Whether some workload shows that syncs of these files do nothing.
fn is_found_out(liar: fn(&str) -> bool) -> bool {
    (0..40).any(|seed| {
        let disk = new_disk(None, None).with_liar(liar);
        catch_unwind(AssertUnwindSafe(|| run(disk, seed, (None, None)))).is_err()
    })
}

#[test]
fn data_that_is_not_synced_before_its_metadata_is_found_out() {
    assert!(is_found_out(|name| name.starts_with("segments")));
}

#[test]
fn a_wal_that_is_not_synced_is_found_out() {
    assert!(is_found_out(|name| name == "meta.db-wal"));
}

#[test]
fn a_redo_log_that_is_not_synced_is_found_out() {
    assert!(is_found_out(|name| name.starts_with("redo")));
}

#[test]
fn names_of_segments_that_are_not_synced_are_found_out() {
    assert!(is_found_out(|name| name == "segments"));
}

/// Mounts the volume on a disk, for several threads.
fn mount(disk: &Disk) -> (Arc<OpenStore>, Arc<Fs>) {
    let (store, fs) = open_quietly(disk);
    (store, Arc::new(fs))
}

/// What a program does and syncs while a commit becomes durable.
fn sync_beside_a_commit(disk: &Disk, is_log_whole: bool, changes: bool) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let (store, fs) = mount(disk);
    let make = |fs: &Fs, name: &[u8]| {
        let file = fs.make(ROOT_INO, name, &NEW, Caller::ROOT).unwrap().ino;
        fs.write(file, 0, &pattern(50_000, 1), WriteMode::default()).unwrap();
    };
    make(&fs, b"before");
    if !is_log_whole {
        disk.inject(Fault::once(Access::Write, |name| name.starts_with("redo"), libc::ENOSPC, 0));
        make(&fs, b"not in the log");
    }
    let (send, answers) = std::sync::mpsc::channel();
    let cut: Arc<Mutex<Option<(Disk, view::View)>>> = Arc::default();
    let (kept, beside) = (Arc::clone(&cut), (Arc::clone(&store), Arc::clone(&fs)));
    let is_first = AtomicBool::new(true);
    disk.watch(move |disk, access, name| {
        if (access, name) != (Access::Sync, "meta.db-wal") || !is_first.swap(false, Ordering::Relaxed) {
            return;
        }
        let (store, fs) = &beside;
        if changes {
            make(fs, b"beside");
        }
        let (send, answered) = (send.clone(), std::sync::mpsc::channel());
        store.sync(Box::new(move |result| {
            let _ = (send.send(result), answered.0.send(result));
        }));
        if is_log_whole {
            answered.1.recv_timeout(PATIENCE).expect("nobody waits for the commit").unwrap();
            let mut rng = StdRng::seed_from_u64(1);
            *kept.lock() = Some((disk.after_power_loss(Survives::Nothing, &mut rng), view::of_store(store)));
        }
    });
    store.commit_now().unwrap();
    answers.recv_timeout(PATIENCE).expect("who syncs beside a commit is told").unwrap();
    let mut rng = StdRng::seed_from_u64(2);
    let cuts = cut
        .lock()
        .take()
        .into_iter()
        .chain([(disk.after_power_loss(Survives::Nothing, &mut rng), view::of_store(&store))]);
    for (disk, expected) in cuts {
        let found = recover(&disk);
        assert!(found == expected, "{}", view::difference(&found, &expected));
    }
    disk.watch(|_, _, _| {});
    fs.forget_all();
    drop(fs);
    store.close().unwrap();
}

/// Does something with a store and a file of it whose writes are known to be synced at once.
fn with_synced_file(disk: &Disk, work: impl FnOnce(&Arc<OpenStore>, &Arc<Fs>, Ino)) {
    let (store, fs) = mount(disk);
    let file = fs.make(ROOT_INO, b"log", &NEW, Caller::ROOT).unwrap().ino;
    for round in 0..20 {
        write_synced(&store, &fs, file, round);
    }
    work(&store, &fs, file);
    disk.watch(|_, _, _| {});
    fs.forget_all();
    drop(fs);
    store.close().unwrap();
}

/// Writes the same two blocks of a file, and syncs them.
fn write_synced(store: &OpenStore, fs: &Fs, file: Ino, round: u64) {
    fs.write(file, 0, &pattern(8192, round), WriteMode::default()).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    store.sync(Box::new(move |result| {
        let _ = send.send(result);
    }));
    receive.recv().unwrap().unwrap();
}

#[test]
fn what_is_overwritten_before_it_is_in_its_segment_never_gets_there() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        with_synced_file(&disk, |store, fs, file| {
            let before = (store.segments().deferred_blocks(), store.segments().superseded_blocks());
            for round in 100..150 {
                write_synced(store, fs, file, round);
            }
            let segments = store.segments();
            let after = (segments.deferred_blocks() - before.0, segments.superseded_blocks() - before.1);
            assert_eq!(after, (100, 100), "all but the last wait for nothing, and it took the place of one");
            let expected = view::of_store(store);
            let found = recover(&disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(1)));
            assert!(found == expected, "{}", view::difference(&found, &expected));
            store.commit_now().unwrap();
            let found = recover(&disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(1)));
            assert!(found == expected, "{}", view::difference(&found, &expected));
        });
    }
}

#[test]
fn what_a_commit_names_gets_to_its_segment_although_it_is_overwritten_meanwhile() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        with_synced_file(&disk, |store, fs, file| {
            let expected = view::of_store(store);
            let is_first = AtomicBool::new(true);
            let beside = (Arc::clone(fs), Arc::new(AtomicBool::new(false)));
            let is_done = Arc::clone(&beside.1);
            disk.watch(move |_, access, name| {
                let is_segment = name.starts_with("segments/");
                if access == Access::Write && is_segment && is_first.swap(false, Ordering::Relaxed) {
                    beside.0.write(file, 0, &pattern(8192, 200), WriteMode::default()).unwrap();
                    beside.1.store(true, Ordering::Relaxed);
                }
            });
            store.commit_now().unwrap();
            assert!(is_done.load(Ordering::Relaxed), "nothing waited for the commit");
            let found = recover(&disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(1)));
            assert!(found == expected, "{}", view::difference(&found, &expected));
        });
    }
}

#[test]
fn what_is_synced_while_a_commit_becomes_durable_survives_before_the_commit_does() {
    for changes in [true, false] {
        sync_beside_a_commit(&new_disk(None, None), true, changes);
        sync_beside_a_commit(&new_encrypted_disk(None, None), true, changes);
    }
}

#[test]
fn what_is_synced_beside_a_commit_whose_changes_are_not_all_in_the_log_waits_for_it() {
    for changes in [true, false] {
        sync_beside_a_commit(&new_disk(None, None), false, changes);
    }
}

const NEW: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o666, umask: 0o022, rdev: 0, target: None };
/// Whose changes take privileges away.
const SOMEBODY: Caller = Caller { uid: 1000, gid: 0, pid: u32::MAX };

/// A file with everything that a change can take away beside what it is asked for, in a directory whose files inherit.
fn prepare(fs: &Fs) -> (Ino, Ino) {
    let flags = XattrFlags::default();
    let dir = NewNode { kind: Kind::Directory, ..NEW };
    let dir = fs.make(ROOT_INO, b"d", &dir, Caller::ROOT).unwrap().ino;
    fs.setxattr(dir, b"system.posix_acl_default", &acl(0o750, true), flags, Caller::ROOT).unwrap();
    let file = fs.make(ROOT_INO, b"f", &NEW, Caller::ROOT).unwrap().ino;
    fs.write(file, 0, &pattern(20_000, 1), WriteMode::default()).unwrap();
    fs.setxattr(file, ACCESS_ACL, &acl(0o660, true), flags, Caller::ROOT).unwrap();
    fs.setxattr(file, b"security.capability", b"value", flags, Caller::ROOT).unwrap();
    let set = SetAttr { permissions: Some(0o6771), ..SetAttr::default() };
    fs.setattr(file, &set, Caller::ROOT).unwrap();
    fs.make(dir, b"old", &NEW, Caller::ROOT).unwrap();
    (dir, file)
}

type Request = (&'static str, fn(&Fs, (Ino, Ino)));

#[test]
fn a_server_that_is_killed_at_any_write_leaves_no_half_of_a_request() {
    let requests: &[Request] = &[
        ("an ACL that says no more than permissions", |fs, (_, file)| {
            fs.setxattr(file, ACCESS_ACL, &acl(0o604, false), XattrFlags::default(), SOMEBODY).unwrap();
        }),
        ("an ACL", |fs, (_, file)| {
            fs.setxattr(file, ACCESS_ACL, &acl(0o604, true), XattrFlags::default(), SOMEBODY).unwrap();
        }),
        ("chmod of a file with an ACL", |fs, (_, file)| {
            let set = SetAttr { permissions: Some(0o600), ..SetAttr::default() };
            fs.setattr(file, &set, SOMEBODY).unwrap();
        }),
        ("chown", |fs, (_, file)| {
            let set = SetAttr { uid: Some(5), gid: Some(6), ..SetAttr::default() };
            fs.setattr(file, &set, SOMEBODY).unwrap();
        }),
        ("truncate", |fs, (_, file)| {
            let set = SetAttr { size: Some(5000), ..SetAttr::default() };
            fs.setattr(file, &set, SOMEBODY).unwrap();
        }),
        ("write", |fs, (_, file)| {
            let mode = WriteMode { killer: Some(SOMEBODY), ..WriteMode::default() };
            fs.write(file, 6000, &pattern(30_000, 2), mode).unwrap();
        }),
        ("punch", |fs, (_, file)| {
            fs.allocate(file, 100, 9000, AllocateMode::PunchHole, SOMEBODY).unwrap();
        }),
        ("make where files inherit", |fs, (dir, _)| {
            fs.make(dir, b"new", &NEW, SOMEBODY).unwrap();
        }),
        ("rename over another", |fs, (dir, _)| {
            fs.rename((ROOT_INO, b"f"), (dir, b"old"), RenameMode::Replace).unwrap();
        }),
        ("unlink", |fs, (_, file)| {
            fs.unlink(ROOT_INO, b"f").unwrap();
            fs.forget(file, 1);
        }),
    ];
    for (what, request) in requests {
        let disk = new_disk(None, None).after_kill();
        let (store, fs) = open_quietly(&disk);
        let files = prepare(&fs);
        let before = view::of_store(&store);
        let kills: Arc<Mutex<Vec<Disk>>> = Arc::default();
        let kept = Arc::clone(&kills);
        disk.watch(move |disk, access, _| {
            if access == Access::Write {
                kept.lock().push(disk.after_kill());
            }
        });
        request(&fs, files);
        let killed = std::mem::take(&mut *kills.lock());
        let after = view::of_store(&store);
        assert!(before != after && !killed.is_empty(), "{what}");
        assert!(recover(&disk.after_kill()) == after, "{what}: it was done");
        for disk in killed {
            let found = recover(&disk);
            let half = format!("{what}:\n{}", view::difference(&found, &before));
            assert!(found == before || found == after, "{half}");
        }
        disk.watch(|_, _, _| {});
        fs.forget_all();
        store.close().unwrap();
    }
}
