//! Scrubbing a store: reading everything in it, whether a server has it open or not, and going on after an interruption.

use super::ask::Question;
use super::health::{hides_names, reasons_of};
use super::secret::Secrets;
use crate::exit_code::Exit;
use crate::health::{self, Notes, ScrubLock, UnderWay, now, now_ms, update};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::check::{Ended, Fault, Report, Step};
use crate::volume::{Pace, Result, VolumeError, scrub_offline};
use std::cell::RefCell;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is noted how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// How long until it is gone on with when a server came or went.
const AGAIN: Duration = Duration::from_millis(500);
/// Interruptions without any progress between them, after which it is given up.
const MOST: u32 = 20;
/// One that was interrupted longer ago, in milliseconds, begins anew: what it read first may have been damaged since.
const STALE: u64 = 60 * 24 * 3600 * 1000;

/// What is to be scrubbed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubJob<'a> {
    /// The root.
    pub root: &'a Root,
    /// A volume of the store.
    pub name: &'a str,
    /// The store.
    pub id: StoreId,
    /// What opens it.
    pub secret: &'a Secrets,
    /// Bytes a second; 0: as fast as it goes.
    pub rate: u64,
}

/// How far it is, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubbing {
    /// That were read.
    pub done: u64,
    /// That there are.
    pub total: u64,
}

/// A scrub that came to its end.
#[derive(Clone, Debug)]
pub struct Scrubbed {
    /// When, and how much.
    pub scrub: health::Scrubbed,
    /// What is wrong, as far as it was found since the last interruption.
    pub faults: Vec<Fault>,
}

/// A scrub that is under way.
struct Round<'a> {
    job: ScrubJob<'a>,
    under_way: UnderWay,
    noted: Instant,
    /// What is new since then.
    news: Vec<Fault>,
    /// All that was found by this process.
    faults: Vec<Fault>,
}

impl Round<'_> {
    /// Takes note of a step. What was found is kept at once.
    fn step(&mut self, after: u64, (done, total): (u64, u64), faults: Vec<Fault>) {
        let found = !faults.is_empty();
        self.news.extend(faults);
        self.under_way = UnderWay { at: now_ms(), after, blocks: done, total, ..self.under_way };
        if found || self.noted.elapsed() >= NOTE_EVERY {
            self.note(|_| {});
        }
    }

    /// Keeps how far it is, and what else changes in the notes then.
    fn note(&mut self, change: impl FnOnce(&mut Notes)) {
        self.noted = Instant::now();
        let faults = std::mem::take(&mut self.news);
        self.under_way.faults += faults.len() as u64;
        let report = Report { faults, ..Report::default() };
        let hides_names = hides_names(self.job.root, self.job.id);
        let noted = update(self.job.root, self.job.id, |notes| {
            notes.scrub.under_way = Some(self.under_way.clone());
            // What is over is forgotten before what is new is noted.
            change(notes);
            reasons_of(&report, hides_names).into_iter().for_each(|reason| notes.note(reason));
        });
        self.faults.extend(report.faults);
        if let Err(e) = noted {
            log::warn!("volume {:?}: noting how far the scrub is: {e}", self.job.name);
        }
    }

    /// All was read.
    fn end(mut self, report: Report) -> Scrubbed {
        let more = report.more_faults;
        self.news.extend(report.faults);
        let started = self.under_way.started;
        let faults = self.under_way.faults + self.news.len() as u64 + more;
        let blocks = self.under_way.blocks;
        let scrub = health::Scrubbed { started: started / 1000, finished: now(), blocks, faults };
        let last = scrub.clone();
        self.note(move |notes| {
            notes.all_was_read(started);
            notes.scrub = health::Scrub { last: Some(last), under_way: None };
        });
        Scrubbed { scrub, faults: self.faults }
    }
}

/// Goes on until all is read (with a report of the metadata), or until a server has come or gone (without).
fn go_on(round: &mut Round<'_>, progress: &mut dyn FnMut(Scrubbing)) -> Result<Option<Report>> {
    let ScrubJob { root, name, secret, rate, .. } = round.job;
    let state = RefCell::new((round, progress));
    let after = || state.borrow().0.under_way.after;
    let step = |after, done, total, faults| {
        let (round, progress) = &mut *state.borrow_mut();
        // Nothing is known before the metadata have been looked at.
        if total > 0 {
            round.step(after, (done, total), faults);
            progress(Scrubbing { done, total });
        }
        true
    };
    Question::reading(root, name, Some(secret)).ask(
        |client| client.scrub(after(), rate, &mut |at| step(at.after, at.done, at.total, at.faults)),
        |id, keys| {
            let mut step = |at: Step| step(at.after, at.done, at.total, at.faults);
            let (ended, report) = scrub_offline((root, id, name), keys, (after(), Pace { rate }), &mut step)?;
            Ok((ended == Ended::Complete).then_some(report))
        },
    )
}

/// Reads everything in a store and notes what is wrong. One that was interrupted is gone on with. `progress` is told how far it is.
///
/// # Errors
/// `Busy` when another one is under way, `Secret` when it cannot be opened, or as the store. What was read by then is not read again.
pub fn scrub(job: ScrubJob<'_>, progress: &mut dyn FnMut(Scrubbing)) -> Result<Scrubbed> {
    let lock =
        ScrubLock::try_acquire(job.root, job.id).map_err(|e| VolumeError::io(&job.root.health(), &e))?;
    let Some(_lock) = lock else {
        let what =
            format!("another scrub of volume {:?}, or of one that shares its store, is under way", job.name);
        return Err(VolumeError::new(Exit::Busy, what));
    };
    let interrupted = Notes::of(job.root, job.id).scrub.under_way;
    let under_way = interrupted.filter(|before| before.started.saturating_add(STALE) > now_ms());
    let under_way = under_way.unwrap_or_else(|| UnderWay { started: now_ms(), ..UnderWay::default() });
    let mut round = Round { job, under_way, noted: Instant::now(), news: Vec::new(), faults: Vec::new() };
    let mut tries = 0;
    loop {
        let before = round.under_way.blocks;
        match go_on(&mut round, progress) {
            Ok(Some(report)) => return Ok(round.end(report)),
            Ok(None) => {}
            // The server was replaced, or has ended because the volume was unmounted.
            Err(e) if e.exit == Exit::Failure && !e.silent && tries < MOST => {
                log::info!("the scrub goes on: {e}");
            }
            Err(e) => {
                round.note(|_| {});
                return Err(e);
            }
        }
        tries = if round.under_way.blocks > before { 0 } else { tries + 1 };
        if tries > MOST {
            round.note(|_| {});
            let what = format!(
                "volume {:?} is opened and closed all the time; the scrub goes on another time",
                job.name
            );
            return Err(VolumeError::new(Exit::Busy, what));
        }
        sleep(AGAIN);
    }
}
