//! Stores that earlier programs made: every version opens them and finds what was in them. `scripts/golden` made them.

use crate::disk::{Access, Disk, Fault};
use crate::support::{Host, shell, state};
use larder::backing::{Dir, OsDir};
use larder::meta::{Inspector, SnapshotRow, WAL_NAME};
use larder::open_store::{OpenStore, StoreOptions};
use larder::store::{HEADER_NAME, Header};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn opens(name: &str, options: &[&str], secret: &[&str]) {
    let has_features = name.starts_with("golden-2");
    let host = Host::plain();
    let tmp = host.root().parent().unwrap();
    shell(tmp, &format!("tar -xJf {}", fixtures().join(format!("{name}.tar.xz")).display()));
    // Who only looks changes nothing, however old the store is. (That a check has looked is noted beside it.)
    let files =
        || shell(host.root(), "find . -type f ! -name lock ! -path './health/*' -exec sha256sum {} + | sort");
    let before = files();
    host.ok(&["ls"]);
    host.ok(&[&["inspect", "db"], secret].concat());
    host.ok(&[&["check", "db", "--read-data"], secret].concat());
    assert_eq!(files(), before);
    for volume in ["db", "db@one", "db@two", "twin"] {
        let dir = host.mount(volume, options);
        let expected =
            fs::read_to_string(fixtures().join(format!("{name}.{}.state", volume.replace('@', "-"))));
        assert_eq!(state(&dir), expected.unwrap(), "{name}: {volume}");
        if volume == "db" {
            assert_eq!(shell(&dir, "getfattr -n user.golden --only-values dir/f3"), "yes");
            let info = host.json(&["inspect", "db"]);
            assert_eq!(info["labels"]["app"], "golden");
            // It has no limit that it did not have, and its metadata are counted.
            assert_eq!(info["metadata"].is_null(), !has_features, "{info:#}");
            if has_features {
                let flags = "lsattr -d frozen grows | awk '{gsub(/[-e]/, \"\", $1); print $1, $2}'";
                assert_eq!(shell(&dir, flags), "i frozen\na grows\n");
                // One chunk of it was written to.
                assert_eq!(shell(&dir, "stat -c %b reserved"), "18432\n");
                assert!(
                    fs::write(dir.join("frozen"), "x").is_err() && fs::write(dir.join("grows"), "x").is_err()
                );
                shell(&dir, "echo more >> grows");
            }
            assert!(info["metadata_used"].as_u64().is_some_and(|bytes| bytes > 256), "{info:#}");
        }
        host.umount(volume);
    }
    // An older program refuses it by name from now on.
    let header = fs::read_to_string(host.store("db").join("header.json")).unwrap();
    for feature in ["\"metadata-limits\"", "\"reserved-runs\"", "\"unnamed-files\""] {
        assert!(header.contains(feature), "{header}");
    }
    host.ok(&[&["check", "db", "--read-data"], secret].concat());
    // And goes on with them.
    host.ok(&[&["snapshot", "rm", "db@one"], secret].concat());
    let dir = host.mount("db", options);
    shell(&dir, "echo more > more; rm -r dir; sync more");
    host.umount("db");
    host.ok(&[&["rm", "--now", "db"], secret].concat());
    host.ok(&[&["check", "twin", "--read-data"], secret].concat());
}

/// A program of version 1 did not count metadata.
#[test]
fn metadata_of_snapshots_of_version_1_are_counted_once_and_kept() {
    let host = Host::plain();
    let tmp = host.root().parent().unwrap();
    shell(tmp, &format!("tar -xJf {}", fixtures().join("golden-1.tar.xz").display()));
    let kept = || {
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(host.store("db")));
        let inspector = Inspector::open(Arc::clone(&dir), Header::read(&*dir).unwrap().store).unwrap();
        let rows = inspector.snapshots().unwrap();
        let of = |row: &SnapshotRow| (row.usage.metadata, inspector.metadata_of_snapshot(row).unwrap());
        rows.iter().map(|row| (row.name.clone(), of(row))).collect::<BTreeMap<_, _>>()
    };
    let error = host.fails(2, &["clone", "db@one", "small", "--metadata", "4096"]);
    let [(one, counted), (two, _)] = ["one", "two"].map(|name| kept()[name]);
    assert_eq!((one, two), (counted, 0), "one was counted, and nobody asked for two");
    assert!(error.contains(&format!("more metadata ({one} bytes)")), "{error}");
    host.ok(&["clone", "db@two", "copy"]);
    let (two, counted) = kept()["two"];
    assert_eq!(two, counted);
    host.ok(&["rollback", "db@two"]);
    host.ok(&["check", "db"]);
}

#[test]
fn version_1() {
    opens("golden-1", &[], &[]);
}

fn opens_encrypted(name: &str) {
    let key = fixtures().join("golden.key");
    let key = key.to_str().unwrap();
    opens(name, &["-o", &format!("key-file={key}")], &["--key-file", key]);
}

#[test]
fn version_1_encrypted() {
    opens_encrypted("golden-1-encrypted");
}

#[test]
fn version_1_with_features() {
    opens("golden-2", &[], &[]);
}

#[test]
fn version_1_with_features_encrypted() {
    opens_encrypted("golden-2-encrypted");
}

fn is_older(disk: &Disk) -> bool {
    Header::read(disk).unwrap().is_older()
}

/// The program before can go on with it: its header names nothing new, and no commit has anything that needs it.
#[test]
fn a_store_of_an_earlier_version_that_cannot_be_opened_stays_as_it_was() {
    let host = Host::plain();
    let tmp = host.root().parent().unwrap();
    shell(tmp, &format!("tar -xJf {}", fixtures().join("golden-1.tar.xz").display()));
    let store = host.store("db");
    let open = |disk: &Disk| OpenStore::open(Arc::new(disk.clone()), None, StoreOptions::default());
    let mut failures = 0;
    loop {
        let disk = Disk::copy_of(&store);
        assert!(is_older(&disk));
        let too_early = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let for_watcher = Arc::clone(&too_early);
        disk.watch(move |disk, access, name| {
            if name == WAL_NAME && access == Access::Write && is_older(&disk.after_kill()) {
                for_watcher.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        disk.inject(Fault::once(Access::Read, |name| name != HEADER_NAME, libc::EIO, failures));
        let opened = open(&disk);
        assert!(!too_early.load(std::sync::atomic::Ordering::Relaxed), "after {failures} reads");
        match opened {
            Err(_) => assert!(is_older(&disk), "after {failures} reads"),
            Ok(store) => {
                assert!(!is_older(&disk));
                let _ = store.close();
                if !disk.has_failed() {
                    break;
                }
            }
        }
        failures += 1;
    }
    assert!(failures > 10, "{failures}");
}

#[test]
fn a_store_of_an_earlier_version_without_its_database_stays_as_it_was() {
    let host = Host::plain();
    let tmp = host.root().parent().unwrap();
    shell(tmp, &format!("tar -xJf {}", fixtures().join("golden-1.tar.xz").display()));
    let (store, aside) = (host.store("db"), tmp.join("aside"));
    let header = fs::read(store.join(HEADER_NAME)).unwrap();
    fs::rename(store.join("meta.db"), &aside).unwrap();
    let dir = host.dir("mnt");
    let args = ["mount".as_ref(), "db".as_ref(), dir.as_os_str()];
    assert!(!crate::support::run(&mut host.command(&args)).status.success());
    assert!(fs::read(store.join(HEADER_NAME)).unwrap() == header);
    fs::rename(&aside, store.join("meta.db")).unwrap();
    host.mount("db", &[]);
    host.umount("db");
    host.check("db");
}
