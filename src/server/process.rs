//! What a background process takes from whoever started it, and must not: limits, signals, open files.

use super::own_program;
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that a server has open in the worst case are segments, a few of each mount and of each client.
const FILES: u64 = 1 << 20;
/// With fewer, many mounts and clients do not work.
const FEW_FILES: u64 = 256;
/// Where files may not grow to this size, in bytes, a store cannot be written to for long.
const FILE_SIZE: u64 = 1 << 40;

/// Whether this process was told to end, by SIGTERM, SIGINT or SIGHUP.
#[derive(Clone, Debug, Default)]
pub struct ToldToEnd {
    told: Arc<AtomicBool>,
    /// Can be read from when it was.
    orders: Option<Arc<Orders>>,
}

/// The signals that tell this process to end, for whoever waits for other things as well. One descriptor does for all of them: each process of
/// each volume has it.
#[derive(Debug)]
pub struct Orders(Arc<EventFd>);

impl Orders {
    /// From now on, SIGTERM, SIGINT and SIGHUP can be waited for here, and do nothing else.
    ///
    /// # Errors
    /// As eventfd(2) and sigaction(2).
    pub fn listen() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let counter = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let counter = Arc::clone(&counter);
            let count = move || {
                let _ = counter.write(1);
            };
            #[expect(unsafe_code, reason = "signal-hook cannot know what a handler does")]
            // SAFETY: all that it does is write(2), which a handler may do; errno is kept by who calls it.
            unsafe {
                signal_hook::low_level::register(signal, count)?;
            }
        }
        Ok(Self(counter))
    }

    /// Whether one came since this was last asked.
    pub(super) fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ToldToEnd {
    /// From now on, these signals are noted and do nothing else. To be called before anybody hears that this process is ready: until
    /// then, they end it.
    pub fn listen() -> Self {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&told)) {
                log::warn!("signal {signal}: {e}");
            }
        }
        let orders = Orders::listen().inspect_err(|e| log::warn!("cannot wait for signals: {e}"));
        Self { told, orders: orders.ok().map(Arc::new) }
    }

    /// What can be read from when it is told; without it, it has to be looked now and then.
    pub(super) fn orders(&self) -> Option<&Orders> {
        self.orders.as_deref()
    }

    /// As if it had been told.
    #[cfg(test)]
    pub(super) fn already() -> Self {
        Self { told: Arc::new(AtomicBool::new(true)), orders: None }
    }

    /// Whether it was told since that was last [taken](Self::take) note of.
    pub fn is_so(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Whether it was told since this was last asked.
    pub fn take(&self) -> bool {
        if let Some(orders) = &self.orders {
            orders.take();
        }
        self.told.swap(false, Ordering::Relaxed)
    }
}

/// Makes this process one that nothing of its starter's holds back. To be called once, before anything is opened and before other
/// threads are started. What the system does not allow is left as it is.
pub fn detach() {
    close_inherited();
    shed_limits();
}

/// The same, without what is open: for a process that stays where it was started. Before other threads are started.
pub fn shed_limits() {
    lift_limits();
    reset_signals();
}

/// Closes what was open where this process was started: a lock that is held by it, or the reader of a pipe, would be for as long as
/// the volume is mounted.
#[expect(unsafe_code, reason = "files that nothing in this process owns")]
fn close_inherited() {
    // What it was started for, which is all that it has opened itself.
    let kept = own_program::kept().and_then(|fd| libc::c_uint::try_from(fd).ok());
    let ranges = match kept {
        Some(kept) => vec![(3, kept - 1), (kept + 1, libc::c_uint::MAX)],
        None => vec![(3, libc::c_uint::MAX)],
    };
    let close = |(first, last): &(libc::c_uint, libc::c_uint)| {
        // SAFETY: nothing else was opened in this process yet, so that no file but the first three belongs to anything in it.
        first > last || unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) } == 0
    };
    if ranges.iter().all(close) {
        return;
    }
    // Before Linux 5.9, or where a filter does not know the call.
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && Some(*fd) != own_program::kept()) {
        // SAFETY: as above; the one that was used to list them is closed already, and closing it again is an error that does nothing.
        unsafe { libc::close(fd) };
    }
}

/// Lifts the limits whose violation would end this process, or make its writes fail.
fn lift_limits() {
    for resource in [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU, Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
    {
        raise(resource, RLIM_INFINITY);
    }
    // Whose pages are locked, so that requests can be read into them at any time: see `fuse/device.rs`.
    raise(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY);
    // More than the kernel allows for any process is an error.
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    raise(Resource::RLIMIT_NOFILE, most.unwrap_or(FILES).min(FILES));
}

/// Raises a limit to `to`, or as far as it may be.
fn raise(resource: Resource, to: u64) {
    let Ok((soft, hard)) = getrlimit(resource) else { return };
    if soft >= to {
        return;
    }
    // Only root may raise the second.
    let raised = setrlimit(resource, to, hard.max(to)).or_else(|_| setrlimit(resource, hard.min(to), hard));
    if let Err(e) = raised {
        log::warn!("{resource:?}: {e}; it stays {soft}");
    }
}

/// Whether the limits that could not be lifted let a store be served. Those that may only be felt later are named in the log.
///
/// # Errors
/// When they do not.
pub fn check_limits() -> Result<()> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft < FEW_FILES => {
            log::warn!("only {soft} files can be open (`ulimit -n`), and raising that is not allowed");
        }
        _ => {}
    }
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((soft, _)) if soft < FILE_SIZE => Err(VolumeError::new(
            Exit::Failure,
            format!(
                "files may not become larger than {soft} bytes here (`ulimit -f`), and raising that is not allowed; mount from \
                 where it is unlimited"
            ),
        )),
        _ => Ok(()),
    }
}

/// Signals do here what they do by default, except those that a limit sends: what was refused is an error already.
#[expect(unsafe_code, reason = "nix cannot know what a handler does")]
fn reset_signals() {
    let set = |signal, handler| {
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed that could do anything.
        unsafe { sigaction(signal, &action) }.map(drop)
    };
    let results = [
        set(Signal::SIGXFSZ, SigHandler::SigIgn),
        set(Signal::SIGXCPU, SigHandler::SigIgn),
        // Ignored, children would be gone before anybody asked how they ended.
        set(Signal::SIGCHLD, SigHandler::SigDfl),
        SigSet::empty().thread_set_mask(),
    ];
    for e in results.into_iter().filter_map(nix::Result::err) {
        log::debug!("signals: {}", io::Error::from(e));
    }
}
