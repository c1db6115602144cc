//! The files, by number.

use crate::contents::Contents;
use fuser::{Errno, FileAttr, FileType, INodeNo};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub(crate) const ROOT: u64 = 1;

/// The names in a directory; each has a cookie for readdir, which it keeps.
#[derive(Debug, Default)]
pub(crate) struct Names {
    cookies: HashMap<OsString, u64>,
    entries: BTreeMap<u64, (OsString, u64, FileType)>,
    last: u64,
}

impl Names {
    pub(crate) fn get(&self, name: &OsStr) -> Option<u64> {
        self.cookies.get(name).and_then(|cookie| self.entries.get(cookie)).map(|entry| entry.1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, name: &OsStr, ino: u64, kind: FileType) {
        // 1 and 2 are the dots.
        let cookie = self.last.max(2) + 1;
        self.last = cookie;
        self.cookies.insert(name.to_owned(), cookie);
        self.entries.insert(cookie, (name.to_owned(), ino, kind));
    }

    fn remove(&mut self, name: &OsStr) {
        if let Some(cookie) = self.cookies.remove(name) {
            self.entries.remove(&cookie);
        }
    }

    /// Entries whose cookies are greater than `after`: cookie, name, number, type.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &OsStr, u64, FileType)> {
        let entries = self.entries.range(after + 1..);
        entries.map(|(cookie, (name, ino, kind))| (*cookie, name.as_os_str(), *ino, *kind))
    }
}

#[derive(Debug)]
pub(crate) enum Body {
    File(RwLock<Contents>),
    Directory(Mutex<Names>),
    Symlink(Vec<u8>),
    /// A pipe, a socket, a device.
    Other,
}

#[derive(Debug)]
pub(crate) struct Node {
    attr: Mutex<FileAttr>,
    pub(crate) body: Body,
    /// How often the kernel was told of it.
    lookups: AtomicU64,
}

impl Node {
    pub(crate) fn attr(&self) -> FileAttr {
        let mut attr = *self.attr.lock();
        if let Body::File(contents) = &self.body {
            let contents = contents.read();
            attr.size = contents.len();
            attr.blocks = contents.held().div_ceil(4096) * 8;
        }
        attr
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut FileAttr)) {
        change(&mut self.attr.lock());
    }

    pub(crate) fn seen(&self) -> FileAttr {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.attr()
    }

    pub(crate) fn names(&self) -> Result<&Mutex<Names>, Errno> {
        match &self.body {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn file(&self) -> Result<&RwLock<Contents>, Errno> {
        match &self.body {
            Body::File(contents) => Ok(contents),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What a new node is made with.
#[derive(Debug)]
pub(crate) struct NewNode<'a> {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) umask: u32,
    pub(crate) rdev: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) target: &'a [u8],
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    next: AtomicU64,
    /// Held while names change.
    naming: Mutex<()>,
}

fn node(ino: u64, new: &NewNode<'_>) -> Node {
    let now = SystemTime::now();
    let body = match new.kind {
        FileType::RegularFile => Body::File(RwLock::default()),
        FileType::Directory => Body::Directory(Mutex::default()),
        FileType::Symlink => Body::Symlink(new.target.to_vec()),
        _ => Body::Other,
    };
    let attr = FileAttr {
        ino: INodeNo(ino),
        size: new.target.len() as u64,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind: new.kind,
        perm: (new.mode & 0o7777 & !new.umask) as u16,
        nlink: if new.kind == FileType::Directory { 2 } else { 1 },
        uid: new.uid,
        gid: new.gid,
        rdev: new.rdev,
        blksize: 4096,
        flags: 0,
    };
    Node { attr: Mutex::new(attr), body, lookups: AtomicU64::new(0) }
}

impl Tree {
    pub(crate) fn new() -> Self {
        let kind = FileType::Directory;
        let root = NewNode { kind, mode: 0o755, umask: 0, rdev: 0, uid: 0, gid: 0, target: b"" };
        let nodes = HashMap::from([(ROOT, Arc::new(node(ROOT, &root)))]);
        Self { nodes: RwLock::new(nodes), next: AtomicU64::new(ROOT + 1), naming: Mutex::new(()) }
    }

    pub(crate) fn get(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.read().get(&ino).cloned().ok_or(Errno::ENOENT)
    }

    /// The number of nodes.
    pub(crate) fn count(&self) -> u64 {
        self.nodes.read().len() as u64
    }

    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Arc<Node>, Errno> {
        let ino = self.get(parent)?.names()?.lock().get(name);
        self.get(ino.ok_or(Errno::ENOENT)?)
    }

    pub(crate) fn make(&self, parent: u64, name: &OsStr, new: &NewNode<'_>) -> Result<Arc<Node>, Errno> {
        let _naming = self.naming.lock();
        let dir = self.get(parent)?;
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(node(ino, new));
        let mut names = dir.names()?.lock();
        if names.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        names.insert(name, ino, new.kind);
        drop(names);
        self.nodes.write().insert(ino, Arc::clone(&node));
        touch(&dir, i64::from(new.kind == FileType::Directory));
        Ok(node)
    }

    pub(crate) fn link(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Arc<Node>, Errno> {
        let _naming = self.naming.lock();
        let (node, dir) = (self.get(ino)?, self.get(parent)?);
        let mut names = dir.names()?.lock();
        if names.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        names.insert(name, ino, node.attr().kind);
        drop(names);
        node.change(|attr| attr.nlink += 1);
        touch(&dir, 0);
        Ok(node)
    }

    pub(crate) fn unlink(&self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let _naming = self.naming.lock();
        let dir = self.get(parent)?;
        let node = self.lookup(parent, name)?;
        match (&node.body, directory) {
            (Body::Directory(names), true) if !names.lock().is_empty() => return Err(Errno::ENOTEMPTY),
            (Body::Directory(_), false) => return Err(Errno::EISDIR),
            (Body::Directory(_), true) | (_, false) => {}
            (_, true) => return Err(Errno::ENOTDIR),
        }
        dir.names()?.lock().remove(name);
        touch(&dir, -i64::from(directory));
        self.unlinked(&node);
        Ok(())
    }

    fn unlinked(&self, node: &Node) {
        node.change(|attr| {
            attr.nlink = if attr.kind == FileType::Directory { 0 } else { attr.nlink.saturating_sub(1) };
            attr.ctime = SystemTime::now();
        });
        self.drop_unused(node, node.lookups.load(Ordering::Relaxed));
    }

    fn drop_unused(&self, node: &Node, lookups: u64) {
        let attr = node.attr.lock();
        if attr.nlink == 0 && lookups == 0 {
            self.nodes.write().remove(&attr.ino.0);
        }
    }

    pub(crate) fn forget(&self, ino: u64, count: u64) {
        if let Ok(node) = self.get(ino) {
            let before = node.lookups.fetch_sub(count, Ordering::Relaxed);
            self.drop_unused(&node, before.saturating_sub(count));
        }
    }

    /// Renames; with `exchange`, both names stay and change their files; without `replace`, the new name must be free.
    pub(crate) fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        replace: bool,
        exchange: bool,
    ) -> Result<(), Errno> {
        let _naming = self.naming.lock();
        let (old_dir, new_dir) = (self.get(from.0)?, self.get(to.0)?);
        let node = self.lookup(from.0, from.1)?;
        let other = self.lookup(to.0, to.1).ok();
        let attr = node.attr();
        match &other {
            Some(other) if other.attr().ino == attr.ino => return Ok(()),
            Some(_) if !replace && !exchange => return Err(Errno::EEXIST),
            Some(other) if !exchange => match &other.body {
                Body::Directory(names) if !names.lock().is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            },
            None if exchange => return Err(Errno::ENOENT),
            _ => {}
        }
        old_dir.names()?.lock().remove(from.1);
        new_dir.names()?.lock().remove(to.1);
        new_dir.names()?.lock().insert(to.1, attr.ino.0, attr.kind);
        let is_dir = i64::from(attr.kind == FileType::Directory);
        touch(&old_dir, -is_dir);
        touch(&new_dir, is_dir);
        if let Some(other) = other {
            let attr = other.attr();
            let is_dir = i64::from(attr.kind == FileType::Directory);
            touch(&new_dir, -is_dir);
            if exchange {
                old_dir.names()?.lock().insert(from.1, attr.ino.0, attr.kind);
                touch(&old_dir, is_dir);
            } else {
                self.unlinked(&other);
            }
        }
        Ok(())
    }
}

/// The names in a directory have changed, and `links` more directories are in it.
fn touch(dir: &Node, links: i64) {
    let now = SystemTime::now();
    dir.change(|attr| {
        (attr.mtime, attr.ctime) = (now, now);
        attr.nlink = u32::try_from(i64::from(attr.nlink) + links).unwrap_or(attr.nlink);
    });
}
