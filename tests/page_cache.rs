//! What the kernel's page cache and the server must not do to each other.

use crate::aio::{Aligned, Queue};
use crate::support::{Host, open_direct, pattern};
use crate::uring::{is_on, transports};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::Whence;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reads `path` through the page cache, again and again, until told to stop.
fn read_until(path: &Path, stop: &AtomicBool) {
    let mut bytes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut file = File::open(path).unwrap();
        bytes.clear();
        file.read_to_end(&mut bytes).unwrap();
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
}

/// As a backup reads a database that is being written.
#[test]
fn a_read_after_an_asynchronous_direct_write_sees_it() {
    const LEN: usize = 640 << 10;
    const ROUNDS: u8 = 60;
    let rings = ["writeback=on", "writeback=off"].map(|options| (options, "transport=uring"));
    let others = [
        ("writeback=on", "transport=dev"),
        ("writeback=off", "transport=dev"),
        ("writeback=on", "transport=fuser"),
    ];
    for (options, transport) in others.into_iter().chain(rings.into_iter().filter(|_| is_on())) {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let path = host.mount("v", &["-o", &format!("{options},{transport}")]).join("f");
        let file = open_direct(&path);
        let (queue, mut bytes) = (Queue::new(1), Aligned::new(LEN));
        file.write_all_at(bytes.bytes(), 0).unwrap();
        let mut read = vec![0; LEN];
        for round in 1..=ROUNDS {
            bytes.bytes().fill(round);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| read_until(&path, &stop));
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
                queue.write(&file, &mut bytes, 0);
                assert_eq!(queue.wait(), LEN as i64);
                File::open(&path).unwrap().read_exact_at(&mut read, 0).unwrap();
                stop.store(true, Ordering::Relaxed);
            });
            let old = read.iter().filter(|byte| **byte != round).count();
            assert_eq!(old, 0, "{options},{transport}, round {round}: bytes from before the write");
            File::open(&path).unwrap().read_exact_at(&mut read, 0).unwrap();
            let old = read.iter().filter(|byte| **byte != round).count();
            assert_eq!(old, 0, "{options},{transport}, round {round}: bytes from before the write came back");
        }
    }
}

/// The kernel sends 64 requests of a kind at a time. When all are writes that wait for pages, those who hold the pages must not
/// have to wait for the writes.
#[test]
fn more_direct_writes_than_the_kernel_sends_at_once_do_not_stop_readers() {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;
    const DEPTH: usize = 160;
    let transports = transports();
    for transport in transports {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let path = host.mount("v", &["-o", &format!("transport={transport}")]).join("f");
        fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
        let file = open_direct(&path);
        let queue = Queue::new(DEPTH as u32);
        let mut buffers: Vec<Aligned> = (0..DEPTH).map(|_| Aligned::new(BLOCK)).collect();
        let mut expected = vec![0; BLOCKS];
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| read_until(&path, &stop));
            }
            for round in 0..30usize {
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    let block = (round * 37 + i) % BLOCKS;
                    expected[block] = (round * 7 + i) as u8;
                    buffer.bytes().fill(expected[block]);
                    queue.write(&file, buffer, block * BLOCK);
                }
                for _ in 0..DEPTH {
                    assert_eq!(queue.wait(), BLOCK as i64);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        // A write that was answered early has its pages dropped a moment later.
        let right = || {
            let found = fs::read(&path).unwrap();
            found.chunks(BLOCK).zip(&expected).all(|(found, byte)| found.iter().all(|b| b == byte))
        };
        crate::support::wait_until("the cache has what was written", right);
        drop((queue, file));
        host.umount("v");
        host.check("v");
    }
}

/// Seeks wait for the kernel to write back, on pages that are locked until cold reads are answered.
#[test]
fn seeks_and_cold_reads_do_not_stop_each_other() {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 512;
    const FILES: u64 = 12;
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let segments = host.store("v").join("segments");
    for i in 0..FILES {
        let file = File::create(dir.join(i.to_string())).unwrap();
        for block in (0..BLOCKS).step_by(8) {
            file.write_all_at(&pattern(4 * BLOCK as usize, i), block * BLOCK).unwrap();
        }
        file.set_len(BLOCKS * BLOCK).unwrap();
        file.sync_all().unwrap();
    }
    let ends = AtomicBool::new(false);
    let until = |work: &mut dyn FnMut(u64)| {
        let mut step = 0;
        while !ends.load(Ordering::Relaxed) {
            work(step);
            step += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until(&mut |_| {
                for segment in fs::read_dir(&segments).unwrap().flatten() {
                    if let Ok(file) = File::open(segment.path()) {
                        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                    }
                }
            });
        });
        for i in 0..2 * FILES {
            let (dir, until) = (&dir, &until);
            scope.spawn(move || {
                let file = File::open(dir.join((i % FILES).to_string())).unwrap();
                let mut bytes = vec![0; 128 << 10];
                until(&mut |step| {
                    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                    let _ = file.read_at(&mut bytes, (step * 7919 + i) % BLOCKS * BLOCK);
                });
            });
        }
        for i in 0..FILES {
            let (dir, until) = (&dir, &until);
            scope.spawn(move || {
                let file = File::open(dir.join(i.to_string())).unwrap();
                until(&mut |step| {
                    // Begins in a hole.
                    let hole = ((step * 31 + i) % (BLOCKS / 8) * 8 + 4) * BLOCK;
                    let found = nix::unistd::lseek(&file, hole as i64, Whence::SeekData);
                    let next = hole + 4 * BLOCK;
                    let expected =
                        if next < BLOCKS * BLOCK { Ok(next as i64) } else { Err(nix::errno::Errno::ENXIO) };
                    assert_eq!(found, expected);
                });
            });
        }
        std::thread::sleep(std::time::Duration::from_secs(3));
        ends.store(true, Ordering::Relaxed);
    });
    host.umount("v");
    host.check("v");
}
