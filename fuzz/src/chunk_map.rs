//! The extents of a chunk: what can be read can be written, and is sorted, apart and inside its chunk.

use larder::meta::{CHUNK_BLOCKS, ChunkMap};
use larder::store::SEGMENT_BLOCKS;

pub fn run(data: &[u8]) {
    check(data);
    // Most inputs are to get past the first byte.
    let mut tagged = vec![1];
    tagged.extend_from_slice(data);
    check(&tagged);
}

fn check(bytes: &[u8]) {
    let Ok(map) = ChunkMap::decode(bytes) else { return };
    assert!(map.extents().len() <= bytes.len());
    let mut end = 0;
    for extent in map.extents() {
        assert!(extent.first >= end && extent.count > 0 && extent.end() <= CHUNK_BLOCKS);
        end = extent.end();
        if let Some(run) = extent.run() {
            assert!(run.start.segment > 0 && run.end_index() <= SEGMENT_BLOCKS);
        }
    }
    assert!(map.blocks() <= u64::from(CHUNK_BLOCKS));
    assert_eq!(ChunkMap::decode(&map.encode()).expect("what was read can be written"), map);
    let mut holes = map.clone();
    let dropped = holes.replace(0, CHUNK_BLOCKS, None);
    assert!(
        holes.is_empty() && dropped.iter().map(|extent| u64::from(extent.count)).sum::<u64>() == map.blocks()
    );
}
