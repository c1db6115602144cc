//! What can go wrong between a store and its remote.

use super::format::{OwnerId, When};
use super::objects::{ObjectError, Trouble};
use std::io;
use thiserror::Error;

/// The result of what a remote is asked for.
pub type Result<T> = std::result::Result<T, RemoteError>;

/// Who has taken the store from an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The record by which it was taken.
    pub record: u64,
    /// Who has taken it.
    pub by: OwnerId,
    /// The name of that one's host, as it calls itself.
    pub host: String,
    /// When, by the clock of that host.
    pub at: When,
}

/// Why something could not be done with a remote.
#[derive(Clone, Debug, Error)]
pub enum RemoteError {
    /// A request failed; [`RemoteError::is_passing`] says whether it is worth to try again.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// What is there is not what was written.
    #[error("{place}/{name} is damaged or not what was written there: {what}")]
    Damaged {
        /// URL of the remote.
        place: String,
        /// Name of the object.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A record that must be there is not.
    #[error("{place}/{name} is missing: it was written, and something other than larder has removed it")]
    Lost {
        /// URL of the remote.
        place: String,
        /// Name of the object.
        name: String,
    },
    /// Records are missing, and others are behind them.
    #[error(
        "{place} breaks off behind record {before}: the next one is missing, and record {newest} is there. Something has removed it, or the \
         remote has gone back in time while a host was shipping to it. If it cannot be brought back, `larder attach --accept-older` attaches \
         the state of record {before}, and removes what is behind it"
    )]
    BreaksOff {
        /// URL of the remote.
        place: String,
        /// The last record before those that are missing.
        before: u64,
        /// The newest one.
        newest: u64,
    },
    /// What is there was written by a newer version of this program.
    #[error("{place}/{name}: {what}; use a newer larder")]
    Newer {
        /// URL of the remote.
        place: String,
        /// Name of the object.
        name: String,
        /// What this program does not know.
        what: String,
    },
    /// There is no store.
    #[error("{place} holds no store")]
    NoStore {
        /// URL of the remote.
        place: String,
    },
    /// The store that was shipped there is not there any more, or another one is.
    #[error(
        "{place} does not have this volume any more: {what}. Nothing is shipped there, and the volume goes on here. If the directory is only \
         not mounted, mount it; to ship all of the volume anew, unmount it, `larder remote detach` it, and `larder remote add` it again"
    )]
    Gone {
        /// URL of the remote.
        place: String,
        /// What is there instead, as a sentence without its end.
        what: String,
    },
    /// A store was there, and its removal was begun.
    #[error("{place} has the rest of a store that is being removed; `larder remote rm` goes on with that")]
    BeingRemoved {
        /// URL of the remote.
        place: String,
    },
    /// Somebody shows life who is to have ended.
    #[error(
        "{place} is in use: its owner shows life; unmount the volume on that host, or let it leave (`larder detach`)"
    )]
    Alive {
        /// URL of the remote.
        place: String,
    },
    /// Somebody has claimed the store, or written to it, since it was looked whether it may be removed.
    #[error(
        "{place} has changed since it was looked at: a host has taken the volume there, or mounted it; nothing was removed"
    )]
    Changed {
        /// URL of the remote.
        place: String,
    },
    /// There is a store already, and another one.
    #[error("{place} holds the store {found} already")]
    OtherStore {
        /// URL of the remote.
        place: String,
        /// The id of that store.
        found: String,
    },
    /// The store there is encrypted, and there are no keys; or the other way round.
    #[error("{place}: the store is {}", if *.encrypted { "encrypted, and no secret was given to open it with" } else { "not encrypted, and a secret was given to open it with" })]
    Secret {
        /// URL of the remote.
        place: String,
        /// Whether the store there is encrypted.
        encrypted: bool,
    },
    /// The remote has gone back in time, or has another history than the one that was seen.
    #[error(
        "{place} has gone back: record {seen} was there before, and {now}. If that is meant, unmount the volume, and `larder remote \
         accept-older` lets what is here be shipped there anew; or let it be one of its own (`larder remote detach`), and ship it to another \
         URL (`larder remote add`)"
    )]
    Older {
        /// URL of the remote.
        place: String,
        /// The newest record that was seen.
        seen: u64,
        /// What is there instead, as a sentence without its end.
        now: String,
    },
    /// What is to be shipped at once does not fit a record.
    #[error(
        "{place}/{name} would be longer than a record may be; the next attempt ships the metadata as a whole, beside the record"
    )]
    TooLong {
        /// URL of the remote.
        place: String,
        /// Name of the record.
        name: String,
    },
    /// Another owner has the store.
    #[error(
        "{place} is in use by host {host:?} (since record {record}); end it there, or take the store from it with --steal"
    )]
    InUse {
        /// URL of the remote.
        place: String,
        /// The owner.
        owner: OwnerId,
        /// The name of its host.
        host: String,
        /// The record by which it claimed the store.
        record: u64,
    },
    /// This owner was fenced, and has to stop.
    #[error("{place} was taken by host {:?} at {} (record {})", .by.host, .by.at, .by.record)]
    Fenced {
        /// URL of the remote.
        place: String,
        /// By whom.
        by: Fenced,
    },
    /// The store here is older than what was shipped from it.
    #[error(
        "{place} has record {record}, which was shipped from this store and is not in it: the store was brought back from an older copy, or \
         is one. Remove it here and attach it anew (`larder rm --now`, `larder attach`), or let it be a volume of its own (`larder remote \
         detach`)"
    )]
    Behind {
        /// URL of the remote.
        place: String,
        /// The first record that is not in it.
        record: u64,
    },
    /// The object store writes what is there already, although it is told not to.
    #[error(
        "{place} cannot be a remote: its object store overwrites what is there although it is told not to (`If-None-Match: *`), so that two \
         hosts could both have the store; use one that refuses that, or a newer version of it"
    )]
    Overwrites {
        /// URL of the remote.
        place: String,
    },
    /// Something was to be written by somebody who has not claimed the store.
    #[error("{place} was not claimed: record {record} can be written by its owner only")]
    NotOwner {
        /// URL of the remote.
        place: String,
        /// The record that was to be written.
        record: u64,
    },
    /// There is no such moment in the history.
    #[error("{place} cannot be attached as of {at}: {what}; `larder remote history` lists what can be")]
    NoMoment {
        /// URL of the remote.
        place: String,
        /// Which one was meant.
        at: String,
        /// Why it cannot.
        what: String,
    },
    /// Who waited for something does not want it any more.
    #[error("interrupted")]
    Interrupted,
    /// This host failed.
    #[error("{what}: {why}")]
    Host {
        /// What failed.
        what: String,
        /// Why.
        why: String,
    },
}

impl RemoteError {
    /// Whether it passes by itself: the remote cannot be reached, or has too much to do.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Object(e) if e.trouble == Trouble::Unreachable)
    }

    /// Whether somebody may see to it that it passes, without anything that was there being lost: the remote cannot be reached, does not
    /// let this host in, or this host does not know how to get there.
    pub fn may_pass(&self) -> bool {
        let refused = matches!(self, Self::Object(e) if e.trouble == Trouble::Refused);
        self.is_passing()
            || refused
            || matches!(self, Self::Host { .. } | Self::NoStore { .. } | Self::Interrupted)
    }

    /// Whether an object was asked for that is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Object(e) if e.trouble == Trouble::Missing)
    }

    /// This, where `name` must be there, and must not be missing.
    pub(super) fn or_lost(self, place: &str, name: impl FnOnce() -> String) -> Self {
        if self.is_missing() { Self::Lost { place: place.into(), name: name() } } else { self }
    }

    pub(super) fn damaged(place: &str, name: &str, what: impl Into<String>) -> Self {
        Self::Damaged { place: place.into(), name: name.into(), what: what.into() }
    }

    pub(super) fn host(what: impl Into<String>, why: &io::Error) -> Self {
        Self::Host { what: what.into(), why: why.to_string() }
    }
}
