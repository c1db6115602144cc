//! The thread of one queue: it takes the requests of callers on its CPU, on that CPU.

use super::super::adapter::{Adapter, Begun};
use super::super::pin::pin_to;
use super::super::pool::Pool;
use super::super::reply::{Answer, Reply};
use super::super::request::{Op, Request};
use super::super::wire::{self, Decoded};
use super::entry::Entry;
use super::reply::{Outbox, UringReply};
use super::ring::{Completion, Ring};
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests from this size on are handed to a worker: the time they take is that of copying, and others wait behind them.
const LARGE_BYTES: usize = 128 * 1024;
/// Entries that a queue has at most: each caller waits for one request at a time, so that there are never many.
const MOST_ENTRIES: usize = 1024;

/// What all queues of a connection share.
pub(super) struct Shared {
    pub(super) adapter: Arc<Adapter>,
    pub(super) workers: Pool,
    /// Entries that a queue begins with.
    pub(super) depth: usize,
}

/// Serves a queue until the mount is gone.
pub(super) fn run(mut ring: Ring, shared: &Arc<Shared>) -> io::Result<()> {
    pin_to(usize::from(ring.queue()));
    let outbox = Arc::new(Outbox::new(ring.bell()));
    outbox.settle();
    let mut queue = Queue {
        shared: Arc::clone(shared),
        outbox,
        large: Arc::default(),
        entries: 0,
        losses: 0,
        ended: false,
    };
    for _ in 0..shared.depth {
        queue.grow(&mut ring)?;
    }
    let mut completed = Vec::new();
    while !(queue.ended && ring.in_kernel() == 0) {
        ring.exchange(&mut completed)?;
        let mut behind = completed.len();
        for completion in completed.drain(..) {
            behind -= 1;
            match completion {
                Completion::Entry(entry, Ok(())) => queue.take(entry),
                Completion::Entry(_, Err(e)) => queue.lose(e)?,
                Completion::Bell => {
                    for entry in queue.outbox.take() {
                        ring.commit(entry)?;
                    }
                }
            }
            for entry in Outbox::take_own() {
                ring.commit(entry)?;
            }
            // Nobody waits for the answers of those behind him.
            if behind > 0 {
                ring.submit()?;
            }
        }
        // All others are held by requests that wait for something, perhaps for what comes next: SEEK_DATA waits for what
        // the kernel writes back.
        if ring.in_kernel() == 0 && !queue.ended {
            queue.grow(&mut ring)?;
        }
    }
    Ok(())
}

struct Queue {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    /// Large requests that workers have.
    large: Arc<AtomicUsize>,
    entries: usize,
    losses: usize,
    ended: bool,
}

impl Queue {
    fn grow(&mut self, ring: &mut Ring) -> io::Result<()> {
        if self.entries >= MOST_ENTRIES {
            return Ok(());
        }
        self.entries += 1;
        ring.register()
    }

    /// An entry is of no more use. It is replaced, but not for ever.
    fn lose(&mut self, e: Errno) -> io::Result<()> {
        const PATIENCE: usize = 16;
        self.entries -= 1;
        self.losses += 1;
        match e {
            // The mount is gone.
            Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECANCELED | Errno::ENODEV => self.ended = true,
            e if self.losses > PATIENCE => return Err(e.into()),
            e => log::error!("a queue of the FUSE connection: {e}"),
        }
        Ok(())
    }

    fn take(&self, entry: Entry) {
        let is_large = match wire::decode(&entry.parts()) {
            Ok(Decoded::Request(Request { op: Op::Read { size, .. }, .. })) => size as usize >= LARGE_BYTES,
            Ok(Decoded::Request(Request { op: Op::Write { data, .. }, .. })) => data.len() >= LARGE_BYTES,
            _ => false,
        };
        // Never all entries: others come in between.
        if !is_large || self.large.load(Ordering::Relaxed) * 2 >= self.shared.depth {
            serve(&self.shared.adapter, entry, &self.outbox);
            return;
        }
        self.large.fetch_add(1, Ordering::Relaxed);
        let (shared, outbox) = (Arc::clone(&self.shared), Arc::clone(&self.outbox));
        let large = Arc::clone(&self.large);
        self.shared.workers.run(Box::new(move || {
            serve(&shared.adapter, entry, &outbox);
            large.fetch_sub(1, Ordering::Relaxed);
        }));
    }
}

/// Carries out the request in an entry.
fn serve(adapter: &Adapter, entry: Entry, outbox: &Arc<Outbox>) {
    let parts = entry.parts();
    let begun = match wire::decode(&parts) {
        Ok(Decoded::Request(request)) => adapter.begin(&request),
        // These come by /dev/fuse.
        Ok(Decoded::Forget { .. } | Decoded::Forgets(_) | Decoded::Destroy) => {
            Begun::Answered(Ok(Answer::Done))
        }
        Ok(Decoded::Unknown) => Begun::Answered(Err(Errno::ENOSYS)),
        Err(wire::Malformed) => {
            log::error!("a request of kind {} makes no sense", parts.header.opcode);
            Begun::Answered(Err(Errno::EIO))
        }
    };
    // What the request said is not needed any more: the answer takes its place.
    let reply = UringReply::new(entry, outbox);
    match begun {
        Begun::Answered(answer) => reply.send(answer),
        Begun::Later(later) => adapter.finish(later, reply),
    }
}
