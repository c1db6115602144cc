//! The mounts of a store that were made, and have not been seen to end: a mount whose server is gone answers to no name, and can
//! live on where nobody looks, in a container.
//!
//! Of mounts of an earlier start of the host nothing is left.

use super::notes::lock;
use crate::durable;
use crate::root::Root;
use crate::store::StoreId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Where nobody may ask the kernel which mounts have ended, no more than this are remembered.
const MOST: usize = 1000;

/// A mount that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The volume, or `VOLUME@SNAPSHOT`.
    pub volume: String,
    /// The number of its connection in the kernel.
    pub connection: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    /// What tells one start of the host from another.
    boot: String,
    mounts: Vec<Made>,
}

fn path(root: &Root, id: StoreId) -> PathBuf {
    root.health().join(format!("{id}.mounts"))
}

/// What tells one start of the host from another.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    // No process outlives it.
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let found = fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())?;
    Ok(KNOWN.get_or_init(|| found).clone())
}

fn read(root: &Root, id: StoreId) -> io::Result<File> {
    let boot = boot_id()?;
    // What cannot be read names no mount: those that are served are known without it.
    let file: Option<File> = durable::read(&path(root, id)).ok().flatten();
    Ok(file.filter(|file| file.boot == boot).unwrap_or(File { boot, mounts: Vec::new() }))
}

fn change(root: &Root, id: StoreId, change: impl FnOnce(&mut Vec<Made>)) -> io::Result<()> {
    let _lock = lock(root, id)?;
    let before = read(root, id)?;
    let mut file = before.clone();
    change(&mut file.mounts);
    if file == before || !root.store(id).exists() {
        return Ok(());
    }
    durable::write_passing(&path(root, id), &file)
}

/// The mounts of a store that were made and have not been seen to end.
pub fn made(root: &Root, id: StoreId) -> Vec<Made> {
    read(root, id).map_or_else(|_| Vec::new(), |file| file.mounts)
}

/// A mount was made.
///
/// # Errors
/// The host's.
pub fn note_mount(root: &Root, id: StoreId, mount: Made) -> io::Result<()> {
    change(root, id, |mounts| {
        mounts.retain(|known| known.connection != mount.connection);
        mounts.push(mount);
        let beyond = mounts.len().saturating_sub(MOST);
        mounts.drain(..beyond);
    })
}

/// Mounts have ended: nobody has them any more.
///
/// # Errors
/// The host's.
pub fn forget_mounts(root: &Root, id: StoreId, connections: &[u32]) -> io::Result<()> {
    change(root, id, |mounts| mounts.retain(|known| !connections.contains(&known.connection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_known_until_they_end_or_the_host_starts_again() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(tmp.path()), StoreId(7));
        fs::create_dir_all(root.store(id)).unwrap();
        assert!(made(&root, id).is_empty());
        let mount = |volume: &str, connection| Made { volume: volume.to_owned(), connection };
        note_mount(&root, id, mount("v", 50)).unwrap();
        note_mount(&root, id, mount("w", 51)).unwrap();
        // The kernel uses numbers again.
        note_mount(&root, id, mount("x", 50)).unwrap();
        assert_eq!(made(&root, id), [mount("w", 51), mount("x", 50)]);
        forget_mounts(&root, id, &[51, 99]).unwrap();
        assert_eq!(made(&root, id), [mount("x", 50)]);
        let text = fs::read_to_string(path(&root, id)).unwrap();
        fs::write(path(&root, id), text.replace(&boot_id().unwrap(), "another")).unwrap();
        assert!(made(&root, id).is_empty());
        fs::write(path(&root, id), "{").unwrap();
        assert!(made(&root, id).is_empty());
        note_mount(&root, id, mount("v", 52)).unwrap();
        assert_eq!(made(&root, id), [mount("v", 52)]);
    }
}
