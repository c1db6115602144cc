//! Writing anew what is left of objects of which little is needed, between rounds of shipping, a little of it each time.

use super::{Shipper, Work};
use std::time::{Duration, Instant};

/// How long nothing is written anew after that failed.
const AGAIN: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Rewriting {
    /// When it is tried again, after it failed.
    failed: Option<Instant>,
}

impl Rewriting {
    /// Writes some of it, until the next round is due, or somebody wants something. That it fails keeps nobody from anything, and is said once.
    pub(super) fn run(&mut self, work: &Work, shipper: &mut Shipper, until: Instant) {
        if self.failed.is_some_and(|again| Instant::now() < again) {
            return;
        }
        loop {
            let done = match shipper.rewrite(work.store.segments()) {
                Ok(done) => done,
                Err(e) => {
                    let level = if self.failed.is_some() { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "what the remote needs little of is not written anew for now: {e}");
                    self.failed = Some(Instant::now() + AGAIN);
                    return;
                }
            };
            if done.blocks > 0 {
                self.failed = None;
                log::debug!("{} blocks were written anew for {} bytes", done.blocks, done.freed_bytes);
                work.on_demand.appended(shipper.log().state().newest);
            }
            let mut state = work.state.0.lock();
            state.rewritten += done.blocks * crate::store::BLOCK_BYTES as u64;
            let is_asked = state.ends || state.wanted || state.changed || state.stopped.is_some();
            if !done.more || is_asked || state.syncs.len() > 0 || Instant::now() >= until {
                return;
            }
        }
    }
}
