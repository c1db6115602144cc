//! Limits: what is asked for, and what they usually are.

use super::error::{Result, VolumeError};
use crate::exit_code::Exit;
use crate::meta::{Limits, Usage};
use crate::size::{LIMIT_MIN, format};
use crate::store::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

/// Bytes of the size limit for each inode, as ext4 has it by default.
const INODE_BYTES: u64 = 16 << 10;
/// The same of small volumes, and how many inodes that gives at most.
const SMALL_INODE_BYTES: u64 = 4 << 10;
const SMALL_INODES_MAX: u64 = 128 << 10;
/// However small a volume is, it has so many.
const INODES_MIN: u64 = 1024;
/// The part of the size limit that the metadata may take beside it.
const METADATA_PART: u64 = 8;
/// At least so many bytes of metadata for each inode.
const INODE_METADATA: u64 = 1 << 10;
/// A smaller limit of metadata was not meant.
const METADATA_MIN: u64 = 4 << 10;

/// What becomes of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitChange {
    /// It stays; one that is in proportion to another one follows that. Of a new volume, what is usual.
    #[default]
    Keep,
    /// There is none any more.
    Lift,
    /// It is this, in bytes or inodes.
    Set(u64),
    /// It is so much more than it was.
    Raise(u64),
    /// It is so much less.
    Lower(u64),
}

impl LimitChange {
    /// What becomes of `old`, which is in proportion to another limit if it is as `usual`, or larger only because so much was
    /// `used`; and then as `new_usual`.
    fn apply(self, old: Option<u64>, usual: Option<u64>, new_usual: Option<u64>, used: u64) -> Option<u64> {
        let grown = old.zip(usual).is_some_and(|(old, usual)| old > usual && old <= used);
        match self {
            Self::Keep if old == usual || grown => new_usual,
            // See [`LimitChange::absolute`].
            Self::Keep | Self::Raise(_) | Self::Lower(_) => old,
            Self::Lift => None,
            Self::Set(limit) => Some(limit),
        }
    }

    /// Whether it is by how much the limit changes.
    pub fn is_relative(self) -> bool {
        matches!(self, Self::Raise(_) | Self::Lower(_))
    }

    /// What a change by so much makes of `old`: a multiple of `unit` again, and no less than was asked for. `what` is the limit.
    fn absolute(self, old: Option<u64>, unit: u64, what: &str) -> Result<Self> {
        let usage = |what: String| Err(VolumeError::new(Exit::Usage, what));
        let by = match self {
            Self::Raise(by) | Self::Lower(by) => by,
            _ => return Ok(self),
        };
        let Some(old) = old else {
            return usage(format!(
                "the volume has no {what} limit to add to or to subtract from; give the new limit itself"
            ));
        };
        let new = match self {
            Self::Raise(_) => old.checked_add(by).and_then(|new| new.checked_next_multiple_of(unit)),
            _ => {
                old.checked_sub(by).and_then(|new| new.checked_next_multiple_of(unit)).filter(|new| *new > 0)
            }
        };
        match new {
            Some(new) => Ok(Self::Set(new)),
            None => {
                let shown = |n: u64| if what == "inodes" { n.to_string() } else { format(n) };
                let (limit, how) = (
                    if what == "inodes" { "inode" } else { what },
                    if matches!(self, Self::Raise(_)) { "raised" } else { "lowered" },
                );
                usage(format!("the {limit} limit is {}: it cannot be {how} by {}", shown(old), shown(by)))
            }
        }
    }

    /// Whether a volume that is made like this has that limit, where `usual` is what is usual.
    pub fn asks_for(self, limit: Option<u64>, usual: Option<u64>) -> bool {
        self.apply(usual, usual, usual, 0) == limit
    }
}

/// What the limits of a volume are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChanges {
    /// Its size limit, in bytes.
    pub size: LimitChange,
    /// Its inode limit.
    pub inodes: LimitChange,
    /// Its limit of metadata, in bytes.
    pub metadata: LimitChange,
}

impl LimitChanges {
    /// The limits that come of `old` ones. What follows another limit is no smaller than what is used.
    ///
    /// # Errors
    /// Limits that cannot be.
    pub(super) fn apply(&self, old: Limits, used: Usage) -> Result<Limits> {
        let block = BLOCK_BYTES as u64;
        let old_size = old.blocks.map(|blocks| blocks * block);
        let absolute = Self {
            size: self.size.absolute(old_size, block, "size")?,
            inodes: self.inodes.absolute(old.inodes, 1, "inodes")?,
            metadata: self.metadata.absolute(old.metadata, 1, "metadata")?,
        };
        if let (true, LimitChange::Set(size)) = (self.size.is_relative(), absolute.size)
            && size < LIMIT_MIN
        {
            let what = format!("that leaves a size limit of {}; the smallest is 1 MiB", format(size));
            return Err(VolumeError::new(Exit::Usage, what));
        }
        absolute.apply_absolute(old, used)
    }

    fn apply_absolute(&self, old: Limits, used: Usage) -> Result<Limits> {
        self.check()?;
        let block = BLOCK_BYTES as u64;
        let old_size = old.blocks.map(|blocks| blocks * block);
        let size = self.size.apply(old_size, None, old_size, 0);
        let at_least = |usual: Option<u64>, used: u64| usual.map(|usual| usual.max(used));
        let inodes = at_least(usual_inodes(size), used.inodes);
        let inodes = self.inodes.apply(old.inodes, usual_inodes(old_size), inodes, used.inodes);
        let metadata = at_least(usual_metadata(size, inodes), used.metadata);
        let metadata =
            self.metadata.apply(old.metadata, usual_metadata(old_size, old.inodes), metadata, used.metadata);
        Ok(Limits { blocks: size.map(|bytes| bytes / block), inodes, metadata })
    }

    /// Refuses limits that cannot be.
    pub(super) fn check(&self) -> Result<()> {
        let usage = |what: String| Err(VolumeError::new(Exit::Usage, what));
        let fits = |limit: u64| i64::try_from(limit).is_ok();
        if let LimitChange::Set(size) = self.size
            && (size == 0 || !size.is_multiple_of(BLOCK_BYTES as u64) || !fits(size))
        {
            return usage(format!(
                "a size limit of {size} bytes is invalid: it has to be a multiple of 4096, and less than 8192P"
            ));
        }
        if let LimitChange::Set(inodes) = self.inodes
            && (inodes == 0 || !fits(inodes))
        {
            return usage("the smallest inode limit is 1, because the root directory is an inode".to_owned());
        }
        if let LimitChange::Set(bytes) = self.metadata
            && (bytes < METADATA_MIN || !fits(bytes))
        {
            return usage("the smallest metadata limit is 4096 bytes".to_owned());
        }
        Ok(())
    }
}

/// The inode limit of a volume with this size limit, unless another is asked for.
pub fn usual_inodes(size: Option<u64>) -> Option<u64> {
    let usual = |size: u64| {
        let small = (size / SMALL_INODE_BYTES).min(SMALL_INODES_MAX);
        (size / INODE_BYTES).max(small).max(INODES_MIN)
    };
    size.map(usual)
}

/// The limit of the metadata, in bytes, of a volume with these limits of size and inodes, unless another is asked for.
pub fn usual_metadata(size: Option<u64>, inodes: Option<u64>) -> Option<u64> {
    let inodes = inodes.max(usual_inodes(size)).unwrap_or(0);
    size.map(|size| (size / METADATA_PART).max(inodes.saturating_mul(INODE_METADATA)).min(i64::MAX as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_usual_is_in_proportion_to_the_size() {
        for (mib, inodes, metadata) in [
            (1, 1024, MIB),
            (10, 2560, 2560 << 10),
            (512, 131_072, 128 * MIB),
            (1024, 131_072, 128 * MIB),
            (2048, 131_072, 256 * MIB),
            (1 << 20, 1 << 26, 131_072 * MIB),
        ] {
            let size = Some(mib * MIB);
            assert_eq!(usual_inodes(size), Some(inodes), "{mib} MiB");
            assert_eq!(usual_metadata(size, Some(inodes)), Some(metadata), "{mib} MiB");
        }
        assert_eq!((usual_inodes(None), usual_metadata(None, Some(7))), (None, None));
        assert_eq!(usual_metadata(Some(10 * MIB), Some(20_000)), Some(20_000 << 10));
    }

    fn limits(mib: u64, inodes: Option<u64>, metadata: Option<u64>) -> Limits {
        Limits { blocks: Some(mib * 256), inodes, metadata }
    }

    #[test]
    fn limits_follow_the_size_until_they_are_set() {
        let new = LimitChanges { size: LimitChange::Set(10 * MIB), ..Default::default() };
        let made = new.apply(Limits::default(), Usage::default()).unwrap();
        assert_eq!(made, limits(10, Some(2560), Some(2560 << 10)));
        let larger = LimitChanges { size: LimitChange::Set(100 * MIB), ..Default::default() };
        assert_eq!(
            larger.apply(made, Usage::default()).unwrap(),
            limits(100, Some(25_600), Some(25_600 << 10))
        );
        // A volume of an earlier version has a size limit and no other: it stays so.
        assert_eq!(larger.apply(limits(10, None, None), Usage::default()).unwrap(), limits(100, None, None));
        assert_eq!(
            larger.apply(limits(10, Some(7), Some(8192)), Usage::default()).unwrap(),
            limits(100, Some(7), Some(8192))
        );
        let lifted = LimitChanges { inodes: LimitChange::Lift, ..Default::default() };
        assert_eq!(lifted.apply(made, Usage::default()).unwrap(), limits(10, None, Some(2560 << 10)));
        // What is used is no reason to refuse what nobody asked for.
        let used = Usage { blocks: 0, inodes: 5000, metadata: 9 << 20 };
        assert_eq!(new.apply(Limits::default(), used).unwrap(), limits(10, Some(5000), Some(9 << 20)));
        // Nor is that a limit that somebody has set.
        let small = new.apply(Limits::default(), used).unwrap();
        assert_eq!(larger.apply(small, used).unwrap(), limits(100, Some(25_600), Some(25_600 << 10)));
    }

    #[test]
    fn limits_change_by_so_much() {
        let (raise, lower) = (LimitChange::Raise, LimitChange::Lower);
        let size = |size| LimitChanges { size, ..Default::default() };
        let changed =
            |changes: LimitChanges, mib| changes.apply(limits(mib, Some(7), None), Usage::default());
        assert_eq!(changed(size(raise(2 * MIB)), 10).unwrap(), limits(12, Some(7), None));
        assert_eq!(changed(size(lower(2 * MIB)), 10).unwrap(), limits(8, Some(7), None));
        // To the next block.
        assert_eq!(changed(size(raise(1)), 10).unwrap().blocks, Some(2561));
        assert_eq!(changed(size(lower(1)), 10).unwrap().blocks, Some(2560));
        let inodes = LimitChanges { inodes: raise(3), ..Default::default() };
        assert_eq!(changed(inodes, 10).unwrap(), limits(10, Some(10), None));
        for bad in [
            size(lower(10 * MIB)),
            size(lower(11 * MIB)),
            size(raise(u64::MAX)),
            size(raise(i64::MAX as u64)),
            LimitChanges { inodes: lower(7), ..Default::default() },
            LimitChanges { metadata: raise(1), ..Default::default() },
        ] {
            assert!(changed(bad, 10).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let set = LimitChange::Set;
        for bad in [
            LimitChanges { size: set(0), ..Default::default() },
            LimitChanges { size: set(4097), ..Default::default() },
            LimitChanges { inodes: set(0), ..Default::default() },
            LimitChanges { metadata: set(4095), ..Default::default() },
            LimitChanges { metadata: set(u64::MAX), ..Default::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
