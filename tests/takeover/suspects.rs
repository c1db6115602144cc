//! Requests that servers die of, or hang with.

use super::lose_server;
use crate::support::{Host, is_running, run, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

/// Mounts `v` with servers that have a fault.
pub(super) fn with_fault(host: &Host, fault: &str, environment: &[(&str, &str)]) -> PathBuf {
    host.ok(&["create", "v"]);
    let dir = host.mountpoint("v");
    fs::create_dir_all(&dir).unwrap();
    host.adopt(&dir);
    let args = ["mount".as_ref(), "v".as_ref(), dir.as_os_str()];
    let mut command = host.command(&args);
    command.env("LARDER_FAULT", fault).envs(environment.iter().copied());
    let mounted = run(&mut command);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    dir
}

fn takeovers(host: &Host) -> u64 {
    host.json(&["inspect", "v"])["server"]["takeovers"].as_u64().unwrap()
}

#[test]
fn a_request_that_has_ended_two_servers_is_given_to_no_third() {
    let host = Host::new();
    let dir = with_fault(&host, "abort=deadly", &[]);
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
    let dir = with_fault(&host, "hang=deadly", &[("LARDER_WATCHDOG", "3")]);
    let refused = fs::create_dir(dir.join("deadly")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
    assert_eq!(takeovers(&host), 2);
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("a request has come no further for"), "{log}");
    fs::create_dir(dir.join("harmless")).unwrap();
    host.umount("v");
    host.check("v");
}

/// It is no fault of what was under way that somebody kills servers.
#[test]
fn a_request_whose_servers_others_kill_is_given_to_the_next_one() {
    let host = Host::new();
    let dir = with_fault(&host, "hang=slow", &[("LARDER_WATCHDOG", "off")]);
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
