//! Chunks that are reserved as a whole: a row for each 4 GiB of a file that has any, and its bytes in the `chunk` table.

use super::error::{MetaError, Result};
use integer_encoding::VarInt;
use std::ops::Range;

/// First byte of a map of reserved chunks.
const KIND_RESERVED: u8 = 2;
/// Chunks that one row is about: a *group*.
pub(super) const GROUP_CHUNKS: u64 = 4096;

const WORDS: usize = GROUP_CHUNKS as usize / 64;

/// Which chunks of a group are reserved as a whole: allocated, and never written.
///
/// Invariant: the chunk has no extents of its own then, in the same view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    bits: Box<[u64; WORDS]>,
    count: u64,
}

impl Default for Reserved {
    fn default() -> Self {
        Self { bits: Box::new([0; WORDS]), count: 0 }
    }
}

/// The parts of `range` in each word: its index, and a mask of the bits.
fn words(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    debug_assert!(range.end <= GROUP_CHUNKS);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let (word, from) = ((at / 64) as usize, at % 64);
        let count = (64 - from).min(range.end - at);
        at += count;
        Some((word, (u64::MAX >> (64 - count)) << from))
    })
}

impl Reserved {
    /// Reserves chunks (0 to 4095, within the group); returns how many were not.
    pub(super) fn set(&mut self, range: Range<u64>) -> u64 {
        let mut new = 0;
        for (word, mask) in words(range) {
            new += u64::from((mask & !self.bits[word]).count_ones());
            self.bits[word] |= mask;
        }
        self.count += new;
        new
    }

    /// Takes chunks out; returns how many were reserved.
    pub(super) fn clear(&mut self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        for (word, mask) in words(range) {
            gone += u64::from((mask & self.bits[word]).count_ones());
            self.bits[word] &= !mask;
        }
        self.count -= gone;
        gone
    }

    /// Whether a chunk is reserved.
    pub(super) fn contains(&self, chunk: u64) -> bool {
        self.bits[chunk as usize / 64] >> (chunk % 64) & 1 == 1
    }

    /// How many chunks are reserved.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The reserved chunks, in runs.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(GROUP_CHUNKS);
            Some(start..at)
        })
    }

    /// The first chunk from `from` on that is reserved, or is not.
    fn next(&self, from: u64, reserved: bool) -> Option<u64> {
        let mut mask = u64::MAX << (from % 64);
        for word in from as usize / 64..WORDS {
            let bits = if reserved { self.bits[word] } else { !self.bits[word] } & mask;
            if bits != 0 {
                return Some(word as u64 * 64 + u64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// The bytes of the map, as `docs/format.md` describes them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![KIND_RESERVED];
        let mut end = 0;
        for run in self.runs() {
            for number in [run.start - end, run.end - run.start - 1] {
                out.extend_from_slice(&number.encode_var_vec());
            }
            end = run.end;
        }
        out
    }

    /// Reads the bytes of a map.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] for anything that [`Reserved::encode`] cannot have written.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| MetaError::damaged(format!("a map of reserved chunks {what}"));
        let Some((&KIND_RESERVED, mut rest)) = bytes.split_first() else {
            return Err(damaged("has an unknown kind"));
        };
        let mut map = Self::default();
        let mut take = || -> Result<Option<u64>> {
            if rest.is_empty() {
                return Ok(None);
            }
            let (value, used) = u64::decode_var(rest).ok_or_else(|| damaged("is cut off"))?;
            rest = &rest[used..];
            Ok(Some(value))
        };
        let mut end = 0u64;
        while let Some(gap) = take()? {
            let len = take()?.ok_or_else(|| damaged("is cut off"))?.saturating_add(1);
            let start = end.saturating_add(gap);
            let stop = start.saturating_add(len);
            if stop > GROUP_CHUNKS || (gap == 0 && end > 0) {
                return Err(damaged("is invalid"));
            }
            map.set(start..stop);
            end = stop;
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_chunks(
            steps in prop::collection::vec((any::<bool>(), 0u64..GROUP_CHUNKS, 0u64..600), 1..40)
        ) {
            let mut map = Reserved::default();
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for (setting, first, len) in steps {
                let range = first..(first + len).min(GROUP_CHUNKS);
                let before = model.len();
                if setting {
                    let new = map.set(range.clone());
                    model.extend(range);
                    prop_assert_eq!(new as usize, model.len() - before);
                } else {
                    let gone = map.clear(range.clone());
                    model.retain(|chunk| !range.contains(chunk));
                    prop_assert_eq!(gone as usize, before - model.len());
                }
                prop_assert_eq!(map.count() as usize, model.len());
                prop_assert!(map.runs().flatten().eq(model.iter().copied()));
                prop_assert!((0..GROUP_CHUNKS).all(|chunk| map.contains(chunk) == model.contains(&chunk)));
                prop_assert_eq!(Reserved::decode(&map.encode()).unwrap(), map.clone());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut tagged = vec![KIND_RESERVED];
            tagged.extend(bytes);
            if let Ok(map) = Reserved::decode(&tagged) {
                prop_assert!(map.count() <= GROUP_CHUNKS);
            }
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        // Changing these bytes changes the format.
        let mut map = Reserved::default();
        assert_eq!(map.encode(), [2]);
        map.set(0..600);
        map.set(601..602);
        assert_eq!(map.encode(), [2, 0, 0xd7, 4, 1, 0]);
    }
}
