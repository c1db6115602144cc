//! What changed between two views of a family, found by looking at the rows that were written between them.

use super::db::Db;
use super::error::Result;
use super::generation::{Generations, Lineage};
use super::types::{Gen, Ino, Inode, Kind, ROOT_INO};
use super::{dentry, inode, xattr};
use std::collections::{BTreeMap, BTreeSet};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is there in the second view only.
    Added,
    /// It is there in the first view only.
    Removed,
    /// Contents or attributes are different.
    Modified,
    /// The same inode is somewhere else.
    Renamed,
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path: in the second view, of something removed in the first.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
    /// Where it was, if it was renamed.
    pub from: Option<Vec<u8>>,
}

struct View<'a> {
    db: &'a Db,
    lineage: Lineage,
    /// Names of directories in theirs, by inode.
    names: BTreeMap<Ino, Option<(Ino, Vec<u8>)>>,
}

impl View<'_> {
    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        inode::look(self.db, &self.lineage, ino)
    }

    /// The path of a directory; `None` if it has none.
    fn directory(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            match self.name_of(at)? {
                Some((parent, name)) => {
                    parts.push(name);
                    at = parent;
                }
                None => return Ok(None),
            }
        }
        parts.reverse();
        Ok(Some(parts.into_iter().flat_map(|name| [b"/".to_vec(), name].concat()).collect()))
    }

    fn name_of(&mut self, ino: Ino) -> Result<Option<(Ino, Vec<u8>)>> {
        if let Some(known) = self.names.get(&ino) {
            return Ok(known.clone());
        }
        let parent =
            self.inode(ino)?.filter(|inode| inode.is_dir() && inode.nlink > 0).map(|inode| inode.parent);
        let mut found = None;
        if let Some(parent) = parent {
            found = dentry::name_of(self.db, &self.lineage, parent, ino)?.map(|name| (parent, name));
        }
        self.names.insert(ino, found.clone());
        Ok(found)
    }

    fn path(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.directory(parent)?.map(|dir| [&dir[..], b"/", name].concat()))
    }
}

/// What the rows of some generations are about.
#[derive(Default)]
struct Touched {
    names: BTreeSet<(Ino, u64, Vec<u8>)>,
    inodes: BTreeSet<Ino>,
}

fn touched(db: &Db, generations: &[Gen]) -> Result<Touched> {
    let mut out = Touched::default();
    for generation in generations {
        let mut statement = db.prepare("SELECT parent, hash, name FROM dentry WHERE gen = ?1 AND gen > 1")?;
        let mut rows = statement.query([*generation as i64]).map_err(|e| db.explain(e))?;
        while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
            out.names.insert((row.get::<_, i64>(0)? as Ino, row.get::<_, i64>(1)? as u64, row.get(2)?));
        }
        for sql in [
            "SELECT ino FROM inode WHERE gen = ?1 AND gen > 1",
            "SELECT DISTINCT ino FROM chunk WHERE gen = ?1 AND gen > 1",
            "SELECT DISTINCT ino FROM xattr WHERE gen = ?1 AND gen > 1",
        ] {
            let mut statement = db.prepare(sql)?;
            let mut rows = statement.query([*generation as i64]).map_err(|e| db.explain(e))?;
            while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
                out.inodes.insert(row.get::<_, i64>(0)? as Ino);
            }
        }
    }
    Ok(out)
}

/// Compares the views with the heads `one` and `two`.
pub(super) fn diff(db: &Db, generations: &Generations, one: Gen, two: Gen) -> Result<Vec<Change>> {
    let (first, second) = (generations.lineage(one)?, generations.lineage(two)?);
    let between = first.difference(&second);
    let touched = touched(db, &between)?;
    let view = |lineage| View { db, lineage, names: BTreeMap::new() };
    let (mut first, mut second) = (view(first), view(second));
    let mut removed: BTreeMap<Ino, Vec<Vec<u8>>> = BTreeMap::new();
    let mut added: Vec<(Ino, Vec<u8>)> = Vec::new();
    for (parent, hash, name) in &touched.names {
        let old = dentry::get(db, &first.lineage, *parent, *hash, name)?.map(|(ino, _)| ino);
        let new = dentry::get(db, &second.lineage, *parent, *hash, name)?.map(|(ino, _)| ino);
        if old == new {
            continue;
        }
        if let (Some(ino), Some(path)) = (old, first.path(*parent, name)?) {
            removed.entry(ino).or_default().push(path);
        }
        if let (Some(ino), Some(path)) = (new, second.path(*parent, name)?) {
            added.push((ino, path));
        }
    }
    let mut out = Vec::new();
    for (ino, path) in added {
        match removed.get_mut(&ino).and_then(Vec::pop) {
            Some(from) => out.push(Change { path, kind: ChangeKind::Renamed, from: Some(from) }),
            None => out.push(Change { path, kind: ChangeKind::Added, from: None }),
        }
    }
    for path in removed.into_values().flatten() {
        out.push(Change { path, kind: ChangeKind::Removed, from: None });
    }
    let moved: BTreeSet<Vec<u8>> = out.iter().map(|change| change.path.clone()).collect();
    for path in modified(&touched.inodes, &mut first, &mut second)? {
        if !moved.contains(&path) {
            out.push(Change { path, kind: ChangeKind::Modified, from: None });
        }
    }
    out.sort();
    Ok(out)
}

/// Paths of inodes that both views have and that are different.
fn modified(inodes: &BTreeSet<Ino>, first: &mut View<'_>, second: &mut View<'_>) -> Result<Vec<Vec<u8>>> {
    let mut changed = BTreeSet::new();
    for ino in inodes {
        let (Some(old), Some(new)) = (first.inode(*ino)?, second.inode(*ino)?) else { continue };
        let same_xattrs = || -> Result<bool> {
            let old = xattr::list(first.db, &first.lineage, *ino)?;
            Ok(old == xattr::list(second.db, &second.lineage, *ino)?)
        };
        // A directory whose entries changed says so by them; every change of contents changes mtime.
        let is_same = match new.kind() {
            Kind::Directory => {
                let seen = |inode: &Inode| (inode.mode, inode.uid, inode.gid, inode.xattrs.flags());
                seen(&old) == seen(&new)
            }
            _ => {
                let seen = |inode: &Inode| {
                    (
                        inode.mode,
                        inode.uid,
                        inode.gid,
                        inode.size,
                        inode.blocks,
                        inode.mtime,
                        inode.xattrs.flags(),
                        inode.target.clone(),
                    )
                };
                seen(&old) == seen(&new)
            }
        };
        if !is_same || !same_xattrs()? {
            changed.insert(*ino);
        }
    }
    let mut out = Vec::new();
    let mut scattered = BTreeSet::new();
    for ino in changed {
        let Some(inode) = second.inode(ino)?.filter(|inode| inode.nlink > 0) else { continue };
        if inode.is_dir() {
            out.extend(second.directory(ino)?.map(|path| if path.is_empty() { b"/".to_vec() } else { path }));
            continue;
        }
        match dentry::name_of(second.db, &second.lineage, inode.parent, ino)? {
            Some(name) if inode.nlink == 1 => out.extend(second.path(inode.parent, &name)?),
            _ => {
                scattered.insert(ino);
            }
        }
    }
    if scattered.is_empty() {
        return Ok(out);
    }
    // Inodes with several names, or whose only one is not where it was: all names have to be looked at.
    let mut found = Vec::new();
    dentry::scan(second.db, &second.lineage, |parent, entry| {
        if scattered.contains(&entry.ino) {
            found.push((parent, entry.name.to_vec()));
        }
        Ok(())
    })?;
    for (parent, name) in found {
        out.extend(second.path(parent, &name)?);
    }
    Ok(out)
}
