//! The way of a volume into the trash, and back: its link is moved, in one step, and nothing else is changed. So a volume is in one
//! place or in the other, whenever the power goes; and it takes no key.

use super::clone::sync_parent;
use super::error::{Result, VolumeError};
use super::remove::in_use;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::{LockMode, StoreId, StoreLock};
use std::fs;
use std::io;
use std::path::Path;

/// Moves a link to where none is, or leaves it where it is. The caller holds the root's lock, as all do that make links.
fn move_link(from: &Path, to: &Path) -> Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(VolumeError::io(to, &io::ErrorKind::AlreadyExists.into()));
    }
    fs::rename(from, to).map_err(|e| match e.kind() {
        io::ErrorKind::CrossesDevices => VolumeError::io(from, &e)
            .hint("the directories volumes and trash have to be on one file system; `larder rm --now` does without the trash"),
        _ => VolumeError::io(from, &e),
    })?;
    let synced = sync_parent(to).and_then(|()| sync_parent(from));
    synced.map_err(|e| {
        // Where it is after a crash nobody knows; but who asks now, and hears that it failed, finds it where it was.
        let _ = fs::rename(to, from);
        VolumeError::io(to, &e)
    })
}

/// The error because of which a volume stays after all, whose link was moved back; or could not be, and is in the trash now.
fn moved_back(e: VolumeError, back: Result<()>) -> VolumeError {
    match back {
        Ok(()) => e,
        Err(why) => e.hint(&format!("but it could not be brought back ({why})")),
    }
}

/// Moves a volume of store `id` into the trash, from where [`put_back`] fetches it. The caller holds the root's lock. `is_free` fails if
/// the server of the store has it mounted; it is asked before and after, where there is a server: whoever mounts looks at the name
/// after that, so that one of the two sees what the other one did.
///
/// # Errors
/// `Busy` if a process that is no server has the store open, as `is_free`, or the host's. The volume is where it was then, unless the host
/// does not let it be moved back: whoever calls looks for it.
pub fn put_away(
    root: &Root,
    id: StoreId,
    name: &str,
    key: &str,
    is_free: impl Fn() -> Result<Served>,
) -> Result<()> {
    let path = root.store(id);
    let lock = StoreLock::try_acquire(&path, LockMode::Exclusive).map_err(|e| VolumeError::io(&path, &e))?;
    let (link, trashed) = (root.link(name), root.trash_link(key));
    if lock.is_some() {
        return move_link(&link, &trashed);
    }
    if is_free()? == Served::No {
        return Err(in_use(name));
    }
    move_link(&link, &trashed)?;
    match is_free() {
        // If the server is gone, so are its mounts.
        Ok(_) => Ok(()),
        Err(e) => Err(moved_back(e, move_link(&trashed, &link))),
    }
}

/// Gives a volume a name again that must stay for a reason, which is returned; with what kept it in the trash, if something did.
pub fn put_back_for(root: &Root, key: &str, name: &str, reason: VolumeError) -> VolumeError {
    moved_back(reason, put_back(root, key, name))
}

/// Whether a store has a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// One that answers.
    Yes,
    /// None that listens.
    No,
}

/// Gives a volume that is in the trash a name again. The caller holds the root's lock.
///
/// # Errors
/// `Exists`, or the host's.
pub fn put_back(root: &Root, key: &str, name: &str) -> Result<()> {
    let link = root.link(name);
    if link.symlink_metadata().is_ok() || root.memory(name).exists() {
        return Err(VolumeError::new(Exit::Exists, format!("volume {name:?} exists")));
    }
    move_link(&root.trash_link(key), &link)
}
