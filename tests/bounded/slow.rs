//! On a disk on which a page of the database that is not in memory takes a millisecond, nobody holds the metadata for long either, be it
//! for a commit. Time is what the disk says that it would take: nothing here depends on how fast the machine is.

use super::*;
use crate::disk::Access;
use larder::backing::{Dir, OpenMode};
use larder::meta::{Limits, NewClone, Timestamp, VolumeId};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is promised.
const LONGEST: Duration = Duration::from_millis(50);
/// Nothing is committed that nobody asks for.
const NEVER: Duration = Duration::from_secs(3600);
/// Links with long targets: the row of each is a quarter of a page.
const LINKS: usize = 1000;
/// Of which so many are changed, each of them in another page.
const CHANGED: usize = 200;

impl Store {
    /// The same store, opened anew on a slow disk.
    fn cold(self) -> Self {
        self.fs.forget_all();
        self.store.close().unwrap();
        let Self { disk, fs, .. } = self;
        drop(fs);
        disk.slow_down();
        let options = StoreOptions { commit_interval: NEVER, ..StoreOptions::default() };
        let store = OpenStore::open(Arc::new(disk.clone()), None, options).unwrap();
        let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
        Self { disk, store, fs }
    }

    /// Lets go of everything that is in memory.
    fn forget(&self) {
        while !self.store.meta().shed().unwrap() {}
        self.disk.slow_down();
    }

    /// From now on, next to nothing stays in memory but with the host.
    fn forget_always(&self) {
        self.forget();
        self.store.meta().limit_caches_to(0).unwrap();
    }

    fn links(&self) -> Vec<Ino> {
        self.links_to(&[b'x'; 900])
    }

    fn links_to(&self, target: &[u8]) -> Vec<Ino> {
        let node =
            NewNode { kind: Kind::Symlink, permissions: 0o777, umask: 0, rdev: 0, target: Some(target) };
        let make = |i| {
            let ino = self.fs.make(ROOT_INO, format!("link{i}").as_bytes(), &node, Caller::ROOT).unwrap().ino;
            self.fs.forget(ino, 1);
            ino
        };
        (0..LINKS).map(make).collect()
    }

    /// Gives some of the links another owner. Their pages are not in memory after that.
    fn change(&self, links: &[Ino], uid: u32) {
        for ino in links.iter().step_by(LINKS / CHANGED) {
            self.fs.setattr(*ino, &SetAttr { uid: Some(uid), ..SetAttr::default() }, Caller::ROOT).unwrap();
        }
        self.disk.slow_down();
    }

    /// The same, until much of it waits to be written to the tables. (What the store does by itself when it was opened may write some.)
    #[track_caller]
    fn change_much(&self, links: &[Ino], uid: u32) {
        wait_until("there is something to be written", || {
            self.change(links, uid);
            self.store.meta().unwritten() > 100
        });
    }

    #[track_caller]
    fn must_be_changed(&self, links: &[Ino], uid: u32) {
        for ino in links.iter().step_by(LINKS / CHANGED) {
            assert_eq!(self.fs.getattr(*ino).unwrap().uid, uid);
        }
    }

    /// Does something, during which nobody holds the metadata for long.
    #[track_caller]
    fn short<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        self.store.take_longest_hold();
        let result = work();
        let longest = self.store.take_longest_hold();
        assert!(longest <= LONGEST, "{what}: the metadata were held for {longest:?}");
        result
    }

    fn remove_snapshot(&self, name: &str) {
        let id = self.store.meta().snapshot(1, name).unwrap().unwrap().id;
        self.store.alter(move |meta| meta.remove_snapshot(id)).unwrap();
    }
}

#[test]
fn a_commit_finds_few_rows_to_be_written() {
    let store = Store::new(None);
    let links = store.links();
    let store = store.cold();
    store.forget_always();
    store.short("changes", || store.change_much(&links, 7));
    store.short("a commit", || store.store.commit_now().unwrap());
    assert!(store.store.meta().unwritten() == 0);
    let store = store.cold();
    store.must_be_changed(&links, 7);
    store.close();
}

/// What was there before is written by then; what comes meanwhile was left to the commit.
#[test]
fn a_commit_that_waited_for_a_sync_finds_few_rows_to_be_written() {
    let store = Store::new(None);
    let links = store.links();
    let store = store.cold();
    store.forget_always();
    let (stalls, released) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (stalled, go_on) = (Arc::clone(&stalls), Arc::clone(&released));
    store.disk.watch(move |_, access, name| {
        if access == Access::Sync && name.starts_with("redo") && !go_on.load(Ordering::SeqCst) {
            stalled.store(true, Ordering::SeqCst);
            wait_until("the sync goes on", || go_on.load(Ordering::SeqCst));
        }
    });
    store.make(ROOT_INO, "f", Kind::Regular);
    store.store.sync(Box::new(|result| result.unwrap()));
    wait_until("the log is being synced", || stalls.load(Ordering::SeqCst));
    store.short("a commit", || {
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| store.store.commit_now().unwrap());
            // By then, it waits for its turn. If it does not, this tests less.
            std::thread::sleep(Duration::from_millis(200));
            store.change(&links, 7);
            released.store(true, Ordering::SeqCst);
            commit.join().unwrap();
        });
    });
    let store = store.cold();
    store.must_be_changed(&links, 7);
    store.close();
}

/// While there are changes all the time, there is a commit nevertheless, and it is a short one.
#[test]
fn there_is_a_commit_however_fast_changes_come() {
    let store = Store::new(None);
    let links = store.links();
    let store = store.cold();
    store.forget_always();
    store.change(&links, 7);
    let stop = AtomicBool::new(false);
    store.short("commits", || {
        std::thread::scope(|scope| {
            for part in 0..2 {
                let (store, links, stop) = (&store, &links, &stop);
                scope.spawn(move || {
                    let mut uid = 8;
                    while !stop.load(Ordering::SeqCst) {
                        store.change(&links[part..], uid);
                        uid += 1;
                    }
                });
            }
            for _ in 0..5 {
                store.disk.slow_down();
                store.store.commit_now().unwrap();
            }
            stop.store(true, Ordering::SeqCst);
        });
    });
    store.close();
}

#[test]
fn many_files_that_are_open_without_a_name_are_noted_in_steps() {
    const FILES: usize = 5000;
    let store = Store::new(None);
    let dir = store.make(ROOT_INO, "dir", Kind::Directory);
    let store = store.cold();
    let name = |i| format!("file{i}");
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    for i in 0..FILES {
        store.fs.make(dir, name(i).as_bytes(), &node, Caller::ROOT).unwrap();
    }
    for i in 0..FILES {
        store.fs.unlink(dir, name(i).as_bytes()).unwrap();
    }
    store.bounded_by(FILES as u64 / 4, "a commit", || store.store.commit_now().unwrap());
    assert_eq!(store.disk.after_kill().orphans(), FILES);
    store.fs.forget_all();
    store.await_reaped();
    store.bounded_by(FILES as u64 / 4, "another", || store.store.commit_now().unwrap());
    assert_eq!(store.disk.after_kill().orphans(), 0);
    store.close();
}

impl Disk {
    /// Files without a name that the next one to open the store would find.
    fn orphans(&self) -> usize {
        let header = Header::read(self).unwrap();
        let files = larder::meta::MetaFiles::new(Arc::new(self.clone()), false).unwrap();
        larder::meta::Meta::open(files, header.store).unwrap().orphans(1).unwrap().len()
    }
}

#[test]
fn the_database_shrinks_in_short_steps() {
    let store = Store::new(None);
    let links = store.links_to(&[b'x'; 4000]);
    // The last pages of the database stay in use: they have to move.
    for i in 0..LINKS / 4 {
        let to = NewNode {
            kind: Kind::Symlink,
            permissions: 0o777,
            umask: 0,
            rdev: 0,
            target: Some(&[b'y'; 4000]),
        };
        store.fs.make(ROOT_INO, format!("kept{i}").as_bytes(), &to, Caller::ROOT).unwrap();
    }
    let store = store.cold();
    let database = |disk: &Disk| disk.open("meta.db", OpenMode::Read).unwrap().len().unwrap();
    let all = database(&store.disk);
    for i in 0..links.len() {
        store.fs.unlink(ROOT_INO, format!("link{i}").as_bytes()).unwrap();
    }
    store.await_reaped();
    store.store.commit_now().unwrap();
    store.forget();
    store.short("commits that shrink the database", || {
        for _ in 0..200 {
            store.store.commit_now().unwrap();
            store.make(ROOT_INO, "again", Kind::Regular);
            store.fs.unlink(ROOT_INO, b"again").unwrap();
            store.forget();
        }
    });
    let disk = store.disk.clone();
    store.close();
    assert!(database(&disk) < all / 2, "{} of {all} bytes are left", database(&disk));
}

#[test]
fn what_a_snapshot_held_is_given_back_in_short_steps() {
    let store = Store::new(None);
    let links = store.links();
    store.snapshot("s");
    let store = store.cold();
    store.forget_always();
    store.change(&links, 7);
    store.short("removing a snapshot, and what it held", || {
        store.remove_snapshot("s");
        // Beside it, there is always something to be written.
        let mut uid = 8;
        while store.store.meta().has_dead() {
            store.change(&links, uid);
            uid += 1;
        }
    });
    store.store.commit_now().unwrap();
    store.close();
}

/// A clone and many snapshots have a chunk each that is not that of the snapshot both began with.
#[test]
fn what_many_snapshots_have_of_one_chunk_is_handed_over_in_short_steps() {
    const SNAPSHOTS: u64 = 100;
    let store = Store::new(None);
    let ino = store.make(ROOT_INO, "f", Kind::Regular);
    let write = |fs: &Fs, block: u64, salt| {
        fs.write(ino, block * 4096, &pattern(4096, salt), WriteMode::default()).unwrap();
    };
    // As many extents as there can be.
    (0..256).rev().for_each(|block| write(&store.fs, block, block));
    store.snapshot("base");
    let base = store.store.meta().snapshot(1, "base").unwrap().unwrap().id;
    let new = NewClone {
        name: "clone".into(),
        limits: Limits::default(),
        labels: Default::default(),
        created: Timestamp::default(),
        uid: None,
        gid: None,
        permissions: None,
    };
    let clone: VolumeId = store.store.alter(move |meta| meta.create_clone(base, &new)).unwrap();
    write(&Fs::new(Arc::clone(&store.store), clone, FsOptions::default()), 0, 1000);
    for i in 0..SNAPSHOTS {
        write(&store.fs, i, 2000 + i);
        store.snapshot(&format!("s{i}"));
    }
    let store = store.cold();
    store.short("giving back what only the first one held", || {
        store.remove_snapshot("base");
        await_reclaim(&store.store);
    });
    store.close();
}

/// Who else refers to a block is in a table of its own, in the order of addresses.
#[test]
fn what_several_files_refer_to_is_let_go_of_in_short_steps() {
    const BLOCKS: u64 = 48 * 256;
    let store = Store::new(None);
    let [file, other] = ["file", "other"].map(|name| store.make(ROOT_INO, name, Kind::Regular));
    for i in 0..BLOCKS {
        // Neither in the order of the file, nor side by side.
        let block = i * 7919 % BLOCKS;
        for ino in [file, other] {
            store.fs.write(ino, block * 4096, &pattern(4096, i), WriteMode::default()).unwrap();
        }
    }
    let all = BLOCKS * 4096;
    let copy = |name: &str| {
        let (copy, mut done) = (store.make(ROOT_INO, name, Kind::Regular), 0);
        while done < all {
            done += store.fs.copy_range((file, done), (copy, done), all - done, Caller::ROOT).unwrap();
        }
        copy
    };
    let (cut, punched) = (copy("cut"), copy("punched"));
    copy("gone");
    let store = store.cold();
    store.short("freeing a copy", || {
        store.fs.unlink(ROOT_INO, b"gone").unwrap();
        store.await_reaped();
    });
    store.store.commit_now().unwrap();
    store.forget();
    store.short("cutting one", || store.set_size(cut, 0));
    store.store.commit_now().unwrap();
    store.forget();
    store.short("punching one", || {
        store.fs.allocate(punched, 0, all, AllocateMode::PunchHole, Caller::ROOT).unwrap();
    });
    store.short("a commit", || store.store.commit_now().unwrap());
    store.close();
}

#[test]
fn what_is_cached_goes_in_short_steps() {
    let store = Store::new(None);
    let links = store.links();
    let store = store.cold();
    store.forget_always();
    store.change_much(&links, 7);
    let left = || {
        let meta = store.store.meta();
        (meta.unwritten(), meta.cached_bytes())
    };
    store.short("a volume that rests", || store.store.rest(1).unwrap());
    assert_eq!(left(), (0, 0));
    store.change_much(&links, 8);
    store.short("a store that rests", || store.store.shed_caches());
    assert_eq!(left(), (0, 0));
    store.must_be_changed(&links, 8);
    store.close();
}

#[test]
fn whether_there_are_labels_is_found_out_in_short_steps() {
    let store = Store::new(None);
    let files: Vec<Ino> = (0..500).map(|i| store.make(ROOT_INO, &format!("f{i}"), Kind::Regular)).collect();
    for ino in &files {
        store.fs.setxattr(*ino, b"user.a", &[1; 800], XattrFlags::default(), Caller::ROOT).unwrap();
    }
    let store = store.cold();
    let label = || store.fs.getxattr(files[0], b"security.selinux");
    assert_eq!(store.short("a label", label), Err(FsError::NotSupported));
    let last = *files.last().unwrap();
    store.fs.setxattr(last, b"security.selinux", b"label", XattrFlags::default(), Caller::ROOT).unwrap();
    let store = store.cold();
    let label = store.short("a label", || store.fs.getxattr(last, b"security.selinux"));
    assert_eq!(label.as_deref(), Ok(&b"label"[..]));
    store.close();
}

/// What can be cut into steps ends a step when it has taken long, wherever it is then: nothing may be left out there, or done twice.
#[test]
fn steps_end_early_and_leave_nothing_out() {
    const FILES: usize = 1500;
    let store = Store::new(None);
    let dir = store.make(ROOT_INO, "dir", Kind::Directory);
    let inodes: Vec<Ino> = (0..FILES).map(|i| store.make(dir, &format!("file{i}"), Kind::Regular)).collect();
    store.snapshot("s");
    let store = store.cold();
    for with_attr in [true, false] {
        let (mut seen, mut cookie) = (Vec::new(), 0);
        while {
            store.forget_always();
            let before = cookie;
            let list = || {
                store.fs.list(dir, cookie, with_attr, |group| {
                    cookie = group.last().map_or(cookie, |(entry, _)| entry.cookie);
                    seen.extend(group.iter().map(|(entry, _)| entry.ino));
                    group.len()
                })
            };
            store.short("a part of a listing", list).unwrap();
            cookie != before
        } {}
        let files: Vec<Ino> = seen.into_iter().filter(|ino| inodes.contains(ino)).collect();
        assert_eq!((files.len(), files.iter().collect::<BTreeSet<_>>().len()), (FILES, FILES));
    }
    // A commit of many rows, and giving back what a snapshot had of them.
    for ino in &inodes {
        let set = SetAttr { permissions: Some(0o600), ..SetAttr::default() };
        store.short("a change", || store.fs.setattr(*ino, &set, Caller::ROOT).unwrap());
        if ino % 100 == 0 {
            store.forget_always();
        }
    }
    store.short("a commit", || store.store.commit_now().unwrap());
    store.short("giving back", || {
        store.remove_snapshot("s");
        await_reclaim(&store.store);
    });
    for ino in &inodes {
        assert_eq!(store.fs.getattr(*ino).unwrap().permissions & 0o777, 0o600);
    }
    store.close();
}
