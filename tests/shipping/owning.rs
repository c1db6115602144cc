//! Owners that were cut off, and what others have done meanwhile.

use super::{Made, Memory, id_of, kept, made, owner, shipper};
use crate::model::harness::new_disk;
use crate::support::pattern;
use larder::crypto::Keys;
use larder::remote::{
    Beat, BootClock, Clock, HEARTBEAT, Kept, LeaseKind, Local, Log, Objects, Owner, Permit, Remains,
    RemoteError, RemoteSealer, Round, Seen, ShipError, Shipper, Steal, Stopped, activity, claim,
    erase_unchanged, must_be_free, must_still_be, names, not_let_go, read_store, remains,
};
use larder::store::{Header, StoreId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn objects(memory: &Arc<Memory>) -> Arc<dyn Objects> {
    Arc::clone(memory) as Arc<dyn Objects>
}

fn log(memory: &Arc<Memory>, id: StoreId) -> Log {
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    Log::open(objects(memory), sealer, Seen::Nothing).unwrap()
}

/// Another host takes the store.
fn stolen(memory: &Arc<Memory>, id: StoreId) -> (Log, Owner) {
    let (mut log, me) = (log(memory, id), owner(9));
    claim(&mut log, &me, Steal::Yes, &BootClock, &mut |_| true).unwrap();
    (log, me)
}

fn beat(memory: &Arc<Memory>, shipping: &Shipper) -> (Beat, Arc<Permit>) {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let permit = Permit::new(shipping.owner().lease, Arc::clone(&clock));
    let (log, me) = (shipping.log(), shipping.owner());
    let beat = Beat::new(objects(memory), log, me, Arc::clone(&permit), clock, HEARTBEAT).unwrap();
    (beat, permit)
}

/// Writes a file and ships it; the newest record, if it is known that all is there.
fn write(made: &Made, shipping: &mut Shipper, name: &str) -> Result<u64, ShipError> {
    made.write(name, &pattern(9000, 1));
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).map(|shipped| shipped.unwrap().newest.number)
}

/// It took what the next owner had removed for a remote that has gone back in time, and removed the record with blocks that this one needed.
#[test]
fn an_owner_that_was_cut_off_removes_nothing_that_the_next_one_needs() {
    for is_told_by_heartbeat in [false, true] {
        let made = made(new_disk(None, None));
        let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        write(&made, &mut shipping, "a").unwrap();
        let before = write(&made, &mut shipping, "b").unwrap();
        // The next record gets there, and whether this one is still there is not to be seen.
        *memory.unread.lock() = Some(names::record(before));
        assert!(write(&made, &mut shipping, "c").unwrap_err().is_passing());
        let last = shipping.log().state().newest.number;
        assert_eq!(last, before + 1);
        let (log, me) = stolen(&memory, id);
        assert_eq!(log.state().held.as_ref().unwrap().record, last + 1);
        // The next owner removes what it does not need, and goes on with what it does.
        memory.objects.lock().remove(&names::record(before)).unwrap();
        *memory.unread.lock() = None;
        let refused = match is_told_by_heartbeat {
            false => write(&made, &mut shipping, "d").unwrap_err(),
            true => shipping.take_back(&*memory, before).unwrap_err().into(),
        };
        assert!(
            matches!(&refused, ShipError::Remote(RemoteError::Fenced { by, .. }) if by.by == me.id),
            "{refused}"
        );
        assert!(memory.objects.lock().contains_key(&names::record(last)));
        made.close();
    }
}

/// It went on as the owner for as long as there was no room for its sign of life.
#[test]
fn an_owner_that_cannot_write_learns_that_the_volume_was_taken() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    write(&made, &mut shipping, "a").unwrap();
    let (mut beat, permit) = beat(&memory, &shipping);
    assert_eq!(beat.round().unwrap(), Round::Owner);
    memory.is_full.store(true, Ordering::Relaxed);
    assert!(beat.round().is_err());
    assert_eq!(permit.stopped(), None);
    memory.is_full.store(false, Ordering::Relaxed);
    let (_, me) = stolen(&memory, id);
    memory.is_full.store(true, Ordering::Relaxed);
    assert!(beat.round().is_err());
    assert!(matches!(permit.stopped(), Some(Stopped::Fenced(by)) if by.by == me.id), "{permit:?}");
    memory.is_full.store(false, Ordering::Relaxed);
    assert_eq!(beat.round().unwrap(), Round::Stopped);
    made.close();
}

/// Only the number of its newest record was looked for, which the other one's had as well: both answered.
#[test]
fn an_owner_sees_that_its_newest_record_is_anothers() {
    for keeps_one in [false, true] {
        let made = made(new_disk(None, None));
        let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        write(&made, &mut shipping, "a").unwrap();
        let (mut beat, permit) = beat(&memory, &shipping);
        let copy = memory.objects.lock().clone();
        let newest = write(&made, &mut shipping, "b").unwrap();
        // What was written since the last round is known from this one on.
        assert_eq!(beat.round().unwrap(), Round::Owner);
        assert_eq!(beat.round().unwrap(), Round::Owner);
        if keeps_one {
            // Without anybody else's doing, it is as it was.
            let changed = memory.objects.lock().remove(&names::record(newest)).unwrap();
            memory.objects.lock().insert(names::record(newest), changed);
            assert_eq!(beat.round().unwrap(), Round::Owner);
        }
        *memory.objects.lock() = copy;
        let (log, me) = stolen(&memory, id);
        assert_eq!(log.state().newest.number, newest);
        assert_eq!(beat.round().unwrap(), Round::Stopped);
        let stopped = permit.stopped();
        assert!(
            matches!(&stopped, Some(Stopped::Fenced(by)) if by.by == me.id && by.record == newest),
            "{stopped:?}"
        );
        made.close();
    }
}

/// A slot that was taken away from the store still opened it.
#[test]
fn a_version_of_the_header_that_is_not_listed_yet_goes_as_well() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    write(&made, &mut shipping, "a").unwrap();
    let change = |history: u64, shipping: &mut Shipper| {
        let mut header = Header::read(&made.disk).unwrap();
        assert!(header.has_remote(Some(history)));
        header.replace(&made.disk).unwrap();
        write(&made, shipping, &format!("h{history}")).unwrap();
        shipping.log().state().header.number
    };
    assert_eq!(change(7000, &mut shipping), 2);
    *memory.unlisted.lock() = Some(names::header(2));
    assert_eq!(change(8000, &mut shipping), 3);
    assert_eq!(memory.names("header/"), [names::header(3)]);
    // Another process, which has removed none before.
    drop(shipping);
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    *memory.unlisted.lock() = Some(names::header(3));
    assert_eq!(change(9000, &mut shipping), 4);
    assert_eq!(memory.names("header/"), [names::header(4)]);
    made.close();
}

/// Another host took the volume without being told to, from one that went on serving it.
#[test]
fn who_goes_on_serving_does_not_say_that_it_has_stopped() {
    for lease in [LeaseKind::None, LeaseKind::Strict] {
        let made = made(new_disk(None, None));
        let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
        let mut local = Local::new("memory:").unwrap();
        local.lease = lease.to_string();
        let kept = Arc::new(Kept::in_memory("here", local));
        let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
        write(&made, &mut shipping, "a").unwrap();
        // As when it cannot go on with what it has claimed just now.
        shipping.say_over();
        let mut log = log(&memory, id);
        let free = must_be_free(&log, Steal::No);
        match lease {
            LeaseKind::None => {
                assert!(matches!(free, Err(RemoteError::InUse { .. })), "{free:?}");
                let refused = claim(&mut log, &owner(9), Steal::No, &BootClock, &mut |_| true);
                assert!(matches!(refused, Err(RemoteError::InUse { .. })), "{refused:?}");
                assert_eq!(beat(&memory, &shipping).0.round().unwrap(), Round::Owner);
            }
            LeaseKind::Strict => {
                free.unwrap();
                claim(&mut log, &owner(9), Steal::No, &BootClock, &mut |_| true).unwrap();
            }
        }
        made.close();
    }
}

/// The store was said to be removed, its owner shipped nothing any more, and the next removal removed it under its owner.
#[test]
fn a_removal_that_is_killed_while_it_looks_whether_it_may_leaves_the_store_to_its_owner() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let before = activity(&*memory).unwrap();
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    write(&made, &mut shipping, "a").unwrap();
    let nobody = activity(&*memory).unwrap();
    assert_ne!(before, nobody);
    let (mut killed, mut counts) = (0, Vec::new());
    for dies_after in 1.. {
        // The sign of life changes right after it was looked at, so that the removal is to be taken back.
        let (mut beat, permit) = beat(&memory, &shipping);
        let then = activity(&*memory).unwrap();
        memory.dies_after(dies_after);
        let mut removed = |_| ();
        let racing = super::erase::Meanwhile::new(&memory, names::STORE, {
            let memory = Arc::clone(&memory);
            move || {
                let name = memory.names("alive/").pop().unwrap();
                let mut objects = memory.objects.lock();
                let changed = [&objects[&name][..], b"x"].concat();
                objects.insert(name, changed.into());
            }
        });
        let refused = erase_unchanged(&*racing, &then, &mut removed).unwrap_err();
        memory.dies_after(0);
        if matches!(refused, RemoteError::Changed { .. }) && read_store(&*memory).is_ok() {
            counts.push(dies_after);
            break;
        }
        // Its owner goes on, and nobody else begins.
        assert_eq!(beat.round().unwrap(), Round::Owner, "{dies_after}: {permit:?}");
        let file = format!("f{dies_after}");
        write(&made, &mut shipping, &file).unwrap();
        if let Err(e) = read_store(&*memory) {
            assert!(matches!(e, RemoteError::BeingRemoved { .. }), "{e}");
            let log = log(&memory, id);
            let other = must_still_be(&log, &owner(9));
            assert!(matches!(other, Err(RemoteError::BeingRemoved { .. })), "{other:?}");
            killed += 1;
            if killed > 1 {
                // (It takes some seconds.)
                objects(&memory).put(names::STORE, whole(id)).unwrap();
                continue;
            }
            // Who is to remove it finds it as it was, and who has it.
            let there = remains(&objects(&memory)).unwrap();
            let Some(Remains::Store(survey)) = there else { panic!("{there:?}") };
            assert!(not_let_go(&survey, &|_| false).is_some());
            assert!(read_store(&*memory).unwrap().is_some());
        }
    }
    assert!(killed > 0 && !counts.is_empty(), "{killed} {counts:?}");
    made.close();
}

/// The object that says what the store is.
fn whole(id: StoreId) -> bytes::Bytes {
    let sealer = RemoteSealer::new(id, &Keys::Plain, "memory:");
    sealer.seal_store(&larder::remote::StoreObject::new(id, 1, false)).unwrap().bytes
}
