//! Whatever one call asks for, nobody else waits for all of it: work under one hold of the metadata is bounded. Measured in rows; and
//! on a slow disk ([`slow`]), in what it would take there.

mod slow;

use crate::disk::Disk;
use crate::model::harness::{await_reclaim, check_disk, new_disk};
use crate::support::{pattern, wait_until};
use larder::fs::{
    AllocateMode, Caller, Fs, FsError, FsOptions, Ino, Kind, NewNode, ROOT_INO, SeekTarget, SetAttr, Wait,
    WriteMode, XattrFlags,
};
use larder::meta::{ChunkRow, FILE_MAX, Inspector, NewSnapshot};
use larder::open_store::{OpenStore, StoreOptions};
use larder::store::Header;
use std::sync::Arc;

/// Rows under one hold: what one step may look at, once to plan it and once to do it, and what it writes, and a cache that is
/// written out meanwhile.
const ROWS_MAX: u64 = 6 * 1024;
/// Chunks of a test file: far more than one step is about.
const CHUNKS: u64 = 12_000;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

struct Store {
    disk: Disk,
    store: Arc<OpenStore>,
    fs: Fs,
}

impl Store {
    fn new(blocks: Option<u64>) -> Self {
        let disk = new_disk(blocks, None);
        let store = OpenStore::open(Arc::new(disk.clone()), None, StoreOptions::default()).unwrap();
        let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
        Self { disk, store, fs }
    }

    fn make(&self, parent: Ino, name: &str, kind: Kind) -> Ino {
        let node = NewNode { kind, permissions: 0o755, umask: 0, rdev: 0, target: None };
        let ino = self.fs.make(parent, name.as_bytes(), &node, Caller::ROOT).unwrap().ino;
        self.fs.forget(ino, 1);
        ino
    }

    /// A file with one block in each chunk.
    fn scattered(&self, name: &str) -> Ino {
        let ino = self.make(ROOT_INO, name, Kind::Regular);
        for chunk in 0..CHUNKS {
            self.fs.write(ino, chunk * MIB, &pattern(4096, chunk), WriteMode::default()).unwrap();
        }
        ino
    }

    fn snapshot(&self, name: &str) {
        let new = NewSnapshot { name: name.to_owned(), labels: Default::default(), created: 1 };
        self.store.alter(move |meta| meta.create_snapshot(1, &new)).unwrap();
    }

    fn set_size(&self, ino: Ino, size: u64) {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(ino, &set, Caller::ROOT).unwrap();
    }

    fn used(&self) -> u64 {
        self.store.meta().usage(1).unwrap().0.blocks
    }

    /// Does something, and looks at what was done under one hold meanwhile.
    #[track_caller]
    fn bounded<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        self.bounded_by(ROWS_MAX, what, work)
    }

    #[track_caller]
    fn bounded_by<T>(&self, most: u64, what: &str, work: impl FnOnce() -> T) -> T {
        self.store.take_most_rows();
        let result = work();
        let rows = self.store.take_most_rows();
        assert!(rows <= most, "{what}: {rows} rows under one hold of the metadata");
        result
    }

    /// Waits until everything that was unlinked is freed.
    fn await_reaped(&self) {
        wait_until("orphans are gone", || self.store.meta().orphans(1).unwrap().is_empty());
    }

    fn close(self) {
        self.fs.forget_all();
        self.await_reaped();
        await_reclaim(&self.store);
        self.store.close().unwrap();
        check_disk(&self.disk);
    }
}

/// What a program wrote in front of what is there already is lost: a file that ends where its data ends loses all that too.
#[test]
fn what_lies_behind_a_loss_is_given_back_in_steps() {
    let store = Store::new(Some(CHUNKS + 10));
    let ino = store.make(ROOT_INO, "f", Kind::Regular);
    let mode = WriteMode { is_write_back: true, keeps_times: true, ..WriteMode::default() };
    // The last makes the file grow, and all others come after it.
    for chunk in (1..=CHUNKS).rev() {
        store.fs.write(ino, chunk * MIB, &pattern(4096, chunk), mode).unwrap();
    }
    let lost = store.bounded("a loss", || store.fs.write(ino, 0, &pattern(100 * 4096, 0), mode));
    assert_eq!(lost, Err(FsError::NoSpace));
    assert_eq!((store.fs.getattr(ino).unwrap().size, store.used()), (0, 0));
    assert_eq!(store.fs.sync_error(ino), Some(FsError::NoSpace));
    store.close();
}

/// It wrote all pages that had changed since the last one.
#[test]
fn a_commit_writes_little_however_much_was_changed() {
    const LINKS: usize = 8000;
    let store = Store::new(None);
    // Four rows fill a page.
    let target = [b'x'; 900];
    let node = NewNode { kind: Kind::Symlink, permissions: 0o777, umask: 0, rdev: 0, target: Some(&target) };
    let make = |i| {
        let ino = store.fs.make(ROOT_INO, format!("link{i}").as_bytes(), &node, Caller::ROOT).unwrap().ino;
        store.fs.forget(ino, 1);
        ino
    };
    let links: Vec<Ino> = (0..LINKS).map(make).collect();
    store.store.commit_now().unwrap();
    store.store.take_most_committed();
    for ino in links.iter().step_by(4) {
        store.fs.setattr(*ino, &SetAttr { uid: Some(7), ..SetAttr::default() }, Caller::ROOT).unwrap();
    }
    store.store.commit_now().unwrap();
    let most = store.store.take_most_committed();
    assert!(most < 5 * MIB / 2, "a commit wrote {most} bytes while it held the metadata");
    store.close();
}

/// In a file that has its size already, what fills holes behind what is lost does not make it grow.
#[test]
fn holes_that_were_filled_behind_a_loss_are_holes_again() {
    let store = Store::new(Some(100));
    let ino = store.make(ROOT_INO, "f", Kind::Regular);
    let block = |i: u64| pattern(4096, i);
    let mode = WriteMode { is_write_back: true, keeps_times: true, ..WriteMode::default() };
    store.set_size(ino, 1000 * 4096 + 5);
    // Two that a sync has covered, one of them behind what will be lost; some that come at the same time, out of order.
    let write = |at: u64| store.fs.write(ino, at * 4096, &block(at), mode);
    for at in [3, 700] {
        write(at).unwrap();
    }
    assert_eq!(store.fs.sync_error(ino), None);
    for at in [950, 4, 600, 700, 500, 1000] {
        let bytes = block(at);
        let len = if at == 1000 { 5 } else { 4096 };
        store.fs.write(ino, at * 4096, &bytes[..len], mode).unwrap();
    }
    let lost = store.fs.write(ino, 550 * 4096, &pattern(100 * 4096, 0), mode);
    assert_eq!(lost, Err(FsError::NoSpace));
    let attr = store.fs.getattr(ino).unwrap();
    assert_eq!((attr.size, store.used()), (1000 * 4096 + 5, 4), "3, 4, 500 and 700");
    let read = |at: u64| {
        let mut bytes = [1; 4096];
        store.fs.read(ino, at * 4096, &mut bytes, Wait::Yes).unwrap();
        bytes.to_vec()
    };
    for at in [3, 4, 500, 700] {
        assert!(read(at) == block(at), "{at}");
    }
    for at in [600, 950] {
        assert!(read(at).iter().all(|byte| *byte == 0), "{at}");
    }
    // What was given back is missing, until it is written again with the rest.
    assert_eq!(store.fs.write(ino, 980 * 4096, &block(1), mode), Err(FsError::NoSpace));
    assert_eq!(store.fs.sync_error(ino), Some(FsError::NoSpace));
    store.close();
}

/// All of it twice: on what only the volume has, and on what a snapshot has too, so that something must stay to hide it.
#[test]
fn whatever_one_call_asks_for_is_done_in_bounded_steps() {
    let store = Store::new(None);
    for held in [false, true] {
        let name = |what: &str| format!("{what}{held}");
        let [cut, punched, zeroed, copied, gone] =
            ["cut", "punched", "zeroed", "copied", "gone"].map(|what| store.scattered(&name(what)));
        let sparse = store.make(ROOT_INO, &name("sparse"), Kind::Regular);
        let target = store.make(ROOT_INO, &name("target"), Kind::Regular);
        if held {
            store.snapshot("s");
        }
        let Store { fs, .. } = &store;
        let all = CHUNKS * MIB;
        let allocate = |ino, offset, len, mode| fs.allocate(ino, offset, len, mode, Caller::ROOT).unwrap();
        store
            .bounded("fallocate", || allocate(zeroed, 0, 2 * all, AllocateMode::Reserve { keep_size: true }));
        store.bounded("zero range", || {
            allocate(zeroed, 0, FILE_MAX, AllocateMode::ZeroRange { keep_size: true });
        });
        assert_eq!(fs.getattr(zeroed).unwrap().blocks, FILE_MAX / 512);
        assert_eq!(fs.getattr(zeroed).unwrap().size, (CHUNKS - 1) * MIB + 4096);
        store.bounded("seek", || assert_eq!(fs.seek(zeroed, 0, SeekTarget::Data), Err(FsError::NoData)));
        store.bounded("cutting what is reserved", || store.set_size(zeroed, 0));
        store.bounded("punch", || allocate(punched, 4096, FILE_MAX, AllocateMode::PunchHole));
        assert_eq!(fs.getattr(punched).unwrap().blocks, 8);
        store.bounded("seek", || assert_eq!(fs.seek(punched, 4096, SeekTarget::Data), Err(FsError::NoData)));
        store.bounded("growing", || store.set_size(sparse, FILE_MAX));
        store.bounded("seek", || assert_eq!(fs.seek(sparse, 5, SeekTarget::Data), Err(FsError::NoData)));
        store.bounded("seek", || assert_eq!(fs.seek(sparse, 5, SeekTarget::Hole), Ok(5)));
        store.bounded("copy", || {
            let mut done = 0;
            while done < (CHUNKS - 1) * MIB {
                done += fs.copy_range((copied, done), (target, done), all - done, Caller::ROOT).unwrap();
            }
        });
        store.bounded("copying holes over it", || {
            let mut done = 0;
            while done < all {
                done += fs.copy_range((sparse, done), (target, done), all - done, Caller::ROOT).unwrap();
            }
        });
        assert_eq!(fs.getattr(target).unwrap().blocks, 0);
        store.bounded("cut", || store.set_size(cut, 10));
        assert_eq!(fs.getattr(cut).unwrap().blocks, 8);
        store.bounded("unlink", || {
            fs.unlink(ROOT_INO, name("gone").as_bytes()).unwrap();
            store.await_reaped();
        });
        let _ = gone;
    }
    store.bounded("reclaiming a snapshot", || {
        let id = store.store.meta().snapshots().unwrap()[0].id;
        store.store.alter(move |meta| meta.remove_snapshot(id)).unwrap();
        await_reclaim(&store.store);
    });
    store.close();
}

#[test]
fn a_directory_whose_names_a_snapshot_has_is_listed_and_removed_in_bounded_steps() {
    const NAMES: usize = 10_000;
    let store = Store::new(None);
    let dir = store.make(ROOT_INO, "dir", Kind::Directory);
    for i in 0..NAMES {
        store.make(dir, &format!("name{i}"), Kind::Regular);
    }
    store.snapshot("s");
    for i in 0..NAMES {
        store.fs.unlink(dir, format!("name{i}").as_bytes()).unwrap();
    }
    store.await_reaped();
    let last = store.make(dir, "last", Kind::Regular);
    let mut found = Vec::new();
    store.bounded("readdir", || {
        store
            .fs
            .readdir(dir, 0, |entry| {
                found.push(entry.ino);
                true
            })
            .unwrap();
    });
    assert_eq!(found, [dir, ROOT_INO, last]);
    assert_eq!(store.fs.rmdir(ROOT_INO, b"dir"), Err(FsError::NotEmpty));
    store.fs.unlink(dir, b"last").unwrap();
    store.bounded("rmdir", || store.fs.rmdir(ROOT_INO, b"dir").unwrap());
    store.close();
}

#[test]
fn the_names_of_a_file_are_looked_for_in_bounded_steps() {
    const NAMES: usize = 10_000;
    let store = Store::new(None);
    let dir = store.make(ROOT_INO, "dir", Kind::Directory);
    for i in 0..NAMES {
        store.make(dir, &format!("name{i}"), Kind::Regular);
    }
    let ino = store.make(dir, "wanted", Kind::Regular);
    store.fs.link(ino, dir, b"another").unwrap();
    store.fs.forget(ino, 1);
    let (mut names, mut steps, mut after) = (Vec::new(), 0, Some(0));
    while let Some(from) = after {
        let mut found = |parent, name: Box<[u8]>| names.push((parent, name.to_vec()));
        after = store.bounded("a look", || store.fs.some_names_of(ino, from, &mut found).unwrap());
        steps += 1;
    }
    names.sort();
    assert_eq!(names, [(dir, b"another".to_vec()), (dir, b"wanted".to_vec())]);
    assert!(steps > NAMES / 1000, "{steps} steps");
    store.close();
}

/// Also where a snapshot has them too, so that each leaves something that hides it.
#[test]
fn a_file_with_thousands_of_attributes_is_freed_in_bounded_steps() {
    const ATTRIBUTES: usize = 5000;
    let store = Store::new(None);
    for held in [false, true] {
        let ino = store.make(ROOT_INO, "f", Kind::Regular);
        store.fs.write(ino, 0, b"data", WriteMode::default()).unwrap();
        for i in 0..ATTRIBUTES {
            let name = format!("user.{i:04}");
            store.fs.setxattr(ino, name.as_bytes(), b"", XattrFlags::default(), Caller::ROOT).unwrap();
        }
        store.fs.setxattr(ino, b"security.capability", b"", XattrFlags::default(), Caller::ROOT).unwrap();
        if held {
            store.snapshot("s");
        }
        // Not all of them under one hold, whatever each costs.
        store.bounded_by(ATTRIBUTES as u64 / 2, "unlink", || {
            store.fs.unlink(ROOT_INO, b"f").unwrap();
            store.await_reaped();
        });
    }
    store.close();
}

/// Each step of freeing looked at all chunks that earlier steps had freed, because their whiteouts stay as long as the snapshot.
#[test]
fn freeing_a_file_that_a_snapshot_has_looks_at_each_chunk_a_few_times() {
    let store = Store::new(None);
    store.scattered("f");
    store.snapshot("s");
    let before = store.store.meta().rows_touched();
    store.fs.unlink(ROOT_INO, b"f").unwrap();
    store.await_reaped();
    let rows = store.store.meta().rows_touched() - before;
    assert!(rows < 12 * CHUNKS, "{rows} rows for {CHUNKS} chunks");
    store.close();
}

#[test]
fn a_long_reserved_run_is_a_row_for_each_4_gib() {
    let store = Store::new(Some(20 * TIB / 4096));
    let ino = store.make(ROOT_INO, "f", Kind::Regular);
    let reserve = AllocateMode::Reserve { keep_size: false };
    store.fs.allocate(ino, 100, TIB, reserve, Caller::ROOT).unwrap();
    // Writing and punching in the middle of it.
    store.fs.write(ino, TIB / 2 + 5000, &pattern(10_000, 1), WriteMode::default()).unwrap();
    store.fs.allocate(ino, TIB / 4, 600 * MIB + 5, AllocateMode::PunchHole, Caller::ROOT).unwrap();
    assert_eq!(store.used(), TIB / 4096 + 1 - 600 * 256);
    assert_eq!(store.fs.seek(ino, 0, SeekTarget::Data), Ok(TIB / 2 + 4096));
    assert_eq!(store.fs.seek(ino, TIB / 2 + 4096, SeekTarget::Hole), Ok(TIB / 2 + 4 * 4096));
    let Store { disk, store, fs } = store;
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
    let dir = Arc::new(disk.clone());
    let header = Header::read(&*dir).unwrap();
    let inspector = Inspector::open(dir, header.store).unwrap();
    let (mut extents, mut groups) = (0, 0);
    let row = inspector.volumes().unwrap().remove(0);
    inspector
        .chunks(&row, |_, row| {
            match row {
                ChunkRow::Extents(..) => extents += 1,
                ChunkRow::Reserved(..) => groups += 1,
            }
            Ok(())
        })
        .unwrap();
    assert!(groups <= 257 && extents <= 4, "{groups} rows of reserved chunks, {extents} of extents");
}

#[test]
fn an_allocation_that_does_not_fit_changes_nothing_however_long_it_is() {
    let store = Store::new(Some(8 * TIB / 4096));
    let ino = store.scattered("f");
    let used = store.used();
    let allocate = |len, mode| store.fs.allocate(ino, 0, len, mode, Caller::ROOT);
    for mode in [AllocateMode::Reserve { keep_size: true }, AllocateMode::ZeroRange { keep_size: true }] {
        assert_eq!(store.bounded("no space", || allocate(9 * TIB, mode)), Err(FsError::NoSpace));
        assert_eq!(store.used(), used);
    }
    // To the last block, with what the file has already.
    allocate(8 * TIB, AllocateMode::Reserve { keep_size: true }).unwrap();
    assert_eq!(store.used(), 8 * TIB / 4096);
    assert_eq!(allocate(8 * TIB + 1, AllocateMode::Reserve { keep_size: true }), Err(FsError::NoSpace));
    allocate(8 * TIB, AllocateMode::ZeroRange { keep_size: true }).unwrap();
    assert_eq!(store.used(), 8 * TIB / 4096);
    store.close();
}
