//! Hosts that attach a store one after the other, and what those before them have left in the remote.

use super::{Memory, attached, id_of, kept, made, owner, read, shipper, write};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::{pattern, scratch};
use larder::backing::{Dir, OsDir};
use larder::crypto::Keys;
use larder::fs::{Fs, FsOptions};
use larder::open_store::{AttachError, OpenStore, StoreOptions, lay_down};
use larder::remote::{
    BootClock, Commit, Contents, Deadline, Fetcher, Kept, Local, Log, Objects, PartRef, RemoteError,
    RemoteSealer, Seen, Steal, claim, read_header,
};
use larder::store::StoreId;
use parking_lot::Mutex;
use std::sync::Arc;
use tempfile::TempDir;

fn log(memory: &Arc<Memory>, store: StoreId, keys: &Keys) -> Log {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    Log::open(objects, RemoteSealer::new(store, keys, "memory:"), Seen::Nothing).unwrap()
}

/// Puts down what is there.
fn laid(log: &Log, store: StoreId, keys: &Keys) -> (TempDir, Result<larder::remote::Attached, AttachError>) {
    let tmp = scratch();
    std::fs::create_dir(tmp.path().join("segments")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
    let (json, _) = read_header(&**log.objects(), store, log.state().header).unwrap();
    let attached = lay_down(&dir, log, store, &json, keys);
    (tmp, attached)
}

/// A host that has stolen the store and has it open.
struct Attacher {
    _tmp: TempDir,
    store: Arc<OpenStore>,
    fs: Fs,
    kept: Arc<Kept>,
}

fn attach(memory: &Arc<Memory>, store: StoreId, keys: &Keys, number: u128) -> Attacher {
    let me = owner(number);
    let mut log = log(memory, store, keys);
    claim(&mut log, &me, Steal::Yes, &BootClock, &mut |_| true).unwrap();
    let (tmp, attached) = laid(&log, store, keys);
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
    let options = StoreOptions { cache_bytes: 0, moments: true, is_partial: true, ..StoreOptions::default() };
    let opened = OpenStore::open_with(Arc::clone(&dir), None, keys_of(&*dir).unwrap(), options).unwrap();
    let catalog = Arc::new(Mutex::new(attached.unwrap().catalog));
    let fetcher = Fetcher::new(Arc::clone(log.objects()), log.sealer().clone(), catalog);
    opened.segments().fetch_from(Arc::new(fetcher));
    let volume = opened.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&opened), volume, FsOptions::default());
    let mut local = Local::new("memory:").unwrap();
    (local.owner, local.lease, local.place) = (me.id.to_string(), me.lease.to_string(), "here".into());
    local.saw(log.state().newest);
    Attacher { _tmp: tmp, store: opened, fs, kept: Arc::new(Kept::in_memory("here", local)) }
}

impl Attacher {
    fn close(self) {
        self.fs.forget_all();
        self.store.close().unwrap();
    }
}

/// It took what was there at its addresses for its own, and the remote kept that under valid seals.
#[test]
fn what_an_attacher_writes_is_not_taken_for_what_one_before_it_has_left() {
    for keys in [None, Some(())] {
        let disk = if keys.is_some() { new_encrypted_disk(None, None) } else { new_disk(None, None) };
        let made = made(disk);
        made.write("first", &pattern(100_000, 1));
        let (id, memory, keys) =
            (id_of(&made.disk), Arc::new(Memory::default()), keys_of(&made.disk).unwrap());
        shipper(&memory, id, &keys, &kept()).ship(&made.store).unwrap().unwrap();
        made.close();
        // It ends when some of what it has was uploaded, and no state.
        let second = attach(&memory, id, &keys, 2);
        write(&second.fs, "second", &pattern(100 << 20, 2));
        second.store.commit_now().unwrap();
        let deadline = Deadline::default();
        *memory.parts_until.lock() = Some((2, deadline.clone()));
        let refused =
            shipper(&memory, id, &keys, &second.kept).until(&deadline).ship(&second.store).unwrap_err();
        assert!(refused.to_string().contains("is over"), "{refused}");
        *memory.parts_until.lock() = None;
        let log = log(&memory, id, &keys);
        let newest = log.read(log.state().newest.number).unwrap();
        let Contents::Commit(commit) = newest.contents else { panic!("it is no commit") };
        assert!(commit.pages == 0 && !commit.parts.is_empty());
        second.close();
        let third = attach(&memory, id, &keys, 3);
        write(&third.fs, "third", &pattern(40 << 20, 3));
        third.store.commit_now().unwrap();
        shipper(&memory, id, &keys, &third.kept).ship(&third.store).unwrap().unwrap();
        assert!(read(&third.fs, "third", 0, 40 << 20) == pattern(40 << 20, 3));
        let there = attached(&memory, id, &keys);
        assert!(there == view::of_store(&third.store), "the remote has something else");
        third.close();
    }
}

/// Both can write something before they know of each other.
#[test]
fn two_who_attach_the_same_state_give_out_addresses_of_their_own() {
    let made = made(new_disk(None, None));
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    shipper(&memory, id, &Keys::Plain, &kept()).ship(&made.store).unwrap().unwrap();
    made.close();
    let segments: Vec<u64> = (2..4)
        .map(|number| {
            let attacher = attach(&memory, id, &Keys::Plain, number);
            write(&attacher.fs, "f", &pattern(10_000, 1));
            attacher.store.commit_now().unwrap();
            let highest = attacher.store.meta().segments().iter().map(|row| row.id).max().unwrap();
            attacher.close();
            highest
        })
        .collect();
    assert_ne!(segments[0], segments[1]);
    assert!(segments.iter().all(|id| (1 << 20..1 << 32).contains(id)), "{segments:?}");
}

/// A remote that lies can leave no id to go on with.
#[test]
fn a_segment_at_the_end_of_all_ids_is_refused() {
    let made = made(new_disk(None, None));
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    let me = shipping.owner().clone();
    let part = PartRef { segment: u64::MAX, first: 0, count: 1, random: 1, key_epoch: 0, seal: [0; 16] };
    let commit = Contents::Commit(Box::new(Commit { parts: vec![part], ..Commit::default() }));
    shipping.log_mut().append(&me, commit, None, larder::remote::When::default()).unwrap();
    let (_tmp, refused) = laid(&log(&memory, id, &Keys::Plain), id, &Keys::Plain);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, AttachError::Remote(RemoteError::Damaged { .. })), "{refused}");
    made.close();
}
