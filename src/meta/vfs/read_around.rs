//! Reading the database from a disk in larger pieces than pages.
//!
//! Rows that are wanted together lie near each other, and 64 KiB take a disk little longer than 4. The host reads ahead only
//! for those who read one page after the other, and a table's pages are in that order only roughly.

use super::MetaFiles;
use crate::backing::{File, read_padded};
use parking_lot::Mutex;
use std::io::{self, IoSliceMut};
use std::ops::Range;

/// The least that is read where a page is not in memory: the aligned piece that it is in.
const LEAST_BYTES: u64 = 64 << 10;
/// The most. Each piece that lies behind the one before it is twice as long.
const MOST_BYTES: u64 = 512 << 10;

/// What is read in any case when a store is opened: all there is to know of some thirty thousand files.
const FIRST_BYTES: u64 = 4 << 20;

impl MetaFiles {
    /// Lets the host read the beginning of the database, which takes some milliseconds.
    pub fn prefetch(&self) {
        if let Some(database) = self.database() {
            database.file().prefetch(0, FIRST_BYTES);
        }
    }
}

/// What was read last. Threads that read at the same time change the length of each other's pieces, and nothing else.
#[derive(Debug, Default)]
pub(super) struct ReadAround {
    last: Mutex<Range<u64>>,
}

impl ReadAround {
    /// Reads a page and what lies around it, and says how many bytes of the page there were; the rest of it is zero.
    ///
    /// # Errors
    /// As the backing file.
    pub(super) fn read(&self, file: &dyn File, page: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(got) = file.read_at_nowait(&mut [IoSliceMut::new(page)], offset)? {
            return Ok(got);
        }
        let piece = self.next(offset);
        file.prefetch(piece.start, piece.end - piece.start);
        read_padded(file, page, offset)
    }

    /// The piece to read for a page that is not in memory.
    fn next(&self, offset: u64) -> Range<u64> {
        let start = offset / LEAST_BYTES * LEAST_BYTES;
        let mut last = self.last.lock();
        let len = match last.end == start {
            true => (2 * (last.end - last.start)).clamp(LEAST_BYTES, MOST_BYTES),
            false => LEAST_BYTES,
        };
        *last = start..start.saturating_add(len);
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_while_they_follow_each_other() {
        let around = ReadAround::default();
        let next = |page: u64| around.next(page * 4096);
        assert_eq!(next(1000), 4_063_232..4_128_768);
        let mut end = 4_128_768;
        for len in [128, 256, 512, 512u64] {
            assert_eq!(next(end / 4096 + 3), end..end + (len << 10));
            end += len << 10;
        }
        assert_eq!(next(0), 0..LEAST_BYTES);
        assert_eq!(next(2000).end - next(2000).start, LEAST_BYTES);
    }
}
