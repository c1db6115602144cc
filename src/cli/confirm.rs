//! Asking before something is removed.

use super::output::is_for_programs;
use crate::exit_code::Exit;
use crate::printable::printable;
use crate::volume::{Result, VolumeError};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};

/// Whether somebody is at a terminal who can be asked.
pub(super) fn is_attended() -> bool {
    io::stdin().is_terminal()
}

/// Where whoever answers reads the question: on the terminal, also where errors go elsewhere.
fn asked_on() -> Box<dyn Write> {
    if io::stdin().is_terminal()
        && !io::stderr().is_terminal()
        && let Ok(terminal) = OpenOptions::new().write(true).open("/dev/tty")
    {
        return Box::new(terminal);
    }
    Box::new(io::stderr())
}

/// Whether somebody reads questions: with `--json`, and without a terminal, only programs read what is said.
pub(super) fn is_read() -> bool {
    is_attended() || !is_for_programs()
}

/// Says what somebody should know before the question.
pub(super) fn say(line: &str) {
    if !is_read() {
        return;
    }
    let _ = writeln!(asked_on(), "{}", printable(line));
}

/// Asks somebody whether to go on.
///
/// # Errors
/// When nobody answers: there is no terminal, and nothing was written to standard input either (`yes | larder prune`).
pub(super) fn confirm(question: &str) -> Result<bool> {
    let failed = |e: io::Error| VolumeError::new(Exit::HostIo, format!("cannot ask: {e}"));
    let mut out: Box<dyn Write> = if is_read() { asked_on() } else { Box::new(io::sink()) };
    write!(out, "{question} [y/N] ").and_then(|()| out.flush()).map_err(failed)?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer).map_err(failed)? == 0 {
        let _ = writeln!(out);
        if !io::stdin().is_terminal() {
            let what = "nothing was removed: there is no terminal to ask on; --force removes without asking";
            return Err(VolumeError::new(Exit::Failure, what));
        }
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The error of who answers no.
pub(super) fn refused() -> VolumeError {
    VolumeError::new(Exit::Failure, "nothing was removed")
}
