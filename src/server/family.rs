//! Changing the family of a store while its volumes are mounted.

use super::serve::Server;
use super::write_back::{beside, beside_until, write_back};
use crate::exit_code::Exit;
use crate::fuse::Connection;
use crate::mount;
use crate::volume::{
    Alteration, Altered, Difference, Result, SnapshotInfo, Target, VolumeError, alter, diff, snapshot_row,
    snapshots_of,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

impl Server {
    /// Changes the family. What programs have written to a mounted volume is part of a snapshot or clone of it, also where
    /// the kernel still had it.
    ///
    /// # Errors
    /// `Busy` for what cannot be done to a mounted volume, or as the change.
    pub fn alter(&self, what: &Alteration) -> Result<Altered> {
        if !what.is_about_names() {
            self.may_change(what.volume())?;
        }
        let changing = self.changing()?;
        // What must not be mounted, or must be, stays so until it is done. What the kernel is told of it after that can wait for programs, and
        // these for a remote: so nothing else waits for that.
        let turn = || self.mounting();
        let _turn;
        match what {
            Alteration::Snapshot { volume, .. } => self.write_back(volume),
            Alteration::Snapshots { snapshots, .. } => {
                for volume in snapshots.iter().map(|(volume, _)| volume).collect::<BTreeSet<_>>() {
                    self.write_back(volume);
                }
            }
            Alteration::Clone { source, .. } => {
                let target = Target::parse(source)?;
                if target.snapshot.is_none() {
                    self.write_back(&target.volume);
                }
            }
            Alteration::RemoveSnapshot { volume, name, .. }
            | Alteration::RenameSnapshot { volume, name, .. } => {
                let turn = turn();
                self.must_be_free(&format!("{volume}@{name}"))?;
                let altered = alter(self.store(), what)?;
                let connection = self.connection(volume);
                drop((turn, changing));
                if let Some(connection) = connection {
                    self.drop_snapshot(connection, name);
                }
                return Ok(altered);
            }
            Alteration::Rollback { volume, snapshot, live: true } => {
                self.write_back(volume);
                let turn = turn();
                if let Some(connection) = self.connection(volume) {
                    self.must_not_be_paused(volume)?;
                    // Before the head is noted that is to be replaced: one that is made of that would not be told from it.
                    snapshot_row(self.store(), volume, snapshot)?;
                    return connection.replace(|| alter(self.store(), what), || drop((turn, changing)));
                }
                _turn = turn;
            }
            Alteration::Rollback { volume, live: false, .. } => {
                _turn = turn();
                self.must_be_free(volume).map_err(|mut e| {
                    e.message += ", or use --live";
                    e
                })?;
            }
            // What is mounted is known by its name, to the kernel too.
            Alteration::Remove { volume } | Alteration::Rename { volume, .. } => {
                _turn = turn();
                self.must_be_free(volume)?;
                let rows = self.status()?.volumes;
                let snapshots = rows.iter().filter(|row| row.name == *volume).flat_map(|row| &row.snapshots);
                for snapshot in snapshots {
                    self.must_be_free(&format!("{volume}@{}", snapshot.name))?;
                }
            }
            Alteration::Root { volume, .. } => {
                let altered = alter(self.store(), what)?;
                if let Some(connection) = self.connection(volume) {
                    connection.root_changed();
                }
                return Ok(altered);
            }
            Alteration::Resize { .. }
            | Alteration::Label { .. }
            | Alteration::Hold { .. }
            | Alteration::Release { .. } => {}
        }
        alter(self.store(), what)
    }

    /// Lets the kernel forget what it knows of a snapshot that is gone. In a pause, whoever looks something up beside it waits, and nobody waits
    /// for that: the kernel asks again before anybody goes on.
    fn drop_snapshot(&self, connection: Arc<Connection>, name: &str) {
        if !self.is_paused() {
            return connection.drop_snapshot(name);
        }
        let name = name.to_owned();
        let tell = move || connection.drop_snapshot(&name);
        if let Err(e) = std::thread::Builder::new().name("larder-tell".into()).spawn(tell) {
            log::warn!(
                "cannot start a thread that lets the kernel forget a snapshot, which it does by itself soon: {e}"
            );
        }
    }

    fn must_be_free(&self, name: &str) -> Result<()> {
        let Some(dir) = self.mountpoint(name) else { return Ok(()) };
        if !matches!(mount::entry_at(&dir), Ok(Some(entry)) if entry.volume() == Some(name)) {
            // What was changed last is on its way to the disk. Who asks tries again for a while.
            let what = "is just being unmounted, or still in use elsewhere, perhaps in a container";
            return Err(VolumeError::new(
                Exit::Failure,
                format!("{name} was mounted on {} and {what}", dir.display()),
            ));
        }
        let dir = dir.display();
        Err(VolumeError::new(
            Exit::Busy,
            format!("{name} is mounted on {dir}; unmount it first with `larder umount {name}`"),
        ))
    }

    /// Has what the kernel has gathered of a mounted volume.
    fn write_back(&self, volume: &str) {
        beside(self.writing_back(volume).map(|work| move || drop(work())));
    }

    /// The same of several, until `is_over` says that nobody waits for it any more: then it is had some time. What went wrong until then, of which
    /// mounts.
    pub(super) fn write_back_until(&self, volumes: &[String], is_over: &dyn Fn() -> bool) -> Vec<String> {
        beside_until(volumes.iter().filter_map(|volume| self.writing_back(volume)), is_over)
    }

    /// What has it, and waits for however long that takes, and says what went wrong; `None` if the volume is not mounted.
    fn writing_back(&self, volume: &str) -> Option<impl Fn() -> Option<String> + Send + Sync + use<>> {
        let (dir, device, id) = self.mounted_as(volume)?;
        let ledger = Arc::clone(self.ledger());
        Some(move || {
            let root = match mount::root_of(device.as_fd()) {
                // Where it is mounted, something else can lie on it by now, or nothing of it be seen from here.
                Err(_) => File::open(&dir).map(Some),
                root => root,
            };
            let e = root.and_then(|root| write_back(root, &ledger, id)).err()?;
            // What was synced or closed is here already.
            log::warn!("{}: {e}: what programs have just written there may not be seen", dir.display());
            Some(format!("{}: {e}", dir.display()))
        })
    }

    /// What is different between two volumes or snapshots, with what programs have written so far.
    ///
    /// # Errors
    /// As the metadata.
    pub fn diff(&self, one: &str, two: &str) -> Result<Vec<Difference>> {
        self.write_back(one);
        self.write_back(two);
        self.store().commit_now().map_err(|e| VolumeError::new(Exit::HostIo, e.to_string()))?;
        let inspector = self.store().meta().inspector()?;
        diff(&inspector, one, two)
    }

    /// The snapshots of a volume, with what each of them alone holds.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots(&self, volume: &str) -> Result<Vec<SnapshotInfo>> {
        self.store().commit_now().map_err(|e| VolumeError::new(Exit::HostIo, e.to_string()))?;
        let inspector = self.store().meta().inspector()?;
        snapshots_of(&inspector, volume)
    }
}
