//! FUSE over io_uring (`transport=uring`). It is for the whole machine that the kernel has it turned on, so no test does that:
//! `scripts/test` does, and sets `LARDER_TEST_URING=required`. Where it is off and need not be on, these tests say so and prove nothing.

use crate::aio::{Aligned, Queue};
use crate::support::{Host, errno, on_cpu, open_direct, pattern, run, shell, wait_until};
use nix::unistd::{Whence, lseek};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether the kernel has FUSE over io_uring, and it is on; if it is not, says so.
pub fn is_on() -> bool {
    let now = fs::read_to_string(PARAMETER);
    let is_on = now.as_deref().is_ok_and(|now| ["Y", "1"].contains(&now.trim()));
    let is_required = std::env::var("LARDER_TEST_URING").is_ok_and(|wanted| wanted == "required");
    assert!(is_on || !is_required, "FUSE over io_uring is not on: {PARAMETER}: {now:?}");
    if !is_on {
        eprintln!(
            "NOT TESTED: FUSE over io_uring, which is not on ({PARAMETER}: {now:?}); scripts/test turns it on"
        );
    }
    is_on
}

/// The transports that all promises hold with.
pub fn transports() -> Vec<&'static str> {
    ["dev", "fuser"].into_iter().chain(is_on().then_some("uring")).collect()
}

fn mount(host: &Host, options: &str) -> PathBuf {
    host.mount("v", &["-o", &format!("transport=uring,{options}")])
}

/// `v`, mounted by rings; `None` where that cannot be.
fn volume() -> Option<(Host, PathBuf)> {
    is_on().then(|| {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = mount(&host, "writeback=on");
        (host, dir)
    })
}

/// All entries of a queue can be taken by requests that wait for the kernel to write back, which takes entries.
#[test]
fn more_seeks_than_there_are_entries_do_not_wait_for_what_they_keep_away() {
    const CALLERS: usize = 160;
    let Some((host, dir)) = volume() else { return };
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (dir, barrier) = (&dir, &barrier);
            scope.spawn(move || {
                on_cpu(caller % 2);
                let path = dir.join(format!("f{caller}"));
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
                let file = file.unwrap();
                for round in 0..3u64 {
                    let offset = (1 + round) << 20;
                    file.write_all_at(&pattern(300_000, round), offset).unwrap();
                    barrier.wait();
                    if caller % 8 == 0 {
                        file.sync_all().unwrap();
                    }
                    let found = lseek(&file, (offset - 4096) as i64, Whence::SeekData).unwrap();
                    // Either where data begins, or, if too many ask, all is data. Never that there is none.
                    assert!([offset - 4096, offset].contains(&(found as u64)), "{found}");
                    let end = lseek(&file, offset as i64, Whence::SeekHole).unwrap();
                    assert_eq!(end as u64, offset + 300_000);
                    let behind = lseek(&file, end, Whence::SeekData);
                    assert_eq!(behind, Err(nix::errno::Errno::ENXIO));
                }
            });
        }
    });
    host.umount("v");
    host.check("v");
}

/// As many as may wait are answered as by `/dev/fuse`.
#[test]
fn a_seek_finds_the_hole_before_what_is_not_written_back_yet() {
    let Some((host, dir)) = volume() else { return };
    let file = File::options().read(true).write(true).create_new(true).open(dir.join("f")).unwrap();
    for round in 1..20u64 {
        file.write_all_at(b"data", round << 20).unwrap();
        let found = lseek(&file, ((round - 1) << 20) as i64 + 4096, Whence::SeekData).unwrap();
        assert_eq!(found as u64, round << 20);
    }
    drop(file);
    host.umount("v");
    host.check("v");
}

/// Direct writes of many wait for pages, which wait for reads that need entries. That another file is read meanwhile does not mean that
/// they are not stuck.
#[test]
fn direct_writes_that_take_all_entries_do_not_stop_readers() {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;
    const DEPTH: usize = 160;
    let Some((host, dir)) = volume() else { return };
    let path = dir.join("f");
    fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
    fs::write(dir.join("other"), vec![1; BLOCK * BLOCKS]).unwrap();
    let paths = [dir.join("other"), path.clone(), path.clone()];
    let file = open_direct(&path);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let queue = Queue::new(DEPTH as u32);
    let mut buffers: Vec<Aligned> = (0..DEPTH).map(|_| Aligned::new(BLOCK)).collect();
    std::thread::scope(|scope| {
        for path in &paths {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let file = File::open(path).unwrap();
                    let mut bytes = vec![0; BLOCK * BLOCKS];
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                    nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
                }
            });
        }
        for round in 1..=8u8 {
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer.bytes().fill(round);
                queue.write(&file, buffer, i * BLOCK);
            }
            for _ in 0..DEPTH {
                assert_eq!(queue.wait(), BLOCK as i64);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(file);
    host.umount("v");
    host.check("v");
}

/// Files of several threads by all ways of writing, and what is found after a remount by another transport.
#[test]
fn what_is_written_by_rings_is_there() {
    if !is_on() {
        return;
    }
    for options in ["writeback=on", "writeback=off", "writeback=on,sched=fifo,awake=off"] {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = mount(&host, options);
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let dir = &dir;
                scope.spawn(move || {
                    let sub = dir.join(format!("d{thread}"));
                    fs::create_dir(&sub).unwrap();
                    for i in 0..60u64 {
                        let path = sub.join(format!("f{i}"));
                        let bytes = pattern((i as usize * 7919) % 90_000, thread * 100 + i);
                        let mut file = File::create(&path).unwrap();
                        file.write_all(&bytes).unwrap();
                        if i % 7 == 0 {
                            file.sync_all().unwrap();
                        }
                        drop(file);
                        fs::rename(&path, sub.join(format!("g{i}"))).unwrap();
                        if i % 5 == 0 {
                            fs::remove_file(sub.join(format!("g{i}"))).unwrap();
                        }
                    }
                    let mut direct = Aligned::new(1 << 20);
                    direct.bytes().copy_from_slice(&pattern(1 << 20, thread));
                    let file = open_direct(&sub.join("direct"));
                    file.write_all_at(direct.bytes(), 0).unwrap();
                    file.write_all_at(direct.bytes(), 1 << 20).unwrap();
                });
            }
        });
        // Through a shared mapping.
        let mapped = shell(
            &dir,
            "truncate -s 3M m; python3 -c 'import mmap; f=open(\"m\",\"r+b\"); m=mmap.mmap(f.fileno(),0); \
             m[1000000:1000004]=b\"here\"; m.flush(); m[2000000:2000004]=b\"more\"; m.close()'; \
             tail -c +1000001 m | head -c 4; tail -c +2000001 m | head -c 4",
        );
        assert_eq!(mapped, "heremore");
        host.umount("v");
        host.check("v");
        let dir = host.mount("v", &["-o", "transport=dev"]);
        for thread in 0..6u64 {
            for i in 0..60u64 {
                let read = fs::read(dir.join(format!("d{thread}/g{i}")));
                if i % 5 == 0 {
                    assert_eq!(errno(read), libc::ENOENT);
                } else {
                    let expected = pattern((i as usize * 7919) % 90_000, thread * 100 + i);
                    assert!(read.unwrap() == expected, "{options}: d{thread}/g{i}");
                }
            }
            let expected = [pattern(1 << 20, thread), pattern(1 << 20, thread)].concat();
            assert!(fs::read(dir.join(format!("d{thread}/direct"))).unwrap() == expected);
        }
        host.umount("v");
    }
}

/// Each queue has so many entries; those who come when all are taken have their turn.
#[test]
fn more_syncs_than_there_are_entries_all_come_to_their_end() {
    const CALLERS: usize = 100;
    if !is_on() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "v"]);
    for options in ["writeback=on", "sync"] {
        let dir = mount(&host, options);
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let dir = &dir;
                scope.spawn(move || {
                    on_cpu(0);
                    let mut file = File::create(dir.join(format!("f{caller}"))).unwrap();
                    for _ in 0..3 {
                        file.write_all(b"data").unwrap();
                        file.sync_all().unwrap();
                    }
                });
            }
        });
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn the_mount_dies_with_its_server_and_nobody_goes_on_waiting() {
    let Some((host, dir)) = volume() else { return };
    let mut open = File::create(dir.join("open")).unwrap();
    open.write_all(b"data").unwrap();
    open.sync_all().unwrap();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                let change = || -> std::io::Result<()> {
                    fs::write(dir.join(format!("begun-{caller}")), "")?;
                    for i in 0..1_000_000 {
                        let path = dir.join(format!("c{caller}-{i}"));
                        let mut file = File::create(&path)?;
                        file.write_all(&[1; 10_000])?;
                        file.sync_all()?;
                        fs::remove_file(path)?;
                    }
                    Ok(())
                };
                change().unwrap_err();
            });
        }
        wait_until("they change files", || fs::metadata(dir.join("begun-7")).is_ok());
        host.kill_server("v");
    });
    let told = errno(fs::metadata(dir.join("never-asked-for")));
    assert_eq!(told, libc::ENOTCONN);
    assert!(host.ok(&["ls"]).contains("(dead)"));
    run(Command::new("umount").arg("-l").arg(&dir));
    host.check("v");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read(dir.join("open")).unwrap(), b"data");
    host.umount("v");
}

/// A mount that goes while requests are in flight, also by the kernel's abort, leaves no thread and no server behind.
#[test]
fn an_unmount_in_the_middle_of_everything_ends_the_server() {
    if !is_on() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "v"]);
    for _ in 0..3 {
        let dir = mount(&host, "writeback=on");
        std::thread::scope(|scope| {
            for caller in 0..6 {
                let dir = &dir;
                scope.spawn(move || {
                    let change = || -> std::io::Result<()> {
                        for i in 0..1_000_000 {
                            let mut file = File::create(dir.join(format!("c{caller}-{i}")))?;
                            file.write_all(&[1; 300_000])?;
                            let _ = lseek(&file, 0, Whence::SeekHole);
                        }
                        Ok(())
                    };
                    change().unwrap_err();
                });
            }
            wait_until("they write", || fs::metadata(dir.join("c5-0")).is_ok());
            let device = shell(&dir, "mountpoint -d .");
            let number = device.trim().split(':').next_back().unwrap().to_owned();
            let abort = format!("/sys/fs/fuse/connections/{number}/abort");
            if !fs::exists(&abort).unwrap() {
                run(Command::new("mount").args(["-t", "fusectl", "none", "/sys/fs/fuse/connections"]));
            }
            fs::write(abort, "1").unwrap();
        });
        run(Command::new("umount").arg("-l").arg(&dir));
        wait_until("the server ends", || host.servers().is_empty());
        host.check("v");
    }
}

/// Mounts by rings, with servers that have a fault.
fn with_fault(host: &Host, fault: &str, options: &str) -> PathBuf {
    let options = format!("transport=uring,{options}");
    host.faulty_volume(fault, &[("LARDER_WATCHDOG", "3")], &["-o", &options])
}

/// Does something that fails or not, on a CPU, in the background.
fn on_cpu_later(
    cpu: usize,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::thread::JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        on_cpu(cpu);
        work()
    })
}

/// Makes a link in a directory, which hangs where `hang=stuck` is asked for: not with the lookup of its name, but when it is made. The
/// kernel keeps that directory to it.
fn get_stuck_on(cpu: usize, parent: PathBuf) -> std::thread::JoinHandle<std::io::Result<()>> {
    on_cpu_later(cpu, move || std::os::unix::fs::symlink("stuck", parent.join("link")))
}

fn log_of(host: &Host) -> impl Fn() -> String {
    let log = host.json(&["inspect", "v"])["log"].as_str().unwrap().to_owned();
    move || fs::read_to_string(&log).unwrap()
}

#[test]
fn a_request_that_ends_the_server_is_named_and_nothing_else_is_done() {
    if !is_on() {
        return;
    }
    let host = Host::new();
    let dir = with_fault(&host, "abort=deadly", "rw");
    fs::write(dir.join("f"), "data").unwrap();
    File::open(dir.join("f")).unwrap().sync_all().unwrap();
    let told = errno(fs::create_dir(dir.join("deadly")));
    assert!([libc::ENOTCONN, libc::ECONNABORTED].contains(&told), "{told}");
    wait_until("nobody takes over", || host.servers().is_empty());
    run(Command::new("umount").arg("-l").arg(&dir));
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"data");
    host.umount("v");
    host.check("v");
}

/// A request that hangs in another thread than that of a queue is noticed, and the server goes on: nothing could take over from it.
#[test]
fn a_server_of_which_a_request_hangs_is_left_alone_and_serves_the_others() {
    if !is_on() {
        return;
    }
    let host = Host::new();
    let dir = with_fault(&host, "hang=@123456789", "rw");
    let path = dir.join("f");
    fs::write(&path, "data").unwrap();
    let (server, logged) = (host.server("v"), log_of(&host));
    let seeks = std::thread::spawn(move || {
        let file = File::open(path).unwrap();
        lseek(&file, 123_456_789, Whence::SeekData)
    });
    wait_until("it is noticed", || logged().contains("a request has come no further for"));
    wait_until("it is left alone", || logged().contains("the server is left alone"));
    for i in 0..100 {
        fs::write(dir.join(format!("g{i}")), "data").unwrap();
    }
    assert_eq!(host.server("v"), server);
    host.kill_server("v");
    assert!(seeks.join().unwrap().is_err());
    run(Command::new("umount").arg("-l").arg(&dir));
    host.check("v");
}

/// What hangs in the thread of a queue keeps all callers on its CPU waiting, and no others; and all are free once the server is killed.
#[test]
fn a_request_that_hangs_keeps_the_callers_on_its_cpu_until_the_server_is_killed() {
    if !is_on() {
        return;
    }
    let host = Host::new();
    let dir = with_fault(&host, "hang=stuck", "rw");
    let (server, logged) = (host.server("v"), log_of(&host));
    let parent = |name: String| {
        let parent = dir.join(name);
        fs::create_dir(&parent).unwrap();
        parent
    };
    let parents: Vec<PathBuf> = (0..5).map(|i| parent(format!("parent-{i}"))).collect();
    let stuck = get_stuck_on(0, parents[4].clone());
    wait_until("it hangs", || logged().contains("a fault was asked for"));
    let same_cpu: Vec<_> = (0..4)
        .map(|i| {
            let path = parents[i].join("new");
            on_cpu_later(0, || fs::create_dir(path))
        })
        .collect();
    for i in 0..100 {
        let path = dir.join(format!("other-{i}"));
        on_cpu_later(1, || fs::create_dir(path)).join().unwrap().unwrap();
    }
    wait_until("it is noticed, and left alone", || logged().contains("the server is left alone"));
    assert_eq!(host.server("v"), server);
    host.kill_server("v");
    for waiting in same_cpu.into_iter().chain([stuck]) {
        assert!(waiting.join().unwrap().is_err(), "nobody can have served it");
    }
    run(Command::new("umount").arg("-l").arg(&dir));
    host.check("v");
}

/// What waits for a disk by what it is does so in no thread of a queue.
#[test]
fn changes_of_names_that_are_synced_keep_nobody_waiting() {
    if !is_on() {
        return;
    }
    for options in ["dirsync", "sync"] {
        let host = Host::new();
        let dir = with_fault(&host, "hang=stuck", options);
        let logged = log_of(&host);
        let stuck: Vec<_> = (0..2)
            .map(|cpu| {
                let parent = dir.join(format!("parent-{cpu}"));
                fs::create_dir(&parent).unwrap();
                get_stuck_on(cpu, parent)
            })
            .collect();
        wait_until("both hang", || logged().matches("a fault was asked for").count() == 2);
        for cpu in [0, 1] {
            for i in 0..20 {
                let path = dir.join(format!("d{cpu}-{i}"));
                on_cpu_later(cpu, || fs::create_dir(path)).join().unwrap().unwrap();
            }
        }
        host.kill_server("v");
        assert!(stuck.into_iter().all(|stuck| stuck.join().unwrap().is_err()));
        run(Command::new("umount").arg("-l").arg(&dir));
        host.check("v");
    }
}

/// Where it cannot be, that is said before anything is mounted or started.
#[test]
fn a_kernel_without_it_is_refused_with_what_to_do() {
    for (without, what) in [
        ("uring", "transport=uring needs Linux 6.14 or later"),
        ("uring-on", "echo Y > /sys/module/fuse/parameters/enable_uring"),
    ] {
        if without == "uring-on" && !fs::exists(PARAMETER).unwrap() {
            eprintln!("NOT TESTED: that it is turned off ({PARAMETER} is not there)");
            continue;
        }
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = host.make_mountpoint("v");
        let args = ["mount", "v", dir.to_str().unwrap(), "-o", "transport=uring,rw"];
        let output = run(host.command(&args).env("LARDER_KERNEL_WITHOUT", without));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(8), "{said}");
        assert!(said.contains(what) && said.trim_end().lines().count() == 1, "{said}");
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.to_str().unwrap()));
        assert!(host.servers().is_empty());
        host.mount("v", &["-o", "transport=dev"]);
        host.umount("v");
    }
}

/// A remount cannot change how requests come, and does not say that it did.
#[test]
fn a_remount_leaves_the_rings() {
    let Some((host, dir)) = volume() else { return };
    fs::write(dir.join("f"), "data").unwrap();
    host.ok(&["mount", "-o", "remount,ro,transport=dev", "v", dir.to_str().unwrap()]);
    assert_eq!(errno(fs::write(dir.join("g"), "data")), libc::EROFS);
    let inspected = host.json(&["inspect", "v"]).to_string();
    assert!(inspected.contains("transport=uring") && !inspected.contains("transport=dev"), "{inspected}");
    host.umount("v");
    host.check("v");
}
