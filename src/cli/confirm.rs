//! Asking before something is removed.

use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use std::io::{self, IsTerminal, Write};

/// Asks somebody whether to go on.
///
/// # Errors
/// When nobody answers: there is no terminal, and nothing was written to standard input either (`yes | larder prune`).
pub(super) fn confirm(question: &str) -> Result<bool> {
    let failed = |e: io::Error| VolumeError::new(Exit::HostIo, format!("cannot ask: {e}"));
    eprint!("{question} [y/N] ");
    io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer).map_err(failed)? == 0 {
        eprintln!();
        if !io::stdin().is_terminal() {
            let what = "nothing was removed: there is no terminal to ask on; --force removes without asking";
            return Err(VolumeError::new(Exit::Failure, what));
        }
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
