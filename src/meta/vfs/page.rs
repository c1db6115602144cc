//! Seals of the pages of `meta.db`.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// SQLite's page size in a store.
pub(in crate::meta) const PAGE_BYTES: usize = 4096;
/// Bytes at the end of a page that SQLite leaves to us.
pub(in crate::meta) const PAGE_RESERVED_BYTES: usize = 16;
const CONTENT: usize = PAGE_BYTES - PAGE_RESERVED_BYTES;

/// Whether a read or write of `len` bytes at `offset` is one of a whole page.
pub(super) fn is_page(len: usize, offset: u64) -> bool {
    len == PAGE_BYTES && offset.is_multiple_of(PAGE_BYTES as u64)
}

/// XXH3-128 of the page without its last 16 bytes, seeded with its number, little-endian.
fn checksum(page: &[u8], offset: u64) -> [u8; PAGE_RESERVED_BYTES] {
    xxh3_128_with_seed(&page[..CONTENT], offset / PAGE_BYTES as u64 + 1).to_le_bytes()
}

/// A copy of `page` with its seal in place.
pub(super) fn sealed(page: &[u8], offset: u64) -> [u8; PAGE_BYTES] {
    let mut out = [0u8; PAGE_BYTES];
    out[..CONTENT].copy_from_slice(&page[..CONTENT]);
    out[CONTENT..].copy_from_slice(&checksum(page, offset));
    out
}

/// Whether the seal of `page` opens.
pub(super) fn opens(page: &[u8], offset: u64) -> bool {
    page[CONTENT..] == checksum(page, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_page_opens_at_its_own_place_only() {
        let page = sealed(&[7; PAGE_BYTES], 8192);
        assert!(opens(&page, 8192) && !opens(&page, 4096));
        for at in [0, 100, CONTENT - 1, CONTENT, PAGE_BYTES - 1] {
            let mut bad = page;
            bad[at] ^= 1;
            assert!(!opens(&bad, 8192), "byte {at}");
        }
        assert!(!opens(&[0; PAGE_BYTES], 0));
    }
}
