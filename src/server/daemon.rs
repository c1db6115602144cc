//! Starting a server in the background.

use super::identity;
use super::logging::Logged;
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What a started server says on its standard output, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "started")]
pub enum Started {
    /// It listens on the store's control socket.
    Yes,
    /// It could not start.
    No {
        /// The exit code.
        code: u8,
        /// Why.
        message: String,
    },
}

/// Starts the server of a store, for a volume of it, and waits until it listens. The keys of an encrypted store reach it through a pipe, where
/// nobody else can read them; the secret and the master key stay here.
///
/// # Errors
/// What the server says, or when it cannot be started at all.
pub fn start(
    root: &Root,
    (store, volume): (StoreId, &str),
    keys: &[Subkeys],
    cache_bytes: u64,
    verbose: u8,
) -> Result<()> {
    let failed = |what: String| VolumeError::new(Exit::Failure, format!("cannot start the server: {what}"));
    let mut program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    if !program.exists() {
        // It was replaced by another version while this process goes on; that version is what its own servers are.
        program = "/proc/self/exe".into();
    }
    let mut command = Command::new(program);
    command
        .arg0(identity::argument(volume))
        .arg("--root")
        .arg(root.path())
        .args(std::iter::repeat_n("-v", usize::from(verbose)))
        .arg("serve")
        .arg(store.to_string())
        .arg("--cache-size")
        .arg(cache_bytes.to_string())
        .current_dir("/")
        // What systemd says to the process that starts it is not meant for the server.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(if keys.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A server that has ended already says why, below.
        let _ = pipe.write_all(&Subkeys::to_bytes(keys));
    }
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(|e| failed(e.to_string()))?;
    }
    match serde_json::from_str(&line) {
        Ok(Started::Yes) => {
            // Whoever lives longer than the server must take note of its end. If no thread can be had, its number stays taken.
            let _ = std::thread::Builder::new().name("larder-reap".into()).spawn(move || child.wait());
            Ok(())
        }
        Ok(Started::No { code, message }) => {
            let _ = child.wait();
            Err(VolumeError::new(Exit::of_number(code), message))
        }
        Err(_) => {
            let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(failed(format!("it ended ({status}); see {}", Logged::of(root, store))))
        }
    }
}
