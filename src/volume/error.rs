//! Why a command on a volume failed, in one line, with the exit code for it.

use crate::exit_code::Exit;
use crate::meta::MetaError;
use crate::open_store::OpenError;
use crate::store::HeaderError;
use std::fmt;
use std::io;
use std::path::Path;

/// A failed command: one line that says what failed, on what, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeError {
    /// The exit code.
    pub exit: Exit,
    /// The line.
    pub message: String,
    /// A process that was asked has not answered in time, which says nothing about what it was asked for: it may still do it.
    pub silent: bool,
}

/// The result of a command.
pub type Result<T, E = VolumeError> = std::result::Result<T, E>;

impl VolumeError {
    /// An error.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), silent: false }
    }

    /// A process does not answer.
    pub fn silent(message: impl Into<String>) -> Self {
        Self { silent: true, ..Self::new(Exit::Failure, message) }
    }

    /// An error of the host file system.
    pub fn io(path: &Path, e: &io::Error) -> Self {
        let exit = Exit::of_io(e);
        let hint = match exit {
            Exit::NoSpace => "; free some space on that disk and try again",
            Exit::Permission => "; run larder as root",
            _ => "",
        };
        Self::new(exit, format!("{}: {e}{hint}", path.display()))
    }

    /// There is no such volume.
    pub fn no_volume(name: &str) -> Self {
        Self::new(Exit::NoVolume, format!("there is no volume {name:?}; `larder ls` lists the volumes"))
    }

    /// The error with what else can be done.
    #[must_use]
    pub fn hint(mut self, what: &str) -> Self {
        self.message = format!("{}; {what}", self.message);
        self
    }

    /// The error with what was being done in front.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for VolumeError {}

impl From<HeaderError> for VolumeError {
    fn from(e: HeaderError) -> Self {
        match &e {
            HeaderError::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Self::new(Exit::Damaged, format!("{}: the store header is missing", path.display()))
            }
            HeaderError::Io { path, source } => Self::io(path, source),
            HeaderError::Damaged { .. } => {
                Self::new(Exit::Damaged, format!("{e}; restore the file from a backup of the store"))
            }
            HeaderError::Unsupported { .. } => Self::new(Exit::NewerFormat, e.to_string()),
            HeaderError::Stale { .. } => Self::new(Exit::Failure, e.to_string()),
            HeaderError::Locked { .. } | HeaderError::NotEncrypted { .. } => {
                Self::new(Exit::Secret, e.to_string())
            }
        }
    }
}

impl From<MetaError> for VolumeError {
    fn from(e: MetaError) -> Self {
        if e.is_damage() {
            return Self::new(Exit::Damaged, format!("{e}; the store is damaged, restore it from a backup"));
        }
        match e.host_kind() {
            io::ErrorKind::StorageFull => {
                Self::new(Exit::NoSpace, format!("{e}; free some space on that disk and try again"))
            }
            io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Permission, format!("{e}; run larder as root"))
            }
            _ => Self::new(Exit::HostIo, e.to_string()),
        }
    }
}

impl From<OpenError> for VolumeError {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Header(e) => e.into(),
            OpenError::Meta(e) => e.into(),
            OpenError::Io { path, source } => Self::io(&path, &source),
        }
    }
}
