//! Pages of `meta.db` as they lie on disk.
//!
//! The last bytes of a page belong to us: in a plain store a checksum of the rest, in an encrypted one the envelope in which
//! the rest is sealed. The page's number is bound to it, so that no page can stand for another.

use crate::crypto::{ENVELOPE_BYTES, Keys};
use std::io;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// SQLite's page size in a store.
pub(in crate::meta) const PAGE_BYTES: usize = 4096;
/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 16;

/// Bytes at the end of a page that SQLite leaves to us.
pub(in crate::meta) fn reserved_bytes(keys: &Keys) -> usize {
    if keys.is_encrypted() { ENVELOPE_BYTES } else { CHECKSUM_BYTES }
}

/// Whether a read or write of `len` bytes at `offset` is one of a whole page.
pub(super) fn is_page(len: usize, offset: u64) -> bool {
    len == PAGE_BYTES && offset.is_multiple_of(PAGE_BYTES as u64)
}

/// Whether there are zeros and nothing else.
pub(super) fn is_zero(content: &[u8]) -> bool {
    content.iter().all(|byte| *byte == 0)
}

/// Where page `number` lies, from 1 on.
pub(super) fn offset(number: u32) -> u64 {
    u64::from(number).saturating_sub(1) * PAGE_BYTES as u64
}

fn number(offset: u64) -> u64 {
    offset / PAGE_BYTES as u64 + 1
}

/// XXH3-128 of the page without its last 16 bytes, seeded with its number, little-endian.
fn checksum(content: &[u8], offset: u64) -> [u8; CHECKSUM_BYTES] {
    xxh3_128_with_seed(content, number(offset)).to_le_bytes()
}

/// Fills in what the first page of every database of ours begins with
/// (<https://www.sqlite.org/fileformat.html#the_database_header>), up to where databases differ.
pub(super) fn fill_header(keys: &Keys, page: &mut [u8; PAGE_BYTES]) {
    page.fill(0);
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&(PAGE_BYTES as u16).to_be_bytes());
    // WAL mode, to write and to read; the bytes that are ours; fractions of the payload, which are constants.
    page[18..24].copy_from_slice(&[2, 2, reserved_bytes(keys) as u8, 64, 32, 32]);
}

fn aad(offset: u64) -> [u8; 19] {
    let mut aad = *b"larder page........";
    aad[11..].copy_from_slice(&number(offset).to_le_bytes());
    aad
}

/// What is written of a page.
///
/// # Errors
/// When the cipher refuses.
pub(super) fn sealed(keys: &Keys, page: &[u8], offset: u64) -> io::Result<[u8; PAGE_BYTES]> {
    let mut out = [0u8; PAGE_BYTES];
    let (content, end) = out.split_at_mut(PAGE_BYTES - reserved_bytes(keys));
    content.copy_from_slice(&page[..content.len()]);
    match keys.seal_metadata(&aad(offset), content)? {
        Some(envelope) => end.copy_from_slice(&envelope),
        None => end.copy_from_slice(&checksum(content, offset)),
    }
    Ok(out)
}

/// Turns what was read into the page; false if it is not what was written there.
pub(super) fn open(keys: &Keys, page: &mut [u8], offset: u64) -> bool {
    let (content, end) = page.split_at_mut(PAGE_BYTES - reserved_bytes(keys));
    if keys.is_encrypted() {
        keys.open_metadata(&aad(offset), content, end)
    } else {
        *end == checksum(content, offset)
    }
}

/// A page as it was written, of which something else was `stored`, if its content was `content`: that is known where the seal that is
/// stored is that of this content, or, in a plain store, this is the content that is stored. (That zeros are stored says nothing: they are what
/// most damage leaves.)
///
/// # Errors
/// When the cipher refuses.
pub(super) fn restored(
    keys: &Keys,
    stored: &[u8; PAGE_BYTES],
    content: &[u8],
    offset: u64,
) -> io::Result<Option<[u8; PAGE_BYTES]>> {
    let (found, end) = stored.split_at(PAGE_BYTES - reserved_bytes(keys));
    if content.len() != found.len() {
        return Ok(None);
    }
    if keys.is_encrypted() {
        let mut out = *stored;
        out[..content.len()].copy_from_slice(content);
        return Ok(keys.seal_metadata_again(&aad(offset), &mut out[..content.len()], end).then_some(out));
    }
    let is_stored = found == content && !is_zero(content);
    let is_it = *end == checksum(content, offset) || is_stored;
    is_it.then(|| sealed(keys, content, offset)).transpose()
}

/// Seals a page again, as it was read, if it was not with the newest keys; false if it is not what was written there. One
/// that never was written is nothing, and stays so.
///
/// # Errors
/// When the cipher refuses.
pub(super) fn reseal(keys: &Keys, page: &mut [u8], offset: u64) -> io::Result<bool> {
    if is_newest(keys, page) {
        return Ok(true);
    }
    if !open(keys, page, offset) {
        return Ok(false);
    }
    let sealed = sealed(keys, page, offset)?;
    page.copy_from_slice(&sealed);
    Ok(true)
}

/// Whether a page, as it was read, was sealed with the newest keys, or never was written.
pub(super) fn is_newest(keys: &Keys, page: &[u8]) -> bool {
    keys.is_newest(&page[PAGE_BYTES - reserved_bytes(keys)..]) || is_zero(page)
}

#[cfg(test)]
mod tests {
    use super::super::tests::keys;
    use super::*;

    #[test]
    fn a_page_is_restored_by_its_seal_and_by_nothing_else() {
        for keys in [Keys::Plain, keys()] {
            let page = sealed(&keys, &[7; PAGE_BYTES], 8192).unwrap();
            let at = PAGE_BYTES - reserved_bytes(&keys);
            let damaged = |from: usize, count: usize| {
                let mut damaged = page;
                damaged[from..from + count].iter_mut().for_each(|byte| *byte ^= 0x5a);
                damaged
            };
            let restore = |stored: &[u8; PAGE_BYTES], content: u8, offset| {
                restored(&keys, stored, &[content; PAGE_BYTES][..at], offset).unwrap()
            };
            assert_eq!(restore(&damaged(100, 500), 7, 8192), Some(page));
            // Another content, or another place.
            assert_eq!(restore(&damaged(100, 500), 8, 8192), None);
            assert_eq!(restore(&damaged(100, 500), 7, 4096), None);
            // Without the seal, only what is there whole is known to be it.
            let is_plain = !keys.is_encrypted();
            assert_eq!(restore(&damaged(at, 4), 7, 8192), is_plain.then_some(page));
            assert_eq!(restore(&damaged(at - 4, 8), 7, 8192), None);
            assert_eq!(restore(&[0; PAGE_BYTES], 7, 8192), None);
            // Zeros are no content that is known to have been here, unless the seal says so.
            assert_eq!(restore(&[0; PAGE_BYTES], 0, 8192), None);
            let zeros = sealed(&keys, &[0; PAGE_BYTES], 8192).unwrap();
            let mut damaged = zeros;
            damaged[100] = 1;
            assert_eq!(restore(&damaged, 0, 8192), Some(zeros));
        }
    }

    #[test]
    fn a_sealed_page_opens_at_its_own_place_only() {
        for keys in [Keys::Plain, keys()] {
            let page = sealed(&keys, &[7; PAGE_BYTES], 8192).unwrap();
            let opens = |page: &[u8; PAGE_BYTES], offset| {
                let mut page = *page;
                open(&keys, &mut page, offset).then_some(page)
            };
            let content = PAGE_BYTES - reserved_bytes(&keys);
            assert_eq!(opens(&page, 8192).unwrap()[..content], [7; PAGE_BYTES][..content]);
            assert!(opens(&page, 4096).is_none());
            for at in [0, 100, content - 1, content, PAGE_BYTES - 1] {
                let mut bad = page;
                bad[at] ^= 1;
                assert!(opens(&bad, 8192).is_none(), "byte {at}");
            }
            assert!(opens(&[0; PAGE_BYTES], 0).is_none());
        }
    }
}
