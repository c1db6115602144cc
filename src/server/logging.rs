//! Where messages go.
//!
//! Those of a server go to the journal of systemd where there is one, with the store and its volumes as fields, and otherwise to a file
//! of the store's; what is written to a stderr that is the journal's goes there with the same fields.

mod file;
mod journal;
mod limit;

use super::identity;
use crate::printable::printable;
use crate::root::Root;
use crate::store::StoreId;
use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use file::{LogFile, MAX_LOG_BYTES};
use journal::Journal;
use limit::Limited;
use log::{LevelFilter, Log, Metadata, Record};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

/// The target of messages that are parts of one report: none of them is left out, however many there are.
pub(super) const WHOLE: &str = limit::WHOLE;
/// `file` keeps messages from the journal.
const WHERE: &str = "LARDER_LOG_TO";

/// Whether messages may go to the journal.
fn may_be_journal() -> bool {
    std::env::var(WHERE).map_or(true, |to| to != "file")
}

/// Where the messages of a store's servers are, in words of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// In the journal.
    Journal(StoreId),
    /// In this file, and in those beside it that it was before it became too long.
    File(PathBuf),
}

impl Logged {
    /// Those of a store.
    pub fn of(root: &Root, store: StoreId) -> Self {
        match may_be_journal() && Journal::open().is_some() {
            true => Self::Journal(store),
            false => Self::File(root.log(store)),
        }
    }
}

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(store) => write!(f, "journalctl LARDER_STORE={store}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The lines of a message, each for itself: none that a name has forged begins like a message.
fn lines(record: &Record<'_>) -> Vec<String> {
    let message = record.args().to_string();
    message.trim_end().split('\n').map(|line| printable(line).into_owned()).collect()
}

fn builder(verbose: u8) -> Builder {
    let level = match verbose {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = Builder::new();
    // fuser says a line for every request at debug level.
    builder
        .filter_level(level)
        .filter_module("fuser", level.min(LevelFilter::Warn))
        .write_style(WriteStyle::Never)
        .format(|out, record| {
            let (time, level, target) = (out.timestamp_millis(), record.level(), record.target());
            writeln!(out, "[{time} {level:<5} {target}] {}", lines(record).join("\n    "))
        });
    builder.parse_env(Env::new().filter("LARDER_LOG"));
    builder
}

/// A logger whose messages go to the journal, as far as it takes them.
struct Journaled {
    journal: Option<Journal>,
    otherwise: Logger,
}

impl Log for Journaled {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.otherwise.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let is_told =
            |journal: &Journal| journal.send(record, &lines(record).join("\n"), &identity::own()).is_ok();
        if self.otherwise.matches(record) && !self.journal.as_ref().is_some_and(is_told) {
            self.otherwise.log(record);
        }
    }

    fn flush(&self) {
        self.otherwise.flush();
    }
}

/// The logger of this process.
static LOGGER: OnceLock<Limited<Journaled>> = OnceLock::new();

/// From here on, this logger has everything. There can be one in a process.
fn install(mut builder: Builder, journal: Option<Journal>) {
    let logger = builder.build();
    let level = logger.filter();
    let logger = LOGGER.get_or_init(|| Limited::new(Journaled { journal, otherwise: logger }));
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Says how many messages were left out because they were too many of a kind, as soon as there may be more of that kind, or at the end
/// of the process.
pub fn say_left_out(is_end: bool) {
    if let Some(logger) = LOGGER.get() {
        logger.say_left_out(Instant::now(), is_end);
    }
}

/// Messages of a command: to stderr, and only what matters.
pub fn log_to_stderr(verbose: u8, quiet_level: LevelFilter) {
    let mut builder = builder(verbose);
    if verbose == 0 {
        builder.filter_level(quiet_level);
        builder.parse_env(Env::new().filter("LARDER_LOG"));
    }
    builder.target(Target::Stderr);
    install(builder, may_be_journal().then(Journal::of_stderr).flatten());
}

/// A file that is opened when something is to be written to it.
struct Later {
    path: PathBuf,
    file: Option<LogFile>,
}

impl Write for Later {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.file.insert(LogFile::open(&self.path, MAX_LOG_BYTES)?).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages of a server: to the journal; where there is none, or it does not take one, appended to a file, of which two older ones
/// are kept.
///
/// # Errors
/// When there is no journal and the file cannot be written.
pub fn log_to_file(path: &Path, verbose: u8) -> io::Result<()> {
    let journal = may_be_journal().then(Journal::open).flatten();
    let file = journal.is_none().then(|| LogFile::open(path, MAX_LOG_BYTES)).transpose()?;
    let mut builder = builder(verbose);
    builder.target(Target::Pipe(Box::new(Later { path: path.to_owned(), file })));
    install(builder, journal);
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}
