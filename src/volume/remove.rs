//! Removing volumes.

use super::clone::has_relatives;
use super::create::UNNAMED;
use super::error::{Result, VolumeError};
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::{LockMode, StoreLock};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes a volume and all of its data, if it has its store for itself. `progress` is told of each file that goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use, or the host's.
pub fn remove(root: &Root, name: &str, progress: impl Fn(u64, u64)) -> Result<Removed> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let (path, _store_lock) = {
        let io = |e: io::Error| VolumeError::io(root.path(), &e);
        if !root.path().exists() {
            return Err(VolumeError::no_volume(name));
        }
        let _lock = root.lock().map_err(io)?;
        sweep(root);
        let link = root.link(name);
        let id = match root.resolve(name) {
            Ok(Some(id)) => id,
            Ok(None) => return Err(VolumeError::no_volume(name)),
            Err(e) => return Err(VolumeError::io(&link, &e)),
        };
        let path = root.store(id);
        if has_relatives(root, name, id)? {
            // The caller lets the store itself remove it.
            return Ok(Removed::Shared);
        }
        if !path.exists() {
            // The name of a store that somebody took away by hand.
            return fs::remove_file(&link).map(|()| Removed::Done).map_err(|e| VolumeError::io(&link, &e));
        }
        let lock = match StoreLock::try_acquire(&path, LockMode::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Err(VolumeError::new(
                    Exit::Busy,
                    format!("volume {name:?} is in use; unmount it first with `larder umount {name}`"),
                ));
            }
            Err(e) => return Err(VolumeError::io(&path, &e)),
        };
        fs::write(path.join(UNNAMED), "").map_err(|e| VolumeError::io(&path, &e))?;
        fs::remove_file(&link).map_err(|e| VolumeError::io(&link, &e))?;
        let _ = root.sync_names();
        let _ = fs::remove_file(root.log(id));
        (path, lock)
    };
    remove_files(&path, progress).map(|()| Removed::Done).map_err(|(path, e)| VolumeError::io(&path, &e))
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The volume is gone, with its store.
    Done,
    /// Nothing was done: other volumes live in the same store, and the volume has to be removed from it.
    Shared,
}

/// Removes the files of a store, the marker last: what is left after an interruption is swept away later.
fn remove_files(path: &Path, progress: impl Fn(u64, u64)) -> Result<(), (PathBuf, io::Error)> {
    let mut files = Vec::new();
    let mut dirs = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| (dir.clone(), e))?;
        dirs.push(dir);
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.sort_by_key(|file| file.file_name() == Some(UNNAMED.as_ref()));
    let total = files.len() as u64;
    for (done, file) in files.into_iter().enumerate() {
        fs::remove_file(&file).map_err(|e| (file, e))?;
        progress(done as u64 + 1, total);
    }
    for dir in dirs.into_iter().rev() {
        fs::remove_dir(&dir).map_err(|e| (dir, e))?;
    }
    Ok(())
}

/// Sweeps away stores that were left without a name when making or removing them was interrupted. The caller holds
/// the root's lock. A store without the marker is never touched, named or not.
pub(super) fn sweep(root: &Root) {
    let Ok(entries) = fs::read_dir(root.stores()) else { return };
    let named: HashSet<_> = match root.names() {
        Ok(names) => names.iter().filter_map(|name| root.resolve(name).ok().flatten()).collect(),
        Err(_) => return,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        if id.is_none_or(|id| named.contains(&id)) || !path.join(UNNAMED).exists() {
            continue;
        }
        if let Ok(Some(_lock)) = StoreLock::try_acquire(&path, LockMode::Exclusive) {
            match remove_files(&path, |_, _| {}) {
                Ok(()) => log::info!("{}: removed what an interrupted command left", path.display()),
                Err((path, e)) => log::warn!("{}: {e}", path.display()),
            }
        }
    }
}
