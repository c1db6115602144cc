//! A segment with damaged seals and blocks: what is read is what was written, or nothing.

use super::Input;
use super::memory::MemoryDir;
use larder::store::{
    BLOCK_BYTES, BlockAddr, ReadError, Run, SEAL_BYTES, SEGMENT_DIR, Sealer, Segments, StoreId, Wait,
    data_offset, seal_offset, segment_name,
};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

const BLOCKS: u32 = 300;
const STORE: StoreId = StoreId(7);

fn contents() -> Vec<u8> {
    (0..BLOCKS as usize * BLOCK_BYTES).map(|i| (i / 5) as u8 ^ (i / BLOCK_BYTES) as u8).collect()
}

/// The files of a store with one segment, whole.
fn whole() -> &'static BTreeMap<String, Vec<u8>> {
    static WHOLE: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let dir = MemoryDir::with_files(&BTreeMap::new());
        let segments = Segments::new(dir.clone(), STORE, Sealer::Checksum, 1..2);
        segments.append(&[&contents()]).expect("memory does not fail");
        dir.files()
    })
}

/// The block whose contents or seal lie at `offset` in the file.
fn block_at(offset: usize) -> Option<u32> {
    (0..BLOCKS).find(|index| {
        let within = |start: u64, len: usize| (start as usize..start as usize + len).contains(&offset);
        within(data_offset(*index), BLOCK_BYTES) || within(seal_offset(*index), SEAL_BYTES)
    })
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut files = whole().clone();
    let name = segment_name(1);
    let Some(file) = files.get_mut(&name) else { return };
    // Cut off, perhaps.
    let len = input.number(3) as usize;
    let cut = len < file.len() && input.byte() % 2 == 1;
    if cut {
        file.truncate(len);
    }
    let read = (input.number(2) as u32 % BLOCKS, input.number(2) as u32 % BLOCKS);
    let edited = input.edit(file);
    let touched: Vec<u32> = edited.iter().filter_map(|at| block_at(*at)).collect();
    let header_touched = edited.iter().any(|at| *at < 4096) || (cut && len < 4096);
    let is_cut_off = |index: u32| cut && data_offset(index) as usize + BLOCK_BYTES > len;
    let is_whole = |index: u32| !touched.contains(&index) && !is_cut_off(index);

    let segments = Segments::new(MemoryDir::with_files(&files), STORE, Sealer::Checksum, 0..0);
    let expected = contents();
    let (first, last) = (read.0.min(read.1), read.0.max(read.1));
    let mut runs = vec![(first, last - first + 1)];
    runs.extend(touched.iter().map(|index| (*index, 1)));
    for (index, count) in runs {
        let run = Run::new(BlockAddr { segment: 1, index }, count);
        let mut out = vec![0xee; count as usize * BLOCK_BYTES];
        match segments.read(run, &mut out, Wait::Yes) {
            Ok(()) => {
                let from = index as usize * BLOCK_BYTES;
                assert!(out == expected[from..from + out.len()], "a seal opened on other contents");
            }
            Err(ReadError::Unsealed { addr, .. }) => assert!(!is_whole(addr.index), "{addr} is whole"),
            Err(ReadError::Foreign { .. }) => assert!(header_touched),
            Err(e) => panic!("{e}"),
        }
    }
    let _ = segments.check_file(1);
    let dir: Arc<MemoryDir> = MemoryDir::with_files(&files);
    assert_eq!(Segments::new(dir, STORE, Sealer::Checksum, 0..0).list().ok(), Some(vec![1]));
    debug_assert!(name.starts_with(SEGMENT_DIR));
}
