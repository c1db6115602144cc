//! Noticing that a server hangs, and the last resort.

use super::children::Child;
use super::link::Kept;
use crate::mount;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Without a sign of life for so long, a server hangs. It gives one every second.
const SILENCE: Duration = Duration::from_secs(15);
/// A request that takes so long is one that will never be answered, unless it is the disk that does not answer.
const LONGEST_REQUEST: Duration = Duration::from_secs(120);
/// How long finding out what a server does may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long a killed server may take to be gone.
pub(super) const DEATH: Duration = Duration::from_secs(5);
/// In the environment of the holder: `off` lets servers hang, for a debugger.
const SWITCH: &str = "LARDER_WATCHDOG";

/// Signs of life.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Instant,
    longest: Duration,
    /// A long request was said to be the disk's fault.
    excused: bool,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO, excused: false }
    }

    pub(super) fn beat(&mut self, longest: Duration) {
        (self.last, self.longest) = (Instant::now(), longest);
        self.excused &= longest >= LONGEST_REQUEST;
    }

    /// Why the server has to be replaced, if it has to.
    pub(super) fn trouble(&mut self, child: &Child) -> Option<String> {
        let silence = self.last.elapsed();
        let hangs = silence >= SILENCE || self.longest >= LONGEST_REQUEST;
        if !hangs || std::env::var(SWITCH).is_ok_and(|value| value == "off") {
            return None;
        }
        if silence >= SILENCE {
            return Some(format!("no sign of life for {} s", silence.as_secs()));
        }
        // Whoever waits for a disk would wait for it in the next server as well.
        let pid = child.id();
        let waits = move || tasks(pid).iter().any(|task| task.state == 'D');
        if in_time(waits).unwrap_or(false) {
            if !std::mem::replace(&mut self.excused, true) {
                log::warn!("a request has taken {} s: the disk does not answer", self.longest.as_secs());
            }
            return None;
        }
        Some(format!("a request has been worked on for {} s", self.longest.as_secs()))
    }
}

/// What `look` finds out, if it does in time: who looks at a process that hangs in the kernel can hang with it.
fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || send.send(look())).ok()?;
    receive.recv_timeout(LOOK).ok()
}

/// A thread.
struct Task {
    name: String,
    state: char,
    dir: PathBuf,
}

fn tasks(pid: u32) -> Vec<Task> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let task = |dir: PathBuf| {
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some(Task { name: name.to_owned(), state: rest.trim_start().chars().next()?, dir })
    };
    entries.flatten().filter_map(|entry| task(entry.path())).collect()
}

/// Writes into the log what the threads of a server are doing.
pub(super) fn describe(child: &Child) {
    let pid = child.id();
    let look = move || {
        for Task { name, state, dir } in tasks(pid) {
            let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
            let stack = read("stack").replace('\n', " ");
            let (call, waits) = (read("syscall"), read("wchan"));
            log::error!("{name}: state {state}, in {waits}, system call {}, {stack}", call.trim_end());
        }
    };
    if in_time(look).is_none() {
        log::error!("what its threads are doing cannot be found out");
    }
}

/// Lets the kernel answer everything on a mount with an error, now and ever after: better than to wait for nothing.
pub(super) fn abort(kept: &Kept) {
    let Some(connection) = kept.connection else { return };
    // Closing the device does the same, if no killed server still has it.
    if let Err(e) = mount::abort(connection) {
        log::warn!("volume {:?}: aborting FUSE connection {connection}: {e}", kept.volume);
    }
}

/// Asks the kernel to end other processes first when memory runs out, this process's servers among them. Returns what these
/// are to ask for; `None` if nothing was changed.
pub(super) fn spare_from_oom() -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const SPARED: i32 = -900;
    let before: i32 = fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    if before <= SPARED {
        return None;
    }
    match fs::write(FILE, SPARED.to_string()) {
        Ok(()) => Some(before),
        Err(e) => {
            // Only root may.
            log::debug!("{FILE}: {e}");
            None
        }
    }
}
