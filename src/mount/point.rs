//! The directory to mount on.

use super::table;
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::errno::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn error(dir: &Path, what: &str) -> VolumeError {
    VolumeError::new(Exit::MountPoint, format!("cannot mount on {}: {what}", dir.display()))
}

/// The absolute path of `dir` without symbolic links, also where a dead mount lies on it.
///
/// # Errors
/// As realpath(3).
pub fn resolve(dir: &Path) -> io::Result<PathBuf> {
    match dir.canonicalize() {
        // The last component cannot be looked at; the way to it can.
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(dir)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(e),
            }
        }
        other => other,
    }
}

/// Checks that `dir` can be mounted on and returns its absolute path. What a server that died left mounted there from
/// the same volume is unmounted; a server that is just dying is given `patience` to do so.
///
/// # Errors
/// A directory that is missing, is none, is not empty, or has something mounted on it.
pub fn prepare(dir: &Path, volume: &str, patience: Duration) -> Result<PathBuf> {
    let until = Instant::now() + patience;
    let resolved = resolve(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => error(dir, "there is no such directory; make it first"),
        io::ErrorKind::PermissionDenied => {
            VolumeError::new(Exit::Permission, format!("cannot mount on {}: {e}", dir.display()))
        }
        _ => error(dir, &e.to_string()),
    })?;
    let io = |e: io::Error| error(dir, &e.to_string());
    while let Some(entry) = table::entry_at(&resolved).map_err(io)? {
        if entry.volume() == Some(volume) && !entry.is_dead() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        if entry.volume() != Some(volume) || !entry.is_dead() {
            let what = String::from_utf8_lossy(&entry.source).into_owned();
            return Err(error(
                dir,
                &format!("{what} ({}) is mounted there; unmount it first", entry.fs_type),
            ));
        }
        log::warn!("{}: unmounting what a server that died left there", resolved.display());
        super::unmount(&resolved, true).map_err(|e: Errno| error(dir, &e.to_string()))?;
    }
    if !fs::metadata(&resolved).map_err(io)?.is_dir() {
        return Err(error(dir, "it is no directory"));
    }
    if fs::read_dir(&resolved).map_err(io)?.next().is_some() {
        return Err(error(dir, "the directory is not empty; choose an empty one"));
    }
    Ok(resolved)
}
