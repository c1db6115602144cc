//! Which blocks of those that do not open are damaged, and of what.

use super::report::{Affected, Fault, FaultKind};
use crate::meta::{Ino, Inspector, Result, VolumeRow};
use crate::store::BlockAddr;
use crate::volume::find::{Naming, paths, users};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Suspects that are kept; those beyond are counted. A segment has a quarter of that.
const KEPT: usize = 1 << 16;
/// Damaged blocks that are listed; a segment that is missing has more of them than anyone reads.
const LISTED: usize = 1000;
/// Volumes that are listed for each.
const VOLUMES: usize = 100;
/// Of these, so many with the name of the file.
const NAMED: usize = 3;

/// Blocks that did not open when they were read.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    kept: Vec<(BlockAddr, String)>,
    more: u64,
}

impl Suspects {
    pub(super) fn add(&mut self, addr: BlockAddr, what: String) {
        match self.kept.len() < KEPT {
            true => self.kept.push((addr, what)),
            false => self.more += 1,
        }
    }

    /// Adds what comes behind all that is here.
    pub(super) fn append(&mut self, mut other: Self) {
        let room = KEPT - self.kept.len();
        let beyond = other.kept.len().saturating_sub(room);
        other.kept.truncate(room);
        self.kept.append(&mut other.kept);
        self.more += other.more + beyond as u64;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<BlockAddr> {
        self.kept.iter().map(|(addr, _)| *addr).collect()
    }
}

/// Blocks that are damaged.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Those that are listed.
    pub(super) faults: Vec<Fault>,
    /// So many more.
    pub(super) more: u64,
    /// What is not listed of a volume; what is of none that is known, under the empty name.
    pub(super) more_in: BTreeMap<String, u64>,
}

/// Where a block is in a volume.
struct Spot {
    /// Which volume.
    volume: usize,
    /// The first of the volume and its snapshots that has it.
    view: usize,
    ino: Ino,
    offset: u64,
    /// The last of them.
    last: usize,
    /// How many there are.
    views: u64,
}

/// Those of the blocks that somebody refers to, with whoever does.
pub(super) fn damage(inspector: &Inspector, suspects: Suspects) -> Result<Damage> {
    let mut out = Damage::default();
    if suspects.is_empty() {
        return Ok(out);
    }
    let wanted: FxHashSet<BlockAddr> = suspects.kept.iter().map(|(addr, _)| *addr).collect();
    let views = inspector.views()?;
    // Each volume before its snapshots.
    let mut volumes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, row) in views.iter().enumerate() {
        volumes.entry(volume_of(row)).or_default().push(at);
    }
    let mut damaged: FxHashSet<BlockAddr> = FxHashSet::default();
    let mut listed: FxHashMap<BlockAddr, Vec<Spot>> = FxHashMap::default();
    for (volume, (name, of_it)) in volumes.iter().enumerate() {
        let mut counted: FxHashSet<BlockAddr> = FxHashSet::default();
        let mut more = 0;
        for view in of_it.iter().copied() {
            users(inspector, &views[view], &wanted, |user| {
                damaged.insert(user.addr);
                let is_first = counted.insert(user.addr);
                let is_listed = listed.len() < LISTED || listed.contains_key(&user.addr);
                let mut none = Vec::new();
                let spots = if is_listed { listed.entry(user.addr).or_default() } else { &mut none };
                if is_first && is_listed && spots.len() < VOLUMES {
                    let (ino, offset) = (user.ino, user.offset);
                    spots.push(Spot { volume, view, ino, offset, last: view, views: 1 });
                } else if is_first {
                    more += 1;
                } else if let Some(spot) = spots.last_mut().filter(|spot| spot.volume == volume)
                    && spot.last != view
                {
                    (spot.last, spot.views) = (view, spot.views + 1);
                }
            })?;
        }
        if more > 0 {
            out.more_in.insert((*name).to_owned(), more);
        }
    }
    let names = names(inspector, &views, listed.values().flat_map(|spots| spots.iter().take(NAMED)))?;
    // In the order in which they were read.
    for (addr, what) in suspects.kept {
        let Some(spots) = listed.remove(&addr) else { continue };
        let affected: Vec<Affected> =
            spots.iter().map(|spot| affected(spot, &views[spot.view], &names)).collect();
        let said = spots.iter().zip(&affected).take(NAMED).map(|(spot, at)| sentence(at, spot.views));
        let mut said: Vec<String> = said.collect();
        if affected.len() > NAMED {
            said.push(format!("and {} more volumes", affected.len() - NAMED));
        }
        let (message, block) = (format!("{what} ({})", said.join(", ")), Some(addr.to_string()));
        out.faults.push(Fault { kind: FaultKind::Block, message, block, affected });
    }
    out.more = (damaged.len() - out.faults.len()) as u64 + suspects.more;
    if suspects.more > 0 {
        out.more_in.insert(String::new(), suspects.more);
    }
    Ok(out)
}

fn volume_of(row: &VolumeRow) -> &str {
    row.name.split('@').next().unwrap_or_default()
}

/// A name of each of the files, by view.
fn names<'a>(
    inspector: &Inspector,
    views: &[VolumeRow],
    spots: impl Iterator<Item = &'a Spot>,
) -> Result<FxHashMap<(usize, Ino), String>> {
    let mut wanted: BTreeMap<usize, FxHashSet<Ino>> = BTreeMap::new();
    for spot in spots {
        wanted.entry(spot.view).or_default().insert(spot.ino);
    }
    let mut out = FxHashMap::default();
    for (view, wanted) in wanted {
        for (ino, paths) in paths(inspector, &views[view], &wanted, Naming::one())? {
            out.extend(paths.names.into_iter().next().map(|name| ((view, ino), name)));
        }
    }
    Ok(out)
}

fn affected(spot: &Spot, row: &VolumeRow, names: &FxHashMap<(usize, Ino), String>) -> Affected {
    Affected {
        volume: volume_of(row).to_owned(),
        snapshot: row.name.split_once('@').map(|(_, snapshot)| snapshot.to_owned()),
        inode: spot.ino,
        path: names.get(&(spot.view, spot.ino)).cloned(),
        offset: spot.offset,
    }
}

/// Where a block is, and in how many snapshots of the volume beside that.
fn sentence(at: &Affected, views: u64) -> String {
    let name = at.snapshot.as_ref().map_or(at.volume.clone(), |snapshot| format!("{}@{snapshot}", at.volume));
    let file = at.path.clone().unwrap_or_else(|| format!("inode {}, which has no name", at.inode));
    let others = match (views - 1, &at.snapshot) {
        (0, _) => String::new(),
        (1, None) => ", and a snapshot of it".to_owned(),
        (n, None) => format!(", and {n} snapshots of it"),
        (1, Some(_)) => ", and another snapshot".to_owned(),
        (n, Some(_)) => format!(", and {n} more snapshots"),
    };
    format!("volume {name:?}, {file}, at byte {}{others}", at.offset)
}
