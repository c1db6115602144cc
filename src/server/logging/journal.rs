//! The journal of systemd, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use crate::server::identity::Identity;
use log::{Level, Record};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const SOCKET: &str = "/run/systemd/journal/socket";
/// More of a message than this is left out: datagrams have a longest length.
const LONGEST: usize = 64 << 10;

/// A way to the journal. It never waits: the journal may be on a volume that this process serves.
pub(super) struct Journal {
    socket: OwnedFd,
    address: PathBuf,
}

impl Journal {
    /// The journal of this host, if there is one.
    pub(super) fn open() -> Option<Self> {
        Self::at(Path::new(SOCKET))
    }

    /// The same, if that is where this process's stderr goes to.
    pub(super) fn of_stderr() -> Option<Self> {
        let said = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = nix::sys::stat::fstat(io::stderr().as_fd()).ok()?;
        if said != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
            return None;
        }
        Self::open()
    }

    fn at(address: &Path) -> Option<Self> {
        fs::metadata(address).ok().filter(|meta| meta.file_type().is_socket())?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
        Some(Self { socket, address: address.to_owned() })
    }

    /// Gives it a message, whose text is `message`.
    ///
    /// # Errors
    /// As sendto(2): when nobody is there, or too much waits there.
    pub(super) fn send(&self, record: &Record<'_>, message: &str, about: &Identity) -> io::Result<()> {
        let entry = entry(record, message, about);
        let address = UnixAddr::new(&self.address)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendto(self.socket.as_raw_fd(), &entry, &address, flags)?;
        Ok(())
    }
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    }
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

/// As much of a message as there is room for.
fn start_of(message: &str) -> &str {
    let end = (0..=LONGEST.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
    &message[..end.unwrap_or(0)]
}

fn entry(record: &Record<'_>, message: &str, about: &Identity) -> Vec<u8> {
    let mut entry = Vec::new();
    put(&mut entry, "MESSAGE", start_of(message));
    put(&mut entry, "PRIORITY", priority(record.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", "larder");
    put(&mut entry, "LARDER_TARGET", record.target());
    if let Some(file) = record.file() {
        put(&mut entry, "CODE_FILE", file);
    }
    if let Some(line) = record.line() {
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    if let Some(store) = about.store {
        put(&mut entry, "LARDER_STORE", &store.to_string());
    }
    for volume in about.volumes() {
        put(&mut entry, "LARDER_VOLUME", volume);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreId;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn the_journal_is_told_in_its_protocol_and_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("socket");
        assert!(Journal::at(&path).is_none());
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        let store = StoreId(1);
        let say = |message: &str| {
            let record = Record::builder()
                .args(format_args!(""))
                .level(Level::Warn)
                .target("larder::x")
                .file(Some("a.rs"))
                .line(Some(7))
                .build();
            journal.send(&record, message, &store.into())
        };
        say("one\ntwo").unwrap();
        let mut bytes = vec![0; 1 << 20];
        let length = listener.recv(&mut bytes).unwrap();
        let expected = [
            b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nPRIORITY=4\nSYSLOG_IDENTIFIER=larder\nLARDER_TARGET=larder::x\n".as_slice(),
            format!("CODE_FILE=a.rs\nCODE_LINE=7\nLARDER_STORE={store}\n").as_bytes(),
        ]
        .concat();
        assert_eq!(String::from_utf8_lossy(&bytes[..length]), String::from_utf8_lossy(&expected));
        // A message that is too long for a datagram is there in part.
        say(&"ä".repeat(LONGEST)).unwrap();
        let length = listener.recv(&mut bytes).unwrap();
        assert!(length > LONGEST && length < LONGEST + 1000);
        // Nobody reads: that is an error, and soon.
        let refused = (0..1_000_000).find_map(|_| say("more").err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert_eq!(say("more").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
