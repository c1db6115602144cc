//! How shipping goes, as others are told.

use crate::remote::Requests;
use serde::{Deserialize, Serialize};

/// How shipping goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// The remote.
    pub remote: String,
    /// The newest record.
    pub record: u64,
    /// Since when the remote lacks something, in seconds; 0: it has everything.
    pub lag_seconds: u64,
    /// Whether it is not known if the remote lacks something; [`RemoteStatus::lag_seconds`] is not 0 then.
    #[serde(default)]
    pub lag_unknown: bool,
    /// How much, roughly; `None`: that is not known yet.
    pub lag_bytes: Option<u64>,
    /// Why nothing is shipped, if so, or [`RemoteStatus::lost`].
    pub trouble: Option<String>,
    /// What the remote lacks although all that can be shipped is there, if that was found out.
    #[serde(default)]
    pub lost: Option<String>,
    /// Whether that is because another host has the store.
    #[serde(default)]
    pub fenced: bool,
    /// Whether it is not tried again.
    #[serde(default)]
    pub stopped: bool,
    /// Why what is only there cannot be read at present, if somebody wanted to.
    #[serde(default)]
    pub away: Option<String>,
    /// Syncs that wait for the remote; `None`: a server of an earlier version, which knows of none.
    #[serde(default)]
    pub syncs: Option<u64>,
    /// How long each write waits because the remote lacks more than it may, in milliseconds.
    #[serde(default)]
    pub slowed_ms: u64,
    /// What was asked of it since it is shipped from here; `None`: a server of an earlier version, which does not count.
    #[serde(default)]
    pub requests: Option<Requests>,
    /// How much the contents take here, if that is bounded, in bytes.
    #[serde(default)]
    pub here_bytes: Option<u64>,
    /// How much all contents of the store are, likewise.
    #[serde(default)]
    pub contents_bytes: Option<u64>,
    /// Why none of what is here goes, if it should.
    #[serde(default)]
    pub stays: Option<String>,
    /// What was written anew there since the store was opened, because little was left of what it was in, in bytes.
    #[serde(default)]
    pub rewritten_bytes: u64,
}

impl RemoteStatus {
    /// Since when the remote lacks something, in seconds; 0: it has everything; `None`: that is not known.
    pub fn lag(&self) -> Option<u64> {
        (!self.lag_unknown).then_some(self.lag_seconds)
    }
}
