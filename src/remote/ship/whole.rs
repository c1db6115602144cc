//! Whether the remote has what whoever attaches the store reads first, and making it anew where somebody has removed some of it.

use super::super::error::{RemoteError, Result};
use super::super::format::HeaderRef;
use super::super::names;
use super::super::presence::must_be_whole;
use super::Shipper;

/// What is made anew with the next state, because the remote lacks it.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// The header of this number, if it is the one in force.
    header: Option<u64>,
    /// Some record since the newest image, or that: with a claim and an image, nobody needs it.
    pub(super) records: bool,
}

impl Lacking {
    /// Whether it has this header no more.
    pub(super) fn has_lost(&self, header: HeaderRef) -> bool {
        self.header == Some(header.number)
    }
}

impl Shipper {
    /// Whether a state is to be shipped because of that.
    pub(super) fn lacks_something(&self) -> bool {
        self.lacking.records || self.lacking.has_lost(self.log.state().header)
    }

    /// Makes sure that the newest record is still there, as it was; with `whole`, all that whoever attaches the store reads first.
    ///
    /// # Errors
    /// [`RemoteError::Older`], [`RemoteError::Gone`], [`RemoteError::Lost`]: what is missing is made anew with the next state; those of requests and of opening.
    pub fn must_be_there(&mut self, whole: bool) -> Result<()> {
        if !whole {
            return self.look_for(self.log.state().newest)();
        }
        let found = must_be_whole(&self.log, &*self.clock);
        if let Err(RemoteError::Lost { name, .. }) = &found {
            let state = self.log.state();
            if *name == names::header(state.header.number) {
                self.lacking.header = Some(state.header.number);
            }
            self.lacking.records |= names::record_number(name).is_some();
            if self.lacking.records {
                self.claim_epoch = None;
            }
        }
        found
    }
}
