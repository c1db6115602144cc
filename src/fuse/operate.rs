//! Operations on nodes of a mount, as any thread runs them.

use super::kernel_cache::KernelCache;
use super::reply::{Listed, Reply, TTL, errno};
use super::workers::Workers;
use crate::fs::{At, EntryWithAttr, Fs, FsError, Node, Place, Views, Wait};
use nix::errno::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs an operation. A panic in it is an I/O error for the caller and the end of all changes, for half a change may
/// have been made; it is not the end of the mount.
pub(super) fn guarded<T>(fs: &Fs, operation: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        fs.store().health().fail("an operation panicked; please report the message above");
        Err(FsError::Io)
    })
}

/// An entry of a directory of `at`'s view.
fn listed<'a>(at: &At, (entry, attr): &'a EntryWithAttr) -> Listed<'a> {
    Listed { node: at.node(entry.ino), entry, attr: attr.map(|attr| at.seen(attr)), ttl: TTL }
}

/// Runs an operation on a node of the volume or of a snapshot.
pub(super) fn run<T>(
    views: &Views,
    node: Node,
    operation: impl FnOnce(&At) -> Result<T, FsError>,
) -> Result<T, FsError> {
    let _busy = views.busy();
    run_on(views, node, operation)
}

/// As [`run`], for a caller who is busy already.
pub(super) fn run_on<T>(
    views: &Views,
    node: Node,
    operation: impl FnOnce(&At) -> Result<T, FsError>,
) -> Result<T, FsError> {
    match views.place(node)? {
        Place::Inode(at) => guarded(&at.fs, || operation(&at)),
        // What is done with the directory of snapshots itself, its callers have seen to.
        Place::Snapshots => Err(FsError::ReadOnly),
    }
}

/// Lets the kernel drop what it keeps of a node, without waiting for it.
pub(super) fn drop_kept(workers: &Workers, cache: &KernelCache, node: Node) {
    let cache = cache.clone();
    workers.ask(None, move |may_wait| {
        if let Err(e) = cache.write_back(node, &(0..u64::MAX), may_wait) {
            log::debug!("cannot drop what is kept of node {node}: {e}");
        }
    });
}

/// Replies with entries of a directory.
pub(super) fn list_now(views: &Views, node: Node, offset: u64, size: usize, plus: bool, reply: impl Reply) {
    reply.list(size, plus, &mut |add| {
        run(views, node, |at| {
            at.fs.list(at.ino, offset, plus, |group| match group {
                [one] => add(&[listed(at, one)]),
                group => add(&group.iter().map(|one| listed(at, one)).collect::<Vec<_>>()),
            })
        })
    });
}

/// Reads and replies. Gives the reply back if the read would have to wait.
pub(super) fn read_now<R: Reply>(
    views: &Views,
    node: Node,
    offset: u64,
    size: usize,
    wait: Wait,
    reply: R,
) -> Option<R> {
    let _busy = views.busy();
    let at = match views.place(node) {
        Ok(Place::Inode(at)) => at,
        Ok(Place::Snapshots) => {
            reply.send(Err(Errno::EISDIR));
            return None;
        }
        Err(e) => {
            reply.send(Err(errno(e)));
            return None;
        }
    };
    reply.fill(size, &mut |buffer| guarded(&at.fs, || at.fs.read(at.ino, offset, buffer, wait)))
}
