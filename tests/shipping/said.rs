//! States that are other than one comes across often.

use super::keys::{Busy, Said};
use super::{Memory, attached, id_of, kept, made, shipper};
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk};
use crate::model::view;
use crate::support::pattern;
use larder::crypto::Keys;
use larder::fs::WriteMode;
use larder::remote::{
    Commit, Contents, Log, Objects, RemoteError, RemoteSealer, Seen, ShipError, ShipLimits, State,
};
use larder::store::{BlockAddr, Run, StoreId};
use std::sync::Arc;

fn commits(memory: &Arc<Memory>, store: StoreId, keys: &Keys) -> Vec<Commit> {
    let objects: Arc<dyn Objects> = Arc::clone(memory) as Arc<dyn Objects>;
    let sealer = RemoteSealer::new(store, keys, "memory:");
    let log = Log::open(objects, sealer, Seen::Nothing).unwrap();
    let commits = log.chain(1, None).filter_map(|record| match record.unwrap().contents {
        Contents::Commit(commit) => Some(*commit),
        _ => None,
    });
    commits.collect()
}

/// What was free between two that were uploaded was known from then on, where a record without a state had it.
#[test]
fn what_lies_between_what_is_shipped_in_slices_is_not_kept() {
    let made = made(new_disk(None, None));
    made.write("large", &pattern(30 << 20, 3));
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    let limits = ShipLimits { slice_bytes: 10 << 20, ..ShipLimits::default() };
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept()).with_limits(limits);
    let free = |state: &dyn State| {
        let longest = state.blocks().iter().max_by_key(|run| run.count).copied().unwrap();
        longest.part(100, 9)
    };
    // Nobody says any more that it is free: that was long ago.
    let says = |state: &dyn State| {
        let free = free(state);
        let mut blocks = Vec::new();
        for run in state.blocks() {
            let is_around = run.start.index <= free.start.index && free.end_index() <= run.end_index();
            if run.start.segment == free.start.segment && is_around {
                let skip = free.start.index - run.start.index;
                blocks.push(run.part(0, skip));
                blocks.push(run.part(skip + free.count, run.count - skip - free.count));
            } else {
                blocks.push(*run);
            }
        }
        Said { blocks: Some(blocks), freed: Some(Vec::new()), ..Said::default() }
    };
    let free = free(&*larder::remote::Source::state(&made.store, true).unwrap());
    shipping.ship(&Busy::saying(&made.store, &says)).unwrap().unwrap();
    let slices = commits(&memory, id, &Keys::Plain).into_iter().filter(|commit| commit.pages == 0);
    assert!(slices.map(|slice| slice.parts.len()).sum::<usize>() > 0);
    let catalog = shipping.catalog();
    assert_eq!(catalog.lock().find(free), []);
    let beside = Run::new(BlockAddr { index: free.end_index(), ..free.start }, 1);
    assert_eq!(catalog.lock().find(beside).len(), 1);
    made.close();
}

/// Each was an object of its own, where there were too many for one record: thousands of requests in a minute of a database's.
#[test]
fn what_is_left_of_what_was_overwritten_goes_into_records_and_comes_back() {
    const BLOCK: usize = 4096;
    for disk in [new_disk(None, None), new_encrypted_disk(None, None)] {
        let made = made(disk);
        let (id, keys, memory) =
            (id_of(&made.disk), keys_of(&made.disk).unwrap(), Arc::new(Memory::default()));
        let ino = made.write("table", &pattern(24 << 20, 1));
        for at in (0..(24 << 20) / BLOCK).step_by(40) {
            let new = pattern(38 * BLOCK, at as u64);
            made.fs.write(ino, (at * BLOCK) as u64, &new, WriteMode::default()).unwrap();
        }
        made.store.commit_now().unwrap();
        let limits = ShipLimits { record_blocks: 64, ..ShipLimits::default() };
        let mut shipping = shipper(&memory, id, &keys, &kept()).with_limits(limits);
        shipping.ship(&made.store).unwrap().unwrap();
        let commits = commits(&memory, id, &keys);
        let counts: Vec<usize> = commits
            .iter()
            .map(|commit| commit.blocks.iter().map(|blocks| blocks.seals.len()).sum())
            .collect();
        assert!(counts.iter().all(|count| *count <= 64), "{counts:?}");
        assert!(
            counts.iter().sum::<usize>() > 300 && counts.iter().filter(|count| **count > 0).count() >= 5,
            "{counts:?}"
        );
        assert!(commits.iter().map(|commit| commit.parts.len()).sum::<usize>() < 10);
        // Nothing refers to what came before the state.
        assert!(commits.iter().filter(|commit| commit.redo_epoch > 0).count() == 1);
        assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
        made.close();
    }
}

/// All that was freed was in one record, however much that was, and a record that is too long is not written.
#[test]
fn what_is_freed_goes_into_as_many_records_as_it_takes() {
    const COUNT: usize = 600_000;
    let made = made(new_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept());
    let freed: Vec<Run> = (0..COUNT as u64)
        .map(|i| Run::new(BlockAddr { segment: 1_000_000 + i / 1000, index: (i % 1000) as u32 * 2 }, 1))
        .collect();
    let says = |_: &dyn State| Said { freed: Some(freed.clone()), ..Said::default() };
    shipping.ship(&Busy::saying(&made.store, &says)).unwrap().unwrap();
    let commits = commits(&memory, id, &Keys::Plain);
    assert!(commits.iter().all(|commit| commit.freed.len() <= 1 << 19));
    assert_eq!(commits.iter().map(|commit| commit.freed.len()).sum::<usize>(), COUNT);
    // The state before must have it as long as it is the newest one.
    assert!(commits[0].pages > 0 && commits[1..].iter().all(|commit| commit.pages == 0));
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// It was tried again without end.
#[test]
fn a_state_that_fits_no_record_comes_as_a_whole() {
    let made = made(new_disk(None, None));
    made.write("f", &pattern(20_000, 1));
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    let image = shipping.log().state().image;
    made.write("g", &pattern(20_000, 2));
    made.store.commit_now().unwrap();
    let says = |state: &dyn State| {
        let pages = (!state.is_whole()).then(|| ((1..=1200).collect(), 60_000));
        Said { pages, ..Said::default() }
    };
    let busy = Busy::saying(&made.store, &says);
    let refused = shipping.ship(&busy).unwrap_err();
    assert!(matches!(&refused, ShipError::Remote(RemoteError::TooLong { .. })), "{refused}");
    shipping.ship(&busy).unwrap().unwrap();
    assert!(shipping.log().state().image > image);
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}
