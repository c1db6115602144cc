//! Unmounting.

use super::look::{server_of, server_within, store_of};
use super::own_mounts::dead_mounts;
use super::served_roots::{first_of, served_roots};
use crate::exit_code::Exit;
use crate::mount::{self, MountEntry};
use crate::root::Root;
use crate::server::{Client, Status};
use crate::volume::{Result, Target, VolumeError};
use nix::errno::Errno;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a volume may be in use in another mount namespace before it is said to be.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the server of another root may take to say what it has mounted.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// How an unmounting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is done.
    Done,
    /// The mount is gone, but this volume is still in use in another mount namespace.
    StillUsed(String),
}

fn not_mounted(target: &Path) -> VolumeError {
    VolumeError::new(
        Exit::MountPoint,
        format!("no volume is mounted on {}; `larder ls` shows what is mounted", target.display()),
    )
}

/// The mount that a directory or a name stands for.
///
/// # Errors
/// `MountPoint` when nothing of ours is mounted there, or, for a name, when its server does not answer.
pub fn find(root: &Root, target: &Path) -> Result<MountEntry> {
    let io = |e: std::io::Error| VolumeError::io(Path::new("/proc/self/mountinfo"), &e);
    if let Ok(dir) = mount::resolve(target)
        && let Some(entry) = mount::entry_at(&dir).map_err(io)?
    {
        if entry.is_larder() {
            return Ok(entry);
        }
        if target.components().count() > 1 {
            return Err(not_mounted(target));
        }
    }
    let name = match target.to_str() {
        Some(name) if Target::parse(name).is_ok() => name,
        _ => return Err(not_mounted(target)),
    };
    let id = match store_of(root, name) {
        Ok(id) => id,
        // A directory of that name, perhaps.
        Err(e) if e.exit == Exit::NoVolume && target.exists() => return Err(not_mounted(target)),
        Err(e) => return Err(e),
    };
    let hint = |e: VolumeError| if e.silent { e.hint(&away("DIR")) } else { e };
    let served = match server_of(root, id).map_err(hint)? {
        Some(mut client) => match client.status() {
            Ok(status) => status.mounts.into_iter().find(|m| m.volume == name),
            Err(e) if e.silent => return Err(hint(e)),
            // It is dying: what it leaves is looked for below.
            Err(e) if e.exit == Exit::Failure => None,
            Err(e) => return Err(e),
        },
        None => None,
    };
    let found = match served {
        Some(mounted) => mount::entry_at(&mounted.path()).map_err(io)?.filter(|entry| mounted.is_at(entry)),
        // Without a server, only what a dead one left can be meant.
        None => dead_mounts(root, id, name).pop(),
    };
    found.ok_or_else(|| VolumeError::new(Exit::MountPoint, format!("volume {name:?} is not mounted")))
}

/// What can be done without a server that answers.
fn away(dir: &str) -> String {
    format!("`larder umount --lazy {dir}` unmounts it anyway")
}

/// The server of a mount, if it is one of another root than the one that is meant: whoever unmounts a line of fstab is not told its options, and so
/// not of `root=`. Who does not answer in time is none.
fn server_elsewhere(
    root: &Root,
    entry: &MountEntry,
    name: &str,
    at_most: Option<Duration>,
) -> Option<(Client, Status)> {
    let mut others = served_roots();
    others.retain(|other| !other.is_same(root));
    let patience = at_most.unwrap_or(ELSEWHERE);
    let (entry, name) = (entry.clone(), name.to_owned());
    first_of(others, patience, move |other| {
        let id = store_of(other, &name).ok()?;
        let mut client = server_within(other, id, patience).ok()??;
        let status = client.status().ok()?;
        if !status.mounts.iter().any(|mounted| mounted.is_at(&entry)) {
            return None;
        }
        // It can take as long as that of the root that is meant.
        let client = at_most.map_or_else(|| server_of(other, id).ok().flatten(), |_| Some(client));
        client.map(|client| (client, status))
    })
}

/// Unmounts and waits until everything is on disk, for `at_most` if that is given. Whether it still is in use in another mount namespace, where it lives on.
///
/// # Errors
/// `Busy` when programs use it, as umount(2), or when the server does not answer: then it stays mounted. (What the kernel still has
/// of it would be waited for by umount(2), where nothing ends the waiting.)
pub fn unmount(root: &Root, entry: &MountEntry, lazy: bool, at_most: Option<Duration>) -> Result<Unmounted> {
    let name = entry.volume().unwrap_or_default().to_owned();
    // Asked before: afterwards the server may be gone, which is as good.
    let client = match store_of(root, &name) {
        // What is only taken out of the tree does not need a server that answers.
        Ok(id) if !lazy => {
            at_most.map_or_else(|| server_of(root, id), |at_most| server_within(root, id, at_most))
        }
        _ => Ok(None),
    };
    let server = client.and_then(|client| {
        let Some(mut client) = client else { return Ok(None) };
        client.status().map(|status| Some((client, status)))
    });
    let server = match server {
        Err(e) if e.silent => return Err(e.hint(&away(&entry.dir.display().to_string()))),
        // It is gone, or will be.
        other => other.unwrap_or(None),
    };
    // That of a volume of the same name in another root has no say.
    let server = server.filter(|(_, status)| status.mounts.iter().any(|mounted| mounted.is_at(entry)));
    let server = match server {
        None if !lazy => server_elsewhere(root, entry, &name, at_most),
        found => found,
    };
    mount::unmount(&entry.dir, lazy).map_err(|e| match e {
        Errno::EBUSY => VolumeError::new(
            Exit::Busy,
            format!(
                "{} is in use; stop the programs that use it (`fuser -vm {0}` lists them), or unmount with --lazy",
                entry.dir.display()
            ),
        ),
        Errno::EPERM => VolumeError::new(
            Exit::Permission,
            format!(
                "unmounting {} needs root, or the user who has mounted it, with fusermount3 (package fuse3)",
                entry.dir.display()
            ),
        ),
        e => VolumeError::new(Exit::MountPoint, format!("cannot unmount {}: {e}", entry.dir.display())),
    })?;
    let elsewhere = mount::entries().is_ok_and(|entries| entries.iter().any(|e| e.device == entry.device));
    let Some((mut client, status)) = server.filter(|_| !lazy && !elsewhere) else {
        return Ok(Unmounted::Done);
    };
    // An answer that does not come in a time that is given is taken for none, as if the server had ended; without one, it is waited
    // for until it is there, or the server does not live any more.
    let until = at_most.map(|at_most| Instant::now() + at_most);
    match client.await_unmount(&name, at_most.unwrap_or(PATIENCE), at_most) {
        Ok(true) => {
            if status.mounts.iter().all(|mount| mount.volume == name) {
                client.await_exit(&status, until);
            }
            Ok(Unmounted::Done)
        }
        Ok(false) => Ok(Unmounted::Done),
        // The server ended before it answered: everything is on disk.
        Err(e) if e.exit == Exit::Failure && !e.silent => Ok(Unmounted::Done),
        Err(e) if e.exit == Exit::Busy => Ok(Unmounted::StillUsed(name)),
        Err(e) => Err(e),
    }
}
