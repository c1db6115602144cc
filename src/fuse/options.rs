//! What a session asks of the kernel.

use crate::scheduling::Scheduling;
use serde::{Deserialize, Serialize};

/// How a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseOptions {
    /// Let the kernel gather writes in its page cache and write them back later, as it does for its own file systems.
    /// Without it every write(2) waits for the server.
    pub writeback_cache: bool,
    /// Show the snapshots of the volume in the hidden directory `.snapshots`.
    pub snapshots: bool,
    /// Allow id-mapped mounts of the volume. The kernel then tells who asks only where something is made.
    pub idmap: bool,
    /// Keep idle CPUs awake while requests follow one another, where that makes a difference.
    pub awake: bool,
    /// How threads are scheduled that carry out small requests.
    pub scheduling: Scheduling,
    /// How requests get here.
    pub transport: Transport,
    /// Another host may get the volume at any moment: the kernel keeps what it was told for a moment only, and asks before it reads what it
    /// has in its page cache.
    pub leased: bool,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            writeback_cache: true,
            snapshots: true,
            idmap: false,
            awake: true,
            scheduling: Scheduling::Auto,
            transport: Transport::Auto,
            leased: false,
        }
    }
}

/// How requests of the kernel get to the server, and answers back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// As `Dev`.
    #[default]
    Auto,
    /// Through `/dev/fuse`, with one reader pinned to each CPU.
    Dev,
    /// Through `/dev/fuse`, by the library `fuser`.
    Fuser,
    /// Through io_uring, with a ring for each CPU.
    Uring,
}

impl Transport {
    /// Why a mount that uses it dies with its server, if that is so with every kernel.
    pub fn ties(self) -> Option<&'static str> {
        match self {
            Self::Auto | Self::Dev => None,
            Self::Fuser => Some("transport=fuser"),
            Self::Uring => Some("transport=uring"),
        }
    }
}
