//! The ioctls that reach a server: flags of inodes, as lsattr(1) and chattr(1) ask for them (`<linux/fs.h>`).

use crate::fs::InodeFlags;
use nix::errno::Errno;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// Bits of `FS_IOC_GETFLAGS`, of `FS_IOC_FSGETXATTR`, and what they are here.
const BITS: [(u32, u32, InodeFlags); 4] = [
    (0x10, 0x08, InodeFlags::IMMUTABLE),
    (0x20, 0x10, InodeFlags::APPEND_ONLY),
    (0x40, 0x80, InodeFlags::NO_DUMP),
    (0x80, 0x40, InodeFlags::NO_ATIME),
];
/// Size of `struct fsxattr`: flags, three sizes that there are none of here, a project, and room.
const FSXATTR_BYTES: usize = 28;

/// What an ioctl asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The flags as a number.
    Get,
    /// The flags in a `struct fsxattr`.
    GetExtended,
    Set(InodeFlags),
}

/// Makes sense of an ioctl.
///
/// The kernel asks for flags by itself, after it has checked that the caller may set them, and then with a number of 4 bytes and
/// without an address (`fuse_fileattr_set`, Linux 5.13). The same command of an older kernel comes as the caller gave it,
/// unchecked.
///
/// # Errors
/// `ENOTTY` for all others; `EOPNOTSUPP` for flags that there are not.
pub(super) fn asked(cmd: u32, arg: u64, data: &[u8], out_size: u32) -> Result<Asked, Errno> {
    let number =
        |at: usize| data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    match (cmd, out_size) {
        (GETFLAGS, 4) => Ok(Asked::Get),
        (FSGETXATTR, 28) => Ok(Asked::GetExtended),
        (SETFLAGS, _) if arg == 0 && data.len() == 4 => {
            flags(number(0).unwrap_or(u32::MAX), |(bit, _, _)| bit).map(Asked::Set)
        }
        (FSSETXATTR, _) if arg == 0 && data.len() == FSXATTR_BYTES => {
            // The number of extents is only told.
            if [4, 12, 16].iter().any(|at| number(*at) != Some(0)) {
                return Err(Errno::EOPNOTSUPP);
            }
            flags(number(0).unwrap_or(u32::MAX), |(_, bit, _)| bit).map(Asked::Set)
        }
        _ => Err(Errno::ENOTTY),
    }
}

fn flags(number: u32, bit: impl Fn((u32, u32, InodeFlags)) -> u32) -> Result<InodeFlags, Errno> {
    let (mut left, mut flags) = (number, InodeFlags::default());
    for one in BITS {
        if number & bit(one) != 0 {
            left &= !bit(one);
            flags = flags.and(one.2);
        }
    }
    if left == 0 { Ok(flags) } else { Err(Errno::EOPNOTSUPP) }
}

/// The answer to who asked for flags.
pub(super) fn answer(asked: Asked, flags: InodeFlags) -> Vec<u8> {
    let number = |bit: fn((u32, u32, InodeFlags)) -> u32| {
        BITS.into_iter().filter(|one| flags.has(one.2)).fold(0, |sum, one| sum | bit(one))
    };
    match asked {
        Asked::Get => number(|(bit, _, _)| bit).to_ne_bytes().to_vec(),
        Asked::GetExtended => {
            let mut out = vec![0; FSXATTR_BYTES];
            out[..4].copy_from_slice(&number(|(_, bit, _)| bit).to_ne_bytes());
            out
        }
        Asked::Set(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_both_ways_in_both_forms() {
        let flags = InodeFlags::IMMUTABLE.and(InodeFlags::NO_DUMP);
        let plain = answer(Asked::Get, flags);
        assert_eq!(plain, 0x50u32.to_ne_bytes());
        assert_eq!(asked(SETFLAGS, 0, &plain, 0), Ok(Asked::Set(flags)));
        let extended = answer(Asked::GetExtended, flags);
        assert_eq!((extended.len(), extended[0]), (28, 0x88));
        assert_eq!(asked(FSSETXATTR, 0, &extended, 0), Ok(Asked::Set(flags)));
        assert_eq!(
            (asked(GETFLAGS, 0, &[], 4), asked(FSGETXATTR, 0, &[], 28)),
            (Ok(Asked::Get), Ok(Asked::GetExtended))
        );
    }

    #[test]
    fn what_the_kernel_has_not_checked_is_refused() {
        let flags = 0x10u32.to_ne_bytes();
        // As a program gives them: with an address, or with the eight bytes that the command speaks of.
        assert_eq!(asked(SETFLAGS, 0x7fff_0000, &flags, 0), Err(Errno::ENOTTY));
        assert_eq!(asked(SETFLAGS, 0, &[0x10, 0, 0, 0, 0, 0, 0, 0], 0), Err(Errno::ENOTTY));
        assert_eq!(asked(FSSETXATTR, 0x7fff_0000, &[0; 28], 0), Err(Errno::ENOTTY));
        // The same of programs of 32 bits, which the kernel turns into its own.
        assert_eq!(asked(0x4004_6602, 0, &flags, 0), Err(Errno::ENOTTY));
        assert_eq!(asked(0, 0, &[], 0), Err(Errno::ENOTTY));
    }

    #[test]
    fn flags_that_there_are_not_are_not_taken() {
        assert_eq!(asked(SETFLAGS, 0, &0x0080_0000u32.to_ne_bytes(), 0), Err(Errno::EOPNOTSUPP));
        let mut project = [0; 28];
        project[12] = 1;
        assert_eq!(asked(FSSETXATTR, 0, &project, 0), Err(Errno::EOPNOTSUPP));
    }
}
