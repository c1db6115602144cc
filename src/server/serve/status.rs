//! What a server says of itself and its volumes.

use super::Server;
use crate::mount;
use crate::server::control::{MountStatus, Status};
use crate::server::own_program;
use crate::volume::{Alteration, Result, VolumeInfo, info_from_meta};
use parking_lot::Mutex;

/// What the metadata said of the volumes when nothing was changed that is not committed, and in which epoch that was: as long as both are
/// so, it is what they say.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Option<(u64, Vec<VolumeInfo>)>>);

impl Server {
    /// How it is.
    ///
    /// # Errors
    /// As the metadata.
    pub fn status(&self) -> Result<Status> {
        self.recorder.look_for_removed();
        let volumes = self.volumes()?;
        // Not under the lock of the state, which the main thread needs for its signs of life.
        let cache_bytes = self.store.caches_bytes();
        Ok(self.status_with(volumes, cache_bytes))
    }

    /// The same for who must not wait, neither for a lock nor for a disk; `None` where that may be needed.
    pub(in crate::server) fn status_now(&self) -> Option<Status> {
        let may_wait = self.shipping.is_some()
            || self.recorder.may_know_of_losses()
            || self.store.may_be_short_of_room();
        if may_wait {
            return None;
        }
        let volumes = self.volumes_now()?;
        Some(self.status_with(volumes, self.store.caches_bytes_now()?))
    }

    /// Whether [`Server::status_now`] knows what there is to know of the volumes.
    pub(super) fn knows_volumes(&self) -> bool {
        self.volumes_now().is_some()
    }

    /// What the metadata say of the volumes.
    ///
    /// # Errors
    /// As the metadata.
    pub(super) fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let meta = self.store.meta();
        let volumes = info_from_meta(self.store.id(), &meta)?;
        if !meta.has_work() {
            *self.told.0.lock() = Some((meta.epoch(), volumes.clone()));
        }
        Ok(volumes)
    }

    fn volumes_now(&self) -> Option<Vec<VolumeInfo>> {
        let meta = self.store.meta_now()?;
        let told = self.told.0.try_lock()?;
        let (epoch, volumes) = told.as_ref()?;
        (*epoch == meta.epoch() && !meta.has_work()).then(|| volumes.clone())
    }

    fn status_with(&self, mut volumes: Vec<VolumeInfo>, cache_bytes: usize) -> Status {
        let state = self.state.lock();
        for volume in &mut volumes {
            let dir = state.mounts.get(&volume.name).map(|mounted| mounted.dir.display().to_string());
            volume.mountpoints.extend(dir);
        }
        let mounts = state
            .mounts
            .iter()
            .map(|(volume, mounted)| MountStatus {
                volume: volume.clone(),
                dir: mount::path_bytes(&mounted.dir),
                options: mounted.options.clone(),
                takeover: mounted.takeover.clone(),
                connection: mounted.connection_number,
            })
            .collect();
        Status {
            pid: std::process::id(),
            holder: self.keeper.process(),
            takeovers: self.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: own_program::path().unwrap_or_default(),
            uptime_s: self.started.elapsed().as_secs(),
            rings: true,
            changes: Alteration::LATER.map(str::to_owned).into(),
            failure: self.store.health().reason(),
            damaged_blocks: self.store.segments().damaged_blocks(),
            cache_bytes: cache_bytes as u64,
            cache_limit_bytes: self.shares.own(),
            cache_total_bytes: self.shares.total(),
            longest_hold_us: self.store.longest_hold().as_micros() as u64,
            host_full_since: self.store.host_full_since(),
            unnoted: self.recorder.unnoted(),
            reencryption: self.store.reencryption().map(Into::into),
            remote: self.shipping.as_ref().map(|shipping| shipping.status(&self.store)),
            ending: state.ending,
            volumes,
            mounts,
        }
    }
}
