//! Renaming a volume: its link, and its row in its store.

use super::create::exists as already_there;
use super::error::{Result, VolumeError};
use super::remove::sweep;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use std::fs;
use std::os::unix::fs::symlink;

/// Gives the volume of store `id` that is called by the first name the second one, as `alter` carries it out in the store. The new name
/// is linked before and the old one unlinked after that, so that no volume is ever without a name. `taken` says whether a name that is
/// there stands for a volume, or can be taken; `is_there`, when `alter` has failed, whether a volume of that name is in the store. The caller
/// holds the root's lock.
///
/// # Errors
/// `NoVolume`, `Exists`, or as `alter`. Nothing has changed then; or one of the names stands for nothing, and whoever looks at the store
/// next takes it away.
pub fn rename_volume(
    root: &Root,
    id: StoreId,
    (name, new): (&str, &str),
    taken: impl Fn(&str) -> Result<bool>,
    is_there: impl Fn(&str) -> Result<bool>,
    alter: impl FnOnce() -> Result<()>,
) -> Result<()> {
    sweep(root);
    let (from, to) = (root.link(name), root.link(new));
    if root.resolve(name).map_err(|e| VolumeError::io(&from, &e))? != Some(id) {
        return Err(VolumeError::no_volume(name));
    }
    let in_memory = root.memory(new).exists();
    if in_memory || root.resolve(new).map_err(|e| VolumeError::io(&to, &e))?.is_some() {
        if in_memory || taken(new)? {
            return Err(already_there(new));
        }
        fs::remove_file(&to).map_err(|e| VolumeError::io(&to, &e))?;
    }
    symlink(Root::link_target(id), &to).map_err(|e| VolumeError::io(&to, &e))?;
    let synced = || root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e));
    if let Err(e) = synced().and_then(|()| alter()) {
        // Without the secret, nobody could do anything.
        let is_unchanged = if e.exit == Exit::Secret { Ok(true) } else { is_there(name) };
        match is_unchanged {
            Ok(true) => {
                let _ = fs::remove_file(&to);
                return Err(e);
            }
            // An answer can get lost.
            Ok(false) if matches!(is_there(new), Ok(true)) => {}
            _ => return Err(e),
        }
    }
    fs::remove_file(&from).map_err(|e| VolumeError::io(&from, &e))?;
    synced()
}
