//! A log file that several processes add to, and that does not grow for ever.

use crate::backing::{open_dir, open_to_append};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, renameat};
use nix::sys::stat::{fstat, fstatat};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

/// A log of this size is put aside, and so is the one that was put aside before it; the one before that is gone.
pub(super) const MAX_LOG_BYTES: u64 = 1 << 20;
/// What the names of those that were put aside end with, the newest first.
const OLDER: [&str; 2] = [".1", ".2"];

/// A log file. The holder of a store and its servers write to the same one: each goes on with the new file when another has
/// put the old one aside.
pub(super) struct LogFile {
    dir: OwnedFd,
    name: String,
    file: File,
    max_bytes: u64,
}

impl LogFile {
    /// Opens the log at `path`, or makes it; neither it nor its directory may be a symbolic link.
    ///
    /// # Errors
    /// As open(2).
    pub(super) fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = open_dir(dir)?;
        let file = open_to_append(&dir, name)?;
        Ok(Self { dir, name: name.to_owned(), file, max_bytes })
    }

    /// Whether the file that has the name is the one that is open.
    fn is_current(&self) -> io::Result<bool> {
        let own = fstat(&self.file)?;
        match fstatat(&self.dir, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Puts a log aside that is long enough, unless another process just did, and goes on with the file that has the name then.
    fn turn_over(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() >= self.max_bytes {
            let dir = Flock::lock(self.dir.try_clone()?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
            if self.is_current()? {
                let [newer, older] = OLDER.map(|end| format!("{}{end}", self.name));
                match renameat(&*dir, newer.as_str(), &*dir, older.as_str()) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(e) => return Err(e.into()),
                }
                renameat(&*dir, self.name.as_str(), &*dir, newer.as_str())?;
            }
        } else if self.is_current()? {
            return Ok(());
        }
        self.file = open_to_append(&self.dir, &self.name)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What cannot be put aside is better too long than not written.
        let _ = self.turn_over();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn two_that_write_share_a_log_that_does_not_grow_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.log");
        let mut logs = [LogFile::open(&path, 1000).unwrap(), LogFile::open(&path, 1000).unwrap()];
        for n in 0..1000 {
            // A message is written at once.
            logs[n % 2].write_all(format!("{n:05}\n").as_bytes()).unwrap();
        }
        drop(logs);
        let newest = fs::read_to_string(&path).unwrap();
        let [older, oldest] =
            OLDER.map(|end| fs::read_to_string(tmp.path().join(format!("a.log{end}"))).unwrap());
        assert!(
            newest.len() <= 1010 && [&older, &oldest].iter().all(|log| (1000..=1010).contains(&log.len()))
        );
        // The last lines, in order and without a gap.
        let lines: Vec<usize> = oldest
            .lines()
            .chain(older.lines())
            .chain(newest.lines())
            .map(|line| line.parse().unwrap())
            .collect();
        assert_eq!(lines.last(), Some(&999));
        assert!(lines.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{lines:?}");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 3);
        // One that was removed is made again.
        let mut log = LogFile::open(&path, 1000).unwrap();
        fs::remove_file(&path).unwrap();
        writeln!(log, "again").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "again\n");
    }

    #[test]
    fn links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let target = tmp.path().join("target");
        fs::write(&target, "original").unwrap();
        symlink(&target, tmp.path().join("a.log")).unwrap();
        assert!(LogFile::open(&tmp.path().join("a.log"), 1000).is_err());
        fs::create_dir(tmp.path().join("dir")).unwrap();
        symlink("dir", tmp.path().join("link")).unwrap();
        assert!(LogFile::open(&tmp.path().join("link/b.log"), 1000).is_err());
        let mut log = LogFile::open(&tmp.path().join("b.log"), 1000).unwrap();
        fs::remove_file(tmp.path().join("b.log")).unwrap();
        symlink(&target, tmp.path().join("b.log")).unwrap();
        // It goes on with the file that has no name any more.
        writeln!(log, "more").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "original");
    }
}
