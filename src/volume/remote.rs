//! Volumes with a remote: giving a store one, and putting down on this host what a remote has.

use super::attached_names::{Attaches, Names, name_all};
use super::create::UNNAMED;
use super::error::{Result, VolumeError};
use super::new_remote::NewRemote;
use super::offline::{LOCK_PATIENCE, lock_store};
use super::remote_keys::{open_log, open_log_before_gap};
use super::unfinished;
use crate::backing::{Dir, OpenMode, OsDir};
use crate::crypto::{Keys, Secret};
use crate::exit_code::Exit;
use crate::open_store::{AttachError, lay_down};
use crate::remote::{
    Address, BootClock, Claimed, Clock, Contents, HeaderRef, Kept, LeaseKind, Local, Log, Objects, Permit,
    Position, RemoteError, RemoteSealer, Seen, Steal, Trouble, Waiting, claim_to_attach, connect,
    forget_attempts, give_back, goodbye, header_in_force, must_be_free, must_not_overwrite, must_still_be,
    nobody_lives, or_breaks_off, read_store,
};
use crate::root::{Root, check_name};
use crate::store::{Feature, Header, HeaderLock, LOCK_NAME, LockMode, SEGMENT_DIR, StoreId, StoreLock};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// What to attach.
#[derive(Debug)]
pub struct AttachSpec<'a> {
    /// A URL, or the name of a remote.
    pub remote: &'a str,
    /// What to call the volume here; `None`: as it is called there.
    pub name: Option<&'a str>,
    /// Whether to take the store from an owner that has not let go of it.
    pub steal: bool,
    /// Whether to go on from before a gap where records are missing, and remove what is behind it.
    pub accept_older: bool,
    /// How it is to be shipped from here: what is not said is as usual, and the history as long as it was.
    pub tuning: Tuning,
}

/// Whoever attaches something: what is asked of them, and what they are told.
pub trait Attaching {
    /// The secret of an encrypted store.
    ///
    /// # Errors
    /// `Secret` when there is none.
    fn secret(&mut self) -> Result<Secret>;

    /// Refuses the store at `place`, which is not encrypted, where it is to be. `names` are what its volumes would be called here; none: that
    /// is not known yet.
    ///
    /// # Errors
    /// `Secret` if it is to be; or why that is not known.
    fn accept_plain(&mut self, place: &str, names: &[String]) -> Result<()>;

    /// Told again and again what is waited for; whether to go on.
    fn waits(&mut self, waiting: &Waiting) -> bool;
}

impl From<RemoteError> for VolumeError {
    fn from(e: RemoteError) -> Self {
        let exit = match &e {
            RemoteError::Object(e) => match e.trouble {
                Trouble::Refused => Exit::Permission,
                Trouble::Missing => Exit::NoVolume,
                Trouble::Exists => Exit::Exists,
                Trouble::Full => Exit::NoSpace,
                Trouble::Unreachable | Trouble::Other => Exit::HostIo,
            },
            RemoteError::NoStore { .. } | RemoteError::Gone { .. } | RemoteError::NoMoment { .. } => {
                Exit::NoVolume
            }
            RemoteError::OtherStore { .. } | RemoteError::BeingRemoved { .. } => Exit::Exists,
            RemoteError::Damaged { .. }
            | RemoteError::BreaksOff { .. }
            | RemoteError::Lost { .. }
            | RemoteError::Older { .. } => Exit::Damaged,
            RemoteError::Newer { .. } => Exit::NewerFormat,
            RemoteError::Secret { .. } => Exit::Secret,
            RemoteError::InUse { .. }
            | RemoteError::Fenced { .. }
            | RemoteError::Behind { .. }
            | RemoteError::Alive { .. }
            | RemoteError::Changed { .. }
            | RemoteError::NotOwner { .. } => Exit::Busy,
            RemoteError::Interrupted
            | RemoteError::Overwrites { .. }
            | RemoteError::TooLong { .. }
            | RemoteError::Host { .. } => Exit::Failure,
        };
        Self::new(exit, e.to_string())
    }
}

impl From<AttachError> for VolumeError {
    fn from(e: AttachError) -> Self {
        match e {
            AttachError::Remote(e) => e.into(),
            AttachError::Meta(e) => Self::new(Exit::Damaged, e.to_string()),
            AttachError::Header(e) => e.into(),
            AttachError::Io { path, source } => Self::io(&path, &source),
        }
    }
}

pub(super) fn address(remote: &str, volume: Option<&str>) -> Result<(Address, Option<String>)> {
    let address = Address::of(remote, volume).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    Ok((address, Address::name_in(remote).map(str::to_owned)))
}

/// The objects of a remote.
///
/// # Errors
/// What of the address makes no sense, or that there are no credentials.
pub fn objects_at(address: &Address) -> Result<Arc<dyn Objects>> {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    Ok(connect(address, &clock)?.objects)
}

/// What a store's directory says of its remote; `None` if it has none.
///
/// # Errors
/// The host's, and when the file is not what this program wrote.
pub fn remote_of(root: &Root, id: StoreId) -> Result<Option<Local>> {
    let path = root.store(id);
    Local::read(&path).map_err(|e| VolumeError::io(&path.join(crate::remote::LOCAL_NAME), &e))
}

/// Notes that the store has a remote from now on. A server that has it open ships to it when it is started anew. `volume` is whose place
/// it has below a remote with a name.
///
/// # Errors
/// `Exists` if it has one; `Usage` for one that makes no sense; and when what is there belongs to another store, or it cannot be reached.
pub fn add_remote(root: &Root, id: StoreId, volume: &str, remote: &NewRemote) -> Result<()> {
    let has_one = |local: &Local| format!("volume {volume:?} has a remote already: {}", local.remote);
    if let Some(local) = remote_of(root, id)? {
        return Err(VolumeError::new(Exit::Exists, has_one(&local)));
    }
    let new = remote.ask(volume, Some(id))?;
    let path = root.store(id);
    // Of two that change it at once, the second must see what the first made of it.
    let _lock = HeaderLock::acquire(&path).map_err(|e| VolumeError::io(&path, &e))?;
    if let Some(local) = remote_of(root, id)? {
        return Err(VolumeError::new(Exit::Exists, has_one(&local)));
    }
    let dir = OsDir::new(&path);
    let mut header = Header::read(&dir)?;
    if header.has_remote(new.unusual_history()) {
        header.replace(&dir)?;
    }
    new.write(&path).map_err(|e| VolumeError::io(&path, &e))
}

/// Lets the header of the store in the directory `path` say how long its remote keeps what was needed, as `local` says it. The caller has the
/// header's lock.
///
/// # Errors
/// The host's; nothing has changed then.
fn note_history(path: &Path, local: &Local) -> Result<()> {
    let dir = OsDir::new(path);
    let mut header = Header::read(&dir)?;
    if header.keep_history(local.unusual_history()) {
        header.replace(&dir)?;
    }
    Ok(())
}

/// The same of a store whose header does not say it yet: whoever had it was interrupted, or was a program of an earlier version.
///
/// # Errors
/// As the host.
pub fn keep_history(path: &Path, local: &Local) -> Result<()> {
    let _lock = HeaderLock::acquire(path).map_err(|e| VolumeError::io(path, &e))?;
    note_history(path, local)
}

/// How a store is to be shipped: what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// How far behind its remote may be, in seconds.
    pub ship: Option<u64>,
    /// How many bytes it may lack before writers are slowed; 0: any number.
    pub max_lag: Option<u64>,
    /// For how long what was needed stays there, in seconds.
    pub history: Option<u64>,
    /// How many bytes of its contents stay here that are there as well; 0: all of them.
    pub local_size: Option<u64>,
    /// What keeps two hosts from serving the store at once.
    pub lease: Option<LeaseKind>,
    /// How often its owner shows life, in seconds.
    pub heartbeat: Option<u64>,
}

impl Tuning {
    /// Whether it is something that whoever serves the store begins with, and other than what that has begun with.
    pub fn begins_otherwise(&self, local: &Local) -> bool {
        self.lease.is_some_and(|lease| local.lease() != Some(lease))
            || self.heartbeat.is_some_and(|seconds| seconds != local.heartbeat)
    }
}

/// Changes how a store is shipped. A server that has it open has to be told.
///
/// # Errors
/// `Usage` if it has no remote; or the host's.
pub fn tune_remote(root: &Root, id: StoreId, volume: &str, tuning: Tuning) -> Result<()> {
    let path = root.store(id);
    let io = |e| VolumeError::io(&path, &e);
    let _lock = HeaderLock::acquire(&path).map_err(io)?;
    let Some(mut local) = remote_of(root, id)? else {
        return Err(VolumeError::new(Exit::Usage, format!("volume {volume:?} has no remote")));
    };
    local.ship = tuning.ship.unwrap_or(local.ship);
    local.max_lag = tuning.max_lag.unwrap_or(local.max_lag);
    local.history = tuning.history.unwrap_or(local.history);
    local.local_size = tuning.local_size.unwrap_or(local.local_size);
    local.lease = tuning.lease.map_or(local.lease, |lease| lease.to_string());
    local.heartbeat = tuning.heartbeat.unwrap_or(local.heartbeat);
    local.write(&path).map_err(io)?;
    note_history(&path, &local)
}

/// Lets a store be without a remote again; what is there stays there. A server that has it open goes on until it is started anew. Returns
/// the URL that the remote had.
///
/// # Errors
/// `Usage` if it has none, or if a part of the store is only there ([`make_whole`](super::make_whole)); or the host's.
pub fn forget_remote(root: &Root, id: StoreId, volume: &str) -> Result<String> {
    let path = root.store(id);
    let _lock = HeaderLock::acquire(&path).map_err(|e| VolumeError::io(&path, &e))?;
    let usage = |what: String| VolumeError::new(Exit::Usage, what);
    let local = remote_of(root, id)?.ok_or_else(|| usage(format!("volume {volume:?} has no remote")))?;
    if local.partial {
        let what = "a part of it is only there, and has to be fetched before";
        return Err(usage(format!("volume {volume:?} has the remote {}: {what}", local.remote)));
    }
    let file = path.join(crate::remote::LOCAL_NAME);
    let io = |e| VolumeError::io(&file, &e);
    Local::remove(&path).map_err(io)?;
    let dir = OsDir::new(&path);
    forget_attempts(&path).map_err(io)?;
    // Not before: a program that does not know of remotes must not open what has one.
    let mut header = Header::read(&dir)?;
    let was_named =
        header.features.remove(&Feature::Remote) | header.features.remove(&Feature::RemoteAttempts);
    if was_named | header.keep_history(None) {
        header.replace(&dir)?;
    }
    Ok(local.remote)
}

/// A store that a remote has, and that may be attached.
pub(super) struct Attachable {
    pub(super) address: Address,
    /// The name of the remote, if it was named.
    pub(super) named: Option<String>,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) store: StoreId,
}

/// Finds the store that is where `remote` says, which may be called `name` here.
///
/// # Errors
/// What makes no sense of that; `NoVolume` where there is none; `Secret` where it is not encrypted and is to be; and when the remote cannot be
/// reached.
pub(super) fn attachable(
    remote: &str,
    name: Option<&str>,
    attaching: &mut dyn Attaching,
) -> Result<Attachable> {
    unfinished::wants("remotes")?;
    if let Some(name) = name {
        check_name(name).map_err(|e| VolumeError::new(Exit::Usage, e))?;
    }
    let (address, named) = address(remote, None)?;
    let objects = objects_at(&address)?;
    let place = objects.place().to_owned();
    let Some(found) = read_store(&*objects)? else { return Err(RemoteError::NoStore { place }.into()) };
    if !found.encrypted {
        attaching.accept_plain(&place, &[])?;
    }
    Ok(Attachable { address, named, objects, store: found.store })
}

/// Puts down the store that a remote has, and gives its volumes their names here; returns the names, and what was claimed for that:
/// nothing where nobody had it.
///
/// # Errors
/// `NoVolume` where there is no store; `Exists` if this host has it, or a name is taken; `Busy` if it is in use; `Secret`, also where it is
/// not encrypted and is to be; `Damaged`; and when the remote cannot be reached. Nothing is left here then.
pub fn attach(
    root: &Root,
    spec: &AttachSpec<'_>,
    attaching: &mut dyn Attaching,
) -> Result<(Vec<String>, Option<Claimed>)> {
    let Attachable { address, named, objects, store } = attachable(spec.remote, spec.name, attaching)?;
    root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    let path = root.store(store);
    let open = if spec.accept_older { open_log_before_gap } else { open_log };
    let (_, keys) = open(&objects, store, &mut || attaching.secret())?;
    let held = {
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        super::remove::sweep(root);
        if path.symlink_metadata().is_ok() {
            let is_it = |name: &String| matches!(root.resolve(name), Ok(Some(id)) if id == store);
            let list = if root.names().unwrap_or_default().iter().any(is_it) { "ls" } else { "trash ls" };
            let place = objects.place();
            let what = format!("this host has the store of {place} already: see `larder {list}`");
            return Err(VolumeError::new(Exit::Exists, what));
        }
        prepare(&path)?;
        // Whoever sweeps leaves alone what somebody holds.
        Some(lock_store(&path, LOCK_PATIENCE)?)
    };
    let mut held = held;
    let of_it = (path.as_path(), store);
    let named = put_down(root, of_it, &mut held, (&address, named), (&objects, &keys), spec, attaching);
    if named.is_err() && held.is_some() {
        // Nothing of what could not be attached stays behind. As long as it is held, it is this one's.
        if let Ok(_lock) = root.lock() {
            clean_up(root, of_it);
        }
    }
    named
}

/// Removes a store that has no name yet, and names that lead to it. The caller holds the root's lock, and knows whose the store is.
pub(super) fn clean_up(root: &Root, (path, id): (&Path, StoreId)) {
    for link in root.links_to(id).unwrap_or_default() {
        let _ = fs::remove_file(link);
    }
    if let Err(e) = fs::remove_dir_all(path) {
        log::warn!("{}: {e}", path.display());
    }
}

/// Makes the directory of a store, without a name.
pub(super) fn prepare(path: &Path) -> Result<()> {
    let io = |e| VolumeError::io(path, &e);
    DirBuilder::new().mode(0o700).create(path).map_err(io)?;
    OsDir::new(path).open(UNNAMED, OpenMode::CreateNew).map_err(io)?;
    DirBuilder::new().mode(0o700).create(path.join(SEGMENT_DIR)).map_err(io)?;
    drop(StoreLock::try_acquire(path, LockMode::Exclusive).map_err(io)?);
    Ok(())
}

fn put_down(
    root: &Root,
    (path, id): (&Path, StoreId),
    held: &mut Option<StoreLock>,
    (address, named): (&Address, Option<String>),
    (objects, keys): (&Arc<dyn Objects>, &Keys),
    spec: &AttachSpec<'_>,
    attaching: &mut dyn Attaching,
) -> Result<(Vec<String>, Option<Claimed>)> {
    let io = |e| VolumeError::io(path, &e);
    let clock = BootClock;
    let mut local = Local::new(&address.url.to_string()).map_err(io)?;
    (local.partial, local.named) = (true, named);
    let Tuning { ship, max_lag, history, local_size, lease, heartbeat } = spec.tuning;
    (local.ship, local.max_lag) = (ship.unwrap_or(local.ship), max_lag.unwrap_or(local.max_lag));
    local.local_size = local_size.unwrap_or(local.local_size);
    local.heartbeat = heartbeat.unwrap_or(local.heartbeat);
    let sealer = RemoteSealer::new(id, keys, objects.place());
    let (mut log, gap) = match spec.accept_older {
        true => Log::open_before_gap(Arc::clone(objects), sealer, &clock)?,
        false => (Log::open(Arc::clone(objects), sealer, Seen::Nothing)?, None),
    };
    // As it was on the host before, where nothing else is said.
    let lease = lease.map_or_else(|| log.last_lease(), |lease| Ok(Some(lease)))?;
    local.lease = lease.unwrap_or_default().to_string();
    let me = local.me().ok_or_else(|| VolumeError::new(Exit::Failure, "the new owner has no id"))?;
    let steal = if spec.steal { Steal::Yes } else { Steal::No };
    // Whatever can refuse does so before anything is taken from anybody.
    must_be_free(&log, steal)?;
    must_not_overwrite(&**objects)?;
    let dir: Arc<dyn Dir> = Arc::new(OsDir::new(path));
    let laid = Laid::lay(&dir, &log, id, keys)?;
    {
        let names = Names::of(root, (id, keys), held.as_ref(), spec.name, Attaches::Newest)?;
        if !keys.is_encrypted() {
            attaching.accept_plain(objects.place(), &names.all)?;
        }
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        names.must_be_free(root)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(clock);
    if let Some(gap) = &gap {
        let waiting = |left| Waiting { owner: gap.by.clone(), claimed: false, left };
        nobody_lives(&**objects, &*clock, &mut |left| attaching.waits(&waiting(left)))?;
        gap.close(&**objects)?;
    }
    log.follow()?;
    must_be_free(&log, steal)?;
    // Of what nobody has, nothing needs to be claimed before it is mounted: who is killed here keeps it from nobody. Of the rest, nobody else
    // adds anything from here on. What is put down is the newest there is.
    let claimed = match log.state().held {
        None => Ok(None),
        Some(_) => {
            claim_to_attach(&mut log, &me, steal, &*clock, &mut |waiting| attaching.waits(waiting)).map(Some)
        }
    };
    let put = claimed.map_err(VolumeError::from).and_then(|claimed| {
        must_still_be(&log, &me)?;
        Ok((put_claimed((path, id), &dir, &mut log, laid, keys, (local, history))?, claimed))
    });
    let (kept, claimed) = put.inspect_err(|_| {
        if let Err(e) = give_back(&mut log, &me, &clock) {
            log::warn!("{e}");
        }
    })?;
    // Until it is mounted, nobody needs to have it.
    let permit = Permit::new(me.lease, Arc::clone(&clock));
    let goodbye = claimed.as_ref().map_or(Ok(()), |_| goodbye(&mut log, &me, &permit, &*clock));
    let is_free = match goodbye {
        Ok(()) => {
            kept.saw(log.state().newest).map_err(io)?;
            true
        }
        Err(e @ RemoteError::Fenced { .. }) => return Err(e.into()),
        // What is put down knows whose the claim is: who mounts it goes on. So may anybody else, until then.
        Err(e) => {
            log::warn!(
                "{e}; the volume is this host's once it is mounted here, if no other host was quicker"
            );
            false
        }
    };
    let names = Names::of(root, (id, keys), held.as_ref(), spec.name, Attaches::Newest);
    let named = names.and_then(|names| name_all(root, (path, id), held, keys, names));
    if named.is_err() && !is_free {
        // It goes, and nobody would know any more.
        log.note_nowhere();
        if let Err(e) = give_back(&mut log, &me, &clock) {
            log::warn!("{e}");
        }
    }
    Ok((named?, claimed))
}

/// What was put down of a store that nobody has claimed for that.
struct Laid {
    at: Position,
    header_at: HeaderRef,
    header: Header,
}

impl Laid {
    fn lay(dir: &Arc<dyn Dir>, log: &Log, id: StoreId, keys: &Keys) -> Result<Self> {
        let missing = |e| or_breaks_off(e, &**log.objects(), log.sealer(), &BootClock);
        let (json, header) = header_in_force(log).map_err(missing)?;
        let attached = lay_down(dir, log, id, &json, keys).map_err(|e| match e {
            AttachError::Remote(e) => missing(e).into(),
            e => VolumeError::from(e),
        })?;
        Ok(Self { at: attached.at, header_at: log.state().header, header })
    }

    /// Whether the log has nothing since then but who had the store.
    fn is_newest(&self, log: &Log) -> Result<bool> {
        if log.state().header != self.header_at {
            return Ok(false);
        }
        for record in log.chain(self.at.number + 1, Some(self.at.seal)) {
            match record {
                Ok(record) if matches!(record.contents, Contents::Claim(_) | Contents::Goodbye) => {}
                Ok(_) | Err(RemoteError::Lost { .. }) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }
}

/// Removes what was put down, so that it can be put down again.
fn take_back(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let stays = [LOCK_NAME, UNNAMED, SEGMENT_DIR].iter().any(|name| entry.file_name() == *name);
        if !stays {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts down what came between, if something did, and what this host keeps of the remote; `history` is how long it is to keep what was needed,
/// if that was said.
fn put_claimed(
    (path, id): (&Path, StoreId),
    dir: &Arc<dyn Dir>,
    log: &mut Log,
    mut laid: Laid,
    keys: &Keys,
    (mut local, history): (Local, Option<u64>),
) -> Result<Arc<Kept>> {
    let io = |e| VolumeError::io(path, &e);
    if !laid.is_newest(log)? {
        take_back(path).map_err(io)?;
        laid = Laid::lay(dir, log, id, keys)?;
    }
    local.history = history.or(laid.header.history).unwrap_or(local.history);
    if laid.header.has_remote(local.unusual_history()) {
        laid.header.replace(&**dir)?;
    }
    local.saw(log.state().newest);
    local.ran_in(path);
    local.write(path).map_err(io)?;
    dir.sync(SEGMENT_DIR).and_then(|()| dir.sync("")).map_err(io)?;
    let kept = Arc::new(Kept::new(path, local));
    log.note_in(Arc::clone(&kept));
    Ok(kept)
}

#[cfg(test)]
mod tests;
