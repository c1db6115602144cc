//! The session of one mount: from an open FUSE device to its end.

use super::adapter::Adapter;
use super::crew::{Crew, Finish};
use super::device::{Device, Readers};
use super::fault::strike;
use super::fuser_session;
use super::gate::{Gate, MayAnswer};
use super::kernel_cache::{KernelCache, MayWait, Notifier};
use super::ledger::Ledger;
use super::negotiation::{self, flag};
use super::opened::OpenFiles;
use super::options::{FuseOptions, Transport};
use super::pin::Pinner;
use super::settling::{Settling, Suspicion};
use super::task::Desk;
use super::uring;
use crate::fs::{Executed, Fs, Ino, KeepView, ROOT_INO, ViewChange, Views};
use parking_lot::Mutex;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

/// A mount that is being served.
pub struct Connection {
    /// Those who read its requests, where they can rest.
    crew: Option<Arc<Crew>>,
    views: Arc<Views>,
    cache: KernelCache,
    agreed: u64,
    rollback: Mutex<()>,
    told: Told,
}

/// Called when the kernel has been told of all that happened to the views so far.
pub type Told = Box<dyn Fn() + Send + Sync>;

/// A mount that is to be served.
pub struct Mounted {
    /// What is mounted.
    pub fs: Arc<Fs>,
    /// The FUSE device of the mount.
    pub device: OwnedFd,
    /// How it is to be served.
    pub options: FuseOptions,
    /// What happened to the views of the mount is kept there.
    pub keep_view: KeepView,
    /// What was told the kernel of that, likewise.
    pub told: Told,
    /// Where readers note what they work on.
    pub ledger: Arc<Ledger>,
    /// How many servers of the store there were.
    pub incarnation: u32,
    /// Who says whether something may be answered, where another host may get the volume; and the files that are open there.
    pub may_answer: Option<(Arc<dyn MayAnswer>, Arc<OpenFiles>)>,
    /// Makes the kernel answer everything on the mount with an error, now and ever after.
    pub abort: Box<dyn Fn() + Send + Sync>,
    /// Called when a mount that rests is asked for something, by whoever is about to do it.
    pub asked: Box<dyn Fn() + Send + Sync>,
    /// Called when the mount is gone.
    pub ended: Box<dyn FnOnce() + Send>,
}

/// What is left of a server that served the mount before.
pub struct Before {
    /// See [`Connection::agreed`].
    pub agreed: u64,
    /// What happened to the views of the mount.
    pub views: Vec<ViewChange>,
    /// Of so many of these changes, the kernel was told.
    pub told: usize,
    /// The last requests that it carried out.
    pub executed: Vec<Executed>,
    /// Requests that servers died of.
    pub suspicions: Vec<Suspicion>,
    /// Called when all is answered that servers before this one had taken.
    pub settled: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("views", &self.views).finish_non_exhaustive()
    }
}

impl Connection {
    /// What was agreed on with the kernel, for a server that takes over the mount; `None` if none can.
    pub fn agreed(&self) -> Option<u64> {
        (self.agreed & flag::HAS_RESEND != 0).then_some(self.agreed)
    }

    /// Frees orphans that the kernel had forgotten before the mount was taken over, where the server before was not told or did not
    /// get to it; and what it knew to be missing from such files is missing no more. The kernel does not know those of `made` yet, if
    /// it has not been told that they were made; of one that was written to, it has.
    fn forget_unknown(&self, made: &[Ino], may_wait: &MayWait) {
        let fs = self.views.live();
        for ino in fs.orphans() {
            let may_be_new = made.contains(&ino) && fs.is_untouched(ino);
            if !may_be_new && !self.cache.may_know(self.views.live_node(ino), may_wait) {
                fs.forget(ino, u64::MAX);
            }
        }
        // What it took for them and lost, it has forgotten with them.
        fs.forget_losses_unless(|ino| self.cache.may_know(self.views.live_node(ino), may_wait));
    }

    /// Whether the mount can rest.
    pub fn can_rest(&self) -> bool {
        self.crew.is_some()
    }

    /// Lets the mount rest, of which nothing has been asked for a while: it keeps one thread and next to no memory. False: it has not come
    /// to rest, and is to be asked again in a moment, or [to go on](Self::wake).
    pub fn rest(&self) -> bool {
        self.crew.as_ref().is_some_and(|crew| crew.rest())
    }

    /// Requests that were taken so far, of a mount that can rest.
    pub fn taken(&self) -> u64 {
        self.crew.as_ref().map_or(0, |crew| crew.taken())
    }

    /// The mount does not rest any more.
    pub fn wake(&self) {
        if let Some(crew) = &self.crew {
            crew.wake();
        }
    }

    /// Lets `change` put another state in the volume's place. Files that are open are stale then; everything else shows the
    /// new state at once. `changed` is called when it has, before the kernel is told, which can wait for programs.
    ///
    /// # Errors
    /// As [`Views::replace`].
    pub fn replace<T, E>(
        &self,
        change: impl FnOnce() -> Result<T, E>,
        changed: impl FnOnce(),
    ) -> Result<T, E> {
        let _turn = self.rollback.lock();
        let (value, names) = self.views.replace(|| {
            strike(b"rollback\0");
            change()
        })?;
        changed();
        // Whoever asks for this has nothing else to do, and lets go of the views before.
        self.cache.drop_root(&names, &MayWait::on_a_thread_of_its_own());
        (self.told)();
        Ok(value)
    }

    /// Notes where it outlives this process that the kernel has been told of what was in doubt when the mount was taken over:
    /// whatever is mounted below the names in the root directory is lost when it is told.
    pub fn note_told(&self) {
        if !self.views.was_in_doubt() {
            return;
        }
        let _turn = self.rollback.lock();
        (self.told)();
    }

    /// Owner or permissions of the root directory were changed past the kernel: lets it forget those that it knows.
    pub fn root_changed(&self) {
        self.cache.may_know(ROOT_INO, &MayWait::on_a_thread_of_its_own());
    }

    /// A snapshot of the volume is gone: lets the kernel forget what it knows of it.
    pub fn drop_snapshot(&self, name: &str) {
        self.cache.drop_snapshot(name.as_bytes(), &MayWait::on_a_thread_of_its_own());
    }
}

/// Waits until the mount is gone, which is served.
pub(super) type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Starts to serve a mount. When it is gone, the argument is called, on some thread; not if it could not be started.
pub(super) type Begin = Box<dyn FnOnce(Finish) -> io::Result<Option<Arc<Crew>>>>;

/// What is waited for on a thread of its own when it has begun.
pub(super) fn on_a_thread(begin: Box<dyn FnOnce() -> io::Result<Run>>) -> Begin {
    Box::new(move |finish| {
        let (begun, begins) = mpsc::channel::<Run>();
        std::thread::Builder::new().name("larder-fuse".into()).spawn(move || {
            if let Ok(run) = begins.recv() {
                finish(run());
            }
        })?;
        // Without it, the thread ends.
        let _ = begun.send(begin()?);
        Ok(None)
    })
}

/// Threads read requests from `device` until the mount is gone.
fn readers(
    device: Arc<Device>,
    adapter: Adapter,
    settling: Settling,
    (incarnation, ledger): (u32, Arc<Ledger>),
    gate: Option<Arc<Gate>>,
    asked: Box<dyn Fn() + Send + Sync>,
) -> Begin {
    let volume = adapter.volume();
    let (adapter, pinner, settling) = (Arc::new(adapter), Arc::new(Pinner::new()), Arc::new(settling));
    Box::new(move |finish| {
        let size = pinner.readers();
        let desk = Arc::new(Desk { device, ledger: Arc::clone(&ledger), settling, gate, volume });
        if let Some(gate) = &desk.gate {
            gate.serve_with(&desk, &adapter)?;
        }
        // The pool of the adapter goes when the last of them ends.
        let readers = Readers { desk, adapter, pinner: Some(pinner), incarnation };
        let crew = Crew::new(readers, ledger, size, asked, finish)?;
        crew.start()?;
        Ok(Some(crew))
    })
}

/// How a mount is served of which another host may get the volume, or none may: writes wait for the server then, which is not asked again
/// before the kernel shows what it has gathered.
fn options_of(options: &FuseOptions, leased: bool) -> FuseOptions {
    FuseOptions { writeback_cache: options.writeback_cache && !leased, leased, ..*options }
}

fn gate_of(may_answer: Option<(Arc<dyn MayAnswer>, Arc<OpenFiles>)>, incarnation: u32) -> Option<Arc<Gate>> {
    may_answer.map(|(may, opened)| Gate::new(may, opened, incarnation))
}

/// Serves a new mount. Returns once the kernel and we have agreed on the protocol: from then on the mount answers.
///
/// # Errors
/// When the kernel is too old, or the mount is gone already.
pub fn serve(mounted: Mounted) -> io::Result<Connection> {
    let Mounted { fs, device, keep_view, told, ledger, incarnation, abort, asked, ended, .. } = mounted;
    let (options, gate) = (
        options_of(&mounted.options, mounted.may_answer.is_some()),
        gate_of(mounted.may_answer, incarnation),
    );
    if let (Some(transport), true) = (options.transport.ties(), options.leased) {
        let what = format!("{transport} does not go with lease=strict: mount without it");
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let cache = KernelCache::default();
    let views = Arc::new(Views::new(fs, options.snapshots, (&[], 0), keep_view));
    let mut adapter = Adapter::new(Arc::clone(&views), options, cache.clone())?;
    let (begin, agreed): (Begin, u64) = match options.transport {
        Transport::Fuser => {
            let session = fuser_session::open(adapter, device, ledger)?;
            cache.connect(Notifier::Fuser(session.notifier()));
            (on_a_thread(Box::new(move || Ok(Box::new(move || session.run())))), 0)
        }
        Transport::Auto | Transport::Dev | Transport::Uring => {
            let device = Arc::new(Device::new(device));
            cache.connect(Notifier::Device(Arc::clone(&device)));
            let agreed = device.agree(negotiation::wanted(options))?;
            negotiation::demand(options, agreed)?;
            adapter.agree(agreed.into());
            let begin = if options.transport == Transport::Uring {
                cache.direct_writes().come_by_rings();
                uring::serve(device, adapter, (incarnation, ledger), abort)
            } else {
                readers(device, adapter, Settling::nothing(), (incarnation, ledger), gate.clone(), asked)
            };
            (begin, agreed)
        }
    };
    start(begin, agreed, views, cache, gate, (told, ended))
}

/// Serves a mount that another server served before. Requests that it took and did not answer come again; those that it had
/// carried out are not carried out twice.
///
/// # Errors
/// When the kernel cannot give requests again, or the mount is gone.
pub fn take_over(mounted: Mounted, before: Before) -> io::Result<Connection> {
    let Mounted { fs, device, keep_view, told, ledger, incarnation, asked, ended, .. } = mounted;
    let (options, gate) = (
        options_of(&mounted.options, mounted.may_answer.is_some()),
        gate_of(mounted.may_answer, incarnation),
    );
    let Before { agreed, views, told: of_which_told, executed, suspicions, settled } = before;
    // What the kernel was told then may be kept for longer than the lease is good.
    if options.leased && negotiation::demand(options, agreed).is_err() {
        let what = "lease=strict was set after the volume was mounted; unmount it, and mount it again";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let cache = KernelCache::default();
    let views = Arc::new(Views::new(fs, options.snapshots, (&views, of_which_told), keep_view));
    let mut adapter = Adapter::new(Arc::clone(&views), options, cache.clone())?;
    adapter.agree(agreed.into());
    let made: Vec<Ino> = executed.iter().filter_map(|executed| executed.ino).collect();
    adapter.take_over(executed);
    let device = Arc::new(Device::new(device));
    cache.connect(Notifier::Device(Arc::clone(&device)));
    // Before the first is read here: what this process took must not come twice.
    device.resend()?;
    let names = views.names_in_doubt();
    let settling = Settling::new(suspicions, settled);
    let begin = readers(device, adapter, settling, (incarnation, ledger), gate.clone(), asked);
    let connection = start(begin, agreed, views, cache, gate, (told, ended))?;
    // The readers have been started.
    let may_wait = MayWait::on_a_thread_of_its_own();
    if !names.is_empty() {
        connection.cache.drop_root(&names, &may_wait);
    }
    connection.forget_unknown(&made, &may_wait);
    Ok(connection)
}

/// Serves until the mount is gone. What can fail of that has happened before the first request is taken: a mount that is served is
/// never said to be gone.
fn start(
    begin: Begin,
    agreed: u64,
    views: Arc<Views>,
    cache: KernelCache,
    gate: Option<Arc<Gate>>,
    (told, ended): (Told, Box<dyn FnOnce() + Send>),
) -> io::Result<Connection> {
    cache.start_telling(&views)?;
    let (for_end, teller) = (Arc::clone(&views), cache.clone());
    let finish = Box::new(move |result: io::Result<()>| {
        if let Err(e) = result {
            log::error!("a FUSE session ended otherwise than by an unmount: {e}");
        }
        teller.stop_telling();
        if let Some(gate) = gate {
            gate.end();
        }
        for_end.forget_all();
        ended();
    });
    match begin(finish) {
        Ok(crew) => Ok(Connection { crew, views, cache, agreed, rollback: Mutex::new(()), told }),
        Err(e) => {
            cache.stop_telling();
            Err(e)
        }
    }
}
