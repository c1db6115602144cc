//! `fsx`, the file system exerciser: random operations on one file, each read compared with what must be there.
//!
//! Reads, writes and sendfile, shared mappings, truncation, allocation, holes, copies within the file, readahead and
//! dropped pages. Half a million operations with the kernel's writeback cache, and as many without; half of them on encrypted
//! volumes.

use super::{first_seed, tool};
use crate::support::{Host, succeed};
use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Mutex;

/// One run of the exerciser.
#[derive(Clone, Copy)]
struct Job {
    seed: u64,
    operations: u32,
    /// Longest that the file can get, and longest operation.
    file: u32,
    longest: u32,
    /// Every offset and length is a multiple of this.
    align: u32,
    /// Whether mappings are written back by msync(2) after each change, and fsync(2) is called often.
    synced: bool,
}

impl fmt::Display for Job {
    /// As the exerciser's configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // fsx takes a refused allocation of no bytes for a fault, and first_seed what it allocates down to that.
        let allocate = if self.align == 1 { 3 } else { 0 };
        let sync = if self.synced { 1.0 } else { 0.02 };
        write!(
            f,
            "flen = {}\nnomsyncafterwrite = {}\n[opsize]\nmin = {}\nmax = {}\nalign = {}\n[weights]\nclose_open = 1\n\
             invalidate = 1\nmapread = 10\nmapwrite = 10\nread = 10\nwrite = 10\ntruncate = 5\nfsync = {sync}\n\
             fdatasync = {sync}\nposix_fallocate = {allocate}\npunch_hole = 5\nsendfile = 3\nposix_fadvise = 3\n\
             copy_file_range = 5\n",
            self.file, !self.synced, self.align, self.longest, self.align,
        )
    }
}

/// Short runs with many seeds, because fsx leaks mappings: its time grows with the square of the operations.
fn jobs() -> Vec<Job> {
    let small = Job { seed: 0, operations: 8_000, file: 48 << 10, longest: 6 << 10, align: 1, synced: false };
    let middle = Job { file: 256 << 10, longest: 16 << 10, ..small };
    let large = Job { file: 8 << 20, longest: 64 << 10, ..small };
    let pages = Job { file: 512 << 10, longest: 16 << 10, align: 4096, ..small };
    let synced = Job { operations: 1_000, synced: true, ..middle };
    let kinds = [large, small, middle, small, pages, small, middle, small];
    let all = kinds.into_iter().cycle().take(64).chain([synced; 2]);
    all.zip(first_seed()..).map(|(job, seed)| Job { seed, ..job }).collect()
}

/// Two at a time, on files of their own: one on a plain volume, one on an encrypted one.
fn exercise(options: &str) {
    let hosts = Host::each_kind();
    let jobs = Mutex::new(jobs().into_iter());
    std::thread::scope(|scope| {
        for host in &hosts {
            host.ok(&["create", "v"]);
            let dir = host.mount("v", &["-o", options]);
            let (artifacts, jobs) = (host.dir("fsx"), &jobs);
            scope.spawn(move || {
                loop {
                    let Some(job) = jobs.lock().unwrap().next() else { return };
                    let config = artifacts.join(format!("{}.toml", job.seed));
                    fs::write(&config, job.to_string()).unwrap();
                    succeed(
                        Command::new(tool("fsx"))
                            .arg("-f")
                            .arg(&config)
                            .args(["-S", &job.seed.to_string(), "-N", &job.operations.to_string(), "-P"])
                            .arg(&artifacts)
                            .arg(dir.join(job.seed.to_string())),
                    );
                }
            });
        }
    });
    for host in &hosts {
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn half_a_million_operations_with_the_writeback_cache() {
    exercise("writeback=on");
}

#[test]
fn half_a_million_operations_without_the_writeback_cache() {
    exercise("writeback=off");
}

#[test]
fn a_run_is_half_a_million_operations() {
    let operations: u32 = jobs().iter().map(|job| job.operations).sum();
    assert!(operations >= 500_000, "{operations}");
}
