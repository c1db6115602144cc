//! How much time has passed for sure, whatever clocks of the day say: what a host knows of the ages of the records of a remote that it ships to.
//!
//! In a directory, objects have times by the clock of the host that wrote them, or of a file server; a clock that jumps ahead by days makes
//! all of them older by that, and what was needed a minute ago would go. So a host counts itself, by its clock that nobody can set: as long as it
//! runs, while it has the store open or not. What it does not know to have passed has not: of the time in which it was off, it counts none.
//! Now and then it marks which record was the newest; a record is old when a mark that has it, or a later one, is.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Marks within the time of the history: what is older by a part of that is not known to be old yet.
const MARKS: u64 = 48;
/// Marks are not closer than this, in seconds.
const LEAST: u64 = 60;

/// What is known, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// The start of the host during which this was written.
    boot: String,
    /// How long the host had run then.
    at: u64,
    /// How much time has passed, since this was begun.
    total: u64,
    /// Records, each the newest when so much had passed; ascending.
    marks: Vec<(u64, u64)>,
}

impl Passed {
    /// It is `now` by the clock of the start `boot` of the host, and `newest` is the newest record; `history` is as long as records are
    /// to be there. Returns whether there is something new that is to be kept.
    pub(super) fn go_on(&mut self, boot: &str, now: Duration, newest: u64, history: Duration) -> bool {
        let now = now.as_secs();
        if !boot.is_empty() && boot == self.boot {
            self.total = self.total.saturating_add(now.saturating_sub(self.at));
        }
        self.boot = boot.to_owned();
        self.at = now;
        // (A remote that was accepted as it was earlier has fewer.)
        let before = self.marks.len();
        self.marks.retain(|(record, _)| *record <= newest);
        let is_shorter = self.marks.len() < before;
        let every = (history.as_secs() / MARKS).max(LEAST);
        let is_due = self.marks.last().is_none_or(|(_, then)| self.total >= then.saturating_add(every));
        if is_due {
            self.marks.push((newest, self.total));
            // Of those that are old, the newest says all.
            let old = self.marks.iter().filter(|(_, then)| self.is_old(*then, history)).count();
            self.marks.drain(..old.saturating_sub(1));
        }
        is_due || is_shorter
    }

    fn is_old(&self, then: u64, history: Duration) -> bool {
        self.total.saturating_sub(then) >= history.as_secs()
    }

    /// The newest record that is known to have been there for so long; 0: none is.
    pub(super) fn old(&self, history: Duration) -> u64 {
        let old = self.marks.iter().rev().find(|(_, then)| self.is_old(*then, history));
        old.map_or(0, |(record, _)| *record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: Duration = Duration::from_secs(24 * HOUR);

    #[test]
    fn only_what_has_passed_for_sure_counts() {
        let mut passed = Passed::default();
        let hours = |hours: u64| Duration::from_secs(hours * HOUR);
        // A record each hour.
        for hour in 0..100 {
            assert!(passed.go_on("a", hours(7 + hour), hour + 1, DAY), "{hour}");
            assert_eq!(passed.old(DAY), if hour < 24 { 0 } else { hour - 23 }, "{hour}");
        }
        assert!(passed.marks.len() < 30, "{passed:?}");
        assert!(!passed.go_on("a", hours(106) + Duration::from_secs(60), 101, DAY), "nothing to be kept");
        // The host starts anew, whenever that is: what it had counted goes on.
        passed.go_on("b", hours(0), 101, DAY);
        assert_eq!(passed.old(DAY), 76);
        passed.go_on("b", hours(1), 101, DAY);
        assert_eq!(passed.old(DAY), 77);
        // Its clock went back, as that of a machine that is brought back to what it was.
        passed.go_on("b", hours(0), 101, DAY);
        assert_eq!(passed.old(DAY), 77);
        passed.go_on("b", hours(400), 101, DAY);
        assert_eq!(passed.old(DAY), 101);
        // Where it is not known which start of the host it is, nothing passes.
        let before = passed.total;
        passed.go_on("", hours(900), 101, DAY);
        passed.go_on("", hours(990), 101, DAY);
        assert_eq!(passed.total, before);
    }

    #[test]
    fn records_that_are_not_there_any_more_are_not_old() {
        let mut passed = Passed::default();
        passed.go_on("a", Duration::ZERO, 50, DAY);
        assert!(passed.go_on("a", Duration::from_secs(1), 7, DAY), "it has gone back");
        passed.go_on("a", DAY, 60, DAY);
        assert_eq!(passed.old(DAY), 0);
        passed.go_on("a", DAY + Duration::from_secs(1), 60, DAY);
        assert_eq!(passed.old(DAY), 7);
    }

    #[test]
    fn a_shorter_history_takes_effect_for_what_was_marked_before() {
        let mut passed = Passed::default();
        for minute in 0..300 {
            passed.go_on("a", Duration::from_secs(minute * 60), minute + 1, DAY);
        }
        assert_eq!(passed.old(DAY), 0);
        let old = passed.old(Duration::from_secs(HOUR));
        assert!((200..=240).contains(&old), "{old}");
    }
}
