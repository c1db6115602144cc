//! Volumes that live in memory only: the kernel's tmpfs.

use super::MountOptions;
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::errno::Errno;
use std::fs;
use std::path::Path;

/// The type under which volumes in memory are mounted.
pub const MEMORY_FS_TYPE: &str = "tmpfs";

/// What a volume in memory is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Size limit in bytes; `None` for the kernel's, half of the memory.
    pub size: Option<u64>,
    /// Inode limit.
    pub inodes: Option<u64>,
    /// Owner of the root directory.
    pub uid: Option<u32>,
    /// Group of the root directory.
    pub gid: Option<u32>,
    /// Permissions of the root directory; `None` for 1777.
    pub mode: Option<u32>,
}

impl MemoryOptions {
    fn data(&self) -> String {
        let mut data = format!("mode={:o}", self.mode.unwrap_or(0o1777));
        for (name, value) in [
            ("size", self.size),
            ("nr_inodes", self.inodes),
            ("uid", self.uid.map(u64::from)),
            ("gid", self.gid.map(u64::from)),
        ] {
            if let Some(value) = value {
                data += &format!(",{name}={value}");
            }
        }
        data
    }
}

/// Mounts an empty volume in memory on `dir`. What is in it never reaches a disk, not even as swap.
///
/// # Errors
/// As mount(2), and where the kernel can neither be kept from swapping it out nor has nothing to swap to.
pub fn mount_memory(volume: &str, dir: &Path, what: &MemoryOptions, options: &MountOptions) -> Result<()> {
    let mount =
        |data: &str| nix::mount::mount(Some(volume), dir, Some(MEMORY_FS_TYPE), options.flags(), Some(data));
    let failed = |e: Errno| {
        let what = format!("cannot mount {volume:?} on {}: {e}", dir.display());
        match e {
            Errno::EPERM => VolumeError::new(
                Exit::Permission,
                format!(
                    "{what}; volumes in memory need root, or the driver in the engine's user namespace (`podman unshare larder plugin`)"
                ),
            ),
            _ => VolumeError::new(Exit::MountPoint, what),
        }
    };
    let data = what.data() + &options.data();
    match mount(&format!("{data},noswap")) {
        // Kernels before 6.4 do not know the option.
        Err(Errno::EINVAL) if has_swap() => Err(VolumeError::new(
            Exit::MountPoint,
            format!(
                "volume {volume:?} must not reach a disk, but this kernel cannot keep memory from being swapped out (Linux \
                 6.4 can); turn swap off with `swapoff -a`"
            ),
        )),
        Err(Errno::EINVAL) => mount(&data).map_err(failed),
        other => other.map_err(failed),
    }
}

/// Whether the kernel has something to swap to; its list has one line of headings.
fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").map_or(true, |list| list.lines().count() > 1)
}
