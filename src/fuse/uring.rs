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
//! Others that wait, do so for a disk, for locks of ours, or for a thread that waits for those; and none of these waits for the kernel.
//!
//! The thread of a queue carries out what is small. What may take long goes elsewhere ([`place`]): as long as that thread waits for
//! something, all callers on its CPU wait, and the kernel cannot even give up what it has put into that queue: an abort of the
//! connection and umount(2) wait for the thread, or for its end.
//!
//! Notifications, FORGET and INTERRUPT still go by `/dev/fuse`, which has one reader here.
//!
//! What is in flight on a ring is not given again by the kernel: such a mount dies with its server.

mod cpus;
mod flow;
mod place;
mod queue;

use super::adapter::Adapter;
use super::awake::Pace;
use super::device::{Device, Readers, SMALL_BYTES, next_reader, start_reader};
use super::ledger::Ledger;
use super::negotiation::is_without;
use super::pin::pin_to;
use super::pool::Pool;
use super::serving::{self, Hand, Way};
use super::session::{Begin, Run, on_a_thread};
use super::settling::Settling;
use super::task::Desk;
use crate::scheduling::Urgency;
use cpus::Cpus;
pub use flow::{Flow, await_done};
use io_uring::{IoUring, cqueue, squeue};
use place::{Place, Tempo, Waits, place};
pub(super) use queue::Entry;
use queue::Queue;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes of contents that a request moves at most: less than by `/dev/fuse`, because each entry has memory for them.
pub(super) const MAX_WRITE_BYTES: u32 = 256 << 10;
/// Memory of the entries of a mount's queues of CPUs that there are, in bytes, as long as each queue has [`FEWEST`].
const MEMORY_BYTES: usize = 64 << 20;
/// Entries of a queue.
const FEWEST: usize = 8;
const MOST: usize = 32;
/// Threads of a mount for requests that move much, at most.
const LARGE_THREADS: usize = 8;
/// The same for requests that wait. Those that wait for a commit wait for the same one.
const WAITING_THREADS: usize = 16;

const DEVICE: &str = "/dev/fuse";
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// What is to be done where the kernel could, and does not.
pub(super) const OFF: &str = "transport=uring: FUSE over io_uring is turned off; turn it on with `echo Y > \
                              /sys/module/fuse/parameters/enable_uring`, and for good with `options fuse enable_uring=Y` \
                              in /etc/modprobe.d/fuse.conf";
const MISSING: &str =
    "transport=uring needs Linux 6.14 or later, built with CONFIG_FUSE_IO_URING; mount without it";
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
        Some("Y" | "1") if !is_without("uring-on") => {}
        Some(_) => return refuse(OFF),
    }
    match IoUring::<squeue::Entry128, cqueue::Entry>::builder().build(1) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => refuse(FORBIDDEN),
        Err(e) => refuse(&format!("transport=uring: the kernel does not create a ring: {e}")),
    }
}

/// What is to be said where the kernel is one of those in which ending such a mount can corrupt the kernel's memory.
pub fn warning() -> Option<String> {
    let release = nix::sys::utsname::uname().ok()?.release().to_string_lossy().into_owned();
    is_corrupting(&release).then(|| {
        format!(
            "transport=uring: Linux {release} may be one in which ending a mount of FUSE over io_uring can corrupt the kernel's \
             memory (CVE-2025-68805: 6.14 to 6.18.2, unless the distribution has fixed it); mount without it, or take 6.18.3 or later"
        )
    })
}

/// Whether a kernel of this version has the fault of CVE-2025-68805, as released by kernel.org.
fn is_corrupting(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version: (u32, u32) = (next(), next());
    // `6.18-rc7` has no third number.
    let has_third = release.matches('.').count() > 1;
    let third = if has_third { next() } else { 0 };
    ((6, 14, 0)..(6, 18, 3)).contains(&(version.0, version.1, third))
}

/// Entries of each of so many queues.
fn entries(queues: usize) -> usize {
    (MEMORY_BYTES / (queues.max(1) * queue::entry_bytes(MAX_WRITE_BYTES as usize))).clamp(FEWEST, MOST)
}

/// Makes the kernel answer everything on the mount with an error, now and ever after.
pub(super) type Abort = Box<dyn Fn() + Send + Sync>;

/// What the threads of a mount have in common.
struct Rings {
    desk: Arc<Desk>,
    adapter: Arc<Adapter>,
    large: Pool,
    waiting: Pool,
    tempo: Tempo,
    incarnation: u32,
    abort: Abort,
}

impl Rings {
    /// Something is lost without which callers would wait for ever.
    fn give_up(&self, why: &str) {
        log::error!("volume {}: {why}; the mount is ended", self.desk.volume);
        (self.abort)();
    }
}

/// Serves by rings until the mount is gone. It answers once all of them are there.
pub(super) fn serve(
    device: Arc<Device>,
    adapter: Adapter,
    (incarnation, ledger): (u32, Arc<Ledger>),
    abort: Abort,
) -> Begin {
    on_a_thread(Box::new(move || {
        let volume = adapter.volume();
        let settling = Arc::new(Settling::nothing());
        let desk = Arc::new(Desk { device, ledger, settling, gate: None, volume });
        let large = Pool::new("larder-large", LARGE_THREADS)?;
        let waiting = Pool::new("larder-wait", WAITING_THREADS)?;
        let (adapter, tempo) = (Arc::new(adapter), Tempo::default());
        let rings = Arc::new(Rings { desk, adapter, large, waiting, tempo, incarnation, abort });
        let (count, online, mut threads) = (Cpus::possible()?.len(), Cpus::online()?, Threads::default());
        let (started, starts) = channel();
        for number in 0..count as u16 {
            let entries = if online.has(number) { entries(online.len()) } else { FEWEST };
            let queue = Queue::new(number, entries, MAX_WRITE_BYTES as usize)?;
            threads.start(&rings, Arc::new(queue), started.clone())?;
        }
        drop(started);
        rings.desk.ledger.add_rings(volume, threads.0.iter().map(|(queue, _)| queue.flow()));
        for _ in 0..count {
            starts.recv().unwrap_or_else(|_| Err(panicked()))?;
        }
        let (desk, adapter) = (Arc::clone(&rings.desk), Arc::clone(&rings.adapter));
        let seat = desk.ledger.seat(volume);
        let other = start_reader(Readers { desk, adapter, pinner: None, incarnation }, seat)?;
        let run: Run = Box::new(move || {
            // The kernel says here that the mount is gone, whatever the rings are doing.
            let result = other.join().unwrap_or_else(|_| Err(panicked()));
            if let Err(e) = &result {
                // It is not gone, and nobody would answer what is in flight once the rings end.
                rings.give_up(&format!("cannot read {DEVICE}: {e}"));
            }
            drop(threads);
            // Whatever is written later would be written to what may be mounted again by then.
            rings.large.end();
            rings.waiting.end();
            result
        });
        Ok(run)
    }))
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

/// The end of the thread of a queue: gives the mount up if it panics.
struct End<'a>(&'a Rings, &'a Queue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up(&format!("the thread of ring {} panicked", self.1.number()));
        }
        self.1.flow().ends();
    }
}

/// The thread of a queue.
fn work(queue: &Arc<Queue>, rings: &Arc<Rings>, started: &Sender<io::Result<()>>) {
    let Rings { desk, adapter, incarnation, tempo, .. } = &**rings;
    let _end = End(rings, queue);
    let (reader, seat) = (next_reader(*incarnation), desk.ledger.seat(desk.volume));
    let mut pace = Pace::new(adapter.options().awake);
    let mut urgency = Urgency::new(adapter.options().scheduling);
    let mut take = |entry: Entry| {
        pace.note();
        let (kind, bytes) = entry.size();
        let live = adapter.live();
        let waits = Waits { names: live.syncs_names(), changes: live.store().is_crowded() };
        let place = place(kind, bytes, waits, tempo.is_slow());
        let pool = match place {
            Place::Here => {
                // Waiting for the next request, it is what it was for the last: they come in streams.
                urgency.set(bytes <= SMALL_BYTES);
                let begun = Instant::now();
                carry_out(rings, entry, Hand { reader: Some(reader), seat: Some(&seat) });
                return tempo.note(begun.elapsed());
            }
            Place::Large => &rings.large,
            Place::Waiting | Place::Behind => &rings.waiting,
        };
        let rings = Arc::clone(rings);
        pool.run(Box::new(move || {
            let begun = Instant::now();
            carry_out(&rings, entry, Hand { reader: None, seat: None });
            if place == Place::Behind {
                rings.tempo.note(begun.elapsed());
            }
        }));
    };
    match queue.set_up(&desk.device) {
        Ok(ring) => {
            let _ = started.send(Ok(()));
            queue.run(ring, &desk.device, &mut take, &|why| rings.give_up(why));
        }
        Err(e) => {
            let _ = started.send(Err(e));
        }
    }
}

/// A panic is an error for the caller, and no end of a thread: the entry is answered EIO when it goes.
fn carry_out(rings: &Rings, entry: Entry, hand: Hand<'_>) {
    let serve = move || {
        entry.with_request(|parts, entry| {
            serving::serve(&rings.desk, &rings.adapter, parts, (Way::Ring(entry), None), hand);
        });
    };
    if catch_unwind(AssertUnwindSafe(serve)).is_err() {
        log::error!("a request of volume {} made its thread panic; it is answered EIO", rings.desk.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_corrupt_their_memory_are_known_by_their_version() {
        for release in ["6.14", "6.14.0-37-generic", "6.17.13", "6.18", "6.18-rc7", "6.18.2-arch1", "6.16.99"]
        {
            assert!(is_corrupting(release), "{release}");
        }
        for release in
            ["6.13.12", "6.1.0-41-amd64", "6.18.3", "6.18.44-fc-v857", "6.19", "6.19-rc1", "7.0.1", "", "x"]
        {
            assert!(!is_corrupting(release), "{release}");
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
