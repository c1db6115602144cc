//! The file system against a plain model of it: random operations on both, compared after each.
//!
//! The file system runs here without a mount, so that thousands of sequences take seconds. The model is as simple as
//! can be: a tree of inodes with their bytes in vectors. Where the two disagree, the sequence is shrunk to the shortest
//! that still fails; every failure that was found is kept in `regressions` below.

mod harness;
mod operation;
mod reference;

use harness::Harness;
use operation::{Operation, operations};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_file_system_does_what_the_model_does(operations in operations(1..120)) {
        Harness::new(None, None).run(&operations);
    }

    #[test]
    fn the_file_system_does_what_the_model_does_at_its_limits(operations in operations(1..120)) {
        Harness::new(Some(96), Some(12)).run(&operations);
    }
}

/// Sequences a run; `LARDER_MODEL_CASES` makes it more.
fn cases() -> u32 {
    std::env::var("LARDER_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// Sequences that failed once.
mod regressions {
    use super::*;

    fn run(operations: &[Operation]) {
        Harness::new(None, None).run(operations);
    }

    #[test]
    fn an_empty_sequence() {
        run(&[]);
    }
}
