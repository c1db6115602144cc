//! The trash: volumes that were removed, and are kept for a while.
//!
//! A removal moves the link that is the volume's name from `volumes/` to `trash/`, in one step, and leaves the store alone: that takes no
//! key, and nothing that is interrupted is half done. Beside the link, a file has what was remembered of the volume ([`Entry`]). It is
//! written before the link is moved, and removed after it is moved back; so one without a link means nothing (`settle`).
//!
//! States that a rollback replaced are in the trash as well ([`Replaced`]): they are snapshots, and stay where they are until they go.
//!
//! In its store, the volume keeps its name, until another volume of the family wants it: then, and when it comes back under another
//! name, it is renamed there (`rows`). The file notes a name before the volume gets it.

mod discard;
mod empty;
mod replaced;
mod restore;
mod rows;

pub use discard::kept_for;
pub(super) use discard::{discard, usual_period};
pub use empty::{Emptied, empty, is_wanting, tidy};
pub use replaced::{Fate, Replaced, Seen, disown, find as find_replaced};
pub(super) use replaced::{name_goes, not_renamed, note, rename_soon, renamed};
pub use restore::restore;
pub(super) use rows::{vacate, vacate_all};

use super::durable;
use super::record::{Record, place};
use super::users::Users;
use crate::backing::{Dir, OsDir};
use crate::exit_code::Exit;
use crate::root::{Root, name_of_trashed};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is remembered of a volume in the trash, in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name that it had.
    pub name: String,
    /// When it was removed, in seconds since 1970.
    pub removed: u64,
    /// And nanoseconds: of several that are removed in one second, one is the last.
    #[serde(default)]
    pub removed_ns: u32,
    /// When it goes for good, in seconds since 1970.
    pub until: u64,
    /// The names that it may have in its store; the one that it got last, or was to get, is the last.
    pub names: Vec<String>,
    /// Bytes that it used, if that was known.
    #[serde(default)]
    pub used: Option<u64>,
    /// Its snapshots, likewise.
    #[serde(default)]
    pub snapshots: Option<usize>,
    /// Its labels, likewise.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What was remembered of it as a volume for containers.
    #[serde(default)]
    pub record: Option<Record>,
    /// Its removal was interrupted before it was seen whether a snapshot of it is held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchecked: bool,
}

/// A volume in the trash.
#[derive(Clone, Debug)]
pub struct Trashed {
    /// What tells it from others that had the same name: `NAME~STAMP`.
    pub key: String,
    /// Its store.
    pub store: StoreId,
    /// What is remembered of it.
    pub entry: Entry,
}

/// What is in the trash.
#[derive(Clone, Debug)]
pub enum Item {
    /// A volume that was removed.
    Volume(Trashed),
    /// What a volume was before a rollback.
    State(Replaced),
}

impl Item {
    /// What tells it from everything else there.
    pub fn id(&self) -> String {
        match self {
            Self::Volume(of) => of.key.clone(),
            Self::State(of) => of.name(),
        }
    }

    /// The name of the volume.
    pub fn name(&self) -> &str {
        match self {
            Self::Volume(of) => &of.entry.name,
            Self::State(of) => &of.volume,
        }
    }

    /// Since when it is there, in seconds and nanoseconds since 1970.
    pub fn since(&self) -> (u64, u32) {
        match self {
            Self::Volume(of) => (of.entry.removed, of.entry.removed_ns),
            Self::State(of) => (of.replaced, 0),
        }
    }

    /// When it goes for good, in seconds since 1970.
    pub fn until(&self) -> u64 {
        match self {
            Self::Volume(of) => of.entry.until,
            Self::State(of) => of.until,
        }
    }

    /// Whether it is there: of a state, only the note may be left, or it is somebody's own now.
    pub fn is_there(&self, root: &Root) -> bool {
        match self {
            Self::Volume(_) => true,
            Self::State(of) => of.look(root).is_some(),
        }
    }

    fn is_expired(&self) -> bool {
        self.until() <= now().as_secs()
    }

    /// How many bytes come back when it goes, as far as that is known.
    fn space(&self, root: &Root) -> Option<u64> {
        match self {
            Self::Volume(of) => space_of(root, of),
            Self::State(of) => of.look(root)?.used,
        }
    }
}

/// All that is in the trash; what came there first comes first.
///
/// # Errors
/// As [`list`].
pub fn items(root: &Root) -> Result<Vec<Item>> {
    let states = replaced::of_volumes(root)?.into_iter().map(Item::State);
    let mut all: Vec<Item> = list(root)?.into_iter().map(Item::Volume).chain(states).collect();
    all.sort_by(|a, b| a.since().cmp(&b.since()).then_with(|| a.id().cmp(&b.id())));
    Ok(all)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn lock(root: &Root) -> Result<Flock<File>> {
    root.lock().map_err(|e| VolumeError::io(root.path(), &e))
}

/// What is in the trash; what was removed first comes first.
///
/// # Errors
/// As readdir(3). A file that cannot be read is passed over: the volume is there without it.
pub fn list(root: &Root) -> Result<Vec<Trashed>> {
    let keys = root.trashed().map_err(|e| VolumeError::io(&root.trash(), &e))?;
    let mut all: Vec<Trashed> = keys.into_iter().filter_map(|key| of_key(root, key)).collect();
    let when = |of: &Trashed| (of.entry.removed, of.entry.removed_ns);
    all.sort_by(|a, b| when(a).cmp(&when(b)).then_with(|| a.key.cmp(&b.key)));
    Ok(all)
}

fn of_key(root: &Root, key: String) -> Option<Trashed> {
    let store = root.resolve_trashed(&key).ok().flatten()?;
    let read = durable::read::<Entry>(&root.trash_entry(&key)).unwrap_or_else(|e| {
        log::warn!("{}: {e}", root.trash_entry(&key).display());
        None
    });
    let entry = read.or_else(|| found(root, &key))?;
    Some(Trashed { key, store, entry })
}

/// What can be told of a volume whose file is lost: it is kept for as long as is usual, since its link was moved.
fn found(root: &Root, key: &str) -> Option<Entry> {
    let name = name_of_trashed(key)?.to_owned();
    let moved = root.trash_link(key).symlink_metadata();
    let removed = moved.map_or(now().as_secs(), |meta| meta.ctime() as u64);
    let until = removed.saturating_add(usual_period().as_secs());
    Some(Entry {
        names: vec![name.clone(), key.to_owned()],
        name,
        removed,
        removed_ns: 0,
        until,
        used: None,
        snapshots: None,
        labels: BTreeMap::new(),
        record: None,
        unchecked: false,
    })
}

impl Trashed {
    fn keep(&self, root: &Root) -> Result<()> {
        durable::write(&root.trash_entry(&self.key), &self.entry)
    }

    /// What takes it away takes its file as well.
    fn forget(root: &Root, key: &str) -> Result<()> {
        durable::remove(&root.trash_entry(key))
    }
}

/// The volume that is meant: the one with this key, or of those that had this name, the one that was removed last.
///
/// # Errors
/// `NoVolume`, or the host's.
pub fn find(root: &Root, what: &str) -> Result<Trashed> {
    let all = list(root)?;
    let found = all.into_iter().rev().find(|of| of.key == what || of.entry.name == what);
    found.ok_or_else(|| {
        let what = format!("there is no volume {what:?} in the trash; `larder trash ls` lists what is there");
        VolumeError::new(Exit::NoVolume, what)
    })
}

/// There is no volume of that name: with where it is, if it was removed and is not gone yet.
pub fn no_volume(root: &Root, name: &str) -> VolumeError {
    let is_there = list(root).is_ok_and(|all| all.iter().any(|of| of.entry.name == name));
    if !is_there {
        return VolumeError::no_volume(name);
    }
    let what = format!(
        "there is no volume {name:?}; it was removed, and is in the trash: `larder trash restore {name}` brings it back"
    );
    VolumeError::new(Exit::NoVolume, what)
}

/// Clears away files of volumes that an interruption has kept from going with them.
///
/// # Errors
/// The host's.
pub fn sweep(root: &Root) -> Result<()> {
    replaced::sweep(root)?;
    let dir = root.trash();
    let files = durable::names(&dir).map_err(|e| VolumeError::io(&dir, &e))?;
    if files.iter().all(|key| matches!(root.resolve_trashed(key), Ok(Some(_)))) {
        return Ok(());
    }
    let _lock = lock(root)?;
    settle(root)
}

/// Clears away what an interruption has left: files of volumes that are not in the trash, and what was remembered of names whose volumes
/// are. The caller holds the root's lock.
fn settle(root: &Root) -> Result<()> {
    let dir = root.trash();
    durable::sweep(&dir);
    for key in durable::names(&dir).map_err(|e| VolumeError::io(&dir, &e))? {
        match of_key(root, key.clone()) {
            None => Trashed::forget(root, &key)?,
            Some(of) => forget_names(root, &of)?,
        }
    }
    Ok(())
}

/// Forgets what is remembered of a volume under the names that it has not any more.
fn forget_names(root: &Root, of: &Trashed) -> Result<()> {
    let names = of.entry.names.iter().filter(|name| crate::root::check_name(name).is_ok());
    for name in names {
        // Another volume of the family may have it now.
        let is_taken = matches!(root.resolve(name), Ok(Some(id)) if id == of.store);
        if !is_taken && Record::is_about(root, name, of.store) {
            Record::forget_stored(root, name)?;
        }
        if place(root, name)?.is_none() {
            Users::forget(root, name)?;
        }
    }
    Ok(())
}

/// How many bytes a store takes on the host's disk.
fn bytes_on_disk(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    bytes
}

/// How much a volume in the trash takes: on the host's disk if it has its store for itself, or else what it used, of which others of its
/// family may share a part. None if that is not known.
pub fn space_of(root: &Root, of: &Trashed) -> Option<u64> {
    let alone = root.links_to(of.store).is_ok_and(|links| links.len() == 1);
    if alone { Some(bytes_on_disk(&root.store(of.store))) } else { of.entry.used }
}

/// How much all of the trash takes, as far as it is known; what no other volume shares is counted once.
///
/// # Errors
/// As [`list`].
pub fn space(root: &Root) -> Result<u64> {
    let all = list(root)?;
    let live: BTreeSet<StoreId> = {
        let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
        names.iter().filter_map(|name| root.resolve(name).ok().flatten()).collect()
    };
    let stores: BTreeSet<StoreId> = all.iter().map(|of| of.store).filter(|id| !live.contains(id)).collect();
    let whole: u64 = stores.iter().map(|id| bytes_on_disk(&root.store(*id))).sum();
    let shared = all.iter().filter(|of| live.contains(&of.store)).filter_map(|of| of.entry.used);
    let states = replaced::of_volumes(root)?;
    let states = states.iter().filter_map(|of| of.look(root)?.used);
    Ok(whole + shared.sum::<u64>() + states.sum::<u64>())
}

/// The room of the file system that stores are on: free bytes, of how many.
fn host_space(root: &Root) -> io::Result<(u64, u64)> {
    // An administrator may have put them elsewhere.
    let space = OsDir::new(root.stores().canonicalize()?).host_space()?;
    Ok((space.available_bytes, space.total_bytes))
}
