//! Images: when there is to be one, and how it is made.

use super::super::format::{Contents, HeaderRef, Image, PieceHash, PieceRef};
use super::super::log::Position;
use super::super::source::{Source, State};
use super::{ShipError, Shipper};
use std::collections::HashSet;
use std::time::Duration;

/// So many records after an image there is another one,
const IMAGE_RECORDS: u64 = 1024;
/// or when they have so many bytes, and as many as the image.
const IMAGE_BYTES: u64 = 32 << 20;

/// How long nothing is read for an image after that has failed, where what has changed can be shipped without one.
const IMAGE_AGAIN: Duration = Duration::from_secs(600);
/// Said to be in the records since the newest image when no record has room for the pages that have changed.
pub(super) const ALL_PAGES: u64 = u64::MAX / 2;

/// A whole state could not be had, and nothing that is shipped waits for one.
#[derive(Debug)]
pub(super) struct ImageWaits {
    /// When it is tried again.
    until: Duration,
    why: String,
}

impl Shipper {
    /// Whether the next state is to be whole.
    fn wants_image(&self) -> bool {
        let many = self.record_bytes >= IMAGE_BYTES.max(self.image_bytes);
        self.log.state().image == 0
            || self.lacking.records
            || self.records >= IMAGE_RECORDS
            || many
            || self.rewrite.wants_image(self.record_bytes)
    }

    /// Whether nothing can be shipped without an image.
    fn needs_image(&self) -> bool {
        self.log.state().image == 0 || self.lacking.records || self.record_bytes >= ALL_PAGES
    }

    /// Whether an image is not tried again for a while.
    pub(super) fn image_waits(&self) -> bool {
        let waits = self.image_waits.as_ref().is_some_and(|waits| self.clock.now() < waits.until);
        waits && !self.needs_image()
    }

    /// Why there was no newer image to be had, if so. Nothing that is shipped waits for one.
    pub fn image_trouble(&self) -> Option<&str> {
        self.image_waits.as_ref().map(|waits| waits.why.as_str())
    }

    /// The next state, whole where there is to be an image. Where all pages cannot be had, as on a full disk, or one that cannot read a page
    /// that nobody has changed for long, what has changed is shipped all the same: the image can wait.
    pub(super) fn next_state(
        &mut self,
        source: &dyn Source,
    ) -> std::result::Result<Box<dyn State>, ShipError> {
        if self.wants_image() && !self.image_waits() {
            match source.state(true) {
                Ok(state) => {
                    self.image_waits = None;
                    return Ok(state);
                }
                Err(why) if self.needs_image() => return Err(ShipError::Store(why)),
                Err(why) => {
                    let why = format!("what has changed is shipped, but not all metadata can be read: {why}");
                    log::warn!("{why}");
                    let until = self.clock.now().saturating_add(IMAGE_AGAIN);
                    self.image_waits = Some(ImageWaits { until, why });
                }
            }
        }
        source.state(false).map_err(ShipError::Store)
    }

    /// Makes the newest record an image.
    pub(super) fn put_image(
        &mut self,
        pages: u32,
        database: Vec<PieceRef>,
        redo_epoch: u64,
        header: HeaderRef,
    ) -> std::result::Result<Position, ShipError> {
        let mut tables = Vec::new();
        let mut bodies = Vec::new();
        let all = self.catalog.lock().to_tables();
        for (index, piece) in (0..).zip(all) {
            let body = piece.to_body();
            let hash = self.log.sealer().piece_hash(&body);
            tables.push(PieceRef { index, hash, bytes: body.len() as u32 });
            bodies.push((hash, body));
        }
        self.put_pieces(bodies)?;
        let kept: HashSet<PieceHash> = database.iter().chain(&tables).map(|piece| piece.hash).collect();
        let image = Image { pages, database, tables, redo_epoch };
        let position = self.append(Contents::Image(Box::new(image)), header)?;
        self.lacking.records = false;
        (self.records, self.record_bytes, self.pieces) = (0, 0, kept);
        self.rewrite.has_image(self.clock.now());
        self.image_bytes = u64::from(pages) * 4096;
        Ok(position)
    }
}
