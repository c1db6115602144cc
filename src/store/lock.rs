//! The lock that keeps a store to one process.

use crate::backing::{OpenMode, open_at, open_dir};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name of the lock file in its store.
pub const LOCK_NAME: &str = "lock";

/// Holds a store's lock as long as it lives. The kernel lets go of it when the process dies.
#[derive(Debug)]
pub struct StoreLock {
    file: Flock<File>,
    store: PathBuf,
}

/// Keeps others from replacing a store's header as long as it lives: also those that do not have the store open.
#[derive(Debug)]
pub struct HeaderLock {
    _dir: Flock<File>,
}

impl HeaderLock {
    /// Takes the lock of the header of the store in directory `store`; waits for it.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn acquire(store: &Path) -> io::Result<Self> {
        // The directory, because the file is replaced.
        let dir = Flock::lock(File::from(open_dir(store)?), FlockArg::LockExclusive)
            .map_err(|(_, e)| io::Error::from(e))?;
        Ok(Self { _dir: dir })
    }
}

/// What a [`StoreLock`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Reading a store that nobody changes; others may read too.
    Shared,
    /// Having the store open.
    Exclusive,
}

impl StoreLock {
    /// Takes the lock of the store in directory `store`, or says at once that another process has it (`None`).
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn try_acquire(store: &Path, mode: LockMode) -> io::Result<Option<Self>> {
        let dir = open_dir(store)?;
        // flock(2) works on a file open for reading; only making the file needs more. A reader of a store on a
        // read-only disk so gets its lock.
        let file = match open_at(&dir, LOCK_NAME, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => open_at(&dir, LOCK_NAME, OpenMode::Create)?,
            other => other?,
        };
        let arg = match mode {
            LockMode::Shared => FlockArg::LockSharedNonblock,
            LockMode::Exclusive => FlockArg::LockExclusiveNonblock,
        };
        match Flock::lock(file, arg) {
            Ok(file) => Ok(Some(Self { file, store: store.to_owned() })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }
}

impl AsFd for StoreLock {
    /// For a process that shares the lock: it is free when both have closed it, or one has let go of it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl StoreLock {
    /// Whether a file is the lock of the store in directory `store`.
    ///
    /// # Errors
    /// As open(2) and fstat(2).
    pub fn is_of(file: BorrowedFd<'_>, store: &Path) -> io::Result<bool> {
        let own = open_at(&open_dir(store)?, LOCK_NAME, OpenMode::Read);
        let own = match own {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?.metadata()?,
        };
        let file = File::from(file.try_clone_to_owned()?).metadata()?;
        Ok((file.dev(), file.ino()) == (own.dev(), own.ino()))
    }

    /// A lock that another process has and shares.
    ///
    /// # Errors
    /// As flock(2); `WouldBlock` if that process does not have it, and `InvalidInput` if it is that of another store.
    pub fn shared(file: OwnedFd, store: &Path) -> io::Result<Self> {
        if !Self::is_of(file.as_fd(), store)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the lock that was passed on is that of another store",
            ));
        }
        let file = Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock);
        Ok(Self { file: file.map_err(|(_, e)| io::Error::from(e))?, store: store.to_owned() })
    }

    /// Takes the lock of the store's header.
    ///
    /// # Errors
    /// As [`HeaderLock::acquire`].
    pub fn lock_header(&self) -> io::Result<HeaderLock> {
        HeaderLock::acquire(&self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_an_owner_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let take = |mode| StoreLock::try_acquire(tmp.path(), mode).unwrap();
        let (one, two) = (take(LockMode::Shared), take(LockMode::Shared));
        assert!(one.is_some() && two.is_some() && take(LockMode::Exclusive).is_none());
        drop((one, two));
        let owner = take(LockMode::Exclusive);
        assert!(owner.is_some() && take(LockMode::Shared).is_none());
    }

    #[test]
    fn a_lock_that_is_passed_on_is_not_taken_for_that_of_another_store() {
        let tmp = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| tmp.path().join(name));
        for store in [&one, &other] {
            std::fs::create_dir(store).unwrap();
            drop(StoreLock::try_acquire(store, LockMode::Exclusive).unwrap().unwrap());
        }
        let lock = StoreLock::try_acquire(&one, LockMode::Exclusive).unwrap().unwrap();
        let passed = || lock.as_fd().try_clone_to_owned().unwrap();
        assert!(StoreLock::shared(passed(), &one).is_ok());
        assert_eq!(StoreLock::shared(passed(), &other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
