//! What container engines say of their containers. Only commands ask them, never the plugin: an engine may be waiting for that one.

mod places;
mod restarting;
mod unseen;
mod words;

use crate::backing::{connect_within, open_linked};
use places::{Places, Storage};
pub use restarting::{DockerOfUnit, Restarting, docker_of_unit, restarting_of_docker, storage_of_podman};
use serde::Deserialize;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unseen::why_unseen;

/// A longer answer, or file, is not read.
const BYTES_MAX: u64 = 32 << 20;
/// What the driver is called.
const DRIVER: &str = "larder";

/// A container that an engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) engine: &'static str,
    pub(super) id: String,
    pub(super) name: String,
    /// The volumes of ours that it was made with; none where the engine does not say so.
    pub(super) volumes: Vec<Named>,
}

/// A volume, as an engine names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    /// Where it is mounted, as its driver has said; empty where the engine does not say so.
    pub(super) dir: PathBuf,
}

/// How engines are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// For what people call containers: one that does not answer at once is done without.
    Briefly,
    /// For what is listed as nobody's: all that may have containers on this host, and each has a short while.
    Widely,
    /// For what is removed otherwise: the same, and each may take its time.
    Patiently,
}

impl Asking {
    /// How long an engine may take for all of its answer.
    pub fn patience(self) -> Duration {
        match self {
            Self::Briefly => Duration::from_millis(700),
            Self::Widely => Duration::from_secs(3),
            Self::Patiently => Duration::from_secs(20),
        }
    }

    /// Whether the host's own engines are asked as well as the one that DOCKER_HOST names, and those of which only processes tell.
    fn is_of_all(self) -> bool {
        self != Self::Briefly
    }
}

/// All that is known by engines of this user that answer, and why others do not, if there are others, and what to do about it; and by
/// those of `owner`, another user, as far as root sees them.
pub(super) fn ask(asking: Asking, owner: Option<u32>) -> (Vec<Known>, Vec<String>) {
    let named = std::env::var_os("DOCKER_HOST").filter(|host| !host.is_empty());
    let (mut known, mut doubts) = ask_at(&Places::of_this_user(asking), named.as_deref(), asking);
    if let Some(owner) = owner {
        let (more, others) = ask_at(&Places::of_owner(owner), None, asking);
        known.extend(more);
        doubts.extend(others);
    }
    let mut said = BTreeSet::new();
    doubts.retain(|doubt| said.insert(doubt.clone()));
    doubts.iter().for_each(|doubt| log::debug!("{doubt}"));
    (known, doubts)
}

/// All that is known by the engines that are there, and why others do not say it.
fn ask_at(places: &Places, docker_host: Option<&OsStr>, asking: Asking) -> (Vec<Known>, Vec<String>) {
    let mut doubts = places.doubts.clone();
    let mut known = ask_docker(places, docker_host, asking, &mut doubts);
    known.extend(ask_podman(places, &mut doubts));
    (known, doubts)
}

/// The containers of Docker Engine. What it has on the disk says whether one that is not there has any.
fn ask_docker(
    places: &Places,
    docker_host: Option<&OsStr>,
    asking: Asking,
    doubts: &mut Vec<String>,
) -> Vec<Known> {
    let cannot = "Docker Engine cannot be asked which containers there are";
    let named = match docker_host.map(socket_of).transpose() {
        Ok(named) => named,
        Err(e) => {
            doubts.push(format!(
                "{cannot}: {e} (unset DOCKER_HOST: containers on other hosts do not use volumes of this one)"
            ));
            None
        }
    };
    let usual = if asking.is_of_all() || docker_host.is_none() { &places.sockets[..] } else { &[] };
    let sockets: Vec<&PathBuf> =
        named.iter().chain(usual.iter().filter(|path| Some(*path) != named.as_ref())).collect();
    let answers: Vec<io::Result<Vec<Known>>> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            sockets.iter().map(|path| scope.spawn(|| docker(path, asking.patience()))).collect();
        let lost = |_| Err(io::Error::other("the thread that asked it has ended"));
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(lost)).collect()
    });
    let is_absent =
        |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    let (mut known, mut answering, mut is_silent) = (Vec::new(), Vec::new(), false);
    for (path, answer) in sockets.into_iter().zip(answers) {
        let is_named = Some(path) == named.as_ref();
        match answer {
            Ok(containers) => {
                answering.push(path);
                known.extend(containers);
            }
            // Whoever has named it knows of it.
            Err(e) if is_absent(&e) && !is_named => {}
            Err(e) => {
                is_silent |= places.sockets.contains(path);
                let advice = if is_named {
                    "start that engine, or unset DOCKER_HOST"
                } else {
                    "start that engine, or see why it does not answer"
                };
                doubts.push(format!("{cannot}: {}: {} ({advice})", path.display(), said(&e)));
            }
        }
    }
    let roots = OnceCell::new();
    let is_told_of = |path: &Path| {
        let all = || answering.iter().filter_map(|socket| data_root(socket, asking.patience())).collect();
        let roots: &Vec<PathBuf> = roots.get_or_init(all);
        roots.iter().any(|root| is_data_root(root, path))
    };
    // Where there is one engine, one doubt of it is enough.
    let is_doubted = is_silent && places.sockets.len() == 1;
    for storage in &places.docker {
        let path = storage.path.display();
        let doubt = match docker_containers_in(&storage.path) {
            // Also those of one that has another one's socket. (Not all need be known: it may have failed to load some.) What an engine
            // says of where it is does not count here: one in a container may be at the same place of another file system.
            Ok(Some(ids)) => (!ids.is_empty()
                && !is_doubted
                && !ids.iter().any(|id| known.iter().any(|of| of.id == *id)))
            .then(|| {
                format!(
                    "Docker Engine keeps containers in {path}, but is not running, or does not list them (start it; if nobody needs what is in \
                     that directory any more, remove it)"
                )
            }),
            _ if is_told_of(&storage.path) => None,
            Ok(None) => doubt_of(places, storage, "Docker Engine"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => doubt_of(places, storage, "Docker Engine"),
            Err(e) => Some(format!(
                "the containers of Docker Engine are not known: {path}: {e} (start it, or make that readable)"
            )),
        };
        doubts.extend(doubt);
    }
    known
}

/// Why a directory in which nothing of an engine's is seen may have containers all the same; none where engines usually have theirs and
/// nothing says so: it was never used.
fn doubt_of(places: &Places, storage: &Storage, engine: &str) -> Option<String> {
    let path = storage.path.display();
    let unseen = why_unseen(&places.host, &storage.path).map(|(why, advice)| {
        format!(
            "{engine} may keep containers in {path}, but nothing of it can be seen there: {why} ({advice})"
        )
    });
    unseen.or_else(|| {
        storage.is_named.then(|| {
            format!(
                "nothing of {engine}'s is in {path}, where it has its containers; a disk may not be mounted (mount it; if it is not used any \
                 more, take the directory out of the configuration that names it)"
            )
        })
    })
}

/// Whether what an engine says of where it has its containers is this directory. With users of their own for containers, it is one in it.
fn is_data_root(said: &Path, dir: &Path) -> bool {
    let is_same = |said: &Path| {
        said == dir
            || matches!((said.canonicalize(), dir.canonicalize()), (Ok(one), Ok(other)) if one == other)
    };
    is_same(said) || said.file_name().is_some_and(is_of_users) && said.parent().is_some_and(is_same)
}

/// Whether a directory is called like the users that containers have of their own: `100000.100000`.
fn is_of_users(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.split('.').all(|part| part.parse::<u32>().is_ok()))
}

/// What a timeout is called: the host calls it a resource that is not available.
fn said(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => e.to_string(),
    }
}

/// The IDs of the containers that Docker Engine has in a directory; none if it has never begun to keep any there.
fn docker_containers_in(data: &Path) -> io::Result<Option<Vec<String>>> {
    let mut found: Option<Vec<String>> = None;
    // With users of their own for containers, these are one level below, in a directory that is called like the user.
    let mut dirs = vec![data.to_owned()];
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        dirs.extend(is_of_users(&entry.file_name()).then(|| entry.path()));
    }
    for dir in dirs {
        let entries = match fs::read_dir(dir.join("containers")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let ids = found.get_or_insert_default();
        for entry in entries {
            ids.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The containers of Podman, by what it has written down of them.
fn ask_podman(places: &Places, doubts: &mut Vec<String>) -> Vec<Known> {
    let mut known = Vec::new();
    let stores = places.podman.iter().map(|storage| (&storage.path, Some(storage)));
    for (path, kept) in stores.chain(places.podman_run.iter().map(|path| (path, None))) {
        let doubt = match podman_in(path) {
            Ok(Some(containers)) => {
                let doubt = places.user.as_ref().filter(|_| !containers.is_empty()).map(|user| {
                    format!(
                        "the user {user} has containers of Podman in {}, and nobody else can ask it for their volumes (give this command as \
                         that user)",
                        path.display()
                    )
                });
                known.extend(containers);
                doubt
            }
            Ok(None) => kept.and_then(|storage| doubt_of(places, storage, "Podman")),
            Err((_, e)) if e.kind() == io::ErrorKind::NotFound => {
                kept.and_then(|storage| doubt_of(places, storage, "Podman"))
            }
            Err((at, e)) => Some(format!(
                "the containers of Podman are not known: {}: {e} (`podman ps --all` may say more)",
                at.display()
            )),
        };
        doubts.extend(doubt);
    }
    known
}

/// The containers that a storage of Podman's has, whichever of its drivers has made it: the directory is called like that one. None if it
/// has never begun to keep any there; with an error, where it is.
fn podman_in(storage: &Path) -> Result<Option<Vec<Known>>, (PathBuf, io::Error)> {
    let at = |e| (storage.to_owned(), e);
    let mut found: Option<Vec<Known>> = None;
    for entry in fs::read_dir(storage).map_err(at)? {
        let entry = entry.map_err(at)?;
        if !entry.file_name().to_string_lossy().ends_with("-containers") {
            continue;
        }
        let found = found.get_or_insert_default();
        // The second has those that go when they end, and those that a host does not keep over its boots.
        for file in ["containers.json", "volatile-containers.json"] {
            let path = entry.path().join(file);
            found.extend(podman(&path).map_err(|e| (path, e))?);
        }
    }
    Ok(found)
}

/// The socket that DOCKER_HOST names.
///
/// # Errors
/// When that is not a socket of this host.
fn socket_of(named: &OsStr) -> io::Result<PathBuf> {
    match named.to_str().and_then(|host| host.strip_prefix("unix://")) {
        Some(path) => Ok(PathBuf::from(path)),
        None => {
            let what = format!("DOCKER_HOST={} is not a socket of this host (unix://PATH)", named.display());
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    mounts: Vec<DockerMount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerMount {
    #[serde(default)]
    name: String,
    #[serde(default)]
    driver: String,
    #[serde(default)]
    source: PathBuf,
}

#[derive(Deserialize)]
struct DockerInfo {
    #[serde(rename = "DockerRootDir")]
    data_root: PathBuf,
}

/// Where an engine says that it has its containers. (Podman, which may answer where Docker Engine is looked for, has its own there.)
fn data_root(socket: &Path, patience: Duration) -> Option<PathBuf> {
    let answer = get(socket, "/info", patience).ok()?;
    Some(serde_json::from_slice::<DockerInfo>(&answer).ok()?.data_root)
}

/// What an engine answers.
fn get(socket: &Path, what: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + patience;
    let mut stream = connect_within(socket, patience)?;
    // In HTTP/1.0, the answer ends with the connection, and has no parts.
    stream.write_all(format!("GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    let mut answer = read_until(&mut stream, until)?;
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| invalid("the answer is not HTTP"))?;
    if answer.split(|b| *b == b' ').nth(1) != Some(b"200") {
        return Err(invalid("it refused to answer"));
    }
    Ok(answer.split_off(head + 4))
}

/// Asks Docker Engine for all containers, those that do not run too.
fn docker(socket: &Path, patience: Duration) -> io::Result<Vec<Known>> {
    let answer = get(socket, "/containers/json?all=1", patience)?;
    let containers: Vec<DockerContainer> = serde_json::from_slice(&answer)?;
    let known = containers.into_iter().map(|of| {
        // The first name is its own; others are those of links from others, `/other/alias`.
        let names = of.names.iter().map(|name| name.trim_start_matches('/'));
        let name = names.clone().find(|name| !name.contains('/')).or_else(|| names.clone().next());
        let volumes = of.mounts.into_iter().filter(|mount| driver_is_ours(&mount.driver));
        Known {
            engine: "docker",
            name: name.unwrap_or_default().to_owned(),
            volumes: volumes.map(|mount| Named { name: mount.name, dir: mount.source }).collect(),
            id: of.id,
        }
    });
    Ok(known.collect())
}

/// A managed plugin is called `larder:latest`.
fn driver_is_ours(driver: &str) -> bool {
    driver.split(':').next() == Some(DRIVER)
}

/// Reads to the end, which has to come by then.
fn read_until(stream: &mut UnixStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(n) if answer.len() as u64 + n as u64 > BYTES_MAX => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
            }
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// Reads which containers Podman has. To run it would take a tenth of a second, and wait for its locks.
fn podman(path: &Path) -> io::Result<Vec<Known>> {
    let file = match open_linked(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    let containers: Vec<PodmanContainer> = serde_json::from_slice(&text)?;
    let known = containers.into_iter().map(|of| Known {
        engine: "podman",
        name: of.names.into_iter().next().unwrap_or_default(),
        volumes: Vec::new(),
        id: of.id,
    });
    Ok(known.collect())
}

/// By ID, what is known.
pub(super) fn by_id(known: Vec<Known>) -> BTreeMap<String, Known> {
    known.into_iter().map(|of| (of.id.clone(), of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::listen_private;

    /// As long as one that does not answer at once is waited for.
    const BRIEF: Duration = Duration::from_millis(700);

    /// Where the engines of a user with these directories usually are.
    fn at(home: &Path) -> Places {
        let usual = |path: &str| vec![Storage { path: home.join(path), is_named: false }];
        Places {
            sockets: vec![home.join("run/docker.sock")],
            docker: usual("data/docker"),
            podman: usual("data/containers/storage"),
            ..Places::default()
        }
    }

    const ANSWER: &str = r#"[{"Id": "aa11", "Names": ["/web/db", "/db"], "State": "running",
        "Mounts": [{"Type": "volume", "Name": "data", "Source": "/mnt/data", "Driver": "larder"}, {"Type": "volume", "Name": "x", "Driver": "local"},
                   {"Type": "volume", "Name": "more", "Driver": "larder:latest"}, {"Type": "bind", "Source": "/"}]},
       {"Id": "bb22"}]"#;

    /// An engine that does with whoever connects as is said, and does not say where it has its containers.
    fn engine(act: impl Fn(UnixStream) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
        engine_with("", act)
    }

    /// An engine that answers `info` to whoever asks about it.
    fn engine_with(
        info: impl Into<String>,
        act: impl Fn(UnixStream) + Send + 'static,
    ) -> (tempfile::TempDir, PathBuf) {
        let info = info.into();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = listen_private(&path).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 512];
                let n = stream.read(&mut request).unwrap_or(0);
                if request[..n].starts_with(b"GET /info HTTP/1.0\r\n") {
                    let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{info}");
                    continue;
                }
                assert!(request[..n].starts_with(b"GET /containers/json?all=1 HTTP/1.0\r\n"));
                act(stream);
            }
        });
        (dir, path)
    }

    #[test]
    fn containers_and_their_volumes_are_known_by_what_the_engine_answers() {
        let (_dir, path) = engine(|mut stream| {
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{ANSWER}").unwrap();
        });
        let known = docker(&path, BRIEF).unwrap();
        let named = |(name, dir): &(&str, &str)| Named { name: (*name).to_owned(), dir: dir.into() };
        let of = |id: &str, name: &str, volumes: &[(&str, &str)]| Known {
            engine: "docker",
            id: id.into(),
            name: name.into(),
            volumes: volumes.iter().map(named).collect(),
        };
        assert_eq!(known, [of("aa11", "db", &[("data", "/mnt/data"), ("more", "")]), of("bb22", "", &[])]);
    }

    #[test]
    fn an_engine_that_hangs_or_answers_nonsense_is_done_without() {
        let (_dir, silent) = engine(|stream| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(60));
                drop(stream);
            });
        });
        assert!(docker(&silent, BRIEF).is_err());
        // A word now and then does not make it last for ever.
        let (_dir, slow) = engine(|mut stream| {
            std::thread::spawn(move || {
                while stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        });
        assert!(docker(&slow, BRIEF).is_err());
        for answer in [
            "",
            "HTTP/1.0 200 OK",
            "HTTP/1.0 500 no\r\n\r\n[]",
            "HTTP/1.0 200 OK\r\n\r\n{",
            "\r\n\r\n",
            "nonsense",
        ] {
            let (_dir, path) = engine(move |mut stream| stream.write_all(answer.as_bytes()).unwrap());
            assert!(docker(&path, BRIEF).is_err(), "{answer}");
        }
        assert!(docker(Path::new("/nonexistent"), BRIEF).is_err());
    }

    /// Root's were looked for, whoever asked, and could not be read.
    #[test]
    fn an_ordinary_users_engines_are_that_users() {
        let tmp = tempfile::tempdir().unwrap();
        let places = at(tmp.path());
        let ask = |docker_host: Option<&str>| ask_at(&places, docker_host.map(OsStr::new), Asking::Briefly);
        assert_eq!(ask(None), (Vec::new(), Vec::new()), "nothing is installed");
        // One that was named is there for whoever has named it.
        for named in ["unix:///nonexistent", "tcp://nowhere:1"] {
            let (known, doubts) = ask(Some(named));
            assert_eq!((known.len(), doubts.len()), (0, 1), "{doubts:?}");
        }
        let storage = tmp.path().join("data/containers/storage/vfs-containers");
        fs::create_dir_all(&storage).unwrap();
        fs::write(storage.join("containers.json"), r#"[{"id": "cc33", "names": ["shop"]}]"#).unwrap();
        let (known, _) = ask(None);
        assert_eq!(
            known.iter().map(|of| (of.engine, of.name.as_str())).collect::<Vec<_>>(),
            [("podman", "shop")]
        );
        fs::write(storage.join("containers.json"), "{").unwrap();
        fs::create_dir_all(tmp.path().join("data/docker/containers/aa")).unwrap();
        assert_eq!(ask(None).1.len(), 2, "both are there, and do not answer");
    }

    /// Nobody listens where an engine is stopped, or is told to listen elsewhere; its containers are there all the same, wherever it keeps
    /// them.
    #[test]
    fn containers_on_the_disk_of_which_no_engine_tells_are_a_doubt() {
        let (_dir, socket) = engine(|mut stream| {
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{ANSWER}").unwrap();
        });
        for below in ["containers", "100000.100000/containers"] {
            let tmp = tempfile::tempdir().unwrap();
            let data = tmp.path().join("elsewhere");
            let mut places = at(tmp.path());
            places.docker.push(Storage { path: data.clone(), is_named: true });
            let doubts = |places: &Places| ask_at(places, None, Asking::Patiently).1;
            let one = |places: &Places| {
                let doubts = doubts(places);
                assert_eq!(doubts.len(), 1, "{doubts:?}");
                doubts[0].clone()
            };
            assert!(one(&places).contains("elsewhere"), "its disk is not mounted");
            fs::create_dir(&data).unwrap();
            assert!(one(&places).contains("a disk may not be mounted"));
            fs::create_dir_all(data.join(below)).unwrap();
            assert_eq!(doubts(&places), [""; 0], "it has none");
            fs::create_dir(data.join(below).join("aa11")).unwrap();
            assert!(one(&places).contains("Docker Engine keeps containers in"));
            // One that was killed leaves its socket.
            let dead = tmp.path().join("dead.sock");
            drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
            let stopped = Places { sockets: vec![dead], ..places.clone() };
            assert!(one(&stopped).contains("Docker Engine keeps containers in"));
            let runs = Places { sockets: vec![socket.clone()], ..places.clone() };
            assert_eq!(doubts(&runs), [""; 0]);
            // Another one answers where it did.
            fs::rename(data.join(below).join("aa11"), data.join(below).join("ee55")).unwrap();
            assert!(one(&runs).contains("Docker Engine keeps containers in"));
        }
    }

    /// Debian makes directories for Podman at each boot, also if it is never used.
    #[test]
    fn where_an_engine_was_never_used_it_has_no_containers() {
        let tmp = tempfile::tempdir().unwrap();
        let places = Places { host: tmp.path().to_owned(), ..at(tmp.path()) };
        fs::create_dir_all(tmp.path().join("data/docker")).unwrap();
        fs::create_dir_all(tmp.path().join("data/containers/storage/tmp")).unwrap();
        assert_eq!(ask_at(&places, None, Asking::Patiently), (Vec::new(), Vec::new()));
        // But where it has a link to somewhere else, it was.
        fs::remove_dir(tmp.path().join("data/docker")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/docker", tmp.path().join("data/docker")).unwrap();
        fs::rename(tmp.path().join("data/containers"), tmp.path().join("data/elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", tmp.path().join("data/containers")).unwrap();
        let doubts = ask_at(&places, None, Asking::Patiently).1;
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(doubts[0].contains("docker is a link to /nonexistent/docker (mount the disk"), "{doubts:?}");
        assert!(doubts[1].contains("data/containers is a link to elsewhere"), "{doubts:?}");
    }

    /// Any engine that answered answered for all.
    #[test]
    fn an_engine_tells_of_its_own_directory_and_of_no_other() {
        let tmp = tempfile::tempdir().unwrap();
        let one = tmp.path().join("one");
        let other = tmp.path().join("other");
        let answer = |mut stream: UnixStream| write!(stream, "HTTP/1.0 200 OK\r\n\r\n[]").unwrap();
        let info = |root: &Path| format!(r#"{{"ID": "x", "DockerRootDir": {root:?}}}"#);
        let (_dir, of_one) = engine_with(info(&one), answer);
        let (_dir, of_users) = engine_with(info(&one.join("100000.100000")), answer);
        let (_dir, unsaid) = engine_with("{}", answer);
        let storage = |path: &Path| Storage { path: path.to_owned(), is_named: true };
        let doubts = |socket: &Path, dirs: &[&Path]| {
            let docker = dirs.iter().map(|path| storage(path)).collect();
            let places = Places { sockets: vec![socket.to_owned()], docker, ..Places::default() };
            ask_at(&places, None, Asking::Patiently).1
        };
        for socket in [&of_one, &of_users] {
            assert_eq!(doubts(socket, &[&one]), [""; 0]);
            let left = doubts(socket, &[&one, &other]);
            assert!(left.len() == 1 && left[0].contains("/other"), "{left:?}");
        }
        assert_eq!(doubts(&unsaid, &[&one, &other]).len(), 2);
        // One in a container has a file system of its own, where the same path is another place.
        fs::create_dir_all(one.join("containers/ee55")).unwrap();
        assert_eq!(doubts(&of_one, &[&one]).len(), 1);
        fs::remove_dir(one.join("containers/ee55")).unwrap();
        assert_eq!(doubts(&unsaid, &[&one]), [""; 0]);
    }

    /// Nobody looked there.
    #[test]
    fn an_engine_of_another_host_hides_none_of_this_hosts() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("data/docker/containers/aa11")).unwrap();
        let ask = |host: &str| ask_at(&at(tmp.path()), Some(OsStr::new(host)), Asking::Patiently).1;
        for host in ["tcp://nowhere:1", "unix:///nonexistent"] {
            let doubts = ask(host);
            assert_eq!(doubts.len(), 2, "{doubts:?}");
            assert!(doubts[0].contains("nset") && doubts[1].contains("data/docker"), "{doubts:?}");
        }
        // Of its own, one doubt is enough.
        let own = tmp.path().join("run/docker.sock");
        assert_eq!(ask(&format!("unix://{}", own.display())).len(), 1);
    }

    #[test]
    fn whoever_is_about_to_remove_asks_the_engine_of_this_host_too_and_waits() {
        let (_dir, usual) = engine(|mut stream| {
            std::thread::sleep(2 * BRIEF);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{ANSWER}");
        });
        let (_dir, named) = engine(|mut stream| {
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n[]");
        });
        let named = format!("unix://{}", named.display());
        let places = Places { sockets: vec![usual], ..Places::default() };
        let ask = |named: Option<&str>, asking| {
            let (known, doubts) = ask_at(&places, named.map(OsStr::new), asking);
            (known.len(), doubts.len())
        };
        assert_eq!(ask(Some(&named), Asking::Patiently), (2, 0));
        assert_eq!(ask(None, Asking::Patiently), (2, 0));
        assert_eq!(ask(Some(&named), Asking::Widely), (2, 0));
        assert_eq!(ask(Some(&named), Asking::Briefly), (0, 0));
        assert_eq!(ask(None, Asking::Briefly), (0, 1));
    }

    #[test]
    fn containers_of_podman_are_found_with_every_storage_driver_and_where_they_do_not_last() {
        let tmp = tempfile::tempdir().unwrap();
        let places = Places {
            podman: vec![
                Storage { path: tmp.path().join("usual"), is_named: false },
                Storage { path: tmp.path().join("named"), is_named: true },
            ],
            podman_run: vec![tmp.path().join("run")],
            ..Places::default()
        };
        let doubts = |places: &Places| ask_at(places, None, Asking::Briefly).1;
        assert!(doubts(&places)[0].contains("named"), "its disk is not mounted");
        fs::create_dir(tmp.path().join("named")).unwrap();
        assert!(doubts(&places)[0].contains("a disk may not be mounted"));
        for (dir, file, id) in [
            ("usual/zfs-containers", "containers.json", "aa"),
            ("named/overlay-containers", "containers.json", "bb"),
            ("named/overlay-containers", "volatile-containers.json", "cc"),
            ("run/overlay-containers", "volatile-containers.json", "dd"),
        ] {
            let dir = tmp.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), format!(r#"[{{"id": "{id}"}}]"#)).unwrap();
        }
        let (known, doubts) = ask_at(&places, None, Asking::Briefly);
        let ids: BTreeSet<&str> = known.iter().map(|of| of.id.as_str()).collect();
        assert_eq!((ids, doubts), (BTreeSet::from(["aa", "bb", "cc", "dd"]), vec![]));
        // Another user's cannot be asked with which volumes they were made.
        let of_ann = Places { user: Some("ann".into()), ..places };
        let doubts = ask_at(&of_ann, None, Asking::Patiently).1;
        assert_eq!(doubts.len(), 3);
        assert!(doubts[0].contains("the user ann has containers of Podman in"), "{doubts:?}");
    }

    #[test]
    fn what_podman_wrote_down_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("containers.json");
        assert_eq!(podman(&path).unwrap(), []);
        std::fs::write(
            &path,
            r#"[{"id": "cc33", "names": ["shop"], "image": "x", "big": 1}, {"id": "dd44"}]"#,
        )
        .unwrap();
        let names: Vec<_> = podman(&path).unwrap().into_iter().map(|of| (of.id, of.name)).collect();
        assert_eq!(names, [("cc33".into(), "shop".into()), ("dd44".into(), String::new())]);
        std::fs::write(&path, "[").unwrap();
        assert!(podman(&path).is_err());
    }
}
