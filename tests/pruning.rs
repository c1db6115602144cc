//! What `larder prune` keeps because an engine may have a container that needs it, and when it removes nothing at all.

use crate::support::{Host, run};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const NONE: &str = "[]";
const ONE: &str = r#"[{"Id": "0f", "Names": ["/web"], "State": "exited", "Mounts": [{"Type": "volume", "Name": "needed", "Driver": "larder"}]}]"#;

/// A Docker Engine that takes some time for each answer, and has these, one after the other; the last one for ever.
fn docker(host: &Host, takes: Duration, answers: &'static [&'static str]) -> String {
    docker_at(host, "docker.sock", takes, answers)
}

/// The same, with a name of its own for its socket.
fn docker_at(host: &Host, name: &str, takes: Duration, answers: &'static [&'static str]) -> String {
    let path: PathBuf = host.dir("run").join(name);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut n = 0;
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            std::thread::sleep(takes);
            if !request[..length].starts_with(b"GET /containers/json") {
                let _ = write!(stream, "HTTP/1.0 404 Not Found\r\n\r\n");
                continue;
            }
            let body = answers[n.min(answers.len() - 1)];
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
            n += 1;
        }
    });
    format!("unix://{}", path.display())
}

/// A host with the volumes `free` and `needed`.
fn host() -> Host {
    let host = Host::plain();
    host.ok(&["create", "free"]);
    host.ok(&["create", "needed"]);
    host
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// It was waited for 700 ms, and counted as having no containers.
#[test]
fn what_an_engine_needs_that_is_only_slow_is_kept() {
    let host = host();
    let socket = docker(&host, Duration::from_secs(2), &[ONE]);
    let output = run(host.command(&["prune", "--force"]).env("DOCKER_HOST", &socket));
    let (code, removed, why) = said(&output);
    assert_eq!((code, removed.as_str()), (Some(0), "free\n"), "{why}");
    assert!(why.contains("volume \"needed\" is kept: containers were made with it (web)"), "{why}");
}

#[test]
fn a_container_that_is_made_while_somebody_thinks_about_the_question_keeps_its_volume() {
    let host = host();
    let socket = docker(&host, Duration::ZERO, &[NONE, ONE]);
    let mut command = host.command(&["prune"]);
    let command = command.env("DOCKER_HOST", &socket).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let (_, shown, why) = said(&child.wait_with_output().unwrap());
    assert!(why.contains("volume \"needed\" is kept"), "{why}");
    assert!(shown.ends_with("\nfree\n"), "{shown}");
    assert_eq!(host.ok(&["ls", "-q"]), "needed\n");
}

/// `larder prune --force` on a host where Podman has its storage in a directory that `storage.conf` names.
fn with_podman(host: &Host, storage: &str, script: &str, args: &[&str]) -> Command {
    let bin = host.dir("bin");
    let program = bin.join("podman");
    // Not written in place: another test may just be starting a process, with the file still open for writing.
    let new = bin.join("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &program).unwrap();
    let conf = bin.join("storage.conf");
    let dir = host.dir("podman").join(storage);
    fs::write(&conf, format!("[storage]\ngraphroot = \"{}\"\n", dir.display())).unwrap();
    let mut command = host.command(&[&["prune", "--force"], args].concat());
    command.env("CONTAINERS_STORAGE_CONF", conf);
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    command
}

/// Only the usual directory was looked at, and there for three of its drivers.
#[test]
fn what_podman_needs_is_kept_wherever_it_has_its_containers() {
    let host = host();
    let dir = host.dir("podman/storage/zfs-containers");
    fs::write(dir.join("containers.json"), r#"[{"id": "aa11", "names": ["web"]}]"#).unwrap();
    let says = "case \"$*\" in info*) echo '{\"host\": {\"serviceIsRemote\": false}}';; 'volume ls'*) echo needed;; ps*) echo web;; esac";
    let elsewhere = "case \"$*\" in info*) echo '{\"host\": {\"serviceIsRemote\": true}}';; esac";
    let silent = "case \"$*\" in info*) echo '{}';; 'volume ls'*) exit 125;; esac";
    // Nothing is removed as long as it does not say which they are, or its disk is not there.
    for (storage, script, advice) in [
        ("storage", "exit 125", "`podman info --format json` does not say which volumes"),
        ("storage", "exec sleep 1000", "run it to see why, and fix that"),
        ("storage", silent, "podman volume ls --filter dangling=false"),
        ("storage", elsewhere, "set `remote = false` below `[engine]`"),
        ("nothing", says, "take the directory out of the configuration that names it"),
    ] {
        let (code, removed, why) = said(&run(&mut with_podman(&host, storage, script, &[])));
        assert_eq!((code, removed.as_str()), (Some(1), ""), "{why}");
        assert!(why.contains("Podman") || why.contains("podman"), "{why}");
        assert!(why.contains(advice) && why.contains("--ignore-silent-engines"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
        assert_eq!(host.ok(&["ls", "-q"]), "free\nneeded\n");
    }
    let (code, removed, why) = said(&run(&mut with_podman(&host, "storage", says, &[])));
    assert_eq!((code, removed.as_str()), (Some(0), "free\n"), "{why}");
    assert!(why.contains("volume \"needed\" is kept: containers were made with it (web)"), "{why}");
    // Who says so goes by what is known.
    let ignores = ["--ignore-silent-engines"];
    let (code, removed, why) = said(&run(&mut with_podman(&host, "storage", silent, &ignores)));
    assert_eq!((code, removed.as_str()), (Some(0), "needed\n"), "{why}");
    assert!(why.contains("podman volume ls --filter dangling=false"), "{why}");
}

/// It was never installed, as far as could be seen, and its disk was not mounted.
#[test]
fn what_docker_needs_that_is_behind_a_link_to_a_disk_which_is_not_mounted_is_kept() {
    let host = host();
    let below = host.dir("below");
    fs::create_dir_all(below.join("var/lib")).unwrap();
    symlink("/nonexistent/docker", below.join("var/lib/docker")).unwrap();
    for command in [&["prune", "--force"][..], &["ls", "-q", "--filter", "dangling=true"]] {
        let output = run(host.command(command).env("LARDER_ENGINES_BELOW", &below));
        let (code, removed, why) = said(&output);
        assert_eq!((code, removed.as_str()), (Some(1), ""), "{why}");
        assert!(why.contains("var/lib/docker is a link to /nonexistent/docker"), "{why}");
    }
    assert_eq!(host.ok(&["ls", "-q"]), "free\nneeded\n");
}

/// `ls` knew less than `prune`: not of sockets that only configurations name.
#[test]
fn what_prune_would_not_remove_is_not_listed_as_nobodys() {
    let host = host();
    let below = host.dir("below");
    let socket = docker(&host, Duration::ZERO, &[ONE]);
    fs::create_dir_all(below.join("etc/docker")).unwrap();
    fs::write(below.join("etc/docker/daemon.json"), format!("{{\"hosts\": [{socket:?}]}}")).unwrap();
    let mut command = host.command(&["ls", "-q", "--filter", "dangling=true"]);
    let (code, listed, why) = said(&run(command.env("LARDER_ENGINES_BELOW", &below)));
    assert_eq!((code, listed.as_str()), (Some(0), "free\n"), "{why}");
    let none = docker_at(&host, "other.sock", Duration::ZERO, &[NONE]);
    let mut command = host.command(&["ls", "-q", "--filter", "dangling=true"]);
    let output = run(command.env("LARDER_ENGINES_BELOW", &below).env("DOCKER_HOST", none));
    let (code, listed, why) = said(&output);
    assert_eq!((code, listed.as_str()), (Some(0), "free\n"), "{why}");
}

/// They were removed between two mounts of theirs: what mounts them at boot failed, and engines did not start.
#[test]
fn what_is_to_be_mounted_again_is_kept() {
    let host = Host::new();
    host.ok(&["create", "free"]);
    host.ok(&["create", "bound"]);
    let dir = host.dir("mnt");
    host.ok(&["set", "bound", &format!("mountpoint={}", dir.display())]);
    let output = run(&mut host.command(&["prune", "--force", "--ignore-silent-engines"]));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{why}");
    assert_eq!(host.ok(&["ls", "-q"]), "bound\n", "{why}");
    assert!(why.contains("volume \"bound\" is kept: it is to be mounted"), "{why}");
    assert!(why.contains(dir.to_str().unwrap()), "{why}");
}
