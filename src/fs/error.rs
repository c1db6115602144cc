//! What a file-system operation can fail with, and the errno for it.

use crate::meta::{MetaError, Refusal};
use crate::open_store::ChangeError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FsError {
    /// No such file or directory.
    NotFound,
    /// File exists.
    Exists,
    /// Not a directory.
    NotDirectory,
    /// Is a directory.
    IsDirectory,
    /// Directory not empty.
    NotEmpty,
    /// The volume is full: its size limit, its inode limit, or the host's disk.
    NoSpace,
    /// Too many links.
    TooManyLinks,
    /// Invalid argument.
    Invalid,
    /// File name too long.
    NameTooLong,
    /// File too large.
    TooLarge,
    /// Read-only file system.
    ReadOnly,
    /// What the inode belonged to is gone: it was rolled back or removed.
    Stale,
    /// Input/output error; the log says what and where.
    Io,
    /// Operation not permitted.
    NotPermitted,
    /// Operation not supported.
    NotSupported,
    /// No such extended attribute.
    NoXattr,
    /// The buffer is too small for the value.
    Range,
    /// An extended attribute is larger than any can be.
    TooBig,
    /// No data (or hole) behind the offset.
    NoData,
    /// The data is not in memory, and the caller said not to wait.
    WouldWait,
    /// The data is elsewhere, which cannot be reached at present: to be tried again when it can.
    Away,
}

impl FsError {
    /// The errno of errno(3).
    pub fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NoSpace => libc::ENOSPC,
            Self::TooManyLinks => libc::EMLINK,
            Self::Invalid => libc::EINVAL,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::TooLarge => libc::EFBIG,
            Self::ReadOnly => libc::EROFS,
            Self::Stale => libc::ESTALE,
            Self::Io => libc::EIO,
            Self::NotPermitted => libc::EPERM,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::NoXattr => libc::ENODATA,
            Self::Range => libc::ERANGE,
            Self::TooBig => libc::E2BIG,
            Self::NoData => libc::ENXIO,
            Self::WouldWait => libc::EAGAIN,
            // Nothing else has this number.
            Self::Away => libc::ENOLINK,
        }
    }
}

impl From<Refusal> for FsError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            // Never "no such file": readdir(3) takes that for the end of a directory.
            Refusal::Gone => Self::Stale,
            Refusal::Exists => Self::Exists,
            Refusal::NotDirectory => Self::NotDirectory,
            Refusal::IsDirectory => Self::IsDirectory,
            Refusal::NotEmpty => Self::NotEmpty,
            Refusal::NoSpace
            | Refusal::NoInodes
            | Refusal::NoMetadata
            | Refusal::HostFull
            | Refusal::XattrSpace => Self::NoSpace,
            Refusal::TooManyLinks => Self::TooManyLinks,
            // No operation of a file system removes a snapshot.
            Refusal::Invalid | Refusal::Held => Self::Invalid,
            Refusal::NoXattr => Self::NoXattr,
            Refusal::TooLarge => Self::TooLarge,
            Refusal::ReadOnly => Self::ReadOnly,
        }
    }
}

/// Damage of the metadata that a request met with last, until somebody takes it. A process serves one store.
static DAMAGE: Mutex<Option<String>> = Mutex::new(None);

/// Damage of the metadata that requests of this process have met with since this was last asked.
pub fn take_damage() -> Option<String> {
    DAMAGE.lock().take()
}

impl From<MetaError> for FsError {
    fn from(e: MetaError) -> Self {
        match e {
            MetaError::Refused(refusal) => refusal.into(),
            MetaError::Poisoned => Self::ReadOnly,
            MetaError::Database { .. } | MetaError::Host { .. } | MetaError::Damaged(_) => {
                log::error!("{e}");
                if e.is_damage() {
                    *DAMAGE.lock() = Some(e.to_string());
                }
                match e.host_kind() {
                    std::io::ErrorKind::StorageFull => Self::NoSpace,
                    _ => Self::Io,
                }
            }
        }
    }
}

impl From<ChangeError> for FsError {
    fn from(e: ChangeError) -> Self {
        match e {
            ChangeError::Meta(e) => e.into(),
            ChangeError::Append(e) => {
                log::error!("cannot write blocks: {e}");
                match e.source.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
                    _ => Self::Io,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_the_metadata_is_told_once() {
        take_damage();
        assert_eq!(FsError::from(MetaError::Damaged("a row".into())), FsError::Io);
        assert!(take_damage().is_some_and(|what| what.contains("a row")));
        assert_eq!(take_damage(), None);
    }
}
