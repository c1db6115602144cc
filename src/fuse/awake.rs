//! Keeping idle CPUs awake while requests follow one another.
//!
//! Whoever waits for an answer, and a server that waits for a disk, leave a CPU idle. In a virtual machine an idle CPU is given
//! back to the host, and to have it again takes longer than most requests do (`docs/benchmarks.md`). Where the kernel's driver
//! for that is `haltpoll`, it can be asked to let idle CPUs look for work for a while instead; programs ask for it with the
//! kernel's interface for the latency of wake-ups, `/dev/cpu_dma_latency` (Documentation/power/pm_qos_interface.rst). This asks
//! for it when requests come fast, and takes it back some milliseconds after the last one.
//!
//! The kernel takes it back as well when the process ends, however it ends.

use super::clock::now_ms;
use crate::scheduling::run_anywhere;
use parking_lot::{Condvar, Mutex};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// What asks the kernel for short latencies, as long as it is open.
const LATENCY: &str = "/dev/cpu_dma_latency";
/// The driver of idle CPUs.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// No CPU may take any time to wake up, in microseconds.
const NONE_US: i32 = 0;
/// What the kernel takes for "as long as you like" (`PM_QOS_DEFAULT_VALUE`).
const ANY_US: i32 = -1;
/// Requests of one reader that are fast if they come within [`FAST`].
const BURST: u32 = 8;
const FAST: Duration = Duration::from_millis(8);
/// How long CPUs stay awake after the last fast requests, in milliseconds.
const LINGER_MS: u64 = 8;
/// How long the thread that lets them sleep again lives without anything to do: a volume at rest has none.
const THREAD_LINGER: Duration = Duration::from_secs(5);

/// One for the process: CPUs are not a mount's.
static KEEPER: LazyLock<Option<Arc<Keeper>>> = LazyLock::new(|| match Keeper::start() {
    Ok(keeper) => keeper,
    Err(e) => {
        log::info!("{LATENCY}: {e}; idle CPUs are not kept awake while requests come");
        None
    }
});

/// How fast requests come to one reader.
#[derive(Debug)]
pub(super) struct Pace {
    keeper: Option<Arc<Keeper>>,
    since: Instant,
    count: u32,
}

impl Pace {
    /// Of a new reader; `wanted` says whether it is to keep CPUs awake.
    pub(super) fn new(wanted: bool) -> Self {
        let keeper = if wanted { KEEPER.clone() } else { None };
        Self { keeper, since: Instant::now(), count: 0 }
    }

    /// A request has come.
    pub(super) fn note(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        self.count += 1;
        if self.count < BURST {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.since) < FAST {
            keeper.stay_awake();
        }
        (self.since, self.count) = (now, 0);
    }
}

/// What keeps CPUs awake.
#[derive(Debug)]
struct Keeper {
    latency: File,
    /// When requests were fast for the last time, as [`now_ms`].
    fast_at: AtomicU64,
    awake: AtomicBool,
    /// Whether the thread runs that lets CPUs sleep again.
    runs: Mutex<bool>,
    wake: Condvar,
}

impl Keeper {
    /// `None` where nothing would come of it.
    fn start() -> io::Result<Option<Arc<Self>>> {
        if !fs::read_to_string(DRIVER).is_ok_and(|driver| driver.trim() == "haltpoll") {
            return Ok(None);
        }
        Self::start_on(OpenOptions::new().write(true).open(LATENCY)?).map(Some)
    }

    fn start_on(latency: File) -> io::Result<Arc<Self>> {
        let (fast_at, awake) = (AtomicU64::new(0), AtomicBool::new(false));
        let keeper = Self { latency, fast_at, awake, runs: Mutex::new(false), wake: Condvar::new() };
        keeper.ask(ANY_US)?;
        Ok(Arc::new(keeper))
    }

    fn ask(&self, latency_us: i32) -> io::Result<()> {
        (&self.latency).write_all(&latency_us.to_ne_bytes())
    }

    fn stay_awake(self: &Arc<Self>) {
        self.fast_at.store(now_ms(), Ordering::Relaxed);
        if self.awake.load(Ordering::Relaxed) {
            return;
        }
        let mut runs = self.runs.lock();
        if self.awake.load(Ordering::Relaxed) || !self.starts(&mut runs) {
            return;
        }
        self.awake.store(true, Ordering::Relaxed);
        if let Err(e) = self.ask(NONE_US) {
            log::debug!("{LATENCY}: {e}");
        }
        self.wake.notify_one();
    }

    /// Starts the thread if it does not run; whether it does. Without it, nothing would be taken back.
    fn starts(self: &Arc<Self>, runs: &mut bool) -> bool {
        if !*runs {
            let keeper = Arc::clone(self);
            let thread = std::thread::Builder::new().name("larder-awake".into());
            match thread.spawn(move || keeper.let_go()) {
                Ok(_) => *runs = true,
                Err(e) => log::debug!("cannot start a thread to keep CPUs awake: {e}"),
            }
        }
        *runs
    }

    /// The thread that lets CPUs sleep again.
    fn let_go(&self) {
        run_anywhere();
        let mut runs = self.runs.lock();
        loop {
            while !self.awake.load(Ordering::Relaxed) {
                let is_late = self.wake.wait_for(&mut runs, THREAD_LINGER).timed_out();
                if is_late && !self.awake.load(Ordering::Relaxed) {
                    *runs = false;
                    return;
                }
            }
            let _ = self.wake.wait_for(&mut runs, Duration::from_millis(LINGER_MS));
            if now_ms().saturating_sub(self.fast_at.load(Ordering::Relaxed)) > LINGER_MS {
                if let Err(e) = self.ask(ANY_US) {
                    log::debug!("{LATENCY}: {e}");
                }
                self.awake.store(false, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A pace, and what its keeper has asked the kernel for.
    fn pace() -> (Pace, impl Fn() -> Vec<i32>) {
        let file = tempfile::tempfile().unwrap();
        let asked = file.try_clone().unwrap();
        let keeper = Some(Keeper::start_on(file).unwrap());
        let asked = move || {
            let mut bytes = vec![0; asked.metadata().unwrap().len() as usize];
            asked.read_exact_at(&mut bytes, 0).unwrap();
            bytes.chunks_exact(4).map(|word| i32::from_ne_bytes(word.try_into().unwrap())).collect()
        };
        (Pace { keeper, since: Instant::now(), count: 0 }, asked)
    }

    #[test]
    fn fast_requests_keep_cpus_awake_until_they_stop() {
        let (mut pace, asked) = pace();
        assert_eq!(asked(), [ANY_US]);
        while asked().len() < 2 {
            (0..BURST).for_each(|_| pace.note());
        }
        assert_eq!(asked()[1], NONE_US);
        while asked().len() < 3 {
            std::thread::yield_now();
        }
        assert_eq!(asked(), [ANY_US, NONE_US, ANY_US]);
    }

    /// A volume at rest had one thread more where the host has `haltpoll`.
    #[test]
    fn its_thread_ends_when_there_is_nothing_to_do_and_another_one_takes_its_place() {
        let (mut pace, asked) = pace();
        let keeper = Arc::clone(pace.keeper.as_ref().unwrap());
        assert!(!*keeper.runs.lock());
        for round in 1..3 {
            while asked().len() < 2 * round {
                (0..BURST).for_each(|_| pace.note());
            }
            assert!(*keeper.runs.lock());
            while *keeper.runs.lock() {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(asked()[2 * round - 1..], [NONE_US, ANY_US]);
        }
    }

    #[test]
    fn slow_requests_do_not() {
        let (mut pace, asked) = pace();
        for _ in 0..2 * BURST {
            pace.note();
            std::thread::sleep(2 * FAST / BURST);
        }
        assert_eq!(asked(), [ANY_US]);
    }
}
