//! No nonce is ever used twice under one key: every write of a store is looked at, through crashes, power cuts, reopening,
//! giving space back, and being brought back from a copy.
//!
//! What is on disk shows the nonce: a block's is its address; pages, frames and records carry theirs. The same bytes may be
//! written twice under one (a block that is restored after a crash), never others.

use crate::disk::{Disk, Survives};
use crate::model::harness::{keys_of, new_encrypted_disk, secret};
use crate::support::{pattern, wait_until};
use larder::backing::{Dir, File, HostSpace, OpenMode};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, SyncError, WriteMode};
use larder::open_store::{OpenStore, StoreOptions};
use larder::store::{BLOCK_BYTES, SEGMENT_BLOCKS, data_offset, segment_of_name};
use larder::volume::begin_reencryption_in;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

const WAL_HEADER_SLOT: usize = 32 + 48;
const FRAME_SLOT: usize = 24 + 4096 + 48;

/// What was sealed under each nonce.
#[derive(Debug, Default)]
struct Seen {
    by_nonce: HashMap<(&'static str, Vec<u8>), u128>,
}

impl Seen {
    fn note(&mut self, what: &'static str, nonce: Vec<u8>, sealed: &[u8]) {
        let sum = xxh3_128(sealed);
        let first = *self.by_nonce.entry((what, nonce.clone())).or_insert(sum);
        assert_eq!(first, sum, "{what}: two messages under the nonce {nonce:02x?}");
    }

    /// How many messages of that kind were sealed with other keys than the first.
    fn sealed_later(&self, what: &str) -> usize {
        self.by_nonce.keys().filter(|(kind, nonce)| *kind == what && nonce[..4] != [1, 0, 0, 0]).count()
    }

    /// The key epoch, the session and the number in an envelope, under the metadata key.
    fn envelope(&mut self, sealed: &[u8]) {
        let (body, envelope) = sealed.split_at(sealed.len() - 48);
        let mut all = body.to_vec();
        all.extend_from_slice(&envelope[32..]);
        self.note("metadata", envelope[..24].to_vec(), &all);
    }

    /// Pages, one or more; those that never were written are zeros.
    fn pages(&mut self, bytes: &[u8], offset: u64) {
        assert_eq!((bytes.len() % 4096, offset % 4096), (0, 0), "something else than pages");
        bytes
            .chunks_exact(4096)
            .filter(|page| page.iter().any(|b| *b != 0))
            .for_each(|page| self.envelope(page));
    }

    /// `epoch` is the key epoch of the segment, if it is one.
    fn write(&mut self, name: &str, epoch: &[u8], bytes: &[u8], offset: u64) {
        match name {
            "meta.db" | "meta.db.new" => self.pages(bytes, offset),
            "meta.db-wal" => {
                let mut rest = bytes;
                if offset == 0 {
                    let (header, frames) = rest.split_at(WAL_HEADER_SLOT);
                    self.envelope(header);
                    rest = frames;
                } else {
                    assert_eq!((offset as usize - WAL_HEADER_SLOT) % FRAME_SLOT, 0);
                }
                assert_eq!(rest.len() % FRAME_SLOT, 0);
                rest.chunks_exact(FRAME_SLOT).for_each(|frame| self.envelope(frame));
            }
            "redo.0" | "redo.1" => {
                // Space that is prepared.
                if bytes.iter().all(|b| *b == 0) {
                    return;
                }
                assert_eq!(bytes.len() % 256, 0);
                self.note("redo log", [&bytes[32..48], &bytes[16..28]].concat(), bytes);
            }
            "header.json.new" => {}
            _ => {
                let segment = name.strip_prefix("segments/").map(|name| name.trim_end_matches(".new"));
                match segment.and_then(segment_of_name) {
                    Some(segment) => self.write_segment((epoch, segment), bytes, offset),
                    None => panic!("{name} is written"),
                }
            }
        }
    }

    fn write_segment(&mut self, (epoch, segment): (&[u8], u64), bytes: &[u8], offset: u64) {
        let first = (0..SEGMENT_BLOCKS).find(|index| data_offset(*index) == offset);
        // The header, which comes first and names the keys, and seals lie elsewhere.
        let Some(first) = first.filter(|_| bytes.len().is_multiple_of(BLOCK_BYTES)) else { return };
        for (index, block) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            // Of a new file, holes are not written.
            let nonce = [epoch, &segment.to_le_bytes()[..], &index.to_le_bytes()[..]].concat();
            self.note("block", nonce, block);
        }
    }
}

/// A disk on which every write is looked at.
#[derive(Clone, Debug)]
struct Watched {
    disk: Disk,
    seen: Arc<Mutex<Seen>>,
    /// What becomes of writes of more than two pages to the redo log, behind their first page.
    fault: Arc<Mutex<Option<io::ErrorKind>>>,
}

impl Watched {
    fn new(disk: Disk, seen: &Arc<Mutex<Seen>>) -> Self {
        Self { disk, seen: Arc::clone(seen), fault: Arc::default() }
    }

    /// Blocks that were sealed with other keys than the first.
    fn sealed_later(&self) -> usize {
        self.seen.lock().sealed_later("block")
    }
}

#[derive(Debug)]
struct WatchedFile {
    name: String,
    file: Arc<dyn File>,
    disk: Watched,
}

impl Dir for Watched {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(WatchedFile { name: name.to_owned(), file, disk: self.clone() }))
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn list(&self, subdir: &str) -> io::Result<Vec<String>> {
        self.disk.list(subdir)
    }
    fn sync(&self, subdir: &str) -> io::Result<()> {
        self.disk.sync(subdir)
    }
    fn host_space(&self) -> io::Result<HostSpace> {
        self.disk.host_space()
    }
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl File for WatchedFile {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.file.read_at(bufs, offset)
    }
    fn read_at_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        self.file.read_at_nowait(bufs, offset)
    }
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        // From its own header: threads of a store that was killed go on for a moment, on a disk of their own, with files of the same names.
        let mut epoch = [0; 8];
        if self.name.starts_with("segments/") && offset > 0 {
            assert_eq!(self.file.read_at(&mut [IoSliceMut::new(&mut epoch)], 40)?, 8, "{}", self.name);
        }
        self.disk.seen.lock().write(&self.name, &epoch, &bytes, offset);
        let fault = *self.disk.fault.lock();
        if let Some(fault) = fault.filter(|_| self.name.starts_with("redo") && bytes.len() > 2 * 4096) {
            self.file.write_at(&[IoSlice::new(&bytes[..4096])], offset)?;
            return Err(fault.into());
        }
        self.file.write_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.reserve(offset, len)
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.file.start_writeback(offset, len);
    }
    fn prefetch(&self, offset: u64, len: u64) {
        self.file.prefetch(offset, len);
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
    fn has_data(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.file.has_data(offset, len)
    }
}

const FILE: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };

fn open(watched: &Watched, commit_interval: Duration) -> (Arc<OpenStore>, Fs) {
    let options = StoreOptions { cache_bytes: 64 * 1024, commit_interval, ..StoreOptions::default() };
    let keys = keys_of(watched).unwrap();
    let store = OpenStore::open_with(Arc::new(watched.clone()), None, keys, options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    (Arc::clone(&store), Fs::new(store, volume, FsOptions::default()))
}

fn sync(fs: &Fs) -> Result<(), SyncError> {
    let (send, receive) = std::sync::mpsc::channel();
    fs.sync(Box::new(move |result| send.send(result).unwrap()));
    receive.recv().unwrap()
}

/// A process that works on the store for a while.
fn work(watched: &Watched, rng: &mut StdRng, ends: bool) {
    let (store, fs) = open(watched, Duration::from_millis(5));
    let volume = fs.volume();
    for step in 0..60 {
        let name = format!("f{}", rng.random_range(0..8));
        let ino = match fs.lookup(ROOT_INO, name.as_bytes()) {
            Ok(attr) if rng.random_bool(0.2) => {
                fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
                fs.forget(attr.ino, 1);
                continue;
            }
            Ok(attr) => attr.ino,
            Err(_) => fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT).unwrap().ino,
        };
        let len = if step % 10 == 0 { 700_000 } else { rng.random_range(1..20_000) };
        fs.write(ino, rng.random_range(0..100_000), &pattern(len, step), WriteMode::default()).unwrap();
        fs.forget(ino, 1);
        if step % 7 == 0 {
            sync(&fs).unwrap();
        }
        if step % 25 == 0 {
            store.commit_now().unwrap();
        }
        // Now and then everything is sealed again, until the process ends and on from there.
        if step == 30 && rng.random_bool(0.4) {
            let begun = begin_reencryption_in(watched, &secret(), false).unwrap();
            let before = watched.sealed_later();
            store.reencrypt(begun.keys).unwrap();
            // However busy the host is, some of it is done when the process ends.
            wait_until("something is sealed with new keys", || {
                watched.sealed_later() > before || store.reencryption().is_none()
            });
        }
    }
    if ends {
        wait_until("orphans are gone", || store.meta().orphans(volume).unwrap().is_empty());
        fs.forget_all();
        store.close().unwrap();
    } else {
        // It is gone without a word; what it might still do, it does to a disk that nobody looks at.
        std::mem::forget(fs);
    }
}

#[test]
fn no_nonce_is_used_twice() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut rng = StdRng::seed_from_u64(7);
    let first = new_encrypted_disk(None, None);
    let mut disk = first.after_kill();
    for round in 0..14 {
        let watched = Watched::new(disk.clone(), &seen);
        work(&watched, &mut rng, round % 3 == 0);
        disk = match round % 4 {
            0 => disk.after_kill(),
            1 => disk.after_power_loss(Survives::Some, &mut rng),
            2 => disk.after_power_loss(Survives::Nothing, &mut rng),
            // The store as it was at first, from a backup.
            _ => first.after_kill(),
        };
    }
    let seen = seen.lock();
    for what in ["block", "metadata", "redo log"] {
        let count = seen.by_nonce.keys().filter(|(kind, _)| *kind == what).count();
        assert!(count > 500, "only {count} of {what}");
        assert!(what == "redo log" || seen.sealed_later(what) > 100, "{what}");
    }
}

#[test]
fn a_record_that_does_not_get_to_the_disk_has_used_its_nonce() {
    for (fault, expected) in [(io::ErrorKind::StorageFull, 20), (io::ErrorKind::Other, 1)] {
        let watched = Watched::new(new_encrypted_disk(None, None), &Arc::default());
        let (store, fs) = open(&watched, Duration::from_secs(600));
        let ino = fs.make(ROOT_INO, b"f", &FILE, Caller::ROOT).unwrap().ino;
        let mut synced = 0;
        for round in 0..20 {
            *watched.fault.lock() = (round % 3 == 1).then_some(fault);
            fs.write(ino, 0, &pattern(8192, round), WriteMode::default()).unwrap();
            // What does not get into the log is committed, and what follows is recorded again.
            match (sync(&fs), fault) {
                (Ok(()), _) => synced += 1,
                (Err(SyncError::Failed), io::ErrorKind::Other) => break,
                other => panic!("{other:?}"),
            }
            fs.make(ROOT_INO, format!("f{round}").as_bytes(), &FILE, Caller::ROOT).unwrap();
        }
        assert_eq!((synced, store.health().is_good()), (expected, fault == io::ErrorKind::StorageFull));
        *watched.fault.lock() = None;
        let late = fs.make(ROOT_INO, b"late", &FILE, Caller::ROOT);
        assert_eq!(late.is_ok(), store.health().is_good());
        let _ = store.close();
        assert!(watched.seen.lock().by_nonce.keys().any(|(kind, _)| *kind == "redo log"));
    }
}
