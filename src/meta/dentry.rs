//! The `dentry` table.

use super::charge;
use super::db::Db;
use super::error::{MetaError, Result};
use super::generation::Lineage;
use super::rows::{self, hide};
use super::shadow::Key;
use super::types::{Dentry, Gen, Ino, Kind, Usage};
use siphasher::sip::SipHasher24;

/// Cookies below this are taken: 0 is the start, 1 and 2 are `.` and `..`.
const HASH_MIN: u64 = 3;

/// Hashes names to readdir cookies, with the store's secret key: nobody can choose names that collide.
#[derive(Clone, Debug)]
pub(super) struct NameHash {
    hasher: SipHasher24,
}

impl NameHash {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(key) }
    }

    /// With the key of a store.
    pub(super) fn read(db: &Db) -> Result<Self> {
        let key: Vec<u8> = db.value("SELECT name_key FROM store")?;
        let key = key.try_into().map_err(|_| MetaError::damaged("the name key has a wrong length"))?;
        Ok(Self::new(&key))
    }

    /// 63 bits, so that it is a valid offset, and at least [`HASH_MIN`].
    pub(super) fn of(&self, name: &[u8]) -> u64 {
        (self.hasher.hash(name) >> 1).max(HASH_MIN)
    }
}

/// What `name` in `parent` stands for.
pub(super) fn get(
    db: &Db,
    lineage: &Lineage,
    parent: Ino,
    hash: u64,
    name: &[u8],
) -> Result<Option<(Ino, Kind)>> {
    let mut statement = db.prepare(
        "SELECT gen, ino, kind FROM dentry \
         WHERE parent = ?1 AND hash = ?2 AND name = ?3 AND gen <= ?4 ORDER BY gen DESC",
    )?;
    let params = (parent as i64, hash as i64, name, lineage.head() as i64);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let (generation, ino, kind): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if lineage.contains(generation as Gen) {
            return if ino == 0 { Ok(None) } else { target(parent, ino, kind).map(Some) };
        }
    }
    Ok(None)
}

fn target(parent: Ino, ino: i64, kind: i64) -> Result<(Ino, Kind)> {
    match Kind::of_number(kind) {
        Some(kind) if ino > 0 => Ok((ino as Ino, kind)),
        _ => Err(MetaError::damaged(format!("an entry of directory {parent} names an impossible inode"))),
    }
}

/// Adds a name that is not there.
pub(super) fn add(
    db: &Db,
    lineage: &Lineage,
    usage: &mut Usage,
    (parent, hash, name): (Ino, u64, &[u8]),
    to: (Ino, Kind),
) -> Result<()> {
    usage.metadata += charge::name(name);
    change(db, lineage, parent, hash, name, to)
}

/// Changes what a name stands for that is there.
pub(super) fn change(
    db: &Db,
    lineage: &Lineage,
    parent: Ino,
    hash: u64,
    name: &[u8],
    to: (Ino, Kind),
) -> Result<()> {
    let generation = hide(db, lineage, || Key::Dentry(parent, hash, name.into()))?;
    write(db, generation, parent, hash, name, (to.0, to.1 as i64))
}

fn write(db: &Db, generation: Gen, parent: Ino, hash: u64, name: &[u8], to: (Ino, i64)) -> Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO dentry VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (parent as i64, hash as i64, name, generation as i64, to.0 as i64, to.1),
    )?;
    Ok(())
}

/// Removes a name that is there.
pub(super) fn remove(
    db: &Db,
    lineage: &Lineage,
    usage: &mut Usage,
    (parent, hash, name): (Ino, u64, &[u8]),
) -> Result<()> {
    usage.less_metadata(charge::name(name))?;
    let key = || Key::Dentry(parent, hash, name.into());
    let generation = hide(db, lineage, key)?;
    if rows::is_beneath(db, lineage, key)? {
        return write(db, generation, parent, hash, name, (0, 0));
    }
    db.execute(
        "DELETE FROM dentry WHERE parent = ?1 AND hash = ?2 AND name = ?3 AND gen = ?4",
        (parent as i64, hash as i64, name, generation as i64),
    )?;
    Ok(())
}

/// Some entries of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// In the order of their hashes.
    pub entries: Vec<Dentry>,
    /// The cookie behind which there may be more; `None`: that was the end.
    pub next: Option<u64>,
}

/// Entries of `parent` behind the cookie `after`, in the order of their hashes, up to `limit`, and as many as are found in a look at
/// `work` rows. Names whose hashes are equal come together even if that exceeds both.
pub(super) fn list_some(
    db: &Db,
    lineage: &Lineage,
    parent: Ino,
    after: u64,
    (limit, work): (usize, u64),
) -> Result<Entries> {
    let mut statement = db.prepare(
        "SELECT hash, name, gen, ino, kind FROM dentry \
         WHERE parent = ?1 AND hash > ?2 AND gen <= ?3 ORDER BY hash, name, gen DESC",
    )?;
    let params = (parent as i64, after as i64, lineage.head() as i64);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    let mut entries: Vec<Dentry> = Vec::new();
    let mut last: Option<(u64, Box<[u8]>)> = None;
    let (mut at, mut left) = (after, work);
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let hash = row.get::<_, i64>(0)? as u64;
        if hash <= after || hash < at {
            return Err(MetaError::damaged(format!("the entries of directory {parent} are out of order")));
        }
        if hash != at && at != after && (entries.len() >= limit || left == 0) {
            return Ok(Entries { entries, next: Some(at) });
        }
        at = hash;
        db.count_rows(1);
        left = left.saturating_sub(1);
        let generation: i64 = row.get(2)?;
        if !lineage.contains(generation as Gen) {
            continue;
        }
        let name: Box<[u8]> = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?.into();
        if !lineage.is_single() {
            if last.as_ref().is_some_and(|(h, n)| *h == hash && *n == name) {
                continue;
            }
            last = Some((hash, name.clone()));
        }
        let ino: i64 = row.get(3)?;
        if ino != 0 {
            let (ino, kind) = target(parent, ino, row.get(4)?)?;
            entries.push(Dentry { hash, name, ino, kind });
        }
    }
    Ok(Entries { entries, next: None })
}

/// Up to `limit` entries of `parent` behind the cookie `after`, in the order of their hashes, however many rows that takes. Names
/// whose hashes are equal come together even if that exceeds the limit.
pub(super) fn list(db: &Db, lineage: &Lineage, parent: Ino, after: u64, limit: usize) -> Result<Vec<Dentry>> {
    Ok(list_some(db, lineage, parent, after, (limit, u64::MAX))?.entries)
}

/// Calls `each` with every entry and its directory.
pub(super) fn scan(
    db: &Db,
    lineage: &Lineage,
    mut each: impl FnMut(Ino, Dentry) -> Result<()>,
) -> Result<()> {
    let mut statement = db.prepare(
        "SELECT parent, hash, name, gen, ino, kind FROM dentry WHERE gen <= ?1 \
         ORDER BY parent, hash, name, gen DESC",
    )?;
    let mut rows = statement.query([lineage.head() as i64]).map_err(|e| db.explain(e))?;
    let mut last: Option<(i64, Box<[u8]>)> = None;
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let (parent, generation, ino): (i64, i64, i64) = (row.get(0)?, row.get(3)?, row.get(4)?);
        let name: Box<[u8]> = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?.into();
        let repeated = last.as_ref().is_some_and(|(p, n)| *p == parent && *n == name);
        if repeated || !lineage.contains(generation as Gen) {
            continue;
        }
        last = Some((parent, name.clone()));
        if ino != 0 {
            let (ino, kind) = target(parent as Ino, ino, row.get(5)?)?;
            each(parent as Ino, Dentry { hash: row.get::<_, i64>(1)? as u64, name, ino, kind })?;
        }
    }
    Ok(())
}

/// A name in `parent` that stands for `ino`, if there is one.
pub(super) fn name_of(db: &Db, lineage: &Lineage, parent: Ino, ino: Ino) -> Result<Option<Vec<u8>>> {
    const BATCH: usize = 1024;
    let mut after = 0;
    loop {
        let batch = list(db, lineage, parent, after, BATCH)?;
        if let Some(entry) = batch.iter().find(|entry| entry.ino == ino) {
            return Ok(Some(entry.name.to_vec()));
        }
        match batch.last() {
            Some(last) if batch.len() >= BATCH => after = last.hash,
            _ => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_offsets_and_leave_room_for_the_dots() {
        let hash = NameHash::new(&[7; 16]);
        for i in 0..10_000u32 {
            let cookie = hash.of(&i.to_le_bytes());
            assert!((HASH_MIN..=i64::MAX as u64).contains(&cookie));
        }
        assert_ne!(hash.of(b"a"), NameHash::new(&[8; 16]).of(b"a"));
        // Changing this value changes the format: it is SipHash-2-4 with that key, halved.
        assert_eq!(hash.of(b"name"), SipHasher24::new_with_key(&[7; 16]).hash(b"name") >> 1);
    }
}
