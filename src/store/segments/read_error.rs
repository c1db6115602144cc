//! Why blocks could not be read.

use super::super::address::BlockAddr;
use crate::backing::is_unreadable;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why blocks could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Only with [`Wait::No`](super::Wait::No): the blocks are not in memory.
    #[error("the blocks are not in memory")]
    WouldWait,
    /// Only with [`Wait::Here`](super::Wait::Here): the block is not here, and nothing says that it is lost.
    #[error("{}: block {addr} is not on this host", path.display())]
    Absent {
        /// The block.
        addr: BlockAddr,
        /// The segment file.
        path: PathBuf,
        /// Whether nothing of the segment is here.
        all: bool,
    },
    /// The block is not here, and where it is cannot be reached at present: it is worth to try again.
    #[error("{}: block {addr} is not on this host, and what has it cannot be reached: {why}", path.display())]
    Away {
        /// The block.
        addr: BlockAddr,
        /// The segment file.
        path: PathBuf,
        /// Where it is, and why that cannot be reached.
        why: String,
    },
    /// The block is damaged or not here, and where it should be it is not, or damaged, too.
    #[error("{}: block {addr} is damaged or not on this host, and cannot be fetched: {why}", path.display())]
    Unfetched {
        /// The block.
        addr: BlockAddr,
        /// The segment file.
        path: PathBuf,
        /// Where it should be, and what is wrong there.
        why: String,
    },
    /// The seal of a block did not open: the block is damaged, or was freed while it was read.
    #[error("{}: block {addr} at offset {offset} is damaged: its seal does not open", path.display())]
    Unsealed {
        /// The block.
        addr: BlockAddr,
        /// The segment file.
        path: PathBuf,
        /// Where in the file the block begins.
        offset: u64,
    },
    /// The host could not read the file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The segment file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file is not the segment it is named for.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// The segment file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
}

impl ReadError {
    /// The block that it is about, if it is about one.
    pub fn addr(&self) -> Option<BlockAddr> {
        match self {
            Self::Absent { addr, .. }
            | Self::Away { addr, .. }
            | Self::Unfetched { addr, .. }
            | Self::Unsealed { addr, .. } => Some(*addr),
            Self::WouldWait | Self::Io { .. } | Self::Foreign { .. } => None,
        }
    }

    /// Whether the host's disk could not read something that is there.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_unreadable(source))
    }

    /// Whether the error is about the file at `path`.
    pub fn is_in(&self, path: &Path) -> bool {
        match self {
            Self::WouldWait => false,
            Self::Absent { path: p, .. }
            | Self::Away { path: p, .. }
            | Self::Unfetched { path: p, .. }
            | Self::Unsealed { path: p, .. }
            | Self::Io { path: p, .. }
            | Self::Foreign { path: p, .. } => p == path,
        }
    }
}
