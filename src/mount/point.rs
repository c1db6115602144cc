//! The directory to mount on.

use super::table::{self, MountEntry};
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn error(dir: &Path, what: &str) -> VolumeError {
    VolumeError::new(Exit::MountPoint, format!("cannot mount on {}: {what}", dir.display()))
}

/// The absolute path of `dir` without symbolic links. Nothing is asked of a file system that is mounted there, which may be dead, or
/// not answer.
///
/// # Errors
/// As open(2).
pub fn resolve(dir: &Path) -> io::Result<PathBuf> {
    let there = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(dir)?;
    fs::read_link(format!("/proc/self/fd/{}", there.as_raw_fd()))
}

/// What a server that died has left on `dir` from `volume`: nobody is to take it for the volume. What the kernel has in its cache
/// can still be read there, but nothing that a program opens from now on can be written to, in any container either. Another mount than
/// that of this connection, if it is known, is left alone.
pub fn mark_dead(dir: &Path, volume: &str, connection: Option<u32>) {
    let Ok(Some(entry)) = table::entry_at(dir) else { return };
    if entry.volume() != Some(volume) || connection.is_some_and(|number| entry.connection() != Some(number)) {
        return;
    }
    if let Some(held) = entry.hold_dead() {
        make_read_only(&entry, &held);
    }
}

/// As [`mark_dead`], of what is held: what was looked at is what is changed, also where somebody else may exchange a directory above it.
fn make_read_only(entry: &MountEntry, held: &File) {
    let dir = entry.dir.display();
    // What it forbids already, it goes on forbidding: devices and programs in the cache are there still.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | entry.flags;
    // Not while a file is open for writing.
    let there = table::path_of(held.as_fd());
    match nix::mount::mount(None::<&str>, &there, None::<&str>, flags, None::<&str>) {
        Ok(()) => {}
        // An ordinary user can only unmount it.
        Err(Errno::EPERM) => log::debug!("{dir}: a dead mount stays writable"),
        Err(e) => log::info!("{dir}: a dead mount that programs still have files open for writing on: {e}"),
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
        io::ErrorKind::NotFound => {
            error(dir, "there is no such directory; make it first, as `larder mount --mkdir` does")
        }
        io::ErrorKind::PermissionDenied => {
            VolumeError::new(Exit::Permission, format!("cannot mount on {}: {e}", dir.display()))
        }
        _ => error(dir, &e.to_string()),
    })?;
    let io = |e: io::Error| error(dir, &e.to_string());
    while let Some(entry) = table::entry_at(&resolved).map_err(io)? {
        let is_its = entry.volume() == Some(volume);
        let Some(held) = is_its.then(|| entry.hold_dead()).flatten() else {
            if is_its && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let what = String::from_utf8_lossy(&entry.source).into_owned();
            return Err(error(
                dir,
                &format!("{what} ({}) is mounted there; unmount it first", entry.fs_type),
            ));
        };
        log::warn!("{}: unmounting what a server that died left there", resolved.display());
        make_read_only(&entry, &held);
        super::device::take_away(&held, &resolved).map_err(|e: Errno| error(dir, &e.to_string()))?;
    }
    if !fs::metadata(&resolved).map_err(io)?.is_dir() {
        return Err(error(dir, "it is not a directory"));
    }
    if fs::read_dir(&resolved).map_err(io)?.next().is_some() {
        return Err(error(dir, "the directory is not empty; choose an empty one"));
    }
    Ok(resolved)
}
