//! One limit for what is cached of all volumes and snapshots together.
//!
//! Each has caches of its own, limited too, so that one that is walked through does not push out what others work with.

use super::{Meta, Result, VolumeId};

/// Memory for what is cached of all volumes and snapshots: several times what one can take.
const LIMIT_BYTES: usize = 96 << 20;
/// Uses between two looks at it: far less comes in one of them than a volume's own limit.
const LOOK_EVERY: u64 = 256;

impl Meta {
    /// Memory of what is cached of all volumes and snapshots.
    pub fn cached_bytes(&self) -> usize {
        self.heads.values().map(super::Head::cached_bytes).sum()
    }

    /// Volumes and snapshots that are ready for use.
    pub fn heads_open(&self) -> usize {
        self.heads.len()
    }

    /// A volume or snapshot is about to be used: now and then, what was used longest ago makes room.
    pub(super) fn note_use(&mut self, volume: VolumeId) -> Result<()> {
        self.uses += 1;
        if let Some(head) = self.heads.get_mut(&volume) {
            head.used = self.uses;
        }
        if self.uses.is_multiple_of(LOOK_EVERY) { self.limit_caches(volume) } else { Ok(()) }
    }

    fn limit_caches(&mut self, spared: VolumeId) -> Result<()> {
        let mut bytes = self.cached_bytes();
        while bytes > LIMIT_BYTES {
            let others = self.heads.iter_mut().filter(|(id, head)| **id != spared && head.cached_bytes() > 0);
            let Some((_, oldest)) = others.min_by_key(|(_, head)| head.used) else { break };
            bytes -= oldest.cached_bytes();
            if let Err(e) = oldest.drop_caches(&self.db) {
                // Something may be lost that was to be written.
                self.poisoned = true;
                return Err(e);
            }
        }
        Ok(())
    }

    /// Nobody has used anything for a while: all that is cached goes.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn shed(&mut self) -> Result<()> {
        for head in self.heads.values_mut() {
            let dropped = head.drop_caches(&self.db);
            self.poisoned |= dropped.is_err();
            dropped?;
        }
        self.db.shed();
        Ok(())
    }

    /// Nobody uses a volume any more: what is cached of it goes.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn rest(&mut self, volume: VolumeId) -> Result<()> {
        let Some(head) = self.heads.get_mut(&volume) else { return Ok(()) };
        let dropped = head.drop_caches(&self.db);
        self.poisoned |= dropped.is_err();
        dropped
    }
}
