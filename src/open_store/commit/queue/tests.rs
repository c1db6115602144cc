use super::super::SyncError;
use super::*;
use crate::backing::OsDir;
use crate::meta::{Committed, GiveBack};

fn committer() -> Committer {
    let dir = std::env::temp_dir();
    let files = MetaFiles::new(Arc::new(OsDir::new(dir)), false).unwrap();
    let committer = Committer::new(files, Duration::from_secs(3600));
    committer.start_with(Box::new(|_| true));
    committer
}

fn nobody() -> SyncDone {
    Box::new(|_| {})
}

#[test]
fn those_who_come_during_a_sync_share_the_next() {
    let committer = committer();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
    committer.plans_sync();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    committer.end_turn();
    assert_eq!(committer.next_syncs().unwrap().len(), 2);
    committer.end_turn();
    committer.stop();
    assert!(committer.next_syncs().is_none() && !committer.next());
}

#[test]
fn whom_the_sync_under_way_covers_joins_it() {
    let committer = committer();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    committer.plans_sync();
    committer.ask_sync(&Health::default(), Durability::Soon, nobody());
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert_eq!(committer.end_sync().len(), 2);
    committer.ask_sync(&Health::default(), Durability::Soon, nobody());
    assert_eq!(committer.next_syncs().unwrap().len(), 2, "one came too late");
}

#[test]
fn who_asks_as_a_commit_fails_is_not_told_that_it_did_not() {
    let (committer, health) = (committer(), Health::default());
    let (send, receive) = std::sync::mpsc::channel();
    let ask = || {
        let send = send.clone();
        let done = Box::new(move |result| send.send(result).unwrap());
        committer.ask_sync(&health, Durability::Already, done);
        receive.recv().unwrap()
    };
    assert_eq!(ask(), Ok(()));
    health.fail("it is a test");
    assert_eq!(ask(), Err(SyncError::Failed));
}

#[test]
fn what_is_foreseen_is_synced_before_it_is_asked_for() {
    let committer = committer();
    for _ in 0..10 {
        committer.wrote();
        committer.ask_sync(&Health::default(), Durability::No, nobody());
        committer.next_syncs().unwrap();
        committer.plans_sync();
        assert!(committer.end_sync().is_empty());
    }
    committer.wrote();
    assert!(committer.next_syncs().unwrap().is_empty());
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert_eq!(committer.end_sync().len(), 1);
    committer.ask_sync(&Health::default(), Durability::Already, nobody());
    assert!(committer.state.lock().syncs.is_empty(), "nothing is left to do");
}

#[test]
fn a_commit_that_waits_for_the_turn_gets_it_next_and_serves_everyone() {
    let committer = committer();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
    committer.plans_sync();
    committer.ask_commit(nobody());
    assert!(committer.next());
    std::thread::scope(|scope| {
        let turn = scope.spawn(|| committer.take_turn());
        while !committer.state.lock().due {
            std::thread::yield_now();
        }
        committer.ask_sync(&Health::default(), Durability::No, nobody());
        committer.end_turn();
        let mut waiters = turn.join().unwrap().commit.unwrap();
        let syncs = committer.begins(&mut waiters);
        assert_eq!((waiters.len(), syncs.len()), (1, 1));
    });
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    committer.end_turn();
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
}

#[test]
fn the_log_is_synced_beside_a_commit_that_becomes_durable_and_not_beside_what_follows() {
    let committer = committer();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    committer.ask_commit(nobody());
    let mut waiters = committer.take_turn().commit.unwrap();
    let syncs = committer.begins(&mut waiters);
    committer.open(syncs);
    assert!(!committer.is_at_rest() && !committer.is_all_committed());
    assert_eq!(committer.next_syncs().unwrap().len(), 1, "who asked before the commit began");
    committer.plans_sync();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| committer.close());
        while !committer.state.lock().due {
            std::thread::yield_now();
        }
        assert!(!closed.is_finished() && committer.end_sync().is_empty());
        closed.join().unwrap();
    });
    assert!(committer.state.lock().turn == Turn::Commit && !committer.is_all_committed());
    assert!(!committer.is_at_rest());
    committer.end_turn();
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
}

#[test]
fn nothing_is_taken_to_be_durable_that_is_in_a_commit_under_way() {
    let committer = committer();
    committer.ask_commit(nobody());
    let mut waiters = committer.take_turn().commit.unwrap();
    let syncs = committer.begins(&mut waiters);
    committer.open(syncs);
    let is_told = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_told);
    let done = Box::new(move |_| told.store(true, Ordering::Relaxed));
    // Nothing was changed since the commit began.
    committer.ask_sync(&Health::default(), Durability::Already, done);
    assert!(!is_told.load(Ordering::Relaxed), "the commit may come to nothing");
    assert_eq!(committer.next_syncs().unwrap().len(), 1);
}

#[test]
fn without_a_thread_for_syncs_a_commit_serves_who_waits() {
    let files = MetaFiles::new(Arc::new(OsDir::new(std::env::temp_dir())), false).unwrap();
    let committer = Committer::new(files, Duration::from_secs(3600));
    committer.start_with(Box::new(|_| false));
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    assert!(committer.next());
    assert_eq!(committer.take_turn().commit.unwrap().len(), 1);
}

#[test]
fn the_interval_begins_with_the_first_change_and_without_one_nothing_is_waited_for() {
    let committer = committer();
    let until = || committer.state.lock().until(Duration::from_secs(5));
    assert!(until().is_none() && committer.is_at_rest());
    committer.note_change();
    let first = until().unwrap();
    committer.note_change();
    assert_eq!(until(), Some(first), "another does not put it off");
    assert!(!committer.is_at_rest());
    committer.begins(&mut Vec::new());
    committer.all_is_committed();
    assert!(until().is_none());
    // Kept until there is room for it.
    committer.ended(true);
    assert!(until().is_some() && !committer.is_at_rest());
}

/// One that was begun where the WAL was to start over waited until something else was changed.
#[test]
fn what_is_kept_for_lack_of_room_is_tried_again_whoever_began_it() {
    let committer = committer();
    committer.note_change();
    committer.all_is_committed();
    let mark = committer.files().wal_mark();
    let committed = Committed { mark, give_back: GiveBack::default(), reserved_segments: 1 };
    let is_new = committer.fall_behind(Begun { committed, unsynced: None, states: Vec::new(), appended: 0 });
    let until = committer.state.lock().until(Duration::ZERO);
    assert!(is_new && until.is_some_and(|until| until <= Instant::now()));
}

/// The next one follows at once where the host is short of room: whoever gave room back waited for it, too.
#[test]
fn work_in_the_background_waits_for_one_time_that_the_wal_starts_over() {
    let committer = committer();
    let again = || {
        committer.restart();
        assert!(committer.next() && committer.take_turn().restart);
    };
    again();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| committer.let_restart());
        while committer.ended.notify_all() == 0 {
            std::thread::yield_now();
        }
        committer.end_turn();
        again();
        waits.join().unwrap();
        committer.end_turn();
    });
}

/// Where much was given back, it wrote 25 MiB to the WAL while that was copied back for the last time, and all of it was copied
/// under a hold of the metadata.
#[test]
fn work_in_the_background_waits_while_the_wal_is_about_to_start_over() {
    let committer = committer();
    committer.let_restart();
    // Also if whoever sees to it breaks off.
    for breaks_off in [false, true] {
        committer.restart();
        assert!(committer.next() && committer.take_turn().restart);
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel();
            let committer = &committer;
            scope.spawn(move || {
                committer.let_restart();
                send.send(()).unwrap();
            });
            assert!(receive.recv_timeout(Duration::from_millis(50)).is_err());
            if breaks_off {
                committer.goes_on();
            } else {
                committer.end_turn();
            }
            receive.recv().unwrap();
        });
    }
}

#[test]
fn whom_the_log_does_not_serve_is_left_to_a_commit() {
    let committer = committer();
    committer.ask_sync(&Health::default(), Durability::No, nobody());
    let waiters = committer.next_syncs().unwrap();
    committer.plans_sync();
    committer.pass_on(waiters);
    committer.end_turn();
    assert!(committer.next());
    assert_eq!(committer.take_turn().commit.unwrap().len(), 1);
}
