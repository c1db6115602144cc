//! Time as leases need it.

use super::format::When;
use nix::time::{ClockId, clock_gettime};
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

/// A host's clocks, so that tests can have their own.
pub trait Clock: Send + Sync + Debug {
    /// Time since some point in the past that stays the same while the host runs. It goes on while a process is stopped and while the
    /// host sleeps, and nobody can set it.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);

    /// The time of day, to be shown to people; nothing is decided by it.
    fn wall(&self) -> When;
}

/// The clocks of this host: `CLOCK_BOOTTIME`, and `CLOCK_REALTIME` for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        // It cannot fail on any kernel that has FUSE; zero would let no lease be valid.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn wall(&self) -> When {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        When { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() }
    }
}

/// A clock that goes on when somebody waits, and by how much.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Waited(pub(super) parking_lot::Mutex<Duration>);

#[cfg(test)]
impl Clock for Waited {
    fn now(&self) -> Duration {
        Duration::from_secs(1000) + *self.0.lock()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock() += time;
    }

    fn wall(&self) -> When {
        When::default()
    }
}
