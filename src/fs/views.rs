//! One mount, several views: the volume as it is, and its snapshots under a hidden directory at its root.
//!
//! A node of a mount is an inode in a view. The upper bits of its number say which view: 0 is the volume itself, so that its
//! nodes have the numbers of their inodes. The directory `.snapshots` is a view of its own, with one node.
//!
//! When a mounted volume is rolled back, it gets a new view, and every node of the old one but the root is stale for good. So is
//! a node of a snapshot that was removed.

use super::{
    Attr, Entry, EntryWithAttr, Fs, FsError, FsOptions, Ino, Kind, Privileges, ROOT_INO, Result, VolumeId,
};
use crate::meta::SnapshotRow;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Name of the directory with the snapshots.
const SNAPSHOTS_NAME: &[u8] = b".snapshots";
/// Bits of a node's number that are the inode's.
const INO_BITS: u32 = 48;
const SNAPSHOTS_VIEW: u64 = 0xffff;
/// Snapshots that are kept open for one mount.
const OPEN_MAX: usize = 32;
/// The node of the directory with the snapshots.
pub const SNAPSHOTS_NODE: u64 = SNAPSHOTS_VIEW << INO_BITS | ROOT_INO;

/// Number of a node of a mount.
pub type Node = u64;

/// Names in a directory.
pub type Names = Vec<Box<[u8]>>;

/// An inode in a view.
#[derive(Clone, Debug)]
pub struct At {
    /// The file system of the view.
    pub fs: Arc<Fs>,
    /// The inode.
    pub ino: Ino,
    view: u64,
    is_live: bool,
    /// Goes into generations; `None` if the kernel takes none.
    salt: Option<u64>,
}

impl At {
    /// The number that an inode of the same view has as a node.
    pub fn node(&self, ino: Ino) -> Node {
        if self.is_live { live_node(self.view, ino) } else { self.view << INO_BITS | ino }
    }

    /// Attributes with the number of the node and its generation.
    #[must_use]
    pub fn seen(&self, attr: Attr) -> Attr {
        let generation = self.salt.map_or(0, |salt| attr.generation_in(salt));
        Attr { ino: self.node(attr.ino), generation, ..attr }
    }

    /// Whether it is the root directory of a snapshot.
    pub fn is_snapshot_root(&self) -> bool {
        !self.is_live && self.ino == ROOT_INO
    }
}

/// The node of an inode of the volume as it is, in view `view`.
fn live_node(view: u64, ino: Ino) -> Node {
    // The root of a mount has the same number as long as it lives.
    if ino == ROOT_INO { ROOT_INO } else { view << INO_BITS | ino }
}

/// A node, by what can be done with it.
#[derive(Clone, Debug)]
pub enum Place {
    /// An inode of the volume or of a snapshot.
    Inode(At),
    /// The directory with the snapshots.
    Snapshots,
}

/// What happened to the numbers of views. Whoever takes the mount over has to give them the same meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViewChange {
    /// The next number is that of a snapshot.
    Snapshot(VolumeId),
    /// The next number is that of the volume, which is about to be rolled back.
    Live,
    /// It was not rolled back: the last number is free again.
    Undone,
}

/// Told of a change before anything follows from it: it is to be kept where it outlives this process.
pub type KeepView = Box<dyn Fn(ViewChange) + Send + Sync>;

/// A snapshot that is open.
#[derive(Debug)]
struct Opened {
    fs: Arc<Fs>,
    /// When it was last used, in openings of snapshots.
    used: AtomicU64,
}

/// A view that has a number of its own.
#[derive(Debug)]
enum Slot {
    /// A snapshot that was listed or looked at; opened when it is used, and closed when many others were used since.
    Snapshot(VolumeId, Option<Opened>),
    /// The volume, after it was rolled back.
    Live,
}

/// The views that have numbers: from 1 on, and never another one for a number that was given.
struct Slots {
    slots: Vec<Slot>,
    /// Views of snapshots that are open.
    open: Vec<u64>,
    /// Openings of snapshots so far.
    openings: u64,
    views: FxHashMap<VolumeId, u64>,
    keep: KeepView,
    /// It is not known whether the volume was rolled back when that was last tried, and whether the next number is taken: whoever takes
    /// over will find out.
    is_undecided: bool,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Slots {
    /// Whether the volume was rolled back by one of `changes` and stayed so.
    fn is_rolled_back(changes: &[ViewChange]) -> bool {
        let count = |wanted: ViewChange| changes.iter().filter(|change| **change == wanted).count();
        count(ViewChange::Live) > count(ViewChange::Undone)
    }

    /// The views as they were left.
    fn after(changes: &[ViewChange], keep: KeepView) -> Self {
        let (open, views) = (Vec::new(), FxHashMap::default());
        let mut slots = Self { slots: Vec::new(), open, openings: 0, views, keep, is_undecided: false };
        for change in changes {
            match *change {
                ViewChange::Snapshot(id) => {
                    let view = slots.add(Slot::Snapshot(id, None));
                    slots.views.insert(id, view);
                }
                ViewChange::Live => drop(slots.add(Slot::Live)),
                ViewChange::Undone => drop(slots.slots.pop()),
            }
        }
        slots
    }

    /// The number of the view that is the volume as it is now.
    fn live(&self) -> u64 {
        self.slots.iter().rposition(|slot| matches!(slot, Slot::Live)).map_or(0, |at| at as u64 + 1)
    }

    fn add(&mut self, slot: Slot) -> u64 {
        self.slots.push(slot);
        self.slots.len() as u64
    }

    fn get(&self, view: u64) -> Option<&Slot> {
        self.slots.get(view as usize - 1)
    }

    /// The number of a snapshot's view.
    fn of(&mut self, id: VolumeId) -> Result<u64> {
        if let Some(view) = self.views.get(&id) {
            return Ok(*view);
        }
        if self.slots.len() as u64 + 2 >= SNAPSHOTS_VIEW {
            return Err(FsError::NoSpace);
        }
        if self.is_undecided {
            return Err(FsError::Io);
        }
        (self.keep)(ViewChange::Snapshot(id));
        let view = self.add(Slot::Snapshot(id, None));
        self.views.insert(id, view);
        Ok(view)
    }

    /// The file system of a view, if it is that of a snapshot that is open.
    fn opened(&self, view: u64) -> Option<Arc<Fs>> {
        let Some(Slot::Snapshot(_, Some(opened))) = self.get(view) else { return None };
        opened.used.store(self.openings, Ordering::Relaxed);
        Some(Arc::clone(&opened.fs))
    }

    /// Notes that the snapshot of a view was opened, and closes the one that was used longest ago if there are too many.
    fn note_opened(&mut self, view: u64, fs: Arc<Fs>) {
        if self.open.len() >= OPEN_MAX {
            let used = |view: &u64| match self.get(*view) {
                Some(Slot::Snapshot(_, Some(opened))) => opened.used.load(Ordering::Relaxed),
                _ => 0,
            };
            if let Some((at, oldest)) =
                self.open.iter().copied().enumerate().min_by_key(|(_, view)| used(view))
            {
                self.open.swap_remove(at);
                if let Some(Slot::Snapshot(_, opened)) = self.slots.get_mut(oldest as usize - 1) {
                    *opened = None;
                }
            }
        }
        self.openings += 1;
        let used = AtomicU64::new(self.openings);
        if let Some(Slot::Snapshot(_, opened)) = self.slots.get_mut(view as usize - 1) {
            *opened = Some(Opened { fs, used });
            self.open.push(view);
        }
    }
}

/// The views of one mount.
#[derive(Debug)]
pub struct Views {
    live: Arc<Fs>,
    /// Whether the snapshots can be seen.
    with_snapshots: bool,
    slots: RwLock<Slots>,
    /// The view that is the volume as it is now.
    live_view: AtomicU64,
    /// The kernel may know names of a state that is gone.
    in_doubt: bool,
    /// Whether the kernel takes generations, for file handles.
    with_handles: AtomicBool,
    /// Held by every operation, and alone by a rollback.
    quiet: RwLock<()>,
    /// The newest listing that was given; see [`listing`].
    listed: Mutex<u64>,
}

impl Views {
    /// The views of the volume behind `live`, after what happened to them before a take-over. Of the first `told` of these
    /// changes, the kernel was told.
    pub fn new(
        live: Arc<Fs>,
        with_snapshots: bool,
        (before, told): (&[ViewChange], usize),
        keep: KeepView,
    ) -> Self {
        let slots = Slots::after(before, keep);
        Self {
            live,
            with_snapshots,
            live_view: AtomicU64::new(slots.live()),
            slots: RwLock::new(slots),
            in_doubt: Slots::is_rolled_back(before.get(told..).unwrap_or_default()),
            with_handles: AtomicBool::new(false),
            quiet: RwLock::new(()),
            listed: Mutex::default(),
        }
    }

    /// The volume as it is.
    pub fn live(&self) -> &Arc<Fs> {
        &self.live
    }

    /// From now on, nodes have generations: what the kernel keeps of them can be found again by a file handle. Not to change
    /// while it knows any.
    pub fn with_handles(&self, with_handles: bool) {
        self.with_handles.store(with_handles, Ordering::Release);
    }

    /// What goes into generations of nodes of a view.
    fn salt(&self, snapshot: Option<VolumeId>) -> Option<u64> {
        self.with_handles.load(Ordering::Acquire).then_some(snapshot.unwrap_or(0))
    }

    /// Whether a node is one of the volume as it is.
    pub fn is_live(&self, node: Node) -> bool {
        node == ROOT_INO || node >> INO_BITS == self.live_view.load(Ordering::Acquire)
    }

    /// The node of an inode of the volume as it is.
    pub fn live_node(&self, ino: Ino) -> Node {
        live_node(self.live_view.load(Ordering::Acquire), ino)
    }

    /// Keeps the volume from being rolled back as long as the guard lives. Every operation needs one, and only one: a rollback
    /// that waits comes before all who come after it, and would wait for ever for an operation that waits behind it.
    pub fn busy(&self) -> RwLockReadGuard<'_, ()> {
        self.quiet.read()
    }

    /// Lets `change` put another state in the volume's place, while nothing else happens. If it does, everything that the
    /// kernel knows of the volume is stale; returns that, and the names in the root directory that it has to be told of.
    ///
    /// # Errors
    /// As `change`. Nothing has happened then, or, where the store takes no more changes, it is not known whether it has.
    pub fn replace<T, E>(&self, change: impl FnOnce() -> Result<T, E>) -> Result<(T, Names), E> {
        let _alone = self.quiet.write();
        let mut names = self.root_names();
        let mut slots = self.slots.write();
        if !slots.is_undecided {
            (slots.keep)(ViewChange::Live);
        }
        let value = match change() {
            Ok(value) => value,
            Err(e) => {
                slots.is_undecided = !self.live.store().health().is_good();
                if !slots.is_undecided {
                    (slots.keep)(ViewChange::Undone);
                }
                return Err(e);
            }
        };
        let view = slots.add(Slot::Live);
        self.live.forget_state();
        self.live_view.store(view, Ordering::Release);
        names.extend(self.root_names());
        Ok((value, names))
    }

    /// Names in the root directory that the kernel may take for those of a state that is gone: the server before this one
    /// rolled the volume back and could not tell it any more.
    pub fn names_in_doubt(&self) -> Names {
        if self.in_doubt { self.root_names() } else { Names::new() }
    }

    /// Whether there may have been such names when the mount was taken over.
    pub fn was_in_doubt(&self) -> bool {
        self.in_doubt
    }

    fn root_names(&self) -> Names {
        let mut names = Vec::new();
        // What cannot be listed now, the kernel finds out by itself: its node is stale.
        let _ = self.live.readdir(ROOT_INO, 0, |entry| {
            names.push(entry.name.clone());
            true
        });
        names
    }

    /// What a node stands for.
    ///
    /// # Errors
    /// `Stale` for one of a view that is gone.
    pub fn place(&self, node: Node) -> Result<Place> {
        let (view, ino) = (node >> INO_BITS, node & ((1 << INO_BITS) - 1));
        let live_view = self.live_view.load(Ordering::Acquire);
        if node == ROOT_INO || view == live_view {
            let (fs, salt) = (Arc::clone(&self.live), self.salt(None));
            return Ok(Place::Inode(At { fs, ino, view: live_view, is_live: true, salt }));
        }
        match view {
            0 => Err(FsError::Stale),
            SNAPSHOTS_VIEW => Ok(Place::Snapshots),
            _ => self.at_snapshot(view, ino).map(Place::Inode),
        }
    }

    fn at_snapshot(&self, view: u64, ino: Ino) -> Result<At> {
        let fs = self.open(view)?;
        let salt = self.salt(Some(fs.volume()));
        Ok(At { fs, ino, view, is_live: false, salt })
    }

    /// Whether `name` in the directory `parent` is that of the directory with the snapshots.
    pub fn is_snapshots(&self, parent: Node, name: &[u8]) -> bool {
        self.with_snapshots && parent == ROOT_INO && name == SNAPSHOTS_NAME
    }

    /// The attributes of the directory with the snapshots.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots_attr(&self) -> Result<Attr> {
        self.directory(&self.rows()?)
    }

    /// The attributes of the directory with these snapshots.
    fn directory(&self, rows: &[SnapshotRow]) -> Result<Attr> {
        let root = self.live.getattr(ROOT_INO)?;
        let newest = rows.iter().map(|row| row.created as i64).max();
        let nsec = (listing(rows) % 1_000_000_000) as u32;
        let time = crate::meta::Timestamp { sec: newest.unwrap_or(root.btime.sec), nsec };
        Ok(Attr {
            ino: SNAPSHOTS_NODE,
            kind: Kind::Directory,
            permissions: 0o555,
            nlink: 2 + rows.len() as u32,
            size: rows.len() as u64,
            blocks: 0,
            // Different, but for a chance of one in 10^9, whenever a snapshot came or went or got another name, so that nobody keeps an
            // old listing.
            mtime: time,
            ctime: time,
            ..root
        })
    }

    /// Whether snapshots came or went, or got other names, since this was last asked: the kernel keeps listings.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots_changed(&self) -> Result<bool> {
        let now = listing(&self.rows()?);
        Ok(std::mem::replace(&mut *self.listed.lock(), now) != now)
    }

    fn rows(&self) -> Result<Vec<SnapshotRow>> {
        Ok(self.live.store().meta().snapshots_of(self.live.volume())?)
    }

    /// The root directory of a snapshot. The kernel counts the reply.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, or as the metadata.
    pub fn lookup_snapshot(&self, name: &[u8]) -> Result<Attr> {
        let name = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        let row = self.live.store().meta().snapshot(self.live.volume(), name)?;
        let view = self.slots.write().of(row.ok_or(FsError::NotFound)?.id)?;
        let found = self.at_snapshot(view, ROOT_INO);
        match found.and_then(|at| Ok(at.seen(at.fs.lookup(ROOT_INO, b".")?))) {
            // It was removed a moment ago.
            Err(FsError::Stale) => Err(FsError::NotFound),
            other => other,
        }
    }

    /// The file system of a snapshot's view.
    fn open(&self, view: u64) -> Result<Arc<Fs>> {
        if let Some(fs) = self.slots.read().opened(view) {
            return Ok(fs);
        }
        let mut slots = self.slots.write();
        let id = match slots.get(view) {
            Some(Slot::Snapshot(_, Some(opened))) => return Ok(Arc::clone(&opened.fs)),
            Some(Slot::Snapshot(id, None)) => *id,
            Some(Slot::Live) | None => return Err(FsError::Stale),
        };
        let store = self.live.store();
        let hold = store.meta().open_snapshot(id)?;
        let (store, options) =
            (Arc::clone(store), FsOptions { compat32: self.live.options().compat32, ..FsOptions::default() });
        let fs = Arc::new(Fs::of_snapshot(store, id, hold, options, Privileges::Hidden));
        slots.note_opened(view, Arc::clone(&fs));
        Ok(fs)
    }

    /// Calls `take` with the snapshots behind `cookie` until it returns false. They are not opened for that: the
    /// attributes only say that they are directories, and are not to be kept.
    ///
    /// # Errors
    /// As the metadata.
    pub fn list_snapshots(&self, cookie: u64, mut take: impl FnMut(&EntryWithAttr) -> bool) -> Result<()> {
        let rows = self.rows()?;
        let attr = self.directory(&rows)?;
        let mut give = |at: usize, name: &[u8], node: Node, attr: Option<Attr>| {
            let (name, kind) = (name.into(), Kind::Directory);
            take(&(Entry { name, ino: node, kind, cookie: at as u64 + 1 }, attr))
        };
        let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
        let dots = [(&b"."[..], SNAPSHOTS_NODE), (b"..", ROOT_INO)];
        for (at, (name, node)) in dots.into_iter().enumerate().skip(skip) {
            if !give(at, name, node, None) {
                return Ok(());
            }
        }
        for (at, row) in rows.iter().enumerate().skip(skip.saturating_sub(dots.len())) {
            let node = self.slots.write().of(row.id)? << INO_BITS | ROOT_INO;
            let root = Attr { ino: ROOT_INO, ..attr };
            let generation = self.salt(Some(row.id)).map_or(0, |salt| root.generation_in(salt));
            if !give(dots.len() + at, row.name.as_bytes(), node, Some(Attr { ino: node, generation, ..attr }))
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The kernel has forgotten everything.
    pub fn forget_all(&self) {
        self.slots.write().slots.clear();
        self.live.forget_all();
    }
}

/// A number for which snapshots there are and what they are called: another one for another listing, as good as always.
fn listing(rows: &[SnapshotRow]) -> u64 {
    let mut hasher = FxHasher::default();
    for row in rows {
        (row.id, &row.name).hash(&mut hasher);
    }
    hasher.finish()
}
