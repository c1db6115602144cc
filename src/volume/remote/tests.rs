use super::*;
use crate::open_store::{OpenStore, StoreOptions};
use crate::remote::{
    Directory, Listed, ObjectError, Outcome, Owner, OwnerId, Shipper, claim, erase, init, names, remains,
    take_up,
};
use crate::volume::{LimitChanges, VolumeSpec, create};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that does not let the second record be written, when that is tried first.
struct Refusing {
    inner: Directory,
    tries: AtomicU32,
    /// What happens then.
    meanwhile: Box<dyn Fn() + Send + Sync>,
    /// And before the first one is written.
    first: Box<dyn Fn() + Send + Sync>,
    /// And when it is looked whether objects are written over.
    looks: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Refusing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Objects for Refusing {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        let number = name.starts_with(names::LOG).then(|| self.tries.fetch_add(1, Ordering::Relaxed));
        if name == names::PROBE {
            (self.looks)();
        }
        if number == Some(0) {
            (self.first)();
        }
        if number == Some(1) {
            (self.meanwhile)();
            let (place, name) = (self.place().into(), name.into());
            let why = "it is a test".into();
            return Err(ObjectError { trouble: Trouble::Refused, doing: "write", place, name, why });
        }
        self.inner.put_new(name, bytes)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.inner.put(name, bytes)
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.inner.get(name, most)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.inner.get_range(name, range)
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.inner.head(name)
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.inner.list(under, after, most)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.inner.list_dirs(under, most)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.inner.delete(name)
    }
}

/// Somebody to whom everything is right.
struct Anybody;

impl Attaching for Anybody {
    fn secret(&mut self) -> Result<Secret> {
        Err(VolumeError::new(Exit::Secret, "there is none"))
    }

    fn accept_plain(&mut self, _: &str, _: &[String]) -> Result<()> {
        Ok(())
    }

    fn waits(&mut self, _: &Waiting) -> bool {
        true
    }
}

/// Another host has shipped a volume there, and has not let go of it. Attaches it here, while nobody may let go of anything.
struct Here {
    tmp: tempfile::TempDir,
    id: StoreId,
    root: Root,
    /// What the other host keeps of the remote.
    theirs: Local,
}

impl Here {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("objects")).unwrap();
        let there = Root::new(tmp.path().join("there"));
        let (name, labels, limits) = ("v".into(), BTreeMap::new(), LimitChanges::default());
        let spec = VolumeSpec { name, limits, uid: 0, gid: 0, mode: 0o755, labels, remote: None };
        let id = create(&there, &spec).unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(there.store(id)));
        let options = StoreOptions { cache_bytes: 0, moments: true, ..StoreOptions::default() };
        let store = OpenStore::open_with(dir, None, Keys::Plain, options).unwrap();
        let root = Root::new(tmp.path().join("here"));
        root.make().unwrap();
        let theirs = Local::new("file:///there").unwrap();
        let mut here = Self { tmp, id, root, theirs };
        let objects: Arc<dyn Objects> = Arc::new(here.objects());
        init(&*objects, &here.sealer(), 1).unwrap();
        let kept = here.kept_there();
        let (sealer, clock) = (here.sealer(), Arc::new(BootClock));
        let mut shipper = Shipper::take_up(objects, sealer, &kept, clock, &mut |_| true).unwrap();
        shipper.ship(&store).unwrap().unwrap();
        store.close().unwrap();
        here.theirs = kept.local();
        here
    }

    /// What the other host goes on with.
    fn kept_there(&self) -> Arc<Kept> {
        Arc::new(Kept::in_memory("there", self.theirs.clone()))
    }

    fn objects(&self) -> Directory {
        Directory::new(&self.tmp.path().join("objects"))
    }

    fn sealer(&self) -> RemoteSealer {
        RemoteSealer::new(self.id, &Keys::Plain, self.objects().place())
    }

    fn attach(&self, meanwhile: impl Fn() + Send + Sync + 'static) -> Result<(Vec<String>, Option<Claimed>)> {
        self.attach_when(true, (|| {}, meanwhile, || {}))
    }

    fn attach_when(
        &self,
        steal: bool,
        (first, meanwhile, looks): (
            impl Fn() + Send + Sync + 'static,
            impl Fn() + Send + Sync + 'static,
            impl Fn() + Send + Sync + 'static,
        ),
    ) -> Result<(Vec<String>, Option<Claimed>)> {
        let path = self.root.store(self.id);
        prepare(&path).unwrap();
        let mut held = Some(lock_store(&path, LOCK_PATIENCE).unwrap());
        let url = format!("file://{}", self.tmp.path().join("objects").display());
        let address = Address::of(&url, None).unwrap();
        let (inner, tries, meanwhile) = (self.objects(), AtomicU32::new(0), Box::new(meanwhile));
        let objects: Arc<dyn Objects> =
            Arc::new(Refusing { inner, tries, meanwhile, first: Box::new(first), looks: Box::new(looks) });
        let spec =
            AttachSpec { remote: &url, name: None, steal, accept_older: false, tuning: Tuning::default() };
        let of = ((&address, None), (&objects, &Keys::Plain));
        put_down(&self.root, (&path, self.id), &mut held, of.0, of.1, &spec, &mut Anybody)
    }

    fn log(&self) -> Log {
        Log::open(Arc::new(self.objects()), self.sealer(), Seen::Nothing).unwrap()
    }
}

/// It was removed here, and its claim stayed: nobody had the store.
#[test]
fn a_store_that_was_attached_and_cannot_be_let_go_of_stays_and_goes_on() {
    let here = Here::new();
    let (names, claimed) = here.attach(|| {}).unwrap();
    assert_eq!(names, ["v"]);
    assert!(claimed.is_some_and(|claimed| claimed.may_still_serve && claimed.from.is_some()));
    assert!(here.log().state().held.is_some());
    let path = here.root.store(here.id);
    let kept = Arc::new(Kept::new(&path, Local::read(&path).unwrap().unwrap()));
    let objects: Arc<dyn Objects> = Arc::new(here.objects());
    let (log, me) = take_up(objects, here.sealer(), &kept, &BootClock, &mut |_| true).unwrap();
    assert_eq!(log.state().held.as_ref().map(|held| held.by.id), Some(me.id));
}

/// The same, where the store cannot get its names after all.
#[test]
fn a_store_that_goes_again_is_not_claimed_by_anybody() {
    let here = Here::new();
    let link = here.root.link("v");
    let refused = here.attach(move || symlink("nowhere", &link).unwrap()).unwrap_err();
    assert_eq!(refused.exit, Exit::Exists);
    assert_eq!(here.log().state().held, None);
}

/// It was attached, and nothing was there.
#[test]
fn a_store_that_is_removed_while_it_is_claimed_is_not_attached() {
    let here = Here::new();
    let objects = here.objects();
    let removes = move || assert!(erase(&objects, &mut |_| {}).is_ok());
    let refused = here.attach_when(true, (removes, || {}, || {})).unwrap_err();
    assert_eq!(refused.exit, Exit::NoVolume);
    let objects: Arc<dyn Objects> = Arc::new(here.objects());
    assert!(remains(&objects).unwrap().is_none(), "something is left");
}

/// A process that was killed right after its claim kept the store from the host that had let go of it.
#[test]
fn an_attach_of_what_nobody_has_claims_nothing() {
    let here = Here::new();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let mut log = here.log();
    let owner = log.state().held.clone().unwrap().by;
    let says_goodbye = |log: &mut Log| {
        goodbye(log, &owner, &Permit::new(owner.lease, Arc::clone(&clock)), &*clock).unwrap();
    };
    says_goodbye(&mut log);
    // Whoever had it goes on while it is attached.
    let (dir, sealer, by) = (here.tmp.path().join("objects"), here.sealer(), owner.clone());
    let goes_on = move || {
        let objects = Arc::new(Directory::new(&dir));
        let mut log = Log::open(objects, sealer.clone(), Seen::Nothing).unwrap();
        claim(&mut log, &by, Steal::No, &BootClock, &mut |_| true).unwrap();
    };
    let refused = here.attach_when(false, (|| {}, || {}, goes_on)).unwrap_err();
    assert_eq!(refused.exit, Exit::Busy, "{refused}");
    std::fs::remove_dir_all(here.root.store(here.id)).unwrap();
    log.follow().unwrap();
    says_goodbye(&mut log);
    let (names, claimed) = here.attach_when(false, (|| {}, || {}, || {})).unwrap();
    assert_eq!((names, claimed), (vec!["v".to_owned()], None));
    assert_eq!(here.log().state(), log.state(), "something was written");
    // It is mounted here.
    let path = here.root.store(here.id);
    let kept = Arc::new(Kept::new(&path, Local::read(&path).unwrap().unwrap()));
    let objects: Arc<dyn Objects> = Arc::new(here.objects());
    let (log, me) = take_up(objects, here.sealer(), &kept, &BootClock, &mut |_| true).unwrap();
    assert_eq!(log.state().held.as_ref().map(|held| held.by.id), Some(me.id));
}

/// Killed between its claim and its goodbye, it kept the store from the host that had it for good.
#[test]
fn an_attach_that_was_killed_after_its_claim_keeps_the_store_from_nobody() {
    for attached_again in [false, true] {
        let here = Here::new();
        let owner = here.log().state().held.clone().unwrap().by;
        let killed = || here.attach(|| panic!("killed"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(killed)).is_err());
        let held = here.log().state().held.clone().unwrap();
        assert_ne!(held.by.id, owner.id, "it has claimed the store");
        if attached_again {
            std::fs::remove_dir_all(here.root.store(here.id)).unwrap();
            // Nobody has to say again that it is to be taken from somebody.
            let (names, claimed) = here.attach_when(false, (|| {}, || {}, || {})).unwrap();
            assert!(names == ["v"] && claimed.is_some_and(|claimed| claimed.record > held.record));
        }
        let objects: Arc<dyn Objects> = Arc::new(here.objects());
        let kept = here.kept_there();
        let (log, me) = take_up(objects, here.sealer(), &kept, &BootClock, &mut |_| true).unwrap();
        assert_eq!(log.state().held.as_ref().map(|held| held.by.id), Some(me.id));
    }
}

/// Who has mounted the store has it, also before anything was written.
#[test]
fn an_owner_that_was_killed_before_it_wrote_anything_keeps_the_store() {
    let here = Here::new();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let owner = Owner { id: OwnerId::random().unwrap(), host: "next".into(), lease: LeaseKind::None };
    let mut log = here.log();
    claim_to_attach(&mut log, &owner, Steal::Yes, &*clock, &mut |_| true).unwrap();
    let owner = Owner { id: OwnerId::random().unwrap(), ..owner };
    claim(&mut log, &owner, Steal::No, &*clock, &mut |_| true).unwrap();
    let objects: Arc<dyn Objects> = Arc::new(here.objects());
    let refused = take_up(objects, here.sealer(), &here.kept_there(), &BootClock, &mut |_| true).unwrap_err();
    assert!(matches!(refused, RemoteError::Fenced { .. }), "{refused}");
}
