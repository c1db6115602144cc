//! The file system without a mount. What the kernel would serialise, the storms do not do, or this does.

use super::ground::{Facts, Failure, Ground, Result, Used};
use crate::support::{scratch, volume_spec};
use larder::backing::{Dir, OsDir};
use larder::fs::{
    Caller, Fs, FsError, FsOptions, Ino, Kind, NewNode, ROOT_INO, RenameMode, SetAttr, Wait, WriteMode,
};
use larder::meta::Inspector;
use larder::open_store::{OpenStore, StoreOptions};
use larder::root::Root;
use larder::store::{Header, Sealer, Segments};
use larder::volume::check::{CheckOptions, check};
use larder::volume::create;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

pub struct Direct {
    _tmp: TempDir,
    dir: Arc<dyn Dir>,
    store: Arc<OpenStore>,
    fs: Fs,
    directories: Mutex<HashMap<String, Ino>>,
    /// The kernel appends to one file at a time.
    appending: Mutex<()>,
}

impl From<FsError> for Failure {
    fn from(e: FsError) -> Self {
        match e {
            FsError::NotFound => Self::NotFound,
            FsError::Exists => Self::Exists,
            FsError::NoSpace => Self::NoSpace,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl Direct {
    pub fn new(blocks: Option<u64>, inodes: Option<u64>) -> Self {
        let tmp = scratch();
        let root = Root::new(tmp.path().join("root"));
        let id = create(&root, &volume_spec(blocks, inodes)).unwrap();
        let dir: Arc<dyn Dir> = Arc::new(OsDir::new(root.store(id)));
        // A small cache and frequent commits, so that freed blocks are punched while they are still being read.
        let options = StoreOptions {
            cache_bytes: 256 * 1024,
            commit_interval: Duration::from_millis(50),
            ..StoreOptions::default()
        };
        let store = OpenStore::open(Arc::clone(&dir), None, options).unwrap();
        let volume = store.meta().volumes().unwrap()[0].id;
        let fs = Fs::new(Arc::clone(&store), volume, FsOptions::default());
        let directories = Mutex::new(HashMap::from([(String::new(), ROOT_INO)]));
        Self { _tmp: tmp, dir, store, fs, directories, appending: Mutex::new(()) }
    }

    /// Closes the store, which must be sound then.
    pub fn close_and_check(self) {
        self.fs.forget_all();
        self.store.close().unwrap();
        let header = Header::read(&*self.dir).unwrap();
        let mut inspector = Inspector::open(Arc::clone(&self.dir), header.store).unwrap();
        let segments = Segments::new(Arc::clone(&self.dir), header.store, Sealer::Checksum, 0..0);
        let options = CheckOptions { read_data: true, online: false };
        let report = check(&mut inspector, &segments, options, &mut |_| {}).unwrap();
        assert!(report.is_clean() && report.notes.is_empty(), "{report:#?}");
    }

    fn place<'a>(&self, path: &'a str) -> (Ino, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.directories.lock().unwrap()[dir], name.as_bytes())
    }

    fn node(&self, path: &str, kind: Kind) -> Result<Ino> {
        let (parent, name) = self.place(path);
        let node = NewNode { kind, permissions: 0o755, umask: 0, rdev: 0, target: None };
        Ok(self.fs.make(parent, name, &node, Caller::ROOT)?.ino)
    }
}

impl Ground for Direct {
    type File = Ino;

    fn make_dir(&self, path: &str) -> Result<()> {
        let ino = self.node(path, Kind::Directory)?;
        self.directories.lock().unwrap().insert(path.to_owned(), ino);
        Ok(())
    }

    fn create(&self, path: &str) -> Result<Ino> {
        self.node(path, Kind::Regular)
    }

    fn open(&self, path: &str) -> Result<Ino> {
        let (parent, name) = self.place(path);
        Ok(self.fs.lookup(parent, name)?.ino)
    }

    fn close(&self, file: Ino) {
        self.fs.forget(file, 1);
    }

    fn write(&self, file: &Ino, offset: u64, data: &[u8]) -> Result<()> {
        assert_eq!(self.fs.write(*file, offset, data, WriteMode::default())?, data.len());
        Ok(())
    }

    fn read(&self, file: &Ino, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0xee; len];
        let got = self.fs.read(*file, offset, &mut out, Wait::Yes)?;
        out.truncate(got);
        Ok(out)
    }

    fn append(&self, file: &Ino, data: &[u8]) -> Result<()> {
        let _one = self.appending.lock().unwrap();
        self.write(file, self.fs.getattr(*file)?.size, data)
    }

    fn truncate(&self, file: &Ino, size: u64) -> Result<()> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(*file, &set, Caller::ROOT)?;
        Ok(())
    }

    fn copy(&self, from: (&Ino, u64), to: (&Ino, u64), len: u64) -> Result<()> {
        self.fs.copy_range((*from.0, from.1), (*to.0, to.1), len, Caller::ROOT)?;
        Ok(())
    }

    fn sync(&self, _: &Ino) -> Result<()> {
        self.store.commit_now().map_err(|e| Failure::Other(e.to_string()))
    }

    fn facts(&self, file: &Ino) -> Facts {
        let attr = self.fs.getattr(*file).unwrap();
        Facts { nlink: attr.nlink.into(), size: attr.size, blocks: attr.blocks / 8 }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(self.fs.rename(self.place(from), self.place(to), RenameMode::Replace)?)
    }

    fn exchange(&self, one: &str, two: &str) -> Result<()> {
        Ok(self.fs.rename(self.place(one), self.place(two), RenameMode::Exchange)?)
    }

    fn link(&self, path: &str, new: &str) -> Result<()> {
        let ino = self.open(path)?;
        let (parent, name) = self.place(new);
        let linked = self.fs.link(ino, parent, name);
        self.fs.forget(ino, if linked.is_ok() { 2 } else { 1 });
        linked?;
        Ok(())
    }

    fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = self.place(path);
        Ok(self.fs.unlink(parent, name)?)
    }

    fn list(&self, dir: &str) -> Vec<String> {
        let ino = self.directories.lock().unwrap()[dir];
        let (mut out, mut cookie) = (Vec::new(), 0);
        loop {
            // In pieces, as the kernel does.
            let (before, room) = (out.len(), 50);
            self.fs
                .readdir(ino, cookie, |entry| {
                    cookie = entry.cookie;
                    out.push(String::from_utf8(entry.name.to_vec()).unwrap());
                    out.len() < before + room
                })
                .unwrap();
            if out.len() == before {
                out.retain(|name| name != "." && name != "..");
                return out;
            }
        }
    }

    fn used(&self) -> Used {
        let (usage, _) = self.store.meta().usage(self.fs.volume()).unwrap();
        Used { blocks: usage.blocks, inodes: usage.inodes }
    }
}
