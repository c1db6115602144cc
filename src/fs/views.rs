//! One mount, several views: the volume as it is, and its snapshots under a hidden directory at its root.
//!
//! A node of a mount is an inode in a view. The upper bits of its number say which view: 0 is the volume itself, so that its
//! nodes have the numbers of their inodes. The directory `.snapshots` is a view of its own, with one node.
//!
//! When a mounted volume is rolled back, it gets a new view, and every node of the old one but the root is stale for good.

use super::{Attr, Entry, EntryWithAttr, Fs, FsError, FsOptions, Ino, Kind, ROOT_INO, Result, VolumeId};
use crate::meta::SnapshotRow;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of the directory with the snapshots.
const SNAPSHOTS_NAME: &[u8] = b".snapshots";
/// Bits of a node's number that are the inode's.
const INO_BITS: u32 = 48;
const SNAPSHOTS_VIEW: u64 = 0xffff;
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
}

impl At {
    /// The number that an inode of the same view has as a node.
    pub fn node(&self, ino: Ino) -> Node {
        // The root of a mount has the same number as long as it lives.
        if self.is_live && ino == ROOT_INO { ROOT_INO } else { self.view << INO_BITS | ino }
    }

    /// Attributes with the number of the node.
    #[must_use]
    pub fn seen(&self, attr: Attr) -> Attr {
        Attr { ino: self.node(attr.ino), ..attr }
    }
}

/// A node, by what can be done with it.
#[derive(Clone, Debug)]
pub enum Place {
    /// An inode of the volume or of a snapshot.
    Inode(At),
    /// The directory with the snapshots.
    Snapshots,
}

/// A view that has a number of its own.
#[derive(Debug)]
enum Slot {
    /// A snapshot that was listed or looked at; opened when it is used.
    Snapshot(VolumeId, Option<Arc<Fs>>),
    /// The volume, after it was rolled back.
    Live,
}

/// The views of one mount.
#[derive(Debug)]
pub struct Views {
    live: Arc<Fs>,
    /// Whether the snapshots can be seen.
    with_snapshots: bool,
    /// From view 1 on.
    slots: RwLock<Vec<Slot>>,
    /// The view that is the volume as it is now.
    live_view: AtomicU64,
    /// Held by every operation, and alone by a rollback.
    quiet: RwLock<()>,
    /// The newest listing that was given: number of snapshots, and the newest of them.
    listed: Mutex<(usize, VolumeId)>,
}

impl Views {
    /// The views of the volume behind `live`.
    pub fn new(live: Arc<Fs>, with_snapshots: bool) -> Self {
        Self {
            live,
            with_snapshots,
            slots: RwLock::default(),
            live_view: AtomicU64::new(0),
            quiet: RwLock::new(()),
            listed: Mutex::default(),
        }
    }

    /// The volume as it is.
    pub fn live(&self) -> &Arc<Fs> {
        &self.live
    }

    /// Whether a node is one of the volume as it is.
    pub fn is_live(&self, node: Node) -> bool {
        node == ROOT_INO || node >> INO_BITS == self.live_view.load(Ordering::Acquire)
    }

    /// The node of an inode of the volume as it is.
    pub fn live_node(&self, ino: Ino) -> Node {
        if ino == ROOT_INO { ROOT_INO } else { self.live_view.load(Ordering::Acquire) << INO_BITS | ino }
    }

    /// Keeps the volume from being rolled back as long as the guard lives. Every operation needs one.
    pub fn busy(&self) -> RwLockReadGuard<'_, ()> {
        // An operation can be part of another one.
        self.quiet.read_recursive()
    }

    /// Lets `change` put another state in the volume's place, while nothing else happens. If it does, everything that the
    /// kernel knows of the volume is stale; returns that, and the names in the root directory that it has to be told of.
    ///
    /// # Errors
    /// As `change`, and nothing has happened then.
    pub fn replace<T, E>(&self, change: impl FnOnce() -> Result<T, E>) -> Result<(T, Names), E> {
        let _alone = self.quiet.write();
        let mut names = self.root_names();
        let value = change()?;
        let mut slots = self.slots.write();
        slots.push(Slot::Live);
        self.live.forget_state();
        self.live_view.store(slots.len() as u64, Ordering::Release);
        names.extend(self.root_names());
        Ok((value, names))
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
    /// `NotFound` for one of a view that never was.
    pub fn place(&self, node: Node) -> Result<Place> {
        let (view, ino) = (node >> INO_BITS, node & ((1 << INO_BITS) - 1));
        let live_view = self.live_view.load(Ordering::Acquire);
        if node == ROOT_INO || view == live_view {
            return Ok(Place::Inode(At { fs: Arc::clone(&self.live), ino, view: live_view, is_live: true }));
        }
        match view {
            0 => Err(FsError::Stale),
            SNAPSHOTS_VIEW => Ok(Place::Snapshots),
            _ => Ok(Place::Inode(At { fs: self.open(view)?, ino, view, is_live: false })),
        }
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
        let root = self.live.getattr(ROOT_INO)?;
        let names = self.rows()?;
        let newest = names.iter().map(|row| row.created as i64).max();
        let time = crate::meta::Timestamp { sec: newest.unwrap_or(root.btime.sec), nsec: names.len() as u32 };
        Ok(Attr {
            ino: SNAPSHOTS_NODE,
            kind: Kind::Directory,
            permissions: 0o555,
            nlink: 2 + names.len() as u32,
            size: names.len() as u64,
            blocks: 0,
            // Different whenever a snapshot came or went, so that nobody keeps an old listing.
            mtime: time,
            ctime: time,
            ..root
        })
    }

    /// Whether snapshots came or went since this was last asked: the kernel keeps listings.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots_changed(&self) -> Result<bool> {
        let rows = self.rows()?;
        let now = (rows.len(), rows.last().map_or(0, |row| row.id));
        Ok(std::mem::replace(&mut *self.listed.lock(), now) != now)
    }

    fn rows(&self) -> Result<Vec<SnapshotRow>> {
        let mut rows = self.live.store().meta().snapshots()?;
        rows.retain(|row| row.volume == self.live.volume());
        Ok(rows)
    }

    /// The root directory of a snapshot. The kernel counts the reply.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, or as the metadata.
    pub fn lookup_snapshot(&self, name: &[u8]) -> Result<Attr> {
        let row = self.rows()?.into_iter().find(|row| row.name.as_bytes() == name);
        let view = self.view_of(row.ok_or(FsError::NotFound)?.id)?;
        let at = At { fs: self.open(view)?, ino: ROOT_INO, view, is_live: false };
        Ok(at.seen(at.fs.lookup(ROOT_INO, b".")?))
    }

    /// The number of a snapshot's view.
    fn view_of(&self, id: VolumeId) -> Result<u64> {
        let mut slots = self.slots.write();
        let is_it = |slot: &Slot| matches!(slot, Slot::Snapshot(known, _) if *known == id);
        if let Some(at) = slots.iter().position(is_it) {
            return Ok(at as u64 + 1);
        }
        if slots.len() as u64 + 2 >= SNAPSHOTS_VIEW {
            return Err(FsError::NoSpace);
        }
        slots.push(Slot::Snapshot(id, None));
        Ok(slots.len() as u64)
    }

    /// The file system of a snapshot's view.
    fn open(&self, view: u64) -> Result<Arc<Fs>> {
        let at = view as usize - 1;
        match self.slots.read().get(at) {
            Some(Slot::Snapshot(_, Some(fs))) => return Ok(Arc::clone(fs)),
            Some(Slot::Snapshot(_, None)) => {}
            Some(Slot::Live) => return Err(FsError::Stale),
            None => return Err(FsError::NotFound),
        }
        let mut slots = self.slots.write();
        let Some(Slot::Snapshot(id, slot)) = slots.get_mut(at) else { return Err(FsError::NotFound) };
        self.live.store().meta().open_snapshot(*id)?;
        let options = FsOptions { read_only: true, ..FsOptions::default() };
        let fs = slot.get_or_insert_with(|| Arc::new(Fs::new(Arc::clone(self.live.store()), *id, options)));
        Ok(Arc::clone(fs))
    }

    /// Calls `take` with the snapshots behind `cookie` until it returns false. They are not opened for that: the
    /// attributes only say that they are directories, and are not to be kept.
    ///
    /// # Errors
    /// As the metadata.
    pub fn list_snapshots(&self, cookie: u64, mut take: impl FnMut(&EntryWithAttr) -> bool) -> Result<()> {
        let attr = self.snapshots_attr()?;
        let dots = [(&b"."[..], SNAPSHOTS_NODE), (b"..", ROOT_INO)];
        let dots = dots.iter().map(|(name, node)| (name.to_vec(), *node, false));
        let rows = self.rows()?;
        let mut names = Vec::with_capacity(rows.len());
        for row in rows {
            names.push((row.name.into_bytes(), self.view_of(row.id)? << INO_BITS | ROOT_INO, true));
        }
        for (at, (name, node, is_snapshot)) in dots.chain(names).enumerate().skip(cookie as usize) {
            let entry = Entry { name: name.into(), ino: node, kind: Kind::Directory, cookie: at as u64 + 1 };
            if !take(&(entry, is_snapshot.then_some(Attr { ino: node, ..attr }))) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The kernel has forgotten everything.
    pub fn forget_all(&self) {
        self.live.forget_all();
        let mut meta = self.live.store().meta();
        for slot in self.slots.write().drain(..) {
            if let Slot::Snapshot(id, _) = slot {
                meta.close_snapshot(id);
            }
        }
    }
}
