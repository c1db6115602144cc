//! Working on a store that no server has open: changing its family, checking it.

use super::check::{CheckOptions, Progress, Report, check};
use super::error::{Result, VolumeError};
use super::family::{Alteration, Altered, alter};
use super::info::read_offline;
use super::remote::remote_of;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::open_store::{OpenStore, StoreOptions};
use crate::remote::{OnDemand, ShippedPages};
use crate::root::Root;
use crate::store::{Header, LockMode, Sealer, Segments, StoreId, StoreLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long another process may take to let go of the store.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(10);

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
    let local = remote_of(root, id)?;
    let pages = ShippedPages::of(&path, local.as_ref(), &keys);
    let local = local.filter(|local| local.partial);
    let is_partial = local.is_some();
    let options = StoreOptions { cache_bytes: 0, is_partial, pages, ..StoreOptions::default() };
    let store = OpenStore::open_with(dir, Some(lock), keys.clone(), options)?;
    if let Some(local) = local {
        // (What was attached as it was at some moment is in a directory that is called otherwise than the store.)
        store.segments().fetch_from(Arc::new(OnDemand::of(&local, store.id(), &keys, &Arc::default())));
    }
    Ok(store)
}

/// Opens the store and changes the family. What nobody needs any more is left to be given back.
///
/// # Errors
/// `Busy` when another process has the store open, or as the change.
pub fn alter_offline(root: &Root, id: StoreId, keys: Keys, what: &Alteration) -> Result<(Altered, Rest)> {
    let rest = Rest { path: root.store(id), store: open_offline(root, id, keys)? };
    match alter(&rest.store, what) {
        Ok(altered) => Ok((altered, rest)),
        Err(e) => {
            let _ = rest.finish();
            Err(e)
        }
    }
}

/// Opens the store and changes the family once for each of `changes`, telling `done` of each that is made, until one fails.
///
/// # Errors
/// As [`alter_offline`].
pub fn alter_each_offline(
    root: &Root,
    id: StoreId,
    keys: Keys,
    changes: &[Alteration],
    mut done: impl FnMut(Altered),
) -> Result<()> {
    let rest = Rest { path: root.store(id), store: open_offline(root, id, keys)? };
    let altered = changes.iter().try_for_each(|what| alter(&rest.store, what).map(&mut done));
    let finished = rest.finish();
    altered.and(finished)
}

/// What is left to be done in a store that was opened for a change.
#[derive(Debug)]
#[must_use = "the store is still open"]
pub struct Rest {
    path: PathBuf,
    store: Arc<OpenStore>,
}

impl Rest {
    /// Gives back what nobody needs any more, and closes the store.
    ///
    /// # Errors
    /// The host's.
    pub fn finish(self) -> Result<()> {
        // Nobody waits, and nobody would do it later.
        while self.store.is_reclaiming() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let closed = self.store.close();
        closed.map_err(|e| VolumeError::new(Exit::HostIo, format!("{}: {e}", self.path.display())))
    }
}

/// Checks a store that no process has open, without changing anything.
///
/// # Errors
/// As [`super::inspect_offline`], `NoVolume` for a name that stands for none of its volumes, and when the check cannot be made.
pub fn check_offline(
    root: &Root,
    id: StoreId,
    name: &str,
    keys: &Keys,
    read_data: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    read_offline((root, id, name), keys, |dir, inspector| {
        // If it can be read which volumes there are. What cannot be read, the check finds.
        if inspector.volumes().is_ok_and(|rows| rows.iter().all(|row| row.name != name)) {
            return Err(VolumeError::no_volume(name));
        }
        let store = Header::read(&*dir)?.store;
        let segments = Segments::new(dir, store, Sealer::new(keys), 0..0);
        segments.set_partial(remote_of(root, id)?.is_some_and(|local| local.partial));
        check(inspector, &segments, CheckOptions { read_data, online: false }, progress)
    })
}
