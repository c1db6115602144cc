//! Scrubbing a store that no server has open, without keeping anybody from opening it.

use super::check::{Access, Ended, Report, Step, Survey, Surveyed};
use super::error::{Result, VolumeError};
use super::offline::LOCK_PATIENCE;
use super::remote::remote_of;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::meta::Inspector;
use crate::remote::Local;
use crate::root::Root;
use crate::store::{Header, LockMode, Sealer, Segments, StoreId, StoreLock};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the store is kept from others at a time.
const HOLD: Duration = Duration::from_millis(200);
/// How long it is left to them then: whoever waits for it looks every 20 ms.
const GAP: Duration = Duration::from_millis(30);

/// How fast everything is read: the time that has to pass for so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; 0: as fast as it goes.
    pub rate: u64,
}

impl Pace {
    /// How long `bytes` are to take, where they took `taken`.
    pub fn rest(self, bytes: u64, taken: Duration) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64).saturating_sub(taken),
        }
    }
}

/// The way to a store whose lock others may take between two batches.
struct Offline {
    path: PathBuf,
    keys: Keys,
    pace: Pace,
    lock: Option<StoreLock>,
    /// Since when it is held.
    since: Instant,
    /// When the last batch began.
    began: Instant,
}

impl Offline {
    /// Takes the lock; whether nobody else has it.
    fn take(&mut self) -> Result<bool> {
        let until = Instant::now() + LOCK_PATIENCE;
        while self.lock.is_none() {
            self.lock = StoreLock::try_acquire(&self.path, LockMode::Shared)
                .map_err(|e| VolumeError::io(&self.path, &e))?;
            self.since = Instant::now();
            if self.lock.is_none() {
                // A command that changes something has it for a moment, a server for as long as something is mounted: that one is asked.
                if self.path.join("control").exists() || Instant::now() >= until {
                    return Ok(false);
                }
                sleep(GAP);
            }
        }
        Ok(true)
    }
}

impl Access for Offline {
    fn next(&mut self, read_bytes: u64) -> Result<bool> {
        let rest = self.pace.rest(read_bytes, self.began.elapsed());
        if rest >= GAP || self.since.elapsed() >= HOLD {
            self.lock = None;
            sleep(rest.max(GAP));
        } else {
            sleep(rest);
        }
        let is_ours = self.take()?;
        self.began = Instant::now();
        Ok(is_ours)
    }

    fn look(&mut self) -> Result<Inspector> {
        if !self.take()? {
            let what = format!("{}: another process has opened this store", self.path.display());
            return Err(VolumeError::new(Exit::Busy, what));
        }
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&self.path));
        let header = Header::read(&*dir)?;
        header.check_keys(&*dir, &self.keys)?;
        Ok(Inspector::open_with(dir, header.store, &self.keys)?)
    }
}

/// Scrubs a store that no process has open, behind segment `after`. When one opens it, this ends as [`Ended::Taken`].
///
/// # Errors
/// As [`super::check_offline`].
pub fn scrub_offline(
    (root, id, name): (&Root, StoreId, &str),
    keys: &Keys,
    (after, pace): (u64, Pace),
    step: &mut dyn FnMut(Step) -> bool,
) -> Result<Surveyed> {
    let (path, now) = (root.store(id), Instant::now());
    let mut access =
        Offline { path: path.clone(), keys: keys.clone(), pace, lock: None, since: now, began: now };
    let mut inspector = match access.look() {
        Err(e) if e.exit == Exit::Busy => return Ok((Ended::Taken, Report::default())),
        other => other?,
    };
    // What cannot be read, the survey finds.
    if inspector.volumes().is_ok_and(|rows| rows.iter().all(|row| row.name != name)) {
        return Err(VolumeError::no_volume(name));
    }
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(&path));
    let store = Header::read(&*dir)?.store;
    let segments = Segments::new(dir, store, Sealer::new(keys), 0..0);
    // A server may have it open between two steps, and let blocks go.
    let may_be_partial = |local: Local| local.partial || local.local_size > 0;
    segments.set_partial(remote_of(root, id)?.is_some_and(may_be_partial));
    let survey = Survey::make(&mut inspector, &segments, false, &mut |_| {});
    drop(inspector);
    survey.read_on(&segments, after, &mut access, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_too_fast_is_made_up_for() {
        let (pace, second) = (Pace { rate: 1 << 20 }, Duration::from_secs(1));
        assert_eq!(pace.rest(1 << 20, Duration::ZERO), second);
        assert_eq!(pace.rest(1 << 20, second / 2), second / 2);
        assert_eq!(pace.rest(1 << 20, 2 * second), Duration::ZERO);
        assert_eq!(Pace { rate: 0 }.rest(1 << 40, Duration::ZERO), Duration::ZERO);
    }
}
