//! Our own session on `/dev/fuse`: one reader pinned to each CPU; or a single one beside rings, for what does not come by them.

use super::adapter::{Adapter, Agreed};
use super::awake::Pace;
use super::crew::{Crew, Member};
use super::ledger::Seat;
use super::negotiation::{MAX_WRITE_BYTES, Wanted, believed, flag};
use super::pin::Pinner;
use super::serving::{Hand, Way, serve};
use super::task::Desk;
use super::wire::{self, Offer, OutHeader, Parts, opcode};
use crate::scheduling::Urgency;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munlock, munmap};
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    ///
    /// # Errors
    /// `Interrupted` if a signal comes and `is_called`.
    fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        is_called: impl Fn() -> bool,
    ) -> io::Result<Option<&'a [u8]>> {
        loop {
            match nix::unistd::read(&self.fd, &mut *buffer) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                Err(Errno::EINTR) if is_called() => return Err(io::ErrorKind::Interrupted.into()),
                // ENOENT: the caller was killed before we came to its request.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ENODEV | Errno::ECONNABORTED) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether the mount is gone.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_err() || fds[0].any().unwrap_or(true)
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
            let message = self.receive(&mut buffer, || false)?.ok_or_else(gone)?;
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

/// Starts a reader on `seat`, which stays on no CPU and ends when the mount is gone.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start_reader(readers: Readers, seat: Seat) -> io::Result<JoinHandle<io::Result<()>>> {
    let number = next_reader(readers.incarnation);
    let read = move || read_requests(&readers, number, &seat, None);
    std::thread::Builder::new().name("larder-fuse-0".into()).spawn(read)
}

/// What requests are read into. Its pages are all there, and stay, while it is *resident*. If the kernel had to fetch one while it gives
/// a request to a process that is just being killed, it would give that up, and answer the request with EIO.
pub(super) struct Buffer {
    start: NonNull<u8>,
    is_resident: bool,
}

impl Buffer {
    /// One that takes no memory yet.
    ///
    /// # Errors
    /// As mmap(2).
    fn new() -> io::Result<Self> {
        let len = NonZeroUsize::MIN.saturating_add(REQUEST_BYTES - 1);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        #[expect(unsafe_code, reason = "nix cannot know what becomes of a mapping")]
        // SAFETY: a new mapping, which takes nothing else's place and is removed when this goes.
        let start = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE)? };
        Ok(Self { start: start.cast(), is_resident: false })
    }

    pub(super) fn is_resident(&self) -> bool {
        self.is_resident
    }

    fn bytes(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "the mapping is no slice")]
        // SAFETY: the mapping is of this length, initialized with zeros, and borrowed as this is.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), REQUEST_BYTES)
        }
    }

    /// Its pages are all there from now on, and stay.
    pub(super) fn make_resident(&mut self) {
        if std::mem::replace(&mut self.is_resident, true) {
            return;
        }
        #[expect(unsafe_code, reason = "nix takes a pointer")]
        // SAFETY: locking changes nothing but whether pages can be taken away; they are the buffer's.
        let locked = unsafe { mlock(self.start.cast(), REQUEST_BYTES) };
        if let Err(e) = locked {
            log::debug!("cannot lock a buffer into memory: {e}");
            self.bytes().fill(0xff);
        }
    }

    /// Gives its pages back.
    pub(super) fn give_back(&mut self) {
        if !std::mem::replace(&mut self.is_resident, false) {
            return;
        }
        #[expect(unsafe_code, reason = "nix takes a pointer")]
        // SAFETY: the pages are the buffer's, which nobody borrows; what is in them is not needed.
        let given = unsafe {
            let _ = munlock(self.start.cast(), REQUEST_BYTES);
            madvise(self.start.cast(), REQUEST_BYTES, MmapAdvise::MADV_DONTNEED)
        };
        if let Err(e) = given {
            log::debug!("cannot give back a buffer: {e}");
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "nix takes a pointer")]
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { munmap(self.start.cast(), REQUEST_BYTES) };
    }
}

/// Reads requests until the mount is gone, or until the crew that the reader is a member of lets it go.
pub(super) fn read_requests(
    readers: &Readers,
    reader: u64,
    seat: &Seat,
    crew: Option<(&Crew, &Member)>,
) -> io::Result<()> {
    let Readers { desk, adapter, .. } = readers;
    let mut buffer = Buffer::new()?;
    let mut pace = Pace::new(adapter.options().awake);
    let mut urgency = Urgency::new(adapter.options().scheduling);
    seat.read_here();
    loop {
        if let Some(gate) = &desk.gate {
            gate.wait_for_room(|| desk.device.is_gone());
        }
        seat.asks();
        let stands_by = match crew {
            Some((crew, member)) => crew.stand_by(member, &mut buffer),
            None => {
                buffer.make_resident();
                Ok(())
            }
        };
        let next = match stands_by {
            Ok(()) => desk.settling.next(|| {
                let received = receive(desk, buffer.bytes(), crew);
                seat.takes();
                received
            }),
            Err(e) => {
                seat.takes();
                Err(e)
            }
        };
        let (message, again) = match next {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                if crew.is_some_and(|(crew, member)| crew.lets_go(member)) {
                    return Ok(());
                }
                continue;
            }
            Err(e) => return Err(e),
        };
        pace.note();
        let Ok(parts) = wire::parts(message) else {
            // Without its number, nothing can be answered.
            log::error!("the kernel sent {} bytes that are not a request", message.len());
            continue;
        };
        // Waiting for the next request, it is what it was for the last: they come in streams.
        urgency.set(parts.bytes() <= SMALL_BYTES);
        let hand = Hand { reader: Some(reader), seat: Some(seat) };
        // A panic is an error for the caller, who is answered when the way back to him goes, and no end of the reader.
        let serve = || serve(desk, adapter, &parts, (Way::Device, again), hand);
        if catch_unwind(AssertUnwindSafe(serve)).is_err() {
            log::error!("a request of kind {} made a reader panic, which goes on", parts.header.opcode);
        }
    }
}

/// The next message, for a reader that may be called away while it waits for one.
fn receive<'a>(
    desk: &Desk,
    buffer: &'a mut [u8],
    crew: Option<(&Crew, &Member)>,
) -> io::Result<Option<&'a [u8]>> {
    let Some((crew, member)) = crew else { return desk.device.receive(buffer, || false) };
    member.asks();
    // Who was not there yet when all were called sees it here.
    let received = if crew.is_called_away(member) {
        Err(io::ErrorKind::Interrupted.into())
    } else {
        desk.device.receive(buffer, || crew.calls())
    };
    member.takes();
    if matches!(received, Ok(Some(_))) {
        member.note_taken();
    }
    received
}
