//! A server's side of its holder.

use super::holder::link::{Kept, Link, Received, ToHolder, ToServer};
use super::holder::suspects::Suspect;
use crate::crypto::Subkeys;
use crate::fs::{Executed, Lost, ViewChange};
use crate::fuse::OpenFiles;
use crate::meta::VolumeId;
use crate::mount::MountOptions;
use crate::volume::VolumeError;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long a holder may take to say that nothing else can take over: it looks at two programs, and stops a server that hangs.
const LONGEST_ANSWER: Duration = Duration::from_secs(120);

/// A mount to take over.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) kept: Kept,
    pub(super) device: OwnedFd,
    pub(super) views: Vec<ViewChange>,
}

/// What a holder gives a server to begin with.
#[derive(Debug)]
pub struct Endowment {
    pub(super) keeper: Keeper,
    pub(super) lock: OwnedFd,
    pub(super) keys: Vec<Subkeys>,
    pub(super) listener: Option<OwnedFd>,
    pub(super) mounts: Vec<Inherited>,
    pub(super) executed: Vec<Executed>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) incarnation: u32,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the holder of the store {what}"))
}

impl Endowment {
    /// Takes what the holder sends over `socket`.
    ///
    /// # Errors
    /// When it does not send all that a server needs.
    pub fn receive(socket: OwnedFd) -> io::Result<Self> {
        let mut link = Link::of(socket);
        let (mut lock, mut keys, mut listener) = (None, Vec::new(), None);
        let mut mounts: Vec<Inherited> = Vec::new();
        loop {
            let (message, file) = match link.receive()? {
                Received::Message(message, file) => (message, file),
                Received::Nothing => continue,
                Received::Gone => return Err(invalid("is gone")),
            };
            let missing = || invalid("sent a message without its file");
            match message {
                ToServer::Lock => lock = file,
                ToServer::Keys => keys = Subkeys::read_from(File::from(file.ok_or_else(missing)?))?,
                ToServer::Listener => listener = file,
                ToServer::Mount(kept) => {
                    mounts.push(Inherited {
                        kept: *kept,
                        device: file.ok_or_else(missing)?,
                        views: Vec::new(),
                    });
                }
                ToServer::View { change } => {
                    mounts.last_mut().ok_or_else(|| invalid("sent a view of no mount"))?.views.push(change);
                }
                ToServer::Begin {
                    incarnation,
                    executed,
                    suspects,
                    is_newer,
                    keeps_losses,
                    heeds_orders,
                    lets_rest,
                    keeps_open_files,
                    keeps_durability,
                } => {
                    let lock = lock.ok_or_else(|| invalid("sent no lock"))?;
                    if !is_newer {
                        link.speak_plainly();
                    }
                    let knows = Knows {
                        newer: is_newer,
                        losses: keeps_losses,
                        orders: heeds_orders,
                        rest: lets_rest,
                        open_files: keeps_open_files,
                        durability: keeps_durability,
                    };
                    let keeper = Keeper::new(link, knows);
                    return Ok(Self {
                        keeper,
                        lock,
                        keys,
                        listener,
                        mounts,
                        executed,
                        suspects,
                        incarnation,
                    });
                }
                ToServer::Refused { .. } => return Err(invalid("talks out of turn")),
            }
        }
    }

    /// The way to the holder.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }
}

/// A mount of which the holder is told something.
#[derive(Clone, Debug)]
pub(super) struct MountName {
    pub(super) volume: String,
    /// See [`Kept::number`].
    pub(super) number: Option<u64>,
}

/// Which messages a holder knows that not all versions know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knows {
    /// What came after the first version.
    pub(super) newer: bool,
    /// [`ToHolder::Lost`].
    pub(super) losses: bool,
    /// [`ToHolder::ToldToEnd`].
    pub(super) orders: bool,
    /// [`ToHolder::Rests`].
    pub(super) rest: bool,
    /// [`ToHolder::OpenFiles`].
    pub(super) open_files: bool,
    /// What `durability` of a mount is.
    pub(super) durability: bool,
}

/// Messages that wait, with their files.
type Later = Vec<(ToHolder, Option<OwnedFd>)>;

/// The way to the holder. When it is gone, nothing is kept any more, and the server goes on.
#[derive(Clone, Debug)]
pub struct Keeper {
    link: Arc<Link>,
    /// The holder's process; 0 when it is gone.
    process: Arc<AtomicU32>,
    /// What is to be said to a holder of an earlier version as soon as it knows that this process serves: until then, it takes a message
    /// that it does not know for a failure.
    later: Arc<parking_lot::Mutex<Option<Later>>>,
    knows: Knows,
    /// Why programs that were asked for cannot take over.
    refuse: Sender<String>,
    refusals: Arc<parking_lot::Mutex<Receiver<String>>>,
    /// One that was waited for has not come yet.
    is_owed: Arc<parking_lot::Mutex<bool>>,
}

impl Keeper {
    pub(super) fn new(link: Link, knows: Knows) -> Self {
        let link = Arc::new(link);
        let (send, receive) = channel();
        let process = Arc::new(AtomicU32::new(nix::unistd::getppid().as_raw().cast_unsigned()));
        let later = Arc::new(parking_lot::Mutex::new((!knows.newer).then(Vec::new)));
        let refusals = Arc::new(parking_lot::Mutex::new(receive));
        Self { link, process, later, knows, refuse: send, refusals, is_owed: Arc::default() }
    }

    /// The holder's process; 0 when it is gone.
    pub(super) fn process(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    /// What can be read from when the holder says something, or goes; `None` when it is gone.
    pub(super) fn holder(&self) -> Option<BorrowedFd<'_>> {
        (self.process() != 0).then(|| self.link.as_fd())
    }

    /// Hears what the holder has said, if it has.
    pub(super) fn hear(&self) {
        loop {
            match self.link.receive_now() {
                // Whoever asked waits for it elsewhere.
                Ok(Received::Message(ToServer::Refused { message }, _)) => drop(self.refuse.send(message)),
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::Gone) => {
                    log::warn!(
                        "the holder of the store is gone: if this server dies, its mounts die with it"
                    );
                    return self.process.store(0, Ordering::Relaxed);
                }
                Err(e) => log::warn!("the holder of the store: {e}"),
            }
        }
    }

    fn say(&self, message: &ToHolder) {
        self.say_with(message, None);
    }

    fn say_with(&self, message: &ToHolder, file: Option<BorrowedFd<'_>>) {
        if let Err(e) = self.link.send(message, file) {
            log::warn!("cannot tell the holder of the store: {e}");
        }
    }

    /// Says what a holder of an earlier version may not know.
    fn say_later(&self, message: ToHolder, file: Option<OwnedFd>) {
        let mut later = self.later.lock();
        match &mut *later {
            Some(waiting) => waiting.push((message, file)),
            None => self.say_with(&message, file.as_ref().map(AsFd::as_fd)),
        }
    }

    /// Tells the holder how the start went.
    pub fn started(&self, result: Result<(), &VolumeError>) {
        self.say(&match result {
            Ok(()) => ToHolder::Started,
            Err(e) => ToHolder::Failed { code: e.exit as u8, message: e.message.clone() },
        });
        let mut later = self.later.lock();
        for (message, file) in later.take().unwrap_or_default() {
            self.say_with(&message, file.as_ref().map(AsFd::as_fd));
        }
    }

    pub(super) fn listening(&self, listener: BorrowedFd<'_>) {
        self.say_with(&ToHolder::Listening, Some(listener));
    }

    pub(super) fn keep(&self, kept: Kept, device: BorrowedFd<'_>) {
        self.say_with(&ToHolder::Keep(Box::new(kept)), Some(device));
    }

    /// A mount that nothing can take over, because of `why`.
    pub(super) fn tied(&self, kept: Kept, why: &str) {
        self.say_later(ToHolder::Tied { kept: Box::new(kept), why: why.to_owned() }, None);
    }

    /// What readers with lower numbers took from a mount is answered.
    pub(super) fn settled(&self, mount: &MountName, id: VolumeId, first_reader: u64) {
        let MountName { volume, number } = mount.clone();
        self.say_later(ToHolder::Settled { volume, first_reader, id: Some(id), number }, None);
    }

    /// Where readers note what they work on.
    pub(super) fn ledger(&self, file: OwnedFd) {
        self.say_later(ToHolder::Ledger, Some(file));
    }

    pub(super) fn options(&self, volume: &str, options: &MountOptions) {
        let (volume, options) = (volume.to_owned(), Box::new(options.clone()));
        self.say(&ToHolder::Options { volume, options });
    }

    /// Says at once what a holder of every version knows, and makes it true first that nothing said before it waits: of that, what
    /// `is_obsolete` is not said any more.
    fn say_instead(&self, message: &ToHolder, is_obsolete: impl Fn(&ToHolder) -> bool) {
        let mut later = self.later.lock();
        if let Some(waiting) = &mut *later {
            waiting.retain(|(message, _)| !is_obsolete(message));
        }
        self.say(message);
    }

    /// A mount's views change. Beside a rollback, `head` is what it will replace.
    pub(super) fn view(&self, mount: &MountName, change: ViewChange, head: Option<u64>) {
        let MountName { volume, number } = mount.clone();
        // That the kernel was told of those before would be taken for all, this one too. To tell it twice does no harm.
        let is_told =
            |message: &ToHolder| matches!(message, ToHolder::Told { volume, .. } if *volume == mount.volume);
        self.say_instead(&ToHolder::View { volume, change, head, number }, is_told);
    }

    pub(super) fn told(&self, mount: &MountName) {
        let MountName { volume, number } = mount.clone();
        self.say_later(ToHolder::Told { volume, number }, None);
    }

    /// What is missing from a file. A holder of an earlier version does not keep it.
    pub(super) fn lost(&self, mount: &MountName, lost: Lost) {
        if self.knows.losses {
            let MountName { volume, number } = mount.clone();
            self.say(&ToHolder::Lost { volume, lost, number });
        }
    }

    /// Whether the next server knows what `durability` of a mount was.
    pub(super) fn keeps_durability(&self) -> bool {
        self.knows.durability
    }

    /// The files that are open on a mount. A holder of an earlier version does not keep them.
    pub(super) fn opened(&self, mount: &MountName, opened: Option<&OpenFiles>) {
        if let Some(file) = opened.and_then(OpenFiles::file).filter(|_| self.knows.open_files) {
            let MountName { volume, number } = mount.clone();
            self.say_with(&ToHolder::OpenFiles { volume, number }, Some(file.as_fd()));
        }
    }

    pub(super) fn gone(&self, mount: &MountName, id: Option<VolumeId>) {
        let MountName { volume, number } = mount.clone();
        // What was to be said of it would be taken for said of a mount that is there, or is there next.
        let is_of_it = |message: &ToHolder| match message {
            ToHolder::Tied { kept, .. } => kept.volume == mount.volume,
            ToHolder::Told { volume, .. } | ToHolder::Settled { volume, .. } => *volume == mount.volume,
            _ => false,
        };
        self.say_instead(&ToHolder::Gone { volume, id, number }, is_of_it);
    }

    pub(super) fn executed(&self, executed: &[Executed]) {
        self.say(&ToHolder::Executed { executed: executed.to_vec() });
    }

    /// Keys that come into use besides those that the server began with. When this returns, the holder has them, or is gone.
    ///
    /// # Errors
    /// When they could not be sent: whoever takes over would not have them.
    pub(super) fn keys(&self, keys: &[Subkeys]) -> io::Result<()> {
        match self.link.send(&ToHolder::Keys, Some(pipe_of(keys)?.as_fd())) {
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => other,
        }
    }

    pub(super) fn beat(&self, longest_ms: u64) {
        // If the holder does not listen, that is its trouble.
        let _ = self.link.try_send(&ToHolder::Beat { longest_ms });
    }

    /// Nothing more is to be expected of this process, and it has nothing to do, until somebody asks it for something; false if the
    /// holder is of an earlier version, which expects signs of life.
    pub(super) fn rests(&self) -> bool {
        self.knows.rest && self.link.try_send(&ToHolder::Rests).is_ok()
    }

    /// This process was told to end, and unmounts: whoever takes over from it is to do the same. A holder of an earlier version hears
    /// nothing of it.
    pub(super) fn told_to_end(&self) {
        if self.knows.orders {
            self.say(&ToHolder::ToldToEnd);
        }
    }

    pub(super) fn ending(&self) {
        self.say(&ToHolder::Ending);
    }

    /// Asks for another program to take over, which is the end of this process. Returns why it cannot.
    pub(super) fn replace(&self, program: &[u8]) -> String {
        // One at a time: the answer is for who asked last.
        let refusals = self.refusals.lock();
        let mut is_owed = self.is_owed.lock();
        while refusals.try_recv().is_ok() {
            *is_owed = false;
        }
        if *is_owed {
            return self.does_not_answer();
        }
        if let Err(e) = self.link.send(&ToHolder::Replace { program: program.to_vec() }, None) {
            return format!("the holder of the store is gone: {e}; unmount and mount the volume again");
        }
        refusals.recv_timeout(LONGEST_ANSWER).unwrap_or_else(|e| match e {
            RecvTimeoutError::Disconnected => "the holder of the store is gone".to_owned(),
            RecvTimeoutError::Timeout => {
                *is_owed = true;
                self.does_not_answer()
            }
        })
    }

    fn does_not_answer(&self) -> String {
        format!(
            "the holder of the store, process {}, does not answer; it was asked, and may still do it",
            self.process()
        )
    }
}

/// A pipe from which keys can be read: nothing of them is to stay in the buffers of messages, or in a log of these.
pub(super) fn pipe_of(keys: &[Subkeys]) -> io::Result<OwnedFd> {
    let (read, write) = io::pipe()?;
    // Less than a pipe takes without a reader.
    File::from(OwnedFd::from(write)).write_all(&Subkeys::to_bytes(keys))?;
    Ok(read.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOTHING: Knows = Knows {
        newer: false,
        losses: false,
        orders: false,
        rest: false,
        open_files: false,
        durability: false,
    };
    const ALL: Knows =
        Knows { newer: true, losses: true, orders: true, rest: true, open_files: true, durability: true };

    fn of(volume: &str) -> MountName {
        MountName { volume: volume.into(), number: Some(9) }
    }

    fn lost() -> Lost {
        let (missing, error) = (vec![(1, 2)], crate::fs::FsError::NoSpace);
        Lost { ino: 2, missing, error, wanted: 1, has_gap: false, is_given_up: false }
    }

    /// Until it knows that the server serves, it would take it for a failure.
    #[test]
    fn an_older_holder_is_told_late_what_it_may_not_know_and_never_of_losses_and_orders() {
        let (holder, server) = Link::pair(Duration::from_millis(50)).unwrap();
        let keeper = Keeper::new(Link::of(server), NOTHING);
        keeper.tied(Kept::of_nothing(), "why");
        keeper.told(&of("v"));
        keeper.settled(&of("v"), 1, 7);
        keeper.lost(&of("v"), lost());
        keeper.told_to_end();
        assert!(matches!(holder.receive::<ToHolder>().unwrap(), Received::Nothing));
        keeper.started(Ok(()));
        let mut said = Vec::new();
        while let Received::Message(message, None) = holder.receive::<ToHolder>().unwrap() {
            said.push(message);
        }
        assert!(
            matches!(
                said[..],
                [
                    ToHolder::Started,
                    ToHolder::Tied { .. },
                    ToHolder::Told { .. },
                    ToHolder::Settled { id: Some(1), first_reader: 7, .. }
                ]
            ),
            "{said:?}"
        );
        keeper.told(&of("v"));
        assert!(matches!(holder.receive().unwrap(), Received::Message(ToHolder::Told { .. }, None)));
    }

    #[test]
    fn an_older_holder_is_not_told_of_rest() {
        for (knows, is_told) in [(NOTHING, false), (ALL, true)] {
            let (holder, server) = Link::pair(Duration::from_millis(50)).unwrap();
            let keeper = Keeper::new(Link::of(server), knows);
            keeper.started(Ok(()));
            assert_eq!(keeper.rests(), is_told);
            assert!(matches!(holder.receive().unwrap(), Received::Message(ToHolder::Started, None)));
            let next = holder.receive::<ToHolder>().unwrap();
            assert_eq!(matches!(next, Received::Message(ToHolder::Rests, None)), is_told, "{next:?}");
        }
    }

    /// What the holder says is heard by whoever waits for it, and its end by everybody.
    #[test]
    fn a_holder_is_heard_when_it_speaks_and_when_it_goes() {
        let (holder, server) = Link::pair(Duration::from_millis(50)).unwrap();
        let keeper = Keeper::new(Link::of(server), ALL);
        keeper.hear();
        assert!(keeper.holder().is_some());
        holder.send(&ToServer::Refused { message: "why".into() }, None).unwrap();
        keeper.hear();
        assert_eq!(keeper.refusals.lock().try_recv().unwrap(), "why");
        drop(holder);
        keeper.hear();
        assert!(keeper.holder().is_none() && keeper.process() == 0);
    }

    /// Without a holder nobody takes over, and new keys may come into use.
    #[test]
    fn keys_are_with_the_holder_or_there_is_none() {
        let (holder, server) = Link::pair(Duration::from_secs(60)).unwrap();
        let keeper = Keeper::new(Link::of(server), ALL);
        keeper.keys(&[]).unwrap();
        assert!(matches!(holder.receive().unwrap(), Received::Message(ToHolder::Keys, Some(_))));
        drop(holder);
        keeper.keys(&[]).unwrap();
    }

    /// What waits for the server to have started would come after what was said later, and mean something else then.
    #[test]
    fn what_an_older_holder_is_told_late_is_still_true_then() {
        let (holder, server) = Link::pair(Duration::from_millis(50)).unwrap();
        let keeper = Keeper::new(Link::of(server), NOTHING);
        let other = Kept { volume: "other".into(), ..Kept::of_nothing() };
        // The kernel is told of one change, and not yet of the next one.
        keeper.view(&of("v"), ViewChange::Snapshot(1), None);
        keeper.told(&of("v"));
        keeper.told(&of("other"));
        keeper.view(&of("v"), ViewChange::Live, None);
        // A mount is gone.
        keeper.tied(Kept { volume: "w".into(), ..Kept::of_nothing() }, "why");
        keeper.told(&of("w"));
        keeper.settled(&of("w"), 1, 7);
        keeper.tied(other, "why");
        keeper.gone(&of("w"), Some(1));
        keeper.started(Ok(()));
        let mut said = Vec::new();
        while let Received::Message(message, None) = holder.receive::<ToHolder>().unwrap() {
            said.push(message);
        }
        let [
            ToHolder::View { .. },
            ToHolder::View { .. },
            ToHolder::Gone { .. },
            ToHolder::Started,
            late @ ..,
        ] = &said[..]
        else {
            panic!("{said:?}")
        };
        assert!(
            matches!(
                late,
                [ToHolder::Told { volume, .. }, ToHolder::Tied { kept, .. }]
                    if volume == "other" && kept.volume == "other"
            ),
            "{late:?}"
        );
    }

    #[test]
    fn a_holder_that_keeps_losses_hears_of_them_at_once() {
        let (holder, server) = Link::pair(Duration::from_secs(60)).unwrap();
        let keeper = Keeper::new(Link::of(server), ALL);
        keeper.lost(&of("v"), lost());
        let Received::Message(ToHolder::Lost { lost: said, .. }, None) = holder.receive().unwrap() else {
            panic!()
        };
        assert_eq!(said, lost());
    }

    /// What servers and holders of earlier versions say.
    #[test]
    fn messages_of_earlier_versions_are_understood() {
        for (json, is_right) in [
            (
                r#"{"say":"settled","volume":"v","first_reader":7}"#,
                (|m| matches!(m, ToHolder::Settled { id: None, first_reader: 7, .. }))
                    as fn(ToHolder) -> bool,
            ),
            (r#"{"say":"gone","volume":"v"}"#, |m| matches!(m, ToHolder::Gone { id: None, .. })),
            (r#"{"say":"view","volume":"v","change":"live"}"#, |m| {
                matches!(m, ToHolder::View { change: ViewChange::Live, head: None, number: None, .. })
            }),
            (r#"{"say":"told","volume":"v"}"#, |m| matches!(m, ToHolder::Told { number: None, .. })),
        ] {
            assert!(is_right(serde_json::from_str(json).unwrap()), "{json}");
        }
        let begin: ToServer =
            serde_json::from_str(r#"{"say":"begin","incarnation":1,"executed":[]}"#).unwrap();
        let ToServer::Begin {
            is_newer,
            keeps_losses,
            heeds_orders,
            lets_rest,
            keeps_open_files,
            keeps_durability,
            ..
        } = begin
        else {
            panic!()
        };
        let known = [is_newer, keeps_losses, heeds_orders, lets_rest, keeps_open_files, keeps_durability];
        assert_eq!(known, [false; 6]);
    }

    /// What holders of earlier versions know of these messages.
    #[test]
    fn messages_of_this_version_are_understood_by_earlier_ones() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", tag = "say")]
        enum Earlier {
            Keep(EarlierKept),
            View { volume: String, change: ViewChange },
            Told { volume: String },
            Lost { volume: String, lost: Lost },
            Gone { volume: String },
        }
        #[derive(Debug, serde::Deserialize)]
        struct EarlierKept {
            volume: String,
            agreed: u64,
        }
        let (holder, server) = Link::pair(Duration::from_secs(60)).unwrap();
        let keeper = Keeper::new(Link::of(server), ALL);
        let device = File::open("/dev/null").unwrap();
        keeper.keep(Kept { agreed: 7, number: Some(9), ..Kept::of_nothing() }, device.as_fd());
        keeper.view(&of("v"), ViewChange::Live, Some(1));
        keeper.told(&of("v"));
        keeper.lost(&of("v"), lost());
        keeper.gone(&of("v"), Some(1));
        let next = || {
            let Received::Message(message, _) = holder.receive::<Earlier>().unwrap() else { panic!() };
            message
        };
        assert!(matches!(next(), Earlier::Keep(kept) if kept.volume == "v" && kept.agreed == 7));
        assert!(matches!(next(), Earlier::View { volume, change: ViewChange::Live } if volume == "v"));
        assert!(matches!(next(), Earlier::Told { volume } if volume == "v"));
        assert!(matches!(next(), Earlier::Lost { volume, lost: said } if volume == "v" && said == lost()));
        assert!(matches!(next(), Earlier::Gone { volume } if volume == "v"));
    }
}
