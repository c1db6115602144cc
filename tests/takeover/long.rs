//! Requests that take many steps.

use super::lose_server;
use crate::support::{Host, errno, pattern, shell};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// The kernel gives a request again when a server dies; what the first server did of it is not done a second time, and nothing is
/// left out.
#[test]
fn a_long_request_is_finished_by_the_next_server() {
    const CHUNKS: u64 = 5000;
    let host = Host::new();
    let dir = host.volume("v", &["--size", "4T"]);
    for (name, change) in [("cut", "truncate -s 5000 cut"), ("zeroed", "fallocate -z -o 5000 -l 1T zeroed")] {
        let file = OpenOptions::new().write(true).create_new(true).open(dir.join(name)).unwrap();
        for chunk in 0..CHUNKS {
            file.write_all_at(&pattern(6000, chunk), chunk * MIB).unwrap();
        }
        file.sync_all().unwrap();
        let change = std::thread::spawn({
            let dir = dir.clone();
            move || shell(&dir, change)
        });
        lose_server(&host, "v");
        change.join().unwrap();
        let bytes = fs::read(dir.join("cut")).unwrap();
        assert!(bytes == pattern(5000, 0));
    }
    let zeroed = fs::metadata(dir.join("zeroed")).unwrap();
    assert_eq!((zeroed.size(), zeroed.blocks()), (TIB + 5000, (TIB + 2 * 4096) / 512));
    let file = fs::File::open(dir.join("zeroed")).unwrap();
    let mut bytes = vec![1; 10_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let mut expected = pattern(6000, 0);
    expected.truncate(5000);
    expected.resize(10_000, 0);
    assert!(bytes == expected);
    let full = OpenOptions::new().write(true).open(dir.join("cut")).unwrap();
    let refused = fallocate(&full, FallocateFlags::empty(), 0, (4 * TIB) as i64);
    assert_eq!(errno(refused.map_err(Into::into)), libc::ENOSPC);
    drop((file, full));
    host.umount("v");
    host.check("v");
}
