//! Files of what is remembered of volumes, with errors that name them.

pub(super) use crate::durable::{names, read};
use crate::volume::{Result, VolumeError};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::path::Path;

/// As [`crate::durable::write`].
///
/// # Errors
/// The host's.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write(path, value)
}

pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    crate::durable::write(path, value).map_err(|e| VolumeError::io(path, &e))
}

/// As [`crate::durable::read`].
///
/// # Errors
/// The host's, or `InvalidData` for what is no such value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    read(path)
}

pub(super) fn remove(path: &Path) -> Result<()> {
    crate::durable::remove(path).map_err(|e| VolumeError::io(path, &e))
}
