//! The command line: one file a command. Commands turn arguments into calls and results into text.

mod args;
mod check;
mod completions;
mod confirm;
mod create;
mod df;
mod diff;
mod family;
mod inspect;
mod key;
mod ls;
mod mount;
mod mount_helper;
mod output;
mod plugin;
mod progress;
mod prune;
mod reencrypt;
mod rm;
mod secret;
mod serve;
mod set;
mod snapshot;
mod umount;
mod upgrade;

use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::log_to_stderr;
use crate::volume::VolumeError;
use args::{Args, Command};
use clap::Parser;
use log::LevelFilter;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// The result of a command: how it ended, where that is not the end of an error.
type CommandResult = Result<Exit, VolumeError>;

/// What all commands know.
struct Context {
    root: Root,
    json: bool,
    verbose: u8,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    match program {
        Some("mount.larder" | "mount.fuse.larder") => return mount_helper::mount(&args),
        Some("umount.larder" | "umount.fuse.larder") => return mount_helper::umount(&args),
        _ => {}
    }
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let context = Context { root: Root::new(&args.root), json: args.json, verbose: args.verbose };
    if !matches!(args.command, Command::Serve(_)) {
        let foreground = matches!(&args.command, Command::Mount(mount) if mount.foreground)
            || matches!(&args.command, Command::Plugin(_));
        // What goes wrong is said by the command itself, in one line.
        log_to_stderr(args.verbose, if foreground { LevelFilter::Info } else { LevelFilter::Off });
    }
    let result = match &args.command {
        Command::Create(args) => create::run(&context, args),
        Command::Snapshot { command } => snapshot::run(&context, command),
        Command::Clone(args) => family::clone(&context, args),
        Command::Rollback(args) => family::rollback(&context, args),
        Command::Diff(args) => diff::run(&context, args),
        Command::Resize(args) => family::resize(&context, args),
        Command::Ls => ls::run(&context),
        Command::Key(args) => key::run(&context, args),
        Command::Inspect(args) => inspect::run(&context, args),
        Command::Mount(args) => mount::run(&context, args),
        Command::Umount(args) => umount::run(&context, args),
        Command::Upgrade(args) => upgrade::run(&context, args),
        Command::Rm(args) => rm::run(&context, args),
        Command::Prune(args) => prune::run(&context, args),
        Command::Set(args) => set::run(&context, args),
        Command::Df(args) => df::run(&context, args),
        Command::Check(args) => check::run(&context, args),
        Command::Plugin(args) => plugin::run(&context, args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::man(args),
        Command::Serve(args) => serve::run(&context, args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(e) => {
            output::error(&e);
            e.exit.into()
        }
    }
}
