//! FUSE over io_uring (`transport=uring`): a ring for each CPU, by which the kernel gives the requests of callers on that CPU.
//!
//! A request that came so keeps its *entry*, the memory that it lies in, until it is answered, and what comes when no entry of its
//! queue is free is given to the next one that an answer makes free. So requests must not hold all entries of a queue while they wait
//! for something that the kernel can only do by other requests. **At most half of the entries of a queue are held by requests that
//! wait for the kernel** ([`Entry::may_wait`]); who comes then is answered without waiting. Those that wait for it:
//! - SEEK_DATA and SEEK_HOLE, for what is to be written back. It is answered ENOSYS, whereupon the kernel itself answers this and all
//!   later ones of the mount, with what POSIX allows: all is data, up to the end that only the kernel knows.
//! - A write past the cache, for pages to be dropped. It is answered at once, and they are dropped right after.
//! - `chattr +i` and `+a`, for what is to be written back: EAGAIN.
//! - The lookup of `.snapshots`, for an old listing to be dropped. It is dropped right after.
//!
//! All others wait for a disk, for locks of ours, or for a thread that does: nobody who has those waits for the kernel.
//!
//! Notifications, FORGET and INTERRUPT still go by `/dev/fuse`, which has one reader here.
//!
//! What is in flight on a ring is not given again by the kernel: such a mount dies with its server.

mod queue;

use super::adapter::Adapter;
use super::awake::Pace;
use super::device::{Device, Readers, next_reader, start_readers};
use super::ledger::Ledger;
use super::negotiation::is_without;
use super::pin::pin_to;
use super::pool::Pool;
use super::serving::{self, Hand, Way};
use super::session::{Begin, Run};
use super::settling::Settling;
use super::task::Desk;
use crate::scheduling::Urgency;
use io_uring::{IoUring, cqueue, squeue};
pub(super) use queue::Entry;
use queue::Queue;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Bytes of contents that a request moves at most: less than by `/dev/fuse`, because each entry has memory for them.
pub(super) const MAX_WRITE_BYTES: u32 = 256 << 10;
/// Memory of a mount's entries, in bytes, as long as each queue has [`FEWEST`].
const MEMORY_BYTES: usize = 64 << 20;
/// Entries of a queue.
const FEWEST: usize = 8;
const MOST: usize = 32;
/// Requests that move so many bytes go to threads of their own: a queue is served on the CPU of its callers, which want it to go on.
const LARGE_BYTES: usize = 128 << 10;
/// Threads of a mount for those, at most.
const LARGE_THREADS: usize = 8;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// What is to be done where the kernel could, and does not.
pub(super) const OFF: &str = "transport=uring: FUSE over io_uring is turned off; turn it on with `echo Y > \
                              /sys/module/fuse/parameters/enable_uring`, and for good with `options fuse enable_uring=Y` \
                              in /etc/modprobe.d/fuse.conf";
const MISSING: &str = "transport=uring takes Linux 6.14 or later, built with CONFIG_FUSE_IO_URING; mount without it";
const FORBIDDEN: &str = "transport=uring: this process may not use io_uring; set the sysctl kernel.io_uring_disabled to \
                         0 or 1, and in a container look at its seccomp profile";

/// Whether the kernel has FUSE over io_uring and lets us use it. The module `fuse` is loaded.
///
/// # Errors
/// `Unsupported`, with what is missing and what to do about it.
pub fn available() -> io::Result<()> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    let parameter = if is_without("uring") { None } else { fs::read_to_string(PARAMETER).ok() };
    match parameter.as_deref().map(str::trim) {
        None => return refuse(MISSING),
        Some("Y" | "1") => {}
        Some(_) => return refuse(OFF),
    }
    match IoUring::<squeue::Entry128, cqueue::Entry>::builder().build(1) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => refuse(FORBIDDEN),
        Err(e) => refuse(&format!("transport=uring: the kernel gives no ring: {e}")),
    }
}

/// CPUs that there can ever be: the kernel wants a queue for each.
fn possible_cpus() -> io::Result<u16> {
    let list = fs::read_to_string(POSSIBLE_CPUS)?;
    count(list.trim()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{POSSIBLE_CPUS} makes no sense: {list:?}"))
    })
}

/// How many numbers a list like `0-3,8` has.
fn count(list: &str) -> Option<u16> {
    list.split(',').try_fold(0u16, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Entries of each of so many queues.
fn entries(queues: usize) -> usize {
    (MEMORY_BYTES / (queues.max(1) * queue::entry_bytes(MAX_WRITE_BYTES as usize))).clamp(FEWEST, MOST)
}

/// What the threads of a mount have in common.
struct Rings {
    desk: Arc<Desk>,
    adapter: Arc<Adapter>,
    large: Pool,
    incarnation: u32,
}

/// Serves by rings until the mount is gone. It answers once all of them are there.
pub(super) fn serve(
    device: Arc<Device>,
    adapter: Adapter,
    (incarnation, ledger): (u32, Arc<Ledger>),
) -> Begin {
    Box::new(move || {
        let volume = adapter.volume();
        let settling = Arc::new(Settling::nothing());
        let desk = Arc::new(Desk { device, ledger, settling, volume });
        let large = Pool::new("larder-large", LARGE_THREADS)?;
        let rings = Arc::new(Rings { desk, adapter: Arc::new(adapter), large, incarnation });
        let (count, mut threads) = (possible_cpus()?, Threads::default());
        let (started, starts) = channel();
        for number in 0..count {
            let queue = Queue::new(number, entries(count.into()), MAX_WRITE_BYTES as usize)?;
            threads.start(&rings, Arc::new(queue), started.clone())?;
        }
        drop(started);
        for _ in 0..count {
            starts.recv().unwrap_or_else(|_| Err(panicked()))?;
        }
        let (desk, adapter) = (Arc::clone(&rings.desk), Arc::clone(&rings.adapter));
        let seat = desk.ledger.seat(volume);
        let readers = Arc::new(Readers { desk, adapter, pinner: None, incarnation });
        let others = start_readers(&readers, [seat])?;
        let run: Run = Box::new(move || {
            // The kernel says here that the mount is gone, whatever the rings are doing.
            let ends = others.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
            let result = ends.collect();
            drop(threads);
            result
        });
        Ok(run)
    })
}

fn panicked() -> io::Error {
    io::Error::other("a thread of the FUSE session panicked")
}

/// The threads of all queues. They end with this.
#[derive(Default)]
struct Threads(Vec<(Arc<Queue>, JoinHandle<()>)>);

impl Threads {
    fn start(
        &mut self,
        rings: &Arc<Rings>,
        queue: Arc<Queue>,
        started: Sender<io::Result<()>>,
    ) -> io::Result<()> {
        let (for_thread, rings) = (Arc::clone(&queue), Arc::clone(rings));
        let name = format!("larder-ring-{}", queue.number());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            pin_to(for_thread.number().into());
            work(&for_thread, &rings, &started);
        })?;
        self.0.push((queue, thread));
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for (queue, _) in &self.0 {
            queue.end();
        }
        for (_, thread) in self.0.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of a ring panicked");
            }
        }
    }
}

/// The thread of a queue.
fn work(queue: &Arc<Queue>, rings: &Arc<Rings>, started: &Sender<io::Result<()>>) {
    let Rings { desk, adapter, incarnation, .. } = &**rings;
    let (reader, seat) = (next_reader(*incarnation), desk.ledger.seat(desk.volume));
    let mut pace = Pace::new(adapter.options().awake);
    let mut urgency = Urgency::new(adapter.options().scheduling);
    let mut take = |entry: Entry| {
        pace.note();
        if entry.bytes() >= LARGE_BYTES {
            let rings = Arc::clone(rings);
            let others = Arc::clone(&rings);
            others.large.run(Box::new(move || {
                carry_out(&rings, entry, Hand { reader: None, seat: None });
            }));
            return;
        }
        urgency.set(true);
        carry_out(rings, entry, Hand { reader: Some(reader), seat: Some(&seat) });
    };
    match queue.set_up(&desk.device) {
        Ok(ring) => {
            let _ = started.send(Ok(()));
            queue.run(ring, &desk.device, &mut take);
        }
        Err(e) => {
            let _ = started.send(Err(e));
        }
    }
}

fn carry_out(rings: &Rings, entry: Entry, hand: Hand<'_>) {
    entry.with_request(|parts, entry| {
        serving::serve(&rings.desk, &rings.adapter, parts, (Way::Ring(entry), None), hand);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_as_the_kernel_lists_them() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-1"), Some(2));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        for bad in ["", "-", "3-1", "x", "0-65535", "0,,1"] {
            assert_eq!(count(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_memory_of_entries_is_bounded() {
        for queues in 1..=1024 {
            let bytes = queues * entries(queues) * queue::entry_bytes(MAX_WRITE_BYTES as usize);
            let fewest = queues * FEWEST * queue::entry_bytes(MAX_WRITE_BYTES as usize);
            assert!(bytes <= MEMORY_BYTES.max(fewest), "{queues} queues: {bytes}");
        }
        assert_eq!((entries(2), entries(4096)), (MOST, FEWEST));
    }
}
