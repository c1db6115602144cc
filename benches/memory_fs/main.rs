//! A FUSE server that keeps everything in memory and nothing for good: what the transport alone costs. It asks the
//! kernel for the same as Larder does, so what Larder takes longer for a row of `scripts/bench` is what Larder itself does.
//!
//! `memory_fs DIR` serves a mount on DIR until it is unmounted.

mod adapter;
mod contents;
mod kernel;
mod tree;

use adapter::Adapter;
use fuser::{Config, Session, SessionACL};
use kernel::Pinner;
use larder::fuse::lift_limits;
use nix::mount::MsFlags;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn mount(dir: &Path) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?;
    let data = format!(
        "fd={},rootmode={:o},user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd(),
        libc::S_IFDIR
    );
    let flags = MsFlags::MS_RELATIME;
    nix::mount::mount(Some("memory"), dir, Some("fuse.memory"), flags, Some(data.as_str()))?;
    Ok(device.into())
}

/// The number of the device mounted on `dir`, as `major:minor`.
fn device_number(dir: &Path) -> io::Result<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let here = |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == dir);
    let number = table.lines().rev().find(here).and_then(|line| line.split(' ').nth(2));
    number.map(str::to_owned).ok_or_else(|| io::Error::other("the mount is gone already"))
}

fn serve(dir: &Path) -> io::Result<()> {
    let pinner = Pinner::new();
    let mut config = Config::default();
    config.n_threads = Some(pinner.cpus().max(2));
    let device = mount(dir)?;
    let session = Session::from_fd(Adapter::new(pinner), device, SessionACL::All, config)?;
    lift_limits(&device_number(dir)?, None);
    println!("mounted");
    session.run()
}

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("memory_fs: say where to mount: memory_fs DIR");
        return ExitCode::from(2);
    };
    match dir.canonicalize().and_then(|dir| serve(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("memory_fs: {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}
