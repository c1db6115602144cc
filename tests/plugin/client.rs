//! A plugin on a root of its own, and an engine's side of the socket.

use crate::support::{Host, is_running, larder, wait_until};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What an engine is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A plugin that runs. At the end, it, its mounts and its servers go.
pub struct Plugin<'a> {
    pub host: &'a Host,
    pub engine: Engine,
    child: Child,
}

/// An engine that uses the plugin behind a socket. Threads may share it.
pub struct Engine {
    pub socket: PathBuf,
}

impl Deref for Plugin<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// Sends bytes and reads until the other side has nothing more to say.
pub fn exchange(socket: &Path, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    // It may have heard enough before it heard everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(_) if !answer.is_empty() => Ok(answer),
        other => other.map(|_| answer),
    }
}

/// A request as engines send it: without a media type, as dockerd does.
pub fn request(method: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Reads an answer. Panics if it is none.
pub fn parse(answer: &[u8]) -> Answer {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Answer { status, body: serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {text:?}")) }
}

/// The socket of a host's plugin.
pub fn socket(host: &Host) -> PathBuf {
    host.dir("run").join("larder.sock")
}

/// The command that starts a plugin.
pub fn command(host: &Host) -> Command {
    let mut command = Command::new(larder());
    let log = File::options().append(true).create(true).open(host.dir("run").join("plugin.log")).unwrap();
    command.env("LARDER_LOG_TO", "file");
    command.arg("--root").arg(host.root()).args(["-v", "plugin", "--socket"]).arg(socket(host));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

impl<'a> Plugin<'a> {
    /// Starts a plugin and waits until it is ready.
    #[track_caller]
    pub fn start(host: &'a Host) -> Self {
        let plugin = Self::launch(host, &mut command(host));
        plugin.await_ready();
        plugin
    }

    /// Starts a plugin and waits for nothing.
    pub fn launch(host: &'a Host, command: &mut Command) -> Self {
        Self { host, engine: Engine { socket: socket(host) }, child: command.spawn().unwrap() }
    }

    #[track_caller]
    pub fn await_ready(&self) {
        wait_until("the plugin listens", || {
            assert!(is_running(self.pid()), "the plugin ended: {}", self.log());
            exchange(&self.socket, &request("VolumeDriver.List", b"")).is_ok_and(|answer| !answer.is_empty())
        });
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end; how it ended.
    #[track_caller]
    pub fn await_end(&mut self) -> std::process::ExitStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "the plugin does not end: {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it and starts another.
    #[track_caller]
    pub fn crash(mut self) -> Self {
        self.signal(Signal::SIGKILL);
        self.await_end();
        let host = self.host;
        self.child = command(host).spawn().unwrap();
        self.await_ready();
        self
    }
}

impl Engine {
    /// What the plugin has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.socket.with_file_name("plugin.log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn raw(&self, method: &str, body: &[u8]) -> Answer {
        let answer = exchange(&self.socket, &request(method, body));
        parse(&answer.unwrap_or_else(|e| panic!("{method}: {e}; {}", self.log())))
    }

    #[track_caller]
    pub fn call(&self, method: &str, body: &Value) -> Answer {
        self.raw(method, body.to_string().as_bytes())
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn ok(&self, method: &str, body: &Value) -> Value {
        let answer = self.call(method, body);
        assert_eq!(answer.status, 200, "{method} {body}: {answer:?}");
        assert!(answer.body["Err"].as_str().unwrap_or("").is_empty(), "{method} {body}: {answer:?}");
        answer.body
    }

    /// A call that must fail as both engines understand it; why it did.
    #[track_caller]
    pub fn fails(&self, method: &str, body: &Value) -> String {
        let answer = self.call(method, body);
        assert_eq!(answer.status, 500, "{method} {body}: {answer:?}");
        let why = answer.body["Err"].as_str().unwrap().to_owned();
        assert!(!why.is_empty(), "{method} {body}");
        why
    }

    #[track_caller]
    pub fn create(&self, name: &str, options: &Value) {
        self.ok("VolumeDriver.Create", &json!({ "Name": name, "Opts": options }));
    }

    #[track_caller]
    pub fn mount(&self, name: &str, id: &str) -> PathBuf {
        let body = self.ok("VolumeDriver.Mount", &json!({ "Name": name, "ID": id }));
        PathBuf::from(body["Mountpoint"].as_str().unwrap())
    }

    #[track_caller]
    pub fn unmount(&self, name: &str, id: &str) {
        self.ok("VolumeDriver.Unmount", &json!({ "Name": name, "ID": id }));
    }

    /// Waits until a volume that nobody uses is unmounted: at once, but for a test that has a copy of all mounts just now.
    #[track_caller]
    pub fn await_unmounted(&self, name: &str) {
        wait_until("it is unmounted", || self.path(name).is_empty());
    }

    /// Removes a volume, as soon as no other test has a copy of all mounts.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        let mut last = None;
        wait_until("it is removed", || {
            let answer = self.call("VolumeDriver.Remove", &json!({ "Name": name }));
            let held = answer.body["Err"].as_str().unwrap().contains("by programs");
            assert!(answer.status == 200 || held, "{answer:?}, {last:?}");
            last = Some(answer.clone());
            answer.status == 200
        });
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> Value {
        self.ok("VolumeDriver.Get", &json!({ "Name": name }))["Volume"].clone()
    }

    /// Where a volume is mounted, or would be.
    #[track_caller]
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.ok("VolumeDriver.Path", &json!({ "Name": name }))["Mountpoint"].as_str().unwrap().into()
    }

    /// Where a volume is mounted: nowhere, if that is empty.
    #[track_caller]
    pub fn path(&self, name: &str) -> String {
        let dir = self.mountpoint(name);
        let mounted = larder::mount::entry_at(&dir).unwrap().is_some();
        if mounted { dir.to_str().unwrap().to_owned() } else { String::new() }
    }
}

/// What is mounted below a host's root.
pub fn mounts(host: &Host) -> Vec<PathBuf> {
    let Ok(root) = host.root().canonicalize() else { return Vec::new() };
    let entries = larder::mount::entries().unwrap();
    entries.into_iter().map(|entry| entry.dir).filter(|dir| dir.starts_with(root.join("mnt"))).collect()
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for dir in mounts(self.host).iter().rev() {
            let _ = umount2(dir, MntFlags::MNT_DETACH);
        }
        self.host.end_servers(Duration::from_secs(10));
        if std::thread::panicking() {
            eprintln!("the plugin said:\n{}", self.log());
        }
    }
}
