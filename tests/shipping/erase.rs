//! Removing a store from a remote, killed at every step.

use super::{Memory, attached, id_of, kept, made, shipper};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::pattern;
use bytes::Bytes;
use larder::remote::{
    Clock, Log, Objects, Remains, RemoteError, RemoteSealer, Seen, When, erase, init, names, nobody_lives,
    not_let_go, read_store, remains,
};
use larder::store::StoreId;
use parking_lot::Mutex;
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

/// Somebody who goes on after its store was removed leaves records that are of no store.
#[test]
fn what_an_owner_writes_after_a_removal_is_found_and_goes() {
    let made = made(new_disk(None, None));
    let (id, keys, memory) = (id_of(&made.disk), keys_of(&made.disk).unwrap(), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap();
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    erase(&*objects, &mut |_| {}).unwrap();
    made.write("f", &pattern(10_000, 1));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    assert!(!memory.names("log/").is_empty());
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
