//! Hard links, symbolic links, and files without a name.

use crate::support::{Host, errno, pattern, same_as_native, shell};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};

#[test]
fn hard_links_are_one_file() {
    same_as_native(|dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, "one").unwrap();
        fs::hard_link(&a, &b).unwrap();
        fs::write(&b, "two").unwrap();
        let read = fs::read_to_string(&a).unwrap();
        let links = fs::metadata(&a).unwrap().nlink();
        let same = fs::metadata(&a).unwrap().ino() == fs::metadata(&b).unwrap().ino();
        fs::remove_file(&a).unwrap();
        let left = fs::metadata(&b).unwrap().nlink();
        fs::create_dir(dir.join("d")).unwrap();
        (
            read,
            links,
            same,
            left,
            errno(fs::hard_link(dir.join("d"), dir.join("e"))),
            errno(fs::hard_link(&b, dir.join("d"))),
        )
    });
}

#[test]
fn a_file_has_more_names_than_ext4_allows() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    for i in 1..70_000 {
        fs::hard_link(dir.join("f"), dir.join(i.to_string())).unwrap();
    }
    assert_eq!(fs::metadata(dir.join("69999")).unwrap().nlink(), 70_000);
    let dir = host.remount("v");
    for i in 1..70_000 {
        fs::remove_file(dir.join(i.to_string())).unwrap();
    }
    assert_eq!(fs::metadata(dir.join("f")).unwrap().nlink(), 1);
    host.umount("v");
    host.check("v");
}

#[test]
fn symbolic_links_hold_any_target() {
    same_as_native(|dir| {
        let long = "t".repeat(4095);
        let mut out = vec![
            errno(symlink(&long, dir.join("long"))),
            errno(symlink("t".repeat(4096), dir.join("longer"))),
        ];
        out.push(errno(symlink("", dir.join("empty"))));
        symlink("missing", dir.join("dangling")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        out.push(errno(fs::read(dir.join("dangling"))));
        out.push(errno(fs::read(dir.join("loop"))));
        let target = fs::read_link(dir.join("long")).unwrap();
        let size = fs::symlink_metadata(dir.join("dangling")).unwrap().len();
        (out, target, size)
    });
}

#[test]
fn a_file_without_a_name_lives_as_long_as_it_is_open() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    let data = pattern(3_000_000, 5);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("f")).unwrap();
    file.write_all(&data).unwrap();
    file.sync_all().unwrap();
    assert!(used() >= 3_000_000);
    fs::remove_file(dir.join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    host.check("v");
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert!(read[..data.len()] == data && read.ends_with(b"more"));
    drop(file);
    crate::support::wait_until("its space comes back", || used() == 0);
}

#[test]
fn a_replaced_file_lives_as_long_as_it_is_open() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("a"), "old").unwrap();
    fs::write(dir.join("b"), "new").unwrap();
    let mut old = fs::File::open(dir.join("a")).unwrap();
    fs::rename(dir.join("b"), dir.join("a")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::read_to_string(dir.join("a")).unwrap().as_str()), ("old", "new"));
}

#[test]
fn orphans_of_a_killed_server_are_reaped_at_the_next_mount() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mut open = Vec::new();
    for i in 0..20 {
        let path = dir.join(format!("f{i}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        file.write_all(&pattern(1_000_000, i)).unwrap();
        fs::remove_file(&path).unwrap();
        open.push(file);
    }
    open[0].sync_all().unwrap();
    host.kill_server("v");
    drop(open);
    // They are orphans of the last commit, and known as such.
    host.check("v");
    host.mount("v", &[]);
    crate::support::wait_until("they are reaped", || host.json(&["inspect", "v"])["used"] == 0);
    assert_eq!(host.json(&["inspect", "v"])["inodes_used"], 1);
    host.umount("v");
    host.check("v");
}

#[test]
fn a_large_file_is_removed_in_the_background() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(
        &dir,
        "for i in {0..3000}; do echo $i | dd of=big bs=1 seek=$((i * 1048576)) conv=notrunc status=none; done",
    );
    assert_eq!(host.json(&["inspect", "v"])["used"], 3001 * 4096);
    fs::remove_file(dir.join("big")).unwrap();
    crate::support::wait_until("its space comes back", || host.json(&["inspect", "v"])["used"] == 0);
    host.umount("v");
    host.check("v");
    let segments: Vec<_> = fs::read_dir(host.store("v").join("segments")).unwrap().collect();
    assert!(segments.len() <= 1, "{segments:?}");
}
