//! FUSE over io_uring (`transport=uring`). It is turned on for as long as a test needs it, and off again; where the kernel does not
//! have it, these tests say so and prove nothing.

use crate::aio::{Aligned, Queue};
use crate::support::{Host, errno, open_direct, pattern, run, shell, wait_until};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, Whence, lseek};
use parking_lot::{Condvar, Mutex};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Who wants it to be on, in this process; other processes wait for the lock.
struct Wanted {
    count: usize,
    before: Option<(String, Flock<File>)>,
}

static WANTED: Mutex<Wanted> = Mutex::new(Wanted { count: 0, before: None });
static LET_GO: Condvar = Condvar::new();

fn lock() -> Flock<File> {
    let path = std::env::temp_dir().join("larder-test-uring.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap()
}

/// The kernel has FUSE over io_uring, and it is on.
pub struct TurnedOn(());

impl TurnedOn {
    /// `None`, and says so, where the kernel does not have it.
    pub fn new() -> Option<Self> {
        let mut wanted = WANTED.lock();
        if wanted.count == 0 {
            let lock = lock();
            let Ok(before) = fs::read_to_string(PARAMETER) else {
                eprintln!("NOT TESTED: this kernel has no FUSE over io_uring ({PARAMETER} is not there)");
                return None;
            };
            if let Err(e) = fs::write(PARAMETER, "Y") {
                eprintln!("NOT TESTED: FUSE over io_uring cannot be turned on: {PARAMETER}: {e}");
                return None;
            }
            wanted.before = Some((before, lock));
        }
        wanted.count += 1;
        Some(Self(()))
    }
}

impl Drop for TurnedOn {
    fn drop(&mut self) {
        let mut wanted = WANTED.lock();
        wanted.count -= 1;
        if wanted.count == 0
            && let Some((before, _lock)) = wanted.before.take()
        {
            let _ = fs::write(PARAMETER, before);
            LET_GO.notify_all();
        }
    }
}

/// The transports that all promises hold with: with `uring` as long as the guard lives, if there is any.
pub fn transports() -> (Vec<&'static str>, Option<TurnedOn>) {
    let turned_on = TurnedOn::new();
    let rings = turned_on.as_ref().map(|_| "uring");
    (["dev", "fuser"].into_iter().chain(rings).collect(), turned_on)
}

fn mount(host: &Host, options: &str) -> PathBuf {
    host.mount("v", &["-o", &format!("transport=uring,{options}")])
}

fn on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    // Where that CPU is not ours, it is another one.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// All entries of a queue can be taken by requests that wait for the kernel to write back, which takes entries.
#[test]
fn more_seeks_than_there_are_entries_do_not_wait_for_what_they_keep_away() {
    const CALLERS: usize = 160;
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = mount(&host, "writeback=on");
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
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = mount(&host, "writeback=on");
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

/// Direct writes of many wait for pages, which wait for reads that need entries.
#[test]
fn direct_writes_that_take_all_entries_do_not_stop_readers() {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;
    const DEPTH: usize = 160;
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let path = mount(&host, "writeback=on").join("f");
    fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
    let file = open_direct(&path);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let queue = Queue::new(DEPTH as u32);
    let mut buffers: Vec<Aligned> = (0..DEPTH).map(|_| Aligned::new(BLOCK)).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let file = File::open(&path).unwrap();
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
    let Some(_on) = TurnedOn::new() else { return };
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
    let Some(_on) = TurnedOn::new() else { return };
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
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = mount(&host, "writeback=on");
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
    let Some(_on) = TurnedOn::new() else { return };
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

/// Mounts with a fault, and an environment.
fn with_environment(host: &Host, environment: &[(&str, &str)]) -> (PathBuf, std::process::Output) {
    let dir = host.mountpoint("v");
    fs::create_dir_all(&dir).unwrap();
    host.adopt(&dir);
    let args: [&std::ffi::OsStr; 5] =
        ["mount".as_ref(), "v".as_ref(), dir.as_os_str(), "-o".as_ref(), "transport=uring".as_ref()];
    let output = run(host.command(&args).envs(environment.iter().copied()));
    (dir, output)
}

#[test]
fn a_request_that_ends_the_server_is_named_and_nothing_else_is_done() {
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let (dir, mounted) = with_environment(&host, &[("LARDER_FAULT", "abort=deadly")]);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
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

/// A request that hangs is noticed, and the server goes on: nothing could take over from it.
#[test]
fn a_server_of_which_a_request_hangs_is_left_alone_and_serves_the_others() {
    let Some(_on) = TurnedOn::new() else { return };
    let host = Host::new();
    host.ok(&["create", "v"]);
    let environment = [("LARDER_FAULT", "hang=@123456789"), ("LARDER_WATCHDOG", "3")];
    let (dir, mounted) = with_environment(&host, &environment);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    let path = dir.join("f");
    fs::write(&path, "data").unwrap();
    let server = host.server("v");
    let log = host.json(&["inspect", "v"])["log"].as_str().unwrap().to_owned();
    let seeks = std::thread::spawn(move || {
        let file = File::open(path).unwrap();
        lseek(&file, 123_456_789, Whence::SeekData)
    });
    let logged = || fs::read_to_string(&log).unwrap();
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

/// Where it cannot be, that is said before anything is mounted or started.
#[test]
fn a_kernel_without_it_is_refused_with_what_to_do() {
    let refused = |environment: &[(&str, &str)], what: &str| {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let (dir, output) = with_environment(&host, environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(8), "{said}");
        assert!(said.contains(what) && said.trim_end().lines().count() == 1, "{said}");
        assert!(!shell(&dir, "findmnt -rno TARGET -t fuse.larder").contains(dir.to_str().unwrap()));
        assert!(host.servers().is_empty());
        host.mount("v", &["-o", "transport=dev"]);
        host.umount("v");
    };
    refused(&[("LARDER_KERNEL_WITHOUT", "uring")], "transport=uring takes Linux 6.14 or later");
    // Nobody may turn it on meanwhile, and it may be on for good on this machine.
    let mut wanted = WANTED.lock();
    LET_GO.wait_while(&mut wanted, |wanted| wanted.count > 0);
    let _lock = lock();
    match fs::read_to_string(PARAMETER) {
        Ok(now) if now.trim() == "N" => {
            refused(&[], "echo Y > /sys/module/fuse/parameters/enable_uring");
        }
        now => eprintln!("NOT TESTED: that it is turned off ({PARAMETER}: {now:?})"),
    }
}
