//! What a check found.

use serde::{Deserialize, Serialize};

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
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is wrong. Nothing, in a sound store.
    pub faults: Vec<Fault>,
    /// Faults beyond those listed.
    pub more_faults: u64,
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
}

/// Faults listed one by one; a badly damaged store has more of them than anyone reads.
const LISTED: usize = 1000;

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn fault(&mut self, kind: FaultKind, message: impl Into<String>) {
        self.add(Fault { kind, message: message.into(), block: None });
    }

    pub(super) fn add(&mut self, fault: Fault) {
        if self.faults.len() < LISTED {
            self.faults.push(fault);
        } else {
            self.more_faults += 1;
        }
    }
}
