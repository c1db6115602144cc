//! What is wrong with volumes: found by whoever meets with it (a server, its holder, a check), and kept beside their stores, in no
//! store's format, until it is healed or somebody has taken note of it.
//!
//! A file for each store, written as a whole under a lock. One that cannot be read is itself something that is wrong, and nothing else.

mod mounts;
mod notes;
mod reason;
mod scrub;

pub use mounts::{Made, boot_id, forget_mounts, made, note_mount};
pub use notes::{Notes, amend, update};
pub use reason::{Item, Level, Reason, code};
pub use scrub::{Scrub, ScrubLock, Scrubbed, UnderWay};

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since 1970: what was met with is told from what was looked for a moment later.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
