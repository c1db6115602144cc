//! Removing a store from a remote, killed at every step.

use super::{Memory, attached, id_of, kept, made, owner, shipper};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::pattern;
use bytes::Bytes;
use larder::crypto::Keys;
use larder::remote::{
    BootClock, Clock, Listed, Log, Objects, Outcome, Remains, RemoteError, RemoteSealer, Seen, ShipError,
    Shipper, Steal, When, activity, claim, erase, erase_unchanged, init, must_still_be, names, nobody_lives,
    not_let_go, read_store, remains,
};
use larder::store::StoreId;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Whatever is left of a store is no store, and nobody begins another one beside it; and the removal goes on.
#[test]
fn a_removal_that_is_killed_leaves_nothing_that_could_be_taken_for_a_store() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
        let whole = Arc::new(Memory::default());
        let mut shipping = shipper(&whole, id, &keys, &kept());
        for round in 0..4 {
            made.write(&format!("f{round}"), &pattern(1_500_000, round));
            made.store.commit_now().unwrap();
            shipping.ship(&made.store).unwrap();
        }
        let expected = view::of_store(&made.store);
        // Something that is no volume's, and stays.
        whole.objects.lock().insert("notes/readme".into(), Bytes::from("hello"));
        whole.objects.lock().insert("log/readme".into(), Bytes::from("hello"));
        let (mut untouched, mut half) = (0, 0);
        for dies_after in 1.. {
            let memory = Arc::new(Memory::default());
            memory.objects.lock().clone_from(&whole.objects.lock());
            let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
            memory.dies_after(dies_after);
            let killed = erase(&*objects, &mut |_| {});
            memory.dies_after(0);
            let other = RemoteSealer::new(StoreId(77), &larder::crypto::Keys::Plain, "memory:");
            if killed.is_ok() {
                assert_eq!(memory.names(""), ["log/readme", "notes/readme"]);
                assert!(remains(&objects).unwrap().is_none());
                init(&*objects, &other, 1).unwrap();
                break;
            }
            let left = read_store(&*objects);
            let begun = init(&*objects, &other, 1);
            match left {
                Ok(Some(store)) => {
                    // Nothing has happened yet.
                    assert!(store.store == id && matches!(begun, Err(RemoteError::OtherStore { .. })));
                    assert!(attached(&memory, id, &keys) == expected);
                    untouched += 1;
                }
                Ok(None) => {
                    // The last request was done, and its answer was lost.
                    assert_eq!(memory.names(""), ["log/readme", "notes/readme", "probe", "store"]);
                    begun.unwrap();
                    continue;
                }
                Err(e) => {
                    assert!(matches!(e, RemoteError::BeingRemoved { .. }), "{dies_after}: {e}");
                    assert!(
                        matches!(begun, Err(RemoteError::BeingRemoved { .. })),
                        "{dies_after}: {begun:?}"
                    );
                    assert_eq!(remains(&objects).unwrap(), Some(Remains::Half));
                    half += 1;
                }
            }
            // It is given again, and goes on.
            erase(&*objects, &mut |_| {}).unwrap();
            assert_eq!(memory.names(""), ["log/readme", "notes/readme"], "{dies_after}");
        }
        assert!(untouched > 0 && half > 10, "{untouched} {half}");
        made.close();
    }
}

/// Something happens right before an object is written.
pub(super) struct Meanwhile {
    memory: Arc<Memory>,
    under: &'static str,
    what: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    pub(super) fn new(
        memory: &Arc<Memory>,
        under: &'static str,
        what: impl FnOnce() + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { memory: Arc::clone(memory), under, what: Mutex::new(Some(Box::new(what))) })
    }

    fn writes(&self, name: &str) {
        if name.starts_with(self.under)
            && let Some(what) = self.what.lock().take()
        {
            what();
        }
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Objects for Meanwhile {
    fn place(&self) -> &str {
        self.memory.place()
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.writes(name);
        self.memory.put_new(name, bytes)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.writes(name);
        self.memory.put(name, bytes)
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.memory.get(name, most)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.memory.get_range(name, range)
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.memory.head(name)
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.memory.list(under, after, most)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.memory.list_dirs(under, most)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.memory.delete(name)
    }
}

/// Whoever had claimed it in the moment in which its removal began lost it.
#[test]
fn who_claims_a_store_while_its_removal_begins_keeps_it() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
        let memory = Arc::new(Memory::default());
        shipper(&memory, id, &keys, &kept()).ship(&made.store).unwrap().unwrap();
        let expected = view::of_store(&made.store);
        let claims = {
            let (memory, keys) = (Arc::clone(&memory), keys.clone());
            move |number| {
                let me = owner(number);
                let mut log =
                    Log::open(memory, RemoteSealer::new(id, &keys, "memory:"), Seen::Nothing).unwrap();
                claim(&mut log, &me, Steal::Yes, &BootClock, &mut |_| true).unwrap();
                must_still_be(&log, &me).unwrap();
            }
        };
        // Before it is looked again, and after that.
        let before = activity(&*memory).unwrap();
        claims.clone()(8);
        let is_changed = |objects: &dyn Objects, before| {
            let refused = erase_unchanged(objects, before, &mut |_| {}).unwrap_err();
            assert!(matches!(refused, RemoteError::Changed { .. }), "{refused}");
            assert_eq!(read_store(&*memory).unwrap().unwrap().store, id);
            assert!(attached(&memory, id, &keys) == expected);
        };
        is_changed(&*memory, &before);
        let before = activity(&*memory).unwrap();
        is_changed(&*Meanwhile::new(&memory, names::STORE, move || claims(9)), &before);
        // Nobody comes.
        let before = activity(&*memory).unwrap();
        erase_unchanged(&*memory, &before, &mut |_| {}).unwrap();
        assert!(memory.names("").is_empty());
        made.close();
    }
}

/// It took its own claim for a record that had been there and was gone, and shipped nothing any more.
#[test]
fn a_claim_that_had_to_go_again_keeps_nobody_from_going_on() {
    let made = made(new_disk(None, None));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let (memory, kept) = (Arc::new(Memory::default()), kept());
    let newest = shipper(&memory, id, &keys, &kept).ship(&made.store).unwrap().unwrap().newest.number;
    let store = memory.objects.lock()[names::STORE].clone();
    let begins = {
        let memory = Arc::clone(&memory);
        move || {
            memory.dies_after(2);
            erase(&*memory, &mut |_| {}).unwrap_err();
            memory.dies_after(0);
        }
    };
    let objects: Arc<dyn Objects> = Meanwhile::new(&memory, names::LOG, begins);
    let (sealer, clock) = (RemoteSealer::new(id, &keys, "memory:"), Arc::new(BootClock));
    let refused = Shipper::take_up(objects, sealer, &kept, clock, &mut |_| true).unwrap_err();
    assert!(matches!(refused, RemoteError::BeingRemoved { .. }), "{refused}");
    assert_eq!(kept.local().seen, newest);
    // Whoever began to remove it has found the claim, and takes that back.
    memory.objects.lock().insert(names::STORE.into(), store);
    made.write("new", &pattern(30_000, 5));
    made.store.commit_now().unwrap();
    shipper(&memory, id, &keys, &kept).ship(&made.store).unwrap().unwrap();
    assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
    made.close();
}

/// Its records were of no store, and it did not know.
#[test]
fn who_claims_a_store_that_was_removed_meanwhile_finds_out_and_leaves_nothing() {
    let made = made(new_disk(None, None));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    // It was removed; its removal was begun; and another one was begun there.
    for (kills, begins) in [(0, false), (2, false), (0, true)] {
        let memory = Arc::new(Memory::default());
        shipper(&memory, id, &keys, &kept()).ship(&made.store).unwrap().unwrap();
        let removes = {
            let memory = Arc::clone(&memory);
            move || {
                memory.dies_after(kills);
                assert_eq!(erase(&*memory, &mut |_| {}).is_ok(), kills == 0);
                memory.dies_after(0);
                if begins {
                    memory.objects.lock().clear();
                    init(&*memory, &RemoteSealer::new(StoreId(77), &Keys::Plain, "memory:"), 1).unwrap();
                }
            }
        };
        let objects = Meanwhile::new(&memory, names::LOG, removes);
        let mut log = Log::open(objects, RemoteSealer::new(id, &keys, "memory:"), Seen::Nothing).unwrap();
        let mine = log.state().newest.number + 1;
        claim(&mut log, &owner(9), Steal::Yes, &BootClock, &mut |_| true).unwrap();
        assert!(memory.names(names::LOG).contains(&names::record(mine)));
        let refused = must_still_be(&log, &owner(9)).unwrap_err();
        match (kills, begins) {
            (0, false) => assert!(matches!(refused, RemoteError::NoStore { .. }), "{refused}"),
            (0, true) => assert!(matches!(refused, RemoteError::OtherStore { .. }), "{refused}"),
            _ => assert!(matches!(refused, RemoteError::BeingRemoved { .. }), "{refused}"),
        }
        assert!(!memory.names(names::LOG).contains(&names::record(mine)));
        assert!(memory.names(names::ALIVE).iter().all(|name| !name.contains(&owner(9).id.to_string())));
    }
    made.close();
}

/// Somebody who goes on after its store was removed leaves records that are of no store.
#[test]
fn what_an_owner_writes_after_a_removal_is_found_and_goes() {
    let made = made(new_disk(None, None));
    let (id, keys, memory) = (id_of(&made.disk), keys_of(&made.disk).unwrap(), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap();
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let late = memory.objects.lock().get(&names::record(1)).cloned().unwrap();
    erase(&*objects, &mut |_| {}).unwrap();
    made.write("f", &pattern(10_000, 1));
    made.store.commit_now().unwrap();
    let refused = shipping.ship(&made.store).unwrap_err();
    assert!(matches!(&refused, ShipError::Remote(RemoteError::Gone { .. })), "{refused}");
    assert!(memory.names("log/").is_empty(), "it takes back what it has written");
    // One that dies before that does not.
    memory.put(&names::record(1), late).unwrap();
    assert_eq!(remains(&objects).unwrap(), Some(Remains::Half));
    let other = RemoteSealer::new(StoreId(77), &keys, "memory:");
    assert!(matches!(init(&*objects, &other, 1), Err(RemoteError::BeingRemoved { .. })));
    erase(&*objects, &mut |_| {}).unwrap();
    assert!(memory.names("").is_empty());
    made.close();
}

/// A clock that goes on when somebody sleeps, and what happens then.
struct Ticking {
    now: Mutex<Duration>,
    meanwhile: Box<dyn Fn(Duration) + Send + Sync>,
}

impl std::fmt::Debug for Ticking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticking")
    }
}

impl Clock for Ticking {
    fn now(&self) -> Duration {
        *self.now.lock()
    }

    fn sleep(&self, time: Duration) {
        let now = {
            let mut now = self.now.lock();
            *now += time;
            *now
        };
        (self.meanwhile)(now);
    }

    fn wall(&self) -> When {
        When::default()
    }
}

/// By its signs of life, also of an encrypted store that nobody can read.
#[test]
fn an_owner_that_lives_keeps_its_store() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
        let memory = Arc::new(Memory::default());
        let shipping = shipper(&memory, id, &keys, &kept());
        let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
        let Some(Remains::Store(survey)) = remains(&objects).unwrap() else { panic!("it is a store") };
        let me = shipping.owner().clone();
        let who = not_let_go(&survey, &|_| false).unwrap();
        assert!(keys.is_encrypted() || who.contains(&me.host), "{who}");
        assert_eq!(not_let_go(&survey, &|owner| owner == me.id), None);
        let [sign] = &memory.names(names::ALIVE)[..] else { panic!("one sign") };
        for alive in [true, false] {
            let (shown, sign) = (Arc::clone(&memory), sign.clone());
            let meanwhile = move |now: Duration| {
                if alive && now > Duration::from_secs(19) {
                    shown.objects.lock().insert(sign.clone(), Bytes::from("another one"));
                }
            };
            let clock = Ticking { now: Mutex::default(), meanwhile: Box::new(meanwhile) };
            let mut left = Vec::new();
            let told = nobody_lives(&*objects, &clock, &mut |time| {
                left.push(time);
                true
            });
            assert_eq!(told.is_ok(), !alive, "{told:?}");
            assert!(left.is_sorted_by(|a, b| a >= b) && left[0] >= Duration::from_secs(20), "{left:?}");
        }
        // One that has said goodbye has nothing.
        memory.objects.lock().remove(sign);
        let mut log =
            Log::open(Arc::clone(&objects), RemoteSealer::new(id, &keys, "memory:"), Seen::Nothing).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(larder::remote::BootClock);
        larder::remote::goodbye(
            &mut log,
            &me,
            &larder::remote::Permit::new(me.lease, Arc::clone(&clock)),
            &*clock,
        )
        .unwrap();
        let Some(Remains::Store(survey)) = remains(&objects).unwrap() else { panic!("it is a store") };
        assert_eq!(not_let_go(&survey, &|_| false), None);
        made.close();
    }
}
