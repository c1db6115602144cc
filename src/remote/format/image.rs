//! Images: everything but the contents of blocks, as of a record.

use super::super::bytes::{Malformed, Reader, Writer};
use super::piece::{PIECE_BYTES_MAX, PIECE_PAGES, PieceHash};

/// A piece, as what names it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceRef {
    /// Which one it is, from 0 on: of pages, those from `index * PIECE_PAGES + 1` on.
    pub index: u32,
    /// What is in it.
    pub hash: PieceHash,
    /// Length of its contents.
    pub bytes: u32,
}

impl PieceRef {
    pub(super) const BYTES: usize = 4 + 32 + 4;

    pub(super) fn write(&self, out: &mut Writer) {
        out.u32(self.index).bytes(&self.hash.0).u32(self.bytes);
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let piece = Self { index: from.u32()?, hash: PieceHash(from.array()?), bytes: from.u32()? };
        if piece.bytes as usize > PIECE_BYTES_MAX {
            return Err(Malformed("it names a piece that is too long"));
        }
        Ok(piece)
    }
}

/// Where the state at the record that holds this is: a reader needs nothing that was written before it, but what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Length of `meta.db` in pages.
    pub pages: u32,
    /// Its pieces ([`Piece::Pages`](super::Piece::Pages)), one for each 256 pages, in order.
    pub database: Vec<PieceRef>,
    /// Pieces that list the segments, the parts, and the blocks that are in records.
    pub tables: Vec<PieceRef>,
    /// The redo log's epoch that the next record begins with; the image holds nothing of the log.
    pub redo_epoch: u64,
}

impl Image {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u32(self.pages).u64(self.redo_epoch);
        out.list(&self.database, |out, piece| piece.write(out));
        out.list(&self.tables, |out, piece| piece.write(out));
    }

    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let (pages, redo_epoch) = (from.u32()?, from.u64()?);
        let database = from.list(PieceRef::BYTES, PieceRef::read)?;
        let tables = from.list(PieceRef::BYTES, PieceRef::read)?;
        let in_order = database.iter().enumerate().all(|(i, piece)| piece.index as usize == i);
        if !in_order || database.len() != (pages as usize).div_ceil(PIECE_PAGES as usize) {
            return Err(Malformed("the pieces of its database do not make one"));
        }
        Ok(Self { pages, database, tables, redo_epoch })
    }
}
