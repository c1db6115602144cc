//! A remote that somebody empties, or brings back from an older copy, while a host ships to it.

use super::{Memory, attached, id_of, kept, made, shipper};
use crate::model::harness::new_disk;
use crate::model::view;
use larder::crypto::Keys;
use larder::remote::{
    Beat, BootClock, Clock, Contents, Counted, Counts, HEARTBEAT, LeaseKind, Log, Objects, Permit,
    RemoteError, RemoteSealer, Round, Seen, ShipError, Shipper, Stopped, StoreObject, init, names,
};
use larder::store::StoreId;
use std::sync::Arc;

fn objects(memory: &Arc<Memory>) -> Arc<dyn Objects> {
    Arc::clone(memory) as Arc<dyn Objects>
}

fn beat(memory: &Arc<Memory>, shipping: &Shipper) -> (Beat, Arc<Permit>) {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
    let (log, me) = (shipping.log(), shipping.owner());
    let beat = Beat::new(objects(memory), log, me, Arc::clone(&permit), clock, HEARTBEAT).unwrap();
    (beat, permit)
}

/// The object that says what the store is, of another one.
fn other_store() -> bytes::Bytes {
    let id = StoreId::random().unwrap();
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    sealer.seal_store(&StoreObject::new(id, 1, false)).unwrap().bytes
}

/// It was shipped there as if nothing had happened, and said to be complete.
#[test]
fn a_remote_that_was_emptied_is_not_shipped_to() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    shipping.must_be_there(true).unwrap();
    let all = memory.objects.lock().clone();
    // What is missing is named, whatever it is.
    let image = shipping.log().state().image;
    for (name, said) in
        [(names::header(1), names::header(1)), (names::record(image), format!("record {image} was there"))]
    {
        *memory.objects.lock() = all.clone();
        shipping.must_be_there(true).unwrap();
        memory.objects.lock().remove(&name).unwrap();
        let refused = shipping.must_be_there(true).unwrap_err().to_string();
        assert!(refused.contains(&said), "{refused}");
    }
    memory.objects.lock().clear();
    for whole in [false, true] {
        let refused = shipping.must_be_there(whole).unwrap_err();
        assert!(matches!(&refused, RemoteError::Gone { .. }), "{refused}");
        assert!(refused.to_string().contains("larder remote detach"), "{refused}");
    }
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    let refused = shipping.ship(&made.store).unwrap_err();
    assert!(matches!(&refused, ShipError::Remote(RemoteError::Gone { .. })), "{refused}");
    assert_eq!(memory.names("log/"), [""; 0], "what was written there is taken back");
    made.close();
}

/// Nothing was in the remote any more for those who sync, and nobody made it good.
#[test]
fn what_was_removed_of_what_is_read_first_is_made_anew() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let write = |shipping: &mut Shipper, name: &str| {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap();
    };
    write(&mut shipping, "a");
    write(&mut shipping, "b");
    let of = |what: usize, shipping: &Shipper| {
        let state = shipping.log().state();
        match what {
            0 => names::header(state.header.number),
            1 => names::record(state.image),
            _ => names::record(state.held.as_ref().unwrap().record),
        }
    };
    for what in 0..3 {
        let name = of(what, &shipping);
        memory.objects.lock().remove(&name).unwrap();
        let lost = shipping.must_be_there(true).unwrap_err();
        assert!(matches!(&lost, RemoteError::Lost { name: of, .. } if *of == name), "{lost}");
        // Although nothing is new.
        shipping.ship(&made.store).unwrap().unwrap();
        shipping.must_be_there(true).unwrap();
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store), "{name}");
        assert_eq!(shipping.ship(&made.store).unwrap(), None, "once");
        write(&mut shipping, &format!("after{what}"));
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store), "{name}");
    }
    made.close();
}

/// It showed life where there was no store, and did not know.
#[test]
fn an_owner_learns_that_its_store_is_gone() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    let all = memory.objects.lock().clone();
    for (store, said) in [(None, "is missing"), (Some(other_store()), "another store")] {
        *memory.objects.lock() = all.clone();
        let (mut beat, permit) = beat(&memory, &shipping);
        assert_eq!(beat.round().unwrap(), Round::Owner);
        {
            let mut objects = memory.objects.lock();
            objects.remove(names::STORE);
            objects.extend(store.map(|store| (names::STORE.to_owned(), store)));
        }
        assert_eq!(beat.round().unwrap(), Round::Stopped);
        let Some(Stopped::Gone(what)) = permit.stopped() else { panic!("{permit:?}") };
        assert!(what.contains(said), "{what}");
        assert_eq!(memory.names("alive/"), [""; 0], "nobody takes it for alive");
        assert_eq!(beat.round().unwrap(), Round::Stopped);
    }
    made.close();
}

/// It was a record that nobody could get to, and an attach failed.
#[test]
fn nothing_stays_behind_a_record_that_is_gone() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let mut ship = |name: &str| {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        let shipped = shipping.ship(&made.store);
        (shipped.map(|shipped| shipped.unwrap().newest.number), shipping.log().state().newest.number)
    };
    ship("first").0.unwrap();
    let (copy, then) = (memory.objects.lock().clone(), view::of_store(&made.store));
    let last = ship("second").0.unwrap();
    *memory.objects.lock() = copy;
    let (refused, _) = ship("third");
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, ShipError::Remote(RemoteError::Older { seen, .. }) if *seen == last),
        "{refused}"
    );
    assert!(!memory.objects.lock().contains_key(&names::record(last + 1)));
    assert!(attached(&memory, id, &Keys::Plain) == then);
    // What was there before has another record now: somebody else went on from the older copy.
    let log = Log::open(objects(&memory), RemoteSealer::new(id, &Keys::Plain, "memory:"), Seen::Nothing);
    let mut log = log.unwrap();
    let me = super::owner(9);
    larder::remote::claim(&mut log, &me, larder::remote::Steal::Yes, &BootClock, &mut |_| true).unwrap();
    assert_eq!(log.state().newest.number, last);
    let (refused, _) = ship("fourth");
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("another one has its number now"), "{refused}");
    log.append(&me, Contents::Commit(Box::default()), None, BootClock.wall()).unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == then);
    made.close();
}

/// The same where records were written before it was seen.
#[test]
fn what_was_written_behind_a_gap_is_taken_back() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let mut views = Vec::new();
    for name in ["a", "b", "c", "d"] {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap();
        views.push((shipping.log().state().newest.number, view::of_store(&made.store)));
    }
    let (mut beat, permit) = beat(&memory, &shipping);
    let lost = views[1].0;
    memory.objects.lock().remove(&names::record(lost)).unwrap();
    shipping.take_back(&*memory, lost).unwrap();
    let there = memory.names("log/");
    assert_eq!(there.last().unwrap(), &names::record(views[0].0));
    assert!(attached(&memory, id, &Keys::Plain) == views[0].1);
    assert_eq!(beat.round().unwrap(), Round::Stopped);
    assert!(matches!(permit.stopped(), Some(Stopped::Older(_))), "{permit:?}");
    made.close();
}

/// What it costs that each record is seen to follow on one that is there: a request to read with each that writes it.
#[test]
fn a_record_costs_one_request_to_write_and_one_to_read() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let counts = Arc::<Counts>::default();
    let counted: Arc<dyn Objects> = Arc::new(Counted::new(objects(&memory), Arc::clone(&counts)));
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    init(&*counted, &sealer, 1).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let mut shipping = Shipper::take_up(Arc::clone(&counted), sealer, &kept, clock, &mut |_| true).unwrap();
    shipping.ship(&made.store).unwrap();
    for name in ["a", "b", "c"] {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        let before = counts.so_far();
        shipping.ship(&made.store).unwrap().unwrap();
        let after = counts.so_far();
        assert_eq!((after.writes - before.writes, after.reads - before.reads), (1, 1));
        assert_eq!((after.lists, after.removals), (before.lists, before.removals));
    }
    let (mut beat, _) = {
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
        let (log, me) = (shipping.log(), shipping.owner());
        let beat = Beat::new(Arc::clone(&counted), log, me, Arc::clone(&permit), clock, HEARTBEAT);
        (beat.unwrap(), permit)
    };
    let before = counts.so_far();
    beat.round().unwrap();
    let after = counts.so_far();
    // Life; the store, the next number, and the newest record; and what may lie behind a gap.
    assert_eq!((after.writes - before.writes, after.reads - before.reads), (1, 3));
    assert_eq!(after.lists - before.lists, 1);
    made.close();
}
