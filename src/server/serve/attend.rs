//! What the main thread of a server does while others serve its mounts: it lets in whoever comes (and answers itself, at rest, how the
//! store is), tells the holder that this process lives, looks after what nobody asks for (damage to be noted, room on the host, the size of
//! caches), and lets a store rest that nobody uses.
//!
//! A store at rest costs next to nothing: of its threads, few are left, memory is given back, and nothing wakes it but somebody who asks
//! it for something. Who looks at a file now and then is served without more; when requests follow each other, or one takes long, all that
//! the mounts had is there again.

use super::caches::Caches;
use super::ending::Life;
use super::{BEAT, Server, Takeover};
use crate::fs::take_damage;
use crate::fuse::{Connection, InHand};
use crate::memory;
use crate::server::listener::{Attended, Caller};
use crate::server::logging::say_left_out;
use crate::server::process::Orders;
use crate::server::recorder;
use crate::server::trash::Room;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing has been asked for before a store rests.
const REST_AFTER: Duration = Duration::from_secs(10);
/// How long it has rested before its caches go, too; and where others may have use for the memory.
const SHED_AFTER: Duration = Duration::from_secs(300);
const SHED_SOON: Duration = Duration::from_secs(30);
/// How long a request may take that is served without an end of the rest.
const MOMENT: Duration = Duration::from_millis(2);
/// So many requests in a second are served without it.
const FEW: u64 = 16;
/// How often readers are called that have not come to rest.
const CALL_EVERY: Duration = Duration::from_millis(20);
/// How often a holder is told that this process lives that expects that also at rest; less than it bears.
const SLOW_BEAT: Duration = Duration::from_secs(5);
/// How long is waited before something is tried again that the system does not allow.
const RETRY: Duration = Duration::from_millis(100);

/// Wakes the main thread.
#[derive(Debug)]
pub(super) struct Bell(EventFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    pub(super) fn ring(&self) {
        // If it has rung too often to be counted, it is not heard any better.
        let _ = self.0.write(1);
    }
}

/// How much is going on.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Something was asked for at this time.
    Awake(Instant),
    /// Readers are called, the last time then.
    Calling(Instant),
    /// Nothing is asked for.
    Resting,
    /// Something was asked for at this time.
    Touched(Instant),
}

/// The work of the main thread.
pub(super) struct Attendance {
    server: Arc<Server>,
    orders: Option<Orders>,
    /// Orders that came, and could not be begun with.
    is_ordered: bool,
    /// Nobody is let in before.
    accept_at: Instant,
    beat_at: Instant,
    oldest: Option<(InHand, Instant)>,
    phase: Phase,
    /// When it is next looked whether a store that is awake is used: not at each visit, for a look at it is no use.
    step_at: Instant,
    /// Requests that had been taken when that was last looked at.
    taken: u64,
    /// The requests that came since then.
    few: (Instant, u64),
    /// When the memory is given back that whoever came at rest has used.
    trim_at: Option<Instant>,
    /// The holder does not expect signs of life.
    is_unwatched: bool,
    /// Who has come and is answered here, for that takes no time.
    callers: Vec<Caller>,
    caches: Caches,
    /// When what is cached goes, of a store at rest.
    shed_at: Option<Instant>,
    room: Room,
    /// When the room on the host is next looked at: not at rest, for a store that nobody uses takes no more of it.
    look_at: Instant,
}

impl Attendance {
    pub(super) fn new(server: &Arc<Server>, orders: Option<Orders>) -> Self {
        let now = Instant::now();
        Self {
            server: Arc::clone(server),
            orders,
            is_ordered: false,
            accept_at: now,
            beat_at: now,
            oldest: None,
            phase: Phase::Awake(now),
            step_at: now,
            taken: 0,
            few: (now, 0),
            trim_at: None,
            is_unwatched: false,
            callers: Vec::new(),
            caches: Caches::new(&server.root, &server.store, &server.shares),
            shed_at: None,
            room: Room::new(&server.root),
            look_at: now,
        }
    }

    /// Until the end of `life`.
    pub(super) fn attend(&mut self, life: &mut Life) {
        loop {
            let now = Instant::now();
            let Some(look_at) = life.look(&self.server, now) else { return };
            self.beat(now);
            self.notice(now);
            if matches!(self.phase, Phase::Awake(_)) {
                self.caches.look(now);
            }
            self.step(now);
            self.wait(look_at);
        }
    }

    /// Until the store is closed, beside who closes it.
    pub(super) fn attend_closing(&mut self) {
        self.begin_closing();
        while !self.server.state.lock().closed {
            let now = Instant::now();
            self.beat(now);
            self.notice(now);
            self.wait(None);
        }
    }

    /// The store is about to be closed.
    pub(super) fn begin_closing(&mut self) {
        self.stay_awake(Instant::now());
        self.caches.cease();
    }

    /// What there is to do now, for who closes the store and has something to wait for.
    pub(super) fn attend_moment(&mut self) {
        let now = Instant::now();
        self.beat(now);
        self.notice(now);
        self.wait(Some(now));
    }

    /// Waits until somebody comes or it is time for something, and lets in who has come.
    fn wait(&mut self, look_at: Option<Instant>) {
        let now = Instant::now();
        let times = [look_at, self.next_beat(), self.next_step(), self.trim_at];
        let mut until = times.into_iter().flatten().min();
        let accepts = self.accept_at <= now;
        if !accepts {
            until = Some(until.map_or(self.accept_at, |until| until.min(self.accept_at)));
        }
        let (came, is_ordered, is_called, is_told, heard, pressure) = {
            let server = &self.server;
            let holder = server.keeper.holder();
            let listener = server.listener.get().filter(|_| accepts);
            let files = [
                Some(server.bell.0.as_fd()),
                listener.map(AsFd::as_fd),
                self.orders.as_ref().map(AsFd::as_fd),
                holder,
            ];
            // What is not there is looked for in vain on the bell.
            let fds = files.map(|file| {
                let events = if file.is_some() { PollFlags::POLLIN } else { PollFlags::empty() };
                PollFd::new(file.unwrap_or(server.bell.0.as_fd()), events)
            });
            let triggers = self.caches.triggers().iter();
            let triggers = triggers.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI));
            let callers = self.callers.iter().map(|caller| PollFd::new(caller.as_fd(), PollFlags::POLLIN));
            let mut fds: Vec<PollFd<'_>> = fds.into_iter().chain(callers).chain(triggers).collect();
            let timeout = until.map_or(PollTimeout::NONE, |until| {
                let left = until.saturating_duration_since(now);
                // Not a moment too early: it would spin.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    log::error!("cannot wait for whoever comes: {e}");
                    std::thread::sleep(RETRY);
                }
            }
            let is_there = |at: usize| files[at].is_some() && fds[at].any() == Some(true);
            let (callers, triggers) = fds[files.len()..].split_at(self.callers.len());
            let heard: Vec<bool> = callers.iter().map(|fd| fd.any() == Some(true)).collect();
            let pressure = triggers.iter().filter_map(PollFd::revents);
            let pressure = pressure.fold(PollFlags::empty(), |all, of_one| all | of_one);
            (is_there(1), is_there(2), is_there(3), is_there(0), heard, pressure)
        };
        if !pressure.is_empty() {
            self.caches.note_pressure(pressure, matches!(self.phase, Phase::Resting));
        }
        if is_told {
            let _ = self.server.bell.0.read();
        }
        if is_called {
            self.server.keeper.hear();
        }
        let callers = std::mem::take(&mut self.callers);
        let mut takes_time = false;
        for (caller, is_heard) in callers.into_iter().zip(heard) {
            match is_heard {
                true => takes_time |= self.answer(caller),
                false => self.callers.push(caller),
            }
        }
        if came {
            takes_time |= self.let_in();
        }
        self.is_ordered |= is_ordered && self.orders.as_ref().is_some_and(Orders::take);
        if self.is_ordered {
            self.obey();
        }
        if matches!(self.phase, Phase::Resting) && (is_told || takes_time || is_called) {
            self.phase = Phase::Touched(Instant::now());
        }
    }

    /// Lets in who has come; whether that is work for another thread.
    fn let_in(&mut self) -> bool {
        let Some(socket) = self.server.listener.get() else { return false };
        match Caller::let_in(&self.server, socket) {
            Ok(caller) => caller.is_some_and(|caller| self.answer(caller)),
            Err(e) => {
                self.is_short(&e);
                false
            }
        }
    }

    /// Answers who asks for something; whether that is work for another thread. At rest, most only ask how things are.
    fn answer(&mut self, caller: Caller) -> bool {
        let attended = match self.phase {
            Phase::Awake(_) => Attended::Takes(caller),
            _ => caller.attend(),
        };
        let caller = match attended {
            Attended::Takes(caller) => caller,
            Attended::Waits(caller) => {
                self.callers.push(caller);
                return false;
            }
            Attended::Gone => {
                self.trim_at.get_or_insert(Instant::now() + REST_AFTER);
                return false;
            }
        };
        if let Err(e) = caller.hand_on() {
            self.is_short(&e);
        }
        true
    }

    /// Out of descriptors, perhaps: lets others finish.
    fn is_short(&mut self, e: &io::Error) {
        log::warn!("control socket: {e}");
        self.accept_at = Instant::now() + RETRY;
    }

    /// Ends the server in good order, on a thread that may wait for its mounts.
    fn obey(&mut self) {
        let server = Arc::clone(&self.server);
        let spawned = std::thread::Builder::new().name("larder-signals".into()).spawn(move || {
            log::info!("told to end by a signal: unmounting");
            server.terminate();
        });
        self.is_ordered = spawned.is_err();
        if let Err(e) = spawned {
            log::error!("told to end by a signal, and no thread can be started for that: {e}");
            std::thread::sleep(RETRY);
        }
    }

    fn next_beat(&self) -> Option<Instant> {
        (!self.is_unwatched).then_some(self.beat_at)
    }

    /// Tells the holder that this process lives, and for how long the oldest request has come no further: whoever waits for another
    /// request waits for an older one.
    fn beat(&mut self, now: Instant) {
        if self.is_unwatched || now < self.beat_at {
            return;
        }
        let oldest = self.server.ledger.oldest();
        self.oldest = match (self.oldest, oldest) {
            (Some((before, since)), Some(oldest)) if before.is_no_further(&oldest) => Some((before, since)),
            (_, oldest) => oldest.map(|oldest| (oldest, now)),
        };
        let stuck = self.oldest.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since));
        self.server.keeper.beat(stuck.as_millis() as u64);
        self.beat_at = now + if matches!(self.phase, Phase::Resting) { SLOW_BEAT } else { BEAT };
    }

    /// Looks after what the store has met with and nobody has told anybody of.
    fn notice(&mut self, now: Instant) {
        if let Some(what) = take_damage() {
            self.server.recorder.note(recorder::damaged(&what));
        }
        // Who only asks how a store at rest is has taken no more of it either.
        let rests = match self.phase {
            Phase::Resting => true,
            Phase::Touched(_) => self.taken() == self.taken,
            _ => false,
        };
        if !rests && self.look_at <= now {
            self.room.look(self.server.store.is_short_of_room());
            say_left_out(false);
            self.look_at = now + BEAT;
        }
    }

    /// When it is next looked how much is going on.
    fn next_step(&self) -> Option<Instant> {
        match self.phase {
            Phase::Awake(_) => Some(self.step_at),
            Phase::Calling(at) => Some(at + CALL_EVERY),
            Phase::Touched(at) => Some(at + MOMENT),
            Phase::Resting => self.shed_at,
        }
    }

    /// Looks how much is going on, when it is time for that.
    fn step(&mut self, now: Instant) {
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            memory::give_back();
        }
        let is_time = self.next_step().is_some_and(|at| at <= now);
        match self.phase {
            Phase::Awake(since) if is_time => {
                self.step_at = now + BEAT;
                if self.is_busy() {
                    self.phase = Phase::Awake(now);
                    // Readers that could not be started when it woke.
                    self.connections().iter().for_each(|connection| connection.wake());
                } else if now.saturating_duration_since(since) >= REST_AFTER {
                    self.call(now, true);
                }
            }
            Phase::Calling(_) if is_time => {
                if self.is_busy() {
                    self.stay_awake(now);
                } else {
                    self.call(now, true);
                }
            }
            Phase::Touched(_) if is_time => {
                let taken = self.taken();
                let before = std::mem::replace(&mut self.taken, taken);
                let is_idle = !self.is_at_work();
                if now.saturating_duration_since(self.few.0) >= Duration::from_secs(1) {
                    self.few = (now, 0);
                }
                self.few.1 += self.taken.saturating_sub(before);
                if is_idle && self.few.1 <= FEW {
                    self.trim_at.get_or_insert(now + REST_AFTER);
                    self.call(now, self.taken > before);
                } else {
                    self.stay_awake(now);
                }
            }
            Phase::Resting if is_time => {
                self.shed_at = None;
                self.caches.shed();
            }
            _ => {}
        }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let state = self.server.state.lock();
        state.mounts.values().filter_map(|mounted| mounted.connection.clone()).collect()
    }

    /// Requests that were taken so far.
    fn taken(&self) -> u64 {
        self.connections().iter().map(|connection| connection.taken()).sum()
    }

    /// Lets the mounts rest. `was_used`: more was asked for than how the store is.
    fn call(&mut self, now: Instant, was_used: bool) {
        let connections = self.connections();
        let rests: Vec<bool> = connections.iter().map(|connection| connection.rest()).collect();
        if rests.contains(&false) {
            self.phase = Phase::Calling(now);
            return;
        }
        let has_rested = self.is_unwatched;
        let is_wanted = self.caches.rest();
        let after = now + if is_wanted { SHED_SOON } else { SHED_AFTER };
        self.shed_at = Some(match self.shed_at {
            _ if was_used => after,
            // What a look at the store has brought in goes soon.
            None => now + SHED_SOON,
            Some(at) => at.min(after),
        });
        // Nothing wakes a store at rest for this.
        say_left_out(true);
        self.phase = Phase::Resting;
        if !has_rested {
            memory::give_back();
            self.is_unwatched = self.may_be_unwatched() && self.server.keeper.rests();
        }
        self.learn(now);
    }

    /// Finds out, on a thread that may wait for the disk, what there is to know of the volumes: whoever asks for that at rest is answered at once.
    fn learn(&mut self, now: Instant) {
        if self.server.knows_volumes() {
            return;
        }
        let server = Arc::clone(&self.server);
        // Whoever asks is told why that cannot be read.
        let look = move || drop(server.volumes());
        // Without the thread, whoever asks first waits for that.
        if std::thread::Builder::new().name("larder-look".into()).spawn(look).is_ok() {
            self.trim_at.get_or_insert(now + REST_AFTER);
        }
    }

    /// Whether the holder sees for itself when something is asked for.
    fn may_be_unwatched(&self) -> bool {
        let state = self.server.state.lock();
        state.mounts.values().all(|mounted| matches!(mounted.takeover, Takeover::Possible))
    }

    fn stay_awake(&mut self, now: Instant) {
        let has_rested = !matches!(self.phase, Phase::Awake(_));
        self.phase = Phase::Awake(now);
        self.step_at = now + BEAT;
        self.shed_at = None;
        self.taken = self.taken();
        if has_rested {
            self.caches.wake(now);
            self.connections().iter().for_each(|connection| connection.wake());
            (self.is_unwatched, self.beat_at, self.trim_at) = (false, now, None);
            self.beat(now);
        }
    }

    /// Whether there is something to do, or has been since this was last asked.
    fn is_busy(&mut self) -> bool {
        let taken = self.taken();
        let before = std::mem::replace(&mut self.taken, taken);
        let has_visitors = self.server.state.lock().visitors > 0;
        self.taken != before || has_visitors || self.is_at_work()
    }

    /// Whether there is something to do, but for requests and visitors that were just let in.
    fn is_at_work(&self) -> bool {
        {
            let state = self.server.state.lock();
            let is_resting = |connection: &Option<Arc<Connection>>| {
                connection.as_ref().is_some_and(|connection| connection.can_rest())
            };
            let can_rest =
                state.mounts.values().all(|mounted| !mounted.gone && is_resting(&mounted.connection));
            if state.ending || state.mounts.is_empty() || !can_rest {
                return true;
            }
        }
        self.server.ledger.oldest().is_some() || self.room.is_at_work() || !self.server.store.is_at_rest()
    }
}
