//! Generations: the tree, lineages, and who needs which.
//!
//! Every volume writes to a generation of its own, its *head*. A snapshot keeps the head as it is and gives the volume
//! a new one below it; so does a clone, which gets one for itself too. A generation that no volume and no snapshot holds
//! any more is *dead*: without children, its rows go; with one child, they become the child's, and the generation is
//! *merged*: what the child shadows goes, everything else stays where it is and counts as the child's from then on.
//!
//! A *group* is a generation with the merged ones directly above it: they are one as far as visibility is concerned.

use super::db::Db;
use super::error::{MetaError, Result};
use super::types::Gen;
use std::collections::BTreeMap;

/// The path from a head generation to the root of the tree.
#[derive(Clone, Debug)]
pub(super) struct Lineage {
    /// Ascending; the head is the last.
    path: Vec<Gen>,
    /// Generations of the path from this one on belong to the head alone.
    floor: Gen,
}

impl Lineage {
    /// The generation that is written to.
    pub(super) fn head(&self) -> Gen {
        self.path.last().copied().unwrap_or(0)
    }

    /// From here on, everything there is belongs to others too, and `head` is written to.
    pub(super) fn freeze(&mut self, head: Gen) {
        self.path.push(head);
        self.floor = head;
    }

    /// Whether rows of `generation` are visible.
    pub(super) fn contains(&self, generation: Gen) -> bool {
        generation == self.head() || self.path.binary_search(&generation).is_ok()
    }

    /// Whether rows of `generation`, which is on the path, are seen through this lineage only: they may be changed in
    /// place, and what they refer to goes with them.
    pub(super) fn is_exclusive(&self, generation: Gen) -> bool {
        generation >= self.floor
    }

    /// The generations that only one of two lineages has.
    pub(super) fn difference(&self, other: &Self) -> Vec<Gen> {
        let own = self.path.iter().filter(|generation| !other.contains(**generation));
        let others = other.path.iter().filter(|generation| !self.contains(**generation));
        own.chain(others).copied().collect()
    }

    /// The newest generation that others see too.
    pub(super) fn last_shared(&self) -> Option<Gen> {
        let at = self.path.partition_point(|generation| *generation < self.floor);
        at.checked_sub(1).map(|at| self.path[at])
    }

    /// Whether all visible rows have the head's number.
    pub(super) fn is_single(&self) -> bool {
        self.path.len() == 1
    }
}

#[derive(Clone, Debug)]
struct Node {
    parent: Gen,
    children: Vec<Gen>,
    /// Volumes and snapshots that have it as their head.
    holders: u32,
    merged: bool,
}

/// What is to be done about a dead generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Nobody sees it: all rows of these generations go.
    Drop(Vec<Gen>),
    /// Only through these children is it seen: rows that all of them shadow go.
    Absorb {
        /// The dead group.
        group: Vec<Gen>,
        /// The groups below it.
        children: Vec<Vec<Gen>>,
    },
}

/// The tree of generations of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Generations {
    nodes: BTreeMap<Gen, Node>,
    /// Counts what changes the tree, or who holds what.
    changes: u64,
}

impl Generations {
    /// Reads the tree, and who holds what.
    pub(super) fn read(db: &Db) -> Result<Self> {
        let mut tree = Self::default();
        let mut statement = db.prepare("SELECT gen, parent, merged FROM generation ORDER BY gen")?;
        let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
        while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
            let (generation, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
            let known = parent == 0 || tree.nodes.contains_key(&(parent as Gen));
            if generation < 1 || parent < 0 || parent >= generation || !known {
                return Err(MetaError::damaged(format!("generation {generation} has an impossible parent")));
            }
            tree.add(generation as Gen, parent as Gen, row.get(2)?);
        }
        let mut statement = db.prepare("SELECT head FROM volume UNION ALL SELECT gen FROM snapshot")?;
        let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
        while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
            let head: i64 = row.get(0)?;
            let node = tree.nodes.get_mut(&(head as Gen));
            let node = node.filter(|node| !node.merged);
            node.ok_or_else(|| MetaError::damaged(format!("generation {head} is missing")))?.holders += 1;
        }
        Ok(tree)
    }

    /// A number that is another one whenever the tree, or who holds what, may be another.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    fn add(&mut self, generation: Gen, parent: Gen, merged: bool) {
        self.changes += 1;
        self.nodes.insert(generation, Node { parent, children: Vec::new(), holders: 0, merged });
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.push(generation);
        }
    }

    /// A new generation below `parent` (0: a root), held once.
    pub(super) fn born(&mut self, generation: Gen, parent: Gen) {
        self.add(generation, parent, false);
        self.hold(generation);
    }

    /// One more volume or snapshot has it as its head.
    pub(super) fn hold(&mut self, generation: Gen) {
        self.changes += 1;
        if let Some(node) = self.nodes.get_mut(&generation) {
            node.holders += 1;
        }
    }

    /// One less has.
    pub(super) fn release(&mut self, generation: Gen) {
        self.changes += 1;
        if let Some(node) = self.nodes.get_mut(&generation) {
            node.holders = node.holders.saturating_sub(1);
        }
    }

    /// The lineage of a head.
    pub(super) fn lineage(&self, head: Gen) -> Result<Lineage> {
        let mut path = Vec::new();
        let mut floor = head;
        let mut at = head;
        while at != 0 {
            let node = self.nodes.get(&at);
            let node = node.ok_or_else(|| MetaError::damaged(format!("generation {at} is missing")))?;
            if node.merged && path.last() == Some(&floor) {
                floor = at;
            }
            path.push(at);
            at = node.parent;
        }
        if path.is_empty() {
            return Err(MetaError::damaged("a volume has no generation"));
        }
        path.reverse();
        Ok(Lineage { path, floor })
    }

    /// A generation that is not merged, with the merged ones directly above it, descending.
    pub(super) fn group(&self, generation: Gen) -> Vec<Gen> {
        let mut group = vec![generation];
        let mut at = self.nodes.get(&generation).map_or(0, |node| node.parent);
        while let Some(node) = self.nodes.get(&at).filter(|node| node.merged) {
            group.push(at);
            at = node.parent;
        }
        group
    }

    /// The groups below a generation.
    pub(super) fn children(&self, generation: Gen) -> Vec<Vec<Gen>> {
        let Some(node) = self.nodes.get(&generation) else { return Vec::new() };
        node.children.iter().map(|child| self.group(self.foot(*child))).collect()
    }

    /// Whether a generation descends from another.
    pub(super) fn is_below(&self, generation: Gen, ancestor: Gen) -> bool {
        let mut at = generation;
        while at > ancestor {
            at = self.nodes.get(&at).map_or(0, |node| node.parent);
        }
        at == ancestor
    }

    /// The generation that a merged one was merged into, or itself.
    fn foot(&self, generation: Gen) -> Gen {
        let mut at = generation;
        while let Some(node) = self.nodes.get(&at).filter(|node| node.merged) {
            let Some(child) = node.children.first() else { break };
            at = *child;
        }
        at
    }

    /// The dead generations that are not merged, with what is to be done.
    pub(super) fn deaths(&self) -> impl Iterator<Item = (Gen, Death)> + '_ {
        self.nodes.iter().filter(|(_, node)| node.holders == 0 && !node.merged).map(|(generation, node)| {
            let group = self.group(*generation);
            let death = match node.children.is_empty() {
                true => Death::Drop(group),
                false => Death::Absorb { group, children: self.children(*generation) },
            };
            (*generation, death)
        })
    }

    /// Whether something is left to be done about some dead generation. One with several children stays as it is: what
    /// all of them hide goes from time to time.
    pub(super) fn has_deaths(&self) -> bool {
        self.nodes.values().any(|node| node.holders == 0 && !node.merged && node.children.len() < 2)
    }

    /// Generations of dead groups with several children.
    fn lingering(&self) -> Vec<Gen> {
        let dead = self.deaths().filter_map(|(_, death)| match death {
            Death::Absorb { group, children } if children.len() > 1 => Some(group),
            _ => None,
        });
        dead.flatten().collect()
    }

    /// A dead generation has become one with its only child.
    pub(super) fn merge(&mut self, generation: Gen) {
        self.changes += 1;
        if let Some(node) = self.nodes.get_mut(&generation) {
            node.merged = true;
        }
    }

    /// The rows of a group are gone.
    pub(super) fn forget(&mut self, group: &[Gen]) {
        self.changes += 1;
        for generation in group {
            let Some(node) = self.nodes.remove(generation) else { continue };
            if let Some(parent) = self.nodes.get_mut(&node.parent) {
                parent.children.retain(|child| child != generation);
            }
        }
    }
}

/// Which rows somebody sees. Generations are numbered in the order of a walk through the tree, in which the descendants of
/// each follow it directly.
#[derive(Debug)]
pub(super) struct Sight {
    /// Where the descendants of each generation begin and end in the walk.
    spans: BTreeMap<Gen, (usize, usize)>,
    /// Heads of volumes and snapshots before each place of the walk.
    heads: Vec<usize>,
    /// Generations whose rows may be unseen for a while.
    lingering: Vec<Gen>,
}

impl Sight {
    pub(super) fn new(tree: &Generations, heads: impl Iterator<Item = Gen>) -> Self {
        let mut spans = BTreeMap::new();
        let mut order = Vec::new();
        let roots = tree.nodes.iter().filter(|(_, node)| node.parent == 0).map(|(generation, _)| *generation);
        // Each generation twice: when the walk enters it, and when it leaves.
        let mut pending: Vec<(Gen, bool)> = roots.map(|root| (root, false)).collect();
        while let Some((generation, leaving)) = pending.pop() {
            if leaving {
                if let Some((_, end)) = spans.get_mut(&generation) {
                    *end = order.len();
                }
                continue;
            }
            spans.insert(generation, (order.len(), order.len()));
            order.push(generation);
            pending.push((generation, true));
            let children = tree.nodes.get(&generation).map_or(&[][..], |node| &node.children);
            pending.extend(children.iter().map(|child| (*child, false)));
        }
        let mut at = vec![0usize; order.len() + 1];
        for head in heads {
            if let Some((start, _)) = spans.get(&head) {
                at[start + 1] += 1;
            }
        }
        for i in 1..at.len() {
            at[i] += at[i - 1];
        }
        Self { spans, heads: at, lingering: tree.lingering() }
    }

    /// How many rows of one key, of these generations (ascending), nobody sees.
    pub(super) fn unseen(&self, rows: &[Gen]) -> u64 {
        let spans: Vec<(usize, usize)> =
            rows.iter().map(|row| self.spans.get(row).copied().unwrap_or((0, 0))).collect();
        let seers = |span: (usize, usize)| self.heads[span.1] - self.heads[span.0];
        let inside = |one: (usize, usize), other: (usize, usize)| other.0 <= one.0 && one.1 <= other.1;
        let mut unseen = 0;
        for (i, span) in spans.iter().enumerate() {
            let newer = &spans[i + 1..];
            // Those directly below: inside this one, and inside no other that is.
            let below = newer.iter().enumerate().filter(|(j, one)| {
                inside(**one, *span)
                    && !newer[..*j].iter().any(|other| inside(*other, *span) && inside(**one, *other))
            });
            let hidden: usize = below.map(|(_, one)| seers(*one)).sum();
            unseen += u64::from(seers(*span) <= hidden && !self.lingering.contains(&rows[i]));
        }
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 - 2 - 3 - 4, and 5 below 2; 4 and 5 are held.
    fn tree() -> Generations {
        let mut tree = Generations::default();
        for (generation, parent) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 2)] {
            tree.born(generation, parent);
        }
        tree
    }

    #[test]
    fn a_lineage_holds_its_path_and_nothing_else() {
        let lineage = tree().lineage(5).unwrap();
        assert_eq!(lineage.head(), 5);
        assert!([1, 2, 5].iter().all(|g| lineage.contains(*g)));
        assert!([0, 3, 4, 6].iter().all(|g| !lineage.contains(*g)));
        assert!(lineage.last_shared().is_some() && !lineage.is_single());
        assert!(lineage.is_exclusive(5) && !lineage.is_exclusive(2));
        assert!(tree().lineage(9).is_err());
    }

    #[test]
    fn dead_generations_are_dropped_or_absorbed() {
        let mut tree = tree();
        assert!(!tree.has_deaths());
        tree.release(3);
        let absorb = |group: &[Gen], children: &[&[Gen]]| Death::Absorb {
            group: group.to_vec(),
            children: children.iter().map(|c| c.to_vec()).collect(),
        };
        assert_eq!(tree.deaths().collect::<Vec<_>>(), [(3, absorb(&[3], &[&[4]]))]);
        tree.merge(3);
        assert!(!tree.has_deaths() && tree.lingering().is_empty());
        let lineage = tree.lineage(4).unwrap();
        assert!(lineage.is_exclusive(3) && !lineage.is_exclusive(2));
        tree.release(2);
        assert_eq!(tree.deaths().collect::<Vec<_>>(), [(2, absorb(&[2], &[&[4, 3], &[5]]))]);
        assert!(!tree.has_deaths() && tree.lingering() == [2]);
        tree.release(4);
        let deaths: Vec<_> = tree.deaths().map(|(generation, _)| generation).collect();
        assert_eq!(deaths, [2, 4]);
        tree.forget(&[4, 3]);
        assert_eq!(tree.deaths().collect::<Vec<_>>(), [(2, absorb(&[2], &[&[5]]))]);
        tree.merge(2);
        tree.release(1);
        tree.merge(1);
        assert_eq!(tree.lineage(5).unwrap().last_shared(), None);
        assert_eq!(tree.group(5), [5, 2, 1]);
    }
}
