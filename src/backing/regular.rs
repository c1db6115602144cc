//! Opening files by names that others may control: in a store that came from elsewhere, in a root that a user owns, where an
//! engine says that a key is.
//!
//! To open a named pipe waits for whoever writes to it, to open a device does what its driver likes, and a symbolic link
//! leads anywhere. So only regular files are opened, links are followed only where it is said, and what lies below a
//! directory is opened from its descriptor, a component at a time, so that no name leads out of it and no directory can
//! be exchanged on the way. (openat2 with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` does the same in one call. It has no
//! counterpart for unlink and rename, and container engines of before 2021 forbid it; with one level of
//! sub-directories, one way for all is as short.)

use super::OpenMode;
use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What [`open_file`] and its like call something else than a regular file.
fn kind(stat: &FileStat) -> Option<&'static str> {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("a directory"),
        SFlag::S_IFLNK => Some("a symbolic link"),
        SFlag::S_IFIFO => Some("a named pipe"),
        SFlag::S_IFSOCK => Some("a socket"),
        _ => Some("a device"),
    }
}

fn refused<P: NixPath + ?Sized>(name: &P, found: &str, wanted: &str) -> io::Error {
    let name = name.with_nix_path(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} is {found}, and must be {wanted}"))
}

fn must_be_regular<P: NixPath + ?Sized>(name: &P, stat: &FileStat) -> io::Result<()> {
    kind(stat).map_or(Ok(()), |found| Err(refused(name, found, "a regular file")))
}

fn flags_of(mode: OpenMode) -> OFlag {
    match mode {
        OpenMode::Read => OFlag::O_RDONLY,
        OpenMode::ReadWrite => OFlag::O_RDWR,
        OpenMode::Create => OFlag::O_RDWR | OFlag::O_CREAT,
        OpenMode::CreateNew => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
    }
}

fn open<P: NixPath + ?Sized>(dir: BorrowedFd<'_>, name: &P, flags: OFlag) -> io::Result<File> {
    // Looked at first, because some devices do something when they are opened; and afterwards, because what has the name may
    // have changed.
    let follow =
        if flags.contains(OFlag::O_NOFOLLOW) { AtFlags::AT_SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    if !flags.contains(OFlag::O_EXCL) {
        match fstatat(dir, name, follow) {
            Ok(stat) => must_be_regular(name, &stat)?,
            // Or a link that leads nowhere, which is not made to lead somewhere.
            Err(Errno::ENOENT) if flags.contains(OFlag::O_CREAT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = loop {
        match openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => break file,
            Err(Errno::EINTR) => {}
            Err(Errno::ELOOP) if flags.contains(OFlag::O_NOFOLLOW) => {
                return Err(refused(name, "a symbolic link", "a regular file"));
            }
            Err(e) => return Err(e.into()),
        }
    };
    must_be_regular(name, &fstat(&file)?)?;
    let kept = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?) - OFlag::O_NONBLOCK;
    fcntl(&file, FcntlArg::F_SETFL(kept))?;
    Ok(file.into())
}

/// Opens a regular file, not through a symbolic link; see [`OpenMode`].
///
/// # Errors
/// As open(2); `InvalidData` when something else has the name.
pub fn open_file(path: &Path, mode: OpenMode) -> io::Result<File> {
    open(AT_FDCWD, path, flags_of(mode) | OFlag::O_NOFOLLOW)
}

/// Opens a regular file for reading, also through symbolic links: for names that an administrator gave.
///
/// # Errors
/// As [`open_file`].
pub fn open_linked(path: &Path) -> io::Result<File> {
    open(AT_FDCWD, path, OFlag::O_RDONLY)
}

/// Opens the file `name` of directory `dir`, or makes it (mode 0600), to add to its end.
///
/// # Errors
/// As [`open_file`].
pub fn open_to_append(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
    open(dir.as_fd(), component(name)?, flags)
}

/// Opens the file `name` of directory `dir`; see [`OpenMode`].
///
/// # Errors
/// As [`open_file`].
pub fn open_at(dir: impl AsFd, name: &str, mode: OpenMode) -> io::Result<File> {
    open(dir.as_fd(), component(name)?, flags_of(mode) | OFlag::O_NOFOLLOW)
}

/// Opens a directory, not through a symbolic link.
///
/// # Errors
/// As open(2); `InvalidData` when a link has the name.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    open_dir_in(AT_FDCWD, path)
}

/// Opens the directory `name` of directory `dir`.
pub(super) fn open_dir_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    open_dir_in(dir.as_fd(), component(name)?)
}

fn open_dir_in<P: NixPath + ?Sized>(dir: BorrowedFd<'_>, name: &P) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty()).map_err(|e| {
        let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        match (e, found.as_ref().and_then(kind)) {
            (Errno::ENOTDIR | Errno::ELOOP, Some("a symbolic link")) => {
                refused(name, "a symbolic link", "a directory")
            }
            _ => e.into(),
        }
    })
}

/// `name`, which must not lead anywhere else than to an entry of the directory that it is looked up in.
pub(super) fn component(name: &str) -> io::Result<&str> {
    let leads_away = matches!(name, "" | "." | "..") || name.contains('/');
    if leads_away { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mknod;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    const MODES: [OpenMode; 3] = [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create];

    #[test]
    fn what_is_no_regular_file_is_not_opened_and_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir(at("dir")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("file"), "contents").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("nothing", at("nowhere")).unwrap();
        symlink("pipe", at("link-to-pipe")).unwrap();
        let mut names = vec!["pipe", "dir", "socket", "link", "nowhere", "link-to-pipe"];
        // The device that /dev/null is; only root can make one.
        if mknod(&at("device"), SFlag::S_IFCHR, Mode::S_IRWXU, 0x103).is_ok() {
            names.push("device");
        }
        let dir = open_dir(tmp.path()).unwrap();
        for name in names {
            for mode in MODES {
                for result in [open_file(&at(name), mode), open_at(&dir, name, mode)] {
                    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name} {mode:?}");
                }
            }
            assert_eq!(open_to_append(&dir, name).unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
        }
        assert!(!at("nothing").exists(), "a link must not make a file elsewhere");
        assert!(open_linked(&at("link-to-pipe")).is_err() && open_linked(&at("pipe")).is_err());
        let mut text = String::new();
        open_linked(&at("link")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "contents");
        for mode in MODES {
            open_file(&at("file"), mode).unwrap();
        }
        assert_eq!(
            open_file(&at("file"), OpenMode::CreateNew).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("dir")).unwrap();
        fs::write(tmp.path().join("file"), "").unwrap();
        symlink("..", tmp.path().join("dir/up")).unwrap();
        let dir = open_dir(&tmp.path().join("dir")).unwrap();
        let absolute = tmp.path().join("file").display().to_string();
        for name in ["../file", "..", ".", "", &absolute, "up/file"] {
            assert_eq!(
                open_at(&dir, name, OpenMode::Create).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        assert_eq!(open_dir_at(&dir, "up").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
