//! A damaged store in use: it may refuse anything, and must stay on its feet.

use super::super::memory::MemoryDir;
use larder::backing::Dir;
use larder::crypto::Keys;
use larder::fs::{
    AllocateMode, Caller, Fs, FsOptions, Ino, Kind, NewNode, ROOT_INO, RenameMode, SeekTarget, SetAttr, Wait,
    WriteMode, XattrFlags,
};
use larder::open_store::{OpenStore, StoreOptions};
use std::sync::Arc;

/// Entries and inodes looked at: a damaged tree can be a circle.
const INODES: usize = 12;

pub fn open(dir: &Arc<MemoryDir>, keys: Keys) {
    let backing: Arc<dyn Dir> = dir.clone();
    let Ok(store) = OpenStore::open_with(backing, None, keys, StoreOptions::default()) else { return };
    let volumes = store.meta().volumes().unwrap_or_default();
    for volume in volumes {
        let fs = Fs::new(Arc::clone(&store), volume.id, FsOptions::default());
        use_volume(&fs);
        fs.forget_all();
    }
    let _ = store.commit_now();
    let _ = store.close();
}

fn use_volume(fs: &Fs) {
    let _ = fs.statfs();
    let mut directories = vec![ROOT_INO];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        let mut entries = Vec::new();
        let _ = fs.readdir_plus(directory, 0, |(entry, _)| {
            entries.push(entry.clone());
            seen += 1;
            seen < INODES
        });
        for entry in entries {
            if entry.cookie > 2 {
                let _ = fs.lookup(directory, &entry.name);
                look_at(fs, entry.ino);
                change(fs, directory, &entry.name, entry.ino);
                if entry.kind == Kind::Directory {
                    directories.push(entry.ino);
                }
            }
        }
    }
}

fn look_at(fs: &Fs, ino: Ino) {
    let size = fs.getattr(ino).map_or(0, |attr| attr.size);
    let mut buffer = vec![0; 16 * 1024];
    for offset in [0, size / 2, size.saturating_sub(5000), 3 << 20] {
        let _ = fs.read(ino, offset, &mut buffer, Wait::Yes);
        let _ = fs.seek(ino, offset, SeekTarget::Hole);
        let _ = fs.seek(ino, offset, SeekTarget::Data);
    }
    let _ = fs.readlink(ino);
    if let Ok(names) = fs.listxattr(ino, Caller::ROOT) {
        for name in names.split(|byte| *byte == 0) {
            let _ = fs.getxattr(ino, name);
        }
    }
}

fn change(fs: &Fs, parent: Ino, name: &[u8], ino: Ino) {
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let _ = fs.make(parent, b"new", &node, Caller::ROOT);
    let _ = fs.write(ino, 4000, &[1; 10_000], WriteMode::default());
    let _ = fs.setxattr(ino, b"user.new", b"value", XattrFlags::default(), Caller::ROOT);
    let _ = fs.copy_range((ino, 0), (ino, 2 << 20), 1 << 16, Caller::ROOT);
    let _ = fs.allocate(ino, 8192, 100_000, AllocateMode::PunchHole, Caller::ROOT);
    let _ = fs.allocate(ino, 1 << 20, 8 << 20, AllocateMode::ZeroRange { keep_size: true }, Caller::ROOT);
    let _ = fs.allocate(ino, 0, 20 << 20, AllocateMode::Reserve { keep_size: true }, Caller::ROOT);
    let _ = fs.copy_range((ino, 1 << 20), (ino, 30 << 20), 12 << 20, Caller::ROOT);
    let set = SetAttr { size: Some(300_000), permissions: Some(0o600), ..SetAttr::default() };
    let _ = fs.setattr(ino, &set, Caller::ROOT);
    let _ = fs.rename((parent, b"new"), (ROOT_INO, b"renamed"), RenameMode::Replace);
    let _ = fs.rename((parent, name), (ROOT_INO, b"renamed"), RenameMode::Exchange);
    let _ = fs.link(ino, ROOT_INO, b"linked");
    let _ = fs.unlink(ROOT_INO, b"renamed");
    let _ = fs.rmdir(parent, name);
}
