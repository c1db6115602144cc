//! What usually follows a write.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many times a sync must have followed one write before the next is foreseen.
const STREAK: u32 = 4;

/// Foresees syncs: logs of databases are written once and synced, again and again. Threads that do so at the same time look
/// like several writes between syncs, and nothing is foreseen then: they share syncs as they come.
#[derive(Debug, Default)]
pub(super) struct Habit {
    writes: AtomicU32,
    streak: AtomicU32,
}

impl Habit {
    /// Something small was written; whether a sync is likely to be next.
    pub(super) fn wrote(&self) -> bool {
        self.writes.fetch_add(1, Ordering::Relaxed) == 0 && self.streak.load(Ordering::Relaxed) >= STREAK
    }

    /// A sync was asked for.
    pub(super) fn synced(&self) {
        if self.writes.swap(0, Ordering::Relaxed) == 1 {
            self.streak.fetch_add(1, Ordering::Relaxed);
        } else {
            self.streak.store(0, Ordering::Relaxed);
        }
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
}
