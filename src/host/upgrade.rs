//! Letting another version of the program take over mounts that are in use.

use super::ask;
use super::look::{server_of, server_within};
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Logged, MountStatus, Replaced, Status, Takeover};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another server may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(5);

/// A server, and the one that took over from it.
#[derive(Clone, Debug, Serialize)]
pub struct Upgraded {
    /// What is mounted.
    pub volumes: Vec<String>,
    /// The version before.
    pub from: String,
    /// The version now.
    pub to: String,
    /// The process now.
    pub pid: u32,
}

/// Lets `program` take over all mounts of a store. `None` if no server has it open.
///
/// # Errors
/// When it cannot, and everything goes on as it was; or when it did not serve, and the version before it goes on.
pub fn upgrade(root: &Root, store: StoreId, program: &Path) -> Result<Option<Upgraded>> {
    let Some(before) = begin(root, store, program)? else { return Ok(None) };
    let until = Instant::now() + PATIENCE;
    let after = loop {
        let left = until.saturating_duration_since(Instant::now());
        let asked = server_within(root, store, left)
            .and_then(|client| client.map(|mut client| client.status()).transpose());
        match asked {
            Ok(Some(status)) if status.pid != before.pid => break status,
            Err(e) if !e.silent && e.exit != Exit::Failure => return Err(e),
            _ if Instant::now() >= until => {
                let what = format!("no server answers; see {}", Logged::of(root, store));
                return Err(failed(what));
            }
            _ => std::thread::sleep(INTERVAL),
        }
    };
    if after.program != program {
        let log = Logged::of(root, store);
        let what = format!(
            "{} could not serve, so {} goes on; see {log}",
            program.display(),
            after.program.display()
        );
        return Err(failed(what));
    }
    Ok(Some(Upgraded { volumes: names(&after), from: before.version, to: after.version, pid: after.pid }))
}

/// Asks the server to let `program` take over, and says what it was. One that dies meanwhile is replaced by its holder, and
/// that one is asked.
fn begin(root: &Root, store: StoreId, program: &Path) -> Result<Option<Status>> {
    let until = Instant::now() + ask::PATIENCE;
    loop {
        let Some(mut client) = server_of(root, store)? else { return Ok(None) };
        let died = match client.status() {
            Ok(status) if status.holder == 0 => {
                let what = "its holder is gone, so nothing can take over; unmount and mount it again";
                return Err(failed(format!("{}: {what}", names(&status).join(", "))));
            }
            // Nothing is left to take over.
            Ok(status) if status.ending && status.mounts.is_empty() => return Ok(None),
            Ok(status) if !tied(&status).is_empty() => {
                let what = "nothing was changed; unmount it when convenient, and mount it again";
                return Err(failed(format!("nothing can take over {}: {what}", tied(&status).join(", "))));
            }
            Ok(status) => match client.replace(program.as_os_str().as_bytes(), PATIENCE)? {
                Replaced::Ended => return Ok(Some(status)),
                Replaced::Nothing => {
                    let what = "keeps its server, but does not do what it was asked to do; see";
                    let (holder, log) = (status.holder, Logged::of(root, store));
                    return Err(failed(format!("process {holder} {what} {log}")));
                }
                Replaced::Gone => failed(format!("its servers keep dying; see {}", Logged::of(root, store))),
            },
            Err(e) if e.silent => return Err(e),
            Err(e) => e,
        };
        if Instant::now() >= until {
            return Err(died);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The mounts that would die with their server, and why.
fn tied(status: &Status) -> Vec<String> {
    let why_not = |mount: &MountStatus| match &mount.takeover {
        Takeover::Possible => None,
        Takeover::Impossible(why) => Some(why.clone()),
        Takeover::Unknown => match mount.options.transport().ties() {
            Some(why) => Some(why.to_owned()),
            None => (!can_resend()).then(|| "a kernel older than Linux 6.9".to_owned()),
        },
    };
    let of = |mount: &MountStatus| why_not(mount).map(|why| format!("volume {:?} ({why})", mount.volume));
    status.mounts.iter().filter_map(of).collect()
}

/// Whether this kernel's version is one that can give requests again, for servers that do not say what theirs can.
fn can_resend() -> bool {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let numbers: Vec<u32> = release
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .take(2)
        .filter_map(|number| number.parse().ok())
        .collect();
    numbers >= vec![6, 9]
}

fn failed(what: String) -> VolumeError {
    VolumeError::new(Exit::Failure, what)
}

fn names(status: &Status) -> Vec<String> {
    status.mounts.iter().map(|mount| mount.volume.clone()).collect()
}
