//! Simulated time for simulated hosts. Of all threads, one runs at a time: until it sleeps, when the one that is to wake first goes on.
//! So a run is the same each time, and hours of it take milliseconds.

use larder::remote::{Clock, When};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

thread_local! {
    static TASK: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// Who wakes when; the number keeps the order of those who wake at the same time.
    sleepers: BTreeMap<(Duration, u64), usize>,
    sequence: u64,
    running: Option<usize>,
}

impl State {
    fn sleep(&mut self, task: usize, until: Duration) {
        self.sequence += 1;
        self.sleepers.insert((until, self.sequence), task);
    }

    fn next(&mut self) {
        self.running = self.sleepers.pop_first().map(|((at, _), task)| {
            self.now = self.now.max(at);
            task
        });
    }
}

#[derive(Debug, Default)]
pub struct World {
    state: Mutex<State>,
    turn: Condvar,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Runs all of them to their ends, beginning at once.
    pub fn run(&self, tasks: Vec<Box<dyn FnOnce() + Send + '_>>) {
        {
            let mut state = self.state.lock().unwrap();
            let now = state.now;
            (0..tasks.len()).for_each(|task| state.sleep(task, now));
            state.next();
        }
        std::thread::scope(|scope| {
            for (number, task) in tasks.into_iter().enumerate() {
                scope.spawn(move || {
                    TASK.set(number);
                    self.wait_for_turn(number);
                    let _turn = Turn(self);
                    task();
                });
            }
        });
    }

    fn wait_for_turn(&self, task: usize) {
        let mut state = self.state.lock().unwrap();
        while state.running != Some(task) {
            state = self.turn.wait(state).unwrap();
        }
    }

    pub fn now(&self) -> Duration {
        self.state.lock().unwrap().now
    }

    pub fn sleep(&self, time: Duration) {
        let task = TASK.get();
        let mut state = self.state.lock().unwrap();
        let until = state.now + time;
        if task == usize::MAX {
            // The test itself, while nobody else runs.
            state.now = until;
            return;
        }
        state.sleep(task, until);
        state.next();
        drop(state);
        self.turn.notify_all();
        self.wait_for_turn(task);
    }
}

/// Ends a task's turn, also when it fails.
struct Turn<'a>(&'a World);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().next();
        self.0.turn.notify_all();
    }
}

/// A host: its clocks, and when it stands still.
pub struct Host {
    pub world: Arc<World>,
    /// What its clock shows when the world begins.
    offset: Duration,
    /// How fast its clock runs.
    rate: f64,
    /// Of a hundred thousand chances to stand still, how many it takes.
    pauses: u32,
    random: Mutex<StdRng>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    pub fn new(world: &Arc<World>, seed: u64, pauses: u32) -> Arc<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let offset = Duration::from_secs(random.random_range(0..1_000_000));
        let rate = random.random_range(0.95..1.05);
        Arc::new(Self { world: Arc::clone(world), offset, rate, pauses, random: Mutex::new(random) })
    }

    pub fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..end)
    }

    /// Whether something happens that does so in so many of a hundred cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Perhaps stands still here, as a process does that gets SIGSTOP.
    pub fn maybe_pause(&self) {
        if self.below(100_000) < u64::from(self.pauses) {
            let pause = Duration::from_millis(self.below(120_000));
            self.world.sleep(pause);
        }
    }
}

impl Clock for Host {
    fn now(&self) -> Duration {
        self.offset + self.world.now().mul_f64(self.rate)
    }

    fn sleep(&self, time: Duration) {
        self.maybe_pause();
        self.world.sleep(time.mul_f64(1.0 / self.rate));
        self.maybe_pause();
    }

    fn wall(&self) -> When {
        // Wrong by days, and different on each host.
        When { seconds: 1_700_000_000 + self.offset.as_secs() + self.world.now().as_secs(), nanoseconds: 0 }
    }
}
