//! The WAL index that SQLite keeps in "shared memory": here, memory of this process.

use rusqlite::ffi;
use std::ffi::c_int;

const SLOTS: usize = ffi::SQLITE_SHM_NLOCK as usize;

/// A region of the index. Its address never changes while a connection is attached.
struct Region(Box<[u64]>);

/// The WAL index of one database and its locks (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).
#[derive(Default)]
pub(super) struct Shm {
    regions: Vec<Region>,
    attached: u32,
    shared: [u32; SLOTS],
    exclusive: [bool; SLOTS],
}

impl std::fmt::Debug for Shm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shm").field("regions", &self.regions.len()).field("attached", &self.attached).finish()
    }
}

/// What one connection holds of a [`Shm`].
#[derive(Debug, Default)]
pub(super) struct ShmUser {
    attached: bool,
    shared: [bool; SLOTS],
    exclusive: [bool; SLOTS],
}

impl Shm {
    /// The address of region `index` of `bytes` bytes; null if it is not there and `extend` is not set.
    pub(super) fn map(&mut self, user: &mut ShmUser, index: usize, bytes: usize, extend: bool) -> *mut u8 {
        if !user.attached {
            user.attached = true;
            self.attached += 1;
        }
        while extend && self.regions.len() <= index {
            self.regions.push(Region(vec![0u64; bytes.div_ceil(8)].into_boxed_slice()));
        }
        match self.regions.get_mut(index) {
            Some(region) => region.0.as_mut_ptr().cast(),
            None => std::ptr::null_mut(),
        }
    }

    /// xShmLock: `flags` say lock or unlock, shared or exclusive.
    pub(super) fn lock(&mut self, user: &mut ShmUser, offset: usize, count: usize, flags: c_int) -> c_int {
        let Some(end) = offset.checked_add(count).filter(|end| *end <= SLOTS) else {
            return ffi::SQLITE_MISUSE;
        };
        let slots = offset..end;
        let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            for slot in slots {
                self.unlock(user, slot, exclusive);
            }
            return ffi::SQLITE_OK;
        }
        let busy = slots.clone().any(|slot| {
            let others = self.shared[slot] - u32::from(user.shared[slot]);
            let taken = self.exclusive[slot] && !user.exclusive[slot];
            taken || (exclusive && others > 0)
        });
        if busy {
            return ffi::SQLITE_BUSY;
        }
        for slot in slots {
            if exclusive && !user.exclusive[slot] {
                user.exclusive[slot] = true;
                self.exclusive[slot] = true;
            } else if !exclusive && !user.shared[slot] {
                user.shared[slot] = true;
                self.shared[slot] += 1;
            }
        }
        ffi::SQLITE_OK
    }

    fn unlock(&mut self, user: &mut ShmUser, slot: usize, exclusive: bool) {
        if exclusive && user.exclusive[slot] {
            user.exclusive[slot] = false;
            self.exclusive[slot] = false;
        }
        if !exclusive && user.shared[slot] {
            user.shared[slot] = false;
            self.shared[slot] -= 1;
        }
    }

    /// Lets go of everything that `user` holds. The index goes with its last user and is then rebuilt from the WAL.
    pub(super) fn detach(&mut self, user: &mut ShmUser) {
        for slot in 0..SLOTS {
            self.unlock(user, slot, true);
            self.unlock(user, slot, false);
        }
        if std::mem::take(&mut user.attached) {
            self.attached -= 1;
            if self.attached == 0 {
                self.regions.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffi::{SQLITE_SHM_EXCLUSIVE, SQLITE_SHM_LOCK, SQLITE_SHM_SHARED, SQLITE_SHM_UNLOCK};

    #[test]
    fn locks_exclude_each_other_by_slot() {
        let (mut shm, mut a, mut b) = (Shm::default(), ShmUser::default(), ShmUser::default());
        assert_eq!(shm.lock(&mut a, 3, 2, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED), ffi::SQLITE_OK);
        assert_eq!(shm.lock(&mut b, 4, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE), ffi::SQLITE_BUSY);
        assert_eq!(shm.lock(&mut b, 5, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE), ffi::SQLITE_OK);
        assert_eq!(shm.lock(&mut a, 5, 1, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED), ffi::SQLITE_BUSY);
        assert_eq!(shm.lock(&mut a, 4, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED), ffi::SQLITE_OK);
        assert_eq!(shm.lock(&mut b, 4, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE), ffi::SQLITE_OK);
        shm.detach(&mut b);
        assert_eq!(shm.lock(&mut a, 5, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE), ffi::SQLITE_OK);
        assert_eq!(shm.lock(&mut a, 7, 2, SQLITE_SHM_LOCK | SQLITE_SHM_SHARED), ffi::SQLITE_MISUSE);
    }

    #[test]
    fn regions_are_shared_and_go_with_the_last_user() {
        let (mut shm, mut a, mut b) = (Shm::default(), ShmUser::default(), ShmUser::default());
        assert!(shm.map(&mut a, 0, 32768, false).is_null());
        let at = shm.map(&mut a, 1, 32768, true);
        assert_eq!(at, shm.map(&mut b, 1, 32768, false));
        shm.detach(&mut a);
        assert_eq!(at, shm.map(&mut b, 1, 32768, false));
        shm.detach(&mut b);
        assert!(shm.map(&mut a, 1, 32768, false).is_null());
    }
}
