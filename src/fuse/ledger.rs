//! What each reader of requests works on, and how far it is: for the watchdog, and, in memory that outlives the process, for
//! whoever starts the next one.

use super::clock::now_ms;
use super::passing::{Came, state_of, this_thread};
use super::uring::Flow;
use super::wire::opcode;
use crate::fs::VolumeId;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Readers that can be noted at the same time; what others do is not seen. Lines that are not used take no memory.
const LINES: usize = 1 << 16;

/// What one reader does. In the ledger's file, in the host's byte order; all zero where nobody is.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Line {
    /// When the request was taken that is being worked on, by [`now_ms`]; 0: none is.
    since: AtomicU64,
    /// The kernel's number of the request.
    unique: AtomicU64,
    /// The volume of the mount that it came by.
    volume: AtomicU64,
    /// The kernel's number for what is asked.
    opcode: AtomicU64,
    /// Steps that the reader has taken so far, whatever it was that it worked on.
    steps: AtomicU64,
    /// Of whoever reads requests from the kernel: odd while it asks for one; with each one more by two.
    rounds: AtomicU64,
    /// The kernel's number of its thread.
    thread: AtomicU64,
    /// Requests that it took in which the kernel writes back what it had in its cache.
    written_back: AtomicU64,
}

const LINE_BYTES: usize = size_of::<Line>();
/// Lines that are read from a file at a time.
const LINES_AT_ONCE: usize = 64;

/// Those who read the requests of a mount, and how far each was at a moment.
#[derive(Debug)]
pub struct Mark(Vec<Marked>);

#[derive(Debug)]
struct Marked {
    line: &'static Line,
    thread: u64,
    rounds: u64,
}

impl Mark {
    /// Whether nobody is known who reads them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all write-backs are done that readers had taken then; they do them on their own threads.
    ///
    /// # Errors
    /// When it cannot be seen what a thread does.
    pub fn is_passed(&self) -> io::Result<bool> {
        let mut unseen = Ok(true);
        for marked in &self.0 {
            match marked.is_passed() {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // Of the others, it can be seen all the same.
                Err(e) => unseen = Err(e),
            }
        }
        unseen
    }
}

impl Marked {
    fn is_passed(&self) -> io::Result<bool> {
        let (line, then) = (self.line, self.rounds);
        let is_there = || line.thread.load(Ordering::SeqCst) == self.thread;
        let now = line.rounds.load(Ordering::SeqCst);
        // One that asked for a request may have been given one, and not have been run since.
        if !is_there() || now > then + then % 2 {
            return Ok(true);
        }
        let passed = if now % 2 == 1 {
            match state_of(self.thread) {
                Ok(state) => state == b'S',
                Err(_) if !is_there() => return Ok(true),
                Err(e) => return Err(e),
            }
        } else {
            // Whatever else comes no further is not waited for.
            line.since.load(Ordering::Acquire) != 0
                && line.opcode.load(Ordering::Relaxed) != u64::from(opcode::WRITE)
        };
        Ok(passed && line.rounds.load(Ordering::SeqCst) == now)
    }
}

/// A request that is being worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// When it was taken, by a clock of the process's own, in milliseconds.
    pub since: u64,
    /// The volume of the mount that it came by.
    pub volume: VolumeId,
    /// The kernel's number of the request.
    pub unique: u64,
    /// The kernel's number for what is asked.
    pub opcode: u64,
    line: usize,
    steps: u64,
}

impl InHand {
    /// Whether `later` is the same request, and no step was taken in between.
    pub fn is_no_further(&self, later: &Self) -> bool {
        self == later
    }

    /// Whether somebody waits for something to be on the disk: that takes no steps.
    pub fn is_sync(&self) -> bool {
        [opcode::FSYNC, opcode::FSYNCDIR, opcode::FLUSH].iter().any(|sync| u64::from(*sync) == self.opcode)
    }

    /// A request of which nothing else is known.
    #[cfg(test)]
    pub fn of(unique: u64, opcode: u64) -> Self {
        Self { since: 1, volume: 1, unique, opcode, line: 0, steps: 0 }
    }
}

/// The lines of all readers of a process.
#[derive(Debug)]
pub struct Ledger {
    lines: &'static [Line],
    /// What they are in, if another process can see them.
    file: Option<OwnedFd>,
    /// Lines that are free, and the first of those that never were taken.
    free: Mutex<(Vec<usize>, usize)>,
    /// By which rings the requests of mounts come.
    rings: Mutex<Vec<(VolumeId, Weak<Flow>)>>,
}

impl Ledger {
    /// An empty one. It stays for as long as the process lives. Where there is no memory to share, nobody else will see it.
    pub fn new() -> Arc<Self> {
        let (lines, file) = match Self::shared() {
            Ok((lines, file)) => (lines, Some(file)),
            Err(e) => {
                log::warn!("the requests in work cannot be shown to the holder: {e}");
                (&*Box::leak((0..LINES).map(|_| Line::default()).collect()), None)
            }
        };
        Arc::new(Self { lines, file, free: Mutex::default(), rings: Mutex::default() })
    }

    #[expect(unsafe_code, reason = "memory that outlives the process")]
    fn shared() -> io::Result<(&'static [Line], OwnedFd)> {
        let file = memfd_create("larder-ledger", MFdFlags::MFD_CLOEXEC)?;
        let len = LINES * LINE_BYTES;
        nix::unistd::ftruncate(&file, len as i64)?;
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the mapping is new, has the length of the file, which nobody changes, and is never unmapped. It begins at a page,
        // so that lines are aligned; every value of its bytes is a value of atomics, through which alone it is accessed.
        let lines = unsafe {
            let start = mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0)?;
            std::slice::from_raw_parts(start.as_ptr().cast::<Line>(), LINES)
        };
        Ok((lines, file))
    }

    /// The file that another process finds the lines in.
    pub fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    /// A request of a mount of `volume` is worked on by whoever is no reader, until the guard goes.
    pub(super) fn work(self: &Arc<Self>, volume: VolumeId, unique: u64, opcode: u32) -> Working {
        let seat = self.seat(volume);
        let mut working = seat.work(unique, opcode);
        working.seat = Some(seat);
        working
    }

    /// A line for a reader of a mount of `volume`.
    pub(super) fn seat(self: &Arc<Self>, volume: VolumeId) -> Seat {
        let at = {
            let mut free = self.free.lock();
            free.0.pop().or_else(|| {
                let next = free.1;
                free.1 = (next + 1).min(LINES);
                (next < LINES).then_some(next)
            })
        };
        if let Some(line) = at.map(|at| &self.lines[at]) {
            line.volume.store(volume, Ordering::Relaxed);
            for of_readers in [&line.rounds, &line.thread, &line.written_back] {
                of_readers.store(0, Ordering::Relaxed);
            }
        }
        Seat { ledger: Arc::clone(self), at }
    }

    /// By these rings the requests of a mount of `volume` come.
    pub(super) fn add_rings<'a>(&self, volume: VolumeId, flows: impl Iterator<Item = &'a Arc<Flow>>) {
        let mut rings = self.rings.lock();
        rings.retain(|(_, flow)| flow.strong_count() > 0);
        rings.extend(flows.map(|flow| (volume, Arc::downgrade(flow))));
    }

    /// The rings by which the requests of a mount of `volume` come; empty if they come otherwise.
    pub fn rings(&self, volume: VolumeId) -> Vec<Arc<Flow>> {
        let rings = self.rings.lock();
        let of_it = rings.iter().filter(|(of, _)| *of == volume).filter_map(|(_, flow)| flow.upgrade());
        // Those of a mount that is gone say nothing of the one that is there now.
        of_it.filter(|flow| !flow.has_ended()).collect()
    }

    /// The request that was taken first of those that are being worked on.
    pub fn oldest(&self) -> Option<InHand> {
        let used = self.free.lock().1;
        let in_hand = self.lines[..used].iter().enumerate().filter_map(|(at, line)| {
            let of = |value: &AtomicU64| value.load(Ordering::Acquire);
            in_hand(
                at,
                [of(&line.since), of(&line.unique), of(&line.volume), of(&line.opcode), of(&line.steps)],
            )
        });
        in_hand.min_by_key(|request| request.since)
    }

    /// The lines of those who read the requests of mounts of `volume`.
    fn readers(&self, volume: VolumeId) -> impl Iterator<Item = &'static Line> {
        let (lines, used) = (self.lines, self.free.lock().1);
        let is_reader = move |line: &&Line| {
            line.volume.load(Ordering::Relaxed) == volume && line.thread.load(Ordering::Acquire) != 0
        };
        lines[..used].iter().filter(is_reader)
    }

    /// What readers have taken so far of what mounts of `volume` ask for.
    pub fn came(&self, volume: VolumeId) -> Came {
        let none = Came { requests: 0, write_backs: 0 };
        self.readers(volume).fold(none, |sum, line| Came {
            requests: sum.requests + line.rounds.load(Ordering::SeqCst) / 2,
            write_backs: sum.write_backs + line.written_back.load(Ordering::SeqCst),
        })
    }

    /// How far those are who read the requests of mounts of `volume`.
    pub fn mark(&self, volume: VolumeId) -> Mark {
        let mark = |line: &'static Line| Marked {
            line,
            thread: line.thread.load(Ordering::SeqCst),
            rounds: line.rounds.load(Ordering::SeqCst),
        };
        Mark(self.readers(volume).map(mark).collect())
    }

    /// The writes of mounts of `volume` that are being worked on: where each is noted, and what tells it from the next there.
    pub fn writes(&self, volume: VolumeId) -> Vec<(usize, u64, u64)> {
        let used = self.free.lock().1;
        let write = |(at, line): (usize, &Line)| {
            let since = line.since.load(Ordering::Acquire);
            let is_write = since != 0
                && line.volume.load(Ordering::Relaxed) == volume
                && line.opcode.load(Ordering::Relaxed) == u64::from(opcode::WRITE);
            is_write.then(|| (at, since, line.unique.load(Ordering::Relaxed)))
        };
        self.lines[..used].iter().enumerate().filter_map(write).collect()
    }

    /// All that was being worked on, from the file of a ledger whose process has ended, the oldest first. What was just being handed
    /// on, and had two lines, is named once.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read(file: impl AsFd) -> io::Result<Vec<InHand>> {
        let mut found = Vec::new();
        each_line(file, |at, [since, unique, volume, opcode, steps, ..]| {
            found.extend(in_hand(at, [since, unique, volume, opcode, steps]));
        })?;
        found.sort_by_key(|request| request.since);
        let mut seen = FxHashSet::default();
        found.retain(|request| seen.insert((request.volume, request.unique)));
        Ok(found)
    }

    /// A number that changes, from the file of a ledger, when a step is taken or a request is asked for.
    ///
    /// # Errors
    /// As pread(2).
    pub fn progress(file: impl AsFd) -> io::Result<u64> {
        let mut sum: u64 = 0;
        each_line(file, |_, [_, _, _, _, steps, rounds, ..]| {
            sum = sum.wrapping_add(steps).wrapping_add(rounds);
        })?;
        Ok(sum)
    }
}

/// Calls `found` with the words of each line in the file of a ledger, and its number.
fn each_line(file: impl AsFd, mut found: impl FnMut(usize, [u64; LINE_BYTES / 8])) -> io::Result<()> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    // A holder does this for a server that rests: it takes next to no memory.
    let mut bytes = [0; LINES_AT_ONCE * LINE_BYTES];
    for first in (0..LINES).step_by(LINES_AT_ONCE) {
        file.read_exact_at(&mut bytes, (first * LINE_BYTES) as u64)?;
        if bytes.iter().all(|byte| *byte == 0) {
            // Lines are taken in order.
            break;
        }
        for (at, line) in bytes.chunks_exact(LINE_BYTES).enumerate() {
            let mut words = line.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
            found(first + at, std::array::from_fn(|_| words.next().unwrap_or(0)));
        }
    }
    Ok(())
}

fn in_hand(line: usize, [since, unique, volume, opcode, steps]: [u64; 5]) -> Option<InHand> {
    (since > 0).then_some(InHand { since, volume, unique, opcode, line, steps })
}

/// The line of one reader, which gives it back at its end.
#[derive(Debug)]
pub(super) struct Seat {
    ledger: Arc<Ledger>,
    at: Option<usize>,
}

impl Seat {
    fn line(&self) -> Option<&'static Line> {
        self.at.map(|at| &self.ledger.lines[at])
    }

    /// The calling thread reads the kernel's requests, from now on.
    pub(super) fn read_here(&self) {
        if let Some(line) = self.line() {
            line.thread.store(this_thread(), Ordering::SeqCst);
        }
    }

    /// Asks for the next request, and is then done with the last.
    pub(super) fn asks(&self) {
        if let Some(line) = self.line() {
            line.rounds.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Was given one, or hears that there will be no more.
    pub(super) fn takes(&self) {
        self.asks();
    }

    /// Something was taken in which the kernel writes back what it had in its cache.
    pub(super) fn note_write_back(&self) {
        if let Some(line) = self.line() {
            line.written_back.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A request was taken. It is done with when the guard goes.
    pub(super) fn work(&self, unique: u64, opcode: u32) -> Working {
        let line = self.line();
        if let Some(line) = line {
            line.unique.store(unique, Ordering::Relaxed);
            line.opcode.store(opcode.into(), Ordering::Relaxed);
            line.since.store(now_ms(), Ordering::Release);
        }
        Working { line, seat: None }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.ledger.lines[at].thread.store(0, Ordering::SeqCst);
            self.ledger.free.lock().0.push(at);
        }
    }
}

/// A request is being worked on.
pub(super) struct Working {
    line: Option<&'static Line>,
    /// What the line is given back with, if it is not a reader's.
    seat: Option<Seat>,
}

impl Working {
    /// Counts the steps that are taken for it.
    pub(super) fn steps(&self) -> Option<&'static AtomicU64> {
        self.line.map(|line| &line.steps)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(line) = self.line {
            line.since.store(0, Ordering::Release);
        }
        drop(self.seat.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_being_worked_on_is_seen_and_from_another_process_too() {
        let ledger = Ledger::new();
        let (one, other) = (ledger.seat(7), ledger.seat(8));
        assert_eq!(ledger.oldest(), None);
        let working = one.work(10, 3);
        std::thread::sleep(std::time::Duration::from_millis(5));
        let before = Ledger::progress(ledger.file().unwrap()).unwrap();
        let others = other.work(12, 4);
        assert_eq!(Ledger::progress(ledger.file().unwrap()).unwrap(), before, "nothing is done yet");
        others.steps().unwrap().fetch_add(1, Ordering::Relaxed);
        assert_ne!(Ledger::progress(ledger.file().unwrap()).unwrap(), before);
        let oldest = ledger.oldest().unwrap();
        assert_eq!((oldest.volume, oldest.unique, oldest.opcode), (7, 10, 3));
        let all = Ledger::read(ledger.file().unwrap()).unwrap();
        let seen: Vec<_> = all.iter().map(|request| (request.volume, request.unique)).collect();
        assert_eq!(seen, [(7, 10), (8, 12)]);
        drop(working);
        assert_eq!(ledger.oldest().unwrap().unique, 12);
        drop(others);
        assert_eq!(Ledger::read(ledger.file().unwrap()).unwrap(), []);
    }

    #[test]
    fn what_is_handed_on_is_seen_until_it_is_done_and_named_once() {
        let ledger = Ledger::new();
        let reader = ledger.seat(7);
        let taken = reader.work(10, 3);
        let handed_on = ledger.work(7, 10, 3);
        assert_eq!(Ledger::read(ledger.file().unwrap()).unwrap().len(), 1);
        drop(taken);
        let next = reader.work(12, 4);
        let all = Ledger::read(ledger.file().unwrap()).unwrap();
        let mut seen: Vec<u64> = all.iter().map(|request| request.unique).collect();
        seen.sort_unstable();
        assert_eq!(seen, [10, 12]);
        drop((next, handed_on));
        assert_eq!(ledger.oldest(), None);
        assert_eq!(ledger.free.lock().0.len(), 1, "the line is given back");
    }

    #[test]
    fn a_step_is_progress_and_so_is_another_request() {
        let ledger = Ledger::new();
        let seat = ledger.seat(1);
        let working = seat.work(10, 3);
        let before = ledger.oldest().unwrap();
        assert!(before.is_no_further(&ledger.oldest().unwrap()));
        working.steps().unwrap().fetch_add(1, Ordering::Relaxed);
        let stepped = ledger.oldest().unwrap();
        assert!(!before.is_no_further(&stepped));
        drop(working);
        let _working = seat.work(12, 3);
        assert!(!stepped.is_no_further(&ledger.oldest().unwrap()));
    }

    /// A reader that was given a request, and has not been run since, has nothing in hand yet.
    #[test]
    fn what_was_taken_is_done_when_readers_ask_again_or_wait() {
        let ledger = Ledger::new();
        assert!(ledger.mark(7).is_empty());
        let (give, given) = std::sync::mpsc::channel::<u32>();
        let (taken, takes) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        let seat = ledger.seat(7);
        let reader = std::thread::spawn(move || {
            seat.read_here();
            let next = || {
                seat.asks();
                let next = given.recv();
                seat.takes();
                next
            };
            while let Ok(opcode) = next() {
                taken.send(()).unwrap();
                goes_on.recv().unwrap();
                let _working = seat.work(1, opcode);
                seat.note_write_back();
                taken.send(()).unwrap();
                goes_on.recv().unwrap();
            }
        });
        let wait_until = |so: &dyn Fn() -> bool| {
            while !so() {
                std::thread::yield_now();
            }
        };
        wait_until(&|| !ledger.mark(7).is_empty() && ledger.mark(7).is_passed().unwrap());
        let idle = ledger.mark(7);
        give.send(opcode::WRITE).unwrap();
        takes.recv().unwrap();
        // It sleeps, but not for the next request.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let taken = ledger.mark(7);
        assert!(!idle.is_passed().unwrap() && !taken.is_passed().unwrap());
        assert_eq!((ledger.came(7).write_backs, ledger.writes(7).len()), (0, 0));
        go_on.send(()).unwrap();
        takes.recv().unwrap();
        assert!(!idle.is_passed().unwrap() && !taken.is_passed().unwrap(), "it works on it");
        assert_eq!((ledger.came(7).write_backs, ledger.came(8).write_backs), (1, 0));
        assert_eq!((ledger.writes(7).len(), ledger.writes(8).len()), (1, 0));
        go_on.send(()).unwrap();
        wait_until(&|| idle.is_passed().unwrap() && taken.is_passed().unwrap());
        // What else it works on is not waited for.
        give.send(opcode::FSYNC).unwrap();
        takes.recv().unwrap();
        go_on.send(()).unwrap();
        takes.recv().unwrap();
        assert!(ledger.mark(7).is_passed().unwrap());
        go_on.send(()).unwrap();
        // When the mount goes, readers end that asked for another request, or took one.
        wait_until(&|| ledger.came(7).requests == 2 && ledger.mark(7).is_passed().unwrap());
        let idle = ledger.mark(7);
        drop(give);
        reader.join().unwrap();
        assert!(idle.is_passed().unwrap() && taken.is_passed().unwrap());
        assert_eq!(ledger.came(7).write_backs, 0, "its line is another's");
    }

    #[test]
    fn lines_are_used_again() {
        let ledger = Ledger::new();
        for _ in 0..3 {
            let seats: Vec<Seat> = (0..LINES + 10).map(|_| ledger.seat(1)).collect();
            let _working: Vec<Working> = seats.iter().map(|seat| seat.work(1, 1)).collect();
            assert_eq!(ledger.free.lock().1, LINES);
        }
        assert_eq!(ledger.free.lock().0.len(), LINES);
    }
}
