//! Moments: the state of a store at exactly one commit, for a copy of it elsewhere.
//!
//! A moment has the pages of the database that have changed since the last one, as of its commit, and says which blocks are new
//! and were not freed by then. With the moments before it, that is all of the store.
//!
//! 1. On the committer's thread, which alone commits: a commit, which is durable; then a reader of it, which keeps checkpoints
//!    from going past it; what has changed is taken; and freed blocks are held where they are. None of that takes long.
//! 2. With no lock: the pages are read, out of the WAL or the database, and wait in memory or in a file. The reader goes.
//! 3. As long as the moment is there, its blocks can be read: no block that it names is punched, and no segment removed. Only if the host
//!    needs the space, that ends, and the moment is not sound any more ([`Moment::is_sound`]).
//!
//! There is one moment at a time: what the next one has is what changed since this one. If nothing comes of a moment, what it had
//! counts as changed again.

mod fresh;

pub(super) use fresh::Fresh;

use super::OpenStore;
use super::commit::{SyncError, commit_here};
use crate::meta::{MetaError, MetaFiles, PageSpool, Pinned};
use crate::store::{BlockAddr, Header, HeaderError, ReadError, Run, StoredBlocks};
use fresh::RunSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Why there is no moment.
#[derive(Debug, Error)]
pub enum MomentError {
    /// What was changed could not be made durable.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The metadata could not be read, or what was read could not be kept.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The header could not be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The last moment is still there.
    #[error("the last moment of the store is still in use")]
    Busy,
    /// The store was opened without [`super::StoreOptions::moments`].
    #[error("the store was not opened to be copied")]
    NotNoted,
}

/// What an open store knows for moments.
#[derive(Debug, Default)]
pub(super) struct Moments {
    fresh: Option<Fresh>,
    /// One is there.
    out: AtomicBool,
}

impl Moments {
    pub(super) fn new(wanted: bool) -> Self {
        Self { fresh: wanted.then(Fresh::default), out: AtomicBool::new(false) }
    }

    /// What new blocks are noted in, where they are.
    pub(super) fn fresh(&self) -> Option<&Fresh> {
        self.fresh.as_ref()
    }

    /// Whether older keys can go, once nothing of the store is sealed with them: a copy has all that was sealed again, and all pages.
    pub(super) fn spare_older_keys(&self, files: &MetaFiles) -> bool {
        let copied = |fresh: &Fresh| fresh.has_resealed_copied() && files.changed_pages().is_some();
        self.fresh.as_ref().is_none_or(|fresh| !self.out.load(Ordering::Acquire) && copied(fresh))
    }
}

/// The one moment that is out. When it goes, it has come to something, or what it had counts as changed again.
#[derive(Debug)]
struct Out {
    store: Arc<OpenStore>,
    done: bool,
}

impl Out {
    fn new(store: &Arc<OpenStore>) -> Result<Self, MomentError> {
        if store.moments.out.swap(true, Ordering::AcqRel) {
            return Err(MomentError::Busy);
        }
        store.caretaker.hold_for_copy();
        Ok(Self { store: Arc::clone(store), done: false })
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(fresh) = self.store.moments.fresh() {
            fresh.end(self.done);
        }
        self.store.committer.files().end_changed(self.done);
        self.store.moments.out.store(false, Ordering::Release);
        self.store.caretaker.end_of_copy();
    }
}

/// The state of a store at one commit. Dropped without [`Moment::done`], it has come to nothing.
#[derive(Debug)]
pub struct Moment {
    out: Out,
    epoch: u64,
    page_count: u32,
    whole: bool,
    pages: PageSpool,
    all_blocks: bool,
    blocks: Vec<Run>,
    freed: Option<Vec<Run>>,
    segments: Vec<(u64, u32)>,
    header: Vec<u8>,
    key_epoch: u32,
}

/// A segment, and the index behind its last block.
type Tail = (u64, u32);

/// What is taken on the committer's thread.
struct Taken {
    pinned: Pinned,
    since: fresh::Since,
    header: (Header, Vec<u8>),
}

fn take(store: &OpenStore, whole: bool) -> Result<Taken, MomentError> {
    let fresh = store.moments.fresh().ok_or(MomentError::NotNoted)?;
    // Something is in this commit in any case, and so in the WAL, from where it is copied back by nobody before this is done.
    store.meta().touch();
    commit_here(store)?;
    let header = Header::read_with_bytes(&*store.dir)?;
    let pinned = Pinned::new(store.committer.files(), whole)?;
    Ok(Taken { pinned, since: fresh.take(), header })
}

impl OpenStore {
    /// The state of the store at a commit that is made for it: everything that was changed before is in it. It has the pages of the
    /// database that have changed since the last moment that came to something, with `whole` all of them; and blocks that
    /// are new since then. Where that is not known, as it is not after an open, it has everything.
    ///
    /// # Errors
    /// See [`MomentError`]. What has changed is in the next one then.
    pub fn moment(self: &Arc<Self>, whole: bool) -> Result<Moment, MomentError> {
        if self.moments.fresh().is_none() {
            return Err(MomentError::NotNoted);
        }
        let out = Out::new(self)?;
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let is_taken = self.committer.alter(Box::new(move |store: &OpenStore| {
            let _ = send.send(take(store, whole));
        }));
        if !is_taken {
            return Err(SyncError::Failed.into());
        }
        let Taken { pinned, since, header: (header, bytes) } =
            receive.recv().unwrap_or(Err(SyncError::Failed.into()))?;
        let (blocks, segments) = if since.complete {
            (since.new.runs().collect(), since.tails.iter().map(|(id, tail)| (*id, *tail)).collect())
        } else {
            all_blocks(&pinned)?
        };
        Ok(Moment {
            epoch: pinned.epoch(),
            page_count: pinned.pages(),
            whole: pinned.is_whole(),
            pages: pinned.read()?,
            all_blocks: !since.complete,
            blocks,
            segments,
            freed: since.complete.then(|| since.freed.runs().collect()),
            key_epoch: header.epochs().last().copied().unwrap_or(0),
            header: bytes,
            out,
        })
    }

    /// Whether a commit that is durable has changed something since the last moment, or that is not known.
    pub fn has_news(&self) -> bool {
        let new = self.moments.fresh().map(Fresh::blocks);
        new.is_some_and(|new| new != Some(0)) || !self.committer.files().is_unchanged()
    }

    /// The bytes of the store's header as it is now.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn header_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        Ok(Header::read_with_bytes(&*self.dir)?.1)
    }

    /// What commits since the last moment have written, roughly and in bytes: pages and blocks. `None` if that is not known.
    pub fn news_bytes(&self) -> Option<u64> {
        let blocks = self.moments.fresh()?.blocks()?;
        Some((blocks + self.committer.files().changed_pages()?) * crate::store::BLOCK_BYTES as u64)
    }

    /// Some blocks, at most so many, that are new since the last moment, as far as is known. What is read of them before a
    /// moment is taken need not be read while it is out; they may be freed meanwhile.
    pub fn new_blocks(&self, most: u64) -> Vec<Run> {
        self.moments.fresh().map(|fresh| fresh.some(most)).unwrap_or_default()
    }
}

/// All blocks that a commit may refer to, and how far the segments are filled that they are in. Some may have been freed and punched
/// long ago.
fn all_blocks(pinned: &Pinned) -> Result<(Vec<Run>, Vec<Tail>), MetaError> {
    let mut all = RunSet::default();
    let mut segments = Vec::new();
    for row in pinned.segments()?.into_iter().filter(|row| row.live > 0) {
        all.add(Run::new(BlockAddr { segment: row.id, index: 0 }, row.tail));
        segments.push((row.id, row.tail));
    }
    pinned.freed()?.into_iter().for_each(|run| all.remove(run));
    Ok((all.runs().collect(), segments))
}

impl Moment {
    /// The first epoch of the redo log that is not in it: what tells its commit from others.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of pages that the database has.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Whether [`Moment::pages`] has all pages of the database.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The pages of the database that have changed, without their seals. A page that is in no moment is free, and nobody reads it.
    pub fn pages(&self) -> &PageSpool {
        &self.pages
    }

    /// Whether [`Moment::blocks`] and [`Moment::segments`] have all that there are in the store.
    pub fn has_all_blocks(&self) -> bool {
        self.all_blocks
    }

    /// The blocks that are new, or were sealed again with other keys, ascending. Some may hold nothing any more.
    pub fn blocks(&self) -> &[Run] {
        &self.blocks
    }

    /// Blocks that were freed since the last moment; `None` if that is not known. Some may never have been in a moment.
    pub fn freed(&self) -> Option<&[Run]> {
        self.freed.as_deref()
    }

    /// Segments that have been filled further, or sealed again, with the index behind the last block; 0: nothing lives in it any
    /// more.
    pub fn segments(&self) -> &[(u64, u32)] {
        &self.segments
    }

    /// The bytes of the store's header.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Reads some of its blocks, as they are stored. Those that do not open are left out: they were freed before, or are damaged.
    ///
    /// # Errors
    /// As [`crate::store::Segments::read_stored`]; [`ReadError::Foreign`] where a block is sealed with keys that the header of this
    /// moment does not know yet: the next one does.
    pub fn read(&self, run: Run) -> Result<Vec<StoredBlocks>, ReadError> {
        let segments = self.out.store.segments();
        let stored = segments.read_stored(run)?;
        if stored.iter().any(|blocks| blocks.key_epoch > self.key_epoch.into()) {
            let what = "it was sealed again, with new keys, after this state of the store".to_owned();
            return Err(ReadError::Foreign { path: segments.path(run.start.segment), what });
        }
        Ok(stored)
    }

    /// Whether all of its blocks can still be read, but for damage: none was given back to the host since it was taken.
    pub fn is_sound(&self) -> bool {
        self.out.store.caretaker.is_copy_sound()
    }

    /// The store.
    pub fn store(&self) -> &Arc<OpenStore> {
        &self.out.store
    }

    /// It has come to where it was taken for: the next one has what changes from here on.
    pub fn done(mut self) {
        self.out.done = true;
    }
}
