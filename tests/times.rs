//! Times: to the nanosecond, and when they change.

use crate::support::{Host, same_as_native, shell};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

fn set(path: &Path, atime: (i64, i64), mtime: (i64, i64)) {
    let time = |(sec, nsec)| TimeSpec::new(sec, nsec);
    utimensat(nix::fcntl::AT_FDCWD, path, &time(atime), &time(mtime), UtimensatFlags::NoFollowSymlink)
        .unwrap();
}

fn times(path: &Path) -> ((i64, i64), (i64, i64)) {
    let meta = fs::symlink_metadata(path).unwrap();
    ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
}

fn ctime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

#[test]
fn times_are_kept_to_the_nanosecond_far_back_and_forth() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    let values = [
        (0, 0),
        (1, 999_999_999),
        (-1, 1),
        (-2, 200_000_000),
        (i64::from(i32::MAX) + 10, 5),
        (-(1 << 40), 7),
        (1 << 40, 123_456_789),
        // The kernel itself takes the nanoseconds away from the very last second.
        (i64::MAX - 1, 999_999_999),
        (i64::MIN + 1, 1),
    ];
    std::os::unix::fs::symlink("x", dir.join("link")).unwrap();
    for (i, value) in values.iter().enumerate() {
        fs::write(dir.join(i.to_string()), "").unwrap();
        set(&dir.join(i.to_string()), *value, *value);
        set(&dir.join("link"), *value, (5, 6));
        assert_eq!(times(&dir.join("link")), (*value, (5, 6)));
    }
    for _ in 0..2 {
        for (i, value) in values.iter().enumerate() {
            assert_eq!(times(&dir.join(i.to_string())), (*value, *value));
        }
        dir = host.remount("v");
    }
}

/// Some of what programs do is stamped by the kernel, some by the server. make(1) compares the two.
#[test]
fn what_is_done_later_never_has_an_earlier_time() {
    for options in ["writeback=on", "writeback=off"] {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = host.mount("v", &["-o", options]);
        let native = host.dir("native").join("f");
        let mut last = ((0, 0), "nothing");
        let mut later = |what, time: (i64, i64)| {
            assert!(time >= last.0, "{what} has {time:?}, {} before it {:?} ({options})", last.1, last.0);
            last = (time, what);
        };
        let mtime = |path: &Path| times(path).1;
        for i in 0..300 {
            let path = |name: &str| dir.join(format!("{name}{i}"));
            // Since Linux 6.13, stamps of the host's file systems can make all others later.
            for _ in 0..2 {
                fs::write(&native, "x").unwrap();
                fs::metadata(&native).unwrap();
            }
            let early = File::create(path("early")).unwrap();
            later("a file that was made", mtime(&path("early")));
            let mut written = File::create(path("written")).unwrap();
            written.write_all(b"x").unwrap();
            later("a file that was written", mtime(&path("written")));
            fs::create_dir(path("dir")).unwrap();
            later("a directory", mtime(&path("dir")));
            written.write_all(b"y").unwrap();
            later("a file that was written again", mtime(&path("written")));
            fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o700)).unwrap();
            later("a directory with other permissions", ctime(&path("dir")));
            (&early).write_all(b"z").unwrap();
            drop(early);
            later("a file that was closed", mtime(&path("early")));
            fs::rename(path("early"), path("dir").join("x")).unwrap();
            later("a directory that was moved into", mtime(&path("dir")));
            later("what was moved", ctime(&path("dir").join("x")));
            written.set_len(7).unwrap();
            later("a file that was cut", mtime(&path("written")));
            let now = TimeSpec::UTIME_NOW;
            utimensat(nix::fcntl::AT_FDCWD, &path("dir"), &now, &now, UtimensatFlags::FollowSymlink).unwrap();
            later("what was touched", mtime(&path("dir")));
            written.write_all(b"x").unwrap();
            later("a file that was written once more", mtime(&path("written")));
            std::os::unix::fs::symlink("x", path("link")).unwrap();
            later("a link", mtime(&path("link")));
        }
    }
}

#[test]
fn the_same_operations_change_the_same_times_as_on_ext4() {
    same_as_native(|dir| {
        let at = |name: &str| dir.join(name);
        for name in ["d", "e"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("d/f"), "data").unwrap();
        let paths = ["d", "e", "d/f"];
        let snapshot = || paths.map(|p| (times(&at(p)).1, ctime(&at(p))));
        // Which of (mtime, ctime) of (d, e, f) an operation changes.
        let changed = |operation: &dyn Fn()| {
            std::thread::sleep(Duration::from_millis(30));
            let before = snapshot();
            operation();
            let after = snapshot();
            let mut out = String::new();
            for (b, a) in before.iter().zip(&after) {
                out.push(if a.0 == b.0 { '-' } else { 'm' });
                out.push(if a.1 == b.1 { '-' } else { 'c' });
            }
            out
        };
        vec![
            changed(&|| fs::write(at("d/f"), "more").unwrap()),
            changed(&|| {
                fs::set_permissions(at("d/f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            }),
            changed(&|| fs::hard_link(at("d/f"), at("e/l")).unwrap()),
            changed(&|| fs::remove_file(at("e/l")).unwrap()),
            changed(&|| fs::write(at("d/new"), "").unwrap()),
            changed(&|| fs::rename(at("d/new"), at("e/new")).unwrap()),
            changed(&|| fs::create_dir(at("d/sub")).unwrap()),
            changed(&|| fs::remove_dir(at("d/sub")).unwrap()),
            changed(&|| File::options().write(true).open(at("d/f")).unwrap().set_len(1).unwrap()),
            changed(&|| {
                fs::read(at("d/f")).unwrap();
            }),
            changed(&|| {
                fs::read_dir(at("d")).unwrap().count();
            }),
            changed(&|| set(&at("d/f"), (1, 2), (3, 4))),
            changed(&|| drop(shell(dir, "setfattr -n user.a -v b d/f"))),
            changed(&|| drop(shell(dir, "chown 1:1 d/f"))),
        ]
    });
}

/// Reads a file that no cache holds, and says whether its time of access changed.
fn read_changes_atime(host: &Host, options: &str, atime: (i64, i64), mtime: (i64, i64)) -> bool {
    let dir = host.mount("v", &["-o", options]);
    let path = dir.join("f");
    fs::write(&path, "data").unwrap();
    set(&path, atime, mtime);
    host.umount("v");
    let dir = host.mount("v", &["-o", options]);
    let mut text = String::new();
    File::open(dir.join("f")).unwrap().read_to_string(&mut text).unwrap();
    let changed = times(&dir.join("f")).0 != atime;
    host.umount("v");
    changed
}

#[test]
fn reading_changes_the_time_of_access_as_the_mount_says() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!(read_changes_atime(&host, "relatime", (100, 0), (200, 0)), "older than the last change");
    assert!(read_changes_atime(&host, "relatime", (now - 100_000, 0), (200, 0)), "older than a day");
    assert!(!read_changes_atime(&host, "noatime", (100, 0), (200, 0)));
    assert!(read_changes_atime(&host, "strictatime", (now + 10_000, 0), (200, 0)));
    // Newer than everything: nothing to note. (The change of the time itself is a change: so it must lie ahead.)
    assert!(!read_changes_atime(&host, "relatime", (now + 10_000, 0), (200, 0)));
}

/// Pages that the kernel wrote back could overtake what it said of the time they were changed at.
#[test]
fn the_time_of_a_cached_write_is_that_of_the_write() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mtime = |dir: &std::path::Path, i: u64| {
        std::fs::metadata(dir.join(format!("f{i}"))).unwrap().modified().unwrap()
    };
    let mut before = Vec::new();
    for i in 0..30 {
        std::fs::write(dir.join(format!("f{i}")), crate::support::pattern(3 << 20, i)).unwrap();
        before.push(mtime(&dir, i));
    }
    let dir = host.remount("v");
    for i in 0..30 {
        assert_eq!(mtime(&dir, i), before[i as usize], "f{i}");
    }
}

#[test]
fn the_time_of_birth_is_shown_and_stays() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let born = || shell(&dir, "stat -c %W file; stat -c %.W file");
    shell(&dir, "echo a > file");
    let first = born();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let seconds: u64 = first.lines().next().unwrap().parse().unwrap();
    if std::env::var("LARDER_TEST_TRANSPORT").is_ok_and(|transport| transport == "fuser") {
        // It does not know the request.
        assert_eq!(seconds, 0);
        return;
    }
    assert!(now.abs_diff(seconds) < 3600, "{first}");
    shell(&dir, "touch -d 2001-01-01 file; echo b >> file; mv file other; ln other file");
    assert_eq!(born(), first);
    host.remount("v");
    assert_eq!(born(), first);
}
