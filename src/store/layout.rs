//! All arithmetic between block indices and offsets in a segment file. `docs/format.md` draws the same picture.
//!
//! ```text
//! 0        4096                                      4096 + 257 * 4096
//! | header | seal page 0 | block 0 | ... | block 255 | seal page 1 | block 256 | ...
//! ```

/// Bytes in a block, the unit of sealing, addressing and freeing.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes in a seal.
pub const SEAL_BYTES: usize = 16;
/// Blocks behind one seal page.
pub const GROUP_BLOCKS: u32 = (BLOCK_BYTES / SEAL_BYTES) as u32;
/// Blocks in a full segment: 64 groups, 64 MiB of contents.
pub const SEGMENT_BLOCKS: u32 = 64 * GROUP_BLOCKS;
/// Bytes in the header of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 4096;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// A seal page and the blocks it seals.
const GROUP: u64 = BLOCK + GROUP_BLOCKS as u64 * BLOCK;

const fn group_offset(index: u32) -> u64 {
    SEGMENT_HEADER_BYTES as u64 + (index / GROUP_BLOCKS) as u64 * GROUP
}

/// Where the contents of block `index` begin.
pub const fn data_offset(index: u32) -> u64 {
    group_offset(index) + BLOCK + (index % GROUP_BLOCKS) as u64 * BLOCK
}

/// Where the seal of block `index` begins.
pub const fn seal_offset(index: u32) -> u64 {
    group_offset(index) + (index % GROUP_BLOCKS) as u64 * SEAL_BYTES as u64
}

/// Length of a segment file that holds `blocks` blocks.
pub const fn segment_len(blocks: u32) -> u64 {
    match blocks {
        0 => SEGMENT_HEADER_BYTES as u64,
        n => data_offset(n - 1) + BLOCK,
    }
}

/// How many of `count` blocks from `index` on lie in the group of `index`, so that one write holds them.
pub(super) const fn in_group(index: u32, count: u32) -> u32 {
    let room = GROUP_BLOCKS - index % GROUP_BLOCKS;
    if count < room { count } else { room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_aligned_and_nothing_overlaps() {
        let mut end = SEGMENT_HEADER_BYTES as u64;
        for index in 0..SEGMENT_BLOCKS {
            if index % GROUP_BLOCKS == 0 {
                assert_eq!(seal_offset(index), end, "the seal page follows the group before it");
                end += BLOCK;
            } else {
                assert_eq!(seal_offset(index), seal_offset(index - 1) + SEAL_BYTES as u64);
            }
            assert_eq!(data_offset(index), end);
            assert_eq!(data_offset(index) % BLOCK, 0);
            end += BLOCK;
            assert_eq!(segment_len(index + 1), end);
        }
        assert_eq!(segment_len(0), 4096);
        assert_eq!(segment_len(SEGMENT_BLOCKS), 4096 + 64 * 257 * 4096);
    }

    #[test]
    fn runs_are_cut_at_groups() {
        assert_eq!(in_group(0, 1000), 256);
        assert_eq!(in_group(255, 1000), 1);
        assert_eq!(in_group(256, 3), 3);
        assert_eq!(in_group(300, 256), 212);
    }
}
