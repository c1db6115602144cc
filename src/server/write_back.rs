//! Having all that programs have written to a mount, also what the kernel has gathered of it.
//!
//! The kernel does not wait for that itself: when syncfs(2) returns, it has made requests of all that was dirty, and most of them can
//! still wait in its queues (`fuse/passing.rs`). All are taken once the queue of what nobody waits for was empty, or has moved on far
//! enough, and then one more request was answered; and are done when those readers of requests who have one ask for the next. Rings
//! have queues of their own (`fuse/uring/flow.rs`).
//!
//! While a file is synced or its size is changed, the kernel keeps what it writes back of it from all queues (`fuse_set_nowrite` in
//! fs/fuse/dir.c). A sync lets go of that before it asks the server for anything: so all is done twice. Who changes the size of a file
//! while a snapshot is made of it may find neither that in it, nor what was written to the file right before.

use crate::fs::VolumeId;
use crate::fuse::{Ledger, Passing, Pause, await_done};
use crate::mount::{self, Asked, Asking};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The threads that have the kernel write back, as the one that is told to end does: who looks at what this process does knows such by
/// this name (`holder/watch.rs`).
const WRITES_BACK: &str = "larder-signals";
/// How often it is looked whether it is still waited for.
const LOOK: Duration = Duration::from_millis(100);
/// Where it is not known who reads requests: how long one of them may take from the kernel's hand to where it is seen.
const UNSEEN: Duration = Duration::from_millis(50);
/// And how long nothing may be written back, until it is not known what is.
const STILL: Duration = Duration::from_secs(10);

/// Has everything that programs have written so far to the mount of `volume`, of which `root` is the root directory (`None`: it is
/// gone): waits for however long its server takes. May not be called by who has to serve it.
///
/// # Errors
/// As syncfs(2), or if it cannot be seen what the kernel has asked for. What could be had was had then.
pub(super) fn write_back(root: Option<File>, ledger: &Ledger, volume: VolumeId) -> io::Result<()> {
    let Some(root) = &root else { return Ok(()) };
    let asking = Asking::open(mount::connection_of(root)?);
    let waiting = || asking.as_ref().ok()?.now().ok();
    let mut told = Ok(());
    for _ in 0..2 {
        nix::unistd::syncfs(root)?;
        let rings = ledger.rings(volume);
        if !rings.is_empty() {
            told = told.and(await_done(&rings, waiting().map_or(u64::MAX, |asked| asked.waiting)));
            continue;
        }
        if let Ok(asking) = &asking {
            told = told.and(pass_queue(asking, ledger, volume));
        }
        // The one more: an ioctl that there is not is refused at once, also while a rollback waits for all else.
        root.is_terminal();
        told = told.and(await_readers(ledger, volume));
    }
    asking.map(drop).and(told)
}

/// Waits until the server has been given all that is now in the queue of what nobody waits for.
fn pass_queue(asking: &Asking, ledger: &Ledger, volume: VolumeId) -> io::Result<()> {
    let begun = asking.now()?.waiting;
    let has_readers = !ledger.mark(volume).is_empty();
    let mut passing = Passing::begin(ledger.came(volume), begun);
    let (mut least, mut since) = (begun, Instant::now());
    let mut pause = Pause::default();
    loop {
        let Asked { waiting, max_background } = asking.now()?;
        if waiting <= max_background || passing.is_past(ledger.came(volume))? {
            return Ok(());
        }
        if waiting < least {
            (least, since) = (waiting, Instant::now());
        } else if !has_readers && since.elapsed() >= STILL {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{waiting} requests wait")));
        }
        pause.sleep();
    }
}

/// Waits until all that was written back is done that the server has been given.
fn await_readers(ledger: &Ledger, volume: VolumeId) -> io::Result<()> {
    let mark = ledger.mark(volume);
    let mut pause = Pause::default();
    if mark.is_empty() {
        std::thread::sleep(UNSEEN);
        let writes = ledger.writes(volume);
        while ledger.writes(volume).iter().any(|write| writes.contains(write)) {
            pause.sleep();
        }
        return Ok(());
    }
    // Twice: one that is stopped on its way from the kernel seems to wait as well, for a moment.
    for _ in 0..2 {
        while !mark.is_passed().inspect_err(|_| std::thread::sleep(UNSEEN))? {
            pause.sleep();
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Does all of `works` at the same time, each on a thread that may wait for what this process serves: one that comes no further does
/// not keep the others from the disk.
pub(super) fn beside(works: impl IntoIterator<Item = impl Fn() + Send + Sync>) {
    let works: Vec<_> = works.into_iter().collect();
    std::thread::scope(|scope| {
        for work in &works {
            if Builder::new().name(WRITES_BACK.into()).spawn_scoped(scope, work).is_err() {
                work();
            }
        }
    });
}

/// The same, for who does not wait for longer than until `is_over`, which is asked several times a second: what is not done by then is
/// left behind. What those say that were done, if something went wrong.
pub(super) fn beside_until(
    works: impl IntoIterator<Item = impl Fn() -> Option<String> + Send + 'static>,
    is_over: &dyn Fn() -> bool,
) -> Vec<String> {
    let (send, told) = channel::<String>();
    let mut wrong = Vec::new();
    for work in works {
        let send = send.clone();
        // (Where nobody waits for it any more, nobody wants to know.)
        let run = move || work().map_or((), |what| drop(send.send(what)));
        if let Err(e) = Builder::new().name(WRITES_BACK.into()).spawn(run) {
            log::warn!("cannot start a thread: {e}: what programs have just written may not be seen");
            wrong.push(format!("cannot start a thread: {e}"));
        }
    }
    drop(send);
    loop {
        match told.recv_timeout(LOOK) {
            Ok(what) => wrong.push(what),
            Err(RecvTimeoutError::Timeout) if !is_over() => {}
            Err(_) => return wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who waited was told that all of it is there.
    #[test]
    fn what_went_wrong_beside_is_told_and_what_is_left_behind_is_not_waited_for() {
        type Work = Box<dyn Fn() -> Option<String> + Send>;
        let works = || -> Vec<Work> {
            vec![Box::new(|| None), Box::new(|| Some("/mnt: EIO".into())), Box::new(|| None)]
        };
        assert_eq!(beside_until(works(), &|| false), ["/mnt: EIO"]);
        let (_keep, hangs) = channel::<()>();
        let hangs = std::sync::Mutex::new(hangs);
        let mut works = works();
        works.push(Box::new(move || hangs.lock().unwrap().recv().err().map(|e| e.to_string())));
        let asked = std::cell::Cell::new(0);
        let is_over = || asked.replace(asked.get() + 1) > 3;
        assert_eq!(beside_until(works, &is_over), ["/mnt: EIO"]);
    }
}
