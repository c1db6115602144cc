//! The ways by which requests reach the server. That all other tests pass with each of them, `LARDER_TEST_TRANSPORT` shows;
//! here is what is special to one.

use crate::support::{Host, on_cpu, pattern, run, wait_until};
use crate::uring::transports;
use nix::unistd::{Whence, lseek};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;

/// Names of the threads of a volume's server.
fn threads(host: &Host) -> Vec<String> {
    let tasks = format!("/proc/{}/task", host.server("v"));
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    fs::read_dir(tasks).unwrap().map(|task| name(task.unwrap())).collect()
}

fn mount(host: &Host, transport: &str) -> PathBuf {
    host.mount("v", &["-o", &format!("transport={transport}")])
}

#[test]
fn what_one_transport_wrote_the_others_read() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let contents =
        |transport: &str| pattern(3_000_001, transport.len() as u64 + u64::from(transport.as_bytes()[0]));
    let transports = transports();
    for &transport in &transports {
        let dir = mount(&host, transport);
        let found = threads(&host);
        for (prefix, of) in [("larder-fuse-1", "dev"), ("fuser-", "fuser"), ("larder-ring-1", "uring")] {
            let is_there = found.iter().any(|name| name.starts_with(prefix));
            assert_eq!(is_there, of == transport, "{transport}: {found:?}");
        }
        fs::write(dir.join(transport), contents(transport)).unwrap();
        host.umount("v");
    }
    for &transport in &transports {
        let dir = mount(&host, transport);
        for &writer in &transports {
            assert!(fs::read(dir.join(writer)).unwrap() == contents(writer), "{writer}, read by {transport}");
        }
        host.umount("v");
    }
    host.check("v");
}

/// Requests that wait must not keep those away that they wait for: what the kernel has yet to write back, and the end of a
/// sync.
#[test]
fn many_requests_that_wait_on_one_cpu_do_not_wait_for_each_other() {
    const CALLERS: usize = 48;
    let by_rings = std::env::var("LARDER_TEST_TRANSPORT").is_ok_and(|transport| transport == "uring");
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (dir, barrier) = (&dir, &barrier);
            scope.spawn(move || {
                on_cpu(0);
                let path = dir.join(format!("f{caller}"));
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
                let file = file.unwrap();
                for round in 0..4u64 {
                    let offset = (1 + round) << 20;
                    file.write_all_at(&pattern(300_000, round), offset).unwrap();
                    barrier.wait();
                    if caller % 3 == 0 {
                        file.sync_all().unwrap();
                    } else {
                        let found = lseek(&file, (offset - 4096) as i64, Whence::SeekData).unwrap();
                        // By rings, so many that wait are told that all of a file is data.
                        let all_is_data = by_rings && found == offset as i64 - 4096;
                        assert!(found == offset as i64 || all_is_data, "{found}");
                    }
                }
            });
        }
    });
    host.umount("v");
    host.check("v");
}

/// The program that has a mount may be killed at any moment, also in the middle of large requests.
#[test]
fn killing_the_server_leaves_no_caller_waiting() {
    let transports = transports();
    for transport in transports {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let dir = mount(&host, transport);
        std::thread::scope(|scope| {
            for caller in 0..6 {
                let dir = &dir;
                scope.spawn(move || {
                    let write = || -> std::io::Result<()> {
                        let mut file = File::create(dir.join(format!("f{caller}")))?;
                        for _ in 0..100_000 {
                            file.write_all(&[caller; 200_000])?;
                            file.sync_all()?;
                        }
                        Ok(())
                    };
                    // It fails when the server is gone.
                    write().unwrap_err();
                });
            }
            wait_until("they write", || fs::metadata(dir.join("f5")).is_ok_and(|f| f.len() > 0));
            host.kill_server("v");
        });
        run(Command::new("umount").arg("-l").arg(&dir));
        host.check("v");
    }
}
