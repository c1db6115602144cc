//! Removing volumes, whether a server has their store open or not.

use super::alter::alter;
use super::look::{server_of, store_of};
use super::secret::Secrets;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{self, Alteration, Removed, Result, remove_name};
use std::time::{Duration, Instant};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Removes a volume that is not mounted, with its snapshots; waits a moment for a server that nobody uses any more to let go of
/// it. `progress` is told of each file that goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use, or the host's.
pub fn remove(root: &Root, name: &str, secret: &Secrets, progress: impl Fn(u64, u64)) -> Result<()> {
    match remove_idle(root, name, progress)? {
        Removed::Done => Ok(()),
        Removed::Shared(id) => remove_from(root, id, name, secret),
    }
}

/// Removes a volume from a store that others live in. What they need stays.
fn remove_from(root: &Root, id: StoreId, name: &str, secret: &Secrets) -> Result<()> {
    let change = Alteration::Remove { volume: name.to_owned() };
    match alter(root, (id, name), secret, &change) {
        // Without a volume, the name is all that an interrupted command left.
        Err(e) if e.exit != Exit::NoVolume => Err(e),
        _ => remove_name(root, name),
    }
}

/// Removes a volume; waits a moment for a server that nobody uses any more to let go of it.
fn remove_idle(root: &Root, name: &str, progress: impl Fn(u64, u64)) -> Result<Removed> {
    let until = Instant::now() + PATIENCE;
    loop {
        match volume::remove(root, name, &progress) {
            Err(e) if e.exit == Exit::Busy && Instant::now() < until && !is_served(root, name) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Whether a server has mounts of the volume's store.
fn is_served(root: &Root, name: &str) -> bool {
    let client = store_of(root, name).and_then(|id| server_of(root, id));
    let status = client.ok().flatten().and_then(|mut client| client.status().ok());
    status.is_some_and(|status| !status.mounts.is_empty())
}
