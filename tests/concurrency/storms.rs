//! The storms. Each has a directory of its own, and several threads in it.

use super::ground::{Dice, Failure, Ground};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const BLOCK: u64 = 4096;

pub type Storm<G> = fn(&G, Instant);

pub fn all<G: Ground>() -> Vec<Storm<G>> {
    vec![renames, replacements, links, appends, blocks, stripes, listings, truncations, copies]
}

/// Rounds that each thread makes even if the time is over before it comes to begin, as on a busy machine.
const FEWEST_ROUNDS: u32 = 20;

/// Runs `work` in `count` threads until the time is over, each with dice of its own; returns what each gives.
fn threads<T: Send>(
    count: u64,
    until: Instant,
    work: impl Fn(u64, &mut Dice, &dyn Fn() -> bool) -> T + Sync,
) -> Vec<T> {
    // One that fails ends the storm for all.
    let failed = AtomicBool::new(false);
    struct Failing<'a>(&'a AtomicBool);
    impl Drop for Failing<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|thread| {
                let (work, failed) = (&work, &failed);
                scope.spawn(move || {
                    let _failing = Failing(failed);
                    let rounds = Cell::new(0);
                    let goes_on = || {
                        rounds.set(rounds.get() + 1);
                        let is_time = rounds.get() <= FEWEST_ROUNDS || Instant::now() < until;
                        is_time && !failed.load(Ordering::Relaxed)
                    };
                    work(thread, &mut Dice::new(thread + 1), &goes_on)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// A block that says what it is: which block of the file, by whom, and of which version.
fn stamped(len: usize, place: u64, thread: u64, version: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 24);
    while out.len() < len {
        for word in [place, thread, version] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out.truncate(len);
    out
}

/// The thread and the version that a stamped block names. It must be whole.
#[track_caller]
fn stamp_of(bytes: &[u8], place: u64) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (thread, version) = (word(8), word(16));
    assert!(bytes == stamped(bytes.len(), place, thread, version), "piece {place} is torn");
    (thread, version)
}

/// Files move between directories and change places. Each is there exactly once in the end, unchanged.
fn renames<G: Ground>(ground: &G, until: Instant) {
    const DIRS: u64 = 4;
    const FILES: u64 = 24;
    for dir in 0..DIRS {
        ground.make_dir(&format!("renames{dir}")).unwrap();
    }
    let path = |dir: u64, name: u64| format!("renames{dir}/f{name}");
    for file in 0..FILES {
        let handle = ground.create(&path(file % DIRS, file)).unwrap();
        ground.write(&handle, 0, &stamped(6000, file, 0, 0)).unwrap();
        ground.close(handle);
    }
    let moved = threads(3, until, |_, dice, goes_on| {
        let mut moved = 0u64;
        while goes_on() {
            let (one, two) = (dice.below(DIRS), dice.below(DIRS));
            let name = dice.below(FILES);
            let result = if dice.below(4) == 0 {
                ground.exchange(&path(one, name), &path(two, dice.below(FILES)))
            } else {
                // A name is in one directory at a time, so this replaces nothing.
                ground.rename(&path(one, name), &path(two, name))
            };
            match result {
                Ok(()) => moved += 1,
                Err(Failure::NotFound) => {}
                Err(e) => panic!("{e:?}"),
            }
        }
        moved
    });
    assert!(moved.iter().sum::<u64>() > 0);
    let mut found = BTreeSet::new();
    for dir in 0..DIRS {
        for name in ground.list(&format!("renames{dir}")) {
            let handle = ground.open(&format!("renames{dir}/{name}")).unwrap();
            let bytes = ground.read(&handle, 0, 10_000).unwrap();
            assert_eq!((bytes.len(), ground.facts(&handle).nlink), (6000, 1));
            let file = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            stamp_of(&bytes, file);
            assert!(found.insert(file), "file {file} is there twice");
            ground.close(handle);
        }
    }
    assert_eq!(found.len() as u64, FILES);
}

/// A file is replaced by renaming new ones over it. Whoever opens it finds one, and finds it whole.
fn replacements<G: Ground>(ground: &G, until: Instant) {
    const SIZE: usize = 20_000;
    ground.make_dir("replacements").unwrap();
    let place = |thread: u64, version: u64, name: &str| {
        let handle = ground.create(name).unwrap();
        ground.write(&handle, 0, &stamped(SIZE, 0, thread, version)).unwrap();
        ground.close(handle);
    };
    place(0, 0, "replacements/config");
    threads(3, until, |thread, _, goes_on| {
        let mut version = 0;
        while goes_on() {
            if thread == 0 {
                let handle = ground.open("replacements/config").unwrap();
                let bytes = ground.read(&handle, 0, SIZE + 1).unwrap();
                assert_eq!(bytes.len(), SIZE);
                stamp_of(&bytes, 0);
                ground.close(handle);
            } else {
                version += 1;
                let new = format!("replacements/new{thread}");
                place(thread, version, &new);
                ground.rename(&new, "replacements/config").unwrap();
            }
        }
    });
    assert_eq!(ground.list("replacements"), ["config"]);
}

/// Names of a few inodes come and go. The links are as many as the names in the end.
fn links<G: Ground>(ground: &G, until: Instant) {
    const FILES: u64 = 4;
    ground.make_dir("links").unwrap();
    for file in 0..FILES {
        let handle = ground.create(&format!("links/home{file}")).unwrap();
        ground.close(handle);
    }
    let left: Vec<HashMap<u64, u64>> = threads(3, until, |thread, dice, goes_on| {
        let mut mine: HashMap<u64, u64> = HashMap::new();
        while goes_on() {
            let (slot, file) = (dice.below(20), dice.below(FILES));
            let name = format!("links/t{thread}-{slot}");
            match mine.remove(&slot) {
                Some(_) => ground.unlink(&name).unwrap(),
                None => {
                    ground.link(&format!("links/home{file}"), &name).unwrap();
                    mine.insert(slot, file);
                }
            }
        }
        mine
    });
    for file in 0..FILES {
        let handle = ground.open(&format!("links/home{file}")).unwrap();
        let names = 1 + left.iter().flat_map(HashMap::values).filter(|linked| **linked == file).count();
        assert_eq!(ground.facts(&handle).nlink, names as u64);
        ground.close(handle);
    }
    assert_eq!(ground.list("links").len(), FILES as usize + left.iter().map(HashMap::len).sum::<usize>());
}

/// Records of all lengths at the end of one file: all are there, none is torn, each writer's in its order.
fn appends<G: Ground>(ground: &G, until: Instant) {
    ground.make_dir("appends").unwrap();
    let file = ground.create("appends/log").unwrap();
    let written = threads(3, until, |thread, dice, goes_on| {
        let mut count = 0u64;
        while goes_on() && count < 4000 {
            let len = 24 + dice.below(600);
            let record = stamped(len as usize, len, thread, count);
            ground.append(&file, &record).unwrap();
            count += 1;
            if dice.below(64) == 0 {
                ground.sync(&file).unwrap();
            }
        }
        count
    });
    let bytes = ground.read(&file, 0, 64 << 20).unwrap();
    assert_eq!(bytes.len() as u64, ground.facts(&file).size);
    let mut seen = vec![0; written.len()];
    let mut at = 0;
    while at < bytes.len() {
        let len = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let (thread, number) = stamp_of(&bytes[at..at + len], len as u64);
        assert_eq!(seen[thread as usize], number, "a record is missing or out of order");
        seen[thread as usize] += 1;
        at += len;
    }
    assert_eq!(seen, written);
    ground.close(file);
}

/// Whole blocks: some are everybody's, some have one writer. In the end each is whole, and those of one writer are
/// what that wrote last.
fn blocks<G: Ground>(ground: &G, until: Instant) {
    const BLOCKS: u64 = 96;
    ground.make_dir("blocks").unwrap();
    let file = ground.create("blocks/file").unwrap();
    ground.write(&file, 0, &vec![0; (BLOCKS * BLOCK) as usize]).unwrap();
    let last: Vec<HashMap<u64, u64>> = threads(3, until, |thread, dice, goes_on| {
        let mut mine = HashMap::new();
        let mut version = 0;
        while goes_on() {
            version += 1;
            let block = dice.below(BLOCKS);
            // A third is shared by all.
            if block % 4 != 3 && block % 4 != thread {
                continue;
            }
            ground.write(&file, block * BLOCK, &stamped(BLOCK as usize, block, thread, version)).unwrap();
            mine.insert(block, version);
            if dice.below(200) == 0 {
                ground.sync(&file).unwrap();
            }
        }
        mine
    });
    ground.sync(&file).unwrap();
    let bytes = ground.read(&file, 0, (BLOCKS * BLOCK) as usize).unwrap();
    for (block, bytes) in bytes.chunks_exact(BLOCK as usize).enumerate() {
        let block = block as u64;
        if bytes.iter().all(|byte| *byte == 0) {
            assert!(last.iter().all(|mine| !mine.contains_key(&block)), "block {block} is lost");
            continue;
        }
        let (thread, version) = stamp_of(bytes, block);
        let newest = last[thread as usize].get(&block).copied();
        assert_eq!(newest, Some(version), "block {block} is an old one");
    }
    ground.close(file);
}

/// Pieces of blocks: each block is written in parts by all threads, each its own part, so that every write has to keep
/// what the others wrote.
fn stripes<G: Ground>(ground: &G, until: Instant) {
    const THREADS: u64 = 3;
    const STRIPE: u64 = 1000;
    const STRIPES: u64 = 60;
    ground.make_dir("stripes").unwrap();
    let file = ground.create("stripes/file").unwrap();
    let last: Vec<HashMap<u64, u64>> = threads(THREADS, until, |thread, dice, goes_on| {
        let mut mine = HashMap::new();
        let mut version = 0;
        while goes_on() {
            version += 1;
            let stripe = dice.below(STRIPES / THREADS) * THREADS + thread;
            ground.write(&file, stripe * STRIPE, &stamped(STRIPE as usize, stripe, thread, version)).unwrap();
            mine.insert(stripe, version);
            // What a thread wrote, it reads.
            let bytes = ground.read(&file, stripe * STRIPE, STRIPE as usize).unwrap();
            assert_eq!(stamp_of(&bytes, stripe), (thread, version));
        }
        mine
    });
    for (thread, mine) in last.iter().enumerate() {
        for (stripe, version) in mine {
            let bytes = ground.read(&file, stripe * STRIPE, STRIPE as usize).unwrap();
            assert_eq!(stamp_of(&bytes, *stripe), (thread as u64, *version));
        }
    }
    ground.close(file);
}

/// Names come and go while the directory is listed: those that stay are in every listing, once, and no name is twice
/// in one.
fn listings<G: Ground>(ground: &G, until: Instant) {
    const STAYING: u64 = 400;
    ground.make_dir("listings").unwrap();
    let staying: BTreeSet<String> = (0..STAYING).map(|i| format!("stays{i}")).collect();
    for name in &staying {
        let handle = ground.create(&format!("listings/{name}")).unwrap();
        ground.close(handle);
    }
    threads(3, until, |thread, dice, goes_on| {
        let mut mine = BTreeSet::new();
        while goes_on() {
            if thread == 0 {
                let listed = ground.list("listings");
                let names: BTreeSet<&String> = listed.iter().collect();
                assert_eq!(names.len(), listed.len(), "a name is listed twice");
                assert!(staying.iter().all(|name| names.contains(name)), "a name that stays is not listed");
                continue;
            }
            let slot = dice.below(300);
            let path = format!("listings/t{thread}-{slot}");
            if mine.remove(&slot) {
                ground.unlink(&path).unwrap();
            } else {
                let handle = ground.create(&path).unwrap();
                ground.close(handle);
                mine.insert(slot);
            }
        }
    });
}

/// A file is cut and written at once. Every byte is zero or what belongs at its offset.
fn truncations<G: Ground>(ground: &G, until: Instant) {
    const SIZE: u64 = 200_000;
    fn expected(offset: u64) -> u8 {
        (offset % 251 + 1) as u8
    }
    let check = |offset: u64, bytes: &[u8]| {
        for (i, byte) in bytes.iter().enumerate() {
            let at = offset + i as u64;
            assert!(*byte == 0 || *byte == expected(at), "byte {at} is {byte}");
        }
    };
    ground.make_dir("truncations").unwrap();
    let file = ground.create("truncations/file").unwrap();
    threads(4, until, |thread, dice, goes_on| {
        while goes_on() {
            let offset = dice.below(SIZE);
            let len = dice.below(30_000) + 1;
            match thread {
                0 => ground.truncate(&file, offset).unwrap(),
                1 => check(offset, &ground.read(&file, offset, len as usize).unwrap()),
                _ => {
                    let bytes: Vec<u8> = (offset..offset + len).map(expected).collect();
                    ground.write(&file, offset, &bytes).unwrap();
                }
            }
        }
    });
    // What is behind a cut is gone for good.
    ground.truncate(&file, 5000).unwrap();
    ground.truncate(&file, SIZE).unwrap();
    let bytes = ground.read(&file, 0, SIZE as usize).unwrap();
    assert_eq!(bytes.len() as u64, SIZE);
    check(0, &bytes);
    assert!(bytes[5000..].iter().all(|byte| *byte == 0));
    ground.close(file);
}

/// Blocks are copied while they are written: every copy is whole, and of the block that was copied.
fn copies<G: Ground>(ground: &G, until: Instant) {
    const BLOCKS: u64 = 64;
    ground.make_dir("copies").unwrap();
    let source = ground.create("copies/source").unwrap();
    let target = ground.create("copies/target").unwrap();
    let all: Vec<u8> = (0..BLOCKS).flat_map(|block| stamped(BLOCK as usize, block, 9, 0)).collect();
    ground.write(&source, 0, &all).unwrap();
    ground.write(&target, 0, &all).unwrap();
    threads(4, until, |thread, dice, goes_on| {
        let mut version = 0;
        while goes_on() {
            version += 1;
            let block = dice.below(BLOCKS);
            let count = dice.below(BLOCKS - block) + 1;
            match thread {
                0 => ground.copy((&source, block * BLOCK), (&target, block * BLOCK), count * BLOCK).unwrap(),
                1 => ground.copy((&target, block * BLOCK), (&source, block * BLOCK), count * BLOCK).unwrap(),
                _ => {
                    let file = if thread == 2 { &source } else { &target };
                    let bytes = stamped(BLOCK as usize, block, thread, version);
                    ground.write(file, block * BLOCK, &bytes).unwrap();
                }
            }
        }
    });
    for file in [&source, &target] {
        let bytes = ground.read(file, 0, (BLOCKS * BLOCK) as usize).unwrap();
        assert_eq!(bytes.len() as u64, BLOCKS * BLOCK);
        for (block, bytes) in bytes.chunks_exact(BLOCK as usize).enumerate() {
            stamp_of(bytes, block as u64);
        }
    }
    ground.close(source);
    ground.close(target);
}
