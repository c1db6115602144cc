//! The program that servers run, in versions that can take over from each other.

use super::HolderOptions;
use super::ask::said_by;
use crate::backing::OsDir;
use crate::store::{Feature, Header};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What holders and servers say to each other, and what a server finds in the log of the one before it, changes with this.
const HANDOVER_VERSION: u32 = 1;
/// How long a program may take to say what it can take over: nobody watches the server meanwhile.
const LONGEST_OFFER: Duration = Duration::from_secs(20);
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
}

impl Program {
    /// What this process runs.
    pub(super) fn own() -> Self {
        let path = std::env::current_exe().unwrap_or_else(|_| "larder".into());
        Self { path, file: None, features: names(&Feature::ALL) }
    }

    /// The program in a file, if it can take over from servers of this version and knows all that the store has.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn offered(path: &Path, options: &HolderOptions) -> Result<Self, String> {
        let shown = path.display();
        let file = File::open(path).map_err(|e| format!("{shown}: {e}"))?;
        let mut program = Self { path: path.to_owned(), file: Some(file), features: Vec::new() };
        let mut command = program.command();
        command.args(["serve", "--offers"]).arg(options.store.to_string());
        // A wrapper that does something else with that is not to say anything to systemd, nor to take what systemd gave this process.
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let said = said_by(&mut command, LONGEST_OFFER).map_err(|e| format!("{shown} cannot be run: {e}"))?;
        let said = said.ok_or_else(|| {
            format!(
                "{shown} has not said in {} s what it can take over, and was ended; nothing is changed",
                LONGEST_OFFER.as_secs()
            )
        })?;
        let offer: Offer = serde_json::from_slice(&said).map_err(|_| {
            format!("{shown} cannot take over mounts: it is no larder, or a version that does not know how")
        })?;
        if !offer.handover.contains(&HANDOVER_VERSION) {
            return Err(format!(
                "{shown} (version {}) cannot take over from version {}; unmount the volume and mount it again",
                offer.version,
                env!("CARGO_PKG_VERSION")
            ));
        }
        program.features = offer.features;
        match program.lacks(options) {
            Ok(None) => Ok(program),
            Ok(Some(feature)) => Err(format!(
                "{shown} (version {}) cannot take over: the store has the feature {feature:?}, which that version lacks; \
                 nothing is changed",
                offer.version
            )),
            Err(e) => Err(format!("{shown} cannot take over: {e}; nothing is changed")),
        }
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
            Some(file) => Command::new(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())),
            None => Command::new("/proc/self/exe"),
        };
        command.arg0(OsString::from(&self.path));
        command
    }
}
