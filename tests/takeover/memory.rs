//! What is remembered from one server to the next does not grow with their number.

use super::lose_server;
use crate::support::{Host, wait_until};
use std::fs;
use std::path::Path;
use std::process::Command;

/// How many requests the holder remembers: what it hands over is in its log at the start of each server.
fn remembered(host: &Host) -> u64 {
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    let line =
        log.lines().rev().find_map(|line| line.split_once(" requests of earlier servers are remembered"));
    line.and_then(|(head, _)| head.rsplit(' ').next()).and_then(|count| count.parse().ok()).expect(&log)
}

/// Makes a file on each CPU, so that each reader has carried out a request.
fn work(dir: &Path, round: usize) {
    let script = format!(
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu bash -c ': > {}/'$cpu.{round}; done",
        dir.display()
    );
    assert!(Command::new("bash").args(["-c", &script]).status().unwrap().success());
}

#[test]
fn what_is_answered_is_forgotten() {
    let host = Host::new();
    let dirs: Vec<_> = (0..4)
        .map(|i| match i {
            0 => host.volume("v", &[]),
            _ => {
                let name = format!("w{i}");
                host.ok(&["clone", "v", &name]);
                host.mount(&name, &[])
            }
        })
        .collect();
    // One of each reader of each mount, as if they had all been interrupted.
    let most = 4 * std::thread::available_parallelism().unwrap().get().max(2) as u64;
    for round in 0..12 {
        dirs.iter().for_each(|dir| work(dir, round));
        lose_server(&host, "v");
        let now = remembered(&host);
        assert!(now <= most, "round {round}: {now} requests are remembered");
    }
    for name in ["w1", "w2", "w3", "v"] {
        host.umount(name);
    }
    wait_until("the server ends", || host.servers().is_empty());
    host.check("v");
}

/// The numbers of requests begin again with each mount: what an earlier mount of the volume asked for says nothing about them.
#[test]
fn an_earlier_mount_of_the_volume_is_not_taken_for_this_one() {
    let host = Host::new();
    host.volume("v", &[]);
    host.ok(&["clone", "v", "w"]);
    for round in 0..6 {
        let dir = host.mount("w", &[]);
        work(&dir, round);
        lose_server(&host, "v");
        work(&dir, 100 + round);
        host.umount("w");
        lose_server(&host, "v");
        assert_eq!(remembered(&host), 0, "the mount is gone");
    }
    host.umount("v");
    host.check("v");
}
