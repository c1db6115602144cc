//! What the kernel keeps of a mount, and telling it where that has become wrong.

use super::device::Device;
use super::direct_writes::DirectWrites;
use super::task::{AtWork, Task};
use super::wire;
use crate::fs::{Ino, Node, ROOT_INO, SNAPSHOTS_NODE, Views};
use crate::scheduling::run_anywhere;
use fuser::INodeNo;
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long `st_blocks` of an open file may be out of date.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing moves before direct writes that wait for pages are taken for what keeps everything from moving.
const STUCK_INTERVAL: Duration = Duration::from_millis(100);
/// So many times there is nothing to tell, and the thread that tells ends.
const LINGERS: u32 = 5;
/// Looking for names of files that the kernel is to forget takes one part in so many of the time, however large their directories are.
const FORGETTING_SHARE: u32 = 20;

/// How the kernel is told.
#[derive(Debug)]
pub(super) enum Notifier {
    Fuser(fuser::Notifier),
    Device(Arc<Device>),
}

impl Notifier {
    /// Drops what the kernel keeps of a node: attributes, and pages of `len` bytes from `offset` on (0: all) after writing
    /// them back. A negative offset: attributes only.
    fn drop_node(&self, node: Node, offset: i64, len: i64) -> io::Result<()> {
        match self {
            Self::Fuser(notifier) => notifier.inval_inode(INodeNo(node), offset, len),
            Self::Device(device) => device.notify(&wire::inval_inode(node, offset, len)),
        }
    }

    fn drop_name(&self, parent: Node, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Fuser(notifier) => notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(name)),
            Self::Device(device) => device.notify(&wire::inval_entry(parent, name)),
        }
    }
}

/// Shows that the thread may wait for the kernel: nothing that the kernel may be waiting for is up to it. See
/// [`super::workers`].
pub(super) struct MayWait {
    task: Option<Task>,
    /// As long as it does not wait.
    at_work: RefCell<Option<AtWork>>,
}

impl MayWait {
    /// The thread has no requests to serve, and holds no lock that serving one takes.
    pub(super) fn on_a_thread_of_its_own() -> Self {
        Self::working_on(None)
    }

    /// The same, on a thread that works on a request.
    pub(super) fn working_on(task: Option<Task>) -> Self {
        let at_work = task.as_ref().map(Task::begin);
        Self { task, at_work: RefCell::new(at_work) }
    }

    /// Waits for the kernel. Nobody works on the request meanwhile.
    fn wait<T>(&self, kernel: impl FnOnce() -> T) -> T {
        self.at_work.take();
        let result = kernel();
        self.at_work.replace(self.task.as_ref().map(Task::begin));
        result
    }
}

#[derive(Debug, Default)]
struct Shared {
    notifier: OnceLock<Notifier>,
    direct: Arc<DirectWrites>,
    /// What there is to tell of.
    views: OnceLock<Weak<Views>>,
    telling: Mutex<Telling>,
    /// The thread looks again before it ends.
    is_telling: AtomicBool,
    wake: Condvar,
    ended: Condvar,
}

/// The thread that tells, which there is as long as there is something to tell. Not locked while the kernel is told.
#[derive(Debug, Default)]
struct Telling {
    runs: bool,
    stopped: bool,
}

/// The kernel's cache of one mount.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelCache {
    shared: Arc<Shared>,
}

impl KernelCache {
    /// The session is there; from now on the kernel can be told.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.shared.notifier.set(notifier);
    }

    /// What is known of writes past this cache.
    pub(super) fn direct_writes(&self) -> &Arc<DirectWrites> {
        &self.shared.direct
    }

    /// Lets a thread look at once at what there is to tell; false if none can be started.
    pub(super) fn look(&self) -> bool {
        if self.shared.is_telling.load(Ordering::SeqCst) {
            self.shared.wake.notify_all();
            return true;
        }
        match self.shared.tell() {
            Ok(()) => true,
            Err(e) => {
                log::warn!("cannot start the thread that tells the kernel what has changed: {e}");
                false
            }
        }
    }

    /// Lets the kernel write back what it has gathered for a range of a node's bytes, and waits for that; the pages that
    /// hold them are dropped.
    pub(super) fn write_back(&self, node: Node, range: &Range<u64>, may_wait: &MayWait) -> io::Result<()> {
        let Some(notifier) = self.shared.notifier.get() else { return Ok(()) };
        // 0 bytes are all to the end.
        let len = i64::try_from(range.end - range.start).unwrap_or(0);
        may_wait.wait(|| notifier.drop_node(node, i64::try_from(range.start).unwrap_or(i64::MAX), len))
    }

    /// Whether the kernel may know a node: it drops the attributes of one that it does.
    pub(super) fn may_know(&self, node: Node, _: &MayWait) -> bool {
        let Some(notifier) = self.shared.notifier.get() else { return true };
        !matches!(notifier.drop_node(node, -1, 0), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// Lets the kernel forget names in the root directory, with everything below them, and the directory's contents.
    pub(super) fn drop_root(&self, names: &[Box<[u8]>], _: &MayWait) {
        let Some(notifier) = self.shared.notifier.get() else { return };
        for name in names {
            // It may not know the name.
            if let Err(e) = notifier.drop_name(ROOT_INO, name) {
                log::debug!("cannot drop a name of the root directory: {e}");
            }
        }
        if let Err(e) = notifier.drop_node(ROOT_INO, 0, 0) {
            log::debug!("cannot drop the root directory: {e}");
        }
    }

    /// Lets the kernel forget a snapshot that is gone, with everything below it.
    pub(super) fn drop_snapshot(&self, name: &[u8], _: &MayWait) {
        let Some(notifier) = self.shared.notifier.get() else { return };
        if let Err(e) = notifier.drop_name(SNAPSHOTS_NODE, name) {
            log::debug!("cannot drop the name of a snapshot: {e}");
        }
    }

    /// From now on, a thread tells the kernel of attributes that change unnoticed, and looks after direct writes that are stuck. It waits for
    /// no pages itself.
    ///
    /// # Errors
    /// When there is something to tell, and no thread can be started.
    pub(super) fn start_telling(&self, views: &Arc<Views>) -> io::Result<()> {
        let _ = self.shared.views.set(Arc::downgrade(views));
        let shared = Arc::downgrade(&self.shared);
        views.live().on_news(Box::new(move || {
            let Some(shared) = shared.upgrade() else { return };
            if !shared.is_telling.load(Ordering::SeqCst) {
                Self { shared }.look();
            }
        }));
        if views.live().has_news() { self.shared.tell() } else { Ok(()) }
    }

    /// Ends that, and waits for its end.
    pub(super) fn stop_telling(&self) {
        let mut telling = self.shared.telling.lock();
        telling.stopped = true;
        self.shared.wake.notify_all();
        while telling.runs {
            self.shared.ended.wait(&mut telling);
        }
    }
}

impl Shared {
    /// Starts the thread, if it does not run.
    fn tell(self: &Arc<Self>) -> io::Result<()> {
        let mut telling = self.telling.lock();
        if telling.runs || telling.stopped {
            self.wake.notify_all();
            return Ok(());
        }
        if self.views.get().is_none_or(|views| views.strong_count() == 0) {
            return Ok(());
        }
        let shared = Arc::clone(self);
        std::thread::Builder::new().name("larder-tell".into()).spawn(move || {
            run_anywhere();
            shared.keep_telling();
        })?;
        telling.runs = true;
        self.is_telling.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Tells the kernel, whatever happens: without this thread, direct writes that are stuck stay so, and a mount that ends waits for it.
    fn keep_telling(self: &Arc<Self>) {
        loop {
            let Some(views) = self.views.get().and_then(Weak::upgrade) else { break };
            if catch_unwind(AssertUnwindSafe(|| self.tell_all(views))).is_ok() {
                return;
            }
            log::error!("the thread that tells the kernel what has changed panicked; it begins again");
            let mut telling = self.telling.lock();
            if !telling.stopped {
                self.wake.wait_for(&mut telling, TELL_INTERVAL);
            }
        }
        // There is nothing to tell of any more.
        self.is_telling.store(false, Ordering::SeqCst);
        self.telling.lock().runs = false;
        self.ended.notify_all();
    }

    /// Tells the kernel, until there has been nothing to tell for a while.
    fn tell_all(self: &Arc<Self>, views: Arc<Views>) {
        let mut forgetting = Forgetting::default();
        let mut in_vain = 0;
        loop {
            {
                let mut telling = self.telling.lock();
                let interval = if self.direct.has_many() { STUCK_INTERVAL } else { TELL_INTERVAL };
                if !telling.stopped {
                    self.wake.wait_for(&mut telling, interval);
                }
                if telling.stopped {
                    drop(views);
                    telling.runs = false;
                    self.ended.notify_all();
                    return;
                }
                if in_vain >= LINGERS {
                    // Whoever has news from now on sees this, or is seen here.
                    self.is_telling.store(false, Ordering::SeqCst);
                    if !views.live().has_news() && !self.direct.has_many() {
                        telling.runs = false;
                        return;
                    }
                    self.is_telling.store(true, Ordering::SeqCst);
                }
            }
            self.direct.unblock(Instant::now());
            let Some(notifier) = self.notifier.get() else { continue };
            let lossy = views.live().lossy_files();
            if !lossy.is_empty() && forgetting.is_due(Instant::now()) {
                forgetting.thread = forget_names(self, &views, lossy.clone());
            }
            let changed = views.live().take_changed();
            let is_quiet = changed.is_empty() && lossy.is_empty() && !self.direct.has_many();
            in_vain = if is_quiet { in_vain + 1 } else { 0 };
            for ino in changed.into_iter().chain(lossy) {
                // A negative offset: attributes only. The kernel may have dropped the inode by itself.
                if let Err(e) = notifier.drop_node(views.live_node(ino), -1, 0) {
                    log::debug!("cannot tell the kernel of inode {ino}: {e}");
                }
            }
        }
    }
}

/// The thread that looks for names of files that the kernel is to forget, and when the next one may.
#[derive(Default)]
struct Forgetting {
    thread: Option<JoinHandle<Duration>>,
    rests_until: Option<Instant>,
}

impl Forgetting {
    /// Whether to look again. One that takes long is waited for, and then rests for long.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return false;
        }
        if let Some(thread) = self.thread.take() {
            let took = thread.join().unwrap_or_default();
            self.rests_until = Some(now + took * (FORGETTING_SHARE - 1));
        }
        self.rests_until.is_none_or(|until| until <= now)
    }
}

/// Lets the kernel forget the names of files, on a thread of its own: it waits for whoever uses their directories. What it cannot
/// find by name any more, it forgets when nobody has it open.
fn forget_names(shared: &Arc<Shared>, views: &Arc<Views>, files: Vec<Ino>) -> Option<JoinHandle<Duration>> {
    let (shared, views) = (Arc::clone(shared), Arc::clone(views));
    let forget = move || {
        let begun = Instant::now();
        let Some(notifier) = shared.notifier.get() else { return Duration::ZERO };
        for ino in files {
            let mut after = Some(0);
            while let Some(from) = after {
                let mut names = Vec::new();
                after = {
                    let _busy = views.busy();
                    let mut found = |parent, name| names.push((views.live_node(parent), name));
                    views.live().some_names_of(ino, from, &mut found).unwrap_or(None)
                };
                for (parent, name) in names {
                    // It may not know the name.
                    if let Err(e) = notifier.drop_name(parent, &name) {
                        log::debug!("cannot drop a name of inode {ino}: {e}");
                    }
                }
            }
        }
        begun.elapsed()
    };
    std::thread::Builder::new().name("larder-forget".into()).spawn(forget).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_for_names_rests_in_proportion_to_what_it_took() {
        let took = Duration::from_secs(2);
        let mut forgetting = Forgetting::default();
        let now = Instant::now();
        assert!(forgetting.is_due(now));
        let (end, ends) = std::sync::mpsc::channel();
        forgetting.thread = Some(std::thread::spawn(move || {
            ends.recv().unwrap();
            took
        }));
        assert!(!forgetting.is_due(now), "one at a time");
        end.send(()).unwrap();
        while forgetting.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
        assert!(!forgetting.is_due(now));
        assert!(!forgetting.is_due(now + 18 * took));
        assert!(forgetting.is_due(now + 19 * took));
    }
}
