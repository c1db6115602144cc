//! Runs a sequence on the file system and on the model, and compares.

use super::family::Family;
use super::history::History;
use super::operation::Operation;
use super::reference::{self, Node, Reference};
use super::view;
use crate::disk::{Disk, Survives};
use crate::encryption::epochs;
use crate::support::{pattern, scratch, volume_spec, wait_until};
use larder::backing::Dir;
use larder::crypto::{Keys, Secret};
use larder::fs::{
    Caller, Fs, FsError, FsOptions, Ino, Kind, NewNode, ROOT_INO, SetAttr, Wait, WriteMode, XattrFlags,
};
use larder::meta::{Inspector, VolumeId};
use larder::open_store::{Moment, OpenStore, StoreOptions};
use larder::remote::{ShipError, Shipped, Shipper};
use larder::root::Root;
use larder::store::{Elsewhere, Header, Sealer, Segments};
use larder::volume::check::{CheckOptions, check};
use larder::volume::{begin_reencryption_in, create_encrypted, unlock_keys};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// Another user than root, whose writes take privileges away.
const CALLER: Caller = Caller { uid: 1000, gid: 0, pid: u32::MAX };

struct Mounted {
    store: Arc<OpenStore>,
    fs: Fs,
}

pub struct Harness {
    disk: Disk,
    options: StoreOptions,
    mounted: Option<Mounted>,
    pub(super) family: Family,
    /// Inodes that the kernel knows, by the number of replies that named them.
    known: Vec<(Ino, u64)>,
    history: History,
    /// Where blocks are that are not on the disk.
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

fn name(number: u8) -> Vec<u8> {
    match number {
        0 => b"a".to_vec(),
        1 => b"name with spaces".to_vec(),
        2 => vec![0xff, 0xfe, b'\n'],
        3 => vec![b'x'; 255],
        n => format!("n{n}").into_bytes(),
    }
}

fn xattr_name(number: u8) -> Vec<u8> {
    format!("user.attribute{number}").into_bytes()
}

/// What the store logs is printed with a failure: an error's reason stands only there.
fn show_log() {
    let _ = env_logger::Builder::new().filter_level(log::LevelFilter::Warn).is_test(true).try_init();
}

/// Both must give the same value or the same error.
#[track_caller]
fn same<T: PartialEq + Debug>(
    what: &dyn Debug,
    found: Result<T, FsError>,
    expected: Result<T, FsError>,
) -> Option<T> {
    assert_eq!(found, expected, "{what:?}: the file system (left) and the model (right) disagree");
    found.ok()
}

/// What opens every encrypted store of these tests. A key file needs no key derivation that takes its time.
pub fn secret() -> Secret {
    Secret::KeyFile(b"the key file of tests that use an encrypted store".to_vec().into())
}

/// The keys of the store in `dir`, if it is encrypted: new ones each time, as a new process has them.
pub fn keys_of(dir: &dyn Dir) -> Result<Keys, String> {
    let header = Header::read(dir).map_err(|e| e.to_string())?;
    match header.keyring {
        Some(_) => unlock_keys(dir, &secret()).map_err(|e| e.to_string()),
        None => Ok(Keys::Plain),
    }
}

/// A disk with a new store on it.
pub fn new_disk(blocks: Option<u64>, inodes: Option<u64>) -> Disk {
    make_disk(blocks, inodes, &[])
}

/// A disk with a new encrypted store on it.
pub fn new_encrypted_disk(blocks: Option<u64>, inodes: Option<u64>) -> Disk {
    make_disk(blocks, inodes, &[secret()])
}

fn make_disk(blocks: Option<u64>, inodes: Option<u64>, secrets: &[Secret]) -> Disk {
    let tmp = scratch();
    let root = Root::new(tmp.path().join("root"));
    let id = create_encrypted(&root, &volume_spec(blocks, inodes), secrets).unwrap();
    Disk::copy_of(&root.store(id))
}

/// Commits come between any two operations, not only at syncs.
fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 64 * 1024,
        commit_interval: Duration::from_millis(20),
        ..StoreOptions::default()
    }
}

/// The closed store on `disk` must be sound.
#[track_caller]
pub fn check_disk(disk: &Disk) {
    check_partial_disk(disk, false);
}

/// The same; some of its blocks are elsewhere, if `is_partial`.
#[track_caller]
pub fn check_partial_disk(disk: &Disk, is_partial: bool) {
    let dir: Arc<dyn Dir> = Arc::new(disk.clone());
    let header = Header::read(&*dir).unwrap();
    let keys = keys_of(&*dir).unwrap();
    let mut inspector = Inspector::open_with(Arc::clone(&dir), header.store, &keys).unwrap();
    let segments = Segments::new(dir, header.store, Sealer::new(&keys), 0..0);
    segments.set_partial(is_partial);
    let options = CheckOptions { read_data: true, online: false };
    let report = check(&mut inspector, &segments, options, &mut |_| {}).unwrap();
    assert!(report.is_clean() && report.notes.is_empty(), "{report:#?}");
}

/// Mounts a volume of an open store.
fn mount(store: &Arc<OpenStore>, volume: VolumeId) -> Fs {
    // What a crash orphaned is freed in the background. A crash may also have come before the volume.
    wait_until("orphans are gone", || {
        store.meta().orphans(volume).is_ok_and(|left| left.is_empty()) || {
            store.meta().volumes().unwrap().iter().all(|row| row.id != volume)
        }
    });
    Fs::new(Arc::clone(store), volume, FsOptions::default())
}

/// Opens the store on `disk` and its first volume; nothing is committed that nobody asks for, and nothing is cached.
pub fn open_quietly(disk: &Disk) -> (Arc<OpenStore>, Fs) {
    let options = StoreOptions { cache_bytes: 0, commit_interval: Duration::from_secs(3600), ..options() };
    let keys = keys_of(disk).unwrap();
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys, options).unwrap();
    let volume = store.meta().volumes().unwrap()[0].id;
    let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
    (store, fs)
}

/// Waits until nothing is left of what was removed.
pub fn await_reclaim(store: &OpenStore) {
    wait_until("everything is reclaimed", || !store.meta().has_dead());
}

/// Opens the store on `disk`, as after a crash, and looks at it; it is closed and sound afterwards.
#[track_caller]
pub fn recover(disk: &Disk) -> view::View {
    let keys = keys_of(disk).unwrap();
    let store = OpenStore::open_with(Arc::new(disk.clone()), None, keys, options()).unwrap();
    let seen = view::of_store(&store);
    await_reclaim(&store);
    store.close().unwrap();
    check_disk(disk);
    seen
}

impl Harness {
    pub fn new(blocks: Option<u64>, inodes: Option<u64>) -> Self {
        Self::on(new_disk(blocks, inodes), blocks, inodes)
    }

    /// On an encrypted store, on a disk some of whose accesses take much longer than others.
    pub fn uneven() -> Self {
        Self::on(new_encrypted_disk(None, None).uneven(), None, None)
    }

    /// With a limit of metadata, in bytes.
    pub fn with_metadata(bytes: u64) -> Self {
        let mut harness = Self::new(None, None);
        harness.history.begin();
        harness.step(&Operation::Resize { blocks: None, inodes: None, metadata: Some(bytes) });
        harness.note();
        harness
    }

    /// On an encrypted store.
    pub fn encrypted(blocks: Option<u64>, inodes: Option<u64>) -> Self {
        Self::on(new_encrypted_disk(blocks, inodes), blocks, inodes)
    }

    /// On a disk with a new store of these limits.
    pub fn on(disk: Disk, blocks: Option<u64>, inodes: Option<u64>) -> Self {
        Self::with_options(disk, options(), blocks, inodes)
    }

    /// On a disk with a new store, which notes what changes for [`Harness::moment`].
    pub fn noting(disk: Disk) -> Self {
        Self::with_options(disk, StoreOptions { moments: true, ..options() }, None, None)
    }

    fn with_options(disk: Disk, options: StoreOptions, blocks: Option<u64>, inodes: Option<u64>) -> Self {
        show_log();
        let mut harness = Self {
            disk,
            options,
            mounted: None,
            family: Family::new(1, Reference::new(blocks, inodes)),
            known: Vec::new(),
            history: History::default(),
            elsewhere: None,
        };
        harness.history.restart(&harness.family);
        harness.open();
        harness
    }

    /// From now on, what is not on the disk is there.
    pub fn fetch_from(&mut self, elsewhere: Arc<dyn Elsewhere>) {
        self.store().segments().set_partial(true);
        self.store().segments().fetch_from(Arc::clone(&elsewhere));
        self.elsewhere = Some(elsewhere);
    }

    /// The states it goes through.
    pub fn history(&self) -> History {
        self.history.clone()
    }

    fn open(&mut self) {
        let keys = keys_of(&self.disk).unwrap();
        let options = StoreOptions { is_partial: self.elsewhere.is_some(), ..self.options.clone() };
        let store = OpenStore::open_with(Arc::new(self.disk.clone()), None, keys, options).unwrap();
        self.elsewhere.iter().for_each(|elsewhere| store.segments().fetch_from(Arc::clone(elsewhere)));
        self.mounted = Some(Mounted { fs: mount(&store, self.family.active), store });
    }

    /// Blocks that waited in memory before they went to their segment, since the store was opened last.
    pub fn waited_blocks(&self) -> u64 {
        self.store().segments().deferred_blocks()
    }

    /// A moment of the store, and what is to be seen in it.
    pub fn moment(&mut self, whole: bool) -> (Moment, view::View) {
        let point = self.history.current();
        let moment = self.store().moment(whole).unwrap();
        self.history.synced(point);
        (moment, view::of_family(&self.family))
    }

    /// Ships the store, and says what is to be seen in what is shipped.
    pub fn ship(&mut self, shipper: &mut Shipper) -> (view::View, Result<Option<Shipped>, ShipError>) {
        let point = self.history.current();
        // All of it counts, not only what is in a commit.
        self.store().commit_now().unwrap();
        self.history.synced(point);
        (view::of_family(&self.family), shipper.ship(self.store()))
    }

    /// The same as a sync does it that waits for the remote: what is shipped is durable before, and perhaps in no commit.
    pub fn ship_synced(&mut self, shipper: &mut Shipper) -> (view::View, Result<Option<Shipped>, ShipError>) {
        let point = self.history.current();
        let (send, receive) = std::sync::mpsc::channel();
        self.store().sync(Box::new(move |result| send.send(result).unwrap()));
        receive.recv().unwrap().unwrap();
        self.history.synced(point);
        (view::of_family(&self.family), shipper.ship_all(self.store()))
    }

    /// The keys of the store, as a new process has them.
    pub fn keys(&self) -> Keys {
        keys_of(&self.disk).unwrap()
    }

    /// Whether everything is sealed with the newest keys.
    pub fn is_reencrypted(&self) -> bool {
        self.store().reencryption().is_none()
    }

    /// Mounts the active volume in the open store.
    pub(super) fn mount(&mut self) {
        let mounted = self.mounted.as_mut().unwrap();
        mounted.fs = mount(&mounted.store, self.family.active);
    }

    /// Unmounts the active volume: the kernel forgets everything.
    pub(super) fn unmount(&mut self) {
        self.fs().forget_all();
        self.known.clear();
        self.family.model_mut().nodes.retain(|_, node| node.nlink > 0);
    }

    /// The model has changed, in the middle of a step.
    pub(super) fn note(&mut self) {
        self.history.note(&self.family);
        self.history.begin();
    }

    pub fn store(&self) -> &Arc<OpenStore> {
        &self.mounted.as_ref().unwrap().store
    }

    fn close(&mut self) {
        let mounted = self.mounted.take().unwrap();
        mounted.fs.forget_all();
        await_reclaim(&mounted.store);
        mounted.store.close().unwrap();
        self.forget_open_files();
        self.history.restart(&self.family);
    }

    /// What only open files kept alive is gone.
    fn forget_open_files(&mut self) {
        self.known.clear();
        self.family.forget_open_files();
    }

    /// The process is killed, and another one opens the store: everything is there.
    fn kill(&mut self) {
        let disk = self.disk.after_kill();
        self.abandon(disk);
        self.forget_open_files();
        self.open();
        self.compare_tree();
    }

    /// The power goes: a state since the last sync is there.
    fn lose_power(&mut self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let allowed = self.history.allowed();
        let disk = self.disk.after_power_loss(Survives::Some, &mut rng);
        self.abandon(disk);
        self.open();
        let point = self.history.find(allowed, &view::of_store(&self.mounted.as_ref().unwrap().store));
        self.family = self.history.model(point);
        self.mount();
        self.forget_open_files();
        self.history.restart(&self.family);
    }

    /// Goes on with another disk. What the store does at its end happens on the old one.
    fn abandon(&mut self, disk: Disk) {
        let mounted = self.mounted.take().unwrap();
        let _ = mounted.store.close();
        self.disk = disk;
    }

    fn fs(&self) -> &Fs {
        &self.mounted.as_ref().unwrap().fs
    }

    fn learn(&mut self, ino: Ino) {
        match self.known.iter_mut().find(|(known, _)| *known == ino) {
            Some((_, count)) => *count += 1,
            None => self.known.push((ino, 1)),
        }
    }

    /// The kernel only asks about inodes it knows.
    fn choose(&self, number: usize) -> Ino {
        match number % (self.known.len() + 1) {
            0 => ROOT_INO,
            n => self.known[n - 1].0,
        }
    }

    fn choose_dir(&self, number: usize) -> Ino {
        let dirs: Vec<Ino> = std::iter::once(ROOT_INO)
            .chain(
                self.known
                    .iter()
                    .map(|(ino, _)| *ino)
                    .filter(|ino| self.family.model().nodes[ino].kind == Kind::Directory),
            )
            .collect();
        // Now and then something that is none.
        if number == 63 { self.choose(number) } else { dirs[number % dirs.len()] }
    }

    fn choose_file(&self, number: usize) -> Ino {
        let regular = |ino: &Ino| self.family.model().nodes[ino].kind == Kind::Regular;
        let files: Vec<Ino> = self.known.iter().map(|(ino, _)| *ino).filter(regular).collect();
        if number == 63 || files.is_empty() { self.choose(number) } else { files[number % files.len()] }
    }

    /// An inode lost its last name: it goes at once if the kernel does not know it.
    fn orphaned(&mut self, orphan: Option<Ino>) {
        if let Some(ino) = orphan
            && !self.known.iter().any(|(known, _)| *known == ino)
        {
            self.family.model_mut().nodes.remove(&ino);
        }
    }

    pub fn run(mut self, operations: &[Operation]) {
        self.steps(operations);
        self.finish();
    }

    pub fn steps(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.history.begin();
            self.step(operation);
            self.history.note(&self.family);
            self.compare_usage(operation);
        }
    }

    /// Compares everything, closes the store, and looks at it once more.
    pub fn finish(mut self) {
        self.compare_tree();
        self.close();
        check_partial_disk(&self.disk, self.elsewhere.is_some());
        self.open();
        self.compare_tree();
        self.await_reencryption();
        self.compare_tree();
        self.close();
        check_partial_disk(&self.disk, self.elsewhere.is_some());
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Make { parent, name: n, kind, permissions } => {
                self.make(operation, self.choose_dir(*parent), &name(*n), *kind, *permissions);
            }
            Operation::MakeUnnamed { parent, permissions } => {
                let (parent, permissions) = (self.choose_dir(*parent), *permissions);
                let made = self.fs().make_unnamed(parent, permissions, 0o022, Caller::ROOT);
                let found = made.map(|attr| attr.ino);
                let ino = found.unwrap_or(0);
                let expected = self.family.model_mut().make_unnamed(parent, permissions & !0o022, ino);
                if let Some(ino) = same(operation, found, expected.map(|()| ino)) {
                    self.learn(ino);
                }
            }
            Operation::Link { ino, parent, name: n } => {
                let (ino, parent, name) = (self.choose(*ino), self.choose_dir(*parent), name(*n));
                let found = self.fs().link(ino, parent, &name).map(|attr| attr.ino);
                let expected = self.family.model_mut().link(ino, parent, &name).map(|()| ino);
                if let Some(ino) = same(operation, found, expected) {
                    self.learn(ino);
                }
            }
            Operation::Unlink { parent, name: n } => {
                let (parent, name) = (self.choose_dir(*parent), name(*n));
                let orphan = self.family.model_mut().unlink(parent, &name);
                same(operation, self.fs().unlink(parent, &name), orphan.map(|_| ()));
                self.orphaned(orphan.unwrap_or(None));
            }
            Operation::Rmdir { parent, name: n } => {
                let (parent, name) = (self.choose_dir(*parent), name(*n));
                let orphan = self.family.model_mut().rmdir(parent, &name);
                same(operation, self.fs().rmdir(parent, &name), orphan.map(|_| ()));
                self.orphaned(orphan.unwrap_or(None));
            }
            Operation::Rename { parent, name: n, new_parent, new_name, mode } => {
                let (from, to) = (self.choose_dir(*parent), self.choose_dir(*new_parent));
                let (old, new) = (name(*n), name(*new_name));
                let orphan = self.family.model_mut().rename((from, &old), (to, &new), *mode);
                same(operation, self.fs().rename((from, &old), (to, &new), *mode), orphan.map(|_| ()));
                self.orphaned(orphan.unwrap_or(None));
            }
            Operation::RenameWhiteout { parent, name: n, new_parent, new_name, no_replace } => {
                let (from, to) = (self.choose_dir(*parent), self.choose_dir(*new_parent));
                let (old, new) = (name(*n), name(*new_name));
                let (from, to) = ((from, &old[..]), (to, &new[..]));
                let ino = self.store().meta().next_ino();
                let orphan = self.family.model_mut().rename_leaving_whiteout(from, to, *no_replace, ino);
                let found = self.fs().rename_leaving_whiteout(from, to, *no_replace, Caller::ROOT);
                same(operation, found, orphan.map(|_| ()));
                self.orphaned(orphan.unwrap_or(None));
            }
            Operation::Lookup { parent, name: n } => {
                let (parent, name) = (self.choose_dir(*parent), name(*n));
                let found = self.fs().lookup(parent, &name).map(|attr| attr.ino);
                if let Some(ino) = same(operation, found, self.family.model().lookup(parent, &name)) {
                    self.learn(ino);
                }
            }
            Operation::Chmod { ino, permissions } => {
                let ino = self.choose(*ino);
                let set = SetAttr { permissions: Some(*permissions), ..SetAttr::default() };
                let found = self.fs().setattr(ino, &set, CALLER).map(|_| ());
                same(operation, found, self.family.model_mut().chmod(ino, *permissions));
            }
            Operation::Chown { ino, uid, gid } => {
                let ino = self.choose(*ino);
                let set = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
                let found = self.fs().setattr(ino, &set, CALLER).map(|_| ());
                same(operation, found, self.family.model_mut().chown(ino, *uid, *gid));
            }
            Operation::SetXattr { ino, name, len, create, replace } => {
                let (ino, name, value) = (self.choose(*ino), xattr_name(*name), pattern(*len, *len as u64));
                let flags = XattrFlags { create: *create, replace: *replace };
                let found = self.fs().setxattr(ino, &name, &value, flags, CALLER);
                same(
                    operation,
                    found,
                    self.family.model_mut().set_xattr(ino, &name, &value, *create, *replace),
                );
            }
            Operation::RemoveXattr { ino, name } => {
                let (ino, name) = (self.choose(*ino), xattr_name(*name));
                same(
                    operation,
                    self.fs().removexattr(ino, &name),
                    self.family.model_mut().remove_xattr(ino, &name),
                );
            }
            Operation::SetAcl { ino, permissions, extended } => {
                let (ino, acl) = (self.choose(*ino), reference::acl(*permissions, *extended));
                let flags = XattrFlags::default();
                same(
                    operation,
                    self.fs().setxattr(ino, reference::ACCESS_ACL, &acl, flags, CALLER),
                    self.family.model_mut().set_acl(ino, *permissions, *extended),
                );
            }
            Operation::SetFlags { ino, flags } => {
                let ino = self.choose(*ino);
                let found = self.fs().set_flags(ino, *flags);
                same(operation, found, self.family.model_mut().set_flags(ino, *flags));
            }
            Operation::Forget { ino } => {
                if self.known.is_empty() {
                    return;
                }
                let (ino, count) = self.known.swap_remove(ino % self.known.len());
                self.fs().forget(ino, count);
                if self.family.model().nodes[&ino].nlink == 0 {
                    self.family.model_mut().nodes.remove(&ino);
                }
            }
            Operation::Sync => self.sync(),
            Operation::Commit => {
                let point = self.history.current();
                self.mounted.as_ref().unwrap().store.commit_now().unwrap();
                self.history.synced(point);
            }
            Operation::Reopen => {
                self.close();
                self.open();
            }
            Operation::Kill => self.kill(),
            Operation::LosePower { seed } => self.lose_power(*seed),
            Operation::Snapshot { .. }
            | Operation::RemoveSnapshot { .. }
            | Operation::RenameSnapshot { .. }
            | Operation::RenameVolume { .. }
            | Operation::Hold { .. }
            | Operation::Release { .. }
            | Operation::SnapshotAll { .. }
            | Operation::Rollback { .. }
            | Operation::Clone { .. }
            | Operation::Switch { .. }
            | Operation::RemoveVolume { .. }
            | Operation::Resize { .. } => self.family_step(operation),
            Operation::Reencrypt { wait, new_master } => self.reencrypt(*wait, *new_master),
            content => self.content_step(content),
        }
    }

    fn reencrypt(&mut self, wait: bool, new_master: bool) {
        if !self.is_encrypted() {
            return;
        }
        // (Nothing but one process at a time changes the header here.)
        let new_master = new_master && self.store().reencryption().is_none();
        let begun = begin_reencryption_in(&self.disk, &secret(), new_master).unwrap();
        self.store().reencrypt(begun.keys).unwrap();
        if wait {
            self.await_reencryption();
        }
    }

    fn is_encrypted(&self) -> bool {
        Header::read(&self.disk).unwrap().keyring.is_some()
    }

    /// Waits until everything is sealed with the newest keys, and looks whether that is so.
    fn await_reencryption(&self) {
        wait_until("everything is sealed again", || match self.store().reencryption() {
            Some(state) => {
                assert_eq!(state.trouble, None);
                false
            }
            None => true,
        });
        if self.is_encrypted() {
            epochs::must_be_one(&self.disk);
        }
    }

    fn sync(&mut self) {
        let point = self.history.current();
        let (send, receive) = std::sync::mpsc::channel();
        self.fs().sync(Box::new(move |result| send.send(result).unwrap()));
        receive.recv().unwrap().unwrap();
        self.history.synced(point);
    }

    fn make(&mut self, what: &Operation, parent: Ino, name: &[u8], kind: Kind, permissions: u32) {
        let target: &[u8] = if kind == Kind::Symlink { b"some/target" } else { b"" };
        let rdev = if kind == Kind::CharDevice { 0x103 } else { 0 };
        let permissions = if kind == Kind::Symlink { 0o777 } else { permissions };
        let node = NewNode {
            kind,
            permissions,
            umask: 0o022,
            rdev,
            target: (kind == Kind::Symlink).then_some(target),
        };
        let found = self.fs().make(parent, name, &node, Caller::ROOT).map(|attr| attr.ino);
        let ino = found.unwrap_or(0);
        let masked = if kind == Kind::Symlink { permissions } else { permissions & !0o022 };
        let expected = self.family.model_mut().make(parent, name, kind, masked, target, ino).map(|()| ino);
        if let Some(ino) = same(what, found, expected) {
            self.learn(ino);
        }
    }

    fn content_step(&mut self, operation: &Operation) {
        match operation {
            Operation::Write { ino, offset, len, salt, may_be_short } => {
                let (ino, data) = (self.choose_file(*ino), pattern(*len, *salt));
                let mode =
                    WriteMode { killer: Some(CALLER), may_be_short: *may_be_short, ..WriteMode::default() };
                let found = self.fs().write(ino, *offset, &data, mode);
                same(operation, found, self.family.model_mut().write(ino, *offset, &data, *may_be_short));
            }
            Operation::Read { ino, offset, len } => {
                let ino = self.choose_file(*ino);
                let mut out = vec![0xee; *len];
                let found =
                    self.fs().read(ino, *offset, &mut out, Wait::Yes).map(|count| out[..count].to_vec());
                same(operation, found, self.family.model().read(ino, *offset, *len));
            }
            Operation::Truncate { ino, size } => {
                let ino = self.choose_file(*ino);
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                let found = self.fs().setattr(ino, &set, CALLER).map(|_| ());
                same(operation, found, self.family.model_mut().truncate(ino, *size));
            }
            Operation::Allocate { ino, offset, len, mode }
            | Operation::AllocateLong { ino, offset, len, mode } => {
                let ino = self.choose_file(*ino);
                let found = self.fs().allocate(ino, *offset, *len, *mode, CALLER);
                same(operation, found, self.family.model_mut().allocate(ino, *offset, *len, *mode));
            }
            Operation::Copy { source, from, target, to, len } => {
                let (source, target) = (self.choose_file(*source), self.choose_file(*target));
                self.copy(operation, (source, *from), (target, *to), *len);
            }
            Operation::Seek { ino, offset, target } => {
                let ino = self.choose_file(*ino);
                same(
                    operation,
                    self.fs().seek(ino, *offset, *target),
                    self.family.model().seek(ino, *offset, *target),
                );
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn copy(&mut self, what: &Operation, source: (Ino, u64), target: (Ino, u64), len: u64) {
        let mut done = 0;
        // As copy_file_range(2) is used: until nothing is left.
        loop {
            let (from, to) = ((source.0, source.1 + done), (target.0, target.1 + done));
            let regular = |ino| self.family.model().nodes[&ino].kind == Kind::Regular;
            let all_regular = regular(source.0) && regular(target.0);
            let forbidden = self.family.model().nodes[&target.0].flags.forbid();
            match self.fs().copy_range(from, to, len - done, CALLER) {
                Ok(count) => {
                    assert!(all_regular && !forbidden && count <= len - done, "{what:?}");
                    let left =
                        self.family.model().read(from.0, from.1, (len - done) as usize).unwrap().len() as u64;
                    assert_eq!(count == 0, left == 0, "{what:?}: copied {count} of {left} bytes");
                    if count == 0 {
                        return;
                    }
                    self.family.model_mut().copied(from, to, count).unwrap();
                    self.note();
                    done += count;
                    if done == len {
                        return;
                    }
                }
                Err(FsError::NotPermitted) if forbidden => return,
                Err(FsError::Invalid) if !all_regular => return,
                Err(FsError::IsDirectory) if !all_regular => return,
                // Ranges of one file that overlap.
                Err(FsError::Invalid) if source.0 == target.0 && from.1.abs_diff(to.1) < len - done => return,
                Err(FsError::NoSpace) if self.family.model().block_limit.is_some() => return,
                Err(e) => panic!("{what:?}: {e:?}"),
            }
        }
    }

    fn compare_usage(&self, after: &Operation) {
        let mounted = self.mounted.as_ref().unwrap();
        let (usage, _) = mounted.store.meta().usage(mounted.fs.volume()).unwrap();
        let model = self.family.model();
        let expected = (model.used_blocks(), model.nodes.len() as u64, model.used_metadata());
        assert_eq!((usage.blocks, usage.inodes, usage.metadata), expected, "usage after {after:?}");
    }

    /// Compares everything that can be reached by name.
    fn compare_tree(&self) {
        let mut pending = vec![ROOT_INO];
        while let Some(ino) = pending.pop() {
            let node = &self.family.model().nodes[&ino];
            self.compare_node(ino, node);
            if node.kind == Kind::Directory {
                pending.extend(self.compare_entries(ino, node));
            }
        }
    }

    fn compare_node(&self, ino: Ino, node: &Node) {
        let attr = self.fs().getattr(ino).unwrap();
        let size = match node.kind {
            Kind::Directory => node.entries.len(),
            Kind::Symlink => node.target.len(),
            _ => node.bytes.len(),
        };
        assert_eq!(
            (attr.kind, u32::from(attr.permissions), attr.uid, attr.gid, attr.nlink, attr.size, attr.blocks),
            (
                node.kind,
                node.permissions,
                node.uid,
                node.gid,
                node.nlink,
                size as u64,
                node.blocks.len() as u64 * 8
            ),
            "attributes of inode {ino}"
        );
        assert_eq!(self.fs().flags(ino).unwrap(), node.flags, "flags of inode {ino}");
        let mut names = Vec::new();
        for (name, value) in &node.xattrs {
            assert_eq!(&self.fs().getxattr(ino, name).unwrap(), value);
            names.extend_from_slice(name);
            names.push(0);
        }
        assert_eq!(self.fs().listxattr(ino, CALLER).unwrap(), names);
        match node.kind {
            Kind::Regular => {
                let mut bytes = vec![0xee; node.bytes.len() + 10];
                let count = self.fs().read(ino, 0, &mut bytes, Wait::Yes).unwrap();
                assert!(bytes[..count] == node.bytes, "contents of inode {ino}");
            }
            Kind::Symlink => assert_eq!(self.fs().readlink(ino).unwrap(), node.target),
            _ => {}
        }
    }

    /// Lists a directory in pieces, as the kernel does, and returns the inodes in it.
    fn compare_entries(&self, ino: Ino, node: &Node) -> Vec<Ino> {
        let mut cookie = 0;
        let mut found = BTreeSet::new();
        loop {
            let mut batch = Vec::new();
            self.fs()
                .readdir(ino, cookie, |entry| {
                    batch.push(entry.clone());
                    batch.len() < 3
                })
                .unwrap();
            let Some(last) = batch.last() else { break };
            cookie = last.cookie;
            for entry in batch {
                assert!(found.insert((entry.name.to_vec(), entry.ino)), "{:?} is listed twice", entry.name);
            }
        }
        let mut expected: BTreeSet<(Vec<u8>, Ino)> =
            node.entries.iter().map(|(n, i)| (n.clone(), *i)).collect();
        expected.insert((b".".to_vec(), ino));
        expected.insert((b"..".to_vec(), node.parent));
        assert_eq!(found, expected, "entries of directory {ino}");
        node.entries.values().copied().collect()
    }
}
