//! What is asked while nothing may be answered: another host may have the volume by then.
//!
//! Whether something may be answered is found out right before each answer is written ([`MayAnswer::answer`]). An answer that may not be
//! given now is held; and what is asked while none may be given is put aside before anything of it is done. So readers hold no lock and work
//! on nothing while programs wait, and go on with what tells nobody anything: files that are closed, nodes that are forgotten, and pages
//! that the kernel writes back, for which nobody waits but who syncs them, and that one waits here.
//!
//! Invariants:
//! - a server that dies has, of each of its readers, at most one change in its log that was not answered: as long as an answer is held,
//!   readers begin with nothing else, and what was put aside is gone on with by a reader of its own, a thread that there is as long as
//!   something is held;
//! - what is held takes a quarter of the memory at most ([`most_bytes`]), beside one request of each reader: then readers take no more, and pages
//!   that were changed in memory are not dropped, because nobody takes them.

use super::adapter::Adapter;
use super::device::{Device, next_reader};
use super::ledger::Seat;
use super::long::{LOOK, is_dying};
use super::opened::OpenFiles;
use super::serving::{Hand, Way, carry_out};
use super::settling::Again;
use super::task::Desk;
use super::wire::{self, InHeader, Parts, opcode};
use crate::memory::Memory;
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// For how long the kernel may keep names and attributes: it is this much longer that programs see what was so when the last answer was
/// given.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(1);
/// Bytes of requests and answers that are held at most, where the host has not four times as much memory.
const BYTES_LEAST: usize = 64 << 20;
/// How often it is looked at least whether something may be answered still: no timer counts how long a host was asleep.
const WATCH: Duration = Duration::from_secs(1);

/// Bytes of requests and answers that are held at most: more than the kernel lets programs change in memory.
fn most_bytes() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    let quarter = || usize::try_from(Memory::all_bytes() / 4).unwrap_or(usize::MAX);
    *MOST.get_or_init(|| quarter().max(BYTES_LEAST))
}

/// Whether something may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Now,
    /// Not now, but perhaps later.
    Later,
    /// Never again: everything is an error.
    Never,
}

/// Who says whether the volume may be served.
pub trait MayAnswer: Send + Sync + fmt::Debug {
    /// Calls `give`, which gives an answer at once, if that may be done right now.
    fn answer(&self, give: &mut dyn FnMut()) -> Verdict;

    /// What [`MayAnswer::answer`] would find.
    fn look(&self) -> Verdict;

    /// Waits until that is not [`Verdict::Later`], for so long at most.
    fn wait(&self, most: Duration);

    /// Waits as long as it is [`Verdict::Now`], for so long at most.
    fn wait_while_now(&self, most: Duration);
}

/// Gives an answer as it is, or an error instead.
pub(super) type Give = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// An answer that may not be given now.
pub(super) struct HeldAnswer {
    pub(super) pid: u32,
    pub(super) opcode: u32,
    /// The node that it is about.
    pub(super) node: u64,
    pub(super) bytes: usize,
    pub(super) give: Give,
}

impl HeldAnswer {
    /// Whether nothing has become of it that the kernel would have to know.
    fn can_be_interrupted(&self) -> bool {
        [opcode::READ, opcode::GETATTR, opcode::FSYNC].contains(&self.opcode)
    }
}

/// A request of which nothing was done.
struct Asked {
    header: InHeader,
    args: Vec<u8>,
    rest: Vec<u8>,
    again: Option<Again>,
}

impl Asked {
    fn bytes(&self) -> usize {
        self.args.len() + self.rest.len()
    }
}

#[derive(Default)]
struct State {
    answers: VecDeque<HeldAnswer>,
    requests: VecDeque<Asked>,
    bytes: usize,
    /// The thread is there.
    runs: bool,
    ends: bool,
}

/// Where the requests and answers of a mount are held.
pub(super) struct Gate {
    may: Arc<dyn MayAnswer>,
    /// How many servers of the store were before this one.
    incarnation: u32,
    /// Who goes on with what is held.
    servers: OnceLock<(Weak<Desk>, Weak<Adapter>)>,
    state: Mutex<State>,
    changed: Condvar,
    /// Answers are held.
    holds_answers: AtomicBool,
    opened: Arc<OpenFiles>,
}

impl Gate {
    pub(super) fn new(may: Arc<dyn MayAnswer>, opened: Arc<OpenFiles>, incarnation: u32) -> Arc<Self> {
        let (state, changed, servers) = (Mutex::default(), Condvar::new(), OnceLock::new());
        let holds_answers = AtomicBool::new(false);
        Arc::new(Self { may, incarnation, servers, state, changed, holds_answers, opened })
    }

    /// Before the first request: who goes on with what is held. A thread makes the kernel drop what it has of open files whenever nothing may
    /// be answered.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn serve_with(self: &Arc<Self>, desk: &Arc<Desk>, adapter: &Arc<Adapter>) -> io::Result<()> {
        let _ = self.servers.set((Arc::downgrade(desk), Arc::downgrade(adapter)));
        let (gate, desk) = (Arc::clone(self), Arc::downgrade(desk));
        std::thread::Builder::new().name("larder-lease".into()).spawn(move || gate.watch(&desk)).map(drop)
    }

    /// Files that are open.
    pub(super) fn opened(&self) -> &OpenFiles {
        &self.opened
    }

    fn watch(self: &Arc<Self>, desk: &Weak<Desk>) {
        let mut is_dropped = false;
        loop {
            {
                let mut state = self.state.lock();
                if state.ends {
                    return;
                }
                // The thread could not be started before.
                if !state.runs && (!state.answers.is_empty() || !state.requests.is_empty()) {
                    self.start(&mut state);
                }
            }
            let verdict = self.may.look();
            if verdict == Verdict::Now {
                is_dropped = false;
                self.may.wait_while_now(WATCH);
                continue;
            }
            if !is_dropped || verdict == Verdict::Never {
                let Some(desk) = desk.upgrade() else { return };
                let busy = {
                    let state = self.state.lock();
                    let answers = state.answers.iter().map(|answer| answer.node);
                    answers.chain(state.requests.iter().map(|asked| asked.header.nodeid)).collect()
                };
                let device = Arc::clone(&desk.device);
                self.opened.drop_pages(&busy, move |node| device.notify(&wire::inval_inode(node, 0, 0)));
                is_dropped = true;
            }
            if verdict == Verdict::Never {
                return;
            }
            self.may.wait(WATCH);
        }
    }

    /// Whether a request that somebody waits for may be begun with.
    pub(super) fn look(&self) -> Verdict {
        match self.may.look() {
            Verdict::Now if self.holds_answers.load(Ordering::SeqCst) => Verdict::Later,
            verdict => verdict,
        }
    }

    /// Lets an answer be given, if that may be done right now.
    pub(super) fn answer(&self, give: &mut dyn FnMut()) -> Verdict {
        self.may.answer(give)
    }

    /// Holds an answer until it may be given.
    pub(super) fn hold(self: &Arc<Self>, answer: HeldAnswer) {
        let mut state = self.state.lock();
        if state.ends {
            drop(state);
            return (answer.give)(Err(Errno::EIO));
        }
        // Before whoever has it takes another request.
        self.holds_answers.store(true, Ordering::SeqCst);
        state.bytes += answer.bytes;
        state.answers.push_back(answer);
        self.start(&mut state);
    }

    /// Puts a request aside until it may be begun with.
    pub(super) fn put_aside(self: &Arc<Self>, device: &Device, parts: &Parts<'_>, again: Option<Again>) {
        let Parts { header, args, rest } = *parts;
        let mut state = self.state.lock();
        if state.ends {
            drop(state);
            return device.answer(header.unique, -(Errno::EIO as i32), &[]);
        }
        let asked = Asked { header, args: args.to_vec(), rest: rest.to_vec(), again };
        state.bytes += asked.bytes();
        state.requests.push_back(asked);
        self.start(&mut state);
    }

    /// Waits until there is room for another request, or `is_gone` says that the mount is.
    pub(super) fn wait_for_room(&self, is_gone: impl Fn() -> bool) {
        let mut state = self.state.lock();
        let most = most_bytes();
        while state.bytes > most && !state.ends {
            self.changed.wait_for(&mut state, LOOK);
            if is_gone() {
                return;
            }
        }
    }

    /// The mount is gone, and nobody hears an answer. When this returns, nothing of what was held is gone on with.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ends = true;
        while state.runs {
            self.changed.wait(&mut state);
        }
        let (answers, requests) = (std::mem::take(&mut state.answers), std::mem::take(&mut state.requests));
        state.bytes = 0;
        drop(state);
        self.changed.notify_all();
        answers.into_iter().for_each(|answer| (answer.give)(Err(Errno::EIO)));
        drop(requests);
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if state.runs {
            return;
        }
        let servers = self.servers.get();
        let servers = servers.and_then(|(desk, adapter)| Some((desk.upgrade()?, adapter.upgrade()?)));
        let Some((desk, adapter)) = servers else { return };
        let gate = Arc::clone(self);
        let thread =
            std::thread::Builder::new().name("larder-held".into()).spawn(move || gate.run(&desk, &adapter));
        match thread {
            Ok(_) => state.runs = true,
            // With the next one, or by who watches.
            Err(e) => log::error!("cannot start a thread, and programs wait until one can be: {e}"),
        }
    }

    fn run(&self, desk: &Arc<Desk>, adapter: &Arc<Adapter>) {
        let (reader, seat) = (next_reader(self.incarnation), desk.ledger.seat(desk.volume));
        loop {
            {
                let mut state = self.state.lock();
                if state.ends || state.answers.is_empty() && state.requests.is_empty() {
                    state.runs = false;
                    drop(state);
                    self.changed.notify_all();
                    return;
                }
            }
            match self.may.look() {
                Verdict::Later => {
                    self.may.wait(LOOK);
                    self.let_go(desk);
                }
                verdict => self.go_on(desk, adapter, verdict, (reader, &seat)),
            }
        }
    }

    /// Gives an answer; if there is none, goes on with a request.
    fn go_on(
        &self,
        desk: &Arc<Desk>,
        adapter: &Arc<Adapter>,
        verdict: Verdict,
        (reader, seat): (u64, &Seat),
    ) {
        let held = {
            let mut state = self.state.lock();
            let held = state.answers.pop_front();
            state.bytes -= held.as_ref().map_or(0, |held| held.bytes);
            held
        };
        if let Some(HeldAnswer { pid, opcode, node, bytes, give }) = held {
            let mut give = Some(give);
            let verdict = self.may.answer(&mut || give.take().into_iter().for_each(|give| give(Ok(()))));
            let mut state = self.state.lock();
            if let Some(give) = give {
                if verdict == Verdict::Later {
                    state.bytes += bytes;
                    state.answers.push_front(HeldAnswer { pid, opcode, node, bytes, give });
                } else {
                    drop(state);
                    give(Err(Errno::EIO));
                    state = self.state.lock();
                }
            }
            self.holds_answers.store(!state.answers.is_empty(), Ordering::SeqCst);
            drop(state);
            self.changed.notify_all();
            return;
        }
        let asked = {
            let mut state = self.state.lock();
            let asked = state.requests.pop_front();
            state.bytes -= asked.as_ref().map_or(0, Asked::bytes);
            asked
        };
        self.changed.notify_all();
        let Some(Asked { header, args, rest, again }) = asked else { return };
        if verdict == Verdict::Never {
            return desk.device.answer(header.unique, -(Errno::EIO as i32), &[]);
        }
        let hand = Hand { reader: Some(reader), seat: Some(seat) };
        let parts = Parts { header, args: &args, rest: &rest };
        let go_on = || carry_out(desk, adapter, &parts, (Way::Device, again, false), hand);
        if catch_unwind(AssertUnwindSafe(go_on)).is_err() {
            log::error!(
                "a request of kind {} that was held made its thread panic, which goes on",
                header.opcode
            );
        }
    }

    /// Lets go of those whose processes are being killed.
    fn let_go(&self, desk: &Desk) {
        let (answers, requests): (Vec<HeldAnswer>, Vec<Asked>) = {
            let mut state = self.state.lock();
            let State { answers, requests, bytes, .. } = &mut *state;
            let mut gone = (Vec::new(), Vec::new());
            for answer in std::mem::take(answers) {
                match answer.can_be_interrupted() && is_dying(answer.pid) {
                    true => gone.0.push(answer),
                    false => answers.push_back(answer),
                }
            }
            for asked in std::mem::take(requests) {
                match is_dying(asked.header.pid) {
                    true => gone.1.push(asked),
                    false => requests.push_back(asked),
                }
            }
            let freed = gone.0.iter().map(|answer| answer.bytes).chain(gone.1.iter().map(Asked::bytes));
            *bytes -= freed.sum::<usize>();
            self.holds_answers.store(!answers.is_empty(), Ordering::SeqCst);
            gone
        };
        self.changed.notify_all();
        answers.into_iter().for_each(|answer| (answer.give)(Err(Errno::EINTR)));
        for asked in requests {
            desk.device.answer(asked.header.unique, -(Errno::EINTR as i32), &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[derive(Debug)]
    struct Paused;

    impl MayAnswer for Paused {
        fn answer(&self, _: &mut dyn FnMut()) -> Verdict {
            Verdict::Later
        }

        fn look(&self) -> Verdict {
            Verdict::Later
        }

        fn wait(&self, _: Duration) {}

        fn wait_while_now(&self, _: Duration) {}
    }

    /// At 64 MiB, readers took nothing more: pages that were changed in memory stayed readable, because nobody took them from the kernel.
    #[test]
    fn readers_go_on_until_a_quarter_of_the_memory_is_held() {
        let gate = Gate::new(Arc::new(Paused), Arc::new(OpenFiles::new(&[])), 0);
        let quarter = usize::try_from(Memory::all_bytes() / 4).unwrap();
        let waits = |bytes: usize| {
            gate.state.lock().bytes = bytes;
            let waits = Cell::new(false);
            gate.wait_for_room(|| {
                waits.set(true);
                true
            });
            waits.get()
        };
        assert!(!waits(quarter.max(BYTES_LEAST)));
        assert!(waits(quarter.max(BYTES_LEAST) + 1));
    }
}
