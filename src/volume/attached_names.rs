//! The names that volumes of a store get on the host where it is attached.

use super::clone::sync_parent;
use super::create::{UNNAMED, exists};
use super::error::{Result, VolumeError};
use super::family::Alteration;
use super::info::inspect_locked;
use super::offline::alter_each_offline;
use super::remote::clean_up;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::{Root, check_name, name_of_trashed};
use crate::store::{StoreId, StoreLock};
use std::cmp::Reverse;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attaches {
    /// The newest state, with which this host goes on. What was in the trash there is in the trash here.
    Newest,
    /// An earlier one, beside the newest, perhaps: what a name is given for are many volumes, their names begin with it. What was in the
    /// trash then is left out.
    Moment,
}

/// The names that volumes of a store get here.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) all: Vec<String>,
    /// Volumes that get other names than they have there, with those.
    renamed: Vec<(String, String)>,
    /// What is in the trash.
    trashed: Vec<String>,
    attaches: Attaches,
}

impl Names {
    /// Those of a store that was put down; `name` is what the only one is to be called.
    ///
    /// # Errors
    /// `NoVolume` where there is none; `Usage` for a name that cannot be.
    pub(super) fn of(
        root: &Root,
        (id, keys): (StoreId, &Keys),
        held: Option<&StoreLock>,
        name: Option<&str>,
        attaches: Attaches,
    ) -> Result<Self> {
        let Some(lock) = held else {
            return Err(VolumeError::new(Exit::Failure, "the lock of the store was lost"));
        };
        let rows = inspect_locked(root, id, keys, lock, |inspector| Ok(inspector.volumes()?))?;
        let all = rows.into_iter().map(|row| row.name);
        // What is in the trash there has a name that no volume can have.
        let (mut all, trashed): (Vec<String>, Vec<String>) = all.partition(|name| check_name(name).is_ok());
        if all.is_empty() {
            let what = match trashed.is_empty() {
                true => "there is no volume in the store",
                false => {
                    "the volumes of the store were removed, and are in the trash of the host that has it"
                }
            };
            return Err(VolumeError::new(Exit::NoVolume, what));
        }
        let before = all.clone();
        match (name, all.as_mut_slice()) {
            (None, _) => {}
            (Some(name), [one]) => name.clone_into(one),
            (Some(name), many) if attaches == Attaches::Moment => {
                many.iter_mut().for_each(|one| *one = format!("{name}-{one}"));
            }
            (Some(name), _) => {
                let there = all.join(", ");
                let what = format!("{name:?} cannot be the name of all that is there: {there}; leave it out");
                return Err(VolumeError::new(Exit::Usage, what));
            }
        }
        for name in &all {
            check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
        }
        let renamed = before.into_iter().zip(all.iter().cloned()).filter(|(from, to)| from != to);
        let mut renamed: Vec<(String, String)> = renamed.collect();
        // What one of them is called, another one may be to be called.
        renamed.sort_by_key(|(from, _)| Reverse(from.len()));
        Ok(Self { all, renamed, trashed, attaches })
    }

    /// Refuses names that are taken here. The caller holds the root's lock.
    pub(super) fn must_be_free(&self, root: &Root) -> Result<()> {
        let taken = |name: &&String| root.link(name).symlink_metadata().is_ok() || root.memory(name).exists();
        match self.all.iter().find(taken) {
            Some(name) => Err(exists(name)),
            None => Ok(()),
        }
    }
}

/// Gives the volumes of a store that was put down their names: the moment from which they are here.
///
/// # Errors
/// `Exists` if one is taken, or the host's. Nothing of the store is left then.
pub(super) fn name_all(
    root: &Root,
    (path, id): (&Path, StoreId),
    held: &mut Option<StoreLock>,
    keys: &Keys,
    names: Names,
) -> Result<Vec<String>> {
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    names.must_be_free(root)?;
    let Names { all: names, renamed, mut trashed, attaches } = names;
    // Nobody sweeps while the root's lock is held, nor looks for a directory of this store.
    *held = None;
    let alter = |changes: &[Alteration]| match changes {
        [] => Ok(()),
        changes => alter_each_offline(root, id, keys.clone(), changes, drop),
    };
    let named = (|| {
        let rename = |(volume, to)| Alteration::Rename { volume, to };
        alter(&renamed.into_iter().map(rename).collect::<Vec<_>>())?;
        if attaches == Attaches::Moment {
            // One that cannot go is there without a name, and in nobody's way.
            for volume in std::mem::take(&mut trashed) {
                if let Err(e) = alter(&[Alteration::Remove { volume }]) {
                    log::debug!("what was in the trash then stays: {e}");
                }
            }
        }
        // They are kept here for as long as is usual here.
        let keys = trashed.iter().filter(|key| name_of_trashed(key).is_some());
        let links = keys.map(|key| root.trash_link(key)).filter(|link| link.symlink_metadata().is_err());
        for link in links.chain(names.iter().map(|name| root.link(name))) {
            symlink(Root::link_target(id), &link).map_err(|e| VolumeError::io(&link, &e))?;
        }
        sync_parent(&root.trash_link("any")).map_err(|e| VolumeError::io(&root.trash(), &e))?;
        root.sync_names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
        let marker = path.join(UNNAMED);
        fs::remove_file(&marker).map_err(|e| VolumeError::io(&marker, &e))
    })();
    if let Err(e) = named {
        clean_up(root, (path, id));
        return Err(e);
    }
    Ok(names)
}
