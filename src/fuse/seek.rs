//! lseek(2) with SEEK_DATA and SEEK_HOLE on files that the kernel may hold unwritten data of.

use super::kernel_cache::{KernelCache, MayWait};
use super::operate::guarded;
use crate::fs::{FsError, Place, SeekTarget, Sought, Views};

/// How often a hole that turned out to be data, and the next one after it, are looked at anew.
const TRIES: usize = 1000;

fn look(views: &Views, node: u64, offset: u64, target: SeekTarget) -> Result<Sought, FsError> {
    // Not held while the kernel writes back: that comes as requests, which want it too.
    let _busy = views.busy();
    match views.place(node)? {
        Place::Inode(at) => guarded(&at.fs, || at.fs.seek_with_hole(at.ino, offset, target)),
        Place::Snapshots => Err(FsError::Invalid),
    }
}

/// The first offset at or behind `offset` that is `target`. With the kernel's `cache`, it is made to write back what it
/// has gathered, but only where a hole would be: what it then drops must be read again, and a file has few holes and many
/// pages. The kernel itself asks without writing back first; data that is not here yet would be called a hole, and a
/// copy of the file would lose it.
///
/// # Errors
/// `NoData` if there is none.
pub(super) fn seek(
    views: &Views,
    cache: Option<(&KernelCache, &MayWait)>,
    node: u64,
    offset: u64,
    target: SeekTarget,
) -> Result<u64, FsError> {
    let mut sought = look(views, node, offset, target)?;
    let Some((cache, may_wait)) = cache else { return sought.found.ok_or(FsError::NoData) };
    let mut written = offset..offset;
    for _ in 0..TRIES {
        let is_sure = written.start <= sought.hole.start && sought.hole.end <= written.end;
        if is_sure || sought.hole.is_empty() {
            break;
        }
        if let Err(e) = cache.write_back(node, &sought.hole, may_wait) {
            log::debug!("cannot write back inode {node} before a seek: {e}");
        }
        written = sought.hole;
        sought = look(views, node, offset, target)?;
    }
    sought.found.ok_or(FsError::NoData)
}
