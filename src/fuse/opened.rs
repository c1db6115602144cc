//! Files that programs have open on a mount of which another host may get the volume.
//!
//! What the kernel has in memory of an open file can be read without asking anybody: by those who have mapped it, and by sendfile(2) and
//! splice(2). So the kernel is made to drop it when nothing may be answered any more.
//!
//! Which files those are outlives a server: before the kernel is told that one is open, it is in a file in memory that the holder of the mount
//! has as well. How often each is open is known only of what this server has opened: what was open before it counts as open from then on,
//! since nobody can tell whether what is closed was opened before. So too much is dropped rather than too little.

use crate::fs::Node;
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long one file is waited for before the others are dropped beside it.
const STUCK: Duration = Duration::from_millis(200);
/// So many are waited for at the same time, at most.
const STUCK_MOST: usize = 256;
/// Bytes of a file's place in the file of those that are open: its node, or zeros where there is none.
const PLACE_BYTES: usize = 8;

#[derive(Debug, Default)]
struct State {
    /// How often each file is open that this server has opened.
    counts: FxHashMap<Node, u64>,
    /// Files that were open before.
    before: FxHashSet<Node>,
    /// Where each is noted, and places that are free.
    places: FxHashMap<Node, u64>,
    free: Vec<u64>,
}

/// The files that are open.
#[derive(Debug)]
pub struct OpenFiles {
    state: Mutex<State>,
    /// Where the next server finds them.
    file: Option<File>,
}

impl OpenFiles {
    /// Of a mount on which these were open before. Where there is no memory for it, the next server does not know them.
    pub fn new(before: &[Node]) -> Self {
        let file = memfd_create("larder-open-files", MFdFlags::MFD_CLOEXEC).map(File::from);
        let file = file.inspect_err(|e| log::warn!("which files are open is known to this server only: {e}"));
        let opened = Self { state: Mutex::default(), file: file.ok() };
        {
            let mut state = opened.state.lock();
            for node in before {
                if state.before.insert(*node) {
                    opened.note(&mut state, *node);
                }
            }
        }
        opened
    }

    /// What another process has to have to know them.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The files that are open, from what a server has let its holder have.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(file: BorrowedFd<'_>) -> io::Result<Vec<Node>> {
        let file = File::from(file.try_clone_to_owned()?);
        // (It only grows.)
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let (places, _) = bytes.as_chunks::<PLACE_BYTES>();
        Ok(places.iter().map(|place| Node::from_ne_bytes(*place)).filter(|node| *node != 0).collect())
    }

    fn write(&self, place: u64, node: Node) {
        if let Some(file) = &self.file
            && let Err(e) = file.write_all_at(&node.to_ne_bytes(), place * PLACE_BYTES as u64)
        {
            log::error!("which files are open cannot be noted for the next server: {e}");
        }
    }

    fn note(&self, state: &mut State, node: Node) {
        let next = state.places.len() as u64;
        let place = state.free.pop().unwrap_or(next);
        self.write(place, node);
        state.places.insert(node, place);
    }

    /// The kernel is about to be told that a file is open.
    pub(super) fn opens(&self, node: Node) {
        let mut state = self.state.lock();
        let count = state.counts.entry(node).or_default();
        *count += 1;
        if *count == 1 && !state.before.contains(&node) {
            self.note(&mut state, node);
        }
    }

    /// It says that one is not any more.
    pub(super) fn closes(&self, node: Node) {
        let mut state = self.state.lock();
        let Some(count) = state.counts.get_mut(&node) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.counts.remove(&node);
        if !state.before.contains(&node)
            && let Some(place) = state.places.remove(&node)
        {
            self.write(place, 0);
            state.free.push(place);
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
        let mut nodes: Vec<Node> = {
            let state = self.state.lock();
            let before = state.before.iter().filter(|node| !state.counts.contains_key(node));
            state.counts.keys().chain(before).copied().collect()
        };
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

    fn opened() -> OpenFiles {
        let opened = OpenFiles::new(&[]);
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

    /// They were not known: what the kernel had of them stayed readable while another host had the volume.
    #[test]
    fn the_next_server_knows_what_was_open_and_drops_it_too() {
        use std::os::fd::AsFd;
        let noted = |opened: &OpenFiles| {
            let mut nodes = OpenFiles::read(opened.file().unwrap().as_fd()).unwrap();
            nodes.sort_unstable();
            nodes
        };
        let dropped = |opened: &OpenFiles| {
            let (send, dropped) = mpsc::channel();
            opened.drop_pages(&FxHashSet::default(), move |node| send.send(node).map_err(io::Error::other));
            dropped.iter().collect::<Vec<_>>()
        };
        let first = opened();
        assert_eq!((noted(&first), dropped(&first)), (vec![3, 7, 9], vec![3, 7, 9]));
        // A place that is free is used again.
        first.opens(13);
        assert_eq!((noted(&first), first.file().unwrap().metadata().unwrap().len()), (vec![3, 7, 9, 13], 32));
        let next = OpenFiles::new(&noted(&first));
        assert_eq!((noted(&next), dropped(&next)), (vec![3, 7, 9, 13], vec![3, 7, 9, 13]));
        // Open twice, by this one and by the one before: whichever is closed, the other may still be open.
        next.opens(7);
        next.closes(7);
        next.closes(7);
        next.opens(15);
        next.opens(17);
        next.closes(15);
        assert_eq!((noted(&next), dropped(&next)), (vec![3, 7, 9, 13, 17], vec![3, 7, 9, 13, 17]));
    }
}
