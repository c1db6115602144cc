//! What container engines say of their containers. Only commands ask them, never the plugin: an engine may be waiting for that one.
//! One that does not answer at once is done without.

use crate::backing::{connect_within, open_linked};
use crate::root::{is_ordinary_user, user_data_dir, user_runtime_dir};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an engine may take for all of its answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// A longer answer, or file, is not read.
const BYTES_MAX: u64 = 32 << 20;
/// How Podman's storage can keep containers, which is a part of the name of the directory that it writes down in which there are.
const STORAGE_KINDS: [&str; 3] = ["overlay", "vfs", "btrfs"];
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

/// Where the engines of a user are: root's, or those that an ordinary user runs without root. Each of them talks to the driver of the same
/// user, so that no other engine has volumes of that one's roots.
#[derive(Debug)]
struct Engines {
    /// Where Docker Engine listens unless it was told otherwise.
    docker: Option<PathBuf>,
    /// Where it keeps its containers.
    docker_data: Option<PathBuf>,
    /// Where Podman has its storage.
    podman: Option<PathBuf>,
}

impl Engines {
    fn of_root() -> Self {
        Self {
            docker: Some("/run/docker.sock".into()),
            docker_data: Some("/var/lib/docker".into()),
            podman: Some("/var/lib/containers/storage".into()),
        }
    }

    /// Of whoever has these directories.
    fn of_user(runtime: Option<PathBuf>, data: Option<PathBuf>) -> Self {
        Self {
            docker: runtime.map(|dir| dir.join("docker.sock")),
            docker_data: data.as_ref().map(|dir| dir.join("docker")),
            podman: data.map(|dir| dir.join("containers/storage")),
        }
    }

    fn of_this_user() -> Self {
        if is_ordinary_user() { Self::of_user(user_runtime_dir(), user_data_dir()) } else { Self::of_root() }
    }

    /// All that is known by those that answer, and why others do not, if there are others.
    fn ask(&self) -> (Vec<Known>, Vec<String>) {
        let (mut known, mut doubts) = (Vec::new(), Vec::new());
        let is_missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        match self.docker_socket().and_then(|socket| docker(&socket)) {
            Ok(containers) => known.extend(containers),
            // Where it was never installed, it has no containers.
            Err(e) if is_missing(&e) && !self.docker_data.as_ref().is_some_and(|data| data.exists()) => {}
            Err(e) => doubts.push(format!("Docker Engine cannot be asked which containers there are: {e}")),
        }
        for kind in STORAGE_KINDS {
            let Some(storage) = &self.podman else { break };
            let path = storage.join(format!("{kind}-containers/containers.json"));
            match podman(&path) {
                Ok(containers) => known.extend(containers),
                Err(e) => {
                    doubts.push(format!("the containers of Podman are not known: {}: {e}", path.display()));
                }
            }
        }
        doubts.iter().for_each(|doubt| log::debug!("{doubt}"));
        (known, doubts)
    }

    /// Where Docker Engine listens.
    ///
    /// # Errors
    /// When that is not a socket of this host.
    fn docker_socket(&self) -> io::Result<PathBuf> {
        match std::env::var_os("DOCKER_HOST").filter(|host| !host.is_empty()) {
            Some(named) => socket_of(&named),
            None => self.docker.clone().ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }
}

/// All that is known by engines of this user that answer, and why others do not, if there are others.
pub(super) fn ask() -> (Vec<Known>, Vec<String>) {
    Engines::of_this_user().ask()
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

/// Asks Docker Engine for all containers, those that do not run too.
fn docker(socket: &Path) -> io::Result<Vec<Known>> {
    let until = Instant::now() + PATIENCE;
    let mut stream = connect_within(socket, PATIENCE)?;
    // In HTTP/1.0, the answer ends with the connection, and has no parts.
    stream.write_all(b"GET /containers/json?all=1 HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let answer = read_until(&mut stream, until)?;
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| invalid("the answer is not HTTP"))?;
    let status = answer.split(|b| *b == b' ').nth(1);
    if status != Some(b"200") {
        return Err(invalid("it refused to list its containers"));
    }
    let containers: Vec<DockerContainer> = serde_json::from_slice(&answer[head + 4..])?;
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

    const ANSWER: &str = r#"[{"Id": "aa11", "Names": ["/web/db", "/db"], "State": "running",
        "Mounts": [{"Type": "volume", "Name": "data", "Source": "/mnt/data", "Driver": "larder"}, {"Type": "volume", "Name": "x", "Driver": "local"},
                   {"Type": "volume", "Name": "more", "Driver": "larder:latest"}, {"Type": "bind", "Source": "/"}]},
       {"Id": "bb22"}]"#;

    /// An engine that does with whoever connects as is said.
    fn engine(act: impl Fn(UnixStream) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = listen_private(&path).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 512];
                let n = stream.read(&mut request).unwrap_or(0);
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
        let known = docker(&path).unwrap();
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
        assert!(docker(&silent).is_err());
        // A word now and then does not make it last for ever.
        let (_dir, slow) = engine(|mut stream| {
            std::thread::spawn(move || {
                while stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        });
        assert!(docker(&slow).is_err());
        for answer in [
            "",
            "HTTP/1.0 200 OK",
            "HTTP/1.0 500 no\r\n\r\n[]",
            "HTTP/1.0 200 OK\r\n\r\n{",
            "\r\n\r\n",
            "nonsense",
        ] {
            let (_dir, path) = engine(move |mut stream| stream.write_all(answer.as_bytes()).unwrap());
            assert!(docker(&path).is_err(), "{answer}");
        }
        assert!(docker(Path::new("/nonexistent")).is_err());
    }

    /// Root's were looked for, whoever asked, and could not be read.
    #[test]
    fn an_ordinary_users_engines_are_that_users() {
        if std::env::var_os("DOCKER_HOST").is_some() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let engines = Engines::of_user(Some(tmp.path().join("run")), Some(tmp.path().join("data")));
        assert_eq!(engines.ask(), (Vec::new(), Vec::new()), "nothing is installed");
        let storage = tmp.path().join("data/containers/storage/vfs-containers");
        std::fs::create_dir_all(&storage).unwrap();
        std::fs::write(storage.join("containers.json"), r#"[{"id": "cc33", "names": ["shop"]}]"#).unwrap();
        let (known, _) = engines.ask();
        assert_eq!(
            known.iter().map(|of| (of.engine, of.name.as_str())).collect::<Vec<_>>(),
            [("podman", "shop")]
        );
        std::fs::write(storage.join("containers.json"), "{").unwrap();
        std::fs::create_dir_all(tmp.path().join("data/docker")).unwrap();
        assert_eq!(engines.ask().1.len(), 2, "both are there, and do not answer");
        assert_eq!(Engines::of_user(None, None).podman, None);
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
