//! What an engine can ask, done: the calls of the protocol, one method each. They block.

use super::books::Books;
use super::locks::Locks;
use super::mounts::{Mounts, Release};
use super::protocol::{Answer, Call, Volume};
use super::status;
use crate::exit_code::Exit;
use crate::host::{
    self, Container, Containers, Place, Record, Removal, VolumeOptions, devices, differences, format_history,
    look_for, names, options_of, or_usual, place, secrets_of, time, usual_to_remember, usual_volume,
};
use crate::mount::is_seen_by;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{
    Alteration, LimitChange, LimitChanges, NewRemote, Result, VolumeError, VolumeSpec, is_encrypted,
    remote_of, usual_inodes, usual_metadata,
};
use nix::unistd::{getegid, geteuid};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a look at a volume may take.
const LOOK: Duration = Duration::from_secs(2);

/// How long a removal waits for programs that have the volume without meaning to.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// The volumes of a root, as engines see them. Whoever changes one holds its lock.
pub(super) struct Driver {
    pub(super) root: Root,
    pub(super) books: Books,
    pub(super) mounts: Mounts,
    pub(super) locks: Locks,
}

fn usage(what: impl Into<String>) -> VolumeError {
    VolumeError::new(Exit::Usage, what)
}

impl Driver {
    /// Opens what the plugin remembers. The path of the root has no symbolic links.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn open(root: Root) -> Result<Self> {
        let books = Books::open(&root)?;
        Ok(Self { mounts: Mounts::new(root.clone()), books, root, locks: Locks::default() })
    }

    /// Does what is asked.
    ///
    /// # Errors
    /// What an engine is to tell its user.
    pub(super) fn answer(&self, call: Call) -> Result<Answer> {
        match call {
            Call::Activate => self.books.new_epoch().map(|()| Answer::Implements),
            Call::Capabilities => Ok(Answer::Scope),
            Call::Create { name, options } => self.create(&name, &options).map(|()| Answer::Done),
            Call::Remove { name } => self.remove(&name).map(|()| Answer::Done),
            Call::Mount { name, id } => self.mount(&name, &id),
            Call::Unmount { name, id } => self.unmount(&name, &id).map(|()| Answer::Done),
            Call::Path { name } => self.path(&name),
            Call::Get { name } => self.get(&name),
            Call::List => self.list(),
        }
    }

    fn existing(&self, name: &str) -> Result<Place> {
        place(&self.root, name)?.ok_or_else(|| VolumeError::no_volume(name))
    }

    fn create(&self, name: &str, given: &BTreeMap<String, String>) -> Result<()> {
        let existing = place(&self.root, name)?;
        let options = VolumeOptions::parse(given).map_err(usage)?;
        if let Some(place) = existing {
            let look = || look_for(&self.root, name, None, LOOK).map(drop);
            let is_bare = |e: &VolumeError| e.exit == Exit::NoVolume && place != Place::Memory;
            match look() {
                Err(e) if is_bare(&e) => {
                    // A name without a volume: an interrupted command left it, which the look takes away, unless somebody just gives the
                    // name to a volume, and has the lock until then.
                    drop(self.root.lock().map_err(|e| VolumeError::io(self.root.path(), &e))?);
                    match look() {
                        Err(e) if is_bare(&e) && self::place(&self.root, name)?.is_some() => return Err(e),
                        Err(e) if is_bare(&e) => {}
                        _ => return self.is_the_same(name, self.existing(name)?, &options),
                    }
                }
                _ => return self.is_the_same(name, place, &options),
            }
        }
        for file in options.key_file.iter().chain(&options.passphrase_file) {
            check_secret_file(file)?;
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut record = Record {
            store: None,
            created,
            options: options.to_record(),
            by_driver: Some(true),
            ..Record::default()
        };
        self.root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
        if options.in_memory {
            host::may_have_size(name, options.size)?;
            let _lock = self.root.lock().map_err(|e| VolumeError::io(self.root.path(), &e))?;
            if place(&self.root, name)?.is_some() {
                return Err(VolumeError::new(Exit::Exists, format!("volume {name:?} already exists")));
            }
            return record.keep(&self.root, name);
        }
        let id = match &options.from {
            Some(source) => {
                let (id, inherited) = self.clone_from(name, source, &options)?;
                record.inherited = inherited;
                id
            }
            None => {
                let with_usual = or_usual(options.clone(), usual_volume()?);
                for file in with_usual.key_file.iter().chain(&with_usual.passphrase_file) {
                    check_secret_file(file)?;
                }
                record.inherited = usual_to_remember(&options, &with_usual);
                self.create_anew(name, &with_usual)?
            }
        };
        record.keep_if_there(&self.root, name, id)
    }

    /// Makes a volume with these options, of which those are some that are usual on this host.
    fn create_anew(&self, name: &str, options: &VolumeOptions) -> Result<StoreId> {
        options.must_fit_anew().map_err(|e| VolumeError::new(Exit::Usage, e))?;
        let spec = VolumeSpec {
            name: name.to_owned(),
            limits: LimitChanges {
                size: size_of_new(options.size),
                inodes: options.inodes,
                metadata: options.metadata,
            },
            uid: options.uid.unwrap_or_else(|| geteuid().as_raw()),
            gid: options.gid.unwrap_or_else(|| getegid().as_raw()),
            mode: options.mode.unwrap_or(0o755),
            labels: options.labels.clone(),
            remote: options.new_remote(),
        };
        let secrets = match options.encrypt {
            true => secrets_of(options).new_secrets(name)?,
            false => host::may_be_plain(name).map(|()| Vec::new())?,
        };
        host::create(&self.root, &spec, &secrets)
    }

    /// Makes a clone. Its store is returned, and what it takes over of what is remembered of its source.
    fn clone_from(
        &self,
        name: &str,
        source: &str,
        options: &VolumeOptions,
    ) -> Result<(StoreId, BTreeMap<String, String>)> {
        let volume = source.split('@').next().unwrap_or(source);
        let from = match self.existing(volume)? {
            Place::Store(id) => id,
            Place::Memory => {
                return Err(usage(format!("{volume:?} is in memory only and cannot be cloned")));
            }
        };
        if options.encrypt && !is_encrypted(&self.root, from)? {
            return Err(usage(format!(
                "a clone has the keys of its source, and {volume:?} is not encrypted"
            )));
        }
        let mut inherited = BTreeMap::new();
        let mut secret = secrets_of(options);
        if !secret.is_given() {
            let remembered = options_of(&self.root, volume, Place::Store(from))?;
            secret = secrets_of(&remembered);
            inherited = remembered.to_map();
            inherited.retain(|key, _| key.ends_with("-file"));
        }
        let change = Alteration::Clone {
            source: source.to_owned(),
            name: name.to_owned(),
            size: options.size,
            inodes: options.inodes,
            metadata: options.metadata,
            labels: options.labels.clone(),
            uid: options.uid,
            gid: options.gid,
            mode: options.mode,
        };
        host::clone(&self.root, &change, &secret).map(|id| (id, inherited))
    }

    /// Whether a volume that exists is what is asked for. One that was made by hand takes over what it is not contradicting.
    fn is_the_same(&self, name: &str, place: Place, options: &VolumeOptions) -> Result<()> {
        let mut asked = options.to_map();
        // Nothing is asked for but that there is one.
        if asked.is_empty() {
            return Ok(());
        }
        let record = Record::of(&self.root, name, place)?;
        let is_by_hand = record.as_ref().is_none_or(|of| of.by_driver == Some(false));
        let mut options = options.clone();
        if is_by_hand && !options.in_memory && options.from.is_none() {
            // It was made by hand on a host where this is usual, or not yet.
            let is_encrypted = matches!(place, Place::Store(id) if is_encrypted(&self.root, id)?);
            let usual = usual_volume()?;
            let usual = VolumeOptions {
                encrypt: usual.encrypt && is_encrypted,
                key_file: None,
                passphrase_file: None,
                sticky: false,
                trash: None,
                ..usual
            };
            options = or_usual(options, usual);
            asked = options.to_map();
        }
        // As it would be written today.
        let remembered = record.as_ref().map(|record| match VolumeOptions::parse(&record.options) {
            Ok(options) => options.to_map(),
            Err(_) => record.options.clone(),
        });
        let mut made = match &remembered {
            Some(remembered) if !is_by_hand => {
                // What was usual when it was made may be asked for, and need not be.
                let inherited = record.iter().flat_map(|record| &record.inherited);
                let inherited = inherited.filter(|(key, _)| asked.contains_key(*key));
                let inherited = inherited.map(|(key, value)| (key.clone(), value.clone()));
                inherited.chain(remembered.clone()).collect()
            }
            _ => asked.clone(),
        };
        if let Place::Store(id) = place {
            let known = options_of(&self.root, name, place).unwrap_or_default();
            let info = look_for(&self.root, name, Some(&secrets_of(&known)), LOOK).map(|look| look.info);
            if let Ok(info) = info {
                // So may its root directory have been changed.
                if let Some(dir) = info.root.filter(|_| !is_by_hand) {
                    for (key, is_asked) in [
                        ("uid", options.uid.unwrap_or(geteuid().as_raw()) == dir.uid),
                        ("gid", options.gid.unwrap_or(getegid().as_raw()) == dir.gid),
                        ("mode", options.mode.unwrap_or(0o755) == dir.mode),
                    ] {
                        if is_asked {
                            made.remove(key);
                            made.extend(asked.get(key).map(|value| (key.to_owned(), value.clone())));
                        }
                    }
                }
                // It may have been resized since, to what is asked for now.
                let size = size_of_new(options.size);
                for (key, limit, wanted, usual) in [
                    ("size", info.size, size, None),
                    ("inodes", info.inodes, options.inodes, usual_inodes(info.size)),
                    ("metadata", info.metadata, options.metadata, usual_metadata(info.size, info.inodes)),
                ] {
                    if wanted.asks_for(limit, usual) {
                        made.remove(key);
                        made.extend(asked.get(key).map(|value| (key.to_owned(), value.clone())));
                    } else if is_by_hand {
                        made.remove(key);
                        made.extend(limit.map(|limit| (key.to_owned(), limit.to_string())));
                    }
                }
            }
            if is_by_hand {
                for key in ["type", "from", "encrypt"] {
                    made.remove(key);
                }
                made.extend(is_encrypted(&self.root, id)?.then(|| ("encrypt".to_owned(), "true".to_owned())));
                // What somebody has set of it is so, whatever is asked for; what is not, becomes as it is asked for.
                let set = remembered.iter().flatten().filter(|(key, _)| asked.contains_key(*key));
                made.extend(set.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        self.compare_remote(name, place, &mut made, &asked)?;
        // Not what it is, but what becomes of it; whoever does not ask for it may leave it as it is.
        if !asked.contains_key("trash") {
            made.remove("trash");
        }
        let differences = differences(&made, &asked);
        if !differences.is_empty() {
            return Err(VolumeError::new(
                Exit::Exists,
                format!(
                    "volume {name:?} already exists with other options: {}; ask for the same, choose another name, or remove it",
                    differences.join(", ")
                ),
            ));
        }
        match place {
            Place::Store(id) if is_by_hand => self.adopt(name, id, record, options),
            _ => Ok(()),
        }
    }

    /// Puts into what a volume is which remote it has now, if somebody asks for one: it may have got that since, or has no more.
    fn compare_remote(
        &self,
        name: &str,
        place: Place,
        made: &mut BTreeMap<String, String>,
        asked: &BTreeMap<String, String>,
    ) -> Result<()> {
        for key in ["remote", "ship", "max-lag", "history", "local-size", "lease", "heartbeat"] {
            made.remove(key);
        }
        let Place::Store(id) = place else { return Ok(()) };
        let Some(remote) = asked.get("remote") else { return Ok(()) };
        let Some(local) = remote_of(&self.root, id)? else { return Ok(()) };
        let wanted = NewRemote { remote: remote.clone(), ..NewRemote::default() };
        let wanted = wanted.address(name)?;
        let is_it = wanted.url.to_string() == local.remote;
        made.insert("remote".into(), if is_it { remote.clone() } else { local.remote });
        made.extend(asked.contains_key("ship").then(|| ("ship".to_owned(), local.ship.to_string())));
        for (key, bytes) in [("max-lag", local.max_lag), ("local-size", local.local_size)] {
            made.extend(asked.contains_key(key).then(|| (key.to_owned(), bytes.to_string())));
        }
        made.extend(
            asked.contains_key("history").then(|| ("history".to_owned(), format_history(local.history))),
        );
        for (key, value) in [("lease", local.lease), ("heartbeat", local.heartbeat.to_string())] {
            made.extend(asked.contains_key(key).then(|| (key.to_owned(), value)));
        }
        Ok(())
    }

    /// Remembers of a volume that was made by hand, as `record` says if something was set of it since, what an engine asked for.
    fn adopt(&self, name: &str, id: StoreId, record: Option<Record>, options: VolumeOptions) -> Result<()> {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut record = record.unwrap_or(Record { created, by_driver: Some(false), ..Record::default() });
        let set = std::mem::take(&mut record.options);
        record.options = options.to_record();
        record.options.extend(set);
        record.keep_if_there(&self.root, name, id)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let Some(place) = place(&self.root, name)? else { return Ok(()) };
        self.must_be_ours(name, place)?;
        let options = options_of(&self.root, name, place)?;
        let users = self.books.current(name);
        if !users.is_empty() {
            let containers = Containers::now(false).with(name, &devices(&self.root, name));
            let labels: Vec<String> = containers.iter().map(Container::label).collect();
            let by = match labels.as_slice() {
                [] => format!("an engine (`docker ps -a --filter volume={name}` shows its containers)"),
                labels => format!("the containers {}", labels.join(", ")),
            };
            return Err(in_use(name, &by));
        }
        if !options.sticky
            && let Release::InUse(pids) = self.release_for_good(name, place)?
        {
            let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
            let by = match pids.as_slice() {
                [] => format!(
                    "programs on the host (`fuser -vm {}` lists them)",
                    self.mounts.dir(name).display()
                ),
                pids => format!("programs (process {})", pids.join(", ")),
            };
            return Err(in_use(name, &by));
        }
        let removed = host::remove(&self.root, name, &secrets_of(&options), Removal::default(), |_, _| {})?;
        if let Some(of) = removed {
            let until = time(of.entry.until);
            log::info!(
                "volume {name:?} is in the trash until {until}; `larder trash restore {name}` brings it back"
            );
        }
        self.mounts.forget(name);
        self.books.clear(name)
    }

    /// Refuses to remove what no engine has made: engines adopt all volumes that the driver lists (`podman volume reload`), and
    /// remove what none of their containers uses (`podman volume prune`).
    fn must_be_ours(&self, name: &str, place: Place) -> Result<()> {
        let record = Record::of(&self.root, name, place)?;
        if record.is_some_and(|record| record.is_by_driver(&self.root)) {
            return Ok(());
        }
        let what = format!(
            "volume {name:?} was not made through the driver, which does not remove it; `larder rm {name}` does"
        );
        Err(VolumeError::new(Exit::Permission, what))
    }

    /// Unmounts a volume that is to go. Programs that have copies of all mounts for a moment (those that are starting containers, for
    /// one) are given that moment.
    fn release_for_good(&self, name: &str, place: Place) -> Result<Release> {
        let until = Instant::now() + REMOVE_PATIENCE;
        loop {
            match self.mounts.release(name, Some(place))? {
                Release::InUse(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
                other => return Ok(other),
            }
        }
    }

    fn mount(&self, name: &str, id: &str) -> Result<Answer> {
        let place = self.existing(name)?;
        let options = options_of(&self.root, name, place)?;
        let dir = self.mounts.ensure(name, place, &options)?;
        if let Err(e) = self.books.add(name, id) {
            self.release_unused(name);
            return Err(e);
        }
        log::info!("volume {name:?} is mounted for {id}");
        Ok(Answer::mountpoint(&dir))
    }

    /// Checks that process `pid`, whose engine is to bind a volume that was just mounted, has the mount in its tree of files: a container
    /// would get the bare directory below it.
    ///
    /// # Errors
    /// When it is known that it has not.
    pub(super) fn must_be_seen(&self, name: &str, pid: u32) -> Result<()> {
        let Some(entry) = self.mounts.entry(name)? else { return Ok(()) };
        if is_seen_by(&entry, pid) != Some(false) {
            return Ok(());
        }
        let dir = entry.dir.display();
        let what = format!(
            "the engine (process {pid}) does not see what the driver mounts on {dir}: it is in another mount namespace; start the driver \
             where the engine is (a rootless Podman: `podman unshare larder plugin`, and again after `podman system migrate`)"
        );
        Err(VolumeError::new(Exit::MountPoint, what))
    }

    fn unmount(&self, name: &str, id: &str) -> Result<()> {
        place(&self.root, name)?;
        self.books.subtract(name, id)?;
        log::info!("volume {name:?} is not needed for {id} any more");
        self.release_unused(name);
        Ok(())
    }

    /// Unmounts a volume that no container uses. What cannot be unmounted now, the supervisor tries later.
    fn release_unused(&self, name: &str) {
        if let Err(e) = self.try_release(name) {
            log::warn!("volume {name:?} stays mounted: {e}");
        }
    }

    /// The same.
    ///
    /// # Errors
    /// Why it could not be tried.
    pub(super) fn try_release(&self, name: &str) -> Result<()> {
        if self.books.is_used(name) {
            return Ok(());
        }
        let place = place(&self.root, name)?;
        if let Release::InUse(pids) = self.mounts.release(name, place)? {
            log::debug!("volume {name:?} stays mounted: processes {pids:?} or others use it");
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Result<Answer> {
        self.existing(name)?;
        Ok(Answer::mountpoint(&self.mounts.shown(name)))
    }

    fn get(&self, name: &str) -> Result<Answer> {
        let place = self.existing(name)?;
        // Engines forget a volume's labels on any error: what is not known is said to be unknown.
        let record = Record::of(&self.root, name, place).unwrap_or_else(|e| {
            log::warn!("volume {name:?}: {e}");
            None
        });
        let (created, status) = status::of(&self.root, name, &self.books.counts(name));
        Ok(Answer::Volume(Box::new(Volume {
            name: name.to_owned(),
            mountpoint: self.mounts.shown(name).display().to_string(),
            created_at: created.or_else(|| record.map(|record| time(record.created))),
            status: Some(status),
        })))
    }

    fn list(&self) -> Result<Answer> {
        let volume = |name: String| {
            let mountpoint = self.mounts.shown(&name).display().to_string();
            Volume { name, mountpoint, created_at: None, status: None }
        };
        Ok(Answer::Volumes(names(&self.root)?.into_iter().map(volume).collect()))
    }
}

/// What a volume is limited to if nothing is said of that: to nothing.
fn size_of_new(asked: LimitChange) -> LimitChange {
    if asked == LimitChange::Keep { LimitChange::Lift } else { asked }
}

fn in_use(name: &str, by: &str) -> VolumeError {
    VolumeError::new(Exit::Busy, format!("volume {name:?} is in use by {by}; stop them first"))
}

/// Refuses what is no plain file: to read from something else could take forever.
fn check_secret_file(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(VolumeError::new(Exit::Secret, format!("{} is not a file", path.display()))),
        Err(e) => Err(VolumeError::new(
            Exit::Secret,
            format!("{}: {e}; `head -c 64 /dev/urandom` makes a good key file", path.display()),
        )),
    }
}
