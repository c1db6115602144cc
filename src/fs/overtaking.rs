//! What has overtaken a write-back that could not be kept.
//!
//! The kernel sends what programs wrote in the order of the file, and the threads that carry it out overtake each other. When one of
//! the writes cannot be kept, what lies behind it and was written at the same time is given back, so that the data of a file end where
//! something is missing: what made the file longer is cut off, and holes that were filled are holes again.
//!
//! What a sync has covered, or a program has written past the kernel's cache, is *settled*: it stays, whatever comes.

use super::content::{BLOCK, ContentChange};
use super::losses::RANGES;
use super::{Fs, FsError, Ino, Result};
use crate::meta::{AttrChange, MapRun, MapTo, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Writes that can have overtaken one that the kernel sent before them: a thread that has just taken a request can wait long for a
/// busy CPU, and others go on.
const IN_FLIGHT: usize = 1024;
/// How long such a thread waits at most. What was written before that is not given back: it may be of a program that has closed the
/// file since, and been told that all is well.
const OVERTAKING: Duration = Duration::from_secs(30);
/// Files of which it is known what was written to them last.
const FILES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What was written to a file lately.
#[derive(Debug, Default)]
struct Recent {
    /// When it grew, and the size that it had before.
    grown: VecDeque<(Instant, u64)>,
    /// When a hole in it was filled, and with which bytes.
    filled: VecDeque<(Instant, Range<u64>)>,
}

/// What was written to files lately, and is not settled.
pub(super) struct Overtaking(Mutex<LruCache<Ino, Recent>>);

impl Default for Overtaking {
    fn default() -> Self {
        // It takes no room in advance: most volumes are written to by few, and many by nobody.
        let mut files = LruCache::unbounded();
        files.resize(FILES);
        Self(Mutex::new(files))
    }
}

/// What lies behind a place in a file, and may have overtaken what belongs there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overtaken {
    /// The size that the file had before; `None` if it did not grow.
    size: Option<u64>,
    /// Ranges of bytes that were holes, in order.
    filled: Vec<Range<u64>>,
}

impl Overtaking {
    fn note(&self, ino: Ino, note: impl FnOnce(&mut Recent)) {
        note(self.0.lock().get_or_insert_mut(ino, Recent::default));
    }

    /// A write-back makes a file grow that had `size` bytes.
    pub(super) fn note_growth(&self, ino: Ino, size: u64) {
        self.note(ino, |recent| push(&mut recent.grown, size));
    }

    /// A write-back of `range` has filled a hole that had no other bytes.
    pub(super) fn note_filled(&self, ino: Ino, range: Range<u64>) {
        self.note(ino, |recent| push(&mut recent.filled, range));
    }

    /// What the file has now, it keeps, whatever comes.
    pub(super) fn settle(&self, ino: Ino) {
        self.0.lock().pop(&ino);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    fn has(&self, ino: Ino) -> bool {
        self.0.lock().contains(&ino)
    }

    /// What lies at or behind byte `end`, and may have overtaken a write that `begun` then.
    fn behind(&self, ino: Ino, end: u64, begun: Instant) -> Overtaken {
        let is_recent = |when: Instant| when + OVERTAKING >= begun;
        let files = self.0.lock();
        let Some(recent) = files.peek(&ino) else { return Overtaken::default() };
        let size = recent.grown.iter().find(|(when, _)| is_recent(*when)).map(|(_, size)| *size);
        let filled = recent.filled.iter().filter(|(when, range)| is_recent(*when) && range.start >= end);
        let mut filled: Vec<_> = filled.map(|(_, range)| range.clone()).collect();
        filled.sort_unstable_by_key(|range| range.start);
        Overtaken { size, filled }
    }
}

fn push<T>(notes: &mut VecDeque<(Instant, T)>, note: T) {
    if notes.len() == IN_FLIGHT {
        notes.pop_front();
    }
    notes.push_back((Instant::now(), note));
}

/// Adds a range behind all others, of which there are no more than what is known of a file.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    let is_full = ranges.len() == RANGES;
    match ranges.last_mut() {
        Some(last) if is_full || last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

impl Fs {
    /// Notes that a write-back, `begun` then, was not kept, and gives back what lies behind it and was written at the same time.
    pub(super) fn lose(&self, ino: Ino, range: &Range<u64>, error: FsError, begun: Instant) {
        self.losses.note(ino, range, error);
        if error != FsError::NoSpace {
            return;
        }
        if let Err(e) = self.give_back_behind(ino, range, begun) {
            log::warn!("inode {ino}: cannot give back what lies behind byte {}: {e:?}", range.start);
        }
    }

    /// Gives back what lies behind the first byte of `range` that the file does not have and may have overtaken it, and counts it as
    /// missing. What has yet to come there is not: it is behind what is missing. If it has the whole range, only not as it was to
    /// be, all stays.
    fn give_back_behind(&self, ino: Ino, range: &Range<u64>, begun: Instant) -> Result<()> {
        // It may wait for a commit, and nobody is to wait for that with the file.
        let may_change = self.begin_change();
        // What came between the look and the cut would be lost, and nobody would know; and who did not know of the loss yet is done.
        let _order = self.locks.alone(ino);
        if !self.losses.overtaking.has(ino) {
            return Ok(());
        }
        may_change?;
        let (size, new) = {
            let mut meta = self.store.meta();
            let inode = self.regular(&mut meta, ino)?;
            (inode.size, self.not_there(&mut meta, &inode, range.clone())?)
        };
        let Some(end) = new.first().map(|part| part.start) else { return Ok(()) };
        let Overtaken { size: before, mut filled } = self.losses.overtaking.behind(ino, end, begun);
        // What the file had before it grew is not all of it, but there it ends.
        let cut = before.map_or(size, |before| before.max(end)).min(size);
        filled.retain(|range| range.start < cut);
        let mut gone: Vec<Range<u64>> = Vec::new();
        for range in &filled {
            join(&mut gone, range.clone());
        }
        let (mut at, last) = (cut / BLOCK, if cut < size { size.div_ceil(BLOCK) } else { 0 });
        while at < last {
            let (pieces, until) = self.store.meta().some_pieces(self.volume, ino, at..last)?;
            for piece in pieces {
                let (from, count) = (piece.first * BLOCK, u64::from(piece.count) * BLOCK);
                let range = from.max(cut)..(from + count).min(size);
                if !range.is_empty() {
                    join(&mut gone, range);
                }
            }
            at = until;
        }
        // Before it is gone: whoever takes over after a step of this has to know of all that it was to take.
        self.losses.change(ino, |loss| gone.iter().for_each(|range| loss.add(range)));
        if cut < size {
            self.cut_unasked(ino, cut)?;
        }
        filled.iter().try_for_each(|range| self.empty_unasked(ino, range))
    }

    /// Makes a hole of the blocks of a range, of which no program knows. The caller has the content lock to itself.
    fn empty_unasked(&self, ino: Ino, range: &Range<u64>) -> Result<()> {
        let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let hole = MapRun { first, count: end - first, to: MapTo::Hole };
        let change = ContentChange { ranges: vec![hole], ..Default::default() };
        let _turn = self.store.long_turn();
        self.change_content(ino, &change, |_, _| {
            let now = Some(Timestamp::now());
            Ok((None, AttrChange { mtime: now, ctime: now, ..AttrChange::default() }))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_overtaken_others_is_unsettled() {
        let (overtaking, begun) = (Overtaking::default(), Instant::now());
        let size = |begun| overtaking.behind(5, 0, begun).size;
        assert_eq!(size(begun), None);
        for i in 0..IN_FLIGHT as u64 + 3 {
            overtaking.note_growth(5, i * 10);
        }
        assert_eq!(size(begun), Some(30));
        overtaking.settle(5);
        overtaking.note_growth(5, 7000);
        assert_eq!(size(begun), Some(7000));
        // It is long done.
        let later = Instant::now() + OVERTAKING + Duration::from_secs(1);
        assert_eq!(size(later), None);
    }

    #[test]
    fn only_what_was_filled_behind_and_lately_is_given_back() {
        let (overtaking, begun) = (Overtaking::default(), Instant::now());
        for start in [40, 10, 30, 20] {
            overtaking.note_filled(5, start..start + 5);
        }
        let filled = |end, begun| overtaking.behind(5, end, begun).filled;
        assert_eq!(filled(20, begun), [20..25, 30..35, 40..45]);
        assert!(filled(20, Instant::now() + OVERTAKING + Duration::from_secs(1)).is_empty());
        for i in 0..2 * IN_FLIGHT as u64 {
            overtaking.note_filled(5, i..i + 1);
        }
        assert_eq!(filled(0, begun).len(), IN_FLIGHT);
        overtaking.settle(5);
        assert!(filled(0, begun).is_empty());
    }

    #[test]
    fn ranges_that_are_given_back_take_a_bounded_room() {
        let mut ranges = Vec::new();
        for i in 0..10 * RANGES as u64 {
            join(&mut ranges, i * 10..i * 10 + 5);
            join(&mut ranges, i * 10 + 5..i * 10 + 7);
        }
        assert_eq!((ranges.len(), ranges[0].clone(), ranges[RANGES - 1].end), (RANGES, 0..7, 25_597));
    }
}
