//! Serving a store: its mounts, its life and its end.

use super::control::Takeover;
use super::holder::link::{Kept, Losses, is_ending};
use super::holder::suspects::Suspect;
use super::identity;
use super::keeper::{Endowment, Inherited, Keeper, MountName};
use super::listener;
use super::process::Orders;
use super::recorder::Recorder;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::fs::{Durability, Executed, Fs, Lost, Privileges, ViewChange};
use crate::fuse::{self, Connection, Ledger, Suspicion};
use crate::health::{Level, Reason, code};
use crate::meta::{Ino, VolumeId};
use crate::mount::{self, MountOptions};
use crate::open_store::{Legacy, OpenStore, StoreOptions};
use crate::root::Root;
use crate::store::{StoreId, StoreLock};
use crate::volume::check::{CheckOptions, Progress, Report, check};
use crate::volume::{Result, Target, VolumeError, snapshot_row};
use attend::{Attendance, Bell};
use caches::Shares;
pub use closed::{reencrypt_closed, ship_to_leave};
use ending::Life;
use mounts::{already_mounted, connection_number, head_of};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use shipping::Shipping;
pub use shipping::{RemoteStatus, inside_itself};
use status::Told;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

mod attend;
mod caches;
mod closed;
mod ending;
mod mounts;
mod shipping;
mod status;
#[cfg(test)]
mod tests;

/// How long a server without a mount waits for its first.
const FIRST_MOUNT: Duration = Duration::from_secs(30);
/// How often the holder is told that this process lives.
const BEAT: Duration = Duration::from_secs(1);

/// How a server is started.
#[derive(Debug)]
pub struct ServerOptions {
    /// The root.
    pub root: Root,
    /// The store to serve.
    pub store: StoreId,
    /// What its holder gives it.
    pub endowment: Endowment,
    /// How to open it.
    pub open: StoreOptions,
}

struct Mounted {
    dir: PathBuf,
    options: MountOptions,
    fs: Arc<Fs>,
    /// Once the kernel and we have agreed.
    connection: Option<Arc<Connection>>,
    takeover: Takeover,
    /// The number of its connection in the kernel, if it is seen from here.
    connection_number: Option<u32>,
    /// See [`mount::root_of`].
    device: Arc<OwnedFd>,
    /// See [`Kept::number`].
    number: Option<u64>,
    /// Unmounted; what was changed last is on its way to the disk.
    gone: bool,
}

#[derive(Default)]
struct State {
    mounts: HashMap<String, Mounted>,
    /// Whether there ever was a mount.
    served: bool,
    /// Connections to the control socket.
    visitors: u32,
    /// Told to end.
    ending: bool,
    /// Those who wait until everything is in the remote.
    syncing: u32,
    /// Callers of [`Server::terminate`] who wait for what the kernel has yet to write back.
    writing_back: u32,
    /// The store is closed and its lock is free.
    closed: bool,
}

/// How long whoever wants another program to take over waits for what must not be going on meanwhile.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// A server.
pub struct Server {
    root: Root,
    path: PathBuf,
    store: Arc<OpenStore>,
    shipping: Option<Shipping>,
    keeper: Keeper,
    recorder: Recorder,
    incarnation: u32,
    suspects: Vec<Suspect>,
    ledger: Arc<Ledger>,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
    /// What the caches may have.
    shares: Arc<Shares>,
    /// What was last said of the volumes.
    told: Told,
    /// Wakes the main thread.
    bell: Arc<Bell>,
    /// The control socket, once it is bound.
    listener: OnceLock<UnixListener>,
    /// Mounts that were made here.
    mounts_made: AtomicU32,
    /// Held while a mount is made, and while something changes that depends on what is mounted.
    mounting: Mutex<()>,
    /// Whether the store takes no changes of its family any more, each of which is made while this is held for reading.
    is_closing: RwLock<bool>,
}

impl Server {
    /// Opens the store, takes over the mounts that another server has left, and listens on the store's control socket.
    ///
    /// # Errors
    /// Damage, or the host's.
    pub fn start(options: ServerOptions) -> Result<Arc<Self>> {
        let ServerOptions { root, store, endowment, mut open } = options;
        let Endowment { keeper, lock, keys, listener, mounts, executed, suspects, incarnation } = endowment;
        let path = root.store(store);
        let recorder = Recorder::new(root.clone(), store);
        let io = |e: std::io::Error| VolumeError::io(&path, &e);
        let keys = if keys.is_empty() { Keys::Plain } else { Keys::new(keys).map_err(io)? };
        let lock = StoreLock::shared(lock, &path).map_err(io)?;
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
        let remote = shipping::local_of(&path).map_err(io)?;
        if let Some(url) = remote.as_ref().filter(|remote| !shipping::can_reach_it(remote)) {
            // The next one is of the program that can.
            let what = format!(
                "the volume got the remote {} while its server was starting; mount it again",
                url.remote
            );
            return Err(VolumeError::new(Exit::Busy, what));
        }
        open.moments = remote.as_ref().is_some_and(|remote| remote.at.is_none());
        open.is_partial = remote.as_ref().is_some_and(|remote| remote.partial);
        open.pages = crate::remote::ShippedPages::of(&path, remote.as_ref(), &keys);
        let shipped_keys = keys.clone();
        let (store, legacy) = if mounts.is_empty() {
            (OpenStore::open_with(dir, Some(lock), keys, open)?, Legacy::default())
        } else {
            let mut keep = |executed: &[Executed]| keeper.executed(executed);
            OpenStore::open_again(dir, lock, keys, open, (executed, &mut keep))?
        };
        recorder.attend(&store);
        let shipping = remote.map(|local| Shipping::start(&path, &store, &shipped_keys, local));
        let shipping = shipping.transpose().map_err(io)?;
        let ledger = Ledger::new();
        match ledger.file().map(OwnedFd::try_clone) {
            Some(Ok(file)) => keeper.ledger(file),
            Some(Err(e)) => log::warn!("the requests in work cannot be shown to the holder: {e}"),
            None => {}
        }
        let server = Arc::new(Self {
            root,
            path: path.clone(),
            store,
            shipping,
            keeper,
            recorder,
            incarnation,
            suspects,
            ledger,
            started: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
            shares: Arc::default(),
            told: Told::default(),
            bell: Arc::new(Bell::new().map_err(io)?),
            listener: OnceLock::new(),
            mounts_made: AtomicU32::new(0),
            mounting: Mutex::new(()),
            is_closing: RwLock::new(false),
        });
        server.note_suspects();
        for inherited in mounts {
            server.take_over(inherited, &legacy)?;
        }
        server.free_orphans(&legacy);
        let listener = match listener.map_or_else(|| listener::bind(&server.path), listener::inherit) {
            Ok(listener) => listener,
            Err(e) => {
                server.close(None);
                return Err(io(e));
            }
        };
        server.keeper.listening(listener.as_fd());
        let _ = server.listener.set(listener);
        Ok(server)
    }

    /// Something has changed that somebody may wait for.
    fn notify(&self) {
        self.changed.notify_all();
        self.bell.ring();
    }

    /// Frees orphans that only a mount could still use which is not there any more.
    fn free_orphans(&self, legacy: &Legacy) {
        let mounted: Vec<VolumeId> = self.state.lock().mounts.values().map(|m| m.fs.volume()).collect();
        for (volume, ino) in legacy.orphans.iter().filter(|(volume, _)| !mounted.contains(volume)) {
            self.store.reap_later(*volume, *ino);
        }
    }

    /// Goes on with a mount that another server has served.
    fn take_over(self: &Arc<Self>, inherited: Inherited, legacy: &Legacy) -> Result<()> {
        let Inherited { kept, device, mut views } = inherited;
        let volume = kept.volume;
        let name = MountName { volume: volume.clone(), number: kept.number };
        let fs = self.open_volume(&volume, &kept.options)?;
        let id = fs.volume();
        if views.last() == Some(&ViewChange::Live)
            && let Some(head) = kept.head_before
            && self.store.meta().goes_on_from(id, head)?
        {
            log::info!("volume {volume:?}: the server before this one did not get to roll it back");
            views.pop();
            self.keeper.view(&name, ViewChange::Undone, None);
        }
        let of_this = |files: &[(VolumeId, Ino)]| -> Vec<Ino> {
            files.iter().filter(|(volume, _)| *volume == id).map(|(_, ino)| *ino).collect()
        };
        fs.take_over(&of_this(&legacy.orphans), &of_this(&legacy.rewritten));
        // What was missing from files of a state that is gone is not missing from those there are.
        let is_of_now = |(views_then, lost): (usize, Lost)| {
            (!views[views_then.min(views.len())..].contains(&ViewChange::Live)).then_some(lost)
        };
        fs.take_over_losses(&kept.losses.0.into_values().filter_map(is_of_now).collect::<Vec<_>>());
        let dir = mount::path_from_bytes(kept.dir);
        let io = |e: std::io::Error| VolumeError::io(&self.path, &e);
        let to_write_back = Arc::new(device.try_clone().map_err(io)?);
        self.register(&name, (dir, kept.connection, to_write_back), &kept.options, &fs)?;
        self.recorder.mounted(&volume, kept.connection);
        self.store.forget_requests_before(id, kept.first_reader);
        let is_of_this =
            |executed: &&Executed| executed.volume == id && executed.origin.reader >= kept.first_reader;
        let before = fuse::Before {
            agreed: kept.agreed,
            told: kept.told.min(views.len()),
            views,
            executed: legacy.executed.iter().filter(is_of_this).copied().collect(),
            suspicions: self.suspicions(id),
            settled: self.settled(&name, id),
        };
        let opened = self.open_files(&kept.opened);
        // Before the kernel is told anything: the holder has it until then from the server before.
        self.keeper.opened(&name, opened.as_deref());
        match fuse::take_over(self.mounted(&name, (fs, opened), device, &kept.options), before) {
            Ok(connection) => {
                self.connected(&volume, connection, Takeover::Possible);
                log::info!("volume {volume:?} is taken over");
                Ok(())
            }
            // It was unmounted while nobody served it.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                self.unmounted(&volume);
                Ok(())
            }
            Err(e) => {
                Err(VolumeError::new(Exit::NoFuse, format!("volume {volume:?} cannot be taken over: {e}")))
            }
        }
    }

    /// Notes which requests servers died of, so that no other one works on them.
    fn note_suspects(&self) {
        let rows = self.store.meta().volumes().unwrap_or_default();
        for suspect in self.suspects.iter().filter(|suspect| suspect.is_convicted()) {
            let mut reason = Reason::new(
                code::CRASHES,
                Level::Degraded,
                "servers have crashed on requests, which are answered with an error now",
                "the log of the store says what the servers were doing; please report it",
            );
            let (volume, unique) = (suspect.volume, suspect.unique);
            reason.volume = rows.iter().find(|row| row.id == volume).map(|row| row.name.clone());
            self.recorder.note(reason.with(format!("{volume}/{unique}"), format!("request {unique}")));
        }
    }

    /// What is known of requests to the mount of a volume that servers died of.
    fn suspicions(&self, id: VolumeId) -> Vec<Suspicion> {
        let of_this = self.suspects.iter().filter(|suspect| suspect.volume == id);
        of_this
            .map(|suspect| Suspicion { unique: suspect.unique, is_convicted: suspect.is_convicted() })
            .collect()
    }

    /// What to do when all is answered that servers before this one had taken from a mount.
    fn settled(self: &Arc<Self>, name: &MountName, id: VolumeId) -> Box<dyn FnOnce() + Send> {
        let (server, name): (Weak<Self>, MountName) = (Arc::downgrade(self), name.clone());
        let first_reader = u64::from(self.incarnation) << 32;
        Box::new(move || {
            if let Some(server) = server.upgrade() {
                server.store.forget_requests_before(id, first_reader);
                server.keeper.settled(&name, id, first_reader);
            }
        })
    }

    /// Counts a connection to the control socket for as long as the guard lives.
    pub(super) fn visit(self: &Arc<Self>) -> Visit {
        self.state.lock().visitors += 1;
        Visit { server: Arc::clone(self), passes_by: AtomicBool::new(false), is_attended: true }
    }

    /// What is to be mounted: a volume, or a snapshot, which is opened for reading.
    fn open_volume(&self, name: &str, options: &MountOptions) -> Result<Arc<Fs>> {
        if !options.read_only && !name.contains('@') {
            self.may_change(name)?;
        }
        let store = Arc::clone(&self.store);
        let target = Target::parse(name)?;
        if let Some(snapshot) = &target.snapshot {
            if !options.read_only {
                return Err(VolumeError::new(Exit::Usage, "a snapshot is mounted read-only: use -o ro"));
            }
            let row = snapshot_row(&self.store, &target.volume, snapshot)?;
            let hold = self.store.meta().open_snapshot(row.id)?;
            let options = options.fs_options();
            return Ok(Arc::new(Fs::of_snapshot(store, row.id, hold, options, Privileges::Shown)));
        }
        let rows = self.store.meta().volumes()?;
        let row =
            rows.into_iter().find(|row| row.name == name).ok_or_else(|| VolumeError::no_volume(name))?;
        Ok(Arc::new(Fs::new(store, row.id, options.fs_options())))
    }

    /// Serves a mount that was just made on `dir`.
    ///
    /// # Errors
    /// `Busy` when the volume is mounted already or the server is about to end, or what the kernel says.
    pub fn mount(
        self: &Arc<Self>,
        volume: &str,
        dir: PathBuf,
        options: MountOptions,
        device: OwnedFd,
    ) -> Result<()> {
        let _turn = self.mounting();
        self.must_be_kept(volume, &options)?;
        let fs = self.open_volume(volume, &options)?;
        let id = fs.volume();
        let connection_number = connection_number(volume, &dir);
        let made = self.mounts_made.fetch_add(1, Ordering::Relaxed);
        let number = Some(u64::from(self.incarnation) << 32 | u64::from(made));
        let name = MountName { volume: volume.to_owned(), number };
        let for_holder =
            Arc::new(device.try_clone().map_err(|e| VolumeError::new(Exit::Failure, e.to_string()))?);
        self.register(&name, (dir.clone(), connection_number, Arc::clone(&for_holder)), &options, &fs)?;
        self.recorder.mounted(volume, connection_number);
        // The log may hold what was asked for by an earlier mount, whose requests had the same numbers.
        let first_reader = fuse::first_reader(self.incarnation);
        let opened = self.open_files(&[]);
        let of_it = (fs, opened.clone());
        let connection = fuse::serve(self.mounted(&name, of_it, device, &options)).map_err(|e| {
            self.unmounted(volume);
            VolumeError::new(Exit::NoFuse, format!("the kernel and larder do not agree on FUSE: {e}"))
        })?;
        let mut kept = Kept {
            volume: volume.to_owned(),
            dir: mount::path_bytes(&dir),
            options,
            agreed: 0,
            connection: connection_number,
            id: Some(id),
            told: 0,
            first_reader,
            losses: Losses::default(),
            head_before: None,
            number,
            opened: Vec::new(),
        };
        let tied = match connection.agreed() {
            Some(agreed) => {
                kept.agreed = agreed;
                self.keeper.keep(kept, for_holder.as_fd());
                self.keeper.opened(&name, opened.as_deref());
                None
            }
            None => {
                let why = kept.options.transport().ties().unwrap_or("a kernel older than Linux 6.9");
                Some((kept, why))
            }
        };
        let takeover = match tied {
            None => Takeover::Possible,
            Some((kept, why)) => {
                log::info!("volume {volume:?}: if this server dies, the mount dies with it ({why})");
                self.keeper.tied(kept, why);
                Takeover::Impossible(why.to_owned())
            }
        };
        if !self.connected(volume, connection, takeover) {
            // It was unmounted before the holder heard of it, which takes it for one that is there.
            self.keeper.gone(&name, Some(id));
        }
        log::info!("volume {volume:?} is mounted on {}", dir.display());
        Ok(())
    }

    /// Keeps mounts from being made as long as the guard lives.
    pub(super) fn mounting(&self) -> MutexGuard<'_, ()> {
        self.mounting.lock()
    }

    /// Notes a mount before it is served.
    fn register(
        &self,
        name: &MountName,
        (dir, connection_number, device): (PathBuf, Option<u32>, Arc<OwnedFd>),
        options: &MountOptions,
        fs: &Arc<Fs>,
    ) -> Result<()> {
        let MountName { volume, number } = name;
        let mut state = self.state.lock();
        if state.ending {
            let what = format!("volume {volume:?} is just being unmounted");
            return Err(VolumeError::new(Exit::Failure, what));
        }
        if let Some(mounted) = state.mounts.get(volume) {
            return Err(already_mounted(volume, &mounted.dir));
        }
        state.served = true;
        self.notify();
        let (options, fs) = (options.clone(), Arc::clone(fs));
        if let Some(interval) = options.commit_interval() {
            self.store.set_commit_interval(interval);
        }
        self.store.set_scheduling(options.scheduling);
        let (connection, takeover) = (None, Takeover::Unknown);
        let (number, gone) = (*number, false);
        let mounted =
            Mounted { dir, options, fs, connection, takeover, connection_number, device, number, gone };
        state.mounts.insert(volume.clone(), mounted);
        identity::mounted(state.mounts.keys());
        Ok(())
    }

    /// What the session of a mount is made with.
    fn mounted(
        self: &Arc<Self>,
        name: &MountName,
        (fs, opened): (Arc<Fs>, Option<Arc<fuse::OpenFiles>>),
        device: OwnedFd,
        options: &MountOptions,
    ) -> fuse::Mounted {
        let (server, volume): (Weak<Self>, String) = (Arc::downgrade(self), name.volume.clone());
        let ended = move || {
            if let Some(server) = server.upgrade() {
                server.unmounted(&volume);
            }
        };
        let mut options = options.fuse_options();
        // A snapshot has no snapshots.
        options.snapshots &= !name.volume.contains('@');
        let of_it = || (self.keeper.clone(), name.clone());
        let (keeper, name) = of_it();
        let (store, id) = (Arc::clone(&self.store), fs.volume());
        let keep_view = Box::new(move |change| {
            let head = if change == ViewChange::Live { head_of(&store, id) } else { None };
            keeper.view(&name, change, head);
        });
        let (keeper, name) = of_it();
        let recorder = self.recorder.clone();
        fs.keep_losses(Box::new(move |lost| {
            keeper.lost(&name, lost.clone());
            recorder.lost(&name.volume, id, lost);
        }));
        let (keeper, name) = of_it();
        let told = Box::new(move || keeper.told(&name));
        let (ledger, incarnation) = (Arc::clone(&self.ledger), self.incarnation);
        let (_, name) = of_it();
        let number = self.state.lock().mounts.get(&name.volume).and_then(|it| it.connection_number);
        let abort = Box::new(move || {
            let Some(number) = number else {
                return log::error!("volume {:?}: its FUSE connection is not known", name.volume);
            };
            if let Err(e) = mount::abort(number) {
                log::error!("volume {:?}: cannot abort FUSE connection {number}: {e}", name.volume);
            }
        });
        let ended = Box::new(ended);
        let bell = Arc::clone(&self.bell);
        let asked = Box::new(move || bell.ring());
        let may_answer = self.shipping.as_ref().and_then(Shipping::may_answer).zip(opened);
        fuse::Mounted {
            fs,
            device,
            options,
            keep_view,
            told,
            ledger,
            incarnation,
            may_answer,
            abort,
            asked,
            ended,
        }
    }

    /// The kernel and we have agreed. Whether the mount is still there.
    fn connected(&self, volume: &str, connection: Connection, takeover: Takeover) -> bool {
        let mut state = self.state.lock();
        let Some(mounted) = state.mounts.get_mut(volume) else { return false };
        mounted.connection = Some(Arc::new(connection));
        mounted.takeover = takeover;
        !mounted.gone
    }

    /// A mount is gone: makes everything of it durable.
    fn unmounted(&self, volume: &str) {
        let (id, number) = self.state.lock().mounts.get_mut(volume).map_or((None, None), |mounted| {
            mounted.gone = true;
            (Some(mounted.fs.volume()), mounted.number)
        });
        self.notify();
        if let Err(e) = self.store.commit_now() {
            log::error!("volume {volume:?}: the last commit before unmounting failed: {e}");
        }
        log::info!("volume {volume:?} is unmounted");
        // While nothing else can be mounted in its place: what is forgotten here is this mount's, and not the next one's.
        if let Some(id) = id {
            self.store.forget_requests(id);
            if let Err(e) = self.store.rest(id) {
                log::error!("volume {volume:?}: {e}");
            }
        }
        self.keeper.gone(&MountName { volume: volume.to_owned(), number }, id);
        let mounted = {
            let mut state = self.state.lock();
            let mounted = state.mounts.remove(volume);
            identity::mounted(state.mounts.keys());
            mounted
        };
        self.recorder.unmounted(mounted.as_ref().and_then(|mounted| mounted.connection_number));
        drop(mounted);
        self.notify();
    }

    /// Changes the options of a mount.
    ///
    /// # Errors
    /// When the volume is not mounted.
    pub fn remount(&self, volume: &str, options: MountOptions) -> Result<()> {
        if !options.read_only {
            self.may_change(volume)?;
        }
        let mut state = self.state.lock();
        let Some(mounted) = state.mounts.get_mut(volume) else {
            return Err(VolumeError::new(Exit::Failure, format!("volume {volume:?} is not mounted")));
        };
        // What is so already stays as well as it can.
        if mounted.options.durability == Durability::Local {
            self.must_be_kept(volume, &options)?;
        }
        let options = options.served_as(&mounted.options);
        mounted.fs.set_options(options.fs_options());
        if let Some(interval) = options.commit_interval() {
            self.store.set_commit_interval(interval);
        }
        self.keeper.options(volume, &options);
        mounted.options = options;
        Ok(())
    }

    /// Waits until a volume is not mounted any more and, if nothing else is, the store is closed. What is unmounted is
    /// waited for until it is on disk, however long that takes.
    ///
    /// # Errors
    /// `Busy` when the time is up and the volume is still mounted somewhere.
    pub fn await_unmount(&self, volume: &str, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        let mut state = self.state.lock();
        loop {
            let mounted = state.mounts.get(volume);
            if mounted.is_none() && (!state.mounts.is_empty() || state.closed) {
                return Ok(());
            }
            if mounted.is_none_or(|mounted| mounted.gone) {
                self.changed.wait(&mut state);
            } else if self.changed.wait_until(&mut state, until).timed_out() {
                return Err(VolumeError::new(Exit::Busy, format!("volume {volume:?} is still in use")));
            }
        }
    }

    /// Checks the store as of its last commit, while it is in use.
    ///
    /// # Errors
    /// When the check cannot be made.
    pub fn check(&self, read_data: bool, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
        let options = CheckOptions { read_data, online: true };
        self.at_last_commit(|inspector| check(inspector, self.store.segments(), options, progress))
    }

    /// The store.
    pub(super) fn store(&self) -> &Arc<OpenStore> {
        &self.store
    }

    /// The mount of a volume.
    pub(super) fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.state.lock().mounts.get(name).and_then(|mounted| mounted.connection.clone())
    }

    /// Where a volume is mounted, the FUSE device of that mount, and what the metadata calls it.
    pub(super) fn mounted_as(&self, name: &str) -> Option<(PathBuf, Arc<OwnedFd>, VolumeId)> {
        let state = self.state.lock();
        let mounted = state.mounts.get(name)?;
        Some((mounted.dir.clone(), Arc::clone(&mounted.device), mounted.fs.volume()))
    }

    /// Where readers of requests note what they work on.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Where a volume or a snapshot is mounted.
    pub(super) fn mountpoint(&self, name: &str) -> Option<PathBuf> {
        self.state.lock().mounts.get(name).map(|mounted| mounted.dir.clone())
    }

    /// Lets another program take over all mounts, which is the end of this process.
    ///
    /// # Errors
    /// Why it cannot. This process goes on.
    pub(super) fn replace(&self, program: &[u8]) -> Result<std::convert::Infallible> {
        // No mount is made meanwhile: one that nothing can take over would die with this process before the holder knows of it.
        let Some(_turn) = self.mounting.try_lock_for(LONGEST_TURN) else {
            let what = "a volume of this store is being mounted, removed or rolled back, which takes long; try again";
            return Err(VolumeError::new(Exit::Failure, what));
        };
        // The less the next one has to replay, the shorter is the pause.
        self.store.commit_now().map_err(|e| VolumeError::new(Exit::HostIo, e.to_string()))?;
        {
            let state = self.state.lock();
            if state.ending {
                return Err(VolumeError::new(Exit::Failure, is_ending(state.mounts.keys())));
            }
        }
        Err(VolumeError::new(Exit::Failure, self.keeper.replace(program)))
    }

    /// The way to the holder.
    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The kernel knows all that happened to the mounts that were taken over. Noted once the holder knows that this process
    /// serves: until then, one of an earlier version takes a message that it does not know for a failure.
    fn note_told(&self) {
        let connections: Vec<_> =
            self.state.lock().mounts.values().filter_map(|mounted| mounted.connection.clone()).collect();
        for connection in connections {
            connection.note_told();
        }
    }
}

/// A connection to the control socket.
pub(super) struct Visit {
    server: Arc<Server>,
    /// Who only looks has not started this server.
    passes_by: AtomicBool,
    /// The main thread answers it, which need not be told when it is over.
    is_attended: bool,
}

impl Visit {
    /// This visitor asks how things are.
    pub(super) fn passes_by(&self) {
        self.passes_by.store(true, Ordering::Relaxed);
    }

    /// Another thread than the main one answers it from now on.
    pub(super) fn is_handed_on(&mut self) {
        self.is_attended = false;
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.server.state.lock();
        state.visitors -= 1;
        if !self.is_attended {
            self.server.bell.ring();
        }
        // Whoever started this server went away without mounting anything: it was not to be.
        if state.visitors == 0 && !state.served && !self.passes_by.load(Ordering::Relaxed) {
            state.ending = true;
            self.server.notify();
        }
    }
}

/// Serves until the end, on the main thread, and closes the store. `orders` are signals to end.
pub fn run_until_idle(server: &Arc<Server>, orders: Orders) {
    server.note_told();
    let mut attendance = Attendance::new(server, Some(orders));
    attendance.attend(&mut Life::new());
    close_attended(server, attendance, |work| {
        std::thread::Builder::new().name("larder-beat".into()).spawn(work).map(drop)
    });
    // Those who wait for the end are answered before the process goes, which is in a moment.
    std::thread::sleep(Duration::from_millis(5));
}

/// Closes the store, which can take long, and attends to who comes meanwhile: on a thread that is started for it with `start`; or on this
/// one, where there can be no more threads, as far as it only waits for others. Without signs of life, the holder would have another server
/// begin with all of this again.
fn close_attended(
    server: &Arc<Server>,
    attendance: Attendance,
    start: impl FnOnce(Box<dyn FnOnce() + Send>) -> std::io::Result<()>,
) {
    let attendance = Arc::new(Mutex::new(attendance));
    let beside = Arc::clone(&attendance);
    match start(Box::new(move || beside.lock().attend_closing())) {
        Ok(()) => server.end(None),
        Err(e) => {
            log::warn!("while the store is closed, whoever asks for something is answered late: {e}");
            let mut attendance = attendance.lock();
            attendance.begin_closing();
            server.end(Some(&mut || attendance.attend_moment()));
        }
    }
}
