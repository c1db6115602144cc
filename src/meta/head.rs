//! The state of one volume that is in use: its lineage, limits, usage and caches.

use super::chunk::ChunkTable;
use super::db::Db;
use super::error::{MetaError, Refusal, Result};
use super::generation::Lineage;
use super::inode::InodeTable;
use super::orphans::Orphans;
use super::shadow::Key;
use super::snapshot::SnapshotRow;
use super::types::{Ino, Inode, Limits, Usage, VolumeId};
use super::volume::VolumeRow;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A volume at its head generation.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: VolumeId,
    pub(super) lineage: Lineage,
    pub(super) limits: Limits,
    pub(super) usage: Usage,
    pub(super) inodes: InodeTable,
    pub(super) chunks: ChunkTable,
    pub(super) orphans: Orphans,
    /// Of orphans of which a part is freed: from which row on there may be more ([`ChunkTable::rows`]). Only a hint where to
    /// begin: what a mutation frees does not depend on it.
    pub(super) reaping: FxHashMap<Ino, u64>,
    /// Of orphans of whose extended attributes a part is removed: those that may be left have names before this one. It
    /// is freed as a whole when none is.
    pub(super) reaping_xattrs: FxHashMap<Ino, Box<[u8]>>,
    /// The chunk of which it was looked at last who else refers to its blocks, and how many of its runs.
    pub(super) warmed: ((Ino, u64), usize),
    stored_usage: Usage,
    /// A snapshot, in which nothing changes, and who has it open: each has a copy.
    users: Option<Arc<()>>,
    /// When it was last used, in uses of heads.
    pub(super) used: u64,
}

impl Head {
    /// Loads a volume.
    pub(super) fn open(db: &Db, row: &VolumeRow, lineage: Lineage) -> Result<Self> {
        Ok(Self {
            id: row.id,
            lineage,
            limits: row.limits,
            usage: row.usage,
            inodes: InodeTable::default(),
            chunks: ChunkTable::default(),
            orphans: Orphans::read(db, row.id)?,
            reaping: FxHashMap::default(),
            reaping_xattrs: FxHashMap::default(),
            warmed: ((0, 0), 0),
            stored_usage: row.usage,
            users: None,
            used: 0,
        })
    }

    /// A snapshot, to be read as long as anybody has a copy of `users`.
    pub(super) fn frozen(row: &SnapshotRow, lineage: Lineage, users: Arc<()>) -> Self {
        Self {
            id: row.id,
            lineage,
            limits: Limits::default(),
            usage: row.usage,
            inodes: InodeTable::default(),
            chunks: ChunkTable::default(),
            orphans: Orphans::default(),
            reaping: FxHashMap::default(),
            reaping_xattrs: FxHashMap::default(),
            warmed: ((0, 0), 0),
            stored_usage: row.usage,
            users: Some(users),
            used: 0,
        }
    }

    /// Whether it is a snapshot.
    pub(super) fn is_frozen(&self) -> bool {
        self.users.is_some()
    }

    /// Who has it open, if it is a snapshot.
    pub(super) fn users(&self) -> Option<&Arc<()>> {
        self.users.as_ref()
    }

    /// Whether it is a snapshot that nobody has open any more.
    pub(super) fn is_unused(&self) -> bool {
        self.users.as_ref().is_some_and(|users| Arc::strong_count(users) == 1)
    }

    /// Memory of what is cached.
    pub(super) fn cached_bytes(&self) -> usize {
        self.inodes.cached_bytes() + self.chunks.cached_bytes()
    }

    /// Lets go of what is too much since the limit was lowered, a part of it.
    pub(super) fn trim(&mut self, db: &Db) -> Result<()> {
        self.inodes.trim(db, &self.lineage)?;
        self.chunks.trim(db, &self.lineage)
    }

    /// Forgets everything that is cached, after writing what is only there to the tables. False: it has become late, and is to be
    /// gone on with.
    pub(super) fn drop_caches(&mut self, db: &Db) -> Result<bool> {
        while self.unwritten() > 0 {
            self.write_one(db)?;
            if db.is_late() {
                return Ok(false);
            }
        }
        (self.inodes, self.chunks) = (InodeTable::default(), ChunkTable::default());
        Ok(true)
    }

    /// Forgets what is cached of a key, whose rows have changed. Nothing may be dirty.
    pub(super) fn evict(&mut self, key: &Key) {
        match key {
            Key::Inode(ino) => self.inodes.evict(*ino),
            Key::Chunk(ino, idx) => self.chunks.evict((*ino, *idx)),
            Key::Dentry(..) | Key::Xattr(..) => {}
        }
    }

    /// The inode.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is none.
    pub(super) fn inode(&mut self, db: &Db, ino: Ino) -> Result<Inode> {
        self.inodes.get(db, &self.lineage, ino)?.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    /// Stores a changed inode.
    pub(super) fn put_inode(&mut self, db: &Db, inode: Inode) -> Result<()> {
        self.inodes.put(db, &self.lineage, inode)
    }

    /// How many rows are not as they are in the tables.
    pub(super) fn unwritten(&self) -> usize {
        self.inodes.unwritten() + self.chunks.unwritten() + self.orphans.unwritten()
    }

    /// Writes one of those rows.
    pub(super) fn write_one(&mut self, db: &Db) -> Result<()> {
        if self.inodes.unwritten() > 0 {
            self.inodes.write_one(db, &self.lineage)
        } else if self.chunks.unwritten() > 0 {
            self.chunks.write_one(db, &self.lineage)
        } else {
            self.orphans.write_one(db, self.id)
        }
    }

    /// Writes caches, usage and orphans to the tables.
    pub(super) fn flush(&mut self, db: &Db) -> Result<()> {
        while self.unwritten() > 0 {
            self.write_one(db)?;
        }
        if self.usage != self.stored_usage {
            db.execute(
                "UPDATE volume SET used_blocks = ?2, used_inodes = ?3, used_meta = ?4 WHERE id = ?1",
                (
                    self.id as i64,
                    self.usage.blocks as i64,
                    self.usage.inodes as i64,
                    self.usage.metadata as i64,
                ),
            )?;
            self.stored_usage = self.usage;
        }
        Ok(())
    }

    /// Whether `blocks` more fit the size limit.
    pub(super) fn blocks_fit(&self, blocks: u64) -> bool {
        self.limits.blocks.is_none_or(|limit| self.usage.blocks.saturating_add(blocks) <= limit)
    }

    /// Whether so many bytes of metadata more fit the limit.
    pub(super) fn metadata_fits(&self, bytes: u64) -> bool {
        self.limits.metadata.is_none_or(|limit| self.usage.metadata.saturating_add(bytes) <= limit)
    }

    /// Whether another inode fits the inode limit.
    pub(super) fn inode_fits(&self) -> bool {
        self.limits.inodes.is_none_or(|limit| self.usage.inodes < limit)
    }
}
