//! What this process is for, as others see it: in lists of processes, and in the fields of messages.
//!
//! A holder or a server is called `larder: NAME`, after the volume that it was started for: so its first argument says, from which it
//! knows that itself, and so does the name of its first thread, where there is room for fifteen bytes. When that volume is mounted no
//! longer, and another one of the store is, the thread is named after that one.

use crate::store::StoreId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

/// What comes before the name of the volume.
const PREFIX: &str = "larder: ";

/// What a process is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// The store.
    pub(super) store: Option<StoreId>,
    /// The volume that it was started for.
    first: Option<String>,
    mounted: BTreeSet<String>,
}

static OWN: Mutex<Identity> = Mutex::new(Identity { store: None, first: None, mounted: BTreeSet::new() });

impl Identity {
    /// The volumes that messages are about.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &str> {
        let unless_mounted = self.first.iter().filter(|_| self.mounted.is_empty());
        self.mounted.iter().chain(unless_mounted).map(String::as_str)
    }

    /// The volume that the process is named after.
    fn name(&self) -> Option<&str> {
        let first = self.first.as_deref();
        first.filter(|first| self.mounted.contains(*first)).or_else(|| self.volumes().next())
    }

    fn show(&self) {
        if let Some(name) = self.name() {
            // The kernel takes as much of it as it has room for. Where it does not, it is only a name; and no message can say so,
            // for those are made with what is locked here.
            let _ = fs::write("/proc/self/comm", format!("{PREFIX}{name}"));
        }
    }
}

/// The first argument of a process that is started for a volume.
pub(super) fn argument(volume: &str) -> OsString {
    format!("{PREFIX}{volume}").into()
}

/// The same, of one that is for the same as this one.
pub(super) fn own_argument() -> Option<OsString> {
    OWN.lock().name().map(argument)
}

/// The volume that this process was started for, if its first argument says.
fn said_by_argument() -> Option<String> {
    std::env::args_os().next()?.to_str()?.strip_prefix(PREFIX).map(str::to_owned)
}

/// This process is for a store from now on, and for this volume of it, or the one that its first argument says.
pub fn be_for(store: StoreId, volume: Option<&str>) {
    let mut own = OWN.lock();
    own.store = Some(store);
    own.first = volume.map(str::to_owned).or_else(said_by_argument);
    own.show();
}

/// These are the volumes and snapshots that are mounted now.
pub(super) fn mounted<'a>(names: impl Iterator<Item = &'a String>) {
    let mut own = OWN.lock();
    if own.store.is_none() {
        return;
    }
    let volume = |name: &'a String| name.split('@').next().unwrap_or_default().to_owned();
    let mounted = names.map(volume).collect();
    if own.mounted != mounted {
        own.mounted = mounted;
        own.show();
    }
}

impl From<StoreId> for Identity {
    fn from(store: StoreId) -> Self {
        Self { store: Some(store), ..Self::default() }
    }
}

/// What this process is for.
pub(super) fn own() -> Identity {
    OWN.lock().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_name_of_its_first_volume_as_long_as_that_is_mounted() {
        let of = |first: Option<&str>, mounted: &[&str]| Identity {
            store: None,
            first: first.map(str::to_owned),
            mounted: mounted.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(of(None, &[]).name(), None);
        assert_eq!(of(Some("db"), &[]).name(), Some("db"));
        assert_eq!(of(Some("db"), &["a", "db"]).name(), Some("db"));
        assert_eq!(of(Some("db"), &["b", "a"]).name(), Some("a"));
        assert_eq!(of(Some("db"), &["b", "a"]).volumes().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(of(Some("db"), &[]).volumes().collect::<Vec<_>>(), ["db"]);
    }
}
