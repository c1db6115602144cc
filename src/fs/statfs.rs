//! statfs(2): what df(1) shows.

use super::{Fs, FsError, Result};
use crate::meta::FILE_METADATA_MIN;
use crate::store::BLOCK_BYTES;

/// Space and inodes of a volume, in blocks of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStat {
    /// Size.
    pub blocks: u64,
    /// Free, as far as the volume's limit goes.
    pub blocks_free: u64,
    /// Of these, what the host has room for.
    pub blocks_available: u64,
    /// Inodes there can be.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

impl Fs {
    /// The volume's limits and what is left of them, which is no more than the host has. Without a size limit, the host's
    /// disk is the limit.
    ///
    /// # Errors
    /// `Io` when the host cannot be asked.
    pub fn statfs(&self) -> Result<SpaceStat> {
        /// What a volume without an inode limit says it can have: as many as programs of 32 bits can count.
        const INODES_UNLIMITED: u64 = u32::MAX as u64;
        let (usage, limits) = self.store.meta().usage(self.volume)?;
        let host = self.store.host_space().map_err(|e| {
            log::error!("cannot ask the host for its free space: {e}");
            FsError::Io
        })?;
        let host_free = host.available_bytes / BLOCK_BYTES as u64;
        let blocks = limits.blocks.unwrap_or(usage.blocks + host_free);
        // Each new file takes at least so much of the metadata.
        let room = limits.metadata.map(|limit| limit.saturating_sub(usage.metadata) / FILE_METADATA_MIN);
        let free = limits.inodes.map(|limit| limit.saturating_sub(usage.inodes));
        let unlimited = INODES_UNLIMITED.saturating_sub(usage.inodes);
        let inodes_free = free.into_iter().chain(room).min().unwrap_or(unlimited);
        let inodes = limits.inodes.unwrap_or(usage.inodes + inodes_free);
        let blocks_free = blocks.saturating_sub(usage.blocks);
        // statfs(2) fails for a program of 32 bits if a count does not fit it.
        let most = if self.options().compat32 { u64::from(u32::MAX) } else { u64::MAX };
        Ok(SpaceStat {
            blocks: blocks.min(most),
            blocks_free: blocks_free.min(most),
            blocks_available: blocks_free.min(host_free).min(most),
            inodes: inodes.min(most),
            inodes_free: inodes_free.min(most),
        })
    }
}
