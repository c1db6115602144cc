//! When everything in a store was read.

use super::notes::make_dir;
use crate::backing::{OpenMode, open_file};
use crate::root::Root;
use crate::store::StoreId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// When everything in a store was read, and how far a scrub is that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// The last one that came to its end.
    #[serde(default)]
    pub last: Option<Scrubbed>,
    /// One that has not: it is going on, or was interrupted.
    #[serde(default)]
    pub under_way: Option<UnderWay>,
}

/// A scrub that came to its end. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// When it began.
    pub started: u64,
    /// When it ended.
    pub finished: u64,
    /// Blocks that were read.
    #[serde(default)]
    pub blocks: u64,
    /// What was wrong.
    #[serde(default)]
    pub faults: u64,
}

/// A scrub that did not come to its end yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// When it began, in milliseconds since 1970.
    pub started: u64,
    /// When it had come so far, in milliseconds since 1970.
    #[serde(default)]
    pub at: u64,
    /// Segments up to this one were read.
    #[serde(default)]
    pub after: u64,
    /// Blocks that were read.
    #[serde(default)]
    pub blocks: u64,
    /// Blocks that there were, in all.
    #[serde(default)]
    pub total: u64,
    /// What was wrong so far.
    #[serde(default)]
    pub faults: u64,
    /// Damaged blocks so far, by the volumes that have them; those of none that is known under the empty name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub damaged: BTreeMap<String, u64>,
}

/// Keeps others from scrubbing the same store as long as it lives.
#[derive(Debug)]
pub struct ScrubLock {
    _file: Flock<File>,
}

impl ScrubLock {
    /// Takes it; `None` if another scrub is under way.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn try_acquire(root: &Root, id: StoreId) -> io::Result<Option<Self>> {
        make_dir(root)?;
        let file = open_file(&root.health().join(format!(".{id}.scrub")), OpenMode::Create)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }
}
