//! The part of the WAL that waits to be released.

use std::io;

/// Length of SQLite's WAL header.
pub(super) const WAL_HEADER_BYTES: u64 = 32;

/// Bytes that SQLite appended to the WAL and that are not in the file yet: the range `base..end`.
///
/// SQLite appends frames one after the other, rewrites only frames of the transaction under way (which are held),
/// and starts again at offset 0 only when everything was checkpointed (and so released). Hence the held bytes are
/// always one range.
#[derive(Debug, Default)]
pub(super) struct HeldWal {
    base: u64,
    bytes: Vec<u8>,
    /// Length of the file below.
    file_len: u64,
    /// Where the last commit ends. What comes behind it belongs to the open transaction.
    committed: u64,
}

impl HeldWal {
    pub(super) fn new(file_len: u64) -> Self {
        Self { base: 0, bytes: Vec::new(), file_len, committed: 0 }
    }

    /// Where the WAL ends for SQLite.
    pub(super) fn end(&self) -> u64 {
        if self.bytes.is_empty() { self.base } else { self.base + self.bytes.len() as u64 }
    }

    /// The length of the file for SQLite.
    pub(super) fn len(&self) -> u64 {
        self.file_len.max(if self.bytes.is_empty() { 0 } else { self.end() })
    }

    pub(super) fn held(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Notes that a commit ends here; where that is.
    pub(super) fn commit(&mut self) -> u64 {
        self.committed = self.end();
        self.committed
    }

    /// Bytes that the open transaction has appended.
    pub(super) fn uncommitted(&self) -> u64 {
        if self.bytes.is_empty() { 0 } else { self.end().saturating_sub(self.committed) }
    }

    /// Takes a write of SQLite's.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.base = offset;
            // It may have started over.
            self.committed = self.committed.min(offset);
        }
        let Some(at) =
            offset.checked_sub(self.base).map(|at| at as usize).filter(|at| *at <= self.bytes.len())
        else {
            return Err(io::Error::other("a write to the WAL that is neither an append nor in what is held"));
        };
        let overlap = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + overlap].copy_from_slice(&data[..overlap]);
        self.bytes.extend_from_slice(&data[overlap..]);
        Ok(())
    }

    /// Fills `buf` with what is held at `offset`, if all of it is.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let held =
            offset.checked_sub(self.base).and_then(|from| self.bytes.get(from as usize..)?.get(..buf.len()));
        held.is_some_and(|held| {
            buf.copy_from_slice(held);
            true
        })
    }

    /// Lays what is held over `buf`, which was read from the file at `offset` and holds `got` bytes of it; returns
    /// how many bytes are good now.
    pub(super) fn overlay(&self, buf: &mut [u8], offset: u64, got: usize) -> usize {
        let (start, end) = (offset.max(self.base), (offset + buf.len() as u64).min(self.end()));
        if self.bytes.is_empty() || start >= end {
            return got;
        }
        let (to, from) = ((start - offset) as usize, (start - self.base) as usize);
        let count = (end - start) as usize;
        buf[to..to + count].copy_from_slice(&self.bytes[from..from + count]);
        // Between the end of the file and the held range there is nothing, by the invariant above.
        got.max(to + count)
    }

    /// Drops everything that is held.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn truncate(&mut self, len: u64) {
        if len <= self.base {
            self.bytes.clear();
            self.base = len;
        } else {
            self.bytes.truncate((len - self.base) as usize);
        }
        self.committed = self.committed.min(len);
        self.file_len = self.file_len.min(len);
    }

    /// A copy of what is held before `mark`, and where it belongs.
    pub(super) fn copy_until(&self, mark: u64) -> (u64, Vec<u8>) {
        let count = mark.saturating_sub(self.base).min(self.bytes.len() as u64) as usize;
        (self.base, self.bytes[..count].to_vec())
    }

    /// Drops the first `count` held bytes: they are in the file.
    pub(super) fn released(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.base += count as u64;
        self.file_len = self.file_len.max(self.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_are_read_back_and_released_in_order() {
        let mut wal = HeldWal::new(0);
        wal.write(&[1; 32], 0).unwrap();
        wal.write(&[2; 100], 32).unwrap();
        wal.write(&[3; 10], 40).unwrap();
        assert!(wal.write(&[0; 1], 200).is_err());
        let mut buf = [0; 64];
        assert_eq!(wal.overlay(&mut buf, 30, 0), 64);
        assert_eq!((buf[1], buf[2], buf[10], buf[19], buf[20]), (1, 2, 3, 3, 2));
        let (at, bytes) = wal.copy_until(100);
        assert_eq!((at, bytes.len()), (0, 100));
        wal.released(100);
        assert_eq!((wal.end(), wal.held(), wal.len()), (132, 32, 132));
        // What is in the file now is no longer laid over a read.
        let mut buf = [9; 10];
        assert_eq!(wal.overlay(&mut buf, 50, 10), 10);
        assert_eq!(buf, [9; 10]);
        wal.released(32);
        wal.write(&[5; 32], 0).unwrap();
        assert_eq!((wal.end(), wal.len()), (32, 132));
    }

    #[test]
    fn what_the_open_transaction_has_appended_is_known_also_when_the_wal_has_started_over() {
        let mut wal = HeldWal::new(0);
        wal.write(&[1; 100], 0).unwrap();
        assert_eq!((wal.uncommitted(), wal.commit()), (100, 100));
        wal.write(&[2; 40], 100).unwrap();
        assert_eq!(wal.uncommitted(), 40);
        // A part of the commit is written to the file, and all of it.
        for count in [60, 40] {
            wal.released(count);
            assert_eq!(wal.uncommitted(), 40);
        }
        assert_eq!(wal.commit(), 140);
        wal.released(40);
        assert_eq!(wal.uncommitted(), 0);
        wal.write(&[3; 32], 0).unwrap();
        assert_eq!(wal.uncommitted(), 32);
        wal.forget();
        assert_eq!(wal.uncommitted(), 0);
    }

    #[test]
    fn what_is_held_as_a_whole_is_read_without_the_file() {
        let mut wal = HeldWal::new(0);
        let mut buf = [0; 10];
        assert!(!wal.read(&mut buf, 0));
        wal.write(&[7; 30], 100).unwrap();
        assert!(wal.read(&mut buf, 100) && buf == [7; 10]);
        assert!(wal.read(&mut buf, 120));
        for offset in [0, 95, 121, 130, 200, u64::MAX] {
            assert!(!wal.read(&mut buf, offset), "{offset}");
        }
    }

    #[test]
    fn a_write_may_reach_past_what_it_overwrites() {
        let mut wal = HeldWal::new(0);
        wal.write(&[1; 10], 100).unwrap();
        wal.write(&[2; 10], 105).unwrap();
        assert_eq!(wal.copy_until(200), (100, [vec![1; 5], vec![2; 10]].concat()));
        wal.truncate(103);
        assert_eq!(wal.end(), 103);
        wal.truncate(50);
        assert_eq!((wal.end(), wal.held()), (50, 0));
    }
}
