//! Small files of JSON that are there whole or not at all.

use crate::backing::{OpenMode, open_file};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

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

/// What room is kept in, in bytes: no file system that writes in place gives back less.
const KEPT: usize = 4096;

/// The same as [`write()`], where there may be no room for it: a file beside it has as much as it needs, and the two take each other's names. So
/// what is written goes to room that is there already, but where it becomes longer, or was never written so before.
///
/// # Errors
/// The host's.
pub fn write_kept(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long());
    }
    let (Some(dir), Some(spare)) = (path.parent(), spare_of(path)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // (JSON may end so.)
    bytes.resize(bytes.len().next_multiple_of(KEPT), b'\n');
    let file = open_file(&spare, OpenMode::Create)?;
    // On the disk, it may still have the other name, if the last exchange was interrupted.
    let dir = File::open(dir)?;
    dir.sync_all()?;
    file.write_all_at(&bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    if renameat2(AT_FDCWD, &spare, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE).is_err() {
        // It is the first one, or the host cannot do that.
        fs::rename(&spare, path)?;
        let kept = open_file(&spare, OpenMode::Create)
            .and_then(|file| file.write_all_at(&vec![b'\n'; bytes.len()], 0).and_then(|()| file.sync_all()));
        if let Err(e) = kept {
            log::debug!("cannot reserve space for {}: {e}", path.display());
        }
    }
    dir.sync_all()
}

/// The file beside `path` that [`write_kept`] keeps room with. No name that something is looked for under begins with a dot.
fn spare_of(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(format!(".{}.new", path.file_name()?.display())))
}

/// Removes what [`write_kept`] has written to `path`, and the room that was kept for it; durable when this returns.
///
/// # Errors
/// The host's; `NotFound` where nothing is.
pub fn remove_kept(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    if let Some(spare) = spare_of(path) {
        match fs::remove_file(spare) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    File::open(path.parent().unwrap_or(path))?.sync_all()
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

    /// On a full disk, nothing could be written in the place of what was there.
    #[test]
    fn what_is_written_again_goes_to_room_that_was_kept() {
        use std::os::unix::fs::MetadataExt;
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.json");
        let files = || {
            let mut all: Vec<_> = fs::read_dir(tmp.path())
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap())
                .map(|meta| (meta.ino(), meta.len(), meta.blocks() > 0))
                .collect();
            all.sort_unstable();
            all
        };
        write_kept(&path, &vec![1u8]).unwrap();
        let there = files();
        assert!(there.len() == 2 && there.iter().all(|(_, len, has_room)| *len == 4096 && *has_room));
        for value in 2..9u8 {
            write_kept(&path, &vec![value]).unwrap();
            assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![value]));
            assert_eq!(files(), there, "no other file");
        }
        // What is longer takes more, and what was left half written is not looked at.
        let long = "x".repeat(5000);
        write_kept(&path, &long).unwrap();
        fs::write(tmp.path().join(".a.json.new"), "half").unwrap();
        assert_eq!(read::<String>(&path).unwrap(), Some(long));
        write_kept(&path, &vec![1u8]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![1]));
        remove_kept(&path).unwrap();
        assert!(files().is_empty());
        assert_eq!(remove_kept(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
