//! Many threads at once: the same storms on the file system without a mount, where they are fastest and meet each other
//! most, and on real mounts, with the kernel's caches in between.
//!
//! A storm changes things at random for a while and then looks at what must be so whatever the order was. The check of
//! the store afterwards recomputes every count.

mod direct;
mod ground;
mod limits;
mod mounted;
mod storms;

use direct::Direct;
use ground::Ground;
use mounted::Mounted;
use std::time::{Duration, Instant};

/// How long the storms of one test rage; `LARDER_STORM_MS` makes it longer.
fn until() -> Instant {
    let wanted = std::env::var("LARDER_STORM_MS").ok().and_then(|ms| ms.parse().ok());
    Instant::now() + Duration::from_millis(wanted.unwrap_or(2000))
}

/// All storms at once, each in a directory of its own.
fn all_storms<G: Ground>(ground: &G) {
    let until = until();
    std::thread::scope(|scope| {
        for storm in storms::all::<G>() {
            scope.spawn(move || storm(ground, until));
        }
    });
}

#[test]
fn storms_leave_a_sound_volume_without_a_mount() {
    let ground = Direct::new(None, None);
    all_storms(&ground);
    ground.close_and_check();
}

#[test]
fn storms_leave_a_sound_volume_when_the_kernel_gathers_writes() {
    let ground = Mounted::new(&[], "writeback=on,commit=1");
    all_storms(&ground);
    ground.close_and_check();
}

#[test]
fn storms_leave_a_sound_volume_when_every_write_waits() {
    let ground = Mounted::new(&[], "writeback=off,commit=1");
    all_storms(&ground);
    ground.close_and_check();
}

#[test]
fn limits_hold_against_many_threads_without_a_mount() {
    let ground = Direct::new(Some(limits::BLOCKS), Some(limits::INODES));
    limits::storm(&ground, until());
    ground.close_and_check();
}

#[test]
fn limits_hold_against_many_threads() {
    for options in ["writeback=on", "writeback=off"] {
        let (size, inodes) = ((limits::BLOCKS * 4096).to_string(), limits::INODES.to_string());
        let ground = Mounted::new(&["--size", &size, "--inodes", &inodes], options);
        limits::storm(&ground, until());
        ground.close_and_check();
    }
}
