//! What is about to be appended, as it is noted before each record: `remote.attempt`, in the store's directory, beside `remote.json`.
//!
//! The file has two slots, which are written in turns: a note is one write to room that the file has, and one sync. Each has a number that counts
//! up, and a checksum: a slot that was not written as a whole when the power went is found out, and the other one counts. What a slot says is
//! of the owner that it names; of others, `remote.json` knows more.

use super::counted::Requests;
use super::format::OwnerId;
use super::log::Position;
use crate::backing::{OpenMode, open_file};
use crate::crypto::hash;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Its name.
pub(super) const ATTEMPT_NAME: &str = "remote.attempt";

const MAGIC: [u8; 8] = *b"larder-a";
/// No disk writes less at a time: what one slot has does not go with the other.
const SLOT_BYTES: usize = 4096;
const SLOTS: u64 = 2;
/// What a slot says.
const SAID_BYTES: usize = 128;
/// And with the first half of its SHA-256.
const NOTE_BYTES: usize = SAID_BYTES + 16;

/// What was noted before an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Who is about to append.
    pub(super) owner: OwnerId,
    /// The newest record, and what is appended right behind it.
    pub(super) newest: Position,
    pub(super) attempt: Position,
    /// What was asked of the remote up to then.
    pub(super) requests: Requests,
}

impl Note {
    fn encode(&self, sequence: u64) -> [u8; NOTE_BYTES] {
        let Requests { writes, reads, lists, removals, sent, received } = self.requests;
        let mut out = [0; NOTE_BYTES];
        let words = [writes, reads, lists, removals, sent, received].map(u64::to_le_bytes);
        let parts: [&[u8]; 7] = [
            &MAGIC,
            &sequence.to_le_bytes(),
            &self.owner.0.to_be_bytes(),
            &self.newest.number.to_le_bytes(),
            &self.newest.seal,
            &self.attempt.number.to_le_bytes(),
            &self.attempt.seal,
        ];
        let mut rest = &mut out[..];
        for part in parts.into_iter().chain(words.iter().map(|word| &word[..])) {
            let (to, more) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = more;
        }
        let (said, sum) = out.split_at_mut(SAID_BYTES);
        sum.copy_from_slice(&hash(said)[..16]);
        out
    }

    /// What a slot says, and its number; `None` where it was never written, or not as a whole.
    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let (said, sum) = slot.get(..NOTE_BYTES)?.split_at(SAID_BYTES);
        if said[..8] != MAGIC || hash(said)[..16] != *sum {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*said[at..].first_chunk()?));
        let long = |at: usize| said[at..].first_chunk::<16>().copied();
        let requests = Requests {
            writes: word(80)?,
            reads: word(88)?,
            lists: word(96)?,
            removals: word(104)?,
            sent: word(112)?,
            received: word(120)?,
        };
        let note = Self {
            owner: OwnerId(u128::from_be_bytes(long(16)?)),
            newest: Position { number: word(32)?, seal: long(40)? },
            attempt: Position { number: word(56)?, seal: long(64)? },
            requests,
        };
        Some((word(8)?, note))
    }
}

/// The newest note in the bytes of the file, and its number.
fn newest_of(bytes: &[u8]) -> Option<(u64, Note)> {
    bytes.chunks(SLOT_BYTES).filter_map(Note::decode).max_by_key(|(sequence, _)| *sequence)
}

/// The newest note in a file that was just opened, and its number.
fn newest_in(file: &File) -> io::Result<Option<(u64, Note)>> {
    let mut bytes = Vec::new();
    file.take(SLOTS * SLOT_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(newest_of(&bytes))
}

/// What was noted last in the directory of a store; `None` if nothing was, or the store has no such file.
///
/// # Errors
/// As open(2) and read(2).
pub(super) fn read(store: &Path) -> io::Result<Option<Note>> {
    let file = match open_file(&store.join(ATTEMPT_NAME), OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    Ok(newest_in(&file)?.map(|(_, note)| note))
}

/// Removes the file of a store that has no remote any more.
///
/// # Errors
/// As unlink(2) and fsync(2).
pub fn forget(store: &Path) -> io::Result<()> {
    crate::durable::remove(&store.join(ATTEMPT_NAME))
}

/// The file, to note something in.
#[derive(Debug)]
pub(super) struct Slots {
    file: File,
    /// The number of the next note.
    next: u64,
}

impl Slots {
    /// That of the store in a directory, which is made where there is none. The header of the store names
    /// [`RemoteAttempts`](crate::store::Feature::RemoteAttempts) already.
    ///
    /// # Errors
    /// As the host.
    pub(super) fn open(store: &Path) -> io::Result<Self> {
        let file = open_file(&store.join(ATTEMPT_NAME), OpenMode::Create)?;
        let len = SLOTS * SLOT_BYTES as u64;
        if file.metadata()?.len() < len {
            // All of it has room on the disk from now on.
            file.write_all_at(&vec![0; len as usize], 0)?;
            file.sync_all()?;
            File::open(store)?.sync_all()?;
        }
        let next = newest_in(&file)?.map_or(1, |(sequence, _)| sequence.saturating_add(1));
        Ok(Self { file, next })
    }

    /// Notes something, durably. If that fails, what was noted before still is.
    ///
    /// # Errors
    /// As the host.
    pub(super) fn put(&mut self, note: &Note) -> io::Result<()> {
        let at = self.next % SLOTS * SLOT_BYTES as u64;
        self.file.write_all_at(&note.encode(self.next), at)?;
        self.file.sync_data()?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(number: u64) -> Note {
        let position = |number: u64| Position { number, seal: [number as u8; 16] };
        let requests = Requests { writes: number, received: u64::MAX, ..Requests::default() };
        Note { owner: OwnerId(7), newest: position(number), attempt: position(number + 1), requests }
    }

    #[test]
    fn what_is_noted_last_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(read(tmp.path()).unwrap(), None);
        for number in 1..6 {
            // Another process each time.
            Slots::open(tmp.path()).unwrap().put(&note(number)).unwrap();
            assert_eq!(read(tmp.path()).unwrap(), Some(note(number)));
        }
        let path = tmp.path().join(ATTEMPT_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
        // Whatever is there, it is read or it is nothing.
        for bytes in [&b""[..], b"larder-a", &[0xff; 8192], &[0; 9000]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(tmp.path()).unwrap(), None);
        }
        Slots::open(tmp.path()).unwrap().put(&note(9)).unwrap();
        assert_eq!(read(tmp.path()).unwrap(), Some(note(9)));
    }

    /// Wherever the power goes, what was noted before is there, or what was being noted: of each write, the beginning may have got to the disk, or
    /// the end, or any part of it.
    #[test]
    fn a_note_that_was_torn_leaves_the_one_before_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(ATTEMPT_NAME);
        let mut slots = Slots::open(tmp.path()).unwrap();
        let mut before = std::fs::read(&path).unwrap();
        for number in 1..6 {
            slots.put(&note(number)).unwrap();
            let after = std::fs::read(&path).unwrap();
            let expected = |found: Option<(u64, Note)>, is_whole: bool| {
                let last = (number > 1).then(|| note(number - 1));
                let found = found.map(|(_, note)| note);
                assert!(found == Some(note(number)) || found == last && !is_whole, "{number}: {found:?}");
            };
            for cut in 0..=after.len() {
                let (mut first, mut second) = (before.clone(), after.clone());
                first[..cut].copy_from_slice(&after[..cut]);
                second[..cut].copy_from_slice(&before[..cut]);
                expected(newest_of(&first), first == after);
                expected(newest_of(&second), second == after);
            }
            // A disk that has damaged any byte of it.
            for at in (0..after.len()).filter(|at| after[*at] != 0) {
                let mut damaged = after.clone();
                damaged[at] ^= 0x10;
                expected(newest_of(&damaged), false);
            }
            before = after;
        }
    }
}
