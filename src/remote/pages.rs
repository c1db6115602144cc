//! Single pages of the metadata, for when one is damaged on a host: from the newest state that was shipped from there.

use super::clock::{BootClock, Clock};
use super::connect::connect_until;
use super::deadline::Deadlines;
use super::error::{RemoteError, Result};
use super::format::{Contents, PIECE_PAGES, Piece, PieceRef};
use super::local::Local;
use super::log::{Log, Seen};
use super::names;
use super::patient::Patience;
use super::seal::RemoteSealer;
use crate::backing::OsDir;
use crate::crypto::Keys;
use crate::store::{ElsewhereError, Header, PagesElsewhere};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whoever needs the page may have others wait.
const PATIENCE: Patience = Patience {
    first: Duration::from_millis(100),
    most: Duration::from_millis(500),
    total: Duration::from_secs(1),
};
/// How long all of it may take.
const LONGEST: Duration = Duration::from_secs(15);
/// How long nothing is asked for after that has failed.
const AGAIN: Duration = Duration::from_secs(30);

/// The pages of a store's database in its remote, as of the newest record that its directory knows to be there.
#[derive(Debug)]
pub struct ShippedPages {
    path: PathBuf,
    place: String,
    keys: Keys,
    /// Why it could not be had, and when it is tried again.
    failed: Mutex<Option<(String, Instant)>>,
}

impl ShippedPages {
    /// Those of the store in the directory `path`, which `local` is of. Nothing is asked for yet.
    fn new(path: &Path, local: &Local, keys: &Keys) -> Self {
        let (path, place) = (path.to_owned(), local.remote.clone());
        Self { path, place, keys: keys.clone(), failed: Mutex::default() }
    }

    /// The same, if the store has a remote, for whoever opens it.
    pub fn of(path: &Path, local: Option<&Local>, keys: &Keys) -> Option<Arc<dyn PagesElsewhere>> {
        local.map(|local| Arc::new(Self::new(path, local, keys)) as Arc<_>)
    }

    fn fetch(&self, number: u32) -> Result<Bytes> {
        let cannot =
            |why: String| RemoteError::Host { what: format!("cannot use the remote {}", self.place), why };
        // As it is now: it is written before each record.
        let local = Local::read(&self.path).map_err(|e| cannot(e.to_string()))?;
        let nothing = || RemoteError::NoStore { place: self.place.clone() };
        let local = local.ok_or_else(nothing)?;
        let Seen::Newest(seen) = local.seen() else { return Err(nothing()) };
        let store = Header::read(&OsDir::new(&self.path)).map_err(|e| cannot(e.to_string()))?.store;
        let (clock, deadlines): (Arc<dyn Clock>, _) = (Arc::new(BootClock), Deadlines::default());
        deadlines.all.set(clock.now() + LONGEST);
        let address = local.address().map_err(cannot)?;
        let objects = connect_until(&address, &clock, PATIENCE, &deadlines, &Arc::default())?.objects;
        let sealer = RemoteSealer::new(store, &self.keys, objects.place());
        let mut log = Log::at(objects, sealer, seen)?;
        log.follow_attempts(&local.known().attempts)?;
        page_at(&log, number)
    }
}

impl PagesElsewhere for ShippedPages {
    fn place(&self) -> &str {
        &self.place
    }

    fn page(&self, number: u32) -> std::result::Result<Vec<u8>, ElsewhereError> {
        let mut failed = self.failed.lock();
        if let Some((why, again)) = &*failed
            && Instant::now() < *again
        {
            return Err(ElsewhereError::Failed(why.clone()));
        }
        match self.fetch(number) {
            Ok(page) => {
                *failed = None;
                Ok(page.to_vec())
            }
            Err(e) => {
                *failed = Some((e.to_string(), Instant::now() + AGAIN));
                Err(ElsewhereError::Failed(e.to_string()))
            }
        }
    }
}

/// The content of a page of the database at the newest record of a log, as SQLite sees it.
///
/// # Errors
/// Those of requests and of opening; [`RemoteError::Lost`] where the state there has no such page.
pub fn page_at(log: &Log, number: u32) -> Result<Bytes> {
    let index = number.saturating_sub(1) / PIECE_PAGES;
    let (mut in_image, mut found) = (None, None);
    let (mut first, mut before) = (1, None);
    if let Some((image, at)) = log.read_image()? {
        in_image = image.database.get(index as usize).copied();
        (first, before) = (at.number + 1, Some(at.seal));
    }
    for record in log.chain(first, before) {
        let Contents::Commit(commit) = record?.contents else { continue };
        for piece in commit.pieces.iter().filter(|piece| piece.index == index) {
            found = page_in(log, piece, number)?.or(found);
        }
        let page = commit.changed.iter().rfind(|page| page.number == number);
        found = page.map(|page| page.contents.clone()).or(found);
    }
    if let (None, Some(piece)) = (&found, in_image) {
        found = page_in(log, &piece, number)?;
    }
    found.ok_or_else(|| RemoteError::Lost {
        place: log.sealer().place().into(),
        name: format!("page {number} of the metadata at record {}", log.state().newest.number),
    })
}

/// A page in a piece, if it is there.
fn page_in(log: &Log, piece: &PieceRef, number: u32) -> Result<Option<Bytes>> {
    let name = names::piece(&piece.hash);
    let bytes = log.objects().get(&name, super::PIECE_OBJECT_MAX);
    let bytes = bytes.map_err(|e| RemoteError::from(e).or_lost(log.sealer().place(), || name.clone()))?;
    let Piece::Pages { first, page_bytes, contents } = log.sealer().open_piece(&piece.hash, bytes)? else {
        let what = "it has no pages, and a record says so";
        return Err(RemoteError::damaged(log.sealer().place(), &name, what));
    };
    let page_bytes = usize::from(page_bytes);
    let at = number.checked_sub(first).map(|skip| skip as usize * page_bytes);
    let range = at.and_then(|at| Some(at..at.checked_add(page_bytes)?));
    Ok(range.filter(|range| range.end <= contents.len()).map(|range| contents.slice(range)))
}
