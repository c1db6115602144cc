//! Requests that servers die of, or hang with.

use super::lose_server;
use crate::aio::Aligned;
use crate::support::{Host, errno, is_running, open_direct, pattern, shell, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

fn takeovers(host: &Host) -> u64 {
    host.json(&["inspect", "v"])["server"]["takeovers"].as_u64().unwrap()
}

#[test]
fn a_request_that_has_ended_two_servers_is_given_to_no_third() {
    let host = Host::new();
    let dir = host.faulty_volume("abort=deadly", &[], &[]);
    fs::write(dir.join("f"), "data").unwrap();
    for round in 1..=3 {
        let refused = fs::create_dir(dir.join("deadly")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
        // Two died, and the third answered; the kernel asks whether the name is there, and then for it to be made.
        assert_eq!(takeovers(&host), round * 2);
    }
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("servers died of it; it is answered EIO"), "{log}");
    // Everything else works.
    fs::create_dir(dir.join("harmless")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    host.umount("v");
    host.check("v");
}

#[test]
fn a_request_that_two_servers_came_no_further_with_is_given_to_no_third() {
    let host = Host::new();
    let dir = host.faulty_volume("hang=deadly", &[("LARDER_WATCHDOG", "3")], &[]);
    let refused = fs::create_dir(dir.join("deadly")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
    assert_eq!(takeovers(&host), 2);
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("a request has come no further for"), "{log}");
    fs::create_dir(dir.join("harmless")).unwrap();
    host.umount("v");
    host.check("v");
}

/// Offsets and sizes that nothing else is about.
const READ_AT: u64 = 122_880;
const SEEK_AT: u64 = 777_777;
const CUT_TO: u64 = 5001;

/// Does what other threads than those that take requests go on with, and is told each time that it cannot be done.
fn does_what_is_handed_on(kind: &str, environment: &[(&str, &str)]) {
    const CHUNKS: u64 = 3000;
    let host = Host::new();
    let fault = [READ_AT, SEEK_AT, CUT_TO].map(|number| format!("{kind}=@{number}")).join(",");
    let dir = host.faulty_volume(&fault, environment, &[]);
    fs::write(dir.join("read"), pattern(1 << 20, 1)).unwrap();
    let scattered = File::create_new(dir.join("scattered")).unwrap();
    for chunk in 0..CHUNKS {
        scattered.write_all_at(b"data", chunk << 20).unwrap();
    }
    scattered.sync_all().unwrap();
    File::open(dir.join("read")).unwrap().sync_all().unwrap();
    // Its blocks are to be in no cache.
    lose_server(&host, "v");
    shell(
        &host.store("v").join("segments"),
        "sync; for f in *; do dd if=$f iflag=nocache count=0 status=none; done",
    );
    let read = || {
        let mut bytes = Aligned::new(4096);
        open_direct(&dir.join("read")).read_at(bytes.bytes(), READ_AT)
    };
    let sought = || {
        let file = File::open(dir.join("scattered")).unwrap();
        lseek(&file, SEEK_AT as i64, Whence::SeekData).map_err(io::Error::from)
    };
    let before = takeovers(&host);
    // What one server had the host begin to read, the next one may find in memory, and answer where it takes the request.
    let refused = errno(read());
    let after_read = takeovers(&host);
    assert!(matches!((refused, after_read - before), (0, 1) | (libc::EIO, 2)), "{refused} {after_read}");
    assert_eq!((errno(sought()), takeovers(&host)), (libc::EIO, after_read + 2));
    assert_eq!((errno(scattered.set_len(CUT_TO)), takeovers(&host)), (libc::EIO, after_read + 4));
    assert_eq!(fs::read(dir.join("read")).unwrap(), pattern(1 << 20, 1));
    drop(scattered);
    host.umount("v");
    host.check("v");
}

#[test]
fn requests_that_servers_die_of_on_any_thread_are_given_to_no_third() {
    does_what_is_handed_on("abort", &[]);
}

#[test]
fn requests_that_come_no_further_on_any_thread_are_given_to_no_third() {
    does_what_is_handed_on("hang", &[("LARDER_WATCHDOG", "3")]);
}

/// A seek waits in the kernel, for pages that are to be written back: no disk is to blame for that.
#[test]
fn a_request_that_hangs_is_found_also_if_others_wait_for_it_in_the_kernel() {
    let host = Host::new();
    let dir = host.faulty_volume("hang=deadly", &[("LARDER_WATCHDOG", "3")], &[]);
    let file = File::options().read(true).write(true).create_new(true).open(dir.join("f")).unwrap();
    file.set_len(1 << 20).unwrap();
    let mut page = pattern(4096, 1);
    page[4096 - 7..].copy_from_slice(b"deadly\0");
    file.write_all_at(&page, 512 << 10).unwrap();
    let _ = lseek(&file, 0, Whence::SeekData);
    assert_eq!(takeovers(&host), 2);
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(
        log.contains("a request has come no further for") && log.contains("larder-ask-0: state D"),
        "{log}"
    );
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    host.umount("v");
    host.check("v");
}

/// It is no fault of what was under way that somebody kills servers.
#[test]
fn a_request_whose_servers_others_kill_is_given_to_the_next_one() {
    let host = Host::new();
    let dir = host.faulty_volume("hang=slow", &[("LARDER_WATCHDOG", "off")], &[]);
    let slow = dir.join("slow");
    let asking = std::thread::spawn(move || fs::create_dir(slow));
    for round in 0..4 {
        let server = host.server("v");
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        wait_until("another server takes over", || !is_running(server) && takeovers(&host) > round);
    }
    assert!(!asking.is_finished(), "it is still being worked on");
    // One without the fault.
    let holder = Pid::from_raw(host.holder("v"));
    kill(holder, Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(host.server("v")), Signal::SIGKILL).unwrap();
    assert!(asking.join().unwrap().is_err());
    let dir = host.mount("v", &[]);
    fs::create_dir(dir.join("slow")).unwrap();
    lose_server(&host, "v");
    host.umount("v");
    host.check("v");
}
