//! What a remote has, as far as who ships to it has to know.

use super::super::catalog::Catalog;
use super::super::error::Result;
use super::super::format::{Commit, Contents, PieceHash};
use super::super::log::{Log, Position};
use super::tidy::Tidy;
use super::{bytes_of, read_tables};
use std::collections::HashSet;

/// What was found in a log, up to some record.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The last record that was read.
    at: Position,
    /// Number of the newest image.
    image: u64,
    /// Where blocks are.
    pub(super) catalog: Catalog,
    /// Pieces of the newest image.
    pub(super) pieces: HashSet<PieceHash>,
    /// Records since then, and their bytes.
    pub(super) records: u64,
    pub(super) record_bytes: u64,
    pub(super) image_bytes: u64,
    /// The newest state, by its epoch of the redo log; and the record that has it.
    pub(super) shipped_epoch: (u64, u64),
    pub(super) tidy: Tidy,
}

impl Found {
    /// Reads the newest image, and the records after it.
    ///
    /// # Errors
    /// Those of requests and of opening; [`RemoteError::Lost`](super::RemoteError::Lost) where something is missing.
    pub(super) fn of(log: &Log) -> Result<Self> {
        let mut found = Self { image: log.state().image, ..Self::default() };
        if let Some((image, at)) = log.read_image()? {
            found.catalog = read_tables(&**log.objects(), log.sealer(), &image)?;
            found.pieces = image.database.iter().chain(&image.tables).map(|piece| piece.hash).collect();
            found.image_bytes = u64::from(image.pages) * 4096;
            found.shipped_epoch = (image.redo_epoch, at.number);
            found.at = at;
        }
        found.follow(log)
    }

    /// Reads what has come since then.
    ///
    /// # Errors
    /// As [`Found::of`].
    pub(super) fn follow(mut self, log: &Log) -> Result<Self> {
        if log.state().image != self.image {
            return Self::of(log);
        }
        let before = (self.at.number > 0).then_some(self.at.seal);
        for record in log.chain(self.at.number + 1, before) {
            let record = record?;
            self.records += 1;
            self.tidy.note(&record);
            if let Contents::Commit(commit) = &record.contents {
                self.count(record.number, commit);
            }
            self.at = Position { number: record.number, seal: record.seal };
        }
        Ok(self)
    }

    fn count(&mut self, number: u64, commit: &Commit) {
        self.catalog.apply(number, commit);
        self.record_bytes += bytes_of(commit);
        self.shipped_epoch = self.shipped_epoch.max((commit.redo_epoch, number));
    }
}
