//! Every kind of damage is found by `check`, and none of it is ever taken for data.

use crate::fuzz::targets::database::build;
use crate::fuzz::targets::memory::MemoryDir;
use crate::model::harness::new_disk;
use crate::support::{Host, errno, pattern, run, wait_until};
use larder::backing::{Dir, OsDir};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, SyncError, WriteMode};
use larder::meta::{ChunkRow, Dentry, Inspector, MetaFiles};
use larder::open_store::{OpenStore, StoreOptions};
use larder::store::{BLOCK_BYTES, BlockAddr, Header, data_offset, seal_offset};
use larder::volume::check::{CheckOptions, check};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A volume with a bit of everything, not mounted.
pub fn fill(host: Host) -> Host {
    let dir = host.volume("v", &["--size", "1G", "--inodes", "1000"]);
    fs::create_dir(dir.join("dir")).unwrap();
    fs::create_dir(dir.join("dir/sub")).unwrap();
    for i in 0..5 {
        fs::write(dir.join(format!("dir/f{i}")), pattern(200_000, i)).unwrap();
    }
    fs::hard_link(dir.join("dir/f0"), dir.join("link")).unwrap();
    std::os::unix::fs::symlink("target", dir.join("symlink")).unwrap();
    crate::support::shell(&dir, "setfattr -n user.a -v b dir/f1; cp --reflink=auto dir/f2 shared");
    host.umount("v");
    host.check("v");
    host
}

/// Such volumes: one plain, one encrypted.
fn hosts() -> [Host; 2] {
    Host::each_kind().map(fill)
}

/// Where block `block` of the file lies that is called `name`.
pub fn address(host: &Host, name: &str, block: u64) -> BlockAddr {
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(host.store("v")));
    let header = Header::read(&*dir).unwrap();
    let inspector = Inspector::open_with(dir, header.store, &host.keys("v")).unwrap();
    let row = inspector.volumes().unwrap().remove(0);
    let (mut ino, mut found) = (0, None);
    let named = |_, entry: Dentry| {
        ino = if *entry.name == *name.as_bytes() { entry.ino } else { ino };
        Ok(())
    };
    inspector.names(&row, named).unwrap();
    let chunk = |of, row| {
        let ChunkRow::Extents(idx, map) = row else { return Ok(()) };
        if (of, idx) == (ino, block / 256) {
            let map = map.unwrap();
            found = map.within((block % 256) as u32, (block % 256) as u32 + 1).next().unwrap().run();
        }
        Ok(())
    };
    inspector.chunks(&row, chunk).unwrap();
    found.unwrap().start
}

/// The faults that a check finds: kinds and messages.
fn faults(host: &Host) -> Vec<(String, String)> {
    let output = run(&mut host.command(&["check", "v", "--read-data", "--json"]));
    assert_eq!(output.status.code(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["clean"], false);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["faults"].as_array().unwrap().iter().map(|f| (text(&f["kind"]), text(&f["message"]))).collect()
}

#[track_caller]
fn must_find(host: &Host, kind: &str, text: &str) {
    let found = faults(host);
    assert!(
        found.iter().any(|(k, m)| k == kind && m.contains(text)),
        "no {kind} fault with {text:?} in {found:#?}"
    );
}

/// The only segment with blocks in it.
pub fn segment(host: &Host) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(host.store("v").join("segments")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

pub fn flip(path: &PathBuf, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

#[test]
fn a_damaged_block_is_an_io_error_on_its_range_and_nowhere_else() {
    for host in hosts() {
        a_damaged_block(&host);
    }
}

fn a_damaged_block(host: &Host) {
    let path = segment(host);
    // The block that holds the second 4 KiB of f3.
    let index = address(host, "f3", 1).index;
    flip(&path, data_offset(index) + 1234);
    must_find(host, "block", "/dir/f3, at byte 4096");
    let dir = host.mount("v", &[]);
    let file = File::open(dir.join("dir/f3")).unwrap();
    let mut bytes = [0u8; 4096];
    for at in (0..200_000u64).step_by(4096) {
        let result = file.read_at(&mut bytes, at);
        if at == 4096 {
            assert_eq!(errno(result), libc::EIO);
        } else {
            let count = result.unwrap();
            assert!(bytes[..count] == pattern(200_000, 3)[at as usize..at as usize + count]);
        }
    }
    for i in [0, 1, 2, 4] {
        assert!(
            fs::read(dir.join(format!("dir/f{i}"))).unwrap() == pattern(200_000, i),
            "the rest stays usable"
        );
    }
    let inspected = host.json(&["inspect", "v"]);
    assert_eq!(inspected["server"]["damaged_blocks"], 1);
    wait_until("it is noted", || host.json(&["inspect", "v"])["health"] == "degraded");
    let reason = host.json(&["inspect", "v"])["reasons"][0].clone();
    assert_eq!(reason["code"], "unreadable-blocks");
    // The names of an encrypted volume's files are not noted.
    let message = reason["message"].as_str().unwrap();
    match host.key_file() {
        None => assert!(message.contains("/dir/f3, at byte 4096"), "{reason}"),
        Some(_) => assert!(message.contains("block ") && !message.contains("f3,"), "{reason}"),
    }
    let log = fs::read_to_string(inspected["log"].as_str().unwrap()).unwrap();
    let line = format!("offset {}", data_offset(index));
    assert!(log.contains(path.file_name().unwrap().to_str().unwrap()) && log.contains(&line), "{log}");
    // Overwriting heals.
    drop(file);
    OpenOptions::new().write(true).open(dir.join("dir/f3")).unwrap().write_all_at(&[1; 4096], 4096).unwrap();
    host.umount("v");
    assert_eq!(
        host.json(&["inspect", "v"])["health"],
        "degraded",
        "what was not read again may still be damaged"
    );
    host.check("v");
    assert_eq!(host.json(&["inspect", "v"])["health"], "ok");
}

#[test]
fn a_damaged_seal_and_a_damaged_seal_page() {
    for host in hosts() {
        let path = segment(&host);
        flip(&path, seal_offset(10));
        must_find(&host, "block", "its seal does not open");
        flip(&path, seal_offset(10));
        host.check("v");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 4096], seal_offset(0)).unwrap();
        assert!(faults(&host).len() > 100);
        let dir = host.mount("v", &[]);
        assert_eq!(errno(fs::read(dir.join("dir/f0"))), libc::EIO);
        assert_eq!(fs::read_dir(dir.join("dir")).unwrap().count(), 6, "names and attributes need no block");
    }
}

#[test]
fn a_segment_with_a_damaged_header_is_found_and_its_blocks_are_served() {
    for host in hosts() {
        flip(&segment(&host), 33);
        must_find(&host, "segment", "header is damaged");
        let dir = host.mount("v", &[]);
        assert!(fs::read(dir.join("dir/f1")).unwrap() == pattern(200_000, 1));
    }
}

#[test]
fn a_missing_segment() {
    for host in hosts() {
        let path = segment(&host);
        fs::rename(&path, path.with_extension("away")).unwrap();
        must_find(&host, "segment", "is missing");
        let dir = host.mount("v", &[]);
        assert_eq!(errno(fs::read(dir.join("dir/f1"))), libc::EIO);
        fs::write(dir.join("new"), "works").unwrap();
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "works");
        host.umount("v");
        fs::rename(path.with_extension("away"), &path).unwrap();
        host.check("v");
        let dir = host.mount("v", &[]);
        assert!(fs::read(dir.join("dir/f1")).unwrap() == pattern(200_000, 1));
    }
}

#[test]
fn a_truncated_segment() {
    for host in hosts() {
        OpenOptions::new().write(true).open(segment(&host)).unwrap().set_len(data_offset(50)).unwrap();
        must_find(&host, "segment", "cut off");
        let dir = host.mount("v", &[]);
        let results: Vec<i32> = (0..5).map(|i| errno(fs::read(dir.join(format!("dir/f{i}"))))).collect();
        assert!(results.contains(&0) && results.contains(&libc::EIO), "{results:?}");
    }
}

#[test]
fn a_segment_of_another_store() {
    for (host, other) in hosts().into_iter().zip(hosts()) {
        fs::copy(segment(&other), segment(&host)).unwrap();
        must_find(&host, "segment", "belongs to another store");
        let dir = host.mount("v", &[]);
        assert_eq!(errno(fs::read(dir.join("dir/f1"))), libc::EIO);
    }
}

#[test]
fn swapped_blocks_are_found() {
    for host in hosts() {
        let path = segment(&host);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (mut a, mut b) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        let (mut seal_a, mut seal_b) = ([0; 16], [0; 16]);
        // Blocks with their seals: each is whole, and in the wrong place.
        file.read_exact_at(&mut a, data_offset(3)).unwrap();
        file.read_exact_at(&mut b, data_offset(4)).unwrap();
        file.read_exact_at(&mut seal_a, seal_offset(3)).unwrap();
        file.read_exact_at(&mut seal_b, seal_offset(4)).unwrap();
        file.write_all_at(&b, data_offset(3)).unwrap();
        file.write_all_at(&a, data_offset(4)).unwrap();
        file.write_all_at(&seal_b, seal_offset(3)).unwrap();
        file.write_all_at(&seal_a, seal_offset(4)).unwrap();
        must_find(&host, "block", "does not open");
    }
}

/// Changes the metadata behind larder's back, in a way that leaves every page whole. `kind` chooses between a plain and an
/// encrypted volume: what follows is the same, so they take turns.
fn with_sql(kind: usize, sql: &str) -> Host {
    let host = fill(if kind.is_multiple_of(2) { Host::plain() } else { Host::encrypted() });
    change_rows(&host, sql);
    host
}

fn change_rows(host: &Host, sql: &str) {
    let files = MetaFiles::with_keys(Arc::new(OsDir::new(host.store("v"))), false, host.keys("v")).unwrap();
    let conn = files.connect(false).unwrap();
    conn.pragma_update(None, "synchronous", "NORMAL").unwrap();
    conn.execute_batch(sql).unwrap();
    files.release(files.wal_mark()).unwrap();
    drop(conn);
}

/// The inode behind a path below the root, as SQL.
fn ino(name: &str) -> String {
    format!("(SELECT ino FROM dentry WHERE name = CAST('{name}' AS BLOB))")
}

#[test]
fn wrong_counts() {
    for (kind, (sql, text)) in [
        ("UPDATE volume SET used_blocks = used_blocks + 1".to_owned(), "counts"),
        ("UPDATE volume SET used_inodes = used_inodes - 1".to_owned(), "inodes, but has"),
        ("UPDATE volume SET used_meta = used_meta + 1".to_owned(), "bytes of metadata"),
        (format!("UPDATE inode SET nlink = 3 WHERE ino = {}", ino("f0")), "3 links and 2 names"),
        (format!("UPDATE inode SET nlink = 5 WHERE ino = {}", ino("dir")), "subdirectories"),
        (format!("UPDATE inode SET size = size + 1 WHERE ino = {}", ino("dir")), "counts its entries wrong"),
        (format!("UPDATE inode SET blocks = 1 WHERE ino = {}", ino("f1")), "counts 1 blocks"),
        ("UPDATE segment SET live = live - 1 WHERE live > 0".to_owned(), "live blocks, but has"),
        ("UPDATE share SET refs = 3".to_owned(), "counts 3 references"),
        ("DELETE FROM share".to_owned(), "not listed as shared"),
        (format!("UPDATE inode SET xattrs = 0 WHERE ino = {}", ino("f1")), "does not say so"),
        (format!("UPDATE inode SET xattrs = 3 WHERE ino = {}", ino("f1")), "of its extended attributes"),
    ]
    .into_iter()
    .enumerate()
    {
        must_find(&with_sql(kind, &sql), "count", text);
    }
}

#[test]
fn a_broken_tree() {
    let blob = |name: &str| format!("CAST('{name}' AS BLOB)");
    for (kind, (sql, text)) in [
        (format!("DELETE FROM inode WHERE ino = {}", ino("f1")), "does not exist"),
        (format!("DELETE FROM dentry WHERE name = {}", blob("sub")), "directory with 0 names"),
        (format!("UPDATE dentry SET kind = 4 WHERE name = {}", blob("f1")), "another type"),
        (
            format!("UPDATE dentry SET hash = hash + 1 WHERE name = {}", blob("f1")),
            "not where its name belongs",
        ),
        (format!("UPDATE dentry SET name = {} WHERE name = {}", blob("a/b"), blob("f1")), "impossible name"),
        (format!("UPDATE inode SET parent = {0} WHERE ino = {0}", ino("dir")), "no way to the root"),
        (
            format!("UPDATE inode SET parent = {} WHERE ino = {}", ino("sub"), ino("dir")),
            "no way to the root",
        ),
        ("UPDATE inode SET parent = 7 WHERE ino = 1".to_owned(), "no root directory"),
        (format!("UPDATE inode SET nlink = 0 WHERE ino = {}", ino("symlink")), "not listed as an orphan"),
        (format!("INSERT INTO orphan VALUES (1, {})", ino("f2")), "but is not one"),
        (format!("UPDATE inode SET target = NULL WHERE ino = {}", ino("symlink")), "wrong target"),
        (format!("UPDATE inode SET ino = 99999 WHERE ino = {}", ino("symlink")), "never given out"),
        ("INSERT INTO xattr VALUES (4242, CAST('user.a' AS BLOB), 1, NULL)".to_owned(), "such as 4242"),
        (
            format!("UPDATE inode SET size = {} WHERE ino = {}", 1u64 << 50, ino("f1")),
            "larger than a file can be",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        must_find(&with_sql(kind, &sql), "tree", text);
    }
}

#[test]
fn broken_extents() {
    let chunk = format!("WHERE ino = {}", ino("f1"));
    for (kind, (sql, text)) in [
        (format!("UPDATE chunk SET map = x'07' {chunk}"), "unknown kind"),
        (format!("UPDATE chunk SET map = x'0100' {chunk}"), "cut off"),
        (format!("UPDATE chunk SET map = x'01ff7f00' {chunk}"), "past its chunk"),
        (format!("UPDATE chunk SET map = x'0100000a8020a401' {chunk}"), "never written"),
        (format!("UPDATE inode SET size = 10 {chunk}"), "behind its end"),
        (format!("UPDATE chunk SET ino = {} {chunk}", ino("symlink")), "not a regular file"),
        (
            "INSERT INTO freed (runs) SELECT CAST(x'8008' || x'00' || x'01' AS BLOB)".to_owned(),
            "listed as free",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        must_find(&with_sql(kind, &sql), "extent", text);
    }
}

#[test]
fn a_damaged_row_is_an_error_for_its_file_only() {
    let host = with_sql(0, &format!("UPDATE chunk SET map = x'07' WHERE ino = {}", ino("f1")));
    let dir = host.mount("v", &[]);
    assert_eq!(errno(fs::read(dir.join("dir/f1"))), libc::EIO);
    assert!(fs::read(dir.join("dir/f4")).unwrap() == pattern(200_000, 4));
    let host = with_sql(1, &format!("UPDATE inode SET mtime_ns = 1000000000 WHERE ino = {}", ino("f1")));
    let dir = host.mount("v", &[]);
    assert_eq!(errno(fs::metadata(dir.join("dir/f1"))), libc::EIO);
    assert!(fs::read(dir.join("dir/f4")).unwrap() == pattern(200_000, 4));
}

/// It is found only after the end of the file is gone, which the kernel does not expect of a truncation that fails.
#[test]
fn nothing_of_what_a_failing_truncation_has_cut_off_is_shown_from_the_cache() {
    const CHUNKS: u64 = 3000;
    const MIB: u64 = 1 << 20;
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let file = File::create_new(dir.join("f")).unwrap();
    for chunk in 0..CHUNKS {
        file.write_all_at(&pattern(4096, chunk), chunk * MIB).unwrap();
    }
    drop(file);
    host.umount("v");
    change_rows(&host, &format!("UPDATE chunk SET map = x'0707' WHERE idx = 500 AND ino = {}", ino("f")));
    let dir = host.mount("v", &[]);
    let file = OpenOptions::new().read(true).write(true).open(dir.join("f")).unwrap();
    let last = |bytes: &mut [u8]| file.read_at(bytes, (CHUNKS - 1) * MIB).map(|_| ());
    let mut bytes = [0; 4096];
    last(&mut bytes).unwrap();
    assert!(bytes == *pattern(4096, CHUNKS - 1));
    assert_eq!(errno(file.set_len(5000)), libc::EIO);
    wait_until("the old pages are gone", || {
        let mut bytes = [0; 4096];
        last(&mut bytes).is_err() || bytes == [0; 4096]
    });
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    wait_until("the size is what is left", || {
        let size = fs::metadata(dir.join("f")).unwrap().len();
        size > 500 * MIB && size < 2000 * MIB
    });
    let mut bytes = [0; 4096];
    File::open(dir.join("f")).unwrap().read_exact_at(&mut bytes, 400 * MIB).unwrap();
    assert!(bytes == *pattern(4096, 400));
}

#[test]
fn another_stores_database_is_refused() {
    for (host, other) in hosts().into_iter().zip(hosts()) {
        fs::copy(other.store("v").join("meta.db"), host.store("v").join("meta.db")).unwrap();
        let line = host.fails(9, &["mount", "v", host.mountpoint("v").to_str().unwrap()]);
        // The keys of one store open nothing of another.
        let says = if host.keys("v").is_encrypted() { "is damaged" } else { "belongs to another store" };
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn no_sync_succeeds_after_one_that_failed() {
    let dir = MemoryDir::with_files(build::closed());
    let store = OpenStore::open(dir.clone(), None, StoreOptions::default()).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let file = fs.lookup(ROOT_INO, b"file").unwrap().ino;
    fs.write(file, 0, &[1; 4096], WriteMode::default()).unwrap();
    dir.fail_syncs(true);
    assert_eq!(store.commit_now(), Err(SyncError::Failed));
    // The disk seems to be well again, but what it lost it has lost.
    dir.fail_syncs(false);
    for _ in 0..3 {
        assert_eq!(store.commit_now(), Err(SyncError::Failed));
    }
    assert!(store.close().is_err());
}

/// What was in the commit that failed was in no commit, and not new either: a sync that was to reach the remote was said to have done so.
#[test]
fn a_copy_of_a_store_that_has_failed_is_not_up_to_date() {
    let dir = MemoryDir::with_files(build::closed());
    let options = StoreOptions { moments: true, ..StoreOptions::default() };
    let store = OpenStore::open(dir.clone(), None, options).unwrap();
    store.moment(false).unwrap().done();
    // It is answered before the thread that made it has ended its turn, which may change something.
    wait_until("nothing has changed", || !store.has_changes());
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let file = fs.lookup(ROOT_INO, b"file").unwrap().ino;
    fs.write(file, 0, &[1; 4096], WriteMode::default()).unwrap();
    assert!(store.has_changes());
    dir.fail_syncs(true);
    assert_eq!(store.commit_now(), Err(SyncError::Failed));
    assert!(store.has_changes());
    dir.fail_syncs(false);
    assert!(store.moment(false).is_err() && store.has_changes());
    assert!(store.close().is_err());
}

#[test]
fn a_database_cut_to_nothing_is_damage_and_its_wal_is_kept() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &[]);
        fs::write(dir.join("f"), pattern(100_000, 1)).unwrap();
        File::open(dir.join("f")).unwrap().sync_all().unwrap();
        host.kill_server("v");
        let (database, wal) = (host.store("v").join("meta.db"), host.store("v").join("meta.db-wal"));
        let (whole, kept) = (fs::read(&database).unwrap(), fs::read(&wal).unwrap());
        fs::write(&database, "").unwrap();
        host.fails(9, &["check", "v"]);
        assert!(fs::read(&wal).unwrap() == kept, "check changed the WAL");
        host.fails(9, &["mount", "v", dir.to_str().unwrap()]);
        assert!(fs::read(&wal).unwrap() == kept, "an open that failed changed the WAL");
        fs::write(&database, whole).unwrap();
        let dir = host.mount("v", &[]);
        assert!(fs::read(dir.join("f")).unwrap() == pattern(100_000, 1));
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn a_check_that_reads_blocks_is_not_in_the_way_of_the_wal() {
    let options = StoreOptions {
        cache_bytes: 0,
        commit_interval: std::time::Duration::from_secs(3600),
        ..StoreOptions::default()
    };
    let store = OpenStore::open(Arc::new(new_disk(None, None)), None, options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let ino = fs.make(ROOT_INO, b"f", &node, Caller::ROOT).unwrap().ino;
    fs.write(ino, 0, &pattern(5 << 20, 1), WriteMode::default()).unwrap();
    store.commit_now().unwrap();
    let held = store.hold_freed();
    let mut inspector = store.meta().inspector().unwrap();
    let mut started_over = Vec::new();
    let options = CheckOptions { read_data: true, online: true };
    // What is changed while blocks are read: the blocks that are checked are replaced.
    let report = check(&mut inspector, store.segments(), options, &mut |at| {
        if at.phase == "blocks" {
            fs.write(ino, at.done * 4096, &pattern(1 << 20, at.done), WriteMode::default()).unwrap();
            store.commit_now().unwrap();
            started_over.push(store.meta().cut_wal().unwrap());
        }
    });
    let report = report.unwrap();
    assert!(report.is_clean() && report.blocks_read == 1280, "{report:#?}");
    assert_eq!(started_over, vec![true; 5]);
    drop(held);
    fs.forget_all();
    store.close().unwrap();
}
