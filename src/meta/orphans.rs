//! The `orphan` table: inodes of a volume without a name that somebody has open.

use super::db::Db;
use super::error::Result;
use super::types::{Ino, VolumeId};
use rustc_hash::FxHashMap;

/// The orphans of one volume.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Each, and whether it has a row.
    all: FxHashMap<Ino, bool>,
    /// Those that may have none yet, so that a commit need not look at all.
    new: Vec<Ino>,
    /// Those with a row that are gone.
    gone: Vec<Ino>,
}

impl Orphans {
    /// Reads those of a volume.
    pub(super) fn read(db: &Db, volume: VolumeId) -> Result<Self> {
        let mut statement = db.prepare("SELECT ino FROM orphan WHERE volume = ?1")?;
        let mut rows = statement.query([volume as i64]).map_err(|e| db.explain(e))?;
        let mut orphans = Self::default();
        while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
            orphans.all.insert(row.get::<_, i64>(0)? as Ino, true);
        }
        Ok(orphans)
    }

    /// An inode lost its last name.
    pub(super) fn insert(&mut self, ino: Ino) {
        self.all.insert(ino, false);
        self.new.push(ino);
    }

    /// An orphan is gone, or has a name again.
    pub(super) fn remove(&mut self, ino: Ino) {
        match self.all.remove(&ino) {
            Some(true) => self.gone.push(ino),
            // Most are gone as soon as they lose their name.
            Some(false) if self.new.last() == Some(&ino) => self.new.truncate(self.new.len() - 1),
            Some(false) | None => {}
        }
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.all.contains_key(&ino)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = Ino> + '_ {
        self.all.keys().copied()
    }

    /// How many may not be as they are in the table.
    pub(super) fn unwritten(&self) -> usize {
        self.gone.len() + self.new.len()
    }

    /// Writes one of them to the table.
    pub(super) fn write_one(&mut self, db: &Db, volume: VolumeId) -> Result<()> {
        // First those that are gone: they may have come again since.
        if let Some(ino) = self.gone.pop() {
            let sql = "DELETE FROM orphan WHERE volume = ?1 AND ino = ?2";
            db.keep_row(db.execute(sql, (volume as i64, ino as i64)))?;
        } else if let Some(ino) = self.new.pop()
            && let Some(stored) = self.all.get_mut(&ino).filter(|stored| !**stored)
        {
            db.keep_row(db.execute("INSERT INTO orphan VALUES (?1, ?2)", (volume as i64, ino as i64)))?;
            *stored = true;
        }
        Ok(())
    }
}
