//! Block contents: append-only segments of sealed 4 KiB blocks, and the cache in front of them.
//!
//! This layer knows addresses and bytes, nothing of files or volumes. Invariants:
//! - a block address is written at most once in the life of a store, also across crashes: segment ids are taken
//!   from a range that was made durable before its first use, and a reopened store starts a new segment;
//! - a block leaves this layer only if its seal opened at its own address;
//! - after [`Unsynced::sync`] returned, everything appended before the matching [`Segments::take_unsynced`] is
//!   durable.

mod address;
mod block_cache;
mod feature;
mod header;
mod id;
mod layout;
mod lock;
mod pages;
mod seal;
mod segment;
mod segments;

pub use address::{BlockAddr, Run, coalesce};
pub use block_cache::BlockCache;
pub use feature::Feature;
pub use header::{HEADER_NAME, Header, HeaderError};
pub use id::StoreId;
pub use layout::{
    BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, SEGMENT_BLOCKS, SEGMENT_HEADER_BYTES, data_offset, seal_offset,
    segment_len,
};
pub use lock::{HeaderLock, LOCK_NAME, LockMode, StoreLock};
pub use pages::PagesElsewhere;
pub use seal::{Seal, Sealer};
pub use segment::{HeaderState, SegmentHeader, segment_name, segment_of_name};
pub use segments::{
    AppendError, Elsewhere, ElsewhereError, Evicted, Fetched, HealedWatcher, Piece, ReadError, ResealError,
    Resealed, SealedHere, SealedRun, SegmentState, Segments, StoredBlocks, Unsynced, UnsyncedError, Wait,
    count_by_epoch, newest_key_epoch,
};

/// The sub-directory of a store that holds its segments.
pub const SEGMENT_DIR: &str = "segments";
