//! Removing what nothing needs any more from the remote, between rounds of shipping.

use super::Work;
use crate::remote::{BootClock, Clock, Collect, HISTORY_MIN, Shipper};
use std::time::Duration;

impl Work {
    /// Removes some of what nothing has needed for as long as the history is to go back, which takes little time. That it fails keeps nobody
    /// from anything, and is said once.
    pub(super) fn collect(&self, shipper: &mut Shipper, failed: &mut bool) {
        let local = self.kept.local();
        let min_age = Duration::from_secs(local.history.max(HISTORY_MIN));
        // The clock of an object store is believed; in a directory, times are those of the hosts that write there.
        if local.remote.starts_with("file:") {
            let newest = shipper.log().state().newest.number;
            shipper.none_is_older_than(self.kept.known_to_be_old(newest, BootClock.now(), min_age));
        }
        match shipper.collect_some(Collect { min_age, ..Collect::default() }) {
            Ok(None) => {}
            Ok(Some(gone)) => {
                *failed = false;
                if gone.objects > 0 {
                    log::debug!("removed {} objects from the remote, {} bytes", gone.objects, gone.bytes);
                }
            }
            Err(e) if *failed => log::debug!("what the remote does not need stays for now: {e}"),
            Err(e) => {
                *failed = true;
                log::warn!(
                    "what the remote does not need any more stays there for now, and is tried again: {e}"
                );
            }
        }
    }
}
