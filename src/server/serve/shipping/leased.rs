//! What a lease says to those who answer the kernel.

use super::{Shipping, Work};
use crate::fuse::{MayAnswer, Verdict};
use crate::remote::{Clock, LOCAL_NAME, LeaseKind, Local, Permit, RemoteError, ShipError, Stopped};
use std::sync::Arc;
use std::time::Duration;

/// The permit of an owner with a strict lease.
#[derive(Debug)]
struct Leased(Arc<Permit>);

impl Leased {
    fn without(&self) -> Verdict {
        if self.0.stopped().is_some() { Verdict::Never } else { Verdict::Later }
    }
}

impl MayAnswer for Leased {
    fn answer(&self, give: &mut dyn FnMut()) -> Verdict {
        let Some(answering) = self.0.try_answer() else { return self.without() };
        give();
        drop(answering);
        Verdict::Now
    }

    fn look(&self) -> Verdict {
        if self.0.left().is_zero() { self.without() } else { self.answer(&mut || {}) }
    }

    fn wait(&self, most: Duration) {
        self.0.wait(most);
    }

    fn wait_while_now(&self, most: Duration) {
        self.0.wait_while_good(most);
    }
}

/// Says that no more life is shown, where the thread that would have panicked.
pub(super) struct NoMore(pub(super) Arc<Permit>);

impl Drop for NoMore {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.kind() == LeaseKind::Strict {
            self.0.stop(Stopped::Ended);
        }
    }
}

impl Shipping {
    /// Whether nothing is answered because no sign of life was acknowledged, and may be again.
    pub(in crate::server) fn is_paused(&self) -> bool {
        self.permit.paused().is_some()
    }

    /// Who says whether something of the store may be answered; `None`: it always may.
    pub(in crate::server) fn may_answer(&self) -> Option<Arc<dyn MayAnswer>> {
        let is_strict = self.permit.kind() == LeaseKind::Strict;
        is_strict.then(|| Arc::new(Leased(Arc::clone(&self.permit))) as Arc<dyn MayAnswer>)
    }
}

impl Work {
    /// Refuses to claim with another lease than what is answered goes by.
    pub(super) fn must_be_leased_as(&self, local: &Local) -> Result<(), String> {
        if local.lease() == Some(self.permit.kind()) {
            return Ok(());
        }
        Err(format!(
            "{LOCAL_NAME} says lease={}, and this server has begun with lease={}; unmount the volume, and mount it again",
            local.lease,
            self.permit.kind()
        ))
    }

    /// What stops the claim that is made now.
    pub(super) fn permit_of_claim(&self, clock: &Arc<dyn Clock>) -> Arc<Permit> {
        match self.permit.kind() {
            LeaseKind::None => Permit::new(LeaseKind::None, Arc::clone(clock)),
            LeaseKind::Strict => Arc::clone(&self.permit),
        }
    }

    /// Whether nothing goes on after this because of the lease: where the store is gone, whoever brings it back may take it at once.
    pub(super) fn is_over(&self, e: &ShipError) -> bool {
        self.permit.kind() == LeaseKind::Strict && matches!(e, ShipError::Remote(RemoteError::Gone { .. }))
    }

    /// Nothing goes on after this: with a strict lease, nothing is answered from here on, since no more life is shown.
    pub(super) fn stop_answering(&self, e: &ShipError) {
        if self.permit.kind() == LeaseKind::Strict {
            self.permit.stop(match e {
                ShipError::Remote(RemoteError::Fenced { by, .. }) => Stopped::Fenced(by.clone()),
                ShipError::Remote(RemoteError::Gone { what, .. }) => Stopped::Gone(what.clone()),
                _ => Stopped::Ended,
            });
        }
    }
}
