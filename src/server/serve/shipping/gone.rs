//! A store that is not in its remote any more: somebody has emptied that, or removed the store, while it was shipped from here.

use super::syncs::answer;
use super::{Claimed, Work};
use crate::open_store::SyncError;
use crate::remote::{RemoteError, ShipError, names};
use std::time::Instant;

impl Work {
    /// The store is not there any more. What is here is shipped there again when it is, as it was, and by who claims it then; until then,
    /// nobody is told that anything is there.
    pub(super) fn let_go(&self, claimed: Option<Claimed>, e: &RemoteError) {
        if let Some(Claimed { shipper, once, heartbeat, .. }) = claimed {
            drop(heartbeat);
            if let Some(held) = shipper.log().state().held.as_ref()
                && let Err(e) = once.delete(&names::alive(held.by.id, held.sign))
            {
                log::debug!("{e}");
            }
        }
        let syncs = {
            let mut state = self.state.0.lock();
            state.gone = Some((state.rounds, e.clone()));
            (state.held_by, state.uploading) = (None, None);
            state.behind.get_or_insert_with(Instant::now);
            // (Who ends sets them for good.)
            if !state.ends {
                self.deadlines.parts.lift();
                self.deadlines.all.lift();
            }
            let rounds = state.rounds;
            state.syncs.take(rounds)
        };
        answer(syncs, |_| Err(SyncError::Failed));
    }

    /// What was said when the store was found not to be there any more is said until it is.
    pub(super) fn still_gone(&self, e: ShipError) -> ShipError {
        use RemoteError::{BeingRemoved, NoStore, OtherStore};
        let gone = self.state.0.lock().gone.clone();
        match (gone, &e) {
            (
                Some((_, gone)),
                ShipError::Remote(NoStore { .. } | BeingRemoved { .. } | OtherStore { .. }),
            ) => gone.into(),
            _ => e,
        }
    }
}
