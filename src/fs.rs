//! The file system: what POSIX and Linux promise, on top of an open store, without any knowledge of FUSE.
//!
//! One file per family of operations. Permissions are not checked here: the kernel does that before it asks
//! (`default_permissions`). What is checked is what must hold however the question came: types, names, limits.
//!
//! Locks: a *content lock* (by inode, striped) orders changes of contents that read before they write; the metadata is
//! held only for moments. Content locks come before everything of the store.

mod acl;
mod allocate;
mod attr;
mod content;
mod copy;
mod error;
mod flags;
mod losses;
mod name;
mod nodes;
mod overtaking;
mod read;
mod readahead;
mod readdir;
mod seek;
mod statfs;
mod truncate;
mod types;
mod views;
mod write;
mod xattr;

pub use allocate::{AllocateMode, Allocation};
pub use attr::SetAttr;
pub use error::{FsError, take_damage};
pub use flags::InodeFlags;
pub use losses::{KeepLost, Lost};
pub use name::NewNode;
pub use readdir::{Entry, EntryWithAttr};
pub use seek::{SeekTarget, Sought};
pub use statfs::SpaceStat;
pub use truncate::Resizing;
pub use types::{AtimeMode, Attr, Caller, Durability, FsOptions, TimeChange};
pub use views::{At, KeepView, Names, Node, Place, SNAPSHOTS_NODE, ViewChange, Views};
pub use write::WriteMode;
pub use xattr::XattrFlags;

pub use crate::meta::{Ino, Kind, ROOT_INO, RenameMode, Timestamp, VolumeId};
pub use crate::open_store::{Executed, MadeFor, Origin, Slowing, SyncDone, SyncError};
pub use crate::store::Wait;

use crate::meta::{Inode, Meta, Mutation, Outcome, Side, SnapshotHold};
use crate::open_store::OpenStore;
use content::ContentLocks;
use losses::Losses;
use nodes::Nodes;
use parking_lot::{Mutex, RwLock};
use readahead::Readahead;
use std::ops::Range;
use std::sync::Arc;
use xattr::Labels;

/// The result of a file-system operation.
pub type Result<T, E = FsError> = std::result::Result<T, E>;

/// One mounted volume.
#[derive(Debug)]
pub struct Fs {
    store: Arc<OpenStore>,
    volume: VolumeId,
    options: RwLock<FsOptions>,
    nodes: Nodes,
    locks: ContentLocks,
    losses: Losses,
    readahead: Readahead,
    labels: Labels,
    /// What keeps a snapshot open until the kernel has forgotten it; `None` for a volume.
    hold: Mutex<Option<SnapshotHold>>,
    is_snapshot: bool,
    privileges: Privileges,
}

/// Whether a snapshot shows what runs a file with the rights of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// As they were.
    Shown,
    /// No file has set-user-ID, set-group-ID or capabilities: it may have lost them since, for a reason.
    Hidden,
}

impl Fs {
    /// The file system of `volume` in an open store.
    pub fn new(store: Arc<OpenStore>, volume: VolumeId, options: FsOptions) -> Self {
        Self {
            store,
            volume,
            options: RwLock::new(options),
            nodes: Nodes::default(),
            locks: ContentLocks::default(),
            losses: Losses::default(),
            readahead: Readahead::default(),
            labels: Labels::default(),
            hold: Mutex::new(None),
            is_snapshot: false,
            privileges: Privileges::Shown,
        }
    }

    /// The file system of a snapshot in an open store. It stays open for that.
    pub fn of_snapshot(
        store: Arc<OpenStore>,
        snapshot: VolumeId,
        hold: SnapshotHold,
        options: FsOptions,
        privileges: Privileges,
    ) -> Self {
        let options = FsOptions { read_only: true, ..options };
        let hold = Mutex::new(Some(hold));
        Self { hold, is_snapshot: true, privileges, ..Self::new(store, snapshot, options) }
    }

    /// An inode's attributes as they are shown.
    fn attr(&self, inode: &Inode) -> Attr {
        let attr = Attr::of(inode);
        match self.privileges {
            // On a directory, set-group-ID is no privilege.
            Privileges::Hidden if !inode.is_dir() => {
                Attr { permissions: attr.permissions & !((libc::S_ISUID | libc::S_ISGID) as u16), ..attr }
            }
            _ => attr,
        }
    }

    /// The mount was taken over from a server that is gone. The kernel may still know `orphans`, and not yet that the contents of
    /// `rewritten` changed.
    pub fn take_over(&self, orphans: &[Ino], rewritten: &[Ino]) {
        self.nodes.take_over(orphans.iter().copied());
        for ino in rewritten {
            self.nodes.note_changed(*ino);
        }
    }

    /// Orphans that the kernel knows, or may know.
    pub fn orphans(&self) -> Vec<Ino> {
        self.nodes.orphans()
    }

    /// Whether a file is as it was made, as far as contents and size go. One that cannot be looked at may be.
    pub fn is_untouched(&self, ino: Ino) -> bool {
        self.store.meta().inode(self.volume, ino).map_or(true, |inode| inode.size == 0 && inode.blocks == 0)
    }

    /// Whether contents that are not on this host cannot be had at present ([`FsError::Away`]).
    pub fn is_away(&self) -> bool {
        self.store.segments().elsewhere().is_some_and(|elsewhere| elsewhere.is_away())
    }

    /// The store below.
    pub fn store(&self) -> &Arc<OpenStore> {
        &self.store
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Changes how the volume is mounted. What cookies are like stays: programs hold some.
    pub fn set_options(&self, options: FsOptions) {
        let mut present = self.options.write();
        let read_only = options.read_only || self.is_snapshot;
        *present = FsOptions { read_only, compat32: present.compat32, ..options };
    }

    /// How the volume is mounted.
    fn options(&self) -> FsOptions {
        *self.options.read()
    }

    /// Whether changes of names are to be durable before they are answered.
    pub fn syncs_names(&self) -> bool {
        self.options.read().sync_names
    }

    /// Makes everything durable that was changed before, and then calls `done`, from any thread.
    pub fn sync(&self, done: SyncDone) {
        self.store.sync(done);
    }

    /// Whether a sync of the volume waits for the store's remote, too.
    pub fn syncs_remotely(&self) -> bool {
        !self.is_snapshot && self.options.read().durability == Durability::Remote
    }

    /// Calls `done`, from any thread, when everything that is durable here by now is in the store's remote, however long that takes.
    pub fn sync_remotely(&self, done: SyncDone) {
        self.store.sync_remotely(self.volume, done);
    }

    /// Refuses changes where none can be made, and waits when too many are uncommitted. First thing in every
    /// operation that changes something.
    fn begin_change(&self) -> Result<()> {
        if self.options.read().read_only || !self.store.health().is_good() {
            return Err(FsError::ReadOnly);
        }
        if self.store.throttle() { Ok(()) } else { Err(FsError::NoSpace) }
    }

    /// Carries out a mutation, and frees what nobody can reach any more because of it.
    fn change(&self, meta: &mut Meta, mutation: &Mutation) -> Result<Outcome> {
        let outcome = self.store.apply(meta, self.volume, mutation)?;
        if let Some(ino) = outcome.orphan {
            self.nodes.add_orphan(ino);
            if !self.nodes.is_known(ino) {
                self.reap(meta, ino);
            }
        }
        Ok(outcome)
    }

    /// Sees to it, in steps, that a change of `blocks`, from one side of them on, is about little that is not in memory.
    fn prepare_part(&self, ino: Ino, blocks: Range<u64>, side: Side) -> Result<()> {
        while !self.store.meta().prepare_part(self.volume, ino, blocks.clone(), side)? {}
        Ok(())
    }

    /// Frees an orphan that the kernel has forgotten; a large one in the background.
    fn reap(&self, meta: &mut Meta, ino: Ino) {
        // Two ways lead here, and only the first finds it.
        if !self.nodes.take_orphan(ino) {
            return;
        }
        match self.store.reap_some(meta, self.volume, ino) {
            Ok(true) => {}
            Ok(false) => self.store.reap_later(self.volume, ino),
            Err(e) => log::warn!("cannot free inode {ino}: {e}"),
        }
    }

    /// The kernel has forgotten `count` lookups of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        // It forgets all of its counts at once, but the next lookup may be faster here.
        self.losses.forget(ino);
        if self.nodes.forget(ino, count) && self.nodes.is_orphan(ino) {
            self.reap(&mut self.store.meta(), ino);
        }
    }

    /// The kernel has forgotten everything: the volume was unmounted.
    pub fn forget_all(&self) {
        self.nodes.clear();
        self.losses.clear();
        for ino in self.nodes.orphans() {
            self.reap(&mut self.store.meta(), ino);
        }
        let mut meta = self.store.meta();
        self.hold.lock().take();
        meta.close_unused();
    }

    /// The volume was rolled back: what the kernel knows of it is of another state. The inodes stay as they are.
    fn forget_state(&self) {
        self.nodes.forget_state();
        self.losses.clear();
    }

    /// An inode as a reply to a lookup, which the kernel will have to forget.
    fn known(&self, inode: &Inode) -> Attr {
        self.learn(inode.ino);
        self.attr(inode)
    }

    /// The kernel is about to be told of an inode, and will have to forget it. Of a snapshot's, nothing is ever freed, and
    /// nothing changes: so nobody asks whether it knows them.
    fn learn(&self, ino: Ino) {
        if !self.is_snapshot {
            self.nodes.learn(ino);
            self.nodes.told(ino);
        }
    }
}
