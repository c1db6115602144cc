//! Talking to a running server.

use super::Logged;
use super::control::{Channel, Reply, Request, SOCKET_NAME, ScrubUpdate, Status};
use crate::backing::{connect_within, open_dir};
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::mount::MountOptions;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::check::{Progress, Report};
use crate::volume::{Alteration, Altered, Difference, FoundFiles, Result, SnapshotInfo, Sought, VolumeError};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a server may take to answer what needs no work, unless something else is said: longer than it takes to replace one
/// that hangs, where that can be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest patience.
const SHORTEST: Duration = Duration::from_millis(1);
/// How often a server that works on an answer is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a process that has closed the store may take to be gone.
const EXIT: Duration = Duration::from_secs(10);

/// A connection to the server of a store. No call waits for a process that does not live: an error that is
/// [`silent`](VolumeError::silent) says so.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    root: Root,
    store: StoreId,
    /// How long it is waited for an answer, or for a sign of life of a server that works on one.
    patience: Duration,
    /// How often that is looked for.
    look_every: Duration,
    /// See [`Client::is_unanswered`].
    is_unanswered: bool,
}

/// How asking a server to let another program take over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The server was gone before it could be asked.
    Gone,
    /// It has ended: there is another one now, or soon.
    Ended,
    /// The server lives, and in the time that was given nothing else has come.
    Nothing,
}

/// The path of a store's control socket, short enough for a socket address however deep the root is.
pub(super) fn with_socket_path<T>(store: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = open_dir(store)?;
    f(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd())))
}

/// Whether an error says that the time was up.
fn is_late(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Client {
    /// Connects to the server of a store; `None` if no server runs.
    ///
    /// # Errors
    /// As connect(2), or `silent`.
    pub fn connect(root: &Root, store: StoreId) -> Result<Option<Self>> {
        Self::connect_within(root, store, PATIENCE)
    }

    /// The same, with another patience, also with its answers: see [`Client::set_patience`].
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(root: &Root, store: StoreId, patience: Duration) -> Result<Option<Self>> {
        // None at all would be said by 0.
        let patience = patience.max(SHORTEST);
        let connect = |path: &Path| {
            // A link would lead to the socket of somebody else.
            if !path.symlink_metadata()?.file_type().is_socket() {
                let what = format!("{SOCKET_NAME:?} is not a socket; remove it");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            connect_within(path, patience)
        };
        let path = root.store(store);
        match with_socket_path(&path, connect) {
            Ok(stream) => {
                let channel = Channel::to_server(stream);
                Ok(Some(Self {
                    channel,
                    root: root.clone(),
                    store,
                    patience,
                    look_every: LOOK_EVERY,
                    is_unanswered: false,
                }))
            }
            // No socket, or one that a killed server left.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(e) if is_late(&e) => Err(silent(root, store, 0, patience)),
            Err(e) => Err(VolumeError::io(&path, &e)),
        }
    }

    /// Answers that take longer than this are errors from now on. What takes work is waited for as long as the server shows in
    /// this time that it lives.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        self.patience = patience.max(SHORTEST);
        self.set_timeout(patience)
    }

    fn set_timeout(&self, timeout: Duration) -> Result<()> {
        let set = self.channel.set_timeout(timeout.max(SHORTEST));
        set.map_err(|e| VolumeError::io(&self.root.store(self.store), &e))
    }

    /// The process id of the server, as the kernel knows it; 0 if it is in another namespace of processes.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn peer(&self) -> io::Result<u32> {
        self.channel.peer()
    }

    fn send(&mut self, request: &Request, file: Option<&OwnedFd>) -> Result<()> {
        self.channel.send(request, file.map(AsFd::as_fd)).map_err(|e| self.error(&e))
    }

    /// Asks for what needs no work.
    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(request, None)?;
        match self.channel.receive() {
            Ok(reply) => reply.ok_or_else(|| gone(&io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(self.error(&e)),
        }
    }

    /// Asks for what may take as long as it takes.
    fn ask_long(&mut self, request: &Request, file: Option<&OwnedFd>) -> Result<Reply> {
        self.send(request, file)?;
        self.reply()
    }

    /// The next reply of a server that works on it, for as long as that lives.
    fn reply(&mut self) -> Result<Reply> {
        match self.await_reply(None) {
            Ok(Some(reply)) => reply.ok_or_else(|| gone(&io::ErrorKind::UnexpectedEof.into())),
            // There is no end to the time.
            Ok(None) => Err(gone(&io::ErrorKind::TimedOut.into())),
            Err(e) => Err(e),
        }
    }

    /// The same: `Some(None)` when the connection ends, `None` when nothing has come until a moment that is given.
    fn await_reply(&mut self, until: Option<Instant>) -> Result<Option<Option<Reply>>> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = left.map_or(self.look_every, |left| left.min(self.look_every));
            self.set_timeout(wait)?;
            let received = self.channel.receive();
            self.set_timeout(self.patience)?;
            match received {
                Ok(reply) => return Ok(Some(reply)),
                Err(e) if !is_late(&e) => return Err(gone(&e)),
                Err(_) if left == Some(wait) => return Ok(None),
                Err(_) => self.must_live()?,
            }
        }
    }

    /// Looks whether the server still answers anybody. One that is gone ends the connection.
    fn must_live(&self) -> Result<()> {
        let asked = Self::connect_within(&self.root, self.store, self.patience)
            .and_then(|client| client.map_or(Ok(()), |mut client| client.ask(&Request::Alive).map(drop)));
        match asked {
            Err(e) if e.silent => Err(self.silent()),
            _ => Ok(()),
        }
    }

    fn error(&self, e: &io::Error) -> VolumeError {
        if is_late(e) { self.silent() } else { gone(e) }
    }

    fn silent(&self) -> VolumeError {
        silent(&self.root, self.store, self.peer().unwrap_or(0), self.patience)
    }

    fn done(&mut self, request: &Request, file: Option<&OwnedFd>) -> Result<()> {
        match self.ask_long(request, file)? {
            Reply::Done => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// How the server is.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(other.into_error()),
        }
    }

    /// The same, of whom nothing more is asked.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn status_only(mut self) -> Result<Status> {
        self.send(&Request::Status, None)?;
        // One that has gone says so in its answer.
        let _ = self.channel.asks_no_more();
        match self.channel.receive() {
            Ok(Some(Reply::Status(status))) => Ok(*status),
            Ok(Some(other)) => Err(other.into_error()),
            Ok(None) => Err(gone(&io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(self.error(&e)),
        }
    }

    /// Lets the server serve a mount.
    ///
    /// # Errors
    /// When it cannot.
    pub fn mount(
        &mut self,
        volume: &str,
        dir: &Path,
        options: &MountOptions,
        device: &OwnedFd,
    ) -> Result<()> {
        let dir = crate::mount::path_bytes(dir);
        let request = Request::Mount { volume: volume.to_owned(), dir, options: options.clone() };
        self.done(&request, Some(device))
    }

    /// Tells the server of new options.
    ///
    /// # Errors
    /// When the volume is not mounted.
    pub fn remount(&mut self, volume: &str, options: &MountOptions) -> Result<()> {
        self.done(&Request::Remount { volume: volume.to_owned(), options: options.clone() }, None)
    }

    /// Lets the server change the family.
    ///
    /// # Errors
    /// As the change.
    pub fn alter(&mut self, alteration: &Alteration) -> Result<Altered> {
        if let Some(kind) = alteration.later_kind() {
            let Status { pid, version, changes, .. } = self.status()?;
            if !changes.iter().any(|known| known == kind) {
                let what = format!(
                    "the server of the store (process {pid}, version {version}) is of an earlier version, which does not know how to do that; \
                     `larder upgrade` replaces it, or unmount what it serves"
                );
                return Err(VolumeError::new(Exit::Busy, what));
            }
        }
        let reply = self.ask_long(&Request::Alter { alteration: alteration.clone() }, None);
        self.is_unanswered = reply.is_err();
        match reply? {
            Reply::Altered(altered) => Ok(altered),
            other => Err(other.into_error()),
        }
    }

    /// Whether the server went away before it said what became of a change of the family.
    pub fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// The snapshots of a volume, with what each of them alone holds.
    ///
    /// # Errors
    /// As the metadata.
    pub fn snapshots(&mut self, volume: &str) -> Result<Vec<SnapshotInfo>> {
        match self.ask_long(&Request::Snapshots { volume: volume.to_owned() }, None)? {
            Reply::Snapshots { snapshots } => Ok(snapshots),
            other => Err(other.into_error()),
        }
    }

    /// What is different between two volumes or snapshots.
    ///
    /// # Errors
    /// As the metadata.
    pub fn diff(&mut self, one: &str, two: &str) -> Result<Vec<Difference>> {
        match self.ask_long(&Request::Diff { one: one.to_owned(), two: two.to_owned() }, None)? {
            Reply::Differences { differences } => Ok(differences),
            other => Err(other.into_error()),
        }
    }

    /// Lets the server seal everything in its store again. It goes on after this returns.
    ///
    /// # Errors
    /// When the server does not take the keys.
    pub fn reencrypt(&mut self, keys: &[Subkeys]) -> Result<()> {
        // Through a pipe: nothing of them is to stay in the buffers of a socket's messages, or in a log of these.
        let pipe = || -> io::Result<OwnedFd> {
            let (read, write) = io::pipe()?;
            // As much as a pipe takes without a reader.
            File::from(OwnedFd::from(write)).write_all(&Subkeys::to_bytes(keys))?;
            Ok(read.into())
        };
        let pipe = pipe().map_err(|e| gone(&e))?;
        self.done(&Request::Reencrypt, Some(&pipe))
    }

    /// Waits until everything that was done before is in the store's remote.
    ///
    /// # Errors
    /// When it is not after `timeout`, or there is no remote.
    pub fn sync_remote(&mut self, timeout: Duration, keys: bool) -> Result<()> {
        let timeout_ms = timeout.as_millis() as u64;
        match self.ask_long(&Request::SyncRemote { timeout_ms, keys }, None)? {
            Reply::Done => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// Tells the server that how the store is shipped was changed where that is kept.
    ///
    /// # Errors
    /// When it cannot read that.
    pub fn remote_changed(&mut self) -> Result<()> {
        self.done(&Request::RemoteChanged, None)
    }

    /// Lets another program take over from the server, which is the end of this connection, and waits for that at most so long.
    ///
    /// # Errors
    /// Why it cannot. The server goes on.
    pub fn replace(&mut self, program: &[u8], at_most: Duration) -> Result<Replaced> {
        match self.send(&Request::Replace { program: program.to_vec() }, None) {
            Err(e) if e.silent => return Err(e),
            Err(_) => return Ok(Replaced::Gone),
            Ok(()) => {}
        }
        match self.await_reply(Some(Instant::now() + at_most)) {
            Ok(Some(Some(refusal))) => Err(refusal.into_error()),
            Ok(None) => Ok(Replaced::Nothing),
            Err(e) if e.silent => Err(e),
            // However it ended.
            Ok(Some(None)) | Err(_) => Ok(Replaced::Ended),
        }
    }

    /// Waits until a volume is unmounted and everything of it is on disk, for `at_most` if that is given; whether it is.
    ///
    /// # Errors
    /// `Busy` when it is still mounted somewhere after `timeout`.
    pub fn await_unmount(
        &mut self,
        volume: &str,
        timeout: Duration,
        at_most: Option<Duration>,
    ) -> Result<bool> {
        let timeout_ms = timeout.as_millis() as u64;
        self.send(&Request::AwaitUnmount { volume: volume.to_owned(), timeout_ms }, None)?;
        match self.await_reply(at_most.map(|at_most| Instant::now() + at_most))? {
            Some(Some(Reply::Done)) => Ok(true),
            Some(Some(other)) => Err(other.into_error()),
            Some(None) => Err(gone(&io::ErrorKind::UnexpectedEof.into())),
            None => Ok(false),
        }
    }

    /// Whether the server has hung up. Waits for that as long as was said to [`Client::set_patience`].
    pub fn has_ended(&mut self) -> bool {
        match self.channel.receive::<Reply>() {
            Err(e) => !is_late(&e) && e.kind() != io::ErrorKind::Interrupted,
            Ok(reply) => reply.is_none(),
        }
    }

    /// Waits until a server of this state and its holder have ended, so that every file of the store is closed: the disk that has the
    /// store can be unmounted then. Not for one that has something mounted meanwhile and goes on, and not after `until`.
    pub fn await_exit(mut self, status: &Status, until: Option<Instant>) {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        if let Some(until) = until
            && self.set_patience(left(until)).is_err()
        {
            return;
        }
        match self.status() {
            Ok(now) if !now.ending => return,
            Err(e) if e.silent => return,
            // It is gone already, perhaps.
            Ok(_) | Err(_) => {}
        }
        // The connection ends with the process; its other files may close a moment later, and those of its holder after that.
        if let Ok(None) = self.await_reply(until) {
            return;
        }
        let exit = Instant::now() + EXIT;
        let until = until.map_or(exit, |until| until.min(exit));
        let runs = |pid: u32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => false,
        };
        while (runs(status.pid) || runs(status.holder)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the server check its store.
    ///
    /// # Errors
    /// When the check cannot be made.
    pub fn check(&mut self, read_data: bool, mut progress: impl FnMut(&str, Progress)) -> Result<Report> {
        let mut reply = self.ask_long(&Request::Check { read_data }, None)?;
        loop {
            match reply {
                Reply::Checking(update) => {
                    progress(&update.phase, Progress { phase: "", done: update.done, total: update.total });
                }
                Reply::Report(report) => return Ok(*report),
                other => return Err(other.into_error()),
            }
            reply = self.reply()?;
        }
    }
}

impl Client {
    /// Lets the server read everything behind segment `after`, at `rate` bytes a second (0: as fast as it goes). `step` is told how far it
    /// is, and says whether to go on; if it does not, nothing more may be asked over this connection. The report is about the metadata.
    ///
    /// # Errors
    /// When it cannot, or goes away.
    pub fn scrub(
        &mut self,
        after: u64,
        rate: u64,
        step: &mut dyn FnMut(ScrubUpdate) -> bool,
    ) -> Result<Option<Report>> {
        let mut reply = self.ask_long(&Request::Scrub { after, rate }, None)?;
        loop {
            match reply {
                // It stops when nobody listens any more.
                Reply::Scrubbing(update) if !step(update.clone()) => return Ok(None),
                Reply::Scrubbing(_) => {}
                Reply::Report(report) => return Ok(Some(*report)),
                other => return Err(Self::is_asked_too_much(other)),
            }
            reply = self.reply()?;
        }
    }

    /// Lets the server look for who has a block or an inode number.
    ///
    /// # Errors
    /// As the metadata.
    pub fn find(&mut self, volume: &str, sought: Sought) -> Result<FoundFiles> {
        match self.ask_long(&Request::Find { volume: volume.to_owned(), sought }, None)? {
            Reply::Found { found, more } => Ok(FoundFiles { found, more }),
            other => Err(Self::is_asked_too_much(other)),
        }
    }

    /// The error of a server that may be of an earlier version, and not know what it was asked.
    fn is_asked_too_much(reply: Reply) -> VolumeError {
        let e = reply.into_error();
        if e.exit != Exit::Usage {
            return e;
        }
        e.hint("`larder upgrade` lets this version serve it")
    }
}

fn gone(e: &io::Error) -> VolumeError {
    VolumeError::new(Exit::Failure, format!("the server of this volume went away ({e}); its log may say why"))
}

/// The server of a store, process `pid` if that is known, has not answered for `patience`.
fn silent(root: &Root, store: StoreId, pid: u32, patience: Duration) -> VolumeError {
    let names = root.names().unwrap_or_default();
    let served = |name: &&String| root.resolve(name).is_ok_and(|id| id == Some(store));
    let served: Vec<String> = names.iter().filter(served).map(|name| format!("{name:?}")).collect();
    let (served, time, log) = (served.join(", "), patience.as_secs(), Logged::of(root, store));
    let (process, end) = match pid {
        0 => ("the process".to_owned(), "end it".to_owned()),
        pid => (format!("process {pid}"), format!("end it (`kill -9 {pid}`)")),
    };
    VolumeError::silent(format!(
        "{process}, which serves {served}, does not answer ({time} s); see {log}, wait until it goes on, or {end} and mount again what \
         nothing takes over from it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A root with one store, which has a control socket that nobody listens to yet, and the volume `v`.
    fn store() -> (tempfile::TempDir, Root, StoreId, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(dir.path()), StoreId::random().unwrap());
        root.make().unwrap();
        std::fs::create_dir(root.store(id)).unwrap();
        std::os::unix::fs::symlink(Root::link_target(id), root.link("v")).unwrap();
        let listener = with_socket_path(&root.store(id), |path| UnixListener::bind(path)).unwrap();
        (dir, root, id, listener)
    }

    /// How a server is that knows no more than those of the first version.
    fn status(ending: bool) -> Status {
        Status {
            pid: std::process::id(),
            holder: 0,
            takeovers: 0,
            version: String::new(),
            program: PathBuf::new(),
            uptime_s: 0,
            rings: true,
            changes: Vec::new(),
            failure: None,
            damaged_blocks: 0,
            cache_bytes: 0,
            cache_limit_bytes: 0,
            cache_total_bytes: 0,
            longest_hold_us: 0,
            host_full_since: None,
            unnoted: Vec::new(),
            reencryption: None,
            remote: None,
            ending,
            volumes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    #[test]
    fn who_does_not_answer_is_named_and_not_waited_for() {
        let (_dir, root, id, _listener) = store();
        let patience = Duration::from_millis(50);
        let mut client = Client::connect_within(&root, id, patience).unwrap().unwrap();
        let pid = std::process::id();
        let expected = format!("process {pid}, which serves \"v\", does not answer");
        client.look_every = patience;
        for e in [
            client.status().unwrap_err(),
            client.snapshots("v").unwrap_err(),
            client.replace(b"program", Duration::from_secs(3600)).unwrap_err(),
            client.await_unmount("v", Duration::ZERO, None).unwrap_err(),
        ] {
            assert!(e.silent && e.message.starts_with(&expected), "{e}");
        }
        assert!(!client.await_unmount("v", Duration::ZERO, Some(patience / 2)).unwrap());
        // Neither is who does not even take the connection.
        let mut waiting = vec![client];
        let e = loop {
            match Client::connect_within(&root, id, patience) {
                Ok(client) => waiting.extend(client),
                Err(e) => break e,
            }
        };
        assert!(e.silent && e.message.contains("which serves \"v\", does not answer"), "{e}");
    }

    /// A clone was mounted after it was asked how it is, say: it may be there for days.
    #[test]
    fn a_server_that_goes_on_is_not_waited_for() {
        let (_dir, root, id, listener) = store();
        // It ends with the process.
        std::thread::spawn(move || {
            for (stream, ending) in listener.incoming().zip([false, true]) {
                let mut channel = Channel::new(stream.unwrap());
                while let Some(request) = channel.receive().unwrap() {
                    assert!(matches!(request, Request::Status));
                    let _ = channel.send(&Reply::Status(Box::new(status(ending))), None);
                }
            }
        });
        let connect = || Client::connect(&root, id).unwrap().unwrap();
        connect().await_exit(&status(true), None);
        // Nor is one that ends, for longer than is asked for.
        connect().await_exit(&status(true), Some(Instant::now() + Duration::from_millis(50)));
    }

    #[test]
    fn an_earlier_version_is_not_asked_for_what_it_does_not_know() {
        let (_dir, root, id, listener) = store();
        // It ends with the process.
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut channel = Channel::new(stream);
            while let Some(request) = channel.receive().unwrap() {
                assert!(matches!(request, Request::Status));
                let _ = channel.send(&Reply::Status(Box::new(status(false))), None);
            }
        });
        let mut client = Client::connect(&root, id).unwrap().unwrap();
        let e = client.alter(&Alteration::Rename { volume: "v".into(), to: "w".into() }).unwrap_err();
        assert!(e.exit == Exit::Busy && e.message.contains("larder upgrade"), "{e}");
    }

    #[test]
    fn who_works_on_an_answer_is_waited_for_as_long_as_it_lives() {
        const LOOKS: u32 = 3;
        let (_dir, root, id, listener) = store();
        let looks = Arc::new(AtomicU32::new(0));
        let serve = {
            let looks = Arc::clone(&looks);
            move |stream: UnixStream| {
                let mut channel = Channel::new(stream);
                match channel.receive().unwrap() {
                    Some(Request::Alive) => drop(looks.fetch_add(1, Ordering::SeqCst)),
                    _ => {
                        while looks.load(Ordering::SeqCst) < LOOKS {
                            std::thread::yield_now();
                        }
                    }
                }
                let _ = channel.send(&Reply::Done, None);
            }
        };
        // They end with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve) = (stream.unwrap(), serve.clone());
                std::thread::spawn(move || serve(stream));
            }
        });
        let mut client = Client::connect(&root, id).unwrap().unwrap();
        client.look_every = Duration::from_millis(1);
        client.remount("v", &MountOptions::default()).unwrap();
        assert!(looks.load(Ordering::SeqCst) >= LOOKS);
    }
}
