//! The file system against a plain model of it: random operations on both, compared after each.
//!
//! The file system runs here without a mount and on a simulated disk, so that thousands of sequences take seconds, and
//! processes are killed and power is cut in the middle of them. The model is as simple as
//! can be: a tree of inodes with their bytes in vectors. Where the two disagree, the sequence is shrunk to the shortest
//! that still fails; every failure that was found is kept in `regressions` below.

mod family;
mod family_steps;
pub mod harness;
pub mod history;
pub mod operation;
pub mod reference;
pub mod view;

use harness::Harness;
use larder::fs::Kind;
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

    #[test]
    fn the_file_system_does_what_the_model_does_at_its_limit_of_metadata(operations in operations(1..120)) {
        Harness::with_metadata(3_000).run(&operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases() / 2,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_encrypted_file_system_does_what_the_model_does(operations in operations(1..120)) {
        Harness::encrypted(None, None).run(&operations);
    }

    #[test]
    fn a_file_system_on_an_uneven_disk_does_what_the_model_does(operations in operations(1..120)) {
        Harness::uneven().run(&operations);
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

    fn make(name: u8, kind: Kind) -> Operation {
        Operation::Make { parent: 0, name, kind, permissions: 0o644 }
    }

    fn write(ino: usize, offset: u64, len: usize) -> Operation {
        Operation::Write { ino, offset, len, salt: offset + 1, may_be_short: false }
    }

    #[test]
    fn an_empty_sequence() {
        run(&[]);
    }

    /// A replay named blocks of a segment whose header the power cut had taken.
    #[test]
    fn a_segment_whose_blocks_survived_and_whose_header_did_not() {
        for seed in 0..100 {
            let lost = Operation::LosePower { seed };
            run(&[
                make(0, Kind::Regular),
                Operation::Commit,
                write(0, 0, 9000),
                write(0, 50_000, 9000),
                lost,
            ]);
        }
    }

    /// The zeros at the end of its last block were not written, and the segment was shorter than its tail.
    #[test]
    fn a_segment_whose_last_zeros_did_not_survive() {
        for seed in 0..100 {
            let lost = Operation::LosePower { seed };
            run(&[make(0, Kind::Regular), Operation::Commit, write(0, 0, 100), lost]);
        }
    }

    /// What a removed snapshot held was handed to two rows that hid it in volumes of their own.
    #[test]
    fn a_snapshot_that_two_clones_outlive() {
        run(&[
            make(3, Kind::Regular),
            Operation::Snapshot { name: 0 },
            Operation::Snapshot { name: 1 },
            write(0, 0, 1),
            Operation::Snapshot { name: 2 },
            Operation::Clone { source: 16 },
            Operation::Clone { source: 31 },
            Operation::Link { ino: 0, parent: 0, name: 0 },
            write(0, 4096, 1),
            Operation::Snapshot { name: 3 },
            Operation::RemoveSnapshot { snapshot: 46 },
            Operation::Allocate {
                ino: 0,
                offset: 0,
                len: 1,
                mode: larder::fs::AllocateMode::Reserve { keep_size: false },
            },
            Operation::RemoveVolume { volume: 8 },
        ]);
    }

    /// An orphan's attributes stayed when a removed snapshot had become one with its volume.
    #[test]
    fn an_orphan_that_a_clone_and_a_snapshot_had() {
        run(&[
            make(0, Kind::Regular),
            Operation::Unlink { parent: 0, name: 0 },
            Operation::SetXattr { ino: 1, name: 0, len: 0, create: true, replace: false },
            Operation::Clone { source: 0 },
            write(0, 0, 1),
            Operation::Snapshot { name: 0 },
            Operation::Reopen,
            Operation::RemoveSnapshot { snapshot: 0 },
        ]);
    }
}
