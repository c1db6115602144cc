//! Keeps the volumes that containers use mounted: at the start, and when a server dies. Unmounts those that nobody uses any more.

use super::driver::Driver;
use crate::host::{place, trash};
use crate::volume::Result;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often everything is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often the trash is looked at.
const TRASH_TICK: Duration = Duration::from_secs(5);
/// A look that takes longer keeps nobody from looking at other volumes.
const LONG: Duration = Duration::from_secs(1);
/// Volumes that are mounted at once, at the start.
const AT_ONCE: usize = 8;
/// The longest time between two attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest time until a volume that nobody counts, but somebody has, is looked at again.
const LINGERING: Duration = Duration::from_secs(4);
/// A mount that held so long starts with short times again.
const HELD: Duration = Duration::from_secs(60);

/// A volume that did not do what it should.
struct Trouble {
    times: u32,
    last: Instant,
    longest: Duration,
}

impl Trouble {
    fn pause(&self) -> Duration {
        Duration::from_secs(1 << self.times.min(6)).min(self.longest)
    }
}

/// Those of volumes, by name.
type Troubles = Mutex<HashMap<String, Trouble>>;

/// What became of a look at a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// All is as it should be.
    Good,
    /// It was mounted again.
    Mounted,
    /// It should not be mounted, but somebody uses it.
    Lingers,
}

/// All volumes that may want something.
fn concerned(driver: &Driver) -> Vec<String> {
    let mut names: HashSet<String> = driver.books.used().into_iter().collect();
    names.extend(driver.mounts.names());
    names.into_iter().collect()
}

/// Brings a volume to where it should be. The caller holds its lock.
fn look_after(driver: &Driver, name: &str, exact: bool) -> Result<Found> {
    if !driver.books.is_used(name) {
        driver.try_release(name)?;
        let lingers = driver.mounts.names().iter().any(|other| other == name);
        return Ok(if lingers { Found::Lingers } else { Found::Good });
    }
    let Some(place) = place(&driver.root, name)? else {
        log::warn!("volume {name:?} was removed, although containers used it");
        driver.books.clear(name)?;
        return Ok(Found::Good);
    };
    if driver.mounts.is_live(name, place, exact)? {
        return Ok(Found::Good);
    }
    let options = crate::host::options_of(&driver.root, name, place)?;
    driver.mounts.ensure(name, place, &options)?;
    Ok(Found::Mounted)
}

/// Mounts everything that containers use, as far as that goes at the first attempt, and cleans up what dead servers left.
pub(super) fn restore(driver: &Arc<Driver>) {
    let names = Mutex::new(concerned(driver));
    let next = || names.lock().pop();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let _hold = driver.locks.hold_blocking(&name);
                    match look_after(driver, &name, true) {
                        Ok(Found::Mounted) => log::info!("volume {name:?} is mounted again"),
                        Ok(_) => {}
                        Err(e) => log::error!("volume {name:?} cannot be mounted again: {e}"),
                    }
                }
            });
        }
    });
}

/// Looks after all volumes, until `stop` ends.
pub(super) fn watch(driver: &Arc<Driver>, stop: &Receiver<()>) {
    let troubles = Arc::new(Troubles::default());
    let mut trash = Trash::default();
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        reap();
        trash.look_at(driver);
        let names = concerned(driver);
        troubles.lock().retain(|name, trouble| names.contains(name) || trouble.last.elapsed() < HELD);
        let driver = Arc::clone(driver);
        let troubles = Arc::clone(&troubles);
        for_each(names, move |name| look_at(&driver, &troubles, name));
    }
}

/// The trash, which is looked at once in a while. What goes is removed on another thread: that takes its time.
#[derive(Default)]
struct Trash {
    looked: Option<Instant>,
    busy: Arc<AtomicBool>,
}

impl Trash {
    fn look_at(&mut self, driver: &Arc<Driver>) {
        if self.looked.is_some_and(|when| when.elapsed() < TRASH_TICK) || self.busy.load(Ordering::Acquire) {
            return;
        }
        self.looked = Some(Instant::now());
        if !trash::is_wanting(&driver.root) {
            return;
        }
        self.busy.store(true, Ordering::Release);
        let (driver, busy) = (Arc::clone(driver), Arc::clone(&self.busy));
        let spawned = thread::Builder::new().name("larder-trash".into()).spawn({
            let busy = Arc::clone(&busy);
            move || {
                for gone in trash::tidy(&driver.root) {
                    log::info!("{} is gone from the trash", gone.of.id());
                }
                busy.store(false, Ordering::Release);
            }
        });
        if let Err(e) = spawned {
            log::warn!("emptying the trash: {e}");
            busy.store(false, Ordering::Release);
        }
    }
}

/// Does something with each of `names`, one after the other, on another thread. One that takes long keeps nobody waiting: the others are
/// gone on with beside it, and it is not waited for.
fn for_each(names: Vec<String>, what: impl Fn(&str) + Send + Sync + 'static) {
    let all = names.len();
    let names = Arc::new(Mutex::new(names));
    let what = Arc::new(what);
    let (done, one_done) = channel();
    let mut finished = 0;
    while finished < all {
        let (names, what, done) = (Arc::clone(&names), Arc::clone(&what), done.clone());
        let next = {
            let names = Arc::clone(&names);
            move || names.lock().pop()
        };
        let spawned = thread::Builder::new().name("larder-look".into()).spawn(move || {
            while let Some(name) = next() {
                what(&name);
                let _ = done.send(());
            }
        });
        if let Err(e) = spawned {
            log::warn!("cannot look after volumes: {e}");
            return;
        }
        while finished < all {
            match one_done.recv_timeout(LONG) {
                Ok(()) => finished += 1,
                Err(_) if names.lock().is_empty() => return,
                Err(_) => break,
            }
        }
    }
}

/// Looks after a volume, unless it is too early for that, or somebody else has it.
fn look_at(driver: &Driver, troubles: &Troubles, name: &str) {
    if troubles.lock().get(name).is_some_and(|trouble| trouble.last.elapsed() < trouble.pause()) {
        return;
    }
    // Who has it now leaves it as it should be.
    let Some(_hold) = driver.locks.try_hold(name) else { return };
    let found = look_after(driver, name, false);
    let mut troubles = troubles.lock();
    match &found {
        Ok(Found::Good) => {
            if troubles.get(name).is_some_and(|trouble| trouble.last.elapsed() >= HELD) {
                troubles.remove(name);
            }
            return;
        }
        Ok(Found::Mounted) => log::warn!("volume {name:?} had lost its server; it is mounted again"),
        Ok(Found::Lingers) => {}
        Err(e) if !driver.books.is_used(name) => log::warn!("volume {name:?} stays mounted: {e}"),
        Err(e) => log::error!("volume {name:?} cannot be mounted again: {e}"),
    }
    let longest = if matches!(found, Ok(Found::Lingers)) { LINGERING } else { LONGEST };
    let now = Instant::now();
    let trouble = troubles.entry(name.to_owned()).or_insert(Trouble { times: 0, last: now, longest });
    trouble.longest = longest;
    trouble.times += 1;
    trouble.last = Instant::now();
}

/// As process 1 of a container, this one is given all orphans, and has to take note of their ends.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    if std::process::id() != 1 {
        return;
    }
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_for_ever_keeps_nobody_from_the_others() {
        let (send, seen) = channel();
        let (_never, ends) = channel::<()>();
        let ends = Mutex::new(ends);
        let names = ["a", "b", "hangs", "c", "d"].map(String::from).to_vec();
        for_each(names, move |name| {
            if name == "hangs" {
                let _ = ends.lock().recv();
            }
            let _ = send.send(name.to_owned());
        });
        let mut seen: Vec<String> = seen.try_iter().collect();
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"]);
    }

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let pause = |times| Trouble { times, last: Instant::now(), longest: LONGEST }.pause().as_secs();
        assert_eq!([pause(1), pause(2), pause(5), pause(6), pause(1000)], [2, 4, 32, 60, 60]);
    }
}
