//! What a holder leaves to the next one when systemd restarts its unit, by systemd's store of file descriptors
//! (<https://systemd.io/FILE_DESCRIPTOR_STORE/>).

use super::Held;
use super::ask::said_by;
use super::link::Kept;
use super::next::Command;
use super::suspects::{Suspect, Suspects};
use crate::fs::{Executed, ViewChange};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

const VERSION: u32 = 1;
/// How long systemd may take to say what it does.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
const STATE: &str = "larder-state";
const LOCK: &str = "larder-lock";
const LISTENER: &str = "larder-listener";
const MOUNT: &str = "larder-mount-";

#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    mounts: Vec<(Kept, Vec<ViewChange>)>,
    executed: Vec<Executed>,
    #[serde(default)]
    suspects: Vec<Suspect>,
    incarnation: u32,
}

/// What a holder before this one has left.
#[derive(Debug)]
pub struct Bequest {
    pub(super) lock: OwnedFd,
    pub(super) listener: Option<OwnedFd>,
    pub(super) mounts: BTreeMap<String, Held>,
    pub(super) executed: Vec<Executed>,
    pub(super) suspects: Suspects,
    pub(super) incarnation: u32,
    names: Vec<String>,
}

/// The unit of systemd that this process is the main one of.
fn own_unit() -> Option<String> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut names = groups.lines().filter_map(|line| line.rsplit('/').next());
    names.find(|name| name.ends_with(".service")).map(str::to_owned)
}

/// What systemctl(1) says; nothing, if it does not.
fn systemctl(args: &[&str]) -> Vec<u8> {
    let said = said_by(process::Command::new("systemctl").args(args), LONGEST_ANSWER);
    let said = said.and_then(|said| said.ok_or_else(|| io::ErrorKind::TimedOut.into()));
    said.unwrap_or_else(|e| {
        log::warn!("systemctl {}: {e}", args.join(" "));
        Vec::new()
    })
}

/// Whether systemd ends this process to start its unit again at once.
pub(super) fn is_restart() -> bool {
    let Some(unit) = own_unit() else { return false };
    let jobs = systemctl(&["list-jobs", "--plain", "--no-legend", &unit]);
    String::from_utf8_lossy(&jobs).lines().any(|job| job.split_whitespace().nth(2) == Some("restart"))
}

/// Whether systemd leaves the server alone when this process ends.
pub(super) fn outlived() -> bool {
    let Some(unit) = own_unit() else { return false };
    matches!(systemctl(&["show", "--property=KillMode", "--value", &unit]).trim_ascii(), b"process" | b"none")
}

/// The command that systemd starts as the next main process, if it says.
pub(super) fn next_command() -> Option<Command> {
    let unit = own_unit()?;
    command_in(&systemctl(&["show", "--property=ExecStart", "--value", &unit]))
}

/// What systemd says of a command: `{ path=/usr/bin/larder ; argv[]=/usr/bin/larder mount ... ; ignore_errors=no ; ...`.
fn command_in(said: &[u8]) -> Option<Command> {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|bytes| bytes == what);
    let (path_end, words_end) = (b" ; argv[]=", b" ; ignore_errors=");
    let text = said.trim_ascii().strip_prefix(b"{ path=")?;
    let (path, words) = text.split_at(find(text, path_end)?);
    let words = &words[path_end.len()..];
    let words = &words[..find(words, words_end)?];
    Some(Command {
        program: PathBuf::from(OsStr::from_bytes(path)),
        words: String::from_utf8_lossy(words).into_owned(),
    })
}

fn store(name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[file])
}

/// Leaves everything to the next holder.
///
/// # Errors
/// When systemd does not take it.
pub(super) fn leave(
    lock: BorrowedFd<'_>,
    listener: Option<BorrowedFd<'_>>,
    mounts: &BTreeMap<String, Held>,
    (executed, suspects, incarnation): (&[Executed], &Suspects, u32),
) -> io::Result<()> {
    let state = State {
        version: VERSION,
        mounts: mounts.values().map(|held| (held.kept.clone(), held.views.clone())).collect(),
        executed: executed.to_vec(),
        suspects: suspects.all().to_vec(),
        incarnation,
    };
    let mut file = File::from(memfd_create(STATE, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&state)?)?;
    store(LOCK, lock)?;
    if let Some(listener) = listener {
        store(LISTENER, listener)?;
    }
    for (i, held) in mounts.values().enumerate() {
        store(&format!("{MOUNT}{i}"), held.device.as_fd())?;
    }
    // The last: with it, there is everything.
    store(STATE, file.as_fd())
}

impl Bequest {
    /// What systemd gives back; `None` where there is nothing, or not all of it: mounts that nobody can take over are dead then.
    #[expect(unsafe_code, reason = "descriptors from systemd come as bare numbers")]
    pub fn receive() -> Option<Self> {
        let passed = sd_notify::listen_fds_with_names().ok()?;
        // SAFETY: systemd says in the environment that these descriptors are meant for this process, and nobody else takes
        // them.
        let files: BTreeMap<String, OwnedFd> =
            passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect();
        let names: Vec<String> = files.keys().filter(|name| name.starts_with("larder-")).cloned().collect();
        let bequest = Self::read(files, &names);
        if bequest.is_none() && !names.is_empty() {
            log::warn!("what the holder before this one has left cannot be used; its mounts are dead");
            Self::release(&names);
        }
        bequest
    }

    fn read(mut files: BTreeMap<String, OwnedFd>, names: &[String]) -> Option<Self> {
        let mut state = File::from(files.remove(STATE)?);
        let mut json = Vec::new();
        // The position is where the one that wrote it left it.
        state.rewind().and_then(|()| state.read_to_end(&mut json)).ok()?;
        let state: State =
            serde_json::from_slice(&json).ok().filter(|state: &State| state.version == VERSION)?;
        let mut mounts = BTreeMap::new();
        for (i, (kept, views)) in state.mounts.into_iter().enumerate() {
            let device = files.remove(&format!("{MOUNT}{i}"))?;
            mounts.insert(kept.volume.clone(), Held { kept, device, views });
        }
        let (lock, listener) = (files.remove(LOCK)?, files.remove(LISTENER));
        let State { executed, suspects, incarnation, .. } = state;
        let suspects = Suspects::new(suspects);
        Some(Self { lock, listener, mounts, executed, suspects, incarnation, names: names.to_vec() })
    }

    /// Lets systemd close what it has of this.
    pub(super) fn release(names: &[String]) {
        for name in names {
            let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
            if let Err(e) = sd_notify::notify(&state) {
                log::warn!("systemd's store of file descriptors: {e}");
            }
        }
    }

    /// The names of everything.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_program_is_what_systemd_says() {
        let command =
            |program: &str, words: &str| Some(Command { program: program.into(), words: words.into() });
        let said = b"{ path=/opt/my larder ; argv[]=/opt/my larder mount --foreground v /mnt ; ignore_errors=no ; pid=7 }\n";
        assert_eq!(command_in(said), command("/opt/my larder", "/opt/my larder mount --foreground v /mnt"));
        let said =
            b"{ path=/bin/sh ; argv[]=/bin/sh -c sleep 1 ; exec larder mount ; ignore_errors=no ; pid=7 }\n";
        assert_eq!(command_in(said), command("/bin/sh", "/bin/sh -c sleep 1 ; exec larder mount"));
        assert_eq!((command_in(b""), command_in(b"\n")), (None, None));
    }
}
