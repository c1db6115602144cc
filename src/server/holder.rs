//! The process that outlives servers: it holds what they serve with, and starts a new one when one dies.
//!
//! A mount lives as long as somebody has its FUSE device open. The holder has, and with it the lock of the store, its control
//! socket and its keys; it does nothing else, so that nothing ends it. When the server dies, whoever uses the volume waits; a
//! new server gets everything, brings the store to where it was ([`crate::open_store`]), and is given again by the kernel what
//! was not answered ([`crate::fuse::take_over`]). To upgrade is the same, with another program: servers are built to be killed,
//! so there is no second way to end them that would have to be right as well.
//!
//! Invariants:
//! - one server at a time works with the store. The next one gets the lock when the last one has ended, or was killed and
//!   hangs in the kernel waiting for a mount of its own: none of its threads comes back from there to the store;
//! - a message of a server that has died is not lost: what it had sent is read before its successor is started;
//! - no server is killed of which one mount cannot be taken over, unless it has been told to end;
//! - what is remembered for a mount has a size that what is under way decides, and not its history.

mod ask;
mod bequest;
mod children;
mod deaths;
mod ends;
pub(super) mod link;
mod next;
mod program;
mod quiet;
pub(super) mod suspects;
#[cfg(test)]
mod tests;
mod unit;
mod watch;

use super::identity;
use super::keeper::pipe_of;
use super::logging::Logged;
use super::process::ToldToEnd;
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::fs::{Executed, Lost, ViewChange};
use crate::fuse::OpenFiles;
use crate::mount::{MountOptions, path_from_bytes};
use crate::root::Root;
use crate::store::{StoreId, StoreLock};
use crate::volume::{Result, VolumeError, lock_store};
pub use bequest::Bequest;
use children::Child;
use deaths::Deaths;
use link::{Kept, Link, Received, ToHolder, ToServer};
pub use program::Offer;
use program::Program;
use quiet::Quiet;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use suspects::Suspects;
pub(super) use unit::{Doubt, Order, order};
use watch::Pulse;
pub(super) use watch::{Ending, Found};

/// How long another process may take to let go of the store.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// How often the holder looks around when nobody says anything.
const TICK: Duration = Duration::from_millis(500);
/// How long a server may take to begin: as long as it takes to replay what can be in a log, many times over.
const LONGEST_START: Duration = Duration::from_secs(600);
/// What systemd is asked for beside the time for which a server is waited for.
pub(super) const MARGIN: Duration = Duration::from_secs(10);

/// How servers are started.
#[derive(Clone, Debug)]
pub struct HolderOptions {
    /// The root.
    pub root: Root,
    /// The store to serve.
    pub store: StoreId,
    /// Limit of the cache of blocks, in bytes.
    pub cache_bytes: u64,
    /// How much more servers are to say.
    pub verbose: u8,
    /// Whether their messages go to the log of the store; otherwise to stderr.
    pub log_to_file: bool,
    /// The volume that this process is to mount, if it is, or may be, the main one of a unit of systemd.
    pub unit: Option<String>,
}

/// A mount and its device.
#[derive(Debug)]
struct Held {
    kept: Kept,
    device: OwnedFd,
    views: Vec<ViewChange>,
    /// Which files are open, if its server lets this process know.
    open_files: Option<OwnedFd>,
}

impl Held {
    /// What the next server or holder is told of it.
    fn to_give(&self) -> Kept {
        let mut kept = self.kept.clone();
        match self.open_files.as_ref().map(|file| OpenFiles::read(file.as_fd())) {
            Some(Ok(opened)) => kept.opened = opened,
            Some(Err(e)) => log::error!("volume {:?}: which files are open cannot be read: {e}", kept.volume),
            // Nobody has said something else since.
            None => {}
        }
        kept
    }

    /// Notes what happens to the views.
    fn note_view(&mut self, change: ViewChange, head: Option<u64>) {
        self.kept.head_before = head;
        match change {
            // What did not happen need not be told.
            ViewChange::Undone => {
                self.views.pop();
                self.kept.told = self.kept.told.min(self.views.len());
            }
            ViewChange::Live | ViewChange::Snapshot(_) => self.views.push(change),
        }
    }

    /// Notes what is missing from a file now.
    fn note_lost(&mut self, lost: Lost) {
        let losses = &mut self.kept.losses.0;
        if lost.missing.is_empty() {
            losses.remove(&lost.ino);
        } else {
            losses.insert(lost.ino, (self.views.len(), lost));
        }
    }
}

/// A mount that dies with its server.
#[derive(Debug)]
struct Tied {
    kept: Kept,
    why: String,
}

/// The process that starts servers for a store, one after the other.
#[derive(Debug)]
pub struct Holder {
    options: HolderOptions,
    lock: StoreLock,
    keys: Vec<Subkeys>,
    listener: Option<OwnedFd>,
    mounts: BTreeMap<String, Held>,
    /// Mounts that nothing can take over.
    tied: BTreeMap<String, Tied>,
    /// What was said of mounts before they themselves were: they are served first.
    early: BTreeMap<String, Vec<ToHolder>>,
    executed: Vec<Executed>,
    suspects: Suspects,
    /// What the server's readers work on.
    ledger: Option<OwnedFd>,
    incarnation: u32,
    program: Program,
    /// What servers ask the kernel for when memory runs out.
    oom_score: Option<i32>,
    child: Child,
    /// Servers that were killed and have not gone yet.
    stragglers: Vec<Child>,
    link: Link,
    /// Since when the server serves.
    since: Instant,
    deaths: Deaths,
    pulse: Pulse,
    quiet: Quiet,
    /// The log says that the server hangs and is left alone.
    is_spared: bool,
    /// The server was told to end.
    told_to_end: Option<Ending>,
    /// An order to this process of which it is not known yet what it is for.
    doubt: Doubt,
    /// Since when this process has been told to end while no server serves.
    told_since: Option<Instant>,
    /// The program that is to take over. A server can be asked for that before it says that it serves.
    wanted: Option<PathBuf>,
    /// It is about to end, and has no successor.
    ending: bool,
}

/// Asks systemd, if it is the one that starts or ends this process, to wait for so long from now on.
pub fn wait_longer(time: Duration) {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(micros)]) {
        log::debug!("cannot tell systemd: {e}");
    }
}

/// What became of a server.
enum End {
    /// It ended as it should.
    Good,
    /// It died; the store needs another one.
    Died,
    /// This program is to take over from it.
    Replaced(PathBuf),
    /// Its mounts are to be left to the next holder. The server `stays` if that cannot be.
    Left { stays: bool },
    /// It was told to end, did not, and has done nothing for so long.
    Overdue(Duration),
}

impl Holder {
    /// Takes the store's lock and starts a server. Returns when it listens on the store's control socket.
    ///
    /// # Errors
    /// `Busy` when another process has the store open, or what the server says.
    pub fn start(options: HolderOptions, keys: Vec<Subkeys>) -> Result<Self> {
        let lock = lock_store(&options.root.store(options.store), LOCK_PATIENCE)?;
        let (program, oom_score) = (Program::own(), watch::spare_from_oom());
        let server = children::spawn(&program, &options, oom_score)?;
        let mut holder = Self::new(options, keys, lock, (program, oom_score), server, None);
        match holder.begin(&ToldToEnd::default()) {
            Ok(()) => Ok(holder),
            Err(e) => {
                holder.child.reap();
                if !holder.child.is_gone() {
                    holder.child.kill();
                }
                Err(e)
            }
        }
    }

    /// Goes on with what another holder has left. Returns when a server serves it: as many are tried as when one dies.
    ///
    /// # Errors
    /// When none can. The mounts are dead then.
    pub fn inherit(
        options: HolderOptions,
        keys: Vec<Subkeys>,
        bequest: Bequest,
        told: &ToldToEnd,
    ) -> Result<Self> {
        let path = options.root.store(options.store);
        let io = |e: std::io::Error| VolumeError::io(&path, &e);
        let lock = StoreLock::shared(bequest.lock.try_clone().map_err(io)?, &path).map_err(io)?;
        let names = bequest.names().to_vec();
        let (program, oom_score) = (Program::own(), watch::spare_from_oom());
        let mut deaths = Deaths::default();
        let server = loop {
            match children::spawn(&program, &options, oom_score) {
                Ok(server) => break server,
                Err(e) => std::thread::sleep(deaths.fail().ok_or(e)?),
            }
        };
        let mut holder = Self::new(options, keys, lock, (program, oom_score), server, Some(bequest));
        holder.show();
        let begun = holder.begin(told).or_else(|e| {
            log::error!("cannot take over: {e}");
            holder.end_child();
            holder.succeed(told)
        });
        // Until then, systemd would give it to the next main process, should this one die.
        Bequest::release(&names);
        begun.map(|()| holder)
    }

    /// Lets others see what it is for.
    fn show(&self) {
        identity::mounted(self.mounts.keys().chain(self.tied.keys()));
    }

    /// How a volume that it holds is mounted.
    pub fn options_of(&self, volume: &str) -> Option<&MountOptions> {
        self.mounts.get(volume).map(|held| &held.kept.options)
    }

    /// Of a server that was just started and has not said anything.
    fn new(
        options: HolderOptions,
        keys: Vec<Subkeys>,
        lock: StoreLock,
        (program, oom_score): (Program, Option<i32>),
        (child, link): (Child, Link),
        bequest: Option<Bequest>,
    ) -> Self {
        let (listener, mounts, executed, suspects, incarnation) = match bequest {
            None => (None, BTreeMap::new(), Vec::new(), Suspects::default(), 0),
            Some(left) => (left.listener, left.mounts, left.executed, left.suspects, left.incarnation + 1),
        };
        Self {
            options,
            lock,
            keys,
            listener,
            mounts,
            tied: BTreeMap::new(),
            early: BTreeMap::new(),
            executed,
            suspects,
            ledger: None,
            incarnation,
            program,
            oom_score,
            child,
            stragglers: Vec::new(),
            link,
            since: Instant::now(),
            deaths: Deaths::default(),
            pulse: Pulse::new(),
            quiet: Quiet::default(),
            is_spared: false,
            told_to_end: None,
            doubt: Doubt::default(),
            told_since: None,
            wanted: None,
            ending: false,
        }
    }

    /// Holds until the last server has ended, which it is told to when this process is.
    ///
    /// # Errors
    /// When servers die again and again. The mounts are dead then.
    pub fn run(mut self, told: &ToldToEnd) -> Result<()> {
        loop {
            match self.attend(told) {
                End::Left { stays } => {
                    if self.pass_on(stays, told)? {
                        return Ok(());
                    }
                }
                End::Overdue(time) => {
                    log::error!(
                        "the server was told to end, has done nothing for {} s, and is killed",
                        time.as_secs()
                    );
                    self.end_child();
                    self.give_up();
                    return Err(VolumeError::new(
                        Exit::Failure,
                        "the server did not end when it was told to",
                    ));
                }
                End::Good => {
                    self.child.reap();
                    return Ok(());
                }
                End::Died => {
                    let how = self.child.reap();
                    if how.was_crash() {
                        self.suspect(usize::MAX);
                    }
                    self.bury();
                    if self.mounts.is_empty() {
                        let what = format!("the server ended ({how}), and there is nothing to take over");
                        log::error!("{what}");
                        return Err(VolumeError::new(Exit::Failure, what));
                    }
                    log::error!("the server ended ({how}); another one takes over");
                    match self.deaths.note(self.since.elapsed(), how.was_killed()) {
                        Some(pause) => std::thread::sleep(pause),
                        None => {
                            self.give_up();
                            let what = format!("servers die as soon as they serve; the last one: {how}");
                            return Err(VolumeError::new(Exit::Failure, what));
                        }
                    }
                    self.succeed(told)?;
                }
                End::Replaced(program) => self.replace(&program, told)?,
            }
        }
    }

    /// Lets a program take over, or tells the server why it cannot.
    ///
    /// # Errors
    /// When neither it nor the one before can serve. The mounts are dead then.
    fn replace(&mut self, program: &Path, told: &ToldToEnd) -> Result<()> {
        let shown = program.display();
        // It is started first, and waits: the less is to be done while nobody serves.
        let started = self.check_killable().and_then(|()| {
            let program = Program::offered(program, &self.options)?;
            let server = children::spawn(&program, &self.options, self.oom_score).map_err(|e| e.message)?;
            Ok((program, server))
        });
        let message = match started {
            // All that took its time.
            Ok((program, (mut child, link))) => match self.check_killable() {
                Ok(()) => {
                    log::info!("{shown} takes over");
                    return self.hand_over(program, (child, link), told);
                }
                Err(message) => {
                    child.kill();
                    child.reap();
                    message
                }
            },
            Err(message) => message,
        };
        log::warn!("{message}");
        let _ = self.link.send(&ToServer::Refused { message }, None);
        Ok(())
    }

    /// Gives the server what it needs, and waits until it serves.
    fn begin(&mut self, told: &ToldToEnd) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| {
            VolumeError::new(Exit::Failure, format!("cannot start the server: {e}"))
        };
        self.endow().map_err(|e| failed(&e))?;
        let until = Instant::now() + LONGEST_START;
        loop {
            if Instant::now() >= until {
                return Err(failed(&"it takes too long"));
            }
            match self.link.receive().map_err(|e| failed(&e))? {
                Received::Message(ToHolder::Started, _) => {
                    (self.since, self.pulse, self.told_since) = (Instant::now(), Pulse::new(), None);
                    self.quiet = Quiet::default();
                    return Ok(());
                }
                Received::Message(ToHolder::Failed { code, message }, _) => {
                    return Err(VolumeError::new(Exit::of_number(code), message));
                }
                Received::Message(message, file) => self.take(message, file),
                Received::Nothing if self.is_told_for(told) >= LONGEST_START => {
                    return Err(failed(&"it takes too long, and is to end"));
                }
                // What was left by another holder may take as long as it takes, and be told to end meanwhile.
                Received::Nothing if self.options.unit.is_some() && self.incarnation > 0 => {
                    wait_longer(MARGIN);
                }
                Received::Nothing => {}
                Received::Gone => {
                    let log = Logged::of(&self.options.root, self.options.store);
                    let how = self.child.reap();
                    // What was under way comes as soon as a mount is taken over.
                    if how.was_crash() {
                        self.suspect(usize::MAX);
                    }
                    return Err(failed(&format!("it ended ({how}); see {log}")));
                }
            }
        }
    }

    fn endow(&self) -> std::io::Result<()> {
        let send =
            |message: &ToServer, file: Option<BorrowedFd<'_>>| self.child.give(&self.link, message, file);
        if self.options.unit.is_some() && self.incarnation > 0 {
            wait_longer(children::LONGEST_SEND + MARGIN);
        }
        send(&ToServer::Lock, Some(self.lock.as_fd()))?;
        if !self.keys.is_empty() {
            send(&ToServer::Keys, Some(pipe_of(&self.keys)?.as_fd()))?;
        }
        if let Some(listener) = &self.listener {
            send(&ToServer::Listener, Some(listener.as_fd()))?;
        }
        for held in self.mounts.values() {
            send(&ToServer::Mount(Box::new(held.to_give())), Some(held.device.as_fd()))?;
            for change in &held.views {
                send(&ToServer::View { change: *change }, None)?;
            }
        }
        let (executed, suspects) = (self.executed.clone(), self.suspects.all().to_vec());
        if self.incarnation > 0 {
            log::info!("{} requests of earlier servers are remembered", executed.len());
        }
        let incarnation = self.incarnation;
        let begin = ToServer::Begin {
            incarnation,
            executed,
            suspects,
            is_newer: true,
            keeps_losses: true,
            heeds_orders: true,
            lets_rest: true,
            keeps_open_files: true,
            keeps_durability: true,
        };
        send(&begin, None)
    }

    /// Listens to the server until something has to be done.
    fn attend(&mut self, told: &ToldToEnd) -> End {
        loop {
            self.stragglers.retain_mut(|child| !child.is_gone());
            let may_leave = self.may_leave();
            let ask = || if may_leave { unit::order() } else { Some(Order::Stop) };
            match self.doubt.settle(told.take(), Instant::now(), ask) {
                Some(Order::Restart { stays }) => return End::Left { stays },
                Some(Order::Stop) => self.tell_to_end(),
                None => {}
            }
            if let Some(program) = self.wanted.take() {
                return End::Replaced(program);
            }
            let pid = self.child.id();
            let ledger = self.ledger.as_ref();
            match self.told_to_end.as_mut().map(|ending| ending.look(pid, ledger)) {
                Some(Found::Overdue(time)) => return End::Overdue(time),
                Some(Found::Waits(time)) if self.options.unit.is_some() => wait_longer(time + MARGIN),
                _ => {}
            }
            self.await_something(told);
            match self.link.receive() {
                Ok(Received::Message(message, file)) => self.take(message, file),
                Ok(Received::Nothing) if self.rests_again() => {}
                Ok(Received::Nothing) => {
                    self.pulse.nothing(Instant::now());
                    if let Some(trouble) = self.pulse.trouble(self.child.id())
                        && self.end_for(&trouble)
                    {
                        return End::Died;
                    }
                }
                Ok(Received::Gone) if self.ending => return End::Good,
                Ok(Received::Gone) => return End::Died,
                Err(e) => log::warn!("a message of the server: {e}"),
            }
        }
    }

    /// Whether the server was told to end, or does.
    fn is_ending(&self) -> bool {
        self.ending || self.told_to_end.is_some()
    }

    fn tell_to_end(&mut self) {
        self.told_to_end.get_or_insert_with(Ending::new);
        self.child.terminate();
    }

    /// Takes note of what a server says.
    fn take(&mut self, message: ToHolder, file: Option<OwnedFd>) {
        let volume_of = |volume: &str| format!("a mount of volume {volume:?} that is not held");
        if let Some((volume, number)) = message.mount() {
            let kept = self.mounts.get(volume).map(|held| &held.kept);
            let is_held = kept.is_some();
            match kept.or_else(|| self.tied.get(volume).map(|tied| &tied.kept)) {
                Some(kept) if !kept.may_be(number) => {
                    log::debug!("said of an earlier mount of volume {volume:?}: {message:?}");
                    return;
                }
                _ if is_held || !message.is_kept() => {}
                Some(_) => return,
                None => {
                    self.early.entry(volume.to_owned()).or_default().push(message);
                    return;
                }
            }
        }
        match (message, file) {
            (ToHolder::Listening, Some(listener)) => self.listener = Some(listener),
            (ToHolder::Keep(kept), Some(device)) => {
                let early = self.early.remove(&kept.volume);
                self.mounts.insert(
                    kept.volume.clone(),
                    Held { kept: *kept, device, views: Vec::new(), open_files: None },
                );
                self.show();
                early.into_iter().flatten().for_each(|message| self.take(message, None));
            }
            (ToHolder::Options { volume, options }, _) => match self.mounts.get_mut(&volume) {
                Some(held) => held.kept.options = *options,
                None => log::debug!("options of {}", volume_of(&volume)),
            },
            (ToHolder::Tied { kept, why }, _) => {
                self.early.remove(&kept.volume);
                self.tied.insert(kept.volume.clone(), Tied { kept: *kept, why });
                self.show();
            }
            (ToHolder::Settled { volume, first_reader, id, .. }, _) => match self.mounts.get_mut(&volume) {
                Some(held) => {
                    held.kept.first_reader = first_reader;
                    // The server that mounted it may not have said it.
                    held.kept.id = held.kept.id.or(id);
                    if let Some(id) = held.kept.id {
                        self.executed.retain(|of| of.volume != id || of.origin.reader >= first_reader);
                        self.suspects.clear(id);
                    }
                }
                None => log::debug!("settling {}", volume_of(&volume)),
            },
            (ToHolder::Ledger, Some(file)) => self.ledger = Some(file),
            (ToHolder::View { volume, change, head, .. }, _) => {
                if let Some(held) = self.mounts.get_mut(&volume) {
                    held.note_view(change, head);
                }
            }
            (ToHolder::Told { volume, .. }, _) => {
                if let Some(held) = self.mounts.get_mut(&volume) {
                    (held.kept.told, held.kept.head_before) = (held.views.len(), None);
                }
            }
            (ToHolder::Lost { volume, lost, .. }, _) => {
                if let Some(held) = self.mounts.get_mut(&volume) {
                    held.note_lost(lost);
                }
            }
            (ToHolder::OpenFiles { volume, .. }, Some(file)) => {
                if let Some(held) = self.mounts.get_mut(&volume) {
                    held.open_files = Some(file);
                }
            }
            (ToHolder::Gone { volume, id, .. }, _) => {
                self.tied.remove(&volume);
                self.early.remove(&volume);
                if let Some(id) = self.mounts.remove(&volume).and_then(|held| held.kept.id.or(id)) {
                    self.executed.retain(|executed| executed.volume != id);
                    self.suspects.clear(id);
                }
                self.show();
            }
            (ToHolder::Executed { executed }, _) => self.executed = executed,
            (ToHolder::Keys, Some(pipe)) => match Subkeys::read_from(File::from(pipe)) {
                Ok(keys) => {
                    self.keys.retain(|old| keys.iter().all(|new| new.epoch() != old.epoch()));
                    self.keys.extend(keys);
                }
                Err(e) => log::error!("new keys of the store: {e}"),
            },
            (ToHolder::Rests, _) => self.quiet.begins(),
            (ToHolder::Beat { longest_ms }, _) => {
                self.quiet = Quiet::default();
                let stuck = Duration::from_millis(longest_ms);
                self.is_spared &= stuck > TICK;
                self.pulse.beat(stuck);
            }
            (ToHolder::Replace { program }, _) => self.wanted = Some(path_from_bytes(program)),
            (ToHolder::ToldToEnd, _) => drop(self.told_to_end.get_or_insert_with(Ending::new)),
            (ToHolder::Ending, _) => self.ending = true,
            (message, _) => log::warn!("a message of the server out of turn: {message:?}"),
        }
    }

    /// Kills the server, and lets this one of `program` serve, or else another one of the program that served until now.
    fn hand_over(&mut self, program: Program, (child, link): (Child, Link), told: &ToldToEnd) -> Result<()> {
        self.end_child();
        let Err(e) = self.install(child, link, told) else {
            self.program = program;
            return Ok(());
        };
        match self.program.lacks(&self.options) {
            Ok(Some(feature)) => {
                log::error!(
                    "{}: {e}; it is tried again, because the store has the feature {feature:?} now, which the version before it \
                     lacks",
                    program.path().display()
                );
                self.program = program;
            }
            Ok(None) | Err(_) => {
                log::error!("{}: {e}; the version before it goes on", program.path().display());
            }
        }
        self.succeed(told)
    }

    /// Starts a successor of a server that has ended.
    fn succeed(&mut self, told: &ToldToEnd) -> Result<()> {
        loop {
            let started = children::spawn(&self.program, &self.options, self.oom_score);
            match started.and_then(|(child, link)| self.install(child, link, told)) {
                Ok(()) => return Ok(()),
                Err(e) => {
                    log::error!("cannot take over: {e}");
                    let pause = self.deaths.fail().filter(|_| self.is_told_for(told) < LONGEST_START);
                    let Some(pause) = pause else {
                        self.give_up();
                        return Err(e);
                    };
                    std::thread::sleep(pause);
                }
            }
        }
    }

    /// How long this process has been told to end while servers began.
    fn is_told_for(&mut self, told: &ToldToEnd) -> Duration {
        if !told.is_so() {
            return Duration::ZERO;
        }
        self.told_since.get_or_insert_with(Instant::now).elapsed()
    }

    fn install(&mut self, child: Child, link: Link, told: &ToldToEnd) -> Result<()> {
        self.incarnation += 1;
        self.stragglers.push(std::mem::replace(&mut self.child, child));
        self.link = link;
        self.ledger = None;
        // Of mounts that died with the one before, and of its end.
        self.early.clear();
        self.ending = false;
        let started = Instant::now();
        let begun = self.begin(told);
        match &begun {
            Ok(()) => {
                log::info!("process {} serves after {:?}", self.child.id(), started.elapsed());
                // The one before was told, and has not got to the end of it.
                if self.told_to_end.take().is_some() {
                    self.tell_to_end();
                }
            }
            Err(_) => self.end_child(),
        }
        begun
    }
}
