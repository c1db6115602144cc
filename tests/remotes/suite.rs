//! What every object store must do, and the log on top of it.

use super::sealed::{keys, owner, sealer};
use crate::support::pattern;
use bytes::Bytes;
use larder::crypto::Keys;
use larder::remote::{
    Beat, BootClock, Clock, Contents, HEARTBEAT, LeaseKind, Log, Objects, Patience, Patient, Permit,
    RemoteError, Round, Seen, Steal, Stopped, Trouble, claim, goodbye, init,
};
use larder::store::StoreId;
use std::sync::Arc;

/// Everything, below an empty prefix that is given: a new one each time it is asked for.
pub fn everything(new: &dyn Fn() -> Arc<dyn Objects>) {
    objects(&*new());
    a_name_is_taken_once(&new());
    many_names(&*new());
    for keys in [Keys::Plain, keys()] {
        history(&new(), &keys);
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn trouble<T: std::fmt::Debug>(outcome: larder::remote::Outcome<T>) -> Trouble {
    outcome.unwrap_err().trouble
}

fn objects(objects: &dyn Objects) {
    assert_eq!(objects.list("", "", 10).unwrap(), []);
    assert_eq!(objects.list_dirs("", 10).unwrap(), [""; 0]);
    for missing in [
        objects.get("a", 10).map(|_| ()),
        objects.head("a").map(|_| ()),
        objects.get_range("b/c", 0..1).map(|_| ()),
    ] {
        assert_eq!(trouble(missing), Trouble::Missing);
    }
    objects.delete("a").unwrap();
    objects.delete("no/such/name").unwrap();
    objects.put_new("a", bytes("one")).unwrap();
    assert_eq!(trouble(objects.put_new("a", bytes("two"))), Trouble::Exists);
    assert_eq!(objects.get("a", 3).unwrap(), "one");
    assert_eq!(trouble(objects.get("a", 2)), Trouble::Other);
    objects.put("a", bytes("three")).unwrap();
    assert_eq!(objects.get("a", 100).unwrap(), "three");
    assert_eq!(objects.get_range("a", 1..3).unwrap(), "hr");
    assert_eq!(objects.get_range("a", 3..100).unwrap(), "ee");
    assert_eq!(trouble(objects.get_range("a", 100..200)), Trouble::Other);
    let head = objects.head("a").unwrap();
    assert_eq!((head.name.as_str(), head.bytes), ("a", 5));
    objects.put("empty", Bytes::new()).unwrap();
    assert_eq!(objects.get("empty", 0).unwrap(), "");
    // Nothing is a directory and an object at once, and what is below an object is not there.
    objects.put_new("d/e/f", bytes("1")).unwrap();
    objects.put_new("d/g", bytes("2")).unwrap();
    assert_eq!(objects.list_dirs("", 10).unwrap(), ["d"]);
    assert_eq!(objects.list_dirs("d/", 10).unwrap(), ["e"]);
    let names = |under: &str, after: &str, most| -> Vec<String> {
        objects.list(under, after, most).unwrap().into_iter().map(|listed| listed.name).collect()
    };
    assert_eq!(names("", "", 10), ["a", "d/e/f", "d/g", "empty"]);
    assert_eq!(names("d/", "", 10), ["d/e/f", "d/g"]);
    assert_eq!(names("", "d/e/f", 1), ["d/g"]);
    assert_eq!(names("d/", "d/e/zzz", 10), ["d/g"]);
    for bad in ["", "../x", "/x", "x//y", "X", ".new/x"] {
        assert_eq!(trouble(objects.put(bad, bytes("x"))), Trouble::Other, "{bad}");
    }
    for name in ["d/e/f", "d/g", "a", "empty"] {
        objects.delete(name).unwrap();
        objects.delete(name).unwrap();
    }
    assert_eq!(objects.list("", "", 10).unwrap(), []);
    let large = Bytes::from(pattern(5 << 20, 1));
    objects.put_new("large", large.clone()).unwrap();
    assert!(objects.get("large", 5 << 20).unwrap() == large);
    assert!(objects.get_range("large", 1_000_000..2_000_000).unwrap() == large.slice(1_000_000..2_000_000));
}

/// Of many who make an object at once, one has made it, and all others are told so; it has all of that one's bytes.
fn a_name_is_taken_once(objects: &Arc<dyn Objects>) {
    for round in 0..5 {
        let name = format!("log/{round:016x}");
        let won: Vec<Option<Bytes>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    let (objects, name) = (Arc::clone(objects), &name);
                    scope.spawn(move || {
                        let mine = Bytes::from(pattern(30_000, round * 8 + i + 1));
                        let patient = Patient::new(objects, Arc::new(BootClock), Patience::default());
                        match patient.put_new(name, mine.clone()) {
                            Ok(()) => Some(mine),
                            Err(e) => {
                                assert_eq!(e.trouble, Trouble::Exists, "{e}");
                                None
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won: Vec<Bytes> = won.into_iter().flatten().collect();
        assert_eq!(won.len(), 1);
        assert_eq!(objects.get(&name, 30_000).unwrap(), won[0]);
    }
}

/// More names than fit a page of a list, made in no order.
fn many_names(objects: &dyn Objects) {
    let name = |i: u64| format!("log/{:016x}", i * 7919 % 1100);
    std::thread::scope(|scope| {
        for t in 0..8 {
            scope.spawn(move || {
                (t..1100).step_by(8).for_each(|i| objects.put_new(&name(i), bytes("x")).unwrap());
            });
        }
    });
    let all: Vec<String> =
        objects.list("log/", "", 5000).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(all, (0..1100).map(|i| format!("log/{i:016x}")).collect::<Vec<_>>());
    let some = objects.list("log/", &all[1049], 20).unwrap();
    assert_eq!(some.iter().map(|listed| listed.name.as_str()).collect::<Vec<_>>(), all[1050..1070]);
    assert_eq!(objects.list("log/", &all[1099], 20).unwrap(), []);
}

/// Two owners after each other, the second of which steals.
fn history(objects: &Arc<dyn Objects>, keys: &Keys) {
    let store = StoreId::random().unwrap();
    let open = |seen| Log::open(Arc::clone(objects), sealer(store, keys, &**objects), seen);
    let (a, b) = (owner("a", LeaseKind::None), owner("b", LeaseKind::Strict));
    init(&**objects, &sealer(store, keys, &**objects), 1).unwrap();
    let mut log = open(Seen::Nothing).unwrap();
    assert!(log.read_next().unwrap().is_none());
    let refused = log.append(&a, Contents::Goodbye, None, BootClock.wall());
    assert!(matches!(refused, Err(RemoteError::NotOwner { record: 1, .. })), "{refused:?}");
    let claimed = claim(&mut log, &a, Steal::No, &BootClock, &mut |_| true).unwrap();
    assert_eq!((claimed.record, claimed.from, claimed.may_still_serve), (1, None, false));
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let permit = Permit::new(a.lease, Arc::clone(&clock));
    let mut beat =
        Beat::new(Arc::clone(objects), &log, &a, Arc::clone(&permit), Arc::clone(&clock), HEARTBEAT).unwrap();
    for _ in 0..20 {
        let commit = Contents::Commit(Box::default());
        log.append(&a, commit, None, clock.wall()).unwrap();
    }
    assert_eq!(beat.round().unwrap(), Round::Owner);
    assert!(permit.try_answer().is_some());
    let seen = log.state().newest;
    // Another host takes it.
    let mut other = open(Seen::Newest(seen)).unwrap();
    assert_eq!(other.state(), log.state());
    assert_eq!(
        other.chain(1, None).map(|record| record.unwrap().number).collect::<Vec<_>>(),
        (1..=21).collect::<Vec<_>>()
    );
    let in_use = claim(&mut other, &b, Steal::No, &*clock, &mut |_| true);
    assert!(matches!(&in_use, Err(RemoteError::InUse { host, record: 1, .. }) if host == "a"), "{in_use:?}");
    let claimed = claim(&mut other, &b, Steal::Yes, &*clock, &mut |_| true).unwrap();
    assert_eq!((claimed.record, claimed.from.as_ref(), claimed.may_still_serve), (22, Some(&a), true));
    // The first one finds out, by both ways.
    assert_eq!(beat.round().unwrap(), Round::Stopped);
    assert!(matches!(permit.stopped(), Some(Stopped::Fenced(by)) if by.host == "b" && by.record == 22));
    assert!(permit.try_answer().is_none() && permit.answer().is_err());
    let fenced = log.append(&a, Contents::Goodbye, None, clock.wall());
    assert!(matches!(&fenced, Err(RemoteError::Fenced { by, .. }) if by.by == b.id), "{fenced:?}");
    log.follow().unwrap();
    let permit = Permit::new(b.lease, Arc::clone(&clock));
    assert!(permit.try_answer().is_none());
    let mut beat =
        Beat::new(Arc::clone(objects), &other, &b, Arc::clone(&permit), Arc::clone(&clock), HEARTBEAT)
            .unwrap();
    assert_eq!(beat.round().unwrap(), Round::Owner);
    assert!(permit.try_answer().is_some());
    goodbye(&mut other, &b, &permit, &*clock).unwrap();
    assert!(permit.try_answer().is_none());
    let mut third = open(Seen::Newest(seen)).unwrap();
    assert_eq!((third.state().newest.number, &third.state().held), (23, &None));
    assert_eq!(claim(&mut third, &a, Steal::No, &*clock, &mut |_| true).unwrap().from, None);
}
