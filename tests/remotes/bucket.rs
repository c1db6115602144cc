//! An S3 server in this process that fails when it is told to, and hosts whose volumes are shipped there.
//!
//! It speaks what the crate `object_store` asks for, over plain HTTP, with the bucket in the path. Signatures are not checked, but whose key
//! has made them is.

use crate::support::{Host, run, succeed};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most bytes of a request.
const BODY_MAX: u64 = 256 << 20;
/// Names in a page of a list at most, as S3 has it.
const PAGE_MAX: usize = 1000;

/// What happens to a request instead of what it asks for.
#[derive(Clone, Copy, Debug)]
pub enum Trick {
    /// It is answered so, and not done.
    Answer(u16, &'static str),
    /// It is done, and the connection ends without an answer.
    LoseAnswer,
    /// It is done so much later.
    Late(Duration),
    /// It is done, and answered so much later.
    HoldAnswer(Duration),
}

/// Which requests meet with a trick.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `""`: of any method.
    pub method: &'static str,
    /// What is in the name of the object, or in the prefix of the list.
    pub name: String,
    /// The key that has signed it; `""`: any.
    pub key: &'static str,
    pub trick: Trick,
    /// Not the first ones that it fits.
    pub spares: u32,
    /// Of those that follow, one of so many.
    pub one_of: u32,
    /// So many at most.
    pub most: u32,
}

impl Rule {
    /// Every request of this method for objects that have `name` in theirs.
    pub fn all(method: &'static str, name: &str, trick: Trick) -> Self {
        Self { method, name: name.into(), key: "", trick, spares: 0, one_of: 1, most: u32::MAX }
    }

    pub fn once(method: &'static str, name: &str, trick: Trick) -> Self {
        Self { most: 1, ..Self::all(method, name, trick) }
    }

    fn fits(&self, request: &Request) -> bool {
        (self.method.is_empty() || self.method == request.method)
            && request.about().contains(&self.name)
            && (self.key.is_empty() || self.key == request.key)
    }
}

/// A request that was answered, or would have been.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// The name of the object, or the prefix of the list.
    pub name: String,
    /// The key that has signed it.
    pub key: String,
    pub status: u16,
    /// Names in the answer to a list.
    pub listed: usize,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Arc<[u8]>,
    tag: u64,
    made: Timestamp,
    /// When lists begin to have it.
    listed: Instant,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    tags: u64,
    /// Each with the requests that it fitted, and those that it met.
    rules: Vec<(Rule, u32, u32)>,
    keys: BTreeSet<String>,
    asked: Vec<Asked>,
    lists_late: Duration,
    clock_ahead: Duration,
    connections: Vec<TcpStream>,
}

impl State {
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.clock_ahead
    }

    /// What meets a request.
    fn trick(&mut self, request: &Request) -> Option<Trick> {
        for (rule, fitted, met) in &mut self.rules {
            if !rule.fits(request) || *met >= rule.most {
                continue;
            }
            *fitted += 1;
            if *fitted > rule.spares && (*fitted - rule.spares - 1) % rule.one_of == 0 {
                *met += 1;
                return Some(rule.trick);
            }
        }
        None
    }
}

/// A bucket, `s3://bucket`.
pub struct Bucket {
    state: Arc<Mutex<State>>,
    at: Mutex<SocketAddr>,
    /// The network that it is in, if it is not the test's.
    network: Option<PathBuf>,
    accepting: Mutex<Option<(JoinHandle<()>, Arc<AtomicBool>)>>,
}

impl Bucket {
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), None)
    }

    /// One that is reached at an address of a network.
    pub fn at(at: SocketAddr, network: Option<PathBuf>) -> Self {
        let bucket = Self { state: Arc::default(), at: Mutex::new(at), network, accepting: Mutex::default() };
        bucket.come_back();
        bucket
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at.lock())
    }

    /// Accepts connections, where it was before.
    pub fn come_back(&self) {
        let (state, at, network) = (Arc::clone(&self.state), *self.at.lock(), self.network.clone());
        let (ends, is_at) = (Arc::new(AtomicBool::new(false)), std::sync::mpsc::channel());
        let ending = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            if let Some(network) = network {
                setns(File::open(network).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            }
            let listener = TcpListener::bind(at).unwrap();
            is_at.0.send(listener.local_addr().unwrap()).unwrap();
            while !ending.load(Ordering::Acquire) {
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(20_u8)) != Ok(1) {
                    continue;
                }
                let Ok((stream, _)) = listener.accept() else { continue };
                state.lock().connections.push(stream.try_clone().unwrap());
                let state = Arc::clone(&state);
                // It ends with its connection.
                std::thread::spawn(move || serve(&state, &stream));
            }
        });
        *self.at.lock() = is_at.1.recv().unwrap();
        *self.accepting.lock() = Some((thread, ends));
    }

    /// Connections are refused from now on, and those that there are end.
    pub fn go_away(&self) {
        let Some((thread, ends)) = self.accepting.lock().take() else { return };
        ends.store(true, Ordering::Release);
        thread.join().unwrap();
        for connection in self.state.lock().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Nobody with this key is let in any more.
    pub fn revoke(&self, key: &str) {
        self.state.lock().keys.remove(key);
    }

    pub fn let_in(&self, key: &str) {
        self.state.lock().keys.insert(key.into());
    }

    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push((rule, 0, 0));
    }

    pub fn clear_rules(&self) {
        self.state.lock().rules.clear();
    }

    /// How many requests met with a trick.
    pub fn met(&self) -> u32 {
        self.state.lock().rules.iter().map(|(_, _, met)| met).sum()
    }

    /// Lists have what was written only so much later.
    pub fn list_late(&self, by: Duration) {
        self.state.lock().lists_late = by;
    }

    /// Its clock is ahead of all others by so much.
    pub fn set_ahead(&self, by: Duration) {
        self.state.lock().clock_ahead = by;
    }

    /// What was asked since this was asked last.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// Puts an object there, as somebody else.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock();
        let (made, tag) = (state.now(), state.tags);
        let object = Object { bytes: bytes.into(), tag, made, listed: Instant::now() };
        state.objects.insert(name.into(), object);
    }

    pub fn names(&self, under: &str) -> Vec<String> {
        self.state.lock().objects.keys().filter(|name| name.starts_with(under)).cloned().collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.go_away();
    }
}

struct Request {
    method: String,
    /// Of the object; empty for the bucket.
    name: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    key: String,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    listed: usize,
}

impl Answer {
    fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), listed: 0 }
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>").into_bytes();
        Self { body, ..Self::of(status) }
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).unwrap()
}

impl Request {
    /// The next one of a connection; `None` where it ends.
    fn read(reader: &mut BufReader<&TcpStream>) -> Option<Self> {
        let line = |reader: &mut BufReader<&TcpStream>| {
            let mut line = String::new();
            let read = reader.by_ref().take(64 << 10).read_line(&mut line).ok()?;
            (read > 0).then(|| line.trim_end().to_owned())
        };
        let first = line(reader)?;
        let mut words = first.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        let mut headers = BTreeMap::new();
        loop {
            let header = line(reader)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let len: u64 = headers.get("content-length").map_or(Some(0), |len| len.parse().ok())?;
        let mut body = Vec::new();
        reader.by_ref().take(len.min(BODY_MAX)).read_to_end(&mut body).ok()?;
        if (body.len() as u64) < len {
            return None;
        }
        let signed = headers.get("authorization").and_then(|text| text.split_once("Credential="));
        let key = signed.and_then(|(_, rest)| rest.split_once('/')).map_or("", |(key, _)| key).to_owned();
        let (_, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        Some(Self { method, name: decoded(name), query: query.collect(), headers, key, body })
    }

    /// The name of the object, or the prefix of the list.
    fn about(&self) -> &str {
        match (self.method.as_str(), self.name.is_empty()) {
            (_, false) => &self.name,
            // (They are removed one by one.)
            ("POST", true) => self.removed().next().unwrap_or_default(),
            (_, true) => self.query.get("prefix").map_or("", String::as_str),
        }
    }

    /// The names that it is to remove.
    fn removed(&self) -> impl Iterator<Item = &str> {
        let body = std::str::from_utf8(&self.body).unwrap();
        body.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0))
    }
}

/// Answers the requests of a connection.
fn serve(state: &Mutex<State>, stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        let trick = {
            let mut state = state.lock();
            match state.keys.contains(&request.key) {
                true => state.trick(&request),
                false => Some(Trick::Answer(403, "InvalidAccessKeyId")),
            }
        };
        if let Some(Trick::Late(by)) = trick {
            std::thread::sleep(by);
        }
        let answer = {
            let mut state = state.lock();
            let answer = match trick {
                Some(Trick::Answer(status, code)) => Answer::error(status, code),
                _ => answer(&mut state, &request),
            };
            state.asked.push(Asked {
                method: request.method.clone(),
                name: request.about().into(),
                key: request.key.clone(),
                status: answer.status,
                listed: answer.listed,
            });
            answer
        };
        if let Some(Trick::HoldAnswer(by)) = trick {
            std::thread::sleep(by);
        }
        if matches!(trick, Some(Trick::LoseAnswer)) || send(stream, &request, &answer).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn send(mut stream: &TcpStream, request: &Request, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} It is a test\r\n", answer.status);
    let has_length = answer.headers.iter().any(|(name, _)| *name == "Content-Length");
    if !has_length && answer.status != 204 {
        let _ = write!(head, "Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let mut bytes = (head + "\r\n").into_bytes();
    if request.method != "HEAD" {
        bytes.extend_from_slice(&answer.body);
    }
    stream.write_all(&bytes)
}

fn answer(state: &mut State, request: &Request) -> Answer {
    match (request.method.as_str(), request.name.is_empty()) {
        ("GET", true) => list(state, request),
        ("POST", true) => remove_many(state, request),
        ("PUT", false) => put(state, request),
        ("GET" | "HEAD", false) => get(state, request),
        ("DELETE", false) => {
            state.objects.remove(&request.name);
            Answer::of(204)
        }
        _ => Answer::error(400, "InvalidRequest"),
    }
}

fn put(state: &mut State, request: &Request) -> Answer {
    let there = state.objects.get(&request.name).map(|object| format!("\"{}\"", object.tag));
    let is_refused = match (request.headers.get("if-none-match"), request.headers.get("if-match")) {
        (Some(_), _) => there.is_some(),
        (_, Some(tag)) => there.as_ref() != Some(tag),
        _ => false,
    };
    if is_refused {
        return Answer::error(412, "PreconditionFailed");
    }
    state.tags += 1;
    let object = Object {
        bytes: request.body.as_slice().into(),
        tag: state.tags,
        made: state.now(),
        listed: Instant::now() + state.lists_late,
    };
    state.objects.insert(request.name.clone(), object);
    Answer { headers: vec![("ETag", format!("\"{}\"", state.tags))], ..Answer::of(200) }
}

fn get(state: &State, request: &Request) -> Answer {
    let Some(object) = state.objects.get(&request.name) else { return Answer::error(404, "NoSuchKey") };
    let len = object.bytes.len();
    let made = DateTimePrinter::new().timestamp_to_rfc9110_string(&object.made).unwrap();
    let mut headers = vec![("Last-Modified", made), ("ETag", format!("\"{}\"", object.tag))];
    let range = request.headers.get("range").map(|range| {
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let to = to.parse().map_or(len, |last: usize| (last + 1).min(len));
        from.parse().unwrap_or(0)..to
    });
    let (status, bytes) = match range {
        Some(range) if range.start >= range.end => return Answer::error(416, "InvalidRange"),
        Some(range) => {
            headers.push(("Content-Range", format!("bytes {}-{}/{len}", range.start, range.end - 1)));
            (206, &object.bytes[range])
        }
        None => (200, &object.bytes[..]),
    };
    headers.push(("Content-Length", bytes.len().to_string()));
    let body = if request.method == "HEAD" { Vec::new() } else { bytes.to_vec() };
    Answer { headers, body, ..Answer::of(status) }
}

fn list(state: &State, request: &Request) -> Answer {
    let query = |name: &str| request.query.get(name).map_or("", String::as_str);
    let (prefix, delimiter) = (query("prefix"), query("delimiter"));
    let after = query("continuation-token").max(query("start-after"));
    let most = query("max-keys").parse().unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let now = Instant::now();
    let (mut items, mut last, mut listed, mut is_cut) = (String::new(), String::new(), 0, false);
    let from = prefix.max(after);
    for (name, object) in state.objects.range(from.to_owned()..).filter(|(_, object)| object.listed <= now) {
        if !name.starts_with(prefix) {
            break;
        }
        let is_below = |dir: &str| !delimiter.is_empty() && dir.ends_with(delimiter) && name.starts_with(dir);
        if name.as_str() <= after || is_below(after) || is_below(&last) {
            continue;
        }
        if listed == most {
            is_cut = true;
            break;
        }
        listed += 1;
        let dir = match delimiter {
            "" => None,
            delimiter => name[prefix.len()..].find(delimiter).map(|at| &name[..prefix.len() + at + 1]),
        };
        if let Some(dir) = dir {
            let _ = write!(items, "<CommonPrefixes><Prefix>{dir}</Prefix></CommonPrefixes>");
            last = dir.into();
        } else {
            let _ = write!(
                items,
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                object.made,
                object.tag,
                object.bytes.len()
            );
            last.clone_from(name);
        }
    }
    let next = match is_cut {
        true => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
        false => String::new(),
    };
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{is_cut}</IsTruncated>{next}{items}</ListBucketResult>"
    );
    Answer { body: body.into_bytes(), listed, ..Answer::of(200) }
}

fn remove_many(state: &mut State, request: &Request) -> Answer {
    let mut removed = String::new();
    for name in request.removed() {
        state.objects.remove(name);
        let _ = write!(removed, "<Deleted><Key>{name}</Key></Deleted>");
    }
    let body = format!("<?xml version=\"1.0\"?><DeleteResult>{removed}</DeleteResult>");
    Answer { body: body.into_bytes(), ..Answer::of(200) }
}

/// A host with a key of its own to a bucket, whose volumes are below `s3://bucket/place`, the remote `cloud`.
pub struct Site {
    pub host: Host,
    dir: PathBuf,
    /// The network that it is in, if it is not the test's.
    network: Option<PathBuf>,
    lease: Option<&'static str>,
}

impl Site {
    /// A host whose key is let in.
    pub fn new(bucket: &Bucket, key: &str) -> Self {
        Self::with(Host::plain(), bucket, key)
    }

    pub fn with(host: Host, bucket: &Bucket, key: &str) -> Self {
        let dir = host.dir("conf");
        let text = format!(
            "[cloud]\nurl = \"s3://bucket/place\"\nendpoint = \"{}\"\ncredentials-file = \"{}\"\n",
            bucket.endpoint(),
            dir.join("credentials").display()
        );
        fs::write(dir.join("remotes.toml"), text).unwrap();
        let site = Self { host, dir, network: None, lease: None };
        site.set_key(key);
        bucket.let_in(key);
        site
    }

    /// Its leases are so short, as `LARDER_LEASE` has it.
    pub fn with_lease(self, lease: &'static str) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// It reaches what is in this network.
    pub fn within(self, network: PathBuf) -> Self {
        Self { network: Some(network), ..self }
    }

    /// From now on, this is the key that it has.
    pub fn set_key(&self, key: &str) {
        let (path, new) = (self.dir.join("credentials"), self.dir.join("credentials.new"));
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let inner = self.host.command(args);
        let mut command = match &self.network {
            // (Its mounts are those of all others.)
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg(inner.get_program());
                command.args(inner.get_args());
                for (name, value) in inner.get_envs() {
                    match value {
                        Some(value) => command.env(name, value),
                        None => command.env_remove(name),
                    };
                }
                command
            }
            None => inner,
        };
        command.env("LARDER_REMOTES", self.dir.join("remotes.toml"));
        command.envs(self.lease.map(|lease| ("LARDER_LEASE", lease)));
        command
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    /// What a command that fails says, and its exit code.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = run(&mut self.command(args));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// Makes `db`, which is shipped, and mounts it.
    #[track_caller]
    pub fn volume(&self, create: &[&str]) -> PathBuf {
        self.ok(&[&["create", "db", "--remote", "cloud"], create].concat());
        self.mount("db", &[])
    }

    #[track_caller]
    pub fn mount(&self, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.host.make_mountpoint(name);
        let mut args: Vec<&OsStr> = vec!["mount".as_ref(), name.as_ref(), dir.as_os_str()];
        args.extend(options.iter().map(OsStr::new));
        succeed(&mut self.command(&args));
        dir
    }

    pub fn umount(&self, name: &str) {
        self.host.umount(name);
    }

    /// How `db` is with its remote.
    pub fn remote(&self) -> Value {
        let output = run(&mut self.command(&["remote", "status", "db", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn trouble(&self) -> String {
        self.remote()["trouble"].as_str().unwrap_or_default().to_owned()
    }

    pub fn log(&self) -> String {
        let mut log = String::new();
        for entry in fs::read_dir(self.host.root().join("log")).into_iter().flatten().flatten() {
            log += &fs::read_to_string(entry.path()).unwrap_or_default();
        }
        log
    }
}

/// The suite of all object stores: that this is one.
#[test]
fn the_server_of_these_tests_does_what_object_stores_do() {
    use larder::config::{Hidden, RemoteSettings};
    use larder::remote::{Address, BootClock, Clock, connect, with_clouds};
    let bucket = Bucket::new();
    bucket.let_in("test");
    with_clouds();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let count = std::cell::Cell::new(0);
    super::suite::everything(&|| {
        count.set(count.get() + 1);
        let settings = RemoteSettings {
            endpoint: Some(bucket.endpoint()),
            access_key_id: Some("test".into()),
            secret_access_key: Some(Hidden::new("testtest".into())),
            ..RemoteSettings::default()
        };
        let url = format!("s3://bucket/Some_prefix/{}", count.get());
        connect(&Address { url: url.parse().unwrap(), settings }, &clock).unwrap().once
    });
}
