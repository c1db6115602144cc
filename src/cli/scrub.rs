//! `larder scrub`

use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::health::{Notes, now};
use crate::host::{ScrubJob, Scrubbed, remembered_secrets, scrub, store_of, time};
use crate::scheduling::be_gentle;
use crate::size;
use crate::store::StoreId;
use crate::volume::check::Fault;
use crate::volume::{Result, VolumeError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct ScrubArgs {
    /// Names of the volumes
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All volumes; encrypted ones whose secret is not known are left out unless they are mounted
    #[arg(long)]
    all: bool,
    /// Only those that were last read so long ago, such as 30d, and those that were interrupted
    #[arg(long, value_name = "TIME", value_parser = crate::period::parse)]
    due: Option<Duration>,
    /// Read no more than this in a second, such as 50M; 0: as much as the disk can give while nobody else uses it
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = size::parse)]
    rate: u64,
    #[command(flatten)]
    secret: SecretArgs,
}

impl ScrubArgs {
    /// Whether it is for what is due, of whatever there is, as a timer has it.
    pub(super) fn is_for_what_is_due(&self) -> bool {
        self.all && self.due.is_some()
    }
}

#[derive(Serialize)]
struct Printed {
    /// The volumes of the store.
    volumes: Vec<String>,
    clean: bool,
    started: String,
    finished: String,
    blocks: u64,
    /// Not if the metadata are so damaged that they do not say where contents are.
    contents_read: bool,
    faults: u64,
    found: Vec<Fault>,
}

pub(super) fn run(context: &Context, args: &ScrubArgs) -> CommandResult {
    be_gentle();
    let root = &context.root;
    let names = match args.all {
        true => root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?,
        false => args.names.clone(),
    };
    let mut exit = Exit::Ok;
    // A store is read once, whatever volumes it has.
    let mut stores: BTreeMap<StoreId, Vec<String>> = BTreeMap::new();
    for name in names {
        match store_of(root, &name) {
            Ok(id) => stores.entry(id).or_default().push(name),
            // All that an interrupted command left of a volume is its name.
            Err(e) if args.all && e.exit == Exit::NoVolume => {}
            Err(e) if args.all => exit = failed(&name, e),
            Err(e) => return Err(e),
        }
    }
    let mut due: Vec<(u64, StoreId, Vec<String>)> = Vec::new();
    for (id, names) in stores {
        let scrub = Notes::of(root, id).scrub;
        let last = scrub.last.map_or(0, |last| last.finished);
        let is_due = args.due.is_none_or(|due| last.saturating_add(due.as_secs()) <= now());
        if is_due || scrub.under_way.is_some() {
            due.push((last, id, names));
        }
    }
    // Those first that were not read for the longest time: what follows may not come to its turn.
    due.sort();
    let mut printed = Vec::new();
    for (_, id, names) in due {
        match one(context, args, id, &names) {
            Ok(scrubbed) => {
                if scrubbed.scrub.faults > 0 {
                    exit = Exit::Damaged;
                }
                if context.json {
                    printed.push(for_programs(names, scrubbed));
                } else {
                    print(&names, &scrubbed)?;
                }
            }
            Err(e) if args.all && e.exit == Exit::Secret => {
                output::warning(format!("volume {:?} is not read: {e}", names[0]));
            }
            Err(e) if exit == Exit::Damaged => drop(failed(&names[0], e)),
            Err(e) => exit = failed(&names[0], e),
        }
    }
    if context.json {
        output::json(&printed)?;
    }
    Ok(exit)
}

fn failed(name: &str, e: VolumeError) -> Exit {
    let exit = e.exit;
    output::error(e.context(&format!("volume {name:?} is not read")));
    exit
}

fn one(context: &Context, args: &ScrubArgs, id: StoreId, names: &[String]) -> Result<Scrubbed> {
    let (root, name) = (&context.root, names[0].as_str());
    let secret = match args.secret.named() {
        given if given.is_given() => given,
        asking if !args.all => match remembered_secrets(root, name, id)? {
            remembered if remembered.is_given() => remembered,
            _ => asking,
        },
        _ => remembered_secrets(root, name, id)?,
    };
    let mut bar = Progress::new();
    let job = ScrubJob { root, name, id, secret: &secret, rate: args.rate };
    scrub(job, &mut |at| bar.update("blocks", at.done, at.total))
}

fn for_programs(volumes: Vec<String>, scrubbed: Scrubbed) -> Printed {
    let Scrubbed { scrub, faults: found, has_read } = scrubbed;
    Printed {
        volumes,
        clean: scrub.faults == 0,
        started: time(scrub.started),
        finished: time(scrub.finished),
        blocks: scrub.blocks,
        contents_read: has_read,
        faults: scrub.faults,
        found,
    }
}

fn print(names: &[String], scrubbed: &Scrubbed) -> Result<()> {
    let Scrubbed { scrub, faults, has_read } = scrubbed;
    for fault in faults {
        output::line(&format!("fault: {}", fault.message))?;
    }
    let more = scrub.faults.saturating_sub(faults.len() as u64);
    if more > 0 && !faults.is_empty() {
        output::line(&format!("and {}", output::counted(more, "more fault")))?;
    }
    let verdict = match scrub.faults {
        0 => "clean".to_owned(),
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    let took = humantime::format_duration(Duration::from_secs(scrub.finished.saturating_sub(scrub.started)));
    let names = names.join(", ");
    output::line(&match has_read {
        true => format!("{names}: {verdict}; {} read in {took}", output::counted(scrub.blocks, "block")),
        false => format!("{names}: {verdict}; contents not read, because the metadata are damaged"),
    })
}
