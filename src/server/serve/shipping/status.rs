//! How shipping goes, as others are told.

use super::Shipping;
use crate::open_store::{OpenStore, Slowing};
use crate::remote::{BootClock, Clock, LeaseKind, Requests};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How shipping goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// The remote.
    pub remote: String,
    /// The newest record.
    pub record: u64,
    /// When it was shipped last, in seconds since 1970 by the clock of this host: what was committed before is there. `None`: not since the store
    /// was opened.
    #[serde(default)]
    pub shipped_at: Option<u64>,
    /// The host that has it, as far as that is known.
    #[serde(default)]
    pub held_by: Option<String>,
    /// Of an upload that is under way, blocks that were uploaded, and those that have to be.
    #[serde(default)]
    pub uploading: Option<(u64, u64)>,
    /// How many objects there have contents of the newest state, and how many bytes.
    #[serde(default)]
    pub there: Option<(u64, u64)>,
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
    /// Whether somebody has to do something about it: it is not tried again, or there is no store any more.
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
    /// Whether programs that write wait until it lacks less.
    #[serde(default)]
    pub held: bool,
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
    /// Blocks that were damaged here since the store was opened, and came back from there.
    #[serde(default)]
    pub healed_blocks: u64,
    /// The same of pages of the metadata.
    #[serde(default)]
    pub healed_pages: u64,
    /// What was written anew there since the store was opened, because little was left of what it was in, in bytes.
    #[serde(default)]
    pub rewritten_bytes: u64,
    /// With a strict lease: for how many seconds no sign of life was acknowledged, if nothing is answered because of that.
    #[serde(default)]
    pub paused_s: Option<u64>,
    /// With a strict lease: nothing is answered any more, and everything is an error.
    #[serde(default)]
    pub refuses: bool,
}

impl RemoteStatus {
    /// Since when the remote lacks something, in seconds; 0: it has everything; `None`: that is not known.
    pub fn lag(&self) -> Option<u64> {
        (!self.lag_unknown).then_some(self.lag_seconds)
    }
}

impl Shipping {
    /// How it goes.
    pub(in crate::server) fn status(&self, store: &Arc<OpenStore>) -> RemoteStatus {
        let is_bounded = self.kept.local().local_size > 0;
        let there = self.on_demand.extent();
        let contents_bytes = is_bounded.then(|| store.contents_bytes());
        // A round that is under way goes on trying for a while.
        let failing = self.deadlines.all.failing(BootClock.now());
        let state = self.state.0.lock();
        let lag = state.lag(store);
        RemoteStatus {
            remote: self.remote.clone(),
            shipped_at: state.shipped_at,
            held_by: state.held_by.clone(),
            uploading: state.uploading.as_ref().and_then(|uploading| uploading.blocks()),
            there,
            record: state.record,
            lag_seconds: lag.unwrap_or(1),
            lag_unknown: lag.is_none(),
            lag_bytes: store.lacking_bytes(),
            trouble: state.trouble.clone().or(failing).or_else(|| state.lost.clone()),
            lost: state.lost.clone(),
            fenced: state.is_fenced,
            stopped: (state.over || state.gone.is_some()) && state.trouble.is_some(),
            away: self.on_demand.trouble(),
            syncs: Some(state.syncs.len()),
            slowed_ms: match state.lag.present() {
                Slowing::No => 0,
                Slowing::For(delay) => delay.as_millis() as u64,
                Slowing::UntilLess(_) => 1000,
            },
            held: matches!(state.lag.present(), Slowing::UntilLess(_)),
            requests: Some(self.kept.requests()),
            here_bytes: state.here.filter(|_| is_bounded),
            contents_bytes,
            stays: state.stays.clone().filter(|_| is_bounded),
            healed_blocks: store.segments().healed_blocks(),
            healed_pages: store.meta_files().healed_pages(),
            rewritten_bytes: state.rewritten,
            paused_s: self.permit.paused().map(|paused| paused.as_secs()),
            refuses: self.permit.kind() == LeaseKind::Strict && self.permit.stopped().is_some(),
        }
    }
}
