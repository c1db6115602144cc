//! Shipping: what a store has become since the last record, to its remote.
//!
//! Blocks go into parts, several at a time, small amounts of them into the record; then the record. What was uploaded before an
//! attempt failed is not uploaded again: an address stands for one content. Now and then a record is an image, so that
//! whoever attaches the store reads few records.
//!
//! What becomes of a record whose answer is lost is found out before the next ([`Log::settle`]). Until then, what was in it counts as
//! changed: the next record has it again, which does no harm.
//!
//! Where there is much to upload, records without a state come first, that have only parts, every few GiB or minutes, or only as many small
//! blocks as a record holds: nothing refers to these blocks yet, and whoever goes on later, another process perhaps, does not upload them again.
//! A state is not kept for long for that, because nothing of what it has is given back to the host meanwhile: then the next one is shipped, with
//! what is left of it, and what is new.

mod blocks;
mod evict;
mod found;
mod image;
mod pages;
mod rewrite;
mod tidy;
mod whole;

pub use rewrite::Rewritten;

use super::catalog::Catalog;
use super::claim::{Waiting, say_over, take_up_if};
use super::clock::Clock;
use super::collect::named_by;
use super::deadline::Deadline;
use super::error::{RemoteError, Result};
use super::format::{
    Blocks, Claim, Commit, Contents, HeaderRef, Image, PartRef, Piece, PieceHash, REMOTE_FEATURES,
    SegmentState,
};
use super::headers::{put_header, read_header};
use super::local::Kept;
use super::log::{Log, Owner, Position};
use super::names;
use super::objects::{Objects, Trouble};
use super::presence::{must_have, nobody_went_on, take_back};
use super::seal::RemoteSealer;
use super::side_by_side::each;
use super::source::{Source, State};
use crate::crypto::hash;
use crate::store::{Header, Run};
use blocks::Small;
use bytes::Bytes;
use found::Found;
use image::{ALL_PAGES, ImageWaits};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use whole::Lacking;

/// Runs of freed blocks that a record has at most, 8 MiB of them: beside all else that it may have, there is room for that.
const FREED_MAX: usize = 1 << 19;

/// States that the host may spoil, one after the other, until there is a pause.
const SPOILT_MAX: u32 = 3;

/// How much is done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShipLimits {
    /// Bytes of parts after which a record names them,
    pub slice_bytes: u64,
    /// or so long after the last one.
    pub slice_time: Duration,
    /// Blocks in a record at most.
    pub record_blocks: u32,
    /// How long a state is kept at first, until another one is taken; each time, that is twice as long.
    pub state_life: Duration,
}

impl Default for ShipLimits {
    fn default() -> Self {
        Self {
            slice_bytes: 2 << 30,
            slice_time: Duration::from_secs(120),
            record_blocks: blocks::IN_RECORD,
            state_life: Duration::from_secs(300),
        }
    }
}

/// Why something was not shipped.
#[derive(Debug, Error)]
pub enum ShipError {
    /// The remote.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The store.
    #[error("{0}")]
    Store(String),
}

impl ShipError {
    /// Whether it is worth to try again by itself: all but what says that somebody else has the store, or that the remote is not what it
    /// was.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Remote(e) => e.is_passing() || matches!(e, RemoteError::Interrupted),
            Self::Store(_) => true,
        }
    }
}

/// What was shipped at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// The newest record.
    pub newest: Position,
    /// Bytes in parts, pieces and records that were written for it.
    pub bytes: u64,
}

/// How far the upload of a state is.
#[derive(Debug, Default)]
pub struct Uploading {
    done: AtomicU64,
    total: AtomicU64,
}

impl Uploading {
    /// Blocks that were uploaded, and those that have to be; `None` while nothing is.
    pub fn blocks(&self) -> Option<(u64, u64)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.done.load(Ordering::Relaxed).min(total), total))
    }

    fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn count(&self, blocks: u32) {
        self.done.fetch_add(blocks.into(), Ordering::Relaxed);
    }
}

/// Ships one store to its remote. The store is claimed.
#[derive(Debug)]
pub struct Shipper {
    log: Log,
    me: Owner,
    clock: Arc<dyn Clock>,
    /// Where blocks are; whoever fetches some asks it, too.
    catalog: Arc<Mutex<Catalog>>,
    /// Parts in the remote that no record names yet.
    spare: Catalog,
    /// Blocks that records without a state have brought since the last state that was shipped.
    sliced: Catalog,
    /// How far the upload of the present state is.
    uploading: Arc<Uploading>,
    /// Blocks of states that could not be read: they were freed long ago, or the remote lacks them for good.
    left_out: Vec<Run>,
    /// What the remote lacks of what is read first there.
    lacking: Lacking,
    /// Pieces that are in the remote.
    pieces: HashSet<PieceHash>,
    /// The commit of a record of which it is not known whether it is there.
    unsettled: Option<Commit>,
    /// A record that others were written behind, or may have been, and that was not seen since.
    unseen: Option<Position>,
    /// Records since the newest image, and their bytes.
    records: u64,
    record_bytes: u64,
    image_bytes: u64,
    /// Bytes written since it was last asked.
    written: u64,
    /// The key epoch that the claim is sealed in; 0: that is not known.
    claim_epoch: Option<u32>,
    limits: ShipLimits,
    /// How long the next state is kept.
    life: Duration,
    /// The newest state that was shipped, by its epoch of the redo log; and the record that has it.
    shipped_epoch: (u64, u64),
    tidy: tidy::Tidy,
    rewrite: rewrite::Rewrite,
    /// Lengths that records have by what is in them, as far as somebody wanted to know.
    record_lengths: BTreeMap<u64, u64>,
    image_waits: Option<ImageWaits>,
    /// When no more is to be uploaded.
    deadline: Deadline,
}

impl Shipper {
    /// The shipper of the store that `me` has claimed in `log`. What is in the remote is found out first.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn new(log: Log, me: Owner, clock: Arc<dyn Clock>) -> Result<Self> {
        let found = Found::of(&log)?;
        Self::going_on(found, log, me, clock)
    }

    /// Takes up the store that is here and was shipped from here, if it ever was ([`take_up`](super::take_up)), and gets ready to ship it. What
    /// is in the remote is found out before anything is claimed: where that cannot be, however often it is tried, no claim is left behind.
    ///
    /// # Errors
    /// As [`take_up`](super::take_up) and [`Shipper::new`].
    pub fn take_up(
        objects: Arc<dyn Objects>,
        sealer: RemoteSealer,
        kept: &Arc<Kept>,
        clock: Arc<dyn Clock>,
        told: &mut dyn FnMut(&Waiting) -> bool,
    ) -> Result<Self> {
        let mut found = Found::default();
        let look: &mut dyn FnMut(&Log) -> Result<()> = &mut |log| {
            found = Found::of(log)?;
            Ok(())
        };
        let (log, me) = take_up_if(objects, sealer, kept, &*clock, look, told)?;
        let (claimed, owner) = (log.to_read(), me.clone());
        Self::going_on(found, log, me, clock).inspect_err(|_| say_over(&claimed, &owner))
    }

    /// Says that nothing is shipped any more, where that cannot be said by a goodbye: nobody waits for this owner then, and it must not go on.
    pub fn say_over(&self) {
        say_over(&self.log, &self.me);
    }

    /// Reads on from what was found there.
    fn going_on(found: Found, mut log: Log, me: Owner, clock: Arc<dyn Clock>) -> Result<Self> {
        log.follow()?;
        let found = found.follow(&log)?;
        let claim_epoch = match log.sealer().keys().epochs()[..] {
            [only] => Some(only),
            _ => None,
        };
        Ok(Self {
            log,
            me,
            clock,
            catalog: Arc::new(Mutex::new(found.catalog)),
            spare: Catalog::default(),
            sliced: Catalog::default(),
            uploading: Arc::default(),
            left_out: Vec::new(),
            lacking: Lacking::default(),
            pieces: found.pieces,
            unsettled: None,
            unseen: None,
            records: found.records,
            record_bytes: found.record_bytes,
            image_bytes: found.image_bytes,
            written: 0,
            claim_epoch,
            limits: ShipLimits::default(),
            life: ShipLimits::default().state_life,
            shipped_epoch: found.shipped_epoch,
            tidy: found.tidy,
            rewrite: rewrite::Rewrite::default(),
            record_lengths: BTreeMap::new(),
            image_waits: None,
            deadline: Deadline::default(),
        })
    }

    /// With these limits.
    #[must_use]
    pub fn with_limits(self, limits: ShipLimits) -> Self {
        Self { limits, life: limits.state_life, ..self }
    }

    /// Uploads no more parts from that time on. It is before requests end: what was uploaded by then is to get a record.
    #[must_use]
    pub fn until(self, deadline: &Deadline) -> Self {
        Self { deadline: deadline.clone(), ..self }
    }

    /// The owner that ships.
    pub fn owner(&self) -> &Owner {
        &self.me
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where blocks are, kept up to date.
    pub fn catalog(&self) -> Arc<Mutex<Catalog>> {
        Arc::clone(&self.catalog)
    }

    /// How far the upload of the present state is, kept up to date.
    pub fn uploading(&self) -> Arc<Uploading> {
        Arc::clone(&self.uploading)
    }

    /// Blocks of states that could not be read, in the order in which that was met. Where nothing refers to them any more, that is as it should
    /// be; else the remote lacks them, and nothing of what is shipped says so.
    pub fn left_out(&self) -> &[Run] {
        &self.left_out
    }

    /// Nothing refers to what was left out up to now, or it is read again with the next state.
    pub fn is_complete(&mut self) {
        self.left_out.clear();
    }

    /// The log, to say goodbye with. Nothing is shipped after that.
    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    fn count(&mut self, number: u64, commit: &Commit) {
        self.catalog.lock().apply(number, commit);
        self.record_bytes += bytes_of(commit);
        self.shipped_epoch = self.shipped_epoch.max((commit.redo_epoch, number));
    }

    /// Finds out what became of the last record, if that is not known, and whether what it follows on is still there.
    fn settle(&mut self) -> Result<()> {
        let settled = self.log.settle();
        if !self.log.is_pending() {
            let commit = self.unsettled.take();
            if let (Ok(Some(position)), Some(commit)) = (&settled, commit) {
                self.applied(*position, &commit);
            }
        }
        settled?;
        match self.unseen {
            Some(before) => self.must_follow_on(before, self.look_for(before)()),
            None => Ok(()),
        }
    }

    /// Looks whether a record is still there, as it was.
    fn look_for(&self, before: Position) -> impl Fn() -> Result<()> + Send + use<> {
        let (objects, sealer) = (Arc::clone(self.log.objects()), self.log.sealer().clone());
        let clock = Arc::clone(&self.clock);
        move || if before.number > 0 { must_have(&*objects, &sealer, &*clock, before) } else { Ok(()) }
    }

    /// What was written behind `before` counts if that was `seen`; where it is gone, what is behind it goes, too.
    fn must_follow_on(&mut self, before: Position, seen: Result<()>) -> Result<()> {
        self.unseen = Some(before);
        match &seen {
            Ok(()) => self.unseen = None,
            Err(e @ (RemoteError::Older { .. } | RemoteError::Gone { .. })) => {
                match self.take_back(&**self.log.objects(), before.number) {
                    // (Where there is no store, nothing that is there says anything of it.)
                    Err(other) if matches!(e, RemoteError::Older { .. }) => return Err(other),
                    Err(other @ RemoteError::Fenced { .. }) => return Err(other),
                    Ok(()) | Err(_) => {}
                }
            }
            Err(_) => {}
        }
        seen
    }

    /// Removes what was written from here behind a record that is not there any more. Nothing is shipped after that.
    ///
    /// # Errors
    /// [`RemoteError::Fenced`] where somebody has gone on behind that, who may need it; those of requests and of opening, after which that is not
    /// known. Nothing was removed then.
    pub fn take_back(&self, objects: &dyn Objects, before: u64) -> Result<()> {
        let newest = self.log.state().newest.number;
        let last = newest + u64::from(self.log.is_pending());
        nobody_went_on(objects, self.log.sealer(), self.me.id, (newest, last))?;
        take_back(objects, self.log.sealer(), self.me.id, before, last);
        Ok(())
    }

    fn applied(&mut self, position: Position, commit: &Commit) {
        self.count(position.number, commit);
        self.records += 1;
    }

    /// Ships what the store has become; `None` if there is nothing new.
    ///
    /// # Errors
    /// See [`ShipError`]. What is new is shipped by the next call.
    pub fn ship(&mut self, source: &dyn Source) -> std::result::Result<Option<Shipped>, ShipError> {
        self.ship_if(source, |source| source.has_news())
    }

    /// The same; also what is not durable yet.
    ///
    /// # Errors
    /// As [`Shipper::ship`].
    pub fn ship_all(&mut self, source: &dyn Source) -> std::result::Result<Option<Shipped>, ShipError> {
        self.ship_if(source, |source| source.has_changes())
    }

    fn ship_if(
        &mut self,
        source: &dyn Source,
        has_news: impl Fn(&dyn Source) -> bool,
    ) -> std::result::Result<Option<Shipped>, ShipError> {
        self.settle()?;
        let header = source.header().map_err(ShipError::Store)?;
        let wants_image = self.rewrite.wants_image(0) && !self.image_waits();
        let is_news = has_news(source) || wants_image || self.lacks_something();
        if !is_news && hash(&header) == self.log.state().header.hash {
            self.drop_older_headers()?;
            return Ok(None);
        }
        self.written = 0;
        let mut spoilt = 0;
        loop {
            let state = self.next_state(source)?;
            if let Some(newest) = self.ship_state(&*state)? {
                // Not before the image is there: keys that only an older one is sealed with may go after this.
                state.shipped();
                self.life = self.limits.state_life;
                self.drop_older_headers()?;
                return Ok(Some(Shipped { newest, bytes: self.written }));
            }
            if self.deadline.is_past(self.clock.now()) {
                let why = "the time for it is over; what was uploaded is not uploaded again";
                return Err(ShipError::Store(why.into()));
            }
            if !state.is_sound() {
                // Nothing is given back to the host while a state is there.
                spoilt += 1;
                if spoilt >= SPOILT_MAX {
                    let why = "the host is full, and needs what was freed while it was being shipped; it is tried again";
                    return Err(ShipError::Store(why.into()));
                }
            }
            self.life = self.life.saturating_mul(2);
        }
    }

    /// Ships one state; `None` if that takes too long, or it cannot be had any more. What of it is there is not uploaded again.
    fn ship_state(&mut self, state: &dyn State) -> std::result::Result<Option<Position>, ShipError> {
        let (epoch, record) = self.shipped_epoch;
        if state.redo_epoch() <= epoch {
            return Err(RemoteError::Behind { place: self.log.sealer().place().into(), record }.into());
        }
        let epochs = epochs_of(state)?;
        // Keys that come into use meanwhile are in no header that is there.
        self.log.sealer().seal_up_to(epochs.last().copied().unwrap_or(u32::MAX));
        let header = self.put_header(state.header())?;
        self.claim_again(header)?;
        let mut commit = Commit {
            pages: state.page_count(),
            page_bytes: state.page_bytes() as u16,
            redo_epoch: state.redo_epoch(),
            ..Commit::default()
        };
        let put = self.put_blocks(state, &mut commit, header);
        self.uploading.begin(0);
        let Some(read_in) = put? else { return Ok(None) };
        self.put_pages(state, &mut commit)?;
        if !state.is_sound() {
            // Some blocks may have been given back before they were read.
            commit.blocks.clear();
            self.put_slice(&mut commit, &mut Small::default(), header)?;
            return Ok(None);
        }
        commit.segments = segment_states(state, &commit, &self.catalog.lock(), &read_in);
        commit.freed = self.freed_since(state, &commit)?;
        let later = commit.freed.split_off(FREED_MAX.min(commit.freed.len()));
        let (is_whole, pages, redo_epoch) = (state.is_whole(), commit.pages, state.redo_epoch());
        let database = commit.pieces.clone();
        let mut newest = self.append(Contents::Commit(Box::new(commit)), header)?;
        // Behind the state, for the one before it may need them. What has come with the state anew, sealed with later keys, is not free.
        for some in catalog_of(later).outside(state.blocks()).chunks(FREED_MAX) {
            let commit = Commit { freed: some.to_vec(), ..Commit::default() };
            newest = self.append(Contents::Commit(Box::new(commit)), header)?;
        }
        self.sliced = Catalog::default();
        if is_whole {
            return Ok(Some(self.put_image(pages, database, redo_epoch, header)?));
        }
        Ok(Some(newest))
    }

    /// Blocks that nothing refers to any more: those that the state names; all that it does not name if it has everything; those that
    /// nobody has the keys of; and those of `commit`, or of records without a state before it, that are not in the state and were not known
    /// before, but were uploaded with what lies around them, or before they were freed.
    fn freed_since(&self, state: &dyn State, commit: &Commit) -> std::result::Result<Vec<Run>, ShipError> {
        let catalog = self.catalog.lock();
        let mut freed = state.freed().unwrap_or_default().to_vec();
        if state.has_all_blocks() {
            freed.extend(catalog.outside(state.blocks()));
        } else {
            freed.extend(self.sliced.outside(state.blocks()));
        }
        if let Some(oldest) = epochs_of(state)?.first() {
            freed.extend(catalog.sealed_before(u64::from(*oldest)));
        }
        // (What slices have brought is in the catalog by now.)
        for run in catalog_of(brought_by(commit)).outside(state.blocks()) {
            freed.extend(catalog.missing(run, 0));
        }
        Ok(freed)
    }

    /// Whether a state that is being shipped since `began` is to make room for the next one.
    fn is_over(&self, state: &dyn State, began: Duration) -> bool {
        let now = self.clock.now();
        now.saturating_sub(began) >= self.life || !state.is_sound() || self.deadline.is_past(now)
    }

    /// Appends a record with the parts and blocks of `commit` alone, if there are some, and takes them out of it; `small` is what is known of
    /// the blocks.
    fn put_slice(
        &mut self,
        commit: &mut Commit,
        small: &mut Small,
        header: HeaderRef,
    ) -> std::result::Result<(), ShipError> {
        let Small { read_in, .. } = std::mem::take(small);
        let (parts, blocks) = (std::mem::take(&mut commit.parts), std::mem::take(&mut commit.blocks));
        if parts.is_empty() && blocks.is_empty() {
            return Ok(());
        }
        let mut slice = Commit { parts, blocks, ..Commit::default() };
        {
            let catalog = self.catalog.lock();
            for run in brought_by(&slice) {
                for new in catalog.missing(run, 0) {
                    self.sliced.add_blocks(new);
                }
            }
            slice.segments = slice_states(&slice, &catalog, &read_in);
        }
        self.append(Contents::Commit(Box::new(slice)), header)?;
        Ok(())
    }

    /// Appends a record; the outcome is known when this returns, unless it is an error.
    fn append(&mut self, contents: Contents, header: HeaderRef) -> std::result::Result<Position, ShipError> {
        // (There is none of before: it was settled.)
        self.unsettled = match &contents {
            Contents::Commit(commit) => Some((**commit).clone()),
            _ => None,
        };
        let (last, names) = (self.log.state().newest, named_by(&contents));
        let (before, look) = (last.seal, self.look_for(last));
        // At the same time, which takes no longer.
        let (result, seen) = std::thread::scope(|scope| {
            let looking = std::thread::Builder::new().spawn_scoped(scope, &look);
            let result = self.log.append(&self.me, contents, Some(header), self.clock.wall());
            let seen = match looking {
                Ok(looking) => looking.join().unwrap_or(Err(RemoteError::Interrupted)),
                // (The host has no thread to give.)
                Err(_) => look(),
            };
            (result, seen)
        });
        if let Err(RemoteError::TooLong { .. }) = &result {
            // Next time, it is all pages, which are in no record.
            self.record_bytes = ALL_PAGES;
        }
        if let Ok(at) = &result {
            self.tidy.note_written(*at, before, self.log.state().image, names);
        }
        if !self.log.is_pending() {
            let commit = self.unsettled.take();
            if let Ok(position) = result {
                match commit {
                    Some(commit) => {
                        self.applied(position, &commit);
                        self.spare = Catalog::default();
                    }
                    None => self.records += 1,
                }
            }
        }
        let may_be_there = result.is_ok() || self.log.is_pending();
        let follows = if may_be_there { self.must_follow_on(last, seen) } else { Ok(()) };
        // (Why it is not known whether the record is there comes after why it must not be there.)
        match (result, follows) {
            (Err(_), Err(e @ (RemoteError::Older { .. } | RemoteError::Gone { .. }))) => Err(e.into()),
            (Err(e), _) | (_, Err(e)) => Err(e.into()),
            (Ok(at), Ok(())) => Ok(at),
        }
    }

    /// Seals the claim with the newest keys: who opens the log reads it, when the older ones are gone.
    fn claim_again(&mut self, header: HeaderRef) -> std::result::Result<(), ShipError> {
        let newest = self.log.sealer().sealing_epoch();
        if self.claim_epoch != Some(newest) {
            // All that it was to see to is done: nobody has to look further back. The sign of life stays the same.
            let sign = self.log.state().held.as_ref().map_or(0, |held| held.sign);
            let claim = Claim {
                sign,
                host: self.me.host.clone(),
                lease: self.me.lease,
                from: None,
                before: 0,
                features: REMOTE_FEATURES.iter().map(|&name| name.to_owned()).collect(),
            };
            self.append(Contents::Claim(claim), header)?;
            self.claim_epoch = Some(newest);
        }
        Ok(())
    }

    /// The version of the header with these bytes: the one in force, or a new one.
    fn put_header(&mut self, json: &[u8]) -> Result<HeaderRef> {
        let sum = hash(json);
        let current = self.log.state().header;
        if current.number > 0 && current.hash == sum && !self.lacking.has_lost(current) {
            return Ok(current);
        }
        let (objects, sealer) = (Arc::clone(self.log.objects()), self.log.sealer().clone());
        let mut number = current.number + 1;
        loop {
            match put_header(&*objects, &sealer, number, json) {
                Err(RemoteError::Object(e)) if e.trouble == Trouble::Exists => {
                    // Of an attempt before, or of one who was fenced.
                    let header = HeaderRef { number, hash: sum };
                    match read_header(&*objects, sealer.store(), header) {
                        Ok(_) => return Ok(header),
                        Err(RemoteError::Object(e)) => return Err(e.into()),
                        Err(_) => number += 1,
                    }
                }
                other => return other,
            }
        }
    }

    /// Puts pieces that are not known to be there.
    fn put_pieces(&mut self, bodies: Vec<(PieceHash, Vec<u8>)>) -> Result<()> {
        let mut objects = Vec::new();
        let mut new = HashSet::new();
        for (hash, body) in bodies {
            if !self.pieces.contains(&hash) && new.insert(hash) {
                objects.push((names::piece(&hash), self.log.sealer().seal_piece(&body)?.bytes));
            }
        }
        self.written += objects.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        objects.iter().for_each(|(name, _)| self.note_put(name.clone()));
        put_all(&**self.log.objects(), &objects)?;
        self.pieces.extend(new);
        Ok(())
    }
}

/// What a commit takes in its record, roughly, and what it leads to.
fn bytes_of(commit: &Commit) -> u64 {
    let pages = commit.changed.len() as u64 * u64::from(commit.page_bytes);
    let pieces: u64 = commit.pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
    let blocks: u64 = commit.blocks.iter().map(|blocks| blocks.stored.len() as u64).sum();
    pages + pieces + blocks + 48 * (commit.parts.len() + commit.freed.len()) as u64
}

/// The key epochs that the header of a state has, ascending.
fn epochs_of(state: &dyn State) -> std::result::Result<Vec<u32>, ShipError> {
    let header = Header::parse(state.header(), Path::new("header.json"));
    Ok(header.map_err(|e| ShipError::Store(e.to_string()))?.epochs())
}

/// How far the segments are that something is new in, and in which key epoch: that in which their blocks were read, if some are in the
/// record. A segment may be sealed again at any time; its blocks are shipped again then.
fn segment_states(
    state: &dyn State,
    commit: &Commit,
    catalog: &Catalog,
    read_in: &BTreeMap<u64, u32>,
) -> Vec<SegmentState> {
    let mut epochs: BTreeMap<u64, u32> = BTreeMap::new();
    for part in &commit.parts {
        epochs.insert(part.segment, part.key_epoch);
    }
    let tails: BTreeMap<u64, u32> = state.segments().iter().copied().collect();
    let mut ids: Vec<u64> = tails.keys().copied().collect();
    ids.extend(epochs.keys().chain(commit.blocks.iter().map(|blocks| &blocks.start.segment)));
    if state.has_all_blocks() {
        // All others are gone.
        ids.extend(catalog.states().map(|state| state.segment));
    }
    ids.sort_unstable();
    ids.dedup();
    let one = |segment: u64| {
        let known = catalog.state(segment);
        let gone = if state.has_all_blocks() { 0 } else { known.map_or(0, |known| known.tail) };
        let tail = tails.get(&segment).copied().unwrap_or(gone);
        let epoch = state.key_epoch(segment).and_then(|epoch| u32::try_from(epoch).ok());
        let epoch = read_in.get(&segment).copied().or(epoch);
        let key_epoch = epoch.or(known.map(|known| known.key_epoch)).unwrap_or(0);
        let key_epoch = if tail == 0 { 0 } else { key_epoch };
        SegmentState { segment, tail, key_epoch }
    };
    ids.into_iter().map(one).collect()
}

/// How far the segments are, at least, of which a record without a state has blocks, and in which key epoch those were read.
fn slice_states(slice: &Commit, catalog: &Catalog, read_in: &BTreeMap<u64, u32>) -> Vec<SegmentState> {
    let mut tails: BTreeMap<u64, u32> = BTreeMap::new();
    for run in slice.blocks.iter().map(Blocks::run) {
        let known = catalog.state(run.start.segment).map_or(0, |state| state.tail);
        let tail = tails.entry(run.start.segment).or_insert(known);
        *tail = (*tail).max(run.end_index());
    }
    let one = |(segment, tail)| {
        let key_epoch = read_in.get(&segment).copied().unwrap_or(0);
        SegmentState { segment, tail, key_epoch }
    };
    tails.into_iter().map(one).collect()
}

/// Blocks that a commit brings, in no order.
fn brought_by(commit: &Commit) -> impl Iterator<Item = Run> {
    commit.parts.iter().map(PartRef::run).chain(commit.blocks.iter().map(Blocks::run))
}

/// Reads the tables of an image.
pub(super) fn read_tables(objects: &dyn Objects, sealer: &RemoteSealer, image: &Image) -> Result<Catalog> {
    let mut pieces = Vec::new();
    for table in &image.tables {
        let name = names::piece(&table.hash);
        let bytes = objects.get(&name, super::PIECE_OBJECT_MAX);
        let bytes = bytes.map_err(|e| RemoteError::from(e).or_lost(sealer.place(), || name.clone()))?;
        let piece = sealer.open_piece(&table.hash, bytes)?;
        if let Piece::Pages { .. } = piece {
            let what = "it has pages, and an image says that it has tables";
            return Err(RemoteError::damaged(sealer.place(), &name, what));
        }
        pieces.push(piece);
    }
    Ok(Catalog::of(pieces))
}

/// Blocks that are somewhere.
fn catalog_of(runs: impl IntoIterator<Item = Run>) -> Catalog {
    let mut all = Catalog::default();
    runs.into_iter().for_each(|run| all.add_blocks(run));
    all
}

/// Makes objects whose names stand for their contents. One that is there, and that nothing needed any more, perhaps, is made anew: from now on,
/// it is as young as what names it, and whoever was about to remove it does not.
fn put_all(objects: &dyn Objects, all: &[(String, Bytes)]) -> Result<()> {
    each(all, |(name, bytes)| Ok(objects.put(name, bytes.clone())?)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::{BootClock, Directory, Patience, Patient};
    use super::*;

    /// It stayed as old as it was, and whoever had listed it before removed it.
    #[test]
    fn a_piece_that_is_put_again_is_new() {
        let tmp = tempfile::tempdir().unwrap();
        let directory: Arc<dyn Objects> = Arc::new(Directory::new(&tmp.path().join("objects")));
        let objects = Patient::new(directory, Arc::new(BootClock), Patience::default());
        let all = [(names::piece(&PieceHash([7; 32])), Bytes::from_static(b"the same"))];
        put_all(&objects, &all).unwrap();
        let file = std::fs::File::open(tmp.path().join("objects").join(&all[0].0)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
        assert_eq!(objects.head(&all[0].0).unwrap().modified, 1000);
        put_all(&objects, &all).unwrap();
        assert!(objects.head(&all[0].0).unwrap().modified > 1000);
    }
}
