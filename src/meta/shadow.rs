//! The `shadow` table: which rows of older generations newer ones hide.
//!
//! That a row hides one of a generation which others see too is noted here when the row is made. So deleting a snapshot
//! looks at what changed since, and at nothing else. A note says where to look and no more: what hid the row may be gone.

use super::db::Db;
use super::error::{MetaError, Result};
use super::types::{Gen, Ino};

/// A key of one of the tables whose rows carry generations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Inode(Ino),
    /// Directory, hash, name.
    Dentry(Ino, u64, Box<[u8]>),
    Xattr(Ino, Box<[u8]>),
    /// Inode, index.
    Chunk(Ino, u64),
}

impl Key {
    /// The three columns it is stored as.
    fn columns(&self) -> (i64, i64, Vec<u8>) {
        match self {
            Self::Inode(ino) => (1, *ino as i64, Vec::new()),
            Self::Dentry(parent, hash, name) => {
                (2, *parent as i64, [&hash.to_be_bytes()[..], &name[..]].concat())
            }
            Self::Xattr(ino, name) => (3, *ino as i64, name.to_vec()),
            Self::Chunk(ino, idx) => (4, *ino as i64, idx.to_be_bytes().to_vec()),
        }
    }

    fn of_columns(kind: i64, ino: i64, rest: &[u8]) -> Result<Self> {
        let damaged = || MetaError::damaged("a note of what is shadowed is invalid");
        let ino = Ino::try_from(ino).map_err(|_| damaged())?;
        Ok(match kind {
            1 => Self::Inode(ino),
            2 => {
                let (hash, name) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
                Self::Dentry(ino, u64::from_be_bytes(*hash), name.into())
            }
            3 => Self::Xattr(ino, rest.into()),
            4 => Self::Chunk(ino, u64::from_be_bytes(rest.try_into().map_err(|_| damaged())?)),
            _ => return Err(damaged()),
        })
    }
}

/// Notes that a newer row hides the row of `key` in generation `old`.
pub(super) fn note(db: &Db, key: &Key, old: Gen) -> Result<()> {
    let (kind, ino, rest) = key.columns();
    db.execute("INSERT OR IGNORE INTO shadow VALUES (?1, ?2, ?3, ?4)", (old as i64, kind, ino, rest))?;
    db.count_note();
    Ok(())
}

/// Where to go on in the notes of a generation.
pub(super) type Cursor = Option<Key>;

/// Up to `limit` keys behind `after` of which generation `old` has a row that was hidden.
pub(super) fn keys(db: &Db, old: Gen, after: &Cursor, limit: usize) -> Result<Vec<Key>> {
    let (kind, ino, rest) = after.as_ref().map_or((0, 0, Vec::new()), Key::columns);
    let mut statement = db.prepare(
        "SELECT kind, ino, rest FROM shadow \
         WHERE old = ?1 AND (kind, ino, rest) > (?2, ?3, ?4) ORDER BY kind, ino, rest LIMIT ?5",
    )?;
    let params = (old as i64, kind, ino, rest, limit as i64);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let rest = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        out.push(Key::of_columns(row.get(0)?, row.get(1)?, rest)?);
    }
    Ok(out)
}

/// Forgets the note about a row that is gone.
pub(super) fn forget_row(db: &Db, key: &Key, old: Gen) -> Result<()> {
    let (kind, ino, rest) = key.columns();
    db.execute(
        "DELETE FROM shadow WHERE old = ?1 AND kind = ?2 AND ino = ?3 AND rest = ?4",
        (old as i64, kind, ino, rest),
    )?;
    Ok(())
}

/// Forgets up to `limit` notes about rows of a generation that is gone; true if that were all.
pub(super) fn forget_generation(db: &Db, old: Gen, limit: usize) -> Result<bool> {
    let keys = keys(db, old, &None, limit)?;
    for key in &keys {
        forget_row(db, key, old)?;
    }
    Ok(keys.len() < limit)
}
