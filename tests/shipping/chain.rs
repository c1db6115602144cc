//! The chain of records: who goes on with it, what is not uploaded twice, and what goes when nothing needs it.

use super::{Memory, attached, id_of, kept, made, owner, read, reread, shipper, try_shipper};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk, secret};
use crate::model::view;
use crate::support::{pattern, wait_until};
use larder::crypto::Keys;
use larder::fs::ROOT_INO;
use larder::remote::{
    BootClock, Clock, Collect, Contents, Deadline, Kept, LeaseKind, Log, Objects, Owner, OwnerId,
    RemoteError, RemoteSealer, Seen, ShipError, ShipLimits, Shipper, Steal, claim, give_back, init, names,
    take_up,
};
use larder::volume::begin_reencryption_in;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ALL_AT_ONCE: Collect = Collect { min_age: Duration::ZERO, most: 1000 };

fn objects(memory: &Arc<Memory>) -> Arc<dyn Objects> {
    Arc::clone(memory) as Arc<dyn Objects>
}

fn log(memory: &Arc<Memory>, store: larder::store::StoreId) -> Log {
    Log::open(objects(memory), RemoteSealer::new(store, &Keys::Plain, "memory:"), Seen::Nothing).unwrap()
}

/// A process that dies at any request, done or not, is followed by one that goes on, without anybody's help, from what it noted.
#[test]
fn the_same_store_goes_on_wherever_its_process_died() {
    for dies_after in 1..40 {
        let made = made(new_disk(None, None));
        let (id, memory, mut kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
        let mut died = false;
        for round in 0..4 {
            made.write(&format!("f{round}"), &pattern(20_000, round));
            made.store.commit_now().unwrap();
            memory.dies_after(if round == 1 { dies_after } else { 0 });
            let shipped = try_shipper(&memory, id, &Keys::Plain, &kept)
                .map_err(ShipError::from)
                .and_then(|mut shipper| shipper.ship(&made.store));
            match shipped {
                Ok(_) => {}
                Err(e) => {
                    assert!(round == 1 && e.is_passing(), "{dies_after}: {e}");
                    died = true;
                }
            }
            // Another process, which knows what was noted.
            kept = reread(&kept);
        }
        memory.dies_after(0);
        assert!(died || dies_after > 8, "{dies_after}");
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store), "{dies_after}");
        made.close();
    }
}

/// A directory that was brought back from a copy ships nothing over what is newer, whenever the copy was made.
#[test]
fn a_store_that_went_back_in_time_is_found_out() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    // While it was open, and after that.
    let mut copies = vec![reread(&kept)];
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    drop(shipping);
    copies.push(reread(&kept));
    for round in 0..2 {
        made = made.reopen();
        made.write(&format!("g{round}"), b"two");
        made.store.commit_now().unwrap();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap();
        for copy in &copies {
            let refused = try_shipper(&memory, id, &Keys::Plain, &reread(copy)).unwrap_err();
            assert!(
                matches!(refused, RemoteError::Behind { .. } | RemoteError::Fenced { .. }),
                "{round}: {refused}"
            );
        }
        // Also when the records that tell have gone.
        assert!(shipping.collect(ALL_AT_ONCE).unwrap().unwrap().is_done);
    }
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// What was noted is of now, and the metadata are not: they came from another copy.
#[test]
fn metadata_that_went_back_in_time_are_found_out() {
    let made_now = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made_now.disk), Arc::new(Memory::default()), kept());
    made_now.store.commit_now().unwrap();
    let before = made_now.disk.after_kill();
    made_now.write("f", b"one");
    (0..20).for_each(|_| {
        made_now.write("g", b"two");
        made_now.fs.unlink(ROOT_INO, b"g").unwrap();
        made_now.store.commit_now().unwrap();
    });
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made_now.store).unwrap();
    drop(shipping);
    let then = made(before);
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let refused = shipping.ship(&then.store).unwrap_err();
    assert!(matches!(refused, ShipError::Remote(RemoteError::Behind { .. })), "{refused}");
    assert!(!refused.is_passing() && refused.to_string().contains("attach it anew"), "{refused}");
    then.close();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made_now.store));
    made_now.close();
}

/// Two directories that are one: whoever goes on first has it, and the other one mixes nothing into it.
#[test]
fn of_two_copies_of_a_store_one_ships() {
    let one = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&one.disk), Arc::new(Memory::default()), kept());
    shipper(&memory, id, &Keys::Plain, &kept).ship(&one.store).unwrap();
    one.store.commit_now().unwrap();
    let two = made(one.disk.after_kill());
    let mut shippers = [(&one, reread(&kept)), (&two, reread(&kept))].map(|(made, kept)| {
        made.write("f", b"f");
        made.store.commit_now().unwrap();
        try_shipper(&memory, id, &Keys::Plain, &kept)
    });
    let refused = shippers[1].as_ref().unwrap_err();
    assert!(matches!(refused, RemoteError::Fenced { .. }), "{refused}");
    shippers[0].as_mut().unwrap().ship(&one.store).unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&one.store));
    one.close();
    two.close();
}

/// A clock that each look at makes later.
#[derive(Debug)]
struct Hurried {
    now: AtomicU64,
    step: Duration,
}

impl Hurried {
    fn new(step: Duration) -> Arc<Self> {
        Arc::new(Self { now: AtomicU64::new(0), step })
    }
}

impl Clock for Hurried {
    fn now(&self) -> Duration {
        Duration::from_millis(self.now.fetch_add(self.step.as_millis() as u64, Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.now.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    fn wall(&self) -> larder::remote::When {
        larder::remote::When::default()
    }
}

/// The directory was copied to another host, or the host was started anew: an owner that it was may still be at it, and is looked at.
#[test]
fn a_copy_elsewhere_takes_nothing_from_an_owner_that_shows_life() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let sealer = || RemoteSealer::new(id, &Keys::Plain, "memory:");
    let clock = Hurried::new(Duration::ZERO);
    let sign = memory.names("alive/")[0].clone();
    let elsewhere = || Arc::new(Kept::in_memory("there", kept.local()));
    let mut looked = 0;
    let refused = take_up(objects(&memory), sealer(), &elsewhere(), &*clock, &mut |_| {
        looked += 1;
        // It lives.
        let mut bytes = memory.get(&sign, 4096).unwrap().to_vec();
        if looked == 3 {
            let held = log(&memory, id).state().held.clone().unwrap();
            let alive = larder::remote::Alive {
                owner: held.by.id,
                sign: held.sign,
                counter: 7,
                lease: LeaseKind::None,
                period: 10,
                life: larder::remote::Life::On,
            };
            bytes = sealer().seal_alive(&alive).unwrap().bytes.to_vec();
        }
        memory.put(&sign, bytes.into()).unwrap();
        true
    });
    assert!(matches!(refused, Err(RemoteError::InUse { .. })) && looked >= 3, "{refused:?}");
    // It does not.
    let before = clock.now();
    take_up(objects(&memory), sealer(), &elsewhere(), &*clock, &mut |_| true).unwrap();
    assert!(clock.now() - before >= larder::remote::LEASE_CLAIM);
    drop(shipping);
    made.close();
}

/// A first upload that is broken off goes on where it was, in another process.
#[test]
fn what_is_uploaded_is_not_uploaded_again_by_the_next_process() {
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        let keys = crate::model::harness::keys_of(&made.disk).unwrap();
        made.write("large", &pattern(90 << 20, 3));
        let (id, memory, mut kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
        let limits = ShipLimits { slice_bytes: 10 << 20, ..ShipLimits::default() };
        for process in 0..6 {
            memory.dies_after(if process < 5 { 30 } else { 0 });
            let before = memory.bytes("data/");
            let shipped = try_shipper(&memory, id, &keys, &kept)
                .map_err(ShipError::from)
                .and_then(|shipper| shipper.with_limits(limits).ship(&made.store));
            match shipped {
                Ok(_) => {
                    let uploaded = memory.bytes("data/") - before;
                    assert!(process > 0 && uploaded < 60 << 20, "{process}: {uploaded}");
                }
                Err(e) => assert!(e.is_passing() && process < 5, "{e}"),
            }
            kept = reread(&kept);
        }
        assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
        made.close();
    }
}

/// A state that takes long to upload is given up for the next one, and what was freed meanwhile comes back to the host.
#[test]
fn a_state_is_not_kept_for_as_long_as_its_upload_takes() {
    let made = made(new_disk(None, None));
    made.write("large", &pattern(100 << 20, 3));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    init(&*objects(&memory), &sealer, 1).unwrap();
    let clock: Arc<dyn Clock> = Hurried::new(Duration::from_secs(60));
    let (log, me) = take_up(objects(&memory), sealer, &kept, &*clock, &mut |_| true).unwrap();
    let limits =
        ShipLimits { slice_bytes: 10 << 20, state_life: Duration::from_secs(100), ..ShipLimits::default() };
    let mut shipping = Shipper::new(log, me, clock).unwrap().with_limits(limits);
    shipping.ship(&made.store).unwrap().unwrap();
    let log = self::log(&memory, id);
    let records: Vec<_> = log.chain(1, None).map(Result::unwrap).collect();
    let states = records.iter().filter(|r| matches!(&r.contents, Contents::Commit(c) if c.pages > 0));
    let slices = records.iter().filter(|r| matches!(&r.contents, Contents::Commit(c) if c.pages == 0));
    assert!(states.count() == 1 && slices.count() > 2);
    let epoch = made.store.meta().inspector().unwrap().epoch().unwrap();
    let shipped = records.iter().rev().find_map(|r| match &r.contents {
        Contents::Commit(commit) if commit.pages > 0 => Some(commit.redo_epoch),
        _ => None,
    });
    assert!(shipped.unwrap() <= epoch && memory.bytes("data/") < 103 << 20);
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// While a state is out, freed blocks stay, unless the host needs them; then the state is good for nothing, and says so.
#[test]
fn a_host_in_need_gets_what_was_freed_while_a_state_is_shipped() {
    let made = made(new_disk(None, None));
    let ino = made.write("large", &pattern(30 << 20, 3));
    made.store.commit_now().unwrap();
    let first = made.store.moment(false).unwrap();
    first.done();
    let moment = made.store.moment(true).unwrap();
    made.fs.unlink(ROOT_INO, b"large").unwrap();
    made.fs.forget(ino, 1);
    made.store.commit_now().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(moment.is_sound(), "there is room");
    made.disk.fill(true);
    wait_until("it is given up", || !moment.is_sound());
    made.disk.fill(false);
    wait_until("it is given back", || {
        made.store.commit_now().unwrap();
        made.store.meta().inspector().unwrap().freed().unwrap().is_empty()
    });
    drop(moment);
    // So it goes with shipping: the next state is shipped.
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    shipper(&memory, id, &Keys::Plain, &kept).ship(&made.store).unwrap().unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// What no state needs goes, when it is old; who was fenced long ago finds that out all the same.
#[test]
fn what_is_not_needed_goes_and_a_fence_stays() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let mut stale = log(&memory, id);
    let stale_owner = stale.state().held.clone().unwrap().by;
    made.write("kept", &pattern(3000, 1));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    let old = made.write("old", &pattern(5 << 20, 2));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    assert!(memory.bytes("data/") > 5 << 20);
    let mut made = made;
    made.fs.unlink(ROOT_INO, b"old").unwrap();
    made.fs.forget(old, 1);
    wait_until("it is shipped that it is gone", || {
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap();
        shipping.catalog().lock().parts().is_empty()
    });
    drop(shipping);
    let day = 24 * 3600;
    let mut before = 0;
    for round in 0..4 {
        memory.now.fetch_add(day + 1, Ordering::Relaxed);
        made = made.reopen();
        made.write(&format!("f{round}"), &pattern(5000, round));
        made.store.commit_now().unwrap();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap().unwrap();
        before = memory.names("").len();
        let gone = shipping.collect(Collect::default()).unwrap().unwrap();
        assert!(gone.is_done && (round == 0) == (gone.objects == 0), "{round}: {gone:?}");
        assert_eq!(shipping.collect(Collect::default()).unwrap(), None, "it was looked for");
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    }
    assert!(memory.names("").len() < before);
    assert!(memory.bytes("data/") < 1 << 20, "the old file is gone");
    // The record with the small file stays, as long as an image names it; and all claims do.
    let claims = memory.names("log/").len();
    assert!(claims >= 5, "{claims}");
    let me = Owner { id: stale_owner.id, host: stale_owner.host, lease: LeaseKind::None };
    let commit = || Contents::Commit(Box::default());
    for _ in 0..2 {
        let fenced = stale.append(&me, commit(), None, larder::remote::When::default());
        assert!(matches!(fenced, Err(RemoteError::Fenced { .. })), "{fenced:?}");
    }
    made.close();
}

/// An owner that another has taken the store from removes nothing.
#[test]
fn only_the_owner_removes_anything() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    for round in 0..3 {
        made = made.reopen();
        made.write(&format!("f{round}"), &pattern(100_000, round));
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap();
    }
    let thief = Owner { id: OwnerId(2), host: "thief".into(), lease: LeaseKind::None };
    claim(&mut log(&memory, id), &thief, Steal::Yes, &larder::remote::BootClock, &mut |_| true).unwrap();
    let before = memory.names("");
    let gone = shipping.collect(ALL_AT_ONCE).unwrap().unwrap();
    assert_eq!((gone.objects, memory.names("")), (0, before));
    made.close();
}

/// What is only read is not taken for what was written: a file of before is there after all that.
#[test]
fn images_and_what_goes_leave_every_block_where_it_counts() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    for round in 0..6u64 {
        made = made.reopen();
        // Neighbours come and go, in parts and in records.
        for i in 0..6 {
            made.write(
                &format!("a{round}-{i}"),
                &pattern(if i == 3 { 2 << 20 } else { 9000 }, round * 10 + i),
            );
        }
        made.store.commit_now().unwrap();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        shipping.ship(&made.store).unwrap();
        for i in [1, 3] {
            made.fs.unlink(ROOT_INO, format!("a{round}-{i}").as_bytes()).unwrap();
        }
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap();
        assert!(shipping.collect(ALL_AT_ONCE).unwrap().unwrap().is_done);
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store), "{round}");
    }
    assert!(read(&made.fs, "a0-2", 0, 9000) == pattern(9000, 2));
    made.close();
}

/// A claim that was given back at once changed nothing. Any other takes the store, also where the record before it is not needed any more.
#[test]
fn who_gave_the_store_back_at_once_took_it_from_nobody() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    drop(shipping);
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    for round in 0..2 {
        let mut other = log(&memory, id);
        let me = owner(7 + round);
        claim(&mut other, &me, Steal::Yes, &*clock, &mut |_| true).unwrap();
        give_back(&mut other, &me, &clock).unwrap();
        assert!(other.state().held.is_none());
        // It may be asked for again.
        give_back(&mut other, &me, &clock).unwrap();
    }
    let mut shipping = shipper(&memory, id, &Keys::Plain, &reread(&kept));
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap().unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// It was taken for a store that went back in time.
#[test]
fn who_was_fenced_is_told_so_when_its_last_record_is_gone() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    made.write("f", b"one");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    let last = shipping.log().state().newest.number;
    drop(shipping);
    claim(&mut log(&memory, id), &owner(7), Steal::Yes, &BootClock, &mut |_| true).unwrap();
    memory.objects.lock().remove(&names::record(last)).unwrap();
    let refused = try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap_err();
    assert!(matches!(refused, RemoteError::Fenced { .. }), "{refused}");
    made.close();
}

/// It was taken for damage, and the store took changes.
#[test]
fn who_was_fenced_is_told_so_when_there_are_other_keys() {
    let made = made(new_encrypted_disk(None, None));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let (memory, kept) = (Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &keys, &kept);
    shipping.ship(&made.store).unwrap();
    drop(shipping);
    let theirs = keys.only(&[1]);
    let sealer = RemoteSealer::new(id, &theirs, "memory:");
    let mut other = Log::open(objects(&memory), sealer, Seen::Nothing).unwrap();
    claim(&mut other, &owner(7), Steal::Yes, &BootClock, &mut |_| true).unwrap();
    theirs.add(begin_reencryption_in(&made.disk.after_kill(), &secret(), false).unwrap().keys).unwrap();
    let commit = Contents::Commit(Box::default());
    other.append(&owner(7), commit, None, BootClock.wall()).unwrap();
    let refused = try_shipper(&memory, id, &keys, &reread(&kept)).unwrap_err();
    assert!(matches!(refused, RemoteError::Fenced { .. }), "{refused}");
    made.close();
}

/// A first upload that no mount was long enough for began anew each time.
#[test]
fn what_was_uploaded_in_time_counts_for_the_next_process() {
    let made = made(new_disk(None, None));
    made.write("large", &pattern(100 << 20, 3));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let deadline = Deadline::default();
    *memory.parts_until.lock() = Some((2, deadline.clone()));
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept).until(&deadline);
    let refused = shipping.ship(&made.store).unwrap_err();
    assert!(refused.is_passing() && refused.to_string().contains("is over"), "{refused}");
    drop(shipping);
    *memory.parts_until.lock() = None;
    let there = memory.bytes("data/");
    assert!(there > 20 << 20 && there < 100 << 20, "{there}");
    shipper(&memory, id, &Keys::Plain, &reread(&kept)).ship(&made.store).unwrap().unwrap();
    assert!(memory.bytes("data/") < 102 << 20, "{there} {}", memory.bytes("data/"));
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// Nothing waits while it is looked for what can be removed, and what is put meanwhile stays.
#[test]
fn what_is_not_needed_goes_beside_what_is_shipped() {
    let mut made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let options = Collect { min_age: Duration::from_secs(5), most: 10 };
    let (mut removed, mut rounds) = (0, 0);
    while removed < 40 {
        rounds += 1;
        assert!(rounds < 100, "{removed}");
        made = made.reopen();
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        for round in 0..10 {
            memory.now.fetch_add(1, Ordering::Relaxed);
            made.write(&format!("f{rounds}-{round}"), &pattern(3_000, round));
            if round % 2 == 1 {
                made.fs.unlink(ROOT_INO, format!("f{rounds}-{}", round - 1).as_bytes()).unwrap();
            }
            made.store.commit_now().unwrap();
            shipping.ship(&made.store).unwrap();
            removed += shipping.collect_some(options).unwrap().map_or(0, |gone| gone.objects);
            std::thread::sleep(Duration::from_millis(2));
        }
        if rounds % 5 == 0 {
            assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
        }
    }
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    // What cannot be removed is said.
    memory.now.fetch_add(100, Ordering::Relaxed);
    made = made.reopen();
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    memory.now.fetch_add(100, Ordering::Relaxed);
    made.write("last", b"last");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap();
    memory.keeps_all.store(true, Ordering::Relaxed);
    wait_until("it is refused", || shipping.collect_some(options).is_err());
    made.close();
}
