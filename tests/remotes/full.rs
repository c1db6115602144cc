//! A host whose disk is full while its volume has not been shipped.

use super::life::{Way, runs};
use super::mounted::{remote, url};
use crate::bad_input::SmallDisk;
use crate::support::{Background, Host, pattern, shell, state, wait_until};
use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

const M: usize = 1 << 20;

/// Nothing of it can go from here while it is nowhere else: programs are told that there is no room, and what they were told is done is shipped
/// when it can be, also while there is none.
#[test]
fn a_full_disk_under_an_outage_tells_the_truth_and_is_shipped_after_it() {
    let (plain, b) = (Host::plain(), Host::plain());
    let objects = plain.dir("objects");
    let way = Way::new(&plain, &objects);
    let disk = SmallDisk::new(72);
    let a = Host::with_root(disk.path().join("root"));
    a.ok(&["create", "db", "--remote", &way.url(), "--ship", "1", "--local-size", "16M"]);
    let here = a.mount("db", &["-o", "writeback=off"]);
    fs::write(here.join("first"), pattern(8 * M, 1)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    way.cut();
    // As many as there is room for. What is said to be there is there.
    let mut kept = Vec::new();
    for i in 0..200 {
        let name = format!("f{i}");
        let written = fs::write(here.join(&name), pattern(M, 10 + i))
            .and_then(|()| File::open(here.join(&name))?.sync_all());
        match written {
            Ok(()) => kept.push(i),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
                break;
            }
        }
    }
    assert!((10..120).contains(&kept.len()), "{}", kept.len());
    // And somebody else takes the rest.
    shell(
        disk.path(),
        "dd if=/dev/zero of=filler bs=1M 2>/dev/null || true; dd if=/dev/zero of=filler2 bs=4k 2>/dev/null || true",
    );
    let e = fs::write(here.join("more"), pattern(4 * M, 2)).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
    wait_until("it is said", || remote(&a, "db")["trouble"].is_string());
    let is_right = |dir: &std::path::Path| {
        kept.iter().all(|i| fs::read(dir.join(format!("f{i}"))).unwrap() == pattern(M, 10 + i))
            && fs::read(dir.join("first")).unwrap() == pattern(8 * M, 1)
    };
    assert!(is_right(&here));
    fs::remove_file(here.join("more")).unwrap();
    way.mend();
    // Although the disk is as full as ever.
    a.ok(&["remote", "sync", "db"]);
    assert!(is_right(&here));
    // What goes from here makes room.
    wait_until("there is room", || fs::write(here.join("again"), pattern(4 * M, 3)).is_ok());
    a.ok(&["remote", "sync", "db"]);
    let then = state(&here);
    a.umount("db");
    a.end_servers(Duration::from_secs(10));
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), then);
}

/// With `durability=remote`, a sync on a full disk waits for the remote or fails, and is not half of either.
#[test]
fn what_was_synced_on_a_full_disk_is_found_elsewhere() {
    let (plain, b) = (Host::plain(), Host::plain());
    let objects = plain.dir("objects");
    let way = Way::new(&plain, &objects);
    let disk = SmallDisk::new(96);
    let a = Host::with_root(disk.path().join("root"));
    a.ok(&["create", "db", "--remote", &way.url(), "--durability", "remote"]);
    let here = a.mount("db", &["-o", "writeback=off"]);
    a.ok(&["remote", "sync", "db"]);
    let (done, file) = (plain.dir("done").join("done"), here.join("log"));
    fs::write(&done, "").unwrap();
    let script = format!(
        "i=0; while dd if=/dev/zero bs=200K count=1 oflag=append conv=notrunc,fsync of={} 2>/dev/null; do i=$((i + 1)); echo $i >> {}; done",
        file.display(),
        done.display()
    );
    let mut writer = Background::start(Command::new("sh").args(["-c", &script]));
    let count = || fs::read_to_string(&done).unwrap().lines().count() as u64;
    wait_until("it has begun", || count() > 20);
    way.cut();
    shell(
        disk.path(),
        "dd if=/dev/zero of=filler bs=1M 2>/dev/null || true; dd if=/dev/zero of=filler2 bs=4k 2>/dev/null || true",
    );
    std::thread::sleep(Duration::from_secs(1));
    let before = count();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(), before, "nothing is synced there");
    way.mend();
    wait_until("it is full, or goes on", || !runs(&mut writer) || count() > before + 5);
    a.kill_server("db");
    let _ = writer.0.wait();
    let synced = count();
    b.ok(&["attach", "--steal", &url(&objects)]);
    let there = b.mount("db", &[]);
    assert!(fs::metadata(there.join("log")).unwrap().len() >= synced * 200 * 1024);
    a.end_servers(Duration::from_secs(10));
}
