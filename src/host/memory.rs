//! What there is to know about volumes that live in memory only.

use super::inspection::time;
use super::record::{Place, Record};
use super::users::users;
use crate::mount;
use crate::root::Root;
use crate::volume::{Result, VolumeError};
use serde::Serialize;
use std::collections::BTreeMap;

/// A volume in memory. The fields are those of [`super::Inspection`], as far as they mean something.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryInspection {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: String,
    /// Always `tmpfs`.
    pub r#type: &'static str,
    /// Size limit in bytes; none for the kernel's.
    pub size: Option<u64>,
    /// Bytes in use.
    pub used: u64,
    /// Inode limit.
    pub inodes: Option<u64>,
    /// Inodes in use.
    pub inodes_used: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Always false.
    pub encrypted: bool,
    /// `good` or `unmounted`.
    pub health: &'static str,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
    /// How often each mount ID of a container engine is mounted.
    pub containers: BTreeMap<String, u64>,
}

impl MemoryInspection {
    /// All of it.
    ///
    /// # Errors
    /// `NoVolume` when there is none of that name, or the host's.
    pub fn new(root: &Root, name: &str) -> Result<Self> {
        let record = Record::of(root, name, Place::Memory)?.ok_or_else(|| VolumeError::no_volume(name))?;
        let options = record.options()?;
        let dir = root.mountpoints().join(name);
        let mounted = matches!(mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)), Ok(Some(_)));
        let usage = nix::sys::statvfs::statvfs(&dir).ok().filter(|_| mounted);
        let bytes = |fs: nix::sys::statvfs::Statvfs| (fs.blocks() - fs.blocks_free()) * fs.fragment_size();
        Ok(Self {
            name: name.to_owned(),
            created: time(record.created),
            r#type: "tmpfs",
            size: options.size_limit(),
            used: usage.map_or(0, bytes),
            inodes: options.inode_limit(),
            inodes_used: usage.map_or(0, |fs| fs.files() - fs.files_free()),
            labels: options.labels,
            encrypted: false,
            health: if mounted { "good" } else { "unmounted" },
            mountpoints: if mounted { vec![dir.display().to_string()] } else { Vec::new() },
            containers: users(root, name),
        })
    }
}
