//! What a holder leaves to the next one when systemd restarts its unit, by systemd's store of file descriptors
//! (<https://systemd.io/FILE_DESCRIPTOR_STORE/>).

use super::link::Kept;
use super::suspects::{Suspect, Suspects};
use super::{Held, watch};
use crate::fs::{Executed, ViewChange};
use crate::mount::{self, path_from_bytes};
use crate::root::Root;
use crate::store::{StoreId, StoreLock};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

const VERSION: u32 = 1;
const STATE: &str = "larder-state";
const LOCK: &str = "larder-lock";
const LISTENER: &str = "larder-listener";
const MOUNT: &str = "larder-mount-";

#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    /// The store that all this is of; earlier versions do not say.
    #[serde(default)]
    store: Option<String>,
    mounts: Vec<(Kept, Vec<ViewChange>)>,
    executed: Vec<Executed>,
    #[serde(default)]
    suspects: Vec<Suspect>,
    incarnation: u32,
}

/// What a holder before this one has left.
#[derive(Debug)]
pub struct Bequest {
    /// The store that it is of, if that is said.
    store: Option<String>,
    pub(super) lock: OwnedFd,
    pub(super) listener: Option<OwnedFd>,
    pub(super) mounts: BTreeMap<String, Held>,
    pub(super) executed: Vec<Executed>,
    pub(super) suspects: Suspects,
    pub(super) incarnation: u32,
    names: Vec<String>,
}

fn store(name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[file])
}

/// Leaves everything to the next holder.
///
/// # Errors
/// When systemd does not take it.
pub(super) fn leave(
    id: StoreId,
    lock: BorrowedFd<'_>,
    listener: Option<BorrowedFd<'_>>,
    mounts: &BTreeMap<String, Held>,
    (executed, suspects, incarnation): (&[Executed], &Suspects, u32),
) -> io::Result<()> {
    let state = State {
        version: VERSION,
        store: Some(id.to_string()),
        mounts: mounts.values().map(|held| (held.to_give(), held.views.clone())).collect(),
        executed: executed.to_vec(),
        suspects: suspects.all().to_vec(),
        incarnation,
    };
    let mut file = File::from(memfd_create(STATE, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&state)?)?;
    store(LOCK, lock)?;
    if let Some(listener) = listener {
        store(LISTENER, listener)?;
    }
    for (i, held) in mounts.values().enumerate() {
        store(&format!("{MOUNT}{i}"), held.device.as_fd())?;
    }
    // The last: with it, there is everything.
    store(STATE, file.as_fd())
}

impl Bequest {
    /// What systemd gives back, for a process that is to serve this store; `None` where there is nothing, not all of it, or that of
    /// another store: mounts that nobody can take over are dead then.
    #[expect(unsafe_code, reason = "descriptors from systemd come as bare numbers")]
    pub fn receive(root: &Root, id: StoreId) -> Option<Self> {
        let passed = sd_notify::listen_fds_with_names().ok()?;
        // SAFETY: systemd says in the environment that these descriptors are meant for this process, and nobody else takes
        // them.
        let files: BTreeMap<String, OwnedFd> =
            passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect();
        let names: Vec<String> = files.keys().filter(|name| name.starts_with("larder-")).cloned().collect();
        let bequest = Self::read(files, &names);
        if bequest.is_none() && !names.is_empty() {
            log::warn!("what the holder before this one has left cannot be used; its mounts are dead");
            Self::release(&names);
        }
        bequest?.of(root, id)
    }

    /// This, if it is of this store. What is of another one is given up: whoever takes its lock for this one's would write to this one
    /// beside its server.
    fn of(self, root: &Root, id: StoreId) -> Option<Self> {
        let is_of_it = self.store.as_ref().is_none_or(|store| *store == id.to_string());
        if is_of_it && StoreLock::is_of(self.lock.as_fd(), &root.store(id)).unwrap_or(false) {
            return Some(self);
        }
        log::error!(
            "what the holder before this one has left is of another store than the volume that is to be mounted; its mounts are \
             dead: {}",
            self.mounts.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        );
        Self::release(&self.names);
        let Self { lock, listener, mounts, .. } = self;
        drop((lock, listener));
        for (name, Held { kept, device, .. }) in mounts {
            watch::abort(&kept);
            drop(device);
            mount::mark_dead(&path_from_bytes(kept.dir), &name, kept.connection);
        }
        None
    }

    fn read(mut files: BTreeMap<String, OwnedFd>, names: &[String]) -> Option<Self> {
        let mut state = File::from(files.remove(STATE)?);
        let mut json = Vec::new();
        // The position is where the one that wrote it left it.
        state.rewind().and_then(|()| state.read_to_end(&mut json)).ok()?;
        let state: State =
            serde_json::from_slice(&json).ok().filter(|state: &State| state.version == VERSION)?;
        let mut mounts = BTreeMap::new();
        for (i, (kept, views)) in state.mounts.into_iter().enumerate() {
            let device = files.remove(&format!("{MOUNT}{i}"))?;
            mounts.insert(kept.volume.clone(), Held { kept, device, views, open_files: None });
        }
        let (lock, listener) = (files.remove(LOCK)?, files.remove(LISTENER));
        let State { store, executed, suspects, incarnation, .. } = state;
        let suspects = Suspects::new(suspects);
        let names = names.to_vec();
        Some(Self { store, lock, listener, mounts, executed, suspects, incarnation, names })
    }

    /// Lets systemd close what it has of this.
    pub(super) fn release(names: &[String]) {
        for name in names {
            let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
            if let Err(e) = sd_notify::notify(&state) {
                log::warn!("systemd's store of file descriptors: {e}");
            }
        }
    }

    /// The names of everything.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LockMode;

    /// The unit mounts another volume than before. Its lock would be taken for that of the other store, which somebody else may serve.
    #[test]
    fn what_was_left_is_not_taken_for_that_of_another_store() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        let [one, other] = [StoreId(1), StoreId(2)];
        for id in [one, other] {
            std::fs::create_dir_all(root.store(id)).unwrap();
        }
        let left = |said: Option<StoreId>| {
            let lock = StoreLock::try_acquire(&root.store(one), LockMode::Exclusive).unwrap().unwrap();
            Bequest {
                store: said.map(|id| id.to_string()),
                lock: lock.as_fd().try_clone_to_owned().unwrap(),
                listener: None,
                mounts: BTreeMap::new(),
                executed: Vec::new(),
                suspects: Suspects::default(),
                incarnation: 0,
                names: Vec::new(),
            }
        };
        for said in [None, Some(one)] {
            assert!(left(said).of(&root, one).is_some());
            assert!(left(said).of(&root, other).is_none(), "the lock is of another one");
        }
        assert!(left(Some(other)).of(&root, one).is_none());
        // What it had is let go of.
        assert!(StoreLock::try_acquire(&root.store(one), LockMode::Exclusive).unwrap().is_some());
    }
}
