//! Rows by key and generation, whatever their table.

use super::db::Db;
use super::error::Result;
use super::generation::Lineage;
use super::shadow::{self, Key};
use super::types::Gen;
use rusqlite::types::Value;

/// Tables, their key columns, and what makes a row a whiteout.
fn table(key: &Key) -> (&'static str, &'static str, Vec<Value>) {
    let int = |value: u64| Value::Integer(value as i64);
    match key {
        Key::Inode(ino) => (
            "SELECT gen, mode = 0 FROM inode WHERE ino = ?2 AND gen <= ?1 ORDER BY gen DESC",
            "DELETE FROM inode WHERE ino = ?2 AND gen = ?1",
            vec![int(*ino)],
        ),
        Key::Dentry(parent, hash, name) => (
            "SELECT gen, ino = 0 FROM dentry WHERE parent = ?2 AND hash = ?3 AND name = ?4 AND gen <= ?1 \
             ORDER BY gen DESC",
            "DELETE FROM dentry WHERE parent = ?2 AND hash = ?3 AND name = ?4 AND gen = ?1",
            vec![int(*parent), int(*hash), Value::Blob(name.to_vec())],
        ),
        Key::Xattr(ino, name) => (
            "SELECT gen, value IS NULL FROM xattr WHERE ino = ?2 AND name = ?3 AND gen <= ?1 ORDER BY gen DESC",
            "DELETE FROM xattr WHERE ino = ?2 AND name = ?3 AND gen = ?1",
            vec![int(*ino), Value::Blob(name.to_vec())],
        ),
        Key::Chunk(ino, idx) => (
            "SELECT gen, length(map) <= 1 FROM chunk WHERE ino = ?2 AND idx = ?3 AND gen <= ?1 ORDER BY gen DESC",
            "DELETE FROM chunk WHERE ino = ?2 AND idx = ?3 AND gen = ?1",
            vec![int(*ino), int(*idx)],
        ),
    }
}

/// A row of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) generation: Gen,
    /// It says that there is nothing.
    pub(super) whiteout: bool,
}

/// The newest row of `key` up to generation `last` among those whose generations are wanted.
pub(super) fn newest(db: &Db, key: &Key, last: Gen, wanted: impl Fn(Gen) -> bool) -> Result<Option<Row>> {
    let (select, _, columns) = table(key);
    let mut statement = db.prepare(select)?;
    let params = std::iter::once(Value::Integer(last as i64)).chain(columns);
    let mut rows = statement.query(rusqlite::params_from_iter(params)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let generation = row.get::<_, i64>(0)? as Gen;
        if wanted(generation) {
            return Ok(Some(Row { generation, whiteout: row.get(1)? }));
        }
    }
    Ok(None)
}

/// Deletes the row of `key` in a generation.
pub(super) fn delete(db: &Db, key: &Key, generation: Gen) -> Result<()> {
    let (_, delete, columns) = table(key);
    let params = std::iter::once(Value::Integer(generation as i64)).chain(columns);
    db.execute(delete, rusqlite::params_from_iter(params))?;
    Ok(())
}

/// Whether older generations of the lineage, which others see too, have something for the key that `key` makes: then a
/// removal must leave a whiteout.
pub(super) fn is_beneath(db: &Db, lineage: &Lineage, key: impl FnOnce() -> Key) -> Result<bool> {
    let Some(last) = lineage.last_shared() else { return Ok(false) };
    Ok(newest(db, &key(), last, |generation| lineage.contains(generation))?.is_some_and(|row| !row.whiteout))
}

/// The generation in which a new row for the key that `key` makes has to be: that of the row to be replaced, if only this
/// lineage sees that; else the head, and what the new row hides is noted.
pub(super) fn hide(db: &Db, lineage: &Lineage, key: impl Fn() -> Key) -> Result<Gen> {
    if lineage.is_single() {
        return Ok(lineage.head());
    }
    let key = key();
    match newest(db, &key, lineage.head(), |generation| lineage.contains(generation))? {
        Some(row) if lineage.is_exclusive(row.generation) => Ok(row.generation),
        Some(row) => {
            shadow::note(db, &key, row.generation)?;
            Ok(lineage.head())
        }
        None => Ok(lineage.head()),
    }
}
