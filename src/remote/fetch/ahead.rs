//! Pieces that are fetched before anybody asks for them, by threads of their own. They are in memory until somebody comes to them.

use super::pattern::{AHEAD_MAX, PIECES_MAX};
use super::reader::Reader;
use crate::store::{BlockAddr, Run, StoredBlocks};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one is kept to which nobody comes,
const KEPT: Duration = Duration::from_secs(10);
/// and where others want its room.
const KEPT_FROM_OTHERS: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum State {
    /// It is being fetched.
    Coming,
    /// It has come, at that time.
    Here(Vec<StoredBlocks>, Instant),
    /// Somebody is putting it where it belongs.
    Taken,
}

#[derive(Debug)]
struct Slot {
    run: Run,
    state: State,
}

impl Slot {
    fn has(&self, addr: BlockAddr) -> bool {
        let Run { start, .. } = self.run;
        start.segment == addr.segment && (start.index..self.run.end_index()).contains(&addr.index)
    }
}

/// All of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    slots: Mutex<Vec<Slot>>,
    changed: Condvar,
}

/// What there is for a block.
pub(super) enum Found<'a> {
    Nothing,
    /// Somebody else has put it where it belongs meanwhile.
    ByAnother,
    /// This, which the caller puts where it belongs.
    Blocks(Run, Vec<StoredBlocks>, Taken<'a>),
}

/// As long as it is there, others wait for what was taken.
pub(super) struct Taken<'a>(&'a Ahead, Run);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.remove(self.1);
    }
}

/// Takes a piece away that does not come, however its thread ends.
struct Unless<'a>(&'a Ahead, Option<Run>);

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if let Some(run) = self.1 {
            self.0.remove(run);
        }
    }
}

impl Ahead {
    fn remove(&self, run: Run) {
        self.slots.lock().retain(|slot| slot.run != run);
        self.changed.notify_all();
    }

    /// What was fetched with `addr` in it; waits as long as it is coming.
    pub(super) fn take(&self, addr: BlockAddr) -> Found<'_> {
        let mut slots = self.slots.lock();
        let mut was_taken = false;
        loop {
            let Some(slot) = slots.iter_mut().find(|slot| slot.has(addr)) else {
                return if was_taken { Found::ByAnother } else { Found::Nothing };
            };
            match std::mem::replace(&mut slot.state, State::Taken) {
                State::Here(blocks, _) => return Found::Blocks(slot.run, blocks, Taken(self, slot.run)),
                State::Coming => slot.state = State::Coming,
                State::Taken => was_taken = true,
            }
            self.changed.wait(&mut slots);
        }
    }

    /// Fetches a piece in the background, unless it is there or coming, or there are too many. What nobody has come to
    /// for a while goes for it.
    pub(super) fn begin(self: &Arc<Self>, run: Run, reader: &Arc<Reader>) {
        {
            let mut slots = self.slots.lock();
            let overlaps = |slot: &Slot| {
                let (one, other) = (slot.run, run);
                one.start.segment == other.start.segment
                    && one.start.index < other.end_index()
                    && other.start.index < one.end_index()
            };
            if slots.iter().any(overlaps) {
                return;
            }
            // What was fetched for one is not thrown away for another, who asks for it in vain, and fetches it once more.
            let is_full = |slots: &[Slot]| {
                slots.len() >= PIECES_MAX
                    || slots.iter().map(|slot| slot.run.count).sum::<u32>() + run.count > AHEAD_MAX
            };
            let is_old = |slot: &Slot| matches!(&slot.state, State::Here(_, since) if since.elapsed() >= KEPT_FROM_OTHERS);
            while is_full(&slots) {
                let Some(old) = slots.iter().position(is_old) else { return };
                slots.remove(old);
            }
            slots.push(Slot { run, state: State::Coming });
        }
        let (ahead, reader) = (Arc::clone(self), Arc::clone(reader));
        let fetch = move || {
            let mut gone = Unless(&ahead, Some(run));
            match reader.fetch(run) {
                Ok(blocks) if !blocks.is_empty() => {
                    ahead.keep(run, blocks);
                    gone.1 = None;
                }
                Ok(_) => {}
                Err(e) => log::debug!("what follows is not fetched before somebody asks for it: {e}"),
            }
        };
        if let Err(e) = std::thread::Builder::new().name("larder-ahead".into()).spawn(fetch) {
            log::debug!("no thread for what follows: {e}");
            self.remove(run);
        }
    }

    /// The part of `run` around `addr`, which is in no piece, that does not reach into any.
    pub(super) fn outside(&self, addr: BlockAddr, run: Run) -> Run {
        let (mut first, mut end) = (run.start.index, run.end_index());
        for Slot { run: other, .. } in &*self.slots.lock() {
            if other.start.segment != addr.segment {
                continue;
            }
            if other.start.index > addr.index {
                end = end.min(other.start.index);
            } else if other.end_index() <= addr.index {
                first = first.max(other.end_index());
            }
        }
        Run::new(BlockAddr { segment: addr.segment, index: first }, end - first)
    }

    /// Keeps what has come until somebody takes it, but not for long.
    fn keep(&self, run: Run, blocks: Vec<StoredBlocks>) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.iter_mut().find(|slot| slot.run == run) else { return };
        slot.state = State::Here(blocks, Instant::now());
        self.changed.notify_all();
        let until = Instant::now() + KEPT;
        let is_here = |slot: &Slot| slot.run == run && matches!(slot.state, State::Here(..));
        while slots.iter().any(is_here) {
            if self.changed.wait_until(&mut slots, until).timed_out() {
                slots.retain(|slot| !is_here(slot));
            }
        }
    }

    /// Pieces that are there, and that are coming.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        let slots = self.slots.lock();
        let of = |what: fn(&State) -> bool| slots.iter().filter(|slot| what(&slot.state)).count();
        (of(|state| matches!(state, State::Here(..))), of(|state| matches!(state, State::Coming)))
    }
}
