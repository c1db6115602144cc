//! Random operations. Files and directories are chosen by number among those there are, so that most operations hit
//! something, and some hit what was removed.

use larder::fs::{AllocateMode, InodeFlags, Kind, RenameMode, SeekTarget};
use proptest::prelude::*;
use std::ops::Range;

/// One step of a sequence. `usize` fields choose among what exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Make {
        parent: usize,
        name: u8,
        kind: Kind,
        permissions: u32,
    },
    /// A file that has no name.
    MakeUnnamed {
        parent: usize,
        permissions: u32,
    },
    /// Also of a file without a name.
    Link {
        ino: usize,
        parent: usize,
        name: u8,
    },
    Unlink {
        parent: usize,
        name: u8,
    },
    Rmdir {
        parent: usize,
        name: u8,
    },
    Rename {
        parent: usize,
        name: u8,
        new_parent: usize,
        new_name: u8,
        mode: RenameMode,
    },
    /// And leave a whiteout.
    RenameWhiteout {
        parent: usize,
        name: u8,
        new_parent: usize,
        new_name: u8,
        no_replace: bool,
    },
    Lookup {
        parent: usize,
        name: u8,
    },
    Write {
        ino: usize,
        offset: u64,
        len: usize,
        salt: u64,
        may_be_short: bool,
    },
    Read {
        ino: usize,
        offset: u64,
        len: usize,
    },
    Truncate {
        ino: usize,
        size: u64,
    },
    Allocate {
        ino: usize,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    /// The same for many chunks, and without a change of size.
    AllocateLong {
        ino: usize,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    Copy {
        source: usize,
        from: u64,
        target: usize,
        to: u64,
        len: u64,
    },
    Seek {
        ino: usize,
        offset: u64,
        target: SeekTarget,
    },
    Chmod {
        ino: usize,
        permissions: u32,
    },
    Chown {
        ino: usize,
        uid: u32,
        gid: u32,
    },
    SetXattr {
        ino: usize,
        name: u8,
        len: usize,
        create: bool,
        replace: bool,
    },
    RemoveXattr {
        ino: usize,
        name: u8,
    },
    /// Set an access ACL, one that says no more than permission bits or another.
    SetAcl {
        ino: usize,
        permissions: u32,
        extended: bool,
    },
    SetFlags {
        ino: usize,
        flags: InodeFlags,
    },
    /// The kernel forgets an inode.
    Forget {
        ino: usize,
    },
    Sync,
    /// A sync that does not do with the redo log.
    Commit,
    Snapshot {
        name: u8,
    },
    /// Make one of each volume.
    SnapshotAll {
        name: u8,
    },
    RemoveSnapshot {
        snapshot: usize,
    },
    RenameSnapshot {
        snapshot: usize,
        name: u8,
    },
    RenameVolume {
        volume: usize,
        name: u8,
    },
    Hold {
        snapshot: usize,
        tag: u8,
    },
    Release {
        snapshot: usize,
        tag: u8,
    },
    /// Make the volume what it was at a snapshot.
    Rollback {
        snapshot: usize,
    },
    /// Make a volume that begins as this one, or as one of its snapshots.
    Clone {
        source: usize,
    },
    /// Go on with another volume.
    Switch {
        volume: usize,
    },
    /// Remove another volume.
    RemoveVolume {
        volume: usize,
    },
    Resize {
        blocks: Option<u64>,
        inodes: Option<u64>,
        metadata: Option<u64>,
    },
    /// Begin to seal everything again, or go on with it; wait until it is done, or go on beside it.
    Reencrypt {
        wait: bool,
        new_master: bool,
    },
    /// Close the store and open it again.
    Reopen,
    /// Kill the process and open the store again.
    Kill,
    /// Cut the power and open the store again.
    LosePower {
        seed: u64,
    },
}

/// Offsets around everything that has borders: blocks, chunks, the end.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..20_000,
        2 => (0u64..12).prop_map(|block| block * 4096),
        1 => 1_040_000u64..1_060_000,
        1 => (255u64..260).prop_map(|block| block * 4096),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1u64..9_000, 2 => (1u64..8).prop_map(|block| block * 4096), 1 => 1u64..70_000]
}

/// Offsets before the borders of chunks, and of what one row says is reserved.
fn long_offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (0u64..4, 0u64..3).prop_map(|(chunk, block)| (chunk << 20) + block * 4096),
        1 => 0u64..3_000_000,
        2 => (0u64..3, 0u64..2).prop_map(|(chunk, block)| (4 << 30) - (chunk << 20) + block * 4096),
    ]
}

fn long_length() -> impl Strategy<Value = u64> {
    prop_oneof![3 => (1u64..6).prop_map(|chunks| chunks << 20), 2 => 1u64..6_000_000]
}

fn long_mode() -> impl Strategy<Value = AllocateMode> {
    prop_oneof![
        2 => Just(AllocateMode::Reserve { keep_size: true }),
        1 => Just(AllocateMode::PunchHole),
        1 => Just(AllocateMode::ZeroRange { keep_size: true }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Regular),
        4 => Just(Kind::Directory),
        1 => Just(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::CharDevice),
    ]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![3 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 2 => Just(RenameMode::Exchange)]
}

fn allocate_mode() -> impl Strategy<Value = AllocateMode> {
    prop_oneof![
        any::<bool>().prop_map(|keep_size| AllocateMode::Reserve { keep_size }),
        Just(AllocateMode::PunchHole),
        any::<bool>().prop_map(|keep_size| AllocateMode::ZeroRange { keep_size }),
    ]
}

/// Mostly none, so that there is something left to be changed.
fn flags() -> impl Strategy<Value = InodeFlags> {
    prop_oneof![
        4 => Just(InodeFlags::default()),
        1 => Just(InodeFlags::IMMUTABLE),
        2 => Just(InodeFlags::APPEND_ONLY),
        1 => Just(InodeFlags::NO_DUMP.and(InodeFlags::NO_ATIME)),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = 0u8..6;
    let one = 0usize..64;
    let permissions =
        prop_oneof![Just(0o644u32), Just(0o755), Just(0o4755), Just(0o6711), Just(0o2750), Just(0o2640)];
    prop_oneof![
        10 => (one.clone(), name.clone(), kind(), permissions.clone())
            .prop_map(|(parent, name, kind, permissions)| Operation::Make { parent, name, kind, permissions }),
        3 => (one.clone(), permissions.clone())
            .prop_map(|(parent, permissions)| Operation::MakeUnnamed { parent, permissions }),
        5 => (one.clone(), one.clone(), name.clone())
            .prop_map(|(ino, parent, name)| Operation::Link { ino, parent, name }),
        4 => (one.clone(), name.clone()).prop_map(|(parent, name)| Operation::Unlink { parent, name }),
        2 => (one.clone(), name.clone()).prop_map(|(parent, name)| Operation::Rmdir { parent, name }),
        6 => (one.clone(), name.clone(), one.clone(), name.clone(), rename_mode()).prop_map(
            |(parent, name, new_parent, new_name, mode)| Operation::Rename { parent, name, new_parent, new_name, mode }
        ),
        2 => (one.clone(), name.clone(), one.clone(), name.clone(), any::<bool>()).prop_map(
            |(parent, name, new_parent, new_name, no_replace)| Operation::RenameWhiteout {
                parent, name, new_parent, new_name, no_replace
            }
        ),
        1 => (one.clone(), name.clone()).prop_map(|(parent, name)| Operation::Lookup { parent, name }),
        12 => (one.clone(), offset(), length(), any::<u64>(), any::<bool>()).prop_map(
            |(ino, offset, len, salt, may_be_short)| Operation::Write { ino, offset, len: len as usize, salt, may_be_short }
        ),
        4 => (one.clone(), offset(), length())
            .prop_map(|(ino, offset, len)| Operation::Read { ino, offset, len: len as usize }),
        5 => (one.clone(), prop_oneof![offset(), Just(0)]).prop_map(|(ino, size)| Operation::Truncate { ino, size }),
        6 => (one.clone(), offset(), length(), allocate_mode())
            .prop_map(|(ino, offset, len, mode)| Operation::Allocate { ino, offset, len, mode }),
        4 => (one.clone(), long_offset(), long_length(), long_mode())
            .prop_map(|(ino, offset, len, mode)| Operation::AllocateLong { ino, offset, len, mode }),
        6 => (one.clone(), offset(), one.clone(), offset(), length())
            .prop_map(|(source, from, target, to, len)| Operation::Copy { source, from, target, to, len }),
        3 => (one.clone(), offset(), prop_oneof![Just(SeekTarget::Data), Just(SeekTarget::Hole)])
            .prop_map(|(ino, offset, target)| Operation::Seek { ino, offset, target }),
        2 => (one.clone(), permissions).prop_map(|(ino, permissions)| Operation::Chmod { ino, permissions }),
        2 => (one.clone(), 0u32..4, 0u32..4).prop_map(|(ino, uid, gid)| Operation::Chown { ino, uid, gid }),
        3 => (one.clone(), 0u8..3, prop_oneof![0usize..100, 30_000usize..40_000], any::<bool>(), any::<bool>())
            .prop_map(|(ino, name, len, create, replace)| Operation::SetXattr {
                ino, name, len, create, replace: replace && !create
            }),
        2 => (one.clone(), 0u8..3).prop_map(|(ino, name)| Operation::RemoveXattr { ino, name }),
        3 => (one.clone(), prop_oneof![Just(0o640u32), Just(0o755), Just(0o070)], any::<bool>())
            .prop_map(|(ino, permissions, extended)| Operation::SetAcl { ino, permissions, extended }),
        3 => (one.clone(), flags()).prop_map(|(ino, flags)| Operation::SetFlags { ino, flags }),
        3 => one.clone().prop_map(|ino| Operation::Forget { ino }),
        5 => Just(Operation::Sync),
        2 => Just(Operation::Commit),
        3 => (0u8..5).prop_map(|name| Operation::Snapshot { name }),
        1 => (0u8..5).prop_map(|name| Operation::SnapshotAll { name }),
        3 => one.clone().prop_map(|snapshot| Operation::RemoveSnapshot { snapshot }),
        1 => (one.clone(), 0u8..5).prop_map(|(snapshot, name)| Operation::RenameSnapshot { snapshot, name }),
        1 => (one.clone(), 0u8..3).prop_map(|(volume, name)| Operation::RenameVolume { volume, name }),
        1 => (one.clone(), 0u8..2).prop_map(|(snapshot, tag)| Operation::Hold { snapshot, tag }),
        2 => (one.clone(), 0u8..2).prop_map(|(snapshot, tag)| Operation::Release { snapshot, tag }),
        1 => one.clone().prop_map(|snapshot| Operation::Rollback { snapshot }),
        2 => one.clone().prop_map(|source| Operation::Clone { source }),
        2 => one.clone().prop_map(|volume| Operation::Switch { volume }),
        2 => one.clone().prop_map(|volume| Operation::RemoveVolume { volume }),
        1 => (prop::option::of(0u64..200), prop::option::of(1u64..20), prop::option::of(300u64..6_000))
            .prop_map(|(blocks, inodes, metadata)| Operation::Resize { blocks, inodes, metadata }),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(wait, new_master)| Operation::Reencrypt { wait, new_master }),
        1 => Just(Operation::Reopen),
        2 => Just(Operation::Kill),
        2 => any::<u64>().prop_map(|seed| Operation::LosePower { seed }),
    ]
}

/// Sequences of a length in `range`.
pub fn operations(range: Range<usize>) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), range)
}

/// Sequences without closing, killing and power cuts, and with more syncs: for a test that does those itself.
pub fn workload(range: Range<usize>) -> impl Strategy<Value = Vec<Operation>> {
    let step = prop_oneof![
        6 => operation().prop_filter("one open store", |operation| {
            !matches!(operation, Operation::Reopen | Operation::Kill | Operation::LosePower { .. })
        }),
        1 => Just(Operation::Sync),
    ];
    prop::collection::vec(step, range)
}
