//! Small writes whose blocks are in the redo log and wait in memory for the way to their segment: whatever fails meanwhile,
//! and whenever the process or the power goes.

use super::*;
use crate::support::{scratch, succeed};
use larder::backing::{Dir, OpenMode, OsDir};
use larder::store::{Feature, Header};
use parking_lot::Mutex;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

/// A store with a file of which nearly all is in blocks that wait.
struct Waiting {
    disk: Disk,
    store: Arc<OpenStore>,
    fs: Fs,
    ino: u64,
    tree: Tree,
    number: u64,
}

impl Waiting {
    /// Writes and syncs until each write waits.
    fn new(base: &Disk) -> Self {
        let disk = base.after_kill();
        let (store, fs) = open(&disk).unwrap();
        let ino = fs.make(ROOT_INO, b"f", &FILE, Caller::ROOT).unwrap().ino;
        let tree = Tree::from([("f".into(), Vec::new())]);
        let mut waiting = Self { disk, store, fs, ino, tree, number: 0 };
        while waiting.waited() < 20 {
            waiting.write_synced(4096);
            assert!(waiting.number < 100, "no write waits");
        }
        waiting
    }

    fn waited(&self) -> u64 {
        self.store.segments().deferred_blocks()
    }

    /// Writes at the end of the file.
    fn write(&mut self, len: usize) -> Result<(), FsError> {
        self.number += 1;
        let data = pattern(len, self.number);
        let contents = self.tree.get_mut("f").unwrap();
        self.fs.write(self.ino, contents.len() as u64, &data, WriteMode::default())?;
        contents.extend_from_slice(&data);
        Ok(())
    }

    fn write_synced(&mut self, len: usize) {
        self.write(len).unwrap();
        sync(&self.fs).unwrap();
    }

    /// What the disk is when the process is killed now.
    fn killed(self) -> (Disk, Tree) {
        let disk = self.disk.after_kill();
        self.end();
        (disk, self.tree)
    }

    fn end(&self) {
        self.fs.forget_all();
        let _ = self.store.close();
    }
}

fn bases() -> [Disk; 2] {
    [new_disk(None, None), new_encrypted_disk(None, None)]
}

fn is_header(name: &str) -> bool {
    name.starts_with("header.json")
}

#[test]
fn blocks_that_wait_survive_kills_and_power_cuts_also_in_the_middle_of_the_recovery() {
    for (base, power) in bases().iter().flat_map(|base| [(base, false), (base, true)]) {
        let waiting = Waiting::new(base);
        let mut rng = StdRng::seed_from_u64(7);
        let dark = waiting.disk.after_power_loss(Survives::Nothing, &mut rng);
        let (killed, tree) = waiting.killed();
        let first = if power { dark } else { killed };
        // The recovery is ended before each access; what is left then is recovered, too.
        let seconds: Arc<Mutex<Vec<Disk>>> = Arc::default();
        let (kept, rng) = (Arc::clone(&seconds), Mutex::new(rng));
        let watched = first.after_kill();
        watched.watch(move |disk, access, _| {
            if access == Access::Read {
                return;
            }
            let survives = [Survives::Nothing, Survives::Some][kept.lock().len() % 2];
            kept.lock().push(match power {
                true => disk.after_power_loss(survives, &mut rng.lock()),
                false => disk.after_kill(),
            });
        });
        let (store, fs) = open(&watched).unwrap();
        assert!(super::tree(&fs) == tree, "something is lost that was synced");
        let seconds = std::mem::take(&mut *seconds.lock());
        fs.forget_all();
        store.close().unwrap();
        let writes = seconds.len();
        assert!(writes > 20, "only {writes} accesses: blocks have to be written to their place");
        for (number, second) in seconds.into_iter().enumerate() {
            assert!(found(&second) == tree, "ended before access {number} of {writes}, power cut: {power}");
        }
    }
}

#[test]
fn a_full_disk_lets_blocks_wait_longer_and_loses_nothing() {
    // A quota that is used up is as a full disk.
    for (base, errno) in bases().iter().zip([libc::ENOSPC, libc::EDQUOT]) {
        let mut waiting = Waiting::new(base);
        waiting.write(3000).unwrap();
        waiting.disk.inject(Fault::from(Access::Write, is_segment, errno, 0));
        assert_eq!(waiting.store.commit_now(), Err(SyncError::NoSpace));
        assert!(waiting.store.health().is_good());
        assert!(tree(&waiting.fs) == waiting.tree, "what waits cannot be read");
        assert_eq!(sync(&waiting.fs), Err(SyncError::NoSpace), "it is not durable");
        assert_eq!(waiting.write(100_000), Err(FsError::NoSpace), "what does not wait is refused");
        let killed = waiting.disk.after_kill();
        waiting.end();
        assert!(found(&killed) == waiting.tree, "something is lost that was done");
        assert!(found(&waiting.disk.after_kill()) == waiting.tree, "something is lost by closing the store");
    }
}

#[test]
fn blocks_that_waited_for_room_get_to_their_segment_when_there_is_some() {
    for base in bases() {
        let mut waiting = Waiting::new(&base);
        let mut rng = StdRng::seed_from_u64(8);
        waiting.write(3000).unwrap();
        waiting.disk.inject(Fault::once(Access::Write, is_segment, libc::ENOSPC, 0));
        assert_eq!(waiting.store.commit_now(), Err(SyncError::NoSpace));
        waiting.write(5000).unwrap();
        waiting.store.commit_now().unwrap();
        let left = waiting.disk.after_power_loss(Survives::Nothing, &mut rng);
        assert!(found(&left) == waiting.tree, "something is lost that was committed");
        waiting.write_synced(4096);
        waiting.end();
        check_disk(&waiting.disk);
        assert!(found(&waiting.disk.after_kill()) == waiting.tree);
    }
}

#[test]
fn blocks_that_wait_are_in_the_log_when_their_segment_cannot_be_written() {
    for base in bases() {
        let waiting = Waiting::new(&base);
        let mut rng = StdRng::seed_from_u64(9);
        waiting.disk.inject(Fault::from(Access::Write, is_segment, libc::EIO, 0));
        assert_eq!(waiting.store.commit_now(), Err(SyncError::Failed));
        assert!(waiting.store.health().reason().unwrap().contains(".seg"), "it says which file failed");
        let dark = waiting.disk.after_power_loss(Survives::Nothing, &mut rng);
        let (killed, tree) = waiting.killed();
        assert!(found(&dark) == tree && found(&killed) == tree, "something is lost that was synced");
    }
}

#[test]
fn no_more_blocks_wait_than_are_bounded_while_they_cannot_be_written() {
    let mut waiting = Waiting::new(&new_disk(None, None));
    waiting.disk.inject(Fault::from(Access::Write, is_segment, libc::ENOSPC, 0));
    let before = waiting.waited();
    let refused = (0..2000).find(|_| {
        let refused = waiting.write(4096).is_err();
        refused || sync(&waiting.fs).is_err()
    });
    assert!(refused.is_some() && waiting.waited() - before < 600, "memory fills up");
    assert!(waiting.store.health().is_good());
    waiting.end();
}

#[test]
fn blocks_that_the_log_does_not_take_are_written_while_the_metadata_is_free() {
    let mut waiting = Waiting::new(&new_disk(None, None));
    waiting.disk.inject(Fault::from(Access::Reserve, is_log, libc::ENOSPC, 0));
    let store = Arc::clone(&waiting.store);
    let is_busy = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_busy);
    waiting.disk.watch(move |_, access, name| {
        if access == Access::Write && is_segment(name) && !seen.load(Ordering::Relaxed) {
            let (send, receive) = channel();
            let store = Arc::clone(&store);
            // It ends as soon as it gets the lock, at the latest when this write is over.
            std::thread::spawn(move || {
                drop(store.meta());
                let _ = send.send(());
            });
            if receive.recv_timeout(Duration::from_secs(20)).is_err() {
                seen.store(true, Ordering::Relaxed);
            }
        }
    });
    for _ in 0..31 {
        waiting.write(60_000).unwrap();
    }
    waiting.disk.watch(|_, _, _| {});
    assert!(waiting.disk.has_failed(), "the log has taken everything");
    assert!(!is_busy.load(Ordering::Relaxed), "a segment is written under the hold of the metadata");
    sync(&waiting.fs).unwrap();
    let (killed, tree) = waiting.killed();
    assert!(found(&killed) == tree);
}

#[test]
fn on_a_full_disk_blocks_leave_the_log_its_room_for_deletions() {
    for base in bases() {
        let mut waiting = Waiting::new(&base);
        // Their deletions take some pages of the log.
        let name = |number: u32| format!("{number:0>200}");
        for name in (0..100).map(name) {
            let made = waiting.fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT).unwrap();
            waiting.fs.forget(made.ino, 1);
            waiting.tree.insert(name, Vec::new());
        }
        waiting.store.commit_now().unwrap();
        // The log of this epoch has no more than what is kept: the other one was written to.
        let len = |name: &str| waiting.disk.open(name, OpenMode::Read).unwrap().len().unwrap();
        let log = ["redo.0", "redo.1"].into_iter().min_by_key(|name| len(name)).unwrap();
        waiting.disk.fill(true);
        for _ in 0..30 {
            // Some of them find room in what is kept already.
            let _ = waiting.write(4096);
        }
        let left = waiting.disk.room_of(log) - waiting.disk.open(log, OpenMode::Read).unwrap().len().unwrap();
        assert!(left > 112 << 10, "blocks have taken it, and {left} bytes are left");
        // No commit comes to their help.
        waiting.disk.inject(Fault::from(Access::Write, |name| name == "meta.db-wal", libc::ENOSPC, 0));
        for name in (0..100).map(name) {
            waiting.fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
            waiting.tree.remove(&name);
        }
        let (killed, tree) = waiting.killed();
        assert_eq!(found(&killed).keys().collect::<Vec<_>>(), tree.keys().collect::<Vec<_>>());
    }
}

#[test]
fn nothing_waits_where_the_host_keeps_no_room() {
    let disk = new_disk(None, None).after_kill();
    disk.inject(Fault::from(Access::Reserve, everything, libc::EOPNOTSUPP, 0));
    let (store, fs) = open(&disk).unwrap();
    let ino = fs.make(ROOT_INO, b"f", &FILE, Caller::ROOT).unwrap().ino;
    for number in 0..40 {
        fs.write(ino, number * 4096, &pattern(4096, number), WriteMode::default()).unwrap();
        sync(&fs).unwrap();
    }
    assert_eq!(store.segments().deferred_blocks(), 0);
    fs.forget_all();
    store.close().unwrap();
}

/// A file system that is unmounted with this.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        succeed(Command::new("umount").arg(self.0));
    }
}

#[test]
fn a_host_file_system_that_cannot_reserve_says_so() {
    let tmp = scratch();
    succeed(Command::new("mount").args(["-t", "ramfs", "larder-test"]).arg(tmp.path()));
    let _mounted = Mounted(tmp.path());
    let file = OsDir::new(tmp.path()).open("a", OpenMode::Create).unwrap();
    assert_eq!(file.reserve(0, 4096).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    // Space that does not come back before the file goes is no error.
    file.punch(0, 4096).unwrap();
}

#[test]
fn a_store_whose_log_has_blocks_is_opened_on_a_full_disk() {
    for base in bases() {
        let (disk, tree) = Waiting::new(&base).killed();
        // The room that was reserved for them may be lost with the power, and others have taken it.
        disk.inject(Fault::once(Access::Write, is_segment, libc::ENOSPC, 2));
        let (store, fs) = open(&disk).unwrap();
        assert!(disk.has_failed() && super::tree(&fs) == tree);
        fs.forget_all();
        store.close().unwrap();
        // If there is none to give back either, it says what to do.
        let (disk, tree) = Waiting::new(&base).killed();
        disk.inject(Fault::from(Access::Write, is_segment, libc::ENOSPC, 2));
        let error = open(&disk).err().unwrap();
        assert!(error.contains("free 2 MiB"), "{error}");
        assert!(found(&disk.after_kill()) == tree);
    }
}

/// A store that an earlier version has served, on a disk where others have left nothing but what it keeps for itself.
fn older_store() -> Disk {
    let disk = Waiting::new(&new_disk(None, None)).killed().0;
    let mut header = Header::read(&disk).unwrap();
    header.features.remove(&Feature::UnnamedFiles);
    header.replace(&disk).unwrap();
    disk.inject(Fault::once(Access::Write, is_header, libc::ENOSPC, 0));
    disk
}

#[test]
fn the_header_of_a_new_version_takes_little_of_what_is_kept() {
    let disk = older_store();
    let kept = |disk: &Disk| {
        ["meta.db", "meta.db-wal"]
            .map(|name| disk.room_of(name) - disk.open(name, OpenMode::Read).unwrap().len().unwrap())
    };
    let (before, at_rename) = (kept(&disk), Arc::new(Mutex::new(None)));
    assert!(before.iter().sum::<u64>() > 1 << 20, "{before:?}");
    let seen = Arc::clone(&at_rename);
    disk.watch(move |disk, access, name| {
        if access == Access::Create && name == "header.json" {
            *seen.lock() = Some(kept(disk));
        }
    });
    let (store, fs) = open(&disk).unwrap();
    let at_rename = at_rename.lock().unwrap();
    let missing = before.iter().zip(at_rename).map(|(before, left)| before.saturating_sub(left)).sum::<u64>();
    assert!(missing <= 64 << 10, "{before:?} {at_rename:?}");
    fs.forget_all();
    store.close().unwrap();
    assert!(!Header::read(&disk).unwrap().is_older());
}

#[test]
fn a_store_keeps_its_version_if_others_take_the_room_that_the_new_header_needs() {
    let disk = older_store();
    disk.inject(Fault::from(Access::Reserve, |name| name.starts_with("meta.db"), libc::ENOSPC, 0));
    let error = open(&disk).err().unwrap();
    assert!(error.contains("free 64 KiB"), "{error}");
    assert!(Header::read(&disk).unwrap().is_older());
}
