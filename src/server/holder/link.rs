//! What a holder and its server say to each other: packets of JSON over a socket pair, each with an open file or none.

use super::suspects::Suspect;
use crate::fs::{Executed, Lost, Node, ViewChange};
use crate::meta::{Ino, VolumeId};
use crate::mount::MountOptions;
use crate::server::passed_files::passed_files;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg, setsockopt,
    socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The longest packet: what the first version sends and reads.
const MAX_PACKET: usize = 128 << 10;
/// The longest message that is sent as it is to whoever knows another way: no version reads less. Longer ones are sent in a file,
/// up to [`MAX_IN_FILE`].
const MAX_PLAIN: usize = 64 << 10;
/// The longest message in a file: far more than there ever is to say. What is longer is none, and no room is made for it.
const MAX_IN_FILE: usize = 1 << 30;
/// Stands for a message that is in the file which comes with it, before the message's own. No JSON begins so.
const IN_FILE: &[u8] = b"F";

/// Why nothing takes over from a server of these volumes that is to end: it would be killed while it writes back what programs have
/// written.
pub(in crate::server) fn is_ending<'a>(volumes: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = volumes.map(String::as_str).collect();
    let of = if names.is_empty() { String::new() } else { format!("{}: ", names.join(", ")) };
    format!("{of}the server is ending, and nothing can take over from it; mount again when it has ended")
}

/// A mount, as it has to be known to be taken over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::server) struct Kept {
    /// The volume's name.
    pub(in crate::server) volume: String,
    /// Where it is mounted, as bytes.
    pub(in crate::server) dir: Vec<u8>,
    /// How.
    pub(in crate::server) options: MountOptions,
    /// What was agreed on with the kernel.
    pub(in crate::server) agreed: u64,
    /// The number of its connection in the kernel, for its abort; unknown if the mount cannot be seen from here.
    pub(in crate::server) connection: Option<u32>,
    /// Of so many changes of its views, the kernel was told.
    #[serde(default)]
    pub(in crate::server) told: usize,
    /// What is mounted; older servers do not say.
    #[serde(default)]
    pub(in crate::server) id: Option<VolumeId>,
    /// Readers with lower numbers belong to earlier mounts of the volume, or all that they took is answered.
    #[serde(default)]
    pub(in crate::server) first_reader: u64,
    /// What is missing from files.
    #[serde(default)]
    pub(in crate::server) losses: Losses,
    /// The head of the volume before the last change of its views, if that was a rollback, which may not have come to pass.
    #[serde(default)]
    pub(in crate::server) head_before: Option<u64>,
    /// What no other mount has that the holder ever hears of; older servers do not say.
    #[serde(default)]
    pub(in crate::server) number: Option<u64>,
    /// Files that are open, where another host may get the volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::server) opened: Vec<Node>,
}

impl Kept {
    /// Whether what was said of a mount of the volume with this number can have been said of this one.
    pub(super) fn may_be(&self, number: Option<u64>) -> bool {
        self.number.is_none() || number.is_none() || self.number == number
    }
}

/// What is missing from files, by inode, and how many changes of the views of the mount there were when that was said. In messages a
/// list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(usize, Lost)>", into = "Vec<(usize, Lost)>")]
pub(in crate::server) struct Losses(pub(in crate::server) BTreeMap<Ino, (usize, Lost)>);

impl From<Vec<(usize, Lost)>> for Losses {
    fn from(list: Vec<(usize, Lost)>) -> Self {
        Self(list.into_iter().map(|(views, lost)| (lost.ino, (views, lost))).collect())
    }
}

impl From<Losses> for Vec<(usize, Lost)> {
    fn from(losses: Losses) -> Self {
        losses.0.into_values().collect()
    }
}

#[cfg(test)]
impl Kept {
    /// A mount of which nothing is known but its volume's name, `v`.
    pub(in crate::server) fn of_nothing() -> Self {
        Self {
            volume: "v".into(),
            dir: Vec::new(),
            options: MountOptions::default(),
            agreed: 0,
            connection: None,
            told: 0,
            id: None,
            first_reader: 0,
            losses: Losses::default(),
            head_before: None,
            number: None,
            opened: Vec::new(),
        }
    }
}

/// What a server tells its holder. What is said of a mount has its [number](Kept::number): threads that served one can still speak when
/// the next one of the volume is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub(in crate::server) enum ToHolder {
    /// The control socket comes with this.
    Listening,
    /// It serves.
    Started,
    /// It cannot.
    Failed { code: u8, message: String },
    /// A mount; its FUSE device comes with this.
    Keep(Box<Kept>),
    /// A mount that ends with its server, and why nothing can take it over.
    Tied { kept: Box<Kept>, why: String },
    /// What a mount's readers with lower numbers than this took is answered. Older servers do not say what is mounted.
    Settled {
        volume: String,
        first_reader: u64,
        #[serde(default)]
        id: Option<VolumeId>,
        #[serde(default)]
        number: Option<u64>,
    },
    /// What readers work on is in the file that comes with this.
    Ledger,
    /// The mount has new options.
    Options { volume: String, options: Box<MountOptions> },
    /// A mount's views changed. The head of the volume comes with a rollback, which changes it; older servers do not say.
    View {
        volume: String,
        change: ViewChange,
        #[serde(default)]
        head: Option<u64>,
        #[serde(default)]
        number: Option<u64>,
    },
    /// The kernel was told of all changes of a mount's views so far.
    Told {
        volume: String,
        #[serde(default)]
        number: Option<u64>,
    },
    /// What is missing from a file of a mount, or that nothing is missing from it any more. Only for holders that keep it.
    Lost {
        volume: String,
        lost: Lost,
        #[serde(default)]
        number: Option<u64>,
    },
    /// Which files are open on a mount is in the file that comes with this, from now on. Only for holders that keep it.
    OpenFiles {
        volume: String,
        #[serde(default)]
        number: Option<u64>,
    },
    /// A mount is gone. Older servers do not say of what.
    Gone {
        volume: String,
        #[serde(default)]
        id: Option<VolumeId>,
        #[serde(default)]
        number: Option<u64>,
    },
    /// The last requests that were carried out by servers before this one.
    Executed { executed: Vec<Executed> },
    /// New keys come through a pipe, which comes with this.
    Keys,
    /// It lives. The request that was taken first of those that are worked on has come no further for so many milliseconds.
    Beat { longest_ms: u64 },
    /// It has nothing to do, and gives no sign of life before it is asked for something. Only for holders that know that.
    Rests,
    /// Let this program take over.
    Replace { program: Vec<u8> },
    /// It was told to end, by its holder or by somebody else, and unmounts. Only for holders that heed it.
    ToldToEnd,
    /// It is about to end.
    Ending,
}

impl ToHolder {
    /// The mount of which this says something: its volume and its number.
    pub(super) fn mount(&self) -> Option<(&str, Option<u64>)> {
        match self {
            Self::Settled { volume, number, .. }
            | Self::View { volume, number, .. }
            | Self::Told { volume, number }
            | Self::Lost { volume, number, .. }
            | Self::OpenFiles { volume, number }
            | Self::Gone { volume, number, .. } => Some((volume, *number)),
            _ => None,
        }
    }

    /// Whether this is kept with the mount for the next server. It can be said before the mount itself is made known, which is served
    /// first.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::View { .. } | Self::Told { .. } | Self::Lost { .. })
    }
}

/// What a holder tells its server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub(in crate::server) enum ToServer {
    /// The lock of the store comes with this.
    Lock,
    /// The keys come through a pipe, which comes with this.
    Keys,
    /// The control socket comes with this.
    Listener,
    /// A mount to take over; its FUSE device comes with this.
    Mount(Box<Kept>),
    /// What happened to the views of the mount that came last.
    View { change: ViewChange },
    /// That was all. So many servers were there before; the last requests that they carried out; those that they died of.
    Begin {
        incarnation: u32,
        executed: Vec<Executed>,
        #[serde(default)]
        suspects: Vec<Suspect>,
        /// Whether the holder knows messages that came after the first version: [`ToHolder::Tied`], `Settled` and `Ledger`.
        #[serde(default)]
        is_newer: bool,
        /// Whether the holder knows [`ToHolder::Lost`].
        #[serde(default)]
        keeps_losses: bool,
        /// Whether the holder knows [`ToHolder::ToldToEnd`].
        #[serde(default)]
        heeds_orders: bool,
        /// Whether the holder knows [`ToHolder::Rests`].
        #[serde(default)]
        lets_rest: bool,
        /// Whether the holder knows [`ToHolder::OpenFiles`].
        #[serde(default)]
        keeps_open_files: bool,
        /// Whether the holder knows what `durability` of a mount is.
        #[serde(default)]
        keeps_durability: bool,
    },
    /// The program that it asked for cannot take over.
    Refused { message: String },
}

/// What was received.
#[derive(Debug)]
pub(in crate::server) enum Received<T> {
    /// A message, and the file with it.
    Message(T, Option<OwnedFd>),
    /// Nothing came in time.
    Nothing,
    /// The other side is gone.
    Gone,
}

/// How long a message in a file of so many bytes is.
///
/// # Errors
/// `InvalidData` for what is no message.
fn length_in_file(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).ok().filter(|len| *len <= MAX_IN_FILE).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {bytes} bytes, which is not possible"),
        )
    })
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One end of the connection between a holder and its server. Messages of several threads do not mix.
#[derive(Debug)]
pub(in crate::server) struct Link {
    socket: OwnedFd,
    /// The other side does not know messages in files.
    is_plain: bool,
}

impl Link {
    /// Both ends. The first gives up waiting for a message after `patience`.
    ///
    /// # Errors
    /// As socketpair(2).
    pub(in crate::server) fn pair(patience: Duration) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let timeout = TimeVal::new(patience.as_secs() as _, patience.subsec_micros().into());
        setsockopt(&ours, sockopt::ReceiveTimeout, &timeout)?;
        Ok((Self { socket: ours, is_plain: false }, theirs))
    }

    /// Sending a message does not wait longer than this from now on.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(in crate::server) fn limit_sending(&self, longest: Duration) -> io::Result<()> {
        let timeout = TimeVal::new(longest.as_secs() as _, longest.subsec_micros().into());
        Ok(setsockopt(&self.socket, sockopt::SendTimeout, &timeout)?)
    }

    /// An end that was inherited.
    pub(in crate::server) fn of(socket: OwnedFd) -> Self {
        Self { socket, is_plain: false }
    }

    /// From now on, the other side gets no messages in files: it is of a version that does not know them.
    pub(in crate::server) fn speak_plainly(&mut self) {
        self.is_plain = true;
    }

    /// Sends a message, with an open file if there is one.
    ///
    /// # Errors
    /// As sendmsg(2), `InvalidInput` for one that is too long for the other side, and `TimedOut` when that side takes none for longer
    /// than [there is a limit](Self::limit_sending).
    pub(in crate::server) fn send(
        &self,
        message: &impl Serialize,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        self.send_with(message, file, MsgFlags::empty()).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "the other process takes no messages")
            }
            _ => e,
        })
    }

    /// Sends a message that may be lost if the other side does not read.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(in crate::server) fn try_send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, None, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(
        &self,
        message: &impl Serialize,
        file: Option<BorrowedFd<'_>>,
        flags: MsgFlags,
    ) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        let mut in_file = None;
        if self.is_plain && bytes.len() > MAX_PACKET {
            let what = format!("a message of {} bytes is too long for its version", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if bytes.len() > MAX_IN_FILE {
            let what = format!("a message of {} bytes is too long", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if !self.is_plain && bytes.len() > MAX_PLAIN {
            let mut file = File::from(memfd_create("larder-message", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&bytes)?;
            in_file = Some(file);
            bytes = IN_FILE.to_vec();
        }
        let files = in_file.as_ref().map(AsFd::as_fd).into_iter().chain(file);
        let raw: Vec<RawFd> = files.map(|file| file.as_raw_fd()).collect();
        let with_files = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &with_files };
        loop {
            let parts = [IoSlice::new(&bytes)];
            let flags = flags | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// As recvmsg(2), and `InvalidData` for what is no message, or not all of one.
    pub(in crate::server) fn receive<T: for<'a> Deserialize<'a>>(&self) -> io::Result<Received<T>> {
        self.receive_with(MsgFlags::empty())
    }

    /// Receives the next message that is there already.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub(in crate::server) fn receive_now<T: for<'a> Deserialize<'a>>(&self) -> io::Result<Received<T>> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with<T: for<'a> Deserialize<'a>>(&self, flags: MsgFlags) -> io::Result<Received<T>> {
        // Room is made for what is there, and not for all that could come while it is waited for. Nobody else takes it in between.
        let peek = flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let len = match recv(self.socket.as_raw_fd(), &mut [], peek) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) | Ok(0) => return Ok(Received::Gone),
            other => other?,
        };
        let mut buf = vec![0; len.min(MAX_PACKET)];
        let mut space = cmsg_space!([RawFd; 2]);
        let mut parts = [IoSliceMut::new(&mut buf)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            // A signal is a reason to look around as well.
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Gone),
            other => other?,
        };
        let len = message.bytes;
        if len == 0 {
            return Ok(Received::Gone);
        }
        let is_cut = message.flags.contains(MsgFlags::MSG_TRUNC);
        let mut files = passed_files(message.cmsgs()?).into_iter();
        if is_cut {
            let what = format!("a message of more than {MAX_PACKET} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if &buf[..len] == IN_FILE {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a long message without its file");
            let whole = File::from(files.next().ok_or_else(missing)?);
            // The position is the sender's as well.
            buf = vec![0; length_in_file(whole.metadata()?.len())?];
            whole.read_exact_at(&mut buf, 0)?;
        } else {
            buf.truncate(len);
        }
        Ok(Received::Message(serde_json::from_slice(&buf)?, files.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn each_message_comes_with_its_own_file() {
        let (one, two) = Link::pair(Duration::from_secs(60)).unwrap();
        let two = Link::of(two);
        let (mut reader, mut writer) = io::pipe().unwrap();
        two.send(&ToHolder::Ending, None).unwrap();
        two.send(&ToHolder::Keys, Some(writer.as_fd())).unwrap();
        two.send(&ToHolder::Beat { longest_ms: 7 }, None).unwrap();
        assert!(matches!(one.receive().unwrap(), Received::Message(ToHolder::Ending, None)));
        let Received::Message(ToHolder::Keys, Some(file)) = one.receive().unwrap() else { panic!() };
        writer.write_all(b"a").unwrap();
        drop(writer);
        std::fs::File::from(file).write_all(b"b").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ab");
        assert!(matches!(one.receive().unwrap(), Received::Message(ToHolder::Beat { longest_ms: 7 }, None)));
        drop(two);
        assert!(matches!(one.receive::<ToHolder>().unwrap(), Received::Gone));
    }

    #[test]
    fn a_message_may_have_any_length() {
        let (one, two) = Link::pair(Duration::from_secs(60)).unwrap();
        let two = Link::of(two);
        let (mut reader, writer) = io::pipe().unwrap();
        for len in [MAX_PLAIN - 100, MAX_PLAIN, MAX_PACKET, 20 << 20] {
            two.send(&ToHolder::Replace { program: vec![7; len] }, Some(writer.as_fd())).unwrap();
            let Received::Message(ToHolder::Replace { program }, Some(file)) = one.receive().unwrap() else {
                panic!("{len}")
            };
            assert_eq!(program, vec![7; len]);
            std::fs::File::from(file).write_all(b"x").unwrap();
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xxxx");
    }

    /// Room for it would be made before it is looked at.
    #[test]
    fn a_file_that_is_too_long_for_a_message_is_refused() {
        let (one, two) = Link::pair(Duration::from_secs(60)).unwrap();
        let two = Link::of(two);
        let file = File::from(memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(1 << 60).unwrap();
        let raw = [file.as_raw_fd()];
        let parts = [IoSlice::new(IN_FILE)];
        let control = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(two.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
        assert_eq!(one.receive::<ToHolder>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        // The next one is understood.
        two.send(&ToHolder::Ending, None).unwrap();
        assert!(matches!(one.receive().unwrap(), Received::Message(ToHolder::Ending, None)));
    }

    /// The first version knew nothing else, and read so much.
    #[test]
    fn a_long_packet_is_read_whole_or_not_at_all() {
        let (one, two) = Link::pair(Duration::from_secs(60)).unwrap();
        let mut two = Link::of(two);
        two.speak_plainly();
        // Each byte of it takes two.
        let replace = |len: usize| ToHolder::Replace { program: vec![7; len] };
        for len in [50_000, 60_000] {
            two.send(&replace(len), None).unwrap();
            let mut packet = vec![0; MAX_PACKET];
            let peek = MsgFlags::MSG_PEEK;
            let there = nix::sys::socket::recv(one.socket.as_raw_fd(), &mut packet, peek).unwrap();
            assert!(there > 2 * len && packet[0] == b'{', "{there}");
            let Received::Message(ToHolder::Replace { program }, None) = one.receive().unwrap() else {
                panic!("{len}")
            };
            assert_eq!(program.len(), len);
        }
        assert_eq!(two.send(&replace(MAX_PACKET), None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // Whatever it would be without its end.
        nix::unistd::write(&two.socket, &[b"\"ending\"".to_vec(), vec![b' '; MAX_PACKET]].concat()).unwrap();
        assert_eq!(one.receive::<String>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        two.send(&ToHolder::Ending, None).unwrap();
        assert!(matches!(one.receive().unwrap(), Received::Message(ToHolder::Ending, None)));
    }

    #[test]
    fn who_takes_no_messages_is_not_waited_for() {
        let (one, _two) = Link::pair(Duration::from_secs(60)).unwrap();
        one.limit_sending(Duration::from_millis(20)).unwrap();
        let e = (0..100_000).find_map(|_| one.send(&ToServer::Lock, None).err()).unwrap();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn nothing_is_not_the_end_and_garbage_is_an_error() {
        let (one, two) = Link::pair(Duration::from_millis(1)).unwrap();
        assert!(matches!(one.receive::<ToHolder>().unwrap(), Received::Nothing));
        nix::unistd::write(&two, b"{").unwrap();
        assert_eq!(one.receive::<ToHolder>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
