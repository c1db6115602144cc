//! The program that servers run, in versions that can take over from each other.

use super::HolderOptions;
use super::ask::said_by;
use crate::backing::OsDir;
use crate::server::own_program;
use crate::store::{Feature, Header};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// What holders and servers say to each other, and what a server finds in the log of the one before it, changes with this.
const HANDOVER_VERSION: u32 = 1;
/// How long a program may take to say what it can take over: nobody watches the server meanwhile.
const LONGEST_OFFER: Duration = Duration::from_secs(20);
/// And how long it may take to find it and to start it beside that.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(25);
/// What a program surely knows of stores that does not say what it knows: all that there was when the first one could take over.
const KNOWN_BY_ALL: [Feature; 1] = [Feature::Encryption];

/// What a version of the program can take over. `larder serve --offers` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The version of the program.
    pub version: String,
    /// From holders and servers of these versions of the hand-over.
    pub handover: Vec<u32>,
    /// The features of stores that it knows, by their names in the header; earlier versions do not say.
    #[serde(default = "known_by_all")]
    pub features: Vec<String>,
    /// The number of the process that says so; earlier versions do not say.
    #[serde(default)]
    pub process: Option<u32>,
}

fn names(features: &[Feature]) -> Vec<String> {
    features.iter().map(|feature| feature.name().to_owned()).collect()
}

fn known_by_all() -> Vec<String> {
    names(&KNOWN_BY_ALL)
}

impl Offer {
    /// What this program offers.
    pub fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            handover: vec![HANDOVER_VERSION],
            features: names(&Feature::ALL),
            process: Some(std::process::id()),
        }
    }
}

/// A program that is there to stay, whatever becomes of its file.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// Keeps the file. Without it, this process's own is run.
    file: Option<File>,
    /// The features of stores that it knows.
    features: Vec<String>,
    /// Whether the process that is started is the one that has answered, as far as is known.
    is_itself: bool,
}

/// What `look` finds out about programs, if it does in time: who opens or starts one that is on a file system that does not answer hangs
/// with it, and must not be who looks after a server.
pub(super) fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new().name("larder-programs".into()).spawn(move || send.send(look())).ok()?;
    receive.recv_timeout(LONGEST_LOOK).ok()
}

impl Program {
    /// What this process runs.
    pub(super) fn own() -> Self {
        let path = own_program::path().unwrap_or_else(|_| "larder".into());
        Self { path, file: None, features: names(&Feature::ALL), is_itself: true }
    }

    /// The program in a file, if it can take over from servers of this version and knows all that the store has.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn offered(path: &Path, options: &HolderOptions) -> Result<Self, String> {
        let (shown, path, options) = (path.display().to_string(), path.to_owned(), options.clone());
        in_time(move || Self::open(&path)?.asked(&options))
            .unwrap_or_else(|| Err(format!("{shown} cannot be read or started in time; nothing is changed")))
    }

    /// The program in a file, which has not been asked yet.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        // A pipe would wait for somebody to write into it.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "that is not a file")),
        });
        // What is started finds it among its own files, also where it is a script, whose interpreter opens it once more: those of this
        // process, which has keys, are for root only. Servers close it.
        let file = file.and_then(|file| {
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(file)
        });
        let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file), features: Vec::new(), is_itself: true })
    }

    /// Asks it what it can take over, and whether that is what is there.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn asked(mut self, options: &HolderOptions) -> Result<Self, String> {
        let shown = self.path.display();
        let mut command = self.command();
        command.args(["serve", "--offers"]).arg(options.store.to_string());
        // A wrapper that does something else with that is not to say anything to systemd, nor to take what systemd gave this process.
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let said = said_by(&mut command, LONGEST_OFFER).map_err(|e| format!("{shown} cannot be run: {e}"))?;
        let (said, process) = said.ok_or_else(|| {
            format!(
                "{shown} has not said in {} s what it can take over, and was ended; nothing is changed",
                LONGEST_OFFER.as_secs()
            )
        })?;
        let offer: Offer = serde_json::from_slice(&said).map_err(|_| {
            format!("{shown} cannot take over mounts: it is not larder, or a version that does not know how")
        })?;
        if !offer.handover.contains(&HANDOVER_VERSION) {
            return Err(format!(
                "{shown} (version {}) cannot take over from version {}; unmount the volume and mount it again",
                offer.version,
                env!("CARGO_PKG_VERSION")
            ));
        }
        self.features = offer.features;
        self.is_itself = offer.process.is_none_or(|answered| answered == process);
        match self.lacks(options) {
            Ok(None) => Ok(self),
            Ok(Some(feature)) => Err(format!(
                "{shown} (version {}) cannot take over: the store has the feature {feature:?}, which that version lacks; \
                 nothing is changed",
                offer.version
            )),
            Err(e) => Err(format!("{shown} cannot take over: {e}; nothing is changed")),
        }
    }

    /// Whether nobody but root can change its file.
    pub(super) fn is_of_root(&self) -> bool {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        metadata.is_some_and(|file| {
            file.uid() == 0 && file.mode() & 0o002 == 0 && (file.gid() == 0 || file.mode() & 0o020 == 0)
        })
    }

    /// Its file, unless it is this process's own.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Whether the process that is started is the one that has answered, as far as it says: a script without `exec` is another one.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn itself(self) -> Result<Self, String> {
        if self.is_itself {
            return Ok(self);
        }
        Err(format!("{} starts larder as another process; let it `exec` it", self.path.display()))
    }

    /// A feature of the store that this program does not know, for which it would refuse the store.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub(super) fn lacks(&self, options: &HolderOptions) -> Result<Option<String>, String> {
        let dir = OsDir::new(options.root.store(options.store));
        let has = Header::feature_names(&dir).map_err(|e| e.to_string())?;
        Ok(has.into_iter().find(|feature| !self.features.contains(feature)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = match &self.file {
            Some(file) => Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())),
            None => own_program::command(),
        };
        command.arg0(OsString::from(&self.path));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_no_program_and_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let pipe = tmp.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [pipe.as_path(), tmp.path()] {
            let refused = Program::open(path).unwrap_err();
            assert!(refused.contains("not a file"), "{refused}");
        }
    }
}
