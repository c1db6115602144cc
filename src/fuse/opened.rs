//! Files that programs have open on a mount of which another host may get the volume.
//!
//! What the kernel has in memory of an open file can be read without asking anybody: by those who have mapped it, and by sendfile(2) and
//! splice(2). So the kernel is made to drop it when nothing may be answered any more. Files that were opened from a server before this one are
//! not known.

use crate::fs::Node;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long one file is waited for before the others are dropped beside it.
const STUCK: Duration = Duration::from_millis(200);
/// So many are waited for at the same time, at most.
const STUCK_MOST: usize = 256;

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

    /// Lets the kernel drop what it has of all of them, with `drop_one`. Those that are `busy` come last: their pages may be locked until a request
    /// is answered. No file waits for another one, up to some that are waited for: those are left to threads of their own. What was changed in
    /// memory is written back.
    pub(super) fn drop_pages(
        &self,
        busy: &FxHashSet<Node>,
        drop_one: impl Fn(Node) -> io::Result<()> + Send + Sync + 'static,
    ) {
        let mut nodes: Vec<Node> = self.0.lock().keys().copied().collect();
        nodes.sort_unstable_by_key(|node| (busy.contains(node), *node));
        let (left, drop_one) = (Arc::new(Mutex::new(VecDeque::from(nodes))), Arc::new(drop_one));
        let (done, finished) = mpsc::channel::<()>();
        for _ in 0..STUCK_MOST {
            let (queue, drop_one, done) = (Arc::clone(&left), Arc::clone(&drop_one), done.clone());
            let work = move || {
                let next = || queue.lock().pop_front();
                while let Some(node) = next() {
                    // The kernel may not know it any more.
                    if let Err(e) = drop_one(node) {
                        log::debug!("cannot drop what is kept of node {node}: {e}");
                    }
                    let _ = done.send(());
                }
            };
            if let Err(e) = std::thread::Builder::new().name("larder-drop".into()).spawn(work) {
                log::error!("cannot start a thread that drops what the kernel keeps of open files: {e}");
                return;
            }
            // As long as it gets on, it is left to it.
            while !left.lock().is_empty() && finished.recv_timeout(STUCK).is_ok() {}
            if left.lock().is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Opened {
        let opened = Opened::default();
        for node in [3, 5, 7, 7, 9] {
            opened.opens(node);
        }
        // (Of a directory, or of what a server before this one opened, nothing is known.)
        for node in [5, 7, 11] {
            opened.closes(node);
        }
        opened
    }

    #[test]
    fn what_is_open_is_dropped_and_what_is_busy_last() {
        let (send, dropped) = mpsc::channel();
        opened()
            .drop_pages(&[3].into_iter().collect(), move |node| send.send(node).map_err(io::Error::other));
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [7, 9, 3]);
    }

    #[test]
    fn no_file_waits_for_another_one() {
        let (send, dropped) = mpsc::channel();
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        opened().drop_pages(&FxHashSet::default(), move |node| {
            if node == 3 {
                let _ = waits.lock().recv();
            }
            send.send(node).map_err(io::Error::other)
        });
        let first: Vec<Node> = (0..2).map(|_| dropped.recv().unwrap()).collect();
        assert_eq!(first, [7, 9]);
        drop(go_on);
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [3]);
    }
}
