//! The model of a store: volumes and snapshots, each a copy of everything.

use super::reference::Reference;
use larder::meta::VolumeId;
use std::collections::{BTreeMap, BTreeSet};

/// A snapshot of the model.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub volume: VolumeId,
    pub name: String,
    pub holds: BTreeSet<String>,
    pub state: Reference,
}

/// A store of the model. The volume that is worked on is `active`.
#[derive(Clone, Debug)]
pub struct Family {
    pub active: VolumeId,
    pub volumes: BTreeMap<VolumeId, Reference>,
    pub names: BTreeMap<VolumeId, String>,
    pub snapshots: BTreeMap<VolumeId, Snapshot>,
}

impl Family {
    /// A volume with the name of [`crate::support::volume_spec`].
    pub fn new(active: VolumeId, model: Reference) -> Self {
        let names = BTreeMap::from([(active, "v".to_owned())]);
        Self { active, volumes: BTreeMap::from([(active, model)]), names, snapshots: BTreeMap::new() }
    }

    pub fn model(&self) -> &Reference {
        &self.volumes[&self.active]
    }

    pub fn model_mut(&mut self) -> &mut Reference {
        self.volumes.get_mut(&self.active).unwrap()
    }

    /// Snapshots of the active volume, by age.
    pub fn snapshots_of_active(&self) -> Vec<VolumeId> {
        let own = self.snapshots.iter().filter(|(_, snapshot)| snapshot.volume == self.active);
        own.map(|(id, _)| *id).collect()
    }

    /// What only open files keep alive goes, in all volumes.
    pub fn forget_open_files(&mut self) {
        for model in self.volumes.values_mut() {
            model.nodes.retain(|_, node| node.nlink > 0);
        }
    }
}
