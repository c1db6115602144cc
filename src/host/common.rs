//! What is the same for all volumes of a root, found out once for all of those that are looked at together.

use super::engines::{self, Asking, Known};
use crate::backing::{Dir, OsDir};
use crate::health::{Made, made};
use crate::mount::Everywhere;
use crate::root::Root;
use crate::store::StoreId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What of volumes is looked at, beside what their stores say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    #[default]
    All,
    /// What tables show: not how well they are, their keys, or where their servers log.
    Table,
    /// The same, without what they occupy on the disk.
    Usage,
}

/// What has been found out so far.
#[derive(Debug, Default)]
pub struct Common {
    pub(super) detail: Detail,
    pub(super) everywhere: Everywhere,
    space: OnceLock<Option<(PathBuf, u64)>>,
    made: Mutex<HashMap<StoreId, Arc<[Made]>>>,
    asks_engines: bool,
    known: OnceLock<BTreeMap<String, Known>>,
}

impl Common {
    /// One that `asks_engines` what containers are called, if somebody wants to know: whoever is not asked by one of them may.
    pub(super) fn new(asks_engines: bool) -> Self {
        Self { asks_engines, ..Self::default() }
    }

    /// What its engine says of the container with this ID, if one was asked and has answered.
    pub(super) fn container(&self, id: &str) -> Option<&Known> {
        let ask = || match self.asks_engines {
            true => engines::by_id(engines::ask(Asking::Briefly, None).0),
            false => BTreeMap::new(),
        };
        self.known.get_or_init(ask).get(id).filter(|known| !known.name.is_empty())
    }

    /// Where a root is, and how many bytes the host has for it; none if that cannot be found out. All volumes that are looked at are of it.
    pub(super) fn space(&self, root: &Root) -> Option<&(PathBuf, u64)> {
        let look = || {
            let path = root.path().canonicalize().ok()?;
            let space = OsDir::new(&path).host_space().ok()?;
            Some((path, space.available_bytes))
        };
        self.space.get_or_init(look).as_ref()
    }

    /// The mounts of a store that were made. Whoever has asked its server asks this after that: what it has mounted meanwhile is served.
    pub(super) fn made(&self, root: &Root, id: StoreId) -> Arc<[Made]> {
        let known = self.made.lock().get(&id).cloned();
        known.unwrap_or_else(|| {
            let found: Arc<[Made]> = made(root, id).into();
            self.made.lock().insert(id, Arc::clone(&found));
            found
        })
    }
}
