//! Our own session on `/dev/fuse`: one reader pinned to each CPU; or a single one beside rings, for what does not come by them.

use super::adapter::{Adapter, Agreed};
use super::awake::Pace;
use super::ledger::Seat;
use super::negotiation::{MAX_WRITE_BYTES, Wanted, believed, flag};
use super::pin::Pinner;
use super::serving::{Hand, Way, serve};
use super::task::Desk;
use super::wire::{self, Offer, OutHeader, Parts, opcode};
use crate::scheduling::Urgency;
use nix::errno::Errno;
use nix::sys::mman::mlock;
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use zerocopy::IntoBytes;

/// Bytes that an urgent request moves, at most.
pub(super) const SMALL_BYTES: usize = 64 << 10;
/// The kernel wants room for the largest write with its header, or it gives no request at all.
const REQUEST_BYTES: usize = MAX_WRITE_BYTES as usize + 4096;

/// An open `/dev/fuse` that is connected to a mount.
#[derive(Debug)]
pub(super) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Waits for the next message; `None` when the mount is gone.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                // ENOENT: the caller was killed before we came to its request.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ENODEV | Errno::ECONNABORTED) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Answers a request.
    pub(super) fn answer(&self, unique: u64, error: i32, body: &[u8]) {
        let header = OutHeader { len: (size_of::<OutHeader>() + body.len()) as u32, error, unique };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
        if let Err(e) = writev(&self.fd, parts) {
            // The caller was killed meanwhile, or the mount is gone.
            log::debug!("cannot answer a request: {e}");
        }
    }

    /// Tells the kernel something unasked. Waits for what the kernel does about it.
    pub(super) fn notify(&self, message: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, message)?;
        Ok(())
    }

    /// Lets the kernel give those requests again that another process took and did not answer.
    ///
    /// # Errors
    /// `InvalidInput` when it cannot: only Linux 6.9 and later does.
    pub(super) fn resend(&self) -> io::Result<()> {
        self.notify(&wire::resend())
    }

    /// Agrees with the kernel on the protocol; returns the bits of INIT that both sides want.
    ///
    /// # Errors
    /// When the kernel is too old, or the mount is gone already.
    pub(super) fn agree(&self, wanted: Wanted) -> io::Result<u64> {
        let mut buffer = vec![0; REQUEST_BYTES];
        loop {
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the mount is gone already");
            let message = self.receive(&mut buffer)?.ok_or_else(gone)?;
            let Ok(Parts { header, rest, .. }) = wire::parts(message) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the first request is malformed"));
            };
            if header.opcode != opcode::INIT {
                self.answer(header.unique, -libc::EIO, &[]);
                continue;
            }
            let offer = Offer::decode(rest);
            if offer.is_newer() {
                // It asks again.
                self.answer(header.unique, 0, Offer::version_only().as_bytes());
                continue;
            }
            if !offer.is_spoken() {
                self.answer(header.unique, -libc::EPROTO, &[]);
                let (major, minor) = (offer.major, offer.minor);
                let what = format!("it speaks version {major}.{minor} of the protocol, which is too old");
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            let agreed = believed(offer.agreed(wanted.flags));
            self.answer(header.unique, 0, offer.answer(agreed, wanted.max_write).as_bytes());
            return Ok(agreed);
        }
    }
}

impl From<u64> for Agreed {
    /// From bits of INIT.
    fn from(flags: u64) -> Self {
        Self {
            no_open: flags & flag::NO_OPEN_SUPPORT != 0,
            no_opendir: flags & flag::NO_OPENDIR_SUPPORT != 0,
            handles: flags & flag::EXPORT_SUPPORT != 0,
        }
    }
}

/// Readers that this process has had.
static READERS: AtomicU64 = AtomicU64::new(0);

/// The lowest number that a reader can have that is started from now on, in a process with so many servers of the store before it.
pub fn first_reader(incarnation: u32) -> u64 {
    u64::from(incarnation) << 32 | READERS.load(Ordering::Relaxed)
}

/// The number of a reader that is started now, in a process with so many servers of the store before it.
pub(super) fn next_reader(incarnation: u32) -> u64 {
    u64::from(incarnation) << 32 | READERS.fetch_add(1, Ordering::Relaxed)
}

/// What readers of a mount have in common.
pub(super) struct Readers {
    pub(super) desk: Arc<Desk>,
    pub(super) adapter: Arc<Adapter>,
    /// Which CPUs they stay on; `None` if they stay on none.
    pub(super) pinner: Option<Arc<Pinner>>,
    /// How many servers of the store were before this one.
    pub(super) incarnation: u32,
}

/// Starts a reader for each of `seats`, which end when the mount is gone; fewer, if no more threads can be started.
///
/// # Errors
/// When not one can be started.
pub(super) fn start_readers(
    readers: &Arc<Readers>,
    seats: impl IntoIterator<Item = Seat>,
) -> io::Result<Vec<JoinHandle<io::Result<()>>>> {
    let start = |(i, seat): (usize, Seat)| {
        let readers = Arc::clone(readers);
        let number = next_reader(readers.incarnation);
        std::thread::Builder::new().name(format!("larder-fuse-{i}")).spawn(move || {
            if let Some(pinner) = &readers.pinner {
                pinner.pin();
            }
            read_requests(&readers, number, &seat)
        })
    };
    some(seats.into_iter().enumerate().map(start))
}

/// What was started before the first that could not be.
///
/// # Errors
/// When nothing was.
fn some<T>(started: impl Iterator<Item = io::Result<T>>) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    for one in started {
        match one {
            Ok(one) => all.push(one),
            Err(e) if all.is_empty() => return Err(e),
            Err(e) => {
                let count = all.len();
                log::warn!(
                    "only {count} threads read the requests of a mount: another cannot be started: {e}"
                );
                break;
            }
        }
    }
    Ok(all)
}

/// A buffer whose pages are all there, and stay. If the kernel had to fetch one while it gives a request to a process that is
/// just being killed, it would give that up, and answer the request with EIO.
fn resident_buffer() -> Vec<u8> {
    let buffer = vec![0xff; REQUEST_BYTES];
    #[expect(unsafe_code, reason = "nix takes a pointer")]
    // SAFETY: locking changes nothing but whether pages can be taken away; they are the buffer's.
    let locked = unsafe { mlock(NonNull::from(buffer.as_slice()).cast(), buffer.len()) };
    if let Err(e) = locked {
        log::debug!("cannot lock a buffer into memory: {e}");
    }
    buffer
}

fn read_requests(readers: &Readers, reader: u64, seat: &Seat) -> io::Result<()> {
    let Readers { desk, adapter, .. } = readers;
    let mut buffer = resident_buffer();
    let mut pace = Pace::new(adapter.options().awake);
    let mut urgency = Urgency::new(adapter.options().scheduling);
    seat.read_here();
    loop {
        seat.asks();
        let next = desk.settling.next(|| {
            let received = desk.device.receive(&mut buffer);
            seat.takes();
            received
        });
        let Some((message, again)) = next? else { return Ok(()) };
        pace.note();
        let Ok(parts) = wire::parts(message) else {
            // Without its number, nothing can be answered.
            log::error!("the kernel sent {} bytes that are not a request", message.len());
            continue;
        };
        // Waiting for the next request, it is what it was for the last: they come in streams.
        urgency.set(parts.bytes() <= SMALL_BYTES);
        let hand = Hand { reader: Some(reader), seat: Some(seat) };
        serve(desk, adapter, &parts, (Way::Device, again), hand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount that some read requests of is served: it must not be said to be gone, and be mounted once more.
    #[test]
    fn a_mount_is_served_by_as_many_readers_as_can_be_started() {
        let full = |_| Err(io::Error::from_raw_os_error(libc::EAGAIN));
        let with = |there: u32| some((0..4).map(|i| if i < there { Ok(i) } else { full(i) }));
        assert_eq!(with(4).unwrap(), [0, 1, 2, 3]);
        assert_eq!(with(1).unwrap(), [0]);
        assert_eq!(with(0).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }
}
