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
/// `FUSE_CTL_SUPER_MAGIC`
const MAGIC: u64 = 0x6573_5543;

/// Opens the directory of a connection, also where that file system is not mounted.
fn open(connection: u32) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let name = connection.to_string();
    let open = || match nix::fcntl::open(&Path::new(DIR).join(&name), flags, Mode::empty()) {
        Err(Errno::ENOENT) => {
            let context = rustix::mount::fsopen(FS_TYPE, FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(&context)?;
            let mounted =
                rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            Ok(nix::fcntl::openat(&mounted, name.as_str(), flags, Mode::empty())?)
        }
        other => Ok(other?),
    };
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{DIR}/{connection}: {e}"));
    open().map(File::from).map_err(named)
}

/// Whether the kernel has a connection: as long as its file system is mounted somewhere, or a file on it is open, also after an abort.
///
/// # Errors
/// As fsopen(2) and fsmount(2) where the file system of connections is not mounted.
pub fn is_connected(connection: u32) -> io::Result<bool> {
    if rustix::fs::statfs(DIR).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(MAGIC)) {
        return Path::new(DIR).join(connection.to_string()).try_exists();
    }
    match open(connection) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens a file in the directory of a connection.
fn file(dir: &File, name: &str, flags: OFlag) -> io::Result<File> {
    Ok(nix::fcntl::openat(dir, name, flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
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
    file(&open(connection)?, "abort", OFlag::O_WRONLY)?.write_all(b"1")
}

/// What the kernel has asked the server of a mount for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Requests that are not answered, or not even given to the server yet.
    pub waiting: u64,
    /// Of those that nobody waits for, so many are given to it at a time; the others wait in a queue of their own.
    pub max_background: u64,
}

/// Where the kernel says what it has asked the server of a mount for.
#[derive(Debug)]
pub struct Asking(File);

impl Asking {
    /// Of the mount with connection number `connection`.
    ///
    /// # Errors
    /// As [`abort`].
    pub fn open(connection: u32) -> io::Result<Self> {
        open(connection).map(Self)
    }

    /// How much that is now.
    ///
    /// # Errors
    /// As open(2) and read(2).
    pub fn now(&self) -> io::Result<Asked> {
        Ok(Asked { waiting: self.number("waiting")?, max_background: self.number("max_background")? })
    }

    /// A file that is open goes on saying what it said when it was first read (fs/fuse/control.c).
    fn number(&self, name: &str) -> io::Result<u64> {
        let mut text = String::new();
        file(&self.0, name, OFlag::O_RDONLY)?.read_to_string(&mut text)?;
        let no_number = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {text:?}"));
        text.trim().parse().map_err(no_number)
    }
}
