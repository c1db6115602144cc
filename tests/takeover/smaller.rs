//! The smaller program of holders and servers: which volumes have it, and that nothing depends on it.

use super::lose_server;
use crate::support::{Host, is_running, larder, pattern, succeed, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SMALLER: &str = "larder-server";

/// Where the smaller program was built.
fn built() -> &'static str {
    env!("CARGO_BIN_EXE_larder-server")
}

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// The names of the programs of the holder and the server of `v`.
fn programs(host: &Host) -> [String; 2] {
    [host.holder("v"), host.server("v")]
        .map(|pid| program_of(pid).file_name().unwrap().to_string_lossy().into_owned())
}

/// What lists of processes show.
fn shown(pid: i32) -> (String, Vec<u8>) {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap();
    (String::from_utf8(read("comm")).unwrap(), read("cmdline"))
}

/// A `larder` of its own, with what else there is beside it.
struct Program {
    dir: PathBuf,
}

impl Program {
    fn new(host: &Host) -> Self {
        let dir = host.dir("bin");
        let program = Self { dir };
        program.copy(larder().as_ref(), &program.larder());
        program
    }

    fn larder(&self) -> PathBuf {
        self.dir.join("larder")
    }

    /// By another process: a program that is started meanwhile has what is open here for a moment, and what is being written cannot be run.
    fn copy(&self, from: &Path, to: &Path) {
        succeed(Command::new("cp").arg("--preserve=mode").args([from, to]));
    }

    /// With the permissions of `larder`.
    fn put(&self, place: impl AsRef<Path>, bytes: &[u8]) {
        let (contents, file) = (self.dir.join("contents"), self.dir.join(place));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&file);
        fs::write(&contents, bytes).unwrap();
        fs::set_permissions(&contents, fs::metadata(self.larder()).unwrap().permissions()).unwrap();
        self.copy(&contents, &file);
    }

    /// Mounts `v` with it.
    fn mount(&self, host: &Host) -> PathBuf {
        let dir = host.make_mountpoint("v");
        let by_larder = host.command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str()]);
        let mut command = Command::new(self.larder());
        command.args(by_larder.get_args());
        for (name, value) in by_larder.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        succeed(&mut command);
        dir
    }

    /// What the holder and the server of `v` run when it mounts it.
    fn serves_with(&self, host: &Host) -> [String; 2] {
        let dir = self.mount(host);
        fs::write(dir.join("f"), "written").unwrap();
        let found = programs(host);
        host.umount("v");
        found
    }
}

#[test]
fn volumes_without_a_remote_have_it_and_are_called_as_ever() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &[]);
        fs::write(dir.join("f"), pattern(100_000, 1)).unwrap();
        for _ in 0..2 {
            assert_eq!(programs(&host), [SMALLER, SMALLER]);
            assert_eq!(program_of(host.server("v")), Path::new(built()));
            for pid in [host.holder("v"), host.server("v")] {
                let (comm, line) = shown(pid);
                assert_eq!(comm, "larder: v\n");
                let begin =
                    [b"larder: v\0--root\0", host.root().as_os_str().as_encoded_bytes(), b"\0serve\0"];
                assert!(line.starts_with(&begin.concat()), "{}", String::from_utf8_lossy(&line));
            }
            lose_server(&host, "v");
        }
        assert!(fs::read(dir.join("f")).unwrap() == pattern(100_000, 1));
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn larder_does_without_where_it_is_missing_or_cannot_be_trusted_or_run() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let program = Program::new(&host);
    assert_eq!(program.serves_with(&host), ["larder", "larder"], "it is missing");
    let good = fs::read(built()).unwrap();
    for (why, bad) in [("no program", &b"exit 1\n"[..]), ("nothing", b""), ("a part of it", &good[..64])] {
        program.put(SMALLER, bad);
        assert_eq!(program.serves_with(&host), ["larder", "larder"], "{why}");
    }
    // One that only has the name would become itself again and again.
    program.put(SMALLER, &fs::read(larder()).unwrap());
    program.mount(&host);
    for pid in [host.holder("v"), host.server("v")] {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert!(files < 100, "{files}");
    }
    host.umount("v");
    program.put(SMALLER, &good);
    let file = program.dir.join(SMALLER);
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(&program.dir, 0o777);
    assert_eq!(program.serves_with(&host), ["larder", "larder"], "anybody can put another one there");
    set_mode(&program.dir, 0o755);
    let elsewhere = program.dir.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert_eq!(program.serves_with(&host), ["larder", "larder"], "a link");
    fs::remove_file(&file).unwrap();
    fs::rename(&elsewhere, &file).unwrap();
    set_mode(&file, 0o777);
    assert_eq!(program.serves_with(&host), ["larder", "larder"], "anybody can change it");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(program.serves_with(&host), ["larder", "larder"], "a pipe");
    program.put(SMALLER, &good);
    assert_eq!(program.serves_with(&host), [SMALLER, SMALLER]);
    fs::remove_file(&file).unwrap();
    program.put("../libexec/larder/larder-server", &good);
    assert_eq!(program.serves_with(&host), [SMALLER, SMALLER], "where it is installed");
    host.check("v");
}

#[test]
fn one_of_another_build_serves_nothing() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let program = Program::new(&host);
    // Another build is one that calls itself otherwise.
    let (build, mut other) = (env!("LARDER_BUILD").as_bytes(), fs::read(built()).unwrap());
    let places: Vec<usize> =
        other.windows(build.len()).enumerate().filter(|(_, at)| *at == build).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        other[at..at + build.len()].copy_from_slice(b"0123456789abcdeg");
    }
    program.put(SMALLER, &other);
    program.mount(&host);
    assert_eq!(programs(&host), ["larder", "larder"]);
    for pid in [host.holder("v"), host.server("v")] {
        let (_, line) = shown(pid);
        assert!(line.ends_with(b"\0--itself\0"), "it was not that one which started it: {line:?}");
    }
    host.umount("v");
    host.check("v");
}

/// The holder goes on with the program that it has, also where that is gone from the disk, or something else is in its place.
#[test]
fn what_becomes_of_the_files_does_not_matter_to_what_runs() {
    let host = Host::new();
    host.volume("v", &[]);
    let program = Program::new(&host);
    program.put(SMALLER, &fs::read(built()).unwrap());
    let upgrade = || {
        host.ok(&[OsStr::new("upgrade"), OsStr::new("v"), "--program".as_ref(), program.larder().as_ref()])
    };
    upgrade();
    assert_eq!(programs(&host), [SMALLER, SMALLER]);
    assert_eq!(program_of(host.server("v")), program.dir.join(SMALLER));
    // An upgrade of the package, half of which is there.
    program.put(SMALLER, b"of the next version");
    lose_server(&host, "v");
    assert_eq!(programs(&host), [SMALLER, "larder"]);
    fs::remove_file(program.dir.join(SMALLER)).unwrap();
    fs::remove_file(program.larder()).unwrap();
    for _ in 0..2 {
        lose_server(&host, "v");
        assert!(program_of(host.server("v")).to_str().unwrap().ends_with("/bin/larder (deleted)"));
    }
    host.ok(&["upgrade", "v"]);
    assert_eq!(programs(&host), [SMALLER, SMALLER]);
    host.umount("v");
    host.check("v");
}

/// The same of the program that it was started with.
#[test]
fn a_holder_starts_the_larder_that_it_was_started_by() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let program = Program::new(&host);
    program.put(SMALLER, &fs::read(built()).unwrap());
    program.mount(&host);
    fs::remove_dir_all(&program.dir).unwrap();
    for _ in 0..2 {
        lose_server(&host, "v");
        assert_eq!(programs(&host), ["larder-server (deleted)", "larder (deleted)"]);
    }
    host.umount("v");
    host.check("v");
}

/// Nobody executes it, so that it can be written over. What was in its place then took over.
#[test]
fn a_larder_that_was_written_over_takes_over_nothing() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let program = Program::new(&host);
    program.put(SMALLER, &fs::read(built()).unwrap());
    let dir = program.mount(&host);
    fs::write(dir.join("f"), "written").unwrap();
    fs::write(program.larder(), "#!/bin/sh\nexit 1\n").unwrap();
    for _ in 0..2 {
        lose_server(&host, "v");
        assert_eq!(programs(&host), [SMALLER, SMALLER]);
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "written");
    }
    host.umount("v");
    host.check("v");
}

/// It was served without its remote, and nothing was shipped.
#[test]
fn a_header_from_before_there_was_a_remote_hides_none() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let header = host.store("v").join("header.json");
    let before = fs::read(&header).unwrap();
    host.ok(&["remote", "add", "v", &format!("file://{}", host.dir("remote").display())]);
    fs::write(&header, before).unwrap();
    host.mount("v", &[]);
    assert_eq!(programs(&host), ["larder", "larder"]);
    host.umount("v");
}

#[test]
fn a_volume_that_gets_a_remote_is_served_by_larder_until_it_has_none() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let remote = format!("file://{}", host.dir("remote").display());
    assert_eq!(programs(&host), [SMALLER, SMALLER]);
    host.ok(&["remote", "add", "v", &remote]);
    assert_eq!(programs(&host), [SMALLER, "larder"]);
    fs::write(dir.join("f"), "shipped").unwrap();
    host.ok(&["remote", "sync", "v"]);
    lose_server(&host, "v");
    assert_eq!(programs(&host), [SMALLER, "larder"]);
    host.umount("v");
    host.mount("v", &[]);
    assert_eq!(programs(&host), ["larder", "larder"]);
    host.ok(&["remote", "detach", "v"]);
    assert_eq!(programs(&host), ["larder", SMALLER]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "shipped");
    host.umount("v");
    host.check("v");
}

#[test]
fn the_smaller_program_serves_on_without_its_holder() {
    let host = Host::new();
    host.volume("v", &[]);
    let (holder, server) = (host.holder("v"), host.server("v"));
    kill(Pid::from_raw(holder), Signal::SIGKILL).unwrap();
    wait_until("the holder is gone", || !is_running(holder));
    assert!(is_running(server));
    assert_eq!(host.server("v"), server);
    host.umount("v");
    wait_until("the server ends", || !is_running(server));
    host.check("v");
}

#[test]
fn by_itself_it_says_what_it_is_for() {
    let output = Command::new(built()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("larder-server is started by `larder mount`"), "{said}");
}
