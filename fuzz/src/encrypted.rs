//! An encrypted store with damage anywhere in it: bytes changed, cut off, zeroed, moved, exchanged, put back from another
//! time. What is read of it is what once was written at that address, or nothing.

use super::Input;
use super::database::build::{Bases, STORE, build, trees_of};
use super::database::{Files, look, using};
use super::memory::MemoryDir;
use larder::crypto::{Keyring, Keys, Secret, Subkeys};
use larder::store::{
    BLOCK_BYTES, BlockAddr, Run, SEGMENT_BLOCKS, Sealer, Segments, Wait, data_offset, segment_of_name,
};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A frame of the WAL, as it lies on disk.
const FRAME: usize = 24 + 4096 + 48;
/// What is moved from one place to another: pages and blocks, seals, frames, records of the redo log.
const UNITS: [usize; 4] = [4096, 16, FRAME, 256];

struct Base {
    bases: Bases,
    subkeys: Vec<Subkeys>,
    trees: Vec<Vec<String>>,
    /// What is in each block.
    blocks: BTreeMap<(u64, u32), Vec<u8>>,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let (secret, store) = (Secret::KeyFile(vec![7; 64].into()), STORE.0.to_be_bytes());
        let (keyring, unlocked) = Keyring::create_unlocked(&store, std::slice::from_ref(&secret), None)
            .expect("there is randomness");
        let subkeys = keyring.subkeys(&store, &unlocked).expect("the keyring is new");
        let keys = Keys::new(subkeys.clone()).expect("there is randomness");
        let bases = build(Some(keyring), &keys);
        let trees = trees_of(&bases, &keys, FRAME);
        let mut blocks = blocks_of(&bases.closed, &keys);
        blocks.extend(blocks_of(&bases.crashed, &keys));
        assert!(blocks.len() > 20);
        Base { bases, subkeys, trees, blocks }
    })
}

/// All blocks that open.
fn blocks_of(files: &Files, keys: &Keys) -> BTreeMap<(u64, u32), Vec<u8>> {
    let segments = Segments::new(MemoryDir::with_files(files), STORE, Sealer::new(keys), 0..0);
    let mut out = BTreeMap::new();
    for (name, bytes) in files {
        let Some(segment) = name.strip_prefix("segments/").and_then(segment_of_name) else { continue };
        for index in (0..SEGMENT_BLOCKS).take_while(|index| data_offset(*index) < bytes.len() as u64) {
            let mut block = vec![0; BLOCK_BYTES];
            let run = Run::new(BlockAddr { segment, index }, 1);
            if segments.read(run, &mut block, Wait::Yes).is_ok() {
                out.insert((segment, index), block);
            }
        }
    }
    out
}

pub fn run(data: &[u8]) {
    let base = base();
    let keys = || Keys::new(base.subkeys.clone()).expect("there is randomness");
    let mut input = Input::new(data);
    let mode = input.byte();
    let (here, there) = match mode & 0x80 {
        0 => (&base.bases.closed, &base.bases.crashed),
        _ => (&base.bases.crashed, &base.bases.closed),
    };
    let mut files = here.clone();
    damage(&mut files, there, mode, &mut input);

    let dir = MemoryDir::with_files(&files);
    // Pages, each of which was there once, may together be a state that never was: see docs/crypto.md.
    let pages_put_back = mode % 6 == 5;
    if let Some(tree) = look(&dir, &keys())
        && !pages_put_back
    {
        assert!(base.trees.contains(&tree), "a damaged store showed what never was there: {tree:?}");
    }
    let after = dir.files();
    assert!(files.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "looking changed a file");
    assert_eq!(after.len(), files.len(), "looking made a file");
    for (at, block) in blocks_of(&files, &keys()) {
        assert!(base.blocks.get(&at) == Some(&block), "block {at:?} opened on other contents");
    }
    using::open(&dir, keys());
}

fn damage(files: &mut Files, other: &Files, mode: u8, input: &mut Input<'_>) {
    let names: Vec<String> = files.keys().cloned().collect();
    let choose = |input: &mut Input<'_>| names[input.byte() as usize % names.len()].clone();
    let (name, another) = (choose(input), choose(input));
    let source = files.get(&another).cloned().unwrap_or_default();
    let Some(bytes) = files.get_mut(&name).filter(|bytes| !bytes.is_empty()) else { return };
    match mode % 6 {
        0 => {
            input.edit(bytes);
        }
        1 => bytes.truncate(input.number(3) as usize % bytes.len()),
        2 => {
            let from = input.number(3) as usize % bytes.len();
            let to = bytes.len().min(from + 1 + input.number(2) as usize);
            bytes[from..to].fill(0);
        }
        3 => {
            // From one place to another, in this file or from another one.
            let unit = UNITS[input.byte() as usize % UNITS.len()];
            let (from, to) = (input.number(2) as usize * unit, input.number(2) as usize * unit);
            let (from, to) = (from % source.len().max(1), to % bytes.len());
            let count = unit.min(source.len() - from.min(source.len())).min(bytes.len() - to);
            bytes[to..to + count].copy_from_slice(&source[from..from + count]);
        }
        4 => *bytes = source,
        _ => {
            // A page, a block or a frame as it was at another time.
            let Some(old) = other.get(&name) else { return };
            let from = input.number(2) as usize * 4096 % bytes.len();
            let to = bytes.len().min(from + 4096).min(old.len());
            if from < to {
                bytes[from..to].copy_from_slice(&old[from..to]);
            }
        }
    }
}
