//! The exit codes of the `larder` command. They are stable: scripts may rely on them. docs/commands.md lists them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason that has no code of its own.
    Failure = 1,
    /// The command line makes no sense: an unknown option, a bad name or size.
    Usage = 2,
    /// There is no such volume.
    NoVolume = 3,
    /// A volume of that name exists.
    Exists = 4,
    /// The volume is mounted, or another process has its store open.
    Busy = 5,
    /// The mountpoint cannot be used: missing, no directory, not empty, or something is mounted there.
    MountPoint = 6,
    /// Permission was denied.
    Permission = 7,
    /// The kernel offers no FUSE: `/dev/fuse` is missing or refuses.
    NoFuse = 8,
    /// The store is damaged, or `check` found faults.
    Damaged = 9,
    /// The store was written by a newer version of this program.
    NewerFormat = 10,
    /// The host file system is full.
    NoSpace = 11,
    /// The host file system failed or is read-only.
    HostIo = 12,
    /// The secret of an encrypted store is wrong, or there is none.
    Secret = 13,
    /// `status`: a volume is not healthy.
    Unhealthy = 14,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code for an error of the host file system.
    pub fn of_io(e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match e.kind() {
            K::PermissionDenied => Self::Permission,
            K::StorageFull | K::QuotaExceeded => Self::NoSpace,
            _ => Self::HostIo,
        }
    }

    /// What programs call it: `--json` prints this with an error. As stable as the number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::NoVolume => "no-volume",
            Self::Exists => "exists",
            Self::Busy => "busy",
            Self::MountPoint => "mountpoint",
            Self::Permission => "permission",
            Self::NoFuse => "no-fuse",
            Self::Damaged => "damaged",
            Self::NewerFormat => "newer-format",
            Self::NoSpace => "no-space",
            Self::HostIo => "host-io",
            Self::Secret => "secret",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The code as a number came over the control socket.
    pub fn of_number(number: u8) -> Self {
        const ALL: [Exit; 15] = [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::NoVolume,
            Exit::Exists,
            Exit::Busy,
            Exit::MountPoint,
            Exit::Permission,
            Exit::NoFuse,
            Exit::Damaged,
            Exit::NewerFormat,
            Exit::NoSpace,
            Exit::HostIo,
            Exit::Secret,
            Exit::Unhealthy,
        ];
        ALL.get(usize::from(number)).copied().unwrap_or(Self::Failure)
    }
}

/// Exit codes of mount helpers, as mount(8) documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MountExit {
    /// Incorrect invocation or permissions.
    Usage = 1,
    /// System error (out of memory, cannot fork, no more loop devices).
    System = 2,
    /// Mount failure.
    Failure = 32,
}

impl From<Exit> for MountExit {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Usage | Exit::Permission => Self::Usage,
            Exit::NoFuse | Exit::HostIo | Exit::NoSpace => Self::System,
            _ => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable() {
        let mut names = std::collections::HashSet::new();
        for number in 0..15 {
            let exit = Exit::of_number(number);
            assert_eq!(exit as u8, number);
            assert!(names.insert(exit.name()), "{number}");
        }
        assert_eq!(Exit::of_number(200), Exit::Failure);
        assert_eq!(Exit::Busy as u8, 5);
    }
}
