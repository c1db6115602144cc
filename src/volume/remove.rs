//! Removing volumes.

use super::clone::{are_others, sync_parent};
use super::create::UNNAMED;
use super::error::{Result, VolumeError};
use crate::backing::{Dir, OpenMode, OsDir};
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::{HEADER_NAME, LOCK_NAME, LockMode, SEGMENT_DIR, StoreId, StoreLock};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes the volume of store `id` and all of its data, if it has the store for itself and `may_go` says so, which nobody can change
/// meanwhile: it is called with the store's lock held. `progress` is told of each file that goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use, as `may_go`, or the host's.
pub fn remove(
    root: &Root,
    (id, name): (StoreId, &str),
    may_go: impl FnOnce(&StoreLock) -> Result<()>,
    progress: impl Fn(u64, u64),
) -> Result<Removed> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    if !root.path().exists() {
        return Err(VolumeError::no_volume(name));
    }
    let found = || Ok(root.resolve(name)?.filter(|found| *found == id));
    remove_linked(root, (&root.link(name), name), found, may_go, progress)
}

/// The same with a volume in the trash.
///
/// # Errors
/// `NoVolume` if it is not there any more, or as [`remove`].
pub fn remove_trashed(root: &Root, key: &str, progress: impl Fn(u64, u64)) -> Result<Removed> {
    if let Ok(Some(id)) = root.resolve_trashed(key)
        && !root.store(id).exists()
        && root.hides_stores()
    {
        let what = format!(
            "its store is not there, nor is any other in {}; mount the disk that they are on",
            root.stores().display()
        );
        return Err(VolumeError::new(Exit::Damaged, what));
    }
    remove_linked(root, (&root.trash_link(key), key), || root.resolve_trashed(key), |_| Ok(()), progress)
}

fn remove_linked(
    root: &Root,
    (link, name): (&Path, &str),
    id: impl FnOnce() -> io::Result<Option<StoreId>>,
    may_go: impl FnOnce(&StoreLock) -> Result<()>,
    progress: impl Fn(u64, u64),
) -> Result<Removed> {
    let (path, _store_lock) = {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        sweep(root);
        let id = match id() {
            Ok(Some(id)) => id,
            Ok(None) => return Err(VolumeError::no_volume(name)),
            Err(e) => return Err(VolumeError::io(link, &e)),
        };
        let path = root.store(id);
        if are_others(root, link, id)? {
            // The caller lets the store itself remove it.
            return Ok(Removed::Shared);
        }
        if !path.exists() {
            // The name of a store that somebody took away by hand.
            return fs::remove_file(link).map(|()| Removed::Done).map_err(|e| VolumeError::io(link, &e));
        }
        let lock = match StoreLock::try_acquire(&path, LockMode::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Err(in_use(name));
            }
            Err(e) => return Err(VolumeError::io(&path, &e)),
        };
        may_go(&lock)?;
        mark_unnamed(&path)?;
        fs::remove_file(link).map_err(|e| VolumeError::io(link, &e))?;
        let _ = sync_parent(link);
        for file in root.beside(id) {
            let _ = fs::remove_file(file);
        }
        (path, lock)
    };
    let failed = |(path, e): (PathBuf, io::Error)| VolumeError::io(&path, &e);
    remove_data(&path, progress).map_err(failed)?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    remove_rest(&path).map_err(failed)?;
    Ok(Removed::Done)
}

/// A volume cannot go while somebody has it.
pub(super) fn in_use(name: &str) -> VolumeError {
    VolumeError::new(
        Exit::Busy,
        format!("volume {name:?} is in use; unmount it first with `larder umount {name}`"),
    )
}

/// Marks the store in directory `path` as one that may be swept away. Whatever else has the name of the marker marks as well.
pub(super) fn mark_unnamed(path: &Path) -> Result<()> {
    let dir = OsDir::new(path);
    if !dir.exists(UNNAMED).map_err(|e| VolumeError::io(path, &e))? {
        dir.open(UNNAMED, OpenMode::CreateNew).map_err(|e| VolumeError::io(&path.join(UNNAMED), &e))?;
    }
    Ok(())
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The volume is gone, with its store.
    Done,
    /// Nothing was done: other volumes live in the same store, and the volume has to be removed from it.
    Shared,
}

/// Removes what a store holds, but not its lock, which keeps others away while this goes on, nor its marker: what is left
/// after an interruption is swept away later. Nothing outside of the store is touched, whatever links there are in it.
fn remove_data(path: &Path, progress: impl Fn(u64, u64)) -> Result<(), (PathBuf, io::Error)> {
    let dir = OsDir::new(path);
    let mut names = dir.list("").map_err(|e| (path.to_owned(), e))?;
    names.retain(|name| name != LOCK_NAME && name != UNNAMED && name != SEGMENT_DIR);
    // A link in the place of the directory, say, goes with the rest.
    let segments = dir.list(SEGMENT_DIR).unwrap_or_default();
    let total = (names.len() + segments.len()) as u64;
    let segments = segments.iter().map(|name| format!("{SEGMENT_DIR}/{name}"));
    for (done, name) in segments.chain(names).enumerate() {
        dir.remove_tree(&name).map_err(|e| (dir.path(&name), e))?;
        progress(done as u64 + 1, total);
    }
    dir.remove_tree(SEGMENT_DIR).map_err(|e| (dir.path(SEGMENT_DIR), e))
}

/// Removes the rest of a store. Who finds no lock file makes one: so the caller holds the root's lock, as all do that
/// look for what is left over.
fn remove_rest(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let dir = OsDir::new(path);
    for name in [LOCK_NAME, UNNAMED] {
        dir.remove_tree(name).map_err(|e| (dir.path(name), e))?;
    }
    fs::remove_dir(path).map_err(|e| (path.to_owned(), e))
}

/// The stores that have names, those in the trash too, if that can be found out.
fn named(root: &Root) -> Option<HashSet<StoreId>> {
    let (names, trashed) = (root.names().ok()?, root.trashed().ok()?);
    let mut named: HashSet<_> = names.iter().filter_map(|name| root.resolve(name).ok().flatten()).collect();
    named.extend(trashed.iter().filter_map(|key| root.resolve_trashed(key).ok().flatten()));
    Some(named)
}

/// The stores that no volume names, and that nobody is making or removing: names were given up while their disk was away, say.
pub fn nameless(root: &Root) -> Vec<StoreId> {
    let Ok(entries) = fs::read_dir(root.stores()) else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_whole = |id: &StoreId| {
        let store = root.store(*id);
        store.join(HEADER_NAME).exists() && store.join(UNNAMED).symlink_metadata().is_err()
    };
    let found: Vec<StoreId> = ids.filter(is_whole).collect();
    // Who makes one names it before it is whole: what is whole already has its name by now.
    let Some(named) = named(root) else { return Vec::new() };
    found.into_iter().filter(|id| !named.contains(id) && is_whole(id)).collect()
}

/// Sweeps away stores that were left without a name when making or removing them was interrupted. The caller holds
/// the root's lock. A store without the marker is never touched, named or not.
pub(super) fn sweep(root: &Root) {
    let Ok(entries) = fs::read_dir(root.stores()) else { return };
    let Some(named) = named(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        if id.is_none_or(|id| named.contains(&id)) || !OsDir::new(&path).exists(UNNAMED).unwrap_or(false) {
            continue;
        }
        if let Ok(Some(_lock)) = StoreLock::try_acquire(&path, LockMode::Exclusive) {
            match remove_data(&path, |_, _| {}).and_then(|()| remove_rest(&path)) {
                Ok(()) => log::info!("{}: removed what an interrupted command left", path.display()),
                Err((path, e)) => log::warn!("{}: {e}", path.display()),
            }
        }
    }
}
