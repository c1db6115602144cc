//! Blocks that go from this host because the remote has them: whatever happens meanwhile, they are here, or known not to be.

use super::{Made, Memory, attached, id_of, kept, made, owner, shipper};
use crate::disk::{Access, Disk, Fault, Survives};
use crate::model::harness::{Harness, check_partial_disk, keys_of, new_disk, new_encrypted_disk, secret};
use crate::model::operation::Operation;
use crate::model::view::{self, View, difference};
use crate::replica::operations_for;
use crate::support::{pattern, wait_until};
use larder::backing::{Dir, OpenMode};
use larder::crypto::Keys;
use larder::fs::{FsError, ROOT_INO, Wait};
use larder::open_store::{OpenStore, StoreOptions};
use larder::remote::{
    BootClock, Collect, Fetcher, Kept, Log, Objects, RemoteError, RemoteSealer, Seen, ShipError, Shipper,
    Steal, claim, names,
};
use larder::store::{
    BLOCK_BYTES, BlockAddr, Elsewhere, ElsewhereError, Evicted, Fetched, ReadError, Run, Sealer, Segments,
    StoreId, StoredBlocks, Wait as Waiting, data_offset,
};
use larder::volume::begin_reencryption_in;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ALL: u64 = u64::MAX;

fn fetcher(memory: &Arc<Memory>, id: StoreId, keys: &Keys, shipping: &Shipper) -> Arc<Fetcher> {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id, keys, "memory:");
    Arc::new(Fetcher::new(objects, sealer, shipping.catalog()))
}

/// A store whose blocks may go, with a remote that has all of it.
pub(super) fn shipped(disk: Disk, files: &[(&str, usize)]) -> (Made, Arc<Memory>, Shipper) {
    let made = made(disk);
    for (salt, (name, len)) in files.iter().enumerate() {
        made.write(name, &pattern(*len, salt as u64));
    }
    made.store.commit_now().unwrap();
    let (id, keys, memory) = (id_of(&made.disk), keys_of(&made.disk).unwrap(), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap();
    made.store.segments().fetch_from(fetcher(&memory, id, &keys, &shipping));
    made.store.segments().note_use(Box::new(|| {}));
    made.store.segments().resident_bytes().unwrap();
    (made, memory, shipping)
}

/// Lets all go that can.
pub(super) fn evict_all(shipping: &mut Shipper, segments: &Segments) -> u64 {
    let mut blocks = 0;
    loop {
        match shipping.evict(segments, ALL).unwrap() {
            Evicted { blocks: 0, .. } => return blocks,
            some => blocks += some.blocks,
        }
    }
}

pub(super) fn read(made: &Made, name: &str, len: usize) -> Result<Vec<u8>, FsError> {
    let ino = made.fs.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
    let mut out = vec![0; len];
    made.fs.read(ino, 0, &mut out, Wait::Yes).map(|_| out)
}

#[test]
fn what_has_gone_comes_when_it_is_read_and_nothing_goes_that_is_nowhere_else() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let (made, memory, mut shipping) = shipped(disk, &[("large", 9 << 20), ("small", 50_000)]);
        let segments = made.store.segments();
        made.write("unshipped", &pattern(3 << 20, 7));
        made.store.commit_now().unwrap();
        // It has to be known before.
        let refused = shipping.evict(segments, ALL).unwrap_err();
        assert!(matches!(refused, ShipError::Store(_)), "{refused}");
        segments.set_partial(true);
        let some = shipping.evict(segments, 2 << 20).unwrap();
        assert!((512..=1024).contains(&some.blocks), "{some:?}");
        // (This disk gives a file no less room than it had: as if as much had come into it meanwhile.)
        assert_eq!(some.bytes, some.blocks * BLOCK_BYTES as u64);
        let all = some.blocks + evict_all(&mut shipping, segments);
        assert_eq!(all, (9 << 20) / 4096 + 13);
        memory.is_down.store(true, Ordering::Relaxed);
        assert!(read(&made, "unshipped", 3 << 20).unwrap() == pattern(3 << 20, 7));
        for (name, len) in [("large", 9 << 20), ("small", 50_000)] {
            assert_eq!(read(&made, name, len), Err(FsError::Away), "{name}");
        }
        memory.is_down.store(false, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(read(&made, "large", 9 << 20).unwrap() == pattern(9 << 20, 0));
            assert!(read(&made, "small", 50_000).unwrap() == pattern(50_000, 1));
            // It stays, until it goes again.
            memory.is_down.store(true, Ordering::Relaxed);
            assert!(read(&made, "large", 9 << 20).unwrap() == pattern(9 << 20, 0));
            memory.is_down.store(false, Ordering::Relaxed);
            assert_eq!(evict_all(&mut shipping, segments), all);
        }
        // What is shipped then is there as it was.
        shipping.ship(&made.store).unwrap();
        assert!(evict_all(&mut shipping, segments) >= (3 << 20) / 4096);
        let made = made.reopen();
        made.store.segments().set_partial(true);
        let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
        made.store.segments().fetch_from(fetcher(&memory, id, &keys, &shipping));
        assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
        made.close();
    }
}

/// Nobody else can be asked for what goes from here.
#[test]
fn nothing_goes_unless_the_remote_has_it_and_is_this_owners() {
    let (made, memory, mut shipping) = shipped(new_disk(None, None), &[("a", 4 << 20), ("b", 4 << 20)]);
    let segments = made.store.segments();
    segments.set_partial(true);
    let here = || {
        memory.is_down.store(true, Ordering::Relaxed);
        let found = ["a", "b"].map(|name| read(&made, name, 4 << 20).is_ok());
        memory.is_down.store(false, Ordering::Relaxed);
        found
    };
    let none = Evicted::default();
    // The newest record is not there: the remote has gone back in time.
    let newest = names::record(shipping.log().state().newest.number);
    let record = memory.objects.lock().remove(&newest).unwrap();
    assert_eq!(shipping.evict(segments, ALL).unwrap(), none);
    memory.objects.lock().insert(newest, record.clone());
    // A part is not there, or is cut off: what it has stays, and that is said.
    let part = memory.names("data/")[0].clone();
    let whole = memory.objects.lock().remove(&part).unwrap();
    for bytes in [None, Some(whole.slice(..whole.len() - 1))] {
        bytes.into_iter().for_each(|bytes| drop(memory.objects.lock().insert(part.clone(), bytes)));
        let lost = shipping.evict(segments, ALL).unwrap_err();
        assert!(
            matches!(&lost, ShipError::Remote(RemoteError::Lost { name, .. }) if *name == part),
            "{lost}"
        );
        assert_eq!(here(), [true; 2]);
    }
    memory.objects.lock().insert(part, whole);
    memory.is_down.store(true, Ordering::Relaxed);
    assert!(shipping.evict(segments, ALL).unwrap_err().is_passing());
    memory.is_down.store(false, Ordering::Relaxed);
    // Somebody else has it.
    let id = id_of(&made.disk);
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let mut log = Log::open(objects, RemoteSealer::new(id, &Keys::Plain, "memory:"), Seen::Nothing).unwrap();
    claim(&mut log, &owner(2), Steal::Yes, &BootClock, &mut |_| true).unwrap();
    assert_eq!(shipping.evict(segments, ALL).unwrap(), none);
    assert_eq!(here(), [true; 2]);
    made.close();
}

/// What each block of a store is on a disk: it opens, or it is known not to be there.
fn must_be_known(disk: &Disk, id: StoreId, rows: &[(u64, u32)]) {
    let keys = keys_of(disk).unwrap();
    let segments = Segments::new(Arc::new(disk.clone()), id, Sealer::new(&keys), 0..0);
    segments.set_partial(true);
    let mut out = vec![0; BLOCK_BYTES];
    for (segment, tail) in rows {
        for index in 0..*tail {
            let block = Run::new(BlockAddr { segment: *segment, index }, 1);
            match segments.read(block, &mut out, Waiting::Here) {
                Ok(()) | Err(ReadError::Absent { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// Opens a copy of the store, as after a crash, and looks at all of it.
fn seen_on(disk: &Disk, fetcher: &Arc<Fetcher>) -> View {
    let options = StoreOptions { is_partial: true, moments: true, ..StoreOptions::default() };
    let keys = keys_of(disk).unwrap();
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys, options).unwrap();
    store.segments().fetch_from(Arc::clone(fetcher) as Arc<dyn Elsewhere>);
    let seen = view::of_store(&store);
    store.close().unwrap();
    check_partial_disk(disk, true);
    seen
}

#[test]
fn a_crash_at_any_step_leaves_each_block_here_or_known_not_to_be() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let (made, memory, mut shipping) = shipped(disk, &[("a", 2_500_000), ("b", 70_000)]);
        let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
        let expected = view::of_store(&made.store);
        let rows: Vec<(u64, u32)> =
            made.store.meta().segments().iter().map(|row| (row.id, row.tail)).collect();
        made.store.segments().set_partial(true);
        // Some of it has come again before.
        evict_all(&mut shipping, made.store.segments());
        read(&made, "a", 2_500_000).unwrap();
        made.store.segments().sync_all().unwrap();
        let copies: Arc<Mutex<Vec<Disk>>> = Arc::default();
        let (seen, rng) = (Arc::clone(&copies), Mutex::new(StdRng::seed_from_u64(1)));
        made.disk.watch(move |disk, access, name| {
            let counts = matches!(access, Access::Write | Access::Sync | Access::Punch);
            if counts && name.starts_with("segments/") {
                let mut copies = seen.lock();
                copies.push(disk.after_kill());
                for survives in [Survives::Nothing, Survives::Some, Survives::Some, Survives::Everything] {
                    copies.push(disk.after_power_loss(survives, &mut rng.lock()));
                }
            }
        });
        assert!(evict_all(&mut shipping, made.store.segments()) > 0);
        made.disk.watch(|_, _, _| {});
        let copies = std::mem::take(&mut *copies.lock());
        assert!(copies.len() >= 20, "{}", copies.len());
        let fetcher = fetcher(&memory, id, &keys, &shipping);
        for disk in copies {
            must_be_known(&disk, id, &rows);
            let found = seen_on(&disk, &fetcher);
            assert!(found == expected, "{}", difference(&found, &expected));
        }
        made.close();
    }
}

/// Blocks of a store's segments that its disk keeps something for.
fn kept_blocks(disk: &Disk, rows: &[(u64, u32)]) -> usize {
    let name = |segment| format!("segments/{segment:016x}.seg");
    let has = |segment: u64, index| match disk.open(&name(segment), OpenMode::Read) {
        Ok(file) => file.has_data(data_offset(index), BLOCK_BYTES as u64).unwrap(),
        Err(e) => panic!("{}: {e}", name(segment)),
    };
    rows.iter().map(|(segment, tail)| (0..*tail).filter(|index| has(*segment, *index)).count()).sum()
}

/// It was said that nothing of it is here, and its room was nobody's for good.
#[test]
fn what_a_power_cut_brings_back_of_what_had_gone_goes_again() {
    let (made, _memory, mut shipping) = shipped(new_disk(None, None), &[("a", 2_500_000)]);
    let rows: Vec<(u64, u32)> = made.store.meta().segments().iter().map(|row| (row.id, row.tail)).collect();
    made.store.segments().set_partial(true);
    made.store.segments().retire();
    made.store.commit_now().unwrap();
    let all = kept_blocks(&made.disk, &rows);
    assert!(evict_all(&mut shipping, made.store.segments()) > 600);
    assert!(kept_blocks(&made.disk, &rows) < 10);
    let disk = made.disk.after_power_loss(Survives::Nothing, &mut StdRng::seed_from_u64(1));
    assert_eq!(kept_blocks(&disk, &rows), all, "they were not gone for good");
    let segments = Segments::new(Arc::new(disk.clone()), id_of(&disk), Sealer::Checksum, 0..0);
    segments.set_partial(true);
    segments.note_use(Box::new(|| {}));
    segments.resident_bytes().unwrap();
    let gone = shipping.evict(&segments, ALL).unwrap();
    assert!(gone.blocks == 0 && gone.bytes >= 2_500_000, "{gone:?}");
    assert!(kept_blocks(&disk, &rows) < 10);
    assert_eq!(shipping.evict(&segments, ALL).unwrap(), Evicted::default(), "once");
    made.close();
}

/// A disk that fails loses nothing by it either.
#[test]
fn a_disk_that_fails_meanwhile_loses_nothing() {
    for access in [Access::Write, Access::Sync, Access::Punch] {
        let (made, memory, mut shipping) = shipped(new_disk(None, None), &[("a", 3 << 20)]);
        made.store.segments().set_partial(true);
        let spared = u32::from(access != Access::Sync);
        made.disk.inject(Fault::once(access, |name| name.starts_with("segments/"), libc::EIO, spared));
        let failed = shipping.evict(made.store.segments(), ALL);
        assert!(failed.is_err(), "{access:?} {failed:?}");
        assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0), "{access:?}");
        evict_all(&mut shipping, made.store.segments());
        assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0), "{access:?}");
        drop(memory);
        made.close();
    }
}

/// Ships with the keys that the store has now, and fetches what was shipped last.
fn begin_with(
    made: &Made,
    (memory, id, kept): (&Arc<Memory>, StoreId, &Arc<Kept>),
    latest: &Latest,
) -> Shipper {
    let keys = keys_of(&made.disk).unwrap();
    let shipping = shipper(memory, id, &keys, kept);
    *latest.0.lock() = Some(fetcher(memory, id, &keys, &shipping));
    shipping
}

/// Seals that went and contents that did not, because it was interrupted, were damage, and the old keys stayed.
#[test]
fn what_is_just_going_is_sealed_with_new_keys_as_all_else() {
    let made = made(new_encrypted_disk(None, None));
    made.write("a", &pattern(3 << 20, 0));
    let (id, kept, memory) = (id_of(&made.disk), kept(), Arc::new(Memory::default()));
    let latest = Arc::new(Latest::default());
    let begin = || begin_with(&made, (&memory, id, &kept), &latest);
    let mut shipping = begin();
    shipping.ship(&made.store).unwrap();
    let segments = made.store.segments();
    segments.fetch_from(Arc::clone(&latest) as Arc<dyn Elsewhere>);
    segments.set_partial(true);
    segments.note_use(Box::new(|| {}));
    segments.resident_bytes().unwrap();
    made.disk.inject(Fault::once(Access::Punch, |name| name.starts_with("segments/"), libc::EIO, 1));
    assert!(shipping.evict(segments, ALL).is_err());
    drop(shipping);
    let begun = begin_reencryption_in(&made.disk, &secret(), false).unwrap();
    made.store.reencrypt(begun.keys).unwrap();
    let mut shipping = begin();
    wait_until("the old keys are gone", || {
        shipping.ship(&made.store).unwrap();
        made.store.reencryption().is_none()
    });
    assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0));
    made.close();
}

/// The segment stayed sealed with the old keys, and nobody but a reader had what is damaged come from the remote.
#[test]
fn what_cannot_be_read_and_is_in_the_remote_is_sealed_with_new_keys_as_all_else() {
    let made = made(new_encrypted_disk(None, None));
    made.write("a", &pattern(3 << 20, 0));
    let (id, kept, memory) = (id_of(&made.disk), kept(), Arc::new(Memory::default()));
    let latest = Arc::new(Latest::default());
    let begin = || begin_with(&made, (&memory, id, &kept), &latest);
    let mut shipping = begin();
    shipping.ship(&made.store).unwrap();
    made.store.segments().fetch_from(Arc::clone(&latest) as Arc<dyn Elsewhere>);
    drop(shipping);
    let row = made.store.meta().segments().iter().max_by_key(|row| row.live).copied().unwrap();
    for index in [300, 301, 700] {
        let at = data_offset(index) + 512;
        made.disk.set_bad(&format!("segments/{:016x}.seg", row.id), at..at + 512, true);
    }
    let begun = begin_reencryption_in(&made.disk, &secret(), false).unwrap();
    made.store.reencrypt(begun.keys).unwrap();
    let mut shipping = begin();
    wait_until("the old keys are gone", || {
        shipping.ship(&made.store).unwrap();
        made.store.reencryption().is_none()
    });
    assert_eq!(made.store.segments().healed_blocks(), 3);
    memory.is_down.store(true, Ordering::Relaxed);
    assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0));
    made.close();
}

/// Readers that have an address when its block goes are given the block, and what is written and freed meanwhile stays so.
#[test]
fn readers_and_writers_notice_nothing() {
    let files = ["a", "b", "c"].map(|name| (name, 1_500_000));
    let (made, _memory, mut shipping) = shipped(new_disk(None, None).uneven(), &files);
    made.store.segments().set_partial(true);
    let (ends, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (salt, (name, len)) in files.iter().enumerate() {
            let (made, ends, reads) = (&made, &ends, &reads);
            scope.spawn(move || {
                let ino = made.fs.lookup(ROOT_INO, name.as_bytes()).unwrap().ino;
                let expected = pattern(*len, salt as u64);
                let mut rng = StdRng::seed_from_u64(salt as u64);
                while !ends.load(Ordering::Relaxed) {
                    let at = rng.random_range(0..*len as u64 - 100_000);
                    let mut out = vec![0; rng.random_range(1..100_000)];
                    let got = made.fs.read(ino, at, &mut out, Wait::Yes).unwrap();
                    assert!(
                        got == out.len() && out == expected[at as usize..at as usize + got],
                        "{name} {at}"
                    );
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut evicted = 0;
        for round in 0..40 {
            let written = made.write(&format!("n{round}"), &pattern(30_000, round));
            if round % 3 == 0 {
                made.fs.unlink(ROOT_INO, format!("n{round}").as_bytes()).unwrap();
                made.fs.forget(written, 1);
            }
            made.store.commit_now().unwrap();
            if round % 2 == 0 {
                shipping.ship(&made.store).unwrap();
            }
            // (Readers bring back what goes.)
            for _ in 0..3 {
                evicted += shipping.evict(made.store.segments(), ALL).unwrap().blocks;
            }
        }
        ends.store(true, Ordering::Relaxed);
        assert!(evicted > 1000, "{evicted}");
    });
    assert!(reads.load(Ordering::Relaxed) > 50);
    for round in (0..40).filter(|round| round % 3 != 0) {
        assert!(read(&made, &format!("n{round}"), 30_000).unwrap() == pattern(30_000, round));
    }
    made.close();
}

/// Whoever fetches now.
#[derive(Debug, Default)]
struct Latest(Mutex<Option<Arc<Fetcher>>>);

impl Latest {
    fn now(&self) -> Arc<Fetcher> {
        Arc::clone(self.0.lock().as_ref().unwrap())
    }
}

impl Elsewhere for Latest {
    fn place(&self) -> &str {
        "memory:"
    }

    fn has(&self, addr: BlockAddr) -> bool {
        self.now().has(addr)
    }

    fn sealed_before(&self, key_epoch: u64) -> Option<Vec<Run>> {
        self.now().sealed_before(key_epoch)
    }

    fn fetch(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> Result<Fetched, ElsewhereError> {
        Elsewhere::fetch(&*self.now(), addr, count, put)
    }
}

/// Anything happens to a store whose blocks go now and then.
fn run(disk: Disk, seed: u64) -> u64 {
    let (store, memory, kept) = (id_of(&disk), Arc::new(Memory::default()), kept());
    let mut harness = Harness::noting(disk);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut keys = harness.keys();
    let mut shipping = shipper(&memory, store, &keys, &kept);
    let latest = Arc::new(Latest::default());
    *latest.0.lock() = Some(fetcher(&memory, store, &keys, &shipping));
    harness.fetch_from(Arc::clone(&latest) as Arc<dyn Elsewhere>);
    let mut evicted = 0;
    for operation in operations_for(seed) {
        harness.steps(std::slice::from_ref(&operation));
        if matches!(
            operation,
            Operation::Reopen | Operation::Kill | Operation::LosePower { .. } | Operation::Reencrypt { .. }
        ) {
            keys = harness.keys();
            shipping = shipper(&memory, store, &keys, &kept);
            *latest.0.lock() = Some(fetcher(&memory, store, &keys, &shipping));
        }
        if rng.random_bool(0.3) {
            if let Err(e) = harness.ship(&mut shipping).1 {
                assert!(e.is_passing(), "{e}");
            }
            if rng.random_bool(0.3) {
                shipping.collect(Collect { min_age: std::time::Duration::ZERO, most: 1000 }).unwrap();
            }
        }
        if rng.random_bool(0.4) && harness.is_reencrypted() {
            let segments = harness.store().segments();
            segments.note_use(Box::new(|| {}));
            segments.resident_bytes().unwrap();
            let bytes = if rng.random_bool(0.5) { ALL } else { rng.random_range(1..1 << 20) };
            evicted += shipping.evict(segments, bytes).unwrap().blocks;
        }
    }
    wait_until("everything is sealed again, here and there", || {
        harness.ship(&mut shipping).1.unwrap();
        harness.is_reencrypted()
    });
    let (view, result) = harness.ship(&mut shipping);
    result.unwrap();
    let found = attached(&memory, store, &harness.keys());
    assert!(found == view, "{}", difference(&found, &view));
    // What came and was not synced when the power went comes once more when it is read.
    let rows = harness.store().meta().segments();
    for row in rows.iter().filter(|row| row.live > 0 && row.tail > 0) {
        let all = Run::new(BlockAddr { segment: row.id, index: 0 }, row.tail);
        harness.store().segments().fetch_absent(all).unwrap();
    }
    harness.finish();
    evicted
}

#[test]
fn whatever_happens_a_store_whose_blocks_go_is_what_it_was() {
    let mut evicted = 0;
    for seed in 300..300 + super::cases() {
        eprintln!("seed {seed}");
        let disk = if seed % 2 == 0 { new_disk(None, None) } else { new_encrypted_disk(None, None) };
        evicted += run(disk, seed);
    }
    assert!(evicted > 0);
}
