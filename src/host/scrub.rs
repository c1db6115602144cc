//! Scrubbing a store: reading everything in it, whether a server has it open or not, and going on after an interruption.

use super::ask::Question;
use super::health::{hides_names, reasons_of};
use super::secret::Secrets;
use crate::exit_code::Exit;
use crate::health::{self, Notes, ScrubLock, UnderWay, now, now_ms, update};
use crate::root::Root;
use crate::server::ScrubUpdate;
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
/// Servers that may die without any progress between them: it is what they do for this that they die of, perhaps.
const DEATHS: u32 = 2;
/// Faults that are listed.
const LISTED: usize = 1000;
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
    /// What is wrong, as far as it was found since the last interruption, and is listed.
    pub faults: Vec<Fault>,
    /// Whether contents were read: not if the metadata do not say where they are.
    pub has_read: bool,
}

/// How far somebody has come with it.
enum Turn {
    /// To the end, with a report of the metadata.
    Complete(Report),
    /// A server has come or gone.
    Interrupted,
    /// Servers have died.
    Deadly,
}

/// The servers that were asked.
#[derive(Default)]
struct Servers {
    /// How many there were before the last one that was asked.
    takeovers: Option<u32>,
    /// So many died, and none of them got further than to so many blocks.
    deaths: u32,
    furthest: u64,
}

impl Servers {
    /// One is about to be asked that took over from so many, when so many blocks were read. Whether that makes sense.
    fn ask(&mut self, takeovers: u32, blocks: u64) -> bool {
        if blocks > self.furthest {
            (self.furthest, self.deaths) = (blocks, 0);
        }
        // Those of another holder are counted anew.
        if self.takeovers.replace(takeovers).is_some_and(|before| before < takeovers) {
            self.deaths += 1;
        }
        self.deaths <= DEATHS
    }
}

/// A scrub that is under way.
struct Round<'a> {
    job: ScrubJob<'a>,
    under_way: UnderWay,
    noted: Instant,
    /// What is new since then.
    news: Report,
    /// What was found by this process.
    faults: Vec<Fault>,
    servers: Servers,
}

impl Round<'_> {
    /// Takes note of a step. What was found is kept at once.
    fn step(&mut self, after: u64, (done, total): (u64, u64), found: Report) {
        let is_news = !found.is_clean();
        self.find(found);
        (self.under_way.at, self.under_way.after) = (now_ms(), after);
        (self.under_way.blocks, self.under_way.total) = (done, total);
        if is_news || self.noted.elapsed() >= NOTE_EVERY {
            self.note();
        }
    }

    /// Takes note of what was found.
    fn find(&mut self, found: Report) {
        // The clock may have been set back: what this finds was not found before it began.
        self.under_way.started = self.under_way.started.min(now_ms());
        self.under_way.faults += found.faults.len() as u64 + found.more_faults;
        for (volume, blocks) in found.damaged() {
            *self.under_way.damaged.entry(volume).or_default() += blocks;
        }
        self.news.faults.extend(found.faults);
        self.news.more_faults += found.more_faults;
        self.news.more_damaged += found.more_damaged;
        for (volume, more) in found.more_in {
            *self.news.more_in.entry(volume).or_default() += more;
        }
    }

    /// Keeps what was found, and how far it is.
    fn note(&mut self) {
        let under_way = Some(self.under_way.clone());
        self.note_with(|_| {}, move |notes| notes.scrub.under_way = under_way);
    }

    /// Keeps what was found, and what else changes in the notes before and after that.
    fn note_with(&mut self, before: impl FnOnce(&mut Notes), after: impl FnOnce(&mut Notes)) {
        self.noted = Instant::now();
        let report = std::mem::take(&mut self.news);
        let hides_names = hides_names(self.job.root, self.job.id);
        let noted = update(self.job.root, self.job.id, |notes| {
            before(notes);
            reasons_of(&report, hides_names).into_iter().for_each(|reason| notes.note(reason));
            after(notes);
        });
        let room = LISTED.saturating_sub(self.faults.len());
        self.faults.extend(report.faults.into_iter().take(room));
        if let Err(e) = noted {
            log::warn!("volume {:?}: noting how far the scrub is: {e}", self.job.name);
        }
    }

    /// It has come to its end.
    fn end(mut self, report: Report) -> Scrubbed {
        let has_read = report.has_seen_metadata();
        let metadata = report.more_faults.saturating_sub(report.more_damaged);
        // A server leaves out steps, perhaps the last ones: to the end, everything was read.
        if has_read {
            self.under_way.blocks = report.blocks;
        }
        self.find(report);
        let UnderWay { started, blocks, faults, damaged, .. } = self.under_way.clone();
        let scrub = health::Scrubbed { started: started / 1000, finished: now(), blocks, faults };
        let last = scrub.clone();
        let forget = |notes: &mut Notes| {
            if has_read {
                // What was found since it began is noted by now, and all else is over.
                notes.all_was_read(started);
            }
        };
        let count = |notes: &mut Notes| {
            notes.scrub.under_way = None;
            if has_read {
                notes.count(&damaged, metadata);
                notes.scrub.last = Some(last);
            }
        };
        self.note_with(forget, count);
        Scrubbed { scrub, faults: self.faults, has_read }
    }
}

/// Goes on until all is read, or until a server has come or gone.
fn go_on(round: &mut Round<'_>, progress: &mut dyn FnMut(Scrubbing)) -> Result<Turn> {
    let ScrubJob { root, name, secret, rate, .. } = round.job;
    let state = RefCell::new((round, progress));
    let after = || state.borrow().0.under_way.after;
    let step = |after, done, total, found| {
        let (round, progress) = &mut *state.borrow_mut();
        // Nothing is known before the metadata have been looked at.
        if total > 0 {
            round.step(after, (done, total), found);
            progress(Scrubbing { done, total });
        }
        true
    };
    let is_safe = |takeovers| {
        let (round, _) = &mut *state.borrow_mut();
        round.servers.ask(takeovers, round.under_way.blocks)
    };
    let ended = |report: Option<Report>| report.map_or(Turn::Interrupted, Turn::Complete);
    Question::reading(root, name, Some(secret)).ask(
        |client| {
            if !is_safe(client.status()?.takeovers) {
                return Ok(Turn::Deadly);
            }
            let scrubbed = client.scrub(after(), rate, &mut |update| {
                let ScrubUpdate { after, done, total, faults, more, more_in } = update;
                let found =
                    Report { faults, more_faults: more, more_damaged: more, more_in, ..Report::default() };
                step(after, done, total, found)
            });
            scrubbed.map(ended)
        },
        |id, keys| {
            let mut step = |at: Step| step(at.after, at.done, at.total, at.found);
            let (how, report) = scrub_offline((root, id, name), keys, (after(), Pace { rate }), &mut step)?;
            Ok(ended(matches!(how, Ended::Complete | Ended::Blind).then_some(report)))
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
    let (news, faults, servers) = (Report::default(), Vec::new(), Servers::default());
    let mut round = Round { job, under_way, noted: Instant::now(), news, faults, servers };
    let (mut tries, mut furthest) = (0, 0);
    loop {
        match go_on(&mut round, progress) {
            Ok(Turn::Complete(report)) => return Ok(round.end(report)),
            Ok(Turn::Interrupted) => {}
            Ok(Turn::Deadly) => {
                round.note();
                let (name, deaths) = (job.name, DEATHS + 1);
                let what = format!(
                    "the scrub is given up: {deaths} servers have died while they read volume {name:?} at the same place; \
                     `larder logs {name}` may say why. While the volume is unmounted, it is read without a server"
                );
                return Err(VolumeError::new(Exit::Failure, what));
            }
            // The server was replaced, or has ended because the volume was unmounted.
            Err(e) if e.exit == Exit::Failure && !e.silent && tries < MOST => {
                log::info!("the scrub goes on: {e}");
            }
            Err(e) => {
                round.note();
                return Err(e);
            }
        }
        tries = if round.under_way.blocks > furthest { 0 } else { tries + 1 };
        furthest = furthest.max(round.under_way.blocks);
        if tries > MOST {
            round.note();
            let what = format!(
                "volume {:?} keeps being opened and closed; the scrub continues another time",
                job.name
            );
            return Err(VolumeError::new(Exit::Busy, what));
        }
        sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_servers_are_asked_when_some_have_died_of_it() {
        let mut servers = Servers::default();
        // The first one; it goes on asking it, and one that was started anew.
        assert!(servers.ask(1, 0) && servers.ask(1, 0) && servers.ask(0, 0));
        assert!(servers.ask(1, 7) && servers.ask(2, 7));
        // The next ones get further than those before, and then none of them.
        assert!(servers.ask(3, 70) && servers.ask(4, 69));
        assert!(!servers.ask(5, 70));
    }
}
