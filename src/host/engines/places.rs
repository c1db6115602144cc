//! Where the engines of a user listen, and where they keep their containers: where they usually do, and where they were told to.

use super::super::served_roots::is_in_container;
use super::Asking;
use super::words::{values_of, words};
use crate::config::{DockerSettings, PodmanSettings, starter_text};
use crate::root::{is_ordinary_user, user_data_dir, user_runtime_dir};
use nix::unistd::{User, geteuid};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DOCKER: &str = "Docker Engine";
const PODMAN: &str = "Podman";
/// Nobody has more files of settings in a directory.
const PARTS_MAX: usize = 1000;

/// A directory in which an engine keeps containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) path: PathBuf,
    /// Whether somebody has said so. Where engines usually have it, nothing is there if they were never installed.
    pub(super) is_named: bool,
}

/// Where the engines of a user are: root's, or those that an ordinary user runs without root. Each of them talks to the driver of the same
/// user, whose socket nobody else can open, so that no other engine has volumes of that one's roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// What the files of the host are below.
    pub(super) host: PathBuf,
    /// Whose they are, if not of the user of this process.
    pub(super) user: Option<String>,
    /// Where Docker Engine may listen.
    pub(super) sockets: Vec<PathBuf>,
    /// Where it may keep its containers.
    pub(super) docker: Vec<Storage>,
    /// Whether Docker Engine may leave containers alone that run when it starts (`live-restore`).
    pub(super) live_restore: bool,
    /// Where Podman may have its storage.
    pub(super) podman: Vec<Storage>,
    /// Where Podman may have those of its containers that end with the boot of the host.
    pub(super) podman_run: Vec<PathBuf>,
    /// What configurations may name, by variable.
    pub(super) variables: Vec<(&'static str, String)>,
    /// Why some of that is not known.
    pub(super) doubts: Vec<String>,
}

/// What a user has in the way of directories.
#[derive(Clone, Debug, Default)]
struct Home {
    runtime: Option<PathBuf>,
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    /// What configurations may name, by variable.
    variables: Vec<(&'static str, String)>,
}

impl Places {
    /// Of the user of this process. Who asks patiently also wants to know of engines of which only their processes tell where they are.
    pub(super) fn of_this_user(asking: Asking) -> Self {
        let (host, conf) = (host_dir(), storage_conf());
        let mut places = if is_ordinary_user() {
            let dir = |variable: &str| {
                std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute())
            };
            let user = User::from_uid(geteuid()).ok().flatten();
            let home = dir("HOME").or_else(|| Some(user.as_ref()?.dir.clone()));
            let config = dir("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
            let variables = variables(home.as_deref(), user.as_ref());
            let home = Home { runtime: user_runtime_dir(), data: user_data_dir(), config, variables };
            Self::of_user(&host, &home, conf.as_deref())
        } else {
            Self::of_root(&host, conf.as_deref())
        };
        if asking.is_of_all() {
            places.add_running(&host.join("proc"), geteuid().as_raw());
        }
        places
    }

    /// Of the user to whom a file belongs, as far as root sees that.
    pub(super) fn of_owner(uid: u32) -> Self {
        let host = host_dir();
        let user = User::from_uid(uid.into()).ok().flatten();
        let home = user.as_ref().map(|user| user.dir.clone());
        let below = |dir: &str| home.as_ref().map(|home| home.join(dir));
        let of = Home {
            runtime: Some(host.join(format!("run/user/{uid}"))),
            data: below(".local/share"),
            config: below(".config"),
            variables: variables(home.as_deref(), user.as_ref()),
        };
        let mut places = Self::of_user(&host, &of, None);
        places.add_running(&host.join("proc"), uid);
        Self { user: Some(user.map_or_else(|| uid.to_string(), |user| user.name)), ..places }
    }

    /// Of root, on the host whose files are below `host`. `conf` is read instead of Podman's own `storage.conf`.
    pub(super) fn of_root(host: &Path, conf: Option<&Path>) -> Self {
        let mut places = Self::of_units_of(host, conf);
        // Debian, Fedora and openSUSE, OpenRC; whether a unit names them or not.
        for variables in ["etc/default/docker", "etc/sysconfig/docker", "etc/conf.d/docker"] {
            places.add_variables(&host.join(variables));
        }
        // Canonical has a package of its own of Docker Engine.
        let snap = host.join("var/snap/docker");
        let usual = snap.join("common/var-lib-docker");
        if !places.docker.iter().any(|storage| storage.path == usual) {
            places.docker.push(Storage { path: usual, is_named: false });
        }
        places.add_daemon_json(&snap.join("current/config/daemon.json"));
        places
    }

    /// Of those engines that `docker.service` and `podman-restart.service` of this host start. (That of a snap has another unit.)
    pub(super) fn of_units() -> Self {
        Self::of_units_of(&host_dir(), storage_conf().as_deref())
    }

    fn of_units_of(host: &Path, conf: Option<&Path>) -> Self {
        let variables =
            vec![("HOME", "/root".to_owned()), ("USER", "root".to_owned()), ("UID", "0".to_owned())];
        let sockets = vec![host.join("run/docker.sock")];
        let mut places = Self { host: host.to_owned(), sockets, variables, ..Self::default() };
        places.docker.push(Storage { path: host.join("var/lib/docker"), is_named: false });
        places.add_daemon_json(&host.join("etc/docker/daemon.json"));
        let units = ["usr/lib", "lib", "usr/local/lib", "run", "etc"]
            .map(|dir| host.join(dir).join("systemd/system"));
        places.add_units(&units);
        let confs = places.root_confs(conf);
        let settings = places.podman_settings(&confs);
        places.add_podman(host.join("var/lib/containers/storage"), settings.graphroot.map(PathBuf::from));
        places.podman_run.push(host.join("run/containers/storage"));
        places.podman_run.extend(settings.runroot.map(PathBuf::from));
        places
    }

    /// Of an ordinary user with these directories.
    fn of_user(host: &Path, home: &Home, conf: Option<&Path>) -> Self {
        let variables = home.variables.clone();
        let mut places = Self { host: host.to_owned(), variables, ..Self::default() };
        places.sockets.extend(home.runtime.as_ref().map(|dir| dir.join("docker.sock")));
        if let Some(data) = &home.data {
            places.docker.push(Storage { path: data.join("docker"), is_named: false });
        }
        if let Some(config) = &home.config {
            places.add_daemon_json(&config.join("docker/daemon.json"));
            places.add_units(&[config.join("systemd/user")]);
        }
        if let Some(data) = &home.data {
            places.add_units(&[data.join("systemd/user")]);
        }
        // Those that all users have.
        places.add_units(
            &["usr/lib", "lib", "usr/local/lib", "run", "etc"].map(|dir| host.join(dir).join("systemd/user")),
        );
        let expanded = |text: String| PathBuf::from(expanded(&text, &home.variables));
        let confs = places.root_confs(None);
        let of_host = places.podman_settings(&confs).rootless_storage_path;
        let own = match (conf, &home.config) {
            (Some(conf), _) => vec![conf.to_owned()],
            (None, Some(config)) => places.with_parts(&config.join("containers/storage.conf"), PODMAN),
            (None, None) => Vec::new(),
        };
        let own = places.podman_settings(&own);
        let named = own.graphroot.or(own.rootless_storage_path).or(of_host).map(expanded);
        match &home.data {
            Some(data) => places.add_podman(data.join("containers/storage"), named),
            None => places.podman.extend(named.map(|path| Storage { path, is_named: true })),
        }
        places.podman_run.extend(home.runtime.as_ref().map(|dir| dir.join("containers")));
        places.podman_run.extend(own.runroot.map(expanded));
        places
    }

    /// Where Docker Engine keeps its containers, of all places where it may.
    ///
    /// # Errors
    /// Why that is not certain.
    pub(super) fn docker_in_use(&self) -> Result<&Path, String> {
        self.without_doubt(DOCKER)?;
        let mut named = self.docker.iter().filter(|storage| storage.is_named);
        match (named.next().or(self.docker.first()), named.next()) {
            (Some(one), None) => Ok(&one.path),
            (Some(one), Some(other)) => {
                let (one, other) = (one.path.display(), other.path.display());
                Err(doubt(DOCKER, &format!("both {one} and {other} are named (name one of them)")))
            }
            (None, _) => Err(doubt(DOCKER, "nothing says so")),
        }
    }

    /// Where Podman has its storage.
    ///
    /// # Errors
    /// Why that is not certain.
    pub(super) fn podman_in_use(&self) -> Result<&Path, String> {
        self.without_doubt(PODMAN)?;
        // What is named is behind what is usual.
        self.podman.last().map(|storage| &*storage.path).ok_or_else(|| doubt(PODMAN, "nothing says so"))
    }

    fn without_doubt(&self, engine: &str) -> Result<(), String> {
        let doubt = self.doubts.iter().find(|said| said.starts_with(&doubt(engine, "")));
        doubt.map_or(Ok(()), |doubt| Err(doubt.clone()))
    }

    fn add_daemon_json(&mut self, path: &Path) {
        match DockerSettings::load(path) {
            Ok(DockerSettings { data, sockets, live_restore }) => {
                self.live_restore |= live_restore;
                sockets.into_iter().for_each(|socket| self.add_socket(socket));
                data.into_iter().for_each(|data| self.add_docker(data));
            }
            Err(e) => self.add_doubt(DOCKER, &e),
        }
    }

    fn add_doubt(&mut self, engine: &str, what: &str) {
        let doubt = doubt(engine, &format!("{what} (fix that)"));
        if !self.doubts.contains(&doubt) {
            self.doubts.push(doubt);
        }
    }

    fn add_socket(&mut self, path: PathBuf) {
        if !self.sockets.contains(&path) {
            self.sockets.push(path);
        }
    }

    fn add_docker(&mut self, path: PathBuf) {
        if !self.docker.iter().any(|storage| storage.path == path) {
            self.docker.push(Storage { path, is_named: true });
        }
    }

    fn add_podman(&mut self, usual: PathBuf, named: Option<PathBuf>) {
        let named = named.filter(|path| *path != usual);
        self.podman.push(Storage { path: usual, is_named: false });
        self.podman.extend(named.map(|path| Storage { path, is_named: true }));
    }

    /// What these files say; those that come later have the last word.
    fn podman_settings(&mut self, paths: &[PathBuf]) -> PodmanSettings {
        let mut all = PodmanSettings::default();
        for path in paths {
            match PodmanSettings::load(path) {
                Ok(settings) => all = settings.over(all),
                Err(e) => self.add_doubt(PODMAN, &e),
            }
        }
        all
    }

    /// What units of systemd start Docker Engine with.
    fn add_units(&mut self, dirs: &[PathBuf]) {
        for dir in dirs {
            for file in self.with_parts(&dir.join("docker.service"), DOCKER) {
                let Some(text) = self.text_of(&file) else { continue };
                for named in values_of(&text, "EnvironmentFile") {
                    let named = named.trim_matches(['"', '\'']).trim_start_matches('-');
                    match self.path_of(named) {
                        Some(path) if !named.contains(['*', '?', '[']) => self.add_variables(&path),
                        _ => {
                            let what =
                                format!("{}: EnvironmentFile={named} is not a path from /", file.display());
                            self.add_doubt(DOCKER, &what);
                        }
                    }
                }
                self.add_arguments(words(&text));
            }
        }
    }

    /// A file of variables, of which some may be parts of a command line.
    fn add_variables(&mut self, path: &Path) {
        if let Some(text) = self.text_of(path) {
            self.add_arguments(words(&text));
        }
    }

    fn text_of(&mut self, path: &Path) -> Option<String> {
        starter_text(path).unwrap_or_else(|e| {
            self.add_doubt(DOCKER, &e);
            None
        })
    }

    /// The file of the host that a setting names, with what systemd and shells put in; none if that is not a whole path.
    fn path_of(&self, named: &str) -> Option<PathBuf> {
        let named = self.expanded(named);
        let below = named.strip_prefix('/').filter(|_| !named.contains(['$', '%']))?;
        Some(self.host.join(below))
    }

    fn expanded(&self, text: &str) -> String {
        let specifiers = [("%h", "$HOME"), ("%u", "$USER"), ("%U", "$UID")];
        let text = specifiers.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        expanded(&text, &self.variables)
    }

    /// What Docker Engine was started with.
    fn add_arguments(&mut self, words: Vec<String>) {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let is_short = |option: &&str| word.len() > 2 && word.starts_with(option);
            let (option, value) = match ["-g", "-H"].into_iter().find(is_short) {
                Some(option) => (option, Some(word[2..].trim_start_matches('=').to_owned())),
                None => match word.split_once('=') {
                    Some((option, value)) => (option, Some(value.to_owned())),
                    None => (word.as_str(), None),
                },
            };
            if option == "--live-restore" {
                // Whatever else it takes for true.
                let is_off =
                    |value: &String| matches!(value.as_str(), "false" | "False" | "FALSE" | "f" | "F" | "0");
                self.live_restore |= !value.as_ref().is_some_and(is_off);
                continue;
            }
            if !["--data-root", "--graph", "-g", "--host", "-H", "--config-file"].contains(&option) {
                continue;
            }
            let Some(value) = value.or_else(|| words.next()) else { return };
            let value = self.expanded(value.trim_matches(['"', '\'']));
            let path = value.strip_prefix("unix://").unwrap_or(&value);
            if !path.starts_with('/') || path.contains(['$', '%']) {
                // Other programs of a unit have a `-g` of their own.
                let is_path = match option {
                    "--host" | "-H" => false,
                    "-g" => value.starts_with(['$', '%', '/']),
                    _ => !value.is_empty(),
                };
                if is_path {
                    self.add_doubt(DOCKER, &format!("{option} {value} is not a path from /"));
                }
                continue;
            }
            match option {
                "--host" | "-H" => self.add_socket(path.into()),
                "--config-file" => self.add_daemon_json(path.as_ref()),
                _ => self.add_docker(path.into()),
            }
        }
    }

    /// Where root's `storage.conf` is: what comes later has the last word.
    fn root_confs(&mut self, conf: Option<&Path>) -> Vec<PathBuf> {
        let dirs = ["usr/share", "etc"].map(|dir| self.host.join(dir).join("containers/storage.conf"));
        match conf {
            Some(conf) => vec![conf.to_owned()],
            None => dirs.iter().flat_map(|path| self.with_parts(path, PODMAN)).collect(),
        }
    }

    /// A file of an engine's, and those `*.conf` of the directory that is called like it with a `.d` behind, in order.
    fn with_parts(&mut self, path: &Path, engine: &str) -> Vec<PathBuf> {
        let mut dir = path.as_os_str().to_owned();
        dir.push(".d");
        let mut parts = parts_in(Path::new(&dir)).unwrap_or_else(|e| {
            self.add_doubt(engine, &format!("{}: {e}", dir.display()));
            Vec::new()
        });
        parts.insert(0, path.to_owned());
        parts
    }

    /// What those of a user that run were started with. What runs in containers is no engine of this host.
    fn add_running(&mut self, proc: &Path, uid: u32) {
        let processes = fs::read_dir(proc).into_iter().flatten().flatten().map(|entry| entry.path());
        for process in processes {
            let is_number = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
            if !process.file_name().is_some_and(is_number)
                || fs::read(process.join("comm")).ok().as_deref() != Some(b"dockerd\n")
                || !process.metadata().is_ok_and(|meta| meta.uid() == uid)
                || is_in_container(&process)
            {
                continue;
            }
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let words = line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            self.add_arguments(words.collect());
        }
    }
}

/// The files `*.conf` of a directory, in order.
fn parts_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut parts = Vec::new();
    for (n, entry) in entries.enumerate() {
        if n == PARTS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has too many files"));
        }
        parts.push(entry?.path());
    }
    parts.retain(|path| path.extension().is_some_and(|of| of == "conf"));
    parts.sort();
    Ok(parts)
}

fn doubt(engine: &str, what: &str) -> String {
    format!("it is not known where {engine} keeps its containers: {what}")
}

/// What is read instead of Podman's `storage.conf`, if a variable says so.
fn storage_conf() -> Option<PathBuf> {
    std::env::var_os("CONTAINERS_STORAGE_CONF").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// What the files of this host are below. Tests have others; whoever gives a command of a released program cannot.
fn host_dir() -> PathBuf {
    let told = std::env::var_os("LARDER_ENGINES_BELOW").filter(|_| cfg!(debug_assertions));
    told.map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn variables(home: Option<&Path>, user: Option<&User>) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    variables.extend(home.map(|home| ("HOME", home.to_string_lossy().into_owned())));
    variables.extend(user.map(|user| ("USER", user.name.clone())));
    variables.extend(user.map(|user| ("UID", user.uid.to_string())));
    variables
}

/// A text with `$NAME` and `${NAME}` as their values.
fn expanded(text: &str, variables: &[(&'static str, String)]) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn named(storages: &[Storage]) -> Vec<&str> {
        storages.iter().filter(|of| of.is_named).map(|of| of.path.to_str().unwrap()).collect()
    }

    #[test]
    fn engines_keep_containers_where_they_usually_do_or_were_told_to() {
        let tmp = tempfile::tempdir().unwrap();
        let host = tmp.path();
        let usual = Places::of_root(host, None);
        assert_eq!((named(&usual.docker), named(&usual.podman), &usual.doubts), (vec![], vec![], &vec![]));
        assert_eq!(usual.docker[0].path, host.join("var/lib/docker"));
        assert_eq!(usual.podman[0].path, host.join("var/lib/containers/storage"));

        write(
            &host.join("etc/docker/daemon.json"),
            r#"{"data-root": "/srv/json", "hosts": ["unix:///srv/json.sock"]}"#,
        );
        write(
            &host.join("lib/systemd/system/docker.service"),
            "[Service]\nExecStart=/usr/bin/dockerd -H fd:// \\\n  --data-root=/srv/unit $DOCKER_OPTS\n# --data-root /no\n",
        );
        write(
            &host.join("etc/systemd/system/docker.service.d/x.conf"),
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -g '/srv/part' -H unix:///srv/part.sock\n",
        );
        write(
            &host.join("etc/default/docker"),
            "#DOCKER_OPTS=\"-g /no\"\nDOCKER_OPTS=\"--data-root /srv/default\"\n",
        );
        write(
            &host.join("usr/share/containers/storage.conf"),
            "[storage]\ngraphroot = \"/srv/below\"\nrunroot = \"/srv/run\"\n",
        );
        write(
            &host.join("etc/containers/storage.conf"),
            "[storage]\ngraphroot = \"/srv/podman\"\nrootless_storage_path = \"/srv/${USER}/$UID\"\n",
        );
        let told = Places::of_root(host, None);
        assert_eq!(named(&told.docker), ["/srv/json", "/srv/unit", "/srv/part", "/srv/default"]);
        assert_eq!(told.sockets[1..], [PathBuf::from("/srv/json.sock"), "/srv/part.sock".into()]);
        assert_eq!(named(&told.podman), ["/srv/podman"]);
        assert_eq!(told.podman_run[1], Path::new("/srv/run"));
        assert_eq!(told.doubts, [""; 0]);

        // An ordinary user's.
        let home = Home {
            runtime: Some(host.join("runtime")),
            data: Some(host.join("data")),
            config: Some(host.join("config")),
            variables: vec![("USER", "ann".into()), ("UID", "1000".into())],
        };
        let own = Places::of_user(host, &home, None);
        assert_eq!((named(&own.docker), named(&own.podman)), (vec![], vec!["/srv/ann/1000"]));
        assert_eq!(own.sockets, [host.join("runtime/docker.sock")]);
        write(
            &host.join("config/containers/storage.conf"),
            "[storage]\ngraphroot = \"/home/$USER/podman\"\n",
        );
        write(&host.join("config/docker/daemon.json"), r#"{"data-root": "/srv/ann/docker"}"#);
        let own = Places::of_user(host, &home, None);
        assert_eq!(
            (named(&own.docker), named(&own.podman)),
            (vec!["/srv/ann/docker"], vec!["/home/ann/podman"])
        );

        // What cannot be understood may say that they are elsewhere.
        write(&host.join("etc/docker/daemon.json"), "{");
        write(&host.join("etc/containers/storage.conf"), "[storage\n");
        let doubts = Places::of_root(host, None).doubts;
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(
            doubts[0].contains("daemon.json") && doubts[1].contains("storage.conf: line 1"),
            "{doubts:?}"
        );
    }

    /// What another engine has, or had, says nothing of this one.
    #[test]
    fn an_engine_uses_what_it_was_told_to_and_else_what_is_usual_and_in_doubt_nobody_knows() {
        let tmp = tempfile::tempdir().unwrap();
        let host = tmp.path();
        let of = || Places::of_units_of(host, None);
        let docker = |places: &Places| places.docker_in_use().map(Path::to_owned);
        let podman = |places: &Places| places.podman_in_use().map(Path::to_owned);
        write(&host.join("var/snap/docker/current/config/daemon.json"), r#"{"data-root": "/srv/snap"}"#);
        assert_eq!(docker(&of()), Ok(host.join("var/lib/docker")));
        assert_eq!(podman(&of()), Ok(host.join("var/lib/containers/storage")));
        write(&host.join("etc/docker/daemon.json"), r#"{"data-root": "/srv/json"}"#);
        write(&host.join("etc/containers/storage.conf"), "[storage]\ngraphroot = \"/srv/podman\"\n");
        assert_eq!((docker(&of()), podman(&of())), (Ok("/srv/json".into()), Ok("/srv/podman".into())));
        // What was written for another init says nothing, unless the unit reads it.
        write(&host.join("etc/default/docker"), "DOCKER_OPTS='--data-root /srv/other'\n");
        assert_eq!(docker(&of()), Ok("/srv/json".into()));
        write(
            &host.join("etc/systemd/system/docker.service"),
            "[Service]\nEnvironmentFile=-/etc/default/docker\n",
        );
        let why = docker(&of()).unwrap_err();
        assert!(why.contains("both /srv/json and /srv/other are named"), "{why}");
        write(&host.join("etc/docker/daemon.json"), "{");
        assert!(docker(&of()).unwrap_err().contains("daemon.json") && podman(&of()).is_ok());
        write(&host.join("etc/containers/storage.conf"), "[storage\n");
        assert!(podman(&of()).unwrap_err().contains("storage.conf"));
    }

    /// Some of these ways were passed over.
    #[test]
    fn where_docker_was_told_to_keep_containers_is_read_however_it_is_written() {
        let root = |file: &str, text: &str| {
            let tmp = tempfile::tempdir().unwrap();
            write(&tmp.path().join("etc/docker.env"), "OPTIONS='-D --graph=/srv/env'\n");
            write(&tmp.path().join(file), text);
            Places::of_root(tmp.path(), None)
        };
        const UNIT: &str = "etc/systemd/system/docker.service";
        for (file, text, wanted) in [
            ("etc/default/docker", "DOCKER_OPTS='--data-root /srv/a'\n", &["/srv/a"][..]),
            ("etc/default/docker", "DOCKER_OPTS=--data-root=/srv/a\n", &["/srv/a"]),
            ("etc/default/docker", "export DOCKER_OPTS=\"--x \\\n  -g/srv/a\"\n", &["/srv/a"]),
            ("etc/sysconfig/docker", "OPTIONS=\"-g=/srv/a\"\n", &["/srv/a"]),
            (UNIT, "[Service]\nEnvironment=\"DOCKER_OPTS=--data-root /srv/a\"\n", &["/srv/a"]),
            (UNIT, "[Service]\nExecStart = dockerd --data-root /srv/a\n", &["/srv/a"]),
            (UNIT, "[Service]\nExecStart=dockerd --data-root=%h/a --config-file /none\n", &["/root/a"]),
            (UNIT, "[Service]\nEnvironmentFile=-/etc/docker.env\n", &["/srv/env"]),
            (UNIT, "[Service]\nEnvironmentFile=-/etc/none\nExecStartPre=groupadd -g 99 -H x\n", &[]),
        ] {
            let told = root(file, text);
            assert_eq!((named(&told.docker), &told.doubts), (wanted.to_vec(), &vec![]), "{text}");
        }
        for (text, wanted) in [
            ("ExecStart=dockerd --data-root=$WHERE", "--data-root $WHERE is not a path from /"),
            ("ExecStart=dockerd --data-root here", "--data-root here is not a path from /"),
            ("ExecStart=dockerd -g ${WHERE}/x", "-g ${WHERE}/x is not a path from /"),
            ("EnvironmentFile=/etc/docker*.env", "EnvironmentFile=/etc/docker*.env is not"),
        ] {
            let told = root(UNIT, text);
            assert!(told.doubts.len() == 1 && told.doubts[0].contains(wanted), "{text}: {:?}", told.doubts);
        }
        // What cannot be read may say so, too.
        let tmp = tempfile::tempdir().unwrap();
        let host = tmp.path();
        fs::create_dir_all(host.join("etc/default/docker")).unwrap();
        fs::create_dir_all(host.join("etc/systemd/system")).unwrap();
        std::os::unix::fs::symlink("docker.service.d", host.join("etc/systemd/system/docker.service.d"))
            .unwrap();
        std::os::unix::fs::symlink("/dev/null", host.join(UNIT)).unwrap();
        let doubts = Places::of_root(host, None).doubts;
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(
            doubts[0].contains("docker.service.d: ") && doubts[1].contains("etc/default/docker: "),
            "{doubts:?}"
        );
    }

    #[test]
    fn units_in_the_home_of_another_user_are_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home { config: Some(tmp.path().join("config")), ..Home::default() };
        let units = tmp.path().join("config/systemd/user");
        fs::create_dir_all(units.join("docker.service.d")).unwrap();
        nix::unistd::mkfifo(&units.join("docker.service"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", units.join("docker.service.d/x.conf")).unwrap();
        let doubts = Places::of_user(tmp.path(), &home, None).doubts;
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        for n in 0..=PARTS_MAX {
            fs::write(units.join(format!("docker.service.d/{n}")), "").unwrap();
        }
        assert!(Places::of_user(tmp.path(), &home, None).doubts[0].contains("too many files"));
    }

    #[test]
    fn engines_that_run_say_where_they_are() {
        let tmp = tempfile::tempdir().unwrap();
        let process = |number: u32, comm: &str, line: &str| {
            let dir = tmp.path().join(number.to_string());
            write(&dir.join("comm"), &format!("{comm}\n"));
            write(&dir.join("cmdline"), &line.replace(' ', "\0"));
            write(&dir.join("status"), "Name:\tx\nNSpid:\t7\n");
            dir
        };
        process(1, "dockerd", "dockerd --data-root /srv/two -H unix:///srv/two.sock");
        process(2, "sh", "sh -c dockerd --data-root /no");
        write(&process(3, "dockerd", "dockerd --data-root /no").join("status"), "NSpid:\t9\t1\n");
        let mut places = Places::default();
        places.add_running(tmp.path(), geteuid().as_raw());
        assert_eq!(
            (named(&places.docker), &places.sockets),
            (vec!["/srv/two"], &vec![PathBuf::from("/srv/two.sock")])
        );
        let mut places = Places::default();
        places.add_running(tmp.path(), geteuid().as_raw() + 1);
        assert_eq!(places, Places::default(), "those are another user's");
    }
}
