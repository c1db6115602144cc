//! Making clones: the name first, then the volume.

use super::create::exists as already_there;
use super::error::{Result, VolumeError};
use super::family::Altered;
use super::remove::sweep;
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::StoreId;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;

/// Makes a volume `name` in the store `id` as `alter` carries it out. `exists` says whether a name that is there stands for
/// a volume: one that an interrupted command left does not.
///
/// # Errors
/// `Exists`, or as `alter`. Nothing of the clone is left then.
pub fn clone_volume(
    root: &Root,
    id: StoreId,
    name: &str,
    exists: impl Fn(&str) -> Result<bool>,
    alter: impl FnOnce() -> Result<Altered>,
) -> Result<()> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    sweep(root);
    let link = root.link(name);
    let in_memory = root.memory(name).exists();
    if in_memory || root.resolve(name).map_err(|e| VolumeError::io(&link, &e))?.is_some() {
        if in_memory || exists(name)? {
            return Err(already_there(name));
        }
        fs::remove_file(&link).map_err(|e| VolumeError::io(&link, &e))?;
    }
    symlink(Root::link_target(id), &link).map_err(|e| VolumeError::io(&link, &e))?;
    let synced = root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e));
    let result = synced.and_then(|()| alter());
    if result.is_err() {
        let _ = fs::remove_file(&link);
    }
    result.map(|_| ())
}

/// Takes a name away after its volume was removed.
///
/// # Errors
/// As unlink(2).
pub fn remove_name(root: &Root, name: &str) -> Result<()> {
    let link = root.link(name);
    match fs::remove_file(&link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(VolumeError::io(&link, &e)),
        _ => root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e)),
    }
}

/// Whether other names stand for volumes of the same store.
///
/// # Errors
/// As readdir(3).
pub fn has_relatives(root: &Root, name: &str, id: StoreId) -> Result<bool> {
    let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    Ok(names
        .iter()
        .any(|other| other != name && matches!(root.resolve(other), Ok(Some(found)) if found == id)))
}
