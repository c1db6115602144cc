//! A server is killed, hangs, or is replaced by another version, under programs that go on: nothing but a pause is seen.

mod ending;
mod hang;
mod long;
mod losses;
mod memory;
mod open_files;
mod programs;
mod rest;
mod smaller;
mod storm;
mod suspects;
mod tied;
mod upgrade;

use crate::support::{Host, is_running, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills the server of a volume and waits until another one serves.
#[track_caller]
pub fn lose_server(host: &Host, name: &str) {
    let before = host.server(name);
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    wait_until("another server takes over", || !is_running(before) && host.server(name) != before);
}
