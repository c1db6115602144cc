//! The program of this process, as it is called and as it is started once more, whatever has become of its file.
//!
//! A holder or a server of the smaller program (`cli/smaller.rs`) stands for `larder`, and has the file of that open: this is what it
//! starts, and what it says that it is. Nobody executes that file, so that it can be written over where it lies: what is in it then is
//! another program, and the smaller one goes on by itself.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A `larder` that a process of another program stands for.
struct Larder {
    file: File,
    /// Its length and when it was written last, as it was found: unlike the time of change, they stay when it is replaced or removed.
    stamp: (u64, i64, i64),
    /// The variable with which the other program goes on without it.
    again: (&'static str, String),
}

static LARDER: OnceLock<Larder> = OnceLock::new();

fn stamp(file: &File) -> io::Result<(u64, i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// This process stands for this `larder`. Should that be written over, its program is started with the variable `again`.
///
/// # Errors
/// As fstat(2).
pub fn stand_for(larder: File, again: (&'static str, String)) -> io::Result<()> {
    let stamp = stamp(&larder)?;
    LARDER.get_or_init(|| Larder { file: larder, stamp, again });
    Ok(())
}

/// What has to stay open for that.
pub(super) fn kept() -> Option<RawFd> {
    LARDER.get().map(|larder| larder.file.as_raw_fd())
}

impl Larder {
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    fn is_as_it_was(&self) -> bool {
        stamp(&self.file).is_ok_and(|now| now == self.stamp)
    }
}

/// Where it is.
///
/// # Errors
/// As readlink(2).
pub(super) fn path() -> io::Result<PathBuf> {
    LARDER.get().map_or_else(env::current_exe, |larder| fs::read_link(larder.link()))
}

/// A command that runs it.
pub(super) fn command() -> Command {
    let larder = LARDER.get();
    if let Some(as_it_was) = larder.filter(|larder| larder.is_as_it_was()) {
        return Command::new(as_it_was.link());
    }
    let mut command = Command::new("/proc/self/exe");
    if let Some(Larder { again: (name, value), .. }) = larder {
        command.env(name, value);
    }
    command
}
