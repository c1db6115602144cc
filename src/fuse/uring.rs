//! FUSE over io_uring: requests come through one queue for each CPU, to a thread on that CPU, without a wake-up of another
//! one. Requests to forget nodes, and notifications, still go through `/dev/fuse`.
//!
//! See `Documentation/filesystems/fuse/fuse-io-uring.rst` of the kernel. It has the matter since Linux 6.14 and offers it only
//! if its parameter [`PARAMETER`] is set.

mod entry;
mod queue;
mod reply;
mod ring;

use super::adapter::Adapter;
use super::device::Device;
use super::pool::Pool;
use queue::Shared;
use ring::Ring;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// Where the kernel is told to offer it.
pub(super) const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";
/// Entries to begin with, of all queues together. Each may come to use a mebibyte.
const ENTRIES: usize = 16;

/// Sees to it that the kernel offers FUSE over io_uring to mounts that are made from now on, which is up to the
/// administrator.
///
/// # Errors
/// With what to do: the kernel is too old, or setting its parameter is not permitted.
pub fn offer_uring() -> io::Result<()> {
    let explain = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::NotFound => {
                "this kernel has no FUSE over io_uring, which came with Linux 6.14".to_owned()
            }
            _ => format!("{PARAMETER}: {e}; set it to Y on the host, as root"),
        };
        io::Error::new(e.kind(), why)
    };
    if fs::read_to_string(PARAMETER).map_err(explain)?.trim() == "Y" {
        return Ok(());
    }
    fs::write(PARAMETER, "Y").map_err(explain)?;
    log::info!("{PARAMETER} is Y from now on, for transport=uring");
    Ok(())
}

/// Rings for a connection that is about to be agreed on: a thread for each queue, with its ring, that waits to begin.
/// Dropped, they go away.
pub(super) struct Rings {
    workers: Pool,
    waiting: Vec<Waiting>,
}

/// The thread of a queue, and how it is told to begin.
struct Waiting {
    go: Sender<Arc<Shared>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Rings {
    /// One for each CPU that the machine can have.
    ///
    /// # Errors
    /// When this process may not use io_uring, or have so many threads.
    pub(super) fn new(device: &Arc<Device>) -> io::Result<Self> {
        let count = possible_cpus(&fs::read_to_string(POSSIBLE_CPUS)?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{POSSIBLE_CPUS} is no list"))
        })?;
        let waiting = (0..count).map(|queue| prepare(device, queue)).collect::<io::Result<_>>()?;
        Ok(Self { workers: Pool::new("larder-large", usize::from(count).clamp(2, 8))?, waiting })
    }

    /// Lets them begin; they end when the mount is gone. To be called after the kernel has agreed: before that it has no
    /// queues, and from then on it waits for them.
    pub(super) fn start(self, adapter: &Arc<Adapter>) -> Vec<JoinHandle<io::Result<()>>> {
        let shared = Arc::new(Shared {
            adapter: Arc::clone(adapter),
            workers: self.workers,
            depth: (ENTRIES / self.waiting.len().max(1)).clamp(2, 8),
        });
        let begin = |Waiting { go, thread }| {
            // A thread that is not there any more says why when it is joined.
            let _ = go.send(Arc::clone(&shared));
            thread
        };
        self.waiting.into_iter().map(begin).collect()
    }
}

/// Starts the thread of a queue, with its ring. It serves when it is given what it needs for that.
fn prepare(device: &Arc<Device>, queue: u16) -> io::Result<Waiting> {
    let (go, shared) = mpsc::channel::<Arc<Shared>>();
    let (ready, is_ready) = mpsc::channel();
    let device = Arc::clone(device);
    let serve = move || {
        let ring = match Ring::new(device, queue) {
            Ok(ring) => ring,
            Err(e) => {
                let _ = ready.send(Err(e));
                return Ok(());
            }
        };
        let _ = ready.send(Ok(()));
        // Nobody will say so: the connection has come about otherwise, or not at all.
        let Ok(shared) = shared.recv() else { return Ok(()) };
        queue::run(ring, &shared).inspect_err(|e| log::error!("queue {queue} of a FUSE connection: {e}"))
    };
    let thread = std::thread::Builder::new().name(format!("larder-uring-{queue}")).spawn(serve)?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(Waiting { go, thread })
}

/// How many CPUs a list such as `0-3,8` names.
fn possible_cpus(list: &str) -> Option<u16> {
    list.trim().split(',').try_fold(0u16, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(possible_cpus("0-1\n"), Some(2));
        assert_eq!(possible_cpus("0"), Some(1));
        assert_eq!(possible_cpus("0-3,8,10-11"), Some(7));
        for bad in ["", "x", "3-1", "0-65535"] {
            assert_eq!(possible_cpus(bad), None, "{bad:?}");
        }
    }
}
