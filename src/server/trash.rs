//! Giving back what is in the trash when the host has no room left: the trash is not this process's affair, but it is the first to
//! notice. The program does that by itself, as it would for anybody (`larder trash empty --expired`), which also knows what is
//! configured.

use super::own_program;
use crate::backing::{Dir, OsDir};
use crate::root::Root;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Less is as good as nothing.
const FULL: u64 = 64 << 20;
/// Where less is free, it may be below what is to be kept free: so much of the disk, and no more than that.
const SCARCE_PART: u64 = 20;
const SCARCE_MAX: u64 = 10 << 30;
/// Between two attempts on a host that is full, and on one that may be short of room.
const OFTEN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);

/// Looks after the room of a root's host.
pub(super) struct Room {
    root: Root,
    tried: Option<Instant>,
    child: Option<Child>,
}

impl Room {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone(), tried: None, child: None }
    }

    /// Whether something is given back at the moment, or was since this was last looked after.
    pub(super) fn is_at_work(&self) -> bool {
        self.child.is_some()
    }

    /// Has the trash emptied as far as is necessary. `is_short`: something was refused for want of room.
    pub(super) fn look(&mut self, is_short: bool) {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => self.child = None,
            }
        }
        let Some(pause) = self.pause(is_short) else { return };
        if self.tried.is_some_and(|when| when.elapsed() < pause) {
            return;
        }
        self.tried = Some(Instant::now());
        let is_used = |dir: PathBuf| dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        if !is_used(self.root.trash()) && !is_used(self.root.replaced()) {
            return;
        }
        log::info!("the host is short of room: looking for what is in the trash");
        // Also of a program that was replaced since.
        let mut command = own_program::command();
        command.arg("--root").arg(self.root.path()).args(["trash", "empty", "--expired"]);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => self.child = Some(child),
            Err(e) => log::warn!("emptying the trash: {e}"),
        }
    }

    /// How long to wait between two attempts; none where there is room.
    fn pause(&self, is_short: bool) -> Option<Duration> {
        // An administrator may have put them elsewhere.
        let stores = self.root.stores().canonicalize().ok()?;
        let space = OsDir::new(stores).host_space().ok()?;
        let scarce = (space.total_bytes / SCARCE_PART).min(SCARCE_MAX);
        match space.available_bytes {
            _ if is_short => Some(OFTEN),
            free if free < FULL => Some(OFTEN),
            free if free < scarce => Some(SELDOM),
            _ => None,
        }
    }
}
