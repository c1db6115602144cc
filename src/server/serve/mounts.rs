//! What a server has to know of a volume that is mounted, or about to be.

use crate::exit_code::Exit;
use crate::meta::VolumeId;
use crate::mount;
use crate::open_store::OpenStore;
use crate::volume::VolumeError;
use std::path::Path;

/// The head of a volume, which no rollback leaves as it was.
pub(super) fn head_of(store: &OpenStore, volume: VolumeId) -> Option<u64> {
    let rows = store.meta().volumes().inspect_err(|e| log::error!("{e}")).ok()?;
    rows.into_iter().find(|row| row.id == volume).map(|row| row.head)
}

/// The number of the connection behind the mount of a volume, if that is what lies on `dir`.
pub(super) fn connection_number(volume: &str, dir: &Path) -> Option<u32> {
    mount::entry_at(dir).ok()?.filter(|entry| entry.volume() == Some(volume))?.connection()
}

/// Refuses a second mount of a volume.
pub(super) fn already_mounted(volume: &str, dir: &Path) -> VolumeError {
    let dir = dir.display();
    VolumeError::new(
        Exit::Busy,
        format!(
            "volume {volume:?} is already mounted on {dir}; to see it elsewhere too, use `mount --bind {dir} DIR`"
        ),
    )
}
