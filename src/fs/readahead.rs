//! Reading ahead for sequential readers.

use super::content::BLOCK;
use crate::meta::Ino;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use std::num::NonZeroUsize;

/// Streams that are watched.
const STREAMS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// How far ahead of a reader the host is asked to read.
const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes a reader must have read in sequence before anything is read ahead.
const WARM_UP_BYTES: u64 = 256 << 10;

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where the next read of a sequential reader begins.
    next: u64,
    /// Bytes read in sequence so far.
    streak: u64,
    /// What was read ahead ends here.
    ahead: u64,
}

/// Notices sequential readers. The host's own read-ahead sees only segments, in the order in which several threads
/// happen to read them; this sees files.
#[derive(Debug)]
pub(super) struct Readahead {
    streams: Mutex<LruCache<Ino, Stream, FxBuildHasher>>,
}

impl Default for Readahead {
    fn default() -> Self {
        Self { streams: Mutex::new(LruCache::with_hasher(STREAMS, FxBuildHasher)) }
    }
}

impl Readahead {
    /// Takes note of a read, and says which blocks of the file (first, count) to read ahead.
    pub(super) fn note(&self, ino: Ino, offset: u64, len: usize, size: u64) -> Option<(u64, u64)> {
        let end = offset + len as u64;
        let mut streams = self.streams.lock();
        let Some(stream) = streams.get_mut(&ino) else {
            streams.put(ino, Stream { next: end, streak: len as u64, ahead: end });
            return None;
        };
        // The kernel's requests of one stream arrive on several threads, a little out of order.
        let slack = 2 * WARM_UP_BYTES;
        if offset + slack < stream.next || offset > stream.next + slack {
            *stream = Stream { next: end, streak: len as u64, ahead: end };
            return None;
        }
        stream.next = stream.next.max(end);
        stream.streak += len as u64;
        if stream.streak < WARM_UP_BYTES {
            return None;
        }
        // A window is asked for when half of the last one is used up, so that requests stay large.
        let from = stream.ahead.max(stream.next);
        let to = (stream.next + WINDOW_BYTES).min(size);
        if from >= to || (to < size && to - from < WINDOW_BYTES / 2) {
            return None;
        }
        stream.ahead = to;
        let first = from.div_ceil(BLOCK);
        let count = to.div_ceil(BLOCK).saturating_sub(first);
        (count > 0).then_some((first, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_readers_are_read_ahead_for_and_others_are_not() {
        let (ahead, size, step) = (Readahead::default(), 64u64 << 20, 128usize << 10);
        let mut asked = 0;
        let mut covered = 0;
        for i in 0..size / step as u64 {
            if let Some((first, count)) = ahead.note(1, i * step as u64, step, size) {
                assert!(first * BLOCK >= covered, "nothing is asked for twice");
                covered = (first + count) * BLOCK;
                asked += count * BLOCK;
            }
        }
        assert_eq!(covered, size);
        assert!(asked > size - WINDOW_BYTES);
        for i in [40, 3, 77, 21, 60, 9u64] {
            assert_eq!(ahead.note(2, i << 20, 4096, size * 2), None);
        }
    }
}
