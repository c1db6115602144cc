//! Accesses that fail.

use std::io;

/// A way to use the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Read,
    Write,
    Sync,
    SetLen,
    Punch,
    Reserve,
    Create,
    Remove,
    SyncDir,
}

/// One or more accesses of a kind that fail.
#[derive(Clone, Debug)]
pub struct Fault {
    access: Access,
    /// Whether the file is meant, by its name.
    of: fn(&str) -> bool,
    errno: i32,
    /// Accesses that succeed before the first that fails.
    spared: u32,
    /// Accesses that fail then.
    failing: u32,
    struck: bool,
}

impl Fault {
    /// The access of a kind after `spared` others fails, once.
    pub fn once(access: Access, of: fn(&str) -> bool, errno: i32, spared: u32) -> Self {
        Self { access, of, errno, spared, failing: 1, struck: false }
    }

    /// All accesses of a kind after `spared` others fail.
    pub fn from(access: Access, of: fn(&str) -> bool, errno: i32, spared: u32) -> Self {
        Self { failing: u32::MAX, ..Self::once(access, of, errno, spared) }
    }

    /// Whether it goes on once it has struck.
    pub fn is_lasting(&self) -> bool {
        self.failing > 1
    }

    pub(super) fn has_struck(&self) -> bool {
        self.struck
    }

    pub(super) fn strike(&mut self, access: Access, name: &str) -> Option<io::Error> {
        if access != self.access || !(self.of)(name) {
            return None;
        }
        if self.spared > 0 {
            self.spared -= 1;
            return None;
        }
        if self.failing == 0 {
            return None;
        }
        self.failing -= 1;
        self.struck = true;
        Some(io::Error::from_raw_os_error(self.errno))
    }
}
