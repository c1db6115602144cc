//! Shipping the store to its remote while it is served.
//!
//! One thread: it claims the store, and then ships what is new, every few seconds. Nobody waits for it. When the remote cannot be
//! reached, it tries again; when somebody else has the store, the store takes no more changes.

use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::open_store::{Meanwhile, OpenStore, StoreOptions};
use crate::remote::{
    BootClock, Clock, Fetcher, LOCAL_NAME, Local, Log, Owner, Permit, RemoteError, RemoteSealer, ShipError,
    Shipper, Source, Steal, claim, connect, goodbye, init,
};
use crate::root::Root;
use crate::store::{HeaderLock, StoreId};
use crate::volume::{Result, VolumeError, lock_store};
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long another process may take to let go of a store.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody else is thought of while the thread is waited for.
const MEANWHILE: Duration = Duration::from_millis(100);
/// How long what is left is tried to be shipped when the store is closed.
const LAST_TRY: Duration = Duration::from_secs(30);

/// How shipping goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// The remote.
    pub remote: String,
    /// The newest record.
    pub record: u64,
    /// Since when the remote lacks something, in seconds; 0: it has everything that is durable.
    pub lag_seconds: u64,
    /// How much, roughly; `None`: that is not known yet.
    pub lag_bytes: Option<u64>,
    /// Why nothing is shipped, if so.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    record: u64,
    /// Since when something is new.
    behind: Option<Instant>,
    trouble: Option<String>,
    ends: bool,
    /// Somebody waits until everything up to now is there.
    wanted: bool,
    /// Rounds that were begun, and the newest of them that did what it was for.
    rounds: u64,
    shipped: u64,
    /// There is no thread any more.
    over: bool,
}

/// Whether somebody else has the store.
fn is_fenced(e: &ShipError) -> bool {
    use RemoteError::{Fenced, InUse, NotOwner};
    matches!(e, ShipError::Remote(Fenced { .. } | InUse { .. } | NotOwner { .. }))
}

/// Whether each further attempt finds the same. What passes when somebody has done something about it (credentials, room) is tried again.
fn is_final(e: &ShipError) -> bool {
    use RemoteError::{Damaged, Lost, Newer, Older, OtherStore, Secret};
    is_fenced(e)
        || matches!(
            e,
            ShipError::Remote(
                Damaged { .. }
                    | Lost { .. }
                    | Newer { .. }
                    | Older { .. }
                    | OtherStore { .. }
                    | Secret { .. }
            )
        )
}

/// Says that there is no thread any more, however it ended.
struct Over(Arc<(Mutex<State>, Condvar)>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.0.lock().over = true;
        self.0.1.notify_all();
    }
}

/// The thread that ships.
#[derive(Debug)]
pub(super) struct Shipping {
    remote: String,
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread works with.
struct Work {
    path: PathBuf,
    store: Arc<OpenStore>,
    keys: Keys,
    local: Local,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// What is known of the remote of the store in the directory `path`.
///
/// # Errors
/// When it is not what this program wrote.
pub(super) fn local_of(path: &Path) -> io::Result<Option<Local>> {
    Local::read(path).map_err(|e| io::Error::new(e.kind(), format!("{LOCAL_NAME}: {e}")))
}

impl Shipping {
    /// Ships the store in the directory `path` from now on.
    ///
    /// # Errors
    /// When the host has no thread to give; and when the remote cannot be reached, where something of the store is only there.
    pub(super) fn start(path: &Path, store: &Arc<OpenStore>, keys: &Keys, local: Local) -> io::Result<Self> {
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let remote = local.remote.clone();
        let (path, store, keys) = (path.to_path_buf(), Arc::clone(store), keys.clone());
        let work = Work { path, store, keys, local, state: Arc::clone(&state) };
        // What is not here must be there before somebody asks for it.
        let shipper = if work.local.partial { Some(work.connect().map_err(io::Error::other)?) } else { None };
        let thread =
            std::thread::Builder::new().name("larder-ship".into()).spawn(move || work.run(shipper))?;
        Ok(Self { remote, state, thread: Mutex::new(Some(thread)) })
    }

    /// How it goes.
    pub(super) fn status(&self, store: &Arc<OpenStore>) -> RemoteStatus {
        let state = self.state.0.lock();
        let lag = state.behind.map(|since| since.elapsed().as_secs().max(1));
        RemoteStatus {
            remote: self.remote.clone(),
            record: state.record,
            lag_seconds: lag.unwrap_or(0),
            lag_bytes: Source::news_bytes(store),
            trouble: state.trouble.clone(),
        }
    }

    /// Waits until everything that was done before is in the remote, for so long.
    ///
    /// # Errors
    /// Why it is not. It is tried again, unless this says that it is no use.
    pub(super) fn sync(&self, timeout: Duration) -> std::result::Result<u64, String> {
        let until = Instant::now() + timeout;
        let mut state = self.state.0.lock();
        let round = state.rounds + 1;
        state.wanted = true;
        self.state.1.notify_all();
        while state.shipped < round {
            let why = state.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            if state.over {
                return Err(format!("nothing is shipped to {} any more{why}", self.remote));
            }
            if self.state.1.wait_until(&mut state, until).timed_out() {
                return Err(format!("not everything is in {} yet{why}; larder goes on trying", self.remote));
            }
        }
        Ok(state.record)
    }

    /// Ships what is left, if the remote can be reached, and says goodbye. `meanwhile` is called several times a second.
    pub(super) fn end(&self, mut meanwhile: Meanwhile<'_, '_>) {
        let mut state = self.state.0.lock();
        state.ends = true;
        self.state.1.notify_all();
        while !state.over {
            self.state.1.wait_for(&mut state, MEANWHILE);
            if let Some(meanwhile) = &mut meanwhile {
                MutexGuard::unlocked(&mut state, meanwhile);
            }
        }
        drop(state);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// Ships all of a store that nobody has open, and says goodbye.
///
/// # Errors
/// `Busy` when another process has it open; why not all of it is there after `timeout`; or what is wrong with the store.
pub fn ship_closed(root: &Root, id: StoreId, keys: Keys, timeout: Duration) -> Result<()> {
    let failed = |what: String| VolumeError::new(Exit::Failure, what);
    let path = root.store(id);
    let io = |e: io::Error| VolumeError::io(&path, &e);
    let lock = lock_store(&path, LOCK_PATIENCE)?;
    let Some(local) = local_of(&path).map_err(io)? else {
        return Err(failed("the store has no remote".into()));
    };
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
    let store = OpenStore::open_with(dir, Some(lock), keys.clone(), options)?;
    let shipping = Shipping::start(&path, &store, &keys, local).map_err(io);
    let synced = shipping.and_then(|shipping| {
        let synced = shipping.sync(timeout).map_err(failed);
        shipping.end(None);
        synced
    });
    store.close().map_err(|e| VolumeError::new(Exit::HostIo, format!("{}: {e}", path.display())))?;
    synced.map(drop)
}

impl Work {
    fn run(mut self, shipper: Option<Shipper>) {
        let _over = Over(Arc::clone(&self.state));
        let mut pause = self.every();
        let mut ended: Option<Instant> = None;
        let mut shipper = shipper;
        loop {
            let is_last = self.state.0.lock().ends;
            let began = Instant::now();
            let result = self.round(&mut shipper, is_last);
            match &result {
                Ok(()) => pause = self.every(),
                Err(e) if e.is_passing() => {
                    self.tell(e);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(e) => {
                    self.tell(e);
                    if is_fenced(e) {
                        // What was acknowledged stays here.
                        let _ = self.store.commit_now();
                        self.store.health().fail(&format!(
                            "{e}; what this host has stays as it is: see \"When another host has it\" in the chapter on remotes"
                        ));
                    }
                    if is_final(e) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if is_last {
                let since = *ended.get_or_insert(began);
                if result.is_ok() || since.elapsed() > LAST_TRY {
                    return;
                }
                pause = Duration::from_secs(1);
            }
            self.state.1.notify_all();
            let mut state = self.state.0.lock();
            if !state.ends {
                let until = Instant::now() + pause;
                while !state.ends && !state.wanted && !self.state.1.wait_until(&mut state, until).timed_out()
                {
                }
            } else if is_last {
                drop(state);
                std::thread::sleep(pause);
            }
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(self.local.ship.max(1))
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
    fn round(&mut self, shipper: &mut Option<Shipper>, is_last: bool) -> std::result::Result<(), ShipError> {
        if Source::has_news(&self.store) {
            self.state.0.lock().behind.get_or_insert_with(Instant::now);
        }
        let (number, is_wanted) = {
            let mut state = self.state.0.lock();
            state.rounds += 1;
            (state.rounds, std::mem::take(&mut state.wanted))
        };
        if is_last || is_wanted {
            // All of it; and before anything is asked of the remote.
            self.store.commit_now().map_err(|e| ShipError::Store(e.to_string()))?;
        }
        let shipping = match shipper {
            Some(shipper) => shipper,
            None => shipper.insert(self.connect()?),
        };
        let began = Instant::now();
        let shipped = shipping.ship(&self.store);
        let newest = shipping.log().state().newest;
        if newest.number != self.local.seen {
            self.local.saw(newest);
            self.keep()?;
        }
        if let Some(shipped) = shipped? {
            log::debug!("shipped record {}, {} bytes", shipped.newest.number, shipped.bytes);
        }
        {
            let mut state = self.state.0.lock();
            (state.record, state.trouble) = (newest.number, None);
            state.shipped = number;
            state.behind = Source::has_news(&self.store).then_some(began);
        }
        if is_last {
            let me = self.me()?;
            let clock: Arc<dyn Clock> = Arc::new(BootClock);
            let permit = Permit::new(me.lease, Arc::clone(&clock));
            // A goodbye of before whose answer was lost is one.
            if shipping.log().state().held.as_ref().is_some_and(|held| held.by.id == me.id) {
                goodbye(shipping.log_mut(), &me, &permit, &*clock)?;
            }
            self.local.saw(shipping.log().state().newest);
            self.keep()?;
        }
        Ok(())
    }

    /// Keeps what is known of the remote, unless the store was detached from it meanwhile.
    fn keep(&self) -> std::result::Result<(), ShipError> {
        let failed = |e: io::Error| ShipError::Store(format!("{LOCAL_NAME}: {e}"));
        // Whoever detaches it has this, too.
        let _lock = HeaderLock::acquire(&self.path).map_err(failed)?;
        match Local::read(&self.path).map_err(failed)? {
            Some(now) if now.owner == self.local.owner => self.local.write(&self.path).map_err(failed),
            _ => Ok(()),
        }
    }

    fn me(&self) -> std::result::Result<Owner, ShipError> {
        let broken = || ShipError::Store(format!("{LOCAL_NAME} names no owner, or an unknown kind of lease"));
        self.local.me().ok_or_else(broken)
    }

    fn connect(&self) -> std::result::Result<Shipper, ShipError> {
        let me = self.me()?;
        let address = self.local.address().map_err(ShipError::Store)?;
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let objects = connect(&address, &clock)?.objects;
        let sealer = RemoteSealer::new(self.store.id(), &self.keys, objects.place());
        init(&*objects, &sealer, clock.wall().seconds)?;
        let mut log = Log::open(Arc::clone(&objects), sealer.clone(), self.local.seen())?;
        let state = &self.state.0;
        // Whoever has written since then has gone on from what this host has not: it must not go on from what it has.
        log.must_be_mine_since(me.id, self.local.seen())?;
        claim(&mut log, &me, Steal::No, &*clock, &mut |_| !state.lock().ends)?;
        if let Err(e) = log.must_be_mine_since(me.id, self.local.seen()) {
            goodbye(&mut log, &me, &Permit::new(me.lease, Arc::clone(&clock)), &*clock)?;
            return Err(e.into());
        }
        let shipper = Shipper::new(log, me, clock)?;
        // What is not here, or is damaged here, is there.
        let fetcher = Fetcher::new(objects, sealer, shipper.catalog());
        self.store.segments().fetch_from(Arc::new(fetcher));
        Ok(shipper)
    }
}
