//! Contents of files: every way to write them, and to read them back.

use crate::aio::{Aligned, Queue};
use crate::support::{Host, errno, open_direct, pattern, same_as_native, shell};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::Whence;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn seek(file: &File, offset: i64, whence: Whence) -> i64 {
    nix::unistd::lseek(file, offset, whence).unwrap_or_else(|e| -(e as i64))
}

#[test]
fn what_is_written_is_read_after_a_remount() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let sizes = [0, 1, 4095, 4096, 4097, 65_536, 1 << 20, (1 << 20) + 1, 5_000_000, 200_000_000];
    for (i, size) in sizes.iter().enumerate() {
        fs::write(dir.join(i.to_string()), pattern(*size, i as u64)).unwrap();
    }
    let dir = host.remount("v");
    for (i, size) in sizes.iter().enumerate() {
        assert!(fs::read(dir.join(i.to_string())).unwrap() == pattern(*size, i as u64), "size {size}");
    }
    host.umount("v");
    host.check("v");
}

#[test]
fn small_writes_land_where_they_belong() {
    for options in ["writeback=on", "writeback=off"] {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = host.mount("v", &["-o", options]);
        let file = open(&dir.join("f"));
        let mut expected = vec![0u8; 300_000];
        for i in 0..2000usize {
            let (at, len) = (i * 7919 % 290_000, i % 5000 + 1);
            let data = pattern(len, i as u64);
            file.write_all_at(&data, at as u64).unwrap();
            expected[at..at + len].copy_from_slice(&data);
        }
        let end = (0..2000usize).map(|i| i * 7919 % 290_000 + i % 5000 + 1).max().unwrap();
        expected.truncate(end);
        drop(file);
        assert!(fs::read(dir.join("f")).unwrap() == expected);
        let dir = host.remount("v");
        assert!(fs::read(dir.join("f")).unwrap() == expected, "{options}");
    }
}

#[test]
fn direct_io_and_the_page_cache_agree() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let path = dir.join("f");
    let direct = open_direct(&path);
    let buffered = open(&path);
    let mut buf = vec![0u8; 3 * 4096];
    let (_, rest) = {
        let shift = buf.as_ptr().align_offset(4096);
        buf.split_at_mut(shift)
    };
    let page = &mut rest[..4096];
    for i in 0..200u64 {
        page.copy_from_slice(&pattern(4096, i));
        direct.write_all_at(page, i * 4096).unwrap();
        let mut seen = vec![0; 4096];
        buffered.read_exact_at(&mut seen, i * 4096).unwrap();
        assert!(seen == pattern(4096, i));
        buffered.write_all_at(&pattern(100, i + 1000), i * 4096 + 50).unwrap();
        direct.read_exact_at(page, i * 4096).unwrap();
        assert!(page[50..150] == pattern(100, i + 1000));
    }
}

#[test]
fn appends_of_two_processes_do_not_overwrite_each_other() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(&dir, "for p in a b c; do (for i in {1..2000}; do echo $p$i >> log; done) & done; wait");
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 6000);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 6000);
}

#[test]
fn shared_and_private_mappings_work() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let script = "
import mmap, os
fd = os.open('f', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 20)
shared = mmap.mmap(fd, 1 << 20)
private = mmap.mmap(fd, 1 << 20, flags=mmap.MAP_PRIVATE)
for i in range(0, 1 << 20, 4096): shared[i:i+4] = i.to_bytes(4, 'little')
assert os.pread(fd, 4, 8192) == (8192).to_bytes(4, 'little')
assert private[8192:8196] == (8192).to_bytes(4, 'little')
private[0:4] = b'mine'
assert os.pread(fd, 4, 0) == bytes(4)
os.pwrite(fd, b'file', 4096)
assert shared[4096:4100] == b'file'
shared.flush(); shared.close(); private.close(); os.close(fd)
";
    fs::write(host.dir("s").join("s.py"), script).unwrap();
    let script = host.dir("s").join("s.py");
    shell(&dir, &format!("python3 {}", script.display()));
    let dir = host.remount("v");
    let bytes = fs::read(dir.join("f")).unwrap();
    assert_eq!((&bytes[4096..4100], &bytes[8192..8196]), (&b"file"[..], &8192u32.to_le_bytes()[..]));
    assert_eq!(&bytes[..4], [0; 4]);
}

#[test]
fn a_program_runs_from_a_volume() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    assert_eq!(
        shell(&dir, "cp /bin/echo e; ./e hello; cp /bin/bash b; ./b -c 'echo $((6*7))'"),
        "hello\n42\n"
    );
}

#[test]
fn truncating_shows_zeros_and_never_old_bytes() {
    same_as_native(|dir| {
        let file = open(&dir.join("f"));
        file.write_all_at(&[0xee; 20_000], 0).unwrap();
        file.sync_all().unwrap();
        let mut out = Vec::new();
        for (down, up) in [(10_001, 20_000), (4096, 9000), (1, 4097), (0, 100)] {
            file.set_len(down).unwrap();
            file.set_len(up).unwrap();
            let mut bytes = Vec::new();
            File::open(dir.join("f")).unwrap().read_to_end(&mut bytes).unwrap();
            out.push(bytes);
        }
        fs::write(dir.join("f"), "short").unwrap();
        out.push(fs::read(dir.join("f")).unwrap());
        out
    });
}

#[test]
fn holes_are_found_as_on_ext4() {
    same_as_native(|dir| {
        let file = open(&dir.join("f"));
        file.set_len(10 << 20).unwrap();
        for mib in [1, 2, 5] {
            file.write_all_at(&[1; 65_536], mib << 20).unwrap();
        }
        file.sync_all().unwrap();
        fallocate(&file, FallocateFlags::empty(), 7 << 20, 1 << 20).unwrap();
        let mut out = Vec::new();
        for offset in [0, 1 << 20, (1 << 20) + 5, (1 << 20) + 65_536, 3 << 20, 6 << 20, 10 << 20, 11 << 20] {
            out.push((seek(&file, offset, Whence::SeekData), seek(&file, offset, Whence::SeekHole)));
        }
        out
    });
}

#[test]
fn data_that_is_not_written_back_yet_is_no_hole() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let file = open(&dir.join("f"));
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[7; 4096], 512 << 10).unwrap();
    assert_eq!(seek(&file, 0, Whence::SeekData), 512 << 10);
    assert_eq!(seek(&file, 512 << 10, Whence::SeekHole), (512 << 10) + 4096);
    file.write_all_at(&[8; 100], 900 << 10).unwrap();
    shell(&dir, "cp --sparse=auto f copy && cmp f copy");
}

#[test]
fn holes_are_found_among_data_that_is_not_written_back_yet() {
    same_as_native(|dir| {
        let mut out = Vec::new();
        for (unwritten, name) in [(false, "a"), (true, "b")] {
            let file = open(&dir.join(name));
            file.write_all_at(&[1; 5000], 0).unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(&[2; 65_536], 512 << 10).unwrap();
            file.sync_all().unwrap();
            // The whole first hole, and more than one piece of the second; then beyond the end, within its block and far off.
            file.write_all_at(&vec![3; (512 << 10) - 8192], 8192).unwrap();
            file.write_all_at(&[4; 4096], 700 << 10).unwrap();
            file.write_all_at(&[5; 4096], 900 << 10).unwrap();
            file.write_all_at(&[6; 10], 2 << 20).unwrap();
            file.write_all_at(&[7; 10], (2 << 20) + 100).unwrap();
            file.write_all_at(&[8; 5000], 4 << 20).unwrap();
            if !unwritten {
                file.sync_all().unwrap();
            }
            for kib in [0, 4, 8, 100, 512, 576, 600, 700, 704, 900, 904, 1024, 2048, 2052, 4096, 4101] {
                let at = kib << 10;
                out.push((seek(&file, at, Whence::SeekHole), seek(&file, at, Whence::SeekData)));
            }
        }
        out
    });
}

/// Every `grep -r` looks for holes.
#[test]
fn looking_for_holes_leaves_cached_data_cached() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), pattern((1 << 20) + 100, 1)).unwrap();
    let file = File::open(dir.join("f")).unwrap();
    file.sync_all().unwrap();
    assert_eq!(seek(&file, 0, Whence::SeekHole), (1 << 20) + 100);
    assert_eq!(seek(&file, 0, Whence::SeekData), 0);
    let cached: u64 = shell(&dir, "fincore --bytes --noheadings --output RES f").trim().parse().unwrap();
    // The last, partial page is the only one that may have grown unseen.
    assert_eq!(cached, 1 << 20);
}

#[test]
fn fallocate_does_what_ext4_does() {
    same_as_native(|dir| {
        let path = dir.join("f");
        let file = open(&path);
        let data = pattern(100_000, 3);
        file.write_all_at(&data, 0).unwrap();
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let mut out = Vec::new();
        for (flags, offset, len) in [
            (punch | keep, 5000, 30_000),
            (punch | keep, 40_960, 4096),
            (punch | keep, 50_000, 10),
            (zero, 60_001, 9999),
            (zero | keep, 95_000, 50_000),
            (keep, 200_000, 100_000),
            (FallocateFlags::empty(), 150_000, 1000),
            (zero, 160_000, 5000),
            (punch | keep, 90_000, 1_000_000),
        ] {
            out.push(errno(fallocate(&file, flags, offset, len).map_err(io::Error::from)) as u64);
            file.sync_all().unwrap();
            out.push(file.metadata().unwrap().len());
        }
        for (flags, offset, len) in [(punch, 0, 4096), (punch | keep, 0, 0), (keep, -1, 10)] {
            out.push(errno(fallocate(&file, flags, offset, len).map_err(io::Error::from)) as u64);
        }
        (out, fs::read(&path).unwrap())
    });
}

#[test]
fn fallocate_counts_its_blocks() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "100M"]);
    let file = open(&dir.join("f"));
    fallocate(&file, FallocateFlags::empty(), 0, 10 << 20).unwrap();
    let used = || host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    assert_eq!((used(), file.metadata().unwrap().blocks()), (10 << 20, 20 << 10));
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(used(), 10 << 20, "what was reserved is used, and not counted twice");
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, flags, 0, 5 << 20).unwrap();
    assert_eq!(used(), 5 << 20);
    let error = fallocate(&file, FallocateFlags::empty(), 0, 101 << 20).unwrap_err();
    assert_eq!(error, nix::errno::Errno::ENOSPC);
    assert_eq!(used(), 5 << 20);
    drop(file);
    host.umount("v");
    host.check("v");
}

#[test]
fn a_copy_within_a_volume_shares_its_blocks() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("a"), pattern(50_000_123, 1)).unwrap();
    let segments = || {
        let dir = host.store("v").join("segments");
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().blocks()).sum::<u64>()
    };
    let before = segments();
    shell(&dir, "cp --reflink=auto a b; cmp a b");
    assert!(segments() < before + 64, "the host stores it once");
    // The copies are independent.
    open(&dir.join("b")).write_all_at(&pattern(10_000, 2), 1_000_000).unwrap();
    let mut expected = pattern(50_000_123, 1);
    assert!(fs::read(dir.join("a")).unwrap() == expected);
    expected[1_000_000..1_010_000].copy_from_slice(&pattern(10_000, 2));
    host.check("v");
    fs::remove_file(dir.join("a")).unwrap();
    let dir = host.remount("v");
    assert!(fs::read(dir.join("b")).unwrap() == expected);
    host.check("v");
    fs::remove_file(dir.join("b")).unwrap();
    host.umount("v");
    host.check("v");
    assert_eq!(host.json(&["inspect", "v"])["used"], 0);
}

#[test]
fn files_reach_to_16_tib() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let file = open_direct(&dir.join("f"));
    const END: u64 = 16 << 40;
    file.set_len(END).unwrap();
    assert_eq!(errno(file.set_len(END + 1)), libc::EFBIG);
    let mut buf = vec![0u8; 8192];
    let shift = buf.as_ptr().align_offset(4096);
    let page = &mut buf[shift..shift + 4096];
    page.copy_from_slice(&pattern(4096, 1));
    file.write_all_at(page, END - 4096).unwrap();
    assert_eq!(errno(file.write_at(page, END)), libc::EFBIG);
    assert_eq!(errno(file.write_at(page, END + 4096)), libc::EFBIG);
    let refused = fallocate(&file, FallocateFlags::empty(), (END - 4096) as i64, 8192);
    assert_eq!(errno(refused.map_err(Into::into)), libc::EFBIG);
    let queue = Queue::new(2);
    let mut bytes = Aligned::new(4096);
    queue.write(&file, &mut bytes, END as usize);
    assert_eq!(queue.wait(), -i64::from(libc::EFBIG));
    page.fill(0);
    file.read_exact_at(page, END - 4096).unwrap();
    assert!(page == pattern(4096, 1));
    assert_eq!(file.metadata().unwrap().len(), END);
    assert_eq!(host.json(&["inspect", "v"])["used"], 4096);
    assert_eq!(seek(&file, 0, Whence::SeekData), (END - 4096) as i64);
    // The kernel's cache takes it; whoever asks whether it was kept is told.
    let cached = OpenOptions::new().write(true).open(dir.join("f")).unwrap();
    cached.write_at(b"too far", END).unwrap();
    assert_eq!(errno(cached.sync_all()), libc::EFBIG);
    drop(cached);
    file.set_len(0).unwrap();
    assert_eq!(host.json(&["inspect", "v"])["used"], 0);
}

#[test]
fn allocated_blocks_of_an_open_file_are_known_soon() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mut file = open(&dir.join("f"));
    file.write_all(&[1; 100_000]).unwrap();
    file.sync_all().unwrap();
    let _ = file.metadata().unwrap();
    crate::support::wait_until("du sees them", || file.metadata().unwrap().blocks() == 200);
}

#[test]
fn many_threads_read_and_write_one_file() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "200M"]);
    let path = dir.join("f");
    let file = open(&path);
    file.set_len(32 << 20).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let file = &file;
            scope.spawn(move || {
                // Each has blocks of its own, some of them shared with neighbours at the edges.
                for round in 0..40u64 {
                    let at = (round * 8 + thread) * 100_000;
                    file.write_all_at(&pattern(100_000, at), at).unwrap();
                    let mut back = vec![0; 100_000];
                    file.read_exact_at(&mut back, at).unwrap();
                    assert!(back == pattern(100_000, at), "at {at}");
                }
            });
        }
    });
    drop(file);
    let dir = host.remount("v");
    let bytes = fs::read(dir.join("f")).unwrap();
    for at in (0..320 * 100_000).step_by(100_000) {
        assert!(bytes[at..at + 100_000] == pattern(100_000, at as u64), "at {at}");
    }
    host.check("v");
}

/// RocksDB and others reserve space for a log, and give back what they did not use by cutting the file at its end.
#[test]
fn cutting_a_file_at_its_own_end_frees_what_is_reserved_behind_it() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "100M"]);
    for i in 0..4 {
        let file = open(&dir.join(format!("log{i}")));
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 40 << 20).unwrap();
        (&file).write_all(&pattern(1 << 20, i)).unwrap();
        file.sync_all().unwrap();
        // A file that grows keeps it.
        file.set_len((1 << 20) + 10).unwrap();
        assert_eq!(host.json(&["inspect", "v"])["used"].as_u64().unwrap(), (40 << 20) + (i << 20));
        file.set_len(1 << 20).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 40 << 20).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(host.json(&["inspect", "v"])["used"].as_u64().unwrap(), (i + 1) << 20);
    }
    host.umount("v");
    host.check("v");
}
