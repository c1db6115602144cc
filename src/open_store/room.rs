//! Whether the host has room for what is to come.
//!
//! A change that was made can be committed, and a name can be removed, on a host whose disk others fill to the last byte:
//! before a change that takes room is made, the host has kept so much for the WAL and for the database as the open transaction
//! may write, and [`KEPT`] beside that. Where it has not, such changes are refused ([`Refusal::HostFull`]), and those that give
//! room back use what is kept: few of them in one commit, after which the WAL starts over in the space that it has. What is no
//! mutation does the same: changes of the family that take room are refused, and a step of reclaiming is made only if what it
//! may write is kept, if need be a small one.

use super::OpenStore;
use crate::backing::is_full;
use crate::meta::{Meta, Mutation, RECLAIMED_AT_ONCE, Refusal};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a mutation writes to the WAL at most, in bytes, beside the value that it brings: a page of each table that it
/// concerns, and their neighbours.
const PER_MUTATION: u64 = 32 << 10;
/// What a row that is looked at or written while something is given back may write to the WAL, in bytes: most that are next to
/// one another share their pages.
const PER_ROW: u64 = 8 << 10;
/// Rows that a step of reclaiming is about while the host is short of room.
const RECLAIMED_WHILE_SHORT: u64 = 32;
/// What a change of the family writes to the WAL at most, in bytes, beside what is kept: some rows, and the orphans of a volume.
const PER_ALTERATION: u64 = 256 << 10;
/// What a transaction has in memory at most that the WAL does not hold yet: SQLite's pages.
const UNWRITTEN_MAX: u64 = 24 << 20;
/// Between two looks, mutations may write so much.
const LOOK_EVERY: u64 = 512 << 10;
/// Kept in the WAL for what gives room back.
const KEPT: u64 = 1 << 20;
/// Kept behind the end of the database, where rows go that hide those of snapshots.
const KEPT_IN_DATABASE: u64 = 1 << 20;
/// What a step of shrinking the database writes at most.
const MOVED_AT_ONCE: u64 = 512 << 10;
/// How often it is said that the host is full.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// A host that has so much more to give is not full any more.
const ROOM_AGAIN: u64 = 4 << 20;
/// So much of the WAL is not left lying while the host is short of room.
const WAL_SHORT: u64 = 256 << 10;

/// What is known of the host's room. Used under the hold of the metadata.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// What the open transaction may have to write to the WAL that the WAL does not hold.
    pending: AtomicU64,
    /// What may be written before the next look.
    until_look: AtomicU64,
    /// The host did not have all that was asked for.
    short: AtomicBool,
    /// The redo log has some room of its own.
    logs_kept: AtomicBool,
    /// When it began that the host does not have what is asked for, in seconds since 1970; 0: it has.
    full_since: AtomicU64,
    /// When that was last said.
    told: Mutex<Option<Instant>>,
}

/// What a mutation may write to the WAL.
fn cost(mutation: &Mutation) -> u64 {
    match mutation {
        Mutation::SetXattr { value, .. } => PER_MUTATION + 2 * value.len() as u64,
        _ => PER_MUTATION,
    }
}

impl Room {
    /// A commit has begun: the next transaction is empty.
    pub(super) fn begin(&self) {
        self.pending.store(0, Ordering::Relaxed);
        self.until_look.store(0, Ordering::Relaxed);
    }

    /// Whether the host is short of room, and the WAL is to start over.
    pub(super) fn wants_restart(&self, wal_bytes: u64) -> bool {
        self.is_short() && wal_bytes >= WAL_SHORT
    }

    /// Counts a mutation that was made.
    pub(super) fn count(&self, mutation: &Mutation) {
        self.add(cost(mutation));
    }

    fn add(&self, bytes: u64) {
        let pending = self.pending.load(Ordering::Relaxed) + bytes;
        self.pending.store(pending.min(UNWRITTEN_MAX), Ordering::Relaxed);
        let left = self.until_look.load(Ordering::Relaxed).saturating_sub(bytes);
        self.until_look.store(left, Ordering::Relaxed);
    }

    /// Rows were given back.
    fn reclaimed(&self, rows: u64) {
        self.add(rows * PER_ROW);
    }

    /// The database was shrunk by a step.
    pub(super) fn moved_pages(&self) {
        self.add(MOVED_AT_ONCE);
    }

    /// Whether the host is short of room.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Notes whether the host is short of room.
    fn set_short(&self, is_short: bool) {
        self.short.store(is_short, Ordering::Relaxed);
        if is_short {
            self.refused();
        }
    }

    /// Notes that the host did not have room for something.
    pub(super) fn refused(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let _ = self.full_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Says that the host is full, if that was not said a moment ago.
    fn tell(&self, path: &Path) {
        let mut told = self.told.lock();
        if told.is_none_or(|when| when.elapsed() > TOLD_EVERY) {
            *told = Some(Instant::now());
            log::warn!(
                "{}: the host's disk is full: files can be deleted, but nothing can be added",
                path.display()
            );
        }
    }
}

impl OpenStore {
    /// Whether the host had no room for what was to be kept, when that was last tried.
    pub fn is_short_of_room(&self) -> bool {
        self.room.is_short()
    }

    /// Whether that may be so, or may have been so a moment ago: without a look at the host.
    pub fn may_be_short_of_room(&self) -> bool {
        self.room.is_short() || self.room.full_since.load(Ordering::Relaxed) != 0
    }

    /// Sees to it that the host has room for a mutation.
    ///
    /// # Errors
    /// [`Refusal::HostFull`] for one that takes room which the host does not have.
    pub(super) fn make_room(&self, meta: &Meta, mutation: &Mutation) -> Result<(), Refusal> {
        let cost = cost(mutation);
        if !self.room.is_short() && self.room.until_look.load(Ordering::Relaxed) >= cost {
            return Ok(());
        }
        let pending = self.room.pending.load(Ordering::Relaxed) + cost;
        let has_room = self.keep_room(meta, pending + LOOK_EVERY);
        self.room.set_short(!has_room);
        if has_room {
            if !self.room.logs_kept.load(Ordering::Relaxed) && self.redo.keep_room().is_ok() {
                self.room.logs_kept.store(true, Ordering::Relaxed);
            }
            self.room.until_look.store(cost + LOOK_EVERY, Ordering::Relaxed);
            return Ok(());
        }
        self.room.tell(&self.dir.path(""));
        if pending >= KEPT / 4 {
            // After a commit, there is less to keep room for.
            self.committer.crowd();
        }
        if !mutation.takes_room() || self.keep_room(meta, pending) { Ok(()) } else { Err(Refusal::HostFull) }
    }

    /// Since when the host has had no room, in seconds since 1970. It is looked at again: what has passed is not said.
    pub fn host_full_since(&self) -> Option<u64> {
        let since = self.room.full_since.load(Ordering::Relaxed);
        if since == 0 {
            return None;
        }
        if self.host_space().is_ok_and(|space| space.available_bytes < ROOM_AGAIN) {
            return Some(since);
        }
        // What is short of room looks again at the next change, and there may be none for long.
        if self.room.is_short() {
            let meta = self.meta();
            let pending = self.room.pending.load(Ordering::Relaxed);
            self.room.short.store(!self.keep_room(&meta, pending + LOOK_EVERY), Ordering::Relaxed);
        }
        if self.room.is_short() {
            return Some(since);
        }
        self.room.full_since.store(0, Ordering::Relaxed);
        None
    }

    /// How many rows the next step of reclaiming may be about, so that it can be committed; `None` if there is no room for the
    /// smallest. Then the WAL is let start over first.
    pub(super) fn reclaimable(&self, meta: &Meta) -> Option<u64> {
        // What is kept back has to become durable first.
        if self.committer.is_behind() {
            self.committer.kick();
            return None;
        }
        let pending = self.room.pending.load(Ordering::Relaxed);
        let has_room = self.keep_room(meta, pending + RECLAIMED_AT_ONCE * PER_ROW);
        self.room.set_short(!has_room);
        if has_room {
            return Some(RECLAIMED_AT_ONCE);
        }
        match meta.keep_room(pending + RECLAIMED_WHILE_SHORT * PER_ROW, 0) {
            Err(e) if is_full(&e) => {
                self.room.tell(&self.dir.path(""));
                self.committer.restart();
                None
            }
            Ok(()) | Err(_) => Some(RECLAIMED_WHILE_SHORT),
        }
    }

    /// Counts what a step of reclaiming did, in rows, and lets it be committed soon if it must be.
    pub(super) fn reclaimed(&self, rows: u64) {
        self.room.reclaimed(rows);
        if self.room.is_short() && self.room.pending.load(Ordering::Relaxed) >= KEPT / 4 {
            self.committer.crowd();
        }
        self.committer.look(0, &self.redo, &self.segments);
    }

    /// Whether there is room for a change of the family that takes some, beside what is kept. Everything must be committed.
    pub(super) fn has_room_to_alter(&self, meta: &Meta) -> bool {
        let has_room = self.keep_room(meta, PER_ALTERATION);
        if !has_room {
            self.room.set_short(true);
            self.room.tell(&self.dir.path(""));
        }
        has_room
    }

    /// Keeps room for so many bytes more of the WAL; false if the host's disk is full.
    fn keep_room(&self, meta: &Meta, bytes: u64) -> bool {
        // Most pages that are written were there before. New ones are not more than those that are written.
        let database = bytes.min(LOOK_EVERY) + KEPT_IN_DATABASE;
        match meta.keep_room(bytes + KEPT, database) {
            Err(e) if is_full(&e) => false,
            // A host that cannot say so in advance says so when it comes to it.
            Ok(()) | Err(_) => true,
        }
    }
}
