//! Which file a block or an inode number belongs to: what messages about damage name.

use super::error::{Result, VolumeError};
use crate::exit_code::Exit;
use crate::meta::{
    CHUNK_BLOCKS, ChunkRow, Ino, Inspector, Kind, Place, ROOT_INO, Result as MetaResult, VolumeRow,
};
use crate::store::{BLOCK_BYTES, BlockAddr};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

/// Deeper than any path is.
const DEPTH_MAX: usize = 4096;
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

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The volume, or `VOLUME@SNAPSHOT`.
    pub volume: String,
    /// Its number.
    pub inode: u64,
    /// All of its names, as paths from the root of the volume. None: it was removed, and is still open.
    pub paths: Vec<String>,
    /// Where in it the block is, in bytes.
    pub offset: Option<u64>,
}

/// Looks for a file in a volume and its snapshots, or for all files of the volumes of its store that have a block.
///
/// # Errors
/// `NoVolume`, or as the metadata.
pub fn find(inspector: &Inspector, volume: &str, sought: Sought) -> Result<Vec<Found>> {
    let views = inspector.views()?;
    if views.iter().all(|row| row.name != volume) {
        return Err(VolumeError::no_volume(volume));
    }
    let mut out = Vec::new();
    for row in &views {
        let is_of_it = row.name == volume || row.name.split_once('@').is_some_and(|(of, _)| of == volume);
        let found: Vec<(Ino, Option<u64>)> = match sought {
            Sought::Inode(ino) if is_of_it => holds(inspector, row, ino & ((1 << INO_BITS) - 1))?,
            Sought::Inode(_) => Vec::new(),
            Sought::Block(addr) => {
                let wanted = FxHashSet::from_iter([addr]);
                let users = users(inspector, row, &wanted)?.into_iter();
                users.map(|user| (user.ino, Some(user.offset))).collect()
            }
        };
        if found.is_empty() {
            continue;
        }
        let mut paths = paths(inspector, row, &found.iter().map(|(ino, _)| *ino).collect(), usize::MAX)?;
        for (ino, offset) in found {
            let mut paths = paths.remove(&ino).unwrap_or_default();
            paths.sort_unstable();
            out.push(Found { volume: row.name.clone(), inode: ino, paths, offset });
        }
    }
    Ok(out)
}

/// The error of who has found nothing.
pub fn not_found(volume: &str, sought: Sought) -> VolumeError {
    let what = match sought {
        Sought::Inode(ino) => format!(
            "no file of volume {volume:?} or of its snapshots has the inode number {ino}; it was removed, perhaps"
        ),
        Sought::Block(addr) => format!(
            "no file in the store of volume {volume:?} has block {addr}; what had it was overwritten or removed, perhaps"
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

/// All files of a volume that have one of these blocks.
pub(super) fn users(
    inspector: &Inspector,
    row: &VolumeRow,
    wanted: &FxHashSet<BlockAddr>,
) -> MetaResult<Vec<User>> {
    let segments: FxHashSet<u64> = wanted.iter().map(|addr| addr.segment).collect();
    let mut out = Vec::new();
    inspector.chunks(row, |ino, row| {
        let ChunkRow::Extents(idx, map) = row else { return Ok(()) };
        for extent in map.as_ref().map_or(&[][..], |map| map.extents()) {
            let Place::Data { addr, .. } = extent.place else { continue };
            if !segments.contains(&addr.segment) {
                continue;
            }
            for block in (0..extent.count).filter(|block| wanted.contains(&addr.plus(*block))) {
                let at = idx * u64::from(CHUNK_BLOCKS) + u64::from(extent.first + block);
                out.push(User { addr: addr.plus(block), ino, offset: at * BLOCK_BYTES as u64 });
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// The paths of each of the inodes, `most` of each at most: a file can have more hard links than there is memory for their paths.
///
/// # Errors
/// Damage, or as the database.
pub fn paths(
    inspector: &Inspector,
    row: &VolumeRow,
    wanted: &FxHashSet<Ino>,
    most: usize,
) -> MetaResult<FxHashMap<Ino, Vec<String>>> {
    // Of a directory, there is one name.
    let mut up: FxHashMap<Ino, (Ino, String)> = FxHashMap::default();
    let mut names: Vec<(Ino, Ino, String)> = Vec::new();
    let mut links: FxHashMap<Ino, usize> = FxHashMap::default();
    inspector.names(row, |parent, entry| {
        let name = || String::from_utf8_lossy(&entry.name).into_owned();
        if wanted.contains(&entry.ino) {
            let links = links.entry(entry.ino).or_default();
            *links += 1;
            if *links <= most {
                names.push((entry.ino, parent, name()));
            }
        }
        if entry.kind == Kind::Directory {
            up.insert(entry.ino, (parent, name()));
        }
        Ok(())
    })?;
    let mut out: FxHashMap<Ino, Vec<String>> = FxHashMap::default();
    if wanted.contains(&ROOT_INO) {
        out.insert(ROOT_INO, vec!["/".to_owned()]);
    }
    for (ino, parent, name) in &names {
        let (mut parts, mut at) = (vec![name.as_str()], *parent);
        while at != ROOT_INO && parts.len() < DEPTH_MAX {
            let Some((parent, name)) = up.get(&at) else { break };
            parts.push(name);
            at = *parent;
        }
        if at == ROOT_INO {
            parts.reverse();
            out.entry(*ino).or_default().push(format!("/{}", parts.join("/")));
        }
    }
    Ok(out)
}
