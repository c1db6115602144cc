//! A server that rests: nothing is heard of it until it is asked for something, and as long as it is not, it has nothing to do.
//!
//! Whether it is asked, the holder sees for itself: it has the FUSE devices and the control socket as well. Then it watches the server as
//! it does one that works: if that does not take what it is asked for, and gives no sign of life, it hangs.

use super::Holder;
use crate::fuse::Ledger;
use crate::memory;
use crate::server::process::ToldToEnd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a server rests before the holder gives back memory that it does not use.
const SETTLED: Duration = Duration::from_secs(1);

/// What is known of the rest of a server.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// It has said that it rests.
    rests: bool,
    /// Since then, it was asked for something.
    is_asked: bool,
    has_given_back: bool,
}

impl Quiet {
    pub(super) fn begins(&mut self) {
        (self.rests, self.is_asked, self.has_given_back) = (true, false, false);
    }
}

impl Holder {
    /// Waits until there is something to do, as long as the server rests.
    pub(super) fn await_something(&mut self, told: &ToldToEnd) {
        let Some(orders) = told.orders().filter(|_| self.quiet.rests && !self.quiet.is_asked) else { return };
        if self.is_ending() || !self.stragglers.is_empty() || self.doubt.is_there() {
            return;
        }
        let before = if self.quiet.has_given_back { None } else { Some(SETTLED) };
        let is_asked = {
            let mut fds = vec![readable(&self.link), readable(orders)];
            fds.extend(self.asked_by());
            let timeout = before
                .map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
            match poll(&mut fds, timeout) {
                Ok(0) => {
                    memory::give_back();
                    self.quiet.has_given_back = true;
                    false
                }
                Ok(_) => fds[2..].iter().any(|fd| fd.any() == Some(true)),
                // By a signal.
                Err(_) => false,
            }
        };
        if is_asked {
            self.quiet.is_asked = true;
            // It was not watched until now.
            self.pulse.nothing(Instant::now());
            self.pulse.beat(Duration::ZERO);
        }
    }

    /// Where it is seen that somebody asks the server for something.
    fn asked_by(&self) -> impl Iterator<Item = PollFd<'_>> {
        let devices = self.mounts.values().map(|held| readable(&held.device));
        devices.chain(self.listener.as_ref().map(readable))
    }

    /// Whether the server rests again, having done what it was asked for without a sign.
    pub(super) fn rests_again(&mut self) -> bool {
        if !self.quiet.rests {
            return false;
        }
        let mut fds: Vec<PollFd<'_>> = self.asked_by().collect();
        let is_asked = !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        let works = || {
            let in_hand = self.ledger.as_ref().map(Ledger::read);
            in_hand.is_some_and(|in_hand| in_hand.is_ok_and(|requests| !requests.is_empty()))
        };
        if is_asked || works() {
            return false;
        }
        self.quiet.is_asked = false;
        self.pulse.beat(Duration::ZERO);
        true
    }
}

fn readable(file: &impl AsFd) -> PollFd<'_> {
    PollFd::new(file.as_fd(), PollFlags::POLLIN)
}
