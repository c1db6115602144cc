//! What the kernel and programs keep of a mount stays good.

use super::lose_server;
use crate::support::{Background, Host, on_cpu, pattern, run, shell, wait_until};
use nix::dir::Dir;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

#[test]
fn open_and_unlinked_files_locks_and_working_directories_stay() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "100M"]);
    let at = |name: &str| dir.join(name);
    let data = pattern(3_000_000, 1);
    let open =
        |name: &str| fs::OpenOptions::new().read(true).append(true).create(true).open(at(name)).unwrap();
    let (mut kept, mut unlinked, mut replaced) = (open("kept"), open("unlinked"), open("replaced"));
    for file in [&mut kept, &mut unlinked, &mut replaced] {
        file.write_all(&data).unwrap();
    }
    fs::remove_file(at("unlinked")).unwrap();
    fs::write(at("new"), "new").unwrap();
    fs::rename(at("new"), at("replaced")).unwrap();
    fs::create_dir(at("gone")).unwrap();
    fs::create_dir(at("work")).unwrap();
    let lock = Flock::lock(open("locked"), FlockArg::LockExclusiveNonblock).unwrap();
    let mut worker = Command::new("bash")
        .args(["-c", "rmdir ../gone; until [ -e stop ]; do sleep 0.01; done; echo done > result"])
        .current_dir(at("work"))
        .spawn()
        .unwrap();
    wait_until("it works", || !at("gone").exists());
    let mut expected = data.clone();
    for round in 0..3 {
        lose_server(&host, "v");
        for file in [&mut kept, &mut unlinked, &mut replaced] {
            file.write_all(&[round]).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert_eq!(found.len(), expected.len() + 1);
            assert!(found[..expected.len()] == expected);
        }
        expected.push(round);
        assert_eq!((unlinked.metadata().unwrap().nlink(), kept.metadata().unwrap().nlink()), (0, 1));
        assert!(Flock::lock(open("locked"), FlockArg::LockExclusiveNonblock).is_err());
        assert_eq!(fs::read_to_string(at("replaced")).unwrap(), "new");
        host.check("v");
    }
    drop(lock);
    fs::write(at("work/stop"), "").unwrap();
    assert!(worker.wait().unwrap().success());
    assert_eq!(fs::read_to_string(at("work/result")).unwrap(), "done\n");
    // What was unlinked is freed when it is closed, by a server that never saw it unlinked.
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    let before = used();
    drop((unlinked, replaced));
    wait_until("both are freed", || used() + 6_000_000 <= before);
    drop(kept);
    host.umount("v");
    host.check("v");
}

fn unnamed(dir: &Path) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE);
    options.open(dir).unwrap()
}

#[test]
fn a_file_without_a_name_stays_and_can_get_one() {
    use std::os::fd::AsRawFd;
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    let (mut named, mut never) = (unnamed(&dir), unnamed(&dir));
    named.write_all(&pattern(2_000_000, 1)).unwrap();
    never.write_all(&pattern(2_000_000, 2)).unwrap();
    for _ in 0..2 {
        lose_server(&host, "v");
    }
    let link = |file: &fs::File, name: &str| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let follow = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            path.as_str(),
            nix::fcntl::AT_FDCWD,
            &dir.join(name),
            follow,
        )
    };
    link(&named, "named").unwrap();
    lose_server(&host, "v");
    assert!(fs::read(dir.join("named")).unwrap() == pattern(2_000_000, 1));
    assert_eq!((named.metadata().unwrap().nlink(), never.metadata().unwrap().nlink()), (1, 0));
    fs::remove_file(dir.join("named")).unwrap();
    lose_server(&host, "v");
    drop((named, never));
    wait_until("both are freed", || used() == 0);
    // One that is made while servers die is made once.
    let made = std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            (0..300)
                .map(|i| {
                    let file = unnamed(&dir);
                    if i % 3 == 0 {
                        link(&file, &format!("f{i}")).unwrap();
                    }
                })
                .count()
        });
        while !maker.is_finished() {
            lose_server(&host, "v");
        }
        maker.join().unwrap()
    });
    assert_eq!((made, fs::read_dir(&dir).unwrap().count()), (300, 100));
    host.umount("v");
    host.check("v");
}

#[test]
fn what_the_kernel_had_forgotten_is_freed() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    for i in 0..5 {
        fs::write(dir.join("f"), pattern(5_000_000, i)).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
        wait_until("it is freed", || used() == 0);
        // The log need not say that it was.
        lose_server(&host, "v");
        wait_until("it is freed again", || used() == 0);
    }
    host.umount("v");
    host.check("v");
}

/// Where its reader has changed nothing since, making the file is the last that this one did: whether the kernel was told of it shows in what was
/// done with it.
#[test]
fn what_the_kernel_had_forgotten_is_freed_although_nothing_was_done_since_it_was_made() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    for (i, is_named) in [true, false].into_iter().cycle().take(10).enumerate() {
        // Who reads requests does so on a CPU of its own, and those of its CPU first.
        on_cpu(0);
        let mut file = if is_named {
            fs::File::options().write(true).create_new(true).open(dir.join("f")).unwrap()
        } else {
            unnamed(&dir)
        };
        on_cpu(1);
        file.write_all(&pattern(4096, i as u64)).unwrap();
        file.sync_all().unwrap();
        if is_named {
            fs::remove_file(dir.join("f")).unwrap();
        }
        drop(file);
        wait_until("it is freed", || used() == 0);
        lose_server(&host, "v");
        wait_until("it is freed again", || used() == 0);
    }
    host.umount("v");
    host.check("v");
}

#[test]
fn mapped_pages_are_written_and_read() {
    use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let len = 8 << 20;
    let file = fs::File::options().read(true).write(true).create_new(true).open(dir.join("f")).unwrap();
    file.set_len(len as u64).unwrap();
    let size = std::num::NonZeroUsize::new(len).unwrap();
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[expect(unsafe_code, reason = "mapping a file is what this is about")]
    // SAFETY: the mapping lives until the end of the test, and nobody cuts the file.
    let (pages, map) = unsafe {
        let map = mmap(None, size, prot, MapFlags::MAP_SHARED, &file, 0).unwrap();
        (std::slice::from_raw_parts_mut(map.as_ptr().cast::<u8>(), len), map)
    };
    for round in 1..=5u8 {
        for page in pages.chunks_mut(4096).skip(usize::from(round)).step_by(3) {
            page.fill(round);
        }
        lose_server(&host, "v");
        #[expect(unsafe_code, reason = "see above")]
        // SAFETY: see above.
        unsafe { msync(map, len, MsFlags::MS_SYNC) }.unwrap();
        assert!(fs::read(dir.join("f")).unwrap() == *pages);
    }
    let expected = pages.to_vec();
    #[expect(unsafe_code, reason = "see above")]
    // SAFETY: nobody uses it any more.
    unsafe { munmap(map, len) }.unwrap();
    drop(file);
    let dir = host.remount("v");
    assert!(fs::read(dir.join("f")).unwrap() == expected);
    host.check("v");
}

#[test]
fn a_directory_is_listed_to_its_end_once() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    for i in 0..3000 {
        fs::write(dir.join(format!("{i}")), "").unwrap();
    }
    let mut listing = Dir::open(&dir, OFlag::O_RDONLY, Mode::empty()).unwrap();
    let mut names: Vec<String> = Vec::new();
    for (i, entry) in listing.iter().enumerate() {
        names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
        if i % 700 == 699 {
            lose_server(&host, "v");
        }
    }
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!((count, names.len()), (3002, 3002));
}

#[test]
fn snapshots_clones_and_binds_stay() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "then").unwrap();
    host.ok(&["snapshot", "create", "v@one"]);
    host.ok(&["clone", "v@one", "c"]);
    fs::write(dir.join("f"), "now").unwrap();
    let clone = host.mount("c", &[]);
    let bound = host.dir("bound");
    host.adopt(&bound);
    let done = run(Command::new("mount").arg("--bind").args([&dir, &bound]));
    assert!(done.status.success());
    let mut in_snapshot = fs::File::open(dir.join(".snapshots/one/f")).unwrap();
    for round in 0..3 {
        lose_server(&host, "v");
        let mut text = String::new();
        in_snapshot.seek(SeekFrom::Start(0)).unwrap();
        in_snapshot.read_to_string(&mut text).unwrap();
        assert_eq!(text, "then");
        assert_eq!(shell(&dir, "cat .snapshots/one/f f"), "thennow");
        fs::write(clone.join("g"), [round]).unwrap();
        assert_eq!(fs::read(bound.join("f")).unwrap(), b"now");
        // Another snapshot, and another view, after the take-over.
        let name = format!("v@more{round}");
        host.ok(&["snapshot", "create", &name]);
        assert_eq!(shell(&dir, &format!("cat .snapshots/more{round}/f")), "now");
    }
    host.ok(&["rollback", "v@one", "--live"]);
    assert_eq!(shell(&dir, "cat f"), "then");
    lose_server(&host, "v");
    assert_eq!(shell(&dir, "cat f; echo last >> f; cat f"), "thenthenlast\n");
    drop(in_snapshot);
    nix::mount::umount2(&bound, nix::mount::MntFlags::MNT_DETACH).unwrap();
    host.umount("c");
    host.umount("v");
    host.check("v");
}

#[test]
fn what_is_mounted_below_stays_through_a_take_over_after_a_rollback() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(&dir, "mkdir -p top work/deep; echo then > work/f");
    host.ok(&["snapshot", "create", "v@s"]);
    for _ in 0..2 {
        host.ok(&["rollback", "v@s", "--live"]);
        let top = dir.join("top");
        let mounted = run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&top));
        assert!(mounted.status.success());
        host.adopt(&top);
        fs::write(top.join("in-memory"), "here").unwrap();
        let mut open = fs::File::open(dir.join("work/f")).unwrap();
        for _ in 0..2 {
            lose_server(&host, "v");
            assert_eq!(fs::read_to_string(top.join("in-memory")).unwrap(), "here");
            let mut text = String::new();
            open.seek(SeekFrom::Start(0)).unwrap();
            open.read_to_string(&mut text).unwrap();
            assert_eq!(text, "then\n");
        }
        nix::mount::umount2(&top, nix::mount::MntFlags::empty()).unwrap();
    }
    host.umount("v");
    host.check("v");
}

/// The holder knows that the volume is about to be rolled back, and then it is not.
#[test]
fn open_files_stay_when_a_server_dies_before_it_has_rolled_back() {
    open_files_stay(|_| {});
}

/// Each gives the volume another head, as a rollback does.
#[test]
fn open_files_stay_when_snapshots_come_before_a_rollback_that_does_not() {
    open_files_stay(|host| {
        host.ok(&["snapshot", "create", "v@meanwhile"]);
        host.ok(&["clone", "v", "clone"]);
    });
}

/// A server dies before it has rolled back, and after `meanwhile`.
fn open_files_stay(meanwhile: impl FnOnce(&Host)) {
    let host = Host::new();
    let dir = host.faulty_volume("hang=rollback", &[], &[]);
    fs::write(dir.join("f"), "in the snapshot").unwrap();
    host.ok(&["snapshot", "create", "v@s"]);
    fs::write(dir.join("f"), "since").unwrap();
    let mut open = fs::File::options().read(true).append(true).open(dir.join("f")).unwrap();
    // A snapshot waits for what the kernel has yet to write back, which waits for the rollback.
    shell(&dir, "sync .");
    open.sync_all().unwrap();
    let log = host.json(&["inspect", "v"])["log"].as_str().unwrap().to_owned();
    let rollback = Background::start(&mut host.command(&["rollback", "--live", "v@s"]));
    wait_until("it is under way", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("a fault was asked for"))
    });
    // It would ask the next server.
    drop(rollback);
    meanwhile(&host);
    lose_server(&host, "v");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "since");
    open.write_all(b" then").unwrap();
    open.sync_all().unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "since then");
    drop(open);
    host.umount("v");
    host.check("v");
}

#[test]
fn the_number_of_blocks_that_is_shown_is_right_after_a_take_over() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mut file = fs::File::create(dir.join("f")).unwrap();
    for i in 1..=10u64 {
        file.write_all(&pattern(1 << 20, i)).unwrap();
        file.sync_all().unwrap();
        // The kernel keeps what it is told now, and the server dies before it says that there is more.
        file.metadata().unwrap();
        file.write_all(&pattern(1 << 20, i)).unwrap();
        file.sync_data().unwrap();
        lose_server(&host, "v");
        wait_until("all blocks are counted", || file.metadata().unwrap().blocks() == i * 2 * 2048);
    }
}
