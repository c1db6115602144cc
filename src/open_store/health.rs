//! Whether an open store still takes changes, and what it has met with.

use super::commit::SyncError;
use crate::meta::{Ino, VolumeId};
use crate::store::BlockAddr;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Damaged blocks of a volume that are told of. It is known by then that there are more of them than anybody lists.
const TOLD: usize = 200;

/// What a store has met with, and whoever looks after it has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// It takes no more changes, for this reason.
    Failed(String),
    /// Something was damaged on the disk here, and came back from elsewhere.
    Healed {
        /// What.
        what: Healed,
        /// Where it came from.
        place: Arc<str>,
    },
    /// Contents of a file cannot be read.
    Unreadable {
        /// The volume or the snapshot.
        volume: VolumeId,
        /// The file.
        ino: Ino,
        /// Where in the file, in bytes.
        offset: u64,
        /// The block, if it is known which.
        addr: Option<BlockAddr>,
        /// Why.
        why: String,
    },
}

/// What was damaged on the disk here, and came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Healed {
    /// A block.
    Block(BlockAddr),
    /// The page of the metadata's database with this number.
    Page(u32),
}

impl fmt::Display for Healed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(addr) => write!(f, "block {addr}"),
            Self::Page(number) => write!(f, "page {number} of the metadata"),
        }
    }
}

/// Told of incidents. It waits for nothing.
pub type Watcher = Box<dyn Fn(Incident) + Send + Sync>;

/// A latch: it falls once, with a reason, and only opening the store again lifts it.
#[derive(Default)]
pub struct Health {
    failed: AtomicBool,
    reason: Mutex<Option<String>>,
    watcher: OnceLock<Watcher>,
    /// Damaged blocks that were told of, by volume: it is read again and again.
    told: Mutex<FxHashMap<VolumeId, FxHashSet<BlockAddr>>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl Health {
    /// From now on, incidents are told to this. There can be one.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    /// Something was met with.
    pub fn met(&self, incident: Incident) {
        if let Incident::Unreadable { volume, addr: Some(addr), .. } = &incident
            && !self.is_news(*volume, *addr)
        {
            return;
        }
        if let Incident::Healed { what: Healed::Block(addr), .. } = &incident {
            // It is news again if it is damaged again.
            for told in self.told.lock().values_mut() {
                told.remove(addr);
            }
        }
        if let Some(watcher) = self.watcher.get() {
            watcher(incident);
        }
    }

    /// Whether nobody was told of a damaged block of a volume: others that have it are told of it for themselves.
    fn is_news(&self, volume: VolumeId, addr: BlockAddr) -> bool {
        let mut told = self.told.lock();
        let told = told.entry(volume).or_default();
        told.len() < TOLD && told.insert(addr)
    }

    /// Takes no more changes from here on. The first reason stays.
    pub fn fail(&self, reason: &str) {
        let mut slot = self.reason.lock();
        let is_first = slot.is_none();
        if is_first {
            log::error!(
                "the store is read-only from now on: {reason}. Unmount and mount it again to recover"
            );
            *slot = Some(reason.to_owned());
        }
        self.failed.store(true, Ordering::Release);
        drop(slot);
        if is_first {
            self.met(Incident::Failed(reason.to_owned()));
        }
    }

    /// Whether changes are taken.
    pub fn is_good(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// What to answer somebody who waits for something to be durable: nothing is, for sure, once the store has failed.
    ///
    /// # Errors
    /// [`SyncError::Failed`] then.
    pub fn checked(&self) -> Result<(), SyncError> {
        if self.is_good() { Ok(()) } else { Err(SyncError::Failed) }
    }

    /// Why they are not.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}
