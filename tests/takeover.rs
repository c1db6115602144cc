//! A server is killed, hangs, or is replaced by another version, under programs that go on: nothing but a pause is seen.

mod ending;
mod hang;
mod long;
mod losses;
mod memory;
mod open_files;
mod programs;
mod storm;
mod suspects;
mod tied;
mod upgrade;

use crate::support::{Host, is_running, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to the server of a volume, and returns its process id.
#[track_caller]
fn signal_server(host: &Host, name: &str, signal: Signal) -> i32 {
    let pid = host.server(name);
    kill(Pid::from_raw(pid), signal).unwrap();
    pid
}

/// Kills the server of a volume and waits until another one serves.
#[track_caller]
pub fn lose_server(host: &Host, name: &str) {
    let before = signal_server(host, name, Signal::SIGKILL);
    wait_until("another server takes over", || !is_running(before) && host.server(name) != before);
}
