//! Shipping the store to its remote while it is served.
//!
//! One thread: it claims the store, and then ships what is new, every few seconds. Nobody waits for it, neither at the start nor for long at
//! the end. When the remote cannot be reached, it tries again; when somebody else has the store, the store takes no more changes. Another
//! thread shows life, and finds out that somebody else has it where there is nothing to ship.

use crate::crypto::Keys;
use crate::health::now;
use crate::mount::volume_at;
use crate::open_store::{OpenStore, SyncError};
use crate::remote::{
    Address, Beat, BootClock, Checked, Clock, Deadlines, Frozen, Heartbeat, Kept, LOCAL_NAME, LeaseKind,
    Local, Log, Objects, OfMoment, OnDemand, Patience, Permit, RemoteError, RemoteSealer, RemoteUrl, Scheme,
    ShipError, Shipper, Source, Stopped, Uploading, can_reach, connect_until, init, read_store,
};
use crate::store::{Elsewhere, Run, StoreId};
use crate::volume::keep_history;
use collect::Tidying;
use evict::Evicting;
use healing::fetch_from;
use lag::Lag;
use leased::NoMore;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rewrite::Rewriting;
pub use status::RemoteStatus;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use syncs::{Shipped, Syncs, answer};
use unread::Unread;

mod collect;
mod ending;
mod evict;
mod gone;
mod healing;
mod lag;
mod leased;
mod of_server;
mod rewrite;
mod status;
mod syncs;
#[cfg(test)]
mod tests;
mod unread;

/// The longest pause after a failure: twice as long as between rounds, within these bounds.
const PAUSE_LEAST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The same where somebody waits.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether whoever waits still does.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether all is there that whoever attaches the store reads first, where nobody asks for it.
const LOOK_AROUND: Duration = Duration::from_secs(600);

/// How long a store that was taken waits, when it is opened, for its remote to say whether it still is.
const STILL_TAKEN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    record: u64,
    /// Since when something is new.
    behind: Option<Instant>,
    /// When the last round began that did what it was for, or shipping.
    good: Option<Instant>,
    trouble: Option<String>,
    /// What the remote lacks for good, if that was found out.
    lost: Option<String>,
    /// The last round failed.
    has_failed: bool,
    /// What the signs of life have found out.
    stopped: Option<Stopped>,
    /// The store was there, and is not any more: the newest round that has found that out, and what it has found.
    gone: Option<(u64, RemoteError)>,
    is_fenced: bool,
    /// Everything was committed before the store took no more changes.
    was_committed: bool,
    ends: bool,
    /// Programs may be answered until the store is closed, also when it ends.
    may_change: bool,
    /// Somebody waits until everything up to now is there.
    wanted: bool,
    /// So many still do.
    waiting: u32,
    /// When that was by the clock of this host, in seconds since 1970.
    shipped_at: Option<u64>,
    /// The host that has the remote.
    held_by: Option<String>,
    /// How far the upload is that is under way.
    uploading: Option<Arc<Uploading>>,
    /// Syncs of files that wait for it.
    syncs: Syncs,
    /// What is kept of the remote was changed: how often it is shipped, say.
    changed: bool,
    /// How long writers are kept from going on.
    lag: Arc<Lag>,
    /// The remote lacks more than it may.
    late: bool,
    /// More may be here than there is to be.
    crowded: bool,
    /// How much is here, if that is bounded; and why none of it goes, if it should.
    here: Option<u64>,
    stays: Option<String>,
    /// Bytes that were written anew.
    rewritten: u64,
    /// Something was found to be missing or wrong in the remote, and not to be there again since.
    unsound: bool,
    /// Why they wait in vain: what was done can never be durable.
    refused: Option<String>,
    /// Rounds that were begun, and the newest of them that did what it was for.
    rounds: u64,
    shipped: u64,
    /// Everything was shipped in the end, and nobody has the remote now.
    has_left: bool,
    /// There is no thread any more.
    over: bool,
}

impl State {
    /// Since when the remote lacks something of the store, in seconds; 0: it does not; `None`: that is not known, because nothing was shipped
    /// since the store was opened, and nothing will be.
    fn lag(&self, store: &Arc<OpenStore>) -> Option<u64> {
        if self.over && self.shipped == 0 {
            return None;
        }
        let lacks = match (self.behind, self.was_committed) {
            (Some(_), _) => true,
            (None, true) => !store.is_all_committed() || Source::has_news(store),
            (None, false) => Source::has_changes(store),
        };
        let since = self.behind.or(self.good).map_or(0, |since| since.elapsed().as_secs());
        Some(if lacks { since.max(1) } else { 0 })
    }
}

/// Whether somebody else has the store.
fn is_fenced(e: &ShipError) -> bool {
    use RemoteError::{Behind, Fenced, InUse, NotOwner};
    matches!(e, ShipError::Remote(Fenced { .. } | Behind { .. } | InUse { .. } | NotOwner { .. }))
}

/// Whether each further attempt finds the same. What passes when somebody has done something about it (credentials, room) is tried again, and
/// so is what looks like damage: it may be an answer of something else, in front of the object store.
fn is_final(e: &ShipError) -> bool {
    use RemoteError::{Newer, Older, OtherStore, Overwrites, Secret};
    is_fenced(e)
        || matches!(
            e,
            ShipError::Remote(
                Newer { .. } | Older { .. } | OtherStore { .. } | Overwrites { .. } | Secret { .. }
            )
        )
}

/// The longest pause after a failure, where it is shipped so often.
fn longest_pause(every: Duration) -> Duration {
    (every * 2).clamp(PAUSE_LEAST, PAUSE_MAX)
}

/// Whether it is nothing of the remote's.
fn is_of_host(e: &ShipError) -> bool {
    matches!(e, ShipError::Store(_) | ShipError::Remote(RemoteError::Host { .. }))
}

/// Somebody else has the store.
fn refuse_changes(store: &OpenStore, why: &str) {
    store.health().fail(&format!(
        "{why}; what this host has stays as it is: see \"When another host has it\" in the chapter on remotes"
    ));
}

/// Whether a store that another host had taken goes on: that one has given it back, and nobody has written anything behind what was shipped
/// from here. Where that cannot be found out in time, it does not. Nothing is claimed by it, nor is it the last word: whoever claims looks
/// again.
fn was_given_back(store: StoreId, keys: &Keys, local: &Local) -> bool {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let (keys, local) = (keys.clone(), local.clone());
    let look = move || -> std::result::Result<(), ShipError> {
        let address = local.address().map_err(ShipError::Store)?;
        let (clock, deadlines): (Arc<dyn Clock>, _) = (Arc::new(BootClock), Deadlines::default());
        deadlines.all.set(clock.now() + STILL_TAKEN);
        let objects =
            connect_until(&address, &clock, Patience::default(), &deadlines, &Arc::default())?.objects;
        // Where nothing is, a directory is not mounted.
        if read_store(&*objects)?.is_none() {
            return Err(RemoteError::NoStore { place: objects.place().into() }.into());
        }
        let sealer = RemoteSealer::new(store, &keys, objects.place());
        Ok(Log::open(objects, sealer, local.seen())?.must_continue(&local.known())?)
    };
    // A request can take longer, and is left behind then.
    let run = move || drop(send.send(look()));
    if let Err(e) = std::thread::Builder::new().name("larder-taken".into()).spawn(run) {
        log::warn!("cannot start a thread to look whether the store is still taken: {e}");
        return false;
    }
    match receive.recv_timeout(STILL_TAKEN) {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            log::debug!("the store stays taken: {e}");
            false
        }
        Err(_) => false,
    }
}

/// What is wrong with a remote in a directory, if that lies in a volume of the very store that is to be shipped there, as `is_of_store` says.
pub fn inside_itself(address: &Address, is_of_store: impl FnOnce(&str) -> bool) -> Option<String> {
    if address.url.scheme() != Scheme::File {
        return None;
    }
    let (remote, volume) =
        (&address.url, volume_at(&address.url.directory()).filter(|name| is_of_store(name))?);
    Some(format!(
        "{remote} lies in volume {volume:?}, which would be shipped there: each would wait for the other for ever; choose a directory elsewhere"
    ))
}

/// Says that there is no thread any more, however it ended; a panic is told to whoever asks how it goes.
struct Over(Arc<(Mutex<State>, Condvar)>);

impl Drop for Over {
    fn drop(&mut self) {
        let syncs = {
            let mut state = self.0.0.lock();
            state.over = true;
            // Nobody waits for what will not be.
            state.lag.allow(0);
            if std::thread::panicking() {
                let why = "the thread that ships panicked; please report what the log says of it; unmount the volume and mount it again to \
                           go on";
                log::error!("nothing is shipped any more: {why}");
                state.trouble = Some(why.into());
            }
            let ends = state.ends;
            state.syncs.at_the_end(ends)
        };
        answer(syncs, |_| Err(SyncError::Failed));
        self.0.1.notify_all();
    }
}

/// The thread that ships.
#[derive(Debug)]
pub(super) struct Shipping {
    remote: String,
    state: Arc<(Mutex<State>, Condvar)>,
    on_demand: Arc<OnDemand>,
    deadlines: Deadlines,
    kept: Arc<Kept>,
    permit: Arc<Permit>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread works with.
struct Work {
    store: Arc<OpenStore>,
    keys: Keys,
    kept: Arc<Kept>,
    on_demand: Arc<OnDemand>,
    deadlines: Deadlines,
    permit: Arc<Permit>,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// A claim that is in force.
struct Claimed {
    shipper: Shipper,
    unread: Unread,
    /// For requests that are made once, whatever the deadlines are.
    once: Arc<dyn Objects>,
    /// When all was looked for that whoever attaches the store reads first.
    looked: Instant,
    /// What stops it. With a strict lease, what all answers go by; else a claim has its own, since one that was stopped stays so.
    permit: Arc<Permit>,
    /// As long as it is there, life is shown.
    heartbeat: Heartbeat,
}

/// What is known of the remote of the store in the directory `path`.
///
/// # Errors
/// When it is not what this program wrote.
pub(super) fn local_of(path: &Path) -> io::Result<Option<Local>> {
    Local::read(path).map_err(|e| io::Error::new(e.kind(), format!("{LOCAL_NAME}: {e}")))
}

/// Whether the program of this process can reach a remote: the smaller one does without object stores.
pub(super) fn can_reach_it(local: &Local) -> bool {
    local.remote.parse::<RemoteUrl>().map_or(true, |url| can_reach(url.scheme()))
}

impl Shipping {
    /// Ships the store in the directory `path` from now on, and fetches what is not here. The remote need not be reached for that; if another
    /// host had taken the store, it is waited for it for a few seconds.
    ///
    /// # Errors
    /// When the host has no thread to give.
    pub(super) fn start(path: &Path, store: &Arc<OpenStore>, keys: &Keys, local: Local) -> io::Result<Self> {
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let remote = local.remote.clone();
        if let Some(at) = local.at.clone() {
            return Ok(Self::of_moment(path, store, keys, local, at));
        }
        let is_back = local.taken.is_some() && was_given_back(store.id(), keys, &local);
        let kept = Arc::new(Kept::new(path, local));
        if is_back {
            log::info!("{remote} was given back by the host that had taken it");
            if let Err(e) = kept.was_given_back() {
                log::warn!("{LOCAL_NAME}: {e}");
            }
        }
        let local = kept.local();
        {
            let mut state = state.0.lock();
            state.lag.allow(local.max_lag);
            state.good = Some(Instant::now());
        }
        let on_demand = Arc::new(OnDemand::of(&local, store.id(), keys, kept.counts()));
        fetch_from(store, Arc::clone(&on_demand) as Arc<dyn Elsewhere>);
        store.ship_with(Arc::new(Shipped::new(&state, Arc::downgrade(store))));
        let deadlines = Deadlines::default();
        // What says nothing that makes sense is none that another host may take from this one.
        let permit = Permit::new(local.lease().unwrap_or_default(), Arc::new(BootClock));
        let (taken, seen) = (local.taken, local.seen);
        if let Some(why) = taken {
            permit.stop(Stopped::Ended);
            refuse_changes(store, &why);
            {
                let mut state = state.0.lock();
                (state.trouble, state.is_fenced, state.over) = (Some(why), true, true);
                state.record = seen;
            }
            return Ok(Self { remote, state, on_demand, deadlines, kept, permit, thread: Mutex::default() });
        }
        if let Err(e) = keep_history(path, &kept.local()) {
            log::warn!("how long {remote} keeps what was needed is known on this host only: {e}");
        }
        let work = Work {
            store: Arc::clone(store),
            keys: keys.clone(),
            kept: Arc::clone(&kept),
            on_demand: Arc::clone(&on_demand),
            deadlines: deadlines.clone(),
            permit: Arc::clone(&permit),
            state: Arc::clone(&state),
        };
        let thread = std::thread::Builder::new().name("larder-ship".into()).spawn(move || work.run())?;
        Ok(Self { remote, state, on_demand, deadlines, kept, permit, thread: Mutex::new(Some(thread)) })
    }

    /// Fetches what is not here of the state of a moment, which is not shipped.
    fn of_moment(path: &Path, store: &Arc<OpenStore>, keys: &Keys, local: Local, at: Frozen) -> Self {
        let (remote, kept) = (local.remote.clone(), Arc::new(Kept::new(path, local.clone())));
        let on_demand = Arc::new(OnDemand::of(&local, store.id(), keys, kept.counts()));
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        {
            let mut state = state.0.lock();
            (state.over, state.record) = (true, at.record);
        }
        fetch_from(store, Arc::new(OfMoment::new(Arc::clone(&on_demand), at)));
        let permit = Permit::new(LeaseKind::None, Arc::new(BootClock));
        let deadlines = Deadlines::default();
        Self { remote, state, on_demand, deadlines, kept, permit, thread: Mutex::default() }
    }

    /// The moment that the store is the state of, and the remote, if it is not shipped there.
    pub(super) fn moment(&self) -> Option<(Frozen, String)> {
        let local = self.kept.local();
        local.at.map(|at| (at, local.remote))
    }

    /// Heeds what is kept of the remote now, which another process has changed.
    ///
    /// # Errors
    /// As [`Local::read`].
    pub(super) fn reread(&self) -> io::Result<()> {
        self.kept.reread()?;
        {
            let mut state = self.state.0.lock();
            state.changed = true;
            state.lag.allow(if state.over { 0 } else { self.kept.local().max_lag });
        }
        self.state.1.notify_all();
        Ok(())
    }

    /// How many of these blocks are not in the remote; `None` as long as that is not known.
    pub(super) fn missing(&self, runs: &[Run]) -> Option<u64> {
        self.on_demand.missing(runs)
    }

    /// Looks whether all that the remote is known to have is there, blocks but for their contents.
    ///
    /// # Errors
    /// Those of requests; [`RemoteError::Interrupted`] as long as it was not reached.
    pub(super) fn check(&self) -> std::result::Result<Checked, RemoteError> {
        let found = self.on_demand.check(self.kept.local().seen())?;
        self.state.0.lock().unsound = found.fault_count > 0;
        Ok(found)
    }

    /// What is kept of the remote, once everything is there and nobody has it any more; `None` where it has not come to that.
    pub(super) fn has_left(&self) -> Option<Local> {
        self.state.0.lock().has_left.then(|| self.kept.local())
    }

    /// Waits until everything that was done before is in the remote, for so long, and as long as somebody wants that: `is_gone` is asked
    /// again and again.
    ///
    /// # Errors
    /// Why it is not. It is tried again, unless this says that it is no use.
    pub(super) fn sync(
        &self,
        timeout: Duration,
        is_gone: &dyn Fn() -> bool,
    ) -> std::result::Result<u64, String> {
        let mut state = self.state.0.lock();
        state.waiting += 1;
        let synced = self.sync_in(&mut state, Instant::now() + timeout, is_gone);
        state.waiting -= 1;
        synced
    }

    fn sync_in(
        &self,
        state: &mut MutexGuard<'_, State>,
        until: Instant,
        is_gone: &dyn Fn() -> bool,
    ) -> std::result::Result<u64, String> {
        let round = state.rounds + 1;
        state.wanted = true;
        self.state.1.notify_all();
        while state.shipped < round {
            if let Some(why) = &state.refused {
                return Err(format!("not everything is in {}: {why}", self.remote));
            }
            let why = state.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            if state.over || state.gone.as_ref().is_some_and(|(found, _)| *found >= round) {
                return Err(format!("nothing is shipped to {} any more{why}", self.remote));
            }
            let look = until.min(Instant::now() + LOOK);
            if self.state.1.wait_until(state, look).timed_out() && (Instant::now() >= until || is_gone()) {
                return Err(format!("not everything is in {} yet{why}; larder goes on trying", self.remote));
            }
        }
        Ok(state.record)
    }

    /// Fails where blocks could neither be read nor are in the remote, as of the last [`Shipping::sync`].
    ///
    /// # Errors
    /// How many.
    pub(super) fn must_be_whole(&self) -> std::result::Result<(), String> {
        self.state.0.lock().lost.clone().map_or(Ok(()), Err)
    }
}

impl Work {
    fn run(self) {
        let (_over, _no_more) = (Over(Arc::clone(&self.state)), NoMore(Arc::clone(&self.permit)));
        let mut pause = self.every();
        let (mut claimed, mut cannot_collect) = (None, false);
        let (mut tidying, mut is_late) = (Tidying::new(Instant::now()), false);
        let (mut evicting, mut rewriting) = (Evicting::default(), Rewriting::default());
        loop {
            let (is_last, began) = (self.state.0.lock().ends, Instant::now());
            if is_late && let Err(e) = self.store.commit_now() {
                log::debug!("committing what is to be shipped: {e}");
            }
            let result = self.round(&mut claimed, is_last);
            self.state.0.lock().has_failed = result.is_err();
            match &result {
                Ok(()) => pause = self.every(),
                Err(e) => {
                    self.tell(e);
                    let is_over = is_final(e) || self.is_over(e);
                    if is_over {
                        self.stop_answering(e);
                    }
                    if is_fenced(e) {
                        self.fenced(e);
                    }
                    if let ShipError::Remote(e @ RemoteError::Gone { .. }) = e {
                        // Whoever finds no sign of life takes it that nothing is answered: it is so by now.
                        self.let_go(claimed.take(), e);
                    }
                    if is_over {
                        return;
                    }
                    if !self.store.health().is_good() {
                        self.fail_syncs();
                    }
                    pause = (pause * 2).min(longest_pause(self.every()));
                }
            }
            if is_last && (result.is_ok() || self.deadlines.all.is_past(BootClock.now())) {
                return;
            }
            self.state.1.notify_all();
            // (Nobody waits for that.)
            let is_waited_for = self.state.0.lock().syncs.len() > 0;
            if let (Ok(()), false, Some(claimed)) = (&result, is_last, &mut claimed) {
                if tidying.removes(is_waited_for, Instant::now()) {
                    self.collect(&mut claimed.shipper, is_waited_for, &mut cannot_collect);
                }
                if tidying.rewrites(is_waited_for, Instant::now()) {
                    rewriting.run(&self, &mut claimed.shipper, began + pause);
                }
            }
            // Where the host is full, nothing may be shipped before something has gone.
            let may_evict = result.as_ref().err().is_none_or(is_of_host);
            if let (true, false, Some(claimed)) = (may_evict, is_last, &mut claimed) {
                evicting.run(&self, &mut claimed.shipper, began + pause);
            }
            let mut state = self.state.0.lock();
            // Where somebody waits, it is tried again soon.
            let since = Instant::now();
            let until = |state: &State| {
                let is_waited_for = state.waiting > 0 || state.syncs.len() > 0;
                since + if state.ends || (is_waited_for && result.is_err()) { AGAIN } else { pause }
            };
            // A sync that comes while it fails has its turn with those that wait already.
            let is_woken = |state: &State| {
                let is_asked = state.wanted || state.changed || state.stopped.is_some();
                let is_due = state.syncs.len() > 0 || state.late || state.crowded;
                (state.ends && !is_last) || is_asked || (is_due && result.is_ok())
            };
            while !is_woken(&state) && Instant::now() < until(&state) {
                let until = until(&state);
                self.state.1.wait_until(&mut state, until);
            }
            is_late = std::mem::take(&mut state.late);
            (state.changed, state.crowded) = (false, false);
        }
    }

    /// Nothing that waits will ever be there.
    fn fail_syncs(&self) {
        let syncs = self.state.0.lock().syncs.take(u64::MAX);
        answer(syncs, |_| Err(SyncError::Failed));
    }

    /// Somebody else has the store.
    fn fenced(&self, e: &ShipError) {
        // What was acknowledged stays here.
        let was_committed = self.store.commit_now().is_ok();
        refuse_changes(&self.store, &e.to_string());
        {
            let mut state = self.state.0.lock();
            (state.is_fenced, state.was_committed) = (true, was_committed);
        }
        if let ShipError::Remote(RemoteError::Fenced { .. } | RemoteError::Behind { .. }) = e {
            // The next mount takes none from the beginning.
            if let Err(e) = self.kept.was_taken(&e.to_string()) {
                log::warn!("{LOCAL_NAME}: {e}");
            }
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(self.kept.local().ship.max(1))
    }

    fn tell(&self, e: &ShipError) {
        let text = e.to_string();
        let mut state = self.state.0.lock();
        if state.trouble.as_ref() != Some(&text) {
            log::warn!("not shipped: {text}");
        }
        state.trouble = Some(text);
    }

    /// Ships once; connects and claims before that, where that is not done.
    fn round(&self, claimed: &mut Option<Claimed>, is_last: bool) -> std::result::Result<(), ShipError> {
        let (stopped, place) = (self.state.0.lock().stopped.take(), self.kept.local().remote);
        match stopped {
            Some(Stopped::Fenced(by)) => return Err(RemoteError::Fenced { place, by }.into()),
            Some(Stopped::Older(seen)) => {
                if let Some(Claimed { shipper, once, .. }) = claimed {
                    match shipper.take_back(&**once, seen) {
                        Ok(()) => {}
                        Err(e @ RemoteError::Fenced { .. }) => return Err(e.into()),
                        Err(e) => log::warn!("what was written behind record {seen} of {place} stays: {e}"),
                    }
                }
                let now = "it is missing now".into();
                return Err(RemoteError::Older { place, seen, now }.into());
            }
            Some(Stopped::Gone(what)) => return Err(RemoteError::Gone { place, what }.into()),
            Some(Stopped::Ended) | None => {}
        }
        if Source::has_news(&self.store) {
            self.state.0.lock().behind.get_or_insert_with(Instant::now);
        }
        let (number, is_wanted, is_for_syncs) = {
            let mut state = self.state.0.lock();
            state.rounds += 1;
            // Also after a round for it that has failed: what is not durable is not shipped.
            let is_wanted = std::mem::take(&mut state.wanted) || state.waiting > 0;
            (state.rounds, is_wanted, state.syncs.len() > 0)
        };
        if is_last || is_wanted {
            // All of it; and before anything is asked of the remote.
            self.commit()?;
        }
        let shipping = match claimed {
            Some(claimed) => claimed,
            None => claimed.insert(self.connect().map_err(|e| self.still_gone(e))?),
        };
        let (began, began_at) = (Instant::now(), now());
        let looks = shipping.unread.try_again(&self.store, &mut shipping.shipper, is_wanted);
        // What syncs wait for is durable, but perhaps in no commit.
        let shipped = match is_for_syncs {
            true => shipping.shipper.ship_all(&self.store)?,
            false => shipping.shipper.ship(&self.store)?,
        };
        // (What was just shipped follows on what is there.)
        let whole = is_wanted || is_last || shipping.looked.elapsed() >= LOOK_AROUND;
        if whole || is_for_syncs && shipped.is_none() {
            shipping.shipper.must_be_there(whole)?;
        }
        if whole {
            shipping.looked = Instant::now();
        }
        let newest = shipping.shipper.log().state().newest;
        self.on_demand.appended(newest);
        let Claimed { shipper, unread, .. } = shipping;
        if let Some(lost) = unread.found(&self.store, &self.on_demand, shipper, &place, looks)? {
            self.say_lost(lost);
        }
        if let Some(shipped) = shipped {
            log::debug!("shipped record {}, {} bytes", shipped.newest.number, shipped.bytes);
        }
        let syncs = {
            let mut state = self.state.0.lock();
            (state.record, state.gone) = (newest.number, None);
            state.trouble = shipper.image_trouble().map(str::to_owned);
            (state.shipped, state.good, state.shipped_at) = (number, Some(began), Some(began_at));
            state.behind = Source::has_news(&self.store).then_some(began);
            state.syncs.take(number)
        };
        // Whoever syncs a volume is told of what that lacks as of what a disk has lost: once.
        let lacking = shipping.unread.lacks_more(syncs.iter().map(|(volume, _)| *volume));
        let checked = self.store.health().checked();
        answer(syncs, |volume| if lacking.contains(&volume) { Err(SyncError::Failed) } else { checked });
        if !is_last {
            self.on_demand.try_again();
        }
        if is_last && let Some(claimed) = claimed.take() {
            self.leave(claimed)?;
        }
        Ok(())
    }

    /// What the remote lacks for good is this.
    fn say_lost(&self, lost: Option<String>) {
        let mut state = self.state.0.lock();
        if let Some(lost) = lost.as_ref().filter(|lost| state.lost.as_ref() != Some(lost)) {
            log::error!("{lost}");
        }
        state.lost = lost;
    }

    fn commit(&self) -> std::result::Result<(), ShipError> {
        let Err(e) = self.store.commit_now() else { return Ok(()) };
        let Some(why) = self.store.health().reason() else { return Err(ShipError::Store(e.to_string())) };
        let why = format!("the store takes no changes, because {why}");
        self.state.0.lock().refused = Some(why.clone());
        self.state.1.notify_all();
        Err(ShipError::Store(why))
    }

    fn connect(&self) -> std::result::Result<Claimed, ShipError> {
        let local = self.kept.local();
        self.must_be_leased_as(&local).map_err(ShipError::Store)?;
        let address = local.address().map_err(ShipError::Store)?;
        let is_ours = |name: &str| {
            self.store.meta().volumes().is_ok_and(|rows| rows.iter().any(|row| row.name == name))
        };
        if let Some(why) = inside_itself(&address, is_ours) {
            return Err(ShipError::Store(why));
        }
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let connection =
            connect_until(&address, &clock, Patience::default(), &self.deadlines, self.kept.counts())?;
        let objects = connection.objects;
        // What has been there does not begin anew: the directory is not mounted, say.
        if local.seen > 0 && read_store(&*objects)?.is_none() {
            return Err(RemoteError::NoStore { place: objects.place().into() }.into());
        }
        let sealer = RemoteSealer::new(self.store.id(), &self.keys, objects.place());
        init(&*objects, &sealer, clock.wall().seconds)?;
        // (Programs that do not heed the file do not open the store from here on.)
        let apart = self.store.begin_attempts().map_err(|e| e.to_string());
        if let Err(e) = apart.and_then(|()| self.kept.note_apart().map_err(|e| e.to_string())) {
            log::debug!("what is about to be shipped is noted in {LOCAL_NAME}: {e}");
        }
        let state = &self.state.0;
        // Whoever has written since then has gone on from what this host has not: it must not go on from what it has.
        let shipper =
            Shipper::take_up(objects, sealer, &self.kept, Arc::clone(&clock), &mut |_| !state.lock().ends)?;
        let shipper = shipper.until(&self.deadlines.parts);
        let me = shipper.owner().clone();
        {
            let mut state = state.lock();
            (state.held_by, state.uploading) = (Some(me.host.clone()), Some(shipper.uploading()));
        }
        let permit = self.permit_of_claim(&clock);
        let once = connection.once;
        let period = Duration::from_secs(local.heartbeat);
        let beat = || {
            // What is not here, or is damaged here, is there.
            self.on_demand.follow(shipper.catalog())?;
            Beat::new(Arc::clone(&once), shipper.log(), &me, Arc::clone(&permit), clock, period)
        };
        // What is claimed and not shipped to is nobody's.
        let beat = beat().inspect_err(|_| shipper.say_over())?;
        let (state, deadlines) = (Arc::clone(&self.state), self.deadlines.clone());
        let heartbeat = Heartbeat::start_telling(beat, move |why| {
            state.0.lock().stopped = Some(why);
            // Nothing that is under way is of any use.
            deadlines.parts.set(BootClock.now());
            deadlines.all.set(BootClock.now());
            state.1.notify_all();
        })
        .inspect_err(|_| shipper.say_over())?;
        Ok(Claimed { shipper, unread: Unread::default(), once, looked: Instant::now(), permit, heartbeat })
    }
}
