//! Many threads at the limits of a volume.

use super::ground::{Dice, Failure, Ground, Used};
use crate::support::wait_until;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub const BLOCKS: u64 = 300;
pub const INODES: u64 = 40;
const THREADS: u64 = 4;
const SLOTS: u64 = 20;

fn path(thread: u64, slot: u64) -> String {
    format!("t{thread}-{slot}")
}

/// Files are made, filled, cut and removed, with the volume full most of the time. Usage never exceeds the limits, and
/// is the sum of what the files use in the end.
pub fn storm<G: Ground>(ground: &G, until: Instant) {
    let over = AtomicBool::new(false);
    let refused: u64 = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let Used { blocks, inodes } = ground.used();
                assert!(blocks <= BLOCKS && inodes <= INODES, "{blocks} blocks and {inodes} inodes are used");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || one(ground, thread, until))).collect();
        let refused = threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        refused.into_iter().map(|refused| refused.unwrap()).sum()
    });
    assert!(refused > 0, "no limit was met");

    let (mut blocks, mut inodes) = (0, 1);
    for name in ground.list("") {
        let file = ground.open(&name).unwrap();
        // Whatever was left in the kernel's cache has found its place, or has been refused.
        let _ = ground.sync(&file);
        blocks += ground.facts(&file).blocks;
        inodes += 1;
        ground.close(file);
    }
    let expected = Used { blocks, inodes };
    // The kernel lets go of removed inodes in its own time.
    wait_until("usage is the sum of what the files use", || ground.used() == expected);
}

/// One thread's work; returns how often it was refused.
fn one<G: Ground>(ground: &G, thread: u64, until: Instant) -> u64 {
    let mut dice = Dice::new(thread + 1);
    let mut refused = 0;
    while Instant::now() < until {
        let path = path(thread, dice.below(SLOTS));
        let result = if dice.below(3) == 0 {
            ground.unlink(&path)
        } else {
            let opened = match ground.open(&path) {
                Err(Failure::NotFound) => ground.create(&path),
                other => other,
            };
            opened.and_then(|file| {
                let (offset, len) =
                    (dice.below(40) * 4096 + dice.below(2) * 100, dice.below(60_000) as usize + 1);
                let result = match dice.below(5) {
                    0 => ground.truncate(&file, offset),
                    _ => ground.write(&file, offset, &vec![7; len]).and_then(|()| ground.sync(&file)),
                };
                ground.close(file);
                result
            })
        };
        match result {
            Ok(()) | Err(Failure::NotFound) => {}
            Err(Failure::NoSpace) => refused += 1,
            Err(e) => panic!("{e:?}"),
        }
    }
    refused
}
