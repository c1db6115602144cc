//! Out of the trash.

use super::rows::{rename, vacate_locked};
use super::{Trashed, find, lock, settle};
use crate::exit_code::Exit;
use crate::host::secret::Secrets;
use crate::root::{Root, check_name};
use crate::volume::{Result, VolumeError, put_back};

/// Gives a volume back, under the name that it had, or another. `what` is its name, or its key in the trash. An encrypted one is opened
/// only if it has to be renamed in its store; then `secrets` do it, or what was remembered of it.
///
/// # Errors
/// `NoVolume`, `Exists` for a name that is taken, `Secret`, or the host's. It is in the trash then.
pub fn restore(root: &Root, what: &str, name: Option<&str>, secrets: &Secrets) -> Result<Trashed> {
    if !root.path().exists() {
        return find(root, what);
    }
    let _lock = lock(root)?;
    settle(root)?;
    let mut of = find(root, what)?;
    let name = name.unwrap_or(&of.entry.name).to_owned();
    check_name(&name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    if root.link(&name).symlink_metadata().is_ok() || root.memory(&name).exists() {
        let what = format!(
            "volume {name:?} exists; bring the other one back under another name: `larder trash restore {} NAME`",
            of.key
        );
        return Err(VolumeError::new(Exit::Exists, what));
    }
    if !root.store(of.store).exists() {
        let path = root.store(of.store);
        let what = format!("volume {what:?}: its store {} is gone; restore it from a backup", path.display());
        return Err(VolumeError::new(Exit::Damaged, what));
    }
    let secrets = of.secrets_or(secrets);
    vacate_locked(root, of.store, &name, &secrets, Some(&of.key))?;
    if of.entry.names != [name.as_str()] {
        rename(root, &mut of, &secrets, &name)?;
    }
    if let Some(record) = &of.entry.record {
        // Under a name that `settle` knows of, should the next step not be reached.
        record.keep(root, &name)?;
    }
    put_back(root, &of.key, &name)?;
    Trashed::forget(root, &of.key)?;
    of.entry.name = name;
    Ok(of)
}
