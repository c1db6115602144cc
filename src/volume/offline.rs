//! Changing the family of a store that no server has open.

use super::error::{Result, VolumeError};
use super::family::{Alteration, Altered, alter};
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::open_store::{OpenStore, StoreOptions};
use crate::root::Root;
use crate::store::{LockMode, StoreId, StoreLock};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long another process may take to let go of the store.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Takes the lock of a store for itself; waits up to `patience` for a process that is just letting go of it.
///
/// # Errors
/// `Busy` when another process has the store open, or as flock(2).
pub fn lock_store(path: &Path, patience: Duration) -> Result<StoreLock> {
    let until = Instant::now() + patience;
    loop {
        match StoreLock::try_acquire(path, LockMode::Exclusive).map_err(|e| VolumeError::io(path, &e))? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let what = format!("{}: another process has this store open", path.display());
                return Err(VolumeError::new(Exit::Busy, what));
            }
        }
    }
}

/// Opens a store that no server has open.
///
/// # Errors
/// `Busy` when another process has it open, or what is wrong with it.
pub(super) fn open_offline(root: &Root, id: StoreId, keys: Keys) -> Result<Arc<OpenStore>> {
    let path = root.store(id);
    let lock = lock_store(&path, LOCK_PATIENCE)?;
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let options = StoreOptions { cache_bytes: 0, ..StoreOptions::default() };
    Ok(OpenStore::open_with(dir, Some(lock), keys, options)?)
}

/// Opens the store, changes the family, gives back what nobody needs any more, and closes the store.
///
/// # Errors
/// `Busy` when another process has the store open, or as the change.
pub fn alter_offline(root: &Root, id: StoreId, keys: Keys, what: &Alteration) -> Result<Altered> {
    let store = open_offline(root, id, keys)?;
    let result = alter(&store, what);
    // Nobody waits, and nobody would do it later.
    while store.health().is_good() && store.meta().has_dead() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let closed = store.close();
    let altered = result?;
    closed.map_err(|e| VolumeError::new(Exit::HostIo, format!("{}: {e}", root.store(id).display())))?;
    Ok(altered)
}
