//! Volumes and their remotes, whether a server has them open or not.

use super::inspection::time;
use super::look::{server_of, store_of};
use super::mount::mount_of;
use super::record::{Place, options_of};
use super::secret::Secrets;
use super::trash::vacate_all;
use super::upgrade::upgrade;
use crate::backing::OsDir;
use crate::crypto::{Keys, Secret, Subkeys};
use crate::exit_code::Exit;
use crate::mount::{Durability, MountOptions};
use crate::remote::{Address, Frozen, LeaseKind, Local, Requests};
use crate::root::Root;
use crate::server::{self, RemoteStatus, Status, inside_itself, reencrypt_closed};
use crate::store::{BLOCK_BYTES, StoreId};
use crate::volume::{
    NewRemote, ReencryptionInfo, Result, Tuning, VolumeError, add_remote, forget_remote, make_whole,
    must_not_be_moment, names_in, reencrypt_offline, remote_of, tune_remote, unlock,
};
use serde::Serialize;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How long a store that is in use for a moment is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);
/// How often a server is started that is gone before it can be asked.
const STARTS: u32 = 3;
/// How long a server that was started to ship may take to end.
const FAREWELL: Duration = Duration::from_secs(30);
/// How often it is looked how far an upload is.
const WATCH: Duration = Duration::from_millis(500);
/// The cache of a server that was started to ship, until something is mounted.
const CACHE_BYTES: u64 = 16 << 20;

/// What is known of a volume's remote.
#[derive(Clone, Debug)]
pub struct RemoteLook {
    /// What its store remembers.
    pub local: Local,
    /// How shipping goes; `None` where no server has it open.
    pub status: Option<RemoteStatus>,
    /// How far syncs of the volume reach: as it is mounted, or would be.
    pub durability: Durability,
}

/// How far an upload is, as programs read it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ShownUpload {
    /// Bytes that were uploaded of what has to be.
    pub done_bytes: u64,
    /// Bytes that have to be.
    pub total_bytes: u64,
}

impl ShownUpload {
    /// That of a server, if one is under way.
    pub fn of(status: &RemoteStatus) -> Option<Self> {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        status.uploading.map(|(done, total)| Self { done_bytes: bytes(done), total_bytes: bytes(total) })
    }
}

/// A volume's remote, as programs read it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownRemote {
    /// Its URL.
    pub url: String,
    /// The newest record that this host knows: all that was committed up to then is there.
    pub record: u64,
    /// When it was shipped last, by the clock of this host: all that was committed by then is there; null: not since a server opened the store.
    pub shipped: Option<String>,
    /// The host that has it, as far as that is known.
    pub owner_host: Option<String>,
    /// How far an upload is that is under way.
    pub uploading: Option<ShownUpload>,
    /// How many objects there have contents of the newest state; null: that is not known.
    pub objects: Option<u64>,
    /// How many bytes these have.
    pub bytes: Option<u64>,
    /// Since when something is not, in seconds; 0: all is there; null: that is not known, because no server has the store open, or another host
    /// has it.
    pub lag_s: Option<u64>,
    /// How much, roughly; null: that is not known.
    pub lag_bytes: Option<u64>,
    /// The owner that this host is.
    pub owner: String,
    /// How often it is shipped, in seconds.
    pub ship_s: u64,
    /// How many bytes it may lack before writers are slowed; null: any number.
    pub max_lag_bytes: Option<u64>,
    /// For how long what was needed stays there, in seconds.
    pub history_s: u64,
    /// What keeps two hosts from serving it at once: `none` or `strict`.
    pub lease: String,
    /// How often its owner shows life there, in seconds.
    pub heartbeat_s: u64,
    /// For how long no sign of life was acknowledged, in seconds, if nothing is answered because of that.
    pub paused_s: Option<u64>,
    /// The record whose state this is, which never changes; null: it is shipped there.
    pub at: Option<Frozen>,
    /// How many bytes of the contents stay here that are there as well; null: all of them.
    pub local_size_bytes: Option<u64>,
    /// How much the contents take here, where that is bounded; null: no server has the store open.
    pub here_bytes: Option<u64>,
    /// How much all contents of the store are, likewise.
    pub contents_bytes: Option<u64>,
    /// Why none of what is here goes, if it should.
    pub stays: Option<String>,
    /// Blocks that were damaged here since the store was opened, and came back from there; null: no server has it open.
    pub healed_blocks: Option<u64>,
    /// The same of pages of the metadata.
    pub healed_pages: Option<u64>,
    /// What was written anew there since the store was opened, because little was left of what it was in; null: no server has it open.
    pub rewritten_bytes: Option<u64>,
    /// How long each write waits because it lacks more, in milliseconds; null: no server has the store open.
    pub slowed_ms: Option<u64>,
    /// Whether programs that write wait until it lacks less; null: no server has the store open.
    pub held: Option<bool>,
    /// Syncs that wait for it; null: no server has the store open, or one of an earlier version.
    pub syncs: Option<u64>,
    /// Whether something of the store may be there only.
    pub partial: bool,
    /// Whether another host has the store.
    pub fenced: bool,
    /// What went wrong last, if nothing has gone well since.
    pub trouble: Option<String>,
    /// Why what is only there cannot be read, if somebody wanted to.
    pub away: Option<String>,
    /// What was asked of it since it is shipped from here.
    pub requests: Requests,
}

impl ShownRemote {
    /// What is known of the remote of a store; `None` if it has none, or what is kept of it cannot be read.
    pub fn of(root: &Root, id: StoreId, status: Option<&RemoteStatus>) -> Option<Self> {
        let local = remote_of(root, id).ok().flatten()?;
        Some(Self {
            url: local.remote,
            record: status.map_or(local.seen, |status| status.record.max(local.seen)),
            shipped: status.and_then(|status| status.shipped_at).map(time),
            owner_host: status.and_then(|status| status.held_by.clone()),
            uploading: status.and_then(ShownUpload::of),
            objects: status.and_then(|status| status.there).map(|(objects, _)| objects),
            bytes: status.and_then(|status| status.there).map(|(_, bytes)| bytes),
            lag_s: status.and_then(RemoteStatus::lag),
            lag_bytes: status.and_then(|status| status.lag_bytes),
            owner: local.owner,
            ship_s: local.ship,
            max_lag_bytes: Some(local.max_lag).filter(|bytes| *bytes > 0),
            history_s: local.history,
            lease: local.lease,
            heartbeat_s: local.heartbeat,
            paused_s: status.and_then(|status| status.paused_s),
            at: local.at,
            local_size_bytes: Some(local.local_size).filter(|bytes| *bytes > 0),
            here_bytes: status.and_then(|status| status.here_bytes),
            contents_bytes: status.and_then(|status| status.contents_bytes),
            stays: status.and_then(|status| status.stays.clone()),
            healed_blocks: status.map(|status| status.healed_blocks),
            healed_pages: status.map(|status| status.healed_pages),
            rewritten_bytes: status.map(|status| status.rewritten_bytes),
            slowed_ms: status.map(|status| status.slowed_ms),
            held: status.map(|status| status.held),
            syncs: status.and_then(|status| status.syncs),
            partial: local.partial,
            fenced: status.is_some_and(|status| status.fenced),
            trouble: status.and_then(|status| status.trouble.clone()),
            away: status.and_then(|status| status.away.clone()),
            requests: status.and_then(|status| status.requests).unwrap_or(local.requests),
        })
    }
}

fn without(name: &str) -> VolumeError {
    let what = format!("volume {name:?} has no remote; give it one with `larder remote add {name} URL`");
    VolumeError::new(Exit::Usage, what)
}

/// What the server of a store says of it; `None` where none has it open.
fn status_of(root: &Root, id: StoreId) -> Result<Option<Status>> {
    server_of(root, id)?.map(|mut client| client.status()).transpose()
}

/// How it is with the remote of a volume.
///
/// # Errors
/// `NoVolume`, or that it has none.
pub fn remote_status(root: &Root, name: &str) -> Result<RemoteLook> {
    let id = store_of(root, name)?;
    let status = status_of(root, id)?;
    let local = remote_of(root, id)?.ok_or_else(|| without(name))?;
    let mounted = status.as_ref().and_then(|status| mount_of(status, name));
    let durability = match mounted {
        Some(mounted) => mounted.options.durability,
        None => options_of(root, name, Place::Store(id))?.mount.durability,
    };
    Ok(RemoteLook { local, status: status.and_then(|status| status.remote), durability })
}

/// Changes how the family of a volume is shipped, from now on.
///
/// # Errors
/// As [`tune_remote`]; and where a server ships it that cannot be told: then that goes on as before until it is started anew.
pub fn alter_remote(root: &Root, name: &str, tuning: Tuning) -> Result<()> {
    let id = store_of(root, name)?;
    must_not_be_moment(root, id, name)?;
    may_alter_remote(root, name, &tuning)?;
    tune_remote(root, id, name, tuning)?;
    // One that was started meanwhile may have read what was there before.
    let Some(mut client) = server_of(root, id)? else { return Ok(()) };
    let status = client.status()?;
    if status.remote.as_ref().is_some_and(|remote| remote.syncs.is_none()) {
        return Err(earlier(&status, "how it ships is changed when the volume is next mounted"));
    }
    client.remote_changed()
}

/// Refuses a change of how the family of a volume is shipped that its server cannot take.
///
/// # Errors
/// `Busy`; and as [`store_of`].
pub fn may_alter_remote(root: &Root, name: &str, tuning: &Tuning) -> Result<()> {
    let id = store_of(root, name)?;
    let begins_otherwise = remote_of(root, id)?.is_some_and(|local| tuning.begins_otherwise(&local));
    if begins_otherwise && server_of(root, id)?.is_some() {
        let what = format!(
            "the lease and the heartbeat of volume {name:?} are what its server began with, and what the kernel was told then; unmount the volumes \
             of its family with `larder umount`, then set them"
        );
        return Err(VolumeError::new(Exit::Busy, what));
    }
    Ok(())
}

/// What a server does not know.
fn earlier(status: &Status, what: &str) -> VolumeError {
    let Status { pid, version, .. } = status;
    let why = format!(
        "the server of the store (process {pid}, version {version}) is of an earlier version: {what}"
    );
    VolumeError::new(Exit::Busy, format!("{why}; `larder upgrade` replaces it"))
}

/// Refuses syncs that are to reach a remote that is not there, and servers that do not know of them; `status` is how the server of the store is.
///
/// # Errors
/// `Usage` without a remote, `Busy` where the server is of an earlier version.
pub(super) fn must_sync_there(name: &str, durability: Durability, status: &Status) -> Result<()> {
    match (durability, &status.remote) {
        (Durability::Local, _) => Ok(()),
        (Durability::Remote, None) => {
            let what = format!(
                "durability=remote: volume {name:?} has no remote; `larder remote add {name} URL` gives it one, and durability=local does \
                 without"
            );
            Err(VolumeError::new(Exit::Usage, what))
        }
        (Durability::Remote, Some(remote)) if remote.syncs.is_none() => {
            Err(earlier(status, "it does not know durability=remote"))
        }
        (Durability::Remote, Some(_)) => Ok(()),
    }
}

/// Refuses what wants syncs of a volume to reach a remote that it does not have.
///
/// # Errors
/// `Usage`.
pub fn must_have_remote(root: &Root, name: &str, place: Place) -> Result<()> {
    match place {
        Place::Store(id) if remote_of(root, id)?.is_none() => Err(without(name)),
        _ => Ok(()),
    }
}

/// Lets syncs of a volume reach so far from now on, if it is mounted.
///
/// # Errors
/// `Usage` without a remote, `Busy` where the server is of an earlier version; nothing has changed then.
pub fn alter_durability(root: &Root, name: &str, durability: Durability) -> Result<()> {
    let Some(mut client) = server_of(root, store_of(root, name)?)? else { return Ok(()) };
    let status = client.status()?;
    let Some(mounted) = mount_of(&status, name) else { return Ok(()) };
    must_sync_there(name, durability, &status)?;
    client.remount(name, &MountOptions { durability, ..mounted.options.clone() })
}

/// Refuses to take away a remote that syncs of a volume of the family are to reach.
fn must_not_be_synced_to(root: &Root, id: StoreId) -> Result<()> {
    let status = status_of(root, id)?;
    for name in names_in(root, id)? {
        let mounted = status.as_ref().and_then(|status| mount_of(status, &name));
        let stored = options_of(root, &name, Place::Store(id))?.mount.durability;
        if stored == Durability::Remote
            || mounted.is_some_and(|it| it.options.durability == Durability::Remote)
        {
            let what = format!(
                "syncs of volume {name:?} are to reach its remote (durability=remote); `larder set {name} durability=local` ends that"
            );
            return Err(VolumeError::new(Exit::Usage, what));
        }
    }
    Ok(())
}

/// Whether a volume, or one of its snapshots, can only be read: it is the state of a moment of a remote.
pub fn is_moment(root: &Root, name: &str) -> bool {
    let local = store_of(root, name).and_then(|id| remote_of(root, id));
    local.is_ok_and(|local| local.is_some_and(|local| local.at.is_some()))
}

/// Gives the family of a volume a remote, to which it is shipped from now on, or from when it is mounted. True if that is now.
///
/// # Errors
/// As [`add_remote`]; and where what is mounted cannot be taken over by another server, which has to begin with it: then nothing has
/// changed until it is unmounted and mounted again.
pub fn begin_remote(root: &Root, name: &str, remote: &NewRemote, program: &Path) -> Result<bool> {
    let id = store_of(root, name)?;
    let address = Address::of(&remote.remote, Some(name)).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let names = names_in(root, id)?;
    if let Some(why) = inside_itself(&address, |name| names.iter().any(|of| of == name)) {
        return Err(VolumeError::new(Exit::Usage, why));
    }
    if remote.lease == Some(LeaseKind::Strict) && server_of(root, id)?.is_some() {
        let what = format!(
            "the family of volume {name:?} is in use, and the kernel keeps what it was told for longer than lease=strict allows; unmount its \
             volumes with `larder umount` first"
        );
        return Err(VolumeError::new(Exit::Busy, what));
    }
    add_remote(root, id, name, remote)?;
    // What is in the trash here must not be a volume where it is attached.
    vacate_all(root, id, name)?;
    match upgrade(root, id, program) {
        Ok(done) => Ok(done.is_some()),
        Err(e) => Err(e.context(&format!(
            "volume {name:?} has its remote, but nothing is shipped before it is unmounted and mounted again"
        ))),
    }
}

/// Lets the family of a volume be without a remote again, and returns the URL that it had. What is there stays there, as it was shipped last;
/// what is only there is fetched before, and `progress` told of how many blocks are here, of how many.
///
/// # Errors
/// As [`forget_remote`] and [`make_whole`]; and where what is mounted cannot be taken over by another server: then the one that serves it
/// ships on until it is unmounted.
pub fn end_remote(
    root: &Root,
    name: &str,
    secrets: &Secrets,
    program: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<String> {
    let id = store_of(root, name)?;
    must_not_be_synced_to(root, id)?;
    if remote_of(root, id)?.is_some_and(|local| local.partial) {
        if server_of(root, id)?.is_some() {
            let what = format!(
                "a part of volume {name:?} is only in its remote, and is fetched before it is without one; unmount it first with `larder \
                 umount {name}`"
            );
            return Err(VolumeError::new(Exit::Busy, what));
        }
        make_whole(root, id, name, &secrets.keys(root, id, name)?, progress)?;
    }
    let url = forget_remote(root, id, name)?;
    match upgrade(root, id, program) {
        Ok(_) => Ok(url),
        Err(e) => Err(e.context(&format!(
            "volume {name:?} is shipped until it is unmounted, and not any more after that"
        ))),
    }
}

/// Waits until everything in the store of a volume is in its remote. Where no server has it open, one is started for that; whoever mounts
/// the volume meanwhile finds it. `watch` is told again and again how far an upload is.
///
/// # Errors
/// Why it is not after `timeout`, and `NoVolume`, `Secret`, or that it has none.
pub fn sync_remote(
    root: &Root,
    name: &str,
    secrets: &Secrets,
    timeout: Duration,
    watch: Option<&mut dyn FnMut(ShownUpload)>,
) -> Result<()> {
    let id = store_of(root, name)?;
    if remote_of(root, id)?.is_none() {
        return Err(without(name));
    }
    must_not_be_moment(root, id, name)?;
    sync_with(root, (id, name), || secrets.subkeys(root, id, name), (timeout, false), watch)
}

/// As [`sync_remote`], or only the key slots; `keys` are those of the store, if it has to be opened.
fn sync_with(
    root: &Root,
    (id, name): (StoreId, &str),
    keys: impl Fn() -> Result<Vec<Subkeys>>,
    (timeout, is_of_keys): (Duration, bool),
    mut watch: Option<&mut dyn FnMut(ShownUpload)>,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut started = 0;
    loop {
        let mut client = match server_of(root, id)? {
            Some(client) => client,
            None if started == STARTS => {
                let what = format!(
                    "the server of volume {name:?} ends as soon as it has started; its log says more"
                );
                return Err(VolumeError::new(Exit::Failure, what));
            }
            None => {
                started += 1;
                let keys = keys()?;
                match server::start(root, (id, name), &keys, CACHE_BYTES, 0) {
                    // Somebody else may have started one, or has the store open for a moment.
                    Err(e) if e.exit == Exit::Busy && Instant::now() < until => {
                        started = 0;
                        std::thread::sleep(AGAIN);
                        continue;
                    }
                    other => other?,
                }
                continue;
            }
        };
        let status = client.status()?;
        if status.ending {
            client.await_exit(&status, None);
            continue;
        }
        let synced = match &mut watch {
            Some(watch) => watched(root, id, || client.sync_remote(timeout, is_of_keys), watch),
            None => client.sync_remote(timeout, is_of_keys),
        };
        // One that was started for this says goodbye now: whoever attaches the volume next is let in.
        if status.mounts.is_empty() {
            client.await_exit(&status, Some(Instant::now() + FAREWELL));
        }
        return synced;
    }
}

/// Does `sync`, and tells meanwhile how far an upload is.
fn watched(
    root: &Root,
    id: StoreId,
    sync: impl FnOnce() -> Result<()> + Send,
    watch: &mut dyn FnMut(ShownUpload),
) -> Result<()> {
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel::<std::convert::Infallible>();
        let syncing = scope.spawn(move || {
            let _done = done;
            sync()
        });
        while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(WATCH) {
            if let Ok(Some(Status { remote: Some(remote), .. })) = status_of(root, id)
                && let Some(upload) = ShownUpload::of(&remote)
            {
                watch(upload);
            }
        }
        syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How long it is waited for a remote to have the key slots that were changed.
const KEYS_PATIENCE: Duration = Duration::from_secs(60);

/// Lets the remote of a store, if it has one, have the key slots that were just changed; `secret` opens it. Returns its URL.
///
/// # Errors
/// Why the remote has the old ones still, and what that means.
pub fn ship_keys(root: &Root, (id, name): (StoreId, &str), secret: &Secret) -> Result<Option<String>> {
    let Some(local) = remote_of(root, id)? else { return Ok(None) };
    let keys = || unlock(&OsDir::new(root.store(id)), secret);
    let shipped = sync_with(root, (id, name), keys, (KEYS_PATIENCE, true), None);
    let what = format!(
        "the key slots were changed here, and not yet in {}: until they are, a secret that was removed still opens what is there, and a \
         new one does not; they are shipped when the remote can be reached and the volume is mounted, or with `larder remote sync`",
        local.remote
    );
    shipped.map_err(|e| e.context(&what))?;
    Ok(Some(local.remote))
}

/// Seals everything again in a store that no server has open; in its remote, too, if it has one.
///
/// # Errors
/// `Busy` when another process has the store open, `NoSpace`, damage, or the host's; and when its remote cannot be reached.
pub fn reencrypt_closed_store(
    root: &Root,
    id: StoreId,
    keys: Vec<Subkeys>,
    progress: &mut dyn FnMut(&ReencryptionInfo),
) -> Result<()> {
    let keys = Keys::new(keys).map_err(|e| VolumeError::io(&root.store(id), &e))?;
    match remote_of(root, id)? {
        Some(_) => reencrypt_closed(root, id, keys, progress),
        None => reencrypt_offline(root, id, keys, progress),
    }
}
