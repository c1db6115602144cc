//! Pages, into the record or into pieces.

use super::super::error::RemoteError;
use super::super::format::{Commit, PIECE_PAGES, Page, Piece, PieceHash, PieceRef};
use super::super::source::State;
use super::image::ALL_PAGES;
use super::{ShipError, Shipper};
use bytes::Bytes;
use std::io;

/// Pages that are in a record at most if others are in pieces: a record is read as a whole, at every attach.
const IN_RECORD: usize = 2048;
/// Pages that follow each other are worth a piece if they are so many.
const WORTH_A_PIECE: usize = 32;
/// Pages that a record has room for.
const ROOM: usize = 12_000;
/// Pieces that are put at once.
const PIECES_AT_ONCE: usize = 16;

fn unreadable(e: io::Error) -> ShipError {
    ShipError::Store(format!("cannot read the metadata that is to be shipped: {e}"))
}

/// Pages of a piece: number of the first, and where the first is in the state's list, and how many there are.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    place: usize,
    count: usize,
}

/// Which pages go into pieces, and which into the record, of those that have changed.
fn divide(pages: &[u32]) -> (Vec<Stretch>, Vec<usize>) {
    let (mut pieces, mut single) = (Vec::new(), Vec::new());
    if pages.len() <= IN_RECORD {
        return (pieces, (0..pages.len()).collect());
    }
    let mut place = 0;
    let follows =
        |one: &u32, next: &u32| *next == one + 1 && (next - 1) / PIECE_PAGES == (one - 1) / PIECE_PAGES;
    for run in pages.chunk_by(follows) {
        if run.len() >= WORTH_A_PIECE {
            pieces.push(Stretch { place, count: run.len() });
        } else {
            single.extend(place..place + run.len());
        }
        place += run.len();
    }
    (pieces, single)
}

impl Shipper {
    /// Puts pages of the state where the record can name them, or into it.
    pub(super) fn put_pages(&mut self, state: &dyn State, commit: &mut Commit) -> Result<(), ShipError> {
        if state.is_whole() {
            return self.put_all_pages(state, commit);
        }
        let (stretches, single) = divide(state.pages());
        if single.len() > ROOM {
            // Next time, it is all of them.
            self.record_bytes = ALL_PAGES;
            let why = format!("{} pages of the metadata have changed", state.pages().len());
            return Err(ShipError::Store(format!("{why}; all of it is shipped instead")));
        }
        let mut page = vec![0; state.page_bytes()];
        for place in single {
            state.read_page(place, &mut page).map_err(unreadable)?;
            let contents = Bytes::copy_from_slice(&page);
            commit.changed.push(Page { number: state.pages()[place], contents });
        }
        let mut bodies = Vec::new();
        for Stretch { place, count } in stretches {
            let first = state.pages()[place];
            let mut contents = vec![0; count * page.len()];
            for (i, page) in contents.chunks_exact_mut(page.len()).enumerate() {
                state.read_page(place + i, page).map_err(unreadable)?;
            }
            self.add_piece(first, state.page_bytes(), contents, &mut bodies, commit);
            if bodies.len() >= PIECES_AT_ONCE {
                self.put_pieces(std::mem::take(&mut bodies))?;
            }
        }
        Ok(self.put_pieces(bodies)?)
    }

    /// Puts all pages into pieces, as an image has them. Pages that nobody reads are zeros.
    fn put_all_pages(&mut self, state: &dyn State, commit: &mut Commit) -> Result<(), ShipError> {
        let bytes = state.page_bytes();
        let mut place = 0;
        let mut bodies = Vec::new();
        for first in (1..=state.page_count()).step_by(PIECE_PAGES as usize) {
            let count = PIECE_PAGES.min(state.page_count() - first + 1);
            let mut contents = vec![0; count as usize * bytes];
            while let Some(number) = state.pages().get(place).filter(|number| **number < first + count) {
                let at = number.saturating_sub(first) as usize * bytes;
                let page = contents.get_mut(at..at + bytes).ok_or_else(|| RemoteError::Host {
                    what: "cannot ship".into(),
                    why: "pages are not in order".into(),
                })?;
                state.read_page(place, page).map_err(unreadable)?;
                place += 1;
            }
            self.add_piece(first, bytes, contents, &mut bodies, commit);
            if bodies.len() >= PIECES_AT_ONCE {
                self.put_pieces(std::mem::take(&mut bodies))?;
            }
        }
        Ok(self.put_pieces(bodies)?)
    }

    fn add_piece(
        &self,
        first: u32,
        page_bytes: usize,
        contents: Vec<u8>,
        bodies: &mut Vec<(PieceHash, Vec<u8>)>,
        commit: &mut Commit,
    ) {
        let piece = Piece::Pages { first, page_bytes: page_bytes as u16, contents: contents.into() };
        let body = piece.to_body();
        let hash = self.log.sealer().piece_hash(&body);
        let index = (first - 1) / PIECE_PAGES;
        commit.pieces.push(PieceRef { index, hash, bytes: body.len() as u32 });
        bodies.push((hash, body));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pages_go_into_the_record_and_long_runs_into_pieces() {
        let few: Vec<u32> = (1..=100).collect();
        let (pieces, single) = divide(&few);
        assert!(pieces.is_empty() && single.len() == 100);
        // From the middle of a piece to the middle of another, and many that are alone.
        let mut many: Vec<u32> = (200..=600).collect();
        many.extend((1000..8000).step_by(3));
        let (pieces, single) = divide(&many);
        let pieces: Vec<(u32, usize)> =
            pieces.iter().map(|stretch| (many[stretch.place], stretch.count)).collect();
        assert_eq!(pieces, [(200, 57), (257, 256), (513, 88)]);
        assert_eq!(single.len(), (1000..8000).step_by(3).count());
    }
}
