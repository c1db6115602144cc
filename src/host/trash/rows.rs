//! What volumes in the trash are called in their stores.

use super::{Trashed, list, lock, settle};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::host::ask::{ANSWER, PATIENCE, ask_store};
use crate::host::health::{follow, foresee};
use crate::host::hold::held_by_server;
use crate::host::record::secrets_of;
use crate::host::secret::Secrets;
use crate::root::{Root, check_name};
use crate::server::Client;
use crate::store::StoreId;
use crate::volume::{
    Alteration, Rest, Result, VolumeError, alter_offline, held_snapshot, inspect_offline, is_encrypted,
    may_have_holds,
};
use std::time::Duration;

impl Trashed {
    /// What opens its store, as far as that was remembered: nobody is asked.
    pub(super) fn secrets(&self) -> Secrets {
        let record = self.entry.record.as_ref();
        let options = record.and_then(|record| record.options().ok()).unwrap_or_default();
        Secrets { ask: false, ..secrets_of(&options) }
    }

    /// Those that are given, or those that are remembered; none for what is not encrypted.
    pub(super) fn secrets_or(&self, root: &Root, given: &Secrets) -> Secrets {
        if matches!(is_encrypted(root, self.store), Ok(false)) {
            return Secrets::default();
        }
        let remembered = self.secrets();
        let is_there =
            remembered.key_file.iter().chain(&remembered.passphrase_file).all(|file| file.exists());
        if given.is_given() || !remembered.is_given() || !is_there {
            given.clone()
        } else {
            given.or(remembered)
        }
    }

    /// The name that it has in its store, of those that the store holds; none if it is not there any more.
    pub(super) fn row(&self, root: &Root, held: &[String]) -> Option<String> {
        let is_another = |name: &str| {
            check_name(name).is_ok() && matches!(root.resolve(name), Ok(Some(id)) if id == self.store)
        };
        // Nothing else in the store can have the key for its name.
        let names = std::iter::once(&self.key).chain(self.entry.names.iter().rev());
        names.into_iter().find(|name| held.contains(name) && !is_another(name)).cloned()
    }
}

/// As [`ask_store`], of what is in the trash.
fn ask<T>(
    root: &Root,
    of: &Trashed,
    (secrets, patience): (&Secrets, Duration),
    server: impl FnMut(&mut Client) -> Result<T>,
    here: impl FnMut(&Keys) -> Result<T>,
) -> Result<T> {
    ask_store(root, (of.store, &of.entry.name), secrets, patience, server, here)
}

/// The names of all volumes that the store holds.
pub(super) fn names_held(root: &Root, of: &Trashed, secrets: &Secrets) -> Result<Vec<String>> {
    let name = &of.entry.name;
    // Others may wait for this who make or remove names.
    ask(
        root,
        of,
        (secrets, ANSWER),
        |client| Ok(client.status()?.volumes.into_iter().map(|info| info.name).collect()),
        |keys| {
            inspect_offline(root, of.store, name, keys, |inspector| {
                Ok(inspector.volumes()?.into_iter().map(|row| row.name).collect())
            })
        },
    )
}

/// Refuses to let go for good what an interrupted removal may have taken although a snapshot of it is held.
pub(super) fn must_not_be_held(root: &Root, of: &Trashed, secrets: &Secrets) -> Result<()> {
    if !of.entry.unchecked {
        return Ok(());
    }
    match may_have_holds(root, of.store) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        // Nobody can use it. (What is not to be seen is not removed by mistake, either.)
        Err(e) if e.exit == Exit::Damaged || !root.store(of.store).exists() => return Ok(()),
        Err(e) => return Err(e),
    }
    let Some(row) = of.row(root, &names_held(root, of, secrets)?) else { return Ok(()) };
    let found = ask(
        root,
        of,
        (secrets, PATIENCE),
        |client| held_by_server(client, &row),
        |keys| {
            inspect_offline(root, of.store, &of.entry.name, keys, |inspector| held_snapshot(inspector, &row))
        },
    )?;
    let Some((snapshot, tags)) = found else { return Ok(()) };
    let name = &of.entry.name;
    let what = format!(
        "its snapshot {snapshot} is held ({}); `larder trash restore {}` brings {name} back",
        tags.join(", "),
        of.key
    );
    Err(VolumeError::new(Exit::Busy, what))
}

/// Changes the family. What takes its time is left to be done.
pub(super) fn alter(root: &Root, of: &Trashed, secrets: &Secrets, what: &Alteration) -> Result<Option<Rest>> {
    foresee(root, of.store, what);
    let altered = ask(
        root,
        of,
        (secrets, PATIENCE),
        |client| client.alter(what).map(|_| None),
        |keys| alter_offline(root, of.store, keys.clone(), what).map(|(_, rest)| Some(rest)),
    );
    if altered.is_ok() {
        follow(root, of.store, what);
    }
    altered
}

/// Gives a volume in the trash another name in its store. The caller holds the root's lock.
pub(super) fn rename(root: &Root, of: &mut Trashed, secrets: &Secrets, to: &str) -> Result<()> {
    let row = of.row(root, &names_held(root, of, secrets)?);
    let row = row.ok_or_else(|| VolumeError::no_volume(&of.entry.name))?;
    if row == to {
        return Ok(());
    }
    of.entry.names.retain(|name| name != to);
    of.entry.names.push(to.to_owned());
    of.keep(root)?;
    let change = Alteration::Rename { volume: row, to: to.to_owned() };
    alter(root, of, secrets, &change)?.map_or(Ok(()), Rest::finish)
}

/// Sees to it that no volume in the trash has a name in store `id` that another volume is to get there.
///
/// # Errors
/// `Secret` when the store is encrypted and cannot be opened, or as the change.
pub(in crate::host) fn vacate(root: &Root, id: StoreId, name: &str, secrets: &Secrets) -> Result<()> {
    let in_the_way = |of: &Trashed| of.store == id && of.entry.names.iter().any(|other| other == name);
    if !list(root)?.iter().any(in_the_way) {
        return Ok(());
    }
    let _lock = lock(root)?;
    settle(root)?;
    vacate_locked(root, id, name, secrets, None)
}

/// Gives volumes of store `id` that are in the trash names in the store that no volume can have: where the store is attached from its remote,
/// they are told from the others by that. One that is encrypted, and whose secret is not known, keeps its name, and a warning says so.
///
/// # Errors
/// As [`list`], or the host's.
pub(in crate::host) fn vacate_all(root: &Root, id: StoreId, volume: &str) -> Result<()> {
    if !list(root)?.iter().any(|of| of.store == id) {
        return Ok(());
    }
    let _lock = lock(root)?;
    settle(root)?;
    for mut of in list(root)?.into_iter().filter(|of| of.store == id) {
        hide_row(root, &mut of, volume);
    }
    Ok(())
}

/// The same with one. The caller holds the root's lock.
pub(super) fn hide_row(root: &Root, of: &mut Trashed, volume: &str) {
    let (key, secrets) = (of.key.clone(), of.secrets_or(root, &Secrets::default()));
    let secrets = Secrets { ask: false, ..secrets };
    if let Err(e) = rename(root, of, &secrets, &key) {
        let name = &of.entry.name;
        log::warn!(
            "a host that attaches the remote of volume {volume:?} will see volume {name:?}, which is in the trash here, as a volume: {e}"
        );
    }
}

/// As [`vacate`], but for the volume with the key `but`. The caller holds the root's lock.
pub(super) fn vacate_locked(
    root: &Root,
    id: StoreId,
    name: &str,
    secrets: &Secrets,
    but: Option<&str>,
) -> Result<()> {
    let is_meant = |of: &Trashed| {
        of.store == id && Some(of.key.as_str()) != but && of.entry.names.iter().any(|other| other == name)
    };
    for mut of in list(root)?.into_iter().filter(is_meant) {
        let secrets = of.secrets_or(root, secrets);
        let held = names_held(root, &of, &secrets)?;
        if of.row(root, &held).as_deref() == Some(name) {
            let key = of.key.clone();
            rename(root, &mut of, &secrets, &key)?;
        }
        // From now on it is another volume's.
        of.entry.names.retain(|other| other != name);
        of.keep(root)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::trash::Entry;
    use std::collections::BTreeMap;

    /// A rename in its store that did not come about leaves the name in the file, which another volume may get after that.
    #[test]
    fn what_has_its_key_for_a_name_is_not_taken_for_another_volume() {
        let tmp = tempfile::tempdir().unwrap();
        let names = vec!["a".to_owned(), "c".to_owned()];
        let entry = Entry {
            name: "a".into(),
            removed: 0,
            removed_ns: 0,
            until: 0,
            names,
            used: None,
            snapshots: None,
            labels: BTreeMap::new(),
            record: None,
            unchecked: false,
        };
        let of = Trashed { key: "a~1".into(), store: StoreId(7), entry };
        let root = Root::new(tmp.path());
        let row =
            |held: &[&str]| of.row(&root, &held.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(row(&["c", "a~1"]).as_deref(), Some("a~1"));
        assert_eq!(row(&["c", "a"]).as_deref(), Some("c"), "the last one that it was to get");
        assert_eq!(row(&["q"]), None);
    }
}
