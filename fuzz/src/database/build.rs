//! A small store in which every table has rows.

use super::{Files, MemoryDir, look};
use larder::backing::Dir;
use larder::crypto::{Keyring, Keys};
use larder::fs::{
    AllocateMode, Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, RenameMode, WriteMode, XattrFlags,
};
use larder::meta::{Inode, Limits, Meta, NewVolume, Timestamp};
use larder::open_store::{OpenStore, StoreOptions};
use larder::store::{Header, StoreId};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub const STORE: StoreId = StoreId(7);

/// A store at two moments.
pub struct Bases {
    /// After it was closed.
    pub closed: Files,
    /// As a crash leaves it: with a WAL, with an orphan, with freed blocks.
    pub crashed: Files,
}

/// The store after it was closed.
pub fn closed() -> &'static Files {
    &bases().closed
}

/// The store as a crash leaves it: with a WAL, with an orphan, with freed blocks.
pub fn crashed() -> &'static Files {
    &bases().crashed
}

/// What the store showed at each of its commits: a WAL that is cut short shows an earlier one.
pub fn trees() -> &'static Vec<Vec<String>> {
    static TREES: OnceLock<Vec<Vec<String>>> = OnceLock::new();
    TREES.get_or_init(|| trees_of(bases(), &Keys::Plain, 24 + 4096))
}

/// What a store shows with the whole WAL, and with each shorter one. A frame of it has `frame` bytes.
pub fn trees_of(bases: &Bases, keys: &Keys, frame: usize) -> Vec<Vec<String>> {
    let mut files = bases.crashed.clone();
    let mut trees: Vec<_> = look(&MemoryDir::with_files(&bases.closed), keys).into_iter().collect();
    loop {
        trees.extend(look(&MemoryDir::with_files(&files), keys));
        let Some(wal) = files.get_mut("meta.db-wal").filter(|wal| !wal.is_empty()) else { break };
        wal.truncate(wal.len().saturating_sub(frame));
    }
    assert!(trees.len() > 2);
    trees.dedup();
    trees
}

fn bases() -> &'static Bases {
    static BASES: OnceLock<Bases> = OnceLock::new();
    BASES.get_or_init(|| build(None, &Keys::Plain))
}

fn volume() -> NewVolume {
    let now = Timestamp { sec: 1_700_000_000, nsec: 1 };
    NewVolume {
        name: "v".into(),
        limits: Limits { blocks: Some(10_000), inodes: Some(100), metadata: Some(1 << 20) },
        labels: BTreeMap::from([("app".to_owned(), "shop".to_owned())]),
        created: 1_700_000_000,
        root: Inode::root(0o755, now),
    }
}

/// Makes the store, encrypted if there is a keyring, to which the keys belong.
pub fn build(keyring: Option<Keyring>, keys: &Keys) -> Bases {
    let dir = MemoryDir::with_files(&BTreeMap::new());
    Header::new(STORE, 1_700_000_000, keyring).create(&*dir).expect("memory does not fail");
    let backing: Arc<dyn Dir> = dir.clone();
    Meta::create_with(Arc::clone(&backing), STORE, keys, &volume()).expect("memory does not fail");
    let store = OpenStore::open_with(backing, None, keys.clone(), StoreOptions::default());
    let store = store.expect("the store is new");
    let id = store.meta().volumes().expect("the store is new")[0].id;
    let fs = Fs::new(Arc::clone(&store), id, FsOptions::default());
    // What is freed stays listed.
    let hold = store.hold_freed();
    fill(&fs).expect("everything fits");
    let crashed = dir.files();
    drop(hold);
    fs.forget_all();
    store.close().expect("memory does not fail");
    Bases { closed: dir.files(), crashed }
}

fn fill(fs: &Fs) -> Result<(), larder::fs::FsError> {
    let make = |parent, name: &str, kind, target: Option<&[u8]>| {
        let node = NewNode { kind, permissions: 0o755, umask: 0o022, rdev: 0, target };
        fs.make(parent, name.as_bytes(), &node, Caller::ROOT).map(|attr| attr.ino)
    };
    let commit = || fs.store().commit_now().expect("memory does not fail");
    let dir = make(ROOT_INO, "dir", Kind::Directory, None)?;
    let deep = make(dir, "deep", Kind::Directory, None)?;
    make(dir, "symlink", Kind::Symlink, Some(b"some/where"))?;
    make(deep, "fifo", Kind::Fifo, None)?;
    for i in 0..40 {
        make(
            deep,
            &format!("a rather long name, so that there is more than one page {i}"),
            Kind::Regular,
            None,
        )?;
    }
    commit();
    let file = make(ROOT_INO, "file", Kind::Regular, None)?;
    let bytes: Vec<u8> = (0..100_000).map(|i| (i / 3) as u8).collect();
    fs.write(file, 0, &bytes, WriteMode::default())?;
    commit();
    fs.write(file, 5000, &bytes[..10_000], WriteMode::default())?;
    // Another chunk.
    fs.write(file, 1 << 20, &bytes[..10_000], WriteMode::default())?;
    fs.link(file, deep, b"second name")?;
    let copy = make(dir, "copy", Kind::Regular, None)?;
    fs.copy_range((file, 0), (copy, 0), 1 << 16, Caller::ROOT)?;
    fs.allocate(copy, 3 << 20, 1 << 16, AllocateMode::Reserve { keep_size: false }, Caller::ROOT)?;
    // Chunks that are reserved as a whole.
    fs.allocate(copy, 8 << 20, 4 << 20, AllocateMode::Reserve { keep_size: true }, Caller::ROOT)?;
    fs.setxattr(file, b"user.a", &[7; 300], XattrFlags::default(), Caller::ROOT)?;
    fs.setxattr(dir, b"security.b", b"value", XattrFlags::default(), Caller::ROOT)?;
    commit();
    let orphan = make(ROOT_INO, "orphan", Kind::Regular, None)?;
    fs.write(orphan, 0, &bytes, WriteMode::default())?;
    fs.unlink(ROOT_INO, b"orphan")?;
    fs.rename((dir, b"symlink"), (ROOT_INO, b"moved"), RenameMode::Replace)?;
    commit();
    Ok(())
}
