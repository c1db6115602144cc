//! An ordinary user, with a home, and a namespace of mounts that root has made: in it, the device of FUSE is what udev makes it on most
//! hosts, and files of `/etc` say what the test wants them to.

use crate::support::{Host, is_running, larder, public_scratch, run, scratch, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The number of the user, and of the user's group.
pub const UID: u32 = 4321;
/// The first of the numbers that the user may give to others in namespaces of his own.
pub const SUB_UID: u32 = 200_000;

/// Runs as root, with a directory of the host's disk and one that all can enter.
const SETUP: &str = r"set -e
    disk=$1 public=$2
    # A copy of another test's mount would keep that in use.
    for mount in $(findmnt -rno TARGET -t fuse.larder); do umount -il $mount || true; done
    mknod $disk/fuse c 10 229; chmod 666 $disk/fuse; mount --bind $disk/fuse /dev/fuse
    for file in passwd group subuid subgid fuse.conf; do [ -e /etc/$file ] && cp /etc/$file $disk/ || : > $disk/$file; done
    echo user:x:4321:4321::$public/home:/bin/bash >> $disk/passwd; echo user:x:4321: >> $disk/group
    echo user:200000:65536 | tee $disk/subuid > $disk/subgid
    echo '# nothing' > $disk/fuse.conf
    for file in passwd group subuid subgid fuse.conf; do mount --bind $disk/$file /etc/$file; done
    : > $public/bin/larder; mount --bind $3 $public/bin/larder
    echo ready; exec cat";

/// An ordinary user. What he has mounted, and his servers, go with him.
pub struct User {
    public: TempDir,
    disk: TempDir,
    space: Child,
    /// The root that he has by default.
    pub host: Host,
}

impl User {
    pub fn new() -> Self {
        let (disk, public) = (scratch(), public_scratch());
        fs::create_dir(public.path().join("bin")).unwrap();
        for dir in ["home", "run"] {
            let dir = public.path().join(dir);
            fs::create_dir(&dir).unwrap();
            chown(&dir, Some(UID), Some(UID)).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut space = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", SETUP, "setup"])
            .args([disk.path(), public.path(), Path::new(larder())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(space.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let host = Host::with_root(public.path().join("home/.local/share/larder"));
        Self { public, disk, space, host }
    }

    pub fn home(&self) -> PathBuf {
        self.public.path().join("home")
    }

    /// A directory of root's that all can enter.
    pub fn public(&self) -> &Path {
        self.public.path()
    }

    /// A directory of root's, on the disk that the build is on.
    pub fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// Has a line of `/etc/fuse.conf` for him.
    pub fn configure_fuse(&self, line: &str) {
        fs::write(self.disk.path().join("fuse.conf"), format!("{line}\n")).unwrap();
    }

    /// The program that enters his namespace and runs a script there, as root.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.space.id().to_string(), "--mount", "--"]);
        command
    }

    /// Runs a script in his namespace as root, which must succeed.
    #[track_caller]
    pub fn as_root(&self, script: &str) -> String {
        checked(script, &run(self.enter().args(["bash", "-euc", script])))
    }

    /// A command that runs a script as him, in his home.
    pub fn command(&self, script: &str) -> Command {
        let (home, public) = (self.home(), self.public.path().display());
        let mut command = self.enter();
        command
            .args(["setpriv", &format!("--reuid={UID}"), &format!("--regid={UID}"), "--clear-groups", "--"])
            .args([
                "env",
                "-i",
                &format!("HOME={}", home.display()),
                &format!("XDG_RUNTIME_DIR={public}/run"),
            ])
            .args([&format!("PATH={public}/bin:/usr/bin:/bin:/usr/sbin:/sbin"), "LANG=C.UTF-8"])
            .args(["bash", "-uc", &format!("set -e; cd; {script}")]);
        command
    }

    pub fn run(&self, script: &str) -> Output {
        run(&mut self.command(script))
    }

    /// Runs a script as him that must succeed; returns what it printed, without the last newline.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        checked(script, &self.run(script))
    }

    /// Runs a command as him that must fail with `code`, in one line; returns the line.
    #[track_caller]
    pub fn fails(&self, code: i32, script: &str) -> String {
        let output = self.run(script);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("larder: "), "{stderr}");
        stderr
    }

    /// What a command prints as JSON.
    #[track_caller]
    pub fn json(&self, script: &str) -> Value {
        serde_json::from_str(&self.sh(script)).unwrap()
    }

    /// The process that serves a volume.
    #[track_caller]
    pub fn server(&self, name: &str) -> i32 {
        self.process(name, "pid")
    }

    #[track_caller]
    fn process(&self, name: &str, which: &str) -> i32 {
        let seen = self.json(&format!("larder inspect {name}"));
        seen["server"][which].as_i64().expect("the volume has a server") as i32
    }

    /// Kills a volume's server, and waits until another one serves in its place.
    #[track_caller]
    pub fn replace_server(&self, name: &str) {
        let before = self.server(name);
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        wait_until("another server takes over", || self.server(name) != before);
    }

    /// Kills a volume's server, and its holder first, so that nobody takes over.
    #[track_caller]
    pub fn kill_server(&self, name: &str) {
        let pids = [self.process(name, "holder"), self.server(name)];
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        wait_until("the server is gone", || !pids.iter().any(|pid| is_running(*pid)));
    }

    /// Waits until nothing of his runs any more that serves a volume.
    #[track_caller]
    pub fn await_no_server(&self) {
        wait_until("the servers end", || !self.host.servers().iter().any(|pid| is_running(*pid)));
    }
}

#[track_caller]
fn checked(script: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
    out.trim_end_matches('\n').to_owned()
}

impl Drop for User {
    fn drop(&mut self) {
        // Servers keep the namespace, and what is mounted in it the servers.
        let unmount = "for dir in $(findmnt -rno TARGET -t fuse.larder | tac); do umount -l $dir; done";
        let _ = run(self.enter().args(["bash", "-c", unmount]));
        self.host.end_servers(Duration::from_secs(5));
        drop(self.space.stdin.take());
        let _ = self.space.wait();
    }
}
