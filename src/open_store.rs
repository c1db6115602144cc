//! A store that is open: metadata and segments together, and the protocol that makes them durable.
//!
//! Threads: callers (the file system) change the store; the *syncer* makes a few changes durable through the redo log, the
//! *committer* all others, both in groups; the *copier* copies the WAL back; the *caretaker* gives freed space back and reaps
//! large orphans.
//!
//! Lock order: `long_turn` before `gate` before `meta` before everything inside `segments`. No lock is held while a disk flushes, but for
//! the short moment in which an overgrown WAL starts over, or the family is changed.
//!
//! Invariants:
//! - an append and the mutation that names its blocks happen under one shared hold of the gate, so that at the moment
//!   of a commit (which has the gate alone) every allocated block is either named or known as wasted;
//! - a block is given back only after the commit that freed it is durable;
//! - once a sync has failed, no later one succeeds: the store takes no changes until it is opened again.

mod alter;
mod attach;
mod caches;
mod caretaker;
mod commit;
mod health;
mod helpers;
mod hold;
mod moment;
mod recover;
mod redo;
mod reencrypt;
mod requests;
mod room;
mod shipped;
mod source;

pub use alter::AlterError;
pub use attach::{AttachError, lay_down};
pub use caretaker::HoldFreed;
pub use commit::{SyncDone, SyncError};
pub use health::{Healed, Health, Incident, Watcher};
pub use hold::{MetaHold, nothing_is_held};
pub use moment::{Moment, MomentError};
pub use reencrypt::{Reencryption, Trouble};
pub use requests::{Executed, KeepExecuted, Legacy, MadeFor, Origin};
pub use shipped::{Ships, Slowing};

use crate::backing::{Dir, HostSpace, is_full};
use crate::crypto::Keys;
use crate::meta::{Meta, MetaError, MetaFiles, Mutation, Outcome, VolumeId};
use crate::scheduling::Scheduling;
use crate::store::{
    AppendError, BlockCache, Feature, Header, HeaderError, PagesElsewhere, Run, SealedRun, Segments, StoreId,
    StoreLock,
};
use caretaker::Caretaker;
use commit::{Committer, Durability};
use moment::Moments;
use parking_lot::{Mutex, RwLock};
use recover::Resume;
use redo::RedoLog;
use reencrypt::Reencrypting;
use room::Room;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

/// Writes up to this size go to the redo log first, if their sync is near. So can all that are between two syncs
/// (`commit/habit.rs`), 2 MiB in the end: to write so much twice takes about as long as a commit, which has to wait for the disk twice.
const LOGGED_BYTES: usize = 64 << 10;

/// How often whoever waits for threads of the store does what is to be done meanwhile.
const MEANWHILE: Duration = Duration::from_millis(100);

/// What is done, again and again, while threads of the store are waited for; if anything.
pub type Meanwhile<'a, 'b> = Option<&'a mut (dyn FnMut() + 'b)>;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Limit of the block cache, in bytes.
    pub cache_bytes: usize,
    /// Longest time a change stays uncommitted.
    pub commit_interval: Duration,
    /// Note what changes, for [`OpenStore::moment`].
    pub moments: bool,
    /// What is not here of it is elsewhere ([`Segments::set_partial`]).
    pub is_partial: bool,
    /// Where pages of the metadata are once more, for when one is damaged.
    pub pages: Option<Arc<dyn PagesElsewhere>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            commit_interval: Duration::from_secs(5),
            moments: false,
            is_partial: false,
            pages: None,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The header cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The metadata cannot be used.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The host does not let us.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The metadata refused or failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The blocks could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// An open store.
#[derive(Debug)]
pub struct OpenStore {
    id: StoreId,
    dir: Arc<dyn Dir>,
    keys: Keys,
    meta: Mutex<Meta>,
    /// See [`OpenStore::take_most_committed`].
    most_committed: AtomicU64,
    /// See [`OpenStore::take_most_rows`].
    most_rows: AtomicU64,
    /// See [`OpenStore::take_longest_hold`], in nanoseconds.
    longest_hold: AtomicU64,
    long_turn: Mutex<()>,
    segments: Segments,
    cache: BlockCache,
    /// What the cache may take if there is enough memory for it, in bytes.
    cache_most: usize,
    gate: RwLock<()>,
    health: Health,
    redo: RedoLog,
    committer: Committer,
    room: Room,
    caretaker: Caretaker,
    moments: Moments,
    /// Who ships it to a remote, if it has one.
    ships: OnceLock<Arc<dyn Ships>>,
    scheduling: Mutex<Scheduling>,
    reencrypting: Mutex<Reencrypting>,
    /// [`Feature::InodeFlags`] is in the header.
    may_have_flags: AtomicBool,
    /// [`Feature::Holds`] is in the header.
    may_have_holds: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the store is open.
    lock: Mutex<Option<StoreLock>>,
}

impl OpenStore {
    /// Opens the store in `dir`, recovers what a crash left, and starts its threads. `lock` is the store's lock, held
    /// exclusively (`None` where no other process can be).
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing was changed but what recovery may change.
    pub fn open(
        dir: Arc<dyn Dir>,
        lock: Option<StoreLock>,
        options: StoreOptions,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(dir, lock, Keys::Plain, options)
    }

    /// As [`OpenStore::open`], with the keys of the store.
    ///
    /// # Errors
    /// As [`OpenStore::open`]; also when the store is encrypted and there are no keys, or the other way round.
    pub fn open_with(
        dir: Arc<dyn Dir>,
        lock: Option<StoreLock>,
        keys: Keys,
        options: StoreOptions,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_recovered(dir, lock, keys, options, None).map(|(store, _)| store)
    }

    /// As [`OpenStore::open_with`], to take over mounts from a server that is gone. `executed` and `keep` are what a server
    /// before that one left, and where to keep the like for the next one.
    ///
    /// # Errors
    /// As [`OpenStore::open_with`].
    pub fn open_again(
        dir: Arc<dyn Dir>,
        lock: StoreLock,
        keys: Keys,
        options: StoreOptions,
        (executed, keep): (Vec<Executed>, KeepExecuted<'_>),
    ) -> Result<(Arc<Self>, Legacy), OpenError> {
        Self::open_recovered(dir, Some(lock), keys, options, Some(Resume { executed, keep }))
    }

    fn open_recovered(
        dir: Arc<dyn Dir>,
        lock: Option<StoreLock>,
        keys: Keys,
        options: StoreOptions,
        resume: Option<Resume<'_>>,
    ) -> Result<(Arc<Self>, Legacy), OpenError> {
        let header = Header::read(&*dir)?;
        recover::check_keys(&header, &*dir, &keys, resume.is_some())?;
        keys.retain(&header.epochs());
        let is_elsewhere = options.moments || options.is_partial;
        let recovered =
            recover::recover(&dir, header, lock.as_ref(), (&keys, is_elsewhere, options.pages), resume)?;
        recovered.segments.set_partial(options.is_partial);
        let (header, legacy) = (recovered.header, recovered.legacy);
        let files = recovered.meta.files();
        let checkpointer = Arc::new(Mutex::new(recovered.checkpointer));
        let (epoch, executed) = (recovered.meta.epoch(), legacy.executed.clone());
        let redo = RedoLog::new(Arc::clone(&dir), header.store, keys.clone(), epoch, executed);
        let store = Arc::new(Self {
            id: header.store,
            dir,
            keys,
            meta: Mutex::new(recovered.meta),
            most_committed: AtomicU64::new(0),
            most_rows: AtomicU64::new(0),
            longest_hold: AtomicU64::new(0),
            long_turn: Mutex::new(()),
            segments: recovered.segments,
            cache: BlockCache::new(options.cache_bytes),
            cache_most: options.cache_bytes,
            gate: RwLock::new(()),
            health: Health::default(),
            redo,
            committer: Committer::new(files, options.commit_interval),
            room: Room::default(),
            caretaker: Caretaker::default(),
            moments: Moments::new(options.moments),
            ships: OnceLock::new(),
            scheduling: Mutex::default(),
            reencrypting: Mutex::default(),
            may_have_flags: AtomicBool::new(header.features.contains(&Feature::InodeFlags)),
            may_have_holds: AtomicBool::new(header.features.contains(&Feature::Holds)),
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(lock),
        });
        store.caretaker.give_back(recovered.give_back);
        store.caretaker.reap(recovered.orphans);
        store.caretaker.reclaim();
        if store.keys.epochs().len() > 1 {
            store.resume_reencryption();
        }
        let io = |source| OpenError::Io { path: store.dir.path(""), source };
        store.start_helpers_with(&checkpointer);
        store.spawn("larder-commit", move |store| commit::run(&store, &checkpointer)).map_err(io)?;
        Ok((store, legacy))
    }

    /// The store's identity.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Whether any inode may have flags.
    pub fn may_have_flags(&self) -> bool {
        self.may_have_flags.load(Ordering::Acquire)
    }

    /// From now on, inodes may have flags. Durable when this returns: programs that would not heed them refuse the store.
    ///
    /// # Errors
    /// As the host; nothing has changed then.
    pub fn begin_flags(&self) -> Result<(), OpenError> {
        self.begin(Feature::InodeFlags)?;
        self.may_have_flags.store(true, Ordering::Release);
        Ok(())
    }

    /// From now on, snapshots may be held. Durable when this returns, as [`OpenStore::begin_flags`].
    ///
    /// # Errors
    /// As the host; nothing has changed then.
    pub fn begin_holds(&self) -> Result<(), OpenError> {
        if !self.may_have_holds.load(Ordering::Acquire) {
            self.begin(Feature::Holds)?;
            self.may_have_holds.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// From now on, what is about to be shipped may be noted in a file of its own. Durable when this returns, as [`OpenStore::begin_flags`].
    ///
    /// # Errors
    /// As the host; nothing has changed then.
    pub fn begin_attempts(&self) -> Result<(), OpenError> {
        self.begin(Feature::RemoteAttempts)
    }

    /// Names a feature in the header.
    fn begin(&self, feature: Feature) -> Result<(), OpenError> {
        let io = |source| OpenError::Io { path: self.dir.path(""), source };
        let lock = self.lock.lock();
        let _header = lock.as_ref().map(StoreLock::lock_header).transpose().map_err(io)?;
        let mut header = Header::read(&*self.dir)?;
        if header.features.insert(feature) {
            header.replace(&*self.dir)?;
        }
        Ok(())
    }

    /// The segments, for reading.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The cache of opened blocks.
    pub fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// The files of the metadata.
    pub fn meta_files(&self) -> &Arc<MetaFiles> {
        self.committer.files()
    }

    /// Whether the store still takes changes.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Space on the host file system.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn host_space(&self) -> io::Result<HostSpace> {
        self.dir.host_space()
    }

    /// Carries out a mutation under the caller's hold of the metadata.
    ///
    /// # Errors
    /// See [`Meta::apply`]; `Refusal::HostFull`. A failure that poisons the metadata also ends the store's health.
    pub fn apply(
        &self,
        meta: &mut Meta,
        volume: VolumeId,
        mutation: &Mutation,
    ) -> Result<Outcome, MetaError> {
        if !self.health.is_good() {
            return Err(MetaError::Poisoned);
        }
        self.make_room(meta, mutation)?;
        let result = meta.apply(volume, mutation);
        match &result {
            Ok(_) => {
                self.room.count(mutation);
                self.record(meta, volume, mutation)?;
            }
            Err(e) if meta.is_poisoned() => {
                self.health.fail(&format!("a change of the metadata failed half way: {e}"));
            }
            Err(_) => {}
        }
        result
    }

    /// Puts an applied mutation into the redo log.
    fn record(&self, meta: &mut Meta, volume: VolumeId, mutation: &Mutation) -> Result<(), MetaError> {
        requests::step();
        match self.redo.record(volume, mutation) {
            Ok(true) => {}
            // The host's disk is full: only a commit keeps this change from being lost with the process.
            Ok(false) => self.committer.crowd(),
            Err(source) => return Err(self.log_failed(meta, source)),
        }
        self.committer.note(meta.mutations(), &self.redo, &self.segments);
        Ok(())
    }

    /// Waits while the open transaction is so large that it must be committed first. To be called before a change,
    /// without a hold of anything. False: the host's disk is full, and too much waits for it already.
    #[must_use]
    pub fn throttle(&self) -> bool {
        self.committer.throttle()
    }

    /// Whether [`OpenStore::throttle`] would wait.
    pub fn is_crowded(&self) -> bool {
        self.committer.is_crowded()
    }

    /// Writes blocks to new addresses and then carries out what `name` makes of them, with no commit in between.
    /// `name` gets the metadata and the runs; if it fails, the runs are given back.
    ///
    /// # Errors
    /// When the blocks cannot be written, or as `name`.
    pub fn append<T>(
        &self,
        parts: &[&[u8]],
        name: impl FnOnce(&mut Meta, &[Run]) -> Result<T, MetaError>,
    ) -> Result<T, ChangeError> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(name(&mut self.meta(), &[])?);
        }
        if self.segments.ids_left() == 0 {
            // Only a commit reserves more.
            if let Err(e) = self.commit_now() {
                log::warn!("cannot reserve segment ids: {e}");
            }
        }
        let _open = self.gate.read();
        let appended = self.append_blocks(parts);
        let mut meta = self.meta();
        let (runs, deferred) = match appended {
            Ok(appended) => appended,
            Err(e) => {
                if is_full(&e.source) {
                    self.room.refused();
                }
                meta.wasted(&e.wasted);
                return Err(e.into());
            }
        };
        let in_log = self.record_blocks(&mut meta, &deferred)?;
        if !in_log && !deferred.is_empty() {
            // Not under the hold of the metadata, which waits for no disk.
            drop(meta);
            let written = self.segments.write_deferred();
            meta = self.meta();
            // What waited before is in the log, and a commit tries again to write it; what is refused now is nowhere.
            if let Err((path, source)) = written {
                self.refuse_blocks(&mut meta, &runs, &deferred);
                return Err(AppendError { path, source, wasted: Vec::new() }.into());
            }
        }
        let value = name(&mut meta, &runs).inspect_err(|_| {
            self.refuse_blocks(&mut meta, &runs, &deferred);
        })?;
        if !in_log {
            self.redo.note_blocks(&runs);
        }
        self.segments.forget_freed(meta.drain_freed());
        drop(meta);
        // What fails is tried again by the commit, and reported then.
        if self.segments.has_many_deferred()
            && let Err((path, e)) = self.segments.write_deferred()
        {
            log::debug!("{}: {e}", path.display());
        }
        Ok(value)
    }

    /// Blocks that were given addresses are not going to be named.
    fn refuse_blocks(&self, meta: &mut Meta, runs: &[Run], deferred: &[Arc<SealedRun>]) {
        // After a change that failed half way, they may be named.
        if !meta.is_poisoned() {
            self.segments.forget_deferred(deferred);
            meta.wasted(runs);
        }
    }

    /// Gives blocks addresses, and writes them there, or leaves that for later: small ones whose sync is near go to the log
    /// first, where that takes them. The caller holds the gate.
    fn append_blocks(&self, parts: &[&[u8]]) -> Result<(Vec<Run>, Vec<Arc<SealedRun>>), AppendError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        // What is short of room uses it for what gives room back.
        let may_wait = || self.redo.takes_blocks() && !self.room.is_short() && !self.committer.is_behind();
        if bytes <= LOGGED_BYTES
            && self.committer.is_sync_near()
            && may_wait()
            && let Some(deferred) = self.segments.append_deferred(parts)?
        {
            return Ok((deferred.iter().map(|sealed| sealed.run()).collect(), deferred));
        }
        self.segments.append(parts).map(|runs| (runs, Vec::new()))
    }

    /// Puts blocks that are in memory only into the redo log; false if they are not all there.
    fn record_blocks(&self, meta: &mut Meta, deferred: &[Arc<SealedRun>]) -> Result<bool, ChangeError> {
        for sealed in deferred {
            match self.redo.record_blocks(sealed) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(source) => return Err(self.log_failed(meta, source).into()),
            }
        }
        Ok(!deferred.is_empty())
    }

    /// What was accepted may not outlive this process: nothing more is.
    fn log_failed(&self, meta: &mut Meta, source: io::Error) -> MetaError {
        meta.poison();
        self.health.fail(&format!("writing the redo log failed: {source}"));
        MetaError::Host { path: self.dir.path(""), source }
    }

    /// Makes everything durable that was changed before, and then calls `done`, from any thread.
    pub fn sync(&self, done: SyncDone) {
        if !self.health.is_good() {
            done(Err(SyncError::Failed));
            return;
        }
        let durable = {
            let meta = self.meta.lock();
            match self.redo.durability() {
                _ if meta.is_poisoned() => Durability::No,
                _ if !meta.is_dirty() => Durability::Already,
                durable => durable,
            }
        };
        self.committer.ask_sync(&self.health, durable, done);
    }

    /// Something small was written by somebody who may ask for a sync next.
    pub fn wrote(&self) {
        self.committer.wrote();
    }

    /// Commits everything that was changed before, and waits for it.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn commit_now(&self) -> Result<(), SyncError> {
        self.commit_while(None)
    }

    /// The same. `meanwhile`, if there is something, is called again and again.
    fn commit_while(&self, meanwhile: Meanwhile<'_, '_>) -> Result<(), SyncError> {
        if !self.health.is_good() {
            return Err(SyncError::Failed);
        }
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let done = Box::new(move |result| {
            let _ = send.send(result);
        });
        self.committer.ask_commit(done);
        let Some(meanwhile) = meanwhile else { return receive.recv().unwrap_or(Err(SyncError::Failed)) };
        loop {
            match receive.recv_timeout(MEANWHILE) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => meanwhile(),
                Err(RecvTimeoutError::Disconnected) => return Err(SyncError::Failed),
            }
        }
    }

    /// Sets the longest time a change stays uncommitted.
    pub fn set_commit_interval(&self, interval: Duration) {
        self.committer.set_interval(interval);
    }

    /// Sets how the thread is scheduled that syncs the log.
    pub fn set_scheduling(&self, scheduling: Scheduling) {
        *self.scheduling.lock() = scheduling;
    }

    /// Lets the caretaker free the rest of an orphan.
    pub fn reap_later(&self, volume: VolumeId, ino: crate::meta::Ino) {
        self.caretaker.reap([(volume, ino)]);
    }

    /// The mount of a volume is gone: none of its requests will be asked for again.
    pub fn forget_requests(&self, volume: VolumeId) {
        self.redo.forget_requests(volume);
    }

    /// What readers of the mount of a volume with lower numbers than `first_reader` took is answered, or was of an earlier mount.
    pub fn forget_requests_before(&self, volume: VolumeId, first_reader: u64) {
        self.redo.forget_requests_before(volume, first_reader);
    }

    /// Keeps freed blocks where they are as long as the guard lives, for a reader of an older commit.
    pub fn hold_freed(&self) -> HoldFreed<'_> {
        self.caretaker.hold()
    }

    /// Commits, stops the threads and closes the files. Called once; the store takes no changes afterwards.
    ///
    /// # Errors
    /// When the last commit fails. What was synced before is safe.
    pub fn close(&self) -> Result<(), SyncError> {
        self.close_while(None)
    }

    /// The same, for who has something else to do as well, and no other thread for it: `meanwhile` is called several times a second, as long
    /// as this waits for threads of the store.
    ///
    /// # Errors
    /// As [`OpenStore::close`].
    pub fn close_while(&self, meanwhile: Meanwhile<'_, '_>) -> Result<(), SyncError> {
        self.close_files(meanwhile).0
    }

    /// The same, for who goes on with what is closed: with the store's lock, which nobody else has had meanwhile.
    ///
    /// # Errors
    /// As [`OpenStore::close`].
    pub fn close_locked(&self) -> (Result<(), SyncError>, Option<StoreLock>) {
        self.close_files(None)
    }

    fn close_files(&self, mut meanwhile: Meanwhile<'_, '_>) -> (Result<(), SyncError>, Option<StoreLock>) {
        let result = self.commit_while(meanwhile.as_deref_mut());
        self.caretaker.stop();
        self.join(Some("larder-care"), meanwhile.as_deref_mut());
        reencrypt::interrupt(self);
        // What the caretaker gave back is worth a commit of its own.
        let last = if result.is_ok() { self.commit_while(meanwhile.as_deref_mut()) } else { Ok(()) };
        self.segments.release_reserved();
        self.committer.stop();
        self.caretaker.end();
        self.join(None, meanwhile);
        let mut meta = self.meta.lock();
        match meta.finish() {
            // The logs hold nothing that the database does not.
            Ok(()) if last.is_ok() && result.is_ok() && self.health.is_good() => self.redo.remove(),
            Ok(()) => {}
            Err(e) => log::warn!("cannot close the metadata: {e}; the next open recovers"),
        }
        (result.and(last), self.lock.lock().take())
    }
}
