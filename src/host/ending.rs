//! Ending servers, also those of volumes that somebody still uses.

use super::look::{server_of, server_within};
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is looked whether a server lives.
const INTERVAL: Duration = Duration::from_millis(50);

/// Tells the servers of stores to end, and waits until everything is on disk, for `at_most`: what programs have written is kept, and what
/// they have mounted is gone. The stores whose servers are still at work then, or do not answer, with the reason.
pub fn end_servers(
    root: &Root,
    stores: impl IntoIterator<Item = StoreId>,
    at_most: Duration,
) -> Vec<(StoreId, VolumeError)> {
    let until = Instant::now() + at_most;
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for id in stores {
        match tell(root, id, until) {
            Ok(is_told) => told.extend(is_told.then_some(id)),
            Err(e) => failed.push((id, e)),
        }
    }
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // One that hangs up, or does not answer for a moment, is on its way.
        told.retain(|id| !matches!(server_within(root, *id, left.max(INTERVAL)), Ok(None)));
        if told.is_empty() || left.is_zero() {
            break;
        }
        sleep(INTERVAL);
    }
    let late = |id| (id, VolumeError::new(Exit::Busy, "the server is still at work"));
    failed.extend(told.into_iter().map(late));
    failed
}

/// Tells the server of a store to end, if there is one.
fn tell(root: &Root, id: StoreId, until: Instant) -> Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let Some(mut client) = server_within(root, id, left)? else { return Ok(false) };
    let pid = match client.status() {
        Ok(status) => status.pid,
        Err(e) if e.silent => return Err(e),
        // It has ended meanwhile.
        Err(_) => return server_of(root, id).map(|client| client.is_some()),
    };
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    Ok(true)
}
