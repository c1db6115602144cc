//! What a change and a commit cost in a large store, whose size they must not depend on: `cargo bench --bench large`.
//!
//! 10^6 files, blocks in 1,000 segments; then 100,000 orphans besides, and 200 removed snapshots that clones still need. Only the
//! metadata are there, and no disk is waited for.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use criterion::{Criterion, criterion_group, criterion_main};
use larder::backing::{Dir, OsDir};
use larder::meta::{
    AttrChange, Checkpointer, Ino, Limits, MapRun, MapTo, Meta, MetaFiles, Mutation, NameRef, NewClone,
    NewInode, NewSnapshot, RECLAIMED_AT_ONCE, ROOT_INO, Remap, Timestamp,
};
use larder::root::Root;
use larder::store::{
    BLOCK_BYTES, BlockAddr, SEAL_BYTES, SEGMENT_BLOCKS, Sealer, SegmentState, Segments, StoreId,
};
use larder::volume::{LimitChanges, VolumeSpec, create};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIRECTORIES: u64 = 1000;
const FILES: u64 = 1000;
const ORPHANS: usize = 100_000;
const DEAD: u64 = 200;
/// Commits between two times that the WAL is copied back.
const CHECKPOINT_EVERY: u64 = 100;

struct Large {
    meta: Meta,
    checkpointer: Checkpointer,
    commits: u64,
    files: Vec<(Ino, NameRef)>,
    _tmp: tempfile::TempDir,
}

const VOLUME: u64 = 1;

impl Large {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path().join("root"));
        let labels = BTreeMap::new();
        let spec = VolumeSpec {
            name: "v".into(),
            limits: LimitChanges::default(),
            uid: 0,
            gid: 0,
            mode: 0o755,
            labels,
            remote: None,
        };
        let id = create(&root, &spec).unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(root.store(id)));
        let meta = Meta::open(MetaFiles::new(dir, false).unwrap(), id).unwrap();
        let checkpointer = meta.checkpointer().unwrap();
        let mut large = Self { meta, checkpointer, commits: 0, files: Vec::new(), _tmp: tmp };
        for number in 0..DIRECTORIES {
            large.fill_directory(number);
        }
        large
    }

    fn apply(&mut self, mutation: &Mutation) {
        self.meta.apply(VOLUME, mutation).unwrap();
    }

    fn make(&mut self, at: NameRef, mode: u32) -> Ino {
        let ino = self.meta.next_ino();
        let inode = NewInode { ino, mode, uid: 0, gid: 0, rdev: 0, target: None, xattrs: Vec::new() };
        self.apply(&Mutation::Make { at, inode, time: Timestamp::now() });
        ino
    }

    /// A directory of files, the first of which has blocks in a segment of its own.
    fn fill_directory(&mut self, number: u64) {
        let dir = self.make(NameRef::new(ROOT_INO, format!("d{number}").as_bytes()), libc::S_IFDIR | 0o755);
        for file in 0..FILES {
            let at = NameRef::new(dir, format!("file{file}").as_bytes());
            let ino = self.make(at.clone(), libc::S_IFREG | 0o644);
            self.files.push((ino, at));
        }
        let ino = self.files[self.files.len() - FILES as usize].0;
        let segment = number + 1;
        let to = MapTo::Data(BlockAddr { segment, index: 0 });
        let remap =
            Remap { runs: vec![MapRun { first: 0, count: 16, to }], size: Some(65536), ..Remap::default() };
        self.apply(&Mutation::Remap { ino, remap });
        self.commit(&[SegmentState { id: segment, tail: SEGMENT_BLOCKS, full: true }]);
    }

    /// How long the metadata are held for a commit.
    fn commit(&mut self, states: &[SegmentState]) -> Duration {
        let started = Instant::now();
        let committed = self.meta.commit(states).unwrap();
        let dead = self.meta.has_dead();
        let took = started.elapsed();
        assert!(!dead);
        self.meta.files().release(committed.mark).unwrap();
        self.commits += 1;
        if self.commits.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpointer.run().unwrap();
        }
        took
    }

    fn commits_of_one_change(&mut self, count: u64) -> Duration {
        let one = |large: &mut Self| {
            let ino = large.files[large.commits as usize * 7919 % large.files.len()].0;
            let change = AttrChange { ctime: Some(Timestamp::now()), ..AttrChange::default() };
            large.apply(&Mutation::SetAttr { ino, change });
            large.commit(&[])
        };
        (0..count).map(|_| one(self)).sum()
    }

    /// Unlinks files that somebody has open.
    fn orphan(&mut self, count: usize) {
        for (_, at) in self.files.split_off(self.files.len() - count) {
            self.apply(&Mutation::Unlink { at, time: Timestamp::now() });
        }
        self.commit(&[]);
    }

    /// A snapshot that was removed and of which there is a clone.
    fn die(&mut self, number: u64) {
        let labels = BTreeMap::new();
        let new = NewSnapshot { name: format!("s{number}"), labels: labels.clone(), created: 0 };
        let snapshot = self.meta.create_snapshot(VOLUME, &new).unwrap();
        let new = NewClone {
            name: format!("c{number}"),
            limits: Limits::default(),
            labels,
            created: Timestamp::now(),
            uid: None,
            gid: None,
            permissions: None,
        };
        self.meta.create_clone(snapshot.id, &new).unwrap();
        self.meta.remove_snapshot(snapshot.id).unwrap();
        while self.meta.reclaim_step(RECLAIMED_AT_ONCE).unwrap() {}
    }

    fn set_xattr(&mut self, name: &str, value: &[u8]) {
        let (ino, name) = (self.files[0].0, name.as_bytes().into());
        let attr = AttrChange::default();
        self.apply(&Mutation::SetXattr { ino, name, value: value.to_vec(), attr });
    }
}

fn large(c: &mut Criterion) {
    let mut large = Large::new();
    let mut group = c.benchmark_group("large");
    group.sample_size(20);
    group.bench_function("commit of one change", |b| {
        b.iter_custom(|count| large.commits_of_one_change(count));
    });
    for number in 0..15 {
        large.set_xattr(&format!("user.large{number}"), &[7; 4000]);
    }
    group.bench_function("setxattr beside 60 KB of others", |b| {
        b.iter(|| large.set_xattr("user.small", b"value"));
    });
    large.commit(&[]);
    large.orphan(ORPHANS);
    group.bench_function("commit of one change, 100,000 orphans", |b| {
        b.iter_custom(|count| large.commits_of_one_change(count));
    });
    (0..DEAD).for_each(|number| large.die(number));
    large.commit(&[]);
    group.bench_function("look for dead generations beside 200", |b| {
        b.iter(|| assert!(!large.meta.has_dead()));
    });
    group.finish();
}

/// What a sync reads to copy it into the redo log, while others record what they change.
fn copied(c: &mut Criterion) {
    const BLOCKS: usize = 64;
    let tmp = tempfile::tempdir().unwrap();
    std::fs::create_dir(tmp.path().join("segments")).unwrap();
    let segments = Segments::new(Arc::new(OsDir::new(tmp.path())), StoreId(1), Sealer::Checksum, 1..2);
    let run = segments.append(&[&[7; BLOCKS * BLOCK_BYTES]]).unwrap()[0];
    let (mut seals, mut contents) = (vec![0; BLOCKS * SEAL_BYTES], vec![0; BLOCKS * BLOCK_BYTES]);
    c.bench_function("read 64 blocks to be copied into the log", |b| {
        b.iter(|| segments.read_sealed(run, &mut seals, &mut contents).unwrap());
    });
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

criterion_group! {
    name = benches;
    config = short();
    targets = large, copied
}
criterion_main!(benches);
