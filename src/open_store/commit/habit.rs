//! What usually follows a write.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many times a sync must have followed one write before the next is foreseen.
const STREAK: u32 = 4;
/// Small writes between two syncs, at most, that are a few: these may all go to the log at once.
const FEW: u32 = 32;

/// Foresees syncs: logs of databases are written once and synced, again and again. Threads that do so at the same time look
/// like several writes between syncs, and nothing is foreseen then: they share syncs as they come.
#[derive(Debug, Default)]
pub(super) struct Habit {
    writes: AtomicU32,
    /// Syncs, one after the other, before each of which there was one write.
    ones: AtomicU32,
    /// The same for a few.
    fews: AtomicU32,
}

impl Habit {
    /// Something small was written; whether a sync is likely to be next.
    pub(super) fn wrote(&self) -> bool {
        self.writes.fetch_add(1, Ordering::Relaxed) == 0 && self.ones.load(Ordering::Relaxed) >= STREAK
    }

    /// Something small is to be written; whether a sync is likely before many more are.
    pub(super) fn is_sync_near(&self) -> bool {
        self.fews.load(Ordering::Relaxed) >= STREAK && self.writes.load(Ordering::Relaxed) < FEW
    }

    /// A sync was asked for.
    pub(super) fn synced(&self) {
        let writes = self.writes.swap(0, Ordering::Relaxed);
        count(&self.ones, writes == 1);
        // Of threads that write and sync at the same time, one can ask right behind another.
        if writes > 0 {
            count(&self.fews, writes <= FEW);
        }
    }
}

fn count(streak: &AtomicU32, goes_on: bool) {
    if goes_on {
        streak.fetch_add(1, Ordering::Relaxed);
    } else {
        streak.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_foreseen_after_one_write_when_that_was_so_before() {
        let habit = Habit::default();
        for _ in 0..STREAK {
            assert!(!habit.wrote());
            habit.synced();
        }
        assert!(habit.wrote());
        assert!(!habit.wrote(), "once is enough");
        habit.synced();
        assert!(!habit.wrote(), "two writes before a sync end the streak");
    }

    #[test]
    fn a_sync_is_near_after_a_few_writes_when_that_was_so_before() {
        let habit = Habit::default();
        for _ in 0..STREAK {
            assert!(!habit.is_sync_near());
            (0..3).for_each(|_| _ = habit.wrote());
            habit.synced();
            habit.synced();
        }
        for _ in 0..FEW {
            assert!(habit.is_sync_near());
            habit.wrote();
        }
        assert!(!habit.is_sync_near(), "there are many");
        habit.wrote();
        habit.synced();
        assert!(!habit.is_sync_near(), "and there were many");
    }
}
