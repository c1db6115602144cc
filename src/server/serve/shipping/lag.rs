//! How long writers are kept from going on because of what the remote lacks: the longer the nearer that is to what it may lack (`max-lag`), and
//! until it lacks less when it is more. So they are slowed, and nothing they do fails.

use crate::open_store::Slowing;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long each write waits where the remote lacks all but as much as it may.
const MOST: Duration = Duration::from_secs(1);
/// How often it is looked how much the remote lacks; and when so great a part of what it may lack has been written since.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_PART: u64 = 16;
/// Where it lacks more, what the kernel writes back waits for so long at least, twice as long for each further tenth, and so long at most:
/// programs wait for that who cannot be killed meanwhile.
const OF_NOBODY: Duration = Duration::from_secs(10);
const OF_NOBODY_MOST: Duration = Duration::from_secs(3600);
/// Beside such a time, in milliseconds, in place of a delay: until it lacks less.
const UNTIL_LESS: u64 = 1 << 63;

#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Bytes that the remote may lack; 0: any number.
    most: AtomicU64,
    /// In microseconds, or see [`UNTIL_LESS`].
    delay_us: AtomicU64,
    /// When that was last, and how much had been written then.
    looked: Mutex<Option<(Instant, u64)>>,
}

impl Lag {
    /// From now on, the remote may lack so many bytes; 0: any number.
    pub(super) fn allow(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.delay_us.store(0, Ordering::Relaxed);
    }

    /// How long a write waits that is made now, when `written` bytes have been in all. Now and then, it is looked how much the remote `lacks`;
    /// `None`: that is not known. The second value is whether it has just been seen to lack nearly too much.
    pub(super) fn slowing(&self, written: u64, lacks: impl FnOnce() -> Option<u64>) -> (Slowing, bool) {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return (Slowing::No, false);
        }
        let mut is_late = false;
        // Who comes while somebody looks goes by what was seen before.
        if let Some(mut looked) = self.looked.try_lock()
            && looked.is_none_or(|(at, before)| {
                at.elapsed() >= LOOK || written.saturating_sub(before) >= most / LOOK_PART
            })
        {
            let slowing = slowing(lacks().unwrap_or(0), most);
            let delay = match slowing {
                Slowing::No => 0,
                Slowing::For(delay) => delay.as_micros() as u64,
                Slowing::UntilLess(most) => UNTIL_LESS | most.as_millis() as u64,
            };
            self.delay_us.store(delay, Ordering::Relaxed);
            *looked = Some((Instant::now(), written));
            is_late = slowing != Slowing::No;
        }
        (self.present(), is_late)
    }

    /// How long a write waited that was made last.
    pub(super) fn present(&self) -> Slowing {
        match self.delay_us.load(Ordering::Relaxed) {
            0 => Slowing::No,
            delay if delay & UNTIL_LESS != 0 => {
                Slowing::UntilLess(Duration::from_millis(delay & !UNTIL_LESS))
            }
            delay => Slowing::For(Duration::from_micros(delay)),
        }
    }
}

fn slowing(lacks: u64, most: u64) -> Slowing {
    if lacks > most {
        let tenths = (lacks - most) as f64 / most as f64 * 10.0;
        let time = Duration::try_from_secs_f64(OF_NOBODY.as_secs_f64() * tenths.exp2());
        return Slowing::UntilLess(time.unwrap_or(OF_NOBODY_MOST).min(OF_NOBODY_MOST));
    }
    let half = most as f64 / 2.0;
    let over = (lacks as f64 - half).max(0.0) / half;
    match MOST.mul_f64(over * over) {
        Duration::ZERO => Slowing::No,
        delay => Slowing::For(delay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_slowed_by_what_is_nearly_too_much_and_held_by_what_is_more() {
        const G: u64 = 1 << 30;
        assert_eq!((slowing(0, G), slowing(G / 2, G)), (Slowing::No, Slowing::No));
        let delay = |lacks| match slowing(lacks, G) {
            Slowing::For(delay) => delay,
            other => panic!("{other:?}"),
        };
        let (some, more) = (delay(G / 2 + G / 10), delay(G - G / 4));
        assert!(Duration::ZERO < some && some < more && more < MOST);
        assert_eq!(delay(G), MOST);
        let held = |lacks, most| match slowing(lacks, most) {
            Slowing::UntilLess(most) => most.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!((held(G + 1, G), held(G + G / 5, G)), (10, 39));
        assert_eq!((held(2 * G, G), held(u64::MAX, 1)), (3600, 3600));
        let lag = Lag::default();
        assert_eq!(lag.slowing(0, || panic!("nobody looks")), (Slowing::No, false));
        lag.allow(G);
        let held = Slowing::UntilLess(OF_NOBODY_MOST);
        assert_eq!(lag.slowing(0, || Some(2 * G)), (held, true));
        assert_eq!(lag.slowing(0, || panic!("it was looked just now")), (held, false));
        // Much has been written since.
        assert_eq!(lag.slowing(G / 16, || Some(G)), (Slowing::For(MOST), true));
        std::thread::sleep(LOOK);
        assert_eq!(lag.slowing(0, || Some(7)), (Slowing::No, false));
        std::thread::sleep(LOOK);
        assert_eq!(lag.slowing(0, || None), (Slowing::No, false), "nobody knows");
        std::thread::sleep(LOOK);
        lag.slowing(0, || Some(2 * G));
        lag.allow(0);
        assert_eq!(lag.slowing(0, || panic!("nobody looks")), (Slowing::No, false));
    }
}
