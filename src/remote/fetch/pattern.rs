//! How those who read go on, by what they have read: what is fetched together, and what is fetched before anybody asks for it.

use crate::store::{BlockAddr, Run, SEGMENT_BLOCKS};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Blocks that come at least, aligned: 256 KiB.
pub(super) const LEAST: u32 = 64;
/// Blocks that come at most: 4 MiB.
pub(super) const MOST: u32 = 1024;
/// Readers of one block after the other that are told apart.
const STREAMS: usize = 8;
/// How far those may be ahead of what has come, in blocks: several requests of one reader are under way, in any order.
const AHEAD: u32 = 512;
/// Pieces that are fetched before anybody asks.
const PIECES: u32 = 4;
/// Those who have come to places so many blocks apart, or fewer, are one.
const SAME: u64 = (PIECES * MOST) as u64;
/// Regions of [`MOST`] blocks of which it is known that something of them was wanted.
const REGIONS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long a piece may take that is larger than who asks for it needs.
const LONGEST: Duration = Duration::from_millis(100);
/// And one of who reads one block after the other, and comes to all of it.
const LONGEST_OF_STREAM: Duration = Duration::from_millis(400);
/// Blocks that are fetched before anybody asks for them, all together: 32 MiB.
pub(super) const AHEAD_MAX: u32 = 8 * MOST;
/// And their pieces.
pub(super) const PIECES_MAX: usize = STREAMS * PIECES as usize;

/// A reader of one block after the other.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Behind what came last.
    end: BlockAddr,
    /// How much that was, in blocks.
    count: u32,
    /// It has gone on at least once.
    has_gone_on: bool,
}

/// What is fetched for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) run: Run,
    /// How many pieces are worth to be fetched behind it.
    pub(super) more: u32,
    /// Blocks that each of these has at most.
    pub(super) most: u32,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The latest is the last.
    streams: Vec<Stream>,
    regions: LruCache<(u64, u32), ()>,
    /// Bytes that a request brings in a second, as far as that is known.
    speed: Option<f64>,
}

/// The block behind a run: segments are filled one after the other.
pub(super) fn behind(run: Run) -> BlockAddr {
    match run.end_index() {
        SEGMENT_BLOCKS.. => BlockAddr { segment: run.start.segment.saturating_add(1), index: 0 },
        index => BlockAddr { segment: run.start.segment, index },
    }
}

/// A run from a block on that does not go beyond its segment.
pub(super) fn run_from(start: BlockAddr, count: u32) -> Run {
    Run::new(start, count.min(SEGMENT_BLOCKS.saturating_sub(start.index)).max(1))
}

/// At most so many blocks: a power of two, for what is aligned, between [`LEAST`] and [`MOST`].
/// Where a block is, counted through all segments.
fn position(addr: BlockAddr) -> u64 {
    addr.segment.saturating_mul(SEGMENT_BLOCKS.into()).saturating_add(addr.index.into())
}

fn power_of_two(blocks: u32) -> u32 {
    (LEAST << (blocks / LEAST).max(1).ilog2()).min(MOST)
}

impl Default for Pattern {
    fn default() -> Self {
        Self { streams: Vec::new(), regions: LruCache::new(REGIONS), speed: None }
    }
}

impl Pattern {
    /// So many bytes came with one request in this time.
    pub(super) fn came(&mut self, bytes: usize, time: Duration) {
        let now = bytes as f64 / time.as_secs_f64().max(1e-6);
        self.speed = Some(self.speed.map_or(now, |before| 0.75 * before + 0.25 * now));
    }

    /// Blocks that one request brings within this time; `None` as long as nobody knows how fast it comes.
    fn within(&self, time: Duration) -> Option<u32> {
        let bytes = self.speed? * time.as_secs_f64();
        // (The cast is one to the nearest number that fits.)
        Some(power_of_two((bytes / crate::store::BLOCK_BYTES as f64) as u32))
    }

    /// Blocks that one request brings without taking too long.
    fn most(&self) -> u32 {
        self.within(LONGEST).unwrap_or(LEAST)
    }

    /// The same for those who read one block after the other.
    fn most_of_stream(&self) -> u32 {
        self.within(LONGEST_OF_STREAM).unwrap_or(MOST)
    }

    /// Blocks of a piece that is fetched before anybody asks for it: as many as come soon, and as leave room for all who read on.
    fn most_ahead(&self) -> u32 {
        let streams = self.streams.iter().filter(|stream| stream.has_gone_on).count().max(1);
        let share = AHEAD_MAX / PIECES / u32::try_from(streams).unwrap_or(u32::MAX);
        power_of_two(share).min(self.most_of_stream())
    }

    /// The stream that a block belongs to.
    fn stream_of(&mut self, addr: BlockAddr) -> Option<Stream> {
        let goes_on = |stream: &Stream| {
            let Stream { end, count, .. } = *stream;
            // (One that has just begun may be none.)
            let ahead = AHEAD.min(2 * count);
            end.segment == addr.segment && addr.index + LEAST > end.index && addr.index < end.index + ahead
        };
        let at = self.streams.iter().rposition(goes_on)?;
        Some(self.streams.remove(at))
    }

    fn goes_on(&mut self, run: Run, has_gone_on: bool) {
        let end = position(behind(run));
        if has_gone_on {
            // Several threads read for one, and come in any order: whoever is a little behind another is the same.
            let others = self.streams.iter().filter(|stream| stream.has_gone_on);
            let is_behind = others.map(|stream| position(stream.end)).any(|it| it > end && it - end < SAME);
            if is_behind {
                return;
            }
            let is_same = |stream: &Stream| {
                let it = position(stream.end);
                stream.has_gone_on && it <= end && end - it < SAME
            };
            self.streams.retain(|stream| !is_same(stream));
        }
        if self.streams.len() >= STREAMS {
            self.streams.remove(0);
        }
        self.streams.push(Stream { end: behind(run), count: run.count, has_gone_on });
    }

    /// What is fetched with `count` blocks from `addr` on, which are wanted now.
    pub(super) fn piece_of(&mut self, addr: BlockAddr, count: u32) -> Piece {
        let most = self.most();
        let stream = self.stream_of(addr);
        let region = (addr.segment, addr.index / MOST);
        let is_known = self.regions.put(region, ()).is_some();
        let (aligned, wanted) = match stream {
            // (At the beginning of each segment, nothing is aligned to more.)
            Some(stream) => (LEAST, (2 * stream.count).clamp(LEAST, self.most_of_stream())),
            // Somebody jumps about in it.
            None if is_known => (most, most),
            None => (LEAST, LEAST),
        };
        let first = addr.index / aligned * aligned;
        let count = wanted.max((addr.index - first).saturating_add(count).next_multiple_of(LEAST)).min(MOST);
        let run = run_from(BlockAddr { segment: addr.segment, index: first }, count);
        self.goes_on(run, stream.is_some());
        let more = if stream.is_some() { (wanted / LEAST).ilog2().min(PIECES) } else { 0 };
        Piece { run, more, most: self.most_ahead() }
    }

    /// Somebody has come to what was fetched before it was asked for.
    pub(super) fn arrived(&mut self, addr: BlockAddr, run: Run) -> Piece {
        // Its stream has come as far as what was fetched last.
        let _ = self.stream_of(addr);
        self.goes_on(run, true);
        Piece { run, more: PIECES, most: self.most_ahead() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u64, index: u32) -> BlockAddr {
        BlockAddr { segment, index }
    }

    fn piece(pattern: &mut Pattern, addr: BlockAddr) -> (u64, u32, u32, u32) {
        let Piece { run, more, .. } = pattern.piece_of(addr, 1);
        (run.start.segment, run.start.index, run.count, more)
    }

    #[test]
    fn who_reads_on_gets_more_each_time_and_what_follows() {
        let mut pattern = Pattern::default();
        assert_eq!(piece(&mut pattern, at(1, 10)), (1, 0, 64, 0));
        assert_eq!(piece(&mut pattern, at(1, 64)), (1, 64, 128, 1));
        // Another one, at the same time.
        assert_eq!(piece(&mut pattern, at(7, 640)), (7, 640, 64, 0));
        assert_eq!(piece(&mut pattern, at(1, 192)), (1, 192, 256, 2));
        assert_eq!(piece(&mut pattern, at(7, 704)), (7, 704, 128, 1));
        // Two requests of one reader, the second first.
        assert_eq!(piece(&mut pattern, at(1, 448 + 200)), (1, 640, 512, 3));
        assert_eq!(piece(&mut pattern, at(1, 1152)), (1, 1152, 1024, 4));
        assert_eq!(piece(&mut pattern, at(1, 2176)), (1, 2176, 1024, 4));
        // The next segment.
        let end = Run::new(at(1, SEGMENT_BLOCKS - 64), 64);
        assert_eq!(pattern.arrived(at(1, 3200), end), Piece { run: end, more: 4, most: 1024 });
        assert_eq!(piece(&mut pattern, at(2, 0)), (2, 0, 128, 1));
        assert_eq!(behind(Run::new(at(1, 0), 64)), at(1, 64));
        assert_eq!(run_from(at(3, SEGMENT_BLOCKS - 10), 64).count, 10);
        // What was asked for comes in any case.
        assert_eq!(pattern.piece_of(at(9, 60), 200).run, Run::new(at(9, 0), 320));
    }

    /// They were taken for readers of their own, who share what may come ahead: each piece was a fourth of a megabyte in the end.
    #[test]
    fn pieces_that_come_in_another_order_are_of_one_reader() {
        let mut pattern = Pattern::default();
        let run = |at_piece: u32| Run::new(at(1, at_piece * MOST), MOST);
        for pieces in [[1, 0], [2, 3], [5, 4], [7, 6], [9, 8], [11, 10], [12, 13]] {
            for piece in pieces {
                assert_eq!(pattern.arrived(run(piece).start, run(piece)).most, MOST);
            }
        }
        assert_eq!(pattern.streams.len(), 1);
        // And across the end of a segment.
        let (last, next) = (Run::new(at(1, SEGMENT_BLOCKS - MOST), MOST), Run::new(at(2, 0), MOST));
        assert_eq!(pattern.arrived(next.start, next).most, MOST);
        assert_eq!(pattern.arrived(last.start, last).most, MOST);
        assert_eq!(pattern.streams.len(), 1);
        // Another one is far away.
        let far = Run::new(at(2, 8 * MOST), MOST);
        pattern.arrived(far.start, far);
        assert_eq!(pattern.streams.len(), 2);
    }

    #[test]
    fn who_jumps_about_gets_as_much_as_comes_soon() {
        let mut pattern = Pattern::default();
        assert_eq!(piece(&mut pattern, at(1, 2000)), (1, 1984, 64, 0));
        // Nobody knows yet how fast it comes.
        assert_eq!(piece(&mut pattern, at(1, 1100)), (1, 1088, 64, 0));
        pattern.came(1 << 20, Duration::from_millis(1));
        assert_eq!(piece(&mut pattern, at(1, 1500)), (1, 1024, 1024, 0));
        // A slow one: 10 MB a second.
        let mut pattern = Pattern::default();
        pattern.came(1_000_000, Duration::from_millis(100));
        assert_eq!(piece(&mut pattern, at(1, 2000)), (1, 1984, 64, 0));
        assert_eq!(piece(&mut pattern, at(1, 1100)), (1, 1024, 128, 0));
        // And a region that nobody has been in.
        assert_eq!(piece(&mut pattern, at(1, 5000)), (1, 4992, 64, 0));
    }

    /// Pieces of 4 MiB were fetched, several at a time, which took a slow link seconds; and the more read on, the more was kept.
    #[test]
    fn what_is_fetched_before_anybody_asks_comes_soon_and_has_room() {
        let ahead = |pattern: &mut Pattern, segment, first| {
            let run = Run::new(at(segment, first), 64);
            pattern.arrived(at(segment, first), run).most
        };
        // Nobody knows how fast it comes: each further one gets less.
        let mut pattern = Pattern::default();
        let most: Vec<u32> = (1..=8).map(|segment| ahead(&mut pattern, segment, 0)).collect();
        assert_eq!(most, [1024, 1024, 512, 512, 256, 256, 256, 256]);
        assert!(most.iter().zip(1..).all(|(most, streams)| most * PIECES * streams <= AHEAD_MAX));
        // Those who jump about read nothing on.
        let mut pattern = Pattern::default();
        for i in 0..20 {
            pattern.piece_of(at(9, i * 3000), 1);
        }
        assert_eq!(ahead(&mut pattern, 1, 0), 1024);
        // A slow one: 1 MB a second, and 10.
        for (bytes, most) in [(100_000, 64), (1_000_000, 512)] {
            let mut pattern = Pattern::default();
            pattern.came(bytes, Duration::from_millis(100));
            assert_eq!(ahead(&mut pattern, 1, 0), most);
            for i in 0..8 {
                let Piece { run, .. } = pattern.piece_of(at(2, i * 64), 1);
                assert!(run.count <= most, "{run:?}");
            }
        }
    }
}
