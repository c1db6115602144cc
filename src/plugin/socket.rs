//! The socket that engines connect to: passed on by systemd, or made here.

use crate::backing::listen_private;
use crate::exit_code::Exit;
use crate::root::{is_ordinary_user, user_runtime_dir};
use crate::volume::{Result, VolumeError};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where container engines look for the plugin; that of an ordinary user has to be named to them.
///
/// # Errors
/// When such a user has no directory for sockets.
pub fn default_socket() -> Result<PathBuf> {
    if !is_ordinary_user() {
        return Ok("/run/docker/plugins/larder.sock".into());
    }
    let dir = user_runtime_dir().ok_or_else(|| {
        VolumeError::new(Exit::Usage, "XDG_RUNTIME_DIR is not set; name the socket with --socket")
    })?;
    Ok(dir.join("larder/larder.sock"))
}

/// A socket to listen on. One that was made here is removed at the end: engines wait long for a socket that nobody listens on.
pub(super) struct Socket {
    listener: Option<UnixListener>,
    /// Where it was made, and its inode.
    made: Option<(PathBuf, u64)>,
}

impl Socket {
    /// The socket that systemd passes on, or else one at `path`, for root only.
    ///
    /// # Errors
    /// Somebody listens there, or the host's.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |e: io::Error| VolumeError::io(path, &e);
        let socket = match passed_on()? {
            Some(listener) => Self { listener: Some(listener), made: None },
            None => {
                let listener = bind(path)?;
                let inode = fs::symlink_metadata(path).map_err(io)?.ino();
                Self { listener: Some(listener), made: Some((path.to_owned(), inode)) }
            }
        };
        if let Some(listener) = &socket.listener {
            listener.set_nonblocking(true).map_err(io)?;
        }
        Ok(socket)
    }

    /// What to listen on; the second time, nothing.
    pub(super) fn take(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Socket {
    /// Removes the socket, if it was made here.
    pub(super) fn remove(&mut self) {
        if let Some((path, inode)) = self.made.take()
            && fs::symlink_metadata(&path).is_ok_and(|meta| meta.ino() == inode)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

#[expect(unsafe_code, reason = "descriptors from systemd come as bare numbers")]
fn passed_on() -> Result<Option<UnixListener>> {
    let failed =
        |e: io::Error| VolumeError::new(Exit::Usage, format!("the socket that systemd passes on: {e}"));
    let mut fds = sd_notify::listen_fds().map_err(failed)?;
    let Some(fd) = fds.next() else { return Ok(None) };
    if fds.next().is_some() {
        return Err(failed(io::Error::other("there are several, and one is needed")));
    }
    // SAFETY: systemd says in the environment that this descriptor is meant for this process, and nobody else takes it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Some(UnixListener::from(fd)))
}

fn bind(path: &Path) -> Result<UnixListener> {
    let io = |e: io::Error| VolumeError::io(path, &e);
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(if is_ordinary_user() { 0o700 } else { 0o755 })
            .create(dir)
            .map_err(|e| VolumeError::io(dir, &e))?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(VolumeError::new(
                Exit::Busy,
                format!("{}: another plugin listens there; stop it first", path.display()),
            ));
        }
        // One that was killed left it.
        Ok(_) => fs::remove_file(path).map_err(io)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
    }
    listen_private(path).map_err(io)
}
