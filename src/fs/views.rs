//! One mount, several views: the volume as it is, and its snapshots under a hidden directory at its root.
//!
//! A node of a mount is an inode in a view. The upper bits of its number say which view: 0 is the volume itself, so that its
//! nodes have the numbers of their inodes. The directory `.snapshots` is a view of its own, with one node.

use super::{Attr, Entry, EntryWithAttr, Fs, FsError, FsOptions, Ino, Kind, ROOT_INO, Result, VolumeId};
use crate::meta::SnapshotRow;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

/// Name of the directory with the snapshots.
const SNAPSHOTS_NAME: &[u8] = b".snapshots";
/// Bits of a node's number that are the inode's.
const INO_BITS: u32 = 48;
const SNAPSHOTS_VIEW: u64 = 0xffff;
/// The node of the directory with the snapshots.
pub const SNAPSHOTS_NODE: u64 = SNAPSHOTS_VIEW << INO_BITS | ROOT_INO;

/// Number of a node of a mount.
pub type Node = u64;

/// An inode in a view.
#[derive(Clone, Debug)]
pub struct At {
    /// The file system of the view.
    pub fs: Arc<Fs>,
    /// The inode.
    pub ino: Ino,
    view: u64,
}

impl At {
    /// The number that an inode of the same view has as a node.
    pub fn node(&self, ino: Ino) -> Node {
        self.view << INO_BITS | ino
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

/// The views of one mount.
#[derive(Debug)]
pub struct Views {
    live: Arc<Fs>,
    /// Whether the snapshots can be seen.
    with_snapshots: bool,
    /// Those that were listed or looked at, in the order of their views; each is opened when it is used.
    snapshots: RwLock<Vec<(VolumeId, Option<Arc<Fs>>)>>,
    /// The newest listing that was given: number of snapshots, and the newest of them.
    listed: Mutex<(usize, VolumeId)>,
}

impl Views {
    /// The views of the volume behind `live`.
    pub fn new(live: Arc<Fs>, with_snapshots: bool) -> Self {
        Self { live, with_snapshots, snapshots: RwLock::default(), listed: Mutex::default() }
    }

    /// The volume as it is.
    pub fn live(&self) -> &Arc<Fs> {
        &self.live
    }

    /// Whether a node is one of the volume as it is; then its number is the inode's.
    pub fn is_live(node: Node) -> bool {
        node >> INO_BITS == 0
    }

    /// What a node stands for.
    ///
    /// # Errors
    /// `NotFound` for one of a view that never was.
    pub fn place(&self, node: Node) -> Result<Place> {
        let (view, ino) = (node >> INO_BITS, node & ((1 << INO_BITS) - 1));
        match view {
            0 => Ok(Place::Inode(At { fs: Arc::clone(&self.live), ino, view })),
            SNAPSHOTS_VIEW => Ok(Place::Snapshots),
            _ => Ok(Place::Inode(At { fs: self.open(view)?, ino, view })),
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
        let at = At { fs: self.open(view)?, ino: ROOT_INO, view };
        Ok(at.seen(at.fs.lookup(ROOT_INO, b".")?))
    }

    /// The number of a snapshot's view.
    fn view_of(&self, id: VolumeId) -> Result<u64> {
        let mut snapshots = self.snapshots.write();
        if let Some(at) = snapshots.iter().position(|(known, _)| *known == id) {
            return Ok(at as u64 + 1);
        }
        if snapshots.len() as u64 + 2 >= SNAPSHOTS_VIEW {
            return Err(FsError::NoSpace);
        }
        snapshots.push((id, None));
        Ok(snapshots.len() as u64)
    }

    /// The file system of a snapshot's view.
    fn open(&self, view: u64) -> Result<Arc<Fs>> {
        let at = view as usize - 1;
        match self.snapshots.read().get(at) {
            Some((_, Some(fs))) => return Ok(Arc::clone(fs)),
            Some((_, None)) => {}
            None => return Err(FsError::NotFound),
        }
        let mut snapshots = self.snapshots.write();
        let (id, slot) = &mut snapshots[at];
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
        for (id, _) in self.snapshots.write().drain(..) {
            meta.close_snapshot(id);
        }
    }
}
