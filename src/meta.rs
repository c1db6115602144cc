//! Everything about volumes but the contents of blocks: the tree, attributes, extents, limits, what is free.
//!
//! The metadata of a store is a SQLite database with one transaction open at all times. Every change is a
//! [`Mutation`], carried out by [`Meta::apply`] inside that transaction; [`Meta::commit`] ends it and begins the next.
//! A commit becomes durable only through [`MetaFiles::release`], which the commit protocol (`crate::open_store`)
//! calls once the data that the commit names is durable.
//!
//! Invariants:
//! - what a commit contains is exactly the mutations applied before it, whole;
//! - usage and live counts change in the transaction of what they count;
//! - after an error in the middle of a mutation, nothing is committed any more ([`MetaError::Poisoned`]);
//! - a change of the family ([`Meta::alter`]) is durable, or has not happened.

mod alter;
mod apply;
mod cache;
mod charge;
mod chunk;
mod chunk_map;
mod clock;
mod contents;
mod db;
mod dentry;
mod diff;
mod error;
mod generation;
mod head;
mod hold;
mod inode;
mod inspect;
mod mutation;
mod orphans;
mod pinned;
mod reclaim;
mod reserved;
mod row_cache;
mod rows;
mod schema;
mod schema_check;
mod shadow;
mod share;
mod shrink;
mod snapshot;
mod space;
mod types;
mod upgrade;
mod vfs;
mod volume;
mod xattr;

pub use cache::{CACHES_MAX, CACHES_MIN, Comes};
pub use charge::FILE_MIN as FILE_METADATA_MIN;
pub use chunk::{ChunkRow, Side};
pub use chunk_map::{ChunkMap, Extent, Place};
pub use contents::{Part, Piece, Reapable};
pub use dentry::Entries;
pub use diff::{Change, ChangeKind};
pub use error::{MetaError, Refusal, Result};
pub use inspect::Inspector;
pub use mutation::{AttrChange, MapRun, MapTo, Mutation, NameRef, NewInode, Outcome, Remap, RenameMode};
pub use pinned::Pinned;
pub use reclaim::RECLAIMED_AT_ONCE;
pub use reserved::Reserved;
pub use share::Shared;
pub use shrink::Shrunk;
pub use snapshot::{NewClone, NewSnapshot, RootChange, SnapshotHold, SnapshotRow};
pub use space::{GiveBack, SegmentRow};
pub use types::{
    CHUNK_BLOCKS, Dentry, FILE_MAX, Gen, Ino, Inode, Kind, LINK_MAX, Limits, NAME_MAX, ROOT_INO, TARGET_MAX,
    Timestamp, Usage, VolumeId, XATTR_SPACE_MAX, XattrBits,
};
use vfs::PAGE_BYTES;
pub use vfs::{
    DATABASE_NAME, HealedPageWatcher, Laying, MetaFiles, PageSpool, ReleaseError, ResealFault, WAL_NAME,
    WalMark, wal_key_epoch,
};
pub use volume::{NewVolume, VolumeRow};
pub use xattr::{Xattr, XattrLook};

use crate::backing::Dir;
use crate::crypto::Keys;
use crate::store::{Run, SegmentState, StoreId};
use apply::Applier;
use cache::Pace;
use contents::WORK_AT_ONCE;
use db::Db;
use dentry::NameHash;
use generation::Generations;
use head::Head;
use rustc_hash::FxHashMap;
use space::Space;
use std::sync::Arc;
use std::time::Instant;

/// Segment ids reserved at a time: 64 GiB of writing.
const SEGMENT_IDS_RESERVED: u64 = 1024;

/// A host with less room than this is as good as full.
const SCARCE_BYTES: u64 = 8 << 20;

/// Rows that are looked through for an attribute's name.
const XATTRS_LOOKED_AT: usize = 10_000;

/// Whether `name` can be a name in a directory.
pub fn valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// A commit that waits to become durable.
#[derive(Debug)]
pub struct Committed {
    /// Release the WAL up to here.
    pub mark: WalMark,
    /// Then, this may be given back.
    pub give_back: GiveBack,
    /// And segment ids below this may be used.
    pub reserved_segments: u64,
}

/// The metadata of an open store.
#[derive(Debug)]
pub struct Meta {
    db: Db,
    hash: NameHash,
    heads: FxHashMap<VolumeId, Head>,
    generations: Generations,
    reclaiming: reclaim::Progress,
    space: Space,
    next_ino: Ino,
    stored_next_ino: Ino,
    reserved_segments: u64,
    /// Of the open transaction, in the redo log.
    epoch: u64,
    /// Mutations in the open transaction.
    mutations: u64,
    /// The open transaction holds something that is no mutation.
    touched: bool,
    /// What is to come soon: see [`Meta::write_back`].
    pace: Pace,
    poisoned: bool,
    /// Uses of heads so far.
    uses: u64,
    /// The database can give pages back.
    shrinks: bool,
    /// It has many that hold nothing.
    loose: bool,
    /// It was made smaller after the last commit.
    shrinking: bool,
}

impl Meta {
    /// Makes the metadata of a new store. Durable when this returns, names of files excepted.
    ///
    /// # Errors
    /// As the backing files.
    pub fn create(dir: Arc<dyn Dir>, store: StoreId, volume: &NewVolume) -> Result<()> {
        Self::create_with(dir, store, &Keys::Plain, volume)
    }

    /// As [`Meta::create`], with the keys of the store.
    ///
    /// # Errors
    /// As the backing files.
    pub fn create_with(dir: Arc<dyn Dir>, store: StoreId, keys: &Keys, volume: &NewVolume) -> Result<()> {
        let mut key = [0u8; 16];
        let path = dir.path(DATABASE_NAME);
        getrandom::fill(&mut key).map_err(|e| MetaError::Host { path, source: std::io::Error::other(e) })?;
        let files = new_files(dir, false, keys)?;
        drop(Db::create(Arc::clone(&files), store, key)?);
        let mut meta = Self::open(files, store)?;
        meta.insert_volume(volume)?;
        let committed = meta.commit(&[])?;
        meta.release_now(committed.mark)?;
        meta.finish()
    }

    /// Opens the metadata of a store for reading and writing; SQLite recovers what a crash left.
    ///
    /// # Errors
    /// Damage, another store's database, or as the backing files.
    pub fn open(files: Arc<MetaFiles>, store: StoreId) -> Result<Self> {
        // What is built upon now must not vanish later.
        files.sync_leftover_wal().map_err(|e| host_error(&files, e))?;
        let db = Db::open(files, store, false)?;
        // Start with an empty WAL, while nobody waits.
        db.checkpoint()?;
        db.upgrade_schema()?;
        if !db.can_shrink()?
            && let Err(e) = db.make_shrinkable()
        {
            // Damage, perhaps, which concerns those who read what is damaged.
            log::warn!("{}: the database will not shrink: {e}", db.files().database_path().display());
        }
        let shrinks = db.can_shrink()?;
        let hash = NameHash::read(&db)?;
        let next_ino = next_number(&db, "SELECT next_ino FROM store")?;
        let reserved_segments = next_number(&db, "SELECT next_segment FROM store")?;
        let epoch = next_number(&db, "SELECT epoch FROM store")?;
        let space = Space::open(&db)?;
        db.run("BEGIN")?;
        let mut meta = Self {
            db,
            hash,
            heads: FxHashMap::default(),
            generations: Generations::default(),
            reclaiming: reclaim::Progress::default(),
            space,
            next_ino,
            stored_next_ino: next_ino,
            reserved_segments,
            epoch,
            mutations: 0,
            touched: false,
            pace: Pace::default(),
            poisoned: false,
            uses: 0,
            shrinks,
            loose: false,
            shrinking: false,
        };
        meta.generations = Generations::read(&meta.db)?;
        for mut row in volume::list(&meta.db)? {
            meta.open_head(&row)?;
            if row.usage.metadata == 0 {
                // A program of an earlier version made it. The first commit keeps the count.
                let lineage = meta.generations.lineage(row.head)?;
                row.usage.metadata = charge::all(&meta.db, &lineage)?;
                meta.head(row.id)?.1.usage = row.usage;
            }
        }
        Ok(meta)
    }

    fn insert_volume(&mut self, new: &NewVolume) -> Result<()> {
        let id: i64 =
            self.db.value("UPDATE store SET next_volume = next_volume + 1 RETURNING next_volume - 1")?;
        let head = self.new_generation(0, new.created)?;
        let row = VolumeRow {
            id: id as u64,
            name: new.name.clone(),
            head,
            limits: new.limits,
            usage: Usage { blocks: 0, inodes: 1, metadata: charge::inode(&new.root) },
            created: new.created,
        };
        volume::insert_row(&self.db, &row, &new.labels)?;
        self.open_head(&row)?;
        let (db, head) = self.head(row.id)?;
        head.inodes.put(db, &head.lineage, new.root.clone())
    }

    /// Makes a volume ready for use, in place of what was known of it.
    fn open_head(&mut self, row: &VolumeRow) -> Result<()> {
        let lineage = self.generations.lineage(row.head)?;
        self.heads.insert(row.id, Head::open(&self.db, row, lineage)?);
        Ok(())
    }

    /// Does something to the open transaction that is no mutation. An error leaves it half done.
    fn writing<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.poisoned {
            return Err(MetaError::Poisoned);
        }
        self.touched = true;
        let result = work(self);
        if result.is_err() {
            self.poisoned = true;
        }
        result
    }

    /// The files below, for releasing the WAL without holding this.
    pub fn files(&self) -> Arc<MetaFiles> {
        Arc::clone(self.db.files())
    }

    /// The volumes of the store.
    ///
    /// # Errors
    /// As the database.
    pub fn volumes(&self) -> Result<Vec<VolumeRow>> {
        let mut rows = volume::list(&self.db)?;
        for row in &mut rows {
            if let Some(head) = self.heads.get(&row.id) {
                row.usage = head.usage;
            }
        }
        Ok(rows)
    }

    /// The labels of a volume.
    ///
    /// # Errors
    /// As the database.
    pub fn labels(&self, volume: VolumeId) -> Result<std::collections::BTreeMap<String, String>> {
        volume::labels(&self.db, volume)
    }

    /// The root directory of a volume, whether it is in use or not. Nothing is kept of it for that.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none, damage, or as the database.
    pub fn root_of(&self, row: &VolumeRow) -> Result<Inode> {
        let found = match self.heads.get(&row.id) {
            Some(head) => head.inodes.peek(&self.db, &head.lineage, ROOT_INO),
            None => inode::look(&self.db, &self.generations.lineage(row.head)?, ROOT_INO),
        };
        found?.ok_or(MetaError::Refused(Refusal::NotFound))
    }

    fn head(&mut self, volume: VolumeId) -> Result<(&Db, &mut Head)> {
        self.note_use(volume)?;
        let head = self.heads.get_mut(&volume).ok_or(MetaError::Refused(Refusal::Gone))?;
        Ok((&self.db, head))
    }

    /// An inode.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Gone`] if the volume is not there, damage, or as the database.
    pub fn inode(&mut self, volume: VolumeId, ino: Ino) -> Result<Inode> {
        let (db, head) = self.head(volume)?;
        head.inode(db, ino)
    }

    /// What `name` in directory `parent` stands for.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such name, damage, or as the database.
    pub fn lookup(&mut self, volume: VolumeId, parent: Ino, name: &[u8]) -> Result<Inode> {
        let hash = self.hash.of(name);
        let (db, head) = self.head(volume)?;
        let (ino, _) = dentry::get(db, &head.lineage, parent, hash, name)?
            .ok_or(MetaError::Refused(Refusal::NotFound))?;
        match head.inode(db, ino) {
            Err(MetaError::Refused(Refusal::NotFound)) => Err(MetaError::damaged(format!(
                "an entry of directory {parent} names inode {ino}, which is missing"
            ))),
            other => other,
        }
    }

    /// Entries of a directory behind the cookie `after` (0: from the start), in the order of their cookies, up to `limit`, and as
    /// many as are found with as much work as is right for one hold. Entries with equal cookies come together.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub fn entries(&mut self, volume: VolumeId, parent: Ino, after: u64, limit: usize) -> Result<Entries> {
        let (db, head) = self.head(volume)?;
        dentry::list_some(db, &head.lineage, parent, after, (limit, WORK_AT_ONCE))
    }

    /// Whether rows of the volume can hide others, which snapshots have: a walk through its rows can find many that say only that.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for an unknown volume.
    pub fn has_hidden(&mut self, volume: VolumeId) -> Result<bool> {
        let (_, head) = self.head(volume)?;
        Ok(!head.lineage.is_single())
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Refusal::NoXattr`], or as the database.
    pub fn xattr(&mut self, volume: VolumeId, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let (db, head) = self.head(volume)?;
        xattr::get(db, &head.lineage, ino, name)?.ok_or(MetaError::Refused(Refusal::NoXattr))
    }

    /// The names of all extended attributes of an inode, sorted.
    ///
    /// # Errors
    /// As the database.
    pub fn xattr_names(&mut self, volume: VolumeId, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let (db, head) = self.head(volume)?;
        Ok(xattr::lengths(db, &head.lineage, ino)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Whether any inode of the family may have an extended attribute `name`. False is certain, and true as well unless
    /// there are very many attributes. `None`: that is as far as a look gets under one hold, and it is to be gone on with.
    ///
    /// # Errors
    /// As the database.
    pub fn may_have_xattr(&self, name: &[u8], look: &mut XattrLook) -> Result<Option<bool>> {
        xattr::may_exist(&self.db, name, look, XATTRS_LOOKED_AT)
    }

    /// Space and inodes that a volume uses, and its limits.
    ///
    /// # Errors
    /// [`Refusal::Gone`] for an unknown volume.
    pub fn usage(&mut self, volume: VolumeId) -> Result<(Usage, Limits)> {
        let (_, head) = self.head(volume)?;
        Ok((head.usage, head.limits))
    }

    /// A new inode number, which becomes taken with the mutation that uses it.
    pub fn next_ino(&self) -> Ino {
        self.next_ino
    }

    /// Orphans of a volume.
    ///
    /// # Errors
    /// [`Refusal::Gone`] for an unknown volume.
    pub fn orphans(&mut self, volume: VolumeId) -> Result<Vec<Ino>> {
        let (_, head) = self.head(volume)?;
        Ok(head.orphans.all().collect())
    }

    /// Whether the inode is an orphan of the volume.
    pub fn is_orphan(&self, volume: VolumeId, ino: Ino) -> bool {
        self.heads.get(&volume).is_some_and(|head| head.orphans.contains(ino))
    }

    /// Carries out a mutation in the open transaction: all of it, or nothing.
    ///
    /// # Errors
    /// A [`Refusal`] or a failed read changes nothing. A failure in the middle poisons the metadata.
    pub fn apply(&mut self, volume: VolumeId, mutation: &Mutation) -> Result<Outcome> {
        if self.is_poisoned() {
            return Err(MetaError::Poisoned);
        }
        self.note_use(volume)?;
        if self.heads.get(&volume).ok_or(MetaError::Refused(Refusal::Gone))?.is_frozen() {
            return Err(Refusal::ReadOnly.into());
        }
        let mut writing = false;
        let before = if self.pace.is_kept() { self.unwritten() } else { 0 };
        let Some(head) = self.heads.get_mut(&volume) else { return Err(Refusal::Gone.into()) };
        let result = Applier {
            db: &self.db,
            hash: &self.hash,
            head,
            space: &mut self.space,
            next_ino: &mut self.next_ino,
            writing: &mut writing,
        }
        .apply(mutation);
        if result.is_ok() {
            self.mutations += 1;
            if self.pace.is_kept()
                && let Err(e) = self.keep_pace(before)
            {
                self.poisoned = true;
                return Err(e);
            }
        } else if writing {
            self.poisoned = true;
        }
        result
    }

    /// Blocks that nothing refers to any more, for good, since the last call: as many as were remembered.
    pub fn drain_freed(&mut self) -> impl Iterator<Item = Run> {
        self.space.drain_freed()
    }

    /// Blocks that were allocated and will not be used.
    pub fn wasted(&mut self, runs: &[Run]) {
        self.space.wasted(runs);
    }

    /// The runs of [`GiveBack::freed`] with this id were punched.
    pub fn punched(&mut self, id: i64) {
        self.space.punched(id);
    }

    /// The file of an empty segment was removed.
    pub fn removed(&mut self, segment: u64) {
        self.space.removed(segment);
    }

    /// The time, as the directory of the store has it.
    pub fn now(&self) -> Instant {
        self.db.now()
    }

    /// Says when whoever holds this should let go of it, if what is left can be done later.
    pub fn end_by(&mut self, until: Instant) {
        self.db.end_by(Some(until));
    }

    /// Whether it is that time.
    pub fn is_late(&self) -> bool {
        self.db.is_late()
    }

    /// Writes changed pages of the database to the WAL in memory, if there may be many: a commit is not to find them under its hold. To be
    /// called at the end of each hold. If it fails, the metadata is poisoned.
    pub fn spill(&mut self) {
        if self.is_poisoned() {
            return;
        }
        if let Err(e) = self.db.spill() {
            log::error!("{e}");
            self.poisoned = true;
        }
    }

    /// Rows that were looked at or written so far: a measure for how long this is held.
    pub fn rows_touched(&self) -> u64 {
        self.db.rows_touched()
    }

    /// Whether the open transaction holds changes of a volume, which a sync must wait for.
    pub fn is_dirty(&self) -> bool {
        self.mutations > 0
    }

    /// Whether the open transaction holds anything at all.
    pub fn has_work(&self) -> bool {
        self.mutations > 0 || self.touched || self.space.is_dirty()
    }

    /// The epoch of the redo log that mutations of the open transaction belong to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Passes over an epoch: the log of a process that was killed may have used it.
    pub fn skip_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Mutations in the open transaction.
    pub fn mutations(&self) -> u64 {
        self.mutations
    }

    /// Whether an earlier failure forbids all further commits.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned || self.db.has_lost_rows()
    }

    /// Forbids all further mutations and commits.
    pub fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Ends the open transaction and begins the next. `states` are those of segments appended to since the last
    /// commit. Nothing is durable yet: see [`Committed`].
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn commit(&mut self, states: &[SegmentState]) -> Result<Committed> {
        if self.is_poisoned() {
            return Err(MetaError::Poisoned);
        }
        let result = self.commit_inner(states);
        if result.is_err() {
            self.poisoned = true;
        }
        result
    }

    fn commit_inner(&mut self, states: &[SegmentState]) -> Result<Committed> {
        for head in self.heads.values_mut() {
            head.flush(&self.db)?;
        }
        let give_back = self.space.flush(&self.db, states)?;
        let highest = self.space.highest();
        if highest + SEGMENT_IDS_RESERVED / 2 > self.reserved_segments {
            self.reserved_segments = highest + SEGMENT_IDS_RESERVED;
            self.db.execute("UPDATE store SET next_segment = ?1", [self.reserved_segments as i64])?;
        }
        if self.next_ino != self.stored_next_ino {
            self.db.execute("UPDATE store SET next_ino = ?1", [self.next_ino as i64])?;
            self.stored_next_ino = self.next_ino;
        }
        self.epoch += 1;
        self.db.execute("UPDATE store SET epoch = ?1", [self.epoch as i64])?;
        self.look_at_pages()?;
        self.db.run("COMMIT")?;
        let mark = self.db.files().wal_mark();
        self.db.run("BEGIN")?;
        self.mutations = 0;
        (self.touched, self.pace) = (false, Pace::default());
        Ok(Committed { mark, give_back, reserved_segments: self.reserved_segments })
    }

    /// Reserves segment ids for a store that was just opened: none that an earlier process may have used. They may be
    /// used once the next commit is durable. Returns the first, which lies `skip` behind the lowest there could be.
    ///
    /// # Errors
    /// As the database.
    pub fn reserve_segments(&mut self, skip: u64) -> Result<u64> {
        let first = self.reserved_segments + skip;
        self.reserved_segments = first + SEGMENT_IDS_RESERVED;
        self.db.execute("UPDATE store SET next_segment = ?1", [self.reserved_segments as i64])?;
        self.space.retire_all();
        Ok(first)
    }

    /// Lets no id of a segment up to `last` be among those that are reserved next. Returns the last id that cannot be.
    pub fn pass_segments(&mut self, last: u64) -> u64 {
        self.reserved_segments = self.reserved_segments.max(last.saturating_add(1));
        self.reserved_segments - 1
    }

    /// What a crash may have left to be given back: freed runs by id.
    ///
    /// # Errors
    /// As the database.
    pub fn unpunched(&self) -> Result<Vec<(i64, Vec<Run>)>> {
        space::freed_rows(&self.db)
    }

    /// All segments.
    pub fn segments(&self) -> Vec<SegmentRow> {
        let mut rows: Vec<SegmentRow> = self.space.rows().collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// A connection that copies the WAL back into the database beside this one.
    ///
    /// # Errors
    /// As the database.
    pub fn checkpointer(&self) -> Result<Checkpointer> {
        Ok(Checkpointer { db: self.db.second()? })
    }

    /// A reader of the last commit, beside the open transaction.
    ///
    /// # Errors
    /// As the database.
    pub fn inspector(&self) -> Result<Inspector> {
        Inspector::beside(&self.db)
    }

    fn release_now(&self, mark: WalMark) -> Result<()> {
        match self.db.files().release(mark) {
            Ok(()) => Ok(()),
            Err(ReleaseError::Write(e) | ReleaseError::Sync(e)) => Err(host_error(self.db.files(), e)),
        }
    }

    /// Lets the host keep room for so many bytes more of the WAL, and for so many behind the end of the database.
    ///
    /// # Errors
    /// As fallocate(2), above all `StorageFull`.
    pub fn keep_room(&self, wal: u64, database: u64) -> std::io::Result<()> {
        let pages = self.db.page_count().map_err(std::io::Error::other)?;
        self.db.files().keep_room(wal, pages * PAGE_BYTES as u64 + database)
    }

    /// Marks the open transaction as one that must be committed.
    pub fn touch(&mut self) {
        self.touched = true;
    }

    /// Copies the WAL back into the database and cuts it to nothing, durably; false if a reader is in the way. Everything
    /// must be committed and durable.
    ///
    /// # Errors
    /// As the backing files. Nothing is lost.
    pub fn cut_wal(&mut self) -> Result<bool> {
        debug_assert!(!self.has_work());
        self.db.run("ROLLBACK")?;
        let cut = self.db.cut_wal();
        if let Err(e) = self.db.run("BEGIN") {
            self.poisoned = true;
            return Err(e);
        }
        let files = self.db.files();
        let cut = cut?;
        if cut {
            files.sync_wal().map_err(|e| host_error(files, e))?;
        }
        files.reserve_wal();
        Ok(cut)
    }

    /// Copies the WAL back into the database, for a clean close. What was not committed is gone, and nothing may be
    /// changed any more.
    ///
    /// # Errors
    /// As the database. Nothing is lost: the next open recovers.
    pub fn finish(&mut self) -> Result<()> {
        self.poisoned = true;
        self.db.run("ROLLBACK")?;
        // A commit that never became durable must not reach the database before the WAL has it.
        if self.db.files().held_bytes() > 0 {
            return Err(MetaError::Poisoned);
        }
        let files = self.db.files();
        if files.dir().host_space().is_ok_and(|space| space.available_bytes < SCARCE_BYTES) {
            // Others would take the room that the next open needs. What was copied back is copied once more then.
            return self.db.checkpoint().map(drop);
        }
        self.db.run("PRAGMA wal_checkpoint(TRUNCATE)")?;
        // Enough to be opened again on a full disk.
        files.reserve_wal();
        Ok(())
    }
}

/// Copies the WAL back into the database.
#[derive(Debug)]
pub struct Checkpointer {
    db: Db,
}

impl Checkpointer {
    /// Copies as much as there is, without blocking anyone; true if nothing is left. Everything in the WAL must have
    /// been released.
    ///
    /// # Errors
    /// As the database.
    pub fn run(&self) -> Result<bool> {
        self.db.checkpoint()
    }
}

/// For the fuzzer: a list of freed runs, if the bytes are one.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed_freed_runs(bytes: &[u8]) -> Option<Vec<Run>> {
    space::decode_runs(bytes).ok()
}

/// For the fuzzer: a text of `sqlite_schema`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed_schema(text: &str) {
    schema_check::fuzzed(text);
}

/// A number that the store hands out next. So large that counting on could overflow, it is damage.
fn next_number(db: &Db, sql: &str) -> Result<u64> {
    let number = db.value::<i64>(sql)?;
    match u64::try_from(number) {
        Ok(number) if (1..1 << 62).contains(&number) => Ok(number),
        _ => Err(MetaError::damaged(format!("{number} is not a number that can be continued from"))),
    }
}

fn host_error(files: &MetaFiles, source: std::io::Error) -> MetaError {
    MetaError::Host { path: files.database_path(), source }
}

fn new_files(dir: Arc<dyn Dir>, read_only: bool, keys: &Keys) -> Result<Arc<MetaFiles>> {
    let path = dir.path(DATABASE_NAME);
    MetaFiles::with_keys(dir, read_only, keys.clone()).map_err(|source| MetaError::Host { path, source })
}
