//! The arguments, as they are given.

use super::attach::AttachArgs;
use super::check::CheckArgs;
use super::config::ConfigCommand;
use super::detach::DetachArgs;
use super::family::{
    parse_inode_change, parse_inode_limit, parse_metadata_change, parse_metadata_limit, parse_size_change,
    parse_size_given, parse_size_limit,
};
use super::find::FindArgs;
use super::get::GetArgs;
use super::hold::HoldArgs;
use super::key::KeyArgs;
use super::logs::LogsArgs;
use super::ls::LsArgs;
use super::man::ManArgs;
use super::remote::RemoteCommand;
use super::rename::RenameArgs;
use super::scrub::ScrubArgs;
use super::secret::SecretArgs;
use super::set::SetArgs;
use super::shipping::CloselyArgs;
use super::snapshot::SnapshotCommand;
use super::status::StatusArgs;
use crate::size;
use crate::volume::LimitChange;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// File systems for container volumes: checksummed, with exact limits.
#[derive(Debug, Parser)]
#[command(name = "larder", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Args {
    /// The directory that holds everything [default: `root` of larder.toml, or /var/lib/larder; of an ordinary user,
    /// ~/.local/share/larder]
    #[arg(long, global = true, env = "LARDER_ROOT", value_name = "DIR", display_order = 900)]
    pub(super) root: Option<OsString>,
    /// Print JSON: what is listed, and, to standard error, what goes wrong
    #[arg(long, global = true, display_order = 901)]
    pub(super) json: bool,
    /// Be more verbose; twice, for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 902)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a volume
    Create(CreateArgs),
    /// Make, list and remove snapshots
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Make a copy of a volume, as it is or as it was at a snapshot; takes no time and no space
    Clone(CloneArgs),
    /// Return a volume to a snapshot; its present state is kept as another snapshot for a while, as removed volumes are
    Rollback(RollbackArgs),
    /// Protect snapshots from being removed until they are released
    Hold(HoldArgs),
    /// Release snapshots that are held
    Release(HoldArgs),
    /// Give a volume that is not mounted, or a snapshot, another name
    Rename(RenameArgs),
    /// Show what changed between a snapshot and another one, or the volume as it is: + added, - removed, M modified,
    /// R renamed
    Diff(DiffArgs),
    /// Change the limits of a volume, also while it is mounted
    Resize(ResizeArgs),
    /// List the volumes
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Show the log of a volume
    Logs(LogsArgs),
    /// Show everything about volumes, as JSON
    Inspect(InspectArgs),
    /// Mount a volume; returns when the mount is live
    Mount(MountArgs),
    /// Unmount a volume; returns when everything is on disk
    #[command(alias = "unmount")]
    Umount(UmountArgs),
    /// Remove volumes to the trash, from which they can be restored for a day
    #[command(alias = "remove")]
    Rm(super::rm::RmArgs),
    /// List volumes that were removed, and bring them back
    Trash(super::trash::TrashArgs),
    /// Remove all volumes that nobody has mounted, that no container was made with, and that have no labels, or those that a filter selects; asks first
    Prune(PruneArgs),
    /// Show what options a volume has, and where they come from
    Get(GetArgs),
    /// Change the options of a volume: limits, labels, how it is mounted, where its secret is, whether it is sticky
    Set(SetArgs),
    /// Show the space and the inodes that volumes use
    Df(DfArgs),
    /// Check volumes for damage; changes nothing
    Check(CheckArgs),
    /// Read the configuration of this host, /etc/larder/larder.toml
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Report what is wrong with volumes
    Status(StatusArgs),
    /// Read everything in volumes at low priority, and note what is damaged; continues after an interruption
    Scrub(ScrubArgs),
    /// Find out which file has a block or an inode number that a message names
    Find(FindArgs),
    /// Change the secrets of an encrypted volume
    Key(KeyArgs),
    /// Bring a volume to this host that another one has shipped to an object store (not finished)
    Attach(AttachArgs),
    /// Move a volume off this host: ship everything to its remote, then remove it here (not finished)
    Detach(DetachArgs),
    /// Keep volumes in object stores, too, and look at what is there (not finished)
    Remote {
        #[command(subcommand)]
        command: RemoteCommand,
    },
    /// Let this version of the program serve what is mounted, without interrupting anybody
    Upgrade(UpgradeArgs),
    /// Serve the volumes to container engines (Docker, Podman), as the volume plugin `larder`
    Plugin(PluginArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Say whether an engine may start the containers that it starts by itself (run by its unit)
    #[command(hide = true)]
    Guard(super::guard::GuardArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man(ManArgs),
    /// Serve a store (started by `mount`)
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// What a new volume and its root directory are like.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct NewVolumeArgs {
    /// Owner of its root directory, by number or name [default: the user who runs the command; for a clone, the owner of the source]
    #[arg(long, value_name = "USER", value_parser = crate::host::user)]
    pub(super) uid: Option<u32>,
    /// Group of its root directory, by number or name [default: that of the user who runs the command; for a clone, the group of the source]
    #[arg(long, value_name = "GROUP", value_parser = crate::host::group)]
    pub(super) gid: Option<u32>,
    /// Permissions of its root directory, octal [default: 755; for a clone, those of the source]
    #[arg(long, value_parser = parse_mode)]
    pub(super) mode: Option<u32>,
    /// A label; can be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(super) labels: Vec<(String, String)>,
    /// How long it stays in the trash when it is removed, such as 7d; 0 for not at all [default: 24h, or as configured]
    #[arg(long, value_name = "TIME", value_parser = crate::period::parse)]
    pub(super) trash: Option<std::time::Duration>,
    /// Do not let it be removed without --force, nor by container engines. `--sticky=false` makes one that is not sticky where
    /// larder.toml says that new volumes are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) sticky: Option<bool>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Name of the new volume
    pub(super) name: String,
    /// Begin as a copy of this volume, as `clone` does
    #[arg(long, value_name = "VOLUME[@SNAPSHOT]")]
    pub(super) from: Option<String>,
    /// Space that its files may occupy, such as 10G or 512MiB, or `none` [default: no limit, or the source's]
    #[arg(long, allow_hyphen_values = true, value_parser = parse_size_limit)]
    pub(super) size: Option<LimitChange>,
    /// Number of inodes that it may have, its root directory included, or `none` [default: one for each 16 KiB of --size, more in a
    /// small volume; or the source's]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = parse_inode_limit)]
    pub(super) inodes: Option<LimitChange>,
    /// Space that names, inodes and extended attributes may occupy beside --size, or `none` [default: an eighth of
    /// --size, more in a small volume; or the source's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_metadata_limit)]
    pub(super) metadata: Option<LimitChange>,
    #[command(flatten)]
    pub(super) new: NewVolumeArgs,
    /// Encrypt everything; asks for a passphrase unless another secret is given. `--encrypt=false` does not, where larder.toml says
    /// that new volumes are encrypted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) encrypt: Option<bool>,
    /// Also make a recovery key, and print it once
    #[arg(long)]
    pub(super) recovery_key: bool,
    /// (not finished) Keep a copy of everything in an object store: a URL of its own (s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY), a name from
    /// /etc/larder/remotes.toml, below which it gets a place under its name, or `none`
    #[arg(long, value_name = "REMOTE")]
    pub(super) remote: Option<String>,
    /// How far behind the remote may be, in seconds, as long as it can be reached [default: 5]
    #[arg(long, value_name = "SECONDS", requires = "remote", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) ship: Option<u64>,
    #[command(flatten)]
    pub(super) closely: CloselyArgs,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct CloneArgs {
    /// What to copy
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    pub(super) source: String,
    /// Name of the new volume
    pub(super) name: String,
    /// Its size limit, or `none` [default: the source's]
    #[arg(long, allow_hyphen_values = true, value_parser = parse_size_limit)]
    pub(super) size: Option<LimitChange>,
    /// Its inode limit, or `none` [default: the source's]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = parse_inode_limit)]
    pub(super) inodes: Option<LimitChange>,
    /// Its limit of metadata, or `none` [default: the source's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_metadata_limit)]
    pub(super) metadata: Option<LimitChange>,
    #[command(flatten)]
    pub(super) new: NewVolumeArgs,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The snapshot
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    pub(super) snapshot: String,
    /// Do it even while the volume is mounted; files that are open become stale (ESTALE)
    #[arg(long)]
    pub(super) live: bool,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The snapshot to begin with
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    pub(super) from: String,
    /// What to compare with it [default: the volume as it is]
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    pub(super) to: Option<String>,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResizeArgs {
    /// Name of the volume
    pub(super) name: String,
    /// The same as --size
    #[arg(value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size_given, conflicts_with = "size")]
    pub(super) new_size: Option<LimitChange>,
    /// The new size limit; by how much it changes, as +10G or -10G; or `none`
    #[arg(long, allow_hyphen_values = true, value_parser = parse_size_change)]
    pub(super) size: Option<LimitChange>,
    /// The new inode limit, a change as +N or -N, or `none`
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = parse_inode_change)]
    pub(super) inodes: Option<LimitChange>,
    /// The new limit of metadata, a change as +SIZE or -SIZE, or `none`
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_metadata_change)]
    pub(super) metadata: Option<LimitChange>,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Names of the volumes; of several, a list is printed
    #[arg(required = true)]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct MountArgs {
    /// Name of the volume
    #[arg(required_unless_present = "all")]
    pub(super) name: Option<String>,
    /// An empty directory [default: the volume's mountpoint, as `larder set NAME mountpoint=DIR` has recorded it, with its options]
    pub(super) dir: Option<PathBuf>,
    /// Mount all volumes that have a mountpoint recorded and are not mounted
    #[arg(short, long, conflicts_with_all = ["name", "foreground"])]
    pub(super) all: bool,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    /// Limit of the block cache, 1M or more [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_cache_size)]
    pub(super) cache_size: Option<u64>,
    /// Serve in this process, until the volume is unmounted
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Make the directory if it is missing
    #[arg(long)]
    pub(super) mkdir: bool,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct UmountArgs {
    /// A directory, or the name of a volume
    #[arg(value_name = "DIR|NAME", required_unless_present = "all")]
    pub(super) target: Option<PathBuf>,
    /// Unmount all volumes of the root, but those that containers use
    #[arg(short, long, conflicts_with = "target")]
    pub(super) all: bool,
    /// Unmount now, and clean up when nobody uses it any more
    #[arg(short, long)]
    pub(super) lazy: bool,
    /// With --all: also what programs and containers use. What they have written is kept, and from then on they get errors
    #[arg(short, long, requires = "all", conflicts_with_all = ["lazy", "target"])]
    pub(super) force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UpgradeArgs {
    /// Names of mounted volumes [default: all]
    pub(super) names: Vec<String>,
    /// The program that is to serve them, perhaps an older version [default: this one]
    #[arg(long, value_name = "FILE")]
    pub(super) program: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Which ones: label=KEY, label=KEY=VALUE, or label!=... for those without; can be given more than once
    #[arg(long, value_name = "FILTER", value_parser = super::prune::parse_filter)]
    pub(super) filter: Vec<super::prune::Filter>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) force: bool,
    /// Go by the container engines that answer: what only stopped containers of others need is removed, too
    #[arg(long)]
    pub(super) ignore_silent_engines: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DfArgs {
    /// Names of the volumes [default: all]
    pub(super) names: Vec<String>,
    /// Show inodes instead of space, as `df -i` does
    #[arg(short, long)]
    pub(super) inodes: bool,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct PluginArgs {
    /// The socket to listen on, unless systemd passes one on [default: /run/docker/plugins/larder.sock; of an ordinary user,
    /// $XDG_RUNTIME_DIR/larder/larder.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Mount volumes below this directory [default: mnt in the root]
    #[arg(long, value_name = "DIR")]
    pub(super) mount_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct ServeArgs {
    /// Id of the store
    pub(super) store: String,
    /// Limit of the block cache
    #[arg(long, value_parser = size::parse, default_value = "256M")]
    pub(super) cache_size: u64,
    /// Serve what the holder says over standard input, rather than being the holder
    #[arg(long)]
    pub(super) held: bool,
    /// Say what this version can take over, and end
    #[arg(long)]
    pub(super) offers: bool,
    /// Write messages to stderr, not to the log of the store
    #[arg(long)]
    pub(super) log_to_stderr: bool,
    /// What to ask the kernel for when memory runs out: see proc_pid_oom_score_adj(5)
    #[arg(long, allow_negative_numbers = true)]
    pub(super) oom_score: Option<i32>,
    /// Do not become the smaller program
    #[arg(long)]
    pub(super) itself: bool,
}

/// A size of a cache. Whoever writes 25 means megabytes.
pub(super) fn parse_cache_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes < 1 << 20 => {
            Err(format!("{text:?} is too little for a cache: the smallest is 1M; write it like 256M"))
        }
        bytes => Ok(bytes),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("{text:?} is not a mode; write it in octal, like 755 or 1777")),
    }
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !key.contains(char::is_control) => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => {
            Err(format!("{text:?} is not a label; write it as KEY=VALUE, without control characters in KEY"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!(parse_mode("1777"), Ok(0o1777));
        assert!(parse_mode("9").is_err() && parse_mode("17777").is_err());
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_label("a="), Ok(("a".into(), String::new())));
        for bad in ["a", "=b", "a\n=b", "\x1b[31m=b", "\u{9b}=b"] {
            assert!(parse_label(bad).is_err(), "{bad:?}");
        }
    }
}
