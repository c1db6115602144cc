//! Small files of JSON that are there whole or not at all.

use crate::backing::{OpenMode, open_file};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// No file of ours is longer.
const MAX_BYTES: u64 = 16 << 20;
const SHORT: usize = 1 << 10;

/// Puts `value` in the place of what was at `path`; durable when this returns. Two must not do so at once.
///
/// # Errors
/// The host's.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    put(path, value, true)
}

/// The same for what means nothing after the next start of the host: a crash of it may leave what was there before, or nothing.
///
/// # Errors
/// The host's.
pub fn write_passing(path: &Path, value: &impl Serialize) -> io::Result<()> {
    put(path, value, false)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "too long")
}

fn put(path: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long());
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // No name that something is looked for under begins with a dot.
    let new = dir.join(format!(".{}.new", name.display()));
    let mut file = open_file(&new, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all(&bytes)?;
    if !durable {
        return fs::rename(&new, path);
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// What is at `path`; `None` if nothing is.
///
/// # Errors
/// The host's, or `InvalidData` for what is no such value.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match open_file(path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Most are as short as this, and read at once.
    let mut bytes = Vec::with_capacity(SHORT);
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long());
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Removes what is at `path`, if something is; durable when this returns.
///
/// # Errors
/// The host's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// The names of the files in `dir`, without the ending `.json`.
///
/// # Errors
/// As readdir(3). A directory that does not exist has none.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name =
            name.to_str().filter(|name| !name.starts_with('.')).and_then(|name| name.strip_suffix(".json"));
        names.extend(name.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("dir/a.json");
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), None);
        write(&path, &vec![1u8, 2]).unwrap();
        write_passing(&path, &vec![3u8]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(names(path.parent().unwrap()).unwrap(), ["a"]);
        for broken in [&b"[3"[..], b""] {
            fs::write(&path, broken).unwrap();
            assert_eq!(read::<Vec<u8>>(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        // What could not be read again does not take the place of what can.
        write(&path, &vec![4u8]).unwrap();
        assert!(write(&path, &"x".repeat(MAX_BYTES as usize)).is_err());
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![4]));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(names(path.parent().unwrap()).unwrap(), Vec::<String>::new());
    }
}
