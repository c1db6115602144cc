//! Steps that change the family: snapshots, clones, rollback, limits.

use super::family::Snapshot;
use super::harness::Harness;
use super::operation::Operation;
use larder::meta::{Limits, MetaError, NewClone, NewSnapshot, Refusal, Timestamp, VolumeId};
use larder::open_store::AlterError;

/// More would only make the steps slower.
const VOLUMES_MAX: usize = 4;

fn snapshot(name: &str) -> NewSnapshot {
    NewSnapshot { name: name.to_owned(), labels: Default::default(), created: 1 }
}

/// What a change of the family was refused for.
fn refusal<T>(result: Result<T, AlterError>) -> Result<T, Refusal> {
    match result {
        Ok(value) => Ok(value),
        Err(AlterError::Meta(MetaError::Refused(refusal))) => Err(refusal),
        Err(e) => panic!("{e}"),
    }
}

impl Harness {
    pub(super) fn family_step(&mut self, operation: &Operation) {
        match operation {
            Operation::Snapshot { name } => self.snapshot(&format!("s{name}")),
            Operation::RemoveSnapshot { snapshot } => {
                let Some(id) = self.choose_snapshot(*snapshot) else { return };
                let found = refusal(self.store().alter(move |meta| meta.remove_snapshot(id)));
                let is_held = !self.family.snapshots[&id].holds.is_empty();
                assert_eq!(found, if is_held { Err(Refusal::Held) } else { Ok(()) });
                if found.is_ok() {
                    self.family.snapshots.remove(&id);
                }
            }
            Operation::RenameSnapshot { snapshot, name } => {
                let Some(id) = self.choose_snapshot(*snapshot) else { return };
                let (name, volume) = (format!("s{name}"), self.family.active);
                let new = name.clone();
                let found = refusal(self.store().alter(move |meta| meta.rename_snapshot(id, &new)));
                let taken = self.family.snapshots.values().any(|s| s.volume == volume && s.name == name);
                assert_eq!(found, if taken { Err(Refusal::Exists) } else { Ok(()) });
                if found.is_ok() {
                    self.family.snapshots.get_mut(&id).unwrap().name = name;
                }
            }
            Operation::RenameVolume { volume, name } => {
                let (id, name) = (self.choose_volume(*volume), format!("renamed-{name}"));
                let new = name.clone();
                let found = refusal(self.store().alter(move |meta| meta.rename_volume(id, &new)));
                let taken = self.family.volumes.keys().any(|id| self.family.names[id] == name);
                assert_eq!(found, if taken { Err(Refusal::Exists) } else { Ok(()) });
                if found.is_ok() {
                    self.family.names.insert(id, name);
                }
            }
            Operation::Hold { snapshot, tag } => {
                let Some(id) = self.choose_snapshot(*snapshot) else { return };
                let tag = format!("t{tag}");
                let new = tag.clone();
                self.store().begin_holds().unwrap();
                let found = refusal(self.store().alter(move |meta| meta.hold(id, &new, 1)));
                let is_new = self.family.snapshots.get_mut(&id).unwrap().holds.insert(tag);
                assert_eq!(found, if is_new { Ok(()) } else { Err(Refusal::Exists) });
            }
            Operation::Release { snapshot, tag } => {
                let Some(id) = self.choose_snapshot(*snapshot) else { return };
                let tag = format!("t{tag}");
                let old = tag.clone();
                let found = refusal(self.store().alter(move |meta| meta.release(id, &old)));
                let was_held = self.family.snapshots.get_mut(&id).unwrap().holds.remove(&tag);
                assert_eq!(found, if was_held { Ok(()) } else { Err(Refusal::NotFound) });
            }
            Operation::SnapshotAll { name } => self.snapshot_all(&format!("s{name}")),
            Operation::Rollback { snapshot } => self.rollback(*snapshot),
            Operation::Clone { source } => self.clone_volume(*source),
            Operation::Switch { volume } => {
                self.unmount();
                self.note();
                self.family.active = self.choose_volume(*volume);
                self.mount();
            }
            Operation::RemoveVolume { volume } => {
                let id = self.choose_volume(*volume);
                if id == self.family.active {
                    return;
                }
                let found = refusal(self.store().alter(move |meta| meta.remove_volume(id)));
                let mut own = self.family.snapshots.values().filter(|snapshot| snapshot.volume == id);
                let is_held = own.any(|snapshot| !snapshot.holds.is_empty());
                assert_eq!(found, if is_held { Err(Refusal::Held) } else { Ok(()) });
                if found.is_ok() {
                    self.family.volumes.remove(&id);
                    self.family.snapshots.retain(|_, snapshot| snapshot.volume != id);
                }
            }
            Operation::Resize { blocks, inodes, metadata } => {
                let limits = Limits { blocks: *blocks, inodes: *inodes, metadata: *metadata };
                let id = self.family.active;
                let found = refusal(self.store().alter(move |meta| meta.resize(id, limits)));
                let model = self.family.model_mut();
                let expected = match (blocks, inodes) {
                    (Some(limit), _) if *limit < model.used_blocks() => Err(Refusal::NoSpace),
                    (_, Some(limit)) if *limit < model.nodes.len() as u64 => Err(Refusal::NoInodes),
                    _ if metadata.is_some_and(|limit| limit < model.used_metadata()) => {
                        Err(Refusal::NoMetadata)
                    }
                    _ => Ok(()),
                };
                assert_eq!(found, expected, "{operation:?}");
                if found.is_ok() {
                    (model.block_limit, model.inode_limit) = (*blocks, *inodes);
                    model.metadata_limit = *metadata;
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn choose_snapshot(&self, number: usize) -> Option<VolumeId> {
        let snapshots = self.family.snapshots_of_active();
        if snapshots.is_empty() { None } else { Some(snapshots[number % snapshots.len()]) }
    }

    fn choose_volume(&self, number: usize) -> VolumeId {
        *self.family.volumes.keys().nth(number % self.family.volumes.len()).unwrap()
    }

    fn snapshot(&mut self, name: &str) {
        let (volume, new) = (self.family.active, snapshot(name));
        let found = refusal(self.store().alter(move |meta| meta.create_snapshot(volume, &new)));
        let taken = self.family.snapshots.values().any(|s| s.volume == volume && s.name == name);
        assert_eq!(found.as_ref().err(), taken.then_some(&Refusal::Exists));
        if let Ok(row) = found {
            let model = self.family.model();
            assert_eq!(row.usage.blocks, model.used_blocks());
            assert_eq!(row.usage.metadata, model.used_metadata());
            let state = model.clone();
            let holds = Default::default();
            self.family.snapshots.insert(row.id, Snapshot { volume, name: name.to_owned(), holds, state });
        }
    }

    /// A snapshot of each volume, of one moment.
    fn snapshot_all(&mut self, name: &str) {
        let volumes: Vec<VolumeId> = self.family.volumes.keys().copied().collect();
        let new: Vec<_> = volumes.iter().map(|volume| (*volume, snapshot(name))).collect();
        let found = refusal(self.store().alter(move |meta| meta.create_snapshots(&new)));
        let taken = self.family.snapshots.values().any(|s| volumes.contains(&s.volume) && s.name == name);
        assert_eq!(found, if taken { Err(Refusal::Exists) } else { Ok(()) });
        if found.is_ok() {
            let rows = self.store().meta().snapshots().unwrap();
            for row in rows {
                if row.name == name {
                    let (volume, holds) = (row.volume, Default::default());
                    let state = self.family.volumes[&volume].clone();
                    self.family
                        .snapshots
                        .insert(row.id, Snapshot { volume, name: name.to_owned(), holds, state });
                }
            }
        }
    }

    fn rollback(&mut self, number: usize) {
        let Some(id) = self.choose_snapshot(number) else { return };
        self.unmount();
        self.note();
        let volume = self.family.active;
        let name = format!("before-{}", self.family.snapshots.keys().last().unwrap());
        let before = snapshot(&name);
        let found = refusal(self.store().alter(move |meta| meta.rollback(id, &before)));
        let state = self.family.snapshots[&id].state.clone();
        let model = self.family.model().clone();
        let too_small = model.block_limit.is_some_and(|limit| limit < state.used_blocks())
            || model.inode_limit.is_some_and(|limit| limit < state.nodes.len() as u64)
            || model.metadata_limit.is_some_and(|limit| limit < state.used_metadata());
        match found {
            Ok(row) => {
                assert!(!too_small);
                let (block_limit, inode_limit) = (model.block_limit, model.inode_limit);
                let metadata_limit = model.metadata_limit;
                let holds = Default::default();
                self.family.snapshots.insert(row.id, Snapshot { volume, name, holds, state: model });
                let mut now = state;
                (now.block_limit, now.inode_limit) = (block_limit, inode_limit);
                now.metadata_limit = metadata_limit;
                now.nodes.retain(|_, node| node.nlink > 0);
                *self.family.model_mut() = now;
            }
            Err(refused) => {
                assert!(too_small || refused == Refusal::Exists, "{refused:?}");
            }
        }
        self.store().reap_orphans(volume).unwrap();
        self.mount();
    }

    fn clone_volume(&mut self, number: usize) {
        if self.family.volumes.len() >= VOLUMES_MAX {
            return;
        }
        let (source, mut state) = match self.choose_snapshot(number) {
            Some(id) if number.is_multiple_of(2) => (id, self.family.snapshots[&id].state.clone()),
            _ => (self.family.active, self.family.model().clone()),
        };
        let new = NewClone {
            name: format!("clone-{number}-{}", self.family.volumes.keys().last().unwrap()),
            limits: Limits::default(),
            labels: Default::default(),
            created: Timestamp { sec: 1, nsec: 0 },
            uid: Some(number as u32),
            gid: None,
            permissions: Some(0o711),
        };
        let name = new.name.clone();
        let id = refusal(self.store().alter(move |meta| meta.create_clone(source, &new)));
        let id = match id {
            Ok(id) => id,
            Err(refused) => {
                assert_eq!(refused, Refusal::Exists);
                return;
            }
        };
        self.store().reap_orphans(id).unwrap();
        let root = state.nodes.get_mut(&larder::fs::ROOT_INO).unwrap();
        (root.uid, root.permissions) = (number as u32, 0o711);
        state.nodes.retain(|_, node| node.nlink > 0);
        (state.block_limit, state.inode_limit, state.metadata_limit) = (None, None, None);
        self.family.volumes.insert(id, state);
        self.family.names.insert(id, name);
    }
}
