//! How a holder ends a server, when it may, and what becomes of the mounts then.

use super::link::{Received, is_ending};
use super::next;
use super::program::LONGEST_LOOK;
use super::watch::{self, Trouble};
use super::{Holder, MARGIN, Tied, bequest, unit, wait_longer};
use crate::fuse::Ledger;
use crate::health::{Level, Reason, code, update};
use crate::mount::{self, path_from_bytes};
use crate::server::logging::WHOLE;
use crate::server::process::ToldToEnd;
use crate::volume::Result;
use std::os::fd::AsFd;
use std::time::Instant;

/// More messages than a server can have sent that were not read.
const MOST_UNREAD: u32 = 1 << 12;

impl Holder {
    /// Whether the mounts can be left to the next main process of the unit, which is the end of the server: it has nothing to write back.
    pub(super) fn may_leave(&self) -> bool {
        self.options.unit.is_some() && !self.is_ending()
    }

    /// Kills a server that hangs, unless a mount would die with it; whether it did.
    pub(super) fn end_for(&mut self, trouble: &Trouble) -> bool {
        if !self.is_spared {
            log::error!(target: WHOLE, "the server hangs: {trouble}");
            watch::describe(self.child.id());
        }
        // To describe it took its time.
        self.drain();
        if !self.tied.is_empty() {
            if !std::mem::replace(&mut self.is_spared, true) {
                log::error!("the server is left alone: {}", self.why_not());
            }
            self.pulse.leave_alone();
            return false;
        }
        self.kill();
        if matches!(trouble, Trouble::Stuck(_)) {
            self.suspect(1);
        }
        true
    }

    /// Notes what the server, which has ended, was working on: the `most` requests that it had taken first.
    pub(super) fn suspect(&mut self, most: usize) {
        let Some(ledger) = &self.ledger else { return };
        match Ledger::read(ledger) {
            Ok(requests) => {
                for request in requests.iter().take(most) {
                    log::error!("it was working on request {}, of kind {}", request.unique, request.opcode);
                }
                self.suspects
                    .note(requests.iter().take(most).map(|request| (request.volume, request.unique)));
            }
            Err(e) => log::warn!("what the server was working on cannot be found out: {e}"),
        }
    }

    /// Why no other server can take over all mounts, and what to do about it.
    pub(super) fn why_not(&self) -> String {
        let tied: Vec<String> =
            self.tied.iter().map(|(name, tied)| format!("{name:?} ({})", tied.why)).collect();
        format!(
            "nothing can take over volume {}; it goes on as it is until you unmount it and mount it again",
            tied.join(", ")
        )
    }

    /// Why the program that the unit starts next cannot take over, or is not known to.
    pub(super) fn why_not_next(&self) -> Option<String> {
        if !self.tied.is_empty() {
            return Some(self.why_not());
        }
        wait_longer(LONGEST_LOOK + 2 * MARGIN);
        next::why_not(unit::next_command().as_ref(), &self.options)
    }

    /// Makes way for the next main process of the unit, which is restarted; whether this one is to end. Without it, the server `stays`, or
    /// not.
    pub(super) fn pass_on(&mut self, stays: bool, told: &ToldToEnd) -> Result<bool> {
        let why = self.why_not_next();
        // That took its time.
        self.drain();
        if self.is_ending() {
            self.tell_to_end();
            return Ok(false);
        }
        match if self.tied.is_empty() { why } else { Some(self.why_not()) } {
            // The next one looks after it.
            Some(why) if stays => {
                log::warn!("the unit is restarted, and its server goes on: {why}");
                Ok(true)
            }
            Some(why) => {
                log::warn!("the unit is restarted, and what is mounted is unmounted for that: {why}");
                self.tell_to_end();
                Ok(false)
            }
            None => {
                self.end_child();
                // What was told to end just before is to end.
                if !self.is_ending() && self.leave() {
                    return Ok(true);
                }
                self.succeed(told)?;
                self.tell_to_end();
                Ok(false)
            }
        }
    }

    /// Takes note of all that the server has said by now, and has not been read: what it serves decides whether it may be killed.
    pub(super) fn drain(&mut self) {
        for _ in 0..MOST_UNREAD {
            match self.link.receive_now() {
                Ok(Received::Message(message, file)) => self.take(message, file),
                Ok(Received::Nothing | Received::Gone) => return,
                Err(e) => log::warn!("a message of the server: {e}"),
            }
        }
    }

    /// Whether the server may be killed for another one, as far as it has said anything. To be asked right before that.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_killable(&mut self) -> Result<(), String> {
        self.drain();
        if self.is_ending() {
            Err(is_ending(self.mounts.keys().chain(self.tied.keys())))
        } else if !self.tied.is_empty() {
            Err(self.why_not())
        } else {
            Ok(())
        }
    }

    /// Kills the server, takes note of its end, and buries what it said last that dies with it.
    pub(super) fn end_child(&mut self) {
        self.kill();
        self.child.reap();
        self.bury();
    }

    /// Mounts that have died with their server: whoever uses them is to notice.
    pub(super) fn bury(&mut self) {
        let tied = std::mem::take(&mut self.tied);
        self.note_dead(tied.keys());
        for (name, Tied { kept, why }) in tied {
            let dir = path_from_bytes(kept.dir.clone());
            log::error!("volume {name:?}: its mount on {} has died with the server ({why})", dir.display());
            watch::abort(&kept);
            mount::mark_dead(&dir, &name, kept.connection);
        }
    }

    /// Leaves the mounts to the next holder; whether that worked.
    pub(super) fn leave(&self) -> bool {
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        let requests = (&self.executed[..], &self.suspects, self.incarnation);
        match bequest::leave(self.options.store, self.lock.as_fd(), listener, &self.mounts, requests) {
            Ok(()) => {
                log::info!("the unit is restarted: what is mounted stays so");
                true
            }
            Err(e) => {
                log::warn!("leaving the mounts to the unit when it is started again: {e}; unmounting");
                false
            }
        }
    }

    /// Kills the server, and reads what it had to say.
    pub(super) fn kill(&mut self) {
        // The number of one that is gone may be another process's.
        if !self.child.is_gone() {
            self.child.kill();
        }
        let until = Instant::now() + watch::DEATH;
        loop {
            match self.link.receive() {
                Ok(Received::Message(message, file)) => self.take(message, file),
                Ok(Received::Gone) => return,
                Ok(Received::Nothing) => {}
                Err(e) => log::warn!("a message of the server: {e}"),
            }
            if Instant::now() >= until {
                log::warn!(
                    "the server waits in the kernel for a mount of its own; it ends when another one answers"
                );
                return;
            }
        }
    }

    /// The mounts are given up: all that wait for them get an error.
    pub(super) fn give_up(&mut self) {
        log::error!("no server can be started; the mounts of the store are dead until they are made again");
        let mounts = std::mem::take(&mut self.mounts);
        self.note_dead(mounts.keys());
        for (name, held) in mounts {
            watch::abort(&held.kept);
            mount::mark_dead(&path_from_bytes(held.kept.dir), &name, held.kept.connection);
        }
    }

    /// Notes that mounts have died, where it outlives them and this process.
    fn note_dead<'a>(&self, volumes: impl Iterator<Item = &'a String>) {
        let log = self.options.root.log(self.options.store);
        let dead = |volume: &String| {
            Reason::new(
                code::TAKEOVER_FAILED,
                Level::Failed,
                format!("its mount has died: no server could take over (see {})", log.display()),
                "unmount it and mount it again; what programs had written and not synced in the last seconds may be lost",
            )
            .of_volume(volume)
        };
        let dead: Vec<Reason> = volumes.map(dead).collect();
        if dead.is_empty() {
            return;
        }
        let noted = update(&self.options.root, self.options.store, |notes| {
            dead.into_iter().for_each(|reason| notes.note(reason));
        });
        if let Err(e) = noted {
            log::warn!("noting that mounts have died: {e}");
        }
    }
}
