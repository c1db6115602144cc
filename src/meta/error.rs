//! What can go wrong in the metadata.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a mutation was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such inode or name.
    NotFound,
    /// The volume or snapshot itself is not there any more, or not open.
    Gone,
    /// The name exists.
    Exists,
    /// Not a directory.
    NotDirectory,
    /// A directory.
    IsDirectory,
    /// The directory has entries.
    NotEmpty,
    /// The volume's size limit would be exceeded.
    NoSpace,
    /// The volume's inode limit would be exceeded.
    NoInodes,
    /// The volume's limit of metadata would be exceeded.
    NoMetadata,
    /// The host's disk has no room for more.
    HostFull,
    /// The inode has as many links as it can have.
    TooManyLinks,
    /// A directory would become its own ancestor, or the arguments make no sense.
    Invalid,
    /// The extended attributes of an inode would take too much room.
    XattrSpace,
    /// No such extended attribute.
    NoXattr,
    /// The file would grow past 16 TiB.
    TooLarge,
    /// A snapshot does not change.
    ReadOnly,
    /// A snapshot is held, and is not removed.
    Held,
}

/// A failed metadata operation.
#[derive(Debug, Error)]
pub enum MetaError {
    /// The operation was refused.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// The database failed.
    #[error("{}", sqlite_text(.source, .detail))]
    Database {
        /// What SQLite said.
        source: rusqlite::Error,
        /// What the backing file said, with its path.
        detail: Option<String>,
    },
    /// A file of the metadata could not be read or written.
    #[error("{}: {source}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A row holds what no row may hold.
    #[error("the metadata are damaged: {0}")]
    Damaged(String),
    /// An earlier failure left the open transaction half done: it will never be committed.
    #[error("the metadata accept no more changes after an earlier failure")]
    Poisoned,
}

fn sqlite_text(source: &rusqlite::Error, detail: &Option<String>) -> String {
    match detail {
        Some(detail) => format!("{detail} (metadata database: {source})"),
        None => format!("metadata database: {source}"),
    }
}

impl From<Refusal> for MetaError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<rusqlite::Error> for MetaError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Database { source, detail: None }
    }
}

impl MetaError {
    /// An error about a row that cannot be.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// Whether the cause is damage on disk rather than a refusal or a host error.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database { source, .. } => matches!(
                source.sqlite_error().map(|e| (e.code, e.extended_code)),
                Some((rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase, _))
                    | Some((_, rusqlite::ffi::SQLITE_IOERR_DATA))
            ),
            Self::Refused(_) | Self::Host { .. } | Self::Poisoned => false,
        }
    }

    /// What the host said, as far as it is known: `StorageFull` when its disk is full, or a quota.
    pub fn host_kind(&self) -> io::ErrorKind {
        match self {
            Self::Host { source, .. } if crate::backing::is_full(source) => io::ErrorKind::StorageFull,
            Self::Host { source, .. } => source.kind(),
            Self::Database { source, .. } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
                Some(rusqlite::ErrorCode::ReadOnly) => io::ErrorKind::ReadOnlyFilesystem,
                _ => io::ErrorKind::Other,
            },
            Self::Refused(_) | Self::Damaged(_) | Self::Poisoned => io::ErrorKind::Other,
        }
    }
}

/// The result of a metadata operation.
pub type Result<T, E = MetaError> = std::result::Result<T, E>;
