//! Sealing everything again, under new keys, while the store is in use.
//!
//! The header of the store holds the keys of two epochs or more as long as this is under way, so that whoever opens the
//! store goes on with it. In small steps, on the caretaker's thread:
//!
//! 1. At a moment of rest, the newest keys come into use, no more is appended to the segment that was being filled, and
//!    the logs (the WAL and the redo log) are emptied. From here on, whatever is written is sealed with the newest keys.
//! 2. Each segment that is sealed with older ones is copied, block by block, and replaced by its copy.
//! 3. So is the database.
//! 4. When nothing more is found that is sealed with older keys, these go from the header, and then from memory. In a store with a remote,
//!    that is when its remote has everything with the newest keys, too; what is only there comes here to be sealed again.
//!
//! Each step can be interrupted at any point: what counts is what is found on disk, and nothing is kept of how far it was.

use super::OpenStore;
use super::commit::SyncError;
use crate::backing::{OpenMode, is_full};
use crate::crypto::Subkeys;
use crate::meta::{MetaError, ResealFault};
use crate::remote::LOCAL_NAME;
use crate::store::{BlockAddr, Header, HeaderError, ReadError, ResealError, Resealed, Run};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// How long to wait for room on the host's disk, or for a reader to end, before the next attempt.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where nobody else uses the store.
const PATIENCE_HURRIED: Duration = Duration::from_millis(100);
/// After so long, whoever waits is told what is waited for.
const TELL_AFTER: Duration = Duration::from_secs(30);
/// Blocks that are fetched in a step: 4 MiB.
const FETCHED: u32 = 1024;
/// The longest pause after a step, which leaves disk and processor to others.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Why it does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The host's disk is full. It goes on by itself when there is room.
    NoSpace(String),
    /// Something is damaged, and stays as it is, with the old keys.
    Damaged(String),
    /// The host failed.
    Failed(String),
}

impl Trouble {
    /// What happened, and what to do.
    pub fn message(&self) -> &str {
        match self {
            Self::NoSpace(what) | Self::Damaged(what) | Self::Failed(what) => what,
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reencryption {
    /// The key epoch that everything will be sealed in.
    pub epoch: u32,
    /// Bytes that are, of those that were not when this process began.
    pub done: u64,
    /// How many these were; 0 while that is not known.
    pub total: u64,
    /// Why it does not go on.
    pub trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Rest,
    Segments,
    Database,
    Retire,
    /// What is only elsewhere, with older keys, comes here.
    Fetch,
}

/// The state of it, in an open store.
#[derive(Debug, Default)]
pub(super) struct Reencrypting {
    running: bool,
    /// Keys that are to come into use.
    coming: Vec<Subkeys>,
    step: Step,
    /// Segments that are to be sealed again, with the lengths of their files. The first may be under way.
    segments: VecDeque<(u64, u64)>,
    begun: bool,
    /// Segments with damage.
    damaged: BTreeSet<u64>,
    /// Segments of which what is damaged was fetched, as far as it is elsewhere.
    mended: BTreeSet<u64>,
    /// What is to be fetched, and segments of which something was.
    absent: VecDeque<Run>,
    fetched: BTreeSet<u64>,
    /// Blocks that were to be fetched, and how many of them came; and how many there were in the last round, if none came.
    wanted: u64,
    came: u64,
    stuck_at: Option<u64>,
    /// Since when the remote is waited for.
    waits_since: Option<Instant>,
    done: u64,
    /// Of the segment or the database that is under way.
    part: u64,
    total: u64,
    trouble: Option<Trouble>,
    /// Nobody else is there to leave the machine to.
    hurry: bool,
}

/// What becomes of the job after a step.
enum Next {
    Step(Step),
    /// It is done.
    Done,
}

/// Why a step was not made.
enum Failure {
    /// To be tried again.
    Full(String),
    /// A reader is in the way.
    Busy,
    /// The remote is.
    Waits(String),
    Failed(String),
    /// The disk is not to be trusted any more.
    Untrusted(String),
}

impl From<SyncError> for Failure {
    fn from(e: SyncError) -> Self {
        match e {
            SyncError::NoSpace => Self::Full(e.to_string()),
            SyncError::Failed => Self::Failed(e.to_string()),
        }
    }
}

impl From<MetaError> for Failure {
    fn from(e: MetaError) -> Self {
        match e.host_kind() {
            io::ErrorKind::StorageFull => Self::Full(e.to_string()),
            _ => Self::Failed(e.to_string()),
        }
    }
}

impl Failure {
    fn host(path: &std::path::Path, e: &io::Error) -> Self {
        let what = format!("{}: {e}", path.display());
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(what),
            _ => Self::Failed(what),
        }
    }
}

impl From<ResealError> for Failure {
    fn from(e: ResealError) -> Self {
        match &e {
            ResealError::Write { path, source } => Self::host(path, source),
            ResealError::Read(ReadError::Io { path, source }) => Self::host(path, source),
            ResealError::Read(_) => Self::Failed(e.to_string()),
            ResealError::Sync { .. } => Self::Untrusted(e.to_string()),
        }
    }
}

impl OpenStore {
    /// Seals everything again with the newest of `keys`, which the store's header holds already; continues in the background
    /// after this returns. If it is under way, it goes on.
    ///
    /// # Errors
    /// When the header does not hold these keys.
    pub fn reencrypt(&self, keys: Vec<Subkeys>) -> Result<(), HeaderError> {
        let named = Header::read(&*self.dir)?.epochs();
        let newest = keys.iter().map(Subkeys::epoch).max();
        if newest.is_none() || newest != named.last().copied() {
            return Err(HeaderError::Stale { path: self.dir.path("") });
        }
        let mut state = self.reencrypting.lock();
        if named.len() < 2 {
            return Ok(());
        }
        if newest != self.keys.newest().map(|keys| keys.epoch()) {
            state.step = Step::Rest;
            state.coming = keys;
        }
        state.running = true;
        state.damaged.clear();
        state.mended.clear();
        state.trouble = None;
        drop(state);
        self.caretaker.reencrypt(Instant::now());
        Ok(())
    }

    /// Goes on with what an earlier process began.
    pub(super) fn resume_reencryption(&self) {
        log::info!("continuing the re-encryption of the store");
        self.reencrypting.lock().running = true;
        self.caretaker.reencrypt(Instant::now());
    }

    /// How far sealing everything again is; `None` if there is nothing to be sealed again.
    pub fn reencryption(&self) -> Option<Reencryption> {
        let state = self.reencrypting.lock();
        if !state.running && state.trouble.is_none() {
            return None;
        }
        let coming = state.coming.iter().map(Subkeys::epoch).max();
        Some(Reencryption {
            epoch: coming.or(self.keys.newest().map(|keys| keys.epoch())).unwrap_or(0),
            done: (state.done + state.part).min(state.total),
            total: state.total,
            trouble: state.trouble.clone(),
        })
    }

    /// Makes no pauses: nobody else uses the store.
    pub fn hurry_reencryption(&self) {
        self.reencrypting.lock().hurry = true;
    }
}

/// The store is closed: what is under way is begun again at the next open.
pub(super) fn interrupt(store: &OpenStore) {
    store.segments.abandon_reseal();
    store.committer.files().abandon_reseal();
}

/// One step, on the caretaker's thread.
pub(super) fn step(store: &OpenStore) {
    let began = Instant::now();
    let step = {
        let mut state = store.reencrypting.lock();
        if !state.running {
            return;
        }
        if !state.coming.is_empty() {
            state.step = Step::Rest;
        }
        state.step
    };
    let result = match step {
        _ if !store.health.is_good() => {
            Err(Failure::Failed("the store takes no changes after a failure".into()))
        }
        Step::Rest => rest(store),
        Step::Segments => segments(store),
        Step::Database => database(store),
        Step::Retire => retire(store),
        Step::Fetch => fetch(store),
    };
    let mut state = store.reencrypting.lock();
    match result {
        Ok(Next::Step(next)) => {
            if next != Step::Retire {
                state.waits_since = None;
            }
            state.step = next;
            state.trouble = None;
            let pause = if state.hurry { Duration::ZERO } else { began.elapsed().min(PAUSE_MAX) };
            drop(state);
            store.caretaker.reencrypt(Instant::now() + pause);
        }
        Ok(Next::Done) => {
            // Keys that came meanwhile are not forgotten.
            *state = Reencrypting {
                coming: std::mem::take(&mut state.coming),
                hurry: state.hurry,
                ..Default::default()
            };
            state.running = !state.coming.is_empty();
            if state.running {
                store.caretaker.reencrypt(Instant::now());
            }
        }
        Err(Failure::Busy) => store.caretaker.reencrypt(Instant::now() + PATIENCE),
        Err(Failure::Waits(what)) => {
            let since = *state.waits_since.get_or_insert_with(Instant::now);
            if since.elapsed() > TELL_AFTER {
                state.trouble = Some(Trouble::Failed(what));
            }
            let patience = if state.hurry { PATIENCE_HURRIED } else { PATIENCE };
            store.caretaker.reencrypt(Instant::now() + patience);
        }
        Err(Failure::Full(what)) => {
            let message = format!(
                "{what}; free some space on that disk: it continues by itself while the volume is mounted, or with \
                 `larder key reencrypt`"
            );
            if state.trouble.is_none() {
                log::error!("re-encryption pauses: {message}");
            }
            state.trouble = Some(Trouble::NoSpace(message));
            state.forget_progress();
            store.caretaker.reencrypt(Instant::now() + PATIENCE);
        }
        Err(Failure::Failed(what)) => {
            log::error!("re-encryption has stopped: {what}");
            state.trouble.get_or_insert(Trouble::Failed(what));
            // Whoever goes on with it looks at everything again.
            (state.step, state.running) = (Step::Segments, false);
            state.segments.clear();
            state.forget_progress();
        }
        Err(Failure::Untrusted(what)) => {
            store.health.fail(&what);
            state.trouble = Some(Trouble::Failed(what));
            state.running = false;
        }
    }
}

impl Reencrypting {
    /// What is under way is begun again.
    fn forget_progress(&mut self) {
        self.begun = false;
        self.part = 0;
    }
}

/// Lets the newest keys come into use, and nothing be in the logs that is sealed with older ones.
fn rest(store: &OpenStore) -> Result<Next, Failure> {
    let coming = std::mem::take(&mut store.reencrypting.lock().coming);
    let kept = coming.clone();
    let copied_back = |store: &OpenStore| {
        // So that there is little left to do while everybody waits. Nothing is committed meanwhile: that is done on this
        // thread.
        let checkpointer = store.meta().checkpointer()?;
        checkpointer.run()?;
        Ok::<(), Failure>(())
    };
    let result = store.at_rest(copied_back, move |store, meta| {
        let failed = |e: io::Error| Failure::host(&store.dir.path(""), &e);
        store.segments.retire();
        store.keys.add(coming).map_err(failed)?;
        store.redo.erase().map_err(failed)?;
        if meta.cut_wal()? { Ok(()) } else { Err(Failure::Busy) }
    });
    if result.is_err() {
        // Those that are in use already are no trouble.
        let mut state = store.reencrypting.lock();
        if state.coming.is_empty() {
            state.coming = kept;
        }
    }
    result?;
    store.committer.files().forget_changes();
    let segments = older_segments(store)?;
    let mut state = store.reencrypting.lock();
    let database = store.committer.files().database_bytes();
    (state.done, state.part) = (0, 0);
    state.total = segments.iter().map(|(_, len)| len).sum::<u64>() + database;
    state.segments = segments.into();
    state.forget_progress();
    Ok(Next::Step(Step::Segments))
}

fn older_segments(store: &OpenStore) -> Result<Vec<(u64, u64)>, Failure> {
    store.segments.sealed_with_older_keys().map_err(|e| Failure::host(&store.dir.path(""), &e))
}

fn segments(store: &OpenStore) -> Result<Next, Failure> {
    let next = {
        let state = store.reencrypting.lock();
        state.segments.front().map(|(id, _)| (*id, state.begun))
    };
    let Some((id, begun)) = next else {
        // All those that there were. Is there none that was overlooked?
        let left = older_segments(store)?;
        let mut state = store.reencrypting.lock();
        state.segments = left.into_iter().filter(|(id, _)| !state.damaged.contains(id)).collect();
        let next = if state.segments.is_empty() { Step::Database } else { Step::Segments };
        return Ok(Next::Step(next));
    };
    if !begun && !store.segments.begin_reseal(id)? {
        store.reencrypting.lock().segment_is_done();
        return Ok(Next::Step(Step::Segments));
    }
    store.reencrypting.lock().begun = true;
    let step = store.segments.reseal_some().and_then(|step| match step {
        Some(Resealed::Copied(unopened)) if unopened.is_empty() => {
            store.segments.finish_reseal()?;
            has_resealed(store, id);
            Ok(None)
        }
        other => Ok(other),
    });
    let step = step.inspect_err(|_| store.segments.abandon_reseal())?;
    match step {
        Some(Resealed::More(bytes)) => store.reencrypting.lock().part = bytes,
        None => store.reencrypting.lock().segment_is_done(),
        Some(Resealed::Copied(unopened)) => doubtful(store, id, &unopened)?,
    }
    Ok(Next::Step(Step::Segments))
}

impl OpenStore {
    /// The next state that is copied elsewhere has all blocks of a segment once more: some could not be read for the one before.
    pub fn copy_again(&self, segment: u64) {
        has_resealed(self, segment);
    }
}

/// Copies of a segment's blocks elsewhere are to be made again.
fn has_resealed(store: &OpenStore, id: u64) {
    if let Some(fresh) = store.moments.fresh() {
        let rows = store.meta().segments();
        let tail = rows.iter().find(|row| row.id == id).map_or(0, |row| row.tail);
        // (Not under the hold of the metadata.)
        let inspector = store.meta().inspector();
        let freed = inspector.and_then(|inspector| inspector.freed()).unwrap_or_default();
        fresh.resealed(id, tail, &freed);
    }
}

impl Reencrypting {
    fn segment_is_done(&mut self) {
        self.done += self.segments.pop_front().map_or(0, |(_, len)| len);
        self.forget_progress();
    }
}

/// Some blocks of a segment did not open. If nothing refers to them, they were freed, and the host cannot punch holes.
fn doubtful(store: &OpenStore, id: u64, unopened: &[BlockAddr]) -> Result<(), Failure> {
    // What was removed just now is to count.
    store.commit_now().inspect_err(|_| store.segments.abandon_reseal())?;
    // (Not under the hold of the metadata, which ends with this line: this takes long.)
    let inspector = store.meta().inspector();
    let referred = inspector.and_then(|inspector| inspector.refers_to_any(unopened));
    if !referred.inspect_err(|_| store.segments.abandon_reseal())? {
        store.segments.finish_reseal()?;
        has_resealed(store, id);
        store.reencrypting.lock().segment_is_done();
        return Ok(());
    }
    store.segments.abandon_reseal();
    let is_first = {
        let mut state = store.reencrypting.lock();
        state.forget_progress();
        state.mended.insert(id)
    };
    if is_first && mend(store, unopened)? {
        // It is begun again.
        return Ok(());
    }
    log::error!("{}: damaged; it stays sealed with the old keys", store.segments.path(id).display());
    let mut state = store.reencrypting.lock();
    state.damaged.insert(id);
    state.segment_is_done();
    Ok(())
}

/// Fetches those of the blocks that are elsewhere: whether some came.
fn mend(store: &OpenStore, unopened: &[BlockAddr]) -> Result<bool, Failure> {
    let Some(elsewhere) = store.segments.elsewhere() else { return Ok(false) };
    let mut has_come = false;
    for addr in unopened.iter().filter(|addr| elsewhere.has(**addr)) {
        match store.segments.fetch_absent(Run::new(*addr, 1)) {
            Ok(came) => has_come |= came > 0,
            Err(ReadError::Io { path, source }) if is_full(&source) => {
                return Err(Failure::host(&path, &source));
            }
            // It is damaged there as well, or cannot be had now: it may be when somebody asks for new keys again.
            Err(e) => log::warn!("{e}"),
        }
    }
    Ok(has_come)
}

fn database(store: &OpenStore) -> Result<Next, Failure> {
    let files = store.committer.files();
    let failed = |e: io::Error| Failure::host(&files.database_path(), &e);
    let begun = store.reencrypting.lock().begun;
    if !begun && !files.has_older_pages().map_err(failed)? {
        return Ok(Next::Step(Step::Retire));
    }
    store.reencrypting.lock().begun = true;
    match files.reseal_some() {
        Ok(Some(bytes)) => store.reencrypting.lock().part = bytes,
        Ok(None) => {
            let mut state = store.reencrypting.lock();
            state.done += files.database_bytes();
            state.forget_progress();
        }
        Err(ResealFault::Io(e)) => return Err(failed(e)),
        Err(ResealFault::Damaged(offset)) => {
            let path = files.database_path();
            let what = format!("{}: the page at offset {offset} is damaged", path.display());
            store.reencrypting.lock().trouble = Some(Trouble::Damaged(what.clone()));
            return Err(Failure::Failed(what));
        }
        Err(ResealFault::Sync(e)) => {
            return Err(Failure::Untrusted(format!("{}: {e}", store.dir.path("").display())));
        }
    }
    Ok(Next::Step(Step::Database))
}

/// Why the older keys stay.
const WAITS: &str = "everything here is sealed again, and the older keys stay until the remote has all of that: it continues by itself \
                     while the volume is mounted and the remote can be reached, or with `larder key reencrypt`; `larder remote status` \
                     says how that goes";

fn pieces(run: Run) -> impl Iterator<Item = Run> {
    (0..run.count).step_by(FETCHED as usize).map(move |skip| run.part(skip, FETCHED.min(run.count - skip)))
}

/// What of the remote something refers to, and is sealed with older keys there; `None` if that is not known.
fn needed_elsewhere(store: &OpenStore) -> Result<Option<Vec<Run>>, Failure> {
    let has_remote = || match store.dir.open(LOCAL_NAME, OpenMode::Read) {
        Ok(_) => true,
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    };
    let newest = store.keys.newest().map_or(0, |keys| keys.epoch());
    let Some(elsewhere) = store.segments.elsewhere() else {
        // Nobody has connected to it yet, or nobody does.
        return Ok((!has_remote()).then(Vec::new));
    };
    if store.moments.fresh().is_none() {
        return Ok(None);
    }
    let Some(older) = elsewhere.sealed_before(newest.into()) else { return Ok(None) };
    if older.is_empty() {
        return Ok(Some(older));
    }
    store.commit_now()?;
    // (Not under the hold of the metadata, which ends with this line: this takes long.)
    let inspector = store.meta().inspector();
    Ok(Some(inspector.and_then(|inspector| inspector.referred_of(&older))?))
}

/// Fetches some of what is only elsewhere. It comes sealed as the segment is that it belongs to.
fn fetch(store: &OpenStore) -> Result<Next, Failure> {
    let next = store.reencrypting.lock().absent.front().copied();
    if let Some(run) = next {
        let came = store.segments.fetch_absent(run).map_err(|e| match e {
            ReadError::Io { path, source } if is_full(&source) => Failure::host(&path, &source),
            e => Failure::Waits(format!("{e}; it is tried again, and the older keys stay until then")),
        })?;
        // Somebody may have read it meanwhile, or before: it is here, and to be shipped again just so.
        let is_here = || store.segments.read_stored(run).map(|here| !here.is_empty());
        let is_there = came > 0 || is_here().map_err(|e| Failure::Failed(e.to_string()))?;
        let mut state = store.reencrypting.lock();
        state.absent.pop_front();
        state.came += came;
        if is_there {
            state.fetched.insert(run.start.segment);
        }
        return Ok(Next::Step(Step::Fetch));
    }
    let (fetched, is_stuck) = {
        let mut state = store.reencrypting.lock();
        // What is here was shipped again since, and there is as much of it as before: it is something else that cannot be read.
        let stuck_at = (state.came == 0).then_some(state.wanted);
        let is_stuck = stuck_at.is_some() && state.stuck_at == stuck_at;
        state.stuck_at = stuck_at;
        (std::mem::take(&mut state.fetched), is_stuck)
    };
    if fetched.is_empty() || is_stuck {
        let what = "blocks that are needed are sealed with the older keys in the remote, and can be read neither there nor here; \
                    `larder remote check` and `larder check --read-data` name them, and the older keys stay"
            .to_owned();
        store.reencrypting.lock().trouble = Some(Trouble::Damaged(what.clone()));
        return Err(Failure::Failed(what));
    }
    // What came into a segment that is sealed with the newest keys is not in the remote with these; others are still to be sealed again.
    fetched.into_iter().for_each(|id| has_resealed(store, id));
    Ok(Next::Step(Step::Segments))
}

/// Takes the older keys out of the header.
fn retire(store: &OpenStore) -> Result<Next, Failure> {
    {
        let mut state = store.reencrypting.lock();
        if !state.damaged.is_empty() {
            let what = format!(
                "{} of the segments hold damaged blocks and stay sealed with the old keys; `larder check --read-data` names the \
                 files: remove or restore them, then run `larder key reencrypt` again",
                state.damaged.len()
            );
            state.trouble = Some(Trouble::Damaged(what.clone()));
            return Err(Failure::Failed(what));
        }
    }
    if !older_segments(store)?.is_empty() {
        return Ok(Next::Step(Step::Segments));
    }
    let waits = || Failure::Waits(WAITS.into());
    if !store.moments.spare_older_keys(store.committer.files()) {
        return Err(waits());
    }
    let absent = needed_elsewhere(store)?.ok_or_else(waits)?;
    if !absent.is_empty() {
        let mut state = store.reencrypting.lock();
        (state.wanted, state.came) = (absent.iter().map(|run| u64::from(run.count)).sum(), 0);
        state.absent = absent.into_iter().flat_map(pieces).collect();
        state.fetched.clear();
        return Ok(Next::Step(Step::Fetch));
    }
    let Some(newest) = store.keys.newest().map(|keys| keys.epoch()) else { return Ok(Next::Done) };
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(e.to_string());
    {
        let lock = store.lock.lock();
        let _header = lock.as_ref().map(|lock| lock.lock_header()).transpose().map_err(|e| failed(&e))?;
        let mut header = Header::read(&*store.dir).map_err(|e| failed(&e))?;
        if let Some(keyring) = &mut header.keyring {
            keyring.end_epochs_before(newest);
        }
        header.replace(&*store.dir).map_err(|e| match &e {
            HeaderError::Io { path, source } => Failure::host(path, source),
            _ => failed(&e),
        })?;
    }
    store.keys.retain(&[newest]);
    log::info!("everything is sealed in key epoch {newest}, and the older keys are gone");
    Ok(Next::Done)
}
