//! When a queue of the kernel's has moved on by all that was in it at a moment.
//!
//! In the kernel, a request that nobody waits for waits in a list until few enough of its kind are being worked on, and then, as all
//! others do, in another until it is taken; both are in order (fs/fuse/dev.c, and for each ring fs/fuse/dev_uring.c). So nothing that
//! was written back before a moment is left there once as many write-backs came since as requests waited then, of all kinds. Who reads
//! or changes without a pause can keep more requests waiting for good than the kernel gives to a server at a time, while nothing is
//! written back any more: it is past as well when it has gone on like that for [`STILL`] without a single write-back.

use std::time::{Duration, Instant};

/// See above.
const STILL: Duration = Duration::from_secs(10);

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
    begun: Came,
    /// When something was last written back, and what had come then.
    last: Came,
    since: Instant,
    waiting: u64,
}

impl Passing {
    /// So much had come at a moment after which `waiting` requests, or fewer, were not answered.
    pub fn begin(begun: Came, waiting: u64) -> Self {
        Self { begun, last: begun, since: Instant::now(), waiting }
    }

    /// Whether nothing is left of what was there, now that so much has come.
    pub fn is_past(&mut self, now: Came) -> bool {
        if now.write_backs != self.last.write_backs {
            (self.last, self.since) = (now, Instant::now());
        }
        self.is_past_after(self.since.elapsed(), now)
    }

    /// The last write-back was `still` ago.
    fn is_past_after(&self, still: Duration, now: Came) -> bool {
        now.write_backs.saturating_sub(self.begun.write_backs) >= self.waiting
            || (still >= STILL && now.requests.saturating_sub(self.last.requests) >= self.waiting)
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

/// The state of a thread of this process, as proc_pid_stat(5) has it.
///
/// # Errors
/// As open(2); `NotFound` if it has ended, or is not seen by this number in `/proc`.
pub(super) fn state_of(thread: u64) -> std::io::Result<u8> {
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat"))?;
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
        let is_past = |last, now, still| {
            let passing = Passing { last, ..Passing::begin(came(100, 10), 5) };
            passing.is_past_after(still, now)
        };
        let soon = Duration::ZERO;
        assert!(!is_past(came(100, 10), came(100, 10), soon));
        assert!(!is_past(came(104, 14), came(1000, 14), soon));
        assert!(is_past(came(105, 15), came(105, 15), soon));
        // Others go on, and nothing is written back.
        assert!(!is_past(came(101, 11), came(1000, 11), STILL / 2));
        assert!(is_past(came(101, 11), came(106, 11), STILL));
        // Nothing moves at all: it may be waiting for a disk.
        assert!(!is_past(came(101, 11), came(105, 11), 100 * STILL));
    }

    #[test]
    fn who_waits_is_told_from_who_works() {
        let (give, given) = std::sync::mpsc::channel::<()>();
        let (name, named) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            name.send(nix::unistd::gettid().as_raw() as u64).unwrap();
            given.recv().unwrap_err();
        });
        let number = named.recv().unwrap();
        while state_of(number).unwrap() != b'S' {
            std::thread::yield_now();
        }
        assert_eq!(state_of(nix::unistd::gettid().as_raw() as u64).unwrap(), b'R');
        drop(give);
        thread.join().unwrap();
        while state_of(number).is_ok() {
            std::thread::yield_now();
        }
    }
}
