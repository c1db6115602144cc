//! The life of the plugin's process.

use super::driver::Driver;
use super::http::Service;
use super::socket::Socket;
use super::supervisor;
use crate::backing::{OpenMode, open_file};
use crate::exit_code::Exit;
use crate::host::{Place, end_servers as end, place};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// Connections at once; the others wait.
const CONNECTIONS_MAX: usize = 4096;
/// Threads on which calls block.
const THREADS: usize = 64;
/// How long another plugin of the same root may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// How long requests wait for what was mounted before to be mounted again. What takes longer goes on meanwhile.
const RESTORE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the end waits for calls that are being worked on. Whoever ends the plugin gives it ten seconds.
const CALLS_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for servers, where they end with it.
const SERVERS_PATIENCE: Duration = Duration::from_secs(9);

/// How the plugin is started.
#[derive(Clone, Debug)]
pub struct PluginOptions {
    /// The root.
    pub root: Root,
    /// The socket to listen on, unless systemd passes one on.
    pub socket: PathBuf,
    /// Where volumes are mounted, if not in the root.
    pub mount_dir: Option<PathBuf>,
}

/// Serves container engines until SIGTERM or SIGINT. Volumes stay mounted, and their servers go on.
///
/// # Errors
/// `Busy` when another plugin serves the same root or socket, or the host's.
pub fn run(options: &PluginOptions) -> Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    raise_file_limit();
    options.root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    let root = options.root.path();
    // As the table of mounts has it.
    let resolve = |dir: &Path| dir.canonicalize().map_err(|e| VolumeError::io(dir, &e));
    let mut root = Root::new(resolve(root)?);
    if let Some(dir) = &options.mount_dir {
        root = root.with_mountpoints(resolve(dir)?);
    }
    let _lock = take_lock(&root)?;
    let mut socket = Socket::open(&options.socket)?;
    let driver = Arc::new(Driver::open(root)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS)
        .build()
        .map_err(|e| failed(&e))?;
    let result = match socket.take() {
        Some(listener) => runtime.block_on(serve(&driver, listener, &mut socket)),
        None => Ok(()),
    };
    runtime.shutdown_timeout(Duration::from_millis(500));
    log::info!("the plugin ends");
    result
}

fn failed(e: &io::Error) -> VolumeError {
    VolumeError::new(Exit::Failure, format!("cannot start the plugin: {e}"))
}

/// Thousands of connections are more than what systems allow at first.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        log::debug!("setrlimit(RLIMIT_NOFILE): {e}");
    }
}

/// One plugin at a time counts the mounts of a root.
fn take_lock(root: &Root) -> Result<Flock<File>> {
    let dir = root.plugin();
    let path = dir.join("lock");
    let io = |e: io::Error| VolumeError::io(&path, &e);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
    let mut file = open_file(&path, OpenMode::Create).map_err(io)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < until => file,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(VolumeError::new(
                    Exit::Busy,
                    format!("another plugin serves {}; stop it first", root.path().display()),
                ));
            }
            Err((_, e)) => return Err(io(e.into())),
        };
        thread::sleep(Duration::from_millis(50));
    }
}

async fn serve(driver: &Arc<Driver>, listener: StdListener, socket: &mut Socket) -> Result<()> {
    let listener = UnixListener::from_std(listener).map_err(|e| failed(&e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| failed(&e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed(&e))?;
    let (ready, is_ready) = watch::channel(false);
    let service = Arc::new(Service::new(Arc::clone(driver), is_ready));
    // It ends with this function.
    let (_stop, stopped) = channel::<()>();
    let for_thread = Arc::clone(driver);
    thread::Builder::new()
        .name("larder-watch".into())
        .spawn(move || {
            let (restored, is_restored) = channel::<()>();
            let for_restore = Arc::clone(&for_thread);
            let restoring = thread::Builder::new().name("larder-restore".into()).spawn(move || {
                supervisor::restore(&for_restore);
                drop(restored);
            });
            if restoring.is_ok() {
                let _ = is_restored.recv_timeout(RESTORE_PATIENCE);
            }
            log::info!("ready");
            let _ = ready.send(true);
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            supervisor::watch(&for_thread, &stopped);
        })
        .map_err(|e| failed(&e))?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = || async {
        // Never closed.
        let permit = Arc::clone(&connections).acquire_owned().await.map_err(io::Error::other)?;
        listener.accept().await.map(|(stream, _)| (stream, permit))
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    service.converse(stream).await;
                    drop(permit);
                });
            }
            Err(e) => {
                log::warn!("cannot accept a connection: {e}");
                // Out of descriptors, perhaps: let others finish.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    // Nobody is to wait for an answer that does not come.
    drop(listener);
    socket.remove();
    if std::process::id() == 1 {
        // In a container of its own, everything ends with this process.
        let driver = Arc::clone(driver);
        let ended = tokio::task::spawn_blocking(move || end_servers(&driver));
        let _ = ended.await;
        return Ok(());
    }
    service.finish(CALLS_PATIENCE).await;
    Ok(())
}

/// Ends the servers of all volumes that are mounted for containers, and waits until everything is on disk.
fn end_servers(driver: &Driver) {
    let names = driver.mounts.names().into_iter();
    let stores: BTreeSet<StoreId> = names
        .filter_map(|name| match place(&driver.root, &name) {
            Ok(Some(Place::Store(id))) => Some(id),
            _ => None,
        })
        .collect();
    for (id, e) in end(&driver.root, stores, SERVERS_PATIENCE) {
        log::warn!("store {id}: {e}; ending all the same");
    }
}
