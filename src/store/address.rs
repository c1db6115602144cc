//! Block addresses and runs of them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a block lies: written once, never reused. Also the nonce under which it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockAddr {
    /// Segment id, from 1 on.
    pub segment: u64,
    /// Index of the block in its segment, from 0 on.
    pub index: u32,
}

impl BlockAddr {
    /// The address `blocks` further on in the same segment.
    #[must_use]
    pub fn plus(self, blocks: u32) -> Self {
        Self { segment: self.segment, index: self.index + blocks }
    }
}

impl fmt::Display for BlockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.segment, self.index)
    }
}

impl FromStr for BlockAddr {
    type Err = String;

    /// As it is shown: the segment in hexadecimal digits, and the index.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        let parsed = text.split_once(':').filter(|(segment, index)| digits(segment, 16) && digits(index, 10));
        let parsed = parsed.and_then(|(segment, index)| {
            Some(Self { segment: u64::from_str_radix(segment, 16).ok()?, index: index.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is not the address of a block; write it as in the log: SEGMENT:BLOCK, such as 000000000000000a:17")
        })
    }
}

/// A run of blocks that lie one behind the other in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// First block.
    pub start: BlockAddr,
    /// Number of blocks, at least 1.
    pub count: u32,
}

impl Run {
    /// The run of `count` blocks from `start`.
    pub fn new(start: BlockAddr, count: u32) -> Self {
        Self { start, count }
    }

    /// Index behind the last block.
    pub fn end_index(&self) -> u32 {
        self.start.index + self.count
    }

    /// `count` blocks of the run, from its block `skip` on.
    #[must_use]
    pub fn part(&self, skip: u32, count: u32) -> Self {
        debug_assert!(skip + count <= self.count);
        Self { start: self.start.plus(skip), count }
    }
}

/// Sorts runs and joins those that touch, so that each range is punched with one call.
pub fn coalesce(runs: &mut Vec<Run>) {
    runs.sort_unstable();
    runs.dedup_by(|next, last| {
        let touches = next.start.segment == last.start.segment && next.start.index == last.end_index();
        if touches {
            last.count += next.count;
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for addr in [BlockAddr { segment: 10, index: 17 }, BlockAddr { segment: u64::MAX, index: u32::MAX }] {
            assert_eq!(addr.to_string().parse(), Ok(addr));
        }
        assert_eq!("a:1".parse(), Ok(BlockAddr { segment: 10, index: 1 }));
        for bad in ["", ":", "1", "1:", ":1", "g:1", "1:-1", "+1:1", "1:a", "1:2:3", "1:4294967296"] {
            assert!(bad.parse::<BlockAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn coalesce_joins_what_touches_and_keeps_the_rest() {
        let run = |segment, index, count| Run::new(BlockAddr { segment, index }, count);
        let mut runs = vec![run(2, 0, 1), run(1, 5, 2), run(1, 0, 5), run(1, 9, 1), run(1, 7, 1)];
        coalesce(&mut runs);
        assert_eq!(runs, vec![run(1, 0, 8), run(1, 9, 1), run(2, 0, 1)]);
    }
}
