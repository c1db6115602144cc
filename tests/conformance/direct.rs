//! What `fsx` does not do: direct I/O, mixed at random with buffered I/O through another descriptor, and a remount.

use super::first_seed;
use crate::support::{Host, pattern};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const LONGEST: u64 = 1 << 20;
const OPERATIONS: u64 = 30_000;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// Memory aligned as direct I/O wants it.
struct Aligned {
    memory: Vec<u8>,
    shift: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; LONGEST as usize + 4096];
        let shift = memory.as_ptr().align_offset(4096);
        Self { memory, shift }
    }

    fn bytes(&mut self, len: u64) -> &mut [u8] {
        &mut self.memory[self.shift..self.shift + len as usize]
    }
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

/// What must be in the file.
fn put(expected: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if expected.len() < end {
        expected.resize(end, 0);
    }
    expected[at as usize..end].copy_from_slice(data);
}

fn exercise(dir: &Path, seed: u64) {
    let path = dir.join(format!("direct-{seed}"));
    let (direct, buffered) = (open(&path, libc::O_DIRECT), open(&path, 0));
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut aligned = Aligned::new();
    let mut expected: Vec<u8> = Vec::new();
    for step in 0..OPERATIONS {
        // Mostly whole sectors for direct I/O, as every file system takes them; sometimes any bytes, as FUSE does.
        let unit = [512, 4096, 4096, 1][dice.below(4) as usize];
        let at = dice.below(LONGEST / unit) * unit;
        let len = ((dice.below(32 << 10) / unit + 1) * unit).min(LONGEST - at);
        let size = expected.len() as u64;
        let context = || format!("seed {seed}, step {step}, {len} bytes at {at} of {size}");
        match dice.below(10) {
            0..=2 => {
                let data = aligned.bytes(len);
                data.copy_from_slice(&pattern(len as usize, step));
                direct.write_all_at(data, at).unwrap();
                put(&mut expected, at, data);
            }
            3 => {
                let data = pattern(len as usize, step);
                buffered.write_all_at(&data, at).unwrap();
                put(&mut expected, at, &data);
            }
            4 | 5 => {
                let data = aligned.bytes(len);
                let found = direct.read_at(data, at).unwrap();
                let there =
                    &expected[(at as usize).min(expected.len())..((at + len) as usize).min(expected.len())];
                assert!(data[..found] == *there, "read directly: {}", context());
            }
            6 => {
                let mut data = vec![0; len as usize];
                let found = buffered.read_at(&mut data, at).unwrap();
                let there =
                    &expected[(at as usize).min(expected.len())..((at + len) as usize).min(expected.len())];
                assert!(data[..found] == *there, "read through the cache: {}", context());
            }
            7 if dice.below(4) == 0 => {
                buffered.set_len(at).unwrap();
                expected.resize(at as usize, 0);
            }
            7 | 8 => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&direct, flags, at as i64, len as i64).unwrap();
                let end = expected.len().min((at + len) as usize);
                expected[(at as usize).min(end)..end].fill(0);
            }
            _ => {
                // Within the file and without overlap, from one half of it to the other.
                let half = size / 2;
                let (from, to) = if dice.below(2) == 0 { (0, half) } else { (half, 0) };
                let len = len.min(half);
                (&direct).seek(SeekFrom::Start(from)).unwrap();
                (&buffered).seek(SeekFrom::Start(to)).unwrap();
                // The standard library does it by copy_file_range(2).
                let copied = std::io::copy(&mut (&direct).take(len), &mut &buffered).unwrap();
                expected.copy_within(from as usize..(from + copied) as usize, to as usize);
                assert_eq!(copied, len, "{}", context());
            }
        }
        assert_eq!(direct.metadata().unwrap().len(), expected.len() as u64, "{}", context());
    }
    assert!(std::fs::read(&path).unwrap() == expected, "seed {seed}, at the end");
    std::fs::write(dir.join(format!("expected-{seed}")), expected).unwrap();
}

#[test]
fn direct_and_buffered_io_agree() {
    for (host, options) in Host::each_kind().into_iter().zip(["writeback=on", "writeback=off"]) {
        host.ok(&["create", "v"]);
        let dir = host.mount("v", &["-o", options]);
        let seeds = [first_seed(), first_seed() + 1];
        for seed in seeds {
            exercise(&dir, seed);
        }
        let dir = host.remount("v");
        for seed in seeds {
            let read = |name: &str| std::fs::read(dir.join(format!("{name}-{seed}"))).unwrap();
            assert!(read("direct") == read("expected"), "seed {seed}, after a remount, {options}");
        }
        host.umount("v");
        host.check("v");
    }
}
