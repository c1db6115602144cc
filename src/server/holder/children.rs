//! The servers that a holder starts.

use super::super::identity;
use super::link::{Link, ToServer};
use super::program::Program;
use super::watch::is_kept;
use super::{HolderOptions, LONGEST_START, MARGIN, TICK, wait_longer};
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to have room for a message, if it can run: it reads all that it is given before it does anything else.
pub(super) const LONGEST_SEND: Duration = Duration::from_secs(60);

/// A server's process.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
}

impl From<process::Child> for Child {
    fn from(process: process::Child) -> Self {
        Self { process }
    }
}

impl Child {
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        // Nobody else takes note of its end: the number is its own until then.
        if let Err(e) = kill(Pid::from_raw(self.id().cast_signed()), signal) {
            log::debug!("signal {signal} to the server: {e}");
        }
    }

    /// Tells it to unmount and to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends it something of what it begins with, for as long as it is kept from reading that; systemd, if it waits for this process
    /// meanwhile, is asked to wait longer.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub(super) fn give(
        &self,
        link: &Link,
        message: &ToServer,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let until = Instant::now() + LONGEST_START;
        loop {
            match link.send(message, file) {
                Err(e)
                    if e.kind() == io::ErrorKind::TimedOut
                        && Instant::now() < until
                        && is_kept(self.id()) =>
                {
                    log::warn!(
                        "process {} cannot begin to serve: it waits for a CPU or for the disk",
                        self.id()
                    );
                    wait_longer(LONGEST_SEND + MARGIN);
                }
                other => return other,
            }
        }
    }

    /// Whether it has ended, which is taken note of.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Takes note of its end, which on a busy host comes a while after its files are closed. One that hangs in the kernel is not
    /// waited for.
    pub(super) fn reap(&mut self) -> Departure {
        const PATIENCE_MS: u64 = 2000;
        for _ in 0..PATIENCE_MS {
            match self.process.try_wait() {
                Ok(Some(status)) => return Departure(Some(status)),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => {
                    log::debug!("cannot wait for the server: {e}");
                    break;
                }
            }
        }
        Departure(None)
    }
}

/// How a server ended, if it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure(Option<ExitStatus>);

impl Departure {
    /// Whether somebody else killed it, or the kernel because memory ran out: no fault of the server's.
    pub(super) fn was_killed(self) -> bool {
        self.0.is_none_or(|status| status.signal() == Some(Signal::SIGKILL as i32))
    }

    /// Whether something that it did was the end of it.
    pub(super) fn was_crash(self) -> bool {
        const CRASHES: [Signal; 7] = [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGABRT,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ];
        let signal = self.0.and_then(|status| status.signal());
        signal.is_some_and(|signal| CRASHES.iter().any(|crash| *crash as i32 == signal))
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            None => f.write_str("it has not gone yet"),
        }
    }
}

/// Starts a server, which waits to be told what it serves.
///
/// # Errors
/// As fork(2) and execve(2).
pub(super) fn spawn(
    program: &Program,
    options: &HolderOptions,
    oom_score: Option<i32>,
) -> Result<(Child, Link)> {
    let failed = |e: std::io::Error| VolumeError::new(Exit::Failure, format!("cannot start the server: {e}"));
    let (link, socket) = Link::pair(TICK).map_err(failed)?;
    link.limit_sending(LONGEST_SEND).map_err(failed)?;
    let mut command = program.command();
    command
        .arg("--root")
        .arg(options.root.path())
        .args(std::iter::repeat_n("-v", usize::from(options.verbose)))
        .arg("serve")
        .arg(options.store.to_string())
        .arg("--held")
        .arg("--cache-size")
        .arg(options.cache_bytes.to_string())
        .args((!options.log_to_file).then_some("--log-to-stderr"))
        .args(oom_score.map(|score| format!("--oom-score={score}")))
        .current_dir("/")
        // What systemd says to this process is not meant for the server.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(if options.log_to_file { Stdio::null() } else { Stdio::inherit() });
    if let Some(argument) = identity::own_argument() {
        command.arg0(argument);
    }
    let process = command.spawn().map_err(failed)?;
    Ok((Child { process }, link))
}
