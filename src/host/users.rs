//! Which containers use a volume: how often each mount ID is mounted, in a file that outlives the plugin.

use super::durable;
use crate::root::Root;
use crate::volume::{Result, VolumeError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// How often an ID is mounted, as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// How often.
    pub count: u64,
    /// The life of the engine in which it was counted: it is a new one after each `/Plugin.Activate`.
    pub epoch: u64,
}

/// Who uses a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The boot of the host in which this was counted. After another one nothing of it is so any more.
    pub boot: String,
    /// By mount ID.
    pub ids: BTreeMap<String, Use>,
}

fn path(root: &Root, name: &str) -> PathBuf {
    root.plugin().join("mounts").join(format!("{name}.json"))
}

/// What tells one boot of the host from another.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> Result<String> {
    crate::health::boot_id().map_err(|e| VolumeError::io(Path::new("/proc/sys/kernel/random/boot_id"), &e))
}

impl Users {
    /// Who uses a volume, as far as was counted since this boot of the host.
    ///
    /// # Errors
    /// The host's, or `InvalidData` for a file that is none of ours.
    pub fn of(root: &Root, name: &str, boot: &str) -> io::Result<Self> {
        let users: Option<Self> = durable::read(&path(root, name))?;
        let users = users.filter(|users| users.boot == boot);
        Ok(users.unwrap_or_else(|| Self { boot: boot.to_owned(), ids: BTreeMap::new() }))
    }

    /// Writes it down; durable when this returns.
    ///
    /// # Errors
    /// The host's.
    pub fn keep(&self, root: &Root, name: &str) -> Result<()> {
        if self.ids.is_empty() { Self::forget(root, name) } else { durable::write(&path(root, name), self) }
    }

    /// Nobody uses the volume.
    ///
    /// # Errors
    /// The host's.
    pub fn forget(root: &Root, name: &str) -> Result<()> {
        durable::remove(&path(root, name))
    }

    /// The volumes that somebody uses, or used in an earlier boot.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn volumes(root: &Root) -> Result<Vec<String>> {
        let dir = root.plugin().join("mounts");
        durable::names(&dir).map_err(|e| VolumeError::io(&dir, &e))
    }
}

/// As [`users`], in a boot that is known.
pub(super) fn users_in(root: &Root, name: &str, boot: &str) -> BTreeMap<String, u64> {
    let users = Users::of(root, name, boot).unwrap_or_default();
    users.ids.into_iter().map(|(id, of)| (id, of.count)).collect()
}

/// The mount IDs of the containers that use a volume, for people; nothing if that cannot be found out.
pub fn users(root: &Root, name: &str) -> BTreeMap<String, u64> {
    boot_id().map(|boot| users_in(root, name, &boot)).unwrap_or_default()
}
