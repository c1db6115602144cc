//! How shipping ends: what is left is shipped, and the remote let go of.

use super::{Claimed, Shipping, Work};
use crate::open_store::Meanwhile;
use crate::remote::{BootClock, Clock, LOCAL_NAME, RemoteError, ShipError, goodbye};
use parking_lot::MutexGuard;
use std::time::{Duration, Instant};

/// How often somebody else is thought of while the thread is waited for.
const MEANWHILE: Duration = Duration::from_millis(100);
/// How long what is left is tried to be shipped when the store is closed, if that went well before.
const LAST_TRY: Duration = Duration::from_secs(20);
/// And how long if it is just being tried again.
const LAST_RETRY: Duration = Duration::from_secs(3);
/// How long before that no more is uploaded: what was uploaded gets a record.
const LAST_RECORD: Duration = Duration::from_secs(5);
/// How long a request may take after that until the thread is left behind.
const LAST_REQUEST: Duration = Duration::from_secs(1);

impl Shipping {
    /// Ships what is left, if the remote can be reached, and says goodbye, if it is for sure that nobody is told any more that something was
    /// changed (`is_quiet`). It is given up when that takes long; the next server of the store goes on. `meanwhile` is called several times a
    /// second.
    pub(in super::super) fn end(&self, is_quiet: bool, mut meanwhile: Meanwhile<'_, '_>) {
        let mut state = self.state.0.lock();
        (state.ends, state.may_change) = (true, !is_quiet);
        let patience = match state.has_failed || self.deadlines.all.is_failing() {
            true => LAST_RETRY,
            false => LAST_TRY,
        };
        let now = BootClock.now();
        self.deadlines.parts.set(now + patience.saturating_sub(LAST_RECORD.min(patience / 2)));
        self.deadlines.all.set(now + patience);
        self.state.1.notify_all();
        let until = Instant::now() + patience + LAST_REQUEST;
        while !state.over {
            if Instant::now() >= until {
                drop(state);
                // What the thread may still find out is the next one's.
                self.kept.leave();
                log::warn!(
                    "{} does not answer; what was not shipped is when the store is next served",
                    self.remote
                );
                return;
            }
            self.state.1.wait_for(&mut state, MEANWHILE);
            if let Some(meanwhile) = &mut meanwhile {
                MutexGuard::unlocked(&mut state, meanwhile);
            }
        }
        drop(state);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Work {
    /// The last round is over: says goodbye, after which nothing that is acknowledged here is anybody's. Where something still may be, the
    /// store stays this one's, and the next server of it goes on.
    pub(super) fn leave(&self, claimed: Claimed) -> std::result::Result<(), ShipError> {
        if !self.state.0.lock().may_change {
            return self.say_goodbye(claimed);
        }
        log::warn!(
            "programs may still change the volume, so {} is not let go of; mount the volume here and unmount it, to let another host have it",
            self.kept.local().remote
        );
        Ok(())
    }

    fn say_goodbye(&self, claimed: Claimed) -> std::result::Result<(), ShipError> {
        let Claimed { mut shipper, permit, heartbeat, .. } = claimed;
        // It says that this owner lives.
        drop(heartbeat);
        let me = shipper.owner().clone();
        // A goodbye of before whose answer was lost is one.
        if shipper.log().state().held.as_ref().is_some_and(|held| held.by.id == me.id) {
            goodbye(shipper.log_mut(), &me, &permit, &BootClock).inspect_err(|e| {
                // It cannot be noted here.
                if matches!(e, RemoteError::Host { .. }) {
                    shipper.say_over();
                }
            })?;
        }
        let noted = self.kept.saw(shipper.log().state().newest);
        noted.map_err(|e| ShipError::Store(format!("{LOCAL_NAME}: {e}")))?;
        self.state.0.lock().has_left = true;
        Ok(())
    }
}
