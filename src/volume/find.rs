//! Which file a block or an inode number belongs to: what messages about damage name.

use super::error::{Result, VolumeError};
use crate::exit_code::Exit;
use crate::meta::{
    CHUNK_BLOCKS, ChunkRow, Ino, Inspector, Kind, Place, ROOT_INO, Result as MetaResult, VolumeId, VolumeRow,
};
use crate::store::{BLOCK_BYTES, BlockAddr, Run};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Names of a file, and files of each volume and snapshot, that are listed; and both together. A file can have more hard links, and a
/// block more files, than there is memory for their paths.
const LINKS: usize = 1000;
const LISTED: usize = 10_000;
/// A longer path is cut, in bytes. The kernel takes none that is longer at once.
const LONGEST: usize = 4096;
/// The bits of the inode numbers of a mount that say in which snapshot they are.
const INO_BITS: u32 = 48;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sought {
    /// A file by its number.
    Inode(u64),
    /// Whoever has a block.
    Block(BlockAddr),
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundFiles {
    /// By volume.
    pub found: Vec<Found>,
    /// Places in files beyond those that are listed.
    pub more: u64,
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The volume, or `VOLUME@SNAPSHOT`.
    pub volume: String,
    /// Its number.
    pub inode: u64,
    /// Its names, as paths from the root of the volume. None: it was removed, and is still open.
    pub paths: Vec<String>,
    /// It has so many more names.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_paths: u64,
    /// Where in it the block is, in bytes.
    pub offset: Option<u64>,
}

/// Looks for a file in a volume and its snapshots, or for all files of the volumes of its store that have a block.
///
/// # Errors
/// `NoVolume`, or as the metadata.
pub fn find(inspector: &Inspector, volume: &str, sought: Sought) -> Result<FoundFiles> {
    let views = inspector.views()?;
    if views.iter().all(|row| row.name != volume) {
        return Err(VolumeError::no_volume(volume));
    }
    let mut out = FoundFiles::default();
    let mut room = LISTED;
    for row in &views {
        let is_of_it = row.name == volume || row.name.split_once('@').is_some_and(|(of, _)| of == volume);
        let mut found: Vec<(Ino, Option<u64>)> = Vec::new();
        match sought {
            Sought::Inode(ino) if is_of_it => found = holds(inspector, row, ino & ((1 << INO_BITS) - 1))?,
            Sought::Inode(_) => {}
            Sought::Block(addr) => users(inspector, row, &FxHashSet::from_iter([addr]), |user| {
                match out.found.len() + found.len() < LISTED {
                    true => found.push((user.ino, Some(user.offset))),
                    false => out.more += 1,
                }
            })?,
        }
        if found.is_empty() {
            continue;
        }
        let wanted: FxHashSet<Ino> = found.iter().map(|(ino, _)| *ino).collect();
        let links = if room > 0 { LINKS } else { 1 };
        let most = Naming { links, total: room.max(wanted.len()), bytes: LONGEST };
        let mut paths = paths(inspector, row, &wanted, most)?;
        room = room.saturating_sub(paths.values().map(|paths| paths.names.len()).sum());
        for (ino, offset) in found {
            let known = paths.entry(ino).or_default();
            let Paths { names, more } = known.clone();
            out.found.push(Found {
                volume: row.name.clone(),
                inode: ino,
                paths: names,
                more_paths: more,
                offset,
            });
            // At other places in the same file, one name tells which it is.
            known.more += known.names.len().saturating_sub(1) as u64;
            known.names.truncate(1);
        }
    }
    Ok(out)
}

/// The error of who has found nothing.
pub fn not_found(volume: &str, sought: Sought) -> VolumeError {
    let what = match sought {
        Sought::Inode(ino) => format!(
            "no file of volume {volume:?} or of its snapshots has the inode number {ino}; it may have been removed"
        ),
        Sought::Block(addr) => format!(
            "no file in the store of volume {volume:?} has block {addr}; the file that had it may have been overwritten or removed"
        ),
    };
    VolumeError::new(Exit::Failure, what)
}

/// The inode, if the volume has it.
fn holds(inspector: &Inspector, row: &VolumeRow, wanted: Ino) -> Result<Vec<(Ino, Option<u64>)>> {
    let mut found = Vec::new();
    inspector.inodes(row, |inode| {
        if inode.ino == wanted {
            found.push((wanted, None));
        }
        Ok(())
    })?;
    Ok(found)
}

/// A file that has a block.
pub(super) struct User {
    pub(super) addr: BlockAddr,
    pub(super) ino: Ino,
    /// Where in it, in bytes.
    pub(super) offset: u64,
}

/// Calls `each` with every place in files of a volume that has one of these blocks.
pub(super) fn users(
    inspector: &Inspector,
    row: &VolumeRow,
    wanted: &FxHashSet<BlockAddr>,
    mut each: impl FnMut(User),
) -> MetaResult<()> {
    let segments: FxHashSet<u64> = wanted.iter().map(|addr| addr.segment).collect();
    inspector.chunks(row, |ino, row| {
        let ChunkRow::Extents(idx, map) = row else { return Ok(()) };
        for extent in map.as_ref().map_or(&[][..], |map| map.extents()) {
            let Place::Data { addr, .. } = extent.place else { continue };
            if !segments.contains(&addr.segment) {
                continue;
            }
            for block in (0..extent.count).filter(|block| wanted.contains(&addr.plus(*block))) {
                let at = idx * u64::from(CHUNK_BLOCKS) + u64::from(extent.first + block);
                each(User { addr: addr.plus(block), ino, offset: at * BLOCK_BYTES as u64 });
            }
        }
        Ok(())
    })
}

/// The volumes with files that have some of these blocks; `runs` are ascending, and do not touch each other.
///
/// # Errors
/// Damage, or as the database.
pub fn volumes_with(inspector: &Inspector, runs: &[Run]) -> MetaResult<BTreeSet<VolumeId>> {
    let mut with = BTreeSet::new();
    for row in inspector.volumes()? {
        inspector.chunks(&row, |_, chunk| {
            let ChunkRow::Extents(_, map) = chunk else { return Ok(()) };
            for extent in map.as_ref().map_or(&[][..], |map| map.extents()) {
                if let Place::Data { addr, .. } = extent.place
                    && overlaps(runs, Run::new(addr, extent.count))
                {
                    with.insert(row.id);
                }
            }
            Ok(())
        })?;
    }
    Ok(with)
}

/// Whether some of `runs`, which are ascending and do not touch each other, is in `run`.
pub fn overlaps(runs: &[Run], run: Run) -> bool {
    let from = runs.partition_point(|other| {
        (other.start.segment, other.end_index()) <= (run.start.segment, run.start.index)
    });
    runs.get(from)
        .is_some_and(|other| other.start.segment == run.start.segment && other.start.index < run.end_index())
}

/// How much of the names of files is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// Names of each file.
    pub links: usize,
    /// Names of all of them.
    pub total: usize,
    /// Bytes of a path; of a longer one, the end is shown.
    pub bytes: usize,
}

impl Naming {
    /// One name of each, as messages have it.
    pub fn one() -> Self {
        Self { links: 1, total: usize::MAX, bytes: 512 }
    }
}

/// What a file is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Its names, as paths from the root of the volume, sorted.
    pub names: Vec<String>,
    /// It has so many more.
    pub more: u64,
}

/// A name that is wanted, and the directory that it is in.
struct Link {
    ino: Ino,
    parent: Ino,
    name: Box<[u8]>,
}

/// The paths of each of the inodes. The names are looked through twice: first, only a few bytes are kept of each directory.
///
/// # Errors
/// Damage, or as the database.
pub fn paths(
    inspector: &Inspector,
    row: &VolumeRow,
    wanted: &FxHashSet<Ino>,
    most: Naming,
) -> MetaResult<FxHashMap<Ino, Paths>> {
    let mut out: FxHashMap<Ino, Paths> = FxHashMap::default();
    let mut links: Vec<Link> = Vec::new();
    // Of a directory, there is one name: where it is, and how long that is.
    let mut up: FxHashMap<Ino, (Ino, u16)> = FxHashMap::default();
    let mut listed: FxHashMap<Ino, usize> = FxHashMap::default();
    inspector.names(row, |parent, entry| {
        if entry.kind == Kind::Directory {
            up.insert(entry.ino, (parent, u16::try_from(entry.name.len()).unwrap_or(u16::MAX)));
        }
        if wanted.contains(&entry.ino) {
            let of_it = listed.entry(entry.ino).or_default();
            if *of_it < most.links && links.len() < most.total {
                *of_it += 1;
                links.push(Link { ino: entry.ino, parent, name: entry.name });
            } else {
                out.entry(entry.ino).or_default().more += 1;
            }
        }
        Ok(())
    })?;
    // The directories above a name, from the nearest on, as far as they are shown; whether that is up to the root.
    let above = |link: &Link| {
        let (mut dirs, mut at, mut bytes) = (Vec::new(), link.parent, link.name.len() + 1);
        while at != ROOT_INO {
            let (parent, length) = up.get(&at)?;
            bytes += usize::from(*length) + 1;
            if bytes > most.bytes {
                return Some((dirs, false));
            }
            dirs.push(at);
            at = *parent;
        }
        Some((dirs, true))
    };
    let needed: FxHashSet<Ino> = links.iter().filter_map(above).flat_map(|(dirs, _)| dirs).collect();
    let mut names: FxHashMap<Ino, Box<[u8]>> = FxHashMap::default();
    if !needed.is_empty() {
        inspector.names(row, |_, entry| {
            if entry.kind == Kind::Directory && needed.contains(&entry.ino) {
                names.insert(entry.ino, entry.name);
            }
            Ok(())
        })?;
    }
    for link in &links {
        let Some((dirs, is_whole)) = above(link) else { continue };
        let mut path = if is_whole { String::new() } else { "…".to_owned() };
        let dirs = dirs.iter().rev().filter_map(|dir| names.get(dir));
        for name in dirs.chain([&link.name]) {
            path.push('/');
            path.push_str(&String::from_utf8_lossy(name));
        }
        out.entry(link.ino).or_default().names.push(path);
    }
    if wanted.contains(&ROOT_INO) {
        out.insert(ROOT_INO, Paths { names: vec!["/".to_owned()], more: 0 });
    }
    out.values_mut().for_each(|paths| paths.names.sort_unstable());
    Ok(out)
}
