//! The `xattr` table.

use super::charge;
use super::db::Db;
use super::error::Result;
use super::generation::Lineage;
use super::rows::{self, hide};
use super::shadow::Key;
use super::types::{Gen, Ino, Usage};

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// The value of attribute `name` of `ino`.
pub(super) fn get(db: &Db, lineage: &Lineage, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut statement = db.prepare(
        "SELECT gen, value FROM xattr WHERE ino = ?1 AND name = ?2 AND gen <= ?3 ORDER BY gen DESC",
    )?;
    let mut rows = statement.query((ino as i64, name, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        if lineage.contains(row.get::<_, i64>(0)? as Gen) {
            return Ok(row.get(1)?);
        }
    }
    Ok(None)
}

/// All attributes of `ino`, sorted by name.
pub(super) fn list(db: &Db, lineage: &Lineage, ino: Ino) -> Result<Vec<Xattr>> {
    let mut statement = db
        .prepare("SELECT name, gen, value FROM xattr WHERE ino = ?1 AND gen <= ?2 ORDER BY name, gen DESC")?;
    let mut rows = statement.query((ino as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    let mut out: Vec<Xattr> = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let name: Vec<u8> = row.get(0)?;
        if last.as_ref() == Some(&name) || !lineage.contains(row.get::<_, i64>(1)? as Gen) {
            continue;
        }
        if let Some(value) = row.get(2)? {
            out.push((name.clone(), value));
        }
        last = Some(name);
    }
    Ok(out)
}

/// What attribute `name` of `ino` counts; 0 where there is none.
pub(super) fn counted(db: &Db, lineage: &Lineage, ino: Ino, name: &[u8]) -> Result<u64> {
    let mut statement = db.prepare(
        "SELECT gen, length(value) FROM xattr WHERE ino = ?1 AND name = ?2 AND gen <= ?3 ORDER BY gen DESC",
    )?;
    let mut rows = statement.query((ino as i64, name, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        if lineage.contains(row.get::<_, i64>(0)? as Gen) {
            return Ok(row
                .get::<_, Option<u32>>(1)?
                .map_or(0, |len| charge::xattr(name.len(), len as usize)));
        }
    }
    Ok(0)
}

/// Calls `each` with the lengths of name and value of every attribute of the lineage.
pub(super) fn scan(db: &Db, lineage: &Lineage, mut each: impl FnMut(usize, usize)) -> Result<()> {
    let mut statement = db.prepare(
        "SELECT ino, name, gen, length(value) FROM xattr WHERE gen <= ?1 ORDER BY ino, name, gen DESC",
    )?;
    let mut rows = statement.query([lineage.head() as i64]).map_err(|e| db.explain(e))?;
    let mut last: Option<(i64, Vec<u8>)> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let key: (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if last.as_ref() == Some(&key) || !lineage.contains(row.get::<_, i64>(2)? as Gen) {
            continue;
        }
        if let Some(len) = row.get::<_, Option<u32>>(3)? {
            each(key.1.len(), len as usize);
        }
        last = Some(key);
    }
    Ok(())
}

/// The names of all attributes of `ino`, sorted, with the lengths of their values, which are not read.
pub(super) fn lengths(db: &Db, lineage: &Lineage, ino: Ino) -> Result<Vec<(Vec<u8>, usize)>> {
    let mut statement = db.prepare(
        "SELECT name, gen, length(value) FROM xattr WHERE ino = ?1 AND gen <= ?2 ORDER BY name, gen DESC",
    )?;
    let mut rows = statement.query((ino as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    let mut out: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let name: Vec<u8> = row.get(0)?;
        if last.as_ref() == Some(&name) || !lineage.contains(row.get::<_, i64>(1)? as Gen) {
            continue;
        }
        if let Some(length) = row.get::<_, Option<i64>>(2)? {
            out.push((name.clone(), length as usize));
        }
        last = Some(name);
    }
    Ok(out)
}

/// The names of attributes of `ino` in descending order, of those before `before` in the alphabet: at most `limit`, and whether
/// there are more.
pub(super) fn last(
    db: &Db,
    lineage: &Lineage,
    ino: Ino,
    before: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Box<[u8]>>, bool)> {
    let mut statement = db.prepare(
        "SELECT name, gen, value IS NULL FROM xattr WHERE ino = ?1 AND (?2 IS NULL OR name < ?2) AND gen <= ?3 \
         ORDER BY name DESC, gen DESC",
    )?;
    let params = (ino as i64, before, lineage.head() as i64);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    let mut out: Vec<Box<[u8]>> = Vec::new();
    let mut seen: Option<Box<[u8]>> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let name: Box<[u8]> = row.get::<_, Vec<u8>>(0)?.into();
        if seen.as_ref() == Some(&name) || !lineage.contains(row.get::<_, i64>(1)? as Gen) {
            continue;
        }
        if !row.get::<_, bool>(2)? {
            if out.len() == limit {
                return Ok((out, true));
            }
            out.push(name.clone());
        }
        seen = Some(name);
    }
    Ok((out, false))
}

/// Whether `ino` has any attribute.
pub(super) fn has_any(db: &Db, lineage: &Lineage, ino: Ino) -> Result<bool> {
    let mut statement = db.prepare(
        "SELECT name, gen, value IS NULL FROM xattr WHERE ino = ?1 AND gen <= ?2 ORDER BY name, gen DESC",
    )?;
    let mut rows = statement.query((ino as i64, lineage.head() as i64)).map_err(|e| db.explain(e))?;
    let mut seen: Option<Vec<u8>> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let name: Vec<u8> = row.get(0)?;
        if seen.as_ref() == Some(&name) || !lineage.contains(row.get::<_, i64>(1)? as Gen) {
            continue;
        }
        if !row.get::<_, bool>(2)? {
            return Ok(true);
        }
        seen = Some(name);
    }
    Ok(false)
}

/// Sets an attribute.
pub(super) fn put(
    db: &Db,
    lineage: &Lineage,
    usage: &mut Usage,
    ino: Ino,
    (name, value): (&[u8], &[u8]),
) -> Result<()> {
    usage.less_metadata(counted(db, lineage, ino, name)?)?;
    usage.metadata += charge::xattr(name.len(), value.len());
    let generation = hide(db, lineage, || Key::Xattr(ino, name.into()))?;
    write(db, generation, ino, name, Some(value))
}

fn write(db: &Db, generation: Gen, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO xattr VALUES (?1, ?2, ?3, ?4)",
        (ino as i64, name, generation as i64, value),
    )?;
    Ok(())
}

/// Removes an attribute that is there.
pub(super) fn remove(db: &Db, lineage: &Lineage, usage: &mut Usage, ino: Ino, name: &[u8]) -> Result<()> {
    usage.less_metadata(counted(db, lineage, ino, name)?)?;
    let key = || Key::Xattr(ino, name.into());
    let generation = hide(db, lineage, key)?;
    if rows::is_beneath(db, lineage, key)? {
        return write(db, generation, ino, name, None);
    }
    db.execute(
        "DELETE FROM xattr WHERE ino = ?1 AND name = ?2 AND gen = ?3",
        (ino as i64, name, generation as i64),
    )?;
    Ok(())
}

/// A look through the attributes of all inodes for a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct XattrLook {
    /// The inodes up to this one were looked at.
    after: Ino,
    rows: usize,
}

/// Goes on with a look at `limit` rows, until it is late: whether any inode of the family may have an attribute `name`, or had one. `None`: it
/// is to be gone on with.
pub(super) fn may_exist(db: &Db, name: &[u8], look: &mut XattrLook, limit: usize) -> Result<Option<bool>> {
    let mut statement = db.prepare("SELECT ino, name = ?1 FROM xattr WHERE ino > ?2 ORDER BY ino")?;
    let mut rows = statement.query((name, look.after as i64)).map_err(|e| db.explain(e))?;
    let mut at = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let ino = row.get::<_, i64>(0)? as Ino;
        if let Some(last) = at.filter(|last| *last != ino) {
            look.after = last;
            if db.is_late() {
                return Ok(None);
            }
        }
        at = Some(ino);
        look.rows += 1;
        if look.rows >= limit || row.get(1)? {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// Removes all attributes of `ino`.
pub(super) fn remove_all(db: &Db, lineage: &Lineage, usage: &mut Usage, ino: Ino) -> Result<()> {
    for (name, _) in lengths(db, lineage, ino)? {
        remove(db, lineage, usage, ino, &name)?;
    }
    Ok(())
}
