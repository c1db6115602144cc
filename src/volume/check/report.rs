//! What a check found.

use super::damage::Damage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// `meta.db` is damaged.
    Database,
    /// The tree of directories is not one, or names do not match inodes.
    Tree,
    /// A count (links, entries, blocks, usage, references) is wrong.
    Count,
    /// An extent map makes no sense.
    Extent,
    /// A segment is missing, damaged, or not what it should be.
    Segment,
    /// A block's seal does not open.
    Block,
}

impl FaultKind {
    /// Whether contents of files are damaged, and nothing else.
    pub fn is_damage(self) -> bool {
        matches!(self, Self::Segment | Self::Block)
    }
}

/// A place in a file that a damaged block belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// The volume.
    pub volume: String,
    /// Its snapshot, if the volume itself has something else there by now.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The file.
    pub inode: u64,
    /// What it is called, as far as that was looked for.
    #[serde(default)]
    pub path: Option<String>,
    /// Where in it the block is, in bytes.
    pub offset: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What it is about.
    pub kind: FaultKind,
    /// What it is, in a line.
    pub message: String,
    /// The block that it is about, as `SEGMENT:BLOCK`, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// A place in each of the volumes that have this block. None: it is about all of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected: Vec<Affected>,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is wrong. Nothing, in a sound store.
    pub faults: Vec<Fault>,
    /// Faults beyond those listed.
    pub more_faults: u64,
    /// Of these, damaged blocks.
    #[serde(default)]
    pub more_damaged: u64,
    /// Damaged blocks of a volume beyond those listed as its own; what is of none that is known, under the empty name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more_in: BTreeMap<String, u64>,
    /// What is remarkable and no fault.
    pub notes: Vec<String>,
    /// Inodes seen.
    pub inodes: u64,
    /// Directory entries seen.
    pub entries: u64,
    /// Blocks that something refers to.
    pub blocks: u64,
    /// Segments seen.
    pub segments: u64,
    /// Blocks whose seals were opened.
    pub blocks_read: u64,
    /// Blocks that are not on this host, because they are in the remote only: they were not read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blocks_absent: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Faults listed one by one; a badly damaged store has more of them than anyone reads.
const LISTED: usize = 1000;

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether the metadata could be looked at: what a damaged database says of the rest was not believed.
    pub fn has_seen_metadata(&self) -> bool {
        self.faults.iter().all(|fault| fault.kind != FaultKind::Database)
    }

    /// Damaged blocks, by the volumes that have them; those of none that is known under the empty name.
    pub fn damaged(&self) -> BTreeMap<String, u64> {
        let mut damaged = self.more_in.clone();
        for fault in self.faults.iter().filter(|fault| fault.kind.is_damage()) {
            if fault.affected.is_empty() {
                *damaged.entry(String::new()).or_default() += 1;
            }
            for at in &fault.affected {
                *damaged.entry(at.volume.clone()).or_default() += 1;
            }
        }
        damaged
    }

    /// Takes in what reading blocks has found.
    pub(super) fn add_damage(&mut self, damage: Damage) {
        let Damage { faults, more, more_in } = damage;
        faults.into_iter().for_each(|fault| self.add(fault));
        self.more_faults += more;
        self.more_damaged += more;
        for (volume, more) in more_in {
            *self.more_in.entry(volume).or_default() += more;
        }
    }

    pub(super) fn fault(&mut self, kind: FaultKind, message: impl Into<String>) {
        self.add(Fault { kind, message: message.into(), block: None, affected: Vec::new() });
    }

    fn add(&mut self, fault: Fault) {
        if self.faults.len() < LISTED {
            self.faults.push(fault);
            return;
        }
        self.more_faults += 1;
        if fault.kind.is_damage() {
            self.more_damaged += 1;
            for at in fault.affected {
                *self.more_in.entry(at.volume).or_default() += 1;
            }
        }
    }
}
