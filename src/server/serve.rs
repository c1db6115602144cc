//! Serving a store: its mounts, its life and its end.

use super::control::{MountStatus, Status};
use super::listener;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::fs::Fs;
use crate::fuse::{self, Connection};
use crate::meta::VolumeId;
use crate::mount::{self, MountOptions};
use crate::open_store::{OpenStore, StoreOptions};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::check::{CheckOptions, Progress, Report, check};
use crate::volume::{Result, Target, VolumeError, info_from_meta, lock_store, snapshot_row};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long a server without a mount waits for its first.
const FIRST_MOUNT: Duration = Duration::from_secs(30);
/// How long it waits, when it is told to end, for programs to let go of its mounts.
const LAST_UNMOUNT: Duration = Duration::from_secs(8);
/// How long another process may take to let go of the store.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The root.
    pub root: Root,
    /// The store to serve.
    pub store: StoreId,
    /// Its keys.
    pub keys: Keys,
    /// How to open it.
    pub open: StoreOptions,
}

struct Mounted {
    dir: PathBuf,
    options: MountOptions,
    fs: Arc<Fs>,
    /// Once the kernel and we have agreed.
    connection: Option<Arc<Connection>>,
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
    /// The store is closed and its lock is free.
    closed: bool,
}

/// A server.
pub struct Server {
    path: PathBuf,
    store: Arc<OpenStore>,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

impl Server {
    /// Opens the store and listens on its control socket. Waits a while for a process that is just letting go of the
    /// store.
    ///
    /// # Errors
    /// `Busy` when another process has the store open, damage, or the host's.
    pub fn start(options: &ServerOptions) -> Result<Arc<Self>> {
        let path = options.root.store(options.store);
        let lock = lock_store(&path, LOCK_PATIENCE)?;
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
        let store = OpenStore::open_with(dir, Some(lock), options.keys.clone(), options.open)?;
        let server = Arc::new(Self {
            path,
            store,
            started: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let listener = match listener::bind(&server.path) {
            Ok(listener) => listener,
            Err(e) => {
                server.close();
                return Err(VolumeError::io(&server.path, &e));
            }
        };
        let for_thread = Arc::clone(&server);
        std::thread::Builder::new()
            .name("larder-listen".into())
            .spawn(move || listener::run(&for_thread, &listener))
            .map_err(|e| VolumeError::io(&server.path, &e))?;
        Ok(server)
    }

    /// Counts a connection to the control socket for as long as the guard lives.
    pub(super) fn visit(self: &Arc<Self>) -> Visit {
        self.state.lock().visitors += 1;
        Visit { server: Arc::clone(self) }
    }

    /// What is to be mounted: a volume, or a snapshot, which is opened for reading.
    fn open_volume(&self, name: &str, options: &MountOptions) -> Result<VolumeId> {
        let target = Target::parse(name)?;
        if let Some(snapshot) = &target.snapshot {
            if !options.read_only {
                return Err(VolumeError::new(Exit::Usage, "a snapshot is mounted read-only: use -o ro"));
            }
            let row = snapshot_row(&self.store, &target.volume, snapshot)?;
            self.store.meta().open_snapshot(row.id)?;
            return Ok(row.id);
        }
        let rows = self.store.meta().volumes()?;
        let row =
            rows.into_iter().find(|row| row.name == name).ok_or_else(|| VolumeError::no_volume(name))?;
        Ok(row.id)
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
        let id = self.open_volume(volume, &options)?;
        let fs = Arc::new(Fs::new(Arc::clone(&self.store), id, options.fs_options()));
        {
            let mut state = self.state.lock();
            if state.ending {
                return Err(VolumeError::new(
                    Exit::Failure,
                    format!("volume {volume:?} is just being unmounted"),
                ));
            }
            if let Some(mounted) = state.mounts.get(volume) {
                return Err(already_mounted(volume, &mounted.dir));
            }
            state.served = true;
            self.changed.notify_all();
            let mounted = Mounted {
                dir: dir.clone(),
                options: options.clone(),
                fs: Arc::clone(&fs),
                connection: None,
                gone: false,
            };
            state.mounts.insert(volume.to_owned(), mounted);
        }
        if let Some(interval) = options.commit_interval() {
            self.store.set_commit_interval(interval);
        }
        let (server, name): (Weak<Self>, String) = (Arc::downgrade(self), volume.to_owned());
        let ended = move || {
            if let Some(server) = server.upgrade() {
                server.unmounted(&name);
            }
        };
        let mut fuse_options = options.fuse_options();
        // A snapshot has no snapshots.
        fuse_options.snapshots &= !volume.contains('@');
        match fuse::serve(fs, device, fuse_options, ended) {
            Ok(connection) => {
                let transport = connection.transport().name();
                if let Some(mounted) = self.state.lock().mounts.get_mut(volume) {
                    mounted.connection = Some(Arc::new(connection));
                }
                log::info!("volume {volume:?} is mounted on {}, transport={transport}", dir.display());
                Ok(())
            }
            Err(e) => {
                self.unmounted(volume);
                Err(VolumeError::new(
                    Exit::NoFuse,
                    format!("the kernel and larder do not agree on FUSE: {e}"),
                ))
            }
        }
    }

    /// A mount is gone: makes everything of it durable.
    fn unmounted(&self, volume: &str) {
        if let Some(mounted) = self.state.lock().mounts.get_mut(volume) {
            mounted.gone = true;
        }
        self.changed.notify_all();
        if let Err(e) = self.store.commit_now() {
            log::error!("volume {volume:?}: the last commit before unmounting failed: {e}");
        }
        log::info!("volume {volume:?} is unmounted");
        let mounted = self.state.lock().mounts.remove(volume);
        if let Some(mounted) = mounted {
            self.store.meta().close_snapshot(mounted.fs.volume());
        }
        self.changed.notify_all();
    }

    /// Changes the options of a mount.
    ///
    /// # Errors
    /// When the volume is not mounted.
    pub fn remount(&self, volume: &str, options: MountOptions) -> Result<()> {
        let mut state = self.state.lock();
        let Some(mounted) = state.mounts.get_mut(volume) else {
            return Err(VolumeError::new(Exit::Failure, format!("volume {volume:?} is not mounted")));
        };
        mounted.fs.set_options(options.fs_options());
        if let Some(interval) = options.commit_interval() {
            self.store.set_commit_interval(interval);
        }
        mounted.options = options;
        Ok(())
    }

    /// How the server is.
    ///
    /// # Errors
    /// As the metadata.
    pub fn status(&self) -> Result<Status> {
        let mut volumes = info_from_meta(self.store.id(), &self.store.meta())?;
        let state = self.state.lock();
        for volume in &mut volumes {
            let dir = state.mounts.get(&volume.name).map(|mounted| mounted.dir.display().to_string());
            volume.mountpoints.extend(dir);
        }
        let mounts = state
            .mounts
            .iter()
            .map(|(volume, mounted)| MountStatus {
                volume: volume.clone(),
                dir: mount::path_bytes(&mounted.dir),
                options: mounted.options.clone(),
            })
            .collect();
        Ok(Status {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            failure: self.store.health().reason(),
            damaged_blocks: self.store.segments().damaged_blocks(),
            cache_bytes: self.store.cache().len_bytes() as u64,
            reencryption: self.store.reencryption().map(Into::into),
            ending: state.ending,
            volumes,
            mounts,
        })
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
        // What was changed so far is to be part of it.
        self.store
            .commit_now()
            .map_err(|e| VolumeError::new(Exit::HostIo, format!("committing before the check: {e}")))?;
        let _hold = self.store.hold_freed();
        let inspector = self.store.meta().inspector()?;
        check(&inspector, self.store.segments(), CheckOptions { read_data, online: true }, progress)
    }

    /// The store.
    pub(super) fn store(&self) -> &Arc<OpenStore> {
        &self.store
    }

    /// The mount of a volume.
    pub(super) fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.state.lock().mounts.get(name).and_then(|mounted| mounted.connection.clone())
    }

    /// Where a volume or a snapshot is mounted.
    pub(super) fn mountpoint(&self, name: &str) -> Option<PathBuf> {
        self.state.lock().mounts.get(name).map(|mounted| mounted.dir.clone())
    }

    /// Takes no more mounts, and unmounts those there are. Busy ones are taken out of the tree at once and end when
    /// nobody uses them any more.
    pub fn terminate(&self) {
        let dirs: Vec<PathBuf> = {
            let mut state = self.state.lock();
            state.ending = true;
            state.mounts.values().map(|mounted| mounted.dir.clone()).collect()
        };
        self.changed.notify_all();
        for dir in dirs {
            if mount::unmount(&dir, false).is_err()
                && let Err(e) = mount::unmount(&dir, true)
            {
                log::warn!("unmounting {}: {e}", dir.display());
            }
        }
    }

    /// Waits for the end: the last mount is gone, none ever came, or [`Server::terminate`] was called.
    fn await_end(&self) {
        let mut state = self.state.lock();
        let first_mount_until = Instant::now() + FIRST_MOUNT;
        while !state.served && !state.ending {
            if self.changed.wait_until(&mut state, first_mount_until).timed_out() && !state.served {
                log::warn!("nobody mounted a volume; ending");
                state.ending = true;
            }
        }
        while !state.mounts.is_empty() && !state.ending {
            self.changed.wait(&mut state);
        }
        state.ending = true;
        let last_unmount_until = Instant::now() + LAST_UNMOUNT;
        while !state.mounts.is_empty() {
            if self.changed.wait_until(&mut state, last_unmount_until).timed_out() {
                log::warn!("programs still use the volume; ending anyway");
                return;
            }
        }
    }

    fn close(&self) {
        if let Err(e) = self.store.close() {
            log::error!("closing the store: {e}");
        }
        listener::unbind(&self.path);
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A connection to the control socket.
pub(super) struct Visit {
    server: Arc<Server>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.server.state.lock();
        state.visitors -= 1;
        // Whoever started this server went away without mounting anything: it was not to be.
        if state.visitors == 0 && !state.served {
            state.ending = true;
            self.server.changed.notify_all();
        }
    }
}

/// Serves until the end, and closes the store.
pub fn run_until_idle(server: &Server) {
    server.await_end();
    server.close();
    // Those who wait for the end are answered before the process goes, which is in a moment.
    std::thread::sleep(Duration::from_millis(5));
}

fn already_mounted(volume: &str, dir: &std::path::Path) -> VolumeError {
    let dir = dir.display();
    VolumeError::new(
        Exit::Busy,
        format!(
            "volume {volume:?} is already mounted on {dir}; `mount --bind {dir} DIR` shows it elsewhere too"
        ),
    )
}
