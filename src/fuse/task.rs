//! What is done for a request on other threads than the one that took it.
//!
//! A thread that works on a request says so in the ledger, so that a watchdog finds what comes no further, and that a request which
//! servers die of is known. Who only waits works on nothing and is not to blame: neither in a queue, nor for the kernel. The same
//! for a request that is worked on alone: one that waits for the kernel may wait for another such request.

use super::device::Device;
use super::fault::Fault;
use super::gate::Gate;
use super::ledger::{Ledger, Working};
use super::settling::{Alone, Settling};
use crate::fs::{MadeFor, VolumeId};
use std::sync::Arc;

/// What all requests of a mount have in common.
pub(super) struct Desk {
    pub(super) device: Arc<Device>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) settling: Arc<Settling>,
    /// What keeps answers back, where another host may get the volume meanwhile.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) volume: VolumeId,
}

/// A request that is not answered yet.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) desk: Arc<Desk>,
    /// The kernel's number of it.
    pub(super) unique: u64,
    /// The same as the kernel gave it: with a bit more if it comes again.
    pub(super) tag: u64,
    /// The kernel's number for what is asked.
    pub(super) opcode: u32,
    /// The process that made it, as this one sees it; 0: none, or one that it does not see.
    pub(super) pid: u32,
    /// A server may have died of it.
    pub(super) is_suspect: bool,
    /// What a test wants to happen when it is gone on with.
    pub(super) fault: Option<&'static Fault>,
}

impl Task {
    /// Waits until it may be worked on alone, if that is how it is to be worked on.
    pub(super) fn alone(&self) -> Option<Alone> {
        self.is_suspect.then(|| self.desk.settling.alone())
    }

    /// Somebody who is no reader works on it.
    pub(super) fn working(&self) -> Working {
        self.desk.ledger.work(self.desk.volume, self.unique, self.opcode)
    }

    /// This thread works on it, until the guard goes.
    pub(super) fn begin(&self) -> AtWork {
        // Not before: who waits to be alone is not to blame if a server dies.
        let alone = self.alone();
        let working = self.working();
        let counted = MadeFor::steps_of(working.steps());
        if let Some(fault) = self.fault {
            fault.strike();
        }
        AtWork { _counted: counted, _working: working, _alone: alone }
    }
}

/// This thread works on a request. They go in this order.
pub(super) struct AtWork {
    _counted: MadeFor,
    _working: Working,
    _alone: Option<Alone>,
}
