//! Requests of the kernel, from bytes to values. Any bytes may come: what makes no sense is an error.

use super::abi::{self, InHeader, fattr, opcode};
use crate::fs::{Caller, SetAttr, TimeChange, Timestamp};
use crate::fuse::request::{Op, Request, WriteFlags};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A request in its parts, as io_uring delivers them.
#[derive(Clone, Copy, Debug)]
pub(in crate::fuse) struct Parts<'a> {
    pub(in crate::fuse) header: InHeader,
    /// The structure that belongs to the kind of request; longer than that, where its size is not known.
    pub(in crate::fuse) args: &'a [u8],
    /// What follows: names, values, data.
    pub(in crate::fuse) rest: &'a [u8],
}

/// What a request turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) enum Decoded<'a> {
    /// One that wants an answer.
    Request(Request<'a>),
    /// The kernel forgets a node; no answer.
    Forget { node: u64, count: u64 },
    /// The kernel forgets many; no answer.
    Forgets(Forgets<'a>),
    /// The end of the connection; to be answered.
    Destroy,
    /// One that we do without; to be answered with `ENOSYS`, whereupon the kernel does without it too.
    Unknown,
}

/// Nodes that are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Nodes and how often.
    pub(in crate::fuse) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let one = size_of::<abi::ForgetOne>();
        let each = self.0.chunks_exact(one).filter_map(|bytes| abi::ForgetOne::read_from_bytes(bytes).ok());
        each.map(|one| (one.nodeid, one.nlookup))
    }
}

/// A request that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// The structure at the start of `bytes`.
fn start<T: FromBytes + Immutable + KnownLayout>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| Malformed)
}

/// A string that ends with a NUL, and what follows it.
fn string(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn name(bytes: &[u8]) -> Result<&[u8]> {
    string(bytes).map(|(name, _)| name)
}

/// Bytes of the structure that belongs to a kind of request.
pub(super) fn args_bytes(kind: u32) -> usize {
    match kind {
        opcode::FORGET => size_of::<abi::ForgetIn>(),
        opcode::GETATTR => size_of::<abi::GetAttrIn>(),
        opcode::SETATTR => size_of::<abi::SetAttrIn>(),
        opcode::MKNOD => size_of::<abi::MknodIn>(),
        opcode::MKDIR => size_of::<abi::MkdirIn>(),
        opcode::RENAME => size_of::<abi::RenameIn>(),
        opcode::LINK => size_of::<abi::LinkIn>(),
        opcode::OPEN | opcode::OPENDIR => size_of::<abi::OpenIn>(),
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => size_of::<abi::ReadIn>(),
        opcode::WRITE => size_of::<abi::WriteIn>(),
        opcode::RELEASE | opcode::RELEASEDIR => size_of::<abi::ReleaseIn>(),
        opcode::FSYNC | opcode::FSYNCDIR => size_of::<abi::FsyncIn>(),
        opcode::SETXATTR => size_of::<abi::SetXattrIn>(),
        opcode::GETXATTR | opcode::LISTXATTR => size_of::<abi::GetXattrIn>(),
        opcode::FLUSH => size_of::<abi::FlushIn>(),
        opcode::CREATE | opcode::TMPFILE => size_of::<abi::CreateIn>(),
        opcode::IOCTL => size_of::<abi::IoctlIn>(),
        opcode::BATCH_FORGET => size_of::<abi::BatchForgetIn>(),
        opcode::FALLOCATE => size_of::<abi::FallocateIn>(),
        opcode::RENAME2 => size_of::<abi::Rename2In>(),
        opcode::LSEEK => size_of::<abi::LseekIn>(),
        opcode::COPY_FILE_RANGE => size_of::<abi::CopyFileRangeIn>(),
        opcode::STATX => size_of::<abi::StatxIn>(),
        _ => 0,
    }
}

/// Takes a message of `/dev/fuse` apart.
pub(in crate::fuse) fn parts(message: &[u8]) -> Result<Parts<'_>> {
    let (header, body) = InHeader::read_from_prefix(message).map_err(|_| Malformed)?;
    if header.len as usize != message.len() {
        return Err(Malformed);
    }
    let (args, rest) = body.split_at_checked(args_bytes(header.opcode)).ok_or(Malformed)?;
    Ok(Parts { header, args, rest })
}

impl Parts<'_> {
    /// Bytes of contents or names that the request brings, or asks for.
    pub(in crate::fuse) fn bytes(&self) -> usize {
        let asked = match self.header.opcode {
            opcode::READ | opcode::READDIR | opcode::READDIRPLUS => {
                start::<abi::ReadIn>(self.args).map_or(0, |read| read.size as usize)
            }
            _ => 0,
        };
        self.rest.len().max(asked)
    }

    /// Whether the kernel writes back what it has gathered.
    pub(in crate::fuse) fn is_write_back(&self) -> bool {
        self.header.opcode == opcode::WRITE
            && start::<abi::WriteIn>(self.args).is_ok_and(|write| write.write_flags & abi::WRITE_CACHE != 0)
    }
}

/// What the parts of a request say.
pub(in crate::fuse) fn decode<'a>(parts: &Parts<'a>) -> Result<Decoded<'a>> {
    let Parts { header, args, rest } = *parts;
    let op = match header.opcode {
        opcode::FORGET => {
            let count = start::<abi::ForgetIn>(args)?.nlookup;
            return Ok(Decoded::Forget { node: header.nodeid, count });
        }
        opcode::BATCH_FORGET => {
            let count = start::<abi::BatchForgetIn>(args)?.count as usize;
            let bytes = count.checked_mul(size_of::<abi::ForgetOne>()).ok_or(Malformed)?;
            return Ok(Decoded::Forgets(Forgets(rest.get(..bytes).ok_or(Malformed)?)));
        }
        opcode::DESTROY => return Ok(Decoded::Destroy),
        kind => {
            let mut families = [names, contents, others].into_iter();
            match families.find_map(|family| family(kind, args, rest).transpose()) {
                Some(op) => op?,
                None => return Ok(Decoded::Unknown),
            }
        }
    };
    let caller = Caller { uid: header.uid, gid: header.gid, pid: header.pid };
    Ok(Decoded::Request(Request { node: header.nodeid, caller, op }))
}

/// Requests about names.
fn names<'a>(kind: u32, args: &[u8], rest: &'a [u8]) -> Result<Option<Op<'a>>> {
    Ok(Some(match kind {
        opcode::LOOKUP => Op::Lookup { name: name(rest)? },
        opcode::UNLINK => Op::Unlink { name: name(rest)? },
        opcode::RMDIR => Op::RemoveDir { name: name(rest)? },
        opcode::SYMLINK => {
            let (new, rest) = string(rest)?;
            Op::Symlink { name: new, target: name(rest)? }
        }
        opcode::MKNOD => {
            let abi::MknodIn { mode, rdev, umask, .. } = start(args)?;
            Op::MakeNode { name: name(rest)?, mode, umask, rdev }
        }
        opcode::MKDIR => {
            let abi::MkdirIn { mode, umask } = start(args)?;
            Op::MakeDir { name: name(rest)?, mode, umask }
        }
        opcode::CREATE => {
            let abi::CreateIn { mode, umask, .. } = start(args)?;
            Op::Create { name: name(rest)?, mode, umask }
        }
        // The name that follows is not one.
        opcode::TMPFILE => {
            let abi::CreateIn { mode, umask, .. } = start(args)?;
            Op::CreateUnnamed { mode, umask }
        }
        opcode::LINK => Op::Link { target: start::<abi::LinkIn>(args)?.old_node, name: name(rest)? },
        opcode::RENAME | opcode::RENAME2 => {
            let (old, rest) = string(rest)?;
            let (new_parent, flags) = if kind == opcode::RENAME {
                (start::<abi::RenameIn>(args)?.new_dir, 0)
            } else {
                let abi::Rename2In { new_dir, flags, .. } = start(args)?;
                (new_dir, flags)
            };
            Op::Rename { name: old, new_parent, new_name: name(rest)?, flags }
        }
        _ => return Ok(None),
    }))
}

/// Requests about contents.
fn contents<'a>(kind: u32, args: &[u8], rest: &'a [u8]) -> Result<Option<Op<'a>>> {
    Ok(Some(match kind {
        opcode::READ => {
            let abi::ReadIn { offset, size, read_flags, .. } = start(args)?;
            // The kernel names the owner of locks in direct requests only: what fills or empties its cache belongs to nobody.
            Op::Read { offset, size, past_cache: read_flags & abi::READ_LOCKOWNER != 0 }
        }
        opcode::WRITE => {
            let abi::WriteIn { offset, size, write_flags, flags, .. } = start(args)?;
            let data = rest.get(..size as usize).ok_or(Malformed)?;
            let mode = WriteFlags {
                from_cache: write_flags & abi::WRITE_CACHE != 0,
                kills_privileges: write_flags & abi::WRITE_KILL_SUIDGID != 0,
                direct: flags & libc::O_DIRECT != 0,
                // A direct write for which it could not drop the pages goes through the cache after all.
                past_cache: flags & libc::O_DIRECT != 0 && write_flags & abi::WRITE_LOCKOWNER != 0,
            };
            Op::Write { offset, data, mode }
        }
        opcode::READDIR | opcode::READDIRPLUS => {
            let abi::ReadIn { offset, size, .. } = start(args)?;
            Op::List { offset, size, plus: kind == opcode::READDIRPLUS }
        }
        opcode::FALLOCATE => {
            let abi::FallocateIn { offset, length, mode, .. } = start(args)?;
            Op::Allocate { offset, len: length, mode }
        }
        opcode::LSEEK => {
            let abi::LseekIn { offset, whence, .. } = start(args)?;
            Op::Seek { offset, whence }
        }
        opcode::COPY_FILE_RANGE => {
            let abi::CopyFileRangeIn { offset_in, node_out, offset_out, len, .. } = start(args)?;
            Op::CopyRange { offset: offset_in, target: node_out, target_offset: offset_out, len }
        }
        opcode::FSYNC | opcode::FSYNCDIR => Op::Sync,
        _ => return Ok(None),
    }))
}

/// All others.
fn others<'a>(kind: u32, args: &[u8], rest: &'a [u8]) -> Result<Option<Op<'a>>> {
    Ok(Some(match kind {
        opcode::GETATTR => {
            let abi::GetAttrIn { flags, .. } = start(args)?;
            Op::GetAttr { by_writer: flags & abi::GETATTR_FH != 0 }
        }
        opcode::STATX => Op::Statx,
        opcode::SETATTR => Op::SetAttr { set: set_attr(&start(args)?) },
        opcode::READLINK => Op::ReadLink,
        opcode::OPEN => Op::Open { flags: start::<abi::OpenIn>(args)?.flags as i32 },
        opcode::OPENDIR => Op::OpenDir,
        opcode::RELEASE | opcode::RELEASEDIR => Op::Release,
        opcode::FLUSH => Op::Flush,
        opcode::STATFS => Op::StatFs,
        opcode::IOCTL => {
            let abi::IoctlIn { cmd, arg, in_size, out_size, .. } = start(args)?;
            Op::Ioctl { cmd, arg, data: rest.get(..in_size as usize).ok_or(Malformed)?, out_size }
        }
        opcode::SETXATTR => {
            let abi::SetXattrIn { size, flags } = start(args)?;
            let (name, rest) = string(rest)?;
            Op::SetXattr { name, value: rest.get(..size as usize).ok_or(Malformed)?, flags }
        }
        opcode::GETXATTR => Op::GetXattr { name: name(rest)?, size: start::<abi::GetXattrIn>(args)?.size },
        opcode::LISTXATTR => Op::ListXattr { size: start::<abi::GetXattrIn>(args)?.size },
        opcode::REMOVEXATTR => Op::RemoveXattr { name: name(rest)? },
        _ => return Ok(None),
    }))
}

fn set_attr(from: &abi::SetAttrIn) -> SetAttr {
    let has = |bit: u32| from.valid & bit != 0;
    let time = |bit: u32, now: u32, sec: i64, nsec: u32| match (has(bit), has(now)) {
        (true, true) => Some(TimeChange::Now),
        (true, false) => Some(TimeChange::To(timestamp(sec, nsec))),
        (false, _) => None,
    };
    SetAttr {
        permissions: has(fattr::MODE).then_some(from.mode & 0o7777),
        uid: has(fattr::UID).then_some(from.uid),
        gid: has(fattr::GID).then_some(from.gid),
        size: has(fattr::SIZE).then_some(from.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, from.atime, from.atime_nsec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, from.mtime, from.mtime_nsec),
        ctime: has(fattr::CTIME).then_some(timestamp(from.ctime, from.ctime_nsec)),
        // `fuse_flush_times`. By a path, nobody names an open file.
        is_kept_times: from.valid & !fattr::CTIME == fattr::FH | fattr::MTIME,
    }
}

/// A time of the kernel's, whose nanoseconds are less than a second.
fn timestamp(sec: i64, nsec: u32) -> Timestamp {
    Timestamp { sec, nsec: nsec.min(999_999_999) }
}

/// A message of the fuzzer's: whatever its bytes are, decoding comes to an end, and what it makes of them lies within them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzzed(bytes: &[u8]) {
    use zerocopy::IntoBytes;
    // The length that the header claims is what it has to be, so that it does not end there.
    let mut whole = bytes.to_vec();
    if let Some(len) = whole.get_mut(..4) {
        len.copy_from_slice((bytes.len() as u32).as_bytes());
    }
    let _ = parts(bytes).map(|parts| decode(&parts));
    // The same as it comes by io_uring, with arguments of a fixed size.
    let Ok(whole) = parts(&whole) else { return };
    let mut args = [0; 128];
    args[..whole.args.len()].copy_from_slice(whole.args);
    let rings = Parts { header: whole.header, args: &args, rest: whole.rest };
    let decoded = decode(&whole);
    assert_eq!(decoded, decode(&rings));
    match decoded {
        Ok(Decoded::Request(Request { op: Op::Write { data, .. }, .. })) => {
            assert!(data.len() <= bytes.len());
        }
        Ok(Decoded::Request(Request { op: Op::Rename { name, new_name, .. }, .. })) => {
            assert!(name.len() + new_name.len() + 2 <= bytes.len());
        }
        Ok(Decoded::Forgets(forgets)) => assert!(forgets.iter().count() * 16 <= bytes.len()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, IntoBytes};

    /// A message as `/dev/fuse` delivers it.
    fn message(kind: u32, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let header = InHeader {
            len: (size_of::<InHeader>() + body.len()) as u32,
            opcode: kind,
            unique: 7,
            nodeid: 5,
            uid: 1000,
            gid: 100,
            pid: 42,
            extensions: 0,
            padding: 0,
        };
        [header.as_bytes(), &body].concat()
    }

    #[track_caller]
    fn op(message: &[u8]) -> Op<'_> {
        match decode(&parts(message).unwrap()) {
            Ok(Decoded::Request(request)) => {
                assert_eq!((request.node, request.caller.uid, request.caller.pid), (5, 1000, 42));
                request.op
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_end_with_a_nul() {
        assert_eq!(op(&message(opcode::LOOKUP, &[b"name\0"])), Op::Lookup { name: b"name" });
        assert_eq!(op(&message(opcode::SYMLINK, &[b"a\0b/c\0"])), Op::Symlink { name: b"a", target: b"b/c" });
        let args = abi::Rename2In { new_dir: 9, flags: 1, padding: 0 };
        assert_eq!(
            op(&message(opcode::RENAME2, &[args.as_bytes(), b"old\0new\0"])),
            Op::Rename { name: b"old", new_parent: 9, new_name: b"new", flags: 1 }
        );
        for bad in [&b"name"[..], b""] {
            let message = message(opcode::LOOKUP, &[bad]);
            assert_eq!(decode(&parts(&message).unwrap()), Err(Malformed), "{bad:?}");
        }
        let message = message(opcode::RENAME2, &[args.as_bytes(), b"old\0new"]);
        assert_eq!(decode(&parts(&message).unwrap()), Err(Malformed));
    }

    #[test]
    fn attributes_are_set_where_the_bits_say_so() {
        let mut args = abi::SetAttrIn::new_zeroed();
        (args.valid, args.mode, args.uid, args.size) =
            (fattr::MODE | fattr::SIZE | fattr::ATIME | fattr::MTIME, 0o104755, 7, 99);
        args.valid |= fattr::MTIME_NOW;
        (args.atime, args.atime_nsec) = (-2, 200_000_000);
        let set = SetAttr {
            permissions: Some(0o4755),
            size: Some(99),
            atime: Some(TimeChange::To(Timestamp { sec: -2, nsec: 200_000_000 })),
            mtime: Some(TimeChange::Now),
            ..SetAttr::default()
        };
        assert_eq!(op(&message(opcode::SETATTR, &[args.as_bytes()])), Op::SetAttr { set });
    }

    #[test]
    fn data_has_the_length_that_it_claims() {
        let mut args = abi::WriteIn::new_zeroed();
        (args.offset, args.size, args.write_flags) = (4096, 3, abi::WRITE_CACHE);
        let mode = WriteFlags { from_cache: true, ..WriteFlags::default() };
        let good = message(opcode::WRITE, &[args.as_bytes(), b"abc"]);
        assert_eq!(op(&good), Op::Write { offset: 4096, data: b"abc", mode });
        let bad = message(opcode::WRITE, &[args.as_bytes(), b"ab"]);
        assert_eq!(decode(&parts(&bad).unwrap()), Err(Malformed));
        let forgets = abi::BatchForgetIn { count: u32::MAX, dummy: 0 };
        let bad = message(opcode::BATCH_FORGET, &[forgets.as_bytes(), &[0; 16]]);
        assert_eq!(decode(&parts(&bad).unwrap()), Err(Malformed));
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let whole = message(opcode::READ, &[abi::ReadIn::new_zeroed().as_bytes()]);
        for len in 0..whole.len() {
            assert!(parts(&whole[..len]).is_err(), "{len}");
        }
        let mut short = whole[..60].to_vec();
        short[..4].copy_from_slice(&60u32.to_ne_bytes());
        assert!(parts(&short).is_err());
    }

    #[test]
    fn unknown_requests_are_told_from_malformed_ones() {
        for kind in [0, 7, 36, 48, 53, 4096, u32::MAX] {
            assert_eq!(decode(&parts(&message(kind, &[b"x"])).unwrap()), Ok(Decoded::Unknown), "{kind}");
        }
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut state = 1u64;
        let mut bytes = Vec::new();
        for round in 0..20_000usize {
            bytes.clear();
            while bytes.len() < round % 300 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.push((state >> 56) as u8);
            }
            if bytes.len() > 4 {
                // Kinds that there are.
                bytes[4..]
                    .iter_mut()
                    .take(4)
                    .zip([(round % 60) as u8, 0, 0, 0])
                    .for_each(|(to, from)| *to = from);
            }
            fuzzed(&bytes);
        }
    }
}
