//! POSIX access control lists, as acl(5) describes them.
//!
//! Their bytes are those of the kernel's `system.posix_acl_*` attributes (`include/uapi/linux/posix_acl_xattr.h`):
//! version 2 as u32, then 8 bytes an entry: tag u16, permissions u16, id u32, little-endian.

/// Name of the attribute that holds the access ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute that holds a directory's default ACL.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A valid ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads an ACL; `None` for bytes that are none, or that break the rules of acl(5).
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (entries, []) = rest.as_chunks::<8>() else { return None };
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let entries = entries
            .iter()
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                permissions: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Self { entries };
        acl.is_valid().then_some(acl)
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, GROUP_OBJ, MASK, OTHER].iter().map(|tag| count(*tag)).sum::<usize>() + named;
        let mut keys: Vec<(u16, u32)> =
            self.entries.iter().filter(|e| matches!(e.tag, USER | GROUP)).map(|e| (e.tag, e.id)).collect();
        keys.sort_unstable();
        keys.dedup();
        known == self.entries.len()
            && self.entries.iter().all(|e| e.permissions <= 7)
            && self.entries.is_sorted_by_key(|e| e.tag)
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1)
            && keys.len() == named
    }

    /// The bytes of the attribute.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.permissions.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    /// Whether it says no more than permission bits do.
    pub(super) fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    fn entry(&mut self, tag: u16) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.tag == tag)
    }

    /// The entry that the group bits of a mode stand for: the mask, if there is one.
    fn group_class(&mut self) -> Option<&mut Entry> {
        let tag = if self.entries.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ };
        self.entry(tag)
    }

    /// The permission bits (0777) it stands for.
    pub(super) fn permissions(&self) -> u32 {
        let mut copy = self.clone();
        let bits = |entry: Option<&mut Entry>| entry.map_or(0, |e| u32::from(e.permissions));
        let user = bits(copy.entry(USER_OBJ));
        let other = bits(copy.entry(OTHER));
        let group = bits(copy.group_class());
        user << 6 | group << 3 | other
    }

    /// Changes it as chmod(2) does.
    pub(super) fn chmod(&mut self, permissions: u32) {
        for (entry, shift) in [(USER_OBJ, 6), (OTHER, 0)] {
            if let Some(entry) = self.entry(entry) {
                entry.permissions = (permissions >> shift & 7) as u16;
            }
        }
        if let Some(entry) = self.group_class() {
            entry.permissions = (permissions >> 3 & 7) as u16;
        }
    }

    /// Makes a directory's default ACL the access ACL of a new inode that was asked for with `permissions`; returns
    /// the permissions the inode gets.
    pub(super) fn inherit(&mut self, permissions: u32) -> u32 {
        for (tag, shift) in [(USER_OBJ, 6), (OTHER, 0)] {
            if let Some(entry) = self.entry(tag) {
                entry.permissions &= (permissions >> shift & 7) as u16;
            }
        }
        if let Some(entry) = self.group_class() {
            entry.permissions &= (permissions >> 3 & 7) as u16;
        }
        (permissions & !0o777) | self.permissions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl {
            entries: entries
                .iter()
                .map(|(tag, permissions, id)| Entry { tag: *tag, permissions: *permissions, id: *id })
                .collect(),
        }
    }

    fn extended() -> Acl {
        acl(&[(USER_OBJ, 7, !0), (USER, 6, 1000), (GROUP_OBJ, 5, !0), (MASK, 7, !0), (OTHER, 4, !0)])
    }

    #[test]
    fn valid_lists_survive_their_bytes_and_broken_ones_are_refused() {
        let good = extended();
        assert_eq!(Acl::decode(&good.encode()), Some(good.clone()));
        let no_mask = acl(&[(USER_OBJ, 7, 0), (USER, 6, 1000), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)]);
        let twice = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 6, 1),
            (USER, 6, 1),
            (GROUP_OBJ, 5, 0),
            (MASK, 7, 0),
            (OTHER, 4, 0),
        ]);
        let unsorted = acl(&[(GROUP_OBJ, 5, 0), (USER_OBJ, 7, 0), (OTHER, 4, 0)]);
        let too_much = acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)]);
        for bad in [no_mask, twice, unsorted, too_much] {
            assert_eq!(Acl::decode(&bad.encode()), None, "{bad:?}");
        }
        assert_eq!(Acl::decode(&good.encode()[..11]), None);
        assert_eq!(Acl::decode(b""), None);
    }

    #[test]
    fn chmod_and_inheritance_go_through_the_mask() {
        let mut one = extended();
        assert_eq!(one.permissions(), 0o774);
        one.chmod(0o640);
        assert_eq!(one.permissions(), 0o640);
        assert_eq!(one.entries[2].permissions, 5, "the owning group's own entry stays");
        let mut two = extended();
        assert_eq!(two.inherit(0o2666), 0o2664);
        assert_eq!(two.permissions(), 0o664);
        let mut minimal = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 5, 0)]);
        assert_eq!(minimal.inherit(0o666), 0o644);
        assert!(minimal.is_minimal());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(mut acl) = Acl::decode(&bytes) {
                acl.chmod(0o755);
                prop_assert_eq!(acl.permissions(), 0o755);
            }
        }
    }
}
