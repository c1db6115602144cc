//! Earlier moments: what is attached is what the store was when the record was made.

use super::{Made, Memory, id_of, kept, made, read, shipper, view_of};
use crate::disk::Disk;
use crate::model::harness::{Harness, keys_of, new_disk, new_encrypted_disk, secret};
use crate::model::operation::Operation;
use crate::model::view::{self, View, difference};
use crate::replica::operations_for;
use crate::support::{pattern, scratch, wait_until};
use larder::backing::{Dir, OsDir};
use larder::crypto::Keys;
use larder::fs::{Fs, FsOptions, ROOT_INO, Wait};
use larder::open_store::{OpenStore, StoreOptions, lay_down};
use larder::remote::{
    At, BootClock, Clock, Collect, Directory, Fetcher, Frozen, History, Local, Log, Moment, Objects,
    OfMoment, OnDemand, RemoteError, RemoteSealer, Seen, Shipper, What, When, header_in_force, init,
};
use larder::store::{BlockAddr, Elsewhere, ElsewhereError, StoreId};
use larder::volume::begin_reencryption_in;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn log_of(memory: &Arc<Memory>, store: StoreId, keys: &Keys) -> Log {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    Log::open(objects, RemoteSealer::new(store, keys, "memory:"), Seen::Nothing).unwrap()
}

fn moments(history: &History) -> Vec<Moment> {
    history.newest_moments(u64::MAX).map(|moment| moment.unwrap()).collect()
}

/// What is to be seen at a moment.
fn seen_at(memory: &Arc<Memory>, newest: &Log, history: &History, moment: &Moment, keys: &Keys) -> View {
    let (json, _) = header_in_force(newest).unwrap();
    view_of(memory, &history.log_at(moment).unwrap(), &json, keys)
}

/// All moments of a history, each with what the model says of it: what was shipped last by then.
fn check_all(
    memory: &Arc<Memory>,
    store: StoreId,
    keys: &Keys,
    shipped: &BTreeMap<u64, View>,
) -> Vec<Moment> {
    let log = log_of(memory, store, keys);
    let history = History::of(&log).unwrap();
    let all = moments(&history);
    assert_eq!(&all[0], history.oldest());
    assert_eq!(all.last().unwrap().position, log.state().newest);
    let mut state = None;
    for (moment, next) in all.iter().zip(all.iter().skip(1).map(Some).chain([None])) {
        let number = moment.position.number;
        // The last record of those that came with a state is known, and the state is in the first.
        let is_state = moment.what == What::Commit || state.is_none();
        if is_state {
            state = shipped.range(number..).next().map(|(_, view)| view);
        }
        let found = seen_at(memory, &log, &history, moment, keys);
        let expected = state.unwrap();
        assert!(found == *expected, "{moment:?}: {}", difference(&found, expected));
        assert_eq!(&history.find(At::Record(number)).unwrap(), moment);
        if next.is_none_or(|next| next.time > moment.time) {
            assert_eq!(&history.find(At::Time(moment.time)).unwrap(), moment);
        }
    }
    all
}

fn run(disk: Disk, seed: u64) -> usize {
    let (store, memory) = (id_of(&disk), Arc::new(Memory::default()));
    let mut harness = Harness::noting(disk);
    let mut rng = StdRng::seed_from_u64(seed);
    let keys = harness.keys();
    let kept = kept();
    let mut shipping = shipper(&memory, store, &keys, &kept);
    let mut shipped = BTreeMap::new();
    let all = operations_for(seed).into_iter();
    for operation in all.filter(|operation| !matches!(operation, Operation::Reencrypt { .. })) {
        harness.steps(std::slice::from_ref(&operation));
        if matches!(operation, Operation::Reopen | Operation::Kill | Operation::LosePower { .. }) {
            shipping = shipper(&memory, store, &keys, &kept);
        }
        if !rng.random_bool(0.15) {
            continue;
        }
        let (view, result) = match rng.random_bool(0.5) {
            true => harness.ship(&mut shipping),
            false => harness.ship_synced(&mut shipping),
        };
        result.unwrap();
        shipped.insert(shipping.log().state().newest.number, view);
    }
    let count = check_all(&memory, store, &keys, &shipped).len();
    harness.finish();
    count
}

#[test]
fn every_record_is_a_moment_as_the_store_was_then() {
    for seed in 0..3 {
        eprintln!("seed {seed}");
        assert!(run(new_disk(None, None), seed) > 5);
        assert!(run(new_encrypted_disk(None, None), 100 + seed) > 5);
    }
}

fn rewrite(made: &Made, name: &str, data: &[u8]) {
    let _ = made.fs.unlink(ROOT_INO, name.as_bytes());
    made.write(name, data);
}

fn is_no_moment<T: std::fmt::Debug>(found: Result<T, RemoteError>, what: &str) {
    assert!(
        matches!(&found, Err(RemoteError::NoMoment { what: why, .. }) if why.contains(what)),
        "{found:?}"
    );
}

/// By the clock of the object store: what is within the window can be attached, and what is not goes.
#[test]
fn what_was_there_within_the_window_can_be_attached() {
    const HOUR: i64 = 3600;
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let window = Collect { min_age: Duration::from_secs(10 * HOUR as u64), most: 2000 };
    let mut shipped = BTreeMap::new();
    let mut most = 0;
    for hour in 0..30 {
        memory.now.store(hour * HOUR, Ordering::Relaxed);
        rewrite(&made, &format!("f{}", hour % 3), &pattern(300_000, hour as u64));
        if hour % 4 == 0 {
            rewrite(&made, "large", &pattern(3 << 20, hour as u64));
        }
        // The first record of each opening is an image.
        made = made.reopen();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap().unwrap();
        shipped.insert(shipping.log().state().newest.number, (hour, view::of_store(&made.store)));
        shipping.collect(window).unwrap();
        most = most.max(memory.names("data/").len());
        let log = log_of(&memory, id, &Keys::Plain);
        let history = History::of(&log).unwrap();
        let within = shipped.iter().filter(|(_, (then, _))| [10, 9, 4].contains(&(hour - then)));
        for (number, (then, expected)) in within {
            let moment = history.find(At::Record(*number)).unwrap();
            assert!(seen_at(&memory, &log, &history, &moment, &Keys::Plain) == *expected, "{then}");
        }
        let oldest = history.oldest().position.number;
        if hour > 15 {
            assert!(oldest > 1, "{oldest}");
            is_no_moment(history.find(At::Record(1)), "begins with record");
            is_no_moment(history.find(At::Time(When::default())), "begins with record");
        }
    }
    assert!(most < 8, "{most}");
    // What is listed can be attached, also where it is older.
    let views = shipped.into_iter().map(|(number, (_, view))| (number, view)).collect();
    check_all(&memory, id, &Keys::Plain, &views);
    let log = log_of(&memory, id, &Keys::Plain);
    let history = History::of(&log).unwrap();
    is_no_moment(history.find(At::Record(9999)), "newest record there is");
    let later = When { seconds: u64::MAX, nanoseconds: 0 };
    assert_eq!(history.find(At::Time(later)).unwrap().position, log.state().newest);
    made.close();
}

/// All of it was old at once, and went, although it had been needed a minute before.
#[test]
fn a_clock_that_jumps_ahead_makes_nothing_old() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut old = Vec::new();
    for round in 0..5u64 {
        rewrite(&made, "f", &pattern(300_000, round));
        made = made.reopen();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap().unwrap();
        let newest = shipping.log().state().newest.number;
        // The host has run for some hours, or for days; the other clock says something else.
        let passed = [0, 3600, 7200, 10_800, 10_800 + 3 * DAY.as_secs()][round as usize];
        memory.now.fetch_add([0, 60, 10 * DAY.as_secs() as i64, 60, 60][round as usize], Ordering::Relaxed);
        shipping.none_is_older_than(kept.known_to_be_old(newest, Duration::from_secs(100 + passed), DAY));
        let gone = shipping.collect(Collect { min_age: DAY, most: 1000 }).unwrap().unwrap();
        old.push(gone.objects);
        if round == 3 {
            let log = log_of(&memory, id, &Keys::Plain);
            assert!(History::of(&log).unwrap().oldest().position.number < 4, "all of it can be attached");
        }
    }
    assert!(old[..4].iter().all(|gone| *gone == 0) && old[4] > 0, "{old:?}");
    made.close();
}

/// Its pieces go before its record does: it was taken for one that can be attached.
#[test]
fn an_image_of_which_something_is_gone_is_no_moment() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut images = Vec::new();
    for round in 0..3 {
        rewrite(&made, "f", &pattern(50_000, round));
        made = made.reopen();
        let before = memory.names("image/");
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap().unwrap();
        let new: Vec<String> =
            memory.names("image/").into_iter().filter(|name| !before.contains(name)).collect();
        images.push((shipping.log().state().image, new));
    }
    let oldest = || History::of(&log_of(&memory, id, &Keys::Plain)).unwrap().oldest().position.number;
    assert!(oldest() < images[0].0);
    memory.objects.lock().remove(&images[1].1[0]);
    assert_eq!(oldest(), images[2].0);
    made.close();
}

/// What was shipped before a re-encryption is sealed with keys that are gone.
#[test]
fn the_history_of_a_store_begins_anew_with_its_keys() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(300_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let (memory, kept) = (Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &keys, &kept);
    shipping.ship(&made.store).unwrap();
    let before = shipping.log().state().newest;
    let begun = begin_reencryption_in(&made.disk, &secret(), false).unwrap();
    made.store.reencrypt(begun.keys).unwrap();
    drop(shipping);
    let mut shipping = shipper(&memory, id, &keys_of(&made.disk).unwrap(), &kept);
    wait_until("the old keys are gone", || {
        shipping.ship(&made.store).unwrap();
        made.store.reencryption().is_none()
    });
    shipping.ship(&made.store).unwrap();
    let keys = keys_of(&made.disk).unwrap();
    let log = log_of(&memory, id, &keys);
    let history = History::of(&log).unwrap();
    assert!(history.is_sealed_before() && history.oldest().position.number > before.number);
    is_no_moment(history.find(At::Record(before.number)), "encrypted anew");
    for moment in moments(&history) {
        let at = history.log_at(&moment).unwrap();
        let fetcher = Fetcher::of(&at).unwrap();
        // Those of which all blocks are sealed with the keys that there are.
        if fetcher.sealed_before(2).unwrap().is_empty() {
            assert!(seen_at(&memory, &log, &history, &moment, &keys) == view::of_store(&made.store));
        }
    }
    made.close();
}

/// What has left the remote since a moment was attached is an error that says so, and nothing else is.
#[test]
fn a_block_that_left_the_history_is_named_as_that() {
    let tmp = scratch();
    let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
    let made = made(new_disk(None, None));
    let data = pattern(3 << 20, 7);
    made.write("f", &data);
    let id = id_of(&made.disk);
    let url = format!("file://{}", tmp.path().display());
    let sealer = RemoteSealer::new(id, &Keys::Plain, objects.place());
    init(&*objects, &sealer, 1).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let mut shipping =
        Shipper::take_up(Arc::clone(&objects), sealer.clone(), &kept(), clock, &mut |_| true).unwrap();
    shipping.ship(&made.store).unwrap();
    let log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
    let here = scratch();
    std::fs::create_dir(here.path().join("segments")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(here.path()));
    let (json, _) = header_in_force(&log).unwrap();
    lay_down(&dir, &log, id, &json, &Keys::Plain).unwrap();
    let options = StoreOptions { cache_bytes: 0, is_partial: true, ..StoreOptions::default() };
    let opened = OpenStore::open(dir, None, options).unwrap();
    let mut local = Local::new(&url).unwrap();
    local.partial = true;
    local.saw(log.state().newest);
    let at = Frozen { record: log.state().newest.number, time: "2026-11-26T10:00:00Z".into() };
    let from = OfMoment::new(Arc::new(OnDemand::of(&local, id, &Keys::Plain, &Arc::default())), at);
    let from = Arc::new(from);
    opened.segments().fetch_from(Arc::clone(&from) as Arc<_>);
    let volume = opened.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&opened), volume, FsOptions::default());
    wait_until("it is reached", || {
        let ino = fs.lookup(ROOT_INO, b"f").unwrap().ino;
        fs.read(ino, 0, &mut [0; 4096], Wait::Yes).is_ok()
    });
    assert!(read(&fs, "f", 0, 4096) == data[..4096]);
    std::fs::remove_dir_all(tmp.path().join("data")).unwrap();
    // What has come stays.
    assert!(read(&fs, "f", 0, 4096) == data[..4096]);
    let row = opened.meta().segments().into_iter().max_by_key(|row| row.live).unwrap();
    let addr = BlockAddr { segment: row.id, index: row.tail - 1 };
    let failed = from.fetch(addr, 1, &mut |_| {});
    let Err(ElsewhereError::Failed(why)) = &failed else { panic!("{failed:?}") };
    for part in ["2026-11-26T10:00:00Z", "history", "larder remote history"] {
        assert!(why.contains(part), "{why}");
    }
    fs.forget_all();
    opened.close().unwrap();
    made.close();
}
