//! What the configurations of container engines say of where these keep their containers.

use super::{explained, is_missing, line_of};
use crate::backing::open_linked;
use serde::Deserialize;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longer ones are some other file.
const BYTES_MAX: u64 = 1 << 20;

/// What `daemon.json` says, of which the rest is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerSettings {
    /// Where Docker Engine keeps its containers.
    pub data: Option<PathBuf>,
    /// Where it listens on this host.
    pub sockets: Vec<PathBuf>,
    /// Whether containers go on running while it does not run.
    pub live_restore: bool,
}

#[derive(Deserialize)]
struct DaemonJson {
    #[serde(rename = "data-root")]
    data_root: Option<PathBuf>,
    /// What earlier versions called it.
    graph: Option<PathBuf>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(rename = "live-restore")]
    live_restore: Option<bool>,
}

impl DockerSettings {
    /// Reads a file, which need not be there.
    ///
    /// # Errors
    /// A file that cannot be read, or holds what is not understood; with the path, in a line.
    pub fn load(path: &Path) -> Result<Self, String> {
        let Some(text) = text_of(path)? else { return Ok(Self::default()) };
        // Docker Engine takes an empty file for none.
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let read: DaemonJson = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let sockets = read.hosts.iter().filter_map(|host| host.strip_prefix("unix://")).map(PathBuf::from);
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let data = named(read.data_root).or(named(read.graph));
        Ok(Self { sockets: sockets.collect(), data, live_restore: read.live_restore.unwrap_or_default() })
    }
}

/// What `storage.conf` says, as it is written there: with variables of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodmanSettings {
    /// Where Podman has its storage.
    pub graphroot: Option<String>,
    /// Where it has what ends with the boot of the host.
    pub runroot: Option<String>,
    /// Where ordinary users have theirs.
    pub rootless_storage_path: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StorageConf {
    storage: PodmanSettings,
}

impl PodmanSettings {
    /// Reads a file, which need not be there.
    ///
    /// # Errors
    /// A file that cannot be read, or holds what is not understood; with the path, in a line.
    pub fn load(path: &Path) -> Result<Self, String> {
        let Some(text) = text_of(path)? else { return Ok(Self::default()) };
        let read: StorageConf = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(&text, span.start));
            format!("{}: line {line}: {}", path.display(), explained(e.message()))
        })?;
        Ok(read.storage)
    }

    /// What is said here, and what `below` says of the rest.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let named = |path: Option<String>| path.filter(|path| !path.is_empty());
        Self {
            graphroot: named(self.graphroot).or(below.graphroot),
            runroot: named(self.runroot).or(below.runroot),
            rootless_storage_path: named(self.rootless_storage_path).or(below.rootless_storage_path),
        }
    }
}

/// The text of a file; none if it is not there.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    let text = bytes_of(path)?.map(String::from_utf8).transpose();
    text.map_err(|e| format!("{}: {e}", path.display()))
}

/// The text of a unit of systemd's, or of a file of variables, that an engine is started with; none if it is not there. Only a part of
/// it may matter, so that what is not UTF-8 is replaced.
///
/// # Errors
/// A file that cannot be read, or is too long; with the path, in a line.
pub fn starter_text(path: &Path) -> Result<Option<String>, String> {
    // So `systemctl mask` says that there is to be none.
    if path.is_symlink() && fs::canonicalize(path).is_ok_and(|to| to == Path::new("/dev/null")) {
        return Ok(None);
    }
    Ok(bytes_of(path)?.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// What a file has; none if it is not there. Whose it is does not matter: a named pipe is not waited for, and what has no end not read.
fn bytes_of(path: &Path) -> Result<Option<Vec<u8>>, String> {
    if is_missing(path) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = open_linked(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(length) if length as u64 == BYTES_MAX => Err(format!("{}: it is too long", path.display())),
        Ok(_) => Ok(Some(bytes)),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_engine_was_told_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("daemon.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            DockerSettings::load(&path)
        };
        let of = |data: Option<&str>, sockets: &[&str]| DockerSettings {
            data: data.map(PathBuf::from),
            sockets: sockets.iter().map(PathBuf::from).collect(),
            live_restore: false,
        };
        assert_eq!(DockerSettings::load(&path), Ok(of(None, &[])));
        assert_eq!(read(" \n"), Ok(of(None, &[])));
        assert_eq!(
            read(
                r#"{"data-root": "/srv/docker", "hosts": ["unix:///srv/d.sock", "fd://", "tcp://0:1"], "debug": true}"#
            ),
            Ok(of(Some("/srv/docker"), &["/srv/d.sock"]))
        );
        assert_eq!(read(r#"{"graph": "/old", "data-root": ""}"#), Ok(of(Some("/old"), &[])));
        let keeps = read(r#"{"live-restore": true}"#);
        assert_eq!(keeps, Ok(DockerSettings { live_restore: true, ..DockerSettings::default() }));
        for bad in ["{", "[]", r#"{"data-root": 1}"#, "\u{0}"] {
            let e = read(bad).unwrap_err();
            assert!(e.starts_with(path.to_str().unwrap()) && e.lines().count() == 1, "{e}");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(DockerSettings::load(&path).is_err());
        assert!(DockerSettings::load(tmp.path()).is_err(), "a directory");
    }

    /// A named pipe was waited for, `/dev/zero` read for ever, and what could not be read counted as empty.
    #[test]
    fn what_starts_engines_is_read_whoever_wrote_it_and_errors_are_said() {
        use std::os::unix::fs::symlink;
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("docker.service");
        assert_eq!(starter_text(&path), Ok(None));
        std::fs::write(&path, b"# caf\xe9\n-g /a").unwrap();
        assert_eq!(starter_text(&path), Ok(Some("# caf\u{fffd}\n-g /a".to_owned())));
        let masked = tmp.path().join("masked");
        symlink("/dev/null", &masked).unwrap();
        assert_eq!(starter_text(&masked), Ok(None));
        let pipe = tmp.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let endless = tmp.path().join("endless");
        symlink("/dev/zero", &endless).unwrap();
        let lost = tmp.path().join("lost");
        symlink("/nonexistent/docker.service", &lost).unwrap();
        let long = tmp.path().join("long");
        std::fs::File::create(&long).unwrap().set_len(BYTES_MAX + 1).unwrap();
        for bad in [&pipe, &endless, &lost, &long, &tmp.path().to_owned()] {
            let e = starter_text(bad).unwrap_err();
            assert!(e.starts_with(bad.to_str().unwrap()), "{e}");
        }
    }

    #[test]
    fn what_podman_was_told_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("storage.conf");
        assert_eq!(PodmanSettings::load(&path), Ok(PodmanSettings::default()));
        let text = "[storage]\ndriver = \"zfs\"\ngraphroot = \"/srv/podman\"\nrunroot = \"\"\n[storage.options]\nsize = \"\"\n";
        std::fs::write(&path, text).unwrap();
        let read = PodmanSettings::load(&path).unwrap();
        assert_eq!(read.graphroot.as_deref(), Some("/srv/podman"));
        let below = PodmanSettings {
            graphroot: Some("/usual".into()),
            runroot: Some("/run".into()),
            rootless_storage_path: Some("$HOME/x".into()),
        };
        let all = read.over(below);
        assert_eq!(all.graphroot.as_deref(), Some("/srv/podman"));
        assert_eq!(
            (all.runroot.as_deref(), all.rootless_storage_path.as_deref()),
            (Some("/run"), Some("$HOME/x"))
        );
        std::fs::write(&path, "[storage]\ngraphroot = 1\n").unwrap();
        assert!(PodmanSettings::load(&path).unwrap_err().contains("storage.conf: line 2: "));
        std::fs::write(&path, "# nothing\n").unwrap();
        assert_eq!(PodmanSettings::load(&path), Ok(PodmanSettings::default()));
    }
}
