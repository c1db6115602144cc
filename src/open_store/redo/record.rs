//! Records of the redo log, as bytes.
//!
//! ```text
//! 0  seal: XXH3-128 of everything behind it, seeded with the lower half of the store's id, little-endian
//! 16 epoch u64      24 number of the record in its epoch u32      28 length of the body u32      32 body
//! ```
//!
//! The first byte of a body is its kind:
//! - 1, a mutation: volume and mutation in the postcard wire format (<https://postcard.jamesmunns.com/wire-format>);
//! - 2, blocks as they lie in a segment: segment u64, first index u32, count u32, the seals, the contents;
//! - 3, the end of the epoch.

use crate::meta::{Mutation, VolumeId};
use crate::store::{BLOCK_BYTES, BlockAddr, Run, SEAL_BYTES, SEGMENT_BLOCKS, StoreId};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes before the body of a record.
pub(super) const HEADER_BYTES: usize = 32;
/// Longest body. A longer mutation is not recorded; a commit follows it at once.
pub(super) const BODY_MAX: usize = 4 << 20;
/// Most blocks in one record.
pub(super) const BLOCKS_MAX: u32 = 64;

const SEALED_FROM: usize = SEAL_BYTES;
const KIND_MUTATION: u8 = 1;
const KIND_BLOCKS: u8 = 2;
const KIND_END: u8 = 3;
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

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A volume was changed.
    Mutation(VolumeId, Box<Mutation>),
    /// Blocks that an earlier mutation names, in case that their segment does not have them.
    Blocks {
        /// Where they belong.
        run: Run,
        /// 16 bytes for each.
        seals: &'a [u8],
        /// 4096 bytes for each.
        contents: &'a [u8],
    },
    /// The epoch holds no more.
    End,
}

/// Begins a record in `buf`, which is cleared.
fn begin(buf: &mut Vec<u8>, kind: u8) {
    buf.clear();
    buf.resize(HEADER_BYTES, 0);
    buf.push(kind);
}

/// Writes a mutation's record into `buf`; false if it is too long for one.
pub(super) fn encode_mutation(
    buf: &mut Vec<u8>,
    at: Position,
    volume: VolumeId,
    mutation: &Mutation,
) -> bool {
    begin(buf, KIND_MUTATION);
    // Into memory and without maps of unknown length: only a mutation without a wire format could fail here.
    let Ok(full) = postcard::to_extend(&(volume, mutation), std::mem::take(buf)) else { return false };
    *buf = full;
    finish(buf, at)
}

/// Writes the record of `run`'s blocks into `buf`. `fill` gets the places for seals and contents.
pub(super) fn encode_blocks<E>(
    buf: &mut Vec<u8>,
    at: Position,
    run: Run,
    fill: impl FnOnce(&mut [u8], &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    debug_assert!(run.count <= BLOCKS_MAX);
    begin(buf, KIND_BLOCKS);
    buf.extend_from_slice(&run.start.segment.to_le_bytes());
    buf.extend_from_slice(&run.start.index.to_le_bytes());
    buf.extend_from_slice(&run.count.to_le_bytes());
    let blocks = run.count as usize;
    let seals_at = buf.len();
    buf.resize(seals_at + blocks * (SEAL_BYTES + BLOCK_BYTES), 0);
    let (seals, contents) = buf[seals_at..].split_at_mut(blocks * SEAL_BYTES);
    fill(seals, contents)?;
    finish(buf, at);
    Ok(())
}

/// Writes the record that ends an epoch into `buf`.
pub(super) fn encode_end(buf: &mut Vec<u8>, at: Position) {
    begin(buf, KIND_END);
    finish(buf, at);
}

fn finish(buf: &mut [u8], at: Position) -> bool {
    let body = buf.len() - HEADER_BYTES;
    if body > BODY_MAX {
        return false;
    }
    buf[16..24].copy_from_slice(&at.epoch.to_le_bytes());
    buf[24..28].copy_from_slice(&at.number.to_le_bytes());
    buf[28..32].copy_from_slice(&(body as u32).to_le_bytes());
    let seal = seal(at.store, &buf[SEALED_FROM..]);
    buf[..SEAL_BYTES].copy_from_slice(&seal);
    true
}

fn seal(store: StoreId, bytes: &[u8]) -> [u8; SEAL_BYTES] {
    xxh3_128_with_seed(bytes, store.0 as u64).to_le_bytes()
}

/// The length of the body that a header announces, if the header is the one expected at this position.
pub(super) fn body_len(header: &[u8; HEADER_BYTES], at: Position) -> Option<usize> {
    let word = |from: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[from + i]));
    let epoch = u64::from(word(16)) | u64::from(word(20)) << 32;
    let body = word(28) as usize;
    (epoch == at.epoch && word(24) == at.number && (1..=BODY_MAX).contains(&body)).then_some(body)
}

/// What a whole record (header and body) says; `None` if its seal does not open.
pub(super) fn decode(record: &[u8], at: Position) -> Option<Entry<'_>> {
    let header: &[u8; HEADER_BYTES] = record.first_chunk()?;
    let body = &record[HEADER_BYTES..];
    if body_len(header, at)? != body.len() || seal(at.store, &record[SEALED_FROM..]) != record[..SEAL_BYTES] {
        return None;
    }
    match *body.first()? {
        KIND_MUTATION => {
            let (volume, mutation) = postcard::from_bytes::<(VolumeId, Box<Mutation>)>(&body[1..]).ok()?;
            Some(Entry::Mutation(volume, mutation))
        }
        KIND_BLOCKS => decode_blocks(body),
        KIND_END if body.len() == 1 => Some(Entry::End),
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
    use crate::meta::{NameRef, Timestamp};

    const AT: Position = Position { store: StoreId(7), epoch: 5, number: 3 };

    fn unlink() -> Mutation {
        Mutation::Unlink { at: NameRef::new(1, b"name"), time: Timestamp { sec: -1, nsec: 5 } }
    }

    #[test]
    fn what_was_recorded_is_read_and_only_at_its_position() {
        let mut buf = Vec::new();
        assert!(encode_mutation(&mut buf, AT, 9, &unlink()));
        assert_eq!(decode(&buf, AT), Some(Entry::Mutation(9, Box::new(unlink()))));
        for other in
            [Position { store: StoreId(8), ..AT }, Position { epoch: 4, ..AT }, Position { number: 4, ..AT }]
        {
            assert_eq!(decode(&buf, other), None, "{other:?}");
        }
        encode_end(&mut buf, AT);
        assert_eq!(decode(&buf, AT), Some(Entry::End));
        let run = Run::new(BlockAddr { segment: 3, index: 100 }, 2);
        let filled = encode_blocks(&mut buf, AT, run, |seals, contents| {
            seals.fill(1);
            contents.fill(2);
            Ok::<(), ()>(())
        });
        filled.unwrap();
        let (seals, contents) = (vec![1; 32], vec![2; 8192]);
        assert_eq!(decode(&buf, AT), Some(Entry::Blocks { run, seals: &seals, contents: &contents }));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let mut buf = Vec::new();
        encode_mutation(&mut buf, AT, 9, &unlink());
        for len in 0..buf.len() {
            assert_eq!(decode(&buf[..len], AT), None);
        }
        for at in 0..buf.len() * 8 {
            let mut bad = buf.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(decode(&bad, AT), None, "bit {at}");
        }
    }
}
