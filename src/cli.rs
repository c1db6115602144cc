//! The command line: one file a command. Commands turn arguments into calls and results into text.

mod accept_older;
mod args;
mod attach;
mod check;
mod completions;
mod config;
mod confirm;
mod create;
mod detach;
mod df;
mod diff;
mod engines;
mod family;
mod find;
mod generator;
mod get;
mod guard;
mod guesses;
mod history;
mod hold;
mod inspect;
mod key;
mod logs;
mod ls;
mod man;
mod mount;
mod mount_all;
mod mount_helper;
mod named_by;
mod output;
mod plugin;
mod progress;
mod prune;
mod reencrypt;
mod remote;
mod remote_rm;
mod rename;
mod rm;
mod scrub;
mod secret;
mod serve;
mod set;
mod shipping;
mod smaller;
mod snapshot;
mod status;
mod template;
mod trash;
mod umount;
mod upgrade;

use crate::config::Config;
use crate::exit_code::Exit;
use crate::host::configuration;
use crate::remote::with_clouds;
use crate::root::{Root, default_root, is_ordinary_user};
use crate::server::{log_to_stderr, say_left_out};
use crate::volume::VolumeError;
use args::{Args, Command};
use clap::Parser;
use log::LevelFilter;
pub use smaller::smaller_main;
use std::ffi::OsString;
use std::io::Write;
use std::path::{self, Path};
use std::process::ExitCode;

/// The result of a command: how it ended, where that is not the end of an error.
type CommandResult = Result<Exit, VolumeError>;

/// What all commands know.
struct Context {
    root: Root,
    root_from: Source,
    json: bool,
    verbose: u8,
}

/// Where it was said which directory is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Given,
    File,
    BuiltIn,
}

impl Source {
    fn describe(self, file: &str) -> String {
        match self {
            Self::Given => "the command line or LARDER_ROOT".into(),
            Self::File => file.into(),
            Self::BuiltIn => "built in".into(),
        }
    }
}

/// The root: as it is given, or as the configuration of the host has it. From here on, its path does not depend on where this
/// process is, and those that it starts may be elsewhere.
fn find_root(given: Option<&Path>) -> Result<(Root, Source), VolumeError> {
    let given = given.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
    let (dir, source) = match given {
        Some(dir) => (dir, Source::Given),
        // An ordinary user has a root of his own, and perhaps may not read what is in /etc.
        None if is_ordinary_user() => (default_root(), Source::BuiltIn),
        None => match configuration()?.root() {
            Some(dir) => (dir.to_owned(), Source::File),
            None => (default_root(), Source::BuiltIn),
        },
    };
    let dir = path::absolute(&dir).map_err(|e| VolumeError::io(&dir, &e))?;
    Ok((Root::new(dir), source))
}

/// The root, for whoever unmounts something: what is wrong with the configuration must not keep mounted what has to go.
///
/// # Errors
/// When it is not known which root is meant, and that has to be known: whoever unmounts everything would be told that all is done.
fn root_of_mounts(given: Option<&Path>, of_all: bool) -> Result<Root, VolumeError> {
    let e = match find_root(given) {
        Ok((root, _)) => return Ok(root),
        Err(e) => e,
    };
    let root = match Config::root_in_spite() {
        Ok(named) => named.unwrap_or_else(default_root),
        // A directory is unmounted whatever root it is of.
        Err(_) if !of_all => default_root(),
        Err(_) => return Err(e.hint("`--root DIR` says which root is meant")),
    };
    output::error(e.context(&format!("going on with {}", root.display())));
    Ok(Root::new(root))
}

/// Whether a command is about what is in the root, so that there has to be one.
fn needs_root(command: &Command, root_from: Source) -> bool {
    match command {
        Command::Create(args) => args.from.is_some(),
        // Of a host that has no volumes yet, nothing is due.
        Command::Scrub(args) => !args.is_for_what_is_due() || root_from != Source::BuiltIn,
        Command::Trash(args) => !args.is_for_what_is_due() || root_from == Source::Given,
        // By packages and units, also on a host that has no volumes yet; a directory is unmounted whatever root it is of.
        Command::Upgrade(_) => root_from == Source::Given,
        Command::Umount(args) => args.all && root_from == Source::Given,
        Command::Snapshot { .. }
        | Command::Hold(_)
        | Command::Release(_)
        | Command::Rename(_)
        | Command::Logs(_)
        | Command::Clone(_)
        | Command::Rollback(_)
        | Command::Diff(_)
        | Command::Resize(_)
        | Command::Ls(_)
        | Command::Df(_)
        | Command::Inspect(_)
        | Command::Rm(_)
        | Command::Prune(_)
        | Command::Get(_)
        | Command::Set(_)
        | Command::Check(_)
        | Command::Status(_)
        | Command::Find(_)
        | Command::Key(_) => true,
        Command::Mount(args) => args.options.iter().all(|options| !options.contains("root=")),
        _ => false,
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    smaller::become_smaller(&args);
    with_clouds();
    let program = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    match program {
        Some("mount.larder" | "mount.fuse.larder") => return mount_helper::mount(&args),
        Some("umount.larder" | "umount.fuse.larder") => return mount_helper::umount(&args),
        Some("larder-generator") => return generator::main(&args),
        _ => {}
    }
    if let Some(exit) = completions::answer(&args) {
        return exit.into();
    }
    let for_programs = asks_for_json(&args);
    if for_programs {
        output::print_for_programs();
    }
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(e) => return refuse(&guesses::harmless(e), for_programs),
    };
    // What is wrong with the configuration must not keep anybody from finding out.
    let found = match &args.command {
        Command::Completions(_) | Command::Man(_) | Command::Guard(_) | Command::Config { .. } => {
            Ok(find_root(args.root.as_deref().map(Path::new))
                .unwrap_or_else(|_| (Root::new(default_root()), Source::BuiltIn)))
        }
        Command::Umount(of) => {
            let given = args.root.as_deref().map(Path::new);
            let is_given = given.is_some_and(|dir| !dir.as_os_str().is_empty());
            root_of_mounts(given, of.all)
                .map(|root| (root, if is_given { Source::Given } else { Source::BuiltIn }))
        }
        _ => find_root(args.root.as_deref().map(Path::new)),
    };
    let (root, root_from) = match found {
        Ok(found) => found,
        Err(e) => {
            output::error(&e);
            return e.exit.into();
        }
    };
    let context = Context { root, root_from, json: args.json, verbose: args.verbose };
    if !matches!(args.command, Command::Serve(_)) {
        let foreground = matches!(&args.command, Command::Mount(mount) if mount.foreground)
            || matches!(&args.command, Command::Plugin(_));
        // What goes wrong is said by the command itself, in one line.
        log_to_stderr(args.verbose, if foreground { LevelFilter::Info } else { LevelFilter::Off });
    }
    let there = if needs_root(&args.command, context.root_from) { context.root.demand() } else { Ok(()) };
    if let Err(what) = there {
        output::error(VolumeError::new(Exit::NoVolume, what));
        return Exit::NoVolume.into();
    }
    if matches!(
        args.command,
        Command::Create(_) | Command::Clone(_) | Command::Rollback(_) | Command::Rm(_) | Command::Prune(_)
    ) {
        // In passing: where no plugin runs, and no timer, nobody else does.
        crate::host::trash::tidy(&context.root);
    }
    let result = match &args.command {
        Command::Create(args) => create::run(&context, args),
        Command::Snapshot { command } => snapshot::run(&context, command),
        Command::Clone(args) => family::clone(&context, args),
        Command::Rollback(args) => family::rollback(&context, args),
        Command::Hold(args) => hold::hold(&context, args),
        Command::Release(args) => hold::release(&context, args),
        Command::Rename(args) => rename::run(&context, args),
        Command::Diff(args) => diff::run(&context, args),
        Command::Resize(args) => family::resize(&context, args),
        Command::Logs(args) => logs::run(&context, args),
        Command::Ls(args) => ls::run(&context, args),
        Command::Key(args) => key::run(&context, args),
        Command::Inspect(args) => inspect::run(&context, args),
        Command::Mount(args) if args.all => mount_all::mount_all(&context, args),
        Command::Mount(args) => mount::run(&context, args),
        Command::Umount(args) if args.all => mount_all::unmount_all(&context, args),
        Command::Umount(args) => umount::run(&context, args),
        Command::Attach(args) => attach::run(&context, args),
        Command::Detach(args) => detach::run(&context, args),
        Command::Remote { command } => remote::run(&context, command),
        Command::Upgrade(args) => upgrade::run(&context, args),
        Command::Rm(args) => rm::run(&context, args),
        Command::Trash(args) => trash::run(&context, args),
        Command::Prune(args) => prune::run(&context, args),
        Command::Get(args) => get::run(&context, args),
        Command::Set(args) => set::run(&context, args),
        Command::Df(args) => df::run(&context, args),
        Command::Check(args) => check::run(&context, args),
        Command::Config { command } => config::run(&context, command),
        Command::Status(args) => status::run(&context, args),
        Command::Scrub(args) => scrub::run(&context, args),
        Command::Find(args) => find::run(&context, args),
        Command::Plugin(args) => plugin::run(&context, args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Guard(args) => guard::run(args),
        Command::Serve(args) => serve::run(&context, args),
    };
    ended(result)
}

/// The exit code of a program that has done this, after what there is to be said.
fn ended(result: CommandResult) -> ExitCode {
    say_left_out(true);
    match result {
        Ok(exit) => exit.into(),
        Err(e) => {
            output::error(&e);
            e.exit.into()
        }
    }
}

/// Whether `--json` is among the arguments, also of a command line that makes no sense otherwise.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// Says what is wrong with a command line, or prints the help that was asked for.
fn refuse(e: &clap::Error, for_programs: bool) -> ExitCode {
    if !e.use_stderr() {
        let _ = e.print();
        return Exit::Ok.into();
    }
    if for_programs {
        output::error(VolumeError::new(Exit::Usage, in_a_line(e)));
    } else if e.kind() == clap::error::ErrorKind::MissingSubcommand
        && std::env::args_os().skip(1).all(|arg| arg.to_string_lossy().starts_with('-'))
    {
        // The list of all commands has hidden ones, too.
        let _ = write!(std::io::stderr(), "{}", <Args as clap::CommandFactory>::command().render_help());
    } else {
        let _ = e.print();
    }
    Exit::Usage.into()
}

/// What is wrong with a command line, without the usage that follows it.
fn in_a_line(e: &clap::Error) -> String {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    if matches!(e.kind(), DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand) {
        return "a command or an argument is missing; `larder --help` lists them".to_owned();
    }
    let text = e.render().to_string();
    let what = text.split("\n\nUsage:").next().unwrap_or(&text);
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let lines = what.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more"));
    lines.collect::<Vec<_>>().join(" ")
}
