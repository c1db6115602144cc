//! `larder mount`

use super::args::MountArgs;
use super::serve::end_on_signals;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{
    Job, Secrets, await_ending, cache_bytes, connect, is_mounted_at, lift, mount as background, prepare,
    remount, server_of, store_of,
};
use crate::mount::{self, MountOptions};
use crate::open_store::StoreOptions;
use crate::root::Root;
use crate::server::{Server, ServerOptions, run_until_idle};
use crate::volume::{Result, VolumeError};
use std::path::PathBuf;

/// The secret that the command line or the mount options name.
pub(super) fn secret_of(args: &Secrets, options: &MountOptions) -> Secrets {
    Secrets {
        key_file: args.key_file.clone().or_else(|| options.key_file.as_ref().map(PathBuf::from)),
        passphrase_file: args
            .passphrase_file
            .clone()
            .or_else(|| options.passphrase_file.as_ref().map(PathBuf::from)),
        ..args.clone()
    }
}

pub(super) fn run(context: &Context, args: &MountArgs) -> CommandResult {
    let mut options =
        MountOptions::parse(&args.options, false).map_err(|e| VolumeError::new(Exit::Usage, e.0))?;
    options.cache_bytes = args.cache_size.or(options.cache_bytes);
    // A snapshot does not change.
    options.read_only |= args.name.contains('@');
    let root = options.root.as_ref().map_or_else(|| context.root.clone(), Root::new);
    let secret = secret_of(&args.secret.named(), &options);
    let job = Job {
        root: &root,
        name: &args.name,
        dir: &args.dir,
        options: &options,
        secret: &secret,
        verbose: context.verbose,
    };
    if options.remount {
        remount(&job)?;
    } else if args.foreground {
        foreground(&job)?;
        return Ok(Exit::Ok);
    } else {
        background(&job)?;
    }
    output::line(&format!("{} is mounted on {}", args.name, args.dir.display()))?;
    Ok(Exit::Ok)
}

/// Mounts and serves in this process until the volume is unmounted.
fn foreground(job: &Job<'_>) -> Result<()> {
    let id = store_of(job.root, job.name)?;
    await_ending(job, id)?;
    if server_of(job.root, id)?.is_some() {
        // Says where it is mounted, if it is.
        connect(job, id, &mut Some(Vec::new()))?;
        return Err(VolumeError::new(
            Exit::Busy,
            format!("a server for volume {:?} is running already", job.name),
        ));
    }
    let dir = prepare(job, id)?;
    let open = StoreOptions { cache_bytes: cache_bytes(job.options) as usize, ..StoreOptions::default() };
    let keys = job.secret.keys(job.root, id, job.name)?;
    let server = Server::start(&ServerOptions { root: job.root.clone(), store: id, keys, open })?;
    let mounted = end_on_signals(&server)
        .and_then(|()| mount::mount(job.name, &dir, job.options))
        .and_then(|device| server.mount(job.name, dir.clone(), job.options.clone(), device));
    if let Err(e) = mounted {
        if is_mounted_at(job.name, &dir) {
            let _ = mount::unmount(&dir, true);
        }
        server.terminate();
        run_until_idle(&server);
        return Err(e);
    }
    lift(&dir);
    // systemd waits for it, if it is the one that started this process (larder@.service).
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("telling systemd: {e}");
    }
    output::line(&format!("{} is mounted on {}", job.name, job.dir.display()))?;
    run_until_idle(&server);
    Ok(())
}
