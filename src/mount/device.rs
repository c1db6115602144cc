//! `/dev/fuse`, mount(2) and umount2(2).

use super::table::path_of;
use super::{FS_TYPE, MountOptions, fusermount};
use crate::exit_code::Exit;
use crate::fuse::{Transport, uring_available};
use crate::volume::{Result, VolumeError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/fuse";
/// How long it may take to be there when the kernel's module is.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(20);

/// Checks that the kernel has what these options need, before anything is begun.
///
/// # Errors
/// What it does not have, and what to do about it.
pub fn demand(options: &MountOptions) -> Result<()> {
    if options.transport() == Transport::Uring {
        // The module may have to be loaded.
        drop(open().map_err(|e| no_device(&e))?);
        uring_available().map_err(|e| VolumeError::new(Exit::NoFuse, e.to_string()))?;
    }
    Ok(())
}

/// Mounts a volume on `dir`, a checked directory. The mount answers once someone serves the device that is returned. It is for all users
/// where this process may mount itself; for an ordinary user, fusermount3(1) does it.
///
/// # Errors
/// No `/dev/fuse`, no permission, or as mount(2).
pub fn mount(volume: &str, dir: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let device = open().map_err(|e| no_device(&e))?;
    // The root directory's type is all of its mode that the kernel wants to know before it asks.
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions,allow_other{}",
        device.as_raw_fd(),
        libc::S_IFDIR,
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
        options.data(),
    );
    match nix::mount::mount(Some(volume), dir, Some(FS_TYPE), options.flags(), Some(data.as_str())) {
        Ok(()) => Ok(device.into()),
        Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => {
            drop(device);
            fusermount::mount(volume, dir, options)
        }
        Err(Errno::EPERM) => Err(VolumeError::new(
            Exit::Permission,
            format!("cannot mount {volume:?} on {}: mounting needs root (CAP_SYS_ADMIN)", dir.display()),
        )),
        Err(Errno::ENODEV) => Err(VolumeError::new(
            Exit::NoFuse,
            format!("cannot mount {volume:?}: the kernel has no FUSE; load it with `modprobe fuse`"),
        )),
        Err(e) => Err(VolumeError::new(
            Exit::MountPoint,
            format!("cannot mount {volume:?} on {}: {e}", dir.display()),
        )),
    }
}

/// Opens the device. Where there is none yet, as can be so while the system boots, the kernel's module is loaded, and the device
/// waited for.
fn open() -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE);
    let is_missing = |e: &io::Error| {
        // ENODEV: the name is there before the module.
        e.kind() == io::ErrorKind::NotFound || matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
    };
    match open() {
        Err(e) if is_missing(&e) && load_module() => {
            let until = Instant::now() + PATIENCE;
            loop {
                match open() {
                    Err(e) if is_missing(&e) && Instant::now() < until => std::thread::sleep(INTERVAL),
                    other => return other,
                }
            }
        }
        other => other,
    }
}

/// Whether the kernel has FUSE, from now on at the latest.
fn load_module() -> bool {
    // mount(8) leaves its helpers no PATH with what only root needs.
    ["modprobe", "/sbin/modprobe"].into_iter().any(|program| {
        let mut modprobe = Command::new(program);
        modprobe.arg("fuse").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        modprobe.status().is_ok_and(|status| status.success())
    })
}

fn no_device(e: &io::Error) -> VolumeError {
    match e.kind() {
        io::ErrorKind::PermissionDenied => VolumeError::new(
            Exit::Permission,
            format!(
                "{DEVICE}: {e}; the user who mounts needs to be able to read and write it (mode 666, as udev sets it; in a container `--device \
                 /dev/fuse`)"
            ),
        ),
        _ => VolumeError::new(
            Exit::NoFuse,
            format!(
                "{DEVICE}: {e}; load FUSE with `modprobe fuse`, or give the container `--device /dev/fuse`"
            ),
        ),
    }
}

/// Shows what is mounted on `from` on `dir` too.
///
/// # Errors
/// As mount(2) with `MS_BIND`.
pub fn bind(from: &Path, dir: &Path) -> std::result::Result<(), Errno> {
    nix::mount::mount(Some(from), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// Changes the flags of a mount.
///
/// # Errors
/// As mount(2) with `MS_REMOUNT`.
pub fn remount(dir: &Path, options: &MountOptions) -> std::result::Result<(), Errno> {
    nix::mount::mount(None::<&str>, dir, None::<&str>, options.flags() | MsFlags::MS_REMOUNT, None::<&str>)
}

/// Unmounts what is on top at `dir`; `lazy` takes it out of the tree now and ends it when nobody uses it any more.
///
/// # Errors
/// As umount2(2).
pub fn unmount(dir: &Path, lazy: bool) -> std::result::Result<(), Errno> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match nix::mount::umount2(dir, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => fusermount::unmount(dir, lazy),
        other => other,
    }
}

/// Takes a mount out of the tree that is held by a descriptor of its root, and was seen at `dir`.
///
/// # Errors
/// As umount2(2).
pub(super) fn take_away(held: &File, dir: &Path) -> std::result::Result<(), Errno> {
    match nix::mount::umount2(&path_of(held.as_fd()), MntFlags::MNT_DETACH) {
        Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => fusermount::unmount(dir, true),
        other => other,
    }
}

/// Opens the root directory of the file system behind a FUSE device, wherever that is mounted, or is in use without being mounted
/// anywhere. `None`: it is gone. Nothing is asked of its server.
///
/// # Errors
/// As fsopen(2), fsconfig(2), fsmount(2) and open(2); `InvalidInput` from kernels before Linux 5.15, which cannot.
pub fn root_of(device: BorrowedFd<'_>) -> io::Result<Option<File>> {
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let device = device.as_raw_fd().to_string();
    let root_mode = format!("{:o}", libc::S_IFDIR);
    // The kernel wants all of them, and looks at the first only: this is no new file system.
    for (key, value) in [("fd", &*device), ("rootmode", &root_mode), ("user_id", "0"), ("group_id", "0")] {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    match rustix::mount::fsconfig_create(&context) {
        Err(rustix::io::Errno::NOTCONN) => return Ok(None),
        other => other?,
    }
    // A mount of it that is nowhere to be seen.
    let mounted = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(Some(nix::fcntl::openat(&mounted, ".", DIRECTORY, Mode::empty())?.into()))
}

/// How directories are opened.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// What is mounted nowhere any more, but may still be in use.
#[derive(Debug)]
pub struct Detached(OwnedFd);

/// Takes what is mounted on `dir` out of the tree, whoever uses it. Nothing is asked of its server.
///
/// # Errors
/// As open(2) and umount2(2).
pub fn detach(dir: &Path) -> std::result::Result<Detached, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mounted = nix::fcntl::open(dir, flags, Mode::empty());
    unmount(dir, true)?;
    mounted.map(Detached)
}

impl Detached {
    /// Opens its root directory.
    ///
    /// # Errors
    /// As open(2).
    pub fn root(self) -> std::result::Result<File, Errno> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(nix::fcntl::open(path.as_str(), DIRECTORY, Mode::empty())?.into())
    }
}
