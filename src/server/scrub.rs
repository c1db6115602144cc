//! Looking at a store while it is served, for what takes long and nobody waits for, and for what messages about damage name.

use super::serve::Server;
use crate::exit_code::Exit;
use crate::meta::Inspector;
use crate::open_store::OpenStore;
use crate::scheduling::be_gentle;
use crate::volume::check::{Access, Ended, Report, Step, Survey};
use crate::volume::{FoundFiles, Pace, Result, Sought, VolumeError, find};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, scope, sleep};
use std::time::{Duration, Instant};

/// The way to a store that this process has open.
struct Online<'a> {
    store: &'a Arc<OpenStore>,
    pace: Pace,
    /// When the last batch began.
    began: Instant,
}

impl Access for Online<'_> {
    fn next(&mut self, read_bytes: u64) -> Result<bool> {
        sleep(self.pace.rest(read_bytes, self.began.elapsed()));
        self.began = Instant::now();
        Ok(true)
    }

    /// What is given back to the host was freed by a commit that is on the disk: this look sees it.
    fn look(&mut self) -> Result<Inspector> {
        Ok(self.store.meta().inspector()?)
    }
}

impl Server {
    /// Checks the metadata as of the last commit, and then reads everything behind segment `after`, while the store is in use. `step` is
    /// told how far it is, and says whether to go on.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(super) fn scrub(
        &self,
        after: u64,
        pace: Pace,
        step: &mut (dyn FnMut(Step) -> bool + Send),
    ) -> Result<Report> {
        let failed = |e: std::io::Error| VolumeError::new(Exit::Failure, e.to_string());
        scope(|scope| {
            // The thread of the connection answers what is asked next as fast as ever.
            let thread = Builder::new().name("larder-scrub".into());
            let scrub = thread.spawn_scoped(scope, || {
                be_gentle();
                self.survey_and_read(after, pace, step)
            });
            let ended = scrub.map_err(failed)?.join();
            ended.unwrap_or_else(|_| {
                Err(VolumeError::new(Exit::Failure, "the scrub was cut short; see the log"))
            })
        })
    }

    fn survey_and_read(&self, after: u64, pace: Pace, step: &mut dyn FnMut(Step) -> bool) -> Result<Report> {
        let store = self.store();
        let survey = self.at_last_commit(|inspector| {
            // Until everything is known, whoever asked hears that it goes on.
            let mut told = Instant::now();
            let mut beat = |_| {
                if told.elapsed() >= Duration::from_secs(1) {
                    told = Instant::now();
                    step(Step { after, done: 0, total: 0, found: Report::default() });
                }
            };
            Ok(Survey::make(inspector, store.segments(), true, &mut beat))
        })?;
        let mut access = Online { store, pace, began: Instant::now() };
        let (ended, report) = survey.read_on(store.segments(), after, &mut access, step)?;
        match ended {
            // The report says why nothing was read.
            Ended::Complete | Ended::Blind => Ok(report),
            Ended::Stopped | Ended::Taken => Err(VolumeError::new(Exit::Failure, "the scrub was stopped")),
        }
    }

    /// Calls `look` with the last commit, which has all that was changed so far. What is freed meanwhile stays where it is.
    pub(super) fn at_last_commit<T>(&self, look: impl FnOnce(&mut Inspector) -> Result<T>) -> Result<T> {
        let store = self.store();
        store
            .commit_now()
            .map_err(|e| VolumeError::new(Exit::HostIo, format!("cannot commit before the check: {e}")))?;
        let _hold = store.hold_freed();
        let mut inspector = store.meta().inspector()?;
        // It may see the beginning of another commit, whose blocks are not in their files yet.
        let io = |(path, e): (PathBuf, std::io::Error)| VolumeError::io(&path, &e);
        store.segments().write_deferred().map_err(io)?;
        look(&mut inspector)
    }

    /// Which files have a block or an inode number.
    ///
    /// # Errors
    /// As the metadata.
    pub(super) fn find(&self, volume: &str, sought: Sought) -> Result<FoundFiles> {
        // A store that takes no changes has damage to be looked for, too.
        if let Err(e) = self.store().commit_now() {
            log::debug!("committing before something is looked for: {e}");
        }
        let inspector = self.store().meta().inspector()?;
        find(&inspector, volume, sought)
    }
}
