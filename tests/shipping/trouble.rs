//! What a remote, or a process, may do that nobody expects of it.

use super::{Memory, attached, id_of, kept, made, owner, reread, shipper, try_shipper};
use crate::model::harness::new_disk;
use crate::model::view;
use crate::support::{pattern, wait_until};
use larder::crypto::Keys;
use larder::fs::ROOT_INO;
use larder::remote::{
    Beat, BootClock, CheckOptions, Clock, Collect, Contents, Deadline, HEARTBEAT, Heartbeat, LeaseKind, Log,
    Objects, Permit, RemoteError, RemoteSealer, Round, Seen, Shipper, Steal, Stopped, check, claim,
    header_versions, names, take_up,
};
use larder::store::StoreId;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{ThreadId, current};
use std::time::Duration;

fn objects(memory: &Arc<Memory>) -> Arc<dyn Objects> {
    Arc::clone(memory) as Arc<dyn Objects>
}

fn open(memory: &Arc<Memory>, store: StoreId) -> larder::remote::Result<Log> {
    Log::open(objects(memory), RemoteSealer::new(store, &Keys::Plain, "memory:"), Seen::Nothing)
}

/// Where the newest record is was looked for without end.
#[test]
fn names_at_the_end_of_all_numbers_lead_nowhere() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    let newest = shipping.log().state().newest.number;
    for name in ["log/ffffffffffffffff", "log/8000000000000000", "log/x"] {
        memory.put(name, b"it is a test".as_slice().into()).unwrap();
    }
    memory.put("header/ffffffffffffffff", b"it is a test".as_slice().into()).unwrap();
    assert_eq!(header_versions(&*memory).unwrap(), [1]);
    assert_eq!(open(&memory, id).unwrap().state().newest.number, newest);
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap().unwrap();
    drop(shipping);
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    // The last one that a record may have is not passed over.
    memory.put("log/7fffffffffffffff", b"it is a test".as_slice().into()).unwrap();
    let refused = open(&memory, id).unwrap_err();
    assert!(matches!(refused, RemoteError::Damaged { .. }), "{refused}");
    made.close();
}

/// What was freed was known as something to keep from then on, and its part or record stayed for good.
#[test]
fn what_was_freed_between_two_that_are_shipped_is_not_kept() {
    let made = made(new_disk(None, None));
    let held = made.store.hold_freed();
    let inos = ["a", "b", "c"].map(|name| made.write(name, &pattern(9000, 1)));
    made.store.commit_now().unwrap();
    made.fs.unlink(ROOT_INO, b"b").unwrap();
    made.fs.forget(inos[1], 1);
    wait_until("it is freed", || {
        made.store.commit_now().unwrap();
        made.store.meta().segments().iter().map(|row| row.live).sum::<u32>() == 6
    });
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    let catalog = shipping.catalog();
    let known: u32 = catalog.lock().records().values().flatten().map(|run| run.count).sum();
    assert_eq!((known, catalog.lock().parts().len()), (6, 0));
    drop(held);
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// No sign of life was shown any more, and nobody learnt that.
#[test]
fn a_heartbeat_that_panics_goes_on() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
    let (log, me) = (shipping.log(), shipping.owner());
    let beat = Beat::new(objects(&memory), log, me, permit, clock, HEARTBEAT).unwrap();
    let sign = memory.names("alive/")[0].clone();
    let before = memory.get(&sign, 4096).unwrap();
    memory.panics.store(true, Ordering::Relaxed);
    let heartbeat = Heartbeat::start(beat).unwrap();
    wait_until("it panics", || !memory.panics.load(Ordering::Relaxed));
    wait_until("life is shown", || memory.get(&sign, 4096).unwrap() != before);
    drop(heartbeat);
    made.close();
}

/// It was shipped on, over what had gone.
#[test]
fn a_remote_that_goes_back_while_its_owner_runs_is_found_out() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let beat = |shipping: &Shipper| {
        let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
        let (log, me) = (shipping.log(), shipping.owner());
        let mut beat = Beat::new(objects(&memory), log, me, permit, Arc::clone(&clock), HEARTBEAT).unwrap();
        assert_eq!(beat.round().unwrap(), Round::Owner);
        beat
    };
    let mut is_idle = true;
    for _ in 0..2 {
        let mut beat = beat(&shipping);
        let newest = names::record(shipping.log().state().newest.number);
        if !is_idle {
            made.write("f", b"one");
            made.store.commit_now().unwrap();
            shipping.ship(&made.store).unwrap().unwrap();
        }
        let record = memory.objects.lock().remove(&newest).unwrap();
        assert_ne!(beat.round().ok(), Some(Round::Owner), "{is_idle}");
        memory.put(&newest, record).unwrap();
        is_idle = false;
    }
    made.close();
}

/// Only the newest record of the round before was looked for, and others had come behind one that was lost since.
#[test]
fn a_record_that_is_lost_between_two_that_are_there_is_missed() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let ship = |shipping: &mut Shipper, name: &str| {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap().newest.number
    };
    ship(&mut shipping, "first");
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    for count in [1, 3, 12] {
        let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
        let (log, me) = (shipping.log(), shipping.owner());
        let mut beat =
            Beat::new(objects(&memory), log, me, Arc::clone(&permit), Arc::clone(&clock), HEARTBEAT).unwrap();
        assert_eq!(beat.round().unwrap(), Round::Owner);
        for i in 0..count {
            ship(&mut shipping, &format!("{count}-{i}"));
        }
        assert_eq!(beat.round().unwrap(), Round::Owner);
        let lost = ship(&mut shipping, &format!("{count}-lost"));
        for i in 0..count {
            ship(&mut shipping, &format!("{count}-{i}-later"));
        }
        let record = memory.objects.lock().remove(&names::record(lost)).unwrap();
        assert_eq!(beat.round().unwrap(), Round::Stopped, "{count}");
        assert!(matches!(permit.stopped(), Some(Stopped::Older(number)) if number == lost), "{permit:?}");
        memory.put(&names::record(lost), record).unwrap();
    }
    drop(shipping);
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// Each attempt left another claim behind, without end.
#[test]
fn a_remote_in_which_something_is_missing_is_not_claimed() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    made.write("f", &pattern(2_000_000, 1));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap().unwrap();
    let image = shipping.log().state().image;
    for name in ["g", "h"] {
        made.write(name, b"one");
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap();
    }
    drop(shipping);
    let log = open(&memory, id).unwrap();
    let Contents::Image(found) = log.read(image).unwrap().contents else { panic!("it is no image") };
    let table = names::piece(&found.tables[0].hash);
    for gone in [table, names::record(image), names::record(image + 1)] {
        let object = memory.objects.lock().remove(&gone).unwrap();
        let records = memory.names("log/");
        for _ in 0..2 {
            let refused = try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap_err();
            assert!(matches!(&refused, RemoteError::Lost { name, .. } if *name == gone), "{refused}");
        }
        assert_eq!(memory.names("log/"), records);
        memory.put(&gone, object).unwrap();
    }
    let mut shipping = try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap();
    made.write("i", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap().unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// A clock that each look at makes later for whoever looks; for other threads than that which made it, it was late already.
#[derive(Debug)]
struct Hurried(ThreadId);

impl Clock for Hurried {
    fn now(&self) -> Duration {
        thread_local! {
            static SPENT: Cell<u64> = const { Cell::new(0) };
        }
        let spent = SPENT.replace(SPENT.get() + 40);
        let late = if current().id() == self.0 { 0 } else { 1 << 30 };
        Duration::from_secs(late + spent)
    }

    fn sleep(&self, _: Duration) {}

    fn wall(&self) -> larder::remote::When {
        larder::remote::When::default()
    }
}

/// What took long to list was looked for again and again, and nothing was removed.
#[test]
fn what_was_listed_long_ago_is_looked_at_again_and_goes() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    for round in 0..4 {
        memory.now.fetch_add(1, Ordering::Relaxed);
        made = made.reopen();
        made.write(&format!("f{round}"), &pattern(100_000, round));
        made.store.commit_now().unwrap();
        shipper(&memory, id, &Keys::Plain, &kept).ship(&made.store).unwrap();
    }
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    let (log, me) = take_up(objects(&memory), sealer, &kept, &BootClock, &mut |_| true).unwrap();
    let mut shipping = Shipper::new(log, me, Arc::new(Hurried(current().id()))).unwrap();
    shipping.ship(&made.store).unwrap();
    let options = Collect { min_age: Duration::ZERO, most: 1000 };
    let gone = shipping.collect(options).unwrap().unwrap();
    assert!(gone.objects > 3 && gone.is_done, "{gone:?}");
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// Two hosts both had the store, each with a history of its own.
#[test]
fn an_object_store_that_overwrites_what_is_there_is_no_remote() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let is_refused = |e: &RemoteError| {
        assert!(
            matches!(e, RemoteError::Overwrites { .. }) && e.to_string().contains("If-None-Match"),
            "{e}"
        );
    };
    *memory.overwrites.lock() = Some("");
    is_refused(&try_shipper(&memory, id, &Keys::Plain, &kept).unwrap_err());
    assert!(memory.names("log/").is_empty(), "nothing was claimed");
    *memory.overwrites.lock() = None;
    shipper(&memory, id, &Keys::Plain, &kept).ship(&made.store).unwrap().unwrap();
    // It is another one by now, or it has forgotten how.
    *memory.overwrites.lock() = Some("");
    let before = memory.names("log/");
    is_refused(&try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap_err());
    assert_eq!(memory.names("log/"), before);
    *memory.overwrites.lock() = None;
    shipper(&memory, id, &Keys::Plain, &reread(&kept));
    // Another claimer overwrites the claim before it is read back.
    let mut other = open(&memory, id).unwrap();
    let mut log = open(&memory, id).unwrap();
    let next = names::record(log.state().newest.number + 1);
    claim(&mut other, &owner(8), Steal::Yes, &BootClock, &mut |_| true).unwrap();
    let theirs = memory.objects.lock().remove(&next).unwrap();
    *memory.written_over.lock() = Some((next, theirs));
    is_refused(&claim(&mut log, &owner(9), Steal::Yes, &BootClock, &mut |_| true).unwrap_err());
    made.close();
}

/// It was said to be complete.
#[test]
fn a_remote_without_any_metadata_is_not_complete() {
    let made = made(new_disk(None, None));
    made.write("large", &pattern(100 << 20, 3));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let deadline = Deadline::default();
    *memory.parts_until.lock() = Some((2, deadline.clone()));
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept).until(&deadline);
    let look = || check(&open(&memory, id).unwrap(), CheckOptions { read_data: true }).unwrap();
    let found = look();
    assert!(
        found.faults.iter().any(|fault| fault.contains("no record has metadata")),
        "only a claim: {found:?}"
    );
    shipping.ship(&made.store).unwrap_err();
    *memory.parts_until.lock() = None;
    let found = look();
    assert!(
        found.faults.iter().any(|fault| fault.contains("no record has metadata")),
        "only parts: {found:?}"
    );
    drop(shipping);
    shipper(&memory, id, &Keys::Plain, &reread(&kept)).ship(&made.store).unwrap().unwrap();
    assert_eq!(look().faults, [""; 0]);
    memory.objects.lock().retain(|name, _| !name.starts_with("log/"));
    let found = look();
    assert!(found.fault_count == 1 && found.faults[0].contains("has no record"), "{found:?}");
    made.close();
}

/// By the clock of a host that had been set back, they were as old as what nothing needs any more.
#[test]
fn parts_that_come_while_it_is_looked_for_what_may_go_stay_whatever_clocks_say() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let options = Collect { min_age: Duration::from_secs(24 * 3600), most: 1000 };
    for round in 0..3 {
        memory.now.fetch_add(10 * 24 * 3600, Ordering::Relaxed);
        made = made.reopen();
        made.write(&format!("f{round}"), &pattern(5000, round));
        made.store.commit_now().unwrap();
        shipper(&memory, id, &Keys::Plain, &kept).ship(&made.store).unwrap();
    }
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    made.write("g", b"g");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    let gate = memory.lists_parts.lock();
    assert_eq!(shipping.collect_some(options).unwrap(), None, "it is being looked for");
    memory.now.store(0, Ordering::Relaxed);
    made.write("large", &pattern(20 << 20, 3));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    drop(gate);
    wait_until("what can go is gone", || {
        shipping.collect_some(options).unwrap().is_some_and(|gone| gone.is_done)
    });
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// It was taken for a remote that has gone back in time, and nothing was shipped any more.
#[test]
fn a_record_that_is_found_late_was_there() {
    let made = made(new_disk(None, None));
    let (memory, id, kept) = (Arc::new(Memory::default()), id_of(&made.disk), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    let newest = shipping.log().state().newest;
    kept.saw(newest).unwrap();
    let hide = |times| *memory.late.lock() = Some((names::record(newest.number), times));
    // The sign of life looks for it.
    let (objects, clock): (Arc<dyn Objects>, Arc<dyn Clock>) =
        (Arc::clone(&memory) as Arc<dyn Objects>, Arc::new(BootClock));
    let permit = Permit::new(LeaseKind::None, Arc::clone(&clock));
    let me = shipping.owner().clone();
    let mut beat = Beat::new(objects, shipping.log(), &me, Arc::clone(&permit), clock, HEARTBEAT).unwrap();
    hide(2);
    assert_eq!(beat.round().unwrap(), Round::Owner);
    assert_eq!(*memory.late.lock(), Some((names::record(newest.number), 0)));
    // And so does the next process.
    drop(shipping);
    hide(3);
    let mut shipping = try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap();
    made.write("g", b"two");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    // One that does not come again is missing.
    let newest = shipping.log().state().newest;
    kept.saw(newest).unwrap();
    memory.objects.lock().remove(&names::record(newest.number));
    let refused = try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap_err();
    assert!(matches!(refused, RemoteError::Older { .. }), "{refused}");
    made.close();
}
