//! How much the caches of a store may have: its share of what all servers of the root have together, and less while memory is short.

use crate::config::Config;
use crate::memory::{self, Memory, Squeeze};
use crate::open_store::OpenStore;
use crate::root::Root;
use crate::server::budget::{Budget, LEAST};
use nix::poll::PollFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is looked how much they may have, of a store that is used.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same, for each server that has caches: each looks at the claims of all.
const LOOK_FOR_EACH: Duration = Duration::from_millis(50);
/// How often what cannot be shared is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// A server that does not know what others have takes no more than this part of what there is for all.
const ALONE_PART: u64 = 8;
/// How often and how long a server waits that has something to give back while another one is looking.
const TURNS: u32 = 20;
const TURN: Duration = Duration::from_millis(1);

/// What caches may have, for whoever wants to know, in bytes.
#[derive(Debug, Default)]
pub(super) struct Shares {
    own: AtomicU64,
    total: AtomicU64,
}

impl Shares {
    /// Those of this server.
    pub(super) fn own(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// Those of all servers of the root together.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// What tells a file from one that was changed: device, inode, size, and time of the change. None: there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// What the configuration says. It is read again when it has changed.
#[derive(Debug)]
struct Configured {
    path: PathBuf,
    stamp: Option<Stamp>,
    config: Config,
}

impl Configured {
    fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, config: Config::default() }
    }

    fn now(&mut self) -> &Config {
        let stamp = fs::metadata(&self.path).ok();
        let stamp = stamp.map(|meta| (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()));
        if self.stamp.replace(stamp) != Some(stamp) {
            let read = if stamp.is_some() { Config::load_from(&self.path) } else { Ok(Config::default()) };
            match read {
                Ok(config) => self.config = config,
                Err(e) => log::warn!("{e}; what caches may have stays as it was"),
            }
        }
        &self.config
    }
}

/// Limits the caches of a store.
pub(super) struct Caches {
    store: Arc<OpenStore>,
    shares: Arc<Shares>,
    /// Where the budget is.
    path: PathBuf,
    budget: Option<Budget>,
    /// When it is next tried to share, if that cannot be.
    share_at: Instant,
    configured: Configured,
    memory: Memory,
    squeeze: Squeeze,
    look_at: Instant,
}

impl Caches {
    pub(super) fn new(root: &Root, store: &Arc<OpenStore>, shares: &Arc<Shares>) -> Self {
        Self::with(root, store, shares, (Memory::default(), Config::path().0))
    }

    fn with(
        root: &Root,
        store: &Arc<OpenStore>,
        shares: &Arc<Shares>,
        (memory, config): (Memory, PathBuf),
    ) -> Self {
        let now = Instant::now();
        Self {
            store: Arc::clone(store),
            shares: Arc::clone(shares),
            path: root.caches(),
            budget: None,
            share_at: now,
            configured: Configured::new(config),
            memory,
            squeeze: Squeeze::default(),
            look_at: now,
        }
    }

    /// Files that have POLLPRI when memory may be short: see [`Caches::note_pressure`].
    pub(super) fn triggers(&self) -> &[File] {
        self.memory.triggers()
    }

    /// The store is used: when it is time for that, its caches get what they may have now.
    pub(super) fn look(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        let others = self.budget.as_ref().map_or(0, Budget::others_count);
        self.look_at = now + LOOK_EVERY + LOOK_FOR_EACH * others as u32;
        if self.memory.is_short(false) {
            self.squeeze(now);
        }
        self.limit(now);
    }

    /// The store is used again.
    pub(super) fn wake(&mut self, now: Instant) {
        self.look_at = now;
    }

    /// The store is about to be closed.
    pub(super) fn cease(&mut self) {
        self.memory.lose_triggers();
    }

    /// Triggers have said something.
    pub(super) fn note_pressure(&mut self, said: PollFlags, is_resting: bool) {
        if said.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL | PollFlags::POLLHUP) {
            // The control group is gone, say. It would be said again and again.
            log::debug!("the kernel does not say any more when memory is short");
            self.memory.lose_triggers();
        }
        if !self.memory.is_short(true) {
            return;
        }
        if is_resting {
            self.shed();
        } else {
            let now = Instant::now();
            self.squeeze(now);
            self.limit(now);
        }
    }

    fn squeeze(&mut self, now: Instant) {
        let Some(used) = self.used() else { return };
        if self.squeeze.note(used, now) {
            log::debug!("memory is short: caches, which have {used} bytes, shrink");
        }
    }

    /// Memory that the caches take, in bytes. `None` while somebody holds the metadata: the thread that does this is the one that tells the
    /// holder that the process lives, and does not wait for a disk that stalls.
    fn used(&self) -> Option<u64> {
        self.store.caches_bytes_now().map(|bytes| bytes as u64)
    }

    fn limit(&mut self, now: Instant) {
        let Some(used) = self.used() else { return self.note_look(now) };
        let most = self.squeeze.limit(self.store.caches_most() as u64, now);
        let total = self.configured.now().cache_total(self.memory.bytes());
        let shared = self.share(total, now, |budget| budget.look(used, most));
        let own = shared.unwrap_or(total / ALONE_PART).min(most);
        self.store.limit_caches(usize::try_from(own).unwrap_or(usize::MAX));
        self.tell(own, total);
        if used > own {
            memory::give_back();
        }
    }

    /// What caches have is not known at this moment: they keep what they may have, and other servers take this one for one that goes on.
    fn note_look(&mut self, now: Instant) {
        if let Some(Err(e)) = self.budget.as_ref().map(Budget::note_look) {
            self.cannot_share(&e, now);
            self.budget = None;
        }
    }

    /// What the budget says; `None` if there is none.
    fn share(
        &mut self,
        total: u64,
        now: Instant,
        ask: impl Fn(&mut Budget) -> io::Result<u64>,
    ) -> Option<u64> {
        if self.budget.is_none() && self.share_at <= now {
            let opened = Budget::open(&self.path, total);
            self.budget = opened.map_err(|e| self.cannot_share(&e, now)).ok();
        }
        let budget = self.budget.as_mut()?;
        budget.set_limit(total);
        match ask(budget) {
            Ok(own) => Some(own),
            // It is another server's turn.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(budget.granted().max(LEAST)),
            Err(e) => {
                self.cannot_share(&e, now);
                self.budget = None;
                None
            }
        }
    }

    fn cannot_share(&mut self, e: &io::Error, now: Instant) {
        log::warn!(
            "{}: {e}; caches get less until it is known what those of other servers have",
            self.path.display()
        );
        self.share_at = now + RETRY;
    }

    fn tell(&self, own: u64, total: u64) {
        self.shares.own.store(own, Ordering::Relaxed);
        self.shares.total.store(total, Ordering::Relaxed);
    }

    /// Nobody uses the store at the moment: its caches keep what they have, and others may have the rest. Whether others may have use for
    /// all of it.
    pub(super) fn rest(&mut self) -> bool {
        let kept = self.store.keep_caches() as u64;
        self.give_up_all_but(kept);
        self.budget.as_ref().is_some_and(Budget::is_scarce)
    }

    /// Nobody has used the store for a while: its caches keep nothing.
    pub(super) fn shed(&mut self) {
        self.store.shed_caches();
        memory::give_back();
        self.give_up_all_but(0);
    }

    fn give_up_all_but(&mut self, kept: u64) {
        self.tell(kept, self.shares.total());
        let Some(budget) = &mut self.budget else { return };
        for _ in 0..TURNS {
            match budget.rest(kept) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(TURN),
                Err(e) => return log::warn!("{}: {e}", self.path.display()),
                Ok(()) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::open_store::StoreOptions;
    use crate::store::{BLOCK_BYTES, BlockAddr};
    use crate::volume::{LimitChanges, VolumeSpec, create};
    use std::collections::BTreeMap;

    const MIB: u64 = 1 << 20;

    /// A root on a host with 1,000 MiB of memory, of which half is left.
    struct Host {
        dir: tempfile::TempDir,
        root: Root,
    }

    impl Host {
        /// On which caches may have so many MiB.
        fn new(caches: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let host = Self { root: Root::new(dir.path().join("root")), dir };
            host.write("proc/pressure/memory", "some");
            host.have_left(500);
            host.allow(caches);
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn have_left(&self, mib: u64) {
            let text = format!("MemTotal: 1024000 kB\nMemAvailable: {} kB\n", mib * 1024);
            self.write("proc/meminfo", &text);
        }

        fn allow(&self, mib: u64) {
            self.write("larder.toml", &format!("cache-total = \"{mib}M\"\n"));
        }

        /// The caches of a server of volume `name`, with a block cache of at most so many MiB.
        fn server(&self, name: &str, cache: u64) -> Server {
            let spec = VolumeSpec {
                name: name.into(),
                limits: LimitChanges::default(),
                uid: 0,
                gid: 0,
                mode: 0o755,
                labels: BTreeMap::new(),
                remote: None,
            };
            let id = create(&self.root, &spec).unwrap();
            let options = StoreOptions { cache_bytes: (cache * MIB) as usize, ..StoreOptions::default() };
            let store = OpenStore::open(Arc::new(OsDir::new(self.root.store(id))), None, options).unwrap();
            let shares = Arc::default();
            let seen = (Memory::seen_from(self.dir.path()), self.dir.path().join("larder.toml"));
            let caches = Caches::with(&self.root, &store, &shares, seen);
            Server { caches, store, shares }
        }
    }

    struct Server {
        caches: Caches,
        store: Arc<OpenStore>,
        shares: Arc<Shares>,
    }

    impl Server {
        /// What it may have, in MiB, when it has looked.
        fn look(&mut self) -> u64 {
            // A look while a commit holds the metadata is in vain, and done again.
            self.shares.own.store(u64::MAX, Ordering::Relaxed);
            while self.shares.own() == u64::MAX {
                self.caches.wake(Instant::now());
                self.caches.look(Instant::now());
            }
            assert!(self.used() <= self.shares.own(), "{} of {}", self.used(), self.shares.own());
            self.shares.own() / MIB
        }

        fn used(&self) -> u64 {
            self.store.caches_bytes() as u64
        }

        /// Reads so many MiB.
        fn read(&self, mib: u64) {
            for index in 0..(mib * MIB) as u32 / BLOCK_BYTES as u32 {
                self.store.cache().put(BlockAddr { segment: 1, index }, &[7; BLOCK_BYTES]);
            }
        }

        /// Reads as much as it can keep and more, and looks, until that changes nothing.
        fn work(&mut self, other: &mut Self) -> (u64, u64) {
            for _ in 0..12 {
                self.read(300);
                self.look();
                other.look();
            }
            (self.look(), other.look())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.store.close();
        }
    }

    #[test]
    fn servers_share_what_there_is_by_use_and_one_that_rests_gives_back() {
        let host = Host::new(100);
        let (mut one, mut two) = (host.server("one", 256), host.server("two", 256));
        assert_eq!((one.look(), one.shares.total()), (100, 100 * MIB));
        assert_eq!(two.look(), 1, "the first has all the rest");
        assert_eq!((one.look(), two.look()), (50, 50));
        let (of_one, of_two) = one.work(&mut two);
        assert!(of_one >= 85 && of_two >= 5 && of_one + of_two <= 100, "{of_one} {of_two}");
        let (of_two, of_one) = two.work(&mut one);
        // The first still uses what it has.
        assert!((45..=55).contains(&of_one) && of_one + of_two <= 100, "{of_one} {of_two}");
        // It rests with what it has filled, which is wanted; and with nothing after a while.
        assert!(one.caches.rest());
        let kept = one.shares.own();
        assert!(one.used() > 20 * MIB && one.used() <= kept && kept <= 50 * MIB);
        assert!(two.look() * MIB + kept <= 100 * MIB);
        one.read(300);
        assert!(one.used() <= kept, "it takes no more at rest");
        one.caches.shed();
        assert_eq!((one.store.cache().memory_bytes(), one.shares.own()), (0, 0));
        two.read(300);
        assert_eq!(two.look(), 100);
        // It is used again.
        one.look();
        two.look();
        assert!(one.look() >= 5);
    }

    #[test]
    fn the_share_of_a_server_that_has_ended_is_free_and_a_change_of_the_limit_is_heeded() {
        let host = Host::new(60);
        let (mut one, mut two) = (host.server("one", 256), host.server("two", 256));
        one.look();
        two.look();
        assert_eq!((one.look(), two.look()), (30, 30));
        drop(one);
        assert_eq!(two.look(), 60);
        host.allow(40);
        assert_eq!(two.look(), 40);
        host.write("larder.toml", "cache-total = nonsense");
        assert_eq!(two.look(), 40);
        fs::remove_file(host.dir.path().join("larder.toml")).unwrap();
        assert_eq!(two.look(), 250, "a quarter of the memory");
        host.write("larder.toml", "cache-total = 0");
        two.read(10);
        two.caches.wake(Instant::now());
        two.caches.look(Instant::now());
        assert_eq!(two.store.cache().memory_bytes(), 0);
    }

    /// What it was granted was taken from it, although it used it.
    #[test]
    fn a_server_whose_metadata_are_held_whenever_it_looks_does_not_stand_still() {
        let host = Host::new(60);
        let mut one = host.server("one", 256);
        assert_eq!(one.look(), 60);
        let looks = || fs::read(host.root.caches().with_extension("looks")).unwrap();
        let before = looks();
        std::thread::sleep(Duration::from_millis(5));
        let store = Arc::clone(&one.store);
        {
            let _held = store.meta();
            one.caches.wake(Instant::now());
            one.caches.look(Instant::now());
        }
        assert!(looks() != before && one.shares.own() == 60 * MIB);
    }

    #[test]
    fn the_limit_of_a_volume_holds_however_much_there_is() {
        let host = Host::new(900);
        let mut one = host.server("one", 16);
        assert_eq!(one.look() * MIB, 16 * MIB + crate::meta::CACHES_MAX as u64);
        one.read(300);
        assert!(one.store.cache().memory_bytes() as u64 <= 16 * MIB);
        let mut without = host.server("without", 0);
        without.look();
        without.read(10);
        assert_eq!(without.store.cache().memory_bytes(), 0);
    }

    #[test]
    fn caches_shrink_while_memory_is_short_and_go_at_rest() {
        let host = Host::new(200);
        let mut one = host.server("one", 256);
        one.look();
        one.read(300);
        let before = one.used();
        assert!(before > 100 * MIB);
        // Programs wait for memory, but there is enough: they are at limits of their own.
        one.caches.note_pressure(PollFlags::POLLPRI, false);
        assert_eq!(one.used(), before);
        host.have_left(150);
        one.caches.note_pressure(PollFlags::POLLPRI, false);
        assert!(one.used() <= before / 2 && one.used() > 0);
        assert_eq!(one.shares.own(), before / 2);
        // Others may have what it does not get.
        let mut two = host.server("two", 256);
        assert!(two.look() >= 90);
        // Without anybody to say so, it is seen when very little is left.
        host.have_left(40);
        let mut three = host.server("three", 256);
        three.caches.memory.lose_triggers();
        three.look();
        assert!(three.shares.own() <= 4 * MIB);
        one.caches.rest();
        one.caches.note_pressure(PollFlags::POLLPRI, true);
        assert_eq!(one.store.cache().memory_bytes(), 0);
        assert!(!one.caches.triggers().is_empty());
        one.caches.note_pressure(PollFlags::POLLERR, true);
        assert!(one.caches.triggers().is_empty());
    }

    #[test]
    fn a_server_that_cannot_know_of_others_takes_little() {
        let host = Host::new(80);
        let mut one = host.server("one", 256);
        fs::create_dir(host.root.caches()).unwrap();
        assert_eq!(one.look(), 10);
        one.caches.rest();
        fs::remove_dir(host.root.caches()).unwrap();
        one.caches.share_at = Instant::now();
        assert_eq!(one.look(), 80);
    }
}
