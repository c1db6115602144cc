//! `larder serve`: the background processes that `larder mount` starts: a holder, and the servers that this one starts.

use super::args::ServeArgs;
use super::{CommandResult, Context};
use crate::crypto::{Subkeys, guard_process};
use crate::exit_code::Exit;
use crate::memory::share_arenas;
use crate::open_store::StoreOptions;
use crate::server::{
    Endowment, Holder, HolderOptions, Offer, Orders, Server, ServerOptions, Started, ToldToEnd, be_for,
    check_limits, detach, log_to_file, log_to_stderr, run_until_idle,
};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use log::LevelFilter;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;

pub(super) fn run(context: &Context, args: &ServeArgs) -> CommandResult {
    let store: StoreId = args
        .store
        .parse()
        .map_err(|()| VolumeError::new(Exit::Usage, format!("{:?} is not a store id", args.store)))?;
    if args.offers {
        super::output::json(&Offer::own())?;
        return Ok(Exit::Ok);
    }
    share_arenas();
    // A process of its own: no terminal, no directory of somebody else's, no files that others can read.
    detach();
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    be_for(store, None);
    if args.held { serve(context, args, store) } else { hold(context, args, store) }
}

/// Messages go where they should.
fn log(context: &Context, args: &ServeArgs, store: StoreId) -> Result<()> {
    context.root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    if args.log_to_stderr {
        log_to_stderr(context.verbose, LevelFilter::Info);
        return Ok(());
    }
    let log = context.root.log(store);
    log_to_file(&log, context.verbose).map_err(|e| VolumeError::io(&log, &e))
}

/// Starts servers, one after the other, until one ends as it should. Whoever started this process is told of the first.
fn hold(context: &Context, args: &ServeArgs, store: StoreId) -> CommandResult {
    let start = || {
        log(context, args, store)?;
        let options = HolderOptions {
            root: context.root.clone(),
            store,
            cache_bytes: args.cache_size,
            verbose: context.verbose,
            log_to_file: !args.log_to_stderr,
            unit: None,
        };
        Holder::start(options, keys(store)?)
    };
    let started = start();
    let told = ToldToEnd::listen();
    let answer = match &started {
        Ok(_) => Started::Yes,
        Err(e) => {
            log::error!("{e}");
            Started::No { code: e.exit as u8, message: e.message.clone() }
        }
    };
    say(&answer)?;
    started?.run(&told)?;
    Ok(Exit::Ok)
}

/// Writes the one line that the starter waits for.
fn say(answer: &Started) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| {
        VolumeError::new(Exit::Failure, format!("cannot answer the process that started the server: {e}"))
    };
    let line = serde_json::to_string(answer).map_err(|e| failed(&e))?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| failed(&e))?;
    // The starter's pipe must not stay open as long as the server lives.
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(|e| failed(&e))?;
    nix::unistd::dup2_stdout(&null).map_err(|e| failed(&e))
}

/// The keys that the starter writes to the standard input: none for a plain store.
fn keys(store: StoreId) -> Result<Vec<Subkeys>> {
    guard_process();
    Subkeys::read_from(std::io::stdin())
        .map_err(|e| VolumeError::new(Exit::Failure, format!("store {store}: {e}")))
}

/// Starts a server on a thread that ends then: what the allocator keeps for a thread goes with it, and a start frees much in small pieces that
/// the main thread, which only waits from then on, would never use again.
fn start_beside(options: ServerOptions) -> Result<Arc<Server>> {
    let cannot =
        |e: &dyn std::fmt::Display| VolumeError::new(Exit::Failure, format!("cannot start a thread: {e}"));
    let started =
        std::thread::Builder::new().name("larder-start".into()).spawn(move || Server::start(options));
    let started = started.map_err(|e| cannot(&e))?.join();
    started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Serves what the holder says, until the last mount is gone.
fn serve(context: &Context, args: &ServeArgs, store: StoreId) -> CommandResult {
    guard_process();
    log(context, args, store)?;
    // An order to end that comes while the server starts is obeyed as soon as it serves: until then, the signal would only kill it.
    let orders = Orders::listen()
        .map_err(|e| VolumeError::new(Exit::Failure, format!("cannot handle signals: {e}")))?;
    if let Some(score) = args.oom_score
        && let Err(e) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        log::debug!("cannot set oom_score_adj: {e}");
    }
    let failed = |e: std::io::Error| VolumeError::new(Exit::Failure, format!("store {store}: {e}"));
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let endowment = Endowment::receive(socket).map_err(failed)?;
    let keeper = endowment.keeper();
    let open = StoreOptions { cache_bytes: args.cache_size as usize, ..StoreOptions::default() };
    let options = ServerOptions { root: context.root.clone(), store, endowment, open };
    let started = check_limits().and_then(|()| start_beside(options));
    keeper.started(started.as_ref().map(|_| ()));
    let server = started.inspect_err(|e| log::error!("{e}"))?;
    log::info!("serving store {store}, process {}", std::process::id());
    run_until_idle(&server, orders);
    log::info!("the server ends");
    Ok(Exit::Ok)
}
