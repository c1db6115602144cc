//! A store with damaged metadata: bytes of the database and of its WAL, with seals and checksums that fit or do not,
//! and rows that SQLite finds nothing wrong with. Looked at, checked, opened and used.

pub mod build;
pub mod damage;
pub mod using;

use super::Input;
use super::memory::MemoryDir;
use larder::backing::Dir;
use larder::crypto::Keys;
use larder::meta::{ChunkRow, Inspector, MetaError};
use larder::store::{Header, Sealer, Segments};
use larder::volume::check::{CheckOptions, check};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The files of a store.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte();
    let base = if mode & 0x80 == 0 { build::closed() } else { build::crashed() };
    let mut files = base.clone();
    let sealed = match mode % 6 {
        0 => damage::pages(&mut files, &mut input, false),
        1 => damage::pages(&mut files, &mut input, true),
        2 => damage::wal(&mut files, &mut input, false),
        3 => damage::wal(&mut files, &mut input, true),
        4 => damage::rows(&mut files, &mut input),
        _ => damage::replace(&mut files, &mut input),
    };
    survive(&files, sealed);
}

/// Looks at, checks, opens and uses a store. `sealed` says whether somebody made its damage look sound.
pub fn survive(files: &Files, sealed: bool) {
    let dir = MemoryDir::with_files(files);
    // Damage that does not make seals for itself is never taken for contents.
    if let Some(tree) = look(&dir, &Keys::Plain)
        && !sealed
    {
        let known = build::trees();
        assert!(known.contains(&tree), "a damaged database showed what never was there: {tree:?}");
    }
    let after = dir.files();
    for (name, bytes) in files {
        assert!(after.get(name) == Some(bytes), "looking changed {name}");
    }
    assert_eq!(after.len(), files.len(), "looking made a file");
    using::open(&dir, Keys::Plain);
}

/// What `ls`, `inspect` and `check` do; all names and attributes, if they can be read.
pub fn look(dir: &Arc<MemoryDir>, keys: &Keys) -> Option<Vec<String>> {
    let dir: Arc<dyn Dir> = dir.clone();
    let header = Header::read(&*dir).ok()?;
    header.check_keys(&*dir, keys).ok()?;
    let mut inspector = Inspector::open_with(Arc::clone(&dir), header.store, keys).ok()?;
    let tree = tree(&inspector).ok();
    let segments = Segments::new(dir, header.store, Sealer::new(keys), 0..0);
    let options = CheckOptions { read_data: true, online: false };
    let report = check(&mut inspector, &segments, options, &mut |_| {});
    tree.filter(|_| report.is_ok_and(|report| report.is_clean()))
}

fn tree(inspector: &Inspector) -> Result<Vec<String>, MetaError> {
    let mut out = Vec::new();
    for row in inspector.volumes()? {
        out.push(format!("{row:?} {:?}", inspector.labels(row.id)?));
        inspector.inodes(&row, |inode| {
            out.push(format!("{inode:?}"));
            Ok(())
        })?;
        inspector.names(&row, |parent, entry| {
            out.push(format!("{parent} {entry:?}"));
            Ok(())
        })?;
        inspector.chunks(&row, |ino, row| {
            out.push(match row {
                ChunkRow::Extents(idx, map) => format!("{ino} {idx} {:?}", map?),
                ChunkRow::Reserved(first, map) => format!("{ino} {first} {:?}", map?),
            });
            Ok(())
        })?;
        out.push(format!("{:?}", inspector.orphans(row.id)?));
    }
    out.push(format!("{:?} {:?}", inspector.shares()?, inspector.freed()?));
    out.push(format!("{:?}", inspector.segments()?));
    Ok(out)
}
