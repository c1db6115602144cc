//! When to start another server at once, when after a while, and when no more.

use std::time::Duration;

/// A server that has served for so long was no failure.
const LONG_LIFE: Duration = Duration::from_secs(1);
/// Servers that may fail one after the other.
const FAILURES: u32 = 20;
/// Servers that may be killed one after the other without a pause: somebody has reasons to, a program that tests this one.
const KILLS: u32 = 50;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The servers that died one after the other, none of which served for long.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    failures: u32,
    kills: u32,
}

impl Deaths {
    /// Takes note of the end of a server that has served for `life`; how long to wait before the next. `None`: it has no sense
    /// to start another one. Nothing that is killed leads to that, since whoever kills, or gives too little memory, may stop to.
    pub(super) fn note(&mut self, life: Duration, was_killed: bool) -> Option<Duration> {
        if life >= LONG_LIFE {
            *self = Self::default();
            // An end without a fault before it: no pause, but a failure.
            self.failures = u32::from(!was_killed);
            return Some(Duration::ZERO);
        }
        if was_killed {
            self.kills += 1;
            return Some(if self.kills > KILLS { LONGEST_PAUSE } else { Duration::ZERO });
        }
        self.fail()
    }

    /// Takes note of a server that could not even begin; as [`Self::note`].
    pub(super) fn fail(&mut self) -> Option<Duration> {
        self.failures += 1;
        (self.failures < FAILURES)
            .then(|| LONGEST_PAUSE.min(SHORTEST_PAUSE * (1 << (self.failures - 1).min(16))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(3);

    #[test]
    fn servers_that_fail_in_a_row_are_given_up_after_growing_pauses() {
        let mut deaths = Deaths::default();
        let mut last = Duration::ZERO;
        for _ in 1..FAILURES {
            let pause = deaths.note(AT_ONCE, false).unwrap();
            assert!(pause >= last && pause <= LONGEST_PAUSE);
            last = pause;
        }
        assert_eq!(last, LONGEST_PAUSE);
        assert_eq!(deaths.note(AT_ONCE, false), None);
    }

    #[test]
    fn failing_to_begin_and_dying_at_once_are_one_row() {
        let mut deaths = Deaths::default();
        for _ in 0..FAILURES / 2 - 1 {
            assert!(deaths.note(AT_ONCE, false).is_some());
            assert!(deaths.fail().is_some());
        }
        assert!(deaths.fail().is_some());
        assert!(deaths.note(AT_ONCE, false).is_none());
    }

    #[test]
    fn a_server_that_served_ends_the_row() {
        let mut deaths = Deaths::default();
        for _ in 0..10 * FAILURES {
            assert!(deaths.note(AT_ONCE, false).is_some());
            assert_eq!(deaths.note(LONG_LIFE, false), Some(Duration::ZERO));
        }
    }

    #[test]
    fn kills_are_no_failures_but_make_it_slow_down() {
        let mut deaths = Deaths::default();
        for _ in 0..KILLS {
            assert_eq!(deaths.note(AT_ONCE, true), Some(Duration::ZERO));
        }
        for _ in 0..KILLS {
            assert_eq!(deaths.note(AT_ONCE, true), Some(LONGEST_PAUSE));
        }
    }
}
