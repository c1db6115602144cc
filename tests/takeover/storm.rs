//! Threads that work without a break, and demand that every operation does exactly what it says, once.

use super::lose_server;
use crate::support::{Host, pattern, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Kills of a test.
const KILLS: usize = 25;

/// Makes, links, renames and removes names: each of these fails when it is carried out twice.
fn names(dir: &Path, done: &AtomicU64, stop: &AtomicBool) -> u64 {
    fs::create_dir(dir).unwrap();
    let at = |name: &str, i: u64| dir.join(format!("{name}{i}"));
    let mut i = 0;
    while !stop.load(Ordering::Relaxed) {
        fs::OpenOptions::new().write(true).create_new(true).open(at("file", i)).unwrap();
        fs::hard_link(at("file", i), at("link", i)).unwrap();
        fs::rename(at("file", i), at("moved", i)).unwrap();
        fs::create_dir(at("dir", i)).unwrap();
        std::os::unix::fs::symlink("target", at("symlink", i)).unwrap();
        fs::remove_file(at("link", i)).unwrap();
        fs::remove_file(at("symlink", i)).unwrap();
        fs::remove_dir(at("dir", i)).unwrap();
        assert_eq!(fs::symlink_metadata(at("link", i)).unwrap_err().kind(), ErrorKind::NotFound);
        i += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    i
}

/// Writes files of changing sizes in places, and reads them back; returns what must be there.
fn contents(dir: &Path, done: &AtomicU64, stop: &AtomicBool) -> BTreeMap<String, Vec<u8>> {
    fs::create_dir(dir).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for i in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("f{}", i % 40);
        let (from, data) = ((i as usize * 7919) % 50_000, pattern(1 + (i as usize * 997) % 30_000, i));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(&name))
            .unwrap();
        file.write_all_at(&data, from as u64).unwrap();
        let expected = files.entry(name).or_default();
        expected.resize(expected.len().max(from + data.len()), 0);
        expected[from..from + data.len()].copy_from_slice(&data);
        if i % 5 == 0 {
            file.sync_data().unwrap();
        }
        if i % 7 == 0 {
            expected.truncate(from + 1);
            file.set_len(from as u64 + 1).unwrap();
        }
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == *expected, "file {} after {i}", i % 40);
        done.fetch_add(1, Ordering::Relaxed);
    }
    files
}

/// `what` happens again and again while threads work.
fn storm(host: &Host, what: impl Fn(usize)) {
    let dir = host.volume("v", &[]);
    let (stop, done) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    std::thread::scope(|scope| {
        let (stop, dir, done) = (&stop, &dir, &done);
        let named: Vec<_> = (0..2)
            .map(|i| scope.spawn(move || names(&dir.join(format!("names{i}")), &done[i], stop)))
            .collect();
        let written: Vec<_> = (2..4)
            .map(|i| scope.spawn(move || contents(&dir.join(format!("contents{i}")), &done[i], stop)))
            .collect();
        let counts = || done.each_ref().map(|done| done.load(Ordering::Relaxed));
        for kill in 0..KILLS {
            let before = counts();
            wait_until("everyone gets something done", || {
                // A thread that has failed shows below.
                named.iter().any(|thread| thread.is_finished())
                    || written.iter().any(|thread| thread.is_finished())
                    || before.iter().zip(counts()).all(|(before, after)| after > *before)
            });
            std::thread::sleep(Duration::from_millis(kill as u64 * 13 % 50));
            what(kill);
        }
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = named.into_iter().map(|thread| thread.join().unwrap()).collect();
        let written: Vec<_> = written.into_iter().map(|thread| thread.join().unwrap()).collect();
        for (i, count) in counts.iter().enumerate() {
            assert_eq!(fs::read_dir(dir.join(format!("names{i}"))).unwrap().count() as u64, *count);
        }
        for _ in 0..2 {
            for (i, files) in written.iter().enumerate() {
                for (name, data) in files {
                    let found = fs::read(dir.join(format!("contents{}", i + 2)).join(name)).unwrap();
                    assert!(found == *data, "{name}");
                }
            }
            // The second time not from the kernel's cache.
            host.check("v");
            host.remount("v");
        }
    });
    host.umount("v");
    host.check("v");
}

#[test]
fn every_operation_is_carried_out_once_whenever_servers_die() {
    let host = Host::new();
    storm(&host, |_| lose_server(&host, "v"));
}

#[test]
fn also_on_an_encrypted_volume_that_gets_new_keys() {
    let host = Host::encrypted();
    storm(&host, |kill| {
        if kill == KILLS / 2 {
            let key = host.key_file().unwrap();
            host.ok(&["key", "reencrypt", "v", "--background", "--key-file", key.to_str().unwrap()]);
        }
        lose_server(&host, "v");
    });
}
