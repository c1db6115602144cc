//! What the kernel had taken from programs, and a server could not keep: the next server knows of it.

use super::lose_server;
use crate::support::{Host, errno, pattern, wait_for, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes until something says no.
fn fill(mut file: &File) {
    for _ in 0..40 {
        if file.write_all(&[1; 1 << 20]).is_err() {
            return;
        }
    }
}

#[track_caller]
fn is_refused(file: &File) {
    // The kernel has told the program before, and would not again.
    for _ in 0..2 {
        assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    }
    // Until it asks, the kernel takes what comes behind; the server does not.
    let _ = (&*file).write_all(b"behind what is lost");
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    wait_until("a write is refused", || errno((&*file).write_all(b"behind what is lost")) == libc::ENOSPC);
}

#[track_caller]
fn ends_where_its_data_ends(path: &Path) {
    let mut last = String::new();
    let so = wait_for(|| {
        let (found, size) = (fs::read(path).unwrap(), fs::metadata(path).unwrap().len());
        let other = found.iter().position(|byte| *byte != 1);
        last = format!("{size} bytes, {} read, other than written from {other:?} on", found.len());
        // All that the volume had room for, and what was appended since.
        found.len() as u64 == size && size <= (20 << 20) + 200 && other.is_none()
    });
    assert!(so, "the file does not end where its data ends: {last}");
}

#[test]
fn the_next_server_knows_what_was_lost() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "20M"]);
    let (path, file) = (dir.join("f"), File::create(dir.join("f")).unwrap());
    fill(&file);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    lose_server(&host, "v");
    // There is room again, but not for what was lost.
    host.ok(&["resize", "v", "--size", "100M"]);
    is_refused(&file);
    lose_server(&host, "v");
    is_refused(&file);
    host.ok(&["upgrade", "v"]);
    is_refused(&file);
    // Nobody else is meant.
    fs::write(dir.join("g"), "data").unwrap();
    File::open(dir.join("g")).unwrap().sync_all().unwrap();
    drop(file);
    ends_where_its_data_ends(&path);
    // Once it is forgotten, it is for good.
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    (&file).write_all(&[1; 100]).unwrap();
    file.sync_all().unwrap();
    lose_server(&host, "v");
    (&file).write_all(&[1; 100]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let size = fs::metadata(&path).unwrap().len();
    let dir = host.remount("v");
    let found = fs::read(dir.join("f")).unwrap();
    assert!(found.len() as u64 == size && found.iter().all(|byte| *byte == 1));
    host.umount("v");
    host.check("v");
}

/// Of what is not missing any more, the next server knows nothing.
#[test]
fn what_was_written_again_or_cut_is_not_missing_for_the_next_server() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "20M"]);
    let [again, cut] = ["again", "cut"].map(|name| File::create(dir.join(name)).unwrap());
    fs::write(dir.join("other"), pattern(18 << 20, 1)).unwrap();
    for file in [&again, &cut] {
        file.write_all_at(&pattern(5 << 20, 2), 0).unwrap();
        assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    }
    host.ok(&["resize", "v", "--size", "100M"]);
    cut.set_len(0).unwrap();
    wait_until("it is taken", || again.write_all_at(&pattern(5 << 20, 2), 0).is_ok());
    again.sync_all().unwrap();
    lose_server(&host, "v");
    for (file, at) in [(&again, 5 << 20), (&cut, 0)] {
        file.write_all_at(b"more", at).unwrap();
        file.sync_all().unwrap();
    }
    drop((again, cut));
    let dir = host.remount("v");
    assert_eq!(fs::metadata(dir.join("again")).unwrap().len(), (5 << 20) + 4);
    assert_eq!(fs::read(dir.join("cut")).unwrap(), b"more");
    host.umount("v");
    host.check("v");
}

/// Nobody wants what was cut off: it need not be written again for the file to be whole.
#[test]
fn what_was_cut_off_is_not_missing_for_this_server_or_the_next() {
    for dies in [false, true] {
        let host = Host::new();
        let dir = host.volume("v", &["--size", "20M"]);
        let file = File::create(dir.join("f")).unwrap();
        file.write_all_at(&pattern(17 << 20, 1), 0).unwrap();
        file.sync_all().unwrap();
        for (offset, mib) in [(17, 5), (40, 1)] {
            file.write_all_at(&pattern(mib << 20, offset), offset << 20).unwrap();
        }
        assert_eq!(errno(file.sync_all()), libc::ENOSPC);
        host.ok(&["resize", "v", "--size", "100M"]);
        file.set_len(22 << 20).unwrap();
        if dies {
            lose_server(&host, "v");
        }
        wait_until("it is taken", || file.write_all_at(&pattern(5 << 20, 17), 17 << 20).is_ok());
        file.sync_all().unwrap();
        drop(file);
        let found = fs::read(dir.join("f")).unwrap();
        assert!(found == [pattern(17 << 20, 1), pattern(5 << 20, 17)].concat());
        host.umount("v");
        host.check("v");
    }
}

/// A server dies before it has made anything of what it has taken: that the kernel forgot a file. Nobody says so again.
#[test]
fn what_was_missing_from_a_file_that_the_kernel_forgot_is_not_missing_for_the_next_server() {
    let host = Host::new();
    let dir = host.faulty_volume("abort=forget-lossy", &[], &[]);
    host.ok(&["resize", "v", "--size", "20M"]);
    let file = File::create(dir.join("f")).unwrap();
    fill(&file);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    drop(file);
    wait_until("another server takes over", || host.json(&["inspect", "v"])["server"]["takeovers"] == 1);
    host.ok(&["resize", "v", "--size", "100M"]);
    let file = fs::OpenOptions::new().append(true).open(dir.join("f")).unwrap();
    (&file).write_all(&[1; 100]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    ends_where_its_data_ends(&dir.join("f"));
    host.umount("v");
    host.check("v");
}

/// A rollback puts another state in the place of the file: nothing is missing from that.
#[test]
fn a_rollback_ends_it_for_the_next_server() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "20M"]);
    fs::write(dir.join("f"), "before").unwrap();
    host.ok(&["snapshot", "create", "v@s"]);
    let file = fs::OpenOptions::new().append(true).open(dir.join("f")).unwrap();
    fill(&file);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    host.ok(&["rollback", "--live", "v@s"]);
    drop(file);
    lose_server(&host, "v");
    let file = fs::OpenOptions::new().append(true).open(dir.join("f")).unwrap();
    (&file).write_all(b" after").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "before after");
    drop(file);
    host.umount("v");
    host.check("v");
}
