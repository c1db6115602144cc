//! The WAL as it lies on disk in an encrypted store.
//!
//! SQLite sees its own format: a header and frames (<https://www.sqlite.org/fileformat2.html#walformat>). On disk each of
//! them is a *slot*: its bytes, encrypted, and their envelope. So neither pages nor their numbers can be read. The slot's
//! number is bound to it; that a frame does not belong to the WAL that a header began, SQLite sees by the salt in both.

use super::page::PAGE_BYTES;
use super::wal::WAL_HEADER_BYTES;
use crate::backing::{File, read_padded};
use crate::crypto::{ENVELOPE_BYTES, Keys, SessionKey};
use std::io;

const HEADER: u64 = WAL_HEADER_BYTES;
/// A frame: 24 bytes of header and a page.
const FRAME: u64 = 24 + PAGE_BYTES as u64;
const ENVELOPE: u64 = ENVELOPE_BYTES as u64;

/// A header or a frame: where SQLite sees it, how long it is, and where it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    number: u64,
    start: u64,
    len: u64,
    disk: u64,
}

impl Slot {
    fn new(number: u64) -> Self {
        match number.checked_sub(1) {
            None => Self { number, start: 0, len: HEADER, disk: 0 },
            Some(frame) => Self {
                number,
                start: HEADER + frame * FRAME,
                len: FRAME,
                disk: HEADER + ENVELOPE + frame * (FRAME + ENVELOPE),
            },
        }
    }

    /// The slot of the byte that SQLite sees at `offset`.
    fn at(offset: u64) -> Self {
        Self::new(offset.checked_sub(HEADER).map_or(0, |behind| behind / FRAME + 1))
    }

    fn aad(self) -> [u8; 20] {
        let mut aad = *b"larder frame........";
        aad[12..].copy_from_slice(&self.number.to_le_bytes());
        aad
    }
}

/// The length for SQLite of a file of `disk` bytes: that of its whole slots.
pub(super) fn len_for_sqlite(disk: u64) -> u64 {
    match disk.checked_sub(HEADER + ENVELOPE) {
        None => 0,
        Some(behind) => HEADER + behind / (FRAME + ENVELOPE) * FRAME,
    }
}

/// The length on disk of what SQLite sees as `len` bytes.
pub(super) fn len_on_disk(len: u64) -> u64 {
    if len == 0 { 0 } else { Slot::at(len).disk }
}

/// Bytes of the WAL from `offset` on as they lie on disk, and where. They must be whole slots.
///
/// # Errors
/// When they are not, or the cipher refuses.
pub(super) fn sealed(keys: &Keys, bytes: &[u8], offset: u64) -> io::Result<(Vec<u8>, u64)> {
    let first = Slot::at(offset);
    let mut slot = first;
    let mut rest = bytes;
    let mut out = Vec::with_capacity(bytes.len() + (bytes.len() / PAGE_BYTES + 2) * ENVELOPE_BYTES);
    while !rest.is_empty() {
        if slot.start < offset || rest.len() < slot.len as usize {
            return Err(io::Error::other("a part of a frame cannot be written to an encrypted WAL"));
        }
        let (plain, after) = rest.split_at(slot.len as usize);
        let at = out.len();
        out.extend_from_slice(plain);
        let envelope = keys.seal_metadata(&slot.aad(), &mut out[at..])?;
        out.extend_from_slice(&envelope.ok_or_else(|| io::Error::other("no keys"))?);
        rest = after;
        slot = Slot::new(slot.number + 1);
    }
    Ok((out, first.disk))
}

/// Fills `buf` with what SQLite sees at `offset`, zeros behind the end, and says how many bytes there were; `None` if
/// something was not what was written there.
///
/// Frames that do not open are zeros when a whole one is asked for: so SQLite reads when it looks for the end of the WAL
/// after a crash, where half-written frames are to be expected. A page in the middle of one is asked for later, and must be
/// there.
///
/// # Errors
/// As the backing file.
pub(super) fn read(keys: &Keys, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let end = len_for_sqlite(file.len()?);
    let got = end.saturating_sub(offset).min(buf.len() as u64) as usize;
    buf[got..].fill(0);
    let mut stored = [0; (FRAME + ENVELOPE) as usize];
    let mut at = offset;
    let mut rest = &mut buf[..got];
    while !rest.is_empty() {
        let slot = Slot::at(at);
        let stored = &mut stored[..(slot.len + ENVELOPE) as usize];
        read_padded(file, stored, slot.disk)?;
        let (plain, envelope) = stored.split_at_mut(slot.len as usize);
        let from = (at - slot.start) as usize;
        let count = rest.len().min(plain.len() - from);
        let whole = count == plain.len();
        if !keys.open_metadata(&slot.aad(), plain, envelope) && !whole {
            return Ok(None);
        }
        let (to, after) = rest.split_at_mut(count);
        to.copy_from_slice(&plain[from..from + count]);
        rest = after;
        at += count as u64;
    }
    Ok(Some(got))
}

/// The newest key epoch that any slot of a WAL names, whether it opens or not; 0 if there is none.
///
/// # Errors
/// As the backing file.
pub(super) fn newest_epoch(file: &dyn File) -> io::Result<u32> {
    let len = file.len()?;
    let mut newest = 0;
    for slot in (0..).map(Slot::new).take_while(|slot| slot.disk + slot.len + ENVELOPE <= len) {
        let mut envelope = [0; ENVELOPE_BYTES];
        read_padded(file, &mut envelope, slot.disk + slot.len)?;
        newest = newest.max(SessionKey::epoch_of(&envelope).unwrap_or(0));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::keys;
    use super::*;
    use crate::backing::{Dir, OpenMode, OsDir};
    use std::io::IoSlice;

    #[test]
    fn lengths_there_and_back() {
        for frames in [0, 1, 2, 1000] {
            let len = HEADER + frames * FRAME;
            assert_eq!(len_for_sqlite(len_on_disk(len)), len);
            assert_eq!(len_for_sqlite(len_on_disk(len) + 4000), len);
            assert_eq!(Slot::at(len).start, len);
        }
        assert_eq!((len_on_disk(0), len_for_sqlite(79)), (0, 0));
    }

    #[test]
    fn sqlite_sees_what_it_wrote_and_the_disk_does_not() {
        let keys = keys();
        let tmp = tempfile::tempdir().unwrap();
        let file = OsDir::new(tmp.path()).open("wal", OpenMode::Create).unwrap();
        let wal: Vec<u8> = (0..HEADER + 3 * FRAME).map(|i| (i / 7) as u8).collect();
        let (header, frames) = wal.split_at(HEADER as usize);
        for (part, offset) in [(header, 0), (frames, HEADER)] {
            let (bytes, at) = sealed(&keys, part, offset).unwrap();
            file.write_at(&[IoSlice::new(&bytes)], at).unwrap();
        }
        let see = |offset: u64, len: usize| {
            let mut buf = vec![1; len];
            read(&keys, &*file, &mut buf, offset).unwrap().map(|got| (got, buf))
        };
        for (offset, len) in [(0, 32), (32, 24), (56, 4096), (32 + 4120, 4120), (10, 9000)] {
            let expected = &wal[offset as usize..offset as usize + len];
            assert!(see(offset, len).unwrap() == (len, expected.to_vec()), "{offset} {len}");
        }
        assert_eq!(see(HEADER + 3 * FRAME - 10, 20).unwrap().0, 10);
        assert_eq!(newest_epoch(&*file).unwrap(), 1);
        assert!(sealed(&keys, &frames[..100], HEADER).is_err() && sealed(&keys, frames, 33).is_err());
        // A frame in another's place, and one that is damaged.
        let mut stored = vec![0; (FRAME + ENVELOPE) as usize];
        read_padded(&*file, &mut stored, Slot::new(1).disk).unwrap();
        assert!(!stored.windows(40).any(|part| wal.windows(40).any(|plain| plain == part)));
        file.write_at(&[IoSlice::new(&stored)], Slot::new(2).disk).unwrap();
        file.write_at(&[IoSlice::new(&[0; 100])], Slot::new(3).disk + 50).unwrap();
        for number in [2, 3] {
            let start = Slot::new(number).start;
            assert_eq!(see(start + 24, 4096), None);
            assert!(see(start, FRAME as usize).unwrap().1.iter().all(|b| *b == 0));
        }
    }
}
