//! Files that programs have open on a mount of which another host may get the volume.
//!
//! What the kernel has in memory of an open file can be read without asking anybody: by those who have mapped it, and by sendfile(2) and
//! splice(2). So the kernel is made to drop it when nothing may be answered any more. Files that were opened from a server before this one are
//! not known.

use super::device::Device;
use super::wire;
use crate::fs::Node;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

/// How often each file is open.
#[derive(Default)]
pub(super) struct Opened(Mutex<FxHashMap<Node, u64>>);

impl Opened {
    /// The kernel is told that a file is open.
    pub(super) fn opens(&self, node: Node) {
        *self.0.lock().entry(node).or_default() += 1;
    }

    /// It says that one is not any more.
    pub(super) fn closes(&self, node: Node) {
        let mut open = self.0.lock();
        if let Some(count) = open.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                open.remove(&node);
            }
        }
    }

    /// Lets the kernel drop what it has of all of them. Those that are `busy` come last: their pages may be locked until a request is answered.
    /// What was changed in memory is written back.
    pub(super) fn drop_pages(&self, device: &Device, busy: &FxHashSet<Node>) {
        let mut nodes: Vec<Node> = self.0.lock().keys().copied().collect();
        nodes.sort_unstable_by_key(|node| (busy.contains(node), *node));
        for node in nodes {
            // The kernel may not know it any more.
            if let Err(e) = device.notify(&wire::inval_inode(node, 0, 0)) {
                log::debug!("cannot drop what is kept of node {node}: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_is_open_is_dropped_and_what_is_busy_last() {
        let (kernel, ours) = UnixDatagram::pair().unwrap();
        let device = Device::new(ours.into());
        let opened = Opened::default();
        for node in [3, 5, 7, 7, 9] {
            opened.opens(node);
        }
        // (Of a directory, or of what a server before this one opened, nothing is known.)
        for node in [5, 7, 11] {
            opened.closes(node);
        }
        opened.drop_pages(&device, &[3].into_iter().collect());
        kernel.set_nonblocking(true).unwrap();
        let mut bytes = [0; 256];
        let dropped: Vec<_> =
            std::iter::from_fn(|| kernel.recv(&mut bytes).ok().map(|len| bytes[..len].to_vec())).collect();
        let expected = [7, 9, 3].map(|node| wire::inval_inode(node, 0, 0));
        assert_eq!(dropped, expected);
    }
}
