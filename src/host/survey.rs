//! Looking at volumes, with what is around them.

use super::common::{Common, Detail};
use super::containers::Containers;
use super::footprint::footprint;
use super::inspection::{Around, Inspection};
use super::look::{Look, Looker};
use super::own_mounts::{connections, dead_among, device_of};
use super::record::{Place, Record, place, recorded, secrets_of};
use super::secret::Secrets;
use super::side_by_side::each_in;
use super::trash::no_volume;
use super::users::{Users, boot_id, users_in};
use crate::backing::{Dir, OsDir};
use crate::mount::{self, MEMORY_FS_TYPE, MountEntry};
use crate::root::Root;
use crate::server::Status;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

/// Looks at volumes of a root. What is the same for all is found out once.
#[derive(Debug)]
pub struct Survey<'a> {
    root: &'a Root,
    looker: Looker<'a>,
    asks_engines: bool,
    names: OnceLock<Names>,
    listed: OnceLock<Listed>,
    footprints: Mutex<HashMap<StoreId, Option<u64>>>,
    host_available: Option<u64>,
    mounted: Vec<MountEntry>,
    /// Those of `mounted` that are of volumes and snapshots, by the names that they are mounted under.
    by_name: HashMap<String, Vec<MountEntry>>,
    /// The connections of what is mounted, by the name of the volume that it is of.
    seen: HashMap<String, Vec<u32>>,
    common: Common,
    containers: OnceLock<Containers>,
    boot: Option<String>,
}

/// Which stores the names of volumes stand for.
#[derive(Debug, Default)]
struct Names {
    stores: HashMap<String, StoreId>,
    families: HashMap<StoreId, Vec<String>>,
}

/// What is kept of which volumes: a look into each directory tells as much as one for each volume.
#[derive(Debug, Default)]
struct Listed {
    /// None: it cannot be listed.
    records: Option<HashSet<String>>,
    users: Option<HashSet<String>>,
}

impl Listed {
    fn of(root: &Root) -> Self {
        let set = |names: Result<Vec<String>>| Some(names.ok()?.into_iter().collect());
        Self { records: set(recorded(root)), users: set(Users::volumes(root)) }
    }
}

/// With what a volume is opened that is encrypted and that no server has open.
#[derive(Clone, Copy, Debug)]
pub enum Opening<'a> {
    /// With this, or by whoever is at the terminal.
    With(&'a Secrets),
    /// With its key file, if it is remembered where that is. (A passphrase would take half a second.)
    Remembered,
}

impl<'a> Survey<'a> {
    /// One that has seen nothing yet. `asks_engines` for the names of containers: whoever is not asked by one of them may.
    pub fn new(root: &'a Root, asks_engines: bool) -> Self {
        let mounted = mount::entries().unwrap_or_default();
        let mut seen: HashMap<String, Vec<u32>> = HashMap::new();
        let mut by_name: HashMap<String, Vec<MountEntry>> = HashMap::new();
        for entry in &mounted {
            if let Some(name) = entry.volume() {
                by_name.entry(name.to_owned()).or_default().push(entry.clone());
            }
            if let (Some(name), Some(number)) = (entry.volume(), entry.connection()) {
                seen.entry(volume_of(name).to_owned()).or_default().push(number);
            }
        }
        Self {
            root,
            looker: Looker::new(root),
            asks_engines,
            names: OnceLock::new(),
            listed: OnceLock::new(),
            footprints: Mutex::default(),
            host_available: OsDir::new(root.path()).host_space().ok().map(|space| space.available_bytes),
            mounted,
            by_name,
            seen,
            common: Common::new(asks_engines),
            containers: OnceLock::new(),
            boot: boot_id().ok(),
        }
    }

    /// The same, that waits for a server for `patience` at most.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { looker: self.looker.within(patience), ..self }
    }

    /// The same, that looks at no more than this.
    #[must_use]
    pub fn showing(mut self, detail: Detail) -> Self {
        self.common.detail = detail;
        self
    }

    /// What is known of each of these volumes, of which encrypted ones are opened as [`Opening::Remembered`] says.
    pub fn volumes(&self, names: &[String]) -> Vec<Result<(Inspection, Option<VolumeError>)>> {
        let store_of = |name: &str| self.names().stores.get(name).copied();
        if names.len() > 1 {
            self.listed.get_or_init(|| Listed::of(self.root));
        }
        each_in(names, store_of, |name| match store_of(name) {
            Some(id) => self.at(name, Place::Store(id), Opening::Remembered),
            None => self.volume(name, Opening::Remembered),
        })
    }

    /// What is known of a volume. One that cannot be looked into is known by what is around it, with the reason.
    ///
    /// # Errors
    /// `NoVolume`, also when a name is all that an interruption left, or a bad name.
    pub fn volume(&self, name: &str, opening: Opening<'_>) -> Result<(Inspection, Option<VolumeError>)> {
        let place = place(self.root, name)?.ok_or_else(|| no_volume(self.root, name))?;
        self.at(name, place, opening)
    }

    /// The same, of what a name stood for a moment ago.
    fn at(
        &self,
        name: &str,
        place: Place,
        opening: Opening<'_>,
    ) -> Result<(Inspection, Option<VolumeError>)> {
        let has_record = matches!(place, Place::Memory) || self.may_have(name, |listed| &listed.records);
        let record = if has_record { Record::of(self.root, name, place) } else { Ok(None) };
        let Place::Store(id) = place else {
            let record = record?.ok_or_else(|| VolumeError::no_volume(name))?;
            return self.in_memory(name, record).map(|found| (found, None));
        };
        let looked = self.look(id, name, record.as_ref().ok().and_then(|record| record.as_ref()), opening);
        match looked {
            Err(e) if e.exit == crate::exit_code::Exit::NoVolume => Err(e),
            looked => {
                let (record, doubt) = match record {
                    Ok(record) => (record, None),
                    Err(e) => (None, Some(e)),
                };
                let status = looked.as_ref().ok().and_then(|look| look.status.as_deref());
                let mut around = self.around(name, id, status);
                around.record = record;
                // Whose server does not answer may have mounts that work.
                if !matches!(&looked, Err(e) if e.silent) {
                    let mounted = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
                    let dead = dead_among(mounted, name, status, || self.common.made(self.root, id));
                    around.dead_mounts = dead.into_iter().map(|entry| entry.dir).collect();
                }
                let (root, common) = (self.root, &self.common);
                let found =
                    looked.and_then(|look| Inspection::of_look((root, place), look, around.clone(), common));
                Ok(match found {
                    Ok(found) => (found, doubt),
                    Err(e) => (Inspection::unseen((root, name, place), &e, around, common), Some(e)),
                })
            }
        }
    }

    /// Whether something is kept of a volume, as far as is known.
    fn may_have(&self, name: &str, what: impl Fn(&Listed) -> &Option<HashSet<String>>) -> bool {
        self.listed.get().and_then(|listed| what(listed).as_ref()).is_none_or(|names| names.contains(name))
    }

    fn users(&self, name: &str) -> BTreeMap<String, u64> {
        let boot = self.boot.as_deref().filter(|_| self.may_have(name, |listed| &listed.users));
        boot.map(|boot| users_in(self.root, name, boot)).unwrap_or_default()
    }

    fn look(&self, id: StoreId, name: &str, record: Option<&Record>, opening: Opening<'_>) -> Result<Look> {
        match opening {
            Opening::With(secret) => self.looker.look_in(id, name, Some(secret)),
            Opening::Remembered => {
                let options = record.and_then(|record| record.options().ok());
                let remembered = options.map(|options| secrets_of(&options));
                // Given to a plain one, it would be refused.
                let remembered = remembered.filter(|secret| secret.key_file.is_some());
                self.looker.look_in(id, name, remembered.as_ref())
            }
        }
    }

    fn in_memory(&self, name: &str, record: Record) -> Result<Inspection> {
        let dir = self.root.mountpoints().join(name);
        let dir = mount::resolve(&dir).unwrap_or(dir);
        let entry = self.mounted.iter().rev().find(|entry| entry.dir == dir);
        let entry = entry.filter(|entry| entry.fs_type == MEMORY_FS_TYPE);
        let users = self.users(name);
        let used_by = match entry {
            Some(entry) => self.containers().with(name, std::slice::from_ref(&entry.device)),
            None => Vec::new(),
        };
        Inspection::of_memory(name, record, entry, Around { users, used_by, ..Around::default() })
    }

    fn around(&self, name: &str, id: StoreId, status: Option<&Status>) -> Around {
        let root = self.root;
        let served =
            status.is_some_and(|status| status.mounts.iter().any(|mount| volume_of(&mount.volume) == name));
        let users = self.users(name);
        let known = || connections(&self.common.made(root, id), name, status);
        // Noted mounts may have ended unseen.
        let is_seen = || {
            let seen = self.seen.get(name);
            seen.is_some_and(|seen| {
                let known = known();
                seen.iter().any(|number| known.contains(number))
            })
        };
        let is_mounted = served || !users.is_empty() || is_seen();
        let used_by = match is_mounted.then(|| self.containers()) {
            Some(containers) if containers.has_some_with(name) => {
                let devices: Vec<String> = known().iter().map(|number| device_of(*number)).collect();
                containers.with(name, &devices)
            }
            _ => Vec::new(),
        };
        Around {
            record: None,
            users,
            used_by,
            family: self.names().families.get(&id).cloned().unwrap_or_else(|| vec![name.to_owned()]),
            disk_used: self.footprint(id),
            host_available: self.host_available,
            dead_mounts: Vec::new(),
        }
    }

    /// What a store occupies on the disk, if that is shown.
    fn footprint(&self, id: StoreId) -> Option<u64> {
        if self.common.detail == Detail::Usage {
            return None;
        }
        let known = self.footprints.lock().get(&id).copied();
        known.unwrap_or_else(|| {
            let found = footprint(&self.root.store(id)).ok();
            self.footprints.lock().insert(id, found);
            found
        })
    }

    /// All names, and what they stand for.
    fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::of(self.root))
    }

    /// Who has what mounted; found out when it is first needed.
    fn containers(&self) -> &Containers {
        self.containers.get_or_init(|| Containers::now(self.asks_engines))
    }
}

/// The volume that is mounted, or that a snapshot is of which is.
fn volume_of(mounted: &str) -> &str {
    mounted.split('@').next().unwrap_or_default()
}

impl Names {
    fn of(root: &Root) -> Self {
        let mut names = Self::default();
        for name in root.names().unwrap_or_default() {
            if let Ok(Some(id)) = root.resolve(&name) {
                names.families.entry(id).or_default().push(name.clone());
                names.stores.insert(name, id);
            }
        }
        names
    }
}
