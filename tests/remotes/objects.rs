//! Requests that fail, and the log of a remote in bad hands.

use super::sealed::{STORE, keys, owner, sealer};
use super::shipped::ship;
use super::simulated::{Bucket, Faults, Simulated};
use super::suite;
use super::world::{Host, World};
use bytes::Bytes;
use larder::crypto::Keys;
use larder::remote::{
    Alive, Beat, CheckOptions, Clock, Contents, HEARTBEAT, LEASE_CLAIM, LEASE_VALID, LeaseKind, Life,
    Limited, Limits, Log, Objects, Owner, Patience, Patient, Permit, RemoteError, Round, Seen, Steal,
    Stopped, StoreObject, Trouble, check, claim, goodbye, names, survey,
};
use std::sync::Arc;
use std::time::Duration;

/// A host without faults, and a bucket.
struct Quiet {
    world: Arc<World>,
    host: Arc<Host>,
    bucket: Arc<Bucket>,
}

impl Quiet {
    fn new() -> Self {
        let world = World::new();
        Self { host: Host::new(&world, 1, 0), world, bucket: Bucket::new(Duration::ZERO) }
    }

    /// With a store, whose owner looks whether it is there.
    fn begun() -> Self {
        let quiet = Self::new();
        let objects = quiet.objects();
        let sealed = sealer(STORE, &Keys::Plain, &*objects).seal_store(&StoreObject::new(STORE, 1, false));
        objects.put(names::STORE, sealed.unwrap().bytes).unwrap();
        quiet
    }

    fn with(&self, faults: Faults) -> Arc<Simulated> {
        Simulated::new(&self.bucket, &self.host, faults)
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.with(Faults::default())
    }

    fn patient(&self, faults: Faults) -> Patient {
        Patient::new(self.with(faults), self.clock(), Patience::default())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.host) as Arc<dyn Clock>
    }

    fn log(&self, seen: Seen) -> larder::remote::Result<Log> {
        self.log_of(&Keys::Plain, seen)
    }

    fn log_of(&self, keys: &Keys, seen: Seen) -> larder::remote::Result<Log> {
        let objects = self.objects();
        Log::open(Arc::clone(&objects), sealer(STORE, keys, &*objects), seen)
    }

    fn claimed(&self, me: &Owner) -> Log {
        let mut log = self.log(Seen::Nothing).unwrap();
        claim(&mut log, me, Steal::No, &*self.host, &mut |_| true).unwrap();
        log
    }

    fn commits(&self, log: &mut Log, me: &Owner, count: usize) {
        for _ in 0..count {
            self.append(log, me, Contents::Commit(Box::default()));
        }
    }

    fn append(&self, log: &mut Log, me: &Owner, contents: Contents) {
        log.append(me, contents, None, self.host.wall()).unwrap();
    }
}

#[test]
fn the_simulated_store_does_what_all_do() {
    let host = Quiet::new();
    suite::everything(&|| Simulated::new(&Bucket::new(Duration::ZERO), &host.host, Faults::default()));
}

#[test]
fn a_lost_answer_is_found_out_and_a_taken_name_too() {
    let quiet = Quiet::new();
    let patient = quiet.patient(Faults { lost_answers: 40, errors: 20, ..Faults::default() });
    let (mut done, mut given_up) = (0, 0);
    for i in 0..200 {
        let (name, mine) = (format!("log/{i:016x}"), Bytes::from(format!("mine {i}")));
        match patient.put_new(&name, mine.clone()) {
            Ok(()) => done += 1,
            Err(e) => {
                assert_eq!(e.trouble, Trouble::Unreachable, "{e}");
                given_up += 1;
            }
        }
        quiet.objects().put(&name, mine).unwrap();
    }
    assert!(done > 100 && given_up < 100, "{done} {given_up}");
    for i in 0..200 {
        match patient.put_new(&format!("log/{i:016x}"), Bytes::from_static(b"another")) {
            Ok(()) => panic!("it was there"),
            Err(e) => assert!(matches!(e.trouble, Trouble::Exists | Trouble::Unreachable), "{e}"),
        }
    }
}

#[test]
fn what_does_not_pass_is_not_tried_again_and_what_does_for_a_while() {
    let quiet = Quiet::new();
    let broken = quiet.with(Faults::default());
    let patient = Patient::new(Arc::clone(&broken) as Arc<dyn Objects>, quiet.clock(), Patience::default());
    for trouble in [Trouble::Refused, Trouble::Other, Trouble::Full, Trouble::Missing] {
        broken.break_with(Some(trouble));
        let before = quiet.world.now();
        assert_eq!(patient.put_new("a", Bytes::new()).unwrap_err().trouble, trouble);
        assert_eq!(quiet.world.now(), before);
    }
    broken.break_with(Some(Trouble::Unreachable));
    let before = quiet.world.now();
    assert_eq!(patient.get("a", 1).unwrap_err().trouble, Trouble::Unreachable);
    let took = quiet.world.now() - before;
    assert!(took > Duration::from_secs(20) && took < Duration::from_secs(35), "{took:?}");
}

#[test]
fn limits_are_kept() {
    let quiet = Quiet::new();
    let limits = Limits { upload: Some(1000), download: Some(2000), requests: Some(10) };
    let limited = Limited::new(quiet.objects(), quiet.clock(), limits);
    let took = |work: &dyn Fn()| {
        let before = quiet.host.now();
        work();
        (quiet.host.now() - before).as_secs_f64()
    };
    let up =
        took(&|| (0..10).for_each(|i| limited.put_new(&format!("log/{i}"), vec![0; 1000].into()).unwrap()));
    assert!((8.5..10.5).contains(&up), "{up}");
    let down = took(&|| (0..10).for_each(|i| drop(limited.get(&format!("log/{i}"), 1000).unwrap())));
    assert!((3.5..5.5).contains(&down), "{down}");
    let requests = took(&|| (0..100).for_each(|_| limited.delete("log/0").unwrap()));
    assert!((8.5..10.5).contains(&requests), "{requests}");
}

#[test]
fn the_newest_record_is_found_wherever_the_log_begins() {
    let quiet = Quiet::new();
    let me = owner("a", LeaseKind::None);
    let mut log = quiet.claimed(&me);
    for count in [1, 1, 1, 4, 30, 200] {
        quiet.commits(&mut log, &me, count);
        let seen = log.state().newest;
        for seen in [Seen::Nothing, Seen::Newest(seen)] {
            assert_eq!(quiet.log(seen).unwrap().state(), log.state());
        }
        // Lists that are late only say where to go on from.
        let late = Bucket::new(Duration::from_secs(1_000_000));
        late.put_late(&quiet.bucket, count);
        let objects: Arc<dyn Objects> = Simulated::new(&late, &quiet.host, Faults::default());
        let other =
            Log::open(Arc::clone(&objects), sealer(STORE, &Keys::Plain, &*objects), Seen::Nothing).unwrap();
        assert_eq!(other.state(), log.state());
    }
    // What was given up is not needed, but the claim in force.
    let early = quiet.log(Seen::Nothing).unwrap().chain(1, None).nth(4).unwrap().unwrap();
    let newest = log.state().newest.number;
    quiet.bucket.edit(|objects| {
        objects.retain(|name, _| names::record_number(name).is_none_or(|n| n == 1 || n > 100));
    });
    let stale = Seen::Newest(larder::remote::Position { number: early.number, seal: early.seal });
    for seen in [stale, Seen::Nothing] {
        assert_eq!(quiet.log(seen).unwrap().state().newest.number, newest);
    }
    // A check misses them, where there is no image to begin with.
    let found = check(&quiet.log(stale).unwrap(), CheckOptions::default()).unwrap();
    assert_eq!((found.records, found.faults.len()), (1, 1), "{found:?}");
    assert!(found.faults[0].contains(&names::record(2)), "{found:?}");
    // Nobody is led astray by a record that is there alone: what was seen may be one.
    let first = quiet.log(Seen::Nothing).unwrap().read(1).unwrap();
    let alone = Seen::Newest(larder::remote::Position { number: 1, seal: first.seal });
    assert_eq!(quiet.log(alone).unwrap().state().newest.number, newest);
    quiet.commits(&mut log, &me, 1);
    assert_eq!(quiet.log(Seen::Newest(log.state().newest)).unwrap().state(), log.state());
}

#[test]
fn a_remote_that_has_gone_back_is_refused() {
    let quiet = Quiet::new();
    let me = owner("a", LeaseKind::None);
    let mut log = quiet.claimed(&me);
    quiet.commits(&mut log, &me, 10);
    let copy = quiet.bucket.edit(|objects| objects.clone());
    quiet.commits(&mut log, &me, 10);
    let seen = Seen::Newest(log.state().newest);
    assert!(quiet.log(seen).is_ok());
    quiet.bucket.edit(|objects| *objects = copy);
    let older = quiet.log(seen);
    assert!(
        matches!(&older, Err(e @ RemoteError::Older { seen: 21, .. }) if e.to_string().contains("11 is the newest")),
        "{older:?}"
    );
    // Another history, as long and longer than the one that was seen.
    let mut other = quiet.log(Seen::Nothing).unwrap();
    quiet.commits(&mut other, &me, 10);
    assert!(matches!(quiet.log(seen), Err(RemoteError::Older { .. })));
    quiet.commits(&mut other, &me, 10);
    assert!(matches!(quiet.log(seen), Err(RemoteError::Older { .. })));
    quiet.bucket.edit(|objects| objects.clear());
    assert!(matches!(quiet.log(seen), Err(RemoteError::Older { .. })));
    assert!(quiet.log(Seen::Nothing).is_ok());
}

#[test]
fn records_that_are_missing_swapped_cut_or_of_another_history_are_named() {
    let quiet = Quiet::new();
    let me = owner("a", LeaseKind::None);
    let mut log = quiet.claimed(&me);
    quiet.commits(&mut log, &me, 30);
    let good = quiet.bucket.edit(|objects| objects.clone());
    let read = |edit: &dyn Fn(&mut std::collections::BTreeMap<String, Bytes>)| {
        quiet.bucket.edit(|objects| {
            *objects = good.clone();
            edit(objects);
        });
        log.chain(1, None).collect::<Result<Vec<_>, _>>().unwrap_err().to_string()
    };
    let (nine, ten) = (names::record(9), names::record(10));
    let missing = read(&|objects| drop(objects.remove(&nine)));
    assert!(missing.contains(&nine) && missing.contains("missing"), "{missing}");
    let swapped = read(&|objects| {
        let (a, b) = (objects[&nine].clone(), objects[&ten].clone());
        objects.insert(nine.clone(), b);
        objects.insert(ten.clone(), a);
    });
    assert!(swapped.contains(&nine) && swapped.contains("it is record 10"), "{swapped}");
    let cut = read(&|objects| drop(objects.insert(nine.clone(), objects[&nine].slice(..100))));
    assert!(cut.contains(&nine), "{cut}");
    // A record that is whole, and was never part of this history.
    let forged = log.sealer().seal_record(
        9,
        &super::sealed::head(9, &Contents::Commit(Box::default())),
        &Contents::Commit(Box::default()),
    );
    let forged = forged.unwrap().bytes;
    let replaced = read(&|objects| drop(objects.insert(nine.clone(), forged.clone())));
    assert!(replaced.contains("does not follow"), "{replaced}");
    // And the last one, which no other names.
    let last = names::record(31);
    let changed = read(&|objects| {
        let body = objects[&last].to_vec();
        let mut body = body;
        body[96 + 32] ^= 1;
        objects.insert(last.clone(), super::sealed::reseal(&body));
    });
    assert!(changed.contains("another one than was there before"), "{changed}");
}

#[test]
fn an_append_whose_outcome_is_not_known_is_done_before_the_next() {
    let quiet = Quiet::new();
    let me = owner("a", LeaseKind::None);
    quiet.claimed(&me);
    let broken = quiet.with(Faults::default());
    let objects: Arc<dyn Objects> = Arc::clone(&broken) as Arc<dyn Objects>;
    let mut log =
        Log::open(Arc::clone(&objects), sealer(STORE, &Keys::Plain, &*objects), Seen::Nothing).unwrap();
    broken.break_with(Some(Trouble::Unreachable));
    assert!(
        log.append(&me, Contents::Commit(Box::default()), None, quiet.host.wall()).unwrap_err().is_passing()
    );
    assert!(log.is_pending());
    assert!(log.settle().unwrap_err().is_passing());
    broken.break_with(None);
    quiet.append(&mut log, &me, Contents::Commit(Box::default()));
    assert_eq!((log.state().newest.number, log.is_pending()), (3, false));
    // Only a copy of this process can have written as it and not be it.
    let mut copy = quiet.log(Seen::Nothing).unwrap();
    quiet.append(&mut copy, &me, Contents::Commit(Box::default()));
    let again = log.append(&me, Contents::Commit(Box::default()), None, quiet.host.wall());
    assert!(
        matches!(&again, Err(e @ RemoteError::Fenced { .. }) if e.to_string().contains("copy of this machine")),
        "{again:?}"
    );
    assert!(!log.is_pending());
}

#[test]
fn a_strict_lease_ends_by_itself_and_is_taken_after_it_has_ended() {
    for keys in [Keys::Plain, keys()] {
        let quiet = Quiet::begun();
        let (a, b) = (owner("a", LeaseKind::Strict), owner("b", LeaseKind::Strict));
        let mut log = quiet.log_of(&keys, Seen::Nothing).unwrap();
        claim(&mut log, &a, Steal::No, &*quiet.host, &mut |_| true).unwrap();
        let permit = Permit::new(a.lease, quiet.clock());
        assert!(permit.try_answer().is_none() && permit.left().is_zero());
        let mut beat =
            Beat::new(quiet.objects(), &log, &a, Arc::clone(&permit), quiet.clock(), HEARTBEAT).unwrap();
        beat.round().unwrap();
        assert_eq!(permit.left(), LEASE_VALID);
        quiet.host.sleep(LEASE_VALID - Duration::from_secs(1));
        assert!(permit.try_answer().is_some());
        quiet.host.sleep(Duration::from_secs(1));
        assert!(permit.try_answer().is_none());
        beat.round().unwrap();
        assert!(permit.try_answer().is_some());
        // Another host waits, and takes it only when the sign of life has stood still.
        let mut other = quiet.log_of(&keys, Seen::Nothing).unwrap();
        let mut rounds = 3;
        let refused = claim(&mut other, &b, Steal::No, &*quiet.host, &mut |waiting| {
            assert!(!waiting.claimed && waiting.owner == a);
            rounds -= 1;
            if rounds == 0 {
                beat.round().unwrap();
            }
            true
        });
        assert!(matches!(refused, Err(RemoteError::InUse { .. })), "{refused:?}");
        let before = quiet.host.now();
        let claimed = claim(&mut other, &b, Steal::No, &*quiet.host, &mut |_| true).unwrap();
        let waited = quiet.host.now() - before;
        assert!(waited >= LEASE_CLAIM && waited < LEASE_CLAIM + Duration::from_secs(3), "{waited:?}");
        assert_eq!((claimed.from, claimed.may_still_serve), (Some(a.clone()), false));
        assert!(permit.try_answer().is_none());
        assert_eq!(beat.round().unwrap(), Round::Stopped);
        assert!(permit.answer().is_err());
    }
}

#[test]
fn who_steals_from_a_strict_owner_waits_until_it_has_stopped() {
    let quiet = Quiet::begun();
    let (a, b) = (owner("a", LeaseKind::Strict), owner("b", LeaseKind::Strict));
    let log = quiet.claimed(&a);
    let permit = Permit::new(a.lease, quiet.clock());
    let mut beat =
        Beat::new(quiet.objects(), &log, &a, Arc::clone(&permit), quiet.clock(), HEARTBEAT).unwrap();
    beat.round().unwrap();
    let mut other = quiet.log(Seen::Nothing).unwrap();
    let (before, mut told) = (quiet.host.now(), 0);
    claim(&mut other, &b, Steal::Yes, &*quiet.host, &mut |waiting| {
        assert!(waiting.claimed);
        told += 1;
        // It finds out in its third round, and says so.
        if told == 3 {
            assert!(permit.try_answer().is_some());
            assert_eq!(beat.round().unwrap(), Round::Stopped);
            assert!(permit.try_answer().is_none());
        }
        true
    })
    .unwrap();
    assert!(quiet.host.now() - before < Duration::from_secs(10) && told >= 3);
    // One that says nothing is waited for until it must have stopped.
    let c = owner("c", LeaseKind::Strict);
    let permit = Permit::new(b.lease, quiet.clock());
    let mut beat =
        Beat::new(quiet.objects(), &other, &b, Arc::clone(&permit), quiet.clock(), HEARTBEAT).unwrap();
    beat.round().unwrap();
    let mut third = quiet.log(Seen::Nothing).unwrap();
    let before = quiet.host.now();
    claim(&mut third, &c, Steal::Yes, &*quiet.host, &mut |_| true).unwrap();
    assert!(quiet.host.now() - before >= LEASE_CLAIM && permit.try_answer().is_none());
    // Whoever was stolen from in its turn before it had waited for the first one leaves that to the next.
    let d = owner("d", LeaseKind::None);
    let permit = Permit::new(c.lease, quiet.clock());
    let mut beat =
        Beat::new(quiet.objects(), &third, &c, Arc::clone(&permit), quiet.clock(), HEARTBEAT).unwrap();
    beat.round().unwrap();
    let mut fourth = quiet.log(Seen::Nothing).unwrap();
    let interrupted = claim(&mut fourth, &d, Steal::Yes, &*quiet.host, &mut |_| false);
    assert!(matches!(interrupted, Err(RemoteError::Interrupted)));
    let e = owner("e", LeaseKind::Strict);
    let mut fifth = quiet.log(Seen::Nothing).unwrap();
    let mut still = 0;
    claim(&mut fifth, &e, Steal::Yes, &*quiet.host, &mut |waiting| {
        assert!(waiting.claimed);
        still += usize::from(permit.try_answer().is_some());
        true
    })
    .unwrap();
    assert!(still > 0 && permit.try_answer().is_none());
}

#[test]
fn what_is_answered_is_answered_before_an_owner_says_that_it_has_stopped() {
    let quiet = Quiet::new();
    let permit = Permit::new(LeaseKind::None, quiet.clock());
    let answering = permit.answer().unwrap();
    let stopping = std::thread::spawn({
        let permit = Arc::clone(&permit);
        move || permit.stop(Stopped::Ended)
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!stopping.is_finished());
    drop(answering);
    stopping.join().unwrap();
    assert_eq!(permit.answer().unwrap_err(), Stopped::Ended);
}

#[test]
fn a_goodbye_leaves_the_store_to_anybody() {
    let quiet = Quiet::new();
    let a = owner("a", LeaseKind::None);
    let mut log = quiet.claimed(&a);
    let permit = Permit::new(a.lease, quiet.clock());
    goodbye(&mut log, &a, &permit, &*quiet.host).unwrap();
    assert_eq!(quiet.bucket.names(), [names::record(1), names::record(2)]);
    let before = quiet.host.now();
    quiet.claimed(&owner("b", LeaseKind::Strict));
    assert_eq!(quiet.host.now(), before);
}

#[test]
fn a_check_finds_what_an_attach_would_miss() {
    for keys in [Keys::Plain, keys()] {
        let quiet = Quiet::new();
        let (log, parts) = ship(&quiet.objects(), &keys, &*quiet.host);
        let look = |read_data| check(&log, CheckOptions { read_data }).unwrap();
        let clean = look(true);
        assert_eq!(
            (clean.records, clean.parts, clean.pieces, clean.blocks, clean.faults),
            (2, 2, 1, 10, vec![])
        );
        let good = quiet.bucket.edit(|objects| objects.clone());
        let piece = quiet.bucket.names().into_iter().find(|name| name.starts_with(names::IMAGE)).unwrap();
        for (name, only_data) in [
            (names::part(&parts[0]), false),
            (names::part(&parts[1]), false),
            (piece, false),
            (names::record(3), false),
            (names::part(&parts[0]), true),
        ] {
            quiet.bucket.edit(|objects| {
                *objects = good.clone();
                if only_data {
                    let mut bytes = objects[&name].to_vec();
                    bytes[128 + 4112 * 2 + 100] ^= 1;
                    objects.insert(name.clone(), bytes.into());
                } else {
                    objects.remove(&name);
                }
            });
            let found = look(true);
            assert!(found.fault_count >= 1 && found.faults[0].contains(&name), "{name}: {found:?}");
            assert_eq!(look(false).fault_count > 0, !only_data, "{name}");
        }
        quiet.bucket.edit(|objects| *objects = good);
        let seen = survey(log.objects()).unwrap().unwrap();
        assert_eq!((seen.newest, seen.held.is_some(), seen.alive.len()), (4, !keys.is_encrypted(), 1));
        assert_eq!(seen.alive[0].life, (!keys.is_encrypted()).then_some(Life::On));
        assert_eq!(seen.objects as usize, quiet.bucket.names().len());
    }
}

/// A sign of life of another owner under this one's name, or bytes that are none, are not the end of this one: they show life as long as
/// they change, and who claims the store waits as long as for one that opens.
#[test]
fn a_sign_of_life_that_is_none_is_not_its_owners_end() {
    for lease in [LeaseKind::Strict, LeaseKind::None] {
        let quiet = Quiet::new();
        let (a, b) = (owner("a", lease), owner("b", LeaseKind::Strict));
        let log = quiet.claimed(&a);
        let held = log.state().held.clone().unwrap();
        let over = Alive { owner: b.id, sign: held.sign, counter: 1, lease, period: 10, life: Life::Over };
        let name = names::alive(a.id, held.sign);
        for bytes in [
            log.sealer().seal_alive(&over).unwrap().bytes,
            Bytes::from_static(b"x"),
            Bytes::from(vec![0; 200]),
        ] {
            let put = |bytes| quiet.objects().put(&name, bytes).unwrap();
            put(bytes.clone());
            // It changes once more, just before it would have stood still for long enough.
            let mut other = quiet.log(Seen::Nothing).unwrap();
            let before = quiet.host.now();
            let refused = claim(&mut other, &b, Steal::No, &*quiet.host, &mut |waiting| {
                if waiting.left < Duration::from_secs(3) {
                    put([&bytes[..], b"y"].concat().into());
                }
                true
            });
            assert!(matches!(refused, Err(RemoteError::InUse { .. })), "{lease:?}: {refused:?}");
            assert_eq!(other.state().newest.number, 1);
            let waited = quiet.host.now() - before;
            let expected = if lease == LeaseKind::Strict { LEASE_CLAIM } else { Duration::ZERO };
            assert!(waited.abs_diff(expected) < Duration::from_secs(5), "{lease:?}: {waited:?}");
        }
        // It stands still.
        let before = quiet.host.now();
        let mut other = quiet.log(Seen::Nothing).unwrap();
        let claimed = claim(&mut other, &b, Steal::No, &*quiet.host, &mut |_| true);
        match lease {
            LeaseKind::Strict => {
                let claimed = claimed.unwrap();
                assert_eq!((claimed.from, claimed.may_still_serve), (Some(a), false));
                assert!(quiet.host.now() - before >= LEASE_CLAIM);
                assert!(quiet.bucket.names().iter().all(|there| *there != name));
            }
            LeaseKind::None => {
                assert!(matches!(claimed, Err(RemoteError::InUse { .. })), "{claimed:?}");
                let claimed = claim(&mut other, &b, Steal::Yes, &*quiet.host, &mut |_| true).unwrap();
                assert!(claimed.may_still_serve);
            }
        }
    }
}

/// It appended to numbers that were free again: what it knows last is there, and what it wrote after that was not needed any more.
#[test]
fn a_machine_that_went_back_in_time_finds_the_gap_behind_what_it_knows() {
    let quiet = Quiet::begun();
    let a = owner("a", LeaseKind::None);
    let mut log = quiet.claimed(&a);
    quiet.commits(&mut log, &a, 3);
    let before = quiet.log(Seen::Nothing).unwrap();
    quiet.commits(&mut log, &a, 7);
    for number in 5..11 {
        quiet.bucket.edit(|objects| objects.remove(&names::record(number)));
    }
    let round = |log: &Log| {
        let permit = Permit::new(a.lease, quiet.clock());
        let beat = Beat::new(quiet.objects(), log, &a, Arc::clone(&permit), quiet.clock(), HEARTBEAT);
        (beat.unwrap().round().unwrap(), permit.stopped())
    };
    assert_eq!(round(&log), (Round::Owner, None));
    let (found, stopped) = round(&before);
    let Some(Stopped::Fenced(by)) = stopped else { panic!("{stopped:?}") };
    assert_eq!((found, by.record), (Round::Stopped, 11));
    assert!(by.host.contains("back in time"), "{by:?}");
}
