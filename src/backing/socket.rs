//! Sockets with names.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// A listening socket at `path`, which must not exist, with mode 600 from the moment that it has a name: Linux gives
/// the name the mode of the socket itself (unix_bind_bsd() in net/unix/af_unix.c).
///
/// # Errors
/// As socket(2), bind(2) and listen(2).
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use nix::sys::stat::{Mode, fchmod};
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(128)?)?;
    Ok(UnixListener::from(socket))
}

/// Connects to a socket. Where more wait already than the other side has room for, for `patience` at most, which is also
/// how long each reading and writing of it may take.
///
/// # Errors
/// As socket(2) and connect(2).
pub fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    // That of connect(2) as well (unix_stream_connect() in net/unix/af_unix.c).
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    let address = UnixAddr::new(path)?;
    let until = Instant::now() + patience;
    loop {
        match connect(stream.as_raw_fd(), &address) {
            Err(nix::errno::Errno::EINTR) if Instant::now() < until => {}
            other => return Ok(other.map(|()| stream)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_its_owners_alone_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = listen_private(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(listen_private(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
