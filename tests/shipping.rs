//! Shipping a store, and attaching it elsewhere: what is there is what the store was when a record was made.
//!
//! The remote is in memory, and fails as networks do: requests that are not done, and requests that are done and say that they are
//! not. After any of that, an attach finds the state of the last record that was acknowledged, or of one after it.

mod attachers;
mod chain;
mod cuts;
mod erase;
mod evict;
mod forged;
mod gone;
mod healing;
mod history;
mod keys;
mod owning;
mod rewrite;
mod said;
mod trouble;
mod unreadable;

use crate::disk::{Access, Disk, Fault};
use crate::model::harness::{
    Harness, await_reclaim, check_disk, keys_of, new_disk, new_encrypted_disk, secret,
};
use crate::model::operation::Operation;
use crate::model::view::{self, View, difference};
use crate::replica::operations_for;
use crate::support::{pattern, scratch, wait_until};
use bytes::Bytes;
use larder::backing::{Dir, OsDir};
use larder::crypto::Keys;
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, Wait, WriteMode};
use larder::open_store::{OpenStore, StoreOptions, lay_down};
use larder::remote::{
    BootClock, CheckOptions, Clock, Collect, Deadline, Fetcher, Kept, LeaseKind, Listed, Local, Log,
    ObjectError, Objects, Outcome, Owner, OwnerId, RemoteSealer, Seen, ShipError, ShipLimits, Shipper, Steal,
    Trouble, check, claim, init, read_header,
};
use larder::store::{BlockAddr, Header, Run, StoreId};
use larder::volume::begin_reencryption_in;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Makes something else of an object, by its name and its bytes.
type Forge = fn(&str, Bytes) -> Bytes;

/// An object store in memory.
#[derive(Debug, Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// Of a thousand requests, so many fail before they are done, and as many after that.
    failing: AtomicU64,
    /// None is done.
    is_down: AtomicBool,
    /// The next one panics.
    panics: AtomicBool,
    /// What its clock shows, and when objects were made by it.
    now: AtomicI64,
    made: Mutex<BTreeMap<String, i64>>,
    /// So many requests are done, and none after that. The last of them is done, and does not say so. 0: all are.
    dies_after: AtomicI64,
    requests: AtomicI64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    /// Held: parts are not listed for now.
    lists_parts: Mutex<()>,
    /// Shippers that were made for it by [`any_shipper`].
    shippers: AtomicU64,
    /// This one is not found so many times more, however long it has been there.
    late: Mutex<Option<(String, u32)>>,
    /// No part of this one is read: the requests fail.
    unread: Mutex<Option<String>>,
    /// This one is not listed, and can be read.
    unlisted: Mutex<Option<String>>,
    /// Nothing is written: there is no room.
    is_full: AtomicBool,
    /// Nothing is removed.
    keeps_all: AtomicBool,
    /// Names that begin so are written although they are taken; and what another then has written of this name right after it was made.
    overwrites: Mutex<Option<&'static str>>,
    written_over: Mutex<Option<(String, Bytes)>>,
    /// Right before the next object is made whose name begins so, somebody else makes it, of what was to be in it.
    forestalled: Mutex<Option<(&'static str, Forge)>>,
    /// After so many parts, no more are to be uploaded.
    parts_until: Mutex<Option<(usize, Deadline)>>,
}

impl Memory {
    /// From now on, requests are done so many times more: the process dies then. 0: always.
    fn dies_after(&self, requests: i64) {
        self.requests.store(0, Ordering::Relaxed);
        self.dies_after.store(requests, Ordering::Relaxed);
    }

    fn listed(&self, name: &str, bytes: &Bytes) -> Listed {
        let modified = self.made.lock().get(name).copied().unwrap_or(0);
        Listed { name: name.into(), bytes: bytes.len() as u64, modified }
    }

    fn is_made(&self, name: &str) {
        self.made.lock().insert(name.into(), self.now.load(Ordering::Relaxed));
    }

    fn names(&self, under: &str) -> Vec<String> {
        self.objects.lock().keys().filter(|name| name.starts_with(under)).cloned().collect()
    }

    fn bytes(&self, under: &str) -> usize {
        let objects = self.objects.lock();
        objects.iter().filter(|(name, _)| name.starts_with(under)).map(|(_, bytes)| bytes.len()).sum()
    }

    fn fail<T>(&self, trouble: Trouble, name: &str) -> Outcome<T> {
        let (place, name) = ("memory:".into(), name.into());
        Err(ObjectError { trouble, doing: "reach", place, name, why: "it is a test".into() })
    }

    /// Whether an object is not found, although it is there.
    fn is_late(&self, name: &str) -> bool {
        let mut late = self.late.lock();
        let left = late.as_mut().filter(|(late, left)| late == name && *left > 0);
        left.is_some_and(|(_, left)| {
            *left -= 1;
            true
        })
    }

    fn does_fail(&self) -> bool {
        rand::rng().random_range(0..1000) < self.failing.load(Ordering::Relaxed)
    }

    fn ask<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut BTreeMap<String, Bytes>) -> Result<T, Trouble>,
    ) -> Outcome<T> {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "it is a test");
        if self.is_down.load(Ordering::Relaxed) || self.does_fail() {
            return self.fail(Trouble::Unreachable, name);
        }
        let (number, last) =
            (self.requests.fetch_add(1, Ordering::Relaxed), self.dies_after.load(Ordering::Relaxed));
        if last > 0 && number >= last {
            return self.fail(Trouble::Unreachable, name);
        }
        let done = work(&mut self.objects.lock());
        if self.does_fail() || last > 0 && number + 1 == last {
            return self.fail(Trouble::Unreachable, name);
        }
        done.or_else(|trouble| self.fail(trouble, name))
    }
}

impl Objects for Memory {
    fn place(&self) -> &str {
        "memory:"
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return self.fail(Trouble::Full, name);
        }
        if let Some((count, deadline)) = &*self.parts_until.lock()
            && self.names("data/").len() >= *count
        {
            deadline.set(Duration::ZERO);
        }
        if let Some((_, forge)) = self.forestalled.lock().take_if(|(under, _)| name.starts_with(*under)) {
            self.objects.lock().insert(name.into(), forge(name, bytes.clone()));
            self.is_made(name);
        }
        let overwrites = self.overwrites.lock().is_some_and(|under| name.starts_with(under));
        self.ask(name, |objects| match objects.contains_key(name) && !overwrites {
            true => Err(Trouble::Exists),
            false => {
                let over = self.written_over.lock().take_if(|(over, _)| over == name);
                objects.insert(name.into(), over.map_or(bytes, |(_, bytes)| bytes));
                self.is_made(name);
                Ok(())
            }
        })
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return self.fail(Trouble::Full, name);
        }
        self.ask(name, |objects| {
            objects.insert(name.into(), bytes);
            self.is_made(name);
            Ok(())
        })
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        if self.is_late(name) {
            return self.fail(Trouble::Missing, name);
        }
        self.ask(name, |objects| {
            let bytes = objects.get(name).cloned().ok_or(Trouble::Missing)?;
            if bytes.len() as u64 > most { Err(Trouble::Other) } else { Ok(bytes) }
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        if self.unread.lock().as_deref() == Some(name) {
            return self.fail(Trouble::Unreachable, name);
        }
        if self.is_late(name) {
            return self.fail(Trouble::Missing, name);
        }
        self.ask(name, |objects| {
            let bytes = objects.get(name).ok_or(Trouble::Missing)?;
            let end = (range.end as usize).min(bytes.len());
            if range.start as usize >= end {
                Err(Trouble::Other)
            } else {
                Ok(bytes.slice(range.start as usize..end))
            }
        })
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        if self.is_late(name) {
            return self.fail(Trouble::Missing, name);
        }
        self.ask(name, |objects| {
            let bytes = objects.get(name).ok_or(Trouble::Missing)?;
            Ok(self.listed(name, bytes))
        })
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        let _may_list = (under == "data/").then(|| self.lists_parts.lock());
        let late = self.late.lock().clone().filter(|(_, left)| *left > 0).map(|(name, _)| name);
        self.ask(under, |objects| {
            let all = objects.iter().filter(|(name, _)| name.starts_with(under) && name.as_str() > after);
            let all = all.filter(|(name, _)| late.as_ref() != Some(name));
            let unlisted = self.unlisted.lock().clone();
            let all = all.filter(|(name, _)| unlisted.as_ref() != Some(name));
            Ok(all.map(|(name, bytes)| self.listed(name, bytes)).take(most).collect())
        })
    }

    fn list_dirs(&self, _: &str, _: usize) -> Outcome<Vec<String>> {
        Ok(Vec::new())
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        if self.keeps_all.load(Ordering::Relaxed) {
            return self.fail(Trouble::Refused, name);
        }
        self.ask(name, |objects| {
            objects.remove(name);
            Ok(())
        })
    }
}

fn owner(id: u128) -> Owner {
    Owner { id: OwnerId(id), host: format!("host{id}"), lease: LeaseKind::None }
}

fn id_of(disk: &Disk) -> StoreId {
    Header::read(disk).unwrap().store
}

/// What the directory of a store keeps of its remote.
fn kept() -> Arc<Kept> {
    Arc::new(Kept::in_memory("here", Local::new("memory:").unwrap()))
}

/// What a process finds there that comes later.
fn reread(kept: &Arc<Kept>) -> Arc<Kept> {
    Arc::new(Kept::in_memory("here", kept.local()))
}

/// Claims the store, and gets ready to ship it.
fn try_shipper(
    memory: &Arc<Memory>,
    store: StoreId,
    keys: &Keys,
    kept: &Arc<Kept>,
) -> larder::remote::Result<Shipper> {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(store, keys, "memory:");
    init(&*objects, &sealer, 1)?;
    Shipper::take_up(objects, sealer, kept, clock, &mut |_| true)
}

/// The same. Repeats what fails; less does than later, because all of it is begun again then.
fn shipper(memory: &Arc<Memory>, store: StoreId, keys: &Keys, kept: &Arc<Kept>) -> Shipper {
    let failing = memory.failing.load(Ordering::Relaxed);
    memory.failing.store(failing / 5, Ordering::Relaxed);
    let ready = loop {
        match try_shipper(memory, store, keys, kept) {
            Ok(shipper) => break shipper,
            Err(e) => assert!(e.is_passing(), "{e}"),
        }
    };
    memory.failing.store(failing, Ordering::Relaxed);
    ready
}

/// The same; records of every other one hold few blocks.
fn any_shipper(memory: &Arc<Memory>, store: StoreId, keys: &Keys, kept: &Arc<Kept>) -> Shipper {
    let shipper = shipper(memory, store, keys, kept);
    match memory.shippers.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => shipper.with_limits(ShipLimits { record_blocks: 3, ..ShipLimits::default() }),
        _ => shipper,
    }
}

/// Attaches the store, reads all of it, and closes it: what is to be seen. It is sound then.
fn attached(memory: &Arc<Memory>, store: StoreId, keys: &Keys) -> View {
    let failing = memory.failing.swap(0, Ordering::Relaxed);
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(store, keys, "memory:");
    let log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
    let (json, _) = read_header(&*objects, store, log.state().header).unwrap();
    let seen = view_of(memory, &log, &json, keys);
    let found = check(&log, CheckOptions { read_data: true }).unwrap();
    assert!(found.fault_count == 0, "{found:?}");
    memory.failing.store(failing, Ordering::Relaxed);
    seen
}

/// The same with a state, and the header of the store.
fn view_of(memory: &Arc<Memory>, log: &Log, json: &[u8], keys: &Keys) -> View {
    let tmp = scratch();
    std::fs::create_dir(tmp.path().join("segments")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let attached = lay_down(&dir, log, log.sealer().store(), json, keys).unwrap();
    // The keys that its own header has.
    let keys = keys_of(&*dir).unwrap();
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let opened = OpenStore::open_with(Arc::clone(&dir), None, keys, options).unwrap();
    let fetcher =
        Arc::new(Fetcher::new(objects, log.sealer().clone(), Arc::new(Mutex::new(attached.catalog))));
    opened.segments().fetch_from(Arc::clone(&fetcher) as Arc<_>);
    let seen = view::of_store(&opened);
    await_reclaim(&opened);
    // What nobody has looked at: a file without a name in a snapshot, say.
    let rows = opened.meta().segments();
    for row in rows.iter().filter(|row| row.live > 0) {
        let all = Run::new(BlockAddr { segment: row.id, index: 0 }, row.tail);
        fetcher.fetch(all).unwrap().iter().for_each(|blocks| opened.segments().put_stored(blocks).unwrap());
    }
    opened.close().unwrap();
    let disk = Disk::copy_of(tmp.path());
    check_disk(&disk);
    seen
}

/// Ships at random moments; `failing` of a thousand requests fail.
fn run(disk: Disk, seed: u64, failing: u64) -> (u32, u32) {
    let (store, memory) = (id_of(&disk), Arc::new(Memory::default()));
    memory.failing.store(failing, Ordering::Relaxed);
    let mut harness = Harness::noting(disk);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut keys = harness.keys();
    let kept = kept();
    let mut shipping = any_shipper(&memory, store, &keys, &kept);
    // What an attach may find: the state of the last record that is known to be there, and of attempts after it.
    let mut allowed: Vec<View> = Vec::new();
    let (mut done, mut failed) = (0, 0);
    for operation in operations_for(seed) {
        harness.steps(std::slice::from_ref(&operation));
        if matches!(
            operation,
            Operation::Reopen | Operation::Kill | Operation::LosePower { .. } | Operation::Reencrypt { .. }
        ) {
            // Another process, with keys of its own.
            keys = harness.keys();
            shipping = any_shipper(&memory, store, &keys, &kept);
        }
        if !rng.random_bool(0.25) {
            continue;
        }
        let (view, result) = match rng.random_bool(0.5) {
            true => harness.ship(&mut shipping),
            false => harness.ship_synced(&mut shipping),
        };
        match result {
            Ok(_) => {
                allowed = vec![view];
                done += 1;
            }
            Err(e) => {
                assert!(e.is_passing(), "{e}");
                allowed.push(view);
                failed += 1;
            }
        }
        // What the newest state does not need goes, at once.
        if rng.random_bool(0.3) {
            match shipping.collect(Collect { min_age: Duration::ZERO, most: 1000 }) {
                Ok(_) => {}
                Err(e) => assert!(e.is_passing(), "{e}"),
            }
        }
        if done > 0 && rng.random_bool(0.3) {
            let found = attached(&memory, store, &keys);
            let last = allowed.last().unwrap();
            assert!(
                allowed.contains(&found),
                "against the last that is allowed:\n{}",
                difference(&found, last)
            );
        }
    }
    memory.failing.store(0, Ordering::Relaxed);
    wait_until("everything is sealed again, here and there", || {
        harness.ship(&mut shipping).1.unwrap();
        harness.is_reencrypted()
    });
    let (view, result) = harness.ship(&mut shipping);
    result.unwrap();
    let found = attached(&memory, store, &harness.keys());
    assert!(found == view, "{}", difference(&found, &view));
    harness.finish();
    (done, failed)
}

fn cases() -> u64 {
    std::env::var("LARDER_SHIPPING_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

#[test]
fn what_is_attached_is_what_was_shipped() {
    for seed in 0..cases() {
        eprintln!("seed {seed}");
        run(new_disk(None, None), seed, 0);
    }
}

#[test]
fn what_is_attached_is_what_was_shipped_of_an_encrypted_store() {
    for seed in 100..100 + cases() {
        eprintln!("seed {seed}");
        run(new_encrypted_disk(None, None), seed, 0);
    }
}

#[test]
fn requests_that_fail_and_answers_that_are_lost_leave_a_state_that_was() {
    let mut failures = 0;
    for seed in 200..200 + cases() {
        eprintln!("seed {seed}");
        let disk = if seed % 2 == 0 { new_disk(None, None) } else { new_encrypted_disk(None, None) };
        failures += run(disk, seed, 60).1;
    }
    assert!(failures > 0);
}

/// A store with a volume, and its file system.
struct Made {
    disk: Disk,
    store: Arc<OpenStore>,
    fs: Fs,
}

fn made(disk: Disk) -> Made {
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_millis(10),
        moments: true,
        ..StoreOptions::default()
    };
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(&disk).unwrap(), options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    Made { disk, store, fs }
}

impl Made {
    fn write(&self, name: &str, data: &[u8]) -> u64 {
        write(&self.fs, name, data)
    }

    /// Another process opens the store. What it ships first is all of it, with an image.
    fn reopen(self) -> Self {
        let disk = self.disk.clone();
        self.close();
        made(disk)
    }

    fn close(self) {
        self.fs.forget_all();
        self.store.close().unwrap();
    }
}

fn write(fs: &Fs, name: &str, data: &[u8]) -> u64 {
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let ino = fs.make(ROOT_INO, name.as_bytes(), &node, Caller::ROOT).unwrap().ino;
    for (i, part) in data.chunks(1 << 20).enumerate() {
        fs.write(ino, (i as u64) << 20, part, WriteMode::default()).unwrap();
    }
    ino
}

fn read(fs: &Fs, name: &str, offset: u64, len: usize) -> Vec<u8> {
    let ino = fs.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
    let mut out = vec![0; len];
    let got = fs.read(ino, offset, &mut out, Wait::Yes).unwrap();
    out.truncate(got);
    out
}

/// Large files go into parts, and come back a piece at a time, as they are read.
#[test]
fn an_attach_fetches_what_is_read_and_little_more() {
    let made = made(new_disk(None, None));
    let data = pattern(40 << 20, 3);
    made.write("large", &data);
    let memory = Arc::new(Memory::default());
    let (id, keys) = (id_of(&made.disk), Keys::Plain);
    let mut shipping = shipper(&memory, id, &keys, &kept());
    let shipped = shipping.ship(&made.store).unwrap().unwrap();
    assert!(shipped.bytes > 40 << 20 && shipped.bytes < 44 << 20, "{shipped:?}");
    let parts =
        |memory: &Memory| memory.objects.lock().keys().filter(|name| name.starts_with("data/")).count();
    assert_eq!(parts(&memory), 3);
    assert_eq!(shipping.ship(&made.store).unwrap(), None, "nothing is new");
    // A little more goes into the record.
    made.write("small", &pattern(10_000, 4));
    made.store.commit_now().unwrap();
    let shipped = shipping.ship(&made.store).unwrap().unwrap();
    assert!(shipped.bytes < 1 << 20 && parts(&memory) == 3, "{shipped:?}");
    // (Who ships looks at the record before.)
    memory.reads.store(0, Ordering::Relaxed);
    memory.read_bytes.store(0, Ordering::Relaxed);

    let tmp = scratch();
    std::fs::create_dir(tmp.path().join("segments")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id, &keys, "memory:");
    let log = Log::open(Arc::clone(&objects), sealer.clone(), Seen::Nothing).unwrap();
    let (json, _) = read_header(&*objects, id, log.state().header).unwrap();
    let attached = lay_down(&dir, &log, id, &json, &keys).unwrap();
    assert_eq!(memory.reads.load(Ordering::Relaxed), 0, "no block comes with an attach");
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let opened = OpenStore::open(Arc::clone(&dir), None, options).unwrap();
    let fetcher = Arc::new(Fetcher::new(objects, sealer, Arc::new(Mutex::new(attached.catalog))));
    opened.segments().fetch_from(Arc::clone(&fetcher) as Arc<_>);
    let volume = opened.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&opened), volume, FsOptions::default());
    assert!(read(&fs, "small", 0, 20_000) == pattern(10_000, 4));
    assert!(read(&fs, "large", 5_000_000, 4096) == data[5_000_000..5_004_096]);
    let bytes = memory.read_bytes.load(Ordering::Relaxed);
    assert!((256 << 10..600 << 10).contains(&bytes), "{bytes}");
    // What has come stays, also without the remote.
    memory.is_down.store(true, Ordering::Relaxed);
    assert!(read(&fs, "large", 5_000_000, 4096) == data[5_000_000..5_004_096]);
    let ino = fs.lookup(ROOT_INO, b"large").unwrap().ino;
    assert!(fs.read(ino, 30 << 20, &mut [0; 4096], Wait::Yes).is_err());
    memory.is_down.store(false, Ordering::Relaxed);
    // A stream comes in larger and larger pieces.
    let before = memory.reads.load(Ordering::Relaxed);
    for i in 0..(40 << 20) / (128 << 10) {
        let at = i * (128 << 10);
        assert!(read(&fs, "large", at as u64, 128 << 10) == data[at..at + (128 << 10)], "{at}");
    }
    let requests = memory.reads.load(Ordering::Relaxed) - before;
    assert!(requests < 40, "{requests}");
    fs.forget_all();
    opened.close().unwrap();
    made.close();
}

/// Ships a store, and what fetches from there.
fn shipped_to(memory: &Arc<Memory>, made: &Made) -> Arc<Fetcher> {
    let mut shipping = shipper(memory, id_of(&made.disk), &Keys::Plain, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    Arc::new(Fetcher::new(objects, shipping.log().sealer().clone(), shipping.catalog()))
}

/// A block that is damaged here and sound there is fetched, and sound here then.
#[test]
fn a_damaged_block_heals_from_the_remote() {
    use std::io::IoSlice;
    let made = made(new_disk(None, None));
    let data = pattern(2_000_000, 5);
    let ino = made.write("f", &data);
    let memory = Arc::new(Memory::default());
    let fetcher = shipped_to(&memory, &made);
    let name = format!("segments/{}", made.disk.list("segments").unwrap()[0]);
    let file = made.disk.open(&name, larder::backing::OpenMode::ReadWrite).unwrap();
    let damage = || file.write_at(&[IoSlice::new(&[0xa5; 100])], 8192 + 5 * 4096 + 10).unwrap();
    let mut out = vec![0; 2_000_000];
    damage();
    assert!(made.fs.read(ino, 0, &mut out, Wait::Yes).is_err(), "nobody has it yet");
    made.store.segments().fetch_from(fetcher);
    assert_eq!(made.fs.read(ino, 0, &mut out, Wait::Yes).unwrap(), 2_000_000);
    assert!(out == data && made.store.segments().healed_blocks() == 1);
    memory.is_down.store(true, Ordering::Relaxed);
    assert_eq!(made.fs.read(ino, 0, &mut out, Wait::Yes).unwrap(), 2_000_000);
    damage();
    assert!(made.fs.read(ino, 0, &mut out, Wait::Yes).is_err(), "it cannot be reached");
    memory.is_down.store(false, Ordering::Relaxed);
    assert_eq!(made.fs.read(ino, 0, &mut out, Wait::Yes).unwrap(), 2_000_000);
    made.close();
}

/// It was EIO, although the remote has it.
#[test]
fn a_block_that_the_disk_cannot_read_comes_from_the_remote() {
    let made = made(new_disk(None, None));
    let data = pattern(300_000, 5);
    let ino = made.write("f", &data);
    let memory = Arc::new(Memory::default());
    let fetcher = shipped_to(&memory, &made);
    let is_segment: fn(&str) -> bool = |name| name.ends_with(".seg");
    let mut out = vec![0; 300_000];
    made.disk.inject(Fault::once(Access::Read, is_segment, libc::EIO, 0));
    assert!(made.fs.read(ino, 0, &mut out, Wait::Yes).is_err(), "nobody has it yet");
    made.store.segments().fetch_from(fetcher);
    for fault in [Fault::once, Fault::from] {
        out.fill(0);
        made.disk.inject(fault(Access::Read, is_segment, libc::EIO, 0));
        assert_eq!(made.fs.read(ino, 0, &mut out, Wait::Yes).unwrap(), 300_000);
        assert!(out == data);
    }
    assert!(made.store.segments().healed_blocks() > 0);
}

/// What was uploaded before the remote went away is not uploaded again.
#[test]
fn an_outage_costs_nothing_twice() {
    let made = made(new_disk(None, None));
    made.write("large", &pattern(60 << 20, 3));
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id_of(&made.disk), &Keys::Plain, &kept());
    memory.failing.store(150, Ordering::Relaxed);
    // Chance alone may spare the few requests that there are.
    memory.dies_after.store(memory.requests.load(Ordering::Relaxed) + 3, Ordering::Relaxed);
    let mut attempts = 0;
    loop {
        attempts += 1;
        match shipping.ship(&made.store) {
            Ok(_) => break,
            Err(ShipError::Remote(e)) if e.is_passing() => memory.dies_after.store(0, Ordering::Relaxed),
            Err(e) => panic!("{e}"),
        }
    }
    memory.failing.store(0, Ordering::Relaxed);
    let parts: usize = memory
        .objects
        .lock()
        .iter()
        .filter(|(name, _)| name.starts_with("data/"))
        .map(|(_, b)| b.len())
        .sum();
    // Those whose answers were lost are there twice.
    assert!(attempts > 1 && parts < 150 << 20, "{attempts} {parts}");
    made.close();
}

/// Who finds that another has the store ships nothing more.
#[test]
fn a_stolen_store_is_not_shipped_by_who_had_it() {
    let made = made(new_disk(None, None));
    made.write("f", b"one");
    let memory = Arc::new(Memory::default());
    let id = id_of(&made.disk);
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept());
    shipping.ship(&made.store).unwrap();
    let clock = BootClock;
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let mut log = Log::open(objects, RemoteSealer::new(id, &Keys::Plain, "memory:"), Seen::Nothing).unwrap();
    claim(&mut log, &owner(2), Steal::Yes, &clock, &mut |_| true).unwrap();
    made.write("g", b"two");
    made.store.commit_now().unwrap();
    let error = shipping.ship(&made.store).unwrap_err();
    assert!(!error.is_passing() && error.to_string().contains("host2"), "{error}");
    assert!(made.store.has_news(), "it is not shipped");
    made.close();
}

/// What is in the remote is sealed with old keys until it is shipped anew: they stay that long.
#[test]
fn older_keys_stay_until_the_remote_does_not_need_them() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(3 << 20, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let kept = kept();
    let mut shipping = shipper(&memory, id, &keys, &kept);
    shipping.ship(&made.store).unwrap();
    let begun = begin_reencryption_in(&made.disk, &secret(), false).unwrap();
    made.store.reencrypt(begun.keys).unwrap();
    std::thread::sleep(Duration::from_secs(7));
    assert!(made.store.reencryption().is_some(), "nothing was shipped since");
    assert_eq!(Header::read(&made.disk).unwrap().epochs(), [1, 2]);
    drop(shipping);
    let mut shipping = shipper(&memory, id, &keys_of(&made.disk).unwrap(), &kept);
    wait_until("the old keys are gone", || {
        shipping.ship(&made.store).unwrap();
        made.store.reencryption().is_none()
    });
    shipping.ship(&made.store).unwrap();
    let newest = keys_of(&made.disk).unwrap();
    assert_eq!(newest.epochs(), [2]);
    assert!(attached(&memory, id, &newest) == view::of_store(&made.store));
    made.close();
}
