//! Making volumes.

use super::error::{Result, VolumeError};
use super::limits::LimitChanges;
use super::new_remote::NewRemote;
use crate::backing::{Dir, OpenMode, OsDir};
use crate::crypto::Secret;
use crate::exit_code::Exit;
use crate::meta::{Inode, Limits, Meta, NewVolume, Timestamp, Usage};
use crate::remote::Local;
use crate::root::{Root, check_name};
use crate::store::{Header, SEGMENT_DIR, StoreId, StoreLock};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;
use std::sync::Arc;

/// What a new volume is to be.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// Its limits; what is to be kept is as usual.
    pub limits: LimitChanges,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
    /// Permissions of the root directory.
    pub mode: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its remote, if it is to have one.
    pub remote: Option<NewRemote>,
}

/// Marks a store that has no name: it is being made or being removed, and may be swept away.
pub(super) const UNNAMED: &str = "unnamed";

/// Makes a volume in a store of its own. It is durable when this returns.
///
/// # Errors
/// A bad name or limit, a name that exists, or the host's; and when its remote makes no sense, has a store already, or cannot be reached.
pub fn create(root: &Root, spec: &VolumeSpec) -> Result<StoreId> {
    create_encrypted(root, spec, &[])
}

/// Makes a volume in an encrypted store of its own, which each of the secrets opens. Without any, it is not encrypted.
///
/// # Errors
/// As [`create`].
pub fn create_encrypted(root: &Root, spec: &VolumeSpec, secrets: &[Secret]) -> Result<StoreId> {
    check_name(&spec.name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    spec.limits.check()?;
    if spec.mode > 0o7777 {
        return Err(VolumeError::new(Exit::Usage, format!("{:o} is not a mode", spec.mode)));
    }
    let link = root.link(&spec.name);
    let is_there = || link.symlink_metadata().is_ok() || root.memory(&spec.name).exists();
    // Nobody waits for a remote while the root is locked.
    let remote = match &spec.remote {
        Some(_) if is_there() => return Err(exists(&spec.name)),
        Some(remote) => {
            let asked = remote.ask(&spec.name, None);
            Some(asked.map_err(|e| e.context(&format!("cannot create volume {:?}", spec.name)))?)
        }
        None => None,
    };
    root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    super::remove::sweep(root);
    if is_there() {
        return Err(exists(&spec.name));
    }
    let id = StoreId::random().map_err(|e| VolumeError::io(root.path(), &e))?;
    let path = root.store(id);
    let built = build(&path, id, spec, secrets, remote.as_ref()).and_then(|()| name(root, id, &spec.name));
    if let Err(e) = built {
        // Nothing of a volume that could not be made stays behind.
        if root.resolve(&spec.name).ok().flatten() != Some(id) {
            let _ = fs::remove_dir_all(&path);
        }
        return Err(e.context(&format!("cannot create volume {:?}", spec.name)));
    }
    Ok(id)
}

/// There is a volume of that name.
pub(super) fn exists(name: &str) -> VolumeError {
    VolumeError::new(
        Exit::Exists,
        format!("volume {name:?} already exists; choose another name, or remove it with `larder rm {name}`"),
    )
}

/// Builds the store, without a name.
fn build(
    path: &Path,
    id: StoreId,
    spec: &VolumeSpec,
    secrets: &[Secret],
    remote: Option<&Local>,
) -> Result<()> {
    let io = |at: &Path| {
        let at = at.to_owned();
        move |e: io::Error| VolumeError::io(&at, &e)
    };
    DirBuilder::new().mode(0o700).create(path).map_err(io(path))?;
    OsDir::new(path).open(UNNAMED, OpenMode::CreateNew).map_err(io(path))?;
    DirBuilder::new().mode(0o700).create(path.join(SEGMENT_DIR)).map_err(io(path))?;
    // The file is there from the start, so that a reader need not make it.
    drop(StoreLock::try_acquire(path, crate::store::LockMode::Exclusive).map_err(io(path))?);
    let now = Timestamp::now();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(path));
    let (keyring, keys) = super::keys::new_keyring(id, secrets, &*dir)?;
    let mut header = Header::new(id, now.seconds(), keyring);
    if let Some(local) = remote {
        header.has_remote(local.unusual_history());
        local.write(path).map_err(io(path))?;
    }
    header.create(&*dir)?;
    let volume = NewVolume {
        name: spec.name.clone(),
        limits: spec.limits.apply(Limits::default(), Usage::default())?,
        labels: spec.labels.clone(),
        created: now.seconds(),
        root: Inode { uid: spec.uid, gid: spec.gid, ..Inode::root(spec.mode, now) },
    };
    Meta::create_with(Arc::clone(&dir), id, &keys, &volume)?;
    dir.sync(SEGMENT_DIR).and_then(|()| dir.sync("")).map_err(io(path))
}

/// Gives the store its name: the moment from which the volume exists.
fn name(root: &Root, id: StoreId, name: &str) -> Result<()> {
    let io = |path: &Path, e: &io::Error| VolumeError::io(path, e);
    let stores = root.stores();
    fs::File::open(&stores).and_then(|dir| dir.sync_all()).map_err(|e| io(&stores, &e))?;
    let link = root.link(name);
    symlink(Root::link_target(id), &link).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => exists(name),
        _ => io(&link, &e),
    })?;
    root.sync_names().map_err(|e| io(&root.volumes(), &e))?;
    let marker = root.store(id).join(UNNAMED);
    fs::remove_file(&marker).map_err(|e| io(&marker, &e))
}
