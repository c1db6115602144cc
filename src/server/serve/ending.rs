//! How a server ends: what is mounted goes, and what programs have written to it is written back.

use super::{FIRST_MOUNT, Server};
use crate::exit_code::Exit;
use crate::fs::VolumeId;
use crate::fuse::{InHand, Ledger};
use crate::mount::{self, Detached, MountEntry};
use crate::open_store::Meanwhile;
use crate::server::holder::link::is_ending;
use crate::server::listener;
use crate::server::write_back::{beside, write_back};
use crate::volume::{Result, VolumeError};
use parking_lot::{Mutex, RwLockReadGuard};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server waits, when it is told to end, for programs to let go of its mounts, until it looks at what they do.
const LAST_UNMOUNT: Duration = Duration::from_secs(8);
/// How long what is being written back, or made durable, may come no further: it waits for the disk, which can have much to write and
/// cannot be hurried.
const LONGEST_DISK: Duration = Duration::from_secs(900);
/// How long changes that are under way are waited for when the store is closed, and mounts that the kernel answers nothing on any more.
const LAST_CHANGES: Duration = Duration::from_secs(10);
/// How often somebody else is thought of meanwhile.
const MEANWHILE: Duration = Duration::from_millis(50);

/// A mount, as mountinfo shows it.
struct Shown {
    volume: String,
    dir: PathBuf,
    /// The number of its connection in the kernel, if it was seen from here.
    connection: Option<u32>,
    /// Its FUSE device.
    device: Arc<OwnedFd>,
    /// The volume or snapshot, as the metadata knows it.
    id: VolumeId,
}

impl Shown {
    /// Whether this is what lies on top at its directory.
    fn is_it(&self, entry: &MountEntry) -> bool {
        entry.volume() == Some(&self.volume)
            && self.connection.is_none_or(|number| entry.connection() == Some(number))
    }

    /// Whether it can be unmounted where it was mounted.
    fn is_there(&self) -> bool {
        match mount::entry_at(&self.dir) {
            Ok(Some(entry)) if self.is_it(&entry) => true,
            Ok(Some(entry)) => {
                log::warn!(
                    "volume {:?} is not what is mounted on {} now ({} of type {}), which stays; unmount that first another time",
                    self.volume,
                    self.dir.display(),
                    String::from_utf8_lossy(&entry.source),
                    entry.fs_type
                );
                false
            }
            Ok(None) => {
                log::info!("volume {:?} is not mounted on {} any more", self.volume, self.dir.display());
                false
            }
            Err(e) => {
                log::warn!("volume {:?} on {} is not unmounted: {e}", self.volume, self.dir.display());
                false
            }
        }
    }
}

/// Has what programs have written to a mount, also where it is not the one that they use: it can be bound elsewhere, in a container,
/// lie under another mount, or have been taken out of the tree before, by a server that this one has taken over from, or by somebody
/// else.
fn have(shown: &Shown, detached: Option<Detached>, ledger: &Ledger) {
    let root = match (mount::root_of(shown.device.as_fd()), detached) {
        (Err(_), Some(detached)) => detached.root().map(Some).map_err(Into::into),
        (root, _) => root,
    };
    let done = root.and_then(|root| write_back(root, ledger, shown.id));
    if let Err(e) = done {
        log::warn!("cannot write back what programs wrote to {}: {e}", shown.dir.display());
    }
}

/// Whether programs that go on using a mount are still waited for.
#[derive(Debug, Default)]
struct Farewell {
    /// At the last look: whether something was being written back, and the oldest request.
    before: Option<(bool, Option<InHand>)>,
    /// How long a request that may be waiting for the disk has come no further.
    still: Duration,
}

impl Farewell {
    /// Looks, [`LAST_UNMOUNT`] after the last look: whether it is time to go. Until everything is written back, and then once more, it is
    /// not, as long as that goes on; nor while a sync waits for the disk.
    fn is_over(&mut self, writes_back: bool, oldest: Option<InHand>) -> bool {
        let before = self.before.replace((writes_back, oldest));
        let wrote_back = before.is_some_and(|(wrote_back, _)| wrote_back);
        let then = before.and_then(|(_, oldest)| oldest);
        let is_same = then.is_some_and(|then| oldest.is_some_and(|now| then.is_no_further(&now)));
        let syncs = oldest.is_some_and(|oldest| oldest.is_sync());
        if is_same && (writes_back || syncs) {
            self.still += LAST_UNMOUNT;
            return self.still >= LONGEST_DISK;
        }
        self.still = Duration::ZERO;
        // The first look does not tell a sync that takes long from one of many.
        let may_wait = syncs && before.is_none();
        !(writes_back || may_wait || (wrote_back && !is_same))
    }
}

/// What the kernel has yet to write back is waited for. However that ends: whoever waits for it does not wait for ever.
struct WritingBack<'a>(&'a Server);

impl<'a> WritingBack<'a> {
    fn begin(server: &'a Server) -> Self {
        server.state.lock().writing_back += 1;
        Self(server)
    }
}

impl Drop for WritingBack<'_> {
    fn drop(&mut self) {
        self.0.state.lock().writing_back -= 1;
        self.0.notify();
    }
}

impl Server {
    /// Takes no more mounts, and unmounts those there are. Busy ones are taken out of the tree at once and end when
    /// nobody uses them any more; what programs wrote to them so far is written back first, wherever they have them. What else lies on
    /// their directories stays.
    pub fn terminate(&self) {
        let _writing_back = WritingBack::begin(self);
        let shown: Vec<Shown> = {
            let mut state = self.state.lock();
            state.ending = true;
            let shown = state.mounts.iter().map(|(volume, mounted)| Shown {
                volume: volume.clone(),
                dir: mounted.dir.clone(),
                connection: mounted.connection_number,
                device: Arc::clone(&mounted.device),
                id: mounted.fs.volume(),
            });
            shown.collect()
        };
        self.notify();
        self.keeper.told_to_end();
        let detach = |shown: Shown| {
            let detached = shown.is_there().then(|| mount::detach(&shown.dir));
            let detached = detached.and_then(|detached| {
                detached.inspect_err(|e| log::warn!("cannot unmount {}: {e}", shown.dir.display())).ok()
            });
            (shown, Mutex::new(detached))
        };
        let detached: Vec<_> = shown.into_iter().map(detach).collect();
        beside(detached.iter().map(|(shown, detached)| || have(shown, detached.lock().take(), &self.ledger)));
    }
}

impl Server {
    /// Refuses to change the family of a store that is being closed. It is not as long as the guard lives.
    ///
    /// # Errors
    /// When it is too late.
    pub(in crate::server) fn changing(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let is_closing = self.is_closing.read();
        match *is_closing {
            true => Err(VolumeError::new(Exit::Failure, is_ending(self.state.lock().mounts.keys()))),
            false => Ok(is_closing),
        }
    }

    /// The end of a server that nothing takes over from: whoever still uses its mounts is answered with an error from here on, where the store is
    /// shipped. What was acknowledged is shipped before the store is let go of.
    pub(super) fn end(&self, mut meanwhile: Meanwhile<'_, '_>) {
        self.keeper.ending();
        let is_quiet = self.shipping.is_some() && self.be_quiet(meanwhile.as_deref_mut());
        self.close_as(is_quiet, meanwhile);
    }

    /// Closes the store, and lets go of its remote where nobody can be using it.
    pub(super) fn close(&self, meanwhile: Meanwhile<'_, '_>) {
        self.keeper.ending();
        let is_quiet = self.state.lock().mounts.is_empty();
        self.close_as(is_quiet, meanwhile);
    }

    fn close_as(&self, is_quiet: bool, mut meanwhile: Meanwhile<'_, '_>) {
        self.recorder.detach();
        if let Some(shipping) = &self.shipping {
            shipping.end(is_quiet, meanwhile.as_deref_mut());
        }
        if let Err(e) = self.store.close_while(meanwhile) {
            log::error!("cannot close the store: {e}");
        }
        self.recorder.note_all();
        listener::unbind(&self.path);
        self.state.lock().closed = true;
        self.notify();
    }

    /// From now on, no change of the store is acknowledged: neither to programs that still have one of its mounts, nor to who changes the family.
    /// False: that is not for sure.
    fn be_quiet(&self, mut meanwhile: Meanwhile<'_, '_>) -> bool {
        let left: Vec<(String, Option<u32>)> = {
            let state = self.state.lock();
            // (The number of one that is gone may be another file system's by now.)
            let left = state.mounts.iter().filter(|(_, it)| !it.gone);
            left.map(|(volume, it)| (volume.clone(), it.connection_number)).collect()
        };
        let abort = |(volume, number): &(String, Option<u32>)| {
            let aborted = match number {
                Some(number) => mount::abort(*number),
                None => Err(std::io::Error::other("its FUSE connection is not known")),
            };
            match aborted {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("volume {volume:?}: programs that still use it cannot be kept from that: {e}");
                    false
                }
                _ => true,
            }
        };
        let not_aborted = left.iter().filter(|mount| !abort(mount)).count();
        let mut is_quiet = not_aborted == 0;
        let until = Instant::now() + LAST_CHANGES;
        let mut is_over = |until: Instant| {
            if let Some(meanwhile) = &mut meanwhile {
                meanwhile();
            }
            Instant::now() >= until
        };
        loop {
            if let Some(mut is_closing) = self.is_closing.try_write_for(MEANWHILE) {
                *is_closing = true;
                break;
            }
            if is_over(until) {
                log::warn!("a change of the store's volumes is still under way");
                is_quiet = false;
                break;
            }
        }
        // What is done without being acknowledged is shipped as well, where that comes to an end.
        while is_quiet && !self.state.lock().mounts.is_empty() && !is_over(until) {
            let mut state = self.state.lock();
            if !state.mounts.is_empty() {
                self.changed.wait_for(&mut state, MEANWHILE);
            }
        }
        is_quiet
    }
}

/// How far a server is with its life: it ends when the last mount is gone, none ever came, or [`Server::terminate`] was called.
pub(super) struct Life {
    first_mount_until: Instant,
    farewell: Farewell,
    /// When that is next looked at; `None` before it comes to that.
    farewell_at: Option<Instant>,
}

impl Life {
    pub(super) fn new() -> Self {
        let first_mount_until = Instant::now() + FIRST_MOUNT;
        Self { first_mount_until, farewell: Farewell::default(), farewell_at: None }
    }

    /// By when it is to be looked at again, at the latest, if nothing changes; `None` when it is over.
    pub(super) fn look(&mut self, server: &Server, now: Instant) -> Option<Option<Instant>> {
        let mut state = server.state.lock();
        if !state.served && !state.ending && state.syncing > 0 {
            // Who has started it for that goes when it is done, and is heard of.
            return Some(None);
        }
        if !state.served && !state.ending {
            if now < self.first_mount_until {
                return Some(Some(self.first_mount_until));
            }
            log::warn!("nobody mounted a volume; ending");
            state.ending = true;
        }
        if !state.mounts.is_empty() && !state.ending {
            return Some(None);
        }
        state.ending = true;
        if state.mounts.is_empty() {
            return None;
        }
        let at = *self.farewell_at.get_or_insert(now + LAST_UNMOUNT);
        if now < at {
            return Some(Some(at));
        }
        if self.farewell.is_over(state.writing_back > 0, server.ledger.oldest()) {
            log::warn!("programs still use the volume; ending anyway");
            return None;
        }
        self.farewell_at = Some(now + LAST_UNMOUNT);
        Some(self.farewell_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: u64 = 16;
    const FSYNC: u64 = 20;

    fn request(unique: u64, opcode: u64) -> Option<InHand> {
        Some(InHand::of(unique, opcode))
    }

    /// How many looks there are until it is over, if this is what each finds.
    fn looks(found: impl Fn(u32) -> (bool, Option<InHand>)) -> u32 {
        let mut farewell = Farewell::default();
        let is_over = |i: &u32| {
            let (writes_back, oldest) = found(*i);
            farewell.is_over(writes_back, oldest)
        };
        (0..1000).find(is_over).unwrap() + 1
    }

    #[test]
    fn what_waits_for_the_disk_is_waited_for_and_programs_that_go_on_are_not() {
        let slow = LONGEST_DISK.as_secs() / LAST_UNMOUNT.as_secs();
        let is_slow = |looks: u32| u64::from(looks) > slow && u64::from(looks) <= slow + 2;
        // One sync, a sync among what is written back, a write that waits for one.
        assert!(is_slow(looks(|_| (false, request(1, FSYNC)))));
        assert!(is_slow(looks(|_| (true, request(1, FSYNC)))));
        assert!(is_slow(looks(|_| (true, request(1, WRITE)))));
        // It ends after a minute, and everything is written back.
        assert_eq!(looks(|i| if i < 7 { (true, request(1, FSYNC)) } else { (false, None) }), 9);
        // Whoever goes on, is idle, or hangs otherwise, is left.
        assert_eq!(looks(|_| (false, None)), 1);
        assert_eq!(looks(|i| (false, request(i.into(), WRITE))), 1);
        assert_eq!(looks(|_| (false, request(1, WRITE))), 1);
        assert_eq!(looks(|i| (false, request(i.into(), FSYNC))), 2);
        assert_eq!(looks(|i| (i == 0, request(1, WRITE))), 2);
        // What is written back goes on, for however long.
        assert_eq!(looks(|i| (i < 500, request(i.into(), WRITE))), 502);
    }

    #[test]
    fn only_the_mount_itself_is_unmounted() {
        let entry = |line: &str| MountEntry::parse(line.as_bytes()).unwrap();
        let ours = entry("36 35 0:70 / /mnt/v rw - fuse.larder v rw");
        let again = entry("37 35 0:71 / /mnt/v rw - fuse.larder v rw");
        let other = entry("37 35 0:70 / /mnt/v rw - fuse.larder w rw");
        let memory = entry("37 36 0:70 / /mnt/v rw - tmpfs v rw");
        let device: Arc<OwnedFd> = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let shown = |connection| Shown {
            volume: "v".into(),
            dir: "/mnt/v".into(),
            connection,
            device: Arc::clone(&device),
            id: 1,
        };
        for (connection, are_it) in
            [(Some(70), [true, false, false, false]), (None, [true, true, false, false])]
        {
            let is_it = [&ours, &again, &other, &memory].map(|entry| shown(connection).is_it(entry));
            assert_eq!(is_it, are_it, "{connection:?}");
        }
    }
}
