//! Noticing that a server hangs, and the last resort.

use super::TICK;
use super::link::Kept;
use crate::fuse::Ledger;
use crate::mount;
use crate::server::logging::WHOLE;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Without a sign of life for so long, a server hangs. It gives one every second.
const SILENCE: Duration = Duration::from_secs(15);
/// A request that comes no further for so long is one that will never be answered, unless it is the disk that does not answer.
const LONGEST_REQUEST: Duration = Duration::from_secs(120);
/// How long finding out what a server does may take.
const LOOK: Duration = Duration::from_secs(2);
/// A server is looked at twice, with so much time between, before it is said to hang.
const LOOKS_APART: Duration = Duration::from_secs(2);
/// How long a killed server may take to be gone.
pub(super) const DEATH: Duration = Duration::from_secs(5);
/// How long a server that was told to end may do nothing: a little less than systemd waits (`larder@.service`).
const LONGEST_REST: Duration = Duration::from_secs(110);
/// And how long it may do nothing but wait for the disk, which can have much to write and cannot be hurried.
const LONGEST_DISK: Duration = Duration::from_secs(900);
/// A server that works has so much CPU time at least between two looks, which are [`LOOKS_APART`]. What wakes up to see that there
/// is nothing to do has less.
const WORK: Duration = Duration::from_millis(20);
/// In the environment of the holder: `off` lets servers hang, for a debugger; a number is how many seconds a request may come no
/// further, and a server that was told to end may do nothing, for tests.
const SWITCH: &str = "LARDER_WATCHDOG";
/// The thread that gives signs of life while the main thread, which does otherwise, closes the store; in earlier versions always.
const BEATS: &str = "larder-beat";
/// The threads that make the kernel do something about a mount: see `fuse/workers.rs`, `fuse/kernel_cache.rs` and, for what unmounts and
/// has it write back, `cli/serve.rs` and `server/write_back.rs`.
const WAITERS: [&str; 4] = ["larder-ask", "larder-direct", "larder-forget", "larder-signals"];

/// Why a server is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It gives no sign of life.
    Silent(Duration),
    /// A request comes no further.
    Stuck(Duration),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "no sign of life for {} s", time.as_secs()),
            Self::Stuck(time) => write!(f, "a request has come no further for {} s", time.as_secs()),
        }
    }
}

/// Signs of life.
#[derive(Debug)]
pub(super) struct Pulse {
    /// When the holder last looked.
    looked: Instant,
    /// How long it has looked in vain: what it did not see itself, while it stood still as well, does not count.
    silence: Duration,
    stuck: Duration,
    /// The first look at a server that seems to hang.
    first: Option<(Instant, Vec<Task>)>,
    /// Something else was said to be the cause.
    excused: bool,
    longest_request: Option<Duration>,
}

/// What [`SWITCH`] says; `None`: servers are not killed.
fn longest(otherwise: Duration) -> Option<Duration> {
    match std::env::var(SWITCH) {
        Ok(value) if value == "off" => None,
        Ok(value) => Some(value.parse().map_or(otherwise, Duration::from_secs)),
        Err(_) => Some(otherwise),
    }
}

impl Pulse {
    pub(super) fn new() -> Self {
        let longest_request = longest(LONGEST_REQUEST);
        let now = Instant::now();
        Self {
            looked: now,
            silence: Duration::ZERO,
            stuck: Duration::ZERO,
            first: None,
            excused: false,
            longest_request,
        }
    }

    /// A sign of life, and how long the oldest request has come no further.
    pub(super) fn beat(&mut self, stuck: Duration) {
        (self.looked, self.silence, self.stuck) = (Instant::now(), Duration::ZERO, stuck);
    }

    /// Nothing was there to be read.
    pub(super) fn nothing(&mut self, now: Instant) {
        self.silence += now.saturating_duration_since(self.looked).min(2 * TICK);
        self.looked = now;
    }

    /// What seems to be wrong.
    fn symptom(&self) -> Option<Trouble> {
        let longest_request = self.longest_request?;
        if self.silence >= SILENCE {
            return Some(Trouble::Silent(self.silence));
        }
        (self.stuck >= longest_request).then_some(Trouble::Stuck(self.stuck))
    }

    /// Why the server, process `pid`, has to be replaced, if it has to. To be asked when nothing waits to be read.
    pub(super) fn trouble(&mut self, pid: u32) -> Option<Trouble> {
        let Some(trouble) = self.symptom() else {
            (self.first, self.excused) = (None, false);
            return None;
        };
        let now = Instant::now();
        if self.first.as_ref().is_some_and(|(at, _)| now - *at < LOOKS_APART) {
            return None;
        }
        let tasks = in_time(move || tasks(pid)).unwrap_or_default();
        let (since, before) = self.first.replace((now, tasks.clone()))?;
        // Whoever waits for a disk, or for a CPU, would wait for it in the next server as well.
        let excuse = if tasks.iter().any(|task| task.waits_for_disk(&trouble)) {
            "the disk does not answer"
        } else if are_starved(&before, &tasks, now - since) {
            "it gets no CPU"
        } else {
            return Some(trouble);
        };
        if !std::mem::replace(&mut self.excused, true) {
            log::warn!("{trouble}: {excuse}");
        }
        None
    }

    /// What hangs is left alone: begins to watch again.
    pub(super) fn leave_alone(&mut self) {
        (self.silence, self.first) = (Duration::ZERO, None);
    }
}

/// What a server that was told to end does until it has ended.
#[derive(Debug)]
pub(in crate::server) struct Ending {
    /// How long it has been seen to do nothing. What the holder did not see itself, while it stood still as well, does not count.
    rest: Duration,
    /// How long it has been seen to do nothing but wait for the disk, or has not let itself be seen.
    disk: Duration,
    /// The last look, and the last one that showed something.
    looked: Option<(Instant, Vec<Task>)>,
    /// How far it was with what programs and the kernel have asked for, see [`Ledger::progress`].
    progress: Option<u64>,
    longest_rest: Option<Duration>,
}

/// How a server that was told to end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Found {
    /// It was not looked at: that was done a moment ago.
    Nothing,
    /// It is to be waited for, for so long at least.
    Waits(Duration),
    /// It does nothing, and has not for so long.
    Overdue(Duration),
}

impl Ending {
    /// It was told just now.
    pub(in crate::server) fn new() -> Self {
        let longest_rest = longest(LONGEST_REST);
        Self { rest: Duration::ZERO, disk: Duration::ZERO, looked: None, progress: None, longest_rest }
    }

    /// Looks at the server, process `pid`, which notes in `ledger` what it works on, if that is known.
    pub(in crate::server) fn look(&mut self, pid: u32, ledger: Option<&OwnedFd>) -> Found {
        let now = Instant::now();
        if self.looked.as_ref().is_some_and(|(at, _)| now - *at < LOOKS_APART) {
            return Found::Nothing;
        }
        let tasks = in_time(move || tasks(pid)).unwrap_or_default();
        let progress = ledger.and_then(|ledger| Ledger::progress(ledger).ok());
        let was_at = std::mem::replace(&mut self.progress, progress);
        self.note(now, tasks, was_at.is_some() && was_at != progress)
    }

    fn note(&mut self, now: Instant, tasks: Vec<Task>, has_progressed: bool) -> Found {
        let (then, before) = self.looked.take().unwrap_or_else(|| (now, Vec::new()));
        let time = (now - then).min(2 * LOOKS_APART);
        let ran = |task: &Task| {
            let was = before.iter().find(|other| other.dir == task.dir).map_or(Duration::ZERO, |was| was.ran);
            task.ran.saturating_sub(was)
        };
        let works = |task: &&Task| task.name != BEATS && !task.waits_for_server();
        let waits_for_disk = |task: &Task| task.state == 'D' && !task.waits_for_server();
        if has_progressed {
            (self.rest, self.disk) = (Duration::ZERO, Duration::ZERO);
        } else if before.is_empty() && !tasks.is_empty() {
            // The first sight of it says nothing of what it did until then.
        } else if tasks.iter().filter(works).map(ran).sum::<Duration>() >= WORK {
            (self.rest, self.disk) = (Duration::ZERO, Duration::ZERO);
        } else if self.disk < LONGEST_DISK && (tasks.is_empty() || tasks.iter().any(waits_for_disk)) {
            // What cannot be seen says nothing, and for as long as a disk may be waited for.
            (self.rest, self.disk) = (Duration::ZERO, self.disk + time);
        } else if !are_starved(&before, &tasks, now - then) {
            self.rest += time;
        }
        let (rest, longest) = (self.rest, self.longest_rest.unwrap_or(Duration::MAX));
        self.looked = Some((now, if tasks.is_empty() { before } else { tasks }));
        if rest >= longest { Found::Overdue(rest) } else { Found::Waits(LONGEST_REST.min(longest - rest)) }
    }
}

/// What `look` finds out, if it does in time: who looks at a process that hangs in the kernel can hang with it.
fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || send.send(look())).ok()?;
    receive.recv_timeout(LOOK).ok()
}

/// A thread, as proc_pid_stat(5) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Task {
    name: String,
    state: char,
    /// CPU time that it has had.
    ran: Duration,
    dir: PathBuf,
}

impl Task {
    fn parse(stat: &str, dir: PathBuf) -> Option<Self> {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let ticks: u64 = fields.skip(10).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // USER_HZ is 100 everywhere.
        Some(Self { name: name.to_owned(), state, ran: Duration::from_millis(10 * ticks), dir })
    }

    /// Whether what it waits for is the server itself.
    fn waits_for_server(&self) -> bool {
        WAITERS.iter().any(|waiter| self.name.starts_with(waiter))
    }

    /// Whether it is what gives signs of life.
    fn gives_signs(&self) -> bool {
        let process = self.dir.parent().and_then(Path::parent).and_then(Path::file_name);
        self.name == BEATS || (process.is_some() && process == self.dir.file_name())
    }

    /// Whether it explains a trouble by waiting for a disk, or for pages from there. Who waits for the kernel waits for a mount of
    /// the server's own, and so for the server.
    fn waits_for_disk(&self, trouble: &Trouble) -> bool {
        self.state == 'D'
            && !self.waits_for_server()
            && (matches!(trouble, Trouble::Stuck(_)) || self.gives_signs())
    }
}

/// Whether a thread wanted to run and, for most of `time`, did not.
fn are_starved(before: &[Task], after: &[Task], time: Duration) -> bool {
    let was = |task: &Task| before.iter().find(|other| other.dir == task.dir && other.state == 'R');
    let starved = |task: &Task| was(task).is_some_and(|was| task.ran.saturating_sub(was.ran) < time / 10);
    after.iter().any(|task| task.state == 'R' && starved(task))
}

/// What a process does at a moment, as far as that can be found out.
#[derive(Debug)]
struct Sight {
    at: Instant,
    tasks: Vec<Task>,
}

impl Sight {
    fn of(pid: u32) -> Self {
        let tasks = in_time(move || tasks(pid)).unwrap_or_default();
        Self { at: Instant::now(), tasks }
    }

    /// Whether the process was kept from whatever it has not done until `now`: by a disk, or by others that had the CPUs.
    fn was_kept(&self, now: &Self) -> bool {
        now.tasks.iter().any(|task| task.state == 'D' && !task.waits_for_server())
            || are_starved(&self.tasks, &now.tasks, now.at.saturating_duration_since(self.at))
    }
}

/// Whether a process is kept from doing anything, by a disk or by others that have the CPUs. Looks for some seconds.
pub(super) fn is_kept(pid: u32) -> bool {
    let before = Sight::of(pid);
    std::thread::sleep(LOOKS_APART);
    before.was_kept(&Sight::of(pid))
}

fn tasks(pid: u32) -> Vec<Task> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let task = |dir: PathBuf| Task::parse(&fs::read_to_string(dir.join("stat")).ok()?, dir);
    entries.flatten().filter_map(|entry| task(entry.path())).collect()
}

/// Writes into the log what the threads of a server are doing.
pub(super) fn describe(pid: u32) {
    let look = move || {
        for Task { name, state, dir, .. } in tasks(pid) {
            let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
            let stack = read("stack").replace('\n', " ");
            let (call, waits) = (read("syscall"), read("wchan"));
            log::error!(target: WHOLE, "{name}: state {state}, in {waits}, system call {}, {stack}", call.trim_end());
        }
    };
    if in_time(look).is_none() {
        log::error!(target: WHOLE, "what its threads are doing cannot be found out");
    }
}

/// Lets the kernel answer everything on a mount with an error, now and ever after: better than to wait for nothing.
pub(super) fn abort(kept: &Kept) {
    let Some(connection) = kept.connection else { return };
    // Closing the device does the same, if no killed server still has it.
    if let Err(e) = mount::abort(connection) {
        log::warn!("volume {:?}: cannot abort FUSE connection {connection}: {e}", kept.volume);
    }
}

/// Asks the kernel to end other processes first when memory runs out, this process's servers among them. Returns what these
/// are to ask for; `None` if nothing was changed.
pub(super) fn spare_from_oom() -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const SPARED: i32 = -900;
    let before: i32 = fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    if before <= SPARED {
        return None;
    }
    match fs::write(FILE, SPARED.to_string()) {
        Ok(()) => Some(before),
        Err(e) => {
            // Only root may.
            log::debug!("{FILE}: {e}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, state: char, ticks: u64) -> Task {
        let stat = format!("7 ({name}) {state} 1 1 1 0 -1 4194368 1 0 0 0 {ticks} 0 0 0 20 0");
        Task::parse(&stat, PathBuf::from(name)).unwrap()
    }

    #[test]
    fn threads_are_read_whatever_their_names() {
        let odd = task("a) b (c", 'S', 250);
        assert_eq!((odd.name.as_str(), odd.state, odd.ran), ("a) b (c", 'S', Duration::from_millis(2500)));
        assert!(tasks(std::process::id()).iter().any(|task| task.state == 'R'));
    }

    #[test]
    fn silence_is_only_what_the_holder_saw_itself() {
        let mut pulse = Pulse { longest_request: Some(LONGEST_REQUEST), ..Pulse::new() };
        // It stood still for an hour, together with its server, and looks once.
        let mut now = pulse.looked + Duration::from_secs(3600);
        pulse.nothing(now);
        assert_eq!(pulse.symptom(), None);
        for _ in 0..(SILENCE - 2 * TICK).as_millis() / TICK.as_millis() {
            assert_eq!(pulse.symptom(), None);
            now += TICK;
            pulse.nothing(now);
        }
        assert!(matches!(pulse.symptom(), Some(Trouble::Silent(_))));
        pulse.beat(Duration::ZERO);
        assert_eq!(pulse.symptom(), None);
        pulse.beat(LONGEST_REQUEST);
        assert_eq!(pulse.symptom(), Some(Trouble::Stuck(LONGEST_REQUEST)));
    }

    #[test]
    fn a_server_that_ends_is_waited_for_as_long_as_it_does_something() {
        let mut now = Instant::now();
        let mut ending = Ending { longest_rest: Some(LONGEST_REST), ..Ending::new() };
        let mut look = |ending: &mut Ending, tasks: Vec<Task>| {
            now += LOOKS_APART;
            ending.note(now, tasks, false)
        };
        // It writes back for an hour, and then the disk does.
        for i in 0..1800 {
            let works = task("larder-fuse-0", 'S', 2 * i);
            assert!(matches!(look(&mut ending, vec![works, task(BEATS, 'S', 0)]), Found::Waits(_)));
        }
        for _ in 0..(LONGEST_DISK.as_secs() / 2 + LONGEST_REST.as_secs() / 2 - 2) {
            assert!(matches!(look(&mut ending, vec![task("larder-commit", 'D', 0)]), Found::Waits(_)));
        }
        assert!(matches!(look(&mut ending, vec![task("larder-commit", 'D', 100)]), Found::Waits(_)));
        // That it gives signs of life is not enough.
        let mut rests = 0;
        for i in 0..1800 {
            if matches!(look(&mut ending, vec![task(BEATS, 'S', 10 * i)]), Found::Overdue(_)) {
                break;
            }
            rests += 1;
        }
        assert_eq!(rests, LONGEST_REST.as_secs() / 2 - 1);
    }

    /// How long it takes until a server that was told to end, and is found so at each look, is found to be overdue; `None`: more
    /// than two hours.
    fn is_overdue_after(
        mut ending: Ending,
        mut now: Instant,
        found: impl Fn(u64) -> Vec<Task>,
    ) -> Option<Duration> {
        let begin = now;
        (0..3600).find_map(|i| {
            now += LOOKS_APART;
            matches!(ending.note(now, found(i), false), Found::Overdue(_)).then_some(now - begin)
        })
    }

    #[test]
    fn a_server_that_ends_does_not_rest_while_it_cannot_run_or_be_seen() {
        let new = || Ending { longest_rest: Some(LONGEST_REST), ..Ending::new() };
        let rests = || vec![task("larder-commit", 'S', 700), task(BEATS, 'S', 0)];
        // The first look has nothing to compare with.
        let usual = LONGEST_REST + LOOKS_APART;
        assert_eq!(is_overdue_after(new(), Instant::now(), |_| rests()), Some(usual));
        // The holder stood still for an hour, together with it.
        let (mut ending, mut now) = (new(), Instant::now());
        ending.note(now, rests(), false);
        now += Duration::from_secs(3600);
        assert!(matches!(ending.note(now, rests(), false), Found::Waits(_)));
        assert_eq!(is_overdue_after(ending, now, |_| rests()), Some(LONGEST_REST - 2 * LOOKS_APART));
        let starved = |i| vec![task("larder-commit", 'R', i / 10), task(BEATS, 'S', 0)];
        assert_eq!(is_overdue_after(new(), Instant::now(), starved), None);
        // When it is seen again, what it did long ago is no work; and not for ever.
        let seen = |i| if i % 50 == 49 { rests() } else { Vec::new() };
        let after = is_overdue_after(new(), Instant::now(), seen).unwrap();
        assert!(after > LONGEST_DISK && after < LONGEST_DISK + 2 * LONGEST_REST, "{after:?}");
        let after = is_overdue_after(new(), Instant::now(), |_| Vec::new()).unwrap();
        assert!(after > LONGEST_DISK && after < LONGEST_DISK + 2 * LONGEST_REST, "{after:?}");
    }

    /// What is slow with little to do has next to no CPU time.
    #[test]
    fn a_server_that_comes_on_with_what_it_was_asked_for_does_not_rest() {
        let (mut ending, mut now) =
            (Ending { longest_rest: Some(LONGEST_REST), ..Ending::new() }, Instant::now());
        let mut look = |has_progressed| {
            now += LOOKS_APART;
            ending.note(now, vec![task("larder-fuse-0", 'S', 700)], has_progressed)
        };
        for i in 0..3600 {
            assert!(matches!(look(i % 50 == 0), Found::Waits(_)));
        }
        assert!((0..50).any(|_| matches!(look(false), Found::Overdue(_))));
    }

    #[test]
    fn who_waits_for_the_server_does_not_show_that_it_waits_for_the_disk() {
        for waiter in ["larder-signals", "larder-ask-3", "larder-forget"] {
            let ending = Ending { longest_rest: Some(LONGEST_REST), ..Ending::new() };
            let found = |_| vec![task(waiter, 'D', 1), task("larder-fuse-0", 'S', 1)];
            assert_eq!(
                is_overdue_after(ending, Instant::now(), found),
                Some(LONGEST_REST + LOOKS_APART),
                "{waiter}"
            );
        }
    }

    #[test]
    fn who_wants_to_run_and_does_not_is_starved() {
        let time = Duration::from_secs(2);
        let starved = |before, after| are_starved(&[before], &[after], time);
        assert!(starved(task("larder-beat", 'R', 10), task("larder-beat", 'R', 12)));
        assert!(!starved(task("spins", 'R', 10), task("spins", 'R', 190)), "it had its CPU");
        assert!(!starved(task("larder-beat", 'S', 10), task("larder-beat", 'R', 10)));
        assert!(!starved(task("larder-beat", 'T', 10), task("larder-beat", 'T', 10)), "it is stopped");
        assert!(!starved(task("one", 'R', 10), task("other", 'R', 10)));
    }

    #[test]
    fn who_waits_for_the_disk_or_a_cpu_is_not_to_blame_for_what_is_not_done() {
        let at = Instant::now();
        let sight = |after, state, ticks| Sight { at: at + after, tasks: vec![task("larder", state, ticks)] };
        let before = sight(Duration::ZERO, 'R', 1);
        for (state, ticks, was_kept) in
            [('D', 1, true), ('R', 100, true), ('R', 5900, false), ('S', 1, false), ('T', 1, false)]
        {
            let now = sight(Duration::from_secs(60), state, ticks);
            assert_eq!(before.was_kept(&now), was_kept, "{state} {ticks}");
        }
    }

    #[test]
    fn the_disk_is_to_blame_for_a_request_and_for_a_thread_that_cannot_say_that_it_lives() {
        let (silent, stuck) = (Trouble::Silent(SILENCE), Trouble::Stuck(LONGEST_REQUEST));
        assert!(task("larder-fuse-0", 'D', 1).waits_for_disk(&stuck));
        assert!(!task("larder-fuse-0", 'D', 1).waits_for_disk(&silent));
        assert!(task(BEATS, 'D', 1).waits_for_disk(&silent));
        assert!(!task(BEATS, 'S', 1).waits_for_disk(&stuck));
        for waiter in ["larder-ask-3", "larder-direct-0", "larder-forget", "larder-signals"] {
            assert!(!task(waiter, 'D', 1).waits_for_disk(&stuck), "{waiter} waits for the server");
        }
    }
}
