//! Attaching: the metadata of a store, as its remote has it at some record, put down on this host. Its blocks come when they are
//! read.

use super::catalog::Catalog;
use super::error::{RemoteError, Result};
use super::format::{Commit, Contents, HeaderRef, Piece, PieceRef};
use super::headers::read_header;
use super::log::{Log, Position};
use super::names;
use super::ship::read_tables;
use super::side_by_side::each;
use crate::store::Header;
use bytes::Bytes;
use std::io;

/// Pieces that are fetched before they are put down: 32 MiB.
const PIECES_AT_ONCE: usize = 32;

/// Takes the pages of a database.
pub trait Pages {
    /// A page, from 1 on, as SQLite sees it. It may come again, with other contents, which then count.
    ///
    /// # Errors
    /// As the host.
    fn put(&mut self, number: u32, contents: &[u8]) -> io::Result<()>;
}

/// What was attached.
#[derive(Debug)]
pub struct Attached {
    /// The record whose state it is.
    pub at: Position,
    /// Length of the database in pages.
    pub pages: u32,
    /// Where the blocks are.
    pub catalog: Catalog,
}

/// Reads the header that is in force at the newest record of the log: its bytes, and what they say.
///
/// # Errors
/// Those of requests; [`RemoteError::NoStore`] if there is none yet.
pub fn header_in_force(log: &Log) -> Result<(Bytes, Header)> {
    header_of(log, log.state().header)
}

fn header_of(log: &Log, header: HeaderRef) -> Result<(Bytes, Header)> {
    if header.number == 0 {
        return Err(RemoteError::NoStore { place: log.sealer().place().into() });
    }
    read_header(&**log.objects(), log.sealer().store(), header)
}

fn put_failed(e: io::Error) -> RemoteError {
    RemoteError::host("cannot put down the metadata", &e)
}

/// Puts down the pages in pieces, in order.
fn put_pieces(log: &Log, pieces: &[PieceRef], pages: &mut dyn Pages) -> Result<()> {
    for some in pieces.chunks(PIECES_AT_ONCE) {
        let fetched = each(some, |piece| {
            let name = names::piece(&piece.hash);
            let bytes = log.objects().get(&name, super::PIECE_OBJECT_MAX);
            let bytes =
                bytes.map_err(|e| RemoteError::from(e).or_lost(log.sealer().place(), || name.clone()))?;
            log.sealer().open_piece(&piece.hash, bytes)
        })?;
        for (piece, at) in fetched.into_iter().zip(some) {
            let Piece::Pages { first, page_bytes, contents } = piece else {
                let name = names::piece(&at.hash);
                return Err(RemoteError::damaged(
                    log.sealer().place(),
                    &name,
                    "it has no pages, and a record says so",
                ));
            };
            put_pages(first, usize::from(page_bytes), &contents, pages)?;
        }
    }
    Ok(())
}

fn put_pages(first: u32, page_bytes: usize, contents: &[u8], pages: &mut dyn Pages) -> Result<()> {
    // (One that is free may be zeros, and nobody reads it.)
    // (No number is made behind the last page: there may be none.)
    contents
        .chunks_exact(page_bytes)
        .zip(first..)
        .try_for_each(|(page, number)| pages.put(number, page).map_err(put_failed))
}

/// Puts down what a commit changed.
fn put_commit(log: &Log, commit: &Commit, pages: &mut dyn Pages) -> Result<()> {
    put_pieces(log, &commit.pieces, pages)?;
    for page in &commit.changed {
        pages.put(page.number, &page.contents).map_err(put_failed)?;
    }
    Ok(())
}

/// Puts down the state at the newest record of the log.
///
/// # Errors
/// Those of requests and of opening; [`RemoteError::NoStore`] where nothing was shipped yet.
pub fn attach(log: &Log, pages: &mut dyn Pages) -> Result<Attached> {
    let mut catalog = Catalog::default();
    let mut count = 0;
    let (mut first, mut before) = (1, None);
    if let Some((image, at)) = log.read_image()? {
        put_pieces(log, &image.database, pages)?;
        catalog = read_tables(&**log.objects(), log.sealer(), &image)?;
        count = image.pages;
        (first, before) = (at.number + 1, Some(at.seal));
    }
    for record in log.chain(first, before) {
        let record = record?;
        if let Contents::Commit(commit) = &record.contents {
            put_commit(log, commit, pages)?;
            catalog.apply(record.number, commit);
            if commit.pages > 0 {
                count = commit.pages;
            }
        }
    }
    if count == 0 {
        return Err(RemoteError::NoStore { place: log.sealer().place().into() });
    }
    Ok(Attached { at: log.state().newest, pages: count, catalog })
}
