//! What is on the disk: the live and the durable image of files and of names.

use super::Survives;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a disk writes in one piece.
const SECTOR: usize = 512;

/// A change of a file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(to, *offset as usize, bytes),
            Self::SetLen(len) => to.resize(*len as usize, 0),
            Self::Punch { offset, len } => {
                let end = to.len().min((offset + len) as usize);
                let start = end.min(*offset as usize);
                to[start..end].fill(0);
            }
        }
    }

    /// Applies a random part of the change.
    fn apply_torn(&self, to: &mut Vec<u8>, rng: &mut StdRng) {
        let Self::Write { offset, bytes } = self else {
            self.apply(to);
            return;
        };
        let mut at = 0;
        while at < bytes.len() {
            let sector_end = (*offset as usize + at) / SECTOR * SECTOR + SECTOR - *offset as usize;
            let end = sector_end.min(bytes.len());
            if rng.random_bool(0.7) {
                put(to, *offset as usize + at, &bytes[at..end]);
            }
            at = end;
        }
    }
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileImage {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// What leads from the durable image to the live one.
    pending: Vec<Change>,
    /// Up to here the disk has room for it; a hole is given back with the file.
    room: u64,
    durable_room: u64,
}

impl FileImage {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        let room = bytes.len() as u64;
        Self { live: Arc::clone(&bytes), durable: bytes, pending: Vec::new(), room, durable_room: room }
    }

    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    pub(super) fn room(&self) -> u64 {
        self.room
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let start = self.live.len().min(offset as usize);
        let count = buf.len().min(self.live.len() - start);
        buf[..count].copy_from_slice(&self.live[start..start + count]);
        count
    }

    /// Takes room up to `end`; false if it would need more than it has on a full disk.
    pub(super) fn take_room(&mut self, end: u64, full: bool) -> bool {
        if end > self.room && full {
            return false;
        }
        self.room = self.room.max(end);
        true
    }

    pub(super) fn change(&mut self, change: Change) {
        if let Change::SetLen(len) = change {
            self.room = self.room.min(len);
        }
        change.apply(Arc::make_mut(&mut self.live));
        self.pending.push(change);
    }

    /// Whatever room was taken is taken for good: file systems write that down in one journal, in order.
    pub(super) fn settle_room(&mut self) {
        self.durable_room = self.room;
    }

    pub(super) fn sync(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        for change in self.pending.drain(..) {
            change.apply(durable);
        }
    }

    /// The file when the power comes back.
    pub(super) fn found_after_power_loss(&self, survives: Survives, rng: &mut StdRng) -> Self {
        let found = Self::durable(self.after_power_loss(survives, rng));
        let room = found.room.max(self.durable_room.min(self.room));
        Self { room, durable_room: room, ..found }
    }

    fn after_power_loss(&self, survives: Survives, rng: &mut StdRng) -> Vec<u8> {
        match survives {
            Survives::Nothing => self.durable.to_vec(),
            Survives::Everything => self.live.to_vec(),
            Survives::Some => {
                let mut bytes = self.durable.to_vec();
                let mut pending: Vec<&Change> = self.pending.iter().collect();
                pending.shuffle(rng);
                for change in pending {
                    match rng.random_range(0..4) {
                        0 => {}
                        1 => change.apply_torn(&mut bytes, rng),
                        _ => change.apply(&mut bytes),
                    }
                }
                bytes
            }
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, u64),
    Remove(String),
    Rename(String, String, u64),
}

impl NameChange {
    fn name(&self) -> &str {
        match self {
            Self::Add(name, _) | Self::Remove(name) | Self::Rename(_, name, _) => name,
        }
    }

    fn apply(&self, to: &mut BTreeMap<String, u64>) {
        match self {
            Self::Add(name, id) => {
                to.insert(name.clone(), *id);
            }
            Self::Remove(name) => {
                to.remove(name);
            }
            Self::Rename(from, name, id) => {
                to.remove(from);
                to.insert(name.clone(), *id);
            }
        }
    }
}

/// The directory of a path: all before its last slash.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// All names, as paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
}

impl Names {
    pub(super) fn add_durable(&mut self, name: String, id: u64) {
        self.live.insert(name.clone(), id);
        self.durable.insert(name, id);
    }

    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.live.get(name).copied()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.live.values().copied()
    }

    pub(super) fn list(&self, subdir: &str) -> Vec<String> {
        let inside = self.live.keys().filter(|path| parent(path) == subdir);
        inside.map(|path| path[subdir.len()..].trim_start_matches('/').to_owned()).collect()
    }

    pub(super) fn add(&mut self, name: String, id: u64) {
        self.change(NameChange::Add(name, id));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(NameChange::Remove(name.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, id: u64) {
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), id));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self, subdir: &str) {
        let Self { durable, pending, .. } = self;
        pending.retain(|change| {
            let synced = parent(change.name()) == subdir;
            if synced {
                change.apply(durable);
            }
            !synced
        });
    }

    pub(super) fn after_power_loss(&self, survives: Survives, rng: &mut StdRng) -> Self {
        let mut names = self.durable.clone();
        for change in &self.pending {
            let kept = match survives {
                Survives::Nothing => false,
                Survives::Everything => true,
                Survives::Some => rng.random_bool(0.5),
            };
            if kept {
                change.apply(&mut names);
            }
        }
        Self { live: names.clone(), durable: names, pending: Vec::new() }
    }
}
