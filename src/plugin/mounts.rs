//! Where volumes are mounted for containers: `<root>/mnt/<name>`.
//!
//! The directory is there as long as the volume is, whether it is mounted or not, and without any permissions: whoever is told the
//! path of a volume that is not mounted finds nothing there, and nothing is written there by mistake. (Those of an ordinary user must be his, or he could not
//! mount there.)

use super::locks::Locks;
use crate::exit_code::Exit;
use crate::host::{self, Job, Place, VolumeOptions, secrets_of, server_of, server_within};
use crate::mount::{self, MEMORY_FS_TYPE, MountEntry, MountOptions};
use crate::root::{Root, check_name};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use nix::errno::Errno;
use nix::unistd::geteuid;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an unmount waits for the last changes to get to disk. Podman gives up after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// It is not mounted any more.
    Done,
    /// It stays mounted, because processes use it, of which some are known.
    InUse(Vec<u32>),
}

/// The mountpoints below a root, whose path has no symbolic links.
pub(super) struct Mounts {
    root: Root,
    /// One at a time starts the server of a store, for one of its volumes.
    stores: Locks,
    /// By volume, the process that is known to serve what is mounted here.
    servers: Mutex<HashMap<String, u32>>,
}

impl Mounts {
    /// Those of `root`.
    pub(super) fn new(root: Root) -> Self {
        Self { root, stores: Locks::default(), servers: Mutex::default() }
    }

    /// Where a volume is mounted.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.root.mountpoints().join(name)
    }

    /// What is mounted there.
    pub(super) fn entry(&self, name: &str) -> Result<Option<MountEntry>> {
        mount::entry_at(&self.dir(name)).map_err(|e| table_error(&e))
    }

    /// Where a volume is mounted, or would be: a directory that is there, unless the host does not let it be made.
    pub(super) fn shown(&self, name: &str) -> PathBuf {
        let dir = self.dir(name);
        if let Err(e) = self.make_dir(&dir) {
            log::debug!("the mountpoint of volume {name:?}: {e}");
        }
        dir
    }

    /// Takes away the directory of a volume that is gone, if nothing is on it or in it.
    pub(super) fn forget(&self, name: &str) {
        match fs::remove_dir(self.dir(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => log::warn!("{}: {e}", self.dir(name).display()),
            _ => {}
        }
    }

    /// The names of all volumes that are mounted, and of those that are gone and left a directory.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(dirs) = fs::read_dir(self.root.mountpoints()) else { return Vec::new() };
        let mounted: HashSet<PathBuf> =
            mount::entries().unwrap_or_default().into_iter().map(|entry| entry.dir).collect();
        let names = dirs.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // Whatever else somebody put there is his.
        let names = names.filter(|name| check_name(name).is_ok());
        names
            .filter(|name| {
                mounted.contains(&self.dir(name)) || matches!(host::place(&self.root, name), Ok(None))
            })
            .collect()
    }

    /// Whether a volume is mounted and somebody serves it. Unless it has to be `exact`, a server that has just been killed may be
    /// taken for a live one until all of its threads have gone.
    pub(super) fn is_live(&self, name: &str, place: Place, exact: bool) -> Result<bool> {
        let Some(entry) = self.entry(name)? else { return Ok(false) };
        match place {
            Place::Memory => Ok(entry.fs_type == MEMORY_FS_TYPE),
            Place::Store(id) if entry.volume() == Some(name) => {
                match self.is_served(name, id, &entry, exact) {
                    // It may answer later; nothing better can be done than to wait.
                    Err(e) if e.silent => Ok(true),
                    other => other,
                }
            }
            Place::Store(_) => Ok(false),
        }
    }

    /// Whether the server of the store serves `entry`: it may have started after the one that did had died, for another volume.
    fn is_served(&self, name: &str, id: StoreId, entry: &MountEntry, exact: bool) -> Result<bool> {
        let mut client = match server_within(&self.root, id, PATIENCE) {
            Ok(Some(client)) => client,
            other => return other.map(|_| false),
        };
        let pid = client.peer().unwrap_or(0);
        if !exact && pid != 0 && self.servers.lock().get(name) == Some(&pid) {
            return Ok(true);
        }
        let status = match client.status() {
            Ok(status) => status,
            Err(e) if e.silent => return Err(e),
            // One that hangs up is gone.
            Err(_) => return Ok(false),
        };
        let Some(mount) = status.mounts.into_iter().find(|mount| mount.volume == name) else {
            return Ok(false);
        };
        // What was bound here from elsewhere is the same mount. When it is gone there, it is served here only.
        let served = match mount.connection {
            Some(_) => mount.is_at(entry),
            None => {
                let other = mount::entry_at(&mount.path()).map_err(|e| table_error(&e))?;
                other.is_none_or(|other| other.volume() != Some(name) || other.device == entry.device)
            }
        };
        if served {
            self.servers.lock().insert(name.to_owned(), pid);
        }
        Ok(served)
    }

    /// Mounts a volume, unless it is mounted. What a server that died left there goes.
    ///
    /// # Errors
    /// As `larder mount`.
    pub(super) fn ensure(&self, name: &str, place: Place, options: &VolumeOptions) -> Result<PathBuf> {
        let dir = self.dir(name);
        if self.is_live(name, place, true)? {
            return Ok(dir);
        }
        self.make_dir(&dir)?;
        if matches!(self.entry(name), Ok(None))
            && fs::read_dir(&dir).is_ok_and(|mut files| files.next().is_some())
        {
            let what = format!(
                "{} is not empty: something was written there while volume {name:?} was not mounted; move it away, and try again",
                dir.display()
            );
            return Err(VolumeError::new(Exit::MountPoint, what));
        }
        match place {
            Place::Memory => self.mount_memory(name, &dir, options)?,
            Place::Store(id) => self.mount_store(name, id, &dir, options)?,
        }
        Ok(dir)
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        let all = self.root.mountpoints();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e: io::Error| VolumeError::io(&path, &e)
        };
        self.root.make_mountpoints().map_err(io(&all))?;
        let mode = if geteuid().is_root() { 0o000 } else { 0o700 };
        match DirBuilder::new().mode(mode).create(dir) {
            // Of what may be mounted there, nothing is changed.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // The umask may have taken away more, and less cannot be.
            other => {
                other.and_then(|()| fs::set_permissions(dir, Permissions::from_mode(mode))).map_err(io(dir))
            }
        }
    }

    fn mount_memory(&self, name: &str, dir: &Path, options: &VolumeOptions) -> Result<()> {
        if let Some(entry) = self.entry(name)? {
            let what = String::from_utf8_lossy(&entry.source).into_owned();
            return Err(VolumeError::new(
                Exit::MountPoint,
                format!("cannot mount {name:?}: {what} is mounted on {}; unmount it first", dir.display()),
            ));
        }
        mount::mount_memory(name, dir, &options.memory(), &mount_options(options)?)
    }

    fn mount_store(&self, name: &str, id: StoreId, dir: &Path, options: &VolumeOptions) -> Result<()> {
        let _hold = self.stores.hold_blocking(&id.to_string());
        if let Some(other) = self.mounted_by_hand(name, id)? {
            mount::prepare(dir, name, Duration::ZERO)?;
            return mount::bind(&other, dir).map_err(|e| {
                let hint = match e {
                    Errno::EPERM => {
                        format!("; it needs root: unmount it there first with `larder umount {name}`")
                    }
                    _ => String::new(),
                };
                VolumeError::new(
                    Exit::MountPoint,
                    format!("cannot show {} on {}: {e}{hint}", other.display(), dir.display()),
                )
            });
        }
        let secret = secrets_of(options);
        // Containers have more users than one.
        let mut options = mount_options(options)?;
        options.read_only |= host::is_moment(&self.root, name);
        options.allow_other |= !geteuid().is_root() && mount::may_allow_other();
        let options = &options;
        host::mount(&Job { root: &self.root, name, dir, options, secret: &secret, verbose: 0 })
    }

    /// Where somebody else has mounted the volume: there is one mount of a volume, which is shown in other places by binding it.
    fn mounted_by_hand(&self, name: &str, id: StoreId) -> Result<Option<PathBuf>> {
        let Some(mut client) = server_of(&self.root, id)? else { return Ok(None) };
        let status = match client.status() {
            Ok(status) => status,
            Err(e) if e.silent => return Err(e),
            // One that is just ending has nothing mounted.
            Err(_) => return Ok(None),
        };
        for mounted in status.mounts.into_iter().filter(|mount| mount.volume == name) {
            let entry = mount::entry_at(&mounted.path()).map_err(|e| table_error(&e))?;
            if entry.is_some_and(|entry| mounted.is_at(&entry)) {
                return Ok(Some(mounted.path()));
            }
        }
        Ok(None)
    }

    /// Unmounts a volume that no container is said to use, unless one does all the same, or a program on the host.
    ///
    /// # Errors
    /// As umount(2), or when the server does not answer.
    pub(super) fn release(&self, name: &str, place: Option<Place>) -> Result<Release> {
        let dir = self.dir(name);
        if let Some(entry) = self.entry(name)? {
            if entry.source != name.as_bytes() || !(entry.is_larder() || entry.fs_type == MEMORY_FS_TYPE) {
                log::warn!("{}: somebody mounted something else there", dir.display());
                return Ok(Release::InUse(Vec::new()));
            }
            let served = match place {
                Some(Place::Store(id)) => self.is_served(name, id, &entry, true)?,
                Some(Place::Memory) => true,
                None => false,
            };
            if !served {
                // Dead: nobody can use it, and who still has it bound is to notice.
                mount::mark_dead(&dir, name, entry.connection());
                mount::unmount(&dir, true).map_err(|e| unmount_error(&dir, &e.to_string()))?;
                return self.release(name, place);
            }
            // A container that lives on without its engine's knowing must not lose the mount that the next one shares with it.
            let holders = mount::holders(&entry).map_err(|e| table_error(&e))?;
            if !holders.is_empty() {
                return Ok(Release::InUse(holders));
            }
            match host::unmount(&self.root, &entry, false, Some(PATIENCE)) {
                Ok(_) => {}
                Err(e) if e.exit == Exit::Busy => return Ok(Release::InUse(Vec::new())),
                Err(e) => return Err(e),
            }
        }
        if place.is_none() {
            self.forget(name);
        }
        Ok(Release::Done)
    }
}

/// How a volume is mounted: as it says, and otherwise as is usual on this host.
fn mount_options(options: &VolumeOptions) -> Result<MountOptions> {
    let refuse = |e: String| VolumeError::new(Exit::Usage, e);
    options.mount_over(&host::usual_mount()?).map_err(refuse)
}

fn table_error(e: &io::Error) -> VolumeError {
    VolumeError::io(Path::new("/proc/self/mountinfo"), e)
}

fn unmount_error(dir: &Path, why: &str) -> VolumeError {
    VolumeError::new(Exit::MountPoint, format!("cannot unmount {}: {why}", dir.display()))
}
