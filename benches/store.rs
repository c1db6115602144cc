//! In-process benchmarks of the layers below the file system: `cargo bench`.
//!
//! They compare one version of the code with another on the same machine; what users see is measured on mounts.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder::backing::OsDir;
use larder::crypto::{Keyring, Keys, Secret};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, Wait, WriteMode};
use larder::open_store::{OpenStore, StoreOptions};
use larder::root::Root;
use larder::store::{
    BLOCK_BYTES, BlockAddr, BlockCache, SEGMENT_BLOCKS, SEGMENT_DIR, Sealer, Segments, StoreId,
};
use larder::volume::{LimitChanges, VolumeSpec, create};
use std::hint::black_box;
use std::sync::Arc;

fn seal(c: &mut Criterion) {
    let block = vec![7u8; BLOCK_BYTES];
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    let addr = BlockAddr { segment: 9, index: 77 };
    group.bench_function("checksum of a block", |b| {
        b.iter(|| Sealer::Checksum.checksum(black_box(addr), black_box(&block)));
    });
    group.finish();
}

fn block_cache(c: &mut Criterion) {
    let cache = BlockCache::new(64 << 20);
    let block = vec![7u8; BLOCK_BYTES];
    let mut out = vec![0u8; BLOCK_BYTES];
    for index in 0..8192 {
        cache.put(BlockAddr { segment: 1, index }, &block);
    }
    let mut group = c.benchmark_group("block cache");
    let mut index = 0;
    group.bench_function("hit", |b| {
        b.iter(|| {
            index = (index + 4099) % 8192;
            cache.get(BlockAddr { segment: 1, index }, &mut out)
        });
    });
    group.bench_function("put that evicts", |b| {
        b.iter(|| {
            index += 1;
            cache.put(BlockAddr { segment: 2, index }, &block);
        });
    });
    group.finish();
}

/// The sealer of some encrypted store.
fn cipher() -> Sealer {
    let secret = Secret::KeyFile(vec![1; 32].into());
    let keyring = Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
    let unlocked = keyring.unlock(&[1; 16], &secret).unwrap();
    Sealer::new(&Keys::new(keyring.subkeys(&[1; 16], &unlocked).unwrap()).unwrap())
}

fn plain_segments(c: &mut Criterion) {
    segments(c, "segments", &Sealer::Checksum);
}

fn encrypted_segments(c: &mut Criterion) {
    segments(c, "encrypted segments", &cipher());
}

fn segments(c: &mut Criterion, name: &str, sealer: &Sealer) {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::create_dir(tmp.path().join(SEGMENT_DIR)).unwrap();
    let open = |ids| Segments::new(Arc::new(OsDir::new(tmp.path())), StoreId(1), sealer.clone(), ids);
    let (written, read) = (open(1000..1_000_000), open(1..1000));
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    for blocks in [1usize, 32, 256] {
        let data = vec![7u8; blocks * BLOCK_BYTES];
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::new("append", blocks), &data, |b, data| {
            b.iter(|| {
                let runs = written.append(&[data]).unwrap();
                // Keep the disk from filling up: a full segment is of no more use here.
                if runs[0].end_index() == SEGMENT_BLOCKS {
                    written.take_unsynced();
                    written.remove(runs[0].start.segment).unwrap();
                }
            });
        });
        let run = read.append(&[&data]).unwrap()[0];
        let mut out = data.clone();
        group.bench_with_input(BenchmarkId::new("read in memory", blocks), &run, |b, run| {
            b.iter(|| read.read(*run, &mut out, Wait::Yes).unwrap());
        });
    }
    group.finish();
}

fn file_system(c: &mut Criterion) {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::new(tmp.path().join("root"));
    let spec = VolumeSpec {
        name: "v".into(),
        limits: LimitChanges::default(),
        uid: 0,
        gid: 0,
        mode: 0o755,
        labels: std::collections::BTreeMap::new(),
        remote: None,
    };
    let id = create(&root, &spec).unwrap();
    let store = OpenStore::open(Arc::new(OsDir::new(root.store(id))), None, StoreOptions::default()).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let mut group = c.benchmark_group("file system");

    let mut made = 0u64;
    group.bench_function("create", |b| {
        b.iter(|| {
            made += 1;
            fs.make(ROOT_INO, format!("f{made}").as_bytes(), &node, Caller::ROOT).unwrap()
        });
    });
    let mut at = 0;
    group.bench_function("lookup and forget", |b| {
        b.iter(|| {
            at = at % made + 1;
            let attr = fs.lookup(ROOT_INO, format!("f{at}").as_bytes()).unwrap();
            fs.forget(attr.ino, 1);
        });
    });
    group.bench_function("create and unlink", |b| {
        b.iter(|| {
            let attr = fs.make(ROOT_INO, b"short-lived", &node, Caller::ROOT).unwrap();
            fs.unlink(ROOT_INO, b"short-lived").unwrap();
            fs.forget(attr.ino, 1);
        });
    });
    let file = fs.make(ROOT_INO, b"file", &node, Caller::ROOT).unwrap().ino;
    let block = vec![7u8; BLOCK_BYTES];
    let mut offset = 0u64;
    group.bench_function("random write of a block", |b| {
        b.iter(|| {
            offset = (offset * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % (1 << 26);
            fs.write(file, offset / 4096 * 4096, &block, WriteMode::default()).unwrap()
        });
    });
    let mut out = vec![0u8; BLOCK_BYTES];
    group.bench_function("random read of a block", |b| {
        b.iter(|| {
            offset = (offset * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % (1 << 26);
            fs.read(file, offset / 4096 * 4096, &mut out, Wait::Yes).unwrap()
        });
    });
    group.sample_size(20);
    group.bench_function("write of a block and commit", |b| {
        b.iter(|| {
            fs.write(file, 0, &block, WriteMode::default()).unwrap();
            store.commit_now().unwrap();
        });
    });
    group.finish();
    store.close().unwrap();
}

criterion_group!(benches, seal, block_cache, plain_segments, encrypted_segments, file_system);
criterion_main!(benches);
