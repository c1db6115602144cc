//! What the holder makes of what servers say.

use super::*;
use crate::fs::{FsError, Origin};

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// One that has heard nothing yet.
fn holder() -> Holder {
    holder_and_server().0
}

/// The same, and the server's end of what they talk over.
fn holder_and_server() -> (Holder, Link) {
    let tmp = tempfile::tempdir().unwrap();
    let options = HolderOptions {
        root: Root::new(tmp.path()),
        store: StoreId(1),
        cache_bytes: 0,
        verbose: 0,
        log_to_file: false,
        unit: None,
    };
    let lock = lock_store(tmp.path(), Duration::ZERO).unwrap();
    let process = std::process::Command::new("true").spawn().unwrap();
    let (link, server) = Link::pair(TICK).unwrap();
    let held =
        Holder::new(options, Vec::new(), lock, (Program::own(), None), (Child::from(process), link), None);
    (held, Link::of(server))
}

fn kept(id: Option<u64>) -> Box<Kept> {
    Box::new(Kept { id, ..Kept::of_nothing() })
}

fn view(change: ViewChange, head: Option<u64>) -> ToHolder {
    ToHolder::View { volume: "v".into(), change, head, number: None }
}

fn lost(ino: u64, missing: &[(u64, u64)]) -> ToHolder {
    let (missing, error) = (missing.to_vec(), FsError::NoSpace);
    let lost = Lost { ino, missing, error, wanted: 1, has_gap: false, is_given_up: false };
    ToHolder::Lost { volume: "v".into(), lost, number: None }
}

/// It would be killed while it writes back, and its successor would not know that it is to end.
#[test]
fn nothing_takes_over_from_a_server_that_is_to_end() {
    let is_told = |holder: &mut Holder| holder.told_to_end = Some(Ending::new());
    let says_so = |holder: &mut Holder| holder.take(ToHolder::ToldToEnd, None);
    let says_it = |holder: &mut Holder| holder.take(ToHolder::Ending, None);
    for begin in [is_told as fn(&mut Holder), says_so, says_it] {
        let (mut holder, server) = holder_and_server();
        begin(&mut holder);
        holder.replace(Path::new("/bin/true"), &ToldToEnd::default()).unwrap();
        let Received::Message(ToServer::Refused { message }, None) = server.receive().unwrap() else {
            panic!()
        };
        assert!(message.contains("is ending"), "{message}");
        holder.options.unit = Some("v".into());
        assert!(!holder.may_leave(), "to the next main process either");
        let _ = holder.child.reap();
    }
}

/// It said so while nobody listened, because somebody else was asked something.
#[test]
fn no_server_is_killed_before_all_is_read_that_it_has_said() {
    let tied = || ToHolder::Tied { kept: kept(Some(1)), why: "why".into() };
    for (message, says) in
        [(ToHolder::ToldToEnd, "is ending"), (ToHolder::Ending, "is ending"), (tied(), "why")]
    {
        let (mut holder, server) = holder_and_server();
        server.send(&message, None).unwrap();
        holder.replace(Path::new("/bin/true"), &ToldToEnd::default()).unwrap();
        let Received::Message(ToServer::Refused { message }, None) = server.receive().unwrap() else {
            panic!()
        };
        assert!(message.contains(says), "{message}");
        let _ = holder.child.reap();
    }
    // Nor when the unit is restarted: it is waited for.
    let (mut holder, server) = holder_and_server();
    holder.options.unit = Some("v".into());
    server.send(&ToHolder::ToldToEnd, None).unwrap();
    assert!(!holder.pass_on(true, &ToldToEnd::default()).unwrap());
    assert!(holder.is_ending());
    let _ = holder.child.reap();
}

/// It stayed among those that keep the next server from being replaced, for ever.
#[test]
fn a_mount_that_died_with_its_server_is_not_the_next_one_s() {
    let (mut holder, server) = holder_and_server();
    server.send(&ToHolder::Tied { kept: kept(Some(1)), why: String::new() }, None).unwrap();
    drop(server);
    holder.end_child();
    assert!(holder.tied.is_empty());
}

/// systemd was asked to wait for hours.
#[test]
fn a_server_that_does_not_begin_is_not_waited_for_much_longer_once_it_is_to_end() {
    // On a machine that has just been started, there is no such time.
    let Some(long_ago) = Instant::now().checked_sub(LONGEST_START) else { return };
    let (mut holder, _server) = holder_and_server();
    holder.told_since = Some(long_ago);
    let e = holder.begin(&ToldToEnd::already()).unwrap_err();
    assert!(e.message.contains("is to end"), "{e}");
    let _ = holder.child.reap();
}

/// A server died that was told to end, or had begun to.
#[test]
fn a_successor_is_told_to_end_as_well_and_is_not_taken_for_one_that_has_ended() {
    let mut holder = holder();
    holder.told_to_end = Some(Ending::new());
    holder.take(ToHolder::Ending, None);
    let _ = holder.child.reap();
    let successor = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let (link, server) = Link::pair(TICK).unwrap();
    Link::of(server.try_clone().unwrap()).send(&ToHolder::Started, None).unwrap();
    holder.install(Child::from(successor), link, &ToldToEnd::default()).unwrap();
    let how = holder.child.reap().to_string();
    if !holder.child.is_gone() {
        holder.child.kill();
        let _ = holder.child.reap();
    }
    assert!(how.contains("SIGTERM"), "{how}");
    assert!(holder.told_to_end.is_some() && !holder.ending);
}

/// A server of an earlier version did not say what it had mounted.
#[test]
fn requests_to_a_mount_of_an_earlier_version_are_forgotten_too() {
    let executed =
        |volume: u64, reader: u64| Executed { origin: Origin { reader, unique: 2 }, volume, ino: None };
    let mut holder = holder();
    holder.take(ToHolder::Keep(kept(None)), Some(file()));
    let all = vec![executed(1, 5), executed(1, 7), executed(2, 5)];
    holder.take(ToHolder::Executed { executed: all }, None);
    holder.suspects.note([(1, 10), (2, 10)]);
    let volume = || "v".to_owned();
    holder.take(ToHolder::Settled { volume: volume(), first_reader: 7, id: Some(1), number: None }, None);
    assert_eq!(holder.executed, [executed(1, 7), executed(2, 5)]);
    assert_eq!(holder.suspects.all().len(), 1);
    holder.take(ToHolder::Gone { volume: volume(), id: Some(1), number: None }, None);
    assert_eq!(holder.executed, [executed(2, 5)]);
    let _ = holder.child.reap();
}

/// A mount is served before the holder hears of it.
#[test]
fn what_is_said_of_a_mount_before_it_is_not_forgotten() {
    let mut holder = holder();
    holder.take(view(ViewChange::Snapshot(9), None), None);
    holder.take(lost(5, &[(1, 2)]), None);
    holder.take(ToHolder::Keep(kept(Some(1))), Some(file()));
    let held = &holder.mounts["v"];
    assert_eq!((&held.views[..], held.kept.losses.0.len()), (&[ViewChange::Snapshot(9)][..], 1));
    // Of a mount that nothing can take over, nothing is kept.
    holder.take(ToHolder::Gone { volume: "v".into(), id: None, number: None }, None);
    holder.take(view(ViewChange::Snapshot(9), None), None);
    holder.take(ToHolder::Tied { kept: kept(Some(1)), why: String::new() }, None);
    holder.take(view(ViewChange::Snapshot(10), None), None);
    assert!(holder.early.is_empty());
    let _ = holder.child.reap();
}

#[test]
fn what_is_missing_is_known_until_it_is_not_and_a_rollback_until_it_was_told() {
    let mut holder = holder();
    holder.take(ToHolder::Keep(kept(Some(1))), Some(file()));
    holder.take(lost(5, &[(1, 2)]), None);
    holder.take(lost(6, &[(1, 2)]), None);
    holder.take(view(ViewChange::Live, Some(3)), None);
    holder.take(lost(5, &[(1, 7)]), None);
    holder.take(lost(6, &[]), None);
    let kept = |holder: &Holder| holder.mounts["v"].kept.clone();
    // As messages have it.
    let list = |holder: &Holder| Vec::from(kept(holder).losses);
    let [(1, lost)] = &list(&holder)[..] else { panic!() };
    assert_eq!((lost.ino, &lost.missing[..]), (5, &[(1, 7)][..]));
    assert_eq!(kept(&holder).head_before, Some(3));
    holder.take(ToHolder::Told { volume: "v".into(), number: None }, None);
    assert_eq!((kept(&holder).head_before, kept(&holder).told), (None, 1));
    holder.take(view(ViewChange::Live, Some(4)), None);
    holder.take(view(ViewChange::Undone, None), None);
    assert_eq!((kept(&holder).head_before, kept(&holder).told), (None, 1));
    let _ = holder.child.reap();
}

/// Threads that served a mount can still speak when it is gone, and also when the next one of the volume is there.
#[test]
fn what_is_said_of_an_earlier_mount_is_not_taken_for_said_of_this_one() {
    let mut holder = holder();
    let keep = |number: u64| ToHolder::Keep(Box::new(Kept { number: Some(number), ..Kept::of_nothing() }));
    let volume = || "v".to_owned();
    let said_of = |number: Option<u64>| {
        let ToHolder::Lost { volume, lost, .. } = lost(5, &[(1, 2)]) else { panic!() };
        [
            ToHolder::Lost { volume: volume.clone(), lost, number },
            ToHolder::View { volume: volume.clone(), change: ViewChange::Live, head: None, number },
            ToHolder::Told { volume: volume.clone(), number },
            ToHolder::Settled { volume, first_reader: 8, id: Some(1), number },
        ]
    };
    let has = |holder: &Holder| {
        let held = &holder.mounts["v"];
        (held.kept.losses.0.len(), held.views.len(), held.kept.told, held.kept.first_reader)
    };
    holder.take(keep(1), Some(file()));
    holder.take(ToHolder::Gone { volume: volume(), id: None, number: Some(1) }, None);
    said_of(Some(1)).into_iter().for_each(|message| holder.take(message, None));
    holder.take(keep(2), Some(file()));
    assert_eq!(has(&holder), (0, 0, 0, 0), "before");
    said_of(Some(1)).into_iter().for_each(|message| holder.take(message, None));
    holder.take(ToHolder::Gone { volume: volume(), id: None, number: Some(1) }, None);
    assert_eq!(has(&holder), (0, 0, 0, 0), "after");
    // Its own, and what a server of an earlier version says.
    for number in [Some(2), None] {
        said_of(number).into_iter().for_each(|message| holder.take(message, None));
    }
    assert_eq!(has(&holder), (1, 2, 2, 8));
    holder.take(ToHolder::Gone { volume: volume(), id: None, number: None }, None);
    assert!(holder.mounts.is_empty());
    let _ = holder.child.reap();
}
