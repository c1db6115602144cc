//! Which blocks a copy of the store elsewhere lacks: what commits gave addresses to and did not free.

use crate::meta::GiveBack;
use crate::store::{BlockAddr, Run, SEGMENT_BLOCKS, SegmentState};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// So many runs are listed at most, some 50 MB of them. Then it is only known that there are some, and all blocks of the store are
/// looked at when it is asked for them.
const RUNS_MAX: usize = 1 << 20;

/// Blocks, as runs that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunSet(BTreeMap<BlockAddr, u32>);

impl RunSet {
    /// Adds blocks; those that are there already stay.
    pub(super) fn add(&mut self, run: Run) {
        // What overlaps goes, and comes back as a part of the whole.
        let (mut start, mut end) = (run.start.index, run.end_index());
        let addr = |index| BlockAddr { segment: run.start.segment, index };
        while let Some((at, count)) = self.0.range(..=addr(end)).next_back().map(|(at, count)| (*at, *count))
        {
            if at.segment != run.start.segment || at.index + count < start {
                break;
            }
            self.0.remove(&at);
            (start, end) = (start.min(at.index), end.max(at.index + count));
        }
        self.0.insert(addr(start), end - start);
    }

    /// Takes blocks out, as far as they are there.
    pub(super) fn remove(&mut self, run: Run) {
        let (start, end) = (run.start.index, run.end_index());
        let addr = |index| BlockAddr { segment: run.start.segment, index };
        let before_end = addr(end);
        while let Some((at, count)) = self.0.range(..before_end).next_back().map(|(at, count)| (*at, *count))
        {
            if at.segment != run.start.segment || at.index + count <= start {
                return;
            }
            self.0.remove(&at);
            if at.index + count > end {
                self.0.insert(addr(end), at.index + count - end);
            }
            if at.index < start {
                self.0.insert(at, start - at.index);
                return;
            }
        }
    }

    pub(super) fn remove_segment(&mut self, segment: u64) {
        self.remove(Run::new(BlockAddr { segment, index: 0 }, SEGMENT_BLOCKS));
    }

    fn add_all(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
        } else {
            other.runs().for_each(|run| self.add(run));
        }
    }

    /// The runs, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.iter().map(|(start, count)| Run::new(*start, *count))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.0.values().map(|count| u64::from(*count)).sum()
    }
}

/// Blocks that came and went since some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Since {
    /// It is known all that came and went.
    pub(super) complete: bool,
    /// New blocks that are not free.
    pub(super) new: RunSet,
    /// Blocks that were freed, new ones or not.
    pub(super) freed: RunSet,
    /// How far segments were filled; 0: nothing lives in it any more.
    pub(super) tails: BTreeMap<u64, u32>,
    /// Some blocks count as new because they were sealed again.
    resealed: bool,
}

impl Since {
    fn free(&mut self, run: Run) {
        self.new.remove(run);
        self.freed.add(run);
    }

    fn bound(&mut self) {
        if !self.complete || self.new.0.len() + self.freed.0.len() > RUNS_MAX {
            *self = Self::default();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Since the last moment.
    since: Since,
    /// What a moment has taken of which it is not known yet what becomes of it.
    taken: Option<Since>,
    /// How far segments are filled that were begun since the store was opened.
    tails: FxHashMap<u64, u32>,
}

/// What is known of new blocks in a store of which somebody keeps a copy.
#[derive(Debug, Default)]
pub(in crate::open_store) struct Fresh(Mutex<State>);

impl Fresh {
    /// Takes note of a commit, in the order of commits: how far it has filled segments, and what it frees.
    pub(in crate::open_store) fn note(&self, states: &[SegmentState], give_back: &GiveBack) {
        let mut state = self.0.lock();
        let State { since, taken, tails } = &mut *state;
        for SegmentState { id, tail, .. } in states {
            // A store that is opened begins a new segment: there is nothing of it before the first state.
            let from = std::mem::replace(tails.entry(*id).or_insert(0), *tail);
            if *tail > from {
                since.new.add(Run::new(BlockAddr { segment: *id, index: from }, tail - from));
                since.tails.insert(*id, *tail);
            }
        }
        for run in give_back.freed.iter().flat_map(|(_, runs)| runs) {
            since.free(*run);
            if let Some(taken) = taken {
                taken.new.remove(*run);
            }
        }
        for id in &give_back.empty_segments {
            since.free(Run::new(BlockAddr { segment: *id, index: 0 }, SEGMENT_BLOCKS));
            since.tails.insert(*id, 0);
            if let Some(taken) = taken {
                taken.new.remove_segment(*id);
            }
        }
        since.bound();
    }

    /// Takes what is known since the last moment. No other moment may be out.
    pub(super) fn take(&self) -> Since {
        let mut state = self.0.lock();
        let since = std::mem::take(&mut state.since);
        state.taken = Some(since.clone());
        state.since.complete = true;
        since
    }

    /// The moment has come to where it was taken for, or has not: then what it had counts as new again.
    pub(super) fn end(&self, done: bool) {
        let mut state = self.0.lock();
        let Some(taken) = state.taken.take() else { return };
        if !done {
            state.since.complete &= taken.complete;
            state.since.new.add_all(taken.new);
            state.since.freed.add_all(taken.freed);
            for (id, tail) in taken.tails {
                state.since.tails.entry(id).or_insert(tail);
            }
            state.since.resealed |= taken.resealed;
            state.since.bound();
        }
    }

    /// The blocks of a segment, which has so many, were sealed again, with other keys: copies of them that were made before are going
    /// to be worth nothing. Those that were `freed`, by all commits up to a moment ago, are no part of a copy, whether they were given back
    /// or not: nobody would say once more that they are free.
    pub(in crate::open_store) fn resealed(&self, id: u64, tail: u32, freed: &[Run]) {
        let mut state = self.0.lock();
        let State { since, taken, .. } = &mut *state;
        if since.complete && tail > 0 {
            let mut new = RunSet::default();
            new.add(Run::new(BlockAddr { segment: id, index: 0 }, tail));
            freed.iter().for_each(|run| new.remove(*run));
            let since_then = [Some(&since.freed), taken.as_ref().map(|taken| &taken.freed)];
            since_then.into_iter().flatten().flat_map(RunSet::runs).for_each(|run| new.remove(run));
            since.new.add_all(new);
            since.tails.insert(id, tail);
            since.resealed = true;
        }
    }

    /// Whether all blocks that were sealed again are in a moment that has come to something.
    pub(super) fn has_resealed_copied(&self) -> bool {
        let state = self.0.lock();
        state.since.complete && !state.since.resealed && state.taken.is_none()
    }

    /// New blocks in commits since the last moment; `None` if that is not known.
    pub(super) fn blocks(&self) -> Option<u64> {
        let state = self.0.lock();
        state.since.complete.then(|| state.since.new.blocks())
    }

    /// The same with those of a moment of which it is not known yet what becomes of it, if that is known.
    pub(in crate::open_store) fn lacking(&self) -> Option<u64> {
        let state = self.0.lock();
        let taken = state.taken.as_ref().filter(|taken| taken.complete);
        let taken = taken.map_or(0, |taken| taken.new.blocks());
        state.since.complete.then(|| state.since.new.blocks() + taken)
    }

    /// Some of the new blocks, at most so many.
    pub(super) fn some(&self, most: u64) -> Vec<Run> {
        let state = self.0.lock();
        let mut left = most;
        let runs = state.since.new.runs().map_while(|run| {
            let count = u64::from(run.count).min(left) as u32;
            left -= u64::from(count);
            (count > 0).then(|| run.part(0, count))
        });
        runs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn run(segment: u64, index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment, index }, count)
    }

    fn state(id: u64, tail: u32) -> SegmentState {
        SegmentState { id, tail, full: false }
    }

    fn freed(runs: &[Run], empty: &[u64]) -> GiveBack {
        GiveBack { freed: vec![(1, runs.to_vec())], empty_segments: empty.to_vec() }
    }

    proptest! {
        #[test]
        fn a_set_of_runs_is_a_set_of_blocks(
            steps in prop::collection::vec((any::<bool>(), 1u64..3, 0u32..60, 1u32..20), 0..60)
        ) {
            let (mut set, mut model) = (RunSet::default(), BTreeSet::new());
            for (add, segment, index, count) in steps {
                let run = run(segment, index, count);
                let blocks = (0..count).map(|i| run.start.plus(i));
                if add {
                    set.add(run);
                    model.extend(blocks);
                } else {
                    set.remove(run);
                    blocks.for_each(|block| { model.remove(&block); });
                }
                let listed: Vec<_> =
                    set.runs().flat_map(|run| (0..run.count).map(move |i| run.start.plus(i))).collect();
                prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.blocks(), model.len() as u64);
                let runs: Vec<Run> = set.runs().collect();
                let apart = |pair: &[Run]| {
                    pair[0].start.segment != pair[1].start.segment || pair[0].end_index() < pair[1].start.index
                };
                prop_assert!(runs.windows(2).all(apart));
            }
        }
    }

    /// Who copied what was free, because it had been sealed again and not given back yet, kept it for good, with keys that went.
    #[test]
    fn what_is_free_is_not_new_because_it_was_sealed_again() {
        let fresh = Fresh::default();
        fresh.note(&[state(1, 10)], &freed(&[], &[]));
        fresh.take();
        fresh.end(true);
        fresh.note(&[], &freed(&[run(1, 2, 2)], &[]));
        fresh.take();
        fresh.note(&[], &freed(&[run(1, 6, 1)], &[]));
        fresh.resealed(1, 10, &[run(1, 9, 1)]);
        fresh.end(true);
        let new: Vec<_> = fresh.take().new.runs().collect();
        assert_eq!(new, [run(1, 0, 2), run(1, 4, 2), run(1, 7, 2)]);
    }

    #[test]
    fn what_was_freed_before_it_was_taken_is_not_new() {
        let fresh = Fresh::default();
        fresh.note(&[state(1, 10)], &freed(&[], &[]));
        let since = fresh.take();
        assert!(!since.complete, "what was before is not known");
        fresh.end(true);
        fresh.note(&[state(1, 20), state(2, 5)], &freed(&[run(1, 0, 3), run(1, 12, 2)], &[]));
        fresh.note(&[state(1, 25)], &freed(&[run(1, 24, 1)], &[2]));
        let since = fresh.take();
        assert!(since.complete);
        assert_eq!(since.new.runs().collect::<Vec<_>>(), [run(1, 10, 2), run(1, 14, 10)]);
        assert_eq!(since.freed.runs().next(), Some(run(1, 0, 3)));
        // Freed while it is out, and then it comes back.
        fresh.note(&[state(1, 26)], &freed(&[run(1, 14, 1)], &[]));
        assert_eq!((fresh.blocks(), fresh.some(9)), (Some(1), vec![run(1, 25, 1)]));
        fresh.end(false);
        let since = fresh.take();
        assert_eq!(since.new.runs().collect::<Vec<_>>(), [run(1, 10, 2), run(1, 15, 9), run(1, 25, 1)]);
        assert_eq!(since.freed.blocks(), 3 + 2 + 1 + u64::from(SEGMENT_BLOCKS) + 1);
        fresh.end(true);
        assert_eq!(fresh.blocks(), Some(0));
    }
}
