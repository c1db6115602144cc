//! What a server has to know of a volume that is mounted, or about to be.

use super::{Server, Shipping};
use crate::exit_code::Exit;
use crate::fs::Node;
use crate::fuse::OpenFiles;
use crate::meta::VolumeId;
use crate::mount::{self, Durability, MountOptions};
use crate::open_store::OpenStore;
use crate::volume::{Result, VolumeError};
use std::path::Path;
use std::sync::Arc;

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

impl Server {
    /// The files that are open on a mount, on which these were open before, where another host may get the volume.
    pub(super) fn open_files(&self, before: &[Node]) -> Option<Arc<OpenFiles>> {
        self.shipping.as_ref().and_then(Shipping::may_answer).map(|_| Arc::new(OpenFiles::new(before)))
    }

    /// Refuses what is to hold for as long as a volume is mounted, and would not be known any more to the next server.
    pub(super) fn must_be_kept(&self, volume: &str, options: &MountOptions) -> Result<()> {
        if options.durability == Durability::Local || self.keeper.keeps_durability() {
            return Ok(());
        }
        Err(VolumeError::new(
            Exit::Busy,
            format!(
                "volume {volume:?}, or another one of its store, was mounted by an earlier version of larder, which would forget durability=remote \
                 when the server is replaced; unmount all volumes of the store, and mount it again"
            ),
        ))
    }

    /// Whether no sign of life was acknowledged by the remote for so long that nothing is answered now.
    pub(in crate::server) fn is_paused(&self) -> bool {
        self.shipping.as_ref().is_some_and(Shipping::is_paused)
    }

    /// Refuses to change what programs see of a mounted volume while they wait: the kernel could not be told of it before they go on.
    pub(in crate::server) fn must_not_be_paused(&self, volume: &str) -> Result<()> {
        if !self.is_paused() {
            return Ok(());
        }
        Err(VolumeError::new(
            Exit::Busy,
            format!(
                "volume {volume:?} is paused, because its remote has acknowledged no sign of life (lease=strict); `larder status {volume}` says \
                 when it goes on: try again then, or unmount the volume"
            ),
        ))
    }
}
