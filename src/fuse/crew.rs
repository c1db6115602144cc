//! The readers of a mount: one for each CPU while requests come, and a single one while none do.
//!
//! A mount *rests* when its server says so. Readers are called away then from where they wait in the kernel, by a signal that does nothing
//! else, and all of them end but one, the watcher. It gives back the memory that requests are read into, and waits in poll(2) for the
//! next one. The few that a look at a file takes it serves by itself; the server hears of each and, when there are more, or one takes
//! long, [wakes](Crew::wake) the mount: all readers are there again.
//!
//! Invariants:
//! - as long as the mount is there, so is a reader;
//! - nothing is read from the kernel into memory that is not locked;
//! - the signal interrupts nothing but the wait for a request: a reader that was given one has taken note of the signal before it does
//!   anything else.

use super::device::{Buffer, Device, Readers, next_reader, read_requests};
use super::ledger::Ledger;
use super::reply::give_back_buffer;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpid, gettid};
use parking_lot::Mutex;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What calls readers away. It is ignored by whoever does not wait for it.
const CALL: Signal = Signal::SIGURG;
/// How long the watcher of a mount that rests looks for another request before it gives back what it needs for one, in milliseconds.
const QUIET_MS: u16 = 200;

/// Called when a mount is gone.
pub(super) type Finish = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What a reader does.
mod call {
    /// It works, or waits for something that is not to be interrupted.
    pub(super) const BUSY: u8 = 0;
    /// It waits for a request.
    pub(super) const ASKING: u8 = 1;
    /// Somebody is about to call it.
    pub(super) const CALLING: u8 = 2;
    /// It was called, and may not have noticed.
    pub(super) const CALLED: u8 = 3;
}

/// A reader.
#[derive(Debug)]
pub(super) struct Member {
    number: usize,
    thread: AtomicI32,
    call: AtomicU8,
    /// Requests that it has been given.
    taken: AtomicU64,
}

impl Member {
    fn new(number: usize) -> Self {
        Self { number, thread: AtomicI32::new(0), call: AtomicU8::new(call::BUSY), taken: AtomicU64::new(0) }
    }

    /// It was given a request.
    pub(super) fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// It waits for a request from now on, and may be called.
    pub(super) fn asks(&self) {
        self.call.store(call::ASKING, Ordering::SeqCst);
    }

    /// It does not wait any more. When this returns, no call can interrupt anything.
    pub(super) fn takes(&self) {
        loop {
            match self.call.compare_exchange(call::ASKING, call::BUSY, Ordering::SeqCst, Ordering::SeqCst) {
                Err(call::CALLED) => {
                    self.call.store(call::BUSY, Ordering::SeqCst);
                    // On the way back from the kernel, the signal is taken.
                    std::thread::yield_now();
                    return;
                }
                // Whoever calls may be waiting for this CPU, which a real-time thread has to give up for that.
                Err(call::CALLING) => std::thread::sleep(Duration::from_micros(20)),
                _ => return,
            }
        }
    }

    /// Interrupts its wait for a request. If it has not begun with that, nothing happens: it is to be called again.
    fn call(&self) {
        let is_asking = |now| matches!(now, call::ASKING | call::CALLED).then_some(call::CALLING);
        if self.call.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_asking).is_err() {
            return;
        }
        let thread = self.thread.load(Ordering::SeqCst);
        #[expect(unsafe_code, reason = "nix sends no signal to a thread")]
        // SAFETY: a signal to a thread of this process, for which it has a handler.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, getpid().as_raw(), thread, CALL as i32) };
        if sent != 0 {
            log::debug!("cannot call a reader: {}", io::Error::last_os_error());
        }
        self.call.store(call::CALLED, Ordering::SeqCst);
    }
}

extern "C" fn nothing(_: i32) {}

/// From now on, the signal interrupts system calls.
fn listen_for_calls() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "nix cannot know what a handler does")]
    // SAFETY: the handler does nothing.
    unsafe { sigaction(CALL, &action) }?;
    Ok(())
}

#[derive(Default)]
struct State {
    members: Vec<Arc<Member>>,
    /// The number of the one that stays.
    watcher: Option<usize>,
    /// Requests that were given to readers which have ended.
    taken: u64,
    /// The mount is gone.
    gone: bool,
    result: Option<io::Error>,
    finish: Option<Finish>,
}

/// The readers of a mount.
pub(super) struct Crew {
    readers: Readers,
    ledger: Arc<Ledger>,
    /// How many there are while requests come.
    size: usize,
    is_resting: AtomicBool,
    /// The watcher has given everything back.
    is_at_rest: AtomicBool,
    /// Called when a mount that rests is asked for something.
    asked: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
}

impl Crew {
    /// Readers that are not started yet. `finish` is called once, when the mount is gone, if they ever were.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(super) fn new(
        readers: Readers,
        ledger: Arc<Ledger>,
        size: usize,
        asked: Box<dyn Fn() + Send + Sync>,
        finish: Finish,
    ) -> io::Result<Arc<Self>> {
        listen_for_calls()?;
        let state = Mutex::new(State { finish: Some(finish), ..State::default() });
        let (is_resting, is_at_rest) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Arc::new(Self { readers, ledger, size, is_resting, is_at_rest, asked, state }))
    }

    /// Starts the readers that are missing; fewer, if no more threads can be started.
    ///
    /// # Errors
    /// When there are none then.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.gone {
            return Ok(());
        }
        while let Some(number) = (0..self.size).find(|n| state.members.iter().all(|it| it.number != *n)) {
            match self.start_one(number) {
                Ok(member) => state.members.push(member),
                Err(e) if state.members.is_empty() => return Err(e),
                Err(e) => {
                    let count = state.members.len();
                    log::warn!(
                        "only {count} threads read the requests of a mount: another cannot be started: {e}"
                    );
                    break;
                }
            }
        }
        Ok(())
    }

    fn start_one(self: &Arc<Self>, number: usize) -> io::Result<Arc<Member>> {
        let member = Arc::new(Member::new(number));
        let (crew, for_thread) = (Arc::clone(self), Arc::clone(&member));
        std::thread::Builder::new().name(format!("larder-fuse-{number}")).spawn(move || {
            // Whoever starts it notes it before: this waits for that.
            drop(crew.state.lock());
            let mut leaving = Leaving { crew, member: for_thread, result: None };
            leaving.member.thread.store(gettid().as_raw(), Ordering::SeqCst);
            leaving.result = Some(leaving.crew.read(&leaving.member));
        })?;
        Ok(member)
    }

    fn read(&self, member: &Member) -> io::Result<()> {
        if let Some(pinner) = &self.readers.pinner {
            pinner.pin(member.number);
        }
        let seat = self.ledger.seat(self.readers.desk.volume);
        let number = next_reader(self.readers.incarnation);
        read_requests(&self.readers, number, &seat, Some((self, member)))
    }

    fn device(&self) -> &Device {
        &self.readers.desk.device
    }

    /// Waits until there may be a request, in the memory for one, if the mount rests.
    ///
    /// # Errors
    /// `Interrupted` if the reader is [called away](Self::lets_go); as mmap(2).
    pub(super) fn stand_by(&self, member: &Member, buffer: &mut Buffer) -> io::Result<()> {
        if !self.is_resting.load(Ordering::SeqCst) {
            buffer.make_resident();
            return Ok(());
        }
        if !self.watches(member) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if !(buffer.is_resident() && self.is_asked(PollTimeout::from(QUIET_MS))) {
            buffer.give_back();
            give_back_buffer();
            self.is_at_rest.store(true, Ordering::SeqCst);
            loop {
                if !self.is_resting.load(Ordering::SeqCst) || self.is_asked(PollTimeout::NONE) {
                    break;
                }
            }
            self.is_at_rest.store(false, Ordering::SeqCst);
            buffer.make_resident();
        }
        (self.asked)();
        Ok(())
    }

    /// Whether there is something to be read from the kernel, also that the mount is gone.
    fn is_asked(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.device().fd().as_fd(), PollFlags::POLLIN)];
        // What cannot be waited for here is waited for by reading.
        !matches!(poll(&mut fds, timeout), Ok(0) | Err(Errno::EINTR))
    }

    /// Whether this reader is the one that stays; the first that is asked is.
    fn watches(&self, member: &Member) -> bool {
        *self.state.lock().watcher.get_or_insert(member.number) == member.number
    }

    /// Whether readers come back from the kernel when they are called.
    pub(super) fn calls(&self) -> bool {
        self.is_resting.load(Ordering::SeqCst)
    }

    /// Whether a reader is not to ask the kernel for anything.
    pub(super) fn is_called_away(&self, member: &Member) -> bool {
        self.calls() && !self.watches(member)
    }

    /// Whether a reader that was called away is to end. It is none of them any more then.
    pub(super) fn lets_go(&self, member: &Member) -> bool {
        let mut state = self.state.lock();
        let is_other = state.watcher.is_some_and(|watcher| watcher != member.number);
        let goes = self.is_resting.load(Ordering::SeqCst) && is_other;
        if goes {
            state.members.retain(|it| it.number != member.number);
            state.taken += member.taken.load(Ordering::Relaxed);
        }
        goes
    }

    /// Requests that were taken so far.
    pub(super) fn taken(&self) -> u64 {
        let state = self.state.lock();
        state.members.iter().map(|member| member.taken.load(Ordering::Relaxed)).sum::<u64>() + state.taken
    }

    fn is_at_rest(&self) -> bool {
        self.is_at_rest.load(Ordering::SeqCst)
    }

    /// Lets the mount rest. To be called until it says that it does: readers may just not have been where they can be called.
    pub(super) fn rest(&self) -> bool {
        self.is_resting.store(true, Ordering::SeqCst);
        let state = self.state.lock();
        let rests = state.members.len() == 1 && self.is_at_rest();
        if !rests && !self.is_at_rest() {
            state.members.iter().for_each(|member| member.call());
        } else if !rests {
            let watcher = state.watcher;
            let others = state.members.iter().filter(|member| Some(member.number) != watcher);
            others.for_each(|member| member.call());
        }
        rests
    }

    /// All readers are there again. Those that cannot be started are tried again when this is next called.
    pub(super) fn wake(self: &Arc<Self>) {
        self.is_resting.store(false, Ordering::SeqCst);
        if let Err(e) = self.start() {
            log::error!("cannot start readers of a mount: {e}");
        }
    }
}

/// The end of a reader, however it ends.
struct Leaving {
    crew: Arc<Crew>,
    member: Arc<Member>,
    /// `None` if it panicked.
    result: Option<io::Result<()>>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let panicked = || Err(io::Error::other("a thread of the FUSE session panicked"));
        let result = self.result.take().unwrap_or_else(panicked);
        let finished = {
            let mut state = self.crew.state.lock();
            let before = state.members.len();
            state.members.retain(|it| !Arc::ptr_eq(it, &self.member));
            // One that was let go of has been taken out before.
            let is_last = state.members.len() < before && state.members.is_empty();
            if state.watcher == Some(self.member.number) {
                state.watcher = None;
            }
            if let Err(e) = result {
                state.result.get_or_insert(e);
            }
            state.gone |= is_last;
            let result = state.result.take().filter(|_| is_last).map_or(Ok(()), Err);
            if is_last { state.finish.take().map(|finish| (finish, result)) } else { None }
        };
        if let Some((finish, result)) = finished {
            finish(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A wait for a request ends when the reader is called, also one that begins just then; nothing else does.
    #[test]
    fn a_call_interrupts_the_wait_for_a_request_and_nothing_else() {
        listen_for_calls().unwrap();
        let member = Arc::new(Member::new(0));
        let (read, write) = nix::unistd::pipe().unwrap();
        let (say, said) = channel();
        let for_thread = Arc::clone(&member);
        let reader = std::thread::spawn(move || {
            for_thread.thread.store(gettid().as_raw(), Ordering::SeqCst);
            let mut rounds = 0;
            loop {
                for_thread.asks();
                let got = nix::unistd::read(&read, &mut [0]);
                for_thread.takes();
                // What is waited for here would be interrupted by a call that comes late.
                assert_eq!(poll(&mut [], PollTimeout::from(1u16)), Ok(0));
                say.send(got).unwrap();
                rounds += 1;
                if got == Ok(0) {
                    return rounds;
                }
            }
        });
        for _ in 0..200 {
            // Until it has noticed.
            let found = loop {
                member.call();
                match said.recv_timeout(std::time::Duration::from_millis(1)) {
                    Ok(found) => break found,
                    Err(_) => continue,
                }
            };
            assert_eq!(found, Err(Errno::EINTR));
        }
        drop(write);
        while said.recv() != Ok(Ok(0)) {}
        assert!(reader.join().unwrap() > 200);
    }
}
