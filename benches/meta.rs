//! Operations on metadata, in the requests that a kernel makes of them: `cargo bench --bench meta`.
//!
//! There is no mount: what is measured is the server's part of each operation, without round trips.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use criterion::{Criterion, criterion_group, criterion_main};
use larder::backing::OsDir;
use larder::fs::{
    Caller, Fs, FsError, FsOptions, Ino, Kind, NewNode, ROOT_INO, SetAttr, TimeChange, Timestamp, WriteMode,
};
use larder::meta::{CHUNK_BLOCKS, ChunkMap, Place};
use larder::open_store::{OpenStore, StoreOptions};
use larder::root::Root;
use larder::store::{BLOCK_BYTES, BlockAddr, StoreId};
use larder::volume::{LimitChanges, VolumeSpec, create};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files in a directory.
const DIRECTORY: u64 = 1000;

/// A volume that nobody mounts.
struct Volume {
    root: Root,
    id: StoreId,
    store: Arc<OpenStore>,
    fs: Fs,
    made: u64,
    directories: Vec<Ino>,
    _tmp: tempfile::TempDir,
}

fn open(root: &Root, id: StoreId) -> (Arc<OpenStore>, Fs) {
    let store = OpenStore::open(Arc::new(OsDir::new(root.store(id))), None, StoreOptions::default()).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    (store, fs)
}

fn node(kind: Kind) -> NewNode<'static> {
    NewNode { kind, permissions: 0o755, umask: 0o22, rdev: 0, target: None }
}

impl Volume {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path().join("root"));
        let labels = std::collections::BTreeMap::new();
        let name = String::from("v");
        let spec = VolumeSpec {
            name,
            limits: LimitChanges::default(),
            uid: 0,
            gid: 0,
            mode: 0o755,
            labels,
            remote: None,
        };
        let id = create(&root, &spec).unwrap();
        let (store, fs) = open(&root, id);
        Self { root, id, store, fs, made: 0, directories: Vec::new(), _tmp: tmp }
    }

    /// Closes the store and opens it again: nothing is cached but by the host.
    fn reopen(&mut self) {
        self.store.close().unwrap();
        (self.store, self.fs) = open(&self.root, self.id);
    }

    /// Where file `number` is, and its name.
    fn place(&mut self, number: u64) -> (Ino, String) {
        let at = (number / DIRECTORY) as usize;
        if at == self.directories.len() {
            let name = format!("d{at}");
            let made = self.fs.make(ROOT_INO, name.as_bytes(), &node(Kind::Directory), Caller::ROOT).unwrap();
            self.directories.push(made.ino);
        }
        (self.directories[at], format!("f{number}"))
    }

    /// open(2) with O_CREAT, write(2) and close(2) of a file of `data`, with the writeback cache.
    fn create(&mut self, data: &[u8]) -> Ino {
        let (parent, name) = self.place(self.made);
        self.made += 1;
        let fs = &self.fs;
        assert_eq!(fs.lookup(parent, name.as_bytes()).err(), Some(FsError::NotFound));
        let ino = fs.make(parent, name.as_bytes(), &node(Kind::Regular), Caller::ROOT).unwrap().ino;
        if !data.is_empty() {
            assert_eq!(fs.getxattr(ino, b"security.capability").err(), Some(FsError::NoXattr));
            let mode = WriteMode { keeps_times: true, ..WriteMode::default() };
            fs.write(ino, 0, data, mode).unwrap();
            let now = Timestamp::now();
            let set = SetAttr { mtime: Some(TimeChange::To(now)), ctime: Some(now), ..SetAttr::default() };
            fs.setattr(ino, &set, Caller::ROOT).unwrap();
        }
        fs.getattr(parent).unwrap();
        ino
    }

    /// unlink(2) of a file that the kernel knows, with the writeback cache.
    fn unlink(&mut self, number: u64, ino: Ino) {
        let (parent, name) = self.place(number);
        self.fs.unlink(parent, name.as_bytes()).unwrap();
        let set = SetAttr { ctime: Some(Timestamp::now()), ..SetAttr::default() };
        self.fs.setattr(ino, &set, Caller::ROOT).unwrap();
        self.fs.getattr(parent).unwrap();
        self.fs.forget(ino, 1);
    }

    fn fill(&mut self, count: u64, data: &[u8]) -> Vec<(u64, Ino)> {
        (0..count).map(|_| (self.made, self.create(data))).collect()
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn changes(c: &mut Criterion) {
    let mut volume = Volume::new();
    let mut group = c.benchmark_group("changes");
    group.sample_size(20);
    let block = [7u8; BLOCK_BYTES];
    for (name, data) in [("empty file", &[][..]), ("file of 4 KiB", &block[..])] {
        group.bench_function(format!("create, {name}"), |b| {
            b.iter_custom(|count| timed(|| drop(volume.fill(count, data))));
        });
        group.bench_function(format!("unlink, {name}"), |b| {
            b.iter_custom(|count| {
                let files = volume.fill(count, data);
                volume.store.commit_now().unwrap();
                timed(|| files.into_iter().for_each(|(number, ino)| volume.unlink(number, ino)))
            });
        });
        group.bench_function(format!("create and unlink, {name}"), |b| {
            b.iter(|| {
                let number = volume.made;
                let ino = volume.create(data);
                volume.unlink(number, ino);
            });
        });
    }
    let ino = volume.fill(1, &block)[0].1;
    group.bench_function("chmod", |b| {
        let set = SetAttr { permissions: Some(0o600), ..SetAttr::default() };
        b.iter(|| volume.fs.setattr(ino, &set, Caller::ROOT).unwrap());
    });
    group.finish();
}

fn looks(c: &mut Criterion) {
    const FILES: u64 = 20_000;
    let mut volume = Volume::new();
    volume.fill(FILES, &[]);
    volume.reopen();
    let places: Vec<_> = (0..FILES).map(|number| volume.place(number)).collect();
    let mut group = c.benchmark_group("looks");
    group.sample_size(20);
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % FILES as usize;
        at
    };
    group.bench_function("lookup", |b| {
        b.iter(|| {
            let (parent, name) = &places[next()];
            let attr = volume.fs.lookup(*parent, name.as_bytes()).unwrap();
            volume.fs.forget(attr.ino, 1);
        });
    });
    group.bench_function("lookup of what is not there", |b| {
        b.iter(|| volume.fs.lookup(places[next()].0, b"nothing").unwrap_err());
    });
    let parent = places[0].0;
    group.bench_function("list 1000 files with attributes", |b| {
        b.iter(|| {
            volume
                .fs
                .readdir_plus(parent, 0, |(_, attr)| {
                    if let Some(attr) = attr {
                        volume.fs.forget(attr.ino, 1);
                    }
                    true
                })
                .unwrap();
        });
    });
    group.bench_function("lookup of 1000 files after opening the store", |b| {
        b.iter_custom(|count| {
            let look = |volume: &mut Volume| {
                volume.reopen();
                timed(|| {
                    for (parent, name) in places.iter().step_by(FILES as usize / 1000) {
                        volume.fs.lookup(*parent, name.as_bytes()).unwrap();
                    }
                })
            };
            (0..count).map(|_| look(&mut volume)).sum()
        });
    });
    group.finish();
}

fn commits(c: &mut Criterion) {
    let mut volume = Volume::new();
    let mut group = c.benchmark_group("commit");
    group.sample_size(10);
    for files in [1, 1000] {
        group.bench_function(format!("of {files} new files"), |b| {
            b.iter_custom(|count| {
                let commit = |volume: &mut Volume| {
                    volume.fill(files, &[]);
                    timed(|| volume.store.commit_now().unwrap())
                };
                (0..count).map(|_| commit(&mut volume)).sum()
            });
        });
    }
    group.finish();
}

/// A map of a chunk that was written a block at a time, in no order.
fn scattered() -> ChunkMap {
    let mut map = ChunkMap::default();
    for i in 0..CHUNK_BLOCKS {
        put(&mut map, i * 149 % CHUNK_BLOCKS, i);
    }
    map
}

/// Block `at` of the chunk is the segment's block `index` from now on.
fn put(map: &mut ChunkMap, at: u32, index: u32) {
    let addr = BlockAddr { segment: 1, index };
    black_box(map.replace(at, at + 1, Some(Place::Data { addr, born: 1 })));
}

fn chunk_map(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk map");
    let mut map = scattered();
    let mut number = 0;
    group.bench_function("overwrite of a block", |b| {
        b.iter(|| {
            number = (number + 101) % 16384;
            put(&mut map, number * 149 % CHUNK_BLOCKS, number);
        });
    });
    group.bench_function("encode", |b| b.iter(|| black_box(&map).encode()));
    let bytes = map.encode();
    group.bench_function("decode", |b| b.iter(|| ChunkMap::decode(black_box(&bytes)).unwrap()));
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

criterion_group! {
    name = benches;
    config = short();
    targets = changes, looks, commits, chunk_map
}
criterion_main!(benches);
