//! Out of the trash.

use super::replaced::renamed;
use super::rows::{rename, vacate_locked};
use super::{Trashed, find, lock, settle};
use crate::exit_code::Exit;
use crate::host::ask::without_asking;
use crate::host::record::Record;
use crate::host::secret::{Secrets, encryption_policy, must_be_encrypted};
use crate::root::{Root, check_name};
use crate::volume::{Result, VolumeError, is_encrypted, put_back};

/// Gives a volume back, under the name that it had, or another. `what` is its name, or its key in the trash. An encrypted one is opened
/// only if it has to be renamed in its store; then `secrets` do it, or what was remembered of it.
///
/// # Errors
/// `NoVolume`, `Exists` for a name that is taken, `Secret`, or the host's. It is in the trash then.
pub fn restore(root: &Root, what: &str, name: Option<&str>, secrets: &Secrets) -> Result<Trashed> {
    let of = find(root, what)?;
    let secrets = of.secrets_or(root, secrets);
    // Without a secret first: mostly, none is needed.
    match restore_now(root, what, name, &secrets.only_known()) {
        Err(e) if e.exit == Exit::Secret => {
            let id = (of.store, of.entry.name.as_str());
            without_asking(root, id, &secrets, |secrets| restore_now(root, what, name, secrets))
        }
        other => other,
    }
}

/// What fails with `Secret` has changed nothing.
fn restore_now(root: &Root, what: &str, name: Option<&str>, secrets: &Secrets) -> Result<Trashed> {
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
        let what = format!(
            "volume {what:?}: its store {} is not there; mount the disk that it is on, or restore it from a backup",
            path.display()
        );
        return Err(VolumeError::new(Exit::Damaged, what));
    }
    // What is damaged comes back, too: it cannot be looked at in the trash.
    if matches!(is_encrypted(root, of.store), Ok(false)) && must_be_encrypted(&name)? {
        let what = format!(
            "a volume {name:?} must be encrypted, because {} demands it, and the one in the trash is not encrypted; it stays there",
            encryption_policy()
        );
        return Err(VolumeError::new(Exit::Secret, what));
    }
    vacate_locked(root, of.store, &name, secrets, Some(&of.key))?;
    if of.entry.names != [name.as_str()] {
        rename(root, &mut of, secrets, &name)?;
    }
    let put = keep_record(root, &of, &name).and_then(|()| put_back(root, &of.key, &name));
    if let Err(e) = put {
        // Unless it got there.
        if matches!(root.resolve(&name), Ok(None)) {
            Record::forget_about(root, &name, of.store)?;
        }
        return Err(e);
    }
    Trashed::forget(root, &of.key)?;
    renamed(root, of.store, &of.entry.name, &name);
    of.entry.name = name;
    Ok(of)
}

/// What was remembered of it is remembered again: under a name that `settle` knows of, should the next step not be reached. What an
/// interruption left of an earlier volume of that name is not of this one.
fn keep_record(root: &Root, of: &Trashed, name: &str) -> Result<()> {
    match &of.entry.record {
        Some(record) => record.keep(root, name),
        None => Record::forget_stored(root, name),
    }
}
