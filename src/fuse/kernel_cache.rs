//! What the kernel keeps of a mount, and telling it where that has become wrong.

use super::device::Device;
use super::direct_writes::DirectWrites;
use super::task::{AtWork, Task};
use super::wire;
use crate::fs::{Ino, Node, ROOT_INO, SNAPSHOTS_NODE, Views};
use fuser::INodeNo;
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long `st_blocks` of an open file may be out of date.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing moves before direct writes that wait for pages are taken for what keeps everything from moving.
const STUCK_INTERVAL: Duration = Duration::from_millis(100);
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
    stopped: Mutex<bool>,
    wake: Condvar,
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

    /// Lets the thread of [`KernelCache::start_telling`] look at once.
    pub(super) fn look(&self) {
        self.shared.wake.notify_all();
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

    /// Starts a thread that tells the kernel of attributes that changed unnoticed, and looks after direct writes that are stuck.
    /// It waits for no pages itself.
    pub(super) fn start_telling(&self, views: Arc<Views>) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name("larder-tell".into()).spawn(move || {
            let mut forgetting = Forgetting::default();
            let mut stopped = shared.stopped.lock();
            while !*stopped {
                let interval = if shared.direct.has_many() { STUCK_INTERVAL } else { TELL_INTERVAL };
                shared.wake.wait_for(&mut stopped, interval);
                shared.direct.unblock(Instant::now());
                let Some(notifier) = shared.notifier.get() else { continue };
                let lossy = views.live().lossy_files();
                if !lossy.is_empty() && forgetting.is_due(Instant::now()) {
                    forgetting.thread = forget_names(&shared, &views, lossy.clone());
                }
                for ino in views.live().take_changed().into_iter().chain(lossy) {
                    // A negative offset: attributes only. The kernel may have dropped the inode by itself.
                    if let Err(e) = notifier.drop_node(views.live_node(ino), -1, 0) {
                        log::debug!("cannot tell the kernel of inode {ino}: {e}");
                    }
                }
            }
        })
    }

    /// Ends that thread.
    pub(super) fn stop_telling(&self) {
        *self.shared.stopped.lock() = true;
        self.shared.wake.notify_all();
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
