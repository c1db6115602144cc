//! Having all that programs have written to a mount, also what the kernel has gathered of it.
//!
//! The kernel does not wait for that itself: when syncfs(2) returns, it has made requests of all that was dirty, and most of them can
//! still wait in its queues (fs/fuse/dev.c). Those that nobody waits for it gives to the server `max_background` at a time, the first ones first;
//! and what is given waits in one queue with all other requests, and is taken in order. So all has been taken once the first queue was
//! empty, or has moved on by as much as was asked for, and then one more request was answered; and is done when those who read
//! requests have come back for the next. Rings have queues of their own (`fuse/uring/flow.rs`).

use crate::fs::VolumeId;
use crate::fuse::{Ledger, await_done};
use crate::mount::{self, Asked};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The threads that have the kernel write back, as the one that is told to end does: who looks at what this process does knows such by
/// this name (`holder/watch.rs`).
const WRITES_BACK: &str = "larder-signals";
/// How long is waited until the next look, at first and later.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// Where it cannot be seen what requests are worked on: how long nothing may be answered.
const STILL: Duration = Duration::from_secs(10);

/// Has everything that programs have written so far to the mount of `volume`, of which `root` is the root directory: waits for however
/// long its server takes. May not be called by who has to serve it.
///
/// # Errors
/// As syncfs(2), or if it cannot be seen what the kernel has asked for.
pub(super) fn write_back(root: &File, ledger: &Ledger, volume: VolumeId) -> io::Result<()> {
    let connection = mount::connection_of(root)?;
    nix::unistd::syncfs(root)?;
    let rings = ledger.rings(volume);
    if !rings.is_empty() {
        await_done(&rings, mount::asked(connection)?.waiting);
        return Ok(());
    }
    pass_queue(connection, ledger, volume)?;
    // The one more: an ioctl that there is not is refused at once, also while a rollback waits for all else.
    root.is_terminal();
    let mark = ledger.mark(volume);
    let mut pause = Pause::default();
    while !mark.is_passed() {
        pause.sleep();
    }
    Ok(())
}

/// Waits until the server has been given all that is now in the queue for what nobody waits for.
fn pass_queue(connection: u32, ledger: &Ledger, volume: VolumeId) -> io::Result<()> {
    let begun = mount::asked(connection)?;
    let written_back = ledger.written_back(volume);
    let (mut waiting, mut since) = (begun.waiting, Instant::now());
    let mut pause = Pause::default();
    loop {
        let Asked { waiting: now, max_background } = mount::asked(connection)?;
        let is_empty = now <= max_background || ledger.is_at_rest(volume, max_background.saturating_sub(1));
        // No more was in it than waited at all.
        if is_empty || ledger.written_back(volume).saturating_sub(written_back) >= begun.waiting {
            return Ok(());
        }
        if now != waiting || ledger.has_readers(volume) {
            (waiting, since) = (now, Instant::now());
        } else if since.elapsed() >= STILL {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{now} requests are not answered")));
        }
        pause.sleep();
    }
}

/// Waiting for what cannot be waited for otherwise.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(INTERVALS.0)
    }
}

impl Pause {
    fn sleep(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (2 * self.0).min(INTERVALS.1);
    }
}

/// Does all of `works` at the same time, each on a thread that may wait for what this process serves: one that comes no further does
/// not keep the others from the disk.
pub(super) fn beside(works: impl IntoIterator<Item = impl Fn() + Send + Sync>) {
    let works: Vec<_> = works.into_iter().collect();
    std::thread::scope(|scope| {
        for work in &works {
            if Builder::new().name(WRITES_BACK.into()).spawn_scoped(scope, work).is_err() {
                work();
            }
        }
    });
}
