//! A disk that cannot read some sectors any more: everything else is shipped and goes from here as ever.

use super::evict::{evict_all, read, shipped};
use super::{Made, Memory, attached, id_of, kept, made, shipper};
use crate::disk::Disk;
use crate::model::harness::{keys_of, new_disk, new_encrypted_disk, secret};
use crate::model::view;
use crate::support::{pattern, wait_until};
use larder::remote::Shipper;
use larder::store::{
    BLOCK_BYTES, BlockAddr, Evicted, GROUP_BLOCKS, Run, SEGMENT_HEADER_BYTES, data_offset, seal_offset,
};
use larder::volume::begin_reencryption_in;
use std::ops::Range;
use std::sync::Arc;

/// A sector of a segment: of a block, of the seals of the group that it is in, or of the header.
fn sector(of: u8, index: u32) -> Range<u64> {
    let at = match of {
        0 => data_offset(index) + 512,
        1 => seal_offset(index / GROUP_BLOCKS * GROUP_BLOCKS) + 1024,
        _ => SEGMENT_HEADER_BYTES as u64 / 2,
    };
    at..at + 512
}

fn set_bad(disk: &Disk, segment: u64, of: u8, index: u32, is_bad: bool) {
    disk.set_bad(&format!("segments/{segment:016x}.seg"), sector(of, index), is_bad);
}

/// The only segment of a store, and how many blocks it has.
fn segment(made: &Made) -> (u64, u32) {
    let rows = made.store.meta().segments();
    let row = rows.iter().max_by_key(|row| row.live).unwrap();
    (row.id, row.tail)
}

/// How many blocks of a segment the remote lacks.
fn lacking(shipping: &Shipper, segment: u64, tail: u32) -> u32 {
    let all = Run::new(BlockAddr { segment, index: 0 }, tail);
    shipping.catalog().lock().missing(all, 0).iter().map(|run| run.count).sum()
}

/// Nothing at all was shipped any more.
#[test]
fn what_cannot_be_read_is_left_out_and_all_else_is_shipped() {
    for disk in [|| new_disk(None, None), || new_encrypted_disk(None, None)] {
        for (of, lost) in [(0, 1), (1, GROUP_BLOCKS)] {
            for index in [300, GROUP_BLOCKS] {
                let made = made(disk());
                made.write("f", &pattern(3 << 20, 1));
                made.write("g", b"small");
                made.store.commit_now().unwrap();
                let (id, keys, memory) =
                    (id_of(&made.disk), keys_of(&made.disk).unwrap(), Arc::new(Memory::default()));
                let (segment, tail) = segment(&made);
                set_bad(&made.disk, segment, of, index, true);
                let mut shipping = shipper(&memory, id, &keys, &kept());
                shipping.ship(&made.store).unwrap().unwrap();
                assert_eq!(lacking(&shipping, segment, tail), lost, "{of} {index}");
                let left: u32 = shipping.left_out().iter().map(|run| run.count).sum();
                assert_eq!(left, lost, "{of} {index}");
                assert!(shipping.left_out().iter().all(|run| !made.store.segments().are_given_back(*run)));
                // It goes on, and what can be read later is shipped then.
                made.write("h", &pattern(100_000, 2));
                made.store.commit_now().unwrap();
                shipping.ship(&made.store).unwrap().unwrap();
                set_bad(&made.disk, segment, of, index, false);
                shipping.is_complete();
                made.store.copy_again(segment);
                shipping.ship(&made.store).unwrap().unwrap();
                assert!(shipping.left_out().is_empty());
                assert!(attached(&memory, id, &keys) == view::of_store(&made.store), "{of} {index}");
                made.close();
            }
        }
    }
}

/// A header that cannot be read is one that is damaged: the seals tell good blocks from bad ones.
#[test]
fn a_segment_whose_header_cannot_be_read_is_shipped() {
    let made = made(new_disk(None, None));
    made.write("f", &pattern(3 << 20, 1));
    made.store.commit_now().unwrap();
    let made = made.reopen();
    let (id, memory) = (id_of(&made.disk), Arc::new(Memory::default()));
    let keys = keys_of(&made.disk).unwrap();
    let (segment, tail) = segment(&made);
    set_bad(&made.disk, segment, 2, 0, true);
    let mut shipping = shipper(&memory, id, &keys, &kept());
    shipping.ship(&made.store).unwrap().unwrap();
    assert_eq!(lacking(&shipping, segment, tail), 0);
    assert!(attached(&memory, id, &keys) == view::of_store(&made.store));
    made.close();
}

/// Nothing went any more, and the disk became full.
#[test]
fn what_cannot_be_read_stays_and_all_else_goes() {
    for of in [1, 2] {
        let (made, _memory, mut shipping) = shipped(new_disk(None, None), &[("a", 3 << 20), ("b", 5 << 20)]);
        let segments = made.store.segments();
        segments.set_partial(true);
        let (segment, _) = segment(&made);
        set_bad(&made.disk, segment, of, 300, true);
        let gone = evict_all(&mut shipping, segments);
        // Whose header cannot be read is another segment for all that is known.
        let least = if of == 1 { (8 << 20) / BLOCK_BYTES as u64 - u64::from(GROUP_BLOCKS) } else { 0 };
        assert!(gone >= least, "{of}: {gone}");
        assert_eq!(shipping.evict(segments, u64::MAX).unwrap(), Evicted::default());
        assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0), "{of}");
        assert!(read(&made, "b", 5 << 20).unwrap() == pattern(5 << 20, 1), "{of}");
        made.close();
    }
}

/// It comes from there, and is written to the disk again.
#[test]
fn what_cannot_be_read_and_is_in_the_remote_heals() {
    let (made, _memory, mut shipping) = shipped(new_disk(None, None), &[("a", 3 << 20)]);
    let (segment, _) = segment(&made);
    set_bad(&made.disk, segment, 0, 300, true);
    let runs = made.store.segments().read_stored(Run::new(BlockAddr { segment, index: 290 }, 20)).unwrap();
    let counts: Vec<u32> = runs.iter().map(|blocks| blocks.run.count).collect();
    assert_eq!(counts, [10, 9]);
    assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0));
    assert_eq!(made.store.segments().healed_blocks(), 1);
    let runs = made.store.segments().read_stored(Run::new(BlockAddr { segment, index: 290 }, 20)).unwrap();
    assert_eq!(runs.len(), 1);
    // What is written beside it brings along nothing that is there.
    made.write("b", b"b");
    made.store.commit_now().unwrap();
    shipping.ship(&made.store).unwrap().unwrap();
    assert!(shipping.left_out().is_empty());
    made.close();
}

/// Everything stayed sealed with the old keys, and nobody knew which file it was about.
#[test]
fn one_block_that_cannot_be_read_keeps_no_other_segment_from_new_keys() {
    let made = made(new_encrypted_disk(None, None));
    made.write("a", &pattern(3 << 20, 0));
    made.store.commit_now().unwrap();
    let (segment, _) = segment(&made);
    set_bad(&made.disk, segment, 0, 300, true);
    let begun = begin_reencryption_in(&made.disk, &secret(), false).unwrap();
    made.store.reencrypt(begun.keys).unwrap();
    let trouble = || made.store.reencryption().and_then(|state| state.trouble);
    wait_until("it says what is wrong", || trouble().is_some());
    let said = format!("{:?}", trouble());
    assert!(said.contains("hold damaged blocks"), "{said}");
    set_bad(&made.disk, segment, 0, 300, false);
    assert!(read(&made, "a", 3 << 20).unwrap() == pattern(3 << 20, 0));
    made.close();
}
