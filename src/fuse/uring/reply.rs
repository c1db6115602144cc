//! Answers on their way back into the ring.

use super::super::reply::{Answer, Fill, List, Reply, errno};
use super::super::wire::{self, Listing};
use super::entry::Entry;
use crate::fs::FsError;
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;

/// Where answers of one queue that come from other threads wait for its own, which alone may commit them.
pub(super) struct Outbox {
    answered: Mutex<Vec<Entry>>,
    bell: Arc<EventFd>,
}

thread_local! {
    /// On the thread of a queue: whose outbox it empties, and answers that need not go there.
    static HERE: RefCell<(usize, Vec<Entry>)> = const { RefCell::new((0, Vec::new())) };
}

impl Outbox {
    pub(super) fn new(bell: Arc<EventFd>) -> Self {
        Self { answered: Mutex::default(), bell }
    }

    /// A number that no other outbox has at the same time.
    fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// The calling thread is the queue's own.
    pub(super) fn settle(self: &Arc<Self>) {
        HERE.set((self.id(), Vec::new()));
    }

    /// What the queue's thread has answered itself.
    pub(super) fn take_own() -> Vec<Entry> {
        HERE.with_borrow_mut(|(_, own)| std::mem::take(own))
    }

    /// What others have answered.
    pub(super) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.answered.lock())
    }

    fn put(self: &Arc<Self>, entry: Entry) {
        let elsewhere = HERE.with_borrow_mut(|(id, own)| {
            if *id == self.id() {
                own.push(entry);
                return None;
            }
            Some(entry)
        });
        let Some(entry) = elsewhere else { return };
        let first = {
            let mut answered = self.answered.lock();
            answered.push(entry);
            answered.len() == 1
        };
        // If others wait already, the bell was rung for them.
        if first && let Err(e) = self.bell.write(1) {
            log::error!("waking the thread of a queue: {e}");
        }
    }
}

/// The way back to the caller of one request.
pub(super) struct UringReply {
    entry: Entry,
    outbox: Arc<Outbox>,
    unique: u64,
}

impl UringReply {
    pub(super) fn new(entry: Entry, outbox: &Arc<Outbox>) -> Self {
        let unique = entry.parts().header.unique;
        Self { entry, outbox: Arc::clone(outbox), unique }
    }

    fn put(mut self, error: i32, len: usize) {
        self.entry.answer(self.unique, error, len);
        self.outbox.put(self.entry);
    }
}

impl Reply for UringReply {
    fn send(self, answer: Result<Answer, Errno>) {
        match answer {
            Ok(answer) => wire::with_bytes(&answer, |bytes| self.send_bytes(bytes)),
            Err(e) => self.put(-(e as i32), 0),
        }
    }

    fn send_bytes(mut self, bytes: &[u8]) {
        match self.entry.payload().get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.put(0, bytes.len());
            }
            None => self.put(-libc::EIO, 0),
        }
    }

    fn fill(mut self, size: usize, fill: Fill<'_>) -> Option<Self> {
        let room = self.entry.payload();
        let size = size.min(room.len());
        match fill(&mut room[..size]) {
            Ok(count) => self.put(0, count),
            Err(FsError::WouldWait) => return Some(self),
            Err(e) => self.send(Err(errno(e))),
        }
        None
    }

    fn list(mut self, size: usize, plus: bool, list: List<'_>) {
        let room = self.entry.payload();
        let size = size.min(room.len());
        let mut listing = Listing::new(&mut room[..size], plus);
        match list(&mut |listed| listing.add(listed)) {
            Ok(()) => {
                let len = listing.bytes().len();
                self.put(0, len);
            }
            Err(e) => self.send(Err(errno(e))),
        }
    }
}
