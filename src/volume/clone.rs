//! Names in a store that several volumes share. A clone is made name first, and removed name last: so a name may stand for no
//! volume, but no volume is without a name.

use super::create::exists as already_there;
use super::error::{Result, VolumeError};
use super::family::Altered;
use super::remove::{mark_unnamed, sweep};
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::StoreId;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Makes a volume `name` in the store `id` of the volume `source` as `alter` carries it out. `exists` says whether a name that is there stands for
/// a volume: one that an interrupted command left does not. `is_there` says, of whoever can look at it, whether there is one now, when
/// an answer of `alter` got lost.
///
/// # Errors
/// `Exists`, or as `alter`. Nothing of the clone is left then, or a name that whoever looks at the store next takes away.
pub fn clone_volume(
    root: &Root,
    (id, source): (StoreId, &str),
    name: &str,
    exists: impl Fn(&str) -> Result<bool>,
    is_there: impl Fn(&str) -> Result<bool>,
    alter: impl FnOnce() -> Result<Altered>,
) -> Result<()> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    sweep(root);
    // Its store may be on the point of going with it.
    if root.resolve(source).map_err(|e| VolumeError::io(&root.link(source), &e))? != Some(id) {
        return Err(VolumeError::no_volume(source));
    }
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
    match result {
        Ok(_) => Ok(()),
        // The store has a volume of that name already: it is not this one. Or nobody could do anything.
        Err(e) if matches!(e.exit, Exit::Exists | Exit::Secret) => {
            let _ = fs::remove_file(&link);
            Err(e)
        }
        // An answer can get lost.
        Err(e) => match is_there(name) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let _ = fs::remove_file(&link);
                Err(e)
            }
            // Whoever looks next will know.
            Err(_) => Err(e),
        },
    }
}

/// Takes a volume away from store `id`, which others live in, and its name with it: `alter` removes the volume; one that is not there
/// any more is `NoVolume`. False, and nothing was done, if no others live there.
///
/// # Errors
/// As `alter`, and `NoVolume` for a name that is another volume's by now.
pub fn remove_shared(
    root: &Root,
    (id, name): (StoreId, &str),
    alter: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let found = || Ok(root.resolve(name)?.filter(|found| *found == id));
    remove_shared_link(root, (&root.link(name), name), found, alter)
}

/// The same with a volume in the trash.
///
/// # Errors
/// As [`remove_shared`].
pub fn remove_shared_trashed(root: &Root, key: &str, alter: impl FnOnce() -> Result<()>) -> Result<bool> {
    remove_shared_link(root, (&root.trash_link(key), key), || root.resolve_trashed(key), alter)
}

fn remove_shared_link(
    root: &Root,
    (link, name): (&Path, &str),
    id: impl FnOnce() -> io::Result<Option<StoreId>>,
    alter: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    // Nobody makes a volume of this name between its removal and that of the name.
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    let id = id().map_err(|e| VolumeError::io(link, &e))?;
    let id = id.ok_or_else(|| VolumeError::no_volume(name))?;
    if !are_others(root, link, id)? {
        return Ok(false);
    }
    match alter() {
        // The name is all that an interrupted command left.
        Err(e) if e.exit != Exit::NoVolume => return Err(e),
        _ => {}
    }
    fs::remove_file(link).and_then(|()| sync_parent(link)).map_err(|e| VolumeError::io(link, &e))?;
    Ok(true)
}

/// Takes away the names of store `id` that stand for none of its `volumes`, after `forget` was told of each, and returns them. When none is
/// left and the store holds no volume, it goes too. Nothing is done while somebody else makes or removes names.
///
/// # Errors
/// As `volumes`, or the host's.
pub fn remove_bare_names(
    root: &Root,
    id: StoreId,
    volumes: impl FnOnce() -> Result<Vec<String>>,
    forget: impl Fn(&str),
) -> Result<Vec<String>> {
    let Some(_lock) = root.try_lock().map_err(|e| VolumeError::io(root.path(), &e))? else {
        return Ok(Vec::new());
    };
    // Only now: a volume that was made before has its name.
    let volumes = volumes()?;
    let mut names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    names.retain(|name| {
        !volumes.contains(name) && matches!(root.resolve(name), Ok(Some(found)) if found == id)
    });
    if names.is_empty() {
        return Ok(names);
    }
    if volumes.is_empty() {
        mark_unnamed(&root.store(id))?;
    }
    for name in &names {
        let link = root.link(name);
        forget(name);
        fs::remove_file(&link).map_err(|e| VolumeError::io(&link, &e))?;
    }
    root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    if volumes.is_empty() {
        sweep(root);
    }
    Ok(names)
}

/// Whether other names stand for volumes of the same store, or others of its volumes are in the trash.
///
/// # Errors
/// As readdir(3).
pub fn has_relatives(root: &Root, name: &str, id: StoreId) -> Result<bool> {
    are_others(root, &root.link(name), id)
}

/// Whether other links than this one stand for volumes of a store.
pub(super) fn are_others(root: &Root, link: &Path, id: StoreId) -> Result<bool> {
    let links = root.links_to(id).map_err(|e| VolumeError::io(root.path(), &e))?;
    Ok(links.iter().any(|other| other != link))
}

/// Makes durable that a link is there, or is not.
pub(super) fn sync_parent(link: &Path) -> io::Result<()> {
    fs::File::open(link.parent().unwrap_or(link))?.sync_all()
}
