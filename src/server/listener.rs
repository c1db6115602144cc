//! The server's end of the control socket.

use super::client::with_socket_path;
use super::control::{Channel, CheckUpdate, Reply, Request};
use super::serve::{Server, Visit};
use crate::backing::listen_private;
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::volume::check::{Progress, Step};
use crate::volume::{FoundFiles, Pace, VolumeError, reencrypt};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whoever asks and does not read the answer for so long is not waited for any more.
const LISTENS: Duration = Duration::from_secs(60);

/// Binds the control socket of the store in `store`. The caller holds the store's lock, so that a socket that is there
/// is a dead server's.
pub(super) fn bind(store: &Path) -> io::Result<UnixListener> {
    let listener = with_socket_path(store, |path| {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        listen_private(path)
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The control socket as another server left it. Who connects from now on sees this process as its server.
pub(super) fn inherit(socket: OwnedFd) -> io::Result<UnixListener> {
    use nix::sys::socket::{Backlog, listen};
    listen(&socket, Backlog::new(128)?)?;
    let listener = UnixListener::from(socket);
    // One of an earlier version may have left it otherwise.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the control socket.
pub(super) fn unbind(store: &Path) {
    let _ = with_socket_path(store, |path| fs::remove_file(path));
}

/// A connection that waits, if one still does: whoever came can have gone away since. Who accepts them is the main thread, which waits
/// for nobody.
///
/// # Errors
/// As accept(2).
fn waiting(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        // (What is accepted does not inherit that the listener does not wait.)
        Ok((stream, _)) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Somebody who has come, and whom the main thread answers as long as that takes no time.
pub(super) struct Caller {
    visit: Visit,
    channel: Channel,
    /// What is left of the last answer.
    unsent: Vec<u8>,
}

/// What becomes of a caller.
pub(super) enum Attended {
    /// Has been answered, and may ask for more.
    Waits(Caller),
    /// Asks for what may take time.
    Takes(Caller),
    Gone,
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Caller {
    /// Whoever waits to be let in, if somebody does.
    ///
    /// # Errors
    /// As accept(2).
    pub(super) fn let_in(server: &Arc<Server>, listener: &UnixListener) -> io::Result<Option<Self>> {
        let Some(stream) = waiting(listener)? else { return Ok(None) };
        Ok(Some(Self { visit: server.visit(), channel: Channel::new(stream), unsent: Vec::new() }))
    }

    /// Answers what has come, without waiting for anything.
    pub(super) fn attend(mut self) -> Attended {
        loop {
            let reply = match self.channel.first() {
                Some(Request::Alive) => Reply::Done,
                Some(Request::Status) => match self.visit.server().status_now() {
                    Some(status) => {
                        self.visit.passes_by();
                        Reply::Status(Box::new(status))
                    }
                    None => return Attended::Takes(self),
                },
                // It may go on for long.
                Some(_) => return Attended::Takes(self),
                None if self.channel.has_some() => return Attended::Takes(self),
                None => match self.channel.receive_now() {
                    Ok(None) => return Attended::Waits(self),
                    Ok(Some(true)) => continue,
                    Ok(Some(false)) | Err(_) => return Attended::Gone,
                },
            };
            match self.channel.answer_first(&reply) {
                Ok(Some(unsent)) if unsent.is_empty() => {}
                Ok(unsent) => {
                    self.unsent = unsent.unwrap_or_default();
                    return Attended::Takes(self);
                }
                Err(_) => return Attended::Gone,
            }
        }
    }

    /// Answers on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started; then the caller is sent away.
    pub(super) fn hand_on(mut self) -> io::Result<()> {
        self.visit.is_handed_on();
        if let Err(e) = self.channel.set_timeout_of_sending(LISTENS) {
            log::warn!("control socket: {e}");
        }
        let converse = move || converse(&self.visit, self.channel, &self.unsent);
        std::thread::Builder::new().name("larder-control".into()).spawn(converse)?;
        Ok(())
    }
}

fn converse(visit: &Visit, mut channel: Channel, unsent: &[u8]) {
    if channel.send_rest(unsent).is_err() {
        return;
    }
    loop {
        let reply = match channel.receive::<Request>() {
            Ok(Some(request)) => answer(visit, request, &mut channel),
            Ok(None) => return,
            Err(e) => {
                // Where the next request would begin, nobody knows.
                let what = format!("that is not a request of this version: {e}");
                let _ = channel.send(&Reply::from(VolumeError::new(Exit::Usage, what)), None);
                return;
            }
        };
        // A client that is gone needs no answer.
        if channel.send(&reply, None).is_err() {
            return;
        }
    }
}

fn answer(visit: &Visit, request: Request, channel: &mut Channel) -> Reply {
    let server = visit.server();
    if matches!(request, Request::Status) {
        visit.passes_by();
    }
    let result = match request {
        Request::Alive => Ok(Reply::Done),
        Request::Status => server.status().map(|status| Reply::Status(Box::new(status))),
        Request::Mount { volume, dir, options } => match channel.take_file() {
            Some(device) => {
                let dir = crate::mount::path_from_bytes(dir);
                server.mount(&volume, dir, options, device).map(|()| Reply::Done)
            }
            None => Err(VolumeError::new(Exit::Usage, "a mount request without a FUSE device")),
        },
        Request::Remount { volume, options } => server.remount(&volume, options).map(|()| Reply::Done),
        Request::AwaitUnmount { volume, timeout_ms } => {
            server.await_unmount(&volume, Duration::from_millis(timeout_ms)).map(|()| Reply::Done)
        }
        Request::SyncRemote { timeout_ms, keys } => {
            let is_gone = || channel.is_gone();
            server.sync_remote(Duration::from_millis(timeout_ms), keys, &is_gone).map(|()| Reply::Done)
        }
        Request::RemoteChanged => server.remote_changed().map(|()| Reply::Done),
        Request::Alter { alteration } => server.alter(&alteration).map(Reply::Altered),
        Request::Snapshots { volume } => {
            server.snapshots(&volume).map(|snapshots| Reply::Snapshots { snapshots })
        }
        Request::Diff { one, two } => {
            server.diff(&one, &two).map(|differences| Reply::Differences { differences })
        }
        Request::Reencrypt => match channel.take_file() {
            Some(keys) => Subkeys::read_from(File::from(keys))
                .map_err(|e| VolumeError::new(Exit::Failure, e.to_string()))
                .and_then(|keys| {
                    // Before anything is sealed with them: whoever takes over must have them.
                    let kept = server.keeper().keys(&keys);
                    kept.map_err(|e| VolumeError::new(Exit::Failure, format!("cannot keep the keys: {e}")))?;
                    reencrypt(server.store(), keys)
                })
                .map(|()| Reply::Done),
            None => Err(VolumeError::new(Exit::Usage, "a request to re-encrypt without keys")),
        },
        Request::Replace { program } => server.replace(&program).map(|never| match never {}),
        Request::Check { read_data } => {
            let mut last = Instant::now();
            let mut update = |progress: Progress| {
                if last.elapsed() >= Duration::from_millis(200) {
                    last = Instant::now();
                    let Progress { phase, done, total } = progress;
                    let update = CheckUpdate { phase: phase.to_owned(), done, total };
                    let _ = channel.mention(&Reply::Checking(update));
                }
            };
            server.check(read_data, &mut update).map(|report| Reply::Report(Box::new(report)))
        }
        Request::Scrub { after, rate } => {
            let mut last = Instant::now();
            let mut step = |step: Step| {
                let is_news = !step.found.is_clean();
                if !is_news && last.elapsed() < Duration::from_millis(200) {
                    return true;
                }
                last = Instant::now();
                let update = Reply::Scrubbing(step.into());
                let told = if is_news { channel.send(&update, None) } else { channel.mention(&update) };
                // Or nobody wants to know any more.
                told.is_ok()
            };
            server.scrub(after, Pace { rate }, &mut step).map(|report| Reply::Report(Box::new(report)))
        }
        Request::Find { volume, sought } => {
            let found = server.find(&volume, sought);
            found.map(|FoundFiles { found, more }| Reply::Found { found, more })
        }
    };
    result.unwrap_or_else(Reply::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// The main thread waited for the next one, and gave no sign of life meanwhile.
    #[test]
    fn nobody_is_waited_for_who_has_gone_away_before_being_let_in() {
        let tmp = tempfile::tempdir_in("/tmp").unwrap();
        let bound = bind(tmp.path()).unwrap();
        let inherited = inherit(bound.try_clone().unwrap().into()).unwrap();
        // (For the description that both share.)
        bound.set_nonblocking(false).unwrap();
        let inherited = inherit(inherited.into()).unwrap();
        for listener in [bound, inherited] {
            assert!(waiting(&listener).unwrap().is_none());
            let client = with_socket_path(tmp.path(), |path| UnixStream::connect(path)).unwrap();
            let mut stream = waiting(&listener).unwrap().unwrap();
            assert!(waiting(&listener).unwrap().is_none());
            // Who was let in is waited for.
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let begun = Instant::now();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(begun.elapsed() >= Duration::from_millis(15));
            drop(client);
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}
