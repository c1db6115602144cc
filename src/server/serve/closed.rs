//! What is done with a store that no server has open, and with its remote.

use super::shipping::{Shipping, local_of};
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::open_store::{OpenStore, StoreOptions};
use crate::remote::{Local, ShippedPages};
use crate::root::Root;
use crate::store::{StoreId, StoreLock};
use crate::volume::check::live_blocks;
use crate::volume::{ReencryptionInfo, Result, VolumeError, lock_store};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long another process may take to let go of a store.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked how far a re-encryption is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it is waited for the remote to have what was sealed again.
const SHIP_PATIENCE: Duration = Duration::from_secs(60);

/// A store that is open for this process alone, and shipped.
struct Shipped {
    path: PathBuf,
    store: Arc<OpenStore>,
    shipping: Shipping,
}

fn failed(what: String) -> VolumeError {
    VolumeError::new(Exit::Failure, what)
}

impl Shipped {
    fn open(root: &Root, id: StoreId, keys: Keys) -> Result<Self> {
        let path = root.store(id);
        let io = |e: io::Error| VolumeError::io(&path, &e);
        let lock = lock_store(&path, LOCK_PATIENCE)?;
        let Some(local) = local_of(&path).map_err(io)? else {
            return Err(failed("the store has no remote".into()));
        };
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
        let is_partial = local.partial;
        let pages = ShippedPages::of(&path, Some(&local), &keys);
        let options =
            StoreOptions { cache_bytes: 0, moments: true, is_partial, pages, ..StoreOptions::default() };
        let store = OpenStore::open_with(dir, Some(lock), keys.clone(), options)?;
        match Shipping::start(&path, &store, &keys, local) {
            Ok(shipping) => Ok(Self { path, store, shipping }),
            Err(e) => {
                let _ = store.close();
                Err(VolumeError::io(&path, &e))
            }
        }
    }

    /// Closes the store, whose lock stays with the caller.
    fn close(self) -> (Result<()>, Option<StoreLock>) {
        self.shipping.end(true, None);
        let (closed, lock) = self.store.close_locked();
        let failed = |e| VolumeError::new(Exit::HostIo, format!("{}: {e}", self.path.display()));
        (closed.map_err(failed), lock)
    }

    fn leave(&self, timeout: Duration) -> Result<Local> {
        let synced = self.shipping.sync(timeout, &|| false).map_err(failed);
        let synced = synced.and_then(|_| self.must_be_in_remote()).and_then(|()| self.must_be_there());
        self.shipping.end(true, None);
        synced?;
        let what = || failed("everything is there, but the remote could not be let go of; try again".into());
        self.shipping.has_left().ok_or_else(what)
    }

    /// Refuses to go where a block could not be read, and so not be shipped: what is here may be all that there is of it.
    fn must_be_in_remote(&self) -> Result<()> {
        let of_store = |e: &dyn std::fmt::Display| {
            VolumeError::new(Exit::Damaged, format!("{}: {e}", self.path.display()))
        };
        let inspector = self.store.meta().inspector().map_err(|e| of_store(&e))?;
        let live = live_blocks(&inspector).map_err(|e| of_store(&e))?;
        match self.shipping.missing(&live) {
            Some(0) => Ok(()),
            Some(count) => {
                let blocks = if count == 1 { "1 block".into() } else { format!("{count} blocks") };
                let what = format!(
                    "{blocks} of files could not be read here, and the remote has nothing of that: nothing is removed; `larder check \
                     --read-data` names the files"
                );
                Err(VolumeError::new(Exit::Damaged, what))
            }
            None => Err(failed("it is not known whether all of it is in the remote; try again".into())),
        }
    }

    /// Refuses to go where something of what was shipped is not there any more: what is here is the last copy of it.
    fn must_be_there(&self) -> Result<()> {
        let found = self.shipping.check().map_err(|e| {
            failed(format!(
                "cannot look whether the remote still has all of it: {e}; nothing is removed; try again"
            ))
        })?;
        let Some(first) = found.faults.first() else { return Ok(()) };
        let what = format!(
            "the remote does not have all of it any more: {first}; nothing is removed; `larder remote check` says all that is wrong there"
        );
        Err(VolumeError::new(Exit::Damaged, what))
    }

    fn reencrypt(&self, progress: &mut dyn FnMut(&ReencryptionInfo)) -> Result<()> {
        self.store.hurry_reencryption();
        while let Some(state) = self.store.reencryption().map(ReencryptionInfo::from) {
            if let Some(e) = state.error() {
                return Err(e);
            }
            progress(&state);
            if state.total > 0 && state.done >= state.total {
                // What is left is to wait for the remote.
                self.shipping.sync(SHIP_PATIENCE, &|| false).map_err(|e| {
                    failed(format!(
                        "{e}: everything here is sealed again, and the older keys stay until the remote has all of that; it continues \
                         when the volume is mounted, or with `larder key reencrypt`"
                    ))
                })?;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // Without the older keys, too.
        self.shipping.sync(SHIP_PATIENCE, &|| false).map(drop).map_err(|e| {
            failed(format!(
                "{e}: everything is sealed again, and the older keys are gone here, and not yet there"
            ))
        })
    }
}

/// Ships all of a store that nobody has open, and says goodbye. Returns what is kept of the remote then, and the store's lock: as long as that
/// is held, there is nothing here that is not there.
///
/// # Errors
/// `Busy` when another process has it open; why not all of it is there after `timeout`; or what is wrong with the store.
pub fn ship_to_leave(
    root: &Root,
    id: StoreId,
    keys: Keys,
    timeout: Duration,
) -> Result<(Local, Option<StoreLock>)> {
    let shipped = Shipped::open(root, id, keys)?;
    let left = shipped.leave(timeout);
    let (closed, lock) = shipped.close();
    let left = left?;
    closed.map(|()| (left, lock))
}

/// Seals everything again in a store with a remote that nobody has open, here and there: what is only there comes here for that.
///
/// # Errors
/// `Busy` when another process has it open; when the remote does not get what was sealed again: then the older keys stay; `NoSpace`,
/// damage, or the host's. What was done is not undone.
pub fn reencrypt_closed(
    root: &Root,
    id: StoreId,
    keys: Keys,
    progress: &mut dyn FnMut(&ReencryptionInfo),
) -> Result<()> {
    let shipped = Shipped::open(root, id, keys)?;
    let done = shipped.reencrypt(progress);
    let (closed, _lock) = shipped.close();
    done.and(closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LockMode;
    use crate::volume::{LimitChanges, VolumeSpec, create};
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    /// A store with a remote in `objects`, below the directory, of which only [`Local::read`] knows.
    fn made() -> (TempDir, Root, StoreId) {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path().join("root"));
        let (name, labels, limits) = ("v".into(), BTreeMap::new(), LimitChanges::default());
        let spec = VolumeSpec { name, limits, uid: 0, gid: 0, mode: 0o755, labels, remote: None };
        let id = create(&root, &spec).unwrap();
        let objects = tmp.path().join("objects");
        std::fs::create_dir(&objects).unwrap();
        Local::new(&format!("file://{}", objects.display())).unwrap().write(&root.store(id)).unwrap();
        (tmp, root, id)
    }

    /// Between the goodbye and the removal, somebody could mount the volume, write, and unmount it.
    #[test]
    fn nobody_has_a_store_open_between_its_goodbye_and_its_removal() {
        let (_tmp, root, id) = made();
        let (left, lock) = ship_to_leave(&root, id, Keys::Plain, Duration::from_secs(60)).unwrap();
        assert_eq!(Local::read(&root.store(id)).unwrap(), Some(left));
        let take = || StoreLock::try_acquire(&root.store(id), LockMode::Exclusive).unwrap();
        assert!(lock.is_some() && take().is_none());
        drop(lock);
        assert!(take().is_some());
    }

    /// No other record names the newest one, nor had it been noted here: it was not missed.
    #[test]
    fn a_remote_without_its_newest_record_does_not_have_all_of_it() {
        let (tmp, root, id) = made();
        let shipped = Shipped::open(&root, id, Keys::Plain).unwrap();
        shipped.shipping.sync(Duration::from_secs(60), &|| false).unwrap();
        shipped.must_be_there().unwrap();
        let records = std::fs::read_dir(tmp.path().join("objects/log")).unwrap();
        let newest = records.map(|record| record.unwrap().path()).max().unwrap();
        let away = tmp.path().join("away");
        std::fs::rename(&newest, &away).unwrap();
        let refused = shipped.must_be_there().unwrap_err();
        assert!(refused.message.contains("does not have all of it any more"), "{}", refused.message);
        std::fs::rename(&away, &newest).unwrap();
        shipped.must_be_there().unwrap();
        shipped.close().0.unwrap();
    }
}
