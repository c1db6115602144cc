//! Holds: as long as a snapshot has one, nobody removes it, nor its volume.
//!
//! A hold is a row of `label` whose key begins with a character that no label's key has. Programs that do not know of holds would show
//! it as a label, and remove the snapshot: so the header of a store names a feature before it gets its first hold.

use super::Meta;
use super::db::Db;
use super::error::{Refusal, Result};
use super::types::VolumeId;

/// What the key of a hold begins with; its tag follows. The value is when it was made, in seconds since 1970.
const PREFIX: &str = "\u{1}hold:";

/// Whether this is the key of a label, and not that of a hold.
pub(super) fn is_label(key: &str) -> bool {
    !key.starts_with('\u{1}')
}

fn key(tag: &str) -> String {
    format!("{PREFIX}{tag}")
}

/// The tags of the holds that a snapshot has, sorted.
pub(super) fn tags(db: &Db, snapshot: VolumeId) -> Result<Vec<String>> {
    let mut statement = db.prepare("SELECT key FROM label WHERE volume = ?1 ORDER BY key")?;
    let mut rows = statement.query([snapshot as i64]).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let key: String = row.get(0)?;
        out.extend(key.strip_prefix(PREFIX).map(str::to_owned));
    }
    Ok(out)
}

impl Meta {
    /// The tags of the holds that a snapshot has, sorted.
    ///
    /// # Errors
    /// As the database.
    pub fn holds(&self, snapshot: VolumeId) -> Result<Vec<String>> {
        tags(&self.db, snapshot)
    }

    /// Holds a snapshot from now on, in seconds since 1970. The header of the store names [`crate::store::Feature::Holds`] already.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a snapshot, [`Refusal::Exists`] if it has a hold of this tag, or as the database.
    pub fn hold(&mut self, snapshot: VolumeId, tag: &str, since: u64) -> Result<()> {
        self.snapshot_row(snapshot)?;
        if self.holds(snapshot)?.iter().any(|held| held == tag) {
            return Err(Refusal::Exists.into());
        }
        self.writing(|meta| {
            let row = (snapshot as i64, key(tag), since.to_string());
            meta.db.execute("INSERT INTO label VALUES (?1, ?2, ?3)", row).map(drop)
        })
    }

    /// Takes a hold of a snapshot away.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a snapshot or hold, or as the database.
    pub fn release(&mut self, snapshot: VolumeId, tag: &str) -> Result<()> {
        self.snapshot_row(snapshot)?;
        if !self.holds(snapshot)?.iter().any(|held| held == tag) {
            return Err(Refusal::NotFound.into());
        }
        self.writing(|meta| {
            let sql = "DELETE FROM label WHERE volume = ?1 AND key = ?2";
            meta.db.execute(sql, (snapshot as i64, key(tag))).map(drop)
        })
    }

    /// Refuses the removal of a snapshot that is held.
    ///
    /// # Errors
    /// [`Refusal::Held`], or as the database.
    pub(super) fn must_not_be_held(&self, snapshot: VolumeId) -> Result<()> {
        if self.holds(snapshot)?.is_empty() { Ok(()) } else { Err(Refusal::Held.into()) }
    }
}
