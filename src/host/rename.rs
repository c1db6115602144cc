//! Giving a volume another name, whether a server has its store open or not.
//!
//! A name is a link to a store, a row in that store, and what is remembered and noted of the volume beside it. The new name is linked, and
//! all of that is said of it, too, before the row is changed, and the old one is unlinked last, as when a clone is made and one is removed:
//! whenever this is interrupted, one of the two stands for no volume, and goes when somebody looks, with what is remembered under it.

use super::alter::{alter, exists, is_there};
use super::ask::without_asking;
use super::health;
use super::look::unless_gone;
use super::record::{Place, Record, place};
use super::secret::{Secrets, encryption_policy, must_be_encrypted};
use super::trash::{self, vacate};
use super::users::{Users, users};
use crate::exit_code::Exit;
use crate::mount;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Alteration, Result, VolumeError, is_encrypted, rename_volume};
use std::cell::Cell;
use std::fs;

/// Gives a volume another name. It must not be mounted, nor a snapshot of it: what is mounted is known by its name to whoever looks at
/// mounts, to engines and to units of systemd.
///
/// # Errors
/// An unknown volume, a new name that cannot be or exists, `Busy` for one that is in use, or the host's.
pub fn rename(root: &Root, name: &str, new: &str, secret: &Secrets) -> Result<()> {
    let found = place(root, name)?.ok_or_else(|| trash::no_volume(root, name))?;
    // Checks that it can be one.
    place(root, new)?;
    if name == new {
        return Err(VolumeError::new(Exit::Exists, format!("volume {name:?} already has this name")));
    }
    if !users(root, name).is_empty() {
        return Err(VolumeError::new(
            Exit::Busy,
            format!(
                "volume {name:?} is in use by containers; stop them first (`docker ps -a --filter volume={name}` shows them)"
            ),
        ));
    }
    match found {
        Place::Memory => rename_in_memory(root, name, new),
        Place::Store(id) => {
            let gone = |e| unless_gone(root, id, name, e);
            if !is_encrypted(root, id).map_err(gone)? && must_be_encrypted(new)? {
                let what = format!(
                    "a volume {new:?} must be encrypted, because {} demands it, and {name:?} is not encrypted",
                    encryption_policy()
                );
                return Err(VolumeError::new(Exit::Secret, what));
            }
            without_asking(root, (id, name), secret, |secret| rename_stored(root, id, (name, new), secret))
                .map_err(gone)
        }
    }
}

fn rename_stored(root: &Root, id: StoreId, (name, new): (&str, &str), secret: &Secrets) -> Result<()> {
    if matches!(root.resolve(new), Ok(None)) {
        vacate(root, id, new, secret)?;
    }
    let taken = |new: &str| exists(root, new, secret);
    let change = Alteration::Rename { volume: name.to_owned(), to: new.to_owned() };
    let is_there = |name: &str| is_there(root, name, secret);
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    let is_begun = Cell::new(false);
    let renamed = rename_volume(root, id, (name, new), taken, is_there, || {
        // What an interruption left of an earlier volume of that name is not of this one.
        Record::forget_stored(root, new)?;
        if let Some(record) = Record::of(root, name, Place::Store(id))? {
            record.keep(root, new)?;
        }
        is_begun.set(true);
        trash::rename_soon(root, id, name, new);
        alter(root, name, secret, &change)?;
        trash::renamed(root, id, name, new);
        Ok(())
    });
    // What is remembered stays with the names that are there.
    let is_linked = |name: &str| matches!(root.resolve(name), Ok(Some(found)) if found == id);
    match (is_linked(name), is_linked(new)) {
        (true, false) if is_begun.get() => {
            health::forget(root, id, new);
            trash::not_renamed(root, id, name);
        }
        (false, true) if is_begun.get() => {
            // If the answer of its server got lost, nobody has done so yet.
            health::follow(root, id, &change);
            trash::renamed(root, id, name, new);
        }
        // If both are there, whoever looks next takes away the one that stands for nothing, with what is remembered under it.
        _ => {}
    }
    if !is_linked(new) {
        Record::forget_about(root, new, id)?;
    }
    if !is_linked(name) {
        Record::forget_about(root, name, id)?;
    }
    if place(root, name)?.is_none() {
        Users::forget(root, name)?;
    }
    renamed
}

/// A volume in memory is what is remembered of it.
fn rename_in_memory(root: &Root, name: &str, new: &str) -> Result<()> {
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    if place(root, new)?.is_some() {
        return Err(VolumeError::new(Exit::Exists, format!("volume {new:?} exists; choose another name")));
    }
    let dir = root.mountpoints().join(name);
    if matches!(mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)), Ok(Some(_))) {
        let what =
            format!("volume {name:?} is mounted on {}; stop the containers that use it first", dir.display());
        return Err(VolumeError::new(Exit::Busy, what));
    }
    let (from, to) = (root.memory(name), root.memory(new));
    let synced = || fs::File::open(to.parent().unwrap_or(&to))?.sync_all();
    fs::rename(&from, &to).and_then(|()| synced()).map_err(|e| VolumeError::io(&from, &e))?;
    Users::forget(root, name)
}
