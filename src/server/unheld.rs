//! A server that has lost its holder, under the eyes of the main process of a unit.
//!
//! The holder of a unit that is restarted goes, and leaves a server behind of which some mount cannot be taken over; one that was killed
//! leaves any. Such a server goes on until its last mount is gone; whoever comes next as the main process waits for that, so that the
//! unit says what is so.

use super::client::Client;
use super::control::{MountStatus, Status};
use super::holder::{Doubt, Ending, Found, MARGIN, Order, order, wait_longer};
use super::process::ToldToEnd;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked around.
const TICK: Duration = Duration::from_millis(500);

/// A server without a holder.
#[derive(Debug)]
pub struct Unheld {
    client: Client,
    status: Status,
}

impl Unheld {
    /// The server of a store, if it has no holder. What it says is waited for, for `patience`.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn find(root: &Root, store: StoreId, patience: Duration) -> Result<Option<Self>> {
        let Some(mut client) = Client::connect_within(root, store, patience)? else { return Ok(None) };
        let status = match client.status() {
            Ok(status) => status,
            Err(e) if e.silent => return Err(e),
            // One that is ending, which is found out by whoever asks next.
            Err(_) => return Ok(None),
        };
        // It may not have noticed yet that its holder is gone.
        let is_held = status.holder != 0 && Path::new("/proc").join(status.holder.to_string()).exists();
        Ok((!is_held && !status.ending).then_some(Self { client, status }))
    }

    /// How it was when it was found.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Its mount of a volume, as it was then.
    pub fn mount(&self, volume: &str) -> Option<&MountStatus> {
        self.status.mounts.iter().find(|mount| mount.volume == volume)
    }

    /// The way to it.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Waits until it ends, or until it is to be left to the next process; whether it has ended. What tells this process to end
    /// tells it, too, and systemd is asked to wait for as long as it does something.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn attend(mut self, told: &ToldToEnd) -> Result<bool> {
        let server = Pid::from_raw(self.status.pid.cast_signed());
        self.client.set_patience(TICK)?;
        let mut ending: Option<Ending> = None;
        let mut is_overdue = false;
        let mut doubt = Doubt::default();
        loop {
            let before = Instant::now();
            if self.client.has_ended() {
                return Ok(true);
            }
            let told = doubt.settle(told.take(), before, order);
            if told == Some(Order::Restart { stays: true }) {
                log::warn!("the unit is restarted, and its server goes on");
                return Ok(false);
            }
            if told.is_some() {
                // To find that out can take long enough for its number to be another process's.
                if self.client.has_ended() {
                    return Ok(true);
                }
                if let Err(e) = kill(server, Signal::SIGTERM) {
                    log::debug!("cannot tell the server to end: {e}");
                }
                ending.get_or_insert_with(Ending::new);
            }
            match ending.as_mut().map(|ending| ending.look(self.status.pid, None)) {
                Some(Found::Waits(time)) => wait_longer(time + MARGIN),
                Some(Found::Overdue(time)) if !std::mem::replace(&mut is_overdue, true) => {
                    log::error!(
                        "process {} was told to end, and has done nothing for {} s; kill it if it does not end",
                        self.status.pid,
                        time.as_secs()
                    );
                }
                _ => {}
            }
            // A signal ends the waiting early; whatever else does must not make this spin.
            if before.elapsed() < TICK / 2 {
                std::thread::sleep(TICK / 10);
            }
        }
    }
}
