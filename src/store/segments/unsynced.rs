//! What was appended and is not durable yet.

use super::super::SEGMENT_DIR;
use super::super::segment::{SegmentFile, segment_name};
use super::SegmentState;
use super::deferred::Deferred;
use crate::backing::Dir;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// What was appended since the last time and must be synced before metadata that names it.
#[derive(Debug)]
pub struct Unsynced {
    pub(super) dir: Arc<dyn Dir>,
    pub(super) deferred: Arc<Deferred>,
    pub(super) files: Vec<Arc<SegmentFile>>,
    pub(super) new_names: bool,
    /// The segments whose state changed.
    pub states: Vec<SegmentState>,
}

/// Why it was not made durable.
#[derive(Debug, Error)]
pub enum UnsyncedError {
    /// What waits in memory could not be written to its segment. It still waits, and the call can be made again.
    #[error("{}: {source}", path.display())]
    Write {
        /// The segment file.
        path: PathBuf,
        /// What the host said; `StorageFull` when the host file system is full.
        source: io::Error,
    },
    /// A sync failed. What was written is in doubt for good.
    #[error("{}: sync failed: {source}", path.display())]
    Sync {
        /// The segment file, or their directory.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

impl UnsyncedError {
    /// Whether the host had no room for what waits: that passes.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write { source, .. } if crate::backing::is_full(source))
    }
}

impl Unsynced {
    /// Makes it durable: the files, with what was left in memory for them, then the names of new ones.
    ///
    /// # Errors
    /// The first that failed: see [`UnsyncedError`].
    pub fn sync(&self) -> Result<(), UnsyncedError> {
        self.deferred.write(&*self.dir).map_err(|(path, source)| UnsyncedError::Write { path, source })?;
        for segment in &self.files {
            self.synced(&segment_name(segment.id), segment.file.sync())?;
        }
        if self.new_names {
            self.synced(SEGMENT_DIR, self.dir.sync(SEGMENT_DIR))?;
        }
        Ok(())
    }

    fn synced(&self, name: &str, result: io::Result<()>) -> Result<(), UnsyncedError> {
        result.map_err(|source| UnsyncedError::Sync { path: self.dir.path(name), source })
    }

    /// Whether there is nothing to sync.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.new_names
    }
}
