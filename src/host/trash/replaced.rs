//! States of volumes that a rollback replaced: snapshots that go by themselves, as removed volumes do.
//!
//! A note beside the stores says which snapshot it is and until when it stays. The note is written after the rollback, so that what is
//! interrupted in between stays for good. A snapshot that is not called any more what it was called then is somebody's own, and one that is
//! held or mounted stays until it is not.

use super::{durable, lock, now};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::host::ask::{ANSWER, ask_store};
use crate::host::look::server_within;
use crate::host::record::remembered_secrets;
use crate::host::secret::Secrets;
use crate::root::{Root, name_of_trashed};
use crate::store::StoreId;
use crate::volume::{
    Alteration, Rest, Result, SnapshotInfo, VolumeError, alter_offline, inspect_offline, read_info,
    snapshots_of,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a look at a store may take: what is seen is only shown, or looked at again another time.
const LOOK: Duration = Duration::from_secs(2);

/// A state that a rollback replaced, as it is noted in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The store.
    pub store: String,
    /// The number of the snapshot.
    pub id: u64,
    /// The volume, by the name that it had last as far as is known.
    pub volume: String,
    /// The name of the snapshot.
    pub snapshot: String,
    /// When the rollback was, in seconds since 1970.
    pub replaced: u64,
    /// When it goes, in seconds since 1970.
    pub until: u64,
    /// The name that the volume was to get when somebody last began to rename it: it has it, if it has not the other one any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_be: Option<String>,
}

/// What became of one that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is gone.
    Removed,
    /// It was gone before, or is somebody's own now.
    Unknown,
    /// It is held, or mounted.
    Kept,
}

/// What it is now.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Bytes that it alone holds, and that come back when it goes.
    pub used: Option<u64>,
    /// The snapshot; none if the store could not be looked into.
    pub snapshot: Option<SnapshotInfo>,
}

impl Replaced {
    fn key(&self) -> String {
        format!("{}-{}", self.store, self.id)
    }

    fn store(&self) -> Option<StoreId> {
        self.store.parse().ok()
    }

    fn is_of(&self, root: &Root, volume: &str) -> bool {
        matches!(root.resolve(volume), Ok(Some(id)) if self.store() == Some(id))
    }

    /// The note as it is when a renaming that was interrupted has come to what it came to.
    fn settled(mut self, root: &Root) -> Self {
        if let Some(to) = self.to_be.clone()
            && !self.is_of(root, &self.volume)
            && self.is_of(root, &to)
        {
            (self.volume, self.to_be) = (to, None);
        }
        self
    }

    /// `VOLUME@SNAPSHOT`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.volume, self.snapshot)
    }

    fn keep(&self, root: &Root) -> Result<()> {
        durable::write(&root.replaced_note(&self.key()), self)
    }

    fn forget(&self, root: &Root) -> Result<()> {
        durable::remove(&root.replaced_note(&self.key()))
    }

    /// What opens its store, if anything has to: nobody is asked.
    fn secrets(&self, root: &Root, id: StoreId) -> Secrets {
        let remembered = remembered_secrets(root, &self.volume, id).unwrap_or_default();
        Secrets { ask: false, ..remembered }
    }

    fn is_it(&self, snapshot: &SnapshotInfo) -> bool {
        snapshot.id == Some(self.id) && snapshot.name == self.snapshot
    }

    /// Looks at it, if that takes no secret that is not remembered. None if it is not there any more, or is somebody's own now.
    pub fn look(&self, root: &Root) -> Option<Seen> {
        let id = self.store()?;
        let find = |all: Vec<SnapshotInfo>| all.into_iter().find(|snapshot| self.is_it(snapshot));
        let there = match server_within(root, id, LOOK) {
            Ok(Some(mut client)) => client.snapshots(&self.volume),
            Ok(None) => self.secrets(root, id).keys(root, id, &self.volume).and_then(|keys| {
                inspect_offline(root, id, &self.volume, &keys, |inspector| {
                    snapshots_of(inspector, &self.volume)
                })
            }),
            Err(e) => Err(e),
        };
        match there.map(find) {
            Ok(Some(snapshot)) => Some(Seen { used: snapshot.used, snapshot: Some(snapshot) }),
            Ok(None) => None,
            Err(_) => Some(Seen::default()),
        }
    }

    /// Removes it, unless somebody keeps it.
    ///
    /// # Errors
    /// `Secret` when the store has to be opened and cannot be, or the host's.
    pub fn remove(&self, root: &Root, given: &Secrets) -> Result<Fate> {
        let Some(id) = self.store().filter(|id| root.store(*id).exists()) else {
            let may_come_back = self.store().is_some_and(|id| !is_gone(root, id));
            return if may_come_back { Ok(Fate::Kept) } else { self.forget(root).map(|()| Fate::Unknown) };
        };
        let remembered = self.secrets(root, id);
        let secrets =
            if given.is_given() || !remembered.is_given() { given.clone() } else { given.or(remembered) };
        let name = (id, self.volume.as_str());
        // In its store, the volume may have another name by now: of one in the trash, or of one that was renamed.
        let find = |volume: &str, snapshots: &[SnapshotInfo]| {
            let snapshot = snapshots.iter().find(|snapshot| self.is_it(snapshot))?;
            let (volume, name) = (volume.to_owned(), snapshot.name.clone());
            let change = Alteration::RemoveSnapshot { volume, name, id: snapshot.id };
            Some((change, !snapshot.holds.is_empty()))
        };
        let mut rest: Option<Rest> = None;
        let fate = ask_store(
            root,
            name,
            &secrets,
            LOOK,
            |client| {
                let status = client.status()?;
                let mut found = status.volumes.iter().filter_map(|of| find(&of.name, &of.snapshots));
                let Some((change, is_held)) = found.next() else { return Ok(Fate::Unknown) };
                let mounted = match &change {
                    Alteration::RemoveSnapshot { volume, name, .. } => format!("{volume}@{name}"),
                    _ => String::new(),
                };
                if is_held || status.mounts.iter().any(|mount| mount.volume == mounted) {
                    return Ok(Fate::Kept);
                }
                client.alter(&change).map(|_| Fate::Removed)
            },
            |keys| {
                for name in names_here(root, id, &self.volume, keys)? {
                    let info = read_info(root, id, &name, keys)?;
                    let Some((change, is_held)) = find(&name, &info.snapshots) else { continue };
                    if is_held {
                        return Ok(Fate::Kept);
                    }
                    rest = Some(alter_offline(root, id, keys.clone(), &change)?.1);
                    return Ok(Fate::Removed);
                }
                Ok(Fate::Unknown)
            },
        );
        rest.map_or(Ok(()), Rest::finish)?;
        match fate {
            // Somebody was quicker: held it, mounted it, renamed it.
            Err(e) if e.exit == Exit::Busy && !e.silent => Ok(Fate::Kept),
            Err(e) if e.exit == Exit::NoVolume => self.forget(root).map(|()| Fate::Unknown),
            Err(e) => Err(e),
            Ok(Fate::Kept) => Ok(Fate::Kept),
            Ok(fate) => self.forget(root).map(|()| fate),
        }
    }
}

/// All states that are noted, of volumes that are there and of those in the trash; what was replaced first comes first.
///
/// # Errors
/// As readdir(3). A note that cannot be read is passed over: what it is about stays.
pub(super) fn noted(root: &Root) -> Result<Vec<Replaced>> {
    Ok(written(root)?.into_iter().map(|note| note.settled(root)).collect())
}

/// The same, as they are in their files.
fn written(root: &Root) -> Result<Vec<Replaced>> {
    let dir = root.replaced();
    let mut all: Vec<Replaced> = Vec::new();
    for key in durable::names(&dir).map_err(|e| VolumeError::io(&dir, &e))? {
        match durable::read(&root.replaced_note(&key)) {
            Ok(note) => all.extend(note.filter(|note: &Replaced| note.key() == key)),
            Err(e) => log::warn!("{}: {e}", root.replaced_note(&key).display()),
        }
    }
    all.sort_by(|a, b| (a.replaced, a.id, &a.store).cmp(&(b.replaced, b.id, &b.store)));
    Ok(all)
}

/// Those of volumes that are not in the trash: what is there comes back with its snapshots, or goes with them.
///
/// # Errors
/// As [`noted`].
pub(super) fn of_volumes(root: &Root) -> Result<Vec<Replaced>> {
    let mut all = noted(root)?;
    all.retain(|of| of.is_of(root, &of.volume));
    Ok(all)
}

/// Notes that a snapshot is what a rollback replaced, and goes after `period`; it is returned when that is.
///
/// # Errors
/// The host's. It stays for good then.
pub(in crate::host) fn note(
    root: &Root,
    (store, id): (StoreId, u64),
    (volume, snapshot): (&str, &str),
    period: Duration,
    secrets: &Secrets,
) -> Result<Replaced> {
    // Whoever renames the volume after this finds the note. Who has done it since the rollback did not.
    let _lock = lock(root)?;
    let is_called_so = matches!(root.resolve(volume), Ok(Some(found)) if found == store);
    let found = if is_called_so { None } else { volume_of(root, store, id, (volume, secrets))? };
    let volume = found.as_deref().unwrap_or(volume);
    let replaced = now().as_secs();
    let note = Replaced {
        store: store.to_string(),
        id,
        volume: volume.to_owned(),
        snapshot: snapshot.to_owned(),
        replaced,
        until: replaced.saturating_add(period.as_secs()),
        to_be: None,
    };
    note.keep(root)?;
    Ok(note)
}

/// The volume of a store that has the snapshot with a number; it was called `name`. Nobody is asked for a secret.
fn volume_of(
    root: &Root,
    store: StoreId,
    id: u64,
    (name, secrets): (&str, &Secrets),
) -> Result<Option<String>> {
    let has_it = |snapshots: &[SnapshotInfo]| snapshots.iter().any(|snapshot| snapshot.id == Some(id));
    let found = ask_store(
        root,
        (store, name),
        &secrets.only_known(),
        ANSWER,
        |client| {
            let mut volumes = client.status()?.volumes.into_iter();
            Ok(volumes.find(|of| has_it(&of.snapshots)).map(|of| of.name))
        },
        |keys| {
            for name in names_here(root, store, name, keys)? {
                if has_it(&read_info(root, store, &name, keys)?.snapshots) {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        },
    )?;
    // One that is in the trash may have its key for a name.
    Ok(found.map(|row| name_of_trashed(&row).map_or_else(|| row.clone(), str::to_owned)))
}

/// The names of the volumes of a store that is opened here; one of them was `name`.
fn names_here(root: &Root, store: StoreId, name: &str, keys: &Keys) -> Result<Vec<String>> {
    inspect_offline(root, store, name, keys, |inspector| {
        Ok(inspector.volumes()?.into_iter().map(|row| row.name).collect())
    })
}

/// Follows a volume of a store to its new name. The caller holds the root's lock.
pub(in crate::host) fn renamed(root: &Root, store: StoreId, name: &str, new: &str) {
    change_each(root, store, |note| {
        if note.volume == name {
            (note.volume, note.to_be) = (new.to_owned(), None);
        }
    });
}

/// The same, said before it gets that name, which may be interrupted.
pub(in crate::host) fn rename_soon(root: &Root, store: StoreId, name: &str, new: &str) {
    change_each(root, store, |note| {
        if note.volume == name {
            note.to_be = Some(new.to_owned());
        }
    });
}

/// It did not get it.
pub(in crate::host) fn not_renamed(root: &Root, store: StoreId, name: &str) {
    change_each(root, store, |note| {
        if note.volume == name {
            note.to_be = None;
        }
    });
}

/// A name of a store turns out to stand for no volume, and goes: of a renaming that was interrupted it is the old one or the new one. The
/// caller holds the root's lock.
pub(in crate::host) fn name_goes(root: &Root, store: StoreId, name: &str) {
    change_each(root, store, |note| match note.to_be.take() {
        Some(to) if note.volume == name => note.volume = to,
        Some(to) if to != name => note.to_be = Some(to),
        _ => {}
    });
}

/// Changes the notes of a store.
fn change_each(root: &Root, store: StoreId, change: impl Fn(&mut Replaced)) {
    for before in written(root).unwrap_or_default().into_iter().filter(|note| note.store() == Some(store)) {
        let mut note = before.clone().settled(root);
        change(&mut note);
        if note != before
            && let Err(e) = note.keep(root)
        {
            log::warn!("{}: {e}", note.name());
        }
    }
}

/// A snapshot is somebody's own from now on: it got another name.
pub fn disown(root: &Root, volume: &str, snapshot: &str) {
    // Or a renaming of the volume at this moment would write it again. Without a lock, it means nothing all the same: it has another name.
    let _lock = lock(root).inspect_err(|e| log::warn!("{volume}@{snapshot}: {e}"));
    for note in of_volumes(root).unwrap_or_default() {
        if note.volume == volume
            && note.snapshot == snapshot
            && let Err(e) = note.forget(root)
        {
            log::warn!("{}: {e}", note.name());
        }
    }
}

/// Whether a store is gone for good. One that some name stands for may be on a disk that is not mounted now.
fn is_gone(root: &Root, id: StoreId) -> bool {
    !root.store(id).exists() && root.links_to(id).is_ok_and(|links| links.is_empty())
}

/// Clears away notes of stores that are gone, and what interruptions left of notes.
pub(super) fn sweep(root: &Root) -> Result<()> {
    let is_gone = |of: &Replaced| of.store().is_none_or(|id| is_gone(root, id));
    let gone: Vec<Replaced> = noted(root)?.into_iter().filter(is_gone).collect();
    if !gone.is_empty() {
        let _lock = lock(root)?;
        gone.iter().try_for_each(|of| of.forget(root))?;
    }
    Ok(())
}

/// The one with this name, `VOLUME@SNAPSHOT`. One of which only the note is left, or that is somebody's own now, is not in the trash.
///
/// # Errors
/// `NoVolume`, or the host's.
pub fn find(root: &Root, name: &str) -> Result<Replaced> {
    let found = of_volumes(root)?.into_iter().find(|of| of.name() == name && of.look(root).is_some());
    found.ok_or_else(|| {
        let what = format!("{name} is not in the trash; `larder trash ls` lists what is there");
        VolumeError::new(Exit::NoVolume, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::alter::alter;
    use crate::host::rename;
    use crate::volume::{LimitChanges, VolumeSpec, create};
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    const PERIOD: Duration = Duration::from_secs(60);

    fn root_with(name: &str) -> (tempfile::TempDir, Root, StoreId) {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        let spec = VolumeSpec {
            name: name.into(),
            limits: LimitChanges::default(),
            uid: 0,
            gid: 0,
            mode: 0o755,
            labels: BTreeMap::new(),
            remote: None,
        };
        let id = create(&root, &spec).unwrap();
        (tmp, root, id)
    }

    fn names(root: &Root) -> Vec<String> {
        of_volumes(root).unwrap().iter().map(Replaced::name).collect()
    }

    /// It was noted under the name of the time of the rollback, found by nobody, and stayed for good.
    #[test]
    fn what_was_renamed_between_the_rollback_and_the_note_is_noted_by_its_new_name() {
        let (_tmp, root, id) = root_with("v");
        let secrets = Secrets::default();
        let change = Alteration::Snapshot { volume: "v".into(), name: "s".into(), labels: BTreeMap::new() };
        alter(&root, "v", &secrets, &change).unwrap();
        let change = Alteration::Rollback { volume: "v".into(), snapshot: "s".into(), live: false };
        let altered = alter(&root, "v", &secrets, &change).unwrap();
        let (kept, number) = (altered.kept.unwrap(), altered.kept_id.unwrap());
        rename(&root, "v", "w", &secrets).unwrap();
        let noted = note(&root, (id, number), ("v", &kept), PERIOD, &secrets).unwrap();
        assert_eq!(noted.volume, "w");
        assert_eq!(names(&root), [format!("w@{kept}")]);
        rename(&root, "w", "x", &secrets).unwrap();
        assert_eq!(names(&root), [format!("x@{kept}")]);
        assert_eq!(noted.remove(&root, &secrets).unwrap(), Fate::Removed);
        assert!(names(&root).is_empty());
    }

    /// Whichever of the two names is there, and whichever goes because it stands for nothing.
    #[test]
    fn a_renaming_that_was_interrupted_leaves_no_note_behind() {
        for has_happened in [false, true] {
            let (_tmp, root, id) = root_with("v");
            let store = id.to_string();
            let (volume, snapshot) = ("v".to_owned(), "s".to_owned());
            let to_be = None;
            let of = Replaced { store, id: 5, volume, snapshot, replaced: 0, until: 1, to_be };
            of.keep(&root).unwrap();
            symlink(Root::link_target(id), root.link("w")).unwrap();
            rename_soon(&root, id, "v", "w");
            assert_eq!(names(&root), ["v@s"]);
            let (stays, goes) = if has_happened { ("w", "v") } else { ("v", "w") };
            let before = written(&root).unwrap();
            for settles in [false, true] {
                before[0].keep(&root).unwrap();
                if settles {
                    name_goes(&root, id, goes);
                }
                std::fs::remove_file(root.link(goes)).unwrap();
                assert_eq!(names(&root), [format!("{stays}@s")]);
                // Another volume of the family gets that name.
                symlink(Root::link_target(id), root.link(goes)).unwrap();
            }
            assert_eq!(names(&root), [format!("{stays}@s")]);
            assert_eq!(written(&root).unwrap()[0].to_be, None);
        }
    }
}
