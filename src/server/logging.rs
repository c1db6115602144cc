//! Where messages go.

use env_logger::{Builder, Env, Target, WriteStyle};
use log::LevelFilter;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A log of this size is put aside when a server starts.
const MAX_LOG_BYTES: u64 = 8 << 20;

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
        .write_style(WriteStyle::Never);
    builder.parse_env(Env::new().filter("LARDER_LOG"));
    builder
}

/// Messages of a command: to stderr, and only what matters.
pub fn log_to_stderr(verbose: u8, quiet_level: LevelFilter) {
    let mut builder = builder(verbose);
    if verbose == 0 {
        builder.filter_level(quiet_level);
        builder.parse_env(Env::new().filter("LARDER_LOG"));
    }
    let _ = builder.target(Target::Stderr).try_init();
}

/// Messages of a server: appended to a file, of which one older one is kept.
///
/// # Errors
/// When the file cannot be written.
pub fn log_to_file(path: &Path, verbose: u8) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let _ = builder(verbose).target(Target::Pipe(Box::new(file))).try_init();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}
