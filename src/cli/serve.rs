//! `larder serve`: the background process that `larder mount` starts.

use super::args::ServeArgs;
use super::{CommandResult, Context};
use crate::crypto::{Keys, Subkeys, guard_process};
use crate::exit_code::Exit;
use crate::open_store::StoreOptions;
use crate::server::{Server, ServerOptions, Started, log_to_file, run_until_idle};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::sync::{Arc, Weak};

pub(super) fn run(context: &Context, args: &ServeArgs) -> CommandResult {
    let started = start(context, args);
    let answer = match &started {
        Ok(_) => Started::Yes,
        Err(e) => {
            log::error!("{e}");
            Started::No { code: e.exit as u8, message: e.message.clone() }
        }
    };
    say(&answer)?;
    run_until_idle(&*started?);
    log::info!("the server ends");
    Ok(Exit::Ok)
}

/// Writes the one line that the starter waits for.
fn say(answer: &Started) -> Result<()> {
    let failed =
        |e: &dyn std::fmt::Display| VolumeError::new(Exit::Failure, format!("answering the starter: {e}"));
    let line = serde_json::to_string(answer).map_err(|e| failed(&e))?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| failed(&e))?;
    // The starter's pipe must not stay open as long as the server lives.
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(|e| failed(&e))?;
    nix::unistd::dup2_stdout(&null).map_err(|e| failed(&e))
}

fn start(context: &Context, args: &ServeArgs) -> Result<Arc<Server>> {
    let store: StoreId = args
        .store
        .parse()
        .map_err(|()| VolumeError::new(Exit::Usage, format!("{:?} is no store id", args.store)))?;
    // A process of its own: no terminal, no directory of somebody else's, no files that others can read.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    context.root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    let log = context.root.log(store);
    log_to_file(&log, context.verbose).map_err(|e| VolumeError::io(&log, &e))?;
    let open = StoreOptions { cache_bytes: args.cache_size as usize, ..StoreOptions::default() };
    let server =
        Server::start(&ServerOptions { root: context.root.clone(), store, keys: keys(store)?, open })?;
    end_on_signals(&server)?;
    log::info!("serving store {store}, process {}", std::process::id());
    Ok(server)
}

/// The keys that the starter writes to the standard input of the server: none for a plain store.
fn keys(store: StoreId) -> Result<Keys> {
    guard_process();
    let failed = |e: std::io::Error| VolumeError::new(Exit::Failure, format!("store {store}: {e}"));
    let subkeys = Subkeys::read_from(std::io::stdin()).map_err(failed)?;
    if subkeys.is_empty() { Ok(Keys::Plain) } else { Keys::new(subkeys).map_err(failed) }
}

/// Ends the server in good order when it is told to by a signal.
pub(super) fn end_on_signals(server: &Arc<Server>) -> Result<()> {
    let failed = |e: std::io::Error| VolumeError::new(Exit::Failure, format!("handling signals: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let server: Weak<Server> = Arc::downgrade(server);
    std::thread::Builder::new()
        .name("larder-signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                log::info!("signal {signal}: unmounting");
                if let Some(server) = server.upgrade() {
                    server.terminate();
                }
            }
        })
        .map_err(failed)?;
    Ok(())
}
