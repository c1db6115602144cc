//! The session of one mount: from an open FUSE device to its end.

use super::adapter::Adapter;
use super::device::{self, Device};
use super::fuser_session;
use super::kernel_cache::{KernelCache, Notifier};
use super::negotiation::{self, flag};
use super::options::{FuseOptions, Transport};
use super::pin::Pinner;
use super::uring::{self, Rings};
use crate::fs::{Fs, Views};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A mount that is being served.
#[derive(Debug)]
pub struct Connection {
    thread: JoinHandle<io::Result<()>>,
    views: Arc<Views>,
    cache: KernelCache,
    transport: Transport,
}

impl Connection {
    /// Whether the mount is gone.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// How requests get here; never [`Transport::Auto`].
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Lets `change` put another state in the volume's place. Files that are open are stale then; everything else shows the
    /// new state at once.
    ///
    /// # Errors
    /// As `change`, and nothing has happened then.
    pub fn replace<T, E>(&self, change: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (value, names) = self.views.replace(change)?;
        self.cache.drop_root(&names);
        Ok(value)
    }

    /// Waits until the mount is gone.
    ///
    /// # Errors
    /// When the session ended otherwise than by an unmount.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the FUSE session panicked")))
    }
}

/// Serves until the mount is gone.
type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Agrees with the kernel on the protocol, and on the transport.
fn open(device: Arc<Device>, mut adapter: Adapter) -> io::Result<(Transport, Run)> {
    let transport = adapter.options().transport;
    let mut rings = None;
    let agreed = device.agree(|offered| {
        let wanted = negotiation::wanted(adapter.options());
        rings = rings_for(&device, transport, offered)?;
        Ok(if rings.is_some() { wanted | flag::OVER_IO_URING } else { wanted })
    })?;
    adapter.agree(agreed.into());
    let adapter = Arc::new(adapter);
    let pinner = Arc::new(Pinner::new());
    let chosen = if rings.is_some() { Transport::Uring } else { Transport::Dev };
    let run = move || {
        // With io_uring, it is only requests to forget that come there.
        let readers = if rings.is_some() { 1 } else { pinner.cpus().max(2) };
        let mut threads = device::start_readers(&device, &adapter, &pinner, readers)?;
        if let Some(rings) = rings {
            threads.extend(rings.start(&adapter));
        }
        // The pool of the adapter goes when the last of them ends.
        drop(adapter);
        let panicked = || io::Error::other("a thread of the FUSE session panicked");
        let join = |thread: JoinHandle<io::Result<()>>| thread.join().unwrap_or_else(|_| Err(panicked()));
        let results: Vec<io::Result<()>> = threads.into_iter().map(join).collect();
        results.into_iter().collect()
    };
    Ok((chosen, Box::new(run)))
}

/// The rings for a connection, if it is to have any. They are there before the kernel hears of it, for then there is no
/// way back.
fn rings_for(device: &Arc<Device>, transport: Transport, offered: u64) -> io::Result<Option<Rings>> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::Unsupported, why);
    match transport {
        Transport::Dev | Transport::Fuser => Ok(None),
        Transport::Auto if offered & flag::OVER_IO_URING == 0 => Ok(None),
        Transport::Uring if offered & flag::OVER_IO_URING == 0 => Err(refuse(format!(
            "it does not offer FUSE over io_uring; set {} to Y on the host, or do without transport=uring",
            uring::PARAMETER
        ))),
        Transport::Auto => Ok(Rings::new(device).map_err(|e| log::info!("without io_uring: {e}")).ok()),
        Transport::Uring => Rings::new(device).map(Some).map_err(|e| {
            refuse(format!("io_uring: {e}; allow this process to use it, or do without transport=uring"))
        }),
    }
}

/// Serves `fs` on the FUSE device `device`, which was mounted already. Returns once the kernel and we have agreed on
/// the protocol: from then on the mount answers. `ended` is called when it is gone.
///
/// # Errors
/// When the kernel is too old, or the mount is gone already.
pub fn serve(
    fs: Arc<Fs>,
    device: OwnedFd,
    options: FuseOptions,
    ended: impl FnOnce() + Send + 'static,
) -> io::Result<Connection> {
    let cache = KernelCache::default();
    let views = Arc::new(Views::new(Arc::clone(&fs), options.snapshots));
    let adapter = Adapter::new(Arc::clone(&views), options, cache.clone())?;
    let (transport, run): (Transport, Run) = match options.transport {
        Transport::Fuser => {
            let session = fuser_session::open(adapter, device)?;
            cache.connect(Notifier::Fuser(session.notifier()));
            (Transport::Fuser, Box::new(move || session.run()))
        }
        Transport::Auto | Transport::Uring | Transport::Dev => {
            let device = Arc::new(Device::new(device));
            cache.connect(Notifier::Device(Arc::clone(&device)));
            open(device, adapter)?
        }
    };
    let ticker = cache.start_telling(Arc::clone(&views))?;
    let (for_thread, teller) = (Arc::clone(&views), cache.clone());
    let thread = std::thread::Builder::new().name("larder-fuse".into()).spawn(move || {
        let result = run();
        teller.stop_telling();
        let _ = ticker.join();
        for_thread.forget_all();
        ended();
        result
    })?;
    Ok(Connection { thread, views, cache, transport })
}
