//! Damage here, and in the remote, that must not reach the other side.

use super::evict::{evict_all, read, shipped};
use super::{Made, Memory, attached, id_of, kept, made, shipper};
use crate::disk::Disk;
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::pattern;
use larder::backing::{Dir, OpenMode};
use larder::crypto::Keys;
use larder::fs::{Caller, Fs, FsError, FsOptions, XattrFlags};
use larder::open_store::{OpenStore, StoreOptions};
use larder::remote::{Log, Objects, RemoteError, RemoteSealer, Seen, ShipError, names, page_at};
use larder::store::{ElsewhereError, PagesElsewhere, StoreId};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAGE: u64 = 4096;

/// Pages of the metadata as a remote has them.
#[derive(Debug)]
struct Pages {
    memory: Arc<Memory>,
    id: StoreId,
    keys: Keys,
    is_away: AtomicBool,
}

impl Pages {
    fn log(&self) -> Log {
        let objects: Arc<dyn Objects> = Arc::clone(&self.memory) as Arc<dyn Objects>;
        Log::open(objects, RemoteSealer::new(self.id, &self.keys, "memory:"), Seen::Nothing).unwrap()
    }
}

impl PagesElsewhere for Pages {
    fn place(&self) -> &str {
        "memory:"
    }

    fn page(&self, number: u32) -> Result<Vec<u8>, ElsewhereError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(ElsewhereError::Away("it cannot be reached".into()));
        }
        page_at(&self.log(), number)
            .map(|page| page.to_vec())
            .map_err(|e| ElsewhereError::Failed(e.to_string()))
    }
}

/// A store whose metadata are all in the database, and are healed from a remote.
fn healing(disk: &Disk, fill: impl Fn(&Made)) -> (Made, Arc<Memory>, Arc<Pages>) {
    let before = made(disk.clone());
    fill(&before);
    before.close();
    let (memory, keys) = (Arc::new(Memory::default()), keys_of(disk).unwrap());
    let is_away = AtomicBool::new(false);
    let pages = Arc::new(Pages { memory: Arc::clone(&memory), id: id_of(disk), keys: keys.clone(), is_away });
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_millis(10),
        moments: true,
        pages: Some(Arc::clone(&pages) as Arc<dyn PagesElsewhere>),
        ..StoreOptions::default()
    };
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys, options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    (Made { disk: disk.clone(), store, fs }, memory, pages)
}

fn many_files(made: &Made) {
    for i in 0..1500 {
        made.write(&format!("a file with a name of some length {i}"), b"x");
    }
}

fn place_of(number: u32) -> Range<u64> {
    (u64::from(number) - 1) * PAGE..u64::from(number) * PAGE
}

/// A page that nobody had read for long, and that the disk could not read or had lost, was an error each time that all metadata were read to be
/// shipped, or was shipped as zeros.
#[test]
fn a_cold_page_of_the_metadata_that_is_damaged_comes_from_the_remote_before_it_is_shipped() {
    for disk in [|| new_disk(None, None), || new_encrypted_disk(None, None)] {
        for is_unreadable in [true, false] {
            let (made, memory, pages) = healing(&disk(), many_files);
            let mut shipping = shipper(&memory, pages.id, &pages.keys, &kept());
            shipping.ship(&made.store).unwrap().unwrap();
            let count = made.store.moment(false).unwrap().page_count();
            let number = count / 2;
            assert!(number > 20, "{count}");
            let then = page_at(&pages.log(), number).unwrap();
            assert!(then.iter().any(|byte| *byte != 0));
            if is_unreadable {
                made.disk.set_bad("meta.db", place_of(number), true);
            } else {
                let file = made.disk.open("meta.db", OpenMode::ReadWrite).unwrap();
                file.write_at(&[IoSlice::new(&[0; PAGE as usize])], place_of(number).start).unwrap();
            }
            let moment = made.store.moment(true).unwrap();
            let place = moment.pages().numbers().binary_search(&number).unwrap();
            let mut page = vec![0; moment.pages().page_bytes()];
            moment.pages().read(place, &mut page).unwrap();
            assert!(page == then[..]);
            drop(moment);
            // It is whole here, too.
            pages.is_away.store(true, Ordering::Relaxed);
            drop(made.store.moment(true).unwrap());
            assert!(attached(&memory, pages.id, &pages.keys) == view::of_store(&made.store));
            made.close();
        }
    }
}

/// Nothing was shipped any more.
#[test]
fn a_page_of_the_metadata_that_nobody_can_read_keeps_nothing_else_from_being_shipped() {
    let (made, memory, pages) = healing(&new_disk(None, None), many_files);
    let inos: Vec<u64> = (0..60).map(|i| made.write(&format!("f{i}"), b"x")).collect();
    made.store.commit_now().unwrap();
    let mut shipping = shipper(&memory, pages.id, &pages.keys, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    let count = made.store.moment(false).unwrap().page_count();
    let log = pages.log();
    // A leaf with names, which nobody looks up.
    let is_cold = |number: &u32| {
        let page = page_at(&log, *number).unwrap();
        let name = b"a file with a name of some length";
        page[0] == 10 && page.windows(name.len()).filter(|found| found == name).count() > 10
    };
    let cold: Vec<u32> = (2..=count).filter(is_cold).collect();
    pages.is_away.store(true, Ordering::Relaxed);
    // What is in the WAL, too, is read from there.
    let is_only_in_the_database = |number: &u32| {
        made.disk.set_bad("meta.db", place_of(*number), true);
        let is_it = made.store.moment(true).is_err();
        made.disk.set_bad("meta.db", place_of(*number), is_it);
        is_it
    };
    let change = |round| {
        for ino in &inos {
            let value = pattern(60_000, round);
            made.fs.setxattr(*ino, b"user.x", &value, XattrFlags::default(), Caller::ROOT).unwrap();
        }
        made.store.commit_now().unwrap();
    };
    let copied = |round| {
        let found = cold.iter().find(|number| is_only_in_the_database(number));
        if found.is_none() {
            change(round);
        }
        found
    };
    let number = *(100..200).find_map(copied).unwrap();
    for round in 0..40 {
        change(round);
        shipping.ship(&made.store).unwrap().unwrap();
        if shipping.image_trouble().is_some() {
            break;
        }
    }
    let why = shipping.image_trouble().unwrap_or_default();
    assert!(why.contains(&format!("page {number} cannot be read")), "{number}: {why:?}");
    made.disk.set_bad("meta.db", place_of(number), false);
    assert!(attached(&memory, pages.id, &pages.keys) == view::of_store(&made.store));
    made.close();
}

/// The blocks that it should have had went from here, and were nowhere then.
#[test]
fn what_is_in_a_record_that_was_cut_off_stays_here() {
    let (made, memory, mut shipping) = shipped(new_disk(None, None), &[("large", 9 << 20)]);
    for (name, len) in [("small", 50_000), ("last", 5_000)] {
        made.write(name, &pattern(len, 1));
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap();
    }
    let segments = made.store.segments();
    segments.set_partial(true);
    let number = *shipping.catalog().lock().records().keys().next().unwrap();
    assert!(number < shipping.log().state().newest.number);
    let record = names::record(number);
    let whole = memory.objects.lock()[&record].clone();
    for cut in [0, 50, 96, whole.len() - 1] {
        memory.objects.lock().insert(record.clone(), whole.slice(..cut));
        let lost = shipping.evict(segments, u64::MAX).unwrap_err();
        assert!(
            matches!(&lost, ShipError::Remote(RemoteError::Lost { name, .. }) if *name == record),
            "{lost}"
        );
        memory.is_down.store(true, Ordering::Relaxed);
        assert!(read(&made, "small", 50_000).unwrap() == pattern(50_000, 1));
        memory.is_down.store(false, Ordering::Relaxed);
    }
    memory.objects.lock().insert(record, whole);
    evict_all(&mut shipping, segments);
    memory.is_down.store(true, Ordering::Relaxed);
    assert_eq!(read(&made, "small", 50_000), Err(FsError::Away));
    memory.is_down.store(false, Ordering::Relaxed);
    made.close();
}
