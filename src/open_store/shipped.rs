//! Syncs that reach as far as the store's remote, by way of whoever ships it.

use super::OpenStore;
use super::commit::SyncDone;
use crate::meta::VolumeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long somebody who has written something is to be kept from going on, because the remote lacks nearly as much as it may, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowing {
    /// Not at all.
    No,
    /// For so long.
    For(Duration),
    /// Until it lacks less; what is nobody's who could be killed, for so long at most.
    UntilLess(Duration),
}

/// Who ships the store.
pub trait Ships: Send + Sync + fmt::Debug {
    /// For somebody who syncs `volume`: calls `done` when everything that is durable here by now is in the remote, from any thread, and from this one
    /// only if that is known. It is called on threads that others wait for, and waits for nothing.
    fn ask_sync(&self, volume: VolumeId, done: SyncDone);

    /// How long somebody who has written something is to be kept from going on. Asked after each write, so it takes next to no time.
    fn slow_by(&self) -> Slowing;
}

impl OpenStore {
    /// From now on, the store is shipped by this. There can be one.
    pub fn ship_with(&self, ships: Arc<dyn Ships>) {
        let _ = self.ships.set(ships);
    }

    /// For somebody who syncs `volume`: calls `done`, from any thread, when everything that is durable here by now is in the remote as well: at once
    /// where there is none, and not before it can be reached. It fails where the store takes no changes any more, and where the remote lacks
    /// something of the volume that it cannot get.
    pub fn sync_remotely(&self, volume: VolumeId, done: SyncDone) {
        match self.ships.get() {
            Some(ships) => ships.ask_sync(volume, done),
            None => done(self.health.checked()),
        }
    }

    /// How long a write that was made just now is to wait for its answer.
    pub fn slow_by(&self) -> Slowing {
        self.ships.get().map_or(Slowing::No, |ships| ships.slow_by())
    }

    /// Bytes of contents that are in no durable commit.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.committer.undurable(&self.segments)
    }

    /// What a copy lacks of what is in commits, roughly and in bytes: pages and blocks, also those of a moment of which it is not known yet what
    /// becomes of it. `None` if that is not known.
    pub fn lacking_bytes(&self) -> Option<u64> {
        let blocks = self.moments.fresh()?.lacking()?;
        Some((blocks + self.committer.files().lacking_pages()?) * crate::store::BLOCK_BYTES as u64)
    }

    /// Whether everything that was done is in a durable commit.
    pub fn is_all_committed(&self) -> bool {
        self.committer.is_all_committed()
    }

    /// What the store's contents are, of all its volumes and snapshots, in bytes: blocks that something refers to.
    pub fn contents_bytes(&self) -> u64 {
        let rows = self.meta().segments();
        rows.iter().map(|row| u64::from(row.live)).sum::<u64>() * crate::store::BLOCK_BYTES as u64
    }

    /// Whether the next moment would have something that the last one that came to something does not: something that a commit has
    /// changed, or that is in no durable commit yet. Where that is not known, it would; so it would once the store has failed, for what was in
    /// the commit that failed is neither.
    pub fn has_changes(&self) -> bool {
        // (In this order: what is committed in between is news, or has failed.)
        !self.is_all_committed() || self.has_news() || !self.health.is_good()
    }
}
