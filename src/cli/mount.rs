//! `larder mount`

use super::args::MountArgs;
use super::{CommandResult, Context, find_root, output};
use crate::exit_code::Exit;
use crate::host::{
    Job, Place, Record, Secrets, await_ending, cache_bytes, connect, ended_at_once, is_moment, is_mounted_at,
    mount as background, mount_with, options_of, place, prepare, remount, server_of, store_of, trash,
    usual_mount,
};
use crate::mount::{MountOptions, mark_dead};
use crate::root::Root;
use crate::server::{Bequest, Holder, HolderOptions, ToldToEnd, Unheld, be_for, shed_limits, wait_longer};
use crate::store::StoreId;
use crate::volume::{Result, Target, VolumeError};
use serde_json::json;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server that runs already may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to change the options of what is mounted already, before it is said to be mounted.
const LONGEST_REMOUNT: Duration = Duration::from_secs(60);

/// What systemd is asked for beside that.
const MARGIN: Duration = Duration::from_secs(10);

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

/// How a volume, or a snapshot, is mounted: as is asked for now, and otherwise as the volume says, or what is usual on this host.
pub(super) fn options_over(root: &Root, name: &str, asked: &[String], sloppy: bool) -> Result<MountOptions> {
    let usage = |e: String| VolumeError::new(Exit::Usage, e);
    let mut lists = usual_mount()?;
    let volume = Target::parse(name)?.volume;
    if let Some(place) = place(root, &volume)? {
        let own = options_of(root, &volume, place);
        // Of a store that was put in the place of another, what matters more is whether that was encrypted.
        if let (Err(_), Place::Store(id)) = (&own, place) {
            Secrets::default().must_fit(root, id, &volume)?;
        }
        lists.extend(own?.mount_list().map_err(usage)?);
    }
    lists.extend_from_slice(asked);
    let mut options = MountOptions::parse(&lists, sloppy).map_err(|e| usage(e.0))?;
    // A snapshot does not change, nor does the state of a moment.
    options.read_only |= name.contains('@') || is_moment(root, name);
    Ok(options)
}

/// Where a volume is mounted if nobody says where.
///
/// # Errors
/// `NoVolume`, or the host's.
pub(super) fn recorded(root: &Root, name: &str) -> Result<Option<PathBuf>> {
    // A snapshot has no place of its own.
    if name.contains('@') {
        return Ok(None);
    }
    let place = place(root, name)?.ok_or_else(|| trash::no_volume(root, name))?;
    Ok(Record::of(root, name, place)?.and_then(|record| record.mountpoint))
}

pub(super) fn run(context: &Context, args: &MountArgs) -> CommandResult {
    let name = args.name.as_deref().unwrap_or_default();
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => recorded(&context.root, name)?.ok_or_else(|| {
            let what = match name.contains('@') {
                true => format!("a snapshot has no mountpoint of its own; give a directory to mount {name} on"),
                false => format!(
                    "volume {name:?} has no mountpoint recorded; give a directory, or `larder set {name} mountpoint=DIR`"
                ),
            };
            VolumeError::new(Exit::Usage, what)
        })?,
    };
    let exit = mount_quietly(context, args, name, &dir)?;
    if !args.foreground || args.options.iter().any(|options| options.split(',').any(|of| of == "remount")) {
        let text = format!("{name} is mounted on {}", dir.display());
        output::done(context, &text, &json!({ "name": name, "dir": dir.display().to_string() }))?;
    }
    Ok(exit)
}

/// Mounts a volume on a directory, as the arguments say how. Who calls says so.
pub(super) fn mount_quietly(context: &Context, args: &MountArgs, name: &str, dir: &Path) -> CommandResult {
    let asked = MountOptions::parse(&args.options, false).map_err(|e| VolumeError::new(Exit::Usage, e.0))?;
    let root = match &asked.root {
        Some(root) => find_root(Some(Path::new(root)))?.0,
        None => context.root.clone(),
    };
    let mut options = options_over(&root, name, &args.options, false)?;
    options.cache_bytes = args.cache_size.or(options.cache_bytes);
    let mut secret = secret_of(&args.secret.named(), &options);
    // Nobody is asked for the secrets of all volumes.
    secret.ask &= !args.all || secret.is_given();
    let job = Job { root: &root, name, dir, options: &options, secret: &secret, verbose: context.verbose };
    if args.mkdir || args.dir.is_none() && !options.remount {
        make_dir(dir)?;
    }
    if options.remount {
        remount(&job)?;
    } else if args.foreground {
        foreground(&job)?;
    } else {
        background(&job)?;
    }
    Ok(Exit::Ok)
}

/// Makes a mountpoint. What is mounted there already is not asked for anything: perhaps nobody serves it at the moment.
fn make_dir(dir: &Path) -> Result<()> {
    let refuse = |e: io::Error| VolumeError::new(Exit::MountPoint, format!("{}: {e}", dir.display()));
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            make_dir(parent.ok_or_else(|| refuse(e))?)?;
            fs::create_dir(dir).map_err(refuse)
        }
        other => other.map_err(refuse),
    }
}

/// Mounts, and holds what the server serves with until the volume is unmounted.
fn foreground(job: &Job<'_>) -> Result<()> {
    shed_limits();
    let id = store_of(job.root, job.name)?;
    be_for(id, Some(job.name));
    let options = HolderOptions {
        root: job.root.clone(),
        store: id,
        cache_bytes: cache_bytes(job.options),
        verbose: job.verbose,
        log_to_file: false,
        unit: Some(job.name.to_owned()),
    };
    if let Some(bequest) = Bequest::receive(job.root, id) {
        // An order to end that comes from now on is for a process that has to unmount; the keys can take a while.
        let told = ToldToEnd::listen();
        let keys = job.secret.subkeys(job.root, id, job.name)?;
        let holder = Holder::inherit(options, keys, bequest, &told)?;
        if holder.options_of(job.name).is_none_or(|options| options == job.options) {
            return serve(job, holder, &told);
        }
        // The server that is asked for that needs its holder.
        let job = OwnJob::of(job);
        std::thread::spawn(move || {
            job.remount_in_time();
            say_mounted(&job.job());
        });
        return holder.run(&told);
    }
    if let Some(unheld) = Unheld::find(job.root, id, PATIENCE)?
        && (unheld.mount(job.name).is_none() || is_mounted_at(job.name, job.dir))
    {
        return look_after(job, id, unheld);
    }
    await_ending(job, id)?;
    if server_of(job.root, id)?.is_some() {
        // Says where it is mounted, if it is.
        connect(job, id, &mut Some(Vec::new()))?;
        return Err(VolumeError::new(
            Exit::Busy,
            format!(
                "a server for volume {0:?} is already running; `larder umount {0}` unmounts what it serves",
                job.name
            ),
        ));
    }
    prepare(job, id)?;
    let holder = Holder::start(options, job.secret.subkeys(job.root, id, job.name)?)?;
    let told = ToldToEnd::listen();
    // The server ends by itself if nothing is mounted.
    let mounted = server_of(job.root, id).and_then(|client| match client {
        Some(mut client) => mount_with(job, id, &mut client),
        None => Err(ended_at_once(job.root, id, job.name)),
    });
    if let Err(e) = mounted {
        let _ = holder.run(&told);
        return Err(e);
    }
    serve(job, holder, &told)
}

/// Looks after a server that has lost its holder, until it ends. What it serves lives on.
fn look_after(job: &Job<'_>, id: StoreId, mut unheld: Unheld) -> Result<()> {
    let told = ToldToEnd::listen();
    if unheld.mount(job.name).is_none() {
        mount_with(job, id, unheld.client())?;
    } else if unheld.mount(job.name).is_some_and(|mount| mount.options != *job.options) {
        OwnJob::of(job).remount_in_time();
    }
    let status = unheld.status();
    log::warn!(
        "process {}, version {}, continues to serve; nothing can take over from it, so stop and start this when convenient",
        status.pid,
        status.version
    );
    say_mounted(job);
    let connection = unheld.mount(job.name).and_then(|mount| mount.connection);
    if unheld.attend(&told)? && is_mounted_at(job.name, job.dir) {
        mark_dead(job.dir, job.name, connection);
        return Err(VolumeError::new(Exit::Failure, "the server died, and the mount with it"));
    }
    Ok(())
}

/// Says that the volume is mounted, and holds it until it is not.
fn serve(job: &Job<'_>, holder: Holder, told: &ToldToEnd) -> Result<()> {
    say_mounted(job);
    holder.run(told)
}

/// The same as a [`Job`], for another thread.
#[derive(Clone)]
struct OwnJob {
    root: Root,
    name: String,
    dir: PathBuf,
    options: MountOptions,
    secret: Secrets,
    verbose: u8,
}

impl OwnJob {
    fn of(job: &Job<'_>) -> Self {
        Self {
            root: job.root.clone(),
            name: job.name.to_owned(),
            dir: job.dir.to_owned(),
            options: job.options.clone(),
            secret: job.secret.clone(),
            verbose: job.verbose,
        }
    }

    fn job(&self) -> Job<'_> {
        Job {
            root: &self.root,
            name: &self.name,
            dir: &self.dir,
            options: &self.options,
            secret: &self.secret,
            verbose: self.verbose,
        }
    }

    /// Gives what is mounted already the options that are asked for now. If that fails, or takes too long, it goes on with those it has:
    /// programs use it.
    fn remount_in_time(&self) {
        let (send, receive) = std::sync::mpsc::channel();
        let own = self.clone();
        // A thread that waits in the kernel for a server that hangs comes back when that one is replaced.
        std::thread::spawn(move || send.send(remount(&own.job())));
        wait_longer(LONGEST_REMOUNT + MARGIN);
        let what = match receive.recv_timeout(LONGEST_REMOUNT) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => {
                format!("that has taken more than {} s, but may still succeed", LONGEST_REMOUNT.as_secs())
            }
        };
        log::error!(
            "volume {:?} on {} cannot get its new mount options: {what}; until then, it keeps those it has (`larder mount -o \
             remount,...` changes them)",
            self.name,
            self.dir.display()
        );
    }
}

/// Says that the volume is mounted, as well as that can be done: who cannot be told does not make it less so.
fn say_mounted(job: &Job<'_>) {
    // systemd waits for it, if it is the one that started this process (larder@.service).
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("cannot tell systemd: {e}");
    }
    let said = match output::is_for_programs() {
        true => output::json_line(&json!({ "name": job.name, "dir": job.dir.display().to_string() }))
            .and_then(|text| output::line(&text)),
        false => output::line(&format!("{} is mounted on {}", job.name, job.dir.display())),
    };
    if let Err(e) = said {
        log::warn!("cannot say that the volume is mounted: {e}");
    }
}
