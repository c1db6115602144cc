//! Files of what is remembered of volumes, with errors that name them.

pub(super) use crate::durable::{names, read};
use crate::volume::{Result, VolumeError};
use serde::{Serialize, de::DeserializeOwned};
use std::fs;
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

/// Takes away what interruptions have left of files that were never there as a whole. Nobody writes in `dir` meanwhile.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".json.new")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interruption_left_is_swept_away() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("dir/a.json");
        write(&path, &vec![1u8, 2]).unwrap();
        let left = path.with_file_name(".b.json.new");
        fs::write(&left, b"[").unwrap();
        sweep(path.parent().unwrap());
        assert!(path.exists() && !left.exists());
    }
}
