//! The session of one mount: from an open FUSE device to its end.

use super::adapter::Adapter;
use super::device::{self, Device};
use super::fuser_session;
use super::kernel_cache::{KernelCache, Notifier};
use super::negotiation;
use super::options::{FuseOptions, Transport};
use super::pin::Pinner;
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
}

impl Connection {
    /// Whether the mount is gone.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
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

/// Agrees with the kernel on the protocol.
fn open(device: Arc<Device>, mut adapter: Adapter) -> io::Result<Run> {
    let agreed = device.agree(negotiation::wanted(adapter.options()))?;
    negotiation::warn_of_missing(adapter.options(), agreed);
    adapter.agree(agreed.into());
    let adapter = Arc::new(adapter);
    let pinner = Arc::new(Pinner::new());
    Ok(Box::new(move || {
        let readers = pinner.readers();
        let threads = device::start_readers(&device, &adapter, &pinner, readers)?;
        // The pool of the adapter goes when the last of them ends.
        drop(adapter);
        let panicked = || io::Error::other("a thread of the FUSE session panicked");
        let join = |thread: JoinHandle<io::Result<()>>| thread.join().unwrap_or_else(|_| Err(panicked()));
        let results: Vec<io::Result<()>> = threads.into_iter().map(join).collect();
        results.into_iter().collect()
    }))
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
    let run: Run = match options.transport {
        Transport::Fuser => {
            let session = fuser_session::open(adapter, device)?;
            cache.connect(Notifier::Fuser(session.notifier()));
            Box::new(move || session.run())
        }
        Transport::Auto | Transport::Dev => {
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
    Ok(Connection { thread, views, cache })
}
