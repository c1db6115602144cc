//! The time after a take-over in which requests come that the server before had taken already.
//!
//! The kernel puts what it gives again before everything else that waits (`fuse_resend` in fs/fuse/dev.c of Linux 6.9 and later
//! splices it to the head of the queue). So when the first other request comes, all of it has been taken; and when that much has
//! been answered too, nothing of the servers before has to be remembered any more. Until then, readers take turns in taking.

use super::wire::{self, UNIQUE_RESEND, opcode};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is known of one request from the servers before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// The kernel's number of the request.
    pub unique: u64,
    /// No server is to work on it any more.
    pub is_convicted: bool,
}

/// What is left to do of what the server before had taken.
pub(super) struct Settling {
    turn: Mutex<()>,
    /// All was taken that comes again.
    is_taken: AtomicBool,
    /// Of that, so many are being worked on.
    in_hand: AtomicUsize,
    suspicions: Vec<Suspicion>,
    /// Something is worked on alone.
    is_alone: Mutex<bool>,
    let_go: Condvar,
    /// Called when all is answered.
    settled: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A request that was given before.
    Again,
    /// One that was not.
    New,
    /// What passes others in the queue, and has no answer.
    Aside,
}

fn kind(message: &[u8]) -> Kind {
    match wire::parts(message).map(|parts| (parts.header.opcode, parts.header.unique)) {
        Ok((opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT, _)) | Err(_) => Kind::Aside,
        Ok((_, unique)) if unique & UNIQUE_RESEND != 0 => Kind::Again,
        Ok(_) => Kind::New,
    }
}

impl Settling {
    /// Of a new mount, to which nothing comes again.
    pub(super) fn nothing() -> Self {
        let settling = Self::new(Vec::new(), Box::new(|| {}));
        settling.is_taken.store(true, Ordering::SeqCst);
        settling
    }

    /// Of a mount that is taken over; `settled` is called once.
    pub(super) fn new(suspicions: Vec<Suspicion>, settled: Box<dyn FnOnce() + Send>) -> Self {
        Self {
            turn: Mutex::default(),
            is_taken: AtomicBool::new(false),
            in_hand: AtomicUsize::new(0),
            suspicions,
            is_alone: Mutex::default(),
            let_go: Condvar::new(),
            settled: Mutex::new(Some(settled)),
        }
    }

    /// The next message from `receive`, which waits for one, and returns `None` when there will be no more. The second value is to
    /// be kept until the message is done with, and its answer is on its way.
    pub(super) fn next<'a>(
        self: &Arc<Self>,
        receive: impl FnOnce() -> io::Result<Option<&'a [u8]>>,
    ) -> io::Result<Option<(&'a [u8], Option<Again>)>> {
        if self.is_taken.load(Ordering::Acquire) {
            return Ok(receive()?.map(|message| (message, None)));
        }
        let turn = self.turn.lock();
        if self.is_taken.load(Ordering::Acquire) {
            drop(turn);
            return Ok(receive()?.map(|message| (message, None)));
        }
        // Noted under the turn: whoever takes the first new one knows of all before it.
        let Some(message) = receive()? else { return Ok(None) };
        let again = match kind(message) {
            Kind::Again => {
                self.in_hand.fetch_add(1, Ordering::SeqCst);
                Some(Again(Arc::clone(self)))
            }
            Kind::New => {
                self.is_taken.store(true, Ordering::SeqCst);
                drop(turn);
                self.look();
                None
            }
            Kind::Aside => None,
        };
        Ok(Some((message, again)))
    }

    /// Waits until nothing else is worked on alone. As long as the guard lives, nothing else is. Nobody who has it waits for the
    /// kernel, or for a thread that can wait for this.
    pub(super) fn alone(self: &Arc<Self>) -> Alone {
        let mut is_alone = self.is_alone.lock();
        self.let_go.wait_while(&mut is_alone, |is_alone| *is_alone);
        *is_alone = true;
        Alone(Arc::clone(self))
    }

    fn look(&self) {
        if self.is_taken.load(Ordering::SeqCst)
            && self.in_hand.load(Ordering::SeqCst) == 0
            && let Some(settled) = self.settled.lock().take()
        {
            settled();
        }
    }
}

/// A request that was given before is not answered yet.
pub(super) struct Again(Arc<Settling>);

impl Again {
    /// Whether a server may have died of the request with this number: then it is to be worked on [alone](Settling::alone).
    ///
    /// # Errors
    /// When it is to be refused, because servers died of it.
    pub(super) fn try_suspect(&self, unique: u64) -> Result<bool, Convicted> {
        match self.0.suspicions.iter().find(|suspicion| suspicion.unique == unique) {
            Some(suspicion) if suspicion.is_convicted => Err(Convicted),
            suspicion => Ok(suspicion.is_some()),
        }
    }
}

/// A request is worked on alone. Another thread may let go of it than the one that began.
pub(super) struct Alone(Arc<Settling>);

impl Drop for Alone {
    fn drop(&mut self) {
        *self.0.is_alone.lock() = false;
        self.0.let_go.notify_one();
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
        self.0.look();
    }
}

/// No server is to work on it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Convicted;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, unique: u64) -> Vec<u8> {
        // With arguments as long as any request's.
        const LEN: u32 = 168;
        let mut bytes = vec![0; LEN as usize];
        bytes[0..4].copy_from_slice(&LEN.to_ne_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        bytes
    }

    fn settling(suspicions: Vec<Suspicion>) -> (Arc<Settling>, Arc<AtomicBool>) {
        let settled = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&settled);
        let settling = Settling::new(suspicions, Box::new(move || told.store(true, Ordering::SeqCst)));
        (Arc::new(settling), settled)
    }

    #[test]
    fn all_is_settled_when_a_new_request_came_and_the_old_ones_are_answered() {
        let (old, older) =
            (message(opcode::MKDIR, UNIQUE_RESEND | 2), message(opcode::WRITE, UNIQUE_RESEND | 4));
        let (forget, new) = (message(opcode::FORGET, 0), message(opcode::MKDIR, 6));
        let (settling, settled) = settling(Vec::new());
        let next = |message: &'static [u8]| settling.next(|| Ok(Some(message))).unwrap().unwrap().1;
        let [old, older, forget, new] =
            [old, older, forget, new].map(|bytes| &*Box::leak(bytes.into_boxed_slice()));
        let (first, second) = (next(old), next(older));
        assert!(first.is_some() && second.is_some() && next(forget).is_none());
        drop(first);
        assert!(next(forget).is_none() && !settled.load(Ordering::SeqCst));
        assert!(next(new).is_none());
        assert!(!settled.load(Ordering::SeqCst), "one of them is not answered yet");
        drop(second);
        assert!(settled.load(Ordering::SeqCst));
        assert!(next(new).is_none());
    }

    #[test]
    fn what_one_server_died_of_is_worked_on_alone_and_what_two_died_of_not_at_all() {
        let suspicion = |unique, is_convicted| Suspicion { unique, is_convicted };
        let (settling, _) = settling(vec![suspicion(2, false), suspicion(4, true), suspicion(6, false)]);
        let bytes = message(opcode::MKDIR, UNIQUE_RESEND | 2);
        let (_, again) = settling.next(|| Ok(Some(&bytes))).unwrap().unwrap();
        let again = again.unwrap();
        let found = [8, 4, 2, 6].map(|unique| again.try_suspect(unique));
        assert_eq!(found, [Ok(false), Err(Convicted), Ok(true), Ok(true)]);
        let (sent, received) = std::sync::mpsc::channel();
        let alone = settling.alone();
        let other = std::thread::spawn({
            let settling = Arc::clone(&settling);
            move || {
                let alone = settling.alone();
                sent.send(()).unwrap();
                // Another thread may let go of it.
                alone
            }
        });
        assert!(received.try_recv().is_err());
        drop(alone);
        received.recv().unwrap();
        assert!(*settling.is_alone.lock());
        drop(other.join().unwrap());
        assert!(!*settling.is_alone.lock());
    }
}
