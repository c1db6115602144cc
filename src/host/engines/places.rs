//! Where the engines of a user listen, and where they keep their containers: where they usually do, and where they were told to.

use super::super::served_roots::is_in_container;
use super::Asking;
use crate::config::{DockerSettings, PodmanSettings};
use crate::root::{is_ordinary_user, user_data_dir, user_runtime_dir};
use nix::unistd::{User, geteuid};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// Whose they are, if not of the user of this process.
    pub(super) user: Option<String>,
    /// Where Docker Engine may listen.
    pub(super) sockets: Vec<PathBuf>,
    /// Where it may keep its containers.
    pub(super) docker: Vec<Storage>,
    /// Where Podman may have its storage.
    pub(super) podman: Vec<Storage>,
    /// Where Podman may have those of its containers that end with the boot of the host.
    pub(super) podman_run: Vec<PathBuf>,
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
        let conf =
            std::env::var_os("CONTAINERS_STORAGE_CONF").filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut places = if is_ordinary_user() {
            let dir = |variable: &str| {
                std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute())
            };
            let user = User::from_uid(geteuid()).ok().flatten();
            let home = dir("HOME").or_else(|| Some(user.as_ref()?.dir.clone()));
            let config = dir("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
            let variables = variables(home.as_deref(), user.as_ref());
            let home = Home { runtime: user_runtime_dir(), data: user_data_dir(), config, variables };
            Self::of_user(Path::new("/"), &home, conf.as_deref())
        } else {
            Self::of_root(Path::new("/"), conf.as_deref())
        };
        if asking == Asking::Patiently {
            places.add_running(Path::new("/proc"), geteuid().as_raw());
        }
        places
    }

    /// Of the user to whom a file belongs, as far as root sees that.
    pub(super) fn of_owner(uid: u32) -> Self {
        let user = User::from_uid(uid.into()).ok().flatten();
        let home = user.as_ref().map(|user| user.dir.clone());
        let below = |dir: &str| home.as_ref().map(|home| home.join(dir));
        let of = Home {
            runtime: Some(PathBuf::from(format!("/run/user/{uid}"))),
            data: below(".local/share"),
            config: below(".config"),
            variables: variables(home.as_deref(), user.as_ref()),
        };
        let mut places = Self::of_user(Path::new("/"), &of, None);
        places.add_running(Path::new("/proc"), uid);
        Self { user: Some(user.map_or_else(|| uid.to_string(), |user| user.name)), ..places }
    }

    /// Of root, on the host whose files are below `host`. `conf` is read instead of Podman's own `storage.conf`.
    pub(super) fn of_root(host: &Path, conf: Option<&Path>) -> Self {
        let mut places = Self { sockets: vec![host.join("run/docker.sock")], ..Self::default() };
        // Canonical has a package of its own of it.
        for usual in ["var/lib/docker", "var/snap/docker/common/var-lib-docker"] {
            places.docker.push(Storage { path: host.join(usual), is_named: false });
        }
        for file in ["etc/docker/daemon.json", "var/snap/docker/current/config/daemon.json"] {
            places.add_daemon_json(&host.join(file));
        }
        let units = ["usr/lib", "lib", "usr/local/lib", "run", "etc"]
            .map(|dir| host.join(dir).join("systemd/system"));
        places.add_units(&units);
        places.add_words(&fs::read_to_string(host.join("etc/default/docker")).unwrap_or_default());
        let settings = places.podman_settings(&root_confs(host, conf));
        places.add_podman(host.join("var/lib/containers/storage"), settings.graphroot.map(PathBuf::from));
        places.podman_run.push(host.join("run/containers/storage"));
        places.podman_run.extend(settings.runroot.map(PathBuf::from));
        places
    }

    /// Of an ordinary user with these directories.
    fn of_user(host: &Path, home: &Home, conf: Option<&Path>) -> Self {
        let mut places = Self::default();
        places.sockets.extend(home.runtime.as_ref().map(|dir| dir.join("docker.sock")));
        if let Some(data) = &home.data {
            places.docker.push(Storage { path: data.join("docker"), is_named: false });
        }
        if let Some(config) = &home.config {
            places.add_daemon_json(&config.join("docker/daemon.json"));
            places.add_units(&[config.join("systemd/user")]);
        }
        let expanded = |text: String| PathBuf::from(expanded(&text, &home.variables));
        let of_host = places.podman_settings(&root_confs(host, None)).rootless_storage_path;
        let own = match (conf, &home.config) {
            (Some(conf), _) => vec![conf.to_owned()],
            (None, Some(config)) => with_parts(&config.join("containers/storage.conf")),
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

    fn add_daemon_json(&mut self, path: &Path) {
        match DockerSettings::load(path) {
            Ok(DockerSettings { data, sockets }) => {
                sockets.into_iter().for_each(|socket| self.add_socket(socket));
                data.into_iter().for_each(|data| self.add_docker(data));
            }
            Err(e) => {
                self.doubts.push(format!("it is not known where Docker Engine keeps its containers: {e}"));
            }
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
                Err(e) => self.doubts.push(format!("it is not known where Podman keeps its containers: {e}")),
            }
        }
        all
    }

    /// What units of systemd start Docker Engine with.
    fn add_units(&mut self, dirs: &[PathBuf]) {
        for dir in dirs {
            for file in with_parts(&dir.join("docker.service")) {
                let text = fs::read_to_string(file).unwrap_or_default();
                text.replace("\\\n", " ").lines().filter(|line| line.starts_with("ExecStart=")).for_each(
                    |line| {
                        self.add_words(line);
                    },
                );
            }
        }
    }

    /// What somebody has written of a command line of Docker Engine.
    fn add_words(&mut self, text: &str) {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = lines.flat_map(str::split_whitespace).map(|word| word.trim_matches(['"', '\'']));
        self.add_arguments(words.map(str::to_owned).collect());
    }

    /// What Docker Engine was started with.
    fn add_arguments(&mut self, words: Vec<String>) {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            // In a file of variables, the first is behind the name of one.
            let word = word.split_once("=\"").map_or(word.as_str(), |(_, option)| option);
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (word, None),
            };
            if !["--data-root", "--graph", "-g", "--host", "-H", "--config-file"].contains(&option) {
                continue;
            }
            let Some(value) = value.or_else(|| words.next()) else { return };
            let value = value.trim_matches(['"', '\'']);
            let path = value.strip_prefix("unix://").unwrap_or(value);
            if !path.starts_with('/') {
                continue;
            }
            match option {
                "--host" | "-H" => self.add_socket(path.into()),
                "--config-file" => self.add_daemon_json(path.as_ref()),
                _ => self.add_docker(path.into()),
            }
        }
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

/// Where root's `storage.conf` is: what comes later has the last word.
fn root_confs(host: &Path, conf: Option<&Path>) -> Vec<PathBuf> {
    match conf {
        Some(conf) => vec![conf.to_owned()],
        None => ["usr/share", "etc"]
            .iter()
            .flat_map(|dir| with_parts(&host.join(dir).join("containers/storage.conf")))
            .collect(),
    }
}

/// A file, and those `*.conf` of the directory that is called like it with a `.d` behind, in order.
fn with_parts(path: &Path) -> Vec<PathBuf> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|of| of == "conf")).collect();
    parts.sort();
    parts.insert(0, path.to_owned());
    parts
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
