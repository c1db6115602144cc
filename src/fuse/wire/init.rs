//! INIT: agreeing with the kernel on the protocol.

use super::abi::{self, InitIn, InitOut};
use crate::fuse::negotiation::{MAX_BACKGROUND, MAX_WRITE_BYTES, flag};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a page of the kernel's.
fn page_bytes() -> u32 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u32::try_from(size).ok()).unwrap_or(4096)
}

/// What the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Offer {
    pub(in crate::fuse) major: u32,
    pub(in crate::fuse) minor: u32,
    max_readahead: u32,
    /// Bits of [`flag`] and others.
    pub(in crate::fuse) flags: u64,
}

impl Offer {
    /// Reads what follows the header of an INIT request. An older kernel says less.
    pub(in crate::fuse) fn decode(body: &[u8]) -> Self {
        let mut init = InitIn::new_zeroed();
        let len = body.len().min(size_of::<InitIn>());
        init.as_mut_bytes()[..len].copy_from_slice(&body[..len]);
        let more = if u64::from(init.flags) & flag::INIT_EXT != 0 { u64::from(init.flags2) << 32 } else { 0 };
        Self {
            major: init.major,
            minor: init.minor,
            max_readahead: init.max_readahead,
            flags: u64::from(init.flags) | more,
        }
    }

    /// Whether the kernel can speak a newer major version than we.
    pub(in crate::fuse) fn is_newer(&self) -> bool {
        self.major > abi::MAJOR
    }

    /// Whether that version can be spoken.
    pub(in crate::fuse) fn is_spoken(&self) -> bool {
        self.major == abi::MAJOR && self.minor >= abi::OLDEST_MINOR
    }

    /// The bits that both sides want.
    pub(in crate::fuse) fn agreed(&self, wanted: u64) -> u64 {
        let always = flag::ASYNC_READ | flag::BIG_WRITES | flag::MAX_PAGES | flag::INIT_EXT;
        (wanted | always) & self.flags
    }

    /// The bytes of the answer, with the bits from [`Offer::agreed`]; requests are to move at most `max_write` bytes.
    pub(in crate::fuse) fn answer(&self, agreed: u64, max_write: u32) -> InitOut {
        InitOut {
            major: abi::MAJOR,
            minor: self.minor.min(abi::MINOR),
            max_readahead: self.max_readahead.min(MAX_WRITE_BYTES),
            flags: agreed as u32,
            max_background: MAX_BACKGROUND,
            congestion_threshold: MAX_BACKGROUND / 4 * 3,
            max_write,
            time_gran: 1,
            max_pages: (max_write / page_bytes()).max(1) as u16,
            flags2: (agreed >> 32) as u32,
            ..InitOut::default()
        }
    }

    /// The answer to a newer major version, whereupon the kernel asks again with ours.
    pub(in crate::fuse) fn version_only() -> InitOut {
        InitOut { major: abi::MAJOR, minor: abi::MINOR, ..InitOut::default() }
    }
}
