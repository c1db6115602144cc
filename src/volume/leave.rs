//! Leaving a store to its remote: what is here goes, because all of it is there.

use super::error::{Result, VolumeError};
use super::remove::{erase, in_use, mark_unnamed, sweep};
use crate::exit_code::Exit;
use crate::remote::Local;
use crate::root::Root;
use crate::store::{StoreId, StoreLock};
use std::fs;

/// The names that the volumes of a store have here.
///
/// # Errors
/// The host's.
pub fn names_in(root: &Root, id: StoreId) -> Result<Vec<String>> {
    let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    Ok(names.into_iter().filter(|name| matches!(root.resolve(name), Ok(Some(of)) if of == id)).collect())
}

/// Removes a store of which everything was in its remote when `shipped` was kept, and that nobody has opened since: its lock was held. With it
/// go the names of all its volumes, which are returned. `progress` is told of each file that goes: how many are gone, of how many.
///
/// # Errors
/// `Busy` if somebody has it open, or has had it since: then nothing is removed; or if something of it is in the trash; and the host's.
pub fn leave_to_remote(
    root: &Root,
    id: StoreId,
    name: &str,
    (shipped, lock): (&Local, Option<StoreLock>),
    progress: impl Fn(u64, u64),
) -> Result<Vec<String>> {
    let path = root.store(id);
    let io = |e: std::io::Error| VolumeError::io(&path, &e);
    let (names, _store_lock) = {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        sweep(root);
        let names = names_in(root, id)?;
        must_not_be_in_trash(root, id)?;
        let lock = lock.ok_or_else(|| in_use(name))?;
        if Local::read(&path).map_err(io)?.as_ref() != Some(shipped) {
            let what = format!("volume {name:?} was used since it was shipped; detach it again");
            return Err(VolumeError::new(Exit::Busy, what));
        }
        mark_unnamed(&path)?;
        for name in &names {
            let link = root.link(name);
            fs::remove_file(&link).map_err(|e| VolumeError::io(&link, &e))?;
        }
        root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
        for file in root.beside(id) {
            let _ = fs::remove_file(file);
        }
        (names, lock)
    };
    erase(root, &path, progress)?;
    Ok(names)
}

/// What is in the trash of this host is in the store as well, and would be a volume wherever that is attached.
///
/// # Errors
/// `Busy` if there is something, with its names.
pub fn must_not_be_in_trash(root: &Root, id: StoreId) -> Result<()> {
    let trashed = root.trashed().map_err(|e| VolumeError::io(root.path(), &e))?;
    if trashed.iter().any(|key| matches!(root.resolve_trashed(key), Ok(Some(of)) if of == id)) {
        let what = "volumes of the same store are in the trash; restore them, or remove them for good with `larder trash empty`";
        return Err(VolumeError::new(Exit::Busy, what));
    }
    Ok(())
}
