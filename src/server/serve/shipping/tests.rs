use super::*;
use crate::backing::{Dir, OsDir};
use crate::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, WriteMode};
use crate::meta::VolumeId;
use crate::open_store::StoreOptions;
use crate::remote::{Contents, Owner, OwnerId, Seen, Steal, claim, give_back};
use crate::root::Root;
use crate::store::{BlockAddr, ElsewhereError, Feature, Fetched, Header};
use crate::volume::{Alteration, LimitChanges, VolumeSpec, alter, create};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

/// A store with a remote, of which only [`Local::read`] knows.
fn made() -> (TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::new(tmp.path().join("root"));
    let limits = LimitChanges::default();
    let (name, labels) = ("v".into(), BTreeMap::new());
    let spec = VolumeSpec { name, limits, uid: 0, gid: 0, mode: 0o755, labels, remote: None };
    let path = root.store(create(&root, &spec).unwrap());
    let objects = tmp.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let local = Local::new(&format!("file://{}", objects.display())).unwrap();
    local.write(&path).unwrap();
    (tmp, path)
}

fn served(path: &Path) -> (Arc<OpenStore>, Shipping) {
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(path));
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let store = OpenStore::open_with(dir, None, Keys::Plain, options).unwrap();
    let local = Local::read(path).unwrap().unwrap();
    let shipping = Shipping::start(path, &store, &Keys::Plain, local).unwrap();
    (store, shipping)
}

fn make_dir(store: &Arc<OpenStore>, name: &str) {
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(store), volume, FsOptions::default());
    let node = NewNode { kind: Kind::Directory, permissions: 0o755, umask: 0, rdev: 0, target: None };
    fs.make(ROOT_INO, name.as_bytes(), &node, Caller::ROOT).unwrap();
    fs.forget_all();
}

/// What is not durable is not in the remote, however often it is tried.
#[test]
fn a_sync_does_not_say_that_it_is_done_before_it_is() {
    let (_tmp, path) = made();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    make_dir(&store, "d");
    store.health().fail("it is a test");
    let refused = shipping.sync(MINUTE, &|| false).unwrap_err();
    assert!(refused.contains("it is a test"), "{refused}");
    assert!(shipping.sync(MINUTE, &|| false).is_err());
    shipping.end(true, None);
    let _ = store.close();
}

/// It was said to be taken for good by a host that had only attached it, or had tried to.
#[test]
fn a_store_that_was_taken_goes_on_when_it_was_given_back_and_only_then() {
    let (tmp, path) = made();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    let id = store.id();
    let close = |(store, shipping): (Arc<OpenStore>, Shipping)| {
        shipping.end(true, None);
        let _ = store.close();
    };
    let is_taken = |shipping: &Shipping, store: &Arc<OpenStore>| {
        let refused = shipping.sync(MINUTE, &|| false).unwrap_err();
        assert!(refused.contains("was taken by host \"other\""), "{refused}");
        assert!(shipping.status(store).fenced && !store.health().is_good());
        assert!(Local::read(&path).unwrap().unwrap().taken.is_some());
    };
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let other = || Owner { id: OwnerId::random().unwrap(), host: "other".into(), lease: LeaseKind::None };
    let log = || {
        let address = Local::read(&path).unwrap().unwrap().address().unwrap();
        let objects =
            connect_until(&address, &clock, Patience::default(), &Deadlines::default(), &Arc::default())
                .unwrap()
                .objects;
        let sealer = RemoteSealer::new(id, &Keys::Plain, objects.place());
        Log::open(objects, sealer, Seen::Nothing).unwrap()
    };
    // (It may be shipped, or not.)
    make_dir(&store, "d");
    // While it is served, and after that.
    let mut now = Some((store, shipping));
    for round in 0..2 {
        let (mut log, me) = (log(), other());
        claim(&mut log, &me, Steal::Yes, &*clock, &mut |_| true).unwrap();
        let (store, shipping) = now.take().unwrap_or_else(|| served(&path));
        is_taken(&shipping, &store);
        close((store, shipping));
        let (store, shipping) = served(&path);
        is_taken(&shipping, &store);
        close((store, shipping));
        give_back(&mut log, &me, &clock).unwrap();
        // Who cannot ask believes what it knows.
        let (objects, away) = (tmp.path().join("objects"), tmp.path().join("away"));
        std::fs::rename(&objects, &away).unwrap();
        let (store, shipping) = served(&path);
        is_taken(&shipping, &store);
        close((store, shipping));
        std::fs::rename(&away, &objects).unwrap();
        let (store, shipping) = served(&path);
        make_dir(&store, &format!("d{round}"));
        shipping.sync(MINUTE, &|| false).unwrap();
        assert!(!shipping.status(&store).fenced && store.health().is_good());
        assert_eq!(Local::read(&path).unwrap().unwrap().taken, None);
        close((store, shipping));
    }
    // Who has done something with it keeps it.
    let (mut log, me) = (log(), other());
    claim(&mut log, &me, Steal::No, &*clock, &mut |_| true).unwrap();
    log.append(&me, Contents::Commit(Box::default()), None, clock.wall()).unwrap();
    give_back(&mut log, &me, &clock).unwrap();
    let newest = log.state().newest;
    for _ in 0..2 {
        let (store, shipping) = served(&path);
        is_taken(&shipping, &store);
        close((store, shipping));
    }
    log.follow().unwrap();
    assert_eq!(log.state().newest, newest);
}

/// Nothing was shipped any more, and nobody was told.
#[test]
fn a_thread_that_panics_says_that_nothing_is_shipped() {
    let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
    let over = Over(Arc::clone(&state));
    let thread = std::thread::spawn(move || {
        let _over = over;
        panic!("it is a test");
    });
    thread.join().unwrap_err();
    let state = state.0.lock();
    assert!(state.over && state.trouble.as_ref().is_some_and(|why| why.contains("panic")));
}

/// Another host takes the store in the directory `path`.
fn steal(path: &Path, store: &Arc<OpenStore>) {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let address = Local::read(path).unwrap().unwrap().address().unwrap();
    let objects =
        connect_until(&address, &clock, Patience::default(), &Deadlines::default(), &Arc::default())
            .unwrap()
            .objects;
    let sealer = RemoteSealer::new(store.id(), &Keys::Plain, objects.place());
    let mut log = Log::open(objects, sealer, Seen::Nothing).unwrap();
    let me = Owner { id: OwnerId::random().unwrap(), host: "other".into(), lease: LeaseKind::None };
    claim(&mut log, &me, Steal::Yes, &*clock, &mut |_| true).unwrap();
}

/// It was said to have everything until the next round had begun; and what nobody had shipped was said to be there when another host had
/// taken the store.
#[test]
fn a_remote_that_lacks_something_is_not_said_to_have_everything() {
    let (_tmp, path) = made();
    Local { ship: 3600, ..Local::read(&path).unwrap().unwrap() }.write(&path).unwrap();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    assert_eq!(shipping.status(&store).lag(), Some(0));
    make_dir(&store, "d");
    assert!(shipping.status(&store).lag() >= Some(1), "it is not even durable");
    store.commit_now().unwrap();
    assert!(shipping.status(&store).lag() >= Some(1));
    shipping.sync(MINUTE, &|| false).unwrap();
    assert_eq!(shipping.status(&store).lag(), Some(0));
    make_dir(&store, "e");
    steal(&path, &store);
    assert!(shipping.sync(MINUTE, &|| false).is_err());
    let status = shipping.status(&store);
    assert!(status.fenced && status.lag() >= Some(1), "{status:?}");
    shipping.end(true, None);
    let _ = store.close();
    // Nobody remembers.
    let (store, shipping) = served(&path);
    let status = shipping.status(&store);
    assert!(status.fenced && status.lag().is_none() && status.lag_seconds > 0, "{status:?}");
    shipping.end(true, None);
    let _ = store.close();
}

/// What is known to be there is said to be there.
#[test]
fn a_store_that_was_taken_when_everything_was_shipped_lacks_nothing() {
    let (_tmp, path) = made();
    let (store, shipping) = served(&path);
    make_dir(&store, "d");
    shipping.sync(MINUTE, &|| false).unwrap();
    steal(&path, &store);
    let until = Instant::now() + MINUTE;
    while !shipping.status(&store).fenced && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = shipping.status(&store);
    assert!(status.fenced && status.lag() == Some(0), "{status:?}");
    shipping.end(true, None);
    let _ = store.close();
}

/// What could not be read was left out, and nobody was told.
#[test]
fn a_sync_says_so_where_the_remote_lacks_what_cannot_be_read_here() {
    let (_tmp, path) = made();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let store = OpenStore::open_with(dir, None, Keys::Plain, options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    for (name, blocks) in [("small", 10), ("large", 600)] {
        let ino = fs.make(ROOT_INO, name.as_bytes(), &node, Caller::ROOT).unwrap().ino;
        for i in 0..blocks {
            fs.write(ino, i * 4096, &[b'x'; 4096], WriteMode::default()).unwrap();
        }
        // What was freed long ago cannot be read either.
        let gone = fs.make(ROOT_INO, b"gone", &node, Caller::ROOT).unwrap().ino;
        fs.write(gone, 0, &[b'y'; 9000], WriteMode::default()).unwrap();
        fs.unlink(ROOT_INO, b"gone").unwrap();
    }
    fs.forget_all();
    store.commit_now().unwrap();
    store.close().unwrap();
    let segment = std::fs::read_dir(path.join("segments")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    // A block of each of them.
    for index in [3, 400] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"damage", crate::store::data_offset(index)).unwrap();
    }
    let (store, shipping) = served(&path);
    let sync = || {
        shipping.sync(MINUTE, &|| false).unwrap();
        shipping.must_be_whole()
    };
    for _ in 0..2 {
        let refused = sync().unwrap_err();
        assert!(refused.contains("lacks 2 blocks of files"), "{refused}");
        assert_eq!(shipping.status(&store).trouble, Some(refused));
        // What comes after that is shipped as ever.
        make_dir(&store, &format!("d{}", shipping.status(&store).record));
    }
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    for name in [b"small", b"large"] {
        let ino = fs.lookup(ROOT_INO, name).unwrap().ino;
        fs.unlink(ROOT_INO, name).unwrap();
        fs.forget(ino, 1);
    }
    fs.forget_all();
    let until = Instant::now() + MINUTE;
    while sync().is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    sync().unwrap();
    assert_eq!(shipping.status(&store).trouble, None);
    shipping.end(true, None);
    let _ = store.close();
}

fn write_file(store: &Arc<OpenStore>, name: &str, blocks: u64) {
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(store), volume, FsOptions::default());
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let ino = fs.make(ROOT_INO, name.as_bytes(), &node, Caller::ROOT).unwrap().ino;
    for i in 0..blocks {
        fs.write(ino, i * 4096, &[b'a' + (i % 26) as u8; 4096], WriteMode::default()).unwrap();
    }
    fs.forget_all();
}

/// Until somebody asked for a sync, nobody knew of it; and what the disk could read again was left out for good.
#[test]
fn what_is_left_out_is_told_of_at_once_and_shipped_when_it_can_be_read() {
    let (_tmp, path) = made();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let store = OpenStore::open_with(dir, None, Keys::Plain, options).unwrap();
    write_file(&store, "f", 600);
    store.commit_now().unwrap();
    let addr = block_of(&store, |addr| addr.index == 400);
    store.close().unwrap();
    let segment = path.join("segments").join(format!("{:016x}.seg", addr.segment));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let (mut whole, at) = ([0; 4096], crate::store::data_offset(addr.index));
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut whole, at).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", at).unwrap();
    let (store, shipping) = served(&path);
    let until = Instant::now() + MINUTE;
    while shipping.status(&store).lost.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = shipping.status(&store);
    assert!(status.lost.as_ref().is_some_and(|lost| lost.contains("lacks 1 block of files")), "{status:?}");
    assert_eq!(shipping.missing(&[Run::new(addr, 1)]), Some(1));
    std::os::unix::fs::FileExt::write_all_at(&file, &whole, at).unwrap();
    shipping.sync(MINUTE, &|| false).unwrap();
    shipping.must_be_whole().unwrap();
    assert_eq!(shipping.missing(&[Run::new(addr, 1)]), Some(0));
    assert_eq!(shipping.status(&store).lost, None);
    shipping.end(true, None);
    let _ = store.close();
}

/// Damages one of some hundred blocks that were not shipped yet.
fn damage_new_block(store_path: &Path, store: &Arc<OpenStore>, shipping: &Shipping) {
    let new = std::cell::Cell::new(0);
    let is_new = |addr| !shipping.on_demand.has(addr) && new.replace(new.get() + 1) == 400;
    let addr = block_of(store, is_new);
    let segment = store_path.join("segments").join(format!("{:016x}.seg", addr.segment));
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", crate::store::data_offset(addr.index))
        .unwrap();
}

/// What comes of a sync of a volume that waits for the remote.
fn synced(store: &Arc<OpenStore>, volume: VolumeId) -> std::result::Result<(), SyncError> {
    let (send, receive) = std::sync::mpsc::channel();
    store.sync_remotely(volume, Box::new(move |done| send.send(done).unwrap()));
    receive.recv().unwrap()
}

/// The first sync failed, whosever it was, and who had written it was told that it is there.
#[test]
fn what_cannot_be_shipped_fails_a_sync_of_the_volume_that_has_it() {
    let (_tmp, path) = made();
    Local { ship: 3600, ..Local::read(&path).unwrap().unwrap() }.write(&path).unwrap();
    let (store, shipping) = served(&path);
    let ((size, inodes, metadata), labels) = (Default::default(), BTreeMap::new());
    let (source, name, uid, gid, mode) = ("v".into(), "w".into(), None, None, None);
    let clone = Alteration::Clone { source, name, size, inodes, metadata, labels, uid, gid, mode };
    alter(&store, &clone).unwrap();
    shipping.sync(MINUTE, &|| false).unwrap();
    let of = |name: &str| {
        let rows = store.meta().volumes().unwrap();
        rows.iter().find(|row| row.name == name).unwrap().id
    };
    let (v, w) = (of("v"), of("w"));
    assert_eq!(store.meta().volumes().unwrap()[0].id, v);
    write_file(&store, "f", 600);
    store.commit_now().unwrap();
    damage_new_block(&path, &store, &shipping);
    // All of this one is there.
    assert_eq!(synced(&store, w), Ok(()));
    assert!(shipping.status(&store).lost.is_some());
    assert_eq!(synced(&store, w), Ok(()));
    assert_eq!(synced(&store, v), Err(SyncError::Failed));
    assert_eq!((synced(&store, v), synced(&store, w)), (Ok(()), Ok(())));
    shipping.end(true, None);
    let _ = store.close();
}

/// They were told that it is there, when it was known that it is not.
#[test]
fn a_sync_whose_blocks_cannot_be_shipped_fails_once() {
    let (_tmp, path) = made();
    Local { ship: 3600, ..Local::read(&path).unwrap().unwrap() }.write(&path).unwrap();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    write_file(&store, "f", 600);
    store.commit_now().unwrap();
    damage_new_block(&path, &store, &shipping);
    let volume = store.meta().volumes().unwrap()[0].id;
    let sync = || synced(&store, volume);
    assert_eq!(sync(), Err(SyncError::Failed));
    assert!(shipping.status(&store).lost.is_some());
    // What comes after that is there.
    make_dir(&store, "d");
    store.commit_now().unwrap();
    assert_eq!(sync(), Ok(()));
    // Also where it is known once more.
    shipping.sync(MINUTE, &|| false).unwrap();
    assert_eq!(sync(), Ok(()));
    shipping.end(true, None);
    let _ = store.close();
}

/// A block that was written to segments, from an index on.
fn block_of(store: &Arc<OpenStore>, has: impl Fn(BlockAddr) -> bool) -> BlockAddr {
    let rows = store.meta().segments();
    let mut all = rows.iter().flat_map(|row| (0..row.tail).map(|index| BlockAddr { segment: row.id, index }));
    all.find(|addr| has(*addr)).expect("there is one")
}

/// After a crash, what had gone and was in the newest record was an error to read, until the remote was claimed again.
#[test]
fn what_goes_is_in_a_record_that_was_noted() {
    let (_tmp, path) = made();
    Local { ship: 3600, ..Local::read(&path).unwrap().unwrap() }.write(&path).unwrap();
    let (store, shipping) = served(&path);
    // Nothing becomes news after this, however long what follows takes.
    store.set_commit_interval(Duration::from_secs(3600));
    write_file(&store, "f", 3000);
    loop {
        let before = shipping.status(&store).record;
        shipping.sync(MINUTE, &|| false).unwrap();
        // (A round that began before this one had ended may follow.)
        std::thread::sleep(Duration::from_millis(500));
        if before > 0 && before == shipping.status(&store).record {
            break;
        }
    }
    let mut local = Local::read(&path).unwrap().unwrap();
    local.local_size = 1 << 20;
    local.write(&path).unwrap();
    shipping.reread().unwrap();
    // How much is here is known from when it is looked for what can go, and looked at again when that has gone.
    let is_gone = || shipping.status(&store).here_bytes.is_some_and(|here| here <= 6 << 20);
    let until = Instant::now() + MINUTE;
    while !is_gone() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_gone(), "{:?}", shipping.status(&store));
    assert!(store.segments().resident_bytes().unwrap() <= 6 << 20, "something has gone");
    let noted = Local::read(&path).unwrap().unwrap();
    assert_eq!((noted.seen, noted.partial), (shipping.status(&store).record, true));
    shipping.end(true, None);
    let _ = store.close();
}

/// The same, of a record that is known to have been attempted.
#[test]
fn what_was_attempted_from_here_is_read_before_anything_is_claimed() {
    let (_tmp, path) = made();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    let before = shipping.status(&store).record;
    write_file(&store, "f", 100);
    shipping.sync(MINUTE, &|| false).unwrap();
    let local = Local::read(&path).unwrap().unwrap();
    assert!(local.seen >= before && local.seen < shipping.status(&store).record, "it was attempted");
    // That is noted where programs do not look that do not know of it: they refuse the store.
    assert!(path.join("remote.attempt").exists());
    let header = Header::read(&OsDir::new(&path)).unwrap();
    assert!(header.features.contains(&Feature::RemoteAttempts));
    let counts = Arc::default();
    let fetch = |local: &Local| {
        let on_demand =
            OnDemand::of(&Local { partial: true, ..local.clone() }, store.id(), &Keys::Plain, &counts);
        on_demand.connect().unwrap();
        let addr = block_of(&store, |addr| shipping.on_demand.has(addr));
        on_demand.fetch(addr, 1, &mut |_| {}).unwrap()
    };
    assert_eq!(fetch(&local), Fetched::Given);
    // What somebody else has written is none of it.
    let mut other = local.clone();
    other.attempts.iter_mut().for_each(|attempt| attempt.seal = "7".repeat(32));
    assert_eq!(fetch(&other), Fetched::Nowhere);
    shipping.end(true, None);
    let _ = store.close();
}

/// Nothing went from here after an outage in which somebody had wanted something, until something was fetched again.
#[test]
fn an_outage_is_over_when_something_was_shipped() {
    let (tmp, path) = made();
    let (store, shipping) = served(&path);
    write_file(&store, "f", 100);
    shipping.sync(MINUTE, &|| false).unwrap();
    shipping.on_demand.be_partial();
    let (objects, away) = (tmp.path().join("objects"), tmp.path().join("away"));
    std::fs::rename(&objects, &away).unwrap();
    let addr = block_of(&store, |addr| shipping.on_demand.has(addr));
    let refused = shipping.on_demand.fetch(addr, 1, &mut |_| {});
    assert!(matches!(refused, Err(ElsewhereError::Away(_))), "{refused:?}");
    assert!(shipping.status(&store).away.is_some());
    std::fs::rename(&away, &objects).unwrap();
    make_dir(&store, "d");
    shipping.sync(MINUTE, &|| false).unwrap();
    let until = Instant::now() + MINUTE;
    while shipping.status(&store).away.is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(shipping.status(&store).away, None);
    shipping.end(true, None);
    let _ = store.close();
}

/// It was shipped into what had no store any more, and said to be there.
#[test]
fn nothing_is_shipped_where_the_store_was_removed() {
    let (tmp, path) = made();
    // A sign of life finds it out as well, before anything is shipped.
    Local { heartbeat: 1, ..Local::read(&path).unwrap().unwrap() }.write(&path).unwrap();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    let (objects, away) = (tmp.path().join("objects"), tmp.path().join("away"));
    std::fs::create_dir(&away).unwrap();
    let move_all = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            if !name.as_encoded_bytes().starts_with(b".") {
                std::fs::rename(from.join(&name), to.join(&name)).unwrap();
            }
        }
    };
    // Whether or not something is to be shipped.
    for round in 0..2 {
        move_all(&objects, &away);
        if round == 1 {
            make_dir(&store, "d");
        }
        let until = Instant::now() + MINUTE;
        while !shipping.status(&store).stopped && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..2 {
            let refused = shipping.sync(MINUTE, &|| false).unwrap_err();
            assert!(refused.contains("does not have this volume any more"), "{refused}");
        }
        let (send, receive) = std::sync::mpsc::channel();
        store.sync_remotely(1, Box::new(move |done| send.send(done).unwrap()));
        assert!(receive.recv().unwrap().is_err(), "a sync is not told that it is there");
        let status = shipping.status(&store);
        assert!(status.stopped && !status.fenced && status.lag() > Some(0), "{status:?}");
        assert!(store.health().is_good(), "it goes on here");
        make_dir(&store, &format!("e{round}"));
        for name in ["log", "alive"] {
            assert!(!objects.join(name).exists(), "{name} is there");
        }
        // It was only away.
        move_all(&away, &objects);
        let until = Instant::now() + MINUTE;
        while shipping.sync(MINUTE, &|| false).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        shipping.sync(MINUTE, &|| false).unwrap();
        assert!(!shipping.status(&store).stopped && shipping.status(&store).trouble.is_none());
    }
    shipping.end(true, None);
    let _ = store.close();
}

/// It left a sign of life behind each time that it was tried, and others took it for alive.
#[test]
fn who_cannot_note_a_claim_shows_no_life() {
    let (tmp, path) = made();
    // Nothing can be written in the place of what is kept of the remote.
    let spare = path.join(".remote.json.new");
    std::fs::remove_file(&spare).unwrap();
    std::fs::create_dir(&spare).unwrap();
    let (store, shipping) = served(&path);
    let refused = shipping.sync(Duration::from_secs(3), &|| false).unwrap_err();
    assert!(refused.contains("cannot note"), "{refused}");
    assert!(store.health().is_good());
    shipping.end(true, None);
    let _ = store.close();
    let objects = tmp.path().join("objects");
    assert!(
        objects.join("store").exists() && !objects.join("alive").exists() && !objects.join("log").exists()
    );
    std::fs::remove_dir(&spare).unwrap();
    let (store, shipping) = served(&path);
    shipping.sync(MINUTE, &|| false).unwrap();
    // How much time passes is counted from now on, whatever the clock of the day says.
    let until = Instant::now() + MINUTE;
    let passed = || Local::read(&path).unwrap().unwrap().passed;
    while passed().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(passed().is_some());
    shipping.end(true, None);
    let _ = store.close();
}
