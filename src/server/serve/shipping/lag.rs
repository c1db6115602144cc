//! How long writers are kept from going on while the remote lacks more than it may (`max-lag`): the longer the more it lacks, and never for
//! long. So they are slowed, and nothing they do fails.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest that one write waits. It is that long from twice of what is allowed on.
const MOST: Duration = Duration::from_secs(1);
/// How often it is looked how much the remote lacks.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Bytes that the remote may lack; 0: any number.
    most: AtomicU64,
    delay_us: AtomicU64,
    looked: Mutex<Option<Instant>>,
}

impl Lag {
    /// From now on, the remote may lack so many bytes; 0: any number.
    pub(super) fn allow(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.delay_us.store(0, Ordering::Relaxed);
    }

    /// How long a write waits that is made now. Now and then, it is looked how much the remote `lacks`; `None`: that is not known. The second
    /// value is whether it has just been seen to lack too much.
    pub(super) fn delay(&self, lacks: impl FnOnce() -> Option<u64>) -> (Duration, bool) {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return (Duration::ZERO, false);
        }
        let mut is_late = false;
        // Who comes while somebody looks goes by what was seen before.
        if let Some(mut looked) = self.looked.try_lock()
            && looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            let delay = delay(lacks().unwrap_or(0), most);
            self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
            *looked = Some(Instant::now());
            is_late = !delay.is_zero();
        }
        (self.present(), is_late)
    }

    /// How long a write waited that was made last.
    pub(super) fn present(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed))
    }
}

fn delay(lacks: u64, most: u64) -> Duration {
    let over = (lacks.saturating_sub(most) as f64 / most as f64).min(1.0);
    MOST.mul_f64(over * over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_slowed_by_what_is_too_much_and_not_for_long() {
        const G: u64 = 1 << 30;
        assert_eq!(delay(0, G), Duration::ZERO);
        assert_eq!(delay(G, G), Duration::ZERO);
        let (some, more) = (delay(G + G / 10, G), delay(G + G / 2, G));
        assert!(Duration::ZERO < some && some < more && more < MOST);
        assert_eq!((delay(2 * G, G), delay(u64::MAX, 1)), (MOST, MOST));
        let lag = Lag::default();
        assert_eq!(lag.delay(|| panic!("nobody looks")), (Duration::ZERO, false));
        lag.allow(G);
        assert_eq!(lag.delay(|| Some(2 * G)), (MOST, true));
        assert_eq!(lag.delay(|| panic!("it was looked just now")), (MOST, false));
        std::thread::sleep(LOOK);
        assert_eq!(lag.delay(|| Some(7)), (Duration::ZERO, false));
        std::thread::sleep(LOOK);
        assert_eq!(lag.delay(|| None), (Duration::ZERO, false), "nobody knows");
        std::thread::sleep(LOOK);
        lag.delay(|| Some(2 * G));
        lag.allow(0);
        assert_eq!(lag.delay(|| panic!("nobody looks")), (Duration::ZERO, false));
    }
}
