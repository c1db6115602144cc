//! The bodies of a remote's objects: values, and their bytes (`docs/format.md`, "The remote"). Sealing is [`RemoteSealer`](super::RemoteSealer)'s.

mod alive;
mod commit;
mod image;
mod part;
mod piece;
mod record;
mod store;

pub use alive::{Alive, Life};
pub use commit::{Blocks, Commit, Page, RedoTail, SegmentState};
pub use image::{Image, PieceRef};
pub use part::{
    LiveBlocks, PART_BLOCK_BYTES, PART_BLOCKS_AT, PartRef, SealedBlock, part_bytes, part_head, part_range,
    split_blocks,
};
pub use piece::{InRecord, PIECE_BYTES_MAX, PIECE_PAGES, Piece, PieceHash};
pub use record::{Claim, Contents, HeaderRef, RECORD_BYTES_MAX, Record, RecordHead};
pub(super) use record::{record_body, record_of_body};
pub use store::{BEING_REMOVED, REMOTE_FEATURES, REMOVAL_ASKED, StoreObject};

use std::fmt;
use std::str::FromStr;

/// Bytes that tell whether an object is the one that was meant: XXH3-128 of a plain one, the tag of an encrypted one.
pub type ObjectSeal = [u8; 16];

/// Whether an owner stops to answer when it cannot show life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseKind {
    /// It works on through any outage, and only a human takes the store from it.
    #[default]
    None,
    /// It answers only while it has shown life within [`LEASE_VALID`](super::LEASE_VALID), and another host takes the store after
    /// [`LEASE_CLAIM`](super::LEASE_CLAIM) without any.
    Strict,
}

impl LeaseKind {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Strict => 1,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::None, Self::Strict].into_iter().find(|kind| kind.number() == number)
    }
}

impl fmt::Display for LeaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Strict => "strict",
        })
    }
}

impl FromStr for LeaseKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "strict" => Ok(Self::Strict),
            _ => Err("write none or strict".to_owned()),
        }
    }
}

/// The random id of an incarnation: of one opening of a store by one process of one host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(pub u128);

impl OwnerId {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        Ok(Self(u128::from_be_bytes(random()?)))
    }

    /// A new one of the same store on the same host.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn next(self) -> std::io::Result<Self> {
        Ok(Self(self.0 >> 64 << 64 | u128::from(u64::from_be_bytes(random()?))))
    }

    /// Whether both were the same store on the same host, or a copy of that; of earlier versions of this program, that is not to be seen.
    pub fn is_of_store_of(self, other: Self) -> bool {
        self.0 >> 64 == other.0 >> 64
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OwnerId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse::<crate::store::StoreId>().map(|id| Self(id.0))
    }
}

/// A time of day, by the clock of the host that wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct When {
    /// Seconds since 1970.
    pub seconds: u64,
    /// And so many nanoseconds.
    pub nanoseconds: u32,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.seconds).ok();
        match seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
            Some(time) => write!(f, "{time}"),
            None => write!(f, "second {} since 1970", self.seconds),
        }
    }
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
