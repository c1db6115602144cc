//! Finding out about volumes, whether a server has them open or not.

use super::ask::{PATIENCE, Question};
use super::secret::Secrets;
use super::trash::no_volume;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Client, Status};
use crate::store::StoreId;
use crate::volume::{
    Result, SnapshotInfo, Target, VolumeError, VolumeInfo, inspect_offline, read_info, snapshots_of,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A volume and, if one runs, its server.
#[derive(Clone, Debug)]
pub struct Look {
    /// The volume.
    pub info: VolumeInfo,
    /// How its server is.
    pub status: Option<Arc<Status>>,
}

impl Look {
    /// What a server says of one of its volumes.
    fn by_server(name: &str, status: Arc<Status>) -> Result<Self> {
        let info = status.volumes.iter().find(|info| info.name == name).cloned();
        let info = info.ok_or_else(|| VolumeError::no_volume(name))?;
        Ok(Self { info, status: Some(status) })
    }
}

/// The store of the volume `name`, or of the volume of the snapshot `name`.
///
/// # Errors
/// `NoVolume`, or `Damaged` if its store is gone.
pub fn store_of(root: &Root, name: &str) -> Result<StoreId> {
    let target = Target::parse(name)?;
    let name = target.volume.as_str();
    let mut found = root.resolve(name);
    // Of one that is removed just now, the name goes before the store, and another one can have it at once.
    while let Ok(Some(id)) = found
        && !root.store(id).exists()
    {
        let again = root.resolve(name);
        if matches!(again, Ok(Some(same)) if same == id) {
            break;
        }
        found = again;
    }
    match found {
        Ok(Some(id)) if root.store(id).exists() => Ok(id),
        Ok(Some(id)) => Err(out_of_sight(root, id, name)),
        Ok(None) if root.memory(name).exists() => Err(VolumeError::new(
            Exit::Usage,
            format!(
                "volume {name:?} lives in memory only: it has no store, and so no snapshots, clones, keys or checks, and is mounted \
                 for containers alone; while it is, `mount --bind {} DIR` shows it elsewhere too",
                root.mountpoints().join(name).display()
            ),
        )),
        Ok(None) => Err(no_volume(root, name)),
        Err(e) => Err(VolumeError::io(&root.link(name), &e)),
    }
}

/// The error of a volume whose store is not there: lost, or on a disk that is not mounted.
pub(super) fn out_of_sight(root: &Root, id: StoreId, name: &str) -> VolumeError {
    let store = root.store(id);
    let what = format!(
        "volume {name:?}: its store {} is not there; mount the disk that it is on, or restore it from a backup",
        store.display()
    );
    VolumeError::new(Exit::Damaged, what)
}

/// What an error means that was met in store `id`: when the volume was removed meanwhile, store and all, that there is none.
pub(super) fn unless_gone(root: &Root, id: StoreId, name: &str, e: VolumeError) -> VolumeError {
    let volume = name.split('@').next().unwrap_or(name);
    let is_there = root.store(id).exists() || matches!(root.resolve(volume), Ok(Some(found)) if found == id);
    if is_there { e } else { VolumeError::no_volume(volume) }
}

/// The server of a store, if one runs.
///
/// # Errors
/// As connect(2), or when it does not answer.
pub fn server_of(root: &Root, id: StoreId) -> Result<Option<Client>> {
    Client::connect(root, id)
}

/// The same, if it answers within `patience`, also whatever it is asked.
///
/// # Errors
/// As [`server_of`].
pub fn server_within(root: &Root, id: StoreId, patience: Duration) -> Result<Option<Client>> {
    Client::connect_within(root, id, patience)
}

/// All there is to know about a volume. A server that is starting or ending is waited for. `secret` is asked for what opens
/// an encrypted one that no server has open; without it, that is an error with the exit code `Secret`.
///
/// # Errors
/// `NoVolume`, damage, or the host's.
pub fn look(root: &Root, name: &str, secret: Option<&Secrets>) -> Result<Look> {
    look_for(root, name, secret, PATIENCE)
}

/// As [`look`], for `patience` at most.
///
/// # Errors
/// As [`look`].
pub fn look_for(root: &Root, name: &str, secret: Option<&Secrets>, patience: Duration) -> Result<Look> {
    let by_server = |client: &mut Client| Look::by_server(name, Arc::new(client.status()?));
    let here = |id, keys: &Keys| read_info(root, id, name, keys).map(|info| Look { info, status: None });
    Question::reading(root, name, secret).within(patience).ask(by_server, here)
}

/// The snapshots of the volume that is asked about, the oldest first, with what each of them alone holds.
///
/// # Errors
/// `NoVolume`, damage, or the host's.
pub fn snapshots(question: &Question<'_>) -> Result<Vec<SnapshotInfo>> {
    let (root, volume) = question.volume();
    question.ask(
        |client| client.snapshots(volume),
        |id, keys| inspect_offline(root, id, volume, keys, |inspector| snapshots_of(inspector, volume)),
    )
}

/// How long the next server is waited for after one has not answered.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a store.
#[derive(Debug)]
enum Known {
    /// What its server said.
    Served(Arc<Status>),
    /// It did not answer.
    Silent(VolumeError),
}

/// Looks at many volumes. The server of a store is asked once for all of its volumes; when one has not answered, others are not waited
/// for that long.
#[derive(Debug)]
pub struct Looker<'a> {
    root: &'a Root,
    patience: Duration,
    known: Mutex<HashMap<StoreId, Known>>,
    /// Whether one of them has not answered.
    is_any_silent: AtomicBool,
}

impl<'a> Looker<'a> {
    /// One that has seen nothing yet.
    pub fn new(root: &'a Root) -> Self {
        Self { root, patience: PATIENCE, known: Mutex::default(), is_any_silent: AtomicBool::new(false) }
    }

    /// The same, with another patience with servers.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// As [`look`].
    ///
    /// # Errors
    /// As [`look`].
    pub fn look(&self, name: &str, secret: Option<&Secrets>) -> Result<Look> {
        self.look_in(store_of(self.root, name)?, name, secret)
    }

    /// The same, for whoever has just seen in which store the volume is.
    pub(super) fn look_in(&self, id: StoreId, name: &str, secret: Option<&Secrets>) -> Result<Look> {
        let status = match self.known.lock().get(&id) {
            Some(Known::Silent(e)) => return Err(e.clone()),
            Some(Known::Served(status)) => Some(Arc::clone(status)),
            None => None,
        };
        if let Some(status) = status
            && let Ok(look) = Look::by_server(name, status)
        {
            // As when the server is asked.
            if let Some(secret) = secret.filter(|secret| secret.is_given()) {
                secret.must_fit(self.root, id, name)?;
            }
            return Ok(look);
        }
        let found = match self.ask_server(id, name, secret) {
            Err(e) if e.silent => Err(e),
            Ok(Some(look)) => Ok(look),
            // None runs, or it is starting or ending, or the name is not what it was.
            Ok(None) | Err(_) => look_for(self.root, name, secret, self.patience_now()),
        };
        let known = match &found {
            Ok(Look { status: Some(status), .. }) => Known::Served(Arc::clone(status)),
            Err(e) if e.silent => {
                self.is_any_silent.store(true, Ordering::Relaxed);
                Known::Silent(e.clone())
            }
            _ => return found,
        };
        self.known.lock().insert(id, known);
        found
    }

    /// What the server of a store says, if one runs: with nothing asked of anybody else, which would cost more than the answer.
    fn ask_server(&self, id: StoreId, name: &str, secret: Option<&Secrets>) -> Result<Option<Look>> {
        let Some(client) = server_within(self.root, id, self.patience_now())? else { return Ok(None) };
        let look = Look::by_server(name, Arc::new(client.status_only()?))?;
        if let Some(secret) = secret.filter(|secret| secret.is_given()) {
            secret.must_fit(self.root, id, name)?;
        }
        Ok(Some(look))
    }

    fn patience_now(&self) -> Duration {
        if self.is_any_silent.load(Ordering::Relaxed) {
            self.patience.min(SHORT_PATIENCE)
        } else {
            self.patience
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{BufRead, BufReader, ErrorKind, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    const SOME: Duration = Duration::from_millis(50);

    /// A root with a store of the volumes `names`, and its control socket, to which nobody listens yet.
    fn served(root: &Root, names: &[&str]) -> UnixListener {
        let id = StoreId::random().unwrap();
        std::fs::create_dir_all(root.store(id)).unwrap();
        names.iter().for_each(|name| symlink(Root::link_target(id), root.link(name)).unwrap());
        UnixListener::bind(root.store(id).join("control")).unwrap()
    }

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let root = Root::new(dir.path());
        root.make().unwrap();
        (dir, root)
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_once_for_all_of_its_volumes() {
        let (_dir, root) = root();
        let listener = served(&root, &["a", "b"]);
        let looker = Looker::new(&root).within(SOME);
        for name in ["a", "b", "a"] {
            assert!(looker.look(name, None).unwrap_err().silent);
        }
        listener.set_nonblocking(true).unwrap();
        listener.accept().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    /// However many hang: the first costs all of the patience.
    #[test]
    fn after_one_that_has_not_answered_others_are_not_waited_for_as_long() {
        let (_dir, root) = root();
        let _listeners = [served(&root, &["a"]), served(&root, &["b"])];
        let looker = Looker::new(&root).within(2 * SHORT_PATIENCE);
        assert_eq!(looker.patience_now(), 2 * SHORT_PATIENCE);
        let looker = Looker::new(&root).within(SOME);
        assert!(looker.look("a", None).is_err());
        let looker = looker.within(2 * SHORT_PATIENCE);
        assert_eq!(looker.patience_now(), SHORT_PATIENCE);
        assert_eq!(looker.within(SOME).patience_now(), SOME);
    }

    #[test]
    fn a_server_is_asked_once_for_all_of_its_volumes() {
        let (_dir, root) = root();
        let listener = served(&root, &["a", "b", "late"]);
        let info = |name| json!({ "name": name, "store": "", "created": 1, "used": 7, "inodes_used": 1, "labels": {}, "mountpoints": [] });
        let status = json!({
            "answer": "status", "pid": 1, "version": "", "uptime_s": 0, "damaged_blocks": 0, "cache_bytes": 0,
            "volumes": [info("a"), info("b")], "mounts": [],
        });
        // It ends with the process.
        std::thread::spawn(move || {
            for (stream, status) in listener.incoming().zip([status]) {
                let mut stream = stream.unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                writeln!(stream, "{status}").unwrap();
            }
        });
        let looker = Looker::new(&root).within(SOME * 100);
        for name in ["a", "b", "a"] {
            assert_eq!(looker.look(name, None).unwrap().info.used, 7);
        }
        // One that it had not named then is asked for, and nobody answers any more.
        assert!(looker.within(SOME).look("late", None).is_err());
    }
}
