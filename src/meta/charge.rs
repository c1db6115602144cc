//! What metadata counts.
//!
//! A volume's metadata is what its rows in `inode`, `dentry` and `xattr` hold, as far as the volume sees them: shared with
//! others or not, as its blocks. So removals never make it more, also where they leave a row that hides an older one. Rows of
//! `chunk` are not part of it: each of their extents stands for a block at least, which the size limit counts.

use super::db::Db;
use super::dentry;
use super::error::Result;
use super::generation::Lineage;
use super::inode;
use super::types::Inode;
use super::xattr;

/// An inode, in bytes, beside the target of a symbolic link.
const INODE: u64 = 256;
/// An entry of a directory, in bytes, beside its name.
const NAME: u64 = 64;
/// An extended attribute, in bytes, beside its name and its value.
const XATTR: u64 = 64;
/// Bytes of a row that lie in a page together with other rows.
const LOCAL: u64 = 768;
/// Of the bytes behind those, so many take a page of their own.
const PER_PAGE: u64 = 4000;
const PAGE: u64 = 4096;

/// The least that a file counts: an inode and a name.
pub const FILE_MIN: u64 = INODE + NAME + 1;

/// Bytes of a row whose length varies: what does not fit beside other rows takes whole pages.
fn variable(len: usize) -> u64 {
    let len = len as u64;
    len.min(LOCAL) + len.saturating_sub(LOCAL).div_ceil(PER_PAGE) * PAGE
}

/// What an inode counts.
pub(super) fn inode(inode: &Inode) -> u64 {
    INODE + inode.target.as_ref().map_or(0, |target| variable(target.len()))
}

/// What a name counts.
pub(super) fn name(name: &[u8]) -> u64 {
    NAME + variable(name.len())
}

/// What an extended attribute counts, by the lengths of its name and its value.
pub(super) fn xattr(name: usize, value: usize) -> u64 {
    XATTR + variable(name + value)
}

/// What all that a lineage sees counts. The caches must be flushed.
pub(super) fn all(db: &Db, lineage: &Lineage) -> Result<u64> {
    let mut bytes = 0;
    inode::scan(db, lineage, |found| {
        bytes += inode(&found);
        Ok(())
    })?;
    dentry::scan(db, lineage, |_, entry| {
        bytes += name(&entry.name);
        Ok(())
    })?;
    xattr::scan(db, lineage, |name, value| bytes += xattr(name, value))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_beside_other_rows_counts_whole_pages() {
        assert_eq!((variable(0), variable(768), variable(769)), (0, 768, 768 + 4096));
        assert_eq!((variable(4768), variable(4769)), (768 + 4096, 768 + 2 * 4096));
        // The largest value of an attribute takes 17 pages of 4,044 bytes and more.
        assert_eq!(variable(65_536), 768 + 17 * 4096);
    }
}
