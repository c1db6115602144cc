//! What a store occupies on the disk of the host: what would be free if the family in it were not there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The unit of `st_blocks`, whatever the file system.
const ST_BLOCK: u64 = 512;

/// Bytes that a store occupies, its metadata and its log of changes among them. Files that go while they are looked at are not counted.
///
/// # Errors
/// As readdir(3).
pub(super) fn footprint(store: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        // No link is followed, here or below.
        let Ok(meta) = entry.metadata() else { continue };
        bytes += occupied(&meta);
        if meta.is_dir() {
            let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            bytes += inner.filter_map(|entry| entry.metadata().ok()).map(|meta| occupied(&meta)).sum::<u64>();
        }
    }
    Ok(bytes)
}

fn occupied(meta: &Metadata) -> u64 {
    meta.blocks() * ST_BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_not_occupied_and_what_links_lead_to_is_not_either() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("segments")).unwrap();
        let empty = footprint(dir.path()).unwrap();
        let hole = fs::File::create(dir.path().join("segments/hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("segments/link")).unwrap();
        fs::write(dir.path().join("segments/full"), vec![7; 1 << 20]).unwrap();
        fs::File::open(dir.path().join("segments/full")).unwrap().sync_all().unwrap();
        let bytes = footprint(dir.path()).unwrap() - empty;
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(footprint(&dir.path().join("missing")).is_err());
    }
}
