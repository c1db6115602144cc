//! What can be seen of a volume: every path with its attributes and a hash of its contents.

use super::family::Family;
use super::reference::Reference;
use larder::fs::{Caller, Fs, FsOptions, Ino, InodeFlags, Kind, ROOT_INO, Wait};
use larder::open_store::OpenStore;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    ino: Ino,
    kind: Kind,
    permissions: u32,
    owner: (u32, u32),
    nlink: u32,
    size: u64,
    blocks: u64,
    contents: u64,
    xattrs: BTreeMap<Vec<u8>, u64>,
    flags: InodeFlags,
}

/// A volume as a program would find it.
pub type View = BTreeMap<Vec<u8>, Seen>;

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Every path of every volume and snapshot of the model.
pub fn of_family(family: &Family) -> View {
    let mut view = View::new();
    for (id, model) in &family.volumes {
        view.insert(
            format!("{id}!{}", family.names[id]).into_bytes(),
            limits(model.block_limit, model.inode_limit, model.metadata_limit),
        );
        add_model(&mut view, format!("{id}:").into_bytes(), model);
    }
    for (id, snapshot) in &family.snapshots {
        for tag in &snapshot.holds {
            view.insert(format!("{id}@{}#{tag}", snapshot.name).into_bytes(), limits(None, None, None));
        }
        add_model(&mut view, format!("{id}@{}:", snapshot.name).into_bytes(), &snapshot.state);
    }
    view
}

/// The limits of a volume, as if they were a file of it.
fn limits(blocks: Option<u64>, inodes: Option<u64>, metadata: Option<u64>) -> Seen {
    let number = |limit: Option<u64>| limit.map_or(0, |limit| limit + 1);
    Seen {
        ino: 0,
        kind: Kind::Fifo,
        permissions: 0,
        owner: (0, 0),
        nlink: 0,
        size: number(blocks),
        blocks: number(inodes),
        contents: number(metadata),
        xattrs: BTreeMap::new(),
        flags: InodeFlags::default(),
    }
}

fn add_model(view: &mut View, prefix: Vec<u8>, model: &Reference) {
    let mut pending = vec![(prefix, ROOT_INO)];
    while let Some((path, ino)) = pending.pop() {
        let node = &model.nodes[&ino];
        let (size, contents) = match node.kind {
            Kind::Directory => (node.entries.len(), 0),
            Kind::Symlink => (node.target.len(), hash(&node.target)),
            _ => (node.bytes.len(), hash(&node.bytes)),
        };
        for (name, child) in &node.entries {
            pending.push(([&path[..], b"/", name].concat(), *child));
        }
        let seen = Seen {
            ino,
            kind: node.kind,
            permissions: node.permissions,
            owner: (node.uid, node.gid),
            nlink: node.nlink,
            size: size as u64,
            blocks: node.blocks.len() as u64 * 8,
            contents,
            xattrs: node.xattrs.iter().map(|(name, value)| (name.clone(), hash(value))).collect(),
            flags: node.flags,
        };
        view.insert(path, seen);
    }
}

/// Every path of every volume and snapshot of a store.
pub fn of_store(store: &Arc<OpenStore>) -> View {
    let mut view = View::new();
    let (volumes, snapshots) = {
        let meta = store.meta();
        (meta.volumes().unwrap(), meta.snapshots().unwrap())
    };
    let fs = |id| Fs::new(Arc::clone(store), id, FsOptions::default());
    for volume in volumes {
        view.insert(
            format!("{}!{}", volume.id, volume.name).into_bytes(),
            limits(volume.limits.blocks, volume.limits.inodes, volume.limits.metadata),
        );
        add_fs(&mut view, format!("{}:", volume.id).into_bytes(), &fs(volume.id));
    }
    for snapshot in snapshots {
        let _hold = store.meta().open_snapshot(snapshot.id).unwrap();
        for tag in store.meta().holds(snapshot.id).unwrap() {
            let key = format!("{}@{}#{tag}", snapshot.id, snapshot.name);
            view.insert(key.into_bytes(), limits(None, None, None));
        }
        let prefix = format!("{}@{}:", snapshot.id, snapshot.name).into_bytes();
        add_fs(&mut view, prefix, &fs(snapshot.id));
    }
    view
}

fn add_fs(view: &mut View, prefix: Vec<u8>, fs: &Fs) {
    let mut pending = vec![(prefix, ROOT_INO)];
    while let Some((path, ino)) = pending.pop() {
        let attr = fs.getattr(ino).unwrap();
        let contents = match attr.kind {
            Kind::Directory => {
                for (name, child) in entries(fs, ino) {
                    pending.push(([&path[..], b"/", &name].concat(), child));
                }
                0
            }
            Kind::Symlink => hash(&fs.readlink(ino).unwrap()),
            Kind::Regular => {
                let mut bytes = vec![0; attr.size as usize];
                assert_eq!(fs.read(ino, 0, &mut bytes, Wait::Yes).unwrap(), bytes.len());
                hash(&bytes)
            }
            _ => hash(b""),
        };
        let names = fs.listxattr(ino, Caller::ROOT).unwrap();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let seen = Seen {
            ino,
            kind: attr.kind,
            permissions: u32::from(attr.permissions),
            owner: (attr.uid, attr.gid),
            nlink: attr.nlink,
            size: attr.size,
            blocks: attr.blocks,
            contents,
            xattrs: names.map(|name| (name.to_vec(), hash(&fs.getxattr(ino, name).unwrap()))).collect(),
            flags: fs.flags(ino).unwrap(),
        };
        view.insert(path, seen);
    }
}

fn entries(fs: &Fs, ino: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut found = Vec::new();
    let mut cookie = 0;
    loop {
        let before = cookie;
        fs.readdir(ino, cookie, |entry| {
            cookie = entry.cookie;
            if &*entry.name != b"." && &*entry.name != b".." {
                found.push((entry.name.to_vec(), entry.ino));
            }
            true
        })
        .unwrap();
        if cookie == before {
            return found;
        }
    }
}

/// What is different between two views, for people.
pub fn difference(one: &View, two: &View) -> String {
    let mut out = String::new();
    for path in one.keys().chain(two.keys()).collect::<std::collections::BTreeSet<_>>() {
        if one.get(path) != two.get(path) {
            let path_text = String::from_utf8_lossy(&path[..path.len().min(40)]);
            out += &format!("{path_text:?}:\n  {:?}\n  {:?}\n", one.get(path), two.get(path));
        }
    }
    out
}
