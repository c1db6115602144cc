//! The smaller program of holders and servers (`larder-server`), which a `larder serve` becomes that serves a volume without a remote.
//!
//! A program pays for each constant that holds an address: the dynamic linker writes to all of them when it is started, so that each process has
//! pages of its own of them. Most of these constants belong to commands and to what speaks to object stores, and each mounted volume has
//! two processes that need neither. What does not refer to them is linked without them.
//!
//! Invariants:
//! - the smaller program serves only for a `larder` of the same build; for another one, it becomes that one again. So it does not matter which
//!   of the two files an upgrade has replaced already, nor whether both are there;
//! - it is the same process, with the same files and arguments, which stands for `larder`: what it starts is `larder`, which looks again
//!   what the store needs;
//! - it is nobody's who could not have put something in the place of `larder` itself.

use super::args::ServeArgs;
use super::{CommandResult, Context, Source, ended, serve};
use crate::backing::OsDir;
use crate::exit_code::Exit;
use crate::remote::LOCAL_NAME;
use crate::root::Root;
use crate::server::stand_for;
use crate::store::{Feature, Header, StoreId};
use crate::volume::VolumeError;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::fexecve;
use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

/// What this program was made from.
const BUILD: &str = env!("LARDER_BUILD");
/// Where the smaller program finds the build that it is started for, and the number of the file that `larder` is in. All versions of both
/// understand it.
const STARTED_FOR: &str = "LARDER_SERVER_FOR";
/// The last argument of a `larder serve` that is to be itself.
const ITSELF: &str = "--itself";
/// What follows the build where the process goes on without a file of `larder`.
const WITHOUT_FILE: &str = "-";
/// What it is called.
const SMALLER: &str = "larder-server";
/// Where it is, from the directory of `larder` if that has this name: where it is installed.
const INSTALLED: (&str, &str) = ("bin", "../libexec/larder");

/// What a holder or a server is started with, as [`crate::server`] writes it; `None` of another command line.
fn asked_for(args: &[OsString]) -> Option<(Context, ServeArgs)> {
    let mut rest = args.iter().skip(1);
    let mut next = || rest.next().map(OsString::as_os_str);
    let text = |arg: Option<&std::ffi::OsStr>| arg.and_then(|arg| arg.to_str()).map(str::to_owned);
    if next()? != "--root" {
        return None;
    }
    let root = Path::new(next()?);
    let mut verbose = 0;
    while let Some(arg) = text(next()) {
        match arg.as_str() {
            "-v" => verbose += 1,
            "serve" => break,
            _ => return None,
        }
    }
    let mut serve = ServeArgs { store: text(next())?, ..ServeArgs::default() };
    let mut has_size = false;
    while let Some(arg) = next() {
        match arg.to_str()? {
            "--held" => serve.held = true,
            "--log-to-stderr" => serve.log_to_stderr = true,
            "--cache-size" => {
                serve.cache_size = text(next())?.parse().ok()?;
                has_size = true;
            }
            other => serve.oom_score = Some(other.strip_prefix("--oom-score=")?.parse().ok()?),
        }
    }
    let is_whole = has_size && root.is_absolute() && !root.as_os_str().is_empty();
    let context = Context { root: Root::new(root), root_from: Source::Given, json: false, verbose };
    is_whole.then_some((context, serve))
}

/// Whether the smaller program can serve a store: also if that is damaged, it is `larder` that says so. (A header from before it had a remote
/// may have been put back.)
fn can_serve(root: &Root, store: &str) -> bool {
    let Ok(id) = store.parse::<StoreId>() else { return false };
    let local = root.store(id).join(LOCAL_NAME).symlink_metadata();
    if local.map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |_| true) {
        return false;
    }
    Header::feature_names(&OsDir::new(root.store(id)))
        .is_ok_and(|names| !names.iter().any(|name| name == Feature::Remote.name()))
}

/// Becomes the smaller program, if that is what this process is for and it is there. Before anything else is done in it.
pub(super) fn become_smaller(args: &[OsString]) {
    let Some((context, serve)) = asked_for(args) else { return };
    if can_serve(&context.root, &serve.store) {
        // Whatever is in the way, this program does as well.
        let _ = replace_by_smaller(args);
    }
}

fn replace_by_smaller(args: &[OsString]) -> io::Result<Infallible> {
    // What was called `larder-server` is one that does not know better, and would do the same again, and again.
    let process = std::process::id().to_string();
    if env::var(STARTED_FOR).is_ok_and(|given| given.split(' ').next_back() == Some(process.as_str())) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let own = File::open("/proc/self/exe")?;
    let path = env::current_exe()?;
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let metadata = own.metadata()?;
    let places = [
        Some(dir.to_owned()),
        (dir.file_name() == Some(OsStr::new(INSTALLED.0))).then(|| dir.join(INSTALLED.1)),
    ];
    let smaller = places.into_iter().flatten().find_map(|place| open_trusted(&place, &metadata));
    let smaller = smaller.ok_or(io::ErrorKind::NotFound)?;
    // The other program finds it open.
    fcntl(&own, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let started_for = format!("{BUILD} {} {process}", own.as_raw_fd());
    run(&smaller, args, Some((STARTED_FOR.into(), started_for.into())))
}

/// The smaller program in a directory, if it is on the same file system as `larder`, has the same owner and mode, and nobody else can put
/// anything there. (What is no file of that file system is not waited for.)
fn open_trusted(dir: &Path, larder: &Metadata) -> Option<File> {
    let place = dir.metadata().ok()?;
    if place.uid() != larder.uid() || place.mode() & 0o022 != 0 {
        return None;
    }
    let path = dir.join(SMALLER);
    let of = |file: &Metadata| (file.dev(), file.uid(), file.gid(), file.mode());
    let is_it = |metadata: &Metadata| of(metadata) == of(larder);
    if !path.symlink_metadata().is_ok_and(|metadata| is_it(&metadata)) {
        return None;
    }
    // A pipe would wait for somebody to write into it.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| is_it(&metadata)).then_some(file)
}

/// Runs the program in an open file with these arguments, in this process; returns only to say why not. (No shell tries its luck with what
/// is no program, as for [`std::process::Command`].)
fn run(file: &File, args: &[OsString], variable: Option<(OsString, OsString)>) -> io::Result<Infallible> {
    let others = env::vars_os().filter(|(name, _)| name != STARTED_FOR);
    let environment = others.chain(variable).map(|(name, value)| [name, value].join(OsStr::new("=")));
    let strings = |of: &mut dyn Iterator<Item = OsString>| -> io::Result<Vec<CString>> {
        of.map(|string| Ok(CString::new(string.into_vec())?)).collect()
    };
    let args = strings(&mut args.iter().cloned())?;
    Ok(fexecve(file, &args, &strings(&mut environment.into_iter())?)?)
}

/// Runs a holder or a server.
pub fn smaller_main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    let given = env::var(STARTED_FOR).unwrap_or_default();
    let mut words = given.split(' ');
    let result = match (words.next(), words.next()) {
        (Some(build), Some(WITHOUT_FILE)) => without_file(&args, build),
        (Some(build), Some(fd)) if fd.parse::<u32>().is_ok() => smaller(&args, build, fd),
        _ => {
            let what = "larder-server is started by `larder mount`; it does nothing by itself";
            Err(VolumeError::new(Exit::Usage, what))
        }
    };
    ended(result)
}

/// Serves for the `larder` of this build that is in file `fd`, or becomes it.
fn smaller(args: &[OsString], build: &str, fd: &str) -> CommandResult {
    // Opened once more, it is this process's own; the other one is closed with all that does not belong to it.
    let larder = File::open(format!("/proc/self/fd/{fd}")).map_err(|e| cannot_start(&e))?;
    if let Some((context, serve)) = asked_for(args).filter(|_| build == BUILD) {
        let again = format!("{BUILD} {WITHOUT_FILE}");
        stand_for(larder, (STARTED_FOR, again)).map_err(|e| cannot_start(&e))?;
        return serve::run(&context, &serve);
    }
    let args = [args, &[ITSELF.into()]].concat();
    run(&larder, &args, None).map(|never| match never {}).map_err(|e| cannot_start(&e))
}

/// Serves after the file of the `larder` that this one stood for was written over: in another one's place.
fn without_file(args: &[OsString], build: &str) -> CommandResult {
    match asked_for(args).filter(|_| build == BUILD) {
        Some((context, serve)) => serve::run(&context, &serve),
        None => Err(cannot_start(&io::Error::other("its file was overwritten"))),
    }
}

fn cannot_start(e: &io::Error) -> VolumeError {
    VolumeError::new(
        Exit::Failure,
        format!("larder itself, for which this program was started, cannot be run: {e}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<(Context, ServeArgs)> {
        asked_for(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn command_lines_of_holders_and_servers_mean_what_larder_takes_them_for() {
        use super::super::args::{Args, Command};
        use clap::Parser;
        for line in [
            "x --root /r serve 0123 --cache-size 268435456",
            "x --root /r -v -v serve 0123 --held --cache-size 1 --log-to-stderr --oom-score=-500",
            "x --root /r serve 0123 --held --cache-size 5 --oom-score=0",
        ] {
            let (context, serve) = asked(line).unwrap();
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            let Command::Serve(other) = args.command else { panic!("{line}") };
            assert_eq!(format!("{serve:?}"), format!("{other:?}"));
            assert_eq!((context.root.path(), context.verbose), (Path::new("/r"), args.verbose));
        }
    }

    #[test]
    fn what_is_no_such_command_line_is_larders() {
        for line in [
            "x",
            "x ls",
            "x --root",
            "x --root /r",
            "x --root r serve 0123 --cache-size 5",
            "x --root /r serve",
            "x --root /r serve 0123",
            "x --root /r serve 0123 --offers",
            "x --root /r serve 0123 --cache-size 5M",
            "x --root /r serve 0123 --cache-size",
            "x --root /r serve 0123 --cache-size 5 --itself",
            "x --root /r serve 0123 --cache-size 5 --oom-score=a",
            "x --root /r --json serve 0123 --cache-size 5",
        ] {
            assert!(asked(line).is_none(), "{line}");
        }
    }
}
