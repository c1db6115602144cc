//! Mounting on the host: options, mountpoints, mount(2) and umount(2), and what is mounted where.

mod connections;
mod dead;
mod device;
mod fstab;
mod fusermount;
mod memory;
mod options;
mod point;
mod setting;
mod table;

pub use crate::fs::Durability;
pub use connections::{Asked, Asking, abort, connection_of, is_connected};
pub use dead::{Everywhere, Seen};
pub use device::{Detached, bind, demand, detach, mount, remount, root_of, unmount};
pub use fstab::{FstabLine, fstab_lines};
pub use fusermount::may_allow_other;
pub use memory::{MEMORY_FS_TYPE, MemoryOptions, mount_memory};
pub use options::{MountOptions, OptionError, split};
pub use point::{mark_dead, prepare, resolve};
pub use setting::truth;
pub use table::{MountEntry, entries, entries_of, entry_at, holders, is_seen_by, volume_at};
pub(crate) use table::{path_bytes, path_from_bytes};

/// The type under which volumes are mounted.
pub const FS_TYPE: &str = "fuse.larder";
