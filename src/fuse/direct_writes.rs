//! Writes past the kernel's page cache, and what is in that cache of the same file.
//!
//! Before a write with `O_DIRECT`, the kernel drops the pages of its range. Pages that are read in meanwhile, before the write is
//! here, hold what was there before it. After a write of pwrite(2), the kernel drops them again; after one of io_submit(2) or
//! io_uring it does not (`generic_file_direct_write`, which skips that for `-EIOCBQUEUED`; Linux after 7.0 drops them in
//! `fuse_aio_complete`). So they would stay, and be read, for good. The kernel does not say which kind of write it sends.
//!
//! Here, the kernel is made to drop them when the write is done, and the write is answered after that:
//! - a read that is sent after the write is done brings what was written;
//! - one that was sent before has its pages locked until it is answered, and dropping them waits for that;
//! - whoever knows that the write is done knows it from our answer, and finds none of those pages.
//!
//! Most files that are written so are not read through the cache, and a wake-up costs more than such a write: so what was read
//! or written through the cache of a file is noted, in [`REGIONS`] parts, and where nothing was since the pages were last
//! dropped, the write is answered at once.
//!
//! **The kernel sends at most [`MAX_BACKGROUND`] requests of two kinds at a time**: those of asynchronous direct I/O, and reads ahead
//! and write-backs of pages, which stay locked while such a request waits for its turn. If all of its turns were taken by
//! writes that wait here for locked pages, nothing would ever move again. When that is seen, the writes are answered, and their
//! pages dropped as soon as that can be. By rings, a single write can keep back what it waits for, while everything else moves: there,
//! each write is answered after [`PATIENCE`].

use super::negotiation::MAX_BACKGROUND;
use crate::fs::Node;
use crate::meta::FILE_MAX;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Parts of a file that are looked at separately.
const REGIONS: usize = 64;
/// Size of a region of a small file, as a power of two: 1 MiB.
const SMALLEST_SHIFT: u32 = 20;
/// Files that something is known of. What was dropped of others is dropped once more.
const FILES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// With so many writes waiting, the kernel may have no turn left for what they wait for.
const MANY: usize = MAX_BACKGROUND as usize / 4 * 3;
/// How long a write that came by a ring waits for its pages.
const PATIENCE: Duration = Duration::from_millis(100);

/// A part of a file.
#[derive(Clone, Copy)]
struct Region {
    /// The last access through the cache, by number.
    accessed: u64,
    /// Of accesses up to this one, no page is left.
    dropped: u64,
}

impl Region {
    /// Anything may be in the cache that came there up to an access.
    fn unknown(accessed: u64) -> Self {
        Self { accessed, dropped: 0 }
    }

    fn is_clean(self) -> bool {
        self.dropped >= self.accessed
    }

    /// What is known of two together.
    fn with(self, other: Self) -> Self {
        let dirty = |region: Self| if region.is_clean() { u64::MAX } else { region.dropped };
        let accessed = self.accessed.max(other.accessed);
        Self { accessed, dropped: dirty(self).min(dirty(other)).min(accessed) }
    }
}

/// A file that is written past the cache.
struct File {
    regions: [Region; REGIONS],
    /// Size of a region, as a power of two.
    shift: u32,
    /// Regions that nothing is known of yet may have been accessed up to this number.
    since: u64,
}

impl File {
    /// Of which nothing is known before access number `since`.
    fn new(since: u64) -> Self {
        Self { regions: [Region::unknown(since); REGIONS], shift: SMALLEST_SHIFT, since }
    }

    /// The regions that a range of bytes touches, which are made large enough.
    fn regions(&mut self, bytes: &Range<u64>) -> Range<usize> {
        // Nothing is behind the end of the largest file.
        let start = bytes.start.min(FILE_MAX - 1);
        let last = bytes.end.clamp(start + 1, FILE_MAX) - 1;
        while last >> self.shift >= REGIONS as u64 {
            for i in 0..REGIONS / 2 {
                self.regions[i] = self.regions[2 * i].with(self.regions[2 * i + 1]);
            }
            self.regions[REGIONS / 2..].fill(Region::unknown(self.since));
            self.shift += 1;
        }
        (start >> self.shift) as usize..(last >> self.shift) as usize + 1
    }

    /// Access number `number` was to `bytes`.
    fn note_access(&mut self, bytes: &Range<u64>, number: u64) {
        let regions = self.regions(bytes);
        for region in &mut self.regions[regions] {
            region.accessed = number;
        }
    }

    /// The bytes of the regions in a range of which something may be in the cache; `None` if nothing is.
    fn dirty(&mut self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let regions = self.regions(bytes);
        let is_dirty = |i: &usize| !self.regions[*i].is_clean();
        let first = regions.clone().find(is_dirty)?;
        let last = regions.rev().find(is_dirty)?;
        Some((first as u64) << self.shift..(last as u64 + 1) << self.shift)
    }

    /// No page is left of accesses to `bytes`, which are whole regions as they were once, up to number `upto`.
    fn note_dropped(&mut self, bytes: &Range<u64>, upto: u64) {
        let size = 1u64 << self.shift;
        // Regions may have grown meanwhile.
        for i in bytes.start.div_ceil(size)..bytes.end / size {
            let region = &mut self.regions[i as usize];
            region.dropped = region.dropped.max(upto);
        }
    }
}

/// Files, and the number of the last access to any of them: when one is known anew, what was dropped of it before counts no more.
struct Files {
    known: LruCache<Node, File>,
    last: u64,
}

impl Files {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What is known of a file; if nothing is, that anything may be in the cache.
    fn of(&mut self, node: Node) -> &mut File {
        if !self.known.contains(&node) {
            let since = self.next();
            self.known.put(node, File::new(since));
        }
        self.known.get_or_insert_mut(node, || File::new(0))
    }
}

/// The answer to a write that waits. It is given once.
type Answer = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn give(answer: &Answer) {
    let answer = answer.lock().take();
    if let Some(answer) = answer {
        answer();
    }
}

/// A write that was carried out, and is to be answered when pages were dropped.
pub(super) struct Held {
    node: Node,
    /// What was written.
    written: Range<u64>,
    answer: Answer,
}

impl Held {
    /// Answers it before its pages are dropped.
    pub(super) fn answer_now(&self) {
        give(&self.answer);
    }
}

/// What is known of files that are written past the cache.
pub(super) struct DirectWrites {
    files: Mutex<Files>,
    /// Whether there is any; most mounts have none.
    any: AtomicBool,
    /// Writes that wait, and since when.
    held: Mutex<Vec<(Answer, Instant)>>,
    by_rings: AtomicBool,
    /// Reads that are being worked on.
    reading: AtomicUsize,
    /// Counts what shows that something moves.
    moves: AtomicU64,
    /// As it was when it was last looked at.
    seen: AtomicU64,
}

impl Default for DirectWrites {
    fn default() -> Self {
        // It takes no room in advance: most volumes have no direct writes.
        let mut known = LruCache::unbounded();
        known.resize(FILES);
        Self {
            files: Mutex::new(Files { known, last: 0 }),
            any: AtomicBool::new(false),
            held: Mutex::default(),
            by_rings: AtomicBool::new(false),
            reading: AtomicUsize::new(0),
            moves: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for DirectWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectWrites").finish_non_exhaustive()
    }
}

/// A read that is being worked on.
pub(super) struct Reading(Arc<DirectWrites>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Release);
    }
}

impl DirectWrites {
    /// Requests come by rings. The kernel gives what it puts off of a queue one after the other, each when the one before it is
    /// answered, also where entries are free (`fuse_uring_queue_bq_req`): a single write that waits can keep back the read that it
    /// waits for.
    pub(super) fn come_by_rings(&self) {
        self.by_rings.store(true, Ordering::Relaxed);
    }

    /// A read, or a write, that leaves pages in the cache was received; before it is carried out.
    pub(super) fn note_cached(&self, node: Node, offset: u64, len: u64) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut files = self.files.lock();
        let number = files.next();
        if let Some(file) = files.known.get_mut(&node) {
            file.note_access(&(offset..offset.saturating_add(len)), number);
        }
    }

    /// A read is worked on for as long as the guard lives.
    pub(super) fn reading(self: &Arc<Self>) -> Reading {
        self.reading.fetch_add(1, Ordering::Acquire);
        Reading(Arc::clone(self))
    }

    /// A write past the cache was carried out. Answers it if nothing of its range can be in the cache; otherwise it is to be
    /// handed to [`DirectWrites::drop_pages`].
    pub(super) fn written(
        &self,
        node: Node,
        written: Range<u64>,
        answer: impl FnOnce() + Send + 'static,
    ) -> Option<Held> {
        self.moves.fetch_add(1, Ordering::Relaxed);
        let is_dirty = {
            let mut files = self.files.lock();
            self.any.store(true, Ordering::Release);
            files.of(node).dirty(&written).is_some()
        };
        if !is_dirty {
            answer();
            return None;
        }
        let answer: Answer = Arc::new(Mutex::new(Some(Box::new(answer))));
        self.held.lock().push((Arc::clone(&answer), Instant::now()));
        Some(Held { node, written, answer })
    }

    /// Lets `drop_pages` drop the pages of a range, and answers the write.
    pub(super) fn drop_pages(&self, held: Held, drop_pages: impl FnOnce(Node, &Range<u64>)) {
        let Held { node, written, answer } = held;
        // Others may have done so since.
        let dirty = {
            let mut files = self.files.lock();
            let dirty = files.of(node).dirty(&written);
            dirty.map(|range| (range, files.last))
        };
        if let Some((range, upto)) = dirty {
            drop_pages(node, &range);
            if let Some(file) = self.files.lock().known.peek_mut(&node) {
                file.note_dropped(&range, upto);
            }
        }
        give(&answer);
        self.held.lock().retain(|(held, _)| !Arc::ptr_eq(held, &answer));
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers the writes that wait if so many do that nothing can move, and nothing has since this was last asked; by rings, those that
    /// have waited for long enough.
    pub(super) fn unblock(&self, now: Instant) {
        if self.by_rings.load(Ordering::Relaxed) {
            let is_due = |since: &Instant| now.saturating_duration_since(*since) >= PATIENCE;
            let due: Vec<Answer> = {
                let held = self.held.lock();
                held.iter().filter(|(_, since)| is_due(since)).map(|(answer, _)| Arc::clone(answer)).collect()
            };
            return due.iter().for_each(give);
        }
        let moves = self.moves.load(Ordering::Relaxed);
        let has_moved = self.seen.swap(moves, Ordering::Relaxed) != moves;
        if has_moved || !self.has_many() || self.reading.load(Ordering::Acquire) > 0 {
            return;
        }
        let held = self.held.lock().clone();
        log::debug!("{} direct writes wait for pages that wait for them: answering them", held.len());
        held.iter().for_each(|(answer, _)| give(answer));
    }

    /// Whether so many writes wait that [`DirectWrites::unblock`] is to be asked soon.
    pub(super) fn has_many(&self) -> bool {
        let mut held = self.held.lock();
        held.retain(|(answer, _)| answer.lock().is_some());
        held.len() >= if self.by_rings.load(Ordering::Relaxed) { 1 } else { MANY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Writes a range; returns what was dropped for it.
    fn write(writes: &DirectWrites, range: Range<u64>) -> Option<Range<u64>> {
        let mut dropped = None;
        if let Some(held) = writes.written(7, range, || {}) {
            writes.drop_pages(held, |_, range| dropped = Some(range.clone()));
        }
        dropped
    }

    #[test]
    fn pages_are_dropped_once_and_again_after_they_came_back() {
        let writes = DirectWrites::default();
        // Nothing is known of a file at first.
        assert_eq!(write(&writes, 0..4096), Some(0..MIB));
        assert_eq!(write(&writes, 8192..12288), None);
        assert_eq!(write(&writes, MIB - 4096..MIB + 4096), Some(MIB..2 * MIB));
        writes.note_cached(7, MIB / 2, 4096);
        writes.note_cached(8, 0, 4 * MIB);
        assert_eq!(write(&writes, MIB..2 * MIB), None);
        assert_eq!(write(&writes, 0..4096), Some(0..MIB));
        assert_eq!(write(&writes, 0..4096), None);
    }

    #[test]
    fn what_is_known_of_small_parts_is_known_of_larger_ones() {
        let writes = DirectWrites::default();
        write(&writes, 0..64 * MIB);
        assert_eq!(write(&writes, 0..64 * MIB), None);
        writes.note_cached(7, 5 * MIB, 4096);
        // The file is larger than was thought: parts of 1 GiB.
        assert_eq!(
            write(&writes, 60_000 * MIB..60_000 * MIB + 4096),
            Some(60_000 / 1024 * 1024 * MIB..60_416 * MIB)
        );
        assert_eq!(write(&writes, 60_001 * MIB..60_002 * MIB), None);
        assert_eq!(write(&writes, 0..4096), Some(0..1024 * MIB));
        assert_eq!(write(&writes, 900 * MIB..901 * MIB), None);
    }

    #[test]
    fn a_read_that_comes_while_pages_are_dropped_is_not_taken_for_dropped() {
        let writes = DirectWrites::default();
        let held = writes.written(7, 0..4096, || {}).unwrap();
        writes.drop_pages(held, |_, _| writes.note_cached(7, 0, 4096));
        assert_eq!(write(&writes, 0..4096), Some(0..MIB));
    }

    /// Others can have pushed it out meanwhile, and it can have come back.
    #[test]
    fn what_was_dropped_of_a_file_before_it_was_known_anew_is_not_taken_for_what_came_since() {
        let writes = DirectWrites::default();
        let held = writes.written(7, 0..4096, || {}).unwrap();
        for _ in 0..10 {
            writes.note_cached(7, 0, 4096);
        }
        writes.drop_pages(held, |_, _| {
            for other in 0..FILES.get() as u64 {
                assert!(writes.written(1000 + other, 0..4096, || {}).is_some());
            }
            assert!(writes.written(7, 8192..12288, || {}).is_some());
            writes.note_cached(7, 0, 4096);
        });
        assert_eq!(write(&writes, 0..4096), Some(0..MIB));
    }

    #[test]
    fn a_write_is_answered_when_its_pages_are_gone_also_if_another_one_drops_them() {
        let writes = DirectWrites::default();
        let (answered, answers) = std::sync::mpsc::channel();
        let write = |i: u64| {
            let answered = answered.clone();
            writes.written(7, i * 4096..(i + 1) * 4096, move || answered.send(i).unwrap()).unwrap()
        };
        let (one, two) = (write(1), write(2));
        writes.drop_pages(one, |_, _| assert!(answers.try_recv().is_err()));
        assert_eq!(answers.try_recv(), Ok(1));
        assert!(answers.try_recv().is_err());
        writes.drop_pages(two, |_, _| panic!("they are gone already"));
        assert_eq!(answers.try_recv(), Ok(2));
    }

    /// What moves can have nothing to do with what it waits for.
    #[test]
    fn on_rings_a_single_write_is_answered_in_time_whatever_moves_beside_it() {
        let writes = Arc::new(DirectWrites::default());
        let now = Instant::now();
        let later = now + 10 * PATIENCE;
        let (answered, answers) = std::sync::mpsc::channel();
        let write = |answered: std::sync::mpsc::Sender<()>| {
            writes.written(7, 0..4096, move || answered.send(()).unwrap()).unwrap()
        };
        let held = write(answered.clone());
        (0..3).for_each(|_| writes.unblock(later));
        assert!(answers.try_recv().is_err());
        writes.come_by_rings();
        assert!(writes.has_many());
        let reading = writes.reading();
        writes.note_cached(9, 0, 1);
        writes.unblock(now);
        assert!(answers.try_recv().is_err());
        writes.note_cached(9, 0, 1);
        writes.unblock(later);
        assert_eq!(answers.try_recv(), Ok(()));
        assert!(!writes.has_many());
        drop(reading);
        writes.drop_pages(held, |_, _| {});
        writes.note_cached(7, 0, 4096);
        let held = write(answered);
        held.answer_now();
        assert_eq!(answers.try_recv(), Ok(()));
        let mut dropped = false;
        writes.drop_pages(held, |_, _| dropped = true);
        assert!(dropped, "it is not the same whether the pages are right");
    }

    #[test]
    fn writes_that_take_all_turns_of_the_kernel_are_answered() {
        let writes = Arc::new(DirectWrites::default());
        let answered = Arc::new(AtomicUsize::new(0));
        let write = |_| {
            let answered = Arc::clone(&answered);
            let count = move || {
                answered.fetch_add(1, Ordering::Relaxed);
            };
            writes.written(7, 0..4096, count).unwrap()
        };
        let mut held: Vec<Held> = (1..MANY).map(write).collect();
        writes.unblock(Instant::now());
        writes.unblock(Instant::now());
        assert_eq!(answered.load(Ordering::Relaxed), 0, "there are turns left");
        held.push(write(MANY));
        let reading = writes.reading();
        for _ in 0..2 {
            writes.unblock(Instant::now());
            writes.unblock(Instant::now());
            assert_eq!(answered.load(Ordering::Relaxed), 0, "something moves");
            writes.note_cached(9, 0, 1);
        }
        drop(reading);
        writes.unblock(Instant::now());
        writes.unblock(Instant::now());
        assert_eq!(answered.load(Ordering::Relaxed), MANY);
        for held in held {
            writes.drop_pages(held, |_, _| {});
        }
        assert_eq!(answered.load(Ordering::Relaxed), MANY, "once each");
    }
}
