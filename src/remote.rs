//! Remotes: everything of a store once more in an object store that many hosts reach, and who may write it.
//!
//! A remote is a physical replica of the store's files, at the granularity of commits. Below one prefix lie objects of few kinds
//! ([`names`]), each sealed ([`RemoteSealer`]) and bound to its place; `docs/format.md` has their bytes. The *records* of the log are
//! numbered without gaps and made by create-only PUTs, which alone decide anything: a number can be taken once, so there is one history,
//! and who finds its number taken by another owner is fenced.
//!
//! ```text
//! Log, Claim, Heartbeat, Lease     what is the history, who may write it, who may answer
//!          |
//!    format, RemoteSealer          bytes <-> what they mean; nothing that was read panics or is trusted
//!          |
//!       Objects                    synchronous: put, get, list; `Patient` retries, `Limited` keeps to limits
//!          |
//!   Cloud (object_store), Directory (`file://`), and what a test puts there
//! ```
//!
//! Invariants:
//! - what a record names was durable in the remote before the record was;
//! - a record is appended only behind one that is known to be there, so numbers have no gaps; and nothing counts as shipped before the record
//!   that it follows on was seen to be still there (`presence.rs`);
//! - an append whose outcome is not known is repeated, the same bytes, before anything else is appended;
//! - each opening of a store is an owner of its own, and what it is about to append is noted beside the store before ([`Kept`]): what is in the
//!   remote and was shipped from here is in the store here, or nothing is appended;
//! - nothing is removed that the newest state needs, nor any claim;
//! - clocks of two hosts are never compared.

mod attach;
mod attempt;
mod bytes;
mod catalog;
mod check;
mod claim;
mod clock;
mod cloud;
mod collect;
mod connect;
mod counted;
mod deadline;
mod directory;
mod erase;
mod error;
mod fetch;
mod format;
mod frozen;
mod headers;
mod heartbeat;
mod history;
mod init;
mod lease;
mod limited;
mod local;
mod log;
pub mod names;
mod objects;
mod on_demand;
mod pages;
mod passed;
mod patient;
mod presence;
mod seal;
mod ship;
mod side_by_side;
mod source;
mod survey;
mod url;

pub use attach::{Attached, Pages, attach, header_in_force};
pub use attempt::forget as forget_attempts;
pub use catalog::{Catalog, Place};
pub use check::{CheckOptions, Checked, check};
pub use claim::{
    Claimed, Steal, Waiting, claim, claim_to_attach, give_back, goodbye, must_be_free, must_still_be, take_up,
};
pub use clock::{BootClock, Clock};
pub use cloud::Cloud;
pub use collect::{Collect, Collected};
pub use connect::{Address, Connection, can_reach, connect, connect_until, with_clouds};
pub use counted::{Counted, Counts, Requests};
pub use deadline::{Deadline, Deadlines};
pub use directory::Directory;
pub use erase::{
    Activity, Erased, Remains, activity, erase, erase_unchanged, must_be_empty, nobody_lives, not_let_go,
    remains,
};
pub use error::{Fenced, RemoteError, Result};
pub use fetch::Fetcher;
pub use format::{
    Alive, BEING_REMOVED, Blocks, Claim, Commit, Contents, HeaderRef, Image, InRecord, LeaseKind, Life,
    LiveBlocks, ObjectSeal, OwnerId, PART_BLOCK_BYTES, PART_BLOCKS_AT, PIECE_BYTES_MAX, PIECE_PAGES, Page,
    PartRef, Piece, PieceHash, PieceRef, RECORD_BYTES_MAX, REMOTE_FEATURES, REMOVAL_ASKED, Record,
    RecordHead, RedoTail, SealedBlock, SegmentState, StoreObject, When, part_bytes, part_head, part_range,
    split_blocks,
};
pub use frozen::OfMoment;
pub use headers::{HEADER_BYTES_MAX, header_versions, put_header, read_header, read_version};
pub use heartbeat::{Beat, HEARTBEAT, Heartbeat, Round};
pub use history::{At, History, Moment, What, first_missing};
pub use init::{init, must_not_overwrite};
pub use lease::{Answering, LEASE_CLAIM, LEASE_VALID, Permit, Stopped};
pub use limited::{Limited, Limits};
pub use local::{Attempt, Frozen, HISTORY, HISTORY_MIN, Kept, Known, LOCAL_NAME, Local, SHIP};
pub use log::{Chain, Gap, Held, Log, LogState, Owner, Position, Seen, or_breaks_off, own_gap};
pub use objects::{Listed, ObjectError, Objects, Outcome, Trouble, is_name};
pub use on_demand::OnDemand;
pub use pages::{ShippedPages, page_at};
pub use passed::Passed;
pub use patient::{Patience, Patient};
pub use seal::{RemoteSealer, SEALED_HEAD_BYTES, Sealed, open_header, open_store_object};
pub use ship::{Rewritten, ShipError, ShipLimits, Shipped, Shipper, Uploading};
pub use source::{Source, State};
pub use survey::{SignOfLife, Survey, read_store, survey};
pub use url::{RemoteUrl, Scheme};

/// The most bytes in a piece, with what it is sealed by.
const PIECE_OBJECT_MAX: u64 = PIECE_BYTES_MAX as u64 + SEALED_HEAD_BYTES as u64;
