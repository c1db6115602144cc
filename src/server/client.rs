//! Talking to a running server.

use super::control::{Channel, Reply, Request, SOCKET_NAME, Status};
use crate::backing::open_dir;
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::mount::MountOptions;
use crate::volume::check::{Progress, Report};
use crate::volume::{Alteration, Altered, Difference, Result, SnapshotInfo, VolumeError};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A connection to the server of a store.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

/// The path of a store's control socket, short enough for a socket address however deep the root is.
pub(super) fn with_socket_path<T>(store: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = open_dir(store)?;
    f(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd())))
}

impl Client {
    /// Connects to the server of the store in directory `store`; `None` if no server runs.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(store: &Path) -> io::Result<Option<Self>> {
        let connect = |path: &Path| {
            // A link would lead to the socket of somebody else.
            if !path.symlink_metadata()?.file_type().is_socket() {
                let what = format!("{SOCKET_NAME:?} is no socket; remove it");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            UnixStream::connect(path)
        };
        match with_socket_path(store, connect) {
            Ok(stream) => Ok(Some(Self { channel: Channel::to_server(stream) })),
            // No socket, or one that a killed server left.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Answers that take longer than this are errors from now on.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.channel.set_timeout(patience)
    }

    /// The process id of the server, as the kernel knows it; 0 if it is in another namespace of processes.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn peer(&self) -> io::Result<u32> {
        self.channel.peer()
    }

    fn ask(&mut self, request: &Request, file: Option<&OwnedFd>) -> Result<Reply> {
        use std::os::fd::AsFd;
        self.channel.send(request, file.map(AsFd::as_fd)).map_err(|e| gone(&e))?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply> {
        match self.channel.receive() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(gone(&io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(gone(&e)),
        }
    }

    fn done(&mut self, request: &Request, file: Option<&OwnedFd>) -> Result<()> {
        match self.ask(request, file)? {
            Reply::Done => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// How the server is.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Status, None)? {
            Reply::Status(status) => Ok(*status),
            other => Err(other.into_error()),
        }
    }

    /// Lets the server serve a mount.
    ///
    /// # Errors
    /// When it cannot.
    pub fn mount(
        &mut self,
        volume: &str,
        dir: &Path,
        options: &MountOptions,
        device: &OwnedFd,
    ) -> Result<()> {
        let dir = crate::mount::path_bytes(dir);
        let request = Request::Mount { volume: volume.to_owned(), dir, options: options.clone() };
        self.done(&request, Some(device))
    }

    /// Tells the server of new options.
    ///
    /// # Errors
    /// When the volume is not mounted.
    pub fn remount(&mut self, volume: &str, options: &MountOptions) -> Result<()> {
        self.done(&Request::Remount { volume: volume.to_owned(), options: options.clone() }, None)
    }

    /// Lets the server change the family.
    ///
    /// # Errors
    /// As the change.
    pub fn alter(&mut self, alteration: &Alteration) -> Result<Altered> {
        match self.ask(&Request::Alter { alteration: alteration.clone() }, None)? {
            Reply::Altered(altered) => Ok(altered),
            other => Err(other.into_error()),
        }
    }

    /// The snapshots of a volume, with what each of them alone holds.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots(&mut self, volume: &str) -> Result<Vec<SnapshotInfo>> {
        match self.ask(&Request::Snapshots { volume: volume.to_owned() }, None)? {
            Reply::Snapshots { snapshots } => Ok(snapshots),
            other => Err(other.into_error()),
        }
    }

    /// What is different between two volumes or snapshots.
    ///
    /// # Errors
    /// As the metadata.
    pub fn diff(&mut self, one: &str, two: &str) -> Result<Vec<Difference>> {
        match self.ask(&Request::Diff { one: one.to_owned(), two: two.to_owned() }, None)? {
            Reply::Differences { differences } => Ok(differences),
            other => Err(other.into_error()),
        }
    }

    /// Lets the server seal everything in its store again. It goes on after this returns.
    ///
    /// # Errors
    /// When the server does not take the keys.
    pub fn reencrypt(&mut self, keys: &[Subkeys]) -> Result<()> {
        // Through a pipe: nothing of them is to stay in the buffers of a socket's messages, or in a log of these.
        let pipe = || -> io::Result<OwnedFd> {
            let (read, write) = io::pipe()?;
            // As much as a pipe takes without a reader.
            File::from(OwnedFd::from(write)).write_all(&Subkeys::to_bytes(keys))?;
            Ok(read.into())
        };
        let pipe = pipe().map_err(|e| gone(&e))?;
        self.done(&Request::Reencrypt, Some(&pipe))
    }

    /// Lets another program take over from the server, which is the end of this connection. False: it was gone before it could
    /// be asked.
    ///
    /// # Errors
    /// Why it cannot. The server goes on.
    pub fn replace(&mut self, program: &[u8]) -> Result<bool> {
        let request = Request::Replace { program: program.to_vec() };
        if self.channel.send(&request, None).is_err() {
            return Ok(false);
        }
        match self.channel.receive::<Reply>() {
            Ok(Some(refusal)) => Err(refusal.into_error()),
            // However it ended: there is another one now, or soon.
            Ok(None) | Err(_) => Ok(true),
        }
    }

    /// Waits until a volume is unmounted and everything of it is on disk.
    ///
    /// # Errors
    /// `Busy` when the time is up.
    pub fn await_unmount(&mut self, volume: &str, timeout: Duration) -> Result<()> {
        let timeout_ms = timeout.as_millis() as u64;
        self.done(&Request::AwaitUnmount { volume: volume.to_owned(), timeout_ms }, None)
    }

    /// Whether the server has hung up. Waits for that as long as was said to [`Client::set_patience`].
    pub fn has_ended(&mut self) -> bool {
        match self.channel.receive::<Reply>() {
            Err(e) => !matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
            ),
            Ok(reply) => reply.is_none(),
        }
    }

    /// Waits until the server's process, number `pid`, has ended and every file of the store is closed.
    pub fn await_exit(mut self, pid: u32) {
        const PATIENCE: Duration = Duration::from_secs(10);
        // The connection ends with the process; its other files may close a moment later.
        let _ = self.channel.receive::<Reply>();
        let until = Instant::now() + PATIENCE;
        let runs = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => false,
        };
        while runs() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the server check its store.
    ///
    /// # Errors
    /// When the check cannot be made.
    pub fn check(&mut self, read_data: bool, mut progress: impl FnMut(&str, Progress)) -> Result<Report> {
        let mut reply = self.ask(&Request::Check { read_data }, None)?;
        loop {
            match reply {
                Reply::Checking(update) => {
                    progress(&update.phase, Progress { phase: "", done: update.done, total: update.total });
                }
                Reply::Report(report) => return Ok(*report),
                other => return Err(other.into_error()),
            }
            reply = self.reply()?;
        }
    }
}

fn gone(e: &io::Error) -> VolumeError {
    VolumeError::new(Exit::Failure, format!("the server of this volume went away ({e}); its log may say why"))
}
