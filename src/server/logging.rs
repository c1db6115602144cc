//! Where messages go.

mod file;
mod limit;

use crate::printable::printable;
use env_logger::{Builder, Env, Target, WriteStyle};
use file::{LogFile, MAX_LOG_BYTES};
use limit::Limited;
use log::LevelFilter;
use std::io::{self, Write};
use std::path::Path;

/// The target of messages that are parts of one report: none of them is left out, however many there are.
pub(super) const WHOLE: &str = limit::WHOLE;

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
            let message = record.args().to_string();
            // Each line for itself: none that a name has forged begins like a message.
            let lines: Vec<_> = message.trim_end().split('\n').map(printable).collect();
            let (time, level, target) = (out.timestamp(), record.level(), record.target());
            writeln!(out, "[{time} {level:<5} {target}] {}", lines.join("\n    "))
        });
    builder.parse_env(Env::new().filter("LARDER_LOG"));
    builder
}

/// From here on, this logger has everything. There can be one in a process.
fn install(mut builder: Builder) {
    let logger = builder.build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(Limited::new(logger))).is_ok() {
        log::set_max_level(level);
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
    install(builder);
}

/// Messages of a server: appended to a file, of which one older one is kept.
///
/// # Errors
/// When the file cannot be written.
pub fn log_to_file(path: &Path, verbose: u8) -> io::Result<()> {
    let file = LogFile::open(path, MAX_LOG_BYTES)?;
    let mut builder = builder(verbose);
    builder.target(Target::Pipe(Box::new(file)));
    install(builder);
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}
