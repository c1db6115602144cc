//! The program of this process, as it is called and as it is started once more, whatever has become of its file.
//!
//! A holder or a server of the smaller program (`cli/smaller.rs`) stands for `larder`, and has the file of that open: this is what it
//! starts, and what it says that it is.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `larder` that this process stands for, if it is of another program.
static LARDER: OnceLock<File> = OnceLock::new();

/// This process stands for this `larder`.
pub fn stand_for(larder: File) {
    LARDER.get_or_init(|| larder);
}

/// What has to stay open for that.
pub(super) fn kept() -> Option<RawFd> {
    LARDER.get().map(AsRawFd::as_raw_fd)
}

fn link() -> Option<String> {
    kept().map(|fd| format!("/proc/self/fd/{fd}"))
}

/// Where it is.
///
/// # Errors
/// As readlink(2).
pub(super) fn path() -> io::Result<PathBuf> {
    match link() {
        Some(link) => fs::read_link(link),
        None => env::current_exe(),
    }
}

/// A command that runs it.
pub(super) fn command() -> Command {
    Command::new(link().unwrap_or_else(|| "/proc/self/exe".into()))
}
