//! What is left of objects of which little is needed is written anew: the remote stays about as large as what its states need.

use super::{Made, Memory, attached, id_of, kept, made, read, reread};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::{pattern, wait_until};
use larder::crypto::Keys;
use larder::fs::{ROOT_INO, WriteMode};
use larder::remote::{
    CheckOptions, Clock, Collect, Fetcher, Kept, Log, Objects, RemoteSealer, Rewritten, Seen, ShipError,
    Shipper, When, check, init, names,
};
use larder::store::StoreId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const HOUR: u64 = 3600;
const FILE: usize = 6 << 20;
const BLOCK: u64 = 16 << 10;

/// A clock that is set.
#[derive(Debug, Default)]
struct Set(AtomicU64);

impl Clock for Set {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    fn wall(&self) -> When {
        When::default()
    }
}

fn shipper(
    memory: &Arc<Memory>,
    id: StoreId,
    keys: &Keys,
    kept: &Arc<Kept>,
    clock: &Arc<Set>,
) -> larder::remote::Result<Shipper> {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id, keys, "memory:");
    init(&*objects, &sealer, 1)?;
    Shipper::take_up(objects, sealer, kept, Arc::clone(clock) as Arc<dyn Clock>, &mut |_| true)
}

/// A file of which random blocks are written over.
struct Overwritten {
    made: Made,
    ino: u64,
    contents: Vec<u8>,
    rng: StdRng,
}

impl Overwritten {
    fn new(made: Made, seed: u64) -> Self {
        let contents = pattern(FILE, seed);
        let ino = made.write("f", &contents);
        made.store.commit_now().unwrap();
        Self { made, ino, contents, rng: StdRng::seed_from_u64(seed) }
    }

    fn overwrite(&mut self, times: u64) {
        for _ in 0..times {
            let at = self.rng.random_range(0..FILE as u64 / BLOCK) * BLOCK;
            let new = pattern(BLOCK as usize, self.rng.random());
            self.made.fs.write(self.ino, at, &new, WriteMode::default()).unwrap();
            self.contents[at as usize..(at + BLOCK) as usize].copy_from_slice(&new);
        }
        self.made.store.commit_now().unwrap();
    }
}

/// Bytes of the blocks that the newest state needs, as they would be written at once.
fn needed(shipping: &Shipper) -> u64 {
    let catalog = shipping.catalog();
    let catalog = catalog.lock();
    let in_parts = catalog.parts().into_values().flatten().map(|(_, count)| u64::from(count)).sum::<u64>();
    let in_records = catalog.records().into_values().flatten().map(|run| u64::from(run.count)).sum::<u64>();
    (in_parts + in_records) * 4112
}

/// Days of overwriting, and two in which little happens. What is there then, and what of it is needed, in bytes.
fn days(memory: &Arc<Memory>, over: &mut Overwritten, does_rewrite: bool) -> (u64, u64) {
    let (id, keys) = (id_of(&over.made.disk), keys_of(&over.made.disk).unwrap());
    let clock = Arc::new(Set::default());
    let mut shipping = shipper(memory, id, &keys, &kept(), &clock).unwrap();
    let segments = over.made.store.segments();
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id, &keys, "memory:");
    segments.fetch_from(Arc::new(Fetcher::new(objects, sealer, shipping.catalog())));
    segments.set_partial(true);
    segments.note_use(Box::new(|| {}));
    for hour in 0..120 {
        clock.sleep(Duration::from_secs(HOUR));
        memory.now.store(clock.now().as_secs() as i64, Ordering::Relaxed);
        over.overwrite(if hour < 60 { 20 } else { 1 });
        shipping.ship(&over.made.store).unwrap();
        let segments = over.made.store.segments();
        if hour % 10 == 5 {
            // Some of it is only there, and comes for it.
            segments.resident_bytes().unwrap();
            shipping.evict(segments, 4 << 20).unwrap();
        }
        while does_rewrite && shipping.rewrite(segments).unwrap().more {}
        shipping.collect(Collect::default()).unwrap();
        if hour % 40 == 7 {
            assert!(attached(memory, id, &keys) == view::of_store(&over.made.store), "hour {hour}");
        }
    }
    let there = (memory.bytes("data/") + memory.bytes("log/")) as u64;
    // What was the newest state within the last day is needed, too.
    let since = memory.now.load(Ordering::Relaxed) - 24 * HOUR as i64;
    let made = memory.made.lock();
    let is_recent = |name: &&String| made[*name] >= since;
    let names = memory.names("log/");
    let recent: usize = names.iter().filter(is_recent).map(|name| memory.bytes(name)).sum();
    drop(made);
    assert!(attached(memory, id, &keys) == view::of_store(&over.made.store));
    (there, needed(&shipping) + recent as u64)
}

#[test]
fn the_remote_is_not_much_larger_than_what_it_needs() {
    for (seed, disk) in [new_disk(None, None), new_encrypted_disk(None, None)].into_iter().enumerate() {
        let (memory, mut over) = (Arc::new(Memory::default()), Overwritten::new(made(disk), seed as u64));
        let (there, needed) = days(&memory, &mut over, true);
        assert!(needed >= FILE as u64 && there * 10 <= needed * 13, "{there} {needed}");
        assert!(read(&over.made.fs, "f", 0, FILE) == over.contents);
        over.made.close();
    }
    // It would be.
    let (memory, mut over) = (Arc::new(Memory::default()), Overwritten::new(made(new_disk(None, None)), 7));
    let (there, needed) = days(&memory, &mut over, false);
    assert!(there * 10 > needed * 13, "{there} {needed}");
    over.made.close();
}

/// A remote of which little is needed, and the shipper.
fn worn(clock: &Arc<Set>, kept: &Arc<Kept>) -> (Overwritten, Arc<Memory>, Shipper) {
    let (memory, mut over) = (Arc::new(Memory::default()), Overwritten::new(made(new_disk(None, None)), 3));
    let mut shipping = shipper(&memory, id_of(&over.made.disk), &Keys::Plain, kept, clock).unwrap();
    for _ in 0..4 {
        over.overwrite(150);
        shipping.ship(&over.made.store).unwrap();
    }
    drop(shipping);
    // Another process makes an image of it.
    over.made = over.made.reopen();
    over.ino = over.made.fs.lookup(ROOT_INO, b"f").unwrap().ino;
    let mut shipping = shipper(&memory, id_of(&over.made.disk), &Keys::Plain, kept, clock).unwrap();
    shipping.ship(&over.made.store).unwrap();
    (over, memory, shipping)
}

/// Wherever it breaks off, what is there is what was shipped, and it goes on.
#[test]
fn it_may_break_off_anywhere() {
    for dies_after in [1, 2, 3, 4, 6] {
        let (clock, kept) = (Arc::new(Set::default()), kept());
        let (mut over, memory, mut shipping) = worn(&clock, &kept);
        let id = id_of(&over.made.disk);
        memory.dies_after(dies_after);
        let mut broke_off = false;
        loop {
            match shipping.rewrite(over.made.store.segments()) {
                Ok(Rewritten { more: true, .. }) => {}
                Ok(_) => break,
                Err(e) => {
                    assert!(e.is_passing(), "{e}");
                    broke_off = true;
                    break;
                }
            }
        }
        assert!(broke_off || dies_after > 2, "{dies_after}");
        memory.dies_after(0);
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&over.made.store), "{dies_after}");
        // This process goes on, or another one.
        if dies_after % 2 == 0 {
            shipping = shipper(&memory, id, &Keys::Plain, &reread(&kept), &clock).unwrap();
        }
        over.overwrite(50);
        shipping.ship(&over.made.store).unwrap();
        clock.sleep(Duration::from_secs(HOUR));
        while shipping.rewrite(over.made.store.segments()).unwrap().more {}
        shipping.ship(&over.made.store).unwrap();
        shipping.collect(Collect { min_age: Duration::ZERO, most: 10_000 }).unwrap();
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&over.made.store), "{dies_after}");
        over.made.close();
    }
}

/// It went again: it looked old where the clock of the host had been set back, and nobody knew that it had just come.
#[test]
fn what_is_written_anew_while_it_is_looked_for_what_may_go_stays_whatever_clocks_say() {
    let (clock, kept) = (Arc::new(Set::default()), kept());
    let (memory, mut over) = (Arc::new(Memory::default()), Overwritten::new(made(new_disk(None, None)), 3));
    let id = id_of(&over.made.disk);
    shipper(&memory, id, &Keys::Plain, &kept, &clock).unwrap().ship(&over.made.store).unwrap();
    // What is left of its object lies side by side: it goes into one again.
    for i in 0..5 {
        over.made.fs.write(over.ino, i << 20, &pattern(1 << 20, i), WriteMode::default()).unwrap();
    }
    over.made.store.commit_now().unwrap();
    shipper(&memory, id, &Keys::Plain, &kept, &clock).unwrap().ship(&over.made.store).unwrap();
    over.made = over.made.reopen();
    over.ino = over.made.fs.lookup(ROOT_INO, b"f").unwrap().ino;
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept, &clock).unwrap();
    shipping.ship(&over.made.store).unwrap();
    memory.now.store(40 * 24 * HOUR as i64, Ordering::Relaxed);
    over.overwrite(1);
    shipping.ship(&over.made.store).unwrap();
    let options = Collect { min_age: Duration::from_secs(24 * HOUR), most: 10_000 };
    let gate = memory.lists_parts.lock();
    assert_eq!(shipping.collect_some(options).unwrap(), None, "it is being looked for");
    memory.now.store(0, Ordering::Relaxed);
    let before = memory.names("data/");
    let mut written = 0;
    loop {
        let done = shipping.rewrite(over.made.store.segments()).unwrap();
        written += done.blocks;
        if !done.more {
            break;
        }
    }
    assert!(written > 50, "{written}");
    let come: Vec<String> = memory.names("data/").into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!come.is_empty());
    drop(gate);
    wait_until("what can go is gone", || {
        shipping.collect_some(options).unwrap().is_some_and(|gone| gone.is_done)
    });
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&over.made.store));
    over.made.close();
}

/// What cannot be read stays where it is, and the rest goes on.
#[test]
fn what_is_damaged_is_not_written_anew() {
    let (clock, kept) = (Arc::new(Set::default()), kept());
    let (over, memory, mut shipping) = worn(&clock, &kept);
    let id = id_of(&over.made.disk);
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    let segments = over.made.store.segments();
    let fetcher = Fetcher::new(Arc::clone(&objects), sealer.clone(), shipping.catalog());
    segments.fetch_from(Arc::new(fetcher));
    segments.set_partial(true);
    segments.note_use(Box::new(|| {}));
    segments.resident_bytes().unwrap();
    while shipping.evict(segments, u64::MAX).unwrap().blocks > 0 {}
    // A block that is needed, in the part that is needed least.
    let parts = shipping.catalog().lock().parts();
    let count = |live: &[(u32, u32)]| live.iter().map(|(_, count)| *count).sum::<u32>();
    let (part, live) = parts.iter().min_by_key(|(part, live)| count(live) * 1000 / part.count).unwrap();
    let at = larder::remote::part_range(part, live[0].0, 1).start as usize + 100;
    let name = names::part(part);
    let mut bytes = memory.objects.lock()[&name].to_vec();
    bytes[at] ^= 1;
    memory.objects.lock().insert(name.clone(), bytes.into());
    let before = needed(&shipping);
    let mut written = 0;
    loop {
        let done = shipping.rewrite(segments).map_err(|e: ShipError| e.to_string()).unwrap();
        written += done.blocks;
        if !done.more {
            break;
        }
    }
    assert!(written > 50, "{written}");
    assert_eq!(needed(&shipping), before);
    let log = Log::open(objects, sealer, Seen::Nothing).unwrap();
    let found = check(&log, CheckOptions { read_data: true }).unwrap();
    assert!(found.fault_count == 1 && found.faults[0].contains(&name), "{found:?}");
    over.made.close();
}

/// From now on, all blocks of a store are only in its remote.
fn only_there(over: &Overwritten, memory: &Arc<Memory>, shipping: &mut Shipper) {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(id_of(&over.made.disk), &Keys::Plain, "memory:");
    let segments = over.made.store.segments();
    segments.fetch_from(Arc::new(Fetcher::new(objects, sealer, shipping.catalog())));
    segments.set_partial(true);
    segments.note_use(Box::new(|| {}));
    segments.resident_bytes().unwrap();
    while shipping.evict(segments, u64::MAX).unwrap().blocks > 0 {}
}

/// Writes all anew that is to be; how many blocks that were.
fn rewrite_all(over: &Overwritten, shipping: &mut Shipper, clock: &Arc<Set>) -> u64 {
    let mut written = 0;
    for _ in 0..5 {
        loop {
            let done = shipping.rewrite(over.made.store.segments());
            let done = done.map_err(|e: ShipError| e.to_string()).unwrap();
            written += done.blocks;
            if !done.more {
                break;
            }
        }
        clock.sleep(Duration::from_secs(120));
    }
    written
}

/// One object that was missing kept all others from being written anew, for good.
#[test]
fn what_is_missing_or_damaged_keeps_nothing_else_from_being_written_anew() {
    for is_missing in [true, false] {
        let (clock, kept) = (Arc::new(Set::default()), kept());
        let (mut over, memory, mut shipping) = worn(&clock, &kept);
        only_there(&over, &memory, &mut shipping);
        // The part of which least is needed goes first.
        let parts = shipping.catalog().lock().parts();
        let count = |live: &[(u32, u32)]| live.iter().map(|(_, count)| *count).sum::<u32>();
        let (part, _) = parts.iter().min_by_key(|(part, live)| count(live) * 1000 / part.count).unwrap();
        let object = memory.objects.lock().remove(&names::part(part)).unwrap();
        if !is_missing {
            memory.objects.lock().insert(names::part(part), vec![7; object.len()].into());
        }
        rewrite_all(&over, &mut shipping, &clock);
        for _ in 0..3 {
            over.overwrite(150);
            shipping.ship(&over.made.store).unwrap();
        }
        drop(shipping);
        over.made = over.made.reopen();
        over.ino = over.made.fs.lookup(ROOT_INO, b"f").unwrap().ino;
        let mut shipping = shipper(&memory, id_of(&over.made.disk), &Keys::Plain, &kept, &clock).unwrap();
        shipping.ship(&over.made.store).unwrap();
        only_there(&over, &memory, &mut shipping);
        let written = rewrite_all(&over, &mut shipping, &clock);
        assert!(written > 50, "{written}");
        let parts = shipping.catalog().lock().parts();
        assert!(parts.contains_key(part), "what cannot be read stays where it is");
        over.made.close();
    }
}

/// The copies here, the last good ones, went all the same.
#[test]
fn what_is_here_of_an_object_that_was_found_to_be_damaged_stays() {
    let (clock, kept) = (Arc::new(Set::default()), kept());
    let (over, memory, mut shipping) = worn(&clock, &kept);
    only_there(&over, &memory, &mut shipping);
    let parts = shipping.catalog().lock().parts();
    let count = |live: &[(u32, u32)]| live.iter().map(|(_, count)| *count).sum::<u32>();
    let (part, _) = parts.iter().min_by_key(|(part, live)| count(live) * 1000 / part.count).unwrap();
    let name = names::part(part);
    let put = |bytes: Vec<u8>| drop(memory.objects.lock().insert(name.clone(), bytes.into()));
    let whole = memory.objects.lock()[&name].to_vec();
    put(vec![7; whole.len()]);
    rewrite_all(&over, &mut shipping, &clock);
    assert!(shipping.catalog().lock().parts().contains_key(part), "it was met, and stays where it is");
    // All of it comes here.
    put(whole.clone());
    let seen = view::of_store(&over.made.store);
    put(vec![7; whole.len()]);
    let segments = over.made.store.segments();
    let mut gone = 0;
    loop {
        match shipping.evict(segments, u64::MAX).unwrap().blocks {
            0 => break,
            some => gone += some,
        }
    }
    assert!(gone > 0, "all else goes");
    assert!(view::of_store(&over.made.store) == seen);
    over.made.close();
}
