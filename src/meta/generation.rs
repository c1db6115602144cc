//! Generations and lineages.

use super::types::Gen;

/// The path from a volume's head generation to the root of the tree.
#[derive(Clone, Debug)]
pub(super) struct Lineage {
    /// Ascending; the head is the last.
    path: Vec<Gen>,
}

impl Lineage {
    /// From the generations of the path, in any order; at least one.
    pub(super) fn new(mut path: Vec<Gen>) -> Self {
        path.sort_unstable();
        Self { path }
    }

    /// The generation that is written to.
    pub(super) fn head(&self) -> Gen {
        self.path.last().copied().unwrap_or(0)
    }

    /// Whether rows of `generation` are visible.
    pub(super) fn contains(&self, generation: Gen) -> bool {
        generation == self.head() || self.path.binary_search(&generation).is_ok()
    }

    /// Whether an older generation could hold a row for the same key, so that a removal must leave a whiteout.
    pub(super) fn has_ancestors(&self) -> bool {
        self.path.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_holds_its_path_and_nothing_else() {
        let lineage = Lineage::new(vec![7, 1, 4]);
        assert_eq!(lineage.head(), 7);
        assert!([1, 4, 7].iter().all(|g| lineage.contains(*g)));
        assert!([0, 2, 5, 8].iter().all(|g| !lineage.contains(*g)));
        assert!(lineage.has_ancestors() && !Lineage::new(vec![3]).has_ancestors());
    }
}
