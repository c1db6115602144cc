//! Blocks of a state that was attached and is nobody's: what it needs may leave the remote, because its owner keeps it for some time only.

use super::local::Frozen;
use super::on_demand::OnDemand;
use crate::store::{BlockAddr, Elsewhere, ElsewhereError, Fetched, Run, StoredBlocks};
use std::sync::Arc;

/// Fetches blocks of such a state, and says what it means if one is not there.
#[derive(Debug)]
pub struct OfMoment {
    from: Arc<OnDemand>,
    at: Frozen,
}

impl OfMoment {
    /// Of the state of a record.
    pub fn new(from: Arc<OnDemand>, at: Frozen) -> Self {
        Self { from, at }
    }

    fn failed(&self, why: &str) -> ElsewhereError {
        let (at, place) = (&self.at, self.from.place());
        ElsewhereError::Failed(format!(
            "{why}; this is the state of {at}, and {place} keeps what it needs only for as long as its history goes back (`history`): what \
             has gone there is lost here; `larder remote history` lists what can be attached instead"
        ))
    }
}

impl Elsewhere for OfMoment {
    fn place(&self) -> &str {
        self.from.place()
    }

    /// It is asked for, and said why where it is not there.
    fn has(&self, _: BlockAddr) -> bool {
        true
    }

    fn is_away(&self) -> bool {
        self.from.is_away()
    }

    fn sealed_before(&self, key_epoch: u64) -> Option<Vec<Run>> {
        self.from.sealed_before(key_epoch)
    }

    fn fetch(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> Result<Fetched, ElsewhereError> {
        match self.from.fetch(addr, count, put) {
            // All that the state refers to was there.
            Ok(Fetched::Nowhere) => {
                Err(self.failed(&format!("block {addr} is not in {} any more", self.from.place())))
            }
            Err(ElsewhereError::Failed(why)) => Err(self.failed(&why)),
            other => other,
        }
    }
}
