//! Removing what nothing needs any more.

use super::super::collect::{Collect, Collected, collect};
use super::super::error::Result;
use super::super::names;
use super::Shipper;

/// Versions of the header that are looked for at a time.
const HEADERS: usize = 1000;

/// What was removed.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    /// Number of the version of the header that was in force when all before it were removed.
    header: u64,
    /// The image that was the newest when everything was removed that could be.
    done_at: u64,
}

impl Shipper {
    /// Removes the versions of the header before the one in force: they have key slots that were taken away. What fails is done next time.
    pub(super) fn drop_older_headers(&mut self) {
        let in_force = self.log.state().header.number;
        if in_force == self.tidy.header {
            return;
        }
        let objects = self.log.objects();
        let dropped = objects.list(names::HEADER, "", HEADERS).and_then(|listed| {
            let numbers = listed.iter().filter_map(|listed| names::header_number(&listed.name));
            numbers
                .filter(|number| *number < in_force)
                .try_for_each(|number| objects.delete(&names::header(number)))
        });
        match dropped {
            Ok(()) => self.tidy.header = in_force,
            Err(e) => log::warn!("older versions of the header stay for now: {e}"),
        }
    }

    /// Removes what neither the newest state needs nor one that was the newest within `options.min_age`; nothing if it was looked for since
    /// the newest image was made. `None` then.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn collect(&mut self, options: Collect) -> Result<Option<Collected>> {
        let image = self.log.state().image;
        if image == 0 || image == self.tidy.done_at || self.log.is_pending() {
            return Ok(None);
        }
        let spare = self.spare.parts().into_keys().collect();
        let collected = collect(&self.log, spare, options, &*self.clock);
        // What fails is not tried again at once: much is read for it.
        if collected.as_ref().is_ok_and(|collected| !collected.is_done) {
            return collected.map(Some);
        }
        self.tidy.done_at = image;
        collected.map(Some)
    }
}
