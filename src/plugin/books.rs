//! The count of mounts by volume and mount ID, in memory and durable.
//!
//! Engines mount and unmount with an ID, more than once with the same (`docker cp` does, on a container that runs). Their own
//! counts are lost when they crash: no unmount comes then, but a mount with an old ID when the container starts again. That is
//! why a count has an *epoch*, a life of the engine: the first mount of an ID in a new epoch takes the place of what was counted
//! before, and does not add to it. The epoch changes with `/Plugin.Activate`, not with a restart of the plugin.

use crate::exit_code::Exit;
use crate::host::{Use, Users, boot_id, read_json, write_json};
use crate::root::{Root, check_name};
use crate::volume::{Result, VolumeError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Engines use 64 digits.
const ID_MAX: usize = 256;
/// More mounts of one volume are an error of whoever makes them.
const IDS_MAX: usize = 10_000;

/// What the plugin remembers of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    boot: String,
    epoch: u64,
}

/// All counts. Those of one volume are changed by one caller at a time, who holds the volume's lock.
pub(super) struct Books {
    root: Root,
    boot: String,
    epoch: Mutex<u64>,
    volumes: Mutex<HashMap<String, Users>>,
}

fn state_path(root: &Root) -> PathBuf {
    root.plugin().join("state.json")
}

impl Books {
    /// Reads what was counted since this boot of the host; what is older is forgotten.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn open(root: &Root) -> Result<Self> {
        let boot = boot_id()?;
        let path = state_path(root);
        let state = match read_json::<State>(&path) {
            Ok(state) => state.unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                log::error!("{}: {e}; starting afresh", path.display());
                State::default()
            }
            Err(e) => return Err(VolumeError::io(&path, &e)),
        };
        let rebooted = state.boot != boot;
        let epoch = if rebooted { state.epoch + 1 } else { state.epoch };
        let books = Self {
            root: root.clone(),
            boot: boot.clone(),
            epoch: Mutex::new(epoch),
            volumes: Mutex::default(),
        };
        for name in Users::volumes(root)? {
            if rebooted || check_name(&name).is_err() {
                Users::forget(root, &name)?;
                continue;
            }
            match Users::of(root, &name, &boot) {
                Ok(users) if users.ids.is_empty() => Users::forget(root, &name)?,
                Ok(users) => {
                    books.volumes.lock().insert(name, users);
                }
                // Written whole or not at all, so that this is somebody else's doing.
                Err(e) => {
                    log::error!(
                        "volume {name:?}: what was counted of its mounts cannot be read ({e}), and is forgotten"
                    );
                    Users::forget(root, &name)?;
                }
            }
        }
        if rebooted {
            write_json(&path, &State { boot, epoch })?;
        }
        Ok(books)
    }

    /// The engine has a new life.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn new_epoch(&self) -> Result<()> {
        let mut epoch = self.epoch.lock();
        write_json(&state_path(&self.root), &State { boot: self.boot.clone(), epoch: *epoch + 1 })?;
        *epoch += 1;
        Ok(())
    }

    fn users(&self, name: &str) -> Users {
        let known = self.volumes.lock().get(name).cloned();
        known.unwrap_or_else(|| Users { boot: self.boot.clone(), ids: BTreeMap::new() })
    }

    fn keep(&self, name: &str, users: Users) -> Result<()> {
        users.keep(&self.root, name)?;
        let mut volumes = self.volumes.lock();
        match users.ids.is_empty() {
            true => volumes.remove(name),
            false => volumes.insert(name.to_owned(), users),
        };
        Ok(())
    }

    /// Counts a mount; durable when this returns.
    ///
    /// # Errors
    /// An ID that is none, or the host's.
    pub(super) fn add(&self, name: &str, id: &str) -> Result<()> {
        if id.is_empty() || id.len() > ID_MAX || id.chars().any(char::is_control) {
            return Err(VolumeError::new(Exit::Usage, format!("{id:?} is not a mount ID")));
        }
        let epoch = *self.epoch.lock();
        let mut users = self.users(name);
        if users.ids.len() >= IDS_MAX && !users.ids.contains_key(id) {
            let what = format!("volume {name:?} is already mounted {IDS_MAX} times");
            return Err(VolumeError::new(Exit::Busy, what));
        }
        let of = users.ids.entry(id.to_owned()).or_insert(Use { count: 0, epoch });
        // What was counted in another life of the engine is not counted by it any more.
        let before = if of.epoch == epoch { of.count } else { 0 };
        *of = Use { count: before + 1, epoch };
        self.keep(name, users)
    }

    /// Counts an unmount; one that was never mounted changes nothing.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn subtract(&self, name: &str, id: &str) -> Result<()> {
        let mut users = self.users(name);
        let Some(of) = users.ids.get_mut(id) else { return Ok(()) };
        of.count = of.count.saturating_sub(1);
        if of.count == 0 {
            users.ids.remove(id);
        }
        self.keep(name, users)
    }

    /// Nobody uses the volume any more.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn clear(&self, name: &str) -> Result<()> {
        self.keep(name, Users { boot: self.boot.clone(), ids: BTreeMap::new() })
    }

    /// Whether anybody uses the volume.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.volumes.lock().contains_key(name)
    }

    /// The IDs that the engine, in its present life, has mounted.
    pub(super) fn current(&self, name: &str) -> Vec<String> {
        let epoch = *self.epoch.lock();
        let users = self.users(name);
        users.ids.into_iter().filter(|(_, of)| of.epoch == epoch).map(|(id, _)| id).collect()
    }

    /// How often each ID is mounted.
    pub(super) fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        self.users(name).ids.into_iter().map(|(id, of)| (id, of.count)).collect()
    }

    /// The volumes that somebody uses.
    pub(super) fn used(&self) -> Vec<String> {
        self.volumes.lock().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> (tempfile::TempDir, Root) {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        root.make().unwrap();
        (tmp, root)
    }

    #[test]
    fn counts_are_by_id_and_outlive_the_plugin() {
        let (_tmp, root) = books();
        let books = Books::open(&root).unwrap();
        books.add("v", "a").unwrap();
        books.add("v", "a").unwrap();
        books.add("v", "b").unwrap();
        drop(books);
        let books = Books::open(&root).unwrap();
        assert_eq!(books.counts("v"), BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
        books.subtract("v", "a").unwrap();
        books.subtract("v", "b").unwrap();
        books.subtract("v", "b").unwrap();
        books.subtract("v", "unknown").unwrap();
        assert_eq!(books.counts("v"), BTreeMap::from([("a".into(), 1)]));
        books.subtract("v", "a").unwrap();
        assert!(!books.is_used("v") && Users::volumes(&root).unwrap().is_empty());
    }

    #[test]
    fn a_new_life_of_the_engine_adopts_what_an_old_one_counted() {
        let (_tmp, root) = books();
        let books = Books::open(&root).unwrap();
        books.add("v", "a").unwrap();
        books.add("v", "a").unwrap();
        books.add("v", "b").unwrap();
        books.new_epoch().unwrap();
        assert_eq!(books.current("v"), Vec::<String>::new());
        // The engine crashed and starts the container again: it knows of one mount, however many there were.
        books.add("v", "a").unwrap();
        assert_eq!(books.counts("v"), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
        books.add("v", "a").unwrap();
        assert_eq!(books.counts("v")["a"], 2);
        // A container lived on over the restart: nothing but its unmount comes.
        books.subtract("v", "b").unwrap();
        assert_eq!(books.current("v"), ["a"]);
        // Not with a restart of the plugin alone.
        drop(books);
        let books = Books::open(&root).unwrap();
        books.add("v", "a").unwrap();
        assert_eq!(books.counts("v"), BTreeMap::from([("a".into(), 3)]));
    }

    #[test]
    fn nothing_is_mounted_after_a_boot() {
        let (_tmp, root) = books();
        Books::open(&root).unwrap().add("v", "a").unwrap();
        write_json(&state_path(&root), &State { boot: "another".into(), epoch: 7 }).unwrap();
        let books = Books::open(&root).unwrap();
        assert!(!books.is_used("v") && Users::volumes(&root).unwrap().is_empty());
        assert_eq!(*books.epoch.lock(), 8);
    }

    #[test]
    fn broken_files_are_put_right() {
        let (_tmp, root) = books();
        Books::open(&root).unwrap().add("v", "a").unwrap();
        std::fs::write(root.plugin().join("mounts/v.json"), b"{").unwrap();
        std::fs::write(state_path(&root), b"\0").unwrap();
        let books = Books::open(&root).unwrap();
        assert!(!books.is_used("v"));
        books.add("v", "a").unwrap();
        assert!(books.add("v", "").is_err() && books.add("v", &"x".repeat(300)).is_err());
    }
}
