//! A real mount.

use super::ground::{Facts, Failure, Ground, Result, Used};
use crate::support::Host;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Mutex;

pub struct Mounted {
    /// Behind a lock, because it is made for one thread.
    host: Mutex<Host>,
    dir: PathBuf,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::ENOENT) => Self::NotFound,
            Some(libc::EEXIST) => Self::Exists,
            Some(libc::ENOSPC) => Self::NoSpace,
            _ => Self::Other(e.to_string()),
        }
    }
}

impl From<nix::Error> for Failure {
    fn from(e: nix::Error) -> Self {
        io::Error::from(e).into()
    }
}

/// The file opened once more, as another process would.
fn again(file: &File, append: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(!append).append(append).open(path)
}

impl Mounted {
    pub fn new(create: &[&str], options: &str) -> Self {
        let host = Host::new();
        host.ok(&[&["create", "v"], create].concat());
        let dir = host.mount("v", &["-o", options]);
        Self { host: Mutex::new(host), dir }
    }

    /// Checks the store while it is in use and afterwards.
    pub fn close_and_check(self) {
        let host = self.host.into_inner().unwrap();
        host.check("v");
        host.umount("v");
        host.check("v");
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }
}

impl Ground for Mounted {
    type File = File;

    fn make_dir(&self, path: &str) -> Result<()> {
        Ok(fs::create_dir(self.path(path))?)
    }

    fn create(&self, path: &str) -> Result<File> {
        Ok(OpenOptions::new().read(true).write(true).create_new(true).open(self.path(path))?)
    }

    fn open(&self, path: &str) -> Result<File> {
        Ok(OpenOptions::new().read(true).write(true).open(self.path(path))?)
    }

    fn close(&self, file: File) {
        drop(file);
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) -> Result<()> {
        Ok(file.write_all_at(data, offset)?)
    }

    fn read(&self, file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0xee; len];
        let got = file.read_at(&mut out, offset)?;
        out.truncate(got);
        Ok(out)
    }

    fn append(&self, file: &File, data: &[u8]) -> Result<()> {
        Ok(again(file, true)?.write_all(data)?)
    }

    fn truncate(&self, file: &File, size: u64) -> Result<()> {
        Ok(file.set_len(size)?)
    }

    fn copy(&self, from: (&File, u64), to: (&File, u64), len: u64) -> Result<()> {
        // The standard library copies with copy_file_range(2), at the position of the file.
        let (mut source, mut target) = (again(from.0, false)?, again(to.0, false)?);
        source.seek(SeekFrom::Start(from.1))?;
        target.seek(SeekFrom::Start(to.1))?;
        io::copy(&mut source.take(len), &mut target)?;
        Ok(())
    }

    fn sync(&self, file: &File) -> Result<()> {
        Ok(file.sync_all()?)
    }

    fn facts(&self, file: &File) -> Facts {
        let facts = file.metadata().unwrap();
        Facts { nlink: facts.nlink(), size: facts.size(), blocks: facts.blocks() / 8 }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(fs::rename(self.path(from), self.path(to))?)
    }

    fn exchange(&self, one: &str, two: &str) -> Result<()> {
        let (one, two) = (self.path(one), self.path(two));
        Ok(renameat2(AT_FDCWD, &one, AT_FDCWD, &two, RenameFlags::RENAME_EXCHANGE)?)
    }

    fn link(&self, path: &str, new: &str) -> Result<()> {
        Ok(fs::hard_link(self.path(path), self.path(new))?)
    }

    fn unlink(&self, path: &str) -> Result<()> {
        Ok(fs::remove_file(self.path(path))?)
    }

    fn list(&self, dir: &str) -> Vec<String> {
        fs::read_dir(self.path(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn used(&self) -> Used {
        let stat = statvfs(&self.dir).unwrap();
        Used { blocks: stat.blocks() - stat.blocks_free(), inodes: stat.files() - stat.files_free() }
    }
}
