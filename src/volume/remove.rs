//! Removing volumes.

use super::clone::{are_others, sync_parent};
use super::create::UNNAMED;
use super::error::{Result, VolumeError};
use crate::backing::{Dir, OpenMode, OsDir};
use crate::exit_code::Exit;
use crate::root::{Root, check_name};
use crate::store::{HEADER_NAME, LOCK_NAME, LockMode, SEGMENT_DIR, StoreId, StoreLock};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long whoever makes or moves names is waited for by who only looks.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(5);

/// Removes the volume of store `id` and all of its data, if it has the store for itself and `may_go` says so, which nobody can change
/// meanwhile: it is called with the store's lock held. `progress` is told of each file that goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use, as `may_go`, or the host's.
pub fn remove(
    root: &Root,
    (id, name): (StoreId, &str),
    may_go: impl FnOnce(&StoreLock) -> Result<()>,
    progress: impl Fn(u64, u64),
) -> Result<Removed> {
    check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    if !root.path().exists() {
        return Err(VolumeError::no_volume(name));
    }
    let found = || Ok(root.resolve(name)?.filter(|found| *found == id));
    remove_linked(root, (&root.link(name), name), found, may_go, progress)
}

/// The same with a volume in the trash. Where no store at all is to be seen, the disk that they are on may only not be mounted: then it stays,
/// unless `is_lost` says that its store is gone for good.
///
/// # Errors
/// `NoVolume` if it is not there any more, or as [`remove`].
pub fn remove_trashed(root: &Root, key: &str, is_lost: bool, progress: impl Fn(u64, u64)) -> Result<Removed> {
    if let Ok(Some(id)) = root.resolve_trashed(key)
        && !is_lost
        && !root.store(id).exists()
        && root.hides_stores()
    {
        let what = format!(
            "its store is not there, nor is any other in {}; mount the disk that they are on; if the store is lost, \
             `larder trash empty --lost {key}` gives it up",
            root.stores().display()
        );
        return Err(VolumeError::new(Exit::Damaged, what));
    }
    remove_linked(root, (&root.trash_link(key), key), || root.resolve_trashed(key), |_| Ok(()), progress)
}

fn remove_linked(
    root: &Root,
    (link, name): (&Path, &str),
    id: impl FnOnce() -> io::Result<Option<StoreId>>,
    may_go: impl FnOnce(&StoreLock) -> Result<()>,
    progress: impl Fn(u64, u64),
) -> Result<Removed> {
    let (path, _store_lock) = {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        sweep(root);
        let id = match id() {
            Ok(Some(id)) => id,
            Ok(None) => return Err(VolumeError::no_volume(name)),
            Err(e) => return Err(VolumeError::io(link, &e)),
        };
        let path = root.store(id);
        let are_others = are_others(root, link, id)?;
        if !path.try_exists().map_err(|e| VolumeError::io(&path, &e))? {
            // The name of a store that somebody took away by hand, whoever else has a name for it.
            fs::remove_file(link).map_err(|e| VolumeError::io(link, &e))?;
            if !are_others {
                remove_beside(root, id);
            }
            return Ok(Removed::Done);
        }
        if are_others {
            // The caller lets the store itself remove it.
            return Ok(Removed::Shared);
        }
        let lock = match StoreLock::try_acquire(&path, LockMode::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Err(in_use(name));
            }
            Err(e) => return Err(VolumeError::io(&path, &e)),
        };
        may_go(&lock)?;
        mark_unnamed(&path)?;
        fs::remove_file(link).map_err(|e| VolumeError::io(link, &e))?;
        let _ = sync_parent(link);
        remove_beside(root, id);
        (path, lock)
    };
    erase(root, &path, progress).map(|()| Removed::Done)
}

/// Removes a store without a name, whose lock the caller has.
pub(super) fn erase(root: &Root, path: &Path, progress: impl Fn(u64, u64)) -> Result<()> {
    let failed = |(path, e): (PathBuf, io::Error)| VolumeError::io(&path, &e);
    remove_data(path, progress).map_err(failed)?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    remove_rest(path).map_err(failed)
}

/// Removes what is about a store and lies beside it.
fn remove_beside(root: &Root, id: StoreId) {
    for file in root.beside(id) {
        let _ = fs::remove_file(file);
    }
}

/// A volume cannot go while somebody has it.
pub(super) fn in_use(name: &str) -> VolumeError {
    VolumeError::new(
        Exit::Busy,
        format!("volume {name:?} is in use; unmount it first with `larder umount {name}`"),
    )
}

/// Marks the store in directory `path` as one that may be swept away. Whatever else has the name of the marker marks as well.
pub(super) fn mark_unnamed(path: &Path) -> Result<()> {
    let dir = OsDir::new(path);
    if !dir.exists(UNNAMED).map_err(|e| VolumeError::io(path, &e))? {
        dir.open(UNNAMED, OpenMode::CreateNew).map_err(|e| VolumeError::io(&path.join(UNNAMED), &e))?;
    }
    Ok(())
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The volume is gone, with its store.
    Done,
    /// Nothing was done: other volumes live in the same store, and the volume has to be removed from it.
    Shared,
}

/// Removes what a store holds, but not its lock, which keeps others away while this goes on, nor its marker: what is left
/// after an interruption is swept away later. Nothing outside of the store is touched, whatever links there are in it.
fn remove_data(path: &Path, progress: impl Fn(u64, u64)) -> Result<(), (PathBuf, io::Error)> {
    let dir = OsDir::new(path);
    let mut names = dir.list("").map_err(|e| (path.to_owned(), e))?;
    names.retain(|name| name != LOCK_NAME && name != UNNAMED && name != SEGMENT_DIR);
    // A link in the place of the directory, say, goes with the rest.
    let segments = dir.list(SEGMENT_DIR).unwrap_or_default();
    let total = (names.len() + segments.len()) as u64;
    let segments = segments.iter().map(|name| format!("{SEGMENT_DIR}/{name}"));
    for (done, name) in segments.chain(names).enumerate() {
        dir.remove_tree(&name).map_err(|e| (dir.path(&name), e))?;
        progress(done as u64 + 1, total);
    }
    dir.remove_tree(SEGMENT_DIR).map_err(|e| (dir.path(SEGMENT_DIR), e))
}

/// Removes the rest of a store. Who finds no lock file makes one: so the caller holds the root's lock, as all do that
/// look for what is left over.
fn remove_rest(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let dir = OsDir::new(path);
    for name in [LOCK_NAME, UNNAMED] {
        dir.remove_tree(name).map_err(|e| (dir.path(name), e))?;
    }
    fs::remove_dir(path).map_err(|e| (path.to_owned(), e))
}

/// The stores that have names, those in the trash too, if that can be found out. A link that is moved between two looks is not missed:
/// names are looked at before those in the trash, for what goes there, and after them, for what comes back.
fn named(root: &Root) -> Option<HashSet<StoreId>> {
    let live = || {
        let names = root.names().ok()?;
        Some(names.into_iter().filter_map(|name| root.resolve(&name).ok().flatten()).collect::<Vec<_>>())
    };
    let mut named: HashSet<_> = live()?.into_iter().collect();
    let trashed = root.trashed().ok()?;
    named.extend(trashed.iter().filter_map(|key| root.resolve_trashed(key).ok().flatten()));
    named.extend(live()?);
    Some(named)
}

/// The stores that no volume names, and that nobody is making or removing: names were given up while their disk was away, say. A volume that
/// is just being renamed, removed or restored keeps a name all the time, but whoever lists names may not see it: so what seems to have none
/// is looked at again while nobody makes or moves names, and where somebody does for long, it is not said.
pub fn nameless(root: &Root) -> Vec<StoreId> {
    let Ok(entries) = fs::read_dir(root.stores()) else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_whole = |id: &StoreId| {
        let store = root.store(*id);
        store.join(HEADER_NAME).exists() && store.join(UNNAMED).symlink_metadata().is_err()
    };
    let found: Vec<StoreId> = ids.filter(is_whole).collect();
    // Who makes one names it before it is whole: what is whole already has its name by now.
    let nameless = |found: Vec<StoreId>| -> Vec<StoreId> {
        let Some(named) = named(root) else { return Vec::new() };
        found.into_iter().filter(|id| !named.contains(id) && is_whole(id)).collect()
    };
    let found = nameless(found);
    if found.is_empty() {
        return found;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        match root.try_lock() {
            Ok(Some(_lock)) => return nameless(found),
            Ok(None) if Instant::now() < until => std::thread::sleep(INTERVAL),
            Ok(None) => return Vec::new(),
            // Whoever may only read names sees what there is.
            Err(_) => return nameless(found),
        }
    }
}

/// Sweeps away stores that were left without a name when making or removing them was interrupted. The caller holds
/// the root's lock. A store without the marker is never touched, named or not.
pub(super) fn sweep(root: &Root) {
    let Ok(entries) = fs::read_dir(root.stores()) else { return };
    let Some(named) = named(root) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        if id.is_none_or(|id| named.contains(&id)) || !OsDir::new(&path).exists(UNNAMED).unwrap_or(false) {
            continue;
        }
        if let Ok(Some(_lock)) = StoreLock::try_acquire(&path, LockMode::Exclusive) {
            match remove_data(&path, |_, _| {}).and_then(|()| remove_rest(&path)) {
                Ok(()) => log::info!("{}: removed what an interrupted command left", path.display()),
                Err((path, e)) => log::warn!("{}: {e}", path.display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::put_back;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A root with a store that seems to be whole, and names for it, of which `key` is one in the trash.
    fn root_with(id: StoreId, name: Option<&str>, key: Option<&str>) -> (tempfile::TempDir, Root) {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        root.make().unwrap();
        fs::create_dir_all(root.store(id)).unwrap();
        fs::write(root.store(id).join(HEADER_NAME), "{}").unwrap();
        name.into_iter().for_each(|name| symlink(Root::link_target(id), root.link(name)).unwrap());
        key.into_iter().for_each(|key| symlink(Root::link_target(id), root.trash_link(key)).unwrap());
        (tmp, root)
    }

    /// It was called so for a moment by `larder status`.
    #[test]
    fn a_store_whose_volume_goes_to_the_trash_and_back_is_never_nameless() {
        let id = StoreId(7);
        let (_tmp, root) = root_with(id, Some("v"), None);
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    {
                        let _lock = root.lock().unwrap();
                        fs::rename(root.link("v"), root.trash_link("v~1")).unwrap();
                    }
                    let _lock = root.lock().unwrap();
                    put_back(&root, "v~1", "v").unwrap();
                }
            });
            let until = Instant::now() + Duration::from_millis(500);
            let mut found = Vec::new();
            while Instant::now() < until && found.is_empty() {
                found = nameless(&root);
            }
            ends.store(true, Ordering::Relaxed);
            assert!(found.is_empty());
        });
        fs::remove_file(root.link("v")).unwrap();
        assert_eq!(nameless(&root), [id]);
    }

    #[test]
    fn what_has_lost_its_store_can_be_given_up_and_is_not_by_mistake() {
        let id = StoreId(7);
        let (_tmp, root) = root_with(id, Some("w"), Some("v~1"));
        fs::remove_dir_all(root.store(id)).unwrap();
        let e = remove_trashed(&root, "v~1", false, |_, _| {}).unwrap_err();
        assert!(e.exit == Exit::Damaged && e.message.contains("larder trash empty --lost v~1"), "{e}");
        assert_eq!(root.resolve_trashed("v~1").unwrap(), Some(id));
        // Others have names for the same store: they cannot let it remove the volume.
        assert_eq!(remove_trashed(&root, "v~1", true, |_, _| {}), Ok(Removed::Done));
        assert_eq!(root.resolve_trashed("v~1").unwrap(), None);
        assert_eq!(remove(&root, (id, "w"), |_| Ok(()), |_, _| {}), Ok(Removed::Done));
        assert!(root.links_to(id).unwrap().is_empty());
        assert_eq!(remove_trashed(&root, "v~1", true, |_, _| {}).unwrap_err().exit, Exit::NoVolume);
    }
}
