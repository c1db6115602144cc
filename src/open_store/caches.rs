//! What an open store keeps in memory to be faster, and how much that may be.

use super::OpenStore;
use crate::meta::{CACHES_MAX, CACHES_MIN, Meta, MetaError, VolumeId};

/// Metadata may have so much of what there is for all caches: without them, nothing is found; blocks that are not cached are often in the
/// host's page cache.
const METADATA_PART: usize = 4;

impl OpenStore {
    /// What all caches take when nothing limits them but the limit of the block cache that the store was opened with, in bytes.
    pub fn caches_most(&self) -> usize {
        self.cache_most.saturating_add(CACHES_MAX)
    }

    /// Memory that all caches take now, in bytes.
    pub fn caches_bytes(&self) -> usize {
        self.cache.memory_bytes() + self.meta().caches_bytes()
    }

    /// As [`OpenStore::caches_bytes`], for who must not wait; `None` while somebody holds the metadata.
    pub fn caches_bytes_now(&self) -> Option<usize> {
        Some(self.cache.memory_bytes() + self.meta_now()?.caches_bytes())
    }

    /// Lets all caches take `bytes` together from now on, and a little for metadata at any rate. The block cache gives back at once what is
    /// too much; of the metadata, a part leaves each time that this is called. Nothing happens while somebody holds the metadata: whoever calls
    /// this must not wait, and does so again.
    pub fn limit_caches(&self, bytes: usize) {
        let for_metadata = (bytes / METADATA_PART).max(bytes.saturating_sub(self.cache_most));
        let taken = {
            let Some(mut meta) = self.meta_now() else { return };
            if let Err(e) = meta.limit_caches_to(for_metadata) {
                self.health.fail(&format!("writing what was cached failed: {e}"));
            }
            meta.caches_bytes()
        };
        // What metadata do not use, blocks may.
        self.cache.set_limit(bytes.saturating_sub(taken.max(CACHES_MIN)).min(self.cache_most));
    }

    /// The block cache takes no more than it has now until the next [limit](Self::limit_caches); returns what all caches take then. (Those of
    /// metadata take little more in what is served at rest.)
    pub fn keep_caches(&self) -> usize {
        self.cache.keep() + self.meta().caches_bytes()
    }

    /// Nobody has used the store for a while: what is cached goes, and comes back when it is asked for.
    pub fn shed_caches(&self) {
        self.cache.clear();
        if let Err(e) = self.in_steps(Meta::shed) {
            self.health.fail(&format!("writing what was cached failed: {e}"));
        }
    }

    /// Nobody uses a volume any more: what is cached of it goes.
    ///
    /// # Errors
    /// As the metadata.
    pub fn rest(&self, volume: VolumeId) -> Result<(), MetaError> {
        self.in_steps(|meta| meta.rest(volume))
    }

    /// Calls `step` until it is done, under a hold of its own each time.
    fn in_steps(&self, step: impl Fn(&mut Meta) -> Result<bool, MetaError>) -> Result<(), MetaError> {
        let mut meta = self.meta();
        while !step(&mut meta)? {
            meta.pass();
        }
        Ok(())
    }
}
