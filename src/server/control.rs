//! The messages of the control socket: a line of JSON each way; `check` answers with several.

use super::passed_files::passed_files;
use super::serve::RemoteStatus;
use crate::exit_code::Exit;
use crate::health::Reason;
use crate::mount::{MountEntry, MountOptions, path_from_bytes};
use crate::volume::check::{Fault, Report, Step};
use crate::volume::{
    Alteration, Altered, Difference, Found, ReencryptionInfo, SnapshotInfo, Sought, VolumeError, VolumeInfo,
};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the control socket in its store.
pub(super) const SOCKET_NAME: &str = "control";
/// A longer line is no request. Answers may have any length: a volume's differences, say.
const MAX_REQUEST: usize = 8 << 20;

/// What a server is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Request {
    /// Are you there? Answered at once, whatever else is going on. To servers of earlier versions it is no request, which is an
    /// answer too.
    Alive,
    /// How are you?
    Status,
    /// Serve a mount; its FUSE device comes with the message.
    Mount {
        /// The volume's name.
        volume: String,
        /// Where it is mounted.
        dir: Vec<u8>,
        /// How.
        options: MountOptions,
    },
    /// The mount has new options.
    Remount {
        /// The volume's name.
        volume: String,
        /// How it is mounted from now on.
        options: MountOptions,
    },
    /// Answer once the volume is not mounted any more and everything is on disk; at once with `Busy` when it is still
    /// mounted after so many milliseconds.
    AwaitUnmount {
        /// The volume's name.
        volume: String,
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Change the family of the store.
    Alter {
        /// How.
        alteration: Alteration,
    },
    /// The snapshots of a volume, with what each of them alone holds.
    Snapshots {
        /// The volume's name.
        volume: String,
    },
    /// What is different between two volumes or snapshots.
    Diff {
        /// The first.
        one: String,
        /// The second.
        two: String,
    },
    /// Seal everything in the store again; the keys come through a pipe, which comes with the message. It goes on after the
    /// answer: see [`Status::reencryption`].
    Reencrypt,
    /// Let another program take over. It is answered only if that cannot be; otherwise the connection ends.
    Replace {
        /// Path of the program, as bytes.
        program: Vec<u8>,
    },
    /// Answer once everything up to now is in the remote; with an error when it is not after so many milliseconds.
    SyncRemote {
        /// How long to wait.
        timeout_ms: u64,
        /// Only key slots are asked for: what the kernel still has of what programs have written need not be there.
        #[serde(default)]
        keys: bool,
    },
    /// How the store is shipped was changed where it is kept: heed it.
    RemoteChanged,
    /// Check the store.
    Check {
        /// Open every seal.
        read_data: bool,
    },
    /// Check the metadata of the store, and read everything, in nobody's way.
    Scrub {
        /// Nothing in segments up to this one.
        after: u64,
        /// Bytes a second; 0: as fast as it goes.
        rate: u64,
    },
    /// Which files have a block or an inode number?
    Find {
        /// The volume's name.
        volume: String,
        /// What is looked for.
        sought: Sought,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Reply {
    /// It is done.
    Done,
    /// It failed.
    Error {
        /// The exit code.
        code: u8,
        /// Why.
        message: String,
    },
    /// To [`Request::Alter`].
    Altered(Altered),
    /// To [`Request::Snapshots`].
    Snapshots {
        /// The oldest first.
        snapshots: Vec<SnapshotInfo>,
    },
    /// To [`Request::Diff`].
    Differences {
        /// By path.
        differences: Vec<Difference>,
    },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Check`]: any number of these, then a report.
    Checking(CheckUpdate),
    /// The result of a check.
    Report(Box<Report>),
    /// To [`Request::Scrub`]: any number of these, then a report of the metadata.
    Scrubbing(ScrubUpdate),
    /// To [`Request::Find`].
    Found {
        /// By volume.
        found: Vec<Found>,
        /// Places beyond those that are listed.
        #[serde(default)]
        more: u64,
    },
}

impl From<VolumeError> for Reply {
    fn from(e: VolumeError) -> Self {
        Self::Error { code: e.exit as u8, message: e.message }
    }
}

impl Reply {
    /// The error that a reply stands for, if the answer is not one that was hoped for.
    pub fn into_error(self) -> VolumeError {
        match self {
            Self::Error { code, message } => VolumeError::new(Exit::of_number(code), message),
            other => {
                VolumeError::new(Exit::Failure, format!("the server gave an answer out of turn: {other:?}"))
            }
        }
    }
}

/// How far a check has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckUpdate {
    /// What is being checked.
    pub phase: String,
    /// Done.
    pub done: u64,
    /// To be done; 0 if that is not known.
    pub total: u64,
}

/// How far a scrub has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScrubUpdate {
    /// All segments up to this one were read.
    pub after: u64,
    /// Blocks that were read, in all.
    pub done: u64,
    /// Blocks that there are.
    pub total: u64,
    /// What was found since the last update.
    pub faults: Vec<Fault>,
    /// Damaged blocks beyond those.
    #[serde(default)]
    pub more: u64,
    /// See [`Report::more_in`].
    #[serde(default)]
    pub more_in: BTreeMap<String, u64>,
}

impl From<Step> for ScrubUpdate {
    fn from(step: Step) -> Self {
        let Step { after, done, total, found } = step;
        let Report { faults, more_faults: more, more_in, .. } = found;
        Self { after, done, total, faults, more, more_in }
    }
}

/// How a server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// The process that starts another server if this one dies; 0 if it is gone.
    #[serde(default)]
    pub holder: u32,
    /// How many servers there were before it since the first mount.
    #[serde(default)]
    pub takeovers: u32,
    /// The version of the program.
    #[serde(default)]
    pub version: String,
    /// The program.
    #[serde(default)]
    pub program: PathBuf,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether it knows `transport=uring`.
    #[serde(default)]
    pub rings: bool,
    /// The kinds of changes of a family that it knows beside those of the first version.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Why the store takes no changes any more, if so.
    pub failure: Option<String>,
    /// Damaged blocks met so far.
    pub damaged_blocks: u64,
    /// Bytes in its caches.
    pub cache_bytes: u64,
    /// What they may have at the moment.
    #[serde(default)]
    pub cache_limit_bytes: u64,
    /// What those of all servers of the root may have together.
    #[serde(default)]
    pub cache_total_bytes: u64,
    /// The longest that anybody has kept all others from the metadata, a commit or whoever it was, in microseconds.
    #[serde(default)]
    pub longest_hold_us: u64,
    /// Since when the disk of the host is full, in seconds since 1970.
    #[serde(default)]
    pub host_full_since: Option<u64>,
    /// What is wrong, and could not be noted yet where it outlives the server.
    #[serde(default)]
    pub unnoted: Vec<Reason>,
    /// How far sealing everything again is, if it is under way or has stopped.
    #[serde(default)]
    pub reencryption: Option<ReencryptionInfo>,
    /// How shipping to its remote goes, if it has one.
    #[serde(default)]
    pub remote: Option<RemoteStatus>,
    /// Whether it takes no more mounts, and ends as soon as everything is on disk.
    #[serde(default)]
    pub ending: bool,
    /// The volumes of its store.
    pub volumes: Vec<VolumeInfo>,
    /// Its mounts.
    pub mounts: Vec<MountStatus>,
}

impl Status {
    /// Whether a volume, or a snapshot of it, is mounted.
    pub fn serves(&self, volume: &str) -> bool {
        self.mounts.iter().any(|mount| mount.volume.split('@').next() == Some(volume))
    }
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// The volume's name.
    pub volume: String,
    /// Where it is mounted, as bytes.
    pub dir: Vec<u8>,
    /// How.
    pub options: MountOptions,
    /// What becomes of it when its server dies.
    #[serde(default)]
    pub takeover: Takeover,
    /// The number of its connection in the kernel, if it is known.
    #[serde(default)]
    pub connection: Option<u32>,
}

impl MountStatus {
    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        path_from_bytes(self.dir.clone())
    }

    /// Whether `entry` is this mount, or is bound from it. (Several roots can have volumes of the same name.)
    pub fn is_at(&self, entry: &MountEntry) -> bool {
        entry.volume() == Some(&self.volume)
            && self.connection.is_none_or(|number| entry.connection() == Some(number))
    }
}

/// Whether a mount outlives its server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Takeover {
    /// An older server does not say.
    #[default]
    Unknown,
    /// Another server takes it over.
    Possible,
    /// It dies with its server, for this reason.
    Impossible(String),
}

/// A connection over which messages go, and open files with them.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    pending: Vec<u8>,
    /// So much of it has no end of a line.
    scanned: usize,
    files: Vec<OwnedFd>,
    /// A longer line is no message.
    longest: usize,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Channel {
    /// A server's end: what comes is not trusted to end.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new(), scanned: 0, files: Vec::new(), longest: MAX_REQUEST }
    }

    /// A client's end.
    pub(super) fn to_server(stream: UnixStream) -> Self {
        Self { longest: usize::MAX, ..Self::new(stream) }
    }

    /// Whether whoever is at the other end has gone.
    pub(super) fn is_gone(&self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.stream.as_raw_fd(), &mut [0], flags) {
            Ok(bytes) => bytes == 0,
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
        }
    }

    /// Neither sending nor receiving may wait longer than this.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.set_write_timeout(Some(timeout))
    }

    /// Sending may not wait longer than this.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(super) fn set_timeout_of_sending(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(timeout))
    }

    /// The process at the other end.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub(super) fn peer(&self) -> io::Result<u32> {
        let peer = getsockopt(&self.stream, PeerCredentials)?;
        Ok(u32::try_from(peer.pid()).unwrap_or(0))
    }

    /// Sends a message, with an open file if there is one.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(super) fn send(&mut self, message: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.send_all(&line, file)
    }

    /// Sends what is left of a message.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(super) fn send_rest(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_all(bytes, None)
    }

    fn send_all(&self, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut rest = bytes;
        let raw: Vec<RawFd> = file.iter().map(AsRawFd::as_raw_fd).collect();
        let with_file = [ControlMessage::ScmRights(&raw)];
        // The file goes with the first byte.
        let mut control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &with_file };
        while !rest.is_empty() {
            let parts = [IoSlice::new(rest)];
            let sent =
                match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                    Err(Errno::EINTR) => continue,
                    other => other?,
                };
            rest = &rest[sent..];
            control = &[];
        }
        Ok(())
    }

    /// Sends a message that may be left out, if it need not wait for the other side to read what was sent before: what is held meanwhile is
    /// not held for longer because nobody reads.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(super) fn mention(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = match sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&line)], &[], flags, None) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            other => other?,
        };
        // What is begun must come to its end.
        self.send_all(&line[sent..], None)
    }

    /// Receives the next message; `None` when the other side is gone.
    ///
    /// # Errors
    /// As recvmsg(2), and `InvalidData` for what is no message.
    pub(super) fn receive<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.pending[self.scanned..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=self.scanned + end).collect();
                self.scanned = 0;
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            self.scanned = self.pending.len();
            if self.scanned > self.longest {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without an end"));
            }
            if self.receive_some()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Receives what has come, without waiting; whether anything has: `Some(false)` is the end.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub(super) fn receive_now(&mut self) -> io::Result<Option<bool>> {
        match self.receive_with(MsgFlags::MSG_DONTWAIT) {
            Ok(count) => Ok(Some(count > 0)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The first message of what has come, which stays; `None` if it is not whole, or none.
    pub(super) fn first<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        let end = self.pending.iter().position(|b| *b == b'\n')?;
        serde_json::from_slice(&self.pending[..end]).ok()
    }

    /// Whether something has come that is not answered.
    pub(super) fn has_some(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Answers the first message of what has come, without waiting; what is left of the answer, or `None` if nothing of it could be sent, and the
    /// message stays.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(super) fn answer_first(&mut self, message: &impl Serialize) -> io::Result<Option<Vec<u8>>> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = match sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&line)], &[], flags, None) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            other => other?,
        };
        let end = self.pending.iter().position(|b| *b == b'\n').map_or(self.pending.len(), |end| end + 1);
        self.pending.drain(..end);
        self.scanned = 0;
        self.files.clear();
        Ok(Some(line.split_off(sent)))
    }

    /// Says that nothing more is asked: whoever has answered what was need not wait for the end.
    ///
    /// # Errors
    /// As shutdown(2).
    pub(super) fn asks_no_more(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn receive_some(&mut self) -> io::Result<usize> {
        self.receive_with(MsgFlags::empty())
    }

    fn receive_with(&mut self, more: MsgFlags) -> io::Result<usize> {
        let mut buf = [0u8; 8192];
        let mut space = cmsg_space!([RawFd; 4]);
        let mut iov = [IoSliceMut::new(&mut buf)];
        let message = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | more;
            match recvmsg::<()>(self.stream.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let count = message.bytes;
        self.files.extend(passed_files(message.cmsgs()?));
        self.pending.extend_from_slice(&buf[..count]);
        Ok(count)
    }

    /// The open file that came with the last messages, if there was one.
    pub(super) fn take_file(&mut self) -> Option<OwnedFd> {
        let file = self.files.pop();
        self.files.clear();
        file
    }
}

/// For the fuzzer: reads everything that comes, as requests and as replies.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed(bytes: &[u8]) {
    use nix::sys::socket::send;
    fn read_all<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> io::Result<()> {
        let (one, two) = UnixStream::pair()?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let Ok(sent) = send(one.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) else { return };
                    rest = &rest[sent..];
                }
            });
            let mut channel = Channel::new(two);
            while channel.receive::<T>()?.is_some() {}
            Ok(())
        })
    }
    let _ = read_all::<Request>(bytes);
    let _ = read_all::<Reply>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn messages_and_files_arrive() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, mut two) = (Channel::new(one), Channel::new(two));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        one.send(&Request::Status, Some(file.as_fd())).unwrap();
        one.send(&Request::Check { read_data: true }, None).unwrap();
        assert!(matches!(two.receive().unwrap(), Some(Request::Status)));
        let mut received = std::fs::File::from(two.take_file().unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(matches!(two.receive().unwrap(), Some(Request::Check { read_data: true })));
        assert!(two.take_file().is_none());
        drop(one);
        assert!(two.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn an_answer_may_be_longer_than_any_request() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut server, mut client) = (Channel::new(one), Channel::to_server(two));
        let message = "x".repeat(MAX_REQUEST + 100_000);
        let long = Reply::Error { code: 1, message: message.clone() };
        let sending = std::thread::spawn(move || server.send(&long, None));
        let Some(Reply::Error { message: received, .. }) = client.receive().unwrap() else { panic!() };
        assert!(received == message);
        sending.join().unwrap().unwrap();
    }

    #[test]
    fn what_may_be_left_out_waits_for_nobody_and_is_there_as_a_whole_or_not_at_all() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut server, mut client) = (Channel::new(one), Channel::to_server(two));
        let update = |done| Reply::Checking(CheckUpdate { phase: "blocks".into(), done, total: 0 });
        // Far more than any socket takes.
        (0..1 << 17).for_each(|done| server.mention(&update(done)).unwrap());
        server.stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(server.send(&Reply::Done, None).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(server);
        let mut last = None;
        while let Some(reply) = client.receive().unwrap() {
            let Reply::Checking(update) = reply else { panic!("{reply:?}") };
            assert_eq!(update.done, last.map_or(0, |last| last + 1));
            last = Some(update.done);
        }
        assert!(last.unwrap() < (1 << 17) - 1);
    }

    #[test]
    fn garbage_is_an_error() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(b"{\"ask\":\"nonsense\"}\n").unwrap();
        assert!(Channel::new(two).receive::<Request>().is_err());
    }
}
