//! Freed blocks that are to be punched.
//!
//! To punch one block costs about what a sync costs, and holds the segment while it does: whoever appends to it waits. What
//! is freed in large runs is punched at once. Single blocks, as overwriting at random frees them, wait until nobody writes,
//! or until there are many: by then, most of them lie side by side. The table `freed` has them until they are punched.

use crate::store::{BLOCK_BYTES, Run, coalesce};
use std::time::{Duration, Instant};

/// Runs of so many blocks on average are worth their punch.
const LARGE_BLOCKS: u64 = 16;
/// Blocks that may wait: 64 MiB.
const WAITING_MAX: u64 = (64 << 20) / BLOCK_BYTES as u64;
/// Nothing was appended for so long: nobody writes.
const CALM: Duration = Duration::from_millis(50);

/// Freed blocks, and the rows of the table `freed` that have them.
#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) rows: Vec<i64>,
    pub(super) runs: Vec<Run>,
    blocks: u64,
}

impl Freed {
    pub(super) fn add(&mut self, rows: impl IntoIterator<Item = (i64, Vec<Run>)>) {
        for (row, runs) in rows {
            self.rows.push(row);
            self.blocks += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
            self.runs.extend(runs);
        }
        coalesce(&mut self.runs);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes that are to be given back.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }

    /// Whether it has no sense to wait, whatever else goes on.
    pub(super) fn is_worth_it(&self) -> bool {
        self.blocks >= WAITING_MAX || self.blocks >= LARGE_BLOCKS * self.runs.len() as u64
    }
}

/// Notices when nobody has written for a while.
#[derive(Debug)]
pub(super) struct Calm {
    appended: u64,
    since: Instant,
}

impl Default for Calm {
    fn default() -> Self {
        Self { appended: 0, since: Instant::now() }
    }
}

impl Calm {
    /// Takes note of what has been appended in all; how long it will be calm enough, if nothing more is. Zero: it is.
    pub(super) fn note(&mut self, appended: u64, now: Instant) -> Duration {
        if appended != self.appended {
            (self.appended, self.since) = (appended, now);
        }
        CALM.saturating_sub(now.duration_since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BlockAddr;

    fn run(index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment: 1, index }, count)
    }

    #[test]
    fn single_blocks_wait_until_they_are_many_or_lie_side_by_side() {
        let mut freed = Freed::default();
        assert!(freed.is_empty());
        freed.add([(1, (0..32).map(|i| run(2 * i, 1)).collect())]);
        assert!(!freed.is_worth_it());
        freed.add([(2, (0..32).map(|i| run(2 * i + 1, 1)).collect())]);
        assert!(freed.is_worth_it());
        assert_eq!((freed.runs, freed.rows), (vec![run(0, 64)], vec![1, 2]));

        let mut freed = Freed::default();
        freed.add([(1, (0..WAITING_MAX as u32).map(|i| run(2 * i, 1)).collect())]);
        assert!(freed.is_worth_it());
        assert_eq!(freed.bytes(), 64 << 20);
    }

    #[test]
    fn large_runs_do_not_wait() {
        let mut freed = Freed::default();
        freed.add([(1, vec![run(0, 16)])]);
        assert!(freed.is_worth_it());
    }

    #[test]
    fn it_is_calm_when_nothing_was_appended_for_a_while() {
        let mut calm = Calm::default();
        let start = Instant::now();
        assert_eq!(calm.note(1, start), CALM);
        assert_eq!(calm.note(1, start + CALM / 2), CALM / 2);
        assert_eq!(calm.note(2, start + CALM), CALM);
        assert_eq!(calm.note(2, start + 2 * CALM), Duration::ZERO);
    }
}
