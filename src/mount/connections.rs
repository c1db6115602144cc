//! The kernel's view of FUSE connections: `/sys/fs/fuse/connections`, which is a file system of its own.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const DIR: &str = "/sys/fs/fuse/connections";
const FS_TYPE: &str = "fusectl";

/// Opens a file of a connection, also where that file system is not mounted.
fn open(connection: u32, name: &str, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC;
    let file = Path::new(&connection.to_string()).join(name);
    match nix::fcntl::open(&Path::new(DIR).join(&file), flags, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        other => return Ok(other?.into()),
    }
    let context = rustix::mount::fsopen(FS_TYPE, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let mounted = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(nix::fcntl::openat(&mounted, &file, flags, Mode::empty())?.into())
}

/// The number of the connection of a FUSE mount of which a file is open. Nothing is asked of its server.
///
/// # Errors
/// As statx(2).
pub fn connection_of(file: &File) -> io::Result<u32> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(file, "", flags, StatxFlags::empty())?.stx_dev_minor)
}

/// Lets the kernel answer everything on the mount with connection number `connection` with an error, now and ever after.
///
/// # Errors
/// `NotFound` when it is gone, or as fsopen(2) and fsmount(2) where the file system of connections is not mounted.
pub fn abort(connection: u32) -> io::Result<()> {
    open(connection, "abort", OFlag::O_WRONLY)?.write_all(b"1")
}

/// What the kernel has asked the server of a mount for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Requests that are not answered, or not even given to the server yet.
    pub waiting: u64,
    /// Of those that nobody waits for, so many are given to it at a time; the others wait in a queue of their own.
    pub max_background: u64,
}

/// What is asked for by the mount with connection number `connection`.
///
/// # Errors
/// As [`abort`].
pub fn asked(connection: u32) -> io::Result<Asked> {
    let read = |name| {
        let mut text = String::new();
        open(connection, name, OFlag::O_RDONLY)?.read_to_string(&mut text)?;
        let number = text.trim().parse();
        number.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {text:?}")))
    };
    Ok(Asked { waiting: read("waiting")?, max_background: read("max_background")? })
}
