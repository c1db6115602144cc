//! What mount(8) and umount(8) run: `/sbin/mount.larder SPEC DIR [-sfnv] [-N ns] [-o options] [-t type]` and
//! `/sbin/umount.fuse.larder DIR [-flnrv] [-N ns] [-t type]`.

use super::mount::{options_over, secret_of};
use super::umount::note;
use super::{find_root, root_of_mounts};
use crate::exit_code::{Exit, MountExit};
use crate::host::{Job, Secrets, find, is_mounted_at, mount as background, remount, unmount};
use crate::mount::MountOptions;
use crate::printable::printable;
use crate::root::Root;
use crate::server::log_to_stderr;
use crate::volume::{Result, VolumeError};
use log::LevelFilter;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The mount option of a mount unit whose volume a service mounts: what is asked for is there already, or it is an error.
pub(super) const BY_UNIT: &str = "by-unit";

/// The arguments of a helper.
#[derive(Debug, Default, PartialEq, Eq)]
struct HelperArgs {
    positional: Vec<String>,
    options: Vec<String>,
    fake: bool,
    sloppy: bool,
    lazy: bool,
    verbose: u8,
}

fn parse(args: &[OsString]) -> Result<HelperArgs> {
    let usage = |what: String| VolumeError::new(Exit::Usage, what);
    let mut out = HelperArgs::default();
    let mut args = args.iter().skip(1).map(|arg| {
        arg.to_str().map(str::to_owned).ok_or_else(|| usage(format!("{} is not UTF-8", arg.display())))
    });
    while let Some(arg) = args.next().transpose()? {
        let Some(flags) = arg.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            out.positional.push(arg);
            continue;
        };
        for (at, flag) in flags.char_indices() {
            match flag {
                'f' => out.fake = true,
                's' => out.sloppy = true,
                'l' => out.lazy = true,
                'v' => out.verbose += 1,
                'n' | 'r' | 'i' | 'w' => {}
                'o' | 't' | 'N' => {
                    let rest = &flags[at + 1..];
                    let value = match rest.is_empty() {
                        true => {
                            args.next().transpose()?.ok_or_else(|| usage(format!("-{flag} needs a value")))?
                        }
                        false => rest.to_owned(),
                    };
                    if flag == 'o' {
                        out.options.push(value);
                    }
                    break;
                }
                other => return Err(usage(format!("unknown option -{other}"))),
            }
        }
    }
    Ok(out)
}

fn root(options: &MountOptions) -> Result<Root> {
    let from_environment = std::env::var_os("LARDER_ROOT").map(PathBuf::from);
    let given = options.root.clone().map(PathBuf::from).or(from_environment);
    Ok(find_root(given.as_deref())?.0)
}

fn finish(program: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{program}: {}", printable(&e.message));
            ExitCode::from(MountExit::from(e.exit) as u8)
        }
    }
}

/// `mount.larder`
pub(super) fn mount(args: &[OsString]) -> ExitCode {
    finish("mount.larder", try_mount(args))
}

fn try_mount(args: &[OsString]) -> Result<()> {
    let args = parse(args)?;
    log_to_stderr(args.verbose, LevelFilter::Warn);
    let [name, dir] = args.positional.as_slice() else {
        return Err(VolumeError::new(Exit::Usage, "usage: mount.larder VOLUME DIR [-sfnv] [-o OPTIONS]"));
    };
    if is_by_unit(&args.options) {
        return look_for(Path::new(dir));
    }
    let asked =
        MountOptions::parse(&args.options, args.sloppy).map_err(|e| VolumeError::new(Exit::Usage, e.0))?;
    if args.fake {
        return Ok(());
    }
    let root = root(&asked)?;
    let name = &volume_meant(name, &root);
    let options = options_over(&root, name, &args.options, args.sloppy)?;
    let secret = secret_of(&Secrets { ask: true, ..Secrets::default() }, &options);
    let job = Job { root: &root, name, dir: Path::new(dir), options: &options, secret: &secret, verbose: 0 };
    if options.remount { remount(&job) } else { background(&job) }
}

/// Whether the options are those of a mount unit that [`generator`](super::generator) has made.
fn is_by_unit(options: &[String]) -> bool {
    options.iter().flat_map(|list| list.split(',')).any(|option| option == BY_UNIT)
}

/// Sees that a volume is mounted on a directory, as that of a service is when it has started.
fn look_for(dir: &Path) -> Result<()> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if is_mounted_at(name, dir) {
        return Ok(());
    }
    let (dir, what) = (dir.display(), format!("larder@{name}.service has not mounted volume {name:?}"));
    Err(VolumeError::new(
        Exit::MountPoint,
        format!("{what} on {dir}; `systemctl status larder@{name}` says why"),
    ))
}

/// The volume that whoever ran mount(8) meant. A name that is also that of a file where mount(8) was run has become its path: at boot,
/// that is `/`, so that `media` is `/media`.
fn volume_meant(source: &str, root: &Root) -> String {
    if !source.starts_with('/') {
        return source.to_owned();
    }
    let names = root.names().unwrap_or_default();
    let meant = names.into_iter().find(|name| {
        std::env::current_dir()
            .and_then(|dir| dir.join(name).canonicalize())
            .is_ok_and(|path| path == Path::new(source))
    });
    meant.unwrap_or_else(|| source.to_owned())
}

/// `umount.larder`
pub(super) fn umount(args: &[OsString]) -> ExitCode {
    finish("umount.larder", try_umount(args))
}

fn try_umount(args: &[OsString]) -> Result<()> {
    let args = parse(args)?;
    log_to_stderr(args.verbose, LevelFilter::Warn);
    let [target] = args.positional.as_slice() else {
        return Err(VolumeError::new(Exit::Usage, "usage: umount.larder DIR [-flnrv]"));
    };
    let from_environment = std::env::var_os("LARDER_ROOT").map(PathBuf::from);
    let root = root_of_mounts(from_environment.as_deref(), false)?;
    let entry = find(&root, Path::new(target))?;
    // `-f` means to unmount even from a server that does not answer; it must not be waited for.
    note(&unmount(&root, &entry, args.lazy || args.fake, None)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_in_any_order() {
        let args = |text: &str| parse(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        let parsed = args("mount.larder db /mnt -sv -o noatime,commit=1 -t fuse.larder -N 1 -oro").unwrap();
        assert_eq!(parsed.positional, ["db", "/mnt"]);
        assert_eq!(parsed.options, ["noatime,commit=1", "ro"]);
        assert!(parsed.sloppy && !parsed.fake && parsed.verbose == 1);
        assert!(args("umount.larder /mnt -fl").unwrap().lazy);
        assert!(args("mount.larder -x").is_err() && args("mount.larder -o").is_err());
    }
}
