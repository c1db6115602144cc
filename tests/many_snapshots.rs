//! Ten thousand snapshots of one volume.

use crate::disk::Disk;
use crate::model::harness::{await_reclaim, check_disk, new_disk};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, Privileges, ROOT_INO, Wait, WriteMode};
use larder::meta::NewSnapshot;
use larder::open_store::{OpenStore, StoreOptions};
use std::sync::Arc;

const SNAPSHOTS: u64 = 10_000;

fn open(disk: &Disk) -> (Arc<OpenStore>, Fs) {
    let store = OpenStore::open(Arc::new(disk.clone()), None, StoreOptions::default()).unwrap();
    let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
    (store, fs)
}

#[test]
fn ten_thousand_snapshots_are_made_read_and_removed() {
    let disk = new_disk(None, None);
    let (store, fs) = open(&disk);
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let ino = fs.make(ROOT_INO, b"file", &node, Caller::ROOT).unwrap().ino;
    for i in 0..SNAPSHOTS {
        fs.write(ino, 0, &i.to_le_bytes(), WriteMode::default()).unwrap();
        let new = NewSnapshot { name: format!("s{i}"), labels: Default::default(), created: i };
        store.alter(move |meta| meta.create_snapshot(1, &new)).unwrap();
    }
    fs.forget_all();
    store.close().unwrap();
    let (store, fs) = open(&disk);
    let rows = store.meta().snapshots().unwrap();
    assert_eq!(rows.len() as u64, SNAPSHOTS);
    for row in rows.iter().step_by(997) {
        let hold = store.meta().open_snapshot(row.id).unwrap();
        let snapshot =
            Fs::of_snapshot(Arc::clone(&store), row.id, hold, FsOptions::default(), Privileges::Shown);
        let mut bytes = [0; 8];
        snapshot.read(ino, 0, &mut bytes, Wait::Yes).unwrap();
        assert_eq!(format!("s{}", u64::from_le_bytes(bytes)), row.name);
    }
    // All but a few go, from the middle first.
    for (i, row) in rows.iter().enumerate().filter(|(i, _)| i % 100 != 0) {
        let id = row.id;
        store.alter(move |meta| meta.remove_snapshot(id)).unwrap();
        assert!(i > 0);
    }
    await_reclaim(&store);
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
}
