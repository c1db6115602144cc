//! When a queue of the kernel's has moved on by all that was in it at a moment.
//!
//! In the kernel, a request that nobody waits for waits in a list until few enough of its kind are being worked on, and then, as all
//! others do, in another until it is taken; both are in order (fs/fuse/dev.c, and for each ring fs/fuse/dev_uring.c). So nothing that
//! was written back before a moment is left there once as many write-backs came since as requests waited then, of all kinds.
//!
//! Who reads or changes without a pause can keep more requests waiting for good than the kernel gives to a server at a time, while
//! next to nothing is written back any more. Then it cannot be told that nothing is left, and is not waited for, for ever.

use std::io;
use std::time::{Duration, Instant};

/// How long a queue that moves on may have no write-back in it, until nothing more is expected of it.
const STILL: Duration = Duration::from_secs(10);
/// How long it is waited for while there are some, but other requests have come by [`MANY`] times as often as waited.
const LONG: Duration = Duration::from_secs(120);
const MANY: u64 = 4;
/// How long it is waited for at all.
const LONGEST: Duration = Duration::from_secs(900);

/// How much came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// Requests of all kinds.
    pub requests: u64,
    /// Those in which the kernel writes back what it had in its cache.
    pub write_backs: u64,
}

/// A queue of which it is not known yet that nothing is left of what was there.
#[derive(Debug)]
pub struct Passing {
    begun: (Instant, Came),
    /// When something was last written back, and what had come then.
    last: (Instant, Came),
    waiting: u64,
}

impl Passing {
    /// So much had come at a moment after which `waiting` requests, or fewer, were not answered.
    pub fn begin(begun: Came, waiting: u64) -> Self {
        let begun = (Instant::now(), begun);
        Self { begun, last: begun, waiting }
    }

    /// Whether nothing is left of what was there, now that so much has come.
    ///
    /// # Errors
    /// `TimedOut` if that cannot be told.
    pub fn is_past(&mut self, now: Came) -> io::Result<bool> {
        if now.write_backs != self.last.1.write_backs {
            self.last = (Instant::now(), now);
        }
        self.is_past_after(self.begun.0.elapsed(), self.last.0.elapsed(), now)
    }

    /// It is waited for `long`; the last write-back was `still` ago.
    fn is_past_after(&self, long: Duration, still: Duration, now: Came) -> io::Result<bool> {
        let since = |then: &Came| now.requests.saturating_sub(then.requests);
        if now.write_backs.saturating_sub(self.begun.1.write_backs) >= self.waiting {
            return Ok(true);
        }
        if (still >= STILL && since(&self.last.1) >= self.waiting)
            || (long >= LONG && since(&self.begun.1) >= self.waiting.saturating_mul(MANY))
            || long >= LONGEST
        {
            let what = "too many requests are waiting to find out which of them have been carried out";
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        Ok(false)
    }
}

/// Waiting for what cannot be waited for otherwise than by looking again.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(1))
    }
}

impl Pause {
    /// How long is waited for the next look, at most.
    const LONGEST: Duration = Duration::from_millis(50);

    /// Waits for the next look.
    pub fn sleep(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (2 * self.0).min(Self::LONGEST);
    }
}

/// The number of this thread, as `/proc` has it: that can be the one of another namespace of processes.
pub(super) fn this_thread() -> u64 {
    let shown = std::fs::read_link("/proc/thread-self").ok();
    let shown = shown.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    shown.unwrap_or(nix::unistd::gettid().as_raw() as u64)
}

/// The state of a thread of this process, as proc_pid_stat(5) has it.
///
/// # Errors
/// As open(2); `NotFound` if it has ended, or is not seen by this number in `/proc`.
pub(super) fn state_of(thread: u64) -> io::Result<u8> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("thread {thread} of this process: {e}"));
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).map_err(named)?;
    let end = stat.iter().rposition(|byte| *byte == b')').unwrap_or(0);
    Ok(stat.get(end + 2).copied().unwrap_or(b'?'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(requests: u64, write_backs: u64) -> Came {
        Came { requests, write_backs }
    }

    #[test]
    fn a_queue_is_past_when_as_much_was_written_back_as_waited() {
        let is_past = |(last, now), (long, still): (u64, u64)| {
            let mut passing = Passing::begin(came(100, 10), 5);
            passing.last.1 = last;
            passing.is_past_after(Duration::from_secs(long), Duration::from_secs(still), now).ok()
        };
        assert_eq!(is_past((came(100, 10), came(100, 10)), (0, 0)), Some(false));
        assert_eq!(is_past((came(104, 14), came(1000, 14)), (60, 0)), Some(false));
        assert_eq!(is_past((came(105, 15), came(105, 15)), (0, 0)), Some(true));
        // Others go on, and nothing is written back.
        assert_eq!(is_past((came(101, 11), came(1000, 11)), (9, 9)), Some(false));
        assert_eq!(is_past((came(101, 11), came(106, 11)), (10, 10)), None);
        // Or something now and then; with few others, it may be what was there.
        assert_eq!(is_past((came(120, 11), came(120, 11)), (119, 0)), Some(false));
        assert_eq!(is_past((came(120, 11), came(120, 11)), (120, 0)), None);
        assert_eq!(is_past((came(119, 11), came(119, 11)), (120, 0)), Some(false));
        // Nothing moves at all: it may be waiting for a disk.
        assert_eq!(is_past((came(101, 11), came(105, 11)), (899, 898)), Some(false));
        assert_eq!(is_past((came(101, 11), came(105, 11)), (900, 899)), None);
    }

    #[test]
    fn who_waits_is_told_from_who_works() {
        let (give, given) = std::sync::mpsc::channel::<()>();
        let (name, named) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            name.send(this_thread()).unwrap();
            given.recv().unwrap_err();
        });
        let number = named.recv().unwrap();
        while state_of(number).unwrap() != b'S' {
            std::thread::yield_now();
        }
        assert_eq!(state_of(this_thread()).unwrap(), b'R');
        drop(give);
        thread.join().unwrap();
        while state_of(number).is_ok() {
            std::thread::yield_now();
        }
    }
}
