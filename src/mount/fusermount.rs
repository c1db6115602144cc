//! fusermount3(1), which mounts and unmounts for ordinary users: it is set-user-ID root, and decides what they may.

use super::{FS_TYPE, MountOptions};
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::geteuid;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program, as libfuse 3 and libfuse 2 name it. mount(8) leaves its helpers no PATH.
const PROGRAMS: [&str; 4] = ["fusermount3", "/usr/bin/fusermount3", "fusermount", "/usr/bin/fusermount"];
/// In its environment, the number of the file that it is to send the device over.
const SOCKET: &str = "_FUSE_COMMFD";
/// What it reads to know what users may do.
const CONFIG: &str = "/etc/fuse.conf";

/// Whether a mount that this process makes may be for others than its user: for root, always; for ordinary users, where
/// `/etc/fuse.conf` says `user_allow_other`.
pub fn may_allow_other() -> bool {
    geteuid().is_root() || fs::read_to_string(CONFIG).is_ok_and(|text| allows_other(&text))
}

fn allows_other(config: &str) -> bool {
    config.lines().any(|line| line.trim() == "user_allow_other")
}

/// What the program said, if it failed.
#[derive(Debug)]
enum Failure {
    /// It could not be run.
    NotRun(io::Error),
    Said(String),
}

/// Runs it. `socket` becomes its standard input.
fn run(args: &[&OsStr], socket: Option<OwnedFd>) -> std::result::Result<(), Failure> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(args).current_dir("/").env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
        match &socket {
            Some(socket) => {
                let socket = socket.try_clone().map_err(Failure::NotRun)?;
                command.env(SOCKET, "0").stdin(socket);
            }
            None => drop(command.stdin(Stdio::null())),
        }
        let child = match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                missing = e;
                continue;
            }
            other => other.map_err(Failure::NotRun)?,
        };
        let output = child.wait_with_output().map_err(Failure::NotRun)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or_default();
        return Err(Failure::Said(match said {
            "" => format!("{program}: {}", output.status),
            said => said.to_owned(),
        }));
    }
    Err(Failure::NotRun(missing))
}

/// The device that it has sent over the other end of its socket.
fn received(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut bytes,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(files) = control
            && let Some(file) = files.first()
        {
            #[expect(unsafe_code, reason = "received descriptors come as bare numbers")]
            // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(*file) });
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it sent no device"))
}

/// What it is told with `-o`. Times of access are the server's affair.
fn option_list(volume: &str, options: &MountOptions) -> String {
    // `fuse.larder` is the type that these make.
    let subtype = FS_TYPE.trim_start_matches("fuse.");
    let mut list = format!("fsname={volume},subtype={subtype},default_permissions,nosuid,nodev");
    let flags = options.flags();
    for (flag, name) in [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_SYNCHRONOUS, "sync"),
        (MsFlags::MS_DIRSYNC, "dirsync"),
        (MsFlags::MS_NOATIME, "noatime"),
        (MsFlags::MS_LAZYTIME, "lazytime"),
        (super::options::NO_SYMFOLLOW, "nosymfollow"),
    ] {
        if flags.contains(flag) {
            list += ",";
            list += name;
        }
    }
    if options.allow_other {
        list += ",allow_other";
    }
    list + &options.data()
}

/// Mounts a volume on `dir` for an ordinary user, as [`super::mount`] does for root. Such a mount has no devices and no programs that run
/// as another user, and only its user gets to it, unless he may and does let others in.
///
/// # Errors
/// No such program, what it does not allow, and what to do about it.
pub(super) fn mount(volume: &str, dir: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let refused = |exit: Exit, why: &str| {
        VolumeError::new(exit, format!("cannot mount {volume:?} on {}: {why}", dir.display()))
    };
    if let Some(option) = options.needs_root() {
        let why = format!("the option {option:?} needs root; leave it out");
        return Err(refused(Exit::Permission, &why));
    }
    let failed = |e: io::Error| refused(Exit::Failure, &format!("fusermount3: {e}"));
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let list = option_list(volume, options);
    let args: [&OsStr; 4] = ["-o".as_ref(), list.as_ref(), "--".as_ref(), dir.as_ref()];
    match run(&args, Some(theirs.into())) {
        Ok(()) => received(&ours).map_err(failed),
        Err(Failure::NotRun(e)) => Err(refused(
            Exit::Permission,
            &format!(
                "ordinary users mount with fusermount3, and running it failed ({e}); install the package fuse3, or mount as root"
            ),
        )),
        Err(Failure::Said(said)) => {
            let (exit, hint) = explain(&said);
            Err(refused(exit, &format!("{said}{hint}")))
        }
    }
}

/// The exit code for what it said, and what to do about that.
fn explain(said: &str) -> (Exit, &'static str) {
    const KNOWN: &[(&str, Exit, &str)] = &[
        (
            "user_allow_other",
            Exit::Permission,
            "; ask the administrator to add that line, or leave the option allow_other out",
        ),
        ("too many FUSE", Exit::Failure, "; unmount others, or ask the administrator to raise it"),
        ("no write access to mountpoint", Exit::MountPoint, "; choose a directory of your own"),
        ("not owned by user", Exit::MountPoint, "; choose a directory of your own"),
        ("mounting over filesystem type", Exit::MountPoint, "; choose a directory on another file system"),
        (
            "open /dev/fuse",
            Exit::Permission,
            "; ordinary users need permission to read and write it (mode 666, as udev sets it)",
        ),
        (
            "determine username",
            Exit::Permission,
            "; it mounts only for users that the host knows (getent passwd)",
        ),
        (
            "Operation not permitted",
            Exit::Permission,
            "; it has to be set-user-ID root, and not be run with no_new_privs, as in many containers",
        ),
        ("unknown option", Exit::Usage, "; this version of it cannot do that for ordinary users"),
        ("Invalid argument", Exit::Usage, "; this version of it may not know one of the mount options"),
    ];
    let found = KNOWN.iter().find(|(text, ..)| said.contains(text));
    found.map_or((Exit::MountPoint, ""), |(_, exit, hint)| (*exit, hint))
}

/// Unmounts what an ordinary user has mounted.
///
/// # Errors
/// As umount2(2): `EPERM` also when there is no such program, or the mount is somebody else's.
pub(super) fn unmount(dir: &Path, lazy: bool) -> std::result::Result<(), Errno> {
    let mut args: Vec<&OsStr> = vec!["-u".as_ref()];
    args.extend(lazy.then_some(OsStr::new("-z")));
    args.extend([OsStr::new("--"), dir.as_ref()]);
    match run(&args, None) {
        Ok(()) => Ok(()),
        Err(Failure::Said(said)) if said.contains("busy") => Err(Errno::EBUSY),
        Err(e) => {
            log::debug!("unmounting {}: {e:?}", dir.display());
            Err(Errno::EPERM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_allowed_by_a_line_of_its_own() {
        assert!(allows_other("# comment\nmount_max = 10\n  user_allow_other\n"));
        for config in ["", "#user_allow_other\n", "# user_allow_other", "user_allow_other_things\n"] {
            assert!(!allows_other(config), "{config}");
        }
    }

    #[test]
    fn a_users_mount_has_the_options_that_were_asked_for_and_no_privileges() {
        let list = |text: &str| option_list("db", &MountOptions::parse(&[text.to_owned()], false).unwrap());
        let usual = "fsname=db,subtype=larder,default_permissions,nosuid,nodev";
        assert_eq!(list(""), usual);
        assert_eq!(list("ro,noatime,allow_other,commit=1"), format!("{usual},ro,noatime,allow_other"));
    }

    #[test]
    fn what_it_says_is_explained() {
        let option =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(explain(option), (Exit::Permission, hint) if hint.contains("allow_other out")));
        let dir = "fusermount3: user has no write access to mountpoint /usr";
        assert!(matches!(explain(dir), (Exit::MountPoint, hint) if hint.contains("your own")));
        assert!(matches!(explain("fusermount3: something else"), (Exit::MountPoint, "")));
    }
}
