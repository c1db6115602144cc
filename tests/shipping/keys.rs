//! Keys of a store and of what is in its remote: older ones stay as long as anything is sealed with them, here or there.

use super::{Memory, attached, id_of, kept, made, reread, shipper};
use crate::model::harness::{check_disk, keys_of, new_encrypted_disk, secret};
use crate::model::view;
use crate::support::{pattern, scratch, wait_until};
use larder::backing::{Dir, OsDir};
use larder::crypto::{Keys, Secret};
use larder::open_store::{OpenStore, StoreOptions, lay_down};
use larder::remote::{
    Fetcher, Log, Objects, RemoteSealer, Seen, Source, State, header_in_force, names, put_header,
};
use larder::store::{Header, ReadError, Run, StoredBlocks};
use larder::volume::{begin_reencryption_in, open_log};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn objects(memory: &Arc<Memory>) -> Arc<dyn Objects> {
    Arc::clone(memory) as Arc<dyn Objects>
}

/// What is only in the remote is sealed with keys that must not go before it has come here and been sealed again.
#[test]
fn what_is_only_in_the_remote_keeps_its_keys() {
    let made = made(new_encrypted_disk(None, None));
    for i in 0..40 {
        made.write(&format!("small{i}"), &pattern(9000, i));
    }
    made.write("large", &pattern(9 << 20, 99));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let (memory, here) = (Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &keys, &here);
    shipping.ship(&made.store).unwrap();
    let expected = view::of_store(&made.store);
    made.close();
    drop(shipping);

    // Another host puts it down, reads a little of it, and gets new keys.
    let tmp = scratch();
    std::fs::create_dir(tmp.path().join("segments")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(tmp.path()));
    let log = Log::open(objects(&memory), RemoteSealer::new(id, &keys, "memory:"), Seen::Nothing).unwrap();
    let (json, _) = header_in_force(&log).unwrap();
    lay_down(&dir, &log, id, &json, &keys).unwrap();
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let open = || OpenStore::open_with(Arc::clone(&dir), None, keys_of(&*dir).unwrap(), options).unwrap();
    let store = open();
    let there = reread(&here);
    let keys = keys_of(&*dir).unwrap();
    let mut shipping = shipper(&memory, id, &keys, &there);
    let fetcher = Fetcher::new(objects(&memory), RemoteSealer::new(id, &keys, "memory:"), shipping.catalog());
    store.segments().fetch_from(Arc::new(fetcher));
    let begun = begin_reencryption_in(&*dir, &secret(), false).unwrap();
    keys.add(begun.keys.clone()).unwrap();
    store.hurry_reencryption();
    store.reencrypt(begun.keys).unwrap();
    // While the remote is away, nothing goes.
    shipping.ship(&store).unwrap();
    memory.is_down.store(true, Ordering::Relaxed);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(Header::read(&*dir).unwrap().epochs(), [1, 2]);
    memory.is_down.store(false, Ordering::Relaxed);
    wait_until("the old keys are gone", || {
        shipping.ship(&store).unwrap();
        store.reencryption().is_none()
    });
    assert_eq!(Header::read(&*dir).unwrap().epochs(), [2]);
    shipping.ship(&store).unwrap();
    assert!(shipping.catalog().lock().sealed_before(2).is_empty(), "nobody has the keys of that");
    assert!(view::of_store(&store) == expected);
    store.close().unwrap();
    let disk = crate::disk::Disk::copy_of(tmp.path());
    check_disk(&disk);
    // And whoever attaches it from there needs the new keys alone.
    let newest = keys_of(&*dir).unwrap();
    assert_eq!(newest.epochs(), [2]);
    assert!(attached(&memory, id, &newest) == expected);
}

/// A header that was changed is shipped, also when nothing else has changed; those before it, with slots that were taken away, go.
#[test]
fn key_slots_are_news() {
    let made = made(new_encrypted_disk(None, None));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap();
    assert_eq!(shipping.ship(&made.store).unwrap(), None);
    let new = Secret::KeyFile(b"another key file that is as long as it has to be, at least".to_vec().into());
    let mut header = Header::read(&made.disk).unwrap();
    let (store, mut keyring) = (header.store.0.to_be_bytes(), header.keyring.clone().unwrap());
    let unlocked = keyring.unlock(&store, &secret()).unwrap();
    keyring.replace(&store, &unlocked, &new, None).unwrap();
    header.keyring = Some(keyring);
    header.replace(&made.disk).unwrap();
    memory.keeps_all.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = shipping.ship(&made.store).unwrap_err();
        assert!(refused.to_string().contains("header/"), "{refused}");
        assert_eq!(memory.names("header/").len(), 2);
    }
    memory.keeps_all.store(false, Ordering::Relaxed);
    // The remote does not always answer.
    memory.failing.store(300, Ordering::Relaxed);
    while shipping.ship(&made.store).is_err() {}
    memory.failing.store(0, Ordering::Relaxed);
    // Slots that were taken away are not there any more when it is said to be done.
    assert_eq!(memory.names("header/"), [names::header(2)]);
    assert_eq!(shipping.ship(&made.store).unwrap(), None);
    let open = |secret: Secret| open_log(&objects(&memory), id, &mut || Ok(secret.clone()));
    assert_eq!(open(new).unwrap().1.epochs(), [1]);
    assert!(open(secret()).unwrap_err().to_string().contains("memory:"));
    made.close();
}

/// A version of the header that no record names is of nobody: what is attached is sealed with the keys that count.
#[test]
fn keys_that_are_not_in_force_seal_nothing() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap();
    let expected = view::of_store(&made.store);
    // Its owner begins with new keys, puts their header there, and dies.
    begin_reencryption_in(&made.disk, &secret(), true).unwrap();
    let (_, json) = Header::read_with_bytes(&made.disk).unwrap();
    put_header(&*objects(&memory), shipping.log().sealer(), 2, &json).unwrap();
    made.close();
    let (log, found) = open_log(&objects(&memory), id, &mut || Ok(secret())).unwrap();
    assert_eq!((log.state().header.number, found.epochs()), (1, vec![1]));
    assert!(attached(&memory, id, &found) == expected);
    // With keys that are too many, nothing is sealed either.
    let both: Keys = {
        let header = Header::parse(&json, std::path::Path::new("header.json")).unwrap();
        let (store, keyring) = (header.store.0.to_be_bytes(), header.keyring.unwrap());
        let unlocked = keyring.unlock(&store, &secret()).unwrap();
        Keys::new(keyring.subkeys(&store, &unlocked).unwrap()).unwrap()
    };
    assert_eq!(both.epochs(), [1, 2]);
    assert!(attached(&memory, id, &both) == expected);
}

type Meanwhile = Arc<dyn Fn() + Send + Sync>;

/// What a state says of itself, where that is not what is so.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) blocks: Option<Vec<Run>>,
    /// It does not have all blocks then.
    pub(super) freed: Option<Vec<Run>>,
    /// Pages, of so many bytes, with nothing in them.
    pub(super) pages: Option<(Vec<u32>, usize)>,
}

type Says<'a> = &'a (dyn Fn(&dyn State) -> Said + Send + Sync);

/// A store to which something happens between the moment that its blocks are read and the record, for each state.
pub(super) struct Busy<'a> {
    store: &'a Arc<OpenStore>,
    meanwhile: Meanwhile,
    /// Segments are said to be sealed in a later epoch from then on.
    seals_again: bool,
    /// The host needs what it has.
    is_spoilt: bool,
    says: Option<Says<'a>>,
}

impl<'a> Busy<'a> {
    fn new(store: &'a Arc<OpenStore>, meanwhile: Meanwhile) -> Self {
        Self { store, meanwhile, seals_again: false, is_spoilt: false, says: None }
    }

    /// One whose states say that of themselves.
    pub(super) fn saying(store: &'a Arc<OpenStore>, says: Says<'a>) -> Self {
        Self { says: Some(says), ..Self::new(store, Arc::new(|| {})) }
    }
}

struct BusyState {
    said: Said,
    state: Box<dyn State>,
    meanwhile: Meanwhile,
    seals_again: bool,
    is_spoilt: bool,
    has_happened: AtomicBool,
}

impl std::fmt::Debug for BusyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

impl Source for Busy<'_> {
    fn has_news(&self) -> bool {
        Source::has_news(self.store)
    }

    fn has_changes(&self) -> bool {
        Source::has_changes(self.store)
    }

    fn header(&self) -> Result<Vec<u8>, String> {
        Source::header(self.store)
    }

    fn news_bytes(&self) -> Option<u64> {
        Source::news_bytes(self.store)
    }

    fn state(&self, whole: bool) -> Result<Box<dyn State>, String> {
        let (state, meanwhile) = (Source::state(self.store, whole)?, Arc::clone(&self.meanwhile));
        let has_happened = AtomicBool::new(false);
        let Self { seals_again, is_spoilt, .. } = *self;
        let said = self.says.map(|says| says(&*state)).unwrap_or_default();
        Ok(Box::new(BusyState { said, state, meanwhile, seals_again, is_spoilt, has_happened }))
    }
}

impl State for BusyState {
    fn redo_epoch(&self) -> u64 {
        self.state.redo_epoch()
    }

    fn page_count(&self) -> u32 {
        self.state.page_count()
    }

    fn page_bytes(&self) -> usize {
        self.said.pages.as_ref().map_or(self.state.page_bytes(), |(_, bytes)| *bytes)
    }

    fn is_whole(&self) -> bool {
        self.state.is_whole()
    }

    fn pages(&self) -> &[u32] {
        self.said.pages.as_ref().map_or(self.state.pages(), |(pages, _)| &pages[..])
    }

    fn read_page(&self, place: usize, out: &mut [u8]) -> std::io::Result<()> {
        if !self.has_happened.swap(true, Ordering::Relaxed) {
            (self.meanwhile)();
        }
        if self.said.pages.is_some() { Ok(()) } else { self.state.read_page(place, out) }
    }

    fn blocks(&self) -> &[Run] {
        self.said.blocks.as_deref().unwrap_or(self.state.blocks())
    }

    fn segments(&self) -> &[(u64, u32)] {
        self.state.segments()
    }

    fn has_all_blocks(&self) -> bool {
        self.said.freed.is_none() && self.state.has_all_blocks()
    }

    fn freed(&self) -> Option<&[Run]> {
        self.said.freed.as_deref().or(self.state.freed())
    }

    fn key_epoch(&self, segment: u64) -> Option<u64> {
        let later = self.seals_again && self.has_happened.load(Ordering::Relaxed);
        self.state.key_epoch(segment).map(|epoch| epoch + u64::from(later))
    }

    fn read(&self, run: Run) -> Result<Vec<StoredBlocks>, ReadError> {
        self.state.read(run)
    }

    fn header(&self) -> &[u8] {
        self.state.header()
    }

    fn is_sound(&self) -> bool {
        !self.is_spoilt && self.state.is_sound()
    }

    fn shipped(self: Box<Self>) {
        self.state.shipped();
    }
}

/// The record said that they were sealed with keys with which nothing was, and nobody could read them.
#[test]
fn blocks_that_are_sealed_again_meanwhile_are_shipped_as_they_were_read() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    let busy = Busy { seals_again: true, ..Busy::new(&made.store, Arc::new(|| {})) };
    shipping.ship(&busy).unwrap().unwrap();
    assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
    made.close();
}

/// Records were sealed with keys that the header that they name has not.
#[test]
fn keys_that_come_into_use_while_a_state_is_shipped_seal_nothing_of_it() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    let (disk, coming) = (made.disk.clone(), keys.clone());
    let meanwhile = move || {
        coming.add(begin_reencryption_in(&disk, &secret(), false).unwrap().keys).unwrap();
    };
    let busy = Busy::new(&made.store, Arc::new(meanwhile));
    shipping.ship(&busy).unwrap().unwrap();
    assert_eq!(keys.epochs(), [1, 2]);
    let (log, found) = open_log(&objects(&memory), id, &mut || Ok(secret())).unwrap();
    assert_eq!((log.state().header.number, found.epochs()), (1, vec![1]));
    assert!(attached(&memory, id, &found) == view::of_store(&made.store));
    // The next one has them.
    shipping.ship(&made.store).unwrap().unwrap();
    let (_, found) = open_log(&objects(&memory), id, &mut || Ok(secret())).unwrap();
    assert_eq!(found.epochs(), [1, 2]);
    made.close();
}

/// It was tried again without a pause, and the host got nothing back meanwhile.
#[test]
fn a_host_in_need_has_time_to_get_something_back() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(2_000_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    let busy = Busy { is_spoilt: true, ..Busy::new(&made.store, Arc::new(|| {})) };
    let refused = shipping.ship(&busy).unwrap_err();
    assert!(refused.is_passing() && refused.to_string().contains("the host is full"), "{refused}");
    let parts = memory.names("data/");
    shipping.ship(&made.store).unwrap().unwrap();
    assert_eq!(memory.names("data/"), parts, "what was uploaded is not uploaded again");
    made.close();
}

/// Whoever can write to the remote could say that there are no keys.
#[test]
fn a_header_without_keys_does_not_count_where_the_store_is_encrypted() {
    let made = made(new_encrypted_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, keys) = (id_of(&made.disk), keys_of(&made.disk).unwrap());
    let memory = Arc::new(Memory::default());
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    let tmp = scratch();
    let dir = OsDir::new(tmp.path());
    Header::new(id, 1_700_000_000, None).create(&dir).unwrap();
    let (_, json) = Header::read_with_bytes(&dir).unwrap();
    put_header(&*objects(&memory), shipping.log().sealer(), 2, &json).unwrap();
    let (log, found) = open_log(&objects(&memory), id, &mut || Ok(secret())).unwrap();
    assert_eq!((log.state().header.number, found.epochs()), (1, vec![1]));
    assert!(attached(&memory, id, &found) == view::of_store(&made.store));
    made.close();
}
