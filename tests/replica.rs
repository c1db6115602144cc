//! Copies of a store that are made of its moments: each is what the store was at the commit of the last one.
//!
//! Random operations go on in a store; now and then a moment is taken, and what it has is put beside what the moments before it had.
//! Put down in another directory and opened as after a crash, that is the state of the model when the moment was taken, also
//! when much has happened before the moment was looked at.

use crate::disk::{Access, Disk, Fault};
use crate::model::harness::{Harness, keys_of, new_disk, new_encrypted_disk, recover, secret};
use crate::model::operation::{Operation, operations};
use crate::model::view::{View, difference};
use crate::support::{pattern, scratch, wait_until};
use larder::backing::{Dir, OsDir};
use larder::crypto::Keys;
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, Wait, WriteMode};
use larder::meta::{Laying, NewSnapshot};
use larder::open_store::{Moment, MomentError, OpenStore, StoreOptions};
use larder::store::{BLOCK_BYTES, BlockAddr, Header, Run, SEAL_BYTES, Sealer, Segments, StoredBlocks};
use larder::volume::begin_reencryption_in;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A block as it is stored.
type Stored = (u64, Vec<u8>, Vec<u8>);

/// A copy of a store.
#[derive(Default)]
struct Replica {
    header: Vec<u8>,
    page_count: u32,
    pages: BTreeMap<u32, Vec<u8>>,
    blocks: BTreeMap<BlockAddr, Stored>,
    tails: BTreeMap<u64, u32>,
}

impl Replica {
    /// Takes what a moment has.
    fn take(&mut self, moment: &Moment) {
        self.header = moment.header().to_vec();
        if moment.is_whole() {
            self.pages.clear();
        }
        let mut page = vec![0; moment.pages().page_bytes()];
        for place in 0..moment.pages().len() {
            let number = moment.pages().read(place, &mut page).unwrap();
            self.pages.insert(number, page.clone());
        }
        self.page_count = moment.page_count();
        self.pages.retain(|number, _| *number <= moment.page_count());
        if moment.has_all_blocks() {
            self.blocks.clear();
            self.tails.clear();
        }
        for run in moment.freed().unwrap_or_default() {
            let freed: Vec<BlockAddr> =
                self.blocks.range(run.start..run.start.plus(run.count)).map(|(at, _)| *at).collect();
            for addr in freed {
                self.blocks.remove(&addr);
            }
        }
        for stored in moment.blocks().iter().flat_map(|run| moment.read(*run).unwrap()) {
            let each = stored.seals.chunks(SEAL_BYTES).zip(stored.contents.chunks(BLOCK_BYTES));
            for (i, (seal, contents)) in (0..).zip(each) {
                let block = (stored.key_epoch, seal.to_vec(), contents.to_vec());
                self.blocks.insert(stored.run.start.plus(i), block);
            }
        }
        self.tails.extend(moment.segments().iter().copied());
    }

    /// Puts the copy down as a store that was in use.
    fn lay_down(&self) -> Disk {
        let tmp = scratch();
        std::fs::create_dir(tmp.path().join("segments")).unwrap();
        std::fs::write(tmp.path().join("header.json"), &self.header).unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
        let keys = keys_of(&*dir).unwrap();
        let laying = Laying::begin(Arc::clone(&dir), &keys).unwrap();
        for (number, page) in &self.pages {
            laying.put(*number, page).unwrap();
        }
        laying.finish(self.page_count).unwrap();
        let header = Header::read(&*dir).unwrap();
        let segments = Segments::new(Arc::clone(&dir), header.store, Sealer::new(&keys), 0..0);
        let mut there = BTreeSet::new();
        for (addr, (key_epoch, seals, contents)) in &self.blocks {
            there.insert(addr.segment);
            let (run, seals, contents) = (Run::new(*addr, 1), seals.clone(), contents.clone());
            // Nothing of a copy is sealed with keys that have gone: what was freed was said to be.
            segments.put_stored(&StoredBlocks { run, key_epoch: *key_epoch, seals, contents }).unwrap();
        }
        let tails = self.tails.iter().map(|(id, tail)| (*id, *tail));
        segments.sync_recovered(tails.filter(|(id, _)| there.contains(id))).unwrap();
        Disk::copy_of(tmp.path())
    }

    #[track_caller]
    fn must_show(&self, expected: &View) {
        let found = recover(&self.lay_down());
        assert!(
            found == *expected,
            "the copy (first) is not what the store was:\n{}",
            difference(&found, expected)
        );
    }
}

/// Sequences a run; `LARDER_REPLICA_CASES` makes it more.
fn cases() -> u64 {
    std::env::var("LARDER_REPLICA_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(15)
}

/// A sequence of operations for `seed`. Nothing waits until everything is sealed again: that waits for moments.
pub fn operations_for(seed: u64) -> Vec<Operation> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut operations = operations(40..120).new_tree(&mut runner).unwrap().current();
    for operation in &mut operations {
        if let Operation::Reencrypt { wait, .. } = operation {
            *wait = false;
        }
    }
    operations
}

/// What a run had of what it is for.
#[derive(Debug, Default)]
struct Ran {
    moments: u32,
    /// Those that had not all pages.
    parts: u32,
    given_up: u32,
}

/// Takes what `moment` has, and looks at the copy; or nothing comes of it.
fn use_moment(replica: &mut Replica, (moment, view): (Moment, View), rng: &mut StdRng, ran: &mut Ran) {
    if rng.random_bool(0.2) {
        // Half of it may have been read before.
        if rng.random_bool(0.5) {
            moment.blocks().iter().for_each(|run| drop(moment.read(*run)));
        }
        ran.given_up += 1;
        return;
    }
    replica.take(&moment);
    ran.moments += 1;
    ran.parts += u32::from(!moment.is_whole());
    moment.done();
    replica.must_show(&view);
}

fn run(disk: Disk, seed: u64, ran: &mut Ran) {
    let mut harness = Harness::noting(disk);
    let mut replica = Replica::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut out: Option<(Moment, View)> = None;
    for operation in operations_for(seed) {
        let ends = matches!(operation, Operation::Reopen | Operation::Kill | Operation::LosePower { .. });
        if ends && let Some(moment) = out.take() {
            if rng.random_bool(0.5) {
                use_moment(&mut replica, moment, &mut rng, ran);
            } else {
                // It outlives the store.
                harness.steps(std::slice::from_ref(&operation));
                drop(moment);
                continue;
            }
        }
        harness.steps(std::slice::from_ref(&operation));
        match out.take() {
            None if rng.random_bool(0.2) => {
                let moment = harness.moment(rng.random_bool(0.1));
                if rng.random_bool(0.5) {
                    out = Some(moment);
                } else {
                    use_moment(&mut replica, moment, &mut rng, ran);
                    if rng.random_bool(0.3) {
                        let again = harness.moment(false);
                        use_moment(&mut replica, again, &mut rng, ran);
                    }
                }
            }
            Some(moment) if rng.random_bool(0.25) => use_moment(&mut replica, moment, &mut rng, ran),
            other => out = other,
        }
        if out.is_some() && rng.random_bool(0.05) {
            assert!(matches!(harness.store().moment(false), Err(MomentError::Busy)));
        }
    }
    drop(out);
    // Old keys go only when nothing of the copy needs them.
    wait_until("everything is sealed again, here and in the copy", || {
        let (moment, view) = harness.moment(false);
        replica.take(&moment);
        moment.done();
        replica.must_show(&view);
        harness.is_reencrypted()
    });
    let (moment, view) = harness.moment(false);
    replica.take(&moment);
    moment.done();
    replica.must_show(&view);
    assert!(replica.blocks.values().all(|(epoch, ..)| *epoch == 0 || keys_have(&replica, *epoch)));
    harness.finish();
}

/// Whether the header of the copy has the keys of this epoch.
fn keys_have(replica: &Replica, epoch: u64) -> bool {
    let tmp = scratch();
    std::fs::write(tmp.path().join("header.json"), &replica.header).unwrap();
    Header::read(&OsDir::new(tmp.path())).unwrap().epochs().iter().any(|known| u64::from(*known) == epoch)
}

fn runs(disk: impl Fn() -> Disk, first_seed: u64) {
    let mut ran = Ran::default();
    for seed in first_seed..first_seed + cases() {
        // The seed is said with a failure.
        eprintln!("seed {seed}");
        run(disk(), seed, &mut ran);
    }
    assert!(u64::from(ran.moments) > cases() && ran.parts > 0 && ran.given_up > 0, "{ran:?}");
}

#[test]
fn a_copy_is_what_the_store_was_at_the_moment() {
    runs(|| new_disk(None, None), 0);
}

#[test]
fn a_copy_of_an_encrypted_store_is_what_the_store_was() {
    runs(|| new_encrypted_disk(None, None), 1000);
}

#[test]
fn a_copy_of_a_store_on_an_uneven_disk_is_what_the_store_was() {
    runs(|| new_encrypted_disk(None, None).uneven(), 2000);
}

fn open(disk: &Disk, commit_interval: Duration) -> Arc<OpenStore> {
    let options = StoreOptions { cache_bytes: 0, commit_interval, moments: true, ..StoreOptions::default() };
    OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(disk).unwrap(), options).unwrap()
}

fn make(fs: &Fs, name: &str) -> u64 {
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    fs.make(ROOT_INO, name.as_bytes(), &node, Caller::ROOT).unwrap().ino
}

fn read_all(fs: &Fs, name: &str) -> Vec<u8> {
    let ino = fs.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
    let mut out = vec![0; fs.getattr(ino).unwrap().size as usize];
    fs.read(ino, 0, &mut out, Wait::Yes).unwrap();
    out
}

const KEPT: u64 = 30;

/// Files `f0`, `f1`, ... come and go, the last `KEPT` of them are there, and `count` says how many were made.
fn write_files(fs: &Fs, stop: &AtomicBool) -> u64 {
    let count = make(fs, "count");
    let mut made = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let ino = make(fs, &format!("f{made}"));
        let data = pattern(1 + (made as usize * 977) % 20_000, made + 1);
        fs.write(ino, 0, &data, WriteMode::default()).unwrap();
        made += 1;
        fs.write(count, 0, &made.to_le_bytes(), WriteMode::default()).unwrap();
        if let Some(old) = made.checked_sub(KEPT + 1) {
            fs.unlink(ROOT_INO, format!("f{old}").as_bytes()).unwrap();
        }
    }
    made
}

/// What [`write_files`] leaves if it is stopped anywhere.
fn must_be_a_state_of_the_files(disk: &Disk) -> u64 {
    let store =
        OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(disk).unwrap(), StoreOptions::default())
            .unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let mut made = 0;
    if fs.lookup(ROOT_INO, b"count").is_ok() {
        let bytes = read_all(&fs, "count");
        made = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }
    for i in 0..made + 2 {
        let name = format!("f{i}");
        let is_there = fs.lookup(ROOT_INO, name.as_bytes()).is_ok();
        // The one that is next may be there, and the one that goes next may be gone.
        if i + KEPT < made {
            assert!(!is_there || i + KEPT + 1 == made, "{name} of {made}");
        } else if i < made {
            assert!(is_there, "{name} of {made}");
            assert!(
                read_all(&fs, &name) == pattern(1 + (i as usize * 977) % 20_000, i + 1),
                "{name} of {made}"
            );
        } else if is_there {
            assert!(i == made, "{name} of {made}");
        }
    }
    fs.forget_all();
    store.close().unwrap();
    made
}

/// Takes moments of a store in which much goes on.
fn beside(disk: Disk, seconds: u64, reencrypt: bool) {
    let store = open(&disk, Duration::from_millis(3));
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let stop = AtomicBool::new(false);
    let mut replica = Replica::default();
    let mut states = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| write_files(&fs, &stop));
        scope.spawn(|| {
            // Each sync is one of the log; each commit, frames.
            while !stop.load(Ordering::Relaxed) {
                let (send, receive) = std::sync::mpsc::channel();
                store.sync(Box::new(move |result| send.send(result).unwrap()));
                receive.recv().unwrap().unwrap();
                store.commit_now().unwrap();
            }
        });
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("s{number}");
                let new = NewSnapshot { name, labels: Default::default(), created: 1 };
                let row = store.alter(move |meta| meta.create_snapshot(volume, &new)).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                store.alter(move |meta| meta.remove_snapshot(row.id)).unwrap();
            }
        });
        let began = std::time::Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while began.elapsed() < Duration::from_secs(seconds) {
                if reencrypt && store.reencryption().is_none() {
                    let begun = begin_reencryption_in(&disk, &secret(), false).unwrap();
                    store.reencrypt(begun.keys).unwrap();
                }
                let moment = store.moment(false).unwrap();
                std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..40)));
                match try_take(&mut replica, &moment) {
                    true => moment.done(),
                    // Sealed again meanwhile.
                    false => continue,
                }
                states.insert(must_be_a_state_of_the_files(&replica.lay_down()));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(states.len() > 3, "{states:?}");
    fs.forget_all();
    store.close().unwrap();
}

/// False: a block was sealed with keys that came after the moment.
fn try_take(replica: &mut Replica, moment: &Moment) -> bool {
    if moment.blocks().iter().any(|run| moment.read(*run).is_err()) {
        return false;
    }
    replica.take(moment);
    true
}

#[test]
fn moments_beside_writers_are_states_that_were() {
    beside(new_disk(None, None), 12, false);
}

#[test]
fn moments_beside_writers_and_new_keys_are_states_that_were() {
    beside(new_encrypted_disk(None, None).uneven(), 12, true);
}

#[test]
fn a_store_that_notes_nothing_has_no_moments() {
    let disk = new_disk(None, None);
    let store = OpenStore::open_with(Arc::new(disk), None, Keys::Plain, StoreOptions::default()).unwrap();
    assert!(matches!(store.moment(false), Err(MomentError::NotNoted)));
    assert!(!store.has_news() && store.news_bytes().is_none());
    store.close().unwrap();
    assert!(matches!(store.moment(true), Err(MomentError::NotNoted)));
}

#[test]
fn nothing_is_new_until_something_changes() {
    let store = open(&new_disk(None, None), Duration::from_secs(3600));
    assert!(store.has_news() && store.news_bytes().is_none());
    store.moment(false).unwrap().done();
    assert!(!store.has_news() && store.news_bytes() == Some(0));
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let ino = make(&fs, "f");
    fs.write(ino, 0, &[7; 10_000], WriteMode::default()).unwrap();
    assert!(!store.has_news(), "it is in no commit yet");
    store.commit_now().unwrap();
    assert!(store.has_news() && store.news_bytes() > Some(12_000));
    assert_eq!(store.new_blocks(2).iter().map(|run| run.count).sum::<u32>(), 2);
    drop(store.moment(false).unwrap());
    assert!(store.has_news(), "nothing has come of that one");
    let moment = store.moment(false).unwrap();
    assert_eq!(moment.blocks().iter().map(|run| run.count).sum::<u32>(), 3);
    moment.done();
    assert!(!store.has_news());
    fs.forget_all();
    store.close().unwrap();
    assert!(matches!(store.moment(false), Err(MomentError::Sync(_))), "the store is closed");
}

/// What a moment names is not given back while it is there, and is when it goes.
#[test]
fn what_a_moment_names_stays_until_it_goes() {
    let disk = new_disk(None, None);
    let store = open(&disk, Duration::from_millis(5));
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let ino = make(&fs, "f");
    let data = pattern(300 * BLOCK_BYTES, 1);
    fs.write(ino, 0, &data, WriteMode::default()).unwrap();
    let moment = store.moment(false).unwrap();
    fs.unlink(ROOT_INO, b"f").unwrap();
    fs.forget(ino, 1);
    wait_until("the file is freed", || {
        store.commit_now().unwrap();
        store.meta().usage(volume).unwrap().0.blocks == 0
    });
    std::thread::sleep(Duration::from_millis(200));
    let blocks = |moment: &Moment| {
        let stored = moment.blocks().iter().flat_map(|run| moment.read(*run).unwrap());
        stored.map(|stored| stored.run.count).sum::<u32>()
    };
    assert!(blocks(&moment) >= 300);
    let mut replica = Replica::default();
    replica.take(&moment);
    moment.done();
    let segments = || disk.list("segments").unwrap().len();
    let of = |run: Run| store.segments().read_stored(run).unwrap().len();
    let first = *replica.blocks.keys().next().unwrap();
    wait_until("it is given back", || segments() == 0 || of(Run::new(first, 1)) == 0);
    let laid = replica.lay_down();
    let copy = OpenStore::open(Arc::new(laid), None, StoreOptions::default()).unwrap();
    let there = Fs::new(Arc::clone(&copy), volume, FsOptions::default());
    assert!(read_all(&there, "f") == data);
    there.forget_all();
    copy.close().unwrap();
    fs.forget_all();
    store.close().unwrap();
}

/// A host without room: no moment, and the next one has everything.
#[test]
fn a_moment_that_cannot_be_made_durable_is_none() {
    let disk = new_disk(None, None);
    let store = open(&disk, Duration::from_secs(3600));
    store.moment(false).unwrap().done();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    make(&fs, "f");
    disk.inject(Fault::once(Access::Write, |name| name.ends_with("-wal"), libc::ENOSPC, 0));
    assert!(matches!(store.moment(false), Err(MomentError::Sync(_))));
    let moment = store.moment(false).unwrap();
    assert!(!moment.is_whole() && !moment.pages().is_empty());
    moment.done();
    fs.forget_all();
    store.close().unwrap();
}

fn names(disk: &Disk) -> BTreeSet<String> {
    let keys = keys_of(disk).unwrap();
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys, StoreOptions::default()).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let (mut names, mut cookie) = (BTreeSet::new(), 0);
    loop {
        let before = cookie;
        fs.readdir(ROOT_INO, cookie, |entry| {
            cookie = entry.cookie;
            names.insert(String::from_utf8_lossy(&entry.name).into_owned());
            true
        })
        .unwrap();
        if cookie == before {
            break;
        }
    }
    names.retain(|name| name != "." && name != "..");
    fs.forget_all();
    store.close().unwrap();
    names
}

/// While its pages are read, others commit, and what they commit is copied back as far as that goes.
fn read_while_others_commit(disk: Disk) {
    let store = open(&disk, Duration::from_secs(3600));
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Arc::new(Fs::new(Arc::clone(&store), volume, FsOptions::default()));
    let mut replica = Replica::default();
    let mut expected = BTreeSet::new();
    let copy_back = |store: &Arc<OpenStore>| {
        let checkpointer = store.meta().checkpointer().unwrap();
        checkpointer.run().unwrap();
    };
    let is_armed = Arc::new(AtomicBool::new(false));
    let others: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let me = std::thread::current().id();
    {
        let (armed, others) = (Arc::clone(&is_armed), Arc::clone(&others));
        let (store, fs) = (Arc::clone(&store), Arc::clone(&fs));
        let number = AtomicU64::new(0);
        disk.watch(move |_, access, name| {
            let is_read = access == Access::Read && name.starts_with("meta.db");
            if !is_read || std::thread::current().id() != me || !armed.swap(false, Ordering::Relaxed) {
                return;
            }
            for k in 0..3 {
                for i in 0..100 {
                    let name = format!("other-{}-{k}-{i}", number.fetch_add(1, Ordering::Relaxed));
                    make(&fs, &name);
                    others.lock().push(name);
                }
                store.commit_now().unwrap();
                let checkpointer = store.meta().checkpointer().unwrap();
                checkpointer.run().unwrap();
            }
        });
    }
    for round in 0..8 {
        for i in 0..50 {
            let name = format!("own-{round}-{i}");
            make(&fs, &name);
            expected.insert(name);
        }
        store.commit_now().unwrap();
        if round % 2 == 0 {
            copy_back(&store);
        }
        is_armed.store(true, Ordering::Relaxed);
        let moment = store.moment(round == 3).unwrap();
        assert!(!is_armed.load(Ordering::Relaxed), "something was read");
        replica.take(&moment);
        moment.done();
        assert!(names(&replica.lay_down()) == expected, "round {round}");
        expected.extend(std::mem::take(&mut *others.lock()).into_iter().inspect(|name| {
            fs.lookup(ROOT_INO, name.as_bytes()).unwrap();
        }));
    }
    fs.forget_all();
    store.close().unwrap();
}

#[test]
fn a_moment_is_of_its_commit_whatever_is_committed_while_it_is_read() {
    read_while_others_commit(new_disk(None, None));
    read_while_others_commit(new_encrypted_disk(None, None));
}
