//! Pieces of images. They are named by what is in them, so that images share those that have not changed.

use super::super::bytes::{Malformed, Reader, Writer};
use super::commit::SegmentState;
use super::part::{LiveBlocks, check_run};
use crate::store::{BlockAddr, Run};
use bytes::Bytes;
use std::fmt;

/// Pages of `meta.db` in a piece.
pub const PIECE_PAGES: u32 = 256;
/// The most bytes in a piece.
pub const PIECE_BYTES_MAX: usize = 2 << 20;

/// The keyed hash of what is in a piece: HMAC-SHA256, with a key of the store's ([`RemoteSealer::piece_hash`](super::super::RemoteSealer::piece_hash)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceHash(pub [u8; 32]);

impl fmt::Display for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Blocks that are in a record ([`Blocks`](super::Blocks)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InRecord {
    /// The record.
    pub record: u64,
    /// Which blocks.
    pub blocks: Run,
    /// The key epoch that they are sealed in; 0 in a plain store.
    pub key_epoch: u32,
}

/// What is in a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Pages of `meta.db` that follow each other, as SQLite sees them.
    Pages {
        /// Number of the first one, from 1 on.
        first: u32,
        /// Bytes of each: 4080 or 4048.
        page_bytes: u16,
        /// The pages.
        contents: Bytes,
    },
    /// How far segments have got, in ascending order.
    Segments(Vec<SegmentState>),
    /// What of parts is worth something, in ascending order of the blocks.
    Parts(Vec<LiveBlocks>),
    /// Blocks that are in records, in ascending order.
    InRecords(Vec<InRecord>),
}

impl Piece {
    /// What a piece is named by and holds. Equal pieces have equal bytes.
    pub fn to_body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Pages { first, page_bytes, contents } => {
                out.u8(1).u8(0).u16(*page_bytes).u32(*first).bytes(contents);
            }
            Self::Segments(all) => {
                out.u8(2).list(all, |out, state| state.write(out));
            }
            Self::Parts(all) => {
                out.u8(3).list(all, |out, live| live.write(out));
            }
            Self::InRecords(all) => {
                out.u8(4).list(all, |out, one| {
                    out.u64(one.record)
                        .u64(one.blocks.start.segment)
                        .u32(one.blocks.start.index)
                        .u32(one.blocks.count)
                        .u32(one.key_epoch);
                });
            }
        }
        out.take()
    }

    pub(in super::super) fn from_body(body: Bytes) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let piece = match from.u8()? {
            1 => {
                from.u8()?;
                let (page_bytes, first) = (from.u16()?, from.u32()?);
                let contents = from.bytes(from.left())?;
                let page = usize::from(page_bytes);
                let fits = first > 0 && [4080, 4048].contains(&page) && contents.len().is_multiple_of(page);
                let count = if fits { contents.len() / page } else { 0 };
                // Each page has a number, and there is one behind the last.
                let ends = u32::try_from(count).ok().and_then(|count| first.checked_add(count));
                if !fits || count > PIECE_PAGES as usize || ends.is_none() {
                    return Err(Malformed("its pages are invalid"));
                }
                Self::Pages { first, page_bytes, contents }
            }
            2 => Self::Segments(from.list(SegmentState::BYTES, SegmentState::read)?),
            3 => Self::Parts(from.list(LiveBlocks::BYTES, LiveBlocks::read)?),
            4 => Self::InRecords(from.list(28, |from| {
                let record = from.u64()?;
                let blocks = Run::new(BlockAddr { segment: from.u64()?, index: from.u32()? }, from.u32()?);
                check_run(blocks.start.segment, blocks.start.index, blocks.count)?;
                Ok(InRecord { record, blocks, key_epoch: from.u32()? })
            })?),
            _ => return Err(Malformed("it is a piece of an unknown kind")),
        };
        from.end()?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever went on behind the last page overflowed.
    #[test]
    fn pages_that_have_no_numbers_are_refused() {
        let opened = |first: u32, count: usize| {
            let contents = vec![0; count * 4080].into();
            Piece::from_body(Piece::Pages { first, page_bytes: 4080, contents }.to_body().into())
        };
        for (first, count) in [(u32::MAX, 1), (u32::MAX - 1, 2), (u32::MAX - 200, 256), (0, 1), (1, 257)] {
            opened(first, count).unwrap_err();
        }
        for (first, count) in [(u32::MAX, 0), (u32::MAX - 1, 1), (u32::MAX - 256, 256), (1, 256)] {
            opened(first, count).unwrap();
        }
    }
}
