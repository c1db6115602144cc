//! The reference model: a tree of inodes, as plain as can be.

use larder::fs::{AllocateMode, FsError, Ino, InodeFlags, Kind, ROOT_INO, RenameMode, SeekTarget};
use std::collections::BTreeMap;

const BLOCK: u64 = 4096;

/// The attribute that holds an access ACL.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// The bytes of an access ACL with these permissions of owner, group (or mask) and others.
pub fn acl(permissions: u32, extended: bool) -> Vec<u8> {
    let (user, group, other) = (permissions >> 6 & 7, permissions >> 3 & 7, permissions & 7);
    // Tag, permissions, id: the owner, user 1000, the group, the mask, others.
    let mut entries = vec![(0x01u16, user, !0u32), (0x04, group, !0), (0x20, other, !0)];
    if extended {
        entries =
            vec![(0x01, user, !0), (0x02, 6, 1000), (0x04, 5, !0), (0x10, group, !0), (0x20, other, !0)];
    }
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&(permissions as u16).to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// An inode of the model. Times are not modelled but for their presence; blocks are, because limits count them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub bytes: Vec<u8>,
    /// By block: allocated, and written (else reserved).
    pub blocks: BTreeMap<u64, bool>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    pub parent: Ino,
    pub flags: InodeFlags,
}

/// A volume of the model.
#[derive(Clone, Debug)]
pub struct Reference {
    pub nodes: BTreeMap<Ino, Node>,
    pub block_limit: Option<u64>,
    pub inode_limit: Option<u64>,
    pub metadata_limit: Option<u64>,
}

type Result<T> = std::result::Result<T, FsError>;

impl Reference {
    pub fn new(block_limit: Option<u64>, inode_limit: Option<u64>) -> Self {
        let mut model = Self { nodes: BTreeMap::new(), block_limit, inode_limit, metadata_limit: None };
        model.nodes.insert(ROOT_INO, model.node(Kind::Directory, 0o755, 2));
        model.nodes.get_mut(&ROOT_INO).unwrap().parent = ROOT_INO;
        model
    }

    fn node(&self, kind: Kind, permissions: u32, nlink: u32) -> Node {
        Node {
            kind,
            permissions,
            uid: 0,
            gid: 0,
            nlink,
            bytes: Vec::new(),
            blocks: BTreeMap::new(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent: 0,
            flags: InodeFlags::default(),
        }
    }

    /// Whether attributes of an inode, and names that it has, may change.
    fn must_be_free(&self, ino: Ino) -> Result<()> {
        if self.get(ino)?.flags.forbid() { Err(FsError::NotPermitted) } else { Ok(()) }
    }

    fn must_take_names(&self, directory: Ino) -> Result<()> {
        let node = self.get(directory)?;
        let closed = node.kind == Kind::Directory && node.flags.has(InodeFlags::IMMUTABLE);
        if closed { Err(FsError::NotPermitted) } else { Ok(()) }
    }

    fn may_move(&self, from: (Ino, &[u8]), to: Option<(Ino, &[u8])>) -> Result<()> {
        let Ok(moved) = self.lookup(from.0, from.1) else { return Ok(()) };
        let replaced = to.and_then(|(parent, name)| self.lookup(parent, name).ok());
        if replaced == Some(moved) {
            return Ok(());
        }
        self.must_be_free(from.0)?;
        self.must_be_free(moved)?;
        match (to, replaced) {
            (Some((parent, _)), Some(replaced)) => {
                self.must_be_free(parent).and_then(|()| self.must_be_free(replaced))
            }
            (Some((parent, _)), None) => self.must_take_names(parent),
            (None, _) => Ok(()),
        }
    }

    pub fn set_flags(&mut self, ino: Ino, flags: InodeFlags) -> Result<()> {
        let node = self.get_mut(ino)?;
        if node.flags != flags && !matches!(node.kind, Kind::Regular | Kind::Directory) {
            return Err(FsError::NotSupported);
        }
        node.flags = flags;
        Ok(())
    }

    pub fn used_blocks(&self) -> u64 {
        self.nodes.values().map(|n| n.blocks.len() as u64).sum()
    }

    /// What inodes, names and extended attributes count, in bytes.
    pub fn used_metadata(&self) -> u64 {
        let node = |node: &Node| {
            let target = if node.kind == Kind::Symlink { long(node.target.len()) } else { 0 };
            let names: u64 = node.entries.keys().map(|name| 64 + long(name.len())).sum();
            256 + target + names + node.xattrs.iter().map(|(n, v)| counted_xattr(n, v)).sum::<u64>()
        };
        self.nodes.values().map(node).sum()
    }

    fn metadata_fits(&self, more: u64, less: u64) -> Result<()> {
        let limit = self.metadata_limit.filter(|_| more > less);
        match limit.is_none_or(|limit| self.used_metadata() + more - less <= limit) {
            true => Ok(()),
            false => Err(FsError::NoSpace),
        }
    }

    fn get(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(FsError::NotFound)
    }

    fn get_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(FsError::NotFound)
    }

    fn directory(&self, ino: Ino) -> Result<&Node> {
        let node = self.get(ino)?;
        match node.kind {
            Kind::Directory if node.nlink == 0 => Err(FsError::NotFound),
            Kind::Directory => Ok(node),
            _ => Err(FsError::NotDirectory),
        }
    }

    fn regular(&self, ino: Ino) -> Result<&Node> {
        let node = self.get(ino)?;
        match node.kind {
            Kind::Regular => Ok(node),
            Kind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Ino> {
        self.get(parent)?.entries.get(name).copied().ok_or(FsError::NotFound)
    }

    pub fn make(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        permissions: u32,
        target: &[u8],
        ino: Ino,
    ) -> Result<()> {
        let directory = self.get(parent)?;
        if directory.kind != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        self.must_take_names(parent)?;
        let (setgid, gid) = (directory.permissions & 0o2000 != 0, directory.gid);
        if self.directory(parent)?.entries.contains_key(name) {
            return Err(FsError::Exists);
        }
        if self.inode_limit.is_some_and(|limit| self.nodes.len() as u64 >= limit) {
            return Err(FsError::NoSpace);
        }
        let target_counts = if kind == Kind::Symlink { long(target.len()) } else { 0 };
        self.metadata_fits(256 + target_counts + 64 + long(name.len()), 0)?;
        let is_dir = kind == Kind::Directory;
        let mut node = self.node(kind, permissions, if is_dir { 2 } else { 1 });
        node.target = target.to_vec();
        if setgid {
            node.gid = gid;
            node.permissions |= if is_dir { 0o2000 } else { 0 };
        }
        node.parent = if is_dir { parent } else { 0 };
        self.nodes.insert(ino, node);
        let directory = self.get_mut(parent)?;
        directory.entries.insert(name.to_vec(), ino);
        directory.nlink += u32::from(is_dir);
        Ok(())
    }

    /// A file without a name.
    pub fn make_unnamed(&mut self, parent: Ino, permissions: u32, ino: Ino) -> Result<()> {
        if self.get(parent)?.kind != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        self.must_take_names(parent)?;
        let directory = self.directory(parent)?;
        let setgid = (directory.permissions & 0o2000 != 0).then_some(directory.gid);
        if self.inode_limit.is_some_and(|limit| self.nodes.len() as u64 >= limit) {
            return Err(FsError::NoSpace);
        }
        self.metadata_fits(256, 0)?;
        let mut node = self.node(Kind::Regular, permissions, 0);
        node.gid = setgid.unwrap_or(node.gid);
        self.nodes.insert(ino, node);
        Ok(())
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
        self.must_take_names(parent)?;
        self.must_be_free(ino)?;
        self.directory(parent)?;
        let node = self.get(ino)?;
        if node.kind == Kind::Directory {
            return Err(FsError::NotPermitted);
        }
        if self.directory(parent)?.entries.contains_key(name) {
            return Err(FsError::Exists);
        }
        self.metadata_fits(64 + long(name.len()), 0)?;
        self.get_mut(ino)?.nlink += 1;
        self.get_mut(parent)?.entries.insert(name.to_vec(), ino);
        Ok(())
    }

    /// Takes a link; returns the inode if it was the last.
    fn lose_link(&mut self, ino: Ino) -> Option<Ino> {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.nlink = if node.kind == Kind::Directory { 0 } else { node.nlink - 1 };
        (node.nlink == 0).then_some(ino)
    }

    /// Returns the inode that became an orphan.
    pub fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        self.may_move((parent, name), None)?;
        let ino = *self.directory(parent)?.entries.get(name).ok_or(FsError::NotFound)?;
        if self.get(ino)?.kind == Kind::Directory {
            return Err(FsError::IsDirectory);
        }
        self.get_mut(parent)?.entries.remove(name);
        Ok(self.lose_link(ino))
    }

    pub fn rmdir(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        self.may_move((parent, name), None)?;
        let ino = *self.directory(parent)?.entries.get(name).ok_or(FsError::NotFound)?;
        let node = self.get(ino)?;
        if node.kind != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        if !node.entries.is_empty() {
            return Err(FsError::NotEmpty);
        }
        let directory = self.get_mut(parent)?;
        directory.entries.remove(name);
        directory.nlink -= 1;
        Ok(self.lose_link(ino))
    }

    fn encloses(&self, ino: Ino, other: Ino) -> bool {
        let mut at = other;
        loop {
            if at == ino {
                return true;
            }
            if at == ROOT_INO {
                return false;
            }
            at = self.nodes[&at].parent;
        }
    }

    pub fn rename(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<Option<Ino>> {
        self.may_move((parent, name), Some((new_parent, new_name)))?;
        self.directory(parent)?;
        self.directory(new_parent)?;
        let ino = *self.directory(parent)?.entries.get(name).ok_or(FsError::NotFound)?;
        let target = self.directory(new_parent)?.entries.get(new_name).copied();
        if (parent, name) == (new_parent, new_name) && mode != RenameMode::NoReplace {
            return Ok(None);
        }
        let is_dir = |model: &Self, ino: Ino| model.nodes[&ino].kind == Kind::Directory;
        if is_dir(self, ino) && parent != new_parent && self.encloses(ino, new_parent) {
            return Err(FsError::Invalid);
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(other)) => {
                if is_dir(self, other) && parent != new_parent && self.encloses(other, parent) {
                    return Err(FsError::Invalid);
                }
                self.get_mut(parent)?.entries.insert(name.to_vec(), other);
                self.get_mut(new_parent)?.entries.insert(new_name.to_vec(), ino);
                for (moved, from, to) in [(ino, parent, new_parent), (other, new_parent, parent)] {
                    if is_dir(self, moved) {
                        self.get_mut(moved)?.parent = to;
                        self.get_mut(from)?.nlink -= 1;
                        self.get_mut(to)?.nlink += 1;
                    }
                }
                return Ok(None);
            }
            _ => {}
        }
        if let Some(other) = target {
            if other == ino {
                return Ok(None);
            }
            match (is_dir(self, ino), is_dir(self, other)) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) if !self.nodes[&other].entries.is_empty() => return Err(FsError::NotEmpty),
                _ => {}
            }
        } else {
            self.metadata_fits(long(new_name.len()), long(name.len()))?;
        }
        self.get_mut(parent)?.entries.remove(name);
        self.get_mut(new_parent)?.entries.insert(new_name.to_vec(), ino);
        if is_dir(self, ino) {
            self.get_mut(ino)?.parent = new_parent;
            self.get_mut(parent)?.nlink -= 1;
            self.get_mut(new_parent)?.nlink += 1;
        }
        Ok(target.and_then(|other| {
            if is_dir(self, other) {
                self.nodes.get_mut(&new_parent).unwrap().nlink -= 1;
            }
            self.lose_link(other)
        }))
    }

    /// As `rename`; the inode `whiteout` gets the old name.
    pub fn rename_leaving_whiteout(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        no_replace: bool,
        whiteout: Ino,
    ) -> Result<Option<Ino>> {
        let mut after = self.clone();
        after.metadata_limit = None;
        let mode = if no_replace { RenameMode::NoReplace } else { RenameMode::Replace };
        let orphan = after.rename(from, to, mode)?;
        let directory = after.directory(from.0)?;
        if directory.entries.contains_key(from.1) {
            // Nothing was moved.
            return Ok(None);
        }
        let setgid = (directory.permissions & 0o2000 != 0).then_some(directory.gid);
        if self.inode_limit.is_some_and(|limit| self.nodes.len() as u64 >= limit) {
            return Err(FsError::NoSpace);
        }
        let mut node = after.node(Kind::CharDevice, 0, 1);
        node.gid = setgid.unwrap_or(node.gid);
        after.nodes.insert(whiteout, node);
        after.get_mut(from.0)?.entries.insert(from.1.to_vec(), whiteout);
        self.metadata_fits(after.used_metadata() - self.used_metadata(), 0)?;
        after.metadata_limit = self.metadata_limit;
        *self = after;
        Ok(orphan)
    }

    /// How many blocks of `first..end` of a file are not allocated.
    fn growth(&self, ino: Ino, first: u64, end: u64) -> u64 {
        end - first - self.nodes[&ino].blocks.range(first..end).count() as u64
    }

    fn fits(&self, growth: u64) -> bool {
        self.block_limit.is_none_or(|limit| self.used_blocks() + growth <= limit)
    }

    /// Bytes written; as much as fits, if `may_be_short`.
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8], may_be_short: bool) -> Result<usize> {
        self.regular(ino)?;
        if data.is_empty() {
            return Ok(0);
        }
        let node = self.get(ino)?;
        let present = node.bytes.get(offset as usize..).unwrap_or_default();
        let changes = present.iter().zip(data).any(|(present, new)| *present != 0 && present != new);
        if node.flags.has(InodeFlags::IMMUTABLE) || changes && node.flags.has(InodeFlags::APPEND_ONLY) {
            return Err(FsError::NotPermitted);
        }
        let mut len = data.len();
        let blocks = |len: usize| (offset / BLOCK, (offset + len as u64).div_ceil(BLOCK));
        while len > 0 && !self.fits(self.growth(ino, blocks(len).0, blocks(len).1)) {
            if !may_be_short {
                return Err(FsError::NoSpace);
            }
            // Back to the last border of a block.
            let end = offset + len as u64;
            len = ((end - 1) / BLOCK * BLOCK).saturating_sub(offset) as usize;
        }
        if len == 0 {
            return Err(FsError::NoSpace);
        }
        let (first, end) = blocks(len);
        let node = self.get_mut(ino)?;
        let stop = offset as usize + len;
        if node.bytes.len() < stop {
            node.bytes.resize(stop, 0);
        }
        node.bytes[offset as usize..stop].copy_from_slice(&data[..len]);
        for block in first..end {
            node.blocks.insert(block, true);
        }
        node.permissions = without_privileges(node.permissions, node.gid);
        Ok(len)
    }

    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = &self.regular(ino)?.bytes;
        let start = (offset as usize).min(bytes.len());
        Ok(bytes[start..(start + len).min(bytes.len())].to_vec())
    }

    pub fn truncate(&mut self, ino: Ino, size: u64) -> Result<()> {
        self.must_be_free(ino)?;
        self.regular(ino)?;
        let node = self.get_mut(ino)?;
        if size < node.bytes.len() as u64 {
            // Rewriting the last block writes one that is mapped already, if it held anything.
            let last = size / BLOCK;
            let tail =
                &node.bytes[size as usize..((last as usize + 1) * BLOCK as usize).min(node.bytes.len())];
            if !size.is_multiple_of(BLOCK) && tail.iter().any(|b| *b != 0) {
                node.blocks.insert(last, true);
            }
        }
        if size <= node.bytes.len() as u64 {
            // At its own end, too: what is reserved behind it goes.
            node.blocks.split_off(&size.div_ceil(BLOCK));
        }
        node.bytes.resize(size as usize, 0);
        node.permissions = without_privileges(node.permissions, node.gid);
        Ok(())
    }

    pub fn allocate(&mut self, ino: Ino, offset: u64, len: u64, mode: AllocateMode) -> Result<()> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let flags = self.regular(ino)?.flags;
        let only_adds = matches!(mode, AllocateMode::Reserve { .. });
        if flags.has(InodeFlags::IMMUTABLE) || flags.has(InodeFlags::APPEND_ONLY) && !only_adds {
            return Err(FsError::NotPermitted);
        }
        let end = offset + len;
        let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK));
        let node = self.nodes[&ino].clone();
        let size = node.bytes.len() as u64;
        let keep_size = match mode {
            AllocateMode::PunchHole => true,
            AllocateMode::Reserve { keep_size } | AllocateMode::ZeroRange { keep_size } => keep_size,
        };
        if mode != AllocateMode::PunchHole && !self.fits(self.growth(ino, first, last)) {
            return Err(FsError::NoSpace);
        }
        let node = self.get_mut(ino)?;
        let zero = mode != (AllocateMode::Reserve { keep_size });
        // Blocks that the range covers as a whole, where the end of the file ends a block.
        let whole = offset.div_ceil(BLOCK)..if end >= size { end.div_ceil(BLOCK) } else { end / BLOCK };
        if zero {
            for block in first..last {
                let start = (block * BLOCK).max(offset).min(size) as usize;
                let stop = ((block + 1) * BLOCK).min(end).min(size) as usize;
                if whole.contains(&block) {
                    node.blocks.remove(&block);
                } else if node.bytes[start..stop].iter().any(|b| *b != 0) {
                    node.blocks.insert(block, true);
                }
                node.bytes[start..stop].fill(0);
            }
        }
        if mode != AllocateMode::PunchHole {
            for block in first..last {
                node.blocks.entry(block).or_insert(false);
            }
        }
        if !keep_size && end > size {
            node.bytes.resize(end as usize, 0);
        }
        node.permissions = without_privileges(node.permissions, node.gid);
        Ok(())
    }

    /// Takes over what the file system said it copied: how much that is at once is its choice.
    pub fn copied(&mut self, source: (Ino, u64), target: (Ino, u64), count: u64) -> Result<()> {
        let bytes = self.read(source.0, source.1, count as usize)?;
        assert_eq!(bytes.len() as u64, count, "more was copied than there is");
        let aligned = source.1 % BLOCK == target.1 % BLOCK;
        let from = self.nodes[&source.0].blocks.clone();
        let whole_tail = source.1 + count == self.nodes[&source.0].bytes.len() as u64
            && target.1 + count >= self.nodes[&target.0].bytes.len() as u64;
        let node = self.get_mut(target.0)?;
        let stop = (target.1 + count) as usize;
        if node.bytes.len() < stop {
            node.bytes.resize(stop, 0);
        }
        node.bytes[target.1 as usize..stop].copy_from_slice(&bytes);
        let shares = aligned && source.1.is_multiple_of(BLOCK) && (count.is_multiple_of(BLOCK) || whole_tail);
        for block in target.1 / BLOCK..(target.1 + count).div_ceil(BLOCK) {
            let of_source = block + source.1 / BLOCK - target.1 / BLOCK;
            if shares && from.get(&of_source) != Some(&true) {
                node.blocks.remove(&block);
            } else {
                node.blocks.insert(block, true);
            }
        }
        node.permissions = without_privileges(node.permissions, node.gid);
        Ok(())
    }

    pub fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> Result<u64> {
        let node = self.regular(ino)?;
        let size = node.bytes.len() as u64;
        if offset >= size {
            return Err(FsError::NoData);
        }
        let wanted = target == SeekTarget::Data;
        for block in offset / BLOCK..size.div_ceil(BLOCK) {
            if node.blocks.get(&block).copied().unwrap_or(false) == wanted {
                return Ok((block * BLOCK).max(offset));
            }
        }
        if wanted { Err(FsError::NoData) } else { Ok(size) }
    }

    pub fn chmod(&mut self, ino: Ino, permissions: u32) -> Result<()> {
        self.must_be_free(ino)?;
        let node = self.get_mut(ino)?;
        node.permissions = permissions;
        if let Some(value) = node.xattrs.get_mut(ACCESS_ACL) {
            *value = acl(permissions, true);
        }
        Ok(())
    }

    pub fn set_acl(&mut self, ino: Ino, permissions: u32, extended: bool) -> Result<()> {
        self.must_be_free(ino)?;
        if self.get(ino)?.kind == Kind::Symlink {
            return Err(FsError::NotSupported);
        }
        if extended {
            self.set_xattr(ino, ACCESS_ACL, &acl(permissions, true), false, false)?;
        }
        let node = self.get_mut(ino)?;
        if !extended {
            node.xattrs.remove(ACCESS_ACL);
        }
        let keeps_group = if node.gid == 0 { 0o2000 } else { 0 };
        node.permissions = node.permissions & (0o5000 | keeps_group) | permissions;
        Ok(())
    }

    pub fn chown(&mut self, ino: Ino, uid: u32, gid: u32) -> Result<()> {
        self.must_be_free(ino)?;
        let node = self.get_mut(ino)?;
        if node.kind == Kind::Regular {
            node.permissions = without_privileges(node.permissions, node.gid);
        }
        (node.uid, node.gid) = (uid, gid);
        Ok(())
    }

    pub fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.must_be_free(ino)?;
        let xattrs = &mut self.get_mut(ino)?.xattrs;
        match xattrs.contains_key(name) {
            true if create => return Err(FsError::Exists),
            false if replace => return Err(FsError::NoXattr),
            _ => {}
        }
        let others: usize =
            xattrs.iter().filter(|(n, _)| *n != name).map(|(n, v)| n.len() + 1 + v.len()).sum();
        if others + name.len() + 1 + value.len() > 64 * 1024 {
            return Err(FsError::NoSpace);
        }
        let before = xattrs.get(name).map_or(0, |value| counted_xattr(name, value));
        self.metadata_fits(counted_xattr(name, value), before)?;
        self.get_mut(ino)?.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        self.must_be_free(ino)?;
        self.get_mut(ino)?.xattrs.remove(name).map(|_| ()).ok_or(FsError::NoXattr)
    }
}

/// What bytes of a row count: those behind the first 768 by whole pages, of which each has 4,000.
fn long(len: usize) -> u64 {
    match len as u64 {
        len @ 0..=768 => len,
        len => 768 + (len - 768).div_ceil(4000) * 4096,
    }
}

fn counted_xattr(name: &[u8], value: &[u8]) -> u64 {
    64 + long(name.len() + value.len())
}

/// What a write or a change of owner by an unprivileged process (of group 0) leaves of the permissions.
fn without_privileges(permissions: u32, gid: u32) -> u32 {
    let keeps_group = permissions & 0o010 == 0 && gid == 0;
    permissions & !0o4000 & if keeps_group { !0 } else { !0o2000 }
}
