//! What the tests stand on: a root of their own, mounts that go away, and a native directory to compare with.

use larder::backing::OsDir;
use larder::crypto::{Keys, Secret};
use larder::store::BLOCK_BYTES;
use larder::volume::{LimitChange, LimitChanges, VolumeSpec, unlock_keys};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Programs that take longer than this hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program under test.
pub fn larder() -> &'static str {
    env!("CARGO_BIN_EXE_larder")
}

/// A directory on the disk that the build is on, gone at the end.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("larder-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs a program to its end, for at most [`PATIENCE`].
pub fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let pid = Pid::from_raw(child.id() as i32);
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}

/// Runs a program that must succeed; returns what it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a shell script that must succeed, in `dir`.
#[track_caller]
pub fn shell(dir: &Path, script: &str) -> String {
    succeed(Command::new("bash").arg("-euc").arg(script).current_dir(dir))
}

/// Runs a program in the background; killed at the end of its life.
pub struct Background(pub Child);

impl Background {
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}")))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that has a file open and writes to it, and does nothing else: what it writes stays with the kernel. (Not so what this
/// process writes: each program that it starts closes its files, and with each close the kernel writes back.)
pub struct Writer {
    program: Child,
    file: PathBuf,
}

impl Writer {
    /// Makes the file.
    pub fn open(file: PathBuf) -> Self {
        let open = File::create(&file).unwrap();
        let program = Command::new("cat").stdin(Stdio::piped()).stdout(open).spawn().unwrap();
        Self { program, file }
    }

    /// Appends to it.
    pub fn write(&mut self, text: &str) {
        use std::io::Write;
        let len = || fs::metadata(&self.file).unwrap().len();
        let before = len();
        self.program.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        wait_until("it is written", || len() == before + text.len() as u64);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Keeps the calling thread on a CPU. Where that CPU is not ours, it is another one.
pub fn on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// Waits until something is so. On a busy host everything takes its time; what never comes is all that is to fail.
#[track_caller]
pub fn wait_until(what: &str, so: impl FnMut() -> bool) {
    assert!(wait_for(so), "never: {what}");
}

/// As [`wait_until`]; false if it never comes.
pub fn wait_for(mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !so() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A directory that every user can get to, gone at the end.
pub fn public_scratch() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let everyone = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("larder-test-").permissions(everyone).tempdir_in("/tmp").unwrap()
}

/// A root with volumes. Its mounts and servers go with it.
pub struct Host {
    tmp: TempDir,
    public: TempDir,
    root: PathBuf,
    mounts: RefCell<Vec<PathBuf>>,
    /// Volumes are encrypted with this key file, without the test having to know.
    key: Option<PathBuf>,
}

/// Whether all tests are to use encrypted volumes: `LARDER_TEST_ENCRYPTED=1 scripts/test crash`.
fn always_encrypted() -> bool {
    std::env::var_os("LARDER_TEST_ENCRYPTED").is_some()
}

/// By which transport all tests are to mount: `LARDER_TEST_TRANSPORT=fuser scripts/test content`.
fn transport() -> Option<String> {
    std::env::var("LARDER_TEST_TRANSPORT").ok()
}

impl Host {
    pub fn new() -> Self {
        let tmp = scratch();
        let root = tmp.path().join("root");
        Self::with(tmp, root)
    }

    /// A host whose volumes are not encrypted, whatever the others are.
    pub fn plain() -> Self {
        let mut host = Self::new();
        host.key = None;
        host
    }

    /// One of each: with plain volumes and with encrypted ones.
    pub fn each_kind() -> [Self; 2] {
        [Self::plain(), Self::encrypted()]
    }

    /// The key file of encrypted volumes.
    pub fn key_file(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    /// The keys of a volume's store.
    pub fn keys(&self, name: &str) -> Keys {
        match &self.key {
            Some(key) => {
                let secret = Secret::KeyFile(fs::read(key).unwrap().into());
                unlock_keys(&OsDir::new(self.store(name)), &secret).unwrap()
            }
            None => Keys::Plain,
        }
    }

    /// A host whose volumes are encrypted.
    pub fn encrypted() -> Self {
        let mut host = Self::new();
        host.encrypt();
        host
    }

    fn encrypt(&mut self) {
        let key = self.public.path().join("key-file");
        fs::write(&key, pattern(64, 1234)).unwrap();
        self.key = Some(key);
    }

    /// A host whose root is elsewhere, on a disk of the test's.
    pub fn with_root(root: PathBuf) -> Self {
        Self::with(scratch(), root)
    }

    fn with(tmp: TempDir, root: PathBuf) -> Self {
        let mut host = Self { tmp, public: public_scratch(), root, mounts: RefCell::default(), key: None };
        if always_encrypted() {
            host.encrypt();
        }
        host
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory beside the root, on the native file system.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.tmp.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A directory that every user can get to, on the native file system.
    pub fn public_dir(&self, name: &str) -> PathBuf {
        let dir = self.public.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(larder());
        command.arg("--root").arg(&self.root).args(args);
        // Where tests look for them, also on a host with a journal.
        command.env("LARDER_LOG_TO", "file");
        command.env("LARDER_UNFINISHED", "remotes");
        // Engines of the host that runs the tests, and those of whoever runs them, are none of a test's.
        command.env("LARDER_ENGINES_BELOW", self.public.path().join("engines"));
        for named in ["DOCKER_HOST", "CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINERS_STORAGE_CONF"] {
            command.env_remove(named);
        }
        let takes_key = [
            "create", "mount", "check", "inspect", "df", "snapshot", "clone", "rollback", "resize", "diff",
            "rm", "get", "set", "scrub", "find", "rename", "hold", "release", "attach", "detach",
        ];
        let name = args.first().and_then(|name| name.as_ref().to_str());
        if let (Some(key), Some(name)) = (&self.key, name)
            && takes_key.contains(&name)
            && args.len() > 1
        {
            let is_clone = args.iter().any(|arg| arg.as_ref() == "--from");
            command.args((name == "create" && !is_clone).then_some("--encrypt")).arg("--key-file").arg(key);
        }
        let names_one = args.iter().any(|arg| arg.as_ref().to_string_lossy().contains("transport="));
        if let (Some("mount"), Some(transport)) = (name, transport())
            && args.len() > 1
            && !names_one
        {
            command.arg("-o").arg(format!("transport={transport}"));
        }
        command
    }

    /// A command that must succeed.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, args: &[A]) -> String {
        succeed(&mut self.command(args))
    }

    /// A command that must fail with `code`, in one line; returns the line.
    #[track_caller]
    pub fn fails<A: AsRef<OsStr>>(&self, code: i32, args: &[A]) -> String {
        let output = run(&mut self.command(args));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("larder: "), "{stderr}");
        stderr
    }

    pub fn json<A: AsRef<OsStr>>(&self, args: &[A]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Makes a volume and mounts it.
    #[track_caller]
    pub fn volume(&self, name: &str, create: &[&str]) -> PathBuf {
        self.ok(&[&["create", name], create].concat());
        self.mount(name, &[])
    }

    /// Makes `v`, and mounts it with servers that have a fault (`src/fuse/fault.rs`).
    #[track_caller]
    pub fn faulty_volume(&self, fault: &str, environment: &[(&str, &str)], options: &[&str]) -> PathBuf {
        self.ok(&["create", "v"]);
        let dir = self.make_mountpoint("v");
        let mut mount = self.command(&["mount".as_ref(), "v".as_ref(), dir.as_os_str()]);
        succeed(mount.args(options).env("LARDER_FAULT", fault).envs(environment.iter().copied()));
        dir
    }

    /// Where [`Host::mount`] mounts a volume.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.public.path().join("mnt").join(name)
    }

    /// Makes that directory. What is mounted there goes with the host.
    pub fn make_mountpoint(&self, name: &str) -> PathBuf {
        let dir = self.mountpoint(name);
        let _ = fs::create_dir_all(&dir);
        self.adopt(&dir);
        dir
    }

    #[track_caller]
    pub fn mount(&self, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.make_mountpoint(name);
        let mut args: Vec<&OsStr> = vec!["mount".as_ref(), name.as_ref(), dir.as_os_str()];
        args.extend(options.iter().map(OsStr::new));
        self.ok(&args);
        dir
    }

    /// Unmounts. Tests that make a namespace of mounts have all others' in it, until they have let go of them: for that long a
    /// mount may be in use by nobody.
    #[track_caller]
    pub fn umount(&self, name: &str) {
        const IN_USE: i32 = 5;
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let output = run(&mut self.command(&["umount", name]));
            if output.status.code() != Some(IN_USE) {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ok(&["umount", name]);
    }

    /// Unmounts and mounts again.
    #[track_caller]
    pub fn remount(&self, name: &str) -> PathBuf {
        self.umount(name);
        self.mount(name, &[])
    }

    /// Process id of a volume's server.
    #[track_caller]
    pub fn server(&self, name: &str) -> i32 {
        let volume = name.split('@').next().unwrap();
        self.json(&["inspect", volume])["server"]["pid"].as_i64().expect("the volume has a server") as i32
    }

    /// The process that holds what a volume is served with.
    #[track_caller]
    pub fn holder(&self, name: &str) -> i32 {
        let volume = name.split('@').next().unwrap();
        self.json(&["inspect", volume])["server"]["holder"].as_i64().expect("the volume has a server") as i32
    }

    /// Kills a volume's server, and its holder first, so that nobody takes over. Waits until they are gone.
    #[track_caller]
    pub fn kill_server(&self, name: &str) {
        let pids = [self.holder(name), self.server(name)];
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        wait_until("the server is gone", || !pids.iter().any(|pid| is_running(*pid)));
    }

    /// Processes that hold or serve stores of this host; holders first.
    pub fn servers(&self) -> Vec<i32> {
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            if words.contains(&&b"serve"[..]) && words.contains(&root.as_os_str().as_encoded_bytes()) {
                found.push((words.contains(&&b"--held"[..]), pid));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, pid)| pid).collect()
    }

    /// Waits a while until the servers have ended, and ends those that have not.
    pub fn end_servers(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.servers().iter().any(|pid| is_running(*pid)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that is just being started is found the next time.
        let until = Instant::now() + patience;
        loop {
            let left = self.servers();
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            if !left.iter().any(|pid| is_running(*pid)) || Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Notes a mount made by other means, to be unmounted at the end.
    pub fn adopt(&self, dir: &Path) {
        self.mounts.borrow_mut().push(dir.to_owned());
    }

    /// A check that must be clean.
    #[track_caller]
    pub fn check(&self, name: &str) {
        let report = self.ok(&["check", name, "--read-data", "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["clean"], Value::Bool(true), "{report:#}");
    }

    /// Runs a script in a mount namespace of its own, in which larder's helpers are installed in /sbin. In it, `V` is
    /// the directory to mount on.
    pub fn with_helpers(&self, script: &str) -> Output {
        let sbin = self.dir("sbin");
        for name in ["mount.larder", "mount.fuse.larder", "umount.larder", "umount.fuse.larder"] {
            let _ = symlink(larder(), sbin.join(name));
        }
        // A copy of another test's mount would keep that in use.
        let setup = format!(
            "set -e
             for m in $(findmnt -rno TARGET -t fuse.larder); do case $m in {own}/*) ;; *) umount -il $m || true ;; esac; done
             mount -t overlay overlay -o lowerdir={}:/usr/sbin /usr/sbin
             export LARDER_ROOT={} V={} LARDER_LOG_TO=file
             trap 'umount -l $V 2>/dev/null || true' EXIT\n",
            sbin.display(),
            self.root().display(),
            self.public_dir("v").display(),
            own = self.public_dir("v").parent().unwrap().display()
        );
        let output =
            run(Command::new("unshare").args(["-m", "bash", "-c", &format!("exec 2>&1; {setup}{script}")]));
        // Whatever the script mounted went with its namespace.
        wait_until("its server ends", || {
            // The script may have made no volume.
            !self.root().exists()
                || self
                    .json(&["ls", "--json"])
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|v| v["mountpoints"] == serde_json::json!([]))
        });
        output
    }

    /// The directory of a volume's store.
    pub fn store(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name).canonicalize().unwrap()
    }
}

/// Whether a process runs (a zombie does not).
pub fn is_running(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

/// Stops a process. Nothing of it runs any more when this returns: on busy CPUs, threads go on for a while after the signal.
#[track_caller]
pub fn stop(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    wait_until("all of its threads are stopped", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(is_stopped)
    });
}

impl Drop for Host {
    fn drop(&mut self) {
        for dir in self.mounts.borrow().iter().rev() {
            // All that lies there, one on the other.
            while umount2(dir, MntFlags::MNT_DETACH).is_ok() {}
        }
        self.end_servers(Duration::from_secs(5));
    }
}

/// Does the same in a native directory and on a volume, and demands the same result.
#[track_caller]
pub fn same_as_native<T: PartialEq + Debug>(what: impl Fn(&Path) -> T) {
    let host = Host::new();
    let native = host.dir("native");
    let volume = host.volume("v", &[]);
    let (expected, found) = (what(&native), what(&volume));
    assert_eq!(found, expected, "the volume (left) behaves otherwise than the native file system (right)");
    host.umount("v");
    host.check("v");
}

/// The errno of a failed operation, or 0.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

/// Does something as another user, in a process of its own, and returns whether it succeeded.
pub fn as_user(uid: u32, gid: u32, script: &str) -> Output {
    run(Command::new("setpriv").args([
        &format!("--reuid={uid}"),
        &format!("--regid={gid}"),
        "--clear-groups",
        "--",
        "bash",
        "-c",
        script,
    ]))
}

/// Bytes that are different everywhere and the same in every run.
pub fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Everything that can be seen of a tree: names, kinds, permissions, owners, links, sizes, times, targets, contents.
pub fn state(dir: &Path) -> String {
    shell(
        dir,
        "find . -printf '%P %y %m %U %G %n %s %T@ %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0r sha256sum",
    )
}

/// What the volume `v` of a store without a mount is to be: limits in blocks and inodes.
pub fn volume_spec(blocks: Option<u64>, inodes: Option<u64>) -> VolumeSpec {
    VolumeSpec {
        name: "v".into(),
        limits: LimitChanges {
            size: blocks.map_or(LimitChange::Lift, |blocks| LimitChange::Set(blocks * BLOCK_BYTES as u64)),
            inodes: inodes.map_or(LimitChange::Lift, LimitChange::Set),
            metadata: LimitChange::Lift,
        },
        uid: 0,
        gid: 0,
        mode: 0o755,
        labels: Default::default(),
        remote: None,
    }
}

/// Makes or opens a file past the page cache. Buffers for it have to be aligned.
pub fn open_direct(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
    options.open(path).unwrap()
}
