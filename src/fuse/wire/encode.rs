//! Answers, from values to bytes.

use super::abi::{self, AttrOut, AttrWire, CreateOut, Dirent, EntryOut, OpenOut, StatxOut, SxTime};
use crate::fs::{Attr, Kind, Timestamp};
use crate::fuse::reply::{Answer, Listed, TTL};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Size of a block as stat(2) and statfs(2) show it.
const BLOCK: u32 = 4096;

/// Lets `take` have the bytes of an answer, without the header. If `most` is given, the kernel keeps what it says for so long at most.
pub(in crate::fuse) fn with_bytes<T>(
    answer: &Answer,
    most: Option<Duration>,
    take: impl FnOnce(&[u8]) -> T,
) -> T {
    let kept = |ttl: Duration| most.map_or(ttl, |most| ttl.min(most));
    match answer {
        Answer::Done => take(&[]),
        Answer::Entry { attr, ttl } => take(entry(attr, kept(*ttl)).as_bytes()),
        Answer::NoEntry { ttl } => take(no_entry(kept(*ttl)).as_bytes()),
        Answer::Attr { attr, ttl } => take(
            AttrOut {
                attr_valid: kept(*ttl).as_secs(),
                attr_valid_nsec: kept(*ttl).subsec_nanos(),
                dummy: 0,
                attr: attr_wire(attr),
            }
            .as_bytes(),
        ),
        Answer::Statx { attr, ttl } => take(statx(attr, kept(*ttl)).as_bytes()),
        Answer::Created { attr } => {
            take(CreateOut { entry: entry(attr, kept(TTL)), open: open(abi::OPEN_KEEP_CACHE) }.as_bytes())
        }
        Answer::Opened => take(open(abi::OPEN_KEEP_CACHE).as_bytes()),
        Answer::OpenedDir if most.is_some() => take(open(0).as_bytes()),
        Answer::OpenedDir => take(open(abi::OPEN_KEEP_CACHE | abi::OPEN_CACHE_DIR).as_bytes()),
        Answer::Bytes(bytes) => take(bytes),
        Answer::Size(size) => take(abi::GetXattrOut { size: *size, padding: 0 }.as_bytes()),
        Answer::Written(size) => take(abi::WriteOut { size: *size, padding: 0 }.as_bytes()),
        Answer::Ioctl(bytes) => take(&[abi::IoctlOut::default().as_bytes(), bytes].concat()),
        Answer::Offset(offset) => take(abi::LseekOut { offset: *offset }.as_bytes()),
        Answer::Space(space) => take(
            abi::StatFsOut {
                blocks: space.blocks,
                bfree: space.blocks_free,
                bavail: space.blocks_available,
                files: space.inodes,
                ffree: space.inodes_free,
                bsize: BLOCK,
                namelen: crate::meta::NAME_MAX as u32,
                frsize: BLOCK,
                ..Default::default()
            }
            .as_bytes(),
        ),
    }
}

fn open(open_flags: u32) -> OpenOut {
    OpenOut { fh: 0, open_flags, backing_id: 0 }
}

fn entry(attr: &Attr, ttl: Duration) -> EntryOut {
    EntryOut {
        nodeid: attr.ino,
        generation: u64::from(attr.generation),
        entry_valid: ttl.as_secs(),
        attr_valid: ttl.as_secs(),
        entry_valid_nsec: ttl.subsec_nanos(),
        attr_valid_nsec: ttl.subsec_nanos(),
        attr: attr_wire(attr),
    }
}

/// Node 0 says that there is no such name.
fn no_entry(ttl: Duration) -> EntryOut {
    EntryOut { entry_valid: ttl.as_secs(), entry_valid_nsec: ttl.subsec_nanos(), ..EntryOut::default() }
}

fn attr_wire(attr: &Attr) -> AttrWire {
    AttrWire {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec,
        mtime: attr.mtime.sec,
        ctime: attr.ctime.sec,
        atime_nsec: attr.atime.nsec,
        mtime_nsec: attr.mtime.nsec,
        ctime_nsec: attr.ctime.nsec,
        mode: mode(attr),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

fn mode(attr: &Attr) -> u32 {
    attr.kind.mode_bits() | u32::from(attr.permissions)
}

fn statx(attr: &Attr, ttl: Duration) -> StatxOut {
    let time = |time: Timestamp| SxTime { sec: time.sec, nsec: time.nsec, reserved: 0 };
    let rdev = u64::from(attr.rdev);
    StatxOut {
        attr_valid: ttl.as_secs(),
        attr_valid_nsec: ttl.subsec_nanos(),
        mask: abi::STATX_BASIC_AND_BIRTH,
        blksize: BLOCK,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: mode(attr) as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: libc::major(rdev),
        rdev_minor: libc::minor(rdev),
        ..StatxOut::default()
    }
}

/// A listing in the making.
#[derive(Debug)]
pub(in crate::fuse) struct Listing<'a> {
    out: &'a mut [u8],
    len: usize,
    plus: bool,
    /// How long the kernel keeps what it says, at most.
    most: Duration,
}

impl<'a> Listing<'a> {
    /// An empty one that may grow to fill `out`; with `plus`, entries carry attributes.
    pub(in crate::fuse) fn new(out: &'a mut [u8], plus: bool) -> Self {
        Self { out, len: 0, plus, most: Duration::MAX }
    }

    /// The same, which the kernel keeps for so long at most.
    pub(in crate::fuse) fn kept_for(self, most: Option<Duration>) -> Self {
        Self { most: most.unwrap_or(Duration::MAX), ..self }
    }

    /// What there is so far.
    pub(in crate::fuse) fn bytes(&self) -> &[u8] {
        &self.out[..self.len]
    }

    /// Adds entries, all of them or none; returns how many. A group that not even an empty listing has room for is begun.
    pub(in crate::fuse) fn add_group(&mut self, group: &[Listed<'_>]) -> usize {
        let before = self.len;
        let added = group.iter().take_while(|listed| self.add(listed)).count();
        if added < group.len() && before > 0 {
            self.len = before;
            return 0;
        }
        added
    }

    /// Adds an entry; false if there is no room.
    fn add(&mut self, listed: &Listed<'_>) -> bool {
        let name = &listed.entry.name;
        let dirent = Dirent {
            ino: listed.node,
            off: listed.entry.cookie,
            namelen: name.len() as u32,
            kind: kind(listed.entry.kind),
        };
        let before = if self.plus { size_of::<EntryOut>() } else { 0 };
        let used = before + size_of::<Dirent>() + name.len();
        let padded = used.next_multiple_of(8);
        let Some(out) = self.out.get_mut(self.len..self.len + padded) else { return false };
        if self.plus {
            out[..before].copy_from_slice(entry_of(listed, self.most).as_bytes());
        }
        out[before..before + size_of::<Dirent>()].copy_from_slice(dirent.as_bytes());
        out[before + size_of::<Dirent>()..used].copy_from_slice(name);
        out[used..].fill(0);
        self.len += padded;
        true
    }
}

/// What a listing with attributes says of an entry. Node 0 says that the kernel is not to remember it: `.` and `..`, of
/// which it knows already.
fn entry_of(listed: &Listed<'_>, most: Duration) -> EntryOut {
    match listed.attr {
        Some(attr) => entry(&attr, listed.ttl.min(most)),
        None => EntryOut {
            attr: AttrWire { ino: listed.node, mode: listed.entry.kind.mode_bits(), ..AttrWire::default() },
            ..EntryOut::default()
        },
    }
}

/// A file type as readdir(3) shows it.
fn kind(kind: Kind) -> u32 {
    kind.mode_bits() >> 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Entry;

    fn attr() -> Attr {
        let time = |sec| Timestamp { sec, nsec: 5 };
        Attr {
            ino: 9,
            kind: Kind::Regular,
            permissions: 0o640,
            nlink: 2,
            uid: 1,
            gid: 3,
            rdev: 0,
            size: 10,
            blocks: 8,
            atime: time(-1),
            mtime: time(2),
            ctime: time(3),
            btime: time(4),
            generation: 0,
        }
    }

    #[test]
    fn answers_have_the_size_that_the_kernel_expects() {
        let (attr, ttl) = (attr(), TTL);
        for (answer, size) in [
            (Answer::Done, 0),
            (Answer::Entry { attr, ttl }, 128),
            (Answer::NoEntry { ttl }, 128),
            (Answer::Attr { attr, ttl }, 104),
            (Answer::Statx { attr, ttl }, 288),
            (Answer::Created { attr }, 144),
            (Answer::Opened, 16),
            (Answer::Size(3), 8),
            (Answer::Written(3), 8),
            (Answer::Offset(3), 8),
        ] {
            assert_eq!(with_bytes(&answer, None, <[u8]>::len), size, "{answer:?}");
        }
    }

    #[test]
    fn what_may_be_kept_for_a_moment_only_says_so() {
        let most = Some(Duration::from_millis(1500));
        let (attr, ttl) = (attr(), TTL);
        let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        // (Where its seconds are, and those of attributes.)
        for (answer, at) in [
            (Answer::Entry { attr, ttl }, [16, 24]),
            (Answer::NoEntry { ttl }, [16, 16]),
            (Answer::Attr { attr, ttl }, [0, 0]),
            (Answer::Statx { attr, ttl }, [0, 0]),
            (Answer::Created { attr }, [16, 24]),
        ] {
            with_bytes(&answer, most, |bytes| assert_eq!(at.map(|at| word(bytes, at)), [1, 1], "{answer:?}"));
            with_bytes(&answer, None, |bytes| assert!(word(bytes, at[0]) > 1_000_000, "{answer:?}"));
        }
        with_bytes(&Answer::OpenedDir, most, |bytes| assert_eq!(bytes[8..12], [0; 4]));
        let entry = Entry { name: (*b"name").into(), ino: 9, kind: Kind::Regular, cookie: 77 };
        let listed = Listed { node: 9, entry: &entry, attr: Some(attr), ttl };
        let mut room = [0; 160];
        let mut listing = Listing::new(&mut room, true).kept_for(most);
        assert!(listing.add(&listed));
        assert_eq!((word(listing.bytes(), 16), word(listing.bytes(), 24)), (1, 1));
    }

    #[test]
    fn times_before_1970_and_of_birth_are_shown() {
        with_bytes(&Answer::Statx { attr: attr(), ttl: TTL }, None, |bytes| {
            let number = |at: usize| i64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
            // struct fuse_statx begins at 32, its times at 64 of that.
            assert_eq!((number(32 + 64), number(32 + 80), number(32 + 112)), (-1, 4, 2));
        });
    }

    #[test]
    fn a_listing_ends_where_the_room_does() {
        let entry = Entry { name: (*b"name").into(), ino: 9, kind: Kind::Regular, cookie: 77 };
        let attr = attr();
        let listed = Listed { node: 9, entry: &entry, attr: Some(attr), ttl: TTL };
        let mut room = [0xff; 100];
        let mut listing = Listing::new(&mut room, false);
        assert!(listing.add(&listed) && listing.add(&listed) && listing.add(&listed));
        assert!(!listing.add(&listed));
        assert_eq!(listing.bytes().len(), 3 * 32);
        assert_eq!(&listing.bytes()[24..32], b"name\0\0\0\0");
        assert!(!Listing::new(&mut room, true).add(&listed));
        let mut room = [0; 160];
        assert!(Listing::new(&mut room, true).add(&listed));
    }

    #[test]
    fn a_group_is_in_a_listing_as_a_whole_or_not_at_all() {
        let entry = Entry { name: (*b"name").into(), ino: 9, kind: Kind::Regular, cookie: 77 };
        let group = [Listed { node: 9, entry: &entry, attr: None, ttl: TTL }; 3];
        let mut room = [0xff; 150];
        let mut listing = Listing::new(&mut room, false);
        assert_eq!((listing.add_group(&group[..2]), listing.add_group(&group)), (2, 0));
        assert_eq!(listing.bytes().len(), 2 * 32);
        assert_eq!((listing.add_group(&group[..2]), listing.bytes().len()), (2, 4 * 32));
        // One that fits nowhere is not kept from making progress.
        let mut room = [0xff; 70];
        assert_eq!(Listing::new(&mut room, false).add_group(&group), 2);
    }
}
