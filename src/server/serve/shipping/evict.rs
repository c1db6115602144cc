//! Letting go of what is in the remote as well, when the contents here are more than they are to be (`local-size`), or the host is nearly full.
//!
//! A few pieces at a time, between rounds of shipping, on their thread: so nothing goes that is not in a record which is known to be there, and
//! nothing while the remote cannot be reached, has another owner, or is not what it was.

use super::{Shipper, Work};
use crate::backing::is_full;
use crate::open_store::OpenStore;
use crate::remote::{RemoteError, Seen, ShipError};
use crate::store::Evicted;
use std::time::{Duration, Instant};

/// What goes at a time, and where somebody waits for the next round, in bytes.
const STEP: u64 = 64 << 20;
const STEP_BESIDE_SYNCS: u64 = 8 << 20;
/// What may come before it is looked again, and what goes beyond what has to: a part of what is to be here, of which this is the least and
/// the most.
const SLACK_PART: u64 = 64;
const SLACK_MIN: u64 = 4 << 20;
const SLACK_MAX: u64 = 256 << 20;
/// A host that has less left than this part of its disk, and than this, gets something back.
const LOW_PART: u64 = 32;
const LOW_MAX: u64 = 512 << 20;
/// How long nothing goes after an object was found to be missing, and after something failed that may pass.
const AGAIN: Duration = Duration::from_secs(600);
const AGAIN_SOON: Duration = Duration::from_secs(30);
/// Blocks that must have gone to say that the host gives nothing back for them.
const MANY: u64 = 1024;

#[derive(Debug, Default)]
pub(super) struct Evicting {
    /// It is known, durably, that something may be there only.
    is_partial: bool,
    /// When it is tried again, after it failed, and why it did.
    failed: Option<(Instant, String)>,
    /// Blocks that went without the host having more room for it.
    in_vain: u64,
}

/// What is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Excess {
    bytes: u64,
    slack: u64,
}

impl Excess {
    /// `here` bytes are here, `most` are to be; the host lacks `wanted`.
    fn of(here: u64, most: u64, wanted: u64) -> Self {
        let slack = (most / SLACK_PART).clamp(SLACK_MIN, SLACK_MAX);
        let over = here.saturating_sub(most);
        let over = if over > 0 { over + slack.min(most / 4) } else { 0 };
        Self { bytes: over.max(wanted.min(here)), slack }
    }
}

/// What the host wants to have back.
fn wanted(store: &OpenStore) -> u64 {
    let Ok(host) = store.host_space() else { return 0 };
    let low = (host.total_bytes / LOW_PART).min(LOW_MAX);
    if host.available_bytes < low { 2 * low - host.available_bytes } else { 0 }
}

impl Evicting {
    /// Lets go of what is too much, until the next round is due, or somebody wants something.
    pub(super) fn run(&mut self, work: &Work, shipper: &mut Shipper, until: Instant) {
        loop {
            let (more, stays) = self.step(work, shipper);
            let mut state = work.state.0.lock();
            if let Some(why) = stays.as_ref().filter(|why| state.stays.as_ref() != Some(why)) {
                log::warn!("more is here than is to be, and none of it goes: {why}");
            }
            state.stays = stays;
            let is_asked = state.ends || state.wanted || state.changed || state.stopped.is_some();
            if !more || is_asked || state.syncs.len() > 0 || Instant::now() >= until {
                // It goes on after the next round.
                state.crowded |= more;
                return;
            }
        }
    }

    /// Lets go of some of it. Whether there is more; and why nothing goes that should, if so.
    fn step(&mut self, work: &Work, shipper: &mut Shipper) -> (bool, Option<String>) {
        let (store, most) = (&work.store, work.kept.local().local_size);
        let segments = store.segments();
        if most == 0 {
            return (false, None);
        }
        let state = std::sync::Arc::clone(&work.state);
        segments.note_use(Box::new(move || {
            state.0.lock().crowded = true;
            state.1.notify_all();
        }));
        let here = match segments.resident_bytes() {
            Ok(here) => here,
            Err(e) => return (false, Some(format!("cannot look how much is here: {e}"))),
        };
        work.state.0.lock().here = Some(here);
        let excess = Excess::of(here, most, wanted(store));
        if excess.bytes == 0 {
            segments.tell_after(most.saturating_sub(here).max(excess.slack));
            return (false, None);
        }
        if let Some(why) = self.why_not(work) {
            return (false, why);
        }
        let has_syncs = work.state.0.lock().syncs.len() > 0;
        let step = if has_syncs { STEP_BESIDE_SYNCS } else { STEP };
        match self.let_go(work, shipper, excess.bytes.min(step)) {
            // What is here and not there stays, and what is left is looked at after the next round.
            Ok(Evicted { blocks: 0, bytes: 0 }) => (false, None),
            Ok(gone) => {
                self.in_vain = if gone.bytes == 0 { self.in_vain + gone.blocks } else { 0 };
                segments.tell_after(excess.slack);
                (true, None)
            }
            Err((why, pause)) => {
                self.failed = Some((Instant::now() + pause, why.clone()));
                (false, Some(why))
            }
        }
    }

    /// Why nothing may go now; the reason, if somebody should know.
    fn why_not(&mut self, work: &Work) -> Option<Option<String>> {
        let (is_unsound, is_stopped) = {
            let state = work.state.0.lock();
            (state.unsound, state.stopped.is_some())
        };
        if is_stopped || !work.store.health().is_good() {
            return Some(None);
        }
        if is_unsound {
            let what = "something is missing or damaged in the remote, see `larder remote check`";
            return Some(Some(what.into()));
        }
        if self.in_vain >= MANY {
            let what = "the file system of the host gives no room back for parts of files; turn local-size off, or move the store";
            return Some(Some(what.into()));
        }
        // All of it is to come here for that.
        if work.store.reencryption().is_some() {
            return Some(None);
        }
        if let Some((again, why)) = &self.failed {
            if Instant::now() < *again {
                return Some(Some(why.clone()));
            }
            self.failed = None;
        }
        work.on_demand.trouble().map(Some)
    }

    fn let_go(
        &mut self,
        work: &Work,
        shipper: &mut Shipper,
        bytes: u64,
    ) -> std::result::Result<Evicted, (String, Duration)> {
        if !self.is_partial {
            work.kept
                .be_partial()
                .map_err(|e| (format!("cannot note that something is only there: {e}"), AGAIN_SOON))?;
            work.on_demand.be_partial();
            work.store.segments().set_partial(true);
            self.is_partial = true;
        }
        // After a crash, what goes is looked for in what was noted. (A host that is full has no room for that, and wants something to go: the
        // attempt to append the newest record was noted before.)
        let newest = shipper.log().state().newest;
        if work.kept.local().seen() != Seen::Newest(newest)
            && let Err(e) = work.kept.saw(newest)
            && !is_full(&e)
        {
            return Err((format!("cannot note the newest record: {e}"), AGAIN_SOON));
        }
        let gone = shipper.evict(work.store.segments(), bytes).map_err(|e| {
            let is_lost = matches!(e, ShipError::Remote(RemoteError::Lost { .. }));
            (e.to_string(), if is_lost { AGAIN } else { AGAIN_SOON })
        })?;
        if gone.blocks > 0 {
            log::debug!("{} blocks are only in the remote from now on", gone.blocks);
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_a_little_more_than_must() {
        const G: u64 = 1 << 30;
        assert_eq!(Excess::of(20 * G, 20 * G, 0).bytes, 0);
        assert_eq!(Excess::of(20 * G + 5, 20 * G, 0), Excess { bytes: 5 + SLACK_MAX, slack: SLACK_MAX });
        assert_eq!(Excess::of(17 << 20, 16 << 20, 0).bytes, 5 << 20);
        assert_eq!(Excess::of(7 * G, 20 * G, G).bytes, G, "the host has no room");
        assert_eq!(Excess::of(5, 20 * G, G).bytes, 5);
    }
}
