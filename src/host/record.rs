//! What is remembered of a volume beside what its store knows: how it was asked for, and so how it is mounted for containers.

use super::durable;
use super::options::VolumeOptions;
use super::secret::Secrets;
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError, made_at};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A volume as it was asked for, in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The store that it is about: a volume that got the same name later is another one. None for a volume in memory.
    pub store: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The options, as [`VolumeOptions::to_map`] writes them.
    pub options: BTreeMap<String, String>,
    /// Options that were not asked for, but are those of what the volume began as, or were usual on the host: where the secret is, whether it
    /// is sticky.
    #[serde(default)]
    pub inherited: BTreeMap<String, String>,
    /// Whether the volume was made through the driver, rather than by hand; none where an earlier version wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_driver: Option<bool>,
    /// Where `larder mount` mounts it if no directory is given. (A program that does not know it leaves it out when it changes the
    /// record.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<PathBuf>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A volume in a store.
    Store(StoreId),
    /// A volume that lives in memory only.
    Memory,
}

fn path(root: &Root, name: &str) -> PathBuf {
    root.plugin().join("volumes").join(format!("{name}.json"))
}

fn read(path: &Path) -> Result<Option<Record>> {
    durable::read(path)
        .map_err(|e| VolumeError::io(path, &e).context("what was recorded about the volume cannot be read"))
}

/// What a name stands for; `None` if for nothing.
///
/// # Errors
/// A bad name, or the host's.
pub fn place(root: &Root, name: &str) -> Result<Option<Place>> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    match root.resolve(name) {
        Ok(Some(id)) => Ok(Some(Place::Store(id))),
        Ok(None) if root.memory(name).exists() => Ok(Some(Place::Memory)),
        Ok(None) => Ok(None),
        Err(e) => Err(VolumeError::io(&root.link(name), &e)),
    }
}

/// The names of all volumes, those in memory too.
///
/// # Errors
/// As readdir(3).
pub fn names(root: &Root) -> Result<Vec<String>> {
    let mut names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    names.extend(memory_names(root)?);
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The names under which something is remembered of volumes in stores.
///
/// # Errors
/// As readdir(3).
pub(super) fn recorded(root: &Root) -> Result<Vec<String>> {
    let dir = root.plugin().join("volumes");
    durable::names(&dir).map_err(|e| VolumeError::io(&dir, &e))
}

/// The names of the volumes that live in memory only.
///
/// # Errors
/// As readdir(3).
pub fn memory_names(root: &Root) -> Result<Vec<String>> {
    let memory = root.memory("x").with_file_name("");
    let mut names = durable::names(&memory).map_err(|e| VolumeError::io(&memory, &e))?;
    names.retain(|name| check_name(name).is_ok());
    Ok(names)
}

impl Record {
    /// What is remembered of a volume; `None` if nothing is, because it was not made for containers.
    ///
    /// # Errors
    /// When it is about another store than the one that the name stands for now, or the host's.
    pub fn of(root: &Root, name: &str, place: Place) -> Result<Option<Self>> {
        match place {
            Place::Memory => read(&root.memory(name)),
            Place::Store(id) => {
                let path = path(root, name);
                match read(&path)? {
                    // Whoever can write to the disk could exchange a store, and be rid of what is remembered: that it is
                    // encrypted, that programs on it do not run.
                    Some(record) if record.is_of_another(id) => {
                        let other = record.store.unwrap_or_default();
                        let path = path.display();
                        Err(VolumeError::new(
                            Exit::Failure,
                            format!(
                                "volume {name:?} was made for containers in store {other}, but is store {id} now; if that is \
                                 intended, remove {path}"
                            ),
                        ))
                    }
                    record => Ok(record),
                }
            }
        }
    }

    /// Whether the volume was made through the driver. Of records that do not say so: the driver remembered a volume a moment before it
    /// made it, and whatever is said of one later, is said after it was made.
    pub fn is_by_driver(&self, root: &Root) -> bool {
        self.by_driver.unwrap_or_else(|| {
            let id = self.store.as_deref().map(str::parse);
            match id {
                None => true,
                _ if self.options.contains_key("from") => true,
                Some(Ok(id)) => made_at(root, id).is_ok_and(|made| self.created <= made),
                Some(Err(_)) => false,
            }
        })
    }

    /// Whether what is remembered under a name is about a store.
    pub(super) fn is_about(root: &Root, name: &str, id: StoreId) -> bool {
        matches!(read(&path(root, name)), Ok(Some(record)) if !record.is_of_another(id))
    }

    fn is_of_another(&self, id: StoreId) -> bool {
        self.store.as_deref() != Some(id.to_string().as_str())
    }

    /// Whether what is remembered under a name, of whatever store, says that it is encrypted.
    pub(super) fn wants_encryption(root: &Root, name: &str) -> Result<bool> {
        let record = read(&path(root, name))?;
        Ok(record.is_some_and(|record| {
            let mut keys = record.options.keys().chain(record.inherited.keys());
            keys.any(|key| key == "encrypt" || key.ends_with("-file"))
        }))
    }

    /// Forgets what an interruption left of an earlier volume that had the name of one that was just made.
    ///
    /// # Errors
    /// The host's.
    pub fn forget_earlier(root: &Root, name: &str, id: StoreId) -> Result<()> {
        let path = path(root, name);
        if !path.exists() {
            return Ok(());
        }
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        // It may have come and gone since, and what is remembered be another one's.
        if !matches!(root.resolve(name), Ok(Some(found)) if found == id) {
            return Ok(());
        }
        // What cannot be read is not of this one either.
        match read(&path) {
            Ok(Some(record)) if !record.is_of_another(id) => Ok(()),
            Ok(None) => Ok(()),
            _ => durable::remove(&path),
        }
    }

    /// Remembers this of a volume in store `id`, if it still has the name.
    ///
    /// # Errors
    /// The host's.
    pub fn keep_if_there(self, root: &Root, name: &str, id: StoreId) -> Result<()> {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        match root.resolve(name) {
            Ok(Some(found)) if found == id => Self { store: Some(id.to_string()), ..self }.keep(root, name),
            _ => Ok(()),
        }
    }

    /// Remembers this of a volume. The caller holds the root's lock, which keeps others from doing the same.
    ///
    /// # Errors
    /// The host's.
    pub fn keep(&self, root: &Root, name: &str) -> Result<()> {
        let path = if self.store.is_some() { path(root, name) } else { root.memory(name) };
        durable::write(&path, self)
    }

    /// Forgets what is remembered of a volume in a store under a name. The caller holds the root's lock.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn forget_stored(root: &Root, name: &str) -> Result<()> {
        durable::remove(&path(root, name))
    }

    /// The same, if it is about store `id`: the name may be another volume's by now.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn forget_about(root: &Root, name: &str, id: StoreId) -> Result<()> {
        if Self::is_about(root, name, id) { Self::forget_stored(root, name) } else { Ok(()) }
    }

    /// Removes a volume in memory, which is what is remembered of it. The caller holds the root's lock.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn forget_in_memory(root: &Root, name: &str) -> Result<()> {
        durable::remove(&root.memory(name))
    }

    /// Whether the volume is refused to be removed.
    pub fn is_sticky(&self) -> bool {
        let sticky = self.options.get("sticky").or_else(|| self.inherited.get("sticky"));
        sticky.is_some_and(|value| value != "false")
    }

    /// The options.
    ///
    /// # Errors
    /// When a later version wrote them.
    pub fn options(&self) -> Result<VolumeOptions> {
        let mut options = self.inherited.clone();
        options.extend(self.options.clone());
        VolumeOptions::parse(&options).map_err(|e| {
            VolumeError::new(Exit::NewerFormat, format!("what was recorded about the volume: {e}"))
        })
    }
}

/// The options that a volume was asked for with; the usual ones if nothing is remembered of it.
///
/// # Errors
/// The host's.
pub fn options_of(root: &Root, name: &str, place: Place) -> Result<VolumeOptions> {
    Record::of(root, name, place)?.map_or_else(|| Ok(VolumeOptions::default()), |record| record.options())
}

/// Where the secret of a volume is, as far as is remembered.
pub fn secrets_of(options: &VolumeOptions) -> Secrets {
    Secrets {
        key_file: options.key_file.clone(),
        passphrase_file: options.passphrase_file.clone(),
        ..Secrets::default()
    }
}

/// What opens the store of the volume `name`, as far as is remembered: for whoever looks at all volumes, and asks nobody.
///
/// # Errors
/// As [`options_of`].
pub fn remembered_secrets(root: &Root, name: &str, id: StoreId) -> Result<Secrets> {
    options_of(root, name, Place::Store(id)).map(|options| secrets_of(&options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn record(store: StoreId) -> Record {
        Record { store: Some(store.to_string()), created: 1, ..Record::default() }
    }

    #[test]
    fn what_is_remembered_of_another_volume_of_that_name_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        root.make().unwrap();
        let (mine, other) = (StoreId(7), StoreId(8));
        record(other).keep(&root, "v").unwrap();
        let in_memory = Record { created: 1, ..Record::default() };
        in_memory.keep(&root, "v").unwrap();
        Record::forget_about(&root, "v", mine).unwrap();
        Record::forget_earlier(&root, "v", mine).unwrap();
        record(mine).keep_if_there(&root, "v", mine).unwrap();
        assert_eq!(Record::of(&root, "v", Place::Store(other)).unwrap(), Some(record(other)));
        Record::forget_about(&root, "v", other).unwrap();
        assert_eq!(Record::of(&root, "v", Place::Store(other)).unwrap(), None);
        // A volume in memory is what is remembered of it, and is nobody else's affair.
        assert_eq!(Record::of(&root, "v", Place::Memory).unwrap(), Some(in_memory));
        symlink(Root::link_target(mine), root.link("v")).unwrap();
        record(mine).keep_if_there(&root, "v", mine).unwrap();
        assert_eq!(Record::of(&root, "v", Place::Store(mine)).unwrap(), Some(record(mine)));
    }
}
