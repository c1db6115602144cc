//! Power that is cut, and processes that are killed, at every step of what has to do with a remote: the next process goes on with the same
//! remote, without anybody's help, and ships what the store is then.

use super::{Memory, attached, cases, kept, made, try_shipper};
use crate::disk::{Access, Disk, Survives};
use crate::model::harness::{Harness, check_partial_disk, keys_of, new_disk, new_encrypted_disk};
use crate::model::history::{Allowed, History};
use crate::model::operation::Operation;
use crate::model::view::{self, difference};
use crate::replica::operations_for;
use crate::support::{pattern, scratch};
use bytes::Bytes;
use larder::backing::Dir;
use larder::crypto::Keys;
use larder::open_store::{OpenStore, StoreOptions, lay_down};
use larder::remote::{
    BootClock, Clock, Collect, Fetcher, Kept, Listed, Local, Log, Objects, Outcome, RemoteSealer, Seen,
    Shipper, When, init, read_header,
};
use larder::store::{Elsewhere, Header, StoreId};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What is left when everything ends at some moment.
struct Cut {
    disk: Disk,
    local: Local,
    objects: BTreeMap<String, Bytes>,
    made: BTreeMap<String, i64>,
    allowed: Allowed,
    when: String,
}

/// Who keeps what is left, now and then.
struct Watch {
    disk: Disk,
    memory: Arc<Memory>,
    kept: Arc<Kept>,
    history: History,
    state: Mutex<(StdRng, Vec<Cut>)>,
    /// How likely a moment is looked at.
    likely: f64,
}

impl Watch {
    fn look(&self, disk: &Disk, when: &str) {
        let (rng, cuts) = &mut *self.state.lock();
        if !rng.random_bool(self.likely) {
            return;
        }
        // In this order, none has what is later than what the next one has.
        let first = self.history.allowed().first;
        let local = self.kept.local();
        let (objects, made) = (self.memory.objects.lock().clone(), self.memory.made.lock().clone());
        let disk = match rng.random_range(0..4) {
            0 => disk.after_kill(),
            1 => disk.after_power_loss(Survives::Nothing, rng),
            2 => disk.after_power_loss(Survives::Everything, rng),
            _ => disk.after_power_loss(Survives::Some, rng),
        };
        let allowed = Allowed { first, last: self.history.allowed().last };
        cuts.push(Cut { disk, local, objects, made, allowed, when: when.into() });
    }

    /// Looks at each access to the disk, too, as long as `work` takes.
    fn during<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let watch = Arc::clone(self);
        self.disk.watch(move |disk, access, name| {
            if matches!(access, Access::Write | Access::Sync | Access::SyncDir | Access::Punch) {
                watch.look(disk, &format!("{access:?} {name}"));
            }
        });
        let done = work();
        self.disk.watch(|_, _, _| {});
        done
    }
}

/// An object store before and after each of whose requests somebody looks.
struct Watched(Arc<Watch>);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    fn ask<T>(&self, what: &str, name: &str, work: impl FnOnce(&Memory) -> Outcome<T>) -> Outcome<T> {
        self.0.look(&self.0.disk, &format!("before {what} {name}"));
        let done = work(&self.0.memory);
        self.0.look(&self.0.disk, &format!("after {what} {name}"));
        done
    }
}

impl Objects for Watched {
    fn place(&self) -> &str {
        "memory:"
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.ask("making", name, |memory| memory.put_new(name, bytes))
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.ask("writing", name, |memory| memory.put(name, bytes))
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.0.memory.get(name, most)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.0.memory.get_range(name, range)
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.0.memory.head(name)
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.0.memory.list(under, after, most)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.0.memory.list_dirs(under, most)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.ask("removing", name, |memory| memory.delete(name))
    }
}

/// A clock that goes on when somebody waits: whoever was cut in its first claim is waited for.
#[derive(Debug, Default)]
struct Hurried(Mutex<Duration>);

impl Clock for Hurried {
    fn now(&self) -> Duration {
        BootClock.now() + *self.0.lock()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock() += time;
    }

    fn wall(&self) -> When {
        BootClock.wall()
    }
}

/// Claims the store and gets ready to ship it, watched.
fn watched(watch: &Arc<Watch>, store: StoreId, keys: &Keys) -> Shipper {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let objects: Arc<dyn Objects> = Arc::new(Watched(Arc::clone(watch)));
    let sealer = RemoteSealer::new(store, keys, "memory:");
    init(&*objects, &sealer, 1).unwrap();
    Shipper::take_up(objects, sealer, &watch.kept, clock, &mut |_| true).unwrap()
}

/// Opens what is left, goes on with it, and attaches it elsewhere.
fn verify(cut: &Cut, store: StoreId, history: &History) {
    let when = &cut.when;
    let memory = Memory { objects: Mutex::new(cut.objects.clone()), ..Memory::default() };
    *memory.made.lock() = cut.made.clone();
    let (memory, keys) = (Arc::new(memory), keys_of(&cut.disk).unwrap());
    let is_partial = cut.local.partial;
    let kept = Arc::new(Kept::in_memory("here", cut.local.clone()));
    let options = StoreOptions {
        moments: true,
        is_partial,
        commit_interval: Duration::from_millis(20),
        ..StoreOptions::default()
    };
    let opened = OpenStore::open_with(Arc::new(cut.disk.clone()), None, keys.clone(), options).unwrap();
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let (sealer, clock) = (RemoteSealer::new(store, &keys, "memory:"), Arc::new(Hurried::default()));
    init(&*objects, &sealer, 1).unwrap_or_else(|e| panic!("{when}: {e}"));
    let taken = Shipper::take_up(Arc::clone(&objects), sealer.clone(), &kept, clock, &mut |_| true);
    let mut shipping = taken.unwrap_or_else(|e| panic!("{when}: {e}"));
    let fetcher = Arc::new(Fetcher::new(objects, sealer, shipping.catalog()));
    opened.segments().fetch_from(fetcher as Arc<dyn Elsewhere>);
    let seen = view::of_store(&opened);
    history.find(cut.allowed, &seen);
    opened.commit_now().unwrap();
    shipping.ship(&opened).unwrap_or_else(|e| panic!("{when}: {e}"));
    opened.close().unwrap();
    check_partial_disk(&cut.disk, is_partial);
    let found = attached(&memory, store, &keys);
    assert!(found == seen, "{when}: {}", difference(&found, &seen));
}

fn run(disk: Disk, seed: u64) -> usize {
    let store = Header::read(&disk).unwrap().store;
    let mut harness = Harness::noting(disk.clone());
    let (memory, kept) = (Arc::new(Memory::default()), kept());
    let watch = Arc::new(Watch {
        disk,
        memory,
        kept,
        history: harness.history(),
        state: Mutex::new((StdRng::seed_from_u64(seed), Vec::new())),
        likely: 0.2,
    });
    let keys = harness.keys();
    let mut shipping = watch.during(|| watched(&watch, store, &keys));
    let others = |operation: &Operation| {
        use Operation::{Kill, LosePower, Reencrypt, Reopen};
        !matches!(operation, Reopen | Kill | LosePower { .. } | Reencrypt { .. })
    };
    let operations: Vec<Operation> = operations_for(seed).into_iter().filter(others).collect();
    for (i, some) in operations.chunks(8).enumerate() {
        harness.steps(some);
        watch.during(|| {
            let shipped = match i % 2 {
                0 => harness.ship(&mut shipping).1,
                _ => harness.ship_synced(&mut shipping).1,
            };
            shipped.unwrap();
            if i % 3 == 2 {
                shipping.collect(Collect { min_age: Duration::ZERO, most: 1000 }).unwrap();
            }
            // Another owner of the same place, as after a restart of the server.
            if i % 4 == 3 {
                shipping = watched(&watch, store, &keys);
            }
        });
    }
    let cuts = std::mem::take(&mut watch.state.lock().1);
    cuts.iter().for_each(|cut| verify(cut, store, &watch.history));
    harness.finish();
    cuts.len()
}

#[test]
fn whatever_is_cut_while_a_store_is_claimed_shipped_and_collected_goes_on() {
    let mut cuts = 0;
    for seed in 0..(cases() / 5).max(2) {
        eprintln!("seed {seed}");
        let disk = if seed % 2 == 0 { new_disk(None, None) } else { new_encrypted_disk(None, None) };
        cuts += run(disk, 700 + seed);
    }
    assert!(cuts > 20, "{cuts}");
}

/// An attach says that it is done when it is so for good.
#[test]
fn what_an_attach_has_laid_down_survives_a_cut_right_after_it() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        made.write("large", &pattern(3_000_000, 1));
        for i in 0..30 {
            made.write(&format!("f{i}"), &pattern(20_000, i));
        }
        made.store.commit_now().unwrap();
        let store = Header::read(&made.disk).unwrap().store;
        let (memory, keys) = (Arc::new(Memory::default()), keys_of(&made.disk).unwrap());
        let mut shipping = try_shipper(&memory, store, &keys, &kept()).unwrap();
        shipping.ship(&made.store).unwrap();
        let expected = view::of_store(&made.store);
        made.close();

        let tmp = scratch();
        std::fs::create_dir(tmp.path().join("segments")).unwrap();
        let disk = Disk::copy_of(tmp.path());
        let dir: Arc<dyn Dir> = Arc::new(disk.clone());
        let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
        let sealer = RemoteSealer::new(store, &keys, "memory:");
        let log = Log::open(Arc::clone(&objects), sealer.clone(), Seen::Nothing).unwrap();
        let (json, _) = read_header(&*objects, store, log.state().header).unwrap();
        let laid = lay_down(&dir, &log, store, &json, &keys).unwrap();
        let catalog = Arc::new(Mutex::new(laid.catalog));
        let mut rng = StdRng::seed_from_u64(1);
        let mut left = vec![disk.after_kill()];
        for survives in [Survives::Nothing, Survives::Some, Survives::Some, Survives::Everything] {
            left.push(disk.after_power_loss(survives, &mut rng));
        }
        for disk in left {
            let keys = keys_of(&disk).unwrap();
            let options = StoreOptions {
                is_partial: true,
                commit_interval: Duration::from_millis(20),
                ..StoreOptions::default()
            };
            let opened = OpenStore::open_with(Arc::new(disk.clone()), None, keys, options).unwrap();
            let fetcher = Fetcher::new(Arc::clone(&objects), sealer.clone(), Arc::clone(&catalog));
            opened.segments().fetch_from(Arc::new(fetcher) as Arc<dyn Elsewhere>);
            let found = view::of_store(&opened);
            assert!(found == expected, "{}", difference(&found, &expected));
            opened.close().unwrap();
            check_partial_disk(&disk, true);
        }
    }
}
