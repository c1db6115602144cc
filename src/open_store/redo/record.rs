//! Records of the redo log, as bytes.
//!
//! ```text
//! 0  seal: XXH3-128 of everything behind it, seeded with the lower half of the store's id, little-endian
//! 16 epoch u64      24 number of the record in its epoch u32      28 length of the body u32      32 body
//! ```
//!
//! In an encrypted store, bytes 0 to 15 are the tag instead, the body is encrypted, and before it lie
//! ```text
//! 32 session (12 bytes)      44 key epoch u32      48 body
//! ```
//! bytes 16 to 47 are bound to it. The nonce is the epoch and the number of the record, under the key of the process's
//! session (`crate::crypto::SessionKey`): so a number is given out once ([`Numbers`]), whatever becomes of its record. The
//! body begins with its real length (u32) and ends with zeros, so that records
//! have few sizes and say little about names.
//!
//! The first byte of a body is its kind:
//! - 1, a mutation: volume and mutation in the postcard wire format (<https://postcard.jamesmunns.com/wire-format>);
//! - 2, blocks as they lie in a segment: segment u64, first index u32, count u32, the seals, the contents;
//! - 3, the end of the epoch, and the last requests of the kernel that changed something before it ([`Executed`]), in the same format;
//! - 4, a mutation that was made for a request of the kernel: the request ([`Origin`]), then as 1.

use super::super::requests::{Executed, Origin};
use crate::crypto::{Keys, NONCE_BYTES, Nonce, TAG_BYTES};
use crate::meta::{Mutation, VolumeId};
use crate::store::{BLOCK_BYTES, BlockAddr, Run, SEAL_BYTES, SEGMENT_BLOCKS, StoreId};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes before the body of a record.
const HEADER_BYTES: usize = 32;
/// In an encrypted store.
pub(super) const CIPHER_HEADER_BYTES: usize = 48;
/// What the size of a record is a multiple of in an encrypted store.
const RECORD_STEP: usize = 256;
/// Bytes that say how long the body really is.
const LENGTH_BYTES: usize = 4;
/// Longest body. A longer mutation is not recorded; a commit follows it at once.
pub(super) const BODY_MAX: usize = 4 << 20;
/// Most blocks in one record.
pub(super) const BLOCKS_MAX: u32 = 64;

const SEALED_FROM: usize = SEAL_BYTES;
const KIND_MUTATION: u8 = 1;
const KIND_BLOCKS: u8 = 2;
const KIND_END: u8 = 3;
const KIND_REQUESTED: u8 = 4;
/// Bytes of the body of a record of blocks before its seals.
pub(super) const BLOCKS_FIXED: usize = 17;

/// Which record of which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The store.
    pub(super) store: StoreId,
    /// The transaction it belongs to.
    pub(super) epoch: u64,
    /// Its number in the epoch, from 0 on.
    pub(super) number: u32,
}

/// Gives out the places of new records.
#[derive(Debug)]
pub(super) struct Numbers {
    next: Position,
}

/// The place of one new record, which sealing it takes. Whoever has it writes a record there, or nobody ever does.
#[derive(Debug)]
pub(super) struct Vacant(Position);

impl Numbers {
    /// Those of `epoch`, which no other process of the store has used or will use.
    pub(super) fn new(store: StoreId, epoch: u64) -> Self {
        Self { next: Position { store, epoch, number: 0 } }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.next.epoch
    }

    /// Goes on with a later epoch; false, and nothing changes, if it is none.
    #[must_use]
    pub(super) fn next_epoch(&mut self, epoch: u64) -> bool {
        let later = epoch > self.next.epoch;
        if later {
            self.next = Position { epoch, number: 0, ..self.next };
        }
        later
    }

    /// The next place; `None` when the epoch has had all there are.
    pub(super) fn take(&mut self) -> Option<Vacant> {
        let following = self.next.number.checked_add(1)?;
        let taken = self.next;
        self.next.number = following;
        Some(Vacant(taken))
    }
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A volume was changed, for a request of the kernel or not.
    Mutation(VolumeId, Box<Mutation>, Option<Origin>),
    /// Blocks that a mutation of the epoch names, in case that their segment does not have them.
    Blocks {
        /// Where they belong.
        run: Run,
        /// 16 bytes for each.
        seals: &'a [u8],
        /// 4096 bytes for each.
        contents: &'a [u8],
    },
    /// The epoch holds no more; the last requests that changed something until then.
    End(Vec<Executed>),
}

/// Bytes before the body of a record.
pub(super) fn header_bytes(keys: &Keys) -> usize {
    if keys.is_encrypted() { CIPHER_HEADER_BYTES } else { HEADER_BYTES }
}

/// Begins a record in `buf`, which is cleared.
fn begin(buf: &mut Vec<u8>, keys: &Keys, kind: u8) {
    buf.clear();
    buf.resize(header_bytes(keys), 0);
    if keys.is_encrypted() {
        buf.extend_from_slice(&[0; LENGTH_BYTES]);
    }
    buf.push(kind);
}

/// Writes a mutation's record into `buf`, to be sealed; false if it is too long for one.
pub(super) fn draft_mutation(
    buf: &mut Vec<u8>,
    keys: &Keys,
    (volume, mutation): (VolumeId, &Mutation),
    origin: Option<Origin>,
) -> bool {
    begin(buf, keys, if origin.is_some() { KIND_REQUESTED } else { KIND_MUTATION });
    let empty = std::mem::take(buf);
    let full = match origin {
        Some(origin) => postcard::to_extend(&(origin, volume, mutation), empty),
        None => postcard::to_extend(&(volume, mutation), empty),
    };
    // Into memory and without maps of unknown length: only a mutation without a wire format could fail here.
    let Ok(full) = full else { return false };
    *buf = full;
    end(buf, keys)
}

/// Writes the record of `run`'s blocks into `buf`, to be sealed. `fill` gets the places for seals and contents.
pub(super) fn draft_blocks<E>(
    buf: &mut Vec<u8>,
    keys: &Keys,
    run: Run,
    fill: impl FnOnce(&mut [u8], &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    debug_assert!(run.count <= BLOCKS_MAX);
    begin(buf, keys, KIND_BLOCKS);
    buf.extend_from_slice(&run.start.segment.to_le_bytes());
    buf.extend_from_slice(&run.start.index.to_le_bytes());
    buf.extend_from_slice(&run.count.to_le_bytes());
    let blocks = run.count as usize;
    let seals_at = buf.len();
    buf.resize(seals_at + blocks * (SEAL_BYTES + BLOCK_BYTES), 0);
    let (seals, contents) = buf[seals_at..].split_at_mut(blocks * SEAL_BYTES);
    fill(seals, contents)?;
    end(buf, keys);
    Ok(())
}

/// Writes the record that ends an epoch into `buf`, to be sealed; false if it is too long for one.
pub(super) fn draft_end(buf: &mut Vec<u8>, keys: &Keys, executed: &[Executed]) -> bool {
    begin(buf, keys, KIND_END);
    let Ok(full) = postcard::to_extend(executed, std::mem::take(buf)) else { return false };
    *buf = full;
    end(buf, keys)
}

/// Ends a draft; false if it is too long for a record.
fn end(buf: &mut Vec<u8>, keys: &Keys) -> bool {
    let header = header_bytes(keys);
    if keys.is_encrypted() {
        let length = (buf.len() - header - LENGTH_BYTES) as u32;
        buf[header..header + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        buf.resize(buf.len().next_multiple_of(RECORD_STEP), 0);
    }
    buf.len() - header <= BODY_MAX
}

/// Makes a draft the record at a place. False: the cipher refused, and there will be none.
#[must_use]
pub(super) fn seal(buf: &mut [u8], keys: &Keys, Vacant(at): Vacant) -> bool {
    let body = buf.len() - header_bytes(keys);
    buf[16..24].copy_from_slice(&at.epoch.to_le_bytes());
    buf[24..28].copy_from_slice(&at.number.to_le_bytes());
    buf[28..32].copy_from_slice(&(body as u32).to_le_bytes());
    let seal = match keys.newest() {
        None => checksum(at.store, &buf[SEALED_FROM..]),
        Some(keys) => {
            let key = keys.redo();
            buf[32..44].copy_from_slice(&key.session());
            buf[44..48].copy_from_slice(&key.epoch().to_le_bytes());
            let (header, body) = buf.split_at_mut(CIPHER_HEADER_BYTES);
            match key.seal_as(Nonce::once(nonce(at)), &header[SEALED_FROM..], body) {
                Ok(tag) => tag,
                Err(_) => return false,
            }
        }
    };
    buf[..SEAL_BYTES].copy_from_slice(&seal);
    true
}

fn checksum(store: StoreId, bytes: &[u8]) -> [u8; SEAL_BYTES] {
    xxh3_128_with_seed(bytes, store.0 as u64).to_le_bytes()
}

/// Under the key of a session, as distinct as positions are.
fn nonce(at: Position) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&at.epoch.to_le_bytes());
    nonce[8..].copy_from_slice(&at.number.to_le_bytes());
    nonce
}

/// The length of the body that a header announces, if the header is the one expected at this position.
pub(super) fn body_len(header: &[u8], at: Position) -> Option<usize> {
    let header: &[u8; HEADER_BYTES] = header.first_chunk()?;
    let word = |from: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[from + i]));
    let epoch = u64::from(word(16)) | u64::from(word(20)) << 32;
    let body = word(28) as usize;
    (epoch == at.epoch && word(24) == at.number && (1..=BODY_MAX).contains(&body)).then_some(body)
}

/// The key epoch that the header of a record names, 0 in a plain store: also that of all segments with blocks that the
/// record names or holds.
pub(super) fn key_epoch(header: &[u8], keys: &Keys) -> u64 {
    cipher_epoch(header).filter(|_| keys.is_encrypted()).map_or(0, u64::from)
}

/// The key epoch that the header of a record of an encrypted store names.
pub(super) fn cipher_epoch(header: &[u8]) -> Option<u32> {
    header.get(44..48)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Turns the body of a whole record into what was recorded; `None` if its seal does not open.
fn open<'a>(record: &'a mut [u8], keys: &Keys, at: Position) -> Option<&'a [u8]> {
    let header = header_bytes(keys);
    if record.len() < header || body_len(record, at)? != record.len() - header {
        return None;
    }
    if !keys.is_encrypted() {
        let whole = checksum(at.store, &record[SEALED_FROM..]) == record[..SEAL_BYTES];
        return whole.then_some(&record[header..]);
    }
    let (header, body) = record.split_at_mut(header);
    let session = *header[32..44].first_chunk()?;
    let key_epoch = u32::from_le_bytes(*header[44..48].first_chunk()?);
    let keys = keys.of_epoch(key_epoch.into())?;
    if !keys.redo().open_as(session, nonce(at), &header[SEALED_FROM..], body, &header[..TAG_BYTES]) {
        return None;
    }
    let length = u32::from_le_bytes(*body.first_chunk()?) as usize;
    body.get(LENGTH_BYTES..)?.get(..length)
}

/// What a whole record (header and body) says; `None` if its seal does not open. An encrypted one is decrypted in place.
pub(super) fn decode<'a>(record: &'a mut [u8], keys: &Keys, at: Position) -> Option<Entry<'a>> {
    let body = open(record, keys, at)?;
    match *body.first()? {
        KIND_MUTATION => {
            let (volume, mutation) = postcard::from_bytes::<(VolumeId, Box<Mutation>)>(&body[1..]).ok()?;
            Some(Entry::Mutation(volume, mutation, None))
        }
        KIND_REQUESTED => {
            let (origin, volume, mutation) =
                postcard::from_bytes::<(Origin, VolumeId, Box<Mutation>)>(&body[1..]).ok()?;
            Some(Entry::Mutation(volume, mutation, Some(origin)))
        }
        KIND_BLOCKS => decode_blocks(body),
        // Older versions write no requests.
        KIND_END if body.len() == 1 => Some(Entry::End(Vec::new())),
        KIND_END => postcard::from_bytes(&body[1..]).ok().map(Entry::End),
        _ => None,
    }
}

fn decode_blocks(body: &[u8]) -> Option<Entry<'_>> {
    let fixed: &[u8; BLOCKS_FIXED] = body.first_chunk()?;
    let rest = &body[BLOCKS_FIXED..];
    let segment = u64::from_le_bytes(*fixed[1..9].first_chunk()?);
    let index = u32::from_le_bytes(*fixed[9..13].first_chunk()?);
    let count = u32::from_le_bytes(*fixed[13..17].first_chunk()?);
    let inside = index.checked_add(count).is_some_and(|end| end <= SEGMENT_BLOCKS);
    if segment == 0 || count == 0 || count > BLOCKS_MAX || !inside {
        return None;
    }
    let blocks = count as usize;
    if rest.len() != blocks * (SEAL_BYTES + BLOCK_BYTES) {
        return None;
    }
    let (seals, contents) = rest.split_at(blocks * SEAL_BYTES);
    Some(Entry::Blocks { run: Run::new(BlockAddr { segment, index }, count), seals, contents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Keyring, Secret};
    use crate::meta::{NameRef, Timestamp};

    const STORE: StoreId = StoreId(7);

    fn numbers() -> Numbers {
        Numbers::new(STORE, 5)
    }

    /// Seals a draft at the next place, and says where that is.
    fn sealed(buf: &mut [u8], keys: &Keys, numbers: &mut Numbers) -> Position {
        let vacant = numbers.take().unwrap();
        let at = vacant.0;
        assert!(seal(buf, keys, vacant));
        at
    }

    fn unlink() -> Mutation {
        Mutation::Unlink { at: NameRef::new(1, b"name"), time: Timestamp { sec: -1, nsec: 5 } }
    }

    fn encrypted() -> Keys {
        let secret = Secret::KeyFile(vec![1; 32].into());
        let keyring = Keyring::create(&[1; 16], std::slice::from_ref(&secret), None).unwrap();
        let unlocked = keyring.unlock(&[1; 16], &secret).unwrap();
        Keys::new(keyring.subkeys(&[1; 16], &unlocked).unwrap()).unwrap()
    }

    fn stores() -> [Keys; 2] {
        [Keys::Plain, encrypted()]
    }

    #[test]
    fn what_was_recorded_is_read_and_only_at_its_position() {
        for keys in stores() {
            let mut numbers = numbers();
            let mut buf = Vec::new();
            assert!(draft_mutation(&mut buf, &keys, (9, &unlink()), None));
            let at = sealed(&mut buf, &keys, &mut numbers);
            for other in [Position { epoch: 4, ..at }, Position { number: 4, ..at }] {
                assert_eq!(decode(&mut buf.clone(), &keys, other), None, "{other:?}");
            }
            assert_eq!(decode(&mut buf, &keys, at), Some(Entry::Mutation(9, Box::new(unlink()), None)));
            let origin = Origin { reader: 1, unique: 1 << 40 };
            assert!(draft_mutation(&mut buf, &keys, (9, &unlink()), Some(origin)));
            let at = sealed(&mut buf, &keys, &mut numbers);
            assert_eq!(
                decode(&mut buf, &keys, at),
                Some(Entry::Mutation(9, Box::new(unlink()), Some(origin)))
            );
            let executed = vec![Executed { origin, volume: 9, ino: Some(4) }];
            for executed in [Vec::new(), executed] {
                assert!(draft_end(&mut buf, &keys, &executed));
                let at = sealed(&mut buf, &keys, &mut numbers);
                assert_eq!(decode(&mut buf, &keys, at), Some(Entry::End(executed)));
            }
            let run = Run::new(BlockAddr { segment: 3, index: 100 }, 2);
            let filled = draft_blocks(&mut buf, &keys, run, |seals, contents| {
                seals.fill(1);
                contents.fill(2);
                Ok::<(), ()>(())
            });
            filled.unwrap();
            let at = sealed(&mut buf, &keys, &mut numbers);
            let (seals, contents) = (vec![1; 32], vec![2; 8192]);
            let expected = Entry::Blocks { run, seals: &seals, contents: &contents };
            assert_eq!(decode(&mut buf, &keys, at), Some(expected));
        }
        let mut buf = Vec::new();
        draft_end(&mut buf, &Keys::Plain, &[]);
        let at = sealed(&mut buf, &Keys::Plain, &mut numbers());
        assert_eq!(decode(&mut buf, &Keys::Plain, Position { store: StoreId(8), ..at }), None);
        let (one, other) = (encrypted(), encrypted());
        draft_end(&mut buf, &one, &[]);
        let at = sealed(&mut buf, &one, &mut numbers());
        assert_eq!(decode(&mut buf, &other, at), None);
    }

    #[test]
    fn every_place_is_given_out_once() {
        let mut numbers = numbers();
        let mut places: Vec<_> = (0..3).map(|_| numbers.take().unwrap().0).collect();
        assert!(!numbers.next_epoch(5) && !numbers.next_epoch(4), "an epoch that was");
        places.push(numbers.take().unwrap().0);
        assert!(numbers.next_epoch(6));
        places.push(numbers.take().unwrap().0);
        let expected = [(5, 0), (5, 1), (5, 2), (5, 3), (6, 0)];
        assert_eq!(places.iter().map(|at| (at.epoch, at.number)).collect::<Vec<_>>(), expected);
        numbers.next.number = u32::MAX;
        assert!(numbers.take().is_none() && numbers.take().is_none());
    }

    #[test]
    fn encrypted_records_show_neither_names_nor_their_lengths() {
        let keys = encrypted();
        let mut numbers = numbers();
        let mut sizes = Vec::new();
        for len in [1, 10, 100] {
            let mut buf = Vec::new();
            let name = vec![b'n'; len];
            let mutation =
                Mutation::Unlink { at: NameRef::new(1, &name), time: Timestamp { sec: 1, nsec: 5 } };
            assert!(draft_mutation(&mut buf, &keys, (9, &mutation), None));
            sealed(&mut buf, &keys, &mut numbers);
            assert!(!buf.windows(4).any(|w| w == b"nnnn"));
            sizes.push(buf.len());
        }
        assert_eq!(sizes, [RECORD_STEP; 3]);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        for keys in stores() {
            let mut buf = Vec::new();
            draft_mutation(&mut buf, &keys, (9, &unlink()), None);
            let at = sealed(&mut buf, &keys, &mut numbers());
            for len in 0..buf.len() {
                assert_eq!(decode(&mut buf[..len].to_vec(), &keys, at), None);
            }
            for bit in 0..buf.len() * 8 {
                let mut bad = buf.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&mut bad, &keys, at), None, "bit {bit}");
            }
        }
    }
}
