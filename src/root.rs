//! The root directory: where everything is, and which names there are.
//!
//! ```text
//! <root>/volumes/<name>      symbolic link to ../stores/<id>: creating it is what creates the name
//! <root>/stores/<id>/        a store
//! <root>/trash/<key>         a symbolic link that was a name, until its volume was removed: it is moved there and back
//! <root>/trash/<key>.json    what there is to know of that volume
//! <root>/replaced/<..>.json  a snapshot that goes by itself, because it is what a rollback replaced
//! <root>/log/<id>.log        what the server of that store has to say
//! <root>/health/<id>.json    what is wrong with the volumes of that store
//! <root>/caches[.looks]      what servers say of their caches to each other
//! <root>/lock                held while names are made and removed
//! <root>/memory/<name>.json  a volume that lives in memory only
//! <root>/mnt/<name>          where a volume is mounted for containers
//! <root>/plugin/             what the volume plugin remembers
//! ```

use crate::backing::{OpenMode, open_dir, open_file};
use crate::store::StoreId;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::{User, geteuid};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the root of the host's administrator is.
const HOSTS_ROOT: &str = "/var/lib/larder";
/// Longest name of a volume, in bytes.
const NAME_MAX: usize = 128;

/// Where the root is unless one says otherwise: `/var/lib/larder`, or for an ordinary user `larder` in `$XDG_DATA_HOME` (by default
/// `~/.local/share`).
pub fn default_root() -> PathBuf {
    let of_user = if is_ordinary_user() { user_data_dir() } else { None };
    of_user.map_or_else(|| HOSTS_ROOT.into(), |data| data.join("larder"))
}

/// An absolute path that the environment names.
fn named_dir(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Where this user keeps data: `$XDG_DATA_HOME`, by default `~/.local/share`.
pub fn user_data_dir() -> Option<PathBuf> {
    let home = || named_dir("HOME").or_else(|| Some(User::from_uid(geteuid()).ok()??.dir));
    named_dir("XDG_DATA_HOME").or_else(|| Some(home()?.join(".local/share")))
}

/// Where the sockets of this user are: `$XDG_RUNTIME_DIR`.
pub fn user_runtime_dir() -> Option<PathBuf> {
    named_dir("XDG_RUNTIME_DIR")
}

/// Whether the user of this process is not the one that the files of this host belong to: also where it is root in a user namespace
/// that it has made itself, as `podman unshare` does.
pub fn is_ordinary_user() -> bool {
    let has_files = || fs::metadata("/").map_or(true, |root| root.uid() == 0);
    !geteuid().is_root() || (maps_users() && !has_files())
}

/// Whether users have other numbers for this process than for the host.
pub fn maps_users() -> bool {
    is_other_map(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// Whether this map of users, as user_namespaces(7) shows it, is another one than that of the host.
fn is_other_map(map: &str) -> bool {
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// A root directory.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    mountpoints: PathBuf,
}

impl Root {
    /// The root at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { mountpoints: path.join("mnt"), path }
    }

    /// The same root, whose volumes are mounted for containers below `dir`.
    pub fn with_mountpoints(self, dir: impl Into<PathBuf>) -> Self {
        Self { mountpoints: dir.into(), ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the same directory as another root, whatever path leads there: links and bind mounts give it several. What cannot be
    /// looked at is told by its path.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |root: &Self| fs::metadata(&root.path).map(|meta| (meta.dev(), meta.ino()));
        match (identity(self), identity(other)) {
            (Ok(one), Ok(two)) => one == two,
            _ => self.path == other.path,
        }
    }

    /// The directory of a store.
    pub fn store(&self, id: StoreId) -> PathBuf {
        self.stores().join(id.to_string())
    }

    /// The directory of all stores.
    pub fn stores(&self) -> PathBuf {
        self.path.join("stores")
    }

    /// The directory of all names.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// The link that makes a name.
    pub fn link(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// What servers say of their caches to each other.
    pub fn caches(&self) -> PathBuf {
        self.path.join("caches")
    }

    /// The directory of what was removed and is not gone yet.
    pub fn trash(&self) -> PathBuf {
        self.path.join("trash")
    }

    /// The link of a volume in the trash.
    pub fn trash_link(&self, key: &str) -> PathBuf {
        self.trash().join(key)
    }

    /// What there is to know of a volume in the trash.
    pub fn trash_entry(&self, key: &str) -> PathBuf {
        self.trash().join(format!("{key}.json"))
    }

    /// The directory of notes of what rollbacks replaced.
    pub fn replaced(&self) -> PathBuf {
        self.path.join("replaced")
    }

    /// One of those notes.
    pub fn replaced_note(&self, key: &str) -> PathBuf {
        self.replaced().join(format!("{key}.json"))
    }

    /// The log of a store's server.
    pub fn log(&self, id: StoreId) -> PathBuf {
        self.path.join("log").join(format!("{id}.log"))
    }

    /// Where the log goes when it has become too long: first to the first of these, and then to the next one.
    pub fn older_logs(&self, id: StoreId) -> [PathBuf; 2] {
        [1, 2].map(|number| self.path.join("log").join(format!("{id}.log.{number}")))
    }

    /// Where is kept what is wrong with volumes.
    pub fn health(&self) -> PathBuf {
        self.path.join("health")
    }

    /// All files beside a store that are about nothing else, and go with it.
    pub fn beside(&self, id: StoreId) -> Vec<PathBuf> {
        let notes =
            [format!("{id}.json"), format!("{id}.mounts"), format!(".{id}.lock"), format!(".{id}.scrub")];
        let notes = notes.into_iter().map(|name| self.health().join(name));
        [self.log(id)].into_iter().chain(self.older_logs(id)).chain(notes).collect()
    }

    /// What makes a volume that lives in memory only.
    pub fn memory(&self, name: &str) -> PathBuf {
        self.path.join("memory").join(format!("{name}.json"))
    }

    /// What the volume plugin remembers.
    pub fn plugin(&self) -> PathBuf {
        self.path.join("plugin")
    }

    /// Where volumes are mounted for containers.
    pub fn mountpoints(&self) -> PathBuf {
        self.mountpoints.clone()
    }

    /// Whether it is there at all. Where it is not, nobody has made a volume yet, or somebody means another one.
    ///
    /// # Errors
    /// What is there instead.
    pub fn demand(&self) -> Result<(), String> {
        let path = self.path.display();
        let hint = "`larder create` makes it with the first volume; --root, LARDER_ROOT and larder.toml name another";
        match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(format!("the root directory {path} does not exist; {hint}"))
            }
            Ok(meta) if !meta.is_dir() => Err(format!(
                "the root {path} is not a directory; --root, LARDER_ROOT and larder.toml name another"
            )),
            // Whoever may not look is told so by what is looked at.
            _ if matches!(fs::metadata(self.volumes()), Err(e) if e.kind() == io::ErrorKind::NotFound) => {
                Err(format!("{path} is not a root of larder: it has no directory \"volumes\"; {hint}"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the directories that are missing, and keeps others out of those that let them in.
    ///
    /// # Errors
    /// As mkdir(2), with the path.
    pub fn make(&self) -> Result<(), (PathBuf, io::Error)> {
        for path in [self.path.clone(), self.volumes(), self.stores(), self.trash(), self.path.join("log")] {
            Self::make_private(&path).map_err(|e| (path, e))?;
        }
        let mountpoints = self.path.join("mnt");
        match open_dir(&mountpoints) {
            // A link leads to what is somebody else's affair.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {}
            dir => {
                let closed = dir.and_then(|dir| Self::keep_out_others(&mountpoints, &dir.into(), |_| true));
                closed.map_err(|e| (mountpoints, e))?;
            }
        }
        // What else the directory is for, larder does not know; but it used to make roots with this mode.
        let is_made_passable = |mode| mode == 0o711;
        let closed =
            File::open(&self.path).and_then(|dir| Self::keep_out_others(&self.path, &dir, is_made_passable));
        closed.map_err(|e| (self.path.clone(), e))
    }

    /// Makes a directory that only its owner can enter, whatever the umask, unless it is there.
    fn make_private(path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        if path.is_symlink() {
            let what = "it is a link to a directory that is not there; mount the disk that it is on";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        nix::sys::stat::fchmod(open_dir(path)?, Mode::S_IRWXU)?;
        Ok(())
    }

    /// Takes from others what they may do with a directory of ours, if its mode is as said.
    ///
    /// Whoever gets to a mount of a container can run what the container's root has put there, as whoever the
    /// container's root wants it to be run: as on any file system with set-user-ID files.
    fn keep_out_others(path: &Path, dir: &File, is_so: impl Fn(u32) -> bool) -> io::Result<()> {
        let meta = dir.metadata()?;
        let mode = meta.mode() & 0o7777;
        if meta.is_dir() && meta.uid() == geteuid().as_raw() && mode & 0o007 != 0 && is_so(mode) {
            let kept = if mode == 0o711 { 0o700 } else { mode & !0o007 };
            log::info!(
                "{}: other users could enter it (mode {mode:o}); its mode is {kept:o} now",
                path.display()
            );
            nix::sys::stat::fchmod(dir, Mode::from_bits_truncate(kept))?;
        }
        Ok(())
    }

    /// Makes the directory that mountpoints for containers are in, if it is missing.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn make_mountpoints(&self) -> io::Result<()> {
        Self::make_private(&self.mountpoints)
    }

    fn open_lock(&self) -> io::Result<File> {
        open_file(&self.path.join("lock"), OpenMode::Create)
    }

    /// Takes the lock under which names are made and removed.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn lock(&self) -> io::Result<Flock<File>> {
        let file = self.open_lock()?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// The same, if nobody has it.
    ///
    /// # Errors
    /// As [`Root::lock`].
    pub fn try_lock(&self) -> io::Result<Option<Flock<File>>> {
        match Flock::lock(self.open_lock()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }

    /// Makes durable which names there are.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync_names(&self) -> io::Result<()> {
        File::open(self.volumes())?.sync_all()
    }

    /// The store that a name stands for; `None` if there is no such name.
    ///
    /// # Errors
    /// As readlink(2); a link that does not point to a store is `InvalidData`.
    pub fn resolve(&self, name: &str) -> io::Result<Option<StoreId>> {
        Self::resolve_link(&self.link(name))
    }

    /// The store of a volume in the trash; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Root::resolve`].
    pub fn resolve_trashed(&self, key: &str) -> io::Result<Option<StoreId>> {
        Self::resolve_link(&self.trash_link(key))
    }

    fn resolve_link(link: &Path) -> io::Result<Option<StoreId>> {
        let target = match fs::read_link(link) {
            Ok(target) => target,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let id = target.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok());
        match id {
            Some(id) if target == Self::link_target(id) => Ok(Some(id)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the link does not point to a store")),
        }
    }

    /// Where the link of a volume in store `id` points.
    pub fn link_target(id: StoreId) -> PathBuf {
        Path::new("../stores").join(id.to_string())
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// As readdir(3). A root that does not exist has no names.
    pub fn names(&self) -> io::Result<Vec<String>> {
        names_in(&self.volumes(), |name| check_name(name).is_ok())
    }

    /// The keys of all volumes in the trash, sorted.
    ///
    /// # Errors
    /// As [`Root::names`].
    pub fn trashed(&self) -> io::Result<Vec<String>> {
        names_in(&self.trash(), |key| name_of_trashed(key).is_some())
    }

    /// Whether no store at all is to be seen: the disk that they are on is not mounted, perhaps.
    pub fn hides_stores(&self) -> bool {
        let is_store = |name: &std::ffi::OsStr| name.to_str().is_some_and(|id| id.parse::<StoreId>().is_ok());
        let entries = fs::read_dir(self.stores());
        !entries.is_ok_and(|entries| entries.flatten().any(|entry| is_store(&entry.file_name())))
    }

    /// All links that stand for volumes of a store, also those of volumes in the trash.
    ///
    /// # Errors
    /// As [`Root::names`].
    pub fn links_to(&self, id: StoreId) -> io::Result<Vec<PathBuf>> {
        let mut links: Vec<PathBuf> = self.names()?.iter().map(|name| self.link(name)).collect();
        links.extend(self.trashed()?.iter().map(|key| self.trash_link(key)));
        links.retain(|link| matches!(Self::resolve_link(link), Ok(Some(found)) if found == id));
        Ok(links)
    }
}

/// The names in a directory that are as they have to be, sorted.
fn names_in(dir: &Path, is_one: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && is_one(&name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The name that a volume had before it came into the trash under `key`, which no volume can have as its name: `NAME~STAMP`.
pub fn name_of_trashed(key: &str) -> Option<&str> {
    let (name, stamp) = key.split_once('~')?;
    let is_stamp = !stamp.is_empty() && stamp.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (is_stamp && key.len() <= 255 && check_name(name).is_ok()).then_some(name)
}

/// Checks the name of a volume. As the container engines have it: letters, digits, `_`, `.`, `-`, the first a letter or
/// a digit. (`@` is for snapshots.)
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    const RULE: &str = "names are made of letters, digits, '_', '.' and '-', begin with a letter or digit, and are at most 128 bytes long";
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && name.len() <= NAME_MAX {
        Ok(())
    } else {
        Err(format!("{name:?} is not a valid volume name: {RULE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_container_engines() {
        for good in ["db", "a", "0", "my-app_data.v2", &"x".repeat(128)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in
            ["", ".", "..", "../x", "a/b", "-a", "_a", "a b", "a@b", "a\0", "ä", "a\n", &"x".repeat(129)]
        {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_users_of_a_host_are_not_mapped() {
        assert!(!is_other_map("         0          0 4294967295\n"));
        for map in
            ["         0       1000          1\n         1     100000      65536\n", "0 100000 65536\n"]
        {
            assert!(is_other_map(map), "{map}");
        }
    }

    #[test]
    fn a_link_that_points_elsewhere_is_no_volume() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        root.make().unwrap();
        assert_eq!(root.resolve("a").unwrap(), None);
        std::os::unix::fs::symlink("/etc", root.link("a")).unwrap();
        assert!(root.resolve("a").is_err());
        std::os::unix::fs::symlink(Root::link_target(StoreId(7)), root.link("b")).unwrap();
        assert_eq!(root.resolve("b").unwrap(), Some(StoreId(7)));
        assert_eq!(root.names().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_root_is_the_same_by_whatever_path() {
        let tmp = tempfile::tempdir().unwrap();
        let root = |name: &str| Root::new(tmp.path().join(name));
        for name in ["one", "two"] {
            root(name).make().unwrap();
        }
        std::os::unix::fs::symlink("one", tmp.path().join("link")).unwrap();
        assert!(root("one").is_same(&root("link")) && root("one").is_same(&root("two/../one")));
        assert!(!root("one").is_same(&root("two")) && !root("one").is_same(&root("none")));
        assert!(root("none").is_same(&root("none")));
    }

    #[test]
    fn what_is_in_the_trash_is_known_by_its_key() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        root.make().unwrap();
        for key in ["db~20261127T155501Z", "db~20261127T155501Z-2", "db", "~x", "db~", "db~../x", "db~1.json"]
        {
            if !key.contains('/') {
                std::os::unix::fs::symlink(Root::link_target(StoreId(7)), root.trash_link(key)).unwrap();
            }
        }
        assert_eq!(root.trashed().unwrap(), ["db~20261127T155501Z", "db~20261127T155501Z-2"]);
        assert_eq!(name_of_trashed("a-b.c~1"), Some("a-b.c"));
        std::os::unix::fs::symlink(Root::link_target(StoreId(7)), root.link("c")).unwrap();
        std::os::unix::fs::symlink(Root::link_target(StoreId(8)), root.link("d")).unwrap();
        assert_eq!(root.links_to(StoreId(7)).unwrap().len(), 3);
        assert_eq!(root.links_to(StoreId(8)).unwrap(), [root.link("d")]);
    }

    #[test]
    fn only_what_larder_has_made_is_closed_to_others() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let tmp = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let set_mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let root = Root::new(tmp.path().join("root"));
        root.make().unwrap();
        assert_eq!(mode(root.path()), 0o700);
        root.make_mountpoints().unwrap();
        let mountpoints = root.mountpoints();
        for (before, after) in [(0o711, 0o700), (0o755, 0o750), (0o710, 0o710), (0o700, 0o700)] {
            set_mode(&mountpoints, before);
            root.make().unwrap();
            assert_eq!(mode(&mountpoints), after, "{before:o}");
        }
        // A directory that is used for more than this.
        for (before, after) in [(0o711, 0o700), (0o755, 0o755), (0o710, 0o710)] {
            set_mode(root.path(), before);
            root.make().unwrap();
            assert_eq!(mode(root.path()), after, "{before:o}");
        }
        let elsewhere = tmp.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        set_mode(&elsewhere, 0o755);
        fs::remove_dir(&mountpoints).unwrap();
        symlink(&elsewhere, &mountpoints).unwrap();
        root.make().unwrap();
        assert_eq!(mode(&elsewhere), 0o755);
    }
}
