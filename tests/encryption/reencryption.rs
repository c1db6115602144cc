//! New keys for everything: nothing is lost, nothing stays behind, whatever happens in the middle of it.

use super::epochs::{self, count_opened};
use super::{check_closed, host_with_key, volume};
use crate::disk::{Access, Disk, Fault, Survives};
use crate::model::harness::{check_disk, keys_of, new_encrypted_disk, secret};
use crate::support::{Background, Host, errno, pattern, scratch, shell, wait_until};
use larder::backing::{Dir, OpenMode, OsDir};
use larder::crypto::{Keys, Secret, Subkeys};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, Wait, WriteMode};
use larder::meta::NewSnapshot;
use larder::open_store::{Executed, KeepExecuted, OpenError, OpenStore, StoreOptions, Trouble};
use larder::store::{Header, HeaderState, LockMode, SEGMENT_BLOCKS, StoreLock, data_offset};
use larder::volume::{begin_reencryption_in, unlock_keys};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The keys that a key file opens now.
fn keys_now(host: &Host, key: &str) -> Keys {
    let secret = Secret::KeyFile(fs::read(key).unwrap().into());
    unlock_keys(&OsDir::new(host.store("v")), &secret).unwrap()
}

fn sums(dir: &Path) -> String {
    shell(
        dir,
        "find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -printf '%P %s %b %m\\n' | sort",
    )
}

/// A bit of everything: several segments, shared blocks, holes, a snapshot and a clone that differ.
fn fill(host: &Host, dir: &Path) {
    for i in 0..30 {
        fs::write(dir.join(format!("f{i}")), pattern(1000 + i * 60_000, i as u64)).unwrap();
    }
    fs::write(dir.join("large"), pattern(70 << 20, 5)).unwrap();
    shell(
        dir,
        "cp --reflink=auto large shared; truncate -s 10M sparse; for i in {1..500}; do echo $i > s$i; done",
    );
    host.ok(&["snapshot", "create", "v@one"]);
    host.ok(&["clone", "v@one", "twin"]);
    shell(
        dir,
        "rm f1? s1*; echo changed > f20; dd if=/dev/zero of=shared bs=1M count=3 conv=notrunc status=none",
    );
}

#[test]
fn everything_gets_new_keys_while_the_volume_is_used() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fill(&host, &dir);
    let old = keys_now(&host, &key);
    let old_header = fs::read(host.store("v").join("header.json")).unwrap();
    let (before, used) = (sums(&dir), host.json(&["inspect", "v"])["used"].clone());
    let before_twin = sums(&dir.join(".snapshots/one"));
    assert!(host.ok(&["key", "list", "v"]).contains("key epoch 1\n"));
    let writer = Background::start(
        Command::new("bash")
            .args([
                "-c",
                "mkdir w; for i in {1..100000}; do echo $i > w/$((i % 50)); sync w/$((i % 50)); done",
            ])
            .current_dir(&dir),
    );
    let done = host.ok(&["key", "reencrypt", "v", "--key-file", &key]);
    assert!(done.contains("key epoch 2"), "{done}");
    drop(writer);
    shell(&dir, "rm -r w");
    assert_eq!(sums(&dir), before);
    assert_eq!(sums(&dir.join(".snapshots/one")), before_twin);
    assert_eq!(host.json(&["inspect", "v"])["used"], used);
    let inspected = host.json(&["inspect", "v"]);
    assert_eq!(
        (&inspected["keys"]["epoch"], &inspected["reencryption"]),
        (&2.into(), &serde_json::Value::Null)
    );
    assert_eq!(inspected["health"], "ok");
    host.check("v");
    // With its logs, as a killed server leaves it.
    host.kill_server("v");
    let store = OsDir::new(host.store("v"));
    epochs::must_be_one(&store);
    assert_eq!(count_opened(&store, &old), 0, "the old keys open something");
    assert!(count_opened(&store, &keys_now(&host, &key)) > 18_000);
    let dir = host.mount("v", &["--key-file", &key]);
    assert_eq!(sums(&dir), before);
    host.umount("v");
    check_closed(&host, &key);
    let twin = host.mount("twin", &["--key-file", &key]);
    assert_eq!(sums(&twin), before_twin);
    host.umount("twin");
    // The header of before opens, and the keys in it nothing else.
    let header = host.store("v").join("header.json");
    let new_header = fs::read(&header).unwrap();
    fs::write(&header, old_header).unwrap();
    host.fails(9, &["mount", "v", dir.to_str().unwrap(), "--key-file", &key]);
    fs::write(&header, new_header).unwrap();
    check_closed(&host, &key);
}

#[test]
fn an_unmounted_volume_and_a_killed_command() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fill(&host, &dir);
    let before = sums(&dir);
    host.umount("v");
    let old = keys_now(&host, &key);
    let command = ["key", "reencrypt", "v", "--key-file", &key];
    for delay in [20, 60, 120] {
        let mut child = host
            .command(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        check_closed(&host, &key);
    }
    assert!(host.ok(&["key", "list", "v"]).contains("in progress"));
    let listed = host.json(&["key", "list", "v", "--json"]);
    assert_eq!((&listed["epoch"], &listed["older"]), (&2.into(), &serde_json::json!([1])));
    host.fails(
        13,
        &["key", "reencrypt", "v", "--key-file", &crate::encryption::secrets::file(&host, "no", &[1; 64])],
    );
    // What was begun goes on, in the same epoch.
    assert!(host.ok(&command).contains("key epoch 2"));
    let store = OsDir::new(host.store("v"));
    epochs::must_be_one(&store);
    assert_eq!(count_opened(&store, &old), 0);
    check_closed(&host, &key);
    // In the background, there is somebody to do it when it is mounted.
    assert!(
        host.ok(&["key", "reencrypt", "v", "--background", "--key-file", &key])
            .contains("when it is mounted")
    );
    let dir = host.mount("v", &["--key-file", &key]);
    wait_until("it is done", || host.json(&["key", "list", "v", "--json"])["older"] == serde_json::json!([]));
    assert_eq!(sums(&dir), before);
    assert_eq!(host.json(&["key", "list", "v", "--json"])["epoch"], 3);
    host.umount("v");
    epochs::must_be_one(&store);
    check_closed(&host, &key);
    host.ok(&["create", "plain"]);
    host.fails(2, &["key", "reencrypt", "plain", "--key-file", &key]);
}

#[test]
fn a_server_that_is_killed_again_and_again() {
    let (host, key) = host_with_key();
    let mut dir = volume(&host, &key);
    fill(&host, &dir);
    let before = sums(&dir);
    let old = keys_now(&host, &key);
    let background = ["key", "reencrypt", "v", "--background", "--key-file", &key];
    host.ok(&background);
    for round in 0..12 {
        fs::write(dir.join("f0"), pattern(1000, 0)).unwrap();
        std::thread::sleep(Duration::from_millis(round * 20));
        host.kill_server("v");
        dir = host.mount("v", &["--key-file", &key]);
        assert_eq!(sums(&dir), before, "round {round}");
    }
    host.ok(&["key", "reencrypt", "v", "--key-file", &key]);
    host.kill_server("v");
    let store = OsDir::new(host.store("v"));
    epochs::must_be_one(&store);
    assert_eq!(count_opened(&store, &old), 0);
    let dir = host.mount("v", &["--key-file", &key]);
    assert_eq!(sums(&dir), before);
    host.umount("v");
    check_closed(&host, &key);
}

#[test]
fn a_new_master_key_shuts_out_who_had_the_old_one() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fs::write(dir.join("f"), "data").unwrap();
    let second = crate::encryption::secrets::file(&host, "second", &pattern(64, 8));
    host.ok(&["key", "add", "v", "--key-file", &key, "--new-key-file", &second]);
    let header = host.store("v").join("header.json");
    let old_header: serde_json::Value = serde_json::from_slice(&fs::read(&header).unwrap()).unwrap();
    let slots = |header: &serde_json::Value| header["encryption"]["slots"].clone();
    // Without it, slots stay, and whoever has an old one gets at the new keys.
    host.ok(&["key", "reencrypt", "v", "--key-file", &key]);
    let new_header: serde_json::Value = serde_json::from_slice(&fs::read(&header).unwrap()).unwrap();
    assert_eq!(slots(&new_header), slots(&old_header));
    let printed = host.ok(&["key", "reencrypt", "v", "--new-master-key", "--key-file", &second]);
    assert!(printed.contains("key slot 0 was removed") && printed.contains("key epoch 3"), "{printed}");
    let mut forged: serde_json::Value = serde_json::from_slice(&fs::read(&header).unwrap()).unwrap();
    assert_eq!(slots(&forged).as_array().unwrap().len(), 1);
    host.umount("v");
    host.fails(13, &["check", "v", "--key-file", &key]);
    check_closed(&host, &second);
    // The old slots beside the new epochs: they open to a master key that opens nothing.
    let whole = fs::read(&header).unwrap();
    forged["encryption"]["slots"] = slots(&old_header);
    fs::write(&header, super::secrets::with_checksum(&ordered(&forged))).unwrap();
    for old in [&key, &second] {
        let line = host.fails(9, &["check", "v", "--key-file", old]);
        assert!(line.contains("the key of epoch 3 is damaged"), "{line}");
    }
    fs::write(&header, whole).unwrap();
    let dir = host.mount("v", &["--key-file", &second]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
}

/// A header as it is written: the fields in their order.
fn ordered(header: &serde_json::Value) -> String {
    let field = |name: &str| format!("  \"{name}\": {}", serde_json::to_string(&header[name]).unwrap());
    let ring = &header["encryption"];
    let encryption = format!(
        "  \"encryption\": {{\"cipher\": {}, \"epochs\": {}, \"slots\": [{}]}}",
        ring["cipher"],
        ring["epochs"],
        ring["slots"].as_array().unwrap().iter().map(slot).collect::<Vec<_>>().join(",")
    );
    let fields = ["magic", "version", "features", "store", "created"].map(field).join(",\n");
    format!("{{\n{fields},\n{encryption},\n  \"checksum\": \"\"\n}}\n")
}

fn slot(slot: &serde_json::Value) -> String {
    let fields = ["id", "kind", "kdf", "memory_kib", "passes", "lanes", "salt", "key"];
    let there = fields.iter().filter(|name| !slot[**name].is_null());
    format!("{{{}}}", there.map(|name| format!("\"{name}\": {}", slot[*name])).collect::<Vec<_>>().join(","))
}

#[test]
fn damaged_blocks_stay_as_they_are_with_the_old_keys() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fs::write(dir.join("good"), pattern(400_000, 1)).unwrap();
    host.umount("v");
    let dir = host.mount("v", &["--key-file", &key]);
    fs::write(dir.join("bad"), pattern(400_000, 2)).unwrap();
    host.umount("v");
    let segments = host.store("v").join("segments");
    let mut files: Vec<_> = fs::read_dir(&segments).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let damaged = OpenOptions::new().write(true).open(files.last().unwrap()).unwrap();
    damaged.write_all_at(&[7; 100], data_offset(50)).unwrap();
    let dir = host.mount("v", &["--key-file", &key]);
    let line = host.fails(9, &["key", "reencrypt", "v", "--key-file", &key]);
    assert!(line.contains("damaged blocks") && line.contains("larder check --read-data"), "{line}");
    let listed = host.json(&["key", "list", "v", "--json"]);
    assert_eq!((&listed["older"], &listed["segments_left"]), (&serde_json::json!([1]), &1.into()));
    assert!(host.json(&["inspect", "v"])["reencryption"]["trouble"].is_array());
    // What can be read can still be read, and what can be restored could still be restored.
    assert!(fs::read(dir.join("good")).unwrap() == pattern(400_000, 1));
    let bad = fs::File::open(dir.join("bad")).unwrap();
    let mut block = [0; 4096];
    bad.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(errno(bad.read_at(&mut block, 50 * 4096)), libc::EIO);
    drop(bad);
    fs::remove_file(dir.join("bad")).unwrap();
    wait_until("its blocks are free", || host.json(&["inspect", "v"])["used"].as_u64().unwrap() < 500_000);
    assert!(host.ok(&["key", "reencrypt", "v", "--key-file", &key]).contains("key epoch 2"));
    assert!(fs::read(dir.join("good")).unwrap() == pattern(400_000, 1));
    host.umount("v");
    epochs::must_be_one(&OsDir::new(host.store("v")));
    check_closed(&host, &key);
}

const FILE: NewNode<'static> =
    NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };

fn open(disk: &Disk) -> (Arc<OpenStore>, Fs) {
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_millis(20),
        ..StoreOptions::default()
    };
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys_of(disk).unwrap(), options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    (Arc::clone(&store), Fs::new(store, volume, FsOptions::default()))
}

/// What is in one of the files: one of them has more blocks than are done at once.
fn contents(salt: u64) -> Vec<u8> {
    pattern(if salt == 1 { 1_500_000 } else { 50_000 }, salt)
}

/// A disk with a closed store of some segments in which a file of each is known, and a snapshot.
fn filled() -> Disk {
    let disk = new_encrypted_disk(None, None);
    for salt in 0..3 {
        let (store, fs) = open(&disk);
        let name = format!("f{salt}");
        let ino = fs.make(ROOT_INO, name.as_bytes(), &FILE, Caller::ROOT).unwrap().ino;
        fs.write(ino, 0, &contents(salt), WriteMode::default()).unwrap();
        fs.forget(ino, 1);
        let new = NewSnapshot { name, labels: Default::default(), created: 1 };
        store.alter(move |meta| meta.create_snapshot(1, &new)).unwrap();
        fs.forget_all();
        store.close().unwrap();
    }
    disk
}

#[track_caller]
fn must_hold(fs: &Fs) {
    for salt in 0..3 {
        let attr = fs.lookup(ROOT_INO, format!("f{salt}").as_bytes()).unwrap();
        let mut bytes = vec![0; contents(salt).len()];
        assert_eq!(fs.read(attr.ino, 0, &mut bytes, Wait::Yes).unwrap(), bytes.len());
        assert!(bytes == contents(salt), "f{salt}");
        fs.forget(attr.ino, 1);
    }
}

fn begin(disk: &Disk, store: &OpenStore) {
    let begun = begin_reencryption_in(disk, &secret(), false).unwrap();
    store.reencrypt(begun.keys).unwrap();
}

/// The store on `disk` goes on to the end, and all is there.
#[track_caller]
fn must_come_to_an_end(disk: &Disk) {
    let (store, fs) = open(disk);
    must_hold(&fs);
    wait_until("it is done", || store.reencryption().is_none());
    must_hold(&fs);
    epochs::must_be_one(disk);
    fs.forget_all();
    store.close().unwrap();
    epochs::must_be_one(disk);
    check_disk(disk);
}

#[test]
fn the_power_goes_at_every_step() {
    let disk = filled();
    let cuts: Arc<Mutex<Vec<Disk>>> = Arc::default();
    let (store, fs) = open(&disk);
    let (kept, rng) = (Arc::clone(&cuts), Mutex::new(StdRng::seed_from_u64(3)));
    disk.watch(move |disk, access, _| {
        let mut rng = rng.lock();
        let wanted = match access {
            Access::Write => rng.random_bool(0.1),
            Access::Read | Access::Reserve => false,
            _ => true,
        };
        if wanted {
            let survives = match rng.random_range(0..4) {
                0 => Survives::Nothing,
                1 => Survives::Everything,
                _ => Survives::Some,
            };
            kept.lock().push(disk.after_power_loss(survives, &mut rng));
        }
    });
    begin(&disk, &store);
    wait_until("it is done", || store.reencryption().is_none());
    let cuts = std::mem::take(&mut *cuts.lock());
    assert!(cuts.len() > 20, "{} cuts", cuts.len());
    let mut under_way = 0;
    for cut in &cuts {
        under_way += usize::from(Header::read(cut).unwrap().epochs().len() > 1);
        must_come_to_an_end(cut);
    }
    assert!(under_way > 10 && under_way < cuts.len());
    must_hold(&fs);
    fs.forget_all();
    store.close().unwrap();
}

#[test]
fn a_full_disk_is_waited_for() {
    for (what, spared) in [("segments/", 0), ("segments/", 3), ("meta.db.new", 0), ("header", 0)] {
        let disk = filled();
        let (store, fs) = open(&disk);
        let of: fn(&str) -> bool = match what {
            "segments/" => |name| name.ends_with(".seg.new"),
            "meta.db.new" => |name| name == "meta.db.new",
            _ => |name| name == "header.json.new",
        };
        let keys = begin_reencryption_in(&disk, &secret(), false).unwrap().keys;
        disk.inject(Fault::once(Access::Write, of, libc::ENOSPC, spared));
        store.reencrypt(keys.clone()).unwrap();
        let mut trouble = None;
        wait_until("it pauses", || {
            trouble = store.reencryption().and_then(|state| state.trouble);
            trouble.is_some()
        });
        assert!(
            matches!(&trouble, Some(Trouble::NoSpace(what)) if what.contains("free some space")),
            "{what}: {trouble:?}"
        );
        // Nothing is lost, and the store works.
        must_hold(&fs);
        assert!(store.health().is_good());
        store.commit_now().unwrap();
        // Whoever asks again need not wait.
        store.reencrypt(keys).unwrap();
        wait_until("it is done", || store.reencryption().is_none());
        epochs::must_be_one(&disk);
        must_hold(&fs);
        fs.forget_all();
        store.close().unwrap();
        check_disk(&disk);
    }
}

#[test]
fn a_disk_that_fails_loses_nothing_of_what_there_was() {
    let base = filled();
    for access in [
        Access::Read,
        Access::Write,
        Access::Sync,
        Access::SetLen,
        Access::Create,
        Access::Remove,
        Access::SyncDir,
    ] {
        for spared in 0..60 {
            let disk = base.after_kill();
            let (store, fs) = open(&disk);
            let keys = begin_reencryption_in(&disk, &secret(), false).unwrap().keys;
            disk.inject(Fault::once(
                access,
                |_| true,
                libc::EIO,
                spared * if access == Access::Write { 4 } else { 1 },
            ));
            // If the header cannot be read, nothing is begun.
            let _ = store.reencrypt(keys);
            wait_until("it is done, or stops", || {
                store.reencryption().is_none_or(|state| state.trouble.is_some())
            });
            let struck = disk.has_failed();
            let dark = disk.after_power_loss(Survives::Some, &mut StdRng::seed_from_u64(spared.into()));
            fs.forget_all();
            let _ = store.close();
            must_come_to_an_end(&dark);
            must_come_to_an_end(&disk.after_kill());
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn a_block_that_was_freed_and_not_punched_does_not_stand_in_the_way() {
    let disk = filled();
    // A host that cannot punch holes, and damage in what was freed.
    let (store, fs) = open(&disk);
    disk.inject(Fault::from(Access::Punch, |_| true, libc::EOPNOTSUPP, 0));
    let attr = fs.lookup(ROOT_INO, b"f0").unwrap();
    let snapshots = store.meta().snapshots().unwrap();
    for id in snapshots.iter().map(|row| row.id) {
        store.alter(move |meta| meta.remove_snapshot(id)).unwrap();
    }
    crate::model::harness::await_reclaim(&store);
    fs.write(attr.ino, 0, &pattern(4096, 9), WriteMode::default()).unwrap();
    fs.forget_all();
    store.close().unwrap();
    let first = store.segments().list().unwrap()[0];
    let name = larder::store::segment_name(first);
    let file = larder::backing::Dir::open(&disk, &name, larder::backing::OpenMode::ReadWrite).unwrap();
    let index = (0..SEGMENT_BLOCKS).next().unwrap();
    file.write_at(&[std::io::IoSlice::new(&[3; 64])], data_offset(index)).unwrap();
    let (store, fs) = open(&disk);
    begin(&disk, &store);
    wait_until("it is done", || store.reencryption().is_none());
    fs.forget_all();
    store.close().unwrap();
    epochs::must_be_one(&disk);
    check_disk(&disk.after_kill());
}

thread_local! {
    /// Whether [`HoldUp`] is about this thread.
    static IS_SLOW: Cell<bool> = const { Cell::new(false) };
}

/// Holds up slow readers of the database or of a segment while these are sealed again.
#[derive(Default)]
struct HoldUp {
    /// The first new file is there: its making waits for the readers.
    begun: AtomicBool,
    /// Reads that wait until the older keys are gone.
    held: AtomicUsize,
}

impl HoldUp {
    fn of(disk: &Disk, readers: usize) -> Arc<Self> {
        let shared = Arc::new(Self::default());
        let hold_up = Arc::clone(&shared);
        disk.watch(move |disk, access, file| {
            let is_data = file.starts_with("meta.db") || file.starts_with("segments/");
            if access == Access::Create && is_data && file.ends_with(".new") {
                hold_up.begun.store(true, Ordering::SeqCst);
                wait_until("the readers read", || hold_up.held.load(Ordering::SeqCst) >= readers);
            } else if access == Access::Read && is_data && IS_SLOW.get() {
                hold_up.hold(disk);
            }
        });
        shared
    }

    fn hold(&self, disk: &Disk) {
        let epochs = || Header::read(disk).unwrap().epochs().len();
        if epochs() > 1 {
            self.held.fetch_add(1, Ordering::SeqCst);
            wait_until("the older keys are gone", || epochs() == 1);
            // From the memory of the process too.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A thread that was not run for so long met a page whose keys were gone: EIO, and a store that took no more changes.
#[test]
fn a_read_that_takes_longer_than_all_of_it_finds_no_damage() {
    let disk = filled();
    let (store, fs) = open(&disk);
    let first = store.segments().list().unwrap()[0];
    let hold_up = HoldUp::of(&disk, 2);
    let has_begun = || wait_until("it has begun", || hold_up.begun.load(Ordering::SeqCst));
    std::thread::scope(|scope| {
        let pages = scope.spawn(|| {
            has_begun();
            // (Not under the hold of the metadata, which the store's own thread waits for.)
            let inspector = store.meta().inspector().unwrap();
            IS_SLOW.set(true);
            inspector.database_faults()
        });
        let header = scope.spawn(|| {
            has_begun();
            IS_SLOW.set(true);
            store.segments().check_file(first)
        });
        begin(&disk, &store);
        assert_eq!(pages.join().unwrap().unwrap(), [""; 0]);
        assert_eq!(header.join().unwrap().unwrap().0, HeaderState::Good);
    });
    wait_until("it is done", || store.reencryption().is_none());
    must_hold(&fs);
    fs.forget_all();
    store.close().unwrap();
    epochs::must_be_one(&disk);
    check_disk(&disk);
}

#[test]
fn a_mount_outlives_a_server_that_dies_before_it_has_the_new_keys() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fs::write(dir.join("f"), "data").unwrap();
    let store = OsDir::new(host.store("v"));
    // All that the command does before it asks the server.
    let secret = Secret::KeyFile(fs::read(&key).unwrap().into());
    begin_reencryption_in(&store, &secret, false).unwrap();
    crate::takeover::lose_server(&host, "v");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    fs::write(dir.join("g"), "more").unwrap();
    host.ok(&["key", "reencrypt", "v", "--key-file", &key]);
    epochs::must_be_one(&store);
    assert_eq!(fs::read_to_string(dir.join("g")).unwrap(), "more");
    host.umount("v");
    check_closed(&host, &key);
}

/// Opens the store on `disk` to take over from a server that had `keys`. The lock is in `dir`.
fn take_over(disk: &Disk, keys: &[Subkeys], dir: &Path) -> Result<(Arc<OpenStore>, Fs), OpenError> {
    let lock = StoreLock::try_acquire(dir, LockMode::Exclusive).unwrap().unwrap();
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: Duration::from_secs(3600),
        ..StoreOptions::default()
    };
    let keys = Keys::new(keys.to_vec()).unwrap();
    let mut keep = |_: &[Executed]| {};
    let requests = (Vec::new(), &mut keep as KeepExecuted<'_>);
    let (store, _) = OpenStore::open_again(Arc::new(disk.clone()), lock, keys, options, requests)?;
    let volume = store.meta().volumes().unwrap()[0].id;
    Ok((Arc::clone(&store), Fs::new(store, volume, FsOptions::default())))
}

/// Begins a re-encryption: all keys, and those that there were before.
fn begin_with(disk: &Disk) -> (Vec<Subkeys>, Vec<Subkeys>) {
    let keys = begin_reencryption_in(disk, &secret(), false).unwrap().keys;
    let newest = keys.iter().map(Subkeys::epoch).max();
    let old = keys.iter().filter(|keys| Some(keys.epoch()) != newest).cloned().collect();
    (keys, old)
}

#[test]
fn who_takes_over_without_keys_that_were_begun_a_moment_ago_goes_on_with_the_older_ones() {
    let (disk, lock) = (filled(), scratch());
    let (keys, old) = begin_with(&disk);
    let (store, fs) = take_over(&disk, &old, lock.path()).unwrap();
    must_hold(&fs);
    assert_eq!(store.reencryption(), None, "it waits for the keys");
    store.reencrypt(keys).unwrap();
    wait_until("it is done", || store.reencryption().is_none());
    must_hold(&fs);
    fs.forget_all();
    store.close().unwrap();
    must_come_to_an_end(&disk);
}

/// The key epoch in which the first record of a log is sealed.
fn epoch_of_first_record(disk: &Disk, log: &str) -> Option<u32> {
    let mut bytes = [0; 4];
    let file = disk.open(log, OpenMode::Read).ok()?;
    let got = file.read_at(&mut [IoSliceMut::new(&mut bytes)], 44).unwrap();
    (got == bytes.len()).then(|| u32::from_le_bytes(bytes))
}

/// What is sealed with keys that somebody lacks looks to them as if it were not there.
#[test]
fn nobody_takes_over_without_the_keys_of_what_is_there() {
    let (disk, lock) = (filled(), scratch());
    let (keys, old) = begin_with(&disk);
    let kills: Arc<Mutex<Vec<(Disk, usize)>>> = Arc::default();
    let made_until = Arc::new(AtomicUsize::new(0));
    {
        let (kills, made, accesses) = (Arc::clone(&kills), Arc::clone(&made_until), AtomicUsize::new(0));
        disk.watch(move |disk, access, _| {
            let number = accesses.fetch_add(1, Ordering::Relaxed);
            if access != Access::Read && number.is_multiple_of(5) {
                // First the number: what is made meanwhile may be in the image or not.
                let done = made.load(Ordering::Relaxed);
                kills.lock().push((disk.after_kill(), done));
            }
        });
    }
    let (store, fs) = take_over(&disk, &old, lock.path()).unwrap();
    // As long as somebody reads, the logs are not begun anew: they come to hold what is sealed in either epoch.
    let reader = store.meta().inspector().unwrap();
    store.reencrypt(keys).unwrap();
    let mut number = 0;
    let mut make = || {
        let made = fs.make(ROOT_INO, format!("n{number}").as_bytes(), &FILE, Caller::ROOT).unwrap();
        fs.forget(made.ino, 1);
        number += 1;
        made_until.store(number, Ordering::Relaxed);
    };
    wait_until("the new keys are in use", || {
        make();
        ["redo.0", "redo.1"].iter().any(|log| epoch_of_first_record(&disk, log) == Some(2))
    });
    (0..20).for_each(|_| make());
    drop(reader);
    wait_until("it is done", || store.reencryption().is_none());
    disk.watch(|_, _, _| {});
    fs.forget_all();
    store.close().unwrap();
    let (mut taken_over, mut refused) = (0, 0);
    for (killed, done) in std::mem::take(&mut *kills.lock()) {
        let Ok((store, fs)) = take_over(&killed, &old, lock.path()) else {
            refused += 1;
            continue;
        };
        taken_over += 1;
        for number in 0..done {
            let found = fs.lookup(ROOT_INO, format!("n{number}").as_bytes());
            assert!(found.is_ok(), "a file is lost that was made");
            fs.forget(found.unwrap().ino, 1);
        }
        fs.forget_all();
        store.close().unwrap();
    }
    assert!(taken_over > 0 && refused > 0, "{taken_over} {refused}");
}
