//! Mounting, served by a process in the background.

use super::leftover::finish_removals_of_served;
use super::look::{server_of, store_of, unless_gone};
use super::options::{parse_heartbeat, parse_history, parse_lag, parse_local, parse_ship};
use super::own_mounts::is_there;
use super::record::Place;
use super::remote::{alter_remote, must_have_remote, must_sync_there};
use super::secret::Secrets;
use super::trash::no_volume;
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::fuse::{Transport, lift_limits, uring_warning};
use crate::mount::{self as host_mount, Durability, MountOptions};
use crate::open_store::StoreOptions;
use crate::root::Root;
use crate::server::{self, Client, MountStatus, Status};
use crate::store::StoreId;
use crate::volume::{Result, Tuning, VolumeError};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a server that is ending may take before a new one is started.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be mounted, where and how.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The root.
    pub root: &'a Root,
    /// The volume, or `VOLUME@SNAPSHOT`.
    pub name: &'a str,
    /// Where.
    pub dir: &'a Path,
    /// How.
    pub options: &'a MountOptions,
    /// What opens it, if it is encrypted.
    pub secret: &'a Secrets,
    /// How much more the server is to say, if one is started.
    pub verbose: u8,
}

/// The limit of the block cache for these options, in bytes.
pub fn cache_bytes(options: &MountOptions) -> u64 {
    options.cache_bytes.unwrap_or(StoreOptions::default().cache_bytes as u64)
}

/// Mounts, served by a process in the background, and returns when the mount is live.
///
/// # Errors
/// An unknown volume, one that is mounted already, a mountpoint that cannot be used, or the host's.
pub fn mount(job: &Job<'_>) -> Result<()> {
    let id = store_of(job.root, job.name)?;
    // Before anything is started: most that can go wrong goes wrong here.
    prepare(job, id).map_err(|e| unless_gone(job.root, id, job.name, e))?;
    // Asked for once, and only if a server has to be started.
    let mut keys = None;
    let mut until = Instant::now() + PATIENCE;
    loop {
        let before = Instant::now();
        await_ending(job, id)?;
        until += before.elapsed();
        let result = connect(job, id, &mut keys).and_then(|mut client| mount_with(job, id, &mut client));
        match result {
            // The server that we met was ending: it has closed the store, or will soon.
            Err(e) if e.exit == Exit::Failure && !e.silent && Instant::now() < until && !is_live(job) => {
                log::debug!("trying again: {e}");
                std::thread::sleep(Duration::from_millis(50));
            }
            other => {
                if other.as_ref().err().is_none_or(|e| e.exit == Exit::NoVolume) {
                    finish_removals_of_served(job.root, id, job.name);
                }
                return other.map_err(|e| unless_gone(job.root, id, job.name, e));
            }
        }
    }
}

/// What a server says of the mount of a volume.
pub(super) fn mount_of<'a>(status: &'a Status, name: &str) -> Option<&'a MountStatus> {
    status.mounts.iter().find(|mount| mount.volume == name)
}

/// Whether a volume is mounted on a directory, as far as this process can see.
pub fn is_mounted_at(name: &str, dir: &Path) -> bool {
    matches!(host_mount::entry_at(dir), Ok(Some(entry)) if entry.volume() == Some(name))
}

/// Waits for a volume that is just being unmounted, until it is on disk.
///
/// # Errors
/// `Failure` when it is still in use somewhere else, or the server does not answer.
pub fn await_ending(job: &Job<'_>, id: StoreId) -> Result<()> {
    let Some(mut client) = server_of(job.root, id)? else { return Ok(()) };
    let status = match client.status() {
        Ok(status) => status,
        Err(e) if e.silent => return Err(e),
        // It has died, which is found out when it is asked to mount.
        Err(_) => return Ok(()),
    };
    let mounted = mount_of(&status, job.name);
    let is_ending = mounted.map_or(status.ending, |mounted| !is_there(mounted));
    if !is_ending {
        return Ok(());
    }
    match client.await_unmount(job.name, PATIENCE, None) {
        Err(e) if e.exit == Exit::Busy => Err(mounted.map_or(e, already_mounted)),
        Ok(_) if status.ending => {
            client.await_exit(&status, None);
            Ok(())
        }
        Err(e) if e.silent => Err(e),
        _ => Ok(()),
    }
}

/// Checks that the store is encrypted if it has to be, and the mountpoint. A mount that is there although no server answers is
/// about to die.
///
/// # Errors
/// `Secret` for a plain store that should not be one, `MountPoint` when the mountpoint cannot be used, or when the server of
/// the store does not answer.
pub fn prepare(job: &Job<'_>, id: StoreId) -> Result<PathBuf> {
    // Also when a server has it open already.
    job.secret.must_fit(job.root, id, job.name)?;
    host_mount::demand(job.options)?;
    tune(job)?;
    let answers = match server_of(job.root, id)?.map(|mut client| client.status()) {
        Some(Err(e)) if e.silent => return Err(e),
        answer => matches!(answer, Some(Ok(_))),
    };
    host_mount::prepare(job.dir, job.name, if answers { Duration::ZERO } else { Duration::from_secs(5) })
}

/// Lets the family of the volume be shipped as the mount options say it.
///
/// # Errors
/// `Usage` for what makes no sense, or where it has no remote; and as [`alter_remote`].
fn tune(job: &Job<'_>) -> Result<()> {
    let mut tuning = Tuning::default();
    for (name, value) in &job.options.shipping {
        let bad = |why| VolumeError::new(Exit::Usage, format!("mount option \"{name}={value}\": {why}"));
        match *name {
            "ship" => tuning.ship = Some(parse_ship(value).map_err(bad)?),
            "max-lag" => tuning.max_lag = Some(parse_lag(value).map_err(bad)?),
            "history" => tuning.history = Some(parse_history(value).map_err(bad)?),
            "lease" => tuning.lease = Some(value.parse().map_err(bad)?),
            "heartbeat" => tuning.heartbeat = Some(parse_heartbeat(value).map_err(bad)?),
            _ => tuning.local_size = Some(parse_local(value).map_err(bad)?),
        }
    }
    if tuning == Tuning::default() {
        return Ok(());
    }
    let volume = job.name.split('@').next().unwrap_or(job.name);
    must_have_remote(job.root, volume, Place::Store(store_of(job.root, volume)?))?;
    alter_remote(job.root, volume, tuning)
}

fn is_live(job: &Job<'_>) -> bool {
    let entry = host_mount::resolve(job.dir).and_then(|dir| host_mount::entry_at(&dir));
    matches!(entry, Ok(Some(entry)) if !entry.is_dead())
}

/// The server of the store, started if there is none.
///
/// # Errors
/// `Busy` when the volume is mounted already, or when no server can be started.
pub fn connect(job: &Job<'_>, id: StoreId, keys: &mut Option<Vec<Subkeys>>) -> Result<Client> {
    if let Some(mut client) = server_of(job.root, id)? {
        let status = client.status()?;
        return mount_of(&status, job.name).map_or(Ok(client), |mounted| Err(already_mounted(mounted)));
    }
    let keys = match keys {
        Some(keys) => keys,
        None => keys.insert(job.secret.subkeys(job.root, id, job.name)?),
    };
    server::start(job.root, (id, job.name), keys, cache_bytes(job.options), job.verbose)?;
    server_of(job.root, id)?.ok_or_else(|| ended_at_once(job.root, id, job.name))
}

/// The server of volume `name` is gone as soon as it could be asked.
pub fn ended_at_once(root: &Root, id: StoreId, name: &str) -> VolumeError {
    let log = root.log(id);
    VolumeError::new(
        Exit::Failure,
        format!("the server of volume {name:?} ended as soon as it had started; see {}", log.display()),
    )
}

/// Why a mounted volume cannot be mounted again. One that is not mounted where it was is just being unmounted (or is
/// still in use somewhere else), which is worth waiting for.
fn already_mounted(mounted: &MountStatus) -> VolumeError {
    let (name, dir) = (&mounted.volume, mounted.path());
    let dir_shown = dir.display();
    if is_there(mounted) {
        let hint = format!("to see it elsewhere too, use `mount --bind {dir_shown} DIR`");
        VolumeError::new(Exit::Busy, format!("volume {name:?} is already mounted on {dir_shown}; {hint}"))
    } else {
        let what =
            format!("volume {name:?} was mounted on {dir_shown} and is still in use, perhaps in a container");
        VolumeError::new(Exit::Failure, what)
    }
}

/// Mounts, served by the server of store `id`, which `client` talks to.
///
/// # Errors
/// As [`mount`].
pub fn mount_with(job: &Job<'_>, id: StoreId, client: &mut Client) -> Result<()> {
    let dir = host_mount::prepare(job.dir, job.name, Duration::ZERO)?;
    host_mount::demand(job.options)?;
    if job.options.transport() == Transport::Uring {
        must_know_rings(&client.status()?)?;
        if let Some(warning) = uring_warning() {
            log::warn!("{warning}");
        }
    }
    if job.options.durability == Durability::Remote {
        must_sync_there(job.name, job.options.durability, &client.status()?)?;
    }
    let device = host_mount::mount(job.name, &dir, job.options)?;
    if let Err(e) = client.mount(job.name, &dir, job.options, &device) {
        let _ = host_mount::unmount(&dir, true);
        return Err(e);
    }
    drop(device);
    if let Err(e) = still_has_its_name(job, id) {
        let _ = host_mount::unmount(&dir, true);
        return Err(e);
    }
    lift_for(client, job.name);
    Ok(())
}

/// Refuses to leave a volume mounted that was removed meanwhile, while somebody typed its passphrase, say, also if another one has its name by
/// now: whoever removes it looks at the mounts after that, so that one of the two sees what the other one did.
fn still_has_its_name(job: &Job<'_>, id: StoreId) -> Result<()> {
    let name = job.name.split('@').next().unwrap_or(job.name);
    match job.root.resolve(name).map_err(|e| VolumeError::io(&job.root.link(name), &e))? {
        Some(found) if found == id => Ok(()),
        Some(_) => {
            let what = format!(
                "volume {name:?} was removed or renamed while it was being mounted, and another one has its name; mount that again"
            );
            Err(VolumeError::new(Exit::NoVolume, what))
        }
        None => Err(no_volume(job.root, name)),
    }
}

/// Checks that the server is no earlier version, which would take `transport=uring` for something else.
///
/// # Errors
/// `NoFuse`, with what to do.
fn must_know_rings(server: &Status) -> Result<()> {
    if server.rings {
        return Ok(());
    }
    let (version, pid) = (&server.version, server.pid);
    let what = format!(
        "transport=uring: the server of the store (process {pid}, version {version}) does not know it; run `larder upgrade`, or mount \
         without it"
    );
    Err(VolumeError::new(Exit::NoFuse, what))
}

/// Lifts the kernel's limits on what the mount of a volume may have in flight, but for what the volume cannot hold.
pub(super) fn lift_for(client: &mut Client, name: &str) {
    let Ok(status) = client.status() else { return };
    let size = status.volumes.iter().find(|volume| volume.name == name).and_then(|volume| volume.size);
    if let Some(mounted) = mount_of(&status, name)
        && let Ok(Some(entry)) = host_mount::entry_at(&mounted.path())
        && mounted.is_at(&entry)
    {
        lift_limits(&entry.device, size);
    }
}

/// Changes the options of a mount.
///
/// # Errors
/// When the volume is not mounted there.
pub fn remount(job: &Job<'_>) -> Result<()> {
    let refuse = |what: String| VolumeError::new(Exit::MountPoint, what);
    let dir = host_mount::resolve(job.dir).map_err(|e| refuse(format!("{}: {e}", job.dir.display())))?;
    let entry = host_mount::entry_at(&dir).map_err(|e| refuse(format!("{}: {e}", dir.display())))?;
    if entry.as_ref().and_then(|entry| entry.volume()) != Some(job.name) {
        return Err(refuse(format!("volume {:?} is not mounted on {}", job.name, dir.display())));
    }
    let id = store_of(job.root, job.name)?;
    let mut client = server_of(job.root, id)?.ok_or_else(|| {
        VolumeError::new(Exit::Failure, format!("volume {:?} has no server any more", job.name))
    })?;
    // From one that does not answer, the kernel would wait for what it has to write back.
    let status = client.status()?;
    let mounted = mount_of(&status, job.name);
    if let (Some(mounted), Some(entry)) = (mounted, &entry)
        && !mounted.is_at(entry)
    {
        let what = format!("volume {:?} is mounted on {}", job.name, mounted.path().display());
        return Err(refuse(format!("{}: that is a volume of another root; {what}", dir.display())));
    }
    must_sync_there(job.name, job.options.durability, &status)?;
    tune(job)?;
    let is_same = mounted.is_some_and(|mounted| mounted.options.flags() == job.options.flags());
    // Read-only takes effect in the kernel first, which still writes back what it has; the other way round last.
    let flags = || match host_mount::remount(&dir, job.options) {
        // The kernel's part needs root, the server's does not.
        Err(Errno::EPERM) if is_same => Ok(()),
        Err(Errno::EPERM) => Err(VolumeError::new(
            Exit::Permission,
            format!(
                "{}: only root can change ro, noatime, noexec and the like on a mount; unmount the volume and mount it again",
                dir.display()
            ),
        )),
        other => other.map_err(|e| refuse(format!("{}: {e}", dir.display()))),
    };
    if job.options.read_only {
        flags()?;
        client.remount(job.name, job.options)
    } else {
        let before = mounted.map(|mounted| mounted.options.clone());
        client.remount(job.name, job.options)?;
        flags().inspect_err(|_| {
            // What is refused is not done by half: the server is to have what the mount has.
            if let Some(Err(e)) = before.map(|before| client.remount(job.name, &before)) {
                log::warn!("volume {:?}: taking back a remount that was refused: {e}", job.name);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_version_that_serves_the_store_is_not_asked_for_what_it_does_not_know() {
        let status = |extra: &str| -> Status {
            let text = format!(
                r#"{{"pid": 7, "version": "0.0.9", "uptime_s": 1, "failure": null, "damaged_blocks": 0, "cache_bytes": 0,
                    "volumes": [], "mounts": []{extra}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let refused = must_know_rings(&status("")).unwrap_err();
        assert_eq!(refused.exit, Exit::NoFuse);
        assert!(
            refused.to_string().contains("version 0.0.9") && refused.to_string().contains("larder upgrade")
        );
        assert!(must_know_rings(&status(r#", "rings": true"#)).is_ok());
        // Nor is it taken for one that lets syncs wait for the remote.
        let remote = |extra: &str| {
            let known =
                r#""remote": "s3://b/db", "record": 7, "lag_seconds": 0, "lag_bytes": null, "trouble": null"#;
            status(&format!(r#", "remote": {{{known}{extra}}}"#))
        };
        let asked = |status: &Status| must_sync_there("db", Durability::Remote, status);
        assert_eq!(asked(&status("")).unwrap_err().exit, Exit::Usage);
        let refused = asked(&remote("")).unwrap_err();
        assert_eq!(refused.exit, Exit::Busy);
        assert!(refused.to_string().contains("larder upgrade"), "{refused}");
        assert!(asked(&remote(r#", "syncs": 0"#)).is_ok());
        assert!(must_sync_there("db", Durability::Local, &remote("")).is_ok());
    }
}
