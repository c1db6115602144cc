//! Our own session on `/dev/fuse`: one reader pinned to each CPU.

use super::adapter::{Adapter, Agreed};
use super::negotiation::{MAX_WRITE_BYTES, flag};
use super::pin::Pinner;
use super::reply::{Answer, List, Reply, errno, with_buffer};
use super::wire::{self, Decoded, InHeader, Listing, Malformed, Offer, OutHeader, Parts, opcode};
use nix::errno::Errno;
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use zerocopy::IntoBytes;

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
    fn answer(&self, unique: u64, error: i32, body: &[u8]) {
        let header = OutHeader { len: (size_of::<OutHeader>() + body.len()) as u32, error, unique };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
        if let Err(e) = writev(&self.fd, parts) {
            // The caller was killed meanwhile, or the mount is gone.
            log::debug!("answering a request: {e}");
        }
    }

    /// Tells the kernel something unasked. Waits for what the kernel does about it.
    pub(super) fn notify(&self, message: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, message)?;
        Ok(())
    }

    /// Agrees with the kernel on the protocol; returns the bits of INIT that both sides want.
    ///
    /// # Errors
    /// When the kernel is too old, or the mount is gone already.
    pub(super) fn agree(&self, wanted: u64) -> io::Result<u64> {
        let mut buffer = vec![0; REQUEST_BYTES];
        loop {
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the mount is gone already");
            let message = self.receive(&mut buffer)?.ok_or_else(gone)?;
            let Ok(Parts { header, rest, .. }) = wire::parts(message) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the first request makes no sense"));
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
            let agreed = offer.agreed(wanted);
            self.answer(header.unique, 0, offer.answer(agreed).as_bytes());
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
        }
    }
}

/// The way back to the caller of one request.
struct DeviceReply {
    device: Arc<Device>,
    unique: u64,
}

impl Reply for DeviceReply {
    fn send(self, answer: Result<Answer, Errno>) {
        match answer {
            Ok(answer) => wire::with_bytes(&answer, |bytes| self.device.answer(self.unique, 0, bytes)),
            Err(e) => self.device.answer(self.unique, -(e as i32), &[]),
        }
    }

    fn send_bytes(self, bytes: &[u8]) {
        self.device.answer(self.unique, 0, bytes);
    }

    fn list(self, size: usize, plus: bool, list: List<'_>) {
        with_buffer(size.min(MAX_WRITE_BYTES as usize), |buffer| {
            let mut listing = Listing::new(buffer, plus);
            match list(&mut |listed| listing.add(listed)) {
                Ok(()) => self.device.answer(self.unique, 0, listing.bytes()),
                Err(e) => self.send(Err(errno(e))),
            }
        });
    }
}

/// Starts `count` readers, which end when the mount is gone.
///
/// # Errors
/// When a thread cannot be started.
pub(super) fn start_readers(
    device: &Arc<Device>,
    adapter: &Arc<Adapter>,
    pinner: &Arc<Pinner>,
    count: usize,
) -> io::Result<Vec<JoinHandle<io::Result<()>>>> {
    let start = |i: usize| {
        let (device, adapter, pinner) = (Arc::clone(device), Arc::clone(adapter), Arc::clone(pinner));
        std::thread::Builder::new().name(format!("larder-fuse-{i}")).spawn(move || {
            pinner.pin();
            read_requests(&device, &adapter)
        })
    };
    (0..count).map(start).collect()
}

fn read_requests(device: &Arc<Device>, adapter: &Adapter) -> io::Result<()> {
    let mut buffer = vec![0; REQUEST_BYTES];
    while let Some(message) = device.receive(&mut buffer)? {
        let Ok(parts) = wire::parts(message) else {
            // Without its number, nothing can be answered.
            log::error!("the kernel sent {} bytes that are no request", message.len());
            continue;
        };
        serve(device, adapter, &parts);
    }
    Ok(())
}

fn serve(device: &Arc<Device>, adapter: &Adapter, parts: &Parts<'_>) {
    let InHeader { unique, opcode, .. } = parts.header;
    let reply = || DeviceReply { device: Arc::clone(device), unique };
    match wire::decode(parts) {
        Ok(Decoded::Request(request)) => adapter.handle(&request, reply()),
        Ok(Decoded::Forget { node, count }) => adapter.forget(node, count),
        Ok(Decoded::Forgets(forgets)) => {
            for (node, count) in forgets.iter() {
                adapter.forget(node, count);
            }
        }
        Ok(Decoded::Destroy) => reply().send(Ok(Answer::Done)),
        Ok(Decoded::Unknown) => reply().send(Err(Errno::ENOSYS)),
        Err(Malformed) => {
            log::error!("a request of kind {opcode} makes no sense");
            reply().send(Err(Errno::EIO));
        }
    }
}
