//! Which of the mounts of this host are of volumes of a root. Several roots can have volumes of the same name, and ordinary users call what
//! they mount as they like: so mounts are known by their connections.

use super::record::{Place, place};
use crate::health::{Made, made};
use crate::mount::{self, MountEntry};
use crate::root::Root;
use crate::server::{MountStatus, Status};
use crate::store::StoreId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whether what a server has mounted can be seen where it was mounted.
pub fn is_there(mounted: &MountStatus) -> bool {
    matches!(mount::entry_at(&mounted.path()), Ok(Some(entry)) if mounted.is_at(&entry))
}

/// The numbers of the connections that a volume and its snapshots have in the kernel, as far as its server says, or was noted when they were
/// made.
pub(super) fn connections(noted: &[Made], name: &str, status: Option<&Status>) -> BTreeSet<u32> {
    let is_of = |mounted: &str| mounted.split('@').next() == Some(name);
    let noted = noted.iter().filter(|made| is_of(&made.volume)).map(|made| made.connection);
    let served = status.into_iter().flat_map(|status| &status.mounts).filter(|mount| is_of(&mount.volume));
    noted.chain(served.filter_map(|mount| mount.connection)).collect()
}

/// The devices that a volume and its snapshots are mounted on, as mountinfo has them, as far as that is known without asking its server.
pub fn devices(root: &Root, name: &str) -> Vec<String> {
    match place(root, name) {
        Ok(Some(Place::Store(id))) => {
            connections(&made(root, id), name, None).iter().map(|number| device_of(*number)).collect()
        }
        Ok(Some(Place::Memory)) => {
            let dir = root.mountpoints().join(name);
            let entry = mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)).ok().flatten();
            entry.into_iter().map(|entry| entry.device).collect()
        }
        _ => Vec::new(),
    }
}

/// What the kernel calls the device of a connection.
pub(super) fn device_of(connection: u32) -> String {
    format!("0:{connection}")
}

/// What servers that died have left of a volume, or of a snapshot, in this mount namespace; what was made last comes last.
pub fn dead_mounts(root: &Root, id: StoreId, name: &str) -> Vec<MountEntry> {
    dead_among(&mount::entries().unwrap_or_default(), name, None, || made(root, id).into())
}

/// The same of what is among `entries`, by what was `noted` of mounts that were made, but for what the store's server has mounted, which is not asked for that.
pub(super) fn dead_among(
    entries: &[MountEntry],
    name: &str,
    status: Option<&Status>,
    noted: impl FnOnce() -> Arc<[Made]>,
) -> Vec<MountEntry> {
    let named = entries.iter().filter(|entry| entry.volume() == Some(name));
    let served: Vec<u32> =
        status.into_iter().flat_map(|of| &of.mounts).filter_map(|of| of.connection).collect();
    let mut left =
        named.filter(|entry| entry.connection().is_some_and(|of| !served.contains(&of))).peekable();
    if left.peek().is_none() {
        return Vec::new();
    }
    let noted = noted();
    let is_noted = |entry: &&MountEntry| {
        noted.iter().any(|made| made.volume == name && entry.connection() == Some(made.connection))
    };
    left.filter(is_noted).filter(|entry| entry.is_dead()).cloned().collect()
}
