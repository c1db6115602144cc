//! How soon threads run that somebody waits for.
//!
//! On a CPU that is kept busy, a thread that was woken waits for its turn: some milliseconds with the slices that Linux gives by
//! default, and a write with its fsync wakes three threads one after the other. So threads that carry out one small request
//! and sleep again ask for short slices and a high weight: the scheduler lets them run soon after they wake, and they take no
//! more of the CPU than they need for that. What takes long is done as everybody else's work.
//!
//! Short slices are not enough where a thread has had its share: then it waits until the scheduler looks again, at the next tick of its
//! clock. So such threads are real-time ones where they may be, for a part of the time of all CPUs: whoever sends many requests gets no
//! more of a CPU by that.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds of a turn of an urgent thread: the shortest that Linux gives (`sched_setattr(2)`, from Linux 6.12 on; earlier
/// ones ignore it).
const SLICE_NS: u64 = 100_000;
/// The nice value of an urgent thread, where the process may lower it.
const NICE: i32 = -10;
/// The lowest priority that comes before everything that is not real-time.
const FIFO_PRIORITY: u32 = 1;

/// All urgent threads of the process together are real-time ones for so much CPU time in a window, for each CPU there is, and after that like
/// those that may not be until the window ends.
const ALLOWED: Duration = Duration::from_millis(20);
const WINDOW: Duration = Duration::from_millis(100);
/// Looking how much it was costs a system call: every so many requests.
const LOOK_EVERY: u32 = 8;

/// The nice value of what nobody waits for.
const GENTLE: i32 = 19;

/// From here on, the calling thread has only what nobody else wants of the CPU and, as far as the host's scheduler of the disk knows
/// of that, of the disk. What it may not have changed, stays.
pub fn be_gentle() {
    let gentle = Attributes::now().and_then(|now| Attributes { nice: GENTLE, ..now }.set());
    if let Err(e) = gentle.and_then(|()| idle_disk()) {
        log::debug!("scheduling a thread for what nobody waits for: {e}");
    }
}

/// `ioprio_set(2)`: the calling thread gets the disk when nobody else has wanted it for a while.
fn idle_disk() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const THIS_THREAD: libc::c_int = 0;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    #[expect(unsafe_code, reason = "nix has no ioprio_set")]
    // SAFETY: only numbers are passed.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, THIS_THREAD, CLASS_IDLE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How urgent threads are scheduled: the mount option `sched=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// Before everything that is not real-time, for a part of the time, and else with short slices and a higher weight; as far as
    /// the process may have that.
    #[default]
    Auto,
    /// As everything else.
    Normal,
    /// Before everything that is not real-time (`SCHED_FIFO`).
    Fifo,
}

/// Lets the calling thread run on every CPU that the process may use, whichever the thread was kept on that started it.
pub fn run_anywhere() {
    use nix::sched::{sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    // That of the main thread, which is kept nowhere.
    let allowed = sched_getaffinity(Pid::this()).and_then(|all| sched_setaffinity(Pid::from_raw(0), &all));
    if let Err(e) = allowed {
        log::debug!("cannot let a thread run on all CPUs: {e}");
    }
}

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it was started.
    Usual,
    Soon,
    RealTime,
}

/// Whether the calling thread is urgent. It begins as it was started.
#[derive(Debug)]
pub struct Urgency {
    scheduling: Scheduling,
    level: Level,
    allowance: Allowance,
    /// How the thread was started; `None` if that is no way to change.
    usual: Option<Attributes>,
}

impl Urgency {
    /// Of the calling thread, which is to be scheduled so when it is urgent.
    pub fn new(scheduling: Scheduling) -> Self {
        // Who started the process with another policy knows best.
        let usual = Attributes::now().ok().filter(|now| now.policy == libc::SCHED_OTHER);
        Self { scheduling, level: Level::Usual, allowance: Allowance::new(), usual }
    }

    /// Another scheduling, from now on.
    pub fn reschedule(&mut self, scheduling: Scheduling) {
        if scheduling != self.scheduling {
            self.set(false);
            self.scheduling = scheduling;
        }
    }

    /// Makes the calling thread urgent, or like everybody else. To be called for each request. What the process may not have, it goes
    /// without.
    pub fn set(&mut self, urgent: bool) {
        let level = match (urgent, self.scheduling) {
            (false, _) | (true, Scheduling::Normal) => Level::Usual,
            (true, Scheduling::Fifo) => Level::RealTime,
            (true, Scheduling::Auto) if self.allowance.lasts() => Level::RealTime,
            (true, Scheduling::Auto) => Level::Soon,
        };
        let Some(usual) = self.usual.filter(|_| level != self.level) else { return };
        self.level = level;
        let short = Attributes { slice_ns: SLICE_NS, ..usual };
        let soon = Attributes { nice: usual.nice.min(NICE), ..short };
        let fifo = Attributes { policy: libc::SCHED_FIFO, nice: 0, priority: FIFO_PRIORITY, slice_ns: 0 };
        let wanted: &[Attributes] = match level {
            Level::Usual => &[usual],
            Level::Soon => &[soon, short],
            Level::RealTime => &[fifo, soon, short],
        };
        for attributes in wanted {
            match attributes.set() {
                Ok(()) => return,
                Err(e) => log::debug!("cannot schedule a thread with {attributes:?}: {e}"),
            }
        }
    }
}

thread_local! {
    static URGENCY: RefCell<Option<Urgency>> = const { RefCell::new(None) };
}

/// As [`Urgency::set`], for a thread of a pool, which does one thing after the other for different volumes.
pub fn be_urgent(scheduling: Scheduling, urgent: bool) {
    URGENCY.with_borrow_mut(|urgency| {
        let urgency = urgency.get_or_insert_with(|| Urgency::new(scheduling));
        urgency.reschedule(scheduling);
        urgency.set(urgent);
    });
}

/// What the urgent threads of the process have used in a window, in nanoseconds.
#[derive(Debug)]
struct Used {
    /// Which window, counted from the first.
    window: AtomicU64,
    ns: AtomicU64,
}

static USED: Used = Used { window: AtomicU64::new(0), ns: AtomicU64::new(0) };
/// When the first window began, and what all may use in each.
static ALL: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    (Instant::now(), ALLOWED * cpus)
});

impl Used {
    /// Adds what a thread has used, and says how much all have in this window.
    fn add(&self, window: u64, time: Duration) -> Duration {
        // Two at once may both begin the window: what one of them has used is not counted then.
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.ns.store(0, Ordering::Relaxed);
        }
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.ns.fetch_add(ns, Ordering::Relaxed).saturating_add(ns))
    }
}

/// Whether the calling thread may be a real-time one.
#[derive(Debug)]
struct Allowance {
    /// CPU time that the thread had used when this last looked.
    used: Duration,
    calls: u32,
    spent: bool,
}

impl Allowance {
    fn new() -> Self {
        Self { used: thread_time(), calls: 0, spent: false }
    }

    fn lasts(&mut self) -> bool {
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(LOOK_EVERY) {
            let (first, allowed) = *ALL;
            let window = first.elapsed().as_millis() / WINDOW.as_millis();
            self.look(&USED, u64::try_from(window).unwrap_or(u64::MAX), thread_time(), allowed);
        }
        !self.spent
    }

    fn look(&mut self, all: &Used, window: u64, used: Duration, allowed: Duration) {
        let since = used.saturating_sub(std::mem::replace(&mut self.used, used));
        self.spent = all.add(window, since) >= allowed;
    }
}

/// CPU time that the calling thread has used.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attributes {
    policy: i32,
    nice: i32,
    priority: u32,
    slice_ns: u64,
}

impl Attributes {
    /// Those of the calling thread.
    fn now() -> io::Result<Self> {
        #[expect(unsafe_code, reason = "nix has no sched_getattr")]
        // SAFETY: all zeros are a valid value; the kernel writes no more than `size` bytes of it.
        let (result, attr) = unsafe {
            let mut attr: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>();
            (libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0), attr)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let (policy, slice_ns) = (attr.sched_policy as i32, attr.sched_runtime);
        Ok(Self { policy, nice: attr.sched_nice, priority: attr.sched_priority, slice_ns })
    }

    /// For the calling thread; what it starts begins as everybody else.
    fn set(self) -> io::Result<()> {
        let attr = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: self.policy as u32,
            sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
            sched_nice: self.nice,
            sched_priority: self.priority,
            sched_runtime: self.slice_ns,
            sched_deadline: 0,
            sched_period: 0,
        };
        #[expect(unsafe_code, reason = "nix has no sched_setattr")]
        // SAFETY: the kernel reads `size` bytes of a structure that outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_gives_way() {
        let thread = std::thread::spawn(|| {
            be_gentle();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().to_owned();
            assert_eq!(nice, GENTLE.to_string());
            assert_eq!(
                std::process::Command::new("ionice")
                    .arg("-p")
                    .arg(nix::unistd::gettid().to_string())
                    .output()
                    .map(|o| String::from_utf8(o.stdout).unwrap().trim().to_owned())
                    .unwrap(),
                "idle"
            );
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_is_urgent_as_long_as_it_is_told_so() {
        let thread = std::thread::spawn(|| {
            let now = || Attributes::now().map(|now| (now.policy, now.nice, now.priority)).unwrap();
            let usual = now();
            let soon = (libc::SCHED_OTHER, usual.1.min(NICE), 0);
            let fifo = (libc::SCHED_FIFO, 0, FIFO_PRIORITY);
            for (scheduling, expected) in
                [(Scheduling::Auto, fifo), (Scheduling::Normal, usual), (Scheduling::Fifo, fifo)]
            {
                let mut urgency = Urgency::new(scheduling);
                urgency.set(true);
                // The tests run as root.
                assert_eq!(now(), expected, "{scheduling:?}");
                urgency.set(false);
                assert_eq!(now(), usual);
            }
            let mut urgency = Urgency::new(Scheduling::Auto);
            urgency.set(true);
            urgency.allowance.spent = true;
            urgency.set(true);
            assert_eq!(now(), soon);
            urgency.reschedule(Scheduling::Normal);
            urgency.set(true);
            assert_eq!(now(), usual);
            be_urgent(Scheduling::Fifo, true);
            assert_eq!(now(), fifo);
            be_urgent(Scheduling::Fifo, false);
            assert_eq!(now(), usual);
        });
        thread.join().unwrap();
    }

    #[test]
    fn threads_are_real_time_ones_for_a_part_of_each_window_together() {
        let all = Used { window: AtomicU64::new(0), ns: AtomicU64::new(0) };
        let mut threads = [Allowance::new(), Allowance::new()];
        let mut at = |thread: usize, window, ran: Duration| {
            let used = threads[thread].used + ran;
            threads[thread].look(&all, window, used, ALLOWED);
            !threads[thread].spent
        };
        assert!(at(0, 1, ALLOWED / 2));
        assert!(at(1, 1, ALLOWED / 4));
        assert!(!at(1, 1, ALLOWED / 4));
        assert!(!at(0, 1, Duration::ZERO));
        assert!(at(0, 2, ALLOWED / 2));
        assert!(!at(1, 2, ALLOWED / 2));
        assert!(at(1, 3, Duration::ZERO));
    }
}
