//! Pages of the metadata's database that are elsewhere once more.

use super::segments::ElsewhereError;
use std::fmt::Debug;

/// Where pages of the database are once more, for when one is damaged.
pub trait PagesElsewhere: Send + Sync + Debug {
    /// Where that is, for people.
    fn place(&self) -> &str;

    /// What page `number`, from 1 on, has there, as SQLite sees it: as of the newest state that is known to be there of what is here.
    ///
    /// # Errors
    /// When it cannot be had.
    fn page(&self, number: u32) -> Result<Vec<u8>, ElsewhereError>;
}
